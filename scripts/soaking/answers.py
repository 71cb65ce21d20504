"""Answers: what the model of the soak says, which follows from what it has read and from nothing else.

The agent computes the same from its own history: a context with anything lost, doubled or mixed in gives
another answer, as does an answer that was cut short.
"""

import random
from collections.abc import Sequence

import orjson

from proxy.simulator import FunctionCall, Output, Reasoning, Text, digest
from proxy.simulator.model import Item

WORDS = ("sea", "stone", "lamp", "river", "glass", "north", "seven", "Straße", "日本", "🙂", '"', "\\", "\n")
TOOL = "note"
LONGEST = 60


def answer_to(context: Sequence[Item]) -> Output:
    """Return the model's answer: a text or a call of the agent's tool, at times after some reasoning."""
    text, calls = words_for(context)
    said = FunctionCall(TOOL, orjson.dumps({"text": text}).decode()) if calls else Text(text)
    thinks = (Reasoning(("**Reading**",), size=80),) if len(text) % 2 else ()
    return Output((*thinks, said), delta_size=32)


def expected(context: Sequence[Item]) -> str:
    """Return the text, or the arguments of the call, that answer *context*."""
    text, calls = words_for(context)
    return orjson.dumps({"text": text}).decode() if calls else text


def words_for(context: Sequence[Item]) -> tuple[str, bool]:
    """Return what is said, and whether in a tool call."""
    seen = digest(context)
    dice = random.Random(seen)
    return " ".join((seen, *dice.choices(WORDS, k=dice.randrange(LONGEST)))), dice.random() < 0.5
