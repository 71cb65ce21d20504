"""The connections to one upstream, and who may use which.

A *partition* is what one set of credentials may share: connections, baselines, and the knowledge whether
upstream speaks WebSocket and honours chains. Dropping any of it costs bytes, never an answer.
"""

import asyncio
import random
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Self, TypeAlias

from proxy.core.affinity import Candidate, Former, NoRoom, Open, Use, choose
from proxy.core.delta import Baseline, Delta, Full, Mismatch, TurnRequest
from proxy.core.hoist import Form
from proxy.core.items import Dropped
from proxy.core.message import Message
from proxy.core.turn import Rewrite, Turn
from proxy.errors import NoWebSocket, UpstreamError, UpstreamTimeout, UpstreamUnavailable
from proxy.ledger import Connections, Traffic
from proxy.upstream.background import Background
from proxy.upstream.connection import Connection, Timing
from proxy.upstream.dial import Dialer
from proxy.upstream.endpoint import Endpoint
from proxy.upstream.headers import Headers, partition_key
from proxy.upstream.link import Link
from proxy.upstream.meter import Meter
from proxy.upstream.sendqueue import TELLS
from proxy.upstream.standby import Standby
from proxy.upstream.trust import Trust

_PARTITIONS_KEPT = 64
_DOUBTS_KEPT = 64
"""Refused forms of request remembered per partition."""

_FORMERS_KEPT = 64
_SWEEP_SECONDS = 5.0
_LOOK_SECONDS = 0.25
"""How often a connection at work is looked at."""

_GRACE = 1.0
"""How long a stuck connection may still take once a new one is open: on the new one all has to be sent again."""

_AHEAD_SECONDS = 60.0
"""How long before a connection is retired another is opened."""

LATELY_SECONDS = 300.0
"""Since when a connection must have carried a turn for another to be opened ahead in its place."""

_BETWEEN_RESCUES = 5.0
"""How soon another connection is opened for a turn that is stuck, where the last one could not be."""

_MISSES_BELIEVED = 3
"""After so many deltas in a row that upstream could not continue, it does not keep what it promised."""

_COLLAPSE_PATIENCE = 12
"""How many times longer a chain that collapsed is remembered than one that upstream owns up to having lost."""

_COLLAPSE_LONGEST = 24 * 3600.0


@dataclass(frozen=True, slots=True)
class Limits:
    """How many connections a partition keeps, and for how long (seconds)."""

    max_connections: int
    max_age_seconds: float
    idle_seconds: float
    websocket_retry_seconds: float
    dropped_output: Dropped
    open_ahead: bool


@dataclass(slots=True)
class _Slot:
    """A place in a partition: being opened, free, or lent to a turn.

    *opening* is the task that opens it ahead of a turn, if one does; *wanted* says whether a turn waits for that.
    """

    last_used: float
    connection: Connection | None = None
    free: bool = False
    claimed: Baseline | None = None
    closing: Mismatch | None = None
    opening: asyncio.Task[None] | None = None
    wanted: bool = True

    @property
    def baseline(self) -> Baseline | None:
        """What upstream knows there, or knew when the present turn began."""
        return self.connection.baseline if self.connection is not None and self.free else self.claimed

    @property
    def is_spare(self) -> bool:
        """Whether the connection was opened ahead, or is being, and no turn wants it yet."""
        return self.baseline is None if self.free else not self.wanted


@dataclass(frozen=True, slots=True)
class Doubt:
    """A form of request that some services refuse over a WebSocket, with the *reason* for then using HTTP."""

    reason: Mismatch
    model: str = ""


_RECALL = Doubt(Mismatch.UPSTREAM_FORGOT)
"""Stored responses that upstream does not find on another connection."""


@dataclass(slots=True)
class Partition:
    """What one set of credentials may share."""

    headers: Headers
    query: str
    trust: Trust
    slots: dict[int, _Slot] = field(default_factory=dict)
    formers: deque[Former] = field(default_factory=lambda: deque(maxlen=_FORMERS_KEPT))
    chaining_off_until: float = 0.0
    chaining_off_reason: Mismatch = Mismatch.UPSTREAM_FORGOT
    collapses: int = 0
    misses: int = 0
    refused_until: dict[Doubt, float] = field(default_factory=dict)
    accepted_at: dict[Doubt, float] = field(default_factory=dict)
    verdicts: dict[Form | Rewrite, bool] = field(default_factory=dict)
    warm_up_off_until: float = 0.0

    def judge(self, form: Form | Rewrite, *, equal: bool) -> None:
        """Remember whether a request that is rewritten so is *equal* to the agent's, for upstream."""
        if len(self.verdicts) >= _DOUBTS_KEPT:
            del self.verdicts[next(iter(self.verdicts))]
        self.verdicts[form] = equal

    def refuse(self, doubt: Doubt, moment: float) -> None:
        """Take *doubt* for certain until the clock shows *moment*."""
        if len(self.refused_until) >= _DOUBTS_KEPT:
            del self.refused_until[next(iter(self.refused_until))]
        self.refused_until[doubt] = moment

    def accept(self, doubt: Doubt, now: float) -> None:
        """Take note that upstream took what *doubt* says."""
        self.accepted_at.pop(doubt, None)
        if len(self.accepted_at) >= _DOUBTS_KEPT:
            del self.accepted_at[next(iter(self.accepted_at))]
        self.accepted_at[doubt] = now

    def doubts(self, doubt: Doubt, now: float, off_seconds: float) -> None:
        """Believe a refusal for *off_seconds*, unless upstream took the like lately: then it was the request's."""
        if doubt not in self.accepted_at or now - self.accepted_at[doubt] >= off_seconds:
            self.refuse(doubt, now + off_seconds)

    def refuses(self, doubt: Doubt, now: float) -> bool:
        """Whether upstream lately refused what *doubt* says."""
        return now < self.refused_until.get(doubt, now)


class Lease:
    """The exclusive use of a connection for one turn, and what to send on it first."""

    def __init__(
        self, connection: Connection, upload: Delta | Full, partition: Partition, *, recalled: bool = False
    ) -> None:
        self.connection = connection
        self.upload = upload
        self._partition = partition
        self._recalled = recalled

    def start(self, turn: Turn, upload: Delta | Full) -> Message:
        """Return the message that starts *turn* here with *upload*."""
        connection = self.connection
        return turn.start(upload, reused=connection.turns > 0, earlier=connection.last_response)

    async def send(self, message: Message) -> None:
        """Send *message*; from now on it is not known what upstream holds. Raises what `Connection.send` does."""
        self.connection.baseline = self.connection.keepsake = None
        self.connection.turns += 1
        await self.connection.send(message)

    def ended(self, turn: Turn) -> None:
        """Remember which response of *turn* was the last one here."""
        self.connection.last_response = turn.response_id or self.connection.last_response

    def note_delta(self, *, continued: bool, now: float, off_seconds: float, at_once: bool = False) -> None:
        """Remember whether upstream *continued* a chain; where it keeps failing to, stop relying on it."""
        if self._recalled and not at_once:
            if not continued:
                self._partition.refuse(_RECALL, now + off_seconds)  # it says nothing about live chains
            return
        if continued:
            self._partition.misses = 0
            return
        self._partition.misses += 1
        if at_once or self._partition.misses >= _MISSES_BELIEVED:
            self._chain_no_more(now + off_seconds, Mismatch.UPSTREAM_FORGOT)

    def note_collapse(self, *, now: float, off_seconds: float) -> None:
        """Remember that upstream confirmed a chain and had lost it: a fault of its own, that will not pass soon.

        The agent may have been shown an answer without its history, so each time the trust is gone for longer.
        """
        off = min(_COLLAPSE_PATIENCE * off_seconds * 2**self._partition.collapses, _COLLAPSE_LONGEST)
        self._partition.collapses += 1
        self._chain_no_more(now + off, Mismatch.CHAIN_COLLAPSED)

    def _chain_no_more(self, until: float, reason: Mismatch) -> None:
        partition = self._partition
        partition.misses = 0
        if until > partition.chaining_off_until:
            partition.chaining_off_until, partition.chaining_off_reason = until, reason


class NoLease(Exception):
    """No connection can be had for this turn, which should go over plain HTTP, for *reason*."""

    def __init__(self, reason: Mismatch) -> None:
        super().__init__(reason)
        self.reason = reason


WhenLost: TypeAlias = Callable[[Partition, Connection, float], None]


def untold(_partition: Partition, _connection: Connection, _last_used: float) -> None:
    """Let a connection go."""


class Pool:
    """Every connection to *endpoint*. An async context manager; leaving it closes them all.

    `when_lost` is told of each connection that is lost or grows too old, otherwise than with a turn, and when its
    conversation went on last, if that was lately.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        limits: Limits,
        timing: Timing,
        *,
        traffic: Traffic,
        connections: Connections,
        clock: Callable[[], float],
        link: Link | None = None,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._link = link or Link(clock=clock)
        self._jitter = jitter
        self._endpoint = endpoint
        self._limits = limits
        self._timing = timing
        self._traffic = traffic
        self._connections = connections
        self._clock = clock
        self._partitions: OrderedDict[bytes, Partition] = OrderedDict()
        self._next_key = 0
        self._background = Background()
        self._dialer = Standby(endpoint)
        self.when_lost: WhenLost = untold

    async def __aenter__(self) -> Self:
        self._sweeper = self._background.start(self._sweep_forever(), "pool sweeper")
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._sweeper.cancel()
        for partition in self._partitions.values():
            for slot in list(partition.slots.values()):
                self._retire(slot, Mismatch.RETIRED)
                if slot.opening is not None:
                    slot.opening.cancel()
        await self._dialer.close()
        await self._background.close(2 * self._timing.close_timeout)

    def stand_by(self) -> None:
        """Have a connection ready for the first turn, but for its upgrade, where that takes round trips."""
        if self._limits.open_ahead and self._endpoint.secure and self._endpoint.outbound_proxy is None:
            self._dialer.open(self._timing.open_timeout)

    def partition(self, headers: Headers, query: str = "") -> Partition:
        """Return what the identity *headers* and *query* share; a new one where they were never seen."""
        key = partition_key(self._endpoint.websocket(query), headers)
        trust = Trust(self._jitter, self._limits.websocket_retry_seconds)
        found = self._partitions.setdefault(key, Partition(headers, query, trust))
        self._partitions.move_to_end(key)
        if len(self._partitions) > _PARTITIONS_KEPT:
            self._forget_one(newest=key)
        return found

    def _forget_one(self, *, newest: bytes) -> None:
        """Drop the oldest partition that has no connections, or else the oldest that has none at work."""
        idle = [
            key
            for key, each in self._partitions.items()
            if key != newest and all(slot.free for slot in each.slots.values())
        ]
        if idle:
            key = next((key for key in idle if not self._partitions[key].slots), idle[0])
            for slot in self._partitions.pop(key).slots.values():
                self._retire(slot, Mismatch.RETIRED)

    def has_room(self, partition: Partition) -> bool:
        """Whether one more connection would cost no conversation its own."""
        return len(partition.slots) < self._limits.max_connections

    @property
    def is_at_work(self) -> bool:
        """Whether a connection is lent, or is being opened for a turn."""
        return any(
            not slot.free and slot.wanted for each in self._partitions.values() for slot in each.slots.values()
        )

    def connections(self, partition: Partition) -> list[Connection]:
        """Return those that are open."""
        return [slot.connection for slot in partition.slots.values() if slot.connection is not None]

    def has_place(self, request: TurnRequest, partition: Partition) -> bool:
        """Whether *request* finds a connection, or room for one, at no other conversation's cost."""
        if self.has_room(partition) or self._spare(partition) is not None:
            return True
        candidates = self._candidates(partition)
        return isinstance(choose(request, candidates, room=0, dropped=self._limits.dropped_output), Use)

    async def opened_ahead(self, partition: Partition) -> bool:
        """Wait for a connection that is being opened ahead; return whether there is one, or room for another.

        After an attempt that failed there is none: whether a WebSocket can be had is for a turn to find out, since
        turns go over plain HTTP after several that failed.
        """
        opening = [slot.opening for slot in partition.slots.values() if slot.is_spare and slot.opening is not None]
        if opening:
            await asyncio.wait(opening)
        is_known = any(each is partition for each in self._partitions.values())
        can_open = is_known and not partition.trust.is_shaken and self._may_open(partition)
        return can_open and (self._spare(partition) is not None or self.has_room(partition))

    @asynccontextmanager
    async def lease(
        self,
        request: TurnRequest,
        partition: Partition,
        *,
        fresh: Mismatch | None = None,
        fits: bool = True,
        last_used: float | None = None,
    ) -> AsyncIterator[Lease]:
        """Lend the connection on which *request* sends least; with *fresh*, a reason, a new one.

        On a dark link it is waited for link_timeout. A connection that may have died has to prove that it is
        alive, and is raced by a new one; so is one on which the turn, once lent, does not get through: it is then
        given up, which the turn sees as a ConnectionLost, and a *fresh* lease finds the new one open.

        *fits* says whether the whole history fits a WebSocket message; if not, only a delta will do. *last_used*
        is when the conversation went on last, where that is not now.

        Leaving the block with a baseline on the connection gives it back; leaving it without one, or by an
        exception, closes it: what upstream may still send on it is nobody's.

        Raises NoLease where plain HTTP should be used, UpstreamError where upstream refuses the agent, and
        UpstreamUnavailable where it cannot be reached.
        """
        key, slot, upload = self._claim(request, partition, fresh, fits=fits)
        guard = None
        try:
            if slot.opening is not None:
                await slot.opening
                if slot.connection is None and not self._may_open(partition):
                    raise NoLease(Mismatch.NO_WEBSOCKET)  # it was waited for already
            if slot.connection is None:
                slot.connection = await self._open(partition, key)
            elif slot.connection.is_doubtful:
                spare = await self._race(partition, slot.connection)
                if spare is not None:
                    self._replace(partition, key, slot)
                    key, slot = spare
                    if isinstance(upload, Delta) and not self._may_recall(request, partition):
                        upload = Full(Mismatch.CONNECTION_LOST)
                    if isinstance(upload, Full) and not fits:
                        raise NoLease(Mismatch.TOO_LARGE)
            assert slot.connection is not None  # noqa: S101  (it was opened, or proved itself)
            guard = self._background.start(self._guard(partition, slot.connection), "guard a turn")
            recalled = isinstance(upload, Delta) and upload.baseline is not slot.claimed
            yield Lease(slot.connection, upload, partition, recalled=recalled)
        finally:
            if guard is not None:
                guard.cancel()
            if slot.opening is not None:
                slot.opening.cancel()
            self._give_back(partition, key, slot, last_used)

    async def _race(self, partition: Partition, connection: Connection) -> tuple[int, _Slot] | None:
        """Have an idle connection prove that it is alive; None if it did, or the new one that was there first.

        Raises NoLease where neither can be had.
        """
        in_vain = connection.is_silent_still
        proof = self._background.start(connection.prove(self._timing.link_timeout), "prove a connection")
        key, slot, won = 0, None, False
        try:
            await asyncio.wait([proof], timeout=connection.patience)
            if not (proof.done() or in_vain or partition.trust.has_room(self._clock())):
                await asyncio.wait([proof], timeout=self._timing.probe_timeout)
            if proof.done() and proof.result():
                return None
            if not partition.trust.has_room(self._clock()):
                raise NoLease(Mismatch.NO_WEBSOCKET)
            key, slot = self._open_ahead(partition, wanted=True)
            opening = slot.opening
            assert opening is not None  # noqa: S101  (it was begun just now)
            await asyncio.wait([proof, opening], return_when=asyncio.FIRST_COMPLETED)
            if proof.done() and not proof.result():
                await asyncio.wait([opening])
            elif not proof.done() and slot.connection is None:
                await asyncio.wait([proof], timeout=self._timing.probe_timeout)
            if proof.done() and proof.result():
                return None
            if slot.connection is not None:
                won = True
                return key, slot
            raise NoLease(Mismatch.NO_WEBSOCKET)
        finally:
            proof.cancel()
            if slot is not None and not won:
                self._release(partition, key, slot)

    async def _guard(self, partition: Partition, connection: Connection) -> None:
        """Give up a connection on which a turn does not get through, where it would on another way."""
        while connection.is_open:
            await asyncio.sleep(_LOOK_SECONDS)
            if not connection.is_stuck:
                continue
            if self._may_open(partition) and await self._opens_beside(partition, connection):
                found = "a new connection did"
            elif not self._may_open(partition) and await self._answers_beside(connection):
                found = "no new WebSocket can be had"
            else:
                continue
            await asyncio.sleep(_GRACE)
            if connection.is_stuck:
                connection.give_up(f"nothing got through, where {found} (stuck_timeout)")

    async def _opens_beside(self, partition: Partition, stuck: Connection) -> bool:
        """Have a connection for whichever turn needs one while one is *stuck*; return whether it answers."""
        if (spare := self._spare(partition)) is not None and partition.slots[spare].free:
            return await self._answers_still(partition.slots[spare], stuck)
        key, slot = self._open_ahead(partition, wanted=True)
        assert slot.opening is not None  # noqa: S101  (it was begun just now)
        try:
            await self._while_stuck(stuck, slot.opening)
        finally:
            self._release(partition, key, slot)
        if not slot.free and self._may_open(partition):
            await self._rest(stuck)
        return slot.free

    async def _answers_still(self, slot: _Slot, stuck: Connection) -> bool:
        """Whether a spare connection answers while one is *stuck*; one that does not is closed."""
        spare = slot.connection
        assert spare is not None  # noqa: S101  (it is free)
        proof = self._background.start(spare.prove(self._timing.probe_timeout), "prove a connection")
        try:
            await self._while_stuck(stuck, proof)
        finally:
            proof.cancel()
        answers = proof.done() and proof.result()
        if proof.done() and not answers and slot.free:
            spare.abort()
        return answers

    async def _answers_beside(self, stuck: Connection) -> bool:
        """Whether somebody answers at the next hop while a connection is *stuck*: then plain HTTP gets through.

        Only where the kernel tells that this hop has nothing of the turn; elsewhere upstream may be busy with it.
        """
        if not TELLS:
            await self._rest(stuck)
            return False
        dialing = self._background.start(self._answers(), "look whether upstream is there")
        try:
            await self._while_stuck(stuck, dialing)
        finally:
            dialing.cancel()
        if dialing.done() and dialing.result():
            return True
        await self._rest(stuck)
        return False

    async def _answers(self) -> bool:
        via = self._endpoint.outbound_proxy
        dialer = self._dialer if via is None else Dialer(Endpoint(via))
        try:
            (await dialer.dial(self._timing.link_timeout)).close()
        except (OSError, UpstreamUnavailable):
            return False
        return True

    async def _rest(self, stuck: Connection) -> None:
        """Wait before the next attempt for a *stuck* connection's turn, if it needs one."""
        if stuck.is_stuck:
            await asyncio.sleep(_BETWEEN_RESCUES)

    async def _while_stuck(self, stuck: Connection, work: asyncio.Task[Any]) -> None:
        """Wait for *work*, and try harder meanwhile, for as long as the connection is *stuck*."""
        while stuck.is_stuck and not work.done():
            stuck.hurry()
            await asyncio.wait([work], timeout=_LOOK_SECONDS)

    def _open_ahead(self, partition: Partition, *, wanted: bool) -> tuple[int, _Slot]:
        """Begin to open a connection; one that is not *wanted* by a turn is for whichever turn needs one."""
        key, slot = self._place(partition)
        slot.wanted = wanted
        slot.opening = self._background.start(self._fill(partition, key, slot), "open a connection ahead")
        return key, slot

    async def _fill(self, partition: Partition, key: int, slot: _Slot) -> None:
        try:
            slot.connection = await self._open(partition, key)
            slot.free, slot.last_used = not slot.wanted, self._clock()
        except (NoLease, UpstreamError):
            return  # whoever needs a connection will hear of it
        finally:
            if slot.connection is None and not slot.wanted:
                partition.slots.pop(key, None)

    def _release(self, partition: Partition, key: int, slot: _Slot) -> None:
        """Leave a connection opened in a race to whichever turn needs one; where it isn't yet, stop opening it."""
        slot.free = slot.connection is not None
        if not slot.free:
            partition.slots.pop(key, None)
            if slot.opening is not None:
                slot.opening.cancel()

    def _place(self, partition: Partition) -> tuple[int, _Slot]:
        self._next_key += 1
        slot = partition.slots[self._next_key] = _Slot(last_used=self._clock())
        return self._next_key, slot

    def _replace(self, partition: Partition, key: int, slot: _Slot) -> None:
        """Part with a connection that did not prove itself."""
        partition.slots.pop(key, None)
        self._remember(partition, slot.claimed, Mismatch.CONNECTION_LOST)
        self._count_gone(slot)
        if slot.connection is not None:
            slot.connection.give_up("no pong, where a new connection opened")

    def _claim(
        self, request: TurnRequest, partition: Partition, fresh: Mismatch | None, *, fits: bool
    ) -> tuple[int, _Slot, Delta | Full]:
        """Take a place at once, so that nobody else takes it while a connection opens."""
        now = self._clock()
        if not partition.trust.allows(now):
            raise NoLease(Mismatch.NO_WEBSOCKET)
        self._sweep(partition, now)
        choice = choose(
            request,
            self._candidates(partition),
            list(partition.formers),
            room=self._limits.max_connections - len(partition.slots),
            dropped=self._limits.dropped_output,
            fresh=fresh,
            recall=self._may_recall(request, partition),
        )
        if isinstance(choice, NoRoom):
            raise NoLease(Mismatch.BUSY)
        upload = choice.upload
        if isinstance(upload, Delta) and now < partition.chaining_off_until:
            upload = Full(partition.chaining_off_reason)
        if isinstance(upload, Full) and not fits:
            raise NoLease(Mismatch.TOO_LARGE)
        spare = None if isinstance(choice, Use) else self._spare(partition)
        if isinstance(choice, Open) and spare is None and not partition.trust.has_room(now):
            raise NoLease(Mismatch.NO_WEBSOCKET)
        partition.trust.begin(now)
        if isinstance(choice, Use):
            slot = partition.slots[choice.key]
            slot.free, slot.wanted = False, True
            slot.claimed = slot.connection.baseline if slot.connection is not None else None
            slot.last_used = now
            return choice.key, slot, upload
        if spare is not None:
            slot = partition.slots[spare]
            slot.free, slot.wanted, slot.last_used = False, True, now
            return spare, slot, upload
        if choice.evict is not None:
            self._retire(partition.slots.pop(choice.evict), Mismatch.RETIRED, partition)
        return *self._place(partition), upload

    def _may_recall(self, request: TurnRequest, partition: Partition) -> bool:
        """Whether upstream may still know a response whose connection is gone."""
        return request.is_stored and not partition.refuses(_RECALL, self._clock())

    def _may_open(self, partition: Partition) -> bool:
        """Whether another connection may be opened, as far as upstream is concerned."""
        now = self._clock()
        return partition.trust.allows(now) and partition.trust.has_room(now)

    def _spare(self, partition: Partition) -> int | None:
        """Return the place of a connection that was opened ahead, or is being; rather of one that is there."""
        spares = [key for key, slot in partition.slots.items() if slot.is_spare]
        return max(spares, key=lambda key: partition.slots[key].free, default=None)

    def _candidates(self, partition: Partition) -> Sequence[Candidate]:
        return [Candidate(key, slot.baseline, slot.free, slot.last_used) for key, slot in partition.slots.items()]

    async def _open(self, partition: Partition, key: int) -> Connection:
        try:
            await self._link.look_for_upgrade()
        except UpstreamUnavailable as exc:
            raise NoLease(Mismatch.NO_WEBSOCKET) from exc
        trust, began = partition.trust, self._clock()
        try:
            connection = await Connection.open(
                self._endpoint,
                partition.headers,
                Meter(self._traffic),
                self._timing,
                query=partition.query,
                dialer=self._dialer if self._endpoint.outbound_proxy is None else None,
                gone=lambda: self._gone(partition, key),
                heard=self._link.clear,
                clock=self._clock,
            )
        except UpstreamError:
            self._link.clear()
            raise
        except NoWebSocket as exc:
            if self._link.is_captive:
                pass  # it may be the sign-in page's
            elif exc.definite:
                trust.refused(self._clock())
            else:
                trust.not_now(self._clock(), began=began)
            raise NoLease(Mismatch.NO_WEBSOCKET) from exc
        except UpstreamUnavailable as exc:
            if not self._link.is_captive:
                trust.broke_off(self._clock(), began=began, silent=isinstance(exc, UpstreamTimeout))
            raise NoLease(Mismatch.NO_WEBSOCKET) from exc
        trust.opened()
        self._link.clear()
        self._connections.opened += 1
        self._connections.compressions[connection.compression or "none"] += 1
        self._connections.open += 1
        return connection

    def _gone(self, partition: Partition, key: int) -> None:
        """Take note that a socket closed, whoever closed it. Also called for one whose upgrade failed."""
        slot = partition.slots.get(key)
        if slot is None or slot.connection is None:
            return
        if slot.free:
            del partition.slots[key]
            self._remember(partition, slot.connection.baseline, Mismatch.CONNECTION_LOST)
            if slot.closing is None:
                self._open_in_place(partition, slot)
                self._tell_of(partition, slot)
        self._count_gone(slot)

    def _open_in_place(self, partition: Partition, slot: _Slot) -> None:
        """Open a connection ahead for the conversation of *slot*, if it may go on soon."""
        now = self._clock()
        if (
            self._limits.open_ahead
            and slot.connection is not None
            and slot.connection.baseline is not None
            and now - slot.last_used < LATELY_SECONDS
            and self._may_open(partition)
            and len(partition.slots) < self._limits.max_connections
            and not any(each.is_spare for each in partition.slots.values())
        ):
            self._open_ahead(partition, wanted=False)

    def _tell_of(self, partition: Partition, slot: _Slot) -> None:
        if slot.connection is not None and self._clock() - slot.last_used < LATELY_SECONDS:
            self.when_lost(partition, slot.connection, slot.last_used)

    def _count_gone(self, slot: _Slot) -> None:
        if slot.closing is None:
            slot.closing = Mismatch.CONNECTION_LOST
            self._connections.open -= 1
            self._connections.lost += 1

    def _give_back(self, partition: Partition, key: int, slot: _Slot, last_used: float | None) -> None:
        connection = slot.connection
        is_known = any(each is partition for each in self._partitions.values())  # nobody sweeps those of another
        if is_known and connection is not None and connection.is_open and connection.baseline is not None:
            slot.free, slot.claimed = True, None
            slot.last_used = self._clock() if last_used is None else last_used
            return
        partition.slots.pop(key, None)
        if connection is None:
            return
        lost = slot.closing is not None
        self._remember(partition, slot.claimed, Mismatch.CONNECTION_LOST if lost else Mismatch.AFTER_ERROR)
        self._retire(slot, Mismatch.AFTER_ERROR, abort=True)

    def _remember(self, partition: Partition, baseline: Baseline | None, reason: Mismatch) -> None:
        if baseline is not None:
            partition.formers.appendleft(Former(baseline, reason))

    def _retire(
        self, slot: _Slot, reason: Mismatch, partition: Partition | None = None, *, abort: bool = False
    ) -> None:
        """Close a connection of ours and remember why its baseline is gone."""
        connection = slot.connection
        if connection is None or slot.closing is not None:
            return
        slot.closing = reason
        self._connections.open -= 1
        if partition is not None:
            self._remember(partition, connection.baseline, reason)
        if abort:
            connection.abort()
        else:
            self._background.start(connection.close(), "close a connection")

    def _sweep(self, partition: Partition, now: float) -> None:
        """Retire what is too old or was idle for too long; a connection at work is never touched."""
        for key, slot in list(partition.slots.items()):
            if not slot.free or slot.connection is None:
                continue
            if not slot.connection.is_open:
                del partition.slots[key]
                self._remember(partition, slot.connection.baseline, Mismatch.CONNECTION_LOST)
                self._count_gone(slot)
                self._tell_of(partition, slot)
            elif now - slot.last_used >= self._limits.idle_seconds:
                del partition.slots[key]
                self._retire(slot, Mismatch.RETIRED, partition)
            elif now - slot.connection.opened_at >= self._limits.max_age_seconds:
                del partition.slots[key]
                self._retire(slot, Mismatch.RETIRED, partition)
                self._tell_of(partition, slot)
            else:
                slot.connection.hurry()
                if now - slot.connection.opened_at >= self._limits.max_age_seconds - _AHEAD_SECONDS:
                    self._open_in_place(partition, slot)

    async def _sweep_forever(self) -> None:
        while True:
            await asyncio.sleep(_SWEEP_SECONDS)
            now = self._clock()
            for partition in self._partitions.values():
                self._sweep(partition, now)
