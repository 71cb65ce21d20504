"""The ratios that the README promises, on short sessions: what crosses the wire, counted by a relay."""

import pytest
from counting import HTTP, PACKLIGHT, Count, bound, count
from recorded import sums
from session import Session
from shapes import SHAPES

# Eight turns instead of a dozen or more, so the parts are larger than in docs/performance.md.
UP = {
    "Codex gpt-5.5": 0.051,
    "OpenCode": 0.046,
    "OpenHands": 0.051,
    "Copilot CLI": 0.164,
    "Fix a failing test": 0.072,
    "Cline, Chat": 0.064,
}
"""How much of plain HTTP's bytes may go up: a tenth more than was measured."""

DOWN = {"Codex gpt-5.5": 0.078, "OpenCode": 0.075, "Fix a failing test": 0.105}
OVER_BOUND = {
    "Codex gpt-5.5": 1.25,
    "OpenCode": 1.35,
    "OpenHands": 1.4,
    "Fix a failing test": 1.25,
    "Cline, Chat": 1.3,
}
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


RECORDED = [name for name, shape in SHAPES.items() if shape.recorded is not None]


@pytest.mark.parametrize("name", RECORDED)
async def test_generated_sessions_come_to_what_was_recorded(name: str) -> None:
    """In bytes, in how much of them is new, and, less closely, in how they compress by themselves."""
    session, recorded = Session(SHAPES[name], seed=1), SHAPES[name].recorded
    assert recorded is not None
    _, added = await count(session, HTTP)
    came = sums(session.body, added[:-1])
    assert came.bodies == pytest.approx(recorded.bodies, rel=0.08)
    assert came.new == pytest.approx(recorded.new, rel=0.08)
    assert came.gzip / came.bodies == pytest.approx(recorded.gzip / recorded.bodies, rel=0.2)


async def test_two_sessions_of_a_seed_are_the_same_to_the_byte() -> None:
    """So a difference between two ways is the ways' own."""
    shape = SHAPES["Codex gpt-5.5"]
    one, other = (Session(shape, turns=TURNS, seed=1) for _ in range(2))
    assert [one.body(one.opening) for _ in range(3)] == [other.body(other.opening) for _ in range(3)]
    assert (one.outputs, one.opening) == (other.outputs, other.opening)
