"""Messages compressed whole and cut afterwards, read by the library's own receiver."""

import asyncio
import random
import zlib

import pytest
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Frame, Opcode

from proxy.core.message import Message
from proxy.upstream.deflate import ZLIB, Deflate

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
    ours = Deflate(not takeover, not takeover, 15, 15, ZLIB)
    theirs = PerMessageDeflate(not takeover, not takeover, 15, 15, {})
    for message in (told(2000), told(100), told(2000), told(LARGE // 5), Message.of({})):
        frames = [ours.encode(frame) for frame in cut(await ours.compress(message), size)]
        assert [frame.rsv1 for frame in frames] == [True] + [False] * (len(frames) - 1)
        assert b"".join(bytes(theirs.decode(frame).data) for frame in frames) == bytes(message)


def test_control_frames_are_left_alone() -> None:
    """They may come between two pieces of a message."""
    ping = Frame(Opcode.PING, b"1")
    assert Deflate(False, False, 15, 15, {}).encode(ping) is ping  # noqa: FBT003


async def test_cutting_costs_no_compression() -> None:
    """The pieces of a message hold what one frame would have held, to the byte."""
    message = told(20_000)
    ours = Deflate(False, False, 15, 15, ZLIB)  # noqa: FBT003
    one = zlib.compressobj(ZLIB["level"], wbits=-15, memLevel=ZLIB["memLevel"])
    for each in (message, told(500)):
        whole = one.compress(bytes(each)) + one.flush(zlib.Z_SYNC_FLUSH)
        assert len(await ours.compress(each)) == len(whole) - 4


async def test_a_large_message_leaves_the_loop_free() -> None:
    """While it is compressed, others go on."""
    ours = Deflate(False, False, 15, 15, ZLIB)  # noqa: FBT003
    async with asyncio.TaskGroup() as group:
        compressing = group.create_task(ours.compress(told(1_000_000)))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not compressing.done()


@pytest.mark.parametrize("takeover", [True, False])
async def test_members_are_ordered_where_that_helps(*, takeover: bool) -> None:
    """The first message's tools come last, so that the next finds them; without context takeover none would."""
    ours = Deflate(not takeover, not takeover, 15, 15, ZLIB)
    theirs = PerMessageDeflate(not takeover, not takeover, 15, 15, {})
    message = Message.of({"tools": "t" * 2000, "input": "i" * 40_000})
    frame = ours.encode(Frame(Opcode.TEXT, await ours.compress(message)))
    assert bytes(theirs.decode(frame).data) == message.ordered(sorted(message.places, reverse=not takeover))
