"""Chat messages as items, and a response as an agent's next history shows it."""

from typing import Any

import pytest

from proxy.core.items import Item, Output
from proxy.frontends.chat_messages import echo, items
from proxy.frontends.chat_request import Untranslatable

JSON = dict[str, Any]
BREAK = {"mode": "explicit"}


def call(call_id: str = "c1", **changes: Any) -> JSON:
    """Return a call as an agent echoes it."""
    return {"id": call_id, "type": "function", "function": {"name": "ls", "arguments": "{}"}, **changes}


def custom(call_id: str = "c2") -> JSON:
    """Return a call of a custom tool."""
    return {"id": call_id, "type": "custom", "custom": {"name": "sh", "input": "ls"}}


def spoken(text: str) -> JSON:
    """Return what the model said, as an item."""
    return {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": text}]}


CALLED: JSON = {"role": "assistant", "tool_calls": [call()]}
RESULT: JSON = {"role": "tool", "tool_call_id": "c1", "content": "x"}
PICTURE: JSON = {"type": "image_url", "image_url": {"url": "data:x"}}
CALL: JSON = {"type": "function_call", "call_id": "c1", "name": "ls", "arguments": "{}"}
CUSTOM: JSON = {"type": "custom_tool_call", "call_id": "c2", "name": "sh", "input": "ls"}


@pytest.mark.parametrize("role", ["system", "developer", "user"])
def test_what_the_agent_says_is_an_item_of_the_input(role: str) -> None:
    """System messages too: the chain carries them, which it would not do for `instructions`."""
    assert items([{"role": role, "content": "x"}]) == [{"type": "message", "role": role, "content": "x"}]


@pytest.mark.parametrize(
    ("part", "wanted"),
    [
        ({"type": "text", "text": "x"}, {"type": "input_text", "text": "x"}),
        (
            {"type": "text", "text": "x", "prompt_cache_breakpoint": BREAK},
            {"type": "input_text", "text": "x", "prompt_cache_breakpoint": BREAK},
        ),
        (
            {"type": "image_url", "image_url": {"url": "data:x"}},
            {"type": "input_image", "image_url": "data:x", "detail": "auto"},
        ),
        (
            {"type": "image_url", "image_url": {"url": "data:x", "detail": "high"}},
            {"type": "input_image", "image_url": "data:x", "detail": "high"},
        ),
        (
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,x", "format": "image/png"}},
            {"type": "input_image", "image_url": "data:image/png;base64,x", "detail": "auto"},
        ),
        (
            {"type": "image_url", "image_url": {"url": "data:image/svg+xml,x", "format": "image/svg+xml"}},
            {"type": "input_image", "image_url": "data:image/svg+xml,x", "detail": "auto"},
        ),
        (
            {"type": "input_audio", "input_audio": {"data": "x", "format": "wav"}},
            {"type": "input_audio", "input_audio": {"data": "x", "format": "wav"}},
        ),
        ({"type": "file", "file": {"file_id": "f"}}, {"type": "input_file", "file_id": "f"}),
        (
            {"type": "file", "file": {"file_data": "d", "filename": "n"}},
            {"type": "input_file", "file_data": "d", "filename": "n"},
        ),
    ],
)
def test_parts_of_a_message(part: JSON, wanted: JSON) -> None:
    """Each has its counterpart."""
    message = {"role": "user", "content": [part]}
    assert items([message]) == [{"type": "message", "role": "user", "content": [wanted]}]


@pytest.mark.parametrize(
    ("message", "wanted"),
    [
        ({"content": "a"}, [spoken("a")]),
        ({"content": [{"type": "text", "text": "a"}]}, [spoken("a")]),
        ({"content": ""}, [spoken("")]),
        ({"content": "a", "tool_calls": [call(), custom()]}, [spoken("a"), CALL, CUSTOM]),
        ({"content": None, "tool_calls": [call()]}, [CALL]),
        ({"content": "", "tool_calls": [call()]}, [CALL]),
        ({"content": [], "tool_calls": [call()]}, [CALL]),
        ({"tool_calls": [call(type=None, index=0)]}, [CALL]),
        (
            {"tool_calls": [call(function={"name": "ls", "arguments": "{}", "parsed_arguments": {"a": 1}})]},
            [CALL],
        ),
        ({"content": "a", "provider_specific_fields": {"refusal": None}}, [spoken("a")]),
        ({"tool_calls": [call(provider_specific_fields={})]}, [CALL]),
        (
            {"content": "", "refusal": "no"},
            [{**spoken("a"), "content": [{"type": "refusal", "refusal": "no"}]}],
        ),
        (
            {"content": [{"type": "refusal", "refusal": "no"}]},
            [{**spoken("a"), "content": [{"type": "refusal", "refusal": "no"}]}],
        ),
        (
            {
                "content": "a",
                "annotations": [],
                "audio": None,
                "function_call": None,
                "parsed": {"a": 1},
                "reasoning": None,
                "reasoning_content": "",
                "reasoning_details": [],
                "refusal": None,
                "tool_calls": None,
            },
            [spoken("a")],
        ),
    ],
)
def test_an_answer_as_agents_repeat_it(message: JSON, wanted: list[JSON]) -> None:
    """Text before calls; what the model did not say is left out."""
    assert items([{"role": "assistant", **message}]) == wanted


@pytest.mark.parametrize(
    "beside",
    [
        {"annotations": []},
        {"annotations": [{"type": "url_citation", "url_citation": {"url": "https://example.org"}}]},
        {"role": "assistant", "refusal": None, "annotations": [], "tool_calls": [call()]},
    ],
)
def test_what_a_part_has_beside_its_text(beside: JSON) -> None:
    """The OpenAI Agents SDK for JavaScript keeps annotations there, or the rest of the message once more."""
    part = {"type": "text", "text": "a", **beside}
    assert items([{"role": "assistant", "content": [part], "tool_calls": [call()]}]) == [spoken("a"), CALL]


@pytest.mark.parametrize("name", ["__copilotMessageSource", "__copilotUserShellOutput"])
def test_what_an_agent_notes_for_itself_is_left_out(name: str) -> None:
    """Copilot CLI sends its notes along, once a session was rewound or resumed."""
    history: list[JSON] = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b", "tool_calls": [call()]},
        {"role": "tool", "tool_call_id": "c1", "content": "x"},
    ]
    noted = [{**message, name: {"kind": "tool", "name": "ls", "summary": "List"}} for message in history]
    assert items(noted) == items(history)


@pytest.mark.parametrize("name", ["reasoning", "reasoning_content", "reasoning_details"])
def test_what_another_provider_thought_is_not_left_out(name: str) -> None:
    """Some want it back, and no item of ours says it."""
    with pytest.raises(Untranslatable, match=f"messages.{name}"):
        items([{"role": "assistant", "content": "a", name: ["hm"]}])


def test_outputs_of_tools_go_with_their_calls() -> None:
    """The type of the call decides the type of its output."""
    history = [
        {"role": "assistant", "tool_calls": [call(), custom()]},
        {"role": "tool", "tool_call_id": "c2", "content": [{"type": "text", "text": "y"}]},
        {"role": "tool", "tool_call_id": "c1", "content": "x"},
    ]
    assert items(history)[2:] == [
        {"type": "custom_tool_call_output", "call_id": "c2", "output": [{"type": "input_text", "text": "y"}]},
        {"type": "function_call_output", "call_id": "c1", "output": "x"},
    ]


def test_a_tool_may_repeat_its_name() -> None:
    """Which the call has told already."""
    said = {"role": "assistant", "tool_calls": [call()]}
    answer = {"role": "tool", "tool_call_id": "c1", "content": "x"}
    assert items([said, {**answer, "name": "ls"}]) == items([said, answer])


def test_an_empty_refusal_is_none() -> None:
    """Agents that join the pieces of a stream begin with an empty text."""
    assert items([{"role": "assistant", "content": "a", "refusal": ""}]) == [spoken("a")]


@pytest.mark.parametrize(
    ("messages", "named"),
    [
        (None, "messages"),
        ({}, "messages"),
        ([], "messages"),
        (["x"], "messages.role"),
        ([{"content": "x"}], "messages.role"),
        ([{"role": "function", "name": "f", "content": "x"}], "messages.role"),
        ([{"role": ["user"], "content": "x"}], "messages.role"),
        ([{"role": "user", "name": "Ada", "content": "x"}], "messages.name"),
        ([{"role": "user", "content": None}], "messages.content"),
        ([{"role": "user", "content": ["x"]}], "messages.content"),
        ([{"role": "user", "content": [{"type": "video"}]}], "messages.content"),
        ([{"role": "user", "content": [{"type": ["text"], "text": "x"}]}], "messages.content"),
        (
            [{"role": "user", "content": [{"type": "text", "text": "x", "cache_control": {}}]}],
            "messages.content.cache_control",
        ),
        (
            [{"role": "user", "content": [{"type": "image_url", "image_url": "data:x"}]}],
            "messages.content.image_url",
        ),
        *(
            (
                [{"role": "user", "content": [{"type": "image_url", "image_url": {**picture, "format": kind}}]}],
                "messages.content.image_url.format",
            )
            for picture, kind in (
                ({"url": "data:image/png;base64,x"}, "image/jpeg"),
                ({"url": "data:image/png;base64,x"}, "image/p"),
                ({"url": "data:image/png;base64,x"}, ["image/png"]),
                ({"url": "https://example.org/x.png"}, "image/png"),
                ({"url": None}, "image/png"),
            )
        ),
        (
            [{"role": "user", "content": [{"type": "file", "file": {"file_url": "x"}}]}],
            "messages.content.file.file_url",
        ),
        ([{"role": "assistant", "content": None}], "messages.content"),
        ([{"role": "assistant", "content": "x", "audio": {"id": "a"}}], "messages.audio"),
        (
            [{"role": "assistant", "content": "x", "function_call": {"name": "f", "arguments": ""}}],
            "messages.function_call",
        ),
        ([{"role": "assistant", "content": "x", "name": "Ada"}], "messages.name"),
        (
            [{"role": "assistant", "content": "x", "provider_specific_fields": {"a": 1, "refusal": None}}],
            "messages.provider_specific_fields",
        ),
        (
            [{"role": "assistant", "content": "x", "provider_specific_fields": []}],
            "messages.provider_specific_fields",
        ),
        ([{"role": "assistant", "content": 1}], "messages.content"),
        ([{"role": "assistant", "content": ["x"]}], "messages.content"),
        (
            [{"role": "assistant", "content": [{"type": "text", "text": "x", "role": "user"}]}],
            "messages.content.role",
        ),
        (
            [{"role": "assistant", "content": [{"type": "text", "text": "x", "tool_calls": [call()]}]}],
            "messages.content.tool_calls",
        ),
        ([{"role": "user", "content": [{"type": "text", "text": "x", "role": "user"}]}], "messages.content.role"),
        ([{"role": "assistant", "content": [{"type": "thinking", "text": "x"}]}], "messages.content"),
        ([{"role": "assistant", "content": "x", "tool_calls": {}}], "messages.tool_calls"),
        ([{"role": "assistant", "tool_calls": ["x"]}], "messages.tool_calls"),
        ([{"role": "assistant", "tool_calls": [call(type="x")]}], "messages.tool_calls"),
        ([{"role": "assistant", "tool_calls": [call(type=[])]}], "messages.tool_calls"),
        (
            [
                {"role": "assistant", "tool_calls": [call()]},
                {"role": "tool", "tool_call_id": "c1", "name": "cat", "content": "x"},
            ],
            "messages.name",
        ),
        ([{"role": "assistant", "tool_calls": [call(1)]}], "messages.tool_calls"),  # type: ignore[arg-type]
        ([{"role": "assistant", "tool_calls": [call(custom={"name": "x"})]}], "messages.tool_calls"),
        ([{"role": "assistant", "tool_calls": [call(function=None)]}], "messages.tool_calls.function"),
        ([{"role": "assistant", "tool_calls": [call(function={"name": "x"})]}], "messages.tool_calls"),
        (
            [{"role": "assistant", "tool_calls": [call(extra_content={"a": 1})]}],
            "messages.tool_calls.extra_content",
        ),
        ([{"role": "tool", "tool_call_id": "c1", "content": "x"}], "messages.tool_call_id"),
        ([{"role": "tool", "content": "x"}], "messages.tool_call_id"),
        ([CALLED, RESULT, RESULT], "messages.tool_call_id"),
        ([CALLED, {"role": "user", "content": "x"}, RESULT], "messages.tool_calls"),
        ([{"role": "system", "content": [PICTURE]}], "messages.content"),
        ([{"role": "developer", "content": [PICTURE]}], "messages.content"),
    ],
)
def test_what_has_no_equal_is_named(messages: Any, named: str) -> None:
    """Upstream's own endpoint knows what to make of it."""
    with pytest.raises(Untranslatable) as caught:
        items(messages)
    assert str(caught.value) == named


def test_a_tool_is_answered_in_words() -> None:
    """Chat tools answer in text alone."""
    image = {"type": "image_url", "image_url": {"url": "data:x"}}
    with pytest.raises(Untranslatable):
        items(
            [
                {"role": "assistant", "tool_calls": [call()]},
                {"role": "tool", "tool_call_id": "c1", "content": [image]},
            ]
        )


THOUGHT: JSON = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "x"}


@pytest.mark.parametrize(
    ("output", "answer"),
    [
        ([spoken("a")], {"content": "a"}),
        ([THOUGHT, spoken("a"), THOUGHT, spoken("b")], {"content": "ab"}),
        ([CALL, spoken("a"), CUSTOM], {"content": "a", "tool_calls": [call(), custom()]}),
        ([spoken(""), CALL], {"content": None, "tool_calls": [call()]}),
        (
            [
                {
                    **spoken("a"),
                    "content": [{"type": "refusal", "refusal": "n"}, {"type": "refusal", "refusal": "o"}],
                }
            ],
            {"refusal": "no"},
        ),
    ],
)
def test_a_response_is_one_message_in_the_next_history(output: list[JSON], answer: JSON) -> None:
    """Its items, written the way the agent's message is read, are what the agent's message is known by."""
    told = tuple(Item.of(item) for item in items([{"role": "assistant", **answer}]))
    for each in echo(output):
        known = Output.of(each)
        if known.type != "reasoning":
            assert known.echoed_by(told) == 1
            told = told[1:]
    assert told == ()


def test_what_a_completion_cannot_show_stays_in_the_way() -> None:
    """So that no agent's account of it fits, and the next turn is sent in full."""
    search = {"type": "web_search_call", "id": "ws_1"}
    sound = {"type": "output_audio", "data": "x"}
    assert echo([spoken("a"), search]) == [spoken("a"), search]
    both = {**spoken("a"), "content": [*spoken("a")["content"], sound]}
    assert echo([both]) == [both]
    assert echo([{**spoken("a"), "content": "a"}, spoken("")]) == []
