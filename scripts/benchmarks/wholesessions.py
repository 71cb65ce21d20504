"""Whole sessions: the command that runs them over emulated links, and tells what came of them."""

import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import asdict, replace
from multiprocessing import get_context
from pathlib import Path

import click
import orjson
from linkchart import chart
from linkplan import WAYS, Lived, Plan
from linktable import table

from proxy.cli.bench.profiles import PROFILES


def _names(choices: Iterable[str]) -> Callable[[click.Context, click.Parameter, str], tuple[str, ...]]:
    """Return a callback that takes names from *choices*, with commas between them."""

    def split(_context: click.Context, _parameter: click.Parameter, value: str) -> tuple[str, ...]:
        for name in value.split(","):
            if name not in choices:
                raise click.BadParameter(f"{name} is none of {', '.join(choices)}")
        return tuple(value.split(","))

    return split


@click.command("link")
@click.option(
    "--links", callback=_names(PROFILES), default=",".join(PROFILES), show_default=True, help="Those to emulate."
)
@click.option(
    "--ways", callback=_names(WAYS), default=",".join(WAYS), show_default=True, help="Those to reach upstream."
)
@click.option("--turns", type=click.IntRange(2), default=20, show_default=True, help="Requests in a session.")
@click.option("--seeds", default="1,2,3", show_default=True, help="Of sessions and losses; each is one run.")
@click.option(
    "--congestion", callback=_names(("cubic", "bbr", "reno")), default="cubic", show_default=True,
    help="TCP congestion control at both ends.",
)  # fmt: skip
@click.option("--jobs", type=click.IntRange(1), default=4, show_default=True, help="Sessions at the same time.")
@click.option("--json", "file", type=click.Path(path_type=Path, dir_okay=False), help="Where to keep the figures.")
@click.option("--svg", type=click.Path(path_type=Path, dir_okay=False), help="Where to draw them.")
@click.option(
    "--show", type=click.Path(path_type=Path, exists=True, dir_okay=False), multiple=True,
    help="Run nothing; tell what such files hold of these links and ways.",
)  # fmt: skip
def link(
    *,
    links: tuple[str, ...],
    ways: tuple[str, ...],
    turns: int,
    seeds: str,
    congestion: tuple[str, ...],
    jobs: int,
    file: Path | None,
    svg: Path | None,
    show: tuple[Path, ...],
) -> None:
    """Run agent sessions over emulated links: real TCP and TLS, packet by packet (Linux, as root).

    A session's time is that of the agent, thinking (0.4 s a turn) and tools (1 s) included; bytes are of IP, as
    the link carried them, handshakes and acknowledgements included.
    """
    plans = [
        Plan(each, way, seed, control, turns)
        for control in congestion
        for seed in map(int, seeds.split(","))
        for each in links
        for way in ways
    ]
    if show:
        kept = [each for name in show for each in stored(name)]
        sessions = [each for each in kept if each.plan.link in links and each.plan.way in ways]
        if not sessions:
            raise click.ClickException("these files hold no session of such a link and way")
    else:
        sessions = list(_run(plans, jobs))
    if file is not None:
        file.write_bytes(_written(sessions))
    for line in table(sessions):
        click.echo(line)
    if svg is not None:
        svg.write_text(chart(sessions), encoding="utf-8")
    if not show and len(sessions) < len(plans):
        sys.exit(1)


def _written(sessions: Iterable[Lived]) -> bytes:
    """Return *sessions* as JSON, one on a line, times to the millisecond."""
    rounded = (
        replace(
            each,
            seconds=round(each.seconds, 3),
            first_events=[round(seconds, 3) for seconds in each.first_events],
            turns=[round(seconds, 3) for seconds in each.turns],
        )
        for each in sessions
    )
    return b"[\n" + b",\n".join(orjson.dumps(asdict(each)) for each in rounded) + b"\n]\n"


def stored(file: Path) -> list[Lived]:
    """Return the sessions that an earlier run kept in *file*."""
    return [Lived(**{**each, "plan": Plan(**each["plan"])}) for each in orjson.loads(file.read_bytes())]


def _run(plans: list[Plan], jobs: int) -> Iterator[Lived]:
    """Yield what comes of *plans*, in their order; tell of each as it ends."""
    from linked import live  # noqa: PLC0415  it needs what only the tests' group installs
    from side import why_not  # noqa: PLC0415  as above

    if (reason := why_not()) is not None:
        raise click.ClickException(reason)
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        futures = {pool.submit(live, plan): plan for plan in plans}
        for future in as_completed(futures):
            click.echo(_told(futures[future], future), err=True)
        yield from (future.result() for future in futures if future.exception() is None)


def _told(plan: Plan, future: "Future[Lived]") -> str:
    name = f"{plan.link:<9} {plan.way:<11} seed {plan.seed} {plan.congestion}"
    if (failure := future.exception()) is not None:
        return f"{name} failed: {failure}"
    return f"{name} {future.result().seconds:7.1f} s"
