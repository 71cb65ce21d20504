"""Chat judge: what the official SDK makes of an answer, and what the model read, in forms that can be compared."""

from collections.abc import Iterable
from typing import Any

import openai
from chatsessions import Turn, Weather, bare
from openai import AsyncOpenAI

from proxy.simulator import Failed, rendered

Raw = dict[str, Any]


class Heard:
    """What came of a request: *told* is to be compared, *message* is what the agent puts into its history."""

    def __init__(self, told: Any, message: Any = None, usage: Any = None) -> None:
        self.told = told
        self.message = message
        self.usage = usage


async def ask(client: AsyncOpenAI, messages: list[Any], turn: Turn) -> Heard:
    """Ask as *turn* does; whatever the SDK raises is part of what is told."""
    chat = client.chat.completions
    begun: list[str] = []
    try:
        match turn.way:
            case "create":
                return whole(await chat.create(messages=messages, **turn.fields))
            case "parse":
                return whole(await chat.parse(messages=messages, **turn.fields))
            case "stream":
                stream = await chat.create(messages=messages, stream=True, **turn.fields)
                chunks = []
                async for chunk in stream:
                    chunks.append(chunk)
                    begun += _kinds([choice.delta for choice in chunk.choices])
                return streamed(chunks)
            case "helper":
                async with chat.stream(messages=messages, **turn.fields) as events:
                    kinds = []
                    async for event in events:
                        kinds.append(event.type)
                        begun += [event.type] * bool(getattr(event, "delta", None))
                    heard = whole(await events.get_final_completion())
                    heard.told["events"] = collapsed(kinds)
                    return heard
    except (openai.OpenAIError, ValueError) as exc:
        told = trouble(exc) | {"begun": collapsed(begun)}
        if isinstance(turn.output.finish, Failed) and turn.fault is None and isinstance(told.get("body"), dict):
            told["body"] = {name: value for name, value in told["body"].items() if name != "type"}
        return Heard(told)


def agree(told: Raw, expected: Raw) -> bool:
    """Whether the SDK reports the same.

    A failure before the first word may be a status, which clients try again, instead of an error in the stream.
    """
    if told == expected:
        return True
    is_early = expected.get("raised") is openai.APIError and not expected["begun"]
    raised = told.get("raised")
    if not is_early or raised is None or not issubclass(raised, openai.APIStatusError):
        return False
    return not told["begun"] and told["body"] == expected["body"]


def trouble(exc: Exception) -> Raw:
    """Return how the SDK reports an error."""
    if isinstance(exc, openai.APIStatusError):
        headers = {name: exc.response.headers.get(name) for name in ("retry-after", "x-should-retry")}
        return {"raised": type(exc), "status": exc.status_code, "body": exc.body, "headers": headers}
    if isinstance(exc, openai.APIError):
        return {"raised": type(exc), "message": exc.message, "body": exc.body, "code": exc.code}
    if isinstance(exc, openai.LengthFinishReasonError | openai.ContentFilterFinishReasonError):
        return {"raised": type(exc)}
    return {"raised": type(exc), "message": str(exc)}


def whole(completion: Any) -> Heard:
    """Read a completion that came at once, or that the helper put together."""
    told = completion.model_dump(exclude_unset=True, warnings=False)
    for name in ("id", "created", "usage", "obfuscation"):
        told.pop(name, None)
    for choice in told["choices"]:
        choice["logprobs"] = _logprobs(choice.get("logprobs"))
    message = completion.choices[0].message if completion.choices else None
    return Heard(told, message, _usage(completion.usage))


def streamed(chunks: list[Any]) -> Heard:
    """Read a stream's *chunks*, after checking its form: role first, one ending, then the usage if any."""
    assert len({(chunk.id, chunk.created, chunk.model, chunk.object) for chunk in chunks}) == 1
    assert chunks[0].object == "chat.completion.chunk"
    assert chunks[0].choices[0].delta.role == "assistant"
    ended = [index for index, chunk in enumerate(chunks) if chunk.choices and chunk.choices[0].finish_reason]
    usages = [index for index, chunk in enumerate(chunks) if chunk.usage]
    assert len(ended) == 1
    assert usages in ([], [len(chunks) - 1])
    assert ended[0] == len(chunks) - 1 - len(usages)
    assert all(len(chunk.choices) == 1 for chunk in chunks[: ended[0] + 1])
    assert all(not chunk.choices for chunk in chunks[ended[0] + 1 :])
    deltas = [chunk.choices[0].delta for chunk in chunks if chunk.choices]
    assert not any(delta.role for delta in deltas[1:])
    content, refusal = _joined(deltas, "content"), _joined(deltas, "refusal")
    calls = _calls(deltas)
    logprobs = [chunk.choices[0].logprobs for chunk in chunks if chunk.choices and chunk.choices[0].logprobs]
    tokens = [token for each in logprobs for token in each.model_dump()["content"] or ()]
    told = {
        "model": chunks[0].model,
        "service_tier": chunks[0].service_tier,
        "system_fingerprint": chunks[0].system_fingerprint,
        "content": content,
        "refusal": refusal,
        "calls": calls,
        "finish_reason": chunks[ended[0]].choices[0].finish_reason,
        "logprobs": tokens,
        "order": collapsed(_kinds(deltas)),
        "usage is null": {"usage" in bare(chunk) for chunk in chunks[: ended[0] + 1]},
        "obfuscated": any(chunk.obfuscation for chunk in chunks),
        "extra": sorted({name for delta in deltas for name in delta.model_extra or ()}),
    }
    message: Raw = {"role": "assistant", "content": content or None, "refusal": refusal or None}
    if calls:
        message["tool_calls"] = calls
    parsed = openai.types.chat.ChatCompletionMessage.model_validate(message)
    return Heard(told, parsed, _usage(chunks[-1].usage))


def collapsed(kinds: Iterable[str]) -> list[str]:
    """Return *kinds* with each run of the same one as one: deltas may be cut differently."""
    runs: list[str] = []
    for kind in kinds:
        if not runs or runs[-1] != kind:
            runs.append(kind)
    return runs


def _kinds(deltas: list[Any]) -> Iterable[str]:
    for delta in deltas:
        if delta.content:
            yield "content"
        if delta.refusal:
            yield "refusal"
        for call in delta.tool_calls or ():
            yield f"call {call.index}"


def _joined(deltas: list[Any], name: str) -> str:
    return "".join(getattr(delta, name) or "" for delta in deltas)


def _calls(deltas: list[Any]) -> list[Raw]:
    """Put the tool calls together as clients do: by index, names once, texts in order."""
    calls: dict[int, Raw] = {}
    for delta in deltas:
        for piece in delta.tool_calls or ():
            raw = piece.model_dump(exclude_unset=True)
            index = raw.pop("index")
            if index not in calls:
                assert index == len(calls)
                assert raw["id"]
                calls[index] = raw
                continue
            kind = calls[index]["type"]
            assert raw.keys() == {kind}
            for key, text in raw[kind].items():
                calls[index][kind][key] += text
    return list(calls.values())


def _logprobs(logprobs: Any) -> Any:
    """Return the tokens of the text; those of a refusal are told by Chat alone."""
    return (logprobs or {}).get("content") or []


def _usage(usage: Any) -> Any:
    return None if usage is None else usage.model_dump(exclude_none=True)


def usage_of(told: Raw, *, heard: bool) -> Raw:
    """Return the usage in Responses' words as Chat should word it; of audio that was *heard* they say nothing."""
    read, written = told["input_tokens_details"], told["output_tokens_details"]
    return {
        "prompt_tokens": told["input_tokens"],
        "completion_tokens": told["output_tokens"],
        "total_tokens": told["total_tokens"],
        "prompt_tokens_details": read if heard else {"audio_tokens": 0, **read},
        "completion_tokens_details": {
            "accepted_prediction_tokens": 0,
            "audio_tokens": 0,
            "rejected_prediction_tokens": 0,
            **written,
        },
    }


# What the model read


def read(context: list[Raw], *, reasoning: bool = False) -> list[Any]:
    """Return what the model reads of *context*, item by item; an assistant's empty text is nothing."""
    said = []
    for item in rendered(context, reasoning=reasoning):
        if item.get("role") == "assistant":
            item["content"] = [part for part in item["content"] if part.get("text") != ""]
            if not item["content"]:
                continue
        said.append(item)
    return said


def read_in_chat(context: list[Raw]) -> list[Any]:
    """Return what of *context* a Chat history can tell: one message for all that the model said in a turn."""
    said: list[Any] = []
    for item in read(context):
        if item.get("role") != "assistant" and not item["type"].endswith("_call"):
            said.append(item)
            continue
        if not said or "answer" not in said[-1]:
            said.append({"answer": {"text": "", "refusal": "", "calls": []}})
        answer = said[-1]["answer"]
        if item["type"].endswith("_call"):
            # A call without arguments is written as an empty text or as an empty object.
            answer["calls"].append(item | {"arguments": item.get("arguments") or {}})
            continue
        for part in item["content"]:
            answer["text"] += part.get("text", "")
            answer["refusal"] += part.get("refusal", "")
    return said


__all__ = ["Heard", "Weather", "ask", "read", "read_in_chat", "streamed", "trouble", "usage_of", "whole"]
