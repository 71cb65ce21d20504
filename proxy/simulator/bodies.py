"""Bodies: request bodies, with their Content-Encoding undone."""

import zlib
from collections.abc import Callable
from typing import Any

import brotli
import orjson
import zstandard
from aiohttp.web import BaseRequest

from proxy.simulator.apierror import ApiError, invalid
from proxy.simulator.settings import SimulatorSettings


def _gunzip(data: bytes) -> bytes:
    return zlib.decompress(data, zlib.MAX_WBITS | 16)


def _unzstd(data: bytes) -> bytes:
    return zstandard.ZstdDecompressor().decompressobj().decompress(data)


DECODERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": _gunzip,
    "deflate": zlib.decompress,
    "br": brotli.decompress,
    "zstd": _unzstd,
}
BROKEN = (zlib.error, brotli.error, zstandard.ZstdError)


async def raw_body(request: BaseRequest, settings: SimulatorSettings) -> bytes:
    """Return the body as it came; raise ApiError 413 if it is over the limit."""
    body = await request.content.read()
    limit = settings.max_body_bytes
    if limit is not None and len(body) > limit:
        raise ApiError(413, f"Request body is too large: the limit is {limit} bytes.", code="request_too_large")
    return body


def decoded(body: bytes, encoding: str, settings: SimulatorSettings) -> bytes:
    """Return *body* without its *encoding*; raise ApiError if that is not accepted."""
    for name in reversed([part.strip().lower() for part in encoding.split(",") if part.strip()]):
        if name == "identity":
            continue
        if name not in settings.accepted_encodings or name not in DECODERS:
            accepted = {"accept-encoding": ", ".join(settings.accepted_encodings) or "identity"}
            raise ApiError(settings.encoding_status, f"Unsupported content encoding: {name}.", headers=accepted)
        try:
            body = DECODERS[name](body)
        except BROKEN as exc:
            raise invalid(f"The body is not valid {name}.") from exc
    return body


def parsed(body: bytes) -> dict[str, Any]:
    """Return the JSON object in *body*."""
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as exc:
        message = "We could not parse the JSON body of your request."
        raise invalid(message) from exc
    if not isinstance(value, dict):
        raise invalid("The request body must be a JSON object.")
    return value
