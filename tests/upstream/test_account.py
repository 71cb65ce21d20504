"""What upstream tells of an account, as the headers that HTTP has for it."""

from typing import Any

import orjson
import pytest

from proxy.core.events import ServerEvent
from proxy.upstream.account import Account, standing


def limits(**told: Any) -> ServerEvent:
    """Return an event that tells of the account."""
    return ServerEvent.parse(orjson.dumps({"type": "codex.rate_limits", **told}))


def headers(*events: ServerEvent) -> dict[str, str]:
    """Return what an answer tells after *events*."""
    account = Account()
    for event in events:
        account.note(event, lambda: 100.0)
    told = account.headers(100.0)
    assert len(dict(told)) == len(told)
    return dict(told)


def test_both_windows_and_the_credits_are_told() -> None:
    """The names are those that Codex reads."""
    event = limits(
        plan_type="plus",
        rate_limits={
            "allowed": True,
            "limit_reached": False,
            "primary": {
                "used_percent": 4,
                "window_minutes": 300,
                "reset_after_seconds": 9,
                "reset_at": 1788897775,
            },
            "secondary": {"used_percent": 16.5, "window_minutes": 10080.0, "reset_at": None},
        },
        credits={"has_credits": True, "unlimited": False, "balance": "5.39"},
        code_review_rate_limits=None,
    )
    assert headers(event) == {
        "x-codex-primary-used-percent": "4",
        "x-codex-primary-window-minutes": "300",
        "x-codex-primary-reset-after-seconds": "9",
        "x-codex-primary-reset-at": "1788897775",
        "x-codex-secondary-used-percent": "16.5",
        "x-codex-secondary-window-minutes": "10080",
        "x-codex-credits-has-credits": "true",
        "x-codex-credits-unlimited": "false",
        "x-codex-credits-balance": "5.39",
        "x-codex-plan-type": "plus",
    }


def test_each_limit_has_a_family_of_its_own() -> None:
    """The latest word on each counts, and what it no longer names is gone."""
    first = limits(
        rate_limits={"primary": {"used_percent": 1}, "secondary": {"used_percent": 2}}, plan_type="plus"
    )
    other = limits(
        metered_limit_name="codex_Other",
        limit_name="gpt-5.2-codex-sonic",
        rate_limits={"primary": {"used_percent": 80}},
        plan_type="pro",
    )
    named = limits(limit_name="codex", rate_limits={"primary": {"used_percent": 3}})
    assert headers(first, other, named) == {
        "x-codex-primary-used-percent": "3",
        "x-codex-other-primary-used-percent": "80",
        "x-codex-other-limit-name": "gpt-5.2-codex-sonic",
        "x-codex-plan-type": "pro",
    }


@pytest.mark.parametrize(
    "told",
    [
        {},
        {"rate_limits": None, "credits": None, "plan_type": None},
        {"rate_limits": [1], "credits": "x", "plan_type": {}, "limit_name": 7},
        {"rate_limits": {"primary": 3, "secondary": []}, "metered_limit_name": "a b"},
        {"rate_limits": {"primary": {"used_percent": "1\r\nset-cookie: x"}}, "plan_type": "plus\n"},
        {"rate_limits": {"primary": {"used_percent": 1}}, "limit_name": "x\r\nset-cookie"},
        {"rate_limits": {"primary": {"used_percent": 1}}, "limit_name": "x" * 65},
        {"plan_type": "caf\u00e9", "credits": {"balance": "9" * 257, "has_credits": [True]}},
        {"rate_limits": {"primary": {"used_percent": [4], "reset_at": {"at": 1}}}},
    ],
)
def test_what_no_header_can_tell_is_left_out(told: dict[str, Any]) -> None:
    """Nothing of it ends up in the answer's head."""
    assert headers(limits(**told)) == {}


def test_what_is_left_of_a_window_gets_less() -> None:
    """An agent that asks again takes it from there; when the window begins anew stays as it was told."""
    account = Account()
    windows = {
        "primary": {"reset_after_seconds": 90, "reset_at": 1800000000},
        "secondary": {"reset_after_seconds": "soon", "window_minutes": 300},
    }
    account.note(limits(rate_limits=windows), lambda: 1000.0)

    def left(now: float) -> str:
        told = dict(account.headers(now))
        assert told.pop("x-codex-secondary-reset-after-seconds") == "soon"
        assert told.pop("x-codex-primary-reset-at") == "1800000000"
        assert told.pop("x-codex-secondary-window-minutes") == "300"
        ((name, value),) = told.items()
        assert name == "x-codex-primary-reset-after-seconds"
        return value

    assert [left(now) for now in (1000.0, 1030.5, 1089.0, 5000.0)] == ["90", "60", "1", "0"]


@pytest.mark.parametrize("figure", ["NaN", "Infinity", "1e400", "-Infinity", "9" * 400])
def test_what_is_no_number_is_left_out(figure: str) -> None:
    """Some servers write numbers that JSON does not have."""
    raw = f'{{"type":"codex.rate_limits","rate_limits":{{"primary":{{"used_percent":{figure},"reset_at":1}}}}}}'
    told = headers(ServerEvent.parse(raw.encode()))
    assert told["x-codex-primary-reset-at"] == "1"
    assert "x-codex-primary-used-percent" not in told


def test_other_events_and_garbled_ones_tell_nothing() -> None:
    """And take nothing of what was told away."""
    known = limits(rate_limits={"primary": {"used_percent": 1}})
    other = ServerEvent.parse(b'{"type":"codex.novelty","rate_limits":{"primary":{"used_percent":2}}}')
    garbled = ServerEvent.parse(b'{"type":"codex.rate_limits","rate_limits":')
    assert headers(known, other, garbled) == {"x-codex-primary-used-percent": "1"}


def test_there_is_an_end_to_the_limits_that_are_kept() -> None:
    """Upstream cannot fill memory, or an answer's head, with names."""
    named = [limits(limit_name=f"l{n}", rate_limits={"primary": {"used_percent": n}}) for n in range(1000)]
    told = headers(*named)
    assert len(told) <= 64
    assert told["x-l999-primary-used-percent"] == "999"


def test_an_answers_head_stays_as_small_as_clients_take_it() -> None:
    """Python's own client and hyper take 100 headers, Node's 16 KB of them."""
    figures = dict.fromkeys(("used_percent", "window_minutes", "reset_after_seconds", "reset_at"), "9" * 256)
    windows = {"primary": figures, "secondary": figures}
    named = [
        limits(metered_limit_name="l" * 60 + f"{n:04}", limit_name="n" * 256, rate_limits=windows)
        for n in range(1000)
    ]
    told = headers(*named)
    assert told
    assert sum(len(f"{name}: {value}\r\n") for name, value in told.items()) < 8 * 1024


def test_of_a_handshake_only_what_holds_for_each_answer_is_told() -> None:
    """A request's id and its routing are the handshake's own, and so are cookies."""
    given = [
        ("X-Models-Etag", '"7"'),
        ("x-reasoning-included", "true"),
        ("openai-version", "2020-10-01"),
        ("openai-organization", "a\r\nb"),
        ("openai-model", "gpt"),
        ("x-request-id", "req_1"),
        ("x-codex-turn-state", "here"),
        ("set-cookie", "a=b"),
        ("Sec-WebSocket-Accept", "x"),
        *((f"{'X-Models-Etag'[:n].lower()}{'X-Models-Etag'[n:]}", "other") for n in range(13)),
    ]
    assert standing(given) == (
        ("X-Models-Etag", '"7"'),
        ("x-reasoning-included", "true"),
        ("openai-version", "2020-10-01"),
    )
