"""What stands in the way, told by both transports from what their libraries raise on real sockets."""

import asyncio
import errno
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import trustme
from certificates import serving, trusting
from conversation import Clock
from pooling import KEY, TIMING
from proxied import Peer, RawUpstream

from proxy.errors import Trouble, UpstreamUnavailable
from proxy.ledger import Traffic
from proxy.upstream.connection import Connection
from proxy.upstream.endpoint import Endpoint
from proxy.upstream.http import Http
from proxy.upstream.link import Link
from proxy.upstream.meter import Meter
from proxy.upstream.trouble import ADVICE, advice, is_page, is_portal, trouble_of

NOW = datetime.now(UTC)
CERTIFICATES: dict[str, tuple[dict[str, Any], Trouble]] = {
    "expired": ({"not_after": NOW - timedelta(days=1)}, Trouble.CLOCK),
    "not yet valid": (
        {"not_before": NOW + timedelta(days=1), "not_after": NOW + timedelta(days=9)},
        Trouble.CLOCK,
    ),
    "another name": ({"name": "portal.example"}, Trouble.CAPTIVE_PORTAL),
    "another address": ({"name": "127.0.0.2"}, Trouble.CAPTIVE_PORTAL),
    "unknown authority": ({"authority": trustme.CA()}, Trouble.UNTRUSTED),
}

both_transports = pytest.mark.parametrize("transport", ["websocket", "http"])


async def met(endpoint: Endpoint, transport: str) -> UpstreamUnavailable:
    """Return what *transport* raises towards *endpoint*."""
    with pytest.raises(UpstreamUnavailable) as caught:
        await over(endpoint, transport)
    return caught.value


async def over(endpoint: Endpoint, transport: str) -> None:
    """Ask for something."""
    if transport == "websocket":
        await Connection.open(endpoint, KEY, Meter(Traffic()), TIMING, clock=Clock())
        return
    async with (
        Http(endpoint, connect_timeout=5, traffic=Traffic()) as http,
        http.request("GET", "/models", KEY, None, Traffic()),
    ):
        return


@both_transports
@pytest.mark.parametrize("case", CERTIFICATES)
async def test_a_certificate_tells_what_is_wrong(stack: AsyncExitStack, transport: str, case: str) -> None:
    """A wrong clock, somebody else's name and an unknown authority are three things, with three ways out."""
    options, trouble = CERTIFICATES[case]
    authority = trustme.CA()
    options = {"name": "127.0.0.1", "authority": authority, **options}
    issuer, name = options.pop("authority"), options.pop("name")
    served = serving(issuer.issue_cert(name, **options))
    server = await asyncio.start_server(lambda _reader, writer: writer.close(), "127.0.0.1", 0, ssl=served)
    stack.callback(server.close)
    base = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    error = await met(Endpoint(base, trusting(authority)), transport)
    assert error.trouble is trouble
    assert str(error).endswith(ADVICE[trouble])


@both_transports
async def test_a_page_where_tls_should_be_is_a_portal(
    raw_upstream: Callable[..., Awaitable[RawUpstream]], transport: str
) -> None:
    """A network that answers port 443 in plain HTTP."""

    async def serve(peer: Peer) -> None:
        await peer.reader.read(1)
        await peer.send(b"HTTP/1.1 302 Found\r\nLocation: http://portal.example/\r\nContent-Length: 0\r\n\r\n")

    base = (await raw_upstream(serve)).base_url.replace("http://", "https://")
    assert (await met(Endpoint(base), transport)).trouble is Trouble.CAPTIVE_PORTAL


@both_transports
async def test_a_reset_and_garbage_are_no_verdict(
    raw_upstream: Callable[..., Awaitable[RawUpstream]], transport: str
) -> None:
    """They may be anything: unreachable."""

    async def reset(peer: Peer) -> None:
        await peer.head()
        peer.close()

    async def garbage(peer: Peer) -> None:
        await peer.head()
        await peer.send(b"\xff\xfe\x00garbage\r\n\r\n")

    for serve in (reset, garbage):
        error = await met(Endpoint((await raw_upstream(serve)).base_url), transport)
        assert error.trouble is Trouble.UNREACHABLE


@both_transports
async def test_a_name_that_nobody_knows_is_offline(transport: str) -> None:
    """No name server, or no network."""
    assert (await met(Endpoint("http://upstream.invalid/v1"), transport)).trouble is Trouble.OFFLINE


def test_no_route_is_offline() -> None:
    """Wherever in the chain of causes it stands."""
    outer = UpstreamUnavailable("x")
    outer.__cause__ = RuntimeError("y")
    outer.__cause__.__context__ = OSError(errno.ENETUNREACH, "no route")
    assert trouble_of(outer) is Trouble.OFFLINE
    assert advice(outer) == ADVICE[Trouble.OFFLINE]
    assert trouble_of(OSError(errno.ECONNREFUSED, "refused")) is Trouble.UNREACHABLE


def test_a_circle_of_causes_has_an_end() -> None:
    """Two exceptions that name each other are looked at once."""
    one, other = RuntimeError("a"), RuntimeError("b")
    one.__cause__, other.__cause__ = other, one
    assert trouble_of(one) is Trouble.UNREACHABLE


@pytest.mark.parametrize(
    ("status", "content_type", "verdict"),
    [
        (200, "application/json", False),
        (200, "text/event-stream; charset=utf-8", False),
        (200, "application/octet-stream", False),
        (200, "", None),
        (200, "text/plain", None),
        (201, " TEXT/plain", None),
        (200, "text/html; charset=utf-8", True),
        (200, "TEXT/HTML", True),
        (203, "application/xhtml+xml", True),
        (302, "text/html", True),
        (308, "", True),
        (304, "", False),
        (404, "text/html", False),
        (404, "", False),
        (502, "text/html", False),
    ],
)
def test_which_answers_are_pages(status: int, content_type: str, *, verdict: bool | None) -> None:
    """HTML that is no error, and redirects; text, or what has no type, tells by its body."""
    assert is_page(status, content_type) is verdict


@pytest.mark.parametrize(
    ("status", "page", "of_turn", "of_another"),
    [(200, False, False, False), (200, True, True, False), (302, True, True, False), (511, False, True, True)],
)
def test_which_answers_are_a_portals(status: int, *, page: bool, of_turn: bool, of_another: bool) -> None:
    """511, and in answer to a turn a page."""
    assert is_portal(status, is_page=page, is_turn=True) is of_turn
    assert is_portal(status, is_page=page, is_turn=False) is of_another


async def test_a_link_shows_its_state() -> None:
    """In its repr as in the figures."""
    link = Link(clock=Clock(), now=lambda: NOW)
    assert repr(link) == "<Link ok>"
    link.block(Trouble.OFFLINE, "check the network")
    assert repr(link) == "<Link offline>"
    since = NOW.isoformat(timespec="seconds")
    assert link.as_json() == {"state": "offline", "since": since, "detail": "check the network"}
    await link.look()  # only a portal stops anybody
