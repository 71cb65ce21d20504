"""Agents that speak Chat Completions: their next history is made of the bytes that they were given."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import chat_meaning
import orjson
from chat_agents import LOSSY, STYLES, WRITTEN, Heard, shown, streamed, whole, words
from meaning import Held, Raw, Token
from model_upstream import Answer
from world import CALL_IDS, TEXTS, Agent, Case, Entry, Settings, World

from proxy.frontends.chat import Chat

_SCHEMA = {"type": "object", "properties": {"x": {"type": "integer"}}}
SETTINGS: tuple[tuple[Raw, Raw], ...] = (
    ({"model": "m", "stream": True}, {"model": "m", "store": False}),
    ({"model": "m"}, {"model": "m", "store": False}),
    (
        {
            "model": "m",
            "stream": True,
            "stream_options": {"include_usage": True},
            "tools": [
                {"type": "function", "function": {"name": "f", "description": "d", "parameters": _SCHEMA}},
                {"type": "custom", "custom": {"name": "g", "format": {"type": "text"}}},
            ],
            "parallel_tool_calls": True,
            "reasoning_effort": "low",
        },
        {
            "model": "m",
            "store": False,
            "tools": [
                {"type": "function", "name": "f", "description": "d", "parameters": _SCHEMA, "strict": False},
                {"type": "custom", "name": "g", "format": {"type": "text"}},
            ],
            "parallel_tool_calls": True,
            "reasoning": {"effort": "low"},
        },
    ),
    (
        {"model": "m", "tools": [{"type": "custom", "custom": {"name": "h"}}], "stream": True},
        {"model": "m", "store": False, "tools": [{"type": "custom", "name": "h"}]},
    ),
    ({"model": "n", "stream": True, "store": False, "n": 1}, {"model": "n", "store": False}),
    (
        {"model": "m", "temperature": 0.5, "max_completion_tokens": 100, "stream": False, "stop": None},
        {"model": "m", "store": False, "temperature": 0.5, "max_output_tokens": 100},
    ),
    (
        {
            "model": "m",
            "max_tokens": 20,
            "tools": [{"type": "function", "function": {"name": "f"}}],
            "tool_choice": {"type": "function", "function": {"name": "f"}},
            "response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": _SCHEMA}},
            "verbosity": "low",
        },
        {
            "model": "m",
            "store": False,
            "max_output_tokens": 20,
            "tools": [
                {
                    "type": "function",
                    "name": "f",
                    "parameters": {"type": "object", "properties": {}},
                    "strict": False,
                }
            ],
            "tool_choice": {"type": "function", "name": "f"},
            "text": {"format": {"type": "json_schema", "name": "s", "schema": _SCHEMA}, "verbosity": "low"},
        },
    ),
    (
        {"model": "m", "stream": True, "logprobs": True, "top_logprobs": 2, "prompt_cache_key": "k"},
        {
            "model": "m",
            "store": False,
            "include": ["message.output_text.logprobs"],
            "top_logprobs": 2,
            "prompt_cache_key": "k",
        },
    ),
)
UNTOLD: tuple[Raw, ...] = (
    {"model": "m", "stop": ["a"]},
    {"model": "m", "stream": True, "seed": 1},
    {"model": "m", "store": True},
    {"model": "m", "max_tokens": 2},
    {"model": "m", "novelty": 1},
)
_FAITHFUL = tuple(style for name, style in STYLES.items() if name not in LOSSY)
_STYLES = (*_FAITHFUL, *_FAITHFUL, *_FAITHFUL, *(STYLES[name] for name in LOSSY))


class ChatWorld(World):
    """Agents that know messages, and of upstream's items nothing."""

    front_end = Chat()
    settings = (*(Settings(*pair) for pair in SETTINGS * 8), *(Settings(said, None) for said in UNTOLD))
    usual_settings = 4
    echoes = len(_STYLES)
    policies = ("reasoning", "none", "any", "reasoning", "any", "reasoning")  # with `none` few chains go on
    longest = 10
    sayings = (
        *("m",) * 6,
        *("c",) * 4,
        *("cc", "mc", "mc") * 2,
        "cm",
        "mm",
        "mcm",
        "cmc",
        "mrc",
        "mmcc",
        "ms",
        "k",
        "",
    )

    def _body(self, case: Case) -> bytes:
        messages = b",".join([entry.written for entry in case.told])
        return orjson.dumps(case.settings.said)[:-1] + b',"messages":[' + messages + b"]}"

    def _meaning(self, history: Sequence[Entry]) -> list[Token] | None:
        return chat_meaning.told(entry.token for entry in history)

    def _held(self, context: list[Held]) -> list[Held]:
        return chat_meaning.joined(context)

    def _read_item(self, written: bytes) -> Token:
        return chat_meaning.item(written)

    # What the model says, and how it is told

    def _spoken(self) -> tuple[Raw, Token]:
        parts: list[Raw] = []
        for _ in range(1 + (self.pick(8) == 7)):
            text = TEXTS[self.pick(len(TEXTS) - self.pick(2))]
            if self.pick(6) == 5:
                parts.append({"type": "refusal", "refusal": text})
            else:
                parts.append({"type": "output_text", "text": text, "annotations": [], "logprobs": []})
        raw, phase = self._phased(parts)
        return raw, ("message", "assistant", words(parts), phase)

    def _pieces(self, index: int, raw: Raw, some: bool) -> list[Raw]:  # noqa: FBT001
        how = self.pick(4) if some else self.pick(2) * 3
        if how == 3:
            return []
        place = {"output_index": index}
        if raw["type"] == "message":
            item = {**raw, "content": [], "status": "in_progress"}
            pieces = [
                {"type": f"response.{part['type']}.delta", **place, "content_index": number, "delta": text}
                for number, part in enumerate(raw["content"])
                for text in _cut(part[part["type"].removeprefix("output_")])
            ]
        elif raw["type"] in _DELTAS:
            name, kind = _DELTAS[raw["type"]]
            item = {**raw, name: "", "status": "in_progress"}
            pieces = [{"type": kind, **place, "delta": text} for text in _cut(raw[name])]
        else:
            item = raw
            pieces = [{"type": "response.reasoning_summary_text.delta", **place, "delta": "p"}]
        return [{"type": "response.output_item.added", **place, "item": item}, *pieces[: (None, 1, 0)[how]]]

    # What the agent is shown

    def _heard(self, case: Case, answer: Answer) -> list[Raw]:
        body, last = b"".join(case.given), case.shown[-1].type
        ended = last in {"response.completed", "response.incomplete"}
        if not body:
            assert not ended, "no answer"
            return []
        heard = streamed(body) if case.settings.said.get("stream") else whole(body)
        if self._log is not None:
            self._log(f"  the model said {answer.outputs}, the agent was shown {heard}")
        assert heard.name.startswith("chatcmpl-"), heard.name
        assert heard.name.removeprefix("chatcmpl-") == answer.name.removeprefix("resp_")
        assert heard.ended == ended, f"{heard} after {last}"
        assert heard.broken == (last in {"response.failed", "error"}), f"{heard} after {last}"
        if answer.is_told:
            self._compare(case, heard, answer, ended=ended)
        return [heard.message] if heard.message["content"] or heard.calls or self.pick(4) == 3 else []

    def _compare(self, case: Case, heard: Heard, answer: Answer, *, ended: bool) -> None:
        """Compare what the agent was shown with what the model said, or with its beginning."""
        said = shown(answer.outputs)
        if ended:
            finish = answer.ending and {"max_output_tokens": "length"}.get(answer.ending, answer.ending)
            named = case.settings.said.get("tool_choice") is not None  # all of these choices are of one tool
            said.finish = finish or ("tool_calls" if said.calls and not named else "stop")
            assert heard.message == said.message, f"the model said {said}, the agent was shown {heard}"
            assert heard.finish == said.finish, f"the model ended with {said.finish}, the agent saw {heard.finish}"
            return
        assert heard.finish is None, f"an answer that broke off ended with {heard.finish}"
        assert said.text.startswith(heard.text), f"the model said {said}, the agent was shown {heard}"
        assert said.refusal.startswith(heard.refusal), f"the model said {said}, the agent was shown {heard}"
        for call, piece in zip(said.calls, heard.calls, strict=False):
            kind = call["type"]
            begun = {**piece[kind], WRITTEN[kind]: call[kind][WRITTEN[kind]]}
            assert {**piece, kind: begun} == call, f"the model called {call}, the agent was shown {piece}"
            assert call[kind][WRITTEN[kind]].startswith(piece[kind][WRITTEN[kind]])
        assert len(heard.calls) <= len(said.calls)

    def _heard_over_http(self, outputs: list[Raw]) -> list[Raw]:
        return [shown(outputs).message]

    # What agents write

    def _entry(self, raw: Raw) -> Entry:
        written = orjson.dumps(raw)
        return Entry(written, chat_meaning.read(written))

    def _user(self) -> Entry:
        role = ("user", "user", "user", "user", "developer", "system")[self.pick(6)]
        raw: Raw = {"role": role, "content": self._content(TEXTS[self.pick(len(TEXTS))], images=role == "user")}
        return self._entry({**raw, "name": "n"} if self.pick(200) == 199 else raw)

    def _content(self, text: str, *, images: bool) -> Any:
        parts: list[Raw] = [{"type": "text", "text": text}]
        match self.pick(12):
            case 11 if images:
                detail = ({}, {"detail": "low"}, {"detail": None})[self.pick(3)]
                return [*parts, {"type": "image_url", "image_url": {"url": "u", **detail}}]
            case 10:
                return [*parts, {"type": "text", "text": "a"}]
            case 9 | 8:
                return parts
        return text

    def _answers(self, heard: list[Raw]) -> list[Entry]:
        calls = [call for message in heard for call in message.get("tool_calls") or ()]
        return [self._tool(call["id"]) for call in calls]

    def _tool(self, call_id: str) -> Entry:
        content = self._content(TEXTS[self.pick(len(TEXTS))], images=False)
        return self._entry({"role": "tool", "tool_call_id": call_id, "content": content})

    def _echoed(self, agent: Agent) -> list[Entry]:
        return [self._entry(raw) for message in agent.heard for raw in _STYLES[agent.echo](message)]

    def _respelled(self, entry: Entry) -> Entry:
        raw = orjson.loads(entry.written)
        if raw["role"] == "assistant":
            return self._entry(_FAITHFUL[self.pick(len(_FAITHFUL))](_normal(raw))[0])
        if isinstance(raw["content"], str):
            return self._entry({**raw, "content": [{"type": "text", "text": raw["content"]}]})
        if len(raw["content"]) == 1:
            return self._entry({**raw, "content": raw["content"][0]["text"]})
        return entry

    def _say(self, context: list[Held]) -> list[tuple[Raw, Token]]:
        """Let a model say what no Chat history can tell only now and then: two calls with one id."""
        said = super()._say(context)
        return said if self.pick(8) == 7 else _told_apart(said)

    def _stranger(self) -> Entry:
        if self.pick(24) == 23:
            return self._tool(CALL_IDS[self.pick(3)])
        kinds = ("m", "c", "mc", "cc")[self.pick(4)]
        outputs = [(self._spoken if kind == "m" else self._call)()[0] for kind in kinds]
        return self._entry(_FAITHFUL[self.pick(len(_FAITHFUL))](shown(outputs).message)[0])

    def _summary(self) -> Entry:
        return self._entry({"role": "assistant", "content": TEXTS[self.pick(len(TEXTS))]})

    def _edited(self, entry: Entry) -> Entry:
        raw = orjson.loads(entry.written)
        if raw["role"] == "tool":
            edits: tuple[Raw, ...] = (
                {"content": "c"},
                {"tool_call_id": "c2"},
                {"content": [_text("a"), _text("b")]},
            )
            return self._entry(raw | edits[self.pick(3)])
        if raw["role"] != "assistant":
            edits = (
                {"content": "c"},
                {"role": "developer" if raw["role"] == "user" else "user"},
                {"content": [_text("a"), {"type": "image_url", "image_url": {"url": "v"}}]},
            )
            return self._entry(raw | edits[self.pick(3)])
        edited = _edits(_normal(raw))
        return self._entry(_FAITHFUL[self.pick(len(_FAITHFUL))](edited[self.pick(len(edited))])[0])

    def _edited_in_place(self, entry: Entry) -> Entry:
        raw = orjson.loads(entry.written)
        changes = list(_places(raw))
        changes[self.pick(len(changes))]()
        return self._entry(raw)


_DELTAS = {
    "function_call": ("arguments", "response.function_call_arguments.delta"),
    "custom_tool_call": ("input", "response.custom_tool_call_input.delta"),
}


def _cut(words: str) -> list[str]:
    return [words[:1], words[1:]]


def _text(text: str) -> Raw:
    return {"type": "text", "text": text}


def _normal(raw: Raw) -> Raw:
    """Return a message of the assistant the way SDKs have it."""
    content = raw.get("content")
    text, refusal = (content or "", "") if not isinstance(content, list) else words(content)
    calls = [
        {"id": call["id"], "type": kind, kind: {name: call[kind][name] for name in ("name", WRITTEN[kind])}}
        for call in raw.get("tool_calls") or ()
        for kind in [call.get("type", "function")]
    ]
    return Heard("", text, refusal + (raw.get("refusal") or ""), calls).message


def _edits(message: Raw) -> list[Raw]:
    """Return *message* with one thing changed, in each way."""
    text, refusal, calls = message["content"] or "", message["refusal"] or "", message.get("tool_calls") or []
    edited = [
        {**message, "content": f"{text}a"},
        {**message, "content": f"{text[1:]}b"},
        {**message, "content": refusal or None, "refusal": text or None},
        {**message, "refusal": f"{refusal}a"},
        {**message, "content": "", "role": "user"},
    ]
    for n, call in enumerate(calls):
        kind = call["type"]
        others = [
            [],
            [call, call],
            [{**call, "id": "c2" if call["id"] != "c2" else "c3"}],
            [{**call, kind: {**call[kind], "name": "h"}}],
            [{**call, kind: {**call[kind], WRITTEN[kind]: '{"x":2}'}}],
            [_turned(call)],
        ]
        edited += [{**message, "tool_calls": [*calls[:n], *other, *calls[n + 1 :]]} for other in others]
    return [*edited, {**message, "tool_calls": calls[::-1]}] if calls else edited


def _turned(call: Raw) -> Raw:
    """Return a call of the other type."""
    kind = call["type"]
    other = "custom" if kind == "function" else "function"
    return {
        "id": call["id"],
        "type": other,
        other: {"name": call[kind]["name"], WRITTEN[other]: call[kind][WRITTEN[kind]]},
    }


def _places(raw: Raw) -> Iterator[Callable[[], None]]:
    """Yield what changes one field of a message that is there."""
    for name, value in raw.items():
        if name == "role":
            yield lambda: raw.update(role="user" if raw["role"] in {"assistant", "tool"} else "assistant")
        elif isinstance(value, str) and name != "type":
            yield lambda name=name, value=value: raw.update({name: f"{value}b"})  # type: ignore[misc]
        elif isinstance(value, list):
            for each in value:
                yield from _places(each)
            if value:
                yield value.pop
        elif isinstance(value, dict):
            yield from _places(value)


def _told_apart(said: list[tuple[Raw, Token]]) -> list[tuple[Raw, Token]]:
    """Give each call among what was *said* an id of its own."""
    free = list(CALL_IDS)
    apart = []
    for raw, token in said:
        if "call_id" in raw:
            call_id = raw["call_id"] if raw["call_id"] in free else free[0]
            free.remove(call_id)
            apart.append(({**raw, "call_id": call_id}, (token[0], call_id, *token[2:])))
        else:
            apart.append((raw, token))
    return apart
