"""Lanes: several responses on one connection."""

from typing import Any

from dialogue import Simulate, Talk, tool_output

from proxy.simulator import ModelCall, Output, Text


def paced(call: ModelCall) -> Output:
    """Say what was said; slowly if asked to."""
    said = str(call.context[-1]["content"])
    return Output((Text(said),), event_seconds=0.02 if said == "slow" else 0)


async def test_events_name_their_lane(simulate: Simulate, talk: Talk) -> None:
    """Every event of a named lane echoes it, errors too; the default lane has no name."""
    simulator = await simulate()
    dialogue = await talk(simulator)
    for fields in ({}, {"novelty": 1}):
        events = await dialogue.create(stream_id="agent_1", **fields)
        assert {event["stream_id"] for event in events} == {"agent_1"}
    assert all("stream_id" not in event for event in await dialogue.create())
    assert [turn.stream_id for turn in simulator.turns] == ["agent_1", "agent_1", None]


async def test_lanes_run_side_by_side(simulate: Simulate, talk: Talk) -> None:
    """A fast lane overtakes a slow one."""
    dialogue = await talk(await simulate(paced))
    await dialogue.begin("slow", stream_id="a")
    await dialogue.begin("fast", stream_id="b")
    ends = [(await dialogue.finish())[-1]["stream_id"] for _ in range(2)]
    assert ends == ["b", "a"]


async def test_a_lane_is_a_queue(simulate: Simulate, talk: Talk) -> None:
    """Creates on one lane never overlap and keep their order, the default lane too."""
    dialogue = await talk(await simulate(paced))
    for lane in ({}, {"stream_id": "a"}):
        await dialogue.begin("slow", **lane)
        await dialogue.begin("fast", **lane)
        first, second = await dialogue.finish(), await dialogue.finish()
        assert len({event["response"]["id"] for event in first if "response" in event}) == 1
        assert first[-1]["response"]["output"][0]["content"][0]["text"] == "slow"
        assert second[-1]["response"]["output"][0]["content"][0]["text"] == "fast"


async def test_each_lane_remembers_its_latest(simulate: Simulate, talk: Talk) -> None:
    """A response of one lane doesn't evict another lane's."""
    dialogue = await talk(await simulate())
    first = await dialogue.complete(stream_id="a")
    await dialogue.complete(stream_id="b")
    await dialogue.complete()
    await dialogue.complete(previous_response_id=first["id"], stream_id="a")


async def test_one_slot_for_all_lanes(simulate: Simulate, talk: Talk) -> None:
    """With the policy "latest", any lane's response takes the place of all others."""
    dialogue = await talk(await simulate(cache="latest"))
    first = await dialogue.complete(stream_id="a")
    await dialogue.complete(stream_id="b")
    await dialogue.fail(previous_response_id=first["id"], stream_id="a")


async def test_a_failing_fork_preserves_its_parent(simulate: Simulate, talk: Talk) -> None:
    """A refusal on another lane leaves the parent where it is; a good fork works."""
    simulator = await simulate()
    dialogue = await talk(simulator)
    parent = await dialogue.complete(stream_id="a")
    await dialogue.fail([tool_output("call_x")], previous_response_id=parent["id"], stream_id="b")
    await dialogue.complete(previous_response_id=parent["id"], stream_id="b")
    await dialogue.complete(previous_response_id=parent["id"], stream_id="a")
    assert len(simulator.turns[2].context) == len(simulator.turns[3].context) == 3


async def test_a_queued_fork_can_lose_its_parent(simulate: Simulate, talk: Talk) -> None:
    """If the source lane advances while the fork waits, the parent is gone."""
    dialogue = await talk(await simulate(paced))
    parent = await dialogue.complete("x", stream_id="a")
    await dialogue.begin("slow", stream_id="b")
    await dialogue.begin("fork", stream_id="b", previous_response_id=parent["id"])
    await dialogue.begin("advance", stream_id="a", previous_response_id=parent["id"])
    await dialogue.finish()
    await dialogue.finish()
    assert (await dialogue.finish())[-1]["error"]["code"] == "previous_response_not_found"


async def test_lanes_are_limited(simulate: Simulate, talk: Talk) -> None:
    """The 33rd name is refused with the documented words; known ones and the default lane go on."""
    dialogue = await talk(await simulate())
    for number in range(32):
        await dialogue.complete(stream_id=f"lane-{number}")
    error = await dialogue.fail(stream_id="one.more")
    assert (error["code"], error["param"]) == ("websocket_stream_limit_reached", "stream_id")
    assert "(32). Reuse an existing stream_id" in error["message"]
    await dialogue.complete(stream_id="lane-0")
    await dialogue.complete()


async def test_responses_in_flight_are_limited(simulate: Simulate, talk: Talk) -> None:
    """What is over the limit waits its turn instead of being refused."""
    dialogue = await talk(await simulate(paced, max_in_flight=2))
    for name in "abc":
        await dialogue.begin("slow", stream_id=name)
    open_lanes: set[str] = set()
    most, ended = 0, 0
    while ended < 3:
        event: dict[str, Any] = await dialogue.receive()
        if event["type"] == "response.created":
            open_lanes.add(event["stream_id"])
        elif event["type"] == "response.completed":
            open_lanes.remove(event["stream_id"])
            ended += 1
        most = max(most, len(open_lanes))
    assert most == 2


async def test_bad_lane_names_are_refused(simulate: Simulate, talk: Talk) -> None:
    """Empty, long, odd and non-text names are refused without a lane."""
    simulator = await simulate()
    dialogue = await talk(simulator)
    for name in ("", "x" * 257, "a b", 7):
        events = await dialogue.create(stream_id=name)
        assert events[0]["error"]["code"] == "invalid_stream_id"
        assert "stream_id" not in events[0]
    await dialogue.complete(stream_id="x" * 256)
    await dialogue.complete(stream_id=None)
