"""Figures: what a session cost with packlight and without, and whether that is good enough."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

DELTAS_WANTED = 0.95
"""How many of the later turns have to be deltas."""


@dataclass(frozen=True, slots=True)
class Figures:
    """The turns of one agent run; *later* ones are those of its main session but the first."""

    turns: int
    deltas: int
    later: int
    later_deltas: int
    bytes_from_agent: int
    bytes_to_upstream: int
    reasons: dict[str, int]
    front_ends: tuple[str, ...]

    @classmethod
    def of(cls, turns: Sequence[dict[str, Any]]) -> "Figures":
        """Add up *turns*, records of ``/_packlight/turns``, oldest first."""
        later = _main_session(turns)[1:]
        return cls(
            turns=len(turns),
            deltas=_deltas(turns),
            later=len(later),
            later_deltas=_deltas(later),
            bytes_from_agent=sum(turn["bytes_from_agent"] for turn in turns),
            bytes_to_upstream=sum(turn["bytes_to_upstream"] for turn in turns),
            reasons=dict(Counter(turn["reason"] for turn in turns if turn["reason"])),
            front_ends=tuple(sorted({turn["front_end"] for turn in turns})),
        )

    @property
    def share(self) -> float:
        """How many of the later turns were deltas, from 0 to 1."""
        return self.later_deltas / self.later if self.later else 0.0

    @property
    def saving(self) -> float:
        """Which part of the upload was spared: plain HTTP would have sent on what the agent sent."""
        return 1 - self.bytes_to_upstream / self.bytes_from_agent if self.bytes_from_agent else 0.0


def _main_session(turns: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the turns of the longest session: titles and summaries are sessions of their own."""
    by_session = sorted(turns, key=lambda turn: turn["session"])  # stable: the order within each stays
    sessions = (list(group) for _, group in groupby(by_session, key=lambda turn: turn["session"]))
    return max(sessions, key=len, default=[])


def _deltas(turns: Sequence[dict[str, Any]]) -> int:
    return sum(turn["upload"] == "delta" for turn in turns)
