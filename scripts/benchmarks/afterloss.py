"""What a turn takes whose connection was lost before it, with and without a warm-up while the agent was busy."""

import asyncio
from statistics import median
from typing import Literal

import aiohttp
import click
import orjson
from link import Link
from session import Item
from writer import Writer

from proxy.config import Config
from proxy.server import Server
from proxy.simulator import Simulator, SimulatorSettings, says

LATENCY = 0.1
"""Seconds each way."""


@click.command("loss")
@click.option("--kbits", default="200,1000", show_default=True, help="Rates of the link up, kbit/s.")
@click.option("--kilobytes", default=500, show_default=True, help="Size of the history.")
@click.option("--pauses", default="1,5,20", show_default=True, help="Seconds from the loss to the next turn.")
@click.option("--rounds", default=3, show_default=True)
def loss(*, kbits: str, kilobytes: int, pauses: str, rounds: int) -> None:
    """Lose the connection between two turns, over links that relay no faster than their rate."""
    click.echo(
        f"{kilobytes} KB of history, {2 * LATENCY:g} s round trip, medians of {rounds}: seconds to the answer"
    )
    click.echo(f"{'kbit/s':>8}{'pause':>8}{'off':>9}{'on':>9}{'bytes up, off':>16}{'on':>10}")
    for rate in map(int, kbits.split(",")):
        for pause in map(float, pauses.split(",")):
            off, on = asyncio.run(_both(rate, kilobytes * 1000, pause, rounds))
            seconds = f"{off[0]:>9.1f}{on[0]:>9.1f}"
            click.echo(f"{rate:>8}{pause:>7g}s{seconds}{off[1]:>16,.0f}{on[1]:>10,.0f}")


async def _both(rate: int, size: int, pause: float, rounds: int) -> list[tuple[float, float]]:
    modes: tuple[Literal["off", "on"], ...] = ("off", "on")
    cells = [_after_a_loss(rate, size, pause, mode, seed) for seed in range(rounds) for mode in modes]
    lived = await asyncio.gather(*cells)
    return [
        (median(seconds for seconds, _ in lived[way::2]), median(sent for _, sent in lived[way::2]))
        for way in range(2)
    ]


async def _after_a_loss(
    rate: int, size: int, pause: float, mode: Literal["off", "on"], seed: int
) -> tuple[float, int]:
    """Return how long the turn after the loss took, and the bytes that went up from the loss on."""
    async with (
        Simulator(SimulatorSettings(), script=lambda _call: says("done")) as simulator,
        Link(("127.0.0.1", simulator.port)) as link,
        Server(Config(port=0, upstream=link.base_url, warm_up=mode)) as server,
        aiohttp.ClientSession(headers={"Authorization": "Bearer sk-benchmark"}) as agent,
    ):
        history = [{"type": "message", "role": "user", "content": Writer(f"loss/{seed}").prose(size)}]
        history += await _ask(agent, server.url, history)
        link.up.latency = link.down.latency = LATENCY
        link.up.bandwidth = rate * 125
        link.reset()
        before, clock = simulator.bytes_in, asyncio.get_running_loop().time
        await asyncio.sleep(pause)
        began = clock()
        history.append({"type": "message", "role": "user", "content": "go on"})
        await _ask(agent, server.url, history)
        return clock() - began, simulator.bytes_in - before


async def _ask(agent: aiohttp.ClientSession, url: str, history: list[Item]) -> list[Item]:
    body = orjson.dumps({"model": "gpt-5.5", "store": False, "stream": True, "input": history})
    async with agent.post(f"{url}/v1/responses", data=body) as response:
        response.raise_for_status()
        lines = (await response.read()).splitlines()
    events = [orjson.loads(line[6:]) for line in lines if line.startswith(b"data: ")]
    return [event["item"] for event in events if event["type"] == "response.output_item.done"]
