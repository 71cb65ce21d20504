"""Run a soak by hand, and print what it came to as a table for the documentation."""

import asyncio
import sys
from typing import Any

import click
from soak import Plan, Report, soak
from weather import MISHAPS


@click.command()
@click.option("--agents", default=4, show_default=True)
@click.option("--turns", default=200, show_default=True, help="Of all agents together.")
@click.option("--faults", default=200, show_default=True)
@click.option("--seed", default=1, show_default=True)
@click.option("--scale", default=1 / 60, show_default=True, help="A second of real life in seconds.")
@click.option("--without", multiple=True, type=click.Choice(list(MISHAPS)), help="A kind of fault to leave out.")
@click.option("--warm-up", default="on", show_default=True, type=click.Choice(["off", "auto", "on"]))
def main(**plan: Any) -> None:
    """Let agents talk through packlight while links, servers and packlight itself fail."""
    begun = Plan(**plan)
    click.echo(f"{begun}")
    report = asyncio.run(soak(begun, lambda line: click.echo(line, err=True)))
    for line in lines(report):
        click.echo(line)
    sys.exit(bool(report.violations))


def lines(report: Report) -> list[str]:
    """Return *report* as Markdown."""
    rows = [
        ("agents", report.plan.agents),
        ("turns answered, every one rightly" if not report.violations else "turns answered", report.turns),
        ("faults", report.faults.total()),
        ("seed", report.plan.seed),
        ("requests that the SDK made", report.requests),
        ("errors that the SDK raised", report.errors.total()),
        ("lost, doubled, corrupted or cut short", len(report.violations)),
        ("answers that the model began", report.answered.total() - report.answered["again"]),
        ("of these for a history answered before", report.answered["again"]),
        ("longest turn, all retries included", f"{report.slowest:.1f} s"),
        ("duration", f"{report.seconds:.0f} s"),
        *_lives(report),
    ]
    table = ["| what | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)]
    counts = {name: getattr(report, name).most_common() for name in ("faults", "errors", "answered", "ledger")}
    told = [f"{name}: " + ", ".join(f"{key} {count}" for key, count in each) for name, each in counts.items()]
    return [*table, *told, *report.violations[:50]]


def _lives(report: Report) -> list[tuple[str, str]]:
    """Return the memory and the descriptors of the proxy's longest life."""
    lives: dict[int, list[int]] = {}
    for place, sample in enumerate(report.samples):
        lives.setdefault(sample.life, []).append(place)
    if not lives:
        return []
    longest = [report.samples[place] for place in max(lives.values(), key=len)]
    last = longest[-1]
    tenths = [longest[len(longest) * number // 10] for number in range(1, 10)] + [last]
    memory = ", ".join(f"{sample.resident / 2**20:.0f}" for sample in tenths)
    descriptors = ", ".join(str(sample.descriptors) for sample in tenths)
    most = max(sample.descriptors for sample in report.samples)
    return [
        ("turns in the proxy's longest life", str(last.turns - longest[0].turns)),
        ("its memory, after each tenth of it, MiB", memory),
        ("its descriptors, likewise", f"{descriptors} (at most {most} in any life)"),
    ]


if __name__ == "__main__":
    main(prog_name="scripts/soak")
