"""Chat Completions requests as Responses requests: every parameter, or the name of the one that has no equal.

Nothing is dropped and nothing invented. A parameter of Chat Completions stands in `_FIELDS` with its place in a
Responses request, or in `_NEUTRAL` with the values that ask for nothing; with any other value, and for any
other name, the request is not ours to translate. Sources: the public OpenAPI description of both APIs.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from proxy.core.items import without_nulls


class Untranslatable(ValueError):
    """The Responses API has no equal of what the message names."""


Convert: TypeAlias = Callable[[Any], Any]

LEAST_OUTPUT_TOKENS = 16
"""The smallest `max_output_tokens` that the Responses API takes; Chat Completions take less."""

LOGPROBS = "message.output_text.logprobs"


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a parameter stands in a Responses request, and how its value is written there."""

    path: tuple[str, ...]
    convert: Convert = lambda value: value


def check_tools(body: Mapping[str, Any]) -> None:
    """Raise Untranslatable for what Chat Completions refuse where no tool is given; the Responses API takes it."""
    if not body.get("tools"):
        for name in ("tools", "tool_choice", "parallel_tool_calls"):
            if body.get(name) is not None:
                raise Untranslatable(name)


def settings(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a Responses request for *body* without its messages.

    Raises Untranslatable where there is none for a parameter, or for its value.
    """
    given = without_nulls(body)
    if "top_logprobs" in given and given.get("logprobs") is not True:
        raise Untranslatable("top_logprobs")
    if "max_tokens" in given and "max_completion_tokens" in given:
        raise Untranslatable("max_tokens")
    # Chat Completions are not stored unless asked to be, responses are unless asked not to be.
    fields: dict[str, Any] = {"store": False, **_stream_options(given)}
    for name, value in given.items():
        if name in _ELSEWHERE or _is_neutral(name, value):
            continue
        place = _FIELDS.get(name)
        if place is None:
            raise Untranslatable(name)
        _put(fields, place.path, place.convert(value))
    return fields


def _is_neutral(name: str, value: Any) -> bool:
    return any(type(value) is type(neutral) and value == neutral for neutral in _NEUTRAL.get(name, ()))


def _put(fields: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    *outer, last = path
    for name in outer:
        fields = fields.setdefault(name, {})
    fields[last] = value


def take(value: Any, place: str, *names: str) -> Iterator[Any]:
    """Yield what stands under *names* in *value*, the object at *place*; None for what is absent.

    Raises Untranslatable where *value* is no object, or has anything else that is not null.
    """
    if not isinstance(value, dict):
        raise Untranslatable(place)
    for name, each in value.items():
        if name not in names and each is not None:
            raise Untranslatable(f"{place}.{name}")
    return (value.get(name) for name in names)


def _token_limit(limit: Any) -> Any:
    if type(limit) is not int or limit < LEAST_OUTPUT_TOKENS:
        raise Untranslatable("max_tokens")
    return limit


def _logprobs(wanted: Any) -> list[str]:
    if wanted is not True:
        raise Untranslatable("logprobs")
    return [LOGPROBS]


def _format(given: Any) -> dict[str, Any]:
    kind, schema = take(given, "response_format", "type", "json_schema")
    if kind != "json_schema":
        if schema is not None or kind not in ("text", "json_object"):
            raise Untranslatable("response_format")
        return {"type": kind}
    names = ("name", "description", "schema", "strict")
    values = take(schema, "response_format.json_schema", *names)
    return {"type": "json_schema", **_given(names, values)}


def _given(names: tuple[str, ...], values: Iterator[Any]) -> dict[str, Any]:
    return dict(without_nulls(dict(zip(names, values, strict=True))))


def _tools(given: Any) -> list[dict[str, Any]]:
    if not isinstance(given, list):
        raise Untranslatable("tools")
    return [_tool(tool) for tool in given]


def _tool(given: Any) -> dict[str, Any]:
    kind, function, custom = take(given, "tools", "type", "function", "custom")
    if kind == "function" and custom is None:
        names = ("name", "description", "parameters", "strict")
        tool = _given(names, take(function, "tools.function", *names))
        # A function without parameters has none; one without strict is not strict, which Responses tries to be.
        return {
            "type": "function",
            **tool,
            "parameters": tool.get("parameters", {"type": "object", "properties": {}}),
            "strict": tool.get("strict", False),
        }
    if kind == "custom" and function is None:
        about = ("name", "description", "format")
        tool = _given(about, take(custom, "tools.custom", *about))
        if "format" in tool:
            tool["format"] = _custom_format(tool["format"])
        return {"type": "custom", **tool}
    raise Untranslatable("tools")


def _custom_format(given: Any) -> dict[str, Any]:
    kind, grammar = take(given, "tools.custom.format", "type", "grammar")
    if kind == "grammar":
        names = ("definition", "syntax")
        return {"type": "grammar", **_given(names, take(grammar, "tools.custom.format.grammar", *names))}
    if kind != "text" or grammar is not None:
        raise Untranslatable("tools.custom.format")
    return {"type": "text"}


def _tool_choice(given: Any) -> Any:
    if isinstance(given, str):
        return given
    if isinstance(given, dict) and given.get("type") == "allowed_tools":
        _, allowed = take(given, "tool_choice", "type", "allowed_tools")
        mode, tools = take(allowed, "tool_choice.allowed_tools", "mode", "tools")
        if not isinstance(tools, list):
            raise Untranslatable("tool_choice")
        return {"type": "allowed_tools", "mode": mode, "tools": [_chosen(tool) for tool in tools]}
    return _chosen(given)


def _chosen(given: Any) -> dict[str, Any]:
    """Name one tool, `{"type": "function", "function": {"name": N}}`, the flat way."""
    kind, *named = take(given, "tool_choice", "type", "function", "custom")
    wanted, other = named if kind == "function" else reversed(named)
    if kind not in ("function", "custom") or other is not None:
        raise Untranslatable("tool_choice")
    (name,) = take(wanted, f"tool_choice.{kind}", "name")
    return {"type": kind, "name": name}


def _stream_options(given: Mapping[str, Any]) -> dict[str, Any]:
    if "stream_options" not in given:
        return {}
    options = take(given["stream_options"], "stream_options", "include_usage", "include_obfuscation")
    usage, obfuscation = options
    if not isinstance(usage, bool | None) or given.get("stream") is not True:
        raise Untranslatable("stream_options")
    return {} if obfuscation is None else {"stream_options": {"include_obfuscation": obfuscation}}


_SAME_NAME = (
    "metadata",
    "parallel_tool_calls",
    "prompt_cache_key",
    "prompt_cache_options",
    "prompt_cache_retention",
    "safety_identifier",
    "service_tier",
    "temperature",
    "top_logprobs",
    "top_p",
    "user",
)
_FIELDS: Mapping[str, _Place] = {
    **{name: _Place((name,)) for name in _SAME_NAME},
    "logprobs": _Place(("include",), _logprobs),
    "max_completion_tokens": _Place(("max_output_tokens",), _token_limit),
    "max_tokens": _Place(("max_output_tokens",), _token_limit),
    "reasoning_effort": _Place(("reasoning", "effort")),
    "response_format": _Place(("text", "format"), _format),
    "tool_choice": _Place(("tool_choice",), _tool_choice),
    "tools": _Place(("tools",), _tools),
    "verbosity": _Place(("text", "verbosity")),
}
_NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "frequency_penalty": (0, 0.0),
    "logit_bias": ({},),
    "logprobs": (False,),
    "modalities": (["text"],),
    "n": (1,),
    "presence_penalty": (0, 0.0),
    "store": (False,),
}
_ELSEWHERE = frozenset({"messages", "model", "stream", "stream_options"})
