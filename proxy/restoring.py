"""Conversations whose connection was lost, uploaded again while the agent runs its tools.

On a slow link the full history is what makes the turn after a loss slow. Where upstream honours `generate: false`
it can be there before the turn is. Nothing waits for that but a turn of the same conversation whose upload has
begun, since it would only begin it anew; any other request interrupts it.
"""

import asyncio
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum

import structlog

from proxy.core.delta import Delta, Full, Mismatch, TurnRequest, diff
from proxy.core.events import GarbledEvent
from proxy.core.items import Dropped
from proxy.core.turn import State
from proxy.core.warmup import Keepsake, WarmUp
from proxy.errors import UpstreamError, UpstreamUnavailable
from proxy.ledger import Ledger, Traffic
from proxy.upstream.background import Background
from proxy.upstream.connection import Connection
from proxy.upstream.pool import NoLease, Partition, Pool

log = structlog.get_logger("restoring")

_LOOK_SECONDS = 0.25
"""How often it is seen whether the connections are at work."""

_MOST_UPLOADS = 3
"""How often the same turn is uploaded again, on a link that loses one connection after another."""

_LEAST_PATIENCE = 5.0
"""Seconds that upstream may take over what it was sent; as long as the upload took, if that is longer."""


class Outcome(Enum):
    """What became of an upload."""

    DONE = "done"
    INTERRUPTED = "interrupted"
    REFUSED = "refused"
    FAILED = "failed"


@dataclass(slots=True, eq=False)
class Job:
    """A conversation to be uploaded. *connection* is the one on which that is being done, until all has left."""

    keepsake: Keepsake
    partition: Partition
    connection: Connection | None = None
    task: "asyncio.Task[None] | None" = None
    uploads_left: int = _MOST_UPLOADS
    begun: bool = False
    interrupted: bool = False


class Restoring:
    """Uploads what was lost, one conversation at a time; `close` ends it.

    *dropped* is what agents may leave out of their histories. After a refusal upstream is left alone for
    *retry_seconds*, for good if it generated an answer all the same.
    """

    def __init__(
        self,
        pool: Pool,
        ledger: Ledger,
        *,
        enabled: bool,
        dropped: Dropped,
        max_message_bytes: int,
        retry_seconds: float,
        clock: Callable[[], float],
    ) -> None:
        self.enabled = enabled
        self._pool = pool
        self._ledger = ledger
        self._dropped = dropped
        self._max_message_bytes = max_message_bytes
        self._retry_seconds = retry_seconds
        self._clock = clock
        self._jobs: list[Job] = []
        self._one_at_a_time = asyncio.Lock()
        self._background = Background()
        if enabled:
            pool.when_lost = self._lost

    async def close(self) -> None:
        """Give up what is under way."""
        await self._background.close(0)

    async def make_way(self, request: TurnRequest | None = None, partition: Partition | None = None) -> None:
        """Leave the link to an agent's *request*; let it wait where its own history is being uploaded."""
        own: list[asyncio.Task[None]] = []
        for job in list(self._jobs):
            is_own = (
                request is not None
                and job.partition is partition
                and isinstance(diff(request, job.keepsake.baseline, self._dropped), Delta)
            )
            if is_own:
                job.uploads_left = 0
                assert job.task is not None  # noqa: S101  (it is set where the job is made)
                own.append(job.task)
                if not job.begun:
                    job.task.cancel()
            elif job.connection is not None:
                job.interrupted = True
                job.connection.abort()
        if own:
            await asyncio.wait(own)

    def _lost(self, partition: Partition, connection: Connection) -> None:
        keepsake = connection.keepsake
        now = self._clock()
        if (
            keepsake is None
            or keepsake.uploads >= _MOST_UPLOADS
            or now < max(partition.warm_up_off_until, partition.chaining_off_until)
        ):
            return
        job = Job(keepsake, partition, uploads_left=_MOST_UPLOADS - keepsake.uploads)
        self._jobs.append(job)
        job.task = self._background.start(self._work_off(job), "upload a conversation again")

    async def _work_off(self, job: Job) -> None:
        try:
            async with self._one_at_a_time:
                while job.uploads_left and await self._pool.opened_ahead(job.partition):
                    if self._pool.is_at_work:
                        await asyncio.sleep(_LOOK_SECONDS)
                        continue
                    job.uploads_left -= 1
                    job.begun = job.interrupted = False
                    outcome = await self.upload(job)
                    self._ledger.warm_ups[outcome.value] += 1
                    log.info("warm_up", outcome=outcome.value, session=job.keepsake.request.session)
                    if outcome is not Outcome.INTERRUPTED:
                        return
        finally:
            self._jobs.remove(job)

    async def upload(self, job: Job) -> Outcome:
        """Upload once; return what became of it."""
        warm_up = WarmUp(job.keepsake)
        message = warm_up.start(Full(Mismatch.CONNECTION_LOST), reused=False)
        if len(message) > self._max_message_bytes:
            return Outcome.FAILED
        request, partition = job.keepsake.request, job.partition
        try:
            async with self._pool.lease(request, partition, fresh=Mismatch.CONNECTION_LOST) as lease:
                connection = job.connection = lease.connection
                job.begun = True
                try:
                    await self._on(connection, job, warm_up, message)
                finally:
                    job.connection = None
                    connection.meter.turn = Traffic()
        except UpstreamError:
            partition.warm_up_off_until = self._clock() + self._retry_seconds
            return Outcome.REFUSED
        except (NoLease, UpstreamUnavailable, GarbledEvent):
            return Outcome.INTERRUPTED if job.interrupted else Outcome.FAILED
        if warm_up.restored is not None:
            return Outcome.DONE
        if warm_up.says_something or warm_up.state is State.COMPLETED:
            # It answered, at the user's cost, or read less than it was told: it does not know `generate`.
            partition.warm_up_off_until = math.inf
            return Outcome.REFUSED
        return Outcome.FAILED

    async def _on(self, connection: Connection, job: Job, warm_up: WarmUp, message: bytes) -> None:
        began = self._clock()
        connection.turns += 1
        await connection.send(message)
        job.connection = None  # the link is free again
        patience = max(_LEAST_PATIENCE, self._clock() - began)
        while warm_up.in_flight and not warm_up.says_something:
            warm_up.receive(await connection.receive(patience, "warm_up"))
        restored = warm_up.restored
        if restored is not None:
            connection.baseline = restored
            connection.keepsake = replace(job.keepsake, baseline=restored, uploads=job.keepsake.uploads + 1)
