"""The address that agents connect to, which is listened on for as long as the server runs.

asyncio's loop on Windows closes a listening socket for good where an agent hangs up before it was accepted
(python/cpython#93821). All that it does about that is to tell the loop's exception handler.
"""

import asyncio
from typing import Any

import structlog
from aiohttp import web

from proxy.upstream.background import Background

log = structlog.get_logger("server")

_ACCEPT_FAILED = "Accept failed on a socket"
"""What the loop says then, and says of nothing else."""

_AGAIN_AFTER = 1.0


class Listening:
    """Listens on *host* and *port* for *runner*. `start` raises OSError where the address cannot be had."""

    def __init__(self, runner: web.AppRunner, host: str, port: int) -> None:
        self._runner = runner
        self._host = host
        self._site = web.TCPSite(runner, host, port)
        self._background = Background()
        self._reopening: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin."""
        await self._site.start()
        self._port = self._runner.addresses[0][1]
        loop = asyncio.get_running_loop()
        self._handler = loop.get_exception_handler()
        loop.set_exception_handler(self._handle)

    async def stop(self) -> None:
        """Take no more connections."""
        asyncio.get_running_loop().set_exception_handler(self._handler)
        await self._background.close(0)
        if self._site in self._runner.sites:
            await self._site.stop()

    def _handle(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if context.get("message") == _ACCEPT_FAILED:
            if self._reopening is None or self._reopening.done():
                self._reopening = self._background.start(self._open_again(), "listen again")
        elif self._handler is not None:
            self._handler(loop, context)
        else:
            loop.default_exception_handler(context)

    async def _open_again(self) -> None:
        log.warning("listening_again")
        await self._site.stop()
        while True:
            self._site = web.TCPSite(self._runner, self._host, self._port)
            try:
                await self._site.start()
            except OSError:
                await self._site.stop()
                await asyncio.sleep(_AGAIN_AFTER)
            else:
                return
