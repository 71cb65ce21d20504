"""Everything under /v1 that is not understood: through to upstream and back, to the byte."""

import asyncio
import gzip
import hashlib
import socket
import struct
from typing import Any

import pytest

KEY = ("Authorization", "Bearer key")
MEBIBYTE = 1024 * 1024

TARGETS = [
    "/v1",
    "/v1/",
    "/v1?after=x",
    "/v1/models",
    "/v1/models/",
    "/v1//models",
    "/v1/models//x",
    "/v1/a/../b",
    "/v1/../elsewhere",
    "/v1/./a",
    "/v1/%2e%2e/a",
    "/v1/a%2Fb",
    "/v1/a%2fb",
    "/v1/a+b",
    "/v1/a%20b",
    "/v1/a%0Ab",
    "/v1/a%0d%0a",
    "/v1/%zz",
    "/v1/100%",
    "/v1/%7Euser/~user",
    "/v1/%C3%A9t%C3%A9",
    "/v1/a;b=c,d:e@f!$&'()*",
    "/v1/models?a=b&a=c",
    "/v1/models?a=%2F&b=+&c=%zz&d",
    "/v1/models?q=a/../b//c?d",
    "/v1/models?url=http://evil.example/",
    "/v1/@evil.example/x",
    "/v1/http://evil.example/x",
    "/v1/responses/resp_1",
    "/v1/responses/resp_1?stream=true&starting_after=7",
    "/v1/responses/",
    "/v1/vector_stores/vs_1/files?limit=20&order=asc",
    "/v1/%72esponses",
]


@pytest.mark.parametrize("target", TARGETS)
async def test_keeps_the_target_to_the_byte(proxied: Any, target: str) -> None:
    """Upstream sees the very path and query that the agent sent."""
    run = await proxied()
    await run.ask("GET", target, KEY)
    assert [(request.method, request.path) for request in run.simulator.requests] == [("GET", target)]


@pytest.mark.parametrize("base", ["", "/", "/openai/v1", "/a/b/v3"])
async def test_puts_upstreams_base_before_the_rest(proxied: Any, raw_upstream: Any, base: str) -> None:
    """The agent's /v1 stands for upstream's base, wherever that is."""
    seen: list[str] = []

    async def serve(peer: Any) -> None:
        seen.append((await peer.message()).target)
        await peer.send(b"HTTP/1.1 204 No Content\r\n\r\n")

    upstream = await raw_upstream(serve)
    run = await proxied(upstream=upstream.base_url.removesuffix("/v1") + base.rstrip("/"))
    assert (await run.ask("GET", "/v1/models//x?y=%2F", KEY)).status == 204
    assert seen == [base.rstrip("/") + "/models//x?y=%2F"]


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "QUERY"])
@pytest.mark.parametrize("body", [b"", b'{"a": 1}'])
async def test_passes_every_method(proxied: Any, method: str, body: bytes) -> None:
    """Whatever the method, it arrives with its body and is answered."""
    run = await proxied()
    answer = await run.ask(method, "/v1/echo", KEY, body=body)
    echo = answer.json()
    assert (answer.status, echo["method"], echo["body_size"]) == (200, method, len(body))


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS"])
async def test_bodies_are_not_invented(proxied: Any, raw_upstream: Any, method: str) -> None:
    """A request without a body arrives without one, and without a Content-Type."""
    seen: list[Any] = []

    async def serve(peer: Any) -> None:
        seen.append(await peer.message())
        await peer.send(b"HTTP/1.1 204 No Content\r\n\r\n")

    run = await proxied(upstream=(await raw_upstream(serve)).base_url)
    await run.ask(method, "/v1/echo", KEY)
    (request,) = seen
    assert request.start == f"{method} /v1/echo HTTP/1.1"
    assert request.get("Content-Length") in {"", "0"}
    assert {name.lower() for name, _ in request.headers} <= {"host", "authorization", "content-length"}


async def test_head_has_the_length_of_what_it_stands_for(proxied: Any, raw_upstream: Any) -> None:
    """The answer to HEAD keeps its Content-Length, and has no body."""

    async def serve(peer: Any) -> None:
        await peer.message()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 12345\r\nETag: x\r\n\r\n")

    run = await proxied(upstream=(await raw_upstream(serve)).base_url)
    agent = await run.dial()
    answer = await agent.ask("HEAD", "/v1/files/1", KEY)
    assert (answer.status, answer.get("Content-Length"), answer.get("ETag")) == (200, "12345", "x")
    assert (await agent.ask("HEAD", "/v1/files/1", KEY)).status == 200


async def test_keeps_the_agents_headers(proxied: Any) -> None:
    """Names, values, order, case and duplicates of the headers arrive as they were sent."""
    run = await proxied()
    sent = [
        ("aUtHoRiZaTiOn", "Bearer key"),
        ("X-Twice", "one"),
        ("user-agent", "Agent/1.0 (x; y)"),
        ("X-Twice", "two"),
        ("Accept", "application/json, text/event-stream;q=0.5"),
        ("Accept-Encoding", "br;q=1.0, *;q=0"),
        ("X-Empty", ""),
        ("Cookie", "a=b; c=d"),
        ("X-Forwarded-For", "1.2.3.4"),
        ("X-Twice", "three, four"),
        ("X-Utf8", "caf\udcc3\udca9"),
        ("OpenAI-Beta", "responses=experimental"),
        ("Content-Type", "text/x-odd; charset=utf-8"),
        ("If-None-Match", 'W/"x"'),
        ("Range", "bytes=0-99"),
        ("Idempotency-Key", "k"),
    ]
    await run.ask("POST", "/v1/echo", *sent, body=b"hello")
    (request,) = run.simulator.requests
    got = [pair for pair in request.headers if pair[0] not in {"Host", "Content-Length"}]
    assert got == [(name, value.encode("utf-8", "surrogateescape").decode("latin-1")) for name, value in sent]
    assert request.header("Host") == f"127.0.0.1:{run.simulator.port}"


async def test_no_header_is_lost_for_its_case(proxied: Any) -> None:
    """Two headers whose names differ in case alone both arrive, in the spelling of the first."""
    run = await proxied()
    await run.ask("GET", "/v1/echo", KEY, ("X-Twice", "one"), ("X-Other", "x"), ("x-twice", "two"))
    (request,) = run.simulator.requests
    assert request.headers[-3:] == [("X-Twice", "one"), ("X-Other", "x"), ("X-Twice", "two")]


async def test_header_bytes_that_are_no_text_fail_nothing(proxied: Any) -> None:
    """A header that is not UTF-8 is replaced in part, and the request is answered."""
    run = await proxied()
    answer = await run.ask("GET", "/v1/echo", KEY, ("X-Latin", "caf\udce9"), ("X-Next", "1"))
    assert answer.status == 200
    assert answer.json()["headers"][-2:] == [
        ["X-Latin", "caf\N{REPLACEMENT CHARACTER}".encode().decode("latin-1")],
        ["X-Next", "1"],
    ]


async def test_leaves_out_what_is_of_the_hop(proxied: Any) -> None:
    """Hop-by-hop headers, and those that Connection names, end at the proxy."""
    run = await proxied()
    hop = [
        ("Connection", "keep-alive, X-Named"),
        ("connection", "x-also-named"),
        ("X-Named", "1"),
        ("X-Also-Named", "1"),
        ("Keep-Alive", "timeout=5"),
        ("Proxy-Authorization", "Basic abc"),
        ("Proxy-Connection", "keep-alive"),
        ("TE", "trailers"),
        ("Trailer", "X-Sum"),
    ]
    await run.ask("GET", "/v1/echo", KEY, *hop, ("X-Kept", "1"))
    (request,) = run.simulator.requests
    assert [name for name, _ in request.headers] == ["Host", "Authorization", "X-Kept"]


async def test_keeps_upstreams_headers(proxied: Any, raw_upstream: Any) -> None:
    """Status, reason and headers come back as upstream sent them, without those of its hop."""
    head = [
        ("x-Request-ID", "req_1"),
        ("Set-Cookie", "a=1; Path=/"),
        ("set-cookie", "b=2"),
        ("retry-after", "7"),
        ("x-should-retry", "false"),
        ("X-RateLimit-Remaining-Tokens", "0"),
        ("Server", "upstream"),
        ("Date", "Thu, 01 Jan 1970 00:00:00 GMT"),
        ("Content-Type", "application/json;odd"),
        ("Content-Length", "2"),
        ("X-Utf8", "caf\xc3\xa9"),
    ]

    async def serve(peer: Any) -> None:
        await peer.message()
        lines = "".join(f"{name}: {value}\r\n" for name, value in head)
        hop = "Connection: keep-alive, X-Named\r\nX-Named: 1\r\nKeep-Alive: timeout=5\r\n"
        await peer.send(f"HTTP/1.1 429 Too Eager\r\n{hop}{lines}\r\n{{}}".encode("latin-1"))

    run = await proxied(upstream=(await raw_upstream(serve)).base_url)
    answer = await run.ask("GET", "/v1/models", KEY)
    assert answer.start == "HTTP/1.1 429 Too Eager"
    assert answer.headers == head
    assert answer.body == b"{}"


async def test_control_characters_of_upstreams_fail_nothing(proxied: Any, raw_upstream: Any) -> None:
    """They are replaced, in a header as in the reason; all else arrives."""

    async def serve(peer: Any) -> None:
        await peer.message()
        await peer.send(b"HTTP/1.1 200 O\x02K\r\nX-Odd: a\tb\x01\x7f\r\nContent-Length: 2\r\n\r\n{}")

    run = await proxied(upstream=(await raw_upstream(serve)).base_url)
    answer = await run.ask("GET", "/v1/files/1/content", KEY)
    replaced = "\N{REPLACEMENT CHARACTER}".encode().decode("latin-1")
    assert answer.start == f"HTTP/1.1 200 O{replaced}K"
    assert answer.headers == [("X-Odd", f"a\tb{replaced}{replaced}"), ("Content-Length", "2")]
    assert answer.body == b"{}"


async def test_invents_no_headers(proxied: Any, raw_upstream: Any) -> None:
    """What upstream left out stays out: our server adds no type, no date and no name of its own."""

    async def serve(peer: Any) -> None:
        await peer.message()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")

    run = await proxied(upstream=(await raw_upstream(serve)).base_url)
    answer = await run.ask("GET", "/v1/models", KEY)
    assert answer.headers == [("Content-Length", "2")]


@pytest.mark.parametrize("size", [0, 1, 100, 70_000, 3 * MEBIBYTE])
@pytest.mark.parametrize("chunked", [False, True])
async def test_binary_bodies_come_through(proxied: Any, size: int, *, chunked: bool) -> None:
    """Every byte of a body survives both ways, however it was framed."""
    run = await proxied()
    body = (bytes(range(256)) * (size // 256 + 1))[:size]
    kind = ("Content-Type", "multipart/form-data; boundary=--x")
    agent = await run.dial()
    if chunked:
        await agent.begin("POST", "/v1/echo/raw", KEY, kind, ("Transfer-Encoding", "chunked"))
        parts = [body[at : at + 60_000] for at in range(0, len(body), 60_000)]
        await agent.send(b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n")
        answer = await agent.message()
    else:
        answer = await agent.ask("POST", "/v1/echo/raw", KEY, kind, body=body)
    assert answer.body == body
    assert answer.get("Content-Type") == kind[1]
    assert run.simulator.requests[0].body_sha256 == hashlib.sha256(body).hexdigest()


async def test_an_agents_trailers_do_not_confuse_what_follows(proxied: Any) -> None:
    """The fields after a chunked body are dropped, and the connection goes on."""
    run = await proxied()
    agent = await run.dial()
    await agent.begin("POST", "/v1/echo", KEY, ("Transfer-Encoding", "chunked"), ("Trailer", "X-Sum"))
    await agent.send(b"5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n")
    assert (await agent.message()).json()["body_size"] == 5
    assert (await agent.ask("GET", "/v1/echo", KEY)).json()["method"] == "GET"


async def test_what_stands_around_an_answer_is_left_out(proxied: Any, raw_upstream: Any) -> None:
    """Answers ahead of it and fields behind it: the answer is whole without them, and the connection goes on."""

    async def serve(peer: Any) -> None:
        for _ in range(2):
            await peer.message()
            await peer.send(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n")
            await peer.send(
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n"
            )

    run = await proxied(upstream=(await raw_upstream(serve)).base_url)
    agent = await run.dial()
    for _ in range(2):
        answer = await agent.ask("GET", "/v1/x", KEY)
        assert (answer.status, answer.body) == (200, b"hello")


async def test_encoded_answers_stay_encoded(proxied: Any) -> None:
    """What upstream compressed the agent unpacks: body and Content-Encoding are untouched."""
    run = await proxied()
    body = gzip.compress(b"x" * 100_000, mtime=0)
    answer = await run.ask("POST", "/v1/echo/raw", KEY, ("Content-Encoding", "gzip"), body=body)
    assert (answer.body, answer.get("Content-Encoding")) == (body, "gzip")


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirects_are_the_agents_affair(proxied: Any, raw_upstream: Any, status: int) -> None:
    """A redirect is relayed; neither the request nor its credentials go where it points."""
    elsewhere: list[Any] = []

    async def trap(peer: Any) -> None:
        elsewhere.append(await peer.message())

    async def serve(peer: Any) -> None:
        await peer.message()
        location = target.base_url.encode()
        await peer.send(b"HTTP/1.1 %d Go\r\nLocation: %b\r\nContent-Length: 0\r\n\r\n" % (status, location))

    target, upstream = await raw_upstream(trap), await raw_upstream(serve)
    run = await proxied(upstream=upstream.base_url)
    answer = await run.ask("POST", "/v1/files", KEY, body=b"{}")
    assert (answer.status, answer.get("Location")) == (status, target.base_url)
    assert elsewhere == []


@pytest.mark.parametrize("status", [204, 304])
async def test_answers_that_cannot_have_a_body(proxied: Any, raw_upstream: Any, status: int) -> None:
    """204 and 304 end with their head, and the connection goes on."""

    async def serve(peer: Any) -> None:
        while True:
            await peer.message()
            await peer.send(b"HTTP/1.1 %d X\r\nETag: x\r\n\r\n" % status)

    run = await proxied(upstream=(await raw_upstream(serve)).base_url)
    agent = await run.dial()
    for _ in range(2):
        assert (await agent.ask("GET", "/v1/models", KEY)).status == status


async def test_informational_answers_are_not_the_answer(proxied: Any, raw_upstream: Any) -> None:
    """Upstream's 103 is passed over; what follows it is the answer."""

    async def serve(peer: Any) -> None:
        await peer.message()
        await peer.send(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n")
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    run = await proxied(upstream=(await raw_upstream(serve)).base_url)
    assert (await run.ask("GET", "/v1/models", KEY)).body == b"ok"


async def test_an_answer_that_ends_with_its_connection(proxied: Any, raw_upstream: Any) -> None:
    """A body without length or chunks, as HTTP/1.0 has it, arrives whole and properly ended."""

    async def serve(peer: Any) -> None:
        await peer.message()
        await peer.send(b"HTTP/1.0 200 OK\r\n\r\nall of it")

    run = await proxied(upstream=(await raw_upstream(serve)).base_url)
    assert (await run.ask("GET", "/v1/models", KEY)).body == b"all of it"


@pytest.mark.parametrize("target", ["/v1/events", "/v1/chat/completions"])
async def test_streams_as_it_comes(proxied: Any, raw_upstream: Any, target: str) -> None:
    """Each piece of an answer reaches the agent before upstream sends the next."""
    seen = asyncio.Event()

    async def serve(peer: Any) -> None:
        await peer.message()
        await peer.send(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        for n in range(5):
            await peer.send(b"9\r\ndata: %d\n\n\r\n" % n)
            await seen.wait()
            seen.clear()
        await peer.send(b"0\r\n\r\n")

    run = await proxied(upstream=(await raw_upstream(serve)).base_url)
    agent = await run.dial()
    await agent.begin("POST", target, KEY, ("Content-Length", "0"))
    head = await agent.head()
    assert head.get("Content-Type") == "text/event-stream"
    pieces = []
    async for piece in agent.pieces(head):
        pieces.append(piece)
        seen.set()
    assert pieces == [b"data: %d\n\n" % n for n in range(5)]


async def test_the_simulators_event_stream_comes_through(proxied: Any) -> None:
    """Comments, ids and [DONE] of somebody else's event stream are not touched."""
    run = await proxied()
    direct = b"".join(b': a comment\nid: %d\nevent: tick\ndata: {"n": %d}\n\n' % (n, n) for n in range(4))
    assert (await run.ask("GET", "/v1/events?count=4", KEY)).body == direct + b"data: [DONE]\n\n"


async def pour(peer: Any, piece: bytes, most: int) -> int:
    """Send *piece* over and over until nothing more is taken for a while, or *most* bytes are; say how many."""
    sent = 0
    while sent < most:
        peer.writer.write(piece)
        sent += len(piece)
        try:
            async with asyncio.timeout(0.5):
                await peer.writer.drain()
        except TimeoutError:
            return sent
    return sent


def narrow(peer: Any) -> None:
    """Make the kernel hold little for *peer*."""
    for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
        peer.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, option, 65536)
    peer.writer.transport.set_write_buffer_limits(high=65536)


async def test_a_slow_agent_makes_upstream_wait(proxied: Any, raw_upstream: Any) -> None:
    """What an agent does not read stays upstream: of an endless answer we hold little."""
    poured: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def serve(peer: Any) -> None:
        narrow(peer)
        await peer.message()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (512 * MEBIBYTE))
        poured.set_result(await pour(peer, bytes(65536), 512 * MEBIBYTE))

    run = await proxied(upstream=(await raw_upstream(serve)).base_url)
    agent = await run.dial(limit=1024)
    await agent.begin("GET", "/v1/files/1/content", KEY)
    assert await poured < 32 * MEBIBYTE


@pytest.mark.parametrize("target", ["/v1/files", "/v1/responses"])
async def test_a_slow_upstream_makes_the_agent_wait(proxied: Any, raw_upstream: Any, target: str) -> None:
    """What upstream does not take stays with the agent: of an endless upload we hold little."""
    begun, never = asyncio.Event(), asyncio.Event()

    async def serve(peer: Any) -> None:
        await peer.head()
        begun.set()
        await never.wait()

    upstream = await raw_upstream(serve, buffer=1024)
    run = await proxied(upstream=upstream.base_url, max_body_bytes=MEBIBYTE)
    agent = await run.dial()
    narrow(agent)
    await agent.begin("POST", target, KEY, ("Content-Length", str(512 * MEBIBYTE)))
    await agent.send(bytes(1000))
    await begun.wait()
    assert await pour(agent, bytes(65536), 512 * MEBIBYTE) < 32 * MEBIBYTE


async def answered_by(proxied: Any, raw_upstream: Any, serve: Any, target: str) -> tuple[Any, Any]:
    """Return an agent whose request upstream answers as *serve* does, and the answer's head."""
    run = await proxied(upstream=(await raw_upstream(serve)).base_url, websocket="off")
    agent = await run.dial()
    await agent.begin("POST", target, KEY, ("Content-Length", "2"))
    await agent.send(b"{}")
    return agent, await agent.head()


@pytest.mark.parametrize("target", ["/v1/models", "/v1/chat/completions", "/v1/responses"])
@pytest.mark.parametrize(
    "beginning",
    [
        b"Content-Length: 100\r\n\r\nhalf of",
        b"Transfer-Encoding: chunked\r\n\r\n7\r\nhalf of\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n7\r\nhalf of\r\n64\r\nand half of a chunk",
    ],
    ids=["length", "between chunks", "in a chunk"],
)
async def test_a_broken_answer_breaks_the_agents(
    proxied: Any, raw_upstream: Any, target: str, beginning: bytes
) -> None:
    """Where upstream breaks off, so do we: half an answer never passes for the whole."""
    seen = asyncio.Event()

    async def serve(peer: Any) -> None:
        await peer.message()
        await peer.send(b"HTTP/1.1 200 OK\r\n" + beginning)
        await seen.wait()
        peer.close()

    agent, head = await answered_by(proxied, raw_upstream, serve, target)
    seen.set()
    with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
        async for _ in agent.pieces(head):
            pass


@pytest.mark.parametrize("target", ["/v1/models", "/v1/chat/completions", "/v1/responses"])
@pytest.mark.parametrize("apart", [False, True], ids=["at once", "later"])
async def test_an_answer_that_stops_making_sense_is_broken_off(
    proxied: Any, raw_upstream: Any, target: str, *, apart: bool
) -> None:
    """Nothing can be read behind it, so nobody waits until upstream has been silent for long enough."""
    seen = asyncio.Event()

    async def serve(peer: Any) -> None:
        await peer.message()
        beginning = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n7\r\nhalf of\r\n"
        if apart:
            await peer.send(beginning)
            await seen.wait()
        await peer.send((b"" if apart else beginning) + b"no chunk\r\n\r\n")
        await peer.reader.read()

    agent, head = await answered_by(proxied, raw_upstream, serve, target)
    seen.set()
    if head.status == 200:  # the agent was shown the beginning
        with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
            async for _ in agent.pieces(head):
                pass
    else:
        assert (head.status, apart) == (502, False)


@pytest.mark.parametrize("target", ["/v1/models", "/v1/chat/completions", "/v1/responses"])
async def test_what_came_just_before_a_reset_is_passed_on(proxied: Any, raw_upstream: Any, target: str) -> None:
    """The agent has it from upstream too, without us."""
    seen = asyncio.Event()

    async def serve(peer: Any) -> None:
        await peer.message()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\nhalf of")
        await seen.wait()
        await peer.send(b" what was said")
        peer.writer.get_extra_info("socket").setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
        )
        peer.writer.transport.abort()

    run = await proxied(upstream=(await raw_upstream(serve)).base_url, websocket="off")
    agent = await run.dial()
    await agent.begin("POST", target, KEY, ("Content-Length", "2"))
    await agent.send(b"{}")
    pieces = agent.pieces(await agent.head())
    told = [await anext(pieces)]

    async def gather() -> None:
        async for piece in pieces:
            told.append(piece)  # noqa: PERF401  (what comes before the reset counts)

    seen.set()
    with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
        await gather()
    assert b"".join(told) == b"half of what was said"


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
@pytest.mark.parametrize("target", ["/v1/models", "/v1/chat/completions", "/v1/responses"])
async def test_a_reset_is_no_end_of_an_answer_without_a_length(
    proxied: Any, raw_upstream: Any, target: str, version: bytes
) -> None:
    """Such an answer ends with its connection, and only where that is closed; all that arrived is passed on."""
    seen, how = asyncio.Event(), struct.pack("ii", 1, 0)

    async def serve(peer: Any) -> None:
        await peer.message()
        await peer.send(b"HTTP/%b 200 OK\r\nContent-Type: application/json\r\n\r\nhalf of" % version)
        await seen.wait()
        peer.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, how)
        peer.close()

    run = await proxied(upstream=(await raw_upstream(serve)).base_url, websocket="off")
    for how in (struct.pack("ii", 1, 0), struct.pack("ii", 0, 0)):
        seen.clear()
        agent = await run.dial()
        await agent.begin("POST", target, KEY, ("Content-Length", "2"))
        await agent.send(b"{}")
        head = await agent.head()
        pieces = agent.pieces(head)
        assert await anext(pieces) == b"half of"
        seen.set()
        if how == struct.pack("ii", 0, 0):
            assert [piece async for piece in pieces] == []
        else:
            with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
                await anext(pieces)


@pytest.mark.parametrize("target", ["/v1/files", "/v1/responses"])
@pytest.mark.parametrize(
    ("framing", "body", "kept"),
    [
        (b"Content-Length: 2\r\ncontent-length:2", b"ok", ["2"]),
        (b"Content-Length: 2\r\nTransfer-Encoding: chunked", b"2\r\nok\r\n0\r\n\r\n", []),
        (b"Transfer-encoding: Chunked\r\nX-A: 1\r\nContent-Length: 77", b"2\r\nok\r\n0\r\n\r\n", []),
    ],
)
async def test_a_length_that_is_told_twice_is_told_once(
    proxied: Any, raw_upstream: Any, framing: bytes, body: bytes, kept: list[str], target: str
) -> None:
    """The same twice is once, and chunks tell theirs themselves, as most clients have it; both answers arrive."""

    async def serve(peer: Any) -> None:
        for _ in range(2):
            await peer.message()
            await peer.send(b"HTTP/1.1 200 OK\r\nX-B: 2\r\n" + framing + b"\r\nX-C: 3\r\n\r\n" + body)

    run = await proxied(upstream=(await raw_upstream(serve)).base_url, websocket="off")
    for _ in range(2):
        answer = await run.ask("POST", target, KEY, body=b"{}")
        assert (answer.status, answer.body) == (200, b"ok")
        assert answer.all("Content-Length") == kept
        assert answer.all("X-B") + answer.all("X-C") == ["2", "3"]


async def test_two_lengths_are_none(proxied: Any, raw_upstream: Any) -> None:
    """Nobody can tell where such an answer ends."""

    async def serve(peer: Any) -> None:
        await peer.message()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok")

    run = await proxied(upstream=(await raw_upstream(serve)).base_url)
    assert (await run.ask("GET", "/v1/models", KEY)).status == 502


@pytest.mark.parametrize("answer", [b"", b"garbage\r\n\r\n", b"HTTP/1.1 200"])
async def test_an_upstream_that_makes_no_sense_is_a_502(proxied: Any, raw_upstream: Any, answer: bytes) -> None:
    """No answer, or none that is HTTP, is a 502 in the API's words."""

    async def serve(peer: Any) -> None:
        await peer.message()
        await peer.send(answer)

    run = await proxied(upstream=(await raw_upstream(serve)).base_url)
    refused = await run.ask("GET", "/v1/models", KEY)
    assert refused.status == 502
    assert refused.json()["error"]["code"] == "upstream_unavailable"
    assert ("not valid HTTP" in refused.json()["error"]["message"]) == answer.startswith(b"garbage")


async def test_an_answer_in_another_transfer_coding_is_a_502(proxied: Any, raw_upstream: Any) -> None:
    """The agent would be given compressed bytes that nothing calls so."""

    async def serve(peer: Any) -> None:
        await peer.message()
        await peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n")

    run = await proxied(upstream=(await raw_upstream(serve)).base_url)
    assert (await run.ask("GET", "/v1/models", KEY)).status == 502


@pytest.mark.parametrize("target", ["/v1/models", "/v1/chat/completions", "/v1/responses"])
async def test_an_upstream_that_is_not_there_is_a_502(proxied: Any, target: str) -> None:
    """Where nobody listens, the agent gets a 502 it can retry, on a connection it can keep."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        run = await proxied(upstream=f"http://127.0.0.1:{closed.getsockname()[1]}/v1")
        agent = await run.dial()
        for _ in range(2):
            answer = await agent.ask("POST", target, KEY, body=b'{"model":"m","input":"x"}')
            assert answer.status == 502
            assert answer.json()["error"]["type"] == "server_error"


async def test_upstream_may_answer_before_the_upload_ends(proxied: Any, raw_upstream: Any) -> None:
    """A refusal that comes in the middle of an upload reaches the agent at once."""

    async def serve(peer: Any) -> None:
        await peer.head()
        await peer.send(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\n{}")
        await peer.reader.read()

    run = await proxied(upstream=(await raw_upstream(serve)).base_url)
    agent = await run.dial()
    await agent.begin("POST", "/v1/files", KEY, ("Content-Length", "1000000"))
    await agent.send(bytes(1000))
    assert (await agent.message()).status == 413


@pytest.mark.parametrize("target", ["/v1/files", "/v1/responses"])
async def test_a_refusal_arrives_though_upstream_closes_behind_it(
    proxied: Any, raw_upstream: Any, target: str
) -> None:
    """Servers that have heard enough of an upload refuse it and close; the agent gets their answer, and no 502."""

    async def serve(peer: Any) -> None:
        await peer.head()
        await peer.send(b"HTTP/1.1 413 Too Large\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}")

    run = await proxied(upstream=(await raw_upstream(serve)).base_url, max_body_bytes=MEBIBYTE)
    answer = await run.ask("POST", target, KEY, body=bytes(4 * MEBIBYTE))
    assert (answer.status, answer.body) == (413, b"{}")


async def test_an_agent_that_leaves_ends_its_request_upstream(proxied: Any, raw_upstream: Any) -> None:
    """Upstream sees the connection close when the agent hangs up, and does not work for nobody."""
    begun, left = asyncio.Event(), asyncio.Event()

    async def serve(peer: Any) -> None:
        await peer.message()
        begun.set()
        assert await peer.reader.read() == b""
        left.set()

    run = await proxied(upstream=(await raw_upstream(serve)).base_url)
    agent = await run.dial()
    await agent.begin("POST", "/v1/chat/completions", KEY, ("Content-Length", "0"))
    await begun.wait()
    agent.close()
    await left.wait()
    await run.recorded(1)
    assert [record.status for record in run.server.ledger.turns(9)] == ["aborted"]


async def test_an_agent_that_leaves_mid_upload_sends_no_whole(proxied: Any, raw_upstream: Any) -> None:
    """Half an upload never arrives as if it were complete."""
    seen: list[Any] = []
    begun, left = asyncio.Event(), asyncio.Event()

    async def serve(peer: Any) -> None:
        head = await peer.head()
        begun.set()
        try:
            seen.extend([part async for part in peer.pieces(head)])
            seen.append("the whole")
        finally:
            left.set()

    run = await proxied(upstream=(await raw_upstream(serve)).base_url)
    agent = await run.dial()
    await agent.begin("POST", "/v1/files", KEY, ("Transfer-Encoding", "chunked"))
    await agent.send(b"5\r\nhello\r\n")
    await begun.wait()
    agent.close()
    await left.wait()
    assert "the whole" not in seen


async def test_requests_follow_one_another_on_one_connection(proxied: Any) -> None:
    """Pipelined requests are answered in their order."""
    run = await proxied()
    agent = await run.dial()
    for n in range(5):
        await agent.begin("GET", f"/v1/echo?n={n}", KEY)
    assert [(await agent.message()).json()["path"] for _ in range(5)] == [f"/v1/echo?n={n}" for n in range(5)]


@pytest.mark.parametrize(
    "framing",
    [
        "Content-Length: 5\r\nTransfer-Encoding: chunked",
        "Content-Length: 5\r\nContent-Length: 6",
        "Content-Length: +5",
        "Content-Length: -1",
        "Content-Length: 0x5",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding: chunked, identity",
        "Transfer-Encoding : chunked",
        "X: a\r\n folded\r\nContent-Length : 5",
        "Content-Length: 5\nX: bare",
    ],
)
async def test_ambiguous_framing_goes_nowhere(proxied: Any, framing: str) -> None:
    """A request whose length can be read in two ways is refused, and upstream sees nothing of it."""
    run = await proxied()
    agent = await run.dial()
    head = f"POST /v1/echo HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer key\r\n{framing}\r\n\r\n"
    await agent.send(head.encode() + b"0\r\n\r\nGET /v1/smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert (await agent.message()).status == 400
    assert run.simulator.requests == []


@pytest.mark.parametrize(
    ("target", "upgrade", "status"),
    [
        ("/v1/responses", "websocket", 426),
        ("/v1/responses?model=m", "websocket", 426),
        ("/v1/realtime?model=m", "websocket", 501),
    ],
)
async def test_agents_websockets_are_refused(proxied: Any, target: str, upgrade: str, status: int) -> None:
    """Codex goes on over HTTP after a 426; other WebSockets are not carried."""
    run = await proxied()
    headers = (("Connection", "keep-alive, Upgrade"), ("Upgrade", upgrade), ("Sec-WebSocket-Version", "13"))
    answer = await run.ask("GET", target, KEY, *headers, ("Sec-WebSocket-Key", "x" * 22 + "=="))
    assert answer.status == status
    assert answer.json()["error"]["message"].startswith("packlight: ")
    assert run.simulator.requests == []


async def test_a_long_header_is_no_obstacle(proxied: Any) -> None:
    """Agents put routing tokens of tens of kilobytes into headers."""
    run = await proxied()
    answer = await run.ask("GET", "/v1/echo", KEY, ("X-Codex-Turn-State", "x" * 60_000))
    assert answer.status == 200
    assert ["X-Codex-Turn-State", "x" * 60_000] in answer.json()["headers"]


async def test_many_headers_are_no_obstacle(proxied: Any, raw_upstream: Any) -> None:
    """Neither those of a request nor those of its answer: all arrive, in their order."""
    headers = [(f"X-{n}", str(n)) for n in range(500)]
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers).encode()
    seen = []

    async def serve(peer: Any) -> None:
        seen.extend((await peer.message()).headers)
        await peer.send(b"HTTP/1.1 200 OK\r\n" + lines + b"Content-Length: 2\r\n\r\nok")

    run = await proxied(upstream=(await raw_upstream(serve)).base_url)
    answer = await run.ask("GET", "/v1/models", KEY, *headers)
    assert (answer.status, answer.body) == (200, b"ok")
    assert [pair for pair in answer.headers if pair[0].startswith("X-")] == headers
    assert [pair for pair in seen if pair[0].startswith("X-")] == headers


async def test_another_upgrade_is_not_made(proxied: Any) -> None:
    """An agent that offers HTTP/2 gets its answer without."""
    run = await proxied()
    headers = (("Connection", "Upgrade, HTTP2-Settings"), ("Upgrade", "h2c"), ("HTTP2-Settings", "AAMAAABk"))
    answer = await run.ask("GET", "/v1/models", KEY, *headers)
    assert answer.status == 200


@pytest.mark.parametrize(
    ("headers", "upload"),
    [
        ([(f"X-{number}", "x" * 1000) for number in range(60)], "full"),
        ([(f"X-{number}", "x" * 1000) for number in range(70)], "http"),
        ([("X-Name", "caf\udcc3\udca9")], "http"),
    ],
    ids=["many", "too many", "not ASCII"],
)
async def test_headers_that_no_handshake_carries_go_over_http(
    proxied: Any, headers: list[tuple[str, str]], upload: str
) -> None:
    """The turn is answered all the same, and nothing is remembered of whoever sent them."""
    run = await proxied()
    assert (await run.post({"model": "m", "input": "x"}, *headers)).status == 200
    await run.recorded(1)
    record = next(run.server.ledger.turns(1))
    assert (record.upload, record.reason) == (upload, "first_turn" if upload == "full" else "unsupported_field")
