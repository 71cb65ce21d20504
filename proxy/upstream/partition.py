"""What one set of credentials may share: connections, baselines, and what was seen of upstream with them.

Dropping any of it costs bytes, never an answer.
"""

import asyncio
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

from proxy.core.affinity import Candidate, Former, goes_aside, gone_on_from, returned_to, way_on
from proxy.core.delta import Baseline, Delta, Full, Mismatch, TurnRequest
from proxy.core.hoist import Form
from proxy.core.items import Fingerprint
from proxy.core.turn import Rewrite
from proxy.upstream.account import Account
from proxy.upstream.connection import Connection
from proxy.upstream.doubts import Doubts
from proxy.upstream.headers import Headers
from proxy.upstream.kinds import Kinds
from proxy.upstream.lifespan import Lifespan
from proxy.upstream.newest import Newest
from proxy.upstream.sizes import Sizes
from proxy.upstream.slumber import Slumber
from proxy.upstream.trust import Trust

_FORMERS_KEPT = 64
"""So many that nobody has gone on from, and as many that somebody has."""

_MISSES_BELIEVED = 3
"""After so many deltas in a row that upstream could not continue, it does not keep what it promised."""

_COLLAPSE_PATIENCE = 12
"""How many times longer a chain that collapsed is remembered than one that upstream owns up to having lost."""

_COLLAPSE_LONGEST = 24 * 3600.0


class NoLease(Exception):
    """No connection can be had for this turn, which should go over plain HTTP, for *reason*."""

    def __init__(self, reason: Mismatch) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(slots=True)
class Slot:
    """A place in a partition: being opened, free, or lent to a turn.

    *opening* is the task that opens it ahead of a turn, if one does; *wanted* says whether a turn waits for that.
    *claimed* is the baseline that it was lent with, *closing* why it is gone, once it is counted as that.
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


@dataclass(slots=True)
class Chaining:
    """Whether chains of one kind are relied on: not before *off_until*, for *reason*.

    *misses* counts those in a row that upstream could not continue.
    """

    misses: int = 0
    off_until: float = 0.0
    reason: Mismatch = Mismatch.UPSTREAM_FORGOT

    def rest(self, until: float, reason: Mismatch = Mismatch.UPSTREAM_FORGOT) -> None:
        """Rely on none *until* then, nor sooner than was said before, for *reason*."""
        self.misses = 0
        if until > self.off_until:
            self.off_until, self.reason = until, reason


@dataclass(slots=True)
class Partition:
    """What one set of credentials may share.

    *chaining* is told apart by whether responses are stored: some servers remember no others. *recall* is about
    stored ones that are continued on another connection than their own. *answers_at_work* says that upstream was
    seen to answer a ping in the middle of a turn, *asked_at_work* counts the turns in which that was asked.
    *trusts_chains* says that upstream was seen to read a chain of three turns.
    *hasty* counts those in a row that were given up behind a pause. *cut_short* has what the conversations asked
    of which a turn began none that could go on.
    """

    headers: Headers
    query: str
    trust: Trust
    slots: dict[int, Slot] = field(default_factory=dict)
    formers: tuple[Former, ...] = ()
    cut_short: Newest[Fingerprint, bool] = field(default_factory=Newest)
    chaining: Mapping[bool, Chaining] = field(default_factory=lambda: {True: Chaining(), False: Chaining()})
    recall: Chaining = field(default_factory=Chaining)
    trusts_chains: bool = False
    collapses: int = 0
    verdicts: Newest[Form | Rewrite, bool] = field(default_factory=Newest)
    warm_up_off_until: float = 0.0
    answers_at_work: bool = False
    asked_at_work: int = 0
    hasty: int = 0
    lifespan: Lifespan = field(default_factory=Lifespan)
    slumber: Slumber = field(default_factory=Slumber)
    doubts: Doubts = field(default_factory=Doubts)
    sizes: Sizes = field(default_factory=Sizes)
    kinds: Kinds = field(default_factory=Kinds)
    account: Account = field(default_factory=Account)

    # Its connections

    @property
    def connections(self) -> list[Connection]:
        """Those that are open."""
        return [slot.connection for slot in self.slots.values() if slot.connection is not None]

    @property
    def candidates(self) -> Sequence[Candidate]:
        """What a request may be sent on."""
        return [Candidate(key, slot.baseline, slot.free, slot.last_used) for key, slot in self.slots.items()]

    @property
    def spare(self) -> int | None:
        """The place of a connection that was opened ahead, or is being; rather of one that is there."""
        spares = [key for key, slot in self.slots.items() if slot.is_spare]
        return max(spares, key=lambda key: self.slots[key].free, default=None)

    def may_open(self, now: float) -> bool:
        """Whether another connection may be opened, as far as upstream is concerned."""
        return self.trust.allows(now) and self.trust.has_room(now)

    def may_recall(self, request: TurnRequest, now: float) -> bool:
        """Whether upstream may still know a response whose connection is gone."""
        return request.is_stored and now >= self.recall.off_until

    def remember(
        self,
        baseline: Baseline | None,
        reason: Mismatch,
        *,
        is_sound: bool = False,
        left_by: AbstractSet[Fingerprint] | None = None,
    ) -> None:
        """Remember a *baseline* that is no more, and why: the latest word on it counts.

        Who left it, where that is not said, is as it was: a turn that was broken off had left it, too.
        """
        if baseline is not None:
            former = self._former(baseline)
            if left_by is None:
                left_by = frozenset() if former is None else former.left_by
            others = [each for each in self.formers if each.baseline is not baseline]
            self.formers = tuple(_latest([Former(baseline, reason, is_sound, left_by), *others]))

    def note_course(self, request: TurnRequest, upload: Delta | Full) -> None:
        """Take note of the conversation that *request* goes on with, or goes aside from."""
        if isinstance(upload, Delta):
            self._note_continued(request, upload.baseline)
        elif upload.reason is Mismatch.ASIDE:
            self._note_aside(request)

    def _note_continued(self, request: TurnRequest, continued: Baseline) -> None:
        if continued.kind is None:
            return
        self.kinds.went_on(continued.kind, continued.errand)
        self._note_back(request, self._former(continued))
        way = way_on(request, continued)
        if way is not None:
            self.remember(continued, Mismatch.HISTORY_CHANGED, is_sound=True, left_by={way})

    def _note_aside(self, request: TurnRequest) -> None:
        """Take note that *request* leaves the conversation that it goes on with where it is."""
        left = gone_on_from(request, [each.baseline for each in self.candidates if each.baseline is not None])
        if left is None or (way := way_on(request, left)) is None:
            return
        self.kinds.went_aside(way)
        former = self._former(left)
        ways = {way} if former is None else {way, *former.left_by}
        self.remember(left, Mismatch.HISTORY_CHANGED, left_by=ways)

    def note_return(self, request: TurnRequest) -> bool:
        """Take note where *request* comes back to a conversation that is no more; return whether it does."""
        former = returned_to(request, self.candidates, self.formers)
        if former is None or former.baseline.kind is None:
            return False
        self.kinds.went_on(former.baseline.kind, former.baseline.errand)
        self._note_back(request, former)
        return True

    def note_gone_on(self, request: TurnRequest) -> None:
        """Take note that *request* was answered: who comes back to where it went on from changes the history.

        Not where it went aside: then to come back is to go on.
        """
        habits = self.kinds.habits()
        for former in self.formers:
            if goes_aside(request, former.baseline, habits):
                continue
            if former.reason is not Mismatch.HISTORY_CHANGED and gone_on_from(request, [former.baseline]):
                sound, left_by = former.is_blameless, former.left_by
                self.remember(former.baseline, Mismatch.HISTORY_CHANGED, is_sound=sound, left_by=left_by)

    def _note_back(self, request: TurnRequest, former: Former | None) -> None:
        """Take note where *request* goes on from *former*, which one had gone on from another way before."""
        if former is not None:
            for way in former.left_by - {request.kind, request.errand}:
                self.kinds.led_aside(way)

    def _former(self, baseline: Baseline) -> Former | None:
        return next((each for each in self.formers if each.baseline is baseline), None)

    # Its chains

    def believed(self, upload: Delta | Full, now: float) -> Delta | Full:
        """Return *upload*, or what takes its place while chains are not relied on."""
        if isinstance(upload, Full):
            return upload
        chaining = self.chaining[upload.baseline.stored]
        return Full(chaining.reason) if now < chaining.off_until else upload

    def blamed(self, upload: Delta | Full, request: TurnRequest) -> Delta | Full:
        """Return *upload*, whose reason is an earlier turn that failed where that is all that is known."""
        is_unknown = isinstance(upload, Full) and upload.reason is Mismatch.AFTER_RESTART
        return Full(Mismatch.AFTER_ERROR) if is_unknown and request.asked in self.cut_short else upload

    def note_delta(
        self,
        *,
        continued: bool,
        recalled: bool,
        stored: bool,
        now: float,
        off_seconds: float,
        at_once: bool = False,
    ) -> None:
        """Remember whether upstream *continued* a chain; where it keeps failing to, rely on no more of that kind.

        That of a response that was *recalled* says nothing about live chains.
        """
        if recalled and not at_once:
            if not continued:
                self.recall.rest(now + off_seconds)
            return
        chaining = self.chaining[stored]
        chaining.misses = 0 if continued else chaining.misses + 1
        if at_once or chaining.misses >= _MISSES_BELIEVED:
            chaining.rest(now + off_seconds)

    def note_collapse(self, *, now: float, off_seconds: float) -> None:
        """Remember that upstream confirmed a chain and had lost it: a fault of its own, that will not pass soon.

        The agent may have been shown an answer without its history, so each time the trust is gone for longer.
        """
        self.trusts_chains = False
        off = min(_COLLAPSE_PATIENCE * off_seconds * 2**self.collapses, _COLLAPSE_LONGEST)
        self.collapses += 1
        for chaining in self.chaining.values():
            chaining.rest(now + off, Mismatch.CHAIN_COLLAPSED)

    # What it takes

    def judge(self, form: Form | Rewrite, *, equal: bool) -> None:
        """Remember whether a request that is rewritten so is *equal* to the agent's, for upstream."""
        self.verdicts[form] = equal


def _latest(formers: Iterable[Former]) -> Iterator[Former]:
    """Yield the first of *formers*, those that somebody has gone on from counted apart.

    There is one more of them with each message, and what a conversation is to go on from stands among them.
    """
    kept = {True: 0, False: 0}
    for former in formers:
        gone_on = former.reason is Mismatch.HISTORY_CHANGED
        kept[gone_on] += 1
        if kept[gone_on] <= _FORMERS_KEPT:
            yield former
