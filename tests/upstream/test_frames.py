"""Messages that are read without the library's parser: the same ones that it would read."""

import random
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from websockets.client import ClientProtocol
from websockets.exceptions import PayloadTooBig, ProtocolError
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import DATA_OPCODES, Close, Frame, Opcode
from websockets.protocol import CLOSING, OPEN
from websockets.uri import parse_uri

from proxy.upstream.deflate import Deflate
from proxy.upstream.frames import Frames

MOST = 2**20
SIZES = (*range(20), 100, 125, 126, 127, 200, 300, 400, 1000, 1008, 1009, 5000, 65535, 65536, 70_000)


OPENING = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n"


class Reader:
    """What reads what upstream sends, its WebSocket just open: the library, and `Frames` before it if *lone*."""

    def __init__(self, *extensions: Deflate, most: int = MOST, lone: bool = True) -> None:
        self.protocol = ClientProtocol(parse_uri("ws://upstream/"), state=OPEN, max_size=most)
        self.protocol.extensions = list(extensions)
        self.messages: list[bytes] = []
        self.alone = 0
        self._lone = lone
        self._frames = Frames(self.protocol, most)
        self._frames.follow(OPENING)
        self._begun = b""

    def read(self, data: bytes) -> bool:
        """Read *data*; return whether it was a message alone."""
        message = self._frames.alone(data) if self._lone else None
        if message is not None:
            self.messages.append(message)
            self.alone += 1
            return True
        self._frames.follow(data)
        self.protocol.receive_data(data)
        for frame in self.protocol.events_received():
            assert isinstance(frame, Frame)
            if frame.opcode in DATA_OPCODES:
                self._begun += frame.data
                if frame.fin:
                    self.messages.append(self._begun)
                    self._begun = b""
        return False

    @property
    def state(self) -> tuple[Any, ...]:
        """What can be seen of it; the masks of pongs are chance."""
        return self.messages, self.protocol.state, len(self.protocol.data_to_send()), str(self.protocol.parser_exc)


def written(*frames: Frame, deflate: PerMessageDeflate | None = None) -> list[bytes]:
    """Return *frames* as upstream sends them."""
    return [frame.serialize(mask=False, extensions=[deflate] if deflate else []) for frame in frames]


def text(data: bytes, *, fin: bool = True) -> Frame:
    """Return a message, or its beginning."""
    return Frame(Opcode.TEXT, data, fin)


def said(chance: random.Random) -> Iterator[Frame]:
    """Yield the frames of one message, with control frames between them, or a control frame."""
    data = bytes(chance.choices(b'{"type":"response.output_text.delta"} \xc3\xa9', k=chance.choice(SIZES)))
    opcode = chance.choice((Opcode.TEXT, Opcode.TEXT, Opcode.TEXT, Opcode.BINARY))
    match chance.randrange(6):
        case 0:
            yield Frame(chance.choice((Opcode.PING, Opcode.PONG)), data[:125])
        case 1:
            cut = chance.randint(0, len(data))
            yield Frame(opcode, data[:cut], fin=False)
            if chance.random() < 0.5:
                yield Frame(Opcode.PING, b"?")
            if chance.random() < 0.5:
                yield Frame(Opcode.CONT, b"", fin=False)
            yield Frame(Opcode.CONT, data[cut:])
        case _:
            yield Frame(opcode, data)


def cut(chance: random.Random, frames: Sequence[bytes]) -> Iterator[bytes]:
    """Yield what arrives at a time: mostly a frame, else several, or parts of some."""
    rest = b"".join(frames)
    ends = [sum(map(len, frames[: n + 1])) for n in range(len(frames))]
    at = 0
    while at < len(rest):
        end = next(each for each in ends if each > at)
        if chance.random() < 0.2:
            end = min(len(rest), at + chance.choice((1, 2, 3, 4, 50, end - at + 1, end - at + 5, 100_000)))
        yield rest[at:end]
        at = end


TAKEOVER = {"plain": None, "compressed": True, "compressed one by one": False}


@pytest.mark.parametrize("kind", TAKEOVER)
@pytest.mark.parametrize("seed", range(40))
def test_whatever_arrives_is_read_as_the_library_reads_it(seed: int, kind: str) -> None:
    """Frames of every kind and size, compressed or not, cut anywhere: the same messages, the same state."""
    chance, takeover = random.Random(seed), TAKEOVER[kind]
    frames = [frame for _ in range(200) for frame in said(chance)]
    upstream = None if takeover is None else PerMessageDeflate(False, not takeover, 15, 15)  # noqa: FBT003
    chunks = list(cut(chance, written(*frames, deflate=upstream)))
    granted = [[] if takeover is None else [Deflate(not takeover, False, 15, 15)] for _ in range(2)]  # noqa: FBT003
    reader, library = Reader(*granted[0]), Reader(*granted[1], lone=False)
    for chunk in chunks:
        reader.read(chunk)
        library.read(chunk)
    assert reader.state == library.state
    assert reader.alone > 5


def test_any_cut_is_found_again() -> None:
    """Wherever a stream is cut in two, what is behind the cut is not taken for a frame unless it is one."""
    inner = b"".join(written(text(b"{}"), text(bytes(200)), text(b"{}")))
    looks_like_one = text(b"{}" + bytes(0x8102 - 2))  # behind half its header
    stream = b"".join(written(looks_like_one, text(inner), Frame(Opcode.PING, inner[:100]), text(inner * 400)))
    begins = len(written(looks_like_one)[0])
    for place in (*range(10), *range(begins, begins + len(inner) + 120)):
        reader, library = Reader(), Reader(lone=False)
        for part in (stream[:place], stream[place : place + 4], stream[place + 4 :]):
            reader.read(part)
            library.read(part)
        assert reader.state == library.state


def test_frames_behind_the_answer_to_the_upgrade() -> None:
    """They may come with it, or its end alone: before it nothing is a frame."""
    whole = OPENING + b"".join(written(text(b"{}")))
    for place in range(1, len(whole)):
        frames = Frames(ClientProtocol(parse_uri("ws://upstream/"), state=OPEN, max_size=MOST), MOST)
        frames.follow(whole[:place])
        ended = place in (len(OPENING), len(whole))
        assert (frames.alone(b"\x81\x02[]") == b"[]") is ended, place
        frames.follow(whole[place:])
        assert frames.alone(b"\x81\x02[]") == b"[]"


def test_a_message_within_a_message_is_refused_as_the_library_does() -> None:
    """A whole one between the fragments of another breaks the protocol: the parser has to see it."""
    reader = Reader()
    begun, whole, ping, end = written(
        text(b"{", fin=False), text(b"{}"), Frame(Opcode.PING, b""), Frame(Opcode.CONT, b"}")
    )
    for data in (begun, ping, whole):
        assert not reader.read(data)
    assert isinstance(reader.protocol.parser_exc, ProtocolError)
    reader = Reader()
    assert [reader.read(data) for data in (begun, ping, end, whole)] == [False, False, False, True]
    assert reader.messages == [b"{}", b"{}"]


def test_nothing_is_read_once_a_close_was_seen() -> None:
    """Behind it there are no messages (RFC 6455, section 5.5.1)."""
    reader = Reader()
    reader.read(written(Frame(Opcode.CLOSE, Close(1000, "").serialize()))[0])
    assert reader.protocol.state is CLOSING
    assert not reader.read(written(text(b"{}"))[0])
    assert reader.messages == []


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x81",
        b"\x81\x7e",
        b"\x81\x7e\x00",
        b"\x01\x02{}",  # the beginning of a message
        b"\x80\x02{}",  # the end of one
        b"\x82\x02{}",  # binary
        b"\xa1\x02{}",  # a reserved bit
        b"\xc1\x02{}",  # compressed, which was not agreed on
        b"\x81\x82\0\0\0\0{}",  # masked
        b"\x81\xfe\x00\x02{}",  # masked, or so it says
        b"\x81\x02{}\x81",  # more behind it
        b"\x89\x02{}",
        b"\x81\x7f\x00\x00\x00\x00\x00\x00\x00\x02{}",
        b"\x81\xff" + bytes(255),  # masked, with a length in eight bytes
        b"\x81\x80" + bytes(128),  # masked, of no length
    ],
)
def test_what_is_anything_else_is_left_to_the_library(data: bytes) -> None:
    """Another kind of frame, or not exactly one."""
    assert not Reader().read(data)


def test_what_may_be_too_large_is_left_to_the_library() -> None:
    """It tells upstream so. What may inflate to more than the limit is counted with what it may become."""
    (small,) = written(text(bytes(100)))
    assert Reader().read(small)
    assert not Reader(most=1000).read(small)


def test_a_block_that_a_flush_would_fill_up_is_told_by_the_library() -> None:
    """It lacks its last bytes, and takes those of the flush for its own: the library finds that, not we."""
    said = b"x" * 3000
    head = b"\x00" + len(said).to_bytes(2, "little") + (0xFFFF ^ len(said)).to_bytes(2, "little")
    payload = head + said[:-4]
    reader = Reader(Deflate(False, False, 15, 15), most=2**26)  # noqa: FBT003
    assert not reader.read(b"\xc1\x7e" + len(payload).to_bytes(2) + payload)
    assert isinstance(reader.protocol.parser_exc, PayloadTooBig)


def test_what_cannot_be_inflated_is_told_by_the_library() -> None:
    """It finds the same fault in it, and says so to upstream."""
    reader = Reader(Deflate(False, False, 15, 15))  # noqa: FBT003
    assert not reader.read(b"\xc1\x05\xff\xff\xff\xff\xff")
    assert isinstance(reader.protocol.parser_exc, ProtocolError)
