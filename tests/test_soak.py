"""A short dose of `scripts/soak`: real agents, real processes, and everything between them failing."""

import os

import pytest
from soak import Plan, soak

SEED = int(os.environ.get("SEED", "1"))
MEBIBYTE = 2**20


@pytest.mark.skipif(os.name != "posix", reason="servers are stopped by signals")
@pytest.mark.timeout(300)
async def test_nothing_is_lost_doubled_or_cut_short_whatever_fails() -> None:
    """Every turn is answered rightly in the end, and the proxy's memory and descriptors stay where they were."""
    plan = Plan(agents=4, turns=200, faults=60, seed=SEED, scale=0.008)
    report = await soak(plan)
    assert not report.violations, report
    assert report.turns >= plan.turns
    assert report.faults.total() == plan.faults
    assert report.errors.total() > 0
    assert report.answered["delta"] > 0
    for sample in report.samples:
        assert sample.resident < 150 * MEBIBYTE
        assert sample.descriptors < 100
