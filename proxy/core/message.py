"""Message: what is sent to upstream, a JSON object whose members can be written in any order."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import orjson


@dataclass(frozen=True, repr=False)
class Message:
    """A JSON object, its *members* written one by one: `{"store": b'"store":false'}`.

    The order of members says nothing in JSON (RFC 8259, section 4), so whoever sends a message may choose the
    one that compresses best. Its length is the same in every order.
    """

    members: Mapping[str, bytes | memoryview]

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> "Message":
        """Write each of *fields*."""
        return cls({name: memoryview(orjson.dumps({name: value}))[1:-1] for name, value in fields.items()})

    @cached_property
    def _length(self) -> int:
        return len("{}") + sum(map(len, self.members.values())) + max(0, len(self.members) - 1)

    def __len__(self) -> int:
        """Return the bytes it takes on a connection that does not compress."""
        return self._length

    def __bytes__(self) -> bytes:
        """Write it in the order of its members."""
        return self.ordered(self.members)

    def ordered(self, names: Iterable[str]) -> bytes:
        """Write it in the order of *names*, which are those of all its members."""
        pieces: list[bytes | memoryview] = [b"{"]
        for name in names:
            pieces += (self.members[name], b",")
        pieces[max(1, len(pieces) - 1) :] = [b"}"]
        return b"".join(pieces)  # a history of megabytes is copied once

    def __repr__(self) -> str:
        return f"<Message of {len(self)} bytes>"
