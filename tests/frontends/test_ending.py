"""How a stream ended: what says so, however it is written and cut, and what only looks like it."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.frontends.ending import Ending

SAID = b'event: response.created\ndata: {"type":"response.created","response":{"error":null}}\n\n'
PIECE = b'data: {"id":"c","choices":[{"index":0,"delta":{"content":"x"},"finish_reason":null}]}\n\n'

STREAMS = {
    "completed": (
        "responses",
        SAID + b'event: response.completed\ndata: {"type":"response.completed"}\n\n',
        "completed",
    ),
    "spaced": ("responses", SAID + b'data: {"type" : "response.completed", "response": {}}\r\n\r\n', "completed"),
    "type behind": (
        "responses",
        SAID + b'data: {"sequence_number":7,"type":"response.completed"}\n\n',
        "completed",
    ),
    "incomplete": ("responses", SAID + b'data: {"type":"response.incomplete"}\n\n', "incomplete"),
    "failed": ("responses", SAID + b'data: {"type":"response.failed"}\n\n', "failed"),
    "no end": ("responses", SAID, None),
    "nothing": ("responses", b"", None),
    "another API's": ("responses", SAID + b"data: [DONE]\n\n", None),
    "done": ("chat", PIECE + b"data: [DONE]\n\n", "completed"),
    "done, tight": ("chat", PIECE + b"data:[DONE]", "completed"),
    "stop": ("chat", PIECE + PIECE.replace(b"null", b'"stop"'), "completed"),
    "length": ("chat", PIECE + PIECE.replace(b"null", b' "length"') + b"data: [DONE]\n\n", "incomplete"),
    "filtered": ("chat", PIECE.replace(b":null", b' : "content_filter"'), "incomplete"),
    "error": ("chat", b'data: {"error":{"message":"no"}}\n\ndata: [DONE]\n\n', "failed"),
    "error as a reason": ("chat", PIECE.replace(b"null", b'"error"') + b"data: [DONE]\n\n", "failed"),
    "no reason": ("chat", PIECE + PIECE.replace(b"null", b'""'), None),
    "only pieces": ("chat", PIECE * 3, None),
}

MENTIONS = [
    ("responses", rb'data: {"type":"response.output_text.delta","delta":"{\"type\":\"response.completed\"}"}'),
    ("responses", rb'data: {"type":"response.output_text.delta","delta":"\nevent: response.completed\n"}'),
    ("responses", b'data: {"type":"response.output_text.delta","delta":"response.completed"}'),
    ("chat", rb'data: {"choices":[{"delta":{"content":"\ndata: [DONE]\n"}}]}'),
    ("chat", rb'data: {"choices":[{"delta":{"content":"{\"finish_reason\": \"stop\"}"}}]}'),
    ("chat", rb'data: {"choices":[{"delta":{"content":"\ndata: {\"error\":{"}}]}'),
    ("chat", b'data: {"choices":[{"delta":{"content":"x"},"error":""}]}'),
]


@pytest.mark.parametrize(("front_end", "stream", "status"), STREAMS.values(), ids=STREAMS)
def test_a_sign_is_seen_wherever_the_stream_is_cut(front_end: str, stream: bytes, status: str | None) -> None:
    """In one piece, in two at any place, and byte by byte."""
    for at in range(len(stream) + 1):
        ending = Ending(front_end)
        ending.add(stream[:at])
        ending.add(stream[at:])
        assert ending.status == status
    ending = Ending(front_end)
    for each in stream:
        ending.add(bytes([each]))
    assert ending.status == status


@given(stream=st.sampled_from(list(STREAMS.values())), cuts=st.lists(st.integers(0, 300), max_size=8))
def test_any_pieces_say_the_same(stream: tuple[str, bytes, str | None], cuts: list[int]) -> None:
    """However many there are, and some of them empty."""
    front_end, text, status = stream
    ending = Ending(front_end)
    places = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    for start, end in pairwise(places):
        ending.add(text[start:end])
    assert ending.status == status


@pytest.mark.parametrize(("front_end", "event"), MENTIONS)
def test_what_the_model_says_is_no_sign(front_end: str, event: bytes) -> None:
    """It may talk about streams of events, and about this program."""
    ending = Ending(front_end)
    ending.add(PIECE + event + b"\n\n")
    assert ending.status is None


def test_a_fault_is_not_mended_by_what_follows() -> None:
    """Gateways end every stream with the same record."""
    ending = Ending("chat")
    ending.add(b'data: {"error":"no"}\n\n')
    ending.add(PIECE)
    ending.add(PIECE.replace(b"null", b'"stop"') + b"data: [DONE]\n\n")
    assert ending.status == "failed"


def test_no_more_is_kept_than_a_sign_is_long() -> None:
    """The stream passes; it is not gathered."""
    ending = Ending("responses")
    for _ in range(10):
        ending.add(bytes(1_000_000))
    assert len(ending._kept) < 100
