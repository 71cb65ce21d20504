"""Writer: text that compresses as instructions, source code and listings do, generated from a seed."""

import random
from collections import deque
from itertools import accumulate
from typing import Any

import orjson

_SYLLABLES = [
    onset + vowel + coda
    for onset in ("", "b", "c", "d", "f", "g", "h", "l", "m", "n", "p", "r", "s", "t", "v", "st", "tr", "ch", "pl")
    for vowel in "aeiou"
    for coda in ("", "", "n", "r", "s", "t", "l")
]
_WORDS = 5000
_REUSE, _RECENT = 0.5, 40
_FREQUENCIES = list(accumulate(1 / (rank + 5) for rank in range(_WORDS)))
_VERBS = ("get", "set", "load", "parse", "check", "find", "make", "send")
_FORMS = (
    "{0} = self.{1}({2}, {3}={4})",
    "if {0} is None or not {1}.{2}:",
    'raise ValueError(f"{0} {1} {{{2}}}")',
    "return {0}({1}, {2})",
    "for {0} in {1}.{2}():",
    "def {5}_{0}(self, {1}: str, {2}: int = {4}) -> {3}:",
    "from {0}.{1} import {2}",
    "self.{0}[{1}] = {2}.{5}_{3}({4})",
    "assert {0}.{1} == {4}",
    "# {0} {1} the {2} of {3}",
    'logger.info("{0} {1} %s", {2})',
    "",
)


class Writer:
    """Writes from a vocabulary of its own: some words often, most of them rarely, as in any text (Zipf)."""

    def __init__(self, seed: str) -> None:
        self.random = random.Random(seed)
        self._words = [
            "".join(self.random.choices(_SYLLABLES, k=self.random.choice((1, 2, 2, 3)))) for _ in range(_WORDS)
        ]
        self._recent: deque[str] = deque(maxlen=_RECENT)

    def word(self) -> str:
        """Return one word."""
        return self.random.choices(self._words, cum_weights=_FREQUENCIES)[0]

    def name(self) -> str:
        """Return a word for something in a program: often one that was used a moment ago."""
        if self._recent and self.random.random() < _REUSE:
            return self.random.choice(self._recent)
        self._recent.append(self.word())
        return self._recent[-1]

    def prose(self, size: int) -> str:
        """Return *size* characters of sentences."""
        parts: list[str] = []
        length = 0
        while length < size:
            parts.append(self.word() + self.random.choice((" ", " ", " ", ", ", ". ")))
            length += len(parts[-1])
        return "".join(parts)[:size]

    def code(self, size: int) -> list[str]:
        """Return lines of source code of about *size* characters."""
        lines: list[str] = []
        length = 0
        while length < size:
            words = [self.name() for _ in range(4)]
            form = self.random.choice(_FORMS)
            line = form.format(*words, self.random.randrange(10 ** self.random.randint(1, 4)), self._verb())
            lines.append("    " * self.random.randint(0, 3) + line)
            length += len(lines[-1]) + 1
        return lines

    def tools(self, size: int) -> list[dict[str, Any]]:
        """Return function tools whose JSON takes about *size* bytes; the first is called ``run``."""
        tools: list[dict[str, Any]] = []
        while not tools or len(orjson.dumps(tools)) < size:
            left = size - len(orjson.dumps(tools))
            properties = {
                f"{self.name()}_{number}": {"type": "string", "description": self._said(min(90, left // 8 + 20))}
                for number in range(4)
            }
            tools.append(
                {
                    "type": "function",
                    "name": "run" if not tools else f"{self.word()}_{len(tools)}",
                    "description": self._said(max(20, min(350, left - 700))),
                    "parameters": {"type": "object", "properties": properties, "additionalProperties": False},
                    "strict": False,
                }
            )
        return tools

    def _said(self, size: int) -> str:
        """Return *size* characters about something in a program."""
        parts: list[str] = []
        while sum(map(len, parts)) < size:
            parts.append(self.name() + self.random.choice((" ", " ", " the ", ", ", ". ")))
        return "".join(parts)[:size]

    def _verb(self) -> str:
        return self.random.choice(_VERBS)


class Project:
    """A folder of generated source files, and what an agent's tools say about it.

    What is read, edited and tested is the same few files, so that later outputs repeat parts of earlier ones.
    """

    def __init__(self, writer: Writer, files: int = 24) -> None:
        self._writer = writer
        self._random = writer.random
        self._files = {
            f"src/{writer.word()}/{writer.word()}_{number}.py": writer.code(self._random.randint(3000, 12000))
            for number in range(files)
        }
        self._open = list(self._files)[:4]

    def work(self, kind: str, size: int) -> tuple[dict[str, Any], str]:
        """Return the arguments of a tool call of this *kind*, and its output of about *size* characters."""
        steps = {"l": self._listed, "s": self._searched, "r": self._read, "e": self._edited, "t": self._tested}
        return steps[kind](size)

    def _file(self) -> str:
        return self._random.choice(self._open if self._random.random() < 0.4 else list(self._files))

    def _listed(self, size: int) -> tuple[dict[str, Any], str]:
        names = list(self._files)
        lines: list[str] = []
        while sum(map(len, lines)) < size:
            name = names[len(lines)] if len(lines) < len(names) else f"tests/test_{self._writer.word()}.py"
            lines.append(
                f"-rw-r--r-- 1 dev dev {self._random.randrange(200, 20000):6d} Mar {len(lines) % 28 + 1:2d} {name}"
            )
        return {"command": "ls -la src tests", "workdir": "/repo/project"}, "\n".join(lines)

    def _searched(self, size: int) -> tuple[dict[str, Any], str]:
        lines: list[str] = []
        while sum(map(len, lines)) < size:
            name = self._file()
            number = self._random.randrange(len(self._files[name]))
            lines.append(f"{name}:{number + 1}:{self._files[name][number]}")
        return {"command": f"grep -rn {self._writer.word()} src", "workdir": "/repo/project"}, "\n".join(lines)

    def _read(self, size: int) -> tuple[dict[str, Any], str]:
        name = self._file()
        code = self._files[name]
        count = max(5, min(len(code), size // 38))
        start = self._random.randrange(max(1, len(code) - count))
        numbered = [f"{start + n + 1:6d}\t{line}" for n, line in enumerate(code[start : start + count])]
        command = f"sed -n {start + 1},{start + count}p {name}"
        return {"command": command, "workdir": "/repo/project"}, "\n".join(numbered)

    def _edited(self, size: int) -> tuple[dict[str, Any], str]:
        name = self._random.choice(self._open)
        code = self._files[name]
        count = max(2, size // 120)
        start = self._random.randrange(max(1, len(code) - count))
        new = self._writer.code(size // 3)
        old = "\n".join(code[start : start + count])
        code[start : start + count] = new
        arguments = {"command": "edit", "path": name, "old_string": old, "new_string": "\n".join(new)}
        return arguments, f"The file /repo/project/{name} has been updated ({len(new)} lines)."

    def _tested(self, size: int) -> tuple[dict[str, Any], str]:
        lines = ["============ test session starts ============", "platform linux -- Python 3.12.4, pytest-8.3.3"]
        while sum(map(len, lines)) < size:
            name = self._random.choice(self._open)
            number = self._random.randrange(len(self._files[name]))
            where = f"tests/test_{name.rpartition('/')[2]}::test_{self._writer.word()}"
            if self._random.random() < 0.6:
                lines.append(f"{where} PASSED [{self._random.randrange(100):3d}%]")
            else:
                lines += [
                    f"{where} FAILED",
                    f">   {self._files[name][number].strip()}",
                    f"E   {self._writer.prose(50)}",
                ]
                lines.append(f"{name}:{number + 1}: AssertionError")
        failed, passed = self._random.randrange(9), self._random.randrange(90)
        lines.append(f"==== {failed} failed, {passed} passed in 2.{self._random.randrange(99)}s ====")
        return {"command": "python -m pytest -x -q tests", "workdir": "/repo/project"}, "\n".join(lines)
