"""Weather: what goes wrong around a proxy, one thing after the other, as a seed decides.

Durations are those of real life times *scale*: a tunnel of a minute is one second where the scale is 1/60.
"""

import asyncio
import random
import signal
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any

from link import Link, Ways
from process import Process
from way import Way

Mishap = Callable[["Weather"], Awaitable[None]]
SOURCES = ("127.0.0.2", "127.0.0.3")
LONGEST_DARK = 120.0
PAUSED = 30.0


class Weather:
    """Mishaps to the link before the proxy (*near*) and behind it (*far*), the proxy itself and its *upstream*."""

    def __init__(
        self,
        near: Link,
        far: Link,
        proxy: Process,
        upstream: Process,
        *,
        seed: int,
        scale: float,
        without: Sequence[str] = (),
    ) -> None:
        self.near, self.far, self.proxy, self.upstream = near, far, proxy, upstream
        self.before_kill: Callable[[], Awaitable[None]] | None = None
        self.counts: Counter[str] = Counter()
        self.dice = random.Random(seed)
        self._scale = scale
        self._without = without
        self._deck = self._dealt()

    async def next(self) -> None:
        """Let the next mishap happen, to its end."""
        name = next(self._deck)
        self.counts[name] += 1
        await MISHAPS[name][1](self)

    def _dealt(self) -> Iterator[str]:
        """Yield names, so that all kinds come as often as they should in any long stretch."""
        while True:
            kinds = {name: times for name, (times, _) in MISHAPS.items() if name not in self._without}
            deck = [name for name, times in kinds.items() for _ in range(times)]
            self.dice.shuffle(deck)
            yield from deck

    @property
    def link(self) -> Link:
        """One of the links: mostly the bad one, behind the proxy."""
        return self.far if self.dice.random() < 0.7 else self.near

    @property
    def way(self) -> Way:
        """One direction of one of the links."""
        link = self.link
        return link.up if self.dice.random() < 0.5 else link.down

    @property
    def process(self) -> Process:
        """The proxy or its upstream."""
        return self.proxy if self.dice.random() < 0.5 else self.upstream

    async def sleep(self, longest: float, shortest: float = 1.0) -> None:
        """Wait for a time between *shortest* and *longest* seconds of real life."""
        await asyncio.sleep(self.dice.uniform(shortest, longest) * self._scale)


async def _reset(weather: Weather) -> None:
    weather.link.reset()


async def _close(weather: Weather) -> None:
    weather.link.close()


async def _half_open(weather: Weather) -> None:
    weather.link.forget()


async def _address(weather: Weather) -> None:
    """Change the address: what was open is stranded, what is new comes from elsewhere."""
    far = weather.far
    far.source = SOURCES[far.source == SOURCES[0]]
    far.strand()


async def _dark(weather: Weather) -> None:
    link = weather.link
    link.dark()
    await weather.sleep(LONGEST_DARK)
    link.lit()


async def _one_way(weather: Weather) -> None:
    way = weather.way
    way.stop()
    await weather.sleep(PAUSED)
    way.go()


def _for_a_while(**fields: Callable[[random.Random], Any]) -> Mishap:
    """Return the mishap of a way whose *fields* are so for a while."""

    async def mishap(weather: Weather) -> None:
        way, usual = weather.way, Way()
        for name, value in fields.items():
            setattr(way, name, value(weather.dice))
        await weather.sleep(PAUSED)
        for name in fields:
            setattr(way, name, getattr(usual, name))

    return mishap


async def _limit(weather: Weather) -> None:
    """Let the next connection carry only so much, and have a next connection."""
    dice, link = weather.dice, weather.link
    ways = Ways()
    way = ways.up if dice.random() < 0.3 else ways.down
    way.limit, way.ending = int(10 ** dice.uniform(0, 5)), dice.choice(("reset", "close", "silence"))
    link.planned.append(ways)
    link.reset()


def _fault(when: str, what: str, **fields: Any) -> Mishap:
    """Return the mishap that upstream has a `Fault`, at its next turn or upgrade."""

    async def mishap(weather: Weather) -> None:
        order = {"when": when, "what": what, **fields}
        if when == "after_events":
            order["events"] = weather.dice.randrange(1, 20)
        weather.upstream.order(order)

    return mishap


def _error(status: int, code: str, **fields: Any) -> Mishap:
    return _fault("before_created", "error", status=status, code=code, **fields)


async def _kill(weather: Weather, process: Process) -> None:
    await process.kill()
    await weather.sleep(PAUSED)
    await process.start()


async def _kill_upstream(weather: Weather) -> None:
    await _kill(weather, weather.upstream)


async def _kill_proxy(weather: Weather) -> None:
    if weather.before_kill is not None:
        await weather.before_kill()
    await _kill(weather, weather.proxy)


async def _freeze(weather: Weather) -> None:
    process = weather.process
    process.freeze()
    await weather.sleep(LONGEST_DARK)
    process.thaw()


MISHAPS: dict[str, tuple[int, Mishap]] = {
    "reset": (4, _reset),
    "closed": (2, _close),
    "half-open": (2, _half_open),
    "address change": (3, _address),
    "dark": (4, _dark),
    "dark one way": (3, _one_way),
    "latency": (2, _for_a_while(latency=lambda dice: dice.uniform(0.01, 0.3), jitter=lambda _: 0.05)),
    "bandwidth": (2, _for_a_while(bandwidth=lambda dice: 10 ** dice.uniform(3.5, 5.5))),
    "slices": (2, _for_a_while(slice_size=lambda dice: dice.randrange(1, 100), slice_gap=lambda _: 0.0005)),
    "cut at a byte": (6, _limit),
    "429": (2, _error(429, "rate_limit_exceeded", retry_after=0.2)),
    "500": (2, _error(500, "server_error")),
    "503": (2, _error(503, "server_is_overloaded")),
    "parent forgotten": (3, _error(400, "previous_response_not_found", of_deltas=True)),
    "age limit": (2, _error(400, "websocket_connection_limit_reached", transport="ws")),
    "error in mid-stream": (2, _fault("after_events", "error")),
    "closed in mid-stream": (3, _fault("after_events", "close", transport="ws")),
    "reset in mid-stream": (3, _fault("after_events", "abort")),
    "silence in mid-stream": (1, _fault("after_events", "silence")),
    "garbage in mid-stream": (2, _fault("after_events", "garbage")),
    "reset after the end": (2, _fault("after_completed", "abort")),
    "late error": (1, _fault("idle", "late_error", transport="ws", seconds=0.01)),
    "upgrade refused": (1, _fault("handshake", "error", status=503)),
    "captive portal": (1, _fault("handshake", "error", status=200, body="<html>Welcome on board</html>")),
    "upgrade garbled": (1, _fault("handshake", "garbage")),
    "upgrade reset": (1, _fault("handshake", "abort")),
    "kill -9 of upstream": (1, _kill_upstream),
    "kill -9 of the proxy": (1, _kill_proxy),
}
"""Each kind of mishap, how often it comes in a round of all of them, and what it does."""

if hasattr(signal, "SIGSTOP"):
    MISHAPS["SIGSTOP"] = (2, _freeze)
