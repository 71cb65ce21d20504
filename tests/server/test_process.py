"""The real server process, as its users start it: agents and upstreams that go away, and signals."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import openai
import orjson
import pytest
from conversation import Agent

from proxy.simulator import Output, Simulator, SimulatorSettings, Text, scripted

Agents = Callable[..., Awaitable[Agent]]
Launch = Callable[..., Awaitable["Process"]]

ROOT = Path(__file__).parents[2]
LONG = Output((Text("x" * 400),), delta_size=1)
"""An answer of some four hundred events: with a pause after each it lasts until a test ends the pauses."""


@dataclass
class Process:
    """A command that runs, and the URL of its ready line."""

    popen: asyncio.subprocess.Process
    url: str

    async def figures(self, name: str) -> Any:
        """Return what `/_packlight/` shows under *name*."""
        async with aiohttp.ClientSession() as session, session.get(f"{self.url}/_packlight/{name}") as answer:
            return orjson.loads(await answer.read())

    async def ended(self) -> int:
        """Wait for the end; return the exit status."""
        async with asyncio.timeout(20):
            return await self.popen.wait()


@pytest.fixture
def launch(stack: AsyncExitStack, tmp_path: Path) -> Launch:
    """Start a command of ours and wait until it listens; keyword arguments are settings."""

    async def start(*arguments: str, **settings: Any) -> Process:
        environ = {name: value for name, value in os.environ.items() if not name.startswith("PACKLIGHT_")}
        environ |= {f"PACKLIGHT_{name.upper()}": str(value) for name, value in settings.items()}
        environ["XDG_CONFIG_HOME"] = str(tmp_path)  # not the developer's own settings
        popen = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "proxy", *arguments, "--port", "0"),
            cwd=ROOT,
            env=environ,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        stack.push_async_callback(end, popen)
        assert popen.stdout is not None
        ready = (await popen.stdout.readline()).decode()
        return Process(popen, ready.partition("listening on ")[2].partition("/v1")[0])

    async def end(popen: asyncio.subprocess.Process) -> None:
        if popen.returncode is None:
            popen.terminate()
            try:
                async with asyncio.timeout(10):
                    await popen.wait()
            except TimeoutError:
                popen.kill()
        await popen.communicate()

    return start


@pytest.fixture
async def simulator() -> AsyncIterator[Simulator]:
    """Return an upstream whose first answer lasts until a test lets it end."""
    settings = SimulatorSettings(event_seconds=0.02)
    async with Simulator(settings, script=scripted([LONG, "second", "third"])) as simulator:
        yield simulator


@pytest.mark.parametrize("stream", [True, False], ids=["streaming", "whole"])
async def test_an_agent_that_hangs_up_ends_its_turn(
    launch: Launch, agents: Agents, simulator: Simulator, *, stream: bool
) -> None:
    """Upstream's socket is closed, the model's answer is not waited for, and the next turn is right."""
    process = await launch("serve", "--upstream", simulator.base_url)
    agent = await agents(process.url, stream=stream)
    task = asyncio.get_running_loop().create_task(agent.turn("one"))
    await simulator.until(lambda: bool(simulator.turns) and simulator.turns[0].events_sent >= 3)
    task.cancel()
    await simulator.until(lambda: simulator.connections[0].closed)
    assert simulator.turns[0].cancelled
    simulator.settings.event_seconds = 0
    assert (await agent.turn("no, this")).text == "second"
    assert (await agent.turn("and this")).text == "third"
    assert [turn.connection_id for turn in simulator.turns] == [0, 1, 1]
    assert [turn.context for turn in simulator.turns[1:]] == agent.answered
    turns = (await process.figures("turns"))["turns"]
    assert [(turn["upload"], turn["status"]) for turn in reversed(turns)] == [
        ("full", "aborted"),
        ("full", "completed"),
        ("delta", "completed"),
    ]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_lets_a_turn_in_flight_finish(
    launch: Launch, agents: Agents, simulator: Simulator, number: int
) -> None:
    """It stops accepting, gives the answer to its end, closes the connection properly and exits 0."""
    process = await launch("serve", "--upstream", simulator.base_url)
    agent = await agents(process.url)
    async with agent.streaming("one") as stream:
        assert await stream.event() is not None
        process.popen.send_signal(number)
        await refused(process)
        assert process.popen.returncode is None
        simulator.settings.event_seconds = 0
        events = await stream.rest()
    assert events[-1]["type"] == "response.completed"
    assert await process.ended() == 0
    await simulator.until(lambda: simulator.connections[0].closed)
    assert simulator.connections[0].close_code == 1000


async def test_a_signal_lets_an_agent_that_reads_late_have_all_of_its_answer(
    launch: Launch, simulator: Simulator
) -> None:
    """A turn is in flight until its answer was taken, also where upstream has said all of it long before."""
    simulator.settings.event_seconds = 0
    simulator.script = scripted([Output((Text("x" * 8_000_000),), delta_size=200_000)])
    process = await launch("serve", "--upstream", simulator.base_url)
    async with aiohttp.ClientSession(read_bufsize=1024, headers={"Authorization": "Bearer key"}) as session:
        body = {"model": "m", "input": "x"}
        async with session.post(f"{process.url}/v1/responses", json=body) as answer:
            process.popen.send_signal(signal.SIGTERM)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(2.5):
                    await process.popen.wait()
            assert len(await answer.read()) > 8_000_000
    assert await process.ended() == 0


async def test_a_turn_that_outlasts_the_drain_is_aborted(
    launch: Launch, agents: Agents, simulator: Simulator
) -> None:
    """After drain_seconds the answer breaks off without a proper end, and the process exits 0."""
    process = await launch("serve", "--upstream", simulator.base_url, drain_seconds=0.2)
    agent = await agents(process.url)
    async with agent.streaming("one") as stream:
        assert await stream.event() is not None
        process.popen.send_signal(signal.SIGTERM)
        with pytest.raises(aiohttp.ClientError):
            await stream.rest()
    assert await process.ended() == 0
    await simulator.until(lambda: simulator.connections[0].closed)
    assert simulator.turns[0].cancelled


async def test_an_idle_process_ends_at_once(launch: Launch, agents: Agents, simulator: Simulator) -> None:
    """Connections that an agent and upstream keep open are not waited for."""
    process = await launch("serve", "--upstream", simulator.base_url, drain_seconds=60)
    simulator.settings.event_seconds = 0
    agent = await agents(process.url)
    await agent.turn("one")
    process.popen.send_signal(signal.SIGTERM)
    assert await process.ended() == 0
    await simulator.until(lambda: simulator.connections[0].closed)
    assert simulator.connections[0].close_code == 1000


SLOW_LOOKUPS = """
import pathlib, socket, threading
def getaddrinfo(host, *args, usual=socket.getaddrinfo, **options):
    if host != "dark.invalid":
        return usual(host, *args, **options)
    pathlib.Path(__file__).with_name("asked").touch()
    threading.Event().wait()
socket.getaddrinfo = getaddrinfo
"""


@pytest.mark.parametrize("websocket", ["auto", "off"])
async def test_a_lookup_that_never_ends_does_not_hold_the_process(
    launch: Launch, agents: Agents, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, websocket: str
) -> None:
    """On a dark link a name server that does not answer is asked for long."""
    (tmp_path / "sitecustomize.py").write_text(SLOW_LOOKUPS)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    process = await launch(
        "serve",
        "--upstream",
        "https://dark.invalid/v1",
        drain_seconds=0.1,
        websocket=websocket,
        open_ahead="false",
    )
    agent = await agents(process.url)
    turn = asyncio.get_running_loop().create_task(agent.turn("one"))
    async with asyncio.timeout(20):
        while not (tmp_path / "asked").exists():
            await process.figures("health")
    process.popen.send_signal(signal.SIGTERM)
    assert (await turn).status == 503
    assert await process.ended() == 0


@pytest.mark.parametrize("stream", [True, False], ids=["streaming", "whole"])
async def test_an_upstream_that_is_killed_in_mid_stream_is_an_error(launch: Launch, *, stream: bool) -> None:
    """The official SDK raises: a broken stream cannot pass for a whole answer, a whole one is a 502."""
    upstream = await launch("simulate", "--event-seconds", "0.3")
    process = await launch("serve", "--upstream", f"{upstream.url}/v1")
    async with openai.AsyncOpenAI(base_url=f"{process.url}/v1", api_key="key", max_retries=0) as client:
        if stream:
            events = await client.responses.create(model="m", input="hi", stream=True)
            assert (await anext(events)).type == "response.created"
            upstream.popen.kill()
            with pytest.raises(openai.APIConnectionError):
                await exhaust(events)
            await events.close()
        else:
            answer = asyncio.get_running_loop().create_task(client.responses.create(model="m", input="hi"))
            await received(process)
            upstream.popen.kill()
            with pytest.raises(openai.InternalServerError) as caught:
                await answer
            assert caught.value.status_code == 502
            assert caught.value.code == "upstream_unavailable"
        with pytest.raises(openai.InternalServerError, match="packlight: upstream"):
            await client.responses.create(model="m", input="hi")
    turns = (await process.figures("turns"))["turns"]
    assert [turn["status"] for turn in turns] == ["failed", "failed"]
    assert (await process.figures("stats"))["connections"]["open"] == 0


async def exhaust(events: openai.AsyncStream[Any]) -> None:
    """Read *events* to their end."""
    async for event in events:
        assert event.type != "response.completed"


async def refused(process: Process) -> None:
    """Wait until *process* takes no connections any more."""
    host, port = process.url.removeprefix("http://").split(":")
    async with asyncio.timeout(10):
        while True:
            try:
                _, writer = await asyncio.open_connection(host, int(port))
            except OSError:
                return
            writer.close()


async def received(process: Process) -> None:
    """Wait until *process* has got some of an answer from upstream, beyond the handshake."""
    async with asyncio.timeout(10):
        while (await process.figures("stats"))["bytes"]["from_upstream"] < 500:
            pass
