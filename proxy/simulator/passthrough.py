"""Pass-through: endpoints that give back what they got, to see what a proxy changes on the way."""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable

import orjson
from aiohttp.web import BaseRequest, Response, StreamResponse

PIECE = 8192


async def echo(request: BaseRequest, body: bytes) -> StreamResponse:
    """Describe the request: any method, ``/v1/echo``. ``?status=`` chooses the answer's."""
    description = {
        "method": request.method,
        "path": request.raw_path,
        "headers": [[name.decode("latin-1"), value.decode("latin-1")] for name, value in request.raw_headers],
        "body_size": len(body),
        "body_sha256": hashlib.sha256(body).hexdigest(),
    }
    status = int(request.query.get("status", "200"))
    return Response(body=orjson.dumps(description), status=status, content_type="application/json")


async def echo_raw(request: BaseRequest, body: bytes) -> StreamResponse:
    """Give the body back in pieces, encoded and typed as it came: any method, ``/v1/echo/raw``."""
    answer = StreamResponse()
    for name in ("Content-Type", "Content-Encoding"):
        if name in request.headers:
            answer.headers[name] = request.headers[name]
    answer.enable_chunked_encoding()
    await answer.prepare(request)
    for start in range(0, len(body), PIECE):
        await answer.write(body[start : start + PIECE])
    return answer


async def event_stream(request: BaseRequest, _body: bytes) -> StreamResponse:
    """Stream ``?count=`` records, ``?seconds=`` apart: ``/v1/events``."""
    count, seconds = int(request.query.get("count", "3")), float(request.query.get("seconds", "0"))
    answer = StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
    await answer.prepare(request)
    for number in range(count):
        await answer.write(b': a comment\nid: %d\nevent: tick\ndata: {"n": %d}\n\n' % (number, number))
        await asyncio.sleep(seconds)
    await answer.write(b"data: [DONE]\n\n")
    return answer


PASS_THROUGH: dict[str, Callable[[BaseRequest, bytes], Awaitable[StreamResponse]]] = {
    "echo": echo,
    "echo/raw": echo_raw,
    "events": event_stream,
}
