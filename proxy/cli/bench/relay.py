"""Relay: a link in user space: a TCP relay with a profile's rates and round trip, and TCP's slow start.

It loses nothing: a stream of bytes cannot. The kernels at its ends know loopback only, so the round trip of a new
connection, and how much a sender may have under way, are imitated here.
"""

import asyncio
import socket
from collections import deque
from contextlib import suppress
from typing import Self

from proxy.cli.bench.profiles import Profile
from proxy.upstream.background import Background

PACKET = 1448
FIRST_WINDOW = 10 * PACKET
"""Bytes that TCP sends before the first acknowledgement (RFC 6928), also after an idle time (RFC 5681)."""
LARGEST_WINDOW = 4 * 2**20
IDLE_SECONDS = 1.0
TICK_SECONDS = 0.01
SOCKET_BUFFER = 16 * 1024


class Lane:
    """One direction of the link at *rate* bit/s, shared by all connections; *passed* counts bytes."""

    def __init__(self, rate: float) -> None:
        self.rate = rate / 8
        self.passed = 0
        self._free_at = 0.0

    @property
    def chunk(self) -> int:
        """How many bytes to move at once."""
        return int(min(max(self.rate * TICK_SECONDS, PACKET), FIRST_WINDOW))

    def take(self, size: int, at: float) -> float:
        """Return when *size* bytes that come at *at* have passed."""
        self.passed += size
        self._free_at = max(self._free_at, at) + size / self.rate
        return self._free_at


class Flow:
    """One connection's bytes on *lane*: its congestion window, which each acknowledgement widens."""

    def __init__(self, lane: Lane, round_trip: float) -> None:
        self.lane = lane
        self._round_trip = round_trip
        self._window = FIRST_WINDOW
        self._under_way: deque[tuple[float, int]] = deque()
        self._under_way_bytes = 0
        self._passed_at = 0.0

    def send(self, size: int, now: float) -> tuple[float, float]:
        """Return when *size* bytes that are written *now* have left, and when they arrive."""
        at = now
        self._acknowledge(at)
        if now - self._passed_at > self._round_trip + IDLE_SECONDS:
            self._window = FIRST_WINDOW
        while self._under_way and self._under_way_bytes + size > self._window:
            at = self._under_way[0][0]
            self._acknowledge(at)
        self._passed_at = self.lane.take(size, at)
        self._under_way.append((self._passed_at + self._round_trip, size))
        self._under_way_bytes += size
        return self._passed_at, self._passed_at + self._round_trip / 2

    def _acknowledge(self, now: float) -> None:
        while self._under_way and self._under_way[0][0] <= now:
            size = self._under_way.popleft()[1]
            self._under_way_bytes -= size
            self._window = min(self._window + size, LARGEST_WINDOW)


class Relay:
    """Carries connections to *target*, a port of this machine, as *profile* has it; an async context manager."""

    def __init__(self, target: int, profile: Profile) -> None:
        self.up, self.down = Lane(profile.up), Lane(profile.down)
        self.port = 0
        self._target = target
        self._round_trip = profile.round_trip
        self._background = Background()

    async def __aenter__(self) -> Self:
        listener = socket.create_server(("127.0.0.1", 0))
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SOCKET_BUFFER)  # a sender feels the link
        self.port = listener.getsockname()[1]
        self._server = await asyncio.start_server(self._connected, sock=listener, limit=FIRST_WINDOW)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._server.close()
        await self._background.close(0)

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._background.start(self._join(reader, writer), "carry a connection")

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry a connection that was made on our side, until both directions have ended."""
        try:
            await asyncio.sleep(self._round_trip)  # TCP's handshake
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target, limit=FIRST_WINDOW)
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(_carry(reader, far_writer, Flow(self.up, self._round_trip)))
                    group.create_task(_carry(far_reader, writer, Flow(self.down, self._round_trip)))
            finally:
                far_writer.close()
        finally:
            writer.close()


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, flow: Flow) -> None:
    """Carry bytes until their sender ends, and then end; take no more at once than has left."""
    clock = asyncio.get_running_loop().time
    arriving: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

    async def arrive() -> None:
        with suppress(OSError):  # whom it is for has gone
            while True:
                due, data = await arriving.get()
                await asyncio.sleep(due - clock())
                if not data:
                    break
                writer.write(data)
                await writer.drain()
            writer.write_eof()

    async with asyncio.TaskGroup() as group:
        group.create_task(arrive())
        due = clock()
        with suppress(OSError):  # a reset counts as an end
            while data := await reader.read(flow.lane.chunk):
                left, due = flow.send(len(data), clock())
                arriving.put_nowait((due, data))
                await asyncio.sleep(left - clock())
        arriving.put_nowait((due, b""))
