"""Terminals and pipes: what may be drawn where, and how figures read."""

import io

import pytest

from proxy.cli.terminal import Terminal, encodable, saving, size


class Screen(io.TextIOWrapper):
    """A terminal with an encoding."""

    def __init__(self, encoding: str) -> None:
        super().__init__(io.BytesIO(), encoding=encoding)

    def isatty(self) -> bool:
        """Say that it is one."""
        return True


def test_a_pipe_gets_plain_text() -> None:
    """No colours, no drawing, a fixed width."""
    terminal = Terminal.of(io.StringIO(), {})
    assert terminal == Terminal(width=100, styled=False, drawn=False)
    assert terminal.style("text", fg="green") == "text"
    assert terminal.rule(5) == "-----"
    assert terminal.bar(0.5, width=10) == ""


def test_a_closed_output_gets_plain_text() -> None:
    """Python has None in its place, and nobody reads what is written there."""
    assert Terminal.of(None, {}) == Terminal()
    assert encodable("text", None) == "text"


def test_a_terminal_gets_colours_and_lines() -> None:
    """Where the encoding can."""
    terminal = Terminal.of(Screen("utf-8"), {})
    assert terminal.styled
    assert terminal.style("text", fg="green") == "\x1b[32mtext\x1b[0m"
    assert terminal.rule(5) == "━━━━━"
    assert terminal.rule(10_000) == "━" * terminal.width
    assert terminal.bar(0.5, width=3) == "█▌"
    assert terminal.bar(0.0, width=3) == "▌"
    assert terminal.bar(7.0, width=3) == "███"


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "latin-1"])
def test_an_encoding_that_cannot_draw_is_not_asked_to(encoding: str) -> None:
    """Lines are ASCII there; colours stay."""
    terminal = Terminal.of(Screen(encoding), {})
    assert (terminal.styled, terminal.drawn) == (True, False)


@pytest.mark.parametrize("environ", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_colours_can_be_refused(environ: dict[str, str]) -> None:
    """NO_COLOR and dumb terminals are honoured."""
    assert not Terminal.of(Screen("utf-8"), environ).styled


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.00 kB"),
        (9994, "9.99 kB"),
        (22_400, "22.4 kB"),
        (723_000, "723 kB"),
        (999_600, "1.00 MB"),
        (5_000_000_000, "5.00 GB"),
        (5_000_000_000_000, "5000 GB"),
    ],
)
def test_sizes_have_three_digits_and_a_unit(count: int, text: str) -> None:
    """As people write them, in powers of ten."""
    assert size(count) == text


@pytest.mark.parametrize(
    ("before", "after", "text"),
    [
        (100, 5, "95 %"),
        (1000, 4, "99.6 %"),
        (100, 100, "0 %"),
        (100, 150, "-50 %"),
        (0, 10, "-"),
        (10, 0, "100.0 %"),
    ],
)
def test_savings_are_in_percent(before: int, after: int, text: str) -> None:
    """Nearly everything is not rounded to everything, and more is told from less."""
    assert saving(before, after) == text
