"""Bodies in a Content-Encoding over plain HTTP: requests for upstreams that take them, and answers undone here.

Most APIs take no encoded request, and say so in several ways: a turn's own body is what finds out, and a refusal,
which comes before anything is generated, costs that body once more.
"""

import asyncio
import zlib
from collections.abc import AsyncIterator, Callable
from typing import Literal

import zstandard

from proxy.errors import UpstreamUnavailable

Encoding = Literal["gzip", "zstd"]

KNOWN: dict[tuple[str, str], Encoding] = {
    ("api.openai.com", "/responses"): "zstd",
    ("chatgpt.com", "/responses"): "zstd",
}
"""Hosts and paths that take an encoding: said to, and as Codex itself sends (openai/codex#8767)."""

_WORTH_IT = 1024
_LARGE = 256 * 1024
"""Bytes of a body that would hold the loop up for milliseconds."""

_REFUSALS = frozenset({400, 403, 406, 411, 415, 422, 501})
_SAYS_NOTHING = frozenset({401, 402, 404, 408, 409, 429, 502, 503, 504})
"""What upstream answers whatever the body."""

_SUSPICIOUS = 80
"""OpenAI is said to refuse what is more than a hundred times smaller than its content."""

_PLAIN_TURNS = 8
"""Turns that go plain once an encoded one got no answer; eight times as many each time that happens again."""

_PIECE = 64 * 1024
_NAMES = frozenset({"gzip", "x-gzip"})
_MAGIC = b"\x1f\x8b"
"""What a member begins with (RFC 1952, section 2.3.1)."""


def _gzip(body: bytes) -> bytes:
    return zlib.compress(body, level=6, wbits=zlib.MAX_WBITS | 16)


def _zstd(body: bytes) -> bytes:
    return zstandard.ZstdCompressor(level=3).compress(body)


_ENCODERS: dict[Encoding, Callable[[bytes], bytes]] = {"gzip": _gzip, "zstd": _zstd}


class RequestEncoding:
    """Whether upstream takes bodies in the encoding *name*, which is None once it is known not to.

    UNKNOWN -> TAKEN -> REFUSED, or straight to REFUSED, and there it stays. A turn that gets no answer before one
    was TAKEN leaves open whether the link or the encoding is at fault, so that a number of turns go plain.
    """

    def __init__(self, name: Encoding) -> None:
        self.name: Encoding | None = name
        self._taken = False
        self._breaks = 0
        self._plain_turns = 0

    async def encode(self, body: bytes) -> tuple[Encoding, bytes] | None:
        """Return *body* encoded, and how; None where it should go as it is."""
        name = self.name
        if name is None or len(body) < _WORTH_IT:
            return None
        if self._plain_turns > 0:
            self._plain_turns -= 1
            return None
        encoder = _ENCODERS[name]
        encoded = await asyncio.to_thread(encoder, body) if len(body) > _LARGE else encoder(body)
        return None if len(body) > _SUSPICIOUS * len(encoded) else (name, encoded)

    def doubts(self, status: int) -> bool:
        """Whether the *status* of an encoded request may be about its encoding: it should be sent again plain."""
        if self._taken:
            return status == 415
        if status >= 300 and status not in _REFUSALS | _SAYS_NOTHING:
            self.name = None  # not sent again, for it may have been read; the next one goes plain
        self._taken = status < 300
        return status in _REFUSALS

    def broke(self) -> None:
        """Take note that an encoded request got no answer at all: something on the way may not stand it."""
        if not self._taken:
            self._breaks += 1
            self._plain_turns = _PLAIN_TURNS**self._breaks

    def resolve(self, encoded: int, plain: int) -> None:
        """Learn from the status that the same request got *encoded* and then *plain*."""
        if plain < 300 or (encoded == 415 and plain != 415):
            self.name = None


def is_gzip(encoding: str) -> bool:
    """Whether *encoding*, the value of Content-Encoding, is what `inflated` undoes."""
    return encoding.strip().lower() in _NAMES


async def inflated(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Undo gzip as it comes, each chunk at once. Raises UpstreamUnavailable where it is corrupt or cut off."""
    member = _member()
    begun = False
    try:
        async for chunk in chunks:
            rest = chunk
            while rest:
                if member.eof:
                    if not _MAGIC.startswith(rest[: len(_MAGIC)]):
                        break  # padding: what is no further member is nothing
                    member = _member()
                if piece := member.decompress(rest, _PIECE):
                    yield piece
                rest = member.unused_data or member.unconsumed_tail
                begun = True
    except zlib.error as exc:
        raise UpstreamUnavailable("upstream over HTTP: its answer is not the gzip that it is said to be") from exc
    while begun and not member.eof and (piece := member.decompress(b"", _PIECE)):
        yield piece
    if begun and not member.eof:
        raise UpstreamUnavailable("upstream over HTTP: its answer in gzip was cut off")


def _member() -> "zlib._Decompress":
    return zlib.decompressobj(zlib.MAX_WBITS | 16)
