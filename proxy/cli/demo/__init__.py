"""``packlight demo``: an agent session through the proxy, without a key and without a network."""

import asyncio
import sys
import tempfile
from collections.abc import Callable
from contextlib import AsyncExitStack
from itertools import islice
from pathlib import Path
from typing import Any, NoReturn

import aiohttp
import click
import orjson

from proxy import log
from proxy.cli.demo.agent import Agent, Sent
from proxy.cli.demo.report import Report, Row, Summary
from proxy.cli.demo.story import STORY, Step, story
from proxy.cli.demo.workspace import Workspace
from proxy.cli.stop import stoppable
from proxy.cli.terminal import Terminal
from proxy.config import Config
from proxy.server import Server
from proxy.simulator import ModelCall, Output, Simulator

FIGURES_SECONDS = 5
"""How long a finished turn's figures may take to appear."""


@click.command()
@click.option(
    "--turns", type=click.IntRange(1, 500), default=len(STORY), show_default=True,
    help="How many turns; after the story, the person asks for one review after another.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print a JSON summary alone.")
def demo(*, turns: int, as_json: bool) -> None:
    """Show what is saved: an agent repairs a small project, over the simulated upstream.

    Exits 1 if upstream ever understood anything but the agent's own history.
    """
    log.configure("console", "warning")
    show = _silent if as_json else click.echo
    finish(asyncio.run(stoppable(_session(turns, Report(Terminal.here()), show))), as_json=as_json)


def finish(summary: Summary, *, as_json: bool) -> NoReturn:
    """Print what is still to be printed, and exit: 0 if all is well, 1 if upstream was misled."""
    if as_json:
        click.echo(orjson.dumps(summary.as_json(), option=orjson.OPT_INDENT_2))
    sys.exit(0 if summary.verified else 1)


def _silent(_line: str) -> None:
    """Show nothing: the JSON comes at the end."""


class Model:
    """What the simulated upstream asks for words: those of the current *step*."""

    step: Step

    def __call__(self, _call: ModelCall) -> Output:
        """Give the words, whatever was asked."""
        return self.step.output


async def _session(turns: int, report: Report, show: Callable[[str], None]) -> Summary:
    async with AsyncExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="packlight-demo-"))
        workspace = Workspace(Path(directory))
        workspace.unpack()
        model = Model()
        simulator = await stack.enter_async_context(Simulator(script=model))
        server = await stack.enter_async_context(
            Server(Config(port=0, upstream=simulator.base_url, provider="openai"))
        )
        http = await stack.enter_async_context(aiohttp.ClientSession(f"{server.url}/"))
        agent = Agent(f"{server.url}/v1", workspace, http)
        for line in report.heading():
            show(line)
        rows: list[Row] = []
        for step in islice(story(), turns):
            model.step = step
            sent = await agent.turn(step)
            record = await record_of(len(rows) + 1, http)
            rows.append(_row(len(rows) + 1, sent, record, simulator))
            show(report.line(rows[-1]))
        summary = Summary(rows, await _figures(http, "stats"))
        for line in report.ending(summary):
            show(line)
        return summary


def _row(number: int, sent: Sent, record: dict[str, Any], simulator: Simulator) -> Row:
    return Row(
        number=number,
        new=sent.new,
        items_total=record["items_total"],
        items_sent=record["items_sent"],
        bytes_from_agent=record["bytes_from_agent"],
        bytes_to_upstream=record["bytes_to_upstream"],
        upload=record["upload"],
        reason=record["reason"],
        context_equal=simulator.turns[-1].context == sent.history,
    )


async def record_of(number: int, http: aiohttp.ClientSession) -> dict[str, Any]:
    """Return the figures of the turn that was the *number*-th; they appear a moment after its last byte."""
    async with asyncio.timeout(FIGURES_SECONDS):
        while True:
            turns = (await _figures(http, f"turns?limit={number}"))["turns"]
            if len(turns) == number:
                return dict(turns[0])
            await asyncio.sleep(0.01)


async def _figures(http: aiohttp.ClientSession, page: str) -> dict[str, Any]:
    async with http.get(f"_packlight/{page}") as response:
        return dict(orjson.loads(await response.read()))
