"""Console: a link that is run by hand, and takes orders while it runs."""

import asyncio
import sys
from contextlib import suppress

import click
from link import Link
from way import Way

DEEDS = ("dark", "lit", "reset", "close", "strand", "forget")
ENDINGS = ("reset", "close", "silence", "half-open")
WHOLE = ("slice_size", "limit")
FIELDS = ("latency", "jitter", "bandwidth", "slice_gap", "slow_close", "ending", *WHOLE)
ORDERS = f"{', '.join(DEEDS)}; or up.FIELD=VALUE, down.FIELD=VALUE ({', '.join(FIELDS)}; none: as at first)"


@click.command(epilog=f"Orders: {ORDERS}.")
@click.option("--to", required=True, metavar="HOST:PORT", help="Where connections go.")
@click.option("--listen", default=0, show_default=True, help="Port to listen on; 0 takes a free one.")
@click.argument("orders", nargs=-1)
def main(*, to: str, listen: int, orders: tuple[str, ...]) -> None:
    """Stand a bad network before HOST:PORT, until Ctrl-C. Further orders are read from standard input."""
    host, _, port = to.rpartition(":")
    with suppress(KeyboardInterrupt):
        asyncio.run(_run((host, int(port)), listen, orders))


async def _run(target: tuple[str, int], listen: int, orders: tuple[str, ...]) -> None:
    async with Link(target, port=listen) as link:
        for order in orders:
            _obey(link, order)
        click.echo(f"link listening on {link.host}:{link.port} -> {target[0]}:{target[1]}")
        while line := await asyncio.to_thread(sys.stdin.readline):
            if line.strip():
                _obey(link, line.strip())
        await asyncio.Event().wait()


def _obey(link: Link, order: str) -> None:
    try:
        obey(link, order)
    except ValueError as exc:
        click.echo(f"{order}: {exc}", err=True)


def obey(link: Link, order: str) -> None:
    """Let *link* do what *order* says. Raises ValueError where it makes no sense."""
    place, equals, text = order.partition("=")
    side, _, name = place.partition(".")
    if not equals and place in DEEDS:
        getattr(link, place)()
    elif equals and side in ("up", "down") and name in FIELDS:
        setattr(getattr(link, side), name, _value(name, text))
    else:
        raise ValueError(f"an order is one of {ORDERS}")


def _value(name: str, text: str) -> object:
    if text == "none":
        return getattr(Way(), name)
    if name != "ending":
        return int(text) if name in WHOLE else float(text)
    if text not in ENDINGS:
        raise ValueError(f"an ending is one of {', '.join(ENDINGS)}")
    return text


if __name__ == "__main__":
    main(prog_name="scripts/link")
