"""`peers`: the same sessions through other public proxies, in turn: bytes, time added to a turn, memory."""

import asyncio
import statistics
import tempfile
import textwrap
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import aiohttp
import click
import orjson
from agent import TurnFailed, play
from charts import Group, bars
from install import NotInstalled, default_cache
from link import Link
from peer import Peer, PeerFailed, Running, running
from peerage import OURS, PEERS
from session import Session
from shapes import SHAPES, Shape

from proxy.simulator import Simulator, SimulatorSettings

DIRECT = "direct"
FAILURE_WIDTH = 120


@dataclass(slots=True)
class Measured:
    """What one way came to, session by session: bytes *up* and *down*, tokens the model read, seconds by turn."""

    name: str
    version: str = ""
    told: str = ""
    up: list[int] = field(default_factory=list)
    down: list[int] = field(default_factory=list)
    read: list[int] = field(default_factory=list)
    seconds: list[list[float]] = field(default_factory=list)
    transports: list[str] = field(default_factory=list)
    resident_before: int | None = None
    resident_after: int | None = None
    failure: str | None = None


@dataclass(slots=True)
class Lane:
    """One way, with a link and an upstream of its own."""

    measured: Measured
    simulator: Simulator
    link: Link
    peer: Running | None

    async def play(self, shape: Shape, seed: int, *, counts: bool) -> None:
        """Play one session; note its figures if it *counts*."""
        if self.peer is not None:
            shape = replace(shape, model=self.peer.peer.model.format(shape.model))
        session = Session(shape, seed=seed)
        self.simulator.script = session.script()
        up, down, turns = self.link.up.passed, self.link.down.passed, len(self.simulator.turns)
        seconds: list[float] = []
        base_url = f"{self.link.base_url}" if self.peer is None else self.peer.base_url
        named = {
            name: value or f"session-{seed}" for name, value in (self.peer.headers if self.peer else {}).items()
        }
        await play(
            session,
            base_url,
            headers=named,
            told=lambda _number, each: seconds.append(each),
            clock=time.perf_counter,
        )
        if counts:
            self.measured.up.append(self.link.up.passed - up)
            self.measured.down.append(self.link.down.passed - down)
            self.measured.read.append(sum(turn.usage["input_tokens"] for turn in self.simulator.turns[turns:]))
            self.measured.seconds.append(seconds)
            self.measured.transports += [
                "delta" if turn.previous_response_id else turn.transport for turn in self.simulator.turns[turns:]
            ]


@click.command()
@click.option("--shape", "name", default="Codex gpt-5.5", show_default=True, type=click.Choice(list(SHAPES)))
@click.option("--rounds", default=5, show_default=True, help="Sessions of each, after one that does not count.")
@click.option(
    "--peer", "names", multiple=True, type=click.Choice([peer.name for peer in PEERS]), help="Only these."
)
@click.option("--cache", type=click.Path(path_type=Path), help="Where peers are installed and kept.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write all figures there.")
@click.option("--charts", type=click.Path(path_type=Path, file_okay=False), help="Draw into this folder.")
def peers(
    *,
    name: str,
    rounds: int,
    names: tuple[str, ...],
    cache: Path | None,
    json_file: Path | None,
    charts: Path | None,
) -> None:
    """Play the same sessions through packlight and other proxies, one after another, round by round."""
    chosen = [peer for peer in PEERS if not names or peer.name in names]
    measured = asyncio.run(measure(SHAPES[name], rounds, (OURS, *chosen), cache or default_cache()))
    figures = {"shape": name, "rounds": rounds, "rows": [figures_of(each, measured[0]) for each in measured]}
    for line in lines(figures):
        click.echo(line)
    if json_file is not None:
        json_file.parent.mkdir(parents=True, exist_ok=True)
        json_file.write_bytes(orjson.dumps(figures, option=orjson.OPT_APPEND_NEWLINE))
    if charts is not None:
        _draw(figures, charts)


async def measure(shape: Shape, rounds: int, chosen: Sequence[Peer], cache: Path) -> list[Measured]:
    """Play sessions without a proxy and through each of *chosen*: *rounds*, and one before that does not count."""
    all_measured = [Measured(DIRECT, told="no proxy")]
    async with AsyncExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="packlight-peers-")))
        for peer in chosen:
            _place(home, peer).mkdir()
        lanes = [await _lane(stack, all_measured[0], None, cache, home)]
        for peer in chosen:
            measured = Measured(peer.name, peer.version, peer.told)
            all_measured.append(measured)
            try:
                lanes.append(await _lane(stack, measured, peer, cache, home))
            except (PeerFailed, NotInstalled) as exc:
                measured.failure = str(exc)
        for number in range(rounds + 1):
            for lane in lanes[:]:
                try:
                    await lane.play(shape, number, counts=number > 0)
                except (TurnFailed, TimeoutError, aiohttp.ClientError) as exc:
                    lane.measured.failure = str(exc) or type(exc).__name__
                    lanes.remove(lane)
                if number == 0 and lane.peer is not None:
                    lane.measured.resident_before = lane.peer.resident()
            click.echo(f"round {number}", err=True)
        for lane in lanes:
            if lane.peer is not None:
                lane.measured.resident_after = lane.peer.resident()
    return all_measured


async def _lane(stack: AsyncExitStack, measured: Measured, peer: Peer | None, cache: Path, home: Path) -> Lane:
    settings = SimulatorSettings(refuse_duplicates=peer is None or not peer.lenient)
    simulator = await stack.enter_async_context(Simulator(settings))
    link = await stack.enter_async_context(Link(("127.0.0.1", simulator.port)))
    if peer is None:
        return Lane(measured, simulator, link, None)
    upstream = f"http://127.0.0.1:{link.port}"
    process = await stack.enter_async_context(running(peer, upstream, cache=cache, home=_place(home, peer)))
    return Lane(measured, simulator, link, process)


def _place(home: Path, peer: Peer) -> Path:
    return home / "".join(letter for letter in peer.name if letter.isalnum())


def figures_of(measured: Measured, direct: Measured) -> dict[str, Any]:
    """Return *measured* as figures, next to *direct*; see `lines`."""
    row: dict[str, Any] = {
        "name": measured.name,
        "version": measured.version,
        "told": measured.told,
        "failure": measured.failure,
        "up": measured.up,
        "down": measured.down,
        "read": measured.read,
        "transports": {kind: measured.transports.count(kind) for kind in sorted(set(measured.transports))},
        "resident_before": measured.resident_before,
        "resident_after": measured.resident_after,
    }
    if measured.failure is None:
        added = [
            (mine - theirs) * 1000
            for session, plain in zip(measured.seconds, direct.seconds, strict=True)
            for mine, theirs in zip(session, plain, strict=True)
        ]
        quarters = statistics.quantiles(added, n=4)
        row |= {
            "up_of_direct": statistics.median(a / b for a, b in zip(measured.up, direct.up, strict=True)),
            "down_of_direct": statistics.median(a / b for a, b in zip(measured.down, direct.down, strict=True)),
            "read_of_direct": statistics.median(a / b for a, b in zip(measured.read, direct.read, strict=True)),
            "added_ms": {"median": quarters[1], "quarter": quarters[0], "three_quarters": quarters[2]},
            "turn_ms": statistics.median(each * 1000 for session in measured.seconds for each in session),
        }
    return row


def lines(figures: dict[str, Any]) -> list[str]:
    """Return the table in Markdown."""
    told = [
        "| | turns upstream | up | of direct | down | of direct | read | added to a turn (quartiles) | memory |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in figures["rows"]:
        name = f"{row['name']} {row['version']}".strip()
        if row["failure"]:
            told.append(f"| {name} | {_short(row['failure'])} | | | | | | | |")
            continue
        kinds = ", ".join(f"{count} {kind}" for kind, count in row["transports"].items())
        up, down = statistics.median(row["up"]), statistics.median(row["down"])
        added = row["added_ms"]
        late = f"{added['median']:.1f} ms ({added['quarter']:.1f} to {added['three_quarters']:.1f})"
        memory = ""
        if row["resident_after"] is not None:
            memory = f"{row['resident_before'] / 2**20:.0f} -> {row['resident_after'] / 2**20:.0f} MiB"
        is_direct = row["name"] == DIRECT
        told.append(
            f"| {name} | {kinds} | {up:,.0f} | {row['up_of_direct']:.1%} | {down:,.0f} | "
            f"{row['down_of_direct']:.1%} | {row['read_of_direct']:.1%} | {'' if is_direct else late} | {memory} |"
        )
    return told


def _short(failure: str) -> str:
    """Return a reason that fits a table."""
    return textwrap.shorten(failure, FAILURE_WIDTH, placeholder=" ...").replace("|", "\\|")


def _draw(figures: dict[str, Any], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    rows = [row for row in figures["rows"] if row["failure"] is None]
    groups = [
        Group(
            row["name"],
            [row["up_of_direct"], row["down_of_direct"]],
            [f"{row['up_of_direct']:.1%}", f"{row['down_of_direct']:.1%}"],
        )
        for row in rows
    ]
    note = f"session of {figures['shape']}'s shape; TCP payload between each proxy and a simulated upstream"
    chart = bars("Bytes up and down, as part of no proxy's", note, ("up", "down"), groups)
    (folder / "peers.svg").write_text(chart, encoding="utf-8")
