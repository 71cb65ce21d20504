"""Conversations whose connection was lost, uploaded again while the agent runs its tools.

On a slow link the full history is what makes the turn after a loss slow. Where upstream honours `generate: false`
it can be there before the turn is. A turn of the same conversation waits for an upload that has begun, since to
send everything itself could only end later. Any other request interrupts the upload.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any, Literal

import structlog

from proxy.core.affinity import comes_to_nothing, goes_aside
from proxy.core.delta import Baseline, Delta, Full, Mismatch, TurnRequest, diff
from proxy.core.events import GarbledEvent
from proxy.core.hoist import Form
from proxy.core.items import Dropped
from proxy.core.turn import State, Turn
from proxy.core.warmup import Keepsake, WarmUp
from proxy.errors import ConnectionLost, UpstreamError, UpstreamTimeout, UpstreamUnavailable
from proxy.ledger import Ledger, Traffic
from proxy.upstream.background import Background
from proxy.upstream.connection import Connection
from proxy.upstream.partition import NoLease, Partition
from proxy.upstream.pool import LATELY_SECONDS, Lease, Pool, ignore_loss

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


_SOON = 5.0
"""Where upstream closes the connection within so many seconds of an upload, it is taken to do so after each."""


class Outcome(Enum):
    """What became of an upload."""

    DONE = "done"
    INTERRUPTED = "interrupted"
    REFUSED = "refused"
    FAILED = "failed"


@dataclass(slots=True, eq=False)
class Job:
    """A conversation to be uploaded again; *last_used* is when its connection had a turn last.

    *task* is all that is done for it, *uploading* the present attempt, of which *uploads_left* more may follow.
    *holds_link* says that an attempt is on a connection and not all of it has left; *begun* that it is past the
    probe; *waiting* is how many turns wait for its end.
    """

    keepsake: Keepsake
    partition: Partition
    last_used: float
    holds_link: bool = False
    task: "asyncio.Task[None] | None" = None
    uploading: "asyncio.Task[Outcome] | None" = None
    uploads_left: int = _MOST_UPLOADS
    begun: bool = False
    waiting: int = 0


_LOST = 1006
"""The close code of a connection that was lost without a word (RFC 6455, section 7.1.5)."""


def _end(job: Job, *, only_this_upload: bool = False) -> "list[asyncio.Task[Any]]":
    """Cancel what is done for *job*; return the cancelled tasks, which have yet to end."""
    tasks = [job.uploading] if only_this_upload else [job.task, job.uploading]
    ending: list[asyncio.Task[Any]] = [each for each in tasks if each is not None]
    for each in ending:
        each.cancel()
    return ending


def _form(keepsake: Keepsake) -> Form:
    """Return what a verdict on warm-ups holds for."""
    return keepsake.request.model, ("generate",)


class Restoring:
    """Uploads what was lost, one conversation at a time; `close` ends it.

    With the *mode* "auto" upstream first has to prove, once per partition and model, that it keeps what a warm-up
    tells it: the turn after one has to read the tokens of a text that only the warm-up had. *dropped* is what
    agents may leave out of their histories. After a refusal upstream is left alone for *retry_seconds*, and for
    good if it generated an answer. *is_busy* tells whether a request is under way, over whatever transport.
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
        is_busy: Callable[[], bool] = lambda: False,
    ) -> None:
        self.enabled = mode != "off"
        self._is_busy = is_busy
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
        self._pool.when_lost = ignore_loss
        await self._background.close(0)

    async def make_way(self, request: TurnRequest | None = None, partition: Partition | None = None) -> None:
        """Leave the link to an agent's request, or have it wait where its own history is being uploaded.

        *request* and *partition* are given for a turn that may go over a WebSocket, and not for other requests.
        """
        ending: list[asyncio.Task[Any]] = []
        awaited: list[Job] = []
        for job in list(self._jobs):
            found = self._added(request, job) if request is not None and job.partition is partition else None
            if found is not None:
                job.uploads_left = 0
                if job.begun and isinstance(found, Delta):
                    awaited.append(job)
                    job.waiting += 1
                else:
                    ending += _end(job)
            elif not job.waiting and self._is_in_the_way(job, request, partition):
                ending += _end(job, only_this_upload=True)
        tasks = ending + [job.task for job in awaited if job.task is not None]
        try:
            if tasks:
                await asyncio.wait(tasks)
        finally:
            for job in awaited:
                job.waiting -= 1

    def _is_in_the_way(self, job: Job, request: TurnRequest | None, partition: Partition | None) -> bool:
        """Whether an upload takes the link from *request*, or the place of its connection."""
        if job.holds_link:
            return True
        if request is None or job.uploading is None or job.partition is not partition:
            return False
        return not self._pool.has_place(request, partition)

    def _lost(self, partition: Partition, connection: Connection, last_used: float) -> None:
        keepsake = connection.keepsake
        if keepsake is None or keepsake.uploads >= _MOST_UPLOADS:
            return
        if self._clock() - keepsake.uploaded_at < _SOON and connection.was_told:
            self._pause(partition)  # no turn would ever find what is uploaded there
            return
        job = Job(keepsake, partition, last_used, uploads_left=_MOST_UPLOADS - keepsake.uploads)
        if not self._may_help(job):
            return
        self._jobs.append(job)
        job.task = self._background.start(self._work_off(job), "upload a conversation again")
        job.task.add_done_callback(lambda _task: self._jobs.remove(job))

    def _may_help(self, job: Job) -> bool:
        """Whether the conversation went on lately and may go on, and upstream is worth asking."""
        now, partition = self._clock(), job.partition
        return (
            job.uploads_left > 0
            and not comes_to_nothing(job.keepsake.baseline, partition.kinds.habits())
            and now - job.last_used < LATELY_SECONDS
            and now >= max(partition.warm_up_off_until, partition.chaining[False].off_until)
            and partition.verdicts.get(_form(job.keepsake)) is not False
        )

    async def _work_off(self, job: Job) -> None:
        async with self._one_at_a_time:
            while self._may_help(job) and await self._pool.opened_ahead(job.partition):
                if self._pool.is_at_work or self._is_busy():
                    await asyncio.sleep(_LOOK_SECONDS)
                    continue
                if self._went_on(job) or not job.keepsake.is_plain:
                    return
                job.uploads_left -= 1
                outcome = await self._attempt(job)
                self._ledger.warm_ups[outcome.value] += 1
                log.info("warm_up", outcome=outcome.value, session=job.keepsake.request.session)
                if outcome is not Outcome.INTERRUPTED:
                    return
                await asyncio.sleep(_LOOK_SECONDS)

    async def _attempt(self, job: Job) -> Outcome:
        """Upload once, unless that is interrupted."""
        job.uploading = uploading = self._background.start(self.upload(job), "upload")
        try:
            await asyncio.wait([uploading])
        finally:
            uploading.cancel()
            job.uploading, job.begun = None, False
        return Outcome.INTERRUPTED if uploading.cancelled() else uploading.result()

    def _went_on(self, job: Job) -> bool:
        """Whether the conversation was continued on another connection."""
        kept = [each.keepsake for each in job.partition.connections]
        kept += [each.keepsake for each in self._jobs if each.partition is job.partition]
        return any(self._added(each.request, job) is not None for each in kept if each is not None)

    def _added(self, request: TurnRequest, job: Job) -> Delta | Full | None:
        """Return what *request* adds to the conversation of *job*, or why it cannot continue it.

        None where it is another's, or for something beside the conversation, which will go on from where it was.
        """
        baseline, habits = job.keepsake.baseline, job.partition.kinds.habits()
        found = diff(request, baseline, self._dropped)
        if isinstance(found, Delta):
            return None if goes_aside(request, baseline, habits) else found
        is_another = found.reason is Mismatch.HISTORY_CHANGED or request.kind in habits.over
        return None if is_another else found

    async def upload(self, job: Job) -> Outcome:
        """Upload once; return what became of it."""
        warm_up = WarmUp(job.keepsake, is_counted=self._may_weigh_less)
        partition = job.partition
        try:
            if not await self._is_uploaded(job, warm_up):
                return Outcome.REFUSED
        except UpstreamError:
            self._pause(partition)
            return Outcome.REFUSED
        except (NoLease, UpstreamUnavailable, GarbledEvent) as exc:
            if isinstance(exc, UpstreamTimeout) or (isinstance(exc, ConnectionLost) and exc.code != _LOST):
                self._pause(partition)  # it was silent, or closed the connection in so many words
            return Outcome.FAILED
        if warm_up.restored is not None:
            return Outcome.DONE
        is_light = warm_up.state is State.COMPLETED
        if warm_up.says_something or (is_light and not self._may_weigh_less):
            # It answered, at the user's cost, or read less than it was told: it does not know `generate`.
            partition.judge(_form(job.keepsake), equal=False)
            return Outcome.REFUSED
        if is_light or warm_up.again is not None:
            self._pause(partition)
            return Outcome.REFUSED
        return Outcome.FAILED

    async def _is_uploaded(self, job: Job, warm_up: WarmUp) -> bool:
        """Upload on a new connection, if upstream proves that it keeps such; return whether it did.

        What it read for that may not stand before the conversation, so that may take a connection of its own.
        """
        while True:
            async with self._pool.lease(
                job.keepsake.request, job.partition, fresh=Mismatch.CONNECTION_LOST, last_used=job.last_used
            ) as lease:
                job.holds_link = True
                try:
                    if not await self._is_honoured(lease, job):
                        return False
                    if self._pool.begins_anew or not lease.has_sent:
                        job.begun = True
                        await self._on(lease, job, warm_up)
                        return True
                finally:
                    job.holds_link = False
                    lease.connection.meter.turn = Traffic()

    @property
    def _may_weigh_less(self) -> bool:
        """Whether agents leave out messages that the lost chain had: an honest upstream then reads less."""
        return self._dropped == "any"

    def _pause(self, partition: Partition) -> None:
        partition.warm_up_off_until = self._clock() + self._retry_seconds

    async def _is_honoured(self, lease: Lease, job: Job) -> bool:
        """Have upstream prove that it keeps what it is told in a warm-up, unless it did, or need not."""
        partition, request, form = job.partition, job.keepsake.request, _form(job.keepsake)
        if self._trusted or partition.verdicts.get(form):
            return True
        alone = Turn(request.probe(_ASKED))
        await self._run(alone, Full(Mismatch.FIRST_TURN), lease)
        if alone.reading is None:
            self._pause(partition)
            return False
        long = request.probe({"type": "message", "role": "developer", "content": _LONG})
        warm_up = WarmUp(Keepsake(long, (), Baseline.after(long, "", ()), None, quiet=False))
        await self._run(warm_up, Full(Mismatch.FIRST_TURN), lease)
        last: Turn = warm_up
        read = 0
        if warm_up.restored is not None:
            last = Turn(alone.request)
            await self._run(last, Delta(warm_up.restored, alone.request.items[:]), lease)
            if last.reading is not None:
                read = last.reading.read - alone.reading.read
        if last.state is State.FAILED and not last.says_something:
            self._pause(partition)  # a fault that may pass is no verdict
            return False
        partition.judge(form, equal=read > _LEAST_READ)
        return partition.verdicts[form]

    async def _run(self, turn: Turn, upload: Delta | Full, lease: Lease) -> None:
        await lease.send(lease.start(turn, upload))
        await self._hear(turn, lease, _PROBE_PATIENCE)

    async def _hear(self, turn: Turn, lease: Lease, patience: float) -> None:
        """Take what comes for *turn*, for *patience* seconds in all; of a warm-up, until it says something."""
        until = self._clock() + patience
        while turn.in_flight and not (isinstance(turn, WarmUp) and turn.says_something):
            turn.receive(await lease.connection.receive(max(0.0, until - self._clock()), "warm_up"))
            if self._clock() > until and turn.in_flight:
                raise UpstreamTimeout(f"upstream took more than {patience:g} s (warm_up)")
        lease.ended(turn)

    async def _on(self, lease: Lease, job: Job, warm_up: WarmUp) -> None:
        lost = Full(Mismatch.CONNECTION_LOST)
        message, began = lease.start(warm_up, lost), self._clock()
        if len(message) > self._max_message_bytes or not job.partition.sizes.may_be_taken(len(message), began):
            return
        await lease.send(message)
        job.holds_link = False
        await self._hear(warm_up, lease, max(_LEAST_PATIENCE, self._clock() - began))
        restored = warm_up.restored
        if restored is not None:
            lease.connection.baseline = restored
            lease.connection.keepsake = replace(
                job.keepsake, baseline=restored, uploads=job.keepsake.uploads + 1, uploaded_at=self._clock()
            )
