"""Request bodies in a Content-Encoding, for upstreams that take them over plain HTTP.

Most APIs take none, and say so in several ways: a turn's own body is what finds out, and a refusal, which comes
before anything is generated, costs that body once more.
"""

import asyncio
import zlib
from collections.abc import Callable
from typing import Literal

import zstandard

Encoding = Literal["gzip", "zstd"]

KNOWN: dict[str, Encoding] = {"api.openai.com": "zstd"}
"""Hosts that document an encoding for the requests of turns."""

_WORTH_IT = 1024
_LARGE = 256 * 1024
"""Bytes of a body that would hold the loop up for milliseconds."""

_REFUSALS = frozenset({400, 403, 415})


def _gzip(body: bytes) -> bytes:
    return zlib.compress(body, level=6, wbits=zlib.MAX_WBITS | 16)


def _zstd(body: bytes) -> bytes:
    return zstandard.ZstdCompressor(level=3).compress(body)


_ENCODERS: dict[Encoding, Callable[[bytes], bytes]] = {"gzip": _gzip, "zstd": _zstd}


class RequestEncoding:
    """Whether upstream takes bodies in *name*; None is a name for nothing.

    UNKNOWN -> TAKEN -> REFUSED, or straight to REFUSED, and there it stays.
    """

    def __init__(self, name: Encoding | None) -> None:
        self.name = name
        self._taken = False

    async def encode(self, body: bytes) -> bytes | None:
        """Return *body* encoded; None where it should go as it is."""
        if self.name is None or len(body) < _WORTH_IT:
            return None
        encoder = _ENCODERS[self.name]
        return await asyncio.to_thread(encoder, body) if len(body) > _LARGE else encoder(body)

    def doubts(self, status: int) -> bool:
        """Whether the *status* of an encoded request may be about its encoding: it should be sent again plain."""
        if status < 300:
            self._taken = True
        return status == 415 or (status in _REFUSALS and not self._taken)

    def resolve(self, encoded: int, plain: int) -> None:
        """Learn from the status that the same request got *encoded* and then *plain*."""
        if plain < 300 or (encoded == 415 and plain != 415):
            self.name = None
