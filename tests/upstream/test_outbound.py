"""Which outbound proxy: one answer for both transports, and both go through it."""

import asyncio
import base64
import ssl
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import pytest
import trustme
from certificates import serving, trusting
from conversation import Clock
from pooling import KEY, TIMING
from proxied import KEY as BEARER
from proxied import Message, Peer, Proxied, RawUpstream
from yarl import URL

from proxy.errors import BadConfiguration, Trouble, UpstreamUnavailable
from proxy.ledger import Traffic
from proxy.simulator import Simulator, SimulatorSettings, echo_script
from proxy.upstream.connection import Connection
from proxy.upstream.endpoint import Endpoint
from proxy.upstream.http import Http
from proxy.upstream.meter import Meter
from proxy.upstream.outbound import is_excepted, outbound_proxy

SECURE = URL("https://api.example.test/v1")
PLAIN = URL("http://api.example.test:8080/v1")


def chosen(url: URL, environ: dict[str, str], system: dict[str, str] | None = None) -> str | None:
    """Return the proxy for *url*."""
    return outbound_proxy(
        url, environ, of_system=lambda: system or {}, bypasses=lambda host: host == "except.test"
    )


# The answer


@pytest.mark.parametrize(
    ("url", "environ", "proxy"),
    [
        (SECURE, {}, None),
        (SECURE, {"HTTPS_PROXY": "http://a:1"}, "http://a:1"),
        (SECURE, {"https_proxy": "http://a:1"}, "http://a:1"),
        (SECURE, {"https_proxy": "http://a:1", "HTTPS_PROXY": "http://b:2"}, "http://a:1"),
        (SECURE, {"HTTP_PROXY": "http://a:1"}, None),
        (SECURE, {"ALL_PROXY": "http://a:1"}, "http://a:1"),
        (SECURE, {"all_proxy": "http://a:1", "HTTPS_PROXY": "http://b:2"}, "http://b:2"),
        (PLAIN, {"HTTP_PROXY": "http://a:1", "HTTPS_PROXY": "http://b:2"}, "http://a:1"),
        (PLAIN, {"HTTPS_PROXY": "http://b:2"}, None),
        (PLAIN, {"ALL_PROXY": "https://a"}, "https://a"),
        (SECURE, {"HTTPS_PROXY": "a:1"}, "http://a:1"),
        (SECURE, {"HTTPS_PROXY": "http://a:1/"}, "http://a:1"),
        (SECURE, {"HTTPS_PROXY": " http://u:p%40@a:1 "}, "http://u:p%40@a:1"),
        (SECURE, {"HTTPS_PROXY": "http://u@a:1"}, "http://u:@a:1"),
        (SECURE, {"HTTPS_PROXY": "http://a:1", "NO_PROXY": "example.test"}, None),
        (SECURE, {"HTTPS_PROXY": "", "ALL_PROXY": "", "NO_PROXY": "*"}, None),
    ],
)
def test_the_environment_names_it(url: URL, environ: dict[str, str], proxy: str | None) -> None:
    """By upstream's scheme, else ALL_PROXY; lower case first; a user without a password gets an empty one."""
    assert chosen(url, environ) == proxy


def test_the_system_names_it_where_the_environment_names_none() -> None:
    """With the system's own exceptions; one variable in the environment is enough to leave the system out."""
    system = {"https": "http://system:1"}
    assert chosen(SECURE, {}, system) == "http://system:1"
    assert chosen(URL("https://except.test"), {}, system) is None
    assert chosen(SECURE, {"HTTP_PROXY": "http://a:1"}, system) is None


@pytest.mark.parametrize("value", ["socks5://a:1", "socks5h://u:secret@a:1", "socks4://a"])
def test_socks_is_refused(value: str) -> None:
    """The message names the variable and not the password."""
    with pytest.raises(BadConfiguration, match="ALL_PROXY names a socks") as caught:
        chosen(SECURE, {"ALL_PROXY": value})
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "value", ["ftp://u:secret@a:1", "http://u:secret@", "http://u:secret@a:99999", "http://["]
)
def test_what_is_no_proxy_is_refused(value: str) -> None:
    """At the start, and without the password."""
    with pytest.raises(BadConfiguration, match="HTTPS_PROXY is not") as caught:
        chosen(SECURE, {"HTTPS_PROXY": value})
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("exceptions", "host", "excepted"),
    [
        ("", "a.test", False),
        ("*", "a.test", True),
        ("a.test", "a.test", True),
        ("A.Test.", "a.test", True),
        ("a.test", "b.a.test", True),
        (".a.test", "b.a.test", True),
        (".a.test", "a.test", True),
        ("*.a.test", "b.a.test", True),
        ("a.test", "ba.test", False),
        ("x, y a.test", "a.test", True),
        ("a.test:443", "a.test", True),
        ("a.test:80", "a.test", False),
        ("10.0.0.0/8", "10.1.2.3", True),
        ("10.0.0.0/8", "11.1.2.3", False),
        ("10.1.2.3", "10.1.2.3", True),
        ("10.1.2.3:443", "10.1.2.3", True),
        ("fd00::/8", "fd00::1", True),
        ("[fd00::1]:443", "fd00::1", True),
        ("10.0.0.0/8", "a.test", False),
        (".", "a.test", False),
    ],
)
def test_exceptions(exceptions: str, host: str, *, excepted: bool) -> None:
    """Names with their subdomains, addresses, networks, ports."""
    assert is_excepted(host, 443, exceptions) is excepted


# Both transports go through it


@dataclass
class Tunnels:
    """A proxy that joins each CONNECT with *target*, or answers with *refusing*, and records what it was asked.

    It keeps at most so many tunnels *open*.
    """

    target: int
    refusing: bytes | None = None
    resets: bool = False
    most: int | None = None
    open: int = 0
    asked: list[Message] = field(default_factory=list)

    async def __call__(self, peer: Peer) -> None:
        """Serve one connection."""
        self.asked.append(await peer.head())
        if self.resets:
            peer.close()
            return
        if self.refusing is not None:
            head, _, page = self.refusing.partition(b"\r\n\r\n")
            await peer.send(head + b"\r\n\r\n")
            await peer.reader.read(1)
            await peer.send(page)
            return
        if self.open == self.most:
            await peer.send(b"HTTP/1.1 503 Too many tunnels\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            return
        reader, writer = await asyncio.open_connection("127.0.0.1", self.target)
        self.open += 1
        await peer.send(b"HTTP/1.1 200 Connection established\r\n\r\n")
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(_pump(peer.reader, writer))
                both.create_task(_pump(reader, peer.writer))
        finally:
            self.open -= 1
            writer.transport.abort()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.transport.abort()


@dataclass
class Outside:
    """An upstream with TLS that only the proxy reaches, and the proxy."""

    base: str
    tls: ssl.SSLContext
    simulator: Simulator
    tunnels: Tunnels
    proxy: str

    async def over(self, transport: str) -> None:
        """Ask upstream something over *transport*. Raises UpstreamUnavailable."""
        endpoint = Endpoint(self.base, self.tls)
        if transport == "websocket":
            connection = await Connection.open(endpoint, KEY, Meter(Traffic()), TIMING, clock=Clock())
            connection.abort()
            return
        async with (
            Http(endpoint, connect_timeout=5, traffic=Traffic()) as http,
            http.request("GET", "/models", KEY, None, Traffic()) as response,
        ):
            assert response.status == 200


@pytest.fixture
async def outside(
    stack: AsyncExitStack,
    raw_upstream: Callable[..., Awaitable[RawUpstream]],
    monkeypatch: pytest.MonkeyPatch,
) -> Outside:
    """Start an upstream with a certificate for a name that nobody can resolve, and a proxy that knows the way."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    authority = trustme.CA()
    served = serving(authority.issue_cert("upstream.invalid"))
    simulator = await stack.enter_async_context(Simulator(SimulatorSettings(), script=echo_script, ssl=served))
    tunnels = Tunnels(simulator.port)
    proxy = (await raw_upstream(tunnels)).base_url.removesuffix("/v1")
    return Outside("https://upstream.invalid/v1", trusting(authority), simulator, tunnels, proxy)


both_transports = pytest.mark.parametrize("transport", ["websocket", "http"])


@both_transports
@pytest.mark.parametrize("name", ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"])
async def test_both_transports_take_the_same_tunnel(
    outside: Outside, monkeypatch: pytest.MonkeyPatch, transport: str, name: str
) -> None:
    """The proxy is asked for a tunnel to upstream, with its own password, and sees nothing of the agent's."""
    monkeypatch.setenv(name, outside.proxy.replace("://", "://user:p%40ss@"))
    await outside.over(transport)
    (asked,) = outside.tunnels.asked
    assert asked.start == "CONNECT upstream.invalid:443 HTTP/1.1"
    assert asked.get("Proxy-Authorization") == "Basic " + base64.b64encode(b"user:p@ss").decode()
    assert asked.get("Authorization") == ""
    (request,) = outside.simulator.requests
    assert request.header("Proxy-Authorization") is None
    assert request.header("Authorization") == "Bearer key"


@both_transports
async def test_what_the_proxy_is_asked_is_counted(
    simulator: Simulator, raw_upstream: Any, monkeypatch: pytest.MonkeyPatch, transport: str
) -> None:
    """All that crosses the socket to the proxy is, and so the request for a tunnel and its answer."""
    crossed, traffic = Traffic(), Traffic()
    granted = b"HTTP/1.1 200 Connection established\r\n\r\n"

    async def pump(source: asyncio.StreamReader, target: asyncio.StreamWriter, name: str) -> None:
        while data := await source.read(65536):
            setattr(crossed, name, getattr(crossed, name) + len(data))
            target.write(data)
        target.transport.abort()

    async def serve(peer: Peer) -> None:
        head = await peer.reader.readuntil(b"\r\n\r\n")
        crossed.sent += len(head)
        reader, writer = await asyncio.open_connection("127.0.0.1", simulator.port)
        if head.startswith(b"CONNECT "):
            crossed.received += len(granted)
            await peer.send(granted)
        else:
            writer.write(head)
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(pump(peer.reader, writer, "sent"))
                both.create_task(pump(reader, peer.writer, "received"))
        finally:
            writer.transport.abort()

    proxy = (await raw_upstream(serve)).base_url.removesuffix("/v1")
    monkeypatch.setenv("HTTP_PROXY", proxy.replace("://", "://user:pass@"))
    endpoint = Endpoint("http://upstream.invalid/v1")
    if transport == "websocket":
        connection = await Connection.open(endpoint, KEY, Meter(traffic), TIMING, clock=Clock())
        connection.abort()
    else:
        async with (
            Http(endpoint, connect_timeout=5, traffic=traffic) as http,
            http.request("GET", "/models", KEY, None, Traffic()) as response,
        ):
            await response.read()
    assert (traffic.sent, traffic.received) == (crossed.sent, crossed.received)


@both_transports
async def test_neither_asks_a_proxy_that_is_excepted(
    outside: Outside, monkeypatch: pytest.MonkeyPatch, transport: str
) -> None:
    """NO_PROXY: the name is looked up here, in vain, and the proxy is not spoken to."""
    monkeypatch.setenv("ALL_PROXY", outside.proxy)
    monkeypatch.setenv("NO_PROXY", ".invalid")
    with pytest.raises(UpstreamUnavailable, match="offline") as caught:
        await outside.over(transport)
    assert caught.value.trouble is Trouble.OFFLINE
    assert outside.tunnels.asked == []


PAGE = b"<html>Sign in</html>"
ANSWERS: dict[str, tuple[bytes, Trouble, str]] = {
    "password wanted": (
        b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n",
        Trouble.OUTBOUND_PROXY,
        "wants a password",
    ),
    "refused": (b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n", Trouble.OUTBOUND_PROXY, "answered 403"),
    "a page": (
        b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n" + PAGE * 10,
        Trouble.CAPTIVE_PORTAL,
        "sign in",
    ),
}


@both_transports
@pytest.mark.parametrize("case", ANSWERS)
async def test_both_say_what_the_proxy_did(
    outside: Outside, monkeypatch: pytest.MonkeyPatch, transport: str, case: str
) -> None:
    """407, another refusal, or a page in place of a tunnel; the message has no password."""
    outside.tunnels.refusing, trouble, words = ANSWERS[case]
    monkeypatch.setenv("HTTPS_PROXY", outside.proxy.replace("://", "://user:hidden@"))
    with pytest.raises(UpstreamUnavailable, match=words) as caught:
        await outside.over(transport)
    assert caught.value.trouble is trouble
    assert "hidden" not in str(caught.value)
    assert outside.simulator.requests == []


@both_transports
async def test_a_password_is_wanted_for_plain_http_too(
    outside: Outside, monkeypatch: pytest.MonkeyPatch, transport: str
) -> None:
    """One transport asks for a tunnel, the other has its request forwarded: both say what the proxy wants."""
    outside.tunnels.refusing = ANSWERS["password wanted"][0] + b" "
    outside.base = "http://upstream.invalid/v1"
    monkeypatch.setenv("HTTP_PROXY", outside.proxy)
    with pytest.raises(UpstreamUnavailable, match="wants a password") as caught:
        await outside.over(transport)
    assert caught.value.trouble is Trouble.OUTBOUND_PROXY


@both_transports
async def test_both_say_that_the_proxy_hung_up(
    outside: Outside, monkeypatch: pytest.MonkeyPatch, transport: str
) -> None:
    """A proxy that resets the connection is unavailable, whatever for."""
    outside.tunnels.resets = True
    monkeypatch.setenv("HTTPS_PROXY", outside.proxy)
    with pytest.raises(UpstreamUnavailable) as caught:
        await outside.over(transport)
    assert caught.value.trouble in {Trouble.OUTBOUND_PROXY, Trouble.UNREACHABLE}


HEADERS = (BEARER, ("Content-Type", "application/json"))
STOP = {"model": "m", "messages": [{"role": "user", "content": "hello"}], "stop": "."}


@pytest.mark.parametrize(
    ("method", "target", "body"), [("GET", "models", None), ("POST", "chat/completions", STOP)]
)
async def test_a_conversation_at_rest_makes_room_for_a_request(
    outside: Outside,
    monkeypatch: pytest.MonkeyPatch,
    proxied: Callable[..., Awaitable[Proxied]],
    method: str,
    target: str,
    body: Any,
) -> None:
    """Where a proxy grants one tunnel, the one that a WebSocket has is missing to what goes over plain HTTP."""
    monkeypatch.setenv("HTTPS_PROXY", outside.proxy)
    outside.tunnels.most = 1
    run = await proxied(upstream=outside.base, tls=outside.tls)
    assert (await run.post({"model": "m", "input": "hello", "store": False})).status == 200
    assert outside.tunnels.open == len(outside.simulator.open_connections) == 1
    data = b"" if body is None else orjson.dumps(body)
    assert (await run.ask(method, f"/v1/{target}", *HEADERS, body=data)).status == 200
    assert not outside.simulator.open_connections
    assert (await run.figures())["connections"]["open"] == 0


async def test_a_turn_keeps_its_tunnel(
    outside: Outside, monkeypatch: pytest.MonkeyPatch, proxied: Callable[..., Awaitable[Proxied]]
) -> None:
    """Only what is at rest makes room: the request is refused, in the proxy's words."""
    monkeypatch.setenv("HTTPS_PROXY", outside.proxy)
    outside.tunnels.most = 1
    outside.simulator.settings.first_event_seconds = 0.5
    run = await proxied(upstream=outside.base, tls=outside.tls)
    turn = asyncio.get_running_loop().create_task(run.post({"model": "m", "input": "hello", "store": False}))
    await outside.simulator.until(lambda: bool(outside.simulator.turns))
    assert b"answered 503" in (await run.ask("GET", "/v1/models", *HEADERS)).body
    assert (await turn).status == 200


@both_transports
async def test_both_trust_ca_bundle_besides_the_system(
    outside: Outside, monkeypatch: pytest.MonkeyPatch, transport: str, tmp_path: Path, stack: AsyncExitStack
) -> None:
    """An authority that is named there is added to those that are known; another one is not believed."""
    del monkeypatch, outside
    ours, systems, other = trustme.CA(), trustme.CA(), trustme.CA()
    for authority, name in ((ours, "ours.pem"), (systems, "systems.pem")):
        authority.cert_pem.write_to_path(tmp_path / name)
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("SSL_CERT_FILE", str(tmp_path / "systems.pem"))
        for authority in (ours, systems, other):
            served = serving(authority.issue_cert("127.0.0.1"))
            simulator = await stack.enter_async_context(
                Simulator(SimulatorSettings(), script=echo_script, ssl=served)
            )
            endpoint = Endpoint(simulator.base_url, ca_bundle=str(tmp_path / "ours.pem"))
            there = Outside(simulator.base_url, endpoint.ssl_context, simulator, Tunnels(0), "")
            if authority is other:
                with pytest.raises(UpstreamUnavailable, match="ca_bundle or SSL_CERT_FILE") as caught:
                    await there.over(transport)
                assert caught.value.trouble is Trouble.UNTRUSTED
            else:
                await there.over(transport)


@pytest.mark.parametrize("content", [None, "no certificate"])
def test_a_ca_bundle_that_is_none_is_refused(tmp_path: Path, content: str | None) -> None:
    """The message names the setting and the file."""
    file = tmp_path / "ca.pem"
    if content is not None:
        file.write_text(content)
    with pytest.raises(BadConfiguration, match=r"ca_bundle: .*ca\.pem is not a file of PEM .*: name one"):
        Endpoint("https://api.example.test/v1", ca_bundle=str(file)).ssl_context  # noqa: B018
