"""Benchmarks as ratios within one run: bytes on the network, uploads over a narrow link, whole sessions."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import click
import orjson
from darkness import dark
from session import Session
from uploads import Cell, Outcome
from uploads import run as upload
from wholesessions import link

from proxy import log
from proxy.config import Config
from proxy.server import Server
from proxy.simulator import Simulator, SimulatorSettings


@click.group()
def main() -> None:
    """Measure packlight on the simulated upstream."""
    log.configure("console", "error")


main.add_command(dark)
main.add_command(link)


@main.command("bytes")
@click.option("--turns", default=20, show_default=True, help="Requests in the session.")
@click.option("--settings", default=26_000, show_default=True, help="Bytes of instructions and tools.")
@click.option("--seed", default=1, show_default=True, help="Of the generated session.")
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
def count_bytes(*, turns: int, settings: int, seed: int, as_json: bool) -> None:
    """Count bytes at the upstream's socket: plain HTTP keep-alive against packlight, heads and frames included."""
    figures = asyncio.run(_count(turns, settings, seed))
    if as_json:
        click.echo(orjson.dumps(figures, option=orjson.OPT_INDENT_2).decode())
        return
    plain = figures["rows"][0]
    click.echo(f"{turns} turns, {figures['settings_bytes']:,} bytes of settings with each, seed {seed}")
    click.echo(f"{'':34}{'up':>12}{'of HTTP':>9}{'down':>12}{'of HTTP':>9}{'deltas':>8}")
    for row in figures["rows"]:
        click.echo(
            f"{row['name']:34}{row['up']:>12,}{row['up'] / plain['up']:>9.2%}"
            f"{row['down']:>12,}{row['down'] / plain['down']:>9.2%}{row['deltas']:>8}"
        )
    carried = figures["delta_must_carry"]
    click.echo(f"without deflate a delta must carry {carried:,} bytes of JSON ({carried / plain['up']:.2%})")


@main.command("uploads")
@click.option("--kbits", default="64,200,500", show_default=True, help="Rates of the link, kbit/s.")
@click.option("--sizes", default="0.1,1,4", show_default=True, help="Sizes of the message, MB.")
@click.option("--bloat", default="0,8", show_default=True, help="Seconds of the rate that queue in front of it.")
@click.option("--ping", default=20.0, show_default=True, help="The server's ping interval and timeout, seconds.")
@click.option("--scale", default=1.0, show_default=True, help="Run all of it this many times faster.")
@click.option("--unpaced", is_flag=True, help="Send each message as one frame, to compare.")
def fill_links(*, kbits: str, sizes: str, bloat: str, ping: float, scale: float, unpaced: bool) -> None:
    """Upload over a narrow link to a server that pings; fail unless all arrive at 90 % of its rate."""
    cells = [
        Cell(int(float(size) * 1e6), float(rate) * 125, ping, float(queue), paced=not unpaced).faster(scale)
        for rate in kbits.split(",")
        for size in sizes.split(",")
        for queue in bloat.split(",")
    ]
    click.echo(f"{'kbit/s':>8}{'MB':>6}{'bloat':>7}{'seconds':>10}{'of the rate':>13}")
    outcomes = [_told(asyncio.run(upload(cell)), scale) for cell in cells]
    if not unpaced and any(outcome.share < 0.9 for outcome in outcomes):
        sys.exit(1)


def _told(outcome: Outcome, scale: float) -> Outcome:
    cell = outcome.cell
    click.echo(
        f"{cell.rate / 125 / scale:>8.0f}{cell.size / 1e6:>6g}{cell.bloat * scale:>6.0f}s"
        f"{outcome.seconds * scale:>10.1f}{outcome.lost or format(outcome.share, '.1%'):>13}"
    )
    return outcome


async def _count(turns: int, settings: int, seed: int) -> dict[str, Any]:
    plain, must_carry, size = await _plain(turns, settings, seed)
    rows = [{"name": "plain HTTP, keep-alive", **plain, "deltas": 0}]
    for name, deflate in (
        ("packlight, deflate 15 bit", "15"),
        ("packlight, deflate 12 bit", "12"),
        ("packlight, deflate no takeover", "no_takeover"),
        ("packlight, no deflate", "off"),
    ):
        rows.append({"name": name, **await _through_packlight(turns, settings, seed, deflate)})
    return {"turns": turns, "settings_bytes": size, "seed": seed, "rows": rows, "delta_must_carry": must_carry}


async def _plain(turns: int, settings: int, seed: int) -> tuple[dict[str, int], int, int]:
    session = Session(turns=turns, settings=settings, seed=seed)
    async with Simulator(SimulatorSettings(), script=session.script()) as simulator:
        must_carry = await _drive(session, simulator.base_url)
        return {"up": simulator.bytes_in, "down": simulator.bytes_out}, must_carry, session.settings_size


async def _through_packlight(turns: int, settings: int, seed: int, deflate: Any) -> dict[str, int]:
    session = Session(turns=turns, settings=settings, seed=seed)
    async with _packlight(session, deflate) as (simulator, server):
        await _drive(session, f"{server.url}/v1")
        stats = server.ledger.stats()
        same = [stats["bytes"]["to_upstream"], stats["bytes"]["from_upstream"]]
        if same != [simulator.bytes_in, simulator.bytes_out]:
            sys.exit(f"packlight counted {same}, its upstream {[simulator.bytes_in, simulator.bytes_out]}")
        return {"up": simulator.bytes_in, "down": simulator.bytes_out, "deltas": stats["turns"]["delta"]}


@asynccontextmanager
async def _packlight(session: Session, deflate: Any) -> AsyncIterator[tuple[Simulator, Server]]:
    async with (
        Simulator(SimulatorSettings(deflate=deflate), script=session.script()) as simulator,
        Server(Config(port=0, upstream=simulator.base_url)) as server,
    ):
        yield simulator, server


async def _drive(session: Session, base_url: str) -> int:
    """Send the whole history each turn, as agents do; return how many bytes of JSON are new, settings included."""
    history: list[dict[str, Any]] = [session.prompt]
    new, must_carry = list(history), 0
    headers = {"Authorization": "Bearer sk-benchmark", "Content-Type": "application/json"}
    async with aiohttp.ClientSession(headers=headers) as http:
        for number in range(session.turns):
            must_carry += len(orjson.dumps({**session.fields, "input": new}))
            body = orjson.dumps({**session.fields, "input": history})
            async with http.post(f"{base_url}/responses", data=body) as response:
                response.raise_for_status()
                output = _output((await response.read()).decode())
            new = []
            if number < session.turns - 1:
                call = next(item for item in output if item["type"] == "function_call")
                result = {
                    "type": "function_call_output",
                    "call_id": call["call_id"],
                    "output": session.outputs[number],
                }
                new = [result]
            history += output + new
    return must_carry


def _output(stream: str) -> list[dict[str, Any]]:
    records = [record.partition("\ndata: ")[2] for record in stream.split("\n\n") if record]
    events = [orjson.loads(record) for record in records]
    if events[-1]["type"] != "response.completed":
        sys.exit(f"the turn ended with {events[-1]['type']}")
    return [event["item"] for event in events if event["type"] == "response.output_item.done"]


if __name__ == "__main__":
    main()
