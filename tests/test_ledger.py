"""The ledger: records in, totals out."""

from datetime import UTC, datetime
from typing import Any

from proxy.ledger import Ledger, TurnRecord

SINCE = datetime(2026, 11, 1, 12, 30, tzinfo=UTC)


def record(**changes: Any) -> TurnRecord:
    """Return the record of a delta that went well, with *changes*."""
    figures: dict[str, Any] = {
        "id": "turn_1",
        "started_at": SINCE,
        "front_end": "responses",
        "session": "abc",
        "model": "gpt-5.5",
        "upload": "delta",
        "reason": None,
        "detail": None,
        "items_total": 9,
        "items_sent": 2,
        "bytes_from_agent": 1000,
        "bytes_to_upstream": 100,
        "bytes_from_upstream": 200,
        "bytes_to_agent": 300,
        "ttft_ms": 12.5,
        "duration_ms": 40.0,
        "attempts": 1,
        "status": "completed",
    }
    return TurnRecord(**(figures | changes))


def test_a_new_ledger_has_every_figure_at_zero() -> None:
    """Programs find all keys from the start."""
    assert Ledger(SINCE).stats() == {
        "turns": {"total": 0, "delta": 0, "full": 0, "http": 0, "failed": 0},
        "full_reasons": {},
        "bytes": {"from_agents": 0, "to_upstream": 0, "from_upstream": 0, "to_agents": 0},
        "connections": {"open": 0, "opened": 0, "lost": 0},
        "compression": {},
        "chains": {"collapsed": 0},
        "hoists": {"turns": 0, "proven": 0, "disproven": 0},
        "replays": {"safe": 0, "ambiguous": 0},
        "warm_ups": {"done": 0, "interrupted": 0, "refused": 0, "failed": 0},
        "since": "2026-11-01T12:30:00+00:00",
    }


def test_turns_are_counted_by_upload_reason_and_end() -> None:
    """Each record counts once in the total, by its upload and its reason, and failures are counted too."""
    ledger = Ledger(SINCE)
    ledger.add(record())
    ledger.add(record(upload="full", reason="first_turn"))
    ledger.add(record(upload="full", reason="first_turn", status="failed"))
    ledger.add(record(upload="http", reason="no_websocket", status="aborted"))
    stats = ledger.stats()
    assert stats["turns"] == {"total": 4, "delta": 1, "full": 2, "http": 1, "failed": 1}
    assert stats["full_reasons"] == {"first_turn": 2, "no_websocket": 1}


def test_bytes_and_connections_are_counted_where_they_happen() -> None:
    """The totals show what the meters counted; records add nothing to them."""
    ledger = Ledger(SINCE)
    ledger.agents.received, ledger.agents.sent = 1, 2
    ledger.upstream.received, ledger.upstream.sent = 3, 4
    ledger.connections.opened = 5
    ledger.add(record())
    stats = ledger.stats()
    assert stats["bytes"] == {"from_agents": 1, "to_agents": 2, "from_upstream": 3, "to_upstream": 4}
    assert stats["connections"] == {"open": 0, "opened": 5, "lost": 0}


def test_recent_turns_come_newest_first_and_are_bounded() -> None:
    """Only so many are kept, and at most *limit* are given."""
    ledger = Ledger(SINCE, kept=3)
    for number in range(5):
        ledger.add(record(id=str(number)))
    assert [each.id for each in ledger.turns(10)] == ["4", "3", "2"]
    assert [each.id for each in ledger.turns(1)] == ["4"]


def test_each_record_is_observed_once() -> None:
    """The log line of a turn is written when it is added."""
    seen: list[TurnRecord] = []
    ledger = Ledger(SINCE, observe=seen.append)
    ledger.add(record(id="a"))
    ledger.add(record(id="b"))
    assert [each.id for each in seen] == ["a", "b"]


def test_a_record_is_shown_with_its_time_in_milliseconds() -> None:
    """JSON has every field, and the time with its zone."""
    shown = record().as_json()
    assert shown["started_at"] == "2026-11-01T12:30:00.000+00:00"
    assert shown["upload"] == "delta"
    assert set(shown) == set(TurnRecord.__dataclass_fields__)
