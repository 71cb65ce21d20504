"""Chat completions written from Responses events, in chunks and whole."""

from typing import Any

import orjson
import pytest
from said import JSON, done, event

from proxy.core.events import ServerEvent
from proxy.errors import ConnectionLost, UpstreamError
from proxy.frontends.base import Readable
from proxy.frontends.chat import Chat
from proxy.frontends.chat_answer import StreamedCompletion, WholeCompletion

RESPONSE: JSON = {
    "id": "resp_1",
    "created_at": 7.5,
    "model": "m",
    "service_tier": "default",
    "status": "in_progress",
}
USAGE: JSON = {
    "input_tokens": 5,
    "output_tokens": 3,
    "total_tokens": 8,
    "input_tokens_details": {"cached_tokens": 4},
    "output_tokens_details": {"reasoning_tokens": 2},
}
COUNTED: JSON = {
    "prompt_tokens": 5,
    "completion_tokens": 3,
    "total_tokens": 8,
    "prompt_tokens_details": {"audio_tokens": 0, "cached_tokens": 4},
    "completion_tokens_details": {
        "accepted_prediction_tokens": 0,
        "audio_tokens": 0,
        "reasoning_tokens": 2,
        "rejected_prediction_tokens": 0,
    },
}
HEAD: JSON = {
    "id": "chatcmpl-1",
    "object": "chat.completion.chunk",
    "created": 7,
    "model": "m",
    "service_tier": "default",
    "system_fingerprint": None,
}


CREATED = event("response.created", response=RESPONSE)


def words(text: str, output: int = 0, content: int = 0, **fields: Any) -> ServerEvent:
    """Return a piece of text."""
    return event("response.output_text.delta", delta=text, output_index=output, content_index=content, **fields)


def ended(kind: str = "completed", **fields: Any) -> ServerEvent:
    """Return the last event."""
    return event(f"response.{kind}", response={**RESPONSE, "status": kind, "usage": USAGE, "output": [], **fields})


def spoken(*texts: str, **fields: Any) -> JSON:
    """Return a message of the model."""
    parts = [{"type": "output_text", "text": text, **fields} for text in texts]
    return {"type": "message", "role": "assistant", "content": parts}


CALL: JSON = {"type": "function_call", "call_id": "c1", "name": "ls", "arguments": '{"a":1}'}
CUSTOM: JSON = {"type": "custom_tool_call", "call_id": "c2", "name": "sh", "input": "ls"}
BEGUN: JSON = {"index": 0, "id": "c1", "type": "function", "function": {"name": "ls", "arguments": ""}}
TOKEN: JSON = {"token": "é", "logprob": -0.5, "top_logprobs": [{"token": "\\xe2\\x80", "logprob": -1.0}]}
SPELT: JSON = {
    "token": "é",
    "logprob": -0.5,
    "bytes": [195, 169],
    "top_logprobs": [{"token": "\\xe2\\x80", "logprob": -1.0, "bytes": [226, 128]}],
}


def streamed(*events: ServerEvent, usage: bool = False, logprobs: bool = False) -> list[Any]:
    """Return the records of the stream that *events* make."""
    answer = StreamedCompletion(usage=usage, logprobs=logprobs)
    raw = b"".join([answer.add(each) for each in events]) + answer.finish()
    assert raw == b"" or raw.endswith(b"\n\n")
    records = [record.removeprefix(b"data: ") for record in raw.split(b"\n\n")[:-1]]
    return [record.decode() if record == b"[DONE]" else orjson.loads(record) for record in records]


def choices(*events: ServerEvent, **options: bool) -> list[JSON]:
    """Return the choices of the chunks that *events* make, without `[DONE]`."""
    records = streamed(CREATED, *events, **options)
    assert records.pop() == "[DONE]"
    assert all({**record, "choices": 0} == {**HEAD, "choices": 0} for record in records)
    return [record["choices"][0] for record in records]


def deltas(*events: ServerEvent) -> list[JSON]:
    """Return what the chunks add, between the first and the last of them."""
    found = [choice["delta"] for choice in choices(*events, ended())]
    assert found[0] == {"role": "assistant", "content": "", "refusal": None}
    assert found[-1] == {}
    return found[1:-1]


def whole(*events: ServerEvent, logprobs: bool = False) -> JSON:
    """Return the completion that *events* make."""
    answer = WholeCompletion(logprobs=logprobs)
    assert b"".join([answer.add(each) for each in events]) == b""
    completion: JSON = orjson.loads(answer.finish())
    return completion


# In chunks


def test_a_stream_has_a_role_words_a_reason_and_an_end() -> None:
    """Each chunk has the completion's id, and one choice."""
    assert choices(words("a"), words("b"), done(spoken("ab")), ended()) == [
        {
            "index": 0,
            "delta": {"role": "assistant", "content": "", "refusal": None},
            "logprobs": None,
            "finish_reason": None,
        },
        {"index": 0, "delta": {"content": "a"}, "logprobs": None, "finish_reason": None},
        {"index": 0, "delta": {"content": "b"}, "logprobs": None, "finish_reason": None},
        {"index": 0, "delta": {}, "logprobs": None, "finish_reason": "stop"},
    ]


def test_nothing_is_sent_before_there_is_something_to_say() -> None:
    """Until then a failure is an HTTP status."""
    reasoning = event("response.reasoning_summary_text.delta", delta="hm")
    assert streamed(CREATED, event("response.in_progress", response=RESPONSE), reasoning) == []


def test_usage_comes_last_where_it_was_asked_for() -> None:
    """With no choice; every chunk before has none."""
    *chunks, last, end = streamed(CREATED, words("a"), ended(), usage=True)
    assert end == "[DONE]"
    assert last == {**HEAD, "choices": [], "usage": COUNTED}
    assert [chunk["usage"] for chunk in chunks] == [None] * 3


@pytest.mark.parametrize("stream", [False, True])
def test_audio_that_was_heard_is_not_counted_as_none(*, stream: bool) -> None:
    """Upstream does not tell how much of the prompt it was."""
    part = {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}
    request: JSON = {"model": "m", "messages": [{"role": "user", "content": [part]}], "stream": stream}
    if stream:
        request["stream_options"] = {"include_usage": True}
    read = Chat().decode(orjson.dumps(request))
    assert isinstance(read, Readable)
    written = b"".join([read.answer.add(CREATED), read.answer.add(ended())]) + read.answer.finish()
    *_, told = (orjson.loads(record[record.index(b"{") :]) for record in written.split(b"\n\n") if b"{" in record)
    assert told["usage"] == {**COUNTED, "prompt_tokens_details": {"cached_tokens": 4}}


def test_what_upstream_counts_itself_stands() -> None:
    """Details that it tells are taken, those that it does not tell at all are not made up."""
    details = {"input_tokens_details": {"audio_tokens": 3}, "output_tokens_details": None}
    *_, last, _ = streamed(CREATED, ended(usage={**USAGE, **details}), usage=True)
    assert last["usage"]["prompt_tokens_details"] == {"audio_tokens": 3}
    assert "completion_tokens_details" not in last["usage"]


def test_a_response_without_usage_has_null() -> None:
    """It is not made up."""
    *_, last, _ = streamed(CREATED, ended(usage=None), usage=True)
    assert last["usage"] is None


def test_calls_are_counted_among_themselves() -> None:
    """Their index is not that of the item."""
    added = event("response.output_item.added", item={**CALL, "arguments": ""}, output_index=1)
    written = event("response.function_call_arguments.delta", delta='{"a"', output_index=1)
    rest = event("response.function_call_arguments.delta", delta=":1}", output_index=1)
    custom = event("response.output_item.added", item={**CUSTOM, "input": ""}, output_index=2)
    typed = event("response.custom_tool_call_input.delta", delta="ls", output_index=2, obfuscation="x")
    finished = (done(CALL, 1), done(CUSTOM, 2))
    assert deltas(done({"type": "reasoning"}), added, written, rest, custom, done(CALL, 1), finished[1])[-1] == {
        "tool_calls": [{"index": 1, "custom": {"input": "ls"}}]
    }
    assert deltas(added, written, rest, custom, *finished)[:3] == [
        {"tool_calls": [BEGUN]},
        {"tool_calls": [{"index": 0, "function": {"arguments": '{"a"'}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": ":1}"}}]},
    ]
    assert streamed(CREATED, custom, typed)[-1]["obfuscation"] == "x"
    assert choices(added, ended())[-1]["finish_reason"] == "tool_calls"


def test_what_was_not_streamed_is_said_when_it_is_done() -> None:
    """Services may send an item, or the rest of it, whole; nothing is said twice."""
    assert deltas(done(CALL)) == [
        {"tool_calls": [BEGUN]},
        {"tool_calls": [{"index": 0, "function": {"arguments": '{"a":1}'}}]},
    ]
    assert deltas(words("a"), done(spoken("abc", "d"))) == [{"content": "a"}, {"content": "bc"}, {"content": "d"}]
    refused = {"type": "message", "content": [{"type": "refusal", "refusal": "no"}, None]}
    assert deltas(done(refused), event("response.refusal.delta", delta="!", output_index=1)) == [
        {"refusal": "no"},
        {"refusal": "!"},
    ]
    assert deltas(done(None), done({"type": "message"}), words("")) == []
    orphan = event("response.function_call_arguments.delta", delta="{}", output_index=9)
    assert deltas(orphan, event("response.output_item.added", item=None)) == []


@pytest.mark.parametrize("index", [[], {}, [0]])
def test_an_index_that_is_none_is_zero(index: Any) -> None:
    """What stands at a place that is no place is told all the same."""
    words = event("response.output_text.delta", delta="a", output_index=index, content_index=index)
    assert deltas(words) == [{"content": "a"}]


def test_an_index_that_is_left_out_is_zero() -> None:
    """Some gateways write no zeros: what was streamed there is not said once more when it is done."""

    def slim(kind: str, **fields: Any) -> ServerEvent:
        return event(kind, **{name: value for name, value in fields.items() if value != 0})

    said = [slim("response.output_text.delta", delta=text, output_index=0, content_index=0) for text in "ab"]
    added = slim("response.output_item.added", item={**CALL, "arguments": ""}, output_index=1)
    written = slim("response.function_call_arguments.delta", delta='{"a":1}', output_index=1)
    told = slim("response.output_item.done", item=spoken("ab", "c"), output_index=0)
    expected = [
        {"content": "a"},
        {"content": "b"},
        {"content": "c"},
        {"tool_calls": [BEGUN]},
        {"tool_calls": [{"index": 0, "function": {"arguments": '{"a":1}'}}]},
    ]
    assert deltas(*said, told, added, written, done(CALL, 1)) == expected
    last = ended(output=[spoken("ab", "c"), CALL])
    assert [choice["delta"] for choice in choices(*said, added, written, last)][1:-1] == [
        *expected[:2],
        *expected[3:],
        expected[2],
    ]
    refused = event("response.refusal.delta", delta="no")
    assert deltas(refused, done({"type": "message", "content": [{"type": "refusal", "refusal": "no"}]})) == [
        {"refusal": "no"}
    ]


def test_a_response_told_only_at_its_end_is_said_there() -> None:
    """Without a single event before."""
    records = streamed(
        event("response.done", response={**RESPONSE, "status": "completed", "output": [spoken("a"), CALL]})
    )
    assert [record["choices"][0]["delta"] for record in records[1:-2]] == [
        {"content": "a"},
        {"tool_calls": [BEGUN]},
        {"tool_calls": [{"index": 0, "function": {"arguments": '{"a":1}'}}]},
    ]
    assert records[-2]["choices"][0]["finish_reason"] == "tool_calls"
    assert records[0]["id"] == "chatcmpl-1"


@pytest.mark.parametrize(
    ("details", "reason"),
    [
        ({"reason": "max_output_tokens"}, "length"),
        ({"reason": "content_filter"}, "content_filter"),
        (None, "length"),
    ],
)
def test_a_response_cut_short_says_why(details: JSON | None, reason: str) -> None:
    """Even in the middle of a call."""
    last = ended("incomplete", incomplete_details=details)
    assert choices(done(CALL), last)[-1]["finish_reason"] == reason
    assert whole(CREATED, done(CALL), last)["choices"][0]["finish_reason"] == reason


def test_an_ending_that_leaves_its_status_out_is_known_by_its_type() -> None:
    """Nothing that failed or was cut short passes for a whole answer."""
    cut = ended("incomplete", status=None, incomplete_details={"reason": "content_filter"})
    assert choices(words("x"), cut)[-1]["finish_reason"] == "content_filter"
    assert whole(CREATED, done(CALL), cut)["choices"][0]["finish_reason"] == "content_filter"
    assert choices(words("x"), ended(status=None))[-1]["finish_reason"] == "stop"
    failed = ended("failed", status=None, error={"code": "server_error", "message": "Sorry."})
    with pytest.raises(UpstreamError) as raised:
        whole(CREATED, words("x"), failed)
    assert raised.value.status == 500
    assert b"Sorry." in raised.value.body


def test_log_probabilities_go_with_their_words() -> None:
    """Where they were asked for, with the bytes of each token."""
    piece = words("é", logprobs=[TOKEN])
    assert choices(piece, ended(), logprobs=True)[1]["logprobs"] == {"content": [SPELT], "refusal": None}
    assert choices(piece, ended())[1]["logprobs"] is None
    assert choices(piece, ended(), logprobs=True)[0]["logprobs"] == {"content": [], "refusal": None}
    assert choices(words("x"), ended(), logprobs=True)[1]["logprobs"] is None
    item = done(spoken("é", logprobs=[{**TOKEN, "bytes": [1]}]))
    assert choices(item, ended(), logprobs=True)[1]["logprobs"] == {
        "content": [{**SPELT, "bytes": [1]}],
        "refusal": None,
    }
    assert whole(CREATED, done(spoken("é", logprobs=[TOKEN])), ended(), logprobs=True)["choices"][0][
        "logprobs"
    ] == {
        "content": [SPELT],
        "refusal": None,
    }
    assert whole(CREATED, done(CALL), ended(), logprobs=True)["choices"][0]["logprobs"] == {
        "content": None,
        "refusal": None,
    }
    odd = {"token": "\ufffd", "logprob": 0, "top_logprobs": None}
    assert choices(words("x", logprobs=[odd, 1]), ended(), logprobs=True)[1]["logprobs"] == {
        "content": [{"token": "\ufffd", "logprob": 0, "bytes": None, "top_logprobs": []}],
        "refusal": None,
    }


def test_half_a_character_is_a_token_without_bytes() -> None:
    """Some servers write a token so that ends in the middle of one."""
    answer = StreamedCompletion(usage=False, logprobs=True)
    told = rb'"delta":"\ud83d","logprobs":[{"token":"\ud83d","logprob":-0.5}]'
    written = answer.add(ServerEvent.parse(b'{"type":"response.output_text.delta",%b}' % told))
    assert rb'"content":[{"token":"\ud83d","logprob":-0.5,"bytes":null,"top_logprobs":[]}]' in written


def test_no_record_is_broken_by_what_some_clients_take_for_a_line_break() -> None:
    """They split at more than server-sent events do."""
    answer = StreamedCompletion(usage=False, logprobs=False)
    raw = answer.add(words("a\u2028b\u2029c\x85d"))
    assert len(raw.decode().splitlines()) == 4
    assert orjson.loads(raw.split(b"data: ")[2])["choices"][0]["delta"] == {"content": "a\u2028b\u2029c\x85d"}


@pytest.mark.parametrize(
    ("items", "content"),
    [
        ([spoken("")], ""),
        ([spoken(""), CALL], None),
        ([CALL], None),
        ([], None),
        ([spoken("a"), CALL], "a"),
        ([{"type": "message", "content": [{"type": "refusal", "refusal": "no"}]}], None),
    ],
)
def test_content_is_null_only_where_nothing_was_said(items: list[JSON], content: str | None) -> None:
    """An empty answer is an answer."""
    completion = whole(CREATED, *(done(item, n) for n, item in enumerate(items)), ended())
    assert completion["choices"][0]["message"]["content"] == content


@pytest.mark.parametrize("type_", ["response.output_item.added", "response.output_item.done"])
def test_items_without_end_break_a_stream_off(monkeypatch: pytest.MonkeyPatch, type_: str) -> None:
    """Of each an id is kept, which may be long, for as long as the answer goes on."""
    items = [
        event(type_, output_index=number, item={"type": "message", "id": f"{number}"}) for number in range(10, 30)
    ]
    monkeypatch.setattr("proxy.frontends.chat_answer._MOST_NOTED", sum(len(each.raw) for each in items[:19]))
    stream = StreamedCompletion(usage=False, logprobs=False)
    for each in items[:19]:
        stream.add(each)
    with pytest.raises(ConnectionLost) as caught:
        stream.add(items[19])
    assert caught.value.code == 1009


def test_parts_without_end_break_a_stream_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of each it is kept how much was said; an item of any length is one."""
    monkeypatch.setattr("proxy.frontends.chat_answer._MOST_PLACES", 10)
    stream = StreamedCompletion(usage=False, logprobs=False)
    words = [event("response.output_text.delta", content_index=number, delta="x") for number in range(11)]
    for each in words[:10] * 2:
        stream.add(each)
    stream.add(words[10])
    with pytest.raises(ConnectionLost):
        stream.add(words[10])


def test_obfuscation_is_passed_on() -> None:
    """Upstream decides on it, as the agent asked."""
    assert streamed(CREATED, words("a", obfuscation="xyz"))[-1]["obfuscation"] == "xyz"


FAILED = {"code": "server_error", "message": "Oops"}


@pytest.mark.parametrize(
    "failure",
    [
        event("response.failed", response={**RESPONSE, "status": "failed", "error": FAILED}),
        event("response.cancelled", response={**RESPONSE, "status": "cancelled", "error": FAILED}),
        event("response.done", response={**RESPONSE, "status": "failed", "error": FAILED}),
        event("error", error=FAILED),
    ],
)
def test_a_failure_in_the_middle_is_an_error_record(failure: ServerEvent) -> None:
    """Which both SDKs raise; there is no end after it."""
    said = {"message": "Oops", "type": "server_error", "param": None, "code": "server_error"}
    assert streamed(CREATED, words("a"), failure)[-1] == {"error": said}


def test_a_failure_before_the_first_words_is_an_http_error() -> None:
    """The agent has not been told that all is well."""
    with pytest.raises(UpstreamError) as caught:
        streamed(CREATED, event("error", error={"code": "rate_limit_exceeded", "message": "slow"}))
    assert caught.value.status == 429


def test_an_error_without_words_gets_some() -> None:
    """An empty error passes for none in the SDKs."""
    last = streamed(CREATED, words("a"), event("response.cancelled", response={**RESPONSE, "error": None}))[-1]
    assert last["error"]["message"] == "upstream ended the response without an answer"


# Whole


def test_a_whole_completion() -> None:
    """Streamed items count; they are one message."""
    completion = whole(CREATED, done(CALL, 1), done(spoken("a", "b"), 0), done(CUSTOM, 2), ended())
    assert completion == {
        **HEAD,
        "object": "chat.completion",
        "choices": [
            {
                "index": 0,
                "message": {
                    "role": "assistant",
                    "content": "ab",
                    "refusal": None,
                    "annotations": [],
                    "tool_calls": [
                        {"id": "c1", "type": "function", "function": {"name": "ls", "arguments": '{"a":1}'}},
                        {"id": "c2", "type": "custom", "custom": {"name": "sh", "input": "ls"}},
                    ],
                },
                "logprobs": None,
                "finish_reason": "tool_calls",
            }
        ],
        "usage": COUNTED,
    }


def test_an_odd_response_is_still_a_completion() -> None:
    """What upstream left out is left out, or null."""
    completion = whole(event("response.completed", response={"id": "x", "status": "completed"}))
    assert completion["choices"][0]["message"]["content"] is None
    assert completion["choices"][0]["finish_reason"] == "stop"
    assert (completion["id"], completion["created"], completion["usage"]) == ("x", 0, None)
    assert "service_tier" not in completion
    usage = whole(ended(usage={"input_tokens": 1}))["usage"]
    assert usage == {"prompt_tokens": 1, "completion_tokens": None, "total_tokens": None}


@pytest.mark.parametrize(
    "failure",
    [
        event("response.failed", response={**RESPONSE, "status": "failed", "error": FAILED}),
        event("error", error=FAILED, status=500),
    ],
)
def test_a_whole_failure_is_an_http_error(failure: ServerEvent) -> None:
    """There is nothing else to show."""
    with pytest.raises(UpstreamError) as caught:
        whole(CREATED, failure)
    assert caught.value.status == 500


# Refusals


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("input[3].content", "messages"),
        ("max_output_tokens", "max_completion_tokens"),
        ("model", "model"),
        (None, None),
    ],
)
def test_an_error_names_the_parameter_that_the_agent_sent(given: str | None, wanted: str | None) -> None:
    """Not the one that it became."""
    body = orjson.dumps({"error": {"message": "no", "type": "t", "param": given, "code": "c"}, "more": 1})
    said = orjson.loads(Chat().refusal(UpstreamError(400, body, {})))
    assert said == {"error": {"message": "no", "type": "t", "param": wanted, "code": "c"}, "more": 1}


@pytest.mark.parametrize("body", [b"<html>", b"[]", b'{"error":"x"}', b"{}"])
def test_a_refusal_in_other_words_stays_as_it_is(body: bytes) -> None:
    """It is upstream's."""
    assert Chat().refusal(UpstreamError(502, body, {})) == body


def test_a_bad_request_without_a_type_gets_one() -> None:
    """The SDKs show it."""
    said = orjson.loads(Chat().refusal(UpstreamError(400, b'{"error":{"message":"x"}}', {})))
    assert said["error"] == {"message": "x", "type": "invalid_request_error", "param": None, "code": None}


@pytest.mark.parametrize("moment", [b"NaN", b"Infinity", b'"now"'])
def test_a_moment_that_is_none_is_the_beginning_of_time(moment: bytes) -> None:
    """Some servers write numbers that JSON does not have."""
    created = ServerEvent.parse(
        b'{"type":"response.created","response":{"id":"resp_1","model":"m","created_at":%b}}' % moment
    )
    answer = StreamedCompletion(usage=False, logprobs=False, named=False)
    chunk = answer.add(created) + answer.add(words("Hi"))
    assert b'"created":0,' in chunk
