"""Relay: a request that goes over plain HTTP as it came, and its answer as it comes."""

import asyncio
import codecs
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from aiohttp import web
from multidict import CIMultiDict

from proxy.errors import UpstreamError, UpstreamUnavailable
from proxy.frontends.ending import Ending
from proxy.ledger import Status, Traffic
from proxy.server import body as bodies
from proxy.server.reply import EventReply, RelayedResponse, Reply
from proxy.server.services import Services, waits_for
from proxy.upstream.answer import Answer, chunks, in_time, silence
from proxy.upstream.encoding import inflated, is_gzip
from proxy.upstream.headers import Headers, end_to_end, of_wire, to_http, writable
from proxy.upstream.progress import Progress

_STREAM = "text/event-stream"

_FIELDS = (b"event:", b"data:", b"id:", b"retry:", b":")
"""What a line of server-sent events begins with."""


class Relay:
    """Forwards *request* to upstream and the answer to *reply*.

    *front_end* is the API of a request that asks for a turn: only then upstream's silences are limited. `status`
    says how the answer ended, once that is known: an agent may hang up then.
    """

    def __init__(
        self,
        request: web.Request,
        services: Services,
        reply: Reply,
        traffic: Traffic,
        *,
        front_end: str | None,
    ) -> None:
        self.attempts = 0
        self.first_shown: float | None = None
        self.status: Status | None = None
        self.bytes_from_agent = 0
        self.fault: bodies.Unfinished | None = None
        self._request = request
        self._services = services
        self._waits = waits_for(services.config, request.headers)
        self._reply = reply
        self._traffic = traffic
        self._front_end = front_end
        self._is_turn = front_end is not None
        self._events: EventReply | None = None

    async def run(self, raw: bytes | bodies.Unread, events: EventReply | None) -> web.StreamResponse:
        """Forward the body *raw*, or what is still to come of it. *events* may have told the agent something.

        Raises UpstreamUnavailable where upstream does not answer, or not to the end; `fault` says where that is
        because the rest of the agent's body did not come.
        """
        self.attempts = 1
        self._events = events
        request = self._request
        body = self._rest(raw) if isinstance(raw, bodies.Unread) else raw
        await self._services.restoring.make_way()
        async with AsyncExitStack() as stack:
            answer = self._services.http.request(
                request.method,
                request.raw_path.removeprefix("/v1"),
                self._headers(),
                body if request.body_exists else None,
                self._traffic,
                again=self._sent_again,
            )
            async with self._patience():
                response = await stack.enter_async_context(answer)
            return await self._relay(response)

    def _sent_again(self) -> None:
        self.attempts += 1

    @asynccontextmanager
    async def _patience(self) -> AsyncIterator[None]:
        """Limit the wait for the beginning of upstream's answer to first_event_timeout, not counting the upload.

        An answer that is not streamed begins when the model is done. For a request that is no turn there is no
        limit.
        """
        if not self._is_turn:
            yield
            return
        limit = self._waits.first_event_timeout
        try:
            async with asyncio.timeout(limit) as deadline:
                with Progress(deadline, limit, lambda: self._traffic.sent):
                    yield
        except TimeoutError as exc:
            raise silence(limit, "first_event_timeout") from exc

    @property
    def _is_inflated(self) -> bool:
        """Whether gzip of the answer is undone here, so that the agent gets the answer in no encoding.

        It is where the agent may have been sent signs of life by then, which have none, or asked for none itself.
        """
        if not self._is_turn:
            return False
        is_off = self._services.config.http_compression == "off"
        return self._events is not None or not (is_off or "Accept-Encoding" in self._request.headers)

    def _headers(self) -> Headers:
        """Return the agent's headers for upstream, with an encoding of ours where that is up to us."""
        headers = to_http(of_wire(self._request.raw_headers))
        if not self._is_inflated:
            return headers
        rest = tuple(each for each in headers if each[0].lower() != "accept-encoding")
        accepted = "".join(self._request.headers.getall("Accept-Encoding", []))
        is_off = self._services.config.http_compression == "off"
        return (*rest, ("Accept-Encoding", "identity" if is_off and "gzip" not in accepted else "gzip"))

    async def _rest(self, raw: bodies.Unread) -> AsyncIterator[bytes]:
        if raw.beginning:
            yield raw.beginning
        try:
            async for chunk in bodies.rest(self._request, timeout=self._services.config.body_timeout):
                self.bytes_from_agent += len(chunk)
                yield chunk
        except (bodies.Stalled, bodies.Garbled) as exc:
            self.fault = exc
            if self._reply.begun:
                self._reply.abort()  # the library tells nobody who is reading the answer; this ends the request
            raise  # upstream must not take what it has for the whole

    async def _relay(self, response: Answer) -> web.StreamResponse:
        if self.fault is not None:
            raise self.fault
        is_inflated = self._is_inflated and is_gzip(_encoding_of(response))
        body = inflated(self._chunks(response)) if is_inflated else self._chunks(response)
        chunk: bytes | None = None
        if self._events is not None:
            chunk = await anext(body, b"")  # signs of life until then
            if not await self._events.yields():
                return await self._relay_late(response, chunk, body, self._events)
        headers = CIMultiDict(end_to_end(of_wire(response.raw_headers)))
        if is_inflated:
            headers.popall("Content-Encoding")
            headers.popall("Content-Length", None)
        reason = writable(response.reason or "")
        await self._reply.begin(RelayedResponse(status=response.status, reason=reason, headers=headers))
        return await self._pass_on(response, await anext(body, b"") if chunk is None else chunk, body)

    def _chunks(self, response: Answer) -> AsyncIterator[bytes]:
        """Return the body of *response* as it arrives, within a turn's limits if it answers one."""
        if not self._is_turn:
            return chunks(response)
        return in_time(
            chunks(response),
            first=self._waits.first_event_timeout,
            later=self._waits.event_timeout,
            sent=lambda: self._traffic.sent,
        )

    async def _relay_late(
        self, response: Answer, chunk: bytes, body: AsyncIterator[bytes], events: EventReply
    ) -> web.StreamResponse:
        """Relay a *response* to an agent that has a status already, and signs of life in a stream of events.

        They go on until there is something to show.
        """
        if (encoding := _encoding_of(response)) and not is_gzip(encoding):
            await events.quiet()  # whatever waits after an abort is cancelled
            return self._reply.abort()  # the agent was not told of one
        if not _is_stream(response, chunk):
            whole = bytearray(chunk)
            async for each in body:
                whole += each
                if len(whole) > self._services.config.max_event_bytes:
                    raise UpstreamUnavailable("upstream's answer is too large for an event (max_event_bytes)")
            return await events.fail(UpstreamError(response.status, bytes(whole), {}))
        await events.make_way()
        return await self._pass_on(response, chunk, body)

    async def _pass_on(self, response: Answer, chunk: bytes, body: AsyncIterator[bytes]) -> web.StreamResponse:
        """Give the agent *chunk* and what follows it in the *body* of *response*, to the end."""
        ending = self._ending(response)
        while chunk:
            if self.first_shown is None:
                self.first_shown = self._services.clock()
            await self._reply.write(chunk)
            if ending is not None:
                ending.add(chunk)
                self.status = ending.status
            chunk = await anext(body, b"")
        reply = await self._reply.end()
        if ending is None:
            self.status = "completed" if response.status < 400 else "failed"
        return reply

    def _ending(self, response: Answer) -> Ending | None:
        """Return what tells how *response* ends, where it is a stream of events that can be read as it passes."""
        if self._front_end is None or response.status >= 400 or response.content_type != _STREAM:
            return None
        encoding = _encoding_of(response)
        is_readable = encoding.strip().lower() in {"", "identity"} or (self._is_inflated and is_gzip(encoding))
        return Ending(self._front_end) if is_readable else None


def _encoding_of(response: Answer) -> str:
    return ",".join(response.headers.getall("Content-Encoding", []))


def _is_stream(response: Answer, beginning: bytes) -> bool:
    """Whether *response* is a stream of events, by its type, or where that says little by its *beginning*."""
    if response.status >= 400 or response.content_type == "application/json":
        return False
    begins = beginning.removeprefix(codecs.BOM_UTF8).lstrip(b"\r\n").startswith(_FIELDS)
    return response.content_type == _STREAM or begins
