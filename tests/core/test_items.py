"""When two items are the same: the agent's own from turn to turn, and the model's in the agent's words."""

from typing import Any

import pytest
from echo import DROPS_REASONING, DROPS_TEXT, STYLES, echo
from said import JSON, answer, assistant, call, custom_call, reasoning, user

from proxy.core.items import START, Item, Output, arguments, contradicts, digest, item_type, marks, parts


def same_item(one: JSON, other: JSON) -> bool:
    """Whether an agent that sends *other* where it sent *one* has changed nothing."""
    return marks([Item.of(one)]) == marks([Item.of(other)])


def echoed(output: JSON, *sent: JSON) -> int:
    """Return how many of the items *sent* are an echo of *output*."""
    return Output.of(output).echoed_by([Item.of(item) for item in sent])


def without(item: JSON, *names: str) -> JSON:
    """Return *item* without some of its fields."""
    return {name: value for name, value in item.items() if name not in names}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (user("hi"), dict(reversed(user("hi").items()))),
        (user("hi"), {"role": "user", "content": "hi"}),
        (user("hi"), {**user("hi"), "id": "msg_1", "status": "completed"}),
        (user("hi"), {**user("hi"), "phase": None}),
        (assistant("hi"), {"role": "assistant", "content": "hi"}),
        (assistant("hi"), assistant("hi", content=[{"type": "output_text", "text": "hi", "logprobs": None}])),
        (answer(output="x"), answer(output=[{"type": "input_text", "text": "x"}])),
        (call(), without(call(), "id", "status")),
        (custom_call(), {**custom_call(), "id": "other", "caller": None}),
        (reasoning("a"), {**reasoning("a"), "content": None}),
        ({"id": "rs_1"}, {"id": "rs_1", "type": None}),
    ],
)
def test_what_carries_no_meaning_does_not_change_an_item(one: JSON, other: JSON) -> None:
    """Ids, statuses, nulls, key order, and one text as string or part leave the mark as it is."""
    assert same_item(one, other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (user("hi"), user("Hi")),
        (user("hi"), user("hi ")),
        (user("é"), user("e\u0301")),
        (user("hi"), {**user("hi"), "role": "developer"}),
        (user("hi"), {**user("hi"), "unheard_of": 1}),
        (user("hi"), {**user("hi"), "content": [*user("hi")["content"], *user("")["content"]]}),
        (assistant("hi", phase="commentary"), assistant("hi", phase="final_answer")),
        (assistant("hi", phase="commentary"), assistant("hi")),
        (answer(), answer(call_id="call_2")),
        (answer(output="1"), answer(output=1)),
        (answer(output=[1]), answer(output=[2])),
        (call(), call('{"path": "."}')),
        (call(), call(name="rm")),
        (custom_call(), custom_call("rm")),
        (reasoning("a"), reasoning("b")),
        (reasoning("a"), reasoning("a", id="rs_2")),
        (reasoning("a"), reasoning("a", encrypted_content="gAAAAA2")),
        ({"type": "item_reference", "id": "a"}, {"type": "item_reference", "id": "b"}),
        ({"type": "additional_tools", "tools": [1]}, {"type": "additional_tools", "tools": [1, 2]}),
        ({"type": "additional_tools", "tools": [1]}, {"type": "additional_tools", "tools": [1.0]}),
    ],
)
def test_any_other_change_makes_another_item(one: JSON, other: JSON) -> None:
    """An agent's own history comes back to the byte, so everything else counts as an edit."""
    assert not same_item(one, other)


@pytest.mark.parametrize(
    ("raw", "kind"),
    [
        ({"type": "reasoning"}, "reasoning"),
        ({"role": "user"}, "message"),
        ({"role": "user", "type": None}, "message"),
        ({"id": "msg_1"}, "item_reference"),
        ({"id": "msg_1", "type": None}, "item_reference"),
        ({"id": "msg_1", "summary": []}, ""),
        ({"type": 1, "role": "user"}, ""),
        ({}, ""),
    ],
)
def test_an_item_may_leave_out_its_type(raw: JSON, kind: str) -> None:
    """A bare role makes a message, a bare id a reference, and nothing else is guessed."""
    assert item_type(raw) == kind
    assert Item.of(raw).type == kind


@pytest.mark.parametrize(
    ("raw", "from_model"),
    [
        (assistant("x"), True),
        (reasoning(), True),
        (call(), True),
        (custom_call(), True),
        ({"id": "rs_1"}, True),
        ({"type": "compaction"}, True),
        ({"type": "web_search_call"}, True),
        (user("x"), False),
        (answer(), False),
        ({"type": "compaction_trigger"}, False),
    ],
)
def test_an_item_tells_whether_a_model_wrote_it(raw: JSON, from_model: bool) -> None:  # noqa: FBT001
    """What only a model writes is known by its type, messages by their role."""
    assert Item.of(raw).from_model is from_model


@pytest.mark.parametrize(
    ("raw", "call_id"),
    [
        (answer(), "call_1"),
        (answer(kind="custom_tool_call_output"), "call_1"),
        ({"type": "function_call_output", "call_id": 1}, None),
        ({"type": "function_call_output"}, None),
        (call(), None),
    ],
)
def test_an_output_answers_the_call_that_it_names(raw: JSON, call_id: str | None) -> None:
    """Only outputs answer, and only what they name."""
    assert Item.of(raw).answers == call_id


def test_each_prefix_of_a_history_has_its_mark() -> None:
    """Equal prefixes have equal marks; order counts, and the empty history has one too."""
    one, two = Item.of(user("1")), Item.of(user("2"))
    assert marks([]) == (START,)
    assert marks([one, two])[:2] == marks([one])
    assert marks([one, two])[2] != marks([two, one])[2]
    assert len(set(marks([one, one, one]))) == 4


def test_a_digest_does_not_depend_on_key_order() -> None:
    """Fingerprints are of values, not of their spelling."""
    assert digest({"a": 1, "b": [2]}) == digest({"b": [2], "a": 1})
    assert digest(1) != digest("1")


def test_an_item_and_an_output_show_no_content() -> None:
    """What may land in a log names the type and a few digits."""
    assert repr(Item.of(user("secret"))) == f"<Item message {marks([Item.of(user('secret'))])[1].hex()[:8]}>"
    assert repr(Output.of(assistant("secret"))).startswith("<Output message ")
    assert "secret" not in repr(Output.of(assistant("secret")))


@pytest.mark.parametrize("content", [None, 7, {"a": 1}])
def test_content_of_an_odd_shape_stays_as_it_is(content: Any) -> None:
    """What is neither text nor parts is compared as a value."""
    assert parts(content, "output_text") == content


def test_parts_of_an_odd_shape_stay_as_they_are() -> None:
    """A part that is no object is compared as a value."""
    assert parts(["x", {"text": "y", "a": None}], "output_text") == ["x", {"text": "y"}]


OUTPUTS: dict[str, list[JSON]] = {
    "call": [reasoning("Look", "around"), call('{"path": ".", "depth": 1.0, "name": "\\u00e9"}')],
    "parallel calls": [reasoning("Both"), call(), custom_call(), call(id="fc_3", call_id="call_3")],
    "text": [reasoning("Done", id="rs_2"), assistant("All is well.", phase="final_answer")],
    "text and call": [reasoning("So"), assistant("I look.", phase="commentary"), call()],
    "two thoughts": [
        reasoning("a"),
        call(),
        reasoning("b", id="rs_2", encrypted_content="gAAAAA2"),
        custom_call(),
    ],
}


@pytest.mark.parametrize("said", OUTPUTS.values(), ids=OUTPUTS)
@pytest.mark.parametrize("style", STYLES)
def test_every_agents_echo_is_known_again(style: str, said: list[JSON]) -> None:
    """Each output is found in the agent's words, in order, but for what that agent leaves out."""
    left = [Item.of(item) for item in echo(style, said)]
    missing = set()
    for item in said:
        output = Output.of(item)
        taken = output.echoed_by(left)
        if not taken:
            missing.add(output.type)
        left = left[taken:]
    assert left == []
    expected = {"reasoning"} if style in DROPS_REASONING else set()
    if style in DROPS_TEXT and any(item["type"] == "message" for item in said):
        expected.add("message")
    assert missing == expected


def test_agents_do_not_change_the_items_they_echo() -> None:
    """A style works on a copy."""
    said = [reasoning("a"), assistant("b"), call()]
    for style in STYLES:
        echo(style, said)
    assert said == [reasoning("a"), assistant("b"), call()]


@pytest.mark.parametrize(
    "sent",
    [
        reasoning("a"),
        reasoning("a", encrypted_content=None),
        reasoning("a", encrypted_content=""),
        reasoning(encrypted_content=None),
        reasoning("a", id=None),
        reasoning("a", id="rs_of_the_agent"),
        without(reasoning("a"), "id", "summary"),
        {"type": "item_reference", "id": "rs_1"},
        {"id": "rs_1"},
    ],
)
def test_reasoning_is_known_by_its_ciphertext_or_else_its_id(sent: JSON) -> None:
    """Either identifies it, with the summary that was told, or none."""
    assert echoed(reasoning("a"), sent) == 1


@pytest.mark.parametrize(
    "sent",
    [
        reasoning("a", encrypted_content="gAAAAA2"),
        reasoning("a", id="rs_2", encrypted_content=None),
        reasoning("a", id=None, encrypted_content=None),
        reasoning("b"),
        reasoning("a", "b"),
        reasoning("a", content="the agent's own"),
        {"type": "item_reference", "id": "rs_2"},
        {"type": "compaction", "id": "rs_1", "encrypted_content": "gAAAAA1"},
        user("a"),
    ],
)
def test_reasoning_that_was_edited_is_not_an_echo(sent: JSON) -> None:
    """Another ciphertext, another id without one, another summary: the agent's own version."""
    assert echoed(reasoning("a"), sent) == 0


def test_reasoning_without_an_identity_is_never_an_echo() -> None:
    """Where upstream gave neither id nor ciphertext there is nothing to know it by."""
    bare = {"type": "reasoning", "summary": []}
    assert echoed(bare, bare) == 0
    assert echoed(bare, {"type": "item_reference"}) == 0


def test_a_ciphertext_that_upstream_never_gave_is_refused() -> None:
    """The right id does not vouch for a blob where upstream sent none."""
    assert echoed(reasoning("a", encrypted_content=None), reasoning("a")) == 0


def test_either_ciphertext_of_one_item_is_right() -> None:
    """The terminal event may seal reasoning anew, and agents keep the one or the other."""
    output = Output.of(reasoning("a")).sealed(reasoning("a", encrypted_content="gAAAAA2"))
    for blob, known in (("gAAAAA1", 1), ("gAAAAA2", 1), ("gAAAAA3", 0)):
        assert output.echoed_by([Item.of(reasoning("a", encrypted_content=blob))]) == known


def test_reasoning_may_come_back_in_several_items() -> None:
    """An item for each part of the summary is one echo; a part too few, too many or changed is none."""
    said = reasoning("a", "b", "c")
    pieces = [reasoning("a"), reasoning("b"), reasoning("c")]
    assert echoed(said, *pieces, user("next")) == 3
    assert echoed(said, reasoning("a", "b"), reasoning("c")) == 2
    assert echoed(said, *pieces[:2]) == 0
    assert echoed(said, *pieces[:2], user("next")) == 0
    assert echoed(said, reasoning("a"), reasoning("x"), reasoning("c")) == 0
    assert echoed(said, reasoning("a"), reasoning(), reasoning("b"), reasoning("c")) == 0
    assert echoed(said, reasoning("a"), reasoning("b", id="rs_2", encrypted_content="gAAAAA2")) == 0
    aloud = {"content": [{"type": "reasoning_text", "text": "t"}]}
    assert echoed({**said, **aloud}, *pieces[:2], reasoning("c", **aloud)) == 3
    assert echoed({**said, **aloud}, reasoning("a", **aloud), *pieces[1:]) == 0  # the text was said last


def test_an_item_sent_twice_is_echoed_once() -> None:
    """The second copy is the agent's own addition."""
    assert echoed(reasoning("a"), reasoning("a"), reasoning("a")) == 1
    assert echoed(reasoning(), reasoning(), reasoning()) == 1
    assert echoed(assistant("x"), assistant("x"), assistant("x")) == 1


def test_readable_reasoning_counts_as_told() -> None:
    """Reasoning text (open models) is compared like the summary, as a list or as one value."""
    said = reasoning("a", content=[{"type": "reasoning_text", "text": "t"}])
    assert echoed(said, said) == 1
    assert echoed(said, reasoning("a")) == 0
    assert echoed(said, without(said, "summary", "content")) == 1
    assert echoed({**said, "content": "t"}, {**said, "content": "t"}) == 1


def test_a_compaction_is_known_by_its_ciphertext() -> None:
    """Another blob is another compaction."""
    compaction = {"type": "compaction", "id": "cmp_1", "encrypted_content": "gAAAAA1"}
    assert echoed(compaction, without(compaction, "id")) == 1
    for blob in ("gAAAAA2", "", None, ["gAAAAA1"]):
        assert echoed(compaction, {**compaction, "encrypted_content": blob}) == 0
    assert not Output.of(compaction).may_be_dropped("any")


@pytest.mark.parametrize(
    ("content", "same"),
    [
        ("ab", True),
        ([{"type": "output_text", "text": "ab"}], True),
        ([{"type": "output_text", "text": "a"}, {"type": "output_text", "text": "b", "annotations": [1]}], True),
        ([{"type": "output_text", "text": "b"}, {"type": "output_text", "text": "a"}], False),
        ([{"type": "input_text", "text": "ab"}], False),
        ([{"type": "output_text", "text": "ab", "unheard_of": 1}], False),
        ([{"type": "output_text", "text": 1}], False),
        ([{"type": "refusal", "refusal": "ab"}], False),
        (["ab"], False),
        ("ab ", False),
        ([], False),
        (None, False),
    ],
)
def test_a_message_is_its_text(content: Any, same: bool) -> None:  # noqa: FBT001
    """Neighbouring text parts are one text; anything else has to be equal."""
    said = assistant("", content=[{"type": "output_text", "text": "a"}, {"type": "output_text", "text": "b"}])
    assert echoed(said, assistant("", content=content)) == same


def test_a_refusal_is_compared_as_a_part() -> None:
    """A refusal comes back as one, between texts too."""
    content = [{"type": "output_text", "text": "a"}, {"type": "refusal", "refusal": "no"}]
    assert echoed(assistant("", content=content), assistant("", content=content)) == 1
    assert echoed(assistant("", content=content), assistant("ano")) == 0


@pytest.mark.parametrize("said", [assistant("a"), reasoning("a"), reasoning("a", type="compaction")])
def test_a_field_that_the_agent_added_does_not_go_unsaid(said: JSON) -> None:
    """A delta would leave it out. One that upstream gave may come back, or stay away, but not change."""
    assert echoed(said, {**said, "recipient": "x"}) == 0
    assert echoed(said, {**said, "recipient": None, "internal_chat_message_metadata_passthrough": {}}) == 1
    given = {**said, "recipient": "x"}
    assert echoed(given, given) == 1
    assert echoed(given, said) == 1
    assert echoed(given, {**said, "recipient": "y"}) == 0
    assert Output.of(said).sealed(given).echoed_by([Item.of(given)]) == 1


def test_another_role_does_not_echo_the_model() -> None:
    """The same words from the user are the user's."""
    assert echoed(assistant("a"), {"role": "user", "content": [{"type": "output_text", "text": "a"}]}) == 0


def test_a_phase_may_be_left_out_but_not_changed() -> None:
    """The phase of a message reaches the model when it is replayed."""
    said = assistant("a", phase="commentary")
    assert echoed(said, assistant("a")) == 1
    assert echoed(said, said) == 1
    assert echoed(said, assistant("a", phase="final_answer")) == 0
    assert echoed(assistant("a"), said) == 0
    assert echoed(assistant("a", phase=1), said) == 0


@pytest.mark.parametrize(
    ("sent", "same"),
    [
        (call('{ "path" : "." }'), 1),
        (call(id="fc_call_1", status=None, caller=None, namespace=None), 1),
        (call(internal_chat_message_metadata_passthrough={"turn_id": "1"}), 1),
        (call(namespace="mine"), 0),
        (call('{"path":".."}'), 0),
        (call(name="rm"), 0),
        (call(call_id="call_2"), 0),
        (custom_call(), 0),
        ({"type": "item_reference", "id": "fc_1"}, 1),
    ],
)
def test_a_call_is_its_name_its_id_and_its_arguments(sent: JSON, same: int) -> None:
    """How the arguments are written does not matter; everything else that has a value does."""
    assert echoed(call(), sent) == same


def test_other_calls_are_compared_whole() -> None:
    """Types without rules of their own match but for id and status."""
    search = {"type": "web_search_call", "id": "ws_1", "status": "completed", "action": {"query": "x"}}
    assert echoed(search, without(search, "id", "status")) == 1
    assert echoed(search, {**search, "action": {"query": "y"}}) == 0


def test_the_id_of_what_is_neither_said_nor_called_is_not_another() -> None:
    """An agent approves a request by its id, so one with another id is not what upstream holds."""
    asked = {"type": "mcp_approval_request", "id": "mcpr_1", "name": "rm", "arguments": "{}", "server_label": "s"}
    assert echoed(asked, asked) == 1
    assert echoed(asked, {**asked, "id": None}) == 1
    assert echoed(asked, {**asked, "id": "mcpr_2"}) == 0
    assert echoed(call(), call(id="fc_2")) == echoed(assistant("a"), assistant("a", id="msg_2")) == 1


def test_nothing_echoes_nothing() -> None:
    """At the end of the history there is no echo."""
    assert echoed(assistant("a")) == 0


@pytest.mark.parametrize(
    ("raw", "allowed"),
    [(reasoning(), ("reasoning", "any")), (assistant("a"), ("any",)), (call(), ()), (custom_call(), ())],
)
def test_the_policy_says_what_an_agent_may_leave_out(raw: JSON, allowed: tuple[str, ...]) -> None:
    """Reasoning, or messages too, but never a call."""
    output = Output.of(raw)
    assert tuple(policy for policy in ("none", "reasoning", "any") if output.may_be_dropped(policy)) == allowed


def test_only_calls_the_agent_executes_need_an_answer() -> None:
    """A call that upstream runs itself has no call_id for us."""
    assert Output.of(call()).call_id == "call_1"
    assert Output.of(custom_call()).call_id == "call_2"
    assert Output.of(call(call_id=1)).call_id is None
    assert Output.of({"type": "mcp_call", "call_id": "call_1"}).call_id is None


def test_an_item_is_known_by_its_id_or_else_by_what_it_says() -> None:
    """If both have ids, they agree."""
    streamed = Output.of(assistant("a"))
    assert streamed.is_item(assistant("a, in other words"))
    assert not streamed.is_item(assistant("a", id="msg_2"))
    assert not streamed.is_item(call(id="msg_1"))
    assert streamed.is_item(assistant("a", id=None))
    assert not streamed.is_item(assistant("b", id=None))
    nameless = Output.of(assistant("a", id=None))
    assert nameless.is_item(assistant("a"))
    assert not nameless.is_item(assistant("b"))


@pytest.mark.parametrize(
    ("account", "other", "differ"),
    [
        (assistant("a"), assistant("b"), True),
        (assistant("a"), assistant("a", phase="final", content="a"), False),
        (assistant("a"), assistant("a", content=[{"type": "output_text", "text": "a", "new": 1}]), False),
        (assistant("a"), assistant("a", content=[]), False),
        (assistant("a"), assistant("a", content=[{"type": "refusal", "refusal": "no"}]), True),
        (call("{}"), call('{"path": "."}'), True),
        (call('{"path":"."}'), call('{"path": "."}', namespace="n"), False),
        (call(), call(name="other"), True),
        (custom_call(), custom_call(input="other"), True),
        (reasoning("Look"), reasoning("Look again"), False),
    ],
)
def test_two_accounts_of_an_item_contradict_each_other_in_what_they_say(
    account: JSON, other: JSON, *, differ: bool
) -> None:
    """What is only told of it may differ, and one of them may be empty."""
    assert contradicts(account, other) is contradicts(other, account) is differ


EQUAL_ARGUMENTS = [
    ('{"a":1}', ' { "a" : 1 } '),
    ('{"a":1,"b":2}', '{"b":2,"a":1}'),
    ('{"a":{"b":1,"c":2}}', '{"a":{"c":2,"b":1}}'),
    ('{"a":1.0}', '{"a":1}'),
    ('{"a":1e2}', '{"a":100}'),
    ('{"a":-0.0}', '{"a":0}'),
    ('{"a":0.10}', '{"a":0.1}'),
    ('{"a":1e16}', '{"a":1E+16}'),
    ('{"a":9007199254740992}', '{"a": 9007199254740992}'),
    ('{"a":"\\u00e9\\/\\n"}', '{"a":"é/\\u000a"}'),
    ('{"\\u0061":true}', '{"a":true}'),
    ("[1.0,null]", "[1, null]"),
    ("", "{}"),
    ("not json", "not json"),
]


@pytest.mark.parametrize(("one", "other"), EQUAL_ARGUMENTS)
def test_arguments_that_say_the_same_are_equal(one: str, other: str) -> None:
    """Spaces, escapes, key order and the spelling of a number are the agent's serialiser's."""
    assert arguments(one) == arguments(other)


DIFFERENT_ARGUMENTS = [
    ('{"a":1}', '{"a":2}'),
    ('{"a":1}', '{"a":"1"}'),
    ('{"a":1}', '{"a":true}'),
    ('{"a":0}', '{"a":false}'),
    ('{"a":null}', "{}"),
    ("[1,2]", "[2,1]"),
    ('{"a":1,"a":2}', '{"a":2}'),
    ('{"a":1,"\\u0061":1}', '{"a":1}'),
    ('{"a":9007199254740993}', '{"a":9007199254740992}'),
    ('{"a":9007199254740993}', '{"a": 9007199254740993}'),
    ('{"a":123456789012345678901234567890}', '{"a":123456789012345678901234567891}'),
    ('{"a":123456789012345678901234567890}', '{"a":1.2345678901234568e+29}'),
    ('{"a":NaN}', '{"a":null}'),
    ('{"a":Infinity}', '{"a":null}'),
    ('{"a":1e400}', '{"a":null}'),
    ('{"a":1e400}', '{"a":1e500}'),
    ('{"a":-1e400}', '{"a":1e400}'),
    ('{"a":"\\ud800"}', '{"a":"\\ud801"}'),
    ('{"a":"é"}', '{"a":"e\u0301"}'),
    ('{"a":', '{"a": '),
    ("not json", "not  json"),
    ("not json", '"not json"'),
    ("[" * 3000 + "]" * 3000, "[" * 3000 + " " + "]" * 3000),
    ("1" * 5000, "1" * 5000 + " "),
]


@pytest.mark.parametrize(("one", "other"), DIFFERENT_ARGUMENTS, ids=range(len(DIFFERENT_ARGUMENTS)))
def test_arguments_that_may_say_something_else_differ(one: str, other: str) -> None:
    """What not every parser keeps unharmed is compared as text."""
    assert arguments(one) != arguments(other)


def test_arguments_that_are_no_text_are_compared_as_values() -> None:
    """A value is not the text that would spell it."""
    assert arguments({"a": 1}) == arguments({"a": 1})
    assert arguments({"a": 1}) != arguments('{"a":1}')
    assert arguments(None) != arguments("")
