"""What every request is answered with, and how it all ends."""

import asyncio
import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from proxy.config import DEFAULTS, Config
from proxy.exchange import Waits
from proxy.ledger import Ledger
from proxy.restoring import Restoring
from proxy.rewriting import Rewriting
from proxy.upstream.headers import patience
from proxy.upstream.http import Http
from proxy.upstream.pool import Pool

_NEARLY = 0.9
"""Of what an agent bears, after which it is taken to have left for that."""

_LONGEST = 1800.0
"""Seconds that an agent's word counts for: LiteLLM says 6,000 for everybody, and a turn may be lost upstream."""


@dataclass(frozen=True, kw_only=True)
class Services:
    """What every request is answered with. *clock* is monotonic, in seconds; *now* is the time of day."""

    config: Config
    pool: Pool
    rewriting: Rewriting
    restoring: Restoring
    http: Http
    ledger: Ledger
    clock: Callable[[], float]
    now: Callable[[], datetime]
    ids: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    in_flight: set[asyncio.Task[Any]] = field(default_factory=set)
    draining: asyncio.Event = field(default_factory=asyncio.Event)
    """No further requests are taken: agents ask again, and would else lose what there is no more time for."""
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    reading: asyncio.Lock = field(default_factory=asyncio.Lock)
    """One large request is read at a time: several threads would only keep the interpreter from the loop."""

    async def drain(self) -> None:
        """Take no more requests, give those in flight drain_seconds, and then end them."""
        self.draining.set()
        try:
            if self.in_flight:
                await asyncio.wait(set(self.in_flight), timeout=self.config.drain_seconds)
        finally:  # also where whoever stops us has no more patience
            self.stopping.set()
            for task in set(self.in_flight):
                task.cancel()


def waits_for(config: Config, headers: Mapping[str, str]) -> Waits:
    """Return how long a turn of the agent that sent *headers* waits for upstream.

    One whose own timeout is longer would wait without packlight, so it is waited for as long, up to half an
    hour: OpenAI advises 15 minutes for its flex tier. A setting below its default was chosen, and holds. Its clock
    began before ours, so it may leave a little before either limit.
    """
    told = patience(headers)
    borne = min(told, _LONGEST)

    def wait(name: str) -> float:
        limit: float = getattr(config, name)
        return limit if limit < DEFAULTS[name] else max(limit, borne)

    return Waits(
        first_event_timeout=wait("first_event_timeout"),
        event_timeout=wait("event_timeout"),
        max_message_bytes=config.max_message_bytes,
        websocket_retry_seconds=config.websocket_retry_seconds,
        borne=_NEARLY * min(told or math.inf, wait("first_event_timeout")),
    )
