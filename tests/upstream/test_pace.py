"""How much of an upload may be under way, as plain numbers: links of any rate, seen through what they deliver."""

import pytest

from proxy.upstream.pace import FIRST_FLIGHT, Pace, least_fragment

LEAD = 2.0


def upload(size: int, rate: float, *, round_trip: float = 0.1, buffer: int = 0) -> tuple[float, int]:
    """Upload over a link of *rate* that takes *buffer* bytes at once; return the seconds, and the most queued."""
    pace, now, position, carried, most = Pace(0.0, size, lead=LEAD, round_trip=round_trip), 0.0, 0, 0.0, 0
    while carried < size:
        delivered = int(min(position, carried + buffer))
        pace.note(now, delivered)
        queued = position - delivered
        most = max(most, position - int(carried))
        fragment = pace.fragment(size - position, pace.allowance - queued)
        position += fragment
        if not fragment:
            step = pace.wait(pace.allowance - queued)
            now += step
            carried = min(position, carried + rate * step)
    return now, most


@pytest.mark.parametrize("rate", [1_000, 8_000, 25_000, 62_500, 1_000_000])
def test_a_link_is_kept_busy_and_its_queue_short(rate: float) -> None:
    """Whatever the rate: at least 95 % of it, and no more than the lead is queued, or what TCP sends at first."""
    size = int(min(rate * 60, 4_000_000))
    seconds, most = upload(size, rate)
    assert seconds < size / rate / 0.95 + 0.5
    assert most <= max(FIRST_FLIGHT, rate * (LEAD + 0.1) * 1.1)


def test_a_large_buffer_in_front_of_a_slow_link_is_not_taken_for_a_fast_one() -> None:
    """What it swallows at once allows for as much again, not for the whole message."""
    _, most = upload(4_000_000, 8_000, buffer=64_000)
    assert most < 2 * 64_000 + 3 * FIRST_FLIGHT


def test_a_long_link_is_filled() -> None:
    """What is on its way in any case comes on top of the lead: at first it doubles with each round trip."""
    pace = Pace(0.0, 1_000_000, lead=LEAD, round_trip=2.0)
    assert pace.allowance == FIRST_FLIGHT
    pace.note(2.0, FIRST_FLIGHT)
    assert pace.allowance == 2 * FIRST_FLIGHT
    pace.note(4.0, 3 * FIRST_FLIGHT)
    assert pace.allowance >= 3 * FIRST_FLIGHT


def test_a_link_that_slows_down_gets_less() -> None:
    """The rate is that of the last moments."""
    pace = Pace(0.0, 1_000_000, lead=LEAD, round_trip=0.1)
    for tenth in range(1, 101):
        pace.note(tenth / 10, tenth * 100_000)
    assert pace.rate == pytest.approx(1_000_000)
    for tenth in range(1, 21):
        pace.note(10 + tenth / 10, 10_000_000 + tenth * 100)
    assert pace.rate == pytest.approx(1_000)
    assert pace.allowance == FIRST_FLIGHT


def test_what_was_delivered_does_not_come_back() -> None:
    """A count that shrinks, as a kernel's may with retransmissions, is no negative rate."""
    pace = Pace(0.0, 1_000_000, lead=LEAD, round_trip=0.1)
    pace.note(1.0, 5_000)
    pace.note(2.0, 4_000)
    assert pace.rate >= 0


@pytest.mark.parametrize("size", [1, 20_000, 2_000_000, 16_000_000, 1_000_000_000])
def test_fragments_are_few(size: int) -> None:
    """At most a thousand, however slow the link: a server may refuse more than 4,096. There is room for one."""
    assert least_fragment(size) >= 2048
    assert least_fragment(size) * 1000 >= size
    pace = Pace(0.0, size, lead=LEAD, round_trip=0.1)
    assert pace.fragment(size, pace.allowance) > 0


def test_a_fragment_is_as_large_as_there_is_room_for() -> None:
    """Not less than is worth a frame, except at the end; and never so large that a pong waits for long."""
    pace = Pace(0.0, 1_000_000, lead=LEAD, round_trip=0.1)
    assert pace.fragment(100_000, 30_000) == 30_000
    assert pace.fragment(100_000, 2_047) == 0
    assert pace.fragment(100_000, -5) == 0
    assert pace.fragment(100, 2_000) == 100
    assert pace.fragment(10_000_000, 10_000_000) == 64 * 1024


def test_what_the_upgrade_proved_is_used_at_once() -> None:
    """A link that carried its few hundred bytes in a millisecond is not tried with a few at first."""
    near = Pace(0.0, 1_000_000, lead=LEAD, round_trip=0.001, proven=300_000)
    assert near.allowance == 600_000
    far = Pace(0.0, 1_000_000, lead=LEAD, round_trip=0.6, proven=500)
    assert far.allowance == FIRST_FLIGHT
