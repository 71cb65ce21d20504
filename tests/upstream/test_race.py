"""Connections that may have died, against new ones: who wins, and what is opened before it is needed."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import cast

import pytest
from pooling import TIMING, Conversation, Pooled, Shown, converse, run

from proxy.core.delta import Delta, Full, Mismatch
from proxy.exchange import PlainHTTP
from proxy.simulator import Fault, Simulator
from proxy.upstream import connection as connection_module
from proxy.upstream import pool as pool_module
from proxy.upstream import rescue as rescue_module
from proxy.upstream.connection import Connection
from proxy.upstream.endpoint import Endpoint
from proxy.upstream.partition import NoLease
from proxy.upstream.standby import Standby
from proxy.upstream.upgrade import Timing

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


@pytest.mark.parametrize("change", ["sleep", "address"])
async def test_a_connection_from_before_a_change_is_overtaken(
    pooled: Start, simulator: Simulator, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    """After this machine slept or was given another address, upstream may be gone, and nothing on it tells."""
    here, conversation = await pooled(), Conversation()
    await converse(here, simulator, conversation, "a")
    (slot,) = here.partition.slots.values()
    assert slot.connection is not None
    if change == "sleep":
        slot.connection._socket.lag -= 3600
    else:
        former = slot.connection._raw
        monkeypatch.setattr(connection_module, "has_moved", lambda sock: sock is former)
    simulator.silence_connections()
    assert await converse(here, simulator, conversation, "b") == Full(Mismatch.CONNECTION_LOST)
    assert [record.turns for record in simulator.connections] == [1, 1]


@pytest.mark.parametrize("alive", [True, False])
async def test_a_doubtful_connection_is_not_raced_where_upstream_has_no_more(
    pooled: Start, simulator: Simulator, *, alive: bool
) -> None:
    """Upstream refused another one lately: this one is waited for; where it is dead the turn goes over HTTP."""
    here, conversation = await pooled(), Conversation()
    await converse(here, simulator, conversation, "a")
    here.partition.trust.not_now(here.clock(), began=here.clock())
    here.pool._rescue._timing = replace(TIMING, link_timeout=0.2)
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


async def test_a_silent_connection_without_a_rival_is_waited_for_once(pooled: Start, simulator: Simulator) -> None:
    """For probe_timeout; the next turns need not find out for themselves, until something is heard."""
    here, conversation = await pooled(timing=replace(TIMING, link_timeout=60, probe_timeout=1)), Conversation()
    await converse(here, simulator, conversation, "a")
    here.partition.trust.not_now(here.clock(), began=here.clock())
    connection(here)
    simulator.silence_connections()
    began = asyncio.get_running_loop().time()
    with pytest.raises(NoLease):
        await here.lend(conversation.says("b"))
    assert asyncio.get_running_loop().time() - began > 1
    here.pool._rescue._timing = replace(here.timing, probe_timeout=600)
    async with asyncio.timeout(60):
        for text in "cd":
            with pytest.raises(NoLease):
                await here.lend(conversation.says(text))


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
    monkeypatch.setattr(rescue_module, "TELLS", False)
    monkeypatch.setattr(connection_module, "_BLIND_PATIENCE", 0.0)
    monkeypatch.setattr(rescue_module, "_GRACE", 0.0)
    here, conversation, shown = await pooled(timing=replace(TIMING, stuck_timeout=0.05)), Conversation(), Shown()
    await converse(here, simulator, conversation, "a")
    here.partition.answers_at_work = True
    simulator.silence_connections()
    await here.exchange(conversation.says("b")).run(shown)
    assert shown.types[-1] == "response.completed"
    assert [record.turns for record in simulator.connections] == [1, 1]
    assert here.connections.lost == 1
    assert not here.partition.answers_at_work  # until it is seen anew: upstream may have been busy


async def test_a_turn_without_a_pong_is_waited_for_where_none_may_come(
    pooled: Start, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a kernel that tells nothing, before upstream was seen to answer pings at work: it may think for long."""
    monkeypatch.setattr(connection_module, "TELLS", False)
    monkeypatch.setattr(connection_module, "_BLIND_PATIENCE", 0.0)
    for name in ("_GRACE", "_LOOK_SECONDS"):
        monkeypatch.setattr(rescue_module, name, 0.02)
    here, conversation, shown = await pooled(timing=replace(TIMING, stuck_timeout=0.2)), Conversation(), Shown()
    await converse(here, simulator, conversation, "a")
    simulator.settings.first_event_seconds = 0.5

    (slot,) = here.partition.slots.values()
    assert slot.connection is not None

    async def ping() -> asyncio.Future[float]:
        return asyncio.get_running_loop().create_future()

    monkeypatch.setattr(slot.connection._socket, "ping", ping)  # which upstream does not read
    await here.exchange(conversation.says("b")).run(shown)
    assert shown.types[-1] == "response.completed"
    assert [record.turns for record in simulator.connections] == [2]


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a turn count as stuck after stuck_timeout without a pong: nothing is lost on the way in these tests."""
    monkeypatch.setattr(connection_module, "TELLS", False)
    monkeypatch.setattr(connection_module, "_BLIND_PATIENCE", 0.0)
    monkeypatch.setattr(rescue_module, "TELLS", True)
    for name in ("_GRACE", "_LOOK_SECONDS", "_BETWEEN_RESCUES"):
        monkeypatch.setattr(rescue_module, name, 0.02)


STUCK_SOON = replace(TIMING, stuck_timeout=0.05, open_timeout=0.2)


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("refusal", [403, 429, 404, None], ids=["403", "429", "404", "silence"])
async def test_a_turn_that_does_not_get_through_goes_over_http_where_no_new_one_can_be_had(
    pooled: Start, simulator: Simulator, refusal: int | None
) -> None:
    """Where upstream is somebody answers, and nothing of the turn was acknowledged."""
    here, conversation, shown = await pooled(timing=STUCK_SOON), Conversation(), Shown()
    await converse(here, simulator, conversation, "a")
    here.partition.answers_at_work = True
    simulator.silence_connections()
    simulator.settings.refuse_upgrade = refusal
    simulator.settings.handshake_seconds = 3600 if refusal is None else 0
    with pytest.raises(PlainHTTP):
        await here.exchange(conversation.says("b")).run(shown)
    assert shown.events == []
    assert here.connections.open == 0


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("why", ["nobody answers", "no outbound proxy answers", "the kernel tells nothing"])
async def test_a_turn_is_held_where_nothing_speaks_for_http(
    pooled: Start, simulator: Simulator, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    """The link may be dark; and where the kernel does not tell, upstream may have the turn and be busy with it."""
    here, conversation, shown = await pooled(timing=replace(STUCK_SOON, link_timeout=0.1)), Conversation(), Shown()
    await converse(here, simulator, conversation, "a")
    here.partition.answers_at_work = True
    simulator.silence_connections()
    here.partition.trust.not_now(here.clock(), began=here.clock())
    if why == "nobody answers":
        here.pool._opener._dialer = Standby(Endpoint("http://127.0.0.1:1/v1"))
    elif why == "the kernel tells nothing":
        monkeypatch.setattr(rescue_module, "TELLS", False)
    else:
        monkeypatch.setitem(vars(here.pool._opener._endpoint), "outbound_proxy", "http://127.0.0.1:1")
    running = asyncio.get_running_loop().create_task(here.exchange(conversation.says("b")).run(shown))
    await asyncio.wait([running], timeout=0.5)
    assert not running.done()
    assert here.connections.open == 1
    running.cancel()
    await asyncio.wait([running])


@pytest.mark.usefixtures("hasty")
async def test_an_outbound_proxy_that_answers_is_as_good(
    pooled: Start, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is the next hop, which has nothing of the turn."""
    here, conversation = await pooled(timing=STUCK_SOON), Conversation()
    await converse(here, simulator, conversation, "a")
    here.partition.answers_at_work = True
    simulator.silence_connections()
    here.partition.trust.not_now(here.clock(), began=here.clock())
    here.pool._opener._dialer = Standby(Endpoint("http://127.0.0.1:1/v1"))
    monkeypatch.setitem(
        vars(here.pool._opener._endpoint), "outbound_proxy", simulator.base_url.removesuffix("/v1")
    )
    with pytest.raises(PlainHTTP):
        await here.exchange(conversation.says("b")).run(Shown())


@pytest.mark.usefixtures("hasty")
async def test_a_spare_connection_that_answers_is_enough(pooled: Start, simulator: Simulator) -> None:
    """It takes the turn, and no other is opened."""
    here, conversation, shown = await pooled(timing=STUCK_SOON), Conversation(), Shown()
    await converse(here, simulator, conversation, "a")
    here.partition.answers_at_work = True
    simulator.silence_connections()
    _, slot = here.pool._open_ahead(here.partition, wanted=False)
    assert slot.opening is not None
    await slot.opening
    await here.exchange(conversation.says("b")).run(shown)
    assert shown.types[-1] == "response.completed"
    assert [record.turns for record in simulator.connections] == [1, 1]


@pytest.mark.usefixtures("hasty")
async def test_a_spare_connection_that_does_not_answer_is_replaced(pooled: Start, simulator: Simulator) -> None:
    """It may be as dead as the one that is stuck."""
    timing = replace(STUCK_SOON, probe_timeout=0.1, open_timeout=5)
    here, conversation, shown = await pooled(timing=timing), Conversation(), Shown()
    await converse(here, simulator, conversation, "a")
    here.partition.answers_at_work = True
    _, slot = here.pool._open_ahead(here.partition, wanted=False)
    assert slot.opening is not None
    await slot.opening
    simulator.silence_connections()
    await here.exchange(conversation.says("b")).run(shown)
    assert shown.types[-1] == "response.completed"
    assert [record.turns for record in simulator.connections] == [1, 0, 1]
    assert here.connections.open == 1


async def test_a_turn_that_upstream_has_is_waited_for(
    pooled: Start, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long it thinks, no second connection is opened and the turn is sent once."""
    monkeypatch.setattr(rescue_module, "_LOOK_SECONDS", 0.001)
    looked = 0
    here, conversation = await pooled(timing=replace(TIMING, stuck_timeout=0.5)), Conversation()
    asked = conversation.says("a")
    simulator.settings.first_event_seconds = 0.8
    async with here.pool.lease(asked, here.partition) as lease:
        is_stuck = Connection.look_whether_stuck

        def look(self: Connection) -> bool:
            nonlocal looked
            looked += 1
            return is_stuck(self)

        monkeypatch.setattr(Connection, "look_whether_stuck", look)
        turn = await run(lease, asked)
    assert turn.baseline is not None
    assert looked > 1
    assert len(simulator.connections) == 1


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> Timing:
    """Ping often, and look often what comes of it."""
    monkeypatch.setattr(rescue_module, "_LOOK_SECONDS", 0.01)
    monkeypatch.setattr(rescue_module, "_BETWEEN_RESCUES", 0.01)
    return replace(TIMING, ping_interval=0.1)


@pytest.mark.parametrize("spare", [False, True])
async def test_a_turn_of_which_nothing_is_heard_goes_over_a_connection_that_answers(
    pooled: Start, simulator: Simulator, impatient: Timing, *, spare: bool
) -> None:
    """Somebody in between acknowledges what never arrives: pongs are missing, which come on another connection."""
    here, conversation, shown = await pooled(timing=impatient), Conversation(), Shown()
    simulator.settings.first_event_seconds = 0.5
    await converse(here, simulator, conversation, "a")
    running = asyncio.get_running_loop().create_task(here.exchange(conversation.says("b")).run(shown))
    await simulator.until(lambda: len(simulator.turns) == 2)
    simulator.silence_connections()
    simulator.settings.first_event_seconds = 0
    if spare:
        _, slot = here.pool._open_ahead(here.partition, wanted=False)
        assert slot.opening is not None
        await slot.opening
    began = asyncio.get_running_loop().time()
    await running
    assert shown.types[-1] == "response.completed"
    assert [record.turns for record in simulator.connections] == [2, 1]
    assert asyncio.get_running_loop().time() - began > 2 * 0.15  # as long again as it was silent before
    assert not here.partition.trust.is_suspect


async def test_a_spare_connection_that_is_silent_too_proves_nothing(
    pooled: Start, simulator: Simulator, impatient: Timing
) -> None:
    """It is let go, and the turn is waited for until another one answers."""
    here = await pooled(timing=replace(impatient, probe_timeout=0.1))
    conversation, shown = Conversation(), Shown()
    await converse(here, simulator, conversation, "a")
    here.partition.answers_at_work = True
    simulator.settings.first_event_seconds = 3600
    running = asyncio.get_running_loop().create_task(here.exchange(conversation.says("b")).run(shown))
    await simulator.until(lambda: len(simulator.turns) == 2)
    _, slot = here.pool._open_ahead(here.partition, wanted=False)
    assert slot.opening is not None
    await slot.opening
    simulator.silence_connections()
    simulator.settings.first_event_seconds = 0
    await running
    assert shown.types[-1] == "response.completed"
    assert [record.turns for record in simulator.connections] == [2, 0, 1]


async def test_the_first_turn_finds_out_whether_pings_are_answered_at_work(
    pooled: Start, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By one ping, once its message has arrived; the next turns need none."""
    monkeypatch.setattr(rescue_module, "_LOOK_SECONDS", 0.01)
    here, conversation = await pooled(), Conversation()
    simulator.settings.first_event_seconds = 0.5
    await converse(here, simulator, conversation, "a")
    await converse(here, simulator, conversation, "b")
    assert here.partition.answers_at_work
    assert here.partition.asked_at_work == 1


class Watch:
    """A clock that stands until a test moves it, and says when it was read."""

    def __init__(self, now: float) -> None:
        self.now = now
        self._read = asyncio.Event()

    def __call__(self) -> float:
        """Return the time in seconds."""
        self._read.set()
        return self.now

    async def looked_at(self) -> None:
        """Wait until it was read at two moments from now on."""
        for _ in range(2):
            self._read.clear()
            async with asyncio.timeout(10):
                await self._read.wait()


@pytest.mark.parametrize("queued", [0, 4])
async def test_a_silent_connection_is_waited_for_as_long_again(
    pooled: Start, impatient: Timing, queued: float
) -> None:
    """What upstream said into the dark comes late; and a message may queue behind whoever acknowledges it."""
    here, loop, watch = await pooled(timing=impatient), asyncio.get_running_loop(), Watch(now=102)
    here.partition.answers_at_work = True
    silent = Silent(100, queued, clock=watch)
    waiting = loop.create_task(here.pool._rescue._outlive(here.partition, cast("Connection", silent)))
    await watch.looked_at()
    watch.now += 2 + queued
    await watch.looked_at()
    assert not silent.given_up
    silent.heard_at = watch.now
    await waiting
    assert not silent.given_up
    silent.heard_at -= 2
    waiting = loop.create_task(here.pool._rescue._outlive(here.partition, cast("Connection", silent)))
    await watch.looked_at()
    assert not silent.given_up
    watch.now += 3 + queued
    await waiting
    assert len(silent.given_up) == 1
    assert not here.partition.answers_at_work  # until it is seen anew: upstream may have been busy


async def test_what_does_not_open_beside_a_silent_turn_says_nothing(
    pooled: Start, simulator: Simulator, impatient: Timing
) -> None:
    """Dark links come back, and busy servers are done at last: the next turn goes on over its WebSocket."""
    here = await pooled(timing=replace(impatient, open_timeout=0.1, probe_timeout=0.01))
    simulator.inject(Fault("handshake", "silence", times=None))
    silent = Silent(asyncio.get_running_loop().time(), 0.0)
    for _ in range(2):
        await here.pool._rescue._outlive(here.partition, cast("Connection", silent))
    assert len(simulator.requests) == 2
    assert here.partition.may_open(here.clock())
    assert not here.partition.trust.is_shaken
    assert not silent.given_up


@pytest.mark.parametrize(
    ("has_answered", "at_work", "times"), [(False, False, 1), (True, False, 0), (True, True, 1)]
)
async def test_an_upstream_that_may_answer_no_pings_is_waited_for(
    pooled: Start, simulator: Simulator, impatient: Timing, *, has_answered: bool, at_work: bool, times: int
) -> None:
    """Where it has answered a turn, and no ping meanwhile, a second connection without a pong proves nothing."""
    here = await pooled(timing=replace(impatient, probe_timeout=0.05))
    if has_answered:
        here.partition.trust.done()
    here.partition.answers_at_work = at_work
    _, slot = here.pool._open_ahead(here.partition, wanted=False)
    assert slot.opening is not None
    await slot.opening
    simulator.silence_connections()
    mute = Silent(asyncio.get_running_loop().time() - 1, 0.0, is_mute=True)
    await here.pool._rescue._outlive(here.partition, cast("Connection", mute))
    assert len(mute.given_up) == times
    assert here.partition.trust.is_suspect is bool(times)


@dataclass
class Silent:
    """A connection of which nothing is heard, whose message may have queued for so long."""

    heard_at: float
    queued_seconds: float
    is_mute: bool = False
    is_merely_silent: bool = False
    opened_at: float = 0.0
    clock: Callable[[], float] = field(default_factory=lambda: asyncio.get_running_loop().time)
    given_up: list[str] = field(default_factory=list)

    @property
    def silence(self) -> float:
        """Since when."""
        return self.clock() - self.heard_at

    @property
    def is_open(self) -> bool:
        """Until it is given up."""
        return not self.given_up

    def give_up(self, reason: str) -> None:
        """Remember why."""
        self.given_up.append(reason)


async def test_a_turn_is_not_given_up_where_upstream_answers_no_ping_at_work(
    pooled: Start, simulator: Simulator, impatient: Timing
) -> None:
    """Some servers read nothing before the end of a turn: only what was seen of this one counts."""
    here, conversation = await pooled(timing=impatient), Conversation()
    async with here.pool.lease(conversation.says("a"), here.partition) as lease:
        lease.connection._sent = True
        lease.connection._socket.heard_at -= 3600
        simulator.silence_connections()
        await asyncio.sleep(0.5)
        assert lease.connection.is_unheard
        assert lease.connection.is_open
    assert len(simulator.connections) == 1


# Ahead


async def lose(simulator: Simulator, *, handshake_seconds: float) -> None:
    """Have the only connection lost, and the next one asked for, which takes that long to open."""
    simulator.settings.handshake_seconds = handshake_seconds
    simulator.abort_connections()
    await simulator.until(lambda: len(simulator.requests) == 2)


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


@pytest.mark.parametrize("is_open", [True, False])
@pytest.mark.parametrize("fresh", [None, Mismatch.CONNECTION_LOST])
async def test_one_turn_gets_what_was_opened_ahead(
    pooled: Start, simulator: Simulator, fresh: Mismatch | None, *, is_open: bool
) -> None:
    """Of two that begin together the other opens its own, whether the first is there yet or still opens."""
    here, conversation = await pooled(open_ahead=True), Conversation()
    await converse(here, simulator, conversation, "a")
    await lose(simulator, handshake_seconds=0.1)
    assert not is_open or await here.pool.opened_ahead(here.partition)
    async with (
        here.pool.lease(conversation.says("b"), here.partition, fresh=fresh) as first,
        here.pool.lease(conversation.says("c"), here.partition, fresh=fresh) as second,
    ):
        assert first.connection is not second.connection
    assert here.connections.opened == 3


@pytest.mark.parametrize("max_connections", [1, 16])
async def test_a_turn_waits_for_what_is_being_opened(
    pooled: Start, simulator: Simulator, max_connections: int
) -> None:
    """It does not open another beside it, and is not without a place because that one is being opened."""
    here, conversation = await pooled(open_ahead=True, max_connections=max_connections), Conversation()
    await converse(here, simulator, conversation, "a")
    await lose(simulator, handshake_seconds=0.2)
    await converse(here, simulator, conversation, "b")
    assert (here.connections.open, here.connections.opened, here.connections.lost) == (1, 2, 1)


async def test_what_is_being_opened_in_the_last_place_is_waited_for(pooled: Start, simulator: Simulator) -> None:
    """There is no other, and the one that is left is another conversation's, which is in use."""
    here = await pooled(open_ahead=True, max_connections=2)
    conversation, other = Conversation(), Conversation()
    for text in "ab":
        await converse(here, simulator, conversation, text)
        await converse(here, simulator, other, text)
    simulator.settings.handshake_seconds = 0.2
    lost = next(iter(here.partition.slots.values())).connection
    assert lost is not None
    lost.abort()
    await simulator.until(lambda: len(simulator.requests) == 3)
    assert await converse(here, simulator, conversation, "c") == Full(Mismatch.CONNECTION_LOST)
    assert isinstance(await converse(here, simulator, other, "c"), Delta)
    assert (here.connections.open, here.connections.opened, here.connections.lost) == (2, 3, 1)


async def test_a_turn_waits_once_for_what_cannot_be_opened(pooled: Start, simulator: Simulator) -> None:
    """What was begun ahead of it met silence, and so would what it begins itself."""
    here, conversation = await pooled(open_ahead=True, timing=replace(TIMING, open_timeout=0.3)), Conversation()
    await converse(here, simulator, conversation, "a")
    await lose(simulator, handshake_seconds=3600)
    with pytest.raises(NoLease):
        await here.lend(conversation.says("b"))
    assert len(simulator.requests) == 2


async def test_a_turn_tries_again_what_was_broken_off_once(pooled: Start, simulator: Simulator) -> None:
    """One reset is no pattern, whoever met it."""
    here, conversation = await pooled(open_ahead=True), Conversation()
    await converse(here, simulator, conversation, "a")
    await lose(simulator, handshake_seconds=0.3)
    waiting = asyncio.get_running_loop().create_task(converse(here, simulator, conversation, "b"))
    await asyncio.sleep(0.05)
    simulator.abort_connections()
    assert await waiting == Full(Mismatch.CONNECTION_LOST)
    assert len(simulator.requests) == 3


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
