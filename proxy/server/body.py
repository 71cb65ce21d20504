"""An agent's request body: read within limits, and decoded from its Content-Encoding."""

import asyncio
import io
import zlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

import brotli
import zstandard
from aiohttp import web


class Undecodable(ValueError):
    """The body's Content-Encoding is unknown, or the body is corrupt, or decoding it would exceed the limit."""


class Stalled(TimeoutError):
    """The agent stopped sending its body."""


@dataclass(frozen=True, slots=True)
class TooLong:
    """The beginning of a body that exceeds the limit; the rest is still to come."""

    beginning: bytes


async def read(request: web.Request, *, limit: int, timeout: float) -> bytes | TooLong:  # noqa: ASYNC109
    """Return the body of *request*, undecoded, or its beginning once it exceeds *limit* bytes.

    Raises Stalled where nothing arrives for *timeout* seconds.
    """
    if request.content_length is not None and request.content_length > limit:
        return TooLong(b"")
    parts: list[bytes] = []
    size = 0
    while True:
        chunk = await _next(request, timeout)
        if not chunk:
            return b"".join(parts)
        parts.append(chunk)
        size += len(chunk)
        if size > limit:
            return TooLong(b"".join(parts))


async def rest(request: web.Request, beginning: bytes, *, timeout: float) -> AsyncIterator[bytes]:  # noqa: ASYNC109
    """Yield *beginning*, and then what is still to come of the body."""
    if beginning:
        yield beginning
    while chunk := await _next(request, timeout):
        yield chunk


async def _next(request: web.Request, limit: float) -> bytes:
    try:
        async with asyncio.timeout(limit):
            return await request.content.readany()
    except TimeoutError as exc:
        raise Stalled("the request's body stopped arriving") from exc


def decode(body: bytes, encodings: str, *, limit: int) -> bytes:
    """Return *body* decoded from *encodings*, the value of Content-Encoding, last one first.

    Raises Undecodable, also where the result would exceed *limit* bytes: nothing beyond it is ever held.
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
        if len(body) > limit:
            raise Undecodable("the decoded body is too large")
    return body


def _gunzip(body: bytes, limit: int) -> bytes:
    return _inflate(body, limit, zlib.MAX_WBITS | 16)


def _deflate(body: bytes, limit: int) -> bytes:
    """Decode `deflate`, which is zlib's format (RFC 9110, section 8.4.1.2); some send it without the frame."""
    try:
        return _inflate(body, limit, zlib.MAX_WBITS)
    except zlib.error:
        return _inflate(body, limit, -zlib.MAX_WBITS)


def _inflate(body: bytes, limit: int, window: int) -> bytes:
    decoded = b""
    while True:
        inflater = zlib.decompressobj(window)
        decoded += inflater.decompress(body, limit + 1 - len(decoded))
        if len(decoded) > limit:
            return decoded
        if not inflater.eof:
            raise zlib.error("truncated")
        body = inflater.unused_data
        if not body:
            return decoded


def _unbrotli(body: bytes, limit: int) -> bytes:
    decompressor = brotli.Decompressor()
    decoded: bytes = decompressor.process(body, output_buffer_limit=limit + 1)
    while len(decoded) <= limit and not decompressor.is_finished():
        more = decompressor.process(b"", output_buffer_limit=limit + 1 - len(decoded))
        if not more:
            raise brotli.error("truncated")
        decoded += more
    return decoded


def _unzstd(body: bytes, limit: int) -> bytes:
    with zstandard.ZstdDecompressor(max_window_size=2**27).stream_reader(
        io.BytesIO(body), read_across_frames=True
    ) as reader:
        return reader.read(limit + 1)


_DECODERS = {
    "gzip": _gunzip,
    "x-gzip": _gunzip,
    "deflate": _deflate,
    "br": _unbrotli,
    "zstd": _unzstd,
}
