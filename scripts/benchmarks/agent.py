"""Agent: a session played against an API, its whole history sent with each request."""

from collections.abc import Callable
from typing import Any

import aiohttp
import orjson
import zstandard
from session import Item, Session

_PATHS = {"responses": "responses", "chat": "chat/completions"}


class TurnFailed(Exception):
    """An answer was not what the session's model says."""


async def play(
    session: Session,
    base_url: str,
    *,
    zstd: bool = False,
    headers: dict[str, str] | None = None,
    told: Callable[[int, float], None] = lambda _number, _seconds: None,
    clock: Callable[[], float] = lambda: 0.0,
) -> list[list[Item]]:
    """Play *session* at *base_url*, with *zstd* request bodies if so told; return what each turn added.

    Element 0 is the opening; element n + 1 what the model said to request n as the agent repeats it, and what the
    tools said then. *told* is called with each turn's number and duration. Raises TurnFailed.
    """
    history = list(session.opening)
    added = [list(session.opening)]
    common = {"Authorization": "Bearer sk-benchmark", "Content-Type": "application/json", **(headers or {})}
    if session.shape.stream:
        common["Accept"] = "text/event-stream"
    if zstd:
        common["Content-Encoding"] = "zstd"
    url = f"{base_url}/{_PATHS[session.shape.api]}"
    timeout = aiohttp.ClientTimeout(total=120)
    async with aiohttp.ClientSession(headers=common, timeout=timeout, read_bufsize=2**20) as http:
        for number in range(session.turns):
            body = orjson.dumps(session.body(history))
            if zstd:
                body = zstandard.ZstdCompressor(level=3).compress(body)
            began = clock()
            async with http.post(url, data=body) as response:
                answer = await response.read()
                if response.status != 200:
                    raise TurnFailed(f"status {response.status} in turn {number + 1}: {_reason(answer)}")
            told(number, clock() - began)
            output = _output(session, answer)
            new = session.echo(output)
            if number < session.turns - 1:
                new += session.results(number, output)
                if len(new) < 2:
                    raise TurnFailed(f"no tool was called in turn {number}: {answer[-300:]!r}")
            history += new
            added.append(new)
    return added


def _reason(answer: bytes) -> str:
    """Return the message of an *answer* that is an error, or how it begins."""
    try:
        return str(orjson.loads(answer)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return answer[:200].decode(errors="replace")


def _output(session: Session, answer: bytes) -> list[Item]:
    """Return the items of an *answer*, in the form of the Responses API."""
    if session.shape.api == "chat":
        return _chat_output(_records(answer))
    if not session.shape.stream:
        output: list[Item] = orjson.loads(answer)["output"]
        return output
    events = [orjson.loads(record) for record in _records(answer)]
    if not events or events[-1]["type"] != "response.completed":
        raise TurnFailed(f"the turn ended with {answer[-300:]!r}")
    return [event["item"] for event in events if event["type"] == "response.output_item.done"]


def _records(stream: bytes) -> list[bytes]:
    lines = (line for record in stream.split(b"\n\n") for line in record.split(b"\n"))
    return [line[5:].strip() for line in lines if line.startswith(b"data:") and line[5:].strip() != b"[DONE]"]


def _chat_output(records: list[bytes]) -> list[Item]:
    text, call, arguments = "", None, ""
    for record in records:
        for choice in orjson.loads(record).get("choices", ()):
            delta: dict[str, Any] = choice["delta"]
            text += delta.get("content") or ""
            for part in delta.get("tool_calls") or ():
                call = call or (part["id"], part["function"]["name"])
                arguments += part["function"].get("arguments") or ""
    items: list[Item] = []
    if text:
        items.append({"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": text}]})
    if call is not None:
        items.append({"type": "function_call", "call_id": call[0], "name": call[1], "arguments": arguments})
    return items
