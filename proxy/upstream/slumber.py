"""Slumber: the silence after which something in between forgets a connection.

Some middleboxes drop what crosses a connection that was idle for seconds, without a word. Where an accelerator
acknowledges in upstream's place, as on satellites, nothing but a missing pong tells.
"""

from math import inf

BELIEVED_SECONDS, BELIEVED_LONGEST = 600.0, 4800.0
"""For how long one such silence is believed, and for how long at most: twice as long with each further one."""

_SHORTEST = 5.0
"""Seconds below which a silence says nothing: other things end connections too."""


class Slumber:
    """What was seen of silences that connections did not outlive. Times in seconds, by a monotonic clock."""

    def __init__(self) -> None:
        self._fatal = inf
        self._belief = BELIEVED_SECONDS
        self._lost_at = self._until = -inf

    def lost(self, silence: float, now: float) -> None:
        """Take note of a connection on which nothing came through any more after a *silence*.

        One that was silent already when the last one was lost adds nothing: what ends a link takes all of them.
        """
        if silence < _SHORTEST or now - silence < self._lost_at:
            return
        self._fatal = min(silence, self._fatal if now < self._until else inf)
        self._until = now + self._belief
        self._belief = min(2 * self._belief, BELIEVED_LONGEST)
        self._lost_at = now

    def survived(self, silence: float) -> None:
        """Take note of a connection that went on after a *silence*: longer ones than that are what is fatal."""
        if silence >= self._fatal:
            self._fatal, self._belief = inf, BELIEVED_SECONDS

    def rhythm(self, now: float) -> float:
        """Return how long a connection may be silent before it is pinged; infinity where nothing is known."""
        return max(self._fatal / 2, _SHORTEST) if now < self._until else inf
