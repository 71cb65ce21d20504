"""The report: a table for people, and the same figures as JSON for programs."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from trial import Trial

COLUMNS = ("agent", "turns", "deltas", "later turns", "sent by agent", "to upstream", "saved", "time", "")


def table(trials: Sequence[Trial]) -> str:
    """Return *trials* as a table. Plain HTTP would have sent upstream what the agent sent."""
    rows = [COLUMNS, *map(_row, trials)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(_line(row, widths) for row in rows)


def as_json(trials: Sequence[Trial]) -> list[dict[str, Any]]:
    """Return *trials* with every figure."""
    return [
        {
            "agent": trial.agent.name,
            "version": trial.agent.version,
            **asdict(trial.figures),
            "delta_share": round(trial.figures.share, 4),
            "bytes_plain_http": trial.figures.bytes_from_agent,
            "saving": round(trial.figures.saving, 4),
            "seconds": round(trial.seconds, 1),
            "exit_code": trial.exit_code,
            "problems": list(trial.problems),
        }
        for trial in trials
    ]


def _row(trial: Trial) -> tuple[str, ...]:
    figures = trial.figures
    return (
        str(trial.agent),
        str(figures.turns),
        str(figures.deltas),
        f"{figures.share:.0%} deltas",
        f"{figures.bytes_from_agent:,} B",
        f"{figures.bytes_to_upstream:,} B",
        f"{figures.saving:.1%}",
        f"{trial.seconds:.1f} s",
        _verdict(trial),
    )


def _verdict(trial: Trial) -> str:
    if trial.problems:
        return "FAILED"
    return "ok, rewrites its history" if trial.agent.rewrites_history else "ok"


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    first, *middle, last = row
    cells = [
        first.ljust(widths[0]),
        *(cell.rjust(width) for cell, width in zip(middle, widths[1:-1], strict=True)),
    ]
    return "  ".join([*cells, last]).rstrip()
