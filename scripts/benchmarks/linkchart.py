"""Chart: sessions over links as horizontal bars, an SVG without anything that has to be fetched."""

from collections.abc import Iterator, Sequence
from html import escape
from statistics import median

from linkplan import WAYS, Lived
from linktable import described

from proxy.cli.bench.profiles import PROFILES

WIDTH, LEFT, RIGHT = 860, 250, 130
BAR, GAP, BETWEEN, TOP = 16, 4, 34, 62
COLORS = {
    "keep-alive": "#8c8c8c",
    "new": "#b3b3b3",
    "zstd": "#6b8fb5",
    "packlight": "#2a9d5c",
    "quiet": "#248b51",
    "hoist": "#1e7a46",
}


def chart(sessions: Sequence[Lived]) -> str:
    """Draw the median time of each link's ways, against the link's own longest; a line from least to most."""
    links = dict.fromkeys(each.plan.link for each in sessions)
    marks, top = [], TOP
    for link in links:
        these = [each for each in sessions if each.plan.link == link]
        marks.append(_text(LEFT - 240, top, described(PROFILES[link]), "b"))
        drawn = list(_bars(these, top + 8))
        marks += drawn
        top += 8 + len({each.plan.way for each in these}) * (BAR + GAP) + BETWEEN
    congestion = ", ".join(dict.fromkeys(each.plan.congestion.upper() for each in sessions))
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{top}" viewBox="0 0 {WIDTH} {top}" '
        'font-family="sans-serif" font-size="12"><style>.b{font-weight:bold}</style>'
        f'<rect width="{WIDTH}" height="{top}" fill="#ffffff"/>'
    )
    turns = max(len(each.turns) for each in sessions)
    title = _text(10, 24, f"A session of {turns} turns, in seconds (TCP with {congestion} at both ends)", "b")
    return "\n".join([head, title, *marks, "</svg>", ""])


def _bars(sessions: Sequence[Lived], top: float) -> Iterator[str]:
    medians = {}
    for way in WAYS:
        seconds = [each.seconds for each in sessions if each.plan.way == way]
        if seconds:
            medians[way] = (median(seconds), min(seconds), max(seconds))
    scale = (WIDTH - LEFT - RIGHT) / max(most for _, _, most in medians.values())
    plain = medians.get("keep-alive")
    for row, (way, (middle, least, most)) in enumerate(medians.items()):
        y = top + row * (BAR + GAP)
        line = y + BAR / 2
        yield f'<text x="{LEFT - 8}" y="{y + BAR - 4}" text-anchor="end">{escape(WAYS[way])}</text>'
        yield f'<rect x="{LEFT}" y="{y}" width="{middle * scale:.1f}" height="{BAR}" fill="{COLORS[way]}"/>'
        yield (
            f'<path d="M{LEFT + least * scale:.1f} {line}H{LEFT + most * scale:.1f}" '
            'stroke="#222222" stroke-width="1.5"/>'
        )
        faster = f", {plain[0] / middle:.2f}x" if plain and way != "keep-alive" else ""
        yield _text(LEFT + most * scale + 6, y + BAR - 4, f"{middle:.0f} s{faster}", "")


def _text(x: float, y: float, words: str, style: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{style}">{escape(words)}</text>'
