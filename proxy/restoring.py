"""Conversations whose connection was lost, uploaded again while the agent runs its tools.

On a slow link the full history is what makes the turn after a loss slow. Where upstream honours `generate: false`
it can be there before the turn is. Nothing waits for that but a turn of the same conversation whose upload has
begun, since it would only begin it anew; any other request interrupts it.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum
from typing import Literal

import structlog

from proxy.core.delta import Baseline, Delta, Full, Mismatch, TurnRequest, diff
from proxy.core.events import GarbledEvent
from proxy.core.hoist import Form
from proxy.core.items import Dropped
from proxy.core.turn import State, Turn
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

_PROBE_PATIENCE = 60.0
"""Seconds that upstream may take over a word of an answer."""

_LONG = " ".join(f"{number} is a number, and so is {number * number}." for number in range(1, 41))
_LEAST_READ = 160
"""Tokens that this text of 320 words has at least."""

_ASKED = {"type": "message", "role": "user", "content": "Answer with the word yes and nothing else."}

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


def _form(keepsake: Keepsake) -> Form:
    """Return what a verdict on warm-ups holds for."""
    return keepsake.request.model, ("generate",)


class Restoring:
    """Uploads what was lost, one conversation at a time; `close` ends it.

    With the *mode* "auto" upstream first has to prove, once per partition and model, that it keeps what it is told
    so: by the tokens that it reads of a text that only a warm-up told. *dropped* is what agents may leave out of
    their histories. After a refusal upstream is left alone for *retry_seconds*; for good if it answered.
    """

    def __init__(
        self,
        pool: Pool,
        ledger: Ledger,
        *,
        mode: Literal["off", "auto", "on"],
        dropped: Dropped,
        max_message_bytes: int,
        retry_seconds: float,
        clock: Callable[[], float],
    ) -> None:
        self.enabled = mode != "off"
        self._trusted = mode == "on"
        self._pool = pool
        self._ledger = ledger
        self._dropped = dropped
        self._max_message_bytes = max_message_bytes
        self._retry_seconds = retry_seconds
        self._clock = clock
        self._jobs: list[Job] = []
        self._one_at_a_time = asyncio.Lock()
        self._background = Background()
        if self.enabled:
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
            or partition.verdicts.get(_form(keepsake)) is False
        ):
            return
        job = Job(keepsake, partition, uploads_left=_MOST_UPLOADS - keepsake.uploads)
        self._jobs.append(job)
        job.task = self._background.start(self._work_off(job), "upload a conversation again")
        job.task.add_done_callback(lambda _task: self._jobs.remove(job))

    async def _work_off(self, job: Job) -> None:
        async with self._one_at_a_time:
            while job.uploads_left and await self._pool.opened_ahead(job.partition):
                if self._pool.is_at_work:
                    await asyncio.sleep(_LOOK_SECONDS)
                    continue
                if self._went_on(job):
                    return
                job.uploads_left -= 1
                job.interrupted = False
                outcome = await self.upload(job)
                job.begun = False
                self._ledger.warm_ups[outcome.value] += 1
                log.info("warm_up", outcome=outcome.value, session=job.keepsake.request.session)
                if outcome is not Outcome.INTERRUPTED:
                    return

    def _went_on(self, job: Job) -> bool:
        """Whether the conversation was continued on another connection."""
        kept = [each.keepsake for each in self._pool.connections(job.partition) if each.keepsake is not None]
        return any(isinstance(diff(each.request, job.keepsake.baseline, self._dropped), Delta) for each in kept)

    async def upload(self, job: Job) -> Outcome:
        """Upload once; return what became of it."""
        warm_up = WarmUp(job.keepsake)
        request, partition = job.keepsake.request, job.partition
        try:
            async with self._pool.lease(request, partition, fresh=Mismatch.CONNECTION_LOST) as lease:
                connection = job.connection = lease.connection
                try:
                    if not await self._is_honoured(connection, job):
                        return Outcome.REFUSED
                    job.begun = True
                    await self._on(connection, job, warm_up)
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
            partition.judge(_form(job.keepsake), equal=False)
            return Outcome.REFUSED
        return Outcome.FAILED

    async def _is_honoured(self, connection: Connection, job: Job) -> bool:
        """Have upstream prove that it keeps what it is told in a warm-up, unless it did, or need not."""
        partition, request, form = job.partition, job.keepsake.request, _form(job.keepsake)
        if self._trusted or partition.verdicts.get(form):
            return True
        alone = Turn(request.probe(_ASKED))
        await self._run(alone, Full(Mismatch.FIRST_TURN), connection)
        if alone.reading is None:
            partition.warm_up_off_until = self._clock() + self._retry_seconds
            return False
        long = request.probe({"type": "message", "role": "developer", "content": _LONG})
        warm_up = WarmUp(Keepsake(long, (), Baseline.after(long, "", ()), None, quiet=False))
        await self._run(warm_up, Full(Mismatch.FIRST_TURN), connection)
        read = 0
        if warm_up.restored is not None:
            after = Turn(alone.request)
            await self._run(after, Delta(warm_up.restored, alone.request.items[:]), connection)
            if after.reading is not None:
                read = after.reading.read - alone.reading.read
        partition.judge(form, equal=read > _LEAST_READ)
        return partition.verdicts[form]

    async def _run(self, turn: Turn, upload: Delta | Full, connection: Connection) -> None:
        message = turn.start(upload, reused=connection.turns > 0)
        connection.turns += 1
        await connection.send(message)
        while turn.in_flight and not (isinstance(turn, WarmUp) and turn.says_something):
            turn.receive(await connection.receive(_PROBE_PATIENCE, "warm_up"))

    async def _on(self, connection: Connection, job: Job, warm_up: WarmUp) -> None:
        message = warm_up.start(Full(Mismatch.CONNECTION_LOST), reused=connection.turns > 0)
        if len(message) > self._max_message_bytes:
            return
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
