"""Race: attempts at one thing, side by side, until one of them succeeds."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Generic, Self, TypeVar

from proxy.upstream.background import Background

Won = TypeVar("Won")
Failed = TypeVar("Failed", bound=Exception)


class Race(Generic[Won, Failed]):
    """Attempts that return what they are for, or why they failed; *name* is their tasks'.

    Leaving it ends those that are under way; *let_go* gets what one of them brings all the same.
    """

    def __init__(self, name: str, let_go: Callable[[Won], None]) -> None:
        self._name = name
        self._let_go = let_go
        self._running = Background()
        self._attempts: set[asyncio.Task[Won | Failed]] = set()

    def start(self, attempt: Coroutine[None, None, Won | Failed]) -> None:
        """Begin another."""
        self._attempts.add(self._running.start(attempt, self._name))

    @property
    def goes_on(self) -> bool:
        """Whether an attempt is under way, or over and not yet told of."""
        return bool(self._attempts)

    async def next(self, limit: float) -> Won | Failed | None:
        """Return what came of an attempt that is over; None where none is within *limit* seconds."""
        limit = max(limit, 0)
        if not self._attempts:
            await asyncio.sleep(limit)
            return None
        over, _ = await asyncio.wait(self._attempts, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
        if not over:
            return None
        one = min(over, key=lambda each: isinstance(each.result(), Exception))
        self._attempts.remove(one)
        return one.result()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        for each in self._attempts:
            each.cancel()
            each.add_done_callback(self._discard)

    def _discard(self, attempt: "asyncio.Task[Won | Failed]") -> None:
        if attempt.cancelled() or attempt.exception() is not None:
            return
        late = attempt.result()
        if not isinstance(late, Exception):
            self._let_go(late)
