"""A simulated upstream for each test, and ways to talk to it."""

from contextlib import AsyncExitStack
from typing import Any

import aiohttp
import pytest
from dialogue import AUTHORIZATION, Client, Dialogue, Simulate, Talk
from openai import AsyncOpenAI

from proxy.simulator import Script, Simulator, SimulatorSettings, echo_script


@pytest.fixture
def simulate(stack: AsyncExitStack) -> Simulate:
    """Start a simulator: keyword arguments are its settings."""

    async def start(script: Script = echo_script, **settings: Any) -> Simulator:
        return await stack.enter_async_context(Simulator(SimulatorSettings(**settings), script=script))

    return start


@pytest.fixture
def talk(stack: AsyncExitStack) -> Talk:
    """Open a WebSocket to a simulator."""

    async def start(simulator: Simulator, **options: Any) -> Dialogue:
        return await stack.enter_async_context(Dialogue(simulator, **options))

    return start


@pytest.fixture
async def http(stack: AsyncExitStack) -> aiohttp.ClientSession:
    """Return an HTTP client with a key."""
    return await stack.enter_async_context(aiohttp.ClientSession(headers=AUTHORIZATION))


@pytest.fixture
def sdk(stack: AsyncExitStack) -> Client:
    """Make SDK clients, and close them."""

    def make(simulator: Simulator) -> AsyncOpenAI:
        client = AsyncOpenAI(api_key="key", base_url=simulator.base_url, max_retries=0)
        stack.push_async_callback(client.close)
        return client

    return make
