"""World: agents that converse through the proxy with the model upstream, and change their history in every way.

Everything is decided by one *pick*, so that a seed or hypothesis can drive it. Texts, names and call ids come
from tiny alphabets: different histories look alike, which is what finds mistakes. What agents write and read
depends on the API that they speak: `responses_world` and `chat_world` have a world for each.
"""

import asyncio
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from random import Random
from typing import Any, ClassVar, Self

import orjson
from meaning import Dropped, Held, Raw, Token, agree, meaning
from model_upstream import Answer, MemoryPool, ModelUpstream, Pick, settings_read

from proxy.core.delta import Delta, Full, Mismatch
from proxy.core.events import ServerEvent
from proxy.core.turn import Rewrite, Turn
from proxy.errors import ConnectionLost, UpstreamError
from proxy.exchange import Exchange, PlainHTTP, Waits
from proxy.frontends.base import FrontEnd, Opaque, Readable
from proxy.ledger import Ledger, Traffic
from proxy.restoring import Job, Restoring
from proxy.upstream.connection import Connection
from proxy.upstream.headers import of_identity
from proxy.upstream.partition import Partition
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
BESIDE: tuple[Raw, ...] = ({"temperature": 0.25}, {"temperature": 0.75}, {"temperature": 1.25})
"""What tells apart the purposes of requests beside a conversation: titles, suggestions, notes of what was said."""

FIXED = ("model", "store", "novelty", "truncation")
"""The settings that make another chain."""

KEYS = (
    (("Authorization", "Bearer one"), ("X-Request-Id", "1")),
    (("Authorization", "Bearer two"), ("X-Request-Id", "1")),
    (("Authorization", "Bearer one"), ("OpenAI-Project", "p"), ("X-Request-Id", "2")),
)
IDENTITIES = tuple(of_identity(headers) for headers in KEYS)
WAITS = Waits(first_event_timeout=1, event_timeout=1, max_message_bytes=1_000_000, websocket_retry_seconds=20)


def _is_weighed(turn: Turn) -> bool:
    """Whether there was a verdict on a chain that the turn continued."""
    weight = turn.upload.baseline.weight if isinstance(turn.upload, Delta) else None
    return weight is not None and weight.least > weight.loose


class WrongContext(AssertionError):
    """Upstream answered another history than the agent's."""


@dataclass(frozen=True, slots=True)
class Settings:
    """A request without its history: what the agent says, and what upstream is to be told.

    *asked* is None where upstream cannot be told over a WebSocket.
    """

    said: Raw
    asked: Raw | None


@dataclass(frozen=True, slots=True)
class Entry:
    """One element of an agent's history: its JSON, and what it says."""

    written: bytes
    token: Token | None


@dataclass
class Agent:
    """A conversation. *heard* is what the model said last, which the agent has yet to write down.

    One that *suggests* has each answer followed by a suggestion, beside it; *has_asked* says that this was done.
    """

    key: int
    echo: int
    settings: int
    history: list[Entry]
    heard: list[Raw] = field(default_factory=list)
    busy: bool = False
    suggests: bool = False
    has_asked: bool = False


@dataclass
class Case:
    """One request on its way; *shown* are the events for the agent, and *given* the bytes made of them."""

    agent: Agent
    settings: Settings
    told: list[Entry]
    key: int
    shown: list[ServerEvent] = field(default_factory=list)
    given: list[bytes] = field(default_factory=list)


class World(ABC):
    """Some agents, one pool, one upstream."""

    front_end: ClassVar[FrontEnd]
    settings: ClassVar[Sequence[Settings]]
    usual_settings: ClassVar[int]
    """So many of *settings* come first that agents stay with; the rest they only try."""

    echoes: ClassVar[int]
    """How many ways there are of writing down what the model said."""

    policies: ClassVar[Sequence[Dropped]] = ("reasoning", "none", "any")
    """What agents may leave out, by world."""

    copes_with_carelessness: ClassVar[bool] = False
    """Whether agents can be told the items of a response out of order."""

    longest: ClassVar[int] = 8
    """The length at which a history is compacted."""

    sayings: ClassVar[Sequence[str]]
    """What a response consists of: messages, calls, reasoning, searches, compaction."""

    def __init__(self, pick: Pick, *, faults: int = 12, log: Callable[[str], None] | None = None) -> None:
        self.pick = pick
        self.cases = 0
        self.outcomes: Counter[str] = Counter()
        self.dropped = self.policies[pick(len(self.policies))]
        self._is_interactive = pick(16) == 15
        self._their_settings = pick(self.usual_settings) if self._is_interactive else 0
        self.length = 4 * CASES_A_WORLD if self._is_interactive else CASES_A_WORLD
        self.upstream = ModelUpstream(
            pick, self._say, self._read_item, self._pieces, faults // 2 if self._is_interactive else faults
        )
        self.hoists = bool(pick(2))
        self.upstream.refuses_tools = pick(6) == 5
        self.upstream.keeps_instructions = pick(4) == 3
        self.upstream.is_known = pick(3) < 2
        self.upstream.appends = not self.upstream.keeps_instructions and pick(4) == 3
        self.upstream.is_careless = self.copes_with_carelessness and pick(3) == 2
        self.upstream.sharing = (0, 0, 4, 2)[pick(4)]
        repeats_ids = {0: False, 4: True}.get(self.upstream.sharing)
        self._now = 0.0
        limits = Limits(
            max_connections=(12, 12, 12, 2)[pick(4)] if self._is_interactive else (8, 6, 4, 8, 3, 2, 1)[pick(7)],
            max_age_seconds=200,
            idle_seconds=150 if self._is_interactive else 50,
            websocket_retry_seconds=20,
            dropped_output=self.dropped,
            open_ahead=False,
            repeats_ids=repeats_ids if pick(2) else None,
            begins_anew=not self.upstream.appends,
        )
        self.pool = MemoryPool(self.upstream, limits, self._clock)
        self._lost: deque[Job] = deque(maxlen=3)
        self._speakers: dict[str, Agent] = {}
        self._is_uploading = False
        self._next: Agent | None = None
        self._sayings = ("m",) * 40 * self._is_interactive + tuple(self.sayings)
        self._restoring = Restoring(
            self.pool,
            Ledger(since=datetime.now(UTC)),
            mode=("off", "on", "auto")[pick(3)],
            dropped=self.dropped,
            max_message_bytes=1_000_000,
            retry_seconds=20,
            clock=self._clock,
        )
        self.pool.when_lost = self._note_lost
        self._agents: list[Agent] = []
        self._running: list[tuple[Case, Coroutine[Any, Any, None]]] = []
        self._made = 0
        self._log = log

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        for _, running in self._running:
            with suppress(RuntimeError):  # it waits once more, to show what came before its end
                running.close()
            running.close()

    # What the API that the agents speak decides

    @abstractmethod
    def _body(self, case: Case) -> bytes:
        """Write a request."""

    @abstractmethod
    def _meaning(self, history: Sequence[Entry]) -> list[Token] | None:
        """Return what *history* says, or None where no items can say it."""

    def _held(self, context: list[Held]) -> list[Held]:
        """Return *context*, which upstream has, as an agent's history could tell it."""
        return context

    def _read_item(self, written: bytes) -> Token:
        """Return what an item says that neither agent nor model wrote."""
        raise AssertionError(f"nobody wrote {written!r}")

    def _pieces(self, index: int, raw: Raw, some: bool) -> list[Raw]:  # noqa: FBT001  (the only flag)
        """Return the events that tell the item *raw* before its end: all of it, none, or if asked only some."""
        return []

    @abstractmethod
    def _heard(self, case: Case, answer: Answer) -> list[Raw]:
        """Return what the agent keeps of the answer it was shown. Raises AssertionError where that is wrong."""

    @abstractmethod
    def _heard_over_http(self, outputs: list[Raw]) -> list[Raw]:
        """Return what the agent keeps of an answer from upstream's own endpoint."""

    @abstractmethod
    def _user(self) -> Entry:
        """Return what a person says, or a program."""

    @abstractmethod
    def _echoed(self, agent: Agent) -> list[Entry]:
        """Write down what the model said, in the agent's way."""

    @abstractmethod
    def _answers(self, heard: list[Raw]) -> list[Entry]:
        """Answer the calls among what was heard."""

    @abstractmethod
    def _respelled(self, entry: Entry) -> Entry:
        """Return the same, written in another way."""

    @abstractmethod
    def _stranger(self) -> Entry:
        """Return something as only the model says it, which the model did not say."""

    @abstractmethod
    def _summary(self) -> Entry:
        """Return what can stand for a history."""

    @abstractmethod
    def _edited(self, entry: Entry) -> Entry:
        """Return what differs from *entry* in one thing, written anew."""

    @abstractmethod
    def _edited_in_place(self, entry: Entry) -> Entry:
        """Return *entry* written the same way, but for one field."""

    # Time

    def _clock(self) -> float:
        return self._now

    def step(self) -> None:
        """Let something happen: a request begins, or one that is under way goes on, or is given up."""
        self._now += 12 if self.pick(10) == 9 else self.pick(4)
        crowded = len(self._running) > 2 or not any(not agent.busy for agent in self._agents)
        if self._running and self.pick(3) < (3 if crowded else 2):
            self._advance(self.pick(len(self._running)))
            return
        if self.pick(40) == 39:
            self._lose_one()
        if self._restore():
            return
        agent = self._agent()
        case = self._next_case(agent)
        case.agent.busy = True
        self._running.append((case, self._run(case)))
        self._advance(len(self._running) - 1)

    def settle(self) -> None:
        """Let everything under way end; then every place in the pool is free, every socket accounted for."""
        while self._running:
            self._advance(0)
        self.outcomes["taken"] += self.pool.taken
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
        except (StopIteration, asyncio.CancelledError) as exc:
            del self._running[index]
            case.agent.busy = False
            hung_up = isinstance(exc, asyncio.CancelledError) and case.shown and not case.shown[-1].terminal
            if hung_up and self.pick(2):
                self._check(case)  # the agent may go on with a part of the answer

    def _note_lost(self, partition: Partition, connection: Connection, last_used: float) -> None:
        if connection.keepsake is not None:
            self._lost.append(Job(connection.keepsake, partition, last_used))

    def _restore(self) -> bool:
        """Begin to upload a conversation again that was lost."""
        if not self._lost or self._is_uploading or self.pick(6) == 5:
            return False
        job = self._lost.pop()
        if not self.pool.has_room(job.partition):
            return False
        nobody = Agent(0, 0, 0, [], busy=True)
        self._running.append((Case(nobody, self.settings[0], [], 0), self._upload(job)))
        self._advance(len(self._running) - 1)
        return True

    async def _upload(self, job: Job) -> None:
        self.upstream.uploaded_again = len(job.keepsake.outputs)
        self._is_uploading = True
        try:
            outcome = await self._restoring.upload(job)
        finally:
            self._is_uploading = False
        self.outcomes[f"warm-up {outcome.value}"] += 1
        self._next = self._speakers.get(job.keepsake.baseline.response_id)

    def _lose_one(self) -> None:
        connections = self.upstream.connections
        free = [slot for each in self.pool.partitions for slot in each.slots.values() if slot.free]
        if self._restoring.enabled and free:
            used_last = max(free, key=lambda slot: slot.last_used).connection
            assert used_last is not None
            used_last.abort()
        elif connections:
            connections[-1 - self.pick(min(4, len(connections)))].lose()

    # A request and its answer

    async def _run(self, case: Case) -> None:
        body = self._body(case)
        if self._log is not None:
            self._log(f"{case.agent.key} {id(case.agent) % 9973} asks {body.decode()}")
        self.cases += 1
        read = self.front_end.decode(body)
        makes_sense = self._meaning(case.told) is not None
        tellable = makes_sense and case.settings.asked is not None
        if isinstance(read, Opaque):
            assert not tellable, f"{read} was read in {body!r}"
            self.outcomes["http not translated"] += 1
            self._over_http(case, refused=not makes_sense)
            return
        if not tellable:
            raise WrongContext(f"upstream can be told {read.turn.fields}, but not {body!r}")
        turn = self._turn(read)
        partition = self.pool.partition(IDENTITIES[case.key])
        exchange = Exchange(
            turn,
            pool=self.pool,
            partition=partition,
            waits=WAITS,
            clock=self._clock,
            traffic=Traffic(),
            keeps_content=self._restoring.enabled,
        )

        async def deliver(events: tuple[ServerEvent, ...]) -> None:
            case.shown += events
            case.given += [read.answer.add(event) for event in events]
            await self.upstream.pause()

        try:
            await exchange.run(deliver, partial(self._show_now, case, read))
            case.given.append(read.answer.finish())
            self.outcomes[turn.state.value] += 1
        except PlainHTTP as exc:
            self.outcomes[f"http {exc.reason}"] += 1
            if self.pick(3) == 2:
                exc.accepted()
            self._over_http(case)
            return
        except (UpstreamError, ConnectionLost) as exc:
            self.outcomes[type(exc).__name__] += 1
        self.outcomes["aside"] += turn.upload == Full(Mismatch.ASIDE)
        assert turn.collapse is None, f"an honest upstream was accused: {turn.collapse}"
        self.outcomes["weighed"] += _is_weighed(turn)
        if turn.baseline is not None:
            self._speakers[turn.baseline.response_id] = case.agent
        if case.shown:
            self._check(case)

    def _show_now(self, case: Case, read: Readable, event: ServerEvent) -> bool:
        assert case.shown, "the agent has no status yet"
        if self.pick(4) == 3:
            return False
        case.shown.append(event)
        case.given.append(read.answer.add(event))
        return True

    def _turn(self, read: Readable) -> Turn:
        """Return the turn that answers what was *read*; whether a chain may begin in another form changes."""
        rewrites = {Rewrite.KEPT} if self.upstream.keeps_instructions and self.upstream.is_known else set()
        request = read.turn
        if self.hoists:
            request = request.hoistable()
            rewrites |= {Rewrite.HOISTED, Rewrite.QUIET} if self.pick(6) < 5 else {Rewrite.QUIET}
        anew = self.pool.begins_anew
        return Turn(request, tells=read.answer.tells, rewrites=frozenset(rewrites), begins_anew=anew)

    def _over_http(self, case: Case, *, refused: bool = False) -> None:
        if refused:
            case.agent.history, case.agent.heard = [self._user()], []
            return
        said = self._say([])
        for raw, token in said:
            self.upstream.learn(raw, token)
        case.agent.heard = self._heard_over_http([raw for raw, _ in said])

    def _check(self, case: Case) -> None:
        """Compare the context behind what the agent was shown with what the agent said."""
        shown = {orjson.loads(event.raw)["response"].get("created_at") for event in case.shown if _is_named(event)}
        assert len(shown) == 1, f"events of several responses were shown: {shown}"
        answer = self.upstream.answers[shown.pop()]
        told = self._meaning(case.told)
        assert told is not None
        asked = case.settings.asked
        assert asked is not None
        told = [*settings_read(asked), *told]
        held = [*((token, False) for token in settings_read(answer.settings)), *self._held(answer.context)]
        if self._log is not None:
            self._log(f"  upstream read {held} on connection {id(answer.connection) % 9973}")
        if not agree(held, told, self.dropped):
            raise WrongContext(f"upstream read {held}, the agent said {told}")
        if answer.connection.headers != IDENTITIES[case.key]:
            raise WrongContext(f"a connection of {answer.connection.headers} answered {KEYS[case.key]}")
        if self._beside_the_prompt(answer.settings) != self._beside_the_prompt(asked):
            raise WrongContext(f"upstream was told {answer.settings}, the agent said {asked}")
        for event in case.shown:
            self._check_echo(event, asked)
        self.outcomes["hoisted"] += len(settings_read(asked)) > len(settings_read(answer.settings))
        if answer.parent is not None:
            self.outcomes["delta"] += 1
            self.outcomes["restored"] += answer.parent.is_warm_up
            self.outcomes["recalled"] += answer.parent.connection is not answer.connection
            before = answer.parent.settings
            if any(before.get(name) != asked.get(name) for name in FIXED):
                raise WrongContext(f"a chain went on from {before} to {asked}")
        case.agent.heard = self._heard(case, answer)

    def _beside_the_prompt(self, settings: Raw) -> Raw:
        """Return what *settings* say besides what was compared with the items, and padding, which nobody reads.

        Instructions that are null are none.
        """
        read = {name for name in ("instructions", "tools") if settings.get(name)} | {"stream_options"}
        read |= {name for name in ("instructions",) if settings.get(name) is None}
        return {name: value for name, value in settings.items() if name not in read}

    def _check_echo(self, event: ServerEvent, asked: Raw) -> None:
        """Check that an event tells the settings as the agent gave them."""
        response = orjson.loads(event.raw).get("response")
        if response is None:
            return
        for name, nothing in (("instructions", None), ("tools", [])):
            if response[name] != asked.get(name, nothing):
                raise WrongContext(f"the agent was shown {response[name]}, and had said {asked.get(name)}")
        self.outcomes["echoes"] += 1

    def _say(self, _context: list[Held]) -> list[tuple[Raw, Token]]:
        """Decide what the model says."""
        kinds = ("", "", "r")[self.pick(3)] + self._sayings[self.pick(len(self._sayings))]
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
        raw, phase = self._phased(parts)
        return raw, ("message", "assistant", text, phase)

    def _phased(self, parts: list[Raw]) -> tuple[Raw, str | None]:
        """Return a message of *parts*, and in which phase it was said."""
        phase = (None, None, "commentary", "final_answer")[self.pick(4)]
        raw = {"id": f"msg_{self._number()}", "type": "message", "status": "completed", "content": parts}
        return {**raw, "role": "assistant", **({"phase": phase} if phase else {})}, phase

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
        raw: Raw = {"id": f"rs_{number}", "type": "reasoning", **thoughts(told)}
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

    # What agents do

    def _agent(self) -> Agent:
        """Choose who speaks next: somebody new, a fork of somebody, or somebody who waits."""
        idle = [agent for agent in self._agents if not agent.busy]
        act = self.pick(16)
        following, self._next = self._next, None
        if following in idle and act < 13:
            return following
        if idle and act < (16 if self._is_interactive and self._agents[1:] and self.pick(3) else 13):
            return idle[self.pick(len(idle))]
        if self._agents and act < 15:
            other = self._agents[self.pick(len(self._agents))]
            key = other.key if self.pick(3) else self.pick(len(KEYS))
            agent = Agent(key, other.echo, other.settings, list(other.history), list(other.heard))
        else:
            key = self.pick(2 + self.pick(2))
            agent = Agent(key, self.pick(self.echoes), self.pick(self.usual_settings), [self._user()])
            if self._is_interactive:
                agent.key, agent.echo, agent.settings = 0, 0, self._their_settings
                agent.suggests = self.pick(2) == 1
        if len(self._agents) >= (2 if self._is_interactive else 4) and idle:
            self._agents.remove(idle[self.pick(len(idle))])
        self._agents.append(agent)
        return agent

    def _next_case(self, agent: Agent) -> Case:
        """Return the agent's next request."""
        pick = self.pick
        settings = self.settings[pick(len(self.settings)) if pick(10) == 9 else agent.settings]
        if agent.suggests and agent.heard and not agent.has_asked:
            agent.has_asked, self._next = True, agent
            return self._beside(agent, 1)
        if pick(16) >= (9 if self._is_interactive else 15):
            return self._beside(agent, (0, 0, 2, 2, 1)[pick(5)])
        agent.has_asked = False
        if (agent.heard or agent.history[1:]) and pick(8) != 7:  # else: the same body once more
            self._go_on(agent)
        return Case(agent, settings, list(agent.history), agent.key)

    def _beside(self, agent: Agent, purpose: int) -> Case:
        """Return a request for *purpose* beside the conversation of *agent*; mostly nobody goes on with it."""
        pick = self.pick
        settings = self.settings[agent.settings if purpose else self._their_settings]
        told = [self._user() for _ in range(3)]  # as nobody else begins
        if purpose:
            told = [*agent.history, *self._echoed(agent), *self._answers(agent.heard), self._user()]
        if purpose == 2:
            told = [told[0], self._user(), *told[1:]]
        if pick(8) != 7:
            asked = settings.asked
            settings = Settings(
                settings.said | BESIDE[purpose], None if asked is None else asked | BESIDE[purpose]
            )
        other = Agent(agent.key, agent.echo, agent.settings, told)
        if pick(100) == 99:
            self._agents.append(other)  # somebody goes on there after all
        return Case(other, settings, list(told), agent.key)

    def _go_on(self, agent: Agent) -> None:
        pick = self.pick
        if pick(40 if self._is_interactive else 10) == 9:
            agent.echo = pick(self.echoes)
        echoed = self._echoed(agent)
        reply = self._reply(agent.heard)
        agent.heard = []
        if pick(16 if self._is_interactive else 4) == 3:
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
        if len(agent.history) > self.longest * (1 + self._is_interactive):
            agent.history = self._compacted(agent.history)
        if not agent.history:
            agent.history = [self._user()]

    def _reply(self, heard: list[Raw]) -> list[Entry]:
        """Answer the calls among what was heard, or say something."""
        answers = self._answers(heard)
        if not answers or self.pick(6) == 5:
            answers.append(self._user())
        if self.pick(12) == 11:
            answers.append(self._user())
        return answers

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

    def _compacted(self, items: list[Entry]) -> list[Entry]:
        """Return a summary in place of all but the last items."""
        summary = self._user() if self.pick(2) else self._summary()
        return [summary, *items[len(items) - self.pick(3) :]] if self.pick(2) else [summary]


CASES_A_WORLD = 30


def seeded(seed: int) -> Pick:
    """Return a pick that *seed* decides."""
    random = Random(seed).random
    return lambda below: int(random() * below)


def chosen(choices: bytes) -> Pick:
    """Return a pick that *choices* decide, one by one; after the last it is the plainest each time."""
    left = iter(choices)
    return lambda below: next(left, 0) % below


def play(world_of: type[World], seeds: range) -> Counter[str]:
    """Live through a world for each of *seeds*; return how its cases ended. A failure names its seed."""
    outcomes: Counter[str] = Counter()
    for seed in seeds:
        try:
            with world_of(seeded(seed)) as world:
                while world.cases < world.length:
                    world.step()
                world.settle()
        except AssertionError as exc:
            raise type(exc)(f"seed {seed}: {exc}") from exc
        outcomes += world.outcomes
        outcomes["cases"] += world.cases
    return outcomes


def thoughts(told: tuple[Any, ...]) -> Raw:
    """Return the readable part of reasoning."""
    raw: Raw = {"summary": [{"type": "summary_text", "text": text} for text in told if isinstance(text, str)]}
    content = [{"type": "reasoning_text", "text": text[1]} for text in told if not isinstance(text, str)]
    return {**raw, "content": content} if content else raw


def _is_named(event: ServerEvent) -> bool:
    return event.type in {"response.created", "response.completed", "response.incomplete", "response.failed"}
