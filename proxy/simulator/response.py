"""Response: the object that ``response.created`` and ``response.completed`` carry."""

from typing import Any

from proxy.simulator.model import Body, Item

ECHOED: dict[str, Any] = {
    "background": False,
    "conversation": None,
    "instructions": None,
    "max_output_tokens": None,
    "max_tool_calls": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "previous_response_id": None,
    "prompt": None,
    "prompt_cache_key": None,
    "prompt_cache_retention": None,
    "safety_identifier": None,
    "store": True,
    "temperature": 1.0,
    "tool_choice": "auto",
    "tools": [],
    "top_logprobs": 0,
    "top_p": 1.0,
    "truncation": "disabled",
    "user": None,
}
"""The settings that a response repeats, with the values of those that the request left out."""


SERVED_AS = {None: "default", "auto": "default", "fast": "priority"}
"""The tier that is reported, where it is not the one that was asked for."""


def begun(request: Body, response_id: str, created_at: int) -> Body:
    """Return the response as it is when it starts."""
    reasoning = request.get("reasoning") or {}
    text = request.get("text") or {}
    tier = request.get("service_tier")
    echoed = {name: default if request.get(name) is None else request[name] for name, default in ECHOED.items()}
    return {
        "id": response_id,
        "object": "response",
        "created_at": created_at,
        "status": "in_progress",
        "completed_at": None,
        "error": None,
        "incomplete_details": None,
        "model": request.get("model"),
        "output": [],
        "usage": None,
        **echoed,
        "reasoning": {"effort": None, "summary": None, **reasoning},
        "service_tier": SERVED_AS.get(tier, tier),
        "text": {"format": {"type": "text"}, "verbosity": "medium", **text},
    }


def usage(*, read: int, cached: int, output: list[Item], written: int) -> Body:
    """Return the ``usage`` of a response that read *read* tokens, and wrote *written* tokens as *output*."""
    reasons = [item for item in output if item.get("type") == "reasoning"]
    reasoning = min(written, 64 * len(reasons))
    return {
        "input_tokens": read,
        "input_tokens_details": {"cached_tokens": cached, "cache_write_tokens": 0},
        "output_tokens": written,
        "output_tokens_details": {"reasoning_tokens": reasoning},
        "total_tokens": read + written,
    }
