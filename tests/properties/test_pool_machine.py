"""The pool under any sequence of what agents, upstream and time can do, on real sockets."""

import asyncio
import itertools
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, ClassVar, Literal, Self

import chat_agents
import chat_meaning
import orjson
import pytest
from echo import STYLES
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from meaning import Dropped, Held, Raw, Token, agree, meaning
from pooling import TIMING

from proxy.core.events import ServerEvent
from proxy.core.turn import State, Turn
from proxy.errors import ConnectionLost, UpstreamError
from proxy.exchange import Exchange, PlainHTTP, Waits
from proxy.frontends.base import FrontEnd, Readable
from proxy.frontends.chat import Chat
from proxy.frontends.responses import Responses
from proxy.ledger import Connections, Ledger, Traffic
from proxy.restoring import Restoring
from proxy.simulator import (
    CustomToolCall,
    Fault,
    FunctionCall,
    ModelCall,
    Output,
    Reasoning,
    SimulatedTurn,
    Simulator,
    SimulatorSettings,
    Text,
    says,
)
from proxy.upstream.endpoint import Endpoint
from proxy.upstream.headers import of_identity
from proxy.upstream.partition import Slot as _Slot
from proxy.upstream.pool import Limits, Pool

pytestmark = pytest.mark.timeout(300)

STYLES_HERE = sorted(STYLES.keys() - {"ai_sdk_stored"})  # references need a store, and these agents have none
OUTPUTS = (
    says("a"),
    says(Reasoning(("p", "q")), "a"),
    says(Reasoning(), FunctionCall("f", '{"x": 1.0}')),
    says(Text("", "commentary"), CustomToolCall("g", "a")),
    says("b", Reasoning(("p",)), FunctionCall("f"), FunctionCall("f", '{"x":2}')),
)
FAULTS: dict[str, dict[str, Any]] = {
    "error": {"when": "before_created", "what": "error"},
    "rate limit": {"when": "before_created", "what": "error", "status": 429, "code": "rate_limit_exceeded"},
    "miss": {
        "when": "before_created",
        "what": "error",
        "status": 400,
        "code": "previous_response_not_found",
        "match": lambda request: "previous_response_id" in request,
    },
    "lost before": {"when": "before_created", "what": "abort"},
    "lost in the middle": {"when": "after_events", "what": "abort", "events": 3},
    "closed in the middle": {"when": "after_events", "what": "close", "events": 3},
    "failed in the middle": {"when": "after_created", "what": "error", "then_failed": True},
    "closed when idle": {"when": "after_completed", "what": "close"},
    "lost when idle": {"when": "idle", "what": "abort"},
    "refused": {"when": "handshake", "what": "error", "status": 429},
    "no WebSocket": {"when": "handshake", "what": "error", "status": 426},
    "cut off": {"when": "handshake", "what": "abort"},
}
KEYS = ("Bearer one", "Bearer two")
MAX_AGE, IDLE, AGE_LIMIT, RETRY = 100.0, 60.0, 120.0, 20.0
WAITS = Waits(first_event_timeout=5, event_timeout=5, max_message_bytes=100_000, websocket_retry_seconds=RETRY)

Mode = Literal["off", "auto", "on"]
Places = st.integers(0, 7)
Styles = st.integers(0, 40)
Said = st.sampled_from(OUTPUTS)
Pauses = st.sampled_from((1.0, 12.0))
Words = st.sampled_from(OUTPUTS[:2])


@dataclass
class Agent:
    """A conversation over the Responses API; *heard* is what the model said last.

    *purpose* is a setting that tells requests beside conversations from others.
    """

    key: str
    style: str
    history: list[Raw]
    heard: list[Raw] = field(default_factory=list)
    purpose: float | None = None

    front_end: ClassVar[FrontEnd] = Responses()
    styles: ClassVar[Sequence[str]] = STYLES_HERE

    def forked(self) -> Self:
        """Return another with the same past."""
        return replace(self, history=list(self.history), heard=list(self.heard))

    def go_on(self, text: str) -> None:
        """Write down what was heard, and answer the calls or say *text*."""
        self.history += STYLES[self.style](self.heard)
        replies = [
            {"type": f"{raw['type']}_output", "call_id": raw["call_id"], "output": text}
            for raw in self.heard
            if raw["type"].endswith("_call")
        ]
        self.history += replies or [user(text)]
        self.heard = []

    def aside(self, purpose: float) -> Self:
        """Return another with the same past, for a *purpose*."""
        return replace(self.forked(), purpose=purpose)

    @property
    def fields(self) -> Raw:
        """The settings of the request."""
        return {"model": "m", "stream": True} | ({} if self.purpose is None else {"temperature": self.purpose})

    @property
    def body(self) -> Raw:
        """The request."""
        return {**self.fields, "store": False, "input": self.history}

    @property
    def told(self) -> list[Token]:
        """What the history says."""
        return [meaning(raw) for raw in self.history]

    def held(self, emitted: Sequence[tuple[Raw, bool]]) -> list[Held]:
        """Return what items say, of which the model emitted some, as the history could."""
        return [(meaning(raw), is_emitted) for raw, is_emitted in emitted]

    def hear(self, events: list[Raw], _body: bytes, said: list[Raw]) -> None:
        """Take an answer that is complete; the model *said* it."""
        self.heard = [event["item"] for event in events if event["type"] == "response.output_item.done"]
        assert self.heard == said

    def rewind(self, keep: int, text: str) -> None:
        """Go back to where there were *keep* items, and say *text* there."""
        self.history, self.heard = [*self.history[:keep], user(text)], []

    def edit(self, place: int) -> None:
        """Change one item."""
        self.history[place] = edited(self.history[place])


class ChatAgent(Agent):
    """A conversation over Chat Completions."""

    front_end = Chat()
    styles = sorted(chat_agents.STYLES.keys() - set(chat_agents.LOSSY))

    def go_on(self, text: str) -> None:
        """Write down what was heard, and answer the calls or say *text*."""
        calls = [call for message in self.heard for call in message.get("tool_calls", ())]
        self.history += [raw for message in self.heard for raw in chat_agents.STYLES[self.style](message)]
        self.history += [{"role": "tool", "tool_call_id": call["id"], "content": text} for call in calls]
        self.history += [] if calls else [user(text)]
        self.heard = []

    @property
    def body(self) -> Raw:
        """The request."""
        return {**self.fields, "messages": self.history}

    @property
    def told(self) -> list[Token]:
        """What the history says."""
        told = chat_meaning.told(chat_meaning.read(orjson.dumps(message)) for message in self.history)
        assert told is not None
        return told

    def held(self, emitted: Sequence[tuple[Raw, bool]]) -> list[Held]:
        """Return what items say, those of a response as one message."""
        return chat_meaning.joined([(chat_meaning.in_response(raw), is_emitted) for raw, is_emitted in emitted])

    def hear(self, _events: list[Raw], body: bytes, said: list[Raw]) -> None:
        """Take the chunks of an answer."""
        heard = chat_agents.streamed(body)
        self.heard = [heard.message]
        assert heard.ended
        assert self.heard == [chat_agents.shown(said).message]

    def rewind(self, keep: int, text: str) -> None:
        """Go back, to before a call if its output is gone."""
        kept = self.history[:keep]
        if keep < len(self.history) and self.history[keep]["role"] == "tool":
            while not kept[-1].get("tool_calls"):
                kept.pop()
            kept.pop()
        self.history, self.heard = [*kept, user(text)], []

    def edit(self, place: int) -> None:
        """Change one message."""
        message = orjson.loads(orjson.dumps(self.history[place]))
        if message.get("tool_calls"):
            call = message["tool_calls"][0]
            call[call.get("type", "function")]["name"] += "!"
        else:
            message["content"] = "edited"
        self.history[place] = message


def user(text: str) -> Raw:
    """Return a user message."""
    return {"role": "user", "content": text}


class PoolMachine(RuleBasedStateMachine):
    """Agents converse over a real pool with the simulated upstream, and every context is compared."""

    agent_of: type[Agent] = Agent

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.stack = AsyncExitStack()
        self.agents: list[Agent] = []
        self.overlaps: list[list[SimulatedTurn]] = []
        self.said = OUTPUTS[0]
        self.now = 0.0

    @initialize(
        max_connections=st.sampled_from((1, 2, 3, 4, 6)),
        dropped=st.sampled_from(("reasoning", "none", "any")),
        terminal_output=st.sampled_from(("full", "empty", "omitted", "done")),
        terminal_ciphertext=st.sampled_from(("same", "different")),
        error_shape=st.sampled_from(("nested", "flat", "response_failed", "codeless", "detail")),
        extra_events=st.sampled_from(((), ("rate_limits_before_created", "unknown_mid_stream"))),
        warm_up=st.sampled_from(("off", "on", "auto")),
    )
    def start(self, *, max_connections: int, dropped: Dropped, warm_up: Mode, **simulated: Any) -> None:
        """Begin with an empty pool."""
        self.dropped: Dropped = dropped
        self.limits = Limits(max_connections, MAX_AGE, IDLE, RETRY, dropped, open_ahead=False)
        self.runner.run(self._start(SimulatorSettings(age_limit_seconds=AGE_LIMIT, **simulated), warm_up))

    async def _start(self, simulated: SimulatorSettings, warm_up: Mode) -> None:
        simulator = Simulator(simulated, script=self._script, clock=lambda: self.now)
        self.simulator = await self.stack.enter_async_context(simulator)
        self.connections = Connections()
        pool = Pool(
            Endpoint(self.simulator.base_url),
            self.limits,
            TIMING,
            traffic=Traffic(),
            connections=self.connections,
            clock=lambda: self.now,
        )
        self.pool = await self.stack.enter_async_context(pool)
        self.restoring = Restoring(
            self.pool,
            Ledger(since=datetime.now(UTC)),
            mode=warm_up,
            dropped=self.dropped,
            max_message_bytes=WAITS.max_message_bytes,
            retry_seconds=RETRY,
            clock=lambda: self.now,
        )
        self.stack.push_async_callback(self.restoring.close)

    def teardown(self) -> None:
        """Close everything."""
        self.runner.run(self.stack.aclose())
        self.runner.close()

    def _script(self, call: ModelCall) -> Output:
        working: dict[int, list[SimulatedTurn]] = {}
        for turn in self.simulator.turns:
            if not turn.finished:
                working.setdefault(turn.connection_id, []).append(turn)
        self.overlaps += [turns for turns in working.values() if len(turns) > 1]
        return self.said

    # What may happen

    @rule(key=st.sampled_from(KEYS), style=Styles, text=st.sampled_from("ab"), said=Said)
    def begin(self, key: str, style: int, text: str, said: Output) -> None:
        """Somebody new speaks, perhaps in words that others used."""
        agent = self.agent_of(key, self.agent_of.styles[style % len(self.agent_of.styles)], [user(text)])
        self.agents.append(agent)
        self._ask(said, agent)
        agent.go_on(text)
        self._ask(said, agent)

    @precondition(lambda self: self.agents)
    @rule(place=Places, texts=st.text("ab", min_size=1, max_size=8), said=Said)
    def go_on(self, place: int, texts: str, said: Output) -> None:
        """Somebody goes on, for a turn or several."""
        agent = self._agent(place)
        for text in texts:
            agent.go_on(text)
            self._ask(said, agent)

    @precondition(lambda self: self.agents)
    @rule(place=Places, said=Said)
    def repeat(self, place: int, said: Output) -> None:
        """Somebody asks the same once more."""
        self._ask(said, self._agent(place))

    @precondition(lambda self: self.agents)
    @rule(place=Places, item=Places, text=st.sampled_from("ab"), said=Said)
    def edit(self, place: int, item: int, text: str, said: Output) -> None:
        """Somebody goes on with a history in which one item was edited."""
        agent = self._agent(place)
        agent.go_on(text)
        agent.edit(item % len(agent.history))
        self._ask(said, agent)

    @precondition(lambda self: self.agents)
    @rule(place=Places, keep=st.integers(0, 6), text=st.sampled_from("ab"), said=Said)
    def rewind(self, place: int, keep: int, text: str, said: Output) -> None:
        """Somebody goes back, and on from there."""
        agent = self._agent(place)
        agent.rewind(keep, text)
        self._ask(said, agent)

    @precondition(lambda self: self.agents)
    @rule(place=Places, texts=st.tuples(st.sampled_from("ab"), st.sampled_from("ab")), said=Said)
    def go_on_twice_at_once(self, place: int, texts: tuple[str, str], said: Output) -> None:
        """Two ends of a conversation that forked speak at once."""
        agent = self._agent(place)
        other = agent.forked()
        self.agents.append(other)
        for _ in range(2):
            agent.go_on(texts[0])
            other.go_on(texts[1])
            self._ask(said, agent, other)

    @precondition(lambda self: self.agents)
    @rule(place=Places, key=st.sampled_from(KEYS), said=Said)
    def speak_with_another_key(self, place: int, key: str, said: Output) -> None:
        """Somebody has the same past, with a key that may be another."""
        other = self._agent(place).forked()
        other.key = key
        self.agents.append(other)
        other.go_on("a")
        self._ask(said, other)

    @rule(key=st.sampled_from(KEYS), texts=st.text("ab", min_size=1, max_size=5), seconds=Pauses, said=Words)
    def ask_for_titles(self, key: str, texts: str, seconds: float, said: Output) -> None:
        """Somebody asks for titles, with which nobody goes on."""
        for text in texts:
            self.now += seconds
            self._ask(said, self.agent_of(key, self.agent_of.styles[0], [user(f"Title: {text}")], purpose=0.25))

    @precondition(lambda self: self.agents)
    @rule(place=Places, texts=st.text("ab", min_size=1, max_size=5), seconds=Pauses, said=Words)
    def go_on_with_suggestions(self, place: int, texts: str, seconds: float, said: Output) -> None:
        """Somebody goes on, and asks after each answer for a suggestion, and for a note of all that was said."""
        agent = self._agent(place)
        for text in texts:
            self.now += seconds
            agent.go_on(text)
            self._ask(said, agent)
            suggestion, note = agent.aside(0.5), agent.aside(0.75)
            suggestion.go_on(text)
            self._ask(said, suggestion)
            note.history.insert(1, user("Note"))
            self._ask(said, note)

    @precondition(lambda self: self.agents)
    @rule(place=Places, said=Said)
    def hang_up(self, place: int, said: Output) -> None:
        """Somebody goes away at the first event of the answer."""
        agent = self._agent(place)
        agent.go_on("a")
        self._ask(said, agent, patient=False)

    @rule(name=st.sampled_from(sorted(FAULTS)))
    def let_something_go_wrong(self, name: str) -> None:
        """Upstream will fail."""
        self.simulator.inject(Fault(**FAULTS[name]))

    @rule(politely=st.booleans())
    def lose_every_connection(self, *, politely: bool) -> None:
        """Upstream restarts."""
        self.runner.run(self._lose(politely=politely))

    async def _lose(self, *, politely: bool) -> None:
        lost = [slot.connection for slot in self._slots if slot.connection is not None]
        if politely:
            await self.simulator.close_connections()
        else:
            self.simulator.abort_connections()
        async with asyncio.timeout(20):
            while any(slot.connection in lost for slot in self._slots):  # noqa: ASYNC110  nobody tells when one has gone
                await asyncio.sleep(0.001)

    @rule()
    def wait_for_uploads(self) -> None:
        """Nobody speaks until everything is uploaded again that will be."""
        self.runner.run(self._uploaded())

    async def _uploaded(self) -> None:
        async with asyncio.timeout(20):
            while tasks := [job.task for job in self.restoring._jobs if job.task is not None]:
                await asyncio.wait(tasks)

    @rule(seconds=st.sampled_from((RETRY, IDLE, MAX_AGE, AGE_LIMIT - IDLE + 1)))
    def wait(self, seconds: float) -> None:
        """Time passes."""
        self.now += seconds

    # What must hold

    @invariant()
    def every_place_is_free(self) -> None:
        """With no turn under way nothing is lent, and the figures count the places there are."""
        if not hasattr(self, "pool"):
            return
        partitions = list(self.pool._partitions.values())
        lent = [slot for slot in self._slots if not slot.free]
        assert len(lent) <= sum(job.uploading is not None for job in self.restoring._jobs) <= 1
        assert all(len(partition.slots) <= self.limits.max_connections for partition in partitions)
        is_open = [slot for slot in self._slots if slot.connection is not None and slot.closing is None]
        assert self.connections.open == len(is_open)
        assert len(self._slots) - len(is_open) <= len(lent)
        assert self.connections.opened >= self.connections.open + self.connections.lost

    @invariant()
    def a_connection_answers_one_turn_at_a_time(self) -> None:
        """Upstream never had two turns of one connection."""
        assert not self.overlaps

    @property
    def _slots(self) -> list[_Slot]:
        return [slot for each in self.pool._partitions.values() for slot in each.slots.values()]

    # A request and its answer

    def _agent(self, place: int) -> Agent:
        return self.agents[place % len(self.agents)]

    def _ask(self, said: Output, *agents: Agent, patient: bool = True) -> None:
        self.said = said
        self.runner.run(self._ask_all(agents, patient=patient))

    async def _ask_all(self, agents: tuple[Agent, ...], *, patient: bool) -> None:
        async with asyncio.timeout(20), asyncio.TaskGroup() as group:
            for agent in agents:
                group.create_task(self._ask_one(agent, patient=patient))

    async def _ask_one(self, agent: Agent, *, patient: bool) -> None:
        headers = (("Authorization", agent.key), ("X-Request-Id", str(len(self.simulator.turns))))
        request = agent.front_end.decode(orjson.dumps(agent.body))
        assert isinstance(request, Readable)
        turn = Turn(request.turn, tells=request.answer.tells)
        partition = self.pool.partition(of_identity(headers))
        exchange = Exchange(
            turn,
            pool=self.pool,
            partition=partition,
            waits=WAITS,
            clock=lambda: self.now,
            traffic=Traffic(),
            keeps_content=self.restoring.enabled,
        )
        shown: list[ServerEvent] = []
        given: list[bytes] = []

        async def deliver(events: tuple[ServerEvent, ...]) -> None:
            shown.extend(events)
            given.extend(request.answer.add(event) for event in events)
            if not patient:
                raise ConnectionResetError

        def show_now(event: ServerEvent) -> bool:
            shown.append(event)
            given.append(request.answer.add(event))
            return True

        try:
            await self.restoring.make_way(request.turn, partition)
            await exchange.run(deliver, show_now)
        except (PlainHTTP, UpstreamError, ConnectionLost, ConnectionResetError):
            assert turn.state is not State.COMPLETED or not patient
        if shown:
            events = [orjson.loads(event.raw) for event in shown]
            self._check(agent, events, b"".join(given), complete=turn.state is State.COMPLETED)

    def _check(self, agent: Agent, events: list[Raw], body: bytes, *, complete: bool) -> None:
        """Compare what upstream read with what the agent said."""
        names = {event["response"]["id"] for event in events if "response" in event} - {None}
        if not names:
            return  # a refusal, worded as a response that failed
        assert len(names) == 1
        (turn,) = (turn for turn in self.simulator.turns if turn.response_id in names)
        emitted = self._emitted()
        held = agent.held([(raw, id(raw) in emitted) for raw in turn.context])
        told = agent.told
        assert agree(held, told, self.dropped), f"upstream read {held}, the agent said {told}"
        assert turn.identity.authorization == agent.key
        assert self.simulator.connections[turn.connection_id].identity == turn.identity
        if complete:
            agent.hear(events, body, turn.output)

    def _emitted(self) -> set[int]:
        """Return the items that the model emitted; at the end of a warm-up they are told once more."""
        emitted = {id(raw) for each in self.simulator.turns for raw in each.output}
        names = {raw.get("id") for each in self.simulator.turns for raw in each.output}
        for each in self.simulator.turns:
            if not each.generate:
                told = itertools.takewhile(lambda raw: raw.get("id") in names, reversed(each.context))
                emitted |= set(map(id, told))
        return emitted


def edited(raw: Raw) -> Raw:
    """Return *raw* with other words in it."""
    for name in ("arguments", "input", "output"):
        if name in raw:
            return {**raw, name: '{"x":9}'}
    if "content" in raw and "role" in raw:
        kind = "output_text" if raw["role"] == "assistant" else "input_text"
        return {**raw, "content": [{"type": kind, "text": f"{meaning(raw)[2]}!"}]}
    return {**raw, "summary": [*raw.get("summary", ()), {"type": "summary_text", "text": "!"}]}


class ChatPoolMachine(PoolMachine):
    """The same with agents that speak Chat Completions."""

    agent_of = ChatAgent


PoolMachine.TestCase.settings = settings(max_examples=100, stateful_step_count=30)
ChatPoolMachine.TestCase.settings = PoolMachine.TestCase.settings
TestPool = PoolMachine.TestCase
TestChatPool = ChatPoolMachine.TestCase
