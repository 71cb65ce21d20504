"""Whether parsing a body and writing it again loses nothing.

A delta is written from parsed JSON, and histories are compared by it. So a body counts only where that is
harmless: no duplicate keys (parsers differ on which one wins), no numbers that a double or 64 bits do not hold,
no lone surrogates, no nesting beyond what the writer takes. For anything else the agent's own bytes go upstream.
"""

import json  # noqa: TID251  (orjson hides duplicate keys and numbers it cannot hold, and refuses half characters)
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, TypeAlias

import orjson

Place: TypeAlias = tuple[int, int]
"""Where a value begins and ends in a text."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What was read of a *body*: its *value*, and how it would be *written*.

    *has_long_integers* says that it has integers beyond a double's precision: whether such a body is taken can
    depend on how it is written. Where it is not written as we would write it, *text* is the body as text, and
    *places* are those of the values of an object's members in it.
    """

    body: bytes
    value: Any
    written: bytes
    has_long_integers: bool
    text: str = ""
    places: Mapping[str, Place] = field(default_factory=dict)

    @property
    def is_to_the_byte(self) -> bool:
        """Whether writing the value again gives the same bytes."""
        return self.written == self.body


@dataclass(frozen=True, slots=True)
class Envelope:
    """A *request*, what every front end reads of it, and the *reading* that it comes from."""

    request: dict[str, Any]
    model: str
    stream: bool
    reading: Reading


def read(body: bytes, *, strictly: bool = False) -> Reading | None:
    """Parse *body*; None where it is not JSON, or where writing it again would lose something.

    *strictly* looks at each key and number even where writing it again gives the same bytes.
    """
    try:
        value = orjson.loads(body)
        written, has_long_integers = _written(value)
        if written == body and not strictly:  # as for most agents: nothing was lost
            return Reading(body, value, written, has_long_integers)
        text = body.decode()
        places = _places(text) if isinstance(value, dict) else {}
        if not places:
            _DECODER.decode(text)
    except (ValueError, TypeError, ArithmeticError, RecursionError):
        return None
    return Reading(body, value, written, has_long_integers, text, places)


def _written(value: Any) -> tuple[bytes, bool]:
    """Write *value*; say whether it has integers beyond a double's precision."""
    try:
        return orjson.dumps(value, option=orjson.OPT_STRICT_INTEGER), False
    except TypeError:
        return orjson.dumps(value), True


def _places(text: str) -> dict[str, Place]:
    """Return where the values of the members are in *text*, an object. Raises ValueError where one is not held."""
    places: dict[str, Place] = {}
    at = _behind_space(text, text.index("{") + 1)
    while text[at] != "}":
        name, colon = _DECODER.raw_decode(text, at)
        begin = _behind_space(text, text.index(":", colon) + 1)
        _, end = _DECODER.raw_decode(text, begin)
        if name in places:
            raise ValueError("duplicate key")
        places[name] = (begin, end)
        at = _behind_space(text, end)
        if text[at] == ",":
            at = _behind_space(text, at + 1)
    return places


def _behind_space(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return found.end() if found is not None else at


_SPACE = re.compile(r"[ \t\r\n]+")


def envelope(body: bytes, *, strictly: bool = False) -> Envelope | None:
    """Return the request in *body*, its model, and whether it is streamed; None where that cannot be read.

    *strictly* says that *body* is a part of one that is not written as we would write it.
    """
    reading = read(body, strictly=strictly)
    if reading is None or not isinstance(reading.value, dict):
        return None
    request = reading.value
    model, stream = request.get("model"), request.get("stream")
    if not isinstance(model, str) or not isinstance(stream, bool | None):
        return None
    return Envelope(request, model, bool(stream), reading)


def as_json(value: Any) -> bytes:
    """Write *value*, which upstream said: also where it has a lone surrogate or is nested deeply.

    The agent then gets what upstream wrote, which orjson would not write.
    """
    try:
        return orjson.dumps(value)
    except TypeError:
        return json.dumps(value, separators=(",", ":")).encode()


def _unique(pairs: list[tuple[str, Any]]) -> None:
    if len(dict(pairs)) != len(pairs):
        raise ValueError("duplicate key")


def _held(text: str) -> None:
    if len(text) > 18 or text == "-0":
        raise ValueError("an integer that not every parser keeps")


def _exact(text: str) -> None:
    if Decimal(repr(float(text))) != Decimal(text):
        raise ValueError("a number beyond a double's precision")


_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_int=_held, parse_float=_exact)
