"""Shapes: sessions as numbers. Ten agents as they were recorded, and the tasks of a public comparison.

The numbers were read off recordings of the real programs on loopback: how much is sent again with every turn, how
much is said before the first answer, how long tool outputs are, and what an agent leaves out when it repeats the
model's own words. None of the recorded text is here.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

from recorded import Recorded

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
    how long a tool's output is on average, *reasoning* a turn's ciphertext. *told* says where instructions and
    tools stand: both among the settings, the instructions as the first item of the input, or both there.
    *instructions* is their part of the settings, a third if it is 0. *steps* are the tools that are called, in
    turn: l(ist), s(earch), r(ead), e(dit), t(est). *recorded* is what the recording came to, where it was one
    session without a break.
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
    recorded: Recorded | None = None


_AI_SDK = Echo(reasoning="without id", left_out=_MESSAGE_EXTRAS, compact=True)
_CODEX = Echo(reordered=True)

AGENTS = (
    Shape(
        name="Codex gpt-5.5",
        settings=10_600,
        opening=27_000,
        output=1600,
        reasoning=1700,
        told="instructions in input",
        echo=_CODEX,
        metadata=True,
        recorded=Recorded(871_500, 363_375, 60_372),
    ),
    Shape(
        name="Codex gpt-5.6",
        settings=1_700,
        opening=44_000,
        output=2050,
        reasoning=1900,
        model="gpt-5.6-sol",
        told="all in input",
        echo=_CODEX,
        metadata=True,
        recorded=Recorded(1_033_790, 377_753, 73_660),
    ),
    Shape(
        name="OpenCode",
        settings=18_900,
        opening=10_700,
        output=1300,
        reasoning=1750,
        told="instructions in input",
        echo=_AI_SDK,
        recorded=Recorded(725_456, 305_893, 49_407),
    ),
    Shape(
        name="Cline",
        settings=16_900,
        turns=11,
        opening=4500,
        output=2800,
        told="instructions in input",
        echo=Echo(reasoning="dropped", left_out=_MESSAGE_EXTRAS, compact=True),
        fields={"truncation": "auto"},
        recorded=Recorded(416_773, 107_445, 51_780),
    ),
    Shape(
        name="OpenHands",
        settings=27_300,
        output=1500,
        reasoning=1600,
        stream=False,
        echo=Echo(left_out=_MESSAGE_EXTRAS),
        recorded=Recorded(710_241, 284_413, 50_133),
    ),
    Shape(
        name="pi",
        settings=3_000,
        opening=3000,
        output=1300,
        reasoning=1550,
        told="instructions in input",
        echo=Echo(left_out=frozenset({"status", "logprobs"})),
        recorded=Recorded(398_042, 171_079, 25_759),
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
        output=1400,
        reasoning=1550,
        told="instructions in input",
        echo=_AI_SDK,
        recorded=Recorded(1_015_169, 405_419, 70_064),
    ),
    Shape(
        name="Copilot CLI",
        settings=51_900,
        instructions=26_300,
        output=1300,
        reasoning=1700,
        echo=Echo(left_out=frozenset({"logprobs"})),
    ),
    Shape(
        name="Qwen Code",
        settings=68_900,
        instructions=29_700,
        opening=10_400,
        output=1300,
        reasoning=700,
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
        output=1300,
        api="chat",
    ),
    Shape(name="Cline, Chat", settings=16_900, turns=11, output=2800, api="chat"),
)
"""The same in Chat Completions, where instructions are the first message."""

SHAPES = {shape.name: shape for shape in (*AGENTS, *TASKS, *CHAT)}
