"""`bytes`: what a session costs on the wire, counted by a relay in front of upstream, in several ways."""

import asyncio
import statistics
from collections.abc import Iterable, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import click
import orjson
import zstandard
from agent import play
from charts import Group, bars
from link import Link
from recorded import sums
from session import Item, Session
from shapes import SHAPES, Shape

from proxy.config import DOCS, Config
from proxy.server import Server
from proxy.simulator import Simulator, SimulatorSettings

_AGREEMENT = 0.02
"""How far the relay, upstream and packlight may be apart in what they counted."""

_LONGEST_BAR = 1.1
"""In the charts: an agent that does not stream has little to compare with."""


class Disagreement(Exception):
    """Two counted the same bytes differently."""


@dataclass(frozen=True, slots=True)
class Way:
    """How the agent's requests get upstream: straight, or through packlight with *settings*."""

    name: str
    packlight: bool = False
    zstd: bool = False
    deflate: Any = "15"
    settings: tuple[tuple[str, Any], ...] = ()


HTTP = Way("HTTP")
ZSTD = Way("HTTP + zstd", zstd=True)
DELTA = Way("delta, no deflate", packlight=True, deflate="off")
PACKLIGHT = Way("packlight", packlight=True)
WAYS = (HTTP, ZSTD, DELTA, PACKLIGHT)
WINDOWS = (
    Way("packlight, 12 bit", packlight=True, deflate="12"),
    Way("packlight, no takeover", packlight=True, deflate="no_takeover"),
)


@dataclass(frozen=True, slots=True)
class Count:
    """Bytes of TCP payload *up* to upstream and *down* from it, and how many turns were deltas."""

    up: int
    down: int
    deltas: int = 0


@dataclass(frozen=True, slots=True)
class Bound:
    """What no way can do without: each turn's new content, by a strong compressor that knows all before it."""

    up: int
    down: int


async def count(session: Session, way: Way, *, repeats: bool = True) -> tuple[Count, list[list[Item]]]:
    """Play *session* in this *way* and count; also return what each turn added to the history.

    *repeats* tells whether upstream's responses repeat instructions and tools. Raises Disagreement.
    """
    async with AsyncExitStack() as stack:
        settings = SimulatorSettings(deflate=way.deflate, repeat_settings=repeats)
        simulator = await stack.enter_async_context(Simulator(settings, script=session.script()))
        link = await stack.enter_async_context(Link(("127.0.0.1", simulator.port)))
        if not way.packlight:
            added = await play(session, link.base_url, zstd=way.zstd)
            counted = Count(link.up.passed, link.down.passed)
            _agree({"upstream": (simulator.bytes_in, simulator.bytes_out), "the link": (counted.up, counted.down)})
            return counted, added
        config = Config(**{"port": 0, "upstream": link.base_url, **dict(way.settings)})
        server = await stack.enter_async_context(Server(config))
        added = await play(session, f"{server.url}/v1")
        stats = server.ledger.stats()
        counted = Count(link.up.passed, link.down.passed, stats["turns"]["delta"])
        _agree(
            {
                "upstream": (simulator.bytes_in, simulator.bytes_out),
                "packlight": (stats["bytes"]["to_upstream"], stats["bytes"]["from_upstream"]),
                "the link": (counted.up, counted.down),
            }
        )
        return counted, added


def bound(session: Session, added: Sequence[Sequence[Item]]) -> Bound:
    """Return the bound for *session*, in which *added* was said: see `Bound`.

    New content is what the opening, the settings and the tools say (up), and what the model says (down).
    """
    known = b""
    up = down = 0
    for number, items in enumerate(added):
        theirs = [item for item in items if number and item["type"] != "function_call_output"]
        ours = [item for item in items if item not in theirs]
        said = orjson.dumps(theirs) if theirs else b""
        down += _compressed(said, known)
        known += said
        new = orjson.dumps(ours if number else session.body(ours)) if ours else b""
        up += _compressed(new, known)
        known += new
    return Bound(up, down)


def _compressed(new: bytes, known: bytes) -> int:
    """Return the size of *new* for a reader who has *known*: zstd at level 19, and no header."""
    if not new:
        return 0
    parameters = zstandard.ZstdCompressionParameters.from_level(
        19,
        window_log=27,
        format=zstandard.FORMAT_ZSTD1_MAGICLESS,
        write_content_size=False,
        write_dict_id=False,
    )
    dictionary = zstandard.ZstdCompressionDict(known, dict_type=zstandard.DICT_TYPE_RAWCONTENT) if known else None
    return len(zstandard.ZstdCompressor(compression_params=parameters, dict_data=dictionary).compress(new))


def _agree(counts: dict[str, tuple[int, int]]) -> None:
    for direction in (0, 1):
        values = [pair[direction] for pair in counts.values()]
        if max(values) - min(values) > _AGREEMENT * max(values):
            raise Disagreement(f"counted {'down' if direction else 'up'}: {counts}")


# The command


@click.command("bytes")
@click.option(
    "--shape", "names", multiple=True, type=click.Choice(list(SHAPES)), help="Only these; all by default."
)
@click.option("--seeds", default=3, show_default=True, help="Sessions of each shape.")
@click.option("--turns", type=click.IntRange(min=2), help="Of each session, instead of the shape's own.")
@click.option("--hoist", help="Also packlight with this value of its setting `hoist`.")
@click.option("--windows", is_flag=True, help="Also upstreams that compress less well.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write all figures there.")
@click.option("--charts", type=click.Path(path_type=Path, file_okay=False), help="Draw them into this folder.")
def count_bytes(
    *,
    names: tuple[str, ...],
    seeds: int,
    turns: int | None,
    hoist: str | None,
    windows: bool,
    json_file: Path | None,
    charts: Path | None,
) -> None:
    """Count what sessions of real agents' shapes cost on the wire, by a relay in front of upstream."""
    ways = [*WAYS, *(WINDOWS if windows else ())]
    if hoist is not None:
        if "hoist" not in DOCS:
            raise click.UsageError("this packlight has no setting `hoist`")
        ways.append(replace(PACKLIGHT, name="packlight, hoist", settings=(("hoist", hoist),)))
    shapes = [SHAPES[name] for name in names] or list(SHAPES.values())
    shapes = [replace(shape, turns=turns or shape.turns) for shape in shapes]
    rows = [asyncio.run(_row(shape, ways, range(1, seeds + 1))) for shape in shapes]
    for line in (*lines(rows), "", *faithful(rows)):
        click.echo(line)
    if json_file is not None:
        json_file.parent.mkdir(parents=True, exist_ok=True)
        json_file.write_bytes(orjson.dumps({"seeds": seeds, "rows": rows}, option=orjson.OPT_APPEND_NEWLINE))
    if charts is not None:
        draw(rows, charts)


async def _row(shape: Shape, ways: Sequence[Way], seeds: Iterable[int]) -> dict[str, Any]:
    """Return the figures of *shape*: of each way the bytes with each seed, one way after another, seed by seed."""
    counts: dict[str, list[dict[str, int]]] = {way.name: [] for way in ways}
    quiet: dict[str, list[dict[str, int]]] = {way.name: [] for way in ways}
    bounds: list[dict[str, int]] = []
    bodies: list[dict[str, int]] = []
    sizes: list[int] = []
    for seed in seeds:
        for way in ways:
            session = Session(shape, seed=seed)
            counted, added = await count(session, way)
            counts[way.name].append(asdict(counted))
            if way is HTTP:
                bounds.append(asdict(bound(session, added)))
                bodies.append(asdict(sums(session.body, added[:-1])))
                sizes.append(session.settings_size)
            without, _ = await count(Session(shape, seed=seed), way, repeats=False)
            quiet[way.name].append(asdict(without))
        click.echo(f"{shape.name}, seed {seed}", err=True)
    return {
        "shape": shape.name,
        "turns": shape.turns,
        "settings": round(statistics.median(sizes)),
        "ways": counts,
        "ways_unrepeated": quiet,
        "bound": bounds,
        "bodies": bodies,
    }


def share(row: dict[str, Any], way: str, direction: str, *, repeats: bool = True) -> tuple[float, float, float]:
    """Return *way*'s bytes as a part of plain HTTP's: the median over the seeds, the least and the most."""
    table = row["ways" if repeats else "ways_unrepeated"]
    theirs = row["bound"] if way == "bound" else table[way]
    plain = [each[direction] for each in table["HTTP"]]
    shares = [each[direction] / http for each, http in zip(theirs, plain, strict=True)]
    return statistics.median(shares), min(shares), max(shares)


def over_bound(row: dict[str, Any], way: str) -> float:
    """Return how many times the bound *way* sends up: the median over the seeds."""
    pairs = zip(row["ways"][way], row["bound"], strict=True)
    return float(statistics.median(each["up"] / least["up"] for each, least in pairs))


def lines(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Return two tables in Markdown: up, then down; *unrepeated* is where responses do not repeat the settings."""
    ways = [name for name in rows[0]["ways"] if name != "HTTP"]
    packed = [name for name in ways if name.startswith("packlight")]
    told = [
        "| up | turns | settings | HTTP | "
        + " | ".join(ways)
        + " | bound | "
        + " | ".join(f"{name} / bound" for name in packed)
        + " |"
    ]
    told.append("|---" * (len(ways) + len(packed) + 5) + "|")
    for row in rows:
        http = statistics.median(each["up"] for each in row["ways"]["HTTP"])
        cells = [row["shape"], row["turns"], f"{row['settings'] / 1000:.1f} KB", f"{http / 1000:,.0f} KB"]
        cells += [_percent(share(row, name, "up")) for name in (*ways, "bound")]
        cells += [f"{over_bound(row, name):.2f}" for name in packed]
        told.append("| " + " | ".join(map(str, cells)) + " |")
    told.append("")
    down = [name for name in ways if not name.endswith("zstd")]
    heads = [*down, *(f"{name}, unrepeated" for name in packed)]
    told.append("| down | HTTP | " + " | ".join(heads) + " | bound |")
    told.append("|---" * (len(heads) + 3) + "|")
    for row in rows:
        http = statistics.median(each["down"] for each in row["ways"]["HTTP"])
        cells = [row["shape"], f"{http / 1000:,.0f} KB", *(_percent(share(row, name, "down")) for name in down)]
        cells += [_percent(share(row, name, "down", repeats=False)) for name in packed]
        cells.append(_percent(share(row, "bound", "down")))
        told.append("| " + " | ".join(cells) + " |")
    return told


def faithful(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Return a table in Markdown: what the generated sessions came to, and the recorded ones."""
    told = ["| generated / recorded | bodies | new in them | each with gzip |", "|---|---|---|---|"]
    for row in rows:
        recorded = SHAPES[row["shape"]].recorded
        if recorded is None or row["turns"] != SHAPES[row["shape"]].turns:
            continue
        bodies, new, packed = (
            statistics.median(each[name] for each in row["bodies"]) for name in ("bodies", "new", "gzip")
        )
        told.append(
            f"| {row['shape']} | {bodies / 1000:.0f} / {recorded.bodies / 1000:.0f} KB "
            f"| {new / 1000:.1f} / {recorded.new / 1000:.1f} KB "
            f"| {packed / bodies:.0%} / {recorded.gzip / recorded.bodies:.0%} |"
        )
    return told


def _percent(shares: tuple[float, float, float]) -> str:
    middle, least, most = (100 * each for each in shares)
    digits = 0 if middle >= 10 else 1
    spread = "" if f"{least:.{digits}f}" == f"{most:.{digits}f}" else f" ({least:.{digits}f}-{most:.{digits}f})"
    return f"{middle:.{digits}f} %{spread}"


def draw(rows: Sequence[dict[str, Any]], folder: Path) -> None:
    """Draw *rows* into *folder*, but for those in Chat: ``bytes-up.svg``, ``bytes-down.svg``, and ``bytes.svg``.

    The last has what matters most of the first.
    """
    folder.mkdir(parents=True, exist_ok=True)
    note = (
        "TCP payload, counted by a relay in front of a simulated upstream; part of plain HTTP, median of all seeds"
    )
    drawn_ways = ("HTTP + zstd", "delta, no deflate", "packlight", "packlight, hoist")
    ways = [name for name in rows[0]["ways"] if name in drawn_ways]
    drawn = [row for row in rows if SHAPES[row["shape"]].api == "responses"]
    short = [name for name in ("HTTP + zstd", "packlight") if name in ways]
    for name, direction, series in (
        ("bytes-up", "up", [*ways, "bound"]),
        ("bytes-down", "down", [*ways[1:], "bound"]),
        ("bytes", "up", [*short, "bound"]),
    ):
        groups = []
        for row in drawn:
            shares = [share(row, way, direction)[0] for way in series]
            told = [f"{each:.1%}" + (" (bar cut short)" if each > _LONGEST_BAR else "") for each in shares]
            groups.append(Group(row["shape"], [min(each, _LONGEST_BAR) for each in shares], told))
        title = f"Bytes {direction}, whole session"
        (folder / f"{name}.svg").write_text(bars(title, note, series, groups), encoding="utf-8")
