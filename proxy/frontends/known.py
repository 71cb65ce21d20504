"""Beginnings of request bodies that were read before, so that a history which grew is read at its end only.

Agents send their history again to the byte, with new items behind it. Of a body that was read, this keeps where
its `input` begins and ends, a hash of its bytes up to there, and the marks of its items: no content. In a later
body that begins with the same bytes, a parser would be in the same state behind them, so the body without the
items that are known parses if and only if the whole does, to the same fields and the same new items.

Only a body that writing its value again gives back to the byte is kept: then its parts are where they would be
written. It has no long integers: whether one is a reason to refuse a body depends on how the rest of it is written.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import orjson

from proxy.core.delta import TurnRequest
from proxy.core.history import History
from proxy.core.items import Item

_MARK = 16
_MOST_ITEMS = 16_384
"""Of a beginning that is kept: its marks take a quarter of a megabyte."""


@dataclass(frozen=True, slots=True)
class Beginning:
    """The first *length* bytes of a body, which end behind an item of the `input` that *opened* bytes precede.

    *marks* are those of its items, one behind the other, and *opening* is the number of items up to the first
    user message.
    """

    opened: int
    length: int
    digest: bytes
    marks: bytes
    opening: int

    def may_begin(self, body: bytes) -> bool:
        """Whether *body* could begin like this, at a glance, and go on with another item or the input's end."""
        end = self.length
        return body[end - 1 : end + 1] == b"}]" or body[end - 1 : end + 2] == b"},{"


@dataclass(frozen=True, slots=True)
class Found:
    """A *beginning* of a body, and the *hasher* that has seen it."""

    beginning: Beginning
    hasher: blake2b

    def cut(self, body: bytes) -> bytes:
        """Return *body* without the items that are known."""
        known = self.beginning
        rest = known.length + (body[known.length] == ord(","))
        return body[: known.opened] + body[rest:]

    def history(self, new: tuple[Item, ...], read: Callable[[], tuple[Item, ...]]) -> History:
        """Return the history that is this and the *new* items; *read* reads it from its beginning."""
        joined = self.beginning.marks
        marks = tuple(joined[at : at + _MARK] for at in range(0, len(joined), _MARK))
        return History(marks, new, opening=self.beginning.opening, read=read)


class Beginnings:
    """The beginnings of the last *kept* bodies, of which one that has grown replaces what it grew from."""

    def __init__(self, kept: int = 64) -> None:
        self._kept = kept
        self._known: dict[bytes, Beginning] = {}

    def find(self, body: bytes) -> Found | None:
        """Return the longest one that *body* begins with."""
        candidates = [each for each in self._known.values() if each.may_begin(body)]
        found, at = None, 0
        hasher, view = blake2b(digest_size=_MARK), memoryview(body)
        for each in sorted(candidates, key=lambda each: each.length):
            hasher.update(view[at : each.length])
            at = each.length
            if hasher.digest() == each.digest:
                found = Found(each, hasher.copy())
        return found

    def keep(
        self, body: bytes, turn: TurnRequest, request: Mapping[str, Any], *, grown_from: Found | None
    ) -> None:
        """Keep the beginning of *body*, read as *turn*: `orjson` writes *request* as it, without what was cut."""
        before, behind = _around_input(request)
        opened = len(orjson.dumps(before)) + len(b'"input":[') - (0 if before else 1)
        length = len(body) - len(orjson.dumps(behind)) - (1 if behind else 0)
        if body[opened - 1 : opened + 1] != b"[{" or body[length - 1 : length + 1] != b"}]":
            return  # no items
        hasher, known = blake2b(digest_size=_MARK), 0
        if grown_from is not None:
            hasher, known = grown_from.hasher, grown_from.beginning.length
        if len(turn.marks) > _MOST_ITEMS:
            return
        if grown_from is not None:
            self._known.pop(grown_from.beginning.digest, None)
        hasher.update(memoryview(body)[known:length])
        digest = hasher.digest()
        self._known.pop(digest, None)
        self._known[digest] = Beginning(opened, length, digest, b"".join(turn.marks), turn.beginning)
        if len(self._known) > self._kept:
            del self._known[next(iter(self._known))]


def _around_input(request: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the fields before `input`, and those behind it."""
    names = list(request)
    at = names.index("input") if "input" in request else len(names)
    return {name: request[name] for name in names[:at]}, {name: request[name] for name in names[at + 1 :]}
