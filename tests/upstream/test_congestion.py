"""Congestion control: asked for on real sockets, and had where this system grants it."""

import asyncio
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pooling import KEY, TIMING
from structlog.testing import capture_logs

from proxy.config import Config
from proxy.ledger import Traffic
from proxy.server import Server
from proxy.simulator import Simulator, SimulatorSettings, echo_script
from proxy.upstream.congestion import control, is_granted
from proxy.upstream.connection import Connection
from proxy.upstream.endpoint import Endpoint
from proxy.upstream.http import Http
from proxy.upstream.meter import Meter

_ALLOWED = Path("/proc/sys/net/ipv4/tcp_allowed_congestion_control")
ALLOWED = _ALLOWED.read_text().split() if _ALLOWED.exists() else []
chosen = pytest.mark.skipif("reno" not in ALLOWED, reason="this system lets no program choose")


def in_use(sock: socket.socket) -> str:
    """Return what the kernel says of *sock*."""
    name: bytes = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16)
    return name.rstrip(b"\0").decode()


@chosen
def test_a_control_by_name() -> None:
    """What the system allows, a socket gets."""
    with socket.socket() as sock:
        assert control(sock, "reno")
        assert in_use(sock) == "reno"


@chosen
def test_auto_is_bbr_where_it_is_allowed() -> None:
    """Elsewhere the socket keeps what it has, and nothing fails."""
    with socket.socket() as sock:
        before = in_use(sock)
        assert control(sock, "auto") is ("bbr" in ALLOWED)
        assert in_use(sock) == ("bbr" if "bbr" in ALLOWED else before)


def test_without_a_name_nothing_is_asked_for() -> None:
    """The system's own is always granted."""
    assert is_granted("system")


@pytest.mark.parametrize("name", ["no-such-control", "a name that is too long for any kernel", "dürr"])
def test_an_unknown_control_is_refused_without_an_error(name: str) -> None:
    """On every system; the socket goes on with its own."""
    assert not is_granted(name)


@chosen
async def test_both_transports_have_it() -> None:
    """A WebSocket's TCP and plain HTTP's are what was asked for."""
    async with Simulator(SimulatorSettings()) as simulator:
        endpoint, clock = Endpoint(simulator.base_url), asyncio.get_running_loop().time
        timing = replace(TIMING, congestion="reno")
        connection = await Connection.open(endpoint, KEY, Meter(Traffic()), timing, clock=clock)
        assert in_use(connection._raw) == "reno"
        connection.abort()
        async with Http(endpoint, connect_timeout=5, traffic=Traffic(), congestion="reno") as http:
            async with http.request("GET", "/models", KEY, None, Traffic()) as answer:
                await answer.read()
            connector: Any = http._session.connector
            ((kept, _),) = next(iter(connector._conns.values()))
            assert in_use(kept.transport.get_extra_info("socket")) == "reno"


@pytest.mark.parametrize(("name", "warned"), [("system", False), ("auto", False), ("no-such-control", True)])
async def test_a_control_that_is_not_granted_is_told_at_the_start(name: str, *, warned: bool) -> None:
    """Once, by name, and the proxy runs; what is to be used only where it is there is missed in silence."""
    async with Simulator(SimulatorSettings(), script=echo_script) as simulator:
        config = Config(port=0, upstream=simulator.base_url, congestion=name)
        with capture_logs() as logs:
            async with Server(config):
                pass
        told = [each["congestion"] for each in logs if each["event"] == "congestion_not_granted"]
        assert told == ([name] if warned else [])
