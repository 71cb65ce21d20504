"""Recorded: what the sessions that a shape was read off came to, and what a generated one comes to."""

import gzip
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import orjson


@dataclass(frozen=True, slots=True)
class Recorded:
    """Bytes of a session: all request *bodies*, each of them with *gzip*, and what was *new* in them.

    New are the settings, once, and in each request what neither an earlier one nor the model had said.
    """

    bodies: int
    gzip: int
    new: int


def sums(body: Callable[[list[Any]], dict[str, Any]], added: Sequence[Sequence[Any]]) -> Recorded:
    """Return what requests come to that *body* makes of a history; *added* is what came to it before each."""
    bodies = packed = new = 0
    history: list[Any] = []
    for number, items in enumerate(added):
        history += items
        request = orjson.dumps(body(history))
        bodies += len(request)
        packed += len(gzip.compress(request, 6))
        theirs = [item for item in items if item.get("type") == "function_call_output"]
        new += len(orjson.dumps(theirs)) if number else len(request)
    return Recorded(bodies, packed, new)
