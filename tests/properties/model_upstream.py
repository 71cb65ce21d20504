"""A model upstream in memory: a connection holds the meaning of its context, and continues its latest response.

`MemoryPool` is the proxy's own pool on top of it: only the opening of a socket is replaced. Whatever would wait
yields once, so that a test can let other turns run in between; no event loop is needed.
"""

from collections.abc import Callable, Coroutine, Generator
from dataclasses import dataclass, field
from random import Random
from typing import Any, cast

import orjson
from meaning import Held, Raw, Token
from pooling import TIMING

from proxy.core.affinity import Take, Use
from proxy.core.delta import Mismatch
from proxy.core.events import ServerEvent
from proxy.core.message import Message
from proxy.errors import ConnectionLost, UpstreamError, UpstreamTimeout
from proxy.ledger import Connections, Traffic
from proxy.upstream.connection import Connection
from proxy.upstream.endpoint import Endpoint
from proxy.upstream.layout import Layout
from proxy.upstream.meter import Meter
from proxy.upstream.partition import NoLease, Partition, Slot
from proxy.upstream.pool import Limits, Pool

Pick = Callable[[int], int]
"""Choose a number below its argument; 0 is the plainest choice."""

_WINDOW = 1 << 9
"""Of compression, in bytes: so small that the short settings of these cases do not fit."""


class Pause:
    """Lets other turns run."""

    def __await__(self) -> Generator[None, None, None]:
        """Yield once."""
        yield


IN_THE_PROMPT = frozenset({"instructions", "parallel_tool_calls", "reasoning", "text", "tool_choice", "tools"})
"""The settings that a model reads; others, such as a temperature, have no tokens."""


@dataclass(slots=True)
class Answer:
    """One response: the context that the model really read, and what it said: *outputs*, which mean *said*.

    *name* is the id that it is told under, *number* is its own. *ending* is why it is incomplete; where it is not
    told, neither an item's end nor the terminal event has it.
    """

    number: int
    name: str
    connection: "ModelConnection"
    settings: Raw
    context: list[Held]
    outputs: list[Raw]
    said: list[Token]
    parent: "Answer | None"
    ending: str | None = None
    is_told: bool = True
    is_warm_up: bool = False


@dataclass
class ModelUpstream:
    """What all connections share: every response there was, and what each item's bytes say.

    *read_item* says what an item means of which nothing was learned; *pieces* are the events that tell an item
    before its end: all of it, or none, or if so asked only some. With *refuses_tools* they are no items; with
    *keeps_instructions* a chain has those that it began with, and refuses any: where that *is_known* to the proxy,
    it is told none. Of four connections there are so many on which all responses have one id as *sharing* says; an
    id stands for the latest of its responses, as *named* has it.
    One that *is_careless* tells its items out of order, or one of them twice.
    One that *appends* goes on with what a connection carried last, also where a request continues nothing, if that
    does not show a call or a typed message of the model's.
    *uploaded_again* is how many items at the end of a warm-up are words of the model's own.
    """

    pick: Pick
    say: Callable[[list[Held]], list[tuple[Raw, Token]]]
    read_item: Callable[[bytes], Token]
    pieces: Callable[[int, Raw, bool], list[Raw]]
    faults: int = 12
    refuses_tools: bool = False
    keeps_instructions: bool = False
    is_known: bool = True
    sharing: int = 0
    is_careless: bool = False
    appends: bool = False
    tokens: dict[bytes, Token] = field(default_factory=dict)
    answers: list[Answer] = field(default_factory=list)
    named: dict[str, Answer] = field(default_factory=dict)
    connections: list["ModelConnection"] = field(default_factory=list)
    unexpected_misses: int = 0
    deltas: int = 0
    uploaded_again: int = 0

    def learn(self, raw: Raw, token: Token) -> bytes:
        """Remember that *raw* says *token*; return its bytes."""
        written = orjson.dumps(raw)
        known = self.tokens.setdefault(written, token)
        assert known == token, f"the generator gave {written!r} two meanings"
        return written

    def read(self, given: Any) -> list[Held]:
        """Return what the `input` of a message says, item by item."""
        if isinstance(given, str):
            return [(("message", "user", (given,)), False)]
        return [(self._token(orjson.dumps(item)), False) for item in given or ()]

    def _token(self, written: bytes) -> Token:
        return self.tokens.get(written) or _rewritten(orjson.loads(written)) or self.read_item(written)

    async def pause(self) -> None:
        """Wait, sometimes."""
        if self.pick(6) == 5:
            await Pause()


class ModelConnection:
    """One connection as the pool sees it, and upstream's end of it."""

    def __init__(self, upstream: ModelUpstream, headers: tuple[tuple[str, str], ...], opened_at: float) -> None:
        self.meter = Meter(Traffic())
        self.baseline: Any = None
        self.keepsake: Any = None
        self.turns = 0
        self.given: set[str] = set()
        self.opened_at = opened_at
        self.pause = 0.0
        self.headers = headers
        self.is_open = True
        self.sent_whole = False
        self.is_doubtful = self.is_mute = self.is_dropped = self.was_told = False
        self.last_response: str | None = None
        self.gone: Callable[[], None] = lambda: None
        self._upstream = upstream
        self._shared = f"resp_c{len(upstream.connections)}" if upstream.pick(4) < upstream.sharing else None
        self._latest: str | None = None
        self._carried: Answer | None = None
        self._ended: list[Raw] = []
        self._events: list[Any] = []
        self._unread = False
        self._layout = Layout(_WINDOW)

    async def send(self, message: Message) -> None:
        """Take a `response.create`, in the order that a small window makes best, and decide what answers it.

        Some do not get through: then upstream knows nothing of them.
        """
        upstream = self._upstream
        self.sent_whole = False
        await upstream.pause()
        if not self.is_open:
            raise ConnectionLost("it was closed while nobody looked")
        if upstream.pick(300) < upstream.faults:
            raise ConnectionLost("the upload stood still", sent=False)
        self.sent_whole = True
        assert not self._unread, "a response was still being read"
        self._unread = True
        self._events = self._respond(orjson.loads(self._layout.arrange(message).written))

    async def receive(
        self, _limit: float, _name: str, *, at_once: Callable[[ServerEvent], bool] | None = None, **_waited: float
    ) -> ServerEvent:
        """Return the next event, or fail as decided. Some that come alone are offered to *at_once*."""
        await self._upstream.pause()
        event = self._events.pop(0)
        while at_once is not None and isinstance(event, dict) and self._upstream.pick(2) == 1:
            if not at_once(ServerEvent.parse(orjson.dumps(event))):
                break
            event = self._events.pop(0)
        if isinstance(event, Exception):
            if not isinstance(event, UpstreamTimeout):
                self.lose()
            raise event
        if not self._events:
            self._unread = False
        return ServerEvent.parse(orjson.dumps(event))

    @property
    def has_more(self) -> bool:
        """Whether the next event arrived together with the last."""
        return bool(self._events) and self._upstream.pick(2) == 1

    async def close(self) -> None:
        """Close."""
        self.abort()

    def abort(self) -> None:
        """Close at once."""
        self.lose()

    def hurry(self) -> None:
        """Do nothing: no bytes are under way."""

    def rest(self) -> None:
        """Do nothing: what comes between turns is left for the next one, which has to do without."""

    def lose(self) -> None:
        """Go away, and say so."""
        if self.is_open:
            self.is_open = False
            self.gone()

    # The model's side

    def _respond(self, message: Raw) -> list[Any]:  # noqa: C901  (what servers do is no simpler)
        upstream, pick = self._upstream, self._upstream.pick
        message.pop("type")
        given, asked = message.pop("input", None), message.pop("previous_response_id", None)
        latest, self._latest = self._latest, None
        fault = pick(100)
        trouble = 99 - fault if fault >= 100 - upstream.faults else None
        upstream.deltas += asked is not None
        if upstream.refuses_tools and any(token[0] == "additional_tools" for token, _ in upstream.read(given)):
            return [_error(400, "invalid_value", "Invalid value: 'additional_tools'.")]
        is_stored = message.get("store") is not False
        is_known = asked in upstream.named and (asked == latest or (is_stored and pick(4) != 3))
        if asked is not None and (not is_known or trouble == 0):
            upstream.unexpected_misses += asked != latest and not is_stored
            return [_MISSES[pick(len(_MISSES))]]
        context: list[Held] = []
        parent = upstream.named[asked] if asked is not None else None
        if parent is not None and self._refuses_instructions(message):
            return [{"error": {"message": _TOGETHER, "type": "api_error"}}]
        if upstream.appends and (carried := self._carried) is not None:
            if parent is not None or not _shows_the_model(given):
                parent = carried
            else:
                inherited = {name: each for name, each in carried.settings.items() if name == "instructions"}
                message = inherited | message
        if parent is not None and trouble != 1:
            context = parent.context + [(token, True) for token in parent.said]
            if upstream.keeps_instructions:
                message |= {name: each for name, each in parent.settings.items() if name == "instructions"}
        is_warm_up = message.pop("generate", True) is False
        context = context + upstream.read(given)
        if is_warm_up:
            assert asked is None
            before = len(context) - upstream.uploaded_again
            context = [(token, n >= before) for n, (token, _) in enumerate(context)]
        is_silent = is_warm_up and pick(4) != 3
        said = [] if is_silent else upstream.say(context)
        outputs = [raw for raw, _ in said]
        for raw, token in said:
            upstream.learn(raw, token)
        number = len(upstream.answers)
        name = self._shared or f"resp_{number}"
        answer = Answer(number, name, self, message, context, outputs, [token for _, token in said], parent)
        answer.is_warm_up = is_warm_up
        upstream.answers.append(answer)
        self._carried = answer
        events = self._events_of(answer, None if trouble == 1 else asked)
        ending = self._ending(trouble, answer, events)
        if ending is None or pick(2):  # also where nobody hears of it
            upstream.named[name] = answer
        if ending is None:
            self._latest = name
        return self._with_stragglers([*self._early(), *(events if ending is None else ending)])

    def _refuses_instructions(self, message: Raw) -> bool:
        """Whether the continuation *message* has instructions where upstream keeps those of the chain."""
        upstream = self._upstream
        if not upstream.keeps_instructions:
            return False
        assert not (upstream.is_known and "instructions" in message), "a chain was told instructions"
        return bool(message.get("instructions"))

    def _with_stragglers(self, events: list[Any]) -> list[Any]:
        """Let the end of the last response that ended come again, before that of *events* does.

        Not where the two have one id, so that nothing tells them apart.
        """
        ended = self._ended
        self._ended = [each for each in events[-1:] if isinstance(each, dict) and "response" in each]
        if not ended or self._shared or self._upstream.pick(200) != 199:
            return events
        at = self._upstream.pick(len(events))
        return [*events[:at], *ended, *events[at:]]

    def _ending(self, trouble: int | None, answer: Answer, events: list[Any]) -> list[Any] | None:
        """Return the events of a turn that does not complete."""
        pick = self._upstream.pick
        some = events[: 1 + pick(len(events) - 1)] if trouble in {6, 10} else []
        match trouble:
            case 2 | 3:
                return [_ERRORS[pick(len(_ERRORS))]]
            case 4 | 6:
                return [*some, ConnectionLost("lost")]
            case 5:
                return [UpstreamTimeout("silence")]
            case 7 | 8:
                answer.ending = ("max_output_tokens", "content_filter")[pick(2)]
                cut: dict[str, Any] = {**_named(answer), "status": "incomplete", "output": answer.outputs}
                cut |= {**_echoed(answer.settings), "incomplete_details": {"reason": answer.ending}}
                return [*events[:-1], {"type": "response.incomplete", "response": cut}]
            case 9:
                failed = {**_named(answer), "status": "failed", "error": {"code": "x"}}
                failed |= _echoed(answer.settings)
                return [*events[:-1], {"type": "response.failed", "response": failed}]
            case 10:
                return [*some, {"type": "error", "error": {"code": "server_error"}}]
        return None

    def _events_of(self, answer: Answer, parent: str | None) -> list[Any]:
        pick = self._upstream.pick
        echoed = _echoed(answer.settings)
        begun: Raw = {**_named(answer), "status": "in_progress", "output": [], **echoed}
        if parent is not None or answer.parent is not None or pick(2):
            begun["previous_response_id"] = parent
        final: Raw = {**_named(answer), "status": "completed", "output": answer.outputs, **echoed}
        if (usage := self._usage(answer)) is not None:
            final["usage"] = usage
        done = len(answer.outputs)  # so many items are told with their end
        match pick(12):
            case 6:
                final["output"] = []
            case 7:
                del final["output"]
                done, answer.is_told = (0, False) if pick(6) == 5 else (done, True)
            case 8:
                final["output"] = answer.outputs[:-1]
            case 9:
                final["output"] = [self._resealed(raw) for raw in answer.outputs]
            case 10:
                done = 0
            case 11:
                done -= 1
        ending = self._end_of(final, all_told=done == len(answer.outputs))
        told = self._told(answer, done)
        if self._upstream.is_careless and pick(2) and ending["response"].get("output") == answer.outputs:
            told = self._told_carelessly(answer, told, final)
        return [
            {"type": "response.created", "response": begun},
            *told,
            *([{"type": "response.novelty"}] if pick(8) == 7 else []),
            ending,
        ]

    def _end_of(self, final: Raw, *, all_told: bool) -> Raw:
        """Return the event that ends a response as *final* has it; where *all_told*, some tell little of that."""
        if not all_told or self._upstream.pick(12) != 11:
            return {"type": "response.completed", "response": final}
        little = {name: each for name, each in final.items() if name in {"id", "usage"}}
        return {"type": "response.done", "response": little}

    def _usage(self, answer: Answer) -> Raw | None:
        """Count a token a character; reasoning is read while the agent answers calls, and then forgotten."""
        pick = self._upstream.pick
        match pick(12):
            case 11:
                return None
            case 10:
                return {"input_tokens": 0, "output_tokens": None}
        tokens = [token for token, _ in answer.context]
        forgets = bool(tokens) and tokens[-1][:2] == ("message", "user")
        kept = [token for token in tokens if not forgets or token[0] != "reasoning"]
        said = answer.said
        read = {name: value for name, value in answer.settings.items() if name in IN_THE_PROMPT}
        thought = _length([token for token in said if token[0] == "reasoning"])
        return {
            "input_tokens": len(orjson.dumps(read)) + _length(kept),
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": _length(said),
            "output_tokens_details": {"reasoning_tokens": thought},
        }

    def _told(self, answer: Answer, done: int) -> list[Raw]:
        """Return the events that tell the items, so many of which are *done*: what is left has the last word."""
        told: list[Raw] = []
        for n, raw in enumerate(answer.outputs):
            some = n < done or (n == len(answer.outputs) - 1 and answer.is_told)
            pieces = self._upstream.pieces(n, raw, some)
            if n < done:
                pieces.append({"type": "response.output_item.done", "output_index": n, "item": raw})
            elif not answer.is_told:
                pieces.append({"type": "response.output_text.delta", "output_index": n, "delta": ""})
            elif not pieces:
                break  # what comes later is told no sooner
            told += pieces
        return told

    def _told_carelessly(self, answer: Answer, told: list[Raw], final: Raw) -> list[Raw]:
        """Return the events *told*, or others, or change *final*: items change places, or come twice."""
        pick = self._upstream.pick
        ends = [each for each in told if each["type"] == _END]
        how = pick(4)
        if how == 3 and len(ends) == len(answer.outputs):
            final["output"] = answer.outputs[::-1]
        elif how > 1:
            told = [*told, *ends[pick(len(ends) + 1) :][:1]]
        else:  # their places tell the order, or only the list at the end does
            ends = [{"type": _END, "output_index": n * how, "item": raw} for n, raw in enumerate(answer.outputs)]
            told = ends[::-1]
        return told

    def _resealed(self, raw: Raw) -> Raw:
        sealed = raw.get("encrypted_content")
        if not sealed:
            return raw
        other = {**raw, "encrypted_content": "t" + sealed[1:]}
        self._upstream.learn(other, self._upstream.tokens[orjson.dumps(raw)])
        return other

    def _early(self) -> list[Raw]:
        return [{"type": "keepalive"}] if self._upstream.pick(8) == 7 else []


def settings_read(settings: Raw) -> list[Token]:
    """Return what a model reads of *settings* before the history, as items would say it."""
    tokens: list[Token] = []
    if settings.get("instructions"):
        tokens.append(("message", "developer", (settings["instructions"],)))
    if settings.get("tools"):
        tokens.append(("additional_tools", orjson.dumps(settings["tools"])))
    return tokens


def _shows_the_model(given: Any) -> bool:
    return any(
        each.get("type") in {"function_call", "custom_tool_call"}
        or (each.get("type") == "message" and each.get("role") == "assistant")
        for each in (given if isinstance(given, list) else ())
    )


def _rewritten(item: Raw) -> Token | None:
    """Return what an item says that stands for a field of a request, written plainly; None for another."""
    match item:
        case {"type": "additional_tools", "role": "developer", "tools": list(tools), **rest} if not rest:
            return ("additional_tools", orjson.dumps(tools))
        case {"type": "message", "role": "developer" | "user" as role, "content": str(text), **rest} if not rest:
            return ("message", role, (text,))
    return None


def _named(answer: Answer) -> Raw:
    """Return how a response is told from others: by its id, where that is its own, and by its time."""
    return {"id": answer.name, "created_at": answer.number}


def _echoed(settings: Raw) -> Raw:
    """Return the settings that a response repeats, as its own request had them."""
    return {"instructions": settings.get("instructions"), "tools": settings.get("tools") or []}


def _length(tokens: list[Token]) -> int:
    # A thought has fewer tokens than its ciphertext has bytes, and those here are short.
    return sum(20 if token[0] == "reasoning" else len(repr(token)) for token in tokens)


def _error(status: int, code: str | None, message: str = "no") -> Raw:
    return {"type": "error", "status": status, "error": {"code": code, "message": message}}


_END = "response.output_item.done"
_TOGETHER = "Request validation error: Argument not supported: instructions and previous_response_id together"
_MISSES: list[Raw] = [
    _error(400, "previous_response_not_found"),
    {"type": "error", "code": "previous_response_not_found", "message": "not found", "param": None},
    {"type": "error", "error": {"message": "Invalid `previous_response_id`."}},
    {"type": "response.failed", "response": {"id": None, "error": {"code": "previous_response_not_found"}}},
]
_ERRORS: list[Raw] = [
    {"error": {"message": "gRPC error: no", "type": "api_error"}},
    _error(500, "server_error"),
    _error(429, "rate_limit_exceeded"),
    _error(400, "invalid_request_error"),
    _error(400, "invalid_request_error", "Duplicate item found with id msg_1."),
    _error(400, "websocket_connection_limit_reached"),
    {"type": "response.error", "error": {"code": "context_length_exceeded", "message": "long"}},
]


class _AtOnce:
    """Runs at once what the pool would leave to the background."""

    def start(self, work: Coroutine[Any, Any, None], _name: str) -> None:
        """Run *work*, which never waits."""
        try:
            work.send(None)
        except StopIteration:
            return
        raise AssertionError("closing waited")


class _Idle:
    """Nothing gets stuck in memory."""

    async def guard(self, _partition: Partition, _connection: Connection) -> None:
        """Watch nothing."""


class MemoryPool(Pool):
    """The proxy's pool; a connection that it opens leads to *upstream*.

    *taken* counts the turns that began in place of a conversation that was over.
    """

    def __init__(self, upstream: ModelUpstream, limits: Limits, clock: Callable[[], float]) -> None:
        super().__init__(
            Endpoint("http://upstream.test/v1"),
            limits,
            TIMING,
            traffic=Traffic(),
            connections=Connections(),
            clock=clock,
            jitter=Random(1).random,  # the same each time: a seed is to find the same again
        )
        self._upstream = upstream
        self._background = cast("Any", _AtOnce())
        self._rescue = cast("Any", _Idle())
        self.taken = 0

    async def _open(
        self, partition: Partition, key: int, *, beside: bool = False, behind: bool = False
    ) -> Connection:
        upstream = self._upstream
        await upstream.pause()
        match upstream.pick(100):
            case 99:
                raise NoLease(Mismatch.NO_WEBSOCKET)
            case 98:
                raise UpstreamError(429, b"{}", {})
        connection = ModelConnection(upstream, partition.headers, self._clock())
        connection.gone = lambda: self._gone(partition, key)
        upstream.connections.append(connection)
        self._connections.opened += 1
        self._connections.open += 1
        return cast("Connection", connection)

    def _taken(self, partition: Partition, choice: Use | Take, now: float) -> Slot:
        self.taken += isinstance(choice, Take)
        return super()._taken(partition, choice, now)

    @property
    def partitions(self) -> list[Partition]:
        """Every partition."""
        return list(self._partitions.values())

    @property
    def counted_open(self) -> int:
        """How many connections the figures say are open."""
        return self._connections.open
