"""Terminal: what standard output can show, and how figures are written on it."""

import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TextIO

import click


@dataclass(frozen=True, slots=True)
class Terminal:
    """Where a command prints: *styled* if colours show, *drawn* if box and block characters do."""

    width: int = 100
    styled: bool = False
    drawn: bool = False

    @classmethod
    def here(cls) -> "Terminal":
        """Return what standard output is."""
        return cls.of(sys.stdout, os.environ)

    @classmethod
    def of(cls, stream: TextIO | None, environ: Mapping[str, str]) -> "Terminal":
        """Return what *stream* is; anything that is no terminal gets plain text, also None: a closed one."""
        if stream is None or not stream.isatty():
            return cls()
        return cls(
            width=shutil.get_terminal_size((100, 24)).columns,
            styled=not environ.get("NO_COLOR") and environ.get("TERM") != "dumb",
            drawn=_can_encode(stream, "━█▌✓✗"),
        )

    def style(self, text: str, **styles: Any) -> str:
        """Return *text* with *styles* (those of `click.style`) where they show."""
        return click.style(text, **styles) if self.styled else text

    def rule(self, width: int) -> str:
        """Return a horizontal line."""
        return ("━" if self.drawn else "-") * min(width, self.width)

    def bar(self, part: float, *, width: int) -> str:
        """Return a bar that is *part* (0 to 1) of *width* long, or nothing where it can't be drawn."""
        if not self.drawn:
            return ""
        halves = max(1, round(min(part, 1) * width * 2))
        return "█" * (halves // 2) + "▌" * (halves % 2)


def size(count: int) -> str:
    """Return *count* bytes as people read them: 812 B, 22.4 kB, 1.23 MB."""
    if count < 1000:
        return f"{count} B"
    scaled, unit = count / 1000, "kB"
    for larger in ("MB", "GB"):
        if scaled >= 999.5:
            scaled, unit = scaled / 1000, larger
    return f"{scaled:.{2 if scaled < 9.995 else 1 if scaled < 99.95 else 0}f} {unit}"


def saving(before: int, after: int) -> str:
    """Return how much less *after* is than *before*, in percent; a minus sign says that it is more."""
    if not before:
        return "-"
    percent = 100 * (before - after) / before
    return f"{percent:.{1 if percent >= 99 else 0}f} %"  # 99.6 is not 100


def encodable(text: str, stream: TextIO | None) -> str:
    """Return *text* with what *stream* cannot encode spelled out: a pipe on Windows takes a few alphabets only."""
    encoding = (stream and stream.encoding) or "ascii"
    return text.encode(encoding, "backslashreplace").decode(encoding)


def _can_encode(stream: TextIO, text: str) -> bool:
    try:
        text.encode(stream.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True
