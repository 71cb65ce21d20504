"""Responses events as a Chat completion: in chunks, or whole.

The first chunk leaves with the first words or the first call, not with `response.created`: until then a failure
is an HTTP status, which agents retry.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, TypeAlias

from proxy.core.events import ERRORS, Fault, ServerEvent
from proxy.core.items import Raw
from proxy.errors import TOO_BIG, ConnectionLost
from proxy.frontends import chat_completion as completion
from proxy.frontends import sse
from proxy.frontends.chat_messages import content_parts
from proxy.frontends.faithful import as_json
from proxy.frontends.gathering import Gathering

_ENDED_BADLY = frozenset({"failed", "cancelled"})

_MOST_NOTED = 64 * 1024 * 1024
"""Bytes of events that begin and end items, of which ids are kept: as many as `core/account.py` keeps items of."""

_MOST_PLACES = 100_000
"""Places in a response of whose words it is kept how many were sent."""

_Place: TypeAlias = tuple[Any, Any]
"""Where words stand in a response: output index, and content index (None for a call's)."""


class StreamedCompletion:
    """Chunks, as `data:` lines, ended by `[DONE]`. *usage* and *logprobs* are given where they were asked for.

    *named* says that the request named the tool to be called, *heard* that it may have audio.
    """

    content_type = sse.CONTENT_TYPE

    def __init__(self, *, usage: bool, logprobs: bool, named: bool = False, heard: bool = False) -> None:
        self._usage = usage
        self._heard = heard
        self._named = named
        self._logprobs = logprobs
        self._head: dict[str, Any] = {}
        self._begun = False
        self._sent: dict[_Place, int] = {}  # characters
        self._calls: dict[Any, int] = {}  # by output index: which of the calls it is
        self._called = 0
        self._ids: dict[Any, Any] = {}  # of the calls, by output index
        self._places: dict[str, Any] = {}  # output indexes, by the ids of items
        self._items = 0  # that came whole
        self._noted = 0  # bytes

    def tells(self, event: ServerEvent) -> bool:
        """Whether *event* ends the turn or, as the first that does, has words or a call to be shown."""
        first = StreamedCompletion(usage=False, logprobs=False)
        return event.terminal or bool(first.add(event))

    def add(self, event: ServerEvent) -> bytes:
        """Return the chunks that say *event*.

        Raises UpstreamError for a failure before the first chunk, and ConnectionLost where an answer has no end:
        what goes on cannot be told without what is kept of it.
        """
        write = self._WRITERS.get(event.type)
        if write is None:
            return b""
        if event.type.startswith("response.output_item."):
            self._noted += len(event.raw)
        if self._noted > _MOST_NOTED or len(self._sent) > _MOST_PLACES:
            raise ConnectionLost("the answer has more items, or parts of them, than are kept", code=TOO_BIG)
        return b"".join(write(self, event.json()))

    def finish(self) -> bytes:
        """Return nothing: what ends a stream left with the terminal event."""
        return b""

    def _created(self, event: Raw) -> Iterator[bytes]:
        self._head = completion.head("chat.completion.chunk", _response(event))
        yield from ()

    def _item_added(self, event: Raw) -> Iterator[bytes]:
        item, index = event.get("item"), _index(event, "output_index")
        if not isinstance(item, dict):
            return
        self._note_place(item, index)
        if item.get("type") not in completion.CALLS or self._is_begun(item, index):
            return
        kind, text = completion.CALLS[item["type"]]
        self._calls[index], self._ids[index] = self._called, item.get("call_id")
        self._called += 1
        self._sent.pop((index, None), None)
        begun = {"index": self._calls[index], "id": item.get("call_id"), "type": kind}
        yield from self._chunk({"tool_calls": [{**begun, kind: {"name": item.get("name"), text: ""}}]})

    def _is_begun(self, call: Raw, index: Any) -> bool:
        """Whether *call* was begun at *index*, and not another: some services count them all as one."""
        if index not in self._calls:
            return False
        before, now = self._ids[index], call.get("call_id")
        return before == now or before is None or now is None

    def _note_place(self, item: Raw, index: Any) -> None:
        known = item.get("id") or item.get("call_id")
        if isinstance(known, str):
            self._places[known] = index

    def _place(self, item: Raw, index: int) -> Any:
        """Return where *item*, which is *index* in the terminal event, stood in the stream."""
        known = item.get("id") or item.get("call_id")
        return self._places.get(known, index) if isinstance(known, str) else index

    def _text(self, event: Raw) -> Iterator[bytes]:
        yield from self._words(event, "content", event.get("delta"), event.get("logprobs"))

    def _refused(self, event: Raw) -> Iterator[bytes]:
        yield from self._words(event, "refusal", event.get("delta"))

    def _words(self, event: Raw, key: str, words: Any, tokens: Any = None) -> Iterator[bytes]:
        if isinstance(words, str) and words:
            place = _index(event, "output_index"), _index(event, "content_index")
            self._sent[place] = self._sent.get(place, 0) + len(words)
            logprobs = completion.logprobs(tokens) if self._logprobs else None
            yield from self._chunk({key: words}, event, logprobs=logprobs)

    def _arguments(self, event: Raw) -> Iterator[bytes]:
        yield from self._written(event, "function_call", event.get("delta"))

    def _input(self, event: Raw) -> Iterator[bytes]:
        yield from self._written(event, "custom_tool_call", event.get("delta"))

    def _written(self, event: Raw, item_type: str, words: Any) -> Iterator[bytes]:
        index = _index(event, "output_index")
        if index in self._calls and isinstance(words, str) and words:
            kind, text = completion.CALLS[item_type]
            self._sent[index, None] = self._sent.get((index, None), 0) + len(words)
            yield from self._chunk({"tool_calls": [{"index": self._calls[index], kind: {text: words}}]}, event)

    def _item_done(self, event: Raw) -> Iterator[bytes]:
        """Say what was not streamed piece by piece: services may send an item whole."""
        item, index = event.get("item"), _index(event, "output_index")
        if not isinstance(item, dict):
            return
        self._items += 1
        self._note_place(item, index)
        if item.get("type") in completion.CALLS:
            yield from self._item_added(event)
            _, text = completion.CALLS[item["type"]]
            yield from self._written(
                {"output_index": index}, item["type"], self._rest((index, None), item.get(text))
            )
        for number, part in enumerate(content_parts(item)):
            key, text = ("refusal", "refusal") if part.get("type") == "refusal" else ("content", "text")
            words = self._rest((index, number), part.get(text))
            tokens = part.get("logprobs") if words == part.get(text) else None
            yield from self._words({"output_index": index, "content_index": number}, key, words, tokens)

    def _rest(self, place: _Place, whole: Any) -> str:
        return whole[self._sent.get(place, 0) :] if isinstance(whole, str) else ""

    def _ended(self, event: Raw) -> Iterator[bytes]:
        response = _with_status(_response(event), event.get("type"))
        if response.get("status") in _ENDED_BADLY:
            yield from self._failed(event)
            return
        self._head = self._head or completion.head("chat.completion.chunk", response)
        output = _output(response)
        if len(output) > self._items:  # an item, or the rest of it, may be told here alone
            for index, item in enumerate(output):
                yield from self._item_done({"item": item, "output_index": self._place(item, index)})
        reason = completion.finish_reason(response, called=bool(self._calls), named=self._named)
        yield from self._chunk({}, finish_reason=reason)
        if self._usage:
            usage = completion.usage(response.get("usage"), heard=self._heard)
            yield record({**self._head, "choices": [], "usage": usage})
        yield b"data: [DONE]\n\n"

    def _failed(self, event: Raw) -> Iterator[bytes]:
        fault = Fault.of(event)
        if not self._begun:
            raise fault.as_error()
        yield record({"error": completion.fault(fault.error, fault.status)})

    def _chunk(
        self,
        delta: dict[str, Any],
        event: Raw | None = None,
        *,
        logprobs: dict[str, Any] | None = None,
        finish_reason: str | None = None,
    ) -> Iterator[bytes]:
        if not self._begun:
            self._begun = True
            no_tokens = completion.logprobs([]) if self._logprobs else None
            yield from self._chunk({"role": "assistant", "content": "", "refusal": None}, logprobs=no_tokens)
        choice = {"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}
        chunk = {**self._head, "choices": [choice]}
        if self._usage:
            chunk["usage"] = None
        if event is not None and "obfuscation" in event:
            chunk["obfuscation"] = event["obfuscation"]
        yield record(chunk)

    _WRITERS: ClassVar[Mapping[str, Callable[["StreamedCompletion", Raw], Iterator[bytes]]]] = {
        "response.created": _created,
        "response.output_item.added": _item_added,
        "response.output_text.delta": _text,
        "response.refusal.delta": _refused,
        "response.function_call_arguments.delta": _arguments,
        "response.custom_tool_call_input.delta": _input,
        "response.output_item.done": _item_done,
        "response.completed": _ended,
        "response.incomplete": _ended,
        "response.done": _ended,
        "response.failed": _failed,
        "response.cancelled": _failed,
        **dict.fromkeys(ERRORS, _failed),
    }
    """What is written for each event, by its type; for one that is not listed, nothing."""


class WholeCompletion(Gathering):
    """One completion, for agents that do not stream. *logprobs* are given where they were asked for.

    *named* says that the request named the tool to be called, *heard* that it may have audio.
    """

    def __init__(self, *, logprobs: bool, named: bool = False, heard: bool = False) -> None:
        super().__init__()
        self._heard = heard
        self._logprobs = logprobs
        self._named = named

    def finish(self) -> bytes:
        """Return the completion. Raises UpstreamError where the turn failed."""
        response = _with_status(self.response(), self.last.type if self.last is not None else None)
        if response.get("status") in _ENDED_BADLY:
            raise Fault.of({"response": response}).as_error()
        output = _output(response)
        message = completion.message(output)
        choice = {
            "index": 0,
            "message": message,
            "logprobs": self._tokens(output) if self._logprobs else None,
            "finish_reason": completion.finish_reason(response, called="tool_calls" in message, named=self._named),
        }
        head = completion.head("chat.completion", response)
        usage = completion.usage(response.get("usage"), heard=self._heard)
        return as_json({**head, "choices": [choice], "usage": usage})

    def _tokens(self, output: Sequence[Raw]) -> dict[str, Any] | None:
        told = [part.get("logprobs") for item in output for part in content_parts(item)]
        tokens = [token for tokens in told if isinstance(tokens, list) for token in tokens]
        return completion.logprobs(tokens) if tokens else {"content": None, "refusal": None}


def _index(event: Raw, name: str) -> Any:
    """Return the index *name* of *event*. Gateways that leave out what is zero leave out the first one."""
    index = event.get(name)
    return index if isinstance(index, (int, str)) else 0


def _response(event: Raw) -> Raw:
    response = event.get("response")
    return response if isinstance(response, dict) else {}


def _with_status(response: Raw, ending: Any) -> Raw:
    """Return *response* with the status that the type of its last event, *ending*, tells where it has none."""
    if response.get("status") is not None or not isinstance(ending, str):
        return response
    return {**response, "status": ending.removeprefix("response.")}


def _output(response: Raw) -> list[Raw]:
    output = response.get("output")
    return [item for item in output if isinstance(item, dict)] if isinstance(output, list) else []


def record(data: dict[str, Any]) -> bytes:
    """Write one record of a stream."""
    written = as_json(data)
    for line_break, escaped in _LINE_BREAKS:
        written = written.replace(line_break, escaped)
    return b"data: %b\n\n" % written


_LINE_BREAKS = tuple((each.encode(), b"\\u%04x" % ord(each)) for each in "\x85\u2028\u2029")
"""Line breaks to some clients, though not to JSON nor to server-sent events."""
