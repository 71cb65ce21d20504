"""The official Python SDK, sync and async: through the proxy it behaves as it does without."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI, OpenAI

from proxy.simulator import Fault, FunctionCall, Incomplete, Output, Reasoning, says

TOOL = {
    "type": "function",
    "name": "add",
    "description": "Add two numbers.",
    "parameters": {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}},
    "strict": False,
}
Connect = Callable[..., Awaitable[AsyncOpenAI]]


@pytest.fixture
def connect(stack: AsyncExitStack) -> Connect:
    """Make a client of the SDK."""

    async def start(base_url: str, **options: Any) -> AsyncOpenAI:
        options = {"api_key": "sk-test", "max_retries": 0, **options}
        return await stack.enter_async_context(AsyncOpenAI(base_url=base_url, **options))

    return start


def worker(call: Any) -> Output:
    """Use the tool until there are three results, and then say so."""
    results = [item for item in call.context if item.get("type") == "function_call_output"]
    if len(results) < 3:
        return says(
            Reasoning(("I add.",)),
            "Let me add.",
            FunctionCall("add", f'{{"a": {len(results)}, "b":1}}', call_id=f"call_{len(results)}"),
        )
    return says(f"done after {len(results)}")


def answered(output: list[Any], echo: Callable[[Any], Any]) -> list[Any]:
    """Return what goes into the history for *output*: its items as *echo* writes them, and the tool's results."""
    calls = [item.call_id for item in output if item.type == "function_call"]
    results = [{"type": "function_call_output", "call_id": call, "output": "1"} for call in calls]
    return [echo(item) for item in output] + results


ECHOES: dict[str, Callable[[Any], Any]] = {
    "model_dump": lambda item: item.model_dump(),
    "without unset": lambda item: item.model_dump(exclude_unset=True),
    "without none": lambda item: item.model_dump(exclude_none=True),
    "the objects themselves": lambda item: item,
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("echo", ECHOES.values(), ids=ECHOES.keys())
async def test_a_tool_loop_goes_up_in_deltas(
    proxied: Any, connect: Connect, echo: Callable[[Any], Any], *, stream: bool
) -> None:
    """An agent's loop needs one full upload; then each turn sends its new items alone, and loses nothing."""
    run = await proxied(worker)
    client = await connect(run.server.url + "/v1")
    history: list[Any] = [{"role": "user", "content": "add three times"}]
    while True:
        ask: dict[str, Any] = {"model": "m", "input": history, "store": False, "tools": [TOOL]}
        if stream:
            async with client.responses.stream(**ask) as events:
                response = await events.get_final_response()
        else:
            response = await client.responses.create(**ask)
        if response.output_text.startswith("done"):
            break
        history += answered(response.output, echo)
    assert response.output_text == "done after 3"
    assert [record.upload for record in run.server.ledger.turns(9)] == ["delta", "delta", "delta", "full"]
    assert [record.items_sent for record in run.server.ledger.turns(9)] == [1, 1, 1, 1]
    assert [len(turn.context) for turn in run.simulator.turns] == [1, 5, 9, 13]
    assert len(run.simulator.connections) == 1


@pytest.mark.parametrize("stream", [False, True])
async def test_the_synchronous_client(proxied: Any, *, stream: bool) -> None:
    """The SDK without asyncio holds the same conversation."""
    run = await proxied(worker)

    def converse() -> str:
        history: list[Any] = [{"role": "user", "content": "add three times"}]
        with OpenAI(base_url=run.server.url + "/v1", api_key="sk-test", max_retries=0) as client:
            while True:
                ask: dict[str, Any] = {"model": "m", "input": history, "store": False, "tools": [TOOL]}
                if stream:
                    *_, last = client.responses.create(**ask, stream=True)
                    response = last.response
                else:
                    response = client.responses.create(**ask)
                if response.output_text.startswith("done"):
                    return str(response.output_text)
                history += answered(response.output, ECHOES["model_dump"])

    assert await asyncio.to_thread(converse) == "done after 3"
    assert [record.upload for record in run.server.ledger.turns(9)] == ["delta", "delta", "delta", "full"]


async def test_the_same_events_as_without(proxied: Any, connect: Connect) -> None:
    """The SDK sees the same types of events with the same texts through the proxy and directly."""
    seen = []
    for through in (True, False):
        run = await proxied(worker)
        client = await connect(run.server.url + "/v1" if through else run.simulator.base_url)
        stream = await client.responses.create(model="m", input="x", store=False, stream=True)
        seen.append([(event.type, getattr(event, "delta", None)) async for event in stream])
    assert seen[0] == seen[1]
    assert seen[0][0][0] == "response.created"
    assert seen[0][-1][0] == "response.completed"


async def test_other_resources(proxied: Any, connect: Connect) -> None:
    """What passes through works as well: models, chat, and stored responses."""
    run = await proxied(worker)
    client = await connect(run.server.url + "/v1")
    direct = await connect(run.simulator.base_url)
    assert (await client.models.list()).data == (await direct.models.list()).data
    chat = await client.chat.completions.create(model="m", messages=[{"role": "user", "content": "x"}])
    assert chat.choices[0].message.content == "Let me add."
    stream = await client.chat.completions.create(
        model="m", messages=[{"role": "user", "content": "x"}], stream=True
    )
    assert [chunk async for chunk in stream][-1].choices[0].finish_reason
    stored = await client.responses.create(model="m", input="x", store=True)
    assert (await client.responses.retrieve(stored.id)).id == stored.id
    raw = await client.models.with_raw_response.list()
    assert raw.headers["x-request-id"].startswith("req_")


@pytest.mark.parametrize("stream", [False, True])
async def test_retries_when_told_to_wait(proxied: Any, connect: Connect, *, stream: bool) -> None:
    """A 429 over the WebSocket is a 429 with retry-after for the SDK, which tries again and succeeds."""
    run = await proxied(worker)
    run.simulator.inject(
        Fault("before_created", "error", status=429, code="rate_limit_exceeded", retry_after=0.01, times=2)
    )
    client = await connect(run.server.url + "/v1", max_retries=2)
    response: Any = await client.responses.create(model="m", input="x", store=False, stream=stream)
    if stream:
        assert [event.type async for event in response][-1] == "response.completed"
    assert [record.status for record in run.server.ledger.turns(9)] == ["completed", "failed", "failed"]
    assert {turn.transport for turn in run.simulator.turns} == {"ws"}


# The same trouble, through the proxy and directly.

FAULTS: dict[str, Fault | dict[str, Any]] = {
    "400": {"status": 400, "code": "invalid_value", "message": "no"},
    "400 without a code": {"status": 400, "code": None, "message": "no"},
    "401": {"status": 401, "code": "invalid_api_key"},
    "403": {"status": 403, "code": "unsupported_country_region_territory"},
    "404": {"status": 404, "code": "model_not_found"},
    "409": {"status": 409, "code": "conflict"},
    "422": {"status": 422, "code": "unprocessable"},
    "429": {"status": 429, "code": "rate_limit_exceeded", "retry_after": 7},
    "429 for good": {"status": 429, "code": "insufficient_quota", "headers": {"x-should-retry": "false"}},
    "500": {"status": 500},
    "502": {"status": 502, "code": "bad_gateway"},
    "503": {"status": 503, "code": "server_is_overloaded"},
}
SPOILED: dict[str, dict[str, Any]] = {
    "unknown parameter": {"nonsense": 1},
    "model missing": {"model": openai.omit},
    "input of the wrong type": {"input": 7},
    "unknown response": {"previous_response_id": "resp_unknown"},
    "output without a call": {"input": [{"type": "function_call_output", "call_id": "x", "output": "y"}]},
}


async def outcome(client: AsyncOpenAI, **fields: Any) -> Any:
    """Return how the SDK reports what comes of a request."""
    ask = {"model": "m", "input": "x", "store": False, "stream": False, **fields}
    extra = {name: ask.pop(name) for name in ("nonsense",) if name in ask}
    ask = {name: value for name, value in ask.items() if value is not openai.omit}
    try:
        if "model" not in ask:
            response: Any = await client.post("/responses", cast_to=object, body=ask)
        else:
            response = await client.responses.create(**ask, extra_body=extra)
        if ask["stream"]:
            return [event.type async for event in response]
    except openai.APIStatusError as exc:
        told = {name: exc.response.headers.get(name) for name in ("retry-after", "x-should-retry")}
        return type(exc), exc.status_code, exc.body, exc.code, exc.param, exc.type, told
    except openai.APIError as exc:
        return type(exc), exc.body, exc.code
    return response.status


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
async def test_errors_are_those_of_a_direct_call(
    proxied: Any, connect: Connect, fault: dict[str, Any], *, stream: bool
) -> None:
    """Upstream's refusal raises the same class with the same status, body and headers either way."""
    run = await proxied(worker)
    outcomes = []
    for base in (run.server.url + "/v1", run.simulator.base_url):
        run.simulator.inject(Fault("before_created", "error", times=None, **fault))
        outcomes.append(await outcome(await connect(base), stream=stream))
    assert outcomes[0] == outcomes[1]
    assert issubclass(outcomes[0][0], openai.APIStatusError)
    transports = [turn.transport for turn in run.simulator.turns]
    assert transports == ["ws", *["http"] * (len(transports) - 1)]
    assert len(transports) <= 3


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("fields", SPOILED.values(), ids=SPOILED.keys())
async def test_bad_requests_are_those_of_a_direct_call(
    proxied: Any, connect: Connect, fields: dict[str, Any], *, stream: bool
) -> None:
    """A request that upstream refuses is refused in the same words either way."""
    run = await proxied(worker)
    outcomes = [
        await outcome(await connect(base), stream=stream, **fields)
        for base in (run.server.url + "/v1", run.simulator.base_url)
    ]
    assert outcomes[0] == outcomes[1]
    assert issubclass(outcomes[0][0], openai.APIStatusError)


async def test_a_wrong_key_is_refused_either_way(proxied: Any, connect: Connect) -> None:
    """The refused upgrade is the 401 that a POST would have been."""
    run = await proxied(worker, simulated={"api_keys": ("sk-right",)})
    outcomes = [
        await outcome(await connect(base, api_key="sk-wrong"))
        for base in (run.server.url + "/v1", run.simulator.base_url)
    ]
    assert outcomes[0] == outcomes[1]
    assert outcomes[0][0] is openai.AuthenticationError


BREAKS = {
    "reset after created": Fault("after_created", "abort"),
    "reset mid-stream": Fault("after_events", "abort", events=5),
    "error mid-stream": Fault("after_events", "error", events=5),
    "error and failure mid-stream": Fault("after_events", "error", events=5, then_failed=True),
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("fault", BREAKS.values(), ids=BREAKS.keys())
async def test_what_breaks_off_never_passes_for_the_whole(
    proxied: Any, connect: Connect, fault: Fault, *, stream: bool
) -> None:
    """An answer that fails in the middle raises in the SDK: over a WebSocket errors are worded so that they do."""
    run = await proxied(worker, ambiguous_retries=0)
    run.simulator.inject(replace(fault))
    got = await outcome(await connect(run.server.url + "/v1"), stream=stream)
    assert issubclass(got[0], openai.APIError)


@pytest.mark.parametrize("name", ["reset after created", "reset mid-stream"])
async def test_what_was_not_shown_is_made_good(proxied: Any, connect: Connect, name: str) -> None:
    """An agent that does not stream gets the whole answer, as if nothing had happened."""
    run = await proxied(worker)
    wanted = await outcome(await connect(run.server.url + "/v1"))
    run.simulator.inject(replace(BREAKS[name]))
    assert await outcome(await connect(run.server.url + "/v1")) == wanted


@pytest.mark.parametrize("stream", [False, True])
async def test_an_incomplete_answer_is_the_same_either_way(
    proxied: Any, connect: Connect, *, stream: bool
) -> None:
    """What the model's limit cut short is no error."""
    run = await proxied(lambda _: says("half of", finish=Incomplete()))
    outcomes = [
        await outcome(await connect(base), stream=stream)
        for base in (run.server.url + "/v1", run.simulator.base_url)
    ]
    assert outcomes[0] == outcomes[1]


async def test_nobody_upstream_is_an_error_that_is_retried(
    proxied: Any, connect: Connect, raw_upstream: Any
) -> None:
    """An upstream that hangs up at once is a 502, which the SDK tries again as it would a lost connection."""
    met = 0

    async def serve(peer: Any) -> None:
        nonlocal met
        met += 1
        peer.close()

    run = await proxied(upstream=(await raw_upstream(serve)).base_url)
    client = await connect(run.server.url + "/v1", max_retries=1)
    with pytest.raises(openai.InternalServerError, match="packlight"):
        await client.responses.create(model="m", input="x")
    assert run.server.ledger.uploads.total() == 2
    assert met >= 2


async def test_many_conversations_at_once(proxied: Any, connect: Connect) -> None:
    """Agents that share a key and a proxy each get their own answers, in deltas."""

    def parrot(call: Any) -> Output:
        return says(" | ".join(item["content"] for item in call.context if item.get("role") == "user"))

    run = await proxied(parrot)
    client = await connect(run.server.url + "/v1")

    async def converse(name: int) -> AsyncIterator[tuple[str, str]]:
        history: list[Any] = []
        for n in range(5):
            history.append({"role": "user", "content": f"{name}.{n}"})
            response = await client.responses.create(model="m", input=history, store=False)
            history += [item.model_dump() for item in response.output]
            yield response.output_text, " | ".join(f"{name}.{m}" for m in range(n + 1))

    async def check(name: int) -> None:
        async for got, expected in converse(name):
            assert got == expected

    await asyncio.gather(*map(check, range(6)))
    assert run.server.ledger.uploads == {"full": 6, "delta": 24}
