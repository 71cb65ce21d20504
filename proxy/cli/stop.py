"""Stop: the wish to end, as signals express it."""

import asyncio
import signal
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any, Self, TypeVar

import click

Result = TypeVar("Result")

SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK") if hasattr(signal, name)]
"""What asks for the end: Ctrl-C, whoever starts and stops programs, and a terminal that is closed."""

_HANGUP = getattr(signal, "SIGHUP", None)


class Stop:
    """Listens for signals while it is entered: the first one asks for an end, a second one for an end at once.

    *asked* is called each time.
    """

    def __init__(self, asked: Callable[[], object] = lambda: None) -> None:
        self._asked = asked
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
        self._asked()

    def hang_up(self) -> None:
        """Ask for the end, and no more than that: shells say what the system has said already."""
        if not self.requested:
            self._requested.set()
            self._asked()

    @property
    def requested(self) -> bool:
        """Whether somebody has asked for the end."""
        return self._requested.is_set()

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


async def stoppable(work: Coroutine[Any, Any, Result]) -> Result:
    """Return what *work* does. Raises click.Abort where somebody asks for the end first, once it has tidied up."""
    task = asyncio.current_task()
    assert task is not None  # noqa: S101  (we are in a coroutine)
    with Stop(task.cancel) as stop:
        try:
            return await work
        except asyncio.CancelledError as exc:
            if not stop.requested:
                raise
            raise click.Abort from exc


def _is_ignored(number: signal.Signals) -> bool:
    """Whether whoever started us wants us to go on (`nohup`)."""
    return signal.getsignal(number) is signal.SIG_IGN
