"""Lifespan: the age at which something in between closes WebSockets, whatever goes on there.

Load balancers and middleboxes have such limits, in seconds or minutes, and take the turn under way along. Links
that come and go close connections at any age.
"""

from collections import deque
from math import inf

ENOUGH = 3
"""Turns in a row that were lost at the same age."""

BELIEVED_SECONDS = 3600.0
"""For how long such an age is believed. One more turn that is lost there renews it."""

_SHORTEST = 4.0
"""Seconds below which an age says nothing: what is lost so young is left to `trust`."""

_EXACT, _SECONDS = 0.05, 1.0
"""By how much ages may differ that are the same: a part of them, or so many seconds."""

_TURNS = 8
"""The latest turns, whose longest tells how long the next one may take."""


class Lifespan:
    """What was seen of the ages at which connections were lost. Times in seconds, by a monotonic clock."""

    def __init__(self) -> None:
        self._age = 0.0
        self._times = 0
        self._lost_at = self._until = -inf
        self._took: deque[float] = deque([0.0], maxlen=_TURNS)

    def lost(self, age: float, now: float, *, turn: float) -> None:
        """Take note of a *turn* of so many seconds that was lost as its connection was closed at this *age*.

        One that was open already when the last one was lost says nothing: what ends a link takes all of them.
        Nor does one that was as young as its turn: it may be the turn, or its silence, that took too long.
        """
        if age < _SHORTEST or now - age < self._lost_at:
            return
        self._lost_at = now
        if turn > age - _leeway(age):
            return
        if abs(age - self._age) > _leeway(self._age):
            self._times = 0
        self._times += 1
        self._age = min(age, self._age) if self._times > 1 else age
        if self._times >= ENOUGH:
            self._until = now + BELIEVED_SECONDS

    def done(self, seconds: float, *, age: float) -> None:
        """Take note of a turn that took so many *seconds* and came to its end on a connection of this *age*."""
        self._took.append(seconds)
        if age > self._age + _leeway(self._age):
            self._times = 0  # nothing has closed this one there

    def best_before(self, now: float) -> float:
        """Return the age from which on a connection should carry no further turn; infinity if none is known."""
        if self._times < ENOUGH or now >= self._until:
            return inf
        return max(self._age - _leeway(self._age) - max(self._took), self._age / 2)


def _leeway(age: float) -> float:
    return max(_EXACT * age, _SECONDS)
