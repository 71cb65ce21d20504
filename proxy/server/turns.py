"""One agent request, from its first byte to its record in the ledger."""

import asyncio
import codecs
import itertools
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from traceback import extract_tb
from typing import Any

import structlog
from aiohttp import ClientResponse, web
from multidict import CIMultiDict

from proxy.config import Config
from proxy.core.delta import Delta, Mismatch
from proxy.core.events import ServerEvent
from proxy.core.turn import State, Turn
from proxy.errors import ConnectionLost, Trouble, UpstreamError, UpstreamTimeout, UpstreamUnavailable
from proxy.exchange import Exchange, PlainHTTP, Waits
from proxy.frontends.base import FrontEnd, Opaque, Readable
from proxy.ledger import Ledger, Status, Traffic, TurnRecord
from proxy.restoring import Restoring
from proxy.rewriting import Rewriting
from proxy.server import body as bodies
from proxy.server.reply import EventReply, RelayedResponse, Reply, SignsOfLife, error_body
from proxy.upstream.encoding import inflated, is_gzip
from proxy.upstream.headers import Headers, end_to_end, of_answer, of_identity, of_wire, to_http
from proxy.upstream.http import Http, chunks, in_time, silence
from proxy.upstream.pool import Pool
from proxy.upstream.progress import Progress

log = structlog.get_logger("turns")

_CALMLY = {
    trouble: {"retry-after": "10", "x-should-retry": "true"}
    for trouble in (Trouble.CAPTIVE_PORTAL, Trouble.OFFLINE)
}
"""What tells an agent to try again, not too soon, where a person has to do something first."""

_STATUSES: dict[State, Status] = {State.COMPLETED: "completed", State.INCOMPLETE: "incomplete"}


def _status(turn: Turn) -> Status:
    return _STATUSES.get(turn.state, "failed")


@dataclass(frozen=True)
class Services:
    """What every request is answered with. *clock* is monotonic, in seconds; *now* is the time of day."""

    config: Config
    pool: Pool
    rewriting: Rewriting
    restoring: Restoring
    http: Http
    ledger: Ledger
    clock: Callable[[], float]
    now: Callable[[], datetime]
    ids: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    in_flight: set[asyncio.Task[Any]] = field(default_factory=set)
    draining: asyncio.Event = field(default_factory=asyncio.Event)
    """No further requests are taken: agents ask again, and would else lose what there is no more time for."""
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    reading: asyncio.Lock = field(default_factory=asyncio.Lock)
    """One large request is read at a time: several threads would only keep the interpreter from the loop."""

    async def drain(self) -> None:
        """Take no more requests, give those in flight drain_seconds, and then end them."""
        self.draining.set()
        try:
            if self.in_flight:
                await asyncio.wait(set(self.in_flight), timeout=self.config.drain_seconds)
        finally:  # also where whoever stops us has no more patience
            self.stopping.set()
            for task in set(self.in_flight):
                task.cancel()

    @property
    def waits(self) -> Waits:
        """How long a turn waits for upstream."""
        return Waits(
            first_event_timeout=self.config.first_event_timeout,
            event_timeout=self.config.event_timeout,
            max_message_bytes=self.config.max_message_bytes,
            chaining_retry_seconds=self.config.websocket_retry_seconds,
        )


class AgentRequest:
    """A request that an agent made, and how far we are with answering it.

    It goes as a turn over a WebSocket where that is certain to be right, else over plain HTTP, where it is
    forwarded as it came.
    """

    def __init__(self, request: web.Request, services: Services, *, front_end: str | None = None) -> None:
        self._request = request
        self._services = services
        self._front_end = front_end
        self._reply = Reply(request, agent_timeout=services.config.agent_timeout)
        self._traffic = Traffic()
        self._started_at, self._started = services.now(), services.clock()
        self._first_shown: float | None = None
        self._bytes_from_agent = 0
        self._status: Status = "failed"
        self._reason: Mismatch | None = None
        self._http_attempts = 0
        self._model: str | None = None
        self._detail: str | None = None
        self._told = False  # the last event of the turn is with the agent
        self._turn: Turn | None = None
        self._events: EventReply | None = None
        self._stalled: bodies.Stalled | None = None

    async def pass_through(self, reason: Mismatch | None = None) -> web.StreamResponse:
        """Forward the request over HTTP; *reason* is why a turn goes this way."""
        return await self._recorded(self._over_http(bodies.TooLong(b""), reason))

    async def answer(self, front_end: FrontEnd) -> web.StreamResponse:
        """Answer the request as the turn that *front_end* reads in it."""
        return await self._recorded(self._answer(front_end))

    async def _recorded(self, work: Awaitable[web.StreamResponse]) -> web.StreamResponse:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101  (we are in a coroutine)
        self._services.in_flight.add(task)
        try:
            return await work
        except bodies.Stalled as exc:
            if self._reply.begun:
                return self._reply.abort()
            return self._reply.error(408, str(exc), "request_timeout")
        except asyncio.CancelledError:
            self._status = self._ended_early()
            if self._reply.begun:
                self._reply.abort()  # a part of an answer must not pass for the whole
                raise
            if not self._services.stopping.is_set():
                raise
            task.uncancel()
            return self._reply.error(503, "it is stopping", "stopping")
        except ConnectionResetError:
            self._status = self._ended_early()  # the agent is gone: nobody is left to answer
            if self._reply.begun:
                return self._reply.abort()
            raise
        finally:
            self._services.in_flight.discard(task)
            self._enter()

    def _ended_early(self) -> Status:
        """Return the status of a request whose agent hung up: some do as soon as they have the last event."""
        return _status(self._turn) if self._turn is not None and self._told else "aborted"

    async def _answer(self, front_end: FrontEnd) -> web.StreamResponse:
        config = self._services.config
        raw = await bodies.read(self._request, limit=config.max_body_bytes, timeout=config.body_timeout)
        if isinstance(raw, bodies.TooLong):
            return await self._over_http(raw, Mismatch.TOO_LARGE)
        self._bytes_from_agent = len(raw)
        read = await self._read(raw, front_end)
        if isinstance(read, Opaque):
            self._model, self._detail = read.model, _shown(read.detail)
            return await self._over_http(raw, read.reason)
        self._model = read.turn.model
        events = self._events = EventReply(self._reply, read.answer, front_end.failure)
        signs = SignsOfLife(
            front_end.pulse(self._request.headers.get("User-Agent", "")),
            after=config.keepalive_after,
            every=config.keepalive_interval,
        )
        try:
            async with events.alive(signs):
                return await self._as_turn(raw, read, events, front_end)
        except ConnectionResetError:
            raise
        except Exception as exc:  # noqa: BLE001  (a defect: the agent gets its answer over HTTP, or a clean break)
            self._report(exc)
            if self._reply.begun:
                return self._reply.abort()
            if self._turn is not None and not self._turn.may_go_elsewhere():
                return self._reply.error(502, "it failed after upstream had the request", "defect")
            return await self._over_http(raw, Mismatch.DEFECT)

    async def _as_turn(
        self, raw: bytes, read: Readable, events: EventReply, front_end: FrontEnd
    ) -> web.StreamResponse:
        """Answer the turn that was *read* over a WebSocket, or over HTTP where that is the way."""
        request = self._services.rewriting.read(read.turn)
        retries = self._services.config.ambiguous_retries
        turn = self._turn = Turn(request, ambiguous_retries=retries, tells=read.answer.tells)
        try:
            return await self._over_websocket(turn, events, front_end)
        except PlainHTTP as exc:
            response = await self._over_http(raw, exc.reason)
            if self._status == "completed":  # a refusal may have been told in a stream that began with 200
                exc.accepted()
            return response

    def _report(self, defect: Exception) -> None:
        """Log where *defect* happened; not its message, which may quote what was said."""
        place = extract_tb(defect.__traceback__)[-1]
        at = f"{place.name}:{place.lineno}"
        log.error("defect", error=type(defect).__name__, at=at, shown=self._reply.begun)

    async def _read(self, raw: bytes, front_end: FrontEnd) -> Readable | Opaque:
        """Read the request, a large one on a thread: one that is new takes some 20 ms for each MB."""
        config = self._services.config
        if config.websocket == "off":
            return Opaque(Mismatch.DISABLED)
        encodings = ",".join(self._request.headers.getall("Content-Encoding", []))

        def read() -> Readable | Opaque:
            return front_end.decode(bodies.decode(raw, encodings, limit=config.max_body_bytes))

        try:
            if len(raw) < (_LARGE // _PACKED if encodings else _LARGE):
                return read()
            async with self._services.reading:
                return await asyncio.to_thread(read)
        except bodies.Undecodable:
            return Opaque(Mismatch.NOT_DIFFABLE)
        except Exception as exc:  # noqa: BLE001  (a defect: the agent's request goes on as it came)
            self._report(exc)
            return Opaque(Mismatch.DEFECT)

    async def _over_websocket(self, turn: Turn, events: EventReply, front_end: FrontEnd) -> web.StreamResponse:
        """Answer *turn* over a WebSocket. Raises PlainHTTP where nothing was shown and HTTP should be used."""
        services, request = self._services, self._request
        volatile = frozenset(name.lower() for name in services.config.volatile_headers)
        identity = of_identity(request.headers.items(), volatile)
        if not all(value.isascii() for _, value in identity):
            raise PlainHTTP(Mismatch.UNSUPPORTED_FIELD)  # a handshake would not carry it to the byte
        partition = services.pool.partition(identity, request.rel_url.raw_query_string)
        turn.rewrites = services.rewriting.allowed(turn.request, partition)
        exchange = Exchange(
            turn,
            services.pool,
            partition,
            services.waits,
            services.clock,
            self._traffic,
            keeps_content=services.restoring.enabled,
        )

        async def deliver(shown: tuple[ServerEvent, ...]) -> None:
            self._note_shown()
            await events.deliver(shown)
            self._told = turn.finished and self._reply.begun

        try:
            await services.restoring.make_way(turn.request, partition)
            await exchange.run(deliver, events.show_now)
            services.rewriting.learn(turn, partition)
            self._status = _status(turn)
            return await events.finish()
        except UpstreamError as exc:
            if events.awaited:
                return await events.fail(exc)
            headers = dict(of_answer(exc.headers.items()))
            return self._reply.whole(front_end.refusal(exc), status=exc.status, headers=headers)
        except ConnectionLost as exc:
            log.warning("turn_broken_off", error=str(exc), shown=self._reply.begun)
            status = 504 if isinstance(exc, UpstreamTimeout) else 502
            return await self._unavailable(status, exc)

    async def _over_http(self, raw: bytes | bodies.TooLong, reason: Mismatch | None) -> web.StreamResponse:
        """Forward the request: the body *raw*, or what is still to come of it, and the answer as it comes."""
        self._reason = reason
        self._http_attempts = 1
        request = self._request
        body = self._rest(raw) if isinstance(raw, bodies.TooLong) else raw
        try:
            await self._services.restoring.make_way()
            async with AsyncExitStack() as stack:
                answer = self._services.http.request(
                    request.method,
                    request.raw_path.removeprefix("/v1"),
                    self._headers(),
                    body if request.body_exists else None,
                    self._traffic,
                    again=self._sent_again,
                )
                async with self._patience():
                    response = await stack.enter_async_context(answer)
                return await self._relay(response)
        except UpstreamUnavailable as exc:
            if isinstance(exc.__cause__, bodies.Stalled):  # while the agent's body was being forwarded
                raise exc.__cause__ from exc
            if exc.trouble is not Trouble.CAPTIVE_PORTAL:  # of which the link has told once and for all
                log.warning("upstream_unavailable", error=str(exc), shown=self._reply.begun)
            return await self._unavailable(504 if isinstance(exc, UpstreamTimeout) else 502, exc)

    @asynccontextmanager
    async def _patience(self) -> AsyncIterator[None]:
        """Wait for the beginning of upstream's answer to a turn for first_event_timeout, beside its upload.

        One that is not streamed begins when the model is done. What is no turn takes as long as it takes.
        """
        if self._front_end is None:
            yield
            return
        limit = self._services.config.first_event_timeout
        try:
            async with asyncio.timeout(limit) as deadline:
                with Progress(deadline, limit, lambda: self._traffic.sent):
                    yield
        except TimeoutError as exc:
            raise silence(limit, "first_event_timeout") from exc

    @property
    def _is_inflated(self) -> bool:
        """Whether the encoding of the answer is between upstream and us.

        It is where the agent may have been given signs of life by then, in no encoding, or asked for none.
        """
        if self._front_end is None:
            return False
        is_off = self._services.config.http_compression == "off"
        return self._events is not None or not (is_off or "Accept-Encoding" in self._request.headers)

    def _sent_again(self) -> None:
        self._http_attempts += 1

    def _headers(self) -> Headers:
        """Return the agent's headers for upstream, with an encoding of ours where that is up to us."""
        headers = to_http(of_wire(self._request.raw_headers))
        if not self._is_inflated:
            return headers
        rest = tuple(each for each in headers if each[0].lower() != "accept-encoding")
        accepted = "".join(self._request.headers.getall("Accept-Encoding", []))
        is_off = self._services.config.http_compression == "off"
        return (*rest, ("Accept-Encoding", "identity" if is_off and "gzip" not in accepted else "gzip"))

    async def _unavailable(self, status: int, fault: UpstreamUnavailable) -> web.StreamResponse:
        """Tell the agent that there is no answer; one that has a part of an answer is cut off."""
        told = f"{fault}: {fault.said}" if isinstance(fault, ConnectionLost) and fault.said else str(fault)
        if self._events is not None:
            await self._events.quiet()  # whatever waits after an abort is cancelled
            if self._events.awaited:
                body = error_body(status, told, "upstream_unavailable")
                return await self._events.fail(UpstreamError(status, body, {}))
        if self._reply.begun:
            return self._reply.abort()
        return self._reply.error(status, told, "upstream_unavailable", headers=_CALMLY.get(fault.trouble))

    async def _rest(self, raw: bodies.TooLong) -> AsyncIterator[bytes]:
        try:
            async for chunk in bodies.rest(
                self._request, raw.beginning, timeout=self._services.config.body_timeout
            ):
                self._bytes_from_agent += len(chunk)
                yield chunk
        except bodies.Stalled as exc:
            self._stalled = exc
            if not self._reply.begun:
                raise
            self._reply.abort()  # the library tells nobody who is reading the answer; this ends the request

    async def _relay(self, response: ClientResponse) -> web.StreamResponse:
        if self._stalled is not None:
            raise self._stalled
        is_inflated = self._is_inflated and is_gzip(_encoding_of(response))
        body = inflated(self._chunks(response)) if is_inflated else self._chunks(response)
        chunk: bytes | None = None
        if self._events is not None:
            chunk = await anext(body, b"")  # signs of life until then
            if not await self._events.yields():
                return await self._relay_late(response, chunk, body, self._events)
            self._events = None  # the answer is upstream's own from here on: nothing of ours may follow on it
        headers = CIMultiDict(end_to_end(of_wire(response.raw_headers)))
        if is_inflated:
            headers.popall("Content-Encoding")
            headers.popall("Content-Length", None)
        await self._reply.begin(RelayedResponse(status=response.status, reason=response.reason, headers=headers))
        return await self._pass_on(response, await anext(body, b"") if chunk is None else chunk, body)

    def _chunks(self, response: ClientResponse) -> AsyncIterator[bytes]:
        """Return the body of *response* as it arrives, within a turn's limits if it answers one."""
        if self._front_end is None:
            return chunks(response)
        config = self._services.config
        return in_time(
            chunks(response),
            first=config.first_event_timeout,
            later=config.event_timeout,
            sent=lambda: self._traffic.sent,
        )

    async def _relay_late(
        self, response: ClientResponse, chunk: bytes, body: AsyncIterator[bytes], events: EventReply
    ) -> web.StreamResponse:
        """Relay a *response* to an agent that has a status already, and signs of life in a stream of events.

        They go on until there is something to show.
        """
        if (encoding := _encoding_of(response)) and not is_gzip(encoding):
            await events.quiet()  # whatever waits after an abort is cancelled
            return self._reply.abort()  # the agent was not told of one
        if not _is_stream(response, chunk):
            whole = bytearray(chunk)
            async for each in body:
                whole += each
                if len(whole) > self._services.config.max_event_bytes:
                    raise UpstreamUnavailable("upstream's answer is too large for an event (max_event_bytes)")
            return await events.fail(UpstreamError(response.status, bytes(whole), {}))
        await events.quiet()
        self._events = None  # likewise
        return await self._pass_on(response, chunk, body)

    async def _pass_on(
        self, response: ClientResponse, chunk: bytes, body: AsyncIterator[bytes]
    ) -> web.StreamResponse:
        """Give the agent *chunk* and what follows it in the *body* of *response*, to the end."""
        while chunk:
            self._note_shown()
            await self._reply.write(chunk)
            chunk = await anext(body, b"")
        self._status = "completed" if response.status < 400 else "failed"
        return await self._reply.end()

    def _note_shown(self) -> None:
        if self._first_shown is None:
            self._first_shown = self._services.clock()

    def _enter(self) -> None:
        """Put the finished request into the ledger: always its bytes, and if it was a turn, the turn."""
        ledger = self._services.ledger
        ledger.agents.received += self._bytes_from_agent
        ledger.agents.sent += self._reply.bytes_sent
        if self._turn is not None and (collapse := self._turn.collapse) is not None:
            ledger.collapses += 1
            log.warning("chain_collapsed", expected=collapse.expected, read=collapse.read, shown=collapse.shown)
        if self._turn is not None:
            ledger.replays.update(safe=self._turn.replays.unsent, ambiguous=self._turn.replays.ambiguous)
        if self._front_end is not None:
            ledger.add(self._record(self._front_end))

    def _record(self, front_end: str) -> TurnRecord:
        turn = self._turn
        upload = turn.upload if turn is not None and not self._http_attempts else None
        total = len(turn.request.items) if turn is not None else 0
        reason = self._reason if upload is None else None if isinstance(upload, Delta) else upload.reason
        first_shown, started = self._first_shown, self._started
        return TurnRecord(
            id=f"turn-{next(self._services.ids)}",
            started_at=self._started_at,
            front_end=front_end,
            session=turn.request.session if turn is not None else "",
            model=self._model and self._model[:_MODEL_SHOWN],
            upload="http" if upload is None else "delta" if isinstance(upload, Delta) else "full",
            reason=reason.value if reason is not None else None,
            detail=self._detail,
            items_total=total,
            items_sent=len(upload.items) if isinstance(upload, Delta) else total,
            bytes_from_agent=self._bytes_from_agent,
            bytes_to_upstream=self._traffic.sent,
            bytes_from_upstream=self._traffic.received,
            bytes_to_agent=self._reply.bytes_sent,
            ttft_ms=None if first_shown is None else (first_shown - started) * 1000,
            duration_ms=(self._services.clock() - started) * 1000,
            attempts=self._http_attempts + (turn.attempts if turn is not None else 0),
            status=self._status,
        )


def _encoding_of(response: ClientResponse) -> str:
    return ",".join(response.headers.getall("Content-Encoding", []))


def _is_stream(response: ClientResponse, beginning: bytes) -> bool:
    """Whether *response* is a stream of events, by its type, or where that says little by its *beginning*."""
    if response.status >= 400 or response.content_type == "application/json":
        return False
    begins = beginning.removeprefix(codecs.BOM_UTF8).lstrip(b"\r\n").startswith(_FIELDS)
    return response.content_type == "text/event-stream" or begins


def _shown(name: str | None) -> str | None:
    """Return the *name* of a parameter for the figures; one that is no name at all may be anything."""
    return name if name is None or _NAME.fullmatch(name) else "a field with an odd name"


_FIELDS = (b"event:", b"data:", b"id:", b"retry:", b":")
"""What a line of server-sent events begins with."""

_LARGE = 1024 * 1024
"""Bytes of a body that is read on a thread, so that other agents' events do not wait for it."""

_PACKED = 4
"""How many times larger JSON is without its Content-Encoding, or more."""

_MODEL_SHOWN = 100
"""Characters of a model's name in the figures, which keep many turns; an agent may have put anything there."""

_NAME = re.compile(r"[A-Za-z0-9_.]{1,64}")
