"""Context: whether the model got to read what really happened in a session."""

import re
from collections.abc import Iterator, Sequence

from model import LAST_LINE, NOTE, REQUEST

from proxy.simulator import SimulatedTurn

STEP = re.compile(r"echo (step \d+)")


def wrong(turns: Sequence[SimulatedTurn], *, prompt: str, tool_turns: int) -> list[str]:
    """Return what is wrong with the contexts of *turns*, tool calls: nothing missing, twice, or out of order."""
    faults = [fault for turn in turns for fault in _wrong_pairs(turn)]
    answered = max((_outputs(turn) for turn in turns), default=[], key=len)
    if len(answered) != tool_turns:
        faults.append(f"the longest context has {len(answered)} tool outputs instead of {tool_turns}")
    for turn in turns:
        times = sum(prompt in str(item.get("content")) for item in turn.context)
        if _outputs(turn) and times != 1:
            faults.append(f"turn {turn.number} has the prompt {times} times")
    return faults


def wrong_notes(turns: Sequence[SimulatedTurn], *, prompt: str, steps: int) -> list[str]:
    """Return what is wrong with the contexts of *turns*: each but the last had the next of *steps* noted."""
    faults = []
    if len(turns) != steps + 1:
        faults.append(f"there were {len(turns)} turns for {steps + 1} messages")
    for noted, turn in enumerate(turns):
        last = "the prompt" if noted == steps else f"asked for {noted + 1}"
        done = [event for step in range(1, noted + 1) for event in (f"asked for {step}", f"edited {step}")]
        expected = [*done, f"file with {[*range(1, noted + 1)]}", last]
        if (story := list(_story(turn, prompt))) != expected:
            faults.append(f"turn {turn.number} reads {story} instead of {expected}")
    return faults


def _story(turn: SimulatedTurn, prompt: str) -> Iterator[str]:
    """Yield what happened according to a context: requests, edits, and which steps the file holds."""
    for item in turn.context:
        text = str(item.get("content"))
        steps = [int(step) for step in NOTE.findall(text)]
        if item.get("role") == "assistant":
            if steps:
                yield f"edited {steps[-1]}"
        elif asked := REQUEST.search(text):
            yield f"asked for {asked[1]}"
        elif LAST_LINE in text:
            yield f"file with {steps}"
        elif prompt in text:
            yield "the prompt"


def _wrong_pairs(turn: SimulatedTurn) -> Iterator[str]:
    """Yield what is wrong between the calls in a context and their outputs: each has its own, in order."""
    calls = [item for item in turn.context if str(item.get("type")).endswith("_call")]
    outputs = _outputs(turn)
    call_ids = [item["call_id"] for item in calls]
    if call_ids != [item["call_id"] for item in outputs] or len(set(call_ids)) != len(call_ids):
        yield f"turn {turn.number} has {len(calls)} calls and {len(outputs)} outputs that do not match"
        return
    for call, output in zip(calls, outputs, strict=True):
        asked = STEP.search(str(call.get("arguments", call.get("input"))))
        if asked is None or asked[1] not in str(output["output"]):
            yield f"turn {turn.number} has an output that is not that of its call"


def _outputs(turn: SimulatedTurn) -> list[dict[str, object]]:
    return [item for item in turn.context if str(item.get("type")).endswith("_call_output")]
