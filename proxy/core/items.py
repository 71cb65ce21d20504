"""When two items are the same.

Two questions are asked, and they have different answers:

- Did the items the agent sent before come back unchanged? Agents repeat their own history to the byte, so its
  `marks` cover everything but what carries no meaning: ids, statuses, nulls, one text as string or part.
- Is an item the agent's echo of what the model said? Agents write that in some thirty ways, so an `Output`
  compares what the model would read: role and text, a call's name and parsed arguments, reasoning by identity.

Nothing here keeps text: fingerprints and ids only.
"""

import json  # noqa: TID251  (orjson turns integers beyond 64 bits into floats and hides duplicate keys)
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from typing import Any, Literal, TypeAlias

import orjson
from blake3 import blake3

Fingerprint: TypeAlias = bytes
"""16 bytes of BLAKE3 over a canonical serialisation."""

Raw: TypeAlias = Mapping[str, Any]
"""An item as JSON gave it."""

Dropped: TypeAlias = Literal["none", "reasoning", "any"]
"""What of the model's output an agent may leave out of its history and still continue the chain."""

START: Fingerprint = bytes(16)
"""The mark of an empty history."""

_AUTHORED = frozenset(
    {"message", "function_call", "function_call_output", "custom_tool_call", "custom_tool_call_output"}
)
"""Types whose `id` and `status` are bookkeeping: nothing else in a conversation refers to them."""

_APART = frozenset({"id", "status", "internal_chat_message_metadata_passthrough"})
"""Fields of the model's items that it does not read: Codex names the turn in the last (openai/codex#28360)."""

_READ = {
    "message": frozenset({"type", "role", "content", "phase"}),
    "reasoning": frozenset({"type", "summary", "content", "encrypted_content"}),
    "compaction": frozenset({"type", "summary", "content", "encrypted_content"}),
}
"""Fields by which an echo of such an item is known; of other items all are compared."""

_ANSWERED = frozenset({"function_call", "custom_tool_call"})
"""Calls the agent executes; upstream refuses to go on without an answer to each (protocol notes, section 4)."""


@dataclass(frozen=True, slots=True)
class Item:
    """One element of a request's `input`: its JSON, for as long as the turn lasts, and its type."""

    raw: Raw
    type: str

    @classmethod
    def of(cls, raw: Raw) -> "Item":
        """Read *raw*."""
        return cls(raw, item_type(raw))

    @property
    def from_model(self) -> bool:
        """Whether only a model writes such items: one where none of its output is expected means an edit."""
        kind = self.type
        if kind == "message":
            return self.raw.get("role") == "assistant"
        return kind in {"reasoning", "item_reference", "compaction"} or kind.endswith("_call")

    @property
    def is_plainly_from_model(self) -> bool:
        """Whether it is a call, or a message of the model that has its type: what gateways look for (ADR 29)."""
        return self.type in _ANSWERED or (self.raw.get("type") == "message" and self.from_model)

    @property
    def answers(self) -> str | None:
        """The call_id that this item is the answer to, if it is one."""
        if not self.type.endswith("_output"):
            return None
        call_id = self.raw.get("call_id")
        return call_id if isinstance(call_id, str) else None

    def __repr__(self) -> str:
        return f"<Item {self.type} {marks([self])[-1].hex()[:8]}>"


def marks(items: Iterable[Item], *, after: Fingerprint = START) -> tuple[Fingerprint, ...]:
    """Return one fingerprint per prefix: element *n* stands for the first *n* items, in order, *after* others.

    Each covers the mark before it, whose length is fixed, and the item: so no two histories are hashed as the same
    bytes. Raises TypeError where JSON could not have given an item.
    """
    chain = [after]
    for item in items:
        chain.append(blake3(chain[-1] + _canonical(_identity(item))).digest(16))
    return tuple(chain)


def digest(value: Any) -> Fingerprint:
    """Fingerprint any JSON value, whatever the order of its keys."""
    return blake3(_canonical(value)).digest(16)


def _canonical(value: Any) -> bytes:
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


def item_type(raw: Raw) -> str:
    """Return the type of *raw*; messages (the API's EasyInputMessage) and references may leave it out."""
    kind = raw.get("type")
    if isinstance(kind, str):
        return kind
    if kind is None and "role" in raw:
        return "message"
    return "item_reference" if without_nulls(raw).keys() == {"id"} else ""


def _identity(item: Item) -> Raw:
    raw = item.raw
    if item.type not in _AUTHORED:
        return without_nulls(raw)
    same = dict(without_nulls(raw))
    same.pop("id", None)
    same.pop("status", None)
    same["type"] = item.type
    for key in ("content", "output"):
        if key in same:
            same[key] = parts(same[key], "output_text" if raw.get("role") == "assistant" else "input_text")
    return same


def without_nulls(raw: Raw) -> Raw:
    """Return *raw* without the keys whose value is null: absent and null mean the same to the API."""
    if None not in raw.values():
        return raw
    return {key: value for key, value in raw.items() if value is not None}


def parts(content: Any, text_type: str) -> Any:
    """Return *content* as a list of parts without annotations, logprobs and nulls; odd shapes stay as they are."""
    if isinstance(content, str):
        return [{"type": text_type, "text": content}]
    if not isinstance(content, list):
        return content
    return [_part(part) if isinstance(part, dict) else part for part in content]


def _part(part: Raw) -> Raw:
    if None not in part.values() and "annotations" not in part and "logprobs" not in part:
        return part
    return {
        key: value for key, value in part.items() if value is not None and key not in {"annotations", "logprobs"}
    }


@dataclass(frozen=True, slots=True)
class Output:
    """One item the model emitted, as upstream holds it: enough to know the agent's echo of it again."""

    type: str
    id: str | None
    meaning: Fingerprint
    seals: frozenset[Fingerprint] = frozenset()
    call_id: str | None = None
    phase: str | None = None
    rest: frozenset[Fingerprint] = frozenset()

    @classmethod
    def of(cls, raw: Raw) -> "Output":
        """Read an item of `response.output_item.done`."""
        kind = item_type(raw)
        item_id, call_id, phase = raw.get("id"), raw.get("call_id"), raw.get("phase")
        return cls(
            type=kind,
            id=item_id if isinstance(item_id, str) else None,
            meaning=_meaning(raw),
            seals=_seals(raw),
            call_id=call_id if kind in _ANSWERED and isinstance(call_id, str) else None,
            phase=phase if isinstance(phase, str) else None,
            rest=_rest(raw),
        )

    def is_item(self, raw: Raw) -> bool:
        """Whether *raw* is upstream's other account of this same item. Some servers give one of the two no id."""
        if item_type(raw) != self.type:
            return False
        if self.id is not None and raw.get("id") is not None:
            return bool(raw["id"] == self.id)
        return _meaning(raw) == self.meaning

    def sealed(self, raw: Raw) -> "Output":
        """Return this output knowing the ciphertext of *raw* as well, and what else it says.

        The encrypted content of one item can differ between `output_item.done` and `response.completed`, and an
        agent may have kept either.
        """
        return replace(self, seals=self.seals | _seals(raw), rest=self.rest | _rest(raw))

    def may_be_dropped(self, dropped: Dropped) -> bool:
        """Whether an agent may leave this out of its history under the policy *dropped*."""
        if self.type == "reasoning":
            return dropped != "none"
        return self.type == "message" and dropped == "any"

    def echoed_by(self, items: Sequence[Item], start: int = 0) -> int:
        """Return how many of *items*, from number *start* on, are the agent's echo of this output; 0 for none."""
        if start >= len(items):
            return 0
        first = items[start]
        if first.type == "item_reference":
            return int(self.id is not None and first.raw.get("id") == self.id)
        if first.type != self.type:
            return 0
        if self.type in {"reasoning", "compaction"}:
            return self._same_reasoning(items, start)
        if first.raw.get("phase") not in (None, self.phase):
            return 0
        if not self._has_rest_of(first.raw):
            return 0
        if first.type not in _AUTHORED and first.raw.get("id") not in (None, self.id):
            return 0  # an answer may refer to it: `approval_request_id`
        return int(_meaning(first.raw) == self.meaning)

    def _same_reasoning(self, items: Sequence[Item], start: int) -> int:
        """Match reasoning by identity, which some agents split into an item for each part of its summary."""
        run: list[Raw] = []
        for number in range(start, len(items)):
            item = items[number]
            if item.type != self.type or not self._identified_by(item.raw) or not self._has_rest_of(item.raw):
                return 0
            run.append(item.raw)
            if _told(run) in (None, self.meaning):
                return len(run)
            if _told([item.raw]) is None:
                return 0  # no part of the summary: the item a second time
        return 0

    def _identified_by(self, raw: Raw) -> bool:
        """Whether *raw* carries a ciphertext upstream gave, or none and the right id."""
        sealed = _seals(raw)
        if sealed or self.type == "compaction":  # which is nothing without its ciphertext
            return not self.seals.isdisjoint(sealed)
        return self.id is not None and bool(raw.get("id") == self.id)

    def _has_rest_of(self, raw: Raw) -> bool:
        """Whether upstream gave all further fields of *raw*: one that the agent added would not go upstream."""
        return _rest(raw) <= self.rest

    def __repr__(self) -> str:
        return f"<Output {self.type} {self.meaning.hex()[:8]}>"


def contradicts(account: Raw, other: Raw) -> bool:
    """Whether two accounts of one message or call say different things; one that says nothing contradicts none."""
    words, others = _words(account), _words(other)
    return bool(words and others) and words != others


def _words(raw: Raw) -> Any:
    """Return the text of a message, or the name and the arguments of a call; None of anything else."""
    match item_type(raw):
        case "message":
            content = parts(raw.get("content"), "output_text")
            said = [part for part in content if isinstance(part, dict)] if isinstance(content, list) else []
            return "".join(str(part.get("text") or part.get("refusal") or "") for part in said)
        case "function_call":
            return [raw.get("name"), arguments(raw.get("arguments"))]
        case "custom_tool_call":
            return [raw.get("name"), raw.get("input")]
    return None


def _meaning(raw: Raw) -> Fingerprint:
    """Fingerprint what the model would read in an item it wrote itself."""
    normalise: Callable[[Raw], Any] = _MEANINGS.get(item_type(raw), _bare)
    return digest(normalise(raw))


def _message(raw: Raw) -> Any:
    """Role and text: neighbouring text parts are one text."""
    merged: list[Any] = []
    content = parts(raw.get("content"), "output_text")
    for part in content if isinstance(content, list) else [content]:
        last = merged[-1] if merged else None
        if _is_text(part) and last is not None and _is_text(last):
            merged[-1] = {"type": "output_text", "text": last["text"] + part["text"]}
        else:
            merged.append(part)
    return ["message", raw.get("role"), merged]


def _is_text(part: Any) -> bool:
    return (
        isinstance(part, dict)
        and part.keys() == {"type", "text"}
        and part["type"] == "output_text"
        and isinstance(part["text"], str)
    )


def _function_call(raw: Raw) -> Any:
    rest = {key: value for key, value in _bare(raw).items() if key != "arguments"}
    return [rest, arguments(raw.get("arguments"))]


def _bare(raw: Raw) -> dict[str, Any]:
    return {key: value for key, value in raw.items() if value is not None and key not in _APART}


def _thought(raw: Raw) -> Any:
    return _thoughts([raw])


def _told(run: Iterable[Raw]) -> Fingerprint | None:
    """Fingerprint the readable part of reasoning items; None where the agent left it out."""
    thoughts = _thoughts(run)
    return digest(thoughts) if thoughts else None


def _thoughts(run: Iterable[Raw]) -> list[Any]:
    """Return what the reasoning items of *run* say, in the order in which they say it."""
    return [[field, part] for raw in run for field in ("summary", "content") for part in _as_list(raw.get(field))]


def _as_list(value: Any) -> list[Any]:
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


_MEANINGS: dict[str, Callable[[Raw], Any]] = {
    "message": _message,
    "function_call": _function_call,
    "reasoning": _thought,
    "compaction": _thought,
}


def _seals(raw: Raw) -> frozenset[Fingerprint]:
    sealed = raw.get("encrypted_content")
    return frozenset({digest(sealed)}) if isinstance(sealed, str) and sealed else frozenset()


def _rest(raw: Raw) -> frozenset[Fingerprint]:
    """Fingerprint the fields of *raw* that no other comparison reads."""
    read = _READ.get(item_type(raw))
    if read is None or raw.keys() <= read:
        return frozenset()
    further = ((key, value) for key, value in raw.items() if key not in read and key not in _APART)
    return frozenset(digest([key, value]) for key, value in further if value is not None)


def arguments(text: Any) -> Any:
    """Return tool-call arguments so that two ways of writing one JSON value are equal, and others are not.

    Agents parse and rewrite them: spaces, escapes and `1.0` for `1` change. What does not survive every
    parser unharmed (duplicate keys, integers beyond a double's precision, no JSON at all) is compared as text.
    No text at all is a call without arguments, which agents write as `{}`.
    """
    if not isinstance(text, str):
        return ["value", text]
    try:
        value = json.loads(text or "{}", object_pairs_hook=_unique, parse_constant=_refuse)
        return ["json", orjson.dumps(_whole(value), option=orjson.OPT_SORT_KEYS).decode()]
    except (ValueError, TypeError, RecursionError):
        return ["text", text]


_SAFE_INTEGER = 2**53


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("duplicate key")
    return value


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def _whole(value: Any) -> Any:
    """Write floats without a fraction as integers, as JavaScript does; refuse what a double cannot hold."""
    if isinstance(value, float):
        if not isfinite(value):
            raise ValueError("a number beyond a double's range")
        return int(value) if value.is_integer() and abs(value) < _SAFE_INTEGER else value
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return value
    if isinstance(value, int):
        if abs(value) > _SAFE_INTEGER:
            raise ValueError("an integer that not every parser keeps")
        return value
    if isinstance(value, list):
        return [_whole(each) for each in value]
    return {key: _whole(each) for key, each in value.items()}
