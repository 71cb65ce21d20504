"""``packlight simulate``: the simulated upstream alone, for trying things out."""

import asyncio
from contextlib import AsyncExitStack
from typing import Any, get_args

import click

from proxy import __version__
from proxy.cli.serve import cannot_listen
from proxy.cli.stop import Stop
from proxy.simulator import Script, Simulator, SimulatorSettings, agent_script, echo_script
from proxy.simulator.citizens import CitizenName
from proxy.simulator.settings import Deflate, ErrorShape

DEFAULTS = SimulatorSettings()


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=9000, show_default=True, help="0 takes a free one.")
@click.option(
    "--citizen", type=click.Choice(get_args(CitizenName)), default="openai", show_default=True,
    help="Which server to imitate.",
)  # fmt: skip
@click.option("--tool-turns", type=click.IntRange(0), default=3, show_default=True,
              help="How often the model calls a tool after each user message, before it answers.")  # fmt: skip
@click.option("--echo", is_flag=True, help="Answer with the size and the digest of the context instead.")
@click.option("--require-key/--no-require-key", default=True, show_default=True, help="Answer 401 without a key.")
@click.option("--strict-fields/--no-strict-fields", default=True, show_default=True,
              help="Answer 400 to parameters that the documents don't list.")  # fmt: skip
@click.option("--refuse-upgrade", type=click.IntRange(400, 599), metavar="STATUS",
              help="Have no WebSocket: answer every upgrade with this status, such as 426.")  # fmt: skip
@click.option("--deflate", type=click.Choice(get_args(Deflate)), default=DEFAULTS.deflate, show_default=True,
              help="How WebSocket messages are compressed.")  # fmt: skip
@click.option("--error-shape", type=click.Choice(get_args(ErrorShape)), default=DEFAULTS.error_shape,
              show_default=True, help="How an error reads on the WebSocket.")  # fmt: skip
@click.option("--age-limit-seconds", type=click.FloatRange(0, min_open=True),
              help="How old a connection may get.")  # fmt: skip
@click.option("--pings/--no-pings", default=True, show_default=True,
              help="Ping WebSockets every 20 s, and close those that do not answer in 20 s.")  # fmt: skip
@click.option("--first-event-seconds", type=click.FloatRange(0), default=0, help="How long the model thinks.")
@click.option("--event-seconds", type=click.FloatRange(0), default=0, help="How long each further event takes.")
@click.option("--uplink-bytes-per-second", type=click.FloatRange(0, min_open=True), help="Slow the upload down.")
@click.option("--downlink-bytes-per-second", type=click.FloatRange(0, min_open=True),
              help="Slow the download down.")  # fmt: skip
@click.option("--seed", type=int, default=0, help="What ids and padding follow from.")
def simulate(*, host: str, port: int, tool_turns: int, echo: bool, pings: bool, **knobs: Any) -> None:
    """Run the simulated upstream alone, until SIGTERM or SIGINT (Ctrl-C), or until its terminal is closed.

    `packlight serve --upstream http://127.0.0.1:9000/v1` uses it.
    """
    script = echo_script if echo else agent_script(tool_turns=tool_turns)
    if not pings:
        knobs |= {"ping_interval": None, "ping_timeout": None}
    asyncio.run(_simulate(SimulatorSettings(**knobs, keep_records=100), script, host, port))


async def _simulate(settings: SimulatorSettings, script: Script, host: str, port: int) -> None:
    with Stop() as stop:
        async with AsyncExitStack() as stack:
            simulator = Simulator(settings, script=script, host=host, port=port)
            try:
                await stack.enter_async_context(simulator)
            except OSError as exc:
                raise cannot_listen(host, port, exc) from exc
            who = f"packlight {__version__} simulated upstream ({settings.citizen})"
            click.echo(f"{who} listening on {simulator.base_url}")
            await stop.wait()
