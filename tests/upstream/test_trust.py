"""How long WebSockets are left alone after what went wrong with them."""

from collections.abc import Callable

import pytest

from proxy.upstream.trust import Trust


def trust() -> Trust:
    """Return one whose pauses are as long as they can be, at most 100 s."""
    return Trust(lambda: 0.0, 100)


def allowed_again(known: Trust, now: float) -> float:
    """Return after how many seconds a turn may use a WebSocket again."""
    return next(seconds for seconds in range(1000) if known.allows(now + seconds))


def test_a_refusal_that_is_definite_holds_for_the_longest_time() -> None:
    """Upstream has none."""
    known = trust()
    assert known.allows(0)
    known.refused(0)
    assert allowed_again(known, 0) == 100


def test_after_a_refusal_that_may_pass_those_that_are_open_go_on() -> None:
    """Another one is tried later, ever later; and at once after one that opened."""
    known = trust()
    for now, pause in ((0, 10), (10, 20), (30, 40), (70, 80), (150, 100), (250, 100)):
        assert known.has_room(now)
        known.not_now(now, began=now)
        assert known.is_shaken
        assert known.allows(now)
        assert [known.has_room(now + pause - 1), known.has_room(now + pause)] == [False, True]
    known.opened()
    assert known.has_room(250)
    assert not known.is_shaken
    known.not_now(400, began=400)
    assert known.has_room(410)


def test_upgrades_that_fail_together_are_one_failure() -> None:
    """Eight agents that begin at once do not wait for minutes."""
    for fail in (Trust.not_now, lambda known, now, began: known.broke_off(now, began=began, silent=True)):
        known = trust()
        for n in range(8):
            fail(known, 5 + n / 10, began=n / 10)
        assert known.allows(16)
        assert known.has_room(16)


def test_one_that_opens_ends_every_pause() -> None:
    """On a link that is back, turns need not wait for what was decided in the dark."""
    known = trust()
    known.broke_off(5, began=0, silent=True)
    known.not_now(6, began=5.5)
    assert not known.allows(7)
    known.opened()
    assert known.allows(7)
    assert known.has_room(7)


@pytest.mark.parametrize(("together", "pause"), [(True, 0), (False, 10)])
def test_one_upgrade_that_is_broken_off_is_no_pattern(together: bool, pause: float) -> None:  # noqa: FBT001
    """A second one that began after it is."""
    known = trust()
    known.broke_off(1, began=0, silent=False)
    assert known.allows(1)
    known.broke_off(2, began=0.5 if together else 1.5, silent=False)
    assert allowed_again(known, 2) == pause


@pytest.mark.parametrize("end", [Trust.opened, lambda known: known.broke_off(5, began=4, silent=False)])
def test_upgrades_that_are_met_with_silence_in_a_row_are_not_worth_a_wait(end: Callable[[Trust], None]) -> None:
    """Until one opens, or is at least broken off."""
    known = trust()
    known.broke_off(1, began=0, silent=True)
    assert not known.is_swallowed
    known.broke_off(3, began=2, silent=True)
    assert known.is_swallowed
    end(known)
    assert not known.is_swallowed


@pytest.mark.parametrize("enough", [1, 2, 3])
def test_turns_that_are_lost_in_a_row_are_a_pattern(enough: int) -> None:
    """Then plain HTTP is used for half a minute."""
    known = trust()
    for n in range(enough):
        assert known.allows(n)
        assert not known.is_suspect
        known.lost(n, opened=n - 0.5, enough=enough)
    assert known.is_suspect
    assert known.is_shaken
    assert allowed_again(known, enough - 1) == 30


def test_turns_that_are_lost_together_are_one_loss() -> None:
    """A change of network takes every connection there is, also while they are suspect."""
    known = trust()
    for n in range(8):
        known.lost(10 + n / 10, opened=n, enough=2)
    assert not known.is_suspect
    for n in range(8):
        known.lost(20 + n / 10, opened=11 + n / 10, enough=2)
    assert known.is_suspect
    assert allowed_again(known, 20) == 30
    known.begin(50)
    for n in range(8):
        known.lost(60 + n / 10, opened=50, enough=2)
    assert allowed_again(known, 60) == 60


def test_one_turn_tries_a_suspect_websocket() -> None:
    """The others wait for what comes of it; where it is lost they wait for longer, else not at all."""
    known = trust()
    known.begin(0)
    assert known.allows(0)
    known.lost(0, opened=0, enough=1)
    known.begin(30)
    assert not known.allows(30)
    assert allowed_again(known, 30) == 30
    known.lost(31, opened=30, enough=3)
    assert allowed_again(known, 31) == 60
    known.begin(91)
    known.done()
    assert known.allows(91)
    assert not known.is_suspect
    known.lost(92, opened=91, enough=2)
    assert known.allows(92)
