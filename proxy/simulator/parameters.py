"""Parameters: the top-level fields of a request, and what is said about wrong ones."""

from typing import Literal

from proxy.simulator.apierror import ApiError, invalid
from proxy.simulator.model import Body
from proxy.simulator.settings import SimulatorSettings

RESPONSES = frozenset(
    {
        "access_programs",
        "background",
        "context_management",
        "conversation",
        "image",
        "include",
        "input",
        "instructions",
        "max_output_tokens",
        "max_tool_calls",
        "metadata",
        "model",
        "moderation",
        "parallel_tool_calls",
        "previous_response_id",
        "prompt",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "reasoning",
        "safety_identifier",
        "service_tier",
        "store",
        "stream",
        "stream_options",
        "temperature",
        "text",
        "tool_choice",
        "tools",
        "top_logprobs",
        "top_p",
        "truncation",
        "user",
        "client_metadata",
    }
)
WEBSOCKET_ONLY = frozenset({"type", "generate", "stream_id"})
CHAT = frozenset(
    {
        "audio",
        "client_metadata",
        "frequency_penalty",
        "function_call",
        "functions",
        "logit_bias",
        "logprobs",
        "max_completion_tokens",
        "max_tokens",
        "messages",
        "metadata",
        "modalities",
        "model",
        "moderation",
        "n",
        "parallel_tool_calls",
        "prediction",
        "presence_penalty",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "reasoning_effort",
        "response_format",
        "safety_identifier",
        "seed",
        "service_tier",
        "stop",
        "store",
        "stream",
        "stream_options",
        "temperature",
        "tool_choice",
        "tools",
        "top_logprobs",
        "top_p",
        "user",
        "verbosity",
        "web_search_options",
    }
)
KNOWN = {"ws": RESPONSES | WEBSOCKET_ONLY, "http": RESPONSES, "chat": CHAT}
LEAST_OUTPUT_TOKENS = 16


def check_parameters(request: Body, kind: Literal["ws", "http", "chat"], settings: SimulatorSettings) -> None:
    """Raise ApiError for a field that is unknown, missing, or at odds with another."""
    _check_names(request, kind, settings)
    if not isinstance(request.get("model"), str) or not request["model"]:
        raise invalid("Missing required parameter: 'model'.", param="model", code="missing_required_parameter")
    if kind == "chat":
        return
    if request.get("previous_response_id") and request.get("conversation"):
        raise invalid(
            "Mutually exclusive parameters: 'previous_response_id' and 'conversation'. "
            "Ensure you are only providing one of: 'previous_response_id' or 'conversation'.",
            param="previous_response_id",
            code="mutually_exclusive_parameters",
        )
    if conversation := request.get("conversation"):
        name = conversation.get("id") if isinstance(conversation, dict) else conversation
        raise ApiError(404, f"Conversation with id '{name}' not found.", param="conversation")
    if kind == "ws" and request.get("background"):
        raise invalid("Background responses are not supported over WebSocket.", param="background")
    chained_instructions = request.get("previous_response_id") and request.get("instructions")
    if chained_instructions and settings.traits.refuses_instructions_in_chain:
        raise invalid("'instructions' cannot be used with 'previous_response_id'.", param="instructions")
    limit = request.get("max_output_tokens")
    if isinstance(limit, int) and limit < LEAST_OUTPUT_TOKENS:
        raise invalid(
            "Invalid 'max_output_tokens': integer below minimum value. "
            f"Expected a value >= {LEAST_OUTPUT_TOKENS}, but got {limit} instead.",
            param="max_output_tokens",
            code="integer_below_min_value",
        )


def _check_names(request: Body, kind: Literal["ws", "http", "chat"], settings: SimulatorSettings) -> None:
    known = KNOWN[kind] if settings.traits.has_lanes else KNOWN[kind] - {"stream_id"}
    strict = settings.strict_fields and settings.traits.is_strict
    for name, value in request.items():
        if strict and name not in known:
            raise invalid(f"Unknown parameter: '{name}'.", param=name, code="unknown_parameter")
        if settings.reject_nulls and value is None:
            message = f"Invalid type for '{name}': expected a value, but got null instead."
            raise invalid(message, param=name, code="invalid_type")
