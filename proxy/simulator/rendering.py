"""Rendering: what the model reads of an item, and what of a prompt it has read before.

Ids, statuses and spelling don't reach the model. Two contexts that render alike are the same prompt, which is
how a chained turn is compared with the same turn sent in full.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import orjson

from proxy.simulator.effective import effective_tool
from proxy.simulator.model import Body, Item

UNREAD = ("id", "status", "phase", "annotations", "logprobs", "internal_chat_message_metadata_passthrough")
TEXTS = ("input_text", "output_text", "text")
BYTES_PER_TOKEN = 4
CACHE_BLOCK = 128
REMEMBERED_PROMPTS = 4096


def rendered(items: Iterable[Item], *, reasoning: bool = False) -> list[Any]:
    """Return what the model reads of *items*; agents may drop *reasoning*, so it is left out by default."""
    return [_rendered(item) for item in items if reasoning or item.get("type") != "reasoning"]


def digest(items: Iterable[Item], *, reasoning: bool = False) -> str:
    """Return 16 hex digits that tell prompts apart."""
    text = orjson.dumps(rendered(items, reasoning=reasoning), option=orjson.OPT_SORT_KEYS)
    return hashlib.sha256(text).hexdigest()[:16]


def tokens(items: Iterable[Item]) -> int:
    """Estimate the tokens of *items*, as `PromptCache.read` does."""
    return sum(len(_text(item)) // BYTES_PER_TOKEN for item in items)


class PromptCache:
    """Which prompts were read lately: what ``usage`` reports as cached tokens.

    A prompt is a scope (credentials, connection), the settings that are rendered before the items (model, effort,
    instructions, tools) and the items; a change in what comes first loses everything after it. Instructions read
    like a developer message, and tools like those that an `additional_tools` item gives.
    """

    def __init__(self) -> None:
        self._known: OrderedDict[bytes, int] = OrderedDict()

    def read(self, scope: str, settings: Body, items: Sequence[Item]) -> tuple[int, int]:
        """Read a prompt under effective *settings*; return its size and how much was cached, in tokens."""
        first = [settings.get(name) for name in ("model", "effort")]
        head = orjson.dumps(first, option=orjson.OPT_SORT_KEYS)
        size, key, cached = len(head) // BYTES_PER_TOKEN, hashlib.sha256(scope.encode() + head).digest(), 0
        for item in (*_as_items(settings), *items):
            text = _text(item)
            size += len(text) // BYTES_PER_TOKEN
            key = hashlib.sha256(key + text).digest()
            if key in self._known:
                cached = size
                self._known.move_to_end(key)
            else:
                self._known[key] = size
        while len(self._known) > REMEMBERED_PROMPTS:
            self._known.popitem(last=False)
        return size, cached // CACHE_BLOCK * CACHE_BLOCK


def _as_items(settings: Body) -> Iterator[Item]:
    if settings.get("instructions"):
        yield {"type": "message", "role": "developer", "content": settings["instructions"]}
    if settings.get("tools"):
        yield {"type": "additional_tools", "role": "developer", "tools": settings["tools"]}


def _text(item: Item) -> bytes:
    return orjson.dumps(_rendered(item), option=orjson.OPT_SORT_KEYS)


def _rendered(item: Item) -> Item:
    plain = {key: value for key, value in item.items() if key not in UNREAD and value not in (None, [])}
    if "role" in plain:
        plain["type"] = plain.get("type", "message")
    if "content" in plain and plain.get("type") == "message":
        plain["content"] = _content(plain["content"])
    if "arguments" in plain:
        plain["arguments"] = _parsed(plain["arguments"])
    if plain.get("type") == "additional_tools":
        plain["tools"] = [effective_tool(tool) for tool in plain["tools"]]
    if "output" in plain:
        plain["output"] = _content(plain["output"])
    return plain


def _content(content: Any) -> list[Any]:
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    return [_part(part) for part in parts] if isinstance(parts, list) else [parts]


def _part(part: Any) -> Any:
    if not isinstance(part, dict):
        return part
    plain = {key: value for key, value in part.items() if key not in UNREAD and value is not None}
    if plain.get("type") == "input_image" and len(plain) > 1:
        return {"detail": "auto", **plain}
    return {**plain, "type": "text"} if part.get("type") in TEXTS else plain


def _parsed(arguments: Any) -> Any:
    try:
        return orjson.loads(arguments)
    except (orjson.JSONDecodeError, TypeError):
        return arguments
