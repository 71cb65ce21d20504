"""What a request asks of the model beyond its history reads alike, whichever API it came by."""

from typing import Any

import pytest

from proxy.simulator.effective import effective_settings

SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}}
FUNCTION = {"name": "ls", "description": "List.", "parameters": SCHEMA}
TOOLS: dict[str, Any] = {"tools": [{"type": "function", "function": FUNCTION}]}
FLAT: dict[str, Any] = {"tools": [{"type": "function", **FUNCTION, "strict": False}]}
GRAMMAR = {"definition": "x", "syntax": "regex"}


def of_chat(**fields: Any) -> dict[str, Any]:
    """Return what a Chat request with *fields* asks for."""
    return effective_settings("chat", {"model": "m", "messages": [], **fields})


def of_responses(**fields: Any) -> dict[str, Any]:
    """Return what a Responses request with *fields* asks for; it is not stored."""
    return effective_settings("responses", {"model": "m", "input": [], "store": False, **fields})


@pytest.mark.parametrize(
    ("chat", "responses"),
    [
        ({}, {}),
        ({"store": None}, {"top_p": None, "metadata": None, "tools": []}),
        ({"store": True}, {"store": True}),
        ({"max_tokens": 20}, {"max_output_tokens": 20}),
        ({"max_completion_tokens": 20}, {"max_output_tokens": 20}),
        ({"reasoning_effort": "low"}, {"reasoning": {"effort": "low"}}),
        ({"verbosity": "low"}, {"text": {"verbosity": "low"}}),
        ({"verbosity": "medium", "service_tier": "auto"}, {}),
        ({"temperature": 1, "top_p": 1.0, "metadata": {}, "parallel_tool_calls": True}, {}),
        ({"logprobs": True}, {"include": ["message.output_text.logprobs"]}),
        ({"logprobs": True, "top_logprobs": 3}, {"include": ["message.output_text.logprobs"], "top_logprobs": 3}),
        ({"n": 1, "stop": None, "frequency_penalty": 0, "logit_bias": {}, "modalities": ["text"]}, {}),
        ({"response_format": {"type": "text"}}, {}),
        ({"response_format": {"type": "json_object"}}, {"text": {"format": {"type": "json_object"}}}),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}},
            {"text": {"format": {"type": "json_schema", "name": "x", "schema": SCHEMA, "strict": False}}},
        ),
        (TOOLS, FLAT),
        ({"tools": [{"type": "function", "function": {**FUNCTION, "strict": None}}]}, FLAT),
        (
            {"tools": [{"type": "function", "function": {"name": "now"}}]},
            {"tools": [{"type": "function", "name": "now", "parameters": {"type": "object"}, "strict": False}]},
        ),
        (
            {"tools": [{"type": "custom", "custom": {"name": "sh"}}]},
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
        ({**TOOLS, "tool_choice": "auto"}, FLAT),
        (
            {**TOOLS, "tool_choice": {"type": "function", "function": {"name": "ls"}}},
            {**FLAT, "tool_choice": {"type": "function", "name": "ls"}},
        ),
        (
            {
                **TOOLS,
                "tool_choice": {
                    "type": "allowed_tools",
                    "allowed_tools": {
                        "mode": "auto",
                        "tools": [{"type": "function", "function": {"name": "ls"}}],
                    },
                },
            },
            {
                **FLAT,
                "tool_choice": {
                    "type": "allowed_tools",
                    "mode": "auto",
                    "tools": [{"type": "function", "name": "ls"}],
                },
            },
        ),
    ],
)
def test_both_apis_ask_for_the_same(chat: dict[str, Any], responses: dict[str, Any]) -> None:
    """Each parameter in its two forms, and what is left out as its default."""
    assert of_chat(**chat) == of_responses(**responses)


@pytest.mark.parametrize(
    ("chat", "responses"),
    [
        ({}, {"store": None}),
        (TOOLS, {"tools": [{"type": "function", **FUNCTION}]}),
        (TOOLS, {"tools": [{"type": "function", **FUNCTION, "strict": True}]}),
        (TOOLS, {**FLAT, "tool_choice": "none"}),
        (TOOLS, {**FLAT, "parallel_tool_calls": False}),
        ({}, {"reasoning": {"summary": "auto"}}),
        ({}, {"include": ["reasoning.encrypted_content"]}),
        ({}, {"instructions": "Be brief."}),
        ({"stop": ["x"]}, {}),
        ({"seed": 0}, {}),
        ({"n": 2}, {}),
        ({"logprobs": True, "top_logprobs": 0}, {"top_logprobs": 0}),
    ],
)
def test_what_is_asked_otherwise_differs(chat: dict[str, Any], responses: dict[str, Any]) -> None:
    """Defaults that are not the same in both APIs, and what only one of them has."""
    assert of_chat(**chat) != of_responses(**responses)


def test_odd_values_stand_as_they_are() -> None:
    """What no validation has refused is no reason to fail."""
    odd = of_responses(tools=["x", {"type": "web_search"}], tool_choice=7, text="x", reasoning=7, include="x")
    assert (odd["tools"], odd["tool_choice"]) == (["x", {"type": "web_search"}], 7)
    assert of_responses(tools=7)["tools"] == []
    assert of_responses(text={"format": "xml"})["format"] == "xml"
