"""What an agent gets in a long silence, and what then becomes of an error."""

import asyncio
import gzip
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import httpx2
import openai
import orjson
import pytest
from openai import AsyncOpenAI

from proxy.config import DEFAULTS, Config
from proxy.core.events import ServerEvent
from proxy.frontends.base import Readable
from proxy.frontends.responses import Responses
from proxy.server.reply import EventReply, Reply
from proxy.server.services import waits_for
from proxy.simulator import Fault, ModelCall, Output, Text, scripted
from proxy.upstream.progress import Progress

SOON = {"keepalive_after": 0.1, "keepalive_interval": 0.1}
ASK = {"model": "m", "input": "x", "stream": True}
CHAT = {"model": "m", "messages": [{"role": "user", "content": "x"}], "stream": True}
COMMENT = b": keepalive\n\n"


class Reading(Reply):
    """A reply that has begun, to an agent that takes all of it."""

    begun = takes_more = True

    def __init__(self) -> None:
        """Have no request."""

    async def write(self, chunk: bytes) -> None:
        """Take *chunk*."""

    def write_now(self, chunk: bytes) -> None:
        """Take *chunk*."""


@pytest.fixture
async def sdk(stack: AsyncExitStack) -> Callable[[str], Awaitable[AsyncOpenAI]]:
    """Make SDK clients that give up after a second of silence."""

    async def make(url: str) -> AsyncOpenAI:
        timeout = httpx2.Timeout(5, read=1)
        return await stack.enter_async_context(
            AsyncOpenAI(api_key="key", base_url=f"{url}/v1", max_retries=0, timeout=timeout)
        )

    return make


async def test_an_agent_outlives_silence_before_the_answer(proxied: Any, sdk: Any) -> None:
    """Its read timeout is a third of what upstream takes; without the signs it would give up."""
    quiet = Output((Text("at last"),), first_event_seconds=3)
    for settings, survives in ((SOON, True), ({}, False)):
        run = await proxied(scripted([quiet, quiet]), **settings)
        client = await sdk(run.server.url)
        try:
            stream = await client.responses.create(**ASK)
            text = "".join([event.delta async for event in stream if event.type == "response.output_text.delta"])
        except openai.APITimeoutError:
            assert not survives
        else:
            assert survives
            assert text == "at last"


async def test_an_agent_outlives_silence_within_the_answer(proxied: Any, sdk: Any) -> None:
    """Comments come between events, never inside one."""
    run = await proxied(scripted([Output((Text("a b"),), delta_size=2)]), **SOON)
    run.simulator.inject(Fault("after_events", "slow", events=7, seconds=1.5))
    client = await sdk(run.server.url)
    stream = await client.chat.completions.create(**CHAT)
    said = [chunk.choices[0].delta.content async for chunk in stream]
    assert "".join(each or "" for each in said) == "a b"


async def test_signs_of_life_are_comments(proxied: Any) -> None:
    """The events around them are whole."""
    run = await proxied(scripted([Output((Text("x"),), first_event_seconds=0.5)]), **SOON)
    answer = await run.post(ASK)
    records = answer.body.split(b"\n\n")
    assert records[0] == COMMENT.strip()
    assert {record[:6] for record in records} == {b": keep", b"event:", b""}


async def test_an_event_is_a_sign_of_life() -> None:
    """While events are shown, at once or not, an agent gets nothing besides them."""
    read = Responses().decode(orjson.dumps(ASK))
    assert isinstance(read, Readable)
    events = EventReply(Reading(), read.answer, Responses().failure)
    for kind, is_at_once in (("response.created", False), ("response.output_text.delta", True)):
        event = ServerEvent(kind, b"{}")
        events._written_at = began = asyncio.get_running_loop().time() - 3600
        assert events.show_now(event) is is_at_once
        if not is_at_once:
            await events.deliver((event,))
        assert events._written_at > began + 3000


async def test_codex_gets_an_event(proxied: Any) -> None:
    """Its timeout counts events alone; this one the API itself knows."""
    run = await proxied(scripted([Output((Text("x"),), first_event_seconds=0.5)]), **SOON)
    answer = await run.post(ASK, ("User-Agent", "codex_exec/0.169.0 (Debian)"))
    assert answer.body.startswith(b'event: keepalive\ndata: {"type":"keepalive",')


async def test_an_answer_that_is_not_streamed_has_none(proxied: Any) -> None:
    """A JSON body is whole or it is nothing."""
    run = await proxied(scripted([Output((Text("x"),), first_event_seconds=0.5)]), **SOON)
    answer = await run.post({**ASK, "stream": False})
    assert answer.json()["status"] == "completed"
    assert answer.body.startswith(b"{")


@pytest.mark.parametrize("kind", ["responses", "chat"])
@pytest.mark.parametrize("patience", [0.1, 60])
async def test_an_error_after_a_sign_of_life_is_raised_all_the_same(
    proxied: Any, sdk: Any, kind: str, patience: float
) -> None:
    """Before it the agent gets the status, after it an event in its API's words; the SDK raises either."""
    fault = Fault(
        "before_created", "error", status=429, code="rate_limit_exceeded", message="slow down", seconds=0.5
    )
    run = await proxied(keepalive_after=patience, keepalive_interval=0.1)
    run.simulator.inject(fault)
    client = await sdk(run.server.url)
    create = client.responses.create if kind == "responses" else client.chat.completions.create
    with pytest.raises(openai.APIError, match="slow down") as caught:
        async for _ in await create(**(ASK if kind == "responses" else CHAT)):
            pass
    assert isinstance(caught.value, openai.RateLimitError) is (patience == 60)
    assert caught.value.code == "rate_limit_exceeded"
    await run.recorded(1)


@pytest.mark.parametrize("is_gzip", [True, False])
async def test_an_answer_that_is_no_stream_is_held_within_limits(
    proxied: Any, raw_upstream: Any, *, is_gzip: bool
) -> None:
    """It becomes one event, so it is gathered: not more than the largest event, however well it was compressed."""
    body = b" " * 3_000_000

    async def serve(peer: Any) -> None:
        if (await peer.message()).get("Upgrade"):
            await peer.send(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
            return
        await asyncio.sleep(0.5)
        data = gzip.compress(body) if is_gzip else body
        encoding = b"Content-Encoding: gzip\r\n" if is_gzip else b""
        head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n%bContent-Length: %d\r\n\r\n"
        await peer.send(head % (encoding, len(data)) + data)

    upstream = await raw_upstream(serve)
    run = await proxied(upstream=upstream.base_url, max_event_bytes=1_000_000, **SOON)
    answer = await run.post(ASK)
    assert answer.status == 200
    assert b"max_event_bytes" in answer.body
    assert len(answer.body) < 1000


async def test_no_answer_after_a_sign_of_life_is_an_error_event(proxied: Any, sdk: Any) -> None:
    """Nothing of an answer was shown, so there is nothing to cut off."""
    run = await proxied(**SOON, first_event_timeout=0.5)
    run.simulator.inject(Fault("before_created", "silence"))
    client = await sdk(run.server.url)
    with pytest.raises(openai.APIError, match="first_event_timeout"):
        async for _ in await client.responses.create(**ASK):
            pass


PATIENT = {"first_event_timeout": 0.3, "event_timeout": 0.3}


@pytest.mark.parametrize("settings", [PATIENT, {**PATIENT, "websocket": "off"}], ids=["websocket", "http"])
@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
async def test_an_agent_that_waits_longer_is_waited_for(
    proxied: Any, sdk: Any, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], *, stream: bool
) -> None:
    """The real SDK says that it waits a second: more than these limits, which are the defaults of this test."""
    for name, seconds in PATIENT.items():
        monkeypatch.setitem(DEFAULTS, name, seconds)
    slow = Output((Text("at last"),), first_event_seconds=0.6)
    run = await proxied(scripted([slow, slow]), **settings)
    said = await (await sdk(run.server.url)).responses.create(**{**ASK, "stream": stream})
    answer = [event async for event in said][-1].response if stream else said
    assert answer.output_text == "at last"
    other = await run.post({**ASK, "stream": stream})  # by a client that says nothing of itself
    assert other.status == 504
    assert b"upstream was silent for 0.3 s" in other.body


def swallowing(call: ModelCall) -> Output:
    """Answer over HTTP alone."""
    return Output((Text("over http"),), first_event_seconds=600 if call.transport == "ws" else 0)


@pytest.mark.parametrize("patience", [0.3, 0.4, 60], ids=["less", "as long", "longer"])
async def test_a_turn_that_an_agent_left_for_its_timeout_was_lost(
    proxied: Any, sdk: Any, monkeypatch: pytest.MonkeyPatch, patience: float
) -> None:
    """Its clock began before ours: where WebSockets swallow turns it comes to plain HTTP all the same."""
    for name in PATIENT:
        monkeypatch.setitem(DEFAULTS, name, 0.4)
    monkeypatch.setattr("proxy.server.services._LONGEST", 0.6)
    run = await proxied(swallowing, first_event_timeout=0.4, event_timeout=0.4)
    client = await sdk(run.server.url)
    ask = {"model": "m", "input": 400_000 * "x", "timeout": patience}
    for turn in range(2):
        with pytest.raises((openai.APITimeoutError, openai.InternalServerError)):
            await client.responses.create(**ask)
        await run.recorded(turn + 1)
    answer = await client.responses.create(**{**ask, "timeout": 60})
    assert answer.output_text == "over http"


async def test_a_turn_that_an_agent_left_before_is_none_that_was_lost(proxied: Any, sdk: Any) -> None:
    """Its user changed their mind, which says nothing of WebSockets."""
    run = await proxied(scripted([*3 * [Output((Text("x"),), first_event_seconds=600)], "over a WebSocket"]))
    client = await sdk(run.server.url)
    for turn in range(3):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(client.responses.create(model="m", input="x"), 0.3)
        await run.recorded(turn + 1)
    await client.responses.create(model="m", input="x")
    assert run.simulator.turns[-1].transport == "ws"


async def test_a_deadline_passes_no_later_than_a_second_behind_its_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """However long that is: the look that sees the last change may be as late."""
    looks: list[float] = []
    loop = asyncio.get_running_loop()
    call_later = loop.call_later

    def noted(delay: float, *rest: Any) -> asyncio.TimerHandle:
        looks.append(delay)
        return call_later(delay, *rest)

    monkeypatch.setattr(loop, "call_later", noted)
    for limit in (600, 0.4):
        with Progress(asyncio.timeout(limit), limit, lambda: 0):
            pass
    assert looks == [1.0, 0.1]


@pytest.mark.parametrize(
    ("chosen", "told", "waits"),
    [(600, "60", 600), (600, "900.0", 900), (600, "6000", 1800), (7200, "6000", 7200), (599, "900", 599)],
)
def test_an_agents_word_counts_for_half_an_hour(chosen: float, told: str, waits: float) -> None:
    """LiteLLM says 6,000 s for everybody, and over a WebSocket a lost turn ends in no gateway's timeout."""
    config = Config(first_event_timeout=chosen, event_timeout=chosen)
    found = waits_for(config, {"x-stainless-read-timeout": told})
    assert (found.first_event_timeout, found.event_timeout) == (waits, waits)


async def test_a_limit_that_was_chosen_holds(proxied: Any, sdk: Any) -> None:
    """Below the default it is not the agent's to raise, whatever its SDK says."""
    run = await proxied(first_event_timeout=0.3)
    run.simulator.inject(Fault("before_created", "silence"))
    with pytest.raises(openai.InternalServerError, match=r"silent for 0\.3 s"):
        await (await sdk(run.server.url)).responses.create(**{**ASK, "stream": False})


def lost() -> Fault:
    """Return what makes plain HTTP the last resort: two losses, each after a while."""
    return Fault("before_created", "abort", seconds=0.4, times=2, transport="ws")


async def test_plain_http_after_a_sign_of_life_goes_on_in_the_same_stream(proxied: Any) -> None:
    """The events are upstream's own, from there on."""
    run = await proxied(scripted([Output((Text("over http"),))]), **SOON)
    run.simulator.inject(lost())
    answer = await run.post(ASK)
    assert answer.status == 200
    assert answer.body.startswith(COMMENT)
    assert b"over http" in answer.body
    assert answer.body.rstrip().split(b"\n\n")[-1].startswith(b"event: response.completed")
    assert [turn.transport for turn in run.simulator.turns] == ["ws", "ws", "http"]


@pytest.mark.parametrize(
    ("compression", "accepted", "asked"),
    [("auto", "br", ["gzip"]), ("off", "gzip, br", ["gzip"]), ("off", "br", ["identity"])],
)
async def test_after_a_sign_of_life_the_encoding_is_up_to_us(
    proxied: Any, compression: str, accepted: str, asked: list[str]
) -> None:
    """The agent was told of none: upstream is asked for one that is undone on the way, or for none."""
    compressed = {"compressed_answers": True}
    run = await proxied(
        scripted([Output((Text("over http"),))]), simulated=compressed, http_compression=compression, **SOON
    )
    run.simulator.inject(lost())
    answer = await run.post(ASK, ("Accept-Encoding", accepted))
    headers = run.simulator.requests[-1].headers
    assert [value for name, value in headers if name.lower() == "accept-encoding"] == asked
    assert b"over http" in answer.body


@pytest.mark.parametrize("content_type", ["", "text/plain; charset=utf-8", "application/octet-stream"])
async def test_a_late_stream_is_one_whatever_its_type_says(
    proxied: Any, raw_upstream: Any, content_type: str
) -> None:
    """Its head comes at once, and its first event after a sign of life."""
    event = b'data: {"type":"response.completed","response":{"id":"r","output":[]}}\n\n'

    async def serve(peer: Any) -> None:
        while (await peer.message()).get("Upgrade"):
            await peer.send(b"HTTP/1.1 426 Upgrade Required\r\nContent-Length: 0\r\n\r\n")
        kind = f"Content-Type: {content_type}\r\n" if content_type else ""
        await peer.send(f"HTTP/1.1 200 OK\r\n{kind}Content-Length: {len(event)}\r\n\r\n".encode())
        await asyncio.sleep(0.5)
        await peer.send(event)

    upstream = await raw_upstream(serve)
    run = await proxied(upstream=upstream.base_url, **SOON)
    answer = await run.post(ASK)
    assert answer.body.startswith(b": ")
    assert answer.body.endswith(event)
    (record,) = run.server.ledger.turns(1)
    assert record.status == "completed"


async def test_an_error_over_plain_http_after_a_sign_of_life_is_an_error_event(proxied: Any) -> None:
    """In upstream's own words."""
    run = await proxied(**SOON)
    run.simulator.inject(lost())
    run.simulator.inject(Fault("before_created", "error", status=500, message="broken", transport="http"))
    answer = await run.post(CHAT, target="/v1/chat/completions")
    assert answer.status == 200
    assert answer.body.split(b"\n\n")[-2].startswith(b'data: {"error":{"message":"broken"')


@pytest.mark.parametrize("patience", [0.1, 60])
async def test_a_refusal_over_both_transports_says_nothing_about_the_first(proxied: Any, patience: float) -> None:
    """However the agent was told: it is the request that upstream minds, so the next one is a turn again."""
    run = await proxied(keepalive_after=patience, keepalive_interval=0.1)
    for transport in ("ws", "http"):
        fault: dict[str, Any] = {"status": 400, "code": "invalid_value", "message": "bad image", "seconds": 0.4}
        run.simulator.inject(Fault("before_created", "error", transport=transport, **fault))
    for _ in range(2):
        answer = await run.post(CHAT, target="/v1/chat/completions")
    assert answer.status == 200
    await run.recorded(2)
    turns = (await run.figures("turns"))["turns"]
    assert [(turn["upload"], turn["status"]) for turn in turns] == [("full", "completed"), ("http", "failed")]
