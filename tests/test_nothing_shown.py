"""Losses of an answer that has begun, of which an agent that streams Chat Completions was shown nothing."""

from collections.abc import Awaitable, Callable
from typing import Any

import openai
import pytest
from proxied import Proxied

from proxy.simulator import Fault, ModelCall, Output, Reasoning, says

Start = Callable[..., Awaitable[Proxied]]

SILENT = 10
"""Events before the first word: the response begins, and the model thinks."""

ASKED: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": True}


def thinks(call: ModelCall) -> Output:
    """Answer with the number of the answer, after some thought."""
    return says(Reasoning(("Let me see",)), f"answer {call.number}")


async def said(run: Proxied) -> str:
    """Return what the official SDK makes of the answer, which it does not ask for twice."""
    async with openai.AsyncOpenAI(base_url=f"{run.server.url}/v1", api_key="key", max_retries=0) as client:
        chunks = await client.chat.completions.create(**ASKED)
        return "".join([chunk.choices[0].delta.content or "" async for chunk in chunks])


async def last_turn(run: Proxied) -> tuple[str | None, int, str]:
    """Return reason, attempts and status of the only turn."""
    await run.recorded(1)
    (turn,) = (await run.figures("turns"))["turns"]
    return turn["reason"], turn["attempts"], turn["status"]


@pytest.mark.parametrize("what", ["abort", "close", "garbage"])
@pytest.mark.parametrize("events", [1, 3, SILENT])
async def test_it_is_sent_again(proxied: Start, what: Any, events: int) -> None:
    """The agent gets one answer, whole, and the figures tell what that cost."""
    run = await proxied(thinks)
    run.simulator.inject(Fault("after_events", what, events=events))
    assert await said(run) == "answer 1"
    assert await last_turn(run) == ("connection_lost", 2, "completed")
    assert (await run.figures())["replays"] == {"safe": 0, "ambiguous": 1}


async def test_it_is_not_sent_again_beyond_the_bound(proxied: Start) -> None:
    """Each attempt may have cost a generation: with none allowed, the agent gets a status."""
    run = await proxied(thinks, ambiguous_retries=0)
    run.simulator.inject(Fault("after_events", "abort", events=SILENT))
    with pytest.raises(openai.InternalServerError) as raised:
        await said(run)
    assert raised.value.status_code == 502
    assert len(run.simulator.turns) == 1


async def test_a_second_loss_leaves_plain_http(proxied: Start) -> None:
    """Upstream's own endpoint answers what two WebSockets did not."""
    run = await proxied(thinks)
    run.simulator.inject(Fault("after_events", "abort", events=SILENT, times=2))
    assert await said(run) == "answer 2"
    assert [turn.transport for turn in run.simulator.turns] == ["ws", "ws", "http"]
    assert await last_turn(run) == ("connection_lost", 3, "completed")


async def test_signs_of_life_are_no_answer(proxied: Start) -> None:
    """An agent that was given comments alone is not told of the loss either."""
    run = await proxied(thinks, simulated={"event_seconds": 0.02}, keepalive_after=0.01, keepalive_interval=0.01)
    run.simulator.inject(Fault("after_events", "abort", events=SILENT))
    answer = await run.post(ASKED, target="/v1/chat/completions")
    assert answer.status == 200
    assert answer.body.startswith(b":")
    assert b'"content":"answer' in answer.body
    assert answer.body.endswith(b"data: [DONE]\n\n")
    assert await last_turn(run) == ("connection_lost", 2, "completed")


async def test_after_a_word_it_is_not_sent_again(proxied: Start) -> None:
    """Two answers would be spliced: the agent's connection breaks off."""
    run = await proxied(thinks)
    run.simulator.inject(Fault("after_events", "abort", events=SILENT + 1))
    with pytest.raises((openai.APIConnectionError, openai.APIError)):
        await said(run)
    assert len(run.simulator.turns) == 1
    assert await last_turn(run) == ("first_turn", 1, "failed")
