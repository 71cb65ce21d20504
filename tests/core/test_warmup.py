"""What is kept of a turn so that it can be uploaded again, and when upstream is believed to hold it."""

from typing import Any

import orjson
import pytest
from pooling import request
from said import user

from proxy.core.delta import Delta, Full, Mismatch, TurnRequest, diff
from proxy.core.events import ServerEvent
from proxy.core.hoist import hoist
from proxy.core.turn import Rewrite, Turn
from proxy.core.warmup import Keepsake, WarmUp
from proxy.frontends.base import Readable
from proxy.frontends.chat import Chat

Raw = dict[str, Any]

SAID: Raw = {
    "type": "message",
    "id": "msg_1",
    "status": "completed",
    "role": "assistant",
    "content": [{"type": "output_text", "text": "a", "annotations": []}],
}
SEALED: Raw = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "x"}
OPEN: Raw = {"type": "reasoning", "id": "rs_2", "summary": [{"type": "summary_text", "text": "t"}]}
SEARCH: Raw = {"type": "web_search_call", "id": "ws_1", "status": "completed", "action": {}}


def event(kind: str, **more: Any) -> ServerEvent:
    """Return an event as it crosses the wire."""
    return ServerEvent.parse(orjson.dumps({"type": kind, **more}))


def answered(asked: TurnRequest, *outputs: Raw, rewrites: frozenset[Rewrite] = frozenset(), read: int = 9) -> Turn:
    """Return the turn that was *asked*, completed with *outputs*."""
    turn = Turn(asked, rewrites=rewrites)
    turn.start(Full(Mismatch.FIRST_TURN), reused=False)
    tell(turn, "resp_1", *outputs, read=read)
    return turn


def tell(turn: Turn, response_id: str, *outputs: Raw, read: int | None, ending: str = "completed") -> None:
    """Have upstream answer *turn* with *outputs*."""
    turn.receive(event("response.created", response={"id": response_id}))
    for index, item in enumerate(outputs):
        turn.receive(event("response.output_item.done", output_index=index, item=item))
    last: Raw = {"id": response_id, "status": ending, "model": "m", "output": list(outputs)}
    if read is not None:
        last["usage"] = {"input_tokens": read, "output_tokens": 4}
    turn.receive(event(f"response.{ending}", response=last))


def kept(*outputs: Raw, asked: TurnRequest | None = None, **more: Any) -> Keepsake:
    """Return the keepsake of such a turn."""
    keepsake = Keepsake.of(answered(asked or request(user("a")), *outputs, **more))
    assert keepsake is not None
    return keepsake


def uploaded(warm_up: WarmUp) -> Raw:
    """Return the message that a warm-up sends."""
    message = orjson.loads(bytes(warm_up.start(Full(Mismatch.CONNECTION_LOST), reused=False)))
    assert isinstance(message, dict)
    return message


def test_the_history_and_the_answer_are_uploaded_and_nothing_is_asked() -> None:
    """The settings are the agent's own, and so is `store`."""
    message = uploaded(WarmUp(kept(SEALED, SAID, asked=request(user("a"), instructions="i"))))
    assert message["input"] == [user("a"), SEALED, SAID]
    assert (message["generate"], message["store"], message["instructions"]) == (False, False, "i")
    assert "previous_response_id" not in message


def test_a_text_is_what_a_user_says() -> None:
    """The agent's `input` may be one."""
    message = uploaded(WarmUp(kept(SAID, asked=request(input="hello"))))
    assert message["input"] == [{"type": "message", "role": "user", "content": "hello"}, SAID]


def test_what_was_hoisted_is_hoisted_again() -> None:
    """The chain keeps its form."""
    asked = request(user("a"), instructions="i", tools=[{"type": "function", "name": "f"}]).hoistable()
    keepsake = kept(SAID, asked=asked, rewrites=frozenset({Rewrite.HOISTED, Rewrite.QUIET}))
    warm_up = WarmUp(keepsake)
    message = uploaded(warm_up)
    hoisted = hoist(asked.fields, asked.items)
    assert hoisted is not None
    assert message["input"] == [*hoisted.items, user("a"), SAID]
    assert "instructions" not in message
    assert message["stream_options"] == {"include_obfuscation": False}
    tell(warm_up, "resp_2", read=None)
    assert warm_up.restored is not None
    assert warm_up.restored.hoisted == hoisted.mark


def test_the_next_turn_continues_the_upload() -> None:
    """It names the warm-up's response, and sends what is new."""
    warm_up = WarmUp(kept(SEALED, SAID))
    uploaded(warm_up)
    tell(warm_up, "resp_2", read=30)
    restored = warm_up.restored
    assert restored is not None
    upload = diff(request(user("a"), SEALED, SAID, user("b")), restored)
    assert isinstance(upload, Delta)
    assert upload.baseline.response_id == "resp_2"
    assert [item.raw for item in upload.items] == [user("b")]


def test_reasoning_without_its_ciphertext_is_not_held() -> None:
    """An agent that tells it has to send everything; one that leaves it out goes on."""
    warm_up = WarmUp(kept(OPEN, SAID))
    assert uploaded(warm_up)["input"] == [user("a"), SAID]
    tell(warm_up, "resp_2", read=30)
    assert warm_up.restored is not None
    assert isinstance(diff(request(user("a"), OPEN, SAID, user("b")), warm_up.restored), Full)
    assert isinstance(diff(request(user("a"), SAID, user("b")), warm_up.restored), Delta)


def test_a_chat_is_uploaded_as_it_was_translated() -> None:
    """The agent never sees reasoning, and what it tells is compared with what it was told."""

    def asked(*messages: Raw) -> TurnRequest:
        read = Chat().decode(orjson.dumps({"model": "m", "stream": True, "messages": messages}))
        assert isinstance(read, Readable)
        return read.turn

    first = {"role": "user", "content": "hello"}
    warm_up = WarmUp(kept(OPEN, SAID, asked=asked(first)))
    assert [each.get("type", "message") for each in uploaded(warm_up)["input"]] == ["message", "message"]
    tell(warm_up, "resp_2", read=30)
    assert warm_up.restored is not None
    answer = {"role": "assistant", "content": "a"}
    assert isinstance(diff(asked(first, answer, {"role": "user", "content": "b"}), warm_up.restored), Delta)


@pytest.mark.parametrize(
    "turn",
    [
        answered(request(user("a"), store=True), SAID),
        answered(request(user("a"), truncation="auto"), SAID),
        answered(request(user("a")), SEARCH, SAID),
        Turn(request(user("a"))),
    ],
    ids=["stored", "shortened", "tools of upstream's own", "not completed"],
)
def test_of_some_turns_nothing_is_kept(turn: Turn) -> None:
    """Upstream has them by their id, or might read them in another way."""
    assert Keepsake.of(turn) is None


def test_an_answer_is_not_believed() -> None:
    """Upstream generates all the same: the first sign of it is enough."""
    warm_up = WarmUp(kept(SAID))
    uploaded(warm_up)
    warm_up.receive(event("response.created", response={"id": "resp_2"}))
    assert not warm_up.says_something
    warm_up.receive(event("response.output_item.added", output_index=0, item={"type": "message"}))
    assert warm_up.says_something
    tell(warm_up, "resp_2", SAID, read=30)
    assert warm_up.restored is None


@pytest.mark.parametrize(("read", "believed"), [(None, True), (3, False), (2000, True), (0, True)])
def test_upstream_has_to_read_what_it_was_told(read: int | None, *, believed: bool) -> None:
    """Where it says how much that was."""
    warm_up = WarmUp(kept(SAID, read=2000))
    uploaded(warm_up)
    tell(warm_up, "resp_2", read=read)
    assert (warm_up.restored is not None) is believed


def test_what_the_history_leaves_out_is_not_expected_of_an_upload() -> None:
    """An empty message is in the chain and in no Chat history, so that upstream reads less than it did before."""
    said = Chat().decode(b'{"model":"m","messages":[{"role":"user","content":"a"}]}')
    assert isinstance(said, Readable)
    empty = {**SAID, "content": [{"type": "output_text", "text": "", "annotations": []}]}
    for outputs, weighs in (((SAID,), True), ((empty, SAID), False)):
        keepsake = kept(*outputs, asked=said.turn)
        assert keepsake.baseline.weight is not None
        warm_up = WarmUp(keepsake)
        uploaded(warm_up)
        tell(warm_up, "resp_2", read=None)
        assert warm_up.restored is not None
        assert (warm_up.restored.weight is not None) is weighs


def test_only_a_completed_upload_is_continued() -> None:
    """An incomplete one is nothing to build on, and before its end there is none."""
    warm_up = WarmUp(kept(SAID))
    uploaded(warm_up)
    assert warm_up.restored is None
    tell(warm_up, "resp_2", read=30, ending="incomplete")
    assert warm_up.restored is None


@pytest.mark.parametrize(("read", "believed"), [(None, False), (3, False), (2000, True)])
def test_where_agents_leave_messages_out_upstream_has_to_say_what_it_read(
    read: int | None, *, believed: bool
) -> None:
    """The next turn would be weighed against what the lost chain had, and an honest upstream accused."""
    warm_up = WarmUp(kept(SAID, read=2000), is_counted=True)
    uploaded(warm_up)
    tell(warm_up, "resp_2", read=read)
    assert (warm_up.restored is not None) is believed


@pytest.mark.parametrize(
    ("item", "is_plain"),
    [
        (SAID, True),
        (OPEN, True),
        ({"type": "function_call_output", "call_id": "c", "output": "x"}, True),
        ({"type": "compaction", "encrypted_content": "x"}, True),
        (SEARCH, False),
        ({"type": "item_reference", "id": "msg_1"}, False),
        ({"type": "novelty"}, False),
    ],
    ids=lambda value: value if isinstance(value, bool) else value["type"],
)
def test_some_histories_do_not_tell_all_that_upstream_holds(item: Raw, *, is_plain: bool) -> None:
    """Such as what a search of its own found."""
    assert kept(SAID, asked=request(user("a"), item, user("b"))).is_plain is is_plain
