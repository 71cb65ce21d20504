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

_LARGE = 1000
"""Smaller members cost little either way, in bytes."""

_MOVED = 2
"""How many of the largest members are moved, besides `input`: instructions and tools, as a rule."""

_BLIND = 262
"""zlib finds nothing in the last bytes of its window (MIN_LOOKAHEAD in its sources)."""

_NEXT_INPUT = 2000
"""What the turn after is taken to add, in bytes; agents' turns add 0.3 to 8 KB."""

_NEW = "input"
"""The member that is new in each message."""

Piece = tuple[str, int]
"""The name of a member, and its size in bytes."""


class Layout:
    """The order of members, chosen by what the *window*, in bytes, of one compressor holds of earlier messages."""

    def __init__(self, window: int) -> None:
        self._past = _Past(window - _BLIND)

    def arrange(self, message: Message) -> bytes:
        """Write *message*, which is sent next, in the order that loses least of what went before.

        One turn is looked ahead: all of a first message is new, but what it ends with can be found by the next.
        Where orders are equal, the message keeps its own.
        """
        sizes = {name: len(member) + 1 for name, member in message.members.items()}
        moved = _moved(sizes)
        front = [(name, size) for name, size in sizes.items() if name not in moved]
        past = self._past.followed_by(front)
        _, order = _choice(past, [(name, sizes[name]) for name in sizes if name in moved], front)
        self._past = past.followed_by(order)
        return message.ordered(name for name, _ in (*front, *order))


@dataclass(frozen=True, slots=True)
class _Past:
    """What was compressed: *length* bytes, with each member last at one of *places*; *reach* of them are found."""

    reach: int
    length: int = 0
    places: Mapping[str, int] = field(default_factory=dict)

    def followed_by(self, pieces: Sequence[Piece]) -> "_Past":
        """Return what the past will be when *pieces* are compressed."""
        length, places = self.length, dict(self.places)
        for name, size in pieces:
            places[name] = length
            length += size
        return _Past(self.reach, length, places)

    def loss(self, pieces: Sequence[Piece]) -> int:
        """Return how many bytes of *pieces* would be out of reach, or are new though they need not be."""
        lost, at = 0, self.length
        for name, size in pieces:
            if name != _NEW and at - self.places.get(name, -self.reach - 1) > self.reach:
                lost += size
            at += size
        return lost


def _moved(sizes: Mapping[str, int]) -> frozenset[str]:
    """Return which members of these *sizes* are put in order; the rest comes first as it is."""
    large = sorted((name for name in sizes if sizes[name] >= _LARGE and name != _NEW), key=sizes.__getitem__)
    return frozenset((*large[-_MOVED:], _NEW)) if large else frozenset()


def _choice(past: _Past, pieces: Sequence[Piece], front: Sequence[Piece] | None) -> tuple[int, Sequence[Piece]]:
    """Return what is lost in the best order of *pieces*, and that order.

    With *front*, what the next turn begins with, its loss is included.
    """
    best: tuple[int, Sequence[Piece]] | None = None
    for order in permutations(pieces):
        lost = past.loss(order)
        if front is not None:
            after = past.followed_by(order).followed_by(front)
            following = [(name, size if name != _NEW else _NEXT_INPUT) for name, size in pieces]
            lost += _choice(after, following, None)[0]
        if best is None or lost < best[0]:
            best = lost, order
        if not lost:
            break
    return best or (0, pieces)
