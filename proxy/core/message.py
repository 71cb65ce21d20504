"""Message: what is sent to upstream, a JSON object whose large members can be written in any order."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

LARGE = ("instructions", "tools", "input")
"""The members that may come to more than a few hundred bytes, as a rule."""


@dataclass(frozen=True, slots=True, repr=False)
class Message:
    """A JSON object as it is *written*: small members first, then large ones, which are at *places* in it.

    The order of members says nothing in JSON (RFC 8259, section 4), so whoever sends a message may choose the
    one that compresses best. Its length is the same in every order.
    """

    written: bytes
    places: Mapping[str, slice]

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> "Message":
        """Write *fields*, those of LARGE last."""
        large = {name: fields[name] for name in LARGE if name in fields}
        small = {name: value for name, value in fields.items() if name not in large}
        written = orjson.dumps({**small, **large})
        begin = len(orjson.dumps(small)) if small else 1
        places: dict[str, slice] = {}
        for name, value in large.items():
            last = len(places) == len(large) - 1  # the history, which may be megabytes: not written twice
            end = len(written) - 1 if last else begin + len(orjson.dumps({name: value})) - 2
            places[name] = slice(begin, end)
            begin = end + 1
        return cls(written, places)

    @property
    def begins(self) -> int:
        """The byte at which the first large member begins; the place of the closing brace where there is none."""
        return next((place.start for place in self.places.values()), len(self.written) - 1)

    def ordered(self, names: Sequence[str]) -> bytes:
        """Write it with its large members, all of *names*, in that order."""
        if tuple(names) == tuple(self.places):
            return self.written
        view = memoryview(self.written)
        pieces = [view[: self.begins]]
        for name in names:
            pieces += (view[self.places[name]], view[-1:] if name == names[-1] else memoryview(b","))
        return b"".join(pieces)

    def __len__(self) -> int:
        """Return the bytes it takes on a connection that does not compress."""
        return len(self.written)

    def __bytes__(self) -> bytes:
        return self.written

    def __repr__(self) -> str:
        return f"<Message of {len(self)} bytes>"
