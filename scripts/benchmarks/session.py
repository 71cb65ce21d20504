"""A coding session of the shape that real agents send, generated: no recorded or third-party text.

Settings (instructions and tools) are sent again with every turn, reasoning comes back as ciphertext that does
not compress, and tool outputs look like source code and listings: some words often, most of them rarely.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import orjson
from shapes import Shape
from writer import Project, Writer

from proxy.simulator import FunctionCall, ModelCall, Output, Reasoning, Script, Text

Item = dict[str, Any]
Body = dict[str, Any]

MODEL = "gpt-5.5"
_EFFECT = {"l": 0.6, "s": 0.7, "r": 1.6, "e": 0.9, "t": 0.8}
"""How much longer or shorter than usual the output of each kind of tool is."""


class Session:
    """One agent and its model, of *shape*; *turns* and *settings* override it."""

    def __init__(
        self, shape: Shape | None = None, *, turns: int | None = None, settings: int | None = None, seed: int
    ) -> None:
        shape = shape or Shape(name="plain", settings=26_000, turns=20, output=3500)
        shape = replace(shape, turns=turns or shape.turns, settings=settings or shape.settings)
        self.shape = shape
        self.turns = shape.turns
        self._writer = Writer(f"{shape.name}/{seed}")
        self.fields: Body = {
            "model": shape.model,
            "tool_choice": "auto",
            "parallel_tool_calls": True,
            "reasoning": {"effort": "medium", "summary": "auto"},
            "include": ["reasoning.encrypted_content"],
            "store": False,
            "stream": shape.stream,
            "prompt_cache_key": f"session-{seed}",
            **shape.fields,
        }
        self.prompt = _message("user", self._writer.prose(600))
        self.opening: list[Item] = []
        self._noted = ""
        self._tell()
        self.opening.append(self.prompt)
        project = Project(self._writer)
        kinds = [shape.steps[n % len(shape.steps)] for n in range(self.turns - 1)]
        weights = [_EFFECT[kind] * self._writer.random.choice((0.4, 0.8, 1.0, 1.8)) for kind in kinds]
        usual = shape.output * len(kinds) / sum(weights)
        worked = [project.work(kind, int(usual * weight)) for kind, weight in zip(kinds, weights, strict=True)]
        self._arguments = [_spaced(arguments) for arguments, _ in worked]
        self.outputs = [output for _, output in worked]

    @property
    def settings_size(self) -> int:
        """Bytes of everything that is sent again with each turn."""
        return len(orjson.dumps(self.body([]))) - len(b',"input":[]')

    def body(self, history: list[Item]) -> Body:
        """Return the request that sends *history*."""
        if self.shape.api == "chat":
            return self._chat(history)
        extra = {"client_metadata": self._metadata()} if self.shape.metadata else {}
        return {**self.fields, **extra, "input": history}

    def script(self) -> Script:
        """Return the model: a tool call a turn, and an answer at the end."""
        turn: Iterator[int] = iter(range(self.turns))
        size = self.shape.reasoning

        def answer(_call: ModelCall) -> Output:
            number = next(turn)
            if number == self.turns - 1:
                return Output((Reasoning(size=size), Text(self.prompt["content"][0]["text"])))
            return Output((Reasoning(size=size), FunctionCall("run", self._arguments[number])))

        return answer

    def echo(self, output: list[Item]) -> list[Item]:
        """Return what the model said, *output*, as this agent repeats it in its history."""
        return [said for item in output if (said := self._said(item)) is not None]

    def results(self, number: int, output: list[Item]) -> list[Item]:
        """Return what the tools say to the calls in *output*, the answer to request *number*."""
        calls = [item for item in output if item["type"] == "function_call"]
        return [
            {"type": "function_call_output", "call_id": call["call_id"], "output": self.outputs[number]}
            for call in calls
        ]

    # What is told

    def _tell(self) -> None:
        """Place instructions and tools; what is sent again with each turn comes to the shape's settings."""
        shape, writer = self.shape, self._writer
        around = len(orjson.dumps(self.body([])))
        if shape.told == "settings":
            instructions = shape.instructions or shape.settings // 3
            self.fields["tools"] = writer.tools(shape.settings - around - instructions)
            room = shape.settings - around - len(orjson.dumps(self.fields["tools"]))
            self.fields["instructions"] = writer.prose(max(100, room - 30))
        elif shape.told == "instructions in input":
            self.fields["tools"] = writer.tools(shape.settings - around)
        else:
            self.fields["text"] = {"verbosity": "low"}
            self._noted = writer.prose(max(0, shape.settings - len(orjson.dumps(self.body([])))))
            tools = writer.tools(shape.opening * 2 // 5)
            self.opening.append({"type": "additional_tools", "role": "developer", "tools": tools})
        if shape.told != "settings":
            said = len(orjson.dumps(self.opening))
            self.opening.append(_message("developer", writer.prose(max(0, (shape.opening - said) * 4 // 5))))
        said = len(orjson.dumps(self.opening))
        self.opening.append(_message("user", writer.prose(max(100, shape.opening - said - 700))))

    def _metadata(self) -> dict[str, str]:
        """Return what the agent says of itself, in an order that changes with every request."""
        pairs = [
            ("session_id", "019a-benchmark-session"),
            ("thread_id", "019a-benchmark-session"),
            ("turn_id", "019a-benchmark-turn-1"),
            ("root_turn_id", "019a-benchmark-turn-1"),
            ("x-codex-window-id", "019a-benchmark-session:0"),
            ("x-codex-installation-id", "7d0e6b1c-3f2a-4a57-9d55-0c1f6f3a9a01"),
            ("x-codex-turn-metadata", f"turn_started_at=1793000000 sandbox=none {self._noted}"),
        ]
        self._writer.random.shuffle(pairs)
        return dict(pairs)

    # What is repeated

    def _said(self, item: Item) -> Item | None:
        echo = self.shape.echo
        if item["type"] == "reasoning":
            if echo.reasoning == "dropped":
                return None
            gone = {"id"} if echo.reasoning == "without id" else set()
            return _without(item, gone, reordered=echo.reordered)
        said = _without(item, set(echo.left_out), reordered=echo.reordered)
        if item["type"] == "message" and echo.left_out:
            said["content"] = [_without(part, set(echo.left_out)) for part in item["content"]]
        if item["type"] == "function_call" and echo.compact:
            said["arguments"] = orjson.dumps(orjson.loads(item["arguments"])).decode()
        return said

    # The same in Chat Completions

    def _chat(self, history: list[Item]) -> Body:
        names = ("model", "tool_choice", "parallel_tool_calls", "store", "stream", "prompt_cache_key")
        body: Body = {name: self.fields[name] for name in names}
        body["reasoning_effort"] = "medium"
        body["stream_options"] = {"include_usage": True}
        instructions = self.fields.get("instructions", "")
        body["messages"] = [{"role": "system", "content": instructions}, *map(_chat_message, history)]
        tools = self.fields.get("tools", [])
        body["tools"] = [
            {"type": "function", "function": {key: value for key, value in tool.items() if key != "type"}}
            for tool in tools
        ]
        return body


def _message(role: str, text: str) -> Item:
    return {"type": "message", "role": role, "content": [{"type": "input_text", "text": text}]}


def _spaced(arguments: dict[str, Any]) -> str:
    """Return JSON as models write it, with a space after colons and commas."""
    pairs = (f"{orjson.dumps(key).decode()}: {orjson.dumps(value).decode()}" for key, value in arguments.items())
    return "{" + ", ".join(pairs) + "}"


def _without(item: Item, keys: set[str], *, reordered: bool = False) -> Item:
    kept = [(key, value) for key, value in item.items() if key not in keys]
    return dict(sorted(kept) if reordered else kept)


def _chat_message(item: Item) -> Item:
    match item["type"]:
        case "function_call_output":
            return {"role": "tool", "tool_call_id": item["call_id"], "content": item["output"]}
        case "function_call":
            function = {"name": item["name"], "arguments": item["arguments"]}
            call = {"id": item["call_id"], "type": "function", "function": function}
            return {"role": "assistant", "content": "", "tool_calls": [call]}
        case _:
            return {"role": item["role"], "content": "".join(part["text"] for part in item["content"])}
