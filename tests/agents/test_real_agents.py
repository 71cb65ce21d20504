"""Real coding agents, unmodified, from npm: they work through packlight and send deltas."""

import pytest
from catalog import AGENTS, Api
from install import default_cache
from trial import attempt

pytestmark = [pytest.mark.agents, pytest.mark.timeout(900)]  # npm may have to download half a gigabyte


@pytest.mark.parametrize("name", ["codex", "pi"])
async def test_a_real_agent_sends_deltas_and_gets_its_answer(name: str) -> None:
    """The agent exits with 0, prints the answer, sends deltas from its second turn on, and no context is wrong."""
    trial = await attempt(AGENTS[name], api="responses", turns=10, cache=default_cache())
    assert not trial.problems, trial.log_tail
    assert trial.figures.turns >= 11
    assert trial.figures.saving > 0.5


@pytest.mark.parametrize("name", ["openai-python", "openai-python-stream"])
@pytest.mark.parametrize("api", ["responses", "chat"])
async def test_the_openai_package_sends_deltas_and_gets_its_answer(name: str, api: Api) -> None:
    """A plain loop on the openai package profits as an agent does, in both dialects, streaming or not."""
    trial = await attempt(AGENTS[name], api=api, turns=10, cache=default_cache())
    assert not trial.problems, trial.log_tail
    assert trial.figures.turns == 11
