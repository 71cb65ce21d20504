"""What the agent gets: an answer that begins with upstream's first event, or an error in the API's words.

Headers are held until there is something to show, so that trouble before output is a real HTTP status, which
agents retry. After it, an answer that breaks off aborts the agent's connection: a clean end would pass for a
complete answer in the SDKs.

A long silence is an exception: an agent that streams then gets a status and a sign of life, so that its read
timeout does not fire. What fails after that is an event in its API's words.
"""

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass
from functools import partial

import orjson
from aiohttp import HttpVersion11, web
from multidict import CIMultiDict

from proxy.core.events import ServerEvent
from proxy.errors import UpstreamError
from proxy.frontends import sse
from proxy.frontends.base import Answer
from proxy.upstream.background import Background
from proxy.upstream.headers import Headers
from proxy.upstream.progress import Progress
from proxy.upstream.sendqueue import owed, reset_on_close

_FILLED_IN = ("Content-Type", "Date", "Server")
"""Headers that the library adds to a response without them."""

_FRAMING = frozenset({"content-length", "transfer-encoding"})
"""Headers that tell where a body ends; without them the end of the connection does."""

_AS_IT_COMES = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
"""What keeps servers between us and an agent from holding events back: caches, and nginx."""

_NEVER_WAITS = 32 * 1024
"""Bytes that an empty buffer always takes: asyncio's holds 64 KiB."""

_SHORT = 8 * 1024
"""Bytes of an event that stays below that in any API's words."""


class RelayedResponse(web.StreamResponse):
    """Upstream's own response, with upstream's headers and no others."""

    def __init__(self, *, status: int, reason: str | None, headers: CIMultiDict[str]) -> None:
        super().__init__(status=status, reason=reason, headers=headers)
        self._filled_in = [name for name in _FILLED_IN if name not in headers]

    def take_out(self) -> None:
        """Remove what was filled in."""
        for name in self._filled_in:
            self.headers.popall(name, None)


class WholeResponse(web.Response):
    """A JSON *body* in answer to *request*, which goes in one piece, but within *agent_timeout*."""

    def __init__(self, request: web.Request, body: bytes, status: int, *, agent_timeout: float) -> None:
        super().__init__(status=status, body=body, content_type="application/json")
        self._request = request
        self._agent_timeout = agent_timeout

    async def write_eof(self, data: bytes = b"") -> None:
        """Send the body."""
        async with taken(self._request.transport, self._agent_timeout):
            await super().write_eof(data)


class EventStream(web.StreamResponse):
    """A response whose headers leave in one piece with the first event."""

    _send_headers_immediately = False  # aiohttp's own switch, which its whole responses use; else: two packets


@asynccontextmanager
async def taken(transport: asyncio.Transport | None, limit: float) -> AsyncIterator[None]:
    """Write to *transport* in this block for as long as some of it is taken every *limit* seconds.

    Otherwise the connection is closed, and ConnectionResetError raised.
    """
    if transport is None or math.isinf(limit):
        yield  # what is written there fails at once
        return
    try:
        async with asyncio.timeout(limit) as deadline:
            with Progress(deadline, limit, partial(owed, transport)):
                yield
    except TimeoutError as exc:
        transport.abort()
        raise ConnectionResetError(f"the agent took nothing for {limit:g} s (agent_timeout)") from exc


async def prepare(_request: web.Request, response: web.StreamResponse) -> None:
    """Take out of a *response* that is about to begin what the library has added to its headers."""
    if isinstance(response, RelayedResponse):
        response.take_out()


class Reply:
    """The HTTP response to one agent request.

    An agent that takes nothing of it for *agent_timeout* seconds has hung up: ConnectionResetError.
    """

    def __init__(self, request: web.Request, *, agent_timeout: float = math.inf) -> None:
        self.bytes_sent = 0
        self._request = request
        self._agent_timeout = agent_timeout
        self._response: web.StreamResponse | None = None
        self._transport: asyncio.Transport | None = None
        self._is_chunked = False

    @property
    def begun(self) -> bool:
        """Whether the agent has been given a status."""
        return self._response is not None

    async def begin(self, response: web.StreamResponse) -> None:
        """Send the status and the headers of *response*."""
        self._response = response
        if self._request.version < HttpVersion11 and response.content_length is None:
            response.force_close()  # the end of the connection is the end of the body; the library forgets that
        await response.prepare(self._request)
        self._transport = self._request.transport
        self._is_chunked = response.headers.get("Transfer-Encoding") == "chunked"

    async def write(self, chunk: bytes) -> None:
        """Send *chunk* of the body; wait for an agent that reads slowly."""
        assert self._response is not None  # noqa: S101  (begun)
        self.bytes_sent += len(chunk)
        async with self._taken(len(chunk)):
            await self._response.write(chunk)

    @property
    def takes_more(self) -> bool:
        """Whether the agent has taken all of the body that was written, so that more needs no wait."""
        transport = self._transport
        return transport is not None and not transport.get_write_buffer_size() and not transport.is_closing()

    def write_now(self, chunk: bytes) -> None:
        """Send *chunk* of the body, behind another, where `takes_more`.

        It goes past the library, whose way there costs more than all else that is done for an event.
        """
        assert self._transport is not None  # noqa: S101  (takes_more)
        self.bytes_sent += len(chunk)
        self._transport.write(b"%x\r\n%b\r\n" % (len(chunk), chunk) if self._is_chunked else chunk)

    async def end(self, last: bytes = b"") -> web.StreamResponse:
        """End the body properly, behind *last*, in one piece: some clients stop reading at the last record."""
        assert self._response is not None  # noqa: S101
        self.bytes_sent += len(last)
        async with self._taken(len(last)):
            await self._response.write_eof(last)
        return self._response

    def _taken(self, size: int) -> AbstractAsyncContextManager[None]:
        """Return what limits a wait for the agent to take *size* bytes, where there can be one."""
        transport = self._request.transport
        if transport is None or (not transport.get_write_buffer_size() and size < _NEVER_WAITS):
            return nullcontext()
        return taken(transport, self._agent_timeout)

    def abort(self) -> web.StreamResponse:
        """Break the agent's connection off, so that what it has cannot pass for the whole."""
        assert self._response is not None  # noqa: S101
        if (transport := self._request.transport) is not None:
            if _FRAMING.isdisjoint(name.lower() for name in self._response.headers):
                _reset(transport)  # HTTP/1.0: a close ends such a body properly, a reset does not
            else:
                transport.abort()
        return self._response

    def whole(self, body: bytes, *, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
        """Answer with *body*, JSON, at once."""
        self.bytes_sent += len(body)
        response = WholeResponse(self._request, body, status, agent_timeout=self._agent_timeout)
        response.headers.update(headers or {})
        return response

    async def sent(self, response: web.StreamResponse) -> web.StreamResponse:
        """Send *response* if it is whole, and wait until the system has taken all of what was sent.

        The library does neither before the request counts as answered. Where the server stops then, what has not
        left this process is lost.
        """
        if isinstance(response, WholeResponse):
            self._response = response
            await response.prepare(self._request)
            await response.write_eof()
        transport = self._request.transport
        if transport is not None and transport.get_write_buffer_size():
            async with taken(transport, self._agent_timeout):
                transport.set_write_buffer_limits(0)
                await self._request.writer.drain()
                transport.set_write_buffer_limits()
        return response

    def error(
        self, status: int, message: str, code: str, *, headers: Mapping[str, str] | None = None
    ) -> web.Response:
        """Answer with an error of our own, in the shape that the API's have."""
        return self.whole(error_body(status, message, code), status=status, headers=headers)


def _reset(transport: asyncio.Transport) -> None:
    sock = transport.get_extra_info("socket")
    reset_on_close(sock)
    transport.abort()
    sock._sock.close()  # noqa: SLF001  asyncio on Windows would shut it down first, which is a proper end


def error_body(status: int, message: str, code: str) -> bytes:
    """Write an error of our own, in the shape that the API's have."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    return orjson.dumps({"error": {"message": f"packlight: {message}", "type": kind, "param": None, "code": code}})


@dataclass(frozen=True, slots=True)
class SignsOfLife:
    """What an agent that streams gets in a silence: *pulse*, first after *after* seconds, then *every* so many."""

    pulse: bytes
    after: float
    every: float


class EventReply:
    """Events on their way to the agent, as *answer* writes them, and an error as *failure* does."""

    def __init__(self, reply: Reply, answer: Answer, failure: Callable[[UpstreamError], bytes]) -> None:
        self._reply = reply
        self._answer = answer
        self._failure = failure
        self._told: Callable[[], Headers] = tuple
        self._shown = False
        self._written_at = 0.0
        self._writing = asyncio.Lock()
        self._life = Background()

    @property
    def awaited(self) -> bool:
        """Whether the agent has a status and signs of life, but nothing of an answer."""
        return self._reply.begun and not self._shown

    @property
    def lives(self) -> bool:
        """Whether the agent gets signs of life: it streams."""
        return self._answer.content_type == sse.CONTENT_TYPE

    def tell(self, told: Callable[[], Headers]) -> None:
        """Have the answer begin with the headers that are *told* by then, be it with a sign of life."""
        self._told = told

    async def deliver(self, events: tuple[ServerEvent, ...]) -> None:
        """Show *events* to the agent."""
        chunk = b"".join([self._answer.add(event) for event in events])
        if chunk:
            self._shown = True
            await self.write(chunk)

    def show_now(self, event: ServerEvent) -> bool:
        """Show *event* at once, if the agent has been shown others and waits for more; return whether it was."""
        if not (self._shown and self._reply.takes_more) or len(event.raw) > _SHORT:
            return False
        if chunk := self._answer.add(event):
            self._reply.write_now(chunk)
            self._written_at = _now()
        return True

    async def write(self, chunk: bytes) -> None:
        """Send *chunk*, after the status if that has not been sent."""
        async with self._writing:
            if not self._reply.begun:
                response = EventStream(headers={**dict(self._told()), **_AS_IT_COMES})
                response.headers["Content-Type"] = self._answer.content_type
                await self._reply.begin(response)
            await self._reply.write(chunk)
            self._written_at = _now()

    @asynccontextmanager
    async def alive(self, signs: SignsOfLife) -> AsyncIterator[None]:
        """Send signs of life in every long silence within this block, if the agent streams."""
        self._written_at = _now()
        if self.lives:
            self._life.start(self._live(signs), "signs of life")
        try:
            yield
        finally:
            await self.quiet()

    async def quiet(self) -> None:
        """Send no more signs of life, and none by half."""
        async with self._writing:
            await self._life.close(0)

    async def yields(self) -> bool:
        """Make way for a response of upstream's own if nothing was sent yet; return whether that is so."""
        async with self._writing:
            if self._reply.begun:
                return False
            await self._life.close(0)
            self._shown = True
            return True

    async def make_way(self) -> None:
        """Have nothing of ours follow on what was sent: the rest of the answer is upstream's own."""
        await self.quiet()
        self._shown = True

    async def _live(self, signs: SignsOfLife) -> None:
        while True:
            left = self._written_at + (signs.every if self._reply.begun else signs.after) - _now()
            if left > 0 or self._writing.locked():  # an agent that does not read needs no sign of life
                await asyncio.sleep(left if left > 0 else signs.every)
                continue
            try:
                await self.write(signs.pulse)
            except ConnectionResetError:
                return  # the agent is gone, which ends its request

    async def fail(self, error: UpstreamError) -> web.StreamResponse:
        """End an answer that has only had signs of life with *error*, in the words of the agent's API."""
        self._shown = True
        await self.quiet()
        await self.write(self._failure(error))
        return await self._reply.end()

    async def finish(self) -> web.StreamResponse:
        """End the answer once its turn has ended."""
        await self.quiet()
        last = self._answer.finish()
        if not self._reply.begun:
            return self._reply.whole(last, headers=dict(self._told()))
        return await self._reply.end(last)


def _now() -> float:
    return asyncio.get_running_loop().time()
