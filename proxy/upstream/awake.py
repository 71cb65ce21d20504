"""TCP's own probes, so that middleboxes remember a plain HTTP connection that is silent while a model thinks.

A WebSocket has pings; HTTP has nothing to say until its answer comes. NATs forget what is silent for four to six
minutes, and then the answer goes nowhere. The agents' own HTTP libraries have such probes, and so would their
connections without us.
"""

import socket
from contextlib import suppress

from proxy.upstream.stubborn import GIVEN_UP_AFTER

_FEWEST, _MOST = 1, 127
"""Of seconds and of probes; Linux takes no more of the latter."""

_LONGEST = 32767
"""The longest silence, in seconds, that Linux takes."""


def keep_awake(sock: socket.socket, every: float) -> None:
    """Have *sock* probed in each silence of *every* seconds, for as long as `stubborn.outlast` has patience."""
    seconds = min(max(round(every), _FEWEST), _LONGEST)
    probes = min(max(round(GIVEN_UP_AFTER / seconds), _FEWEST), _MOST)
    with suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (
        ("TCP_KEEPIDLE", seconds),
        ("TCP_KEEPALIVE", seconds),  # the same, on macOS
        ("TCP_KEEPINTVL", seconds),
        ("TCP_KEEPCNT", probes),
    ):
        if hasattr(socket, name):
            with suppress(OSError):
                sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
