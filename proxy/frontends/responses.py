"""The Responses API: `POST /v1/responses`, streamed as server-sent events or answered whole."""

from contextlib import suppress
from typing import Any

import orjson

from proxy.core.delta import Mismatch, Reuse, TurnRequest, reuse
from proxy.core.events import ERRORS, Fault, GarbledEvent, ServerEvent
from proxy.core.items import Item, Raw
from proxy.core.told import Told
from proxy.errors import UpstreamError
from proxy.frontends import sse
from proxy.frontends.base import Opaque, Readable
from proxy.frontends.faithful import as_json, envelope
from proxy.frontends.gathering import Gathering
from proxy.frontends.known import Beginnings, Found
from proxy.frontends.refusal import words

_ENDED_WELL = frozenset({"response.completed", "response.incomplete"})

_MOST_KEPT = 64 * 1024 * 1024
"""Bytes of items that are kept until the end of an answer, which may lack them."""

_OUTPUT = b'"output":[{'
"""How most services write an output that is not empty. Inside a text the quotes would be escaped."""

_KEEPALIVE = sse.encode("keepalive", b'{"type":"keepalive","sequence_number":0}')


class Responses:
    """The front end for agents that speak the Responses API."""

    name = "responses"

    def __init__(self) -> None:
        self._beginnings = Beginnings("input")

    def pulse(self, user_agent: str) -> bytes:
        """Return a comment; for Codex, whose timeout counts events alone, one of the API's that it skips."""
        return _KEEPALIVE if user_agent.lower().startswith("codex") else sse.PULSE

    def refusal(self, error: UpstreamError) -> bytes:
        """Return the body of *error*: upstream's own words."""
        return error.body

    def failure(self, error: UpstreamError) -> bytes:
        """Return an `error` event in the form that the SDKs raise, and the end that other agents wait for.

        The error is nested, as the API has it. Without a number Vercel's AI SDK takes the event for a malformed
        one, so that its agents neither show the error nor try again; Codex reads the end alone.
        """
        said = {"type": "error", "sequence_number": 0, "status": error.status, "error": words(error)}
        failed = _failed({"response": {"object": "response", "output": []}}, said)
        return sse.encode("error", as_json(said)) + sse.encode("response.failed", failed)

    def find(self, body: bytes) -> Found | None:
        """Return the beginning of *body* that is known."""
        return self._beginnings.find(body)

    def decode(self, body: bytes, known: Found | None = None) -> Readable | Opaque:
        """Read a request body, or say why only its own bytes will do."""
        known = known or self.find(body)
        read = envelope(body) if known is None else known.rest()
        if read is None:
            return Opaque(Mismatch.NOT_DIFFABLE)
        request = read.request
        taken = next((name for name, value in request.items() if _taken(name, value)), None)
        if taken is not None:
            return Opaque(Mismatch.UNSUPPORTED_FIELD, read.model, taken)
        new = _items(request.get("input"))
        if new is None:
            return Opaque(Mismatch.NOT_DIFFABLE, read.model)
        items = new if known is None else known.history(new, lambda: orjson.loads(body)["input"])
        turn = TurnRequest.of(request, items, model=read.model, stream=read.stream, size=len(body))
        self._beginnings.keep(body, turn, read.reading, grown_from=known)
        return Readable(turn, StreamedAnswer() if read.stream else WholeAnswer())


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
    """Each event as it came: the bytes that upstream sent, as far as they answer what the agent sent.

    An error in the middle of a response is followed by the `response.failed` that HTTP has there: some agents know
    no other end of a stream that goes wrong (zyycn/codex-proxy-rs#90). It has a number if the events before it do,
    as over HTTP (openai/openai-dotnet#881): Vercel's AI SDK insists on one. An end without the output gets the
    items that were streamed, since the SDKs take a response from there: over a WebSocket some servers do not
    repeat them (denoland/clawpatrol#729).
    """

    content_type = sse.CONTENT_TYPE

    def __init__(self) -> None:
        self._created: ServerEvent | None = None
        self._last: ServerEvent | None = None
        self._items: list[ServerEvent] = []
        self._kept = 0  # bytes

    def tells(self, _event: ServerEvent) -> bool:
        """Say that every event is shown."""
        return True

    def add(self, event: ServerEvent) -> bytes:
        """Return *event* as a server-sent event."""
        before, self._last = self._last, event
        if event.type == "response.created":
            self._created = event
        elif event.type == "response.output_item.done" and self._kept <= _MOST_KEPT:
            self._items.append(event)
            self._kept += len(event.raw)
        elif event.type in ERRORS and self._created is not None:
            with suppress(GarbledEvent):  # of which nobody needs the meaning
                return _broken_off(self._created.json(), self._output(), before, event)
        return sse.encode(event.type, self._with_output(event) if event.type in _ENDED_WELL else event.raw)

    def finish(self) -> bytes:
        """Return nothing: the Responses API ends with its terminal event."""
        return b""

    def _with_output(self, ending: ServerEvent) -> bytes:
        """Return *ending* with the items that were streamed where it has none, else as it came."""
        if not self._items or self._kept > _MOST_KEPT or _OUTPUT in ending.raw:
            return ending.raw
        try:
            event = ending.json()
        except GarbledEvent:  # of which nobody needs the meaning
            return ending.raw
        response, output = event.get("response"), self._output()
        if not output or not isinstance(response, dict) or response.get("output"):
            return ending.raw
        return as_json({**event, "response": {**response, "output": output}})

    def _output(self) -> list[Raw]:
        """Return the items that were streamed; none where they are too many, or cannot be read."""
        told = Told()
        with suppress(GarbledEvent):
            for item in self._items if self._kept <= _MOST_KEPT else ():
                told.note(item.json())
            return told.in_order()
        return []


def _broken_off(
    created: dict[str, Any], output: list[Raw], before: ServerEvent | None, ending: ServerEvent
) -> bytes:
    """Write the error *ending*, numbered as the event *before* it was, and what ends the response behind it.

    That has the *output* that was streamed, as over HTTP.
    """
    if output and isinstance(created.get("response"), dict):
        created = {"response": {**created["response"], "output": output}}
    error, shown, number = ending.json(), ending.raw, _number(before)
    if "sequence_number" not in error and number is not None:
        error = {**error, "sequence_number": number + 1}
        shown = as_json(error)
    return sse.encode(ending.type, shown) + sse.encode("response.failed", _failed(created, error))


def _number(event: ServerEvent | None) -> int | None:
    """Return the place of *event* in its stream, where it says one that can be read."""
    with suppress(GarbledEvent):
        number = event.json().get("sequence_number") if event is not None else None
        if type(number) is int:
            return number
    return None


def _failed(created: dict[str, Any], error: dict[str, Any]) -> bytes:
    """Write the event that ends the response which began with *created* and broke off with *error*."""
    fault, response, number = Fault.of(error), created.get("response"), error.get("sequence_number")
    said = {**fault.error, "code": fault.code or "server_error", "message": fault.message}
    failed = {**(response if isinstance(response, dict) else {}), "status": "failed", "error": said}
    numbered = {"sequence_number": number + 1} if type(number) is int else {}
    return as_json({"type": "response.failed", **numbered, "response": failed})


class WholeAnswer(Gathering):
    """The response object, for agents that do not stream."""

    def finish(self) -> bytes:
        """Return the response. Raises UpstreamError where the turn ended with an error instead of one."""
        return as_json(self.response())
