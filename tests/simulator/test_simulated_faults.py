"""What goes wrong on purpose."""

import asyncio
from typing import Any

import aiohttp
import orjson
import pytest
from dialogue import Simulate, Talk, texts
from websockets.exceptions import ConnectionClosed

from proxy.simulator import Fault, Output, ScriptEnded, Simulator, Text, scripted
from proxy.simulator.faults import Faults

LONG = Output((Text("x" * 200),))


async def test_an_error_before_anything(simulate: Simulate, talk: Talk) -> None:
    """It is the turn's only event, has a retry-after in both places, and costs no output of the script."""
    simulator = await simulate(scripted(["one", "two"]))
    dialogue = await talk(simulator)
    parent = await dialogue.complete()
    simulator.inject(
        Fault("before_created", "error", status=429, code="rate_limit_exceeded", message="Slow.", retry_after=2)
    )
    events = await dialogue.create(previous_response_id=parent["id"])
    headers = {"retry-after": "2"}
    error = {"type": "rate_limit_error", "code": "rate_limit_exceeded", "message": "Slow.", "param": None}
    assert events == [{"type": "error", "status": 429, "error": {**error, "headers": headers}, "headers": headers}]
    assert (await dialogue.fail(previous_response_id=parent["id"]))["code"] == "previous_response_not_found"
    assert texts(await dialogue.create()) == "two"
    assert [turn.status for turn in simulator.turns] == ["completed", "rejected", "rejected", "completed"]


async def test_an_error_in_mid_stream(simulate: Simulate, talk: Talk) -> None:
    """It ends the turn after so many events; response.failed may follow."""
    simulator = await simulate()
    simulator.inject(Fault("after_events", "error", events=3, status=503, code="server_is_overloaded"))
    simulator.inject(Fault("after_created", "error", then_failed=True))
    dialogue = await talk(simulator)
    events = await dialogue.create()
    assert len(events) == 4
    assert (events[3]["status"], events[3]["sequence_number"]) == (503, 3)
    assert events[3]["error"]["type"] == "service_unavailable_error"
    events = [*await dialogue.create(), *await dialogue.finish()]
    assert [event["type"] for event in events] == ["response.created", "error", "response.failed"]
    assert events[0]["response"]["id"] == events[2]["response"]["id"]
    assert simulator.turns[0].status == "failed"


async def test_late_events_appear_in_the_next_turn(simulate: Simulate, talk: Talk) -> None:
    """A stray error comes before response.created, and the turn goes on."""
    simulator = await simulate()
    simulator.inject(Fault("before_created", "late_error"))
    dialogue = await talk(simulator)
    assert (await dialogue.create())[0]["type"] == "error"
    assert texts(await dialogue.finish())


@pytest.mark.parametrize("when", ["before_created", "after_created", "after_completed", "idle"])
async def test_a_connection_can_be_closed(simulate: Simulate, talk: Talk, when: Any) -> None:
    """With any code and reason, at any moment."""
    simulator = await simulate()
    simulator.inject(Fault(when, "close", close_code=1012, reason="restart"))
    dialogue = await talk(simulator)

    async def listen() -> None:
        await dialogue.create()
        await dialogue.receive()

    with pytest.raises(ConnectionClosed) as caught:
        await listen()
    assert caught.value.rcvd is not None
    assert (caught.value.rcvd.code, caught.value.rcvd.reason) == (1012, "restart")
    await simulator.until(lambda: not simulator.open_connections)
    done = when in ("after_completed", "idle")
    assert simulator.turns[0].status == ("completed" if done else "cancelled")


@pytest.mark.parametrize("what", ["abort", "garbage"])
async def test_a_connection_can_be_lost(simulate: Simulate, talk: Talk, what: Any) -> None:
    """A reset, or bytes that are no frame: no close frame is seen."""
    simulator = await simulate()
    simulator.inject(Fault("after_events", what, events=4, seconds=0.01))
    dialogue = await talk(simulator)
    with pytest.raises(ConnectionClosed) as caught:
        await dialogue.create()
    assert caught.value.rcvd is None


@pytest.mark.parametrize("when", ["after_created", "idle"])
async def test_a_connection_can_fall_silent(simulate: Simulate, talk: Talk, when: Any) -> None:
    """Nothing more comes, not even a pong or a close."""
    simulator = await simulate()
    simulator.inject(Fault(when, "silence"))
    dialogue = await talk(simulator, close_timeout=0.05)

    async def listen() -> None:
        await dialogue.create()
        await simulator.until(lambda: simulator.connections[0].silent)
        await (await dialogue.socket.ping())

    with pytest.raises(TimeoutError):
        await asyncio.wait_for(listen(), 0.2)
    await dialogue.socket.close()
    await simulator.until(lambda: not simulator.open_connections)


async def test_an_idle_connection_can_get_an_error(simulate: Simulate, talk: Talk) -> None:
    """An error event that belongs to no turn."""
    simulator = await simulate()
    simulator.inject(Fault("idle", "error", message="Bye."))
    dialogue = await talk(simulator)
    await dialogue.complete()
    assert (await dialogue.receive())["error"]["message"] == "Bye."


async def test_frames_can_be_odd(simulate: Simulate, talk: Talk) -> None:
    """The rest of a turn's events can come in binary frames, or spread over lines."""
    simulator = await simulate()
    dialogue = await talk(simulator)
    for what in ("binary", "pretty"):
        simulator.inject(Fault("after_created", what))
        await dialogue.begin()
        frames = [await dialogue.socket.recv() for _ in range(9)]
        assert isinstance(frames[0], str)
        assert all(isinstance(frame, bytes) is (what == "binary") for frame in frames[1:])
        assert all(
            (b"\n" in frame if isinstance(frame, bytes) else "\n" in frame) is (what == "pretty")
            for frame in frames[1:]
        )
        assert orjson.loads(frames[-1])["type"] in ("response.completed", "response.output_item.done")
        while orjson.loads(frames[-1])["type"] != "response.completed":
            frames.append(await dialogue.socket.recv())


async def test_a_stream_can_be_slow(simulate: Simulate, talk: Talk) -> None:
    """From a fault, from the output, or from the settings."""
    simulator = await simulate(scripted([LONG, Output((), first_event_seconds=0.05)]), first_event_seconds=0.02)
    simulator.inject(Fault("after_created", "slow", seconds=0.01))
    dialogue = await talk(simulator)
    clock = asyncio.get_running_loop().time
    started = clock()
    events = await dialogue.create()
    assert clock() - started >= 0.01 * (len(events) - 2) + 0.02
    started = clock()
    await dialogue.create()
    assert clock() - started >= 0.07


def test_faults_choose_their_turns() -> None:
    """By transport, by request, and so many times."""
    faults = Faults()
    faults.inject(Fault("before_created", "error", transport="http", times=None))
    faults.inject(Fault("before_created", "error", match=lambda request: request["model"] == "m", times=2))
    assert repr(faults) == "<Faults ['before_created: error', 'before_created: error']>"
    assert faults.take_for_handshake() is None
    assert faults.take_for_turn("ws", {"model": "other"}) is None
    assert faults.take_for_turn("ws", {"model": "m"}) is not None
    assert faults.take_for_turn("ws", {"model": "m"}) is not None
    assert faults.take_for_turn("ws", {"model": "m"}) is None
    assert faults.take_for_turn("http", {}) is faults.take_for_turn("http", {}) is not None
    assert len(faults) == 1
    faults.clear()
    assert len(faults) == 0


async def test_connections_can_be_ended_from_outside(simulate: Simulate, talk: Talk) -> None:
    """A test can close, reset and silence what is open."""
    simulator = await simulate()
    closed, reset, silent = await talk(simulator), await talk(simulator), None
    await simulator.close_connections(1001, "away")
    for dialogue in (closed, reset):
        await dialogue.socket.wait_closed()
        assert dialogue.socket.close_code == 1001
    reset = await talk(simulator)
    simulator.abort_connections()
    await reset.socket.wait_closed()
    assert reset.socket.close_code == 1006
    silent = await talk(simulator, close_timeout=0.05)
    simulator.silence_connections()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(silent.complete(), 0.1)
    assert repr(simulator).endswith("turns=0 connections=4>")


async def post(simulator: Simulator, http: aiohttp.ClientSession, **fields: Any) -> tuple[int, str, bytes]:
    """Ask over HTTP; return status, type and body."""
    url, body = f"{simulator.base_url}/responses", {"model": "m", "input": "x", **fields}
    async with http.post(url, json=body) as response:
        return response.status, response.headers["Content-Type"], await response.read()


@pytest.mark.parametrize("stream", [False, True])
async def test_http_errors_are_a_status(simulate: Simulate, http: aiohttp.ClientSession, *, stream: bool) -> None:
    """Before the body begins an error is a status, JSON or whatever a gateway says."""
    simulator = await simulate()
    simulator.inject(Fault("before_created", "error", transport="http", status=429, retry_after=3))
    async with http.post(f"{simulator.base_url}/responses", json={"model": "m", "stream": stream}) as response:
        assert (response.status, response.headers["retry-after"]) == (429, "3")
        assert (await response.json())["error"]["code"] == "server_error"
    simulator.inject(Fault("before_created", "error", status=502, body=b"<html>bad gateway"))
    answer = await post(simulator, http, stream=stream)
    assert answer == (502, "text/html; charset=utf-8", b"<html>bad gateway")
    simulator.inject(Fault("before_created", "late_error", status=500))
    assert (await post(simulator, http, stream=stream))[0] == 500


async def test_http_errors_in_mid_stream_are_events(simulate: Simulate, http: aiohttp.ClientSession) -> None:
    """After it began, an error is an event, nested and numbered, and the stream ends."""
    simulator = await simulate()
    simulator.inject(Fault("after_created", "error"))
    status, _, body = await post(simulator, http, stream=True)
    assert status == 200
    name, _, data = body.split(b"\n\n")[1].partition(b"\ndata: ")
    said = orjson.loads(data)
    assert (name, said["error"]["code"], said["sequence_number"]) == (b"event: error", "server_error", 1)


async def test_a_body_can_end_early(simulate: Simulate, http: aiohttp.ClientSession) -> None:
    """Cleanly, without a terminal event; or cut off; or with garbage."""
    simulator = await simulate()
    simulator.inject(Fault("after_created", "close"))
    _, _, body = await post(simulator, http, stream=True)
    assert body.count(b"event: ") == 1
    for what in ("abort", "garbage"):
        simulator.inject(Fault("after_created", what))
        with pytest.raises(aiohttp.ClientError):
            await post(simulator, http, stream=True)
    assert [turn.status for turn in simulator.turns] == ["cancelled"] * 3


async def test_an_answer_can_stay_away(simulate: Simulate, http: aiohttp.ClientSession) -> None:
    """A black hole, until the asker goes away."""
    simulator = await simulate()
    simulator.inject(Fault("after_created", "silence"))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(post(simulator, http), 0.1)
    await simulator.until(lambda: simulator.turns[0].cancelled)


async def test_sse_can_be_spread_over_lines(simulate: Simulate, http: aiohttp.ClientSession) -> None:
    """A record may have several data lines."""
    simulator = await simulate()
    simulator.inject(Fault("before_created", "pretty"))
    _, _, body = await post(simulator, http, stream=True)
    assert b'event: response.created\ndata: {\ndata:   "type": "response.created"' in body


async def test_a_kept_alive_connection_can_be_lost(simulate: Simulate, http: aiohttp.ClientSession) -> None:
    """The HTTP connection is reset some time after the answer."""
    simulator = await simulate()
    simulator.inject(Fault("idle", "abort"))
    assert (await post(simulator, http))[0] == 200
    await simulator.until(lambda: not simulator._wires)


async def test_a_connection_that_has_ended_cannot_be_lost(simulate: Simulate, http: aiohttp.ClientSession) -> None:
    """Somebody else was faster, which is no defect."""
    simulator, loop = await simulate(), asyncio.get_running_loop()
    defects: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _loop, context: defects.append(context))
    simulator.inject(Fault("idle", "abort", seconds=0.05))
    assert (await post(simulator, http))[0] == 200
    later = asyncio.Event()
    loop.call_later(0.1, later.set)
    simulator.abort_connections()
    await later.wait()
    assert defects == []


async def test_a_script_that_fails_is_heard(talk: Talk, http: aiohttp.ClientSession) -> None:
    """The asker gets a 500, and the test the exception."""

    async def session() -> None:
        async with Simulator(script=scripted([])) as simulator:
            error = await (await talk(simulator)).fail()
            assert error["message"].startswith("The script failed: ScriptEnded")
            assert (await post(simulator, http))[0] == 500

    with pytest.raises(ScriptEnded, match="no output is left for request 0"):
        await session()
