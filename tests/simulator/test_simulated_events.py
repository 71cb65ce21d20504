"""The events of a response: their order, their numbers, their shape."""

from typing import Any

import pytest
from dialogue import Dialogue, Simulate, Talk, texts, user
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from proxy.simulator import (
    Compaction,
    CustomToolCall,
    Declined,
    Failed,
    FunctionCall,
    Incomplete,
    Output,
    Reasoning,
    Text,
    Verbatim,
    WebSearch,
    says,
    scripted,
)

EVERYTHING = says(
    Reasoning(("thinking", "more")),
    Text("commented", "commentary"),
    WebSearch("weather"),
    FunctionCall("ls", '{"path": "."}'),
    CustomToolCall("apply_patch", "*** Begin Patch"),
    Compaction(),
    Verbatim({"type": "novelty", "x": 1}),
    Declined("I can't help with that"),
    Text("done"),
)
TOOL = {"type": "function", "name": "ls", "description": "List", "parameters": {"type": "object"}, "strict": False}


def kinds(events: list[dict[str, Any]]) -> list[str]:
    """Return the events' types, without what all of them begin with."""
    return [event["type"].removeprefix("response.") for event in events]


async def test_a_function_call_has_the_documented_events(simulate: Simulate, talk: Talk) -> None:
    """Reasoning and a call stream as in the worked example, numbered from 0."""
    simulator = await simulate(scripted([says(Reasoning(), FunctionCall("ls", "{}"))]))
    events = await (await talk(simulator)).create()
    assert kinds(events) == [
        "created",
        "in_progress",
        "output_item.added",
        "output_item.done",
        "output_item.added",
        "function_call_arguments.delta",
        "function_call_arguments.done",
        "output_item.done",
        "completed",
    ]
    assert [event["sequence_number"] for event in events] == list(range(9))
    assert "encrypted_content" not in events[2]["item"]
    assert events[3]["item"]["encrypted_content"].startswith("gAAAA")
    assert events[4]["item"]["arguments"] == ""
    assert events[8]["response"]["output"] == [events[3]["item"], events[7]["item"]]
    assert simulator.turns[0].output == events[8]["response"]["output"]
    assert simulator.turns[0].events_sent == 9


async def test_a_text_has_the_documented_events(simulate: Simulate, talk: Talk) -> None:
    """A message streams as a part with deltas that add up."""
    simulator = await simulate(scripted([Output((Text("hello world", "final_answer"),), delta_size=6)]))
    events = await (await talk(simulator)).create()
    assert kinds(events)[2:-1] == [
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
    ]
    assert "".join(event.get("delta", "") for event in events) == "hello world" == texts(events)
    assert events[-2]["item"]["phase"] == "final_answer"


async def test_every_event_parses_as_the_sdk_declares_it(simulate: Simulate, talk: Talk) -> None:
    """All kinds of items validate against the types of the official SDK, but for the unknown one."""
    simulator = await simulate(scripted([EVERYTHING]))
    dialogue = await talk(simulator)
    events = await dialogue.create(
        [user("a")], tools=[TOOL], instructions="be brief", reasoning={"effort": "low"}, text={"verbosity": "low"}
    )
    adapter: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
    for event in events:
        response = event.get("response", {})
        if response.get("output"):
            response["output"] = [item for item in response["output"] if item["type"] != "novelty"]
        if event.get("item", {}).get("type") != "novelty":
            adapter.validate_python(event)
    response = events[-1]["response"]
    parsed = Response.model_validate(response)
    assert parsed.output_text == "commenteddone"
    assert (response["instructions"], response["tools"]) == ("be brief", [TOOL])
    assert (response["reasoning"]["effort"], response["text"]["verbosity"]) == ("low", "low")
    assert response["text"]["format"] == {"type": "text"}
    assert response["store"] is False


async def test_obfuscation_can_be_turned_off(simulate: Simulate, talk: Talk) -> None:
    """Deltas are padded unless stream_options.include_obfuscation is false."""
    dialogue = await talk(await simulate())

    def padded(events: list[dict[str, Any]]) -> bool:
        return any("obfuscation" in event for event in events)

    assert padded(await dialogue.create())
    assert padded(await dialogue.create(stream_options={}))
    assert not padded(await dialogue.create(stream_options={"include_obfuscation": False}))


async def test_ids_and_ciphertext_follow_from_the_seed(simulate: Simulate, talk: Talk) -> None:
    """The same seed gives the same events; another seed doesn't; two turns of one run differ."""

    async def output(seed: int) -> list[Any]:
        dialogue = await talk(await simulate(scripted([says(Reasoning())] * 2), seed=seed))
        return [(await dialogue.complete())["output"] for _ in range(2)]

    one, same, other = await output(1), await output(1), await output(2)
    assert one == same
    assert one != other
    assert one[0] != one[1]


@pytest.mark.parametrize(("setting", "output"), [("empty", []), ("omitted", None)])
async def test_the_terminal_output_may_be_missing(
    simulate: Simulate, talk: Talk, setting: str, output: list[Any] | None
) -> None:
    """response.completed may carry no output; the chain works all the same."""
    simulator = await simulate(terminal_output=setting)
    dialogue = await talk(simulator)
    first = await dialogue.complete()
    assert first.get("output") == output
    await dialogue.complete(previous_response_id=first["id"])
    assert len(simulator.turns[1].context) == 3


async def test_a_response_may_end_with_little_more_than_an_id(simulate: Simulate, talk: Talk) -> None:
    """Over a WebSocket alone, and it can be continued."""
    simulator = await simulate(terminal_output="done")
    dialogue = await talk(simulator)
    last = (await dialogue.create())[-1]
    assert last["type"] == "response.done"
    assert last["response"] == {"id": simulator.turns[0].response_id, "usage": simulator.turns[0].usage}
    await dialogue.create(previous_response_id=last["response"]["id"])
    assert len(simulator.turns[1].context) == 3


async def test_the_terminal_ciphertext_may_differ(simulate: Simulate, talk: Talk) -> None:
    """The same reasoning item can read differently in output_item.done and response.completed."""
    simulator = await simulate(scripted([says(Reasoning(), "x")]), terminal_ciphertext="different")
    events = await (await talk(simulator)).create()
    done = next(event["item"] for event in events if event["type"] == "response.output_item.done")
    last = events[-1]["response"]["output"]
    assert last[0]["id"] == done["id"]
    assert last[0]["encrypted_content"] != done["encrypted_content"]
    assert last[1]["content"][0]["text"] == "x"


async def test_unexpected_events_can_be_mixed_in(simulate: Simulate, talk: Talk) -> None:
    """Keepalives, rate limits and unknown events appear before created, in mid-stream and after the end."""
    extra = (
        "keepalive_before_created",
        "rate_limits_before_created",
        "unknown_before_created",
        "keepalive_mid_stream",
        "unknown_mid_stream",
        "trailing",
    )
    dialogue = await talk(await simulate(extra_events=extra, trailing_seconds=0.01))
    events = await dialogue.create()
    assert kinds(events)[:7] == [
        "keepalive",
        "codex.rate_limits",
        "novelty.reported",
        "created",
        "in_progress",
        "keepalive",
        "novelty.reported",
    ]
    assert "sequence_number" not in events[1]
    numbers = [event["sequence_number"] for event in events if "sequence_number" in event]
    assert numbers == list(range(len(events) - 1))
    assert kinds([await dialogue.receive()]) == ["novelty.reported"]


async def test_an_incomplete_response_gives_its_reason(simulate: Simulate, talk: Talk) -> None:
    """response.incomplete carries what was said and why it ended."""
    simulator = await simulate(scripted([says("cut", finish=Incomplete("content_filter"))]))
    events = await (await talk(simulator)).create()
    response = events[-1]["response"]
    assert response["status"] == "incomplete"
    assert response["incomplete_details"] == {"reason": "content_filter"}
    assert response["output"][0]["content"][0]["text"] == "cut"
    assert simulator.turns[0].status == "incomplete"


async def test_a_failure_may_come_as_error_and_failed(simulate: Simulate, talk: Talk) -> None:
    """An error event may precede response.failed."""
    failure = Failed("server_is_overloaded", "Try later.", error_event=True)
    dialogue = await talk(await simulate(scripted([says(finish=failure), says(finish=Failed())])))
    events = await dialogue.create()
    events += await dialogue.finish()
    assert kinds(events) == ["created", "in_progress", "error", "failed"]
    assert events[2]["error"]["code"] == "server_is_overloaded"
    assert events[3]["response"]["error"] == {"code": "server_is_overloaded", "message": "Try later."}
    assert kinds(await dialogue.create()) == ["created", "in_progress", "failed"]


async def test_a_failure_may_be_explained_behind_it(simulate: Simulate, talk: Talk) -> None:
    """The error event comes last."""
    dialogue = await talk(await simulate(scripted([says(finish=Failed("slow_down", error_event="behind"))])))
    events = [*await dialogue.create(), *await dialogue.finish()]
    assert kinds(events) == ["created", "in_progress", "failed", "error"]
    assert events[2]["response"]["error"] is None
    assert events[3]["error"]["code"] == "slow_down"


async def test_a_departed_asker_cancels_the_turn(simulate: Simulate, stack: Any) -> None:
    """Whoever closes the connection in mid-stream leaves a cancelled turn, the queued one too."""
    simulator = await simulate(scripted([Output((Text("slow" * 100),), event_seconds=60), "never"]))
    async with Dialogue(simulator) as dialogue:
        await dialogue.begin()
        await dialogue.begin()
        assert (await dialogue.receive())["type"] == "response.created"
    await simulator.until(lambda: all(turn.finished for turn in simulator.turns))
    assert [(turn.cancelled, turn.status) for turn in simulator.turns] == [(True, "cancelled")] * 2


async def test_logprobs_come_where_they_were_asked_for(simulate: Simulate, talk: Talk) -> None:
    """Events carry those of their own words, without bytes; the finished part has all, with bytes."""
    simulator = await simulate(lambda _: Output((Text("hello world"),), delta_size=7))
    dialogue = await talk(simulator)
    wanted = {"include": ["message.output_text.logprobs"], "top_logprobs": 1}
    events = await dialogue.create(**wanted)
    told = [event["logprobs"] for event in events if event["type"] == "response.output_text.delta"]
    assert [[token["token"] for token in each] for each in told] == [["hell", "o w"], ["orld"]]
    assert all(token.keys() == {"token", "logprob", "top_logprobs"} for each in told for token in each)
    (done,) = [event for event in events if event["type"] == "response.output_text.done"]
    assert done["logprobs"] == [token for each in told for token in each]
    (added,) = [event for event in events if event["type"] == "response.content_part.added"]
    assert added["part"]["logprobs"] == []
    (part,) = events[-1]["response"]["output"][0]["content"]
    assert [bytes(token["bytes"]) for token in part["logprobs"]] == [b"hell", b"o w", b"orld"]
    assert all(len(token["top_logprobs"]) == 1 for token in part["logprobs"])
    for event in events:
        TypeAdapter(ResponseStreamEvent).validate_python(event)
    plain = await dialogue.create()
    assert not any(event.get("logprobs") for event in plain)
