"""Upstream over plain HTTP: what is sent is what was given, and every byte is counted for whom it was sent."""

import asyncio
import base64
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
import trustme
from aiohttp import http_writer
from certificates import serving, trusting
from link import Link, Ways
from openai import AsyncOpenAI
from way import Way

from proxy.errors import BadConfiguration, UpstreamUnavailable
from proxy.ledger import Traffic
from proxy.simulator import Simulator
from proxy.upstream import http as http_module
from proxy.upstream import httpconnection
from proxy.upstream.answer import chunks
from proxy.upstream.endpoint import Endpoint
from proxy.upstream.http import Http

MEBIBYTE = 1024 * 1024
Start = Callable[..., Awaitable[Http]]


@pytest.fixture
def http(stack: AsyncExitStack) -> Start:
    """Start a client towards a base URL."""

    async def start(
        base: str, traffic: Traffic | None = None, *, connect_timeout: float = 5, **options: Any
    ) -> Http:
        endpoint = Endpoint(base)
        return await stack.enter_async_context(
            Http(endpoint, connect_timeout=connect_timeout, traffic=traffic or Traffic(), **options)
        )

    return start


class Counted:
    """An upstream that counts the bytes of each connection by itself, and answers *size* bytes to each request."""

    def __init__(self, size: int = 2) -> None:
        self.size = size
        self.received: list[int] = []
        self.sent: list[int] = []
        self.messages: list[Any] = []

    async def __call__(self, peer: Any) -> None:
        """Serve one connection."""
        at = len(self.received)
        self.received.append(0)
        self.sent.append(0)
        feed = peer.reader.feed_data

        def count(data: bytes) -> None:
            self.received[at] += len(data)
            feed(data)

        # What arrived before this ran is in the reader's buffer already.
        self.received[at] += len(peer.reader._buffer)
        peer.reader.feed_data = count
        while True:
            self.messages.append(await peer.message())
            answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % self.size + b"x" * self.size
            self.sent[at] += len(answer)
            await peer.send(answer)


async def ask(http: Http, path: str = "/models", *, body: Any = None, headers: Any = ()) -> tuple[bytes, Traffic]:
    """Send one request; return the body of its answer, and its bytes."""
    traffic = Traffic()
    method = "GET" if body is None else "POST"
    async with http.request(method, path, tuple(headers), body, traffic) as response:
        return b"".join([chunk async for chunk in chunks(response)]), traffic


async def pieces_of(body: bytes) -> AsyncIterator[bytes]:
    """Yield *body* as an agent's upload."""
    for at in range(0, len(body), 50_000):
        yield body[at : at + 50_000]


@pytest.mark.parametrize("size", [0, 5, 3 * MEBIBYTE])
@pytest.mark.parametrize("streamed", [False, True])
async def test_counts_what_crosses_the_socket(
    raw_upstream: Any, http: Start, size: int, *, streamed: bool
) -> None:
    """Heads, bodies and chunks: a request's figures and the totals are the socket's own."""
    upstream, total = Counted(size), Traffic()
    client = await http((await raw_upstream(upstream)).base_url, total)
    body = bytes(size)
    _, traffic = await ask(client, body=pieces_of(body) if streamed else body)
    assert upstream.messages[0].body == body
    assert (total.sent, total.received) == (upstream.received[0], upstream.sent[0])
    assert traffic == total


@pytest.mark.parametrize("at_once", [False, True])
async def test_each_request_is_counted_for_itself(
    raw_upstream: Any, http: Start, monkeypatch: pytest.MonkeyPatch, *, at_once: bool
) -> None:
    """On one connection that several requests use in turn, each has its own bytes, and they add up.

    The library writes a head and a body *at_once* where Python does that well, which 3.11 does not.
    """
    monkeypatch.setattr(http_writer, "SKIP_WRITELINES", not at_once)
    upstream, total = Counted(), Traffic()
    client = await http((await raw_upstream(upstream)).base_url, total)
    figures = [(await ask(client, body=bytes(size)))[1] for size in (10, 2000, 300_000)]
    assert len(upstream.received) == 1
    assert sum(traffic.sent for traffic in figures) == total.sent == upstream.received[0]
    assert sum(traffic.received for traffic in figures) == total.received == upstream.sent[0]
    assert figures[1].sent - figures[0].sent == 1990 + len("2000") - len("10")


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_handshake_that_hangs_is_begun_anew(
    stack: AsyncExitStack, monkeypatch: pytest.MonkeyPatch, *, streamed: bool
) -> None:
    """Agents by themselves do so too, and nothing of the request has left by then."""
    monkeypatch.setattr(http_module, "_FIRST_TRY_SECONDS", 0.3)
    authority = trustme.CA()
    tls = serving(authority.issue_cert("127.0.0.1"))
    simulator = await stack.enter_async_context(Simulator(ssl=tls))
    link = await stack.enter_async_context(Link(("127.0.0.1", simulator.port)))
    link.planned.append(Ways(down=Way(limit=0, ending="silence")))
    endpoint = Endpoint(link.base_url.replace("http:", "https:"), trusting(authority))
    client = await stack.enter_async_context(Http(endpoint, connect_timeout=20, traffic=Traffic()))
    body = b'{"model": "m", "input": "hello"}'
    headers = [("Authorization", "Bearer key"), ("Content-Type", "application/json")]
    async with asyncio.timeout(5):
        await ask(client, "/responses", body=pieces_of(body) if streamed else body, headers=headers)
    assert link.connections_ever == 2
    assert [turn.status for turn in simulator.turns] == ["completed"]


async def test_a_connection_that_slept_is_not_used_again(raw_upstream: Any, http: Start) -> None:
    """It may be gone without a sign of it, and nothing would answer there."""
    upstream, slept = Counted(), [0.0]
    client = await http((await raw_upstream(upstream)).base_url, lag=lambda: slept[0])
    await ask(client)
    slept[0] += 1  # a clock that was set right
    await ask(client)
    assert len(upstream.received) == 1
    slept[0] += 3600
    await ask(client)
    await ask(client)
    assert len(upstream.received) == 2


async def test_a_connection_from_another_address_is_not_used_again(
    raw_upstream: Any, http: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is sent from an address that this machine had before comes back to nobody."""
    upstream = Counted()
    client = await http((await raw_upstream(upstream)).base_url)
    await ask(client)
    monkeypatch.setattr(httpconnection, "has_moved", lambda _: True)
    await ask(client)
    assert len(upstream.received) == 2


async def test_a_connection_that_was_idle_is_used_again_no_later_than_agents_would(
    raw_upstream: Any, http: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network that dropped it does not say so: who had spoken to upstream directly had opened another."""
    sdk: Any = AsyncOpenAI(api_key="key")._client
    assert sdk._transport._pool._keepalive_expiry >= httpconnection._KEPT_SECONDS
    monkeypatch.setattr(httpconnection, "_KEPT_SECONDS", 0.05)
    upstream = Counted()
    client = await http((await raw_upstream(upstream)).base_url)
    await ask(client)
    await asyncio.sleep(0.1)
    await ask(client)
    assert len(upstream.received) == 2


async def test_simultaneous_requests_are_not_mixed(raw_upstream: Any, http: Start) -> None:
    """Requests that run at once are counted apart, on connections of their own."""
    upstream, total = Counted(100_000), Traffic()
    client = await http((await raw_upstream(upstream)).base_url, total)
    sizes = [1000 * n for n in range(8)]
    answers = await asyncio.gather(*[ask(client, body=pieces_of(bytes(size))) for size in sizes])
    figures = [traffic for _, traffic in answers]
    assert sorted(traffic.sent for traffic in figures) == sorted(upstream.received)
    assert [traffic.sent for traffic in figures] == sorted(traffic.sent for traffic in figures)
    assert total.sent == sum(upstream.received)


async def test_adds_no_headers_of_its_own(raw_upstream: Any, http: Start) -> None:
    """But for Host and the framing, upstream gets the headers that were given and no others."""
    upstream = Counted()
    client = await http((await raw_upstream(upstream)).base_url)
    await ask(client)
    await ask(client, body=b"{}", headers=[("X-A", "1")])
    first, second = upstream.messages
    assert [name for name, _ in first.headers] == ["Host"]
    assert sorted(name for name, _ in second.headers) == ["Content-Length", "Host", "X-A"]


async def test_an_answer_takes_as_long_as_it_takes(http: Start) -> None:
    """The library has a limit of its own, which ends a request after five minutes."""
    limits = (await http("http://127.0.0.1:9/v1"))._session.timeout
    assert (limits.total, limits.sock_read) == (None, None)


async def test_a_long_header_is_no_obstacle(raw_upstream: Any, http: Start) -> None:
    """Upstream may answer with tokens of tens of kilobytes."""

    async def serve(peer: Any) -> None:
        await peer.message()
        await peer.send(b"HTTP/1.1 200 OK\r\nX-Token: %b\r\nContent-Length: 2\r\n\r\nok" % (b"x" * 60_000))

    assert (await ask(await http((await raw_upstream(serve)).base_url)))[0] == b"ok"


async def test_many_headers_are_no_obstacle(raw_upstream: Any, http: Start) -> None:
    """The library has a limit of its own, 128."""

    async def serve(peer: Any) -> None:
        await peer.message()
        await peer.send(b"HTTP/1.1 200 OK\r\n" + b"X-A: a\r\n" * 900 + b"Content-Length: 2\r\n\r\nok")

    assert (await ask(await http((await raw_upstream(serve)).base_url)))[0] == b"ok"


async def test_keeps_no_cookies(raw_upstream: Any, http: Start) -> None:
    """What upstream sets for one agent never goes out with another's request."""
    seen = []

    async def serve(peer: Any) -> None:
        while True:
            seen.append((await peer.message()).get("Cookie"))
            await peer.send(b"HTTP/1.1 200 OK\r\nSet-Cookie: a=1\r\nContent-Length: 0\r\n\r\n")

    base_url = (await raw_upstream(serve)).base_url
    client = await http(base_url.replace("127.0.0.1", "localhost"))  # no jar takes an address's cookies
    await ask(client)
    await ask(client)
    assert seen == ["", ""]


async def test_follows_no_redirect(raw_upstream: Any, http: Start) -> None:
    """A redirect is an answer like any other."""

    async def serve(peer: Any) -> None:
        await peer.message()
        await peer.send(b"HTTP/1.1 302 Found\r\nLocation: /v1/elsewhere\r\nContent-Length: 0\r\n\r\n")

    client = await http((await raw_upstream(serve)).base_url)
    async with client.request("GET", "/models", (), None, Traffic()) as response:
        assert (response.status, response.headers["Location"]) == (302, "/v1/elsewhere")


async def test_an_unread_answer_is_not_left_for_the_next(raw_upstream: Any, http: Start) -> None:
    """A connection whose answer was not read to its end is closed, and the next request gets another."""
    upstream = Counted(MEBIBYTE)
    client = await http((await raw_upstream(upstream)).base_url)
    async with client.request("GET", "/models", (), None, Traffic()):
        pass
    body, _ = await ask(client)
    assert len(body) == MEBIBYTE
    assert len(upstream.received) == 2


@pytest.mark.parametrize(
    ("method", "answer", "body"),
    [
        ("DELETE", b"HTTP/1.1 204 No Content\r\nContent-Length: 4\r\n\r\nnull", b""),
        ("DELETE", b"HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", b""),
        ("GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 2\r\n\r\n{}", b""),
        ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", b""),
        ("GET", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}\r\n}", b"{}"),
    ],
)
async def test_what_follows_an_answer_does_not_spoil_it(
    raw_upstream: Any, http: Start, method: str, answer: bytes, body: bytes
) -> None:
    """A body where there can be none, or more than its length, costs the connection and not the answer."""

    async def serve(peer: Any) -> None:
        await peer.message()
        await peer.send(answer)
        await peer.reader.read()

    client = await http((await raw_upstream(serve)).base_url)
    for _ in range(2):
        async with client.request(method, "/models", (), None, Traffic()) as response:
            assert response.status == int(answer[9:12])
            assert b"".join([chunk async for chunk in chunks(response)]) == body


async def test_an_answer_that_was_not_asked_for_is_nobodys(raw_upstream: Any, http: Start) -> None:
    """What arrives behind an answer is not given to whoever asks next."""
    seen = asyncio.Event()

    async def serve(peer: Any) -> None:
        await peer.message()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n")
        await seen.wait()
        await peer.send(b"own" + b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\nanother")
        await peer.reader.read()

    client = await http((await raw_upstream(serve)).base_url)
    for _ in range(2):
        async with client.request("GET", "/models", (), None, Traffic()) as response:
            seen.set()
            assert [chunk async for chunk in chunks(response)] == [b"own"]


def _refuse(listener: socket.socket) -> None:
    """Answer requests that come to *listener* with 413 when their head is there, and close, until it is closed."""
    with suppress(OSError):
        while True:
            peer, _ = listener.accept()
            with peer:
                peer.recv(64 * 1024)
                peer.sendall(b"HTTP/1.1 413 Too Large\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}")


async def test_a_refusal_in_the_middle_of_an_upload_is_read(http: Start) -> None:
    """What upstream said arrives, though it closes with the better part of the body unread.

    It runs beside this thread and may close between a look and a write, so that a few of many may be lost; most
    were, once.
    """
    listener = socket.create_server(("127.0.0.1", 0))
    upstream = asyncio.get_running_loop().run_in_executor(None, _refuse, listener)
    answers: list[bytes] = []
    try:
        client = await http(f"http://127.0.0.1:{listener.getsockname()[1]}/v1")
        for _ in range(40):
            with suppress(UpstreamUnavailable):
                async with client.request("POST", "/responses", (), bytes(MEBIBYTE), Traffic()) as response:
                    answers += [chunk async for chunk in chunks(response)]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        await upstream
    assert set(answers) == {b"{}"}
    assert len(answers) >= 30


async def test_says_when_nobody_listens(http: Start) -> None:
    """A refused connection is upstream's fault."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        client = await http(f"http://127.0.0.1:{closed.getsockname()[1]}/v1")
        with pytest.raises(UpstreamUnavailable, match="ClientConnectorError"):
            await ask(client)


async def test_gives_up_connecting(http: Start) -> None:
    """A connection that is neither accepted nor refused is waited for no longer than connect_timeout."""
    with socket.socket() as full, socket.socket() as first, socket.socket() as second:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for each in (first, second):  # they fill the queue of a listener that never accepts
            each.settimeout(0)
            each.connect_ex(full.getsockname())
        client = await http(f"http://127.0.0.1:{full.getsockname()[1]}/v1", connect_timeout=0.2)
        with pytest.raises(UpstreamUnavailable, match="Timeout"):
            await ask(client)


async def test_says_when_the_answer_breaks_off(raw_upstream: Any, http: Start) -> None:
    """Half a body raises, after what there was of it."""

    async def serve(peer: Any) -> None:
        await peer.message()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")

    client = await http((await raw_upstream(serve)).base_url)
    async with client.request("GET", "/models", (), None, Traffic()) as response:
        pieces = chunks(response)
        assert await anext(pieces) == b"half"
        with pytest.raises(UpstreamUnavailable, match="ClientPayloadError"):
            await anext(pieces)


# The environment's proxy, and nothing else of the environment's.


@pytest.fixture
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Begin with an environment that names no proxy."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    return monkeypatch


async def test_goes_through_the_environments_proxy(
    no_proxies: pytest.MonkeyPatch, raw_upstream: Any, http: Start
) -> None:
    """Where the environment names a proxy, a remote upstream is asked through it, with the proxy's password."""
    outbound = Counted()
    base = (await raw_upstream(outbound)).base_url.removesuffix("/v1")
    no_proxies.setenv("HTTP_PROXY", base.replace("://", "://user:pass@"))
    no_proxies.setenv("http_proxy", base.replace("://", "://user:pass@"))
    client = await http("http://api.example.test/v1")
    await ask(client, "/models?a=%2F", headers=[("Authorization", "Bearer key")])
    (request,) = outbound.messages
    assert request.target == "http://api.example.test/v1/models?a=%2F"
    assert request.get("Proxy-Authorization") == "Basic " + base64.b64encode(b"user:pass").decode()
    assert request.all("Authorization") == ["Bearer key"]


async def test_asks_this_machine_directly(no_proxies: pytest.MonkeyPatch, raw_upstream: Any, http: Start) -> None:
    """No proxy stands between us and an upstream on loopback, nor one that NO_PROXY names."""
    outbound, upstream = Counted(), Counted()
    no_proxies.setenv("http_proxy", (await raw_upstream(outbound)).base_url.removesuffix("/v1"))
    base = (await raw_upstream(upstream)).base_url
    await ask(await http(base))
    await ask(await http(base.replace("127.0.0.1", "localhost")))
    assert (len(upstream.messages), outbound.messages) == (2, [])
    no_proxies.setenv("no_proxy", "example.test")
    with pytest.raises(UpstreamUnavailable):
        await ask(await http("http://api.example.test/v1"))
    assert outbound.messages == []


@pytest.mark.parametrize("headers", [(), (("Authorization", "Bearer key"),)])
async def test_takes_no_credentials_from_netrc(
    no_proxies: pytest.MonkeyPatch, raw_upstream: Any, http: Start, tmp_path: Path, headers: Any
) -> None:
    """The agent's credentials are passed on, and no others: a ~/.netrc neither adds to them nor clashes."""
    netrc = tmp_path / "netrc"
    netrc.write_text("default login somebody password secret\n")
    netrc.chmod(0o600)
    no_proxies.setenv("NETRC", str(netrc))
    outbound = Counted()
    no_proxies.setenv("http_proxy", (await raw_upstream(outbound)).base_url.removesuffix("/v1"))
    await ask(await http("http://api.example.test/v1"), headers=headers)
    (request,) = outbound.messages
    assert request.all("Authorization") == [value for _, value in headers]


async def test_refuses_a_socks_proxy(no_proxies: pytest.MonkeyPatch, http: Start) -> None:
    """A proxy that neither transport speaks to is said at the start, not with the first request."""
    no_proxies.setenv("https_proxy", "socks5://127.0.0.1:1080")
    with pytest.raises(BadConfiguration, match="HTTPS_PROXY names a socks5 proxy"):
        await http("https://api.example.test/v1")
