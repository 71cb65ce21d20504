"""One WebSocket to upstream: one response at a time.

A connection is OPEN until it closes for whatever reason. It knows a `baseline`, what upstream holds of the last
response completed on it, or nothing; a `keepsake` has that in words, where the user wants it. The library's
exceptions end here: callers see `proxy.errors`.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from functools import partial
from typing import cast

from websockets.exceptions import ConnectionClosed
from websockets.protocol import State

from proxy.core.delta import Baseline
from proxy.core.events import GarbledEvent, ServerEvent
from proxy.core.message import Message
from proxy.core.warmup import Keepsake
from proxy.errors import TOO_BIG, ConnectionLost, UpstreamTimeout
from proxy.upstream.account import standing
from proxy.upstream.endpoint import Endpoint
from proxy.upstream.headers import Headers
from proxy.upstream.liveness import Signs, has_moved, is_doubtful, is_merely_silent, is_stuck, lag, patience
from proxy.upstream.meter import Meter, MeteredTransport
from proxy.upstream.pace import FIRST_FLIGHT, Pace
from proxy.upstream.progress import Progress
from proxy.upstream.sendqueue import TELLS, SendQueue, last_acknowledged, owed, queue_of, reset_on_close
from proxy.upstream.standby import Standby
from proxy.upstream.stubborn import hurry
from proxy.upstream.upgrade import Socket, Timing, upgrade

_BLIND_PATIENCE = 5.0
"""Seconds that a stall is allowed where the kernel does not tell a slow reader from a dark link."""

_SLOWEST = 4096
"""Bytes per second of the slowest link that a message is believed to be still queueing for."""

_FAR = 0.15
"""Seconds of round trip from which a message is worth guarding: the loss of its end costs two or more of them."""

_GUARDS, _APART = 3, 0.005
"""How many packets follow a message over such a link, and how many seconds lie between them."""

PAUSE = 5.0
"""Seconds of silence from which on a ping goes ahead of a turn: the connection may be forgotten meanwhile."""

_PROMPT, _LATE = 6.0, 3
"""Seconds that a pong has at the least, and how many times what the slowest of the latest took."""


class Connection:
    """A WebSocket that is open, or was. Not safe for two turns at once: the pool lends it to one.

    *told* are the headers that each answer on it would have over HTTP, as far as the handshake had them.
    *given* are the settings that turns gave on it, by name.
    *pause* is how long it was quiet when its latest turn began. A *wary* one has a ping go ahead of each turn.
    *pongs_count* where upstream answers pings while it works, so that a turn without a pong has not arrived.
    """

    def __init__(
        self, socket: Socket, meter: Meter, timing: Timing, *, opened_at: float, heard: Callable[[], None]
    ) -> None:
        self.meter = meter
        self.opened_at = opened_at
        self.baseline: Baseline | None = None
        self.keepsake: Keepsake | None = None
        self.turns = 0
        self.given: set[str] = set()
        self.told: Headers = standing(socket.response.headers.raw_items()) if socket.response is not None else ()
        self.pause = 0.0
        self.wary = self.pongs_count = False
        self.last_response: str | None = None
        self._socket = socket
        self._timing = timing
        self._raw = socket.transport.get_extra_info("socket")
        self._sent = self._delivered = False
        self._opened_heard = self._began_at = self._sent_at = self._progress_at = socket.heard_at
        self._acknowledged = 0
        self._size = 0
        self._ahead: frozenset[bytes] = frozenset()
        self._asked_since: float | None = None
        self._given_up: str | None = None
        self._hurried = False
        self._heard = heard

    @classmethod
    async def open(
        cls,
        endpoint: Endpoint,
        headers: Headers,
        meter: Meter,
        timing: Timing,
        *,
        query: str = "",
        dialer: Standby | None = None,
        gone: Callable[[], None] = lambda: None,
        heard: Callable[[], None] = lambda: None,
        clock: Callable[[], float],
    ) -> "Connection":
        """Open one to *endpoint*, as `upgrade` does; *heard* is called for each event that is received."""
        socket = await upgrade(endpoint, headers, meter, timing, query=query, dialer=dialer, gone=gone)
        return cls(socket, meter, timing, opened_at=clock(), heard=heard)

    @property
    def is_open(self) -> bool:
        """Whether the connection can carry a turn, as far as is known."""
        return self._socket.state is State.OPEN

    @property
    def compression(self) -> str | None:
        """What was negotiated, such as `permessage-deflate; server_max_window_bits=12`; None for nothing."""
        deflate = self._socket.deflate
        return deflate.terms if deflate is not None else None

    async def send(self, message: Message) -> None:
        """Send *message*; return when its last byte was handed over.

        Behind a *pause* a ping goes ahead of it: a server that reads messages in turn reads that before its work.
        It leaves in fragments that are paced, so that on a slow link pongs get through meanwhile. Until the last
        one has left, upstream cannot hold a complete message: a ConnectionLost before that has *sent* false.
        Whatever interrupts a message closes the connection, so that nothing follows half a message.

        Raises ConnectionLost where the connection is dead, or the upload makes no progress.
        """
        self._sent = self._delivered = False
        self._began_at = self._progress_at = self._now()
        limit = self._timing.send_timeout
        try:
            self._socket.inbox.begin()
            self.pause = self.quiet
            await self._probe()
            async with asyncio.timeout(limit) as deadline:
                if self.wary or self.pause > PAUSE:
                    await self._socket.ping()
                self._began_at, self._ahead = self._now(), frozenset(self._socket.pending_pings)
                queue = queue_of(self._socket.transport)
                with Progress(deadline, limit, lambda: self.meter.written - queue.waiting()):
                    await self._upload(message, queue)
        except ConnectionClosed as exc:
            raise self._lost() from exc
        except TimeoutError as exc:
            self.abort()
            raise ConnectionLost("the upload stood still (send_timeout)", sent=self._sent) from exc
        except BaseException:
            self.abort()
            raise

    async def _upload(self, message: Message, queue: SendQueue) -> None:
        deflate = self._socket.deflate
        data = bytes(message) if deflate is None else await deflate.compress(message)
        self._size = len(data)
        if len(data) > FIRST_FLIGHT:
            await self._socket.send(self._fragments(data, queue), text=True)
        else:
            self._note_sent()
            await self._socket.send(data, text=True)
        if not TELLS:
            await self._socket.ping()  # the pong stands for what the kernel does not tell
        if self._socket.round_trip >= _FAR:
            await self._guard()

    async def _guard(self) -> None:
        """Have a few small packets follow a message, lest the loss of its last one be noticed late.

        TCP misses a packet when later ones arrive, one round trip after it left; where none does, its timer takes
        two or more. A pong that nobody asked for gets no answer (RFC 6455, section 5.5.3), so none can be lost.
        """
        with suppress(ConnectionClosed):  # `receive` tells of that, after what came before
            for _ in range(_GUARDS):
                await asyncio.sleep(_APART)
                await self._socket.pong()

    async def _fragments(self, data: bytes, queue: SendQueue) -> AsyncIterator[bytes]:
        """Yield *data* in pieces, each when there is room for it. The library ends the message behind the last."""
        clock = self._now
        socket = self._socket
        pace = Pace(
            clock(),
            len(data),
            lead=self._timing.upload_lead,
            round_trip=socket.round_trip,
            proven=socket.proven_rate,
        )
        before, position = queue.waiting(), 0
        while position < len(data):
            pace.note(clock(), position - queue.waiting() + before)
            room = queue.room(pace.allowance)
            size = pace.fragment(len(data) - position, room)
            await asyncio.sleep(0 if size else pace.wait(room))
            if size:
                yield data[position : position + size]
                position += size
        self._note_sent()

    def _note_sent(self) -> None:
        self._sent, self._sent_at = self.is_open, self._now()
        self._socket.asked_at, self._socket.answers_at_work = self._sent_at, False

    async def receive(
        self, limit: float, name: str, *, waited: float = 0.0, at_once: Callable[[ServerEvent], bool] | None = None
    ) -> ServerEvent:
        """Wait at most *limit* seconds, *waited* of which are over, for the next event.

        One that has arrived is returned in any case. One that comes alone is not returned where *at_once* deals
        with it: no task has to be woken for that.

        Raises UpstreamTimeout, with the *name* of the limit, on silence, and ConnectionLost where the
        connection closes or sends what is not an event.
        """
        inbox = self._socket.inbox
        try:
            if not inbox and not await inbox.wait(limit - waited, at_once and partial(self._at_once, at_once)):
                raise self._lost()
            self._delivered = True
            event = ServerEvent.parse(inbox.take())
        except TimeoutError as exc:
            raise UpstreamTimeout(f"upstream was silent for {limit:g} s ({name})") from exc
        except GarbledEvent as exc:
            raise ConnectionLost(f"upstream sent something that is not an event: {exc}") from exc
        self._heard()
        return event

    def _at_once(self, deal_with: Callable[[ServerEvent], bool], message: bytes) -> bool:
        event = ServerEvent.parse(message)
        self._heard()
        return deal_with(event)

    @property
    def is_mute(self) -> bool:
        """Whether nothing was heard since it opened, not even the pong that is long due."""
        due = self._opened_heard + 2 * self._timing.ping_interval
        return self._socket.heard_at == self._opened_heard and self._now() > due

    @property
    def was_told(self) -> bool:
        """Whether upstream has said that it closes the connection."""
        return self._socket.protocol.close_rcvd is not None

    @property
    def is_dropped(self) -> bool:
        """Whether it was closed here: too much was unread, or it was given up for a new one."""
        return self._socket.inbox.overrun or self._given_up is not None

    @property
    def has_more(self) -> bool:
        """Whether another event has arrived already."""
        return bool(self._socket.inbox)

    def rest(self) -> None:
        """Keep nothing of what comes until the next message is sent: telemetry, or an error that is nobody's."""
        self._socket.rest()

    async def _probe(self) -> None:
        """Have a connection that was silent for longer than our pings allow prove that it is alive."""
        silent = Signs(silent=self._now() - self._socket.heard_at)
        if is_doubtful(silent, ping_interval=self._timing.ping_interval) and not await self.prove(
            self._timing.probe_timeout
        ):
            raise ConnectionLost("no pong after a long silence (probe_timeout)", sent=False)

    @property
    def is_silent_still(self) -> bool:
        """Whether it was asked for a pong before, and nothing was heard since."""
        return self._asked_since == self._socket.heard_at

    async def prove(self, limit: float) -> bool:
        """Ask for a pong; return whether it came within *limit* seconds."""
        self._asked_since = self._socket.heard_at
        try:
            async with asyncio.timeout(limit):
                await (await self._socket.ping())
        except (ConnectionClosed, TimeoutError):
            return False
        return True

    @property
    def is_doubtful(self) -> bool:
        """Whether the connection, which carries no turn, should prove that it is alive before it does."""
        return self.is_owed_a_pong() or is_doubtful(self._signs(), ping_interval=self._timing.ping_interval)

    @property
    def is_merely_silent(self) -> bool:
        """Whether nothing but its silence speaks against the connection, and pings were answered there before."""
        return self._answers_pings and is_merely_silent(self._signs())

    @property
    def _asked_at(self) -> float | None:
        """When the first ping was sent behind which nothing was heard."""
        heard_at = self._socket.heard_at
        pings = self._socket.pending_pings.values()
        return next((sent_at for _, sent_at in pings if sent_at >= heard_at), None)

    @property
    def quiet(self) -> float:
        """For how many seconds nothing was heard, and no pong was due, after what was heard last."""
        asked_at = self._asked_at
        return (self._now() if asked_at is None else asked_at) - self._socket.heard_at

    @property
    def unanswered(self) -> float:
        """For how many seconds nothing was heard behind a ping; 0 where none is under way."""
        asked_at = self._asked_at
        return 0.0 if asked_at is None else self._now() - asked_at

    @property
    def _answers_pings(self) -> bool:
        """Whether pongs came, and upstream spoke behind no ping without one: it may answer none any more."""
        heard_at = self._socket.heard_at
        pings = self._socket.pending_pings.values()
        return bool(self._socket.pongs) and all(sent_at >= heard_at for _, sent_at in pings)

    def is_owed_a_pong(self, times: int = 1) -> bool:
        """Whether a pong is late, where each ping was answered before: so many *times* what it may take."""
        if not self._answers_pings:
            return False
        due = max(patience(self._socket.round_trip, _PROMPT), _LATE * max(self._socket.pongs))
        return self.unanswered > times * due

    def is_forgotten(self, times: int = 1) -> bool:
        """Whether no pong came of a ping ahead of the turn, whose message was acknowledged: *times* as above.

        Of a ping behind the message that says nothing: upstream may be at work. Nor of one in its midst: that
        queues with it, behind whoever acknowledges both.
        """
        heard_at = self._socket.heard_at
        pings = self._socket.pending_pings.items()
        went_ahead = any(sent_at >= heard_at for ping, (_, sent_at) in pings if ping in self._ahead)
        return went_ahead and self.is_delivered and self.is_owed_a_pong(times)

    def look_whether_stuck(self) -> bool:
        """Return whether the turn that the connection carries does not get through, and is worth a new connection.

        It is not if upstream has the whole message, which is noted: what comes of it can only come here.
        """
        signs = self._signs()
        self._delivered = self._delivered or (self._sent and not signs.owing)
        if self._delivered and not signs.moved:
            return False
        return is_stuck(signs, stuck_timeout=self._timing.stuck_timeout)

    @property
    def sent_whole(self) -> bool:
        """Whether the latest turn's message has left, all of it: of one that has not, upstream knows nothing."""
        return self._sent

    @property
    def is_delivered(self) -> bool:
        """Whether the turn's message was acknowledged, as far as `look_whether_stuck` has seen."""
        return self._sent and self._delivered

    async def ask(self) -> None:
        """Send a ping, and do not wait for what comes of it."""
        with suppress(ConnectionClosed):
            await self._socket.ping()

    @property
    def answers_at_work(self) -> bool:
        """Whether upstream was seen to answer a ping in the middle of the latest turn here."""
        return self._socket.answers_at_work

    @property
    def heard_at(self) -> float:
        """When upstream was heard last, by the loop's clock."""
        return self._socket.heard_at

    @property
    def silence(self) -> float:
        """For how many seconds nothing was heard."""
        return self._now() - self._socket.heard_at

    @property
    def is_unheard(self) -> bool:
        """Whether nothing is heard of a turn that is under way, not even the pong that is due.

        Whoever acknowledges on upstream's behalf (an outbound proxy, a satellite's accelerator) does so where the
        way behind it is gone, too.
        """
        return self._sent and is_doubtful(Signs(silent=self.silence), ping_interval=self._timing.ping_interval)

    @property
    def queued_seconds(self) -> float:
        """For how long the turn's message may wait behind whoever acknowledges it, at most."""
        return self._size / _SLOWEST

    def hurry(self) -> None:
        """Have TCP try again often while nothing is acknowledged, and as usual once something is."""
        pause = patience(self._socket.round_trip, self._timing.stuck_timeout)
        owing, waited, _ = self._progress()
        stuck = owing and waited > pause
        if stuck is not self._hurried:
            self._hurried = stuck
            hurry(self._raw, pause if stuck else None)

    def _progress(self) -> tuple[bool, float, bool]:
        """Return whether anything is unacknowledged, for how many seconds nothing moved, and whether TCP told."""
        socket, now = self._socket, self._now()
        waiting = owed(socket.transport)
        unheard = self._sent and socket.heard_at < self._sent_at
        owing = waiting > 0 or (unheard and self.pongs_count and not TELLS)
        acknowledged = self.meter.written - waiting
        if not owing or acknowledged > self._acknowledged:
            self._progress_at = now
        self._acknowledged = max(self._acknowledged, acknowledged)
        quiet = last_acknowledged(self._raw)
        moved_on_at = max(self._progress_at, socket.heard_at, now - quiet if quiet is not None else 0.0)
        return owing, now - moved_on_at, quiet is not None

    def _signs(self) -> Signs:
        """Return what the connection shows. It asks the system for the address, which takes a tenth of a ms."""
        owing, stuck, told = self._progress()
        return Signs(
            silent=self._now() - self._socket.heard_at,
            owing=owing,
            stuck=stuck,
            invested=max(self._progress_at - self._began_at, 0.0) if told else _BLIND_PATIENCE,
            slept=lag() - self._socket.lag,
            moved=has_moved(self._raw),
            round_trip=self._socket.round_trip,
        )

    def _now(self) -> float:
        return self._socket.loop.time()

    @property
    def patience(self) -> float:
        """For how many seconds an answer is waited for before something else is tried as well."""
        return patience(self._socket.round_trip, min(self._timing.stuck_timeout, 0.25))

    def give_up(self, reason: str) -> None:
        """Close at once for *reason*, and have the kernel forget what has not arrived: it shall not any more."""
        self._given_up = reason
        reset_on_close(self._raw)
        self.abort()

    def _lost(self) -> ConnectionLost:
        if self._socket.inbox.overrun:
            return ConnectionLost("the agent read so slowly that too much was unread (max_unread_bytes)")
        if self._given_up is not None:
            return ConnectionLost(self._given_up, sent=self._sent)
        said, ours = self._socket.protocol.close_rcvd, self._socket.protocol.close_sent
        if said is None and ours is not None and ours.code == TOO_BIG:  # ours alone: whoever fails reads no more
            fault = "upstream sent an event that is too large (max_event_bytes)"
            return ConnectionLost(fault, code=TOO_BIG, sent=self._sent)
        code, reason = (said.code, said.reason) if said is not None else (1006, "")
        return ConnectionLost(f"the WebSocket closed with {code}", code=code, sent=self._sent, said=reason)

    async def close(self) -> None:
        """Close politely, within close_timeout."""
        await self._socket.close()

    def abort(self) -> None:
        """Close at once: what is still under way is nobody's."""
        cast("MeteredTransport", self._socket.transport).drop()

    def __repr__(self) -> str:
        knows = f"knows {self.baseline.response_id}" if self.baseline is not None else "knows nothing"
        return f"<Connection {self._socket.state.name}, {knows}>"
