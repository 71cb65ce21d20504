"""Upstream over plain HTTP: any path and method, streamed both ways, nothing changed on the way."""

import asyncio
import io
import math
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from contextvars import ContextVar
from functools import partial
from http import HTTPStatus
from typing import Any, Self, TypeAlias, cast

import aiohttp
from aiohttp.client_proto import ResponseHandler

from proxy.errors import Trouble, UpstreamTimeout, UpstreamUnavailable
from proxy.ledger import Traffic
from proxy.upstream.awake import keep_awake
from proxy.upstream.congestion import SYSTEM, control
from proxy.upstream.encoding import Encoding, RequestEncoding
from proxy.upstream.endpoint import Endpoint
from proxy.upstream.headers import Headers
from proxy.upstream.link import Link
from proxy.upstream.liveness import Signs, has_moved, is_doubtful, lag
from proxy.upstream.lookup import Resolver
from proxy.upstream.meter import Meter, MeteredTransport
from proxy.upstream.opening import Answer
from proxy.upstream.progress import Progress
from proxy.upstream.sendqueue import unsent
from proxy.upstream.trouble import ADVICE, LOGIN_WANTED, advice, is_portal, trouble_of

_AUTOMATIC = ("User-Agent", "Accept", "Accept-Encoding", "Content-Type")
"""Headers the library would add by itself; the agent's own decide."""

_LINE_LIMIT = 64 * 1024
_MOST_HEADERS = 1000

_TURNS = frozenset({"/responses", "/chat/completions", "/completions", "/messages"})
"""Paths whose answers are JSON or a stream of events, and never somewhere else."""

_OTHER_CODING = "upstream answered in a transfer coding that was not asked for"
_OWN_PAGE = (
    "upstream answered this turn with a redirect or a web page, though it is there: is its API base the right one?"
)

_UNSENT = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, aiohttp.ClientHttpProxyError)
"""What is raised where there is no connection, so that nothing of the request has left."""

_PROBE_TIMEOUT = 3.0

_ROUNDS = 2
"""Of the event loop: what arrived shows in the first, behind those who waited, and is read before the second."""

_FIRST_TRY_SECONDS = 5.0
"""How long TCP and TLS may take before they are begun anew: as long as the official SDK for Python gives them.

Where a flow was dropped in the middle of a handshake, it would hang for all of connect_timeout.
"""

_KEPT_SECONDS = 5.0
"""How long an idle connection may be used again: as long as the official SDKs use theirs (undici: 4).

Nothing tells whether it is alive, and where a network has dropped it a turn waits there for all its time.
"""

_turn: ContextVar[Traffic | None] = ContextVar("_turn", default=None)
"""The figures of the request that is being sent; a connection serves one request at a time."""


MakeRoom: TypeAlias = Callable[[], Awaitable[bool]]
"""Closes a connection to upstream that nobody needs now, and tells whether there was one."""


async def no_room() -> bool:
    """Close nothing: this is `make_room` where there is nothing else."""
    return False


class _MeteredHandler(ResponseHandler):
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
        self._ready(transport.get_extra_info("socket"))
        metered = MeteredTransport(cast("asyncio.Transport", transport), self._meter)
        super().connection_made(cast("asyncio.Transport", metered))

    def connection_lost(self, exc: BaseException | None) -> None:
        """Remember a body that was broken off: the library takes any end for that of one without a length."""
        if exc is not None and self._payload is not None and not self._payload.is_eof():
            self.broken = self._payload
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
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
    return (head + end, rest) if rest else (data,)


class _ClaimingMeter(Meter):
    """Counts for the request whose task writes: the library writes in the context of the request."""

    def sent(self, count: int) -> None:
        turn = _turn.get()
        if turn is not None:
            self.turn = turn
        super().sent(count)


def _connector(
    endpoint: Endpoint,
    total: Traffic,
    ready: Callable[[socket.socket], None],
    lag: Callable[[], float],
    *,
    once: bool = False,
) -> aiohttp.TCPConnector:
    connector = aiohttp.TCPConnector(
        limit=0,
        force_close=once,
        keepalive_timeout=None if once else _KEPT_SECONDS,
        resolver=Resolver(),
        ssl=endpoint.ssl_context if endpoint.secure else cast("ssl.SSLContext", False),  # noqa: FBT003
        enable_cleanup_closed=False,
    )
    # The library has no public way to hand in a protocol; tests/upstream/test_http.py guards this one.
    cast("Any", connector)._factory = partial(  # noqa: SLF001
        _MeteredHandler, loop=asyncio.get_running_loop(), total=total, ready=ready, lag=lag
    )
    return connector


class Http:
    """Plain HTTP to *endpoint*. An async context manager.

    No time limit but that of connecting: who asks knows how long an answer may take. `make_room` is called where
    an outbound proxy refuses a tunnel, since some grant a few and no more.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        connect_timeout: float,
        traffic: Traffic,
        link: Link | None = None,
        encodings: Mapping[str, Encoding] | None = None,
        congestion: str = SYSTEM,
        ping_interval: float = math.inf,
        lag: Callable[[], float] = lag,
    ) -> None:
        self._lag = lag
        self._ping_interval = ping_interval
        self._congestion = congestion
        self._encodings = {path: RequestEncoding(name) for path, name in (encodings or {}).items()}
        self._link = link or Link()
        self._endpoint = endpoint
        self._connect_timeout = connect_timeout
        self._traffic = traffic
        self.make_room: MakeRoom = no_room

    async def __aenter__(self) -> Self:
        timeout = aiohttp.ClientTimeout(total=None, connect=self._connect_timeout)
        self._session = self._new_session(timeout)
        self._link.probe_with(self._probe)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._link.close()
        await self._session.close()

    def _new_session(self, timeout: aiohttp.ClientTimeout, *, once: bool = False) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=_connector(self._endpoint, self._traffic, self._prepare, self._lag, once=once),
            response_class=Answer,
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=timeout,
            proxy=self._endpoint.outbound_proxy,
            skip_auto_headers=_AUTOMATIC,
            read_bufsize=_LINE_LIMIT,
            max_line_size=_LINE_LIMIT,
            max_field_size=_LINE_LIMIT,
            max_headers=_MOST_HEADERS,
        )

    def _prepare(self, sock: socket.socket) -> None:
        """Have *sock* as the settings want it."""
        control(sock, self._congestion)
        if math.isfinite(self._ping_interval):
            keep_awake(sock, self._ping_interval)

    async def _probe(self) -> bool:
        """Return whether upstream itself answers, on a new connection and without anybody's credentials.

        A page in answer proves nothing: it may be a sign-in page or upstream's own, so it changes nothing.
        """
        session = self._new_session(aiohttp.ClientTimeout(total=_PROBE_TIMEOUT), once=True)
        try:
            async with session, session.get(self._endpoint.http("/models"), allow_redirects=False) as response:
                answer = cast("Answer", response)
                is_page = await answer.is_page()
                self._judge(answer, is_page=is_page, is_turn=False)
                return not is_page
        except UpstreamUnavailable:
            return False
        except (aiohttp.ClientError, OSError) as exc:
            if trouble_of(exc) is not Trouble.UNREACHABLE:
                self._link.block(trouble_of(exc), advice(exc))
            return False

    def _judge(self, response: Answer, *, is_page: bool, is_turn: bool) -> None:
        """Take note of who answered. Raises UpstreamUnavailable for a sign-in page, or an outbound proxy.

        A page in answer to anything but a turn says nothing: some upstreams have pages there.
        """
        if response.status == 407 and self._endpoint.outbound_proxy is not None:
            # Over plain HTTP the proxy answers in upstream's place; a tunnel's refusal is an exception.
            self._link.block(Trouble.OUTBOUND_PROXY, LOGIN_WANTED)
            raise UpstreamUnavailable(LOGIN_WANTED, trouble=Trouble.OUTBOUND_PROXY)
        if is_portal(response.status, is_page=is_page, is_turn=is_turn):
            message = ADVICE[Trouble.CAPTIVE_PORTAL]
            self._link.block(Trouble.CAPTIVE_PORTAL, message)
            raise UpstreamUnavailable(message, trouble=Trouble.CAPTIVE_PORTAL)
        if not is_page:
            self._link.clear()

    @asynccontextmanager
    async def request(
        self,
        method: str,
        path: str,
        headers: Headers,
        body: bytes | AsyncIterator[bytes] | None,
        traffic: Traffic,
        *,
        again: Callable[[], None] = lambda: None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send a request and yield the response, whose body is still to be read.

        *path* begins with `/` and goes upstream to the byte. *traffic* gets the bytes that cross the socket.
        *again* is called if upstream refused the encoding that a turn's body was sent in, and it goes once more
        as it is.
        Redirects are not followed, and a network's sign-in page is no response to a turn. Raises
        UpstreamUnavailable.
        """
        is_turn = method == "POST" and path.partition("?")[0] in _TURNS
        await self._link.look(is_turn=is_turn)
        encoding = self._encodings.get(path.partition("?")[0]) if is_turn else None
        encoded = await _encoded(encoding, headers, body)
        send = partial(self._send, method, path, traffic)
        if encoding is None or encoded is None:
            response = await send(headers, body)
        else:
            response = await self._in_either_form(encoding, send, headers, encoded, body, again)
        try:
            if response.headers.get("Transfer-Encoding", "chunked").strip().lower() not in {"chunked", "identity"}:
                raise UpstreamUnavailable(_OTHER_CODING)  # the library takes off the chunks, and nothing else
            is_page = await response.is_page(looking=is_turn)
            if is_turn and is_page and await self._link.is_open_after_all():
                raise UpstreamUnavailable(_OWN_PAGE)  # no reason to keep others from upstream
            self._judge(response, is_page=is_page, is_turn=is_turn)
            yield response
        finally:
            # What was not read to its end cannot be reused; a connection that was is already back in the pool.
            response.close()

    async def _in_either_form(
        self,
        encoding: RequestEncoding,
        send: Callable[[Headers, Any], Awaitable[Answer]],
        headers: Headers,
        encoded: tuple[Encoding, bytes],
        body: Any,
        again: Callable[[], None],
    ) -> Answer:
        """Send a turn's body *encoded*, and then as it is where upstream may have refused that."""
        name, data = encoded
        rest = tuple(each for each in headers if each[0].lower() != "content-length")
        try:
            response = await send((*rest, ("Content-Encoding", name)), data)
        except UpstreamUnavailable as exc:
            if not isinstance(exc.__cause__, _UNSENT):
                encoding.broke()
            raise
        status = response.status
        if is_portal(status, is_page=await response.is_page(), is_turn=True):
            return response  # not upstream's: it says nothing about what upstream takes
        if not encoding.doubts(status):
            return response
        response.close()
        again()
        response = await send(headers, body)
        encoding.resolve(status, response.status)
        return response

    async def _send(
        self,
        method: str,
        path: str,
        traffic: Traffic,
        headers: Headers,
        body: bytes | AsyncIterator[bytes] | None,
    ) -> Answer:
        token = _turn.set(traffic)
        try:
            return await self._connected(partial(self._ask, method, path, headers, body))
        except (aiohttp.ClientError, OSError) as exc:
            if body is None or isinstance(body, bytes):  # what fails is not the agent's own upload
                self._link.block(trouble_of(exc), advice(exc))
            message = f"upstream over HTTP: {type(exc).__name__}; {advice(exc)}"
            raise UpstreamUnavailable(message, trouble=trouble_of(exc)) from exc
        finally:
            _turn.reset(token)

    async def _connected(self, ask: Callable[..., Awaitable[Answer]]) -> Answer:
        """Ask, and once more where no connection came about: nothing has left then."""
        loop = asyncio.get_running_loop()
        until = loop.time() + self._connect_timeout
        try:
            return await ask(self._connect_timeout)
        except aiohttp.ConnectionTimeoutError:
            if (left := until - loop.time()) < _FIRST_TRY_SECONDS:
                raise
            return await ask(left, is_first=False)
        except aiohttp.ClientHttpProxyError as exc:
            if exc.status == HTTPStatus.PROXY_AUTHENTICATION_REQUIRED or not await self.make_room():
                raise
            return await ask(self._connect_timeout)

    async def _ask(
        self,
        method: str,
        path: str,
        headers: Headers,
        body: bytes | AsyncIterator[bytes] | None,
        connect: float,
        *,
        is_first: bool = True,
    ) -> Answer:
        """Send a request on a connection that is there, or opens within *connect* seconds; return its answer."""
        # A file is written in pieces; bytes would all be handed to the transport at once.
        data = io.BytesIO(body) if isinstance(body, bytes) else body and _heedful(body)
        hung = min(connect, _FIRST_TRY_SECONDS) if is_first else connect
        limits = aiohttp.ClientTimeout(total=None, connect=connect, sock_connect=hung)
        url = self._endpoint.http(path)
        response = await self._session.request(
            method, url, headers=headers, data=data, allow_redirects=False, timeout=limits
        )
        return cast("Answer", response)


async def _heedful(body: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Yield the pieces of *body*, each once what upstream said meanwhile has been read.

    Some refuse an upload and close in the middle of it. A write would then find the connection closed, and what is
    unread of the answer is discarded with it.
    """
    async for piece in body:
        for _ in range(_ROUNDS):
            await asyncio.sleep(0)
        yield piece


async def _encoded(
    encoding: RequestEncoding | None, headers: Headers, body: bytes | AsyncIterator[bytes] | None
) -> tuple[Encoding, bytes] | None:
    if encoding is None or not isinstance(body, bytes):
        return None
    if any(name.lower() == "content-encoding" for name, _ in headers):
        return None
    return await encoding.encode(body)


async def chunks(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """Yield the body of *response* as it arrives. Raises UpstreamUnavailable where it breaks off."""
    if isinstance(response, Answer) and response.opening:
        yield response.opening
    try:
        async for chunk in response.content.iter_any():
            yield chunk
    except (aiohttp.ClientError, OSError) as exc:
        raise UpstreamUnavailable(f"upstream over HTTP: {type(exc).__name__}") from exc
    if isinstance(response, Answer) and response.broke_off:
        raise UpstreamUnavailable("upstream over HTTP: the connection broke off")


async def in_time(
    chunks: AsyncIterator[bytes], *, first: float, later: float, sent: Callable[[], int]
) -> AsyncIterator[bytes]:
    """Yield *chunks* as they arrive, the *first* and each *later* one within so many seconds.

    Raises UpstreamTimeout. The time that whoever takes the chunks needs for them does not count, nor does that of
    an upload that goes on beside the first: *sent* says how far it is.
    """
    try:
        async with asyncio.timeout(first) as deadline:
            with Progress(deadline, first, sent):
                chunk = await anext(chunks, b"")
    except TimeoutError as exc:
        raise silence(first, "first_event_timeout") from exc
    while chunk:
        yield chunk
        try:
            async with asyncio.timeout(later):
                chunk = await anext(chunks, b"")
        except TimeoutError as exc:
            raise silence(later, "event_timeout") from exc


def silence(limit: float, name: str) -> UpstreamTimeout:
    """Return what is raised where nothing came for *limit* seconds, the setting *name*."""
    return UpstreamTimeout(f"upstream was silent for {limit:g} s over HTTP ({name})")
