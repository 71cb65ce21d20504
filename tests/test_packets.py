"""Packet links: what a bottleneck does to packets, and real TCP between two namespaces."""

import asyncio
import socket
import sys
import time
from statistics import median

import pytest
from bottleneck import Bottleneck
from packets import PacketLink
from side import NoPacketLink, why_not

from proxy.cli.bench.profiles import Profile
from proxy.upstream.dial import Dialer
from proxy.upstream.endpoint import Endpoint

LARGE = 10**9
WHY_NOT = why_not()


def drained(bottleneck: Bottleneck) -> list[tuple[float, bytes]]:
    """Return what is still to come out of *bottleneck*, and when."""
    arrived = []
    while (due := bottleneck.due) is not None:
        packet = bottleneck.take(due)
        assert packet is not None
        arrived.append((due, packet))
    return arrived


def test_packets_take_their_time_and_then_the_delay() -> None:
    """A packet waits for those before it, takes its size over the rate, and then the delay."""
    bottleneck = Bottleneck(rate=8000, delay=0.5, queue=LARGE)
    for letter in (b"a", b"b"):
        bottleneck.put(letter * 1000, 10.0)
    assert bottleneck.take(11.4) is None
    assert drained(bottleneck) == [(11.5, b"a" * 1000), (12.5, b"b" * 1000)]
    bottleneck.put(b"c" * 500, 20.0)
    assert drained(bottleneck) == [(21.0, b"c" * 500)]


def test_a_full_queue_drops_what_comes_last() -> None:
    """What does not fit is gone and counted; what fits again later is taken."""
    bottleneck = Bottleneck(rate=8000, delay=0, queue=2500)
    for now in (0.0, 0.0, 0.0, 1.0):
        bottleneck.put(bytes(1000), now)
    assert [due for due, _ in drained(bottleneck)] == [1.0, 2.0, 3.0]
    assert (bottleneck.counts.packets, bottleneck.counts.dropped, bottleneck.counts.delivered) == (4, 1, 3)
    assert (bottleneck.counts.bytes, bottleneck.counts.delivered_bytes) == (4000, 3000)


def test_in_the_dark_all_is_lost_but_what_was_in_the_air() -> None:
    """And nothing of it once it is light again."""
    bottleneck = Bottleneck(rate=LARGE, delay=1, queue=LARGE)
    for now, bottleneck.dark in ((0.0, False), (0.5, True), (2.0, False)):
        bottleneck.put(b"%g" % now, now)
    assert [packet for _, packet in drained(bottleneck)] == [b"0", b"2"]
    assert bottleneck.counts.lost == 1


@pytest.mark.parametrize(
    ("burst", "every", "length"),
    [(1.0, 0.01, 1.0), (3.0, 0.01, 3.0), (3.0, 1.0, 1.0)],
    ids=["alone", "in bursts", "not in bursts after a pause"],
)
def test_losses_are_as_many_as_said_in_bursts_and_the_same_for_a_seed(
    burst: float, every: float, length: float
) -> None:
    """5 % of 40,000 packets, in runs of the length asked for on average; another seed loses others.

    Packets that come one a second are lost one by one, and fewer: a burst takes those that follow its first.
    """

    def lost(seed: int) -> list[int]:
        bottleneck = Bottleneck(rate=LARGE, delay=0, queue=LARGE, loss=0.05, burst=burst, seed=seed)
        for number in range(40_000):
            bottleneck.put(number.to_bytes(4), number * every)
        arrived = {int.from_bytes(packet) for _, packet in drained(bottleneck)}
        return [number for number in range(40_000) if number not in arrived]

    gone = lost(1)
    runs = sum(number - 1 not in set(gone[max(0, place - 1) : place]) for place, number in enumerate(gone))
    assert 0.04 < len(gone) / 40_000 * burst / length < 0.06
    assert length * 0.8 < len(gone) / runs < length * 1.25
    assert gone == lost(1) != lost(2)


def test_jitter_delays_but_keeps_the_order() -> None:
    """No packet comes before its delay is over, or overtakes another; some come late."""
    bottleneck = Bottleneck(rate=LARGE, delay=0.1, queue=LARGE, jitter=0.05)
    for number in range(500):
        bottleneck.put(number.to_bytes(4), number / 1000)
    arrived = drained(bottleneck)
    assert [int.from_bytes(packet) for _, packet in arrived] == list(range(500))
    assert all(due >= number / 1000 + 0.1 for number, (due, _) in enumerate(arrived))
    assert max(due - number / 1000 for number, (due, _) in enumerate(arrived)) > 0.15


@pytest.mark.skipif(WHY_NOT is None, reason="there can be a packet link here")
def test_where_there_can_be_none_it_says_why() -> None:
    """The error tells what is missing or what to use instead."""
    link = PacketLink(Profile("", 1e6, 1e6, 0.1))
    with pytest.raises(NoPacketLink, match=r"packlight bench|root"):
        link.__enter__()


SERVE = """
import socket, sys
with socket.create_server((sys.argv[1], 9)) as server:
    print("ready", flush=True)
    while True:
        connection, _ = server.accept()
        with connection:
            connection.sendall(bytes(int.from_bytes(connection.recv(4))))
"""


def download(host: str, size: int) -> tuple[float, float]:
    """Fetch *size* bytes; return the seconds in which the connection opened, and in which all had come."""
    began = time.monotonic()
    with socket.create_connection((host, 9), timeout=30) as connection:
        opened = time.monotonic() - began
        connection.sendall(size.to_bytes(4))
        left = size
        while data := connection.recv(65536):
            left -= len(data)
    assert left == 0
    return opened, time.monotonic() - began


@pytest.mark.skipif(WHY_NOT is not None, reason=f"no packet link: {WHY_NOT}")
def test_tcp_gets_the_rate_and_the_round_trip() -> None:
    """A handshake takes the round trip, a download the rate; bytes are counted with their headers."""
    profile = Profile("", up=1e6, down=4e6, round_trip=0.1)
    size = 1_000_000
    with PacketLink(profile) as link:
        server = link.far.start([sys.executable, "-c", SERVE, link.far.address], stdout=-1)
        try:
            assert server.stdout is not None
            assert server.stdout.readline() == "ready\n"
            opened = median(link.near.run(download, link.far.address, 1)[0] for _ in range(3))
            before = link.down.counts.delivered_bytes
            seconds = link.near.run(download, link.far.address, size)[1]
        finally:
            server.kill()
            server.communicate()
    assert 0.1 <= opened < 0.2
    least = size * 8 / profile.down
    assert least < seconds < 2 * least + 1
    assert size < link.down.counts.delivered_bytes - before < 1.1 * size
    assert link.up.counts.delivered > 0


@pytest.mark.skipif(WHY_NOT is not None, reason=f"no packet link: {WHY_NOT}")
def test_there_is_no_way_out_but_the_link() -> None:
    """Nothing of the machine's own network is reachable from a side."""
    with PacketLink(Profile("", 1e6, 1e6, 0.01)) as link, pytest.raises(OSError, match="unreachable"):
        link.near.run(socket.create_connection, ("192.0.2.1", 80), 5)


@pytest.mark.skipif(WHY_NOT is not None, reason=f"no packet link: {WHY_NOT}")
def test_upstream_is_found_behind_a_long_queue() -> None:
    """A round trip of 5 s, as on an uplink that others have filled, is longer than the pause between attempts."""
    with PacketLink(Profile("", 1e6, 1e6, 5)) as link:
        server = link.far.start([sys.executable, "-c", SERVE, link.far.address], stdout=-1)
        try:
            assert server.stdout is not None
            assert server.stdout.readline() == "ready\n"
            dialer = Dialer(Endpoint(f"http://{link.far.address}:9/v1"))
            with link.near.run(asyncio.run, dialer.dial(30)) as connection:
                assert connection.getpeername() == (link.far.address, 9)
        finally:
            server.kill()
            server.communicate()
