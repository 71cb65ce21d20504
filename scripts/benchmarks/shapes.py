"""Shapes: sessions as numbers. Ten agents as they were recorded, and the tasks of a public comparison.

The numbers were read off recordings of the real programs on loopback: how much is sent again with every turn, how
much is said before the first answer, how long tool outputs are, and what an agent leaves out when it repeats the
model's own words. None of the recorded text is here.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

_MESSAGE_EXTRAS = frozenset({"id", "status", "annotations", "logprobs"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Echo:
    """How an agent repeats what the model said.

    *left_out* are the keys that messages and calls lose; *compact* arguments were parsed and written again
    without spaces; *reordered* keys come in another order, as from a language whose maps sort them.
    """

    reasoning: Literal["kept", "without id", "dropped"] = "kept"
    left_out: frozenset[str] = frozenset()
    compact: bool = False
    reordered: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """One kind of session, in bytes and turns.

    *settings* is what is sent again with every turn. *opening* is said once, before the first answer. *output* is
    the usual length of a tool's output. *told* says where instructions and tools stand: both among the settings,
    the instructions as the first item of the input, or both there. *instructions* is their part of the settings, a
    third if it is 0. *steps* are the tools that are called, in turn: l(ist), s(earch), r(ead), e(dit), t(est).
    """

    name: str
    settings: int
    instructions: int = 0
    turns: int = 14
    opening: int = 1000
    output: int = 2500
    reasoning: int = 900
    model: str = "gpt-5.5"
    api: Literal["responses", "chat"] = "responses"
    stream: bool = True
    told: Literal["settings", "instructions in input", "all in input"] = "settings"
    echo: Echo = field(default_factory=Echo)
    steps: str = "lrsretrrtre"
    metadata: bool = False
    """Whether each request has a `client_metadata` whose keys come in another order every time."""
    fields: dict[str, Any] = field(default_factory=dict)


_AI_SDK = Echo(reasoning="without id", left_out=_MESSAGE_EXTRAS, compact=True)
_CODEX = Echo(reordered=True)

AGENTS = (
    Shape(
        name="Codex gpt-5.5",
        settings=10_600,
        opening=27_000,
        output=2400,
        told="instructions in input",
        echo=_CODEX,
        metadata=True,
    ),
    Shape(
        name="Codex gpt-5.6",
        settings=1_700,
        opening=44_000,
        output=2200,
        model="gpt-5.6-sol",
        told="all in input",
        echo=_CODEX,
        metadata=True,
    ),
    Shape(
        name="OpenCode",
        settings=18_900,
        opening=10_700,
        output=3500,
        told="instructions in input",
        echo=_AI_SDK,
    ),
    Shape(
        name="Cline",
        settings=16_900,
        turns=11,
        opening=4500,
        output=4500,
        told="instructions in input",
        echo=Echo(reasoning="dropped", left_out=_MESSAGE_EXTRAS, compact=True),
        fields={"truncation": "auto"},
    ),
    Shape(name="OpenHands", settings=27_300, output=3700, stream=False, echo=Echo(left_out=_MESSAGE_EXTRAS)),
    Shape(
        name="pi",
        settings=3_000,
        opening=3000,
        output=1300,
        told="instructions in input",
        echo=Echo(left_out=frozenset({"status", "logprobs"})),
    ),
    Shape(
        name="Continue",
        settings=7_900,
        turns=11,
        opening=1500,
        output=3000,
        told="instructions in input",
        echo=Echo(reasoning="dropped", compact=True),
    ),
    Shape(
        name="Kilo",
        settings=34_700,
        opening=15_000,
        output=5000,
        told="instructions in input",
        echo=_AI_SDK,
    ),
    Shape(
        name="Copilot CLI",
        settings=51_900,
        instructions=26_300,
        output=2800,
        echo=Echo(left_out=frozenset({"logprobs"})),
    ),
    Shape(
        name="Qwen Code",
        settings=68_900,
        instructions=29_700,
        opening=10_400,
        output=2300,
        echo=Echo(left_out=_MESSAGE_EXTRAS, compact=True),
    ),
)
"""Versions and sources: docs/performance.md."""

TASKS = (
    Shape(name="Fix a failing test", settings=3_000, turns=20, output=2600, steps="ltrsrretretsretrtet"),
    Shape(name="Add a search feature", settings=3_000, turns=28, output=2600, steps="lrrrsrreertesrreetrsretrtet"),
    Shape(name="Refactor the API layer", settings=3_000, turns=40, output=2600, steps="lrrsrrrsreereetrreerteest"),
)
"""The three tasks of the public comparison of HTTP and WebSocket, as generated stand-ins: a small harness, and one
tool call a turn.
"""

CHAT = (
    Shape(
        name="Qwen Code, Chat",
        settings=68_900,
        instructions=29_700,
        opening=10_400,
        output=2300,
        api="chat",
    ),
    Shape(name="Cline, Chat", settings=16_900, turns=11, output=4500, api="chat"),
)
"""The same in Chat Completions, where instructions are the first message."""

SHAPES = {shape.name: shape for shape in (*AGENTS, *TASKS, *CHAT)}
