"""The benchmark's other programs, each in a process of its own that tells what it costs when asked.

    python apart.py source [deflate]     an upstream
    python apart.py pump UPSTREAM        a byte pump in front of it: asyncio, two transports, no parsing
    python apart.py proxy UPSTREAM [uvloop]

A line on standard input is answered with a line of JSON: port, processor seconds, resident bytes.
"""

import asyncio
import gc
import selectors
import sys
import threading
import time
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import orjson


def main(role: str, *arguments: str) -> None:
    """Run the program *role* until standard input ends."""
    with asyncio.Runner(loop_factory=partial(_loop, role, *arguments)) as runner:
        runner.run(_run(role, *arguments))


def _loop(role: str, *arguments: str) -> asyncio.AbstractEventLoop:
    if role == "source":  # select() waits to the microsecond, where others round up to a millisecond
        return asyncio.SelectorEventLoop(selectors.SelectSelector())
    if "uvloop" in arguments:
        import uvloop  # noqa: PLC0415  (only where it is asked for)

        loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
        return loop
    return asyncio.new_event_loop()


async def _run(role: str, *arguments: str) -> None:
    over = asyncio.Event()
    if role == "source":
        from eventsource import serve  # noqa: PLC0415  (another version of packlight has its own path)

        port = await serve(deflate="deflate" in arguments)
    elif role == "pump":
        port = await _pump(int(arguments[0]))
    else:
        port = await _proxy(int(arguments[0]), over)
    loop = asyncio.get_running_loop()
    threading.Thread(target=_tell, args=(port, loop, over), daemon=True).start()
    await over.wait()


def _tell(port: int, loop: asyncio.AbstractEventLoop, over: asyncio.Event) -> None:
    for line in sys.stdin:
        if line.strip() == "gc":
            gc.collect()
        seconds = time.process_time()
        told = {"port": port, "cpu": seconds, "rss": _resident()}
        print(orjson.dumps(told).decode(), flush=True)
    loop.call_soon_threadsafe(over.set)


def _resident() -> int | None:
    """Return the bytes of memory that this process has, where the system tells."""
    with suppress(OSError):
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
    return None


class _End(asyncio.Protocol):
    """One end of the pump."""

    def __init__(self) -> None:
        self.other: asyncio.Transport | None = None
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        if self.other is not None:
            self.other.write(data)

    def connection_lost(self, _exc: Exception | None) -> None:
        if self.other is not None:
            self.other.close()


async def _pump(upstream: int) -> int:
    loop = asyncio.get_running_loop()
    dialling: set[asyncio.Task[Any]] = set()

    class Near(_End):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)
            transport.pause_reading()  # type: ignore[attr-defined]
            task = loop.create_task(self.dial())
            dialling.add(task)
            task.add_done_callback(dialling.discard)

        async def dial(self) -> None:
            _, far = await loop.create_connection(_End, "127.0.0.1", upstream)
            far.other, self.other = self.transport, far.transport
            if self.transport is not None:
                self.transport.resume_reading()

    server = await loop.create_server(Near, "127.0.0.1", 0)
    return int(server.sockets[0].getsockname()[1])


async def _proxy(upstream: int, over: asyncio.Event) -> int:
    from proxy import log  # noqa: PLC0415  (of the version that is measured)
    from proxy.config import Config  # noqa: PLC0415
    from proxy.server import Server  # noqa: PLC0415

    log.configure("console", "error")
    config = replace(
        Config(port=0, upstream=f"http://127.0.0.1:{upstream}/v1"),
        max_connections=4096,
        max_message_bytes=64_000_000,
    )
    server = await Server(config).__aenter__()

    async def leave() -> None:
        await over.wait()
        await server.drain()

    _KEPT.append(asyncio.get_running_loop().create_task(leave()))
    return int(server.url.rpartition(":")[2])


_KEPT: list[asyncio.Task[None]] = []

if __name__ == "__main__":
    main(*sys.argv[1:])
