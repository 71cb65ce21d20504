"""One-offs: which kinds of conversation are over with their first answer, such as titles and summaries."""

from proxy.core.items import Fingerprint
from proxy.upstream.newest import Newest

_ENOUGH = 2
"""So many of a kind have to end before the next is taken for one that will."""


class OneOffs:
    """What was seen with one set of credentials. Kinds are `TurnRequest.kind`; None is nobody's."""

    def __init__(self) -> None:
        self._ended = Newest[Fingerprint, int]()

    def ended(self, kind: Fingerprint | None) -> None:
        """Take note of a conversation that has been answered once, and may be over."""
        if kind is not None and self._ended.get(kind, 0) >= 0:
            self._ended[kind] = self._ended.get(kind, 0) + 1

    def went_on(self, kind: Fingerprint | None) -> None:
        """Take note that one was not: none of its kind is taken for over any more."""
        if kind is not None:
            self._ended[kind] = -1

    def __contains__(self, kind: object) -> bool:
        return isinstance(kind, bytes) and self._ended.get(kind, 0) >= _ENOUGH
