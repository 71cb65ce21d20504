"""Agent script: plays the model for a real coding agent, with harmless calls of the agent's own tools."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import orjson

from proxy.simulator.model import (
    Compaction,
    CustomToolCall,
    FunctionCall,
    Item,
    ModelCall,
    Output,
    Part,
    Reasoning,
    Script,
    Text,
    says,
)

PATCH = "*** Begin Patch\n*** End Patch"
"""Patches nothing."""
RISKY = ("delete", "remove", "write", "edit", "create", "move", "replace", "patch", "kill", "send", "submit")
"""Words in the names of tools that are not called with made-up arguments."""
KNOWN_ARGUMENTS: dict[str, dict[str, Any]] = {
    "exec_command": {"cmd": "ls"},
    "shell": {"command": ["bash", "-lc", "ls"]},
    "shell_command": {"command": "ls"},
    "bash": {"command": "ls", "description": "List the files"},
    "Bash": {"command": "ls", "description": "List the files"},
    "run_shell_command": {"command": "ls", "is_background": False, "description": "List the files"},
    "run_commands": {"commands": ["ls"]},
    "execute_command": {"command": "ls", "requires_approval": False},
    "execute_bash": {"command": "ls"},
    "exec": {"command": "ls"},
    "terminal": {"command": "ls"},
    "list_files": {"path": "."},
    "list_directory": {"path": "."},
    "List": {"dirpath": "."},
    "ls": {"path": "."},
    "list": {"path": "."},
    "glob": {"pattern": "*"},
    "view": {"path": "."},
    "read": {"path": "README.md", "filePath": "README.md"},
    "Read": {"filepath": "README.md"},
    "read_file": {"path": "README.md", "absolute_path": "README.md"},
    "read_files": {"paths": ["README.md"]},
}
"""Harmless arguments for the tools of well-known agents; the first of these tools that an agent has is used.

``ls`` stands for a shell command that differs from call to call: several agents (Qwen Code, Cline) stop a model
that repeats itself.
"""
KNOWN_INPUTS = {"exec": "text(await tools.exec_command({cmd: %s}))"}
"""The same for custom tools: Codex has one that runs JavaScript, where it has no other."""
BENIGN: dict[str, Any] = {"string": ".", "integer": 1, "number": 1, "boolean": False, "array": [], "object": {}}


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool that can be called: *schema* is None for custom tools, *namespace* for those that are in none."""

    name: str
    schema: dict[str, Any] | None
    namespace: str | None = None


def agent_script(*, tool_turns: int = 3, reasoning: bool = True, answer: str = "Done: all is well.") -> Script:
    """Return a script that calls a tool *tool_turns* times after each user message, then answers.

    Requests without tools (for a title, a summary) get a short text.
    """

    def script(call: ModelCall) -> Output:
        if call.context and call.context[-1].get("type") == "compaction_trigger":
            return Output((Compaction(),))
        tool = choose_tool(call.request, call.context)
        if tool is None:
            return says("A simulated conversation")
        done = outputs_since_user(call.context)
        thought: tuple[Part, ...] = (Reasoning(("**Looking around**",)),) if reasoning else ()
        if done >= tool_turns:
            return Output((*thought, Text(answer, "final_answer")))
        return Output((*thought, call_of(tool, step=done + 1)))

    return script


def outputs_since_user(context: tuple[Item, ...]) -> int:
    """Count the tool outputs after the last user message."""
    count = 0
    for item in reversed(context):
        if item.get("role") == "user":
            return count
        count += str(item.get("type")).endswith("_output")
    return count


def choose_tool(request: dict[str, Any], context: tuple[Item, ...]) -> Tool | None:
    """Return the tool to call: a known one if there is any, else one that sounds harmless, else none."""
    tools = list(_tools(request.get("tools") or ()))
    for item in context:
        if item.get("type") == "additional_tools":
            tools += _tools(item["tools"])
    named = {tool.name: tool for tool in reversed(tools)}
    known = next((named[name] for name in (*KNOWN_ARGUMENTS, *KNOWN_INPUTS) if name in named), None)
    harmless = [tool for tool in tools if tool.schema is None or not any(word in tool.name for word in RISKY)]
    harmless.sort(key=lambda tool: tool.schema is None)
    return known or next(iter(harmless), None)


def call_of(tool: Tool, *, step: int = 1) -> Part:
    """Return a harmless call of *tool*; a shell command names its *step*, and so does its output."""
    if tool.schema is None:
        return CustomToolCall(tool.name, _input(tool.name, step), namespace=tool.namespace)
    properties = tool.schema.get("properties") or {}
    known = KNOWN_ARGUMENTS.get(tool.name, {})
    arguments = {
        name: _fitting(_at(step, value), properties[name]) for name, value in known.items() if name in properties
    }
    for name in tool.schema.get("required") or ():
        if name not in arguments:
            arguments[name] = _benign(properties.get(name) or {})
    return FunctionCall(tool.name, orjson.dumps(arguments).decode(), namespace=tool.namespace)


def _input(name: str, step: int) -> str:
    if name in KNOWN_INPUTS:
        return KNOWN_INPUTS[name] % orjson.dumps(_at(step, "ls")).decode()
    return PATCH if "patch" in name else "ls"


def _tools(tools: Any, namespace: str | None = None) -> Iterator[Tool]:
    for tool in tools:
        kind = tool.get("type")
        described = tool.get(kind) if isinstance(tool.get(kind), dict) else tool
        if kind == "function":
            yield Tool(described["name"], described.get("parameters") or {}, namespace)
        elif kind == "custom":
            yield Tool(described["name"], None, namespace)
        elif kind == "namespace":
            yield from _tools(tool.get("tools") or (), tool["name"])


def _at(step: int, value: Any) -> Any:
    if isinstance(value, list):
        return [_at(step, each) for each in value]
    return f"echo step {step} && ls" if value == "ls" else value


def _fitting(value: Any, schema: dict[str, Any]) -> Any:
    """Return *value* as *schema* wants it: agents differ in whether a tool takes a command line or its words."""
    if isinstance(value, list) and schema.get("type") == "string":
        return value[-1]
    if isinstance(value, str) and schema.get("type") == "array":
        return [value]
    return value


def _benign(schema: dict[str, Any]) -> Any:
    if schema.get("enum"):
        return schema["enum"][0]
    if "default" in schema:
        return schema["default"]
    for choice in ("anyOf", "oneOf"):
        if schema.get(choice):
            return _benign(schema[choice][0])
    kind = schema.get("type", "string")
    if isinstance(kind, list):
        kind = kind[0]
    if kind == "object":
        properties = schema.get("properties") or {}
        return {name: _benign(properties.get(name) or {}) for name in schema.get("required") or ()}
    if kind == "array" and schema.get("minItems"):
        return [_benign(schema.get("items") or {})]
    return BENIGN.get(kind)
