"""Chat sessions: what an agent asks, turn by turn, and what the model will answer, all decided by a seed.

A `Session` knows nothing of who is asked. It is held twice, and what the agent puts into its history is made from
the answers that it got.
"""

import json  # noqa: TID251  (arguments are rewritten as other programs write them)
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from random import Random
from typing import Any, Literal

from pydantic import BaseModel

from proxy.simulator import (
    Completed,
    CustomToolCall,
    Declined,
    Failed,
    Fault,
    FunctionCall,
    Incomplete,
    Output,
    Reasoning,
    Text,
    Verbatim,
)

Raw = dict[str, Any]
Way = Literal["create", "stream", "helper", "parse"]
Echo = Callable[[Any], Any]


class Weather(BaseModel):
    """What `parse` is asked for."""

    city: str
    degrees: int


TEXTS = (
    "hello",
    "A longer answer, with punctuation: (a) one; (b) two.",
    "naïve café ☕ — 日本語 🦊",
    'quotes " and \\ backslashes\n\nand lines',
    "x" * 70,
    " ",
)
JSON_TEXTS = (
    '{"city": "Oslo", "degrees": -4}',
    '{"city":"Łódź","degrees":21}',
    '{"city": "Oslo"',
    '{"degrees": "warm"}',
)
ARGUMENTS = (
    "{}",
    '{"path": "a.py"}',
    '{"path":"b\\u00e9.py","n":1.0}',
    '{"deep": {"a": [1, 2, {"b": null}]}}',
    "{",
    "",
)
IMAGE = "data:image/png;base64,iVBORw0KGgo="
SCHEMA = {
    "type": "object",
    "properties": {"path": {"type": "string"}, "n": {"type": ["number", "null"]}},
    "required": ["path", "n"],
    "additionalProperties": False,
}
STRICT_TOOL = {"type": "function", "function": {"name": "read", "parameters": SCHEMA, "strict": True}}
TOOLS: tuple[Raw, ...] = (
    STRICT_TOOL,
    {"type": "function", "function": {"name": "list", "description": "List files.", "parameters": SCHEMA}},
    {"type": "function", "function": {"name": "now"}},
    {"type": "function", "function": {"name": "stop", "parameters": {"type": "object", "properties": {}}}},
    {"type": "function", "function": {"name": "grep", "parameters": SCHEMA, "strict": False}},
    {"type": "function", "function": {"name": "find", "parameters": SCHEMA, "strict": None}},
    {"type": "custom", "custom": {"name": "sh", "description": "Run it."}},
    {"type": "custom", "custom": {"name": "say", "format": {"type": "text"}}},
    {
        "type": "custom",
        "custom": {
            "name": "patch",
            "format": {"type": "grammar", "grammar": {"syntax": "lark", "definition": "start: /x+/"}},
        },
    },
)
FORMATS: tuple[Raw, ...] = (
    {"type": "text"},
    {"type": "json_object"},
    {"type": "json_schema", "json_schema": {"name": "weather", "schema": SCHEMA}},
    {"type": "json_schema", "json_schema": {"name": "weather", "schema": SCHEMA, "strict": True}},
    {
        "type": "json_schema",
        "json_schema": {"name": "weather", "description": "It rains.", "schema": SCHEMA, "strict": None},
    },
)
SETTINGS: dict[str, tuple[Any, ...]] = {
    "reasoning_effort": ("none", "low", "high", None),
    "verbosity": ("low", "medium", "high", None),
    "max_completion_tokens": (16, 4000, None),
    "max_tokens": (16, 999),
    "temperature": (0, 0.5, 1, 2, None),
    "top_p": (0.1, 1, None),
    "metadata": ({"run": "1", "who": "é"}, {}, None),
    "user": ("u-1",),
    "safety_identifier": ("s-1", None),
    "service_tier": ("auto", "default", "flex", "priority", None),
    "prompt_cache_key": ("k-1", None),
    "prompt_cache_retention": ("24h", None),
    "prompt_cache_options": ({"mode": "explicit"}, {"ttl": "30m"}),
    "store": (False, None),
    "logprobs": (True, False, None),
}
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "n": (1, None),
    "frequency_penalty": (0, None),
    "presence_penalty": (0, 0.0, None),
    "stop": (None,),
    "seed": (None,),
    "logit_bias": (None,),
    "modalities": (["text"], None),
}
FAULTS: tuple[Raw, ...] = (
    {"status": 400, "code": "invalid_value", "message": "No."},
    {"status": 400, "code": None, "message": "No."},
    {"status": 401, "code": "invalid_api_key"},
    {"status": 403, "code": None},
    {"status": 404, "code": "model_not_found", "message": "No such model.", "param": "model"},
    {"status": 409, "code": None},
    {"status": 429, "code": "rate_limit_exceeded", "retry_after": 3},
    {"status": 429, "code": "insufficient_quota", "headers": {"x-should-retry": "false"}},
    {"status": 500},
    {"status": 503, "code": "server_is_overloaded"},
)


@dataclass(frozen=True)
class Turn:
    """One request, and what it is answered with; *said* is what the agent adds to its history before it.

    *edit* names what the agent changes in its history before that. *after_silence* tells that the history has an
    answer of no words and no calls, which is no message to speak of.
    """

    way: Way
    said: list[Raw]
    fields: Raw
    output: Output
    echo: str
    fault: Fault | None = None
    edit: str = ""
    after_silence: bool = False


@dataclass(frozen=True)
class Session:
    """One conversation."""

    seed: int
    turns: list[Turn] = field(default_factory=list)


def session(seed: int) -> Session:
    """Return the conversation number *seed*."""
    return Session(seed, list(_Author(Random(f"chat {seed}")).turns()))


class _Author:
    """Makes up one session."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._calls = 0

    def turns(self) -> Iterator[Turn]:
        way: Way = self._random.choice(("create", "stream", "stream", "helper", "parse"))
        fields, said = self._fields(way), self._opening()
        echo = self._random.choice(list(ECHOES))
        after_silence = False
        for _ in range(self._random.choice((1, 2, 2, 3, 3, 4))):
            if self._chance(0.15):
                fields = self._fields(way)
            fault = self._fault()
            output = self._output(way, fields)
            edit = self._random.choice(("rewords the last answer", *EDITS)) if self._chance(0.25) else ""
            yield Turn(way, said, fields, output, echo, fault, edit, after_silence=after_silence)
            untold = (Reasoning, Declined) if echo == "without annotations and refusal" else Reasoning
            after_silence |= all(isinstance(part, untold) for part in output.parts)
            said = [self._user()] if self._chance(0.7) or fault else [self._user(), *self._inserted()]

    # Requests

    def _fields(self, way: Way) -> Raw:
        fields: Raw = {"model": self._random.choice(("m", "gpt-5.5"))}
        for names, share in ((SETTINGS, 0.2), (NEUTRAL, 0.08)):
            for name, values in names.items():
                if self._chance(share):
                    fields[name] = self._random.choice(values)
        if fields.get("max_tokens"):
            fields.pop("max_completion_tokens", None)
        if fields.get("logprobs") and self._chance(0.7):
            fields["top_logprobs"] = self._random.choice((0, 1, 3))
        if way == "parse":
            fields["response_format"] = Weather
        elif self._chance(0.25):
            fields["response_format"] = self._random.choice(FORMATS)
        if self._chance(0.6):
            fields |= self._tools(way)
        if way in ("stream", "helper") and self._chance(0.5):
            options = {"include_usage": self._chance(0.7), "include_obfuscation": self._chance(0.5)}
            fields["stream_options"] = {name: on for name, on in options.items() if on or self._chance(0.5)}
        return {name: value for name, value in fields.items() if value is not None or self._chance(0.5)}

    def _tools(self, way: Way) -> Raw:
        if way in ("parse", "helper"):
            tools = [STRICT_TOOL]  # the SDK takes no others there
        else:
            tools = self._random.sample(TOOLS, self._random.randint(1, 3))
        fields: Raw = {"tools": tools}
        if self._chance(0.4):
            fields["tool_choice"] = self._choice(tools)
        if self._chance(0.3):
            fields["parallel_tool_calls"] = self._chance(0.5)
        return fields

    def _choice(self, tools: list[Raw]) -> Any:
        named = [{"type": tool["type"], tool["type"]: {"name": tool[tool["type"]]["name"]}} for tool in tools]
        allowed = {"mode": self._random.choice(("auto", "required")), "tools": named[:2]}
        return self._random.choice(
            ("auto", "none", "required", named[0], named[-1], {"type": "allowed_tools", "allowed_tools": allowed})
        )

    def _opening(self) -> list[Raw]:
        roles = [role for role in ("system", "developer") if self._chance(0.4)]
        opening = [{"role": role, "content": self._texts()} for role in roles]
        if self._chance(0.2):
            opening += [self._user(), self._assistant()]
        if self._chance(0.1):
            opening += [self._user(), *self._used_tools()]
        return [*opening, self._user(), *(self._inserted() if self._chance(0.1) else ())]

    def _user(self) -> Raw:
        content = self._texts()
        if isinstance(content, list):
            for _ in range(self._random.choice((0, 1, 2))):
                content.insert(self._random.randint(0, len(content)), self._media())
        return {"role": "user", "content": content}

    def _texts(self) -> Any:
        if self._chance(0.6):
            return self._text()
        return [{"type": "text", "text": self._text()} for _ in range(self._random.choice((1, 1, 2, 3)))]

    def _media(self) -> Raw:
        details: list[Raw] = [{}, {"detail": "low"}, {"detail": "high"}, {"detail": "auto", "format": "image/png"}]
        images = [{"type": "image_url", "image_url": {"url": IMAGE, **detail}} for detail in details]
        files: list[Raw] = [
            {"type": "file", "file": {"file_id": "file-1"}},
            {"type": "file", "file": {"file_data": "data:text/plain;base64,aGk=", "filename": "a.txt"}},
        ]
        audio = {"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}}
        return self._random.choice([*images, *files, audio])

    def _assistant(self) -> Raw:
        refusal = {"role": "assistant", "content": None, "refusal": "I would rather not."}
        parts: list[Raw] = [{"type": "text", "text": self._text()}, {"type": "refusal", "refusal": "Not that."}]
        return self._random.choice(
            [
                {"role": "assistant", "content": self._text()},
                {"role": "assistant", "content": parts[:1]},
                {"role": "assistant", "content": parts},
                refusal,
            ]
        )

    def _used_tools(self) -> Iterator[Raw]:
        self._calls += 2
        one, other = f"old_{self._calls}", f"old_{self._calls + 1}"
        calls = [
            {"id": one, "type": "function", "function": {"name": "read", "arguments": "{}"}},
            {"id": other, "type": "custom", "custom": {"name": "sh", "input": "ls"}},
        ]
        yield {"role": "assistant", "content": self._random.choice((None, "", "Let me see.")), "tool_calls": calls}
        for call_id in self._random.sample((one, other), 2):
            yield {"role": "tool", "tool_call_id": call_id, "content": self._texts()}

    def _inserted(self) -> Iterator[Raw]:
        """Yield what agents put between their turns."""
        yield {"role": self._random.choice(("system", "developer", "user")), "content": self._texts()}

    # Answers

    def _output(self, way: Way, fields: Raw) -> Output:
        tools = fields.get("tools") or ()
        makers: list[Callable[[], Any]] = [lambda: Text(self._answer(way, fields))]
        if tools:
            makers += [lambda: self._call(self._random.choice(tools))] * 2
        shape = self._random.random()
        if shape < 0.04:
            parts: list[Any] = []
        elif shape < 0.12:
            parts = [Declined(self._random.choice(("I can't.", "Nein, das geht nicht. 🙅")))]
        elif shape < 0.16:
            pieces = ("one ", "two")
            texts: list[Any] = [{"type": "output_text", "text": text, "annotations": []} for text in pieces]
            parts = [Verbatim({"type": "message", "role": "assistant", "status": "completed", "content": texts})]
        elif shape < 0.75:
            parts = [makers[0]()] if self._chance(0.6) or not tools else []
            parts += [makers[-1]() for _ in range(self._random.choice((0, 1, 1, 2, 3)))] if tools else []
        else:
            parts = [self._random.choice(makers)() for _ in range(self._random.choice((1, 2, 3, 4)))]
        if self._chance(0.3):
            parts.insert(0, Reasoning(self._random.choice(((), ("Hm.",), ("One.", "Two.")))))
        return Output(tuple(parts), self._finish(), delta_size=self._random.choice((4, 9, 24, 1000)))

    def _answer(self, way: Way, fields: Raw) -> str:
        wants_json = way == "parse" or fields.get("response_format", FORMATS[0])["type"] != "text"
        return self._random.choice(JSON_TEXTS) if wants_json else self._text()

    def _call(self, tool: Raw) -> Any:
        self._calls += 1
        call_id, kind = f"call_{self._calls}", tool["type"]
        if kind == "custom":
            return CustomToolCall(tool["custom"]["name"], self._text(), call_id)
        return FunctionCall(tool["function"]["name"], self._random.choice(ARGUMENTS), call_id)

    def _finish(self) -> Any:
        if self._chance(0.8):
            return Completed()
        failed = [Failed(), Failed("server_error", "Broken."), Failed("rate_limit_exceeded", "Slow.")]
        return self._random.choice([Incomplete(), Incomplete(), Incomplete("content_filter"), *failed])

    def _fault(self) -> Fault | None:
        if self._chance(0.93):
            return None
        if self._chance(0.5):
            return Fault("before_created", "error", times=None, **self._random.choice(FAULTS))
        return Fault(
            "after_events", "error", events=self._random.randint(1, 6), message="Interrupted.", times=None
        )

    def _text(self) -> str:
        return self._random.choice(TEXTS)

    def _chance(self, share: float) -> bool:
        return self._random.random() < share


# How agents change what was said


def _last(history: list[Any], *roles: str) -> int | None:
    return next((index for index in reversed(range(len(history))) if _role(history[index]) in roles), None)


def _role(message: Any) -> Any:
    return message["role"] if isinstance(message, dict) else message.role


def _changed(message: Any, **changes: Any) -> Raw:
    return {**(message if isinstance(message, dict) else bare(message)), **changes}


def _reword(history: list[Any]) -> list[Any]:
    index = _last(history, "assistant")
    if index is None or not _changed(history[index]).get("content"):
        return history
    return [*history[:index], _changed(history[index], content="Something else."), *history[index + 1 :]]


def _call_otherwise(history: list[Any]) -> list[Any]:
    index = _last(history, "assistant")
    calls = _changed(history[index]).get("tool_calls") if index is not None else None
    if index is None or not calls or "function" not in calls[0]:
        return history
    other = {**calls[0], "function": {**calls[0]["function"], "arguments": '{"other": 1}'}}
    return [*history[:index], _changed(history[index], tool_calls=[other, *calls[1:]]), *history[index + 1 :]]


def _rewind(history: list[Any]) -> list[Any]:
    return history[: _last(history, "assistant")]


def _forget_the_beginning(history: list[Any]) -> list[Any]:
    return history[1:] if len(history) > 1 and _role(history[0]) != "assistant" else history


def _change_a_result(history: list[Any]) -> list[Any]:
    index = _last(history, "tool", "user")
    if index is None:
        return history
    return [*history[:index], {**history[index], "content": "Not that, but this."}, *history[index + 1 :]]


EDITS: dict[str, Callable[[list[Any]], list[Any]]] = {
    "": lambda history: history,
    "rewords the last answer": _reword,
    "changes the last call": _call_otherwise,
    "rewinds to before the last answer": _rewind,
    "forgets the beginning": _forget_the_beginning,
    "changes the last result": _change_a_result,
}


# How agents put the answer into their history


def _without(*names: str) -> Echo:
    return lambda message: {name: value for name, value in bare(message).items() if name not in names}


def bare(message: Any) -> Raw:
    """Return *message* with what it came with, and nothing else."""
    dumped: Raw = message.model_dump(exclude_unset=True, warnings=False)
    return dumped


def _empty_for_null(message: Any) -> Raw:
    return {**bare(message), "content": message.content or ""}


def _parts(message: Any) -> Raw:
    if not message.content:
        return bare(message)
    return {**bare(message), "content": [{"type": "text", "text": message.content}]}


def _rewritten(message: Any) -> Raw:
    echo = bare(message)
    for call in echo.get("tool_calls") or ():
        if "function" in call:
            try:
                value = json.loads(call["function"]["arguments"] or "{}")
            except ValueError:
                continue
            call["function"]["arguments"] = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    return echo


def _helper(message: Any) -> Raw:
    """Write the nulls and the bookkeeping that the streaming helper leaves in its message."""
    echo = {**bare(message), "parsed": None, "audio": None, "function_call": None}
    for index, call in enumerate(echo.get("tool_calls") or ()):
        call["index"] = index
        if "function" in call:
            call["function"]["parsed_arguments"] = None
    return echo


ECHOES: dict[str, Echo] = {
    "the object itself": lambda message: message,
    "as it came": bare,
    "with every null": lambda message: message.model_dump(warnings=False),
    "without nulls": lambda message: message.model_dump(exclude_none=True, warnings=False),
    "content empty instead of null": _empty_for_null,
    "content in parts": _parts,
    "arguments rewritten": _rewritten,
    "with reasoning_content": lambda message: {**bare(message), "reasoning_content": ""},
    "without annotations and refusal": _without("annotations", "refusal"),
    "as the streaming helper leaves it": _helper,
}
