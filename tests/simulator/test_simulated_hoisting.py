"""Settings as items of the conversation, as the simulated upstream takes them."""

from typing import Any

import pytest
from dialogue import Simulate, Talk, user

TOOL = {
    "type": "function",
    "name": "add",
    "parameters": {"type": "object", "properties": {}},
    "description": "Add two numbers, or more of them if there are more, and say what the sum of all of them is.",
}
FIELDS: dict[str, Any] = {"instructions": "Be brief. Be kind.", "tools": [TOOL]}
ITEMS = [
    {"type": "message", "role": "developer", "content": FIELDS["instructions"]},
    {"type": "additional_tools", "role": "developer", "tools": FIELDS["tools"]},
]


@pytest.mark.parametrize(("way", "more"), [("read", 0), ("dearer", 8)])
async def test_both_forms_are_counted(simulate: Simulate, talk: Talk, way: Any, more: int) -> None:
    """Settings take as many tokens as items as they do as fields, or so many more if that is asked for."""
    dialogue = await talk(await simulate(additional_tools=way))
    fields = await dialogue.complete([user("hello")], **FIELDS)
    items = await dialogue.complete([*ITEMS, user("hello")])
    assert items["usage"]["input_tokens"] == fields["usage"]["input_tokens"] + more
    neither = await dialogue.complete([user("hello")])
    assert fields["usage"]["input_tokens"] > neither["usage"]["input_tokens"] + 30


async def test_a_chain_carries_items_and_no_fields(simulate: Simulate, talk: Talk) -> None:
    """The next turn reads settings that were told as items, and is told what its own request says."""
    dialogue = await talk(await simulate())
    first = await dialogue.complete([*ITEMS, user("hello")])
    assert (first["instructions"], first["tools"]) == (None, [])
    second = await dialogue.complete([user("go on")], previous_response_id=first["id"])
    assert second["usage"]["input_tokens"] > first["usage"]["input_tokens"]
    plain = await dialogue.complete([user("hello")], **FIELDS)
    bare = await dialogue.complete([user("go on")], previous_response_id=plain["id"])
    assert bare["usage"]["input_tokens"] < plain["usage"]["input_tokens"]


async def test_a_server_can_forget_them(simulate: Simulate, talk: Talk) -> None:
    """Some servers might not carry tools: then the next turn reads less."""
    dialogue = await talk(await simulate(additional_tools="forgotten"))
    first = await dialogue.complete([*ITEMS, user("hello")])
    second = await dialogue.complete([user("go on")], previous_response_id=first["id"])
    assert second["usage"]["input_tokens"] < first["usage"]["input_tokens"]


async def test_a_server_can_refuse_them(simulate: Simulate, talk: Talk) -> None:
    """The refusal names the item, and what would be taken in its place."""
    dialogue = await talk(await simulate(additional_tools="refused"))
    error = await dialogue.fail([*ITEMS, user("hello")])
    assert error["param"] == "input[1].type"
    assert error["message"].startswith("Invalid value: 'additional_tools'. Supported values are: 'message'")
    await dialogue.complete([user("hello")], **FIELDS)


async def test_a_field_can_be_refused_over_a_websocket(simulate: Simulate, talk: Talk) -> None:
    """A documented parameter may be unknown there."""
    dialogue = await talk(await simulate(refused_fields=("stream_options",)))
    error = await dialogue.fail(stream_options={"include_obfuscation": False})
    assert (error["param"], error["code"]) == ("stream_options", "unknown_parameter")
    await dialogue.complete()
