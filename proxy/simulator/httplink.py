"""HttpLink: where the events of a turn go that was asked over HTTP, as a stream or as a whole."""

import zlib
from contextlib import suppress
from typing import Protocol

import orjson
from aiohttp.web import BaseRequest, Response, StreamResponse

from proxy.simulator.apierror import ApiError
from proxy.simulator.delivery import LinkGone, Style
from proxy.simulator.model import Event
from proxy.simulator.wire import OutsideTransport, Wire

EVENT_STREAM = {"Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-cache"}


class Dialect(Protocol):
    """How an API words the events of a response."""

    def records(self, event: Event) -> bytes:
        """Return the SSE records that say *event*, possibly none."""

    def whole(self, event: Event) -> bytes | None:
        """Return the body of an answer that isn't streamed, at the event that completes it.

        Raise ApiError if the answer is a status.
        """

    def error(self, error: ApiError, sequence_number: int | None) -> bytes:
        """Return the SSE record of an error in mid-stream."""


class ResponsesDialect:
    """The Responses API: the events themselves."""

    def records(self, event: Event) -> bytes:
        """Return ``event:`` and ``data:`` lines."""
        return b"event: %b\ndata: %b\n\n" % (event["type"].encode(), orjson.dumps(event))

    def whole(self, event: Event) -> bytes | None:
        """Return the response of the terminal event."""
        if event["type"] in ("response.completed", "response.incomplete", "response.failed"):
            return orjson.dumps(event["response"])
        return None

    def error(self, error: ApiError, sequence_number: int | None) -> bytes:
        """Return an ``error`` event."""
        return self.records({**error.streamed(), "sequence_number": sequence_number or 0})


class HttpLink:
    """Answers one request; finish() returns the answer for the server to end."""

    def __init__(
        self, request: BaseRequest, dialect: Dialect, headers: dict[str, str], *, stream: bool, compress: bool
    ) -> None:
        self._request = request
        self._dialect = dialect
        self._headers = headers
        self._stream = stream
        self._gzip = None
        if compress and "gzip" in request.headers.get("Accept-Encoding", ""):
            self._gzip = zlib.compressobj(wbits=zlib.MAX_WBITS | 16)
            self._headers = {**headers, "Content-Encoding": "gzip"}
        self._answer: StreamResponse | None = None
        self.refusal: ApiError | None = None
        self._body = b""

    async def send(self, event: Event, style: Style) -> int:
        """Write *event*, or keep the one that holds the whole response."""
        if self.refusal is not None:
            raise LinkGone
        if not self._stream:
            try:
                self._body = self._dialect.whole(event) or self._body
            except ApiError as error:
                self.refusal = error
            return len(self._body)
        data = self._dialect.records(event)
        if style == "pretty" and isinstance(self._dialect, ResponsesDialect):
            text = orjson.dumps(event, option=orjson.OPT_INDENT_2).replace(b"\n", b"\ndata: ")
            data = b"event: %b\ndata: %b\n\n" % (event["type"].encode(), text)
        await self._write(data)
        return len(data)

    async def refuse(self, error: ApiError, sequence_number: int | None) -> None:
        """Answer with a status, or with an error event if the stream has begun."""
        if self._answer is None:
            self.refusal = error
        else:
            await self._write(self._dialect.error(error, sequence_number))

    async def close(self, code: int, reason: str) -> None:
        """End the body as if it were complete."""
        del code, reason
        await self._write(b"")

    def abort(self) -> None:
        """Reset the connection."""
        wire_of(self._request).reset()

    def silence(self) -> None:
        """Say and hear nothing more."""
        wire_of(self._request).silence()

    def garble(self) -> None:
        """Send bytes that are neither HTTP nor a chunk."""
        wire_of(self._request).send(b"\xff\xfe garbage \x00\x01")

    async def finish(self) -> StreamResponse:
        """Return the answer, begun or whole."""
        if self._answer is not None:
            with suppress(ConnectionError):  # the agent is gone
                await self._answer.write(self._compressed(b"", zlib.Z_FINISH))
            return self._answer
        body = self._compressed(self._body, zlib.Z_FINISH)
        return Response(body=body, headers=self._headers, content_type="application/json")

    @property
    def begun(self) -> bool:
        """Whether a status was sent already."""
        return self._answer is not None

    async def _write(self, data: bytes) -> None:
        try:
            if self._answer is None:
                self._answer = StreamResponse(headers={**EVENT_STREAM, **self._headers})
                self._answer.enable_chunked_encoding()
                await self._answer.prepare(self._request)
            if data:
                await self._answer.write(self._compressed(data, zlib.Z_SYNC_FLUSH))
        except ConnectionError as exc:
            raise LinkGone from exc

    def _compressed(self, data: bytes, mode: int) -> bytes:
        return data if self._gzip is None else self._gzip.compress(data) + self._gzip.flush(mode)


def wire_of(request: BaseRequest) -> Wire:
    """Return the connection that brought *request*; raise LinkGone if it is gone."""
    transport = request.transport
    if not isinstance(transport, OutsideTransport):
        raise LinkGone
    return transport.wire
