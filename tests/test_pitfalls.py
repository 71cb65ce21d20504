"""What went wrong in other systems that turn full histories into continued responses, a test or more for each.

The numbers are those of the list of reported failures this project began with, most harmful first. Each test
fails where the guard it is about is removed: scripts/mutants removes them, one at a time, and expects that.
"""

import asyncio
import copy
import hashlib
from collections.abc import Awaitable, Callable
from typing import Any

import orjson
import pytest
from proxied import Message, Peer, Proxied
from said import event, user
from structlog.testing import capture_logs

from proxy.core.delta import Full, Mismatch, TurnRequest
from proxy.core.turn import State, Turn
from proxy.errors import ConnectionLost
from proxy.frontends.base import Readable
from proxy.frontends.responses import Responses
from proxy.ledger import TurnRecord
from proxy.simulator import (
    Compaction,
    CustomToolCall,
    Failed,
    Fault,
    FunctionCall,
    Incomplete,
    ModelCall,
    Output,
    Reasoning,
    Text,
    rendered,
    says,
    scripted,
)

Item = dict[str, Any]
History = list[Item]
Start = Callable[..., Awaitable[Proxied]]


def tool_output(call_id: str, output: str = "done") -> Item:
    """Return what a tool answered."""
    return {"type": "function_call_output", "call_id": call_id, "output": output}


def tool(name: str) -> Item:
    """Return the definition of a tool."""
    return {"type": "function", "name": name, "parameters": {"type": "object", "properties": {}}}


def events_of(answer: Message) -> list[dict[str, Any]]:
    """Return the events in *answer*, each of which has one line for its name and one for its data."""
    events = []
    for block in answer.body.decode().split("\n\n")[:-1]:
        name, data = block.split("\n")
        events.append(orjson.loads(data.removeprefix("data: ")))
        assert name == f"event: {events[-1]['type']}"
    return events


def text_of(answer: Message) -> str:
    """Return what the model said in *answer*."""
    return "".join(event["delta"] for event in events_of(answer) if event["type"] == "response.output_text.delta")


class Agent:
    """A coding agent: it sends its whole history with each turn, and adds to it what the model says."""

    def __init__(self, proxied: Proxied, *headers: tuple[str, str], key: str = "key", **fields: Any) -> None:
        self.history: History = []
        self.headers = headers
        self.fields = {"model": "m", "stream": True, "store": False, **fields}
        self.sent = b""
        self.last: dict[str, Any] = {}
        self._proxied = proxied
        self._key = key

    async def ask(self, *new: Item | str, **fields: Any) -> Message:
        """Send the history with *new* items; return the answer, whatever it is."""
        self.history += [user(each) if isinstance(each, str) else each for each in new]
        self.sent = orjson.dumps({"input": self.history, **self.fields, **fields})
        return await self._proxied.ask("POST", "/v1/responses", *self._heads(), body=self.sent)

    async def turn(self, *new: Item | str, **fields: Any) -> Message:
        """Send the history with *new* items; expect that the model answers, and remember what it says."""
        answer = await self.ask(*new, **fields)
        assert answer.status == 200, answer.body
        events = events_of(answer)
        assert events[0]["type"] == "response.created"
        assert events[-1]["type"] == "response.completed"
        self.last = events[-1]["response"]
        self.history += [event["item"] for event in events if event["type"] == "response.output_item.done"]
        return answer

    async def begin(self, *new: Item | str) -> Peer:
        """Send the history with *new* items; the answer is still to come."""
        self.history += [user(each) if isinstance(each, str) else each for each in new]
        self.sent = orjson.dumps({"input": self.history, **self.fields})
        peer = await self._proxied.dial()
        await peer.begin("POST", "/v1/responses", *self._heads(), ("Content-Length", str(len(self.sent))))
        await peer.send(self.sent)
        return peer

    async def leave(self, *new: Item | str, events: int) -> None:
        """Send the history with *new* items, read some *events* of the answer and hang up."""
        peer = await self.begin(*new)
        pieces = peer.pieces(await peer.head())
        seen = b""
        while seen.count(b"\n\n") < events:
            seen += await anext(pieces)
        peer.close()

    def _heads(self) -> tuple[tuple[str, str], ...]:
        return (("Authorization", f"Bearer {self._key}"), ("Content-Type", "application/json"), *self.headers)


def newest(proxied: Proxied) -> TurnRecord:
    """Return the record of the turn that ended last."""
    return next(proxied.server.ledger.turns(1))


def assert_continued(proxied: Proxied, *new: Item) -> None:
    """Check that the newest turn sent only *new* items after the one before."""
    *_, before, turn = proxied.simulator.turns
    assert turn.previous_response_id == before.response_id
    assert turn.input == list(new)
    assert turn.connection_id == before.connection_id


def assert_in_full(proxied: Proxied, history: History) -> None:
    """Check that the newest turn continued nothing, and that the model read *history* as it is."""
    turn = proxied.simulator.turns[-1]
    assert turn.previous_response_id is None
    assert turn.context == history


def request(*items: Item, **fields: Any) -> TurnRequest:
    """Return the request of an agent whose history is *items*."""
    read = Responses().decode(orjson.dumps({"model": "m", "stream": True, "input": items, **fields}))
    assert isinstance(read, Readable)
    return read.turn


# 1. An agent hangs up, and the next turn reads what was meant for it.


@pytest.mark.parametrize("turns_before", [0, 1])
async def test_pitfall_01_stale_connection_after_abort(proxied: Start, turns_before: int) -> None:
    """Once an agent hung up in mid-answer, its connection is cut and the next turn runs on another."""
    long = "words that nobody waits for any more " * 12
    world = await proxied(scripted([*["before"] * turns_before, long, "the new answer"]))
    agent = Agent(world)
    for _ in range(turns_before):
        await agent.turn("zero")
    world.simulator.inject(Fault("after_events", "slow", events=8, seconds=0.2))
    await agent.leave("one", events=6)
    abandoned = world.simulator.turns[-1]
    await world.simulator.until(lambda: abandoned.finished)
    assert abandoned.cancelled
    answer = await agent.turn("two")
    assert text_of(answer) == "the new answer"
    assert_in_full(world, agent.history[:-1])
    assert world.simulator.turns[-1].connection_id != abandoned.connection_id
    assert newest(world).attempts == 1


async def test_pitfall_01_an_agent_that_leaves_in_silence(proxied: Start) -> None:
    """An agent that hangs up before the first event ends its turn at once, not when upstream speaks again."""
    world = await proxied(scripted([Output((Text("too late"),), first_event_seconds=60), "the new answer"]))
    agent = Agent(world)
    peer = await agent.begin("one")
    await world.simulator.until(lambda: len(world.simulator.turns) == 1)
    peer.close()
    await world.simulator.until(lambda: world.simulator.turns[0].finished, seconds=3)
    assert world.simulator.turns[0].cancelled
    assert text_of(await agent.turn("two")) == "the new answer"
    assert_in_full(world, agent.history[:-1])


def test_pitfall_01_words_before_the_response_began() -> None:
    """On a connection that had turns before, output ahead of this turn's response.created is not this turn's."""
    turn = Turn(request(user("one")))
    turn.start(Full(Mismatch.FIRST_TURN), reused=True)
    with pytest.raises(ConnectionLost):
        turn.receive(event("response.output_text.delta", delta="the last answer's"))


# 2. The model's own output is sent back to the upstream that already holds it.


async def test_pitfall_02_output_resent_with_the_delta(proxied: Start) -> None:
    """A delta has what the agent added and nothing that the model said, so no item exists twice upstream."""
    first = says(Reasoning(("**Looking**",)), "I look", FunctionCall("ls", "{}", "call_1"))
    world = await proxied(scripted([first, "an empty directory"]))
    agent = Agent(world)
    await agent.turn("what is there?")
    await agent.turn(tool_output("call_1"))
    assert_continued(world, tool_output("call_1"))
    context = world.simulator.turns[-1].context
    assert context == agent.history[:-1]
    ids = [item["id"] for item in context if "id" in item]
    assert len(ids) == len(set(ids)) == 3


# 3. The history was edited, but the chain goes on as if it had not been.


def change_model(history: History) -> History:
    """Change one character of what the model said first."""
    edited = copy.deepcopy(history)
    edited[1]["content"][0]["text"] = "Alphi"
    return edited


def change_last_answer(history: History) -> History:
    """Change one character of what the model said last."""
    edited = copy.deepcopy(history)
    edited[3]["content"][0]["text"] = "beto"
    return edited


EDITS: dict[str, Callable[[History], History]] = {
    "a character of the user's": lambda history: [user("onE"), *history[1:]],
    "a character of the model's": change_model,
    "a character of the last answer": change_last_answer,
    "a message dropped": lambda history: history[1:],
    "the last answer dropped": lambda history: history[:-1],
    "two swapped": lambda history: [history[2], history[1], history[0], history[3]],
    "one inserted": lambda history: [history[0], user("and"), *history[1:]],
    "taken back": lambda history: history[:2],
    "begun again": lambda history: [],
}


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
async def test_pitfall_03_edited_history(proxied: Start, edit: Callable[[History], History]) -> None:
    """A history that differs anywhere from what upstream holds is sent whole, and read as it now is."""
    world = await proxied(scripted(["alpha", "beta", "gamma"]))
    agent = Agent(world)
    await agent.turn("one")
    await agent.turn("two")
    assert_continued(world, user("two"))
    agent.history = edit(agent.history)
    await agent.turn("three")
    assert_in_full(world, agent.history[:-1])


# 4. Two sets of credentials share a connection.


@pytest.mark.parametrize(
    "name",
    ["Authorization", "OpenAI-Organization", "OpenAI-Project", "OpenAI-Beta", "ChatGPT-Account-ID", "X-Api-Key"],
)
async def test_pitfall_04_connection_shared_between_credentials(proxied: Start, name: str) -> None:
    """The same history under other credentials has a connection of its own, and no id crosses over."""
    world = await proxied(scripted(["alpha"] * 4))
    if name == "Authorization":
        one, two = Agent(world, key="one"), Agent(world, key="two")
    else:
        one, two = Agent(world, (name, "one")), Agent(world, (name, "two"))
    await one.turn("hello")
    two.history = list(one.history)
    await two.turn("go on")
    assert_in_full(world, two.history[:-1])
    await one.turn("go on")
    turns, connections = world.simulator.turns, world.simulator.connections
    assert [turn.connection_id for turn in turns] == [0, 1, 0]
    assert turns[2].previous_response_id == turns[0].response_id
    for connection, value in zip(connections, ["one", "two"], strict=True):
        (sent,) = [each for key, each in connection.headers if key.lower() == name.lower()]
        assert sent.endswith(value)


# 5. Sub-agents use the session id of their parent.


async def test_pitfall_05_sub_agents_with_one_session_id(proxied: Start) -> None:
    """A main agent and three of its sub-agents under one session id keep their own chains, turn by turn."""
    world = await proxied(lambda call: says(f"answer {call.number}"))
    session = (("Session-Id", "s1"), ("X-Session-Affinity", "s1"))
    agents = [Agent(world, *session, prompt_cache_key="s1") for _ in range(4)]
    for n, agent in enumerate(agents):  # one by one, so that each begins while the others' connections are free
        await agent.turn(f"task {n}.0")
    for round_number in (1, 2):
        last = [agent.last["id"] for agent in agents]
        await asyncio.gather(*(agent.turn(f"task {n}.{round_number}") for n, agent in enumerate(agents)))
        by_id = {turn.response_id: turn for turn in world.simulator.turns}
        for n, (agent, before) in enumerate(zip(agents, last, strict=True)):
            turn = by_id[agent.last["id"]]
            assert turn.previous_response_id == before
            assert turn.input == [user(f"task {n}.{round_number}")]
            assert turn.context == agent.history[:-1]
    assert len(world.simulator.connections) == 4


async def test_pitfall_05_the_longest_of_two_chains(proxied: Start) -> None:
    """Where a request continues two chains, it is sent on the one that knows most of it."""
    world = await proxied(lambda call: says("same"))
    agents = [Agent(world), Agent(world)]
    await asyncio.gather(*(agent.turn("one") for agent in agents))
    await agents[0].turn("two")
    await agents[0].turn("three")
    assert len(world.simulator.connections) == 2
    assert_continued(world, user("three"))


# 6. A turn that was overtaken still says what upstream knows.


async def test_pitfall_06_a_late_turn_publishes_its_state(proxied: Start) -> None:
    """Of two turns that continue one response, the one that ends last leaves the other's chain alone."""

    def script(call: ModelCall) -> Output:
        said = rendered(call.context)[-1]["content"][0]["text"]
        return Output((Text(f"to {said}"),), event_seconds=0.1 if said == "slow" else 0)

    world = await proxied(script)
    slow, quick = Agent(world), Agent(world)
    await slow.turn("begin")
    quick.history = list(slow.history)
    begun = slow.last["id"]
    async with asyncio.TaskGroup() as group:
        overtaken = group.create_task(slow.turn("slow"))
        await world.simulator.until(
            lambda: len(world.simulator.turns) == 2 and world.simulator.turns[1].events_sent > 0
        )
        await quick.turn("quick")
        assert not overtaken.done()
    assert world.simulator.turns[1].previous_response_id == begun
    for agent in (quick, slow):
        before = agent.last["id"]
        await agent.turn("more")
        turn = world.simulator.turns[-1]
        assert (turn.previous_response_id, turn.input) == (before, [user("more")])
        assert turn.context == agent.history[:-1]


# 7. The model called tools, and not all of them are answered.


@pytest.mark.parametrize("second", [FunctionCall("b", "{}", "call_b"), CustomToolCall("b", "text", "call_b")])
async def test_pitfall_07_unanswered_call(proxied: Start, second: FunctionCall | CustomToolCall) -> None:
    """With one of two calls unanswered the whole history is sent, and upstream's verdict is the agent's."""
    world = await proxied(scripted([says(FunctionCall("a", "{}", "call_a"), second)]))
    agent = Agent(world)
    await agent.turn("do both")
    answer = await agent.ask(tool_output("call_a"), "never mind the other")
    assert answer.status == 400
    assert "call_b" in answer.json()["error"]["message"]
    assert [turn.transport for turn in world.simulator.turns] == ["ws", "ws", "http"]
    assert_in_full(world, agent.history)
    assert newest(world).reason == Mismatch.WEBSOCKET_REFUSED


# 8. An error is not recognised in another service's spelling.


@pytest.mark.parametrize("shape", ["nested", "flat", "response_failed", "codeless", "pretty", "detail"])
async def test_pitfall_08_every_spelling_of_a_miss(proxied: Start, shape: str) -> None:
    """However upstream words that it forgot a response, the turn is sent again in full, unseen by the agent."""
    world = await proxied(scripted(["alpha", "beta"]), simulated={"error_shape": shape})
    agent = Agent(world)
    await agent.turn("one")
    miss = "Previous response with id 'resp_1' not found."
    world.simulator.inject(
        Fault("before_created", "error", status=400, code="previous_response_not_found", message=miss)
    )
    answer = await agent.turn("two")
    assert text_of(answer) == "beta"
    assert_in_full(world, agent.history[:-1])
    assert [turn.connection_id for turn in world.simulator.turns] == [0, 0, 0]
    record = newest(world)
    assert (record.upload, record.reason, record.attempts) == ("full", "upstream_forgot", 2)


async def test_pitfall_08_events_over_several_lines(proxied: Start) -> None:
    """Events that upstream writes over several lines reach the agent on one, and the chain goes on."""
    world = await proxied(scripted(["alpha", "beta"]))
    world.simulator.inject(Fault("before_created", "pretty"))
    agent = Agent(world)
    assert text_of(await agent.turn("one")) == "alpha"
    await agent.turn("two")
    assert_continued(world, user("two"))


async def test_pitfall_08_codes_reach_the_agent(proxied: Start) -> None:
    """An error that is no miss is the agent's to see: the status, the code and when to try again."""
    world = await proxied(scripted(["alpha"]))
    agent = Agent(world)
    await agent.turn("one")
    world.simulator.inject(
        Fault(
            "before_created", "error", status=429, code="rate_limit_exceeded", retry_after=7, message="Slow down."
        )
    )
    answer = await agent.ask("two")
    assert (answer.status, answer.get("Retry-After")) == (429, "7")
    assert answer.json()["error"]["code"] == "rate_limit_exceeded"
    assert len(world.simulator.turns) == 2


# 9. The terminal event does not tell what the model said.


@pytest.mark.parametrize("terminal_output", ["empty", "omitted", "done"])
async def test_pitfall_09_terminal_event_without_output(proxied: Start, terminal_output: str) -> None:
    """Where the terminal event has no output, what was streamed is what upstream holds."""
    first = says(Reasoning(), "alpha", FunctionCall("ls", "{}", "call_1"))
    world = await proxied(scripted([first, "beta"]), simulated={"terminal_output": terminal_output})
    agent = Agent(world)
    await agent.turn("one")
    await agent.turn(tool_output("call_1"))
    assert_continued(world, tool_output("call_1"))


@pytest.mark.parametrize("terminal_output", ["empty", "omitted", "done"])
async def test_pitfall_09_whole_answer_without_terminal_output(proxied: Start, terminal_output: str) -> None:
    """An agent that does not stream gets the items that were streamed."""
    world = await proxied(scripted(["alpha"]), simulated={"terminal_output": terminal_output})
    answer = await Agent(world).ask("one", stream=False)
    assert answer.get("Content-Type").startswith("application/json")
    assert answer.json()["output"] == world.simulator.turns[0].output


def test_pitfall_09_terminal_event_disagrees() -> None:
    """Where the terminal event has another text than the stream, upstream may hold either: no baseline."""

    def message(text: str) -> Item:
        content = [{"type": "output_text", "text": text}]
        return {"id": "msg_1", "type": "message", "role": "assistant", "content": content}

    turn = Turn(request(user("one")))
    turn.start(Full(Mismatch.FIRST_TURN), reused=False)
    turn.receive(event("response.created", response={"id": "resp_1"}))
    turn.receive(event("response.output_item.done", output_index=0, item=message("streamed")))
    turn.receive(event("response.completed", response={"id": "resp_1", "output": [message("repeated")]}))
    assert (turn.state, turn.baseline) == (State.COMPLETED, None)


async def test_pitfall_09_an_answer_without_items(proxied: Start) -> None:
    """Where upstream never told the items of its answer, the agent's account of them is nothing new to it."""
    world = await proxied(scripted([says(), "beta"]), simulated={"terminal_output": "empty"})
    agent = Agent(world)
    await agent.turn("one")
    agent.history.append({"type": "message", "role": "assistant", "content": "as the deltas had it"})
    await agent.turn("two")
    assert_in_full(world, agent.history[:-1])


# 10. The full history meets its own items on a connection that still holds them.

DUPLICATE = Fault(
    "before_created",
    "error",
    status=400,
    code=None,
    message="Duplicate item found with id msg_1. Remove duplicate items from your input and try again.",
)


@pytest.mark.parametrize("missed", [True, False])
async def test_pitfall_10_duplicate_item(proxied: Start, *, missed: bool) -> None:
    """Where upstream calls items duplicates, after a miss or at once, the turn moves to a fresh connection."""
    world = await proxied(scripted(["alpha", "beta"]))
    agent = Agent(world)
    await agent.turn("one")
    if missed:
        world.simulator.inject(Fault("before_created", "error", status=400, code="previous_response_not_found"))
    world.simulator.inject(copy.copy(DUPLICATE))
    answer = await agent.turn("two")
    assert text_of(answer) == "beta"
    assert_in_full(world, agent.history[:-1])
    assert [turn.connection_id for turn in world.simulator.turns] == [0, 0, *[0] * missed, 1]


# 11. Items count as the same because their ids are.


@pytest.mark.parametrize("change", [{"call_id": "call_2"}, {"name": "cat"}, {"arguments": '{"all": true}'}])
async def test_pitfall_11_same_id_another_call(proxied: Start, change: Item) -> None:
    """A call that has an earlier call's id but is another one is sent, and so its output has a call."""
    world = await proxied(scripted([says(FunctionCall("ls", "{}", "call_1")), "beta"]))
    agent = Agent(world)
    await agent.turn("one")
    agent.history[-1] |= change
    await agent.turn(tool_output(agent.history[-1]["call_id"]))
    assert_in_full(world, agent.history[:-1])


# 12. The agent compacts its history.

SUMMARY = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "So far: ..."}]}
SEALED = {"type": "compaction", "encrypted_content": "gAAAAAsummary"}
COMPACTED: dict[str, Callable[[History], History]] = {
    "to a summary": lambda history: [user("Summary: ...")],
    "to a sealed summary": lambda history: [SEALED],
    "behind the first message": lambda history: [history[0], SUMMARY],
    "in the middle": lambda history: [history[0], user("Summary: ..."), *history[2:]],
    "the last answer": lambda history: [*history[:3], SEALED],
}


@pytest.mark.parametrize("compact", COMPACTED.values(), ids=COMPACTED)
async def test_pitfall_12_compacted_history(proxied: Start, compact: Callable[[History], History]) -> None:
    """A compacted history replaces what upstream holds; it is never added to it."""
    world = await proxied(scripted(["alpha", "beta", "gamma", "delta"]))
    agent = Agent(world)
    await agent.turn("one")
    await agent.turn("two")
    agent.history = compact(agent.history)
    await agent.turn("three")
    assert_in_full(world, agent.history[:-1])
    await agent.turn("four")
    assert_continued(world, user("four"))


async def test_pitfall_12_summary_in_place_of_reasoning(proxied: Start) -> None:
    """Reasoning may be left out, but what an agent puts into its place makes another history."""
    world = await proxied(scripted([says("alpha", Reasoning()), "beta"]))
    agent = Agent(world)
    await agent.turn("one")
    agent.history[-1] = SEALED
    await agent.turn("two")
    assert_in_full(world, agent.history[:-1])


async def test_pitfall_12_the_providers_own_compaction(proxied: Start) -> None:
    """What upstream compacted itself goes on as a chain, until the agent puts something else before it."""
    world = await proxied(scripted([says(Compaction(), "alpha"), "beta", "gamma", "delta"]))
    agent = Agent(world)
    await agent.turn("one")
    await agent.turn("two")
    assert_continued(world, user("two"))
    agent.history = [user("What this is about"), *agent.history[1:]]
    await agent.turn("three")
    assert_in_full(world, agent.history[:-1])
    agent.history = agent.history[1:]
    await agent.turn("four")
    assert_in_full(world, agent.history[:-1])


# 13. A delta is repeated where nobody knows what it continues.


async def test_pitfall_13_delta_on_a_fresh_connection(proxied: Start) -> None:
    """A delta that was lost with its connection becomes the whole history on the next one."""
    world = await proxied(scripted(["alpha", "beta"]))
    agent = Agent(world)
    await agent.turn("one")
    world.simulator.inject(Fault("before_created", "abort"))
    answer = await agent.turn("two")
    assert text_of(answer) == "beta"
    assert_in_full(world, agent.history[:-1])
    assert [turn.connection_id for turn in world.simulator.turns] == [0, 0, 1]


async def test_pitfall_13_delta_over_http(proxied: Start) -> None:
    """Where no connection can be had any more, the agent's own bytes go over HTTP."""
    world = await proxied(scripted(["alpha", "beta"]))
    agent = Agent(world)
    await agent.turn("one")
    world.simulator.inject(Fault("before_created", "abort"))
    world.simulator.settings.refuse_upgrade = 426
    answer = await agent.turn("two")
    assert text_of(answer) == "beta"
    assert [turn.transport for turn in world.simulator.turns] == ["ws", "ws", "http"]
    assert world.simulator.requests[-1].body_sha256 == hashlib.sha256(agent.sent).hexdigest()
    assert_in_full(world, agent.history[:-1])


# 14. A request whose fate is unknown is sent again and again.


async def test_pitfall_14_silence_is_not_retried(proxied: Start) -> None:
    """A request that upstream may be working on in silence is not sent a second time."""
    world = await proxied(scripted(["alpha"]), first_event_timeout=0.2)
    world.simulator.inject(Fault("before_created", "silence", times=None, transport="ws"))
    answer = await Agent(world).ask("one")
    assert answer.status == 504
    assert len(world.simulator.turns) == 1


async def test_pitfall_14_two_losses_are_enough(proxied: Start) -> None:
    """Lost before any event, a request has one more WebSocket, and then plain HTTP."""
    world = await proxied(scripted(["alpha"]))
    world.simulator.inject(Fault("before_created", "abort", times=None, transport="ws"))
    assert text_of(await Agent(world).turn("one")) == "alpha"
    assert [turn.transport for turn in world.simulator.turns] == ["ws", "ws", "http"]
    assert newest(world).attempts == 3


@pytest.mark.parametrize("turns_before", [0, 1])
async def test_pitfall_14_age_limit_is_safe_to_retry(proxied: Start, turns_before: int) -> None:
    """A connection that is refused for its age has certainly done nothing: a fresh one gets everything."""
    world = await proxied(scripted([*["before"] * turns_before, "alpha"]))
    agent = Agent(world)
    for _ in range(turns_before):
        await agent.turn("zero")
    world.simulator.inject(Fault("before_created", "error", status=400, code="websocket_connection_limit_reached"))
    assert text_of(await agent.turn("one")) == "alpha"
    assert_in_full(world, agent.history[:-1])
    refused, turn = world.simulator.turns[-2:]
    assert turn.transport == "ws"
    assert turn.connection_id != refused.connection_id


# 15. An answer breaks off, and the agent is told that it is complete, or is told it twice.


@pytest.mark.parametrize("what", ["abort", "close"])
async def test_pitfall_15_broken_answer(proxied: Start, what: Any) -> None:
    """An answer that breaks off after its first event breaks off for the agent, and is not begun again."""
    world = await proxied(scripted(["alpha", "beta"]))
    world.simulator.inject(Fault("after_events", what, events=6))
    with pytest.raises(asyncio.IncompleteReadError):
        await Agent(world).ask("one")
    assert len(world.simulator.turns) == 1
    assert world.server.ledger.statuses == {"failed": 1}


async def test_pitfall_15_broken_whole_answer(proxied: Start) -> None:
    """For an agent that does not stream, an answer that breaks off and is not asked for again is an HTTP error."""
    world = await proxied(scripted(["alpha", "beta"]), ambiguous_retries=0)
    world.simulator.inject(Fault("after_events", "abort", events=6))
    answer = await Agent(world).ask("one", stream=False)
    assert answer.status == 502
    assert answer.json()["error"]["code"] == "upstream_unavailable"
    assert len(world.simulator.turns) == 1


async def test_pitfall_15_empty_success(proxied: Start) -> None:
    """For an agent that does not stream, an error in mid-answer is that error and not an empty 200."""
    world = await proxied(scripted(["alpha", "beta"]))
    world.simulator.inject(Fault("after_events", "error", events=6, status=503, code="server_is_overloaded"))
    answer = await Agent(world).ask("one", stream=False)
    assert answer.status == 503
    assert answer.json()["error"]["code"] == "server_is_overloaded"
    assert newest(world).status == "failed"


# 16. A way of ending is not known, and the turn hangs.


@pytest.mark.parametrize(
    ("finish", "last", "status"),
    [
        (Incomplete(), "response.incomplete", "incomplete"),
        (Failed(), "response.failed", "failed"),
        (Failed(error_event=True), "response.failed", "failed"),
    ],
)
async def test_pitfall_16_every_ending(
    proxied: Start, finish: Incomplete | Failed, last: str, status: str
) -> None:
    """Whichever way the model ends, the agent gets that event and a proper end, at once."""
    world = await proxied(scripted([says("alpha", finish=finish)]), event_timeout=2)
    answer = await Agent(world).ask("one")
    assert [answer.status, events_of(answer)[-1]["type"]] == [200, last]
    assert newest(world).status == status


@pytest.mark.parametrize(
    "kind",
    [
        "response.completed",
        "response.incomplete",
        "response.failed",
        "response.cancelled",
        "response.done",
        "response.error",
        "error",
    ],
)
def test_pitfall_16_every_terminal_event(kind: str) -> None:
    """After each event that ends a response, by any service's word, the turn is finished."""
    turn = Turn(request(user("one")))
    turn.start(Full(Mismatch.FIRST_TURN), reused=False)
    turn.receive(event("response.created", response={"id": "resp_1"}))
    turn.receive(event(kind, response={"id": "resp_1"}))
    assert turn.finished


# 17. A response that did not complete is continued.


@pytest.mark.parametrize("finish", [Incomplete(), Failed(), Failed(error_event=True)])
@pytest.mark.parametrize("turns_before", [0, 1])
async def test_pitfall_17_uncompleted_response(
    proxied: Start, finish: Incomplete | Failed, turns_before: int
) -> None:
    """Neither a response that did not complete nor the one before it is continued afterwards."""
    cut = says("alpha", finish=finish)
    world = await proxied(scripted([*["before"] * turns_before, cut, "beta"]))
    agent = Agent(world)
    for _ in range(turns_before):
        await agent.turn("zero")
    answer = await agent.ask("one")
    agent.history += [each["item"] for each in events_of(answer) if each["type"] == "response.output_item.done"]
    await agent.turn("two")
    assert_in_full(world, agent.history[:-1])
    assert newest(world).attempts == 1


async def test_pitfall_17_refused_turn(proxied: Start) -> None:
    """A turn that upstream refuses takes the chain along: the next one is whole from the start."""
    world = await proxied(scripted(["alpha", "beta"]))
    agent = Agent(world)
    await agent.turn("one")
    world.simulator.inject(Fault("before_created", "error", status=503))
    assert (await agent.ask("two")).status == 503
    await agent.turn("three")
    assert_in_full(world, agent.history[:-1])
    record = newest(world)
    assert (record.reason, record.attempts) == ("after_error", 1)


# 18. Arguments that the agent writes in its own way end the chain without a word.

WRITTEN = '{"path": "a b", "limit": 1.0, "deep": {"x": [1, 2], "y": null}}'
REWRITTEN = {
    "without spaces": (WRITTEN, '{"path":"a b","limit":1.0,"deep":{"x":[1,2],"y":null}}'),
    "indented": (WRITTEN, '{\n  "path": "a b",\n  "limit": 1.0,\n  "deep": {"x": [1, 2], "y": null}\n}'),
    "sorted": (WRITTEN, '{"deep": {"y": null, "x": [1, 2]}, "limit": 1.0, "path": "a b"}'),
    "whole numbers": (WRITTEN, WRITTEN.replace("1.0", "1")),
    "escaped": (WRITTEN, WRITTEN.replace("a b", "\\u0061 b")),
    "none as an object": ("", "{}"),
    "none as nothing": ("{}", ""),
    "no JSON": ("*** Begin Patch", "*** Begin Patch"),
}
OTHERS = {
    "another value": (WRITTEN, WRITTEN.replace("a b", "a c")),
    "another order of a list": (WRITTEN, WRITTEN.replace("[1, 2]", "[2, 1]")),
    "a null less": (WRITTEN, WRITTEN.replace(', "y": null', "")),
    "a truth for a number": (WRITTEN, WRITTEN.replace("1.0", "true")),
    "a neighbour beyond a double": ('{"n": 9007199254740993}', '{"n": 9007199254740992}'),
    "the other of two keys": ('{"a": 1, "a": 2}', '{"a": 2}'),
}


async def with_arguments(proxied: Start, written: str, echoed: str) -> tuple[Proxied, Agent]:
    """Run two turns, between which the agent rewrites the arguments of the model's call."""
    world = await proxied(scripted([says(FunctionCall("read", written, "call_1")), "beta"]))
    agent = Agent(world)
    await agent.turn("one")
    agent.history[-1] = {**agent.history[-1], "arguments": echoed}
    await agent.turn(tool_output("call_1"))
    return world, agent


@pytest.mark.parametrize(("written", "echoed"), REWRITTEN.values(), ids=REWRITTEN)
async def test_pitfall_18_rewritten_arguments(proxied: Start, written: str, echoed: str) -> None:
    """Arguments that mean the same continue the chain, however they are written."""
    world, _ = await with_arguments(proxied, written, echoed)
    assert_continued(world, tool_output("call_1"))


@pytest.mark.parametrize(("written", "echoed"), OTHERS.values(), ids=OTHERS)
async def test_pitfall_18_other_arguments(proxied: Start, written: str, echoed: str) -> None:
    """Arguments that may mean something else do not."""
    world, agent = await with_arguments(proxied, written, echoed)
    assert_in_full(world, agent.history[:-1])


# 19. Reasoning comes back in pieces, or not at all.

Echo = Callable[[Item], History]


def split(thought: Item) -> History:
    """Return an item for each part of the summary."""
    return [{**thought, "summary": [part]} for part in thought["summary"]]


def only(*names: str) -> Echo:
    """Keep *names* of the item alone, besides its type and the summary that every input must have."""
    return lambda thought: [{"type": "reasoning", "summary": [], **{name: thought[name] for name in names}}]


THOUGHTS: dict[str, Echo] = {
    "as it came": lambda thought: [thought],
    "left out": lambda thought: [],
    "without its summary": only("id", "encrypted_content"),
    "its ciphertext alone": only("encrypted_content"),
    "its id alone": only("id"),
    "referenced": lambda thought: [{"type": "item_reference", "id": thought["id"]}],
    "with no content": lambda thought: [{**thought, "content": None, "status": None}],
    "with empty content": lambda thought: [{**thought, "content": [], "status": "completed"}],
    "an item for each part": split,
}
FORGED: dict[str, Echo] = {
    "another ciphertext": lambda thought: [{**thought, "encrypted_content": "gAAAAAforged"}],
    "another summary": lambda thought: [{**thought, "summary": [{"type": "summary_text", "text": "No."}]}],
    "another id": lambda thought: [{"type": "reasoning", "summary": [], "id": "rs_other"}],
    "a part less": lambda thought: split(thought)[:1],
}


async def with_reasoning(proxied: Start, echo: Echo) -> tuple[Proxied, Agent]:
    """Run two turns, between which the agent rewrites the model's reasoning as *echo* does."""
    thought = Reasoning(("**Look**", "**Then leap**"))
    world = await proxied(scripted([says(thought, "alpha", FunctionCall("ls", "{}", "call_1")), "beta"]))
    agent = Agent(world)
    await agent.turn("one")
    agent.history[1:2] = echo(agent.history[1])
    await agent.turn(tool_output("call_1"))
    return world, agent


@pytest.mark.parametrize("echo", THOUGHTS.values(), ids=THOUGHTS)
async def test_pitfall_19_reasoning_as_agents_send_it(proxied: Start, echo: Echo) -> None:
    """Reasoning that was shortened, split or left out continues the chain, and upstream keeps its own."""
    world, _ = await with_reasoning(proxied, echo)
    assert_continued(world, tool_output("call_1"))


@pytest.mark.parametrize("echo", FORGED.values(), ids=FORGED)
async def test_pitfall_19_changed_reasoning(proxied: Start, echo: Echo) -> None:
    """Reasoning that the model did not write makes another history."""
    world, agent = await with_reasoning(proxied, echo)
    assert_in_full(world, agent.history[:-1])


async def test_pitfall_19_two_ciphertexts_of_one_thought(proxied: Start) -> None:
    """An agent may keep the ciphertext of the terminal event, where that differs from the streamed one."""
    world = await proxied(
        scripted([says(Reasoning(), "alpha"), "beta"]), simulated={"terminal_ciphertext": "different"}
    )
    agent = Agent(world)
    await agent.turn("one")
    streamed = agent.history[1]
    agent.history[1:] = agent.last["output"]
    assert agent.history[1]["encrypted_content"] != streamed["encrypted_content"]
    await agent.turn("two")
    assert_continued(world, user("two"))


# 20. The agent repeats what the model said with other trimmings.


def without(*names: str) -> Callable[[Item], Item]:
    """Drop *names* from an item."""
    return lambda item: {name: value for name, value in item.items() if name not in names}


def bare(item: Item) -> Item:
    """Drop all that an item can do without, and write a message's content as a text."""
    if item["type"] == "message":
        return {"role": item["role"], "content": item["content"][0]["text"]}
    return without("id", "status")(item)


def plain(item: Item) -> Item:
    """Drop what upstream adds to a message's parts."""
    if item["type"] != "message":
        return item
    return {**item, "content": [{"type": part["type"], "text": part["text"]} for part in item["content"]]}


TRIMMINGS: dict[str, Callable[[Item], Item]] = {
    "verbatim": lambda item: item,
    "without ids": without("id"),
    "without statuses": without("status"),
    "without phases": without("phase"),
    "with other ids": lambda item: {**item, "id": "agents_own"} if item["type"] == "message" else item,
    "with nulls": lambda item: {**item, "status": None, "namespace": None},
    "without annotations": plain,
    "bare": bare,
}


@pytest.mark.parametrize("trim", TRIMMINGS.values(), ids=TRIMMINGS)
async def test_pitfall_20_trimmings_of_an_echo(proxied: Start, trim: Callable[[Item], Item]) -> None:
    """Ids, statuses, phases, annotations and the like, there or not, do not tell items apart."""
    first = says(Text("alpha", "commentary"), FunctionCall("ls", "{}", "call_1"))
    world = await proxied(scripted([first, "beta", "gamma"]))
    agent = Agent(world)
    await agent.turn("one")
    agent.history[1:] = map(trim, agent.history[1:])
    await agent.turn(tool_output("call_1"))
    assert_continued(world, tool_output("call_1"))
    agent.history[-1:] = map(trim, agent.history[-1:])
    await agent.turn("two")
    assert_continued(world, user("two"))


async def test_pitfall_20_trimmings_of_the_agents_own(proxied: Start) -> None:
    """Neither do they where the agent writes its own earlier items in another way than before."""
    world = await proxied(scripted(["alpha", "beta"]))
    agent = Agent(world)
    await agent.turn({"id": "msg_own", "status": "completed", **user("one")})
    agent.history[0] = {"role": "user", "content": "one", "name": None}
    await agent.turn("two")
    assert_continued(world, user("two"))


# 21. What changes with every request is taken for another conversation.

VOLATILE = {
    "metadata": ({"turn": "1"}, {"turn": "2"}),
    "client_metadata": ({"at": "1"}, {"at": "2"}),
    "stream_options": ({"include_obfuscation": True}, {"include_obfuscation": False}),
    "user": ("u1", "u2"),
    "safety_identifier": ("s1", "s2"),
    "prompt_cache_key": ("k1", "k2"),
    "instructions": (
        "x-anthropic-billing-header: cch=1; Be brief.",
        "x-anthropic-billing-header: cch=2; Be brief.",
    ),
    "service_tier": ("auto", "default"),
    "reasoning": ({"effort": "low"}, {"effort": "high"}),
}


@pytest.mark.parametrize(("name", "values"), VOLATILE.items(), ids=VOLATILE)
async def test_pitfall_21_volatile_fields(proxied: Start, name: str, values: tuple[Any, Any]) -> None:
    """A field that differs from turn to turn goes upstream anew, and the chain goes on."""
    world = await proxied(scripted(["alpha", "beta"]))
    agent = Agent(world)
    await agent.turn("one", **{name: values[0]})
    await agent.turn("two", **{name: values[1]})
    assert_continued(world, user("two"))
    assert [turn.request[name] for turn in world.simulator.turns] == list(values)


@pytest.mark.parametrize(
    "name",
    [
        "X-Client-Request-Id",
        "X-Codex-Turn-Metadata",
        "X-Stainless-Retry-Count",
        "Traceparent",
        "Idempotency-Key",
        "Session-Id",
    ],
)
async def test_pitfall_21_volatile_headers(proxied: Start, name: str) -> None:
    """A header that describes one request does not keep the next one off the connection."""
    world = await proxied(scripted(["alpha", "beta"]))
    agent = Agent(world)
    for text in ("one", "two"):
        agent.headers = ((name, text),)
        await agent.turn(text)
    assert_continued(world, user("two"))


# 22. Tools come in another order.


async def test_pitfall_22_tools_in_another_order(proxied: Start) -> None:
    """Tools that change places, or come and go, do not end the chain; each turn has the agent's own."""
    world = await proxied(scripted(["alpha", "beta", "gamma"]))
    agent = Agent(world)
    offered = [[tool("a"), tool("b")], [tool("b"), tool("a")], [tool("c")]]
    await agent.turn("one", tools=offered[0])
    await agent.turn("two", tools=offered[1])
    assert_continued(world, user("two"))
    await agent.turn("three", tools=offered[2])
    assert_continued(world, user("three"))
    assert [turn.request["tools"] for turn in world.simulator.turns] == offered


# 23. A continued turn has lost its instructions, or is refused for having them.


async def test_pitfall_23_settings_are_sent_each_time(proxied: Start) -> None:
    """A delta carries every setting that the whole history would have carried."""
    world = await proxied(scripted(["alpha", "beta"]))
    settings: dict[str, Any] = {
        "instructions": "Be brief.",
        "prompt_cache_key": "k",
        "tools": [tool("a")],
        "tool_choice": "auto",
        "parallel_tool_calls": False,
        "reasoning": {"effort": "low", "summary": "auto"},
        "include": ["reasoning.encrypted_content"],
        "text": {"verbosity": "low"},
    }
    agent = Agent(world, **settings)
    await agent.turn("one")
    await agent.turn("two")
    assert_continued(world, user("two"))
    for turn in world.simulator.turns:
        assert turn.settings == {"model": "m", "store": False, **settings}


@pytest.mark.parametrize("citizen", ["openai", "xai"])
async def test_pitfall_23_upstream_that_refuses_instructions(proxied: Start, citizen: str) -> None:
    """An upstream that takes no instructions with a chain, in its own words or xAI's, gets the whole history."""
    world = await proxied(scripted(["alpha", "beta"]), simulated={"citizen": citizen})
    agent = Agent(world, instructions="Be brief.")
    await agent.turn("one")
    if citizen == "openai":
        refusal = Fault(
            "before_created", "error", status=400, code="invalid_value", message="Instructions, again?"
        )
        world.simulator.inject(refusal)
    assert text_of(await agent.turn("two")) == "beta"
    assert_in_full(world, agent.history[:-1])
    assert [turn.transport for turn in world.simulator.turns] == ["ws", "ws", "ws"]


# 24. What HTTP puts up with is refused over a WebSocket, and the other way round.


async def test_pitfall_24_transport_fields(proxied: Start) -> None:
    """What belongs to HTTP, or has no value, stays out of the message; the rest is as the agent wrote it."""
    world = await proxied(scripted(["alpha", "beta"]))
    agent = Agent(world, conversation=None, background=False, top_p=0.5, temperature=None, tools=[])
    await agent.turn("one")
    await agent.turn("two", previous_response_id=None)
    assert_continued(world, user("two"))
    for turn in world.simulator.turns:
        assert turn.settings == {"model": "m", "store": False, "top_p": 0.5, "temperature": None, "tools": []}


async def test_pitfall_24_nulls_refused_over_a_websocket(proxied: Start) -> None:
    """A service that refuses nulls over a WebSocket alone gets such requests over HTTP, and asks again later."""
    now = 1000.0
    world = await proxied(scripted(["alpha", "beta", "gamma", "delta", "epsilon"]), clock=lambda: now)
    world.simulator.inject(
        Fault(
            "before_created",
            "error",
            status=400,
            times=None,
            transport="ws",
            match=lambda each: None in each.values(),
        )
    )
    agent = Agent(world, temperature=None)
    assert text_of(await agent.turn("one")) == "alpha"
    assert world.simulator.requests[-1].body_sha256 == hashlib.sha256(agent.sent).hexdigest()
    await agent.turn("two")
    await Agent(world, temperature=None).turn("another conversation")
    assert [turn.transport for turn in world.simulator.turns] == ["ws", "http", "http", "http"]
    assert newest(world).reason == "unsupported_field"
    world.simulator.faults.clear()
    await Agent(world).turn("without")
    now += 301
    await agent.turn("three")
    assert [turn.transport for turn in world.simulator.turns[4:]] == ["ws", "ws"]


async def test_pitfall_24_websocket_fields_over_http(proxied: Start) -> None:
    """Over HTTP the agent's own bytes are sent, so nothing of the WebSocket's can be among them."""
    world = await proxied(scripted(["alpha"]), simulated={"refuse_upgrade": 426})
    agent = Agent(world, temperature=None)
    await agent.turn("one")
    assert [turn.transport for turn in world.simulator.turns] == ["http"]
    assert world.simulator.requests[-1].body_sha256 == hashlib.sha256(agent.sent).hexdigest()


# 25. The agent manages upstream's state itself.


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("previous_response_id", "resp_1"),
        ("conversation", "conv_1"),
        ("conversation", {"id": "conv_1"}),
        ("background", True),
        ("prompt", {"id": "pmpt_1"}),
    ],
)
async def test_pitfall_25_agents_own_state(proxied: Start, name: str, value: Any) -> None:
    """A request that refers to upstream's state goes over HTTP to the byte, whatever upstream then says."""
    world = await proxied(scripted(["alpha"] * 3))
    agent = Agent(world)
    await agent.turn("one")
    await agent.ask("two", **{name: value})
    assert world.simulator.turns[-1].transport == "http"
    assert world.simulator.requests[-1].body_sha256 == hashlib.sha256(agent.sent).hexdigest()
    record = newest(world)
    assert (record.upload, record.reason) == ("http", "unsupported_field")


@pytest.mark.parametrize("fields", [{"store": True}, {"store": False}, {}])
async def test_pitfall_25_store_is_the_agents(proxied: Start, fields: dict[str, Any]) -> None:
    """Whether upstream stores a response is never changed, nor is one kind continued as the other."""
    world = await proxied(scripted(["alpha", "beta", "gamma"]))
    agent = Agent(world)
    del agent.fields["store"]
    await agent.turn("one", **fields)
    await agent.turn("two", **fields)
    assert_continued(world, user("two"))
    assert [turn.request.get("store") for turn in world.simulator.turns] == [fields.get("store")] * 2
    await agent.turn("three", store=not fields.get("store"))
    assert_in_full(world, agent.history[:-1])


# 64. Upstream completes an answer in which it says nothing.


async def test_pitfall_64_an_empty_answer(proxied: Start) -> None:
    """It is the agent's, who may ask again, and then asks in full; the log remarks on it."""
    answers = iter([says("alpha"), says(), says("beta")])
    world = await proxied(lambda _call: next(answers))
    agent = Agent(world)
    with capture_logs() as logged:
        await agent.turn("one")
        await agent.turn("two")
        assert agent.last["output"] == []
        assert text_of(await agent.turn()) == "beta"
        await world.recorded(3)
    assert_in_full(world, agent.history[:-1])
    warnings = [(each["event"], each["upload"]) for each in logged if each["log_level"] == "warning"]
    assert warnings == [("empty_answer", "delta")]
