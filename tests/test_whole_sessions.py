"""`scripts/bench link`: real sessions over an emulated link, and how earlier ones are told."""

import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import orjson
import pytest
from linkplan import WAYS
from side import why_not

ROOT = Path(__file__).parents[1]
WHY_NOT = why_not()


def bench(*options: str) -> "subprocess.CompletedProcess[str]":
    """Run the command."""
    paths = os.pathsep.join(str(each) for each in (ROOT, ROOT / "scripts/links", ROOT / "scripts/agents"))
    return subprocess.run(  # noqa: S603  our own script
        [sys.executable, str(ROOT / "scripts/benchmarks/run.py"), "link", *options],
        capture_output=True,
        encoding="utf-8",
        check=False,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": paths},
    )


def session(way: str, seed: int, seconds: float) -> dict[str, Any]:
    """Return a session as a run keeps it."""
    counts = {"packets": 10, "bytes": int(seconds * 1000), "dropped": 0, "lost": 0, "delivered": 10}
    plan = {"link": "geo", "way": way, "seed": seed, "congestion": "cubic", "turns": 3, "settings": 20_000}
    lived = {"seconds": seconds, "first_events": [9, 1, 2], "turns": [9, 2, 3], "packlight": {}}
    return {"plan": plan, **lived, "up": counts, "down": counts}


@pytest.mark.skipif(WHY_NOT is not None, reason=f"no packet link: {WHY_NOT}")
@pytest.mark.timeout(120)
def test_sessions_over_a_link_are_counted_by_the_link(tmp_path: Path) -> None:
    """Two turns over fibre with TLS: packlight sends deltas, in far fewer bytes than HTTP."""
    file = tmp_path / "sessions.json"
    ways = ("--ways", "keep-alive,packlight", "--congestion", "reno")  # which every kernel grants
    done = bench("--links", "fibre", *ways, "--turns", "3", "--seeds", "1", "--json", str(file))
    assert done.returncode == 0, done.stderr
    plain, through = orjson.loads(file.read_bytes())
    assert through["packlight"]["turns"] == {"total": 3, "delta": 2, "full": 1, "http": 0, "failed": 0}
    assert through["up"]["bytes"] < plain["up"]["bytes"] / 2
    assert through["down"]["bytes"] < plain["down"]["bytes"] / 2
    assert all(each["seconds"] > 2 for each in (plain, through))  # two calls of a tool, a second each
    assert len(plain["first_events"]) == 3


def test_medians_and_spread_are_told_from_a_file(tmp_path: Path) -> None:
    """The table has the median over the seeds, from least to most, and how many times faster than keep-alive."""
    file, svg = tmp_path / "sessions.json", tmp_path / "chart.svg"
    seconds = {"keep-alive": (300, 400, 380), "packlight": (80, 95, 120), "new": (290, 300, 310)}
    sessions = [session(way, seed, each) for way, all_ in seconds.items() for seed, each in enumerate(all_, 1)]
    file.write_bytes(orjson.dumps(sessions))
    done = bench("--show", str(file), "--ways", "keep-alive,packlight", "--svg", str(svg))
    assert done.returncode == 0, done.stderr
    assert "CUBIC, seeds 1, 2, 3" in done.stdout
    assert "| packlight | 95 (80 to 120) s | 4.00x | 1.50 s | 95 | 95 | 10 | 10 |" in done.stdout
    assert WAYS["new"] not in done.stdout
    nothing = bench("--show", str(file), "--links", "fibre")
    assert (nothing.returncode, nothing.stdout) == (1, "")
    assert "no session of such a link and way" in nothing.stderr
    words = [each.text for each in ET.parse(svg).getroot().iter() if each.tag.endswith("text")]  # noqa: S314  ours
    assert "95 s, 4.00x" in words
    assert "GEO satellite in the air (760 ms, 1.89 Mbit/s, 6.0% loss)" in words


@pytest.mark.skipif(WHY_NOT is None, reason="there can be a packet link here")
def test_where_there_can_be_no_link_it_says_so() -> None:
    """The command ends with the reason and what to do."""
    done = bench("--turns", "2")
    assert done.returncode == 1
    assert str(WHY_NOT) in done.stderr


def test_an_unknown_link_is_refused() -> None:
    """The message lists those that there are."""
    done = bench("--links", "geo,pigeon")
    assert done.returncode == 2
    assert "pigeon is none of geo, atg" in done.stderr
