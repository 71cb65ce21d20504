"""What a Chat history says, read without any of the proxy's code, in the tokens of `meaning`.

A message of the assistant is what it said, text and refusal, and then its calls in order; one that says nothing
means nothing. The items of one response mean one such message, however many they are.
"""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import groupby
from typing import Any, TypeAlias

import orjson
from meaning import Held, Raw, Token, arguments, meaning

Message: TypeAlias = tuple[Token, ...]
"""What one message says; the output of a tool is ("output", call_id, parts) until its call is found."""

_BESIDE = {"annotations", "parsed"}
_THOUGHTS = {"reasoning", "reasoning_content", "reasoning_details"}
_BESIDE_CALLS = {"index", "parsed_arguments"}
"""What stands in an agent's account of an answer and says nothing."""


class Untold(Exception):
    """No item says this."""


@lru_cache(100_000)
def read(written: bytes) -> Message | None:
    """Return what the message *written* says, or None where no item can say it."""
    try:
        return _message(orjson.loads(written))
    except Untold:
        return None


def told(messages: Iterable[Message | None]) -> list[Token] | None:
    """Return what a history says, or None where no items can.

    A call is answered once, by the tool messages right behind it; Chat Completions refuse any other history.
    """
    waiting: dict[str, str] = {}  # calls without an answer yet, and their kind: of two with one id the latter
    history: list[Token] = []
    for message in messages:
        if message is None or (waiting and not any(token[0] == "output" for token in message)):
            return None
        for token in message:
            kind, call_id = token[:2]
            if kind in {"function_call", "custom_tool_call"}:
                waiting[call_id] = kind
            if kind != "output":
                history.append(token)
            elif call_id in waiting:
                history.append((f"{waiting.pop(call_id)}_output", *token[1:]))
            else:
                return None
    return history


def said(text: str, refusal: str) -> list[Token]:
    """Return what the assistant said, if it said anything."""
    return [("message", "assistant", (text, refusal), None)] if text or refusal else []


def joined(context: Sequence[Held]) -> list[Held]:
    """Return *context* with what the model emitted at once as one message."""
    held: list[Held] = []
    for emitted, run in groupby(context, key=lambda each: each[1]):
        tokens = [token for token, _ in run]
        held += [(token, emitted) for token in (one_message(tokens) if emitted else tokens)]
    return [each for each in held if each[0][2:3] != (("", ""),)]


def one_message(tokens: Sequence[Token]) -> list[Token]:
    """Return what the items of a response say together: thoughts, then words, then the rest."""
    words = [token[2] for token in tokens if token[0] == "message"]
    thoughts = [token for token in tokens if token[0] == "reasoning"]
    rest = [token for token in tokens if token[0] not in {"message", "reasoning"}]
    return (
        [*thoughts, *said(*("".join(each) for each in zip(*words, strict=True))), *rest]
        if words
        else [
            *thoughts,
            *rest,
        ]
    )


def _message(message: Raw) -> Message:
    match message["role"]:
        case "assistant":
            beside = _BESIDE | {name for name in _THOUGHTS if not message.get(name)}
            return _assistant(_only(message, {"role", "content", "refusal", "tool_calls"}, beside))
        case "tool":
            given = _only(message, {"role", "content", "tool_call_id"})
            parts = _parts(given.get("content"))
            if any(not isinstance(part, str) for part in parts):
                raise Untold
            return (("output", given.get("tool_call_id"), parts),)
        case "system" | "developer" | "user" as role:
            parts = _parts(_only(message, {"role", "content"}).get("content"))
            if role != "user" and any(not isinstance(part, str) for part in parts):
                raise Untold  # Chat Completions take pictures from users alone
            return (("message", role, parts),)
    raise Untold


def _assistant(message: Raw) -> Message:
    content, calls = message.get("content"), message.get("tool_calls") or ()
    parts = [_text(content)] if isinstance(content, str) else content or ()
    if any(part.keys() not in ({"type", "text"}, {"type", "refusal"}) for part in parts):
        raise Untold
    texts = [part["text"] for part in parts if "text" in part]
    refusals = [part["refusal"] for part in parts if "refusal" in part]
    if message.get("refusal") is not None:
        refusals.append(message["refusal"])
    if not texts and not refusals and not calls:
        raise Untold
    return (*said("".join(texts), "".join(refusals)), *map(_call, calls))


def _text(text: str) -> Raw:
    return {"type": "text", "text": text}


def _call(call: Raw) -> Token:
    kind = call.get("type") or "function"
    called = _only(
        _only(call, {"id", "type", kind}, _BESIDE_CALLS)[kind], {"name", "arguments", "input"}, _BESIDE_CALLS
    )
    if kind == "custom":
        return ("custom_tool_call", call["id"], called["name"], called["input"])
    return ("function_call", call["id"], called["name"], arguments(called["arguments"]))


def _only(given: Raw, names: set[str], ignored: Iterable[str] = ()) -> Raw:
    """Return *given*, which may have nothing but *names* and what is ignored."""
    if any(value is not None for name, value in given.items() if name not in names and name not in ignored):
        raise Untold
    return given


def _parts(content: Any) -> tuple[Any, ...]:
    if content is None:
        raise Untold
    return (content,) if isinstance(content, str) else tuple(map(_part, content))


def _part(part: Raw) -> Any:
    match part:
        case {"type": "text", "text": text}:
            return text
        case {"type": "image_url", "image_url": {"url": url, **rest}}:
            return ("image", url, rest.get("detail") or "auto")
    raise Untold


# Items as they reach upstream.


@lru_cache(100_000)
def item(written: bytes) -> Token:
    """Return what an item says that is made of a Chat message. Raises AssertionError for any other."""
    match orjson.loads(written):
        case {"type": "message", "role": "assistant", "content": list(parts), **rest} if not rest:
            return ("message", "assistant", _spoken(parts), None)
        case {"type": "message", "role": "user" | "developer" | "system" as role, "content": content, **rest} if (
            not rest
        ):
            return ("message", role, _given(content))
        case {"type": "function_call" as kind, "call_id": call_id, "name": name, "arguments": text, **rest} if (
            not rest
        ):
            return (kind, call_id, name, arguments(text))
        case {"type": "custom_tool_call" as kind, "call_id": call_id, "name": name, "input": text, **rest} if (
            not rest
        ):
            return (kind, call_id, name, text)
        case {
            "type": "function_call_output" | "custom_tool_call_output" as kind,
            "call_id": call_id,
            "output": output,
            **rest,
        } if not rest:
            return (kind, call_id, _given(output))
    raise AssertionError(f"no item that says what a message does: {written!r}")


def in_response(raw: Raw) -> Token:
    """Return what an item says that the model may have emitted, with all that it has beside its words."""
    if raw.get("type") != "message" or raw["role"] != "assistant":
        return meaning(raw)
    parts = raw["content"]
    texts, refusals = (
        "".join(part[kind] for part in parts if part["type"].endswith(kind)) for kind in ("text", "refusal")
    )
    return ("message", "assistant", (texts, refusals), None)


def _spoken(parts: list[Raw]) -> tuple[str, str]:
    texts, refusals = [], []
    for part in parts:
        match part:
            case {"type": "output_text", "text": str(text), **rest} if not rest:
                texts.append(text)
            case {"type": "refusal", "refusal": str(text), **rest} if not rest:
                refusals.append(text)
            case _:
                raise AssertionError(f"no part of an answer: {part}")
    return "".join(texts), "".join(refusals)


def _given(content: Any) -> tuple[Any, ...]:
    return (content,) if isinstance(content, str) else tuple(map(_given_part, content))


def _given_part(part: Raw) -> Any:
    match part:
        case {"type": "input_text", "text": str(text), **rest} if not rest:
            return text
        case {"type": "input_image", "image_url": str(url), "detail": str(detail), **rest} if not rest:
            return ("image", url, detail)
    raise AssertionError(f"no part of what a person says: {part}")
