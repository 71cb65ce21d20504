"""The Responses API: requests read as turns, and events written as answers."""

from typing import Any

import orjson
import pytest
from said import JSON, done, event

from proxy.core.delta import FIELDS, Mismatch, Reuse, TurnRequest, reuse
from proxy.core.events import ServerEvent
from proxy.errors import UpstreamError
from proxy.frontends.base import Opaque, Readable
from proxy.frontends.responses import Responses, StreamedAnswer, WholeAnswer

MINIMAL: JSON = {"model": "gpt-5.5", "input": "Hello"}
NOT_OURS = sorted(name for name in FIELDS if reuse(name) is Reuse.NOT_OURS)


def decode(**fields: Any) -> Readable | Opaque:
    """Read a request that has *fields* too."""
    return Responses().decode(orjson.dumps({**MINIMAL, **fields}))


def read(**fields: Any) -> TurnRequest:
    """Read a request that has to be a turn."""
    request = decode(**fields)
    assert isinstance(request, Readable), request
    return request.turn


def message(text: str) -> JSON:
    """Return a message of the model."""
    return {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": text}]}


# Requests.


def test_a_request_is_read_as_a_turn() -> None:
    """Its history, its model, its size, and whether it streams."""
    items = [{"role": "user", "content": "Hello"}, message("Hi"), {"role": "user", "content": "What is here?"}]
    body = orjson.dumps({"model": "gpt-5.5", "stream": True, "store": False, "input": items})
    read = Responses().decode(body)
    assert isinstance(read, Readable)
    request = read.turn
    assert [item.raw for item in request.items] == items
    assert request.input == items
    assert len(request.marks) == 4
    assert (request.model, request.stream, request.size) == ("gpt-5.5", True, len(body))
    assert request.fields == {"model": "gpt-5.5", "store": False}


def test_a_text_is_a_user_message() -> None:
    """The next turn sends it as an item, and is a continuation all the same."""
    text = read(input="Hello")
    item = read(input=[{"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Hello"}]}])
    assert text.marks == item.marks
    assert text.input == "Hello"


def test_a_request_without_input_has_no_history() -> None:
    """Null, absent and empty are the same."""
    for request in (read(input=None), read(input=[])):
        assert request.items == ()
    absent = Responses().decode(b'{"model":"gpt-5.5"}')
    assert isinstance(absent, Readable)
    assert absent.turn.items == ()
    assert absent.turn.input is None


@pytest.mark.parametrize(("given", "streams"), [(True, True), (False, False), (None, False)])
def test_an_agent_says_whether_it_streams(given: bool | None, streams: bool) -> None:  # noqa: FBT001
    """By default it does not."""
    request = decode(stream=given)
    assert isinstance(request, Readable)
    assert request.turn.stream is streams
    assert "stream" not in request.turn.fields
    assert isinstance(request.answer, StreamedAnswer if streams else WholeAnswer)


def test_pretty_printed_requests_are_read() -> None:
    """Spaces carry no meaning."""
    pretty = orjson.dumps({**MINIMAL, "temperature": 0.5}, option=orjson.OPT_INDENT_2)
    request = Responses().decode(pretty)
    assert isinstance(request, Readable)
    assert request.turn.marks == read().marks


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"hello",
        b"[]",
        b'"text"',
        b"null",
        b"{}",
        b'{"input":"x"}',
        b'{"model":null,"input":"x"}',
        b'{"model":1,"input":"x"}',
        b'{"model":"m","stream":"true"}',
        b'{"model":"m","stream":1}',
        b'{"model":"m","model":"m"}',
        b'{"model":"m","input":"\\ud800"}',
        b'{"model":"m","seed":1e400}',
        b'{"model":"m","seed":1e-99999999999999999999}',
        b'{"model":"m","input":' + b"[" * 300 + b"]" * 300 + b"}",
    ],
)
def test_what_cannot_be_compared_goes_in_its_own_bytes(body: bytes) -> None:
    """Upstream's answer to it is none of our business."""
    assert Responses().decode(body) == Opaque(Mismatch.NOT_DIFFABLE)


@pytest.mark.parametrize("given", [1, True, {}, {"role": "user"}, ["Hello"], [{"role": "user"}, None], [[]]])
def test_a_history_of_another_shape_goes_in_its_own_bytes(given: Any) -> None:
    """The model is known by then."""
    assert decode(input=given) == Opaque(Mismatch.NOT_DIFFABLE, "gpt-5.5")


@pytest.mark.parametrize("name", NOT_OURS)
@pytest.mark.parametrize("value", ["x", "", True, 0, 1, {}, {"id": "x"}, []])
def test_a_request_that_manages_upstreams_state_goes_in_its_own_bytes(name: str, value: Any) -> None:
    """Whatever the value is worth."""
    assert decode(**{name: value}) == Opaque(Mismatch.UNSUPPORTED_FIELD, "gpt-5.5", name)


@pytest.mark.parametrize("name", NOT_OURS)
def test_null_does_not_use_a_field(name: str) -> None:
    """Nor is it sent over the WebSocket."""
    assert name not in read(**{name: None}).fields


@pytest.mark.parametrize("name", NOT_OURS)
def test_false_means_nothing_only_for_background(name: str) -> None:
    """Elsewhere it asks for something: `generate: false` for no answer at all."""
    request = decode(**{name: False})
    if name == "background":
        assert isinstance(request, Readable)
        assert name not in request.turn.fields
    else:
        assert request == Opaque(Mismatch.UNSUPPORTED_FIELD, "gpt-5.5", name)


# Answers.

OVERLOADED = {"code": "server_is_overloaded", "message": "Later."}


def test_a_streamed_answer_has_the_bytes_of_each_event() -> None:
    """Nothing is parsed or written anew, and nothing is added at the end."""
    answer = StreamedAnswer()
    raw = b'{"type":"response.output_text.delta", "delta":"\\u00e9", "unheard_of":1.0}'
    assert answer.content_type == "text/event-stream; charset=utf-8"
    assert answer.add(ServerEvent.parse(raw)) == b"event: response.output_text.delta\ndata: " + raw + b"\n\n"
    assert answer.finish() == b""


@pytest.mark.parametrize(
    ("item", "last"),
    [
        (
            b'{"type":"response.output_item.done","item":',
            b'{"type":"response.completed","response":{"output":[]}}',
        ),
        (
            b'{"type":"response.output_item.done","item":{"id":"item_1"}}',
            b'{"type":"response.completed","response":',
        ),
    ],
)
def test_what_cannot_be_read_is_shown_as_it_came(item: bytes, last: bytes) -> None:
    """The output is put into an end that lacks it, where either is JSON."""
    answer = StreamedAnswer()
    for raw in (item, last):
        came = ServerEvent.parse(raw)
        assert answer.add(came) == b"event: %b\ndata: %b\n\n" % (came.type.encode(), raw)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        ({"status": 503, "error": OVERLOADED}, OVERLOADED),
        (OVERLOADED, OVERLOADED),
        ({}, {"code": "server_error", "message": ""}),
    ],
    ids=["nested", "flat", "empty"],
)
@pytest.mark.parametrize("number", [7, None])
def test_an_error_in_a_response_is_followed_by_its_failure(error: JSON, said: JSON, number: int | None) -> None:
    """As over HTTP: Codex knows no other end of a stream that goes wrong."""
    answer = StreamedAnswer()
    broken = event("error", **error) if number is None else event("error", sequence_number=number, **error)
    answer.add(event("response.created", response={"id": "resp_1", "status": "in_progress", "model": "m"}))
    first, second, rest = answer.add(broken).split(b"\n\n")
    assert (first, rest) == (b"event: error\ndata: " + broken.raw, b"")
    name, _, data = second.partition(b"\ndata: ")
    assert name == b"event: response.failed"
    failed = {"id": "resp_1", "status": "failed", "model": "m", "error": said}
    numbered = {} if number is None else {"sequence_number": 8}
    assert orjson.loads(data) == {"type": "response.failed", **numbered, "response": failed}


@pytest.mark.parametrize(
    ("before", "told", "numbers"),
    [
        ({"sequence_number": 4}, {}, (5, 6)),
        ({"sequence_number": 4}, {"sequence_number": 9}, (9, 10)),
        ({"sequence_number": 4}, {"sequence_number": None}, (None, None)),
        ({"sequence_number": True}, {}, (None, None)),
        ({}, {}, (None, None)),
        (None, {}, (None, None)),
    ],
)
def test_an_error_in_a_response_is_numbered_like_the_events_before_it(
    before: JSON | None, told: JSON, numbers: tuple[int | None, int | None]
) -> None:
    """Agents on Vercel's AI SDK see no error in one without a number; what cannot be read gives none."""
    answer = StreamedAnswer()
    answer.add(event("response.created", sequence_number=0, response={"id": "resp_1"}))
    unread = ServerEvent.parse(b'{"type":"response.in_progress"')
    answer.add(unread if before is None else event("response.in_progress", **before))
    shown = answer.add(event("error", error=OVERLOADED, **told)).split(b"\n\n")[:2]
    error, failed = (orjson.loads(each.split(b"\ndata: ")[1]) for each in shown)
    assert (error["type"], error["error"]) == ("error", OVERLOADED)
    assert (error.get("sequence_number"), failed.get("sequence_number")) == numbers
    assert failed["response"] == {"id": "resp_1", "status": "failed", "error": OVERLOADED}


def test_a_response_that_breaks_off_has_what_was_streamed_of_it() -> None:
    """As over HTTP. What cannot be read of it is left out, with all else of it."""
    error = event("error", error=OVERLOADED)
    for unread, output in (((), [message("Hi")]), ((b'{"type":"response.output_item.done"',), [])):
        answer = StreamedAnswer()
        answer.add(event("response.created", response={"id": "resp_1", "output": []}))
        for each in (done(message("Hi"), 0), *map(ServerEvent.parse, unread)):
            answer.add(each)
        failed = orjson.loads(answer.add(error).split(b"data: ")[2])
        assert failed["response"] == {"id": "resp_1", "status": "failed", "error": OVERLOADED, "output": output}


@pytest.mark.parametrize(
    ("created", "error"),
    [(b'{"type":"response.created"', b'{"type":"error"}'), (b'{"type":"response.created"}', b'{"type":"error"')],
)
def test_of_what_cannot_be_read_nothing_is_made(created: bytes, error: bytes) -> None:
    """The agent gets upstream's bytes and no more, as it does for an error that ends no response."""
    answer = StreamedAnswer()
    alone = b"event: error\ndata: " + error + b"\n\n"
    assert StreamedAnswer().add(ServerEvent.parse(error)) == alone
    answer.add(ServerEvent.parse(created))
    assert answer.add(ServerEvent.parse(error)) == alone


def test_a_response_that_is_none_fails_all_the_same() -> None:
    """With nothing but what went wrong."""
    answer = StreamedAnswer()
    answer.add(event("response.created"))
    failed = orjson.loads(answer.add(event("error", **OVERLOADED)).split(b"data: ")[2])
    assert failed["response"] == {"status": "failed", "error": OVERLOADED}


def whole(*events: ServerEvent) -> Any:
    """Return the body of an answer that is not streamed."""
    answer = WholeAnswer()
    assert answer.content_type == "application/json"
    for each in events:
        assert answer.add(each) == b""
    return orjson.loads(answer.finish())


def last(output: Any, **fields: Any) -> ServerEvent:
    """Return the last event of a response."""
    return event("response.completed", response={"id": "resp_1", "output": output, **fields})


def test_a_whole_answer_is_the_response() -> None:
    """That of the terminal event, with everything in it."""
    response = whole(
        event("response.created", response={}), last([message("Hi")], usage={"total_tokens": 1}, x=1.5)
    )
    assert response == {"id": "resp_1", "output": [message("Hi")], "usage": {"total_tokens": 1}, "x": 1.5}


@pytest.mark.parametrize("kind", ["response.completed", "response.incomplete", "response.failed"])
def test_every_ending_with_a_response_is_an_answer(kind: str) -> None:
    """The status stands in the response."""
    assert whole(event(kind, response={"status": "x", "output": []})) == {"status": "x", "output": []}


@pytest.mark.parametrize("final", [[], None, [message("b")], [message("x"), message("y")]])
def test_the_streamed_items_fill_the_answer(final: Any) -> None:
    """They count more than the terminal list, in the order of their index."""
    response = whole(done(message("b"), 1), done(message("a"), 0), last(final))
    assert response["output"] == [message("a"), message("b")]
    assert whole(done(message("a"), None), done(message("b"), "x"), last(final)) == response


def test_items_that_were_not_streamed_are_not_lost() -> None:
    """Some services number every item 0, or stream only some of them."""
    both = [message("a"), message("b")]
    assert whole(done(both[0], 0), done(both[1], 0), last(both))["output"] == both
    assert whole(done(both[1], 0), last(both))["output"] == both


def test_an_error_instead_of_a_response_is_an_http_error() -> None:
    """Nothing was shown yet, so the agent gets upstream's status and words."""
    answer = WholeAnswer()
    answer.add(event("response.created", response={}))
    answer.add(event("error", status=503, error={"code": "server_is_overloaded", "message": "Busy"}))
    with pytest.raises(UpstreamError) as raised:
        answer.finish()
    assert raised.value.status == 503
    assert orjson.loads(raised.value.body)["error"]["message"] == "Busy"


def test_an_answer_of_nothing_is_an_error() -> None:
    """An empty body would pass for an answer."""
    with pytest.raises(UpstreamError):
        WholeAnswer().finish()


def test_the_front_end_has_a_name() -> None:
    """The figures are kept under it."""
    assert Responses().name == "responses"


def test_an_item_that_was_revised_is_given_once() -> None:
    """As upstream's own list has it; items that merely share a place are all given."""
    hel, hello = ({"type": "message", "id": "m", "content": [{"text": text}]} for text in ("Hel", "Hello"))
    for final, wanted in (([hello], [hello]), ([], [hel, hello]), ([hel, hello], [hel, hello])):
        answer = WholeAnswer()
        for each in (hel, hello):
            answer.add(done(each, 0))
        answer.add(event("response.completed", response={"id": "r", "output": final}))
        assert orjson.loads(answer.finish())["output"] == wanted


def test_a_refusal_is_in_upstreams_own_words() -> None:
    """The agent speaks the same API."""
    assert Responses().refusal(UpstreamError(400, b'{"error":{}}', {})) == b'{"error":{}}'


def test_what_tells_an_agent_something() -> None:
    """Every event, to one that streams; else only the last."""
    created, last = (ServerEvent.parse(b'{"type":"response.%b"}' % kind) for kind in (b"created", b"completed"))
    assert [StreamedAnswer().tells(each) for each in (created, last)] == [True, True]
    assert [WholeAnswer().tells(each) for each in (created, last)] == [False, True]
