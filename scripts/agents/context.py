"""Context: whether the model got to read what really happened in a session of tool calls."""

import re
from collections.abc import Iterator, Sequence

from proxy.simulator import SimulatedTurn

STEP = re.compile(r"echo (step \d+)")


def wrong(turns: Sequence[SimulatedTurn], *, prompt: str, tool_turns: int) -> list[str]:
    """Return what is wrong with the contexts of *turns*: nothing missing, twice, or out of order."""
    faults = [fault for turn in turns for fault in _wrong_pairs(turn)]
    answered = max((_outputs(turn) for turn in turns), default=[], key=len)
    if len(answered) != tool_turns:
        faults.append(f"the longest context has {len(answered)} tool outputs instead of {tool_turns}")
    for turn in turns:
        times = sum(prompt in str(item.get("content")) for item in turn.context)
        if _outputs(turn) and times != 1:
            faults.append(f"turn {turn.number} has the prompt {times} times")
    return faults


def _wrong_pairs(turn: SimulatedTurn) -> Iterator[str]:
    """Yield what is wrong between the calls in a context and their outputs: each has its own, in order."""
    calls = [item for item in turn.context if str(item.get("type")).endswith("_call")]
    outputs = _outputs(turn)
    call_ids = [item["call_id"] for item in calls]
    if call_ids != [item["call_id"] for item in outputs] or len(set(call_ids)) != len(call_ids):
        yield f"turn {turn.number} has {len(calls)} calls and {len(outputs)} outputs that do not match"
        return
    for call, output in zip(calls, outputs, strict=True):
        asked = STEP.search(str(call.get("arguments")))
        if asked is None or asked[1] not in str(output["output"]):
            yield f"turn {turn.number} has an output that is not that of its call"


def _outputs(turn: SimulatedTurn) -> list[dict[str, object]]:
    return [item for item in turn.context if str(item.get("type")).endswith("_call_output")]
