"""Instructions that upstream keeps for a chain: told at its beginning, and the agent's own to the byte."""

from typing import Any

import orjson
import pytest
from said import JSON, assistant, completed, created, done, request, user

from proxy.core.delta import Baseline, Delta, Full, Mismatch, diff
from proxy.core.items import Output
from proxy.core.turn import Rewrite, Turn

KEPT = frozenset({Rewrite.KEPT})
HISTORY = (user("Hello"), assistant("Hi"), user("Go on"))


def held(instructions: Any = "Be brief.") -> Baseline:
    """Return what upstream holds after a first turn, the instructions among it."""
    before = request(user("Hello"), instructions=instructions)
    outputs = (Output.of(assistant("Hi")),)
    return Baseline.after(before, "resp_1", outputs, kept=True)


def told_each_time(instructions: Any = "Be brief.") -> Baseline:
    """Return the same of an upstream that is not known to keep any."""
    before = request(user("Hello"), instructions=instructions)
    return Baseline.after(before, "resp_1", held().outputs)


def started(turn: Turn, upload: Delta | Full) -> JSON:
    """Return the message that *turn* sends."""
    message: JSON = orjson.loads(bytes(turn.start(upload, reused=True)))
    return message


def delta(turn: Turn, known: Baseline) -> Delta:
    """Return what *turn* adds to what is *known*."""
    found = diff(turn.request, known)
    assert isinstance(found, Delta)
    return found


def test_they_are_told_at_the_beginning() -> None:
    """The whole history has them, and leaves a chain that goes on with none but these."""
    turn = Turn(request(user("Hello"), instructions="Be brief."), rewrites=KEPT)
    assert started(turn, Full(Mismatch.FIRST_TURN))["instructions"] == "Be brief."
    for event in (created(), done(assistant("Hi")), completed(assistant("Hi"))):
        assert turn.receive(event) == (event,)
    assert turn.baseline is not None
    assert turn.baseline.kept
    assert turn.baseline.instructions == turn.request.instructions


def test_and_not_again() -> None:
    """A chain keeps its form whatever holds now, and what follows it too."""
    turn = Turn(request(*HISTORY, instructions="Be brief.", tools=[]))
    assert "instructions" not in started(turn, delta(turn, held()))
    (shown,) = turn.receive(created(previous_response_id="resp_1", instructions=None))
    assert shown.json()["response"]["instructions"] == "Be brief."
    turn.receive(done(assistant("Yes")))
    turn.receive(completed(assistant("Yes")))
    assert turn.baseline is not None
    assert turn.baseline.kept
    assert turn.baseline.instructions == held().instructions


def test_a_chain_that_was_told_them_each_time_goes_on_so() -> None:
    """It began where upstream was not known to keep any."""
    turn = Turn(request(*HISTORY, instructions="Be brief."), rewrites=KEPT)
    assert started(turn, delta(turn, told_each_time()))["instructions"] == "Be brief."


@pytest.mark.parametrize("instructions", ["Be brief!", "be brief.", "", None, ["Be brief."]])
def test_others_are_another_chain(instructions: Any) -> None:
    """Upstream would go on with those that it has."""
    assert diff(request(*HISTORY, instructions=instructions), held()) == Full(Mismatch.SETTINGS_CHANGED)
    assert diff(request(*HISTORY, instructions="Be brief."), held(instructions)) == Full(Mismatch.SETTINGS_CHANGED)


def test_whoever_takes_them_from_each_request_is_told_others() -> None:
    """That is the rule where no other is known; a chain that began without any can be told some."""
    turn = Turn(request(*HISTORY, instructions="Be long."))
    for before in ("Be brief.", None):
        assert started(turn, delta(turn, told_each_time(before)))["instructions"] == "Be long."


@pytest.mark.parametrize("none", ["", None])
def test_without_any_a_chain_that_had_some_does_not_go_on(none: Any) -> None:
    """An upstream that keeps them refuses to be told others, and where there are none it goes on with these."""
    for asked in (request(*HISTORY, instructions=none), request(*HISTORY)):
        assert diff(asked, told_each_time()) == Full(Mismatch.SETTINGS_CHANGED)


def test_a_chain_without_them_is_told_none() -> None:
    """A null says no more than their absence, and might be refused."""
    turn = Turn(request(*HISTORY, instructions=None))
    assert "instructions" not in started(turn, delta(turn, held(None)))
    assert turn.untold == {}
    assert isinstance(diff(request(*HISTORY), held(None)), Delta)
