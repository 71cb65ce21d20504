"""A pool towards a simulator."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest
from pooling import Pooled

from proxy.simulator import Simulator, SimulatorSettings, scripted


@pytest.fixture
async def simulator() -> AsyncIterator[Simulator]:
    """Return a simulator that numbers its answers."""
    script = scripted(f"answer {number}" for number in range(100))
    async with Simulator(SimulatorSettings(), script=script) as simulator:
        yield simulator


@pytest.fixture
def pooled(stack: AsyncExitStack, simulator: Simulator) -> Callable[..., Awaitable[Pooled]]:
    """Start a pool towards the simulator; keyword arguments are its limits."""

    async def start(**options: Any) -> Pooled:
        return await stack.enter_async_context(Pooled(simulator.base_url, **options))

    return start
