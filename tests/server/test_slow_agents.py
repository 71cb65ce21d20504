"""Agents that take their answer slowly, or stop taking it."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import orjson
import pytest
from aiohttp import web
from proxied import KEY, Peer, Proxied, RawUpstream
from websockets.asyncio.server import ServerConnection, serve

from proxy.server import app as app_module
from proxy.server.reply import Reply

PIECES, PIECE = 30, 300_000
CREATED = {"type": "response.created", "response": {"id": "r"}}
DELTA = {"type": "response.output_text.delta", "delta": "x" * PIECE}
COMPLETED = {"type": "response.completed", "response": {"id": "r", "output": [], "text": "x" * PIECE * PIECES}}
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: %d\r\n\r\n"

Start = Callable[..., Awaitable[Proxied]]
RawUpstreams = Callable[..., Awaitable[RawUpstream]]


class Large:
    """An upstream with a large answer on a WebSocket, whose end it waits for."""

    def __init__(self) -> None:
        self.closed = asyncio.Event()
        self.url = ""

    async def speak(self, connection: ServerConnection) -> None:
        """Answer one turn."""
        await connection.recv()
        for each in (CREATED, *[DELTA] * PIECES, COMPLETED):
            await connection.send(orjson.dumps(each).decode())
        await connection.wait_closed()
        self.closed.set()


@pytest.fixture
async def large(stack: AsyncExitStack) -> AsyncIterator[Large]:
    """Start an upstream with a large answer."""
    upstream = Large()
    server = await stack.enter_async_context(serve(upstream.speak, "127.0.0.1", 0, compression=None))
    upstream.url = "http://{}:{}/v1".format(*next(iter(server.sockets)).getsockname())
    yield upstream
    await stack.aclose()


async def with_small_buffers(port: int) -> Peer:
    """Return an agent that is connected to *port*, and takes what it is made to read."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32 * 1024)
    sock.setblocking(False)  # noqa: FBT003
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
    return Peer(*await asyncio.open_connection(sock=sock, limit=32 * 1024))


async def asking(run: Proxied, **fields: Any) -> Peer:
    """Return an agent with small buffers that has asked for an answer."""
    agent = await with_small_buffers(run.port)
    run.peers.append(agent)
    body = orjson.dumps({"model": "m", "input": "x", "stream": True, **fields})
    await agent.begin("POST", "/v1/responses", KEY, ("Content-Length", str(len(body))))
    await agent.send(body)
    return agent


async def test_an_agent_that_takes_nothing_is_hung_up_on(proxied: Start, large: Large) -> None:
    """Its turn ends, and so does the connection upstream that it held."""
    run = await proxied(upstream=large.url, agent_timeout=0.3)
    agent = await asking(run)
    await run.recorded(1)
    assert run.server.ledger.statuses == {"aborted": 1}
    await large.closed.wait()
    with pytest.raises((asyncio.IncompleteReadError, ConnectionResetError)):
        await agent.message()


async def test_an_agent_that_takes_nothing_over_plain_http_is_hung_up_on(
    proxied: Start, raw_upstream: RawUpstreams
) -> None:
    """A turn or not, packlight keeps no upstream waiting for it."""

    async def serve(peer: Peer) -> None:
        await peer.message()
        await peer.send(HEAD % (PIECES * PIECE))
        for _ in range(PIECES):
            await peer.send(b"x" * PIECE)

    run = await proxied(upstream=(await raw_upstream(serve)).base_url, agent_timeout=0.3, websocket="off")
    agent = await asking(run)
    await run.recorded(1)
    assert run.server.ledger.statuses == {"aborted": 1}
    with pytest.raises((asyncio.IncompleteReadError, ConnectionResetError)):
        await agent.message()


async def test_an_agent_that_takes_nothing_of_a_whole_answer_is_hung_up_on(proxied: Start, large: Large) -> None:
    """It goes in one piece; the agent's connection is not kept for ever either."""
    run = await proxied(upstream=large.url, agent_timeout=0.3)
    agent = await asking(run, stream=False)
    writer = agent.writer
    await run.recorded(1)
    assert run.server.ledger.statuses == {"aborted": 1}
    while True:  # the first byte after the end is answered by a reset
        try:
            await agent.send(b"\r\n")
        except ConnectionError:
            break
        await asyncio.sleep(0.01)
    assert writer.is_closing()


async def test_an_agent_that_takes_none_of_many_pieces_is_hung_up_on(
    proxied: Start, stack: AsyncExitStack
) -> None:
    """What comes alone is not piled up for it either."""

    async def speak(connection: ServerConnection) -> None:
        await connection.recv()
        await connection.send(orjson.dumps(CREATED).decode())
        while True:
            await connection.send(orjson.dumps({**DELTA, "delta": "x" * 8000}).decode())
            await asyncio.sleep(0.003)

    server = await stack.enter_async_context(serve(speak, "127.0.0.1", 0, compression=None))
    upstream = "http://{}:{}/v1".format(*next(iter(server.sockets)).getsockname())
    run = await proxied(upstream=upstream, agent_timeout=0.3)
    await asking(run)
    async with asyncio.timeout(15):
        await run.recorded(1)
    assert run.server.ledger.statuses == {"aborted": 1}


class SmallSite(web.TCPSite):
    """A site whose connections have small buffers: the system takes little for an agent that takes nothing."""

    async def start(self) -> None:
        """Listen."""
        await super().start()
        for each in self._server.sockets:  # type: ignore[union-attr]
            each.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 32 * 1024)


@pytest.mark.parametrize("goes_on", [False, True])
async def test_an_agent_that_takes_none_of_a_large_piece_is_hung_up_on(
    proxied: Start, stack: AsyncExitStack, monkeypatch: pytest.MonkeyPatch, *, goes_on: bool
) -> None:
    """It came alone in a small frame, compressed; upstream says no more for now, or goes on in small pieces."""
    monkeypatch.setattr(web, "TCPSite", SmallSite)
    gone = asyncio.Event()

    async def speak(connection: ServerConnection) -> None:
        await connection.recv()
        for each in (CREATED, {**DELTA, "delta": "x"}, {**DELTA, "delta": "x" * 1_900_000}):
            await connection.send(orjson.dumps(each).decode())
            await asyncio.sleep(0.05)
        while goes_on and not gone.is_set():
            await connection.send(orjson.dumps({**DELTA, "delta": "x"}).decode())
            await asyncio.sleep(0.05)
        await connection.wait_closed()

    server = await stack.enter_async_context(serve(speak, "127.0.0.1", 0))
    upstream = "http://{}:{}/v1".format(*next(iter(server.sockets)).getsockname())
    run = await proxied(upstream=upstream, agent_timeout=0.3)
    await asking(run)
    try:
        async with asyncio.timeout(15):
            await run.recorded(1)
    finally:
        gone.set()
    assert run.server.ledger.statuses == {"aborted": 1}


async def test_what_an_agent_does_not_take_keeps_its_order(proxied: Start, stack: AsyncExitStack) -> None:
    """Each event comes alone: the first ones are shown where they arrive, later ones wait, the last do not."""
    pieces = [{"type": "response.output_text.delta", "delta": f"{n} {'x' * 2000}"} for n in range(1000)]
    go_on = asyncio.Event()

    async def speak(connection: ServerConnection) -> None:
        await connection.recv()
        await connection.send(orjson.dumps(CREATED).decode())
        for number, each in enumerate(pieces):
            await asyncio.sleep(0)
            await connection.send(orjson.dumps(each).decode())
            if number == 900:
                await go_on.wait()
        await connection.send(orjson.dumps({**COMPLETED, "response": {"id": "r", "output": []}}).decode())

    server = await stack.enter_async_context(serve(speak, "127.0.0.1", 0, compression=None))
    run = await proxied(upstream="http://{}:{}/v1".format(*next(iter(server.sockets)).getsockname()))
    agent = await asking(run)
    await asyncio.sleep(0.3)
    heard = b""
    while not heard.endswith(b"\r\n0\r\n\r\n"):
        heard += await agent.reader.read(2**16)
        if b'"900 x' in heard:
            go_on.set()
    numbers = [int(each.partition(b" ")[0]) for each in heard.split(b'"delta":"')[1:]]
    assert numbers == list(range(1000))


async def test_an_agent_that_reads_slowly_gets_all_of_its_answer(proxied: Start, large: Large) -> None:
    """Whatever it takes gives it time for more."""
    run = await proxied(upstream=large.url, agent_timeout=1)
    agent = await asking(run)
    began = asyncio.get_running_loop().time()
    heard = b""
    while not heard.endswith(b"\r\n0\r\n\r\n"):
        heard += await agent.reader.read(2**16)
        await asyncio.sleep(0.01)
    assert asyncio.get_running_loop().time() > began + 2
    assert len(heard) > PIECES * PIECE
    await run.recorded(1)
    assert run.server.ledger.statuses == {"completed": 1}


async def test_a_server_that_stops_waits_for_an_agent_that_reads_late(
    proxied: Start, large: Large, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A turn is in flight until its answer was taken, also where that goes in one piece."""
    monkeypatch.setattr(app_module, "_CLOSING_SECONDS", 0.1)
    run = await proxied(upstream=large.url, drain_seconds=20)
    agent = await asking(run, stream=False)
    heard = await agent.reader.read(100)
    draining = asyncio.get_running_loop().create_task(run.server.drain())
    await asyncio.wait([draining], timeout=1)
    assert not draining.done()
    heard += await agent.reader.read(-1)
    await draining
    assert len(heard) > PIECES * PIECE
    assert run.server.ledger.statuses == {"completed": 1}


async def test_an_answer_is_sent_when_the_system_has_all_of_it(stack: AsyncExitStack) -> None:
    """What a process still holds is lost when it ends."""
    ended, sent = asyncio.Event(), asyncio.Event()

    async def answer(request: web.Request) -> web.StreamResponse:
        reply = Reply(request)
        assert request.transport is not None
        await reply.begin(web.StreamResponse())
        while not request.transport.get_write_buffer_size():
            await reply.write(b"x" * 10_000)
            await asyncio.sleep(0.01)  # the system takes what it can
        response = await reply.end()
        ended.set()
        await reply.sent(response)
        assert not request.transport.get_write_buffer_size()
        sent.set()
        return response

    application = web.Application()
    application.add_routes([web.get("/", answer)])
    runner = web.AppRunner(application)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    await SmallSite(runner, "127.0.0.1", 0).start()
    agent = await with_small_buffers(runner.addresses[0][1])
    await agent.begin("GET", "/")
    await ended.wait()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(sent.wait(), 0.1)
    while not (await agent.reader.read(2**16)).endswith(b"\r\n0\r\n\r\n"):
        pass
    await sent.wait()
    agent.writer.close()
