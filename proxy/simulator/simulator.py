"""Simulator: the simulated upstream as one listening port."""

import asyncio
import ssl
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Literal, Self

from aiohttp.web import BaseRequest, Response, Server, StreamResponse
from websockets.asyncio.connection import Connection

from proxy.simulator.agent import agent_script
from proxy.simulator.apierror import ApiError
from proxy.simulator.chain import Store
from proxy.simulator.delivery import LinkGone
from proxy.simulator.faults import Fault, Faults
from proxy.simulator.handshake import check_upgrade, negotiate
from proxy.simulator.httplink import wire_of
from proxy.simulator.model import Body, Script
from proxy.simulator.records import (
    ConnectionRecord,
    Identity,
    Journal,
    RequestRecord,
    SimulatedTurn,
    Traffic,
)
from proxy.simulator.service import Service
from proxy.simulator.settings import SimulatorSettings
from proxy.simulator.web import Web, authenticated
from proxy.simulator.websocket import Session
from proxy.simulator.wire import Wire

LARGEST_HEAD = 64 * 1024


class Simulator:
    """An upstream that speaks the protocol, on *host* and *port* (0: a free one), with TLS if *ssl* is given.

    Use it as an async context manager. *script* decides what the model says; *settings* may be changed while
    it runs. *clock* tells the age of connections, *now* the time of day.
    """

    def __init__(
        self,
        settings: SimulatorSettings | None = None,
        *,
        script: Script | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
        ssl: ssl.SSLContext | None = None,
        clock: Callable[[], float] | None = None,
        now: Callable[[], float] = lambda: datetime.now(tz=UTC).timestamp(),
    ) -> None:
        self.settings = settings or SimulatorSettings()
        self.journal = Journal(lambda: self.settings.keep_records)
        self.traffic = Traffic()
        self.service = Service(self.settings, script or agent_script(), self.journal, now)
        self._host = host
        self._port = port
        self._ssl = ssl
        self._clock = clock
        self._wires: set[Wire] = set()
        self._wires_ever = 0
        self._sessions: dict[int, Session] = {}
        self._server: asyncio.Server | None = None
        self._web = Web(self.service, self._upgrade, self._new_turn)

    def __repr__(self) -> str:
        state = self.base_url if self._server else "not listening"
        return f"<Simulator {state} turns={len(self.turns)} connections={len(self.connections)}>"

    # Life

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._clock = self._clock or loop.time
        self._http = Server(
            self._web.handle,
            handler_cancellation=True,
            auto_decompress=False,
            access_log=None,
            max_line_size=LARGEST_HEAD,
            max_field_size=LARGEST_HEAD,
        )
        self._server = await loop.create_server(self._wire, self._host, self._port, ssl=self._ssl)
        self._port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.stop()
        if exc_type is None and self.service.script_failures:
            raise self.service.script_failures[0]

    async def stop(self) -> None:
        """Listen no more and cut every connection."""
        if self._server is not None:
            self._server.close()
        for wire in list(self._wires):
            wire.abort()
        await self._http.shutdown(timeout=1)
        with suppress(TimeoutError):
            await self.journal.until(lambda: not self._wires, seconds=1)

    @property
    def base_url(self) -> str:
        """The API's base, ``http://HOST:PORT/v1``."""
        scheme = "https" if self._ssl else "http"
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"{scheme}://{host}:{self._port}/v1"

    @property
    def websocket_url(self) -> str:
        """Where WebSockets are opened, ``ws://HOST:PORT/v1/responses``."""
        return self.base_url.replace("http", "ws", 1) + "/responses"

    @property
    def port(self) -> int:
        """The port it listens on."""
        return self._port

    # What it saw

    @property
    def turns(self) -> list[SimulatedTurn]:
        """Every create and POST, in order of arrival."""
        return self.journal.turns

    @property
    def connections(self) -> list[ConnectionRecord]:
        """Every WebSocket there ever was."""
        return self.journal.connections

    @property
    def open_connections(self) -> list[ConnectionRecord]:
        """The WebSockets that are open."""
        return [record for record in self.connections if not record.closed]

    @property
    def requests(self) -> list[RequestRecord]:
        """Every HTTP request, upgrades included."""
        return self.journal.requests

    @property
    def bytes_in(self) -> int:
        """Bytes that the sockets brought."""
        return self.traffic.bytes_in

    @property
    def bytes_out(self) -> int:
        """Bytes that the sockets took."""
        return self.traffic.bytes_out

    async def until(self, predicate: Callable[[], bool], *, seconds: float = 10) -> None:
        """Wait until *predicate* holds; raise TimeoutError after *seconds*."""
        await self.journal.until(predicate, seconds=seconds)

    # What a test does to it

    @property
    def script(self) -> Script:
        """What the model says."""
        return self.service.script

    @script.setter
    def script(self, script: Script) -> None:
        self.service.script = script

    @property
    def faults(self) -> Faults:
        """The faults still to come."""
        return self.service.faults

    def inject(self, fault: Fault) -> None:
        """Let *fault* happen to the next turn or upgrade that matches."""
        self.faults.inject(fault)

    def forget(self) -> None:
        """Forget every response, stored or not, on connections that stay open."""
        self.service.store = Store()
        for session in self._sessions.values():
            session.forget()

    async def close_connections(self, code: int = 1001, reason: str = "") -> None:
        """Close every WebSocket with a frame."""
        for session in list(self._sessions.values()):
            await session.close(code, reason)

    def abort_connections(self) -> None:
        """Reset every TCP connection."""
        for wire in list(self._wires):
            wire.reset()

    def silence_connections(self) -> None:
        """Let every TCP connection die without a word: nothing is sent or heard on it any more."""
        for wire in self._wires:
            wire.silence()
        for session in self._sessions.values():
            session.silence()

    # The port

    def _wire(self) -> Wire:
        self._wires_ever += 1
        # Over TLS many a connection comes to nothing: it counts once its handshake is done.
        return Wire(self._wires_ever, self.settings, self.traffic, self._http, self._wires.add, self._lost)

    def _lost(self, wire: Wire) -> None:
        self._wires.discard(wire)
        self.journal.note()

    def _new_turn(
        self,
        transport: Literal["ws", "http"],
        endpoint: Literal["responses", "chat"],
        connection_id: int,
        identity: Identity,
        request: Body,
        raw_size: int,
    ) -> SimulatedTurn:
        turn = SimulatedTurn(
            number=self.journal.turns_ever,
            transport=transport,
            endpoint=endpoint,
            connection_id=connection_id,
            identity=identity,
            request=request,
            raw_size=raw_size,
        )
        parent = request.get("previous_response_id")
        turn.previous_response_id = parent if isinstance(parent, str) else None
        self.journal.add_turn(turn)
        return turn

    # WebSockets

    async def _upgrade(self, request: BaseRequest, record: RequestRecord) -> StreamResponse:
        settings = self.settings
        await asyncio.sleep(settings.handshake_seconds)
        if (fault := self.faults.take_for_handshake()) is not None:
            await asyncio.sleep(fault.seconds)
            if fault.what != "slow":
                return await self._spoiled(request, fault)
        check_upgrade(request, settings)
        identity = authenticated(request, self.service)
        protocol, response = negotiate(request, settings)
        if response.status_code != 101:
            raise ApiError(response.status_code, "The upgrade request is malformed.")
        connection = Connection(
            protocol,
            ping_interval=settings.ping_interval,
            ping_timeout=settings.ping_timeout,
            close_timeout=settings.close_timeout,
            max_queue=None,
        )
        wire = wire_of(request)
        wire.switch(connection)
        protocol.send_response(response)
        connection.send_data()
        connection.start_keepalive()
        record.status = 101
        connected = ConnectionRecord(
            id=self.journal.connections_ever,
            path=request.raw_path,
            headers=record.headers,
            identity=identity,
            extensions=response.headers.get("Sec-WebSocket-Extensions", ""),
            traffic=wire.traffic,
            opened_at=self._time(),
        )
        self.journal.add_connection(connected)
        session = Session(self.service, connection, wire, connected, self._new_websocket_turn, self._time)
        self._sessions[connected.id] = session
        try:
            await session.run()
        finally:
            del self._sessions[connected.id]
        return Upgraded()

    async def _spoiled(self, request: BaseRequest, fault: Fault) -> StreamResponse:
        wire = wire_of(request)
        match fault.what:
            case "error" if fault.body is None:
                raise fault.error()
            case "error":
                headers = {"Content-Type": fault.content_type, **fault.error().headers}
                return Response(body=fault.body, status=fault.status, headers=headers)
            case "silence":
                wire.silence()
                await asyncio.Event().wait()
            case "garbage":
                wire.send(b"\xff\xfe garbage \x00\x01\r\n\r\n")
                wire.close()
            case "close":
                wire.close()
            case _:
                wire.reset()
        raise LinkGone

    def _new_websocket_turn(self, connection: ConnectionRecord, request: Body, size: int) -> SimulatedTurn:
        return self._new_turn("ws", "responses", connection.id, connection.identity, request, size)

    def _time(self) -> float:
        assert self._clock is not None  # noqa: S101  set on entering
        return self._clock()


class Upgraded(Response):
    """Nothing: the connection has stopped speaking HTTP, and is closed."""

    def __init__(self) -> None:
        super().__init__(status=101)
        self.force_close()

    async def prepare(self, request: BaseRequest) -> Any:
        """Send nothing."""

    async def write_eof(self, data: Any = b"") -> None:
        """Send nothing."""
