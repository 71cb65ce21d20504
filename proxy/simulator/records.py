"""Records: what the simulated upstream saw and did, for tests and benchmarks to look at."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from proxy.simulator.apierror import ApiError
from proxy.simulator.model import Body, Item

Status = Literal["queued", "in_progress", "completed", "incomplete", "failed", "rejected", "cancelled"]


@dataclass(frozen=True, slots=True)
class Identity:
    """Whose request it is: state is never shared between two identities."""

    authorization: str = ""
    organization: str = ""
    project: str = ""


@dataclass(slots=True, eq=False)
class SimulatedTurn:
    """One ``response.create`` or POST, also if it was refused.

    *context* is what the model really got to read: the parent's whole context, its output, and *input* (with
    item references resolved); *effective* is what else it was told, in the same form for both endpoints.
    *cancelled* says that the asker went away before the end.
    """

    number: int
    transport: Literal["ws", "http"]
    endpoint: Literal["responses", "chat"]
    connection_id: int
    identity: Identity
    request: Body
    raw_size: int
    stream_id: str | None = None
    previous_response_id: str | None = None
    input: list[Item] = field(default_factory=list)
    context: list[Item] = field(default_factory=list)
    effective: Body = field(default_factory=dict)
    response_id: str | None = None
    output: list[Item] = field(default_factory=list)
    usage: Body = field(default_factory=dict)
    status: Status = "queued"
    error: ApiError | None = None
    cancelled: bool = False
    generate: bool = True
    events_sent: int = 0
    bytes_sent: int = 0

    def __repr__(self) -> str:
        parent = f" after {self.previous_response_id}" if self.previous_response_id else ""
        return (
            f"<SimulatedTurn {self.number} {self.transport}/{self.endpoint} {self.response_id}{parent}"
            f" {self.status} input={len(self.input)} context={len(self.context)}>"
        )

    @property
    def settings(self) -> Body:
        """Everything in the request but what it says and where it continues."""
        return {
            name: value
            for name, value in self.request.items()
            if name not in ("type", "input", "messages", "previous_response_id", "stream_id")
        }

    def cancel(self) -> None:
        """Note that the asker went away, unless the end came first."""
        if not self.finished:
            self.cancelled, self.status = True, "cancelled"

    @property
    def finished(self) -> bool:
        """Whether nothing more will happen."""
        return self.status not in ("queued", "in_progress")


@dataclass(slots=True, eq=False)
class ConnectionRecord:
    """One WebSocket; *bytes_in* and *bytes_out* count its socket's bytes, the upgrade included.

    *close_code* and *close_reason* are those received, else those sent, else 1006. *silent* says that it was
    made to say and hear nothing more.
    """

    id: int
    path: str
    headers: list[tuple[str, str]]
    identity: Identity
    extensions: str
    traffic: "Traffic"
    opened_at: float
    turns: int = 0
    frames_in: int = 0
    frames_out: int = 0
    closed: bool = False
    silent: bool = False
    close_code: int | None = None
    close_reason: str | None = None

    def __repr__(self) -> str:
        state = f"closed {self.close_code}" if self.closed else "open"
        return f"<ConnectionRecord {self.id} {state} turns={self.turns}>"

    @property
    def bytes_in(self) -> int:
        """Bytes the socket brought."""
        return self.traffic.bytes_in

    @property
    def bytes_out(self) -> int:
        """Bytes the socket took."""
        return self.traffic.bytes_out


@dataclass(slots=True, eq=False)
class RequestRecord:
    """One HTTP request, upgrades included; *status* is what it was answered with (None: not yet, or nothing)."""

    method: str
    path: str
    headers: list[tuple[str, str]]
    tcp_id: int
    body_size: int = 0
    body_sha256: str = ""
    status: int | None = None

    def header(self, name: str) -> str | None:
        """Return the first value of *name*, in any case."""
        return next((value for key, value in self.headers if key.lower() == name.lower()), None)


@dataclass(slots=True)
class Traffic:
    """Bytes that crossed a socket, or all of them."""

    bytes_in: int = 0
    bytes_out: int = 0


class Journal:
    """All records, in order of arrival, at most *limit* of each kind, and a way to wait for them."""

    def __init__(self, limit: Callable[[], int | None] = lambda: None) -> None:
        self.turns: list[SimulatedTurn] = []
        self.connections: list[ConnectionRecord] = []
        self.requests: list[RequestRecord] = []
        self.turns_ever = 0
        self.connections_ever = 0
        self._limit = limit
        self._waiters: set[asyncio.Future[None]] = set()

    def add_turn(self, turn: SimulatedTurn) -> None:
        """Record a turn."""
        self.turns_ever += 1
        self.turns.append(turn)
        self._trim(self.turns)

    def add_connection(self, connection: ConnectionRecord) -> None:
        """Record a WebSocket."""
        self.connections_ever += 1
        self.connections.append(connection)
        self._trim(self.connections)

    def add_request(self, request: RequestRecord) -> None:
        """Record an HTTP request."""
        self.requests.append(request)
        self._trim(self.requests)

    def _trim(self, records: list[Any]) -> None:
        limit = self._limit()
        if limit is not None:
            del records[: max(len(records) - limit, 0)]
        self.note()

    def note(self) -> None:
        """Wake those who wait: something changed."""
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def until(self, predicate: Callable[[], bool], *, seconds: float = 10) -> None:
        """Wait until *predicate* holds, at most *seconds*."""
        async with asyncio.timeout(seconds):
            while not predicate():
                waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                self._waiters.add(waiter)
                try:
                    await waiter
                finally:
                    self._waiters.discard(waiter)
