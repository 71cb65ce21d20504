"""What a request adds to what upstream holds, and every reason to send it whole."""

from dataclasses import replace
from typing import Any

import orjson
import pytest
from echo import DROPS_REASONING, DROPS_TEXT, STYLES, echo
from said import JSON, answer, assistant, baseline, call, custom_call, reasoning, request, user

from proxy.core.delta import FIELDS, Baseline, Delta, Full, Mismatch, Reuse, TurnRequest, diff, reuse
from proxy.core.history import History, Outline
from proxy.core.items import Dropped, Item, Output

HISTORY = [{"role": "developer", "content": "Be brief."}, user("What is here?")]
CALLED = [reasoning("Look"), call()]
SPOKEN = [reasoning("Look"), assistant("I look.", phase="commentary"), call()]


def added(delta: Delta | Full) -> list[JSON]:
    """Return what a delta sends."""
    assert isinstance(delta, Delta), delta
    return [dict(item.raw) for item in delta.items]


def reason(found: Delta | Full) -> Mismatch | None:
    """Return why a request is not a delta."""
    return found.reason if isinstance(found, Full) else None


def test_only_what_follows_the_echo_is_sent() -> None:
    """History and output are what upstream holds; the rest is new, as the agent wrote it."""
    new = [answer(), user("Go on.")]
    known = baseline(HISTORY, *CALLED)
    found = diff(request(*HISTORY, *CALLED, *new), known)
    assert added(found) == new
    assert found == Delta(known, tuple(Item.of(item) for item in new))
    assert repr(found) == "<Delta resp_1 + 2>"


@pytest.mark.parametrize("dropped", ["none", "reasoning", "any"])
@pytest.mark.parametrize("style", STYLES)
def test_every_agent_continues_as_far_as_the_policy_allows(style: str, dropped: Dropped) -> None:
    """What an agent always rewrites never breaks its chain; what it leaves out does unless allowed."""
    sent = request(*HISTORY, *echo(style, SPOKEN), answer())
    found = diff(sent, baseline(HISTORY, *SPOKEN), dropped)
    if (style in DROPS_REASONING and dropped == "none") or (style in DROPS_TEXT and dropped != "any"):
        assert reason(found) is Mismatch.HISTORY_CHANGED
    else:
        assert added(found) == [answer()]


def test_qwen_leaves_out_reasoning_that_came_without_ciphertext() -> None:
    """Its echo continues where reasoning may be left out."""
    said = [reasoning("Look", encrypted_content=None), call()]
    sent = request(*HISTORY, *echo("qwen", said), answer())
    assert added(diff(sent, baseline(HISTORY, *said))) == [answer()]
    assert reason(diff(sent, baseline(HISTORY, *said), "none")) is Mismatch.HISTORY_CHANGED


def test_calls_that_an_agent_rewrites_as_text_are_sent_whole() -> None:
    """What smolagents makes of a call is not what the model said."""
    sent = request(*HISTORY, assistant("Calling tools: ls"), user("Observation: a.py"))
    for dropped in ("none", "reasoning", "any"):
        assert reason(diff(sent, baseline(HISTORY, *CALLED), dropped)) is Mismatch.HISTORY_CHANGED


def test_parallel_calls_and_their_outputs_continue() -> None:
    """Calls come back first, then every output."""
    calls = [reasoning("Both"), call(), custom_call()]
    outputs = [answer(), answer("call_2", kind="custom_tool_call_output")]
    assert added(diff(request(*HISTORY, *calls, *outputs), baseline(HISTORY, *calls))) == outputs


def test_a_long_conversation_continues_from_its_last_response() -> None:
    """The history with all its echoes is the prefix of the next turn."""
    history = [*HISTORY]
    for turn in range(5):
        said = [
            reasoning(str(turn), id=f"rs_{turn}", encrypted_content=str(turn)),
            call(call_id=str(turn), id=f"fc_{turn}"),
        ]
        known = baseline(history, *said)
        history += [*echo("opencode", said), answer(str(turn))]
        assert added(diff(request(*history), known)) == [answer(str(turn))]


EDITS = {
    "nothing new": [*HISTORY, *CALLED],
    "the same request again": HISTORY,
    "an earlier request again": HISTORY[:1],
    "nothing at all": [],
    "an item changed": [HISTORY[0], user("What is there?"), *CALLED, answer()],
    "one character of the first item": [
        {"role": "developer", "content": "Be brief!"},
        HISTORY[1],
        *CALLED,
        answer(),
    ],
    "an item removed": [HISTORY[1], *CALLED, answer()],
    "an item inserted": [*HISTORY, user("also"), *CALLED, answer()],
    "an item put first": [user("first"), *HISTORY, *CALLED, answer()],
    "items swapped": [HISTORY[1], HISTORY[0], *CALLED, answer()],
    "another role": [{"role": "system", "content": "Be brief."}, HISTORY[1], *CALLED, answer()],
    "rewound to before the response": [*HISTORY, user("Or rather:")],
    "the output swapped": [*HISTORY, call(), reasoning("Look"), answer()],
    "reasoning after the answer": [*HISTORY, call(), answer(), reasoning("Look"), user("x")],
    "a reference to reasoning after the answer": [*HISTORY, call(), answer(), {"id": "rs_1"}],
    "the call removed": [*HISTORY, reasoning("Look"), user("x")],
    "the call's arguments changed": [*HISTORY, reasoning("Look"), call("{}"), answer()],
    "the call's name changed": [*HISTORY, reasoning("Look"), call(name="cat"), answer()],
    "the call's id changed": [*HISTORY, reasoning("Look"), call(call_id="call_9"), answer("call_9")],
    "the call's type changed": [*HISTORY, reasoning("Look"), custom_call(call_id="call_1"), answer()],
    "another ciphertext": [*HISTORY, reasoning("Look", encrypted_content="gAAAAA9"), call(), answer()],
    "another summary": [*HISTORY, reasoning("Look away"), call(), answer()],
    "reasoning from elsewhere": [*HISTORY, reasoning(id="rs_9", encrypted_content=None), call(), answer()],
    "a reference to another item": [*HISTORY, {"type": "item_reference", "id": "rs_9"}, call(), answer()],
    "text added to the response": [*HISTORY, *CALLED[:1], assistant("Now:"), *CALLED[1:], answer()],
    "compacted": [{"type": "compaction", "encrypted_content": "gAAAAA8"}, answer()],
    "summarised": [HISTORY[0], user("The user asked what is here; the tool said a.py."), user("Go on.")],
}


@pytest.mark.parametrize("dropped", ["none", "reasoning", "any"])
@pytest.mark.parametrize("history", EDITS.values(), ids=EDITS)
def test_an_edited_history_is_sent_whole(history: list[JSON], dropped: Dropped) -> None:
    """Under no policy does an edit of any kind continue the chain."""
    assert diff(request(*history), baseline(HISTORY, *CALLED), dropped) == Full(Mismatch.HISTORY_CHANGED)


TEXT_EDITS = {
    "one character": [assistant("I Look."), call(), answer()],
    "another phase": [assistant("I look.", phase="final_answer"), call(), answer()],
    "shortened": [assistant("I"), call(), answer()],
    "another role": [{"role": "user", "content": [{"type": "output_text", "text": "I look."}]}, call(), answer()],
    "moved behind the call": [call(), assistant("I look."), answer()],
    "moved to the end": [call(), answer(), assistant("I look."), user("x")],
    "left out with the call": [user("Or rather:")],
}


@pytest.mark.parametrize("dropped", ["none", "reasoning", "any"])
@pytest.mark.parametrize("sent", TEXT_EDITS.values(), ids=TEXT_EDITS)
def test_an_edited_message_of_the_model_is_sent_whole(sent: list[JSON], dropped: Dropped) -> None:
    """Leaving text out may be allowed, but not rewriting or moving it."""
    known = baseline(HISTORY, assistant("I look.", phase="commentary"), call())
    assert diff(request(*HISTORY, *sent), known, dropped) == Full(Mismatch.HISTORY_CHANGED)


@pytest.mark.parametrize("dropped", ["none", "reasoning", "any"])
@pytest.mark.parametrize("said", [[reasoning("x")], [assistant("x")], [reasoning("x"), assistant("x")]])
def test_a_response_of_which_nothing_came_back_is_not_continued(said: list[JSON], dropped: Dropped) -> None:
    """An agent that has rewound to before a response looks like one that leaves all of it out."""
    sent = request(*HISTORY, user("Or rather:"))
    assert diff(sent, baseline(HISTORY, *said), dropped) == Full(Mismatch.HISTORY_CHANGED)


def test_a_response_without_items_is_continued_by_what_the_agent_says() -> None:
    """But not by model output: it may be of that very response, whose items upstream then never told."""
    known = baseline(HISTORY)
    assert added(diff(request(*HISTORY, user("x")), known)) == [user("x")]
    assert reason(diff(request(*HISTORY, assistant("x"), user("y")), known)) is Mismatch.HISTORY_CHANGED


def test_a_chain_may_begin_without_history() -> None:
    """The empty history is a prefix of every other, if what the model said comes back."""
    known = baseline([], assistant("Hello"))
    assert added(diff(request(assistant("Hello"), user("x")), known)) == [user("x")]
    assert reason(diff(request(user("x")), known)) is Mismatch.HISTORY_CHANGED


def test_what_a_later_turn_said_elsewhere_is_new() -> None:
    """Model output that upstream never saw is sent like anything else."""
    new = [answer(), assistant("Over HTTP", id="msg_9"), user("x")]
    for style in ("openai_node", "cline"):
        sent = request(*HISTORY, *echo(style, CALLED), *new)
        assert added(diff(sent, baseline(HISTORY, *CALLED))) == new


def test_references_stand_for_the_items_they_name() -> None:
    """An agent may refer to every item that upstream has."""
    references = [{"type": "item_reference", "id": item["id"]} for item in SPOKEN]
    assert added(diff(request(*HISTORY, *references, answer()), baseline(HISTORY, *SPOKEN), "none")) == [answer()]


def test_a_call_without_its_output_is_sent_whole() -> None:
    """Upstream refuses to go on without an output for each call."""
    calls = [call(), custom_call()]
    known = baseline(HISTORY, *calls)
    assert diff(request(*HISTORY, *calls, answer()), known) == Full(Mismatch.CALL_UNANSWERED)
    assert diff(request(*HISTORY, *calls, user("Stop.")), known) == Full(Mismatch.CALL_UNANSWERED)


def test_a_call_that_upstream_answers_itself_needs_no_output() -> None:
    """Nothing is missing where the tool ran on the far side."""
    search = {"type": "web_search_call", "id": "ws_1", "call_id": "x", "action": {"query": "x"}}
    assert added(diff(request(*HISTORY, search, user("x")), baseline(HISTORY, search))) == [user("x")]


def test_another_model_begins_another_chain() -> None:
    """The reason says so, even where settings differ too."""
    sent = request(*HISTORY, *CALLED, answer(), model="gpt-6", store=True)
    assert diff(sent, baseline(HISTORY, *CALLED)) == Full(Mismatch.MODEL_CHANGED)


MUST_MATCH = ["context_management", "store", "truncation"]  # beside the model; said here once more, for it decides
MAY_DIFFER = sorted(name for name in FIELDS if reuse(name) is Reuse.MAY_DIFFER)
UNLISTED = ["access_programs", "image", "moderation", "a_field_of_next_year"]


@pytest.mark.parametrize("name", [*MUST_MATCH, *UNLISTED])
@pytest.mark.parametrize(("then", "now"), [("a", "b"), ("a", None), (None, "b"), (True, 1), ({"a": None}, {})])
def test_a_field_that_must_match_begins_another_chain(name: str, then: Any, now: Any) -> None:
    """So does every field that nobody has listed."""
    known = baseline(HISTORY, *CALLED, **{name: then})
    sent = request(*HISTORY, *CALLED, answer(), **{name: now})
    assert diff(sent, known) == Full(Mismatch.SETTINGS_CHANGED)


@pytest.mark.parametrize("name", [*MUST_MATCH, *UNLISTED])
def test_null_and_absent_are_the_same_setting(name: str) -> None:
    """An agent that spells the default out does not break its chain."""
    absent = {"model": "gpt-5.5", "input": []}
    digests = {
        TurnRequest.of(body, (), model="gpt-5.5", stream=True, size=0).settings
        for body in (absent, {**absent, name: None})
    }
    assert len(digests) == 1


@pytest.mark.parametrize("name", [*MAY_DIFFER, "stream", "background"])
def test_a_field_that_is_sent_anew_may_differ(name: str) -> None:
    """The chain goes on whatever its value."""
    now: dict[str, Any] = {name: "now"}
    then: dict[str, Any] = {name: "then"}
    sent = request(*HISTORY, *CALLED, answer(), **now)
    assert added(diff(sent, baseline(HISTORY, *CALLED, **then))) == [answer()]


def test_the_order_of_keys_in_a_setting_does_not_matter() -> None:
    """Settings are compared as values."""
    sent = request(*HISTORY, *CALLED, answer(), context_management=[{"b": 1, "a": 2}])
    assert added(diff(sent, baseline(HISTORY, *CALLED, context_management=[{"a": 2, "b": 1}]))) == [answer()]


RESPONSE_CREATE = [
    "type",
    "access_programs",
    "background",
    "background_options",
    "context_management",
    "conversation",
    "generate",
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
    "stream_id",
    "stream_options",
    "temperature",
    "text",
    "tool_choice",
    "tools",
    "top_logprobs",
    "top_p",
    "truncation",
    "user",
]
"""Every field that openai-python 3.54.0 knows for `response.create` (protocol notes, section 2)."""


def test_every_field_of_the_protocol_has_a_meaning() -> None:
    """A name that FIELDS does not list has to match, and FIELDS lists nothing but names of the protocol."""
    assert set(RESPONSE_CREATE) - set(FIELDS) == {"access_programs", "image", "moderation"}
    assert set(FIELDS) - set(RESPONSE_CREATE) == {"client_metadata"}  # the ChatGPT backend's
    assert {name for name in FIELDS if reuse(name) is Reuse.MUST_MATCH} == {"model", *MUST_MATCH}
    assert all(reuse(name) is Reuse.MUST_MATCH for name in UNLISTED)


def test_what_decides_over_the_agents_state_is_not_ours() -> None:
    """These fields make packlight leave a request alone."""
    assert {name for name in FIELDS if reuse(name) is Reuse.NOT_OURS} == {
        "background",
        "background_options",
        "conversation",
        "generate",
        "previous_response_id",
        "prompt",
        "stream_id",
        "type",
    }
    assert {name for name in FIELDS if reuse(name) is Reuse.TRANSPORT} == {"stream"}
    assert {name for name in FIELDS if reuse(name) is Reuse.DIFFED} == {"input"}


def test_a_request_keeps_its_fields_in_a_fixed_order() -> None:
    """What goes over the WebSocket is sorted, with the agent's own values, nulls too."""
    sent = request(
        user("x"), tools=[], instructions=None, stream=True, background=False, previous_response_id=None
    )
    assert list(sent.fields.items()) == [
        ("instructions", None),
        ("model", "gpt-5.5"),
        ("store", False),
        ("tools", []),
    ]
    assert sent.has_nulls
    assert not request(user("x")).has_nulls


def test_metadata_that_agents_shuffle_keeps_a_fixed_order() -> None:
    """Of client_metadata upstream shows nothing to anybody; what it shows is as the agent wrote it."""
    shuffled = {"turn": {"b": 1, "a": 2}, "session": "s"}
    sent = request(user("x"), client_metadata=shuffled, metadata=shuffled).fields
    assert orjson.dumps(sent["client_metadata"]) == b'{"session":"s","turn":{"b":1,"a":2}}'
    assert orjson.dumps(sent["metadata"]) == orjson.dumps(shuffled)
    assert request(user("x"), client_metadata=None).fields["client_metadata"] is None


def test_requests_for_one_purpose_are_of_one_kind() -> None:
    """Whatever their history and their names; any other setting makes another kind."""
    named: dict[str, Any] = {"prompt_cache_key": "k", "client_metadata": {"turn": "1"}, "metadata": {"for": "s"}}
    kind = request(user("x"), tools=[], **named).kind
    assert request(user("y"), assistant("z"), tools=[], prompt_cache_key="l").kind == kind
    assert request(user("x"), tools=[], text={"verbosity": "low"}).kind != kind
    assert request(user("x"), tools=[], model="gpt-5.5-mini").kind != kind


def test_what_is_asked_for_is_told_by_the_last_item_alone() -> None:
    """All before that may have been read with an earlier request, and is not read again."""
    whole = request(*HISTORY, user("Go on."))

    def read() -> list[JSON]:
        raise AssertionError("read again")

    before = request(*HISTORY)
    known = History(before.marks, tuple(whole.items[len(HISTORY) :]), outline=before.outline, read=read)
    assert replace(whole, items=known).errand == whole.errand
    assert request(user("Go on.")).errand == whole.errand
    assert request(*HISTORY).errand != whole.errand
    assert request().errand not in (whole.errand, request(temperature=0.5).errand)


def test_a_conversation_may_be_over_where_nothing_was_called() -> None:
    """It began with the request if the agent's history shows no answer, and is brief up to what DEFLATE sees."""
    asked = request(user("x"))
    done = baseline([user("x")], assistant("Done"))
    assert (done.kind, done.began, done.brief) == (asked.kind, True, True)
    working = baseline([user("x")], reasoning(), call())
    assert (working.kind, working.began, working.brief) == (None, True, True)
    later = baseline([user("x"), assistant("Done"), user("y")], assistant("Done"))
    assert (later.kind, later.began, later.brief) == (asked.kind, False, False)
    room = 2**15 - len(orjson.dumps([user("")]))
    assert baseline([user("x" * room)], assistant("Done")).brief
    assert not baseline([user("x" * (room + 1))], assistant("Done")).brief


@pytest.mark.parametrize(
    ("choice", "demanded"),
    [
        (None, False),
        ("auto", False),
        ({"type": "allowed_tools", "mode": "auto", "tools": []}, False),
        ("required", True),
        ({"type": "function", "name": "ls"}, True),
        ({"type": "allowed_tools", "mode": "required", "tools": []}, True),
    ],
)
def test_a_call_that_the_model_had_to_make_may_be_the_end(choice: Any, *, demanded: bool) -> None:
    """One that it chose to make is to be answered."""
    asked = request(user("x"), tool_choice=choice)
    assert asked.has_to_call is demanded
    known = baseline([user("x")], call(), tool_choice=choice)
    assert (known.kind, known.errand) == ((asked.kind, asked.errand) if demanded else (None, None))


def test_a_chain_is_as_brief_as_it_began() -> None:
    """Whatever the agent does in its conversation, until it is dear to send again."""
    began = baseline(HISTORY, *CALLED)
    later = [*HISTORY, *CALLED, answer(output="x" * 2**15)]
    assert baseline(later, assistant("Done"), parent=began).brief
    assert not baseline(later, assistant("Done"), parent=replace(began, brief=False)).brief
    assert not baseline([*later, user("x" * 2**18)], assistant("Done"), parent=began).brief


def test_a_conversations_beginning_names_it() -> None:
    """The root reaches to the first user message; without one it is the whole history."""
    assert request(*HISTORY).root == request(*HISTORY, *CALLED, answer()).root
    assert request(*HISTORY).root != request(HISTORY[0], user("Something else")).root
    assert request(HISTORY[0]).root == request(HISTORY[0]).marks[-1]
    assert request(*HISTORY).session == request(*HISTORY).root.hex()[:8]


class CopiedItems(tuple[Item, ...]):
    """Items that count how many of them were copied into another tuple, in *copied*."""

    __slots__ = ()
    copied = 0

    def __getitem__(self, index: Any) -> Any:
        found = super().__getitem__(index)
        if not isinstance(index, slice):
            return found
        type(self).copied += len(found)
        return type(self)(found)


def test_an_old_baseline_costs_no_more_than_a_look_at_each_item(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the agent leaves out is looked for in all that follows; a long history is not copied for that."""
    monkeypatch.setattr(CopiedItems, "copied", 0)
    new = [answer(), *(user(str(number)) for number in range(500))]
    sent = request(*HISTORY, call(), *new)
    found = diff(replace(sent, items=CopiedItems(sent.items)), baseline(HISTORY, *CALLED))
    assert added(found) == new
    assert CopiedItems.copied < 3 * len(sent.items)


def test_a_conversation_keeps_what_was_asked_first() -> None:
    """The first user message, whatever stands before it or follows; without one it is the whole history."""
    asked = request(*HISTORY).asked
    assert asked == request(*HISTORY, *CALLED, answer(), user("And now?")).asked
    assert asked == request({"role": "developer", "content": "You are gpt-6"}, *HISTORY[1:]).asked
    assert asked != request(HISTORY[0], user("Something else")).asked
    assert request(HISTORY[0]).asked == request(HISTORY[0]).marks[-1]


@pytest.mark.parametrize("prefix", range(5))
def test_a_history_read_in_two_parts_has_the_same_outline(prefix: int) -> None:
    """Wherever the first user message stands."""
    items = [Item.of(raw) for raw in (HISTORY[0], *HISTORY, *CALLED)]
    parts = Outline.of(items[:prefix]).then(Outline.of(items[prefix:]))
    assert parts == Outline.of(items)


def test_a_history_with_model_output_had_turns_before() -> None:
    """Any item that a model writes shows it."""
    assert not request(*HISTORY).has_model_output
    assert request(*HISTORY, *CALLED).has_model_output


@pytest.mark.parametrize(
    ("said", "is_plain"),
    [
        (call(), True),
        ({"type": "custom_tool_call", "call_id": "c", "name": "n", "input": ""}, True),
        ({"type": "message", "role": "assistant", "content": "b"}, True),
        ({"role": "assistant", "content": "b"}, False),
        ({"type": "item_reference", "id": "msg_1"}, False),
        ({"type": "reasoning", "summary": []}, False),
        (user("b"), False),
    ],
)
def test_a_history_that_shows_calls_or_messages_of_the_model_is_plainly_whole(
    said: JSON, *, is_plain: bool
) -> None:
    """By their types alone, which is what gateways look for."""
    assert request(user("a"), said, user("c")).is_plainly_whole is is_plain


def test_a_baseline_shows_its_size() -> None:
    """For the person debugging at night."""
    assert repr(baseline(HISTORY, *CALLED)) == "<Baseline resp_1: 2 items, 2 outputs>"
    assert repr(Full(Mismatch.BUSY)) == "<Full busy>"


def test_a_baseline_is_made_of_the_request_and_its_outputs() -> None:
    """It has the request's history, model and settings, and keeps none of the content."""
    sent = request(*HISTORY)
    outputs = tuple(Output.of(item) for item in CALLED)
    known = Baseline.after(sent, "resp_7", outputs, parent=replace(baseline([user("a")]), turns=2))
    assert (known.length, known.mark, known.asked) == (2, sent.marks[2], sent.asked)
    assert (known.model, known.settings, known.outputs, known.turns) == ("gpt-5.5", sent.settings, outputs, 3)
    assert "Look" not in str(known.outputs)
