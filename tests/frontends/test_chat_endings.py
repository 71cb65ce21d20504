"""What a stream of chunks ends with: whatever upstream's last word has that no event before it had."""

from typing import Any

import orjson

from proxy.core.events import ServerEvent
from proxy.frontends.chat_answer import StreamedCompletion

JSON = dict[str, Any]
SAID: JSON = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "a word"}]}
CALLED: JSON = {"type": "function_call", "call_id": "c1", "name": "f", "arguments": '{"x": 1}'}


def event(kind: str, **fields: Any) -> ServerEvent:
    """Return an event from upstream."""
    return ServerEvent.parse(orjson.dumps({"type": kind, **fields}))


def done(item: JSON, index: int) -> ServerEvent:
    """Return the event that ends an item."""
    return event("response.output_item.done", output_index=index, item=item)


def deltas(*events: ServerEvent, last: tuple[JSON, ...]) -> list[JSON]:
    """Return what the chunks of a response say whose last word has the items *last*."""
    completed = event("response.completed", response={"id": "resp_1", "status": "completed", "output": last})
    answer = StreamedCompletion(usage=False, logprobs=False)
    records = b"".join(map(answer.add, [*events, completed])).split(b"\n\n")[:-2]
    return [orjson.loads(record[6:])["choices"][0]["delta"] for record in records]


def call(number: int, **function: str) -> JSON:
    """Return the piece of a call that has *function*."""
    return {"tool_calls": [{"index": number, "function": function}]}


def begun(number: int) -> JSON:
    """Return the first piece of a call."""
    function = {"name": "f", "arguments": ""}
    return {"tool_calls": [{"index": number, "id": "c1", "type": "function", "function": function}]}


FIRST = {"role": "assistant", "content": "", "refusal": None}


def test_an_item_that_only_the_last_word_has_is_said() -> None:
    """A call after words that were told before is not lost."""
    assert deltas(done(SAID, 0), last=(SAID, CALLED)) == [
        FIRST,
        {"content": "a word"},
        begun(0),
        call(0, arguments='{"x": 1}'),
        {},
    ]


def test_the_rest_of_an_item_that_only_the_last_word_has_is_said() -> None:
    """What was streamed is not said again."""
    events = (
        event("response.output_text.delta", output_index=0, content_index=0, delta="a "),
        event("response.output_item.added", output_index=1, item={**CALLED, "arguments": ""}),
        event("response.function_call_arguments.delta", output_index=1, delta="{"),
    )
    assert deltas(*events, last=(SAID, CALLED)) == [
        FIRST,
        {"content": "a "},
        begun(0),
        call(0, arguments="{"),
        {"content": "word"},
        call(0, arguments='"x": 1}'),
        {},
    ]


def test_a_shorter_last_word_adds_nothing() -> None:
    """It may leave out items, so that its places are not those of the stream."""
    thought = {"type": "reasoning", "summary": []}
    assert deltas(done(thought, 0), done(SAID, 1), last=(SAID,)) == [FIRST, {"content": "a word"}, {}]
