"""Requests that are refused, and with which words."""

from typing import Any

import pytest
from dialogue import Simulate, Talk, tool_output, user

CALL = {"type": "function_call", "call_id": "call_1", "name": "ls", "arguments": "{}"}
CUSTOM = {"type": "custom_tool_call", "call_id": "call_2", "name": "patch", "input": "x"}


@pytest.mark.parametrize(
    ("fields", "message", "param"),
    [
        ({"novelty": 1}, "Unknown parameter: 'novelty'.", "novelty"),
        ({"model": None}, "Missing required parameter: 'model'.", "model"),
        ({"model": ""}, "Missing required parameter: 'model'.", "model"),
        ({"background": True}, "Background responses are not supported over WebSocket.", "background"),
        ({"response": {}}, "Unknown parameter: 'response'.", "response"),
        ({"reasoning": "high"}, "Invalid type for 'reasoning': expected an object.", "reasoning"),
        ({"text": ["x"]}, "Invalid type for 'text': expected an object.", "text"),
        ({"stream_options": 1}, "Invalid type for 'stream_options': expected an object.", "stream_options"),
        (
            {"reasoning": {"effort": "x"}},
            (
                "Invalid value: 'x'. Supported values are: "
                "'none', 'minimal', 'low', 'medium', 'high', 'xhigh' and 'max'."
            ),
            "reasoning.effort",
        ),
        (
            {"text": {"verbosity": "x"}},
            "Invalid value: 'x'. Supported values are: 'low', 'medium' and 'high'.",
            "text.verbosity",
        ),
        (
            {"text": {"format": {"type": "json_schema"}}},
            "Missing required parameter: 'text.format.name'.",
            "text.format.name",
        ),
        (
            {"tools": [{"type": "web_search"}, {"type": "function"}]},
            "Missing required parameter: 'tools[1].name'.",
            "tools[1].name",
        ),
        (
            {"top_logprobs": 21},
            "Invalid 'top_logprobs': integer above maximum value. Expected a value <= 20, but got 21 instead.",
            "top_logprobs",
        ),
        ({"conversation": "conv_1"}, "Conversation with id 'conv_1' not found.", "conversation"),
        ({"conversation": {"id": "conv_1"}}, "Conversation with id 'conv_1' not found.", "conversation"),
        (
            {"max_output_tokens": 5},
            "Invalid 'max_output_tokens': integer below minimum value. Expected a value >= 16, but got 5 instead.",
            "max_output_tokens",
        ),
    ],
)
async def test_bad_parameters(
    simulate: Simulate, talk: Talk, fields: dict[str, Any], message: str, param: str
) -> None:
    """A wrong top-level parameter is named."""
    error = await (await talk(await simulate())).fail(**fields)
    assert (error["message"], error["param"]) == (message, param)


async def test_a_conversation_excludes_a_parent(simulate: Simulate, talk: Talk) -> None:
    """Both at once are refused."""
    error = await (await talk(await simulate())).fail(conversation="conv_1", previous_response_id="resp_1")
    assert error["code"] == "mutually_exclusive_parameters"


async def test_what_agents_send_is_tolerated(simulate: Simulate, talk: Talk) -> None:
    """Stream and client_metadata are no mistake, nor is background:false or a null."""
    dialogue = await talk(await simulate())
    await dialogue.complete(stream=True, client_metadata={"x": "y"}, background=False, user=None)


async def test_strictness_can_be_turned_off(simulate: Simulate, talk: Talk) -> None:
    """Then unknown parameters are ignored."""
    await (await talk(await simulate(strict_fields=False))).complete(novelty=1)


async def test_nulls_can_be_refused(simulate: Simulate, talk: Talk) -> None:
    """Then an explicit null is a wrong type."""
    error = await (await talk(await simulate(reject_nulls=True))).fail(user=None)
    assert (error["code"], error["param"]) == ("invalid_type", "user")


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (7, "Invalid type for 'input': expected one of an array of objects or string."),
        ([7], "Invalid type for 'input[0]': expected an object."),
        ([{"role": "robot", "content": "x"}], "Invalid value: 'robot'. Supported values are: 'assistant', "),
        ([{"type": "novelty"}], "Invalid value: 'novelty'. Supported values are: 'message', "),
        ([{"role": "user"}], "Missing required parameter: 'input[0].content'."),
        ([user("a"), {**CALL, "name": None}], "Missing required parameter: 'input[1].name'."),
        ([{"role": "user", "content": 7}], "Invalid type for 'input[0].content': expected one of"),
        ([{"role": "user", "content": [7]}], "Invalid value: 'None'. Supported values are: 'input_text', "),
        (
            [{"role": "assistant", "content": [{"type": "input_text", "text": "x"}]}],
            "Invalid value: 'input_text'. Supported values are: 'output_text' and 'refusal'.",
        ),
        ([{"type": "reasoning", "id": "rs_1"}], "Missing required parameter: 'input[0].summary'."),
        ([tool_output("call_9")], "No tool call found for function call output with call_id call_9."),
        (
            [{**tool_output("call_9"), "type": "custom_tool_call_output"}],
            "No tool call found for custom tool call",
        ),
        ([tool_output("call_1"), CALL], "No tool call found for function call output with call_id call_1."),
        ([CALL], "No tool output found for function call call_1."),
        ([CALL, CUSTOM, tool_output("call_1")], "No tool output found for custom tool call call_2."),
        (
            [{**user("a"), "id": "msg_1"}, {**user("b"), "id": "msg_1"}],
            "Duplicate item found with id msg_1. Remove duplicate items from your input and try again.",
        ),
    ],
)
async def test_bad_input(simulate: Simulate, talk: Talk, said: Any, message: str) -> None:
    """A malformed item, or a call without its output, is named."""
    error = await (await talk(await simulate())).fail(said)
    assert error["message"].startswith(message)
    assert error["type"] == "invalid_request_error"


async def test_good_input(simulate: Simulate, talk: Talk) -> None:
    """Calls with outputs, easy messages and no input at all are fine."""
    dialogue = await talk(await simulate())
    assistant = {"role": "assistant", "content": [{"type": "output_text", "text": "x"}]}
    search = {"type": "web_search_call", "id": "ws_1", "status": "completed"}
    await dialogue.complete([{"role": "user", "content": "a"}, assistant, search, CALL, tool_output("call_1")])
    await dialogue.complete(
        [CALL, CUSTOM, {**tool_output("call_2"), "type": "custom_tool_call_output"}, tool_output("call_1")]
    )
    await dialogue.complete(None)


async def test_a_duplicate_of_the_chain_is_refused(simulate: Simulate, talk: Talk) -> None:
    """What the parent holds must not be sent again."""
    dialogue = await talk(await simulate())
    first = await dialogue.complete()
    error = await dialogue.fail([*first["output"], user("b")], previous_response_id=first["id"])
    assert error["message"].startswith("Duplicate item found with id msg_")


async def test_a_lenient_server_takes_duplicates(simulate: Simulate, talk: Talk) -> None:
    """Without `refuse_duplicates` the model reads an item as often as it was sent."""
    simulator = await simulate(refuse_duplicates=False)
    dialogue = await talk(simulator)
    first = await dialogue.complete()
    await dialogue.complete([*first["output"], user("b")], previous_response_id=first["id"])
    assert [item.get("role") for item in simulator.turns[1].context].count("assistant") == 2


async def test_a_missing_output_in_the_chain_is_refused(simulate: Simulate, talk: Talk) -> None:
    """The parent's call needs its output in the next input."""
    from proxy.simulator import FunctionCall, says, scripted

    dialogue = await talk(await simulate(scripted([says(FunctionCall("ls", "{}", "call_1"))])))
    first = await dialogue.complete()
    error = await dialogue.fail("next", previous_response_id=first["id"])
    assert error["message"] == "No tool output found for function call call_1."
    assert (error["code"], error["param"]) == (None, "input")


async def test_the_context_is_limited(simulate: Simulate, talk: Talk) -> None:
    """Too many tokens are context_length_exceeded."""
    dialogue = await talk(await simulate(context_limit_tokens=100))
    await dialogue.complete()
    assert (await dialogue.fail("word " * 200))["code"] == "context_length_exceeded"


async def test_frames_that_are_no_create(simulate: Simulate, talk: Talk) -> None:
    """No JSON, no object, unknown types and steering are answered with errors; the connection stays."""
    simulator = await simulate()
    dialogue = await talk(simulator)
    for frame, code, message in (
        ("{", "invalid_json", "The message is not a JSON object."),
        ("[]", "invalid_json", "The message is not a JSON object."),
        ({"type": "response.cancel"}, None, "Unsupported message type: 'response.cancel'."),
        ({}, None, "Unsupported message type: 'None'."),
    ):
        await dialogue.send(frame)
        event = await dialogue.receive()
        assert (event["type"], event["status"]) == ("error", 400)
        assert (event["error"]["code"], event["error"]["message"]) == (code, message)
    await dialogue.send({"type": "response.steer", "previous_response_id": "resp_1", "input": []})
    event = await dialogue.receive()
    assert (event["type"], event["error"]["code"]) == ("response.steer.failed", "steering_not_supported")
    await dialogue.complete()
    assert simulator.connections[0].frames_in == 6


@pytest.mark.parametrize("shape", ["nested", "flat", "response_failed", "codeless", "pretty", "detail"])
async def test_errors_have_many_shapes(simulate: Simulate, talk: Talk, shape: str) -> None:
    """previous_response_not_found can read in all the ways that servers word it."""
    dialogue = await talk(await simulate(error_shape=shape))
    await dialogue.begin(previous_response_id="resp_1")
    text = await dialogue.socket.recv()
    assert ("\n" in str(text)) is (shape == "pretty")
    import orjson

    event = orjson.loads(text)
    message = "Previous response with id 'resp_1' not found."
    code = "previous_response_not_found"
    match shape:
        case "flat":
            assert event == {"type": "error", "code": code, "message": message, "param": "previous_response_id"}
        case "response_failed":
            assert event["type"] == "response.failed"
            assert event["response"]["error"] == {"code": code, "message": message}
        case "codeless":
            assert event["error"] == {"message": "Invalid `previous_response_id`."}
        case "detail":
            assert event == {"detail": message}
        case _:
            assert (event["error"]["code"], event["error"]["message"]) == (code, message)
