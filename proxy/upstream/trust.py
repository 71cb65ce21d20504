"""Trust: whether WebSockets can be had for one set of credentials, and whether they carry turns to their end.

Upgrades that fail and turns that are lost may be the network's doing, so plain HTTP is used for a while, for
longer each time, and never for good. What goes wrong for several turns at the same time went wrong once.

    trusted -> turns lost in a row -> suspect, plain HTTP -> one turn tries -> trusted
                                          ^                        |
                                          +---- for longer --------+
"""

from collections.abc import Callable, Iterator
from math import inf

from proxy.upstream.backoff import pauses

FIRST_PAUSE = 10.0
"""Seconds before upstream is asked for a WebSocket again, after a failure that is no verdict on WebSockets."""

FIRST_SUSPICION = 30.0
"""How long plain HTTP is used at first after WebSockets that opened, and were lost under every turn."""

SWALLOWED = 2
"""After so many upgrades in a row that were met with silence, turns do not wait for the next one."""

TRIAL_SECONDS = 30.0
"""How long others use plain HTTP while one turn tries a WebSocket again."""


class Trust:
    """What was seen of upstream's WebSockets. Times are those of a monotonic clock, in seconds.

    *longest* is how long plain HTTP is used at most before a WebSocket is tried again; *jitter* returns numbers
    from 0 to 1. *has_carried* says that a turn was answered over one.
    """

    def __init__(self, jitter: Callable[[], float], longest: float) -> None:
        self.has_carried = False
        self._jitter = jitter
        self._longest = longest
        self._refused_until = self._no_more_until = self._suspect_until = -inf
        self._pauses: Iterator[float] | None = None
        self._paused_at = -inf
        self._swallowed = 0
        self._lost, self._lost_at = 0, -inf
        self._suspicions: Iterator[float] | None = None

    def allows(self, now: float) -> bool:
        """Whether a turn may go over a WebSocket."""
        return now >= self._refused_until and now >= self._suspect_until

    def has_room(self, now: float) -> bool:
        """Whether upstream did not refuse another WebSocket lately."""
        return now >= self._no_more_until

    @property
    def is_shaken(self) -> bool:
        """Whether the last attempt to open one failed, or those that were open are suspect."""
        return self._pauses is not None or self.is_suspect

    @property
    def is_suspect(self) -> bool:
        """Whether turn after turn was lost, and none has come to its end since."""
        return self._suspicions is not None

    @property
    def is_swallowed(self) -> bool:
        """Whether upgrades were met with silence, again and again: each holds up whoever waits for it."""
        return self._swallowed >= SWALLOWED

    # Upgrades

    def opened(self) -> None:
        """Take note that one opened: there is a way, whatever others met."""
        self._pauses = None
        self._swallowed = 0
        self._refused_until = self._no_more_until = -inf

    def refused(self, now: float) -> None:
        """Take note that upstream has none."""
        self._refused_until = now + self._longest

    def not_now(self, now: float, *, began: float) -> None:
        """Take note that an upgrade was refused without a verdict: by somebody in between, or as one too many.

        One that *began* before the last failure was noted is part of that failure.
        """
        if began > self._paused_at:
            self._no_more_until = now + self._pause(now)

    def broke_off(self, now: float, *, began: float, silent: bool) -> None:
        """Take note that an upgrade was broken off, or was met with silence (*silent*).

        The first that is broken off is no pattern yet. After a second one, or after silence, something swallows
        upgrades or the link is dark: the next turns go over plain HTTP rather than wait for it too. One that
        *began* before the last failure was noted is part of that failure.
        """
        if began <= self._paused_at:
            return
        self._swallowed = self._swallowed + 1 if silent else 0
        if silent or self._pauses is not None:
            self._refused_until = max(self._refused_until, now + self._pause(now))
        else:
            self._pauses, self._paused_at = self._series(FIRST_PAUSE), now

    def _pause(self, now: float) -> float:
        self._pauses, self._paused_at = self._pauses or self._series(FIRST_PAUSE), now
        return next(self._pauses)

    def _series(self, first: float) -> Iterator[float]:
        return pauses(self._jitter, first=first, most=self._longest)

    # Turns

    def begin(self, now: float) -> None:
        """Take note that a turn goes over a WebSocket now: where they are suspect, this is the trial."""
        if self.is_suspect:
            self._suspect_until = now + TRIAL_SECONDS

    def lost(self, now: float, *, opened: float, enough: int) -> None:
        """Take note of a turn that did not come to its end on a WebSocket *opened* then.

        After *enough* in a row something may be closing or swallowing every WebSocket that is used.
        """
        if opened < self._lost_at:
            return  # it was lost together with the last one
        self._lost, self._lost_at = self._lost + 1, now
        if self._lost >= enough or self.is_suspect:
            self._suspicions = self._suspicions or self._series(FIRST_SUSPICION)
            self._suspect_until = now + next(self._suspicions)

    def done(self) -> None:
        """Take note that a turn had its answer over a WebSocket."""
        self.has_carried = True
        self._lost, self._suspicions, self._suspect_until = 0, None, -inf
