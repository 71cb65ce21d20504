"""Agents' request bodies: every encoding understood or forwarded as it came, within limits."""

import asyncio
import gzip
import hashlib
import os
import random
import re
import resource
import subprocess
import sys
import threading
import zlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import brotli
import orjson
import pytest
import structlog
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from proxy.config import Config
from proxy.frontends.responses import Responses
from proxy.server import Server
from proxy.server.body import TooLarge, Undecodable, decode

KEY = ("Authorization", "Bearer key")
MEBIBYTE = 1024 * 1024
BODY = orjson.dumps({"model": "m", "store": False, "input": "what is packed light? " * 50})


def bare_deflate(data: bytes) -> bytes:
    """Compress without zlib's frame, as some clients do."""
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


def zstd_without_size(data: bytes) -> bytes:
    """Compress as a stream does that does not know its length beforehand."""
    packer = zstandard.ZstdCompressor().compressobj()
    return packer.compress(data) + packer.flush()


def in_two(pack: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
    """Compress the two halves by themselves: members and frames may follow one another."""
    return lambda data: pack(data[: len(data) // 2]) + pack(data[len(data) // 2 :])


PACKED = {
    "identity": ("identity", bytes),
    "gzip": ("gzip", gzip.compress),
    "gzip in two members": ("gzip", in_two(gzip.compress)),
    "x-gzip": ("x-gzip", gzip.compress),
    "in capitals": ("GZip", gzip.compress),
    "deflate": ("deflate", zlib.compress),
    "deflate without frame": ("deflate", bare_deflate),
    "br": ("br", brotli.compress),
    "zstd": ("zstd", zstandard.compress),
    "zstd of unknown size": ("zstd", zstd_without_size),
    "zstd in two frames": ("zstd", in_two(zstandard.compress)),
    "gzip, then zstd": ("gzip, zstd", lambda data: zstandard.compress(gzip.compress(data))),
    "br, then identity, then deflate": ("br,identity,deflate", lambda data: zlib.compress(brotli.compress(data))),
    "gzip thrice": ("gzip, gzip, gzip", lambda data: gzip.compress(gzip.compress(gzip.compress(data)))),
    "a spare comma": (" gzip , ", gzip.compress),
}

SPOILED = {
    "unknown": ("snappy", BODY),
    "unknown after known": ("gzip, snappy", gzip.compress(BODY)),
    "not gzip": ("gzip", BODY),
    "not deflate": ("deflate", BODY),
    "not br": ("br", BODY),
    "not zstd": ("zstd", BODY),
    "truncated gzip": ("gzip", gzip.compress(BODY)[:-12]),
    "gzip without its checksum": ("gzip", gzip.compress(BODY)[:-8]),
    "gzip with a wrong checksum": ("gzip", gzip.compress(BODY)[:-8] + bytes(8)),
    "gzip with a tail": ("gzip", gzip.compress(BODY) + b"tail"),
    "truncated deflate": ("deflate", zlib.compress(BODY)[:-6]),
    "truncated bare deflate": ("deflate", bare_deflate(BODY)[:-3]),
    "truncated br": ("br", brotli.compress(BODY)[:-3]),
    "br with a tail": ("br", brotli.compress(BODY) + b"tail"),
    "truncated zstd": ("zstd", zstandard.compress(BODY)[:-3]),
    "zstd of unknown size, truncated": ("zstd", zstd_without_size(BODY)[:-3]),
    "zstd with a tail": ("zstd", zstandard.compress(BODY) + b"tail"),
    "the other order": ("zstd, gzip", zstandard.compress(gzip.compress(BODY))),
    "many members, and one cut off": ("gzip", gzip.compress(b"") * 20_000 + gzip.compress(b"")[:-1]),
    "nothing in gzip": ("gzip", b""),
    "nothing in br": ("br", b""),
}


@pytest.mark.parametrize(("encoding", "pack"), PACKED.values(), ids=PACKED.keys())
def test_decodes(encoding: str, pack: Callable[[bytes], bytes]) -> None:
    """Every encoding in use comes back to the byte, also when it fills the limit exactly."""
    assert decode(pack(BODY), encoding, limit=len(BODY)) == BODY


@pytest.mark.parametrize(("encoding", "pack"), list(PACKED.values())[1:], ids=list(PACKED)[1:])
def test_decodes_nothing_beyond_the_limit(encoding: str, pack: Callable[[bytes], bytes]) -> None:
    """One byte more than the limit is too much."""
    with pytest.raises(TooLarge):
        decode(pack(BODY), encoding, limit=len(BODY) - 1)


@pytest.mark.parametrize(("encoding", "body"), SPOILED.values(), ids=SPOILED.keys())
def test_refuses_what_is_not_whole(encoding: str, body: bytes) -> None:
    """What is corrupt, cut off or of an unknown encoding is never half understood."""
    with pytest.raises(Undecodable):
        decode(body, encoding, limit=MEBIBYTE)


@given(body=st.binary(max_size=200), encoding=st.sampled_from(["gzip", "deflate", "br", "zstd", "gzip, br"]))
def test_any_bytes_at_all(body: bytes, encoding: str) -> None:
    """Whatever the bytes are, the answer is a body within the limit, or Undecodable."""
    try:
        assert len(decode(body, encoding, limit=1000)) <= 1000
    except Undecodable:
        return


@given(
    body=st.binary(max_size=2000),
    part=st.integers(0, 9_999),
    packed=st.sampled_from([name for name in PACKED if name != "identity"]),
)
def test_no_beginning_passes_for_the_whole(body: bytes, part: int, packed: str) -> None:
    """Of what is cut off anywhere, nothing but the whole of it is ever returned."""
    encoding, pack = PACKED[packed]
    whole = pack(body)
    try:
        decoded = decode(whole[: part * len(whole) // 10_000], encoding, limit=4000)
    except Undecodable:
        return
    assert decoded in {b"", body} or "two" in packed


@pytest.mark.parametrize(("encoding", "pack"), PACKED.values(), ids=PACKED.keys())
async def test_an_encoded_turn_is_understood(proxied: Any, encoding: str, pack: Callable[[bytes], bytes]) -> None:
    """An agent that compresses its requests is answered over a WebSocket like any other."""
    run = await proxied()
    assert (await run.post(pack(BODY), ("Content-Encoding", encoding))).status == 200
    (turn,) = run.simulator.turns
    assert turn.transport == "ws"
    assert turn.context[0]["content"] == orjson.loads(BODY)["input"]


async def test_encodings_in_two_headers_are_one_list(proxied: Any) -> None:
    """A list of encodings may be spread over headers."""
    run = await proxied()
    body = zstandard.compress(gzip.compress(BODY))
    assert (await run.post(body, ("Content-Encoding", "gzip"), ("Content-Encoding", "zstd"))).status == 200
    assert [turn.transport for turn in run.simulator.turns] == ["ws"]


@pytest.mark.parametrize(("encoding", "body"), SPOILED.values(), ids=SPOILED.keys())
async def test_what_is_not_understood_is_forwarded_as_it_came(proxied: Any, encoding: str, body: bytes) -> None:
    """Upstream gets the same bytes with the same Content-Encoding, and its verdict is the agent's."""
    run = await proxied()
    answer = await run.post(body, ("Content-Encoding", encoding))
    (seen,) = run.simulator.requests
    assert seen.header("Content-Encoding") == encoding
    assert seen.body_sha256 == hashlib.sha256(body).hexdigest()
    assert seen.status == answer.status
    (record,) = run.server.ledger.turns(1)
    assert (record.upload, record.reason) == ("http", "not_diffable")
    assert record.bytes_from_agent == len(body)


def bomb(encoding: str) -> bytes:
    """Pack 1 GiB of JSON text without ever holding it."""
    pieces = [b'{"model":"m","input":"', *[b"x" * MEBIBYTE] * 1023, b"x" * (MEBIBYTE - 24) + b'"}']
    match encoding:
        case "gzip" | "deflate":
            packer = zlib.compressobj(1, wbits=zlib.MAX_WBITS | (16 if encoding == "gzip" else 0))
            return b"".join(map(packer.compress, pieces)) + packer.flush()
        case "br":
            press = brotli.Compressor(quality=1)
            return bytes(b"".join(map(press.process, pieces)) + press.finish())
        case _:
            options = zstandard.ZstdCompressionParameters(window_log=27 if "long" in encoding else 20)
            writer = zstandard.ZstdCompressor(compression_params=options).compressobj()
            return b"".join(map(writer.compress, pieces)) + writer.flush()


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd", "zstd with a long window"])
def test_a_bomb_takes_no_more_than_the_limit(encoding: str) -> None:
    """What unpacks to 1 GiB costs max_body_bytes + 64 MiB at most, and goes upstream packed."""
    done = subprocess.run(  # noqa: S603
        [sys.executable, __file__, encoding.split(maxsplit=1)[0]],
        input=bomb(encoding),
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        check=True,
        timeout=50,
    )
    outcome = orjson.loads(done.stdout)
    assert outcome["reason"] == "too_large"
    assert outcome["forwarded"] == outcome["packed"] < 5 * MEBIBYTE
    assert outcome["grown"] < outcome["limit"] + 64 * MEBIBYTE


async def test_64_mib_are_a_body_like_any_other(proxied: Any) -> None:
    """A history of the largest size is read and, being too large for a WebSocket, sent over HTTP."""
    run = await proxied()
    frame = len(orjson.dumps({"model": "m", "store": False, "input": ""}))
    body = orjson.dumps({"model": "m", "store": False, "input": "x" * (64 * MEBIBYTE - frame)})
    assert (await run.post(body)).status == 200
    (turn,) = run.simulator.turns
    assert (turn.transport, turn.raw_size) == ("http", 64 * MEBIBYTE)
    assert run.simulator.requests[-1].body_sha256 == hashlib.sha256(body).hexdigest()
    (record,) = run.server.ledger.turns(1)
    assert (record.reason, record.bytes_from_agent) == ("too_large", 64 * MEBIBYTE)


@pytest.mark.parametrize(("size", "encoding"), [(MEBIBYTE, None), (MEBIBYTE, "zstd")], ids=str)
async def test_nobody_waits_while_a_large_request_is_read(
    proxied: Any, monkeypatch: pytest.MonkeyPatch, size: int, encoding: str | None
) -> None:
    """It is read on a thread, one at a time, while others get their answers."""
    begun, go_on, reading, most = threading.Event(), threading.Event(), [0], [0]
    read = Responses.decode

    def slowly(front_end: Responses, body: bytes, known: Any) -> Any:
        if len(body) < size:
            assert threading.current_thread() is threading.main_thread()
            return read(front_end, body, known)
        reading[0] += 1
        most[0] = max(most[0], reading[0])
        begun.set()
        assert go_on.wait(60)
        reading[0] -= 1
        return read(front_end, body, known)

    monkeypatch.setattr(Responses, "decode", slowly)
    run = await proxied()
    ask = {"model": "m", "store": False, "input": "small"}
    body = orjson.dumps({**ask, "input": random.Random(1).randbytes(size // 2).hex()})
    headers = [] if encoding is None else [("Content-Encoding", encoding)]
    sent = body if encoding is None else zstandard.compress(body)
    async with asyncio.TaskGroup() as tasks:
        large = [tasks.create_task(run.post(sent, *headers)) for _ in range(2)]
        assert await asyncio.to_thread(begun.wait, 60)
        assert (await run.post(ask)).status == 200
        assert not any(each.done() for each in large)
        go_on.set()
    assert [each.result().status for each in large] == [200, 200]
    assert most == [1]
    assert [turn.reason for turn in run.server.ledger.turns(3)] == ["first_turn"] * 3


@pytest.fixture
def on_a_thread(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each request was read on a thread, in the order in which they came."""
    noted: list[bool] = []
    read = Responses.decode

    def decode(front_end: Responses, body: bytes, known: Any) -> Any:
        noted.append(threading.current_thread() is not threading.main_thread())
        return read(front_end, body, known)

    monkeypatch.setattr(Responses, "decode", decode)
    return noted


async def test_a_history_that_grew_is_read_where_it_arrives(proxied: Any, on_a_thread: list[bool]) -> None:
    """Nearly all of it is known. Where much is new it is read on a thread, as a new history is."""
    run = await proxied()
    history: list[dict[str, Any]] = []
    for size in (MEBIBYTE, 100, MEBIBYTE, 100):
        history.append({"role": "user", "content": "x" * size})
        assert (await run.post({"model": "m", "store": False, "stream": False, "input": history})).status == 200
    assert on_a_thread == [True, False, True, False]


@pytest.mark.parametrize(("size", "is_on_a_thread"), [(MEBIBYTE // 2, False), (2 * MEBIBYTE, True)])
async def test_a_small_body_that_unpacks_to_much_holds_nobody_up(
    proxied: Any, on_a_thread: list[bool], size: int, *, is_on_a_thread: bool
) -> None:
    """What counts is how much there is to read, not how little of it was sent."""
    run = await proxied()
    packed = zstandard.compress(orjson.dumps({"model": "m", "store": False, "input": "x" * size}))
    assert len(packed) < MEBIBYTE // 100
    assert (await run.post(packed, ("Content-Encoding", "zstd"))).status == 200
    assert on_a_thread == [is_on_a_thread]
    assert next(run.server.ledger.turns(1)).reason == "first_turn"


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_beyond_the_limit_streams_through(proxied: Any, raw_upstream: Any, *, chunked: bool) -> None:
    """Upstream has the beginning of a body that is too long to hold, before the agent sends the end."""
    begun, got = asyncio.Event(), hashlib.sha256()

    async def serve(peer: Any) -> None:
        head = await peer.head()
        async for piece in peer.pieces(head) if chunked else counted(peer, head):
            got.update(piece)
            begun.set()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")

    upstream = await raw_upstream(serve)
    run = await proxied(upstream=upstream.base_url, max_body_bytes=MEBIBYTE)
    agent = await run.dial()
    parts = [bytes([n]) * MEBIBYTE for n in range(4)]
    framing = ("Transfer-Encoding", "chunked") if chunked else ("Content-Length", str(4 * MEBIBYTE))
    await agent.begin("POST", "/v1/responses", KEY, framing)
    for part in parts[:3]:
        await agent.send(b"%x\r\n%b\r\n" % (len(part), part) if chunked else part)
    await begun.wait()
    await agent.send((b"%x\r\n%b\r\n0\r\n\r\n" % (MEBIBYTE, parts[3])) if chunked else parts[3])
    assert (await agent.message()).body == b"{}"
    assert got.digest() == hashlib.sha256(b"".join(parts)).digest()
    (record,) = run.server.ledger.turns(1)
    assert (record.upload, record.reason, record.bytes_from_agent) == ("http", "too_large", 4 * MEBIBYTE)


async def counted(peer: Any, head: Any) -> AsyncIterator[bytes]:
    """Yield a body of known length in the pieces in which it arrives."""
    left = int(head.get("Content-Length"))
    while left:
        piece = await peer.reader.read(min(left, 65536))
        left -= len(piece)
        yield piece


@pytest.mark.parametrize("target", ["/v1/responses", "/v1/chat/completions", "/v1/files"])
@pytest.mark.parametrize("framing", [("Content-Length", "100"), ("Transfer-Encoding", "chunked")])
async def test_a_stalled_body_is_given_up(proxied: Any, target: str, framing: tuple[str, str]) -> None:
    """An agent that stops in the middle of its body gets a 408 after body_timeout. What had come is counted."""
    run = await proxied(body_timeout=0.1)
    agent = await run.dial()
    await agent.begin("POST", target, KEY, framing)
    await agent.send(b"5\r\n{")
    answer = await agent.message()
    assert answer.status == 408
    assert answer.json()["error"]["code"] == "request_timeout"
    came = 1 if framing[1] == "chunked" else 4
    assert (await run.figures())["bytes"]["from_agents"] == came


async def test_a_slow_body_is_waited_for(proxied: Any) -> None:
    """Only standing still is too slow: each piece that arrives starts the wait anew."""
    run = await proxied(body_timeout=0.5)
    agent = await run.dial()
    await agent.begin("POST", "/v1/responses", KEY, ("Content-Length", str(len(BODY))))
    for at in range(0, len(BODY), 100):
        await agent.send(BODY[at : at + 100])
    assert (await agent.message()).status == 200


async def test_an_agent_that_leaves_mid_body_is_forgotten(proxied: Any) -> None:
    """Half a request starts no turn, and is recorded as aborted."""
    run = await proxied()
    agent = await run.dial()
    await agent.begin("POST", "/v1/responses", KEY, ("Content-Length", str(len(BODY))))
    await agent.send(BODY[:100])
    agent.close()
    await run.recorded(1)
    assert [record.status for record in run.server.ledger.turns(9)] == ["aborted"]
    assert run.simulator.turns == []


# What test_a_bomb_takes_no_more_than_the_limit runs in a process of its own.


async def drop(encoding: str, body: bytes) -> dict[str, Any]:
    """Send a bomb through a proxy; return what it cost."""
    forwarded = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal forwarded
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(re.search(rb"(?i)content-length: (\d+)", head)[1])  # type: ignore[index]
        while forwarded < length:
            forwarded += len(await reader.read(65536))
        writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 2\r\n\r\n{}")

    upstream = await asyncio.start_server(serve, "127.0.0.1", 0)
    base = "http://{}:{}/v1".format(*upstream.sockets[0].getsockname())
    config = Config(port=0, upstream=base, drain_seconds=0)
    async with Server(config) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(server.url.rpartition(":")[2]))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        head = f"POST /v1/responses HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
        writer.write(head.encode() + f"Content-Encoding: {encoding}\r\n\r\n".encode() + body)
        await reader.readuntil(b"{}")
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        (record,) = server.ledger.turns(1)
        writer.close()
    return {
        "packed": len(body),
        "forwarded": forwarded,
        "reason": record.reason,
        "grown": (after - before) * 1024,
        "limit": config.max_body_bytes,
    }


if __name__ == "__main__":
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    sys.stdout.buffer.write(orjson.dumps(asyncio.run(drop(sys.argv[1], sys.stdin.buffer.read()))))
