"""A connection that plain HTTP requests go over, one after another: the library's own, as we have it."""

import asyncio
import math
import re
import socket
import ssl
from collections.abc import Callable
from contextvars import ContextVar
from functools import partial
from typing import Any, cast

import aiohttp
from aiohttp.client_proto import ResponseHandler

from proxy.ledger import Traffic
from proxy.upstream.endpoint import Endpoint
from proxy.upstream.liveness import Signs, has_moved, is_doubtful
from proxy.upstream.lookup import Resolver
from proxy.upstream.meter import Meter, MeteredTransport
from proxy.upstream.sendqueue import unsent

_KEPT_SECONDS = 5.0
"""How long an idle connection may be used again: as long as the official SDKs use theirs (undici: 4).

Nothing tells whether it is alive, and where a network has dropped it a turn waits there for all its time.
"""

_FRAMING = re.compile(rb"\r\n(?:content-length|transfer-encoding):", re.IGNORECASE)
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d+)[ \t]*(?=\r\n|\Z)", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding:[ \t]*chunked[ \t]*(?=\r\n|\Z)", re.IGNORECASE)

sending: ContextVar[Traffic | None] = ContextVar("sending", default=None)
"""The figures of the request that is being sent; a connection serves one request at a time."""


class HttpConnection(ResponseHandler):
    """The library's side of one connection, counting bytes for the request that is using it.

    *lag* tells how far the time of day is ahead of a clock that stops while the machine sleeps, in seconds.
    *ready* is called with the socket once there is one.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        total: Traffic,
        ready: Callable[[socket.socket], None],
        lag: Callable[[], float],
    ) -> None:
        super().__init__(loop=loop)
        self._meter = _ClaimingMeter(total)
        self._ready = ready
        self._lag = lag
        self._lag_when_heard = lag()
        self._earlier: object = None
        self.broken: aiohttp.StreamReader | None = None

    def set_response_params(self, **params: Any) -> None:
        """Take note that a request begins: the body that was received last is no answer to it."""
        self._earlier = self._payload
        super().set_response_params(**params)

    def close(self) -> None:
        """Close the connection; at once where what has not left is of a request that was given up.

        One that was answered goes on to leave: some upstreams answer first and read on.
        """
        body, transport = self._payload, self.transport
        is_answered = body is not None and body is not self._earlier and body.is_eof()
        if transport is not None and not is_answered and unsent(transport):
            cast("MeteredTransport", transport).drop()
        super().close()

    def is_connected(self) -> bool:
        """Whether the connection, which is idle, may be used again: a sleep or a new address may have ended it.

        Nor may it where more has arrived than was asked for: that would be read as the next request's answer.
        """
        if not super().is_connected() or self.transport is None or self.should_close:
            return False
        slept = self._lag() - self._lag_when_heard
        signs = Signs(slept=slept, moved=has_moved(self.transport.get_extra_info("socket")))
        return not is_doubtful(signs, ping_interval=math.inf)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Count what crosses *transport*, whose socket is there now."""
        self._ready(transport.get_extra_info("socket"))
        metered = MeteredTransport(cast("asyncio.Transport", transport), self._meter)
        super().connection_made(cast("asyncio.Transport", metered))

    def connection_lost(self, exc: BaseException | None) -> None:
        """Remember a body that was broken off: the library takes any end for that of one without a length."""
        if exc is not None and self._payload is not None and not self._payload.is_eof():
            self.broken = self._payload
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take *data*, and see that nobody waits for the rest of a body that cannot be read."""
        self._meter.received(len(data))
        self._lag_when_heard = self._lag()
        for piece in _pieces(data) if self._payload is None or self._payload.is_eof() else (data,):
            body = self._payload
            super().data_received(piece)
            if body is not None and not body.is_eof() and self.exception() is not None:
                # The library ends a connection on which it can read no further, and tells no reader of the body.
                body.set_exception(aiohttp.ClientPayloadError("what came is no HTTP"))


def _pieces(data: bytes) -> tuple[bytes, ...]:
    """Take the head of an answer apart from what follows it.

    Some upstreams send a body where there can be none (204, 304, HEAD), or more than their Content-Length. The
    library refuses that, and with it all that it was given at once.
    """
    head, end, rest = data.partition(b"\r\n\r\n")
    if end and len(set(_LENGTH.findall(head))) == 1 and len(_FRAMING.findall(head)) > 1:
        head = _told_once(head)
    return (head + end, rest) if rest else (head + end,)


def _told_once(head: bytes) -> bytes:
    """Leave the length of a body out of *head* where it is said again, or chunks say it.

    Some gateways pass on a Content-Length beside chunks of their own. Most clients go by the chunks, as the
    standard has it (RFC 9112, section 6.3), and take the same length twice for once; the library refuses either.
    """
    first, *more = _LENGTH.split(head)[::2]
    length = b"" if _CHUNKED.search(head) else b"\r\nContent-Length: " + _LENGTH.findall(head)[0]
    return first + length + b"".join(more)


class _ClaimingMeter(Meter):
    """Counts for the request whose task writes: the library writes in the context of the request."""

    def sent(self, count: int) -> None:
        turn = sending.get()
        if turn is not None:
            self.turn = turn
        super().sent(count)


def connector(
    endpoint: Endpoint,
    total: Traffic,
    ready: Callable[[socket.socket], None],
    lag: Callable[[], float],
    *,
    once: bool = False,
) -> aiohttp.TCPConnector:
    """Return what opens such connections to *endpoint* for the library, and keeps them unless they serve *once*.

    Bytes are counted into *total*, and for the request that is `sending`; for *ready* and *lag* see there.
    """
    made = aiohttp.TCPConnector(
        limit=0,
        force_close=once,
        keepalive_timeout=None if once else _KEPT_SECONDS,
        resolver=Resolver(),
        ssl=endpoint.ssl_context if endpoint.secure else cast("ssl.SSLContext", False),  # noqa: FBT003
        enable_cleanup_closed=False,
    )
    # The library has no public way to hand in a protocol; tests/upstream/test_http.py guards this one.
    cast("Any", made)._factory = partial(  # noqa: SLF001
        HttpConnection, loop=asyncio.get_running_loop(), total=total, ready=ready, lag=lag
    )
    return made
