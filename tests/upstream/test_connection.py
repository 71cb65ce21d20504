"""One WebSocket to upstream, over real sockets: the simulated upstream, or one that says exact words."""

import asyncio
import random
import socket
import string
import sys
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from time import get_clock_info
from typing import Any, ClassVar

import proxied
import pytest
from conversation import Clock
from pooling import KEY, TIMING, request
from proxied import Peer, RawUpstream
from said import user
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.utils import accept_key, apply_mask

from proxy.core.delta import Baseline
from proxy.core.events import response_create
from proxy.core.message import Message
from proxy.errors import TOO_BIG, ConnectionLost, NoWebSocket, UpstreamError, UpstreamTimeout, UpstreamUnavailable
from proxy.ledger import Traffic
from proxy.simulator import Fault, Simulator, SimulatorSettings, scripted
from proxy.upstream import connection as connection_module
from proxy.upstream import upgrade as upgrade_module
from proxy.upstream.connection import Connection
from proxy.upstream.endpoint import Endpoint
from proxy.upstream.meter import Meter
from proxy.upstream.sendqueue import AssumedQueue, CountedQueue
from proxy.upstream.standby import Standby
from proxy.upstream.upgrade import Timing

Connect = Callable[..., Awaitable[Connection]]
Simulate = Callable[..., Awaitable[Simulator]]
Speaking = Callable[..., Awaitable[str]]
RawUpstreams = Callable[..., Awaitable[RawUpstream]]

MESSAGE = response_create(request(user("hello")), None)


@pytest.fixture
def simulate(stack: AsyncExitStack) -> Simulate:
    """Start a simulator: keyword arguments are its settings."""

    async def start(**settings: Any) -> Simulator:
        script = scripted(f"answer {number}" for number in range(100))
        return await stack.enter_async_context(Simulator(SimulatorSettings(**settings), script=script))

    return start


@pytest.fixture
def connect(stack: AsyncExitStack) -> Connect:
    """Open a connection to an API base; it is aborted at the end."""

    async def start(base_url: str, timing: Timing = TIMING, **options: Any) -> Connection:
        headers, meter = options.pop("headers", KEY), options.pop("meter", Meter(Traffic()))
        clock = options.pop("clock", Clock())
        connection = await Connection.open(Endpoint(base_url), headers, meter, timing, clock=clock, **options)
        stack.callback(connection.abort)
        return connection

    return start


async def answer(connection: Connection) -> list[str]:
    """Send a message, and return the types of the events up to the end."""
    await connection.send(MESSAGE)
    types: list[str] = []
    while not types or types[-1] != "response.completed":
        types.append((await connection.receive(5, "event_timeout")).type)
    return types


async def accept(peer: Peer) -> None:
    """Accept the upgrade, without extensions."""
    head = await peer.head()
    accepted = accept_key(head.get("Sec-WebSocket-Key"))
    await peer.send(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: " + accepted.encode() + b"\r\n\r\n"
    )


async def frame(peer: Peer) -> tuple[int, bool, bytes]:
    """Read a client's frame: its opcode, whether it is final, and its payload."""
    first, second = await peer.reader.readexactly(2)
    length = second & 127
    if length >= 126:
        length = int.from_bytes(await peer.reader.readexactly(2 if length == 126 else 8))
    mask = await peer.reader.readexactly(4)
    data = await peer.reader.readexactly(length)
    return first & 15, bool(first & 128), apply_mask(data, mask)


LARGE = "".join(random.Random(1).choices(string.ascii_letters, k=1_000_000))
"""Text, of a megabyte."""


# Opening


async def test_the_handshake_has_the_agents_identity(simulate: Simulate, connect: Connect) -> None:
    """Its headers are there once each, its User-Agent is its own, and the query goes along."""
    simulator = await simulate()
    headers = (*KEY, ("OpenAI-Project", "proj_1"), ("User-Agent", "agent/1.0"))
    clock = Clock()
    connection = await connect(simulator.base_url, headers=headers, query="api-version=1", clock=clock)
    (record,) = simulator.connections
    assert record.path == "/v1/responses?api-version=1"
    names = [name.lower() for name, _ in record.headers]
    assert len(names) == len(set(names))
    assert {("Authorization", "Bearer key"), ("OpenAI-Project", "proj_1"), ("User-Agent", "agent/1.0")} <= set(
        record.headers
    )
    assert connection.is_open
    assert connection.opened_at == clock()


async def test_no_user_agent_is_made_up(simulate: Simulate, connect: Connect) -> None:
    """Where the agent sends none, upstream gets none."""
    simulator = await simulate()
    await connect(simulator.base_url)
    assert "user-agent" not in {name.lower() for name, _ in simulator.connections[0].headers}


@pytest.mark.parametrize(
    ("deflate", "negotiated"),
    [
        ("off", None),
        ("15", "permessage-deflate"),
        ("12", "permessage-deflate; server_max_window_bits=12"),
        (
            "no_takeover",
            "permessage-deflate; server_no_context_takeover; client_no_context_takeover",
        ),
    ],
)
async def test_compression_is_whatever_upstream_grants(
    simulate: Simulate, connect: Connect, deflate: str, negotiated: str | None
) -> None:
    """Each way of compressing works both ways, and our own window is never shrunk."""
    simulator = await simulate(deflate=deflate)
    connection = await connect(simulator.base_url)
    assert connection.compression == negotiated
    for _ in range(2):
        assert (await answer(connection))[-1] == "response.completed"
    assert [turn.context for turn in simulator.turns] == [[user("hello")]] * 2


async def test_a_refusal_of_the_key_is_upstreams_own(simulate: Simulate, connect: Connect) -> None:
    """Status, body and retry-after are kept; other headers are not."""
    simulator = await simulate()
    fault = Fault("handshake", "error", status=401, message="Not you.", retry_after=3)
    fault.headers["x-private"] = "1"
    simulator.inject(fault)
    with pytest.raises(UpstreamError) as caught:
        await connect(simulator.base_url)
    assert caught.value.status == 401
    assert b"Not you." in caught.value.body
    assert caught.value.headers["retry-after"] == "3"
    assert "x-private" not in caught.value.headers


@pytest.mark.parametrize(
    ("status", "body", "definite"),
    [
        (404, None, True),
        (405, None, True),
        (426, None, True),
        (501, None, True),
        (400, None, False),
        (500, None, False),
        (503, None, False),
        (200, b"<html>", False),
        (302, b"<html>", False),
        (401, b"<html>", False),
        (401, b"", False),
        (401, b'{"detail":"Unauthorized"}', False),
        (401, b'{"error":"Unauthorized"}', False),
        (401, b"[]", False),
        (403, None, False),
        (403, b"", False),
        (429, None, False),
        (429, b"", False),
        (511, b"<html>", False),
    ],
)
async def test_another_refusal_means_no_websocket(
    simulate: Simulate, connect: Connect, status: int, body: bytes | None, *, definite: bool
) -> None:
    """A status that names the endpoint is definite; one that anything in between might send is not."""
    simulator = await simulate()
    simulator.inject(Fault("handshake", "error", status=status, body=body))
    with pytest.raises(NoWebSocket) as caught:
        await connect(simulator.base_url)
    assert (caught.value.status, caught.value.definite) == (status, definite)


@pytest.mark.parametrize("what", ["error", "close", "abort", "garbage"])
async def test_an_upgrade_that_failed_holds_nobody(simulate: Simulate, connect: Connect, what: Any) -> None:
    """The library keeps what it raised until the collector comes; with its frames, that would hold who called."""
    simulator = await simulate()
    simulator.inject(Fault("handshake", what, status=426))
    with pytest.raises(UpstreamUnavailable) as caught:
        await connect(simulator.base_url)
    assert caught.value.__cause__ is not None
    assert caught.value.__cause__.__traceback__ is None


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_not_followed(simulate: Simulate, connect: Connect, status: int) -> None:
    """It would take the credentials along."""
    simulator, elsewhere = await simulate(), await simulate()
    simulator.inject(
        Fault("handshake", "error", status=status, body=b"", headers={"Location": elsewhere.websocket_url})
    )
    with pytest.raises(NoWebSocket):
        await connect(simulator.base_url)
    assert elsewhere.requests == []


@pytest.mark.parametrize("what", ["close", "abort", "garbage"])
async def test_an_upgrade_that_breaks_off_is_no_verdict(simulate: Simulate, connect: Connect, what: Any) -> None:
    """Upstream is unavailable; whether it has a WebSocket is not known. Whoever waits for the end is told."""
    simulator, gone = await simulate(), asyncio.Event()
    simulator.inject(Fault("handshake", what))
    with pytest.raises(UpstreamUnavailable) as caught:
        await connect(simulator.base_url, gone=gone.set)
    assert type(caught.value) is UpstreamUnavailable
    await gone.wait()


async def test_an_upgrade_has_open_timeout(simulate: Simulate, connect: Connect) -> None:
    """The message names the setting."""
    simulator = await simulate()
    simulator.inject(Fault("handshake", "silence"))
    with pytest.raises(UpstreamUnavailable, match="open_timeout"):
        await connect(simulator.base_url, replace(TIMING, open_timeout=0.05))


async def test_a_dark_link_is_waited_for(simulate: Simulate, connect: Connect) -> None:
    """Where somebody can wait for it, that is for link_timeout, and not for what an upgrade may take."""

    class Waiting(Standby):
        limits: ClassVar[list[float]] = []

        async def dial(self, limit: float) -> socket.socket:
            self.limits.append(limit)
            return await super().dial(limit)

    base_url = (await simulate()).base_url
    await connect(base_url, replace(TIMING, link_timeout=70), dialer=Waiting(Endpoint(base_url)))
    assert Waiting.limits == [70]


async def test_nobody_there_is_unavailable(simulate: Simulate, connect: Connect) -> None:
    """A refused TCP connection is upstream's fault."""
    simulator = await simulate()
    await simulator.stop()
    with pytest.raises(UpstreamUnavailable):
        await connect(simulator.base_url)


async def test_an_upgrade_to_something_else_is_unavailable(connect: Connect, raw_upstream: RawUpstreams) -> None:
    """A 101 without the right key is not believed."""

    async def serve(peer: Peer) -> None:
        await peer.head()
        await peer.send(b"HTTP/1.1 101 Sure\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")

    with pytest.raises(UpstreamUnavailable, match="made no sense"):
        await connect((await raw_upstream(serve)).base_url)


@pytest.mark.parametrize("name", ["HTTP_PROXY", "HTTPS_PROXY"])
async def test_an_upstream_on_this_machine_needs_no_outbound_proxy(
    simulate: Simulate, connect: Connect, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Loopback is reached directly whatever the environment says."""
    monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    connection = await connect((await simulate()).base_url)
    assert connection.is_open


async def test_an_upstream_elsewhere_is_reached_through_the_outbound_proxy(
    connect: Connect, raw_upstream: RawUpstreams, monkeypatch: pytest.MonkeyPatch
) -> None:
    """HTTPS_PROXY is asked for a tunnel, and gets none of the agent's headers."""
    asked: list[proxied.Message] = []

    async def serve(peer: Peer) -> None:
        asked.append(await peer.head())
        await peer.send(b"HTTP/1.1 502 No\r\nContent-Length: 0\r\n\r\n")

    outbound = await raw_upstream(serve)
    monkeypatch.setenv("HTTPS_PROXY", outbound.base_url.removesuffix("/v1"))
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    with pytest.raises(UpstreamUnavailable):
        await connect("https://upstream.invalid/v1")
    assert [message.start for message in asked] == ["CONNECT upstream.invalid:443 HTTP/1.1"]
    assert asked[0].get("Authorization") == ""


# Bytes


@pytest.mark.parametrize("deflate", ["15", "off"])
async def test_bytes_are_counted_where_they_cross_the_socket(
    simulate: Simulate, connect: Connect, deflate: str
) -> None:
    """Handshake, frames and the closing handshake: to the byte what the other end counted."""
    simulator, total = await simulate(deflate=deflate), Traffic()
    connection = await connect(simulator.base_url, meter=Meter(total))
    await answer(connection)
    await connection.close()
    await simulator.until(lambda: simulator.connections[0].closed)
    record = simulator.connections[0]
    assert (total.sent, total.received) == (record.bytes_in, record.bytes_out)
    assert (connection.meter.turn.sent, connection.meter.turn.received) == (total.sent, total.received)


# Receiving


async def test_silence_raises_with_the_name_of_the_limit(simulate: Simulate, connect: Connect) -> None:
    """The message says how long was waited, and for what."""
    connection = await connect((await simulate()).base_url)
    with pytest.raises(UpstreamTimeout, match=r"silent for 0\.05 s \(event_timeout\)"):
        await connection.receive(0.05, "event_timeout")


async def test_a_close_frame_gives_its_code_and_its_reason(simulate: Simulate, connect: Connect) -> None:
    """The reason is for the agent alone, and whoever waits for the end is told once."""
    simulator, ends = await simulate(), list[Connection]()
    connection: Connection = await connect(simulator.base_url, gone=lambda: ends.append(connection))
    await simulator.close_connections(1012, "restarting")
    with pytest.raises(ConnectionLost, match=r"closed with 1012$") as caught:
        await connection.receive(5, "event_timeout")
    assert (caught.value.code, caught.value.said) == (1012, "restarting")
    assert not connection.is_open
    await simulator.until(lambda: simulator.connections[0].closed)
    assert len(ends) == 1


async def test_a_reset_has_no_code(simulate: Simulate, connect: Connect) -> None:
    """1006 stands for a connection that ended without a word."""
    simulator, gone = await simulate(), asyncio.Event()
    connection = await connect(simulator.base_url, gone=gone.set)
    simulator.abort_connections()
    with pytest.raises(ConnectionLost, match=r"closed with 1006$") as caught:
        await connection.receive(5, "event_timeout")
    assert caught.value.code == 1006
    await gone.wait()


@pytest.mark.parametrize("frame", ["", "hello", "[]", '{"kind": 1}', '{"type": 7}', b"\xff"])
async def test_what_is_no_event_is_a_loss(connect: Connect, speaking: Speaking, frame: str | bytes) -> None:
    """Whatever speaks there, it isn't upstream."""
    connection = await connect(await speaking(frame))
    await connection.send(MESSAGE)
    with pytest.raises(ConnectionLost, match="not an event"):
        await connection.receive(5, "event_timeout")


async def test_an_event_in_a_binary_frame_or_over_several_lines_is_an_event(
    connect: Connect, speaking: Speaking
) -> None:
    """It comes out on one line."""
    connection = await connect(await speaking(b'{"type": "one"}', '{\n  "type": "two",\r\n  "text": "\\n"\n}'))
    await connection.send(MESSAGE)
    assert (await connection.receive(5, "event_timeout")).raw == b'{"type": "one"}'
    event = await connection.receive(5, "event_timeout")
    assert event.type == "two"
    assert event.json() == {"type": "two", "text": "\n"}
    assert b"\n" not in event.raw
    assert b"\r" not in event.raw


async def test_an_event_may_be_as_large_as_max_event_bytes(connect: Connect, speaking: Speaking) -> None:
    """A larger one ends the connection before it fills the memory, also where it was small on the wire."""
    fits, too_large = '{"type":"' + "x" * 989 + '"}', '{"type":"' + "x" * 990 + '"}'
    connection = await connect(await speaking(fits, too_large), replace(TIMING, max_event_bytes=1000))
    await connection.send(MESSAGE)
    assert len((await connection.receive(5, "event_timeout")).raw) == 1000
    with pytest.raises(ConnectionLost, match="max_event_bytes") as caught:
        await connection.receive(5, "event_timeout")
    assert caught.value.code == TOO_BIG
    assert not connection.is_open


async def test_what_nobody_takes_is_kept_and_pings_are_answered(
    connect: Connect, raw_upstream: RawUpstreams
) -> None:
    """An agent that stopped reading costs no event, and upstream goes on hearing from us."""
    pong: asyncio.Queue[tuple[int, bool, bytes]] = asyncio.Queue()

    async def serve(peer: Peer) -> None:
        await accept(peer)
        for number in range(5000):
            event = b'{"type":"%08d"}' % number
            await peer.send(b"\x81" + bytes([len(event)]) + event)
        await peer.send(b"\x89\x01p")
        pong.put_nowait(await frame(peer))
        await asyncio.Event().wait()

    connection = await connect((await raw_upstream(serve)).base_url)
    assert await pong.get() == (10, True, b"p")
    types = [(await connection.receive(5, "event_timeout")).type for _ in range(5000)]
    assert types == [f"{number:08}" for number in range(5000)]


async def test_too_much_that_nobody_takes_ends_the_connection(
    connect: Connect, raw_upstream: RawUpstreams
) -> None:
    """What was kept is still given out; then comes the reason. A single event may be larger than the bound."""
    gone = asyncio.Event()

    async def serve(peer: Peer) -> None:
        await accept(peer)
        event = b'{"type":"%0111d"}' % 0
        for _ in range(20):
            await peer.send(b"\x81" + bytes([len(event)]) + event)
        await asyncio.Event().wait()

    timing = replace(TIMING, max_unread_bytes=1000)
    connection = await connect((await raw_upstream(serve)).base_url, timing, gone=gone.set)
    await gone.wait()
    for _ in range(9):
        await connection.receive(5, "event_timeout")
    with pytest.raises(ConnectionLost, match="max_unread_bytes"):
        await connection.receive(5, "event_timeout")


@pytest.mark.parametrize(
    "pieces",
    [
        [b"\x81\x7f" + (32 * 2**20).to_bytes(8)],
        [b"\x01\x7e\xff\xff" + bytes(65_535), *[b"\x00\x7e\xff\xff" + bytes(65_535)] * 17],
    ],
    ids=["one frame", "fragments"],
)
@pytest.mark.parametrize("is_at_rest", [False, True])
async def test_a_large_message_between_turns_ends_the_connection(
    connect: Connect, raw_upstream: RawUpstreams, pieces: list[bytes], *, is_at_rest: bool
) -> None:
    """Nobody waits for its end, and what has come of it would be kept until then."""
    gone, here, go_on = asyncio.Event(), asyncio.Event(), asyncio.Event()
    size = sum(len(piece) for piece in pieces)

    class Watched(Meter):
        def received(self, count: int) -> None:
            super().received(count)
            if self.total.received >= size:
                asyncio.get_running_loop().call_soon(here.set)

    async def serve(peer: Peer) -> None:
        await accept(peer)
        await go_on.wait()
        for piece in pieces:
            await peer.send(piece)
        await asyncio.Event().wait()

    meter, timing = Watched(Traffic()), replace(TIMING, max_event_bytes=64 * 2**20)
    connection = await connect((await raw_upstream(serve)).base_url, timing, meter=meter, gone=gone.set)
    meter.total.received = 0
    if is_at_rest:
        connection.rest()
        go_on.set()
    else:
        go_on.set()
        await here.wait()
        assert connection.is_open
        connection.rest()
    await gone.wait()


async def test_pings_of_an_upstream_that_reads_nothing_have_an_end(
    connect: Connect, raw_upstream: RawUpstreams, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is answered, and the answers are kept here for as long as it does not take them."""
    monkeypatch.setattr(upgrade_module, "_MOST_PINGS", 1000)
    gone, taken = asyncio.Event(), asyncio.Event()

    async def serve(peer: Peer) -> None:
        await accept(peer)
        peer.writer.transport.pause_reading()  # type: ignore[attr-defined]
        for _ in range(2000):  # more than the systems' buffers hold
            await peer.send((b"\x89\x7d" + bytes(125)) * 100)
        taken.set()

    await connect((await raw_upstream(serve)).base_url, gone=gone.set)
    await gone.wait()
    assert not taken.is_set()


async def test_any_number_of_pings_is_answered_where_the_pongs_are_read(
    connect: Connect, raw_upstream: RawUpstreams, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many there are, and however fast they come."""
    monkeypatch.setattr(upgrade_module, "_MOST_PINGS", 10)
    answered = asyncio.Event()

    async def serve(peer: Peer) -> None:
        await accept(peer)
        for _ in range(100):
            await peer.send(b"\x89\x01p")
            assert await frame(peer) == (10, True, b"p")
        answered.set()
        await asyncio.Event().wait()

    connection = await connect((await raw_upstream(serve)).base_url)
    await answered.wait()
    assert connection.is_open


async def test_a_reader_that_takes_at_once_is_not_slow(connect: Connect, raw_upstream: RawUpstreams) -> None:
    """What arrived together is no more than it can take, however little may be unread."""

    async def serve(peer: Peer) -> None:
        await accept(peer)
        await frame(peer)
        event = b'{"type":"%0111d"}' % 0
        await peer.send((b"\x81" + bytes([len(event)]) + event) * 20)
        await asyncio.Event().wait()

    timing = replace(TIMING, max_unread_bytes=1)
    connection = await connect((await raw_upstream(serve)).base_url, timing)
    await connection.send(MESSAGE)
    for _ in range(20):
        await connection.receive(5, "event_timeout")


# Sending


async def test_stragglers_are_forgotten_before_the_next_message(simulate: Simulate, connect: Connect) -> None:
    """What came after the end of a turn isn't the beginning of the next."""
    simulator = await simulate(extra_events=("trailing",), trailing_seconds=0)
    connection = await connect(simulator.base_url)
    events = len(await answer(connection))
    await simulator.until(lambda: simulator.turns[0].events_sent == events + 1)
    await (await connection._socket.ping())  # the pong comes after what trails
    types = await answer(connection)
    assert types[0] == "response.created"
    assert len(types) == events


async def test_sending_on_a_closed_connection_is_a_loss(simulate: Simulate, connect: Connect) -> None:
    """The close that arrived meanwhile is the reason given."""
    simulator, gone = await simulate(), asyncio.Event()
    connection = await connect(simulator.base_url, gone=gone.set)
    await simulator.close_connections(1001, "bye")
    await gone.wait()
    with pytest.raises(ConnectionLost, match="1001"):
        await connection.send(MESSAGE)


async def test_an_upload_that_makes_no_progress_ends_with_send_timeout(
    connect: Connect, raw_upstream: RawUpstreams
) -> None:
    """Upstream that stops reading is a loss, and the message names the setting."""

    async def serve(peer: Peer) -> None:
        await accept(peer)
        peer.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await asyncio.Event().wait()

    connection = await connect((await raw_upstream(serve)).base_url, replace(TIMING, send_timeout=0.2))
    with pytest.raises(ConnectionLost, match="send_timeout"):
        await connection.send(Message.of({"input": "x" * 2**26}))


async def test_no_rate_is_proven_that_the_clock_cannot_tell(simulate: Simulate, connect: Connect) -> None:
    """An answer within one step of the clock took that long, as far as anybody knows; on Windows that is 16 ms."""
    connection = await connect((await simulate()).base_url)
    step = get_clock_info("monotonic").resolution
    assert step <= upgrade_module._CLOCK
    assert connection._socket.proven_rate <= connection.meter.written / upgrade_module._CLOCK


async def test_a_slow_upload_is_not_a_stuck_one(simulate: Simulate, connect: Connect) -> None:
    """While the kernel takes bytes the deadline moves: an upload may take many times send_timeout."""
    simulator = await simulate(uplink_bytes_per_second=1_000_000, deflate="off")
    connection = await connect(simulator.base_url, replace(TIMING, send_timeout=0.5))
    raw = connection._socket.transport.get_extra_info("socket")
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 32 * 1024)  # loopback would swallow megabytes at once
    loop = asyncio.get_running_loop()
    began = loop.time()
    await connection.send(response_create(request(user("x" * 1_200_000)), None))
    assert loop.time() - began > 2 * 0.5
    assert (await connection.receive(5, "first_event_timeout")).type == "response.created"


async def test_a_queue_whose_socket_closed_meanwhile_has_room_or_none() -> None:
    """The write that follows tells."""
    ours, theirs = socket.socketpair()
    transport, _ = await asyncio.get_running_loop().create_connection(asyncio.Protocol, sock=ours)
    queues = CountedQueue(transport), AssumedQueue(transport)
    transport.abort()
    theirs.close()
    await asyncio.sleep(0)
    for queue in queues:
        assert queue.room(2**16) >= 0


@pytest.mark.parametrize("queue", [CountedQueue, AssumedQueue])
async def test_a_large_message_comes_in_pieces_and_whole(
    connect: Connect, raw_upstream: RawUpstreams, monkeypatch: pytest.MonkeyPatch, queue: Any
) -> None:
    """Far fewer than a server takes, with the answer to a ping between them, whatever the kernel can tell."""
    monkeypatch.setattr(connection_module, "queue_of", queue)
    frames: list[tuple[int, bool, bytes]] = []

    async def serve(peer: Peer) -> None:
        await accept(peer)
        frames.append(await frame(peer))
        await peer.send(b"\x89\x01p")
        while frames[-1][0] != 10 and len(frames) < 2000:
            frames.append(await frame(peer))
        while not (frames[-1][1] and frames[-1][0] == 0):
            frames.append(await frame(peer))
        await peer.send(b'\x81\x10{"type":"heard"}')
        await asyncio.Event().wait()

    connection = await connect((await raw_upstream(serve, buffer=2**14)).base_url)
    message = Message.of({"input": LARGE})
    await connection.send(message)
    assert (await connection.receive(5, "first_event_timeout")).type == "heard"
    pieces = [each for each in frames if each[0] < 8]
    assert b"".join(data for _, _, data in pieces) == bytes(message)
    assert [code for code, _, _ in pieces] == [1] + [0] * (len(pieces) - 1)
    assert [final for _, final, _ in pieces] == [False] * (len(pieces) - 1) + [True]
    assert 10 < len(pieces) < 1100
    assert (10, True, b"p") in frames[1:-1]


async def test_a_small_message_is_one_frame(connect: Connect, raw_upstream: RawUpstreams) -> None:
    """A delta leaves at once."""
    frames: asyncio.Queue[tuple[int, bool, bytes]] = asyncio.Queue()

    async def serve(peer: Peer) -> None:
        await accept(peer)
        frames.put_nowait(await frame(peer))
        await asyncio.Event().wait()

    connection = await connect((await raw_upstream(serve)).base_url)
    await connection.send(MESSAGE)
    assert await frames.get() == (1, True, bytes(MESSAGE))


@pytest.mark.parametrize(("delay", "follow"), [(0.0, 0), (0.16, 3)])
async def test_small_packets_guard_the_end_of_a_message_over_a_long_link(
    connect: Connect, raw_upstream: RawUpstreams, delay: float, follow: int
) -> None:
    """Unasked pongs: should its last packet be lost, TCP hears of it from them. A near upstream gets none."""
    frames: asyncio.Queue[tuple[int, bool, bytes]] = asyncio.Queue()

    async def serve(peer: Peer) -> None:
        await asyncio.sleep(delay)
        await accept(peer)
        while True:
            frames.put_nowait(await frame(peer))

    connection = await connect((await raw_upstream(serve)).base_url)
    await connection.send(MESSAGE)
    await connection.close()
    seen = [await frames.get()]
    while seen[-1][0] != 8:
        seen.append(await frames.get())
    assert seen[0] == (1, True, bytes(MESSAGE))
    assert [code for code, _, _ in seen[1:-1]] == [10] * follow


async def test_a_message_that_upstream_answers_by_closing_was_sent(
    connect: Connect, raw_upstream: RawUpstreams
) -> None:
    """What guards its end is no reason to take it for unsent, and what was said before the close is heard."""

    async def serve(peer: Peer) -> None:
        await asyncio.sleep(0.16)
        await accept(peer)
        await frame(peer)
        said = b'{"type":"error"}'
        await peer.send(bytes([129, len(said)]) + said + b"\x88\x02\x03\xe8")

    connection = await connect((await raw_upstream(serve)).base_url)
    await connection.send(MESSAGE)
    assert (await connection.receive(5, "first_event_timeout")).type == "error"
    with pytest.raises(ConnectionLost) as caught:
        await connection.receive(5, "event_timeout")
    assert caught.value.sent


async def test_a_loss_in_the_middle_of_a_message_was_never_sent(
    connect: Connect, raw_upstream: RawUpstreams
) -> None:
    """Upstream cannot answer what it has no end of; whereas once the end has left, it may."""
    losses = iter((False, True))

    async def serve(peer: Peer) -> None:
        await accept(peer)
        _, final, _ = await frame(peer)
        while next(losses) and not final:
            _, final, _ = await frame(peer)
        peer.close()

    upstream = await raw_upstream(serve, buffer=2**14)
    connection = await connect(upstream.base_url)
    with pytest.raises(ConnectionLost) as caught:
        await connection.send(Message.of({"input": LARGE * 20}))
    assert not caught.value.sent
    connection = await connect(upstream.base_url)
    await connection.send(MESSAGE)
    with pytest.raises(ConnectionLost) as caught:
        await connection.receive(5, "first_event_timeout")
    assert caught.value.sent


HALF = b'{"type":"x","y":"\xc3'
REST = b'\xa9"}'


@pytest.mark.parametrize("compressed", [False, True])
async def test_a_text_is_checked_whole(connect: Connect, *, compressed: bool) -> None:
    """Fragments may cut a character in two; half of one is no text, and ends the connection (RFC 6455, 8.1)."""

    async def speak(socket: ServerConnection) -> None:
        async for _ in socket:
            await socket.send([HALF, REST], text=True)
            await socket.send([HALF, b'"}'], text=True)

    compression = "deflate" if compressed else None
    async with serve(speak, "127.0.0.1", 0, compression=compression) as server:
        connection = await connect("http://{}:{}/v1".format(*next(iter(server.sockets)).getsockname()))
        await connection.send(MESSAGE)
        assert (await connection.receive(5, "event_timeout")).raw == HALF + REST
        with pytest.raises(ConnectionLost, match="UTF-8"):
            await connection.receive(5, "event_timeout")
        assert (connection.compression is not None) is compressed


async def test_a_message_to_a_connection_that_closed_was_never_sent(simulate: Simulate, connect: Connect) -> None:
    """It did not leave at all."""
    simulator, gone = await simulate(), asyncio.Event()
    connection = await connect(simulator.base_url, gone=gone.set)
    simulator.abort_connections()
    await gone.wait()
    with pytest.raises(ConnectionLost) as caught:
        await connection.send(MESSAGE)
    assert not caught.value.sent


async def test_a_message_that_is_given_up_ends_its_connection(
    connect: Connect, raw_upstream: RawUpstreams
) -> None:
    """Half a message is followed by nothing: neither its end nor another."""
    begun, over, ended = asyncio.Event(), asyncio.Event(), asyncio.Event()
    finals: list[bool] = []

    async def serve(peer: Peer) -> None:
        await accept(peer)
        finals.append((await frame(peer))[1])
        begun.set()
        await over.wait()
        try:
            while True:
                finals.append((await frame(peer))[1])
        finally:
            ended.set()

    gone = asyncio.Event()
    connection = await connect((await raw_upstream(serve, buffer=2**14)).base_url, gone=gone.set)
    sending = asyncio.get_running_loop().create_task(connection.send(Message.of({"input": LARGE * 20})))
    await begun.wait()
    sending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sending
    await gone.wait()
    assert not connection.is_open
    over.set()
    await ended.wait()
    assert not any(finals)


async def test_a_message_that_is_given_up_while_it_is_compressed_ends_its_connection(connect: Connect) -> None:
    """What was not sent is in no window: nothing may follow it on this connection."""
    arrived: list[str | bytes] = []
    over = asyncio.Event()

    async def listen(socket: ServerConnection) -> None:
        with suppress(ConnectionClosed):
            while True:
                arrived.append(await socket.recv())
        over.set()

    async with serve(listen, "127.0.0.1", 0, max_size=None) as server:
        connection = await connect("http://{}:{}/v1".format(*next(iter(server.sockets)).getsockname()))
        assert connection.compression is not None
        sending = asyncio.get_running_loop().create_task(connection.send(Message.of({"input": LARGE * 10})))
        await asyncio.sleep(0)
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        with pytest.raises(ConnectionLost):
            await connection.send(MESSAGE)
        await over.wait()
        assert not connection.is_open
    assert arrived == []


@pytest.mark.parametrize("deflate", ["15", "12", "no_takeover", "off"])
async def test_large_messages_are_understood_and_counted(
    simulate: Simulate, connect: Connect, deflate: str
) -> None:
    """One after the other on one connection, as compressed as may be, and every byte is in the figures."""
    simulator, total = await simulate(deflate=deflate), Traffic()
    connection = await connect(simulator.base_url, meter=Meter(total))
    text = LARGE[:300_000]
    for number in range(3):
        await connection.send(response_create(request(user(f"{number} {text}")), None))
        while (await connection.receive(5, "event_timeout")).type != "response.completed":
            pass
    assert [turn.context for turn in simulator.turns] == [[user(f"{number} {text}")] for number in range(3)]
    await connection.close()
    await simulator.until(lambda: simulator.connections[0].closed)
    record = simulator.connections[0]
    assert (total.sent, total.received) == (record.bytes_in, record.bytes_out)
    assert connection.meter.turn.sent < 3 * 300_000 * (1.01 if deflate == "off" else 0.8)


# Closing


async def test_closing_is_polite(simulate: Simulate, connect: Connect) -> None:
    """Upstream gets a close frame with 1000."""
    simulator = await simulate()
    connection = await connect(simulator.base_url)
    await connection.close()
    await simulator.until(lambda: simulator.connections[0].closed)
    assert simulator.connections[0].close_code == 1000


async def test_closing_has_close_timeout(simulate: Simulate, connect: Connect) -> None:
    """An upstream that says nothing any more is not waited for."""
    simulator = await simulate()
    connection = await connect(simulator.base_url, replace(TIMING, close_timeout=0.05))
    simulator.silence_connections()
    async with asyncio.timeout(5):
        await connection.close()
    assert not connection.is_open


async def test_aborting_says_nothing(simulate: Simulate, connect: Connect) -> None:
    """Upstream sees the socket end without a close frame."""
    simulator = await simulate()
    connection = await connect(simulator.base_url)
    connection.abort()
    await simulator.until(lambda: simulator.connections[0].closed)
    assert simulator.connections[0].close_code in (None, 1006)


async def test_it_shows_its_state_and_what_it_knows(simulate: Simulate, connect: Connect) -> None:
    """One look at the repr tells both."""
    connection = await connect((await simulate()).base_url)
    assert repr(connection) == "<Connection OPEN, knows nothing>"
    connection.baseline = Baseline.after(request(user("hello")), "resp_1", ())
    assert repr(connection) == "<Connection OPEN, knows resp_1>"
    await connection.close()
    assert repr(connection) == "<Connection CLOSED, knows resp_1>"


# After a long silence


async def test_a_dead_connection_is_found_out_before_it_is_used(simulate: Simulate, connect: Connect) -> None:
    """One that went silent without closing takes no message: its pong does not come."""
    simulator = await simulate()
    connection = await connect(simulator.base_url, replace(TIMING, probe_timeout=0.05))
    await answer(connection)
    simulator.silence_connections()
    connection._socket.heard_at -= 3600
    with pytest.raises(ConnectionLost, match="probe_timeout"):
        await connection.send(MESSAGE)
    assert len(simulator.turns) == 1


async def test_a_living_connection_proves_itself(simulate: Simulate, connect: Connect) -> None:
    """After a silence that pings did not break, the pong comes and the turn goes on."""
    simulator = await simulate()
    connection = await connect(simulator.base_url)
    await answer(connection)
    connection._socket.heard_at -= 3600
    assert (await answer(connection))[-1] == "response.completed"


async def test_a_sleep_is_over_once_something_is_heard(simulate: Simulate, connect: Connect) -> None:
    """While this machine sleeps the time of day runs ahead of the other clock, and upstream may have gone."""
    connection = await connect((await simulate()).base_url)
    connection._socket.lag -= 60
    assert connection.is_doubtful
    assert await connection.prove(5)
    assert not connection.is_doubtful


async def test_no_pong_is_too_late(simulate: Simulate, connect: Connect) -> None:
    """Behind a large upload or a dark link it takes minutes: the library pings, and draws no conclusions."""
    connection = await connect((await simulate()).base_url)
    assert connection._socket.ping_interval == TIMING.ping_interval
    assert connection._socket.ping_timeout is None


@pytest.mark.parametrize("asked", ["before the message", "at work"])
async def test_a_pong_in_the_middle_of_a_turn_is_remarked(
    connect: Connect, raw_upstream: RawUpstreams, asked: str
) -> None:
    """Not one that answers a ping from before the message: upstream may read nothing before the end of a turn."""

    async def serve(peer: Peer) -> None:
        await accept(peer)
        pings = [data for code, _, data in [await frame(peer), await frame(peer)] if code == 9]
        for ping in pings:
            await peer.send(bytes([138, len(ping)]) + ping)
        await asyncio.sleep(0.05)
        await peer.send(b'\x81\x10{"type":"heard"}\x8a\x00')
        await asyncio.Event().wait()

    connection = await connect((await raw_upstream(serve)).base_url)
    if asked == "before the message":
        await connection._socket.ping()
    await connection.send(MESSAGE)
    if asked == "at work":
        await connection._socket.ping()
    assert (await connection.receive(5, "first_event_timeout")).type == "heard"
    assert connection.answers_at_work is (asked == "at work")
    await connection.send(MESSAGE)
    assert not connection.answers_at_work


async def test_a_pong_behind_the_end_of_a_turn_is_not_remarked(
    connect: Connect, raw_upstream: RawUpstreams
) -> None:
    """It shows that upstream reads again, and not that it read meanwhile."""

    async def serve(peer: Peer) -> None:
        await accept(peer)
        await frame(peer)
        _, _, ping = await frame(peer)
        await peer.send(b'\x81\x10{"type":"heard"}' + bytes([138, len(ping)]) + ping)
        await asyncio.Event().wait()

    connection = await connect((await raw_upstream(serve)).base_url)
    await connection.send(MESSAGE)
    pong = await connection._socket.ping()
    assert (await connection.receive(5, "first_event_timeout")).type == "heard"
    await pong
    assert not connection.answers_at_work


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can be told")
async def test_the_kernel_has_been_told_to_be_patient(simulate: Simulate, connect: Connect) -> None:
    """Of every connection: what TCP does by itself is to give a dark link up for how often it tried."""
    connection = await connect((await simulate()).base_url)
    raw = connection._socket.transport.get_extra_info("socket")
    assert raw.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) > 600_000
