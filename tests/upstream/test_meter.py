"""Bytes counted where they cross a socket, compressed as they are."""

import asyncio
import random
import socket
from typing import Any

import pytest

from proxy.ledger import Traffic
from proxy.upstream.meter import Meter, MeteredTransport


class Written(asyncio.Transport):
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.data = b""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Keep *data*."""
        self.data += data

    def get_write_buffer_size(self) -> int:
        """Return a size to recognise."""
        return 42


def test_a_meter_counts_for_the_total_and_the_turn() -> None:
    """Each byte is in both; a new turn begins at nothing, and the total goes on."""
    meter = Meter(Traffic())
    meter.sent(3)
    meter.received(5)
    first, meter.turn = meter.turn, Traffic()
    meter.sent(7)
    assert (first, meter.turn, meter.total) == (Traffic(3, 5), Traffic(7, 0), Traffic(10, 5))


def test_a_transport_counts_what_it_writes() -> None:
    """Whatever kind of bytes, one by one or many at once, all are written and counted."""
    inner, meter = Written(), Meter(Traffic())
    transport = MeteredTransport(inner, meter)
    transport.write(b"abc")
    transport.write(memoryview(bytearray(b"de")))
    chunks: tuple[bytes | bytearray, ...] = (b"f", bytearray(b"gh"), b"")
    transport.writelines(iter(chunks))
    assert inner.data == b"abcdefgh"
    assert meter.total.sent == 8
    assert transport.get_write_buffer_size() == 42


async def test_what_was_dropped_was_not_sent() -> None:
    """Neither what asyncio kept nor what the kernel did, however often it is dropped."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        transport, _ = await asyncio.get_running_loop().create_connection(
            asyncio.Protocol, *listener.getsockname()
        )
        far, _ = listener.accept()
    with far:
        meter = Meter(Traffic())
        metered = MeteredTransport(transport, meter)
        metered.write(bytes(20_000_000))
        kept = transport.get_write_buffer_size()
        for _ in ("at first", "again"):
            metered.drop()
            assert metered.is_closing()
            assert 0 < meter.written <= 20_000_000 - kept
            assert meter.total.sent == meter.turn.sent == meter.written


# Over real sockets: what the WebSocket's compression leaves.

DEFLATES = ["15", "12", "off", "no_takeover"]
TEXT = "the quick brown fox jumps over the lazy dog " * 200


async def session(run: Any, turns: int, **fields: Any) -> list[Any]:
    """Hold a conversation of so many turns; return their records, oldest first."""
    history: list[Any] = []
    for n in range(turns):
        history.append({"role": "user", "content": f"{n} {TEXT}"})
        answer = await run.post({"model": "m", "store": False, "input": history, **fields})
        history += answer.json()["output"]
    return list(run.server.ledger.turns(turns))[::-1]


@pytest.mark.parametrize("deflate", DEFLATES)
async def test_a_session_works_whatever_is_negotiated(proxied: Any, deflate: str) -> None:
    """With every answer to our offer of compression deltas go up, and the figures are the socket's own."""
    run = await proxied(simulated={"deflate": deflate})
    records = await session(run, 5)
    assert [record.upload for record in records] == ["full", *["delta"] * 4]
    assert [len(turn.context) for turn in run.simulator.turns] == [1, 3, 5, 7, 9]
    (connection,) = run.simulator.connections
    assert sum(record.bytes_to_upstream for record in records) == connection.bytes_in
    assert sum(record.bytes_from_upstream for record in records) == connection.bytes_out
    bytes_of = (await run.figures())["bytes"]
    assert bytes_of["to_upstream"] == run.simulator.bytes_in
    assert bytes_of["from_upstream"] == run.simulator.bytes_out
    if deflate == "off":
        assert min(record.bytes_to_upstream for record in records) > len(TEXT)
    else:
        assert max(record.bytes_to_upstream for record in records[1:]) < len(TEXT) / 10


@pytest.mark.parametrize("deflate", DEFLATES)
async def test_offers_compression_with_the_whole_window(proxied: Any, deflate: str) -> None:
    """The server may not shrink the window of our uploads: client_max_window_bits is not offered."""
    run = await proxied(simulated={"deflate": deflate})
    await session(run, 1)
    (connection,) = run.simulator.connections
    (offer,) = [value for name, value in connection.headers if name.lower() == "sec-websocket-extensions"]
    assert "permessage-deflate" in offer
    assert "client_max_window_bits" not in offer
    assert "client_max_window_bits" not in connection.extensions


async def test_the_window_outlives_a_turn(proxied: Any) -> None:
    """What a turn repeats of the one before is found in the window and costs next to nothing."""
    noise = random.Random(0).randbytes(4000).hex()
    sizes = {}
    for deflate in ("15", "no_takeover"):
        run = await proxied(simulated={"deflate": deflate})
        sizes[deflate] = [record.bytes_to_upstream for record in await session(run, 3, instructions=noise)]
    assert max(sizes["15"][1:]) < 1000
    assert min(sizes["no_takeover"][1:]) > 4000
