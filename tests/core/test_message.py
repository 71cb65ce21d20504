"""A message: the same JSON in any order of its members."""

from itertools import permutations
from typing import Any

import orjson
import pytest

from proxy.core.message import Message

FIELDS: dict[str, Any] = {"type": "response.create", "store": False, "tools": [{"b": 1, "a": "ü"}], "input": None}


def test_a_message_is_written_in_the_order_of_its_members() -> None:
    """As orjson would write it in one piece."""
    assert bytes(Message.of(FIELDS)) == orjson.dumps(FIELDS)


@pytest.mark.parametrize("names", list(permutations(FIELDS)))
def test_it_says_the_same_in_every_order(names: tuple[str, ...]) -> None:
    """What its members say, down to the order of their own keys, and how long it is."""
    written = Message.of(FIELDS).ordered(names)
    assert list(orjson.loads(written).items()) == [(name, FIELDS[name]) for name in names]
    assert len(written) == len(Message.of(FIELDS))


def test_an_empty_one_is_an_object_too() -> None:
    """Two braces, no commas."""
    assert bytes(Message.of({})) == b"{}"
    assert len(Message.of({})) == 2


def test_what_it_says_is_not_in_what_is_shown_of_it() -> None:
    """A traceback or a log may name a message; its content is the agent's."""
    assert repr(Message.of({"input": "secret"})) == "<Message of 18 bytes>"
