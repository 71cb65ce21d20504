"""`scripts/bench hoist`: a session with its settings in each turn, and once per chain."""

import re

import hoisting
from click.testing import CliRunner


def test_every_way_is_counted() -> None:
    """Settings that go once cost less, also where a probe has to prove it first; the agent is shown the same."""
    done = CliRunner().invoke(hoisting.measure, ["--turns", "3", "--settings", "60000"])
    assert done.exit_code == 0, done.output
    rows = {
        name: [int(each.replace(",", "")) for each in (up, hoisted)]
        for name, up, hoisted in re.findall(r"^(settings .+?)  +([\d,]+) .* (\d+)$", done.output, re.MULTILINE)
    }
    each_turn, *once = rows.values()
    assert len(once) == 3
    assert each_turn[1] == 0
    assert all(hoisted == 3 and up < each_turn[0] for up, hoisted in once)
