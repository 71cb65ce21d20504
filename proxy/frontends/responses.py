"""The Responses API: `POST /v1/responses`, streamed as server-sent events or answered whole."""

import json  # noqa: TID251  (writes half a character, which orjson refuses)
from typing import Any

import orjson

from proxy.core.delta import Mismatch, Reuse, TurnRequest, reuse
from proxy.core.events import Fault, ServerEvent
from proxy.core.items import Item
from proxy.frontends import sse
from proxy.frontends.base import Answer, Opaque
from proxy.frontends.faithful import UnfaithfulError, parse


class Responses:
    """The front end for agents that speak the Responses API."""

    name = "responses"

    def decode(self, body: bytes) -> TurnRequest | Opaque:
        """Read a request body, or say why only its own bytes will do."""
        try:
            request = parse(body)
        except UnfaithfulError:
            return Opaque(Mismatch.NOT_DIFFABLE)
        if not isinstance(request, dict):
            return Opaque(Mismatch.NOT_DIFFABLE)
        model, stream = request.get("model"), request.get("stream")
        if not isinstance(model, str) or not (stream is None or isinstance(stream, bool)):
            return Opaque(Mismatch.NOT_DIFFABLE)
        if any(_taken(name, value) for name, value in request.items()):
            return Opaque(Mismatch.UNSUPPORTED_FIELD, model)
        items = _items(request.get("input"))
        if items is None:
            return Opaque(Mismatch.NOT_DIFFABLE, model)
        return TurnRequest.of(request, items, model=model, stream=bool(stream), size=len(body))

    def answer(self, request: TurnRequest) -> Answer:
        """Return an empty answer to *request*."""
        return StreamedAnswer() if request.stream else WholeAnswer()


def _taken(name: str, value: Any) -> bool:
    """Whether the agent uses a field that we need, or that a WebSocket cannot carry."""
    if name == "background" and value is False:
        return False  # the default, spelt out; for `generate` false is what asks for something
    return reuse(name) is Reuse.NOT_OURS and value is not None


def _items(given: Any) -> tuple[Item, ...] | None:
    if given is None:
        return ()
    if isinstance(given, str):
        return (Item.of({"type": "message", "role": "user", "content": given}),)
    if not isinstance(given, list) or not all(isinstance(item, dict) for item in given):
        return None
    return tuple(Item.of(item) for item in given)


class StreamedAnswer:
    """Each event as it came, the same bytes that upstream sent."""

    content_type = sse.CONTENT_TYPE

    def add(self, event: ServerEvent) -> bytes:
        """Return *event* as a server-sent event."""
        return sse.encode(event.type, event.raw)

    def finish(self) -> bytes:
        """Return nothing: the Responses API ends with its terminal event."""
        return b""


class WholeAnswer:
    """The response object of the terminal event, for agents that do not stream."""

    content_type = "application/json"

    def __init__(self) -> None:
        self._items: dict[int, Any] = {}
        self._last: ServerEvent | None = None

    def add(self, event: ServerEvent) -> bytes:
        """Keep what the answer needs; there is nothing to send yet."""
        if event.type == "response.output_item.done":
            done = event.json()
            index = done.get("output_index")
            self._items[index if isinstance(index, int) else len(self._items)] = done.get("item")
        self._last = event
        return b""

    def finish(self) -> bytes:
        """Return the response; the streamed items count more than the terminal event's, unless it has others too.

        Raises UpstreamError where the turn ended with an error instead of a response.
        """
        last = self._last.json() if self._last is not None else {}
        response = last.get("response")
        if not isinstance(response, dict):
            raise Fault.of(last).as_error()
        if self._items and len(self._items) >= len(response.get("output") or ()):
            response["output"] = [self._items[index] for index in sorted(self._items)]
        try:
            return orjson.dumps(response)
        except TypeError:  # half a character, or nested deeply: written the way upstream wrote it
            return json.dumps(response, separators=(",", ":")).encode()
