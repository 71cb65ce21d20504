"""What a request adds to what upstream already holds.

`diff(request, baseline)` is the heart of packlight: it answers with the new items alone (`Delta`), or with the
reason why everything has to be sent (`Full`). It never guesses: any doubt is a `Full`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum, StrEnum
from typing import Any, TypeAlias

import orjson
from blake3 import blake3

from proxy.core.history import History, Marks, Outline
from proxy.core.hoist import Hoisted, hoist
from proxy.core.items import (
    Dropped,
    Fingerprint,
    Item,
    Output,
    Raw,
    digest,
    marks,
    without_nulls,
)
from proxy.core.weight import Weight


class Reuse(Enum):
    """What a field of a request means for continuing a chain."""

    DIFFED = "the history itself"
    MAY_DIFFER = "sent again with each turn, so a chain goes on whatever its value"
    MUST_MATCH = "changes what upstream stores or where: another value is another chain"
    TRANSPORT = "says how to answer over HTTP; a WebSocket has no use for it"
    NOT_OURS = "the agent manages upstream's state itself, or the field has another meaning over a WebSocket"


FIELDS: Mapping[str, Reuse] = {
    "input": Reuse.DIFFED,
    "stream": Reuse.TRANSPORT,
    # Documented, or measured on live services, to be taken from each request anew (protocol notes, section 4).
    "client_metadata": Reuse.MAY_DIFFER,
    "include": Reuse.MAY_DIFFER,
    "instructions": Reuse.MAY_DIFFER,
    "max_output_tokens": Reuse.MAY_DIFFER,
    "max_tool_calls": Reuse.MAY_DIFFER,
    "metadata": Reuse.MAY_DIFFER,
    "parallel_tool_calls": Reuse.MAY_DIFFER,
    "prompt_cache_key": Reuse.MAY_DIFFER,
    "prompt_cache_options": Reuse.MAY_DIFFER,
    "prompt_cache_retention": Reuse.MAY_DIFFER,
    "reasoning": Reuse.MAY_DIFFER,
    "safety_identifier": Reuse.MAY_DIFFER,
    "service_tier": Reuse.MAY_DIFFER,
    "stream_options": Reuse.MAY_DIFFER,
    "temperature": Reuse.MAY_DIFFER,
    "text": Reuse.MAY_DIFFER,
    "tool_choice": Reuse.MAY_DIFFER,
    "tools": Reuse.MAY_DIFFER,
    "top_logprobs": Reuse.MAY_DIFFER,
    "top_p": Reuse.MAY_DIFFER,
    "user": Reuse.MAY_DIFFER,
    # A field that is not listed is treated like these.
    "context_management": Reuse.MUST_MATCH,
    "model": Reuse.MUST_MATCH,
    "store": Reuse.MUST_MATCH,
    "truncation": Reuse.MUST_MATCH,
    "background": Reuse.NOT_OURS,
    "background_options": Reuse.NOT_OURS,
    "conversation": Reuse.NOT_OURS,
    "generate": Reuse.NOT_OURS,
    "previous_response_id": Reuse.NOT_OURS,
    "prompt": Reuse.NOT_OURS,  # a template puts its items before the input, once more with each turn of a chain
    "stream_id": Reuse.NOT_OURS,
    "type": Reuse.NOT_OURS,
}
"""Every field of `POST /v1/responses` that is known, by name."""


class Mismatch(StrEnum):
    """Why a turn was not a delta: one word for the log, the figures, the status page and the tests."""

    FIRST_TURN = "first_turn"
    HISTORY_CHANGED = "history_changed"
    SETTINGS_CHANGED = "settings_changed"
    MODEL_CHANGED = "model_changed"
    CALL_UNANSWERED = "call_unanswered"
    CONNECTION_LOST = "connection_lost"
    RETIRED = "retired"
    UPSTREAM_FORGOT = "upstream_forgot"
    CHAIN_COLLAPSED = "chain_collapsed"
    AFTER_ERROR = "after_error"
    AFTER_RESTART = "after_restart"
    BUSY = "busy"
    ASIDE = "aside"
    TOO_LARGE = "too_large"
    UNSUPPORTED_FIELD = "unsupported_field"
    TRANSLATION_REFUSED = "translation_refused"
    WEBSOCKET_REFUSED = "websocket_refused"
    NOT_DIFFABLE = "not_diffable"
    NO_WEBSOCKET = "no_websocket"
    DISABLED = "disabled"
    DEFECT = "defect"


Echo: TypeAlias = Callable[[Sequence[Raw]], Sequence[Raw]]
"""From the items of a response as upstream holds them to those that an agent's next history shows for them."""


@dataclass(frozen=True, slots=True)
class TurnRequest:
    """One agent request: what goes upstream again as it is, and the history in fingerprints.

    *fields* are the agent's own, in its own values, without `input` and what is not sent over a WebSocket.
    *given* is the agent's `input` as it came: a text, or the JSON of *items*. *marks* has one fingerprint for
    each prefix of *items*, so that comparing with a baseline of any length takes one look. *size* is the length
    of its JSON in bytes. *echo* is given where the agent speaks another API than upstream, and the request was
    translated: it says what becomes of a response in such an agent's history. *hoisted* are the settings that can
    be told as items.
    """

    fields: Mapping[str, Any]
    given: Any
    items: tuple[Item, ...] | History
    marks: Marks
    outline: Outline
    model: str
    settings: Fingerprint
    stream: bool
    size: int
    echo: Echo | None = None
    hoisted: Hoisted | None = None
    _kind: list[Fingerprint] = field(default_factory=list, init=False, repr=False, compare=False)
    _errand: list[Fingerprint] = field(default_factory=list, init=False, repr=False, compare=False)

    @classmethod
    def of(
        cls,
        body: Mapping[str, Any],
        items: tuple[Item, ...] | History,
        *,
        model: str,
        stream: bool,
        size: int,
        echo: Echo | None = None,
    ) -> "TurnRequest":
        """Read the fields of *body*, whose history is *items*."""
        fixed = {name: value for name, value in without_nulls(body).items() if _must_match(name)}
        return cls(
            fields={name: _steady(name, body[name]) for name in sorted(body) if reuse(name) in _SENT},
            given=body.get("input"),
            items=items,
            marks=items.marks if isinstance(items, History) else Marks(b"".join(marks(items))),
            outline=Outline.of(items),
            model=model,
            settings=digest(fixed),
            stream=stream,
            size=size,
            echo=echo,
        )

    def hoistable(self) -> "TurnRequest":
        """Return this request knowing which of its settings can be told as items."""
        return replace(self, hoisted=hoist(self.fields, self.items) if self.keeps_history else None)

    def probe(self, *items: Raw, **fields: Any) -> "TurnRequest":
        """Return a small request for upstream to count the tokens of: *items*, *fields*, and little else.

        Of the agent's own settings it has those that decide how upstream treats a request (`_PROBED`).
        """
        body = {name: value for name, value in self.fields.items() if name in _PROBED}
        body |= {**fields, "model": self.model, "store": False, "input": list(items)}
        told = tuple(Item.of(each) for each in items)
        return TurnRequest.of(body, told, model=self.model, stream=True, size=0)

    @property
    def input(self) -> Any:
        """The whole `input`."""
        return self.raws if isinstance(self.items, History) else self.given

    @property
    def raws(self) -> Sequence[Raw]:
        """The JSON of all items."""
        return self.items.raws if isinstance(self.items, History) else [item.raw for item in self.items]

    @property
    def session(self) -> str:
        """Eight hex digits for the conversation, from its beginning to the first user message."""
        return self.root.hex()[:8]

    @property
    def root(self) -> Fingerprint:
        """The mark of the history up to the first user message."""
        return self.marks[self.outline.opening or -1]

    @property
    def asked(self) -> Fingerprint:
        """The mark of the first user message, whatever stands before it: what one conversation keeps.

        Agents may name the model or the date above it. Without such a message it is that of the whole history.
        """
        return self.outline.asked if self.outline.opening else self.marks[-1]

    @property
    def instructions(self) -> Fingerprint:
        """The mark of its instructions, to the byte, or of their absence."""
        return blake3(orjson.dumps(self.fields.get("instructions"))).digest(16)

    @property
    def kind(self) -> Fingerprint:
        """The mark of its settings, without those that name the conversation or the turn: what it is asked for."""
        if not self._kind:  # settings are long, and several ask
            told = {name: value for name, value in self.fields.items() if name not in _NAMING}
            self._kind.append(digest(told))
        return self._kind[0]

    @property
    def errand(self) -> Fingerprint:
        """The mark of its kind and its last item: what it is asked for, in so many words."""
        if not self._errand:  # so may the last item be
            last = max(len(self.items) - 1, 0)  # not -1, for which a `History` would be read again
            self._errand.append(marks(self.items[last:], after=self.kind)[-1])
        return self._errand[0]

    @property
    def is_brief(self) -> bool:
        """Whether its history shows no turn before it, and is so short that a compressor sees all of it."""
        return not self.has_model_output and len(orjson.dumps(self.input)) <= _BRIEF

    @property
    def has_to_call(self) -> bool:
        """Whether the model is to call something, whatever it thinks: many ask so for an answer with a schema."""
        choice = self.fields.get("tool_choice")
        return choice == "required" or (isinstance(choice, Mapping) and choice.get("mode") != "auto")

    @property
    def is_stored(self) -> bool:
        """Whether the agent has upstream keep the response beyond the connection, as the API does by default."""
        return self.fields.get("store") is not False

    @property
    def has_nulls(self) -> bool:
        """Whether a field is explicitly null, which some services take over HTTP but not over a WebSocket."""
        return any(value is None for value in self.fields.values())

    @property
    def is_in_doubt(self) -> bool:
        """Whether upstream may refuse here what it takes over HTTP: for its nulls, or its translation."""
        return self.echo is not None or self.has_nulls

    @property
    def leaves_padding_open(self) -> bool:
        """Whether the agent did not say if events are to be padded.

        Padding (`stream_options.include_obfuscation`) hides their length from those who watch the connection.
        """
        options = self.fields.get("stream_options") or {}
        return isinstance(options, Mapping) and options.get("include_obfuscation") is None

    @property
    def keeps_history(self) -> bool:
        """Whether nothing in it asks upstream to shorten the history, as far as its fields are known."""
        said = without_nulls(self.fields)
        return (
            said.keys() <= FIELDS.keys()
            and "context_management" not in said
            and said.get("truncation", "disabled") == "disabled"
        )

    @property
    def has_model_output(self) -> bool:
        """Whether the history shows that there were turns before this one."""
        return self.outline.has_model_output

    @property
    def is_plainly_whole(self) -> bool:
        """Whether no server takes it for the continuation of another request, which has nothing of the model's."""
        return self.outline.shows_it


_PROBED = frozenset({"include", "parallel_tool_calls", "reasoning", "safety_identifier", "service_tier", "user"})
"""What a probe takes over from the agent's request, so that upstream treats it alike."""

_SENT = frozenset({Reuse.MAY_DIFFER, Reuse.MUST_MATCH})


_BRIEF = 1 << 15
"""Bytes: the window of DEFLATE (RFC 1951)."""

_MODEST = 1 << 18
"""Bytes of a request that it would not be too dear to send again."""

_NAMING = frozenset({"client_metadata", "metadata", "prompt_cache_key"})
"""Fields that agents give another value with each conversation, or with each turn."""

_SHUFFLED = frozenset({"client_metadata"})
"""Fields whose keys some agents write in another order with each request, and which upstream shows to nobody."""


def _steady(name: str, value: Any) -> Any:
    """Return the *value* of a field with its keys in a fixed order, if they may be: compression then finds it."""
    return dict(sorted(value.items())) if name in _SHUFFLED and isinstance(value, dict) else value


def reuse(name: str) -> Reuse:
    """Say what the field *name* means for continuing a chain. An unlisted field must match."""
    return FIELDS.get(name, Reuse.MUST_MATCH)


def _must_match(name: str) -> bool:
    return name != "model" and reuse(name) is Reuse.MUST_MATCH


@dataclass(frozen=True, slots=True)
class Baseline:
    """What upstream holds after a completed response: *length* items of the agent's, then *outputs*.

    *weight* is what a continuation has to read at least, in tokens, where upstream says what it reads. *retold*
    says that upstream holds some output of the chain as other items than a translated history shows (ADR 8): only
    such a history may continue it. *hoisted* is the mark of the settings that upstream holds as items, before the
    agent's own. *instructions* is the mark of those in force; *kept* says that upstream goes on with them and is
    told none. *fuller* says that upstream holds output which the agent's history leaves out, *stored* that it
    keeps the response beyond the connection. *own_id* says that the id is known to stand for no other response: it
    differs from that of the one before in the chain, which was on the same connection. *kind* is that of the
    request where the conversation may be over: nothing was called that would have to be answered, or the model had
    no choice. So is *errand*. *began* says that the conversation began with this request, for all that its history
    shows, and *brief* that it began on this chain, and with little, and is not long.
    """

    response_id: str
    model: str
    settings: Fingerprint
    length: int
    mark: Fingerprint
    asked: Fingerprint
    outputs: tuple[Output, ...]
    instructions: Fingerprint
    turns: int = 1
    weight: Weight | None = None
    retold: bool = False
    hoisted: Fingerprint | None = None
    kept: bool = False
    fuller: bool = False
    stored: bool = False
    own_id: bool = False
    kind: Fingerprint | None = None
    errand: Fingerprint | None = None
    began: bool = False
    brief: bool = False

    @classmethod
    def after(
        cls,
        request: TurnRequest,
        response_id: str,
        outputs: tuple[Output, ...],
        *,
        parent: "Baseline | None" = None,
        weight: Weight | None = None,
        retold: bool = False,
        hoisted: Fingerprint | None = None,
        kept: bool = False,
        fuller: bool = False,
    ) -> "Baseline":
        """Return what upstream holds once it has answered *request*, which continued *parent*, with *outputs*."""
        may_be_over = request.has_to_call or not any(each.call_id for each in outputs)
        return cls(
            response_id=response_id,
            model=request.model,
            settings=request.settings,
            length=len(request.items),
            mark=request.marks[-1],
            asked=request.asked,
            outputs=outputs,
            instructions=request.instructions,
            turns=1 if parent is None else parent.turns + 1,
            weight=weight,
            retold=retold,
            hoisted=hoisted,
            kept=kept,
            fuller=fuller,
            stored=request.is_stored,
            kind=request.kind if may_be_over else None,
            errand=request.errand if may_be_over else None,
            began=not request.has_model_output,
            brief=request.is_brief if parent is None else parent.brief and request.size <= _MODEST,
        )

    def __repr__(self) -> str:
        return f"<Baseline {self.response_id}: {self.length} items, {len(self.outputs)} outputs>"


@dataclass(frozen=True, slots=True)
class Delta:
    """Send only *items*, continuing *baseline*.

    *fuller* says that upstream then reads output which the agent's history leaves out.
    """

    baseline: Baseline
    items: tuple[Item, ...]
    fuller: bool = False

    def __repr__(self) -> str:
        return f"<Delta {self.baseline.response_id} + {len(self.items)}>"


@dataclass(frozen=True, slots=True)
class Full:
    """Send the whole history, for *reason*."""

    reason: Mismatch

    def __repr__(self) -> str:
        return f"<Full {self.reason}>"


def diff(request: TurnRequest, baseline: Baseline, dropped: Dropped = "reasoning") -> Delta | Full:
    """Return what *request* adds to *baseline*, or why it has to be sent in full.

    *dropped* says which of the model's output the agent may have left out (upstream keeps it).
    """
    if baseline.length >= len(request.items) or request.marks[baseline.length] != baseline.mark:
        return Full(Mismatch.HISTORY_CHANGED)
    if baseline.retold and request.echo is None:
        return Full(Mismatch.HISTORY_CHANGED)  # upstream holds other items, for which a translated history stands
    new, left_out = _beyond_echo(request.items[baseline.length :], baseline.outputs, dropped)
    if not new:
        return Full(Mismatch.HISTORY_CHANGED)
    if request.model != baseline.model:
        return Full(Mismatch.MODEL_CHANGED)
    if request.settings != baseline.settings:
        return Full(Mismatch.SETTINGS_CHANGED)
    if baseline.hoisted is not None and (request.hoisted is None or request.hoisted.mark != baseline.hoisted):
        return Full(Mismatch.SETTINGS_CHANGED)  # upstream would go on with the settings that it holds
    if request.instructions != baseline.instructions and (baseline.kept or not request.fields.get("instructions")):
        return Full(Mismatch.SETTINGS_CHANGED)  # as above; given none, any upstream may keep those before
    answered = {item.answers for item in new}
    if any(output.call_id is not None and output.call_id not in answered for output in baseline.outputs):
        return Full(Mismatch.CALL_UNANSWERED)
    return Delta(baseline, new, fuller=baseline.fuller or bool(left_out))


def _beyond_echo(
    items: tuple[Item, ...], outputs: tuple[Output, ...], dropped: Dropped
) -> tuple[tuple[Item, ...], list[Output]]:
    """Return what follows the agent's echo of *outputs* in *items*, and which of them it left out.

    Nothing follows where it is not an echo.
    """
    left_out: list[Output] = []
    behind = 0  # how many of the items are the echo
    for output in outputs:
        echoed = output.echoed_by(items, behind)
        if not echoed:
            if not output.may_be_dropped(dropped):
                return (), left_out
            left_out.append(output)
        behind += echoed
    if outputs and len(left_out) == len(outputs):
        return (), left_out  # nothing of the response came back: the agent may have rewound to before it
    if (left_out or not outputs) and behind < len(items) and items[behind].from_model:
        return (), left_out  # rewritten, or an answer whose items upstream never told: held already
    if any(output.echoed_by(items, n) for output in left_out for n in range(behind, len(items))):
        return (), left_out  # not left out but moved: upstream would hold it twice
    return items[behind:], left_out
