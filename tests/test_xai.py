"""xAI's service as it is reported: chains keep their instructions, ids repeat, errors are curt."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from conversation import Agent, Clock
from proxied import Proxied
from said import JSON

from proxy.simulator import Fault, Output, says
from proxy.simulator.model import ModelCall

Start = Callable[..., Awaitable[Proxied]]
Agents = Callable[..., Awaitable[Agent]]

BRIEF = "Be brief."
both_ways = pytest.mark.parametrize("stream", [True, False], ids=["streaming", "whole"])


def numbered(call: ModelCall) -> Output:
    """Answer with the number of the answer."""
    return says(f"answer {call.number}")


async def uploads(run: Proxied, count: int) -> list[tuple[str, str | None, int]]:
    """Return upload, reason and attempts of the *count* turns there were, oldest first."""
    await run.recorded(count)
    turns = (await run.figures("turns"))["turns"]
    return [(turn["upload"], turn["reason"], turn["attempts"]) for turn in reversed(turns)]


def read(run: Proxied) -> list[tuple[str | None, list[JSON]]]:
    """Return what the model read for each answer: instructions, and the history."""
    turns = [turn for turn in run.simulator.turns if turn.status == "completed"]
    return [(turn.effective["instructions"], turn.context) for turn in turns]


@both_ways
async def test_an_agent_with_instructions_sends_deltas(proxied: Start, agents: Agents, *, stream: bool) -> None:
    """They go once, at the beginning of the chain; the agent sees its own in every answer."""
    run = await proxied(numbered, provider="xai", simulated={"citizen": "xai"})
    agent = await agents(run.server.url, stream=stream, store=True, instructions=BRIEF)
    answers = [await agent.turn(said) for said in ("one", "two", "three")]
    assert await uploads(run, 3) == [("full", "first_turn", 1), ("delta", None, 1), ("delta", None, 1)]
    assert read(run) == [(BRIEF, history) for history in agent.answered]
    assert ["instructions" in turn.request for turn in run.simulator.turns] == [True, False, False]
    for answer in answers:
        told = [each["response"]["instructions"] for each in answer.events if "response" in each]
        assert set(told or [answer.body["instructions"]]) == {BRIEF}


async def test_other_instructions_are_another_chain(proxied: Start, agents: Agents) -> None:
    """Upstream would go on with the old ones, so others take the whole history; the old ones find their chain."""
    run = await proxied(numbered, provider="xai", simulated={"citizen": "xai"})
    agent = await agents(run.server.url, store=True)
    said: list[Any] = [BRIEF, "Be long.", None, None, BRIEF, BRIEF]
    for each in said:
        assert (await agent.turn("x", instructions=each)).completed
    kinds = ["first_turn", "settings_changed", "settings_changed", None, None, None]
    assert [reason for _, reason, _ in await uploads(run, 6)] == kinds
    assert read(run) == list(zip(said, agent.answered, strict=True))
    assert all(turn.status == "completed" for turn in run.simulator.turns)


async def test_what_is_not_stored_has_no_chain_there(proxied: Start, agents: Agents) -> None:
    """That is found out on the same connection, three times, and then believed for a while."""
    clock = Clock()
    run = await proxied(
        numbered, provider="xai", simulated={"citizen": "xai"}, clock=clock, websocket_retry_seconds=300
    )
    agent = await agents(run.server.url, store=False, instructions=BRIEF)
    for said in ("one", "two", "three", "four", "five"):
        assert (await agent.turn(said)).completed
    missed = ("full", "upstream_forgot", 2)
    assert await uploads(run, 5) == [
        ("full", "first_turn", 1),
        missed,
        missed,
        missed,
        ("full", "upstream_forgot", 1),
    ]
    assert read(run) == [(BRIEF, history) for history in agent.answered]
    assert len(run.simulator.connections) == 1


async def test_which_says_nothing_of_what_is_stored(proxied: Start, agents: Agents) -> None:
    """Agents of either kind may have one key: what one finds out costs the other nothing, nor is it undone."""
    run = await proxied(numbered, provider="xai", simulated={"citizen": "xai"})
    stored = await agents(run.server.url, store=True, instructions=BRIEF)
    unstored = await agents(run.server.url, store=False, instructions=BRIEF)
    for number in range(5):
        assert (await stored.turn(f"stored {number}")).completed
        assert (await unstored.turn(f"unstored {number}")).completed
    found = await uploads(run, 10)
    assert found[::2] == [("full", "first_turn", 1), *[("delta", None, 1)] * 4]
    missed = ("full", "upstream_forgot", 2)
    assert found[1::2] == [("full", "first_turn", 1), missed, missed, missed, ("full", "upstream_forgot", 1)]


@both_ways
async def test_behind_a_name_that_nobody_knows_the_agent_notices_nothing(
    proxied: Start, agents: Agents, *, stream: bool
) -> None:
    """A gateway's refusals of instructions in a chain cost a round trip each, and no connection."""
    run = await proxied(numbered, simulated={"citizen": "xai"})
    agent = await agents(run.server.url, stream=stream, store=True, instructions=BRIEF)
    for said in ("one", "two", "three"):
        assert (await agent.turn(said)).completed
    missed = ("full", "upstream_forgot", 2)
    assert await uploads(run, 3) == [("full", "first_turn", 1), missed, missed]
    assert read(run) == [(BRIEF, history) for history in agent.answered]
    assert len(run.simulator.connections) == 1


async def test_nor_does_the_model_where_there_are_no_instructions_any_more(proxied: Start, agents: Agents) -> None:
    """There is nothing for such a gateway to refuse: it would go on with those that its chain began with."""
    run = await proxied(numbered, simulated={"citizen": "xai"})
    agent = await agents(run.server.url, store=True)
    said: list[Any] = [BRIEF, None, None, ""]
    for each in said:
        assert (await agent.turn("x", instructions=each)).completed
    assert [reason for _, reason, _ in await uploads(run, 4)] == [
        "first_turn",
        "settings_changed",
        None,
        "settings_changed",
    ]
    assert read(run) == list(zip(said, agent.answered, strict=True))


@pytest.mark.parametrize("provider", ["auto", "openai", "xai"])
async def test_an_id_that_stands_for_several_responses_is_not_continued_elsewhere(
    proxied: Start, agents: Agents, provider: str
) -> None:
    """After a loss nobody knows what such an id stands for; on its own connection it is the latest."""
    run = await proxied(numbered, provider=provider, simulated={"citizen": "xai"})
    agent = await agents(run.server.url, store=True)
    await agent.turn("one")
    await agent.turn("two")
    await run.lose_connections()
    await agent.turn("three")
    await agent.turn("four")
    kinds = [("full", "first_turn", 1), ("delta", None, 1), ("full", "connection_lost", 1), ("delta", None, 1)]
    assert await uploads(run, 4) == kinds
    assert [history for _, history in read(run)] == agent.answered


async def test_nor_where_the_very_turn_that_showed_it_is_lost(proxied: Start, agents: Agents) -> None:
    """Its answer has begun, under its parent's id, and may have ended since: the id is no longer the parent's."""
    run = await proxied(numbered, provider="openai", simulated={"citizen": "xai"})
    agent = await agents(run.server.url, store=True, stream=False)
    await agent.turn("one")
    run.simulator.inject(Fault("after_created", "abort"))
    await agent.turn("two")
    assert await uploads(run, 2) == [("full", "first_turn", 1), ("full", "connection_lost", 2)]
    assert [history for _, history in read(run)] == agent.answered


async def test_nor_where_it_was_seen_in_full_histories(proxied: Start, agents: Agents) -> None:
    """A second answer on a connection shows it, whatever that answers."""
    run = await proxied(numbered, provider="openai", simulated={"citizen": "xai"})
    agent = await agents(run.server.url, store=True, instructions=BRIEF)
    await agent.turn("one")
    await agent.turn("two")  # where instructions are refused within a chain
    run.simulator.inject(Fault("before_created", "abort"))
    await agent.turn("three")
    missed = ("full", "upstream_forgot", 2)
    assert await uploads(run, 3) == [("full", "first_turn", 1), missed, ("full", "connection_lost", 3)]
    assert [history for _, history in read(run)] == agent.answered


@pytest.mark.parametrize(("provider", "citizen"), [("xai", "xai"), ("auto", "xai"), ("auto", "openai")])
async def test_nor_before_its_id_was_seen_to_be_its_own(
    proxied: Start, agents: Agents, provider: str, citizen: str
) -> None:
    """A turn that nobody saw the beginning of may have an answer, under the id of the one before it.

    That is known of xAI, and of somebody nobody knows it may be so.
    """
    run = await proxied(numbered, provider=provider, simulated={"citizen": citizen})
    agent = await agents(run.server.url, store=True)
    await agent.turn("one")
    run.simulator.inject(Fault("before_created", "abort"))
    await agent.turn("two")
    assert await uploads(run, 2) == [("full", "first_turn", 1), ("full", "connection_lost", 2)]
    assert [history for _, history in read(run)] == agent.answered


async def test_what_ids_are_on_one_connection_says_nothing_of_another(proxied: Start, agents: Agents) -> None:
    """A gateway may have two providers behind one model's name, and lead each connection to one of them.

    So the first response on the second one is not continued on a third, but the last one on the first.
    """
    run = await proxied(numbered)
    agent = await agents(run.server.url, store=True)
    for said, is_lost in [("one", False), ("two", False), ("three", True), ("four", True)]:
        if is_lost:
            run.simulator.inject(Fault("before_created", "abort"))
        await agent.turn(said)
    again = ("delta", None, 2)
    assert await uploads(run, 4) == [("full", "first_turn", 1), ("delta", None, 1), again, again]
    ids = [turn.response_id for turn in run.simulator.turns]
    parents = [turn.request.get("previous_response_id") for turn in run.simulator.turns]
    assert parents == [None, ids[0], ids[1], ids[1], ids[3], ids[1]]
    assert [history for _, history in read(run)] == agent.answered


async def test_nor_beside_a_turn_that_has_not_shown_its_own(proxied: Start, agents: Agents) -> None:
    """A fork at the same time has everything: the id that it would continue may be the other's by now."""
    run = await proxied(numbered, simulated={"citizen": "xai"})
    agent = await agents(run.server.url, store=True)
    await agent.turn("one")
    other = agent.fork()
    run.simulator.settings.first_event_seconds = 3600
    task = asyncio.get_running_loop().create_task(agent.turn("two"))
    await run.simulator.until(lambda: len(run.simulator.turns) == 2)
    run.simulator.settings.first_event_seconds = 0
    await other.turn("and this")
    task.cancel()
    await run.recorded(3)
    assert ("full", "busy", 1) in await uploads(run, 3)
    assert read(run)[-1][1] == other.answered[-1]


async def test_a_curt_refusal_is_the_agents_own(proxied: Start, agents: Agents) -> None:
    """A request that is at fault itself gets the status and the words that it would have got over HTTP."""
    run = await proxied(numbered, provider="xai", simulated={"citizen": "xai"})
    agent = await agents(run.server.url, store=True)
    words = "Request validation error: Argument not supported: include"
    curt = Fault("before_created", "error", status=400, code=None, type="api_error", message=words, times=None)
    run.simulator.inject(curt)
    over_http = {"error": {"message": words, "type": "api_error", "param": None, "code": None}}
    for body in (over_http, {"error": {"message": words, "type": "api_error"}}):
        answer = await agent.turn("one")
        assert (answer.status, answer.body) == (400, body)


@both_ways
@pytest.mark.parametrize("status", [401, 429, 503])
async def test_what_an_error_does_not_say_is_asked_over_http(
    proxied: Start, agents: Agents, status: int, *, stream: bool
) -> None:
    """An agent goes by the status, and by when it may come again, of which a curt error has neither."""
    run = await proxied(numbered, provider="xai", simulated={"citizen": "xai"})
    agent = await agents(run.server.url, store=True, stream=stream)
    await agent.turn("one")
    refusal: JSON = {"status": status, "code": None, "type": "api_error", "message": "gRPC error: no"}
    run.simulator.inject(Fault("before_created", "error", retry_after=7, times=4, **refusal))
    for said in (["two"], []):
        answer = await agent.turn(*said)
        assert (answer.status, answer.headers["retry-after"]) == (status, "7")
        assert answer.body["error"]["message"] == "gRPC error: no"
    assert (await agent.turn()).completed
    asked = ("http", "websocket_refused", 2)
    assert (await uploads(run, 4))[1:] == [asked, asked, ("full", "after_error", 1)]
    assert [history for _, history in read(run)] == agent.answered


async def test_errors_that_websockets_alone_have_are_left_behind(proxied: Start, agents: Agents) -> None:
    """Something behind the WebSocket is broken: after two such turns the next ones do not ask there first."""
    run = await proxied(numbered, simulated={"citizen": "xai"})
    agent = await agents(run.server.url, store=True)
    curt: JSON = {"code": None, "type": "api_error", "message": "gRPC error: no"}
    run.simulator.inject(Fault("before_created", "error", times=None, transport="ws", **curt))
    for said in ("one", "two", "three"):
        assert (await agent.turn(said)).completed
    tried = ("http", "websocket_refused", 2)
    assert await uploads(run, 3) == [tried, tried, ("http", "no_websocket", 1)]
    assert [history for _, history in read(run)] == agent.answered


async def test_a_curt_error_within_an_answer_has_a_type_for_the_agent(proxied: Start, agents: Agents) -> None:
    """Server-sent events have to be of a kind."""
    run = await proxied(numbered, provider="xai", simulated={"citizen": "xai"})
    agent = await agents(run.server.url, store=True)
    run.simulator.inject(Fault("after_events", "error", events=5, code=None, type="api_error", message="Sorry."))
    async with agent.streaming("one") as stream:
        last = (await stream.rest())[-2]
    assert (last["type"], last["error"]) == ("error", {"message": "Sorry.", "type": "api_error"})


async def test_its_connections_retire_sooner(proxied: Start, agents: Agents) -> None:
    """Between turns, before they are 25 minutes old and carry none any more."""
    clock = Clock()
    run = await proxied(numbered, provider="xai", simulated={"citizen": "xai"}, clock=clock, upstream_clock=clock)
    agent = await agents(run.server.url, store=True)
    await agent.turn("one")
    clock.advance(1399)
    await agent.turn("two")
    clock.advance(1)
    await agent.turn("three")
    assert await uploads(run, 3) == [("full", "first_turn", 1), ("delta", None, 1), ("full", "retired", 1)]
    assert all(turn.status == "completed" for turn in run.simulator.turns)
