"""Agents that speak Chat Completions: what they read in an answer, and how they write it down."""

import json  # noqa: TID251  (some agents write arguments as Python's json does)
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import orjson
from echo import like_javascript, like_python
from meaning import Raw

Style: TypeAlias = Callable[[Raw], list[Raw]]
"""From an answer's message, as an SDK gives it, to the messages of the agent's history."""

WRITTEN = {"function": "arguments", "custom": "input"}
"""What the model wrote for a call, by the call's type."""


@dataclass
class Heard:
    """What an SDK makes of the bytes of an answer. *broken* where it raises, *ended* after the stream's end."""

    name: str = ""
    text: str = ""
    refusal: str = ""
    calls: list[Raw] = field(default_factory=list)
    finish: str | None = None
    broken: bool = False
    ended: bool = False

    @property
    def message(self) -> Raw:
        """The message, as SDKs have it."""
        message = {"role": "assistant", "content": self.text or None, "refusal": self.refusal or None}
        return {**message, "annotations": [], **({"tool_calls": self.calls} if self.calls else {})}


def streamed(body: bytes) -> Heard:
    """Read chunks: words add up, calls by their index."""
    heard = Heard()
    for record in body.split(b"\n\n")[:-1]:
        assert record.startswith(b"data: "), record
        assert (heard.ended, heard.broken) == (False, False), "something came after the end"
        if record == b"data: [DONE]":
            heard.ended = True
            continue
        chunk = orjson.loads(record[6:])
        if "error" in chunk:
            heard.broken = True
            continue
        assert chunk["object"] == "chat.completion.chunk"
        assert heard.name in {"", chunk["id"]}, "one answer has one id"
        heard.name = chunk["id"]
        for choice in chunk["choices"]:
            assert heard.finish is None, "a choice went on after its end"
            _add(heard, choice["delta"])
            heard.finish = choice["finish_reason"]
    return heard


def _add(heard: Heard, delta: Raw) -> None:
    heard.text += delta.get("content") or ""
    heard.refusal += delta.get("refusal") or ""
    for piece in delta.get("tool_calls") or ():
        if piece["index"] == len(heard.calls):
            kind = piece["type"]
            heard.calls.append({"id": piece["id"], "type": kind, kind: dict(piece[kind])})
        else:
            assert piece["index"] < len(heard.calls), "calls are numbered one by one"
            call = heard.calls[piece["index"]]
            assert piece.keys() == {"index", call["type"]}, "a call is named once"
            ((name, words),) = piece[call["type"]].items()
            call[call["type"]][name] += words


def whole(body: bytes) -> Heard:
    """Read a completion."""
    completion = orjson.loads(body)
    assert completion["object"] == "chat.completion"
    (choice,) = completion["choices"]
    message = choice["message"]
    return Heard(
        completion["id"],
        message["content"] or "",
        message["refusal"] or "",
        message.get("tool_calls") or [],
        choice["finish_reason"],
        ended=True,
    )


def words(parts: Iterable[Raw]) -> tuple[str, str]:
    """Return the text and the refusal in content *parts*."""
    parts = list(parts)
    return "".join(part.get("text", "") for part in parts), "".join(part.get("refusal", "") for part in parts)


def shown(outputs: list[Raw]) -> Heard:
    """Return what an agent is to be shown of *outputs*."""
    text, refusal = words(part for raw in outputs if raw["type"] == "message" for part in raw["content"])
    kinds = {"function_call": "function", "custom_tool_call": "custom"}
    calls = []
    for raw in outputs:
        kind = kinds.get(raw["type"])
        if kind is not None:
            called = {"name": raw["name"], WRITTEN[kind]: raw[WRITTEN[kind]]}
            calls.append({"id": raw["call_id"], "type": kind, kind: called})
    return Heard("", text, refusal, calls)


# How it is written down. Sources: recordings of the real programs.


def _with(**values: Any) -> Style:
    return lambda message: [{**message, **values}]


def _without(*names: str) -> Style:
    return lambda message: [{name: value for name, value in message.items() if name not in names}]


def _content(write: Callable[[str, bool], Any]) -> Style:
    """Write the content anew: *write* is given the text, and whether there are calls."""
    return lambda message: [{**message, "content": write(message["content"] or "", "tool_calls" in message)}]


def _calls(write: Callable[[Raw, int], Raw]) -> Style:
    def written(message: Raw) -> list[Raw]:
        calls = [write(call, n) for n, call in enumerate(message.get("tool_calls") or ())]
        return [{**message, "tool_calls": calls} if calls else message]

    return written


def _reserialised(how: Callable[[Raw], list[Raw]]) -> Style:
    """Write arguments as a program does that parsed them."""

    def write(call: Raw, _number: int) -> Raw:
        if call["type"] != "function":
            return call
        (function,) = how(call["function"])
        return {**call, "function": function}

    return _calls(write)


def _chain(*styles: Style) -> Style:
    def written(message: Raw) -> list[Raw]:
        messages = [message]
        for style in styles:
            messages = [result for each in messages for result in style(each)]
        return messages

    return written


def _helped(call: Raw, number: int) -> Raw:
    """Write a call as the streaming helpers do."""
    if call["type"] != "function":
        return {**call, "index": number}
    return {**call, "index": number, "function": {**call["function"], "parsed_arguments": {"x": 1}}}


def _untyped(call: Raw, _number: int) -> Raw:
    return {name: value for name, value in call.items() if name != "type"} if call["type"] == "function" else call


def _reordered(message: Raw) -> list[Raw]:
    return [orjson.loads(orjson.dumps(message, option=orjson.OPT_SORT_KEYS))]


def _as_parts(message: Raw) -> list[Raw]:
    parts = [{"type": "text", "text": text} for text in _halves(message["content"] or "")]
    if message["refusal"]:
        parts.append({"type": "refusal", "refusal": message["refusal"]})
    rest = {name: value for name, value in message.items() if name not in {"content", "refusal", "annotations"}}
    return [{**rest, "content": parts} if parts else rest]


def _halves(text: str) -> Iterator[str]:
    if text:
        yield text[:1]
    if text[1:]:
        yield text[1:]


def _apart(message: Raw) -> list[Raw]:
    """Write words and calls as two messages."""
    if "tool_calls" not in message or not message["content"]:
        return [message]
    (words,) = _without("tool_calls")(message)
    return [words, {"role": "assistant", "content": None, "tool_calls": message["tool_calls"]}]


def _calls_first(message: Raw) -> list[Raw]:
    return _apart(message)[::-1]


def _speechless(message: Raw) -> list[Raw]:
    """Lose the words beside a call."""
    return [{**message, "content": None} if "tool_calls" in message else message]


def _silent(message: Raw) -> list[Raw]:
    """Lose what was said where there was no call."""
    return [message] if "tool_calls" in message else []


def _in_words(message: Raw) -> list[Raw]:
    """Write calls as text."""
    if "tool_calls" not in message:
        return [message]
    text = f"{message['content'] or ''}Calling tools: {json.dumps(message['tool_calls'])}"
    return [{"role": "assistant", "content": text}]


def _forgotten_call(message: Raw) -> list[Raw]:
    """Lose the last call."""
    calls = (message.get("tool_calls") or [])[:-1]
    (rest,) = _without("tool_calls")(message)
    return [{**rest, "tool_calls": calls} if calls else {**rest, "content": rest["content"] or ""}]


_BARE = _without("annotations", "refusal")
_EMPTY = _content(lambda text, _called: text)

STYLES: dict[str, Style] = {
    "openai_node": lambda message: [message],
    "openai_node_stream": _chain(_without("annotations"), _with(parsed=None)),
    "openai_python": _chain(_with(audio=None, function_call=None), _reordered),
    "openai_python_stream": _chain(_with(audio=None, function_call=None, parsed=None), _calls(_helped)),
    "ai_sdk": _chain(_EMPTY, _BARE, _reserialised(like_javascript)),
    "pydantic_ai": _chain(_BARE, _reserialised(like_javascript)),
    "litellm": _chain(_BARE, _with(function_call=None, reasoning_content=None), _reserialised(like_python)),
    "reasoning": _chain(_BARE, _with(reasoning="", reasoning_details=[])),
    "agents_js": _as_parts,
    "untyped": _chain(_BARE, _calls(_untyped)),
    "without_content": lambda message: _without(*["content"] * ("tool_calls" in message), "annotations")(message),
    "no_calls": lambda message: [{"tool_calls": None, **message}],
    "apart": _chain(_BARE, _apart),
    "calls_first": _chain(_BARE, _calls_first),
    "speechless": _chain(_BARE, _speechless),
    "silent": _silent,
    "in_words": _in_words,
    "forgets_a_call": _forgotten_call,
}
"""Every style, by the agent that writes so where one does."""

LOSSY = ("calls_first", "speechless", "silent", "in_words", "forgets_a_call")
"""Styles that leave out, move or change what was said."""
