"""The connections to one upstream, and who may use which: from the claim to the return.

A turn claims a place in its partition before anything is waited for, so that no other takes it. What is given back
keeps its baseline; what is too old, idle for too long or lost leaves its place, and may be opened again ahead.
"""

import asyncio
import random
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from math import inf
from operator import itemgetter
from typing import Self, TypeAlias

from proxy.core.affinity import NoRoom, Open, Recall, Take, Use, choose
from proxy.core.delta import Baseline, Delta, Full, Mismatch, TurnRequest
from proxy.core.items import Dropped
from proxy.core.message import Message
from proxy.core.turn import Turn
from proxy.errors import UpstreamError, UpstreamUnavailable
from proxy.ledger import Connections, Traffic
from proxy.upstream.background import Background
from proxy.upstream.connection import PAUSE, Connection
from proxy.upstream.endpoint import Endpoint
from proxy.upstream.headers import Headers, partition_key
from proxy.upstream.link import Link
from proxy.upstream.opener import Opener
from proxy.upstream.partition import NoLease, Partition, Slot
from proxy.upstream.rescue import Rescue
from proxy.upstream.trust import Trust
from proxy.upstream.upgrade import Timing

_PARTITIONS_KEPT = 64
_SWEEP_SECONDS = 5.0
_AHEAD_SECONDS = 60.0
"""How long before a connection is retired another is opened."""

LATELY_SECONDS = 300.0
"""Since when a connection must have carried a turn for another to be opened ahead in its place."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How many connections a partition keeps, and for how long (seconds).

    *repeats_ids* says whether the responses on a connection share an id, None where nobody knows: a stored one is
    not continued elsewhere where they do, or may. *begins_anew* says that upstream reads a request that continues
    nothing alone, whatever its connection carried before; else one that is not plainly whole gets a new one.
    """

    max_connections: int
    max_age_seconds: float
    idle_seconds: float
    websocket_retry_seconds: float
    dropped_output: Dropped
    open_ahead: bool
    repeats_ids: bool | None = None
    begins_anew: bool = True


class Lease:
    """The exclusive use of a connection for one turn, and the *upload* to send on it first.

    *recalled* says that this continues a stored response of another connection.
    """

    def __init__(self, connection: Connection, upload: Delta | Full, *, recalled: bool = False) -> None:
        self.connection = connection
        self.upload = upload
        self.recalled = recalled
        self._turns_before = connection.turns

    @property
    def has_sent(self) -> bool:
        """Whether anything was sent on it."""
        return self.connection.turns > self._turns_before

    def start(self, turn: Turn, upload: Delta | Full) -> Message:
        """Return the message that starts *turn* here with *upload*."""
        connection = self.connection
        connection.given |= turn.request.fields.keys()
        return turn.start(upload, reused=connection.turns > 0, earlier=connection.last_response)

    async def send(self, message: Message) -> None:
        """Send *message*; from now on it is not known what upstream holds. Raises what `Connection.send` does."""
        self.connection.baseline = self.connection.keepsake = None
        self.connection.turns += 1
        await self.connection.send(message)

    def ended(self, turn: Turn) -> None:
        """Remember which response of *turn* was the last one here."""
        self.connection.last_response = turn.response_id or self.connection.last_response


WhenLost: TypeAlias = Callable[[Partition, Connection, float], None]
"""Is called with a connection that is gone, and the time (of the pool's clock) at which a turn used it last."""


def ignore_loss(_partition: Partition, _connection: Connection, _last_used: float) -> None:
    """Do nothing: this is `when_lost` where nobody wants to know."""


class Pool:
    """Every connection to *endpoint*. An async context manager; leaving it closes them all.

    `when_lost` is called for each connection that is lost between turns or with the end of one, or is closed
    because it is too old, if its last turn was less than LATELY_SECONDS ago.
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
        self._jitter = jitter
        self._endpoint = endpoint
        self._limits = limits
        self._timing = timing
        self._connections = connections
        self._clock = clock
        self._partitions: OrderedDict[bytes, Partition] = OrderedDict()
        self._next_key = 0
        self._background = Background()
        self._opener = Opener(endpoint, timing, link=link or Link(clock=clock), traffic=traffic, clock=clock)
        self._rescue = Rescue(
            self._opener,
            timing,
            background=self._background,
            clock=clock,
            begin=self._begin_for_a_turn,
            release=self._release,
        )
        self.when_lost: WhenLost = ignore_loss

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
        await self._opener.close()
        await self._background.close(2 * self._timing.close_timeout)

    def stand_by(self) -> None:
        """Have a connection ready for the first turn, but for its upgrade, where that takes round trips."""
        if self._limits.open_ahead:
            self._opener.stand_by()

    def partition(self, headers: Headers, query: str = "") -> Partition:
        """Return what the identity *headers* and *query* share; a new one where they were never seen."""
        key = partition_key(self._endpoint.websocket(query), headers)
        found = self._partitions.get(key)
        if found is None:
            trust = Trust(self._jitter, self._limits.websocket_retry_seconds)
            found = self._partitions[key] = Partition(headers, query, trust)
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

    def _knows(self, partition: Partition) -> bool:
        """Whether *partition* is one of the pool's still: it may have been forgotten to make room."""
        return any(each is partition for each in self._partitions.values())

    @property
    def begins_anew(self) -> bool:
        """Whether a connection may carry another conversation, or one told anew, after the one that it carried."""
        return self._limits.begins_anew

    def has_room(self, partition: Partition) -> bool:
        """Whether one more connection would cost no conversation its own."""
        return len(partition.slots) < self._limits.max_connections

    async def make_room(self) -> bool:
        """Close the connection that has carried no turn for longest; return whether there was one."""
        free = [
            (slot.last_used, key, each)
            for each in self._partitions.values()
            for key, slot in each.slots.items()
            if slot.free and slot.connection is not None
        ]
        if not free:
            return False
        _, key, partition = min(free, key=itemgetter(0, 1))
        slot = partition.slots.pop(key)
        self._retire(slot, Mismatch.RETIRED, partition)
        if slot.connection is not None:
            await slot.connection.close()
        return True

    @property
    def is_at_work(self) -> bool:
        """Whether a connection is lent, or is being opened for a turn."""
        return any(
            not slot.free and slot.wanted for each in self._partitions.values() for slot in each.slots.values()
        )

    def has_place(self, request: TurnRequest, partition: Partition) -> bool:
        """Whether *request* finds a connection, or room for one, at no other conversation's cost."""
        if self.has_room(partition) or partition.spare is not None:
            return True
        found = choose(
            request, partition.candidates, room=0, now=self._clock(), dropped=self._limits.dropped_output
        )
        return isinstance(found, Use)

    async def opened_ahead(self, partition: Partition) -> bool:
        """Wait for a connection that is being opened ahead; return whether there is one, or room for another.

        After an attempt that failed there is none: whether a WebSocket can be had is for a turn to find out, since
        turns go over plain HTTP after several that failed.
        """
        opening = [slot.opening for slot in partition.slots.values() if slot.is_spare and slot.opening is not None]
        if opening:
            await asyncio.wait(opening)
        can_open = self._knows(partition) and not partition.trust.is_shaken and partition.may_open(self._clock())
        return can_open and (partition.spare is not None or self.has_room(partition))

    def open_ahead(self, partition: Partition, *, behind: bool = False) -> None:
        """Open a connection that a turn will need soon, as `Opener.open` does, unless one is there or begun."""
        if (
            self._limits.open_ahead
            and self._knows(partition)
            and partition.may_open(self._clock())
            and self.has_room(partition)
            and partition.spare is None
        ):
            self._open_ahead(partition, wanted=False, behind=behind)

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

        However the block is left, a connection that has a baseline by then is given back. One that has none is
        closed: what upstream may still send on it is nobody's.

        Raises NoLease where plain HTTP should be used, and UpstreamError where upstream refuses the agent.
        """
        key, slot, upload = self._claim(request, partition, fresh, fits=fits)
        guard = lease = None
        try:
            if slot.opening is not None:
                await slot.opening
                if slot.connection is None and not partition.may_open(self._clock()):
                    raise NoLease(Mismatch.NO_WEBSOCKET)  # it was waited for already
            if slot.connection is None:
                slot.connection = await self._open(partition, key)
            elif slot.connection.is_doubtful:
                spare = await self._race(partition, slot.connection)
                if spare is not None:
                    self._replace(partition, key, slot)
                    key, slot = spare
                    if isinstance(upload, Delta) and not self._recall(request, partition).allows(upload.baseline):
                        upload = Full(Mismatch.CONNECTION_LOST)
                    if isinstance(upload, Full) and not fits:
                        raise NoLease(Mismatch.TOO_LARGE)
            assert slot.connection is not None  # noqa: S101  (it was opened, or proved itself)
            slot.connection.wary = partition.slumber.rhythm(self._clock()) < inf
            guard = self._background.start(self._rescue.guard(partition, slot.connection), "guard a turn")
            recalled = isinstance(upload, Delta) and upload.baseline is not slot.claimed
            lease = Lease(slot.connection, upload, recalled=recalled)
            yield lease
        finally:
            if guard is not None:
                guard.cancel()
            if slot.opening is not None:
                slot.opening.cancel()
            sent = request if lease is not None and lease.has_sent else None
            self._give_back(partition, key, slot, sent, last_used)

    async def _race(self, partition: Partition, doubtful: Connection) -> tuple[int, Slot] | None:
        """Race a *doubtful* connection as `Rescue.race` does, and learn which silence it outlived, or did not."""
        quiet = doubtful.quiet
        spare = await self._rescue.race(partition, doubtful)
        if spare is None:
            partition.slumber.survived(quiet)
        elif doubtful.is_merely_silent:
            partition.slumber.lost(quiet, self._clock())
        return spare

    def _begin_for_a_turn(self, partition: Partition, *, beside: bool = False) -> tuple[int, Slot]:
        return self._open_ahead(partition, wanted=True, beside=beside)

    def _open_ahead(
        self, partition: Partition, *, wanted: bool, beside: bool = False, behind: bool = False
    ) -> tuple[int, Slot]:
        """Begin to open a connection, as `Opener.open` does.

        One that is not *wanted* by a turn is for whichever turn needs one.
        """
        key, slot = self._place(partition)
        slot.wanted = wanted
        work = self._fill(partition, key, slot, beside=beside, behind=behind)
        slot.opening = self._background.start(work, "open a connection ahead")
        return key, slot

    async def _fill(self, partition: Partition, key: int, slot: Slot, *, beside: bool, behind: bool) -> None:
        try:
            slot.connection = await self._open(partition, key, beside=beside, behind=behind)
            slot.connection.rest()
            slot.free, slot.last_used = not slot.wanted, self._clock()
        except (NoLease, UpstreamError):
            return  # whoever needs a connection will hear of it
        finally:
            if slot.connection is None and not slot.wanted:
                partition.slots.pop(key, None)

    def _release(self, partition: Partition, key: int, slot: Slot) -> None:
        """Leave a connection opened in a race to whichever turn needs one; where it isn't yet, stop opening it."""
        slot.free = slot.connection is not None
        if not slot.free:
            partition.slots.pop(key, None)
            if slot.opening is not None:
                slot.opening.cancel()

    def _place(self, partition: Partition) -> tuple[int, Slot]:
        self._next_key += 1
        slot = partition.slots[self._next_key] = Slot(last_used=self._clock())
        return self._next_key, slot

    def _replace(self, partition: Partition, key: int, slot: Slot) -> None:
        """Part with a connection that did not prove itself."""
        partition.slots.pop(key, None)
        partition.remember(slot.claimed, Mismatch.CONNECTION_LOST)
        self._count_gone(slot)
        if slot.connection is not None:
            slot.connection.give_up("no pong, where a new connection opened")

    def _claim(
        self, request: TurnRequest, partition: Partition, fresh: Mismatch | None, *, fits: bool
    ) -> tuple[int, Slot, Delta | Full]:
        """Take a place at once, so that nobody else takes it while a connection opens."""
        now = self._clock()
        if not partition.trust.allows(now):
            raise NoLease(Mismatch.NO_WEBSOCKET)
        self._sweep(partition, now)
        choice = self._choice(request, partition, fresh, fits=fits)
        goes_on = not isinstance(choice, NoRoom) and isinstance(choice.upload, Delta)
        if not goes_on and partition.note_return(request):
            choice = self._choice(request, partition, fresh, fits=fits)  # what seemed to be over may not be
        if isinstance(choice, NoRoom):
            raise NoLease(Mismatch.BUSY)
        upload = partition.blamed(partition.believed(choice.upload, now), request)
        choice = self._apart(partition, choice, upload, request)
        if isinstance(upload, Full) and not fits:
            raise NoLease(Mismatch.TOO_LARGE)
        spare = partition.spare if isinstance(choice, Open) else None
        if isinstance(choice, Open) and spare is None and not partition.trust.has_room(now):
            raise NoLease(Mismatch.NO_WEBSOCKET)
        if isinstance(choice, Open) and self._is_tried_beside(partition, spare):
            raise NoLease(Mismatch.NO_WEBSOCKET)
        partition.trust.begin(now)
        partition.note_course(request, choice.upload)
        if not isinstance(choice, Open):
            return choice.key, self._taken(partition, choice, now), upload
        if choice.evict is not None:
            self._retire(partition.slots.pop(choice.evict), Mismatch.RETIRED, partition)
        if spare is not None:
            slot = partition.slots[spare]
            slot.free, slot.wanted, slot.last_used = False, True, now
            return spare, slot, upload
        return *self._place(partition), upload

    def _apart(
        self, partition: Partition, choice: Use | Take | Open, upload: Delta | Full, request: TurnRequest
    ) -> Use | Take | Open:
        """Return *choice*, or a new connection in its place where upstream may go on with another turn than asked.

        It may wherever *upload* does not continue just that, or is plainly a whole conversation.
        """
        if self._limits.begins_anew or isinstance(choice, Open):
            return choice
        slot = partition.slots[choice.key]
        if isinstance(upload, Delta):
            is_safe = upload.baseline is slot.baseline
        else:  # settings that it leaves out, or tells as items, could be those that were given there before
            given = slot.connection.given if slot.connection is not None else set()
            is_safe = request.is_plainly_whole and request.hoisted is None and given <= request.fields.keys()
        is_blank = slot.connection is None or slot.connection.turns == 0
        return choice if is_safe or is_blank else Open(upload, evict=choice.key)

    def _taken(self, partition: Partition, choice: Use | Take, now: float) -> Slot:
        """Claim the connection of *choice*."""
        slot = partition.slots[choice.key]
        slot.free, slot.wanted, slot.last_used = False, True, now
        slot.claimed = slot.connection.baseline if slot.connection is not None else None
        if isinstance(choice, Take):
            partition.remember(slot.claimed, Mismatch.RETIRED)
            slot.claimed = None
        return slot

    def _choice(
        self, request: TurnRequest, partition: Partition, fresh: Mismatch | None, *, fits: bool
    ) -> Use | Take | Open | NoRoom:
        """Choose where *request* goes."""
        now = self._clock()
        return choose(
            request,
            partition.candidates,
            partition.formers,
            room=self._room(partition),
            now=now,
            dropped=self._limits.dropped_output,
            fresh=fresh,
            recall=self._recall(request, partition),
            habits=partition.kinds.habits(may_go_aside=fits and partition.may_open(now)),
        )

    def _recall(self, request: TurnRequest, partition: Partition) -> Recall:
        """Return which stored responses *request* may continue elsewhere.

        Where responses share an id, it is also that of a turn that was lost before anything of it was heard.
        """
        if self._limits.repeats_ids or not partition.may_recall(request, self._clock()):
            return Recall.NONE
        return Recall.OWN_ID if self._limits.repeats_ids is None else Recall.ANY

    def _is_tried_beside(self, partition: Partition, spare: int | None) -> bool:
        """Whether a WebSocket is asked for that is not worth waiting for: upgrades are swallowed, time and again.

        Should it open after all, it is there for the next turn.
        """
        if not partition.trust.is_swallowed or (spare is not None and partition.slots[spare].free):
            return False
        if spare is None and self.has_room(partition):
            self._open_ahead(partition, wanted=False)
        return spare is not None or partition.spare is not None

    def _room(self, partition: Partition) -> int:
        """Return how many connections can be had at no conversation's cost: new ones, or one opened ahead."""
        room = self._limits.max_connections - len(partition.slots)
        return room if partition.spare is None else max(room, 1)

    async def _open(
        self, partition: Partition, key: int, *, beside: bool = False, behind: bool = False
    ) -> Connection:
        gone = partial(self._gone, partition, key)
        try:
            connection = await self._opener.open(partition, gone, beside=beside, behind=behind)
        except UpstreamUnavailable as exc:
            raise NoLease(Mismatch.NO_WEBSOCKET) from exc
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
            partition.remember(slot.connection.baseline, Mismatch.CONNECTION_LOST)
            if slot.closing is None:
                self._open_in_place(partition, slot)
                self._tell_of(partition, slot)
        self._count_gone(slot)

    def _open_in_place(self, partition: Partition, slot: Slot) -> None:
        """Open a connection ahead for the conversation of *slot*, if it may go on soon."""
        knew_one = slot.connection is not None and slot.connection.baseline is not None
        if knew_one and self._clock() - slot.last_used < LATELY_SECONDS:
            self.open_ahead(partition)

    def _tell_of(self, partition: Partition, slot: Slot) -> None:
        if slot.connection is not None and self._clock() - slot.last_used < LATELY_SECONDS:
            self.when_lost(partition, slot.connection, slot.last_used)

    def _count_gone(self, slot: Slot) -> None:
        if slot.closing is None:
            slot.closing = Mismatch.CONNECTION_LOST
            self._connections.open -= 1
            self._connections.lost += 1

    def _give_back(
        self, partition: Partition, key: int, slot: Slot, sent: TurnRequest | None, last_used: float | None
    ) -> None:
        """Take a connection back, on which a turn *sent* its request, or sent nothing."""
        connection = slot.connection
        if connection is not None and connection.baseline is not None and self._knows(partition):
            now = self._clock()
            if sent is not None:
                _note_turn(partition, connection, now=now, seconds=now - slot.last_used)
            if sent is not None and last_used is None:  # else the agent knows nothing of it
                _note_answer(partition, slot, sent, connection.baseline)
            slot.last_used = now if last_used is None else last_used
            if connection.is_open:
                slot.free, slot.claimed = True, None
                connection.rest()
            else:
                partition.slots.pop(key, None)
                self._lost_behind_a_turn(partition, slot)
            return
        partition.slots.pop(key, None)
        if connection is None:
            return
        lost = slot.closing is not None
        if sent is not None and slot.claimed is None and not lost:
            partition.cut_short[sent.asked] = True
        blameless = lost or not connection.sent_whole
        partition.remember(slot.claimed, Mismatch.CONNECTION_LOST if blameless else Mismatch.AFTER_ERROR)
        self._retire(slot, Mismatch.AFTER_ERROR, abort=True)

    def _lost_behind_a_turn(self, partition: Partition, slot: Slot) -> None:
        """Take note that a connection closed with the end of a turn: what it held may be had again."""
        assert slot.connection is not None  # noqa: S101  (it carried the turn)
        partition.remember(slot.connection.baseline, Mismatch.CONNECTION_LOST)
        self._open_in_place(partition, slot)
        self._tell_of(partition, slot)
        self._count_gone(slot)

    def _retire(
        self, slot: Slot, reason: Mismatch, partition: Partition | None = None, *, abort: bool = False
    ) -> None:
        """Close a connection of ours and remember why its baseline is gone."""
        connection = slot.connection
        if connection is None or slot.closing is not None:
            return
        slot.closing = reason
        self._connections.open -= 1
        if partition is not None:
            partition.remember(connection.baseline, reason)
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
                partition.remember(slot.connection.baseline, Mismatch.CONNECTION_LOST)
                self._count_gone(slot)
                self._tell_of(partition, slot)
            elif now - slot.last_used >= self._limits.idle_seconds:
                del partition.slots[key]
                self._retire(slot, Mismatch.RETIRED, partition)
            elif now - slot.connection.opened_at >= self._best_before(partition, now):
                del partition.slots[key]
                self._retire(slot, Mismatch.RETIRED, partition)
                self._open_in_place(partition, slot)
                self._tell_of(partition, slot)
            else:
                slot.connection.hurry()
                if now - slot.connection.opened_at >= self._limits.max_age_seconds - _AHEAD_SECONDS:
                    self._open_in_place(partition, slot)
        self._shed(partition)

    def _shed(self, partition: Partition) -> None:
        """Close what was opened beside turns that got through after all, where there may not be so many."""
        slots = partition.slots
        while len(slots) > self._limits.max_connections and all(slot.free for slot in slots.values()):
            if partition.spare is None:
                return
            self._retire(slots.pop(partition.spare), Mismatch.RETIRED)

    def _best_before(self, partition: Partition, now: float) -> float:
        return min(self._limits.max_age_seconds, partition.lifespan.best_before(now))

    async def _sweep_forever(self) -> None:
        while True:
            await asyncio.sleep(_SWEEP_SECONDS)
            now = self._clock()
            for partition in self._partitions.values():
                self._sweep(partition, now)
                self._keep_awake(partition, now)

    def _keep_awake(self, partition: Partition, now: float) -> None:
        """Ping connections that something in between may forget before their own pings.

        Those with a turn that upstream has, or whose last one was lately and that owe no pong.
        """
        rhythm = partition.slumber.rhythm(now)
        for slot in partition.slots.values():
            connection = slot.connection
            if connection is None or connection.silence + _SWEEP_SECONDS <= rhythm:
                continue
            rests = slot.baseline is not None and now - slot.last_used < LATELY_SECONDS
            if (rests and not connection.unanswered) if slot.free else connection.is_delivered:
                self._background.start(connection.ask(), "keep a connection awake")


def _note_turn(partition: Partition, connection: Connection, *, now: float, seconds: float) -> None:
    """Learn from a turn that took so many *seconds* and came to its end."""
    partition.lifespan.done(seconds, age=now - connection.opened_at)
    if connection.pause > PAUSE:
        if connection.turns > 1:  # on a new one upstream may have other workers
            partition.hasty = 0
        partition.slumber.survived(connection.pause)


def _note_answer(partition: Partition, slot: Slot, asked: TurnRequest, known: Baseline) -> None:
    """Learn from what an agent *asked*, and what upstream holds once it has answered: *known*."""
    partition.cut_short.pop(asked.asked, None)
    if slot.claimed is None:
        partition.note_gone_on(asked)
    if known.kind is not None:
        partition.kinds.ended(known.kind)
