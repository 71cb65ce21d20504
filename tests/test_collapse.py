"""Upstreams that confirm a chain and answer without its history: LocalAI, LiteLLM's bridge."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import openai
import orjson
import pytest
from conversation import Agent, Clock
from proxied import Proxied
from structlog.testing import capture_logs

from proxy.simulator import ModelCall, Output, Reasoning, SimulatedTurn, Simulator, says

Start = Callable[..., Awaitable[Proxied]]
Agents = Callable[..., Awaitable[Agent]]

WORDS = "the quick brown fox jumps over the lazy dog " * 20


def tells(call: ModelCall) -> Output:
    """Answer with the number of items that the model was given, and many words."""
    return says(f"{len(call.context)} items. {WORDS}")


def thinks(call: ModelCall) -> Output:
    """Answer like `tells`, after some thought."""
    return says(Reasoning(("Let me see",)), f"{len(call.context)} items. {WORDS}")


def wrong(agent: Agent, simulator: Simulator) -> list[int]:
    """Return which of the agent's turns were answered from another history than its own."""
    answers = [turn.context for turn in simulator.turns if turn.status == "completed"]
    return [n for n, history in enumerate(agent.answered) if history not in answers]


def kinds(turns: list[SimulatedTurn]) -> list[str]:
    """Return how each turn came upstream."""
    return ["delta" if turn.previous_response_id else "full" for turn in turns]


async def test_whole_answers_are_right_all_the_same(proxied: Start, agents: Agents) -> None:
    """The third turn loses the first: it is asked again in full, and deltas are off from then on."""
    run = await proxied(tells, simulated={"citizen": "localai"})
    agent = await agents(run.server.url, stream=False, store=True)
    for n in range(6):
        answer = await agent.turn(f"question {n}")
        assert answer.text.startswith(f"{2 * n + 1} items")
    assert wrong(agent, run.simulator) == []
    assert kinds(run.simulator.turns) == ["full", "delta", "delta", "full", "full", "full", "full"]
    stats = await run.figures()
    assert stats["chains"] == {"collapsed": 1}
    assert stats["full_reasons"] == {"first_turn": 1, "chain_collapsed": 4}
    third = (await run.figures("turns"))["turns"][3]
    assert (third["upload"], third["attempts"], third["status"]) == ("full", 2, "completed")


async def test_streamed_answers_are_shown_and_then_no_more_deltas_sent(proxied: Start, agents: Agents) -> None:
    """One answer lacked its history before upstream gave itself away; every later one has it."""
    run = await proxied(tells, simulated={"citizen": "localai"})
    agent = await agents(run.server.url, store=True)
    with capture_logs() as logged:
        for n in range(6):
            await agent.turn(f"question {n}")
        await run.recorded(6)
    assert wrong(agent, run.simulator) == [2]
    assert kinds(run.simulator.turns) == ["full", "delta", "delta", "full", "full", "full"]
    stats = await run.figures()
    assert stats["chains"] == {"collapsed": 1}
    assert stats["full_reasons"] == {"first_turn": 1, "after_error": 1, "chain_collapsed": 2}
    (warning,) = [event for event in logged if event["log_level"] == "warning"]
    assert (warning["event"], warning["shown"]) == ("chain_collapsed", True)
    assert warning["read"] < warning["expected"]


async def test_trust_comes_back_later_and_goes_for_longer(proxied: Start, agents: Agents) -> None:
    """After an hour a chain is tried again; upstream that fails it again is trusted again after two."""
    clock = Clock()
    run = await proxied(
        tells, simulated={"citizen": "localai"}, clock=clock, max_age_seconds=1e9, idle_seconds=1e9
    )
    agent = await agents(run.server.url, stream=False, store=True)

    async def turns(number: int) -> list[str]:
        before = len(run.simulator.turns)
        for _ in range(number):
            await agent.turn("question")
        return kinds(run.simulator.turns[before:])

    assert await turns(3) == ["full", "delta", "delta", "full"]
    clock.advance(3599)
    assert await turns(2) == ["full", "full"]
    clock.advance(1)
    assert await turns(2) == ["delta", "delta", "full"]
    clock.advance(7199)
    assert await turns(1) == ["full"]
    clock.advance(1)
    assert await turns(1) == ["delta"]
    assert wrong(agent, run.simulator) == []


@pytest.mark.parametrize("stream", [True, False])
async def test_a_bridge_that_forgot_the_parent_is_found_out(
    proxied: Start, agents: Agents, *, stream: bool
) -> None:
    """LiteLLM's answers a continuation of what it does not know as if it were the whole."""
    run = await proxied(tells, simulated={"citizen": "litellm"})
    agent = await agents(run.server.url, stream=stream, instructions=WORDS)
    for n in range(3):
        await agent.turn(f"question {n}")
    run.simulator.forget()
    for n in range(3):
        await agent.turn(f"question {n}")
    assert wrong(agent, run.simulator) == ([3] if stream else [])
    again = [] if stream else ["full"]
    assert kinds(run.simulator.turns) == ["full", "delta", "delta", "delta", *again, "full", "full"]


async def test_one_key_learns_it_for_itself(proxied: Start, agents: Agents) -> None:
    """Behind one address there may be several servers: what one key met says nothing about another's."""
    run = await proxied(tells, simulated={"citizen": "localai"})
    for key in ("one", "two"):
        agent = await agents(run.server.url, stream=False, store=True, key=key)
        before = len(run.simulator.turns)
        for n in range(3):
            await agent.turn(f"question {n}")
        assert kinds(run.simulator.turns[before:]) == ["full", "delta", "delta", "full"]


async def test_the_openai_sdk_gets_right_answers(proxied: Start) -> None:
    """An SDK that does not stream notices nothing but the time."""
    run = await proxied(tells, simulated={"citizen": "localai"})
    history: list[Any] = []
    async with openai.AsyncOpenAI(base_url=f"{run.server.url}/v1", api_key="key", max_retries=0) as client:
        for n in range(4):
            history.append({"role": "user", "content": f"question {n}"})
            response = await client.responses.create(model="gpt-5.5", input=history, store=True)
            assert response.output_text.startswith(f"{2 * n + 1} items")
            history += [item.model_dump(exclude_none=True) for item in response.output]
    assert (await run.figures())["chains"] == {"collapsed": 1}


@pytest.mark.parametrize("citizen", ["openai", "azure", "litellm", "xai"])
@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("script", [tells, thinks])
async def test_servers_that_chain_are_not_accused(
    proxied: Start, agents: Agents, script: Any, citizen: str, *, stream: bool
) -> None:
    """Neither reasoning that a server drops, nor settings that shrink, nor short turns make a collapse."""
    run = await proxied(script, simulated={"citizen": citizen})
    told = {"store": True} if citizen == "xai" else {"store": False, "instructions": "-"}
    agent = await agents(run.server.url, stream=stream, **told)
    tools = [{"type": "function", "name": f"tool_{n}", "parameters": {"x": WORDS}} for n in range(4)]
    settings: list[dict[str, Any]] = [
        {"tools": tools, "instructions": WORDS * 3},
        {"tools": tools[:1], "instructions": WORDS},
        {"tools": None, "instructions": "Be brief."},
        {},
        {"tools": tools},
    ]
    if citizen == "xai":
        settings = [{name: value for name, value in each.items() if name != "instructions"} for each in settings]
    for each in (*settings, *reversed(settings)):
        await agent.turn("x" if each else WORDS * 10, **each)
    assert len(agent.answered) == 10
    stats = await run.figures()
    assert (stats["turns"]["delta"], stats["chains"]) == (9, {"collapsed": 0})


async def test_usage_is_passed_on_as_it_came(proxied: Start, agents: Agents) -> None:
    """It is compared, never corrected."""
    run = await proxied(tells)
    agent = await agents(run.server.url)
    await agent.turn("one")
    answer = await agent.turn("two")
    assert orjson.dumps(answer.response["usage"]) == orjson.dumps(run.simulator.turns[1].usage)


async def test_a_server_that_ignores_what_a_delta_continues_is_never_read_along(
    proxied: Start, agents: Agents, speaking: Callable[..., Awaitable[str]]
) -> None:
    """Some gateways answer each message alone and name no parent; what they read tells before it is shown."""

    def alone(message: dict[str, Any]) -> list[dict[str, Any]]:
        item: dict[str, Any] = {"type": "message", "id": "msg", "role": "assistant"}
        item["content"] = [{"type": "output_text", "text": f"{len(message['input'])} items"}]
        told = {"id": f"resp_{len(orjson.dumps(message))}", "model": "gpt-5.5"}
        used = {"input_tokens": len(orjson.dumps(message["input"])) // 4, "output_tokens": 8}
        return [
            {"type": "response.created", "response": {**told, "status": "in_progress", "output": []}},
            {"type": "response.output_item.done", "output_index": 0, "item": item},
            {
                "type": "response.completed",
                "response": {**told, "status": "completed", "output": [item], "usage": used},
            },
        ]

    run = await proxied(upstream=await speaking(alone))
    agent = await agents(run.server.url)
    assert [(await agent.turn(said)).text for said in (WORDS, "two", "three")] == ["1 items", "3 items", "5 items"]
    assert (await run.figures())["full_reasons"] == {"first_turn": 1, "chain_collapsed": 2}


async def test_a_server_that_names_no_parent_is_read_along_once_it_has_proven_itself(
    proxied: Start, agents: Agents
) -> None:
    """The first two deltas come in one piece."""
    run = await proxied(tells, simulated={"citizen": "cliproxyapi"})
    agent = await agents(run.server.url)
    for n in range(4):
        last = await agent.turn(f"question {n}")
        assert last.completed
    run.simulator.settings.event_seconds = 60
    async with agent.streaming("question 5") as stream:
        async with asyncio.timeout(5):
            event = await stream.event()
        assert event is not None
        assert event["type"] == "response.created"
    assert wrong(agent, run.simulator) == []
    assert kinds(run.simulator.turns) == ["full", *["delta"] * 4]
