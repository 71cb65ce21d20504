"""TCP that keeps trying, as the kernel shows it on real sockets."""

import socket
import sys
from collections.abc import Iterator

import pytest

from proxy.upstream import stubborn
from proxy.upstream.stubborn import hurry, outlast


@pytest.fixture
def sock() -> Iterator[socket.socket]:
    """Return a TCP socket."""
    with socket.socket() as sock:
        yield sock


def longest_pause(sock: socket.socket) -> float:
    """Return the longest pause between attempts, in seconds; skip the test where the kernel has none to choose."""
    try:
        return sock.getsockopt(socket.IPPROTO_TCP, stubborn._RTO_MAX_MS) / 1000
    except OSError:
        pytest.skip("this kernel chooses itself")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can be told")
def test_the_kernel_is_patient(sock: socket.socket) -> None:
    """It gives a dark link up after a quarter of an hour, however often it tried."""
    outlast(sock)
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 15 * 60 * 1000


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can be told")
@pytest.mark.parametrize(("pause", "longest"), [(3.5, 3.5), (0.1, 1), (1000, 120), (None, 120)])
def test_pauses_are_short_while_somebody_is_in_a_hurry(
    sock: socket.socket, pause: float | None, longest: float
) -> None:
    """They are a second at the least, as a link that is merely slow is not helped by more, and then the usual."""
    longest_pause(sock)
    hurry(sock, 2)
    hurry(sock, pause)
    assert longest_pause(sock) == longest


def test_a_kernel_that_refuses_fails_nothing(sock: socket.socket) -> None:
    """What cannot be had is done without."""
    sock.close()
    outlast(sock)
    hurry(sock, 1)
