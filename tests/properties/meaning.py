"""Meaning: what an item says to the model, read without any of the proxy's code, and when two contexts agree.

A `Token` is one item's meaning, a plain tuple. Reasoning and compaction are an identity (the number that the
generator put into their id and their ciphertext), so a forged ciphertext is another token; a summary or a phase
that the agent left out is None and agrees with what the model emitted.
"""

import json  # noqa: TID251  (arguments are compared without the proxy's parser)
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any, Literal, TypeAlias

Token: TypeAlias = tuple[Any, ...]
Raw: TypeAlias = dict[str, Any]
Dropped: TypeAlias = Literal["none", "reasoning", "any"]

SEALS = "st"
"""A ciphertext is one of these letters and the identity: the terminal event may have the second one instead."""


def meaning(raw: Raw) -> Token:
    """Return what *raw* says. An item_reference, or reasoning without id and ciphertext, says only itself."""
    match raw.get("type", "message"):
        case "message" if raw["role"] == "assistant":
            texts = raw["content"] if isinstance(raw["content"], list) else [{"text": raw["content"]}]
            return ("message", "assistant", "".join(part["text"] for part in texts), raw.get("phase"))
        case "message":
            return ("message", raw["role"], _parts(raw["content"]))
        case "function_call" as kind:
            return (kind, raw["call_id"], raw["name"], arguments(raw["arguments"]))
        case "custom_tool_call" as kind:
            return (kind, raw["call_id"], raw["name"], raw["input"])
        case "function_call_output" | "custom_tool_call_output" as kind:
            return (kind, raw["call_id"], _parts(raw["output"]))
        case "reasoning" | "compaction" as kind:
            told = tuple(part["text"] for part in raw.get("summary") or ())
            told += tuple(("content", part["text"]) for part in raw.get("content") or ())
            return (kind, _identity(raw), told or None)
        case "web_search_call" as kind:
            return (kind, raw["action"]["query"])
    return ("?", json.dumps(raw, sort_keys=True))


@cache
def arguments(text: str) -> str:
    """Return a canonical spelling of tool-call arguments; what is no plain JSON stays as it is."""
    try:
        value = json.loads(text or "{}", object_pairs_hook=_unique)
    except ValueError:
        return f"text {text}"
    return json.dumps(_whole(value), sort_keys=True)


def _parts(content: Any) -> tuple[Any, ...]:
    if isinstance(content, str):
        return (content,)
    return tuple(part["text"] if "text" in part else ("image", part["image_url"]) for part in content)


def _identity(raw: Raw) -> Any:
    sealed = raw.get("encrypted_content")
    if sealed:
        return sealed.lstrip(SEALS)
    item_id = raw.get("id") or ""
    return item_id.partition("_")[2] or ("anonymous", json.dumps(raw, sort_keys=True))


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) != len(pairs):
        raise ValueError("duplicate key")
    return dict(pairs)


def _whole(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list):
        return [_whole(each) for each in value]
    return {key: _whole(each) for key, each in value.items()} if isinstance(value, dict) else value


Held: TypeAlias = tuple[Token, bool]
"""A token that upstream holds, and whether its model emitted it (so that an agent may have left it out)."""


def agree(held: Sequence[Held], told: Sequence[Token], dropped: Dropped) -> bool:
    """Whether *held*, the context upstream has, is the history *told* by the agent.

    Beyond equality an agent may leave out reasoning (*dropped* reasoning) or texts too (any) that the model
    emitted, where nothing of its own stands in their place; and it may split reasoning by its summary's parts.
    """
    if len(held) == len(told) and all(token == said for (token, _), said in zip(held, told, strict=True)):
        return True
    ways: set[tuple[int, str | None]] = {(0, None)}  # how much is told, and what was last left out
    for each in held:
        ways = {way for count, absent in ways for way in _further(each, told, count, absent, dropped)}
    return any(count == len(told) for count, _ in ways)


def _further(
    held: Held, told: Sequence[Token], count: int, absent: str | None, dropped: Dropped
) -> Iterator[tuple[int, str | None]]:
    """Yield each way of going on: *held* is what is told next, or it was left out."""
    token, emitted = held
    kind = _droppable(token)
    if emitted:
        for length in _lengths(token, told, count):
            yield count + length, absent
        if (kind == "reasoning" and dropped != "none") or (kind == "text" and dropped == "any"):
            yield count, kind
    elif count < len(told) and token == told[count] and absent != kind:
        yield count + 1, None


def _lengths(token: Token, told: Sequence[Token], count: int) -> Iterator[int]:
    """Yield how many of the items told from *count* on may together be *token*: reasoning comes in parts."""
    if count < len(told) and _same(token, told[count]):
        yield 1
    if token[0] != "reasoning":
        return
    parts: tuple[Any, ...] = ()
    for length, part in enumerate(told[count:], 1):
        if part[:2] != token[:2] or not part[2]:
            return
        parts += part[2]
        if length > 1 and parts == token[2]:
            yield length


def _droppable(token: Token) -> str:
    if token[0] == "reasoning":
        return "reasoning"
    return "text" if token[:2] == ("message", "assistant") else "never"


def _same(held: Token, told: Token) -> bool:
    """Whether *told* is *held*, perhaps without its summary or its phase."""
    if held == told:
        return True
    if held[:2] != told[:2]:
        return False
    if held[0] in {"reasoning", "compaction"}:
        return told[2] is None
    return held[:2] == ("message", "assistant") and held[2] == told[2] and told[3] is None
