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

    members: Mapping[str, bytes]

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> "Message":
        """Write each of *fields*."""
        return cls({name: orjson.dumps({name: value})[1:-1] for name, value in fields.items()})

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
        return b"{" + b",".join([self.members[name] for name in names]) + b"}"

    def __repr__(self) -> str:
        return f"<Message of {len(self)} bytes>"
