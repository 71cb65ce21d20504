"""Said: the parts of a conversation, as plain values."""

from typing import Any

import orjson

from proxy.core.delta import Baseline, TurnRequest
from proxy.core.events import ServerEvent
from proxy.core.items import Item, Output

JSON = dict[str, Any]


def user(text: str) -> JSON:
    """Return a user message."""
    return {"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]}


def assistant(text: str, **fields: Any) -> JSON:
    """Return a message as the model emits it."""
    part = {"type": "output_text", "annotations": [], "logprobs": [], "text": text}
    message = {"id": "msg_1", "type": "message", "status": "completed", "role": "assistant", "content": [part]}
    return {**message, **fields}


def reasoning(*summary: str, **fields: Any) -> JSON:
    """Return a reasoning item as the model emits it."""
    told = [{"type": "summary_text", "text": text} for text in summary]
    return {"id": "rs_1", "type": "reasoning", "summary": told, "encrypted_content": "gAAAAA1", **fields}


def call(arguments: str = '{"path":"."}', **fields: Any) -> JSON:
    """Return a function call as the model emits it."""
    made = {"call_id": "call_1", "name": "ls", "arguments": arguments}
    return {"id": "fc_1", "type": "function_call", "status": "completed", **made, **fields}


def custom_call(text: str = "ls", **fields: Any) -> JSON:
    """Return a custom tool call as the model emits it."""
    made = {"call_id": "call_2", "name": "shell", "input": text}
    return {"id": "ctc_1", "type": "custom_tool_call", "status": "completed", **made, **fields}


def answer(call_id: str = "call_1", output: Any = "a.py", kind: str = "function_call_output") -> JSON:
    """Return what a tool gave."""
    return {"type": kind, "call_id": call_id, "output": output}


def request(*items: JSON, stream: bool = True, **fields: Any) -> TurnRequest:
    """Return the request whose history is *items*."""
    body = {"model": "gpt-5.5", "store": False, "input": list(items), **fields}
    return TurnRequest.of(
        body,
        tuple(Item.of(item) for item in items),
        model=body["model"],
        stream=stream,
        size=len(orjson.dumps(body)),
    )


def baseline(
    history: list[JSON],
    *outputs: JSON,
    response_id: str = "resp_1",
    parent: Baseline | None = None,
    **fields: Any,
) -> Baseline:
    """Return what upstream holds once it answered *history*, which continued *parent*, with *outputs*."""
    said = tuple(Output.of(output) for output in outputs)
    return Baseline.after(request(*history, **fields), response_id, said, parent=parent)


def event(kind: str, **fields: Any) -> ServerEvent:
    """Return an event from upstream."""
    return ServerEvent.parse(orjson.dumps({"type": kind, **fields}))


def created(response_id: str = "resp_2", **fields: Any) -> ServerEvent:
    """Return the first event of a response."""
    return event("response.created", response={"id": response_id, **fields})


def done(item: Any, index: Any = 0) -> ServerEvent:
    """Return the event for a finished item."""
    return event("response.output_item.done", output_index=index, item=item)


def completed(*output: Any, response_id: Any = "resp_2") -> ServerEvent:
    """Return the last event of a response."""
    return event("response.completed", response={"id": response_id, "output": list(output)})


MISS = "Previous response with id 'resp_1' not found."
MISSES: dict[str, JSON] = {
    "nested": {
        "type": "error",
        "status": 400,
        "error": {"type": "invalid_request_error", "code": "previous_response_not_found", "message": MISS},
    },
    "flat": {"type": "error", "code": "previous_response_not_found", "message": MISS, "param": None},
    "failed response": {
        "type": "response.failed",
        "response": {"id": "resp_2", "error": {"code": "previous_response_not_found", "message": MISS}},
    },
    "in a gateway's own code": {
        "type": "response.failed",
        "response": {"error": {"type": "server_error", "code": "codex_previous_response_stale", "message": "no"}},
    },
    "in prose": {"type": "error", "error": {"message": "The previous response 'resp_1' has expired."}},
    "without a code": {
        "type": "error",
        "error": {"type": "invalid_request_error", "message": "Invalid `previous_response_id`."},
    },
    "by its parameter": {
        "type": "error",
        "error": {"code": None, "param": "previous_response_id", "message": "Not found"},
    },
    "curt": {
        "type": "error",
        "error": {"message": "gRPC error: Response with id=resp_1 not found", "type": "api_error"},
    },
    "curt, of instructions": {
        "type": "error",
        "error": {
            "message": "Argument not supported: instructions and previous_response_id together",
            "type": "api_error",
        },
    },
    "only a text": {"type": "error", "error": "unknown previous_response_id"},
    "not found": {
        "type": "error",
        "status_code": 404,
        "error": {"type": "not_found_error", "message": "previous_response_id is gone"},
    },
    "response.error": {"type": "response.error", "error": {"code": "previous_response_not_found"}},
}
"""One thing in the words of different services: upstream does not know the response that a delta continues."""
