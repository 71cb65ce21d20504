"""Agents that speak the Responses API."""

from collections.abc import Sequence
from typing import Any

import orjson
from echo import STYLES, Echo
from meaning import Raw, Token, meaning
from model_upstream import Answer
from world import TEXTS, Agent, Case, Entry, Settings, World, thoughts

from proxy.frontends.responses import Responses

TOOL: Raw = {"type": "function", "name": "f", "parameters": {"type": "object"}}
SETTINGS: tuple[Raw, ...] = (
    {"model": "m", "store": False, "stream": True},
    {
        "model": "m",
        "store": False,
        "stream": True,
        "instructions": "i",
        "tools": [],
        "reasoning": {"effort": "low"},
    },
    {"model": "m", "store": True, "stream": True},
    {"model": "m", "store": False, "stream": True, "instructions": "a", "tools": [TOOL]},
    {"model": "m", "store": False, "stream": True, "instructions": "b", "tools": [TOOL]},
    {"model": "m", "store": True, "stream": True, "instructions": "a", "tools": [TOOL]},
    {"model": "m", "store": False, "stream": True, "instructions": "a", "tools": [{**TOOL, "name": "g"}]},
    {"model": "m", "store": False, "stream": True, "instructions": "a", "tools": [TOOL], "tool_choice": "none"},
    {"model": "n", "store": False, "stream": True},
    {"model": "m", "stream": True, "store": None, "temperature": 0.5},
    {"model": "m", "store": False, "novelty": 1},
    {"model": "m", "store": False, "truncation": "auto"},
)
ECHOES: tuple[Echo, ...] = (
    list,
    *STYLES.values(),
    lambda outputs: [{**raw, "summary": []} if raw["type"] == "reasoning" else raw for raw in outputs],
    lambda outputs: [raw for raw in outputs if raw["type"] not in {"reasoning", "message"}],
    lambda outputs: [{"type": "item_reference", "id": raw["id"]} for raw in outputs],
)
"""Every way of writing down what the model said: all that agents have, and four more."""


_END = "response.output_item.done"


class ResponsesWorld(World):
    """Agents whose history is upstream's own items."""

    front_end = Responses()
    settings = tuple(
        Settings(said, {name: value for name, value in said.items() if name != "stream"}) for said in SETTINGS
    )
    usual_settings = 6
    copes_with_carelessness = True
    echoes = len(ECHOES)
    sayings = (*("m",) * 5, *("c",) * 4, "cc", "cc", "mrc", "mrc", "mm", "rmr", "s", "k", "")

    def _body(self, case: Case) -> bytes:
        head = orjson.dumps(case.settings.said)
        told = [entry.token for entry in case.told]
        match told:
            case [("message", "user", (str(text),))] if self.pick(3) == 2:
                return head[:-1] + b',"input":' + orjson.dumps(text) + b"}"
        return head[:-1] + b',"input":[' + b",".join([entry.written for entry in case.told]) + b"]}"

    def _meaning(self, history: Sequence[Entry]) -> list[Token] | None:
        return [entry.token for entry in history if entry.token is not None]

    def _heard(self, case: Case, answer: Answer) -> list[Raw]:
        last = orjson.loads(case.shown[-1].raw).get("response") or {}
        sealed = {raw["id"]: raw for raw in last.get("output") or ()}
        told = {raw["id"]: raw for raw in answer.outputs}
        ends = dict.fromkeys(orjson.loads(event.raw)["item"]["id"] for event in case.shown if event.type == _END)
        order = (told.keys(), sealed.keys(), ends.keys())[self.pick(3)]
        ordered = order if order == told.keys() or not case.shown[-1].terminal else told
        return [sealed.get(each, told[each]) if self.pick(2) else told[each] for each in ordered]

    def _heard_over_http(self, outputs: list[Raw]) -> list[Raw]:
        return outputs

    def _entry(self, raw: Raw, token: Token) -> Entry:
        return Entry(self.upstream.learn(raw, token), token)

    def _user(self) -> Entry:
        role = ("user", "user", "user", "user", "developer", "system")[self.pick(6)]
        parts: tuple[Any, ...] = (TEXTS[self.pick(len(TEXTS))],)
        more = self.pick(12)
        if more == 11:
            parts = (*parts, ("image", "u"))
        elif more == 10:
            parts = (*parts, "a")
        return self._written(("message", role, parts))

    def _written(self, token: Token) -> Entry:
        """Write *token* down in one of the ways that agents do."""
        return self._entry(self._spelled(token), token)

    def _spelled(self, token: Token) -> Raw:
        way = self.pick(4)
        match token:
            case ("message", "assistant", text, phase):
                parts = [{"type": "output_text", "text": text}]
                raw: Raw = {"role": "assistant", "content": text if way == 1 else parts}
                raw |= {"phase": phase} if phase else {}
                raw |= {"id": f"msg_{self._number()}", "status": "completed"} if way == 2 else {}
                return raw if way == 1 else {"type": "message", **raw}
            case ("message", role, parts):
                if way and len(parts) == 1:
                    return {"role": role, "content": parts[0]} | ({"type": "message"} if way == 2 else {})
                return {"type": "message", "role": role, "content": [_part(part) for part in parts]}
            case ("function_call", call_id, name, arguments):
                text = arguments.removeprefix("text ")
                raw = {"type": "function_call", "call_id": call_id, "name": name, "arguments": text}
                return raw | ({"id": f"fc_{self._number()}", "status": "completed"} if way == 1 else {})
            case ("custom_tool_call", call_id, name, text):
                return {"type": "custom_tool_call", "call_id": call_id, "name": name, "input": text}
            case (("function_call_output" | "custom_tool_call_output") as kind, call_id, parts):
                whole = len(parts) == 1 and way < 3
                output = parts[0] if whole else [_part(part) for part in parts]
                return {"type": kind, "call_id": call_id, "output": output} | (
                    {"status": None} if way == 1 else {}
                )
            case (("reasoning" | "compaction") as kind, number, told):
                raw = {"type": kind, "id": f"rs_{number}", "encrypted_content": f"s{number}"}
                return raw | (thoughts(told or ()) if kind == "reasoning" else {})
            case ("web_search_call", query):
                return {"type": "web_search_call", "action": {"type": "search", "query": query}}
        raise AssertionError(token)

    def _answers(self, heard: list[Raw]) -> list[Entry]:
        answers = []
        for raw in heard:
            if raw["type"] in {"function_call", "custom_tool_call"}:
                parts: tuple[Any, ...] = (TEXTS[self.pick(len(TEXTS))],)
                answers.append(self._written((f"{raw['type']}_output", raw["call_id"], parts)))
        return answers

    def _echoed(self, agent: Agent) -> list[Entry]:
        """Write down what the model said, in the agent's way."""
        learn = self.upstream.learn
        entries = []
        try:
            echoed = ECHOES[agent.echo](agent.heard)
        except KeyError:  # the style needs a ciphertext, and upstream gave none
            echoed = agent.heard
        for raw in echoed:
            if raw.get("type") == "item_reference":
                token = next(meaning(each) for each in agent.heard if each["id"] == raw["id"])
            else:
                token = meaning(raw)
            entries.append(Entry(learn(raw, token), token))
        return entries

    def _respelled(self, entry: Entry) -> Entry:
        """Return the same, written in another way."""
        return entry if entry.token is None or entry.token[0] == "?" else self._written(entry.token)

    def _stranger(self) -> Entry:
        """Return an item as only the model writes them, which the model did not write."""
        made = (self._spoken, self._call, self._reasoning, self._search)[self.pick(4)]
        raw, token = made()
        if self.pick(2):
            return self._written(token)
        return self._entry(raw, token)

    def _summary(self) -> Entry:
        return self._entry(*self._compaction())

    def _edited_in_place(self, entry: Entry) -> Entry:
        """Return *entry* written the same way, but for one field."""
        raw = orjson.loads(entry.written)
        names = sorted(name for name in raw.keys() & _EDITED if raw[name] is not None)
        name = names[self.pick(len(names))]
        value = raw[name]
        if isinstance(value, list):
            value.append({"type": "summary_text" if name == "summary" else "output_text", "text": "b"})
            if self.pick(2):
                del value[-2:]
        elif name == "role":
            raw["role"] = "user" if value == "assistant" else "assistant"
            if raw["role"] == "assistant" and isinstance(raw["content"], list):
                raw["content"] = [part for part in raw["content"] if "text" in part]
        elif name in {"id", "encrypted_content"}:
            raw[name] = f"{value.rstrip('0123456789')}{self._number()}" if value else value
        elif name == "action":
            raw[name] = {"type": "search", "query": "c"}
        else:
            raw[name] = f"{value or ''}b"
        return self._entry(raw, meaning(raw))

    def _edited(self, entry: Entry) -> Entry:
        """Return an item that differs in one field, written anew."""
        match entry.token:
            case ("?", _):
                return self._edited_in_place(entry)
            case ("message", "assistant", text, phase):
                edits: tuple[Token, ...] = (
                    ("message", "assistant", text + "a", phase),
                    ("message", "assistant", text[1:] + "b", phase),
                    ("message", "user", (text,)),
                    ("message", "assistant", text, "commentary" if phase != "commentary" else "final_answer"),
                )
            case ("message", role, parts):
                edits = (
                    ("message", role, (*parts[1:], "b")),
                    ("message", "developer" if role == "user" else "user", parts),
                    ("message", role, (*parts, ("image", "v"))),
                )
            case (("function_call" | "custom_tool_call") as kind, call_id, name, said):
                other = '{"x": 2}' if said != '{"x": 2}' else '{"x": 1}'
                edits = (
                    (kind, call_id, name, other),
                    (kind, call_id, name + "g", said),
                    (kind, "c2" if call_id != "c2" else "c3", name, said),
                )
            case (("function_call_output" | "custom_tool_call_output") as kind, call_id, parts):
                edits = ((kind, call_id, (*parts[1:], "b", "a")), (kind, call_id + "1", parts))
            case (("reasoning" | "compaction") as kind, number, told):
                edits = (
                    (kind, self._number(), told),
                    (kind, number, None if kind == "compaction" else ("e", *(told or ()))),
                    (kind, number, None if kind == "compaction" else tuple((told or ())[:1])[:1] or ("f",)),
                )
            case (kind, text):
                edits = ((kind, text + "a"),)
        return self._written(edits[self.pick(len(edits))])


_EDITED = frozenset(
    {
        "role",
        "content",
        "arguments",
        "call_id",
        "name",
        "summary",
        "encrypted_content",
        "phase",
        "input",
        "output",
        "action",
        "id",
    }
)
"""The fields that an edit in place changes."""


def _part(part: Any) -> Raw:
    if isinstance(part, str):
        return {"type": "input_text", "text": part}
    return {"type": "input_image", "image_url": part[1]}
