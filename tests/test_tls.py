"""Upstream over TLS: deltas over wss where the certificate is right, and not a byte where it is not."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import pytest
import trustme
from certificates import serving, trusting
from pooling import KEY as HEADERS
from pooling import TIMING

from proxy.config import Config
from proxy.ledger import Traffic
from proxy.server import Server
from proxy.simulator import Simulator, SimulatorSettings, echo_script
from proxy.upstream.connection import Connection
from proxy.upstream.endpoint import Endpoint
from proxy.upstream.meter import Meter

KEY = ("Authorization", "Bearer key")


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """Make a certificate authority."""
    return trustme.CA()


Start = Callable[..., Awaitable[tuple[Server, Simulator]]]


@pytest.fixture
def secured(stack: AsyncExitStack, authority: trustme.CA) -> Start:
    """Start a simulator with a certificate for *name*, and a proxy that trusts *trusted*."""

    async def start(
        name: str = "127.0.0.1", *, trusted: trustme.CA | None = authority, **settings: Any
    ) -> tuple[Server, Simulator]:
        simulator = await stack.enter_async_context(
            Simulator(SimulatorSettings(**settings), script=echo_script, ssl=serving(authority.issue_cert(name)))
        )
        config = Config(port=0, upstream=simulator.base_url, drain_seconds=0.2)
        tls = trusting(trusted) if trusted is not None else None
        return await stack.enter_async_context(Server(config, tls=tls)), simulator

    return start


async def ask(server: Server, method: str, target: str, body: bytes = b"") -> tuple[int, bytes]:
    """Send one request; return its status and its body."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(server.url.rpartition(":")[2]))
    head = f"{method} {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{KEY[0]}: {KEY[1]}\r\n"
    writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    start, _, rest = (await reader.read()).partition(b"\r\n")
    writer.close()
    return int(start.split(b" ")[1]), rest.partition(b"\r\n\r\n")[2]


async def test_deltas_go_over_wss(secured: Start) -> None:
    """With the right authority a conversation runs over one encrypted WebSocket."""
    server, simulator = await secured()
    history: list[Any] = []
    for n in range(4):
        history.append({"role": "user", "content": f"question {n}"})
        status, body = await ask(
            server, "POST", "/v1/responses", orjson.dumps({"model": "m", "store": False, "input": history})
        )
        assert status == 200
        history += orjson.loads(body)["output"]
    assert [record.upload for record in server.ledger.turns(9)] == ["delta", "delta", "delta", "full"]
    assert [(turn.transport, len(turn.context)) for turn in simulator.turns] == [("ws", n) for n in (1, 3, 5, 7)]
    assert len(simulator.connections) == 1


async def test_http_goes_over_the_same_tls(secured: Start) -> None:
    """What passes through trusts the same authority."""
    server, simulator = await secured()
    status, body = await ask(server, "GET", "/v1/models")
    assert (status, orjson.loads(body)["object"]) == (200, "list")
    assert [request.path for request in simulator.requests] == ["/v1/models"]


async def test_counts_below_tls(secured: Start) -> None:
    """The figures are the bytes of HTTP and WebSocket, as the other side sees them beneath its TLS."""
    server, simulator = await secured()
    body = orjson.dumps({"model": "m", "store": False, "input": "x" * 5000})
    await ask(server, "POST", "/v1/responses", body)
    await ask(server, "GET", "/v1/models")
    assert server.ledger.upstream.sent == simulator.bytes_in
    assert server.ledger.upstream.received == simulator.bytes_out


YESTERDAY = datetime(2020, 1, 2, tzinfo=UTC)


@pytest.mark.parametrize("wrong", ["system authorities", "another authority", "another name", "expired"])
async def test_a_wrong_certificate_gets_nothing(stack: AsyncExitStack, authority: trustme.CA, wrong: str) -> None:
    """Neither transport says a word to an upstream it cannot verify, and the agent gets a 502."""
    met: list[bytes] = []

    async def meet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        met.append(await reader.read())
        writer.close()

    name = "api.example.test" if wrong == "another name" else "127.0.0.1"
    certificate = authority.issue_cert(name, not_after=YESTERDAY if wrong == "expired" else None)
    upstream = await asyncio.start_server(meet, "127.0.0.1", 0, ssl=serving(certificate))
    stack.callback(upstream.close)
    trusted = trustme.CA() if wrong == "another authority" else authority
    tls = None if wrong == "system authorities" else trusting(trusted)
    base = f"https://127.0.0.1:{upstream.sockets[0].getsockname()[1]}/v1"
    server = await stack.enter_async_context(Server(Config(port=0, upstream=base, drain_seconds=0.2), tls=tls))
    body = orjson.dumps({"model": "m", "store": False, "input": "secret words"})
    for method, target, sent in (
        ("POST", "/v1/responses", body),
        ("POST", "/v1/chat/completions", body),
        ("GET", "/v1/models", b""),
    ):
        status, answer = await ask(server, method, target, sent)
        assert status == 502
        assert orjson.loads(answer)["error"]["code"] == "upstream_unavailable"
    assert met == []
    assert server.ledger.upstream.sent == 0


async def test_the_users_own_authority_by_environment(
    secured: Start, authority: trustme.CA, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """SSL_CERT_FILE adds an authority for both transports, as it does for other programs."""
    file = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(file)
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    server, simulator = await secured(trusted=None)
    assert (await ask(server, "POST", "/v1/responses", b'{"model":"m","store":false,"input":"x"}'))[0] == 200
    assert (await ask(server, "GET", "/v1/models"))[0] == 200
    assert [turn.transport for turn in simulator.turns] == ["ws"]


async def test_one_lost_at_this_very_moment_can_be_looked_at(secured: Start, authority: trustme.CA) -> None:
    """Below TLS the socket goes a moment before the WebSocket is told: whoever looks just then has no defect."""
    _, simulator = await secured()
    endpoint = Endpoint(simulator.base_url, tls=trusting(authority))
    connection = await Connection.open(endpoint, HEADERS, Meter(Traffic()), TIMING, clock=time.monotonic)
    simulator.abort_connections()
    async with asyncio.timeout(10):
        while connection.is_open:
            assert not connection.look_whether_stuck()
            await asyncio.sleep(0)
