"""The way to upstream, as it was seen last: open, or closed by a sign-in page, a certificate, a dead network.

Behind a sign-in page next to nothing of an agent's is sent, over either transport. A short probe without
credentials looks whether the way is open again: when an agent asks, and every few seconds for as long as one asked
lately. There are upstreams that answer the probe with a page themselves. So now and then a single turn is let
through, which finds out for certain.

    OPEN -> a page in answer to a turn, and no upstream in answer to a probe -> CAPTIVE
    CAPTIVE -> upstream in answer to a probe, to a turn let through, or over a WebSocket -> OPEN
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import structlog

from proxy.errors import Trouble, UpstreamUnavailable
from proxy.upstream.background import Background
from proxy.upstream.backoff import pauses

log = structlog.get_logger("link")

PROBE_SECONDS = 5.0
"""Least time between two probes; they come up to twice as late, so that many machines do not probe in step."""

ASKED_SECONDS = 120.0
"""How long after an agent's last request the way is still looked at."""

FIRST_TURN_SECONDS = 15.0
LAST_TURN_SECONDS = 60.0
"""How long a sign-in page was in the way before a turn is let through, and between two of them in the end."""


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
        self._probe: Callable[[], Awaitable[bool]] | None = None
        self._probing = asyncio.Lock()
        self._probed_at = self._asked_at = clock()
        self._watching: asyncio.Task[None] | None = None
        self._background = Background()
        self._turn_pauses = self._pauses()
        self._turn_due_at = clock()

    def __repr__(self) -> str:
        return f"<Link {self.trouble or 'ok'}>"

    @property
    def is_captive(self) -> bool:
        """Whether a sign-in page stands in the way."""
        return self.trouble is Trouble.CAPTIVE_PORTAL

    def clear(self) -> None:
        """Take note that upstream itself was heard."""
        self._heard = True
        if self.trouble is not None:
            self._change(None, "")

    def block(self, trouble: Trouble, detail: str) -> None:
        """Take note that *trouble* stands in the way; *detail* tells a person what to do.

        The certificate of an unknown authority means a sign-in page where upstream's own certificate was seen
        before. That nobody answers does not mean that a sign-in page has gone.
        """
        if self.is_captive and trouble is Trouble.UNREACHABLE:
            return
        if trouble is Trouble.UNTRUSTED and self._heard:
            trouble = Trouble.CAPTIVE_PORTAL
        if trouble is Trouble.CAPTIVE_PORTAL:
            self._probed_at = self._clock()
        self._change(trouble, detail)

    def probe_with(self, probe: Callable[[], Awaitable[bool]]) -> None:
        """Use *probe* to look; it calls `clear` or `block`, and tells whether upstream itself answered."""
        self._probe = probe

    async def is_open_after_all(self) -> bool:
        """Whether upstream itself answers a probe, after a page in answer to a turn: then the page is its own."""
        if self.is_captive:
            return False
        async with self._probing:
            return not self.is_captive and await self._look()

    async def look(self, *, is_turn: bool = False) -> None:
        """Before an agent's request: where a sign-in page was in the way, probe again if that was seconds ago.

        Raises UpstreamUnavailable while it still is in the way, except that now and then one turn is let through.
        """
        await self._look_if_due()
        if is_turn and self._is_turn_due:
            self._turn_due_at = self._clock() + next(self._turn_pauses)
        elif self.is_captive:
            raise UpstreamUnavailable(self.detail, trouble=Trouble.CAPTIVE_PORTAL)

    async def look_for_upgrade(self) -> None:
        """Look likewise before a WebSocket is asked for.

        It may be asked for whenever a turn would be let through. It carries nothing that was said, and so does not
        count as that turn.
        """
        await self._look_if_due()
        if self.is_captive and not self._is_turn_due:
            raise UpstreamUnavailable(self.detail, trouble=Trouble.CAPTIVE_PORTAL)

    @property
    def _is_turn_due(self) -> bool:
        return self.is_captive and self._clock() >= self._turn_due_at

    async def _look_if_due(self) -> None:
        self._asked_at = self._clock()
        if not self.is_captive:
            return
        async with self._probing:
            if self.is_captive and self._clock() - self._probed_at >= PROBE_SECONDS:
                await self._look()
        if self.is_captive and (self._watching is None or self._watching.done()):
            self._watching = self._background.start(self._watch(), "watch the link")

    def as_json(self) -> dict[str, Any]:
        """Return what `/_packlight/stats` shows."""
        return {
            "state": "ok" if self.trouble is None else self.trouble.value,
            "since": self.since.isoformat(timespec="seconds"),
            "detail": self.detail,
        }

    async def close(self) -> None:
        """Look no more."""
        await self._background.close(0)

    def _change(self, trouble: Trouble | None, detail: str) -> None:
        if trouble is self.trouble:
            return
        self.trouble, self.detail, self.since = trouble, detail, self._now()
        self._turn_pauses = self._pauses()
        self._turn_due_at = self._clock() + next(self._turn_pauses)
        (log.info if trouble is None else log.warning)("link", state=trouble or "ok", detail=detail)

    def _pauses(self) -> Iterator[float]:
        return pauses(self._jitter, first=FIRST_TURN_SECONDS, most=LAST_TURN_SECONDS)

    async def _watch(self) -> None:
        while self.is_captive and self._clock() - self._asked_at < ASKED_SECONDS:
            await asyncio.sleep(PROBE_SECONDS * (1 + self._jitter()))
            async with self._probing:
                if self.is_captive:
                    await self._look()

    async def _look(self) -> bool:
        self._probed_at = self._clock()
        return self._probe is not None and await self._probe()
