"""What each turn cost: one record a turn, the totals, and one log line."""

from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields
from datetime import datetime
from itertools import islice
from typing import Any, Literal

Status = Literal["completed", "failed", "incomplete", "aborted"]


@dataclass(slots=True)
class Traffic:
    """Bytes that crossed one boundary: *sent* away from us, *received* by us."""

    sent: int = 0
    received: int = 0


@dataclass(frozen=True, slots=True)
class TurnRecord:
    """The figures of one finished turn, without a word of its content. Times in ms, sizes in bytes.

    *detail* names the parameter of the request that is the *reason*, where it is one.
    """

    id: str
    started_at: datetime
    front_end: str
    session: str
    model: str | None
    upload: Literal["delta", "full", "http"]
    reason: str | None
    detail: str | None
    items_total: int
    items_sent: int
    bytes_from_agent: int
    bytes_to_upstream: int
    bytes_from_upstream: int
    bytes_to_agent: int
    ttft_ms: float | None
    duration_ms: float
    attempts: int
    status: Status

    def as_json(self) -> dict[str, Any]:
        """Return the record as ``/_packlight/turns`` shows it."""
        return {each.name: getattr(self, each.name) for each in fields(self)} | {
            "started_at": self.started_at.isoformat(timespec="milliseconds"),
            "ttft_ms": None if self.ttft_ms is None else round(self.ttft_ms, 3),
            "duration_ms": round(self.duration_ms, 3),
        }


@dataclass(slots=True)
class Connections:
    """WebSockets to upstream: open now, opened since the start, and lost (not closed by us).

    *compressions* are those that were opened, by what was negotiated.
    """

    open: int = 0
    opened: int = 0
    lost: int = 0
    compressions: Counter[str] = field(default_factory=Counter)


@dataclass(slots=True)
class Ledger:
    """The figures since the start. *observe* is told each record once, for the log line."""

    since: datetime
    observe: Callable[[TurnRecord], None] = lambda _record: None
    kept: int = 1000
    connections: Connections = field(default_factory=Connections)
    agents: Traffic = field(default_factory=Traffic)
    upstream: Traffic = field(default_factory=Traffic)
    uploads: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    statuses: Counter[str] = field(default_factory=Counter)
    collapses: int = 0
    hoists: Counter[str] = field(default_factory=Counter)
    replays: Counter[str] = field(default_factory=Counter)
    warm_ups: Counter[str] = field(default_factory=Counter)
    recent: deque[TurnRecord] = field(init=False)

    def __post_init__(self) -> None:
        self.recent = deque(maxlen=self.kept)

    def add(self, record: TurnRecord) -> None:
        """Count a finished turn. Byte totals are counted where the bytes cross, not here."""
        self.uploads[record.upload] += 1
        self.statuses[record.status] += 1
        if record.reason is not None:
            self.reasons[record.reason] += 1
        self.recent.append(record)
        self.observe(record)

    def turns(self, limit: int) -> Iterator[TurnRecord]:
        """Yield at most *limit* records, newest first."""
        return islice(reversed(self.recent), limit)

    def stats(self) -> dict[str, Any]:
        """Return the totals as ``/_packlight/stats`` shows them."""
        connections = self.connections
        return {
            "turns": {
                "total": self.uploads.total(),
                "delta": self.uploads["delta"],
                "full": self.uploads["full"],
                "http": self.uploads["http"],
                "failed": self.statuses["failed"],
            },
            "full_reasons": dict(self.reasons),
            "bytes": {
                "from_agents": self.agents.received,
                "to_upstream": self.upstream.sent,
                "from_upstream": self.upstream.received,
                "to_agents": self.agents.sent,
            },
            "connections": {
                "open": connections.open,
                "opened": connections.opened,
                "lost": connections.lost,
            },
            "compression": dict(connections.compressions),
            "chains": {"collapsed": self.collapses},
            "hoists": {name: self.hoists[name] for name in ("turns", "proven", "disproven")},
            "replays": {"safe": self.replays["safe"], "ambiguous": self.replays["ambiguous"]},
            "warm_ups": {name: self.warm_ups[name] for name in ("done", "interrupted", "refused", "failed")},
            "since": self.since.isoformat(timespec="seconds"),
        }
