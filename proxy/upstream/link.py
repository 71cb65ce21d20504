"""The way to upstream, as it was seen last: open, or closed by a sign-in page, a certificate, a dead network.

Behind a sign-in page nothing of an agent's is sent, over either transport. A short probe without credentials looks
whether the way is open again: when an agent asks, and every few seconds for as long as one asked lately.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import structlog

from proxy.errors import Trouble, UpstreamUnavailable
from proxy.upstream.background import Background

PROBE_SECONDS = 5.0
"""Least time between two probes; they come up to twice as late, so that many machines do not probe in step."""

ASKED_SECONDS = 120.0
"""How long after an agent's last request the way is still looked at."""


class Link:
    """What stands in the way to upstream, if anything. *clock* is monotonic, *now* the time of day."""

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.trouble: Trouble | None = None
        self.detail = ""
        self.since = now()
        self._heard = False
        self._clock = clock
        self._now = now
        self._jitter = jitter
        self._probe: Callable[[], Awaitable[None]] | None = None
        self._probing = asyncio.Lock()
        self._probed_at = self._asked_at = clock()
        self._watching: asyncio.Task[None] | None = None
        self._background = Background()

    def __repr__(self) -> str:
        return f"<Link {self.trouble or 'ok'}>"

    @property
    def is_captive(self) -> bool:
        """Whether a sign-in page stands in the way."""
        return self.trouble is Trouble.CAPTIVE_PORTAL

    def clear(self) -> None:
        """Take note that upstream itself was heard."""
        self._heard = True
        self._change(None, "")

    def block(self, trouble: Trouble, detail: str) -> None:
        """Take note that *trouble* stands in the way; *detail* tells a person what to do.

        An unknown authority's certificate, where a good one was before, is that of a network that intercepts.
        """
        if trouble is Trouble.UNTRUSTED and self._heard:
            trouble = Trouble.CAPTIVE_PORTAL
        if trouble is Trouble.CAPTIVE_PORTAL:
            self._probed_at = self._clock()
        self._change(trouble, detail)

    def probe_with(self, probe: Callable[[], Awaitable[None]]) -> None:
        """Use *probe* to look; it calls `clear` or `block`."""
        self._probe = probe

    async def look(self) -> None:
        """Have an agent's request wait for a probe, where a sign-in page was in the way some seconds ago.

        Raises UpstreamUnavailable while it still is.
        """
        self._asked_at = self._clock()
        if not self.is_captive:
            return
        async with self._probing:
            if self.is_captive and self._clock() - self._probed_at >= PROBE_SECONDS:
                await self._look()
        if self.trouble is not Trouble.CAPTIVE_PORTAL:
            return
        if self._watching is None or self._watching.done():
            self._watching = self._background.start(self._watch(), "watch the link")
        raise UpstreamUnavailable(self.detail, trouble=Trouble.CAPTIVE_PORTAL)

    def as_json(self) -> dict[str, Any]:
        """Return what `/_packlight/stats` shows."""
        return {
            "state": "ok" if self.trouble is None else self.trouble.value,
            "since": self.since.isoformat(timespec="seconds"),
            "detail": self.detail,
        }

    async def close(self) -> None:
        """Look no more."""
        if self._watching is not None:
            self._watching.cancel()
        await self._background.close(0)

    def _change(self, trouble: Trouble | None, detail: str) -> None:
        if trouble is self.trouble:
            return
        self.trouble, self.detail, self.since = trouble, detail, self._now()
        log = structlog.get_logger("link")
        (log.info if trouble is None else log.warning)("link", state=trouble or "ok", detail=detail)

    async def _watch(self) -> None:
        while self.is_captive and self._clock() - self._asked_at < ASKED_SECONDS:
            await asyncio.sleep(PROBE_SECONDS * (1 + self._jitter()))
            async with self._probing:
                await self._look()

    async def _look(self) -> None:
        self._probed_at = self._clock()
        if self._probe is not None:
            await self._probe()
