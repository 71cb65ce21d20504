"""What the simulated model says."""

from typing import Any

import orjson
import pytest
from dialogue import Simulate, Talk, texts, tool_output, user

from proxy.simulator import Compaction, FunctionCall, ModelCall, Output, agent_script, echo_script, says, scripted
from proxy.simulator.agent import call_of, choose_tool
from proxy.simulator.model import CustomToolCall


def function(
    name: str, properties: dict[str, Any] | None = None, required: list[str] | None = None
) -> dict[str, Any]:
    """Return a function tool."""
    parameters = {"type": "object", "properties": properties or {}, "required": required or []}
    return {"type": "function", "name": name, "parameters": parameters, "strict": False}


def called(*tools: dict[str, Any], context: tuple[dict[str, Any], ...] = ()) -> tuple[str, Any]:
    """Return the call that the agent script makes with *tools*."""
    tool = choose_tool({"tools": list(tools)}, context)
    assert tool is not None
    part = call_of(tool)
    if isinstance(part, CustomToolCall):
        return part.name, part.input
    assert isinstance(part, FunctionCall)
    return part.name, orjson.loads(part.arguments)


async def test_scripted_outputs_come_in_order(simulate: Simulate, talk: Talk) -> None:
    """Texts, outputs and functions."""

    def counted(call: ModelCall) -> Output:
        return says(f"{call.number} {call.transport} {call.endpoint}")

    dialogue = await talk(await simulate(scripted(["a", says("b"), counted])))
    said = [texts(await dialogue.create()) for _ in range(3)]
    assert said == ["a", "b", "2 ws responses"]


async def test_the_script_can_be_exchanged(simulate: Simulate, talk: Talk) -> None:
    """While the simulator runs."""
    simulator = await simulate()
    assert simulator.script is echo_script
    simulator.script = scripted(["new"])
    assert texts(await (await talk(simulator)).create()) == "new"


def test_the_echo_shows_a_wrong_context() -> None:
    """Another context gives another text."""

    def said(*context: dict[str, Any]) -> str:
        (part,) = echo_script(ModelCall({}, context, 0)).parts
        return repr(part)

    assert said(user("a"), user("b")) == said(user("a"), user("b"))
    assert len({said(user("a")), said(user("b")), said(user("a"), user("b"))}) == 3


@pytest.mark.parametrize(
    ("tool", "arguments"),
    [
        (function("exec_command", {"cmd": {}, "yield_time_ms": {}}, ["cmd"]), {"cmd": "echo step 1 && ls"}),
        (
            function("shell", {"command": {"type": "array"}}, ["command"]),
            {"command": ["bash", "-lc", "echo step 1 && ls"]},
        ),
        (
            function("bash", {"command": {}, "description": {}}, ["command", "description"]),
            {"command": "echo step 1 && ls", "description": "List the files"},
        ),
        (function("read", {"filePath": {}}, ["filePath"]), {"filePath": "README.md"}),
        (function("list_directory", {"path": {}}, ["path"]), {"path": "."}),
    ],
)
def test_known_tools_get_harmless_arguments(tool: dict[str, Any], arguments: dict[str, Any]) -> None:
    """The tools of well-known agents are called with what their schemas take, before unknown ones."""
    assert called(function("unknown"), tool) == (tool["name"], arguments)


def test_unknown_tools_get_what_their_schema_needs() -> None:
    """Required properties of every kind get a benign value."""
    properties = {
        "text": {"type": "string"},
        "count": {"type": "integer"},
        "flag": {"type": ["boolean", "null"]},
        "choice": {"enum": ["first", "second"]},
        "preset": {"default": 7},
        "either": {"anyOf": [{"type": "number"}, {"type": "null"}]},
        "other": {"oneOf": [{"type": "string"}]},
        "many": {"type": "array", "items": {"type": "string"}, "minItems": 1},
        "none": {"type": "array"},
        "deep": {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a", "b"]},
        "nothing": {"type": "null"},
        "optional": {},
    }
    required = [name for name in properties if name != "optional"]
    assert called(function("odd", properties, [*required, "undescribed"])) == (
        "odd",
        {
            "text": ".",
            "count": 1,
            "flag": False,
            "choice": "first",
            "preset": 7,
            "either": 1,
            "other": ".",
            "many": ["."],
            "none": [],
            "deep": {"a": 1, "b": "."},
            "nothing": None,
            "undescribed": ".",
        },
    )


def test_other_kinds_of_tools() -> None:
    """Custom tools get text, functions are preferred, hosted ones are left alone."""
    patch, free = {"type": "custom", "name": "apply_patch"}, {"type": "custom", "custom": {"name": "sh"}}
    assert called(patch)[1].startswith("*** Begin Patch")
    assert called(free) == ("sh", "ls")
    assert called(patch, function("x"))[0] == "x"
    assert choose_tool({"tools": [function("delete_everything")]}, ()) is None
    assert called({"type": "function", "function": {"name": "nested"}}) == ("nested", {})
    additional = {"type": "additional_tools", "role": "developer", "tools": [function("added")]}
    assert called(context=(additional,))[0] == "added"
    assert choose_tool({"tools": [{"type": "web_search"}, {"type": "namespace", "name": "mcp"}]}, ()) is None


async def test_tools_in_a_namespace_are_called_there(simulate: Simulate, talk: Talk) -> None:
    """As Codex has them for its newer models, in an item of the input."""
    script_tool = {"type": "custom", "name": "exec"}
    tools = [
        {"type": "namespace", "name": "functions", "tools": [function("wait"), script_tool]},
        {"type": "namespace", "name": "clock", "tools": [function("sleep")]},
    ]
    dialogue = await talk(await simulate(agent_script(tool_turns=1)))
    given = {"type": "additional_tools", "role": "developer", "tools": tools}
    call = (await dialogue.complete([given, user("go")]))["output"][-1]
    assert call["type"] == "custom_tool_call"
    assert (call["namespace"], call["name"]) == ("functions", "exec")
    assert call["input"] == 'text(await tools.exec_command({cmd: "echo step 1 && ls"}))'
    tool = choose_tool({"tools": tools[1:]}, ())
    assert tool is not None
    assert call_of(tool) == FunctionCall("sleep", "{}", namespace="clock")


def test_a_command_is_a_text_or_words_as_the_tool_has_it() -> None:
    """Code Puppy and gptme have a shell that takes a text, where Codex's takes a list."""
    listing = "echo step 1 && ls"
    text, words = {"command": {"type": "string"}}, {"command": {"type": "array", "items": {"type": "string"}}}
    assert called(function("shell", text, ["command"])) == ("shell", {"command": listing})
    assert called(function("shell", words, ["command"])) == ("shell", {"command": ["bash", "-lc", listing]})
    assert called(function("bash", words, ["command"])) == ("bash", {"command": [listing]})


@pytest.mark.parametrize("name", ["exec", "terminal", "execute_bash"])
def test_a_shell_is_known_under_many_names(name: str) -> None:
    """OpenClaw, Hermes and Nanocoder name theirs so; it is preferred to their other tools."""
    shell = function(name, {"command": {"type": "string"}}, ["command"])
    assert called(function("clarify"), function("read"), shell) == (name, {"command": "echo step 1 && ls"})


async def test_an_agent_session_runs_to_its_answer(simulate: Simulate, talk: Talk) -> None:
    """So many tool calls after each user message, then an answer; a title for requests without tools."""
    dialogue = await talk(await simulate(agent_script(tool_turns=2, answer="Done.")))
    tools = [function("bash", {"command": {}}, ["command"])]
    response, calls = await dialogue.complete([user("go")], tools=tools), 0
    for prompt in ("again", None):
        while (call := response["output"][-1])["type"] == "function_call":
            calls += 1
            said = [tool_output(call["call_id"])]
            response = await dialogue.complete(said, tools=tools, previous_response_id=response["id"])
        assert response["output"][-1]["content"][0]["text"] == "Done."
        assert response["output"][0]["type"] == "reasoning"
        if prompt:
            response = await dialogue.complete([user(prompt)], tools=tools, previous_response_id=response["id"])
    assert calls == 4
    assert texts(await dialogue.create()) == "A simulated conversation"


def test_a_compaction_trigger_gets_a_compaction() -> None:
    """The only item of the answer, as agents expect it."""
    output = agent_script()(ModelCall({}, (user("a"), {"type": "compaction_trigger"}), 0))
    assert output.parts == (Compaction(),)


def test_an_agent_script_without_reasoning() -> None:
    """Reasoning can be left out."""
    script = agent_script(tool_turns=0, reasoning=False)
    output = script(ModelCall({"tools": [function("x")]}, (user("a"),), 0))
    assert len(output.parts) == 1
