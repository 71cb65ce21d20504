"""Chat Completions: requests read as turns."""

from typing import Any

import orjson
import pytest

from proxy.core.delta import Mismatch
from proxy.frontends.base import Opaque, Readable
from proxy.frontends.chat import Chat
from proxy.frontends.chat_answer import StreamedCompletion, WholeCompletion

HELLO = {"role": "user", "content": "Hello"}


def decode(**fields: Any) -> Readable | Opaque:
    """Read a request that has *fields* too."""
    return Chat().decode(orjson.dumps({"model": "m", "messages": [HELLO], **fields}))


def test_a_request_is_read_as_a_turn() -> None:
    """The messages are the input; model and store go with every turn."""
    body = orjson.dumps({"model": "m", "messages": [HELLO], "temperature": 0, "stream": True})
    read = Chat().decode(body)
    assert isinstance(read, Readable)
    turn = read.turn
    assert turn.fields == {"model": "m", "store": False, "temperature": 0}
    assert turn.input == [item.raw for item in turn.items] == [{"type": "message", **HELLO}]
    assert (turn.model, turn.stream, turn.size) == ("m", True, len(body))
    assert turn.echo is not None


@pytest.mark.parametrize(
    ("stream", "answer"), [(True, StreamedCompletion), (False, WholeCompletion), (None, WholeCompletion)]
)
def test_an_agent_says_whether_it_streams(stream: bool | None, answer: type) -> None:  # noqa: FBT001
    """By default it does not."""
    read = decode(stream=stream)
    assert isinstance(read, Readable)
    assert isinstance(read.answer, answer)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"null",
        b"{}",
        b'{"messages":[]}',
        b'{"model":1,"messages":[]}',
        b'{"model":"m","stream":1}',
        b'{"model":"m","model":"m"}',
        b'{"model":"m","messages":"\\ud800"}',
    ],
)
def test_what_cannot_be_read_goes_in_its_own_bytes(body: bytes) -> None:
    """Upstream's answer to it is none of our business."""
    assert Chat().decode(body) == Opaque(Mismatch.NOT_DIFFABLE)


def test_what_has_no_equal_goes_in_its_own_bytes() -> None:
    """The model and the parameter are known by then."""
    assert decode(stop="x") == Opaque(Mismatch.UNSUPPORTED_FIELD, "m", "stop")
    assert decode(tool_choice="auto") == Opaque(Mismatch.UNSUPPORTED_FIELD, "m", "tool_choice")
    assert decode(tools=[]) == Opaque(Mismatch.UNSUPPORTED_FIELD, "m", "tools")
    assert decode(messages=[]) == Opaque(Mismatch.UNSUPPORTED_FIELD, "m", "messages")


def test_a_choice_of_tools_needs_tools() -> None:
    """Chat Completions refuse it without; the Responses API would take it."""
    tools = [{"type": "function", "function": {"name": "ls"}}]
    assert isinstance(decode(tools=tools, tool_choice="auto", parallel_tool_calls=True), Readable)
    assert decode(tool_choice="auto") == Opaque(Mismatch.UNSUPPORTED_FIELD, "m", "tool_choice")
    assert decode(tools=[]) == Opaque(Mismatch.UNSUPPORTED_FIELD, "m", "tools")
