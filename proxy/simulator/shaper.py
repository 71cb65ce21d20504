"""Shaper: bytes held back to a rate, as on a slow link."""

import asyncio
from collections.abc import Callable

Buffer = bytes | bytearray | memoryview
TICK_SECONDS = 0.01


class Shaper:
    """Lets bytes pass at a *rate* (None: at once), in order, to *deliver*."""

    def __init__(self, rate: Callable[[], float | None], deliver: Callable[[bytes], None]) -> None:
        self._rate = rate
        self._deliver = deliver
        self._loop = asyncio.get_running_loop()
        self._waiting = bytearray()
        self._last = self._loop.time()
        self._timer: asyncio.TimerHandle | None = None
        self.on_progress: Callable[[], None] | None = None

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, data: Buffer) -> None:
        """Let *data* pass after what waits already."""
        if not self._waiting:
            if self._rate() is None:
                self._deliver(bytes(data))
                return
            self._last = self._loop.time()
        self._waiting += data
        if self._timer is None:
            self._timer = self._loop.call_later(TICK_SECONDS, self._tick)

    def clear(self) -> None:
        """Forget what waits."""
        self._waiting.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _tick(self) -> None:
        now, rate = self._loop.time(), self._rate()
        allowed = len(self._waiting) if rate is None else int((now - self._last) * rate)
        self._timer = None
        if allowed:
            self._last = now
            data = bytes(self._waiting[:allowed])
            del self._waiting[:allowed]
            self._deliver(data)
        if self._waiting:
            self._timer = self._loop.call_later(TICK_SECONDS, self._tick)
        if self.on_progress is not None:
            self.on_progress()
