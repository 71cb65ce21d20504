"""Messages compressed whole and cut afterwards, read by the library's own receiver."""

import asyncio
import random
import tracemalloc
import zlib
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Frame, Opcode

from proxy.core.message import Message
from proxy.upstream.deflate import Deflate

LARGE = 300_000


def told(words: int, seed: int = 1) -> Message:
    """Return a message whose text is as compressible as an agent's history."""
    rng = random.Random(seed)
    vocabulary = ["".join(rng.choices("abcdefghijklmnop", k=rng.randint(2, 9))) for _ in range(2000)]
    return Message.of({"input": " ".join(rng.choices(vocabulary, k=words))})


def cut(data: bytes, size: int) -> list[Frame]:
    """Return the frames of a message whose payload is *data*, *size* bytes each."""
    pieces = [data[start : start + size] for start in range(0, len(data), size)]
    return [
        Frame(Opcode.CONT if index else Opcode.TEXT, piece, fin=index == len(pieces) - 1)
        for index, piece in enumerate(pieces)
    ]


@pytest.mark.parametrize("takeover", [True, False])
@pytest.mark.parametrize("size", [700, 4096, 10**9])
async def test_what_was_cut_is_read_as_it_was(size: int, *, takeover: bool) -> None:
    """Message by message, with context takeover and without, on the loop and on a thread."""
    ours = Deflate(not takeover, not takeover, 15, 15, {})
    theirs = PerMessageDeflate(not takeover, not takeover, 15, 15, {})
    for message in (told(2000), told(100), told(2000), told(LARGE // 5), Message.of({})):
        frames = [ours.encode(frame) for frame in cut(await ours.compress(message), size)]
        assert [frame.rsv1 for frame in frames] == [True] + [False] * (len(frames) - 1)
        assert b"".join(bytes(theirs.decode(frame).data) for frame in frames) == bytes(message)


def inflated(decoder: "zlib._Decompress", payload: bytes) -> bytes:
    """Return what *decoder* makes of *payload*, a little at a time: it looks back no further than its window."""
    pieces, left = [], payload + b"\x00\x00\xff\xff"
    while left:
        pieces.append(decoder.decompress(left, 64))
        left = decoder.unconsumed_tail
    while pieces[-1]:
        pieces.append(decoder.decompress(b"", 64))
    return b"".join(pieces)


WORDS = bytes(told(20_000)).decode()
SIZES = st.one_of(st.sampled_from([0, 500, 9000, 32_506, 32_768]), st.integers(0, 40_000))
PIECE = st.one_of(st.none(), st.builds(lambda begin, size: WORDS[begin:][:size], st.integers(0, 40_000), SIZES))
"""A member's text, much of which other pieces have too; or no such member."""


@given(
    turns=st.lists(st.fixed_dictionaries(dict.fromkeys(("instructions", "tools", "input"), PIECE)), max_size=6),
    again=st.integers(1, 3),
    bits=st.tuples(st.integers(9, 15), st.integers(9, 15)),
    takeover=st.tuples(st.booleans(), st.booleans()),
)
def test_upstream_reads_what_was_sent(
    turns: list[dict[str, str | None]], again: int, bits: tuple[int, int], takeover: tuple[bool, bool]
) -> None:
    """Byte for byte, whatever comes after what, with a window no larger than was negotiated, or with none."""

    async def send() -> None:
        ours = Deflate(not takeover[0], not takeover[1], *bits, {})
        decoder = zlib.decompressobj(wbits=-bits[1])
        for fields in turns * again:
            message = Message.of({name: text for name, text in fields.items() if text is not None})
            if not takeover[1]:
                decoder = zlib.decompressobj(wbits=-bits[1])
            data = inflated(decoder, await ours.compress(message))
            assert data in {bytes(message), *map(message.ordered, permutations(message.places))}

    asyncio.run(send())


def test_control_frames_are_left_alone() -> None:
    """They may come between two pieces of a message."""
    ping = Frame(Opcode.PING, b"1")
    assert Deflate(False, False, 15, 15, {}).encode(ping) is ping  # noqa: FBT003


async def test_cutting_costs_no_compression() -> None:
    """The pieces of a message hold what one frame would have held, to the byte."""
    ours = Deflate(False, False, 15, 15, {})  # noqa: FBT003
    one = zlib.compressobj(7, wbits=-15, memLevel=5)
    for each in (told(20_000), told(15_000, 2), told(15_000, 3)):
        whole = one.compress(bytes(each)) + one.flush(zlib.Z_SYNC_FLUSH)
        assert len(await ours.compress(each)) == len(whole) - 4


async def test_what_upstream_was_told_costs_next_to_nothing_again() -> None:
    """As long as it is in the last 32 KB that were sent, in however many messages, and none longer.

    How upstream compresses what it sends is another matter.
    """
    ours = Deflate(True, False, 9, 15, {})  # noqa: FBT003
    message, other, long = told(1500), told(2500, 2), told(20_000, 3)
    first = len(await ours.compress(message))
    await ours.compress(other)
    assert len(await ours.compress(message)) < first / 50
    await ours.compress(long)
    assert len(await ours.compress(message)) > first * 0.9
    await ours.compress(Message.of({}))
    assert len(await ours.compress(message)) < first / 50


def sized(size: int) -> Message:
    """Return a message of *size* bytes: zeros and ones, among which zlib finds much and searches long."""
    rng = random.Random(1)
    return Message.of({"input": "".join(rng.choices("01", k=size - len(Message.of({"input": ""}))))})


@pytest.mark.parametrize(("size", "level"), [(32_767, 8), (32_768, 8), (32_769, 7)])
async def test_a_message_that_fits_the_window_is_searched_harder(size: int, level: int) -> None:
    """Its size bounds the time that takes; level 9 would take three times as long for such a table."""
    sizes = {}
    for each in (7, 8, 9):
        encoder = zlib.compressobj(each, wbits=-15, memLevel=5)
        sizes[each] = len(encoder.compress(bytes(sized(size))) + encoder.flush(zlib.Z_SYNC_FLUSH)) - 4
    assert len(set(sizes.values())) == 3
    assert len(await Deflate(False, False, 15, 15, {}).compress(sized(size))) == sizes[level]  # noqa: FBT003


async def test_settings_in_a_block_of_their_own_cost_less() -> None:
    """Than in one with what is new, and upstream reads both alike: the cut takes no flush."""
    ours = Deflate(False, False, 15, 15, {})  # noqa: FBT003
    theirs = PerMessageDeflate(False, False, 15, 15, {})  # noqa: FBT003
    one = zlib.compressobj(9, wbits=-15, memLevel=5)
    settings = bytes(told(3500)).decode()
    for number in range(1, 5):
        message = Message.of({"instructions": settings, "input": bytes(told(400, number)).decode()})
        data = await ours.compress(message)
        whole = one.compress(bytes(message)) + one.flush(zlib.Z_SYNC_FLUSH)
        assert number == 1 or len(data) < len(whole) - 4 - 15
        assert b"\x00\x00\xff\xff" not in data
        assert bytes(theirs.decode(ours.encode(Frame(Opcode.TEXT, data))).data) == bytes(message)


async def test_a_connection_at_rest_holds_the_window_and_no_more() -> None:
    """The state of zlib itself would be 150 KB for each."""
    message = told(8000)
    await Deflate(False, False, 15, 15, {}).compress(message)  # noqa: FBT003
    tracemalloc.start()
    try:
        decoder = zlib.decompressobj(wbits=-15)
        inflating = tracemalloc.get_traced_memory()[0]  # with zlib-ng that has a window from the start
        ours = Deflate(False, False, 15, 15, {})  # noqa: FBT003
        await ours.compress(message)
        assert 32_768 < tracemalloc.get_traced_memory()[0] - 2 * inflating < 40_000
        assert not decoder.eof
    finally:
        tracemalloc.stop()


async def test_a_large_message_leaves_the_loop_free() -> None:
    """While it is compressed, others go on."""
    ours = Deflate(False, False, 15, 15, {})  # noqa: FBT003
    async with asyncio.TaskGroup() as group:
        compressing = group.create_task(ours.compress(told(1_000_000)))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not compressing.done()


@pytest.mark.parametrize(("size", "at_once"), [(1000, True), (256 * 1024 - 1, True), (256 * 1024, False)])
async def test_a_small_message_does_not_wait_for_a_thread(size: int, *, at_once: bool) -> None:
    """Which takes longer than to compress it, and others may use all of them."""
    ours = Deflate(False, False, 15, 15, {})  # noqa: FBT003
    compressing = asyncio.get_running_loop().create_task(ours.compress(sized(size)))
    await asyncio.sleep(0)
    assert compressing.done() is at_once
    await compressing


@pytest.mark.parametrize("takeover", [True, False])
async def test_members_are_ordered_where_that_helps(*, takeover: bool) -> None:
    """The first message's tools come last, so that the next finds them; without context takeover none would."""
    ours = Deflate(not takeover, not takeover, 15, 15, {})
    theirs = PerMessageDeflate(not takeover, not takeover, 15, 15, {})
    message = Message.of({"tools": bytes(told(2000)).decode(), "input": bytes(told(5000, 2)).decode()})
    moved, kept = message.ordered(["input", "tools"]), bytes(message)
    for expected in (moved, kept) if takeover else (kept, kept):
        frame = ours.encode(Frame(Opcode.TEXT, await ours.compress(message)))
        assert bytes(theirs.decode(frame).data) == expected
