"""World: agents that converse through the proxy with the model upstream, and change their history in every way.

Everything is decided by one *pick*, so that a seed or hypothesis can drive it. Texts, names and call ids come
from tiny alphabets: different histories look alike, which is what finds mistakes.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from random import Random
from typing import Any, Self

import orjson
from echo import STYLES, Echo
from meaning import Dropped, Held, Raw, Token, agree, meaning
from model_upstream import MemoryPool, ModelUpstream, Pick

from proxy.core.delta import Delta
from proxy.core.events import ServerEvent
from proxy.core.turn import Turn
from proxy.errors import ConnectionLost, UpstreamError
from proxy.exchange import Exchange, PlainHTTP, Waits
from proxy.frontends.base import Readable
from proxy.frontends.responses import Responses
from proxy.ledger import Traffic
from proxy.upstream.headers import of_identity
from proxy.upstream.pool import Limits

TEXTS = ("a", "b", "ab", "ba", "")
CALL_IDS = ("c1", "c2", "c3")
ARGUMENTS = (
    "{}",
    "",
    '{"x":1}',
    '{"x":2}',
    '{"x": 1.0, "y": [true]}',
    '{"x":"1"}',
    '{"x":true}',
    '{"x',
    '{"x":1,"x":2}',
)
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
    {"model": "n", "store": False, "stream": True},
    {"model": "m", "stream": True, "store": None, "temperature": 0.5},
    {"model": "m", "store": False, "novelty": 1},
    {"model": "m", "store": False, "truncation": "auto"},
)
FIXED = ("model", "store", "novelty", "truncation")
"""The settings above that make another chain."""

SAYINGS = (*("m",) * 5, *("c",) * 4, "cc", "cc", "mrc", "mrc", "mm", "rmr", "s", "k", "")
"""What a response consists of: messages, calls, reasoning, searches, compaction."""

KEYS = (
    (("Authorization", "Bearer one"), ("X-Request-Id", "1")),
    (("Authorization", "Bearer two"), ("X-Request-Id", "1")),
    (("Authorization", "Bearer one"), ("OpenAI-Project", "p"), ("X-Request-Id", "2")),
)
IDENTITIES = tuple(of_identity(headers) for headers in KEYS)
ECHOES: tuple[Echo, ...] = (
    list,
    *STYLES.values(),
    lambda outputs: [{**raw, "summary": []} if raw["type"] == "reasoning" else raw for raw in outputs],
    lambda outputs: [raw for raw in outputs if raw["type"] not in {"reasoning", "message"}],
    lambda outputs: [{"type": "item_reference", "id": raw["id"]} for raw in outputs],
)
"""Every way of writing down what the model said: all that agents have, and four more."""

WAITS = Waits(first_event_timeout=1, event_timeout=1, max_message_bytes=1_000_000, chaining_retry_seconds=20)


def _is_weighed(turn: Turn) -> bool:
    """Whether there was a verdict on a chain that the turn continued."""
    weight = turn.upload.baseline.weight if isinstance(turn.upload, Delta) else None
    return weight is not None and weight.least > weight.loose


class WrongContext(AssertionError):
    """Upstream answered another history than the agent's."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One item of an agent's history: its JSON, and what it says."""

    written: bytes
    token: Token


@dataclass
class Agent:
    """A conversation. *heard* is what the model said last, which the agent has yet to write down."""

    key: int
    echo: int
    settings: int
    history: list[Entry]
    heard: list[Raw] = field(default_factory=list)
    busy: bool = False
    as_text: bool = False


@dataclass
class Case:
    """One request on its way."""

    agent: Agent
    settings: Raw
    told: list[Entry]
    key: int
    shown: list[ServerEvent] = field(default_factory=list)


class World:
    """Some agents, one pool, one upstream."""

    def __init__(self, pick: Pick, *, faults: int = 12, log: Callable[[str], None] | None = None) -> None:
        self.pick = pick
        self.cases = 0
        self.outcomes: Counter[str] = Counter()
        self.dropped: Dropped = ("reasoning", "none", "any")[pick(3)]
        self.upstream = ModelUpstream(pick, self._say, faults)
        self._now = 0.0
        limits = Limits(
            max_connections=(8, 6, 4, 8, 3, 2, 1)[pick(7)],
            max_age_seconds=200,
            idle_seconds=50,
            websocket_retry_seconds=20,
            dropped_output=self.dropped,
        )
        self.pool = MemoryPool(self.upstream, limits, self._clock)
        self._agents: list[Agent] = []
        self._running: list[tuple[Case, Coroutine[Any, Any, None]]] = []
        self._responses = Responses()
        self._made = 0
        self._log = log

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        for _, running in self._running:
            running.close()

    # Time

    def _clock(self) -> float:
        return self._now

    def step(self) -> None:
        """Let something happen: a request begins, or one that is under way goes on, or is given up."""
        self._now += self.pick(4)
        crowded = len(self._running) > 2 or not any(not agent.busy for agent in self._agents)
        if self._running and self.pick(3) < (3 if crowded else 2):
            self._advance(self.pick(len(self._running)))
            return
        if self.pick(60) == 59:
            self._lose_one()
        agent = self._agent()
        case = self._next_case(agent)
        agent.busy = True
        self._running.append((case, self._run(case)))
        self._advance(len(self._running) - 1)

    def settle(self) -> None:
        """Let everything under way end; then every place in the pool is free, every socket accounted for."""
        while self._running:
            self._advance(0)
        assert self.upstream.unexpected_misses == 0, "the proxy continued a response that is not the latest"
        for partition in self.pool.partitions:
            for slot in partition.slots.values():
                assert slot.free, f"a place leaked: {slot}"
        is_open = [connection for connection in self.upstream.connections if connection.is_open]
        slots = [slot.connection for each in self.pool.partitions for slot in each.slots.values()]
        assert {id(each) for each in slots if each and each.is_open} == {id(each) for each in is_open}
        assert self.pool.counted_open == len(is_open)

    def _advance(self, index: int) -> None:
        case, running = self._running[index]
        try:
            if self.pick(100) == 99:
                running.throw(asyncio.CancelledError())
            running.send(None)
        except (StopIteration, asyncio.CancelledError):
            del self._running[index]
            case.agent.busy = False

    def _lose_one(self) -> None:
        connections = self.upstream.connections
        if connections:
            connections[-1 - self.pick(min(4, len(connections)))].lose()

    # A request and its answer

    async def _run(self, case: Case) -> None:
        head = orjson.dumps(case.settings)
        if case.agent.as_text:
            body = head[:-1] + b',"input":' + orjson.dumps(case.told[0].token[2][0]) + b"}"
        else:
            body = head[:-1] + b',"input":[' + b",".join([entry.written for entry in case.told]) + b"]}"
        if self._log is not None:
            self._log(f"{case.agent.key} {id(case.agent) % 9973} asks {body.decode()}")
        self.cases += 1
        request = self._responses.decode(body)
        assert isinstance(request, Readable), request
        turn = Turn(request.turn)
        partition = self.pool.partition(IDENTITIES[case.key])
        exchange = Exchange(turn, self.pool, partition, WAITS, self._clock, Traffic())

        async def deliver(events: tuple[ServerEvent, ...]) -> None:
            case.shown.extend(events)
            await self.upstream.pause()

        try:
            await exchange.run(deliver)
            self.outcomes[turn.state.value] += 1
        except PlainHTTP as exc:
            self.outcomes[f"http {exc.reason}"] += 1
            said = self._say([(entry.token, False) for entry in case.told])
            for raw, token in said:
                self.upstream.learn(raw, token)
            case.agent.heard = [raw for raw, _ in said]
            return
        except (UpstreamError, ConnectionLost) as exc:
            self.outcomes[type(exc).__name__] += 1
        assert turn.collapse is None, f"an honest upstream was accused: {turn.collapse}"
        self.outcomes["weighed"] += _is_weighed(turn)
        if case.shown:
            self._check(case)

    def _check(self, case: Case) -> None:
        """Compare the context behind what the agent was shown with what the agent said."""
        events = [orjson.loads(event.raw) for event in case.shown]
        names = {event["response"].get("id") for event in events if "response" in event}
        assert len(names) == 1, f"events of several responses were shown: {names}"
        answer = self.upstream.answers[names.pop()]
        told = [entry.token for entry in case.told]
        if self._log is not None:
            self._log(f"  upstream read {answer.context} on connection {id(answer.connection) % 9973}")
        if not agree(answer.context, told, self.dropped):
            raise WrongContext(f"upstream read {answer.context}, the agent said {told}")
        if answer.connection.headers != IDENTITIES[case.key]:
            raise WrongContext(f"a connection of {answer.connection.headers} answered {KEYS[case.key]}")
        asked = {name: value for name, value in case.settings.items() if name != "stream"}
        if answer.settings != asked:
            raise WrongContext(f"upstream was told {answer.settings}, the agent said {asked}")
        if answer.parent is not None:
            before = self.upstream.answers[answer.parent].settings
            if any(before.get(name) != asked.get(name) for name in FIXED):
                raise WrongContext(f"a chain went on from {before} to {asked}")
        if answer.parent is not None:
            self.outcomes["delta"] += 1
        last = events[-1].get("response") or {}
        sealed = {raw["id"]: raw for raw in last.get("output") or ()}
        if self.pick(2):
            case.agent.heard = [sealed.get(raw["id"], raw) for raw in answer.outputs]
        else:
            case.agent.heard = list(answer.outputs)

    def _say(self, _context: list[Held]) -> list[tuple[Raw, Token]]:
        """Decide what the model says."""
        kinds = ("", "", "r")[self.pick(3)] + SAYINGS[self.pick(len(SAYINGS))]
        makers = {
            "m": self._spoken,
            "c": self._call,
            "r": self._reasoning,
            "s": self._search,
            "k": self._compaction,
        }
        return [makers[kind]() for kind in kinds]

    # Items of the model

    def _number(self) -> str:
        self._made += 1
        return str(self._made)

    def _spoken(self) -> tuple[Raw, Token]:
        text = TEXTS[self.pick(len(TEXTS))]
        parts = [{"type": "output_text", "text": text, "annotations": [], "logprobs": []}]
        if self.pick(8) == 7:
            parts.append({"type": "output_text", "text": "b", "annotations": []})
            text += "b"
        phase = (None, None, "commentary", "final_answer")[self.pick(4)]
        raw = {"id": f"msg_{self._number()}", "type": "message", "status": "completed", "content": parts}
        raw["role"] = "assistant"
        if phase:
            raw["phase"] = phase
        return raw, ("message", "assistant", text, phase)

    def _call(self) -> tuple[Raw, Token]:
        call_id, name = CALL_IDS[self.pick(3)], ("f", "g")[self.pick(2)]
        said: Raw = {"id": f"fc_{self._number()}", "status": "completed", "call_id": call_id, "name": name}
        if self.pick(5) == 4:
            text = TEXTS[self.pick(3)]
            return {**said, "type": "custom_tool_call", "input": text}, ("custom_tool_call", call_id, name, text)
        raw = {**said, "type": "function_call", "arguments": ARGUMENTS[self.pick(len(ARGUMENTS))]}
        return raw, meaning(raw)

    def _reasoning(self) -> tuple[Raw, Token]:
        number, told = self._number(), (("p", "q") + (("content", "p"),) * (self.pick(8) == 7))[: self.pick(4)]
        raw: Raw = {"id": f"rs_{number}", "type": "reasoning", **_thoughts(told)}
        if self.pick(6) != 5:
            raw["encrypted_content"] = f"s{number}"
        return raw, ("reasoning", number, told or None)

    def _compaction(self) -> tuple[Raw, Token]:
        number = self._number()
        raw = {"id": f"cmp_{number}", "type": "compaction", "encrypted_content": f"s{number}"}
        return raw, ("compaction", number, None)

    def _search(self) -> tuple[Raw, Token]:
        query = TEXTS[self.pick(3)]
        raw = {"id": f"ws_{self._number()}", "type": "web_search_call", "status": "completed"}
        return {**raw, "action": {"type": "search", "query": query}}, ("web_search_call", query)

    # Items of the agent

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
                return raw | (_thoughts(told or ()) if kind == "reasoning" else {})
            case ("web_search_call", query):
                return {"type": "web_search_call", "action": {"type": "search", "query": query}}
        raise AssertionError(token)

    def _reply(self, heard: list[Raw]) -> list[Entry]:
        """Answer the calls among what was heard, or say something."""
        answers = []
        for raw in heard:
            if raw["type"] in {"function_call", "custom_tool_call"}:
                parts: tuple[Any, ...] = (TEXTS[self.pick(len(TEXTS))],)
                answers.append(self._written((f"{raw['type']}_output", raw["call_id"], parts)))
        if not answers or self.pick(6) == 5:
            answers.append(self._user())
        if self.pick(12) == 11:
            answers.append(self._user())
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

    # What agents do

    def _agent(self) -> Agent:
        """Choose who speaks next: somebody new, a fork of somebody, or somebody who waits."""
        idle = [agent for agent in self._agents if not agent.busy]
        act = self.pick(16)
        if idle and act < 13:
            return idle[self.pick(len(idle))]
        if self._agents and act < 15:
            other = self._agents[self.pick(len(self._agents))]
            key = other.key if self.pick(3) else self.pick(len(KEYS))
            agent = Agent(key, other.echo, other.settings, list(other.history), list(other.heard))
        else:
            key = self.pick(2 + self.pick(2))
            agent = Agent(key, self.pick(len(ECHOES)), self.pick(2), [self._user()])
            token = agent.history[0].token
            agent.as_text = token[1] == "user" and len(token[2]) == 1 and self.pick(3) == 2
        if len(self._agents) >= 4 and idle:
            self._agents.remove(idle[self.pick(len(idle))])
        self._agents.append(agent)
        return agent

    def _next_case(self, agent: Agent) -> Case:
        """Return the agent's next request."""
        pick = self.pick
        settings = SETTINGS[pick(len(SETTINGS)) if pick(10) == 9 else agent.settings]
        if pick(16) == 15:
            title = [self._user()]
            return Case(Agent(agent.key, 0, 0, title), SETTINGS[pick(2)], title, agent.key)
        if (agent.heard or agent.history[1:]) and pick(8) != 7:  # else: the same body once more
            self._go_on(agent)
        return Case(agent, settings, list(agent.history), agent.key)

    def _go_on(self, agent: Agent) -> None:
        pick = self.pick
        if pick(10) == 9:
            agent.echo = pick(len(ECHOES))
        echoed = self._echoed(agent)
        reply = self._reply(agent.heard)
        agent.heard, agent.as_text = [], False
        if pick(4) == 3:
            where = pick(4)  # mostly near the end, where an echo is compared
            if where == 0:
                history = [*agent.history, *echoed, *reply]
                agent.history = self._changed(history)
            elif where == 3:
                agent.history = [*self._changed(agent.history), *echoed, *reply]
            else:
                agent.history = [*agent.history, *self._changed([*echoed, *reply])]
        else:
            agent.history += [*echoed, *reply]
        if len(agent.history) > 8:
            agent.history = self._compacted(agent.history)
        if not agent.history:
            agent.history = [self._user()]

    def _changed(self, items: list[Entry]) -> list[Entry]:
        """Change a stretch of history in one of the ways that people, agents and mistakes do."""
        if not items:
            return items
        at = len(items) - 1 - self.pick(len(items))
        before, entry, after = items[:at], items[at], items[at + 1 :]
        changes: tuple[Callable[[], list[Entry]], ...] = (
            lambda: [*before, self._respelled(entry), *after],
            lambda: [*before, self._edited(entry), *after],
            lambda: [*before, self._edited(entry), *after],
            lambda: [*before, self._edited_in_place(entry), *after],
            lambda: [*before, self._edited_in_place(entry), *after],
            lambda: [*before, *after],
            lambda: [*before, entry, entry, *after],
            lambda: [*before, *after[:1], entry, *after[1:]],
            lambda: [*before, *reversed(items[at:])],
            lambda: [*before, self._stranger(), entry, *after],
            lambda: [*items, self._stranger()],
            lambda: [*before, self._user(), entry, *after],
            lambda: [*before, entry],
            lambda: [*before, self._user()],
            lambda: self._compacted(items),
        )
        return changes[self.pick(len(changes))]()

    def _respelled(self, entry: Entry) -> Entry:
        """Return the same, written in another way."""
        return entry if entry.token[0] == "?" else self._written(entry.token)

    def _stranger(self) -> Entry:
        """Return an item as only the model writes them, which the model did not write."""
        made = (self._spoken, self._call, self._reasoning, self._search)[self.pick(4)]
        raw, token = made()
        if self.pick(2):
            return self._written(token)
        return self._entry(raw, token)

    def _compacted(self, items: list[Entry]) -> list[Entry]:
        """Return a summary in place of all but the last items."""
        summary = self._user() if self.pick(2) else self._entry(*self._compaction())
        return [summary, *items[len(items) - self.pick(3) :]] if self.pick(2) else [summary]

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


CASES_A_WORLD = 30


def seeded(seed: int) -> Pick:
    """Return a pick that *seed* decides."""
    random = Random(seed).random
    return lambda below: int(random() * below)


def chosen(choices: bytes) -> Pick:
    """Return a pick that *choices* decide, one by one; after the last it is the plainest each time."""
    left = iter(choices)
    return lambda below: next(left, 0) % below


def play(seeds: range) -> Counter[str]:
    """Live through a world for each of *seeds*; return how its cases ended. A failure names its seed."""
    outcomes: Counter[str] = Counter()
    for seed in seeds:
        try:
            with World(seeded(seed)) as world:
                while world.cases < CASES_A_WORLD:
                    world.step()
                world.settle()
        except AssertionError as exc:
            raise type(exc)(f"seed {seed}: {exc}") from exc
        outcomes += world.outcomes
        outcomes["cases"] += world.cases
    return outcomes


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


def _thoughts(told: tuple[Any, ...]) -> Raw:
    raw: Raw = {"summary": [{"type": "summary_text", "text": text} for text in told if isinstance(text, str)]}
    content = [{"type": "reasoning_text", "text": text[1]} for text in told if not isinstance(text, str)]
    return {**raw, "content": content} if content else raw
