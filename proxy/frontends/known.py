"""Beginnings of request bodies that were read before, so that a history which grew is read at its end only.

Agents send their history again to the byte, with something new behind it. Of a body that was read, this keeps
where the list that is its history begins and ends, a hash of its bytes up to there, and the marks of its items: no
content. In a later body that begins with the same bytes, a parser would be in the same state behind them, so the
body without what is known parses if and only if the whole does, to the same fields and the same new entries.

Whether a body loses something by being written again is asked in two ways (`faithful.py`): its bytes may be what
orjson writes ("written as we would"), or else each key and number is looked at. The answer for the rest has to be
that for the whole. So the rest is looked at where the beginning is not written as we would; and a beginning with
long integers, which only the first way takes, is not kept.
"""

import re
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from blake3 import blake3

from proxy.core.delta import TurnRequest
from proxy.core.history import History, Marks, Outline
from proxy.core.items import Item, Raw
from proxy.frontends.faithful import Envelope, Place, Reading, envelope

_MARK = 16
_MOST_ITEMS = 16_384
"""Of a beginning that is kept: its marks take a quarter of a megabyte."""

_GOES_ON = re.compile(rb"[ \t\r\n]*(?:(?=\])|,(?=[ \t\r\n]*\{))")
"""What stands between an entry of the history and the next one, or the end."""

_SPACES = " \t\r\n"


@dataclass(frozen=True, slots=True)
class Beginning:
    """The first *length* bytes of a body, which end behind an entry of the list that *opened* bytes precede.

    *marks* and *outline* are those of its items. *is_ours* says that these bytes are what orjson writes for them.
    """

    opened: int
    length: int
    digest: bytes
    marks: Marks
    outline: Outline
    is_ours: bool

    def may_begin(self, body: bytes) -> bool:
        """Whether *body* could begin like this, at a glance, and go on with another entry or the list's end."""
        return body[self.length - 1 : self.length] == b"}" and _GOES_ON.match(body, self.length) is not None


@dataclass(frozen=True, slots=True)
class Found:
    """A *beginning* of a *body*, and the *hasher* that has seen it."""

    beginning: Beginning
    body: bytes
    hasher: blake3

    @property
    def is_ours(self) -> bool:
        """Whether what is known, with what stands between it and the rest, is written as orjson would write it."""
        return self.beginning.is_ours and self._between in (b"", b",")

    @property
    def left(self) -> int:
        """How many bytes of the body are not known."""
        return len(self.body) - (self.beginning.length - self.beginning.opened)

    def rest(self) -> Envelope | None:
        """Read the body without the entries that are known; None where it cannot be read."""
        known = self.beginning
        cut = self.body[: known.opened] + self.body[known.length + len(self._between) :]
        return envelope(cut, strictly=not self.is_ours)

    @property
    def _between(self) -> bytes:
        between = _GOES_ON.match(self.body, self.beginning.length)
        return between[0] if between is not None else b""

    def history(self, new: tuple[Item, ...], read: Callable[[], Sequence[Raw]]) -> History:
        """Return the known items followed by the *new* ones; *read* returns the JSON of them all."""
        return History(self.beginning.marks, new, outline=self.beginning.outline, read=read)


class Beginnings:
    """The beginnings of the last *kept* bodies, of which one that has grown replaces what it grew from.

    *name* is the field that holds the history. Bodies may be read on several threads.
    """

    def __init__(self, name: str, kept: int = 64) -> None:
        self._name = name
        self._kept = kept
        self._known: dict[bytes, Beginning] = {}
        self._lock = threading.Lock()

    def find(self, body: bytes) -> Found | None:
        """Return the longest one that *body* begins with."""
        with self._lock:
            known = list(self._known.values())
        candidates = [each for each in known if each.may_begin(body)]
        found, at = None, 0
        hasher, view = blake3(), memoryview(body)
        for each in sorted(candidates, key=lambda each: each.length):
            hasher.update(view[at : each.length])
            at = each.length
            if hasher.digest(_MARK) == each.digest:
                found = Found(each, body, hasher.copy())
        return found

    def keep(self, body: bytes, turn: TurnRequest, reading: Reading, *, grown_from: Found | None) -> None:
        """Keep the beginning of *body*, read as *turn*; *reading* is that of all of it, or of what was new."""
        place = _place(reading, self._name)
        if place is None:
            if grown_from is not None:  # nothing is new, but it was used
                self._put(grown_from.beginning)
            return
        if len(turn.marks) > _MOST_ITEMS or (reading.has_long_integers and reading.is_to_the_byte):
            return
        opened, end = place
        length = end + len(body) - len(reading.body)
        hasher, known = blake3(), 0
        if grown_from is not None:
            opened = grown_from.beginning.opened
            hasher, known = grown_from.hasher, grown_from.beginning.length
        hasher.update(memoryview(body)[known:length])
        is_ours = reading.is_to_the_byte or reading.written[:end] == reading.body[:end]
        self._put(
            Beginning(
                opened,
                length,
                hasher.digest(_MARK),
                turn.marks,
                turn.outline,
                is_ours=is_ours and (grown_from is None or grown_from.is_ours),
            ),
            instead_of=grown_from.beginning if grown_from is not None else None,
        )

    def _put(self, beginning: Beginning, *, instead_of: Beginning | None = None) -> None:
        with self._lock:
            if instead_of is not None:
                self._known.pop(instead_of.digest, None)
            self._known.pop(beginning.digest, None)
            self._known[beginning.digest] = beginning
            if len(self._known) > self._kept:
                del self._known[next(iter(self._known))]


def _place(reading: Reading, name: str) -> Place | None:
    """Return where, in what was read, the first entry of the list *name* begins and the last one ends, if any."""
    return _in_text(reading, name) if reading.places else _as_written(reading, name)


def _in_text(reading: Reading, name: str) -> Place | None:
    text, place = reading.text, reading.places.get(name)
    if place is None or text[place[0]] != "[":
        return None
    opened, closed = place[0] + 1, place[1] - 1
    while text[opened] in _SPACES:
        opened += 1
    while text[closed - 1] in _SPACES:
        closed -= 1
    if opened > closed or text[opened] == "]":
        return None
    return _bytes(text, opened), _bytes(text, closed)


def _bytes(text: str, at: int) -> int:
    return at if text.isascii() else len(text[:at].encode())


def _as_written(reading: Reading, name: str) -> Place | None:
    body, before, behind = reading.body, *_around(reading.value, name)
    opened = len(orjson.dumps(before)) + len(orjson.dumps(name)) + len(b":[") - (0 if before else 1)
    length = len(body) - len(orjson.dumps(behind)) - (1 if behind else 0)
    entries = body[opened - 1 : opened + 1] == b"[{" and body[length - 1 : length + 1] == b"}]"
    return (opened, length) if entries else None


def _around(request: Mapping[str, Any], name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the fields before *name*, and those behind it."""
    names = list(request)
    at = names.index(name) if name in request else len(names)
    return {each: request[each] for each in names[:at]}, {each: request[each] for each in names[at + 1 :]}
