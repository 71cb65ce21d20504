"""Layout: the order in which a message's members are written, so that compression finds what it has seen.

Instructions and tools go up again with each turn. They cost next to nothing as long as the ones before are in the
compressor's window, the last 32 KiB, and their whole size once they are not. How far back they are is a matter of
order: before an input of megabytes they are out of the next turn's reach, behind it they are not. And of settings
larger than the window a part is always found where each message begins with what ended the one before.

A block of deflate has one code for all that is in it. Settings that are found are nothing but references of one
length and one distance, which cost 15 bits each in a block of their own and 17 or 18 in one with text.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise, permutations
from typing import NamedTuple

from proxy.core.message import Message

_BLIND = 262
"""zlib finds nothing in the last bytes of its window (MIN_LOOKAHEAD in its sources)."""

_NEW = "input"
"""The member that is new in each message."""

_ALIKE = 8000
"""Bytes of settings that are worth a block of their own: 31 references save 10 bytes, a block begins with 15."""

_APART = 1000
"""Bytes of anything else that are worth one: less does better in a block that has settings in it."""

Piece = tuple[str, int]
"""The name of a member, and its size in bytes, with the comma or the brace behind it."""


class Arranged(NamedTuple):
    """A message as it is *written*, and the bytes at which it is *cut*: each part is best in its own block."""

    written: bytes
    cuts: Sequence[int]


class Layout:
    """The order of members, chosen by what the *window*, in bytes, of one connection holds of earlier messages."""

    def __init__(self, window: int) -> None:
        self._past = _Past(window - _BLIND)

    def arrange(self, message: Message) -> Arranged:
        """Write *message*, which is sent next, in the order that loses least of what went before.

        One turn is looked ahead: all of a first message is new, but what it ends with can be found by the next.
        Where orders are equal, the message keeps its own.
        """
        pieces = [(name, place.stop - place.start + 1) for name, place in message.places.items()]
        past, front = self._past, message.begins
        order = _choice(past, front, pieces)
        self._past = past.followed_by(front, order)
        return Arranged(message.ordered([name for name, _ in order]), past.cuts(front, order))


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
        lost, at = 0, front
        for name, size in order:
            if name != _NEW and not self._finds(name, at):
                lost += size
            at += size
        return lost

    def cuts(self, front: int, order: Sequence[Piece]) -> Sequence[int]:
        """Return where such a message is cut: between settings that are found, and what is new in it or lost."""
        runs: list[tuple[bool, int]] = []  # alternately found and not, and of how many bytes
        at = front
        for name, size in order:
            found = name != _NEW and self._finds(name, at)
            before = runs.pop()[1] if runs and runs[-1][0] is found else 0
            runs.append((found, before + size))
            at += size
        cuts = []
        at = front
        for (found, size), (_, other) in pairwise(runs):
            at += size
            alike, apart = (size, other) if found else (other, size)
            if alike >= _ALIKE and apart >= _APART:
                cuts.append(at)
        return cuts

    def _finds(self, name: str, at: int) -> bool:
        """Tell whether the member *name*, at this byte of the next message, is found where it was last."""
        return self.length + at - self.places.get(name, -self.reach - 1) <= self.reach


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
