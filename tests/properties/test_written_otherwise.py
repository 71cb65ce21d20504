"""Beginnings are remembered however a body is written, for both APIs, and change nothing about how it is read."""

import json  # noqa: TID251  (writes as Python agents do)
from collections.abc import Callable, Iterator
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.history import History
from proxy.core.hoist import hoist
from proxy.frontends.base import FrontEnd, Opaque, Readable
from proxy.frontends.chat import Chat
from proxy.frontends.responses import Responses

KEPT_NUMBERS = [b"1", b"1.0", b"1E2", b"0.10", b"-0.0", b"9007199254740993", b"123456789012345678"]
ODD_NUMBERS = [
    b"-0",
    b"1234567890123456789",
    b"18446744073709551615",
    b"18446744073709551616",
    b"0.1000000000000000055",
    b"1e400",
]
NUMBERS = st.sampled_from(KEPT_NUMBERS * 2 + ODD_NUMBERS)
TEXTS = st.sampled_from(
    [b"", b"hi", b"\\u00e9", "é".encode(), b"\\u003c", b"\\/", b"}]", b"},{", b'\\",\\"messages\\":[{', b"\\n"] * 3
    + [b"\\ud800"]
)
ROLES = st.sampled_from([b"user", b"user", b"assistant", b"developer"])
SPACES = st.sampled_from([b"", b"", b"", b" ", b"\n  ", b"\t\r\n"])


@st.composite
def entries(draw: st.DrawFn) -> bytes:
    """Return an entry of a history, a message to both APIs, written in some way."""
    gap, role, text = draw(SPACES), draw(ROLES), draw(TEXTS)
    more = b""
    if role == b"assistant" and draw(st.booleans()):
        more = b',%b"annotations":%b[%b]' % (gap, gap, draw(NUMBERS))
    if not draw(st.integers(0, 40)):
        more += b',"role":"user"'
    return b'{%b"role":%b"%b",%b"content":%b"%b"%b%b}' % (gap, gap, role, gap, gap, text, more, gap)


@st.composite
def calls(draw: st.DrawFn, name: bytes) -> list[bytes]:
    """Return the entries for a call, or for one without an output."""
    gap = draw(SPACES)
    if name == b"input":
        call = b'{"type":%b"function_call","call_id":"c","name":"f","arguments":"{}"}' % gap
        output = b'{"type":%b"function_call_output","call_id":"c","output":"x"}' % gap
    else:
        function = b'{"name":"f","arguments":"{}"}'
        call = b'{"role":%b"assistant","tool_calls":[{"id":"c","type":"function","function":%b}]}' % (
            gap,
            function,
        )
        output = b'{"role":"tool","tool_call_id":%b"c","content":"x"}' % gap
    return draw(st.sampled_from([[call, output]] * 6 + [[call], [output]]))


@st.composite
def fields(draw: st.DrawFn, name: bytes) -> bytes:
    """Return members of the request, each with a comma behind it."""
    gap = draw(SPACES)
    known = [
        b'"store":%bfalse,%b' % (gap, gap),
        b'"metadata":%b{"%b":"[{}]"},%b' % (gap, name, gap),
        b'"temperature":%b%b,' % (gap, draw(NUMBERS)),
        b'"model":%b"m",' % gap,
        b'"%b":[{"role":"user","content":"twice"}],' % name,
    ]
    weights = [0, 0, 1, 1, 2, 2, 2, 3, 4] if not draw(st.integers(0, 7)) else [0, 0, 1]
    return b"".join(known[n] for n in draw(st.lists(st.sampled_from(weights), max_size=2, unique=True)))


@st.composite
def conversations(draw: st.DrawFn, name: bytes) -> list[bytes]:
    """Return bodies of which most begin as an earlier one did, and go on as one may or may not."""
    gap, before = draw(SPACES), draw(fields(name))
    head = b'{"model":%b"m",%b%b"%b":%b[%b' % (gap, gap, before, name, gap, draw(SPACES))
    history: list[bytes] = []
    bodies = []
    for _ in range(draw(st.integers(2, 6))):
        new = draw(st.lists(entries(), max_size=2)) + (draw(calls(name)) if not draw(st.integers(0, 3)) else [])
        history += [draw(SPACES) + b"," + draw(SPACES) + each for each in new]
        written = b"".join(history).lstrip(b" \t\r\n,")
        behind = draw(fields(name))
        tail = b"]" + draw(SPACES) + (b"," + behind.rstrip(b" \t\r\n,") if behind else b"") + draw(SPACES) + b"}"
        body = head + written + draw(SPACES) + tail + draw(st.sampled_from([b""] * 8 + [b"\n", b"}"]))
        if not draw(st.integers(0, 8)):
            at = draw(st.integers(0, len(body)))
            body = body[:at] + draw(st.sampled_from([b",", b"]", b"[", b'"', b" ", b"{}", b"0"])) + body[at:]
        bodies.append(body)
        match draw(st.integers(0, 6)):
            case 0:
                del history[draw(st.integers(0, len(history))) :]
            case 1 if history:
                at = draw(st.integers(0, len(history) - 1))
                history[at] = history[at].replace(b'":', b'": ', 1)
    return bodies


def told(read: Readable | Opaque) -> Any:
    """Return all that there is to know of what was read."""
    if isinstance(read, Opaque):
        return read
    turn = read.turn
    names = ("fields", "input", "raws", "marks", "outline", "model", "settings", "stream", "size", "root", "echo")
    known = [getattr(turn, name) for name in names]
    settings = {**turn.fields, "store": False, "instructions": "Be brief."}
    return [*known, turn.has_model_output, list(turn.items), hoist(settings, turn.items), type(read.answer)]


@given(conversations(b"input"))
def test_responses_are_read_alike(bodies: list[bytes]) -> None:
    """However the parts are written, and whatever follows on them."""
    remembering = Responses()
    for each in bodies:
        assert told(remembering.decode(each)) == told(Responses().decode(each))


@given(conversations(b"messages"))
def test_chats_are_read_alike(bodies: list[bytes]) -> None:
    """Also where a message makes sense only behind another."""
    remembering = Chat()
    for each in bodies:
        assert told(remembering.decode(each)) == told(Chat().decode(each))


def html_safe(value: Any) -> bytes:
    """Write as Go does."""
    return orjson.dumps(value).replace(b"<", b"\\u003c") + b"\n"


STYLES: dict[str, Callable[[Any], bytes]] = {
    "compact": orjson.dumps,
    "Python's": lambda value: json.dumps(value).encode(),
    "Python's, in UTF-8": lambda value: json.dumps(value, ensure_ascii=False).encode(),
    "pretty": lambda value: json.dumps(value, indent=2).encode(),
    "Go's": html_safe,
    "with a line's end": lambda value: orjson.dumps(value) + b"\n",
}
APIS: list[tuple[Callable[[], FrontEnd], str]] = [(Responses, "input"), (Chat, "messages")]


@pytest.mark.parametrize("write", STYLES.values(), ids=STYLES)
@pytest.mark.parametrize(("api", "name"), APIS, ids=["responses", "chat"])
def test_a_history_that_grew_is_read_at_its_end_in_every_style(
    api: Callable[[], FrontEnd], name: str, write: Callable[[Any], bytes]
) -> None:
    """Turn after turn, with fields before and behind, and with the body of the turn before sent again."""
    front_end, history = api(), [{"role": "user", "content": "é <b> [{"}]
    request = {"metadata": {"ü": "]"}, "model": "m", name: history, "user": "é"}
    front_end.decode(write(request))
    for count in range(1, 5):
        again = front_end.decode(write(request))
        assert isinstance(again, Readable)
        assert repr(again.turn.items) == f"<History {2 * count - 1} + 0>"
        history += [{"role": "assistant", "content": "é <i>"}, {"role": "user", "content": "}"}]
        read = front_end.decode(write(request))
        assert isinstance(read, Readable)
        assert repr(read.turn.items) == f"<History {2 * count - 1} + 2>"
        assert told(read) == told(api().decode(write(request)))


def odd(name: bytes) -> Iterator[bytes]:
    """Yield requests without entries that are objects, in compact and other ways."""
    for value in (b"[]", b"[ ]", b'"{}"', b'"[{}]"', b"null", b"{}", b"[{},1]"):
        for gap in (b"", b" "):
            yield b'{"model":%b"m","%b":%b%b}' % (gap, name, gap, value)
    yield b'{"model": "m"}'
    yield b'{"model":"m"}'


@pytest.mark.parametrize(("api", "name"), APIS, ids=["responses", "chat"])
def test_nothing_is_remembered_of_what_is_no_history(api: Callable[[], FrontEnd], name: str) -> None:
    """A text may look like a list, and a list may be empty."""
    front_end = api()
    for _ in range(2):
        for body in odd(name.encode()):
            read = front_end.decode(body)
            assert told(read) == told(api().decode(body))
            assert isinstance(read, Opaque) or not isinstance(read.turn.items, History)


def test_a_call_without_an_output_is_looked_at_again() -> None:
    """What a Chat message may say depends on it."""
    front_end = Chat()
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    history: list[dict[str, Any]] = [{"role": "user", "content": "x"}, {"role": "assistant", "tool_calls": [call]}]
    request = {"model": "m", "messages": history}
    assert isinstance(front_end.decode(orjson.dumps(request)), Readable)
    answered = {"role": "tool", "tool_call_id": "c", "content": "x"}
    read = front_end.decode(orjson.dumps({**request, "messages": [*history, answered]}))
    assert isinstance(read, Readable)
    assert not isinstance(read.turn.items, History)
    assert isinstance(front_end.decode(orjson.dumps({**request, "messages": [*history, history[0]]})), Opaque)


USER = b'{"role":"user","content":"a"}'
SPACED = b'{"role": "user","content":"a"}'
LONG = b'{"role":"assistant","content":"b","annotations":[1234567890123456789]}'
"""Taken where all of the body is written as we would, and nowhere else."""

SEQUENCES: dict[str, list[bytes]] = {
    "a long integer behind what is not ours": [b"[" + SPACED + b"]}", b"[" + SPACED + b"," + LONG + b"]}"],
    "a long integer behind a space": [b"[" + USER + b"]}", b"[" + USER + b" ," + LONG + b"]}"],
    "a long integer behind a space at the end": [b"[" + USER + b"]}\n", b"[" + USER + b"," + LONG + b"]}"],
    "a long integer in front of a space": [b"[" + USER + b"]}", b"[" + USER + b"," + LONG + b"] }"],
    "a long integer in the third body": [
        b"[" + SPACED + b"]}",
        b"[" + SPACED + b"," + USER + b"]}",
        b"[" + SPACED + b"," + USER + b"," + LONG + b"]}",
    ],
    "a long integer behind what became not ours": [
        b"[" + USER + b"]}",
        b"[" + USER + b"," + SPACED + b"]}",
        b"[" + USER + b"," + SPACED + b"," + LONG + b"]}",
    ],
    "a long integer that was taken before": [
        b"[" + USER + b"," + LONG + b"]}",
        b"[" + USER + b"," + LONG + b"," + SPACED + b"]}",
    ],
    "a comma at the end": [b"[" + USER + b"]}", b"[" + USER + b",]}"],
    "a comma at the end, and space": [b"[" + USER + b"]}", b"[" + USER + b" , ]}"],
    "two commas": [b"[" + USER + b"]}", b"[" + USER + b",," + USER + b"]}"],
    "no comma": [b"[" + USER + b"]}", b"[" + USER + USER + b"]}"],
    "no entry": [b"[" + USER + b"]}", b"[" + USER + b",1]}"],
    "a text that ends like a history": [b' "{}"}', b' "{}]","user":""}', b' "{},{]","user":""}'],
    "an object": [b' {"role":"user"}}', b' {"role":"user"},"user":["]}'],
    "the field a second time": [b"[" + USER + b"]}", b"[" + USER + b'],"input":[],"messages":[]}'],
    "an end that is not ours": [b"[" + USER + b"]}", b"[" + USER + b"] }", b"[" + USER + b"\n]}"],
    "tools among the items": [
        b'[{"type":"additional_tools","role":"developer","tools":[]}]}',
        b'[{"type":"additional_tools","role":"developer","tools":[]},' + USER + b"]}",
    ],
    "a compaction": [
        b'[{"type":"compaction","encrypted_content":"x"}]}',
        b'[{"type":"compaction","encrypted_content":"x"},' + USER + b"]}",
    ],
    "less than before": [
        b"[" + USER + b"," + SPACED + b"]}",
        b"[" + USER + b"]}",
        b"[" + USER + b"," + LONG + b"]}",
    ],
}


@pytest.mark.parametrize("bodies", SEQUENCES.values(), ids=SEQUENCES)
@pytest.mark.parametrize(("api", "name"), APIS, ids=["responses", "chat"])
@pytest.mark.parametrize("gap", [b"", b" "])
def test_one_after_another(api: Callable[[], FrontEnd], name: str, gap: bytes, bodies: list[bytes]) -> None:
    """What came before makes no difference; *gap* makes the fields before the history not ours."""
    front_end = api()
    for each in bodies:
        body = b'{"model":%b"m","%b":%b' % (gap, name.encode(), each)
        assert told(front_end.decode(body)) == told(api().decode(body))


@pytest.mark.parametrize(("api", "name"), APIS, ids=["responses", "chat"])
def test_nothing_old_is_read_to_decide_what_to_send(api: Callable[[], FrontEnd], name: str) -> None:
    """Whether to hoist, where the conversation begins, whether there were turns before: the outline says it."""
    front_end = api()
    history = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]
    request = {"model": "m", name: history}
    front_end.decode(orjson.dumps(request))
    history.append({"role": "user", "content": "z"})
    read = front_end.decode(orjson.dumps(request))
    assert isinstance(read, Readable)
    turn = read.turn
    assert hoist({"store": False, "instructions": "x"}, turn.items) is not None
    assert turn.root == turn.asked == turn.marks[1]
    assert turn.has_model_output
    assert isinstance(turn.items, History)
    assert not {"whole", "raws"} & vars(turn.items).keys()
    assert [raw["role"] for raw in turn.raws] == ["user", "assistant", "user"]
    assert "whole" not in vars(turn.items)
