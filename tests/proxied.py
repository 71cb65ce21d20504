"""A running proxy, and both its neighbours to the byte: an agent that sends and an upstream that answers."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Self

import orjson

from proxy.ledger import TurnRecord
from proxy.server import Server
from proxy.simulator import Simulator

KEY = ("Authorization", "Bearer key")


@dataclass(frozen=True, slots=True)
class Message:
    """One HTTP message as it crossed the socket; *body* is without its chunks."""

    start: str
    headers: list[tuple[str, str]]
    body: bytes = b""

    @property
    def status(self) -> int:
        """The status of a response."""
        return int(self.start.split(" ")[1])

    @property
    def reason(self) -> str:
        """The reason phrase of a response."""
        return self.start.split(" ", 2)[2]

    @property
    def target(self) -> str:
        """The target of a request."""
        return self.start.split(" ")[1]

    def all(self, name: str) -> list[str]:
        """Return every value of the header *name*."""
        return [value for each, value in self.headers if each.lower() == name.lower()]

    def get(self, name: str) -> str:
        """Return the first value of the header *name*, or nothing."""
        return next(iter(self.all(name)), "")

    def json(self) -> Any:
        """Parse the body."""
        return orjson.loads(self.body)


class Peer:
    """One end of a TCP connection that speaks HTTP/1.1, byte by byte."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.host = "{}:{}".format(*writer.get_extra_info("peername")[:2])

    async def send(self, data: bytes) -> None:
        """Send *data* as it is."""
        self.writer.write(data)
        await self.writer.drain()

    async def begin(self, method: str, target: str, *headers: tuple[str, str]) -> None:
        """Send the head of a request; Host comes first unless *headers* have one."""
        pairs = headers if any(name.lower() == "host" for name, _ in headers) else (("Host", self.host), *headers)
        head = "".join(f"{name}: {value}\r\n" for name, value in pairs)
        await self.send(f"{method} {target} HTTP/1.1\r\n{head}\r\n".encode("utf-8", "surrogateescape"))

    async def ask(self, method: str, target: str, *headers: tuple[str, str], body: bytes = b"") -> Message:
        """Send a request and return its answer."""
        length = (("Content-Length", str(len(body))),) if body else ()
        await self.begin(method, target, *headers, *length)
        await self.send(body)
        return await self.message(bodiless=method == "HEAD")

    async def head(self) -> Message:
        """Return the start line and the headers of what comes next."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        start, *lines = head.decode("latin-1").rstrip("\r\n").split("\r\n")
        pairs = [line.partition(":") for line in lines]
        return Message(start, [(name, value.strip()) for name, _, value in pairs])

    async def message(self, *, bodiless: bool = False) -> Message:
        """Return the whole of what comes next; IncompleteReadError where it breaks off."""
        head = await self.head()
        parts = [] if bodiless else [part async for part in self.pieces(head)]
        return Message(head.start, head.headers, b"".join(parts))

    async def pieces(self, head: Message) -> AsyncIterator[bytes]:
        """Yield the body that follows *head* in the pieces in which it was sent, where it is chunked."""
        if head.get("Transfer-Encoding") == "chunked":
            while size := int(await self.reader.readuntil(b"\r\n"), 16):
                yield (await self.reader.readexactly(size + 2))[:-2]
            await self.reader.readuntil(b"\r\n")
        elif head.get("Content-Length"):
            yield await self.reader.readexactly(int(head.get("Content-Length")))

    def close(self) -> None:
        """Close at once."""
        self.writer.transport.abort()


class RawUpstream:
    """An upstream that does to each connection what *serve* does."""

    def __init__(self, serve: Callable[[Peer], Awaitable[None]], *, buffer: int | None = None) -> None:
        self._serve = serve
        self._buffer = buffer
        self._tasks: set[asyncio.Task[Any]] = set()
        self.base_url = ""

    async def __aenter__(self) -> Self:
        limit = 2**16 if self._buffer is None else self._buffer
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0, limit=limit)
        self.base_url = "http://{}:{}/v1".format(*self._server.sockets[0].getsockname())
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
                await self._serve(Peer(reader, writer))
        finally:
            writer.close()
            self._tasks.discard(task)


@dataclass
class Proxied:
    """The proxy, and the simulated upstream behind it unless a test brought its own."""

    server: Server
    simulator: Simulator
    peers: list[Peer] = field(default_factory=list)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        ledger = self.server.ledger
        log = ledger.observe

        def observe(record: TurnRecord) -> None:
            log(record)
            self.changed.set()

        ledger.observe = observe

    @property
    def port(self) -> int:
        """The port that the proxy listens on."""
        return int(self.server.url.rpartition(":")[2])

    async def dial(self, **options: Any) -> Peer:
        """Connect to the proxy as an agent."""
        peer = Peer(*await asyncio.open_connection("127.0.0.1", self.port, **options))
        self.peers.append(peer)
        return peer

    async def ask(self, method: str, target: str, *headers: tuple[str, str], body: bytes = b"") -> Message:
        """Send one request over a connection of its own."""
        peer = await self.dial()
        try:
            return await peer.ask(method, target, *headers, body=body)
        finally:
            peer.close()

    async def post(self, body: Any, *headers: tuple[str, str], target: str = "/v1/responses") -> Message:
        """Send *body*, bytes or JSON, as a request to the Responses API or another *target*."""
        data = body if isinstance(body, bytes) else orjson.dumps(body)
        return await self.ask("POST", target, KEY, ("Content-Type", "application/json"), *headers, body=data)

    async def recorded(self, turns: int) -> None:
        """Wait until *turns* turns have ended."""
        while self.server.ledger.uploads.total() < turns:
            await self.changed.wait()
            self.changed.clear()

    async def lose_connections(self) -> None:
        """Have upstream reset every connection between turns, and wait until the proxy has taken note."""
        before = (await self.figures())["connections"]
        self.simulator.abort_connections()
        async with asyncio.timeout(10):
            while (await self.figures())["connections"]["lost"] < before["lost"] + before["open"]:
                pass

    async def figures(self, path: str = "stats") -> Any:
        """Return what `/_packlight/` shows under *path*."""
        return (await self.ask("GET", f"/_packlight/{path}")).json()
