"""Which bodies can be parsed and written again without losing anything."""

import json  # noqa: TID251  (reads half a character)
from typing import Any

import orjson
import pytest

from proxy.frontends.faithful import as_json, read


def parse(body: bytes) -> Any:
    """Return the value of *body*, from which nothing is lost."""
    reading = read(body)
    assert reading is not None
    return reading.value


KEPT: list[tuple[bytes, Any]] = [
    (b"{}", {}),
    (b'{"a":[1,2.5,true,null,"x"]}', {"a": [1, 2.5, True, None, "x"]}),
    (b' { "a" : 1 } \r\n', {"a": 1}),
    (b'{"a":{"b":1},"c":{"b":2}}', {"a": {"b": 1}, "c": {"b": 2}}),
    (b'{"a": [{"b":1},{"b":2}]}', {"a": [{"b": 1}, {"b": 2}]}),
    (b'{"a":"\\u00e9\\/"}', {"a": "é/"}),
    ('{"a":"é"}'.encode(), {"a": "é"}),
    (b'{"a":"\\ud83d\\ude00"}', {"a": "😀"}),
    (b'{"a":"\\u0000\\u2028"}', {"a": "\0\u2028"}),
    (b'{"a":9007199254740993}', {"a": 9007199254740993}),
    (b'{"a": 123456789012345678}', {"a": 123456789012345678}),
    (b'{"a":18446744073709551615}', {"a": 18446744073709551615}),
    (b'{"a": -12345678901234567}', {"a": -12345678901234567}),
    (b'{"a":1.0}', {"a": 1.0}),
    (b'{"a":1E2}', {"a": 100.0}),
    (b'{"a":0.10}', {"a": 0.1}),
    (b'{"a":-0.0}', {"a": -0.0}),
    (b'{"a":5e-324}', {"a": 5e-324}),
    (b'{"a": 0e0}', {"a": 0.0}),
    (b"[]", []),
    (b'"text"', "text"),
    (b"null ", None),
]


@pytest.mark.parametrize(("body", "value"), KEPT)
def test_what_survives_being_written_again_is_parsed(body: bytes, value: Any) -> None:
    """Spaces, escapes and the spelling of a number are not content."""
    parsed = parse(body)
    assert repr(parsed) == repr(value)
    assert orjson.loads(orjson.dumps(parsed)) == value


@pytest.mark.parametrize("option", [None, orjson.OPT_INDENT_2, orjson.OPT_SORT_KEYS])
def test_a_request_may_be_printed_in_any_way(option: int | None) -> None:
    """Agents that print their JSON prettily get deltas too."""
    request = {"model": "gpt-5.5", "input": [{"role": "user", "content": "é\n"}], "temperature": 0.7, "n": 10**17}
    assert parse(orjson.dumps(request, option=option)) == request


LOST: dict[str, bytes] = {
    "nothing": b"",
    "no JSON": b"hello",
    "cut off": b'{"a":',
    "more than one value": b"{}{}",
    "a trailing comma": b'{"a":1,}',
    "a byte order mark": b"\xef\xbb\xbf{}",
    "UTF-16": '{"a":1}'.encode("utf-16"),
    "not UTF-8": b'{"a":"\xff"}',
    "an encoded surrogate": b'{"a":"\xed\xa0\x80"}',
    "a raw NUL": b'{"a":"\0"}',
    "a duplicate key": b'{"a":1,"a":2}',
    "a duplicate key with one value": b'{"a":1,"a":1}',
    "a duplicate key in another spelling": b'{"a":1,"\\u0061":2}',
    "a duplicate key deep down": b'{"a":[{"b":{"c":1,"c":2}}]}',
    "a lone high surrogate": b'{"a":"\\ud83d"}',
    "a lone low surrogate": b'{"a":"\\ude00"}',
    "surrogates the wrong way round": b'{"a":"\\ude00\\ud83d"}',
    "a surrogate in a key": b'{"\\ud83d":1}',
    "an integer beyond 64 bits": b'{"a":18446744073709551616}',
    "an integer beyond 64 bits below zero": b'{"a":-9223372036854775809}',
    "an integer of 5000 digits": b'{"a":' + b"1" * 5000 + b"}",
    "an integer that not every parser keeps": b'{"a": 1234567890123456789}',
    "minus zero": b'{"a":-0}',
    "a number beyond a double": b'{"a":1e400}',
    "a number far beyond a double": b'{"a":1e99999999999999999999}',
    "a number too small for a double": b'{"a":1e-400}',
    "a number far too small for a double": b'{"a":1e-99999999999999999999}',
    "more digits than a double has": b'{"a":0.10000000000000000001}',
    "NaN": b'{"a":NaN}',
    "Infinity": b'{"a":Infinity}',
    "minus Infinity": b'{"a":-Infinity}',
    "255 levels": b"[" * 255 + b"]" * 255,
    "1025 levels": b"[" * 1025 + b"]" * 1025,
    "100000 levels": b"[" * 100_000 + b"]" * 100_000,
    "255 levels of objects": b'{"a":' * 255 + b"1" + b"}" * 255,
}


@pytest.mark.parametrize("body", LOST.values(), ids=LOST)
def test_what_parsing_or_writing_would_change_is_refused(body: bytes) -> None:
    """The agent's own bytes go upstream instead."""
    assert read(body) is None


def test_what_the_writer_takes_is_parsed_to_its_depth() -> None:
    """254 levels go through, and come out as they were."""
    body = b"[" * 254 + b"]" * 254
    assert orjson.dumps(parse(body)) == body
    assert orjson.dumps(parse(b" " + body)) == body


@pytest.mark.parametrize("value", ["\ud800", [[[]]] * 2, {"a": 1}])
def test_what_upstream_said_can_always_be_written(value: Any) -> None:
    """Even half a character, which some models emit."""
    assert json.loads(as_json(value)) == value
