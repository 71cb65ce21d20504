"""Parameters: the top-level fields of a request, and what is said about wrong ones."""

from typing import Literal

from proxy.simulator.apierror import CURT, ApiError, invalid, missing, out_of_range
from proxy.simulator.chatparameters import EFFORTS, VERBOSITIES, check_chat, check_choice
from proxy.simulator.model import Body
from proxy.simulator.settings import SimulatorSettings

RESPONSES = frozenset(
    {
        "access_programs",
        "background",
        "background_options",
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
OBJECTS = ("metadata", "reasoning", "stream_options", "text")
RANGES: dict[str, tuple[float, float]] = {"temperature": (0.0, 2.0), "top_p": (0.0, 1.0), "top_logprobs": (0, 20)}


def check_parameters(request: Body, kind: Literal["ws", "http", "chat"], settings: SimulatorSettings) -> None:
    """Raise ApiError for a field that is unknown, missing, or at odds with another."""
    _check_names(request, kind, settings)
    if not isinstance(request.get("model"), str) or not request["model"]:
        raise missing("model")
    _check_ranges(request)
    _check_objects(request)
    if kind == "chat":
        check_chat(request)
        return
    _check_words(request)
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
    if chained_instructions and settings.traits.keeps_instructions:
        words = "Request validation error: Argument not supported: instructions and previous_response_id together"
        raise ApiError(400, words, type=CURT)
    limit = request.get("max_output_tokens")
    if isinstance(limit, int) and limit < LEAST_OUTPUT_TOKENS:
        raise out_of_range("max_output_tokens", limit, "integer below minimum", f">= {LEAST_OUTPUT_TOKENS}")


def _check_ranges(request: Body) -> None:
    for name, (least, greatest) in RANGES.items():
        value = request.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        kind = "integer" if isinstance(least, int) else "decimal"
        if value < least:
            raise out_of_range(name, value, f"{kind} below minimum", f">= {least:g}")
        if value > greatest:
            raise out_of_range(name, value, f"{kind} above maximum", f"<= {greatest:g}")


def _check_objects(request: Body) -> None:
    for name in OBJECTS:
        if not isinstance(request.get(name), dict | None):
            raise invalid(f"Invalid type for '{name}': expected an object.", param=name, code="invalid_type")


def _check_words(request: Body) -> None:
    """Check what Responses nests otherwise than Chat."""
    reasoning, text, tools = request.get("reasoning"), request.get("text"), request.get("tools")
    if isinstance(reasoning, dict):
        check_choice(reasoning.get("effort"), EFFORTS, "reasoning.effort")
    if isinstance(text, dict):
        check_choice(text.get("verbosity"), VERBOSITIES, "text.verbosity")
        form = text.get("format")
        if isinstance(form, dict) and form.get("type") == "json_schema" and not form.get("name"):
            raise missing("text.format.name")
    for index, tool in enumerate(tools if isinstance(tools, list) else ()):
        if isinstance(tool, dict) and tool.get("type") in ("function", "custom") and not tool.get("name"):
            raise missing(f"tools[{index}].name")


def _check_names(request: Body, kind: Literal["ws", "http", "chat"], settings: SimulatorSettings) -> None:
    known = KNOWN[kind] if settings.traits.has_lanes else KNOWN[kind] - {"stream_id"}
    strict = settings.strict_fields and settings.traits.is_strict
    for name, value in request.items():
        if (strict and name not in known) or (kind == "ws" and name in settings.refused_fields):
            raise invalid(f"Unknown parameter: '{name}'.", param=name, code="unknown_parameter")
        if settings.reject_nulls and value is None:
            message = f"Invalid type for '{name}': expected a value, but got null instead."
            raise invalid(message, param=name, code="invalid_type")
