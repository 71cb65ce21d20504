"""The official SDK's Chat Completions through the proxy: what an agent's program does, turn after turn."""

import asyncio
import base64
import json  # noqa: TID251  (arguments are rewritten as other programs write them)
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from random import Random
from typing import Any

import openai
import pytest
from chatsessions import ECHOES, Weather
from openai import AsyncOpenAI, DefaultAsyncHttpxClient, OpenAI

from proxy.simulator import CustomToolCall, Declined, FunctionCall, Output, Reasoning, says, scripted

ADD: Any = {
    "type": "function",
    "function": {
        "name": "add",
        "description": "Add two numbers.",
        "parameters": {
            "type": "object",
            "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
            "required": ["a", "b"],
            "additionalProperties": False,
        },
        "strict": True,
    },
}
USER: Any = {"role": "user", "content": "add three times"}
SYSTEM: Any = {"role": "system", "content": "be brief"}
Connect = Callable[..., Awaitable[AsyncOpenAI]]
Complete = Callable[[AsyncOpenAI, list[Any]], Awaitable[Any]]


@pytest.fixture
def connect(stack: AsyncExitStack) -> Connect:
    """Make a client of the SDK."""

    async def start(run: Any, **options: Any) -> AsyncOpenAI:
        http_client = DefaultAsyncHttpxClient(verify=False)  # reading certificates takes a while
        options = {"api_key": "sk-test", "max_retries": 0, "http_client": http_client, **options}
        return await stack.enter_async_context(AsyncOpenAI(base_url=run.server.url + "/v1", **options))

    return start


def worker(call: Any) -> Output:
    """Use the tool, twice at once, until there are three rounds of results, and then say so."""
    results = [item for item in call.context if item.get("type") == "function_call_output"]
    done = len(results) // 2
    if done < 3:
        arguments = f'{{"a": {done}, "b":1}}'
        calls = (FunctionCall("add", arguments, call_id=f"call_{done}_{each}") for each in "ab")
        return says(Reasoning(("I add.",)), "Let me add." if done else "", *calls)
    return says(f"done after {done}")


async def whole(client: AsyncOpenAI, messages: list[Any]) -> Any:
    """Ask for the whole completion."""
    completion = await client.chat.completions.create(model="m", messages=messages, tools=[ADD])
    return completion.choices[0].message


async def streamed(client: AsyncOpenAI, messages: list[Any]) -> Any:
    """Ask for chunks, and put them together by hand."""
    stream: Any = await client.chat.completions.create(model="m", messages=messages, tools=[ADD], stream=True)
    text, calls = "", dict[int, Any]()
    async for chunk in stream:
        delta = chunk.choices[0].delta
        text += delta.content or ""
        for piece in delta.tool_calls or ():
            raw = piece.model_dump(exclude_unset=True)
            known = calls.setdefault(raw.pop("index"), raw)
            if known is not raw:
                known["function"]["arguments"] += raw["function"]["arguments"]
    told = {"role": "assistant", "content": text or None, "tool_calls": list(calls.values()) or None}
    return openai.types.chat.ChatCompletionMessage.model_validate(told)


async def helped(client: AsyncOpenAI, messages: list[Any]) -> Any:
    """Use the SDK's streaming helper."""
    async with client.chat.completions.stream(model="m", messages=messages, tools=[ADD]) as stream:
        return (await stream.get_final_completion()).choices[0].message


async def parsed(client: AsyncOpenAI, messages: list[Any]) -> Any:
    """Use the SDK's parser, which reads the arguments too."""
    completion = await client.chat.completions.parse(model="m", messages=messages, tools=[ADD])
    return completion.choices[0].message


WAYS: dict[str, Complete] = {"whole": whole, "streamed": streamed, "helper": helped, "parse": parsed}


def results(message: Any) -> list[dict[str, Any]]:
    """Return what the tools say."""
    return [
        {"role": "tool", "tool_call_id": call.id, "content": str(json.loads(call.function.arguments)["a"])}
        for call in message.tool_calls or ()
    ]


@pytest.mark.parametrize("echo", ECHOES.values(), ids=ECHOES.keys())
@pytest.mark.parametrize("complete", WAYS.values(), ids=WAYS.keys())
async def test_a_tool_loop_goes_up_in_deltas(
    proxied: Any, connect: Connect, complete: Complete, echo: Callable[[Any], Any]
) -> None:
    """However agents write the answer back, one full upload is enough, and the model misses nothing."""
    run = await proxied(worker)
    client = await connect(run)
    history: list[Any] = [SYSTEM, USER]
    while (message := await complete(client, history)).tool_calls:
        history += [echo(message), *results(message)]
    assert message.content == "done after 3"
    await run.recorded(4)
    records = list(run.server.ledger.turns(9))
    assert [record.upload for record in records] == ["delta", "delta", "delta", "full"]
    assert [record.items_sent for record in records] == [2, 2, 2, 2]
    assert {record.front_end for record in records} == {"chat"}
    texts = [item["output"] for item in run.simulator.turns[-1].context if "output" in item]
    assert texts == ["0", "0", "1", "1", "2", "2"]
    assert len(run.simulator.connections) == 1
    bytes_up = [record.bytes_to_upstream for record in records]
    assert max(bytes_up[:3]) < records[0].bytes_from_agent


@pytest.mark.parametrize("stream", [False, True])
async def test_the_synchronous_client(proxied: Any, *, stream: bool) -> None:
    """The SDK without asyncio holds the same conversation."""
    run = await proxied(worker)

    def ask(client: OpenAI, history: list[Any]) -> Any:
        asked: dict[str, Any] = {"model": "m", "messages": history, "tools": [ADD]}
        if not stream:
            return client.chat.completions.create(**asked).choices[0].message
        with client.chat.completions.stream(**asked) as events:
            return events.get_final_completion().choices[0].message

    def converse() -> str:
        history: list[Any] = [USER]
        with OpenAI(base_url=run.server.url + "/v1", api_key="sk-test", max_retries=0) as client:
            while (message := ask(client, history)).tool_calls:
                history += [message, *results(message)]
        return str(message.content)

    assert await asyncio.to_thread(converse) == "done after 3"
    await run.recorded(4)
    assert [record.upload for record in run.server.ledger.turns(9)] == ["delta", "delta", "delta", "full"]


async def test_an_answer_in_a_schema(proxied: Any, connect: Connect) -> None:
    """`parse` has an object of the class that was asked for, and upstream was asked for its schema, strictly."""
    run = await proxied(scripted(['{"city": "Oslo", "degrees": -4}', says(Declined("I don't do weather."))]))
    client = await connect(run)
    ask: dict[str, Any] = {"model": "m", "messages": [USER], "response_format": Weather}
    message = (await client.chat.completions.parse(**ask)).choices[0].message
    assert message.parsed == Weather(city="Oslo", degrees=-4)
    wanted = run.simulator.turns[0].request["text"]["format"]
    assert (wanted["type"], wanted["name"], wanted["strict"]) == ("json_schema", "Weather", True)
    assert wanted["schema"]["required"] == ["city", "degrees"]
    message = (await client.chat.completions.parse(**ask)).choices[0].message
    assert (message.parsed, message.refusal) == (None, "I don't do weather.")


async def test_pictures_are_sent_once(proxied: Any, connect: Connect) -> None:
    """What the model has seen does not go up again."""
    run = await proxied(scripted(["a cat", "a grey one"]))
    client = await connect(run)
    pixels = base64.b64encode(Random(0).randbytes(50_000)).decode()
    picture: Any = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{pixels}"}}
    history: list[Any] = [{"role": "user", "content": [{"type": "text", "text": "what is it?"}, picture]}]
    message = await whole(client, history)
    history += [message, {"role": "user", "content": "what colour?"}]
    assert (await whole(client, history)).content == "a grey one"
    await run.recorded(2)
    later, first = run.server.ledger.turns(2)
    assert (first.upload, later.upload) == ("full", "delta")
    assert first.bytes_to_upstream > 50_000 > 50 * later.bytes_to_upstream
    seen = run.simulator.turns[1].context[0]["content"][1]
    assert (seen["type"], seen["image_url"]) == ("input_image", picture["image_url"]["url"])


async def test_custom_tools(proxied: Any, connect: Connect) -> None:
    """A call in free text, and its result, are continued as well."""
    run = await proxied(scripted([says(CustomToolCall("sh", "ls -l\n", "call_1")), "one file"]))
    client = await connect(run)
    ask: dict[str, Any] = {"model": "m", "tools": [{"type": "custom", "custom": {"name": "sh"}}]}
    history: list[Any] = [USER]
    message = (await client.chat.completions.create(messages=history, **ask)).choices[0].message
    assert message.tool_calls[0].custom.input == "ls -l\n"
    history += [message, {"role": "tool", "tool_call_id": "call_1", "content": "a.py"}]
    message = (await client.chat.completions.create(messages=history, **ask)).choices[0].message
    assert message.content == "one file"
    await run.recorded(2)
    assert next(run.server.ledger.turns(1)).upload == "delta"
    assert [item["type"] for item in run.simulator.turns[1].input] == ["custom_tool_call_output"]


async def test_the_usage_is_there_when_asked_for(proxied: Any, connect: Connect) -> None:
    """In the last chunk of all, which has no choice; cached tokens are told."""
    run = await proxied(lambda _: says("hello"))
    client = await connect(run)
    history = [{"role": "user", "content": "word " * 600}]
    ask: dict[str, Any] = {"model": "m", "messages": history, "stream": True}
    counted = []
    for _ in range(2):
        stream = await client.chat.completions.create(**ask, stream_options={"include_usage": True})
        *chunks, last = [chunk async for chunk in stream]
        assert last.choices == []
        assert {chunk.usage for chunk in chunks} == {None}
        counted.append(last.usage)
        history += [{"role": "assistant", "content": "hello"}, {"role": "user", "content": "again"}]
    assert counted[1].prompt_tokens > counted[0].prompt_tokens
    assert counted[1].prompt_tokens_details.cached_tokens > 0
    assert {chunk.usage for chunk in [chunk async for chunk in await client.chat.completions.create(**ask)]} == {
        None
    }


async def test_many_conversations_at_once(proxied: Any, connect: Connect) -> None:
    """Agents that share a key and a proxy each get their own answers, in deltas."""

    def parrot(call: Any) -> Output:
        parts = [item["content"] for item in call.context if item.get("role") == "user"]
        return says(" | ".join(part if isinstance(part, str) else part[0]["text"] for part in parts))

    run = await proxied(parrot)
    client = await connect(run)

    async def converse(name: int) -> list[str | None]:
        history: list[Any] = []
        answers = []
        for n in range(5):
            history.append({"role": "user", "content": f"{name}.{n}"})
            message = (await client.chat.completions.create(model="m", messages=history)).choices[0].message
            history.append(message)
            answers.append(message.content)
        return answers

    for name, answers in enumerate(await asyncio.gather(*map(converse, range(6)))):
        assert answers == [" | ".join(f"{name}.{m}" for m in range(n + 1)) for n in range(5)]
    await run.recorded(30)
    assert run.server.ledger.uploads == {"full": 6, "delta": 24}


async def test_what_only_a_chat_history_tells_in_these_words_is_not_continued_by_another(
    proxied: Any, connect: Connect
) -> None:
    """Chat joins what a response said around its calls; an agent that tells it so to Responses means just that."""
    call = FunctionCall("ls", "{}", "c1")
    run = await proxied(scripted([says("A", call, "B"), "two", "three", "four"]))
    client = await connect(run)
    tool: Any = {"role": "tool", "tool_call_id": "c1", "content": "x"}
    told: Any = {
        "role": "assistant",
        "content": "AB",
        "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "ls", "arguments": "{}"}}],
    }
    messages: list[Any] = [USER]
    await client.chat.completions.create(model="m", messages=messages)
    await client.chat.completions.create(model="m", messages=[*messages, told, tool])
    items: list[Any] = [
        USER,
        {"role": "assistant", "content": "AB"},
        {"type": "function_call", "call_id": "c1", "name": "ls", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c1", "output": "x"},
        {"role": "assistant", "content": "two"},
        {"role": "user", "content": "more"},
    ]
    for history in (items, items[:4]):
        await client.responses.create(model="m", input=history, store=False)
        assert [item["type"] for item in run.simulator.turns[-1].context[1:3]] == ["message", "function_call"]
    await run.recorded(4)
    assert [record.upload for record in run.server.ledger.turns(4)] == ["full", "full", "delta", "full"]


async def test_both_apis_share_a_connection(proxied: Any, connect: Connect) -> None:
    """What was begun in Chat Completions goes on in Responses, as a delta: the history is the same."""
    run = await proxied(scripted(["one", "two"]))
    client = await connect(run)
    await client.chat.completions.create(model="m", messages=[USER])
    history = [USER, {"role": "assistant", "content": "one"}, {"role": "user", "content": "more"}]
    response = await client.responses.create(model="m", input=history, store=False)
    assert response.output_text == "two"
    assert len(run.simulator.turns[1].context) == 3
    await run.recorded(2)
    assert [record.upload for record in run.server.ledger.turns(2)] == ["delta", "full"]
