"""What goes over plain HTTP is compressed where upstream takes it, and the agent notices nothing."""

import asyncio
import gzip
from collections.abc import Callable
from typing import Any

import orjson
import pytest
import zstandard

from proxy.errors import UpstreamUnavailable
from proxy.ledger import Traffic
from proxy.simulator import Fault, says
from proxy.upstream.encoding import KNOWN
from proxy.upstream.endpoint import Endpoint
from proxy.upstream.http import Http
from proxy.upstream.link import Link

KEY = ("Authorization", "Bearer key")
WORDS = "".join(f"{n} words that repeat, and then some. " for n in range(400))
ASK = {"model": "m", "store": False, "input": WORDS}
OFF: dict[str, Any] = {"websocket": "off"}
CHAT = {"model": "m", "messages": [{"role": "user", "content": WORDS}]}


def saying(_call: Any) -> Any:
    """Answer with words that compress."""
    return says(WORDS)


def encodings_of(run: Any) -> list[str | None]:
    """Return the Content-Encoding of each request that reached upstream."""
    heads = [{name.lower(): value for name, value in request.headers} for request in run.simulator.requests]
    return [head.get("content-encoding") for head in heads]


@pytest.mark.parametrize("host", ["api.openai.com", "chatgpt.com"])
def test_some_hosts_are_known_to_take_zstd(host: str) -> None:
    """Unless the user says otherwise, turns go compressed there and nowhere else."""
    assert KNOWN[host, "/responses"] == "zstd"


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
@pytest.mark.parametrize(("path", "ask"), [("responses", ASK), ("chat/completions", CHAT)])
async def test_a_turn_goes_upstream_compressed(
    proxied: Any, path: str, ask: dict[str, Any], encoding: str
) -> None:
    """Upstream reads the very request, and gets a fraction of the bytes; the answer is the same."""
    body = orjson.dumps(ask)
    run = await proxied(**OFF, http_compression=encoding)
    plain = await proxied(**OFF, http_compression="off")
    answers = [await each.ask("POST", f"/v1/{path}", KEY, body=body) for each in (run, plain)]
    assert [answer.status for answer in answers] == [200, 200]
    assert run.simulator.turns[0].request == plain.simulator.turns[0].request
    assert run.simulator.bytes_in < plain.simulator.bytes_in / 5
    record = next(run.server.ledger.turns(1))
    assert (record.attempts, record.bytes_to_upstream) == (1, run.simulator.bytes_in)


@pytest.mark.parametrize("status", [400, 403, 415])
async def test_an_upstream_that_refuses_an_encoding_is_asked_plainly_from_then_on(
    proxied: Any, status: int
) -> None:
    """The agent gets its answer at once, the refusal is counted, and the next turn is not encoded."""
    settings = {"accepted_encodings": (), "encoding_status": status}
    run = await proxied(simulated=settings, **OFF, http_compression="zstd")
    for _ in range(2):
        assert (await run.ask("POST", "/v1/responses", KEY, body=orjson.dumps(ASK))).status == 200
    assert [record.attempts for record in run.server.ledger.turns(2)] == [1, 2]
    encodings = encodings_of(run)
    assert encodings == ["zstd", None, None]


async def test_a_refusal_of_the_request_itself_is_no_verdict(proxied: Any) -> None:
    """A 400 that the plain request gets as well says nothing; once an encoding was taken, a 400 is not doubted."""
    run = await proxied(**OFF, http_compression="zstd")
    bad = orjson.dumps({**ASK, "nonsense": 1})
    assert (await run.ask("POST", "/v1/responses", KEY, body=bad)).status == 400
    assert (await run.ask("POST", "/v1/responses", KEY, body=orjson.dumps(ASK))).status == 200
    assert (await run.ask("POST", "/v1/responses", KEY, body=bad)).status == 400
    encodings = encodings_of(run)
    assert encodings == ["zstd", None, "zstd", "zstd"]


async def test_what_one_path_takes_says_nothing_of_another(proxied: Any) -> None:
    """Upstream may read encoded turns of one API only."""
    run = await proxied(http_compression="zstd", **OFF)
    assert (await run.ask("POST", "/v1/responses", KEY, body=orjson.dumps(ASK))).status == 200
    run.simulator.faults.inject(Fault("before_created", "error", status=400))
    assert (await run.ask("POST", "/v1/chat/completions", KEY, body=orjson.dumps(CHAT))).status == 200
    assert encodings_of(run) == ["zstd", "zstd", None]


async def test_a_body_that_would_look_like_a_bomb_goes_as_it_is(proxied: Any) -> None:
    """Servers refuse what unpacks to far more than it is."""
    run = await proxied(http_compression="zstd", **OFF)
    body = orjson.dumps({**ASK, "input": "x" * 300_000})
    assert (await run.ask("POST", "/v1/responses", KEY, body=body)).status == 200
    assert encodings_of(run) == [None]


async def test_an_encoding_that_is_refused_later_is_given_up(proxied: Any) -> None:
    """415 is about nothing else: behind one name may be several servers."""
    run = await proxied(**OFF, http_compression="zstd")
    body = orjson.dumps(ASK)
    assert (await run.ask("POST", "/v1/responses", KEY, body=body)).status == 200
    run.simulator.faults.inject(Fault("before_created", "error", status=415))
    for _ in range(2):
        assert (await run.ask("POST", "/v1/responses", KEY, body=body)).status == 200
    encodings = encodings_of(run)
    assert encodings == ["zstd", "zstd", None, None]


async def test_what_is_no_turn_or_has_an_encoding_goes_as_it_is(proxied: Any) -> None:
    """Other paths, the agent's own encodings, small bodies, and everything where it is switched off."""
    run = await proxied(**OFF, http_compression="zstd")
    body, small = orjson.dumps(ASK), orjson.dumps({**ASK, "input": "x"})
    own = ("Content-Encoding", "zstd")
    await run.ask("POST", "/v1/embeddings", KEY, body=orjson.dumps({"model": "m", "input": WORDS}))
    await run.ask("POST", "/v1/responses", KEY, own, body=zstandard.compress(body))
    await run.ask("POST", "/v1/responses", KEY, body=small)
    unknown = await proxied(**OFF)  # "auto", and not a host that is known to take it
    await unknown.ask("POST", "/v1/responses", KEY, body=body)
    sizes = [request.body_size for each in (run, unknown) for request in each.simulator.requests]
    assert sizes[1:] == [len(zstandard.compress(body)), len(small), len(body)]
    assert encodings_of(run) == [None, "zstd", None]


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_is_asked_for_compressed_and_given_as_it_was_asked(proxied: Any, *, stream: bool) -> None:
    """An agent that asks for no encoding gets none; what crosses the network is a fraction of it."""
    body = orjson.dumps({**ASK, "stream": stream})
    settings = {"compressed_answers": True}
    run = await proxied(saying, simulated=settings, **OFF)
    plain = await proxied(saying, simulated=settings, **OFF, http_compression="off")
    answers = [await each.ask("POST", "/v1/responses", KEY, body=body) for each in (run, plain)]
    assert [answer.status for answer in answers] == [200, 200]
    assert [answer.all("Content-Encoding") for answer in answers] == [[], []]
    assert [WORDS.encode() in answer.body for answer in answers] == [True, True]
    assert run.simulator.bytes_out < plain.simulator.bytes_out / 3


async def test_an_agent_that_asks_for_an_encoding_gets_upstreams_own_bytes(proxied: Any) -> None:
    """Its own request decides, and the answer passes through."""
    run = await proxied(saying, simulated={"compressed_answers": True}, **OFF)
    for accepted, encodings in (("gzip", ["gzip"]), ("identity", []), ("br", [])):
        wanted = ("Accept-Encoding", accepted)
        answer = await run.ask("POST", "/v1/responses", KEY, wanted, body=orjson.dumps(ASK))
        assert (answer.status, answer.all("Content-Encoding")) == (200, encodings)


async def test_events_in_gzip_arrive_one_by_one(proxied: Any) -> None:
    """Inflating does not wait for more: each event is with the agent before upstream makes the next."""
    slow = {"compressed_answers": True, "event_seconds": 0.05}
    run = await proxied(simulated=slow, **OFF)
    agent = await run.dial()
    body = orjson.dumps({**ASK, "stream": True})
    await agent.begin("POST", "/v1/responses", KEY, ("Content-Length", str(len(body))))
    await agent.send(body)
    head = await agent.head()
    assert not head.all("Content-Encoding")
    pieces = [piece async for piece in agent.pieces(head)]
    assert len(pieces) > 5


GZIP = gzip.compress(b'data: {"text":"' + b"words " * 50_000 + b'"}\n\n')


async def raw_answer(raw_upstream: Any, encoding: str, body: bytes) -> Any:
    """Start an upstream that gives this answer."""
    head = f"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Encoding: {encoding}\r\n"

    async def serve(peer: Any) -> None:
        while True:
            await peer.message()
            await peer.send(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)

    return await raw_upstream(serve)


@pytest.mark.parametrize(
    ("encoding", "kept"), [("gzip", []), ("x-gzip", []), ("gzip, gzip", ["gzip, gzip"]), ("br", ["br"])]
)
async def test_what_is_not_inflated_keeps_its_name(
    proxied: Any, raw_upstream: Any, encoding: str, kept: list[str]
) -> None:
    """An encoding that nobody asked for is the agent's to understand."""
    upstream = await raw_answer(raw_upstream, encoding, GZIP)
    run = await proxied(upstream=upstream.base_url, **OFF)
    answer = await run.ask("POST", "/v1/responses", KEY, body=orjson.dumps(ASK))
    assert answer.all("Content-Encoding") == kept
    assert answer.body == (GZIP if kept else gzip.decompress(GZIP))


@pytest.mark.parametrize("body", [GZIP[: len(GZIP) // 2], GZIP[:-1], b"no gzip", GZIP + b"\x1f\x8bmore"])
async def test_an_answer_in_gzip_that_is_cut_off_or_corrupt_never_looks_whole(
    proxied: Any, raw_upstream: Any, body: bytes
) -> None:
    """Its length is right, and its end is not there: the agent's connection is broken off."""
    upstream = await raw_answer(raw_upstream, "gzip", body)
    run = await proxied(upstream=upstream.base_url, **OFF)
    with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
        await run.ask("POST", "/v1/responses", KEY, body=orjson.dumps(ASK))
    await run.recorded(1)
    assert next(run.server.ledger.turns(1)).status == "failed"


@pytest.mark.parametrize("behind", [bytes(8), b"\r\n", b"more", GZIP], ids=["zeros", "line", "words", "member"])
async def test_what_follows_a_whole_answer_in_gzip_harms_it_not(
    proxied: Any, raw_upstream: Any, behind: bytes
) -> None:
    """Padding is nothing to other decoders either; another member is more of the answer."""
    upstream = await raw_answer(raw_upstream, "gzip", GZIP + behind)
    run = await proxied(upstream=upstream.base_url, **OFF)
    answer = await run.ask("POST", "/v1/responses", KEY, body=orjson.dumps(ASK))
    assert answer.body == gzip.decompress(GZIP) * (2 if behind == GZIP else 1)


@pytest.mark.parametrize("kind", [b"text/html", b"text/plain"])
async def test_a_portals_page_says_nothing_of_upstream(raw_upstream: Any, kind: bytes) -> None:
    """Its 200 is nobody's who took the encoding: a refusal that comes later is still doubted."""
    page, taken = b"200 OK\r\nContent-Type: " + kind, b"200 OK\r\nContent-Type: application/json"
    answers = iter(((page, b"<>"), (b"400 No", b"{}"), (taken, b"{}")))

    async def serve(peer: Any) -> None:
        while True:
            await peer.message()
            await peer.send(b"HTTP/1.1 %b\r\nContent-Length: 2\r\n\r\n%b" % next(answers))

    upstream, link, body = await raw_upstream(serve), Link(), orjson.dumps(ASK)
    endpoint, traffic = Endpoint(upstream.base_url), Traffic()
    async with Http(
        endpoint, connect_timeout=5, traffic=traffic, link=link, encodings={"/responses": "zstd"}
    ) as http:
        with pytest.raises(UpstreamUnavailable):
            async with http.request("POST", "/responses", (), body, Traffic()):
                pass
        link.clear()
        async with http.request("POST", "/responses", (), body, Traffic()) as response:
            assert response.status == 200


def taker(seen: list[list[str]], refusing: Callable[[], bytes | None]) -> Any:
    """Return an upstream that notes in *seen* how each body is encoded.

    It answers an encoded one with what *refusing* returns, if anything, and else breaks off.
    """
    taken = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"

    async def serve(peer: Any) -> None:
        while True:
            message = await peer.message()
            seen.append(message.all("Content-Encoding"))
            answer = refusing() if seen[-1] else taken
            if answer is None:
                peer.close()
                return
            await peer.send(answer)

    return serve


@pytest.mark.parametrize("what", ["reset", "status"])
async def test_after_a_first_encoded_body_that_fails_the_next_goes_plain(
    proxied: Any, raw_upstream: Any, what: str
) -> None:
    """Something on the way may not stand it: the next attempt goes as the agent sent it."""
    seen: list[list[str]] = []
    oops = b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n" if what == "status" else None
    upstream = await raw_upstream(taker(seen, lambda: oops))
    run = await proxied(upstream=upstream.base_url, http_compression="zstd", **OFF)
    statuses = [(await run.ask("POST", "/v1/responses", KEY, body=orjson.dumps(ASK))).status for _ in range(2)]
    assert statuses == [502 if what == "reset" else 500, 200]
    assert seen == [["zstd"], []]


async def test_an_encoded_body_that_was_lost_is_not_the_last(proxied: Any, raw_upstream: Any) -> None:
    """It may have been the link's fault; each time it happens again, it is tried more rarely."""
    seen: list[list[str]] = []
    upstream = await raw_upstream(taker(seen, lambda: None))
    run = await proxied(upstream=upstream.base_url, http_compression="zstd", **OFF)
    for _ in range(1 + 8 + 1 + 10):
        await run.ask("POST", "/v1/responses", KEY, body=orjson.dumps(ASK))
    assert [place for place, encodings in enumerate(seen) if encodings] == [0, 9]


@pytest.mark.parametrize("what", ["nobody", "silence"])
async def test_an_upstream_that_cannot_be_reached_has_refused_nothing(
    proxied: Any, raw_upstream: Any, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """Where the first turn finds no link, the next ones are compressed all the same."""
    seen: list[list[str]] = []

    async def serve(peer: Any) -> None:
        seen.append((await peer.message()).all("Content-Encoding"))
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}")

    async def unreached(*_: Any, **__: Any) -> Any:
        if what == "nobody":
            raise ConnectionRefusedError
        await asyncio.Event().wait()

    upstream = await raw_upstream(serve)
    run = await proxied(upstream=upstream.base_url, http_compression="zstd", connect_timeout=0.2, **OFF)
    with monkeypatch.context() as patched:
        patched.setattr("aiohttp.connector.aiohappyeyeballs.start_connection", unreached)
        assert (await run.ask("POST", "/v1/responses", KEY, body=orjson.dumps(ASK))).status == 502
    assert (await run.ask("POST", "/v1/responses", KEY, body=orjson.dumps(ASK))).status == 200
    assert seen == [["zstd"]]


async def test_a_slow_answer_in_gzip_after_signs_of_life_is_whole(proxied: Any) -> None:
    """The agent asked for gzip, and has a status without it by then."""
    slow = {"refuse_upgrade": 404, "compressed_answers": True, "first_event_seconds": 1.0}
    run = await proxied(saying, simulated=slow, keepalive_after=0.2, keepalive_interval=0.2)
    body = orjson.dumps({**ASK, "stream": True})
    answer = await run.ask("POST", "/v1/responses", KEY, ("Accept-Encoding", "gzip, deflate, br"), body=body)
    assert (answer.status, answer.all("Content-Encoding")) == (200, [])
    assert b": keepalive" in answer.body
    assert WORDS.encode() in answer.body
