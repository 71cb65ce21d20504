"""What the model reads."""

from typing import Any

import pytest
from dialogue import user

from proxy.simulator import ApiError, SimulatedTurn, digest, rendered
from proxy.simulator.items import Names
from proxy.simulator.records import Identity
from proxy.simulator.rendering import REMEMBERED_PROMPTS, PromptCache


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"role": "user", "content": "a"}, user("a")),
        ({**user("a"), "id": "msg_1", "status": "completed", "phase": "commentary"}, user("a")),
        ({"type": "function_call", "arguments": '{"a": 1}'}, {"type": "function_call", "arguments": '{"a":1}'}),
        (
            {"type": "function_call_output", "output": "x"},
            {"type": "function_call_output", "output": [{"type": "input_text", "text": "x"}]},
        ),
        (
            {
                "role": "assistant",
                "content": [{"type": "output_text", "text": "x", "annotations": [], "logprobs": []}],
            },
            {"role": "assistant", "content": "x"},
        ),
    ],
)
def test_spelling_does_not_matter(one: dict[str, object], other: dict[str, object]) -> None:
    """Items that say the same render alike."""
    assert rendered([one]) == rendered([other])
    assert digest([one]) == digest([other])


def test_odd_items_render_as_they_are() -> None:
    """Arguments that are no JSON, outputs that are no text, parts that are no objects."""
    odd: list[dict[str, Any]] = [
        {"type": "function_call", "arguments": "{"},
        {"type": "computer_call_output", "output": {"type": "x"}},
        {"type": "function_call_output", "output": ["x", {"type": "input_image"}]},
    ]
    assert rendered(odd) == [odd[0], {**odd[1], "output": [{"type": "x"}]}, odd[2]]


def test_content_matters() -> None:
    """Another role, text or order is another prompt."""
    prompts = [[user("a")], [{"role": "system", "content": "a"}], [user("b")], [user("a"), user("b")]]
    prompts.append(prompts[-1][::-1])
    assert len({digest(prompt) for prompt in prompts}) == len(prompts)


def test_old_prompts_are_forgotten() -> None:
    """The prompt cache is bounded, and keeps what is used."""
    cache = PromptCache()
    long = [user("word " * 500)]
    cache.read("scope", {}, long)
    for number in range(REMEMBERED_PROMPTS - 1):
        cache.read("scope", {}, [user(str(number))])
    assert cache.read("scope", {}, long)[1] > 0
    for number in range(REMEMBERED_PROMPTS):
        cache.read("other", {}, [user(str(number))])
    assert cache.read("scope", {}, long)[1] == 0


def test_records_and_errors_show_themselves() -> None:
    """The reprs say what a person looks for."""
    turn = SimulatedTurn(3, "ws", "responses", 0, Identity(), {}, 2, previous_response_id="resp_1")
    assert repr(turn) == "<SimulatedTurn 3 ws/responses None after resp_1 queued input=0 context=0>"
    assert repr(ApiError(400, "No.", code="x")) == "<ApiError 400 x: No.>"
    assert Names(0, 1).id("novelty_call").startswith("novelty_000001")
