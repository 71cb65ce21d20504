"""A front end that remembers beginnings of bodies reads every body as one that remembers nothing."""

import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.delta import TurnRequest
from proxy.core.history import History
from proxy.frontends.base import Opaque, Readable
from proxy.frontends.responses import Responses

TEXTS = st.sampled_from(["", "hi", '"}],"input":[{"', "],", "é", "{}", "\\", '{"role":"user"}'])
ITEMS = st.one_of(
    st.builds(lambda text: {"role": "user", "content": text}, TEXTS),
    st.builds(lambda text: {"role": "assistant", "content": [{"type": "output_text", "text": text}]}, TEXTS),
    st.builds(lambda text: {"type": "function_call_output", "call_id": "c", "output": text}, TEXTS),
    st.builds(lambda text: {"type": "reasoning", "id": "rs", "summary": [[{}], text]}, TEXTS),
)
FIELDS = st.fixed_dictionaries(
    {"model": st.just("m")},
    optional={"stream": st.booleans(), "instructions": TEXTS, "metadata": st.just({"input": [{}]})},
)
BEHIND = st.fixed_dictionaries({}, optional={"tools": st.just([{}]), "user": TEXTS, "store": st.booleans()})
INSERTS = st.sampled_from(
    [
        b",",
        b"{}",
        b"]",
        b"}",
        b" ",
        b',"input":[]',
        b',"model":"x"',
        b"\xff",
        b'"',
        b"1.0",
        b"1234567890123456789",
        b"",
    ]
)


def body(before: dict[str, Any], items: list[Any], behind: dict[str, Any]) -> bytes:
    """Write a request with its input between other fields."""
    return orjson.dumps({**before, "input": items, **behind})


@st.composite
def conversations(draw: st.DrawFn) -> list[bytes]:
    """Return bodies of which each repeats more or less of an earlier one, and may be broken anywhere."""
    before, items, bodies = draw(FIELDS), draw(st.lists(ITEMS, max_size=3)), []
    for _ in range(draw(st.integers(2, 5))):
        written = body(before, items, draw(BEHIND))
        match draw(st.sampled_from(["whole", "whole", "whole", "broken", "cut", "spaced"])):
            case "broken":
                at = draw(st.integers(0, len(written)))
                written = written[:at] + draw(INSERTS) + written[at + draw(st.integers(0, 2)) :]
            case "cut":
                written = written[: draw(st.integers(0, len(written)))]
            case "spaced":
                written = orjson.dumps(orjson.loads(written), option=orjson.OPT_INDENT_2)
        bodies.append(written)
        items = items[: draw(st.integers(max(0, len(items) - 1), len(items)))]
        items = items + draw(st.lists(ITEMS, max_size=2))
        if not draw(st.integers(0, 9)):
            before = draw(FIELDS)
    return bodies


def told(read: Readable | Opaque) -> Any:
    """Return all that there is to know of what was read."""
    if isinstance(read, Opaque):
        return read
    turn: TurnRequest = read.turn
    names = ("fields", "input", "marks", "model", "settings", "stream", "size", "root", "has_model_output")
    return [*(getattr(turn, name) for name in names), list(turn.items), len(turn.items), type(read.answer)]


@given(conversations())
def test_what_is_remembered_changes_nothing(bodies: list[bytes]) -> None:
    """Whole bodies and broken ones, grown, rewound or edited: read alike, to the last mark."""
    remembering = Responses()
    for each in bodies:
        assert told(remembering.decode(each)) == told(Responses().decode(each))


@given(st.lists(ITEMS, min_size=1, max_size=4), st.lists(ITEMS, max_size=3), FIELDS, BEHIND, BEHIND)
def test_a_history_that_grew_is_read_at_its_end(
    old: list[Any], new: list[Any], before: dict[str, Any], behind: dict[str, Any], later: dict[str, Any]
) -> None:
    """Of the items that came before only the marks are there; what follows any of them is what it was."""
    remembering = Responses()
    remembering.decode(body(before, old, behind))
    read = remembering.decode(body(before, old + new, later))
    fresh = Responses().decode(body(before, old + new, later))
    assert isinstance(read, Readable)
    assert isinstance(fresh, Readable)
    assert repr(read.turn.items) == f"<History {len(old)} + {len(new)}>"
    for start in range(len(old) + len(new) + 1):
        assert read.turn.items[start:] == fresh.turn.items[start:]
    assert read.turn.items[-1] == fresh.turn.items[-1]


def body_of(*items: bytes) -> bytes:
    """Return a request's body."""
    return b'{"model":"m","input":[' + b",".join(items) + b"]}"


@pytest.mark.parametrize("number", [b"1234567890123456789", b"-9223372036854775808", b"18446744073709551615"])
def test_a_beginning_with_a_long_integer_is_read_each_time(number: bytes) -> None:
    """Whether such an integer counts depends on how the rest of the body is written."""
    first = b'{"role":"user","content":"hi","n":' + number + b"}"
    second = b'{"role":"user","content":"\\u00e9"}'
    front_end = Responses()
    assert isinstance(front_end.decode(body_of(first)), Readable)
    assert isinstance(Responses().decode(body_of(first, second)), Opaque)
    assert isinstance(front_end.decode(body_of(first, second)), Opaque)


def test_a_beginning_of_very_many_items_is_not_kept() -> None:
    """What is remembered of all bodies together stays within megabytes."""
    item = b'{"role":"user","content":""}'
    for count, kept in ((10, True), (20_000, False)):
        front_end = Responses()
        front_end.decode(body_of(*[item] * count))
        read = front_end.decode(body_of(*[item] * count, item))
        assert isinstance(read, Readable)
        assert isinstance(read.turn.items, History) is kept


def test_a_history_is_a_sequence() -> None:
    """Any item and any stretch of it can be had."""
    front_end, items = Responses(), [b'{"role":"user","content":"%d"}' % n for n in range(4)]
    front_end.decode(body_of(*items[:2]))
    read = front_end.decode(body_of(*items))
    assert isinstance(read, Readable)
    history = read.turn.items
    assert isinstance(history, History)
    whole = tuple(history)
    for stretch in (slice(None), slice(2), slice(1, None), slice(2, None), slice(-1, None), slice(None, None, -1)):
        assert history[stretch] == whole[stretch]
    assert repr(history) == "<History 2 + 2>"


def test_the_beginnings_of_the_last_bodies_are_kept() -> None:
    """One that is older than so many others is read anew."""
    front_end = Responses()
    bodies = [body_of(b'{"role":"user","content":"%d"}' % n) for n in range(65)]
    for each in bodies:
        front_end.decode(each)
    for each, kept in ((bodies[0], False), (bodies[-1], True)):
        read = front_end.decode(each[:-2] + b',{"role":"user","content":"on"}]}')
        assert isinstance(read, Readable)
        assert isinstance(read.turn.items, History) is kept


def test_bodies_may_be_read_on_several_threads() -> None:
    """Eight at once read conversations that grow in turns as one that remembers nothing.

    A tracer, as coverage's is, would take a lock at every line: threads that queue for it take minutes, and meet
    nowhere else.
    """
    front_end = Responses()
    texts = [b",".join(b'{"role":"user","content":"%d"}' % each for each in range(n)) for n in range(1, 41)]
    bodies = [body_of(b'{"role":"user","content":"of %d"},' % of + text) for text in texts for of in range(100)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(8, initializer=sys.settrace, initargs=(None,)) as threads:
            read = list(threads.map(front_end.decode, bodies))
    finally:
        sys.setswitchinterval(interval)
    for each, written in zip(read, bodies, strict=True):
        alone = Responses().decode(written)
        assert isinstance(each, Readable)
        assert isinstance(alone, Readable)
        assert each.turn.marks == alone.turn.marks
