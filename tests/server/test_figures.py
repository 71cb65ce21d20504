"""The figures: shapes that others rely on, numbers that a socket confirms, and never a word of a conversation."""

import asyncio
import io
import logging
import re
import socket
from collections.abc import Iterator
from contextlib import AsyncExitStack, suppress
from datetime import datetime
from pathlib import Path
from typing import Any, Self

import orjson
import pytest
import structlog

from proxy import __version__, log
from proxy.core.delta import Mismatch
from proxy.simulator import Fault, FunctionCall, Output, Reasoning, Text, says, scripted

KEY = ("Authorization", "Bearer key")
NUMBER = (int, float)


def message(text: str) -> dict[str, Any]:
    """Return a user's message."""
    return {"role": "user", "content": [{"type": "input_text", "text": text}]}


def ask(*items: Any, **fields: Any) -> dict[str, Any]:
    """Return a request."""
    return {"model": "m", "store": False, "input": list(items), **fields}


# Shapes.


async def test_health(proxied: Any) -> None:
    """It says that we run, which version, and towards which upstream."""
    run = await proxied()
    answer = await run.ask("GET", "/_packlight/health")
    assert (answer.status, answer.get("Content-Type")) == (200, "application/json")
    assert answer.json() == {"status": "ok", "version": __version__, "upstream": run.simulator.base_url}


STATS = {
    "turns": {"total": int, "delta": int, "full": int, "http": int, "failed": int},
    "full_reasons": {},
    "bytes": {"from_agents": int, "to_upstream": int, "from_upstream": int, "to_agents": int},
    "connections": {"open": int, "opened": int, "lost": int},
    "compression": {},
    "chains": {"collapsed": int},
    "hoists": {"turns": int, "proven": int, "disproven": int},
    "replays": {"safe": int, "ambiguous": int},
    "warm_ups": {"done": int, "interrupted": int, "refused": int, "failed": int},
    "link": {"state": str, "since": str, "detail": str},
    "since": str,
}


def shape(value: Any) -> Any:
    """Return the names and types in *value*."""
    return {name: shape(each) for name, each in value.items()} if isinstance(value, dict) else type(value)


async def test_stats_before_anything_happened(proxied: Any) -> None:
    """All totals are there, and nothing."""
    run = await proxied()
    stats = await run.figures()
    assert shape(stats) == STATS
    assert datetime.fromisoformat(stats["since"]).utcoffset() is not None
    link = stats.pop("link")
    assert (link["state"], link["detail"]) == ("ok", "")
    assert datetime.fromisoformat(link["since"]).utcoffset() is not None
    del stats["since"]
    assert {number for group in stats.values() for number in group.values()} == {0}


async def test_stats_count_turns_by_upload_and_reason(proxied: Any) -> None:
    """Each turn is one of delta, full and http; what was no delta has a reason."""
    run = await proxied()
    first = await run.post(ask(message("a")))
    await run.post(ask(message("a"), *first.json()["output"], message("b")))
    await run.post(ask(message("other"), model="n"))
    await run.post(ask(message("x"), background=True))
    await run.ask("POST", "/v1/chat/completions", KEY, body=b"{}")
    await run.ask("GET", "/v1/models", KEY)
    stats = await run.figures()
    assert stats["turns"] == {"total": 5, "delta": 1, "full": 2, "http": 2, "failed": 1}
    reasons = stats["full_reasons"]
    assert sum(reasons.values()) == 4
    assert (reasons["unsupported_field"], reasons["not_diffable"]) == (1, 1)
    assert set(reasons) <= {each.value for each in Mismatch}
    assert stats["connections"] == {"open": 2, "opened": 2, "lost": 0}


async def test_stats_count_lost_connections(proxied: Any) -> None:
    """A WebSocket that upstream closes is lost; it is no longer open."""
    run = await proxied(open_ahead=False)
    await run.post(ask(message("a")))
    await run.simulator.close_connections()
    await run.simulator.journal.until(lambda: not run.simulator.open_connections)
    await run.post(ask(message("b"), background=True))
    assert (await run.figures())["connections"] == {"open": 0, "opened": 1, "lost": 1}


@pytest.mark.parametrize(
    ("deflate", "shown"),
    [
        ("off", "none"),
        ("15", "permessage-deflate"),
        ("12", "permessage-deflate; server_max_window_bits=12"),
        ("no_takeover", "permessage-deflate; server_no_context_takeover; client_no_context_takeover"),
    ],
)
async def test_stats_show_what_compression_was_negotiated(proxied: Any, deflate: str, shown: str) -> None:
    """In upstream's own terms, for each WebSocket that was opened."""
    run = await proxied(simulated={"deflate": deflate}, open_ahead=False)
    await run.post(ask(message("a")))
    await run.post(ask(message("b"), store=True))
    assert (await run.figures())["compression"] == {shown: 2}
    metrics = (await run.ask("GET", "/metrics")).body.decode()
    assert f'packlight_compression_total{{extension="{shown}"}} 2' in metrics


@pytest.mark.parametrize("fields", [{}, {"background": True}])
async def test_what_is_kept_of_a_models_name_is_bounded(proxied: Any, fields: dict[str, Any]) -> None:
    """The figures keep many turns, and an agent may have put anything there."""
    run = await proxied()
    await run.post(ask(message("a"), model="m" * 100_000, **fields))
    (turn,) = (await run.figures("turns"))["turns"]
    assert turn["model"] == "m" * 100


TURN = {
    "id": str,
    "started_at": str,
    "front_end": str,
    "session": str,
    "model": str,
    "upload": str,
    "reason": str | None,
    "detail": str | None,
    "items_total": int,
    "items_sent": int,
    "bytes_from_agent": int,
    "bytes_to_upstream": int,
    "bytes_from_upstream": int,
    "bytes_to_agent": int,
    "ttft_ms": NUMBER,
    "duration_ms": NUMBER,
    "attempts": int,
    "status": str,
}


async def test_turns(proxied: Any) -> None:
    """A turn is listed with everything the contract names, newest first."""
    run = await proxied()
    first = await run.post(ask(message("a")))
    history = [message("a"), *first.json()["output"], message("b")]
    second = await run.post(ask(*history))
    newest, oldest = (await run.figures("turns"))["turns"]
    for turn in (newest, oldest):
        assert list(turn) == list(TURN)
        assert all(isinstance(turn[name], kind) for name, kind in TURN.items())
        assert datetime.fromisoformat(turn["started_at"]).utcoffset() is not None
        assert 0 <= turn["ttft_ms"] <= turn["duration_ms"]
        assert (turn["front_end"], turn["model"], turn["status"]) == ("responses", "m", "completed")
        assert turn["attempts"] == 1
    assert (oldest["upload"], oldest["reason"], oldest["items_total"], oldest["items_sent"]) == (
        "full",
        "first_turn",
        1,
        1,
    )
    assert (newest["upload"], newest["reason"], newest["items_total"], newest["items_sent"]) == (
        "delta",
        None,
        3,
        1,
    )
    assert newest["session"] == oldest["session"]
    assert re.fullmatch(r"[0-9a-f]{8}", newest["session"])
    assert newest["bytes_from_agent"] == len(orjson.dumps(ask(*history)))
    assert newest["bytes_to_agent"] == len(second.body)


async def test_what_never_left_was_not_sent(proxied: Any) -> None:
    """Where upstream refuses to open a WebSocket for a key, no item of the turn goes up."""
    run = await proxied()
    run.simulator.inject(Fault("handshake", "error", status=401, code="invalid_api_key", message="Not you."))
    assert (await run.post(ask(message("a")))).status == 401
    (turn,) = (await run.figures("turns"))["turns"]
    assert (turn["status"], turn["attempts"], turn["items_total"], turn["items_sent"]) == ("failed", 0, 1, 0)


async def test_times_are_in_milliseconds(proxied: Any) -> None:
    """A model that thinks for a twentieth of a second shows nothing before fifty of them."""
    run = await proxied(scripted([Output((Text("x"),), first_event_seconds=0.05)]))
    await run.post(ask(message("a"), stream=True))
    (turn,) = (await run.figures("turns"))["turns"]
    assert 50 <= turn["ttft_ms"] <= turn["duration_ms"] < 50_000


async def test_a_hundred_turns_are_shown_unless_more_are_asked_for(proxied: Any) -> None:
    """They fit a page."""
    run = await proxied()
    await run.post(ask(message("a")))
    (turn,) = run.server.ledger.turns(1)
    for _ in range(150):
        run.server.ledger.add(turn)
    counts = [len((await run.figures(page))["turns"]) for page in ("turns", "turns?limit=10000")]
    assert counts == [100, 151]


async def test_turns_are_limited(proxied: Any) -> None:
    """The newest ones are shown, as many as were asked for, of as many as are kept."""
    run = await proxied(turns_kept=3)
    for n in range(5):
        await run.post(ask(message(str(n))))
    ids = [turn["id"] for turn in (await run.figures("turns"))["turns"]]
    assert len(set(ids)) == 3
    assert [turn["id"] for turn in (await run.figures("turns?limit=2"))["turns"]] == ids[:2]
    assert (await run.figures())["turns"]["total"] == 5


@pytest.mark.parametrize(
    ("limit", "shown"),
    [("0", 0), ("1", 1), ("007", 2), ("10001", 2), ("9" * 9, 2), ("9" * 10, 2), ("9" * 5000, 2)],
)
async def test_any_number_of_turns_may_be_asked_for(proxied: Any, limit: str, shown: int) -> None:
    """A program that wants all of them need not know how many are kept."""
    run = await proxied()
    for n in range(2):
        await run.post(ask(message(str(n))))
    answer = await run.ask("GET", f"/_packlight/turns?limit={limit}")
    assert (answer.status, len(answer.json()["turns"])) == (200, shown)


async def test_more_turns_than_fit_some_megabytes_are_not_shown(proxied: Any) -> None:
    """However many are kept, and asked for."""
    run = await proxied(turns_kept=20_000)
    await run.post(ask(message("a")))
    (turn,) = run.server.ledger.turns(1)
    for _ in range(10_001):
        run.server.ledger.add(turn)
    for limit in ("20000", "9" * 12):
        assert len((await run.figures(f"turns?limit={limit}"))["turns"]) == 10_000


@pytest.mark.parametrize("limit", ["-1", "x", "", "1.5", "1e3", "%2B1", "%00", "%C2%B2"])
async def test_a_limit_that_makes_no_sense_is_refused(proxied: Any, limit: str) -> None:
    """It is a 400 that says what would make sense."""
    run = await proxied()
    answer = await run.ask("GET", f"/_packlight/turns?limit={limit}")
    assert answer.status == 400
    assert "whole number" in answer.json()["error"]


async def test_a_turn_that_fails_is_counted_as_such(proxied: Any) -> None:
    """Failed, incomplete and aborted turns are told apart."""
    run = await proxied()
    run.simulator.inject(Fault("before_created", "error", status=503))
    await run.post(ask(message("a")))
    run.simulator.inject(Fault("after_created", "abort"))
    with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
        await run.post(ask(message("b"), stream=True))
    run.simulator.inject(Fault("after_created", "silence"))
    agent = await run.dial()
    body = orjson.dumps(ask(message("c"), stream=True))
    await agent.begin("POST", "/v1/responses", KEY, ("Content-Length", str(len(body))))
    await agent.send(body)
    await agent.head()
    agent.close()
    await run.recorded(3)
    assert [record.status for record in run.server.ledger.turns(9)] == ["aborted", "failed", "failed"]


async def test_a_request_that_ended_before_it_was_there_has_no_reason(proxied: Any) -> None:
    """It is counted by what came of it; how it would have gone upstream nobody knows."""
    run = await proxied(body_timeout=0.1)
    agent = await run.dial()
    await agent.begin("POST", "/v1/responses", KEY, ("Content-Length", "1000"))
    await agent.send(b"x" * 400)
    assert (await agent.message()).status == 408
    (turn,) = (await run.figures("turns"))["turns"]
    assert (turn["status"], turn["upload"], turn["reason"], turn["attempts"]) == ("failed", "http", None, 0)
    assert (turn["bytes_from_agent"], turn["bytes_to_upstream"]) == (400, 0)
    assert (await run.figures())["full_reasons"] == {}


SAMPLE = re.compile(r'([a-z_]+)(?:\{([a-z_]+)="([^"\\\n]*)"\})? (\d+)')


async def test_no_counter_falls(proxied: Any) -> None:
    """What an upload that was given up takes back is not taken for a restart; it is made good by what follows."""
    run = await proxied()
    shown = []
    for sent in (1000, 400, 900, 1100):
        run.server.ledger.upstream.sent = sent
        assert (await run.figures())["bytes"]["to_upstream"] == sent
        metrics = (await run.ask("GET", "/metrics")).body.decode()
        shown += re.findall(r'packlight_bytes_total\{boundary="to_upstream"\} (\d+)', metrics)
    assert shown == ["1000", "1000", "1000", "1100"]


async def test_metrics(proxied: Any) -> None:
    """The Prometheus text has a HELP, a TYPE and the same numbers as the stats for every family."""
    run = await proxied()
    await run.post(ask(message("a")))
    await run.ask("POST", "/v1/chat/completions", KEY, body=b"{}")
    stats = await run.figures()
    answer = await run.ask("GET", "/metrics")
    assert answer.get("Content-Type") == "text/plain; version=0.0.4; charset=utf-8"
    text = answer.body.decode()
    assert text.endswith("\n")
    described: dict[str, set[str]] = {"HELP": set(), "TYPE": set()}
    samples: dict[tuple[str, str], int] = {}
    for line in text.splitlines():
        if line.startswith("# "):
            _, what, name, _ = line.split(" ", 3)
            assert name not in described[what]
            described[what].add(name)
        else:
            found = SAMPLE.fullmatch(line)
            assert found is not None, line
            assert found[1] in described["HELP"] & described["TYPE"]
            samples[found[1], found[3] or ""] = int(found[4])
    assert described["HELP"] == described["TYPE"]
    for upload in ("delta", "full", "http"):
        assert samples["packlight_turns_total", upload] == stats["turns"][upload]
    for boundary, count in stats["bytes"].items():
        assert samples["packlight_bytes_total", boundary] == count
    for reason, count in stats["full_reasons"].items():
        assert samples["packlight_full_reasons_total", reason] == count
    assert samples["packlight_connections_open", ""] == stats["connections"]["open"]
    assert samples["packlight_turns_ended_total", "completed"] == 1
    assert samples["packlight_turns_ended_total", "failed"] == stats["turns"]["failed"] == 1


async def test_every_figure_is_in_the_document(proxied: Any) -> None:
    """docs/figures.md has each page's fields and each metric, and nothing that is not there."""
    run = await proxied()
    await run.post(ask(message("a")))
    parts = re.split(
        r"^## ", (Path(__file__).parents[2] / "docs/figures.md").read_text(encoding="utf-8"), flags=re.MULTILINE
    )
    rows = {
        part.partition("\n")[0]: [
            name
            for cells in re.findall(r"^\| (`[^|]*) \|", part, re.MULTILINE)
            for name in re.findall(r"`(\w+)`", cells)
        ]
        for part in parts
    }
    stats = orjson.loads((await run.ask("GET", "/_packlight/stats")).body)
    (turn,) = orjson.loads((await run.ask("GET", "/_packlight/turns")).body)["turns"]
    metrics = re.findall(r"^# TYPE (\w+) ", (await run.ask("GET", "/metrics")).body.decode(), re.MULTILINE)
    assert sorted(rows["Totals (`stats`)"]) == sorted(stats)
    assert sorted(rows["A turn (`turns`)"]) == sorted(turn)
    assert rows["Metrics (`/metrics`)"] == metrics


@pytest.mark.parametrize("path", ["/_packlight", "/_packlight/", "/_packlight/nothing", "/_packlight/stats/"])
async def test_other_pages_are_not_there(proxied: Any, path: str) -> None:
    """What is not a page of ours is a 404, and nothing of it goes upstream."""
    run = await proxied()
    assert (await run.ask("GET", path)).status == 404
    assert (await run.ask("POST", path)).status == 404
    assert run.simulator.requests == []


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
@pytest.mark.parametrize("path", ["/_packlight/health", "/_packlight/stats", "/_packlight/turns", "/metrics"])
async def test_figures_are_read_alone(proxied: Any, path: str, method: str) -> None:
    """Another method is a 405 that names those that are allowed (RFC 9110, section 15.5.6)."""
    run = await proxied()
    answer = await run.ask(method, path)
    assert answer.status == 405
    assert ("Allow", "GET, HEAD") in answer.headers
    assert f"{path} is read with GET" in orjson.loads(answer.body)["error"]["message"]
    assert (await run.ask("HEAD", path)).status == 200
    assert run.simulator.requests == []


# Numbers.


class Relay:
    """A TCP relay to *port* that counts what passes."""

    def __init__(self, port: int) -> None:
        self.port = 0
        self.up = self.down = 0
        self._to = port
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        onward_reader, onward_writer = await asyncio.open_connection("127.0.0.1", self._to)
        with suppress(ConnectionError, asyncio.CancelledError):
            await asyncio.gather(
                self._carry(reader, onward_writer, "up"), self._carry(onward_reader, writer, "down")
            )
        writer.close()
        onward_writer.close()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: str) -> None:
        while data := await reader.read(65536):
            setattr(self, way, getattr(self, way) + len(data))
            writer.write(data)
            await writer.drain()
        writer.write_eof()


def varied(call: Any) -> Output:
    """Answer with reasoning, words and a call, of a length that depends on the turn."""
    return says(Reasoning(size=300 + call.number), f"answer {call.number} " * 20, FunctionCall("f", '{"n": 1}'))


@pytest.mark.parametrize("deflate", ["15", "off"])
async def test_totals_agree_with_the_wire(proxied: Any, stack: AsyncExitStack, deflate: str) -> None:
    """Over a session of every kind of request, a relay before upstream counts what the figures say."""
    behind = await proxied(varied, simulated={"deflate": deflate})
    relay = await stack.enter_async_context(Relay(behind.simulator.port))
    run = await proxied(upstream=f"http://127.0.0.1:{relay.port}/v1")
    from_agents = to_agents = 0

    async def send(method: str, target: str, body: bytes = b"", *headers: tuple[str, str]) -> Any:
        nonlocal from_agents, to_agents
        answer = await run.ask(method, target, KEY, *headers, body=body)
        from_agents += len(body)
        to_agents += len(answer.body)
        return answer

    history: list[Any] = []
    for n in range(8):
        history.append(message(f"question {n} " * 50))
        answer = await send("POST", "/v1/responses", orjson.dumps(ask(*history)))
        history += answer.json()["output"]
        calls = [item["call_id"] for item in answer.json()["output"] if item["type"] == "function_call"]
        history += [{"type": "function_call_output", "call_id": call, "output": "done"} for call in calls]
        await send("POST", "/v1/responses", orjson.dumps(ask(message(f"aside {n}"), stream=True)))
        await send("POST", "/v1/responses", orjson.dumps(ask(message(f"own {n}"), background=n % 2 == 0)))
        await send("GET", "/v1/models")
        await send("POST", "/v1/echo/raw", bytes(5000 * n))
        await send("POST", "/v1/chat/completions", b'{"model":"m","messages":[{"role":"user","content":"x"}]}')
        await send("POST", "/v1/responses", b"{", ("Content-Encoding", "br"))
    await run.figures()
    bytes_of = (await run.figures())["bytes"]
    assert bytes_of["from_agents"] == from_agents
    assert bytes_of["to_agents"] == to_agents
    assert bytes_of["to_upstream"] == pytest.approx(relay.up, rel=0.02)
    assert bytes_of["from_upstream"] == pytest.approx(relay.down, rel=0.02)
    assert (behind.simulator.bytes_in, behind.simulator.bytes_out) == (relay.up, relay.down)
    assert (await run.figures())["turns"]["delta"] >= 7


async def test_turns_add_up_to_the_totals(proxied: Any) -> None:
    """Where there were turns alone, their bytes are the totals, handshakes included."""
    run = await proxied(varied)
    for n in range(6):
        await run.post(ask(message(f"a {n}"), stream=bool(n % 2), background=n == 4))
    totals = (await run.figures())["bytes"]
    turns = (await run.figures("turns"))["turns"]
    for total, each in {
        "from_agents": "bytes_from_agent",
        "to_agents": "bytes_to_agent",
        "to_upstream": "bytes_to_upstream",
        "from_upstream": "bytes_from_upstream",
    }.items():
        assert sum(turn[each] for turn in turns) == totals[total]


# Words.


@pytest.fixture
def logged() -> Iterator[io.StringIO]:
    """Log everything, from us and the libraries, as the command does; return what is written."""
    stream = io.StringIO()
    before = {name: logging.getLogger(name) for name in log.LIBRARIES}  # noqa: TID251
    kept = {name: (each.handlers, each.level, each.propagate) for name, each in before.items()}
    log.configure("json", "debug", stream=stream)
    yield stream
    structlog.reset_defaults()
    for name, each in before.items():
        each.handlers, each.level, each.propagate = kept[name]


def canary(place: str) -> str:
    """Return a word that is found wherever it leaks, and that no pattern of a key would mask."""
    return f"zqx{place.replace(' ', '')}xqz"


async def test_no_content_and_no_credential_is_ever_shown(proxied: Any, logged: io.StringIO) -> None:
    """Whatever agents and upstream say, nothing of it is in the logs or in the figures."""
    secret = [
        ("Authorization", f"Bearer {canary('authorization')}"),
        ("api-key", canary("api key")),
        ("Cookie", f"session={canary('cookie')}"),
        ("OpenAI-Organization", canary("organization")),
        ("X-Custom", canary("custom header")),
        (f"X-{canary('header name')}", "1"),
        ("User-Agent", canary("user agent")),
    ]
    run = await proxied(lambda _: says(Reasoning((canary("reasoning"),)), canary("answer")), body_timeout=0.1)

    def body(**fields: Any) -> bytes:
        said = message(canary("input"))
        return orjson.dumps(
            ask(said, instructions=canary("instructions"), metadata={canary("field"): canary("value")}, **fields)
        )

    async def send(method: str, target: str, data: bytes = b"", *headers: tuple[str, str]) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            await run.ask(method, f"{target}?q={canary('query')}", *headers, *secret, body=data)

    async def every_kind() -> None:
        await send("POST", "/v1/responses", body())
        await send("POST", "/v1/responses", body(stream=True))
        await send("POST", "/v1/responses", body(background=True))
        await send("POST", "/v1/responses", body()[:-5])
        await send("POST", "/v1/responses", body(), ("Content-Encoding", canary("encoding")))
        await send("POST", "/v1/chat/completions", body())
        await send("POST", f"/v1/files/{canary('path')}", body())
        await send("GET", f"/{canary('wrong path')}")
        await send("GET", "/v1/models", b"", ("Host", canary("host")))
        await send("GET", "/v1/models", b"", ("Origin", f"https://{canary('origin')}"))

    await every_kind()
    run.simulator.settings.require_key = False
    for moment in ("before_created", "after_created"):
        for trouble in ("error", "abort", "garbage", "binary", "pretty", "close"):
            run.simulator.inject(
                Fault(moment, trouble, message=canary("error message"), body=canary("page").encode())
            )
            await send("POST", "/v1/responses", body(stream=True))
    for status in (401, 429, 500, 200):
        page = canary("handshake page").encode()
        run.simulator.abort_connections()
        run.simulator.inject(Fault("handshake", "error", status=status, message=canary("refusal"), body=page))
        await send("POST", "/v1/responses", body(stream=True))
    await run.simulator.stop()
    await every_kind()
    for nonsense in (
        f"GET / HTTP/1.1\r\nHost: localhost\r\nX: {canary('bad header')}\x00\r\n\r\n",
        f"{canary('bad method')}\x01 / HTTP/1.1\r\n\r\n",
        f"GET /{canary('bad target')} HTTP/9.9\r\n\r\n",
        f"POST /v1/responses HTTP/1.1\r\nHost: localhost\r\nContent-Length: {canary('bad length')}\r\n\r\n",
        f"POST /v1/responses HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9999\r\n\r\n{canary('stalled')}",
        f"POST /v1/files HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n{canary('chunk')}\r\n",
    ):
        agent = await run.dial()
        await agent.send(nonsense.encode())
        await agent.message()
    pages = ("/_packlight/health", "/_packlight/stats", "/_packlight/turns", "/metrics")
    shown = [logged.getvalue(), *[str((await run.ask("GET", page)).body) for page in pages]]
    shown += [repr(record) for record in run.server.ledger.turns(1000)]
    assert logged.getvalue().count('"event":"turn"') > 20
    leaked = set(re.findall(r"zqx[a-z]+xqz", " ".join(shown).lower()))
    assert leaked == set()


async def test_one_line_a_turn(proxied: Any, logged: io.StringIO) -> None:
    """A turn is one log line that says what the figures say; what passes through is none."""
    run = await proxied()
    await run.post(ask(message("a")))
    await run.ask("GET", "/v1/models", KEY)
    lines = [orjson.loads(line) for line in logged.getvalue().splitlines()]
    (line,) = [line for line in lines if line["event"] == "turn"]
    (turn,) = (await run.figures("turns"))["turns"]
    for name in turn.keys() - {"started_at"}:
        assert line[name] == (pytest.approx(turn[name], abs=0.01) if name.endswith("_ms") else turn[name])


@pytest.mark.parametrize("status", [403, 404, 426, 501])
async def test_an_upstream_without_websockets_is_no_trouble(
    proxied: Any, logged: io.StringIO, status: int
) -> None:
    """Plain HTTP is a way like any other: the turn's line says why, and nothing worse is logged."""
    run = await proxied(simulated={"refuse_upgrade": status})
    assert (await run.post(ask(message("a")))).status == 200
    lines = [orjson.loads(line) for line in logged.getvalue().splitlines()]
    assert [(line["event"], line["level"]) for line in lines] == [("turn", "info")]
    assert (lines[0]["upload"], lines[0]["reason"]) == ("http", "no_websocket")


async def test_a_closed_port_stays_closed(proxied: Any) -> None:
    """After the server has drained nobody answers there any more."""
    run = await proxied()
    await run.server.drain()
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", run.port)) != 0
