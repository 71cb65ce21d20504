"""Effective settings: what a request asks of the model beyond its history, in one form for both APIs.

Two requests with the same effective settings and contexts that render alike ask for the same thing, whichever
API they came by. What was left out stands with its default. Chat's fields without an equivalent keep their names.
"""

from typing import Any, Literal

from proxy.simulator.model import Body

DEFAULTS: Body = {
    "context_management": None,
    "instructions": None,
    "max_tool_calls": None,
    "metadata": {},
    "model": None,
    "moderation": None,
    "parallel_tool_calls": True,
    "prompt_cache_key": None,
    "prompt_cache_options": None,
    "prompt_cache_retention": None,
    "safety_identifier": None,
    "service_tier": "auto",
    "temperature": 1,
    "top_p": 1,
    "truncation": "disabled",
    "user": None,
}
"""Fields that have the same name and meaning in both APIs, or that only Responses has."""
NEUTRAL: Body = {
    "audio": None,
    "frequency_penalty": 0,
    "function_call": None,
    "functions": None,
    "logit_bias": {},
    "modalities": ["text"],
    "n": 1,
    "prediction": None,
    "presence_penalty": 0,
    "seed": None,
    "stop": None,
    "web_search_options": None,
}
"""Fields that only Chat has, with the values that ask for nothing."""
NO_PARAMETERS: tuple[Any, ...] = ({}, {"type": "object"}, {"type": "object", "properties": {}})
LOGPROBS = "message.output_text.logprobs"


def effective_settings(endpoint: Literal["responses", "chat"], request: Body) -> Body:
    """Return what *request* asks for; it has passed check_parameters."""
    common = {name: _given(request, name, default) for name, default in DEFAULTS.items()}
    settings = {**common, **(_of_chat(request) if endpoint == "chat" else _of_responses(request))}
    if not settings["tools"]:
        settings["tool_choice"] = None
        settings["parallel_tool_calls"] = True
    return settings


def effective_tool(tool: Any) -> Any:
    """Return *tool*, of the Responses API, with its defaults."""
    return _tool(tool, strict=None)


def _of_chat(request: Body) -> Body:
    limit = _given(request, "max_completion_tokens", request.get("max_tokens"))
    return {
        "effort": request.get("reasoning_effort"),
        "format": _format(request.get("response_format")),
        "include": [],
        "limit": limit,
        "logprobs": (request.get("top_logprobs") or 0) if request.get("logprobs") else None,
        "store": bool(request.get("store")),
        "summary": None,
        "tool_choice": _choice(request.get("tool_choice")),
        "tools": [_tool(_flat(tool), strict=False) for tool in _list(request, "tools")],
        "verbosity": _given(request, "verbosity", "medium"),
        **{name: request[name] for name, neutral in NEUTRAL.items() if request.get(name) not in (None, neutral)},
    }


def _of_responses(request: Body) -> Body:
    reasoning, text, include = _object(request, "reasoning"), _object(request, "text"), _list(request, "include")
    return {
        "effort": reasoning.get("effort"),
        "format": _format(text.get("format")),
        "include": sorted(str(name) for name in include if name != LOGPROBS),
        "limit": request.get("max_output_tokens"),
        "logprobs": (request.get("top_logprobs") or 0) if LOGPROBS in include else None,
        "store": request.get("store") is not False,
        "summary": reasoning.get("summary"),
        "tool_choice": _choice(request.get("tool_choice")),
        "tools": [effective_tool(tool) for tool in _list(request, "tools")],
        "verbosity": text.get("verbosity") or "medium",
    }


def _given(request: Body, name: str, default: Any) -> Any:
    return default if request.get(name) is None else request[name]


def _object(request: Body, name: str) -> Body:
    value = request.get(name)
    return value if isinstance(value, dict) else {}


def _list(request: Body, name: str) -> list[Any]:
    value = request.get(name)
    return value if isinstance(value, list) else []


def _flat(tool: Any) -> Any:
    """Return a tool as Responses nests it: what is inside ``function`` or ``custom`` beside the type."""
    kind = tool.get("type") if isinstance(tool, dict) else None
    if kind not in ("function", "custom") or not isinstance(tool.get(kind), dict):
        return tool
    flat = {"type": kind, **tool[kind]}
    form = flat.get("format")
    if isinstance(form, dict) and "grammar" in form:
        flat["format"] = {"type": "grammar", **form["grammar"]}
    return flat


def _tool(tool: Any, *, strict: bool | None) -> Any:
    """Return *tool* with its defaults; *strict* None: upstream is strict where the schema allows it."""
    if not isinstance(tool, dict) or tool.get("type") not in ("function", "custom"):
        return tool
    plain = {key: value for key, value in tool.items() if value is not None}
    if tool["type"] == "custom":
        return {"format": {"type": "text"}, **plain}
    parameters = plain.pop("parameters", None)
    return {"strict": strict, **plain, "parameters": None if parameters in NO_PARAMETERS else parameters}


def _choice(choice: Any) -> Any:
    if choice is None:
        return "auto"
    if not isinstance(choice, dict):
        return choice
    allowed = choice.get("allowed_tools", choice)
    if choice.get("type") == "allowed_tools" and isinstance(allowed, dict):
        tools = [_flat(tool) for tool in _list(allowed, "tools")]
        return {"type": "allowed_tools", "mode": allowed.get("mode"), "tools": tools}
    return _flat(choice)


def _format(form: Any) -> Any:
    if form is None:
        return {"type": "text"}
    if not isinstance(form, dict) or form.get("type") != "json_schema":
        return form
    plain = {"type": "json_schema", **form.get("json_schema", form)}
    return {"strict": False, **{key: value for key, value in plain.items() if value is not None}}
