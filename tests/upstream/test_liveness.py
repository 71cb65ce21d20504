"""What is made of the signs that a connection gives, and the signs that this machine gives."""

import socket

import pytest

from proxy.upstream.liveness import Signs, has_moved, is_doubtful, is_merely_silent, is_stuck, lag, patience


@pytest.mark.parametrize(
    ("signs", "doubtful"),
    [
        (Signs(), False),
        (Signs(silent=29), False),
        (Signs(silent=31), True),
        (Signs(owing=True), True),
        (Signs(slept=4), False),
        (Signs(slept=3600), True),
        (Signs(slept=-3600), False),
        (Signs(moved=True), True),
    ],
)
def test_an_idle_connection_is_trusted_for_as_long_as_nothing_speaks_against_it(
    signs: Signs, *, doubtful: bool
) -> None:
    """Silence that pings should have broken, bytes under way, a sleep, a new address: each needs a pong."""
    assert is_doubtful(signs, ping_interval=20) is doubtful


@pytest.mark.parametrize(
    ("signs", "stuck"),
    [
        (Signs(), False),
        (Signs(stuck=60), False),
        (Signs(owing=True, stuck=0.9), False),
        (Signs(owing=True, stuck=1.1), True),
        (Signs(owing=True, stuck=2.3, round_trip=0.6), False),
        (Signs(owing=True, stuck=2.5, round_trip=0.6), True),
        (Signs(owing=True, stuck=20, invested=30), False),
        (Signs(owing=True, stuck=31, invested=30), True),
        (Signs(moved=True), True),
    ],
)
def test_a_turn_is_stuck_when_nothing_of_it_is_acknowledged(signs: Signs, *, stuck: bool) -> None:
    """For a second or four round trips, and for as long as was put into its upload already."""
    assert is_stuck(signs, stuck_timeout=1) is stuck


@pytest.mark.parametrize(
    ("signs", "silent"),
    [
        (Signs(silent=31), True),
        (Signs(owing=True), False),
        (Signs(moved=True), False),
        (Signs(slept=4), True),
        (Signs(slept=3600), False),
    ],
)
def test_a_connection_may_be_forgotten_where_nothing_else_explains_its_silence(
    signs: Signs, *, silent: bool
) -> None:
    """Not the dark, a sleep or a new address: those say nothing of other silences."""
    assert is_merely_silent(signs) is silent


def test_patience_grows_with_the_link() -> None:
    """Four round trips, but never less than is asked for."""
    assert patience(0.0, 1.0) == 1.0
    assert patience(2.0, 1.0) == 8.0


def test_a_socket_whose_address_is_here_has_not_moved() -> None:
    """An address of this machine, of either IP version."""
    for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            try:
                sock.bind((host, 0))
            except OSError:
                continue  # without IPv6
            assert not has_moved(sock)


class Elsewhere(socket.socket):
    """A socket that speaks from an address of nobody's (RFC 5737)."""

    def getsockname(self) -> tuple[str, int]:
        """Return an address that is not this machine's."""
        return "192.0.2.1", 1


def test_a_socket_whose_address_is_gone_has_moved() -> None:
    """Nothing that is sent from there comes back."""
    with Elsewhere(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        assert has_moved(sock)


def test_a_socket_that_is_closed_has_not_moved() -> None:
    """There is nothing to be said of it."""
    sock = socket.socket()
    sock.close()
    assert not has_moved(sock)


def test_awake_the_clocks_go_alike() -> None:
    """What one is ahead of the other stays as it is."""
    assert abs(lag() - lag()) < 1
