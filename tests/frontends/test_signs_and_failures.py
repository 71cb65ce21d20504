"""What a front end writes beside an answer: signs of life, and the failure of a stream that has had only those."""

from typing import Any

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


def events(written: bytes) -> list[tuple[bytes, Any]]:
    """Return the names and the data of the events in *written*."""
    *whole, rest = written.split(b"\n\n")
    assert rest == b""
    pairs = (each.rsplit(b"data: ", 1) for each in whole)
    return [(name.removeprefix(b"event: ").rstrip(), orjson.loads(data)) for name, data in pairs]


def test_a_failed_completion_has_upstreams_words() -> None:
    """As the last record of a stream, in the form that the SDKs raise."""
    ((name, data),) = events(Chat().failure(REFUSED))
    assert (name, data["error"]) == (b"", WORDS)


def test_a_failed_response_has_upstreams_words_twice() -> None:
    """In an error that the SDKs raise, numbered for Vercel's AI SDK, and in the end that Codex reads."""
    first, second = events(Responses().failure(REFUSED))
    assert first == (b"error", {"type": "error", "sequence_number": 0, "status": 429, "error": WORDS})
    response = {"object": "response", "status": "failed", "error": WORDS, "output": []}
    assert second == (
        b"response.failed",
        {"type": "response.failed", "sequence_number": 1, "response": response},
    )


@pytest.mark.parametrize("body", [b"<html>", b"[]", b'{"error":"x"}', b'{"error":{}}'])
def test_a_failure_without_words_gets_some(body: bytes) -> None:
    """An empty error passes for none in the SDKs."""
    for _, data in events(Responses().failure(UpstreamError(502, body, {}))):
        assert data.get("response", data)["error"]["message"] == "upstream answered 502"
