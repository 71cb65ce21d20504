"""Report: what the demo shows, turn by turn and at its end."""

import sys
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from shlex import quote
from shutil import which
from textwrap import wrap
from typing import Any

from proxy.cli.reasons import explain
from proxy.cli.terminal import Terminal, saving, size

INTRODUCTION = (
    "No key, no network: agent, packlight and upstream all run on this machine. The agent really lists, reads "
    "and edits the files of a small project and runs its tests; only the model's words are scripted. Like any "
    "agent, it sends its whole history with every turn. packlight sends on what is new."
)
COMPARISON = (
    "Compared with plain HTTP: the bodies that the agent sent and got, without any headers. What packlight sent "
    "and got is everything on the connection: the WebSocket handshake, frames and compressed messages."
)
FIXED = 63  # what a row takes besides its column "new in this turn"
BAR = 18


@dataclass(frozen=True, slots=True)
class Row:
    """One turn: what the agent sent, what went upstream, and whether upstream understood the same."""

    number: int
    new: str
    items_total: int
    items_sent: int
    bytes_from_agent: int
    bytes_to_upstream: int
    upload: str
    reason: str | None
    context_equal: bool


@dataclass(frozen=True, slots=True)
class Summary:
    """The whole session, with the totals as the proxy counted them."""

    rows: list[Row]
    stats: dict[str, Any]

    @property
    def verified(self) -> bool:
        """Whether upstream put the agent's history together in every turn."""
        return all(row.context_equal for row in self.rows)

    def as_json(self) -> dict[str, Any]:
        """Return the session for programs."""
        crossed = self.stats["bytes"]
        saved = 1 - crossed["to_upstream"] / crossed["from_agents"]
        return {
            "turns": [asdict(row) for row in self.rows],
            "totals": {**self.stats["turns"], **crossed, "saved_percent": round(100 * saved, 1)},
            "verified": self.verified,
        }


class Report:
    """The lines for *terminal*: a heading, one for each turn, and an ending."""

    def __init__(self, terminal: Terminal) -> None:
        self._terminal = terminal
        self._new = max(12, min(24, terminal.width - FIXED))
        self._width = FIXED + self._new
        self._has_bars = terminal.drawn and terminal.width > self._width + BAR

    def heading(self) -> list[str]:
        """Return the lines that say what is about to be seen."""
        new = "new in this turn"[: self._new]
        columns = (
            f"{'turn':>4}  {new:<{self._new}}  {'agent sent':>10}  {'to upstream':>11}  {'saved':>6}  sent as"
        )
        return [
            self._terminal.style("packlight demo", bold=True),
            *self._wrapped(INTRODUCTION),
            "",
            self._terminal.style(columns, bold=True),
            self._rule(),
        ]

    def line(self, row: Row) -> str:
        """Return *row* as a line of the table."""
        color = "green" if row.upload == "delta" else "yellow"
        how = row.upload if row.reason is None else f"{row.upload} ({row.reason})"
        bar = self._terminal.bar(row.bytes_to_upstream / row.bytes_from_agent, width=BAR) if self._has_bars else ""
        figures = self._figures(row.number, row.new, row.bytes_from_agent, row.bytes_to_upstream)
        return f"{figures}  {self._terminal.style(f'{how:<22} {bar}'.rstrip(), fg=color)}"

    def ending(self, summary: Summary) -> list[str]:
        """Return the lines that say what it came to."""
        crossed = summary.stats["bytes"]
        sent, to_upstream = crossed["from_agents"], crossed["to_upstream"]
        got, from_upstream = crossed["to_agents"], crossed["from_upstream"]
        counts = Counter(row.upload for row in summary.rows)
        uploads = ", ".join(f"{number} {upload}" for upload, number in counts.most_common())
        return [
            self._rule(),
            self._terminal.style(f"{self._figures('', 'all turns', sent, to_upstream)}  {uploads}", bold=True),
            "",
            *self._reasons(summary),
            "",
            f"up    {size(to_upstream)} instead of {size(sent)}: {saving(sent, to_upstream)} less",
            f"down  {size(from_upstream)} instead of {size(got)}: {saving(got, from_upstream)} less",
            *self._wrapped(COMPARISON),
            "",
            self._check(summary),
            "",
            f"For real: run `{_command()} serve`, and start your agent with",
            "  OPENAI_BASE_URL=http://127.0.0.1:8484/v1",
        ]

    def _figures(self, number: object, new: str, before: int, after: int) -> str:
        return (
            f"{number:>4}  {new[: self._new]:<{self._new}}  {size(before):>10}  {size(after):>11}  "
            f"{saving(before, after):>6}"
        )

    def _reasons(self, summary: Summary) -> list[str]:
        reasons = dict.fromkeys(row.reason for row in summary.rows if row.reason is not None)
        return [line for reason in reasons for line in self._wrapped(f"{reason}: {explain(reason)}")]

    def _check(self, summary: Summary) -> str:
        equal = sum(row.context_equal for row in summary.rows)
        color, mark, verdict = ("green", "✓ ", "ok") if summary.verified else ("red", "✗ ", "FAILED")
        said = f"upstream put together exactly the agent's history in {equal} of {len(summary.rows)} turns"
        return self._terminal.style(f"{mark if self._terminal.drawn else ''}check {verdict}: {said}", fg=color)

    def _wrapped(self, text: str) -> list[str]:
        return wrap(text, min(self._terminal.width, 100))

    def _rule(self) -> str:
        return self._terminal.style(self._terminal.rule(self._width), dim=True)


def _command() -> str:
    """Return how the user calls this program: by its path where the shell does not know its name."""
    program = Path(sys.argv[0])
    if program.stem != "packlight" or which("packlight") is not None:
        return "packlight"
    if program.is_relative_to(Path.cwd()):
        program = program.relative_to(Path.cwd())
    return quote(program.as_posix())
