"""Link: a TCP relay that stands for a bad network between two programs.

    async with Link(("127.0.0.1", 9000)) as link:
        link.up.latency = link.down.latency = 0.3
        ...  # connect to link.host, link.port

It knows nothing of what it carries. It takes from a sender only what it can forward, through small socket
buffers, so that the sender's kernel feels a slow link; what the kernels on the way acknowledge before it is
delivered is some tens of kilobytes.
"""

import asyncio
import os
import select
import socket
import struct
from collections import deque
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Self

from way import Ending, Way

SOCKET_BUFFER = 16 * 1024
BACKLOG = 128
FILLERS = 8
NO_LINGER = struct.pack("ii", 1, 0)


@dataclass(slots=True)
class Ways:
    """Both directions of a connection: *up* to the target, *down* from it."""

    up: Way = field(default_factory=Way)
    down: Way = field(default_factory=Way)


class Link:
    """A relay to *target*, listening on *host* and *port* (0: a free one). Use it as an async context manager.

    *up* and *down* hold for every connection but those that *planned* has ways for: the next connections, in
    order. *source* is the address that connections to the target come from. A connection that nothing crosses for
    *memory* seconds is forgotten: what comes after that is acknowledged, and goes nowhere.
    """

    def __init__(
        self, target: tuple[str, int], *, host: str = "127.0.0.1", port: int = 0, source: str | None = None
    ) -> None:
        self.target = target
        self.host = host
        self.port = port
        self.source = source
        self.up, self.down = Way(), Way()
        self.memory: float | None = None
        self.planned: deque[Ways] = deque()
        self.connections: set[Connection] = set()
        self.connections_ever = 0
        self.lighted = asyncio.Event()
        self.lighted.set()
        self._fillers: list[socket.socket] = []
        self._ours: set[object] = set()
        self._closing = False
        self._tasks: set[asyncio.Task[None]] = set()

    def __repr__(self) -> str:
        state = "lit" if self.lighted.is_set() else "dark"
        return f"<Link {self.host}:{self.port} {state} connections={len(self.connections)}>"

    async def __aenter__(self) -> Self:
        self._listener = _small(socket.socket())
        if os.name == "posix":  # elsewhere it would let two programs listen on one port
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listener.bind((self.host, self.port))
        self._listener.settimeout(0)
        self._listener.listen(BACKLOG)
        self.port = self._listener.getsockname()[1]
        self._accepting = self._start(self._accept())
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._closing = True
        self._fill()
        self.lit()
        await self._accepting  # by itself: to cancel it might lose a connection that it has just got
        self._listener.close()
        for task in self._tasks:
            task.cancel()
        ended = await asyncio.gather(*self._tasks, return_exceptions=True)
        for defect in ended:
            if isinstance(defect, Exception):
                raise defect

    @property
    def base_url(self) -> str:
        """The API's base behind the link, ``http://HOST:PORT/v1``."""
        return f"http://{self.host}:{self.port}/v1"

    # What happens to it

    def dark(self) -> None:
        """Let no byte pass either way, and let new connections hang, as if the radio were off."""
        self.lighted.clear()
        self._listener.listen(0)
        self._fill()

    def lit(self) -> None:
        """Let everything pass again: first what waited."""
        self._listener.listen(BACKLOG)
        for filler in self._fillers:
            filler.close()
        self._fillers.clear()
        self.lighted.set()

    def reset(self) -> None:
        """End every connection with a TCP reset both ways."""
        for connection in list(self.connections):
            connection.end("reset")

    def close(self) -> None:
        """End every connection properly, both ways, wherever it stands."""
        for connection in list(self.connections):
            connection.end("close")

    def strand(self) -> None:
        """Let every connection die without a word to either side; new ones work, as at a change of address."""
        for connection in list(self.connections):
            connection.end("silence")

    def forget(self) -> None:
        """Leave every connection half-open: the target sees a reset, the other side hears nothing at all."""
        for connection in list(self.connections):
            connection.end("half-open")

    async def ended(self) -> None:
        """Wait until no connection is left: both sides of each have closed."""
        while self.connections:
            await asyncio.wait(self._relaying())

    def _relaying(self) -> list[asyncio.Task[None]]:
        return [task for task in self._tasks if task is not self._accepting]

    # Connections

    def _fill(self) -> None:
        """Connect to ourselves until the kernel's queue is full, and it answers nobody any more."""
        for _ in range(FILLERS):
            filler = socket.socket()
            filler.settimeout(0)
            self._fillers.append(filler)
            filler.connect_ex((self.host, self.port))
            self._ours.add(filler.getsockname())
            if not select.select((), (filler,), (), 0.01)[1]:
                return

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self.lighted.wait()
            near, address = await loop.sock_accept(self._listener)
            if address in self._ours:
                self._ours.discard(address)
                near.close()
            else:
                self._start(self._relay(near))
            if self._closing:
                return
            if not self.lighted.is_set():
                self._fill()  # it went dark while we waited: there is room for one more

    def _start(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        if task.cancelled() or task.exception() is None:
            self._tasks.discard(task)  # a defect is kept for the end

    async def _relay(self, near: socket.socket) -> None:
        near.settimeout(0)
        ways = self.planned.popleft() if self.planned else Ways(self.up, self.down)
        connection = Connection(self, _prompt(near), ways)
        self.connections_ever += 1
        self.connections.add(connection)
        try:
            await connection.run()
        finally:
            self.connections.discard(connection)


class Connection:
    """One connection through *link*: two sockets, and a pump for each direction.

    RELAYING -> ENDED, by one of the two sides, by its limit or by the link. A silent one keeps its sockets open
    until the link closes or its *near* side gives up.
    """

    def __init__(self, link: Link, near: socket.socket, ways: Ways) -> None:
        self.link = link
        self.ways = ways
        self._near = near
        self._far: socket.socket | None = None
        self._loop = asyncio.get_running_loop()
        self._ending: asyncio.Future[Ending] = self._loop.create_future()
        self._crossed_at = self._loop.time()

    async def run(self) -> None:
        """Relay until the end."""
        try:
            ending = await self._relayed()
            if ending == "half-open":
                self._reset(self._far)
            if ending in ("silence", "half-open"):
                await self._gone(self._near)
            elif ending == "close":
                await self._close()
            else:
                self._reset(self._near)
                self._reset(self._far)
        finally:
            for each in (self._near, self._far):
                if each is not None:
                    each.close()

    def end(self, ending: Ending) -> None:
        """End in this way."""
        if not self._ending.done():
            self._ending.set_result(ending)

    def is_forgotten(self) -> bool:
        """Whether the bytes that are about to cross come too late. They end the connection then, in silence."""
        now, memory = self._loop.time(), self.link.memory
        if memory is not None and now - self._crossed_at > memory:
            self.end("silence")
        self._crossed_at = now
        return self._ending.done()

    async def _relayed(self) -> Ending:
        """Return how it ended."""
        relaying = asyncio.get_running_loop().create_task(self._both())
        try:
            await asyncio.wait((relaying, self._ending), return_when=asyncio.FIRST_COMPLETED)
            return self._ending.result() if self._ending.done() else relaying.result()
        finally:
            relaying.cancel()
            with suppress(asyncio.CancelledError):
                await relaying

    async def _both(self) -> Ending:
        link = self.link
        await link.lighted.wait()
        far = _prompt(_small(socket.socket()))
        far.settimeout(0)
        self._far = far
        try:
            if link.source is not None:
                far.bind((link.source, 0))
            await asyncio.get_running_loop().sock_connect(far, link.target)
        except OSError:
            return "reset"
        up = Pump(link, self.ways.up, self._near, far, self.is_forgotten)
        down = Pump(link, self.ways.down, far, self._near, self.is_forgotten)
        ending: Ending = "close"
        try:
            async with asyncio.TaskGroup() as group:
                for work in (up.take(), up.give(), down.take(), down.give()):
                    group.create_task(work)
        except* LimitReached as reached:
            ending = reached.exceptions[0].args[0]
        except* OSError:
            ending = "reset"
        await link.lighted.wait()
        return ending

    async def _close(self) -> None:
        """End both sides properly: what they still send is read, or the kernel would reset them."""
        for each in (self._near, self._far):
            if each is not None:
                with suppress(OSError):
                    each.shutdown(socket.SHUT_WR)
        for each in (self._near, self._far):
            if each is not None:
                await self._gone(each)

    async def _gone(self, side: socket.socket) -> None:
        """Hear *side* out, to its own end."""
        loop = asyncio.get_running_loop()
        with suppress(OSError):
            while await loop.sock_recv(side, SOCKET_BUFFER):
                pass

    def _reset(self, side: socket.socket | None) -> None:
        if side is not None:
            side.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)
            side.close()


class LimitReached(Exception):
    """A connection has carried what it may, and comes to the ending in its argument."""


class Pump:
    """Bytes of one connection on one *way*: taken from *source*, and given to *sink* when they have arrived.

    *is_forgotten* is asked before any cross.
    """

    def __init__(
        self, link: Link, way: Way, source: socket.socket, sink: socket.socket, is_forgotten: Callable[[], bool]
    ) -> None:
        self._passed = 0
        self._link = link
        self._way = way
        self._source = source
        self._sink = sink
        self._is_forgotten = is_forgotten
        self._waiting: deque[tuple[float, bytes]] = deque()
        self._size = 0
        self._changed = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    async def take(self) -> None:
        """Take everything, as fast as the way has room for it. Raises OSError where the source is gone."""
        way, due = self._way, 0.0
        while True:
            while self._size >= way.window:
                await self._wait()
            await self._passable()
            data = await self._loop.sock_recv(self._source, way.room)
            sent_at = way.sent_at(len(data), self._loop.time())
            due = max(due, sent_at + way.delay())
            if not data:
                due += way.slow_close
            self._waiting.append((due, data))
            self._size += len(data)
            self._changed.set()
            if not data:
                return
            await self._until(sent_at)

    async def give(self) -> None:
        """Give everything, and its end, when due. Raises LimitReached, and OSError where the sink is gone."""
        self._check_limit()
        while True:
            while not self._waiting:
                await self._wait()
            due, data = self._waiting.popleft()
            await self._until(due)
            await self._passable()
            if not data:
                self._sink.shutdown(socket.SHUT_WR)
                return
            for number, piece in enumerate(self._way.sliced(data)):
                if number:
                    await asyncio.sleep(self._way.slice_gap)
                await self._pass_on(piece)
            self._size -= len(data)
            self._changed.set()

    async def _pass_on(self, piece: bytes) -> None:
        await self._passable()
        if self._is_forgotten():
            await asyncio.Event().wait()  # for the end, which is near
        limit = self._way.limit
        allowed = piece if limit is None else piece[: max(0, limit - self._passed)]
        await self._loop.sock_sendall(self._sink, allowed)
        self._passed += len(allowed)
        self._way.note(allowed)
        self._check_limit()

    def _check_limit(self) -> None:
        if self._way.limit is not None and self._passed >= self._way.limit:
            raise LimitReached(self._way.ending)

    async def _passable(self) -> None:
        lighted, flows = self._link.lighted, self._way.flows
        while not (lighted.is_set() and flows.is_set()):
            await lighted.wait()
            await flows.wait()

    async def _until(self, moment: float) -> None:
        if (left := moment - self._loop.time()) > 0:
            await asyncio.sleep(left)

    async def _wait(self) -> None:
        self._changed.clear()
        await self._changed.wait()


def _small(each: socket.socket) -> socket.socket:
    """Keep the kernel's buffers small; a listener hands them on to what it accepts."""
    each.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SOCKET_BUFFER)
    each.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BUFFER)
    return each


def _prompt(each: socket.socket) -> socket.socket:
    """Send every piece at once: the slicer's pieces are to arrive as such."""
    each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return each
