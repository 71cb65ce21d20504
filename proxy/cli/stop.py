"""Stop: the wish to end, as signals express it."""

import asyncio
import signal
from collections.abc import Awaitable
from contextlib import suppress
from typing import Any, Self

SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK") if hasattr(signal, name)]
"""What asks for the end: Ctrl-C, whoever starts and stops programs, and a terminal that is closed."""

_HANGUP = getattr(signal, "SIGHUP", None)


class Stop:
    """Listens for signals while it is entered: the first one asks for an end, a second one for an end at once."""

    def __init__(self) -> None:
        self._requested = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._drain: asyncio.Timeout | None = None
        self._former: dict[signal.Signals, Any] = {}
        self._signals = [each for each in SIGNALS if each != _HANGUP or not _is_ignored(each)]

    def __enter__(self) -> Self:
        for number in self._signals:
            try:
                self._loop.add_signal_handler(number, self.hang_up if number == _HANGUP else self.request)
            except NotImplementedError:  # Windows
                self._former[number] = signal.signal(number, self._from_any_thread)
        return self

    def __exit__(self, *exc_info: object) -> None:
        for number in self._signals:
            if number in self._former:
                signal.signal(number, self._former[number])
            else:
                self._loop.remove_signal_handler(number)

    def request(self) -> None:
        """Ask for the end; asking again cuts the drain short."""
        if self._drain is not None and not self._drain.expired():
            self._drain.reschedule(self._loop.time())
        self._requested.set()

    def hang_up(self) -> None:
        """Ask for the end, and no more than that: shells say what the system has said already."""
        self._requested.set()

    async def wait(self) -> None:
        """Wait until somebody asks for the end."""
        await self._requested.wait()

    async def patiently(self, drain: Awaitable[None]) -> None:
        """Await *drain*, or as much of it as the person who stops us has patience for."""
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(None) as self._drain:
                    await drain
        finally:
            self._drain = None

    def _from_any_thread(self, *_signal: object) -> None:
        self._loop.call_soon_threadsafe(self.request)


def _is_ignored(number: signal.Signals) -> bool:
    """Whether whoever started us wants us to go on (`nohup`)."""
    return signal.getsignal(number) is signal.SIG_IGN
