"""The port: bytes that are counted, slowed down, encrypted."""

import asyncio
import ssl
import subprocess
from pathlib import Path
from typing import Any, Self

import aiohttp
import orjson
import pytest
from dialogue import AUTHORIZATION, Dialogue, Simulate, Talk, texts

from proxy.simulator import Output, Simulator, SimulatorSettings, Text, echo_script, scripted
from proxy.simulator.wire import OutsideTransport


class Tap:
    """Counts what passes between a client and the simulator."""

    def __init__(self, simulator: Simulator) -> None:
        self._simulator = simulator
        self.up = self.down = 0
        self._done = asyncio.Event()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    async def wait_closed(self) -> None:
        """Wait until a connection has ended on both sides."""
        async with asyncio.timeout(5):
            await self._done.wait()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._simulator.port)

        async def up() -> None:
            while data := await reader.read(65536):
                self.up += len(data)
                far_writer.write(data)
            far_writer.close()

        async def down() -> None:
            while data := await far_reader.read(65536):
                self.down += len(data)
                writer.write(data)
            writer.close()

        await asyncio.gather(up(), down())
        self._done.set()


async def test_every_byte_is_counted(simulate: Simulate) -> None:
    """The figures equal what crossed the sockets, upgrade, frames and closing included."""
    simulator = await simulate()
    async with Tap(simulator) as tap:
        url = f"ws://127.0.0.1:{tap.port}/v1/responses"
        async with Dialogue(simulator, url=url) as dialogue:
            await dialogue.complete("hello" * 1000)
        await tap.wait_closed()
        connection = simulator.connections[0]
        assert (connection.bytes_in, connection.bytes_out) == (tap.up, tap.down)
    async with Tap(simulator) as tap, aiohttp.ClientSession(headers=AUTHORIZATION) as http:
        before = simulator.bytes_in, simulator.bytes_out
        body = {"model": "m", "input": "x" * 100_000, "stream": True}
        url = f"http://127.0.0.1:{tap.port}/v1/responses"
        async with http.post(url, json=body, headers={"Connection": "close"}) as response:
            await response.read()
        await tap.wait_closed()
        counted = simulator.bytes_in - before[0], simulator.bytes_out - before[1]
        assert counted == (tap.up, tap.down)
    assert simulator.bytes_in == sum(connection.bytes_in for connection in simulator.connections) + tap.up


async def test_the_uplink_can_be_slow(simulate: Simulate, talk: Talk) -> None:
    """A message takes as long as its bytes need."""
    simulator = await simulate(uplink_bytes_per_second=100_000, deflate="off")
    dialogue = await talk(simulator)
    started = asyncio.get_running_loop().time()
    await dialogue.complete("x" * 40_000)
    assert 0.35 <= asyncio.get_running_loop().time() - started < 3


async def test_the_downlink_can_be_slow(simulate: Simulate, talk: Talk) -> None:
    """An answer too; changed while running, the rate applies to what comes next."""
    text = "x" * 20_000
    simulator = await simulate(scripted([Output((Text(text),), delta_size=5000)] * 2), deflate="off")
    dialogue = await talk(simulator)
    clock = asyncio.get_running_loop().time
    assert texts(await dialogue.create()) == text
    simulator.settings.downlink_bytes_per_second = 400_000
    before, started = simulator.bytes_out, clock()
    assert texts(await dialogue.create()) == text
    assert clock() - started >= (simulator.bytes_out - before) / 400_000 * 0.8


async def test_many_small_events_use_the_whole_downlink(simulate: Simulate, talk: Talk) -> None:
    """A rate limits bytes, not events."""
    simulator = await simulate(scripted([Output((Text("x" * 3000),), delta_size=2)]), deflate="off")
    dialogue = await talk(simulator)
    simulator.settings.downlink_bytes_per_second = 1_000_000
    clock = asyncio.get_running_loop().time
    started = clock()
    events = await dialogue.create()
    assert len(events) > 1500
    assert 0.2 < clock() - started < 3


async def test_a_slow_link_ends_after_its_bytes(simulate: Simulate) -> None:
    """Closing, half-closing and http bodies wait for what is on its way."""
    simulator = await simulate(downlink_bytes_per_second=50_000, uplink_bytes_per_second=50_000)
    body = orjson.dumps({"model": "m", "input": "x" * 5000})
    head = b"POST /v1/echo/raw HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body)
    reader, writer = await asyncio.open_connection("127.0.0.1", simulator.port)
    writer.write(head + body)
    answer = await reader.read()
    assert body in answer
    writer.close()
    await writer.wait_closed()
    async with Dialogue(simulator) as dialogue:
        await dialogue.begin()
    await simulator.until(lambda: simulator.connections[0].closed)


async def test_an_end_of_input_waits_on_a_slow_uplink(simulate: Simulate) -> None:
    """A client that half-closes is still heard to its end."""
    simulator = await simulate(uplink_bytes_per_second=20_000)
    reader, writer = await asyncio.open_connection("127.0.0.1", simulator.port)
    writer.write(b"GET /v1/echo HTTP/1.1\r\nHost: x\r\nX-Long: %b\r\n\r\n" % (b"x" * 2000))
    writer.write_eof()
    await reader.read()
    await simulator.until(lambda: len(simulator.requests) == 1)
    writer.close()
    await writer.wait_closed()


async def test_a_slow_reader_is_waited_for(simulate: Simulate, talk: Talk) -> None:
    """Pressure reaches the sender: a turn goes no faster than its reader."""
    simulator = await simulate(scripted([Output((Text("x" * 20_000_000),), delta_size=1_000_000)]), deflate="off")
    dialogue = await talk(simulator)
    dialogue.socket.transport.pause_reading()
    await dialogue.begin()
    await simulator.until(lambda: simulator.turns != [] and simulator.turns[0].events_sent > 3)
    sent = simulator.turns[0].events_sent
    assert sent < 20
    dialogue.socket.transport.resume_reading()
    assert len(texts(await dialogue.finish())) == 20_000_000


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a certificate for 127.0.0.1."""
    path = tmp_path_factory.mktemp("tls")
    command = (
        "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=IP:127.0.0.1"
    )
    files = ["-keyout", str(path / "key.pem"), "-out", str(path / "cert.pem")]
    subprocess.run([*command.split(), *files], check=True, capture_output=True)  # noqa: S603  known words
    return path


async def test_tls(certificate: Path, stack: Any) -> None:
    """HTTPS and wss work on one port, and are cut as plain ones are."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
    client = ssl.create_default_context(cafile=certificate / "cert.pem")
    simulator = await stack.enter_async_context(Simulator(SimulatorSettings(), script=echo_script, ssl=server))
    assert simulator.base_url.startswith("https://")
    assert simulator.websocket_url.startswith("wss://")
    dialogue = await stack.enter_async_context(Dialogue(simulator, ssl=client))
    await dialogue.complete()
    connector = aiohttp.TCPConnector(ssl=client)
    http = await stack.enter_async_context(aiohttp.ClientSession(connector=connector, headers=AUTHORIZATION))
    async with http.post(f"{simulator.base_url}/responses", json={"model": "m"}) as response:
        assert response.status == 200
    simulator.abort_connections()
    await dialogue.socket.wait_closed()


async def test_a_speaker_sees_an_ordinary_transport(simulate: Simulate, talk: Talk) -> None:
    """What a protocol may ask of its transport is answered."""
    simulator = await simulate()
    await talk(simulator)
    (wire,) = simulator._wires
    transport = wire.outside
    assert isinstance(transport, OutsideTransport)
    assert transport.is_reading()
    assert transport.get_write_buffer_size() == 0
    assert transport.can_write_eof()
    assert transport.get_extra_info("peername")
    assert repr(wire).startswith("<Wire 1 in=")


async def test_stopping_cuts_what_is_open(talk: Talk) -> None:
    """Connections and requests in flight end with the simulator."""
    output = Output((Text("x"),), event_seconds=60)
    async with Simulator(script=scripted([output, output])) as simulator:
        dialogue = await talk(simulator)
        await dialogue.begin()
        async with aiohttp.ClientSession(headers=AUTHORIZATION) as http:
            body = {"model": "m", "stream": True}
            response = await http.post(f"{simulator.base_url}/responses", json=body)
            assert repr(simulator).startswith("<Simulator http://127.0.0.1:")
            await simulator.stop()
            with pytest.raises(aiohttp.ClientError):
                await response.read()
        await dialogue.socket.wait_closed()
        assert all(turn.cancelled for turn in simulator.turns)
    assert not simulator._wires
    assert repr(Simulator()) == "<Simulator not listening turns=0 connections=0>"


async def test_records_can_be_limited(simulate: Simulate, talk: Talk) -> None:
    """A simulator that runs for long keeps the latest ones; ids stay unique."""
    simulator = await simulate(keep_records=2)
    responses = [await (await talk(simulator)).complete() for _ in range(3)]
    assert len({response["id"] for response in responses}) == 3
    assert [turn.number for turn in simulator.turns] == [1, 2]
    assert [connection.id for connection in simulator.connections] == [1, 2]
    assert len(simulator.requests) == 2


async def test_no_records_need_be_kept(simulate: Simulate, talk: Talk) -> None:
    """A limit of 0 means none, not all."""
    simulator = await simulate(keep_records=0)
    await (await talk(simulator)).complete()
    assert (simulator.turns, simulator.connections, simulator.requests) == ([], [], [])


def test_an_ipv6_address_is_in_brackets() -> None:
    """Both URLs work as they are."""
    simulator = Simulator(host="::1", port=9000)
    assert simulator.base_url == "http://[::1]:9000/v1"
    assert simulator.websocket_url == "ws://[::1]:9000/v1/responses"
