"""A pool towards a simulator."""

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest
from pooling import Pooled

from proxy.simulator import Simulator


@pytest.fixture
def pooled(stack: AsyncExitStack, simulator: Simulator) -> Callable[..., Awaitable[Pooled]]:
    """Start a pool towards the simulator; keyword arguments are its limits."""

    async def start(**options: Any) -> Pooled:
        return await stack.enter_async_context(Pooled(simulator.base_url, **options))

    return start
