"""What crosses the WebSocket: events, faults in every shape, and the one message that is sent."""

from typing import Any

import orjson
import pytest
from said import JSON, MISSES, answer, assistant, baseline, call, request, user

from proxy.core.delta import Delta, diff
from proxy.core.events import Fault, GarbledEvent, ServerEvent, response_create


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        (b'{"type":"response.created","response":{}}', "response.created"),
        (b' {  "type" :\t"response.output_text.delta", "delta": "\\u00e9"}', "response.output_text.delta"),
        (b'{"sequence_number":1,"type":"response.completed"}', "response.completed"),
        (b'{"type":"Something/New","x":1}', "Something/New"),
        (b'{"type":"keepalive"}', "keepalive"),
        (b'{"item":{"type":"message"},"type":"response.output_item.done"}', "response.output_item.done"),
        ('{"type":"é"}'.encode(), "é"),
    ],
)
def test_an_event_is_its_type_and_its_own_bytes(message: bytes, kind: str) -> None:
    """Whatever stands first, the type is the event's, and nothing is written anew."""
    assert ServerEvent.parse(message) == ServerEvent(kind, message)


def test_an_event_on_several_lines_comes_to_stand_on_one() -> None:
    """Pretty-printed JSON would break a server-sent event; it says the same with spaces."""
    value = {"type": "error", "error": {"message": "a\r\nb"}}
    message = orjson.dumps(value, option=orjson.OPT_INDENT_2).replace(b"\n", b"\r\n")
    event = ServerEvent.parse(message)
    assert event.type == "error"
    assert b"\n" not in event.raw
    assert b"\r" not in event.raw
    assert event.json() == value


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"hello",
        b"<html>",
        b"[]",
        b'"response.created"',
        b"{}",
        b'{"type":null}',
        b'{"type":1}',
        b'{"type":"a\\nb"}',
        b'{"type":"a\\rb"}',
        b'{"type":"\\ud800"}',
        b'\xef\xbb\xbf{"type":"error"}',
        b'{"x":"\xff","type":"error"}',
        b'{"error":null}',
        b'{"detail":""}',
        b'{"detail":"no","type":null}',
        b'{"error":{"message":"no"},"type":null}',
        b'["error"]',
    ],
)
def test_what_is_not_an_event_is_garbled(message: bytes) -> None:
    """An object with a type that fits on one line, or nothing."""
    with pytest.raises(GarbledEvent):
        ServerEvent.parse(message)


@pytest.mark.parametrize("error", [{"message": "no", "type": "api_error"}, "no"])
def test_an_error_without_a_type_is_one_all_the_same(error: Any) -> None:
    """Services that write errors so mean what others write with a type."""
    event = ServerEvent.parse(orjson.dumps({"error": error, "code": "400"}))
    assert event.terminal
    assert event.json() == {"type": "error", "error": error, "code": "400"}
    assert (Fault.of(event.json()).status, Fault.of(event.json()).message) == (400, "no")


@pytest.mark.parametrize(
    ("detail", "status", "message"),
    [
        ("Unsupported parameter: stream_options", 400, "Unsupported parameter: stream_options"),
        ([{"loc": ["body", "input"], "msg": "no"}], 500, '[{"loc":["body","input"],"msg":"no"}]'),
    ],
)
def test_so_is_a_detail_without_a_type(detail: Any, status: int, message: str) -> None:
    """ChatGPT's servers refuse parameters so (router-for-me/CLIProxyAPI#5561); lists are FastAPI's."""
    event = ServerEvent.parse(orjson.dumps({"detail": detail}))
    assert event.terminal
    fault = Fault.of(event.json())
    assert (fault.status, fault.message) == (status, message)
    assert orjson.loads(fault.as_error().body) == {"error": {"message": message}}


@pytest.mark.parametrize(
    "text", [b"\xff", b"\xc3", b"\xc0\xaf", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", "\u00e9".encode("latin-1")]
)
def test_text_that_is_not_utf8_is_garbled(text: bytes) -> None:
    """Also where the rest of the event is not read, as that of most is not."""
    with pytest.raises(GarbledEvent):
        ServerEvent.parse(b'{"type":"response.output_text.delta","delta":"' + text + b'"}')


def test_a_broken_event_is_noticed_when_it_is_read() -> None:
    """The type is taken from the beginning; the rest only has to make sense to who needs it."""
    with pytest.raises(GarbledEvent):
        ServerEvent.parse(b'{"type":"response.completed","response":{').json()
    with pytest.raises(GarbledEvent):
        ServerEvent("response.completed", b"[]").json()


@pytest.mark.parametrize(
    "kind",
    [
        "response.completed",
        "response.incomplete",
        "response.failed",
        "response.cancelled",
        "response.done",
        "response.error",
        "error",
    ],
)
def test_a_terminal_event_ends_the_turn(kind: str) -> None:
    """Missing one would hang the agent."""
    assert ServerEvent(kind, b"").terminal


@pytest.mark.parametrize(
    ("kind", "of_response"),
    [
        ("response.created", True),
        ("response.in_progress", True),
        ("response.of.next.year", True),
        ("response.metadata", False),
        ("codex.rate_limits", False),
        ("codex.response.metadata", False),
        ("responsesapi.websocket_timing", False),
        ("keepalive", False),
        ("error", False),
    ],
)
def test_telemetry_is_not_of_a_response(kind: str, *, of_response: bool) -> None:
    """Events of the connection or the account may come at any time."""
    event = ServerEvent(kind, b"12345")
    assert event.of_response is of_response
    assert not event.terminal or kind == "error"
    assert repr(event) == f"<{kind}, 5 bytes>"


@pytest.mark.parametrize(
    ("kind", "is_aside"),
    [
        ("codex.rate_limits", True),
        ("codex.response.metadata", True),
        ("responsesapi.websocket_timing", True),
        ("response.metadata", False),
        ("response.of.next.year", False),
        ("vendor:trace", False),
        ("keepalive", False),
        ("error", False),
    ],
)
def test_what_http_tells_in_headers_is_an_aside(kind: str, *, is_aside: bool) -> None:
    """By the vocabularies that are known to be of WebSockets alone; any other event may be HTTP's too."""
    assert ServerEvent(kind, b"").is_aside is is_aside


@pytest.mark.parametrize("said", MISSES.values(), ids=MISSES)
def test_a_miss_is_known_in_every_shape(said: JSON) -> None:
    """Services write it nested, flat, as a failed response or without a code."""
    fault = Fault.of(said)
    assert fault.is_miss
    assert not fault.is_age_limit
    assert not fault.is_duplicate


@pytest.mark.parametrize(
    "error",
    [
        {"code": "rate_limit_exceeded", "message": "previous_response_id"},
        {"code": "context_length_exceeded", "param": "previous_response_id"},
        {"code": "invalid_request_error", "message": "No tool output found for function call call_1."},
        {"message": "The server had an error"},
        {"message": None, "code": 7, "param": None},
        {"type": "api_error", "message": "gRPC error: Model with id=grok not found"},
        {"type": "server_error", "message": "gRPC error: Response with id=resp_1 not found"},
        {},
    ],
)
def test_other_errors_are_no_miss(error: JSON) -> None:
    """Only an unknown response is."""
    assert not Fault.of({"type": "error", "error": error}).is_miss


def test_a_message_that_quotes_a_whole_request_is_read_at_its_beginning() -> None:
    """There it says what is wrong; to look for it in a megabyte would hold everybody up for minutes."""
    said = {"message": "The request is invalid: " + "response with id " * 60_000, "code": "invalid_request_error"}
    assert not Fault.of({"type": "error", "error": said}).is_miss
    said["message"] = "Response with id=resp_1 not found in: " + said["message"]
    assert Fault.of({"type": "error", "error": said}).is_miss


@pytest.mark.parametrize(
    ("said", "status", "code", "message"),
    [
        ({"status": 429, "error": {"code": "slow_down", "message": "Wait"}}, 429, "slow_down", "Wait"),
        ({"status_code": 503, "error": {"type": "overloaded"}}, 503, "overloaded", ""),
        ({"status": 200, "status_code": 418, "error": {}}, 418, "", ""),
        ({"status": True, "error": {"code": "invalid_api_key"}}, 401, "invalid_api_key", ""),
        ({"status": "400", "error": {"code": "model_not_found"}}, 400, "model_not_found", ""),
        ({"status": "4xx", "error": {"code": "model_not_found"}}, 404, "model_not_found", ""),
        ({"error": {"code": "x", "type": "rate_limit_error"}}, 429, "x", ""),
        ({"error": {"code": ["x"], "type": {}}}, 500, "", ""),
        ({"error": {"message": "previous_response_id?"}}, 400, "", "previous_response_id?"),
        ({"error": {"message": "Argument not supported: stop"}}, 400, "", "Argument not supported: stop"),
        (
            {"error": {"type": "api_error", "message": "Request validation error"}},
            400,
            "api_error",
            "Request validation error",
        ),
        ({"error": "Overloaded"}, 500, "", "Overloaded"),
        ({"error": "Argument not supported: stop", "code": "422"}, 422, "", "Argument not supported: stop"),
        ({"error": None, "code": "usage_limit_reached", "message": "m"}, 429, "usage_limit_reached", "m"),
        ({"code": "server_is_overloaded", "message": "m", "param": None}, 503, "server_is_overloaded", "m"),
        ({"message": 7}, 500, "", ""),
        ({}, 500, "", ""),
        ({"response": {"error": {"code": "invalid_prompt", "message": "m"}}}, 400, "invalid_prompt", "m"),
        ({"response": {"error": None}, "code": "server_error"}, 500, "server_error", ""),
        ({"response": {}, "error": {"code": "hidden"}}, 500, "", ""),
        ({"status": 400, "detail": "Unsupported parameter: x"}, 400, "", "Unsupported parameter: x"),
        ({"message": "m", "detail": "d"}, 500, "", "m"),
        ({"status": 401, "body": {"error": {"code": "x", "message": "m"}}}, 401, "x", "m"),
        ({"status": 400, "body": {"detail": "d"}}, 400, "", "d"),
        ({"error": {"message": "m"}, "body": {"error": {"message": "other"}}}, 500, "", "m"),
        ({"error": {"code": "429", "type": "throttling_error"}}, 429, "throttling_error", ""),
        ({"error": {"code": "400", "message": "m"}}, 400, "", "m"),
        ({"error": {"status": 503}}, 503, "", ""),
        ({"status": 400, "error": {"code": "500"}}, 400, "", ""),
        ({"error": {"code": "bad_request", "message": "internal"}}, 400, "bad_request", "internal"),
        ({"error": {"code": "message_too_big"}}, 413, "message_too_big", ""),
        ({"error": {"code": "overloaded_error"}}, 503, "overloaded_error", ""),
        ({"error": {"code": "too_many_requests"}}, 429, "too_many_requests", ""),
        ({"error": {"type": "permission_denied"}}, 403, "permission_denied", ""),
    ],
)
def test_a_fault_is_read_in_every_shape(said: JSON, status: int, code: str, message: str) -> None:
    """Nested, flat, a text, or inside a response; the status by its own word, else by the code or type."""
    fault = Fault.of(said)
    assert (fault.status, fault.code, fault.message) == (status, code, message)


@pytest.mark.parametrize("error", [{}, {"code": 7}, {"type": "api_error", "message": "gRPC error: no"}])
def test_a_fault_that_says_nothing_of_its_status_is_vague(error: JSON) -> None:
    """The status is then a guess, and whoever acts on it can ask for another."""
    fault = Fault.of({"error": error})
    assert (fault.status, fault.as_error().is_vague) == (500, True)
    for known in ({"status": 500}, {"error": {"code": "server_error"}}, {"error": {**error, "param": "input"}}):
        assert not Fault.of({"error": error, **known}).as_error().is_vague


def test_the_headers_of_a_fault_come_from_both_places() -> None:
    """Texts and numbers, names in small letters; they are not part of the error that the agent sees."""
    fault = Fault.of(
        {
            "headers": {"Retry-After": 2, "X-A": "outer"},
            "error": {"code": "slow_down", "headers": {"x-a": "inner", "x-b": None, "x-c": ["no"], "x-d": 1.5}},
        }
    )
    assert fault.headers == {"retry-after": "2", "x-a": "inner", "x-d": "1.5"}
    assert fault.error == {"code": "slow_down"}
    assert Fault.of({"headers": "none", "error": {"headers": []}}).headers == {}


def test_a_fault_becomes_the_answer_it_would_have_been() -> None:
    """Status, body and headers are upstream's own words."""
    error = {"type": "invalid_request_error", "code": "bad", "message": "Bad é", "param": "x", "more": [1]}
    answered = Fault.of({"status": 422, "error": error, "headers": {"Retry-After": "1"}}).as_error()
    assert answered.status == 422
    assert orjson.loads(answered.body) == {"error": error}
    assert answered.headers == {"retry-after": "1"}


def test_an_old_connection_says_so() -> None:
    """The code decides; the minutes in the message are each service's own."""
    assert Fault.of({"error": {"code": "websocket_connection_limit_reached"}}).is_age_limit
    assert Fault.of({"error": "websocket_connection_limit_reached"}).is_age_limit
    assert Fault.of({"body": {"error": {"type": "websocket_connection_limit_reached"}}}).is_age_limit
    assert not Fault.of({"error": {"code": "websocket_stream_limit_reached"}}).is_age_limit


@pytest.mark.parametrize(
    ("said", "rejected"),
    [
        ({"status": 400, "error": {}}, True),
        ({"status": 404, "error": {}}, True),
        ({"status": 409, "error": {}}, True),
        ({"status": 422, "error": {}}, True),
        ({"status": 401, "error": {}}, False),
        ({"status": 429, "error": {}}, False),
        ({"status": 500, "error": {}}, False),
        ({"status": 400, "error": {"code": "context_length_exceeded"}}, False),
        ({"code": "invalid_value", "message": "no", "param": "input[0]"}, True),
        ({"code": "odd", "message": "no", "param": "input[0]"}, True),
        ({"code": "unknown_parameter", "message": "no", "param": None}, True),
        ({"code": "missing_required_parameter", "message": "no"}, True),
        ({"code": "unsupported_value", "message": "no"}, True),
        ({"code": "unsupported_country_region_territory", "message": "no"}, False),
        ({"code": "invalid_api_key", "message": "no"}, False),
        ({"code": "unknown_error", "message": "no"}, False),
        ({"code": "odd", "message": "no", "param": ""}, False),
        ({"code": "server_error", "message": "no", "param": "input"}, False),
        ({"code": None, "message": "no", "param": None}, False),
    ],
)
def test_a_refused_request_is_told_from_other_trouble(said: JSON, *, rejected: bool) -> None:
    """Its full history may fare better, but not where it is too long, unpaid or unlucky."""
    assert Fault.of(said).is_rejection is rejected


def test_a_duplicate_is_known_by_its_message() -> None:
    """There is no code for it."""
    assert Fault.of({"error": {"message": "Duplicate item found with id msg_1."}}).is_duplicate


HISTORY = [user("Hello")]
SAID = [assistant("Hi"), call()]
FIELDS: dict[str, Any] = {"tools": [{"b": 1, "a": 2}], "instructions": None, "metadata": {}, "temperature": 1.0}


def delta(*new: JSON, **fields: Any) -> tuple[Any, Delta]:
    """Return a request and what it adds."""
    sent = request(*HISTORY, *SAID, *new, **fields)
    found = diff(sent, baseline(HISTORY, *SAID))
    assert isinstance(found, Delta)
    return sent, found


def test_a_delta_is_written_with_its_chain_and_its_new_items() -> None:
    """Small settings first, in a fixed order and with the agent's own values; then large ones and what is new."""
    sent, found = delta(answer(), **FIELDS)
    assert bytes(response_create(sent, found)) == (
        b'{"type":"response.create","metadata":{},"model":"gpt-5.5","store":false,"temperature":1.0,'
        b'"previous_response_id":"resp_1","instructions":null,"tools":[{"b":1,"a":2}],'
        b'"input":[{"type":"function_call_output","call_id":"call_1","output":"a.py"}]}'
    )


def test_a_full_turn_is_written_without_a_chain() -> None:
    """It has the whole history as the agent sent it."""
    sent, _ = delta(answer(), **FIELDS)
    message = orjson.loads(bytes(response_create(sent, None)))
    assert message["input"] == [*HISTORY, *SAID, answer()]
    assert list(message) == [
        "type",
        "metadata",
        "model",
        "store",
        "temperature",
        "instructions",
        "tools",
        "input",
    ]


def test_what_belongs_to_http_is_not_sent() -> None:
    """A WebSocket has no use for `stream`, and the chain is ours."""
    sent = request(
        *HISTORY, stream=True, background=False, previous_response_id=None, conversation=None, type=None
    )
    assert list(orjson.loads(bytes(response_create(sent, None)))) == ["type", "model", "store", "input"]


def test_a_field_that_nobody_knows_is_sent() -> None:
    """It is the agent's business."""
    message = orjson.loads(bytes(response_create(request(*HISTORY, moderation={"x": None}), None)))
    assert message["moderation"] == {"x": None}


@pytest.mark.parametrize("given", ["Hello", "", []])
def test_a_history_goes_in_the_shape_the_agent_gave_it(given: Any) -> None:
    """A text stays a text."""
    message = orjson.loads(bytes(response_create(request(input=given), None)))
    assert message["input"] == given


def test_without_history_there_is_no_input() -> None:
    """Absent stays absent; instructions alone make a turn."""
    assert "input" not in orjson.loads(bytes(response_create(request(input=None), None)))


def test_the_settings_of_two_turns_begin_alike() -> None:
    """Compression finds the previous turn's in its window, whatever order the agent's keys have."""
    one, found = delta(answer(), tools=[1], instructions="x")
    other, _ = delta(answer(output="b.py"), instructions="x", tools=[1])
    first, second = bytes(response_create(one, found)), bytes(response_create(other, None))
    shared = first.index(b'"previous_response_id"')
    assert first[:shared] == second[:shared]
    settings = b'"instructions":"x","tools":[1],"input":'
    assert settings in first
    assert settings in second


def test_a_refusal_with_half_a_character_is_still_upstreams() -> None:
    """Some models' words end in the middle of one."""
    refused = Fault.of({"status": 429, "error": {"message": "\ud83d"}}).as_error()
    assert (refused.status, refused.body) == (429, b'{"error": {"message": "\\ud83d"}}')


@pytest.mark.parametrize(
    ("message", "is_unexplained"),
    [
        (b'{"type":"response.failed","response":{"id":"r","error":null}}', True),
        (b'{"type":"response.failed","response":{"error":{"code":"slow_down"}}}', False),
        (b'{"type":"response.failed","response":{"incomplete_details":{"reason":"x"}}}', False),
        (b'{"type":"response.failed","response":null}', False),
        (b'{"type":"response.failed","response":', False),
        (b'{"type":"response.completed","response":{"error":null}}', False),
    ],
)
def test_a_failure_may_not_say_why(message: bytes, is_unexplained: bool) -> None:  # noqa: FBT001  (a row of a table)
    """Azure's servers say it behind some failures (earendil-works/pi#7983)."""
    assert ServerEvent.parse(message).is_unexplained is is_unexplained
