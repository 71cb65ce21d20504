"""The failure table of the architecture, row by row: an agent, the proxy, and an upstream that misbehaves.

Each test says what the agent sees, what reached the model (its context is the agent's history, to the letter),
and what the figures say about it.
"""

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import aiohttp
import openai
import orjson
import pytest
from conversation import Agent, Clock
from proxied import Peer, Proxied, RawUpstream
from said import user
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.utils import accept_key

from proxy.simulator import (
    Failed,
    Fault,
    FunctionCall,
    Incomplete,
    Output,
    RequestRecord,
    Script,
    SimulatedTurn,
    Simulator,
    Text,
    says,
    scripted,
)
from proxy.simulator.model import ModelCall

Start = Callable[..., Awaitable[Proxied]]
Agents = Callable[..., Awaitable[Agent]]
Speaking = Callable[..., Awaitable[str]]
RawUpstreams = Callable[..., Awaitable[RawUpstream]]

LONG = Output((Text("x" * 400),), delta_size=1)
"""An answer of some four hundred events: with a pause after each it lasts until a test ends the pauses."""

WAYS_TO_LOSE = ("abort", "close", "garbage")

both_ways = pytest.mark.parametrize("stream", [True, False], ids=["streaming", "whole"])


def numbered(call: ModelCall) -> Output:
    """Answer with the number of the answer."""
    return says(f"answer {call.number}")


async def figures(proxied: Proxied, count: int) -> list[tuple[str, str | None, int, str]]:
    """Return upload, reason, attempts and status of the *count* turns there were, oldest first."""
    await proxied.recorded(count)
    turns = (await proxied.figures("turns"))["turns"]
    assert len(turns) == count
    return [(turn["upload"], turn["reason"], turn["attempts"], turn["status"]) for turn in reversed(turns)]


def contexts(simulator: Simulator) -> list[list[dict[str, Any]]]:
    """Return what the model read for each answer that it completed."""
    return [turn.context for turn in simulator.turns if turn.status == "completed"]


def sent(simulator: Simulator) -> list[tuple[str, str, int]]:
    """Return how each request came upstream: whole or delta (or HTTP), how it ended, and on which connection."""

    def kind(turn: SimulatedTurn) -> str:
        return "http" if turn.transport == "http" else "delta" if turn.previous_response_id else "full"

    return [(kind(turn), turn.status, turn.connection_id) for turn in simulator.turns]


def upgrades(simulator: Simulator) -> list[RequestRecord]:
    """Return the requests for a WebSocket."""
    return [request for request in simulator.requests if request.header("Upgrade")]


def continuing(request: dict[str, Any]) -> bool:
    """Whether *request* is a delta."""
    return bool(request.get("previous_response_id"))


def miss(times: int = 1) -> Fault:
    """Return the fault of an upstream that forgot what a delta continues."""
    return Fault(
        "before_created",
        "error",
        status=400,
        code="previous_response_not_found",
        message="Previous response with id 'resp_1' not found.",
        match=continuing,
        times=times,
    )


DUPLICATE = "Duplicate item found with id msg_1. Remove duplicate items from your input and try again."


# A miss


@both_ways
@pytest.mark.parametrize("shape", ["nested", "flat", "response_failed", "codeless", "pretty", "detail"])
async def test_a_miss_is_made_good_on_the_same_connection(
    proxied: Start, agents: Agents, shape: str, *, stream: bool
) -> None:
    """In whatever shape the error comes, the agent sees an ordinary answer, and the chain goes on after it."""
    start = await proxied(numbered, simulated={"error_shape": shape})
    agent, simulator = await agents(start.server.url, stream=stream), start.simulator
    await agent.turn("one")
    simulator.inject(miss())
    answer = await agent.turn("two")
    assert answer.text == "answer 1"
    assert answer.types == [] or answer.types[0] == "response.created"
    assert (await agent.turn("three")).text == "answer 2"
    assert sent(simulator) == [
        ("full", "completed", 0),
        ("delta", "rejected", 0),
        ("full", "completed", 0),
        ("delta", "completed", 0),
    ]
    assert contexts(simulator) == agent.answered
    assert await figures(start, 3) == [
        ("full", "first_turn", 1, "completed"),
        ("full", "upstream_forgot", 2, "completed"),
        ("delta", None, 1, "completed"),
    ]


@both_ways
async def test_a_duplicate_after_a_miss_takes_a_fresh_connection(
    proxied: Start, agents: Agents, *, stream: bool
) -> None:
    """Where upstream still holds the items that it says it forgot, a new connection has no such memory."""
    start = await proxied(numbered)
    agent, simulator = await agents(start.server.url, stream=stream), start.simulator
    await agent.turn("one")
    simulator.inject(miss())
    simulator.inject(Fault("before_created", "error", status=400, code=None, message=DUPLICATE))
    assert (await agent.turn("two")).text == "answer 1"
    await agent.turn("three")
    assert sent(simulator) == [
        ("full", "completed", 0),
        ("delta", "rejected", 0),
        ("full", "rejected", 0),
        ("full", "completed", 1),
        ("delta", "completed", 1),
    ]
    assert contexts(simulator) == agent.answered
    assert (await figures(start, 3))[1] == ("full", "upstream_forgot", 3, "completed")


async def test_a_duplicate_in_a_delta_takes_a_fresh_connection(proxied: Start, agents: Agents) -> None:
    """A delta that upstream calls a duplicate is sent in full where nothing can be one."""
    start = await proxied(numbered)
    agent, simulator = await agents(start.server.url), start.simulator
    await agent.turn("one")
    simulator.inject(Fault("before_created", "error", status=400, code=None, message=DUPLICATE))
    await agent.turn("two")
    assert sent(simulator)[1:] == [("delta", "rejected", 0), ("full", "completed", 1)]
    assert contexts(simulator) == agent.answered


async def test_a_delta_that_is_refused_is_sent_in_full(proxied: Start, agents: Agents) -> None:
    """An upstream like xAI takes no instructions in a chain: the agent doesn't notice."""
    start = await proxied(numbered, simulated={"citizen": "xai"})
    agent, simulator = await agents(start.server.url, instructions="Be brief."), start.simulator
    await agent.turn("one")
    assert (await agent.turn("two")).text == "answer 1"
    assert sent(simulator) == [("full", "completed", 0), ("delta", "rejected", 0), ("full", "completed", 0)]
    assert contexts(simulator) == agent.answered
    assert (await figures(start, 2))[1] == ("full", "upstream_forgot", 2, "completed")


async def test_three_misses_in_a_row_turn_chaining_off_for_a_while(proxied: Start, agents: Agents) -> None:
    """An upstream that keeps forgetting gets full histories over the WebSocket, and is tried again later."""
    clock = Clock()
    start = await proxied(numbered, clock=clock, websocket_retry_seconds=300)
    agent, simulator = await agents(start.server.url), start.simulator
    await agent.turn("0")
    simulator.inject(miss(times=3))
    for number in range(1, 6):
        await agent.turn(str(number))
    clock.advance(300)
    await agent.turn("6")
    assert await figures(start, 7) == [
        ("full", "first_turn", 1, "completed"),
        *[("full", "upstream_forgot", 2, "completed")] * 3,
        *[("full", "upstream_forgot", 1, "completed")] * 2,
        ("delta", None, 1, "completed"),
    ]
    assert len(simulator.connections) == 1
    assert contexts(simulator) == agent.answered


async def test_misses_that_are_not_in_a_row_do_not_turn_chaining_off(proxied: Start, agents: Agents) -> None:
    """A delta that works wipes the slate clean."""
    start = await proxied(numbered)
    agent = await agents(start.server.url)
    await agent.turn("first")
    for number in range(4):
        start.simulator.inject(miss())
        await agent.turn(f"missed {number}")
        await agent.turn(f"found {number}")
    assert [upload for upload, *_ in await figures(start, 9)] == ["full", *["full", "delta"] * 4]


@both_ways
async def test_an_answer_without_its_history_is_never_shown(
    proxied: Start, agents: Agents, speaking: Speaking, *, stream: bool
) -> None:
    """Where upstream's first event says that it ignored what a delta continues, it is asked again in full."""
    messages: list[dict[str, Any]] = []

    def ignoring(message: dict[str, Any]) -> list[dict[str, Any]]:
        messages.append(message)
        response = {"id": f"resp_{len(messages)}", "status": "in_progress", "previous_response_id": None}
        said: dict[str, Any] = {"type": "message", "id": f"msg_{len(messages)}", "role": "assistant"}
        said |= {"content": [{"type": "output_text", "text": f"{len(message['input'])} items"}]}
        return [
            {"type": "response.created", "response": response},
            {"type": "response.output_item.done", "output_index": 0, "item": said},
            {"type": "response.completed", "response": {**response, "status": "completed", "output": [said]}},
        ]

    clock = Clock()
    start = await proxied(upstream=await speaking(ignoring), clock=clock)
    agent = await agents(start.server.url, stream=stream)
    answers = [(await agent.turn(said)).text for said in ("one", "two", "three")]
    clock.advance(300)
    answers.append((await agent.turn("four")).text)
    assert answers == ["1 items", "3 items", "5 items", "7 items"]
    assert [len(message["input"]) for message in messages] == [1, 1, 3, 5, 1, 7]
    assert await figures(start, 4) == [
        ("full", "first_turn", 1, "completed"),
        ("full", "upstream_forgot", 2, "completed"),
        ("full", "upstream_forgot", 1, "completed"),
        ("full", "upstream_forgot", 2, "completed"),
    ]
    assert (await start.figures())["connections"]["opened"] == 3


async def test_an_answer_that_owns_up_at_its_end_is_not_shown_where_nothing_was(
    proxied: Start, agents: Agents, speaking: Speaking
) -> None:
    """An agent that doesn't stream is spared it also where upstream says only then what it ignored."""

    def ignoring(message: dict[str, Any]) -> list[dict[str, Any]]:
        said: dict[str, Any] = {"type": "message", "id": "msg_1", "role": "assistant"}
        said |= {"content": [{"type": "output_text", "text": f"{len(message['input'])} items"}]}
        whole = {"id": "resp_1", "status": "completed", "previous_response_id": None, "output": [said]}
        return [
            {"type": "response.created", "response": {"id": "resp_1", "status": "in_progress"}},
            {"type": "response.output_item.done", "output_index": 0, "item": said},
            {"type": "response.completed", "response": whole},
        ]

    start = await proxied(upstream=await speaking(ignoring))
    agent = await agents(start.server.url, stream=False)
    assert [(await agent.turn(said)).text for said in ("one", "two", "three")] == ["1 items", "3 items", "5 items"]
    assert await figures(start, 3) == [
        ("full", "first_turn", 1, "completed"),
        ("full", "upstream_forgot", 2, "completed"),
        ("full", "upstream_forgot", 1, "completed"),
    ]


# Lost before the first event


async def test_an_idle_connection_that_died_is_replaced(proxied: Start, agents: Agents) -> None:
    """The next turn goes over a new connection in full, in one attempt."""
    start = await proxied(numbered)
    agent, simulator = await agents(start.server.url), start.simulator
    await agent.turn("one")
    await start.lose_connections()
    await agent.turn("two")
    await agent.turn("three")
    assert await figures(start, 3) == [
        ("full", "first_turn", 1, "completed"),
        ("full", "connection_lost", 1, "completed"),
        ("delta", None, 1, "completed"),
    ]
    assert contexts(simulator) == agent.answered
    assert (await start.figures())["connections"] == {"open": 1, "opened": 2, "lost": 1}


@pytest.mark.parametrize("store", [{"store": True}, {"store": None}, {}], ids=["stored", "null", "by default"])
async def test_a_stored_response_outlives_its_connection(
    proxied: Start, agents: Agents, store: dict[str, Any]
) -> None:
    """Where the agent lets upstream keep it, the next turn is a delta although the connection is gone."""
    start = await proxied(numbered, provider="openai")
    agent, simulator = await agents(start.server.url, **store), start.simulator
    if not store:
        agent.leave_out("store")
    await agent.turn("one")
    await start.lose_connections()
    await agent.turn("two")
    await agent.turn("three")
    assert await figures(start, 3) == [
        ("full", "first_turn", 1, "completed"),
        ("delta", None, 1, "completed"),
        ("delta", None, 1, "completed"),
    ]
    assert contexts(simulator) == agent.answered
    assert (await start.figures())["connections"]["opened"] == 2


async def test_a_stored_response_that_upstream_does_not_find_is_not_asked_for_again(
    proxied: Start, agents: Agents
) -> None:
    """It costs one refused delta; live chains go on, and lost ones are sent in full without asking."""
    start = await proxied(numbered, provider="openai")
    agent, simulator = await agents(start.server.url, store=True), start.simulator
    await agent.turn("one")
    await start.lose_connections()
    simulator.inject(Fault("before_created", "error", status=400, code="previous_response_not_found"))
    await agent.turn("two")
    await agent.turn("three")
    await start.lose_connections()
    await agent.turn("four")
    assert await figures(start, 4) == [
        ("full", "first_turn", 1, "completed"),
        ("full", "upstream_forgot", 2, "completed"),
        ("delta", None, 1, "completed"),
        ("full", "connection_lost", 1, "completed"),
    ]
    assert contexts(simulator) == agent.answered


async def test_a_stored_response_that_upstream_cannot_bear_is_not_asked_for_again(
    proxied: Start, agents: Agents
) -> None:
    """Where the connection goes with the attempt to continue it, the next attempt has everything."""
    start = await proxied(numbered, provider="openai")
    agent, simulator = await agents(start.server.url, store=True), start.simulator
    await agent.turn("one")
    for text in ("two", "three"):
        await start.lose_connections()
        simulator.inject(Fault("before_created", "close", match=lambda body: "previous_response_id" in body))
        await agent.turn(text)
        simulator.faults.pending.clear()
    assert await figures(start, 3) == [
        ("full", "first_turn", 1, "completed"),
        ("full", "connection_lost", 2, "completed"),
        ("full", "connection_lost", 1, "completed"),
    ]
    assert contexts(simulator) == agent.answered


async def test_an_idle_connection_that_upstream_closes_is_replaced(proxied: Start, agents: Agents) -> None:
    """A close frame between turns costs one full upload."""
    start = await proxied(numbered)
    agent, simulator = await agents(start.server.url), start.simulator
    await agent.turn("one")
    await simulator.close_connections(1001, "going away")
    await agent.turn("two")
    assert (await figures(start, 2))[1] == ("full", "connection_lost", 1, "completed")
    assert contexts(simulator) == agent.answered


@both_ways
@pytest.mark.parametrize("what", WAYS_TO_LOSE)
@pytest.mark.parametrize(
    ("store", "again", "reason"), [(False, "full", "connection_lost"), (True, "delta", None)], ids=["", "stored"]
)
async def test_a_loss_before_the_first_event_is_made_good(
    proxied: Start, agents: Agents, what: Any, again: str, reason: str | None, *, store: bool, stream: bool
) -> None:
    """A connection that dies under a delta is replaced, and the agent gets its answer, later.

    All goes up again, or where upstream stores what both attempts continue, as little as with the first.
    """
    start = await proxied(numbered, provider="openai")
    agent, simulator = await agents(start.server.url, stream=stream, store=store), start.simulator
    await agent.turn("one")
    simulator.inject(Fault("before_created", what))
    assert (await agent.turn("two")).text == "answer 1"
    await agent.turn("three")
    assert sent(simulator) == [
        ("full", "completed", 0),
        ("delta", "cancelled", 0),
        (again, "completed", 1),
        ("delta", "completed", 1),
    ]
    assert contexts(simulator) == agent.answered
    assert (await figures(start, 3))[1] == (again, reason, 2, "completed")


@both_ways
async def test_two_losses_before_the_first_event_end_in_plain_http(
    proxied: Start, agents: Agents, *, stream: bool
) -> None:
    """Twice over a WebSocket and once over HTTP: three attempts, and an answer. The next turn tries again."""
    start = await proxied(numbered)
    agent, simulator = await agents(start.server.url, stream=stream), start.simulator
    await agent.turn("one")
    simulator.inject(Fault("before_created", "abort", times=2, transport="ws"))
    assert (await agent.turn("two")).text == "answer 1"
    await agent.turn("three")
    await agent.turn("four")
    assert [kind for kind, _, _ in sent(simulator)] == ["full", "delta", "full", "http", "full", "delta"]
    assert contexts(simulator) == agent.answered
    rows = await figures(start, 4)
    assert rows[1] == ("http", "connection_lost", 3, "completed")
    assert rows[2] == ("full", "connection_lost", 1, "completed")
    assert rows[3] == ("delta", None, 1, "completed")


async def test_losses_on_every_transport_are_a_502(proxied: Start, agents: Agents) -> None:
    """Where HTTP is lost as well, the agent gets a status that it may retry, and JSON that says why."""
    start = await proxied(numbered)
    agent, simulator = await agents(start.server.url), start.simulator
    simulator.inject(Fault("before_created", "abort", times=None))
    answer = await agent.turn("one")
    assert answer.status == 502
    assert answer.body["error"]["code"] == "upstream_unavailable"
    assert answer.body["error"]["message"].startswith("packlight: ")
    assert await figures(start, 1) == [("http", "connection_lost", 3, "failed")]


@dataclass
class Stalling:
    """A way to upstream whose first connection takes nothing more once *stalls* is set; *stands* says it does."""

    base_url: str = ""
    stalls: asyncio.Event = field(default_factory=asyncio.Event)
    stands: asyncio.Event = field(default_factory=asyncio.Event)


async def stalling(simulator: Simulator, raw_upstream: RawUpstreams) -> Stalling:
    """Return such a way to *simulator*."""
    way = Stalling()

    async def relay(agent: Peer) -> None:
        upstream = Peer(*await asyncio.open_connection("127.0.0.1", simulator.port))
        first = not simulator.connections
        if first:
            agent.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(pump(upstream, agent))
                await pump(agent, upstream, may_stall=first)
        finally:
            upstream.close()

    async def pump(source: Peer, sink: Peer, *, may_stall: bool = False) -> None:
        while data := await source.reader.read(65536):
            if may_stall and way.stalls.is_set():
                way.stands.set()
                await asyncio.Event().wait()
            await sink.send(data)

    way.base_url = (await raw_upstream(relay)).base_url
    return way


@pytest.mark.parametrize(
    ("store", "upload"), [(False, ("full", "connection_lost")), (True, ("delta", None))], ids=["", "stored"]
)
async def test_an_upload_that_stands_still_is_a_loss(
    proxied: Start,
    agents: Agents,
    raw_upstream: RawUpstreams,
    *,
    store: bool,
    upload: tuple[str, str | None],
) -> None:
    """A connection that takes no bytes for send_timeout is given up, and the turn goes over a new one.

    Upstream cannot have had it, so nothing speaks against the response that it continues.
    """
    simulator = Simulator(script=numbered)
    simulator.settings.deflate = "off"
    async with simulator:
        link = await stalling(simulator, raw_upstream)
        start = await proxied(upstream=link.base_url, provider="openai", send_timeout=0.3, close_timeout=0.1)
        agent = await agents(start.server.url, store=store)
        await agent.turn("one")
        link.stalls.set()
        assert (await agent.turn("two" * 2**22)).text == "answer 1"
        assert sent(simulator) == [("full", "completed", 0), (upload[0], "completed", 1)]
        assert contexts(simulator) == agent.answered
        assert (await figures(start, 2))[1] == (*upload, 2, "completed")


async def test_an_agent_that_hangs_up_in_an_upload_leaves_a_stored_response_as_it_was(
    proxied: Start, agents: Agents, raw_upstream: RawUpstreams
) -> None:
    """Upstream knows nothing of what was broken off: what is said instead is a delta."""
    simulator = Simulator(script=numbered)
    simulator.settings.deflate = "off"
    async with simulator:
        link = await stalling(simulator, raw_upstream)
        start = await proxied(upstream=link.base_url, provider="openai", close_timeout=0.1)
        agent = await agents(start.server.url, store=True)
        await agent.turn("one")
        link.stalls.set()
        task = asyncio.get_running_loop().create_task(agent.turn("two" * 2**22))
        await link.stands.wait()
        task.cancel()
        await start.recorded(2)
        assert (await agent.turn("no, this")).text == "answer 1"
        assert contexts(simulator) == agent.answered
        assert (await figures(start, 3))[1:] == [
            ("delta", None, 1, "aborted"),
            ("delta", None, 1, "completed"),
        ]


async def test_why_upstream_closed_is_for_the_agent_alone(
    proxied: Start, capsys: pytest.CaptureFixture[str]
) -> None:
    """A gateway may quote the prompt there, and logs have none of it."""
    start = await proxied(numbered, ambiguous_retries=0)
    start.simulator.inject(Fault("before_created", "close", close_code=1008, reason="flagged: hunter2"))
    refused = await start.post({"model": "m", "input": "hi"})
    assert refused.json()["error"]["message"].endswith("closed with 1008: flagged: hunter2")
    said = "".join(capsys.readouterr())
    assert "turn_broken_off" in said
    assert "hunter2" not in said


# Lost after the first event


@pytest.mark.parametrize("what", WAYS_TO_LOSE)
async def test_a_loss_after_the_first_event_aborts_the_answer(proxied: Start, what: Any) -> None:
    """A streamed answer breaks off without the chunk that would end it properly."""
    start = await proxied(numbered)
    start.simulator.inject(Fault("after_events", what, events=3))
    with pytest.raises((asyncio.IncompleteReadError, ConnectionResetError)):
        await start.post({"model": "m", "input": "hi", "stream": True})
    assert len(start.simulator.turns) == 1
    assert await figures(start, 1) == [("full", "first_turn", 1, "failed")]


@pytest.mark.parametrize("what", WAYS_TO_LOSE)
async def test_the_openai_sdk_raises_where_an_answer_breaks_off(proxied: Start, what: Any) -> None:
    """Official client code cannot take a broken answer for a whole one."""
    start = await proxied(numbered)
    start.simulator.inject(Fault("after_events", what, events=3))
    async with openai.AsyncOpenAI(base_url=f"{start.server.url}/v1", api_key="key", max_retries=0) as client:
        stream = await client.responses.create(model="m", input="hi", stream=True)
        for _ in range(3):
            assert (await anext(stream)).type != "response.completed"
        with pytest.raises(openai.APIConnectionError):
            await anext(stream)
        await stream.close()


@pytest.mark.parametrize("what", WAYS_TO_LOSE)
async def test_a_loss_after_the_first_event_is_made_good_where_nothing_was_shown_yet(
    proxied: Start, agents: Agents, what: Any
) -> None:
    """An agent that doesn't stream gets one answer, whole, and the next turn continues it."""
    start = await proxied(numbered)
    agent = await agents(start.server.url, stream=False)
    start.simulator.inject(Fault("after_events", what, events=3))
    assert (await agent.turn("one")).text == "answer 1"
    assert (await agent.turn("two")).text == "answer 2"
    assert contexts(start.simulator) == agent.answered
    assert await figures(start, 2) == [
        ("full", "connection_lost", 2, "completed"),
        ("delta", None, 1, "completed"),
    ]
    assert (await start.figures())["replays"] == {"safe": 0, "ambiguous": 1}


@pytest.mark.parametrize("what", WAYS_TO_LOSE)
async def test_a_loss_that_must_not_be_made_good_is_a_502(proxied: Start, agents: Agents, what: Any) -> None:
    """Where a second generation is not wanted, an agent that doesn't stream gets a status and JSON."""
    start = await proxied(numbered, ambiguous_retries=0)
    agent = await agents(start.server.url, stream=False)
    start.simulator.inject(Fault("after_events", what, events=3))
    answer = await agent.turn("one")
    assert answer.status == 502
    assert answer.headers["Content-Type"].startswith("application/json")
    assert answer.body["error"]["type"] == "server_error"
    assert len(start.simulator.turns) == 1
    assert await figures(start, 1) == [("full", "first_turn", 1, "failed")]


async def test_the_turn_after_a_broken_answer_is_right(proxied: Start, agents: Agents) -> None:
    """The agent asks again, and gets the answer to its whole history on a new connection."""
    start = await proxied(numbered)
    agent, simulator = await agents(start.server.url), start.simulator
    await agent.turn("one")
    simulator.inject(Fault("after_events", "abort", events=3))
    with pytest.raises(aiohttp.ClientError):
        await agent.turn("two")
    answer = await agent.turn()
    assert answer.text == "answer 2"
    await agent.turn("three")
    assert contexts(simulator) == agent.answered
    assert await figures(start, 4) == [
        ("full", "first_turn", 1, "completed"),
        ("delta", None, 1, "failed"),
        ("full", "connection_lost", 1, "completed"),
        ("delta", None, 1, "completed"),
    ]


# Age


@pytest.mark.parametrize("closes", [False, True], ids=["error", "error-and-close"])
@pytest.mark.parametrize(
    ("citizen", "settings", "seconds"),
    [
        ("xai", {}, 1500),
        ("openai", {"max_age_seconds": 7200, "idle_seconds": 7200}, 3600),
    ],
)
async def test_a_connection_that_is_too_old_for_upstream_is_replaced(
    proxied: Start, agents: Agents, citizen: str, settings: dict[str, Any], seconds: float, *, closes: bool
) -> None:
    """The age limit of the provider costs one full upload; the agent sees nothing."""
    clock = Clock()
    start = await proxied(
        numbered,
        simulated={"citizen": citizen, "close_at_age_limit": closes},
        clock=clock,
        upstream_clock=clock,
        **settings,
    )
    agent, simulator = await agents(start.server.url, store=citizen == "xai"), start.simulator
    await agent.turn("one")
    clock.advance(seconds)
    assert (await agent.turn("two")).text == "answer 1"
    await agent.turn("three")
    assert sent(simulator) == [
        ("full", "completed", 0),
        ("delta", "rejected", 0),
        ("full", "completed", 1),
        ("delta", "completed", 1),
    ]
    assert contexts(simulator) == agent.answered
    assert (await figures(start, 3))[1:] == [
        ("full", "connection_lost", 2, "completed"),
        ("delta", None, 1, "completed"),
    ]


@pytest.mark.parametrize("loss", ["error", "abort"])
async def test_an_age_limit_on_a_new_connection_is_never_the_agents_error(
    proxied: Start, agents: Agents, loss: Any
) -> None:
    """It speaks HTTP, where there is no such limit; upstream did not take the turn, so another gets it."""
    start = await proxied(numbered)
    agent, simulator = await agents(start.server.url), start.simulator
    limit = Fault("before_created", "error", status=400, code="websocket_connection_limit_reached")
    simulator.inject(limit if loss == "error" else Fault("before_created", loss))
    simulator.inject(replace(limit))
    assert (await agent.turn("one")).text == "answer 0"
    assert [(upload, attempts) for upload, _, attempts, _ in await figures(start, 1)] == [("full", 3)]
    assert contexts(simulator) == agent.answered


async def test_connections_retire_by_age_between_turns(proxied: Start, agents: Agents) -> None:
    """Before the provider's limit a connection is closed properly, and the next turn takes a new one."""
    clock = Clock()
    start = await proxied(numbered, clock=clock, upstream_clock=clock, max_age_seconds=3300, idle_seconds=4000)
    agent, simulator = await agents(start.server.url), start.simulator
    await agent.turn("one")
    clock.advance(3299)
    await agent.turn("two")
    clock.advance(1)
    await agent.turn("three")
    await agent.turn("four")
    assert await figures(start, 4) == [
        ("full", "first_turn", 1, "completed"),
        ("delta", None, 1, "completed"),
        ("full", "retired", 1, "completed"),
        ("delta", None, 1, "completed"),
    ]
    assert contexts(simulator) == agent.answered
    await simulator.until(lambda: simulator.connections[0].closed)
    assert simulator.connections[0].close_code == 1000
    assert (await start.figures())["connections"] == {"open": 1, "opened": 2, "lost": 0}


async def test_a_turn_in_flight_is_never_cut_for_age(proxied: Start, agents: Agents) -> None:
    """A connection that comes of age in the middle of a turn lasts until its end."""
    clock = Clock()
    start = await proxied(
        scripted([LONG, "other", "next"]), clock=clock, simulated={"event_seconds": 0.02}, max_age_seconds=3300
    )
    agent, other, simulator = await agents(start.server.url), await agents(start.server.url), start.simulator
    async with agent.streaming("one") as stream:
        assert await stream.event() is not None
        clock.advance(10_000)
        assert (await other.turn("something else")).text == "other"
        assert not simulator.turns[0].finished
        simulator.settings.event_seconds = 0
        events = await stream.rest()
    assert events[-1]["type"] == "response.completed"
    agent.history += events[-1]["response"]["output"]
    await agent.turn("two")
    assert await figures(start, 3) == [
        ("full", "first_turn", 1, "completed"),
        ("full", "first_turn", 1, "completed"),
        ("full", "retired", 1, "completed"),
    ]


# Errors as the first event


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (400, "context_length_exceeded", "invalid_request_error"),
        (401, "invalid_api_key", "authentication_error"),
        (429, "rate_limit_exceeded", "rate_limit_error"),
        (500, "server_error", "server_error"),
        (503, "server_is_overloaded", "service_unavailable_error"),
    ],
)
@both_ways
async def test_an_error_as_the_first_event_is_a_status(
    proxied: Start, agents: Agents, status: int, code: str, kind: str, *, stream: bool
) -> None:
    """Upstream's status, its words and its retry-after reach the agent as over HTTP; no baseline is left."""
    start = await proxied(numbered)
    agent, simulator = await agents(start.server.url, stream=stream), start.simulator
    await agent.turn("one")
    simulator.inject(
        Fault("before_created", "error", status=status, code=code, message="In upstream's words.", retry_after=7)
    )
    answer = await agent.turn("two")
    assert answer.status == status
    assert answer.headers["retry-after"] == "7"
    assert answer.headers["Content-Type"].startswith("application/json")
    assert answer.body == {"error": {"type": kind, "code": code, "message": "In upstream's words.", "param": None}}
    assert (await agent.turn()).text == "answer 1"
    assert contexts(simulator) == agent.answered
    assert await figures(start, 3) == [
        ("full", "first_turn", 1, "completed"),
        ("delta", None, 1, "failed"),
        ("full", "after_error", 1, "completed"),
    ]
    assert (await start.figures())["connections"]["lost"] == 0


async def test_a_refusal_of_the_full_history_reaches_the_agent(proxied: Start, agents: Agents) -> None:
    """A 400 is asked about once more in full; upstream's second word is the last."""
    start = await proxied(numbered)
    agent, simulator = await agents(start.server.url), start.simulator
    await agent.turn("one")
    simulator.inject(Fault("before_created", "error", status=400, code="invalid_prompt", message="No.", times=2))
    answer = await agent.turn("two")
    assert (answer.status, answer.body["error"]["code"]) == (400, "invalid_prompt")
    assert [kind for kind, _, _ in sent(simulator)] == ["full", "delta", "full"]
    assert (await figures(start, 2))[1] == ("full", "upstream_forgot", 2, "failed")


@pytest.mark.parametrize("place", ["event", "error"])
async def test_retry_after_is_found_in_either_place(
    proxied: Start, agents: Agents, speaking: Speaking, place: str
) -> None:
    """Headers stand beside the error or inside it, as numbers or as text; the agent gets them as headers."""
    headers = {"Retry-After": 7, "x-ratelimit-remaining-requests": "0", "set-cookie": "private"}
    error: dict[str, Any] = {"code": "rate_limit_exceeded", "message": "Slow down."}
    event: dict[str, Any] = {"type": "error", "status": 429, "error": error}
    (event if place == "event" else error)["headers"] = headers
    start = await proxied(upstream=await speaking(event))
    answer = await (await agents(start.server.url)).turn("one")
    assert answer.status == 429
    assert answer.headers["retry-after"] == "7"
    assert answer.headers["x-ratelimit-remaining-requests"] == "0"
    assert "set-cookie" not in {name.lower() for name in answer.headers}
    assert answer.body == {"error": {"code": "rate_limit_exceeded", "message": "Slow down."}}


async def test_the_openai_sdk_retries_what_upstream_says_it_may(proxied: Start) -> None:
    """A 429 before output is a status that the SDK waits for and retries: its caller sees nothing."""
    start = await proxied(numbered)
    start.simulator.inject(Fault("before_created", "error", status=429, retry_after=0.01))
    async with openai.AsyncOpenAI(base_url=f"{start.server.url}/v1", api_key="key", max_retries=1) as client:
        response = await client.responses.create(model="m", input="hi")
        assert response.output_text == "answer 0"
        start.simulator.inject(Fault("before_created", "error", status=429, times=2, retry_after=0.01))
        with pytest.raises(openai.RateLimitError) as caught:
            await client.responses.create(model="m", input="hi")
    assert caught.value.response.headers["retry-after"] == "0.01"


# Endings in mid-stream


@pytest.mark.parametrize(
    ("finish", "ending", "status"),
    [
        (Failed(), "response.failed", "failed"),
        (Failed(error_event=True), "response.failed", "failed"),
        (Incomplete(), "response.incomplete", "incomplete"),
    ],
)
async def test_an_ending_that_is_not_completed_passes_and_leaves_no_baseline(
    proxied: Start, agents: Agents, finish: Any, ending: str, status: str
) -> None:
    """The agent sees upstream's event, and its next turn is sent in full."""
    start = await proxied(scripted(["one", says("half an ans", finish=finish), "three", "four"]))
    agent, simulator = await agents(start.server.url), start.simulator
    await agent.turn("first")
    async with agent.streaming("second") as stream:
        events = await stream.rest()
    assert [events[0]["type"], events[-1]["type"]] == ["response.created", ending]
    assert (await agent.turn()).text == "three"
    await agent.turn("third")
    assert contexts(simulator) == agent.answered
    assert await figures(start, 4) == [
        ("full", "first_turn", 1, "completed"),
        ("delta", None, 1, status),
        ("full", "after_error", 1, "completed"),
        ("delta", None, 1, "completed"),
    ]


@both_ways
async def test_a_failure_that_is_explained_behind_it_is_explained(
    proxied: Start, agents: Agents, *, stream: bool
) -> None:
    """Azure's servers say in an error behind response.failed why that is; agents stop reading there."""
    refused = Failed("rate_limit_exceeded", "Slow down.", error_event="behind")
    start = await proxied(scripted([says(finish=refused), "two"]), simulated={"citizen": "azure"})
    agent = await agents(start.server.url, stream=stream)
    answer = await agent.turn("first")
    if stream:
        assert answer.types[-2:] == ["error", "response.failed"]
        assert answer.response["error"]["code"] == "rate_limit_exceeded"
        assert answer.types.count("response.failed") == 1
    else:
        assert (answer.status, answer.body["error"]["message"]) == (429, "Slow down.")
    assert (await agent.turn("second")).text == "two"


async def test_a_failure_is_explained_behind_an_event_about_the_account(
    proxied: Start, agents: Agents, speaking: Speaking
) -> None:
    """Such frames come at any place."""
    begun = {"id": "resp_1", "status": "in_progress", "output": []}
    failed = {"type": "response.failed", "response": {**begun, "status": "failed", "error": None}}
    error = {"type": "error", "code": "rate_limit_exceeded", "message": "Slow down."}
    limits = {"type": "codex.rate_limits"}
    upstream = await speaking({"type": "response.created", "response": begun}, failed, limits, error)
    agent = await agents((await proxied(upstream=upstream)).server.url, stream=False)
    answer = await agent.turn("first")
    assert (answer.status, answer.body["error"]["message"]) == (429, "Slow down.")


@pytest.mark.parametrize("behind", [[], [{"type": "codex.rate_limits"}], [{"type": "error"}, {"type": "error"}]])
async def test_a_failure_that_nothing_explains_passes(
    proxied: Start, agents: Agents, speaking: Speaking, behind: list[Any]
) -> None:
    """It is waited for an error for a second, and no other event takes its place."""
    begun = {"id": "resp_1", "status": "in_progress", "output": []}
    failed = {"type": "response.failed", "response": {**begun, "status": "failed", "error": None}}
    upstream = await speaking({"type": "response.created", "response": begun}, failed, *behind)
    agent = await agents((await proxied(upstream=upstream)).server.url)
    async with agent.streaming("first") as stream:
        types = [event["type"] for event in await stream.rest()]
    assert types[0] == "response.created"
    assert types[-1] == "response.failed"
    assert types.count("response.failed") == 1


@pytest.mark.parametrize(("finish", "status"), [(Failed(), "failed"), (Incomplete(), "incomplete")])
async def test_a_first_turn_that_is_not_completed_is_why_the_second_is_full(
    proxied: Start, agents: Agents, finish: Any, status: str
) -> None:
    """The figures blame the turn that was cut short, not a restart, until one that completed is known."""
    start = await proxied(scripted([says("half an ans", finish=finish), "two", "three", "four"]))
    agent = await agents(start.server.url)
    async with agent.streaming("first") as stream:
        await stream.rest()
    agent.history.append({"type": "message", "role": "assistant", "content": "half an ans"})
    await agent.turn("second")
    await agent.turn("third")
    agent.history[0] = {"role": "user", "content": "what nobody asked"}
    await agent.turn("fourth")
    assert await figures(start, 4) == [
        ("full", "first_turn", 1, status),
        ("full", "after_error", 1, "completed"),
        ("delta", None, 1, "completed"),
        ("full", "after_restart", 1, "completed"),
    ]


@pytest.mark.parametrize(("finish", "status"), [(Failed(), "failed"), (Incomplete(), "incomplete")])
async def test_an_ending_that_is_not_completed_is_the_whole_answer(
    proxied: Start, agents: Agents, finish: Any, status: str
) -> None:
    """An agent that doesn't stream gets the response object with its own status, as over HTTP."""
    start = await proxied(scripted([says("half an ans", finish=finish)]))
    answer = await (await agents(start.server.url, stream=False)).turn("first")
    assert (answer.status, answer.response["status"]) == (200, status)
    assert await figures(start, 1) == [("full", "first_turn", 1, status)]


async def test_an_error_in_mid_stream_passes(proxied: Start, agents: Agents) -> None:
    """Once output was shown, upstream's error is an event like any other, and what HTTP has behind it follows."""
    start = await proxied(numbered)
    agent = await agents(start.server.url)
    start.simulator.inject(Fault("after_events", "error", events=4, status=500, message="In upstream's words."))
    async with agent.streaming("one") as stream:
        events = await stream.rest()
    assert [event["type"] for event in events].count("error") == 1
    assert events[-2]["error"]["message"] == "In upstream's words."
    assert events[-1]["response"]["error"]["message"] == "In upstream's words."
    assert events[-1]["response"]["id"] == events[0]["response"]["id"]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert await figures(start, 1) == [("full", "first_turn", 1, "failed")]


# WebSockets that fare worse than HTTP


@both_ways
@pytest.mark.parametrize(("status", "tries"), [(400, 1), (500, 2)])
async def test_an_upstream_whose_websockets_refuse_all(
    proxied: Start, agents: Agents, status: int, tries: int, *, stream: bool
) -> None:
    """The agent notices nothing: it is answered over HTTP, and soon at once."""
    start = await proxied(numbered)
    agent, simulator = await agents(start.server.url, stream=stream), start.simulator
    fault = Fault("before_created", "error", status=status, code="bad_request", transport="ws", times=None)
    simulator.inject(fault)
    for said in ("one", "two", "three"):
        assert (await agent.turn(said)).completed
    assert contexts(simulator) == agent.answered
    assert [turn.transport for turn in simulator.turns].count("ws") == tries
    tried = [("http", "websocket_refused", 2, "completed")] * tries
    assert await figures(start, 3) == [*tried, *[("http", "websocket_refused", 1, "completed")] * (3 - tries)]


# The agent hangs up


async def hung_up(proxied: Start, agents: Agents, turns_before: int, *, events: int) -> tuple[Proxied, Agent]:
    """Return an agent that broke off an answer behind so many *events*, having had *turns_before*."""
    start = await proxied(
        scripted([*["before"] * turns_before, LONG, "after"]), simulated={"event_seconds": 0.001}
    )
    agent = await agents(start.server.url)
    for _ in range(turns_before):
        await agent.turn("before")
    async with agent.streaming("one") as stream:
        for _ in range(events):
            assert await stream.event() is not None
    return start, agent


@pytest.mark.parametrize("turns_before", [0, 1])
async def test_an_agent_that_hangs_up_ends_its_connection(
    proxied: Start, agents: Agents, turns_before: int
) -> None:
    """What upstream would still say is nobody's: the connection is closed, and the next turn takes another."""
    start, agent = await hung_up(proxied, agents, turns_before, events=10)
    simulator = start.simulator
    await simulator.until(lambda: simulator.connections[0].closed)
    assert simulator.turns[-1].cancelled
    answer = await agent.turn("no, this")
    assert answer.text == "after"
    assert answer.types[0] == "response.created"
    assert simulator.turns[-1].connection_id == 1
    assert contexts(simulator) == agent.answered
    rows = await figures(start, turns_before + 2)
    assert rows[-2] == (*(("delta", None) if turns_before else ("full", "first_turn")), 1, "aborted")
    assert rows[-1] == ("full", "after_error" if turns_before else "first_turn", 1, "completed")
    assert (await start.figures())["connections"] == {"open": 1, "opened": 2, "lost": 0}


@pytest.mark.parametrize("turns_before", [0, 1])
async def test_where_an_agent_hung_up_the_next_connection_is_opened_at_once(
    proxied: Start, agents: Agents, turns_before: int
) -> None:
    """Whoever breaks off an answer says something else soon, and need not wait for a connection."""
    start, agent = await hung_up(proxied, agents, turns_before, events=1)
    simulator = start.simulator
    await simulator.until(lambda: len(simulator.connections) == 2)
    assert (await agent.turn("no, this")).text == "after"
    assert simulator.turns[-1].connection_id == 1
    assert (await start.figures())["connections"] == {"open": 1, "opened": 2, "lost": 0}


async def test_an_upstream_that_counts_what_was_cut_off_still_has_room_for_others(
    proxied: Start, agents: Agents
) -> None:
    """That it refuses one that was opened ahead is no reason to do without those that turns need."""
    start = await proxied(scripted([LONG, "after", "elsewhere"]), simulated={"event_seconds": 0.001})
    agent, other = await agents(start.server.url), await agents(start.server.url)
    simulator = start.simulator
    async with agent.streaming("one") as stream:
        assert await stream.event() is not None
        simulator.inject(Fault("handshake", "error", status=429, code="too_many_connections"))
    await simulator.until(lambda: not simulator.faults.pending)
    await start.recorded(1)
    assert (await agent.turn("no, this")).text == "after"
    assert (await other.turn("and I?")).text == "elsewhere"
    assert [status for *_, status in await figures(start, 3)] == ["aborted", "completed", "completed"]
    assert (await start.figures())["turns"]["http"] == 0


async def test_an_agent_that_hangs_up_before_the_first_event_ends_its_connection(
    proxied: Start, agents: Agents
) -> None:
    """The same holds while the model is still thinking."""
    start = await proxied(numbered)
    agent, simulator = await agents(start.server.url), start.simulator
    await agent.turn("one")
    simulator.settings.first_event_seconds = 3600

    async def ask() -> None:
        await agent.turn("two")

    task = asyncio.get_running_loop().create_task(ask())
    await simulator.until(lambda: len(simulator.turns) == 2)
    task.cancel()
    await simulator.until(lambda: simulator.connections[0].closed)
    simulator.settings.first_event_seconds = 0
    assert (await agent.turn("no, this")).text == "answer 1"
    assert contexts(simulator) == agent.answered
    assert [status for *_, status in await figures(start, 3)] == ["completed", "aborted", "completed"]


async def test_a_stored_response_outlives_an_agent_that_hangs_up(proxied: Start, agents: Agents) -> None:
    """Upstream was continuing it when the agent hung up, so the next turn is a delta: also the second time."""
    start = await proxied(scripted(["before", LONG, LONG, "after"]), simulated={"event_seconds": 0.001})
    agent, simulator = await agents(start.server.url, store=True), start.simulator
    await agent.turn("one")
    for said in ("two", "no, this"):
        async with agent.streaming(said) as stream:
            assert await stream.event() is not None
        await simulator.until(lambda: simulator.connections[-1].closed)
    assert (await agent.turn("or this")).text == "after"
    assert contexts(simulator) == agent.answered
    assert await figures(start, 4) == [
        ("full", "first_turn", 1, "completed"),
        ("delta", None, 1, "aborted"),
        ("delta", None, 1, "aborted"),
        ("delta", None, 1, "completed"),
    ]


@pytest.mark.parametrize("lost", [False, True], ids=["", "recalled"])
async def test_a_stored_response_that_leaves_the_agent_waiting_is_not_continued(
    proxied: Start, agents: Agents, *, lost: bool
) -> None:
    """Upstream may be at a loss with it: an agent that lost its patience before any event has its way in full."""
    start = await proxied(numbered, provider="openai")
    agent, simulator = await agents(start.server.url, store=True), start.simulator
    await agent.turn("one")
    if lost:
        await start.lose_connections()
    simulator.settings.first_event_seconds = 3600
    task = asyncio.get_running_loop().create_task(agent.turn("two"))
    await simulator.until(lambda: len(simulator.turns) == 2)
    task.cancel()
    await start.recorded(2)
    simulator.settings.first_event_seconds = 0
    await agent.turn()
    assert contexts(simulator) == agent.answered
    assert (await figures(start, 3))[1:] == [
        ("delta", None, 1, "aborted"),
        ("full", "after_error", 1, "completed"),
    ]


@pytest.mark.parametrize(("store", "second"), [(True, ("delta", None)), (False, ("full", "busy"))])
async def test_a_stored_response_is_continued_twice_at_once(
    proxied: Start, agents: Agents, *, store: bool, second: tuple[str, str | None]
) -> None:
    """Sub-agents that begin with one history need it only once; where it is not stored, each sends it."""
    start = await proxied(
        scripted(["before", LONG, "aside"]), simulated={"event_seconds": 0.001}, provider="openai"
    )
    agent, simulator = await agents(start.server.url, store=store), start.simulator
    await agent.turn("one")
    other = agent.fork()
    async with agent.streaming("two") as stream:
        assert await stream.event() is not None
        assert (await other.turn("and this")).text == "aside"
    assert contexts(simulator)[-1:] == other.answered
    assert (await figures(start, 3))[1] == (*second, 1, "completed")


async def test_an_agent_that_hangs_up_during_the_upgrade_leaves_nothing(proxied: Start, agents: Agents) -> None:
    """A connection that was not open yet is never used, nor does it take up room."""
    start = await proxied(numbered, simulated={"handshake_seconds": 3600}, max_connections=1)
    agent, simulator = await agents(start.server.url), start.simulator
    task = asyncio.get_running_loop().create_task(agent.turn("one"))
    await simulator.until(lambda: len(upgrades(simulator)) == 1)
    task.cancel()
    await start.recorded(1)
    simulator.settings.handshake_seconds = 0
    await agent.turn()
    assert (await figures(start, 2))[1] == ("full", "first_turn", 1, "completed")
    assert (await start.figures())["connections"] == {"open": 1, "opened": 1, "lost": 0}


# The agent changes the history


def edit(history: list[dict[str, Any]]) -> None:
    """Change an old message."""
    history[0] = user("one, but different")


def rewind(history: list[dict[str, Any]]) -> None:
    """Go back to the first answer."""
    del history[2:]


def compact(history: list[dict[str, Any]]) -> None:
    """Put a summary in the place of everything."""
    history[:] = [user("summary: one was said, then two")]


def forget(history: list[dict[str, Any]]) -> None:
    """Leave out an answer in the middle."""
    del history[1]


@pytest.mark.parametrize("change", [edit, rewind, compact, forget])
@both_ways
async def test_a_changed_history_is_sent_in_full_once(
    proxied: Start, agents: Agents, change: Callable[[list[dict[str, Any]]], None], *, stream: bool
) -> None:
    """The model reads the history as it is now, and deltas continue it."""
    start = await proxied(numbered)
    agent, simulator = await agents(start.server.url, stream=stream), start.simulator
    await agent.turn("one")
    await agent.turn("two")
    change(agent.history)
    await agent.turn("three")
    await agent.turn("four")
    assert contexts(simulator) == agent.answered
    rows = await figures(start, 4)
    reason = "first_turn" if change is compact else "history_changed"
    if change is edit:
        reason = "after_restart"
    assert rows[1:] == [
        ("delta", None, 1, "completed"),
        ("full", reason, 1, "completed"),
        ("delta", None, 1, "completed"),
    ]


# Several turns at once


async def test_two_turns_of_one_conversation_at_once_use_two_connections(proxied: Start, agents: Agents) -> None:
    """The second goes on a connection of its own; whichever ends last, both branches are continued as deltas."""
    start = await proxied(numbered)
    agent, simulator = await agents(start.server.url), start.simulator
    await agent.turn("root")
    simulator.script = scripted([LONG, "right", "left again", "right again"])
    simulator.settings.event_seconds = 0.01
    left, right = agent.fork(), agent.fork()
    async with left.streaming("to the left") as stream:
        first = await stream.event()
        assert first is not None
        await right.turn("to the right")
        assert not simulator.turns[1].finished
        simulator.settings.event_seconds = 0
        events = await stream.rest()
    left.history += events[-1]["response"]["output"]
    assert (await left.turn("on")).text == "left again"
    assert (await right.turn("on")).text == "right again"
    assert sent(simulator) == [
        ("full", "completed", 0),
        ("delta", "completed", 0),
        ("full", "completed", 1),
        ("delta", "completed", 0),
        ("delta", "completed", 1),
    ]
    assert simulator.turns[3].context == left.answered[-1]
    assert simulator.turns[4].context == right.answered[-1]
    rows = await figures(start, 5)
    assert rows[1:3] == [("full", "busy", 1, "completed"), ("delta", None, 1, "completed")]


async def test_a_late_finisher_does_not_overwrite_a_newer_baseline(proxied: Start, agents: Agents) -> None:
    """The same request twice: the answer that the agent goes on with is the one that is continued."""
    start = await proxied(scripted([LONG, "quick", "next"]), simulated={"event_seconds": 0.01})
    agent, simulator = await agents(start.server.url), start.simulator
    twin = agent.fork()
    async with agent.streaming("the same") as stream:
        assert await stream.event() is not None
        await twin.turn("the same")
        simulator.settings.event_seconds = 0
        await stream.rest()
    await twin.turn("on")
    assert simulator.turns[2].context == twin.answered[-1]
    assert sent(simulator)[2] == ("delta", "completed", 1)


async def test_a_second_conversation_leaves_the_first_its_baseline(proxied: Start, agents: Agents) -> None:
    """Conversations take turns, each continues its own chain, on its own connection."""
    start = await proxied(numbered)
    several = [await agents(start.server.url) for _ in range(3)]
    for number in range(3):
        for index, agent in enumerate(several):
            await agent.turn(f"conversation {index}, turn {number}")
    assert [(upload, reason) for upload, reason, _, _ in await figures(start, 9)] == [
        *[("full", "first_turn")] * 3,
        *[("delta", None)] * 6,
    ]
    assert [turn.connection_id for turn in start.simulator.turns] == [0, 1, 2] * 3
    for index, agent in enumerate(several):
        assert contexts(start.simulator)[index::3] == agent.answered


async def test_two_keys_never_share_a_connection(proxied: Start, agents: Agents) -> None:
    """The same history under another key is another partition."""
    start = await proxied(numbered)
    agent = await agents(start.server.url, key="mine")
    await agent.turn("one")
    thief = await agents(start.server.url, key="another")
    thief.history = list(agent.history)
    await thief.turn("two")
    await agent.turn("two")
    assert sent(start.simulator) == [("full", "completed", 0), ("full", "completed", 1), ("delta", "completed", 0)]
    assert [each.identity.authorization for each in start.simulator.connections] == [
        "Bearer mine",
        "Bearer another",
    ]


async def test_a_full_pool_gives_up_a_conversation_of_one_turn_first(proxied: Start, agents: Agents) -> None:
    """A title or a summary makes room; the long conversation keeps its baseline."""
    start = await proxied(numbered, provider="openai", max_connections=2)
    long, title, newcomer = [await agents(start.server.url) for _ in range(3)]
    await long.turn("long")
    await long.turn("longer")
    await title.turn("title")
    await newcomer.turn("new")
    await long.turn("longest")
    await title.turn("another title")
    assert await figures(start, 6) == [
        ("full", "first_turn", 1, "completed"),
        ("delta", None, 1, "completed"),
        ("full", "first_turn", 1, "completed"),
        ("full", "first_turn", 1, "completed"),
        ("delta", None, 1, "completed"),
        ("full", "retired", 1, "completed"),
    ]
    assert [turn.connection_id for turn in start.simulator.turns] == [0, 0, 1, 1, 0, 1]
    assert not any(connection.closed for connection in start.simulator.connections)


async def test_a_pool_that_is_busy_throughout_leaves_plain_http(proxied: Start, agents: Agents) -> None:
    """With every connection at work, a turn goes over HTTP, and the others go on."""
    start = await proxied(scripted([LONG, "over http", "next"]), max_connections=1)
    start.simulator.settings.event_seconds = 0.01
    agent, other = await agents(start.server.url), await agents(start.server.url)
    async with agent.streaming("one") as stream:
        assert await stream.event() is not None
        start.simulator.settings.event_seconds = 0
        assert (await other.turn("else")).text == "over http"
        events = await stream.rest()
    agent.history += events[-1]["response"]["output"]
    await agent.turn("two")
    rows = await figures(start, 3)
    assert ("http", "busy", 1, "completed") in rows
    assert rows[-1] == ("delta", None, 1, "completed")
    assert start.simulator.turns[1].transport == "http"
    assert start.simulator.turns[1].context == other.answered[0]


# The upgrade is refused


async def test_a_refused_agent_gets_upstreams_status(proxied: Start, agents: Agents) -> None:
    """The API's own refusal of a key is what HTTP would have said; the next turn asks again."""
    start = await proxied(numbered)
    agent, simulator = await agents(start.server.url), start.simulator
    fault = Fault("handshake", "error", status=401, code="invalid_api_key", message="Not you.", retry_after=9)
    simulator.inject(fault)
    answer = await agent.turn("one")
    assert answer.status == 401
    assert answer.body == fault.error().body()
    assert answer.headers["retry-after"] == "9"
    assert simulator.turns == []
    assert (await agent.turn()).text == "answer 0"
    assert await figures(start, 2) == [("full", "first_turn", 0, "failed"), ("full", "first_turn", 1, "completed")]


REFUSALS = {
    "uvicorn": b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
    "a gateway": b"HTTP/1.1 403 Forbidden\r\nContent-Type: application/json\r\nContent-Length: 23\r\n\r\n"
    b'{"message":"Forbidden"}',
    "a key of its own": b'HTTP/1.1 401 Unauthorized\r\nContent-Length: 26\r\n\r\n{"message":"Unauthorized"}',
    "in one word": b'HTTP/1.1 401 Unauthorized\r\nContent-Length: 24\r\n\r\n{"error":"unauthorized"}',
    "too many": b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 60\r\nContent-Length: 0\r\n\r\n",
    "too many, it says": b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 60\r\nContent-Length: 28\r\n\r\n"
    b'{"error":{"message":"many"}}',
}


@pytest.mark.parametrize("refusal", REFUSALS.values(), ids=REFUSALS.keys())
async def test_a_refusal_of_websockets_is_none_of_the_turn(
    proxied: Start, agents: Agents, raw_upstream: RawUpstreams, refusal: bytes
) -> None:
    """Servers without a WebSocket there, or with enough of them, refuse so what they take over plain HTTP."""
    asked: list[str] = []

    async def serve(peer: Peer) -> None:
        while True:
            message = await peer.message()
            asked.append(message.start.partition(" ")[0])
            if message.get("Upgrade"):
                await peer.send(refusal)
                if b"connection: close" in refusal:
                    return
                continue
            whole = b'{"id":"resp_1","status":"completed","output":[]}'
            head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(whole)}\r\n\r\n"
            await peer.send(head.encode() + whole)

    clock = Clock()
    start = await proxied(upstream=(await raw_upstream(serve)).base_url, clock=clock)
    for said in ("one", "two"):
        answer = await start.post({"model": "m", "input": said})
        assert (answer.status, answer.json()["id"]) == (200, "resp_1")
    clock.advance(10)
    assert (await start.post({"model": "m", "input": "three"})).status == 200
    assert asked == ["GET", "POST", "POST", "GET", "POST"]
    assert await figures(start, 3) == [("http", "no_websocket", 1, "completed")] * 3


async def test_who_has_a_connection_keeps_it_where_no_more_are_granted(proxied: Start, agents: Agents) -> None:
    """An upstream that caps WebSockets leaves another conversation to plain HTTP, and this one its deltas."""
    start = await proxied(numbered)
    one, other = await agents(start.server.url), await agents(start.server.url)
    await one.turn("one")
    start.simulator.inject(Fault("handshake", "error", status=429, retry_after=60, times=None))
    await other.turn("something else")
    await other.turn("and more")
    await one.turn("two")
    assert len(upgrades(start.simulator)) == 2
    assert [row[:2] for row in await figures(start, 4)] == [
        ("full", "first_turn"),
        *[("http", "no_websocket")] * 2,
        ("delta", None),
    ]


PORTAL = b"<html><body>Welcome on board! Please accept the terms.</body></html>"


@pytest.mark.parametrize(
    "fault",
    [Fault("handshake", "error", status=status, code=None) for status in (404, 405, 426, 501)],
    ids=lambda fault: str(fault.status),
)
@both_ways
async def test_an_upstream_without_websocket_gets_plain_http_and_is_asked_again(
    proxied: Start, agents: Agents, fault: Fault, *, stream: bool
) -> None:
    """The turns go over HTTP for websocket_retry_seconds, and no longer: the verdict is never final."""
    clock = Clock()
    start = await proxied(numbered, clock=clock, websocket_retry_seconds=300)
    agent, simulator = await agents(start.server.url, stream=stream), start.simulator
    fault.times = 2
    simulator.inject(fault)
    for said in ("one", "two"):
        assert (await agent.turn(said)).status == 200
    assert len(upgrades(simulator)) == 1
    clock.advance(299)
    await agent.turn("three")
    assert len(upgrades(simulator)) == 1
    clock.advance(1)
    await agent.turn("four")  # asks, and is refused once more
    assert len(upgrades(simulator)) == 2
    clock.advance(300)
    await agent.turn("five")
    await agent.turn("six")
    assert len(upgrades(simulator)) == 3
    assert contexts(simulator) == agent.answered
    assert await figures(start, 6) == [
        *[("http", "no_websocket", 1, "completed")] * 4,
        ("full", "after_restart", 1, "completed"),
        ("delta", None, 1, "completed"),
    ]


@pytest.mark.parametrize(
    "fault",
    [
        Fault("handshake", "error", status=200, body=PORTAL),
        Fault("handshake", "error", status=302, body=b"", headers={"Location": "http://portal.example/login"}),
        Fault("handshake", "error", status=400, code=None),
        Fault("handshake", "error", status=403, body=PORTAL),
        Fault("handshake", "error", status=403, body=b""),
        Fault("handshake", "error", status=429, code="rate_limit_exceeded", retry_after=600),
        Fault("handshake", "error", status=503, code=None),
        Fault("handshake", "error", status=511, body=PORTAL),
    ],
    ids=lambda fault: f"{fault.status}-{fault.body[:6].decode()}" if fault.body is not None else str(fault.status),
)
async def test_an_upgrade_that_something_in_between_refused_is_asked_for_again_soon(
    proxied: Start, agents: Agents, fault: Fault
) -> None:
    """It says nothing about upstream: after seconds at first, and ever later as it goes on."""
    clock = Clock()
    start = await proxied(numbered, clock=clock, websocket_retry_seconds=300)
    agent, simulator = await agents(start.server.url), start.simulator
    fault.times = 3
    simulator.inject(fault)
    for pause in (10, 20, 40):
        await agent.turn("one")
        asked = len(upgrades(simulator))
        await agent.turn("two")
        clock.advance(pause / 2 - 1)
        await agent.turn("three")
        assert len(upgrades(simulator)) == asked
        clock.advance(pause / 2 + 1)
    await agent.turn("four")
    assert len(upgrades(simulator)) == 4
    assert contexts(simulator) == agent.answered
    assert [row[0] for row in await figures(start, 10)] == ["http"] * 9 + ["full"]


@pytest.mark.parametrize("what", ["abort", "close", "garbage"])
async def test_an_upgrade_that_breaks_off_is_asked_for_again_with_the_next_turn(
    proxied: Start, agents: Agents, what: Any
) -> None:
    """A flaky link is no verdict on upstream: this turn goes over HTTP, the next one tries the WebSocket."""
    start = await proxied(numbered)
    agent, simulator = await agents(start.server.url), start.simulator
    simulator.inject(Fault("handshake", what))
    await agent.turn("one")
    await agent.turn("two")
    assert contexts(simulator) == agent.answered
    assert await figures(start, 2) == [
        ("http", "no_websocket", 1, "completed"),
        ("full", "after_restart", 1, "completed"),
    ]


async def test_an_upgrade_that_is_not_answered_ends_with_open_timeout(proxied: Start, agents: Agents) -> None:
    """The agent waits open_timeout, and gets its answer over HTTP."""
    start = await proxied(numbered, open_timeout=0.1)
    start.simulator.inject(Fault("handshake", "silence"))
    agent = await agents(start.server.url)
    assert (await agent.turn("one")).text == "answer 0"
    assert await figures(start, 1) == [("http", "no_websocket", 1, "completed")]


@pytest.mark.parametrize(("settings", "seconds"), [({}, 30), ({"websocket_retry_seconds": 5}, 5)])
async def test_upgrades_that_are_swallowed_cost_one_wait(
    proxied: Start, agents: Agents, settings: dict[str, Any], seconds: float
) -> None:
    """The next turns go over HTTP at once; the WebSocket is tried again after half a minute, or sooner if told."""
    clock = Clock()
    start = await proxied(numbered, clock=clock, open_timeout=0.1, **settings)
    start.simulator.inject(Fault("handshake", "silence"))
    agent = await agents(start.server.url)
    for said in ("one", "two", "three"):
        await agent.turn(said)
    assert len(start.simulator.connections) == 0
    clock.advance(seconds)
    await agent.turn("four")
    assert [row[:2] for row in await figures(start, 4)] == [
        *[("http", "no_websocket")] * 3,
        ("full", "after_restart"),
    ]


async def test_upgrades_that_are_always_swallowed_hold_up_two_turns(proxied: Start, agents: Agents) -> None:
    """Later ones are asked for beside turns that go over HTTP; the turn behind one that opens goes over it."""
    clock = Clock()
    start = await proxied(numbered, clock=clock, open_timeout=1)
    start.simulator.inject(Fault("handshake", "silence", times=4))
    agent = await agents(start.server.url)
    waits = []
    for asked in range(1, 5):
        began = time.monotonic()
        await agent.turn("on")
        waits.append(time.monotonic() - began >= 1)
        await start.simulator.until(partial(_was_given_up, start, asked))
        clock.advance(300)
    assert waits == [True, True, False, False]
    await agent.turn("it opens beside this one")
    await start.simulator.until(lambda: len(start.simulator.connections) == 1)
    await agent.turn("on it")
    assert [row[:2] for row in await figures(start, 6)] == [
        *[("http", "no_websocket")] * 5,
        ("full", "after_restart"),
    ]


def _was_given_up(start: Any, times: int) -> bool:
    """Whether so many upgrades were asked for, and their connections closed: the other one is plain HTTP's."""
    asked = sum(request.header("Upgrade") is not None for request in start.simulator.requests)
    return asked == times and len(start.simulator._wires) <= 1


async def test_what_closes_every_websocket_at_an_age_takes_no_turn_along_in_the_end(
    proxied: Start, agents: Agents
) -> None:
    """After three turns that were lost at the same age, connections retire between turns, before they reach it."""
    clock = Clock()
    start = await proxied(numbered, clock=clock)
    agent = await agents(start.server.url)
    await agent.turn("on")
    for _ in range(3):
        start.simulator.inject(Fault("before_created", "abort", transport="ws"))
        clock.advance(30)
        await agent.turn("on")
    for seconds in (20, 9, 28, 1):
        clock.advance(seconds)
        await agent.turn("on")
    assert [row[:3] for row in await figures(start, 8)] == [
        ("full", "first_turn", 1),
        *[("full", "connection_lost", 2)] * 3,
        ("delta", None, 1),
        ("full", "retired", 1),
        ("delta", None, 1),
        ("full", "retired", 1),
    ]


async def test_what_ends_turns_that_take_long_retires_no_connection(proxied: Start, agents: Agents) -> None:
    """Each was as old as its connection when it was lost. Short turns go on over one for longer than that."""
    clock = Clock()

    def slow(call: ModelCall) -> Output:
        clock.advance(30 if "think" in str(call.context[-1]) else 0)
        return numbered(call)

    start = await proxied(slow, clock=clock)
    agent = await agents(start.server.url, stream=False)
    start.simulator.inject(Fault("after_created", "abort", transport="ws", times=4))
    for said, seconds in (("think", 0), ("think", 60), ("on", 20), ("on", 20), ("on", 0)):
        await agent.turn(said)
        clock.advance(seconds)
    assert [row[:3] for row in await figures(start, 5)] == [
        *[("http", "connection_lost", 3)] * 2,
        ("full", "after_restart", 1),
        *[("delta", None, 1)] * 2,
    ]


async def test_websockets_that_always_break_are_left_alone_for_a_while(proxied: Start, agents: Agents) -> None:
    """Two turns in a row pay for finding out; the third goes over HTTP at once."""
    clock = Clock()
    start = await proxied(numbered, clock=clock)
    start.simulator.inject(Fault("before_created", "abort", times=None, transport="ws"))
    agent = await agents(start.server.url)
    for said in ("one", "two", "three"):
        await agent.turn(said)
    assert [row[:3] for row in await figures(start, 3)] == [
        ("http", "connection_lost", 3),
        ("http", "connection_lost", 3),
        ("http", "no_websocket", 1),
    ]


async def test_the_trial_of_a_suspect_websocket_costs_one_upload(proxied: Start, agents: Agents) -> None:
    """Each trial that fails is followed by a longer time of plain HTTP; one that succeeds ends the suspicion."""
    clock = Clock()
    start = await proxied(numbered, clock=clock, websocket_retry_seconds=100)
    start.simulator.inject(Fault("before_created", "abort", times=None, transport="ws"))
    agent = await agents(start.server.url)
    for pause in (0, 0, 30, 29, 31, 49, 51):
        clock.advance(pause)
        await agent.turn("on")
    start.simulator.faults.clear()
    clock.advance(100)
    await agent.turn("on")
    start.simulator.inject(Fault("before_created", "abort", times=1, transport="ws"))
    await agent.turn("on")
    assert [row[:3] for row in await figures(start, 9)] == [
        *[("http", "connection_lost", 3)] * 2,
        ("http", "connection_lost", 2),
        ("http", "no_websocket", 1),
        ("http", "connection_lost", 2),
        ("http", "no_websocket", 1),
        ("http", "connection_lost", 2),
        ("full", "after_restart", 1),
        ("full", "connection_lost", 2),
    ]


async def test_websockets_that_break_in_every_answer_are_left_alone_for_a_while(
    proxied: Start, agents: Agents
) -> None:
    """Three turns in a row are broken off; the next has its answer over HTTP."""
    start = await proxied(numbered, clock=Clock())
    start.simulator.inject(Fault("after_created", "abort", times=None, transport="ws"))
    agent = await agents(start.server.url)
    for _ in range(3):
        with pytest.raises(aiohttp.ClientError):
            await agent.turn("on")
    assert (await agent.turn("on")).completed
    assert [row[:2] for row in await figures(start, 4)] == [
        *[("full", "first_turn")] * 3,
        ("http", "no_websocket"),
    ]


async def test_turns_that_are_lost_together_are_one_loss(proxied: Start, agents: Agents) -> None:
    """A change of network takes every agent's connection, which says nothing against the next one."""
    clock = Clock()
    start = await proxied(lambda _: LONG, clock=clock)
    start.simulator.inject(Fault("after_events", "slow", events=1, seconds=1000, times=4))
    several = [await agents(start.server.url) for _ in range(4)]
    async with AsyncExitStack() as stack:
        for number, each in enumerate(several):
            stream = await stack.enter_async_context(each.streaming(f"agent {number}"))
            await stream.event()
        clock.advance(1)
        start.simulator.abort_connections()
        await start.recorded(4)
    start.simulator.script = numbered
    assert (await several[0].turn("on")).status == 200
    assert [row[0] for row in await figures(start, 5)] == ["full"] * 5


@pytest.mark.parametrize(
    ("settings", "first"),
    [({"first_event_timeout": 1}, 504), ({"probe_timeout": 0.2}, 200)],
    ids=["in doubt", "like the one opened beside it"],
)
async def test_a_websocket_that_swallows_everything_is_left_alone_after_one_turn(
    proxied: Start, agents: Agents, raw_upstream: RawUpstreams, settings: dict[str, Any], first: int
) -> None:
    """It opens, and then not even a pong comes of it: the agent is told at most once, and turns go over HTTP."""
    posts = 0

    async def serve(peer: Peer) -> None:
        nonlocal posts
        while True:
            request = await peer.message()
            if request.get("Upgrade"):
                accepted = accept_key(request.get("Sec-WebSocket-Key"))
                await peer.send(
                    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                    b"Sec-WebSocket-Accept: %b\r\n\r\n" % accepted.encode()
                )
                while await peer.reader.read(1000):
                    pass
                return
            posts += 1
            await peer.send(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 13\r\n\r\n")
            await peer.send(b'{"output":[]}')

    upstream = await raw_upstream(serve)
    start = await proxied(upstream=upstream.base_url, ping_interval=0.2, **settings)
    agent = await agents(start.server.url, stream=False)
    statuses = []
    for _ in range(3):
        async with agent.posting("on") as response:
            statuses.append(response.status)
            await response.read()
    assert (statuses, posts) == ([first, 200, 200], 3 if first == 200 else 2)


# Size


async def test_a_message_that_upstream_finds_too_large_goes_over_http_at_once(
    proxied: Start, agents: Agents
) -> None:
    """Its limit may be lower than ours; the message is not sent to it twice."""
    start = await proxied(numbered, simulated={"max_message_bytes": 2000})
    agent = await agents(start.server.url)
    assert (await agent.turn("one" * 2000)).text == "answer 0"
    assert await figures(start, 1) == [("http", "too_large", 2, "completed")]


@pytest.mark.parametrize("stream", [True, False])
async def test_an_answer_with_an_event_that_is_too_large_goes_over_http_at_once(
    proxied: Start, agents: Agents, *, stream: bool
) -> None:
    """No other WebSocket would carry it, so none is tried; and WebSockets are not to blame."""
    settings: dict[str, Any] = {"max_event_bytes": 4000, "ambiguous_retries": 0}
    start = await proxied(lambda call: says("x" * 3000 if call.number < 2 else "y"), **settings)
    agent = await agents(start.server.url)
    large = {"instructions": "z" * 4000} if stream else {}  # what is told at once, and what is told at the end
    assert (await agent.turn("one", stream=stream, **large)).text == "x" * 3000
    assert await figures(start, 1) == [("http", "too_large", 2, "completed")]
    assert (await (await agents(start.server.url)).turn("two")).text == "y"
    assert (await figures(start, 2))[1] == ("full", "first_turn", 1, "completed")


@pytest.mark.parametrize("path", ["responses", "chat/completions"])
async def test_what_upstream_finds_too_large_is_not_sent_in_vain_again(proxied: Start, path: str) -> None:
    """For a while what is as large goes over HTTP at once, and what is smaller over a WebSocket as before."""
    clock = Clock()
    start = await proxied(numbered, simulated={"max_message_bytes": 2000}, clock=clock)

    async def ask(size: int) -> None:
        said = [{"role": "user", "content": "a" * size}]
        body = {"model": "gpt-5.5", "messages" if path.startswith("chat") else "input": said}
        assert (await start.post(body, target=f"/v1/{path}")).status == 200

    for size in (3000, 3000, 4000, 100, 2000):
        await ask(size)
    clock.advance(300)
    await ask(5000)
    await ask(3000)
    assert [(upload, reason, attempts) for upload, reason, attempts, _ in await figures(start, 7)] == [
        ("http", "too_large", 2),
        ("http", "too_large", 1),
        ("http", "too_large", 1),
        ("full", "first_turn", 1),
        ("http", "too_large", 2),
        ("http", "too_large", 2),
        ("http", "too_large", 2),
    ]


async def test_what_upstream_took_before_is_not_taken_for_too_large(proxied: Start, agents: Agents) -> None:
    """A 1009 for less than that is about something else; a second one, with no answer between them, is not."""
    start = await proxied(numbered)
    agent = await agents(start.server.url)

    async def odd_turn() -> None:
        start.simulator.inject(Fault("before_created", "close", close_code=1009, transport="ws"))
        await agent.turn("more")

    await agent.turn("a" * 5000)
    await odd_turn()
    await agent.turn("and more")
    await odd_turn()
    await odd_turn()
    await agent.turn("and more again")
    assert [(upload, reason, attempts) for upload, reason, attempts, _ in await figures(start, 6)] == [
        ("full", "first_turn", 1),
        ("http", "too_large", 2),
        ("full", "connection_lost", 1),
        ("http", "too_large", 2),
        ("http", "too_large", 2),
        ("http", "too_large", 1),
    ]
    assert contexts(start.simulator) == agent.answered


async def test_a_413_over_a_websocket_is_asked_over_http(proxied: Start, agents: Agents) -> None:
    """A gateway may allow less in a message than in a body, and what is as large then goes over HTTP at once."""
    start = await proxied(numbered)
    agent, other = await agents(start.server.url), await agents(start.server.url)
    await agent.turn("a" * 3000)
    start.simulator.inject(Fault("before_created", "error", status=413, code="too_large", transport="ws"))
    await other.turn("b" * 9000)
    await other.turn("c" * 9000)
    await agent.turn("more")
    assert [(upload, reason, attempts) for upload, reason, attempts, _ in await figures(start, 4)] == [
        ("full", "first_turn", 1),
        ("http", "too_large", 2),
        ("http", "too_large", 1),
        ("delta", None, 1),
    ]


async def test_a_deltas_413_says_nothing_of_its_size(proxied: Start, agents: Agents) -> None:
    """Its chain may be what is too large: other conversations go on over WebSockets."""
    start = await proxied(numbered)
    several = [await agents(start.server.url) for _ in range(3)]
    for agent in several[:2]:
        await agent.turn("a" * 3000)
    for agent in several[:2]:
        start.simulator.inject(Fault("before_created", "error", status=413, code="too_large", transport="ws"))
        await agent.turn("more")
    await several[2].turn("b" * 3000)
    assert [(upload, reason) for upload, reason, *_ in await figures(start, 5)] == [
        ("full", "first_turn"),
        ("full", "first_turn"),
        ("http", "too_large"),
        ("http", "too_large"),
        ("full", "first_turn"),
    ]


async def test_deltas_go_on_where_the_whole_was_found_too_large(proxied: Start, agents: Agents) -> None:
    """What upstream refused for its size is no reason to leave a chain whose turns are small."""
    start = await proxied(numbered, simulated={"max_message_bytes": 4096})
    agent, other = await agents(start.server.url), await agents(start.server.url)
    for number in range(5):
        await agent.turn(f"{number}" * 1000)
    await other.turn("one" * 2000)
    await agent.turn("and now")
    assert [upload for upload, *_ in await figures(start, 7)] == ["full", *["delta"] * 4, "http", "delta"]
    await start.lose_connections()
    await agent.turn("and then")
    assert (await figures(start, 8))[7] == ("http", "too_large", 1, "completed")
    assert contexts(start.simulator) == [*agent.answered[:5], *other.answered, *agent.answered[5:]]


async def test_a_message_over_the_limit_goes_over_http_for_that_turn_only(proxied: Start, agents: Agents) -> None:
    """What is too large for a WebSocket message leaves the chain alone: the next delta continues it."""
    start = await proxied(numbered, max_message_bytes=4096)
    agent, simulator = await agents(start.server.url), start.simulator
    await agent.turn("one")
    aside = agent.fork()
    await aside.turn("two" * 2000)
    await agent.turn("two")
    await agent.turn("three")
    assert sent(simulator) == [
        ("full", "completed", 0),
        ("http", "completed", simulator.turns[1].connection_id),
        ("delta", "completed", 0),
        ("delta", "completed", 0),
    ]
    assert contexts(simulator) == [agent.answered[0], aside.answered[0], *agent.answered[1:]]
    assert await figures(start, 4) == [
        ("full", "first_turn", 1, "completed"),
        ("http", "too_large", 1, "completed"),
        ("delta", None, 1, "completed"),
        ("delta", None, 1, "completed"),
    ]


async def test_a_history_over_the_limit_still_grows_by_deltas(proxied: Start, agents: Agents) -> None:
    """Small deltas of a long conversation fit, though the whole would not; a loss then leaves plain HTTP."""
    start = await proxied(numbered, max_message_bytes=4096)
    agent, simulator = await agents(start.server.url), start.simulator
    for number in range(5):
        await agent.turn(f"{number}" * 1000)
    assert [row[0] for row in await figures(start, 5)] == ["full", "delta", "delta", "delta", "delta"]
    await start.lose_connections()
    await agent.turn("and now")
    assert (await figures(start, 6))[5] == ("http", "too_large", 1, "completed")
    assert contexts(simulator) == agent.answered


async def test_a_miss_of_a_history_over_the_limit_leaves_plain_http(proxied: Start, agents: Agents) -> None:
    """Where only the delta fits and upstream forgot, the whole goes over HTTP."""
    start = await proxied(numbered, max_message_bytes=4096)
    agent, simulator = await agents(start.server.url), start.simulator
    for number in range(5):
        await agent.turn(f"{number}" * 1000)
    simulator.inject(miss())
    await agent.turn("and now")
    assert contexts(simulator) == agent.answered
    assert (await figures(start, 6))[5] == ("http", "too_large", 2, "completed")


# Stragglers


async def test_telemetry_after_the_end_does_not_reach_the_next_turn(proxied: Start, agents: Agents) -> None:
    """What trails a completed response is nobody's, and the chain goes on."""
    start = await proxied(numbered, simulated={"extra_events": ("trailing",), "trailing_seconds": 0})
    agent, simulator = await agents(start.server.url), start.simulator
    for number in range(3):
        answer = await agent.turn(str(number))
        assert (answer.types[0], answer.types[-1]) == ("response.created", "response.completed")
        assert "response.novelty.reported" not in answer.types
        trailing = len(answer.events) + 1
        await simulator.until(
            lambda number=number, trailing=trailing: simulator.turns[number].events_sent == trailing  # type: ignore[misc]
        )
    assert sent(simulator) == [("full", "completed", 0), ("delta", "completed", 0), ("delta", "completed", 0)]
    assert contexts(simulator) == agent.answered


async def test_what_upstream_says_between_turns_is_not_kept(
    proxied: Start, agents: Agents, stack: AsyncExitStack
) -> None:
    """Signs of life for hours are no answer that is read too slowly: the conversation keeps its connection."""
    idle, said = asyncio.Event(), asyncio.Event()

    async def speak(connection: ServerConnection) -> None:
        async for _ in connection:
            response = {"id": "resp_1", "status": "completed", "output": []}
            for name in ("created", "completed"):
                await connection.send(orjson.dumps({"type": f"response.{name}", "response": response}).decode())
            await idle.wait()
            with suppress(ConnectionClosed):
                for _ in range(20):
                    await connection.send(orjson.dumps({"type": "keepalive", "said": "x" * 100}).decode())
                await (await connection.ping())
            said.set()

    server = await stack.enter_async_context(serve(speak, "127.0.0.1", 0, compression=None))
    upstream = "http://{}:{}/v1".format(*next(iter(server.sockets)).getsockname())
    start = await proxied(upstream=upstream, max_unread_bytes=1000)
    agent = await agents(start.server.url)
    await agent.turn("one")
    await start.recorded(1)
    idle.set()
    await said.wait()
    await agent.turn("two")
    assert [each[:2] for each in await figures(start, 2)] == [("full", "first_turn"), ("delta", None)]


async def test_a_late_error_does_not_reach_the_next_turn(proxied: Start, agents: Agents) -> None:
    """An error that belongs to nothing any more is dropped with the other stragglers."""
    start = await proxied(numbered)
    agent, simulator = await agents(start.server.url), start.simulator
    simulator.inject(Fault("idle", "late_error", status=500))
    answer = await agent.turn("one")
    await simulator.until(lambda: simulator.connections[0].frames_out == len(answer.events) + 1)
    assert (await agent.turn("two")).text == "answer 1"
    assert await figures(start, 2) == [("full", "first_turn", 1, "completed"), ("delta", None, 1, "completed")]


async def test_words_of_another_response_are_not_shown(proxied: Start, agents: Agents) -> None:
    """On a used connection, output before response.created is another turn's: the connection is given up."""
    start = await proxied(numbered)
    agent, simulator = await agents(start.server.url), start.simulator
    await agent.turn("one")
    simulator.settings.extra_events = ("unknown_before_created",)
    simulator.inject(Fault("after_events", "slow", events=1))
    simulator.script = scripted([lambda _: says("nobody's"), "answer 1"])
    answer = await agent.turn("two")
    assert answer.text == "answer 1"
    assert (await figures(start, 2))[1] == ("full", "connection_lost", 2, "completed")


async def test_events_of_the_connection_are_shown_with_the_answer(proxied: Start, agents: Agents) -> None:
    """Keep-alives before response.created don't begin an answer, and aren't lost; rate limits are not for HTTP."""
    early = ("keepalive_before_created", "rate_limits_before_created")
    start = await proxied(numbered, simulated={"extra_events": early})
    agent = await agents(start.server.url)
    await agent.turn("one")
    start.simulator.inject(miss())
    answer = await agent.turn("two")
    assert answer.types[:2] == ["keepalive", "response.created"]
    assert answer.types.count("keepalive") == 1
    assert (await figures(start, 2))[1] == ("full", "upstream_forgot", 2, "completed")


# Silence


@both_ways
async def test_silence_before_the_first_event_is_a_504(proxied: Start, agents: Agents, *, stream: bool) -> None:
    """After first_event_timeout the agent gets a status; the model may be at work, so nothing is sent twice."""
    start = await proxied(numbered, first_event_timeout=0.1)
    agent, simulator = await agents(start.server.url, stream=stream), start.simulator
    simulator.inject(Fault("before_created", "silence"))
    answer = await agent.turn("one")
    assert answer.status == 504
    assert "first_event_timeout" in answer.body["error"]["message"]
    assert len(simulator.turns) == 1
    assert (await agent.turn()).text == "answer 0"
    assert await figures(start, 2) == [
        ("full", "first_turn", 1, "failed"),
        ("full", "first_turn", 1, "completed"),
    ]


async def test_silence_in_mid_stream_aborts_the_answer(proxied: Start, agents: Agents) -> None:
    """After event_timeout a streamed answer breaks off."""
    start = await proxied(numbered, event_timeout=0.1)
    agent, simulator = await agents(start.server.url), start.simulator
    simulator.inject(Fault("after_events", "silence", events=3))
    async with agent.streaming("one") as stream:
        for _ in range(3):
            assert await stream.event() is not None
        with pytest.raises(aiohttp.ClientError):
            await stream.event()
    assert (await agent.turn()).text == "answer 1"
    assert [status for *_, status in await figures(start, 2)] == ["failed", "completed"]
    assert len(simulator.turns) == 2


async def test_silence_in_mid_stream_is_a_504_where_nothing_was_sent_yet(proxied: Start, agents: Agents) -> None:
    """An agent that doesn't stream gets a status that names the limit."""
    start = await proxied(numbered, event_timeout=0.1)
    start.simulator.inject(Fault("after_events", "silence", events=3))
    answer = await (await agents(start.server.url, stream=False)).turn("one")
    assert answer.status == 504
    assert "event_timeout" in answer.body["error"]["message"]


# Shutdown


async def not_listening(proxied: Proxied) -> None:
    """Wait until nobody can connect any more."""
    while True:
        try:
            (await proxied.dial()).close()
        except OSError:
            return


async def test_a_shutdown_lets_a_turn_in_flight_finish(proxied: Start, agents: Agents) -> None:
    """Draining waits for the answer to end, and takes no new connections meanwhile."""
    start = await proxied(scripted([LONG]), simulated={"event_seconds": 0.01}, drain_seconds=20)
    agent, simulator = await agents(start.server.url), start.simulator
    async with agent.streaming("one") as stream:
        assert await stream.event() is not None
        async with asyncio.TaskGroup() as group:
            draining = group.create_task(start.server.drain())
            await not_listening(start)
            assert not draining.done()
            simulator.settings.event_seconds = 0
            events = await stream.rest()
    assert events[-1]["type"] == "response.completed"
    await simulator.until(lambda: not simulator.open_connections)
    assert next(start.server.ledger.turns(1)).status == "completed"


async def test_a_shutdown_takes_no_more_requests(proxied: Start, agents: Agents) -> None:
    """One that comes on a connection that is open already is refused, not begun and cut off."""
    start = await proxied(scripted([LONG]), simulated={"event_seconds": 0.01}, drain_seconds=20)
    agent, simulator = await agents(start.server.url), start.simulator
    other = await start.dial()
    assert (await other.ask("GET", "/_packlight/health")).status == 200
    async with agent.streaming("one") as stream:
        assert await stream.event() is not None
        async with asyncio.TaskGroup() as group:
            draining = group.create_task(start.server.drain())
            await not_listening(start)
            answer = await other.ask("POST", "/v1/responses", body=b'{"model":"m","input":"x"}')
            assert await other.reader.read() == b""
            assert not draining.done()
            simulator.settings.event_seconds = 0
            events = await stream.rest()
    assert (answer.status, answer.json()["error"]["code"]) == (503, "stopping")
    assert answer.get("Connection") == "close"
    assert events[-1]["type"] == "response.completed"
    assert len(simulator.turns) == 1


async def test_a_shutdown_aborts_what_does_not_finish(proxied: Start, agents: Agents) -> None:
    """After drain_seconds the answer breaks off, visibly."""
    start = await proxied(scripted([LONG]), simulated={"event_seconds": 0.5}, drain_seconds=0.2)
    agent = await agents(start.server.url)
    async with agent.streaming("one") as stream:
        assert await stream.event() is not None
        await start.server.drain()
        with pytest.raises(aiohttp.ClientError):
            await stream.rest()
    assert next(start.server.ledger.turns(1)).status == "aborted"


@both_ways
async def test_a_shutdown_answers_what_has_not_begun(proxied: Start, agents: Agents, *, stream: bool) -> None:
    """Cut off before its first event, a turn ends with a status that agents retry."""
    start = await proxied(numbered, simulated={"first_event_seconds": 60}, drain_seconds=0.2)
    agent = await agents(start.server.url, stream=stream)
    loop = asyncio.get_running_loop()
    async with asyncio.TaskGroup() as group:
        turn = group.create_task(agent.turn("one"))
        await start.simulator.until(lambda: bool(start.simulator.turns))
        began = loop.time()
        await start.server.drain()
        took = loop.time() - began
    assert (turn.result().status, turn.result().body["error"]["code"]) == (503, "stopping")
    assert took < 5
    assert next(start.server.ledger.turns(1)).status == "aborted"


async def test_what_strict_parsers_refuse_reaches_the_agent(
    agents: Agents, proxied: Start, speaking: Speaking
) -> None:
    """NaN and half a character, which some servers write, cost a baseline and not the answer."""
    item = '{"type":"message","role":"assistant","content":[{"type":"output_text","text":"\\ud83d"}]}'
    frames = [
        '{"type":"response.created","response":{"id":"resp_1","top_p":NaN}}',
        '{"type":"response.output_item.done","output_index":0,"item":%s}' % item,  # noqa: UP031
        '{"type":"response.completed","response":{"id":"resp_1","status":"completed","top_p":NaN,"output":[]}}',
    ]
    start = await proxied(upstream=await speaking(*frames))
    agent = await agents(start.server.url, stream=False)
    async with agent.posting("one") as response:
        assert response.status == 200
        assert b"\\ud83d" in await response.read()
    assert [row[0] for row in await figures(start, 1)] == ["full"]


# Everything at once


async def test_the_openai_sdk_notices_nothing_of_what_can_be_made_good(proxied: Start) -> None:
    """A session of tool calls, with a miss, losses and a refused upgrade on the way, is an ordinary one."""
    calls: Script = lambda call: says(FunctionCall("ls", "{}", f"call_{call.number}"), f"say {call.number}")  # noqa: E731
    clock = Clock()
    start = await proxied(calls, clock=clock)
    faults = {
        1: miss(),
        3: Fault("before_created", "abort"),
        5: Fault("before_created", "close", times=2, transport="ws"),
        6: Fault("handshake", "error", status=426, code=None),
    }
    history: list[Any] = []
    async with openai.AsyncOpenAI(base_url=f"{start.server.url}/v1", api_key="key", max_retries=0) as client:
        for number in range(10):
            if number in faults:
                start.simulator.inject(faults[number])
            if number == 8:
                clock.advance(300)
            history.append(user(f"question {number}"))
            response = await client.responses.create(model="m", input=history, store=False)
            assert response.output_text == f"say {number}"
            history += [item.model_dump(exclude_none=True) for item in response.output]
            history.append({"type": "function_call_output", "call_id": f"call_{number}", "output": "done"})
            assert contexts(start.simulator)[-1] == history[:-3]
    assert [(upload, reason, attempts) for upload, reason, attempts, _ in await figures(start, 10)] == [
        ("full", "first_turn", 1),
        ("full", "upstream_forgot", 2),
        ("delta", None, 1),
        ("full", "connection_lost", 2),
        ("delta", None, 1),
        ("http", "connection_lost", 3),
        ("http", "no_websocket", 1),
        ("http", "no_websocket", 1),
        ("full", "connection_lost", 1),
        ("delta", None, 1),
    ]
