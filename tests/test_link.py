"""The bad network that other tests rely on: each of its faults does what its name says, and nothing else."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, suppress

import pytest
from console import obey
from link import Link, Ways
from way import Way

Peer = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Dial = Callable[[], Awaitable[tuple[Peer, Peer]]]


@pytest.fixture
async def arrived(stack: AsyncExitStack) -> AsyncIterator[asyncio.Queue[Peer]]:
    """Return the connections that a server behind the link got."""
    peers: asyncio.Queue[Peer] = asyncio.Queue()
    server = await asyncio.start_server(lambda *peer: peers.put_nowait(peer), "127.0.0.1", 0)
    stack.callback(server.close)
    peers.port = server.sockets[0].getsockname()[1]  # type: ignore[attr-defined]
    yield peers
    while not peers.empty():
        await hang_up(peers.get_nowait())


@pytest.fixture
async def link(stack: AsyncExitStack, arrived: asyncio.Queue[Peer]) -> Link:
    """Return a link to that server."""
    return await stack.enter_async_context(Link(("127.0.0.1", arrived.port)))  # type: ignore[attr-defined]


@pytest.fixture
def dial(stack: AsyncExitStack, link: Link, arrived: asyncio.Queue[Peer]) -> Dial:
    """Connect over the link; return both ends."""

    async def both() -> tuple[Peer, Peer]:
        near = await asyncio.open_connection(link.host, link.port)
        stack.push_async_callback(hang_up, near)
        far = await arrived.get()
        stack.push_async_callback(hang_up, far)
        return near, far

    return both


async def hang_up(peer: Peer) -> None:
    """Close *peer*, whatever state it is in."""
    peer[1].transport.abort()
    with suppress(ConnectionError):
        await peer[1].wait_closed()


async def crossed(sender: Peer, receiver: Peer, data: bytes) -> float:
    """Send *data*, and return after how many seconds it was there."""
    begun = time.monotonic()
    sender[1].write(data)
    assert await receiver[0].readexactly(len(data)) == data
    return time.monotonic() - begun


async def silent(peer: Peer) -> bool:
    """Whether *peer* hears nothing, not even an end."""
    try:
        async with asyncio.timeout(0.1):
            await peer[0].read(1)
    except TimeoutError:
        return True
    return False


async def test_bytes_pass_both_ways_and_so_do_their_ends(dial: Dial, link: Link) -> None:
    """A link without faults is a link: a megabyte each way, and a half-close that closes one half."""
    near, far = await dial()
    megabyte = bytes(range(256)) * 4096
    await asyncio.gather(crossed(near, far, megabyte), crossed(far, near, megabyte))
    near[1].write_eof()
    assert await far[0].read() == b""
    await crossed(far, near, b"still here")
    far[1].close()
    assert await near[0].read() == b""
    assert (link.up.passed, link.down.passed) == (len(megabyte), len(megabyte) + 10)


async def test_connections_do_not_mix(dial: Dial) -> None:
    """Each end hears its own other end."""
    pairs = [await dial() for _ in range(5)]
    await asyncio.gather(*(crossed(near, far, b"to %d" % n) for n, (near, far) in enumerate(pairs)))
    await asyncio.gather(*(crossed(far, near, b"from %d" % n) for n, (near, far) in enumerate(pairs)))


async def test_latency_is_of_one_direction_and_delays_what_follows_no_further(dial: Dial, link: Link) -> None:
    """Ten messages sent at once arrive together after one latency; the way back is as quick as before."""
    near, far = await dial()
    link.up.latency = 0.3
    took = await crossed(near, far, b"x" * 10)
    assert 0.3 <= took < 2
    assert await crossed(far, near, b"y") < 0.25


async def test_a_connection_that_nothing_crosses_is_forgotten(dial: Dial, link: Link) -> None:
    """What crosses either way in time keeps it; afterwards neither end hears of anything, and new ones work."""
    near, far = await dial()
    link.memory = 0.4
    for _ in range(3):
        await asyncio.sleep(0.25)
        await crossed(near, far, b"x")
        await asyncio.sleep(0.25)
        await crossed(far, near, b"y")
    await asyncio.sleep(0.5)
    near[1].write(b"z")
    assert await silent(far)
    assert await silent(near)
    await crossed(*await dial(), b"new")


async def test_jitter_keeps_the_order(dial: Dial, link: Link) -> None:
    """Pieces that are delayed differently arrive as they were sent."""
    near, far = await dial()
    link.up.jitter = 0.02
    for n in range(50):
        near[1].write(b"%3d" % n)
        await asyncio.sleep(0)
    assert await far[0].readexactly(150) == b"".join(b"%3d" % n for n in range(50))


async def test_bandwidth_is_felt_by_the_sender(dial: Dial, link: Link) -> None:
    """What is sent passes at the rate, and all but some kilobytes of the rest wait in the sender's own buffers."""
    near, far = await dial()
    link.up.bandwidth = 400_000
    near[1].write(b"x" * 8_000_000)
    await far[0].readexactly(20_000)
    begun = time.monotonic()
    await far[0].readexactly(180_000)
    assert 0.4 < time.monotonic() - begun < 4
    assert near[1].transport.get_write_buffer_size() > 0


async def test_bandwidth_is_shared(dial: Dial, link: Link) -> None:
    """Two connections on one link have one link's bandwidth."""
    pairs = [await dial() for _ in range(2)]
    link.up.bandwidth = 200_000
    begun = time.monotonic()
    await asyncio.gather(*(crossed(near, far, b"x" * 50_000) for near, far in pairs))
    assert 0.4 < time.monotonic() - begun < 4


async def test_slices_arrive_apart(dial: Dial, link: Link) -> None:
    """A message comes in pieces of the size that was asked for."""
    near, far = await dial()
    link.up.slice_size, link.up.slice_gap = 3, 0.03
    near[1].write(b"0123456789")
    assert [await far[0].read(100) for _ in range(4)] == [b"012", b"345", b"678", b"9"]


@pytest.mark.parametrize("ending", ["reset", "close", "silence", "half-open"])
@pytest.mark.parametrize("limit", [0, 1, 7])
async def test_a_connection_ends_at_its_limit(dial: Dial, link: Link, ending: str, limit: int) -> None:
    """Exactly so many bytes arrive; then both ends hear of it as it was asked for, or nothing."""
    ways = Ways(Way(), Way(limit=limit, ending=ending))  # type: ignore[arg-type]
    link.planned.append(ways)
    near, far = await dial()
    far[1].write(b"0123456789")
    if ending == "reset":
        with pytest.raises(ConnectionResetError):
            await near[0].readexactly(limit + 1)
        with pytest.raises(ConnectionResetError):
            await far[0].read()
    else:
        assert await near[0].readexactly(limit) == b"0123456789"[:limit]
        assert await silent(near) is (ending != "close")
        if ending == "half-open":
            with pytest.raises(ConnectionResetError):
                await far[0].read()
        else:
            assert await silent(far) is (ending != "close")
    assert ways.down.passed == limit
    near, far = await dial()
    await crossed(far, near, b"the plan was for one connection")


async def test_a_slow_close_comes_late(dial: Dial, link: Link) -> None:
    """The bytes are there at once, their end is not."""
    near, far = await dial()
    link.up.slow_close = 0.3
    await crossed(near, far, b"x")
    begun = time.monotonic()
    near[1].write_eof()
    assert await far[0].read() == b""
    assert time.monotonic() - begun >= 0.3


async def test_a_way_that_is_stopped_is_so_for_one_direction(dial: Dial, link: Link) -> None:
    """Nothing goes up, everything comes down; what waited arrives afterwards."""
    near, far = await dial()
    link.up.stop()
    near[1].write(b"waited")
    await crossed(far, near, b"heard")
    assert await silent(far)
    link.up.go()
    assert await far[0].readexactly(6) == b"waited"


async def test_in_the_dark_nothing_passes_and_new_connections_hang(
    dial: Dial, link: Link, arrived: asyncio.Queue[Peer]
) -> None:
    """Neither bytes nor ends; once it is lit, both arrive, and one who kept dialling gets through."""
    near, far = await dial()
    link.dark()
    near[1].write(b"up")
    far[1].write(b"down")
    far[1].write_eof()
    dialling = asyncio.get_running_loop().create_task(asyncio.open_connection(link.host, link.port))
    assert await silent(near)
    assert await silent(far)
    assert not dialling.done()
    link.lit()
    assert await far[0].readexactly(2) == b"up"
    assert await near[0].read() == b"down"
    await hang_up(await dialling)
    await hang_up(await arrived.get())
    await crossed(*await dial(), b"as before")


async def test_a_dark_link_stops_a_sender(dial: Dial, link: Link) -> None:
    """What is uploaded into the dark waits with the sender, but for some kilobytes."""
    near, far = await dial()
    link.dark()
    near[1].write(b"x" * 8_000_000)
    assert await silent(far)
    assert near[1].transport.get_write_buffer_size() > 0
    link.lit()
    assert len(await far[0].readexactly(8_000_000)) == 8_000_000


@pytest.mark.parametrize("what", ["reset", "close", "strand", "forget"])
async def test_every_connection_can_be_ended_at_once(dial: Dial, link: Link, what: str) -> None:
    """Reset and closed are heard by both ends, stranded by none, half-open by the far one alone; new ones work."""
    near, far = await dial()
    await crossed(near, far, b"x")
    getattr(link, what)()
    if what == "reset":
        for reader, _ in (near, far):
            with pytest.raises(ConnectionResetError):
                await reader.read()
    elif what == "close":
        assert (await near[0].read(), await far[0].read()) == (b"", b"")
    elif what == "strand":
        near[1].write(b"lost")
        assert (await silent(near), await silent(far)) == (True, True)
    else:
        assert await silent(near)
        with pytest.raises(ConnectionResetError):
            await far[0].read()
    near, far = await dial()
    await crossed(far, near, b"new")


async def test_a_target_that_is_not_there_is_a_reset(link: Link, arrived: asyncio.Queue[Peer]) -> None:
    """Who dials hears that nobody answers."""
    async with Link(("127.0.0.1", link.port)) as gone:
        address = gone.host, gone.port
    link.target = address
    peer = await asyncio.open_connection(link.host, link.port)
    with pytest.raises(ConnectionResetError):
        await peer[0].read()
    await hang_up(peer)


async def test_a_source_address_is_what_the_target_sees(dial: Dial, link: Link) -> None:
    """After a change of address, new connections come from the new one."""
    link.source = "127.0.0.2"
    _, far = await dial()
    assert far[1].get_extra_info("peername")[0] == "127.0.0.2"


async def test_a_link_takes_orders_by_hand(link: Link) -> None:
    """`scripts/link` sets the fields of a way and does the link's deeds; what makes no sense is refused."""
    for order in ("up.latency=0.5", "down.limit=7", "down.ending=close", "dark"):
        obey(link, order)
    assert (link.up.latency, link.down.limit, link.down.ending) == (0.5, 7, "close")
    assert not link.lighted.is_set()
    for order in ("lit", "down.limit=none"):
        obey(link, order)
    assert link.lighted.is_set()
    assert link.down.limit is None
    for order in ("explode", "up.latency=soon", "up.seed=1", "left.latency=1", "down.ending=never"):
        with pytest.raises(ValueError, match=r"order|ending|could not convert"):
            obey(link, order)
