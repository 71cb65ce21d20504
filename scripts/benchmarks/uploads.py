"""Uploads over a narrow link, to a server that gives up on whoever does not answer its pings."""

import asyncio
import random
import socket
import string
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace

from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from proxy.core.message import Message
from proxy.errors import ConnectionLost
from proxy.ledger import Traffic
from proxy.upstream.connection import Connection
from proxy.upstream.endpoint import Endpoint
from proxy.upstream.meter import Meter
from proxy.upstream.upgrade import Timing

_PACKET = 1400
"""Bytes that the link carries at a time."""

_RECEIVED = 8 * 1024
"""The link's own buffer: what it has not carried stays with the sender's kernel."""

TIMING = Timing(
    link_timeout=5,
    open_timeout=20,
    send_timeout=120,
    upload_lead=2,
    close_timeout=1,
    ping_interval=20,
    probe_timeout=5,
    stuck_timeout=1,
    max_event_bytes=2**20,
    max_unread_bytes=2**20,
)


@dataclass(frozen=True, slots=True)
class Cell:
    """One upload: *size* bytes over *rate* bytes a second; the server pings every *ping* seconds.

    *bloat* seconds of the rate are taken from the sender ahead of the link, as by an overlong modem queue.
    *paced* is packlight's way, with *lead* seconds; otherwise the message leaves as one frame.
    """

    size: int
    rate: float
    ping: float = 20
    bloat: float = 0
    lead: float = 2
    paced: bool = True

    def faster(self, scale: float) -> "Cell":
        """Return the same situation with all times divided by *scale*."""
        return replace(
            self,
            rate=self.rate * scale,
            ping=self.ping / scale,
            bloat=self.bloat / scale,
            lead=self.lead / scale,
        )


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of an upload: the *share* of the link's rate that it had, or how it was *lost*."""

    cell: Cell
    seconds: float
    share: float
    lost: str | None = None


async def run(cell: Cell) -> Outcome:
    """Upload once, and wait until the server has it all."""
    arrived = asyncio.Event()

    async def take(connection: ServerConnection) -> None:
        with suppress(ConnectionClosed):
            async for _ in connection:
                arrived.set()

    clock = asyncio.get_running_loop().time
    async with (
        serve(
            take, "127.0.0.1", 0, compression=None, max_size=None, ping_interval=cell.ping, ping_timeout=cell.ping
        ) as server,
        _link(server.sockets[0].getsockname()[1], cell) as port,
    ):
        message = _incompressible(cell.size)
        began = clock()
        try:
            async with asyncio.timeout(3 * cell.size / cell.rate + 3 * cell.ping):
                if cell.paced:
                    await _paced(port, message, arrived, replace(TIMING, upload_lead=cell.lead))
                else:
                    await _in_one_frame(port, message, arrived)
        except (ConnectionLost, ConnectionClosed, TimeoutError) as exc:
            return Outcome(cell, clock() - began, 0.0, str(exc) or type(exc).__name__)
        seconds = clock() - began
        return Outcome(cell, seconds, cell.size / seconds / cell.rate)


async def _paced(port: int, message: bytes, arrived: asyncio.Event, timing: Timing) -> None:
    endpoint, clock = Endpoint(f"http://127.0.0.1:{port}/v1"), asyncio.get_running_loop().time
    connection = await Connection.open(endpoint, (), Meter(Traffic()), timing, clock=clock)
    try:
        await connection.send(Message(message, {}))
        await _either(arrived, connection.receive(3600, "event_timeout"))
    finally:
        connection.abort()


async def _in_one_frame(port: int, message: bytes, arrived: asyncio.Event) -> None:
    uri = f"ws://127.0.0.1:{port}/v1/responses"
    async with connect(uri, compression=None, ping_interval=20, ping_timeout=None, close_timeout=1) as connection:
        try:
            await connection.send(message, text=True)
            await _either(arrived, connection.recv())
        finally:
            connection.transport.abort()


async def _either(arrived: asyncio.Event, loss: Awaitable[object]) -> None:
    """Wait until it has *arrived*, or *loss* raises."""
    loop = asyncio.get_running_loop()
    tasks = [loop.create_task(arrived.wait()), loop.create_task(_awaited(loss))]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _awaited(loss: Awaitable[object]) -> None:
    await loss


def _incompressible(size: int) -> bytes:
    letters = string.ascii_letters + string.digits + "-_"
    return "".join(random.Random(size).choices(letters, k=size)).encode()


@asynccontextmanager
async def _link(target: int, cell: Cell) -> AsyncIterator[int]:
    """Carry what connects to the port given to *target* on this machine, as narrowly as *cell* says."""
    loop = asyncio.get_running_loop()
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVED)
    if hasattr(socket, "TCP_MAXSEG"):
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, _PACKET)
    listener.setblocking(False)  # noqa: FBT003

    async def carry() -> None:
        near, _ = await loop.sock_accept(listener)
        far = socket.create_connection(("127.0.0.1", target))
        for each in (near, far):
            each.setblocking(False)  # noqa: FBT003
            each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(_narrow(near, far, cell.rate, int(cell.bloat * cell.rate)))
                group.create_task(_wide(far, near))
        finally:
            near.close()
            far.close()

    task = loop.create_task(carry())
    try:
        yield listener.getsockname()[1]
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        listener.close()


async def _narrow(near: socket.socket, far: socket.socket, rate: float, ahead: int) -> None:
    """Carry from *near* to *far* at *rate*, and take no more than *ahead* bytes beyond what was carried."""
    loop = asyncio.get_running_loop()
    queue: asyncio.Queue[bytes] = asyncio.Queue(max(ahead // _PACKET, 1))

    async def take() -> None:
        while data := await loop.sock_recv(near, _PACKET):
            await queue.put(data)
        await queue.put(b"")

    async with asyncio.TaskGroup() as group:
        group.create_task(take())
        free_at = loop.time()
        while data := await queue.get():
            free_at = max(free_at, loop.time() - 0.02) + len(data) / rate
            await asyncio.sleep(free_at - loop.time())
            await loop.sock_sendall(far, data)
        far.shutdown(socket.SHUT_WR)


async def _wide(far: socket.socket, near: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    with suppress(ConnectionError):
        while data := await loop.sock_recv(far, 65536):
            await loop.sock_sendall(near, data)
        near.shutdown(socket.SHUT_WR)
