"""Streams over plain HTTP that end properly: what the figures say of them, and that agents get the same bytes."""

import gzip
import socket
import struct
from typing import Any

import orjson
import pytest

KEY = ("Authorization", "Bearer key")
STREAM = ("Content-Type", "text/event-stream; charset=utf-8")
RESPONSES, CHAT = "/v1/responses", "/v1/chat/completions"
BEGUN = {
    RESPONSES: b'event: response.created\ndata: {"type":"response.created","response":{"id":"r"}}\n\n',
    CHAT: b'data: {"choices":[{"index":0,"delta":{"content":"x"},"finish_reason":null}]}\n\n',
}
ENDED = {
    RESPONSES: b'event: response.completed\ndata: {"type":"response.completed","response":{"id":"r"}}\n\n',
    CHAT: b"data: [DONE]\n\n",
}
both = pytest.mark.parametrize("target", [RESPONSES, CHAT])


def asking(target: str) -> bytes:
    """Return a request for a stream."""
    said = {"input": "x"} if target == RESPONSES else {"messages": [{"role": "user", "content": "x"}]}
    return orjson.dumps({"model": "m", "stream": True, **said})


async def told(
    proxied: Any, raw_upstream: Any, target: str, pieces: list[bytes], *headers: Any, **options: Any
) -> Any:
    """Have upstream answer a request with *pieces*, and end properly; return what the agent got and the status."""
    head = "".join(f"{name}: {value}\r\n" for name, value in headers).encode()

    async def serve(peer: Any) -> None:
        await peer.message()
        await peer.send(b"HTTP/1.1 200 OK\r\n" + head + b"Transfer-Encoding: chunked\r\n\r\n")
        for piece in pieces:
            await peer.send(b"%x\r\n%b\r\n" % (len(piece), piece))
        await peer.send(b"0\r\n\r\n")

    run = await proxied(upstream=(await raw_upstream(serve)).base_url, websocket="off")
    answer = await run.ask("POST", target, KEY, *options.get("asks", ()), body=asking(target))
    assert answer.status == 200
    await run.recorded(1)
    (record,) = run.server.ledger.turns(9)
    assert record.upload == "http"
    assert run.server.ledger.statuses == {record.status: 1}
    return answer.body, record.status


@both
@pytest.mark.parametrize("ends", [True, False])
async def test_a_stream_is_judged_by_how_it_ends(
    proxied: Any, raw_upstream: Any, target: str, *, ends: bool
) -> None:
    """Without a terminal event something was lost; the agent gets what there is all the same."""
    pieces = [BEGUN[target], *([ENDED[target]] if ends else [])]
    body, status = await told(proxied, raw_upstream, target, pieces, STREAM)
    assert body == b"".join(pieces)
    assert status == ("completed" if ends else "failed")


@both
async def test_a_stream_of_nothing_has_failed(proxied: Any, raw_upstream: Any, target: str) -> None:
    """A status and a type are no answer."""
    assert await told(proxied, raw_upstream, target, [], STREAM) == (b"", "failed")


@pytest.mark.parametrize(
    ("target", "last", "status"),
    [
        (RESPONSES, b'data: {"type":"response.incomplete"}\n\n', "incomplete"),
        (RESPONSES, b'data: {"type":"response.failed"}\n\n', "failed"),
        (CHAT, b'data: {"choices":[{"finish_reason":"length"}]}\n\n', "incomplete"),
        (CHAT, b'data: {"error":{"message":"no"}}\n\n', "failed"),
    ],
)
async def test_other_ends_count_as_over_a_websocket(
    proxied: Any, raw_upstream: Any, target: str, last: bytes, status: str
) -> None:
    """Upstream says itself how it went."""
    assert (await told(proxied, raw_upstream, target, [BEGUN[target], last], STREAM))[1] == status


@both
@pytest.mark.parametrize("ends", [True, False])
async def test_a_stream_that_is_inflated_here_is_read(
    proxied: Any, raw_upstream: Any, target: str, *, ends: bool
) -> None:
    """The agent asked for no encoding; upstream was asked for gzip."""
    plain = BEGUN[target] + (ENDED[target] if ends else b"")
    packed = gzip.compress(plain)
    headers = (STREAM, ("Content-Encoding", "gzip"))
    body, status = await told(proxied, raw_upstream, target, [packed[:20], packed[20:]], *headers)
    assert (body, status) == (plain, "completed" if ends else "failed")


@both
@pytest.mark.parametrize("encoding", ["gzip", "br"])
async def test_a_stream_that_cannot_be_read_is_believed(
    proxied: Any, raw_upstream: Any, target: str, encoding: str
) -> None:
    """The agent asked for an encoding, which is not undone for the figures alone."""
    packed = gzip.compress(BEGUN[target])
    headers, asks = (STREAM, ("Content-Encoding", encoding)), (("Accept-Encoding", encoding),)
    assert await told(proxied, raw_upstream, target, [packed], *headers, asks=asks) == (packed, "completed")


@both
@pytest.mark.parametrize("kind", ["application/json", "text/plain", "application/octet-stream"])
async def test_what_is_no_stream_is_believed(proxied: Any, raw_upstream: Any, target: str, kind: str) -> None:
    """An answer that is whole has no last event."""
    body, status = await told(proxied, raw_upstream, target, [b'{"id":"r"}'], ("Content-Type", kind))
    assert (body, status) == (b'{"id":"r"}', "completed")


async def statuses_after_hanging_up(
    proxied: Any, raw_upstream: Any, target: str, said: bytes, *, at_once: bool = False
) -> dict[str, int]:
    """Hang up once upstream has *said* so much, and ends nothing; *at_once* is with a reset."""

    async def serve(peer: Any) -> None:
        await peer.message()
        await peer.send(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        await peer.send(b"%x\r\n%b\r\n" % (len(said), said))
        await peer.reader.read()

    run = await proxied(upstream=(await raw_upstream(serve)).base_url, websocket="off")
    agent = await run.dial()
    body = asking(target)
    await agent.begin("POST", target, KEY, ("Content-Length", str(len(body))))
    await agent.send(body)
    assert await anext(agent.pieces(await agent.head())) == said
    if at_once:
        linger = struct.pack("ii", 1, 0)
        agent.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    agent.close()
    await run.recorded(1)
    statuses: dict[str, int] = run.server.ledger.statuses
    return statuses


@both
async def test_an_agent_may_hang_up_once_it_has_the_last_event_over_http(
    proxied: Any, raw_upstream: Any, target: str
) -> None:
    """Some do before upstream has ended its answer: the turn is completed all the same."""
    statuses = await statuses_after_hanging_up(proxied, raw_upstream, target, ENDED[target], at_once=True)
    assert statuses == {"completed": 1}


@both
async def test_an_agent_that_hangs_up_before_has_aborted(proxied: Any, raw_upstream: Any, target: str) -> None:
    """The rest of the answer was for nobody."""
    assert await statuses_after_hanging_up(proxied, raw_upstream, target, BEGUN[target]) == {"aborted": 1}
