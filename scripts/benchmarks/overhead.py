"""What packlight costs, against no proxy and against a byte pump, interleaved in one run.

Upstream, pump and packlight run in processes of their own (`apart.py`); this one is the agents. Times are
medians over the rounds, with the lowest and the highest of them.
"""

import asyncio
import json  # noqa: TID251  (writes as Python agents do)
import os
import random
import re
import statistics
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import orjson

HERE = Path(__file__).parent
_AT = re.compile(rb'"at":(\d+)}')
_FAST = 1e9
"""A rate that no event has to wait for."""


class Program:
    """One of the other programs, running."""

    def __init__(self, name: str, process: asyncio.subprocess.Process) -> None:
        self.name = name
        self._process = process
        self.port = 0

    async def told(self, question: str = "") -> dict[str, Any]:
        """Return what it says of itself: port, cpu (seconds), rss (bytes)."""
        assert self._process.stdin is not None  # noqa: S101  (piped)
        assert self._process.stdout is not None  # noqa: S101
        self._process.stdin.write(question.encode() + b"\n")
        told: dict[str, Any] = orjson.loads(await self._process.stdout.readline())
        return told


@asynccontextmanager
async def running(name: str, *arguments: str, tree: Path | None = None) -> AsyncIterator[Program]:
    """Run `apart.py` with *arguments*; with *tree*, another checkout's packlight."""
    path = [str(tree or HERE.parent.parent), os.environ.get("PYTHONPATH", "")]
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(HERE / "apart.py"),
        *arguments,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, path))},
    )
    program = Program(name, process)
    try:
        program.port = (await program.told())["port"]
        yield program
    finally:
        assert process.stdin is not None  # noqa: S101  (piped)
        process.stdin.close()
        await process.wait()


@dataclass
class Seen:
    """What an agent saw of one turn, times in nanoseconds: until the *first* event, and each event's age."""

    began: int
    first: int = 0
    last: int = 0
    ages: list[int] = field(default_factory=list)


class Agent(asyncio.Protocol):
    """One agent on one connection, reading no more of an answer than the times in it."""

    # ruff: noqa: D102  (asyncio's own names)

    def __init__(self) -> None:
        self._rest = b""
        self._seen = Seen(0)
        self._over: asyncio.Future[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: asyncio.Transport = transport  # type: ignore[assignment]

    def connection_lost(self, exc: Exception | None) -> None:
        if self._over is not None and not self._over.done():
            self._over.set_exception(exc or ConnectionError("the answer broke off"))

    def data_received(self, data: bytes) -> None:
        now = time.monotonic_ns()
        text = self._rest + data
        ages = [now - int(at) for at in _AT.findall(text)]
        if ages:
            self._seen.ages += ages
            self._seen.first = self._seen.first or now
        if text.endswith(b"\r\n0\r\n\r\n"):
            self._seen.last = now
            assert self._over is not None  # noqa: S101  (a turn is on)
            self._over.set_result(None)
        self._rest = text[text.rfind(b'"at":') if ages else 0 :][-400:]
        if ages:
            self._rest = self._rest.partition(b"}")[2]

    async def turn(self, body: bytes, key: str) -> Seen:
        """Send *body* and wait for the whole answer."""
        self._rest, self._over = b"", asyncio.get_running_loop().create_future()
        self._seen = Seen(time.monotonic_ns())
        head = f"Host: 127.0.0.1\r\nAuthorization: Bearer {key}\r\nContent-Length: {len(body)}"
        kind = "Content-Type: application/json"
        self.transport.write(f"POST /v1/responses HTTP/1.1\r\n{kind}\r\n{head}\r\n\r\n".encode())
        self.transport.write(body)
        await self._over
        return self._seen


async def agent_at(port: int) -> Agent:
    """Connect an agent."""
    _, agent = await asyncio.get_running_loop().create_connection(Agent, "127.0.0.1", port)
    return agent


class Conversation:
    """A history of about *size* bytes that grows with every turn, written as the SDKs do.

    With *spaced* it is written as `json.dumps` does by default, with spaces between its tokens.
    """

    def __init__(self, size: float, seed: int, *, spaced: bool = False) -> None:
        self._spaced = spaced
        self._random = random.Random(seed)
        self._words = ["".join(self._random.choices("abcdefghijklmno", k=n % 9 + 2)) for n in range(2000)]
        self._number = 0
        self._fields = {"model": "model", "stream": True, "instructions": self._text(8000), "tools": []}
        self._input = [_message("user", self._text(400))]
        self._written = [orjson.dumps(self._input[0])]
        total = 0
        while total < size:
            total += self._call()
        self._say(self._text(300))

    def body(self, *, events: int, rate: float) -> bytes:
        """Return the next request; the answer has *events* pieces at *rate* a second."""
        text = self._text(120)
        metadata = {"events": str(events), "rate": str(rate), "text": text}
        head, behind = orjson.dumps(self._fields), orjson.dumps({"metadata": metadata})
        body = head[:-1] + b',"input":[' + b",".join(self._written) + b"]," + behind[1:]
        self._say(text)
        return json.dumps(orjson.loads(body)).encode() if self._spaced else body

    def _say(self, text: str) -> None:
        self._add({**_message("assistant", text), "id": "msg_1", "status": "completed"})
        self._add(_message("user", self._text(200)))

    def _call(self) -> int:
        self._number += 1
        call_id = f"call_{self._number}"
        thought = "".join(self._random.choices("ABCDEFGHIJKLMNOPabcdefghijklmnop0123456789+/", k=700))
        arguments = orjson.dumps({"command": self._text(150)}).decode()
        call = {"type": "function_call", "call_id": call_id, "name": "shell", "arguments": arguments}
        output = self._text(self._random.choice((300, 2000, 6000)))
        return (
            self._add({"type": "reasoning", "id": f"rs_{call_id}", "summary": [], "encrypted_content": thought})
            + self._add({"id": f"fc_{call_id}", **call, "status": "completed"})
            + self._add({"type": "function_call_output", "call_id": call_id, "output": output})
        )

    def _add(self, item: dict[str, Any]) -> int:
        self._written.append(orjson.dumps(item))
        return len(self._written[-1])

    def _text(self, size: int) -> str:
        return " ".join(self._random.choices(self._words, k=size // 7))[:size]


def _message(role: str, text: str) -> dict[str, Any]:
    kind = "output_text" if role == "assistant" else "input_text"
    part: dict[str, Any] = {"type": kind, "text": text}
    if role == "assistant":
        part["annotations"] = []
    return {"type": "message", "role": role, "content": [part]}


def spread(values: Iterable[float]) -> dict[str, float]:
    """Return the median, the lowest and the highest."""
    known = sorted(values)
    return {"median": statistics.median(known), "low": known[0], "high": known[-1]}


Ways = dict[str, Program | None]
"""Programs between the agents and upstream by name; None for none."""


async def measure_events(
    source: Program, ways: Ways, *, agents: int, rate: float, seconds: float, rounds: int
) -> list[dict[str, Any]]:
    """Stream to so many *agents* at *rate* each; return a row per way."""
    rounds_of: dict[str, list[dict[str, float]]] = {name: [] for name in ways}
    expected = int(rate * seconds)
    for number in range(rounds):
        for name, program in ways.items():
            port = program.port if program else source.port
            connected = [await agent_at(port) for _ in range(agents)]
            talks = [Conversation(20_000, seed) for seed in range(agents)]
            keys = [f"sk-{name}-{number}-{seed}" for seed in range(agents)]
            await asyncio.gather(
                *(a.turn(t.body(events=50, rate=rate), k) for a, t, k in zip(connected, talks, keys, strict=True))
            )
            before = await program.told() if program else None
            began = time.monotonic()
            seen = await asyncio.gather(
                *(
                    a.turn(t.body(events=expected, rate=rate), k)
                    for a, t, k in zip(connected, talks, keys, strict=True)
                )
            )
            took = time.monotonic() - began
            after = await program.told() if program else None
            ages = sorted(age for each in seen for age in each.ages)
            if len(ages) != expected * agents:
                sys.exit(f"{name}: {len(ages)} of {expected * agents} events arrived")
            figures = {
                "p50_us": ages[len(ages) // 2] / 1e3,
                "p99_us": ages[len(ages) * 99 // 100] / 1e3,
                "of_rate": len(ages) / took / (rate * agents),
            }
            if before and after:
                figures["cpu_us"] = (after["cpu"] - before["cpu"]) / len(ages) * 1e6
            rounds_of[name].append(figures)
            for agent in connected:
                agent.transport.close()
    return [
        {"way": name, "agents": agents, "rate": rate, **_columns(measured)} for name, measured in rounds_of.items()
    ]


def _columns(measured: list[dict[str, float]]) -> dict[str, Any]:
    return {name: spread(each[name] for each in measured) for name in measured[0]}


async def measure_turns(
    source: Program, ways: Ways, *, size: float, turns: int, rounds: int, spaced: bool
) -> list[dict[str, Any]]:
    """Take turns with a history of *size* bytes; return a row per way: a first turn, and the median of others."""
    rounds_of: dict[str, list[dict[str, float]]] = {name: [] for name in ways}
    for number in range(rounds):
        cells = []
        for name, program in ways.items():
            agent = await agent_at(program.port if program else source.port)
            cells.append(
                (name, program, agent, Conversation(size, number, spaced=spaced), f"sk-{name}-{size}-{number}")
            )
        taken: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
        for _ in range(turns + 1):
            for name, program, agent, talk, key in cells:
                body = talk.body(events=1, rate=_FAST)
                before = await program.told() if program else {"cpu": 0.0}
                seen = await agent.turn(body, key)
                after = await program.told() if program else {"cpu": 0.0}
                taken[name].append(((seen.first - seen.began) / 1e6, (after["cpu"] - before["cpu"]) * 1e3))
        for name, _, agent, _, _ in cells:
            first, *others = taken[name]
            rounds_of[name].append(
                {
                    "first_ms": first[0],
                    "first_cpu_ms": first[1],
                    "ttfe_ms": statistics.median(each[0] for each in others),
                    "cpu_ms": statistics.median(each[1] for each in others),
                }
            )
            agent.transport.close()
    return [{"way": name, "size": size, **_columns(measured)} for name, measured in rounds_of.items()]


async def measure_stalls(source: Program, ways: Ways, *, size: float, rounds: int) -> list[dict[str, Any]]:
    """Stream to one agent while another sends new histories of *size* bytes; return a row per way."""
    rounds_of: dict[str, list[dict[str, float]]] = {name: [] for name in ways}
    for number in range(rounds):
        for name, program in ways.items():
            port = program.port if program else source.port
            reader, sender = await agent_at(port), await agent_at(port)
            bodies = [
                Conversation(size, seed).body(events=1, rate=_FAST) for seed in range(3 * number, 3 * number + 3)
            ]
            body = Conversation(20_000, number).body(events=1500, rate=500)
            async with asyncio.TaskGroup() as tasks:
                listening = tasks.create_task(reader.turn(body, f"sk-{name}-reader-{number}"))
                await asyncio.sleep(0.5)
                for each in bodies:
                    await sender.turn(each, f"sk-{name}-sender-{number}")
            ages = sorted(listening.result().ages)
            rounds_of[name].append({"p99_ms": ages[len(ages) * 99 // 100] / 1e6, "worst_ms": ages[-1] / 1e6})
            for agent in (reader, sender):
                agent.transport.close()
    return [{"way": name, "size": size, **_columns(measured)} for name, measured in rounds_of.items()]


async def measure_memory(
    program: Program, *, conversations: int, size: float, turns: int, say: Callable[[str], None]
) -> dict[str, Any]:
    """Keep so many *conversations* alive on a connection each, then take *turns* more with one of them."""
    warm = await agent_at(program.port)
    talk = Conversation(size, 0)
    for _ in range(30):
        await warm.turn(talk.body(events=20, rate=_FAST), "sk-warm")
    before = (await program.told("gc"))["rss"]
    agents = []
    for seed in range(conversations):
        agent, talk = await agent_at(program.port), Conversation(size, seed + 1)
        for _ in range(3):
            await agent.turn(talk.body(events=20, rate=_FAST), "sk-memory")
        agents.append(agent)
    after = (await program.told("gc"))["rss"]
    if before is None:
        return {}
    kept = (after - before) / conversations
    say(f"{conversations} conversations of {size / 1e3:.0f} KB: {kept / 1e3:.0f} KB each, agents' connections too")
    marks = []
    talk = Conversation(20_000, 0)
    for number in range(turns):
        if number % 500 == 0:
            talk = Conversation(20_000, number)
        if number % max(turns // 5, 1) == 0:
            marks.append((await program.told("gc"))["rss"])
        await warm.turn(talk.body(events=3, rate=_FAST), "sk-long")
    marks.append((await program.told("gc"))["rss"])
    if turns:
        say(f"over {turns} turns, MB resident: " + ", ".join(f"{each / 1e6:.1f}" for each in marks))
    for agent in (*agents, warm):
        agent.transport.close()
    return {"conversations": conversations, "size": size, "each": kept, "over_turns": marks}


@click.command("overhead")
@click.option("--agents", default="1,8,64", show_default=True, help="How many stream at once.")
@click.option("--rate", default=4000.0, show_default=True, help="Events a second for each; in all 32,000 at most.")
@click.option("--seconds", default=2.0, show_default=True, help="How long each streams.")
@click.option("--sizes", default="0.05,0.5,1,2,4,8,16", show_default=True, help="Sizes of the history, MB.")
@click.option("--turns", default=6, show_default=True, help="Turns with each history, after the first.")
@click.option("--spaced", is_flag=True, help="Histories with spaces between the tokens of their JSON.")
@click.option("--rounds", default=5, show_default=True, help="How often all of it is repeated.")
@click.option("--conversations", default=100, show_default=True, help="Kept alive, to weigh them.")
@click.option("--long", "long_turns", default=10_000, show_default=True, help="Turns for which memory is watched.")
@click.option("--parts", default="events,turns,stalls,memory", show_default=True)
@click.option("--other", type=click.Path(path_type=Path, exists=True), help="Another checkout, to compare with.")
@click.option("--deflate", is_flag=True, help="Upstream compresses what it says.")
@click.option("--uvloop", is_flag=True, help="Also packlight and the pump on uvloop.")
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
def overhead(*, other: Path | None, deflate: bool, uvloop: bool, as_json: bool, parts: str, **wanted: Any) -> None:
    """Measure what packlight costs: per event and per turn, against no proxy and a byte pump, and in memory."""
    figures = asyncio.run(_measure(other, deflate, uvloop, set(parts.split(",")), as_json, **wanted))
    if as_json:
        click.echo(orjson.dumps(figures, option=orjson.OPT_INDENT_2).decode())


async def _measure(  # noqa: PLR0913  (a benchmark's knobs)
    other: Path | None,
    deflate: bool,  # noqa: FBT001
    uvloop: bool,  # noqa: FBT001
    parts: set[str],
    quiet: bool,  # noqa: FBT001
    *,
    agents: str,
    rate: float,
    seconds: float,
    sizes: str,
    turns: int,
    rounds: int,
    spaced: bool,
    conversations: int,
    long_turns: int,
) -> dict[str, Any]:
    figures: dict[str, Any] = {"events": [], "turns": [], "stalls": [], "memory": {}}
    say: Callable[[str], None] = (lambda _: None) if quiet else click.echo
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        source = await enter(running("source", "source", *(("deflate",) if deflate else ())))
        port = str(source.port)
        ways: Ways = {"direct": None, "pump": await enter(running("pump", "pump", port))}
        ways["packlight"] = await enter(running("packlight", "proxy", port))
        if uvloop:
            ways["pump, uvloop"] = await enter(running("pump", "pump", port, "uvloop"))
            ways["packlight, uvloop"] = await enter(running("packlight", "proxy", port, "uvloop"))
        if other is not None:
            ways["other"] = await enter(running("other", "proxy", port, tree=other))
        if "events" in parts:
            for count in map(int, agents.split(",")):
                each = min(rate, 8 * rate / count)
                rows = await measure_events(source, ways, agents=count, rate=each, seconds=seconds, rounds=rounds)
                figures["events"] += rows
                _say_events(rows, say)
        for size in (float(each) * 1e6 for each in sizes.split(",")):
            if "turns" in parts:
                rows = await measure_turns(source, ways, size=size, turns=turns, rounds=rounds, spaced=spaced)
                figures["turns"] += rows
                _say_turns(rows, say)
            if "stalls" in parts:
                rows = await measure_stalls(source, ways, size=size, rounds=rounds)
                figures["stalls"] += rows
                _say_stalls(rows, say)
        if "memory" in parts:
            for name, options in (("no compression", ()), ("deflate", ("deflate",))):
                say(f"memory, upstream's WebSocket with {name}")
                async with running("source", "source", *options) as weighed:
                    async with running("packlight", "proxy", str(weighed.port)) as program:
                        figures["memory"][name] = await measure_memory(
                            program, conversations=conversations, size=100_000, turns=long_turns, say=say
                        )
                    long_turns = 0
    return figures


def _say_events(rows: list[dict[str, Any]], say: Callable[[str], None]) -> None:
    say(f"\n{rows[0]['agents']} agents, {rows[0]['rate']:g} events/s each")
    say(f"{'':20}{'p50 us':>18}{'added':>8}{'of pump':>9}{'p99 us':>18}{'CPU us/event':>18}{'of rate':>9}")
    direct, pump = (row["p50_us"]["median"] for row in rows[:2])
    for row in rows:
        added = row["p50_us"]["median"] - direct
        ratio = f"{added / (pump - direct):.2f}" if added and pump > direct else ""
        cpu = _spread(row["cpu_us"]) if "cpu_us" in row else ""
        rate = row["of_rate"]["median"]
        p50, p99 = _spread(row["p50_us"]), _spread(row["p99_us"])
        say(f"{row['way']:20}{p50:>18}{added:>8.0f}{ratio:>9}{p99:>18}{cpu:>18}{rate:>9.1%}")


def _say_turns(rows: list[dict[str, Any]], say: Callable[[str], None]) -> None:
    mb = rows[0]["size"] / 1e6
    say(f"\nhistory of {mb:g} MB")
    columns = f"{'first event ms':>22}{'of direct':>11}{'CPU ms':>20}{'a MB':>8}{'first turn ms':>22}"
    say(f"{'':20}{columns}{'CPU ms':>20}")
    for row in rows:
        ratio = row["ttfe_ms"]["median"] / rows[0]["ttfe_ms"]["median"]
        first = f"{_spread(row['first_ms']):>22}{_spread(row['first_cpu_ms']):>20}"
        cpu = row["cpu_ms"]["median"]
        say(
            f"{row['way']:20}{_spread(row['ttfe_ms']):>22}{ratio:>11.2f}{_spread(row['cpu_ms']):>20}"
            f"{cpu / mb:>8.2f}{first}"
        )


def _say_stalls(rows: list[dict[str, Any]], say: Callable[[str], None]) -> None:
    say(f"\nan agent's events while another sends new histories of {rows[0]['size'] / 1e6:g} MB")
    say(f"{'':20}{'p99 ms':>20}{'worst ms':>20}")
    for row in rows:
        say(f"{row['way']:20}{_spread(row['p99_ms']):>20}{_spread(row['worst_ms']):>20}")


def _spread(values: dict[str, float]) -> str:
    digits = 1 if values["median"] < 100 else 0
    low, high = (f"{values[name]:.{digits}f}" for name in ("low", "high"))
    return f"{values['median']:.{digits}f} ({low}-{high})"
