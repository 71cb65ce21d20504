"""Messages: a Chat Completions history, read as Responses items."""

from collections.abc import Iterator
from typing import Any

from proxy.simulator.apierror import invalid
from proxy.simulator.model import Item

ROLES = ("system", "developer", "user", "assistant", "tool", "function")


def items_of_messages(messages: Any) -> list[Item]:
    """Return the items that say the same as *messages*; raise ApiError if they are malformed."""
    if not isinstance(messages, list) or not messages:
        raise invalid(
            "Missing required parameter: 'messages'.", param="messages", code="missing_required_parameter"
        )
    _check_tools(messages)
    items = [item for message in messages for item in _items(message)]
    custom = {item["call_id"] for item in items if item["type"] == "custom_tool_call"}
    for item in items:
        if item["type"] == "function_call_output" and item["call_id"] in custom:
            item["type"] = "custom_tool_call_output"
    return items


def _check_tools(messages: list[Any]) -> None:
    waiting: set[str] = set()
    for index, message in enumerate(messages):
        place = f"messages[{index}]"
        if not isinstance(message, dict) or message.get("role") not in ROLES:
            role = message.get("role") if isinstance(message, dict) else message
            raise invalid(f"Invalid value: '{role}'.", param=f"{place}.role", code="invalid_value")
        if message["role"] == "tool":
            if message.get("tool_call_id") not in waiting:
                raise invalid(
                    "Invalid parameter: messages with role 'tool' must be a response to a preceeding message "
                    "with 'tool_calls'.",
                    param=f"{place}.role",
                )
            waiting.discard(message["tool_call_id"])
            continue
        _check_answered(waiting)
        waiting = {call.get("id") for call in message.get("tool_calls") or ()}
    _check_answered(waiting)


def _check_answered(waiting: set[str]) -> None:
    if waiting:
        raise invalid(
            "An assistant message with 'tool_calls' must be followed by tool messages responding to each "
            f"'tool_call_id'. The following tool_call_ids did not have response messages: {', '.join(waiting)}",
            param="messages",
        )


def _items(message: dict[str, Any]) -> Iterator[Item]:
    role, content = message["role"], message.get("content")
    if role in ("tool", "function"):
        output = content if isinstance(content, str) else [_part(part, role) for part in content or ()]
        yield {"type": "function_call_output", "call_id": message.get("tool_call_id"), "output": output}
        return
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content or []
    if message.get("refusal"):
        parts = [*parts, {"type": "refusal", "refusal": message["refusal"]}]
    if parts:
        yield {"type": "message", "role": role, "content": [_part(part, role) for part in parts]}
    for call in message.get("tool_calls") or ():
        if "custom" in call:
            custom = call["custom"]
            yield {
                "type": "custom_tool_call",
                "call_id": call["id"],
                "name": custom["name"],
                "input": custom["input"],
            }
        else:
            yield {"type": "function_call", "call_id": call["id"], **call["function"]}


def _part(part: dict[str, Any], role: str) -> dict[str, Any]:
    match part.get("type"):
        case "text":
            return {"type": "output_text" if role == "assistant" else "input_text", "text": part["text"]}
        case "image_url":
            image = part["image_url"]
            return {
                "type": "input_image",
                "image_url": image["url"],
                "detail": image.get("detail", "auto"),
            }
        case "file":
            return {"type": "input_file", **part["file"]}
        case _:
            return part
