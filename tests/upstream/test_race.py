"""Connections that may have died, against new ones: who wins, and what is opened before it is needed."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest
from pooling import TIMING, Conversation, Pooled, Shown, converse, run

from proxy.core.delta import Delta, Full, Mismatch
from proxy.simulator import Simulator
from proxy.upstream import connection as connection_module
from proxy.upstream import pool as pool_module
from proxy.upstream.connection import Connection
from proxy.upstream.pool import NoLease

Start = Callable[..., Awaitable[Pooled]]


def connection(pooled: Pooled) -> Connection:
    """Return the only connection, as if nothing had been heard on it for an hour."""
    (slot,) = pooled.partition.slots.values()
    assert slot.connection is not None
    slot.connection._socket.heard_at -= 3600
    return slot.connection


async def test_a_doubtful_connection_that_answers_is_used(pooled: Start, simulator: Simulator) -> None:
    """It still knows the conversation, and nothing else is opened."""
    here, conversation = await pooled(), Conversation()
    await converse(here, simulator, conversation, "a")
    connection(here)
    assert isinstance(await converse(here, simulator, conversation, "b"), Delta)
    assert len(simulator.connections) == 1


async def test_a_doubtful_connection_that_is_silent_is_overtaken(pooled: Start, simulator: Simulator) -> None:
    """Nothing is sent on it; the turn goes in full over a new one, for that reason."""
    here, conversation = await pooled(), Conversation()
    await converse(here, simulator, conversation, "a")
    connection(here)
    simulator.silence_connections()
    upload = await converse(here, simulator, conversation, "b")
    assert upload == Full(Mismatch.CONNECTION_LOST)
    assert [record.turns for record in simulator.connections] == [1, 1]
    assert (here.connections.open, here.connections.opened, here.connections.lost) == (1, 2, 1)


@pytest.mark.parametrize("alive", [True, False])
async def test_a_doubtful_connection_is_not_raced_where_upstream_has_no_more(
    pooled: Start, simulator: Simulator, *, alive: bool
) -> None:
    """Upstream refused another one lately: this one is waited for; where it is dead the turn goes over HTTP."""
    here, conversation = await pooled(), Conversation()
    await converse(here, simulator, conversation, "a")
    here.partition.trust.not_now(here.clock(), began=here.clock())
    here.pool._timing = replace(TIMING, link_timeout=0.2)
    held = connection(here)
    prove, held_prove = asyncio.Event(), held.prove

    async def slowly(limit: float) -> bool:
        await asyncio.sleep(4 * held.patience)
        prove.set()
        return await held_prove(limit)

    held.prove = slowly  # type: ignore[method-assign]
    if alive:
        assert isinstance(await converse(here, simulator, conversation, "b"), Delta)
    else:
        simulator.silence_connections()
        with pytest.raises(NoLease) as caught:
            await here.lend(conversation.says("b"))
        assert caught.value.reason is Mismatch.NO_WEBSOCKET
    assert prove.is_set()
    assert len(simulator.requests) == 1


async def test_whoever_leaves_during_the_race_leaves_the_connection(pooled: Start, simulator: Simulator) -> None:
    """It may be alive yet, and is there for the next turn; what was being opened is not."""
    here, conversation = await pooled(), Conversation()
    await converse(here, simulator, conversation, "a")
    connection(here)
    simulator.silence_connections()
    simulator.settings.handshake_seconds = 3600
    racing = asyncio.get_running_loop().create_task(here.lend(conversation.says("b")))
    await simulator.until(lambda: len(simulator.requests) == 2)
    racing.cancel()
    await asyncio.wait([racing])
    assert [slot.free for slot in here.partition.slots.values()] == [True]
    assert (here.connections.open, here.connections.lost) == (1, 0)


async def test_a_turn_that_does_not_get_through_goes_over_a_new_connection(
    pooled: Start, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a kernel that tells nothing: no pong comes back, a new connection opens, and the old one is given up."""
    monkeypatch.setattr(connection_module, "TELLS", False)
    monkeypatch.setattr(connection_module, "_BLIND_PATIENCE", 0.0)
    monkeypatch.setattr(pool_module, "_GRACE", 0.0)
    here, conversation, shown = await pooled(timing=replace(TIMING, stuck_timeout=0.05)), Conversation(), Shown()
    await converse(here, simulator, conversation, "a")
    simulator.silence_connections()
    await here.exchange(conversation.says("b")).run(shown)
    assert shown.types[-1] == "response.completed"
    assert [record.turns for record in simulator.connections] == [1, 1]
    assert here.connections.lost == 1


async def test_a_turn_that_upstream_has_is_waited_for(
    pooled: Start, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long it thinks, no second connection is opened and the turn is sent once."""
    monkeypatch.setattr(pool_module, "_LOOK_SECONDS", 0.001)
    looked = 0
    here, conversation = await pooled(timing=replace(TIMING, stuck_timeout=0.5)), Conversation()
    asked = conversation.says("a")
    simulator.settings.first_event_seconds = 0.8
    async with here.pool.lease(asked, here.partition) as lease:
        is_stuck = type(lease.connection).is_stuck

        def look(self: Connection) -> bool:
            nonlocal looked
            looked += 1
            return bool(is_stuck.__get__(self))

        monkeypatch.setattr(Connection, "is_stuck", property(look))
        turn = await run(lease, asked)
    assert turn.baseline is not None
    assert looked > 1
    assert len(simulator.connections) == 1


# Ahead


async def test_after_a_loss_the_next_connection_is_opened_at_once(pooled: Start, simulator: Simulator) -> None:
    """The next turn finds it, in full, and opens no other."""
    here, conversation = await pooled(open_ahead=True), Conversation()
    await converse(here, simulator, conversation, "a")
    simulator.abort_connections()
    await simulator.until(lambda: len(simulator.connections) == 2)
    assert await converse(here, simulator, conversation, "b") == Full(Mismatch.CONNECTION_LOST)
    assert isinstance(await converse(here, simulator, conversation, "c"), Delta)
    assert [record.turns for record in simulator.connections] == [1, 2]
    assert {(name.lower(), value) for name, value in simulator.connections[1].headers} >= {
        ("authorization", "Bearer key")
    }


async def test_a_turn_waits_for_what_is_being_opened(pooled: Start, simulator: Simulator) -> None:
    """It does not open another beside it."""
    here, conversation = await pooled(open_ahead=True), Conversation()
    await converse(here, simulator, conversation, "a")
    simulator.settings.handshake_seconds = 0.2
    simulator.abort_connections()
    await simulator.until(lambda: len(simulator.requests) == 2)
    await converse(here, simulator, conversation, "b")
    assert (here.connections.open, here.connections.opened, here.connections.lost) == (1, 2, 1)


async def test_before_a_connection_retires_the_next_one_is_open(
    pooled: Start, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A conversation that goes on finds it there; one that rests does not cause it."""
    monkeypatch.setattr(pool_module, "_SWEEP_SECONDS", 0.01)
    here, conversation = await pooled(open_ahead=True), Conversation()
    await converse(here, simulator, conversation, "a")
    for _ in range(2):
        here.clock.advance(1600)
        assert isinstance(await converse(here, simulator, conversation, "more"), Delta)
    here.clock.advance(50)
    await simulator.until(lambda: len(simulator.connections) == 2)
    assert isinstance(await converse(here, simulator, conversation, "more"), Delta)
    here.clock.advance(60)
    assert await converse(here, simulator, conversation, "new") == Full(Mismatch.RETIRED)
    assert [record.turns for record in simulator.connections] == [4, 1]


async def test_a_fresh_connection_may_be_one_opened_ahead(pooled: Start, simulator: Simulator) -> None:
    """It is as new: no turn was on it."""
    here, conversation = await pooled(open_ahead=True), Conversation()
    await converse(here, simulator, conversation, "a")
    simulator.abort_connections()
    await simulator.until(lambda: len(simulator.connections) == 2)
    await here.lend(conversation.says("b"), fresh=Mismatch.CONNECTION_LOST)
    assert [record.turns for record in simulator.connections] == [1, 1]


async def test_leaving_the_pool_waits_for_nothing_that_is_being_opened(simulator: Simulator) -> None:
    """Its end does not depend on upstream."""
    async with asyncio.timeout(5):
        async with Pooled(simulator.base_url, open_ahead=True) as here:
            await converse(here, simulator, Conversation(), "a")
            simulator.settings.handshake_seconds = 3600
            simulator.abort_connections()
            await simulator.until(lambda: len(simulator.requests) == 2)
