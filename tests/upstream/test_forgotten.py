"""Connections that something in between forgets in a pause, while another acknowledges what is sent there."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from math import inf

import pytest
from link import Link
from pooling import TIMING, Conversation, Pooled, Shown, converse

from proxy.core.delta import Delta, Full, Mismatch
from proxy.simulator import Fault, Simulator
from proxy.upstream import connection as connection_module
from proxy.upstream import pool as pool_module
from proxy.upstream import rescue as rescue_module
from proxy.upstream import slumber as slumber_module
from proxy.upstream.connection import Connection

Start = Callable[..., Awaitable[Pooled]]

_PONG = 0.3
"""Seconds that a pong has at the least, here."""


@pytest.fixture(autouse=True)
def _hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let seconds be fractions of one."""
    monkeypatch.setattr(connection_module, "PAUSE", 0.1)
    monkeypatch.setattr(pool_module, "PAUSE", 0.1)
    monkeypatch.setattr(slumber_module, "_SHORTEST", 0.1)
    monkeypatch.setattr(connection_module, "_PROMPT", _PONG)
    monkeypatch.setattr(rescue_module, "_LOOK_SECONDS", 0.01)
    monkeypatch.setattr(pool_module, "_SWEEP_SECONDS", 0.05)


@pytest.fixture
async def link(stack: AsyncExitStack, simulator: Simulator) -> Link:
    """Stand a link before the simulator."""
    return await stack.enter_async_context(Link(("127.0.0.1", simulator.port)))


@pytest.fixture
def linked(stack: AsyncExitStack, link: Link) -> Start:
    """Start a pool towards the simulator, behind the link."""

    async def start() -> Pooled:
        return await stack.enter_async_context(Pooled(link.base_url, clock=asyncio.get_running_loop().time))

    return start


async def until(condition: Callable[[], object]) -> None:
    """Wait until *condition* holds."""
    async with asyncio.timeout(20):
        while True:
            if condition():
                return
            await asyncio.sleep(0.01)


def only(pooled: Pooled) -> Connection:
    """Return the only connection."""
    (slot,) = pooled.partition.slots.values()
    assert slot.connection is not None
    return slot.connection


async def begin(
    pooled: Pooled, simulator: Simulator, conversation: Conversation, *, pongs: bool = True
) -> Connection:
    """Run a first turn, and a pong unless upstream answers no pings; then pause."""
    await converse(pooled, simulator, conversation, "a")
    assert not pongs or await only(pooled).prove(5)
    await asyncio.sleep(0.15)
    return only(pooled)


async def test_the_first_turn_behind_a_pause_notices_that_its_connection_is_forgotten(
    linked: Start, link: Link, simulator: Simulator
) -> None:
    """By the ping that went ahead of it: another connection proves a pong, and the wait is as long again."""
    here, conversation, shown = await linked(), Conversation(), Shown()
    await begin(here, simulator, conversation)
    await asyncio.sleep(1)
    link.strand()
    began = asyncio.get_running_loop().time()
    await here.exchange(conversation.says("b")).run(shown)
    assert 2 * _PONG < asyncio.get_running_loop().time() - began < 10  # its own pings take a minute
    assert shown.types[-1] == "response.completed"
    assert [record.turns for record in simulator.connections] == [1, 1]
    assert here.partition.slumber.rhythm(here.clock()) < inf
    assert not here.partition.trust.is_suspect


def pass_over_a_ping(connection: Connection) -> None:
    """Have upstream speak behind a ping that it does not answer."""
    socket = connection._socket
    socket.pending_pings[b"none"] = (socket.loop.create_future(), socket.heard_at - 1)


@pytest.mark.parametrize("prompt", ["never", "lately not", "not any more"])
async def test_a_server_that_gives_no_prompt_pongs_is_waited_for(
    pooled: Start, simulator: Simulator, prompt: str
) -> None:
    """No second connection is opened for what was not prompt."""
    here, conversation, shown = await pooled(), Conversation(), Shown()
    connection = await begin(here, simulator, conversation, pongs=prompt != "never")
    if prompt == "never":
        connection._socket.pongs.clear()  # of the one that finds out whether upstream answers at work
    elif prompt == "lately not":
        connection._socket.pongs.append(1000.0)
    elif prompt == "not any more":
        pass_over_a_ping(connection)
    simulator.silence_connections()
    running = asyncio.get_running_loop().create_task(here.exchange(conversation.says("b")).run(shown))
    await asyncio.wait([running], timeout=4 * _PONG)
    assert not running.done()
    assert connection.is_open
    assert connection.unanswered > _PONG
    assert len(simulator.connections) == 1
    running.cancel()
    await asyncio.wait([running])


async def test_a_ping_that_was_passed_over_is_not_waited_for(linked: Start, simulator: Simulator) -> None:
    """The silence begins with what was heard last, and goes on until another ping asks."""
    connection = await begin(await linked(), simulator, Conversation())
    pass_over_a_ping(connection)
    assert connection.unanswered == 0
    assert connection.quiet == pytest.approx(connection.silence, abs=0.01)


async def test_what_was_not_acknowledged_may_be_on_its_way(
    linked: Start, link: Link, simulator: Simulator
) -> None:
    """A pong that is late with it shows no connection that is forgotten: TCP says more."""
    connection = await begin(await linked(), simulator, Conversation())
    link.strand()
    await connection.ask()
    connection._ahead, connection._sent = frozenset(connection._socket.pending_pings), False
    await until(connection.is_owed_a_pong)
    assert not connection.is_forgotten()
    connection._sent = True
    assert connection.is_forgotten()


async def test_one_attempt_is_made_in_haste(pooled: Start, simulator: Simulator) -> None:
    """An upstream that is too busy to answer may be too busy to open another connection, too."""
    here, conversation = await pooled(timing=replace(TIMING, open_timeout=0.1, probe_timeout=0.01)), Conversation()
    connection = await begin(here, simulator, conversation)
    simulator.inject(Fault("handshake", "silence", times=None))
    simulator.silence_connections()
    running = asyncio.get_running_loop().create_task(here.exchange(conversation.says("b")).run(Shown()))
    await asyncio.wait([running], timeout=4 * _PONG)
    assert connection.is_forgotten()
    assert len(simulator.requests) == 2
    running.cancel()
    await asyncio.wait([running])


@pytest.mark.parametrize("clock", ["fine", "coarse"])
async def test_an_upstream_that_works_and_answers_no_ping_meanwhile_has_answered_the_one_ahead(
    pooled: Start, simulator: Simulator, clock: str
) -> None:
    """It came before the message: what is not answered behind that says nothing.

    Not even where a clock's steps are so long, as Windows' of 16 ms, that all of it is in the same moment.
    """
    here, conversation = await pooled(), Conversation()
    await begin(here, simulator, conversation)
    async with here.pool.lease(conversation.says("b"), here.partition) as lease:
        simulator.settings.first_event_seconds = 3600
        await lease.send(lease.start(here.exchange(conversation.says("c")).turn, Full(Mismatch.FIRST_TURN)))
        await simulator.until(lambda: len(simulator.turns) == 2)
        await until(lambda: not lease.connection.unanswered)
        simulator.silence_connections()
        await lease.connection.ask()
        if clock == "coarse":
            socket = lease.connection._socket
            socket.heard_at = lease.connection._began_at
            for ping, (waiter, _) in socket.pending_pings.items():
                socket.pending_pings[ping] = (waiter, socket.heard_at)
        await asyncio.sleep(4 * _PONG)
        assert lease.connection.is_owed_a_pong()
        assert lease.connection.is_delivered
        assert lease.connection.is_open
    assert len(simulator.connections) == 1


async def test_a_ping_in_the_midst_of_a_message_queues_with_it(
    linked: Start, link: Link, simulator: Simulator
) -> None:
    """Behind an accelerator that has acknowledged all of it: that the one ahead was answered is what counts."""
    here, conversation = await linked(), Conversation()
    connection = await begin(here, simulator, conversation)
    link.up.bandwidth, connection._socket.proven_rate = 50_000.0, 0.0
    asked = conversation.says(random.Random(1).randbytes(60_000).hex())
    async with here.pool.lease(asked, here.partition) as lease:
        message = lease.start(here.exchange(asked).turn, Full(Mismatch.FIRST_TURN))
        sending = asyncio.get_running_loop().create_task(lease.send(message))
        await until(lambda: connection.unanswered)
        await until(lambda: not connection.unanswered)
        simulator.silence_connections()
        assert not sending.done()
        await connection.ask()
        link.up.bandwidth = None
        await sending
        await until(lambda: connection.is_delivered and connection.is_owed_a_pong())
        assert not connection.is_forgotten()


async def test_a_queue_that_holds_up_everything_is_no_false_alarm(
    linked: Start, link: Link, simulator: Simulator
) -> None:
    """What is opened beside the connection takes several times as long as its pong."""
    here, conversation = await linked(), Conversation()
    connection = await begin(here, simulator, conversation)
    link.up.latency = link.down.latency = _PONG
    for text in "bc":
        await asyncio.sleep(0.15)
        assert isinstance(await converse(here, simulator, conversation, text), Delta)
    assert len(simulator.turns) == 3
    assert here.connections.lost == 0
    assert max(connection._socket.pongs) > _PONG


async def test_each_turn_given_up_in_a_row_makes_the_next_pong_wait_longer(
    linked: Start, link: Link, simulator: Simulator
) -> None:
    """Should upstream have been busy, what was sent again cost another answer."""
    here, conversation, shown = await linked(), Conversation(), Shown()
    connection = await begin(here, simulator, conversation)
    here.partition.hasty = 1
    link.strand()
    began = asyncio.get_running_loop().time()
    await here.exchange(conversation.says("b")).run(shown)
    assert not connection.is_open
    assert asyncio.get_running_loop().time() - began > 4 * _PONG
    assert here.partition.hasty == 2


async def test_a_turn_that_goes_on_behind_a_pause_ends_that(
    linked: Start, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not any other, and on a connection that had one before: a new one may be another worker's."""
    here, conversation = await linked(), Conversation()
    here.partition.hasty = 1
    _, slot = here.pool._open_ahead(here.partition, wanted=False)
    assert slot.opening is not None
    await slot.opening
    await asyncio.sleep(0.15)
    await begin(here, simulator, conversation)
    assert here.partition.hasty == 1
    with monkeypatch.context() as patched:
        patched.setattr(pool_module, "PAUSE", inf)
        await converse(here, simulator, conversation, "b")
    assert here.partition.hasty == 1
    await asyncio.sleep(0.15)
    await converse(here, simulator, conversation, "c")
    assert here.partition.hasty == 0


async def test_connections_that_would_be_forgotten_are_kept_awake(
    linked: Start, link: Link, simulator: Simulator
) -> None:
    """Behind the first loss pauses cost nothing: the conversation goes on with deltas."""
    here, conversation = await linked(), Conversation()
    await begin(here, simulator, conversation)
    link.memory = 0.5
    await asyncio.sleep(0.6)
    await here.exchange(conversation.says("b")).run(Shown())
    conversation.hears(simulator.turns[-1].output)
    for text in "cde":
        await asyncio.sleep(0.8)
        assert isinstance(await converse(here, simulator, conversation, text), Delta)
    assert [record.turns for record in simulator.connections] == [1, 4]


async def test_a_turn_at_work_is_kept_awake_too(linked: Start, link: Link, simulator: Simulator) -> None:
    """Its answer would come over a connection that is forgotten."""
    here, conversation = await linked(), Conversation()
    await begin(here, simulator, conversation)
    here.partition.slumber.lost(0.4, here.clock())
    link.memory = 0.5
    simulator.settings.first_event_seconds = 1.2
    assert isinstance(await converse(here, simulator, conversation, "b"), Delta)


async def test_one_that_was_not_used_lately_is_not(linked: Start, simulator: Simulator, link: Link) -> None:
    """Nor one that holds nothing, nor one of which a pong is due: it is known by then."""
    here, conversation = await linked(), Conversation()
    connection = await begin(here, simulator, conversation)
    here.partition.slumber.lost(0.2, here.clock())
    (slot,) = here.partition.slots.values()
    baseline, passed = connection.baseline, link.up.passed
    for seconds_ago, held in ((pool_module.LATELY_SECONDS, baseline), (0, None)):
        slot.last_used, connection.baseline = here.clock() - seconds_ago, held
        await asyncio.sleep(0.3)
        assert link.up.passed == passed
    slot.last_used, connection.baseline = here.clock(), baseline
    await until(lambda: link.up.passed > passed)
    link.strand()
    await until(lambda: only(here).unanswered > 0.3)
    assert len(only(here)._socket.pending_pings) == 1


async def test_an_idle_connection_that_owes_a_pong_is_raced(
    linked: Start, link: Link, simulator: Simulator
) -> None:
    """Nothing is sent on it, and its silence is remembered."""
    here, conversation = await linked(), Conversation()
    connection = await begin(here, simulator, conversation)
    link.strand()
    await connection.ask()
    quiet = connection.quiet
    await until(connection.is_owed_a_pong)
    assert connection.is_doubtful
    assert connection.quiet == quiet
    assert await converse(here, simulator, conversation, "b") == Full(Mismatch.CONNECTION_LOST)
    assert [record.turns for record in simulator.connections] == [1, 1]
    assert here.partition.slumber.rhythm(here.clock()) == max(quiet / 2, 0.1)


@pytest.mark.parametrize("reason", ["this machine slept", "it answers no pings", "it answers none any more"])
async def test_one_that_was_lost_for_another_reason_teaches_nothing(
    linked: Start, link: Link, simulator: Simulator, reason: str
) -> None:
    """Pings would be sent for minutes, for nothing."""
    here, conversation = await linked(), Conversation()
    connection = await begin(here, simulator, conversation)
    link.strand()
    if reason == "this machine slept":
        connection._socket.lag -= 3600
    else:
        connection._socket.heard_at -= 3600
        connection._socket.pongs.clear()
    if reason == "it answers none any more":
        connection._socket.pongs.append(0.0)
        pass_over_a_ping(connection)
    assert await converse(here, simulator, conversation, "b") == Full(Mismatch.CONNECTION_LOST)
    assert here.partition.slumber.rhythm(here.clock()) == inf


async def test_nor_does_one_that_was_lost_so_in_its_turn(linked: Start, link: Link, simulator: Simulator) -> None:
    """This machine slept between the ping and its pong."""
    here, conversation, shown = await linked(), Conversation(), Shown()
    connection = await begin(here, simulator, conversation)
    await asyncio.sleep(1)
    link.strand()
    running = asyncio.get_running_loop().create_task(here.exchange(conversation.says("b")).run(shown))
    await until(lambda: connection.unanswered)
    connection._socket.lag -= 3600
    await running
    assert [record.turns for record in simulator.connections] == [1, 1]
    assert here.partition.slumber.rhythm(here.clock()) == inf


@pytest.mark.parametrize("doubtful", [False, True])
async def test_what_was_learned_is_forgotten_where_a_connection_outlives_it(
    linked: Start, link: Link, simulator: Simulator, monkeypatch: pytest.MonkeyPatch, *, doubtful: bool
) -> None:
    """By its turn, or by the pong that it proves before."""
    here, conversation = await linked(), Conversation()
    connection = await begin(here, simulator, conversation)
    monkeypatch.setattr(pool_module, "_SWEEP_SECONDS", -inf)  # kept awake it would not be tried
    here.partition.slumber.lost(0.2, here.clock())
    await asyncio.sleep(0.2)
    if doubtful:
        connection._socket.lag -= 3600
    assert isinstance(await converse(here, simulator, conversation, "b"), Delta)
    assert here.partition.slumber.rhythm(here.clock()) == inf
    assert link.connections_ever == 1


async def test_a_ping_goes_ahead_of_turns_behind_a_pause_alone(linked: Start, simulator: Simulator) -> None:
    """Or of any while connections are known to be forgotten: it is some bytes more."""
    here, conversation = await linked(), Conversation()
    connection = await begin(here, simulator, conversation)
    pings = 0
    ping = connection._socket.ping

    async def counted() -> Awaitable[float]:
        nonlocal pings
        pings += 1
        return await ping()

    connection._socket.ping = counted  # type: ignore[method-assign, assignment]
    here.partition.answers_at_work = True
    for text, expected in (("b", 1), ("c", 1)):
        await converse(here, simulator, conversation, text)
        assert pings == expected
    here.partition.slumber.lost(1000, here.clock())
    await converse(here, simulator, conversation, "d")
    assert pings == 2
