"""The HTTP side: Responses, resources, and what passes through."""

import asyncio
import gzip
import hashlib
import io
import zlib
from typing import Any

import aiohttp
import brotli
import orjson
import pytest
import zstandard
from dialogue import Simulate, user
from yarl import URL

from proxy.simulator import Failed, Output, Simulator, Text, says, scripted


async def ask(
    simulator: Simulator, http: aiohttp.ClientSession, path: str = "responses", method: str = "POST", **fields: Any
) -> tuple[int, Any]:
    """Send JSON; return status and JSON."""
    body = fields if method == "POST" else None
    async with http.request(method, f"{simulator.base_url}/{path}", json=body) as response:
        return response.status, await response.json()


async def test_a_response_streams_as_documented(simulate: Simulate, http: aiohttp.ClientSession) -> None:
    """Each record is an event and a data line, whose type is the event's name; there is no [DONE]."""
    simulator = await simulate()
    body = {"model": "m", "input": "x", "stream": True}
    async with http.post(f"{simulator.base_url}/responses", json=body) as response:
        assert response.headers["Content-Type"] == "text/event-stream; charset=utf-8"
        assert response.headers["x-request-id"].startswith("req_")
        assert "openai-processing-ms" in response.headers
        assert "x-ratelimit-remaining-tokens" in response.headers
        text = await response.read()
    records = text.split(b"\n\n")
    assert records.pop() == b""
    events = []
    for record in records:
        name, data = record.split(b"\n")
        events.append(orjson.loads(data.removeprefix(b"data: ")))
        assert name == b"event: " + events[-1]["type"].encode()
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert events[-1]["type"] == "response.completed"
    assert simulator.turns[0].bytes_sent == len(text)


async def test_a_response_can_come_whole(simulate: Simulate, http: aiohttp.ClientSession) -> None:
    """Without stream the answer is the response object; a failed one has status 200."""
    simulator = await simulate(scripted(["x", says(finish=Failed())]))
    status, response = await ask(simulator, http, model="m", input=[user("a")])
    assert (status, response["status"], response["output"][0]["content"][0]["text"]) == (200, "completed", "x")
    status, response = await ask(simulator, http, model="m")
    assert (status, response["status"]) == (200, "failed")


async def test_http_continues_what_is_stored(simulate: Simulate, http: aiohttp.ClientSession) -> None:
    """previous_response_id works over HTTP unless store was false."""
    simulator = await simulate()
    for store, expected in ((True, 200), (None, 200), (False, 400)):
        fields: Any = {} if store is None else {"store": store}
        _, first = await ask(simulator, http, model="m", input=[user("a")], **fields)
        status, answer = await ask(simulator, http, model="m", input=[user("b")], previous_response_id=first["id"])
        assert status == expected
        if status == 200:
            assert simulator.turns[-1].context == [user("a"), *first["output"], user("b")]
        else:
            assert answer["error"]["code"] == "previous_response_not_found"
            assert answer["error"]["type"] == "invalid_request_error"


async def test_websocket_parameters_are_unknown_over_http(simulate: Simulate, http: aiohttp.ClientSession) -> None:
    """generate, stream_id and type are refused."""
    simulator = await simulate()
    for name in ("generate", "stream_id", "type"):
        status, answer = await ask(simulator, http, model="m", **{name: "x"})
        assert (status, answer["error"]["message"]) == (400, f"Unknown parameter: '{name}'.")


async def test_stored_responses_are_resources(simulate: Simulate, http: aiohttp.ClientSession) -> None:
    """They can be retrieved, listed and deleted, once."""
    simulator = await simulate()
    _, first = await ask(simulator, http, model="m", input=[user("a"), user("b")])
    path = f"responses/{first['id']}"
    assert await ask(simulator, http, path, "GET") == (200, first)
    _, items = await ask(simulator, http, f"{path}/input_items", "GET")
    assert [item["content"][0]["text"] for item in items["data"]] == ["b", "a"]
    assert items["first_id"] == items["data"][0]["id"]
    status, answer = await ask(simulator, http, f"{path}/cancel")
    assert (status, answer["error"]["message"]) == (400, "Cannot cancel a synchronous response.")
    assert (await ask(simulator, http, path, "DELETE"))[1]["deleted"] is True
    for method, again in (("GET", path), ("DELETE", path), ("GET", f"{path}/input_items")):
        assert (await ask(simulator, http, again, method))[0] == 404
    _, empty = await ask(simulator, http, model="m")
    _, items = await ask(simulator, http, f"responses/{empty['id']}/input_items", "GET")
    assert (items["data"], items["first_id"]) == ([], None)


async def test_compaction_starts_anew(simulate: Simulate, http: aiohttp.ClientSession) -> None:
    """The compacted window can be sent on; its id is no response."""
    simulator = await simulate()
    _, first = await ask(simulator, http, model="m", input=[user("a")])
    _, compacted = await ask(
        simulator, http, "responses/compact", model="m", input=[user("b")], previous_response_id=first["id"]
    )
    assert [item["type"] for item in compacted["output"]] == ["message", "message", "compaction"]
    assert (await ask(simulator, http, model="m", input=compacted["output"]))[0] == 200
    assert (await ask(simulator, http, model="m", previous_response_id=compacted["id"]))[0] == 400


async def test_small_endpoints(simulate: Simulate, http: aiohttp.ClientSession) -> None:
    """Models, token counts and embeddings answer; unknown paths are 404."""
    simulator = await simulate(models=("gpt-x",))
    assert [model["id"] for model in (await ask(simulator, http, "models", "GET"))[1]["data"]] == ["gpt-x"]
    assert (await ask(simulator, http, "models/any", "GET"))[1]["id"] == "any"
    _, count = await ask(simulator, http, "responses/input_tokens", model="m", input="word " * 100)
    assert count["input_tokens"] > 100
    _, embedded = await ask(simulator, http, "embeddings", model="e", input="x")
    assert len(embedded["data"][0]["embedding"]) == 8
    _, embedded = await ask(simulator, http, "embeddings", model="e", input=["x", "y"], encoding_format="base64")
    assert [isinstance(entry["embedding"], str) for entry in embedded["data"]] == [True, True]
    status, answer = await ask(simulator, http, "novelty", "GET")
    assert (status, answer["error"]["message"]) == (404, "Invalid URL (GET /v1/novelty)")
    async with http.get(simulator.base_url.replace("/v1", "/other")) as response:
        assert response.status == 404
    async with http.get(simulator.base_url.replace("/v1", "/openai/v1/models")) as response:
        assert response.status == 200


async def test_what_proxies_of_chatgpt_accounts_ask_for(simulate: Simulate, http: aiohttp.ClientSession) -> None:
    """The API and the account's usage are where they look for them."""
    simulator = await simulate()
    backend = simulator.base_url.replace("/v1", "/backend-api")
    async with http.get(f"{backend}/wham/usage") as response:
        usage = await response.json()
    assert usage["rate_limit"]["primary_window"]["used_percent"] < 100
    async with http.post(f"{backend}/codex/responses", json={"model": "m", "input": "x"}) as response:
        assert (await response.json())["status"] == "completed"


async def test_settings_need_not_be_repeated(simulate: Simulate, http: aiohttp.ClientSession) -> None:
    """Without `repeat_settings` a response has neither instructions nor tools; the model is told all the same."""
    simulator = await simulate(repeat_settings=False)
    tool = {"type": "function", "name": "ls", "parameters": {}}
    _, answer = await ask(simulator, http, model="m", input="x", instructions="Be brief.", tools=[tool])
    assert (answer["instructions"], answer["tools"]) == (None, [])
    assert simulator.turns[0].effective["instructions"] == "Be brief."


async def test_http_needs_a_key(simulate: Simulate) -> None:
    """As the upgrade does."""
    simulator = await simulate()
    async with aiohttp.ClientSession() as http:
        assert (await ask(simulator, http, model="m"))[0] == 401


ENCODERS = {
    "identity": bytes,
    "gzip": gzip.compress,
    "deflate": zlib.compress,
    "br": brotli.compress,
    "zstd": zstandard.ZstdCompressor().compress,
}


@pytest.mark.parametrize("encoding", ENCODERS)
async def test_bodies_may_be_compressed(simulate: Simulate, http: aiohttp.ClientSession, encoding: str) -> None:
    """All encodings that agents use are understood, and refused with 415 if turned off."""
    simulator = await simulate()
    body = ENCODERS[encoding](orjson.dumps({"model": "m", "input": [user("a")]}))
    headers = {"Content-Type": "application/json", "Content-Encoding": encoding}
    async with http.post(f"{simulator.base_url}/responses", data=body, headers=headers) as response:
        assert response.status == 200
    assert simulator.turns[0].context == [user("a")]
    assert simulator.turns[0].raw_size == len(body)
    simulator.settings.accepted_encodings = ()
    async with http.post(f"{simulator.base_url}/responses", data=body, headers=headers) as response:
        assert response.status == (200 if encoding == "identity" else 415)


async def test_bad_bodies_are_refused(simulate: Simulate, http: aiohttp.ClientSession) -> None:
    """No JSON, no object, broken compression, too large: 400 and 413."""
    simulator = await simulate(max_body_bytes=1000)
    url = f"{simulator.base_url}/responses"
    for body, encoding, expected in (
        (b"{", "identity", 400),
        (b"[]", "identity", 400),
        (b"x", "zstd", 400),
        (b"x", "gzip", 400),
        (b"x" * 1001, "identity", 413),
    ):
        async with http.post(url, data=body, headers={"Content-Encoding": encoding}) as response:
            assert response.status == expected
            assert (await response.json())["error"]["message"]
    assert simulator.turns == []


async def test_large_bodies_and_heads_are_fine(simulate: Simulate, http: aiohttp.ClientSession) -> None:
    """Ten megabytes of history, and headers of 20 kB."""
    simulator = await simulate()
    body = orjson.dumps({"model": "m", "input": "x" * 10_000_000})
    async with http.post(f"{simulator.base_url}/responses", data=io.BytesIO(body)) as response:
        assert response.status == 200
    async with http.get(f"{simulator.base_url}/models", headers={"X-Long": "x" * 20_000}) as response:
        assert response.status == 200
    assert simulator.requests[-1].header("x-long") == "x" * 20_000
    assert simulator.requests[-1].header("x-none") is None


async def test_echo_describes_the_request(simulate: Simulate, http: aiohttp.ClientSession) -> None:
    """Any method; the raw path, headers in their case, and the body's hash, without a key."""
    simulator = await simulate(require_key=True)
    url = f"{simulator.base_url}/echo?a=%2F&status=418"
    async with http.patch(URL(url, encoded=True), data=b"abc", headers={"X-Odd-Case": "1"}) as response:
        assert response.status == 418
        answer = await response.json()
    assert answer["method"] == "PATCH"
    assert answer["path"] == "/v1/echo?a=%2F&status=418"
    assert ["X-Odd-Case", "1"] in answer["headers"]
    assert answer["body_sha256"] == hashlib.sha256(b"abc").hexdigest() == simulator.requests[0].body_sha256
    assert simulator.requests[0].body_size == 3


async def test_echo_raw_gives_the_body_back(simulate: Simulate, http: aiohttp.ClientSession) -> None:
    """Byte for byte, with its type and encoding."""
    simulator = await simulate()
    plain = bytes(range(256)) * 100
    headers = {"Content-Type": "x/y", "Content-Encoding": "gzip"}
    url = f"{simulator.base_url}/echo/raw"
    async with http.put(url, data=gzip.compress(plain), headers=headers) as response:
        assert response.headers["Content-Encoding"] == "gzip"
        assert response.headers["Content-Type"] == "x/y"
        assert await response.read() == plain
    async with http.post(url, data=b"abc") as response:
        assert await response.read() == b"abc"


async def test_other_streams_pass(simulate: Simulate, http: aiohttp.ClientSession) -> None:
    """An SSE stream that isn't the Responses API's, with comments and ids."""
    simulator = await simulate()
    async with http.get(f"{simulator.base_url}/events?count=2&seconds=0.001") as response:
        text = await response.read()
    assert text.count(b": a comment\nid: ") == 2
    assert text.endswith(b"data: [DONE]\n\n")


async def test_a_departed_http_client_cancels_the_turn(simulate: Simulate, http: aiohttp.ClientSession) -> None:
    """Closing the connection in mid-stream ends the turn."""
    simulator = await simulate(scripted([Output((Text("x" * 1000),), event_seconds=60)]))
    body = {"model": "m", "input": "x", "stream": True}
    response = await http.post(f"{simulator.base_url}/responses", json=body)
    await response.content.readline()
    response.close()
    await simulator.until(lambda: simulator.turns[0].cancelled)
    assert simulator.turns[0].status == "cancelled"


async def test_trailing_events_follow_on_http_too(simulate: Simulate, http: aiohttp.ClientSession) -> None:
    """After response.completed, in the same body."""
    simulator = await simulate(extra_events=("trailing",), trailing_seconds=0)
    body = {"model": "m", "input": "x", "stream": True}
    async with http.post(f"{simulator.base_url}/responses", json=body) as response:
        assert b"event: response.novelty.reported" in (await response.read()).split(b"\n\n")[-2]


async def test_bytes_that_are_no_http(simulate: Simulate, http: aiohttp.ClientSession) -> None:
    """They get a 400."""
    simulator = await simulate()
    reader, writer = await asyncio.open_connection("127.0.0.1", simulator.port)
    writer.write(b"NONSENSE\r\n\r\n")
    assert (await reader.read()).startswith(b"HTTP/1.0 400")
    assert simulator.bytes_in == 12
    writer.close()
    await writer.wait_closed()
