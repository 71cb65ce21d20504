"""Which connection a request should run on, decided without waiting.

The baselines of one partition (one upstream, one set of credentials) compete: the longest one that the request
continues wins. A conversation nobody knows gets a connection that knows nothing, or a new one, so that it does
not evict another's baseline. When there is no room, it takes the place of the least valuable baseline, but of none
in use: more conversations than there may be connections would else take them from each other in turn, and none had
a delta. Nothing is opened for that: a connection is as good with another chain behind it, and stands.

A conversation of a kind that is over with its answer (a title, a sub-agent) goes where the last such one was: the
compressor there has seen much of it, and nobody waits for a connection. A request of a kind that leads a
conversation nowhere (a suggestion), or with last words that do, goes aside in full, so that the conversation keeps
its connection.

A response that the agent has upstream store outlives its connection: it can be continued on any other, also while
another turn continues it on its own, and so makes room even in use.
"""

from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from enum import Enum

from proxy.core.delta import Baseline, Delta, Full, Mismatch, TurnRequest, diff
from proxy.core.items import Dropped, Fingerprint


@dataclass(frozen=True, slots=True)
class Candidate:
    """One connection: what it knows, or knew when its present turn began (*free* is then false)."""

    key: int
    baseline: Baseline | None
    free: bool
    last_used: float


class Recall(Enum):
    """Which stored responses are continued although their connection is gone, or at work."""

    NONE = "none"
    OWN_ID = "those whose id is known to stand for no other"
    ANY = "any"

    def allows(self, baseline: Baseline) -> bool:
        """Whether *baseline* is one of them."""
        return baseline.stored and (self is Recall.ANY or (self is Recall.OWN_ID and baseline.own_id))


_KEPT = frozenset({Mismatch.CONNECTION_LOST, Mismatch.RETIRED})
"""Why a connection may be gone without any fault of the response that it held."""


@dataclass(frozen=True, slots=True)
class Former:
    """A baseline that is no more, and why a request that would continue it must be sent in full.

    *is_sound* says that upstream was continuing its response when the agent hung up, or has done so. *left_by* are
    the ways (`way_on`) of the request that continued it on its connection, or of those that went aside, so that it
    is still there.
    """

    baseline: Baseline
    reason: Mismatch
    is_sound: bool = False
    left_by: AbstractSet[Fingerprint] = frozenset()

    @property
    def is_blameless(self) -> bool:
        """Whether its connection is gone for no fault of the response that it held."""
        return self.is_sound or self.reason in _KEPT


@dataclass(frozen=True, slots=True)
class Use:
    """Run on the connection *key*, and send *upload*."""

    key: int
    upload: Delta | Full


@dataclass(frozen=True, slots=True)
class Take:
    """Run on the connection *key* in place of its conversation, and send *upload*."""

    key: int
    upload: Delta | Full


@dataclass(frozen=True, slots=True)
class Open:
    """Run on a new connection, and send *upload*; first close the connection *evict*, if there is one."""

    upload: Delta | Full
    evict: int | None = None


@dataclass(frozen=True, slots=True)
class NoRoom:
    """Every connection is at work or in use, and there may be no more: plain HTTP for this turn."""


@dataclass(frozen=True, slots=True)
class Habits:
    """What agents do with requests of some kinds.

    With those in *over* they begin a conversation and never go on with it once it has its answer; by the ways in
    *aside* they go on with one, and then come back to where it was before.
    """

    over: AbstractSet[Fingerprint] = frozenset()
    aside: AbstractSet[Fingerprint] = frozenset()


_NO_HABITS = Habits()
_OVER_SECONDS = 10.0
"""How long after its answer a conversation of a kind that is usually over has to be idle, to be taken for over."""

_IN_USE_SECONDS = 60.0
"""How long after a turn a conversation is taken to go on: most tools take less."""


def choose(
    request: TurnRequest,
    candidates: Sequence[Candidate],
    formers: Iterable[Former] = (),
    *,
    room: int,
    now: float,
    dropped: Dropped = "reasoning",
    fresh: Mismatch | None = None,
    recall: Recall = Recall.NONE,
    habits: Habits = _NO_HABITS,
) -> Use | Take | Open | NoRoom:
    """Choose a connection for *request*; *room* is how many more may be opened, *now* the clock of `last_used`.

    With *fresh*, which is the reason to record, only a new connection will do: an earlier attempt failed. A
    stored response that *recall* allows is continued although its connection is gone, with this turn or before, or
    at work. What goes aside by the agents' *habits* leaves the conversation that it continues where it is, if
    there is room.
    """
    continuing = _continuing(request, candidates, dropped) if fresh is None else None
    if continuing is not None and not _goes_aside(request, continuing.upload, habits, recall):
        return continuing
    formers = list(formers)
    upload: Delta | Full = Full(Mismatch.ASIDE)
    if continuing is None:
        upload = Full(fresh or explain(request, candidates, formers, dropped))
        if fresh in (None, Mismatch.CONNECTION_LOST):
            upload = _stored(request, candidates, formers, dropped, recall) or upload
    place = _alike(request, candidates, habits, now)
    if isinstance(upload, Full) and fresh is None and place is not None:
        return Take(place, upload)
    blank = next((each for each in candidates if each.free and each.baseline is None), None)
    if blank is not None and fresh is None:
        return Use(blank.key, upload)
    if room > 0:
        return Open(upload)
    if continuing is not None:
        return continuing
    idle = [each for each in candidates if each.free and not _is_in_use(each, now, habits=habits, recall=recall)]
    victim = min(idle, key=lambda each: _value(each, habits), default=None)
    if victim is None:
        return NoRoom()
    return Take(victim.key, upload) if fresh is None else Open(upload, evict=victim.key)


def _continuing(request: TurnRequest, candidates: Iterable[Candidate], dropped: Dropped) -> Use | None:
    """Return the free connection with the longest baseline that *request* continues; of several, the last used."""
    continued = [
        (candidate, delta)
        for candidate in candidates
        if candidate.free and candidate.baseline is not None
        for delta in [diff(request, candidate.baseline, dropped)]
        if isinstance(delta, Delta)
    ]
    if not continued:
        return None
    best, delta = max(continued, key=lambda each: (each[1].baseline.length, each[0].last_used))
    return Use(best.key, delta)


def _goes_aside(request: TurnRequest, upload: Delta | Full, habits: Habits, recall: Recall) -> bool:
    """Whether the conversation that *upload* continues will not go on from the answer to *request*."""
    if not habits.aside or isinstance(upload, Full) or recall.allows(upload.baseline):
        return False
    return goes_aside(request, upload.baseline, habits)


def way_on(request: TurnRequest, known: Baseline) -> Fingerprint | None:
    """Return what tells *request* from the one that it goes on from: its kind, or else its errand.

    None where that had called something, or was the same: then nothing is learned from what becomes of it.
    """
    if known.kind is None or known.errand == request.errand:
        return None
    return request.kind if known.kind != request.kind else request.errand


def _alike(request: TurnRequest, candidates: Iterable[Candidate], habits: Habits, now: float) -> int | None:
    """Return the connection used last whose conversation was of the kind of *request*, and is over."""
    kind = request.kind if habits.over or habits.aside else None
    found = [
        (each.last_used, each.key)
        for each in candidates
        if each.free and each.baseline is not None and each.baseline.kind == kind is not None
        if _is_past(each.baseline, request, habits)
        or (now - each.last_used >= _OVER_SECONDS and _is_over(each.baseline, request, habits))
    ]
    return max(found)[1] if found else None


def _is_past(known: Baseline, request: TurnRequest, habits: Habits) -> bool:
    """Whether agents come back to where they were before *known*, all of which went aside, as *request* does."""
    if known.turns > 1:
        return False
    return known.kind in habits.aside or (known.errand in habits.aside and known.errand == request.errand)


def _is_over(known: Baseline, request: TurnRequest, habits: Habits) -> bool:
    """Whether *known* will not be gone on with, if *request* is not.

    A history that did not begin with its request may be that of a conversation which goes on; but not where
    another request, for the same task, does not. One that began with much would be dear to lose, and is of little
    use to the compressor.
    """
    return request.kind in habits.over and (known.brief or (known.turns == 1 and known.asked == request.asked))


def _stored(
    request: TurnRequest,
    candidates: Iterable[Candidate],
    formers: Iterable[Former],
    dropped: Dropped,
    recall: Recall,
) -> Delta | None:
    """Return the longest stored response that *request* continues: one that is gone, or one at work."""
    stored = [former.baseline for former in formers if former.is_blameless]
    stored += [each.baseline for each in candidates if each.baseline is not None and not each.free]
    found = [diff(request, baseline, dropped) for baseline in stored if recall.allows(baseline)]
    deltas = [each for each in found if isinstance(each, Delta)]
    return max(deltas, key=lambda each: each.baseline.length, default=None)


def _is_in_use(candidate: Candidate, now: float, *, habits: Habits, recall: Recall) -> bool:
    """Whether a conversation goes on there that would lose its deltas with the connection."""
    known = candidate.baseline
    if known is None or not _may_go_on(known, habits) or recall.allows(known):
        return False
    return now - candidate.last_used < _IN_USE_SECONDS


def _value(candidate: Candidate, habits: Habits) -> tuple[bool, bool, float]:
    """Rank *candidate* by what would be lost with it: nothing, what is over or has hardly begun, a conversation.

    Of equals that counts least which was used longest ago.
    """
    known = candidate.baseline
    return (known is not None, known is not None and _may_go_on(known, habits), candidate.last_used)


def _may_go_on(known: Baseline, habits: Habits) -> bool:
    """Whether a conversation is taken to go on: it did before, and is of no kind that is over once answered.

    Or it has just begun, and waits for a tool. What was told anew in its midst may be again: some agents rewrite
    their history with each turn.
    """
    if known.turns == 1:
        return known.began and known.kind is None
    return known.kind not in habits.over


def goes_aside(request: TurnRequest, known: Baseline, habits: Habits) -> bool:
    """Whether agents come back to *known* from requests that go on from it as this one does."""
    return way_on(request, known) in habits.aside


def comes_to_nothing(known: Baseline, habits: Habits) -> bool:
    """Whether agents go on from no answer like that of *known*: it was all that was wanted, or went aside."""
    return known.kind in habits.over | habits.aside or known.errand in habits.aside


def returned_to(request: TurnRequest, candidates: Iterable[Candidate], formers: Iterable[Former]) -> Former | None:
    """Return the former that *request* goes on from; None where a connection has its baseline, or nobody."""
    formers = list(formers)
    live = [each.baseline for each in candidates if each.baseline is not None]
    last = gone_on_from(request, [*live, *(each.baseline for each in formers)])
    if any(last is each for each in live):
        return None
    return next((each for each in formers if each.baseline is last), None)


def gone_on_from(request: TurnRequest, baselines: Iterable[Baseline]) -> Baseline | None:
    """Return the longest of *baselines* that *request* goes on from; of several the first."""
    found = [each for each in baselines if isinstance(diff(request, each, "any"), Delta)]
    return max(found, key=lambda each: each.length, default=None)


def explain(
    request: TurnRequest,
    candidates: Iterable[Candidate],
    formers: Iterable[Former] = (),
    dropped: Dropped = "reasoning",
) -> Mismatch:
    """Say why *request* continues none of the free *candidates*, in the words of the figures."""
    models: set[str] = set()
    nearest: Mismatch | None = None
    known = [
        *(Former(each.baseline, Mismatch.BUSY) for each in candidates if each.baseline is not None),
        *formers,
    ]
    for former in known:
        found = diff(request, former.baseline, dropped)
        if isinstance(found, Delta):
            return former.reason
        if found.reason is not Mismatch.HISTORY_CHANGED:
            nearest = nearest or found.reason
        if former.baseline.asked == request.asked:
            models.add(former.baseline.model)
    if nearest is not None:
        return nearest
    if not request.has_model_output:
        return Mismatch.FIRST_TURN  # also where one that was known began with the same words
    if not models:
        return Mismatch.AFTER_RESTART
    # Agents rewrite the history for another model: its name in the prompt, thoughts left out or told as text.
    return Mismatch.HISTORY_CHANGED if request.model in models else Mismatch.MODEL_CHANGED
