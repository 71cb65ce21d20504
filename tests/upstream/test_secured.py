"""TLS to upstream through a relay: a handshake that hangs is raced by another one."""

import asyncio
import ssl
import sys
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from typing import Any

import pytest
import trustme
from certificates import serving, trusting
from link import Link, Ways
from way import Ending, Way

from proxy.simulator import Simulator
from proxy.upstream.dial import Dialer
from proxy.upstream.endpoint import Endpoint
from proxy.upstream.secured import Silent, secured

PATIENCE = 0.3
Run = tuple[Link, Callable[..., Coroutine[Any, Any, Silent]]]


@pytest.fixture
async def run(stack: AsyncExitStack) -> Run:
    """Start an upstream behind a relay; return the relay, and what opens a connection to it."""
    authority = trustme.CA()
    tls = serving(authority.issue_cert("127.0.0.1"))
    simulator = await stack.enter_async_context(Simulator(ssl=tls))
    link = await stack.enter_async_context(Link(("127.0.0.1", simulator.port)))

    async def opened(*, open_timeout: float = 5, trusted: trustme.CA = authority) -> Silent:
        endpoint = Endpoint(link.base_url.replace("http:", "https:"), trusting(trusted))
        silent = await secured(
            endpoint, Dialer(endpoint), link_timeout=5, open_timeout=open_timeout, patience=PATIENCE
        )
        stack.callback(silent.end)
        return silent

    return link, opened


def ending(how: Ending, after: int = 0) -> Ways:
    """Return the ways of a connection on which no more than so many bytes come."""
    return Ways(down=Way(limit=after, ending=how))


@pytest.mark.parametrize("after", [0, 300], ids=["from the start", "half-way"])
async def test_one_that_hangs_is_raced(run: Run, after: int) -> None:
    """Another gets through, in a fraction of open_timeout."""
    link, opened = run
    link.planned.append(ending("silence", after))
    silent = await opened()
    assert silent.may_be_used
    assert silent.handshake_seconds < PATIENCE
    assert link.connections_ever == 2


async def test_several_may_hang(run: Run) -> None:
    """Each is given as long as the first."""
    link, opened = run
    link.planned += [ending("silence"), ending("silence")]
    assert (await opened()).may_be_used
    assert link.connections_ever == 3


async def test_the_first_may_still_win(run: Run) -> None:
    """It goes on beside the others, which are ended when it is through."""
    link, opened = run
    first = Ways()
    first.down.stop()
    link.planned += [first, ending("silence")]
    opening = asyncio.get_running_loop().create_task(opened())
    async with asyncio.timeout(5):
        while link.connections_ever < 2:  # noqa: ASYNC110  nobody tells when it changes
            await asyncio.sleep(PATIENCE / 20)
    first.down.go()
    silent = await opening
    silent.end()
    async with asyncio.timeout(5):
        await link.ended()
    assert silent.handshake_seconds >= PATIENCE


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nothing tells that a handshake goes on")
async def test_one_that_is_slow_is_not_raced(run: Run) -> None:
    """For as long as something is heard of it: the certificate would only come twice over the same slow link."""
    link, opened = run
    link.planned.append(Ways(down=Way(bandwidth=1500)))
    assert (await opened()).handshake_seconds > PATIENCE
    assert link.connections_ever == 1


async def test_open_timeout_ends_them_all(run: Run) -> None:
    """Whoever waits is told then, and nothing goes on behind it."""
    link, opened = run
    link.down.stop()
    with pytest.raises(TimeoutError):
        await opened(open_timeout=2.5 * PATIENCE)
    assert link.connections_ever > 1
    link.down.go()
    async with asyncio.timeout(5):
        await link.ended()


async def test_a_refusal_is_told_at_once(run: Run) -> None:
    """A certificate that is not trusted becomes no better by waiting."""
    link, opened = run
    with pytest.raises(ssl.SSLCertVerificationError):
        await opened(trusted=trustme.CA())
    assert link.connections_ever == 1
