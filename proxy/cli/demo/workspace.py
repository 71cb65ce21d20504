"""Workspace: a directory with a small project in it, and the tools that really work on it."""

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

SUFFIX = ".txt"  # the project's files carry it while they are packlight's data
TESTS_SECONDS = 60
KEPT_VARIABLES = ("PATH", "SYSTEMROOT", "TEMP", "TMP")


class ToolFailed(Exception):
    """A tool can't do what it was asked; the message goes to the model."""


class Workspace:
    """The directory *root*; its tools don't leave it."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        self._tools: dict[str, Callable[..., str]] = {
            "list_files": self.list_files,
            "read_file": self.read_file,
            "search_text": self.search_text,
            "write_file": self.write_file,
            "edit_file": self.edit_file,
            "run_tests": self.run_tests,
        }

    def unpack(self) -> None:
        """Put the project's files there."""
        for path, text in _files(resources.files(__package__) / "project", ""):
            target = self.root / path.removesuffix(SUFFIX)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text, encoding="utf-8", newline="\n")

    def call(self, tool: str, arguments: dict[str, Any]) -> str:
        """Run *tool* and return what it has to say, a failure included."""
        try:
            run = self._tools.get(tool)
            return run(**arguments) if run else f"error: there is no tool {tool}"
        except ToolFailed as exc:
            return f"error: {exc}"

    def list_files(self, path: str, depth: int | None = None) -> str:
        """Return the files below *path* with their sizes, one a line."""
        base = self._path(path)
        found = [each for each in self._below(base) if depth is None or len(each.relative_to(base).parts) <= depth]
        return "\n".join(f"{self._name(each)}  {each.stat().st_size}" for each in found)

    def read_file(self, path: str, first_line: int | None = None, last_line: int | None = None) -> str:
        """Return the text of *path*, or some of its lines."""
        lines = self._text(path).splitlines(keepends=True)
        return "".join(lines[(first_line or 1) - 1 : last_line])

    def search_text(self, pattern: str, path: str, *, ignore_case: bool | None = None) -> str:
        """Return the lines below *path* that match *pattern*."""
        wanted = re.compile(pattern, re.IGNORECASE if ignore_case else 0)
        found = [
            f"{self._name(file)}:{number}: {line}"
            for file in self._below(self._path(path))
            for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1)
            if wanted.search(line)
        ]
        return "\n".join(found) or "nothing matches"

    def write_file(self, path: str, content: str) -> str:
        """Make *content* the whole of *path*."""
        target = self._path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        data = content.encode()
        target.write_bytes(data)
        return f"wrote {len(data)} bytes to {path}"

    def edit_file(self, path: str, old: str, new: str) -> str:
        """Replace *old*, which occurs once in *path*, by *new*."""
        text = self._text(path)
        count = text.count(old)
        if count != 1:
            raise ToolFailed(f"the old text occurs {count} times in {path}, not once; nothing was changed")
        self._path(path).write_bytes(text.replace(old, new).encode())
        return f"edited {path}"

    def run_tests(self, pattern: str | None = None) -> str:
        """Run the project's tests and return what they print."""
        command = [sys.executable, "-m", "unittest", "discover", *(["-k", pattern] if pattern else [])]
        environment = {name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ}
        done = subprocess.run(  # noqa: S603  our own interpreter on our own files
            command,
            cwd=self.root,
            env=environment | {"PYTHONDONTWRITEBYTECODE": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=TESTS_SECONDS,
            encoding="utf-8",
            errors="replace",
            check=False,
        )
        return f"{done.stdout}\nexit status {done.returncode}"

    def _path(self, path: str) -> Path:
        target = (self.root / path).resolve()
        if not target.is_relative_to(self.root):
            raise ToolFailed(f"{path} is outside the working directory")
        return target

    def _text(self, path: str) -> str:
        try:
            return self._path(path).read_text(encoding="utf-8")
        except OSError as exc:
            raise ToolFailed(f"{path} cannot be read: {exc.strerror}") from exc

    def _below(self, base: Path) -> Iterator[Path]:
        yield from sorted(each for each in ([base] if base.is_file() else base.rglob("*")) if each.is_file())

    def _name(self, file: Path) -> str:
        return file.relative_to(self.root).as_posix()


def _files(directory: Traversable, prefix: str) -> Iterator[tuple[str, str]]:
    for each in directory.iterdir():
        if each.is_dir():
            yield from _files(each, f"{prefix}{each.name}/")
        else:
            yield f"{prefix}{each.name}", each.read_text(encoding="utf-8")
