"""The official client, as a judge of fidelity."""

import pytest
from dialogue import Client, Simulate
from openai import AuthenticationError, BadRequestError, NotFoundError, RateLimitError

from proxy.simulator import Fault, FunctionCall, Reasoning, says, scripted


async def test_responses(simulate: Simulate, sdk: Client) -> None:
    """Create, continue, retrieve, list and delete."""
    responses = sdk(await simulate(scripted(["one", "two"]))).responses
    first = await responses.create(model="m", input="a")
    second = await responses.create(model="m", input="b", previous_response_id=first.id)
    assert (first.output_text, second.output_text) == ("one", "two")
    assert first.usage is not None
    assert (await responses.retrieve(first.id)).id == first.id
    assert len((await responses.input_items.list(first.id)).data) == 1
    await responses.delete(first.id)
    with pytest.raises(NotFoundError):
        await responses.retrieve(first.id)


async def test_streams(simulate: Simulate, sdk: Client) -> None:
    """The streaming helper accumulates the same response."""
    client = sdk(await simulate(scripted([says(Reasoning(("hm",)), "hello", FunctionCall("ls", "{}"))])))
    async with client.responses.stream(model="m", input="a") as stream:
        response = await stream.get_final_response()
    assert response.output_text == "hello"
    assert [item.type for item in response.output] == ["reasoning", "message", "function_call"]


async def test_websocket(simulate: Simulate, sdk: Client) -> None:
    """connect() chains turns."""
    simulator = await simulate()
    async with sdk(simulator).responses.connect() as connection:
        parent = None
        for _ in range(2):
            await connection.response.create(model="m", input="a", store=False, previous_response_id=parent)
            async for event in connection:
                if event.type == "response.completed":
                    parent = event.response.id
                    break
    assert [len(turn.context) for turn in simulator.turns] == [1, 3]
    assert simulator.connections[0].extensions == ""


async def test_errors(simulate: Simulate, sdk: Client) -> None:
    """Refusals are the classes that the client knows."""
    simulator = await simulate(api_keys=("key",))
    client = sdk(simulator)
    with pytest.raises(BadRequestError) as caught:
        await client.responses.create(model="m", input="a", previous_response_id="resp_1")
    assert caught.value.code == "previous_response_not_found"
    simulator.inject(Fault("before_created", "error", status=429, code="rate_limit_exceeded"))
    with pytest.raises(RateLimitError):
        await client.responses.create(model="m", input="a")
    with pytest.raises(AuthenticationError):
        await client.with_options(api_key="other").responses.create(model="m", input="a")


async def test_the_rest(simulate: Simulate, sdk: Client) -> None:
    """Models, embeddings, compaction and token counts."""
    client = sdk(await simulate())
    assert [model.id async for model in client.models.list()]
    assert len((await client.embeddings.create(model="e", input="x")).data[0].embedding) == 8
    compacted = await client.responses.compact(model="m", input="a")
    assert compacted.output[-1].type == "compaction"
    assert (await client.responses.input_tokens.count(model="m", input="a")).input_tokens > 0
