"""What a front end writes beside an answer: signs of life, and the failure of a stream that has had only those."""

import orjson
import pytest

from proxy.errors import UpstreamError
from proxy.frontends.base import Answer, FrontEnd
from proxy.frontends.chat import Chat
from proxy.frontends.chat_answer import StreamedCompletion, WholeCompletion
from proxy.frontends.responses import Responses, StreamedAnswer, WholeAnswer

WORDS = {"message": "slow down", "type": "t", "param": None, "code": "c"}
REFUSED = UpstreamError(429, orjson.dumps({"error": WORDS}), {})


@pytest.mark.parametrize("front_end", [Responses(), Chat()])
def test_a_sign_of_life_is_a_comment(front_end: FrontEnd) -> None:
    """Every client of server-sent events skips those."""
    assert front_end.pulse("OpenAI/Python 3.52.0") == b": keepalive\n\n"


@pytest.mark.parametrize("agent", ["codex_exec/0.169.0 (Debian)", "codex_cli_rs/0.1", "Codex/1"])
def test_codex_gets_an_event_that_it_skips(agent: str) -> None:
    """It waits for events, not for bytes."""
    assert Responses().pulse(agent) == b'event: keepalive\ndata: {"type":"keepalive","sequence_number":0}\n\n'


@pytest.mark.parametrize(
    ("answer", "wanted"),
    [
        (StreamedAnswer(), b"event: error\ndata: "),
        (StreamedCompletion(usage=False, logprobs=False), b"data: "),
        (WholeAnswer(), b""),
        (WholeCompletion(logprobs=False), b""),
    ],
)
def test_a_failure_has_upstreams_words(answer: Answer, wanted: bytes) -> None:
    """As the last event of a stream, in the form that the SDKs raise; a whole answer has a body."""
    written = answer.failure(REFUSED)
    assert written.startswith(wanted)
    assert written.endswith(b"\n\n") is bool(wanted)
    assert orjson.loads(written.removeprefix(wanted))["error"] == WORDS


@pytest.mark.parametrize("body", [b"<html>", b"[]", b'{"error":"x"}', b'{"error":{}}'])
def test_a_failure_without_words_gets_some(body: bytes) -> None:
    """An empty error passes for none in the SDKs."""
    written = StreamedAnswer().failure(UpstreamError(502, body, {}))
    assert (
        orjson.loads(written.removeprefix(b"event: error\ndata: "))["error"]["message"] == "upstream answered 502"
    )
