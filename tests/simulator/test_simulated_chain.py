"""What the simulated upstream remembers, and the context that it reconstructs."""

from dialogue import Simulate, Talk, tool_output, user

from proxy.simulator import Failed, FunctionCall, Incomplete, Reasoning, digest, rendered, says, scripted
from proxy.simulator.chain import STORED_RESPONSES, ConnectionCache, Memory, Store
from proxy.simulator.records import Identity


async def test_a_continuation_reads_the_parent_its_output_and_the_new_input(
    simulate: Simulate, talk: Talk
) -> None:
    """The context of the third turn is everything said before, in order."""
    simulator = await simulate(scripted(["one", "two", "three"]))
    dialogue = await talk(simulator)
    first = await dialogue.complete([user("a")])
    second = await dialogue.complete([user("b")], previous_response_id=first["id"])
    await dialogue.complete([user("c")], previous_response_id=second["id"])
    expected = [user("a"), *first["output"], user("b"), *second["output"], user("c")]
    assert simulator.turns[2].context == expected
    assert simulator.turns[2].input == [user("c")]
    assert simulator.turns[2].previous_response_id == second["id"]


async def test_a_chained_turn_reads_what_the_full_one_reads(simulate: Simulate, talk: Talk) -> None:
    """The same history renders alike, whether chained or sent whole as an agent would echo it."""
    simulator = await simulate(scripted([says(Reasoning(), FunctionCall("ls", '{"a": 1}', "call_1")), "x", "y"]))
    dialogue = await talk(simulator)
    first = await dialogue.complete([user("a")])
    await dialogue.complete([tool_output("call_1")], previous_response_id=first["id"])
    echoed = {"type": "function_call", "call_id": "call_1", "name": "ls", "arguments": '{"a":1}'}
    spoken = {"role": "user", "content": "a"}
    await dialogue.complete([spoken, echoed, tool_output("call_1")])
    chained, full = simulator.turns[1].context, simulator.turns[2].context
    assert chained != full
    assert rendered(chained) == rendered(full)
    assert digest(chained) == digest(full)
    assert digest(chained, reasoning=True) != digest(full, reasoning=True)


async def test_only_the_latest_response_is_remembered(simulate: Simulate, talk: Talk) -> None:
    """An older response of the connection is not found, with the documented words; the socket stays usable."""
    simulator = await simulate()
    dialogue = await talk(simulator)
    first = await dialogue.complete()
    await dialogue.complete()
    await dialogue.begin(previous_response_id=first["id"])
    assert await dialogue.receive() == {
        "type": "error",
        "status": 400,
        "error": {
            "type": "invalid_request_error",
            "code": "previous_response_not_found",
            "message": f"Previous response with id '{first['id']}' not found.",
            "param": "previous_response_id",
        },
    }
    assert simulator.turns[2].status == "rejected"
    await dialogue.complete()


async def test_another_connection_knows_nothing(simulate: Simulate, talk: Talk) -> None:
    """What was not stored belongs to its connection."""
    simulator = await simulate()
    first = await (await talk(simulator)).complete()
    error = await (await talk(simulator)).fail(previous_response_id=first["id"])
    assert error["code"] == "previous_response_not_found"


async def test_a_refused_continuation_evicts_its_parent(simulate: Simulate, talk: Talk) -> None:
    """After a 400 the parent is gone, and the same continuation is not found."""
    simulator = await simulate()
    dialogue = await talk(simulator)
    first = await dialogue.complete()
    await dialogue.fail([tool_output("call_unknown")], previous_response_id=first["id"])
    error = await dialogue.fail(previous_response_id=first["id"])
    assert error["code"] == "previous_response_not_found"


async def test_a_refused_fresh_turn_evicts_nothing(simulate: Simulate, talk: Talk) -> None:
    """A refusal that continues nothing leaves the latest response in place."""
    simulator = await simulate()
    dialogue = await talk(simulator)
    first = await dialogue.complete()
    await dialogue.fail(novelty=1)
    await dialogue.complete(previous_response_id=first["id"])


async def test_the_cache_policy_store_remembers_everything(simulate: Simulate, talk: Talk) -> None:
    """With it, any response is found, from any connection."""
    simulator = await simulate(cache="store")
    dialogue = await talk(simulator)
    first = await dialogue.complete()
    await dialogue.complete()
    await dialogue.complete(previous_response_id=first["id"])
    await (await talk(simulator)).complete(previous_response_id=first["id"])


async def test_stored_responses_are_hydrated(simulate: Simulate, talk: Talk) -> None:
    """store:true and store omitted are found from another connection; other credentials find nothing."""
    simulator = await simulate()
    dialogue, later = await talk(simulator), await talk(simulator)
    stranger = await talk(simulator, headers={"Authorization": "Bearer other"})
    for store in (True, None):
        first = await dialogue.complete(store=store)
        await later.complete(previous_response_id=first["id"])
        error = await stranger.fail(previous_response_id=first["id"])
        assert error["code"] == "previous_response_not_found"


async def test_hydration_can_be_turned_off(simulate: Simulate, talk: Talk) -> None:
    """Without it, stored responses are found by their own connection only."""
    simulator = await simulate(hydrate=False)
    dialogue = await talk(simulator)
    first = await dialogue.complete(store=True)
    await (await talk(simulator)).fail(previous_response_id=first["id"])
    await dialogue.complete(previous_response_id=first["id"])


async def test_a_warm_up_says_nothing_and_can_be_continued(simulate: Simulate, talk: Talk) -> None:
    """generate:false completes with no output, and its input is carried on; a call may await its output."""
    simulator = await simulate()
    dialogue = await talk(simulator)
    call = {"type": "function_call", "call_id": "call_1", "name": "ls", "arguments": "{}"}
    events = await dialogue.create([user("a"), call], generate=False)
    assert [event["type"] for event in events] == [
        "response.created",
        "response.in_progress",
        "response.completed",
    ]
    warm = events[-1]["response"]
    assert (warm["status"], warm["output"]) == ("completed", [])
    await dialogue.complete([tool_output("call_1")], previous_response_id=warm["id"])
    assert simulator.turns[1].context == [user("a"), call, tool_output("call_1")]
    assert [turn.generate for turn in simulator.turns] == [False, True]


async def test_prewarm_is_a_warm_up(simulate: Simulate, talk: Talk) -> None:
    """prompt_cache_options.prewarm forces generate:false."""
    dialogue = await talk(await simulate())
    response = await dialogue.complete(prompt_cache_options={"prewarm": True})
    assert response["output"] == []


async def test_item_references_are_resolved(simulate: Simulate, talk: Talk) -> None:
    """A reference stands for the stored item; an unknown one is refused with 404."""
    simulator = await simulate()
    dialogue = await talk(simulator)
    first = await dialogue.complete([user("a")], store=True)
    reference = {"type": "item_reference", "id": first["output"][0]["id"]}
    await dialogue.complete([user("a"), reference, user("b")])
    assert simulator.turns[1].context == [user("a"), *first["output"], user("b")]
    await dialogue.begin([{"type": "item_reference", "id": "msg_x"}])
    event = await dialogue.receive()
    assert (event["status"], event["error"]["message"]) == (404, "Item with id 'msg_x' not found.")


async def test_cached_tokens_follow_the_prompt(simulate: Simulate, talk: Talk) -> None:
    """Cached tokens grow with the chain, and fall to 0 when tools, effort or connection change."""
    dialogue = await talk(simulator := await simulate())
    tool = {"type": "function", "name": "ls", "parameters": {}, "strict": False}
    first = await dialogue.complete("word " * 500)
    second = await dialogue.complete(previous_response_id=first["id"])
    cached = second["usage"]["input_tokens_details"]["cached_tokens"]
    assert cached > 500
    assert cached % 128 == 0
    spoken = first["usage"]["output_tokens"]
    assert second["usage"]["input_tokens"] >= first["usage"]["input_tokens"] + spoken
    third = await dialogue.complete(previous_response_id=second["id"], tools=[tool])
    assert third["usage"]["input_tokens_details"]["cached_tokens"] == 0
    fourth = await dialogue.complete(previous_response_id=third["id"], tools=[tool], reasoning={"effort": "high"})
    assert fourth["usage"]["input_tokens_details"]["cached_tokens"] == 0
    other = await (await talk(simulator)).complete("word " * 500)
    assert other["usage"]["input_tokens_details"]["cached_tokens"] == 0


async def test_an_incomplete_response_is_not_remembered(simulate: Simulate, talk: Talk) -> None:
    """Only completed responses can be continued."""
    simulator = await simulate(scripted([says("cut", finish=Incomplete()), says("no", finish=Failed()), "x"]))
    dialogue = await talk(simulator)
    for status in ("incomplete", "failed"):
        events = await dialogue.create()
        assert events[-1]["type"] == f"response.{status}"
        error = await dialogue.fail(previous_response_id=events[-1]["response"]["id"])
        assert error["code"] == "previous_response_not_found"


async def test_a_failed_continuation_evicts_its_parent(simulate: Simulate, talk: Talk) -> None:
    """response.failed costs the parent, as a 4xx does."""
    simulator = await simulate(scripted(["x", says("no", finish=Failed()), "y"]))
    dialogue = await talk(simulator)
    first = await dialogue.complete()
    await dialogue.create(previous_response_id=first["id"])
    assert simulator.turns[1].status == "failed"
    await dialogue.fail(previous_response_id=first["id"])


def test_the_cache_shows_what_it_knows() -> None:
    """The repr names the responses."""
    cache = ConnectionCache("latest")
    cache.remember(Memory("resp_1", None, (), (), ()))
    assert repr(cache) == "<ConnectionCache latest ['resp_1']>"


def test_the_store_forgets_the_oldest() -> None:
    """It is bounded, and forgets items with their response."""
    store, owner = Store(), Identity()
    for number in range(STORED_RESPONSES + 1):
        item = {"id": f"msg_{number}"}
        store.remember(owner, Memory(f"resp_{number}", None, (), (item,), ({"type": "x"},)))
    assert store.recall(owner, "resp_0") is None
    assert store.item(owner, "msg_0") is None
    assert store.item(owner, "msg_1") == {"id": "msg_1"}
    assert not store.forget(owner, "resp_0")
