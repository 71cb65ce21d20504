"""Way: one direction of a link, and what it does to the bytes that go there.

The words of toxiproxy, and where they are here: *latency*, *jitter*, *bandwidth* and *slow_close* are fields;
*slicer* is `slice_size` and `slice_gap`; *limit_data* and *reset_peer* are `limit` and `ending`; *timeout* is
`stop()`, and the link's `reset()` once the time is over.
"""

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

Ending = Literal["reset", "close", "silence", "half-open"]
"""How a connection ends at its limit: a TCP reset or a proper end both ways, silence both ways, or a reset
towards the target and silence towards the other side.
"""

TICK_SECONDS = 0.01
"""With a bandwidth, as much is read at once as passes in this time."""
CHUNK = 16 * 1024
IN_FLIGHT = 256 * 1024
"""Bytes that latency alone keeps on the way."""


@dataclass(slots=True, eq=False)
class Way:
    """One direction, as it is now: change it at any time. Seconds, bytes, and bytes per second.

    *jitter* is up to so much more latency; bytes stay in order. Connections on the same way share its
    *bandwidth*. *limit* is how many bytes a connection carries before it comes to its *ending*; 0 ends it
    before the first. *slow_close* is how much later than the last byte a proper end arrives. *passed* counts what
    was delivered, and *tap* is shown it.
    """

    latency: float = 0.0
    jitter: float = 0.0
    bandwidth: float | None = None
    slice_size: int | None = None
    slice_gap: float = 0.0
    limit: int | None = None
    ending: Ending = "reset"
    slow_close: float = 0.0
    seed: int = 0
    passed: int = 0
    tap: Callable[[bytes], None] | None = None
    flows: asyncio.Event = field(default_factory=asyncio.Event)
    _busy_until: float = 0.0
    _random: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self.flows.set()

    def stop(self) -> None:
        """Let no byte pass, until go()."""
        self.flows.clear()

    def go(self) -> None:
        """Let bytes pass again, those that wait first."""
        self.flows.set()

    def note(self, delivered: bytes) -> None:
        """Take note of bytes that were *delivered*."""
        self.passed += len(delivered)
        if self.tap is not None:
            self.tap(delivered)

    @property
    def room(self) -> int:
        """How many bytes to take from the sender at once."""
        if self.bandwidth is None:
            return CHUNK
        return min(CHUNK, max(1, int(self.bandwidth * TICK_SECONDS)))

    @property
    def window(self) -> int:
        """How many bytes may be on the way at once."""
        if self.bandwidth is None:
            return IN_FLIGHT
        return CHUNK + int(self.bandwidth * (self.latency + self.jitter))

    def sent_at(self, size: int, now: float) -> float:
        """Return when *size* bytes have passed the bottleneck, and take the bottleneck for so long."""
        if self.bandwidth is None:
            return now
        self._busy_until = max(now, self._busy_until) + size / self.bandwidth
        return self._busy_until

    def delay(self) -> float:
        """Return how long the next bytes are on the way."""
        return self.latency + self._random.uniform(0, self.jitter)

    def sliced(self, data: bytes) -> list[bytes]:
        """Return *data* in the pieces in which it arrives."""
        size = self.slice_size or len(data)
        return [data[place : place + size] for place in range(0, len(data), size)]
