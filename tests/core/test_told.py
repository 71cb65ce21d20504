"""What upstream tells of a response, item by item: by place, and with services that count carelessly."""

from typing import Any

import pytest
from said import call, custom_call, reasoning

from proxy.core.told import Told

MESSAGE = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "a"}]}
OTHER = {**MESSAGE, "content": [{"type": "output_text", "text": "b"}]}
THOUGHT = {"type": "reasoning", "summary": [], "encrypted_content": "x"}


def told(*events: tuple[Any, Any]) -> list[Any]:
    """Return what is known after *events*, of which each has an index and an item."""
    items = Told()
    for index, item in events:
        items.note({"output_index": index, "item": item})
    assert len(items) == len(items.in_order())
    return items.in_order()


def test_items_stand_by_their_index() -> None:
    """Whichever comes first, and without an index at the end."""
    assert told((1, OTHER), (0, MESSAGE), (None, THOUGHT), ("2", call())) == [MESSAGE, OTHER, THOUGHT, call()]
    assert told((0, MESSAGE), (5, OTHER), (None, THOUGHT)) == [MESSAGE, OTHER, THOUGHT]


def test_an_item_that_comes_twice_without_an_index_counts_once() -> None:
    """It is known by its id, or its call's; two that have neither may be two."""
    named = {**MESSAGE, "id": "m"}
    assert told((None, call()), (None, named), (None, call()), (None, named)) == [call(), named]
    assert told((None, call(call_id="a", id=None)), (None, call(call_id="a", id=None))) == [
        call(call_id="a", id=None)
    ]
    assert told((None, MESSAGE), (None, MESSAGE)) == [MESSAGE, MESSAGE]
    assert told((None, named), (None, {**OTHER, "id": "m"})) == [named, {**OTHER, "id": "m"}]


def test_what_was_announced_is_missed() -> None:
    """Wherever in the output, until it is told."""
    items = Told()
    assert not items.lacks_some
    for index in (1, 0, None, "2"):
        items.announce({"output_index": index})
    items.note({"output_index": 0, "item": MESSAGE})
    assert items.lacks_some
    items.note({"output_index": 1, "item": OTHER})
    assert not items.lacks_some


def test_what_was_announced_for_one_place_is_missed_one_by_one() -> None:
    """Some services give all their items one index; the same announcement again is of the same item."""
    items = Told()
    for name in ("a", "b", "b"):
        items.announce({"output_index": 0, "item": {"id": name}})
    items.note({"output_index": 0, "item": {**MESSAGE, "id": "a"}})
    assert items.lacks_some
    items.note({"output_index": 0, "item": {**OTHER, "id": "b"}})
    assert not items.lacks_some


@pytest.mark.parametrize("item", [None, "x", []])
def test_what_is_no_item_is_none(item: Any) -> None:
    """An event may be anything."""
    assert told((0, item)) == []


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (MESSAGE, OTHER),
        ({**MESSAGE, "id": "m"}, {**OTHER, "id": "m"}),
        ({**MESSAGE, "id": "m"}, {**MESSAGE, "id": "n"}),
        (MESSAGE, call()),
        (call(), MESSAGE),
        (call(call_id="a"), call(call_id="b")),
        (custom_call(call_id="a"), custom_call(call_id="b")),
        (THOUGHT, {**THOUGHT, "encrypted_content": "y"}),
        (reasoning("a", id="r"), reasoning("b", id="s")),
    ],
)
def test_two_items_at_one_index_are_two(one: Any, other: Any) -> None:
    """None may go missing from what upstream is taken to hold."""
    assert told((0, one), (0, other)) == [one, other]


def test_what_cannot_be_written_is_compared_as_it_is() -> None:
    """Half a character, as some servers write it."""
    odd = {**MESSAGE, "id": "m", "content": [{"type": "output_text", "text": "\ud83d"}]}
    assert told((0, odd), (0, odd)) == [odd]
    assert told((0, odd), (0, MESSAGE)) == [odd, MESSAGE]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (MESSAGE, MESSAGE),
        ({**MESSAGE, "id": "m", "status": "in_progress"}, {**MESSAGE, "id": "m", "status": "completed"}),
        (call(call_id="a", arguments=""), call(call_id="a")),
        ({**THOUGHT, "id": "r"}, {**THOUGHT, "id": "r", "encrypted_content": "y"}),
        ({**MESSAGE, "id": "m"}, {**MESSAGE, "id": "m", "recipient": "x"}),
    ],
)
def test_an_item_that_is_told_twice_is_one(one: Any, other: Any) -> None:
    """The last word on it counts."""
    assert told((3, one), (3, other)) == [other]
