"""Upstream: the simulated provider as a process of its own, that takes orders and writes down what it read.

Orders come as JSON on standard input, one a line: the fields of a `Fault`, and *of_deltas* for one that only
turns with a parent can have. The journal gets a line for each
answer that is begun, and outlives a process that is killed.
"""

import asyncio
import sys
from pathlib import Path
from typing import Any, BinaryIO

import click
import orjson
from answers import answer_to

from proxy.simulator import Fault, ModelCall, Output, Script, Simulator, SimulatorSettings, digest


@click.command()
@click.option("--port", default=0)
@click.option("--seed", default=0)
@click.option("--event-seconds", default=0.002)
@click.option("--journal", type=click.Path(path_type=Path), required=True)
def main(*, port: int, seed: int, event_seconds: float, journal: Path) -> None:
    """Serve until standard input ends."""
    settings = SimulatorSettings(
        seed=seed,
        keep_records=100,
        event_seconds=event_seconds,
        ping_interval=2,
        ping_timeout=4,
        close_timeout=0.5,
    )
    with journal.open("ab", buffering=0) as file:
        asyncio.run(_serve(Simulator(settings, script=_writing(file), port=port)))


def _writing(file: BinaryIO) -> Script:
    def script(call: ModelCall) -> Output:
        read = {"agent": call.request.get("user"), "digest": digest(call.context), "transport": call.transport}
        file.write(orjson.dumps(read | {"delta": "previous_response_id" in call.request}) + b"\n")
        return answer_to(call.context)

    return script


async def _serve(simulator: Simulator) -> None:
    async with simulator:
        click.echo(f"upstream listening on {simulator.base_url}")
        while line := await asyncio.to_thread(sys.stdin.readline):
            simulator.inject(_fault(orjson.loads(line)))


def _fault(order: dict[str, Any]) -> Fault:
    if "body" in order:
        order["body"] = order["body"].encode()
    if order.pop("of_deltas", False):
        return Fault(**order, match=lambda request: "previous_response_id" in request)
    return Fault(**order)


if __name__ == "__main__":
    main()
