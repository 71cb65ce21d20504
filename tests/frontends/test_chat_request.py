"""Chat Completions parameters: each in its place, or the whole request left alone."""

from typing import Any

import pytest

from proxy.frontends.chat_request import Untranslatable, settings

JSON = dict[str, Any]
FUNCTION: JSON = {"name": "ls", "description": "list", "parameters": {"type": "object"}, "strict": True}
SCHEMA: JSON = {"name": "answer", "description": "d", "schema": {"type": "object"}, "strict": True}
GRAMMAR: JSON = {"definition": "start: x", "syntax": "lark"}


def translated(**parameters: Any) -> JSON:
    """Return the fields for *parameters*, without what every request has."""
    fields = settings({"model": "m", "messages": [], **parameters})
    assert fields.pop("store") is False
    return fields


def refused(**parameters: Any) -> str:
    """Return the name that is said to have no equal."""
    with pytest.raises(Untranslatable) as caught:
        settings({"model": "m", "messages": [], **parameters})
    return str(caught.value)


def test_nothing_is_stored_that_chat_would_not_store() -> None:
    """The default of one API is the opposite of the other's, so it is spelt out."""
    assert settings({"model": "m", "messages": []}) == {"store": False}
    assert settings({"model": "m", "messages": [], "store": None}) == {"store": False}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("metadata", {"a": "b"}),
        ("parallel_tool_calls", False),
        ("prompt_cache_key", "k"),
        ("prompt_cache_options", {"mode": "explicit"}),
        ("prompt_cache_retention", "24h"),
        ("safety_identifier", "s"),
        ("service_tier", "flex"),
        ("temperature", 0.5),
        ("top_p", 0),
        ("user", "u"),
        ("tool_choice", "required"),
    ],
)
def test_what_both_apis_name_alike_stays(name: str, value: Any) -> None:
    """With the agent's own value."""
    assert translated(**{name: value}) == {name: value}


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({"max_tokens": 16}, {"max_output_tokens": 16}),
        ({"max_completion_tokens": 999}, {"max_output_tokens": 999}),
        ({"reasoning_effort": "low"}, {"reasoning": {"effort": "low"}}),
        ({"verbosity": "low"}, {"text": {"verbosity": "low"}}),
        ({"response_format": {"type": "text"}}, {"text": {"format": {"type": "text"}}}),
        ({"response_format": {"type": "json_object"}}, {"text": {"format": {"type": "json_object"}}}),
        (
            {"response_format": {"type": "json_schema", "json_schema": SCHEMA}, "verbosity": "high"},
            {"text": {"format": {"type": "json_schema", **SCHEMA}, "verbosity": "high"}},
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "strict": None}}},
            {"text": {"format": {"type": "json_schema", "name": "n"}}},
        ),
        (
            {"logprobs": True, "top_logprobs": 3},
            {"include": ["message.output_text.logprobs"], "top_logprobs": 3},
        ),
        ({"stream": True, "stream_options": {"include_usage": True}}, {}),
        (
            {"stream": True, "stream_options": {"include_obfuscation": False}},
            {"stream_options": {"include_obfuscation": False}},
        ),
        (
            {"tools": [{"type": "function", "function": FUNCTION}]},
            {"tools": [{"type": "function", **FUNCTION}]},
        ),
        (
            {"tools": [{"type": "function", "function": {"name": "ls"}}]},
            {
                "tools": [
                    {
                        "type": "function",
                        "name": "ls",
                        "parameters": {"type": "object", "properties": {}},
                        "strict": False,
                    }
                ]
            },
        ),
        (
            {"tools": [{"type": "custom", "custom": {"name": "sh", "description": "d"}}]},
            {"tools": [{"type": "custom", "name": "sh", "description": "d"}]},
        ),
        (
            {"tools": [{"type": "custom", "custom": {"name": "sh", "format": {"type": "text"}}}]},
            {"tools": [{"type": "custom", "name": "sh", "format": {"type": "text"}}]},
        ),
        (
            {
                "tools": [
                    {"type": "custom", "custom": {"name": "sh", "format": {"type": "grammar", "grammar": GRAMMAR}}}
                ]
            },
            {"tools": [{"type": "custom", "name": "sh", "format": {"type": "grammar", **GRAMMAR}}]},
        ),
        (
            {"tool_choice": {"type": "function", "function": {"name": "ls"}}},
            {"tool_choice": {"type": "function", "name": "ls"}},
        ),
        (
            {"tool_choice": {"type": "custom", "custom": {"name": "sh"}}},
            {"tool_choice": {"type": "custom", "name": "sh"}},
        ),
        (
            {
                "tool_choice": {
                    "type": "allowed_tools",
                    "allowed_tools": {"mode": "auto", "tools": [{"type": "function", "function": {"name": "ls"}}]},
                }
            },
            {
                "tool_choice": {
                    "type": "allowed_tools",
                    "mode": "auto",
                    "tools": [{"type": "function", "name": "ls"}],
                }
            },
        ),
    ],
)
def test_what_has_another_form_is_written_in_it(given: JSON, wanted: JSON) -> None:
    """Nested where the other API nests, flat where it is flat."""
    assert translated(**given) == wanted


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("n", 1),
        ("frequency_penalty", 0),
        ("presence_penalty", 0.0),
        ("logit_bias", {}),
        ("logprobs", False),
        ("modalities", ["text"]),
        ("store", False),
        ("stop", None),
        ("seed", None),
        ("tools", None),
        ("anything", None),
    ],
)
def test_what_asks_for_nothing_needs_no_equal(name: str, value: Any) -> None:
    """A default spelt out, or null."""
    assert translated(**{name: value}) == {}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("n", 2),
        ("n", True),
        ("stop", "x"),
        ("stop", ["x"]),
        ("seed", 0),
        ("logit_bias", {"1": 2}),
        ("frequency_penalty", 0.1),
        ("frequency_penalty", False),
        ("presence_penalty", -1),
        ("prediction", {"type": "content", "content": "x"}),
        ("audio", {"voice": "alloy"}),
        ("modalities", ["text", "audio"]),
        ("functions", [{"name": "ls"}]),
        ("function_call", "auto"),
        ("web_search_options", {}),
        ("moderation", {"model": "m"}),
        ("store", True),
        ("store", 0),
        ("logprobs", 1),
        ("top_logprobs", 1),
        ("previous_response_id", "resp_1"),
        ("novelty", False),
        ("tools", {}),
        ("response_format", {"type": "xml"}),
        ("response_format", {"type": "text", "json_schema": SCHEMA}),
        ("tool_choice", {"type": "web_search"}),
        ("tool_choice", {"type": {}}),
        ("response_format", {"type": ["text"]}),
        ("tool_choice", {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": {}}}),
        ("tool_choice", {"type": "function", "function": {"name": "a"}, "custom": {"name": "b"}}),
        ("tools", [{"type": "web_search"}]),
        ("tools", [{"type": "function", "function": FUNCTION, "custom": {}}]),
        ("stream_options", {"include_usage": True}),
    ],
)
def test_what_has_no_equal_is_named(name: str, value: Any) -> None:
    """It is not dropped, and nothing is put in its place."""
    assert refused(**{name: value}) == name


@pytest.mark.parametrize("limit", [15, 0, -1, 16.0, "16", True])
def test_a_limit_below_the_least_has_no_equal(limit: Any) -> None:
    """Responses take sixteen tokens and more."""
    assert refused(max_completion_tokens=limit) == "max_tokens"


def test_two_limits_are_one_too_many() -> None:
    """Upstream says what is wrong with them."""
    assert refused(max_tokens=20, max_completion_tokens=20) == "max_tokens"


@pytest.mark.parametrize(
    ("parameters", "name"),
    [
        ({"stream": True, "stream_options": {"novelty": 1}}, "stream_options.novelty"),
        ({"stream": True, "stream_options": {"include_usage": 1}}, "stream_options"),
        ({"stream": True, "stream_options": "x"}, "stream_options"),
        ({"response_format": "text"}, "response_format"),
        ({"response_format": {"type": "json_schema", "json_schema": None}}, "response_format.json_schema"),
        ({"response_format": {"type": "json_schema", "json_schema": {"x": 1}}}, "response_format.json_schema.x"),
        ({"tools": ["ls"]}, "tools"),
        ({"tools": [{"type": "function", "function": {"name": "x", "cache": 1}}]}, "tools.function.cache"),
        ({"tools": [{"type": "custom", "custom": {"name": "x", "format": {"type": "x"}}}]}, "tools.custom.format"),
        (
            {
                "tools": [
                    {"type": "custom", "custom": {"name": "x", "format": {"type": "text", "grammar": GRAMMAR}}}
                ]
            },
            "tools.custom.format",
        ),
        ({"tool_choice": {"type": "function", "function": {"name": "a", "b": 1}}}, "tool_choice.function.b"),
    ],
)
def test_a_part_without_an_equal_is_named_with_its_place(parameters: JSON, name: str) -> None:
    """However deep it stands."""
    assert refused(**parameters) == name
