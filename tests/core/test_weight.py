"""Whether upstream read the chain that it confirmed, told from the tokens that it says it read."""

from typing import Any

import orjson
import pytest
from said import JSON, answer, assistant, call, created, done, event, reasoning, request, user

from proxy.core.delta import Baseline, Delta, Full, Mismatch, TurnRequest, diff
from proxy.core.turn import Again, State, Turn

TOOLS = [{"type": "function", "name": "ls", "parameters": {"description": "x" * 400}}]
SETTINGS: JSON = {"instructions": "y" * 400, "tools": TOOLS}


def usage(read: Any, written: Any = 100, thought: Any = 0, cached: Any = 0) -> JSON:
    """Return a `usage` as the API words it."""
    return {
        "input_tokens": read,
        "input_tokens_details": {"cached_tokens": cached},
        "output_tokens": written,
        "output_tokens_details": {"reasoning_tokens": thought},
        "total_tokens": 0,
    }


def ended(used: Any, *output: JSON, kind: str = "response.completed", **fields: Any) -> Any:
    """Return the last event of a response."""
    return event(kind, response={"id": "resp", "output": list(output), "usage": used, **fields})


class Chain:
    """A conversation that is carried on, turn by turn, with what upstream says it read."""

    def __init__(self, **settings: Any) -> None:
        self.settings = SETTINGS | settings
        self.history: list[JSON] = []
        self.baseline: Baseline | None = None

    def ask(self, *said: JSON, stream: bool = True, **changed: Any) -> TurnRequest:
        """Return the next request."""
        self.history += said or (user("Go on"),)
        return request(*self.history, stream=stream, **{**self.settings, **changed})

    def turn(
        self, used: Any, *output: JSON, said: tuple[JSON, ...] = (), response: JSON | None = None, **changed: Any
    ) -> Turn:
        """Run one turn, as a delta from the second on."""
        asked = self.ask(*said, **changed)
        upload = Full(Mismatch.FIRST_TURN) if self.baseline is None else diff(asked, self.baseline)
        assert self.baseline is None or isinstance(upload, Delta), upload
        turn = Turn(asked)
        turn.start(upload, reused=False)
        turn.receive(created("resp", previous_response_id=self.baseline and self.baseline.response_id))
        items = output or (assistant(f"answer {len(self.history)}"),)
        for index, item in enumerate(items):
            turn.receive(done(item, index))
        turn.receive(ended(used, *items, **(response or {})))
        self.history += items
        self.baseline = turn.baseline or self.baseline
        return turn


def test_a_continuation_that_reads_less_than_its_parent_has_collapsed() -> None:
    """It makes no baseline, and tells what was read and what should have been."""
    chain = Chain()
    assert chain.turn(usage(5000)).collapse is None
    turn = chain.turn(usage(300))
    assert turn.collapse is not None
    assert (turn.collapse.read, turn.collapse.expected) == (300, 5000 + 75 - 16)
    assert turn.baseline is None
    assert (turn.state, turn.again) == (State.COMPLETED, None)


@pytest.mark.parametrize(("read", "collapsed"), [(5058, True), (5059, False), (5100, False), (9000, False)])
def test_the_parents_own_words_count(read: int, *, collapsed: bool) -> None:
    """Three quarters of what the parent said, and all that it read, less a few tokens, is the least."""
    chain = Chain()
    chain.turn(usage(5000, 100))
    assert (chain.turn(usage(read)).collapse is not None) is collapsed


def test_a_chain_that_replays_only_its_last_link_is_found_out() -> None:
    """LocalAI's: the second turn reads everything, the third lacks the first."""
    chain = Chain()
    assert chain.turn(usage(4000)).collapse is None
    assert chain.turn(usage(4150)).collapse is None
    assert chain.turn(usage(1200)).collapse is not None


def test_an_honest_chain_is_never_accused() -> None:
    """Each turn reads what the one before read and said, and its own."""
    chain, read = Chain(), 2000
    for n in range(50):
        assert chain.turn(usage(read, 80 + n, cached=read // 2)).collapse is None
        read += 80 + n + 5


# What an honest upstream may leave out


def test_reasoning_may_be_forgotten() -> None:
    """Servers drop it when the user speaks again: all there was in the chain may go."""
    chain = Chain()
    chain.turn(usage(2000, 900, 800), reasoning("a"), call())
    chain.turn(usage(2910, 700, 600), reasoning("b", id="rs_2"), assistant("done"), said=(answer(),))
    assert chain.turn(usage(2000 + 100 + 10 + 100 + 5)).collapse is None
    honest = chain.baseline
    assert honest is not None
    assert chain.turn(usage(500)).collapse is not None


def test_reasoning_that_the_agent_sent_may_be_forgotten_too() -> None:
    """Its tokens are unknown, but no more than its bytes."""
    sealed = reasoning("a", encrypted_content="x" * 3000)
    chain = Chain()
    chain.turn(usage(4000), said=(user("a"), sealed, assistant("b"), user("c")))
    assert chain.turn(usage(1100)).collapse is None
    chain = Chain()
    chain.turn(usage(4000), said=(user("a"), sealed, assistant("b"), user("c")))
    assert chain.turn(usage(800)).collapse is not None


def test_a_reference_may_be_to_reasoning() -> None:
    """What it stands for may be forgotten as well, and is of unknown length: no verdict on such a chain."""
    chain = Chain()
    chain.turn(usage(5000), said=(user("a"), {"type": "item_reference", "id": "rs_1"}, user("b")))
    assert chain.turn(usage(300)).collapse is None
    assert chain.turn(usage(100)).collapse is None


def test_thoughts_that_nobody_counted_are_not_expected() -> None:
    """Where reasoning is there and its tokens are not, all of the output may have been reasoning."""
    for details in ({"reasoning_tokens": 0}, {}, None, {"reasoning_tokens": "many"}):
        chain = Chain()
        chain.turn({**usage(1000, 5000), "output_tokens_details": details}, reasoning("a"), call())
        assert chain.turn(usage(1010), said=(answer(),)).collapse is None


@pytest.mark.parametrize(
    "changed",
    [
        {"instructions": "z"},
        {"tools": None},
        {"tool_choice": "none"},
        {"text": {"format": {"type": "text"}}},
        {"reasoning": {"effort": "low"}},
    ],
)
def test_settings_may_shrink(changed: JSON) -> None:
    """What was in the prompt for a setting may go with it, up to its size in bytes."""
    chain = Chain()
    chain.turn(usage(1000))
    assert chain.turn(usage(660), **changed).collapse is None
    chain = Chain()
    chain.turn(usage(50_000))
    assert chain.turn(usage(660), **changed).collapse is not None


def test_settings_that_are_not_in_the_prompt_excuse_nothing() -> None:
    """A new cache key makes no history shorter."""
    chain = Chain()
    chain.turn(usage(1000))
    assert chain.turn(usage(660), prompt_cache_key="b", metadata={"a": "b"}, temperature=0).collapse is not None


@pytest.mark.parametrize(
    "settings", [{"truncation": "auto"}, {"context_management": [{"type": "compaction"}]}, {"transforms": ["x"]}]
)
def test_upstream_may_shorten_a_history_when_asked_to(settings: JSON) -> None:
    """Truncation, compaction, and fields that nobody knows: no verdict."""
    chain = Chain(**settings)
    chain.turn(usage(5000))
    assert chain.turn(usage(300)).collapse is None


def test_the_default_of_truncation_excuses_nothing() -> None:
    """Spelt out or null, it is no truncation."""
    for value in ("disabled", None):
        chain = Chain(truncation=value)
        chain.turn(usage(5000))
        assert chain.turn(usage(300)).collapse is not None


@pytest.mark.parametrize("kind", ["compaction", "context_compaction", "compaction_trigger"])
def test_compaction_starts_over(kind: str) -> None:
    """From the agent or from the model, it may stand for everything before; after it the new prompt counts."""
    chain = Chain()
    chain.turn(usage(5000))
    item = {"type": kind, "id": "cmp_1", "encrypted_content": "c"}
    assert chain.turn(usage(700), said=(item, user("Go on"))).collapse is None
    assert chain.turn(usage(300)).collapse is not None
    chain = Chain()
    chain.turn(usage(5000), {**item, "type": "compaction"})
    assert chain.turn(usage(300)).collapse is None


def test_a_tool_of_upstreams_own_reads_again_and_again() -> None:
    """The tokens of a search are summed up, and its results are not kept: the next turn may read less."""
    chain = Chain()
    search = {"id": "ws_1", "type": "web_search_call", "status": "completed"}
    chain.turn(usage(9000), search, assistant("found"))
    assert chain.turn(usage(1500)).collapse is None
    assert chain.turn(usage(300)).collapse is not None


def test_another_model_counts_otherwise() -> None:
    """Where upstream says that another model answered, tokens do not compare."""
    chain = Chain()
    chain.turn(usage(5000), response={"model": "a"})
    assert chain.turn(usage(3000), response={"model": "b"}).collapse is None
    assert chain.turn(usage(300), response={"model": "b"}).collapse is not None


def test_cached_tokens_may_be_counted_apart() -> None:
    """More of them than were read can only mean that they are not among them."""
    chain = Chain()
    chain.turn(usage(5000))
    assert chain.turn(usage(120, cached=5000)).collapse is None


@pytest.mark.parametrize(
    "used",
    [
        None,
        "5",
        [],
        {},
        usage(0),
        usage(-1),
        usage("300"),
        usage(300.0),
        usage(None),
        usage(True),  # noqa: FBT003
        usage(300, None),
        usage(300, -5),
    ],
)
def test_usage_without_sense_is_no_verdict(used: Any) -> None:
    """Missing, zero or garbled, now or before."""
    chain = Chain()
    chain.turn(usage(5000))
    assert chain.turn(used).collapse is None
    assert chain.baseline is not None
    assert chain.turn(usage(300)).collapse is None
    chain = Chain()
    chain.turn(used)
    assert chain.turn(usage(300)).collapse is None
    assert chain.turn(usage(100)).collapse is None


@pytest.mark.parametrize("details", [None, [], "x", {}, {"cached_tokens": "all", "reasoning_tokens": -1}])
def test_details_without_sense_are_none(details: Any) -> None:
    """The totals still count."""
    used = {**usage(5000), "input_tokens_details": details, "output_tokens_details": details}
    chain = Chain()
    chain.turn(used)
    assert chain.turn({**used, "input_tokens": 300}).collapse is not None


# What is done about it


def whole(kind: str = "response.completed") -> tuple[Turn, list[Any]]:
    """Return a turn that is not streamed, whose chain has collapsed, and what was shown of it."""
    chain = Chain()
    chain.turn(usage(5000))
    assert chain.baseline is not None
    asked = chain.ask(stream=False)
    upload = diff(asked, chain.baseline)
    turn = Turn(asked)
    turn.start(upload, reused=True)
    said = assistant("who?")
    events = [created("resp"), done(said), event("response.novelty"), ended(usage(300), said, kind=kind)]
    return turn, [turn.receive(each) for each in events]


@pytest.mark.parametrize("kind", ["response.completed", "response.incomplete"])
def test_a_whole_answer_is_asked_for_again(kind: str) -> None:
    """Nothing of it was shown: it is sent in full, on a fresh connection, and that answer is shown."""
    turn, shown = whole(kind)
    assert shown == [(), (), (), ()]
    assert turn.again == Again(Mismatch.CHAIN_COLLAPSED, fresh=True)
    assert (turn.finished, turn.baseline) == (False, None)
    message = orjson.loads(bytes(turn.start(Full(Mismatch.CHAIN_COLLAPSED), reused=False)))
    assert "previous_response_id" not in message
    assert len(message["input"]) == 3
    assert turn.reading is None  # of this attempt
    assert turn.receive(created("resp_3")) == ()
    shown_now = turn.receive(ended(usage(300), assistant("right"), id="resp_3"))
    assert [each.type for each in shown_now] == ["response.created", kind.replace("incomplete", "completed")]
    assert turn.finished
    assert turn.baseline is not None


def test_a_whole_answer_of_an_honest_chain_is_shown_in_one_go() -> None:
    """All its events, in their order, once the last has told what was read."""
    chain = Chain()
    chain.turn(usage(5000))
    assert chain.baseline is not None
    asked = chain.ask(stream=False)
    turn = Turn(asked)
    turn.start(diff(asked, chain.baseline), reused=True)
    assert turn.receive(event("keepalive")) == ()
    assert turn.receive(created("resp")) == ()
    assert turn.receive(event("response.novelty")) == ()
    shown = turn.receive(ended(usage(5200), assistant("right")))
    assert [each.type for each in shown] == [
        "keepalive",
        "response.created",
        "response.novelty",
        "response.completed",
    ]
    assert turn.baseline is not None


def test_an_error_in_a_whole_answer_follows_what_was_kept() -> None:
    """An error in mid-stream ends the turn, with everything before it."""
    chain = Chain()
    chain.turn(usage(5000))
    assert chain.baseline is not None
    asked = chain.ask(stream=False)
    turn = Turn(asked)
    turn.start(diff(asked, chain.baseline), reused=True)
    turn.receive(created("resp"))
    turn.receive(event("response.output_text.delta", delta="Hi"))
    shown = turn.receive(event("error", error={"code": "server_error"}))
    assert [each.type for each in shown] == ["response.created", "response.output_text.delta", "error"]
    assert turn.state is State.FAILED


def unconfirmed(*, trusted: bool = False, tokens: int | None = 5000) -> Turn:
    """Return a streamed delta whose answer has begun, and names no parent."""
    chain = Chain()
    chain.turn(usage(tokens, min(tokens, 100)) if tokens is not None else None)
    assert chain.baseline is not None
    asked = chain.ask()
    turn = Turn(asked)
    turn.trusts_chains = trusted
    upload = diff(asked, chain.baseline)
    assert isinstance(upload, Delta)
    turn.start(upload, reused=False)
    turn.receive(event("response.created", response={"id": "resp"}))
    return turn


def test_an_answer_that_names_no_parent_is_shown_once_it_is_weighed() -> None:
    """Until then nobody knows whether upstream read the history."""
    turn = unconfirmed()
    assert not turn.receive(done(assistant("Hi"), 0))
    assert len(turn.receive(ended(usage(5200), assistant("Hi")))) == 3
    assert turn.shown
    assert turn.baseline is not None


def test_an_answer_that_names_no_parent_and_weighs_too_little_is_not_shown() -> None:
    """The turn is sent again in full."""
    turn = unconfirmed()
    assert not turn.receive(done(assistant("Hi"), 0))
    assert not turn.receive(ended(usage(40), assistant("Hi")))
    assert turn.again is not None
    assert turn.again.fresh
    assert turn.collapse is not None
    assert not turn.collapse.shown


@pytest.mark.parametrize("known", [{"trusted": True}, {"tokens": None}, {"tokens": 4}])
def test_an_answer_that_names_no_parent_is_read_along(known: Any) -> None:
    """Where upstream has proven that it keeps chains, and where there is no telling, or too little was said."""
    assert unconfirmed(**known).receive(done(assistant("Hi"), 0))


def test_three_turns_prove_that_chains_are_kept() -> None:
    """Two do not: some servers replay the parent's own items. Nor does what has no verdict."""
    chain = Chain()
    assert not chain.turn(usage(5000)).proves_chains
    assert not chain.turn(usage(5200)).proves_chains
    assert chain.turn(usage(5400)).proves_chains
    assert not chain.turn(usage(5400), response={"model": "another"}).proves_chains
