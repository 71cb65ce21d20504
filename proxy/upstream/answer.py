"""An answer over plain HTTP: how it begins, and its body as it comes.

Not all sign-in pages say that they are HTML, so a beginning may have to be looked at. It is part of the body all
the same.
"""

import asyncio
import zlib
from collections.abc import AsyncIterator, Callable
from typing import Any, Self

import aiohttp
from aiohttp.connector import Connection

from proxy.errors import UpstreamTimeout, UpstreamUnavailable
from proxy.upstream import trouble
from proxy.upstream.encoding import is_gzip
from proxy.upstream.progress import Progress

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


async def chunks(answer: Answer) -> AsyncIterator[bytes]:
    """Yield the body of *answer* as it arrives. Raises UpstreamUnavailable where it breaks off."""
    if answer.opening:
        yield answer.opening
    try:
        async for chunk in answer.content.iter_any():
            yield chunk
    except (aiohttp.ClientError, OSError) as exc:
        raise UpstreamUnavailable(f"upstream over HTTP: {type(exc).__name__}") from exc
    if answer.broke_off:
        raise UpstreamUnavailable("upstream over HTTP: the connection broke off")


async def in_time(
    chunks: AsyncIterator[bytes], *, first: float, later: float, sent: Callable[[], int]
) -> AsyncIterator[bytes]:
    """Yield *chunks* as they arrive, the *first* and each *later* one within so many seconds.

    Raises UpstreamTimeout. The time that whoever takes the chunks needs for them does not count, nor does that of
    an upload that goes on beside the first: *sent* says how far it is.
    """
    try:
        async with asyncio.timeout(first) as deadline:
            with Progress(deadline, first, sent):
                chunk = await anext(chunks, b"")
    except TimeoutError as exc:
        raise silence(first, "first_event_timeout") from exc
    while chunk:
        yield chunk
        try:
            async with asyncio.timeout(later):
                chunk = await anext(chunks, b"")
        except TimeoutError as exc:
            raise silence(later, "event_timeout") from exc


def silence(limit: float, name: str) -> UpstreamTimeout:
    """Return what is raised where nothing came for *limit* seconds, the setting *name*."""
    return UpstreamTimeout(f"upstream was silent for {limit:g} s over HTTP ({name})")
