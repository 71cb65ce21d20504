"""``packlight status``: the figures of a running proxy, for people."""

import sys
import urllib.error
import urllib.request
from http.client import HTTPException
from pathlib import Path
from textwrap import wrap
from typing import Any

import click
import orjson

from proxy.cli.reasons import explain
from proxy.cli.settings import config_option, load_settings
from proxy.cli.terminal import Terminal, encodable, saving, size
from proxy.log import escape

TIMEOUT_SECONDS = 5
RECENT = 10

Figures = dict[str, Any]


@click.command()
@click.option("--url", help="Where the proxy listens, such as http://127.0.0.1:8484.")
@click.option("--port", type=click.IntRange(1, 65535), help="Its port, on this machine.")
@config_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def status(url: str | None, port: int | None, config_file: Path | None, *, as_json: bool) -> None:
    """Show what a running proxy has done: turns, bytes, and why some were sent in full.

    Without --url or --port, it is looked for where the settings say that it listens.
    """
    base = _base(url) if url else _address(port, config_file)
    figures = {
        "url": base,
        "health": _fetch(base, "health"),
        "stats": _fetch(base, "stats"),
        **_fetch(base, f"turns?limit={RECENT}"),
    }
    if figures["health"].get("status") != "ok":
        raise _stranger(base)
    if as_json:
        click.echo(_harmless(orjson.dumps(figures, option=orjson.OPT_INDENT_2).decode()))
        return
    try:
        lines = summary(figures, Terminal.here())
    except (AttributeError, KeyError, TypeError, ValueError) as exc:
        raise _stranger(base) from exc
    click.echo(encodable("\n".join(lines), sys.stdout))


def summary(figures: Figures, terminal: Terminal) -> list[str]:
    """Return *figures*, the answers of the three pages, as lines of text."""
    figures = _spelled_out(figures)
    health, stats = figures["health"], figures["stats"]
    title = f"packlight {health['version']} at {figures['url']}/v1 -> {health['upstream']}"
    return [
        terminal.style(title, bold=True),
        f"running since {stats['since']}",
        "",
        *_totals(stats),
        *_compression(stats.get("compression", {})),
        *_link(stats.get("link", {}), terminal),
        *_collapses(stats.get("chains", {}).get("collapsed", 0), terminal),
        *_hoists(stats.get("hoists", {})),
        *_reasons(stats["full_reasons"], terminal),
        *_recent(figures["turns"], terminal),
    ]


def _totals(stats: Figures) -> list[str]:
    turns, crossed, connections = stats["turns"], stats["bytes"], stats["connections"]
    share = f" ({100 * turns['delta'] / turns['total']:.0f} %)" if turns["total"] else ""
    up = saving(crossed["from_agents"], crossed["to_upstream"]) if crossed["to_upstream"] else "-"
    return [
        (
            f"turns        {turns['total']}: {turns['delta']} deltas{share}, {turns['full']} in full, "
            f"{turns['http']} over HTTP; {turns['failed']} failed"
        ),
        (
            f"uploads      {size(crossed['from_agents'])} from agents, {size(crossed['to_upstream'])} to upstream "
            f"(saved: {up})"
        ),
        f"downloads    {size(crossed['from_upstream'])} from upstream, {size(crossed['to_agents'])} to agents",
        f"connections  {connections['open']} open, {connections['opened']} opened, {connections['lost']} lost",
    ]


def _compression(opened: dict[str, int]) -> list[str]:
    if not opened:
        return []
    negotiated = ", ".join(f"{name} ({count})" for name, count in opened.items())
    return [f"compression  {negotiated}"]


def _link(link: Figures, terminal: Terminal) -> list[str]:
    if link.get("state", "ok") == "ok":
        return []
    first, *more = wrap(f"{link['state']} since {link['since']}: {link['detail']}", max(30, terminal.width - 13))
    return [terminal.style(f"link         {first}", bold=True), *(f"{'':13}{line}" for line in more)]


def _collapses(count: int, terminal: Terminal) -> list[str]:
    if not count:
        return []
    often = "once" if count == 1 else f"{count} times"
    warning = f"warning      upstream confirmed {often} that it continued a conversation, and had lost it"
    advice = 'answers may have missed their history; set websocket = "off" for this upstream'
    return [terminal.style(warning, bold=True), f"{'':13}{advice}"]


def _hoists(hoists: Figures) -> list[str]:
    if not any(hoists.values()):
        return []
    verdicts = (
        f"verdicts that both forms are read alike: {hoists['proven']}, that they are not: {hoists['disproven']}"
    )
    return [f"settings     told once per chain in {hoists['turns']} turns; {verdicts}"]


def _reasons(reasons: dict[str, int], terminal: Terminal) -> list[str]:
    if not reasons:
        return []
    lines = ["", terminal.style("why turns were not deltas", bold=True)]
    for reason, count in sorted(reasons.items(), key=lambda each: -each[1]):
        first, *more = wrap(explain(reason), max(30, min(terminal.width, 110) - 29))
        lines += [f"{count:>6}  {reason:<19}  {first}", *(f"{'':29}{line}" for line in more)]
    return lines


def _recent(turns: list[Figures], terminal: Terminal) -> list[str]:
    if not turns:
        return []
    columns = f"{'started, UTC':<12}  {'model':<20}  {'from agent':>10}  {'to upstream':>11}  {'ms':>7}  how"
    lines = ["", terminal.style("recent turns, newest first", bold=True), terminal.style(columns, dim=True)]
    for turn in turns:
        how = turn["upload"] if turn["reason"] is None else f"{turn['upload']}: {turn['reason']}"
        ended = "" if turn["status"] == "completed" else f" ({turn['status']})"
        started = turn["started_at"].partition("T")[2][:12]
        lines.append(
            f"{started:<12}  {_name(turn['model']):<20}  {size(turn['bytes_from_agent']):>10}  "
            f"{size(turn['bytes_to_upstream']):>11}  {turn['duration_ms']:>7.0f}  {how}{ended}"
        )
    return lines


def _name(model: str | None) -> str:
    """Return as much of *model* as a column holds."""
    return (model or "-")[:20]


def _spelled_out(figures: Any) -> Any:
    """Return *figures* without a character that a terminal would act on.

    Whoever sent a request gave its model's name; and whoever came first to the port may have written all of it.
    """
    match figures:
        case str():
            return escape(figures)
        case dict():
            return {escape(name): _spelled_out(each) for name, each in figures.items()}
        case list():
            return [_spelled_out(each) for each in figures]
        case _:
            return figures


def _harmless(written: str) -> str:
    """Return JSON as it was *written*, with all but printable ASCII escaped: only strings have such.

    A terminal would act on some of it, and standard output may not be UTF-8, which programs expect.
    """
    return "".join(each if " " <= each <= "~" or each == "\n" else _escaped(each) for each in written)


def _escaped(character: str) -> str:
    units = character.encode("utf-16-be").hex()
    return "".join(f"\\u{units[at : at + 4]}" for at in range(0, len(units), 4))


def _base(url: str) -> str:
    if not url.startswith(("http://", "https://")):
        raise click.UsageError("--url must begin with http://, such as http://127.0.0.1:8484")
    return url.rstrip("/").removesuffix("/v1")


def _address(port: int | None, config_file: Path | None) -> str:
    config = load_settings(config_file).config
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(config.host, config.host)  # noqa: S104  the way back
    return f"http://{f'[{host}]' if ':' in host else host}:{port or config.port}"


def _fetch(base: str, page: str) -> Figures:
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a proxy can't reach our loopback
    try:
        with direct.open(f"{base}/_packlight/{page}", timeout=TIMEOUT_SECONDS) as answer:
            figures = orjson.loads(answer.read())
    except urllib.error.HTTPError as exc:
        exc.close()
        raise _stranger(base) from exc
    except (HTTPException, orjson.JSONDecodeError) as exc:
        raise _stranger(base) from exc
    except (OSError, ValueError) as exc:
        raise click.ClickException(
            f"no packlight answers at {base}. Start it with `packlight serve`, "
            "or say where it is with --port or --url."
        ) from exc
    if not isinstance(figures, dict):
        raise _stranger(base)
    return figures


def _stranger(base: str) -> click.ClickException:
    return click.ClickException(
        f"something answers at {base}, but it is not this version of packlight. "
        "Say where it is with --port or --url."
    )
