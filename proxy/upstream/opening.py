"""An answer over plain HTTP, and how it begins: not all sign-in pages say that they are HTML.

What was looked at is part of the body all the same; `proxy.upstream.http.chunks` yields it first.
"""

import zlib
from typing import Any, Self

import aiohttp
from aiohttp.connector import Connection

from proxy.errors import UpstreamUnavailable
from proxy.upstream import trouble
from proxy.upstream.encoding import is_gzip

_BLANKS = b" \t\r\n\f\v\0\xef\xbb\xbf\xfe\xff"
"""White space, and byte order marks."""

_ENOUGH = 4096
_ENOUGH_CHUNKS = 2
"""Bytes, and chunks, of blanks alone after which no more is waited for: some keep an answer alive with them."""


class Answer(aiohttp.ClientResponse):
    """An answer whose first bytes may have been read before the others: *opening*."""

    opening = b""
    _handler: Any = None

    async def start(self, connection: Connection) -> Self:
        """Read the head, and remember who reads the body."""
        self._handler = connection.protocol
        await super().start(connection)
        return self

    @property
    def broke_off(self) -> bool:
        """Whether the body ended because its connection broke, though all that arrived of it could be read."""
        return getattr(self._handler, "broken", None) is self.content

    async def is_page(self, *, looking: bool = True) -> bool:
        """Whether this is a web page or a redirect, which may be anybody's.

        Where the type leaves that open, *looking* waits for the first bytes. Raises UpstreamUnavailable where the
        body breaks off before; the answer is then closed.
        """
        verdict = trouble.is_page(self.status, self.headers.get("Content-Type", ""))
        if verdict is not None or not looking:
            return bool(verdict)
        try:
            return (await self._first()).startswith(b"<")
        except (aiohttp.ClientError, OSError) as exc:
            self.close()
            raise UpstreamUnavailable(f"upstream over HTTP: {type(exc).__name__}") from exc
        except BaseException:
            self.close()
            raise

    async def _first(self) -> bytes:
        """Return what the body begins with, without blanks; nothing where that is all, or cannot be told."""
        encoding = self.headers.get("Content-Encoding", "").strip().lower()
        if encoding not in {"", "identity"} and not is_gzip(encoding):
            return b""
        chunks = 0
        while True:
            text = _inflated(self.opening) if is_gzip(encoding) else self.opening
            text = text.lstrip(_BLANKS)
            if text or len(self.opening) >= _ENOUGH or chunks == _ENOUGH_CHUNKS:
                return text
            chunk = await self.content.readany()
            if not chunk:
                return b""
            self.opening += chunk
            chunks += 1


def _inflated(opening: bytes) -> bytes:
    """Return some of what *opening* says in gzip."""
    try:
        return zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(opening, _ENOUGH)
    except zlib.error:
        return b"?"  # it is none
