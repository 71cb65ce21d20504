"""Agents that stop in the middle of an upload, or go on with what is no HTTP."""

import asyncio
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import pytest

KEY = ("Authorization", "Bearer key")
BEGUN = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nbegun\r\n"
WHOLE = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwhole"

framings = pytest.mark.parametrize("framing", [("Content-Length", "9"), ("Transfer-Encoding", "chunked")])


@framings
async def test_an_upload_that_stops_ends_the_answer(
    proxied: Any, raw_upstream: Any, framing: tuple[str, str]
) -> None:
    """After body_timeout both connections are closed: what the agent has cannot pass for the whole."""
    ended = asyncio.Event()

    async def serve(upstream: Any) -> None:
        await upstream.head()
        await upstream.send(BEGUN)
        try:
            while await upstream.reader.read(100):
                pass
        finally:
            ended.set()

    run = await proxied(upstream=(await raw_upstream(serve)).base_url, body_timeout=0.2)
    agent = await run.dial()
    await agent.begin("POST", "/v1/files", KEY, framing)
    await agent.send(b"5\r\n{")
    head = await agent.head()
    pieces = agent.pieces(head)
    assert await anext(pieces) == b"begun"
    async with asyncio.timeout(5):
        with pytest.raises((asyncio.IncompleteReadError, ConnectionResetError)):
            await anext(pieces)
        await ended.wait()


@framings
async def test_an_upload_that_stops_after_the_answer_ends(
    proxied: Any, raw_upstream: Any, framing: tuple[str, str]
) -> None:
    """The agent has all of the answer; upstream is not kept waiting for the rest of the upload."""
    ended = asyncio.Event()

    async def serve(upstream: Any) -> None:
        await upstream.head()
        await upstream.send(WHOLE)
        try:
            while await upstream.reader.read(100):
                pass
        finally:
            ended.set()

    run = await proxied(upstream=(await raw_upstream(serve)).base_url, body_timeout=0.2)
    agent = await run.dial()
    await agent.begin("POST", "/v1/files", KEY, framing)
    await agent.send(b"5\r\n{")
    assert (await agent.message()).body == b"whole"
    async with asyncio.timeout(5):
        await ended.wait()


async def test_an_upload_that_has_ended_stands_no_more(proxied: Any, raw_upstream: Any) -> None:
    """However long upstream goes on to answer."""
    received = bytearray()
    whole, answered = asyncio.Event(), asyncio.Event()

    async def serve(upstream: Any) -> None:
        await upstream.head()
        await upstream.send(BEGUN)
        received.extend(await upstream.reader.readexactly(9))
        whole.set()
        await answered.wait()
        await upstream.send(b"3\r\nend\r\n0\r\n\r\n")

    run = await proxied(upstream=(await raw_upstream(serve)).base_url, body_timeout=1)
    agent = await run.dial()
    await agent.begin("POST", "/v1/files", KEY, ("Content-Length", "9"))
    await agent.send(b"1")
    head = await agent.head()
    pieces = agent.pieces(head)
    assert await anext(pieces) == b"begun"
    await agent.send(b"23456789")
    await whole.wait()
    await asyncio.sleep(1.2)
    answered.set()
    assert [piece async for piece in pieces] == [b"end"]
    assert received == b"123456789"


GARBAGE = b"no chunk\r\n\r\n"


@pytest.mark.parametrize("target", ["/v1/responses", "/v1/chat/completions", "/v1/files"])
@pytest.mark.parametrize("apart", [0.0, 0.1], ids=["at once", "later"])
async def test_a_chunk_that_is_none_is_refused_at_once(
    proxied: Any, raw_upstream: Any, target: str, apart: float
) -> None:
    """The agent need not wait for body_timeout, its connection is closed, and upstream gets no whole body."""
    received = bytearray()

    async def serve(upstream: Any) -> None:
        await upstream.head()
        while piece := await upstream.reader.read(100):
            received.extend(piece)

    run = await proxied(upstream=(await raw_upstream(serve)).base_url)
    agent = await run.dial()
    await agent.begin("POST", target, KEY, ("Transfer-Encoding", "chunked"))
    await asyncio.sleep(apart)
    await agent.send(b"1\r\n{\r\n")
    await asyncio.sleep(apart)
    await agent.send(GARBAGE)
    async with asyncio.timeout(5):
        answer = await agent.message()
        assert await agent.reader.read() == b""
    assert (answer.status, answer.get("Connection")) == (400, "close")
    assert answer.json()["error"]["code"] == "invalid_body"
    assert not received.endswith(b"0\r\n\r\n")


async def test_a_chunk_that_is_none_is_refused_though_it_follows_at_once(proxied: Any) -> None:
    """Before anybody has begun to read the body."""
    run = await proxied()
    agent = await run.dial()
    agent.writer.write(b"POST /v1/files HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
    await asyncio.sleep(0)
    agent.writer.write(GARBAGE)
    async with asyncio.timeout(5):
        assert (await agent.message()).status == 400
        assert await agent.reader.read() == b""


async def test_a_body_behind_another_request_is_refused_too(proxied: Any, raw_upstream: Any) -> None:
    """While the one before is being answered, nobody reads it."""
    asked, goes_on = asyncio.Event(), asyncio.Event()

    async def serve(upstream: Any) -> None:
        await upstream.message()
        asked.set()
        await goes_on.wait()
        await upstream.send(WHOLE)

    run = await proxied(upstream=(await raw_upstream(serve)).base_url)
    agent = await run.dial()
    await agent.begin("GET", "/v1/models", KEY)
    await agent.begin("POST", "/v1/responses", KEY, ("Transfer-Encoding", "chunked"))
    await agent.send(b"1\r\n{\r\n")
    await asked.wait()
    await agent.send(GARBAGE)
    await agent.send(GARBAGE)
    goes_on.set()
    async with asyncio.timeout(5):
        assert (await agent.message()).body == b"whole"
        assert (await agent.message()).status == 400
        assert await agent.reader.read() == b""


@pytest.mark.parametrize("garbled", [False, True], ids=["it stops", "it makes no sense"])
async def test_an_upload_that_is_not_whole_is_none_upstream(
    proxied: Any, raw_upstream: Any, *, garbled: bool
) -> None:
    """Also where upstream has begun to answer: that answer is broken off, and so is the upload."""
    received = bytearray()
    ended = asyncio.Event()

    async def serve(upstream: Any) -> None:
        await upstream.head()
        await upstream.send(BEGUN)
        try:
            while piece := await upstream.reader.read(100):
                received.extend(piece)
        finally:
            ended.set()

    run = await proxied(upstream=(await raw_upstream(serve)).base_url, body_timeout=60 if garbled else 0.2)
    agent = await run.dial()
    await agent.begin("POST", "/v1/files", KEY, ("Transfer-Encoding", "chunked"))
    await agent.send(b"1\r\n{\r\n")
    pieces = agent.pieces(await agent.head())
    assert await anext(pieces) == b"begun"
    await agent.send(GARBAGE if garbled else b"")
    async with asyncio.timeout(5):
        with pytest.raises((asyncio.IncompleteReadError, ConnectionResetError)):
            await anext(pieces)
        await ended.wait()
    assert received == b"1\r\n{\r\n"


async def test_a_body_that_nobody_reads_may_make_no_sense(proxied: Any, caplog: pytest.LogCaptureFixture) -> None:
    """The answer was given by then; the connection ends without an error of ours."""
    run = await proxied()
    agent = await run.dial()
    await agent.begin("POST", "/elsewhere", ("Transfer-Encoding", "chunked"))
    await agent.send(b"1\r\n{\r\n")
    assert (await agent.message()).status == 404
    await agent.send(GARBAGE)
    async with asyncio.timeout(5):
        await agent.reader.read()
    assert "Unhandled exception" not in caplog.text


async def everything(upstream: socket.socket) -> AsyncIterator[int]:
    """Yield the sizes of what arrives until the connection is reset; a proper end is none."""
    while data := await asyncio.get_running_loop().sock_recv(upstream, 65536):
        yield len(data)
    raise EOFError


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the kernel does not tell what has left")
@pytest.mark.parametrize("settings", [{}, {"max_body_bytes": 1000}], ids=["read first", "passed through"])
async def test_what_has_not_left_when_its_agent_hangs_up_is_not_sent(
    proxied: Any, settings: dict[str, int]
) -> None:
    """It would hold up what the agent asks for next, for minutes on a narrow link. Nor is it counted."""
    size, received = 3_000_000, 0
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        base_url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        run = await proxied(upstream=base_url, websocket="off", **settings)
        agent = await run.dial()
        await agent.begin("GET", "/v1/models", KEY)
        upstream, _ = await asyncio.get_running_loop().sock_accept(listener)
        with upstream:
            received += len(await asyncio.get_running_loop().sock_recv(upstream, 65536))
            upstream.send(WHOLE)  # an answer on the same connection, to an earlier request
            assert (await agent.message()).body == b"whole"
            await agent.begin("POST", "/v1/responses", KEY, ("Content-Length", str(size)))
            agent.writer.write(bytes(size))
            while (await run.figures())["bytes"]["to_upstream"] < size / 10:
                pass
            agent.writer.transport.abort()
            await run.recorded(1)
            with suppress(ConnectionResetError):
                async for count in everything(upstream):
                    received += count
    assert received < size / 2
    (turn,) = run.server.ledger.turns(1)
    assert turn.status == "aborted"
    assert (run.server.ledger.upstream.sent, turn.bytes_to_upstream) == pytest.approx((received,) * 2, rel=0.02)


async def test_what_has_not_left_when_the_answer_ends_is_sent_all_the_same(proxied: Any) -> None:
    """Some upstreams answer first and read on, also where they say that they close."""
    size, received = 400_000, 0
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        run = await proxied(upstream=f"http://127.0.0.1:{listener.getsockname()[1]}/v1", websocket="off")
        agent = await run.dial()
        await agent.begin("POST", "/v1/responses", KEY, ("Content-Length", str(size)))
        agent.writer.write(bytes(size))
        upstream, _ = await asyncio.get_running_loop().sock_accept(listener)
        with upstream:
            while (await run.figures())["bytes"]["to_upstream"] < size:
                pass
            upstream.send(WHOLE.replace(b"\r\n", b"\r\nConnection: close\r\n", 1))
            assert (await agent.message()).body == b"whole"
            with suppress(EOFError):
                async for count in everything(upstream):
                    received += count
    assert received > size
