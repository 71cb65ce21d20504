"""TCP that keeps trying on a dark link, where the kernel can be told so.

TCP doubles its pauses while nothing is acknowledged, and so stays stuck for most of an outage's length after the
end of it. While a connection is stuck the pauses are kept short; on a link that is merely slow they must not be.
"""

import socket
import sys
from contextlib import suppress

_RTO_MAX_MS = 44
"""Linux, from 6.15 on: TCP_RTO_MAX_MS, the longest pause (linux/tcp.h); Python does not name it."""

_LEAST, _USUAL = 1.0, 120.0
GIVEN_UP_AFTER = 900.0
"""Seconds without an acknowledgement until the kernel closes; its count of attempts would end far earlier."""


def outlast(sock: socket.socket) -> None:
    """Have *sock* give up for the time that passed, not for how often it tried."""
    if sys.platform == "linux":
        with suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(GIVEN_UP_AFTER * 1000))


def hurry(sock: socket.socket, pause: float | None) -> None:
    """Keep the pauses of *sock* to *pause* seconds; None leaves them to the kernel."""
    seconds = _USUAL if pause is None else min(max(pause, _LEAST), _USUAL)
    if sys.platform == "linux":
        with suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, _RTO_MAX_MS, int(seconds * 1000))
