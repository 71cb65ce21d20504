"""Real coding agents, unmodified, from npm and PyPI: they work through packlight and send deltas."""

import pytest
from catalog import AGENTS, Api
from hardship import Hardship
from install import UnknownPython, default_cache
from trial import attempt

pytestmark = [pytest.mark.agents, pytest.mark.timeout(900)]  # an installation may have to download half a gigabyte


@pytest.mark.parametrize(
    ("name", "api"),
    [("codex", "responses"), ("codex-openai", "responses"), ("pi", "responses"), ("pi", "chat"), ("qwen", "chat")],
)
async def test_a_real_agent_sends_deltas_and_gets_its_answer(name: str, api: Api) -> None:
    """The agent exits with 0, prints the answer, sends deltas from its second turn on, and no context is wrong."""
    trial = await attempt(AGENTS[name], api=api, turns=10, cache=default_cache())
    assert not trial.problems, trial.log_tail
    assert trial.figures.front_ends == (api,)
    assert trial.figures.turns >= 11
    assert trial.figures.saving > 0.5


@pytest.mark.parametrize(
    ("name", "api"),
    [
        ("openai-python", "responses"),
        ("openai-python", "chat"),
        ("openai-python-stream", "responses"),
        ("openai-python-stream", "chat"),
        ("langchain", "responses"),
        ("langchain", "chat"),
        ("langchain-stream", "chat"),
        ("litellm", "chat"),
        ("litellm-stream", "chat"),
    ],
)
async def test_a_client_library_sends_deltas_and_gets_its_answer(name: str, api: Api) -> None:
    """A plain loop on a client library profits as an agent does, in both dialects, streaming or not."""
    trial = await attempt(AGENTS[name], api=api, turns=10, cache=default_cache())
    assert not trial.problems, trial.log_tail
    assert trial.figures.front_ends == (api,)
    assert trial.figures.turns == 11


async def test_an_agent_that_rewrites_its_history_sends_full_turns() -> None:
    """Aider moves its files behind each new message: no turn is a delta, contexts are right, and edits arrive."""
    try:
        trial = await attempt(AGENTS["aider"], api="chat", turns=10, cache=default_cache())
    except UnknownPython as exc:
        pytest.skip(str(exc))
    assert not trial.problems, trial.log_tail
    assert trial.figures.turns == 11
    assert trial.figures.deltas == 0
    assert trial.figures.reasons["history_changed"] == 10


@pytest.mark.parametrize(
    ("name", "api"),
    [("codex", "responses"), ("openai-python-stream", "responses"), ("openai-python-stream", "chat")],
)
async def test_an_agent_notices_nothing_but_the_delay(name: str, api: Api) -> None:
    """Silences and darkness, each twice as long as the client's patience, cost no turn, no error and no delta."""
    hardship = Hardship(seconds=6, patience=3)
    trial = await attempt(AGENTS[name], api=api, turns=10, cache=default_cache(), hardship=hardship)
    assert not trial.problems, trial.log_tail
    assert trial.figures.turns == 11
    assert trial.seconds > hardship.total
