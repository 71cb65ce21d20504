"""Answers to the Responses API: upstream's frames as events, whole answers, and requests not ours to read."""

import asyncio
import hashlib
import socket
import struct
import sys
from asyncio import selector_events
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AsyncExitStack, suppress
from typing import Any

import orjson
import pytest
from proxied import KEY, Message, Peer
from structlog.testing import capture_logs
from websockets.asyncio.server import ServerConnection, serve

from proxy.frontends.responses import Responses, WholeAnswer
from proxy.simulator import Completed, Fault, FunctionCall, Incomplete, Reasoning, says, scripted

CREATED = b'{"type":"response.created","sequence_number":0,"response":{"id":"resp_1","output":[]}}'
COMPLETED = b'{"type":"response.completed","sequence_number":9,"response":{"id":"resp_1","output":[]}}'
ASK = {"model": "m", "input": "x", "stream": True}
STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
ERROR = b"HTTP/1.1 500 Oh\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
TCPI_DATA_SEGS_IN = 152
"""Where Linux's struct tcp_info (include/uapi/linux/tcp.h) counts the segments that brought data."""


def events(body: bytes) -> list[tuple[bytes, bytes]]:
    """Split an event stream, which has exactly one `event` and one `data` line a record."""
    assert body.endswith(b"\n\n")
    pairs = []
    for record in body.removesuffix(b"\n\n").split(b"\n\n"):
        event, data = record.split(b"\n")
        assert event.startswith(b"event: ")
        assert data.startswith(b"data: ")
        pairs.append((event.removeprefix(b"event: "), data.removeprefix(b"data: ")))
    return pairs


async def asking(run: Any, **fields: Any) -> Peer:
    """Return an agent that has sent ASK with more *fields*, and heard nothing yet."""
    agent: Peer = await run.dial()
    body = orjson.dumps({**ASK, **fields})
    await agent.begin("POST", "/v1/responses", KEY, ("Content-Length", str(len(body))))
    await agent.send(body)
    return agent


async def refused_upgrade(peer: Peer) -> bool:
    """Read a request, and return whether it was an upgrade, which an upstream without a WebSocket refuses."""
    is_upgrade = bool((await peer.message()).get("Upgrade"))
    if is_upgrade:
        await peer.send(b"HTTP/1.1 426 Upgrade Required\r\nContent-Length: 0\r\n\r\n")
    return is_upgrade


@pytest.fixture
def frames_of(stack: AsyncExitStack) -> Callable[..., Awaitable[str]]:
    """Start an upstream whose WebSocket answers each message with given frames; return its base URL."""

    async def start(frames: Iterable[bytes | str] | Callable[[], AsyncIterator[bytes]]) -> str:
        async def answer(socket: ServerConnection) -> None:
            async for _ in socket:
                if callable(frames):
                    async for frame in frames():
                        await socket.send(frame, text=True)
                    continue
                for given in frames:
                    await socket.send(given, text=isinstance(given, bytes))

        server = await stack.enter_async_context(serve(answer, "127.0.0.1", 0))
        return "http://{}:{}/v1".format(*next(iter(server.sockets)).getsockname())

    return start


# What upstream says, as the agent gets it.

ODD_FRAMES = [
    b'{"type":"response.created","response":{"id":"resp_1"}}',
    b'{ "type" : "response.in_progress",   "response" : { "id" : "resp_1" } }',
    b'{"response":{"id":"resp_1"},"type":"response.novelty.reported"}',
    b'{"type":"response.output_text.delta","delta":"caf\\u00e9 \\ud83d\\ude00 \xc3\xa9 \\/ \\n\\n data: [DONE]"}',
    b'{"type":"response.output_text.delta","delta":"a","delta":"b","n":1.0,"m":1e400,"k":123456789012345678901234567890}',
    b'{"type":"response.output_text.delta","delta":"\\ud800"}',
    b'{"type":"keepalive"}',
    b'{"type":"vendor:trace","plan_type":"plus"}',
    b'{"type":"response.output_text.delta","delta":"' + b"x" * 2_000_000 + b'"}',
    COMPLETED,
]


async def test_data_is_the_very_frame(proxied: Any, frames_of: Any) -> None:
    """Each event's data is the frame that upstream sent, to the byte, under the event's own name."""
    run = await proxied(upstream=await frames_of(ODD_FRAMES))
    answer = await run.post(ASK)
    assert answer.get("Content-Type") == "text/event-stream; charset=utf-8"
    got = events(answer.body)
    assert [data for _, data in got] == ODD_FRAMES
    assert [name.decode() for name, _ in got] == [orjson_type(frame) for frame in ODD_FRAMES]


def orjson_type(frame: bytes) -> str:
    """Return the type of a frame that no strict parser may take."""
    return frame.split(b'"type"')[1].split(b'"')[1].decode()


@pytest.mark.parametrize("line_break", [b"\n", b"\r\n", b"\r"])
async def test_an_event_stands_on_one_line(proxied: Any, frames_of: Any, line_break: bytes) -> None:
    """JSON that upstream wrote over several lines is still one `data` line, with the same content."""
    pretty = [
        orjson.dumps(orjson.loads(frame), option=orjson.OPT_INDENT_2).replace(b"\n", line_break)
        for frame in (CREATED, COMPLETED)
    ]
    run = await proxied(upstream=await frames_of(pretty))
    got = events((await run.post(ASK)).body)
    assert [orjson.loads(data) for _, data in got] == [orjson.loads(frame) for frame in pretty]
    assert [name for name, _ in got] == [b"response.created", b"response.completed"]


async def test_the_simulators_pretty_events(proxied: Any) -> None:
    """The same of the simulated upstream, in the middle of a turn."""
    run = await proxied()
    run.simulator.inject(Fault("after_created", "pretty"))
    got = events((await run.post(ASK)).body)
    assert got[-1][0] == b"response.completed"
    assert all(orjson.loads(data)["type"] == name.decode() for name, data in got)


async def test_nothing_is_held_back(proxied: Any, frames_of: Any) -> None:
    """Each event is in the agent's hands before upstream sends the next."""
    seen = asyncio.Semaphore(0)
    deltas = [b'{"type":"response.output_text.delta","delta":"%d"}' % n for n in range(5)]

    async def frames() -> AsyncIterator[bytes]:
        for frame in (CREATED, *deltas, COMPLETED):
            yield frame
            await seen.acquire()

    run = await proxied(upstream=await frames_of(frames))
    agent = await asking(run)
    head = await agent.head()
    pieces = []
    async for piece in agent.pieces(head):
        pieces.append(piece)
        seen.release()
    assert [data for piece in pieces for _, data in events(piece)] == [CREATED, *deltas, COMPLETED]


@pytest.mark.parametrize("version", ["1.0", "1.1"])
async def test_events_that_come_alone_are_framed_as_any(proxied: Any, frames_of: Any, version: str) -> None:
    """They leave past the library, between others that do not: chunks, or none, are right, and all is counted."""
    seen = asyncio.Semaphore(0)
    pieces = [b'{"type":"response.output_text.delta","delta":"%s"}' % (b"x" * size) for size in (0, 1, 500, 5000)]
    between = b'{"type":"response.content_part.done","part":{}}'
    frames = [CREATED, *pieces, between, *pieces, COMPLETED]

    async def one_by_one() -> AsyncIterator[bytes]:
        for frame in frames:
            yield frame
            async with asyncio.timeout(5):
                await seen.acquire()

    run = await proxied(upstream=await frames_of(one_by_one))
    agent, body = await run.dial(), orjson.dumps(ASK)
    await agent.send(b"POST /v1/responses HTTP/%s\r\nHost: localhost\r\n" % version.encode())
    await agent.send(b"Authorization: Bearer key\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    head, got = await agent.head(), b""
    assert head.all("Transfer-Encoding") == (["chunked"] if version == "1.1" else [])
    for frame in frames:
        record = b"event: " + orjson.loads(frame)["type"].encode() + b"\ndata: " + frame + b"\n\n"
        chunk = b"%x\r\n%b\r\n" % (len(record), record) if version == "1.1" else record
        assert await agent.reader.readexactly(len(chunk)) == chunk
        got += record
        seen.release()
    await run.recorded(1)
    assert run.server.ledger.agents.sent == len(got)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux counts the segments of a connection")
async def test_the_first_event_comes_in_one_piece_with_the_headers(proxied: Any, frames_of: Any) -> None:
    """One packet, not two: the agent's socket was sent one segment of data by then."""
    more = asyncio.Event()

    async def frames() -> AsyncIterator[bytes]:
        yield CREATED
        await more.wait()
        yield COMPLETED

    run = await proxied(upstream=await frames_of(frames))
    agent = await asking(run)
    head = await agent.head()
    first = await anext(agent.pieces(head))
    info = agent.writer.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 160)
    more.set()
    assert first == b"event: response.created\ndata: " + CREATED + b"\n\n"
    assert struct.unpack_from("I", info, TCPI_DATA_SEGS_IN) == (1,)


async def test_nobody_on_the_way_is_to_hold_events_back(proxied: Any) -> None:
    """An agent may reach packlight through nginx or a tunnel, which gather an answer unless told not to."""
    run = await proxied()
    streamed, whole = [await run.post({**ASK, "stream": stream}) for stream in (True, False)]
    assert (streamed.all("X-Accel-Buffering"), streamed.all("Cache-Control")) == (["no"], ["no-cache"])
    assert (whole.all("X-Accel-Buffering"), whole.all("Cache-Control")) == ([], [])


HANDSHAKE = {
    "X-Models-Etag": '"7"',
    "x-reasoning-included": "true",
    "openai-organization": "simulated",
    "openai-version": "2020-10-01",
    "x-codex-turn-state": "here",
}


@pytest.mark.parametrize("path", ["responses", "chat/completions"])
@pytest.mark.parametrize("stream", [True, False])
async def test_the_headers_tell_of_the_account_what_they_do_without_packlight(
    proxied: Any, path: str, *, stream: bool
) -> None:
    """Codex reads there how much of a plan is used, and that reasoning is counted; a WebSocket has no headers."""
    run = await proxied(
        simulated={"extra_events": ("rate_limits_before_created",), "handshake_headers": HANDSHAKE}
    )
    ask = asking_for(path, stream=stream)
    expected = await directly(run, path, ask)
    for _ in range(2):
        answer = await run.post(ask, target=f"/v1/{path}")
        assert of_the_account(answer) == of_the_account(expected) | {
            ("x-models-etag", '"7"'),
            ("x-reasoning-included", "true"),
        }
    assert [turn.transport for turn in run.simulator.turns] == ["http", "ws", "ws"]


def asking_for(path: str, *, stream: bool) -> dict[str, Any]:
    """Return a request to either API."""
    said = "input" if path == "responses" else "messages"
    return {"model": "m", "stream": stream, said: [{"role": "user", "content": "x"}]}


async def directly(run: Any, path: str, ask: dict[str, Any]) -> Message:
    """Return upstream's own answer, over HTTP."""
    peer = Peer(*await asyncio.open_connection("127.0.0.1", run.simulator.port))
    try:
        return await peer.ask("POST", f"/v1/{path}", KEY, body=orjson.dumps(ask))
    finally:
        peer.close()


def of_the_account(answer: Any) -> set[tuple[str, str]]:
    """Return those headers of an answer that hold beyond it."""
    of_one = ("openai-processing-ms", "x-accel", "x-ratelimit-", "x-request-id")
    names = {name.lower() for name, _ in answer.headers}
    told = {name for name in names if name.startswith(("openai-", "x-")) and not name.startswith(of_one)}
    return {(name, value) for name in told for value in answer.all(name)}


@pytest.mark.parametrize("path", ["responses", "chat/completions"])
@pytest.mark.parametrize("stream", [True, False])
async def test_the_headers_of_an_error_tell_of_the_account_too(proxied: Any, path: str, *, stream: bool) -> None:
    """What the error says itself counts."""
    handshake = {**HANDSHAKE, "OpenAI-Version": "old", "x-models-etag": '"7"'}
    run = await proxied(
        simulated={"extra_events": ("rate_limits_before_created",), "handshake_headers": handshake}
    )
    own = {"x-codex-primary-used-percent": "100", "openai-version": "2020-10-01", "retry-after": "7"}
    run.simulator.inject(Fault("before_created", "error", status=429, code="slow_down", headers=own, times=2))
    ask = asking_for(path, stream=stream)
    expected = await directly(run, path, ask)
    answer = await run.post(ask, target=f"/v1/{path}")
    assert (answer.status, answer.all("Content-Type")) == (expected.status, expected.all("Content-Type"))
    assert answer.all("Retry-After") == ["7"]
    assert of_the_account(answer) == of_the_account(expected) | {
        ("x-models-etag", '"7"'),
        ("x-reasoning-included", "true"),
    }
    await run.post(ask, target=f"/v1/{path}")
    run.simulator.inject(Fault("before_created", "error", status=429, code="slow_down", headers=own))
    later = await run.post(ask, target=f"/v1/{path}")
    assert later.all("x-codex-primary-used-percent") == ["100"]
    assert later.all("x-codex-secondary-used-percent") == ["12.5"]
    assert {turn.transport for turn in run.simulator.turns[1:]} == {"ws"}


async def test_an_answer_that_begins_with_a_sign_of_life_tells_of_the_account(
    proxied: Any, frames_of: Any
) -> None:
    """Its head leaves with that, long before the events."""
    alive = asyncio.Event()

    async def frames() -> AsyncIterator[bytes]:
        yield b'{"type":"codex.rate_limits","rate_limits":{"primary":{"used_percent":7}}}'
        await alive.wait()
        for frame in (CREATED, COMPLETED):
            yield frame

    run = await proxied(upstream=await frames_of(frames), keepalive_after=0.1)
    agent = await asking(run)
    head = await agent.head()
    alive.set()
    pieces = [piece async for piece in agent.pieces(head)]
    assert pieces[0].startswith(b":")
    assert head.all("x-codex-primary-used-percent") == ["7"]


async def test_what_is_told_behind_a_failure_is_in_its_answer(proxied: Any, frames_of: Any) -> None:
    """It comes before the error that explains the failure."""
    failed = b'{"type":"response.failed","response":{"id":"resp_1","status":"failed","error":null,"output":[]}}'
    limits = b'{"type":"codex.rate_limits","rate_limits":{"primary":{"used_percent":100}}}'
    error = b'{"type":"error","code":"rate_limit_exceeded","message":"Slow down."}'
    run = await proxied(upstream=await frames_of([CREATED, failed, limits, error]))
    answer = await run.post({**ASK, "stream": False})
    assert answer.status == 429
    assert answer.all("x-codex-primary-used-percent") == ["100"]


async def test_what_is_told_in_mid_answer_is_in_the_next_ones_headers(proxied: Any, frames_of: Any) -> None:
    """They had left; and whoever asks with another key is told nothing of it."""
    limits = b'{"type":"codex.rate_limits","rate_limits":{"primary":{"used_percent":%d}}}'
    used, begun = iter(range(9)), asyncio.Event()

    async def frames() -> AsyncIterator[bytes]:
        yield CREATED
        await begun.wait()
        begun.clear()
        yield limits % next(used)
        yield COMPLETED

    async def told(*headers: tuple[str, str]) -> list[str]:
        agent = await run.dial()
        body = orjson.dumps(ASK)
        await agent.begin("POST", "/v1/responses", KEY, *headers, ("Content-Length", str(len(body))))
        await agent.send(body)
        head = await agent.head()
        begun.set()
        assert COMPLETED in b"".join([piece async for piece in agent.pieces(head)])
        return list(head.all("x-codex-primary-used-percent"))

    run = await proxied(upstream=await frames_of(frames))
    assert [await told() for _ in range(3)] == [[], ["0"], ["1"]]
    assert await told(("chatgpt-account-id", "another")) == []


async def test_the_answer_begins_with_upstreams_first_event(proxied: Any, frames_of: Any) -> None:
    """No status is sent before upstream said something, so that its refusal can still be a status."""
    error = (
        b'{"type":"error","status":429,"headers":{"retry-after":"7"},'
        b'"error":{"type":"rate_limit_error","code":"rate_limit_exceeded","message":"later"}}'
    )
    run = await proxied(upstream=await frames_of([b'{"type":"codex.rate_limits"}', error]))
    answer = await run.post(ASK)
    assert (answer.status, answer.get("retry-after")) == (429, "7")
    assert answer.json()["error"]["code"] == "rate_limit_exceeded"


@pytest.mark.parametrize("ending", ["response.failed", "response.incomplete", "response.cancelled"])
async def test_other_endings_end_the_stream_too(proxied: Any, frames_of: Any, ending: str) -> None:
    """A turn that ends otherwise than well is an event and a proper end."""
    last = orjson.dumps({"type": ending, "response": {"id": "resp_1", "error": {"code": "x", "message": "y"}}})
    run = await proxied(upstream=await frames_of([CREATED, last]))
    assert [data for _, data in events((await run.post(ASK)).body)] == [CREATED, last]


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("last", [b"\xff not text", b"[]", b"{}", b'"x"', b"{"])
async def test_nonsense_breaks_the_answer_off(proxied: Any, frames_of: Any, last: bytes, *, stream: bool) -> None:
    """What is no event ends the turn: by an aborted stream, or by a 502 for an agent that waits for the whole."""
    run = await proxied(upstream=await frames_of([CREATED, last]))
    if stream:
        with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
            await run.post(ASK)
    else:
        assert (await run.post({**ASK, "stream": False})).status == 502


# Whole answers.

PARTS = (Reasoning(("thinking",)), "hello", FunctionCall("f", '{"a": 1}'))


@pytest.mark.parametrize("terminal", ["full", "empty", "omitted", "done"])
@pytest.mark.parametrize("stream", [False, None])
async def test_a_whole_answer_has_all_items(proxied: Any, terminal: str, stream: bool | None) -> None:  # noqa: FBT001
    """An agent that does not stream gets the response object, output and all, whatever the terminal event has."""
    run = await proxied(scripted([says(*PARTS)]), simulated={"terminal_output": terminal})
    ask = {"model": "m", "input": "x", "store": False} | ({} if stream is None else {"stream": stream})
    answer = await run.post(ask)
    assert (answer.status, answer.get("Content-Type")) == (200, "application/json")
    response = answer.json()
    assert (response["object"], response["status"]) == ("response", "completed")
    assert response["output"] == run.simulator.turns[0].output
    assert [item["type"] for item in response["output"]] == ["reasoning", "message", "function_call"]
    assert response["usage"] == run.simulator.turns[0].usage


@pytest.mark.parametrize("finish", [Completed(), Incomplete()])
@pytest.mark.parametrize("terminal", ["full", "empty", "omitted", "done"])
async def test_a_streamed_answer_ends_with_all_items(proxied: Any, terminal: str, finish: Any) -> None:
    """SDKs take the response from the last event, which has the output, as over HTTP, whatever upstream's has."""
    run = await proxied(scripted([says(*PARTS, finish=finish)]), simulated={"terminal_output": terminal})
    answer = await run.post({**ASK, "input": "x", "stream": True})
    *_, (_, last) = events(answer.body)
    assert orjson.loads(last)["response"]["output"] == run.simulator.turns[0].output
    assert run.simulator.turns[0].transport == "ws"


@pytest.mark.parametrize(
    "last",
    [
        b'{"type": "response.completed", "response": {"id": "resp_1", "output": [ {"id": "item_1"} ]}}',
        b'{"type":"response.completed","response":{"id":"resp_1","output":[{"id":"item_1"}],"big":1e-400}}',
        b'{"type":"response.completed","response":"resp_1"}',
    ],
)
async def test_an_end_that_has_its_output_stays_as_it_came(proxied: Any, frames_of: Any, last: bytes) -> None:
    """However it is written; nor is anything put into one that has no response."""
    frames = [CREATED, b'{"type":"response.output_item.done","output_index":0,"item":{"id":"item_1"}}', last]
    run = await proxied(upstream=await frames_of(frames))
    assert [data for _, data in events((await run.post(ASK)).body)] == frames


@pytest.mark.parametrize("ending", [{"usage": {"input_tokens": 1}}, {"status": "incomplete"}, {}])
async def test_a_stream_ends_as_over_http(proxied: Any, frames_of: Any, ending: dict[str, Any]) -> None:
    """There is no `response.done` there, which SDKs do not know; what it does not say, the beginning did."""
    created: dict[str, Any] = {"id": "resp_1", "model": "m", "status": "in_progress", "usage": None, "output": []}
    frames = [
        orjson.dumps({"type": "response.created", "response": created}),
        orjson.dumps({"type": "response.output_item.done", "item": {"id": "item_1"}}),
        orjson.dumps({"type": "response.done", "sequence_number": 2, "response": {"id": "resp_1", **ending}}),
    ]
    run = await proxied(upstream=await frames_of(frames))
    *_, (kind, last) = events((await run.post(ASK)).body)
    status = ending.get("status", "completed")
    assert kind == f"response.{status}".encode()
    assert orjson.loads(last) == {
        "type": kind.decode(),
        "sequence_number": 2,
        "response": {**created, **ending, "status": status, "output": [{"id": "item_1"}]},
    }


async def test_an_end_without_output_stays_where_nothing_was_streamed(proxied: Any, frames_of: Any) -> None:
    """No items are made up, nor is a response that cannot be read."""
    for last in (
        b'{"type":"response.completed","response":{"id":"resp_1","output":[]}}',
        b'{"type":"response.completed"}',
    ):
        run = await proxied(upstream=await frames_of([CREATED, last]))
        assert [data for _, data in events((await run.post(ASK)).body)] == [CREATED, last]


async def test_a_whole_answer_equals_the_direct_one(proxied: Any) -> None:
    """Over a WebSocket and over plain HTTP the same question has the same answer, but for names and times."""
    answers = []
    for websocket in ("auto", "off"):
        run = await proxied(scripted([says(*PARTS)]), websocket=websocket)
        answers.append((await run.post({"model": "m", "input": "x", "store": False})).json())
        assert run.simulator.turns[0].transport == ("ws" if websocket == "auto" else "http")
    unlike = {
        name for name in answers[0].keys() | answers[1].keys() if answers[0].get(name) != answers[1].get(name)
    }
    assert unlike <= {"id", "output", "created_at", "completed_at", "usage"}
    assert [item["type"] for item in answers[0]["output"]] == [item["type"] for item in answers[1]["output"]]


async def test_streamed_items_count_more_than_the_terminal_list(proxied: Any, frames_of: Any) -> None:
    """Where `output_item.done` and the terminal event disagree, the former is what the model said."""
    done = b'{"type":"response.output_item.done","output_index":%d,"item":{"type":"message","id":"msg_%d"}}'
    last = (
        b'{"type":"response.completed","response":{"id":"resp_1","output":[{"type":"message","id":"msg_other"}]}}'
    )
    run = await proxied(upstream=await frames_of([CREATED, done % (1, 1), done % (0, 0), last]))
    answer = await run.post({"model": "m", "input": "x"})
    assert [item["id"] for item in answer.json()["output"]] == ["msg_0", "msg_1"]


async def test_an_incomplete_whole_answer_is_an_answer(proxied: Any, frames_of: Any) -> None:
    """What was cut short arrives as it is, with status 200."""
    last = b'{"type":"response.incomplete","response":{"id":"resp_1","status":"incomplete","output":[]}}'
    run = await proxied(upstream=await frames_of([CREATED, last]))
    answer = await run.post({"model": "m", "input": "x"})
    assert (answer.status, answer.json()["status"]) == (200, "incomplete")


@pytest.mark.parametrize("moment", ["before_created", "after_created", "after_events"])
@pytest.mark.parametrize("then_failed", [False, True])
async def test_a_failed_whole_answer_is_an_error(proxied: Any, moment: Any, *, then_failed: bool) -> None:
    """An agent that does not stream gets the status and the words that it would get without the proxy."""
    answers = []
    for websocket in ("auto", "off"):
        run = await proxied(websocket=websocket)
        run.simulator.inject(Fault(moment, "error", events=4, status=500, then_failed=then_failed, times=None))
        answer = await run.post({"model": "m", "input": "x", "store": False})
        answers.append((answer.status, answer.json()))
    assert answers[0] == answers[1]
    assert answers[0][0] == 500


# Requests that go upstream in the agent's own bytes.

UNTOUCHED = {
    "previous_response_id": (b'{"model":"m", "input":"x","previous_response_id":"resp_0"}', "unsupported_field"),
    "conversation": (b'{"model":"m","input":"x","conversation": "conv_1"}', "unsupported_field"),
    "conversation object": (b'{"model":"m","input":"x","conversation":{"id":"conv_1"}}', "unsupported_field"),
    "background": (b'{"model":"m","input":"x","background":true}', "unsupported_field"),
    "prompt": (b'{"model":"m","input":"x","prompt":{"id":"pmpt_1"}}', "unsupported_field"),
    "generate": (b'{"model":"m","input":"x","generate":true}', "unsupported_field"),
    "stream_id": (b'{"model":"m","input":"x","stream_id":"s"}', "unsupported_field"),
    "type": (b'{"type":"response.create","model":"m","input":"x"}', "unsupported_field"),
    "duplicate key": (b'{"model":"m","input":"x","input":"y"}', "not_diffable"),
    "duplicate key deep inside": (
        b'{"model":"m","input":[{"role":"user","content":"a","content":"b"}]}',
        "not_diffable",
    ),
    "duplicate key, one escaped": (b'{"model":"m","input":"x","inp\\u0075t":"y"}', "not_diffable"),
    "lone surrogate": (b'{"model":"m","input":"\\ud800"}', "not_diffable"),
    "lone surrogate in a key": (b'{"model":"m","input":"x","metadata":{"\\udfff":"a"}}', "not_diffable"),
    "huge integer": (b'{"model":"m","input":"x","metadata":{"n":123456789012345678901234567890}}', "not_diffable"),
    "2**64": (b'{"model":"m","input":"x","metadata":{"n":18446744073709551616}}', "not_diffable"),
    "too precise": (b'{"model":"m","input":"x","top_p":0.12345678901234567890123}', "not_diffable"),
    "minus zero": (b'{"model":"m","input":"x","seed":-0}', "not_diffable"),
    "beyond a double": (b'{"model":"m","input":"x","top_p":1e400}', "not_diffable"),
    "NaN": (b'{"model":"m","input":"x","top_p":NaN}', "not_diffable"),
    "depth 300": (
        b'{"model":"m","input":[{"role":"user","content":' + b"[" * 300 + b"]" * 300 + b"}]}",
        "not_diffable",
    ),
    "depth 100000": (b'{"model":"m","input":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "not_diffable"),
    "invalid JSON": (b'{"model":"m","input":', "not_diffable"),
    "trailing comma": (b'{"model":"m","input":"x",}', "not_diffable"),
    "invalid UTF-8": (b'{"model":"m","input":"\xff"}', "not_diffable"),
    "byte order mark": (b'\xef\xbb\xbf{"model":"m","input":"x"}', "not_diffable"),
    "control character": (b'{"model":"m","input":"a\x00b"}', "not_diffable"),
    "UTF-16": ('{"model":"m","input":"x"}'.encode("utf-16"), "not_diffable"),
    "nothing": (b"", "not_diffable"),
    "a list": (b'[{"model":"m","input":"x"}]', "not_diffable"),
    "null": (b"null", "not_diffable"),
    "a form": (b"model=m&input=x", "not_diffable"),
    "no model": (b'{"input":"x"}', "not_diffable"),
    "model is a number": (b'{"model":7,"input":"x"}', "not_diffable"),
    "stream is a word": (b'{"model":"m","input":"x","stream":"yes"}', "not_diffable"),
    "input is a number": (b'{"model":"m","input":7}', "not_diffable"),
    "input has texts": (b'{"model":"m","input":["x"]}', "not_diffable"),
}


@pytest.mark.parametrize(("body", "reason"), UNTOUCHED.values(), ids=UNTOUCHED.keys())
async def test_goes_upstream_in_the_agents_own_bytes(proxied: Any, body: bytes, reason: str) -> None:
    """What packlight must not touch, or cannot read without loss, upstream gets over HTTP to the byte."""
    run = await proxied(simulated={"require_key": False})
    answer = await run.post(body)
    (request,) = run.simulator.requests
    assert (request.method, request.path, request.status) == ("POST", "/v1/responses", answer.status)
    assert request.body_sha256 == hashlib.sha256(body).hexdigest()
    assert run.simulator.connections == []
    (record,) = run.server.ledger.turns(9)
    assert (record.upload, record.reason) == ("http", reason)


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"m","input":"x","background":false,"conversation":null,"previous_response_id":null}',
        b'{ "model" : "m",\n "input" : "x", "temperature": 0.50, "top_p": 1E0, "n": 1.10 }',
        b'{"model":"m","input":"caf\\u00e9 \\ud83d\\ude00"}',
    ],
    ids=["fields that say no", "unusual spelling", "escapes"],
)
async def test_harmless_spelling_is_understood(proxied: Any, body: bytes) -> None:
    """What reads the same whoever writes it needs no HTTP."""
    run = await proxied(simulated={"strict_fields": False})
    assert (await run.post(body)).status == 200
    (turn,) = run.simulator.turns
    assert turn.transport == "ws"
    told = {name: value for name, value in turn.request.items() if name not in {"type", "input"}}
    asked = orjson.loads(body)
    assert told == {name: asked[name] for name in asked if name in told}


async def test_everything_goes_over_http_when_told_so(proxied: Any) -> None:
    """With websocket=off nothing is read, and every request arrives as it was sent."""
    run = await proxied(websocket="off")
    body = b'{ "model":"m",  "input":"x", "store":false, "stream":true }'
    answer = await run.post(body)
    assert events(answer.body)[-1][0] == b"response.completed"
    assert run.simulator.requests[0].body_sha256 == hashlib.sha256(body).hexdigest()
    (record,) = run.server.ledger.turns(9)
    assert (record.upload, record.reason, record.status) == ("http", "disabled", "completed")


@pytest.mark.parametrize("status", [404, 405, 426, 501])
async def test_a_server_without_websocket_gets_the_agents_bytes(proxied: Any, status: int) -> None:
    """Where the upgrade is refused the same request goes over HTTP, and the next one directly."""
    run = await proxied(simulated={"refuse_upgrade": status})
    body = b'{ "model":"m",  "input":"x", "store":false }'
    for _ in range(2):
        assert (await run.post(body)).status == 200
    posts = [request for request in run.simulator.requests if request.method == "POST"]
    assert {request.body_sha256 for request in posts} == {hashlib.sha256(body).hexdigest()}
    assert [request.method for request in run.simulator.requests] == ["GET", "POST", "POST"]
    assert [record.reason for record in run.server.ledger.turns(9)] == ["no_websocket"] * 2


async def test_a_query_stays_with_its_request(proxied: Any) -> None:
    """What the agent puts after the path is asked of the WebSocket too, to the byte."""
    run = await proxied()
    body = orjson.dumps({"model": "m", "input": "x", "store": False})
    answer = await run.ask("POST", "/v1/responses?api-version=2&x=%2F", ("Authorization", "Bearer key"), body=body)
    assert answer.status == 200
    assert [connection.path for connection in run.simulator.connections] == ["/v1/responses?api-version=2&x=%2F"]


@pytest.mark.parametrize("websocket", ["auto", "off"])
@pytest.mark.parametrize("connection", ["close", "keep-alive"])
async def test_an_agent_on_http_1_0_gets_its_events(proxied: Any, websocket: str, connection: str) -> None:
    """Without chunks the stream ends with the connection, which an agent that would keep it waits for, too."""
    run = await proxied(websocket=websocket)
    agent = await run.dial()
    body = orjson.dumps(ASK)
    head = "POST /v1/responses HTTP/1.0\r\nHost: localhost\r\nAuthorization: Bearer key\r\n"
    head += f"Connection: {connection}\r\n"
    await agent.send(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    assert (await agent.head()).status == 200
    assert events(await agent.reader.read())[-1][0] == b"response.completed"


async def test_an_agent_that_resets_as_its_events_come_is_no_error(
    proxied: Any, frames_of: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """It is gone, and that is all: nothing of it is logged as if the server had a defect."""
    agent = socket.socket()
    agent.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    listening = asyncio.Event()

    async def frames() -> AsyncIterator[bytes]:
        yield CREATED
        await listening.wait()
        yield b'{"type":"response.output_text.delta","delta":"a"}'
        agent.close()  # at once: the proxy hears of both in the same moment

    run = await proxied(upstream=await frames_of(frames))
    agent.connect(("127.0.0.1", run.port))
    agent.setblocking(False)  # noqa: FBT003  (its name for it)
    body = orjson.dumps(ASK)
    head = b"POST /v1/responses HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body)
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(agent, head + body)
    assert (await loop.sock_recv(agent, 4096)).startswith(b"HTTP/1.1 200")
    listening.set()
    await run.recorded(1)
    assert run.server.ledger.statuses == {"aborted": 1}
    assert not [record for record in caplog.records if record.name.startswith("aiohttp")]


async def test_an_agent_may_hang_up_once_it_has_the_last_event(proxied: Any) -> None:
    """Codex does: its turns are completed, and the next ones continue them."""
    run = await proxied()
    history: list[Any] = []

    def ask() -> None:
        history.append({"role": "user", "content": "x"})
        body = orjson.dumps({**ASK, "input": history})
        heard = b""
        with socket.create_connection(("127.0.0.1", run.port)) as agent:
            agent.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            agent.sendall(b"POST /v1/responses HTTP/1.0\r\nHost: localhost\r\nAuthorization: Bearer key\r\n")
            agent.sendall(b"Content-Length: %d\r\n\r\n" % len(body) + body)
            while not (b"event: response.completed" in heard and heard.endswith(b"\n\n")):
                heard += agent.recv(65536)
        history.extend(orjson.loads(events(heard.partition(b"\r\n\r\n")[2])[-1][1])["response"]["output"])

    for _ in range(40):
        await asyncio.to_thread(ask)
    await run.recorded(40)
    assert run.server.ledger.statuses == {"completed": 40}
    assert run.server.ledger.uploads == {"full": 1, "delta": 39}


@pytest.mark.parametrize("late", [False, True], ids=["at once", "after signs of life"])
@pytest.mark.parametrize("part", [b'data: {"id": "ch', b'event: x\ndata: {"a": 1}\n', b'data: {"a": 1}\n\n'])
async def test_plain_http_that_breaks_off_is_an_answer_that_breaks_off(
    proxied: Any, raw_upstream: Any, part: bytes, *, late: bool
) -> None:
    """What upstream began is not continued by an event of ours, perhaps in mid-line, and not properly ended."""
    alive, heard = asyncio.Event(), asyncio.Event()

    async def serve(peer: Any) -> None:
        if await refused_upgrade(peer):
            return
        if late:
            await alive.wait()
        head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
        await peer.send(head + b"%x\r\n%b\r\n" % (len(part), part))
        await heard.wait()

    settings = {"keepalive_after": 0.1} if late else {}
    run = await proxied(upstream=(await raw_upstream(serve)).base_url, **settings)
    agent = await asking(run)
    pieces = agent.pieces(await agent.head())
    if late:
        assert (await anext(pieces)).startswith(b":")
        alive.set()
    while (piece := await anext(pieces)).startswith(b":"):
        pass
    assert piece == part
    heard.set()
    with pytest.raises((asyncio.IncompleteReadError, ConnectionResetError)):
        await anext(pieces)


def shut_down_before_closing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have asyncio end connections as it does on Windows (`asyncio/proactor_events.py`)."""
    transport: Any = selector_events._SelectorTransport  # type: ignore[attr-defined]
    close = transport._call_connection_lost

    def end(self: Any, exc: Exception | None) -> None:
        with suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        close(self, exc)

    monkeypatch.setattr(transport, "_call_connection_lost", end)


@pytest.mark.parametrize("loop", ["any", "Windows"])
@pytest.mark.parametrize("how", ["a loss", "a loss over plain HTTP", "a shutdown"])
async def test_an_answer_without_framing_is_reset_where_it_breaks_off(
    proxied: Any, raw_upstream: Any, monkeypatch: pytest.MonkeyPatch, how: str, loop: str
) -> None:
    """An HTTP/1.0 agent has no chunks: a proper end of the connection would be the proper end of its answer."""
    if loop == "Windows":
        shut_down_before_closing(monkeypatch)
    heard = asyncio.Event()

    async def serve(peer: Any) -> None:
        if not await refused_upgrade(peer):
            await peer.send(STREAM + b"2\r\n:\n\r\n")
            await heard.wait()

    plain = how == "a loss over plain HTTP"
    run = await proxied(**({"upstream": (await raw_upstream(serve)).base_url} if plain else {}))
    if not plain:
        run.simulator.inject(Fault("after_events", "abort" if how == "a loss" else "silence", events=4))
    agent = await run.dial()
    body = orjson.dumps(ASK)
    await agent.send(b"POST /v1/responses HTTP/1.0\r\nHost: localhost\r\nAuthorization: Bearer key\r\n")
    await agent.send(b"Content-Length: %d\r\n\r\n" % len(body) + body)
    head = await agent.head()
    assert not head.all("Transfer-Encoding") + head.all("Content-Length")
    assert await agent.reader.readexactly(2)
    heard.set()
    if how == "a shutdown":
        await run.server.drain()
    with pytest.raises(ConnectionResetError):
        await agent.reader.read()


@pytest.fixture
async def silent(raw_upstream: Any) -> str:
    """Return the address of an upstream that has no WebSocket, and over HTTP listens and never answers."""

    async def serve(peer: Any) -> None:
        if await refused_upgrade(peer):
            return
        await asyncio.Event().wait()

    return str((await raw_upstream(serve)).base_url)


@pytest.mark.parametrize("late", [False, True], ids=["before signs of life", "after them"])
async def test_plain_http_that_never_answers_has_an_end(proxied: Any, silent: str, *, late: bool) -> None:
    """It is first_event_timeout, as over a WebSocket."""
    run = await proxied(upstream=silent, first_event_timeout=0.4, keepalive_after=0.1 if late else 60)
    answer = await run.post(ASK)
    assert answer.status == (200 if late else 504)
    assert b"upstream was silent for 0.4 s over HTTP (first_event_timeout)" in answer.body
    assert answer.body.startswith(b":") is late
    await run.recorded(1)
    assert run.server.ledger.statuses == {"failed": 1}


@pytest.mark.parametrize("fields", [{}, {"background": True}], ids=["a turn", "a request not ours to read"])
async def test_plain_http_that_never_answers_has_an_end_without_signs_of_life_too(
    proxied: Any, silent: str, fields: Any
) -> None:
    """The head of an answer that is not streamed comes when the model is done: this is the limit for all of it."""
    run = await proxied(upstream=silent, first_event_timeout=0.2)
    answer = await run.post({**ASK, "stream": False, **fields})
    assert answer.status == 504
    assert "(first_event_timeout)" in answer.json()["error"]["message"]
    await run.recorded(1)
    assert run.server.ledger.statuses == {"failed": 1}


async def test_what_is_no_turn_takes_as_long_as_it_takes(proxied: Any, raw_upstream: Any) -> None:
    """A file, or a picture: neither its head nor the rest of its body has a limit of ours."""
    asked, goes_on = asyncio.Event(), asyncio.Event()

    async def serve(peer: Any) -> None:
        await peer.message()
        asked.set()
        await goes_on.wait()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\na")
        goes_on.clear()
        await goes_on.wait()
        await peer.send(b"b")

    upstream = await raw_upstream(serve)
    run = await proxied(upstream=upstream.base_url, first_event_timeout=0.01, event_timeout=0.01)
    agent = await run.dial()
    await agent.begin("GET", "/v1/files/1/content", KEY)
    await asked.wait()
    await asyncio.sleep(0.2)
    goes_on.set()
    assert (await agent.head()).status == 200
    assert await agent.reader.readexactly(1) == b"a"
    await asyncio.sleep(0.2)
    goes_on.set()
    assert await agent.reader.readexactly(1) == b"b"


@pytest.mark.parametrize("fields", [{}, {"background": True}], ids=["a turn", "a request not ours to read"])
async def test_plain_http_that_falls_silent_is_an_answer_that_breaks_off(
    proxied: Any, raw_upstream: Any, fields: Any
) -> None:
    """After event_timeout, as over a WebSocket."""

    async def serve(peer: Any) -> None:
        if not await refused_upgrade(peer):
            await peer.send(STREAM + b"2\r\n:\n\r\n")
            await asyncio.Event().wait()

    run = await proxied(upstream=(await raw_upstream(serve)).base_url, event_timeout=0.2)
    agent = await asking(run, **fields)
    pieces = agent.pieces(await agent.head())
    assert await anext(pieces) == b":\n"
    with pytest.raises((asyncio.IncompleteReadError, ConnectionResetError)):
        await anext(pieces)
    await run.recorded(1)
    assert run.server.ledger.statuses == {"failed": 1}


@pytest.mark.parametrize("late", [False, True], ids=["before signs of life", "after them"])
async def test_a_head_over_plain_http_and_nothing_behind_it_is_no_answer(
    proxied: Any, raw_upstream: Any, *, late: bool
) -> None:
    """The agent was shown nothing: it gets a status, or signs of life and an error event."""

    async def serve(peer: Any) -> None:
        if not await refused_upgrade(peer):
            await peer.send(STREAM)
            await asyncio.Event().wait()

    upstream = await raw_upstream(serve)
    run = await proxied(upstream=upstream.base_url, first_event_timeout=0.5, keepalive_after=0.1 if late else 60)
    answer = await run.post(ASK)
    assert answer.status == (200 if late else 504)
    assert b"(first_event_timeout)" in answer.body
    assert answer.body.startswith(b":") is late


@pytest.mark.parametrize("ends", [True, False])
@pytest.mark.parametrize("head", [ERROR, ERROR.replace(b"500 Oh", b"200 OK")], ids=["an error", "not streamed"])
async def test_signs_of_life_go_on_while_the_rest_of_a_body_is_awaited(
    proxied: Any, raw_upstream: Any, head: bytes, *, ends: bool
) -> None:
    """It is told as an event, whole; where it does not end, event_timeout does."""
    alive, ended = asyncio.Event(), asyncio.Event()

    async def serve(peer: Any) -> None:
        if not await refused_upgrade(peer):
            await alive.wait()
            await peer.send(head + b'c\r\n{"error":{"m\r\n')
            await ended.wait()
            await peer.send(b'c\r\nessage":1}}\n\r\n0\r\n\r\n')

    run = await proxied(
        upstream=(await raw_upstream(serve)).base_url,
        event_timeout=60 if ends else 0.5,
        keepalive_after=0.1,
        keepalive_interval=0.1,
    )
    agent = await asking(run)
    pieces = agent.pieces(await agent.head())
    assert (await anext(pieces)).startswith(b":")
    alive.set()
    if ends:
        for _ in range(5):
            assert (await anext(pieces)).startswith(b":")
        ended.set()
    last = [piece async for piece in pieces][-1]
    assert (b'"message":1' if ends else b"(event_timeout)") in last


@pytest.mark.parametrize("name", ["x" * 65, "my secret \x1b[31m", "é", ""])
async def test_a_field_with_an_odd_name_is_not_shown(proxied: Any, name: str) -> None:
    """It may be anything, and figures hold no content."""
    run = await proxied()
    body = {"model": "m", "messages": [{"role": "user", "content": "x"}]}
    await run.post({**body, name: 1}, target="/v1/chat/completions")
    await run.post({**body, "logit_bias": {"1": 1}}, target="/v1/chat/completions")
    await run.recorded(2)
    assert [turn["detail"] for turn in (await run.figures("turns"))["turns"]] == [
        "logit_bias",
        "a field with an odd name",
    ]


async def test_a_request_that_cannot_be_read_for_a_defect_of_ours_goes_on_as_it_came(
    proxied: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The agent gets upstream's answer, and the log says where we failed, but nothing of what was said."""

    def fail(_self: Responses, _body: bytes, _known: object) -> None:
        raise KeyError("a word of the agent's")

    run = await proxied(scripted(["alpha"]))
    monkeypatch.setattr(Responses, "decode", fail)
    with capture_logs() as logs:
        answer = await run.post({**ASK, "stream": False})
        assert answer.json()["status"] == "completed"
        await run.recorded(1)
    (defect,) = [each for each in logs if each["event"] == "defect"]
    assert (defect["log_level"], defect["error"], defect["shown"]) == ("error", "KeyError", False)
    assert defect["at"].startswith("fail:")
    assert "word of the agent's" not in str(logs)
    (turn,) = (await run.figures("turns"))["turns"]
    assert (turn["upload"], turn["reason"]) == ("http", "defect")


@pytest.mark.parametrize("retries", [0, 1])
async def test_a_defect_after_upstream_had_the_request_counts_as_a_loss(
    proxied: Any, monkeypatch: pytest.MonkeyPatch, retries: int
) -> None:
    """The request is sent again over HTTP as often as after a loss, and no more."""

    def fail(_self: WholeAnswer) -> None:
        raise KeyError

    run = await proxied(scripted(["alpha", "beta"]), ambiguous_retries=retries)
    monkeypatch.setattr(WholeAnswer, "finish", fail)
    answer = await run.post({**ASK, "stream": False})
    assert answer.status == (200 if retries else 502)
    assert [turn.transport for turn in run.simulator.turns] == ["ws"] + ["http"] * retries
    await run.recorded(1)
    assert run.server.ledger.replays["ambiguous"] == retries
