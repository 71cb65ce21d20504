"""ChatDialect: the events of a response, worded as Chat Completions."""

from collections.abc import Iterable
from typing import Any

import orjson

from proxy.simulator.apierror import ApiError
from proxy.simulator.model import Body, Event, Item

FINISH_REASONS = {"max_output_tokens": "length", "content_filter": "content_filter"}
CALLS = {"function_call": ("function", "arguments"), "custom_tool_call": ("custom", "input")}
"""For each type of call: the key under which Chat has it, and what it calls the text that the model wrote."""
CALLED = ("function", "custom")
STATUSES = {"rate_limit_exceeded": 429, "invalid_prompt": 400}
"""What a response that failed is answered with, by its error's code; 500 for others."""


class ChatDialect:
    """Words one response as chunks, or as a whole completion, for *request*."""

    def __init__(self, request: Body) -> None:
        self._choices = range(request.get("n") or 1)
        self._logprobs = bool(request.get("logprobs"))
        choice = request.get("tool_choice")
        self._forced = isinstance(choice, dict) and choice.get("type") in CALLED
        options = request.get("stream_options") or {}
        self._usage = bool(options.get("include_usage"))
        self._head: Body = {}
        self._calls: dict[str, int] = {}

    def records(self, event: Event) -> bytes:
        """Return the chunks that say *event*."""
        match event["type"]:
            case "response.created":
                self._head = _head(event["response"], "chat.completion.chunk")
                return self._chunk({"role": "assistant", "content": "", "refusal": None})
            case "response.output_text.delta":
                return self._chunk({"content": event["delta"]}, event)
            case "response.refusal.delta":
                return self._chunk({"refusal": event["delta"]}, event)
            case "response.output_item.added":
                return self._call_added(event["item"])
            case "response.function_call_arguments.delta":
                return self._call_grows(event, "function", "arguments")
            case "response.custom_tool_call_input.delta":
                return self._call_grows(event, "custom", "input")
            case "response.completed" | "response.incomplete":
                return self._ending(event["response"])
            case "response.failed":
                return self.error(_failure(event["response"]))
            case _:
                return b""

    def whole(self, event: Event) -> bytes | None:
        """Return the completion, at the terminal event; raise ApiError for a response that failed."""
        if event["type"] == "response.failed":
            raise _failure(event["response"])
        if event["type"] not in ("response.completed", "response.incomplete"):
            return None
        response = event["response"]
        parts = [part for item in response["output"] if item["type"] == "message" for part in item["content"]]
        message = _message(response["output"], parts)
        choice: Body = {
            "message": message,
            "finish_reason": self._finish_reason(response, called="tool_calls" in message),
            "logprobs": None,
        }
        if self._logprobs:
            tokens = [token for part in parts for token in part.get("logprobs") or ()]
            choice["logprobs"] = {"content": _tokens(tokens) or None, "refusal": None}
        completion = {
            **_head(response, "chat.completion"),
            "choices": [{"index": index, **choice} for index in self._choices],
            "usage": _usage(response["usage"]),
        }
        return orjson.dumps(completion)

    def error(self, error: ApiError, sequence_number: int | None = None) -> bytes:
        """Return an error in mid-stream."""
        del sequence_number  # of which this API has none
        return _record(error.body())

    def _call_added(self, item: Item) -> bytes:
        if item["type"] not in CALLS:
            return b""
        kind, key = CALLS[item["type"]]
        index = self._calls.setdefault(item["id"], len(self._calls))
        call = {"index": index, "id": item["call_id"], "type": kind, kind: {"name": item["name"], key: ""}}
        return self._chunk({"tool_calls": [call]})

    def _call_grows(self, event: Event, kind: str, key: str) -> bytes:
        call = {"index": self._calls[event["item_id"]], kind: {key: event["delta"]}}
        return self._chunk({"tool_calls": [call]}, event)

    def _chunk(self, delta: Body, event: Event | None = None, finish_reason: str | None = None) -> bytes:
        logprobs = None
        if self._logprobs and "content" in delta:
            logprobs = {"content": _tokens(event["logprobs"] if event else ()), "refusal": None}
        chunk: Body = {**self._head}
        if self._usage:
            chunk["usage"] = None
        if event and "obfuscation" in event:
            chunk["obfuscation"] = event["obfuscation"]
        records = []
        for index in self._choices:
            choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}
            records.append(_record({**chunk, "choices": [choice]}))
        return b"".join(records)

    def _ending(self, response: Body) -> bytes:
        ending = self._chunk({}, finish_reason=self._finish_reason(response, called=bool(self._calls)))
        if self._usage:
            ending += _record({**self._head, "choices": [], "usage": _usage(response["usage"])})
        return ending + b"data: [DONE]\n\n"

    def _finish_reason(self, response: Body, *, called: bool) -> str:
        """Say why *response* ended: not for a call of a tool that the request named, where nothing was decided."""
        if response["incomplete_details"]:
            return FINISH_REASONS.get(response["incomplete_details"]["reason"], "length")
        return "tool_calls" if called and not self._forced else "stop"


def _record(data: Body) -> bytes:
    return b"data: %b\n\n" % orjson.dumps(data)


def _head(response: Body, kind: str) -> Body:
    return {
        "id": str(response["id"]).replace("resp_", "chatcmpl-"),
        "object": kind,
        "created": response["created_at"],
        "model": response["model"],
        "service_tier": response["service_tier"],
        "system_fingerprint": None,
    }


def _failure(response: Body) -> ApiError:
    code, message = response["error"]["code"], response["error"]["message"]
    return ApiError(STATUSES.get(code, 500), message, code=code)


def _message(output: list[Item], parts: list[Body]) -> Body:
    texts = [part["text"] for part in parts if part["type"] == "output_text"]
    refusals = [part["refusal"] for part in parts if part["type"] == "refusal"]
    message: Body = {
        "role": "assistant",
        "content": "".join(texts) if texts else None,
        "refusal": "".join(refusals) if refusals else None,
        "annotations": [],
    }
    calls = [_call(item) for item in output if item["type"] in CALLS]
    return {**message, "tool_calls": calls} if calls else message


def _call(item: Item) -> Body:
    kind, key = CALLS[item["type"]]
    return {"id": item["call_id"], "type": kind, kind: {"name": item["name"], key: item[key]}}


def _tokens(logprobs: Iterable[Body]) -> list[Body]:
    """Return *logprobs* as Chat has them, always with bytes."""
    return [
        {**_token(each), "top_logprobs": [_token(other) for other in each["top_logprobs"]]} for each in logprobs
    ]


def _token(logprob: Body) -> Body:
    token = logprob["token"]
    return {"token": token, "logprob": logprob["logprob"], "bytes": list(token.encode())}


def _usage(usage: dict[str, Any]) -> Body:
    read, written = usage["input_tokens"], usage["output_tokens"]
    unused = {"audio_tokens": 0, "accepted_prediction_tokens": 0, "rejected_prediction_tokens": 0}
    return {
        "prompt_tokens": read,
        "completion_tokens": written,
        "total_tokens": read + written,
        "prompt_tokens_details": {**usage["input_tokens_details"], "audio_tokens": 0},
        "completion_tokens_details": {**usage["output_tokens_details"], **unused},
    }
