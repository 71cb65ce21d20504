"""Agents that stop in the middle of an upload that upstream has begun to answer."""

import asyncio
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
