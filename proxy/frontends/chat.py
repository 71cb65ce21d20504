"""Chat Completions: `POST /v1/chat/completions`, as turns of the Responses API and back.

A request that has no exact equal there goes to upstream's own endpoint for it, in the agent's own bytes.
"""

from functools import partial
from typing import Any

import orjson

from proxy.core.delta import Mismatch, TurnRequest
from proxy.core.items import Item
from proxy.errors import UpstreamError
from proxy.frontends import chat_completion as completion
from proxy.frontends import chat_messages, chat_request, sse
from proxy.frontends.base import Answer, Opaque, Readable
from proxy.frontends.chat_answer import StreamedCompletion, WholeCompletion, record
from proxy.frontends.chat_request import Untranslatable
from proxy.frontends.faithful import envelope
from proxy.frontends.known import Beginnings, Found
from proxy.frontends.refusal import words


class Chat:
    """The front end for agents that speak Chat Completions."""

    name = "chat"

    def __init__(self) -> None:
        self._beginnings = Beginnings("messages")

    def pulse(self, user_agent: str) -> bytes:  # noqa: ARG002  (all clients of this API skip comments)
        """Return a comment."""
        return sse.PULSE

    def refusal(self, error: UpstreamError) -> bytes:
        """Return the body of *error* in the words of Chat Completions."""
        return completion.reworded(error)

    def failure(self, error: UpstreamError) -> bytes:
        """Return *error* as the record that the SDKs raise."""
        return record({"error": completion.fault(words(error), error.status)})

    def find(self, body: bytes) -> Found | None:
        """Return the beginning of *body* that is known."""
        return self._beginnings.find(body)

    def decode(self, body: bytes, known: Found | None = None) -> Readable | Opaque:
        """Read a request body, or say why only its own bytes will do."""
        known = known or self.find(body)
        read = envelope(body) if known is None else known.rest()
        if read is None:
            return Opaque(Mismatch.NOT_DIFFABLE)
        request, model, stream = read.request, read.model, read.stream
        try:
            chat_request.check_tools(request)
            fields = chat_request.settings(request)
            told, is_waiting = chat_messages.translated(request.get("messages"))
        except Untranslatable as exc:
            return Opaque(Mismatch.UNSUPPORTED_FIELD, model, str(exc))
        if not told and known is None:
            return Opaque(Mismatch.UNSUPPORTED_FIELD, model, "messages")
        new = tuple(Item.of(item) for item in told)
        read_whole = partial(_items, body)
        turn = TurnRequest.of(
            {"model": model, **fields, "input": told},
            new if known is None else known.history(new, read_whole),
            model=model,
            stream=stream,
            size=len(body),
            echo=chat_messages.echo,
        )
        if not is_waiting:  # else what a message may say depends on those before it
            self._beginnings.keep(body, turn, read.reading, grown_from=known)
        return Readable(turn, _answer(request, stream=stream, heard=b'"input_audio"' in body))


def _items(body: bytes) -> list[dict[str, Any]]:
    return chat_messages.items(orjson.loads(body)["messages"])


def _answer(request: dict[str, Any], *, stream: bool, heard: bool) -> Answer:
    logprobs = request.get("logprobs") is True
    named = completion.names_a_tool(request.get("tool_choice"))
    if not stream:
        return WholeCompletion(logprobs=logprobs, named=named, heard=heard)
    options = request.get("stream_options") or {}
    usage = options.get("include_usage") is True
    return StreamedCompletion(usage=usage, logprobs=logprobs, named=named, heard=heard)
