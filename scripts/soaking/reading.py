"""Reading: what an agent on the official SDK takes an answer for, and whether it was deceived.

An answer that the SDK raised on is none. One that it did not raise on must be whole, and the same in every
place where it is told.
"""

from collections.abc import AsyncIterator
from typing import Any

JSON = dict[str, Any]


class Deceived(Exception):
    """The agent took something for its answer that is not the right and whole one."""


async def streamed_response(events: AsyncIterator[Any]) -> list[JSON]:
    """Return the output that *events* of the Responses API tell."""
    said: dict[int, str] = {}
    done: dict[int, JSON] = {}
    final = None
    async for event in events:
        if event.type in ("response.output_text.delta", "response.function_call_arguments.delta"):
            said[event.output_index] = said.get(event.output_index, "") + event.delta
        elif event.type == "response.output_item.done":
            done[event.output_index] = event.item.to_dict()
        elif event.type == "response.completed":
            final = event.response
        elif event.type in ("response.failed", "response.incomplete", "error"):
            raise Failed(event.type)
    if final is None:
        raise Deceived("the stream ended as if it were complete, without response.completed")
    output = whole_response(final)
    if output != [done[index] for index in sorted(done)]:
        raise Deceived("the final output is not what its items were")
    if said != {len(output) - 1: text_of(output)}:
        raise Deceived(f"the deltas said {said}, the end {text_of(output)!r}")
    return output


def whole_response(response: Any) -> list[JSON]:
    """Return the output of *response*."""
    if getattr(response, "status", None) != "completed":
        raise Deceived(f"an answer that is not completed: {response!r:.200}")
    return [item.to_dict() for item in response.output]


def text_of(output: list[JSON]) -> str:
    """Return what the model said or called last."""
    last = output[-1]
    return str(last["arguments"] if last["type"] == "function_call" else last["content"][0]["text"])


async def streamed_message(chunks: AsyncIterator[Any]) -> JSON:
    """Return the message that *chunks* of Chat Completions tell."""
    text, call, finish = "", {"id": "", "name": "", "arguments": ""}, None
    async for chunk in chunks:
        for choice in chunk.choices:
            finish = choice.finish_reason or finish
            text += choice.delta.content or ""
            for piece in choice.delta.tool_calls or ():
                call["id"] += piece.id or ""
                call["name"] += piece.function.name or ""
                call["arguments"] += piece.function.arguments or ""
    if finish is None:
        raise Deceived("the stream ended as if it were complete, without a finish_reason")
    return _message(text, [call] if call["id"] else [], finish)


def whole_message(completion: Any) -> JSON:
    """Return the message of *completion*."""
    if not hasattr(completion, "choices"):
        raise Deceived(f"an answer that is none: {completion!r:.200}")
    choice = completion.choices[0]
    calls = [{"id": call.id, **call.function.to_dict()} for call in choice.message.tool_calls or ()]
    return _message(choice.message.content or "", calls, choice.finish_reason)


def text_of_message(message: JSON) -> str:
    """Return what the model said or called."""
    calls = message.get("tool_calls")
    return str(calls[0]["function"]["arguments"] if calls else message["content"])


def _message(text: str, calls: list[JSON], finish: str) -> JSON:
    if finish != ("tool_calls" if calls else "stop"):
        raise Deceived(f"finished by {finish} with {text!r} and {calls}")
    message: JSON = {"role": "assistant", "content": text or None}
    if calls:
        message["tool_calls"] = [_called(**call) for call in calls]
    return message


def _called(*, id: str, name: str, arguments: str) -> JSON:  # noqa: A002  (the API's word)
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


class Failed(Exception):
    """The stream told the agent that the turn failed, in an event that the SDK does not raise on."""
