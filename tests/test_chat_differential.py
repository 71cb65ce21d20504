"""Chat Completions through the proxy and without it: the official SDK and the model cannot tell the difference.

Conversations are generated, from CHAT_SEED on, CHAT_SESSIONS of them. Each is held twice with the same answers:
once with the simulated upstream's own Chat endpoint, and once with the proxy, which asks it for Responses. What
the SDK made of each answer is compared, and what the model was given to read.
"""

import asyncio
import os
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from itertools import count
from typing import Any

import orjson
import pytest
from chatjudge import Heard, agree, ask, read, read_in_chat, usage_of
from chatsessions import ECHOES, EDITS, Session, Turn, session
from openai import AsyncOpenAI, DefaultAsyncHttpxClient
from proxied import Message, Peer

from proxy.core import items
from proxy.frontends import chat_completion, chat_messages, chat_request
from proxy.simulator import (
    Completed,
    CustomToolCall,
    FunctionCall,
    Reasoning,
    SimulatedTurn,
    Simulator,
    Text,
    scripted,
)

FIRST = int(os.environ.get("CHAT_SEED", "0"))
SESSIONS = int(os.environ.get("CHAT_SESSIONS", "300"))
BATCH = 30
BATCHES = [range(first, min(first + BATCH, FIRST + SESSIONS)) for first in range(FIRST, FIRST + SESSIONS, BATCH)]
TOOL_RESULT = "ok ✓"
EVENT_STREAM = "text/event-stream; charset=utf-8"


class Side:
    """One of the two ways to the model: a client, and the simulated upstream behind it."""

    def __init__(self, client: AsyncOpenAI, simulator: Simulator) -> None:
        self.client = client
        self.simulator = simulator
        self.history: list[Any] = []

    async def take(self, turn: Turn) -> tuple[Heard, SimulatedTurn]:
        """Hold *turn* of a conversation."""
        self.simulator.script = lambda _: turn.output
        if turn.fault is not None:
            self.simulator.inject(replace(turn.fault))
        self.history = EDITS[turn.edit](self.history) + turn.said
        heard = await ask(self.client, list(self.history), turn)
        self.simulator.faults.clear()
        if heard.message is not None:
            self.history.append(ECHOES[turn.echo](heard.message))
            calls = [call.id for call in heard.message.tool_calls or ()]
            results = [{"role": "tool", "tool_call_id": call_id, "content": TOOL_RESULT} for call_id in calls]
            self.history += results
        return heard, self.simulator.turns[-1]


@pytest.fixture
async def world(
    proxied: Any, stack: AsyncExitStack, request: pytest.FixtureRequest
) -> Callable[[range], Awaitable[Counter[str]]]:
    """Hold the sessions of some seeds on both sides; return how often what was uploaded.

    The parameter is how upstream's WebSocket behaves.
    """
    run = await proxied(simulated=getattr(request, "param", None))
    direct = await stack.enter_async_context(Simulator())
    through, without = [
        await stack.enter_async_context(
            AsyncOpenAI(base_url=base_url, api_key="sk", max_retries=0, http_client=_plain_client())
        )
        for base_url in (run.server.url + "/v1", direct.base_url)
    ]

    async def hold(seeds: range) -> Counter[str]:
        uploads: Counter[str] = Counter()
        for seed in seeds:
            key = f"sk-{seed}"
            sides = (
                Side(through.with_options(api_key=key), run.simulator),
                Side(without.with_options(api_key=key), direct),
            )
            async for upload in _hold(session(seed), sides, latest):
                uploads[upload] += 1
        return uploads

    asked = count(1)

    async def latest() -> str:
        await run.recorded(next(asked))
        return str(next(run.server.ledger.turns(1)).upload)

    return hold


def _plain_client() -> DefaultAsyncHttpxClient:
    return DefaultAsyncHttpxClient(verify=False)  # reading certificates takes longer than a conversation


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")  # the SDK's, where parsed messages come back
@pytest.mark.parametrize("seeds", BATCHES, ids=lambda seeds: f"from {seeds[0]}")
async def test_nobody_can_tell_the_difference(world: Any, seeds: range) -> None:
    """The SDK reports the same and the model reads the same; what follows a plain answer goes up as a delta."""
    uploads = await world(seeds)
    assert uploads["delta"] > len(seeds) / 4


UPSTREAMS: dict[str, dict[str, Any]] = {
    "tells the output only once": {"terminal_output": "empty"},
    "leaves the output out at the end": {"terminal_output": "omitted"},
    "ends with little more than an id": {"terminal_output": "done"},
    "says more than is known": {
        "extra_events": (
            "keepalive_before_created",
            "rate_limits_before_created",
            "keepalive_mid_stream",
            "unknown_mid_stream",
        )
    },
    "changes its ciphertext": {"terminal_ciphertext": "different"},
}


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")
@pytest.mark.parametrize("world", UPSTREAMS.values(), ids=UPSTREAMS.keys(), indirect=True)
async def test_nobody_can_tell_how_upstream_words_it(world: Any) -> None:
    """What servers add to a WebSocket's events, or leave out, makes no difference to a Chat completion."""
    uploads = await world(range(1000, 1025))
    assert uploads["delta"] > 5


async def _hold(
    conversation: Session, sides: tuple[Side, Side], latest: Callable[[], Awaitable[str]]
) -> AsyncIterator[str]:
    """Hold one conversation on both sides; yield what each turn uploaded, as *latest* knows."""
    proxied, direct = sides
    continued: Any = None  # the model, where the answer before this turn is told in its history in full
    for number, turn in enumerate(conversation.turns):
        where = f"seed {conversation.seed}, turn {number}, {turn.way}: {turn}"
        heard, asked = await proxied.take(turn)
        expected, meant = await direct.take(turn)
        assert agree(heard.told, expected.told), where
        assert asked.effective == meant.effective, where
        upload = await latest()
        yield upload
        _check_context(asked, meant, upload, where)
        _check_usage(heard, expected, asked, meant, where)
        assert upload != "http" or turn.after_silence or _is_refused(turn), where
        assert upload in ("delta", "http") or continued != turn.fields["model"] or turn.fault or turn.edit, where
        is_known = upload != "http" and heard.message is not None and _is_plain(turn)
        continued = turn.fields["model"] if is_known else None


def _check_context(asked: SimulatedTurn, meant: SimulatedTurn, upload: str, where: str) -> None:
    """Check that upstream reads what was said; what it holds of its own answers, it holds in its own order."""
    form = read_in_chat if upload == "delta" else read
    assert form(asked.context) == form(meant.context), where


def _check_usage(heard: Heard, expected: Heard, asked: SimulatedTurn, meant: SimulatedTurn, where: str) -> None:
    """Check that the usage is upstream's, in Chat's words, and there when it would be."""
    assert (heard.usage is None) == (expected.usage is None), where
    if heard.usage is None:
        return
    if asked.endpoint == "responses":
        parts = [part for item in meant.context for part in chat_messages.content_parts(item)]
        audio = any(part["type"] == "input_audio" for part in parts)
        assert heard.usage == usage_of(asked.usage, heard=audio), where
    assert heard.usage["completion_tokens"] == expected.usage["completion_tokens"], where
    if read(asked.context, reasoning=True) == read(meant.context):
        assert heard.usage["prompt_tokens"] == expected.usage["prompt_tokens"], where


def _is_refused(turn: Turn) -> bool:
    """Whether upstream refuses the request, or fails at it: then its own Chat endpoint has the last word."""
    return turn.fault is not None and turn.fault.status in (400, 404, 409, 422, 500)


def _is_plain(turn: Turn) -> bool:
    """Whether a Chat message tells all of an answer in its own order: reasoning, a text, calls."""
    kinds = [type(part) for part in turn.output.parts if not isinstance(part, Reasoning)]
    texts = kinds.count(Text)
    calls = all(kind in (FunctionCall, CustomToolCall) for kind in kinds[texts:])
    is_complete = isinstance(turn.output.finish, Completed) and turn.fault is None
    return bool(kinds) and kinds[:1] * texts == [Text] * texts and texts < 2 and calls and is_complete


def test_the_sessions_are_as_various_as_they_should_be() -> None:
    """Every way of asking, of answering and of echoing is among those that are held by default."""
    turns = [turn for seed in range(300) for turn in session(seed).turns]
    seen = Counter(name for turn in turns for name in _features(turn))
    rare = {name for name in ALL_FEATURES if seen[name] < 5}
    assert not rare, {name: seen[name] for name in rare}


def _features(turn: Turn) -> set[str]:
    contents = [message.get("content") for message in turn.said]
    parts = [part["type"] for content in contents if isinstance(content, list) for part in content]
    said = {type(part).__name__ for part in turn.output.parts}
    ending = turn.output.finish if turn.output.parts else "empty"
    return {turn.way, turn.echo, turn.edit, *turn.fields, *parts, *said, type(ending).__name__}


ALL_FEATURES = {
    *("create", "stream", "helper", "parse", "text", "image_url", "file", "input_audio", "refusal"),
    *("Text", "Declined", "FunctionCall", "CustomToolCall", "Reasoning", "Verbatim"),
    *("Completed", "Incomplete", "Failed", "str"),
    *("tools", "tool_choice", "parallel_tool_calls", "response_format", "reasoning_effort", "verbosity"),
    *("max_tokens", "max_completion_tokens", "temperature", "top_p", "metadata", "user", "service_tier", "store"),
    *("logprobs", "top_logprobs", "stream_options", "n", "stop", "seed", "frequency_penalty", "modalities"),
    *ECHOES,
    *EDITS,
}


# The same to the record


async def test_the_records_of_a_stream_are_the_same(proxied: Any, stack: AsyncExitStack) -> None:
    """Not only the SDK, but any client sees the same chunks, one by one, and the same end."""
    run = await proxied()
    direct = await stack.enter_async_context(Simulator())
    compared = 0
    for seed in range(60):
        turn = session(seed).turns[0]
        if turn.way != "stream" or turn.fault is not None:
            continue
        run.simulator.script, direct.script = scripted([turn.output]), scripted([turn.output])
        body = orjson.dumps({**turn.fields, "messages": turn.said, "stream": True})
        answers = [await _post(port, f"sk-{seed}", body) for port in (run.port, direct.port)]
        through, without = [_records(answer.body) for answer in answers]
        if answers[0].status == 200:
            assert answers[0].get("Content-Type") == answers[1].get("Content-Type") == EVENT_STREAM
            assert through == without, f"seed {seed}: {turn}"
            compared += 1
        else:
            assert _failed_early(without), f"seed {seed}: {turn}"
    assert compared > 10


async def _post(port: int, key: str, body: bytes) -> Message:
    peer = Peer(*await asyncio.open_connection("127.0.0.1", port))
    try:
        headers = ("Authorization", f"Bearer {key}"), ("Content-Type", "application/json")
        return await peer.ask("POST", "/v1/chat/completions", *headers, body=body)
    finally:
        peer.close()


def _records(body: bytes) -> list[Any]:
    """Return the records of a stream without what is another each time."""
    *records, end = body.split(b"\n\n")
    if not records:
        return []
    assert end == b""
    return [_comparable(record.removeprefix(b"data: ")) for record in records]


def _comparable(record: bytes) -> Any:
    if record == b"[DONE]":
        return record
    chunk = {name: value for name, value in orjson.loads(record).items() if name not in ("id", "created")}
    if chunk.get("obfuscation"):
        chunk["obfuscation"] = "..."
    if "error" in chunk:
        del chunk["error"]["type"]  # a failed response does not tell it
    return chunk


def _failed_early(records: list[Any]) -> bool:
    """Whether a stream has nothing but the role and an error, which is better told by a status."""
    return len(records) == 2 and "error" in records[1]


# What this would find


def _left_out(*names: str) -> Callable[[Any], Any]:
    """Return a mistake: a function's answer lacks *names*."""

    def spoil(function: Any) -> Any:
        def spoilt(*given: Any, **named: Any) -> Any:
            told = function(*given, **named)
            return {name: value for name, value in told.items() if name not in names}

        return spoilt

    return spoil


def _backwards(function: Any) -> Any:
    return lambda *given: list(function(*given))[::-1]


def _pictures_without_detail(given: Any) -> Any:
    key, translate = given["image_url"]
    return {**given, "image_url": (key, _left_out("detail")(translate))}


MISTAKES: dict[str, tuple[Any, str, Callable[[Any], Any]]] = {
    "strictness is left to upstream": (chat_request, "_tool", _left_out("strict")),
    "responses are stored": (chat_request, "settings", _left_out("store")),
    "a setting is dropped": (chat_request, "settings", _left_out("text")),
    "a limit is dropped": (chat_request, "settings", _left_out("max_output_tokens")),
    "the detail of pictures is dropped": (chat_messages, "_GIVEN", _pictures_without_detail),
    "calls come before the words beside them": (chat_messages, "_said", _backwards),
    "refusals are text": (chat_messages, "_refused", lambda _: chat_messages._spoken),
    "any words are an answer's echo": (
        items,
        "_MEANINGS",
        lambda meanings: {**meanings, "message": lambda raw: ["message", raw.get("role")]},
    ),
    "calls count more than being cut short": (
        chat_completion,
        "finish_reason",
        lambda _: lambda _response, *, called: "tool_calls" if called else "stop",
    ),
    "reasons are not translated": (chat_completion, "_FINISH_REASONS", lambda _: {}),
    "usage is left in upstream's words": (chat_completion, "usage", lambda _: lambda given, **_: given),
    "usage lacks its details": (chat_completion, "usage", _left_out("completion_tokens_details")),
    "logprobs lack bytes": (chat_completion, "_likely", _left_out("bytes")),
    "annotations are missing": (chat_completion, "message", _left_out("annotations")),
}


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")
@pytest.mark.parametrize("mistake", MISTAKES)
async def test_a_planted_mistake_is_found(world: Any, mistake: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each mistake in the front end shows within a hundred sessions."""
    owner, name, spoil = MISTAKES[mistake]
    monkeypatch.setattr(owner, name, spoil(getattr(owner, name)))
    with pytest.raises(AssertionError):
        await world(range(100))
