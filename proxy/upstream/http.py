"""Upstream over plain HTTP: any path and method, streamed both ways, nothing changed on the way."""

import asyncio
import io
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any, Self, cast
from urllib.request import getproxies, proxy_bypass

import aiohttp
from aiohttp.client_proto import ResponseHandler
from yarl import URL

from proxy.errors import BadConfiguration, UpstreamUnavailable
from proxy.ledger import Traffic
from proxy.upstream.endpoint import Endpoint
from proxy.upstream.headers import Headers
from proxy.upstream.meter import Meter, MeteredTransport

_AUTOMATIC = ("User-Agent", "Accept", "Accept-Encoding", "Content-Type")
"""Headers the library would add by itself; the agent's own decide."""

_LINE_LIMIT = 64 * 1024

_turn: ContextVar[Traffic | None] = ContextVar("_turn", default=None)
"""The figures of the request that is being sent; a connection serves one request at a time."""


class _MeteredHandler(ResponseHandler):
    """The library's side of one connection, counting bytes for the request that is using it."""

    def __init__(self, loop: asyncio.AbstractEventLoop, total: Traffic) -> None:
        super().__init__(loop=loop)
        self._meter = Meter(total)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        metered = _ClaimingTransport(cast("asyncio.Transport", transport), self._meter)
        super().connection_made(cast("asyncio.Transport", metered))

    def data_received(self, data: bytes) -> None:
        self._meter.received(len(data))
        super().data_received(data)


class _ClaimingTransport(MeteredTransport):
    """Counts for the request whose task writes: the library writes in the context of the request."""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        turn = _turn.get()
        if turn is not None:
            self._meter.turn = turn
        super().write(data)


def _connector(endpoint: Endpoint, total: Traffic) -> aiohttp.TCPConnector:
    connector = aiohttp.TCPConnector(
        limit=0,
        ssl=endpoint.ssl_context if endpoint.secure else cast("ssl.SSLContext", False),  # noqa: FBT003
        enable_cleanup_closed=False,
    )
    # The library has no public way to hand in a protocol; tests/upstream/test_http.py guards this one.
    cast("Any", connector)._factory = partial(  # noqa: SLF001
        _MeteredHandler, loop=asyncio.get_running_loop(), total=total
    )
    return connector


def _outbound_proxy(endpoint: Endpoint) -> str | None:
    """Return the environment's proxy; the library, asked to look itself, would take logins from ~/.netrc too.

    Raises BadConfiguration for one that neither transport can use.
    """
    url = URL(endpoint.base)
    if endpoint.is_loopback or proxy_bypass(url.host or ""):
        return None
    proxy = getproxies().get(url.scheme)
    if proxy is not None and URL(proxy).scheme not in {"http", "https"}:
        raise BadConfiguration(
            f"{url.scheme.upper()}_PROXY names a {URL(proxy).scheme} proxy, and packlight speaks to HTTP proxies "
            "only: name one of those, or unset it"
        )
    return proxy


class Http:
    """Plain HTTP to *endpoint*. An async context manager.

    No total time limit: a model may think for as long as it likes, and the agent has a limit of its own.
    """

    def __init__(self, endpoint: Endpoint, *, connect_timeout: float, traffic: Traffic) -> None:
        self._endpoint = endpoint
        self._connect_timeout = connect_timeout
        self._traffic = traffic

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=_connector(self._endpoint, self._traffic),
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, connect=self._connect_timeout),
            proxy=_outbound_proxy(self._endpoint),
            skip_auto_headers=_AUTOMATIC,
            read_bufsize=_LINE_LIMIT,
            max_line_size=_LINE_LIMIT,
            max_field_size=_LINE_LIMIT,
        )
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._session.close()

    @asynccontextmanager
    async def request(
        self,
        method: str,
        path: str,
        headers: Headers,
        body: bytes | AsyncIterator[bytes] | None,
        traffic: Traffic,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send a request and yield the response, whose body is still to be read.

        *path* begins with `/` and goes upstream to the byte. *traffic* gets the bytes that cross the socket.
        Redirects are not followed. Raises UpstreamUnavailable.
        """
        token = _turn.set(traffic)
        # A file is written in pieces; bytes would all be handed to the transport at once.
        data = io.BytesIO(body) if isinstance(body, bytes) else body
        try:
            response = await self._session.request(
                method, self._endpoint.http(path), headers=headers, data=data, allow_redirects=False
            )
        except (aiohttp.ClientError, OSError) as exc:
            raise UpstreamUnavailable(f"upstream over HTTP: {type(exc).__name__}") from exc
        finally:
            _turn.reset(token)
        try:
            yield response
        finally:
            # What was not read to its end cannot be reused; a connection that was is already back in the pool.
            response.close()


async def chunks(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """Yield the body of *response* as it arrives. Raises UpstreamUnavailable where it breaks off."""
    try:
        async for chunk in response.content.iter_any():
            yield chunk
    except (aiohttp.ClientError, OSError) as exc:
        raise UpstreamUnavailable(f"upstream over HTTP: {type(exc).__name__}") from exc
