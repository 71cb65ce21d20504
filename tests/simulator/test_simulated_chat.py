"""Chat Completions, from the same outputs."""

from typing import Any

import aiohttp
import orjson
import pytest
from dialogue import Simulate
from openai import BadRequestError, InternalServerError, RateLimitError

from proxy.simulator import (
    CustomToolCall,
    Declined,
    Failed,
    Fault,
    FunctionCall,
    Incomplete,
    Output,
    Reasoning,
    Simulator,
    Text,
    says,
    scripted,
)

USER = {"role": "user", "content": "hello"}
EVERYTHING = Output(
    (
        Reasoning(("hm",)),
        Text("hello world"),
        FunctionCall("ls", '{"a": 1}', "call_1"),
        CustomToolCall("sh", "ls", "call_2"),
    ),
    delta_size=6,
)


async def chunks(simulator: Simulator, http: aiohttp.ClientSession, **fields: Any) -> list[Any]:
    """Stream a completion; return the chunks and [DONE]."""
    body = {"model": "m", "messages": [USER], "stream": True, **fields}
    async with http.post(f"{simulator.base_url}/chat/completions", json=body) as response:
        lines = (await response.read()).split(b"\n\n")
    assert lines.pop() == b""
    records = [line.removeprefix(b"data: ") for line in lines]
    return [record if record == b"[DONE]" else orjson.loads(record) for record in records]


async def test_a_completion_has_text_and_calls(simulate: Simulate, sdk: Any) -> None:
    """Text, function and custom calls are one message; reasoning is left out."""
    simulator = await simulate(scripted([EVERYTHING]))
    completion = await sdk(simulator).chat.completions.create(model="m", messages=[USER])
    message = completion.choices[0].message
    assert completion.id.startswith("chatcmpl-")
    assert message.content == "hello world"
    assert [call.id for call in message.tool_calls] == ["call_1", "call_2"]
    assert message.tool_calls[0].function.arguments == '{"a": 1}'
    assert message.tool_calls[1].custom.input == "ls"
    assert completion.choices[0].finish_reason == "tool_calls"
    usage = completion.usage
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens > 0


async def test_a_stream_says_the_same(simulate: Simulate, http: aiohttp.ClientSession) -> None:
    """Role first, deltas that add up, one finish_reason, usage if asked for, [DONE]."""
    simulator = await simulate(scripted([EVERYTHING, EVERYTHING]))
    records = await chunks(simulator, http, stream_options={"include_usage": True})
    assert records.pop() == b"[DONE]"
    last = records.pop()
    assert (last["choices"], last["usage"]["prompt_tokens"] > 0) == ([], True)
    assert all(record["usage"] is None for record in records)
    choices = [record["choices"][0] for record in records]
    assert choices[0]["delta"] == {"role": "assistant", "content": "", "refusal": None}
    assert "".join(choice["delta"].get("content") or "" for choice in choices) == "hello world"
    reasons = [choice["finish_reason"] for choice in choices if choice["finish_reason"]]
    assert reasons == ["tool_calls"]
    calls = [choice["delta"]["tool_calls"][0] for choice in choices if "tool_calls" in choice["delta"]]
    assert {call["index"] for call in calls} == {0, 1}
    heads = [call for call in calls if "id" in call]
    assert [(head["id"], head["type"]) for head in heads] == [("call_1", "function"), ("call_2", "custom")]
    written = "".join(call.get("function", {}).get("arguments", "") for call in calls)
    assert written == '{"a": 1}'
    records = await chunks(simulator, http)
    assert all("usage" not in record for record in records[:-1])


async def test_the_sdk_accumulates_the_stream(simulate: Simulate, sdk: Any) -> None:
    """The official helper ends with the same completion."""
    simulator = await simulate(scripted([says("hello", FunctionCall("ls", "{}", "call_1"))]))
    async with sdk(simulator).chat.completions.stream(model="m", messages=[USER]) as stream:
        completion = await stream.get_final_completion()
    assert completion.choices[0].message.content == "hello"
    assert completion.choices[0].message.tool_calls[0].id == "call_1"


async def test_refusals_and_cuts(simulate: Simulate, http: aiohttp.ClientSession, sdk: Any) -> None:
    """A refusal has its own field; incomplete becomes a finish_reason."""
    outputs = [says(Declined("no")), says("x", finish=Incomplete()), says(finish=Incomplete("content_filter"))]
    simulator = await simulate(scripted([*outputs, says(Declined("no"))]))
    found = []
    for _ in range(3):
        completion = await sdk(simulator).chat.completions.create(model="m", messages=[USER])
        choice = completion.choices[0]
        found.append((choice.message.content, choice.message.refusal, choice.finish_reason))
    assert found == [(None, "no", "stop"), ("x", None, "length"), (None, None, "content_filter")]
    records = await chunks(simulator, http)
    assert any(record["choices"][0]["delta"].get("refusal") == "no" for record in records[:-1])


async def test_choices_logprobs_and_obfuscation(simulate: Simulate, http: aiohttp.ClientSession, sdk: Any) -> None:
    """N repeats the choice, logprobs are there if asked for, padding unless declined."""
    simulator = await simulate()
    completion = await sdk(simulator).chat.completions.create(model="m", messages=[USER], n=2, logprobs=True)
    assert [choice.index for choice in completion.choices] == [0, 1]
    assert completion.choices[0].logprobs.content[0].logprob < 0
    records = await chunks(simulator, http, n=2, logprobs=True)
    assert {record["choices"][0]["index"] for record in records[:-1]} == {0, 1}
    assert any(record["choices"][0]["logprobs"] for record in records[:-1])
    assert any("obfuscation" in record for record in records[:-1])
    records = await chunks(simulator, http, stream_options={"include_obfuscation": False})
    assert not any("obfuscation" in record for record in records[:-1])


async def test_failures_are_errors(simulate: Simulate, http: aiohttp.ClientSession, sdk: Any) -> None:
    """A failed response is a 500, or an error record in mid-stream; faults too."""
    failed = says(finish=Failed("server_error", "No."))
    simulator = await simulate(scripted([failed, failed, "x"]))
    with pytest.raises(InternalServerError, match=r"No\."):
        await sdk(simulator).chat.completions.create(model="m", messages=[USER])
    records = await chunks(simulator, http)
    assert records[-1]["error"]["message"] == "No."
    simulator.inject(Fault("after_created", "error", message="Gone."))
    records = await chunks(simulator, http)
    assert records[-1]["error"]["message"] == "Gone."


async def test_messages_are_read_as_items(simulate: Simulate, sdk: Any) -> None:
    """The context says in items what the messages say."""
    simulator = await simulate()
    messages = [
        {"role": "system", "content": "be brief"},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "look"},
                {"type": "image_url", "image_url": {"url": "data:x"}},
                {"type": "file", "file": {"file_id": "file_1"}},
                {"type": "input_audio", "input_audio": {"data": "", "format": "wav"}},
            ],
        },
        {
            "role": "assistant",
            "content": "ok",
            "tool_calls": [
                {"id": "call_1", "type": "function", "function": {"name": "ls", "arguments": "{}"}},
                {"id": "call_2", "type": "custom", "custom": {"name": "sh", "input": "ls"}},
            ],
        },
        {"role": "tool", "tool_call_id": "call_1", "content": "out"},
        {"role": "tool", "tool_call_id": "call_2", "content": [{"type": "text", "text": "out"}]},
        {"role": "assistant", "content": None, "refusal": "no"},
        {"role": "assistant", "content": None},
    ]
    await sdk(simulator).chat.completions.create(model="m", messages=messages)
    context = simulator.turns[0].context
    assert [item["type"] for item in context] == [
        "message",
        "message",
        "message",
        "function_call",
        "custom_tool_call",
        "function_call_output",
        "custom_tool_call_output",
        "message",
    ]
    assert [part["type"] for part in context[1]["content"]] == [
        "input_text",
        "input_image",
        "input_file",
        "input_audio",
    ]
    assert context[2]["content"] == [{"type": "output_text", "text": "ok"}]
    assert context[7]["content"] == [{"type": "refusal", "refusal": "no"}]
    assert simulator.turns[0].endpoint == "chat"
    assert simulator.turns[0].settings == {"model": "m"}


CALLS = {
    "role": "assistant",
    "tool_calls": [{"id": "call_1", "type": "function", "function": {"name": "x", "arguments": ""}}],
}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"messages": []}, "Missing required parameter: 'messages'"),
        ({"messages": [{"role": "robot"}]}, "Invalid value: 'robot'"),
        ({"messages": [7]}, "Invalid value: '7'"),
        ({"messages": [CALLS]}, "must be followed by tool messages"),
        ({"messages": [CALLS, USER]}, "must be followed by tool messages"),
        ({"messages": [{"role": "tool", "tool_call_id": "call_9"}]}, "must be a response to a preceeding message"),
        ({"extra_body": {"input": "x"}}, "Unknown parameter: 'input'"),
        ({"model": ""}, "Missing required parameter: 'model'"),
    ],
)
async def test_bad_messages_are_refused(
    simulate: Simulate, sdk: Any, fields: dict[str, Any], message: str
) -> None:
    """With a 400 that names the mistake."""
    with pytest.raises(BadRequestError, match=message):
        await sdk(await simulate()).chat.completions.create(**{"model": "m", "messages": [USER], **fields})


async def test_being_cut_short_counts_more_than_calls(simulate: Simulate, http: aiohttp.ClientSession) -> None:
    """A call may be unfinished where the answer is: streamed and whole alike."""
    cut = says("x", FunctionCall("ls", '{"a', "call_1"), finish=Incomplete())
    simulator = await simulate(lambda _: cut)
    records = await chunks(simulator, http)
    assert [record["choices"][0]["finish_reason"] for record in records[:-1]][-1] == "length"
    whole = await complete(simulator, http)
    assert whole["choices"][0]["finish_reason"] == "length"
    assert whole["choices"][0]["message"]["tool_calls"][0]["function"]["arguments"] == '{"a'


async def complete(simulator: Simulator, http: aiohttp.ClientSession, **fields: Any) -> Any:
    """Return a whole completion, or what is said instead of one."""
    body = {"model": "m", "messages": [USER], **fields}
    async with http.post(f"{simulator.base_url}/chat/completions", json=body) as response:
        return await response.json()


async def test_an_answer_of_many_items_is_one_message(simulate: Simulate, http: aiohttp.ClientSession) -> None:
    """Texts and refusals are joined, calls are in order, wherever they stood."""
    parts = (FunctionCall("a", "{}", "call_1"), Text("one "), Declined("no"), Text("two"))
    simulator = await simulate(lambda _: Output((*parts, CustomToolCall("b", "x", "call_2"))))
    message = (await complete(simulator, http))["choices"][0]["message"]
    assert (message["content"], message["refusal"]) == ("one two", "no")
    assert [call["id"] for call in message["tool_calls"]] == ["call_1", "call_2"]
    deltas = [record["choices"][0]["delta"] for record in (await chunks(simulator, http))[:-1]]
    assert "".join(delta.get("content") or "" for delta in deltas) == "one two"
    calls = [call for delta in deltas for call in delta.get("tool_calls", ())]
    assert [call["index"] for call in calls if "id" in call] == [0, 1]


async def test_logprobs_are_the_same_streamed_and_whole(simulate: Simulate, http: aiohttp.ClientSession) -> None:
    """Each token with its bytes and as many alternatives as were asked for; chunks hold those of their words."""
    simulator = await simulate(lambda _: Output((Text("naïve words"), Text("!")), delta_size=6))
    asked = {"logprobs": True, "top_logprobs": 2}
    whole = (await complete(simulator, http, **asked))["choices"][0]["logprobs"]
    tokens = whole["content"]
    assert [token["token"] for token in tokens] == ["naïv", "e ", "word", "s", "!"]
    assert all(bytes(token["bytes"]).decode() == token["token"] for token in tokens)
    assert all(len(token["top_logprobs"]) == 2 for token in tokens)
    assert all(token["top_logprobs"][0]["token"] == token["token"] for token in tokens)
    choices = [record["choices"][0] for record in (await chunks(simulator, http, **asked))[:-1]]
    assert choices[0]["logprobs"] == {"content": [], "refusal": None}
    assert choices[-1]["logprobs"] is None
    spoken = choices[1:-1]
    for choice in spoken:
        words = "".join(token["token"] for token in choice["logprobs"]["content"])
        assert words == choice["delta"]["content"]
    assert [token for choice in spoken for token in choice["logprobs"]["content"]] == tokens
    assert (await complete(simulator, http))["choices"][0]["logprobs"] is None


async def test_legacy_calls_are_items_too(simulate: Simulate, sdk: Any) -> None:
    """A call without an id is answered by the message after it; names are kept."""
    simulator = await simulate()
    legacy = {"role": "assistant", "content": None, "function_call": {"name": "ls", "arguments": "{}"}}
    messages = [{**USER, "name": "ada"}, legacy, {"role": "function", "name": "ls", "content": "a.py"}]
    await sdk(simulator).chat.completions.create(model="m", messages=messages)
    said, call, output = simulator.turns[0].context
    assert said["name"] == "ada"
    assert (call["type"], output["type"]) == ("function_call", "function_call_output")
    assert call["call_id"] == output["call_id"]


async def test_what_agents_keep_beside_an_answer_is_not_read(simulate: Simulate, sdk: Any) -> None:
    """Bookkeeping of SDKs in an echo does not reach the model, nor does an empty text beside a call."""
    simulator = await simulate()
    call = {"id": "call_1", "type": "function", "function": {"name": "ls", "arguments": "{}"}}
    result = {"role": "tool", "tool_call_id": "call_1", "content": "a.py"}
    kept = {**call, "index": 0, "function": {**call["function"], "parsed_arguments": {}}}  # type: ignore[dict-item]
    for echo in (
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "assistant", "content": "", "tool_calls": [kept], "parsed": None, "reasoning_content": "hm"},
    ):
        await sdk(simulator).chat.completions.create(model="m", messages=[USER, echo, result])
    assert simulator.turns[0].context == simulator.turns[1].context


async def test_a_failure_says_which_kind(simulate: Simulate, sdk: Any) -> None:
    """Where nothing is streamed it is a status, by the failure's code."""
    simulator = await simulate(scripted([says(finish=Failed("rate_limit_exceeded", "Slow down."))]))
    with pytest.raises(RateLimitError, match="Slow down"):
        await sdk(simulator).chat.completions.create(model="m", messages=[USER])


async def test_usage_has_all_details(simulate: Simulate, http: aiohttp.ClientSession) -> None:
    """Those that a response has not are zero; the tier is the one that was served."""
    simulator = await simulate(lambda _: EVERYTHING)
    answer = await complete(simulator, http, service_tier="fast")
    assert answer["service_tier"] == "priority"
    assert answer["usage"]["completion_tokens_details"] == {
        "reasoning_tokens": 64,
        "audio_tokens": 0,
        "accepted_prediction_tokens": 0,
        "rejected_prediction_tokens": 0,
    }
    assert answer["usage"]["prompt_tokens_details"]["audio_tokens"] == 0


IMAGE = {"type": "image_url", "image_url": {"url": "data:x"}}
TOOL = {"type": "function", "function": {"name": "ls"}}


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"messages": [{"role": "user", "content": None}]}, "messages[0].content", None),
        ({"messages": [{"role": "user", "content": 7}]}, "messages[0].content", "invalid_type"),
        (
            {"messages": [{"role": "user", "content": [{"type": "smell"}]}]},
            "messages[0].content[0].type",
            "invalid_value",
        ),
        ({"messages": [{"role": "system", "content": [IMAGE]}]}, "messages[0].content[0].type", "invalid_value"),
        ({"max_tokens": 1, "max_completion_tokens": 1}, "max_tokens", "invalid_parameter_combination"),
        ({"max_tokens": 0}, "max_tokens", "integer_below_min_value"),
        ({"n": 0}, "n", "integer_below_min_value"),
        ({"n": 129}, "n", "integer_above_max_value"),
        ({"top_logprobs": 1}, "top_logprobs", None),
        ({"top_logprobs": 21, "logprobs": True}, "top_logprobs", "integer_above_max_value"),
        ({"temperature": 2.1}, "temperature", "decimal_above_max_value"),
        ({"top_p": -1}, "top_p", "decimal_below_min_value"),
        ({"reasoning_effort": "x"}, "reasoning_effort", "invalid_value"),
        ({"verbosity": "x"}, "verbosity", "invalid_value"),
        ({"response_format": {"type": "x"}}, "response_format.type", "invalid_value"),
        ({"response_format": {}}, "response_format.type", "invalid_value"),
        (
            {"response_format": {"type": "json_schema"}},
            "response_format.json_schema",
            "missing_required_parameter",
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": {}}},
            "response_format.json_schema.name",
            "missing_required_parameter",
        ),
        ({"tools": []}, "tools", "empty_array"),
        ({"tools": [{"type": "x"}]}, "tools[0].type", "invalid_value"),
        ({"tools": [TOOL, {"type": "function"}]}, "tools[1].function", "missing_required_parameter"),
        ({"tools": [{"type": "custom", "custom": {}}]}, "tools[0].custom.name", "missing_required_parameter"),
        ({"tool_choice": "auto"}, "tool_choice", None),
        ({"parallel_tool_calls": False}, "parallel_tool_calls", None),
        ({"stream_options": {}}, "stream_options", None),
    ],
)
async def test_bad_parameters_are_refused_by_name(
    simulate: Simulate, http: aiohttp.ClientSession, fields: dict[str, Any], param: str, code: str | None
) -> None:
    """With a 400 that names the parameter as Chat does."""
    error = (await complete(await simulate(), http, **fields))["error"]
    assert (error["type"], error["param"], error["code"]) == ("invalid_request_error", param, code)


async def test_a_history_that_is_too_long_names_the_messages(
    simulate: Simulate, http: aiohttp.ClientSession
) -> None:
    """Agents that compact go by the code."""
    error = (await complete(await simulate(context_limit_tokens=1), http))["error"]
    assert (error["code"], error["param"]) == ("context_length_exceeded", "messages")


async def test_events_in_many_lines_are_for_responses_alone(
    simulate: Simulate, http: aiohttp.ClientSession
) -> None:
    """A chunk stays a chunk."""
    simulator = await simulate(scripted(["x"]))
    simulator.inject(Fault("after_created", "pretty"))
    records = await chunks(simulator, http)
    assert [record["object"] for record in records[:-1]] == ["chat.completion.chunk"] * 3
