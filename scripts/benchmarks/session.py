"""A coding session of the shape that real agents send, generated: no recorded or third-party text.

Settings (instructions and tools) are sent again with every turn, reasoning comes back as ciphertext that does
not compress, and tool outputs look like source code and listings: some words often, most of them rarely.
"""

import random
from collections.abc import Iterator
from typing import Any

import orjson

from proxy.simulator import FunctionCall, ModelCall, Output, Reasoning, Script, Text

MODEL = "gpt-5.5"
_SYLLABLES = "ba co de fi gu ha ji ke lo mu na pe qui ro sa tu ve wi xe yo zu cra sto tri ple".split()  # noqa: SIM905
_KEYWORDS = ("return", "if", "for", "in", "self", "def", "None", "True", "not", "import", "raise", "with", "as")


class Session:
    """One agent and its model: *turns* requests whose settings take about *settings* bytes."""

    def __init__(self, *, turns: int, settings: int, seed: int) -> None:
        self.turns = turns
        self._random = random.Random(seed)
        self._words = ["".join(self._random.choices(_SYLLABLES, k=self._random.randint(2, 4))) for _ in range(900)]
        instructions = self._prose(settings // 3)
        self.fields: dict[str, Any] = {
            "model": MODEL,
            "instructions": instructions,
            "tools": self._tools(settings - len(instructions) - 400),
            "tool_choice": "auto",
            "parallel_tool_calls": True,
            "reasoning": {"effort": "medium", "summary": "auto"},
            "include": ["reasoning.encrypted_content"],
            "store": False,
            "stream": True,
            "prompt_cache_key": "session-1",
        }
        self.prompt = {
            "type": "message",
            "role": "user",
            "content": [{"type": "input_text", "text": self._prose(600)}],
        }
        self.outputs = [self._code(self._random.choice((300, 900, 2400, 5000))) for _ in range(turns - 1)]
        self._arguments = [
            orjson.dumps({"command": self._prose(60), "workdir": "/" + self._word()}).decode()
            for _ in range(turns - 1)
        ]

    @property
    def settings_size(self) -> int:
        """Bytes of everything that is sent again with each turn."""
        return len(orjson.dumps(self.fields))

    def script(self) -> Script:
        """Return the model: a tool call a turn, and an answer at the end."""
        turn: Iterator[int] = iter(range(self.turns))

        def answer(_call: ModelCall) -> Output:
            number = next(turn)
            if number == self.turns - 1:
                return Output((Reasoning(size=900), Text(self.prompt["content"][0]["text"])))
            return Output((Reasoning(size=900), FunctionCall("run", self._arguments[number])))

        return answer

    def _word(self) -> str:
        # A few words are common and most are rare, as in any text (Zipf).
        return self._words[min(int(self._random.paretovariate(0.7)) - 1, len(self._words) - 1)]

    def _prose(self, size: int) -> str:
        text = ""
        while len(text) < size:
            text += self._word() + self._random.choice((" ", " ", " ", ", ", ". "))
        return text[:size]

    def _code(self, size: int) -> str:
        lines: list[str] = []
        while sum(map(len, lines)) < size:
            indent = "    " * self._random.randint(0, 3)
            words = [
                self._random.choice(_KEYWORDS) if self._random.random() < 0.3 else self._word()
                for _ in range(self._random.randint(2, 9))
            ]
            lines.append(f"{len(lines) + 1:4d}  {indent}{' '.join(words)} = {self._random.randrange(10**6)}")
        return "\n".join(lines)

    def _tools(self, size: int) -> list[dict[str, Any]]:
        tools: list[dict[str, Any]] = []
        while not tools or len(orjson.dumps(tools)) < size:
            properties = {
                self._word() + str(number): {"type": "string", "description": self._prose(90)}
                for number in range(4)
            }
            tools.append(
                {
                    "type": "function",
                    "name": "run" if not tools else f"{self._word()}_{len(tools)}",
                    "description": self._prose(350),
                    "parameters": {"type": "object", "properties": properties, "additionalProperties": False},
                    "strict": False,
                }
            )
        return tools
