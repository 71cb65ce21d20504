"""A message: the same JSON in any order of its large members."""

from itertools import permutations
from typing import Any

import orjson
import pytest

from proxy.core.message import LARGE, Message

SMALL: dict[str, Any] = {"type": "response.create", "store": False, 'odd "\u2028': {"b": 1, "a": None}}
FIELDS: dict[str, Any] = {
    "type": "response.create",
    "input": [{"role": "user", "content": "caf\u00e9"}],
    "tools": [{"b": 1, "a": "\u00fc"}],
    "store": False,
    "instructions": None,
    'odd "\u2028': {"b": 1, "a": None},
}


def test_small_members_come_first_and_large_ones_last() -> None:
    """Each with the agent's own value, down to the order of its keys."""
    message = bytes(Message.of(FIELDS))
    assert message == orjson.dumps({**SMALL, **{name: FIELDS[name] for name in LARGE}})


@pytest.mark.parametrize("small", [SMALL, {}])
@pytest.mark.parametrize("names", [order for count in range(4) for order in permutations(LARGE, count)])
def test_it_says_the_same_in_every_order(names: tuple[str, ...], small: dict[str, Any]) -> None:
    """Whichever members there are, and it is as long as in its own order."""
    message = Message.of({**small, **{name: FIELDS[name] for name in names}})
    assert message.ordered(names) == orjson.dumps({**small, **{name: FIELDS[name] for name in names}})
    assert len(message.ordered(names)) == len(message) == len(bytes(message))


def test_it_tells_where_its_large_members_are() -> None:
    """From the first byte of the name to the last of the value."""
    message = Message.of(FIELDS)
    for name, place in message.places.items():
        assert orjson.loads(b"{" + message.written[place] + b"}") == {name: FIELDS[name]}
    assert message.begins == message.places["instructions"].start
    assert message.written[message.begins - 1 : message.begins] == b","


def test_its_own_order_is_no_copy() -> None:
    """A history of megabytes is in memory once."""
    message = Message.of(FIELDS)
    assert message.ordered(LARGE) is bytes(message) is message.written


def test_what_it_says_is_not_in_what_is_shown_of_it() -> None:
    """A traceback or a log may name a message; its content is the agent's."""
    assert repr(Message.of({"input": "secret"})) == "<Message of 18 bytes>"
