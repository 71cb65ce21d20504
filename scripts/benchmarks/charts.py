"""Charts: horizontal bars as SVG, readable on a light and on a dark page."""

from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

_COLOURS = {
    "HTTP + zstd": "#9aa0a6",
    "delta, no deflate": "#e8a33d",
    "packlight": "#2f81c7",
    "bound": "#3aa76d",
    "up": "#2f81c7",
    "down": "#e8a33d",
}
_OTHER = "#8e5bb5"
_LEFT, _WIDTH, _RIGHT = 190, 470, 150
_BAR, _GAP, _TOP = 11, 12, 70
_FONT = "font-family='system-ui, sans-serif'"


@dataclass(frozen=True, slots=True)
class Group:
    """The bars of one row: a *label*, and for each series a value and how it is told."""

    label: str
    values: Sequence[float]
    told: Sequence[str]


def bars(title: str, note: str, series: Sequence[str], groups: Sequence[Group]) -> str:
    """Return a chart; the longest bar has the whole width."""
    longest = max(value for group in groups for value in group.values)
    colours = [_COLOURS.get(name, _OTHER) for name in series]
    step = len(series) * _BAR + _GAP
    height = _TOP + len(groups) * step + 10
    width = _LEFT + _WIDTH + _RIGHT
    parts = [
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {width} {height}' role='img'>",
        f"<title>{escape(title)}</title>",
        f"<rect width='{width}' height='{height}' fill='#ffffff'/>",
        f"<text x='16' y='24' {_FONT} font-size='16' font-weight='600' fill='#1f2328'>{escape(title)}</text>",
        f"<text x='16' y='42' {_FONT} font-size='11' fill='#59636e'>{escape(note)}</text>",
        *_legend(series),
    ]
    for row, group in enumerate(groups):
        top = _TOP + row * step
        middle = top + len(series) * _BAR / 2 + 4
        parts.append(
            f"<text x='{_LEFT - 8}' y='{middle:g}' text-anchor='end' {_FONT} font-size='12' fill='#1f2328'>"
            f"{escape(group.label)}</text>"
        )
        for number, (value, told) in enumerate(zip(group.values, group.told, strict=True)):
            length = max(1.0, value / longest * _WIDTH)
            y = top + number * _BAR
            parts.append(
                f"<rect x='{_LEFT}' y='{y}' width='{length:.1f}' height='{_BAR - 2}' fill='{colours[number]}'/>"
                f"<text x='{_LEFT + length + 4:.1f}' y='{y + _BAR - 3}' {_FONT} font-size='9' fill='#59636e'>"
                f"{escape(told)}</text>"
            )
    return "\n".join([*parts, "</svg>", ""])


def _legend(series: Sequence[str]) -> list[str]:
    parts: list[str] = []
    x = 16
    for name in series:
        parts.append(
            f"<rect x='{x}' y='51' width='9' height='9' fill='{_COLOURS.get(name, _OTHER)}'/>"
            f"<text x='{x + 13}' y='59' {_FONT} font-size='11' fill='#1f2328'>{escape(name)}</text>"
        )
        x += 30 + 7 * len(name)
    return parts
