"""Upstream over plain HTTP: any path and method, streamed both ways, nothing changed on the way."""

import asyncio
import io
import math
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from http import HTTPStatus
from typing import Any, Self, TypeAlias, cast

import aiohttp
from aiohttp.abc import AbstractStreamWriter

from proxy.errors import Trouble, UpstreamUnavailable
from proxy.ledger import Traffic
from proxy.upstream.answer import Answer
from proxy.upstream.awake import keep_awake
from proxy.upstream.congestion import SYSTEM, control
from proxy.upstream.encoding import Encoding, RequestEncoding
from proxy.upstream.endpoint import Endpoint
from proxy.upstream.headers import Headers
from proxy.upstream.httpconnection import connector, sending
from proxy.upstream.link import Link
from proxy.upstream.liveness import lag
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

_PIECE = 64 * 1024
"""Bytes that are written before what upstream says meanwhile is read."""

_FIRST_TRY_SECONDS = 5.0
"""How long TCP and TLS may take before they are begun anew: as long as the official SDK for Python gives them.

Where a flow was dropped in the middle of a handshake, it would hang for all of connect_timeout.
"""


MakeRoom: TypeAlias = Callable[[], Awaitable[bool]]
"""Closes a connection to upstream that nobody needs now, and tells whether there was one."""


async def no_room() -> bool:
    """Close nothing: this is `make_room` where there is nothing else."""
    return False


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
            connector=connector(self._endpoint, self._traffic, self._prepare, self._lag, once=once),
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
    ) -> AsyncIterator[Answer]:
        """Send a request and yield the response, whose body is still to be read.

        *path* begins with `/` and goes upstream to the byte. *traffic* gets the bytes that cross the socket.
        *again* is called if upstream refused the encoding that a turn's body was sent in, and it goes once more
        as it is.
        Redirects are not followed, and a network's sign-in page is no response to a turn. Raises
        UpstreamUnavailable.
        """
        endpoint = path.partition("?")[0]
        is_turn = method == "POST" and endpoint in _TURNS
        await self._link.look(is_turn=is_turn)
        encoding = self._encodings.get(endpoint) if is_turn else None
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
        token = sending.set(traffic)
        try:
            return await self._connected(partial(self._ask, method, path, headers, body))
        except (aiohttp.ClientError, OSError) as exc:
            if body is None or isinstance(body, bytes):  # what fails is not the agent's own upload
                self._link.block(trouble_of(exc), advice(exc))
            message = f"upstream over HTTP: {type(exc).__name__}; {advice(exc)}"
            raise UpstreamUnavailable(message, trouble=trouble_of(exc)) from exc
        finally:
            sending.reset(token)

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
        data = _Whole(io.BytesIO(body)) if isinstance(body, bytes) else body and _heedful(body)
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


class _Whole(aiohttp.BytesIOPayload):
    """A body that is all there. It goes in pieces too: bytes would all be handed to the transport at once."""

    async def write_with_length(self, writer: AbstractStreamWriter, content_length: int | None) -> None:
        """Write the body, *content_length* bytes of it at most."""
        self._value.seek(0)
        left = self.size if content_length is None else min(self.size, content_length)
        async for piece in _heedful(_pieces(self._value, left)):
            await writer.write(piece)


async def _pieces(file: io.BytesIO, left: int) -> AsyncIterator[bytes]:
    while piece := file.read(min(left, _PIECE)):
        left -= len(piece)
        yield piece


async def _encoded(
    encoding: RequestEncoding | None, headers: Headers, body: bytes | AsyncIterator[bytes] | None
) -> tuple[Encoding, bytes] | None:
    if encoding is None or not isinstance(body, bytes):
        return None
    if any(name.lower() == "content-encoding" for name, _ in headers):
        return None
    return await encoding.encode(body)
