"""The opening of a WebSocket: TCP, TLS and the upgrade, and the library's connection as we have it.

The library's exceptions of the opening end here: callers see `proxy.errors`.
"""

import asyncio
import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from time import get_clock_info
from typing import Any, cast

import orjson
from websockets.asyncio.client import ClientConnection, HTTPProxyConnection
from websockets.asyncio.client import connect as websocket_connect
from websockets.exceptions import InvalidHandshake, InvalidStatus, InvalidURI, WebSocketException
from websockets.frames import DATA_OPCODES, Frame, Opcode
from websockets.http11 import Response
from websockets.protocol import Event
from websockets.proxy import Proxy, parse_proxy

from proxy.errors import NoWebSocket, UpstreamError, UpstreamTimeout, UpstreamUnavailable
from proxy.upstream.congestion import SYSTEM, control
from proxy.upstream.deflate import Deflate, DeflateOffer
from proxy.upstream.endpoint import Endpoint
from proxy.upstream.frames import Frames
from proxy.upstream.headers import Headers, of_answer
from proxy.upstream.inbox import Inbox
from proxy.upstream.liveness import lag, patience
from proxy.upstream.meter import Meter, MeteredTransport
from proxy.upstream.sendqueue import unsent
from proxy.upstream.standby import Standby
from proxy.upstream.stubborn import outlast
from proxy.upstream.trouble import advice, trouble_of

_DEFINITE = frozenset({404, 405, 426, 501})
"""Statuses that say there is no WebSocket endpoint."""

_TOO_SLOW = 408
"""What a server says to a client that said nothing for long, and that may cross the client's first words."""

_LEAST_UPGRADE = 1.0
"""Seconds that an upgrade has at the least, however long TLS took."""

_PONGS = 8
"""The latest pongs, whose slowest tells how long the next one may take."""

_MOST_UNASKED = 1024 * 1024
"""Bytes of a message between turns, which is kept until its end has come. It is nobody's."""

_MOST_PINGS = 10_000
"""Pings, one after another, whose pongs may wait here because upstream does not read: some 1.3 MB."""

_CLOCK = max(0.0005, get_clock_info("monotonic").resolution)
"""Seconds below which no answer is believed to have come, or can be told: Windows' clock takes steps of 16 ms."""


@dataclass(frozen=True, slots=True)
class Timing:
    """How long a connection waits, in seconds, how large an event may be, in bytes, and how TCP takes losses."""

    link_timeout: float
    open_timeout: float
    send_timeout: float
    upload_lead: float
    close_timeout: float
    ping_interval: float
    probe_timeout: float
    stuck_timeout: float
    max_event_bytes: int
    max_unread_bytes: int
    congestion: str = SYSTEM


class Socket(ClientConnection):
    """The library's connection, counting bytes and telling when it is gone.

    What arrives is always read, whether or not a turn takes it: else pings would go unanswered. Once
    *max_unread* bytes of whole messages wait to be taken, the connection is closed; and so it is where upstream
    sends much that nobody asked for: between turns, or pings whose pongs it does not read.
    """

    def __init__(
        self,
        *args: Any,
        meter: Meter,
        gone: Callable[[], None],
        max_event: int,
        max_unread: int,
        congestion: str,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self._meter = meter
        self._gone = gone
        self._congestion = congestion
        self.inbox = Inbox(max_unread)
        self._frames = Frames(self.protocol, max_event)
        self._made_at = self.heard_at = self.loop.time()
        self.lag = lag()
        self._first_answer: float | None = None
        self.proven_rate = 0.0
        self.asked_at = math.inf
        self.answers_at_work = False
        self.pongs: deque[float] = deque(maxlen=_PONGS)
        self._pings_waiting = 0

    @property
    def deflate(self) -> Deflate | None:
        """What compresses our messages, if that was negotiated."""
        return next((each for each in self.protocol.extensions if isinstance(each, Deflate)), None)

    @property
    def round_trip(self) -> float:
        """The shortest time in seconds in which upstream was seen to answer: the upgrade, or a ping."""
        seen = [each for each in (self._first_answer, self.latency) if each]
        return min(seen, default=0.0)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Count what crosses *transport*, and have its TCP as we want it."""
        metered = MeteredTransport(cast("asyncio.Transport", transport), self._meter)
        super().connection_made(cast("asyncio.Transport", metered))
        self._made_at = self.loop.time()
        sock = transport.get_extra_info("socket")
        outlast(sock)
        control(sock, self._congestion)

    def data_received(self, data: bytes) -> None:
        """Take *data*: a message that comes alone goes the short way, everything else the library's."""
        self.heard_at, self.lag = self.loop.time(), lag()
        if self._first_answer is None:
            self._first_answer = self.heard_at - self._made_at
            self.proven_rate = self._meter.written / max(self._first_answer, _CLOCK)
        self._meter.received(len(data))
        message = self._frames.alone(data)
        if message is None:
            self._frames.follow(data)
            super().data_received(data)
            self._look_whether_unasked()
        elif not self.inbox.put_alone(message):
            self._look_whether_overrun()

    def process_event(self, event: Event) -> None:
        """Keep frames of messages; the rest is the library's."""
        if isinstance(event, Frame) and event.opcode in DATA_OPCODES:
            self.inbox.put(event)
            event.data = b""  # the library's parser holds the frame until the next one comes
            self._look_whether_overrun()
        else:
            is_answer = isinstance(event, Frame) and bytes(event.data) in self.pending_pings
            super().process_event(event)
            if is_answer:
                self._note_pong()
            elif isinstance(event, Frame) and event.opcode is Opcode.PING:
                self._note_ping()

    def _note_pong(self) -> None:
        """Take note of a pong, and whether it came in the middle of a turn.

        Some servers read nothing, pings either, before its end.
        """
        self.pongs.append(self.latency)
        if self.inbox.is_awaited and self.loop.time() - self.latency > self.asked_at:
            self.answers_at_work = True

    def _note_ping(self) -> None:
        """Take note that a pong was written; the library does not ask whether upstream takes them."""
        self._pings_waiting = self._pings_waiting + 1 if unsent(self.transport) else 0
        if self._pings_waiting > _MOST_PINGS:
            self.transport.abort()

    def rest(self) -> None:
        """Keep no message that comes until the inbox begins again."""
        self.inbox.rest()
        self._look_whether_unasked()

    def _look_whether_unasked(self) -> None:
        inbox = self.inbox
        if inbox.rests and inbox.unfinished + self._frames.left > _MOST_UNASKED:
            self.transport.abort()

    def _look_whether_overrun(self) -> None:
        if self.inbox.overrun:
            self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell whoever waits, and who opened it."""
        super().connection_lost(exc)
        self.inbox.close()
        self._gone()


class _Tunnel(HTTPProxyConnection):
    """The library's request for a tunnel through an outbound proxy, counting bytes."""

    def __init__(self, meter: Meter, *args: Any) -> None:
        super().__init__(*args)
        self._meter = meter

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        metered = MeteredTransport(cast("asyncio.Transport", transport), self._meter)
        super().connection_made(cast("asyncio.Transport", metered))

    def data_received(self, data: bytes) -> None:
        self._meter.received(len(data))
        super().data_received(data)


class _Upgrade(websocket_connect):
    """The library's opening handshake, on the transport *ready* where there is one.

    A tunnel is asked for here, since the library would not count it: into *meter*.
    Redirects are not followed: they would take the credentials along.
    """

    ready: asyncio.Transport | None = None

    def __init__(self, *args: Any, meter: Meter, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._meter = meter

    async def open_tcp_connection(self) -> ClientConnection:
        if self.ready is None and isinstance(self.proxy, str):
            self.ready = await self._through(parse_proxy(self.proxy))
        if self.ready is None:
            return await super().open_tcp_connection()
        connection = self.factory(self.ws_uri)
        self.ready.set_protocol(connection)
        connection.connection_made(self.ready)
        return connection

    async def _through(self, proxy: Proxy) -> asyncio.Transport:
        """Return a connection to upstream through *proxy*, TLS included."""
        loop = asyncio.get_running_loop()
        transport, tunnel = await loop.create_connection(
            lambda: _Tunnel(self._meter, self.ws_uri, proxy, self.user_agent_header),
            proxy.host,
            proxy.port,
            ssl=True if proxy.scheme == "https" else None,
        )
        try:
            await tunnel.response
            context = self.create_connection_kwargs.get("ssl")
            if context is None:
                return transport
            secured = await loop.start_tls(transport, tunnel, context, server_hostname=self.ws_uri.host)
        except BaseException:
            transport.abort()
            raise
        assert secured is not None  # noqa: S101  (it was not closed meanwhile)
        return secured

    def process_redirect(self, exc: Exception) -> Exception:
        return exc


async def upgrade(
    endpoint: Endpoint,
    headers: Headers,
    meter: Meter,
    timing: Timing,
    *,
    query: str,
    dialer: Standby | None,
    gone: Callable[[], None],
) -> Socket:
    """Open a WebSocket to *endpoint* with the agent's identity *headers*; *gone* is called when it closes.

    With *dialer*, a dark link is waited out for as long as link_timeout. The connection that it has ready, if any,
    is taken; should that turn out to be dead, another is opened.

    permessage-deflate is offered without `client_max_window_bits`: a server may then not shrink the window that
    our uploads are compressed with (RFC 7692, section 7.1.2.2).

    Raises UpstreamError where upstream refuses the agent's key, NoWebSocket where it has no WebSocket or none for
    now, Unreachable where nobody answers at all, and UpstreamUnavailable where it cannot be reached for another
    reason.
    """
    tls: dict[str, Any] = {"ssl": endpoint.ssl_context} if endpoint.secure else {}
    agent = next((value for name, value in headers if name.lower() == "user-agent"), None)
    opening = partial(
        _Upgrade,
        endpoint.websocket(query),
        additional_headers=[pair for pair in headers if pair[0].lower() != "user-agent"],
        user_agent_header=agent,
        compression=None,
        extensions=[DeflateOffer(client_max_window_bits=None)],
        meter=meter,
        proxy=endpoint.outbound_proxy,
        open_timeout=timing.open_timeout,
        ping_interval=timing.ping_interval,
        ping_timeout=None,  # a pong queues behind our own upload on a slow link
        close_timeout=timing.close_timeout,
        max_size=timing.max_event_bytes,
        max_queue=None,  # see max_unread
        create_connection=cast(
            "type[ClientConnection]",
            partial(
                Socket,
                meter=meter,
                gone=gone,
                max_event=timing.max_event_bytes,
                max_unread=timing.max_unread_bytes,
                congestion=timing.congestion,
            ),
        ),
        **tls,
    )
    try:
        socket = await _on_standby(opening, dialer, timing) if dialer is not None else None
        if socket is None:
            socket = await _on_new(opening, dialer, timing) if dialer is not None else await opening()
    except InvalidStatus as exc:
        raise _refusal(exc.response) from _alone(exc)
    except TimeoutError as exc:
        raise UpstreamTimeout("no WebSocket to upstream: it did not open in time (open_timeout)") from exc
    except (WebSocketException, InvalidURI, OSError, EOFError) as exc:
        message = f"no WebSocket to upstream: {_describe(exc)}; {advice(exc)}"
        raise UpstreamUnavailable(message, trouble=trouble_of(exc)) from _alone(exc)
    return cast("Socket", socket)


async def _on_standby(
    opening: Callable[..., _Upgrade], dialer: Standby, timing: Timing
) -> ClientConnection | None:
    """Open a WebSocket on the connection that *dialer* has ready; None where there is none, or it is dead.

    Raises InvalidStatus where upstream answers otherwise.
    """
    ready = await dialer.take()
    if ready is None:
        return None
    limit = patience(ready.handshake_seconds, timing.probe_timeout)
    begun = opening(open_timeout=min(timing.open_timeout, limit))
    begun.ready = ready.take()
    try:
        return await begun
    except (WebSocketException, OSError, EOFError) as exc:
        if isinstance(exc, InvalidStatus) and exc.response.status_code != _TOO_SLOW:
            raise
        _alone(exc)
        return None


async def _on_new(opening: Callable[..., _Upgrade], dialer: Standby, timing: Timing) -> ClientConnection:
    """Open a WebSocket on a connection that *dialer* opens now; open_timeout is for TLS and the upgrade."""
    if not dialer.is_secure:
        return await opening(sock=await dialer.dial(timing.link_timeout))
    ready = await dialer.secured(timing.link_timeout, timing.open_timeout, timing.probe_timeout)
    begun = opening(open_timeout=max(timing.open_timeout - ready.handshake_seconds, _LEAST_UPGRADE))
    begun.ready = ready.take()
    return await begun


def _alone(exc: Exception) -> Exception:
    """Take *exc* off the frames it came through: the library keeps it, in a circle that only the collector ends.

    With the frames, some versions of Python keep those that called them, and so the turn that wanted a WebSocket.
    """
    return exc.with_traceback(None)


def _refusal(response: Response) -> UpstreamError | NoWebSocket:
    """Say what an answer to the upgrade that is not 101 means."""
    status, body = response.status_code, bytes(response.body or b"")
    if status == 401 and _is_error(body):
        return UpstreamError(status, body, dict(of_answer(response.headers.raw_items())))
    return NoWebSocket(status, definite=status in _DEFINITE)


def _is_error(body: bytes) -> bool:
    """Whether *body* is the API's own error: plain HTTP would say the same.

    Frameworks without a WebSocket on the path answer 403 and nothing, gateways with words of their own.
    """
    try:
        said = orjson.loads(body)
    except orjson.JSONDecodeError:
        return False
    return isinstance(said, dict) and isinstance(said.get("error"), dict)


def _describe(exc: Exception) -> str:
    if isinstance(exc, InvalidHandshake):
        return "the answer to the upgrade made no sense"
    return type(exc).__name__
