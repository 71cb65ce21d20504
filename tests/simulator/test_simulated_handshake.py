"""The upgrade: who gets a WebSocket, with what compression, and how long it lives."""

import asyncio
from typing import Any

import pytest
from dialogue import AUTHORIZATION, Dialogue, Simulate, Talk
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosedError, InvalidHandshake, InvalidStatus, InvalidURI
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory

from proxy.simulator import Fault, Simulator, SimulatorSettings, echo_script


async def refused(simulator: Simulator, headers: dict[str, str] | None = None) -> Any:
    """Return the answer to an upgrade that must be refused."""
    with pytest.raises(InvalidStatus) as caught:
        await connect(simulator.websocket_url, additional_headers=headers or AUTHORIZATION)
    return caught.value.response


async def test_a_key_is_needed(simulate: Simulate) -> None:
    """Without a bearer key, or with a wrong one, the answer is 401 in JSON."""
    simulator = await simulate(api_keys=("right",))
    for headers in ({"X": "y"}, {"Authorization": "Basic abc"}, AUTHORIZATION):
        response = await refused(simulator, headers)
        assert response.status_code == 401
        assert b'"invalid_api_key"' in response.body
    async with Dialogue(simulator, {"Authorization": "Bearer right"}):
        assert [request.status for request in simulator.requests] == [401, 401, 401, 101]


async def test_a_key_can_be_needless(simulate: Simulate) -> None:
    """require_key can be turned off."""
    simulator = await simulate(require_key=False)
    async with connect(simulator.websocket_url):
        assert len(simulator.open_connections) == 1


@pytest.mark.parametrize("status", [403, 404, 405, 426, 501])
async def test_upgrades_can_be_refused_for_good(simulate: Simulate, status: int) -> None:
    """A server without WebSocket answers every upgrade with its status, in JSON."""
    simulator = await simulate(refuse_upgrade=status)
    for _ in range(2):
        response = await refused(simulator)
        assert response.status_code == status
        assert response.headers["Content-Type"].startswith("application/json")


async def test_a_beta_header_can_be_required(simulate: Simulate, talk: Talk) -> None:
    """The upgrade needs it; without, 400."""
    simulator = await simulate(required_beta="responses_websockets=2026-02-06")
    assert (await refused(simulator)).status_code == 400
    await talk(simulator, headers={"OpenAI-Beta": "responses_websockets=2026-02-06"})


async def test_a_malformed_upgrade_is_refused(simulate: Simulate, http: Any) -> None:
    """Upgrade without a key or version is a bad request, not a WebSocket."""
    simulator = await simulate()
    headers = {"Upgrade": "websocket", "Connection": "Upgrade"}
    async with http.get(f"{simulator.base_url}/responses", headers=headers) as response:
        assert response.status == 400
    assert simulator.connections == []


@pytest.mark.parametrize("status", [401, 403, 404, 429, 503])
async def test_one_upgrade_can_be_refused(simulate: Simulate, talk: Talk, status: int) -> None:
    """A scripted refusal hits once, with retry-after."""
    simulator = await simulate()
    simulator.inject(Fault("handshake", "error", status=status, code="no", message="No.", retry_after=1.5))
    response = await refused(simulator)
    assert (response.status_code, response.headers["retry-after"]) == (status, "1.5")
    assert b'"No."' in response.body
    await talk(simulator)


async def test_a_portal_may_answer(simulate: Simulate) -> None:
    """200 with HTML, a redirect and 511 can stand in for upstream."""
    simulator = await simulate()
    for status in (200, 302, 511):
        headers = {"Location": "http://portal.invalid/"} if status == 302 else {}
        simulator.inject(Fault("handshake", "error", status=status, body=b"<html>", headers=headers))
        with pytest.raises((InvalidHandshake, InvalidURI)):
            await connect(simulator.websocket_url, additional_headers=AUTHORIZATION)
    assert [request.status for request in simulator.requests] == [200, 302, 511]


@pytest.mark.parametrize("what", ["abort", "close", "garbage"])
async def test_an_upgrade_can_be_cut(simulate: Simulate, talk: Talk, what: Any) -> None:
    """No answer, or bytes that are none."""
    simulator = await simulate()
    simulator.inject(Fault("handshake", what))
    with pytest.raises((InvalidHandshake, OSError, EOFError)):
        await connect(simulator.websocket_url, additional_headers=AUTHORIZATION)
    await talk(simulator)


async def test_an_upgrade_can_stay_unanswered(simulate: Simulate) -> None:
    """A black hole keeps the socket and says nothing."""
    simulator = await simulate()
    simulator.inject(Fault("handshake", "silence"))
    with pytest.raises(TimeoutError):
        await connect(simulator.websocket_url, additional_headers=AUTHORIZATION, open_timeout=0.1)
    assert simulator.connections == []


async def test_an_upgrade_can_be_slow(simulate: Simulate, talk: Talk) -> None:
    """Latency, from the settings or once, delays the answer."""
    simulator = await simulate(handshake_seconds=0.05)
    simulator.inject(Fault("handshake", "slow", seconds=0.05))
    started = asyncio.get_running_loop().time()
    await talk(simulator)
    assert asyncio.get_running_loop().time() - started >= 0.1


async def test_the_answer_can_carry_headers(simulate: Simulate, talk: Talk) -> None:
    """handshake_headers are on the 101."""
    dialogue = await talk(await simulate(handshake_headers={"openai-model": "m"}))
    assert dialogue.socket.response is not None
    assert dialogue.socket.response.headers["openai-model"] == "m"


@pytest.mark.parametrize(
    ("deflate", "agreed"),
    [
        ("off", ""),
        ("15", "permessage-deflate"),
        ("12", "permessage-deflate; server_max_window_bits=12; client_max_window_bits=12"),
        ("no_takeover", "permessage-deflate; server_no_context_takeover; client_no_context_takeover"),
    ],
)
async def test_compression_is_negotiated(simulate: Simulate, talk: Talk, deflate: str, agreed: str) -> None:
    """The four settings answer with their parameters, and messages get through."""
    simulator = await simulate(deflate=deflate)
    dialogue = await talk(simulator)
    await dialogue.complete("word " * 1000)
    assert simulator.connections[0].extensions == agreed
    saves = simulator.connections[0].bytes_in < 2000
    assert saves is (deflate != "off")


async def test_a_client_window_is_limited_only_if_offered(simulate: Simulate, talk: Talk) -> None:
    """A client that doesn't offer client_max_window_bits isn't told any; one without deflate gets none."""
    simulator = await simulate(deflate="12")
    offer = ClientPerMessageDeflateFactory(client_max_window_bits=None)
    await talk(simulator, compression=None, extensions=[offer])
    await talk(simulator, compression=None)
    extensions = [connection.extensions for connection in simulator.connections]
    assert extensions == ["permessage-deflate; server_max_window_bits=12", ""]


async def test_large_messages_close_with_1009(simulate: Simulate, talk: Talk) -> None:
    """One byte over the limit is too much; 16 MiB is the default."""
    assert SimulatorSettings().max_message_bytes == 16_777_216
    simulator = await simulate(max_message_bytes=1000)
    dialogue = await talk(simulator)
    await dialogue.complete("x" * 800)
    with pytest.raises(ConnectionClosedError) as caught:
        await dialogue.create("x" * 1000)
    assert caught.value.rcvd is not None
    assert caught.value.rcvd.code == 1009
    await simulator.until(lambda: simulator.connections[0].closed)
    assert simulator.connections[0].close_code == 1009
    assert repr(simulator.connections[0]) == "<ConnectionRecord 0 closed 1009 turns=1>"


async def test_a_late_pong_closes_with_1011(simulate: Simulate, talk: Talk) -> None:
    """Who doesn't read doesn't pong, and is closed with the known reason."""
    simulator = await simulate(ping_interval=0.01, ping_timeout=0.05, close_timeout=0.05)
    dialogue = await talk(simulator, ping_interval=None)
    dialogue.socket.transport.pause_reading()
    await simulator.until(lambda: not simulator.open_connections)
    assert simulator.connections[0].close_code == 1011
    dialogue.socket.transport.resume_reading()
    with pytest.raises(ConnectionClosedError) as caught:
        await dialogue.receive()
    assert caught.value.rcvd is not None
    assert (caught.value.rcvd.code, caught.value.rcvd.reason) == (1011, "keepalive ping timeout")


@pytest.mark.parametrize("closes", [False, True])
async def test_connections_have_an_age_limit(closes: bool, stack: Any) -> None:  # noqa: FBT001  a parameter
    """After an hour each create is refused with the documented words; the connection may be closed, too."""
    now = 0.0
    settings = SimulatorSettings(close_at_age_limit=closes)
    simulator = await stack.enter_async_context(Simulator(settings, script=echo_script, clock=lambda: now))
    dialogue = await stack.enter_async_context(Dialogue(simulator))
    now = 3599
    first = await dialogue.complete()
    now = 3600
    error = await dialogue.fail(previous_response_id=first["id"])
    assert error["code"] == "websocket_connection_limit_reached"
    assert error["message"] == (
        "Responses websocket connection limit reached (60 minutes). Create a new websocket connection to continue."
    )
    if closes:
        await dialogue.socket.wait_closed()
        assert dialogue.socket.close_code == 1000
    else:
        await dialogue.fail()


async def test_idle_connections_can_die_silently(simulate: Simulate, talk: Talk) -> None:
    """After a while without traffic nothing is heard any more, and no close is seen."""
    simulator = await simulate(silent_after_idle_seconds=0.5)
    dialogue = await talk(simulator, close_timeout=0.05)
    await dialogue.complete()
    await simulator.until(lambda: simulator.connections[0].silent)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(await dialogue.socket.ping(), 0.1)
    assert len(simulator.open_connections) == 1


async def test_paths_and_upgrades(simulate: Simulate) -> None:
    """An upgrade anywhere else is no WebSocket."""
    simulator = await simulate()
    with pytest.raises(InvalidStatus) as caught:
        await connect(simulator.websocket_url + "/elsewhere", additional_headers=AUTHORIZATION)
    assert caught.value.response.status_code == 404
