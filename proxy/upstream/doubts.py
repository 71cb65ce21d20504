"""Doubts: what some services refuse over a WebSocket, or fail at, and take over HTTP.

HTTP is the judge: only what fared better there is sent there at once, and for a while.
"""

from dataclasses import dataclass

from proxy.core.delta import Mismatch
from proxy.upstream.newest import Newest


@dataclass(frozen=True, slots=True)
class Doubt:
    """Requests that may fare better over HTTP, with the *reason* for then using it.

    They are those of one form (with a null, or translated from Chat), which may be that of one *model*, or those
    of one conversation (*session*).
    """

    reason: Mismatch
    model: str = ""
    session: str = ""


class Doubts:
    """What was seen of them with one set of credentials. Times in seconds, by a monotonic clock."""

    def __init__(self) -> None:
        self._over_http_until = Newest[Doubt, float]()
        self._accepted_at = Newest[Doubt, float]()
        self._asked_until = Newest[Doubt, float]()
        self._fared_better = Newest[Doubt, int]()

    def goes_over_http(self, doubt: Doubt, now: float) -> bool:
        """Whether requests in this *doubt* go over HTTP at once for now."""
        return now < self._over_http_until.get(doubt, now)

    def accepted(self, doubt: Doubt, now: float) -> None:
        """Take note that upstream took such a request over a WebSocket."""
        self._accepted_at[doubt] = now

    def refused(self, doubt: Doubt, now: float, off_seconds: float) -> None:
        """Take note that upstream refused such a request over a WebSocket, and took it over HTTP.

        It is believed for *off_seconds*. If upstream took another less than *off_seconds* ago, the fault was in
        that one request, and nothing follows for others.
        """
        if doubt not in self._accepted_at or now - self._accepted_at[doubt] >= off_seconds:
            self._over_http_until[doubt] = now + off_seconds

    def is_to_be_asked(self, doubt: Doubt, now: float, off_seconds: float) -> bool:
        """Whether HTTP should be asked, too, for what failed over a WebSocket; not again for *off_seconds*.

        Where HTTP fares no better, what is wrong costs one upload more in that time.
        """
        if now < self._asked_until.get(doubt, now):
            return False
        self._asked_until[doubt] = now + off_seconds
        return True

    def fared_better(self, doubt: Doubt, until: float, *, enough: int) -> None:
        """Take note that HTTP answered what failed over a WebSocket: after *enough* times it is used at once.

        That is until the clock shows *until*.
        """
        self._asked_until.pop(doubt, None)
        times = self._fared_better.pop(doubt, 0) + 1
        if times >= enough:
            self._over_http_until[doubt] = until
        else:
            self._fared_better[doubt] = times
