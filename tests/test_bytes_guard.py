"""The ratios that the README promises, on short sessions: what crosses the wire, counted by a relay."""

import pytest
from counting import HTTP, PACKLIGHT, Count, bound, count
from session import Session
from shapes import SHAPES

# Eight turns instead of a dozen or more, so the parts are larger than in docs/performance.md.
UP = {
    "Codex gpt-5.5": 0.062,
    "OpenCode": 0.061,
    "OpenHands": 0.085,
    "Copilot CLI": 0.171,
    "Fix a failing test": 0.064,
    "Cline, Chat": 0.065,
}
"""How much of plain HTTP's bytes may go up: a tenth more than was measured."""

DOWN = {"Codex gpt-5.5": 0.066, "OpenCode": 0.066, "Fix a failing test": 0.122}
OVER_BOUND = {"Codex gpt-5.5": 1.25, "OpenCode": 1.45, "Fix a failing test": 1.25, "Cline, Chat": 1.3}
"""How many times the bound, where settings fit the compressor's window."""
TURNS = 8


async def counts(name: str) -> tuple[Count, Count, float]:
    """Return what plain HTTP and packlight cost, and how many times the bound packlight sends up."""
    plain, added = await count(Session(SHAPES[name], turns=TURNS, seed=1), HTTP)
    packed, _ = await count(Session(SHAPES[name], turns=TURNS, seed=1), PACKLIGHT)
    return plain, packed, packed.up / bound(Session(SHAPES[name], turns=TURNS, seed=1), added).up


@pytest.mark.parametrize("name", UP)
async def test_a_session_goes_up_in_a_few_percent(name: str) -> None:
    """Every turn but the first is a delta, and little more goes up than any way would have to send."""
    plain, packed, over = await counts(name)
    assert packed.deltas == TURNS - 1
    assert packed.up / plain.up <= UP[name]
    assert name not in OVER_BOUND or over <= OVER_BOUND[name]


@pytest.mark.parametrize("name", DOWN)
async def test_and_comes_down_in_a_part(name: str) -> None:
    """What upstream repeats of the settings with each response costs next to nothing."""
    plain, packed, _ = await counts(name)
    assert packed.down / plain.down <= DOWN[name]


async def test_two_sessions_of_a_seed_are_the_same_to_the_byte() -> None:
    """So a difference between two ways is the ways' own."""
    shape = SHAPES["Codex gpt-5.5"]
    one, other = (Session(shape, turns=TURNS, seed=1) for _ in range(2))
    assert [one.body(one.opening) for _ in range(3)] == [other.body(other.opening) for _ in range(3)]
    assert (one.outputs, one.opening) == (other.outputs, other.opening)
