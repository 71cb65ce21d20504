"""Chat messages and Responses items: what one says, in the other's words.

A message of the assistant is one in a Chat history, whatever it said and however many tools it called; a
response has an item for each. Reasoning has no place in a Chat history: upstream keeps it in the chain, and a
history that is sent in full has none, as it would have without packlight.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from proxy.core.items import Raw, item_type, without_nulls
from proxy.frontends.chat_request import Untranslatable, take

_ROLES = frozenset({"system", "developer", "user"})

_BESIDE_WORDS = frozenset({"annotations", "parsed"})
_BESIDE_CALLS = frozenset({"index", "parsed_arguments"})
_BESIDE_TEXT = frozenset({"annotations"})
"""What agents keep of an answer beside what it said: no model reads it again, and not every upstream takes it."""
_OF_THE_MESSAGE = frozenset({"role", "tool_calls"})
"""What the OpenAI Agents SDK for JavaScript repeats of a message in its only part."""
_OF_THE_URL = frozenset({"format"})
"""What Strands Agents repeats of a picture's URL beside it."""
_THOUGHTS = frozenset({"reasoning", "reasoning_content", "reasoning_details"})
"""Where other providers tell what a model thought, and some want it back. An answer of ours has none of it."""
_AGENTS_OWN = frozenset({"__copilotMessageSource", "__copilotUserShellOutput"})
"""Where Copilot CLI notes what a message is about, and sends that along once a session was rewound or resumed."""
_PROVIDERS_OWN = "provider_specific_fields"
"""Where LiteLLM keeps what only some providers know, to show it to them again; mostly there is nothing in it."""


def items(messages: Any) -> list[dict[str, Any]]:
    """Return the items that say what *messages* say, in order.

    Raises Untranslatable where there is none for a part of them, or where they make no sense.
    """
    if not messages:
        raise Untranslatable("messages")
    return translated(messages)[0]


def translated(messages: Any) -> tuple[list[dict[str, Any]], bool]:
    """Return the items for *messages*, of which there may be none, and whether some calls have no output yet.

    Raises Untranslatable like `items`.
    """
    if not isinstance(messages, list):
        raise Untranslatable("messages")
    waiting: dict[str, Raw] = {}  # calls without an output, by id
    told: list[dict[str, Any]] = []
    for given in messages:
        message = _without(given, _AGENTS_OWN) if isinstance(given, dict) and _AGENTS_OWN & given.keys() else given
        role = message.get("role") if isinstance(message, dict) else None
        if role == "tool":
            told.append(_tool_output(message, waiting))
        elif waiting:  # Chat Completions take nothing between calls and their outputs, the Responses API does
            raise Untranslatable("messages.tool_calls")
        elif role == "assistant":
            said = list(_said(message))
            waiting = {item["call_id"]: item for item in said if "call_id" in item}
            told += said
        elif isinstance(role, str) and role in _ROLES:
            told.append(_message(message))
        else:
            raise Untranslatable("messages.role")
    return told, bool(waiting)


def _message(message: Raw) -> dict[str, Any]:
    role, content = take(message, "messages", "role", "content")
    if not isinstance(content, str):
        content = _parts(content, _GIVEN if role == "user" else _WRITTEN)
    return {"type": "message", "role": role, "content": content}


def _tool_output(message: Raw, waiting: dict[str, Raw]) -> dict[str, Any]:
    _, call_id, content, name = take(message, "messages", "role", "tool_call_id", "content", "name")
    if not isinstance(call_id, str) or call_id not in waiting:
        raise Untranslatable("messages.tool_call_id")
    call = waiting.pop(call_id)
    if name not in (None, call["name"]):  # some agents repeat the name of the tool
        raise Untranslatable("messages.name")
    if not isinstance(content, str):
        content = _parts(content, _WRITTEN)
    return {"type": f"{call['type']}_output", "call_id": call_id, "output": content}


def _said(message: Raw) -> Iterator[dict[str, Any]]:
    """Yield the items of one message of the assistant: what it said, then its calls."""
    own = _without(message, _BESIDE_WORDS | {name for name in _THOUGHTS if not message.get(name)})
    _, content, refusal, calls = take(own, "messages", "role", "content", "refusal", "tool_calls")
    parts: list[dict[str, Any]] = []
    if isinstance(content, str):
        parts += [_spoken(content)] if content or not (calls or refusal) else []
    elif content is not None:
        parts += _parts(_own_parts(content, message), _SAID)
    if refusal is not None and refusal != "":
        parts.append(_refused(refusal))
    if parts:
        yield {"type": "message", "role": "assistant", "content": parts}
    if not isinstance(calls, list | None):
        raise Untranslatable("messages.tool_calls")
    if not parts and not calls:
        raise Untranslatable("messages.content")
    for call in calls or ():
        yield _call(call)


def _own_parts(content: Any, message: Raw) -> Any:
    """Return *content* without what its parts have beside their text, or repeat of their *message*."""
    if not isinstance(content, list):
        return content
    return [_without(part, _BESIDE_TEXT | _repeated(part, message)) for part in content]


def _repeated(part: Any, message: Raw) -> frozenset[str]:
    if not isinstance(part, dict):
        return frozenset()
    return frozenset(name for name in _OF_THE_MESSAGE & part.keys() if part[name] == message.get(name))


def _call(given: Any) -> dict[str, Any]:
    call_id, kind, *tools = take(
        _without(given, _BESIDE_CALLS), "messages.tool_calls", "id", "type", "function", "custom"
    )
    if kind not in (None, "function", "custom") or not isinstance(call_id, str):
        raise Untranslatable("messages.tool_calls")
    named, text = ("custom_tool_call", "input") if kind == "custom" else ("function_call", "arguments")
    called, other = reversed(tools) if kind == "custom" else tools
    if other is not None:
        raise Untranslatable("messages.tool_calls")
    name, written = take(_without(called, _BESIDE_CALLS), "messages.tool_calls.function", "name", text)
    if not isinstance(name, str) or not isinstance(written, str):
        raise Untranslatable("messages.tool_calls")
    return {"type": named, "call_id": call_id, "name": name, text: written}


def _without(given: Any, names: frozenset[str]) -> Any:
    if not isinstance(given, dict):
        return given
    own = given.get(_PROVIDERS_OWN)
    if isinstance(own, dict) and not without_nulls(own):
        names = names | {_PROVIDERS_OWN}
    return {name: value for name, value in given.items() if name not in names}


_Translate = Callable[[Any], dict[str, Any]]


def _parts(content: Any, known: Mapping[str, tuple[str, _Translate]]) -> list[dict[str, Any]]:
    """Translate content parts; *known* says under which key each type has its own, and how that is read."""
    if not isinstance(content, list):
        raise Untranslatable("messages.content")
    return [_part(part, known) for part in content]


def _part(part: Any, known: Mapping[str, tuple[str, _Translate]]) -> dict[str, Any]:
    kind = part.get("type") if isinstance(part, dict) else None
    if not isinstance(kind, str) or kind not in known:
        raise Untranslatable("messages.content")
    key, translate = known[kind]
    _, value, breakpoint_ = take(part, "messages.content", "type", key, "prompt_cache_breakpoint")
    return dict(without_nulls({**translate(value), "prompt_cache_breakpoint": breakpoint_}))


def _text(text: Any) -> dict[str, Any]:
    return {"type": "input_text", "text": text}


def _image(image: Any) -> dict[str, Any]:
    own = _without(image, _OF_THE_URL) if _repeats_its_type(image) else image
    url, detail = take(own, "messages.content.image_url", "url", "detail")
    return {"type": "input_image", "image_url": url, "detail": "auto" if detail is None else detail}


def _repeats_its_type(image: Any) -> bool:
    """Whether the format of *image* is the media type that its data URL begins with (RFC 2397)."""
    if not isinstance(image, dict):
        return False
    url, kind = image.get("url"), image.get("format")
    return isinstance(url, str) and isinstance(kind, str) and url.startswith((f"data:{kind};", f"data:{kind},"))


def _audio(audio: Any) -> dict[str, Any]:
    return {"type": "input_audio", "input_audio": audio}


def _file(file: Any) -> dict[str, Any]:
    names = ("file_data", "file_id", "filename")
    return {"type": "input_file", **dict(zip(names, take(file, "messages.content.file", *names), strict=True))}


def _spoken(text: Any) -> dict[str, Any]:
    return {"type": "output_text", "text": text}


def _refused(text: Any) -> dict[str, Any]:
    return {"type": "refusal", "refusal": text}


_GIVEN: Mapping[str, tuple[str, _Translate]] = {
    "text": ("text", _text),
    "image_url": ("image_url", _image),
    "input_audio": ("input_audio", _audio),
    "file": ("file", _file),
}
_WRITTEN: Mapping[str, tuple[str, _Translate]] = {"text": _GIVEN["text"]}
_SAID: Mapping[str, tuple[str, _Translate]] = {"text": ("text", _spoken), "refusal": ("refusal", _refused)}


def echo(output: Sequence[Raw]) -> list[Raw]:
    """Return the items of a response the way `items` reads an agent's account of it.

    All it said is one message, before its calls. What a Chat completion cannot show is not left out, so that
    no agent's account fits.
    """
    parts = [part for item in output for part in content_parts(item)]
    text, refusal = said(parts)
    merged = [_spoken(text)] * bool(text) + [_refused(refusal)] * bool(refusal)
    merged += [part for part in parts if part.get("type") not in {"output_text", "refusal"}]
    message = {"type": "message", "role": "assistant", "content": merged}
    reasoning = [item for item in output if item_type(item) == "reasoning"]
    rest = [item for item in output if item_type(item) not in {"message", "reasoning"}]
    return [*reasoning, *[message] * bool(merged), *rest]


def content_parts(item: Raw) -> list[dict[str, Any]]:
    """Return the parts of *item* where it is a message, in the places that `content_index` counts."""
    content = item.get("content") if item_type(item) == "message" else None
    return [part if isinstance(part, dict) else {} for part in content] if isinstance(content, list) else []


def said(parts: Sequence[Raw]) -> tuple[str, str]:
    """Return the text and the refusal in the content *parts* of a response's messages."""
    return _joined(parts, "output_text", "text"), _joined(parts, "refusal", "refusal")


def _joined(parts: Sequence[Raw], kind: str, key: str) -> str:
    return "".join(part[key] for part in parts if part.get("type") == kind and isinstance(part.get(key), str))
