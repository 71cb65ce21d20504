"""Chat Completions, from the same outputs."""

from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import orjson
import pytest
from dialogue import Simulate
from openai import AsyncOpenAI, BadRequestError, InternalServerError

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


@pytest.fixture
async def sdk() -> AsyncIterator[Any]:
    """Make SDK clients, and close them."""
    clients: list[AsyncOpenAI] = []

    def make(simulator: Simulator) -> AsyncOpenAI:
        clients.append(AsyncOpenAI(api_key="key", base_url=simulator.base_url, max_retries=0))
        return clients[-1]

    yield make
    for client in clients:
        await client.close()


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
