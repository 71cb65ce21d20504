"""TCP's probes, as the kernel shows them on real sockets."""

import socket
import sys
from typing import Any

import pytest

from proxy.config import LARGEST
from proxy.upstream.awake import keep_awake

linux = pytest.mark.skipif(sys.platform != "linux", reason="other systems call these otherwise")


def asked_of(sock: Any) -> list[int]:
    """Return whether *sock* is probed, after how many seconds, in which pauses, and how often."""
    options = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
    return [
        sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE),
        *(sock.getsockopt(socket.IPPROTO_TCP, option) for option in options),
    ]


@linux
@pytest.mark.parametrize(
    ("every", "asked"),
    [
        (20.0, [1, 20, 20, 45]),
        (0.05, [1, 1, 1, 127]),
        (1800.0, [1, 1800, 1800, 1]),
        (1e15, [1, 32767, 32767, 1]),
    ],
)
def test_a_silent_connection_is_probed(every: float, asked: list[int]) -> None:
    """As often as was asked for, and for a quarter of an hour before it is given up."""
    with socket.socket() as sock:
        keep_awake(sock, every)
        assert asked_of(sock) == asked


def test_a_kernel_that_refuses_fails_nothing() -> None:
    """What cannot be had is done without."""
    sock = socket.socket()
    sock.close()
    keep_awake(sock, 20)


@linux
@pytest.mark.parametrize(("every", "asked"), [(7.0, [1, 7, 7, 127]), (LARGEST, [1, 32767, 32767, 1])])
async def test_plain_http_is_kept_awake(
    proxied: Any, raw_upstream: Any, monkeypatch: pytest.MonkeyPatch, every: float, asked: list[int]
) -> None:
    """The connection on which an answer is awaited, as often as WebSockets are pinged, or as the kernel can."""
    sockets: list[Any] = []

    def noted(sock: socket.socket, every: float) -> None:
        sockets.append(sock)
        keep_awake(sock, every)

    monkeypatch.setattr("proxy.upstream.http.keep_awake", noted)

    async def serve(peer: Any) -> None:
        await peer.message()
        sockets.append(asked_of(sockets[0]))
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")

    run = await proxied(upstream=(await raw_upstream(serve)).base_url, ping_interval=every)
    await run.ask("POST", "/v1/responses/compact", ("Authorization", "Bearer key"), body=b"{}")
    assert sockets[1] == asked
