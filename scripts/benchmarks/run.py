"""Benchmarks as ratios within one run: see each command's help."""

import asyncio
import sys

import click
from afterloss import loss
from counting import count_bytes
from darkness import dark
from hoisting import measure
from overhead import overhead
from peers import peers
from uploads import Cell, Outcome
from uploads import run as upload
from wholesessions import link

from proxy import log


@click.group()
def main() -> None:
    """Measure packlight on the simulated upstream."""
    log.configure("console", "error")


main.add_command(count_bytes)
main.add_command(dark)
main.add_command(link)
main.add_command(loss)
main.add_command(measure)
main.add_command(overhead)
main.add_command(peers)


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


if __name__ == "__main__":
    main(prog_name="scripts/bench")
