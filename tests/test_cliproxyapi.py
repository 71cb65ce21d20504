"""CLIProxyAPI goes on with what its connection carried last, also where a request continues nothing."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial

import pytest
from conversation import Agent, Clock
from proxied import Proxied
from said import JSON

from proxy.simulator import Fault, Output, says
from proxy.simulator.model import ModelCall

Start = Callable[..., Awaitable[Proxied]]
Agents = Callable[..., Awaitable[Agent]]

MISSED = Fault(
    "before_created",
    "error",
    status=400,
    code="previous_response_not_found",
    message="Previous response with id 'resp_1' not found.",
)
both_ways = pytest.mark.parametrize("stream", [True, False], ids=["streaming", "whole"])


def numbered(call: ModelCall) -> Output:
    """Answer with the number of the answer."""
    return says(f"answer {call.number}")


def read(run: Proxied) -> list[list[JSON]]:
    """Return what the model read for each answer that it completed."""
    return [turn.context for turn in run.simulator.turns if turn.status == "completed"]


@pytest.fixture
def behind(proxied: Start) -> Start:
    """Start the proxy in front of such a gateway."""
    return partial(proxied, numbered, simulated={"citizen": "cliproxyapi"})


@both_ways
async def test_another_conversation_is_read_alone_where_there_is_no_room(
    behind: Start, agents: Agents, *, stream: bool
) -> None:
    """The connection of the one before it is closed, and it gets a new one."""
    clock = Clock()
    run = await behind(max_connections=1, clock=clock)
    for said in ("one", "two", "three"):
        agent = await agents(run.server.url, stream=stream)
        assert (await agent.turn(said)).completed
        assert read(run)[-1] == agent.answered[-1]
        clock.advance(100)
    assert [turn.connection_id for turn in run.simulator.turns] == [0, 1, 2]


async def test_what_is_over_once_answered_is_read_alone(behind: Start, agents: Agents) -> None:
    """A title does not go where the last one was, as it would at an upstream that is known to read it alone."""
    clock = Clock()
    run = await behind(clock=clock)
    for number in range(4):
        agent = await agents(run.server.url, instructions="Name it.")
        assert (await agent.turn(f"title {number}")).completed
        assert read(run)[-1] == agent.answered[-1]
        clock.advance(15)


async def test_instructions_that_are_left_out_are_not_those_of_another(behind: Start, agents: Agents) -> None:
    """Nor are they inherited from what the connection carried."""
    clock = Clock()
    run = await behind(max_connections=1, clock=clock)
    await (await agents(run.server.url, instructions="Be brief.")).turn("one")
    clock.advance(100)
    await (await agents(run.server.url)).turn("two")
    assert [turn.effective["instructions"] for turn in run.simulator.turns] == ["Be brief.", None]


@both_ways
async def test_a_chain_is_read_once(behind: Start, agents: Agents, *, stream: bool) -> None:
    """The gateway goes on with what is there, as it is asked to."""
    run = await behind()
    agent = await agents(run.server.url, stream=stream)
    for said in ("one", "two", "three"):
        assert (await agent.turn(said)).completed
        assert read(run)[-1] == agent.answered[-1]
    assert [turn.previous_response_id is None for turn in run.simulator.turns] == [True, False, False]
    assert {turn.connection_id for turn in run.simulator.turns} == {0}


@both_ways
async def test_a_history_that_is_told_again_is_read_once(behind: Start, agents: Agents, *, stream: bool) -> None:
    """A miss takes it to another connection, and so does each turn while no chain is relied on.

    The agent writes the model's messages without their type, by which the gateway would know a whole history.
    """
    run = await behind(max_connections=2)
    agent = await agents(run.server.url, stream=stream)
    run.simulator.inject(replace(MISSED, match=lambda request: "previous_response_id" in request, times=3))
    for said in ("one", "two", "three", "four", "five", "six"):
        assert (await agent.turn(said)).completed
        agent.history[-1] = {"role": "assistant", "content": agent.history[-1]["content"][0]["text"]}
    whole = [turn for turn in run.simulator.turns if turn.previous_response_id is None]
    assert [len(turn.context) for turn in whole] == [1, 3, 5, 7, 9, 11]
    assert len({turn.connection_id for turn in whole}) == len(whole)
    assert len(run.simulator.open_connections) <= 2


@both_ways
async def test_a_whole_history_is_told_again_where_it_was(behind: Start, agents: Agents, *, stream: bool) -> None:
    """The gateway sees the model's messages in it, and forgets what came before."""
    run = await behind()
    agent = await agents(run.server.url, stream=stream)
    run.simulator.inject(replace(MISSED, match=lambda request: "previous_response_id" in request, times=3))
    for said in ("one", "two", "three", "four", "five", "six"):
        assert (await agent.turn(said)).completed
        assert read(run)[-1] == agent.answered[-1]
    assert len(run.simulator.connections) == 1


async def test_a_whole_history_without_instructions_has_none(behind: Start, agents: Agents) -> None:
    """It does not take the place of one that had some: they would be its own."""
    clock = Clock()
    run = await behind(max_connections=1, clock=clock)
    first, second = await agents(run.server.url, instructions="Be brief."), await agents(run.server.url)
    second.history += [{"type": "message", "role": "assistant", "content": "Hello."}]
    for agent in (first, second, first):
        await agent.turn("now")
        clock.advance(100)
    assert [turn.effective["instructions"] for turn in run.simulator.turns] == ["Be brief.", None, "Be brief."]
    assert [turn.connection_id for turn in run.simulator.turns] == [0, 1, 1]


async def test_settings_are_not_told_as_items_beside_the_same_as_fields(behind: Start, agents: Agents) -> None:
    """A chain that began with instructions as a field is told again elsewhere, where they go as items then."""
    run = await behind(hoist="on")
    agent = await agents(run.server.url)
    for said, instructions in (("one", "Be brief."), ("two", "Be kind."), ("three", "Be kind.")):
        await agent.turn(said, instructions=instructions)
    run.simulator.inject(replace(MISSED, match=lambda request: "previous_response_id" in request))
    assert (await agent.turn("four", instructions="Be quick.")).completed
    last = run.simulator.turns[-1]
    assert (last.effective["instructions"], last.context[0]["content"]) == (None, "Be quick.")
    assert last.context[1:] == agent.answered[-1]
    assert [turn.connection_id for turn in run.simulator.turns] == [0, 1, 1, 1, 2]


@pytest.mark.parametrize("warm_up", ["auto", "on"])
async def test_what_was_asked_to_prove_a_warm_up_is_not_read_with_it(
    behind: Start, agents: Agents, warm_up: str
) -> None:
    """The conversation is uploaded on a connection that has carried nothing else."""
    run = await behind(warm_up=warm_up)
    agent = await agents(run.server.url)
    await agent.turn("one")
    await run.lose_connections()
    async with asyncio.timeout(10):
        while not (await run.figures())["warm_ups"]["done"]:
            pass
    assert (await agent.turn("two")).completed
    last = run.simulator.turns[-1]
    on_it = [turn for turn in run.simulator.turns if turn.connection_id == last.connection_id]
    assert [turn.generate for turn in on_it] == [False, True]
    assert last.context == agent.answered[-1]


async def test_a_stored_response_is_continued_on_a_connection_of_its_own(behind: Start, agents: Agents) -> None:
    """The gateway goes on with what its connection carried last, whichever response it is asked to continue."""
    clock = Clock()
    run = await behind(max_connections=1, clock=clock)
    agent, other = await agents(run.server.url, store=True), await agents(run.server.url, store=True)
    for said in ("one", "two", "three"):
        await agent.turn(said)
    clock.advance(100)
    await other.turn("another")
    clock.advance(100)
    assert (await agent.turn("four")).completed
    assert read(run)[-1] == agent.answered[-1]
    assert [turn.connection_id for turn in run.simulator.turns] == [0, 0, 0, 1, 2]
    assert run.simulator.turns[-1].previous_response_id is not None


async def test_a_gateway_that_is_told_to_be_sound_shares_its_connections(proxied: Start, agents: Agents) -> None:
    """`provider` says that a request which continues nothing is read alone on any of them."""
    clock = Clock()
    run = await proxied(numbered, provider="openai", max_connections=1, clock=clock)
    for said in ("one", "two"):
        agent = await agents(run.server.url)
        await agent.turn(said)
        assert read(run)[-1] == agent.answered[-1]
        clock.advance(100)
    assert [turn.connection_id for turn in run.simulator.turns] == [0, 0]
