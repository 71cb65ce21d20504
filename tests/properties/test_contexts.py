"""The property that decides: the context upstream reconstructs is the agent's history, in every case."""

import os
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from typing import Any

import pytest
from chat_world import ChatWorld
from hypothesis import given, settings
from hypothesis import strategies as st
from meaning import agree
from responses_world import ResponsesWorld
from world import CASES_A_WORLD, World, chosen, play

from proxy.core import affinity, delta, events, hoist, items, turn, warmup
from proxy.core.affinity import Candidate
from proxy.core.items import START
from proxy.upstream import pool
from proxy.upstream.partition import Partition

CASES = int(os.environ.get("PROPERTY_CASES", "1_000_000"))
WORLDS_A_TASK = 150


WORLDS = pytest.mark.parametrize("world_of", [ResponsesWorld, ChatWorld], ids=["responses", "chat"])


@WORLDS
@pytest.mark.timeout(3600)
def test_no_generated_case_has_a_wrong_context(
    world_of: type[World], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of PROPERTY_CASES requests none is answered from another history than the agent's; a sixth are deltas."""
    for name in ("COVERAGE_PROCESS_START", "COVERAGE_PROCESS_CONFIG"):
        monkeypatch.delenv(name, raising=False)  # measuring these processes would triple their time
    worlds = -(-CASES // CASES_A_WORLD)  # at most: some have more
    tasks = [range(first, min(first + WORLDS_A_TASK, worlds)) for first in range(0, worlds, WORLDS_A_TASK)]
    outcomes: Counter[str] = Counter()
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as processes:
        for found in processes.map(partial(play, world_of), tasks):
            outcomes += found
            if outcomes["cases"] >= CASES:
                processes.shutdown(cancel_futures=True)
                break
    with capsys.disabled():
        print(f"\n{dict(outcomes.most_common())}")  # noqa: T201  (what the run covered)
    assert outcomes["cases"] >= CASES
    assert outcomes["delta"] > outcomes["cases"] / 6
    assert outcomes["weighed"] > outcomes["cases"] / 20
    assert outcomes["hoisted"] > outcomes["cases"] / 20
    assert outcomes["restored"] > outcomes["cases"] / 2000
    assert outcomes["taken"] > outcomes["cases"] / 200
    assert outcomes["aside"] > outcomes["cases"] / 2000
    assert min(outcomes[each] for each in ("incomplete", "failed", "UpstreamError", "ConnectionLost")) > 0


@WORLDS
@settings(max_examples=2000)
@given(steps=st.integers(1, 50), choices=st.binary(min_size=400, max_size=1600))
@pytest.mark.timeout(600)
def test_no_found_case_has_a_wrong_context(world_of: type[World], steps: int, choices: bytes) -> None:
    """Hypothesis, which searches and shrinks, finds no wrong context either."""
    with world_of(chosen(choices)) as world:
        for _ in range(steps):
            world.step()
        world.settle()


def test_a_seed_finds_the_same_again() -> None:
    """In worlds where it matters how long the proxy stays away from WebSockets, which it draws by lot."""
    worlds = [range(seed, seed + 1) for seed in (62, 74, 574, 1706, 1809, 2130, 2818)]
    assert [play(ResponsesWorld, each) for each in worlds] == [play(ResponsesWorld, each) for each in worlds]


def _gullible(
    told: tuple[items.Item, ...], outputs: tuple[items.Output, ...], dropped: items.Dropped
) -> tuple[tuple[items.Item, ...], list[items.Output]]:
    """Skip whatever is no echo."""
    for output in outputs:
        told = told[output.echoed_by(told) :]
    return told, []


@property  # type: ignore[misc]
def _lend_twice(self: Partition) -> list[Candidate]:
    return [
        Candidate(key, slot.connection.baseline if slot.connection else None, slot.connection is not None, 0)
        for key, slot in self.slots.items()
    ]


def _believe(self: turn.Turn, event: Any) -> None:
    """Take whatever response begins for this turn's."""
    self._has_announced = True


def _same_mark(fields: Any, told: Any) -> hoist.Hoisted | None:
    hoisted = hoist.hoist(fields, told)
    return hoisted and replace(hoisted, mark=b"")


def _hoist_anew(self: turn.Turn, upload: delta.Delta | delta.Full) -> bool:
    """Write a delta of any chain as a history would be written."""
    return turn.Rewrite.HOISTED in self.rewrites - self.refused and self.request.hoisted is not None


def _start_anyhow(self: pool.Lease, asked: turn.Turn, upload: delta.Delta | delta.Full) -> Any:
    """Start without a note of the settings."""
    return asked.start(upload, reused=self.connection.turns > 0, earlier=self.connection.last_response)


MESSAGE = items._message
KEEPSAKE = warmup.Keepsake.of
MUTANTS: dict[str, tuple[Any, str, Any]] = {
    "the text of outputs is not compared": (items, "_message", lambda raw: ["message", raw.get("role")]),
    "the role of outputs is not compared": (items, "_message", lambda raw: MESSAGE({**raw, "role": "assistant"})),
    "arguments are not compared": (items, "arguments", lambda text: None),
    "the history before the baseline is not compared": (
        delta,
        "marks",
        lambda each, **_: (START,) * (len(each) + 1),
    ),
    "another key's connection is used": (pool, "partition_key", lambda url, headers: b""),
    "rewritten outputs count as left out": (delta, "_beyond_echo", _gullible),
    "settings are not compared": (delta, "digest", lambda value: b""),
    "reasoning is not identified": (items.Output, "_identified_by", lambda self, raw: True),
    "an ignored chain is not noticed": (turn.Turn, "_begin", _believe),
    "the end of an earlier response ends this one": (turn.Turn, "_is_earlier", lambda self, event: False),
    "an incomplete response is continued": (
        turn,
        "_ENDINGS",
        dict.fromkeys(("response.completed", "response.incomplete"), turn.State.COMPLETED),
    ),
    "settings told as items may change": (delta, "hoist", _same_mark),
    "a chain changes its form": (turn.Turn, "_is_hoisted", _hoist_anew),
    "instructions that a chain keeps may change": (delta.TurnRequest, "instructions", b""),
    "the agent is shown upstream's settings": (events.ServerEvent, "telling", lambda self, fields: self),
    "what the model said is not uploaded again": (
        warmup.Keepsake,
        "of",
        lambda turn: (kept := KEEPSAKE(turn)) and replace(kept, outputs=()),
    ),
    "an answer to a warm-up is continued": (turn.Turn, "says_something", property(lambda self: False)),
    "what an id stands for is not asked": (affinity.Recall, "allows", lambda self, known: known.stored),
    "what begins goes where another was": (pool.Pool, "_apart", lambda self, _, choice, *rest: choice),
    "what is not whole is sent again where it was": (delta.TurnRequest, "is_plainly_whole", True),
    "settings of another conversation are inherited": (pool.Lease, "start", _start_anyhow),
    "a connection at work is lent again": (Partition, "candidates", _lend_twice),
}


@WORLDS
@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_planted_mistake_is_found(world_of: type[World], mutant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each mistake in the proxy's comparing shows within 20,000 cases."""
    owner, name, mistake = MUTANTS[mutant]
    monkeypatch.setattr(owner, name, mistake)
    if name == "_message":
        monkeypatch.setitem(items._MEANINGS, "message", mistake)
    if world_of is ChatWorld and name in {"_identified_by", "digest", "instructions", "allows", "start"}:
        pytest.skip(
            "in Chat there is no reasoning, instructions are messages, settings may differ, and nothing is stored"
        )
    with pytest.raises(AssertionError, match="seed"):
        play(world_of, range(20_000 // CASES_A_WORLD))


USER = ("message", "user", ("a",))
SAID = ("message", "assistant", "b", None)
THOUGHT = ("reasoning", "1", ("p", "q"))


@pytest.mark.parametrize(
    ("told", "dropped", "right"),
    [
        ([USER, THOUGHT, SAID], "none", True),
        ([USER, SAID], "reasoning", True),
        ([USER, SAID], "none", False),
        ([USER, THOUGHT], "reasoning", False),
        ([USER, THOUGHT], "any", True),
        ([USER], "any", True),
        ([USER, ("reasoning", "1", ("p",)), ("reasoning", "1", ("q",)), SAID], "none", True),
        ([USER, ("reasoning", "1", None), SAID], "none", True),
        ([USER, ("reasoning", "1", None), ("reasoning", "1", None), SAID], "none", False),
        ([USER, ("reasoning", "2", ("p", "q")), SAID], "reasoning", False),
        ([USER, SAID, THOUGHT], "any", False),
        ([USER, THOUGHT, ("message", "assistant", "b", "final_answer")], "none", False),
        ([USER, THOUGHT, ("message", "assistant", "c", None)], "any", False),
        ([USER, THOUGHT, SAID, SAID], "any", False),
        ([USER, THOUGHT, THOUGHT, SAID], "any", False),
        ([USER, USER, THOUGHT, SAID], "any", False),
    ],
)
def test_the_oracle_tells_right_from_wrong(told: list[Any], dropped: Any, *, right: bool) -> None:
    """What upstream holds agrees with a history that left out what it may, and with no other."""
    assert agree([(USER, False), (THOUGHT, True), (SAID, True)], told, dropped) is right


def test_the_oracle_sees_an_item_told_twice() -> None:
    """Reasoning that the agent repeats whole is not one item in two parts."""
    assert agree([((*SAID[:3], "x"), True), (THOUGHT, True), (THOUGHT, False)], [SAID, THOUGHT, THOUGHT], "none")


def test_the_oracle_sees_a_rewritten_item() -> None:
    """What the agent wrote itself does not stand beside what it replaced."""
    other = ("message", "assistant", "c", None)
    assert not agree([(USER, False), (SAID, True), (other, False)], [USER, other], "any")
    assert agree([(USER, False), (SAID, True), (other, False)], [USER, SAID, other], "any")
