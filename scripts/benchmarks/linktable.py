"""Table: sessions over links, as Markdown: medians over the seeds, and from what to what they went."""

from collections.abc import Callable, Iterator, Sequence
from statistics import median

from linkplan import WAYS, Lived

from proxy.cli.bench.profiles import PROFILES, Profile

COLUMNS = (
    "seconds",
    "speed-up",
    "first event, later turns",
    "KB up",
    "KB down",
    "packets up",
    "packets down",
)


def table(sessions: Sequence[Lived]) -> Iterator[str]:
    """Yield the lines of a table for each congestion control."""
    for congestion in dict.fromkeys(each.plan.congestion for each in sessions):
        chosen = [each for each in sessions if each.plan.congestion == congestion]
        yield f"{congestion.upper()}, seeds {', '.join(map(str, sorted({each.plan.seed for each in chosen})))}"
        yield ""
        yield f"| link | way | {' | '.join(COLUMNS)} |"
        yield f"|---|---|{'---|' * len(COLUMNS)}"
        for link in dict.fromkeys(each.plan.link for each in chosen):
            yield from _rows(link, [each for each in chosen if each.plan.link == link])
        yield ""


def described(profile: Profile) -> str:
    """Return *profile* in a few words."""
    loss = f", {profile.loss:.1%} loss" if profile.loss else ""
    rates = "/".join(f"{rate / 1e6:g}" for rate in dict.fromkeys((profile.up, profile.down)))
    return f"{profile.title} ({profile.round_trip * 1000:.0f} ms, {rates} Mbit/s{loss})"


def _rows(link: str, sessions: Sequence[Lived]) -> Iterator[str]:
    title = described(PROFILES[link])
    plain = [each.seconds for each in sessions if each.plan.way == "keep-alive"]
    for way in [each for each in WAYS if any(session.plan.way == each for session in sessions)]:
        these = [each for each in sessions if each.plan.way == way]
        seconds = _spread([each.seconds for each in these], 0)
        faster = f"{median(plain) / median(each.seconds for each in these):.2f}x" if plain else ""
        cells = (
            f"{seconds} s",
            faster,
            f"{_middle(these, lambda each: each.first_event):.2f} s",
            f"{_middle(these, lambda each: each.up['bytes']) / 1000:,.0f}",
            f"{_middle(these, lambda each: each.down['bytes']) / 1000:,.0f}",
            f"{_middle(these, lambda each: each.up['packets']):,.0f}",
            f"{_middle(these, lambda each: each.down['packets']):,.0f}",
        )
        yield f"| {title} | {WAYS[way]} | {' | '.join(cells)} |"
        title = ""


def _middle(sessions: Sequence[Lived], figure: Callable[[Lived], float]) -> float:
    return median(map(figure, sessions))


def _spread(values: Sequence[float], digits: int) -> str:
    middle = f"{median(values):.{digits}f}"
    return middle if len(values) == 1 else f"{middle} ({min(values):.{digits}f} to {max(values):.{digits}f})"
