"""Settings told once per chain, as items of the conversation, instead of once per turn, as fields.

Upstream takes `instructions` and `tools` from each request anew, so they are sent with each delta. Items it keeps:
a developer message says what instructions say, and an `additional_tools` item gives what tools give. Both forms
have to be the same prompt, so anything else that a request says must leave no doubt about that.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import orjson
from blake3 import blake3

from proxy.core.history import Outline
from proxy.core.items import Fingerprint, Item, Raw

_KINDS = ("custom", "function")
"""Tools that the agent runs itself; upstream may have to be told at each turn of those that it runs."""

Form: TypeAlias = tuple[str, tuple[str, ...]]
"""What a probe's verdict holds for: a model, and what is asked of it (such as "instructions", "generate")."""


@dataclass(frozen=True, slots=True)
class Hoisted:
    """The settings of a request that can be told as items: *fields*, the agent's own, and the *items* that do.

    *mark* is their fingerprint, to the byte: a chain that was told others does not go on with this request.
    """

    fields: Mapping[str, Any]
    items: tuple[Raw, ...]
    mark: Fingerprint
    form: Form


def hoist(fields: Mapping[str, Any], items: Sequence[Item]) -> Hoisted | None:
    """Return the settings in *fields* as items before *items*; None where there are none, or any doubt.

    - A stored response can be continued by its id, with other instructions: then these must not be in it.
    - Without items of the agent's own the request may be one that upstream refuses.
    - A choice of tools is checked against the field `tools`.
    - A compaction may put an end to whatever was told before it.
    """
    if fields.get("store") is not False or fields.get("tool_choice") not in (None, "auto"):
        return None
    history = Outline.of(items)
    if not history.length or history.is_compacted or history.has_tools:
        return None
    instructions, tools = fields.get("instructions"), fields.get("tools")
    if not isinstance(instructions, str | None) or not _are_agents_own(tools):
        return None
    taken = {name: fields[name] for name in _ITEMS if fields.get(name)}
    if not taken:
        return None
    kinds = sorted({"instructions"} & taken.keys() | {tool["type"] for tool in tools or ()})
    told = tuple(_ITEMS[name](value) for name, value in taken.items())
    mark = blake3(orjson.dumps(taken)).digest(16)
    return Hoisted(taken, told, mark, (str(fields.get("model")), tuple(kinds)))


def _are_agents_own(tools: Any) -> bool:
    if tools is None:
        return True
    return isinstance(tools, list) and all(isinstance(tool, dict) and tool.get("type") in _KINDS for tool in tools)


_ITEMS: Mapping[str, Callable[[Any], Raw]] = {
    "instructions": lambda text: {"type": "message", "role": "developer", "content": text},
    "tools": lambda tools: {"type": "additional_tools", "role": "developer", "tools": tools},
}
"""The items that stand for fields, in the order in which they are told."""
