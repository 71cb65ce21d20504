"""ChatDialect: the events of a response, worded as Chat Completions."""

from typing import Any

import orjson

from proxy.simulator.apierror import ApiError
from proxy.simulator.model import Body, Event, Item

FINISH_REASONS = {"max_output_tokens": "length", "content_filter": "content_filter"}


class ChatDialect:
    """Words one response as chunks, or as a whole completion, for *request*."""

    def __init__(self, request: Body) -> None:
        self._choices = range(request.get("n") or 1)
        self._logprobs = bool(request.get("logprobs"))
        options = request.get("stream_options") or {}
        self._usage = bool(options.get("include_usage"))
        self._obfuscates = options.get("include_obfuscation") is not False
        self._head: Body = {}
        self._calls: dict[str, int] = {}

    def records(self, event: Event) -> bytes:
        """Return the chunks that say *event*."""
        match event["type"]:
            case "response.created":
                response = event["response"]
                self._head = {
                    "id": _completion_id(response),
                    "object": "chat.completion.chunk",
                    "created": response["created_at"],
                    "model": response["model"],
                    "service_tier": response["service_tier"],
                    "system_fingerprint": None,
                }
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
                failure = event["response"]["error"]
                return self.error(ApiError(500, failure["message"], code=failure["code"]))
            case _:
                return b""

    def whole(self, event: Event) -> bytes | None:
        """Return the completion, at the terminal event; raise ApiError for a response that failed."""
        if event["type"] == "response.failed":
            failure = event["response"]["error"]
            raise ApiError(500, failure["message"], code=failure["code"])
        if event["type"] not in ("response.completed", "response.incomplete"):
            return None
        response = event["response"]
        message = _message(response["output"])
        choice: Body = {"message": message, "finish_reason": _finish_reason(response), "logprobs": None}
        if self._logprobs:
            choice["logprobs"] = {"content": [_logprob(message["content"] or "")], "refusal": None}
        completion = {
            "id": _completion_id(response),
            "object": "chat.completion",
            "created": response["created_at"],
            "model": response["model"],
            "choices": [{"index": index, **choice} for index in self._choices],
            "usage": _usage(response["usage"]),
            "service_tier": response["service_tier"],
            "system_fingerprint": None,
        }
        return orjson.dumps(completion)

    def error(self, error: ApiError) -> bytes:
        """Return an error in mid-stream."""
        return _record(error.body())

    def _call_added(self, item: Item) -> bytes:
        kinds = {"function_call": ("function", "arguments"), "custom_tool_call": ("custom", "input")}
        if item["type"] not in kinds:
            return b""
        kind, key = kinds[item["type"]]
        index = self._calls.setdefault(item["id"], len(self._calls))
        call = {"index": index, "id": item["call_id"], "type": kind, kind: {"name": item["name"], key: ""}}
        return self._chunk({"tool_calls": [call]})

    def _call_grows(self, event: Event, kind: str, key: str) -> bytes:
        call = {"index": self._calls[event["item_id"]], kind: {key: event["delta"]}}
        return self._chunk({"tool_calls": [call]}, event)

    def _chunk(self, delta: Body, event: Event | None = None, finish_reason: str | None = None) -> bytes:
        logprobs = None
        if self._logprobs and "content" in delta:
            logprobs = {"content": [_logprob(delta["content"])], "refusal": None}
        chunk: Body = {**self._head}
        if self._usage:
            chunk["usage"] = None
        if event and self._obfuscates and "obfuscation" in event:
            chunk["obfuscation"] = event["obfuscation"]
        records = []
        for index in self._choices:
            choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}
            records.append(_record({**chunk, "choices": [choice]}))
        return b"".join(records)

    def _ending(self, response: Body) -> bytes:
        ending = self._chunk({}, finish_reason="tool_calls" if self._calls else _finish_reason(response))
        if self._usage:
            ending += _record({**self._head, "choices": [], "usage": _usage(response["usage"])})
        return ending + b"data: [DONE]\n\n"


def _record(data: Body) -> bytes:
    return b"data: %b\n\n" % orjson.dumps(data)


def _completion_id(response: Body) -> str:
    return str(response["id"]).replace("resp_", "chatcmpl-")


def _finish_reason(response: Body) -> str:
    if response["incomplete_details"]:
        return FINISH_REASONS.get(response["incomplete_details"]["reason"], "length")
    called = any(item["type"] in ("function_call", "custom_tool_call") for item in response.get("output", ()))
    return "tool_calls" if called else "stop"


def _message(output: list[Item]) -> Body:
    parts = [part for item in output if item["type"] == "message" for part in item["content"]]
    text = "".join(part["text"] for part in parts if part["type"] == "output_text")
    refusal = "".join(part["refusal"] for part in parts if part["type"] == "refusal")
    message: Body = {
        "role": "assistant",
        "content": text or None,
        "refusal": refusal or None,
        "annotations": [],
    }
    calls = [_call(item) for item in output if item["type"] in ("function_call", "custom_tool_call")]
    if calls:
        message["tool_calls"] = calls
    return message


def _call(item: Item) -> Body:
    if item["type"] == "function_call":
        function = {"name": item["name"], "arguments": item["arguments"]}
        return {"id": item["call_id"], "type": "function", "function": function}
    custom = {"name": item["name"], "input": item["input"]}
    return {"id": item["call_id"], "type": "custom", "custom": custom}


def _logprob(text: str) -> Body:
    return {"token": text, "logprob": -0.1, "bytes": list(text.encode()), "top_logprobs": []}


def _usage(usage: dict[str, Any]) -> Body:
    read, written = usage["input_tokens"], usage["output_tokens"]
    return {
        "prompt_tokens": read,
        "completion_tokens": written,
        "total_tokens": read + written,
        "prompt_tokens_details": usage["input_tokens_details"],
        "completion_tokens_details": usage["output_tokens_details"],
    }
