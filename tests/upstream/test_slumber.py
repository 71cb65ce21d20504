"""The silence after which something in between forgets a connection."""

from math import inf

import pytest

from proxy.upstream.slumber import BELIEVED_LONGEST, BELIEVED_SECONDS, Slumber


@pytest.mark.parametrize(("silences", "rhythm"), [((), inf), ((4.9,), inf), ((6,), 5), ((20,), 10), ((20, 12), 6)])
def test_connections_are_pinged_twice_in_the_shortest_silence_that_was_fatal(
    silences: tuple[float, ...], rhythm: float
) -> None:
    """Not more often than every five seconds: whatever forgets connections sooner is not kept awake by pings."""
    known, now = Slumber(), 1000.0
    for silence in silences:
        now += 100
        known.lost(silence, now)
    assert known.rhythm(now) == rhythm


def test_one_loss_is_believed_for_minutes_and_each_further_one_for_twice_as_long() -> None:
    """A handover may have been the only one; the bound is for a network that was left."""
    known, now, believed = Slumber(), 1000.0, BELIEVED_SECONDS
    for _ in range(2000):  # a day of handovers, each of which loses a connection
        known.lost(12, now)
        assert known.rhythm(now + believed - 1) == 6
        assert known.rhythm(now + believed) == inf
        now += believed
        believed = min(2 * believed, BELIEVED_LONGEST)


def test_what_was_believed_before_has_no_part_in_what_is_learned_anew() -> None:
    """It may have been another network."""
    known = Slumber()
    known.lost(6, 1000)
    known.lost(20, 1000 + BELIEVED_SECONDS)
    assert known.rhythm(1000 + BELIEVED_SECONDS) == 10


def test_connections_that_were_lost_together_are_one_loss() -> None:
    """Several agents pause at once, and what ends a link takes all of their connections."""
    known = Slumber()
    for now in (1000, 1005, 1011):
        known.lost(12, now)
    assert known.rhythm(1000 + BELIEVED_SECONDS) == inf


def test_a_connection_that_outlives_such_a_silence_ends_it() -> None:
    """A shorter one says nothing; and it counts from the beginning again."""
    known = Slumber()
    known.lost(12, 1000)
    known.survived(11.9)
    assert known.rhythm(1001) == 6
    known.survived(12)
    assert known.rhythm(1001) == inf
    known.lost(12, 1100)
    assert known.rhythm(1100 + BELIEVED_SECONDS) == inf
