"""An agent's request body: read within limits, and decoded from its Content-Encoding."""

import asyncio
import zlib
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import brotli
import zstandard
from aiohttp import web

_SLICE = 512
"""Bytes that unpack to 16 MiB at most: zstd has blocks of 128 KiB in 4 bytes, deflate 1032 bytes in one."""

_PIECE = 1024 * 1024


class Undecodable(ValueError):
    """The body's Content-Encoding is unknown, or the body is corrupt."""


class TooLarge(Undecodable):
    """Decoding the body would exceed the limit."""


class Stalled(TimeoutError):
    """The agent stopped sending its body."""


class Garbled(ValueError):
    """What the agent sent of its body cannot be read: a chunk is none."""


Unfinished: TypeAlias = Stalled | Garbled
"""Why the rest of a body will not come."""


@dataclass(frozen=True, slots=True)
class Unread:
    """A body that was not read to its end: its *beginning*; the rest is still to come."""

    beginning: bytes


async def read(
    request: web.Request,
    *,
    limit: int,
    timeout: float,  # noqa: ASYNC109
    arrived: Callable[[int], None],
) -> bytes | Unread:
    """Return the body of *request*, undecoded, or its beginning once it exceeds *limit* bytes.

    *arrived* is told the size of each piece, since the agent may hang up before the last.
    Raises Stalled where nothing arrives for *timeout* seconds, and Garbled where what arrives is no HTTP.
    """
    if request.content_length is not None and request.content_length > limit:
        return Unread(b"")
    parts: list[bytes] = []
    size = 0
    while True:
        chunk = await _next(request, timeout)
        if not chunk:
            return b"".join(parts)
        arrived(len(chunk))
        parts.append(chunk)
        size += len(chunk)
        if size > limit:
            return Unread(b"".join(parts))


async def rest(request: web.Request, *, timeout: float) -> AsyncIterator[bytes]:  # noqa: ASYNC109
    """Yield what is still to come of the body. Raises Stalled and Garbled, as `read` does."""
    while chunk := await _next(request, timeout):
        yield chunk


async def _next(request: web.Request, limit: float) -> bytes:
    content = request.content
    try:
        async with asyncio.timeout(limit):
            chunk = await content.readany()
        if not chunk and isinstance(fault := content.exception(), web.RequestPayloadError):
            raise fault
    except TimeoutError as exc:
        raise Stalled(f"nothing more of the request's body arrived for {limit:g} s (body_timeout)") from exc
    except web.RequestPayloadError as exc:
        raise Garbled("the request's body is not valid HTTP: one of its chunks cannot be read") from exc
    return chunk


def decode(body: bytes, encodings: str, *, limit: int) -> bytes:
    """Return *body* decoded from *encodings*, the value of Content-Encoding, last one first.

    Raises Undecodable, and TooLarge where the result would exceed *limit* bytes: nothing beyond it is ever held.
    """
    for encoding in reversed([each.strip().lower() for each in encodings.split(",") if each.strip()]):
        if encoding == "identity":
            continue
        decoder = _DECODERS.get(encoding)
        if decoder is None:
            raise Undecodable(f"Content-Encoding {encoding}")
        try:
            body = decoder(body, limit)
        except (zlib.error, brotli.error, zstandard.ZstdError) as exc:
            raise Undecodable(f"the body is not {encoding}") from exc
    return body


def _gunzip(body: bytes, limit: int) -> bytes:
    return _within(limit, _members(body, partial(zlib.decompressobj, zlib.MAX_WBITS | 16)))


def _deflate(body: bytes, limit: int) -> bytes:
    """Decode `deflate`, which is zlib's format (RFC 9110, section 8.4.1.2); some send it without the frame."""
    try:
        return _within(limit, _members(body, zlib.decompressobj))
    except TooLarge:
        raise
    except (zlib.error, Undecodable):
        return _within(limit, _members(body, partial(zlib.decompressobj, -zlib.MAX_WBITS)))


def _unbrotli(body: bytes, limit: int) -> bytes:
    return _within(limit, _brotli_pieces(body))


def _unzstd(body: bytes, limit: int) -> bytes:
    return _within(limit, _members(body, zstandard.ZstdDecompressor(max_window_size=2**27).decompressobj))


def _within(limit: int, pieces: Iterator[bytes]) -> bytes:
    parts: list[bytes] = []
    size = 0
    for piece in pieces:
        size += len(piece)
        if size > limit:
            raise TooLarge("the decoded body is too large")
        parts.append(piece)
    return b"".join(parts)


def _members(body: bytes, decoder: Callable[[], Any]) -> Iterator[bytes]:
    """Decode a slice at a time, as none of them unpacks to much; gzip members and zstd frames may be several."""
    member = decoder()
    for start in range(0, len(body), _SLICE):
        rest = body[start : start + _SLICE]
        while rest:
            if member.eof:
                member = decoder()
            yield member.decompress(rest)
            rest = member.unused_data
    if not member.eof:
        raise Undecodable("the body is cut off")


def _brotli_pieces(body: bytes) -> Iterator[bytes]:
    decompressor = brotli.Decompressor()
    piece: bytes = decompressor.process(body, output_buffer_limit=_PIECE)
    yield piece
    while not decompressor.is_finished():
        piece = decompressor.process(b"", output_buffer_limit=_PIECE)
        if not piece:
            raise Undecodable("the body is cut off")
        yield piece


_DECODERS = {
    "gzip": _gunzip,
    "x-gzip": _gunzip,
    "deflate": _deflate,
    "br": _unbrotli,
    "zstd": _unzstd,
}
