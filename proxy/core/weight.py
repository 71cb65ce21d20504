"""How many tokens a chain weighs, so that an upstream that lost it gives itself away.

Every honest continuation reads at least what its parent read, and what its parent said. A server that confirms a
chain and answers without its history reads less, which it tells in `usage.input_tokens`. What may make a prompt
shorter on an honest server is taken off first; where that cannot be bounded there is no verdict.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

import orjson
from blake3 import blake3

from proxy.core.items import Fingerprint, Item, Output, Raw

PLAIN = frozenset(
    {"apply_patch_call", "custom_tool_call", "function_call", "local_shell_call", "message", "reasoning"}
)
"""Output after which `input_tokens` is one reading of one prompt; tools that a server runs itself read again."""

_SHAPE = (
    (("instructions",), 0),
    # The tools of the server's own, formats and efforts are a word in the request and a page in the prompt.
    (("parallel_tool_calls", "reasoning", "text", "tool_choice", "tools"), 4096),
)
"""Settings that are read with the history and may differ in a chain, and tokens that they may add unseen."""

_SLACK = 16
"""Tokens by which two readings of one history may differ: a date in the prompt, the mark of a turn's end."""

_KEPT = 3 / 4
"""The share of its output that a model surely reads again: arguments are written anew, without its spaces."""

Shape = tuple[tuple[Fingerprint, int], ...]


@dataclass(frozen=True, slots=True)
class Reading:
    """What upstream says of one turn, in tokens: *read*, *said*, and the *thought* that it need not read again.

    *reader* is the model that it names, *shape* the settings that went into the prompt. *shortened* says that the
    turn brought a compaction, before which upstream may forget everything.
    """

    read: int
    said: int
    thought: int
    reader: str | None
    shape: Shape
    shortened: bool

    @classmethod
    def of(cls, fields: Mapping[str, Any], sent: Sequence[Item], response: Raw) -> "Reading | None":
        """Read the `usage` of *response*, the answer to *sent* with the settings *fields*.

        Return None where it has no counts, or none that make sense.
        """
        usage = response.get("usage")
        if not isinstance(usage, Mapping):
            return None
        read, written = usage.get("input_tokens"), usage.get("output_tokens")
        if not _is_count(read) or not _is_count(written) or read == 0:
            return None
        cached = _detail(usage, "input_tokens_details", "cached_tokens") or 0
        hidden = _detail(usage, "output_tokens_details", "reasoning_tokens")
        thought = written if hidden is None else min(hidden, written)
        reader = response.get("model")
        return cls(
            read=read + cached if cached > read else read,  # some servers count what was cached apart
            said=written - thought,
            thought=thought,
            reader=reader if isinstance(reader, str) else None,
            shape=_shape(fields),
            shortened=any("compact" in item.type for item in sent),
        )


@dataclass(frozen=True, slots=True)
class Weight:
    """How many tokens the continuation of a response reads: *least* or more, of which *loose* may be left out.

    Those are of reasoning, which a server need not read again. All this holds for a prompt with settings of the
    same *shape*, read by the same *reader*.
    """

    least: int
    loose: int
    reader: str | None
    shape: Shape

    @classmethod
    def of(
        cls, reading: Reading, sent: Sequence[Item], outputs: Sequence[Output], parent: "Weight | None"
    ) -> "Weight | None":
        """Weigh a response: *sent* are the items it was told, after those of *parent*, and *outputs* it said.

        Return None where it was told a reference, which may stand for reasoning of any length.
        """
        if any(item.type == "item_reference" for item in sent):
            return None
        thinks = any(output.type == "reasoning" for output in outputs)
        is_counted = reading.thought > 0 or not thinks
        said = int(reading.said * _KEPT) if is_counted else 0
        is_plain = all(output.type in PLAIN for output in outputs)
        return cls(
            least=reading.read + said if is_plain else 0,
            loose=(
                (parent.loose if parent is not None else 0)
                + (reading.thought if is_counted else reading.said)
                + sum(_size(item.raw) for item in sent if item.type == "reasoning")
            ),
            reader=reading.reader,
            shape=reading.shape,
        )

    @property
    def is_telling(self) -> bool:
        """Whether a continuation can read so little that its history is missed."""
        return self.least - self.loose > _SLACK

    def expected(self, reading: Reading) -> int:
        """Return how many tokens an honest continuation has to read at least; 0 where there is no telling."""
        if reading.shortened or reading.reader != self.reader:
            return 0
        lost = sum(
            size + unseen
            for (mark, size), (now, _), (_, unseen) in zip(self.shape, reading.shape, _SHAPE, strict=True)
            if mark != now
        )
        return max(0, self.least - self.loose - lost - _SLACK)


def _shape(fields: Mapping[str, Any]) -> Shape:
    """Fingerprint the settings that are in the prompt, with their size: no text has more tokens than bytes."""
    groups = [{name: fields[name] for name in names if name in fields} for names, _ in _SHAPE]
    written = [orjson.dumps(group, option=orjson.OPT_SORT_KEYS) for group in groups]
    return tuple((blake3(each).digest(16), len(each)) for each in written)


def _size(value: Raw) -> int:
    return len(orjson.dumps(value))


def _detail(usage: Raw, details: str, name: str) -> int | None:
    found = usage.get(details)
    value = found.get(name) if isinstance(found, Mapping) else None
    return value if _is_count(value) else None


def _is_count(value: Any) -> TypeGuard[int]:
    return type(value) is int and value >= 0
