"""Progress: a deadline that does not pass while bytes go on to be taken."""

import asyncio
from collections.abc import Callable

_MOST_LATE = 1.0
"""Seconds from a change to the look that sees it."""


class Progress:
    """Pushes *deadline* back to *limit* seconds from now whenever the number that *arrived* returns has changed.

    That may be the bytes that have arrived, or those that have not: a slow upload is not a stuck one. A context
    manager; it looks four times in each *limit*, and each second, so that the deadline passes no later than that.
    """

    def __init__(self, deadline: asyncio.Timeout, limit: float, arrived: Callable[[], int]) -> None:
        self._deadline = deadline
        self._limit = limit
        self._arrived = arrived

    def __enter__(self) -> None:
        self._before = self._arrived()
        self._look_later()

    def __exit__(self, *exc_info: object) -> None:
        self._timer.cancel()

    def _look_later(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(min(self._limit / 4, _MOST_LATE), self._look)

    def _look(self) -> None:
        arrived = self._arrived()
        if arrived != self._before and not self._deadline.expired():
            self._deadline.reschedule(asyncio.get_running_loop().time() + self._limit)
        self._before = arrived
        self._look_later()
