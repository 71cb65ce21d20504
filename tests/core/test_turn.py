"""One request answered by one response, whatever comes in between."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import orjson
import pytest
from said import (
    JSON,
    MISSES,
    answer,
    assistant,
    baseline,
    call,
    completed,
    created,
    done,
    event,
    reasoning,
    request,
    user,
)

from proxy.core.delta import Baseline, Delta, Full, Mismatch, TurnRequest, diff
from proxy.core.events import ServerEvent
from proxy.core.items import Output, Raw
from proxy.core.turn import Again, State, Turn
from proxy.errors import ConnectionLost, UpstreamError, UpstreamTimeout, UpstreamUnavailable

HISTORY = [user("Hello")]
SAID = [reasoning("Look"), call()]
SENT = request(*HISTORY, *SAID, answer())
FULL = Full(Mismatch.FIRST_TURN)
IN_PROGRESS = event("response.in_progress", response={"id": "resp_2"})
WORD = event("response.output_text.delta", delta="Hi")


def delta() -> Delta:
    """Return what the request adds to the response before it."""
    found = diff(SENT, baseline(HISTORY, *SAID))
    assert isinstance(found, Delta)
    return found


def started(upload: Delta | Full = FULL, *, reused: bool = True) -> Turn:
    """Return a turn that was sent."""
    turn = Turn(SENT)
    turn.start(upload, reused=reused)
    return turn


def continued(**response: Any) -> ServerEvent:
    """Return the first event of a response that continues the chain."""
    return created(previous_response_id="resp_1", **response)


def refusal(status: int, **error: Any) -> ServerEvent:
    """Return an error event."""
    return event("error", status=status, error=error)


def outputs(*items: JSON) -> tuple[Output, ...]:
    """Return the outputs that *items* make."""
    return tuple(Output.of(item) for item in items)


# The straight way.


def test_a_turn_is_sent_streamed_and_completed() -> None:
    """Every event is shown as it comes, and at the end upstream holds history and output."""
    turn = Turn(SENT)
    assert (turn.state, turn.finished, turn.in_flight, turn.shown) == (State.READY, False, False, False)
    message = orjson.loads(bytes(turn.start(FULL, reused=False)))
    assert message["input"] == [*HISTORY, *SAID, answer()]
    assert (turn.state, turn.in_flight, turn.shown) == (State.SENT, True, False)
    assert turn.attempts == 1
    events = [created(), IN_PROGRESS, WORD, done(assistant("Hi")), completed(assistant("Hi"))]
    for each in events[:-1]:
        assert turn.receive(each) == (each,)
        assert (turn.state, turn.in_flight, turn.shown) == (State.STREAMING, True, True)
        assert turn.baseline is None
    assert turn.receive(events[-1]) == (events[-1],)
    assert (turn.state, turn.finished, turn.in_flight) == (State.COMPLETED, True, False)
    assert turn.baseline == Baseline.after(SENT, "resp_2", outputs(assistant("Hi")))
    assert turn.again is None


def test_a_delta_continues_the_chain_and_counts_its_turns() -> None:
    """The message has what is new; the new baseline has everything."""
    turn = Turn(SENT)
    message = orjson.loads(bytes(turn.start(delta(), reused=True)))
    assert message["previous_response_id"] == "resp_1"
    assert message["input"] == [answer()]
    assert turn.receive(continued()) == (created(previous_response_id=None),)
    for each in (done(assistant("Hi")), completed()):
        assert turn.receive(each) == (each,)
    assert turn.baseline == Baseline.after(SENT, "resp_2", outputs(assistant("Hi")), parent=delta().baseline)
    assert not turn.chain_ignored


def test_the_agent_is_not_told_of_a_chain_that_it_knows_nothing_of() -> None:
    """Each event that tells the response names no parent, as over HTTP; the rest is to the byte what came."""
    turn = started(delta())
    names = b'{"type":"%b" , "response": {"id":"resp_2","previous_response_id" : "resp_1","n":1e2, "output":[]}}'
    none = names.replace(b'"resp_1"', b"null")
    for kind in (b"response.created", b"response.in_progress", b"response.completed"):
        (shown,) = turn.receive(ServerEvent.parse(names % kind))
        assert shown.raw == none % kind
    assert turn.baseline is not None


@pytest.mark.parametrize("metadata", [{"previous_response_id": "resp_1"}, {"previous_response_id": "resp_0"}])
def test_what_the_agent_itself_says_of_a_parent_stays(metadata: JSON) -> None:
    """Its metadata come back as they were."""
    for parent in ({}, {"previous_response_id": "resp_1"}, {"previous_response_id": None}):
        (shown,) = started(delta(), reused=False).receive(
            event("response.in_progress", response={"id": "resp_2", "metadata": metadata, **parent})
        )
        assert shown.json()["response"] == {"id": "resp_2", "metadata": metadata, **dict.fromkeys(parent)}


@pytest.mark.parametrize(
    "raw",
    [
        b'{"type":"response.x","previous_response_id":"resp_1"',
        b'{"type":"response.x","response":[{"previous_response_id":"resp_1"}]}',
    ],
)
def test_what_is_no_response_is_passed_on_as_it_came(raw: bytes) -> None:
    """It is not ours to mend."""
    came = ServerEvent.parse(raw)
    assert came.continuing_none("resp_1") is came


@pytest.mark.parametrize(
    ("ending", "state"),
    [
        ("response.incomplete", State.INCOMPLETE),
        ("response.failed", State.FAILED),
        ("response.cancelled", State.FAILED),
        ("response.error", State.FAILED),
        ("error", State.FAILED),
    ],
)
def test_only_completed_makes_a_baseline(ending: str, state: State) -> None:
    """Any other terminal event is shown and ends the turn."""
    turn = started()
    turn.receive(created())
    turn.receive(done(assistant("Hi")))
    last = event(ending, response={"id": "resp_2", "output": [assistant("Hi")]})
    assert turn.receive(last) == (last,)
    assert (turn.state, turn.finished, turn.baseline) == (state, True, None)
    assert turn.again is None


@pytest.mark.parametrize(
    ("told", "state"),
    [
        ({}, State.COMPLETED),
        ({"status": "completed", "error": None}, State.COMPLETED),
        ({"status": "incomplete"}, State.INCOMPLETE),
        ({"incomplete_details": {"reason": "max_output_tokens"}}, State.INCOMPLETE),
        ({"status": "failed"}, State.FAILED),
        ({"error": {"code": "server_error"}}, State.FAILED),
    ],
)
def test_a_response_that_is_done_ended_as_it_says(told: JSON, state: State) -> None:
    """Over HTTP its last event has that name; where nothing speaks against it, it can be continued."""
    turn = started()
    turn.receive(created())
    turn.receive(done(assistant("Hi")))
    (last,) = turn.receive(event("response.done", response={"id": "resp_2", **told}))
    kind = f"response.{state.value}"
    assert (last.type, last.json()["type"], last.json()["response"]["status"]) == (kind, kind, state.value)
    assert turn.state is state
    assert (turn.baseline is not None) is (state is State.COMPLETED)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"response": None},
        {"response": {"usage": {}, "status": "completed"}},
        {"response": {"id": "resp_2", "status": "cancelled"}},
        {"response": {"id": "resp_2", "status": ["completed"]}},
    ],
)
def test_what_is_done_in_another_way_is_shown_as_it_came(fields: JSON) -> None:
    """Nobody knows what that means: the turn has ended, and is not continued."""
    turn = started()
    turn.receive(created())
    last = event("response.done", **fields)
    assert turn.receive(last) == (last,)
    assert (turn.state, turn.baseline) == (State.FAILED, None)


def test_a_response_may_be_done_that_was_never_created() -> None:
    """Some servers tell little."""
    turn = Turn(SENT)
    turn.start(FULL, reused=False)
    (last,) = turn.receive(event("response.done", response={"id": "resp_2"}))
    assert last.json()["response"] == {"id": "resp_2", "status": "completed"}
    assert (turn.state, turn.baseline) == (State.COMPLETED, None)


def test_an_unknown_event_is_passed_on() -> None:
    """Once the response has begun, everything is shown that may be the API's."""
    turn = started()
    turn.receive(created())
    for kind in ("response.of.next.year", "keepalive", "response.metadata", "vendor:trace"):
        assert turn.receive(event(kind, x=1)) == (event(kind, x=1),)


def test_what_http_tells_in_headers_is_not_shown() -> None:
    """Wherever it comes; a client that knows the API's events alone would fail over it."""
    turn = started()
    asides = [event(kind, x=1) for kind in ("codex.rate_limits", "responsesapi.websocket_timing")]
    assert [turn.receive(each) for each in asides] == [(), ()]
    assert turn.receive(created()) == (created(),)
    assert [turn.receive(each) for each in asides] == [(), ()]
    assert turn.receive(WORD) == (WORD,)


def test_events_of_the_connection_wait_for_the_response() -> None:
    """They don't begin the answer, so an error after them is still an HTTP status."""
    turn = started()
    early = event("vendor:trace"), event("response.metadata"), event("keepalive")
    for each in early:
        assert turn.receive(each) == ()
    assert turn.state is State.SENT
    assert not turn.shown
    assert turn.receive(created()) == (*early, created())
    assert turn.receive(WORD) == (WORD,)


@pytest.mark.parametrize("kind", ["codex.rate_limits", "keepalive"])
@pytest.mark.parametrize(("length", "number"), [(0, 1000), (100_000, 10)])
def test_few_events_are_taken_without_a_response(length: int, number: int, kind: str) -> None:
    """As many as may have a sense; with more, the connection is at fault, and each attempt may have as many."""
    turn = started()
    early = event(kind, x="x" * length)
    kept = [] if early.is_aside else [early] * number
    assert [turn.receive(early) for _ in range(number)] == [()] * number
    with pytest.raises(ConnectionLost) as raised:
        turn.receive(early)
    turn.connection_lost(raised.value)
    turn.start(Full(Mismatch.CONNECTION_LOST), reused=False)
    assert [turn.receive(early) for _ in range(number)] == [()] * number
    assert turn.receive(created()) == (*kept, created())


def test_events_of_a_failed_attempt_are_not_shown() -> None:
    """The second attempt owes nothing to the first."""
    turn = started(delta())
    turn.receive(event("keepalive"))
    turn.receive(refusal(400, code="previous_response_not_found"))
    turn.start(Full(Mismatch.UPSTREAM_FORGOT), reused=True)
    assert turn.receive(created()) == (created(),)
    assert turn.attempts == 2


# What upstream holds.


def ended(*events: ServerEvent) -> Baseline | None:
    """Return the baseline after *events*."""
    turn = started()
    for each in (created(), *events):
        turn.receive(each)
    assert turn.state is State.COMPLETED
    return turn.baseline


def held(*events: ServerEvent) -> tuple[Output, ...]:
    """Return the outputs of the baseline after *events*."""
    known = ended(*events)
    assert known is not None
    return known.outputs


TWO = reasoning("Look"), call()


def test_the_streamed_items_count() -> None:
    """The terminal list may be empty, shorter, absent or odd."""
    streamed = done(TWO[0], 0), done(TWO[1], 1)
    for last in (
        completed(*TWO),
        completed(),
        completed(TWO[1]),
        completed(None, "x"),
        event("response.completed", response={"id": "resp_2"}),
        event("response.completed", response={"id": "resp_2", "output": {}}),
    ):
        assert held(*streamed, last) == outputs(*TWO)


@pytest.mark.parametrize(
    ("streamed", "terminal"), [(assistant("Draft"), assistant("Final")), (call("{}"), call('{"path":"."}'))]
)
def test_an_item_in_other_words_at_the_end_leaves_no_baseline(streamed: JSON, terminal: JSON) -> None:
    """The agent may give back the one while upstream holds the other."""
    assert ended(done(streamed), completed(terminal)) is None


def test_an_item_may_be_written_otherwise_at_the_end() -> None:
    """What it says counts; reasoning may be told in part."""
    assert held(done(call('{"path": "."}')), completed(call())) == outputs(call())
    bare = assistant("Hi", status=None, content=[{"type": "output_text", "text": "Hi"}])
    assert held(done(assistant("Hi")), completed(bare)) == outputs(bare)
    assert held(done(reasoning("Look")), completed(reasoning())) == outputs(reasoning("Look"))


def test_an_item_may_have_lost_its_id_at_the_end() -> None:
    """Then what it says tells which it is."""
    nameless = [{**each, "id": None} for each in TWO]
    assert held(done(TWO[0], 0), done(TWO[1], 1), completed(*nameless)) == outputs(*TWO)
    assert ended(done(call("{}")), completed({**call(), "id": None})) is None


def test_items_are_held_in_the_order_of_their_index() -> None:
    """They may finish in another."""
    assert held(done(TWO[1], 1), done(TWO[0], 0), completed()) == outputs(*TWO)
    assert held(done(TWO[0], None), done(TWO[1], "x"), completed()) == outputs(*TWO)


def test_items_that_are_all_given_one_index_are_all_held() -> None:
    """What is missing here could be missing from a history that passes for the chain's."""
    assert held(done(TWO[0], 0), done(TWO[1], 0), completed()) == outputs(*TWO)
    assert held(done(TWO[0], 0), done(TWO[1], 0), completed(*TWO)) == outputs(*TWO)


def test_an_order_that_is_another_at_the_end_leaves_no_baseline() -> None:
    """An agent writes down the one or the other, and upstream holds one of them."""
    assert ended(done(TWO[0], 0), done(TWO[1], 1), completed(*TWO[::-1])) is None
    assert ended(done(TWO[1], 0), done(TWO[0], 0), completed(*TWO)) is None
    alike = call(id=None, call_id="call_2"), call(id=None), call(id=None, call_id="call_2")
    told = [done(each, n) for n, each in enumerate(alike)]
    assert held(*told, completed(*alike)) == outputs(*alike)
    assert held(*told, completed(*alike[1:])) == outputs(*alike)


def test_an_item_that_may_have_been_revised_leaves_no_baseline() -> None:
    """Two tellings at one place, and one item at the end: agents may keep the first, the second or both."""
    hel, hello = assistant("Hel"), assistant("Hello")
    assert ended(done(hel, 0), done(hello, 0), completed(hello)) is None


def test_without_streamed_items_the_terminal_list_counts() -> None:
    """Some services only have that."""
    assert held(completed(*TWO)) == outputs(*TWO)
    assert held(completed()) == ()
    assert held(event("response.output_item.done", output_index=0, item=None), completed()) == ()


@pytest.mark.parametrize(
    "piece",
    [
        WORD,
        event("response.output_item.added", output_index=0, item=call()),
        event("response.output_text.done", output_index=0, content_index=0, text="Hi"),
    ],
)
def test_pieces_of_an_item_that_was_never_told_whole_leave_no_baseline(piece: ServerEvent) -> None:
    """The agent may have seen what upstream holds and we do not know, and leave it out of its history."""
    assert ended(piece, completed()) is None
    assert held(piece, completed(*TWO)) == outputs(*TWO)
    assert held(piece, done(TWO[0]), completed()) == outputs(TWO[0])


CALL_TO_COME = event("response.output_item.added", output_index=1, item=call(arguments=""))


@pytest.mark.parametrize(
    "untold",
    [
        [
            done(TWO[0], 0),
            CALL_TO_COME,
            event("response.function_call_arguments.delta", output_index=1, delta="{}"),
        ],
        [CALL_TO_COME, done(TWO[0], 0)],
        [done(TWO[0], 0), WORD],
    ],
)
def test_an_item_that_was_begun_and_never_told_whole_leaves_no_baseline(untold: list[ServerEvent]) -> None:
    """The agent may give it back, and upstream has it: a delta would say it twice. A whole list tells."""
    assert ended(*untold, completed()) is None
    assert ended(*untold, completed(*TWO)) is None
    assert held(*untold, completed(TWO[0])) == outputs(TWO[0])
    assert held(CALL_TO_COME, done(TWO[0], 0), done(TWO[1], 1), completed()) == outputs(*TWO)


@pytest.mark.parametrize(
    "final",
    [
        (*TWO, assistant("more")),
        (TWO[0], assistant("instead")),
        (TWO[0], call(id="fc_9")),
        (TWO[0], {**call('{"path": ".."}'), "id": None}),
        (TWO[0], {**call(call_id="call_9"), "id": None}),
        (TWO[0], TWO[1], TWO[1]),
    ],
)
def test_an_item_that_was_never_streamed_leaves_no_baseline(final: tuple[JSON, ...]) -> None:
    """Nobody knows what upstream holds then, so the next turn is sent in full."""
    assert ended(done(TWO[0], 0), done(TWO[1], 1), completed(*final)) is None


def test_reasoning_is_known_by_both_of_its_ciphertexts() -> None:
    """The one of the terminal event counts beside the streamed one."""
    sealed_anew = reasoning("Look", encrypted_content="gAAAAA2")
    known = ended(done(TWO[0], 0), done(TWO[1], 1), completed(sealed_anew, TWO[1]))
    assert known is not None
    for blob in ("gAAAAA1", "gAAAAA2"):
        echo = reasoning("Look", encrypted_content=blob)
        assert isinstance(diff(request(*HISTORY, *SAID, answer(), echo, call(), answer()), known), Delta)
    forged = reasoning("Look", encrypted_content="gAAAAA3")
    assert isinstance(diff(request(*HISTORY, *SAID, answer(), forged, call(), answer()), known), Full)


@pytest.mark.parametrize("response_id", ["resp_9", None, 7])
def test_another_or_no_response_id_leaves_no_baseline(response_id: Any) -> None:
    """The terminal event has to be of the response that began."""
    assert ended(completed(response_id=response_id)) is None


def test_the_terminal_events_id_will_do() -> None:
    """Where the first event had none."""
    turn = started()
    turn.receive(event("response.created", response={}))
    turn.receive(completed())
    assert turn.baseline is not None
    assert turn.response_id == "resp_2"


def test_a_response_may_come_whole() -> None:
    """On a new connection nothing can be stale; on one that was used the next of its kind would pass for that."""
    turn = started(reused=False)
    assert turn.receive(completed(assistant("Hi"))) == (completed(assistant("Hi")),)
    assert (turn.state, turn.baseline) == (State.COMPLETED, None)
    turn = started(reused=False)
    assert turn.receive(WORD) == (WORD,)
    assert turn.receive(completed(assistant("Hi"))) == (completed(assistant("Hi")),)
    assert (turn.state, turn.baseline) == (State.COMPLETED, None)


@pytest.mark.parametrize("kind", ["response.created", "response.completed"])
def test_a_response_event_without_a_response_is_passed_on(kind: str) -> None:
    """Nothing can be read from it, so it makes no baseline; the agent gets it all the same."""
    turn = started(reused=False)
    said = event(kind, response=None)
    assert turn.receive(said) == (said,)
    assert turn.baseline is None


BEGUN = event("response.created", response={"id": "resp_2"})


@pytest.mark.parametrize("text", ['"\\ud83d"', "[" * 300 + "]" * 300], ids=["half a character", "nested"])
def test_an_output_that_cannot_be_known_again_makes_no_baseline(text: str) -> None:
    """The answer reaches the agent; what upstream holds is uncertain."""
    turn = started(reused=False)
    item = b'{"type":"odd","content":%b}' % text.encode()
    done = ServerEvent.parse(b'{"type":"response.output_item.done","output_index":0,"item":%b}' % item)
    assert turn.receive(BEGUN) == (BEGUN,)
    assert turn.receive(done) == (done,)
    last = event("response.completed", response={"id": "resp_2", "output": []})
    assert turn.receive(last) == (last,)
    assert (turn.state, turn.baseline) == (State.COMPLETED, None)
    turn = started(reused=False)
    listed = b'{"type":"response.completed","response":{"id":"resp_2","output":[%b]}}' % item
    turn.receive(BEGUN)
    turn.receive(ServerEvent.parse(listed))
    assert turn.baseline is None


@pytest.mark.parametrize("last", ["response.completed", "response.incomplete"])
@pytest.mark.parametrize("stream", [True, False])
def test_a_parent_that_is_denied_at_the_end_is_denied(last: str, *, stream: bool) -> None:
    """Nothing continues such an answer, and an agent that was shown nothing of it gets another one."""
    turn = Turn(replace(SENT, stream=stream))
    turn.start(delta(), reused=True)
    turn.receive(event("response.created", response={"id": "resp_2"}))
    ending = event(last, response={"id": "resp_2", "previous_response_id": None, "output": []})
    assert turn.receive(ending) == ((ending,) if stream else ())
    assert turn.again == (None if stream else Again(Mismatch.UPSTREAM_FORGOT, fresh=True))
    assert (turn.finished, turn.chain_ignored, turn.baseline) == (stream, True, None)


def test_a_failure_after_a_refused_attempt_is_tried_on_a_fresh_connection() -> None:
    """It may be the last word on the attempt that upstream refused; on the fresh connection it counts."""
    turn = started(delta())
    turn.receive(event("error", status=400, error={"code": "previous_response_not_found", "message": "no"}))
    assert turn.again == Again(Mismatch.UPSTREAM_FORGOT, fresh=False)
    turn.start(Full(Mismatch.UPSTREAM_FORGOT), reused=True)
    failed = event("response.failed", response={"id": "resp_1", "error": {"code": "server_error"}})
    assert turn.receive(failed) == ()
    assert turn.again == Again(Mismatch.UPSTREAM_FORGOT, fresh=True)
    turn.start(Full(Mismatch.UPSTREAM_FORGOT), reused=False)
    assert turn.receive(failed) == (failed,)


# Upstream forgot, or never chained.


@pytest.mark.parametrize("said", MISSES.values(), ids=MISSES)
def test_a_miss_is_sent_again_in_full_on_the_same_connection(said: JSON) -> None:
    """Whatever its shape, the agent sees nothing of it."""
    turn = started(delta())
    assert turn.receive(ServerEvent.parse(orjson.dumps(said))) == ()
    assert turn.again == Again(Mismatch.UPSTREAM_FORGOT, fresh=False)
    assert (turn.state, turn.shown) == (State.READY, False)
    message = orjson.loads(bytes(turn.start(Full(Mismatch.UPSTREAM_FORGOT), reused=True)))
    assert "previous_response_id" not in message
    assert message["input"] == [*HISTORY, *SAID, answer()]
    turn.receive(created())
    turn.receive(completed())
    assert turn.baseline == Baseline.after(SENT, "resp_2", ())


@pytest.mark.parametrize("said", MISSES.values(), ids=MISSES)
def test_a_miss_that_nobody_asked_for_is_of_an_earlier_attempt(said: JSON) -> None:
    """A full turn names no response; on a used connection another connection will do, on a new one nothing."""
    miss = ServerEvent.parse(orjson.dumps(said))
    turn = started(FULL)
    assert turn.receive(miss) == ()
    assert turn.again == Again(Mismatch.UPSTREAM_FORGOT, fresh=True)
    turn.start(FULL, reused=False)
    if miss.type == "response.failed":
        assert turn.receive(miss) == (miss,)
    else:
        with pytest.raises(UpstreamError):
            turn.receive(miss)
    assert turn.state is State.FAILED


@pytest.mark.parametrize("status", [400, 404, 409, 422])
def test_a_refused_delta_is_tried_in_full(status: int) -> None:
    """What upstream dislikes may be the delta; in full, its words are the agent's.

    Or it is about something else, and the delta's answer comes all the same: on that connection, to nobody.
    """
    turn = started(delta())
    assert turn.receive(refusal(status, code="invalid_value", message="No tool call found")) == ()
    assert turn.again == Again(Mismatch.UPSTREAM_FORGOT, fresh=True)
    turn.start(FULL, reused=False)
    with pytest.raises(UpstreamError) as raised:
        turn.receive(refusal(status, code="invalid_value", message="No tool call found"))
    assert raised.value.status == status
    assert turn.state is State.FAILED


def test_a_delta_that_is_forbidden_is_tried_in_full() -> None:
    """A gateway may know the response and not whose it is; what is forbidden in full is."""
    turn = started(delta())
    denied = event(
        "error", error={"type": "permission_denied", "message": "This response id was not issued here."}
    )
    assert turn.receive(denied) == ()
    assert turn.again == Again(Mismatch.UPSTREAM_FORGOT, fresh=True)
    turn.start(FULL, reused=False)
    with pytest.raises(UpstreamError) as raised:
        turn.receive(denied)
    assert raised.value.status == 403


@pytest.mark.parametrize("code", ["invalid_prompt", "unsupported_parameter"])
def test_a_delta_that_fails_for_what_it_says_is_tried_in_full(code: str) -> None:
    """Some services refuse a request in a response that fails; in full, that is the agent's."""
    failed = event("response.failed", response={"id": None, "status": "failed", "error": {"code": code}})
    turn = started(delta())
    assert turn.receive(failed) == ()
    assert turn.again == Again(Mismatch.UPSTREAM_FORGOT, fresh=True)
    turn.start(FULL, reused=False)
    assert turn.receive(failed) == (failed,)
    assert turn.state is State.FAILED
    unlucky = event(
        "response.failed", response={"id": None, "status": "failed", "error": {"code": "server_error"}}
    )
    turn = started(delta())
    assert turn.receive(unlucky) == (unlucky,)


def test_a_request_in_doubt_that_fails_for_what_it_says_is_refused() -> None:
    """So that it can go over HTTP, where upstream may take it."""
    failed = event(
        "response.failed", response={"id": None, "status": "failed", "error": {"code": "invalid_prompt"}}
    )
    turn = Turn(request(user("a"), temperature=None))
    turn.start(FULL, reused=False)
    with pytest.raises(UpstreamError) as raised:
        turn.receive(failed)
    assert (raised.value.status, turn.state) == (400, State.FAILED)


def test_a_duplicate_item_asks_for_a_fresh_connection() -> None:
    """Upstream still holds what it was told there before; if it was told nothing, the error is the agent's."""
    duplicate = refusal(400, code=None, message="Duplicate item found with id msg_1.")
    turn = started(delta())
    assert turn.receive(duplicate) == ()
    assert turn.again == Again(Mismatch.UPSTREAM_FORGOT, fresh=True)
    turn = started(FULL)
    assert turn.receive(duplicate) == ()
    assert turn.again == Again(Mismatch.UPSTREAM_FORGOT, fresh=True)
    turn.start(FULL, reused=False)
    with pytest.raises(UpstreamError):
        turn.receive(duplicate)


def test_a_miss_and_then_a_duplicate_end_on_a_fresh_connection() -> None:
    """Delta, full on the same connection, full on a new one: never more."""
    turn = started(delta())
    turn.receive(refusal(400, code="previous_response_not_found"))
    turn.start(Full(Mismatch.UPSTREAM_FORGOT), reused=True)
    turn.receive(refusal(400, message="Duplicate item found with id rs_1."))
    assert turn.again == Again(Mismatch.UPSTREAM_FORGOT, fresh=True)
    turn.start(Full(Mismatch.UPSTREAM_FORGOT), reused=False)
    turn.receive(created())
    turn.receive(completed())
    assert turn.state is State.COMPLETED
    assert turn.attempts == 3


@pytest.mark.parametrize("said", ["resp_0", "resp_2", None, ""])
def test_a_response_to_another_history_is_not_shown(said: str | None) -> None:
    """Upstream names the response it continues; if it is not ours, the agent must not see the answer."""
    turn = started(delta())
    turn.receive(event("keepalive"))
    assert turn.receive(created(previous_response_id=said)) == ()
    assert turn.chain_ignored
    assert turn.again == Again(Mismatch.UPSTREAM_FORGOT, fresh=True)
    assert (turn.state, turn.shown, turn.baseline) == (State.READY, False, None)


def test_a_full_turn_that_continues_something_is_not_shown() -> None:
    """On a used connection, upstream may have taken the history for a continuation."""
    turn = started(FULL)
    assert turn.receive(created(previous_response_id="resp_1")) == ()
    assert turn.chain_ignored
    turn.start(FULL, reused=False)
    assert turn.receive(created(previous_response_id=None)) == (created(previous_response_id=None),)


def test_upstream_need_not_name_what_it_continues() -> None:
    """Without a word on it, the chain is believed."""
    turn = started(delta())
    assert turn.receive(created()) == (created(),)
    assert not turn.chain_ignored


# Events that are not this turn's.


@pytest.mark.parametrize("stale", [WORD, IN_PROGRESS, done(call()), completed(), event("response.incomplete")])
@pytest.mark.parametrize("upload", [FULL, delta()])
def test_a_stale_event_on_a_used_connection_is_refused(stale: ServerEvent, upload: Delta | Full) -> None:
    """Nothing of a response may come before its response.created: it would be the last turn's words."""
    turn = started(upload)
    with pytest.raises(ConnectionLost):
        turn.receive(stale)
    assert (turn.shown, turn.baseline) == (False, None)
    turn.connection_lost(ConnectionLost("stale"))
    assert turn.again == Again(Mismatch.CONNECTION_LOST, fresh=True)


def test_a_response_may_fail_before_it_was_created() -> None:
    """That is upstream's answer to this turn, on a used connection too."""
    failed = event("response.failed", response={"id": "resp_2", "error": {"code": "server_error"}})
    turn = started(delta())
    assert turn.receive(failed) == (failed,)
    assert (turn.state, turn.baseline) == (State.FAILED, None)


def test_a_failure_while_streaming_is_shown_whatever_it_says() -> None:
    """Nothing is sent again once the agent has seen an event."""
    for kind in ("response.failed", "error"):
        turn = started(delta())
        turn.receive(continued())
        last = event(kind, response={"error": {"code": "previous_response_not_found"}})
        assert turn.receive(last) == (last,)
        assert (turn.state, turn.again) == (State.FAILED, None)


def untold(upload: Delta | Full, asked: TurnRequest = SENT) -> Turn:
    """Return a turn that has begun to be answered, of which the agent was not told."""
    turn = Turn(replace(asked, stream=False))
    turn.start(upload, reused=True)
    assert turn.receive(continued() if isinstance(upload, Delta) else created()) == ()
    assert turn.begun
    return turn


@pytest.mark.parametrize("said", MISSES.values(), ids=MISSES)
def test_a_miss_of_a_response_that_has_begun_is_one_all_the_same(said: JSON) -> None:
    """Gateways say that it begins before they know; as long as nobody was told, nothing is lost.

    That it failed is its end, which an error is not: it may still come.
    """
    turn = untold(delta())
    miss = ServerEvent.parse(orjson.dumps(said))
    assert turn.receive(miss) == ()
    assert turn.again == Again(Mismatch.UPSTREAM_FORGOT, fresh=miss.type != "response.failed")
    turn.start(FULL, reused=not turn.again.fresh)
    turn.receive(created())
    assert turn.receive(completed()) == (created(), completed())
    assert turn.baseline is not None


def test_a_second_attempt_that_begins_and_fails_has_failed() -> None:
    """Its failure is not the last word on the first one, and is no reason for a third."""
    turn = Turn(replace(SENT, stream=False))
    turn.start(delta(), reused=True)
    assert turn.receive(ServerEvent.parse(orjson.dumps(MISSES["nested"]))) == ()
    assert turn.again == Again(Mismatch.UPSTREAM_FORGOT, fresh=False)
    turn.start(FULL, reused=True)
    unlucky = event("response.failed", response={"id": "resp_2", "error": {"code": "server_error"}})
    assert turn.receive(created()) == ()
    assert turn.receive(unlucky) == (created(), unlucky)
    assert turn.state is State.FAILED
    assert turn.again is None


def test_a_refusal_of_a_response_that_has_begun_is_one_all_the_same() -> None:
    """A delta is tried in full, and what is in doubt may go over HTTP; what was said in between is an answer."""
    turn = untold(delta())
    assert turn.receive(refusal(400, code="invalid_value")) == ()
    assert turn.again == Again(Mismatch.UPSTREAM_FORGOT, fresh=True)
    for refused in (
        refusal(400, code="no"),
        event("response.failed", response={"error": {"code": "invalid_prompt"}}),
    ):
        turn = untold(FULL, request(user("a"), temperature=None))
        with pytest.raises(UpstreamError) as raised:
            turn.receive(refused)
        assert (raised.value.status, turn.state) == (400, State.FAILED)
    turn = untold(delta())
    assert turn.receive(WORD) == ()
    last = refusal(400, code="invalid_value")
    assert turn.receive(last) == (created(previous_response_id=None), WORD, last)
    assert (turn.state, turn.again) == (State.FAILED, None)


# Errors, losses and silence.


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (401, {"code": "invalid_api_key"}),
        (429, {"code": "rate_limit_exceeded"}),
        (500, {"code": "server_error"}),
        (503, {"code": "server_is_overloaded"}),
        (400, {"code": "context_length_exceeded"}),
    ],
)
@pytest.mark.parametrize("upload", [FULL, delta()])
def test_an_error_before_output_is_the_agents(upload: Delta | Full, status: int, error: JSON) -> None:
    """It becomes the HTTP answer, and nothing is tried again behind the agent's back."""
    turn = started(upload)
    turn.receive(event("keepalive"))
    with pytest.raises(UpstreamError) as raised:
        turn.receive(event("error", status=status, error=error, headers={"Retry-After": "2"}))
    assert raised.value.status == status
    assert orjson.loads(raised.value.body) == {"error": error}
    assert raised.value.headers == {"retry-after": "2"}
    assert (turn.state, turn.finished, turn.shown) == (State.FAILED, True, False)


AGE_LIMIT = refusal(400, code="websocket_connection_limit_reached", message="60 minutes")


def test_a_chain_that_is_longer_than_the_agents_history_may_be_too_long_alone() -> None:
    """What the agent leaves out counts in the chain, also later; in full its history may fit."""
    told = [*HISTORY, call(), answer()]
    asked = request(*told)
    upload = diff(asked, baseline(HISTORY, *SAID))
    assert isinstance(upload, Delta)
    turn = Turn(asked)
    turn.start(upload, reused=True)
    for each in (continued(), done(assistant("Hi")), completed()):
        turn.receive(each)
    assert turn.baseline is not None
    later = request(*told, assistant("Hi"), user("more"))
    further = diff(later, turn.baseline)
    assert isinstance(further, Delta)
    too_long = {"code": "context_length_exceeded", "message": "too long"}
    for refused in (refusal(400, **too_long), event("response.failed", response={"error": too_long})):
        turn = Turn(later)
        turn.start(further, reused=True)
        assert turn.receive(refused) == ()
        assert turn.again == Again(Mismatch.UPSTREAM_FORGOT, fresh=True)
    turn.start(FULL, reused=False)
    with pytest.raises(UpstreamError):
        turn.receive(refusal(400, **too_long))


def test_a_chat_history_that_is_too_long_is_refused_in_either_shape() -> None:
    """So that it goes over HTTP, where upstream takes it if it fits, and says so in its own words if not."""
    too_long = {"code": "context_length_exceeded", "message": "too long"}
    for upload in (delta(), FULL):
        for refused in (refusal(400, **too_long), event("response.failed", response={"error": too_long})):
            turn = Turn(replace(SENT, echo=joined))
            turn.start(upload, reused=True)
            with pytest.raises(UpstreamError) as raised:
                turn.receive(refused)
            assert (raised.value.code, turn.state) == ("context_length_exceeded", State.FAILED)


@pytest.mark.parametrize("upload", [FULL, delta()])
def test_a_connection_that_is_too_old_counts_as_lost(upload: Delta | Full) -> None:
    """Upstream did not take the turn, so a new one gets it; it is never the agent's error."""
    turn = started(upload)
    for _ in range(3):
        with pytest.raises(ConnectionLost, match="too old") as raised:
            turn.receive(AGE_LIMIT)
        turn.connection_lost(raised.value)
        assert turn.again == Again(Mismatch.CONNECTION_LOST, fresh=True)
        turn.start(FULL, reused=False)
    with pytest.raises(ConnectionLost) as raised:
        turn.receive(AGE_LIMIT)
    with pytest.raises(UpstreamUnavailable, match="lost again and again"):
        turn.connection_lost(raised.value)
    assert (turn.replays.unsent, turn.replays.ambiguous) == (4, 0)


def test_a_connection_that_grows_too_old_under_a_turn_is_lost() -> None:
    """HTTP has no such error: an answer that was shown breaks off, and one that was not is made good."""
    turn = started()
    turn.receive(created())
    with pytest.raises(ConnectionLost, match="too old") as raised:
        turn.receive(AGE_LIMIT)
    with pytest.raises(ConnectionLost):
        turn.connection_lost(raised.value)
    turn = untold(FULL)
    assert turn.receive(WORD) == ()
    with pytest.raises(ConnectionLost, match="too old") as raised:
        turn.receive(AGE_LIMIT)
    turn.connection_lost(raised.value)
    assert turn.again == Again(Mismatch.CONNECTION_LOST, fresh=True)
    assert (turn.replays.unsent, turn.replays.ambiguous) == (0, 1)
    quoted = refusal(500, code="server_error", message="no websocket_connection_limit_reached")
    turn = started()
    turn.receive(created())
    assert turn.receive(quoted) == (quoted,)


def test_a_connection_lost_before_the_first_event_is_replaced_once() -> None:
    """The second loss is upstream's fault."""
    turn = started(delta())
    turn.receive(event("keepalive"))
    turn.connection_lost(ConnectionLost("gone"))
    assert turn.again == Again(Mismatch.CONNECTION_LOST, fresh=True)
    assert (turn.state, turn.finished) == (State.READY, False)
    turn.start(Full(Mismatch.CONNECTION_LOST), reused=False)
    second = ConnectionLost("gone again")
    with pytest.raises(UpstreamUnavailable) as raised:
        turn.connection_lost(second)
    assert not isinstance(raised.value, ConnectionLost)
    assert raised.value.__cause__ is second


def test_a_turn_that_may_not_be_sent_again_ends_with_its_first_loss() -> None:
    """Where a second generation must not be risked."""
    turn = Turn(SENT, ambiguous_retries=0)
    turn.start(FULL, reused=False)
    fault = ConnectionLost("gone")
    with pytest.raises(ConnectionLost) as raised:
        turn.connection_lost(fault)
    assert raised.value is fault
    assert turn.state is State.FAILED


def test_an_answer_in_one_piece_is_not_shown_before_its_end() -> None:
    """So a loss in the middle of it is made good."""
    turn = Turn(replace(SENT, stream=False))
    turn.start(FULL, reused=False)
    assert turn.receive(created()) == ()
    assert (turn.begun, turn.shown) == (True, False)
    turn.connection_lost(ConnectionLost("gone"))
    assert turn.again == Again(Mismatch.CONNECTION_LOST, fresh=True)
    turn.start(FULL, reused=False)
    assert turn.receive(created(id="resp_9")) == ()
    shown = turn.receive(event("response.completed", response={"id": "resp_9", "output": []}))
    assert [each.type for each in shown] == ["response.created", "response.completed"]
    assert b"resp_9" in shown[0].raw


def test_events_that_tell_the_agent_nothing_are_not_shown() -> None:
    """They wait for the first that does: until then a loss is made good, and afterwards nothing waits."""
    turn = Turn(SENT, tells=WORD.__eq__)
    turn.start(FULL, reused=False)
    thought = event("response.reasoning_text.delta", delta="hm")
    assert turn.receive(created()) == turn.receive(thought) == ()
    assert (turn.begun, turn.shown) == (True, False)
    turn.connection_lost(ConnectionLost("gone"))
    assert turn.again == Again(Mismatch.CONNECTION_LOST, fresh=True)
    turn.start(FULL, reused=False)
    assert turn.receive(created("resp_9")) == turn.receive(thought) == ()
    assert turn.receive(WORD) == (created("resp_9"), thought, WORD)
    assert turn.shown
    assert turn.receive(thought) == (thought,)
    with pytest.raises(ConnectionLost):
        turn.connection_lost(ConnectionLost("gone"))


def test_how_a_turn_ended_is_shown_whatever_it_tells() -> None:
    """There is nothing to wait for."""
    turn = Turn(SENT, tells=WORD.__eq__)
    turn.start(FULL, reused=False)
    assert turn.receive(created()) == ()
    assert turn.receive(completed(assistant("Hi"))) == (created(), completed(assistant("Hi")))
    assert turn.shown


def test_a_connection_lost_after_the_first_event_ends_the_turn() -> None:
    """The agent has seen part of the answer; a second one would not fit it."""
    turn = started()
    turn.receive(created())
    fault = ConnectionLost("gone", code=1011)
    with pytest.raises(ConnectionLost) as raised:
        turn.connection_lost(fault)
    assert raised.value is fault
    assert (turn.state, turn.again, turn.baseline) == (State.FAILED, None, None)


def test_silence_is_not_asked_twice() -> None:
    """Upstream may be working on it; a second request would cost twice."""
    turn = started()
    with pytest.raises(UpstreamTimeout):
        turn.connection_lost(UpstreamTimeout("first_event_timeout"))
    assert (turn.state, turn.again) == (State.FAILED, None)


def test_a_second_attempt_keeps_nothing_of_the_first() -> None:
    """Outputs, ids and what to do next begin anew."""
    turn = started(reused=False)
    turn.receive(event("keepalive"))
    turn.connection_lost(ConnectionLost("gone"))
    turn.start(Full(Mismatch.CONNECTION_LOST), reused=False)
    assert (turn.again, turn.response_id, turn.baseline) == (None, None, None)
    turn.receive(created("resp_3"))
    turn.receive(completed(assistant("Hi"), response_id="resp_3"))
    assert turn.baseline == Baseline.after(SENT, "resp_3", outputs(assistant("Hi")))


# An agent that speaks another API.


def joined(items: Sequence[Raw]) -> list[Raw]:
    """Tell a response as one message before its calls."""
    words = "".join(item["content"][0]["text"] for item in items if item["type"] == "message")
    calls = [item for item in items if item["type"] != "message"]
    return [assistant(words), *calls] if words else calls


def answered(asked: TurnRequest, *items: JSON, upload: Delta | Full = FULL) -> Baseline:
    """Return what upstream holds once it answered *asked* with *items*."""
    turn = Turn(asked)
    turn.start(upload, reused=isinstance(upload, Delta))
    parent = upload.baseline.response_id if isinstance(upload, Delta) else None
    turn.receive(created(previous_response_id=parent))
    for index, item in enumerate(items):
        turn.receive(done(item, index))
    turn.receive(event("response.completed", response={"id": "resp_2", "output": list(items)}))
    assert turn.baseline is not None
    return turn.baseline


def test_a_response_is_known_as_the_agents_history_tells_it() -> None:
    """Upstream's items are not what a translated history shows; that stays so for the whole chain."""
    asked = replace(request(*HISTORY), echo=joined)
    held = answered(asked, assistant("a"), call(), assistant("b"))
    assert held.retold
    told = [*HISTORY, assistant("ab"), call(), answer()]
    again = replace(request(*told), echo=joined)
    upload = diff(again, held)
    assert isinstance(upload, Delta)
    assert diff(request(*told), held) == Full(Mismatch.HISTORY_CHANGED)
    further = [*told, assistant("c"), user("d")]
    later = answered(again, assistant("c"), upload=upload)
    assert later.retold
    assert isinstance(diff(replace(request(*further), echo=joined), later), Delta)
    assert diff(request(*further), later) == Full(Mismatch.HISTORY_CHANGED)


def test_a_response_that_both_tell_alike_can_be_continued_by_both() -> None:
    """One message, or its calls alone: there is nothing to join."""
    asked = replace(request(*HISTORY), echo=joined)
    held = answered(asked, reasoning("Look"), assistant("a"), call())
    assert not held.retold
    assert isinstance(diff(request(*HISTORY, assistant("a"), call(), answer()), held), Delta)


@pytest.mark.parametrize(
    ("fields", "stored"), [({"store": False}, False), ({"store": True}, True), ({"store": None}, True)]
)
def test_a_response_is_stored_unless_the_agent_says_no(fields: JSON, stored: bool) -> None:  # noqa: FBT001
    """That is the API's default."""
    assert request(*HISTORY, **fields).is_stored is stored


# What belongs to the response before.

EARLIER = event("response.completed", response={"id": "resp_1", "output": []})


@pytest.mark.parametrize("kind", ["response.completed", "response.done"])
def test_the_end_of_the_response_before_is_not_this_ones(kind: str) -> None:
    """Before the response begins it is nobody's; in its middle nothing on the connection can be trusted."""
    earlier = event(kind, response={"id": "resp_1", "output": []})
    turn = Turn(SENT)
    turn.start(delta(), reused=True, earlier="resp_1")
    assert turn.receive(earlier) == ()
    assert turn.state is State.SENT
    turn.receive(continued())
    with pytest.raises(ConnectionLost, match="of an earlier response"):
        turn.receive(earlier)


@pytest.mark.parametrize("kind", ["response.failed", "response.incomplete", "response.cancelled"])
def test_no_other_ending_of_the_response_before_is_this_ones(kind: str) -> None:
    """The agent is not told that its turn failed, or that it was cut short, in the words on another."""
    turn = Turn(SENT)
    turn.start(delta(), reused=True, earlier="resp_1")
    turn.receive(continued())
    with pytest.raises(ConnectionLost, match="of an earlier response"):
        turn.receive(event(kind, response={"id": "resp_1", "error": {"code": "server_error"}}))


def test_a_server_that_gives_all_responses_one_id_is_taken_at_its_word() -> None:
    """Its second response ends as its first did, or fails."""
    turn = Turn(SENT)
    turn.start(FULL, reused=True, earlier="resp_1")
    failed = event("response.failed", response={"id": "resp_1", "error": {"code": "server_error"}})
    assert turn.receive(failed) == (failed,)
    turn = Turn(SENT)
    turn.start(FULL, reused=True, earlier="resp_1")
    turn.receive(event("response.created", response={"id": "resp_1"}))
    assert turn.receive(EARLIER) == (EARLIER,)
    assert turn.state is State.COMPLETED


@pytest.mark.parametrize(
    ("upload", "earlier", "response_id", "is_own"),
    [
        (delta(), "resp_1", "resp_2", True),
        (delta(), "resp_1", "resp_1", False),
        (delta(), None, "resp_2", False),
        (FULL, "resp_1", "resp_2", False),
    ],
)
def test_an_id_is_its_own_where_another_was_continued(
    upload: Delta | Full,
    earlier: str | None,
    response_id: str,
    is_own: bool,  # noqa: FBT001
) -> None:
    """On the same connection: elsewhere, or for another history, a server that shares ids has another, too."""
    turn = Turn(SENT)
    turn.start(upload, reused=True, earlier=earlier)
    assert not turn.has_own_id
    parent = "resp_1" if isinstance(upload, Delta) else None
    turn.receive(created(response_id, previous_response_id=parent))
    turn.receive(completed(response_id=response_id))
    assert turn.baseline is not None
    assert turn.baseline.own_id is is_own


def test_what_is_held_back_has_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer that is shown at its end, and has none, is broken off."""
    monkeypatch.setattr("proxy.core.heldback._MOST", 10 * len(WORD.raw))
    turn = Turn(SENT, tells=lambda shown: shown.terminal)
    turn.start(FULL, reused=False)
    for _ in range(10):
        assert turn.receive(WORD) == ()
    with pytest.raises(ConnectionLost, match="held back") as caught:
        turn.receive(WORD)
    assert caught.value.code == 1009  # over HTTP there is no such limit


@pytest.mark.parametrize("type_", ["response.output_item.added", "response.output_item.done"])
def test_an_answer_without_an_end_is_shown_and_not_kept(monkeypatch: pytest.MonkeyPatch, type_: str) -> None:
    """The agent gets all of it; of more items than are kept, none is, and nothing continues them."""
    endless = [event(type_, output_index=number, item=call(f"call_{number}")) for number in range(10, 30)]
    monkeypatch.setattr("proxy.core.account._MOST_TOLD", sum(len(each.raw) for each in endless[:19]))
    turn = started(reused=False)
    turn.receive(created())
    for each in endless:
        assert turn.receive(each) == (each,)
    assert turn.says_something
    assert not len(turn._account._told)
    turn.receive(completed(*[call(f"call_{number}") for number in range(10, 30)]))
    assert turn.state is State.COMPLETED
    assert turn.baseline is None


@pytest.mark.parametrize("retries", [0, 1])
def test_a_turn_that_is_given_up_counts_as_an_attempt(retries: int) -> None:
    """Freely before it was sent, and afterwards as often as after a loss."""
    turn = Turn(SENT, ambiguous_retries=retries)
    assert turn.may_go_elsewhere()
    turn.start(FULL, reused=False)
    assert [turn.may_go_elsewhere() for _ in range(2)] == [retries > 0, False]
    assert turn.replays.ambiguous == retries
