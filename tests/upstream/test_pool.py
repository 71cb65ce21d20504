"""The connections to one upstream, who may use which, and for how long."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from math import inf
from typing import Any

import pytest
from pooling import KEY, TIMING, Conversation, Pooled, converse, request, run
from said import JSON, answer, assistant, user

from proxy.core.delta import Baseline, Delta, Full, Mismatch
from proxy.core.turn import Turn
from proxy.errors import UpstreamError
from proxy.simulator import Fault, FunctionCall, Incomplete, Simulator, says, scripted
from proxy.upstream import pool as pool_module
from proxy.upstream.doubts import Doubt
from proxy.upstream.partition import NoLease

Start = Callable[..., Awaitable[Pooled]]


def reason(upload: Delta | Full) -> Mismatch | None:
    """Return why *upload* was no delta."""
    return None if isinstance(upload, Delta) else upload.reason


# A lease


async def test_a_lease_opens_a_connection_and_gives_it_back(pooled: Start, simulator: Simulator) -> None:
    """The next turn of the conversation is a delta on it."""
    here, conversation = await pooled(), Conversation()
    uploads = [await converse(here, simulator, conversation, text) for text in "abc"]
    assert [reason(upload) for upload in uploads] == [Mismatch.FIRST_TURN, None, None]
    assert len(simulator.connections) == 1
    assert (here.connections.open, here.connections.opened, here.connections.lost) == (1, 1, 0)


async def test_a_lease_that_leaves_no_baseline_closes_the_connection(pooled: Start, simulator: Simulator) -> None:
    """What upstream may still send there is nobody's; the conversation's next turn is full, after an error."""
    here, conversation = await pooled(), Conversation()
    await converse(here, simulator, conversation, "a")
    simulator.script = scripted([says("half", finish=Incomplete()), "b", "c"])
    await here.lend(conversation.says("b"))
    await simulator.until(lambda: simulator.connections[0].closed)
    assert reason(await converse(here, simulator, conversation, "again")) is Mismatch.AFTER_ERROR
    assert (here.connections.open, here.connections.opened, here.connections.lost) == (1, 2, 0)


async def test_who_comes_back_to_what_an_error_is_behind_changed_the_history(
    pooled: Start, simulator: Simulator
) -> None:
    """The conversation had gone on from there, in full; until it does, the error is the reason each time."""
    here, conversation = await pooled(max_connections=9), Conversation()
    await converse(here, simulator, conversation, "a")
    simulator.script = scripted([says("half", finish=Incomplete()), says("half", finish=Incomplete()), "c", "d"])
    for _ in range(2):
        turn = await here.lend(conversation.says("b"))
    assert reason(turn.upload) is Mismatch.AFTER_ERROR
    assert reason(await converse(here, simulator, conversation, "c")) is Mismatch.AFTER_ERROR
    conversation.history[2:] = []
    assert reason(await converse(here, simulator, conversation, "d")) is Mismatch.HISTORY_CHANGED


async def test_a_lease_that_ends_in_an_exception_closes_the_connection(
    pooled: Start, simulator: Simulator
) -> None:
    """Where it left no baseline: what went wrong then was in the middle of a turn."""
    here, conversation = await pooled(), Conversation()
    await converse(here, simulator, conversation, "a")
    asked = conversation.says("b")

    async def fail() -> None:
        async with here.pool.lease(asked, here.partition) as lease:
            lease.connection.baseline = None
            raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await fail()
    assert here.partition.slots == {}
    await simulator.until(lambda: simulator.connections[0].closed)
    assert reason(await converse(here, simulator, conversation, "c")) is Mismatch.AFTER_ERROR


async def test_a_lease_that_sends_nothing_keeps_the_baseline(pooled: Start, simulator: Simulator) -> None:
    """A turn that decides for HTTP before it sends leaves the connection as it was."""
    here, conversation = await pooled(), Conversation()
    await converse(here, simulator, conversation, "a")
    async with here.pool.lease(conversation.says("b"), here.partition) as lease:
        assert isinstance(lease.upload, Delta)
    async with here.pool.lease(request(*conversation.history), here.partition) as lease:
        assert isinstance(lease.upload, Delta)
    assert len(simulator.connections) == 1


async def test_a_lease_that_sends_nothing_teaches_nothing(pooled: Start, simulator: Simulator) -> None:
    """The pause that a connection outlived before its latest turn says nothing of one that was fatal since."""
    here, conversation = await pooled(), Conversation()
    await converse(here, simulator, conversation, "a")
    here.partition.connections[0].pause = 20.0
    here.partition.slumber.lost(10.0, here.clock())
    async with here.pool.lease(conversation.says("b"), here.partition):
        pass
    assert here.partition.slumber.rhythm(here.clock()) == 5.0


async def test_what_takes_a_place_and_sends_nothing_teaches_nothing(pooled: Start, simulator: Simulator) -> None:
    """Whose place it took has not ended once more, and goes on; nor has anybody gone on elsewhere."""
    here, lost, there = await pooled(max_connections=1), Conversation(), Conversation()
    await here.lend(lost.says("a", temperature=0.5))
    lost.hears(simulator.turns[-1].output)
    simulator.abort_connections()
    await simulator.until(lambda: not here.partition.slots)
    await converse(here, simulator, there, "b")
    asked = lost.says("c", temperature=0.5)
    for _ in range(2):
        async with here.pool.lease(asked, here.partition) as lease:
            assert reason(lease.upload) is Mismatch.CONNECTION_LOST
    assert here.partition.kinds.habits().over == set()
    assert reason(await converse(here, simulator, there, "d")) is None


async def test_what_sends_nothing_on_a_new_connection_was_not_cut_short(
    pooled: Start, simulator: Simulator
) -> None:
    """The conversation went on over plain HTTP, say: it began elsewhere."""
    here, conversation = await pooled(), Conversation()
    async with here.pool.lease(conversation.says("a"), here.partition):
        pass
    conversation.hears([assistant("Over HTTP.")])
    assert reason(await converse(here, simulator, conversation, "b")) is Mismatch.AFTER_RESTART


async def test_what_was_asked_again_and_answered_was_not_cut_short(pooled: Start, simulator: Simulator) -> None:
    """What is not known of it later has another cause."""
    here, conversation = await pooled(), Conversation()
    asked = conversation.says("a")
    async with here.pool.lease(asked, here.partition) as lease:
        await lease.send(lease.start(Turn(asked), lease.upload))
    assert here.partition.cut_short
    turn = await here.lend(asked)
    assert turn.baseline is not None
    assert not here.partition.cut_short


async def test_an_upload_of_what_was_said_is_no_answer(pooled: Start, simulator: Simulator) -> None:
    """A conversation that is uploaded again has ended once, as far as that is known."""
    here, conversation = await pooled(), Conversation()
    await converse(here, simulator, conversation, "a")
    said, kinds = request(*conversation.history[:1]), here.partition.kinds
    async with here.pool.lease(
        said, here.partition, fresh=Mismatch.CONNECTION_LOST, last_used=here.clock()
    ) as lease:
        await run(lease, said)
    assert kinds.habits().over == set()
    kinds.ended(said.kind)
    assert kinds.habits().over == {said.kind}


async def test_a_turn_that_ended_is_not_undone_by_an_exception(pooled: Start, simulator: Simulator) -> None:
    """An agent may hang up as soon as it has the last event."""
    here, conversation = await pooled(), Conversation()
    await converse(here, simulator, conversation, "a")

    async def answered_in_vain() -> None:
        async with here.pool.lease(asked, here.partition) as lease:
            await run(lease, asked)
            raise ConnectionResetError

    asked = conversation.says("b")
    simulator.script = scripted(["b", "c"])
    with pytest.raises(ConnectionResetError):
        await answered_in_vain()
    (connection,) = here.partition.connections
    assert connection.baseline is not None
    assert connection.baseline.turns == 2


async def test_a_connection_is_claimed_before_anyone_waits(pooled: Start, simulator: Simulator) -> None:
    """Of two turns that could continue the same baseline, only one gets it."""
    here, conversation = await pooled(), Conversation()
    await converse(here, simulator, conversation, "a")
    asked = conversation.says("b")
    async with (
        here.pool.lease(asked, here.partition) as first,
        here.pool.lease(asked, here.partition) as second,
    ):
        assert first.connection is not second.connection
        assert isinstance(first.upload, Delta)
        assert reason(second.upload) is Mismatch.BUSY


async def test_connections_that_are_opening_take_up_room(pooled: Start, simulator: Simulator) -> None:
    """The limit holds while the upgrades are still under way."""
    here = await pooled(max_connections=2)
    simulator.settings.handshake_seconds = 3600
    tasks = [asyncio.get_running_loop().create_task(here.lend(request(user(text)))) for text in "ab"]
    await simulator.until(lambda: len(simulator.requests) == 2)
    with pytest.raises(NoLease) as caught:
        await here.lend(request(user("c")))
    assert caught.value.reason is Mismatch.BUSY
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    assert here.partition.slots == {}
    assert (here.connections.open, here.connections.opened, here.connections.lost) == (0, 0, 0)


async def test_a_fresh_lease_takes_a_new_connection(pooled: Start, simulator: Simulator) -> None:
    """It sends everything for the reason given, and leaves the old baseline where it is."""
    here, conversation = await pooled(), Conversation()
    await converse(here, simulator, conversation, "a")
    turn = await here.lend(conversation.says("b"), fresh=Mismatch.CONNECTION_LOST)
    assert reason(turn.upload) is Mismatch.CONNECTION_LOST
    assert [record.turns for record in simulator.connections] == [1, 1]
    assert sorted(slot.free for slot in here.partition.slots.values()) == [True, True]


async def test_what_does_not_fit_a_message_may_only_be_a_delta(pooled: Start, simulator: Simulator) -> None:
    """A history that is too large takes no connection for a full upload."""
    here, conversation = await pooled(), Conversation()
    with pytest.raises(NoLease) as caught:
        async with here.pool.lease(request(user("a")), here.partition, fits=False):
            pass
    assert caught.value.reason is Mismatch.TOO_LARGE
    assert simulator.requests == []
    await converse(here, simulator, conversation, "a")
    async with here.pool.lease(conversation.says("b"), here.partition, fits=False) as lease:
        assert isinstance(lease.upload, Delta)


async def test_what_does_not_fit_evicts_nobody(pooled: Start, simulator: Simulator) -> None:
    """With a full pool, a history that is too large leaves every baseline alone."""
    here, conversation = await pooled(max_connections=1), Conversation()
    await converse(here, simulator, conversation, "a")
    with pytest.raises(NoLease) as caught:
        async with here.pool.lease(request(user("b")), here.partition, fits=False):
            pass
    assert caught.value.reason is Mismatch.TOO_LARGE
    assert reason(await converse(here, simulator, conversation, "c")) is None


# Lifetimes


@pytest.mark.parametrize(
    ("steps", "retired"),
    [([1800], True), ([1799], False), ([1700, 1599], False), ([1700, 1600], True)],
    ids=["idle", "not-idle", "in-use", "old"],
)
async def test_connections_retire_when_idle_or_old(
    pooled: Start, simulator: Simulator, steps: list[float], *, retired: bool
) -> None:
    """1800 s without a turn or 3300 s in all: the next turn takes a new connection, and says why."""
    here, conversation = await pooled(), Conversation()
    await converse(here, simulator, conversation, "a")
    for seconds in steps:
        here.clock.advance(seconds)
        upload = await converse(here, simulator, conversation, "more")
    assert reason(upload) is (Mismatch.RETIRED if retired else None)
    if retired:
        await simulator.until(lambda: simulator.connections[0].closed)
        assert simulator.connections[0].close_code == 1000
    assert (here.connections.open, here.connections.lost) == (1, 0)


async def test_a_leased_connection_never_retires(pooled: Start, simulator: Simulator) -> None:
    """A turn that lasts for hours keeps its connection, and gives it back for the sweep to take."""
    here, conversation, other = await pooled(), Conversation(), Conversation()
    await converse(here, simulator, conversation, "a")
    asked = conversation.says("b")
    async with here.pool.lease(asked, here.partition) as lease:
        here.clock.advance(100_000)
        await converse(here, simulator, other, "meanwhile")
        turn = await run(lease, asked)
    assert turn.baseline is not None
    conversation.hears(simulator.turns[-1].output)
    assert reason(await converse(here, simulator, conversation, "c")) is Mismatch.RETIRED


async def test_idle_connections_retire_without_another_turn(
    pooled: Start, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pool looks by itself every few seconds."""
    monkeypatch.setattr(pool_module, "_SWEEP_SECONDS", 0.01)
    here, conversation = await pooled(), Conversation()
    await converse(here, simulator, conversation, "a")
    here.clock.advance(1800)
    await simulator.until(lambda: simulator.connections[0].closed)
    assert simulator.connections[0].close_code == 1000
    assert (here.connections.open, here.connections.lost) == (0, 0)


async def test_an_idle_connection_that_is_lost_is_forgotten_at_once(pooled: Start, simulator: Simulator) -> None:
    """Its place is free, the loss is counted once, and the next turn says why it is full."""
    here, conversation = await pooled(max_connections=1), Conversation()
    await converse(here, simulator, conversation, "a")
    (slot,) = here.partition.slots.values()
    assert slot.connection is not None
    simulator.abort_connections()
    await slot.connection._socket.wait_closed()
    assert here.partition.slots == {}
    assert reason(await converse(here, simulator, conversation, "b")) is Mismatch.CONNECTION_LOST
    assert (here.connections.open, here.connections.opened, here.connections.lost) == (1, 2, 1)


@pytest.mark.parametrize("what", ["close", "abort"])
@pytest.mark.parametrize("store", [True, False])
async def test_what_a_connection_held_that_closes_behind_a_turn_is_remembered(
    pooled: Start, simulator: Simulator, what: Any, *, store: bool
) -> None:
    """A stored response is continued on the connection that opens in its place; else the reason is a loss."""
    here, conversation = await pooled(open_ahead=True), Conversation()
    simulator.inject(Fault("after_completed", what))
    asked = conversation.says("a", store=store)
    async with here.pool.lease(asked, here.partition) as lease:
        await run(lease, asked)
        await lease.connection._socket.wait_closed()
    conversation.hears(simulator.turns[-1].output)
    turn = await here.lend(conversation.says("b", store=store))
    assert reason(turn.upload) is (None if store else Mismatch.CONNECTION_LOST)
    assert simulator.turns[-1].context == conversation.history
    assert (here.connections.open, here.connections.opened, here.connections.lost) == (1, 2, 1)


async def test_a_connection_lost_during_a_turn_is_counted_once(pooled: Start, simulator: Simulator) -> None:
    """The turn that held it gives back nothing, and the next one says what became of it."""
    here, conversation = await pooled(), Conversation()
    await converse(here, simulator, conversation, "a")
    async with here.pool.lease(conversation.says("b"), here.partition) as lease:
        lease.connection.baseline = None
        simulator.abort_connections()
        await lease.connection._socket.wait_closed()
    assert here.partition.slots == {}
    assert (here.connections.open, here.connections.opened, here.connections.lost) == (0, 1, 1)
    assert reason(await converse(here, simulator, conversation, "c")) is Mismatch.CONNECTION_LOST


async def test_leaving_the_pool_closes_what_is_open(simulator: Simulator) -> None:
    """Every connection gets a close frame, and nothing is left behind."""
    async with Pooled(simulator.base_url) as here:
        for temperature in range(3):
            await here.lend(request(user("a"), temperature=temperature))
        assert here.connections.open == 3
    await simulator.until(lambda: not simulator.open_connections)
    assert [record.close_code for record in simulator.connections] == [1000] * 3
    assert (here.connections.open, here.connections.lost) == (0, 0)


async def test_leaving_the_pool_does_not_wait_for_a_dead_upstream(simulator: Simulator) -> None:
    """An upstream that went silent costs close_timeout, no more."""
    async with asyncio.timeout(5):
        async with Pooled(simulator.base_url, timing=replace(TIMING, close_timeout=0.05)) as here:
            await here.lend(request(user("a")))
            simulator.silence_connections()


# Room


async def test_a_conversation_of_one_turn_makes_room_first(pooled: Start, simulator: Simulator) -> None:
    """A newcomer evicts the shortest and oldest baseline; the evicted one's next turn says why it is full."""
    here = await pooled(max_connections=3)
    long, old, young, new = (Conversation() for _ in range(4))
    for conversation, text in ((long, "long"), (long, "longer"), (old, "old"), (young, "young")):
        here.clock.advance(1)
        await converse(here, simulator, conversation, text)
    here.clock.advance(1)
    assert reason(await converse(here, simulator, new, "new")) is Mismatch.FIRST_TURN
    assert reason(await converse(here, simulator, long, "longest")) is None
    assert reason(await converse(here, simulator, young, "younger")) is None
    assert reason(await converse(here, simulator, old, "older")) is Mismatch.RETIRED
    assert here.connections.open == 3


async def test_a_newcomer_without_room_opens_nothing(pooled: Start, simulator: Simulator) -> None:
    """It goes where another conversation was, whose connection has seen most of what it says."""
    here = await pooled(max_connections=2)
    sent = []
    for text in "abcdef":
        here.clock.advance(1)
        before = here.traffic.sent
        await here.lend(request(user(INSTRUCTIONS), user(text)))
        sent.append(here.traffic.sent - before)
    assert [turn.connection_id for turn in simulator.turns] == [0, 1, 0, 1, 0, 1]
    assert all(turn.previous_response_id is None and len(turn.context) == 2 for turn in simulator.turns)
    assert (here.connections.open, here.connections.opened, here.connections.lost) == (2, 2, 0)
    assert max(sent[2:]) < min(sent[:2]) / 10


async def test_a_conversation_at_its_tools_makes_no_room(pooled: Start, simulator: Simulator) -> None:
    """It goes on with a delta, whoever came in between."""
    here, conversation = await pooled(max_connections=2), Conversation()
    simulator.script = scripted([says(FunctionCall("ls", call_id="call_1")), "b", "c", "d"])
    await converse(here, simulator, conversation, "a")
    for text in "bc":
        here.clock.advance(1)
        await converse(here, simulator, Conversation(), text)
    conversation.history.append(answer())
    assert reason(await converse(here, simulator, conversation, "d")) is None


async def test_tasks_one_after_another_find_room(pooled: Start, simulator: Simulator) -> None:
    """Each is over with its answer, however many tools it used: the third knows that, and waits for no minute."""
    here = await pooled(max_connections=2)
    uploads = []
    for number in range(5):
        here.clock.advance(1)
        task = Conversation()
        simulator.script = scripted([says(FunctionCall("ls", call_id="call_1")), "Done"])
        uploads.append(reason(await converse(here, simulator, task, f"Task {number}")))
        turn = await here.lend(request(*task.history, answer()))
        uploads.append(reason(turn.upload))
    assert uploads == [Mismatch.FIRST_TURN, None] * 5
    assert [turn.connection_id for turn in simulator.turns] == [0, 0, 1, 1] * 2 + [0, 0]


async def test_tasks_that_are_gone_on_with_make_no_room(pooled: Start, simulator: Simulator) -> None:
    """One is enough, and no other of its kind is taken for over."""
    here = await pooled(max_connections=2)
    conversations = [Conversation() for _ in range(2)]
    for text in "abc":
        for conversation in conversations:
            assert reason(await converse(here, simulator, conversation, text)) in (Mismatch.FIRST_TURN, None)
    with pytest.raises(NoLease):
        await converse(here, simulator, Conversation(), "new")


async def test_stored_conversations_share_fewer_connections(pooled: Start, simulator: Simulator) -> None:
    """Each takes another's in turn, and goes on there with a delta."""
    here = await pooled(max_connections=2)
    conversations = [Conversation() for _ in range(3)]
    for text in "abcd":
        for conversation in conversations:
            turn = await here.lend(conversation.says(text, store=True))
            assert reason(turn.upload) is (Mismatch.FIRST_TURN if text == "a" else None)
            conversation.hears(simulator.turns[-1].output)


async def test_a_pool_at_work_throughout_has_no_room(pooled: Start) -> None:
    """Nobody at work is evicted, and a second attempt finds no room either."""
    here = await pooled(max_connections=1)
    async with here.pool.lease(request(user("a")), here.partition):
        for fresh in (None, Mismatch.CONNECTION_LOST):
            with pytest.raises(NoLease) as caught:
                await here.lend(request(user("b")), fresh=fresh)
            assert caught.value.reason is Mismatch.BUSY


# One-offs


class Titles:
    """An agent that has each message summed up, in a conversation of its own."""

    def __init__(self, here: Pooled, simulator: Simulator) -> None:
        self.here = here
        self.simulator = simulator

    async def ask(self, *told: str, **fields: Any) -> tuple[int, int]:
        """Have *told* summed up; return the connection it went on, and the bytes that it took upstream."""
        self.here.clock.advance(10)
        sent = self.here.traffic.sent
        history = [user(INSTRUCTIONS), *map(user, told)]
        fields = {"prompt_cache_key": told[-1], "client_metadata": {"turn": told[-1]}, **fields}
        turn = await self.here.lend(request(*history, **fields))
        assert isinstance(turn.upload, Full)
        return self.simulator.turns[-1].connection_id, self.here.traffic.sent - sent


INSTRUCTIONS = " ".join(f"word{number * number}" for number in range(2000))


async def test_a_one_off_goes_where_the_last_one_of_its_kind_was(pooled: Start, simulator: Simulator) -> None:
    """From the third on, once two have not gone on: nothing is opened, and the compressor knows nearly all."""
    here = await pooled()
    titles = Titles(here, simulator)
    asked = [await titles.ask(text) for text in "abcde"]
    assert [connection for connection, _ in asked] == [0, 1, 1, 1, 1]
    assert max(sent for _, sent in asked[2:]) < min(sent for _, sent in asked[:2]) / 20
    assert here.connections.opened == 2
    assert all(len(turn.context) == 2 for turn in simulator.turns)


async def test_who_begins_at_once_takes_nobodys_place(pooled: Start, simulator: Simulator) -> None:
    """Whoever goes on does so in moments, as a rule: three that begin at once keep their connections."""
    here = await pooled()
    conversations = [Conversation() for _ in range(3)]
    for text in "ab":
        for conversation in conversations:
            here.clock.advance(3)
            await converse(here, simulator, conversation, text)
    assert [turn.connection_id for turn in simulator.turns] == [0, 1, 2] * 2


class SubAgents:
    """An agent that leaves each task to another, which calls a tool and then answers."""

    def __init__(self, here: Pooled, simulator: Simulator) -> None:
        self.here = here
        self.simulator = simulator
        simulator.script = lambda call: says("Done" if len(call.context) > 1 else FunctionCall("ls"))

    async def work(self, task: str) -> Conversation:
        """Have *task* done."""
        self.here.clock.advance(10)
        conversation = Conversation()
        turn = await self.here.lend(conversation.says(task, instructions=INSTRUCTIONS))
        conversation.hears(self.simulator.turns[-1].output)
        assert reason(turn.upload) is Mismatch.FIRST_TURN
        call_id = self.simulator.turns[-1].output[-1]["call_id"]
        conversation.hears([answer(call_id)])
        assert reason((await self.go_on(conversation)).upload) is None
        return conversation

    async def go_on(self, conversation: Conversation) -> Turn:
        """Run the next turn of *conversation*."""
        turn = await self.here.lend(request(*conversation.history, instructions=INSTRUCTIONS))
        assert self.simulator.turns[-1].context == conversation.history
        conversation.hears(self.simulator.turns[-1].output)
        return turn


async def test_a_sub_agent_begins_where_the_last_one_ended(pooled: Start, simulator: Simulator) -> None:
    """However many turns it took: nothing is opened, and the compressor knows its instructions."""
    here = await pooled()
    agents = SubAgents(here, simulator)
    sent = [0]
    for task in "abcde":
        await agents.work(task)
        sent.append(here.traffic.sent)
    assert [turn.connection_id for turn in simulator.turns] == [0, 0, 1, 1, 1, 1, 1, 1, 1, 1]
    assert sent[5] - sent[2] < (sent[2] - sent[0]) / 5
    assert here.connections.opened == 2


async def test_a_sub_agent_that_is_told_more_loses_one_upload(pooled: Start, simulator: Simulator) -> None:
    """From then on each of its kind keeps its connection."""
    here = await pooled(max_connections=9)
    agents = SubAgents(here, simulator)
    _, second, third = [await agents.work(task) for task in "abc"]
    for conversation, why in ((second, Mismatch.RETIRED), (third, None)):
        conversation.hears([user("More")])
        assert reason((await agents.go_on(conversation)).upload) is why
    await agents.work("d")
    await agents.work("e")
    assert [turn.connection_id for turn in simulator.turns[6:]] == [2, 1, 3, 3, 4, 4]


async def test_a_call_that_was_demanded_may_be_the_answer(pooled: Start, simulator: Simulator) -> None:
    """Many have answers with a schema told as a call, which nobody answers: those that follow find room."""
    here = await pooled(max_connections=2)
    simulator.script = lambda _: says(FunctionCall("verdict"))
    for choice in ({"type": "function", "name": "verdict"}, "required"):
        for text in "abcd":
            here.clock.advance(1)
            await here.lend(request(user(text), tool_choice=choice))
    assert (here.connections.opened, len(simulator.turns)) == (2, 8)


async def test_a_demanded_call_that_is_answered_is_none(pooled: Start, simulator: Simulator) -> None:
    """Agents that demand a call with each turn keep their connections, as others do."""
    here = await pooled(max_connections=1)
    simulator.script = lambda _: says(FunctionCall("ls"))
    conversation = Conversation()
    turn = await here.lend(conversation.says("a", tool_choice="required"))
    for _ in range(3):
        output = simulator.turns[-1].output
        conversation.hears([*output, answer(output[-1]["call_id"])])
        turn = await here.lend(request(*conversation.history, tool_choice="required"))
        assert reason(turn.upload) is None
    with pytest.raises(NoLease):
        await here.lend(request(user("b"), tool_choice="required"))


async def test_who_began_with_much_makes_no_place(pooled: Start, simulator: Simulator) -> None:
    """Conversations over documents, by turns: each of them goes on with a delta."""
    here = await pooled(max_connections=9)
    conversations = [Conversation() for _ in range(4)]
    for text in (INSTRUCTIONS * 2, ""):
        for number, conversation in enumerate(conversations):
            here.clock.advance(15)
            await converse(here, simulator, conversation, f"{text}{number}")
    assert [turn.connection_id for turn in simulator.turns] == [0, 1, 2, 3] * 2


async def test_one_offs_of_another_kind_are_left_alone(pooled: Start, simulator: Simulator) -> None:
    """Other settings, other tasks."""
    titles = Titles(await pooled(), simulator)
    for text in "abc":
        await titles.ask(text)
    assert (await titles.ask("d", temperature=0.5))[0] == 2
    assert (await titles.ask("e", instructions="Be brief."))[0] == 3


async def test_a_kind_that_goes_on_is_no_one_off(pooled: Start, simulator: Simulator) -> None:
    """One conversation that went on is enough, however many have not."""
    here = await pooled(max_connections=9)
    conversation, titles = Conversation(), Titles(here, simulator)
    await converse(here, simulator, conversation, "a")
    assert reason(await converse(here, simulator, conversation, "b")) is None
    for number in range(1, 5):
        connection = (await titles.ask(str(number), prompt_cache_key=None, client_metadata=None))[0]
        assert connection == number


async def test_a_conversation_that_comes_back_loses_one_upload(pooled: Start, simulator: Simulator) -> None:
    """What took its place stays where it is; no other of its kind is taken for over."""
    here = await pooled(max_connections=9)
    first, second, third, fourth = (Conversation() for _ in range(4))
    for conversation in (first, second, third):
        here.clock.advance(10)
        await converse(here, simulator, conversation, "a")
    assert [turn.connection_id for turn in simulator.turns] == [0, 1, 1]
    assert reason(await converse(here, simulator, second, "b")) is Mismatch.RETIRED
    assert reason(await converse(here, simulator, fourth, "a")) is Mismatch.FIRST_TURN
    assert [turn.connection_id for turn in simulator.turns] == [0, 1, 1, 2, 3]
    for conversation in (first, second, third, fourth):
        assert reason(await converse(here, simulator, conversation, "c")) is None


async def test_who_comes_back_and_finds_no_room_was_not_over(pooled: Start, simulator: Simulator) -> None:
    """It goes over plain HTTP, and no other of its kind is taken for over."""
    here = await pooled(max_connections=1)
    conversations = [Conversation() for _ in range(2)]
    for conversation in conversations:
        await converse(here, simulator, conversation, "a")
    assert here.partition.kinds.habits().over
    simulator.script = lambda _: says(FunctionCall("ls"))
    await here.lend(request(user("Look"), temperature=0.5))
    with pytest.raises(NoLease) as caught:
        await here.lend(conversations[0].says("b"))
    assert caught.value.reason is Mismatch.BUSY
    assert not here.partition.kinds.habits().over


class Suggesting:
    """An agent that asks after each answer what its user may type next, in a fork of the conversation."""

    def __init__(self, here: Pooled, simulator: Simulator, *, apart: JSON | None = None, **fields: Any) -> None:
        self.here = here
        self.simulator = simulator
        self.apart = {"reasoning": {"effort": "none"}} if apart is None else apart
        self.fields = fields
        self.main = Conversation()

    async def ask(self, text: str) -> tuple[str | None, str | None]:
        """Say *text*, then ask for a suggestion; return why either was no delta."""
        self.here.clock.advance(1)
        turn = await self.here.lend(self.main.says(text, **self.fields))
        self.main.hears(self.simulator.turns[-1].output)
        return reason(turn.upload), reason((await self.suggest()).upload)

    async def suggest(self, words: str = "Suggest.") -> Turn:
        """Ask for a suggestion, in these *words*."""
        asked = request(*self.main.history, user(words), **self.apart, **self.fields)
        turn = await self.here.lend(asked)
        assert self.simulator.turns[-1].context == [*self.main.history, user(words)]
        return turn


@pytest.mark.parametrize("apart", [{"reasoning": {"effort": "none"}}, {}], ids=["by its settings", "by its words"])
async def test_what_leads_nowhere_costs_a_conversation_one_upload(
    pooled: Start, simulator: Simulator, apart: JSON
) -> None:
    """Once the agent has come back to where it was, a suggestion goes aside, and then where the last one was."""
    here = await pooled()
    agent = Suggesting(here, simulator, apart=apart)
    assert [await agent.ask(text) for text in "abcdef"] == [
        (Mismatch.FIRST_TURN, None),
        (Mismatch.HISTORY_CHANGED, Mismatch.ASIDE),
        (None, Mismatch.ASIDE),
        (None, Mismatch.ASIDE),
        (None, Mismatch.ASIDE),
        (None, Mismatch.ASIDE),
    ]
    assert [turn.connection_id for turn in simulator.turns] == [0, 0, *[1, 2] * 5]


async def test_what_leads_nowhere_does_not_hide_a_loss(pooled: Start, simulator: Simulator) -> None:
    """The agent that comes back has changed nothing."""
    here = await pooled()
    agent = Suggesting(here, simulator)
    for text in "ab":
        await agent.ask(text)
    await here.lend(agent.main.says("c"))
    agent.main.hears(simulator.turns[-1].output)
    simulator.abort_connections()
    await simulator.until(lambda: not simulator.open_connections)
    async with asyncio.timeout(10):
        while here.connections.lost < 3:  # noqa: ASYNC110  nobody tells when it changes
            await asyncio.sleep(0.01)
    assert reason((await agent.suggest()).upload) is Mismatch.CONNECTION_LOST
    assert await agent.ask("d") == (Mismatch.CONNECTION_LOST, Mismatch.ASIDE)


async def test_a_suggestion_that_is_broken_off_leads_aside_too(pooled: Start, simulator: Simulator) -> None:
    """Its user typed on: what it cost, it costs once."""
    here = await pooled()
    agent = Suggesting(here, simulator)
    asked = []
    for text in "abcd":
        asked.append(reason(await converse(here, simulator, agent.main, text)))
        suggestion = request(*agent.main.history, user("Suggest."), **agent.apart)
        async with here.pool.lease(suggestion, here.partition) as lease:
            turn = Turn(suggestion)
            await lease.send(lease.start(turn, lease.upload))
    assert asked == [Mismatch.FIRST_TURN, Mismatch.AFTER_ERROR, None, None]


@pytest.mark.parametrize("apart", [{"reasoning": {"effort": "none"}}, {}], ids=["by its settings", "by its words"])
async def test_an_agent_may_have_two_ways_aside(pooled: Start, simulator: Simulator, apart: JSON) -> None:
    """A suggestion and a look for what is to be remembered: when it comes back, it has come back from both."""
    here = await pooled(max_connections=9)
    agent, looks = (
        Suggesting(here, simulator, apart=apart),
        Suggesting(here, simulator, apart={"temperature": 0.5}),
    )
    looks.main = agent.main
    for text in "abcdefghij":
        asked = [*await agent.ask(text), reason((await looks.suggest("Remember.")).upload)]
        assert text in "abc" or asked == [None, Mismatch.ASIDE, Mismatch.ASIDE]


async def test_words_that_an_agent_came_back_from_go_on_elsewhere(pooled: Start, simulator: Simulator) -> None:
    """Who took back what they say often, and says it again, pays one upload for it, once."""
    here = await pooled(max_connections=9)
    agent = Suggesting(here, simulator, apart={})
    await converse(here, simulator, agent.main, "a")
    await agent.suggest()
    asked = [reason(await converse(here, simulator, agent.main, text)) for text in ("b", "Suggest.", "c")]
    assert asked == [Mismatch.HISTORY_CHANGED, Mismatch.ASIDE, None]
    assert reason(await converse(here, simulator, agent.main, "Suggest.")) is None


async def test_the_same_words_again_lead_nobody_aside(pooled: Start, simulator: Simulator) -> None:
    """A turn that is asked again says nothing of its words."""
    here = await pooled(max_connections=9)
    agent = Suggesting(here, simulator, apart={})
    await converse(here, simulator, agent.main, "a")
    await agent.suggest()
    assert reason((await agent.suggest()).upload) is Mismatch.HISTORY_CHANGED
    agent.main = Conversation()
    await converse(here, simulator, agent.main, "b")
    assert reason((await agent.suggest()).upload) is None


async def test_a_stored_conversation_that_is_rewound_goes_on(pooled: Start, simulator: Simulator) -> None:
    """Its response from before is there still."""
    here = await pooled()
    main = Conversation()
    for text in "ab":
        turn = await here.lend(main.says(text, store=True))
        main.hears(simulator.turns[-1].output)
    del main.history[-2:]
    turn = await here.lend(main.says("c", store=True))
    assert reason(turn.upload) is None
    assert simulator.turns[-1].context == main.history


async def test_a_long_conversation_crowds_out_no_other(pooled: Start, simulator: Simulator) -> None:
    """Each message leaves a response behind; one that is stored goes on from its own, however many there were."""
    here = await pooled(max_connections=1)
    waiting, talking = Conversation(), Conversation()
    await here.lend(waiting.says("a", store=True))
    waiting.hears(simulator.turns[-1].output)
    for number in range(70):
        await converse(here, simulator, talking, str(number))
    here.clock.advance(60)
    turn = await here.lend(waiting.says("b", store=True))
    assert reason(turn.upload) is None
    assert simulator.turns[-1].context == waiting.history


async def test_what_is_remembered_has_an_end(pooled: Start, simulator: Simulator) -> None:
    """Of what was gone on from, and of the rest."""
    partition = (await pooled()).partition
    for why in (Mismatch.HISTORY_CHANGED, Mismatch.RETIRED):
        for number in range(100):
            partition.remember(Baseline.after(request(user("a")), f"{why} {number}", ()), why)
    kept = [former.baseline.response_id for former in partition.formers]
    assert kept == [f"{why} {number}" for why in ("retired", "history_changed") for number in range(99, 35, -1)]


async def test_what_an_agent_came_back_from_once_is_a_delta_again(pooled: Start, simulator: Simulator) -> None:
    """A summary may be thrown away: if those behind it are not, two go up in full, in vain, and then none."""
    here = await pooled(max_connections=9)
    agent = Suggesting(here, simulator)
    await agent.ask("a")
    assert await agent.ask("b") == (Mismatch.HISTORY_CHANGED, Mismatch.ASIDE)
    summed_up = []
    for _ in range(3):
        agent.main = Conversation()
        summed_up.append(await agent.ask("c"))
    assert [how for _, how in summed_up] == [Mismatch.ASIDE, None, None]
    assert await agent.ask("d") == (Mismatch.HISTORY_CHANGED, Mismatch.ASIDE)


async def test_agents_that_answer_at_once_go_aside_as_often_as_they_came_back(
    pooled: Start, simulator: Simulator
) -> None:
    """Four windows have their answers, and a suggestion each, before anybody types again."""
    here = await pooled(max_connections=16)
    windows = [Suggesting(here, simulator) for _ in range(4)]
    rounds = []
    for text in "abcde":
        asked = [reason(await converse(here, simulator, each.main, text)) for each in windows]
        rounds.append((asked, [reason((await each.suggest()).upload) for each in windows]))
    assert rounds[3:] == [([None] * 4, [Mismatch.ASIDE] * 4)] * 2


async def test_what_went_aside_often_is_a_delta_again_too(pooled: Start, simulator: Simulator) -> None:
    """However often an agent came back: once it does so no more, eight go up in full, in vain, and then none."""
    here = await pooled(max_connections=16)
    agent = Suggesting(here, simulator)
    for text in "abcdefghij":
        await agent.ask(text)
    given_up = []
    for _ in range(9):
        agent.main = Conversation()
        given_up.append((await agent.ask("z"))[1])
    assert given_up == [*[Mismatch.ASIDE] * 7, None, None]  # one was asked for before


async def test_a_suggestion_that_is_taken_up_is_no_way_aside(pooled: Start, simulator: Simulator) -> None:
    """From then on it is a delta, for the conversation may go on from there."""
    here = await pooled(max_connections=9)
    agent = Suggesting(here, simulator)
    for text in "ab":
        await agent.ask(text)
    assert reason((await agent.suggest()).upload) is Mismatch.ASIDE
    suggested = simulator.turns[-1].output
    follow = request(*agent.main.history, user("Suggest."), *suggested, user("Yes."))
    assert reason((await here.lend(follow)).upload) is None
    assert await agent.ask("c") == (None, None)


async def test_a_setting_that_changes_leads_nobody_aside(pooled: Start, simulator: Simulator) -> None:
    """A conversation goes on with another setting, and so does the next one."""
    here = await pooled()
    for _ in range(2):
        here.clock.advance(1)
        conversation = Conversation()
        for effort in ("low", "low", "high", "high", "low", "high"):
            turn = await here.lend(conversation.says(effort, reasoning={"effort": effort}))
            conversation.hears(simulator.turns[-1].output)
            assert reason(turn.upload) in (None, Mismatch.FIRST_TURN)


async def test_without_room_a_suggestion_is_a_delta(pooled: Start, simulator: Simulator) -> None:
    """It is not worth another's connection, nor plain HTTP."""
    here = await pooled(max_connections=1)
    agent = Suggesting(here, simulator)
    partition = here.partition
    partition.kinds.led_aside(request(reasoning={"effort": "none"}).kind)
    assert await agent.ask("a") == (Mismatch.FIRST_TURN, None)


async def test_a_stored_conversation_goes_on_from_where_it_was(pooled: Start, simulator: Simulator) -> None:
    """Its response is there still, so a suggestion costs it nothing."""
    here = await pooled()
    agent = Suggesting(here, simulator, store=True)
    asked = [await agent.ask(text) for text in "abc"]
    assert asked == [(Mismatch.FIRST_TURN, None), (None, None), (None, None)]


async def test_a_one_off_that_fails_says_nothing_of_what_it_replaced(pooled: Start, simulator: Simulator) -> None:
    """The connection is closed, as ever; the conversation that was there has made room before."""
    here = await pooled(max_connections=9)
    conversations = [Conversation() for _ in range(3)]
    simulator.script = scripted(["a", "b", says("half", finish=Incomplete()), "d"])
    for conversation in conversations[:2]:
        await converse(here, simulator, conversation, "a")
        here.clock.advance(10)
    await here.lend(conversations[2].says("a"))
    await simulator.until(lambda: simulator.connections[1].closed)
    assert reason(await converse(here, simulator, conversations[1], "b")) is Mismatch.RETIRED


async def test_a_connection_too_many_goes_once_no_turn_may_need_it(pooled: Start, simulator: Simulator) -> None:
    """It was opened beside one that got through after all."""
    here, conversation = await pooled(max_connections=1), Conversation()
    asked = conversation.says("a")
    async with here.pool.lease(asked, here.partition) as lease:
        key, slot = here.pool._begin_for_a_turn(here.partition)
        assert slot.opening is not None
        await slot.opening
        here.pool._release(here.partition, key, slot)
        here.pool._sweep(here.partition, here.clock())
        assert here.connections.open == 2
        lease.connection.baseline = (await run(lease, asked)).baseline
    conversation.hears(simulator.turns[-1].output)
    here.pool._sweep(here.partition, here.clock())
    assert (here.connections.open, here.connections.lost) == (1, 0)
    assert reason(await converse(here, simulator, conversation, "b")) is None


# Partitions


async def test_a_partition_is_its_headers_and_its_query(pooled: Start) -> None:
    """Order and case of names don't matter; every value does."""
    here = await pooled()
    partition = here.pool.partition
    mine = partition((*KEY, ("OpenAI-Project", "p")))
    assert partition((("openai-project", "p"), ("authorization", "Bearer key"))) is mine
    others = [
        partition(KEY),
        partition((("Authorization", "Bearer KEY"), ("OpenAI-Project", "p"))),
        partition((*KEY, ("OpenAI-Project", "q"))),
        partition((*KEY, ("OpenAI-Project", "p")), "api-version=1"),
    ]
    assert len({id(each) for each in (mine, *others)}) == 5


async def test_partitions_are_bounded_and_used_ones_stay(pooled: Start, simulator: Simulator) -> None:
    """Of hundreds of keys the pool forgets those without a connection, oldest first."""
    here, conversation = await pooled(), Conversation()
    await converse(here, simulator, conversation, "a")
    used = here.partition
    unused = [here.pool.partition((("Authorization", f"Bearer {number}"),)) for number in range(300)]
    assert len(here.pool._partitions) == 64
    assert here.partition is used
    assert here.pool.partition((("Authorization", "Bearer 299"),)) is unused[299]
    assert here.pool.partition((("Authorization", "Bearer 0"),)) is not unused[0]


async def test_the_oldest_of_many_partitions_closes_its_connections(pooled: Start, simulator: Simulator) -> None:
    """An agent whose every request looks like another's leaves no trail of open sockets."""
    here = await pooled()
    partitions = [here.pool.partition((("Authorization", f"Bearer {number}"),)) for number in range(64)]
    for partition in partitions:
        async with here.pool.lease(request(user("a")), partition) as lease:
            lease.connection.baseline = Baseline.after(request(user("a")), "resp_1", ())
    assert here.connections.open == 64
    newest = here.pool.partition((("Authorization", "Bearer 64"),))
    assert here.connections.open == 63
    assert newest in here.pool._partitions.values()
    assert partitions[0] not in here.pool._partitions.values()


async def test_a_partition_that_is_forgotten_meanwhile_leaves_no_connection(
    pooled: Start, simulator: Simulator
) -> None:
    """Nobody would sweep it, or close it in the end."""
    here = await pooled()
    mine = here.pool.partition((("Authorization", "Bearer mine"),))
    for number in range(64):
        here.pool.partition((("Authorization", f"Bearer {number}"),))
    async with here.pool.lease(request(user("a")), mine) as lease:
        lease.connection.baseline = Baseline.after(request(user("a")), "resp_1", ())
    assert (here.connections.open, mine.slots) == (0, {})


async def test_a_turn_that_finds_no_room_is_no_trial(pooled: Start) -> None:
    """Where WebSockets are suspect and upstream takes no more, the next turn tries as soon as it does."""
    here = await pooled()
    trust = here.partition.trust
    trust.lost(here.clock(), opened=here.clock(), enough=1)
    here.clock.advance(60)
    trust.not_now(here.clock(), began=here.clock())
    with pytest.raises(NoLease):
        await here.lend(request(user("a")))
    assert trust.allows(here.clock())


async def test_a_refusal_of_one_key_says_nothing_about_another(pooled: Start, simulator: Simulator) -> None:
    """What was learned about upstream stays in its partition."""
    here = await pooled()
    simulator.inject(Fault("handshake", "error", status=426))
    with pytest.raises(NoLease):
        await here.lend(request(user("a")))
    other = here.pool.partition((("Authorization", "Bearer other"),))
    async with here.pool.lease(request(user("a")), other) as lease:
        assert lease.connection.is_open


# Upgrades that fail


@pytest.mark.parametrize(
    ("status", "body"), [(426, None), (404, None), (503, None), (200, b"<html>"), (511, b"<html>")]
)
async def test_a_refused_upgrade_is_remembered_for_a_while(
    pooled: Start, simulator: Simulator, status: int, body: bytes | None
) -> None:
    """For 300 s there is no lease and no upgrade; then upstream is asked again."""
    here = await pooled()
    simulator.inject(Fault("handshake", "error", status=status, body=body))
    for _ in range(3):
        with pytest.raises(NoLease) as caught:
            await here.lend(request(user("a")))
        assert caught.value.reason is Mismatch.NO_WEBSOCKET
    assert len(simulator.requests) == 1
    here.clock.advance(300)
    await here.lend(request(user("a")))
    assert len(simulator.requests) == 2


async def test_open_connections_outlive_a_refused_upgrade_elsewhere(pooled: Start, simulator: Simulator) -> None:
    """A refusal closes nothing: old conversations go on where they were, and new ones once it is forgotten."""
    here, conversation = await pooled(), Conversation()
    await converse(here, simulator, conversation, "a")
    simulator.inject(Fault("handshake", "error", status=503))
    with pytest.raises(NoLease):
        await here.lend(request(user("else")))
    assert reason(await converse(here, simulator, conversation, "b")) is None
    with pytest.raises(NoLease):
        await here.lend(request(user("else")))
    assert len(simulator.requests) == 2
    here.clock.advance(300)
    await here.lend(request(user("else")))


async def test_an_upgrade_that_breaks_off_is_not_remembered(pooled: Start, simulator: Simulator) -> None:
    """This turn has no lease; the next one asks at once."""
    here = await pooled()
    simulator.inject(Fault("handshake", "abort"))
    with pytest.raises(NoLease) as caught:
        await here.lend(request(user("a")))
    assert caught.value.reason is Mismatch.NO_WEBSOCKET
    await here.lend(request(user("a")))
    assert (here.connections.open, here.connections.opened, here.connections.lost) == (1, 1, 0)


async def test_an_agent_that_is_refused_is_told_and_takes_up_no_room(pooled: Start, simulator: Simulator) -> None:
    """Upstream's words pass through the lease, and its place is free again."""
    here = await pooled(max_connections=1)
    simulator.inject(Fault("handshake", "error", status=401))
    with pytest.raises(UpstreamError) as caught:
        await here.lend(request(user("a")))
    assert caught.value.status == 401
    await here.lend(request(user("a")))


# Whether upstream keeps its promises


async def test_three_broken_promises_in_a_row_turn_chaining_off(pooled: Start, simulator: Simulator) -> None:
    """Then everything is sent in full for a while, on the connection that would have continued it."""
    here, conversation = await pooled(), Conversation()
    await converse(here, simulator, conversation, "a")
    async with here.pool.lease(conversation.says("b"), here.partition) as lease:
        for continued in (False, False, True, False, False):
            here.partition.note_delta(
                recalled=False, stored=False, continued=continued, now=here.clock(), off_seconds=300
            )
    async with here.pool.lease(request(*conversation.history), here.partition) as lease:
        assert isinstance(lease.upload, Delta)
        here.partition.note_delta(recalled=False, stored=False, continued=False, now=here.clock(), off_seconds=300)
    async with here.pool.lease(request(*conversation.history), here.partition) as lease:
        assert reason(lease.upload) is Mismatch.UPSTREAM_FORGOT
    here.clock.advance(300)
    async with here.pool.lease(request(*conversation.history), here.partition) as lease:
        assert isinstance(lease.upload, Delta)
    assert len(simulator.connections) == 1


async def test_what_is_refused_for_good_stays_so(pooled: Start) -> None:
    """That a stored response was not found is believed for a while, and ends nothing that lasts longer."""
    here = await pooled()
    here.partition.recall.rest(inf)
    here.partition.note_delta(recalled=True, stored=True, continued=False, now=here.clock(), off_seconds=300)
    here.clock.advance(300)
    assert not here.partition.may_recall(request(user("a"), store=True), here.clock())


async def test_that_stored_responses_are_not_continued_elsewhere_outlasts_other_doubts(pooled: Start) -> None:
    """However many conversations are better off over HTTP: where ids repeat, a context would be wrong."""
    here = await pooled()
    here.partition.note_delta(recalled=True, stored=True, continued=False, now=here.clock(), off_seconds=inf)
    for number in range(100):
        here.partition.doubts.fared_better(Doubt(Mismatch.WEBSOCKET_REFUSED, session=str(number)), inf, enough=1)
    stored = request(user("a"), store=True)
    assert not here.partition.may_recall(stored, here.clock())


async def test_a_promise_broken_without_a_word_turns_chaining_off_at_once(
    pooled: Start, simulator: Simulator
) -> None:
    """An upstream that answers without the history it was told to continue gets no second chance for a while."""
    here, conversation = await pooled(), Conversation()
    await converse(here, simulator, conversation, "a")
    asked = conversation.says("b")
    async with here.pool.lease(asked, here.partition) as lease:
        here.partition.note_delta(
            recalled=False, stored=False, continued=False, now=here.clock(), off_seconds=300, at_once=True
        )
    async with here.pool.lease(asked, here.partition) as lease:
        assert reason(lease.upload) is Mismatch.UPSTREAM_FORGOT
