"""The one loop: a turn, a connection, and the events on their way to the agent."""

import asyncio
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from functools import partial
from http import HTTPStatus
from math import inf
from typing import TypeAlias

from proxy.core.delta import Delta, Full, Mismatch
from proxy.core.events import ERRORS, GarbledEvent, ServerEvent
from proxy.core.turn import Turn
from proxy.core.warmup import Keepsake
from proxy.errors import (
    REJECTIONS,
    TOO_BIG,
    ConnectionLost,
    UpstreamError,
    UpstreamFault,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from proxy.ledger import Traffic
from proxy.upstream.connection import Connection
from proxy.upstream.doubts import Doubt
from proxy.upstream.headers import Headers
from proxy.upstream.partition import NoLease, Partition
from proxy.upstream.pool import Lease, Pool

Deliver: TypeAlias = Callable[[tuple[ServerEvent, ...]], Awaitable[None]]
"""Shows events to the agent; waits for as long as the agent does not read."""

ShowNow: TypeAlias = Callable[[ServerEvent], bool]
"""Shows the agent an event without a wait, if it has been shown others and reads along; says whether it did."""


def _never(_event: ServerEvent) -> bool:
    return False


_LOST_UNSHOWN, _LOST = 2, 3
"""Turns lost in a row after which WebSockets are suspect: those of which nothing was shown, and any."""

_FAULTS = frozenset({HTTPStatus.INTERNAL_SERVER_ERROR, HTTPStatus.BAD_GATEWAY})
"""Statuses of an error that may be due to how a gateway carries WebSockets; others would come over HTTP too."""

_FAULTS_BELIEVED = 2
"""After so many of them that HTTP did not have, a conversation goes over HTTP at once."""

_SETTLED = re.compile(rb"context.(length|window)|invalid_prompt|policy|content.filter", re.IGNORECASE)
"""Codes, and words, of refusals that are about what was said, whichever way it comes."""

_EXPLAINED_SECONDS = 1.0
"""How long an error may stay behind a response that failed and does not say why."""

_TOGETHER = 64
"""Events that are written to the agent at once, where so many have arrived together."""

_OVERHEAD = 256
"""Bytes that `response.create` may add to a request's body: its type and an id."""


class PlainHTTP(Exception):
    """Nothing was shown to the agent, and this turn should go over plain HTTP, for *reason*.

    *accepted* is to be called if upstream answers it there: what went wrong here was then not the request's fault.
    """

    def __init__(self, reason: Mismatch, accepted: Callable[[], None] = lambda: None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.accepted = accepted


@dataclass(frozen=True, slots=True)
class Waits:
    """How long a turn waits for upstream (seconds), and how large a message may be (bytes).

    *websocket_retry_seconds* is for how long what failed over a WebSocket is not tried again there.
    """

    first_event_timeout: float
    event_timeout: float
    max_message_bytes: int
    websocket_retry_seconds: float
    borne: float = inf
    """Without an answer: an agent that leaves behind so many seconds had enough of waiting."""


class Exchange:
    """One turn over the pool's WebSockets, from the agent's request to upstream's terminal event.

    *traffic* gets the bytes that cross the network for it. With *keeps_content* the connection keeps what was
    said, so that it can be uploaded again.
    """

    def __init__(
        self,
        turn: Turn,
        *,
        pool: Pool,
        partition: Partition,
        waits: Waits,
        clock: Callable[[], float],
        traffic: Traffic,
        keeps_content: bool = False,
    ) -> None:
        self.turn = turn
        self._keeps_content = keeps_content
        self._pool = pool
        self._partition = partition
        self._waits = waits
        self._clock = clock
        self._traffic = traffic
        self._began_at = self._sent_at = 0.0
        self._show_now: ShowNow = _never
        self._connection: Connection | None = None
        self._whole_bytes = turn.request.size + _OVERHEAD
        self._message_bytes = 0

    @property
    def headers(self) -> Headers:
        """What upstream has told so far beside its answers, as headers that an answer over HTTP would have."""
        standing = self._connection.told if self._connection is not None else ()
        return (*standing, *self._partition.account.headers(self._clock()))

    async def run(self, deliver: Deliver, show_now: ShowNow = _never) -> None:
        """Answer the turn. *deliver* gets each event once, unless *show_now* has shown it.

        Raises PlainHTTP where HTTP should be used instead; UpstreamError with upstream's own words, before
        anything was delivered; ConnectionLost or UpstreamTimeout where the answer broke off.
        """
        for doubt in (self._doubt(), self._conversation):
            if doubt is not None and self._partition.doubts.goes_over_http(doubt, self._clock()):
                raise PlainHTTP(doubt.reason)
        self._show_now = show_now
        try:
            await self._until_finished(deliver)
        finally:
            self._show_now = _never  # it may lead back here, and a circle keeps what was said in memory

    async def _until_finished(self, deliver: Deliver) -> None:
        turn = self.turn
        fresh: Mismatch | None = None
        lease: Lease | None = None
        while not turn.finished:
            try:
                fits = self._fits(self._whole_bytes)
                async with self._pool.lease(turn.request, self._partition, fresh=fresh, fits=fits) as lease:
                    await self._on(lease, deliver)
            except NoLease as exc:
                raise PlainHTTP(exc.reason) from exc
            except ConnectionLost as exc:
                assert lease is not None  # noqa: S101  (a connection is lost while it is lent)
                self._lost(exc, lease)
            except (asyncio.CancelledError, ConnectionResetError):
                self._hung_up(lease)
                raise
            fresh = turn.again.reason if turn.again is not None else None

    async def _on(self, lease: Lease, deliver: Deliver) -> None:
        """Run the turn on one connection: once, or again in full where upstream forgot the chain."""
        turn, connection = self.turn, lease.connection
        self._connection = connection
        upload = lease.upload
        try:
            while True:
                await self._attempt(lease, upload, deliver)
                if turn.again is None or turn.again.fresh:
                    return
                upload = Full(turn.again.reason)
        finally:
            self._traffic.sent += connection.meter.turn.sent
            self._traffic.received += connection.meter.turn.received
            connection.meter.turn = Traffic()

    async def _attempt(self, lease: Lease, upload: Delta | Full, deliver: Deliver) -> None:
        """Send *upload* and pass on what comes back, until the turn ends or has to be sent again."""
        turn = self.turn
        turn.trusts_chains = self._partition.trusts_chains
        message = lease.start(turn, upload)
        self._message_bytes = len(message)
        if not self._fits(self._message_bytes):
            turn.attempts -= 1  # it was not sent
            raise PlainHTTP(Mismatch.TOO_LARGE)
        self._began_at = self._clock()
        await lease.send(message)
        self._sent_at = self._clock()
        try:
            while turn.in_flight:
                await self._pass_on(lease, upload, deliver)
        finally:
            if turn.repeats_id:  # what such an id stands for, nobody knows once the connection is gone
                self._partition.recall.rest(inf)

    def _fits(self, size: int) -> bool:
        """Whether upstream takes a message of *size* bytes, as far as is known."""
        return size <= self._waits.max_message_bytes and self._partition.sizes.may_be_taken(size, self._clock())

    def _settle(self, lease: Lease, upload: Delta | Full) -> None:
        """Remember what the turn that has ended says about its connection and about upstream."""
        lease.connection.baseline = self.turn.baseline
        lease.ended(self.turn)
        lease.connection.keepsake = Keepsake.of(self.turn) if self._keeps_content else None
        self._partition.trust.done()
        self._partition.sizes.taken(self._message_bytes)
        if self.turn.baseline is not None and (doubt := self._doubt()) is not None:
            self._partition.doubts.accepted(doubt, self._clock())
        self._learn(lease, upload)

    async def _pass_on(self, lease: Lease, upload: Delta | Full, deliver: Deliver) -> None:
        """Wait for an event, and show the agent in one go what has arrived with it."""
        turn, connection = self.turn, lease.connection
        shown: list[ServerEvent] = []
        try:
            while True:
                at_once = self._at_once if turn.goes_on and not shown else None
                shown += turn.receive(await self._next(connection, at_once=at_once))
                if not (turn.in_flight and connection.has_more and len(shown) < _TOGETHER):
                    break
        except GarbledEvent as exc:
            raise ConnectionLost(f"upstream sent an event that makes no sense: {exc}") from exc
        except UpstreamError as exc:
            raise self._instead(exc, lease, upload) from exc
        else:
            if turn.finished or turn.again is not None:
                self._settle(lease, upload)  # at once: an agent may hang up as soon as it has the last event
        finally:  # what came before a fault is shown before it
            if shown:
                await deliver(tuple(shown))

    async def _next(self, connection: Connection, *, at_once: ShowNow | None) -> ServerEvent:
        waits = self._waits
        if self.turn.begun:
            event = await connection.receive(waits.event_timeout, "event_timeout", at_once=at_once)
        else:
            waited = self._clock() - self._sent_at  # one wait, whatever comes before the response
            event = await connection.receive(waits.first_event_timeout, "first_event_timeout", waited=waited)
        self._partition.account.note(event, self._clock)
        return await self._explained(event, connection) if event.is_unexplained else event

    async def _explained(self, failed: ServerEvent, connection: Connection) -> ServerEvent:
        """Return the error that tells why a response *failed*, which Azure's servers send behind it; or *failed*.

        Agents end at either, and packlight writes the other behind an error (earendil-works/pi#7983).
        """
        began, waited = self._clock(), 0.0
        while waited < _EXPLAINED_SECONDS:
            try:
                behind = await connection.receive(_EXPLAINED_SECONDS, "error", waited=waited)
            except ConnectionLost:
                break
            self._partition.account.note(behind, self._clock)
            if behind.type in ERRORS:
                return behind
            if behind.of_response:
                break
            waited = self._clock() - began  # limits of the account, or a sign of life
        return failed

    def _at_once(self, event: ServerEvent) -> bool:
        """Show *event* where it arrives, if it is a piece of an answer that the agent reads along."""
        if not (self.turn.is_mere_piece(event) and self._show_now(event)):
            return False
        self.turn.note_piece()
        return True

    def _doubt(self) -> Doubt | None:
        """Return what upstream may refuse here though it takes the agent's own request over HTTP."""
        request = self.turn.request
        if not request.is_in_doubt:
            return None
        translated = request.echo is not None
        return (
            Doubt(Mismatch.TRANSLATION_REFUSED, request.model) if translated else Doubt(Mismatch.UNSUPPORTED_FIELD)
        )

    @property
    def _conversation(self) -> Doubt:
        return Doubt(Mismatch.WEBSOCKET_REFUSED, session=self.turn.request.session)

    def _instead(self, refusal: UpstreamError, lease: Lease, upload: Delta | Full) -> UpstreamError | PlainHTTP:
        """Return what becomes of a turn whose *upload* upstream refused: it may take it over HTTP, or say more."""
        if refusal.is_vague:  # agents go by the status: whether to try again, and when
            return PlainHTTP(Mismatch.WEBSOCKET_REFUSED, partial(self._note_lost, refusal, lease.connection))
        self._partition.trust.done()
        if refusal.status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
            if isinstance(upload, Full):  # of a delta, the chain may be what is too large
                self._note_too_large()
            return PlainHTTP(Mismatch.TOO_LARGE)
        doubt = self._doubt()
        if doubt is None or refusal.status not in REJECTIONS:
            return self._second_opinion(refusal)
        if refusal.code == "context_length_exceeded":
            # Each API words it in its own way, and clients go by the words.
            return refusal if self.turn.request.echo is None else PlainHTTP(doubt.reason)
        now, off_seconds = self._clock(), self._waits.websocket_retry_seconds
        return PlainHTTP(doubt.reason, partial(self._partition.doubts.refused, doubt, now, off_seconds))

    def _second_opinion(self, refusal: UpstreamError) -> UpstreamError | PlainHTTP:
        """Return what becomes of an error that HTTP may not have: where WebSockets are another's work, some have.

        Without packlight the agent would have had HTTP's answer (protocol notes, section 5).
        """
        is_rejection = refusal.status in REJECTIONS
        if not (is_rejection or refusal.status in _FAULTS) or "retry-after" in refusal.headers:
            return refusal
        doubt, now, off_seconds = self._conversation, self._clock(), self._waits.websocket_retry_seconds
        if _SETTLED.search(refusal.body) or not self._partition.doubts.is_to_be_asked(doubt, now, off_seconds):
            return refusal
        enough = 1 if is_rejection else _FAULTS_BELIEVED  # a fault may pass by itself
        return PlainHTTP(
            doubt.reason, partial(self._partition.doubts.fared_better, doubt, now + off_seconds, enough=enough)
        )

    def _learn(self, lease: Lease, upload: Delta | Full) -> None:
        now, off_seconds = self._clock(), self._waits.websocket_retry_seconds
        if isinstance(upload, Delta) and self.turn.collapse is not None:
            self._partition.note_collapse(now=now, off_seconds=off_seconds)
        elif isinstance(upload, Delta):
            self._partition.trusts_chains |= self.turn.proves_chains
            self._partition.note_delta(
                recalled=lease.recalled,
                stored=upload.baseline.stored,
                continued=self.turn.again is None and not self.turn.chain_ignored,
                now=now,
                off_seconds=off_seconds,
                at_once=self.turn.chain_ignored,
            )

    def _lost(self, fault: ConnectionLost, lease: Lease) -> None:
        """Decide what becomes of the turn that was lost with the connection of *lease*.

        Returns where it is to be sent again over a WebSocket. Raises PlainHTTP where it should go over HTTP, and
        *fault* where the agent has to be told.
        """
        if lease.recalled:  # it may be the recall that upstream cannot bear
            self._partition.recall.rest(self._clock() + self._waits.websocket_retry_seconds)
        if fault.code != TOO_BIG and not (lease.connection.is_open or lease.connection.is_dropped):
            now = self._clock()
            age, turn = now - lease.connection.opened_at, now - self._began_at
            self._partition.lifespan.lost(age, now, turn=turn)
        if fault.code == TOO_BIG and not self.turn.shown:
            if not self.turn.begun:  # else it is the answer that was too large
                self._note_too_large()
            raise PlainHTTP(Mismatch.TOO_LARGE) from fault
        try:
            self.turn.connection_lost(fault)
        except ConnectionLost:
            self._note_lost(fault, lease.connection)
            raise
        except UpstreamUnavailable as exc:
            self._note_lost(fault, lease.connection)
            raise PlainHTTP(Mismatch.CONNECTION_LOST) from exc
        if self._partition.trust.is_suspect and fault.sent:  # this was the trial
            self._note_lost(fault, lease.connection)
            raise PlainHTTP(Mismatch.CONNECTION_LOST) from fault

    def _hung_up(self, lease: Lease | None) -> None:
        """Take note that the agent no longer waits for the turn.

        Where upstream was answering it, or cannot have had it, nothing speaks against the response that it
        continues. Where it had, and nothing had come, it may be that one which upstream cannot continue. Whoever
        breaks off an answer has something else to say, and the connection went with it. Where nothing had come for
        as long as the agent bears, its timeout came before ours: the turn is lost all the same.
        """
        turn = self.turn
        if lease is not None and turn.in_flight and self._was_silent(lease.connection):
            self._note_lost(UpstreamTimeout("nothing came for as long as the agent bears"), lease.connection)
        if turn.in_flight and isinstance(turn.upload, Delta):
            known = turn.upload.baseline
            if turn.has_own_id and not known.own_id:
                known = replace(known, own_id=True)  # it was not answered under that id
            is_sound = turn.begun or (lease is not None and not lease.connection.sent_whole)
            self._partition.remember(known, Mismatch.AFTER_ERROR, is_sound=is_sound)
        if turn.in_flight:
            self._pool.open_ahead(self._partition, behind=True)

    def _was_silent(self, connection: Connection) -> bool:
        """Whether upstream had the turn, and has said nothing for as long as the agent bears."""
        waited = self._clock() - self._sent_at
        return not self.turn.begun and connection.sent_whole and waited >= self._waits.borne

    def _note_too_large(self) -> None:
        """Take note of a message that upstream refused for its size, by which the like are known unwritten too."""
        size = min(self._message_bytes, self._whole_bytes)
        off_seconds = self._waits.websocket_retry_seconds
        self._partition.sizes.too_large(size, now=self._clock(), off_seconds=off_seconds)

    def _note_lost(self, fault: UpstreamFault, connection: Connection) -> None:
        """Take note of a turn that did not end on its WebSocket, unless that says nothing of WebSockets."""
        if connection.is_dropped:
            return
        enough = _LOST if self.turn.shown else _LOST_UNSHOWN
        if isinstance(fault, UpstreamTimeout) and connection.is_mute:
            enough = 1  # what opened may never have been a WebSocket to upstream
        self._partition.trust.lost(self._clock(), opened=connection.opened_at, enough=enough)
