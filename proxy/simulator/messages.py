"""Messages: a Chat Completions history, read as Responses items."""

from collections.abc import Iterator
from typing import Any

from proxy.simulator.apierror import invalid, missing, unsupported
from proxy.simulator.model import Item

ROLES = ("system", "developer", "user", "assistant", "tool", "function")
USER_PARTS = ("text", "image_url", "input_audio", "file")
TEXT_PARTS = ("text",)
ASSISTANT_PARTS = ("text", "refusal")
PARTS = {
    "user": USER_PARTS,
    "assistant": ASSISTANT_PARTS,
    "system": TEXT_PARTS,
    "developer": TEXT_PARTS,
    "tool": TEXT_PARTS,
    "function": TEXT_PARTS,
}
LEGACY = "function_call_"
"""Calls of the deprecated kind have no ids; these are numbered in the order of the messages."""


def items_of_messages(messages: Any) -> list[Item]:
    """Return the items that say the same as *messages*; raise ApiError if they are malformed."""
    if not isinstance(messages, list) or not messages:
        raise missing("messages")
    for index, message in enumerate(messages):
        _check(message, f"messages[{index}]")
    _check_tools(messages)
    items = [item for index, message in enumerate(messages) for item in _items(message, index)]
    custom = {item["call_id"] for item in items if item["type"] == "custom_tool_call"}
    for item in items:
        if item["type"] == "function_call_output" and item["call_id"] in custom:
            item["type"] = "custom_tool_call_output"
    return items


def _check(message: Any, place: str) -> None:
    if not isinstance(message, dict) or message.get("role") not in ROLES:
        role = message.get("role") if isinstance(message, dict) else message
        raise invalid(f"Invalid value: '{role}'.", param=f"{place}.role", code="invalid_value")
    role, content = message["role"], message.get("content")
    if content is None and role not in ("assistant", "tool", "function"):
        raise invalid("Invalid value for 'content': expected a string, got null.", param=f"{place}.content")
    if content is None or isinstance(content, str):
        return
    if not isinstance(content, list):
        problem = f"Invalid type for '{place}.content': expected one of a string or array of objects."
        raise invalid(problem, param=f"{place}.content", code="invalid_type")
    for index, part in enumerate(content):
        kind = part.get("type") if isinstance(part, dict) else None
        if kind not in PARTS[role]:
            raise unsupported(kind, PARTS[role], f"{place}.content[{index}].type")


def _check_tools(messages: list[dict[str, Any]]) -> None:
    waiting: list[str] = []
    for index, message in enumerate(messages):
        if message["role"] == "tool":
            if message.get("tool_call_id") not in waiting:
                raise invalid(
                    "Invalid parameter: messages with role 'tool' must be a response to a preceeding message "
                    "with 'tool_calls'.",
                    param=f"messages[{index}].role",
                )
            waiting.remove(message["tool_call_id"])
            continue
        _check_answered(waiting)
        waiting = [call.get("id") for call in message.get("tool_calls") or ()]
    _check_answered(waiting)


def _check_answered(waiting: list[str]) -> None:
    if waiting:
        raise invalid(
            "An assistant message with 'tool_calls' must be followed by tool messages responding to each "
            f"'tool_call_id'. The following tool_call_ids did not have response messages: {', '.join(waiting)}",
            param="messages",
        )


def _items(message: dict[str, Any], index: int) -> Iterator[Item]:
    role, content = message["role"], message.get("content")
    if role in ("tool", "function"):
        output = content if isinstance(content, str) else [_part(part, role) for part in content or ()]
        call_id = message.get("tool_call_id") if role == "tool" else f"{LEGACY}{index - 1}"
        yield {"type": "function_call_output", "call_id": call_id, "output": output}
        return
    calls = [*_calls(message, index)]
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content or []
    if (calls or message.get("refusal")) and not content:
        parts = []  # no text beside something else is none, however it is written
    if message.get("refusal"):
        parts = [*parts, {"type": "refusal", "refusal": message["refusal"]}]
    if message.get("audio"):
        parts = [*parts, {"type": "audio", **message["audio"]}]
    if parts:
        named = {"name": message["name"]} if message.get("name") is not None else {}
        yield {"type": "message", "role": role, **named, "content": [_part(part, role) for part in parts]}
    yield from calls


def _calls(message: dict[str, Any], index: int) -> Iterator[Item]:
    for call in message.get("tool_calls") or ():
        if "custom" in call:
            kind, key, said = "custom_tool_call", "input", call["custom"]
        else:
            kind, key, said = "function_call", "arguments", call["function"]
        yield {"type": kind, "call_id": call["id"], "name": said["name"], key: said[key]}
    if legacy := message.get("function_call"):
        called = {"name": legacy["name"], "arguments": legacy["arguments"]}
        yield {"type": "function_call", "call_id": f"{LEGACY}{index}", **called}


def _part(part: dict[str, Any], role: str) -> dict[str, Any]:
    rest = {key: value for key, value in part.items() if key == "prompt_cache_breakpoint"}
    match part["type"]:
        case "text":
            return {"type": "output_text" if role == "assistant" else "input_text", "text": part["text"], **rest}
        case "image_url":
            image = part["image_url"]
            detail = image.get("detail") or "auto"
            return {"type": "input_image", "image_url": image["url"], "detail": detail, **rest}
        case "file":
            return {"type": "input_file", **part["file"], **rest}
        case _:
            return part
