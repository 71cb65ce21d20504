"""Settings as items of the conversation."""

from typing import Any

import orjson
import pytest
from said import JSON, assistant, completed, created, done, event, request, user

from proxy.core.delta import Baseline, Delta, Full, Mismatch, diff
from proxy.core.events import ServerEvent
from proxy.core.hoist import hoist
from proxy.core.items import Item, Output
from proxy.core.turn import Again, Rewrite, State, Turn
from proxy.errors import UpstreamError

FUNCTION: JSON = {"type": "function", "name": "f", "parameters": {"type": "object"}}
CUSTOM: JSON = {"type": "custom", "name": "g"}
FIELDS: JSON = {"model": "m", "store": False, "instructions": "Be brief.", "tools": [FUNCTION]}
SAID = {"type": "message", "role": "developer", "content": "Be brief."}
GIVEN = {"type": "additional_tools", "role": "developer", "tools": [FUNCTION]}
FULL = Full(Mismatch.FIRST_TURN)
HOISTED, QUIET = Rewrite.HOISTED, Rewrite.QUIET


def items(*raw: JSON) -> tuple[Item, ...]:
    """Return the items of *raw*."""
    return tuple(Item.of(each) for each in raw)


@pytest.mark.parametrize(
    ("changed", "told", "settings"),
    [
        ({}, [SAID, GIVEN], ("function", "instructions")),
        ({"tool_choice": "auto"}, [SAID, GIVEN], ("function", "instructions")),
        ({"tool_choice": None, "tools": None}, [SAID], ("instructions",)),
        ({"tools": []}, [SAID], ("instructions",)),
        ({"instructions": ""}, [GIVEN], ("function",)),
        ({"instructions": None}, [GIVEN], ("function",)),
        (
            {"tools": [FUNCTION, CUSTOM, FUNCTION]},
            [SAID, {**GIVEN, "tools": [FUNCTION, CUSTOM, FUNCTION]}],
            ("custom", "function", "instructions"),
        ),
    ],
)
def test_settings_become_items(changed: JSON, told: list[JSON], settings: tuple[str, ...]) -> None:
    """Instructions come first, then tools; what is empty stays a field."""
    fields = {**FIELDS, **changed}
    hoisted = hoist(fields, items(user("Hello")))
    assert hoisted is not None
    assert list(hoisted.items) == told
    assert hoisted.form == ("m", settings)
    assert hoisted.fields == {name: fields[name] for name in ("instructions", "tools") if fields[name]}


@pytest.mark.parametrize(
    "changed",
    [
        {"instructions": None, "tools": None},
        {"instructions": "", "tools": []},
        {"store": True},
        {"store": None},
        {"instructions": [{"type": "message"}]},
        {"instructions": 1},
        {"tools": {"type": "function"}},
        {"tools": ["f"]},
        {"tools": [FUNCTION, {"type": "web_search"}]},
        {"tools": [{"name": "f"}]},
        {"tools": [{"type": ["function"]}]},
        {"tool_choice": "none"},
        {"tool_choice": "required"},
        {"tool_choice": {"type": "function", "name": "f"}},
    ],
)
def test_whatever_is_in_doubt_stays_a_field(changed: JSON) -> None:
    """Stored responses, tools of upstream's own, a choice among tools, and shapes that are none of the API's."""
    assert hoist({**FIELDS, **changed}, items(user("Hello"))) is None


@pytest.mark.parametrize(
    "item", [{"type": "compaction", "encrypted_content": "x"}, {"type": "compaction_trigger"}, GIVEN]
)
def test_some_histories_keep_the_fields(item: JSON) -> None:
    """A compaction may end what was told before it, and tools that an item gives stand elsewhere already."""
    assert hoist(FIELDS, items(user("Hello"), item)) is None


@pytest.mark.parametrize("changed", [{"truncation": "auto"}, {"context_management": []}, {"novelty": 1}])
def test_a_history_that_may_be_shortened_keeps_the_fields(changed: JSON) -> None:
    """Upstream shortens a history from its beginning, where the settings would stand."""
    assert request(user("Hello"), **FIELDS).hoistable().hoisted is not None
    assert request(user("Hello"), **FIELDS, **changed).hoistable().hoisted is None


def asked(*raw: JSON, **changed: Any) -> Any:
    """Return a request whose settings can be told as items."""
    return request(*raw, **{**FIELDS, **changed}).hoistable()


def held(**changed: Any) -> Baseline:
    """Return what upstream holds after a first turn that was hoisted."""
    before = asked(user("Hello"), **changed)
    assert before.hoisted is not None
    return Baseline.after(before, "resp_1", (Output.of(assistant("Hi")),), hoisted=before.hoisted.mark)


HISTORY = (user("Hello"), assistant("Hi"), user("Go on"))


@pytest.mark.parametrize(
    "changed",
    [
        {"instructions": "Be verbose."},
        {"instructions": None},
        {"tools": [FUNCTION, CUSTOM]},
        {"tools": []},
        {"tools": [{"name": "f", "type": "function", "parameters": {"type": "object"}}]},
        {"tool_choice": "none"},
    ],
)
def test_a_chain_goes_on_with_the_very_settings_it_holds(changed: JSON) -> None:
    """Fields may differ from turn to turn; settings that upstream holds as items may not, to the byte."""
    assert isinstance(diff(asked(*HISTORY), held()), Delta)
    assert isinstance(diff(asked(*HISTORY, temperature=0.5), held()), Delta)
    assert diff(asked(*HISTORY, **changed), held()) == Full(Mismatch.SETTINGS_CHANGED)
    plain = Baseline.after(asked(user("Hello")), "r", (Output.of(assistant("Hi")),))
    goes_on = isinstance(diff(asked(*HISTORY, **changed), plain), Delta)
    assert goes_on is (changed != {"instructions": None})  # without any, none goes on that had some


def test_a_request_that_was_not_asked_about_continues_no_hoisted_chain() -> None:
    """It does not know what its settings would be as items."""
    assert diff(request(*HISTORY, **FIELDS), held()) == Full(Mismatch.SETTINGS_CHANGED)


# The turn.


def turned(*raw: JSON, rewrites: tuple[Rewrite, ...] = (HOISTED,), **changed: Any) -> Turn:
    """Return a turn that may be rewritten."""
    return Turn(asked(*raw, **changed), rewrites=frozenset(rewrites))


def started(turn: Turn, upload: Delta | Full = FULL, *, reused: bool = False) -> JSON:
    """Return the message that *turn* sends."""
    message: JSON = orjson.loads(bytes(turn.start(upload, reused=reused)))
    return message


def delta(turn: Turn) -> Delta:
    """Return what *turn* adds to a hoisted chain."""
    found = diff(turn.request, held())
    assert isinstance(found, Delta)
    return found


def test_a_history_begins_with_the_settings() -> None:
    """A text is a message then, and nothing else changes."""
    turn = turned(user("Hello"), temperature=0.5)
    message = started(turn)
    assert message["input"] == [SAID, GIVEN, user("Hello")]
    assert message.keys() == {"type", "model", "store", "temperature", "input"}
    assert turn.hoisted is turn.request.hoisted


def test_a_delta_keeps_the_form_of_its_chain() -> None:
    """Whatever the verdict is now: hoisted goes on hoisted, and fields go on as fields."""
    turn = turned(*HISTORY, rewrites=())
    assert started(turn, delta(turn)).keys() == {"type", "model", "store", "previous_response_id", "input"}
    turn = turned(*HISTORY)
    plain = diff(turn.request, Baseline.after(asked(user("Hello")), "resp_1", held().outputs))
    assert isinstance(plain, Delta)
    message = started(turn, plain)
    assert (message["instructions"], message["tools"]) == ("Be brief.", [FUNCTION])
    assert turn.hoisted is None


@pytest.mark.parametrize("is_delta", [False, True])
def test_the_agent_is_shown_its_own_settings(is_delta: bool) -> None:  # noqa: FBT001  (a parameter)
    """Every event that tells the response has them; others are the bytes that came."""
    turn = turned(*HISTORY)
    started(turn, delta(turn) if is_delta else FULL)
    parent = {"previous_response_id": "resp_1"} if is_delta else {}
    told: dict[str, Any] = {"instructions": None, "tools": [], **parent}
    word = event("response.output_text.delta", delta='a "response" for you')
    assert turn.receive(created(**told))[0].json()["response"] == {
        **created(**told).json()["response"],
        **{name: FIELDS[name] for name in ("instructions", "tools")},
        **dict.fromkeys(parent),
    }
    assert turn.receive(word) == (word,)
    (shown,) = turn.receive(event("response.in_progress", response={"id": "resp_2", "tools": []}))
    assert shown.json()["response"] == {"id": "resp_2", "tools": [FUNCTION]}  # and no field that has no place
    turn.receive(done(assistant("Yes")))
    (shown,) = turn.receive(completed(assistant("Yes")))
    assert shown.json()["response"].get("tools", [FUNCTION]) == [FUNCTION]
    assert turn.baseline is not None
    assert turn.request.hoisted is not None
    assert turn.baseline.hoisted == turn.request.hoisted.mark


def test_without_rewriting_nothing_is_touched() -> None:
    """The agent gets the very events."""
    turn = turned(*HISTORY, rewrites=())
    started(turn)
    first = created(tools=["as it came"])
    assert turn.receive(first) == (first,)
    turn.receive(done(assistant("Yes")))
    turn.receive(completed(assistant("Yes")))
    assert turn.baseline is not None
    assert turn.baseline.hoisted is None


@pytest.mark.parametrize(
    "raw", [b'{"type":"x","response":1}', b'{"type":"x","response"', b'{"type":"x","name":"response"}']
)
def test_an_event_that_tells_no_response_is_untouched(raw: bytes) -> None:
    """It may be of any shape."""
    came = ServerEvent("x", raw)
    assert came.telling({"tools": []}) is came


def test_an_event_with_half_a_character_is_told_all_the_same() -> None:
    """It is written the way upstream wrote it."""
    came = ServerEvent.parse(b'{"type":"x","response":{"a":"\\ud83d","tools":null}}')
    assert came.telling({"tools": []}).json() == {"type": "x", "response": {"a": "\ud83d", "tools": []}}


def refusal(message: str = "no", status: int = 400, **error: Any) -> ServerEvent:
    """Return an error event."""
    return event("error", status=status, error={"message": message, **error})


BOTH = (HOISTED, QUIET)


@pytest.mark.parametrize(
    ("said", "order"),
    [
        (refusal("Invalid value: 'additional_tools'."), [HOISTED, QUIET]),
        (refusal("Unknown parameter: 'stream_options'."), [QUIET, HOISTED]),
        (refusal(param="stream_options.include_obfuscation"), [QUIET, HOISTED]),
        (refusal("no"), [HOISTED, QUIET]),
    ],
)
def test_a_refused_history_goes_as_the_agent_wrote_it(said: ServerEvent, order: list[Rewrite]) -> None:
    """One rewrite after the other is given up, the one that is named first; then the refusal is the agent's."""
    turn = turned(user("Hello"), rewrites=BOTH)
    message = started(turn)
    assert message["stream_options"] == {"include_obfuscation": False}
    for count in (1, 2):
        assert turn.receive(said) == ()
        assert turn.again == Again(Mismatch.FIRST_TURN, fresh=count == 2)
        assert turn.refused == set(order[:count])
        message = started(turn)
    assert message == {"type": "response.create", **FIELDS, "input": [user("Hello")]}
    with pytest.raises(UpstreamError):
        turn.receive(said)
    assert turn.state is State.FAILED


def test_a_second_refusal_on_a_connection_may_be_the_first_ones_last_word() -> None:
    """What goes there behind an answer that is still to come would get that answer, and the next turn its own."""
    failed = event("response.failed", response={"error": {"code": "invalid_prompt"}})
    turn = turned(user("Hello"), rewrites=BOTH)
    for first in (failed, refusal()):
        started(turn)
        assert turn.receive(first) == ()
        assert turn.again == Again(Mismatch.FIRST_TURN, fresh=False)
        started(turn)
        assert turn.receive(failed) == ()
        assert turn.again == Again(Mismatch.UPSTREAM_FORGOT, fresh=True)
    assert turn.refused == set(BOTH)


def test_a_refusal_of_a_response_that_has_begun_may_not_be_its_last_word() -> None:
    """Its end may follow an error, and would pass for the end of what goes on the same connection."""
    for said, fresh in (
        (refusal(), True),
        (event("response.failed", response={"error": {"code": "invalid_prompt"}}), False),
    ):
        turn = turned(user("Hello"), stream=False)
        started(turn)
        turn.receive(event("response.created", response={"id": "resp_1"}))
        assert turn.receive(said) == ()
        assert turn.again == Again(Mismatch.FIRST_TURN, fresh=fresh)


@pytest.mark.parametrize(
    "said",
    [refusal(status=429), refusal(status=500), refusal(code="context_length_exceeded"), refusal(status=401)],
)
def test_an_error_that_is_no_refusal_is_the_agents(said: ServerEvent) -> None:
    """It would be the same in any form."""
    turn = turned(user("Hello"), rewrites=BOTH)
    started(turn)
    with pytest.raises(UpstreamError):
        turn.receive(said)
    assert not turn.refused


@pytest.mark.parametrize(
    ("said", "given_up"),
    [
        (refusal("Missing required parameter: 'instructions'."), {HOISTED}),
        (refusal("Tool choice 'auto' needs tools.", param="tool_choice"), {HOISTED}),
        (refusal("Unknown parameter: 'stream_options'."), {QUIET}),
        (refusal("no"), set()),
        (refusal("No tool output found for function call c."), set()),
        (refusal("Duplicate item found with id msg_1."), set()),
        (refusal("Tools are gone.", code="previous_response_not_found"), set()),
    ],
)
def test_a_refused_delta_gives_up_what_the_refusal_names(said: ServerEvent, given_up: set[Rewrite]) -> None:
    """A delta is refused for many reasons; its history goes in full, and as it may be written then."""
    turn = turned(*HISTORY, rewrites=BOTH)
    started(turn, delta(turn), reused=True)
    assert turn.receive(said) == ()
    assert turn.again is not None
    assert turn.again.reason is Mismatch.UPSTREAM_FORGOT
    assert turn.refused == given_up
    message = started(turn)
    assert ("tools" in message, "stream_options" in message) == (HOISTED in given_up, QUIET not in given_up)


@pytest.mark.parametrize(
    ("options", "sent"),
    [
        (None, {"include_obfuscation": False}),
        ({}, {"include_obfuscation": False}),
        ({"include_obfuscation": None}, {"include_obfuscation": False}),
        ({"novelty": 1}, {"novelty": 1, "include_obfuscation": False}),
        ({"include_obfuscation": True}, {"include_obfuscation": True}),
        ({"include_obfuscation": False}, {"include_obfuscation": False}),
        ("odd", "odd"),
    ],
)
def test_a_quiet_turn_leaves_the_agents_choice(options: Any, sent: Any) -> None:
    """Only what the agent left open is said."""
    turn = turned(user("Hello"), rewrites=(QUIET,), stream_options=options)
    message = started(turn)
    assert message["stream_options"] == sent
    assert message["tools"] == [FUNCTION]
