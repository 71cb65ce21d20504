"""``packlight bench``: a short session over a slow link, without packlight and with it, on this machine alone."""

import asyncio
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path

import aiohttp
import click
import orjson

from proxy import log
from proxy.cli.bench.profiles import PROFILES, Profile
from proxy.cli.bench.relay import Relay
from proxy.cli.demo import Model
from proxy.cli.demo.agent import Agent
from proxy.cli.demo.story import STORY, Step, story
from proxy.cli.demo.workspace import Workspace
from proxy.cli.stop import stoppable
from proxy.cli.terminal import Terminal, size
from proxy.config import Config
from proxy.server import Server
from proxy.simulator import Simulator

THINK_SECONDS = 0.4
EVENTS_PER_SECOND = 400


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a session took: *seconds* of waiting, bytes over the link, and whether upstream was never misled."""

    way: str
    seconds: float
    up: int
    down: int
    verified: bool


@click.command()
@click.option(
    "--profile", type=click.Choice(list(PROFILES)), default="geo", show_default=True, help="Which link to imitate."
)
@click.option("--turns", type=click.IntRange(2, len(STORY)), default=6, show_default=True, help="In the session.")
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
def bench(*, profile: str, turns: int, as_json: bool) -> None:
    """Measure what packlight saves on a slow link: no key, no network, no root, about half a minute.

    The demo's agent works over a relay with the rates and the round trip of the profile, directly and through
    packlight. Nothing is lost on the way, which is kind to plain HTTP. Exits 1 if upstream ever understood
    anything but the agent's own history.
    """
    log.configure("console", "warning")
    show: Callable[[str], None] = (lambda _line: None) if as_json else click.echo
    for line in heading(PROFILES[profile], turns):
        show(line)
    outcomes = asyncio.run(stoppable(measure(PROFILES[profile], turns, show)))
    if as_json:
        figures = {"profile": profile, "turns": turns, "ways": [asdict(each) for each in outcomes]}
        click.echo(orjson.dumps(figures, option=orjson.OPT_INDENT_2))
    show(ratio(*outcomes))
    sys.exit(0 if all(each.verified for each in outcomes) else 1)


async def measure(
    profile: Profile, turns: int, show: Callable[[str], None], *, think_seconds: float = THINK_SECONDS
) -> tuple[Outcome, Outcome]:
    """Run the session of *turns* turns directly and through packlight; *show* each as it ends."""
    outcomes = []
    for way in ("direct", "packlight"):
        outcomes.append(await _session(way, profile, islice(story(), turns), think_seconds))
        show(line(outcomes[-1]))
    direct, through = outcomes
    return direct, through


def heading(profile: Profile, turns: int) -> list[str]:
    """Return the lines above the figures."""
    rates = f"{profile.up / 1e6:g} Mbit/s up, {profile.down / 1e6:g} down"
    return [
        Terminal.here().style("packlight bench", bold=True),
        f"{profile.title}: {rates}, round trip {profile.round_trip * 1000:.0f} ms. A session of {turns} turns;",
        "the model thinks 0.4 s in each. Time is what the agent waits for answers; bytes are those of HTTP and",
        "WebSocket. The link is imitated: TCP's slow start, but no losses and no TLS; a real one is harder on",
        "whoever sends more.",
        "",
        f"{'':<12}{'time':>9}{'up':>11}{'down':>11}",
    ]


def line(outcome: Outcome) -> str:
    """Return *outcome* as a line of the table."""
    wrong = "" if outcome.verified else "  FAILED: upstream understood another history"
    return f"{outcome.way:<12}{outcome.seconds:>7.1f} s{size(outcome.up):>11}{size(outcome.down):>11}{wrong}"


def ratio(direct: Outcome, through: Outcome) -> str:
    """Return the line below the figures: how many times less it was through packlight."""
    times, ups, downs = (
        f"{before / after:.1f}x"
        for before, after in (
            (direct.seconds, through.seconds),
            (direct.up, through.up),
            (direct.down, through.down),
        )
    )
    return f"{'less':<12}{times:>9}{ups:>11}{downs:>11}"


async def _session(way: str, profile: Profile, steps: Iterable[Step], think_seconds: float) -> Outcome:
    model = Model()
    async with AsyncExitStack() as stack:
        simulator = await stack.enter_async_context(Simulator(script=model))
        relay = await stack.enter_async_context(Relay(simulator.port, profile))
        base = await stack.enter_async_context(_base(way, f"http://127.0.0.1:{relay.port}/v1"))
        http = await stack.enter_async_context(aiohttp.ClientSession())
        workspace = Workspace(Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="packlight-bench-"))))
        workspace.unpack()
        agent, verified = Agent(base, workspace, http), True
        for step in steps:
            model.step = _paced(step, think_seconds)
            sent = await agent.turn(step)
            verified = verified and simulator.turns[-1].context == sent.history
        return Outcome(way, agent.waited, relay.up.passed, relay.down.passed, verified)


def _paced(step: Step, think_seconds: float) -> Step:
    output = replace(step.output, first_event_seconds=think_seconds, event_seconds=1 / EVENTS_PER_SECOND)
    return replace(step, output=output)


@asynccontextmanager
async def _base(way: str, upstream: str) -> AsyncIterator[str]:
    """Yield the base that the agent is told: *upstream*'s own, or that of a proxy in between."""
    if way == "direct":
        yield upstream
        return
    async with Server(Config(port=0, upstream=upstream, provider="openai")) as server:
        yield f"{server.url}/v1"
