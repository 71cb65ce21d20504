"""What is done for a turn whose connection does not answer: a race with a new one (ADR 11)."""

import asyncio
from collections.abc import Callable
from typing import Any, Protocol

from proxy.core.delta import Mismatch
from proxy.upstream.background import Background
from proxy.upstream.connection import Connection
from proxy.upstream.opener import Opener
from proxy.upstream.partition import NoLease, Partition, Slot
from proxy.upstream.sendqueue import TELLS
from proxy.upstream.upgrade import Timing

_LOOK_SECONDS = 0.25
"""How often a connection at work is looked at."""

_GRACE = 1.0
"""How long a stuck connection may still take once a new one is open: on the new one all has to be sent again."""

_BETWEEN_RESCUES = 5.0
"""How soon another connection is opened for a turn that is stuck, where the last one could not be."""


_ASKED = 5
"""Turns in which a ping finds out, if none has yet, whether upstream answers one in the middle of a turn."""


class Begin(Protocol):
    """What has a connection opened for a turn."""

    def __call__(self, partition: Partition, *, beside: bool = False) -> tuple[int, Slot]:
        """Begin to open one, as `Opener.open` does; return its place."""
        ...


class Rescue:
    """Connections beside those in doubt, or stuck. *begin* has one opened, *release* leaves it to others."""

    def __init__(
        self,
        opener: Opener,
        timing: Timing,
        *,
        background: Background,
        clock: Callable[[], float],
        begin: Begin,
        release: Callable[[Partition, int, Slot], None],
    ) -> None:
        self._opener = opener
        self._timing = timing
        self._background = background
        self._clock = clock
        self._begin = begin
        self._release = release

    async def race(self, partition: Partition, connection: Connection) -> tuple[int, Slot] | None:
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
            key, slot = self._begin(partition)
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

    async def guard(self, partition: Partition, connection: Connection) -> None:
        """Give up a connection on which a turn does not get through, where it would on another way."""
        asked = partition.answers_at_work or partition.asked_at_work >= _ASKED
        hasty = False
        looked = False  # beside a mute one, once: a server too busy to answer may be too busy to open another
        while connection.is_open:
            await asyncio.sleep(_LOOK_SECONDS)
            partition.answers_at_work = partition.answers_at_work or connection.answers_at_work
            connection.pongs_count = partition.answers_at_work
            if connection.look_whether_stuck():
                await self._unstick(partition, connection)
                continue
            if not asked and connection.is_delivered:
                asked, partition.asked_at_work = True, partition.asked_at_work + 1
                await connection.ask()
            if connection.is_unheard and (partition.answers_at_work or (connection.is_mute and not looked)):
                looked = True
                await self._outlive(partition, connection)
            elif not hasty and connection.is_forgotten(2**partition.hasty):
                hasty = True
                await self._outlive(partition, connection, behind_a_pause=True)

    async def _unstick(self, partition: Partition, stuck: Connection) -> None:
        """Give up a connection that stays *stuck* where another opens, or else where the next hop answers."""
        if partition.may_open(self._clock()) and await self._opens_beside(partition, stuck):
            found = "a new connection did"
        elif not partition.may_open(self._clock()) and await self._answers_beside(stuck):
            found = "no new WebSocket can be had"
        else:
            return
        await asyncio.sleep(_GRACE)
        if stuck.look_whether_stuck():
            if not TELLS:
                _doubt_pongs(partition)
            stuck.give_up(f"nothing got through, where {found} (stuck_timeout)")

    async def _outlive(self, partition: Partition, silent: Connection, *, behind_a_pause: bool = False) -> None:
        """Give up a connection that goes on to be *silent* where another one has its ping answered.

        What upstream said into the dark comes late, by as much as that took: so it is waited for as long again.
        Where no pong came of a ping *behind a pause*, that long is since the ping: before, upstream had nothing to
        say. Nor does the pong queue behind the turn's message.
        Where nothing ever came on the one, and nothing comes on the other, WebSockets open here and carry nothing.
        """
        heard_at = silent.heard_at
        proving = self._background.start(self._proves_beside(partition), "prove a connection beside a silent one")
        try:
            while silent.heard_at == heard_at and not proving.done():
                await asyncio.wait([proving], timeout=_LOOK_SECONDS)
        finally:
            proving.cancel()
        proved = proving.result() if proving.done() and not proving.cancelled() else None
        if proved is False and _carries_nothing(partition, silent):
            partition.trust.lost(self._clock(), opened=silent.opened_at, enough=1)
            silent.give_up("WebSockets open here, and nothing comes on them")
        if not (proved and (behind_a_pause or partition.answers_at_work)):
            await asyncio.sleep(self._timing.probe_timeout)
            return
        again = silent.unanswered if behind_a_pause else silent.silence + silent.queued_seconds
        longest = silent.silence + again
        while silent.heard_at == heard_at and silent.is_open:
            if silent.silence > longest:
                _doubt_pongs(partition)
                partition.hasty += behind_a_pause
                if silent.is_merely_silent:
                    partition.slumber.lost(silent.quiet, self._clock())
                silent.give_up(f"nothing was heard for {silent.silence:.0f} s, where another connection answers")
            await asyncio.sleep(_LOOK_SECONDS)

    async def _proves_beside(self, partition: Partition) -> bool | None:
        """Whether a spare connection, a new one if there is none, has a ping answered; None where none opens."""
        spare = partition.spare
        if spare is not None and partition.slots[spare].free:
            slot = partition.slots[spare]
        elif not partition.may_open(self._clock()):
            return None
        else:
            key, slot = self._begin(partition, beside=True)
            assert slot.opening is not None  # noqa: S101  (it was begun just now)
            try:
                await asyncio.wait([slot.opening])
            finally:
                self._release(partition, key, slot)
        other = slot.connection
        if other is None:
            return None
        answers = await other.prove(self._timing.probe_timeout)
        if not answers and slot.free:
            other.abort()
        return answers

    async def _opens_beside(self, partition: Partition, stuck: Connection) -> bool:
        """Have a connection for whichever turn needs one while one is *stuck*; return whether it answers."""
        if (spare := partition.spare) is not None and partition.slots[spare].free:
            return await self._answers_still(partition.slots[spare], stuck)
        key, slot = self._begin(partition)
        assert slot.opening is not None  # noqa: S101  (it was begun just now)
        try:
            await self._while_stuck(stuck, slot.opening)
        finally:
            self._release(partition, key, slot)
        if not slot.free and partition.may_open(self._clock()):
            await self._rest(stuck)
        return slot.free

    async def _answers_still(self, slot: Slot, stuck: Connection) -> bool:
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
        dialing = self._background.start(self._opener.answers(), "look whether upstream is there")
        try:
            await self._while_stuck(stuck, dialing)
        finally:
            dialing.cancel()
        if dialing.done() and dialing.result():
            return True
        await self._rest(stuck)
        return False

    async def _rest(self, stuck: Connection) -> None:
        """Wait before the next attempt for a *stuck* connection's turn, if it needs one."""
        if stuck.look_whether_stuck():
            await asyncio.sleep(_BETWEEN_RESCUES)

    async def _while_stuck(self, stuck: Connection, work: asyncio.Task[Any]) -> None:
        """Wait for *work*, and try harder meanwhile, for as long as the connection is *stuck*."""
        while stuck.look_whether_stuck() and not work.done():
            stuck.hurry()
            await asyncio.wait([work], timeout=_LOOK_SECONDS)


def _doubt_pongs(partition: Partition) -> None:
    """Have it seen anew that pings are answered at work: a busy upstream's next silence is no darkness, too."""
    partition.answers_at_work, partition.asked_at_work = False, 0


def _carries_nothing(partition: Partition, mute: Connection) -> bool:
    """Whether nothing came on a connection for longer than its message may queue, where something should have.

    An upstream that has answered a message, and no ping in the middle of one, may answer no pings at all.
    """
    may_answer_none = partition.trust.has_carried and not partition.answers_at_work
    return not may_answer_none and mute.is_mute and mute.silence > mute.queued_seconds
