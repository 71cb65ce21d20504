"""The order of a message's members: what it is in each case, and that zlib agrees."""

import itertools
import random
import re
import zlib
from base64 import b64encode
from functools import cache
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.message import Message
from proxy.upstream.layout import Layout, _Past

WINDOW = 1 << 15


@cache
def noise(seed: str) -> str:
    """Return text in which nothing repeats."""
    return b64encode(random.Random(seed).randbytes(225_000)).decode()


def text(size: int, seed: str) -> str:
    """Return *size* characters of the text of *seed*."""
    return noise(seed)[:size]


def turn(number: int, *, instructions: int = 0, tools: int = 0, new: int = 1000, **more: Any) -> Message:
    """Return a turn of a session: settings of these sizes, and an input that is new."""
    fields: dict[str, Any] = {"type": "response.create", "model": "gpt-5.5"}
    if instructions:
        fields["instructions"] = text(instructions, "instructions")
    if tools:
        fields["tools"] = text(tools, "tools")
    return Message.of({**fields, **more, "input": text(new, f"input {number}")})


def order(written: bytes) -> str:
    """Return the first letters of the members that were moved: i(nstructions), t(ools), and n(ew input)."""
    names = {"instructions": "i", "tools": "t", "input": "n"}
    return "".join(names[name] for name in orjson.loads(written) if name in names)


def orders(*turns: Message) -> list[str]:
    """Return in which orders these *turns* are written, one after the other."""
    layout = Layout(WINDOW)
    return [order(layout.arrange(each).written) for each in turns]


def compressed(*turns: bytes) -> int:
    """Return what *turns* cost on a connection."""
    encoder = zlib.compressobj(7, wbits=-15, memLevel=5)
    return sum(len(encoder.compress(each) + encoder.flush(zlib.Z_SYNC_FLUSH)) for each in turns)


def test_settings_that_fit_stay_where_they_are() -> None:
    """The message's own order is as good as any: settings first, and what is new last."""
    assert orders(*(turn(n, instructions=6000, tools=12_000) for n in range(5))) == ["itn"] * 5


def test_a_long_history_goes_before_the_settings() -> None:
    """They are then the last that was said, and the next turn finds them."""
    layout, plain = Layout(WINDOW), []
    turns = [turn(n, tools=9000, new=300_000 if n == 0 else 1000) for n in range(4)]
    written = [layout.arrange(each).written for each in turns]
    plain = [bytes(each) for each in turns]
    assert [order(each) for each in written] == ["nt", "tn", "tn", "tn"]
    assert compressed(*plain) - compressed(*written) > 5000


def test_a_long_result_costs_a_part_of_the_settings_and_not_all() -> None:
    """Settings of 27 KB leave room for 5 KB; 9 KB push out what comes first, so the rest takes its place."""
    turns = [turn(n, instructions=9000, tools=18_000, new=9000 if n == 3 else 1000) for n in range(7)]
    assert orders(*turns) == ["itn", "itn", "itn", "itn", "tin", "tin", "tin"]


def test_settings_beyond_the_window_are_found_in_part() -> None:
    """Each message begins with what the one before ended with: one of the two is found each time."""
    turns = [turn(n, instructions=26_000, tools=25_000) for n in range(6)]
    layout = Layout(WINDOW)
    written = [layout.arrange(each).written for each in turns]
    settings = [order(each).replace("n", "") for each in written]
    assert settings == ["ti", "it", "ti", "it", "ti", "it"]  # the larger first at the end
    assert compressed(*written) < 0.65 * compressed(*(bytes(each) for each in turns))


def test_what_is_hopeless_stays_as_it_is() -> None:
    """Tools that are larger than the window are never found, wherever they are."""
    turns = [turn(n, tools=40_000) for n in range(3)]
    assert orders(*turns) == ["tn"] * 3


def test_the_small_members_come_first() -> None:
    """In the order that they have."""
    more = {f"extra_{n}": text(1500, str(n)) for n in range(5)}
    written = Layout(WINDOW).arrange(turn(1, instructions=2000, tools=3000, new=50_000, **more)).written
    assert list(orjson.loads(written)) == ["type", "model", *more, "input", "instructions", "tools"]


@pytest.mark.parametrize("front", [10, 1500])
@pytest.mark.parametrize("beyond", range(-3, 4))
def test_the_window_ends_where_zlib_says(beyond: int, front: int) -> None:
    """Tools one byte too far back are lost: to the layout, which then goes by the instructions, and to zlib."""
    reach, small = WINDOW - 262, dict[str, Any](metadata=text(front, "metadata"))
    tools = 5000
    between = reach - len(turn(1, tools=tools, new=0, **small)) + beyond
    first, second = turn(1, tools=tools, new=between, **small), turn(2, tools=tools, new=30_000, **small)
    layout = Layout(WINDOW)
    layout.arrange(turn(0, tools=tools, new=0, **small))  # so that what follows is found
    encoder = zlib.compressobj(wbits=-15, memLevel=9)
    for each in (bytes(turn(0, tools=tools, new=0, **small)), layout.arrange(first).written):
        encoder.compress(each)
        encoder.flush(zlib.Z_SYNC_FLUSH)
    fits = len(encoder.compress(bytes(second)) + encoder.flush()) < len(second) * 0.75 - 1000
    assert order(layout.arrange(second).written) == ("tn" if beyond <= 0 else "nt")
    assert fits == (beyond <= 0)


@pytest.mark.parametrize("beyond", [0, 1])
def test_a_message_without_tools_is_as_far_to_go(beyond: int) -> None:
    """All of it lies between, its small members too."""
    small: dict[str, Any] = {"metadata": text(1500, "metadata")}
    first = turn(1, tools=5000, new=0)
    between = WINDOW - 262 + beyond - len(first) - len(turn(2, new=0, **small))
    layout = Layout(WINDOW)
    for each in (turn(0, tools=5000, new=0), first, turn(2, new=between, **small)):
        layout.arrange(each)
    assert order(layout.arrange(turn(3, tools=5000, new=30_000)).written) == ("nt" if beyond else "tn")


def test_a_message_without_input_is_ordered_too() -> None:
    """Instructions alone make a turn."""
    message = Message.of({"type": "response.create", "instructions": text(2000, "x")})
    assert Layout(WINDOW).arrange(message).written == bytes(message)


def blocks(message: Message, layout: Layout) -> list[str]:
    """Return which members are in each block of *message*, by their letters."""
    written, cuts = layout.arrange(message)
    assert all(written[cut:].startswith((b'"instructions":', b'"tools":', b'"input":')) for cut in cuts)
    edges = [0, *cuts, len(written)]
    letters = {b"instructions": "i", b"tools": "t", b"input": "n"}
    parts = (written[begin:end] for begin, end in itertools.pairwise(edges))
    names = (re.findall(rb'"(instructions|tools|input)":', part) for part in parts)
    return ["".join(letters[name] for name in each) for each in names]


def test_settings_that_are_found_have_a_block_of_their_own() -> None:
    """From the second turn on, and only where they and what is new are long enough to pay for it."""
    layout = Layout(WINDOW)
    first, second, short = (turn(n, instructions=6000, tools=12_000, new=n) for n in (3000, 1500, 900))
    assert blocks(first, layout) == ["itn"]
    assert blocks(second, layout) == ["it", "n"]
    assert blocks(short, layout) == ["itn"]
    few = Layout(WINDOW)
    assert [blocks(turn(n, tools=7900, new=2000), few) for n in (1, 2)] == [["tn"], ["tn"]]


def test_what_is_new_may_come_first() -> None:
    """Before settings that are found it is cut off too; the last are lost here."""
    layout = Layout(WINDOW)
    cut = [blocks(turn(n, instructions=13_000, tools=14_000, new=9000), layout) for n in range(4)]
    assert cut == [["nit"], ["it", "n"], ["n", "t", "i"], ["ti", "n"]]


def test_settings_that_are_lost_go_with_what_is_new() -> None:
    """They are text, like it: of 26 and 25 KB one is found each time."""
    layout = Layout(WINDOW)
    cut = [blocks(turn(n, instructions=26_000, tools=25_000, new=2000), layout) for n in range(4)]
    assert cut == [["tin"], ["i", "tn"], ["t", "in"], ["i", "tn"]]


def test_settings_that_are_never_found_are_cut_off_from_nothing() -> None:
    """Tools that are larger than the window, or all settings of the first message."""
    layout = Layout(WINDOW)
    assert [blocks(turn(n, tools=40_000, new=2000), layout) for n in range(3)] == [["tn"]] * 3


@pytest.mark.parametrize(("settings", "new", "cut"), [(8000, 1000, True), (7999, 1000, False), (8000, 999, False)])
def test_a_block_is_worth_its_beginning(settings: int, new: int, *, cut: bool) -> None:
    """From so many bytes on, of either side."""
    past = _Past(WINDOW - 262, 10_000, {"tools": 1000})
    assert past.cuts(50, [("tools", settings), ("input", new)]) == ([50 + settings] if cut else [])


@pytest.mark.parametrize("before", [0, 2000])
def test_settings_are_found_as_far_back_as_the_window_reaches(before: int) -> None:
    """Counted from where they are in the message, behind its small members and whatever comes first."""
    past = _Past(32_506, 20_000, {"tools": 100})
    front = 32_506 - 19_900 - before
    order = [("input", 2000), ("tools", 9000)] if before else [("tools", 9000), ("input", 2000)]
    assert past.cuts(front, order) == [front + order[0][1]]
    assert past.cuts(front + 1, order) == []


SIZES = st.one_of(st.integers(0, 40), st.integers(900, 1100), st.integers(5000, 40_000))


@given(st.lists(st.tuples(SIZES, SIZES, SIZES), min_size=1, max_size=8), st.sampled_from([9, 12, 15]))
def test_nothing_is_lost_or_added(sizes: list[tuple[int, int, int]], bits: int) -> None:
    """Whatever the sizes and the window, each message says what it said."""
    layout = Layout(1 << bits)
    for number, (instructions, tools, new) in enumerate(sizes):
        message = turn(number, instructions=instructions, tools=tools, new=new)
        written = layout.arrange(message).written
        assert orjson.loads(written) == orjson.loads(bytes(message))
        assert len(written) == len(message)


@pytest.mark.parametrize("seed", range(40))
def test_it_never_costs_more_than_the_order_it_came_in(seed: int) -> None:
    """Sessions of any settings, with results of any length: at most the few bytes that references differ by."""
    rng = random.Random(seed)
    instructions, tools = rng.choice((0, 3000, 9000, 26_000)), rng.choice((2000, 18_000, 25_000, 46_000))
    opening = rng.choice((1000, 30_000, 200_000))
    turns = [
        turn(n, instructions=instructions, tools=tools, new=opening if n == 0 else rng.choice((300, 2000, 8000)))
        for n in range(12)
    ]
    layout = Layout(WINDOW)
    ordered = compressed(*(layout.arrange(each).written for each in turns))
    assert ordered < 1.005 * compressed(*(bytes(each) for each in turns))
