"""Whether parsing a body and writing it again loses nothing.

A delta is written from parsed JSON, and histories are compared by it. So a body counts only where that is
harmless: no duplicate keys (parsers differ on which one wins), no numbers that a double or 64 bits do not hold,
no lone surrogates, no nesting beyond what the writer takes. For anything else the agent's own bytes go upstream.
"""

import json  # noqa: TID251  (orjson hides duplicate keys and numbers it cannot hold, and refuses half characters)
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import orjson


class UnfaithfulError(ValueError):
    """The body is not JSON, or parsing it loses something."""


@dataclass(frozen=True, slots=True)
class Envelope:
    """A request and what every front end reads of it.

    *to_the_byte* says that it is written as it came, and that any other way of writing it would be taken too: it
    has no integer that not every parser keeps.
    """

    request: dict[str, Any]
    model: str
    stream: bool
    to_the_byte: bool


def parse(body: bytes) -> Any:
    """Return the JSON value of *body*. Raises UnfaithfulError where writing it again would lose something."""
    return _parse(body)[0]


def _parse(body: bytes) -> tuple[Any, bool]:
    try:
        value = orjson.loads(body)
        written, is_safe = _written(value)
        is_same = written == body  # as for most agents: nothing was lost
        if not is_same:
            json.loads(body, object_pairs_hook=_unique, parse_int=_held, parse_float=_exact)
    except (ValueError, TypeError, ArithmeticError, RecursionError) as exc:
        raise UnfaithfulError(str(exc)) from exc
    return value, is_same and is_safe


def _written(value: Any) -> tuple[bytes, bool]:
    """Write *value*; say whether all its integers are within a double's precision."""
    try:
        return orjson.dumps(value, option=orjson.OPT_STRICT_INTEGER), True
    except TypeError:
        return orjson.dumps(value), False


def envelope(body: bytes) -> Envelope | None:
    """Return the request in *body*, its model, and whether it is streamed; None where that cannot be read."""
    try:
        request, to_the_byte = _parse(body)
    except UnfaithfulError:
        return None
    if not isinstance(request, dict):
        return None
    model, stream = request.get("model"), request.get("stream")
    if not isinstance(model, str) or not isinstance(stream, bool | None):
        return None
    return Envelope(request, model, bool(stream), to_the_byte)


def as_json(value: Any) -> bytes:
    """Write what upstream said, the way it wrote it where that is half a character or nested deeply."""
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
