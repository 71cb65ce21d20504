"""Servers that differ from OpenAI's documents."""

from typing import Any

from dialogue import Dialogue, Simulate, Talk, texts, tool_output, user

from proxy.simulator import (
    Fault,
    FunctionCall,
    Output,
    Reasoning,
    Simulator,
    SimulatorSettings,
    Text,
    echo_script,
    says,
    scripted,
)


async def test_localai_replays_only_the_last_turn(simulate: Simulate, talk: Talk) -> None:
    """A chain of three silently loses the first turn."""
    simulator = await simulate(citizen="localai")
    dialogue = await talk(simulator)
    first = await dialogue.complete([user("a")], store=True)
    second = await dialogue.complete([user("b")], store=True, previous_response_id=first["id"])
    await dialogue.complete([user("c")], store=True, previous_response_id=second["id"])
    assert simulator.turns[1].context == [user("a"), *first["output"], user("b")]
    assert simulator.turns[2].context == [user("b"), *second["output"], user("c")]


async def test_localai_forgets_what_is_not_stored(simulate: Simulate, talk: Talk) -> None:
    """store:false is deleted on completion; errors have no status; generate:false is ignored."""
    dialogue = await talk(await simulate(citizen="localai"))
    events = await dialogue.create(generate=False, novelty=1)
    assert texts(events)
    events = await dialogue.create(previous_response_id=events[-1]["response"]["id"])
    assert "status" not in events[0]
    assert events[0]["error"]["code"] == "previous_response_not_found"


async def test_localai_runs_one_response_at_a_time(simulate: Simulate, talk: Talk) -> None:
    """A second create is an error, and the first goes on."""
    output = Output((Text("slow"),), event_seconds=0.02)
    dialogue = await talk(await simulate(scripted([output]), citizen="localai"))
    await dialogue.begin()
    await dialogue.begin()
    events = await dialogue.finish()
    error = {"type": "invalid_request", "message": "a response is already in progress on this connection"}
    assert error.items() <= events[-1]["error"].items()
    assert (await dialogue.finish())[-1]["type"] == "response.completed"


async def test_litellm_loses_the_warm_up(simulate: Simulate, talk: Talk) -> None:
    """It is acknowledged, and a continuation reads nothing of it."""
    simulator = await simulate(citizen="litellm")
    dialogue = await talk(simulator)
    warm = await dialogue.complete([user("a")], generate=False)
    await dialogue.complete([user("b")], previous_response_id=warm["id"])
    assert simulator.turns[1].context == [user("b")]


async def test_litellm_drops_reasoning(simulate: Simulate, talk: Talk) -> None:
    """Messages and function calls are carried on, reasoning isn't."""
    outputs: list[Any] = [says(Reasoning(), "x", FunctionCall("ls", "{}", "call_1")), "y"]
    simulator = await simulate(scripted(outputs), citizen="litellm")
    dialogue = await talk(simulator)
    first = await dialogue.complete()
    await dialogue.complete([tool_output("call_1")], previous_response_id=first["id"])
    kinds = [item["type"] for item in simulator.turns[1].context]
    assert kinds == ["message", "message", "function_call", "function_call_output"]


async def test_litellm_takes_nested_creates_and_ignores_the_unknown(simulate: Simulate, talk: Talk) -> None:
    """The Realtime form works; other frames have no answer."""
    simulator = await simulate(citizen="litellm")
    dialogue = await talk(simulator)
    await dialogue.send({"type": "response.cancel"})
    await dialogue.send({"type": "response.create", "response": {"model": "m", "input": [user("a")]}})
    assert (await dialogue.finish())[-1]["type"] == "response.completed"
    assert simulator.turns[0].context == [user("a")]


async def test_xai_is_strict(simulate: Simulate, talk: Talk) -> None:
    """Instructions can't be repeated on a chain, which says so in as few words as possible; there are no lanes."""
    dialogue = await talk(await simulate(citizen="xai"))
    first = await dialogue.complete(instructions="x", store=True)
    await dialogue.begin(instructions="x", previous_response_id=first["id"])
    words = "Request validation error: Argument not supported: instructions and previous_response_id together"
    assert await dialogue.receive() == {"error": {"message": words, "type": "api_error"}}
    assert (await dialogue.fail(stream_id="a"))["code"] == "unknown_parameter"


async def test_xai_keeps_the_instructions_of_a_chain(simulate: Simulate, talk: Talk) -> None:
    """They hold for each of its responses, all of which have one id."""
    simulator = await simulate(citizen="xai")
    dialogue = await talk(simulator)
    first = await dialogue.complete(instructions="x", store=True)
    for _ in range(2):
        later = await dialogue.complete(previous_response_id=first["id"], store=True)
        assert later["id"] == first["id"]
    assert [turn.effective["instructions"] for turn in simulator.turns] == ["x", "x", "x"]


async def test_xai_has_no_chain_of_what_is_not_stored(simulate: Simulate, talk: Talk) -> None:
    """Not even on its own connection."""
    dialogue = await talk(await simulate(citizen="xai"))
    first = await dialogue.complete(store=False)
    await dialogue.begin(previous_response_id=first["id"])
    words = f"gRPC error: Response with id={first['id']} not found"
    assert await dialogue.receive() == {"error": {"message": words, "type": "api_error"}}


async def test_xai_ends_after_25_minutes(stack: Any) -> None:
    """Its limit is shorter, and its message says so."""
    now = 0.0
    settings = SimulatorSettings(citizen="xai")
    simulator = await stack.enter_async_context(Simulator(settings, script=echo_script, clock=lambda: now))
    dialogue = await stack.enter_async_context(Dialogue(simulator))
    now = 1500
    assert "(25 minutes)" in (await dialogue.fail())["message"]


async def test_azure_has_no_lanes(simulate: Simulate, talk: Talk) -> None:
    """stream_id is an unknown parameter, and only the latest response is kept."""
    dialogue = await talk(await simulate(citizen="azure"))
    events = await dialogue.create(stream_id="a")
    assert (events[0]["status"], events[0]["error"]["message"]) == (400, "Unknown parameter: 'stream_id'.")
    first = await dialogue.complete()
    await dialogue.complete()
    await dialogue.fail(previous_response_id=first["id"])


async def test_cliproxyapi_goes_on_unasked(simulate: Simulate, talk: Talk) -> None:
    """What a connection carried last stands before what comes next, with its instructions; no parent is named."""
    simulator = await simulate(citizen="cliproxyapi")
    dialogue = await talk(simulator)
    first = await dialogue.complete([user("a")], instructions="x")
    await dialogue.complete([user("b")])
    assert simulator.turns[1].context == [user("a"), *first["output"], user("b")]
    assert simulator.turns[1].effective["instructions"] == "x"
    assert "previous_response_id" not in first


async def test_cliproxyapi_knows_a_whole_history_by_what_the_model_said(simulate: Simulate, talk: Talk) -> None:
    """A message of the model's without its type does not tell."""
    said = {"role": "assistant", "content": "y"}
    simulator = await simulate(citizen="cliproxyapi")
    dialogue = await talk(simulator)
    await dialogue.complete([user("a")], instructions="x")
    await dialogue.complete([user("a"), {"type": "message", **said}, user("b")])
    assert len(simulator.turns[1].context) == 3
    assert simulator.turns[1].effective["instructions"] == "x"  # these it goes on with all the same
    await dialogue.complete([user("a"), said, user("b")])
    assert len(simulator.turns[2].context) == 7


async def test_cliproxyapi_goes_on_behind_a_failure(simulate: Simulate, talk: Talk) -> None:
    """A request that failed leaves what its connection carried before."""
    simulator = await simulate(citizen="cliproxyapi")
    dialogue = await talk(simulator)
    first = await dialogue.complete([user("a")])
    simulator.inject(Fault("before_created", "error", status=400, code="invalid_prompt"))
    await dialogue.fail([user("b")], previous_response_id=first["id"])
    await dialogue.complete([user("c")])
    assert simulator.turns[-1].context == [user("a"), *first["output"], user("c")]


async def test_cliproxyapi_continues_the_last_response_whichever_is_named(simulate: Simulate, talk: Talk) -> None:
    """A connection that has carried none knows none."""
    simulator = await simulate(citizen="cliproxyapi")
    dialogue = await talk(simulator)
    await dialogue.fail(previous_response_id="resp_none")
    await dialogue.complete([user("a")])
    await dialogue.complete([user("b")], previous_response_id="resp_none")
    assert [item.get("role") for item in simulator.turns[-1].context] == ["user", "assistant", "user"]
