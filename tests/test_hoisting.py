"""Settings that are told once per chain: what upstream is told, and that the agent sees its own."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import orjson
import pytest
from conversation import Clock
from openai import AsyncOpenAI
from proxied import Proxied
from websockets.asyncio.server import ServerConnection, serve

from proxy.simulator import Failed, Fault, FunctionCall, ModelCall, Output, Reasoning, says

JSON = dict[str, Any]
TOOL: JSON = {
    "type": "function",
    "name": "add",
    "description": "Add two numbers.",
    "parameters": {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}},
    "strict": False,
}
CUSTOM: JSON = {"type": "custom", "name": "note", "description": "Take a note."}
SETTINGS: JSON = {"instructions": "Be brief.", "tools": [TOOL]}
ITEMS = [
    {"type": "message", "role": "developer", "content": "Be brief."},
    {"type": "additional_tools", "role": "developer", "tools": [TOOL]},
]


def sent(run: Proxied) -> list[JSON]:
    """Return the requests that upstream got."""
    return [turn.request for turn in run.simulator.turns]


def is_hoisted(request: JSON) -> bool:
    """Whether *request* has no settings but in its items, or in those of its chain."""
    is_full = "previous_response_id" not in request
    return not request.keys() & {"instructions", "tools"} and (not is_full or request["input"][:2] == ITEMS)


async def until(run: Proxied, figure: str, count: int = 1) -> None:
    """Wait until there are so many verdicts."""
    async with asyncio.timeout(10):
        while (await run.figures())["hoists"][figure] < count:
            pass


async def test_a_chain_is_told_its_settings_once(proxied: Any, agents: Any) -> None:
    """The first request has them as its first items, and those that continue it not at all."""
    run = await proxied(hoist="on")
    agent = await agents(run.server.url, temperature=0.5, **SETTINGS)
    for said in ("one", "two", "three"):
        assert (await agent.turn(said)).completed
    first, *rest = sent(run)
    assert first["input"][:2] == ITEMS
    assert len(first["input"]) == 3
    assert [len(request["input"]) for request in rest] == [1, 1]
    assert all(is_hoisted(request) and request["temperature"] == 0.5 for request in sent(run))
    assert (await run.figures())["hoists"] == {"turns": 3, "proven": 0, "disproven": 0}


async def test_any_event_tells_the_agents_own_settings(proxied: Any, stack: AsyncExitStack) -> None:
    """Also one that adds a piece, comes alone, and has the response in it."""
    response: dict[str, Any] = {"id": "r", "output": [], "instructions": None}
    kinds = ("created", "output_text.delta", "state.delta", "completed")

    async def speak(connection: ServerConnection) -> None:
        await connection.recv()
        for kind in kinds:
            event = {"type": f"response.{kind}", "delta": "a", "response": response}
            await connection.send(orjson.dumps(event).decode())
            await asyncio.sleep(0.05)
        await connection.wait_closed()

    server = await stack.enter_async_context(serve(speak, "127.0.0.1", 0))
    upstream = "http://{}:{}/v1".format(*next(iter(server.sockets)).getsockname())
    run = await proxied(upstream=upstream, hoist="on")
    asked = {"model": "m", "store": False, "stream": True, "input": [{"role": "user", "content": "x"}]}
    answer = await run.post({**asked, "instructions": "Be brief."})
    told = [orjson.loads(line[6:]) for line in answer.body.splitlines() if line.startswith(b"data: ")]
    assert [each["response"]["instructions"] for each in told] == ["Be brief."] * len(kinds)


async def test_it_is_off_unless_asked_for(proxied: Any, agents: Any) -> None:
    """By default upstream gets the agent's own fields with each turn."""
    run = await proxied()
    agent = await agents(run.server.url, **SETTINGS)
    for said in ("one", "two"):
        await agent.turn(said)
    assert [request["instructions"] for request in sent(run)] == ["Be brief."] * 2
    assert [request["tools"] for request in sent(run)] == [[TOOL]] * 2


@pytest.mark.parametrize(
    "changed", [{"instructions": "Be verbose."}, {"tools": [TOOL, CUSTOM]}, {"tools": []}, {"instructions": None}]
)
async def test_changed_settings_begin_a_new_chain(proxied: Any, agents: Any, changed: JSON) -> None:
    """What upstream holds as items would go on to count, so the history goes in full, with settings as fields.

    There they may change with each turn and cost no chain.
    """
    run = await proxied(hoist="on")
    agent = await agents(run.server.url, **SETTINGS)
    await agent.turn("one")
    await agent.turn("two", **changed)
    await agent.turn("three", **changed)
    assert [record.reason for record in run.server.ledger.turns(2)] == [None, "settings_changed"]
    said = {**SETTINGS, **changed}
    for request in sent(run)[1:]:
        assert {name: request.get(name) for name in said} == said
    await agent.turn("four", **{**changed, "instructions": "It is noon."})
    assert next(run.server.ledger.turns(1)).upload == "delta"


async def test_what_is_not_the_same_prompt_stays_as_it_is(proxied: Any, agents: Any) -> None:
    """A stored response, a choice of tools and a tool of upstream's own keep the agent's form."""
    run = await proxied(hoist="on")
    for fields in ({"store": True}, {"tool_choice": "required"}, {"tools": [{"type": "web_search"}]}):
        agent = await agents(run.server.url, **{**SETTINGS, **fields})
        await agent.turn("one")
    assert [request["instructions"] for request in sent(run)] == ["Be brief."] * 3
    assert not any(item["type"] == "additional_tools" for turn in run.simulator.turns for item in turn.context)


async def test_a_refused_form_is_taken_back(proxied: Any, agents: Any) -> None:
    """Upstream does not know the item: the turn goes once more as the agent wrote it, and no other is tried."""
    run = await proxied(hoist="on", simulated={"additional_tools": "refused"})
    for _ in range(2):
        agent = await agents(run.server.url, **SETTINGS)
        assert (await agent.turn("one")).completed
    assert [is_hoisted(request) for request in sent(run)] == [True, False, False]
    assert [record.upload for record in run.server.ledger.turns(2)] == ["full"] * 2
    assert [record.attempts for record in run.server.ledger.turns(2)] == [1, 2]
    assert [record.reason for record in run.server.ledger.turns(2)][1] == "first_turn"
    assert (await run.figures())["hoists"] == {"turns": 0, "proven": 0, "disproven": 1}
    other = await agents(run.server.url, **{**SETTINGS, "model": "gpt-5.6-sol"})
    await other.turn("one")
    assert is_hoisted(sent(run)[3])


async def test_a_request_that_is_wrong_in_both_forms_is_no_verdict(proxied: Any, agents: Any) -> None:
    """The agent gets the refusal of its own request, and the next is hoisted."""
    run = await proxied(hoist="on")
    agent = await agents(run.server.url, **SETTINGS)
    wrong = await agent.turn("one", tools=[{"type": "function", "parameters": {}}], reasoning={"effort": "odd"})
    assert (wrong.status, wrong.body["error"]["param"]) == (400, "reasoning.effort")
    assert (await agent.turn("two")).completed
    assert [is_hoisted(request) for request in sent(run)] == [False, False, False, True]
    assert [turn.transport for turn in run.simulator.turns] == ["ws", "ws", "http", "ws"]
    assert (await run.figures())["hoists"]["disproven"] == 0


async def test_a_lost_chain_is_told_its_settings_again(proxied: Any, agents: Any) -> None:
    """A miss: the history goes in full, settings first."""
    run = await proxied(hoist="on")
    agent = await agents(run.server.url, **SETTINGS)
    await agent.turn("one")
    run.simulator.inject(Fault("before_created", "error", status=400, code="previous_response_not_found"))
    assert (await agent.turn("two")).completed
    assert ["previous_response_id" in request for request in sent(run)] == [False, True, False]
    assert all(map(is_hoisted, sent(run)))
    assert len(run.simulator.turns[-1].context) == 5


async def test_over_http_the_agents_own_bytes_go(proxied: Any, agents: Any) -> None:
    """Where there is no WebSocket nothing is hoisted."""
    run = await proxied(hoist="on", simulated={"refuse_upgrade": 404})
    agent = await agents(run.server.url, **SETTINGS)
    assert (await agent.turn("one")).completed
    assert sent(run)[0]["tools"] == [TOOL]
    assert sent(run)[0]["instructions"] == "Be brief."


async def test_a_delta_that_lacks_settings_is_refused(proxied: Any, agents: Any, speaking: Any) -> None:
    """Upstream wants them with each turn: the history goes as the agent wrote it, and so do later ones."""
    got: list[JSON] = []

    def answer(request: JSON) -> list[JSON]:
        got.append(request)
        parent = request.get("previous_response_id")
        if parent and not request.get("instructions"):
            return [{"type": "error", "status": 400, "error": {"message": "no instructions"}}]
        response: dict[str, Any] = {"id": f"resp_{len(got)}", "previous_response_id": parent}
        response |= {"output": [], "status": "completed"}
        said = {"id": f"msg_{len(got)}", "type": "message", "role": "assistant", "content": []}
        return [
            {"type": "response.created", "response": response},
            {"type": "response.output_item.done", "output_index": 0, "item": said},
            {"type": "response.completed", "response": {**response, "output": [said]}},
        ]

    run = await proxied(hoist="on", upstream=await speaking(answer))
    agent = await agents(run.server.url, **SETTINGS)
    for said in ("one", "two", "three"):
        assert (await agent.turn(said)).completed
    assert [is_hoisted(request) for request in got] == [True, True, False, False]
    assert [record.upload for record in run.server.ledger.turns(9)] == ["delta", "full", "full"]


async def test_a_service_that_keeps_instructions_is_told_tools_with_each_turn(proxied: Any, agents: Any) -> None:
    """It chains only what is stored (xAI), and a stored response must not hold settings as items."""
    run = await proxied(hoist="on", provider="xai", simulated={"citizen": "xai"})
    agent = await agents(run.server.url, store=True, **SETTINGS)
    for said in ("one", "two"):
        assert (await agent.turn(said)).completed
    assert [record.upload for record in run.server.ledger.turns(9)] == ["delta", "full"]
    assert [sorted(request.keys() & SETTINGS) for request in sent(run)] == [["instructions", "tools"], ["tools"]]


# The probe.


async def test_a_probe_gives_the_verdict(proxied: Any, agents: Any) -> None:
    """The first conversation stays as it began; the next one, after the verdict, is hoisted."""
    run = await proxied(hoist="auto")
    agent = await agents(run.server.url, reasoning={"effort": "low"}, **{**SETTINGS, "tools": [TOOL, CUSTOM]})
    await agent.turn("one")
    await until(run, "proven")
    plain, hoisted, chained = sent(run)[1:]
    assert [tool["type"] for tool in plain["tools"]] == ["custom", "function"]
    assert [item["type"] for item in hoisted["input"]] == ["message", "additional_tools", "message"]
    assert [item["role"] for item in chained["input"]] == ["user"]
    probe = [plain, hoisted, chained]
    assert all(each["reasoning"] == {"effort": "low"} and each["store"] is False for each in probe)
    assert sum(len(orjson.dumps(each)) for each in probe) < 6000
    other = await agents(run.server.url, **{**SETTINGS, "tools": [TOOL, CUSTOM]})
    for _ in range(2):
        await agent.turn("two")
        await other.turn("one")
    assert ["tools" in request for request in sent(run)[4:]] == [True, False, True, False]
    assert (await run.figures())["hoists"] == {"turns": 2, "proven": 1, "disproven": 0}
    assert (await run.figures())["turns"]["total"] == 5


@pytest.mark.parametrize("way", ["refused", "dearer", "forgotten"])
async def test_an_upstream_that_tells_the_forms_apart(proxied: Any, agents: Any, way: str) -> None:
    """A refusal, another count, or settings that are gone in the next turn: nothing is ever hoisted."""
    run = await proxied(hoist="auto", simulated={"additional_tools": way})
    agent = await agents(run.server.url, **SETTINGS)
    await agent.turn("one")
    await until(run, "disproven")
    asked = len(sent(run))
    for _ in range(2):
        other = await agents(run.server.url, **SETTINGS)
        assert (await other.turn("one")).completed
    assert ["tools" in request for request in sent(run)[asked:]] == [True, True]
    assert (await run.figures())["hoists"] == {"turns": 0, "proven": 0, "disproven": 1}


async def test_a_verdict_is_for_one_model_and_one_key(proxied: Any, agents: Any) -> None:
    """Another model, or other credentials, have a probe of their own."""
    run = await proxied(hoist="auto")
    for count, fields in enumerate(({}, {"model": "gpt-5.6-sol"}, {"key": "other"}), 1):
        agent = await agents(run.server.url, **{**SETTINGS, **fields})
        await agent.turn("one")
        await until(run, "proven", count)
    assert ["tools" in request for request in sent(run)] == [True, True, False, False] * 3


async def test_a_model_that_calls_a_tool_when_probed(proxied: Any, agents: Any) -> None:
    """The call is answered, so that the chain goes on."""

    def eager(call: ModelCall) -> Output:
        is_probe = "word yes" in str(call.context[-1]["content"]) and len(call.context) < 4
        return says(FunctionCall("unused", call_id="c")) if is_probe else says("yes")

    run = await proxied(eager, hoist="auto")
    agent = await agents(run.server.url, **SETTINGS)
    await agent.turn("one")
    await until(run, "proven")
    assert [item["type"] for item in sent(run)[3]["input"]] == ["function_call_output", "message"]


async def test_a_probe_that_fails_is_no_verdict(proxied: Any, agents: Any) -> None:
    """An error of the server's leaves the question open; it is asked again later."""
    clock = Clock()
    run = await proxied(hoist="auto", clock=clock)
    unavailable = Fault("before_created", "error", status=503, match=lambda asked: "Does nothing" in str(asked))
    run.simulator.inject(unavailable)
    agent = await agents(run.server.url, **SETTINGS)
    await agent.turn("one")
    async with asyncio.timeout(10):
        while (await run.figures())["connections"]["open"] != 1 or len(sent(run)) < 2:
            pass
    await agent.turn("two")
    assert len(sent(run)) == 3
    clock.advance(301)
    await agent.turn("three")
    await until(run, "proven")
    assert (await run.figures())["hoists"] == {"turns": 0, "proven": 1, "disproven": 0}


@pytest.mark.parametrize("status", [400, 404, 409, 422])
async def test_a_probe_that_is_refused_is_a_verdict(proxied: Any, agents: Any, status: int) -> None:
    """What cannot be asked about even in the agent's form stays in it."""
    run = await proxied(hoist="auto")
    run.simulator.inject(
        Fault("before_created", "error", status=status, match=lambda asked: "text stands" in str(asked))
    )
    agent = await agents(run.server.url, **SETTINGS)
    await agent.turn("one")
    await until(run, "disproven")
    assert len(sent(run)) == 2


@pytest.mark.parametrize("name", SETTINGS)
async def test_a_probe_has_what_the_request_has(proxied: Any, agents: Any, name: str) -> None:
    """Instructions alone, or tools alone."""
    run = await proxied(hoist="auto")
    agent = await agents(run.server.url, **{name: SETTINGS[name]})
    await agent.turn("one")
    await until(run, "proven")
    assert [request.keys() & SETTINGS.keys() for request in sent(run)] == [{name}, {name}, set(), set()]


async def test_a_turn_that_failed_begins_no_probe(proxied: Any, agents: Any) -> None:
    """Upstream may be in trouble."""
    run = await proxied(lambda _: says(finish=Failed()), hoist="auto")
    agent = await agents(run.server.url, **SETTINGS)
    for said in ("one", "two"):
        await agent.turn(said)
    assert len(sent(run)) == 2


async def test_a_lost_probe_is_no_verdict(proxied: Any, agents: Any) -> None:
    """Its connection broke: upstream has not answered, and is asked again later."""
    clock = Clock()
    run = await proxied(hoist="auto", clock=clock)
    run.simulator.inject(Fault("after_created", "abort", match=lambda asked: "text stands" in str(asked)))
    agent = await agents(run.server.url, **SETTINGS)
    await agent.turn("one")
    async with asyncio.timeout(10):
        while (await run.figures())["connections"]["open"] != 1 or len(sent(run)) < 2:
            pass
    clock.advance(301)
    await agent.turn("two")
    await until(run, "proven")


async def test_a_probe_takes_no_conversations_place(proxied: Any, agents: Any) -> None:
    """Where there is no room for one more connection, the question stays open."""
    run = await proxied(hoist="auto", max_connections=1)
    agent = await agents(run.server.url, **SETTINGS)
    for said in ("one", "two"):
        await agent.turn(said)
    assert [record.upload for record in run.server.ledger.turns(9)] == ["delta", "full"]
    assert len(sent(run)) == 2


# What the agent sees.

Connect = Callable[..., Awaitable[AsyncOpenAI]]


@pytest.fixture
def connect(stack: AsyncExitStack) -> Connect:
    """Make a client of the SDK."""

    async def start(base_url: str) -> AsyncOpenAI:
        client = AsyncOpenAI(base_url=base_url, api_key="sk-test", max_retries=0)
        return await stack.enter_async_context(client)

    return start


def worker(call: ModelCall) -> Output:
    """Use the tool until there are two results, and then say so."""
    results = [item for item in call.context if item.get("type") == "function_call_output"]
    if len(results) < 2:
        return says(Reasoning(("I add.",)), FunctionCall("add", '{"a": 1}', call_id=f"call_{len(results)}"))
    return says(f"done after {len(results)}")


async def looped(client: AsyncOpenAI, *, stream: bool) -> list[JSON]:
    """Hold a conversation with *client*; return everything that it was shown of responses."""
    history: list[Any] = [{"role": "user", "content": "add twice"}]
    shown: list[JSON] = []
    ask: JSON = {"model": "m", "store": False, "instructions": "Be brief.", "tools": [TOOL], "input": history}
    while not shown or not shown[-1]["output"] or shown[-1]["output"][-1]["type"] == "function_call":
        if stream:
            events = [event async for event in await client.responses.create(**ask, stream=True)]
            shown += [event.response.model_dump() for event in events if hasattr(event, "response")]
            assert [event.sequence_number for event in events] == list(range(len(events)))
        else:
            shown.append((await client.responses.create(**ask)).model_dump())
        history += shown[-1]["output"]
        calls = [item["call_id"] for item in shown[-1]["output"] if item["type"] == "function_call"]
        history += [{"type": "function_call_output", "call_id": call, "output": "1"} for call in calls]
    return shown


@pytest.mark.parametrize("stream", [False, True])
async def test_the_sdk_sees_its_own_settings(proxied: Any, connect: Connect, *, stream: bool) -> None:
    """Every response and every event of one is as it is without hoisting, but for ids, times and tokens cached."""
    seen = []
    for hoist in ("off", "on"):
        run = await proxied(worker, hoist=hoist)
        shown = await looped(await connect(run.server.url + "/v1"), stream=stream)
        assert [is_hoisted(request) for request in sent(run)] == [hoist == "on"] * 3
        assert [record.upload for record in run.server.ledger.turns(9)] == ["delta", "delta", "full"]
        for response in shown:
            for name in ("created_at", "completed_at"):
                response.pop(name)
        seen.append(shown)
    assert len(seen[0]) == (9 if stream else 3)
    assert all(each["instructions"] == "Be brief." and len(each["tools"]) == 1 for each in seen[1])
    assert seen[0] == seen[1]


async def test_chat_completions_are_hoisted_too(proxied: Any, connect: Connect) -> None:
    """A translated request has tools as well; its system message is an item already."""
    run = await proxied(worker, hoist="on")
    client = await connect(run.server.url + "/v1")
    tool = {"type": "function", "function": {name: TOOL[name] for name in ("name", "description", "parameters")}}
    history: list[Any] = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "add twice"}]
    while True:
        answer = await client.chat.completions.create(model="m", messages=history, tools=[tool])  # type: ignore[list-item]
        message = answer.choices[0].message
        history.append(message)
        if not message.tool_calls:
            break
        history += [{"role": "tool", "tool_call_id": call.id, "content": "1"} for call in message.tool_calls]
    assert message.content == "done after 2"
    assert not any("tools" in request for request in sent(run))
    assert sent(run)[0]["input"][0]["type"] == "additional_tools"
    assert [record.upload for record in run.server.ledger.turns(9)] == ["delta", "delta", "full"]


# Padding.


def padded(events: list[JSON]) -> bool:
    """Whether any of *events* has padding."""
    return any("obfuscation" in event for event in events)


@pytest.mark.parametrize(
    ("fields", "asked", "shown"),
    [
        ({}, {"include_obfuscation": False}, False),
        ({"stream_options": {"include_obfuscation": None}}, {"include_obfuscation": False}, False),
        ({"stream_options": {"include_obfuscation": True}}, {"include_obfuscation": True}, True),
        ({"stream_options": {"include_obfuscation": False}}, {"include_obfuscation": False}, False),
    ],
)
async def test_padding_is_left_out_where_the_agent_does_not_say(
    proxied: Any, agents: Any, fields: JSON, asked: JSON, *, shown: bool
) -> None:
    """With `obfuscation = "off"` each turn asks for events without, unless the agent decides itself."""
    run = await proxied(obfuscation="off")
    agent = await agents(run.server.url, **fields)
    answers = [await agent.turn(said) for said in ("one", "two")]
    assert [request["stream_options"] for request in sent(run)] == [asked] * 2
    assert [padded(answer.events) for answer in answers] == [shown] * 2
    assert ["previous_response_id" in request for request in sent(run)] == [False, True]


async def test_padding_is_the_agents_choice_by_default(proxied: Any, agents: Any) -> None:
    """Nothing is added to its request."""
    run = await proxied()
    agent = await agents(run.server.url)
    assert padded((await agent.turn("one")).events)
    assert "stream_options" not in sent(run)[0]


@pytest.mark.parametrize("shape", ["nested", "detail"])
async def test_an_upstream_that_does_not_know_the_option(proxied: Any, agents: Any, shape: str) -> None:
    """The turn goes once more without it, and so do all others; what is hoisted stays so."""
    simulated = {"refused_fields": ("stream_options",), "error_shape": shape}
    run = await proxied(obfuscation="off", hoist="on", simulated=simulated)
    agent = await agents(run.server.url, **SETTINGS)
    for said in ("one", "two"):
        assert (await agent.turn(said)).completed
    assert ["stream_options" in request for request in sent(run)] == [True, False, False]
    assert all(map(is_hoisted, sent(run)))


async def test_an_upstream_that_knows_neither(proxied: Any, agents: Any) -> None:
    """One after the other is given up."""
    simulated = {"refused_fields": ("stream_options",), "additional_tools": "refused"}
    run = await proxied(obfuscation="off", hoist="on", simulated=simulated)
    for _ in range(2):
        agent = await agents(run.server.url, **SETTINGS)
        assert (await agent.turn("one")).completed
    assert ["stream_options" in request for request in sent(run)] == [True, False, False, False]
    assert [is_hoisted(request) for request in sent(run)] == [True, True, False, False]
