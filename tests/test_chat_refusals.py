"""What upstream refuses of Chat Completions, and what only its own endpoint can do, is as without the proxy."""

import hashlib
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import openai
import orjson
import pytest
from chatjudge import trouble
from openai import AsyncOpenAI, DefaultAsyncHttpxClient
from proxied import KEY

from proxy.simulator import Failed, Fault, Output, Text, says, scripted

USER = {"role": "user", "content": "hello"}
CALL = {
    "role": "assistant",
    "content": None,
    "tool_calls": [{"id": "call_1", "type": "function", "function": {"name": "ls", "arguments": "{}"}}],
}
RESULT = {"role": "tool", "tool_call_id": "call_1", "content": "a.py"}
TOOL = {"type": "function", "function": {"name": "ls", "parameters": {"type": "object", "properties": {}}}}
SCHEMA = {"type": "object", "properties": {}, "additionalProperties": False}


@pytest.fixture
def clients(stack: AsyncExitStack) -> Callable[..., Awaitable[list[AsyncOpenAI]]]:
    """Make two clients of the SDK: through the proxy, and to the upstream behind it."""

    async def start(run: Any, **options: Any) -> list[AsyncOpenAI]:
        # No client needs certificates here, and reading them takes a while.
        options = {"api_key": "sk-test", "max_retries": 0, **options}
        return [
            await stack.enter_async_context(
                AsyncOpenAI(base_url=base_url, http_client=DefaultAsyncHttpxClient(verify=False), **options)
            )
            for base_url in (run.server.url + "/v1", run.simulator.base_url)
        ]

    return start


async def outcome(client: AsyncOpenAI, **fields: Any) -> Any:
    """Return what the SDK reports of a request with *fields*, which need not be right."""
    body = {"model": "m", "messages": [USER], **fields}
    body = {name: value for name, value in body.items() if value is not openai.omit}
    stream = body.get("stream") is True
    try:
        answer: Any = await client.post(
            "/chat/completions",
            cast_to=openai.types.chat.ChatCompletion,
            body=body,
            stream=stream,
            stream_cls=openai.AsyncStream[openai.types.chat.ChatCompletionChunk],
        )
        if stream:
            return [chunk.choices[0].delta.content async for chunk in answer if chunk.choices]
    except openai.APIError as exc:
        return trouble(exc)
    return answer.choices[0].message.content


FAULTS: dict[str, dict[str, Any]] = {
    "400": {"status": 400, "code": "invalid_value", "message": "No."},
    "400 about a parameter": {
        "status": 400,
        "code": "unsupported_value",
        "message": "No.",
        "param": "temperature",
    },
    "400 without a code": {"status": 400, "code": None, "message": "No."},
    "401": {"status": 401, "code": "invalid_api_key"},
    "403": {"status": 403, "code": "unsupported_country_region_territory"},
    "404": {"status": 404, "code": "model_not_found", "param": "model"},
    "409": {"status": 409, "code": "conflict"},
    "413": {"status": 413, "code": "too_large"},
    "422": {"status": 422, "code": "unprocessable"},
    "429": {"status": 429, "code": "rate_limit_exceeded", "retry_after": 7},
    "429 for good": {"status": 429, "code": "insufficient_quota", "headers": {"x-should-retry": "false"}},
    "500": {"status": 500},
    "502": {"status": 502, "code": "bad_gateway"},
    "503": {"status": 503, "code": "server_is_overloaded", "retry_after": 1},
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
async def test_refusals_are_those_of_a_direct_call(
    proxied: Any, clients: Any, fault: dict[str, Any], *, stream: bool
) -> None:
    """Upstream's refusal raises the same class with the same status, message, code, param and headers."""
    run = await proxied()
    run.simulator.inject(Fault("before_created", "error", times=None, **fault))
    through, direct = [await outcome(client, stream=stream) for client in await clients(run)]
    assert through == direct
    assert issubclass(through["raised"], openai.APIStatusError)
    assert run.simulator.turns[0].endpoint == "responses"


@pytest.mark.parametrize("events", [5, 7])
async def test_errors_in_the_middle_are_those_of_a_direct_call(proxied: Any, clients: Any, events: int) -> None:
    """An error after the first words is one in the stream, with the same words before it."""
    run = await proxied(lambda _: Output((Text("one two three"),), delta_size=4))
    outcomes = []
    for client in await clients(run):
        run.simulator.inject(Fault("after_events", "error", events=events, code="server_error", message="Gone."))
        outcomes.append(await outcome(client, stream=True))
    assert outcomes[0] == outcomes[1]
    assert (outcomes[0]["raised"], outcomes[0]["message"]) == (openai.APIError, "Gone.")


async def test_a_failed_response_is_that_of_a_direct_call(proxied: Any, clients: Any) -> None:
    """What fails after the first words ends in an error record; where nothing streams it is a status."""
    run = await proxied(lambda _: says("words", finish=Failed("server_error", "Broken.")))
    for stream in (False, True):
        through, direct = [await outcome(client, stream=stream) for client in await clients(run)]
        assert through == direct
        assert through["body"]["message"] == "Broken."


async def test_a_limit_that_passes_is_tried_again(proxied: Any, clients: Any) -> None:
    """The SDK waits as it is told, and succeeds."""
    run = await proxied(lambda _: says("at last"))
    limit = Fault("before_created", "error", status=429, code="rate_limit_exceeded", retry_after=0.01, times=2)
    run.simulator.inject(limit)
    client, _ = await clients(run, max_retries=2)
    assert await outcome(client) == "at last"
    await run.recorded(3)
    assert [record.status for record in run.server.ledger.turns(9)] == ["completed", "failed", "failed"]


async def test_a_wrong_key_is_refused_either_way(proxied: Any, clients: Any) -> None:
    """The refused upgrade is the 401 that a POST would have been."""
    run = await proxied(simulated={"api_keys": ("sk-right",)})
    through, direct = [await outcome(client) for client in await clients(run, api_key="sk-wrong")]
    assert through == direct
    assert through["raised"] is openai.AuthenticationError


async def test_a_history_that_is_too_long_is_refused_either_way(proxied: Any, clients: Any) -> None:
    """Agents that compact go by the code; the parameter is Chat's."""
    run = await proxied(simulated={"context_limit_tokens": 100})
    long = [{"role": "user", "content": "word " * 400}]
    through, direct = [await outcome(client, messages=long) for client in await clients(run)]
    assert through == direct
    assert (through["body"]["code"], through["body"]["param"]) == ("context_length_exceeded", "messages")


MALFORMED: dict[str, dict[str, Any]] = {
    "no model": {"model": openai.omit},
    "an empty model": {"model": ""},
    "no messages": {"messages": openai.omit},
    "empty messages": {"messages": []},
    "messages of the wrong type": {"messages": "hello"},
    "an unknown role": {"messages": [{"role": "robot", "content": "x"}]},
    "a user who says null": {"messages": [{"role": "user", "content": None}]},
    "content of the wrong type": {"messages": [{"role": "user", "content": 7}]},
    "an unknown part": {"messages": [{"role": "user", "content": [{"type": "smell"}]}]},
    "a picture from the system": {
        "messages": [{"role": "system", "content": [{"type": "image_url", "image_url": {"url": "data:x"}}]}]
    },
    "a result without a call": {"messages": [USER, RESULT]},
    "a call without a result": {"messages": [USER, CALL]},
    "words between a call and its result": {"messages": [USER, CALL, USER, RESULT]},
    "a result told twice": {"messages": [USER, CALL, RESULT, RESULT]},
    "an unknown parameter": {"nonsense": 1},
    "a parameter of the other API": {"input": "hello"},
    "no choices": {"n": 0},
    "too many choices": {"n": 200},
    "two limits": {"max_tokens": 20, "max_completion_tokens": 20},
    "a limit of nothing": {"max_completion_tokens": 0},
    "alternatives without logprobs": {"top_logprobs": 2},
    "alternatives to no logprobs": {"top_logprobs": 2, "logprobs": False},
    "too many alternatives": {"top_logprobs": 21, "logprobs": True},
    "too hot": {"temperature": 3},
    "top_p below zero": {"top_p": -1},
    "an unknown effort": {"reasoning_effort": "extreme"},
    "an unknown verbosity": {"verbosity": "chatty"},
    "an unknown format": {"response_format": {"type": "xml"}},
    "a format without a schema": {"response_format": {"type": "json_schema"}},
    "a schema without a name": {"response_format": {"type": "json_schema", "json_schema": {"schema": SCHEMA}}},
    "a tool of an unknown type": {"tools": [{"type": "hammer"}]},
    "a tool without a function": {"tools": [{"type": "function"}]},
    "a tool of the other API": {"tools": [{"type": "function", "name": "ls"}]},
    "a tool without a name": {"tools": [TOOL, {"type": "function", "function": {"parameters": SCHEMA}}]},
    "an empty list of tools": {"tools": []},
    "a choice without tools": {"tool_choice": "auto"},
    "parallel calls without tools": {"parallel_tool_calls": True},
    "options of a stream without one": {"stream": False, "stream_options": {"include_usage": True}},
}


@pytest.mark.parametrize("fields", MALFORMED.values(), ids=MALFORMED.keys())
async def test_bad_requests_are_those_of_a_direct_call(proxied: Any, clients: Any, fields: dict[str, Any]) -> None:
    """A request that upstream refuses is refused in Chat's words, with the parameter that the agent sent."""
    run = await proxied()
    for stream in (False, True):
        through, direct = [await outcome(client, **{"stream": stream, **fields}) for client in await clients(run)]
        assert through == direct
        assert through["raised"] is openai.BadRequestError


WITHOUT_EQUAL: dict[str, dict[str, Any]] = {
    "n": {"n": 2},
    "stop": {"stop": ["\n"]},
    "stop, a string": {"stop": "x"},
    "seed": {"seed": 7},
    "seed of zero": {"seed": 0},
    "logit_bias": {"logit_bias": {"50256": -100}},
    "frequency_penalty": {"frequency_penalty": 0.5},
    "presence_penalty": {"presence_penalty": -1},
    "prediction": {"prediction": {"type": "content", "content": "x"}},
    "audio": {"modalities": ["text", "audio"], "audio": {"voice": "alloy", "format": "wav"}},
    "modalities": {"modalities": ["audio"]},
    "functions": {"functions": [{"name": "ls", "parameters": SCHEMA}]},
    "function_call": {"functions": [{"name": "ls"}], "function_call": {"name": "ls"}},
    "a message of the role function": {
        "messages": [
            USER,
            {"role": "assistant", "content": None, "function_call": {"name": "ls", "arguments": "{}"}},
            {"role": "function", "name": "ls", "content": "a.py"},
        ]
    },
    "a user's name": {"messages": [{**USER, "name": "alice"}]},
    "the system's name": {"messages": [{"role": "system", "name": "s", "content": "x"}, USER]},
    "the assistant's name": {"messages": [USER, {"role": "assistant", "name": "bob", "content": "x"}, USER]},
    "earlier audio": {"messages": [USER, {"role": "assistant", "audio": {"id": "audio_1"}}, USER]},
    "web_search_options": {"web_search_options": {"search_context_size": "low"}},
    "store": {"store": True},
    "max_tokens below 16": {"max_tokens": 15},
    "max_completion_tokens below 16": {"max_completion_tokens": 1},
    "both limits": {"max_tokens": 100, "max_completion_tokens": 100},
    "an unknown parameter": {"thinking": {"type": "enabled"}},
    "an unknown key in a message": {"messages": [{**USER, "cache_control": {"type": "ephemeral"}}]},
    "an unknown key in a part": {
        "messages": [{"role": "user", "content": [{"type": "text", "text": "x", "cache_control": {}}]}]
    },
    "an unknown key in a tool": {"tools": [{**TOOL, "cache_control": {}}]},
    "an unknown key in a function": {"tools": [{"type": "function", "function": {"name": "ls", "eager": True}}]},
    "an unknown option of the stream": {"stream": True, "stream_options": {"include_thoughts": True}},
}


@pytest.mark.parametrize("fields", WITHOUT_EQUAL.values(), ids=WITHOUT_EQUAL.keys())
async def test_what_has_no_equal_goes_as_it_came(proxied: Any, fields: dict[str, Any]) -> None:
    """The agent's own bytes reach upstream's Chat endpoint, and its answer comes back."""
    run = await proxied(scripted(["hello"]), simulated={"strict_fields": False})
    body = orjson.dumps({"messages": [USER], "model": "m", **fields}, option=orjson.OPT_INDENT_2) + b"\n"
    path = "/v1/chat/completions"
    answer = await run.ask("POST", path, KEY, ("Content-Type", "application/json"), body=body)
    (asked,) = [request for request in run.simulator.requests if request.method == "POST"]
    assert (asked.path, asked.body_sha256) == (path, hashlib.sha256(body).hexdigest())
    (turn,) = run.simulator.turns
    assert (turn.endpoint, turn.request) == ("chat", orjson.loads(body))
    assert (answer.status, b"hello" in answer.body) == ((400, False) if turn.error else (200, True))
    await run.recorded(1)
    (record,) = (await run.figures("turns"))["turns"]
    assert (record["front_end"], record["upload"], record["reason"]) == ("chat", "http", "unsupported_field")
    assert run.simulator.connections == []


WITH_EQUAL: dict[str, dict[str, Any]] = {
    "neutral values": {
        "n": 1,
        "frequency_penalty": 0,
        "presence_penalty": 0.0,
        "logit_bias": {},
        "modalities": ["text"],
        "store": False,
        "logprobs": False,
    },
    "nulls": dict.fromkeys(
        ("n", "stop", "seed", "logit_bias", "audio", "prediction", "frequency_penalty", "store", "max_tokens")
    ),
    "the least limit": {"max_tokens": 16},
    "nulls in messages": {
        "messages": [{**USER, "name": None}, {**CALL, "audio": None, "function_call": None}, RESULT],
    },
}


@pytest.mark.parametrize("fields", WITH_EQUAL.values(), ids=WITH_EQUAL.keys())
async def test_what_asks_for_nothing_does_not_stand_in_the_way(
    proxied: Any, clients: Any, fields: dict[str, Any]
) -> None:
    """Defaults that are spelt out, and nulls, are no reason for plain HTTP."""
    run = await proxied(lambda _: says("hello"))
    client, _ = await clients(run)
    assert await outcome(client, **fields) == "hello"
    assert run.simulator.turns[0].endpoint == "responses"
    await run.recorded(1)
    assert run.server.ledger.uploads == {"full": 1}


async def test_a_refusal_is_not_held_against_what_follows(proxied: Any, clients: Any) -> None:
    """What was malformed once does not keep the next request from the WebSocket."""
    run = await proxied(scripted(["one", "two"]))
    client, _ = await clients(run)
    assert await outcome(client) == "one"
    assert (await outcome(client, temperature=3))["raised"] is openai.BadRequestError
    assert await outcome(client, messages=[USER, {"role": "assistant", "content": "one"}, USER]) == "two"
    await run.recorded(3)
    latest = next(run.server.ledger.turns(1))
    assert latest.upload in {"delta", "full"}
