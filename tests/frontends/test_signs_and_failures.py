"""What a front end writes beside an answer: signs of life, and the failure of a stream that has had only those."""

import orjson
import pytest

from proxy.errors import UpstreamError
from proxy.frontends.base import FrontEnd
from proxy.frontends.chat import Chat
from proxy.frontends.responses import Responses

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


@pytest.mark.parametrize(("front_end", "wanted"), [(Responses(), b"event: error\ndata: "), (Chat(), b"data: ")])
def test_a_failure_has_upstreams_words(front_end: FrontEnd, wanted: bytes) -> None:
    """As the last event of a stream, in the form that the SDKs raise."""
    written = front_end.failure(REFUSED)
    assert written.startswith(wanted)
    assert written.endswith(b"\n\n")
    assert orjson.loads(written.removeprefix(wanted))["error"] == WORDS


@pytest.mark.parametrize("body", [b"<html>", b"[]", b'{"error":"x"}', b'{"error":{}}'])
def test_a_failure_without_words_gets_some(body: bytes) -> None:
    """An empty error passes for none in the SDKs."""
    written = Responses().failure(UpstreamError(502, body, {}))
    assert (
        orjson.loads(written.removeprefix(b"event: error\ndata: "))["error"]["message"] == "upstream answered 502"
    )
