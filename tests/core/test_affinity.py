"""Which connection a request runs on."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from said import JSON, answer, assistant, baseline, call, reasoning, request, user

from proxy.core.affinity import (
    Candidate,
    Former,
    Habits,
    NoRoom,
    Open,
    Recall,
    Take,
    Use,
    choose,
    explain,
    returned_to,
    way_on,
)
from proxy.core.delta import Baseline, Delta, Full, Mismatch, diff

FIRST = [user("Hello")]
SECOND = [*FIRST, assistant("Hi"), user("What is here?")]
THIRD = [*SECOND, call(), answer()]

AFTER_FIRST = baseline(FIRST, assistant("Hi"), response_id="resp_first")
AFTER_SECOND = baseline(SECOND, call(), response_id="resp_second")
OTHER = baseline([user("Something else")], assistant("Yes"), response_id="resp_other")


def stored(known: Baseline, **fields: Any) -> Baseline:
    """Return what is known, of a response that upstream keeps."""
    return replace(known, stored=True, **fields)


def free(key: int, known: Baseline | None = None, last_used: float = 0.0) -> Candidate:
    """Return a connection that nobody uses."""
    return Candidate(key, known, free=True, last_used=last_used)


def busy(key: int, known: Baseline | None = None) -> Candidate:
    """Return a connection at work."""
    return Candidate(key, known, free=False, last_used=0.0)


def chosen(
    history: list[JSON], candidates: Sequence[Candidate], *, room: int = 1, now: float = 1000.0, **options: Any
) -> Any:
    """Choose a connection for the request with *history*."""
    return choose(request(*history), candidates, room=room, now=now, **options)


def test_the_first_turn_opens_a_connection() -> None:
    """There is nothing to continue and nothing to use."""
    assert chosen(FIRST, []) == Open(Full(Mismatch.FIRST_TURN))


def test_the_longest_baseline_wins() -> None:
    """A later response of the same conversation saves more than an earlier one."""
    candidates = [free(1, AFTER_FIRST, 9.0), free(2, AFTER_SECOND, 1.0), free(3, OTHER)]
    use = chosen(THIRD, candidates)
    assert use == Use(2, diff(request(*THIRD), AFTER_SECOND))
    assert isinstance(use.upload, Delta)
    assert chosen(THIRD, candidates[::-1]) == use


def test_of_equal_baselines_the_last_used_wins() -> None:
    """The warmest connection."""
    assert (
        chosen(SECOND, [free(1, AFTER_FIRST, 1.0), free(2, AFTER_FIRST, 2.0), free(3, AFTER_FIRST, 1.5)]).key == 2
    )


def test_a_new_conversation_does_not_evict_anothers_baseline() -> None:
    """It gets a connection that knows nothing, or a new one."""
    assert chosen(FIRST, [free(1, OTHER), free(2)]) == Use(2, Full(Mismatch.FIRST_TURN))
    assert chosen(FIRST, [free(1, OTHER)]) == Open(Full(Mismatch.FIRST_TURN))
    assert chosen(FIRST, [free(1, OTHER), busy(2)]) == Open(Full(Mismatch.FIRST_TURN))


KIND = request(*FIRST).kind
OVER = Habits(over={KIND})


def test_a_conversation_that_is_over_makes_place_for_one_of_its_kind() -> None:
    """On the connection used last, which is the surest to be alive; also where another stands by."""
    full = Full(Mismatch.FIRST_TURN)
    candidates = [free(1, OTHER, 1.0), free(2, AFTER_FIRST, 3.0), free(3, OTHER, 2.0), free(4)]
    assert chosen([user("New")], candidates, habits=OVER) == Take(2, full)
    assert chosen([user("New")], candidates[:1], habits=OVER, room=0) == Take(1, full)
    assert chosen([user("New")], candidates) == Use(4, full)
    others = Habits(over={request(*FIRST, temperature=0.5).kind})
    assert chosen([user("New")], candidates, habits=others) == Use(4, full)
    assert chosen([user("New")], candidates, habits=OVER, now=12.9) == Take(3, full)
    assert chosen([user("New")], candidates, habits=OVER, now=10.9) == Use(4, full)


@pytest.mark.parametrize(
    "known",
    [
        busy(1, OTHER),
        free(1, baseline(FIRST, call())),
        free(1, baseline(FIRST, assistant("Yes"), temperature=0.5)),
        free(1, baseline(SECOND, assistant("Yes"))),
        free(1, baseline(THIRD, assistant("Done"), parent=AFTER_SECOND)),
        free(1, baseline([user("x" * 2**15)], assistant("Yes"))),
        free(1),
    ],
    ids=[
        "at work",
        "called a tool",
        "of another kind",
        "an old conversation",
        "went on from an old one",
        "began with much",
        "knows nothing",
    ],
)
def test_no_other_makes_place(known: Candidate) -> None:
    """It goes on, or may, or has nothing that helps."""
    over = Habits(over={KIND, request(*FIRST, temperature=0.5).kind})
    assert not isinstance(chosen([user("New")], [known], habits=over), Take)


def test_one_that_called_tools_makes_place_too() -> None:
    """A sub-agent is over when it answers, whatever it did before."""
    called = baseline([user("Look")], call())
    done = baseline([user("Look"), call(), answer()], assistant("A folder"), parent=called)
    assert chosen([user("New")], [free(1, done)], habits=OVER) == Take(1, Full(Mismatch.FIRST_TURN))
    assert chosen([user("New")], [free(1, done, 991.0)], habits=OVER) == Open(Full(Mismatch.FIRST_TURN))
    assert isinstance(chosen([user("New")], [free(1, done)], habits=Habits(aside={KIND})), Open)


def test_one_that_says_a_conversation_anew_makes_place_for_the_next() -> None:
    """What is asked each time with all that was said is over too, if that is the same conversation."""
    told = [*SECOND, assistant("A folder"), user("What is to be remembered?")]
    again = [*SECOND, assistant("A folder"), user("And?"), assistant("It"), user("What is to be remembered?")]
    known = free(1, baseline(told, assistant("Nothing")))
    assert chosen(again, [known], habits=OVER) == Take(1, Full(Mismatch.HISTORY_CHANGED))
    assert isinstance(chosen([user("Other"), *again[1:]], [known], habits=OVER), Open)
    going_on = free(1, baseline(told, assistant("Nothing"), parent=AFTER_SECOND))
    assert isinstance(chosen(again, [going_on], habits=OVER), Open)


def test_what_is_continued_or_was_lost_takes_no_place() -> None:
    """Nor does a second attempt, nor what upstream stores."""
    known = free(1, OTHER)
    lost = Mismatch.CONNECTION_LOST
    assert chosen(FIRST, [known], habits=OVER, fresh=lost) == Open(Full(lost))
    assert isinstance(chosen(SECOND, [known, free(2, AFTER_FIRST)], habits=OVER).upload, Delta)
    gone = [Former(stored(AFTER_FIRST), Mismatch.RETIRED)]
    assert isinstance(chosen(SECOND, [known], habits=OVER, formers=gone, recall=Recall.ANY), Open)


SUGGESTED: dict[str, Any] = {"reasoning": {"effort": "none"}}
ASIDE = Habits(aside={request(*FIRST, **SUGGESTED).kind})


def aside(candidates: Sequence[Candidate], *, room: int = 1, habits: Habits = ASIDE, **options: Any) -> Any:
    """Choose a connection for a suggestion that goes on with SECOND."""
    return choose(request(*SECOND, **SUGGESTED), candidates, room=room, now=1000.0, habits=habits, **options)


def test_what_leads_nowhere_goes_aside() -> None:
    """In full, so that the conversation keeps its connection: where the last such one was, or on a new one."""
    main = free(1, AFTER_FIRST, 5.0)
    full = Full(Mismatch.ASIDE)
    assert aside([main]) == Open(full)
    assert aside([main, free(2)]) == Use(2, full)
    last = free(3, baseline([user("Else"), assistant("Hi"), user("?")], assistant("!"), **SUGGESTED), 1.0)
    assert aside([main, last], room=0) == Take(3, full)


def test_what_leads_nowhere_goes_on_where_that_costs_nobody() -> None:
    """Or where there is no room, or nothing better: with a delta."""
    main = free(1, AFTER_FIRST)
    delta = diff(request(*SECOND, **SUGGESTED), AFTER_FIRST)
    assert aside([main], habits=Habits()) == Use(1, delta)
    assert aside([main], room=0) == Use(1, delta)
    assert aside([free(1, baseline(FIRST, assistant("Hi"), **SUGGESTED))]).upload != Full(Mismatch.ASIDE)
    kept = free(1, stored(AFTER_FIRST))
    assert isinstance(aside([kept], recall=Recall.ANY), Use)
    assert aside([kept], recall=Recall.OWN_ID) == Open(Full(Mismatch.ASIDE))
    working = free(1, baseline(SECOND, call()))
    asked = request(*THIRD, **SUGGESTED)
    assert isinstance(choose(asked, [working], room=1, now=0.0, habits=ASIDE), Use)


def test_a_way_is_a_kind_or_else_the_last_words() -> None:
    """Nothing tells apart what is asked again, and a call has to be answered whichever way."""
    asked = request(*SECOND)
    assert way_on(asked, AFTER_FIRST) == asked.errand
    assert way_on(asked, baseline(FIRST, assistant("Hi"), **SUGGESTED)) == asked.kind
    assert way_on(asked, baseline([user("What is here?")], assistant("Hi"))) is None
    assert way_on(request(*THIRD), AFTER_SECOND) is None


def test_words_that_lead_nowhere_go_aside_with_the_same_settings_alone() -> None:
    """And then where the last one was, whatever was said before it."""
    words = Habits(aside={request(*SECOND).errand})
    full = Full(Mismatch.ASIDE)
    last = free(2, baseline([*FIRST, SECOND[-1]], assistant("A folder")))
    main = free(1, AFTER_FIRST)
    assert chosen(SECOND, [main], habits=words) == Open(full)
    assert chosen(SECOND, [main, last, free(3, OTHER)], habits=words, room=0) == Take(2, full)
    assert isinstance(chosen([*FIRST, assistant("Hi"), user("Another")], [main], habits=words), Use)
    assert isinstance(choose(request(*SECOND, temperature=0.5), [main], room=1, now=0.0, habits=words), Use)


def test_a_request_comes_back_to_what_is_no_more() -> None:
    """To the longest that it goes on from; not where that is on a connection, free or at work."""
    first, second = (Former(each, Mismatch.RETIRED) for each in (AFTER_FIRST, AFTER_SECOND))
    asked = request(*THIRD)
    assert returned_to(asked, [], [first, second]) is second
    assert returned_to(request(*SECOND), [free(1, OTHER)], [first, second]) is first
    assert returned_to(asked, [busy(1, AFTER_SECOND)], [first]) is None
    assert returned_to(asked, [free(1, AFTER_FIRST)], [second]) is second
    assert returned_to(request(*FIRST), [], [first, second]) is None


def test_a_stored_response_is_continued_on_another_connection() -> None:
    """The longest whose connection is gone for no fault of its own, if no open connection knows the history."""
    formers = [
        Former(stored(AFTER_FIRST), Mismatch.CONNECTION_LOST),
        Former(stored(AFTER_SECOND), Mismatch.RETIRED),
        Former(stored(OTHER), Mismatch.RETIRED),
    ]
    delta = diff(request(*THIRD), stored(AFTER_SECOND))
    assert chosen(THIRD, [], formers=formers, recall=Recall.ANY) == Open(delta)
    assert chosen(THIRD, [free(7)], formers=formers, recall=Recall.ANY) == Use(7, delta)
    assert chosen(THIRD, [free(1, OTHER)], formers=formers, recall=Recall.ANY, room=0) == Take(1, delta)
    assert chosen(THIRD, [free(7, AFTER_FIRST)], formers=formers, recall=Recall.ANY).key == 7
    assert chosen(THIRD, [], formers=formers) == Open(Full(Mismatch.CONNECTION_LOST))


def test_a_stored_response_is_continued_though_its_connection_went_with_the_turn() -> None:
    """That says nothing of the response; the second attempt needs a new connection, and as little as the first."""
    formers = [Former(stored(AFTER_SECOND), Mismatch.CONNECTION_LOST)]
    delta = diff(request(*THIRD), stored(AFTER_SECOND))
    lost = Mismatch.CONNECTION_LOST
    assert chosen(THIRD, [free(7)], formers=formers, recall=Recall.ANY, fresh=lost) == Open(delta)
    assert chosen(THIRD, [], formers=formers, fresh=lost) == Open(Full(lost))


def test_a_response_whose_id_may_be_anothers_is_not_recalled() -> None:
    """It may stand for a turn by now that nobody heard of: of one that is gone, and of one at work."""
    for known, upload in [
        (stored(AFTER_SECOND), Full(Mismatch.CONNECTION_LOST)),
        (stored(AFTER_SECOND, own_id=True), diff(request(*THIRD), stored(AFTER_SECOND, own_id=True))),
    ]:
        formers = [Former(known, Mismatch.CONNECTION_LOST)]
        assert chosen(THIRD, [], formers=formers, recall=Recall.OWN_ID) == Open(upload)
        assert isinstance(chosen(THIRD, [busy(1, known)], recall=Recall.OWN_ID).upload, type(upload))


def test_only_what_is_stored_is_recalled() -> None:
    """Upstream has forgotten anything else with its connection."""
    formers = [Former(replace(AFTER_SECOND, own_id=True), Mismatch.CONNECTION_LOST)]
    assert chosen(THIRD, [], formers=formers, recall=Recall.ANY) == Open(Full(Mismatch.CONNECTION_LOST))


def test_a_response_that_is_in_doubt_is_not_recalled() -> None:
    """After an error, or where upstream did not continue it, everything is sent."""
    doubtful = [Former(stored(AFTER_SECOND), Mismatch.AFTER_ERROR)]
    assert chosen(THIRD, [], formers=doubtful, recall=Recall.ANY) == Open(Full(Mismatch.AFTER_ERROR))
    kept = [Former(stored(AFTER_SECOND), Mismatch.CONNECTION_LOST)]
    again = chosen(THIRD, [], formers=kept, recall=Recall.ANY, fresh=Mismatch.UPSTREAM_FORGOT)
    assert again == Open(Full(Mismatch.UPSTREAM_FORGOT))


def test_a_stored_response_is_continued_behind_an_agent_that_hung_up() -> None:
    """Where upstream was continuing it: the error is that of nobody."""
    known = stored(AFTER_SECOND)
    sound = [Former(known, Mismatch.AFTER_ERROR, is_sound=True)]
    assert chosen(THIRD, [], formers=sound, recall=Recall.ANY) == Open(diff(request(*THIRD), known))
    assert chosen(THIRD, [], formers=sound) == Open(Full(Mismatch.AFTER_ERROR))


def test_a_stored_response_is_continued_while_it_is_at_work() -> None:
    """On a connection of its own; what is free and continued serves rather."""
    known = stored(AFTER_SECOND)
    delta = diff(request(*THIRD), known)
    assert chosen(THIRD, [busy(1, known)], recall=Recall.ANY) == Open(delta)
    assert chosen(THIRD, [busy(1, known), free(2)], recall=Recall.ANY) == Use(2, delta)
    assert chosen(THIRD, [busy(1, known), free(2, AFTER_FIRST)], recall=Recall.ANY).key == 2
    assert chosen(THIRD, [busy(1, known)]) == Open(Full(Mismatch.BUSY))


def test_a_baseline_at_work_is_not_shared() -> None:
    """A second turn of the same conversation has a connection of its own; the reason says why."""
    assert chosen(SECOND, [busy(1, AFTER_FIRST)]) == Open(Full(Mismatch.BUSY))


def test_an_earlier_baseline_serves_while_the_later_is_at_work() -> None:
    """A fork continues from what is free."""
    use = chosen(THIRD, [busy(1, AFTER_SECOND), free(2, AFTER_FIRST)])
    assert use == Use(2, diff(request(*THIRD), AFTER_FIRST))


def test_a_fresh_connection_is_a_new_one() -> None:
    """After a failure neither a baseline nor a blank connection will do."""
    candidates = [free(1, AFTER_FIRST), free(2)]
    full = Full(Mismatch.CONNECTION_LOST)
    assert chosen(SECOND, candidates, fresh=Mismatch.CONNECTION_LOST) == Open(full)
    assert chosen(SECOND, candidates, fresh=Mismatch.CONNECTION_LOST, room=0) == Open(full, evict=2)


LONG = replace(baseline([*SECOND, call(), answer(), user("And?")], assistant("So")), turns=2)


def test_without_room_the_least_valuable_baseline_goes() -> None:
    """A connection of one turn before one of many, and of two the one unused for longer."""
    full = Full(Mismatch.FIRST_TURN)
    assert chosen(FIRST, [free(1, LONG, 1.0), free(2, OTHER, 9.0)], room=0) == Take(2, full)
    assert chosen(FIRST, [free(1, OTHER, 5.0), free(2, OTHER, 4.0)], room=0) == Take(2, full)
    assert chosen(FIRST, [free(1, LONG, 1.0), busy(2, OTHER)], room=0) == Take(1, full)


def test_without_room_a_conversation_in_use_keeps_its_connection() -> None:
    """One of several turns, for a minute after each; one of a single turn goes at once."""
    full = Full(Mismatch.FIRST_TURN)
    assert chosen(FIRST, [free(1, LONG, 1.0)], room=0, now=60.9) == NoRoom()
    assert chosen(FIRST, [free(1, LONG, 1.0)], room=0, now=61.0) == Take(1, full)
    assert chosen(FIRST, [free(1, OTHER, 1.0)], room=0, now=1.0) == Take(1, full)
    assert chosen(FIRST, [free(1, LONG, 1.0), free(2, LONG, 9.0)], room=0, now=65.0) == Take(1, full)
    again = Full(Mismatch.CONNECTION_LOST)
    assert chosen(FIRST, [free(1, LONG, 1.0)], room=0, now=2.0, fresh=again.reason) == NoRoom()


def test_without_room_a_conversation_at_its_tools_keeps_its_connection() -> None:
    """From its first turn on it comes back with what it called for; not where an agent told it anew."""
    calling = free(1, baseline(FIRST, call()), 1.0)
    full = Full(Mismatch.FIRST_TURN)
    assert chosen([user("New")], [calling], room=0, now=60.9, habits=OVER) == NoRoom()
    assert chosen([user("New")], [calling], room=0, now=61.0) == Take(1, full)
    assert chosen([user("New")], [calling, free(2, OTHER, 9.0)], room=0, now=99.0) == Take(2, full)
    rewritten = free(1, baseline(THIRD, call(call_id="call_9")), 1.0)
    assert chosen([user("New")], [rewritten], room=0, now=2.0) == Take(1, full)
    assert chosen([user("New")], [replace(rewritten, baseline=LONG)], room=0, now=2.0) == NoRoom()


def test_without_room_what_is_over_makes_some_however_long_it_was() -> None:
    """A conversation of a kind that none was ever gone on with; a short one that may go on has less to lose."""
    full = Full(Mismatch.FIRST_TURN)
    candidates = [free(1, OTHER, 3.0), free(2, LONG, 2.0)]
    assert chosen([user("New")], candidates, room=0, now=4.0, habits=OVER) == Take(2, full)
    assert chosen([user("New")], candidates, room=0, now=4.0) == Take(1, full)
    assert chosen([user("New")], candidates[1:], room=0, now=4.0) == NoRoom()


def test_without_room_a_stored_conversation_makes_some_even_in_use() -> None:
    """It goes on by recall, at the price of a connection; where that cannot be, it keeps its own."""
    candidates = [free(1, LONG, 1.0), free(2, stored(LONG), 2.0)]
    full = Full(Mismatch.FIRST_TURN)
    assert chosen(FIRST, candidates, room=0, now=3.0, recall=Recall.ANY) == Take(2, full)
    assert chosen(FIRST, candidates, room=0, now=3.0, recall=Recall.OWN_ID) == NoRoom()
    assert chosen(FIRST, candidates, room=0, now=3.0) == NoRoom()


def test_without_room_a_connection_that_continues_is_used() -> None:
    """Room is only asked for where a new connection is needed."""
    assert chosen(SECOND, [free(1, AFTER_FIRST)], room=0).key == 1


def test_when_every_connection_is_at_work_the_turn_goes_over_http() -> None:
    """Nothing in flight is ever disturbed."""
    assert chosen(FIRST, [busy(1, OTHER), busy(2)], room=0) == NoRoom()
    assert chosen(FIRST, [], room=0) == NoRoom()


def test_the_policy_on_dropped_output_is_asked() -> None:
    """What may not be left out is sent in full."""
    known = baseline(FIRST, reasoning("Hm"), assistant("Hi"))
    assert chosen(SECOND, [free(1, known)]).key == 1
    assert chosen(SECOND, [free(1, known)], dropped="none") == Open(Full(Mismatch.HISTORY_CHANGED))


@pytest.mark.parametrize(
    ("history", "candidates", "formers", "reason"),
    [
        (FIRST, [], [], Mismatch.FIRST_TURN),
        (SECOND, [], [], Mismatch.AFTER_RESTART),
        (SECOND, [busy(1, OTHER), free(2)], [], Mismatch.AFTER_RESTART),
        (SECOND, [], [Former(AFTER_FIRST, Mismatch.RETIRED)], Mismatch.RETIRED),
        (SECOND, [busy(1, AFTER_FIRST)], [Former(AFTER_FIRST, Mismatch.RETIRED)], Mismatch.BUSY),
        (SECOND, [free(1, OTHER)], [Former(AFTER_FIRST, Mismatch.CONNECTION_LOST)], Mismatch.CONNECTION_LOST),
        (FIRST, [free(1, AFTER_FIRST)], [], Mismatch.FIRST_TURN),
        ([*FIRST, assistant("Ho"), user("x")], [free(1, AFTER_FIRST)], [], Mismatch.HISTORY_CHANGED),
        ([*SECOND, call(), user("Stop")], [free(1, AFTER_SECOND)], [], Mismatch.CALL_UNANSWERED),
    ],
)
def test_the_reason_is_the_nearest_conversations(
    history: list[JSON], candidates: list[Candidate], formers: list[Former], reason: Mismatch
) -> None:
    """The figures name what kept a turn from being a delta."""
    assert explain(request(*history), candidates, formers) is reason


PROMPT = {"role": "developer", "content": "You are gpt-5.5."}
OTHER_PROMPT = {"role": "developer", "content": "You are gpt-6."}
THOUGHT = [*FIRST, reasoning("Hm"), assistant("Hi"), user("What is here?")]


@pytest.mark.parametrize(
    ("known", "history"),
    [
        ([PROMPT, *SECOND], [OTHER_PROMPT, *SECOND, assistant("Files"), user("x")]),
        (THOUGHT, [*SECOND, assistant("Files"), user("x")]),
    ],
    ids=["the prompt names the model", "thoughts are for the model that had them"],
)
def test_a_model_that_changes_with_the_history_is_the_reason(known: list[JSON], history: list[JSON]) -> None:
    """Agents rewrite the history for another model; with the same model it is the history that changed."""
    before = baseline(known, assistant("Files"))
    unrelated = Former(baseline([user("Something else")], assistant("Yes"), model="gpt-6"), Mismatch.RETIRED)
    for formers in ([], [unrelated]):
        assert explain(request(*history, model="gpt-6"), [free(1, before)], formers) is Mismatch.MODEL_CHANGED
        assert explain(request(*history), [free(1, before)], formers) is Mismatch.HISTORY_CHANGED
    rewound = Former(baseline([*history, user("y")], assistant("Yes"), model="gpt-6"), Mismatch.RETIRED)
    assert explain(request(*history, model="gpt-6"), [free(1, before)], [rewound]) is Mismatch.HISTORY_CHANGED


@pytest.mark.parametrize(
    ("fields", "reason"),
    [({"model": "gpt-6"}, Mismatch.MODEL_CHANGED), ({"store": True}, Mismatch.SETTINGS_CHANGED)],
)
def test_a_change_of_settings_is_told_from_a_change_of_history(fields: JSON, reason: Mismatch) -> None:
    """The first one found counts, and no unrelated baseline hides it."""
    sent = request(*SECOND, **fields)
    unrelated = Former(OTHER, Mismatch.RETIRED)
    for formers in ([unrelated], [unrelated, Former(AFTER_FIRST, Mismatch.RETIRED)]):
        assert explain(sent, [free(1, AFTER_FIRST), free(2, OTHER)], formers) is reason
