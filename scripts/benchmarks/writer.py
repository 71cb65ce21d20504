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
_NAMES = 300
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
        self._recent.append(self.random.choices(self._words[:_NAMES], cum_weights=_FREQUENCIES[:_NAMES])[0])
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
    """A folder of generated source files with tests, and what an agent's tools say about it.

    It is one project: a file has the same size in every listing, the same tests run each time, an edit leaves most
    lines as they were, and the same few files are read and edited. Later outputs repeat parts of earlier ones.
    """

    def __init__(self, writer: Writer, files: int = 24) -> None:
        self._writer = writer
        self._random = writer.random
        self._files = {
            f"src/{writer.word()}/{writer.word()}_{number}.py": writer.code(self._random.randint(3000, 12000))
            for number in range(files)
        }
        self._open = list(self._files)[:4]
        self._listing = [
            f"-rw-r--r-- 1 dev dev {sum(map(len, code)) + len(code):6d} Mar {number % 28 + 1:2d} {name}"
            for number, (name, code) in enumerate(self._files.items())
        ]
        self._tests = [
            f"tests/test_{name.rpartition('/')[2]}::test_{writer.word()}_{writer.word()}"
            for name in self._files
            for _ in range(6)
        ]

    def work(self, kind: str, size: int) -> tuple[dict[str, Any], str]:
        """Return the arguments of a tool call of this *kind*, and its output of about *size* characters."""
        steps = {"l": self._listed, "s": self._searched, "r": self._read, "e": self._edited, "t": self._tested}
        return steps[kind](size)

    def _file(self) -> str:
        return self._random.choice(self._open if self._random.random() < 0.7 else list(self._files))

    def _listed(self, size: int) -> tuple[dict[str, Any], str]:
        return {"command": "ls -la src tests", "workdir": "/repo/project"}, _first(self._listing, size)

    def _searched(self, size: int) -> tuple[dict[str, Any], str]:
        name = self._writer.name()
        found = [
            f"{file}:{number}:{line}"
            for file, code in self._files.items()
            for number, line in enumerate(code, 1)
            if name in line
        ]
        return {"command": f"grep -rn {name} src", "workdir": "/repo/project"}, _first(found, size)

    def _read(self, size: int) -> tuple[dict[str, Any], str]:
        name = self._file()
        code = self._files[name]
        start = self._random.randrange(max(1, len(code) - size // 38))
        read = _first([f"{number:6d}\t{line}" for number, line in enumerate(code[start:], start + 1)], size)
        command = f"sed -n {start + 1},{start + read.count(chr(10)) + 1}p {name}"
        return {"command": command, "workdir": "/repo/project"}, read

    def _edited(self, size: int) -> tuple[dict[str, Any], str]:
        name = self._random.choice(self._open)
        code = self._files[name]
        count = max(3, size // 120)
        start = self._random.randrange(max(1, len(code) - count))
        old = code[start : start + count]
        new = [*old[: count // 3], *self._writer.code(size // 6), *old[-(count // 3) :]]
        code[start : start + count] = new
        arguments = {"command": "edit", "path": name, "old_string": "\n".join(old), "new_string": "\n".join(new)}
        context = [f"{number:6d}\t{line}" for number, line in enumerate(code[start:], start + 1)]
        return arguments, f"The file /repo/project/{name} has been updated:\n{_first(context, size)}"

    def _tested(self, size: int) -> tuple[dict[str, Any], str]:
        lines = ["============ test session starts ============", "platform linux -- Python 3.12.4, pytest-8.3.3"]
        failed = 0
        for number, test in enumerate(self._tests):
            if sum(map(len, lines)) >= size:
                break
            done = (number + 1) * 100 // len(self._tests)
            if self._random.random() < 0.9:
                lines.append(f"{test} PASSED [{done:3d}%]")
                continue
            failed += 1
            name = self._file()
            at = self._random.randrange(len(self._files[name]))
            lines += [
                f"{test} FAILED [{done:3d}%]",
                f">   {self._files[name][at].strip()}",
                f"E   {self._writer.prose(50)}",
                f"{name}:{at + 1}: AssertionError",
            ]
        lines.append(
            f"==== {failed} failed, {len(self._tests) - failed} passed in 2.{self._random.randrange(99)}s ===="
        )
        return {"command": "python -m pytest -x -q tests", "workdir": "/repo/project"}, "\n".join(lines)


def _first(lines: list[str], size: int) -> str:
    """Return as many of *lines* as come to *size* characters, and one at least."""
    lengths = accumulate(len(line) + 1 for line in lines)
    return "\n".join(lines[: sum(length <= size for length in lengths) or 1])
