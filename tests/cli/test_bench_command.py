"""``packlight bench``: two real sessions over an imitated link, and the link itself."""

import asyncio
from itertools import pairwise
from typing import Any

import orjson
import pytest

from proxy.cli.bench import Outcome, line, measure, ratio
from proxy.cli.bench.profiles import PROFILES, Profile
from proxy.cli.bench.relay import FIRST_WINDOW, PACKET, Flow, Lane, Relay

FAST = Profile("fast", up=50e6, down=50e6, round_trip=0.002)


async def test_packlight_sends_less_and_upstream_is_not_misled() -> None:
    """The same session, twice: fewer bytes both ways through packlight, and the same histories."""
    shown: list[str] = []
    direct, through = await measure(FAST, 3, shown.append, think_seconds=0)
    assert direct.verified
    assert through.verified
    assert through.up < direct.up / 3
    assert through.down < direct.down / 3
    assert direct.seconds > 0
    assert shown == [line(direct), line(through)]


async def test_a_far_link_takes_its_round_trips() -> None:
    """Directly, a connection and each of two turns cost a round trip at least."""
    direct, through = await measure(Profile("far", 50e6, 50e6, round_trip=0.2), 2, lambda _: None, think_seconds=0)
    assert direct.seconds > 0.6
    assert through.seconds > 0.6


def test_the_command_prints_a_table_or_json(packlight: Any) -> None:
    """Both sessions and what they come to; figures for programs on request."""
    done = packlight.run("bench", "--profile", "fibre", "--turns", "2")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert [row.split()[0] for row in done.stdout.splitlines()[-3:]] == ["direct", "packlight", "less"]
    figures = orjson.loads(packlight.run("bench", "--profile", "fibre", "--turns", "2", "--json").stdout)
    assert [way["way"] for way in figures["ways"]] == ["direct", "packlight"]
    assert figures["profile"] == "fibre"


def test_an_unknown_profile_is_refused(packlight: Any) -> None:
    """The message lists those that there are."""
    result = packlight.call("bench", "--profile", "pigeon")
    assert result.exit_code == 2
    assert all(name in result.output for name in PROFILES)


def test_lines_of_the_table() -> None:
    """Times, sizes and ratios; a session in which upstream was misled says so."""
    direct = Outcome("direct", 12.34, 100_000, 2000, verified=True)
    through = Outcome("packlight", 6.17, 1000, 500, verified=False)
    assert line(direct) == "direct         12.3 s     100 kB    2.00 kB"
    assert line(through).endswith("500 B  FAILED: upstream understood another history")
    assert ratio(direct, through).split() == ["less", "2.0x", "100.0x", "4.0x"]


def test_a_flow_starts_slowly_and_fills_the_lane() -> None:
    """Ten packets in the first round trip, twice as many in the next, and the lane's rate in the end."""
    flow = Flow(Lane(8_000_000), round_trip=1.0)
    arrivals, now = [], 0.0
    for _ in range(1000):
        now, due = flow.send(PACKET, now)
        arrivals.append(due)
    per_trip = [sum(0.5 + trip <= due < 1.5 + trip for due in arrivals) for trip in range(3)]
    assert per_trip == [10, 20, 40]
    assert all(earlier < later for earlier, later in pairwise(arrivals))
    assert arrivals[-1] - arrivals[-2] == pytest.approx(PACKET / 1e6)


def test_a_flow_that_was_idle_starts_slowly_again() -> None:
    """What was learnt about the link is forgotten after a while."""
    flow = Flow(Lane(8_000_000_000), round_trip=1.0)
    now = 0.0
    for _ in range(100):
        now, _ = flow.send(PACKET, now)
    flow.send(PACKET, now + 10)
    assert flow.send(FIRST_WINDOW, now + 10)[0] == pytest.approx(now + 11, abs=0.01)


def test_connections_share_a_lane() -> None:
    """Two flows take turns at the rate of one; all bytes are counted."""
    lane = Lane(8000)
    flows = Flow(lane, 0.0), Flow(lane, 0.0)
    assert [flow.send(1000, 0.0) for flow in flows] == [(1.0, 1.0), (2.0, 2.0)]
    assert lane.passed == 2000


async def test_the_relay_passes_ends_on() -> None:
    """Each side's end reaches the other after what was sent before it, while the other way stays open."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"you said " + await reader.read())
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server, Relay(server.sockets[0].getsockname()[1], FAST) as relay:
        reader, writer = await asyncio.open_connection("127.0.0.1", relay.port)
        writer.write(b"x" * 100_000)
        writer.write_eof()
        assert await reader.read() == b"you said " + b"x" * 100_000
        writer.close()
        assert (relay.up.passed, relay.down.passed) == (100_000, 100_009)


async def test_the_relay_ends_with_connections_open() -> None:
    """Nothing is left behind, and nothing is logged."""
    server = await asyncio.start_server(lambda _reader, _writer: None, "127.0.0.1", 0)
    async with server:
        async with Relay(server.sockets[0].getsockname()[1], FAST) as relay:
            reader, writer = await asyncio.open_connection("127.0.0.1", relay.port)
        assert await reader.read() == b""
        writer.close()


async def test_the_relay_survives_a_target_that_is_gone() -> None:
    """The connection ends; the next one may do better."""
    server = await asyncio.start_server(lambda _reader, _writer: None, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()
    async with Relay(port, FAST) as relay:
        reader, writer = await asyncio.open_connection("127.0.0.1", relay.port)
        assert await reader.read() == b""
        writer.close()
