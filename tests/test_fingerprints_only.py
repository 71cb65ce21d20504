"""What is in memory once turns have ended: fingerprints, and not a word of what was said, nor the turns.

But for the last 32 KB of a connection that compresses, which both sides have to know (RFC 7692, section 7.2.3.2).
"""

import asyncio
import gc
import sys
from collections import Counter
from collections.abc import Iterator
from types import FunctionType, ModuleType
from typing import Any

import orjson
import pytest
from proxied import KEY, Peer, Proxied
from said import JSON, user

from proxy.core.delta import TurnRequest
from proxy.core.items import Item
from proxy.core.turn import Turn
from proxy.server.turns import AgentRequest
from proxy.simulator import FunctionCall, ModelCall, Output, Reasoning, Simulator, says
from proxy.upstream.deflate import Deflate

ELSEWHERE = (asyncio.AbstractEventLoop, ModuleType, type, Proxied, Simulator)
"""What leads away from the proxy, to the test and the upstream behind it."""

OF_A_TURN = (AgentRequest, Turn, TurnRequest, Item)
"""What holds the history of a request."""

TEXT = (str, bytes, bytearray, memoryview)
WORD = "nevermore"


def answer(call: ModelCall) -> Output:
    """Think, say and do it."""
    arguments = orjson.dumps({"path": f"{WORD} {call.number}"}).decode()
    return says(Reasoning((WORD,)), f"{WORD} {call.number}", FunctionCall("read", arguments))


def held(*roots: object) -> Iterator[object]:
    """Yield all that *roots* hold, themselves or through others, down to the variables of what will go on."""
    seen: set[int] = set()
    left = list(roots)
    while left:
        each = left.pop()
        if id(each) in seen or isinstance(each, ELSEWHERE):
            continue
        seen.add(id(each))
        yield each
        # What a module has is asked of the module: from here it would lead to everything.
        left += (each.__closure__, each.__dict__) if isinstance(each, FunctionType) else gc.get_referents(each)


def quotes(*roots: object) -> list[str]:
    """Return the texts within *roots* that have the word, but for the windows of compressed connections."""
    all_held = list(held(*roots))
    windows = {id(vars(each)["_window"]) for each in all_held if isinstance(each, Deflate)}
    left = [each for each in all_held if isinstance(each, TEXT) and id(each) not in windows]
    texts = [each.encode() if isinstance(each, str) else each for each in left]
    return [bytes(text).decode() for text in texts if WORD.encode() in bytes(text)]


def modules() -> list[object]:
    """Return what the proxy's modules have."""
    ours = [vars(module) for name, module in sys.modules.items() if name.partition(".")[0] == "proxy"]
    return [each for names in ours for each in names.values()]


async def ask(peer: Peer, target: str, **body: Any) -> Any:
    """Send *body* over the connection of *peer*, which stays open; return the answer's items, if it has any."""
    sent = orjson.dumps({"model": "m", **body})
    answer = await peer.ask("POST", target, KEY, ("Content-Type", "application/json"), body=sent)
    assert answer.status == 200, answer.body
    if not body["stream"]:
        return answer.json().get("output")
    data = [line.removeprefix(b"data: ") for line in answer.body.split(b"\n") if line.startswith(b"data: {")]
    events = [orjson.loads(each) for each in data]
    return [event["item"] for event in events if event.get("type") == "response.output_item.done"]


def test_what_is_held_is_found() -> None:
    """However deep it is; a generator that waits holds its variables."""

    def waiting() -> Iterator[None]:
        said = bytearray(f"{WORD}!".encode())
        yield
        assert said

    generator = waiting()
    next(generator)
    assert set(quotes({"a": [("b", f"{WORD}?")], "c": lambda: next(generator)})) == {f"{WORD}?", f"{WORD}!"}


def of_turns() -> Counter[str]:
    """Return how many objects of turns there are, by their type."""
    return Counter(type(each).__name__ for each in gc.get_objects() if issubclass(type(each), OF_A_TURN))


async def converse(run: Proxied, *, stream: bool) -> Peer:
    """Take nine turns in both APIs, two of which are deltas if there is a WebSocket; return their connection."""
    peer = await run.dial()
    history: list[JSON] = []
    for n in range(3):
        history.append(user(f"{WORD} {n}"))
        output = await ask(peer, "/v1/responses", input=history, instructions=f"{WORD}!", stream=stream)
        history += output
        calls = [item["call_id"] for item in output if item["type"] == "function_call"]
        history += [
            {"type": "function_call_output", "call_id": each, "output": f"{WORD}, it says"} for each in calls
        ]
        messages = [{"role": "user", "content": f"{WORD} {n}"}]
        await ask(peer, "/v1/chat/completions", messages=messages, stream=stream)
        await ask(peer, "/v1/chat/completions", messages=messages, stream=stream, seed=1)
    await run.recorded(9)
    return peer


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("simulated", [{"deflate": "15"}, {"deflate": "off"}, {"refuse_upgrade": 426}])
async def test_no_word_of_a_conversation_outlives_its_turns(
    proxied: Any, simulated: dict[str, Any], *, stream: bool
) -> None:
    """Neither what the agent said nor what the model did is kept for the next turn, in either API."""
    run = await proxied(answer, simulated=simulated)
    _peer = await converse(run, stream=stream)
    assert (await run.figures())["turns"]["delta"] == (0 if "refuse_upgrade" in simulated else 2)
    assert quotes(run.server, *modules()) == []


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("simulated", [{}, {"refuse_upgrade": 426}])
async def test_a_turn_is_gone_when_it_has_ended(proxied: Any, simulated: dict[str, Any], *, stream: bool) -> None:
    """Its memory, several times a history's, is free at once: the collector might not look for many turns."""
    run = await proxied(answer, simulated=simulated)
    gc.collect()
    gc.disable()
    try:
        before = of_turns()  # other tests' modules have some
        _peer = await converse(run, stream=stream)
        assert of_turns() - before == {}
    finally:
        gc.enable()
