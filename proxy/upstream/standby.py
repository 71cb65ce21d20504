"""One connection to upstream before anybody asks: its name found, TCP and TLS done, and nothing said on it.

On a long link those are three of the four round trips before the first turn can leave; only the upgrade needs an
agent's key. No server waits for a first word for long, so it is there for a minute, and once.
"""

import asyncio
from typing import cast

from proxy.errors import UpstreamUnavailable
from proxy.upstream.background import Background
from proxy.upstream.dial import Dialer
from proxy.upstream.endpoint import Endpoint
from proxy.upstream.liveness import has_moved, lag

KEPT_SECONDS = 50.0
"""Common servers and load balancers give a client a minute to say something."""

_NAP = 1.0
"""Seconds of sleep of this machine after which the connection is not believed in."""


class Standby(Dialer):
    """Connects to *endpoint*, and can have one connection open for whoever asks first. Close it in the end."""

    def __init__(self, endpoint: Endpoint) -> None:
        super().__init__(endpoint)
        self._background = Background()
        self._opening: asyncio.Task[_Silent | None] | None = None

    def open(self, limit: float) -> None:
        """Begin to open it, for at most *limit* seconds. A failure is not reported: a turn will find out why."""
        self._opening = self._background.start(self._open(limit), "stand by")

    async def take(self) -> asyncio.Transport | None:
        """Return it, once, and wait for it while it is being opened; None where there is none."""
        opening, self._opening = self._opening, None
        if opening is None:
            return None
        try:
            held = await asyncio.shield(opening)
        except asyncio.CancelledError:
            self._opening = opening  # for whoever asks next
            raise
        if held is None or not held.may_be_used:
            return None
        held.timer.cancel()
        return held.transport

    async def close(self) -> None:
        """Let go of it."""
        if self._opening is not None:
            self._opening.cancel()
            if self._opening.done() and not self._opening.cancelled() and (held := self._opening.result()):
                held.end()
        await self._background.close(0)

    async def _open(self, limit: float) -> "_Silent | None":
        loop, endpoint = asyncio.get_running_loop(), self._endpoint
        try:
            async with asyncio.timeout(limit):
                sock = await self.dial(limit)
                _, held = await loop.create_connection(
                    _Silent, sock=sock, ssl=endpoint.ssl_context, server_hostname=endpoint.host
                )
        except (OSError, UpstreamUnavailable):
            return None
        return held


class _Silent(asyncio.Protocol):
    """The connection while nothing is said on it."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep it for so long and no longer."""
        self.transport = cast("asyncio.Transport", transport)
        self.timer = asyncio.get_running_loop().call_later(KEPT_SECONDS, self.end)
        self._lag = lag()

    def data_received(self, _data: bytes) -> None:
        """Take none of what was not asked for."""
        self.end()

    def end(self) -> None:
        """Let go of it."""
        self.timer.cancel()
        self.transport.abort()

    @property
    def may_be_used(self) -> bool:
        """Whether it is open, and nothing speaks for its being dead."""
        if self.transport.is_closing():
            return False
        if has_moved(self.transport.get_extra_info("socket")) or lag() - self._lag > _NAP:
            self.end()
            return False
        return True
