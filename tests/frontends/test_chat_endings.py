"""What a stream of chunks ends with: whatever upstream's last word has that no event before it had."""

import re
from typing import Any

import orjson
import pytest
from said import JSON, done, event

from proxy.core.events import ServerEvent
from proxy.frontends.base import Readable
from proxy.frontends.chat import Chat
from proxy.frontends.chat_answer import StreamedCompletion, WholeCompletion

SAID: JSON = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "a word"}]}
TOOL: JSON = {"type": "function", "function": {"name": "f"}}
CALLED: JSON = {"type": "function_call", "call_id": "c1", "name": "f", "arguments": '{"x": 1}'}


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


def other(call_id: str, arguments: str) -> JSON:
    """Return a call of its own."""
    return {**CALLED, "id": f"fc_{call_id}", "call_id": call_id, "arguments": arguments}


def test_indexes_with_gaps_do_not_tell_an_item_twice() -> None:
    """What the last word has at another place is known again by its id."""
    events = (
        event("response.output_item.added", output_index=4, item={**CALLED, "arguments": ""}),
        event("response.function_call_arguments.delta", output_index=4, delta='{"x": '),
        event("response.output_text.delta", output_index=2, content_index=0, delta="a wo"),
        done({**SAID, "id": "msg_1"}, 2),
    )
    assert deltas(*events, last=({**SAID, "id": "msg_1"}, CALLED)) == [
        FIRST,
        begun(0),
        call(0, arguments='{"x": '),
        {"content": "a wo"},
        {"content": "rd"},
        call(0, arguments="1}"),
        {},
    ]


@pytest.mark.parametrize("place", [{"output_index": 0}, {}])
def test_calls_that_are_all_at_one_place_are_told_apart(place: JSON) -> None:
    """Some services count no items, or all of them as one; the id of a call is the agent's, and tells."""
    first, second = other("c1", '{"a":1}'), other("c2", '{"b":2}')
    events = [
        each
        for item, piece in ((first, '{"a"'), (second, '{"b":2'))
        for each in (
            event("response.output_item.added", **place, item={**item, "arguments": ""}),
            event("response.function_call_arguments.delta", **place, delta=piece),
            event("response.output_item.done", **place, item=item),
        )
    ]
    told = deltas(*events, last=(first, second))
    calls = [piece for delta in told for piece in delta.get("tool_calls", ())]
    said = ["".join(piece["function"]["arguments"] for piece in calls if piece["index"] == n) for n in (0, 1)]
    assert said == ['{"a":1}', '{"b":2}']
    assert [piece["id"] for piece in calls if "id" in piece] == ["c1", "c2"]


@pytest.mark.parametrize("place", [{"output_index": 0}, {}])
def test_a_whole_answer_has_calls_that_are_all_at_one_place(place: JSON) -> None:
    """Also where the last word does not tell them again."""
    answer = WholeCompletion(logprobs=False)
    for item in (other("c1", "{}"), other("c2", "{}")):
        answer.add(event("response.output_item.done", **place, item=item))
    answer.add(event("response.completed", response={"id": "resp_1", "status": "completed", "output": []}))
    calls = orjson.loads(answer.finish())["choices"][0]["message"]["tool_calls"]
    assert [each["id"] for each in calls] == ["c1", "c2"]


@pytest.mark.parametrize(
    ("choice", "reason"),
    [
        ("auto", "tool_calls"),
        ("required", "tool_calls"),
        ({"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [TOOL]}}, "tool_calls"),
        (TOOL, "stop"),
    ],
)
@pytest.mark.parametrize("stream", [True, False])
def test_a_call_that_was_named_is_no_reason_to_stop(choice: Any, reason: str, *, stream: bool) -> None:
    """The API says `stop` where the request left the model no choice but one tool."""
    asked = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": stream}
    tools = [{"type": "function", "function": {"name": "f"}}]
    read = Chat().decode(orjson.dumps({**asked, "tools": tools, "tool_choice": choice}))
    assert isinstance(read, Readable)
    completed = event("response.completed", response={"id": "r", "status": "completed", "output": [CALLED]})
    said = read.answer.add(completed) + read.answer.finish()
    assert re.findall(rb'"finish_reason":"([a-z_]+)"', said) == [reason.encode()]


def test_arguments_of_a_call_that_was_not_begun_wait_for_its_end() -> None:
    """Without its name a piece of a call is of no use; nothing of it is lost."""
    piece = event("response.function_call_arguments.delta", output_index=3, delta='{"x"')
    assert deltas(piece, done(CALLED, 3), last=(CALLED,)) == [FIRST, begun(0), call(0, arguments='{"x": 1}'), {}]


def test_only_words_and_calls_tell_an_agent_something() -> None:
    """Neither that a response began nor what the model thinks; a whole completion is told at its end."""
    thought = {"type": "reasoning", "id": "rs_1", "summary": []}
    silent = [
        event("response.created", response={"id": "resp_1"}),
        event("response.output_item.added", output_index=0, item=thought),
        event("response.reasoning_summary_text.delta", output_index=0, delta="hm"),
        done(thought, 0),
        event("response.output_item.added", output_index=1, item={**SAID, "content": []}),
        event("response.output_text.delta", output_index=1, content_index=0, delta=""),
    ]
    telling = [
        event("response.output_text.delta", output_index=1, content_index=0, delta="a"),
        event("response.output_item.added", output_index=1, item=CALLED),
        done(SAID, 1),
    ]
    ends = [event("response.failed", response={}), event("error"), event("response.completed", response={})]
    streamed, whole = StreamedCompletion(usage=False, logprobs=False), WholeCompletion(logprobs=False)
    assert [streamed.tells(each) for each in silent] == [False] * len(silent)
    assert [streamed.tells(each) for each in telling + ends] == [True] * len(telling + ends)
    assert [whole.tells(each) for each in silent + telling] == [False] * len(silent + telling)
    assert [whole.tells(each) for each in ends] == [True] * len(ends)
