"""Between Chat Completions and Responses nothing is lost: mistakes in the translation show, answers come back."""

from collections.abc import Iterator
from typing import Any

import chat_meaning
import orjson
import pytest
from chat_agents import Heard, streamed, whole
from chat_world import ChatWorld
from hypothesis import given, settings
from hypothesis import strategies as st
from meaning import Raw, agree
from model_upstream import Answer, ModelConnection
from world import CASES_A_WORLD, chosen, play

from proxy.core.events import ServerEvent
from proxy.frontends import chat_answer, chat_completion, chat_messages, chat_request
from proxy.frontends.chat_answer import StreamedCompletion, WholeCompletion
from proxy.frontends.gathering import Gathering

ECHO, ITEMS, SETTINGS = chat_messages.echo, chat_messages.items, chat_request.settings
CALL, PARTS, ASKED_AS = chat_messages._call, chat_messages._parts, chat_messages._message
ADDED = StreamedCompletion._item_added
MESSAGE, FINISH = chat_completion.message, chat_completion.finish_reason


def _echo_without(*kinds: str) -> Any:
    return lambda output: ECHO([item for item in output if item["type"] not in kinds])


def _without_refusal(parts: Any) -> tuple[str, str]:
    return chat_messages._joined(parts, "output_text", "text"), ""


def _one_role(message: Raw) -> Raw:
    return ASKED_AS({**message, "role": "user"})


def _careless(value: Any, _place: str, *names: str) -> Iterator[Any]:
    """Take what is known, and ignore the rest."""
    return (value.get(name) for name in names)


def _one_kind(messages: Any) -> list[Raw]:
    """Call the output of every tool a function's."""
    return [
        {**item, "type": "function_call_output"} if item["type"].endswith("_output") else item
        for item in ITEMS(messages)
    ]


def _calls_first(messages: Any) -> list[Raw]:
    return sorted(ITEMS(messages), key=lambda item: item["type"] != "function_call")


def _one_argument(given: Any) -> Raw:
    item = CALL(given)
    return {**item, "arguments": "{}"} if "arguments" in item else item


def _twice(self: StreamedCompletion, _place: Any, text: Any) -> Any:
    return text


def _nothing(*_args: Any) -> Iterator[bytes]:
    yield from ()


def _numbered(self: StreamedCompletion, event: Raw) -> Iterator[bytes]:
    """Give a call the number of its item."""
    number = len(self._calls)
    for record in ADDED(self, event):
        self._calls[event["output_index"]] = event["output_index"]
        yield record.replace(b'{"index":%d,"id"' % number, b'{"index":%d,"id"' % event["output_index"])


def _streamed_only(self: Gathering) -> Raw:
    response: Raw = self.last.json()["response"] if self.last else {}
    return {**response, "output": self._told.in_order()}


MISTAKES: dict[str, tuple[Any, str, Any]] = {
    # A wrong context.
    "the echo is without calls": (chat_messages, "echo", _echo_without("function_call", "custom_tool_call")),
    "the echo is without what a completion cannot show": (
        chat_messages,
        "echo",
        _echo_without("web_search_call", "compaction"),
    ),
    "the echo is without words": (chat_messages, "echo", _echo_without("message")),
    "the echo is without refusals": (chat_messages, "said", _without_refusal),
    "everybody is the user": (chat_messages, "_message", _one_role),
    "words come after calls": (chat_messages, "items", _calls_first),
    "every tool is a function": (chat_messages, "items", _one_kind),
    "arguments are not told": (chat_messages, "_call", _one_argument),
    "a refusal is told as words": (chat_messages, "_refused", chat_messages._spoken),
    "a part is told and the others are not": (chat_messages, "_parts", lambda *given: PARTS(*given)[:1]),
    "unknown fields of a message are dropped": (chat_messages, "take", _careless),
    "a setting is dropped": (chat_request, "_ELSEWHERE", chat_request._ELSEWHERE | {"stop"}),
    "what is not neutral counts as neutral": (chat_request, "_is_neutral", lambda name, _: name == "store"),
    "a limit below the least is told": (chat_request, "LEAST_OUTPUT_TOKENS", 1),
    "upstream's default for storing is taken": (
        chat_request,
        "settings",
        lambda body: {name: value for name, value in SETTINGS(body).items() if name != "store"},
    ),
    # A wrong answer.
    "words are said twice": (StreamedCompletion, "_rest", _twice),
    "only pieces are said": (StreamedCompletion._WRITERS, "response.output_item.done", _nothing),
    "the last word's items are not said": (chat_answer, "_output", lambda response: []),
    "calls are numbered by item": (StreamedCompletion._WRITERS, "response.output_item.added", _numbered),
    "a whole answer has the streamed items only": (Gathering, "response", _streamed_only),
    "a whole answer has no refusal": (
        chat_completion,
        "message",
        lambda output: {**MESSAGE(output), "refusal": None},
    ),
    "every answer just stops": (chat_completion, "finish_reason", lambda response, *, called, named: "stop"),
    "an answer that is cut off called tools": (
        chat_completion,
        "finish_reason",
        lambda response, *, called, named: FINISH({}, called=called, named=named),
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_planted_mistake_in_the_translation_is_found(mistake: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each mistake in the translation shows within 20,000 cases: in a context, or in what an agent is shown."""
    owner, name, mistaken = MISTAKES[mistake]
    if isinstance(owner, dict):
        monkeypatch.setitem(owner, name, mistaken)
    else:
        monkeypatch.setattr(owner, name, mistaken)
    with pytest.raises(AssertionError, match="seed"):
        play(ChatWorld, range(20_000 // CASES_A_WORLD))


# Whatever the model says comes back as what it said.

TEXT = st.text(max_size=4)
PARTS_SAID = st.lists(
    st.builds(lambda text: {"type": "output_text", "text": text, "annotations": []}, TEXT)
    | st.builds(lambda text: {"type": "refusal", "refusal": text}, TEXT),
    max_size=3,
)
OUTPUTS = st.lists(
    st.one_of(
        st.builds(lambda parts: {"type": "message", "role": "assistant", "content": parts}, PARTS_SAID),
        st.builds(
            lambda name, text: {"type": "function_call", "call_id": f"c{name}", "name": name, "arguments": text},
            st.sampled_from("fg"),
            TEXT,
        ),
        st.builds(
            lambda name, text: {"type": "custom_tool_call", "call_id": f"c{name}", "name": name, "input": text},
            st.sampled_from("fg"),
            TEXT,
        ),
        st.just({"type": "reasoning", "summary": [{"type": "summary_text", "text": "p"}]}),
    ),
    max_size=4,
).map(lambda outputs: [{"id": f"item_{n}", "status": "completed", **raw} for n, raw in enumerate(outputs)])


def _told(outputs: list[Raw]) -> Raw:
    """Return the message of a completion; that nothing was said is written in two ways, and an agent keeps one."""
    message = chat_completion.message(outputs)
    return {**message, "content": message["content"] or None}


@settings(max_examples=1000)
@given(outputs=OUTPUTS)
def test_the_echo_is_what_a_history_with_the_answer_says(outputs: list[Raw]) -> None:
    """What upstream holds is compared with the very items that the answer's message makes."""
    message = _told(outputs)
    echo = [item for item in chat_messages.echo(outputs) if item["type"] != "reasoning"]
    if not echo:
        assert message == {"role": "assistant", "content": None, "refusal": None, "annotations": []}
        return
    bare = [{name: value for name, value in item.items() if name not in {"id", "status"}} for item in echo]
    assert chat_messages.items([message]) == bare


@settings(max_examples=1000)
@given(outputs=OUTPUTS, choices=st.binary(max_size=40))
def test_streamed_or_whole_an_answer_says_the_same(outputs: list[Raw], choices: bytes) -> None:
    """However upstream tells the items, an SDK finds the same message in the chunks and in the completion."""
    world = ChatWorld(chosen(choices))
    connection = ModelConnection(world.upstream, (), 0.0)
    answer = Answer(0, "resp_0", connection, {}, [], outputs, [], None)
    events = [ServerEvent.parse(orjson.dumps(raw)) for raw in connection._events_of(answer, None)]
    if not answer.is_told:
        return
    message = _told(outputs)
    for completion, read in (
        (StreamedCompletion(usage=False, logprobs=False), streamed),
        (WholeCompletion(logprobs=False), whole),
    ):
        body = b"".join([*map(completion.add, events), completion.finish()])
        heard: Heard = read(body)
        assert heard.message == message
        assert (heard.finish, heard.ended) == ("tool_calls" if "tool_calls" in message else "stop", True)


@settings(max_examples=1000)
@given(outputs=OUTPUTS, choices=st.binary(max_size=40))
def test_what_tells_the_agent_something_is_known_before_it_is_told(outputs: list[Raw], choices: bytes) -> None:
    """The first event that makes bytes is found to the event, without a trace of having asked."""
    world = ChatWorld(chosen(choices))
    answer = Answer(0, "resp_0", ModelConnection(world.upstream, (), 0.0), {}, [], outputs, [], None)
    told = answer.connection._events_of(answer, None)
    completion, untouched = (StreamedCompletion(usage=True, logprobs=False) for _ in range(2))
    begun = False
    for event in [ServerEvent.parse(orjson.dumps(raw)) for raw in told]:
        tells = completion.tells(event)
        said = completion.add(event)
        assert begun or tells is (bool(said) or event.terminal)
        assert said == untouched.add(event)
        begun = begun or tells


# The oracle.

ASKED = {"role": "user", "content": "a"}
F = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}
G = {"id": "c1", "type": "custom", "custom": {"name": "g", "input": "b"}}
ANSWER = {"role": "tool", "tool_call_id": "c1", "content": "b"}


def says(*messages: Raw) -> list[Any] | None:
    """Return what a history of *messages* says."""
    return chat_meaning.told(chat_meaning.read(orjson.dumps(message)) for message in messages)


def assistant(**values: Any) -> Raw:
    """Return a message of the assistant."""
    return {"role": "assistant", **values}


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (assistant(content="ab"), assistant(content=[{"type": "text", "text": each} for each in "ab"]), True),
        (assistant(content="ab"), assistant(content="ab", refusal=None, annotations=[], audio=None), True),
        (assistant(content="ab"), assistant(content="a", refusal="b"), False),
        (assistant(refusal="ab"), assistant(content=[{"type": "refusal", "refusal": "ab"}]), True),
        (assistant(content="ab"), assistant(refusal="ab"), False),
        (assistant(tool_calls=[F]), assistant(content="", tool_calls=[{**F, "index": 0}]), True),
        (assistant(tool_calls=[F]), assistant(content="a", tool_calls=[F]), False),
        (assistant(tool_calls=[F, G]), assistant(tool_calls=[G, F]), False),
        (assistant(tool_calls=[F]), assistant(tool_calls=[F, F]), False),
        (ASKED, {**ASKED, "content": [{"type": "text", "text": "a"}]}, True),
        (ASKED, {**ASKED, "role": "system"}, False),
    ],
)
def test_the_oracle_knows_what_a_message_says(one: Raw, other: Raw, *, same: bool) -> None:
    """One meaning may be written in several ways, and another meaning is another."""
    assert (says(ASKED, one) == says(ASKED, other)) is same


def test_the_oracle_knows_what_a_tool_answers() -> None:
    """The output is for the latter call of that id right before it, and once; else it makes no sense."""
    assert says(assistant(tool_calls=[F]), ANSWER) != says(assistant(tool_calls=[G]), ANSWER)
    assert says(assistant(tool_calls=[F]), assistant(tool_calls=[G]), ANSWER) is None
    assert says(assistant(tool_calls=[F]), ASKED, ANSWER) is None
    assert says(assistant(tool_calls=[F]), ANSWER, ANSWER) is None
    told = says(assistant(tool_calls=[F, G]), ANSWER)
    assert told is not None
    assert told[-1] == ("custom_tool_call_output", "c1", ("b",))
    assert says(ANSWER) is None
    assert says(ASKED, {**ASKED, "name": "n"}) is None
    assert says(assistant(content=None)) is None


def test_the_oracle_takes_a_response_for_one_message() -> None:
    """Its items are read together, with the thoughts that no history has; those of two responses are not."""
    call = ("function_call", "c1", "f", '{"x": 1}')
    emitted = [
        ("reasoning", "1", None),
        *(("message", "assistant", (text, ""), "commentary") for text in "ab"),
        call,
    ]
    held = chat_meaning.joined([(("message", "user", ("a",)), False), *((token, True) for token in emitted)])
    said = says(ASKED, assistant(content="ab", tool_calls=[F]))
    apart = says(ASKED, assistant(content="a"), assistant(content="b", tool_calls=[F]))
    assert said is not None
    assert apart is not None
    assert agree(held, said, "reasoning")
    assert not agree(held, said, "none")
    assert not agree(held, apart, "reasoning")
    assert not agree(held, said[:-1], "any")
