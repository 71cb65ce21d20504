"""One agent request, from its first byte to its record in the ledger."""

import asyncio
import re
from collections.abc import Awaitable
from traceback import extract_tb
from typing import Literal

import structlog
from aiohttp import web
from multidict import CIMultiDict

from proxy.core.delta import Delta, Mismatch
from proxy.core.events import ServerEvent
from proxy.core.turn import State, Turn
from proxy.errors import ConnectionLost, Trouble, UpstreamError, UpstreamTimeout, UpstreamUnavailable
from proxy.exchange import Exchange, PlainHTTP
from proxy.frontends.base import FrontEnd, Opaque, Readable
from proxy.ledger import Status, Traffic, TurnRecord
from proxy.server import body as bodies
from proxy.server.relay import Relay
from proxy.server.reply import EventReply, Reply, SignsOfLife, error_body
from proxy.server.services import Services, waits_for
from proxy.upstream.headers import fits_a_handshake, of_answer, of_identity

log = structlog.get_logger("turns")

_RETRY_LATER = {
    trouble: {"retry-after": "10", "x-should-retry": "true"}
    for trouble in (Trouble.CAPTIVE_PORTAL, Trouble.OFFLINE)
}
"""What tells an agent to try again, not too soon, where a person has to do something first."""

_STATUSES: dict[State, Status] = {State.COMPLETED: "completed", State.INCOMPLETE: "incomplete"}


def _status(turn: Turn) -> Status:
    return _STATUSES.get(turn.state, "failed")


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
        self._model: str | None = None
        self._detail: str | None = None
        self._has_last_event = False  # the agent, which may then hang up
        self._turn: Turn | None = None
        self._events: EventReply | None = None
        self._relay = Relay(request, services, self._reply, self._traffic, front_end=front_end)

    async def pass_through(self, reason: Mismatch | None = None) -> web.StreamResponse:
        """Forward the request over HTTP; *reason* is why a turn goes this way."""
        return await self._recorded(self._over_http(bodies.Unread(b""), reason))

    async def answer(self, front_end: FrontEnd) -> web.StreamResponse:
        """Answer the request as the turn that *front_end* reads in it."""
        return await self._recorded(self._answer(front_end))

    async def _recorded(self, work: Awaitable[web.StreamResponse]) -> web.StreamResponse:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101  (we are in a coroutine)
        self._services.in_flight.add(task)
        try:
            return await self._reply.sent(await work)
        except bodies.Stalled as exc:
            if self._reply.begun:
                return self._reply.abort()
            return self._reply.error(408, str(exc), "request_timeout")
        except bodies.Garbled as exc:
            if self._reply.begun:
                return self._reply.abort()
            refusal = self._reply.error(400, str(exc), "invalid_body")
            refusal.force_close()  # where the next request begins cannot be told
            return refusal
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
        if self._turn is not None and self._has_last_event:
            return _status(self._turn)
        return self._relay.status or "aborted"

    async def _answer(self, front_end: FrontEnd) -> web.StreamResponse:
        config = self._services.config
        raw = await bodies.read(
            self._request, limit=config.max_body_bytes, timeout=config.body_timeout, arrived=self._note_arrived
        )
        if isinstance(raw, bodies.Unread):
            return await self._over_http(raw, Mismatch.TOO_LARGE)
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
                return self._reply.error(
                    502,
                    "an internal error after upstream had the request; its log says where (event defect)",
                    "defect",
                )
            return await self._over_http(raw, Mismatch.DEFECT)

    async def _as_turn(
        self, raw: bytes, read: Readable, events: EventReply, front_end: FrontEnd
    ) -> web.StreamResponse:
        """Answer the turn that was *read* over a WebSocket, or over HTTP where that is the way."""
        request = self._services.rewriting.prepared(read.turn)
        retries = self._services.config.ambiguous_retries
        anew = self._services.pool.begins_anew
        turn = self._turn = Turn(request, ambiguous_retries=retries, tells=read.answer.tells, begins_anew=anew)
        try:
            return await self._over_websocket(turn, events, front_end)
        except PlainHTTP as exc:
            response = await self._over_http(raw, exc.reason)
            if self._status != "failed":  # a refusal may have been told in a stream that began with 200
                exc.accepted()
            return response

    def _report(self, defect: Exception) -> None:
        """Log where *defect* happened; not its message, which may quote what was said."""
        place = extract_tb(defect.__traceback__)[-1]
        at = f"{place.name}:{place.lineno}"
        log.error("defect", error=type(defect).__name__, at=at, shown=self._reply.begun)

    async def _read(self, raw: bytes, front_end: FrontEnd) -> Readable | Opaque:
        """Read the request, on a thread if much of it is new.

        What is new takes some 10 to 20 ms for each MB, and what is known a tenth of one: a thread costs more.
        """
        config = self._services.config
        if config.websocket == "off":
            return Opaque(Mismatch.DISABLED)
        encodings = ",".join(self._request.headers.getall("Content-Encoding", []))

        def read_all() -> Readable | Opaque:
            return front_end.decode(bodies.decode(raw, encodings, limit=config.max_body_bytes), known)

        try:
            known = front_end.find(raw) if not encodings else None
            if encodings:
                small = _unpacked(raw, encodings, min(_LARGE, config.max_body_bytes))
            else:
                small = raw if (len(raw) if known is None else known.left) < _LARGE else None
            if small is not None:
                return front_end.decode(small, known)
            async with self._services.reading:
                return await asyncio.to_thread(read_all)
        except bodies.TooLarge:
            return Opaque(Mismatch.TOO_LARGE)
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
        if not fits_a_handshake(identity):
            raise PlainHTTP(Mismatch.UNSUPPORTED_FIELD)
        partition = services.pool.partition(identity, request.rel_url.raw_query_string)
        turn.rewrites = services.rewriting.allowed(turn.request, partition)
        exchange = Exchange(
            turn,
            pool=services.pool,
            partition=partition,
            waits=waits_for(services.config, request.headers),
            clock=services.clock,
            traffic=self._traffic,
            keeps_content=services.restoring.enabled,
        )
        events.tell(lambda: exchange.headers)

        async def deliver(shown: tuple[ServerEvent, ...]) -> None:
            if self._first_shown is None:
                self._first_shown = services.clock()
            await events.deliver(shown)
            self._has_last_event = turn.finished and self._reply.begun

        try:
            await services.restoring.make_way(turn.request, partition)
            await exchange.run(deliver, events.show_now)
            services.rewriting.learn(turn, partition)
            self._status = _status(turn)
            return await events.finish()
        except UpstreamError as exc:
            if events.awaited:
                return await events.fail(exc)
            headers = CIMultiDict(exchange.headers)
            headers.update(of_answer(exc.headers.items()))
            return self._reply.whole(front_end.refusal(exc), status=exc.status, headers=headers)
        except ConnectionLost as exc:
            log.warning("turn_broken_off", error=str(exc), shown=self._reply.begun)
            status = 504 if isinstance(exc, UpstreamTimeout) else 502
            return await self._unavailable(status, exc)

    async def _over_http(self, raw: bytes | bodies.Unread, reason: Mismatch | None) -> web.StreamResponse:
        """Forward the request: the body *raw*, or what is still to come of it, and the answer as it comes."""
        self._reason = reason
        try:
            response = await self._relay.run(raw, self._events)
        except UpstreamUnavailable as exc:
            if self._relay.fault is not None:
                raise self._relay.fault from exc
            if exc.trouble is not Trouble.CAPTIVE_PORTAL:  # of which the link has told once and for all
                log.warning("upstream_unavailable", error=str(exc), shown=self._reply.begun)
            return await self._unavailable(504 if isinstance(exc, UpstreamTimeout) else 502, exc)
        self._status = self._relay.status or "failed"
        return response

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
        return self._reply.error(status, told, "upstream_unavailable", headers=_RETRY_LATER.get(fault.trouble))

    def _note_arrived(self, size: int) -> None:
        self._bytes_from_agent += size

    @property
    def _received(self) -> int:
        """How many bytes of the agent's body there were."""
        return self._bytes_from_agent + self._relay.bytes_from_agent

    def _enter(self) -> None:
        """Put the finished request into the ledger: always its bytes, and if it was a turn, the turn."""
        ledger = self._services.ledger
        ledger.agents.received += self._received
        ledger.agents.sent += self._reply.bytes_sent
        if (turn := self._turn) is not None:
            ledger.replays.update(safe=turn.replays.unsent, ambiguous=turn.replays.ambiguous)
            if (collapse := turn.collapse) is not None:
                ledger.collapses += 1
                log.warning(
                    "chain_collapsed", expected=collapse.expected, read=collapse.read, shown=collapse.shown
                )
            if turn.is_empty:
                log.warning("empty_answer", upload="delta" if isinstance(turn.upload, Delta) else "full")
        if self._front_end is not None:
            ledger.add(self._record(self._front_end))

    def _record(self, front_end: str) -> TurnRecord:
        turn = self._turn
        total = sent = len(turn.request.items) if turn is not None else 0
        how: Literal["delta", "full", "http"] = "http"
        reason = self._reason
        if turn is not None and not self._relay.attempts:
            if isinstance(turn.upload, Delta):
                how, reason, sent = "delta", None, len(turn.upload.items)
            else:
                how, reason = "full", turn.upload.reason
        attempts = self._relay.attempts + (turn.attempts if turn is not None else 0)
        first_shown, started = self._first_shown, self._started
        if first_shown is None:
            first_shown = self._relay.first_shown
        return TurnRecord(
            id=f"turn-{next(self._services.ids)}",
            started_at=self._started_at,
            front_end=front_end,
            session=turn.request.session if turn is not None else "",
            model=self._model and self._model[:_MODEL_SHOWN],
            upload=how,
            reason=reason.value if reason is not None else None,
            detail=self._detail,
            items_total=total,
            items_sent=sent if attempts else 0,
            bytes_from_agent=self._received,
            bytes_to_upstream=self._traffic.sent,
            bytes_from_upstream=self._traffic.received,
            bytes_to_agent=self._reply.bytes_sent,
            ttft_ms=None if first_shown is None else (first_shown - started) * 1000,
            duration_ms=(self._services.clock() - started) * 1000,
            attempts=attempts,
            status=self._status,
        )


def _unpacked(raw: bytes, encodings: str, most: int) -> bytes | None:
    """Return *raw* decoded, or None where that makes it larger than *most*, or cannot be done.

    A few kilobytes may unpack to many megabytes.
    """
    if len(raw) >= most // _PACKED:
        return None
    try:
        return bodies.decode(raw, encodings, limit=most)
    except bodies.Undecodable:
        return None


def _shown(name: str | None) -> str | None:
    """Return the *name* of a parameter for the figures; one that is no name at all may be anything."""
    return name if name is None or _NAME.fullmatch(name) else "a field with an odd name"


_LARGE = 1024 * 1024
"""Bytes of a body that is read on a thread, so that other agents' events do not wait for it."""

_PACKED = 4
"""How many times larger JSON is without its Content-Encoding, or more."""

_MODEL_SHOWN = 100
"""Characters of a model's name in the figures, which keep many turns; an agent may have put anything there."""

_NAME = re.compile(r"[A-Za-z0-9_.]{1,64}")
