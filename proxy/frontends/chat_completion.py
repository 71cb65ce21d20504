"""The parts of a Chat completion, from those of a response."""

import re
from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any

import orjson

from proxy.core.items import Raw
from proxy.errors import UpstreamError
from proxy.frontends.chat_messages import content_parts, said
from proxy.frontends.faithful import as_json

CALLS: Mapping[str, tuple[str, str]] = {
    "function_call": ("function", "arguments"),
    "custom_tool_call": ("custom", "input"),
}
"""The items that are tool calls: the type of the call, and the name of what the model wrote for it."""

_FINISH_REASONS = {"max_output_tokens": "length", "content_filter": "content_filter"}

_PARAMETERS = {
    "input": "messages",
    "max_output_tokens": "max_completion_tokens",
    "reasoning": "reasoning_effort",
    "text": "response_format",
}
"""What a Chat request calls the field of a Responses request that an error names."""


def head(kind: str, response: Raw) -> dict[str, Any]:
    """Return what every chunk of *response* has in common, or the whole completion's beginning."""
    created = response.get("created_at")
    shared: dict[str, Any] = {
        "id": str(response.get("id")).replace("resp_", "chatcmpl-", 1),
        "object": kind,
        "created": int(created) if isinstance(created, int | float) and isfinite(created) else 0,
        "model": response.get("model"),
    }
    if response.get("service_tier") is not None:
        shared["service_tier"] = response["service_tier"]
    return {**shared, "system_fingerprint": None}


def message(output: Sequence[Raw]) -> dict[str, Any]:
    """Return the one message that says what *output* says."""
    parts = [part for item in output for part in content_parts(item)]
    calls = [_call(item) for item in output if item.get("type") in CALLS]
    text, refusal = said(parts)
    is_silent = bool(refusal or calls) or not any(part.get("type") == "output_text" for part in parts)
    whole: dict[str, Any] = {
        "role": "assistant",
        "content": None if is_silent and not text else text,
        "refusal": refusal or None,
        "annotations": [],
    }
    return {**whole, "tool_calls": calls} if calls else whole


def _call(item: Raw) -> dict[str, Any]:
    kind, text = CALLS[item["type"]]
    return {"id": item.get("call_id"), "type": kind, kind: {"name": item.get("name"), text: item.get(text)}}


def names_a_tool(choice: Any) -> bool:
    """Whether *choice*, a request's `tool_choice`, leaves the model no choice but one tool."""
    return isinstance(choice, dict) and choice.get("type") in {"function", "custom"}


def finish_reason(response: Raw, *, called: bool, named: bool = False) -> str:
    """Say why *response* ended; *called* if it has a tool call, *named* if the request named which.

    A call that was asked for by name is no reason of its own to stop, in the API's words.
    """
    if response.get("status") == "incomplete":
        details = response.get("incomplete_details")
        reason = details.get("reason") if isinstance(details, dict) else None
        return _FINISH_REASONS.get(str(reason), "length")
    return "tool_calls" if called and not named else "stop"


def usage(given: Any, *, heard: bool = False) -> dict[str, Any] | None:
    """Return the tokens used, as upstream counted them; *heard* says that there may be audio in the prompt.

    What Chat Completions count and Responses do not is nothing: a request that asks for it is not translated.
    """
    if not isinstance(given, dict):
        return None
    counted = {
        "prompt_tokens": given.get("input_tokens"),
        "completion_tokens": given.get("output_tokens"),
        "total_tokens": given.get("total_tokens"),
    }
    read, written = given.get("input_tokens_details"), given.get("output_tokens_details")
    if isinstance(read, dict) and not heard:
        read = {"audio_tokens": 0, **read}
    if isinstance(written, dict):
        written = {**_NOT_ASKED_FOR, **written}
    details = {"prompt_tokens_details": read, "completion_tokens_details": written}
    return counted | {name: value for name, value in details.items() if value is not None}


_NOT_ASKED_FOR = {"audio_tokens": 0, "accepted_prediction_tokens": 0, "rejected_prediction_tokens": 0}


def logprobs(tokens: Any) -> dict[str, Any] | None:
    """Return the log probabilities of a text's *tokens*; None where upstream told none."""
    if not isinstance(tokens, list):
        return None
    return {"content": [_token(token) for token in tokens if isinstance(token, dict)], "refusal": None}


def _token(given: Raw) -> dict[str, Any]:
    top = given.get("top_logprobs")
    return {**_likely(given), "top_logprobs": [_likely(each) for each in top] if isinstance(top, list) else []}


def _likely(given: Raw) -> dict[str, Any]:
    token = given.get("token")
    spelt = given["bytes"] if "bytes" in given else _spelt(token) if isinstance(token, str) else None
    return {"token": token, "logprob": given.get("logprob"), "bytes": spelt}


_ESCAPED = re.compile(r"(?:\\x[0-9a-f]{2})+")

_PARTIAL = re.compile(r"[\ud800-\udfff\ufffd]")
"""Half a character, or its replacement, which some servers write for a piece of one: its bytes are not told."""


def _spelt(token: str) -> list[int] | None:
    r"""Return the bytes of *token*, which events leave out; a piece of a character is written like `\xe2\x80`."""
    if _ESCAPED.fullmatch(token):
        return list(bytes.fromhex(token.replace("\\x", "")))
    return None if "\\x" in token or _PARTIAL.search(token) else list(token.encode())


def fault(error: Raw, status: int) -> dict[str, Any]:
    """Return the error object for upstream's *error*, naming the parameter as a Chat request does."""
    parameter = error.get("param")
    if isinstance(parameter, str):
        name = re.split(r"[.\[]", parameter, maxsplit=1)[0]
        parameter = _PARAMETERS.get(name, parameter)
    return {
        **error,
        "message": error.get("message") or "upstream ended the response without an answer",
        "type": error.get("type") or ("invalid_request_error" if status < 500 else "server_error"),
        "param": parameter,
        "code": error.get("code"),
    }


def reworded(error: UpstreamError) -> bytes:
    """Return the body of *error* in the words of Chat Completions; a body in no API's words stays as it is."""
    try:
        body = orjson.loads(error.body)
    except orjson.JSONDecodeError:
        return error.body
    said_in = body.get("error") if isinstance(body, dict) else None
    if not isinstance(said_in, dict):
        return error.body
    return as_json({**body, "error": fault(said_in, error.status)})
