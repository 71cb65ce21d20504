"""The running proxy for each test: an upstream behind it, and an agent in front."""

import os
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import aiohttp
import orjson
import pytest
from conversation import Agent
from hypothesis import HealthCheck, settings
from proxied import Peer, Proxied, RawUpstream
from websockets.asyncio.server import ServerConnection, serve

from proxy.config import Config
from proxy.server import Server
from proxy.simulator import Script, Simulator, SimulatorSettings, echo_script, scripted

settings.register_profile(
    "ci", derandomize=True, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("search", deadline=None, print_blob=True)  # another part of the space each time
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    """Hold what ends with the test."""
    async with AsyncExitStack() as stack:
        yield stack


@pytest.fixture
async def simulator() -> AsyncIterator[Simulator]:
    """Return a simulator that numbers its answers."""
    script = scripted(f"answer {number}" for number in range(100))
    async with Simulator(SimulatorSettings(), script=script) as simulator:
        yield simulator


@pytest.fixture
def proxied(stack: AsyncExitStack) -> Callable[..., Awaitable[Proxied]]:
    """Start the proxy: keyword arguments are its settings, *simulated* those of the upstream behind it.

    *clock* is the proxy's, *upstream_clock* the simulator's; *tls* is what the proxy trusts.
    """

    async def start(
        script: Script = echo_script,
        *,
        simulated: dict[str, Any] | None = None,
        clock: Callable[[], float] = time.monotonic,
        upstream_clock: Callable[[], float] | None = None,
        tls: ssl.SSLContext | None = None,
        **settings: Any,
    ) -> Proxied:
        simulator = Simulator(SimulatorSettings(**(simulated or {})), script=script, clock=upstream_clock)
        if "upstream" not in settings:
            settings["upstream"] = (await stack.enter_async_context(simulator)).base_url
        config = Config(**{"port": 0, "drain_seconds": 0.2, **settings})
        proxied = Proxied(await stack.enter_async_context(Server(config, clock=clock, tls=tls)), simulator)
        stack.callback(_hang_up, proxied.peers)
        return proxied

    return start


def _hang_up(peers: list[Peer]) -> None:
    for peer in peers:
        peer.close()


@pytest.fixture
def raw_upstream(stack: AsyncExitStack) -> Callable[..., Awaitable[RawUpstream]]:
    """Start an upstream of the test's own: a coroutine that is given each connection, as a `Peer`."""

    async def start(serve: Callable[[Peer], Awaitable[None]], **options: Any) -> RawUpstream:
        return await stack.enter_async_context(RawUpstream(serve, **options))

    return start


@pytest.fixture
def agents(stack: AsyncExitStack) -> Callable[..., Awaitable[Agent]]:
    """Start an agent that speaks to the proxy at a URL; keyword arguments are fields of its requests."""

    async def start(url: str, **options: Any) -> Agent:
        connector = aiohttp.TCPConnector(limit=0)
        session = await stack.enter_async_context(aiohttp.ClientSession(connector=connector, read_bufsize=2**24))
        return Agent(session, url, **options)

    return start


@pytest.fixture
def speaking(stack: AsyncExitStack) -> Callable[..., Awaitable[str]]:
    """Start an upstream that answers each WebSocket message with *frames*, word for word; return its API base.

    A frame is JSON to be written as text, or text or bytes as they are; a function in place of the frames is
    given the message and returns them.
    """

    async def start(*frames: Any, **options: Any) -> str:
        async def speak(connection: ServerConnection) -> None:
            async for message in connection:
                asked = callable(frames[0])
                for frame in frames[0](orjson.loads(message)) if asked else frames:
                    is_raw = isinstance(frame, bytes | str)
                    await connection.send(frame if is_raw else orjson.dumps(frame).decode())

        server = await stack.enter_async_context(serve(speak, "127.0.0.1", 0, **options))
        return "http://{}:{}/v1".format(*next(iter(server.sockets)).getsockname())

    return start
