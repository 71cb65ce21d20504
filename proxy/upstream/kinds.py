"""Kinds: what becomes of conversations, by the kind of request that was answered last.

A title, a summary or a sub-agent's task is over with its answer. A suggestion for what to type next goes on with a
conversation, which then goes on from where it was before; where it has the conversation's own settings, it is
known by its words.
"""

from proxy.core.affinity import Habits
from proxy.core.items import Fingerprint
from proxy.upstream.newest import Newest

_ENOUGH = 2
"""So many of a kind have to end before the next is taken for one that will.

And so many more go aside for each time that an agent came back, before none does any more.
"""

_AT_ONCE = 8
"""So many go aside at most without anybody coming back: several conversations may wait for their users at once."""


class Kinds:
    """What was seen with one set of credentials.

    A kind is `TurnRequest.kind`, a way one or `TurnRequest.errand`, as `affinity.way_on` tells.
    """

    def __init__(self) -> None:
        self._ended = Newest[Fingerprint, int]()
        self._aside = Newest[Fingerprint, int]()

    def habits(self, *, may_go_aside: bool = True) -> Habits:
        """Return what agents do: what several did with a kind and none did otherwise, or one did and came back."""
        over = {kind for kind, ended in self._ended.items() if ended >= _ENOUGH}
        aside = {way for way, left in self._aside.items() if left > 0 and self._ended.get(way, 0) >= 0}
        return Habits(over, aside if may_go_aside else frozenset())

    def ended(self, kind: Fingerprint) -> None:
        """Take note of a conversation that has its answer, and may be over."""
        if self._ended.get(kind, 0) >= 0:
            self._ended[kind] = self._ended.get(kind, 0) + 1

    def went_on(self, kind: Fingerprint, errand: Fingerprint | None = None) -> None:
        """Take note that one was not: none of its kind, nor with its *errand*, is taken for over any more."""
        self._ended[kind] = -1
        if errand is not None and errand in self._aside:
            self._ended[errand] = -1

    def led_aside(self, way: Fingerprint) -> None:
        """Take note that an agent came back to where it was before it went this way."""
        self._aside[way] = min(self._aside.get(way, 0) + _ENOUGH, _AT_ONCE)

    def went_aside(self, way: Fingerprint) -> None:
        """Take note of such a request that left a conversation where it is, which may come back there, or not."""
        self._aside[way] = self._aside.get(way, 0) - 1
