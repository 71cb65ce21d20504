"""One connection to upstream before anybody asks: its name found, TCP and TLS done, and nothing said on it.

On a long link those are three of the four round trips before the first turn can leave; only the upgrade needs an
agent's key. No server waits for a first word for long, so it is there for less than a minute, and once.
"""

import asyncio

from proxy.errors import UpstreamUnavailable
from proxy.upstream.background import Background
from proxy.upstream.dial import Dialer
from proxy.upstream.endpoint import Endpoint
from proxy.upstream.secured import Silent, secured


class Standby(Dialer):
    """Connects to *endpoint*, and can have one connection open for whoever asks first. Close it in the end."""

    def __init__(self, endpoint: Endpoint) -> None:
        super().__init__(endpoint)
        self._background = Background()
        self._opening: asyncio.Task[Silent | None] | None = None

    @property
    def is_secure(self) -> bool:
        """Whether TLS is spoken to upstream."""
        return self._endpoint.secure

    def open(self, limit: float, patience: float) -> None:
        """Begin to open it, for at most *limit* seconds. A failure is not reported: a turn will find out why.

        *patience* is for a handshake that hangs, as `secured` has it.
        """
        self._opening = self._background.start(self._open(limit, patience), "stand by")

    async def secured(self, link_timeout: float, open_timeout: float, patience: float) -> Silent:
        """Return one that is opened now, as `secured` does."""
        return await secured(
            self._endpoint, self, link_timeout=link_timeout, open_timeout=open_timeout, patience=patience
        )

    async def take(self) -> Silent | None:
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
        return held

    async def close(self) -> None:
        """Let go of it."""
        if self._opening is not None:
            self._opening.cancel()
            if self._opening.done() and not self._opening.cancelled() and (held := self._opening.result()):
                held.end()
        await self._background.close(0)

    async def _open(self, limit: float, patience: float) -> Silent | None:
        try:
            async with asyncio.timeout(limit):
                return await self.secured(limit, limit, patience)
        except (OSError, UpstreamUnavailable):
            return None
