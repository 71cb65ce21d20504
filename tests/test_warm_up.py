"""A conversation whose connection was lost is uploaded again before its next turn, where the user wants that."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import orjson
import pytest
from conversation import Agent, Clock
from link import Link
from proxied import Proxied

from proxy.simulator import Fault, FunctionCall, ModelCall, Output, Reasoning, Simulator, says

Start = Callable[..., Awaitable[Proxied]]
Agents = Callable[..., Awaitable[Agent]]

LONG = random.Random(0).randbytes(60_000).hex()
"""120 KB that compress to half."""

WORK = ("open a connection ahead", "upload")
"""The names of the tasks that bring a conversation back."""


def tells(call: ModelCall) -> Output:
    """Answer with how many items the model was given."""
    return says(Reasoning(("Let me see",)), f"{len(call.context)} items")


def sent(simulator: Simulator) -> list[str]:
    """Return how each turn came upstream."""
    return [
        "warm-up" if not turn.generate else "delta" if turn.previous_response_id else turn.transport
        for turn in simulator.turns
    ]


def contexts(simulator: Simulator) -> list[list[dict[str, Any]]]:
    """Return what the model read for each answer."""
    return [turn.context for turn in simulator.turns if turn.generate and turn.status == "completed"]


async def warmed_up(run: Proxied, **expected: int) -> None:
    """Wait until so much became of the uploads."""
    async with asyncio.timeout(10):
        while run.server.ledger.warm_ups != expected:  # noqa: ASYNC110  nobody tells when it changes
            await asyncio.sleep(0.01)


async def settled(run: Proxied, *, lost: int) -> None:
    """Wait until so many connections were lost, and nothing is done about it any more."""
    async with asyncio.timeout(10):
        while run.server.ledger.connections.lost < lost:  # noqa: ASYNC110  nobody tells when it changes
            await asyncio.sleep(0.01)
        while work := [each for each in asyncio.all_tasks() if each.get_name().startswith(WORK)]:
            await asyncio.wait(work)


@pytest.fixture
def slow(stack: AsyncExitStack, proxied: Start) -> Callable[..., Awaitable[tuple[Proxied, Simulator, Link]]]:
    """Start the proxy behind a link."""

    async def start(**settings: Any) -> tuple[Proxied, Simulator, Link]:
        simulator = await stack.enter_async_context(Simulator(script=tells))
        link = await stack.enter_async_context(Link(("127.0.0.1", simulator.port)))
        run = await proxied(upstream=link.base_url, warm_up="on", upload_lead=0.2, **settings)
        return run, simulator, link

    return start


async def uploading(link: Link, simulator: Simulator) -> None:
    """Lose every connection, on a link that has become narrow; return in the middle of the upload that follows."""
    link.up.bandwidth = 40_000
    before, begun = link.up.passed, asyncio.Event()

    def tap(_data: bytes) -> None:
        if link.up.passed > before + 10_000:
            begun.set()

    link.up.tap = tap
    simulator.abort_connections()
    async with asyncio.timeout(10):
        await begun.wait()


@pytest.mark.parametrize("stream", [True, False])
async def test_after_a_loss_the_next_turn_is_a_delta(proxied: Start, agents: Agents, *, stream: bool) -> None:
    """Upstream holds the agent's history and its own words, thoughts included, and the agent notices nothing."""
    run = await proxied(tells, warm_up="on")
    agent, simulator = await agents(run.server.url, stream=stream, instructions="i"), run.simulator
    await agent.turn("one")
    await agent.turn("two")
    simulator.abort_connections()
    await warmed_up(run, done=1)
    for text in ("three", "four"):
        answer = await agent.turn(text)
    assert answer.text == "10 items"
    assert sent(simulator) == ["ws", "delta", "warm-up", "delta", "delta"]
    assert contexts(simulator) == agent.answered
    assert (await run.figures())["turns"]["delta"] == 3


async def test_calls_that_wait_for_their_output_are_uploaded(proxied: Start, agents: Agents) -> None:
    """That is when an agent is busy with its tools."""
    run = await proxied(
        lambda call: says(FunctionCall("f", "{}")) if call.number == 0 else says("b"), warm_up="on"
    )
    agent, simulator = await agents(run.server.url), run.simulator
    await agent.turn("one")
    simulator.abort_connections()
    await warmed_up(run, done=1)
    call = agent.history[-1]
    await agent.turn({"type": "function_call_output", "call_id": call["call_id"], "output": "x"})
    assert sent(simulator) == ["ws", "warm-up", "delta"]
    assert contexts(simulator) == agent.answered


async def test_a_chat_is_uploaded_too(proxied: Start) -> None:
    """Its messages are items upstream, and the thoughts that it never sees stay there."""
    run = await proxied(tells, warm_up="on")
    messages: list[dict[str, Any]] = [{"role": "user", "content": "one"}]
    first = (await run.post({"model": "m", "messages": messages}, target="/v1/chat/completions")).json()
    run.simulator.abort_connections()
    await warmed_up(run, done=1)
    messages += [first["choices"][0]["message"], {"role": "user", "content": "two"}]
    second = (await run.post({"model": "m", "messages": messages}, target="/v1/chat/completions")).json()
    assert second["choices"][0]["message"]["content"] == "4 items"
    assert sent(run.simulator) == ["ws", "warm-up", "delta"]


async def test_a_connection_that_retires_is_followed_by_one_that_knows(proxied: Start, agents: Agents) -> None:
    """Whoever asked lately goes on with a delta."""
    clock = Clock()
    run = await proxied(tells, clock=clock, warm_up="on", max_age_seconds=200, idle_seconds=4000)
    one, other, simulator = await agents(run.server.url), await agents(run.server.url), run.simulator
    await one.turn("one")
    await other.turn("other")
    await other.turn("goes on")
    clock.advance(201)
    await other.turn("more")  # which sweeps
    await warmed_up(run, done=1)
    await one.turn("two")
    assert sent(simulator)[-1] == "delta"
    assert contexts(simulator) == [one.answered[0], *other.answered, one.answered[1]]


async def test_by_default_nothing_is_uploaded_again(proxied: Start, agents: Agents) -> None:
    """It is the user's money, and no content is kept."""
    run = await proxied(tells)
    agent = await agents(run.server.url)
    await agent.turn("one")
    await run.lose_connections()
    await agent.turn("two")
    assert sent(run.simulator) == ["ws", "ws"]


async def test_what_upstream_stores_is_continued_by_its_id(proxied: Start, agents: Agents) -> None:
    """It need not be uploaded at all."""
    run = await proxied(tells, warm_up="on", provider="openai")
    agent = await agents(run.server.url, store=True)
    await agent.turn("one")
    await run.lose_connections()
    await agent.turn("two")
    assert sent(run.simulator) == ["ws", "delta"]


async def test_a_turn_of_the_conversation_waits_for_what_has_begun(
    slow: Callable[..., Any], agents: Agents
) -> None:
    """To begin anew would take longer: the history crosses the link once."""
    run, simulator, link = await slow()
    agent = await agents(run.server.url)
    await agent.turn(LONG)
    await uploading(link, simulator)
    before = link.up.passed
    await agent.turn("two")
    assert sent(simulator) == ["ws", "warm-up", "delta"]
    assert contexts(simulator) == agent.answered
    assert link.up.passed - before < 80_000


async def test_another_request_interrupts_and_the_upload_is_tried_again(
    slow: Callable[..., Any], agents: Agents
) -> None:
    """The link is its own; afterwards there is time."""
    run, simulator, link = await slow()
    agent, other = await agents(run.server.url), await agents(run.server.url, temperature=0.5)
    await agent.turn(LONG)
    await uploading(link, simulator)
    await other.turn("hello")
    assert sent(simulator) == ["ws", "ws"]
    link.up.bandwidth = None
    await warmed_up(run, interrupted=1, done=1)
    await agent.turn("two")
    assert sent(simulator) == ["ws", "ws", "warm-up", "delta"]
    assert contexts(simulator) == [agent.answered[0], other.answered[0], agent.answered[1]]


async def test_a_turn_that_comes_before_the_upload_takes_the_connection(
    slow: Callable[..., Any], agents: Agents
) -> None:
    """It goes in full, over the connection that was being opened."""
    run, simulator, _ = await slow()
    agent = await agents(run.server.url)
    await agent.turn("one")
    simulator.settings.handshake_seconds = 0.3
    simulator.abort_connections()
    await simulator.until(lambda: len(simulator.requests) == 2)
    await agent.turn("two")
    assert sent(simulator) == ["ws", "ws"]
    assert len(simulator.connections) == 2
    assert contexts(simulator) == agent.answered


@pytest.mark.parametrize(("citizen", "asked"), [("localai", 2), ("litellm", 3)])
async def test_an_upstream_that_does_not_know_warm_ups_is_not_asked_again(
    proxied: Start, agents: Agents, citizen: str, asked: int
) -> None:
    """One answers, the other loses what it was told: the proof fails, and no history is uploaded for it."""
    run = await proxied(tells, simulated={"citizen": citizen}, warm_up="auto")
    agent, simulator = await agents(run.server.url), run.simulator
    await agent.turn("one")
    simulator.abort_connections()
    await warmed_up(run, refused=1)
    await agent.turn("two")
    simulator.abort_connections()
    await agent.turn("three")
    await warmed_up(run, refused=1)
    answers = [turn.context for turn in simulator.turns if turn.context in agent.answered]
    assert answers == agent.answered
    assert len(simulator.turns) == asked + 3
    assert len(LONG) > max(len(orjson.dumps(turn.request)) for turn in simulator.turns)


async def test_an_upstream_that_proves_itself_is_believed(proxied: Start, agents: Agents) -> None:
    """Three small requests, once; then every loss is made good."""
    run = await proxied(tells, warm_up="auto")
    agent, simulator = await agents(run.server.url), run.simulator
    await agent.turn("one")
    for done in (1, 2):
        simulator.abort_connections()
        await warmed_up(run, done=done)
        await agent.turn("more")
    probe = ["ws", "warm-up", "delta"]
    assert sent(simulator) == ["ws", *probe, "warm-up", "delta", "warm-up", "delta"]
    assert [simulator.turns[n].context for n in (0, 5, 7)] == agent.answered


async def test_a_refusal_is_believed_for_a_while(proxied: Start, agents: Agents) -> None:
    """The next turn goes in full; no other upload is tried until then."""
    run = await proxied(tells, warm_up="on")
    agent, simulator = await agents(run.server.url), run.simulator
    await agent.turn("one")
    simulator.inject(
        Fault("before_created", "error", status=400, code=None, match=lambda body: "generate" in body, times=None)
    )
    simulator.abort_connections()
    await warmed_up(run, refused=1)
    await agent.turn("two")
    simulator.abort_connections()
    await agent.turn("three")
    assert sent(simulator) == ["ws", "warm-up", "ws", "ws"]
    assert contexts(simulator) == agent.answered
    await warmed_up(run, refused=1)


async def test_an_upload_that_is_lost_too_is_no_loss(proxied: Start, agents: Agents) -> None:
    """The next turn is sent in full."""
    run = await proxied(tells, warm_up="on")
    agent, simulator = await agents(run.server.url), run.simulator
    await agent.turn("one")
    simulator.inject(Fault("before_created", "abort", match=lambda body: "generate" in body))
    simulator.abort_connections()
    await warmed_up(run, failed=1)
    await agent.turn("two")
    assert sent(simulator) == ["ws", "warm-up", "ws"]
    assert contexts(simulator) == agent.answered


async def test_what_upstream_finds_too_large_is_not_uploaded_either(proxied: Start, agents: Agents) -> None:
    """Not where that is known: it would be in vain, and the end of uploads that are smaller."""
    run = await proxied(tells, simulated={"max_message_bytes": 4096}, warm_up="on")
    agent, simulator = await agents(run.server.url), run.simulator
    for number in range(5):
        await agent.turn(f"{number}" * 1000)
    small, large = await agents(run.server.url), await agents(run.server.url)
    await large.turn("a" * 5000)
    await small.turn("one")
    simulator.abort_connections()
    await warmed_up(run, failed=1, done=1)
    await small.turn("two")
    assert sent(simulator) == ["ws", *["delta"] * 4, "http", "ws", "warm-up", "delta"]
    assert [record.close_code for record in simulator.connections].count(1009) == 1


async def test_a_link_that_loses_everything_is_not_filled_with_uploads(proxied: Start, agents: Agents) -> None:
    """One turn is uploaded three times at most."""
    run = await proxied(tells, warm_up="on")
    agent, simulator = await agents(run.server.url), run.simulator
    await agent.turn("one")
    for done in (1, 2, 3):
        simulator.abort_connections()
        await warmed_up(run, done=done)
    simulator.abort_connections()
    await agent.turn("two")
    assert sent(simulator) == ["ws", "warm-up", "warm-up", "warm-up", "ws"]
    assert contexts(simulator) == agent.answered


async def test_an_upload_that_a_turn_waits_for_is_its_own(slow: Callable[..., Any], agents: Agents) -> None:
    """Another request does not interrupt it: the turn would have to begin anew."""
    run, simulator, link = await slow(keepalive_after=0.5)
    agent, other = await agents(run.server.url), await agents(run.server.url)
    await agent.turn(LONG)
    await uploading(link, simulator)
    before = link.up.passed
    async with agent.posting("two") as response:  # which returns with the first sign of life
        await other.turn("hello")
        assert (await response.read()).endswith(b"\n\n")
    assert sorted(sent(simulator)) == ["delta", "warm-up", "ws", "ws"]
    assert link.up.passed - before < 80_000


@pytest.mark.parametrize("connections", [1, 2])
async def test_an_upload_takes_nobodys_place(slow: Callable[..., Any], agents: Agents, connections: int) -> None:
    """A turn that finds the last connection taken by one gets it, and does not go over HTTP."""
    run, simulator, link = await slow(max_connections=connections, open_ahead=False)
    agent = await agents(run.server.url)
    await agent.turn(LONG)
    await uploading(link, simulator)
    for _ in range(connections):
        other = await agents(run.server.url)
        await other.turn("hello")
    assert "http" not in sent(simulator)


async def test_an_upload_that_upstream_reads_makes_room_too(proxied: Start, agents: Agents) -> None:
    """All of it has left, and the place is what a turn needs."""
    run = await proxied(tells, warm_up="on", max_connections=1)
    agent, other, simulator = await agents(run.server.url), await agents(run.server.url), run.simulator
    await agent.turn("one")
    simulator.inject(Fault("before_created", "silence", match=lambda body: "generate" in body))
    simulator.abort_connections()
    await simulator.until(lambda: len(simulator.turns) == 2)
    async with asyncio.timeout(2):
        await other.turn("hello")
    assert sent(simulator)[2:] == ["ws"]


async def test_a_request_over_http_has_the_link_to_itself(slow: Callable[..., Any], agents: Agents) -> None:
    """An upload that it interrupted begins again when it is done, not beside it."""
    run, simulator, link = await slow()
    agent = await agents(run.server.url)
    await agent.turn(LONG)
    await uploading(link, simulator)
    await run.post({"input": LONG}, target="/v1/embeddings")
    assert len(simulator.connections) == 2
    link.up.bandwidth = None
    await warmed_up(run, interrupted=1, done=1)


async def test_what_one_upload_taught_holds_for_those_that_wait(proxied: Start, agents: Agents) -> None:
    """An upstream that refuses is asked once, however many conversations were lost."""
    run = await proxied(tells, warm_up="on")
    simulator = run.simulator
    for text in ("one", "two", "three"):
        agent = await agents(run.server.url)
        await agent.turn(text)
    await agent.turn("more")
    simulator.inject(
        Fault("before_created", "error", status=400, code=None, match=lambda body: "generate" in body, times=None)
    )
    simulator.abort_connections()
    await warmed_up(run, refused=1)
    await (await agents(run.server.url)).turn("four")
    assert sent(simulator).count("warm-up") == 1


@pytest.mark.parametrize("what", ["close", "silence"])
async def test_an_upstream_that_hangs_up_on_warm_ups_is_left_alone(
    proxied: Start, agents: Agents, what: Any
) -> None:
    """Or says nothing at all: the next turns need not wait for that again."""
    run = await proxied(tells, warm_up="on")
    agent, simulator = await agents(run.server.url), run.simulator
    await agent.turn("one")
    simulator.inject(Fault("before_created", what, match=lambda body: "generate" in body, times=None))
    simulator.abort_connections()
    await warmed_up(run, failed=1)
    await agent.turn("two")
    simulator.abort_connections()
    await settled(run, lost=3 if what == "close" else 2)
    await agent.turn("three")
    assert sent(simulator) == ["ws", "warm-up", "ws", "ws"]


async def test_an_upstream_that_closes_behind_every_response_is_left_alone(proxied: Start, agents: Agents) -> None:
    """An upload there is gone before the turn that it is for: one shows that, and not three for each turn."""
    run = await proxied(tells, warm_up="on")
    agent, simulator = await agents(run.server.url), run.simulator
    simulator.inject(Fault("after_completed", "close", times=None, close_code=1000))
    await agent.turn("one")
    await settled(run, lost=2)
    await agent.turn("two")
    await settled(run, lost=3)
    assert sent(simulator) == ["ws", "warm-up", "ws"]
    assert contexts(simulator) == agent.answered


async def test_a_conversation_that_ended_is_not_uploaded(proxied: Start, agents: Agents) -> None:
    """Its connection is closed for that."""
    clock = Clock()
    run = await proxied(tells, clock=clock, warm_up="on", idle_seconds=60)
    agent, other = await agents(run.server.url), await agents(run.server.url)
    await agent.turn("one")
    clock.advance(61)
    await other.turn("two")
    await settled(run, lost=0)
    clock.advance(1)
    await other.turn("three")
    run.simulator.abort_connections()
    await warmed_up(run, done=1)
    assert sent(run.simulator) == ["ws", "ws", "delta", "warm-up"]


async def test_uploads_do_not_keep_a_conversation_young(proxied: Start, agents: Agents) -> None:
    """Five minutes after its last turn it is left alone, whatever was uploaded meanwhile."""
    clock = Clock()
    run = await proxied(tells, clock=clock, warm_up="on")
    agent = await agents(run.server.url)
    await agent.turn("one")
    clock.advance(200)
    run.simulator.abort_connections()
    await warmed_up(run, done=1)
    clock.advance(200)
    run.simulator.abort_connections()
    await settled(run, lost=2)
    await agent.turn("two")
    assert sent(run.simulator) == ["ws", "warm-up", "ws"]


def lose(simulator: Simulator, connection_id: int) -> None:
    """Have upstream reset one connection."""
    simulator._sessions[connection_id].wire.reset()


@pytest.mark.parametrize("all_are_lost", [True, False])
async def test_a_conversation_is_uploaded_and_not_what_was_asked_beside_it(
    proxied: Start, agents: Agents, *, all_are_lost: bool
) -> None:
    """Agents come back to where they were before a suggestion: it has the whole history, and is of no use."""
    run = await proxied(tells, warm_up="on")
    agent, simulator = await agents(run.server.url), run.simulator
    beside = await agents(run.server.url, temperature=0.25)
    for text in ("one", "two", "three"):
        await agent.turn(text)
        beside.history = list(agent.history)
        await beside.turn("suggest")
    assert len(simulator.open_connections) == 3
    if all_are_lost:
        simulator.abort_connections()
    else:
        lose(simulator, simulator.turns[-2].connection_id)
    await warmed_up(run, done=1)
    await settled(run, lost=3 if all_are_lost else 1)
    await agent.turn("four")
    assert sent(simulator)[-2:] == ["warm-up", "delta"]
    assert simulator.turns[-1].context == agent.answered[-1]


async def test_another_models_requests_beside_a_conversation_are_not_uploaded(
    proxied: Start, agents: Agents
) -> None:
    """They have its history, and cannot continue it; it goes on with its own model."""
    run = await proxied(tells, warm_up="on")
    agent, simulator = await agents(run.server.url), run.simulator
    beside = await agents(run.server.url, model="gpt-5-mini")
    for text in ("one", "two", "three"):
        await agent.turn(text)
        beside.history = list(agent.history)
        await beside.turn("suggest")
    lose(simulator, simulator.turns[-2].connection_id)
    await warmed_up(run, done=1)
    await agent.turn("four")
    assert sent(simulator)[-2:] == ["warm-up", "delta"]
    assert simulator.turns[-1].context == agent.answered[-1]


async def test_what_is_over_with_its_answer_is_not_uploaded(proxied: Start, agents: Agents) -> None:
    """Nobody comes back to a title, or to what a sub-agent was asked."""
    run = await proxied(tells, warm_up="on")
    agent, simulator = await agents(run.server.url), run.simulator
    await agent.turn("one")
    for number in range(2):
        await (await agents(run.server.url, temperature=0.25)).turn(f"title {number}")
    simulator.abort_connections()
    await warmed_up(run, done=1)
    await settled(run, lost=3)
    await agent.turn("two")
    assert sent(simulator) == ["ws", "ws", "ws", "warm-up", "delta"]


async def test_a_request_beside_a_conversation_does_not_wait_for_its_upload(
    slow: Callable[..., Any], agents: Agents
) -> None:
    """It has no use for it, nor does it end it: the upload begins again when it is done."""
    run, simulator, link = await slow()
    agent = await agents(run.server.url)
    beside = await agents(run.server.url, temperature=0.25)
    for text in (LONG, "two"):
        await agent.turn(text)
        beside.history = list(agent.history)
        await beside.turn("suggest")
    await agent.turn("three")
    beside.history = list(agent.history)
    await uploading(link, simulator)
    asking = asyncio.get_running_loop().create_task(beside.turn("suggest"))
    await warmed_up(run, interrupted=1)
    link.up.bandwidth = None
    await asking
    await warmed_up(run, interrupted=1, done=1)
    await agent.turn("four")
    assert sent(simulator)[-3:] == ["ws", "warm-up", "delta"]
    assert simulator.turns[-1].context == agent.answered[-1]


async def test_a_history_with_searches_is_left_alone(proxied: Start, agents: Agents) -> None:
    """Upstream holds what they found, which the history does not tell."""
    run = await proxied(tells, warm_up="on")
    agent, simulator = await agents(run.server.url), run.simulator
    search = {"type": "web_search_call", "id": "ws_1", "status": "completed", "action": {"type": "search"}}
    await agent.turn("one", search, "two")
    simulator.abort_connections()
    await settled(run, lost=1)
    await agent.turn("three")
    assert "warm-up" not in sent(simulator)


async def test_an_upload_does_not_count_against_websockets(proxied: Start, agents: Agents) -> None:
    """One connection that could not be opened ahead is no reason for a turn to go over HTTP."""
    run = await proxied(tells, warm_up="on")
    agent, other, simulator = await agents(run.server.url), await agents(run.server.url), run.simulator
    await agent.turn("one")
    await other.turn("one and another")
    before = len(simulator.requests)
    simulator.inject(Fault("handshake", "abort", times=None))
    simulator.abort_connections()
    await settled(run, lost=2)
    assert len(simulator.requests) > before
    simulator.faults.clear()
    await agent.turn("two")
    assert sent(simulator) == ["ws", "ws", "ws"]


async def test_an_upload_does_not_keep_the_proxy_from_stopping(slow: Callable[..., Any], agents: Agents) -> None:
    """It is given up, with its connection."""
    run, simulator, link = await slow()
    await (await agents(run.server.url)).turn(LONG)
    await uploading(link, simulator)
    async with asyncio.timeout(3):
        await run.server.drain()
    assert run.server.ledger.connections.open == 0
    assert not [each for each in asyncio.all_tasks() if each.get_name().startswith(WORK)]


async def test_an_agent_that_hangs_up_while_it_waits_leaves_an_upload_that_gives_way(
    slow: Callable[..., Any], agents: Agents
) -> None:
    """Nobody waits for it any more."""
    run, simulator, link = await slow(keepalive_after=0.1)
    agent, other = await agents(run.server.url), await agents(run.server.url)
    await agent.turn(LONG)
    await uploading(link, simulator)
    async with agent.streaming("two"):
        pass
    await run.recorded(2)
    await other.turn("hello")
    assert sent(simulator) == ["ws", "ws"]
    await warmed_up(run, interrupted=1)


async def test_a_proof_that_upstream_failed_over_is_tried_again(proxied: Start, agents: Agents) -> None:
    """A fault that may pass is no verdict for good."""
    clock = Clock()
    run = await proxied(tells, clock=clock, warm_up="auto", websocket_retry_seconds=100)
    agent, simulator = await agents(run.server.url), run.simulator
    await agent.turn("one")
    simulator.inject(
        Fault("after_created", "error", then_failed=True, match=lambda body: body.get("generate") is False)
    )
    simulator.abort_connections()
    await warmed_up(run, refused=1)
    clock.advance(101)
    await agent.turn("two")
    simulator.abort_connections()
    await warmed_up(run, refused=1, done=1)
