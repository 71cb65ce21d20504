"""Layout: the order in which a message's members are written, so that compression finds what it has seen.

Instructions and tools go up again with each turn. They cost next to nothing as long as the ones before are in the
compressor's window, the last 32 KiB, and their whole size once they are not. How far back they are is a matter of
order: before an input of megabytes they are out of the next turn's reach, behind it they are not. And of settings
larger than the window a part is always found where each message begins with what ended the one before.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import permutations

from proxy.core.message import Message

_BLIND = 262
"""zlib finds nothing in the last bytes of its window (MIN_LOOKAHEAD in its sources)."""

_NEW = "input"
"""The member that is new in each message."""

Piece = tuple[str, int]
"""The name of a member, and its size in bytes, with the comma or the brace behind it."""


class Layout:
    """The order of members, chosen by what the *window*, in bytes, of one compressor holds of earlier messages."""

    def __init__(self, window: int) -> None:
        self._past = _Past(window - _BLIND)

    def arrange(self, message: Message) -> bytes:
        """Write *message*, which is sent next, in the order that loses least of what went before.

        One turn is looked ahead: all of a first message is new, but what it ends with can be found by the next.
        Where orders are equal, the message keeps its own.
        """
        pieces = [(name, place.stop - place.start + 1) for name, place in message.places.items()]
        order = _choice(self._past, message.begins, pieces)
        self._past = self._past.followed_by(message.begins, order)
        return message.ordered([name for name, _ in order])


@dataclass(frozen=True, slots=True)
class _Past:
    """What was compressed: *length* bytes, with each member last at one of *places*; *reach* of them are found."""

    reach: int
    length: int = 0
    places: Mapping[str, int] = field(default_factory=dict)

    def followed_by(self, front: int, order: Sequence[Piece]) -> "_Past":
        """Return what the past will be after a message with *front* bytes, and its pieces in *order*."""
        at, places = self.length + front, dict(self.places)
        for name, size in order:
            places[name] = at
            at += size
        return _Past(self.reach, at, places)

    def loss(self, front: int, order: Sequence[Piece]) -> int:
        """Return how many bytes of such a message are out of reach, or are new though they need not be."""
        lost, at = 0, self.length + front
        for name, size in order:
            if name != _NEW and at - self.places.get(name, -self.reach - 1) > self.reach:
                lost += size
            at += size
        return lost


def _choice(past: _Past, front: int, pieces: Sequence[Piece]) -> Sequence[Piece]:
    """Return the first order of *pieces* by which this message and the next, its input last, lose least."""
    again = list(permutations(piece for piece in pieces if piece[0] != _NEW))
    best, least = pieces, -1
    for order in permutations(pieces):
        after = past.followed_by(front, order)
        lost = past.loss(front, order) + min(after.loss(front, following) for following in again)
        if least < 0 or lost < least:
            best, least = order, lost
        if not lost:
            break
    return best
