"""The age at which something in between closes every connection."""

from math import inf

import pytest

from proxy.upstream.lifespan import BELIEVED_SECONDS, Lifespan


def lost(*ages: float) -> tuple[Lifespan, float]:
    """Return what is known, and the time, after turns were lost on connections of these *ages*."""
    known, now = Lifespan(), 1000.0
    for age in ages:
        now += age
        known.lost(age, now, turn=1)
    return known, now


@pytest.mark.parametrize(
    ("ages", "limit"),
    [
        ((), inf),
        ((30.0, 30.0), inf),
        ((30.0, 30.5, 29.5), 28.025),
        ((30.0, 30.0, 45.0, 30.0), inf),
        ((30.0, 60.0, 60.0, 62.0), 57.0),
        ((3.0, 3.0, 3.0), inf),
    ],
)
def test_turns_that_are_lost_at_the_same_age_are_a_pattern(ages: tuple[float, ...], limit: float) -> None:
    """Three in a row; a link that comes and goes closes connections at any age."""
    known, now = lost(*ages)
    assert known.best_before(now) == pytest.approx(limit, abs=0.03)


def test_connections_that_are_lost_together_are_one_loss() -> None:
    """Several agents may have opened theirs together, and a change of network takes them all."""
    known = Lifespan()
    for now in (130.0, 130.0, 130.1, 130.2):
        known.lost(30, now, turn=1)
    assert known.best_before(131) == inf


@pytest.mark.parametrize(("turn", "limit"), [(30.0, inf), (28.6, inf), (28.4, 28.5)])
def test_a_turn_that_began_with_its_connection_says_nothing(turn: float, limit: float) -> None:
    """Something may end every turn, or every silence, that lasts so long: short ones go on for hours there."""
    known = Lifespan()
    for now in (130.0, 160.0, 190.0):
        known.lost(30, now, turn=turn)
    assert known.best_before(191) == limit


def test_what_the_next_turn_may_take_is_left_to_it() -> None:
    """As much as the longest of the latest turns; where that is more than half, a connection carries one turn."""
    known, now = lost(30, 30, 30)
    for took, limit in ((2.0, 26.5), (8.0, 20.5), (3.0, 20.5), (29.0, 15.0)):
        known.done(took, age=10)
        assert known.best_before(now) == limit
    for _ in range(8):
        known.done(1, age=10)
    assert known.best_before(now) == 27.5


def test_it_is_believed_for_an_hour_and_renewed_by_one_loss() -> None:
    """The limit may belong to a network that was left."""
    known, now = lost(30, 30, 30)
    now += BELIEVED_SECONDS
    assert known.best_before(now - 1) == 28.5
    assert known.best_before(now) == inf
    known.lost(30, now + 30, turn=1)
    assert known.best_before(now + 30) == 28.5


def test_a_connection_that_lives_longer_ends_it() -> None:
    """Nothing closed it there."""
    known, now = lost(30, 30, 30)
    known.done(1, age=31)
    assert known.best_before(now) < inf
    known.done(1, age=32)
    assert known.best_before(now) == inf
