"""What the agent gets: an answer that begins with upstream's first event, or an error in the API's words.

Headers are held until there is something to show, so that trouble before output is a real HTTP status, which
agents retry. After it, an answer that breaks off aborts the agent's connection: a clean end would pass for a
complete answer in the SDKs.
"""

from collections.abc import Mapping

import orjson
from aiohttp import web
from multidict import CIMultiDict

from proxy.core.events import ServerEvent
from proxy.frontends.base import Answer

_FILLED_IN = ("Content-Type", "Date", "Server")
"""Headers that the library adds to a response without them."""


class RelayedResponse(web.StreamResponse):
    """Upstream's own response, with upstream's headers and no others."""

    def __init__(self, *, status: int, reason: str | None, headers: CIMultiDict[str]) -> None:
        super().__init__(status=status, reason=reason, headers=headers)
        self._filled_in = [name for name in _FILLED_IN if name not in headers]

    def take_out(self) -> None:
        """Remove what was filled in."""
        for name in self._filled_in:
            self.headers.popall(name, None)


async def prepare(_request: web.Request, response: web.StreamResponse) -> None:
    """Take out of a *response* that is about to begin what the library has added to its headers."""
    if isinstance(response, RelayedResponse):
        response.take_out()


class Reply:
    """The HTTP response to one agent request."""

    def __init__(self, request: web.Request) -> None:
        self.bytes_sent = 0
        self._request = request
        self._response: web.StreamResponse | None = None

    @property
    def begun(self) -> bool:
        """Whether the agent has been given a status."""
        return self._response is not None

    async def begin(self, response: web.StreamResponse) -> None:
        """Send the status and the headers of *response*."""
        self._response = response
        await response.prepare(self._request)

    async def write(self, chunk: bytes) -> None:
        """Send *chunk* of the body; wait for an agent that reads slowly."""
        assert self._response is not None  # noqa: S101  (begun)
        self.bytes_sent += len(chunk)
        await self._response.write(chunk)

    async def end(self) -> web.StreamResponse:
        """End the body properly."""
        assert self._response is not None  # noqa: S101
        await self._response.write_eof()
        return self._response

    def abort(self) -> web.StreamResponse:
        """Break the agent's connection off, so that what it has cannot pass for the whole."""
        if self._request.transport is not None:
            self._request.transport.abort()
        assert self._response is not None  # noqa: S101
        return self._response

    def whole(self, body: bytes, *, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
        """Answer with *body*, JSON, at once."""
        self.bytes_sent += len(body)
        response = web.Response(status=status, body=body, content_type="application/json")
        response.headers.update(headers or {})
        return response

    def error(
        self, status: int, message: str, code: str, *, headers: Mapping[str, str] | None = None
    ) -> web.Response:
        """Answer with an error of our own, in the shape that the API's have."""
        kind = "invalid_request_error" if status < 500 else "server_error"
        error = {"message": f"packlight: {message}", "type": kind, "param": None, "code": code}
        return self.whole(orjson.dumps({"error": error}), status=status, headers=headers)


class EventReply:
    """Events on their way to the agent, as *answer* writes them."""

    def __init__(self, reply: Reply, answer: Answer) -> None:
        self.ended_with_event = False
        self._reply = reply
        self._answer = answer

    async def deliver(self, events: tuple[ServerEvent, ...]) -> None:
        """Show *events* to the agent."""
        chunk = b"".join([self._answer.add(event) for event in events])
        if not chunk:
            return
        if not self._reply.begun:
            response = web.StreamResponse(headers={"Cache-Control": "no-cache"})
            response.headers["Content-Type"] = self._answer.content_type
            await self._reply.begin(response)
        await self._reply.write(chunk)

    async def finish(self) -> web.StreamResponse:
        """End the answer once its turn has ended."""
        last = self._answer.finish()
        if not self._reply.begun:
            return self._reply.whole(last)
        if last:
            await self._reply.write(last)
        return await self._reply.end()
