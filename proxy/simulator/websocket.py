"""Session: one WebSocket connection, whose creates run lane by lane."""

import asyncio
import re
from collections.abc import Callable
from typing import Any

import orjson
from websockets.asyncio.connection import Connection
from websockets.exceptions import ConnectionClosed

from proxy.simulator.apierror import ApiError, invalid
from proxy.simulator.chain import ConnectionCache
from proxy.simulator.delivery import Delivery, LinkGone, Style, cut
from proxy.simulator.faults import Fault
from proxy.simulator.model import Body, Event
from proxy.simulator.records import ConnectionRecord, SimulatedTurn
from proxy.simulator.service import Service
from proxy.simulator.wire import Wire

STREAM_ID = re.compile(r"[A-Za-z0-9_.-]{1,256}")
Lane = asyncio.Queue[SimulatedTurn]


class WebSocketLink:
    """Where the events of one lane go."""

    def __init__(self, session: "Session", turn: SimulatedTurn) -> None:
        self._session = session
        self._turn = turn

    async def send(self, event: Event, style: Style) -> int:
        """Send one frame."""
        if self._turn.stream_id is not None:
            event = {**event, "stream_id": self._turn.stream_id}
        return await self._session.send(event, style)

    async def refuse(self, error: ApiError, sequence_number: int | None) -> None:
        """Send an error event."""
        settings = self._session.service.settings
        event = error.event(settings.error_shape, with_status=settings.traits.gives_error_status)
        if sequence_number is not None:
            event["sequence_number"] = sequence_number
        await self.send(event, "pretty" if settings.error_shape == "pretty" else "plain")

    async def close(self, code: int, reason: str) -> None:
        """Close with a frame."""
        await self._session.close(code, reason)

    def abort(self) -> None:
        """Reset the connection."""
        self._session.wire.reset()

    def silence(self) -> None:
        """Say and hear nothing more."""
        self._session.silence()

    def garble(self) -> None:
        """Send bytes that are no frame."""
        self._session.wire.send(b"\xff\xfe garbage \x00\x01")


class Session:
    """Reads frames, queues creates, and answers them: in order on each lane, lanes side by side."""

    def __init__(
        self,
        service: Service,
        connection: Connection,
        wire: Wire,
        record: ConnectionRecord,
        new_turn: Callable[[ConnectionRecord, Body, int], SimulatedTurn],
        clock: Callable[[], float],
    ) -> None:
        self.service = service
        self.wire = wire
        self._connection = connection
        self._record = record
        self._new_turn = new_turn
        self._clock = clock
        self._cache = ConnectionCache(service.settings.cache_policy)
        self._lanes: dict[str | None, Lane] = {}
        self._in_flight = asyncio.Semaphore(service.settings.max_in_flight)
        self._unfinished: set[SimulatedTurn] = set()
        self._heard = asyncio.Event()

    async def run(self) -> None:
        """Serve until the connection is gone."""
        try:
            async with asyncio.TaskGroup() as self._group:
                self._group.create_task(self._watch_idleness())
                await self._read()
        except* LinkGone:
            pass
        finally:
            self._mourn()

    async def send(self, event: Event, style: Style = "plain") -> int:
        """Send *event* in one frame; return its size."""
        text = orjson.dumps(event, option=orjson.OPT_INDENT_2 if style == "pretty" else None)
        try:
            await self._connection.send(text, text=style != "binary")
        except ConnectionClosed as exc:
            raise LinkGone from exc
        self._record.frames_out += 1
        self._heard.set()
        return len(text)

    async def close(self, code: int, reason: str) -> None:
        """Close with a frame."""
        await self._connection.close(code, reason)

    def forget(self) -> None:
        """Forget what was said on the connection."""
        self._cache = ConnectionCache(self.service.settings.cache_policy)

    def silence(self) -> None:
        """Say and hear nothing more."""
        self.wire.silence()
        self._record.silent = True
        self.service.journal.note()

    def _mourn(self) -> None:
        for turn in self._unfinished:
            turn.cancel()
        self._record.closed = True
        closing = self._connection.protocol.close_rcvd or self._connection.protocol.close_sent
        self._record.close_code = closing.code if closing else 1006
        self._record.close_reason = closing.reason if closing else ""
        self.service.journal.note()
        if not self.wire.closing:
            self.wire.abort()

    # Reading

    async def _read(self) -> None:
        try:
            async for frame in self._connection:
                self._record.frames_in += 1
                self._heard.set()
                await self._take(frame)
        except ConnectionClosed as exc:
            raise LinkGone from exc
        raise LinkGone

    async def _take(self, frame: str | bytes) -> None:
        try:
            message = orjson.loads(frame)
        except orjson.JSONDecodeError:
            message = None
        if not isinstance(message, dict):
            await self._complain(invalid("The message is not a JSON object.", code="invalid_json"))
            return
        kind = message.get("type")
        if kind == "response.create":
            await self._enqueue(message, len(frame))
        elif kind == "response.steer":
            await self.send(_steering_failed(message))
        elif not self.service.settings.traits.ignores_unknown_frames:
            await self._complain(invalid(f"Unsupported message type: '{kind}'.", param="type"))

    async def _complain(self, error: ApiError) -> None:
        settings = self.service.settings
        await self.send(error.event(settings.error_shape, with_status=settings.traits.gives_error_status))

    async def _enqueue(self, message: Body, size: int) -> None:
        turn = self._new_turn(self._record, message, size)
        self._record.turns += 1
        try:
            lane = self._lane(turn)
        except ApiError as error:
            self.service.reject(turn, error, self._cache)
            await WebSocketLink(self, turn).refuse(error, None)
            if error.code == "websocket_connection_limit_reached" and self.service.settings.close_at_age_limit:
                await self.close(1000, "connection limit reached")
            return
        self._unfinished.add(turn)
        lane.put_nowait(turn)
        self.service.journal.note()

    def _lane(self, turn: SimulatedTurn) -> Lane:
        self._check_age()
        name = turn.request.get("stream_id")
        settings = self.service.settings
        if not settings.traits.has_lanes:
            name = None
        if name is not None and not (isinstance(name, str) and STREAM_ID.fullmatch(name)):
            raise invalid(
                "The 'stream_id' field must be a non-empty string with at most 256 characters and may only "
                "contain letters, numbers, underscores, hyphens, and periods.",
                code="invalid_stream_id",
                param="stream_id",
            )
        turn.stream_id = name
        if settings.traits.refuses_second_create and self._unfinished:
            message = "a response is already in progress on this connection"
            raise ApiError(400, message, type="invalid_request")
        if name not in self._lanes:
            if name is not None and len(self._lanes.keys() - {None}) >= settings.max_lanes:
                raise invalid(
                    "This WebSocket connection has reached its maximum number of distinct stream IDs "
                    f"({settings.max_lanes}). Reuse an existing stream_id or open a new WebSocket connection.",
                    code="websocket_stream_limit_reached",
                    param="stream_id",
                )
            self._lanes[name] = asyncio.Queue()
            self._group.create_task(self._serve_lane(self._lanes[name]))
        return self._lanes[name]

    def _check_age(self) -> None:
        limit = self.service.settings.age_limit
        if self._clock() - self._record.opened_at >= limit:
            raise invalid(
                f"Responses websocket connection limit reached ({round(limit / 60)} minutes). "
                "Create a new websocket connection to continue.",
                code="websocket_connection_limit_reached",
            )

    # Answering

    async def _serve_lane(self, lane: Lane) -> None:
        while True:
            turn = await lane.get()
            async with self._in_flight:
                try:
                    await self._answer(turn)
                finally:
                    turn.cancel()
                    self._unfinished.discard(turn)
                    self.service.journal.note()

    async def _answer(self, turn: SimulatedTurn) -> None:
        link = WebSocketLink(self, turn)
        try:
            prompt = self.service.read(turn, self._cache)
        except ApiError as error:
            self.service.reject(turn, error, self._cache)
            await link.refuse(error, None)
            return
        fault = self.service.faults.take_for_turn("ws", turn.request)
        delivery = Delivery(self.service, prompt, link, self._cache, fault)
        try:
            await delivery.run()
        except ApiError as error:
            self.service.reject(turn, error, self._cache)
            return
        if turn.status == "failed":
            self.service.evict(turn, self._cache)
        self._group.create_task(delivery.trail())
        if fault is not None and fault.when == "idle":
            self._group.create_task(self._go_wrong_later(link, fault))

    async def _go_wrong_later(self, link: WebSocketLink, fault: Fault) -> None:
        await asyncio.sleep(fault.seconds)
        if fault.what in ("error", "late_error"):
            await link.refuse(fault.error(), None)
        else:
            await cut(link, fault)

    async def _watch_idleness(self) -> None:
        while True:
            self._heard.clear()
            limit = self.service.settings.silent_after_idle_seconds
            try:
                async with asyncio.timeout(limit):
                    await self._heard.wait()
            except TimeoutError:
                self.silence()
                return


def _steering_failed(message: Body) -> Event:
    steer: dict[str, Any] = {
        "input": message.get("input"),
        "previous_response_id": message.get("previous_response_id"),
    }
    error = {
        "type": "invalid_request_error",
        "code": "steering_not_supported",
        "message": "Steering is not supported by this model.",
    }
    return {"type": "response.steer.failed", "sequence_number": 0, "error": error, "steer": steer}
