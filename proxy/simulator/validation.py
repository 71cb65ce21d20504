"""Validation: whether input items are well formed, and whether a whole context makes sense."""

from collections.abc import Iterable, Sequence
from typing import Any

from proxy.simulator.apierror import invalid, missing, unsupported
from proxy.simulator.model import Item

ROLES = ("assistant", "system", "developer", "user")
USER_PARTS = ("input_text", "input_image", "input_file", "input_audio")
ASSISTANT_PARTS = ("output_text", "refusal")
REQUIRED: dict[str, tuple[str, ...]] = {
    "message": ("role", "content"),
    "function_call": ("call_id", "name", "arguments"),
    "function_call_output": ("call_id", "output"),
    "custom_tool_call": ("call_id", "name", "input"),
    "custom_tool_call_output": ("call_id", "output"),
    "reasoning": ("summary",),
    "item_reference": ("id",),
    "compaction": ("encrypted_content",),
    "compaction_trigger": (),
    "configuration_update": (),
    "additional_tools": ("tools",),
    "tool_search_call": (),
    "tool_search_output": (),
    "web_search_call": (),
    "file_search_call": (),
    "code_interpreter_call": (),
    "computer_call": ("call_id",),
    "computer_call_output": ("call_id", "output"),
    "local_shell_call": ("call_id",),
    "local_shell_call_output": ("output",),
    "shell_call": ("call_id",),
    "shell_call_output": ("call_id", "output"),
    "apply_patch_call": ("call_id",),
    "apply_patch_call_output": ("call_id",),
    "image_generation_call": (),
    "mcp_list_tools": (),
    "mcp_approval_request": (),
    "mcp_approval_response": (),
    "mcp_call": (),
    "program": (),
    "program_output": (),
}
ANSWERED_CALLS = {
    "function_call": "function call",
    "custom_tool_call": "custom tool call",
    "computer_call": "computer call",
    "shell_call": "shell call",
    "apply_patch_call": "apply patch call",
}


def input_items(value: Any) -> list[Item]:
    """Return the items of an ``input`` field, each with its type; raise ApiError if one is malformed."""
    if value is None:
        return []
    if isinstance(value, str):
        return [{"type": "message", "role": "user", "content": value}]
    if not isinstance(value, list):
        message = "Invalid type for 'input': expected one of an array of objects or string."
        raise invalid(message, param="input", code="invalid_type")
    return [_checked(item, f"input[{index}]") for index, item in enumerate(value)]


def check_context(context: Sequence[Item], *, generate: bool, refuse_duplicates: bool = True) -> None:
    """Raise ApiError for an id that appears twice, and for calls and outputs without their counterpart."""
    if refuse_duplicates:
        _check_ids(context)
    open_calls: dict[str, str] = {}
    seen: set[tuple[str, str]] = set()
    for item in context:
        kind, call_id = str(item.get("type")), str(item.get("call_id"))
        if kind in ANSWERED_CALLS:
            seen.add((kind, call_id))
            open_calls[call_id] = ANSWERED_CALLS[kind]
            continue
        call = kind.removesuffix("_output")
        if call == kind or call not in ANSWERED_CALLS:
            continue
        if (call, call_id) not in seen:
            words = ANSWERED_CALLS[call]
            raise invalid(f"No tool call found for {words} output with call_id {call_id}.", param="input")
        open_calls.pop(call_id, None)
    if generate and open_calls:
        call_id, words = next(iter(open_calls.items()))
        raise invalid(f"No tool output found for {words} {call_id}.", param="input")


def _check_ids(context: Iterable[Item]) -> None:
    ids: set[str] = set()
    for item in context:
        item_id = item.get("id")
        if item_id in ids:
            raise invalid(
                f"Duplicate item found with id {item_id}. Remove duplicate items from your input and try again.",
                param="input",
            )
        if item_id:
            ids.add(item_id)


def _checked(item: Any, place: str) -> Item:
    if not isinstance(item, dict):
        raise invalid(f"Invalid type for '{place}': expected an object.", param=place, code="invalid_type")
    typed = item if item.get("type") else {**item, "type": "message"}
    kind = typed["type"]
    if kind not in REQUIRED:
        raise unsupported(kind, REQUIRED, f"{place}.type")
    for name in REQUIRED[kind]:
        if typed.get(name) is None:
            raise missing(f"{place}.{name}")
    if kind == "message":
        _check_message(typed, place)
    return typed


def _check_message(item: Item, place: str) -> None:
    role, content = item["role"], item["content"]
    if role not in ROLES:
        raise unsupported(role, ROLES, f"{place}.role")
    if isinstance(content, str):
        return
    if not isinstance(content, list):
        message = f"Invalid type for '{place}.content': expected one of an array of objects or string."
        raise invalid(message, param=f"{place}.content", code="invalid_type")
    allowed = ASSISTANT_PARTS if role == "assistant" else USER_PARTS
    for index, part in enumerate(content):
        kind = part.get("type") if isinstance(part, dict) else None
        if kind not in allowed:
            raise unsupported(kind, allowed, f"{place}.content[{index}].type")
