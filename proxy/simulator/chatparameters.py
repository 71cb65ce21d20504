"""Chat parameters: the fields of a Chat Completions request that are refused alone or together."""

from collections.abc import Iterable
from typing import Any

from proxy.simulator.apierror import invalid, missing, out_of_range, unsupported
from proxy.simulator.model import Body

EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
VERBOSITIES = ("low", "medium", "high")
FORMATS = ("text", "json_object", "json_schema")
MOST_CHOICES = 128


def check_chat(request: Body) -> None:
    """Raise ApiError for what Chat refuses beyond what both APIs do."""
    _check_numbers(request)
    _check_together(request)
    check_choice(request.get("reasoning_effort"), EFFORTS, "reasoning_effort")
    check_choice(request.get("verbosity"), VERBOSITIES, "verbosity")
    _check_format(request.get("response_format"))
    if request.get("tools") == []:
        message = "Invalid 'tools': empty array. Expected an array with minimum length 1, but got an empty array."
        raise invalid(message, param="tools", code="empty_array")
    for index, tool in enumerate(request.get("tools") or ()):
        _check_tool(tool, f"tools[{index}]")


def check_choice(value: Any, supported: Iterable[str], param: str) -> None:
    """Raise ApiError for a word that is none of those *supported*; null is left out."""
    if value is not None and value not in supported:
        raise unsupported(value, supported, param)


def _check_numbers(request: Body) -> None:
    for name in ("n", "max_tokens", "max_completion_tokens"):
        value = request.get(name)
        if isinstance(value, int) and value < 1:
            raise out_of_range(name, value, "integer below minimum", ">= 1")
    if (request.get("n") or 1) > MOST_CHOICES:
        raise out_of_range("n", request["n"], "integer above maximum", f"<= {MOST_CHOICES}")


def _check_together(request: Body) -> None:
    if request.get("max_tokens") is not None and request.get("max_completion_tokens") is not None:
        raise invalid(
            "Setting 'max_tokens' and 'max_completion_tokens' at the same time is not supported.",
            param="max_tokens",
            code="invalid_parameter_combination",
        )
    if request.get("top_logprobs") is not None and not request.get("logprobs"):
        raise _only_with("top_logprobs", "'logprobs' is enabled")
    if request.get("stream_options") is not None and not request.get("stream"):
        raise _only_with("stream_options", "'stream' is enabled")
    if not request.get("tools"):
        for name in ("tool_choice", "parallel_tool_calls"):
            if request.get(name) is not None:
                raise _only_with(name, "'tools' are specified")


def _only_with(param: str, condition: str) -> Exception:
    message = f"Invalid value for '{param}': '{param}' is only allowed when {condition}."
    return invalid(message, param=param)


def _check_format(form: Any) -> None:
    if form is None:
        return
    kind = form.get("type") if isinstance(form, dict) else form
    check_choice(kind or "", FORMATS, "response_format.type")
    if kind == "json_schema":
        schema = form.get("json_schema")
        if not isinstance(schema, dict):
            raise missing("response_format.json_schema")
        if not schema.get("name"):
            raise missing("response_format.json_schema.name")


def _check_tool(tool: Any, place: str) -> None:
    kind = tool.get("type") if isinstance(tool, dict) else None
    check_choice(kind or "", ("function", "custom"), f"{place}.type")
    inner = tool.get(kind)
    if not isinstance(inner, dict):
        raise missing(f"{place}.{kind}")
    if not inner.get("name"):
        raise missing(f"{place}.{kind}.name")
