"""An agent's connection: the library's own, but a body of which no more can be read has an end there.

The library notes what it cannot read as one more request, to be refused behind the one whose body it is in. Who
reads that body would wait for the rest of it.
"""

import asyncio

from aiohttp import StreamReader, web


class Connection(web.RequestHandler):
    """The library's side of one connection.

    A body in which something is no HTTP ends there, and its `exception()` is web.RequestPayloadError; nothing that
    follows is read.
    """

    __slots__ = ("_is_garbled", "_latest")

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin with no body."""
        self._latest: StreamReader | None = None
        self._is_garbled = False
        super().connection_made(transport)

    def data_received(self, data: bytes) -> None:
        """Read *data*, and see to the latest body where another request seems to begin before its end."""
        if self._is_garbled:
            return
        super().data_received(data)
        if not self._messages:
            return
        before, (_, self._latest) = self._latest, self._messages[-1]
        if before is not None and before is not self._latest and not before.is_eof():
            self._is_garbled = True
            before.feed_eof()  # first, so that the library's own wait for the rest ends without an error
            before.set_exception(web.RequestPayloadError("what came is no HTTP"))


class _Server(web.Server):
    def __call__(self) -> Connection:
        return Connection(self, loop=self._loop, **self._kwargs)


class Runner(web.AppRunner):
    """Runs an application on such connections."""

    __slots__ = ()

    async def _make_server(self) -> web.Server:
        # The library has no public way to hand in a protocol; tests/server/test_slow_uploads.py guards this one.
        server = await super()._make_server()
        return _Server(server.request_handler, request_factory=server.request_factory, **self._kwargs)
