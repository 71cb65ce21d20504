"""Plan and Lived: what a session over a link is to be, and what came of it."""

from dataclasses import dataclass, field
from statistics import median
from typing import Any

WAYS: dict[str, str] = {
    "keep-alive": "HTTP keep-alive",
    "new": "HTTP, new connection per turn",
    "zstd": "HTTP keep-alive, zstd bodies",
    "packlight": "packlight",
    "quiet": "packlight, no padding",
    "hoist": "packlight, `hoist`",
}
"""How the agent reaches upstream."""


@dataclass(frozen=True, slots=True)
class Plan:
    """One session over *link*, in the *way* given. The *seed* is that of its content and of the link's losses."""

    link: str
    way: str
    seed: int
    congestion: str = "cubic"
    turns: int = 20
    settings: int = 20_000


@dataclass(frozen=True, slots=True)
class Lived:
    """What came of a session: times in seconds as the agent saw them, and what the link carried each way.

    *packlight* are its own figures (`/_packlight/stats`), where it took part.
    """

    plan: Plan
    seconds: float
    first_events: list[float]
    turns: list[float]
    up: dict[str, int]
    down: dict[str, int]
    packlight: dict[str, Any] = field(default_factory=dict)

    @property
    def first_event(self) -> float:
        """The median time to the first event of the turns after the first."""
        return median(self.first_events[1:])
