"""One agent request answered by one upstream response, as a state machine.

    READY -> SENT -> STREAMING -> COMPLETED | INCOMPLETE | FAILED
               |
               +--> READY again: same connection or a fresh one, in full (until the agent was shown an event)

`start` gives the message to send, `receive` takes an event and says what is to be done with it. Nothing is
sent again once the agent was shown an event (`core/replay.py`); a second attempt owes nothing to the first.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from http import HTTPStatus
from typing import Any

from proxy.core.account import Account
from proxy.core.delta import Baseline, Delta, Full, Mismatch, TurnRequest
from proxy.core.events import AGE_LIMIT, DONE, ERRORS, Fault, ServerEvent, response_create
from proxy.core.heldback import HeldBack
from proxy.core.hoist import Hoisted
from proxy.core.items import Item, Output, Raw
from proxy.core.message import Message
from proxy.core.replay import Remedy, Replays
from proxy.core.weight import Reading, Weight
from proxy.errors import ConnectionLost, UpstreamTimeout, UpstreamUnavailable


class State(Enum):
    """Where a turn stands."""

    READY = "ready"
    SENT = "sent"
    STREAMING = "streaming"
    COMPLETED = "completed"
    INCOMPLETE = "incomplete"
    FAILED = "failed"


_ENDINGS = {
    "response.completed": State.COMPLETED,
    "response.incomplete": State.INCOMPLETE,
}
"""How the turn ended, by its terminal event; any other terminal event is a failure."""


_COMPLETE = ("response.completed", DONE)
"""How a response ends that completed: some servers say the latter as well, behind the former."""


# Looked into several times for each event. A tuple compares by identity; a set would hash an Enum, in Python.
_OVER = (State.COMPLETED, State.INCOMPLETE, State.FAILED)
_UNDER_WAY = (State.STREAMING, State.SENT)
_NOT_BEGUN = (State.READY, State.SENT)


@dataclass(frozen=True, slots=True)
class Again:
    """Nothing was shown to the agent: send in full for *reason*, on a *fresh* connection or the same one.

    A fresh one may continue a response that upstream stores instead (`core/affinity.py`).
    """

    reason: Mismatch
    fresh: bool


@dataclass(frozen=True, slots=True)
class Collapse:
    """Upstream confirmed a chain, and *read* fewer tokens than the *expected* ones that it has to hold at least.

    *shown* says whether the agent had been shown some of the answer by then.
    """

    expected: int
    read: int
    shown: bool


class Rewrite(Enum):
    """A way of writing a request for upstream that differs from the agent's, and means the same."""

    HOISTED = "settings as items"
    QUIET = "no padding"
    KEPT = "instructions at the beginning of a chain alone, for an upstream that keeps them"


_ABOUT = {
    Rewrite.HOISTED: ("instructions", "tools", "tool_choice"),
    Rewrite.QUIET: ("stream_options",),
}
"""The parameters that upstream names where it refuses a rewrite."""


class Turn:
    """One request on its way: what was sent, what came back, and what upstream holds afterwards.

    *rewrites* are the ways in which it may be written for upstream; *refused* those that upstream did not take.
    *tells* says whether an event would be the first that the agent is shown anything of (`frontends.base.Answer`).
    Unless upstream reads a request alone that continues nothing (*begins_anew*), one that is not plainly whole is
    sent again on a fresh connection only.

    Of the last attempt: *upload* is what was sent, *hoisted* the settings that it told as items, *untold* the
    fields of the agent's that it left out because upstream has their values from elsewhere, *response_id* the
    id of upstream's response, *reading* the tokens that upstream counted. *again* says how the turn has to be
    sent again, if it has to; *baseline* is what upstream holds once it has completed.

    Of all attempts: *attempts* is their number, *replays* counts those that were lost, and *shown* says that the
    agent has seen some of an answer. *chain_ignored* says that upstream continued another response than it was
    asked to in one of them, *collapse* that it had lost the chain. Unless *trusts_chains* is set, an answer that
    names no parent is only shown once it is known what upstream read for it; *proves_chains* says that this was
    enough.
    """

    def __init__(
        self,
        request: TurnRequest,
        *,
        ambiguous_retries: int = 2,
        rewrites: frozenset[Rewrite] = frozenset(),
        tells: Callable[[ServerEvent], bool] = lambda _: True,
        begins_anew: bool = True,
    ) -> None:
        self.request = request
        self.rewrites = rewrites
        self.refused: frozenset[Rewrite] = frozenset()
        self.replays = Replays(ambiguous_retries)
        self.shown = False
        self.state = State.READY
        self.upload: Delta | Full = Full(Mismatch.FIRST_TURN)
        self.again: Again | None = None
        self.baseline: Baseline | None = None
        self.attempts = 0
        self.response_id: str | None = None
        self.chain_ignored = False
        self.collapse: Collapse | None = None
        self.trusts_chains = self.proves_chains = False
        self.hoisted: Hoisted | None = None
        self.untold: Mapping[str, Any] = {}
        self._reused = False
        self._earlier: str | None = None
        self._retried_here = False
        self._has_announced = self._is_unconfirmed = False
        self._created: ServerEvent | None = None
        self._tells = tells
        self._begins_anew = begins_anew
        self._account = Account()
        self._held_back = HeldBack()
        self.reading: Reading | None = None

    @property
    def finished(self) -> bool:
        """Whether there is nothing more to send or to wait for."""
        return self.state in _OVER

    @property
    def in_flight(self) -> bool:
        """Whether upstream owes us an event."""
        return self.state in _UNDER_WAY

    @property
    def held(self) -> tuple[Raw, ...]:
        """The items of the response, once it has completed."""
        return tuple(self._account.held)

    @property
    def says_something(self) -> bool:
        """Whether upstream told an item or a part of one."""
        return self._account.says_something

    @property
    def is_empty(self) -> bool:
        """Whether upstream completed an answer in which it says nothing at all."""
        return self.baseline is not None and not self.baseline.outputs

    @property
    def begun(self) -> bool:
        """Whether upstream has begun to answer."""
        return self.state not in _NOT_BEGUN

    @property
    def repeats_id(self) -> bool:
        """Whether its response has the id of the one before it, there or in the chain."""
        return self.response_id is not None and self.response_id in (self._earlier, self._parent)

    @property
    def has_own_id(self) -> bool:
        """Whether its response has another id than the one that it continues, on the same connection."""
        return None not in (self._parent, self.response_id) and self._parent == self._earlier != self.response_id

    @property
    def _continued(self) -> Baseline | None:
        """What upstream was asked to continue."""
        return self.upload.baseline if isinstance(self.upload, Delta) else None

    @property
    def _parent(self) -> str | None:
        """The id of the response that upstream was asked to continue."""
        return self._continued.response_id if self._continued is not None else None

    @property
    def goes_on(self) -> bool:
        """Whether the agent is being shown an answer that has not ended."""
        return self.shown and self.state is State.STREAMING

    def is_mere_piece(self, event: ServerEvent) -> bool:
        """Whether *event* adds to an answer that goes on, and nothing else, and is shown as it came."""
        if not (self.goes_on and event.is_piece):
            return False
        return not self.untold or event.telling(self.untold) is event

    def start(self, upload: Delta | Full, *, reused: bool, earlier: str | None = None) -> Message:
        """Return the message that carries *upload*; *reused* if the connection has answered turns before.

        *earlier* is the id of the last response on it.
        """
        self.upload = upload
        self._retried_here = self.again is not None and not self.again.fresh
        self.again = None
        self.baseline = None
        self.response_id = None
        self.reading = None
        self._reused = reused
        self._earlier = earlier
        self._has_announced = self._is_unconfirmed = False
        self._created = None
        self._account = Account()
        self._held_back = HeldBack()
        self.hoisted = self.request.hoisted if self._is_hoisted(upload) else None
        self.untold = self._left_out(upload)
        message = self._message(upload)
        self.attempts += 1
        self.state = State.SENT
        return message

    def _message(self, upload: Delta | Full) -> Message:
        delta = upload if isinstance(upload, Delta) else None
        return response_create(self.request, delta, self.hoisted, quiet=self.is_quiet)

    def _is_hoisted(self, upload: Delta | Full) -> bool:
        """Whether the settings go as items: a chain keeps the form in which it began.

        Settings that changed may change with each turn, such as a clock in the instructions, and as fields they
        cost no chain.
        """
        if isinstance(upload, Delta):
            return upload.baseline.hoisted is not None
        if upload.reason is Mismatch.SETTINGS_CHANGED:
            return False
        return Rewrite.HOISTED in self.rewrites - self.refused

    def _is_kept(self, upload: Delta | Full) -> bool:
        """Whether upstream keeps the instructions for the chain, and is told none afterwards."""
        if isinstance(upload, Delta):
            return upload.baseline.kept
        return Rewrite.KEPT in self.rewrites

    def _left_out(self, upload: Delta | Full) -> Mapping[str, Any]:
        """Return the fields of the agent's request that the message does not have."""
        fields = dict(self.hoisted.fields) if self.hoisted is not None else {}
        if isinstance(upload, Delta) and self._is_kept(upload) and self.request.fields.get("instructions"):
            fields["instructions"] = self.request.fields["instructions"]
        return fields

    @property
    def is_quiet(self) -> bool:
        """Whether it asks for events without padding."""
        return Rewrite.QUIET in self.rewrites - self.refused and self.request.leaves_padding_open

    def receive(self, event: ServerEvent) -> tuple[ServerEvent, ...]:
        """Take an event; return what the agent is to see now.

        Afterwards *again* may hold what to do instead. Raises UpstreamError where upstream refused the turn
        before any output, ConnectionLost where the events are not this turn's, or too much of them would have to
        be held back, and GarbledEvent where one that has to be read is no JSON.
        """
        if event.type in ERRORS:
            return self._error(event)
        if self._is_earlier(event):
            return ()
        if event.type == DONE:
            event = event.as_over_http(self._created)
        if event.type == "response.failed" and self._is_unheard and self._repeat_after_failure(event):
            return ()
        if self.state is State.SENT:
            if not event.of_response:
                self._held_back.keep_early(event)
                return ()
            self._begin(event)
            if self.again is not None:
                return ()
            self.state = State.STREAMING
        if event.is_aside:
            return ()
        self._account.note(event)
        if event.terminal:
            self._end(event)
        return self._released(event)

    @property
    def _is_unheard(self) -> bool:
        """Whether upstream has said nothing of an answer, or only that it begins, and the agent was shown nothing.

        Gateways may announce a response before they ask the server behind them, which may still refuse the turn.
        """
        return self.state is State.SENT or (self.begun and not (self.shown or self.says_something))

    def note_piece(self) -> None:
        """Take note of an event that adds a piece to an answer that goes on, and that the agent was shown."""
        self._account.note_piece()

    def _is_earlier(self, event: ServerEvent) -> bool:
        """Whether *event* is the end of the previous response on this connection, come late or a second time.

        That one completed; where another ending with its id is the first word on this turn, upstream may give all
        responses one id. Raises ConnectionLost where any comes in the middle of this turn's response.
        """
        if self._earlier is None or self._earlier == self.response_id or not event.terminal:
            return False  # where all responses have one id, the two cannot be told apart
        is_earlier = self._earlier.encode() in event.raw and _response(event).get("id") == self._earlier
        if is_earlier and self.begun:
            raise ConnectionLost(f"{event.type} of an earlier response came in the middle of this one")
        return is_earlier and event.type in _COMPLETE

    def _released(self, event: ServerEvent) -> tuple[ServerEvent, ...]:
        """Return what the agent is to see now: *event* and those held back before it, or nothing yet.

        As long as it has seen nothing, the turn can be sent again should the connection be lost.
        """
        if self.again is not None:
            return ()
        is_read_along = self.request.stream and not self._is_unconfirmed
        if not (self.shown or event.terminal or (is_read_along and self._tells(event))):
            self._held_back.keep(event)
            return ()
        shown = self._held_back.followed_by(event)
        self.shown = True
        if not self.untold and self._parent is None:
            return shown
        return tuple(self._as_asked(each) for each in shown)

    def _as_asked(self, event: ServerEvent) -> ServerEvent:
        """Return *event* as it answers the agent's own request, which continues nothing and tells all."""
        if self._parent is not None and self.request.echo is None:
            event = event.continuing_none(self._parent)
        return event.telling(self.untold) if self.untold else event

    def may_go_elsewhere(self) -> bool:
        """Count an attempt that is given up with nothing shown; return whether the turn may be sent again."""
        if self.state is State.READY:
            return True
        return self.replays.after_loss(sent=True, shown=False) is not Remedy.NONE

    def connection_lost(self, fault: ConnectionLost) -> None:
        """Take the loss of the connection; afterwards *again* says that the turn is to be sent on a new one.

        Raises *fault* where it may not be sent again, or upstream was silent for too long; UpstreamUnavailable
        where it may, but no longer over a WebSocket.
        """
        remedy = Remedy.NONE
        if not isinstance(fault, UpstreamTimeout):
            remedy = self.replays.after_loss(sent=fault.sent, shown=self.shown)
        if remedy is Remedy.NONE:
            self.state = State.FAILED
            raise fault
        self._repeat(Mismatch.CONNECTION_LOST, fresh=True)
        if remedy is Remedy.OVER_HTTP:
            raise UpstreamUnavailable("the WebSocket was lost again and again before an answer") from fault

    def _repeat(self, reason: Mismatch, *, fresh: bool) -> None:
        self.state = State.READY
        self.again = Again(reason, fresh or not (self._begins_anew or self._is_read_alone(Full(reason))))

    def _is_read_alone(self, again: Full) -> bool:
        """Whether *again* replaces all that the connection carried, also where upstream goes on with that.

        Settings that were fields in this attempt would be kept beside those that are told as items.
        """
        return self.request.is_plainly_whole and (self.hoisted is not None or not self._is_hoisted(again))

    def _begin(self, event: ServerEvent) -> None:
        """Check that the first event of a response is this turn's, and that upstream continued the right chain."""
        if self._reused and event.type not in {"response.created", "response.failed"}:
            raise ConnectionLost(f"{event.type} came before this turn's response.created")
        self._has_announced = event.type == "response.created"
        self._created = event if self._has_announced else None
        parent = self._continued.weight if self._continued is not None else None
        self._is_unconfirmed = parent is not None and parent.is_telling and not self.trusts_chains
        if event.type not in {"response.created", "response.completed"}:
            return
        response = _response(event)
        self._is_unconfirmed &= "previous_response_id" not in response
        response_id = response.get("id")
        if isinstance(response_id, str):
            self.response_id = response_id
        if not self._is_asked(response):
            self._note_ignored()

    def _is_asked(self, response: Raw) -> bool:
        """Whether *response* names the parent it was asked to continue, or none where it was asked for none."""
        if self._parent is None and not self._reused:
            return True
        return bool(response.get("previous_response_id", self._parent) == self._parent)

    def _note_ignored(self) -> None:
        """Take note that upstream answers to another history than it was told: the agent must not see that."""
        self.chain_ignored = True
        if not self.shown:
            self._repeat(Mismatch.UPSTREAM_FORGOT, fresh=True)

    def _repeat_after_failure(self, failed: ServerEvent) -> bool:
        """Have the turn sent again after *failed*, a `response.failed` before anything was said; return whether.

        Raises UpstreamError where upstream may take the agent's own request over HTTP.
        """
        fault = Fault.of(failed.json())
        if self._repeat_after_miss(fault):
            return True
        # It may be the last word on the attempt that was refused on this connection, or about the chain.
        is_straggler = self._retried_here and not self.begun
        if is_straggler or (isinstance(self.upload, Delta) and self._may_be_about_chain(fault)):
            self._repeat(Mismatch.UPSTREAM_FORGOT, fresh=True)
            return True
        if self._repeat_without_rewrite(fault, fresh=False):
            return True
        is_too_long = self.request.echo is not None and fault.code == "context_length_exceeded"
        if is_too_long or (self.request.is_in_doubt and fault.is_rejection):
            self.state = State.FAILED
            raise fault.as_error()
        return False

    def _repeat_after_miss(self, fault: Fault) -> bool:
        """Have the turn sent again if *fault*, of a `response.failed`, is a miss; return whether."""
        continued = isinstance(self.upload, Delta)
        if not (fault.is_miss and (continued or self._reused)):
            return False
        self._repeat(Mismatch.UPSTREAM_FORGOT, fresh=not continued)
        return True

    def _may_be_about_chain(self, fault: Fault) -> bool:
        """Whether upstream may take in full what it refused as a delta.

        A chain with output that the agent leaves out is longer than its history, which may fit where the chain
        does not. A Chat request that is too long goes over plain HTTP instead, as the agent wrote it. A gateway
        may grant its keys no responses but those that it knows to be theirs (BerriAI/litellm#39559).
        """
        is_fuller = isinstance(self.upload, Delta) and self.upload.fuller and self.request.echo is None
        is_about_chain = fault.is_rejection or fault.status == HTTPStatus.FORBIDDEN
        return is_about_chain or (is_fuller and fault.code == "context_length_exceeded")

    def _error(self, event: ServerEvent) -> tuple[ServerEvent, ...]:
        is_first = self._is_unheard
        fault = Fault.of(event.json()) if is_first or AGE_LIMIT in event.raw else None
        if fault is not None and fault.is_age_limit:
            raise ConnectionLost("upstream says that the connection is too old", sent=self.begun)
        if fault is None or not is_first:
            self.state = State.FAILED
            return self._released(event)
        if isinstance(self.upload, Delta) and (fault.is_miss or self._may_be_about_chain(fault)):
            if not fault.is_miss:
                self._give_up_rewrite(fault)
            # Only a miss is certain to be about this turn. Another error may be about something else, with the
            # answer still to come; and a response that has begun may yet end. A fresh connection has neither.
            self._repeat(Mismatch.UPSTREAM_FORGOT, fresh=self.begun or not fault.is_miss)
            return ()
        if self._reused and (fault.is_duplicate or fault.is_miss):
            # About items of an earlier turn, or the end of an earlier attempt: both stay with the connection.
            self._repeat(Mismatch.UPSTREAM_FORGOT, fresh=True)
            return ()
        if self._repeat_without_rewrite(fault, fresh=self.begun or self._retried_here):
            return ()
        self.state = State.FAILED
        raise fault.as_error()

    def _repeat_without_rewrite(self, fault: Fault, *, fresh: bool) -> bool:
        """Have a full history that was refused, perhaps for a rewrite, sent again without that; return whether.

        With *fresh* on a new connection: here more of the refused attempt may follow, and would be taken for the
        answer to the next.
        """
        if isinstance(self.upload, Delta) or not fault.is_rejection or not self._give_up_rewrite(fault):
            return False
        self._repeat(self.upload.reason, fresh=fresh)
        return True

    def _give_up_rewrite(self, fault: Fault) -> bool:
        """Give up one rewrite that *fault* may be due to; return whether there was one."""
        used = [Rewrite.HOISTED] if self.hoisted is not None else []
        used += [Rewrite.QUIET] if self.is_quiet else []
        named = [each for each in used if any(fault.is_about(name) for name in _ABOUT[each])]
        given_up = named if isinstance(self.upload, Delta) else named or used  # a delta is refused for much else
        self.refused |= set(given_up[:1])
        return bool(given_up)

    def _end(self, event: ServerEvent) -> None:
        """Take the terminal *event*. It leaves a baseline only where it is certain what upstream holds."""
        self.state = _ENDINGS.get(event.type, State.FAILED)
        if self.state is State.FAILED:
            return
        response = _response(event)
        reading = self.reading = self._reading(response)
        if not self._is_asked(response):
            self._note_ignored()
            return
        if self._note_collapse(reading) or self.state is not State.COMPLETED:
            return
        response_id = response.get("id")
        if not isinstance(response_id, str) or self.response_id not in (None, response_id):
            return
        if not self._has_announced:
            return  # the next response here could not be told from what is left of this one
        outputs = self._account.outputs(response.get("output"))
        if outputs is None:
            return
        self.response_id = response_id
        weight = self._weight(reading, outputs)
        told, retold = self._as_told(outputs)
        baseline = Baseline.after(
            self.request,
            response_id,
            told,
            parent=self._continued,
            weight=weight,
            retold=retold,
            hoisted=self.hoisted.mark if self.hoisted is not None else None,
            kept=self._is_kept(self.upload),
            fuller=isinstance(self.upload, Delta) and self.upload.fuller,
        )
        self.baseline = replace(baseline, own_id=self.has_own_id)

    @property
    def _sent(self) -> Sequence[Item]:
        return self.upload.items if isinstance(self.upload, Delta) else self.request.items

    def _reading(self, response: Raw) -> Reading | None:
        return Reading.of(self.request.fields, self._sent, response) if self.request.keeps_history else None

    def _note_collapse(self, reading: Reading | None) -> bool:
        """Note it where upstream read less than the chain that it confirmed; return whether it did.

        The turn is then sent again in full, if nothing was shown.
        """
        parent = self._continued.weight if self._continued is not None else None
        if parent is None or reading is None:
            return False
        expected = parent.expected(reading)
        if reading.read >= expected:
            self.proves_chains = expected > 0 and self._continued is not None and self._continued.turns > 1
            return False
        self.collapse = Collapse(expected, reading.read, shown=self.shown)
        if not self.shown:
            self._repeat(Mismatch.CHAIN_COLLAPSED, fresh=True)
        return True

    def _weight(self, reading: Reading | None, outputs: tuple[Output, ...]) -> Weight | None:
        parent = self._continued.weight if self._continued is not None else None
        if reading is None or (self._continued is not None and parent is None):
            return None  # of a chain whose beginning has no weight, it is not known what may be left out
        return Weight.of(reading, self._sent, outputs, parent)

    def _as_told(self, outputs: tuple[Output, ...]) -> tuple[tuple[Output, ...], bool]:
        """Return *outputs* as the agent's history will show them, and whether its chain has any in other words."""
        retold = self._continued is not None and self._continued.retold
        if self.request.echo is None:
            return outputs, retold
        told = tuple(Output.of(item) for item in self.request.echo(self._account.held))
        return told, retold or _meanings(told) != _meanings(outputs)


def _meanings(outputs: tuple[Output, ...]) -> list[tuple[str, bytes]]:
    return [(each.type, each.meaning) for each in outputs if each.type != "reasoning"]


def _response(event: ServerEvent) -> Raw:
    response = event.json().get("response")
    return response if isinstance(response, dict) else {}
