"""A pool of real connections without the server in front of it, and conversations that run through it."""

from dataclasses import dataclass, field
from typing import Any, Self

import orjson
from conversation import Clock
from said import JSON, user

from proxy.core.delta import Delta, Full, Mismatch, TurnRequest
from proxy.core.events import ServerEvent
from proxy.core.turn import Turn
from proxy.exchange import Exchange, Waits
from proxy.frontends.base import Readable
from proxy.frontends.responses import Responses
from proxy.ledger import Connections, Traffic
from proxy.simulator import Simulator
from proxy.upstream.endpoint import Endpoint
from proxy.upstream.headers import Headers
from proxy.upstream.partition import Partition
from proxy.upstream.pool import Lease, Limits, Pool
from proxy.upstream.upgrade import Timing

KEY: Headers = (("Authorization", "Bearer key"),)
TIMING = Timing(
    link_timeout=5,
    open_timeout=5,
    send_timeout=5,
    upload_lead=2,
    close_timeout=1,
    ping_interval=20,
    probe_timeout=1,
    stuck_timeout=1,
    max_event_bytes=2**20,
    max_unread_bytes=2**20,
)
WAITS = Waits(first_event_timeout=5, event_timeout=5, max_message_bytes=2**20, websocket_retry_seconds=300)


def request(*items: JSON, **fields: Any) -> TurnRequest:
    """Return the request of an agent whose history is *items*."""
    body = {"model": "gpt-5.5", "store": False, "stream": True, "input": items, **fields}
    read = Responses().decode(orjson.dumps(body))
    assert isinstance(read, Readable)
    return read.turn


@dataclass
class Pooled:
    """A pool towards *base_url*, its figures and its clock. An async context manager."""

    base_url: str
    max_connections: int = 4
    open_ahead: bool = False
    repeats_ids: bool | None = False
    timing: Timing = TIMING
    waits: Waits = WAITS
    clock: Any = field(default_factory=Clock)
    traffic: Traffic = field(default_factory=Traffic)
    connections: Connections = field(default_factory=Connections)

    async def __aenter__(self) -> Self:
        self.limits = Limits(
            max_connections=self.max_connections,
            max_age_seconds=3300,
            idle_seconds=1800,
            websocket_retry_seconds=300,
            dropped_output="reasoning",
            open_ahead=self.open_ahead,
            repeats_ids=self.repeats_ids,
        )
        self.pool = Pool(
            Endpoint(self.base_url),
            self.limits,
            self.timing,
            traffic=self.traffic,
            connections=self.connections,
            clock=self.clock,
        )
        await self.pool.__aenter__()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.pool.__aexit__(*exc_info)

    @property
    def partition(self) -> Partition:
        """The partition of the usual key."""
        return self.pool.partition(KEY)

    def exchange(self, asked: TurnRequest, traffic: Traffic | None = None) -> Exchange:
        """Return what answers *asked*."""
        return Exchange(
            Turn(asked),
            pool=self.pool,
            partition=self.partition,
            waits=self.waits,
            clock=self.clock,
            traffic=traffic or Traffic(),
        )

    async def lend(self, asked: TurnRequest, *, fresh: Mismatch | None = None) -> Turn:
        """Run a turn on a lease, as an exchange would that nothing happens to."""
        async with self.pool.lease(asked, self.partition, fresh=fresh) as lease:
            return await run(lease, asked)


async def run(lease: Lease, asked: TurnRequest) -> Turn:
    """Run a turn on the connection of *lease*, to its end."""
    connection, turn = lease.connection, Turn(asked)
    message = turn.start(lease.upload, reused=connection.turns > 0)
    connection.baseline = None
    connection.turns += 1
    await connection.send(message)
    while turn.in_flight:
        turn.receive(await connection.receive(5, "event_timeout"))
    connection.baseline = turn.baseline
    return turn


class Conversation:
    """A history, and the requests that make it longer."""

    def __init__(self) -> None:
        self.history: list[JSON] = []

    def says(self, text: str, **fields: Any) -> TurnRequest:
        """Return the request with *text* at the end of the history."""
        self.history.append(user(text))
        return request(*self.history, **fields)

    def hears(self, output: list[JSON]) -> None:
        """Add the model's *output* to the history."""
        self.history += output


class Shown:
    """What an exchange delivered."""

    def __init__(self) -> None:
        self.events: list[ServerEvent] = []

    async def __call__(self, events: tuple[ServerEvent, ...]) -> None:
        """Take *events*."""
        self.events += events

    @property
    def types(self) -> list[str]:
        """The types of the events."""
        return [event.type for event in self.events]

    @property
    def output(self) -> list[JSON]:
        """The items of the answer."""
        return [event.json()["item"] for event in self.events if event.type == "response.output_item.done"]


async def converse(pooled: Pooled, simulator: Simulator, conversation: Conversation, text: str) -> Delta | Full:
    """Run a turn of *conversation*; return how it was sent."""
    turn = await pooled.lend(conversation.says(text))
    conversation.hears(simulator.turns[-1].output)
    return turn.upload
