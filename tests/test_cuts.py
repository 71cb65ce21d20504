"""A connection may break at any byte, on either side of the proxy: the answer is right, or the SDK raises.

`CUTS=all` cuts at every byte, which takes half an hour; else the ends of frames and a sample of the rest are
tried. `SEED` chooses the sample, and which offsets are cut by a reset and which by a close.
"""

import asyncio
import os
import random
import re
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from typing import Any, cast

import pytest
from cutting import API, Cut, Direction, Lane, Side, Told, model
from link import Ways
from way import Ending

from proxy.simulator import Simulator, SimulatorSettings

CUTS = os.environ.get("CUTS", "40")
SEED = int(os.environ.get("SEED", "1"))
LANES = 4
APIS: tuple[API, ...] = ("responses", "chat")
KNOWN = {
    "APIConnectionError",  # the agent's own connection broke
    "InternalServerError 502",  # upstream was lost before there was anything to show
}
SILENCE = "InternalServerError 504"
IMPATIENT = {
    # A busy machine may stand still for more than a second, which is no silence of upstream's.
    **dict.fromkeys(("first_event_timeout", "event_timeout"), 2.5),
    **dict.fromkeys(("open_timeout", "connect_timeout", "send_timeout", "probe_timeout"), 5.0),
}


@pytest.fixture
async def lanes(stack: AsyncExitStack, request: pytest.FixtureRequest) -> AsyncIterator[list[Lane]]:
    """Return proxies that share one upstream; a test may say how it compresses, and the proxies' settings."""
    deflate, settings = cast(tuple[Any, Any], getattr(request, "param", ("off", {})))
    async with Simulator(SimulatorSettings(deflate=deflate, keep_records=400), script=model) as simulator:
        yield [await stack.enter_async_context(Lane(simulator, **settings)) for _ in range(LANES)]


async def recorded(lane: Lane, api: API, side: Side, direction: Direction) -> bytes:
    """Return what crosses the first connection on *side* in a session that nothing happens to."""
    ways, stream = Ways(), bytearray()
    way = ways.up if direction == "up" else ways.down
    way.tap = stream.extend
    assert not (await lane.session(api, "key-recorded", side, ways)).noticed
    return bytes(stream)


def boundaries(stream: bytes) -> Iterator[int]:
    """Yield where heads, events, chunks and frames of *stream* begin and end."""
    yield from (0, len(stream))
    head = stream.index(b"\r\n\r\n") + 4
    yield head
    if b"pgrade: websocket" in stream[:head]:
        place = head
        while place < len(stream):
            size, masked = stream[place + 1] & 127, stream[place + 1] >> 7
            begin = place + 2 + {126: 2, 127: 8}.get(size, 0)
            if begin - place > 2:
                size = int.from_bytes(stream[place + 2 : begin])
            place = begin + 4 * masked + size
            yield from (begin, place)
    else:
        yield from (match.end() for match in re.finditer(rb"\r\n\r\n|\n\n|\r\n0\r\n\r\n", stream))


def chosen(stream: bytes, name: str) -> set[int]:
    """Return the offsets to cut *stream* at: around its boundaries, and *CUTS* more or all."""
    if CUTS == "all":
        return {*range(len(stream) + 1)}
    near = {place + step for place in boundaries(stream) for step in (-1, 0, 1)}
    return sample(stream, name, int(CUTS)) | {place for place in near if 0 <= place <= len(stream)}


def sample(stream: bytes, name: str, size: int) -> set[int]:
    """Return some *size* offsets of *stream*, as far from each other."""
    step = max(1, len(stream) // size)
    return {*range(random.Random(f"{SEED}/{name}").randrange(step), len(stream), step)}


async def cut_all(lanes: list[Lane], api: API, cuts: list[Cut]) -> dict[Cut, Told]:
    """Have a session cut at each of *cuts*, some at a time."""
    waiting = iter(enumerate(cuts))
    told: dict[Cut, Told] = {}

    async def work(lane: Lane) -> None:
        for number, cut in waiting:
            told[cut] = await lane.cut(api, cut, f"key-{number:07}")

    async with asyncio.TaskGroup() as group:
        for lane in lanes:
            group.create_task(work(lane))
    return told


def cuts_at(offsets: set[int], side: Side, direction: Direction, *, times: int = 1) -> list[Cut]:
    """Return a cut at each of *offsets*, by a reset or by a close; the next SEED has them the other way round."""
    endings: tuple[Ending, ...] = ("reset", "close")
    return [Cut(side, direction, offset, endings[(offset + SEED) % 2], times) for offset in sorted(offsets)]


def show(told: dict[Cut, Told], name: str) -> None:
    """Print what the agents noticed of each kind of cut."""
    for ending in ("reset", "close"):
        noticed = Counter(
            "; ".join(each.noticed) or "nothing" for cut, each in told.items() if cut.ending == ending
        )
        print(f"\n{name} {ending}: {noticed.total()} cuts, {dict(noticed)}", end="")  # noqa: T201


@pytest.mark.timeout(0 if CUTS == "all" else 120)
@pytest.mark.parametrize("direction", ["up", "down"])
@pytest.mark.parametrize("side", ["near", "far"])
@pytest.mark.parametrize("api", APIS)
async def test_a_connection_that_is_cut_anywhere(
    lanes: list[Lane], api: API, side: Side, direction: Direction, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each turn is answered rightly and in full, or raises; the same turn again and the next ones are right."""
    stream = await recorded(lanes[0], api, side, direction)
    offsets = chosen(stream, f"{side} {direction}")
    told = await cut_all(lanes, api, cuts_at(offsets, side, direction))
    if CUTS == "all":
        with capsys.disabled():
            show(told, f"{api} {side} {direction}")
    assert {error for each in told.values() for error in each.noticed} <= KNOWN


@pytest.mark.timeout(0 if CUTS == "all" else 120)
@pytest.mark.parametrize("direction", ["up", "down"])
@pytest.mark.parametrize("lanes", [("15", {})], indirect=True, ids=["deflate"])
async def test_a_compressed_connection_that_is_cut_anywhere(lanes: list[Lane], direction: Direction) -> None:
    """The same, where messages are compressed and one that is lost would garble all that follow."""
    stream = await recorded(lanes[0], "responses", "far", direction)
    offsets = sample(stream, direction, 400 if CUTS == "all" else int(CUTS))
    told = await cut_all(lanes, "responses", cuts_at(offsets, "far", direction))
    assert {error for each in told.values() for error in each.noticed} <= KNOWN


@pytest.mark.parametrize("direction", ["up", "down"])
@pytest.mark.parametrize("api", APIS)
async def test_connections_that_are_all_cut_at_the_same_place(
    lanes: list[Lane], api: API, direction: Direction
) -> None:
    """Two WebSockets and the plain HTTP connection after them: the agent never sees more errors than cuts."""
    stream = await recorded(lanes[0], api, "far", direction)
    offsets = sample(stream, f"{api} {direction} thrice", 20)
    told = await cut_all(lanes, api, cuts_at(offsets, "far", direction, times=3))
    assert {error for each in told.values() for error in each.noticed} <= KNOWN


@pytest.mark.parametrize("direction", ["up", "down"])
@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize("lanes", [("off", IMPATIENT)], indirect=True, ids=["impatient"])
async def test_a_connection_that_falls_silent_anywhere(lanes: list[Lane], api: API, direction: Direction) -> None:
    """Nothing more is heard and nothing is closed: the proxy's waits have an end, and the SDK raises."""
    stream = await recorded(lanes[0], api, "far", direction)
    offsets = sample(stream, f"{api} {direction} silent", 12)
    cuts = [Cut("far", direction, offset, "silence") for offset in sorted(offsets)]
    told = await cut_all(lanes, api, cuts)
    noticed = {error for each in told.values() for error in each.noticed}
    assert SILENCE in noticed
    assert noticed <= {*KNOWN, SILENCE}
