"""The one loop, without a server in front of it: a turn, real connections, and what is delivered."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

import orjson
import pytest
from pooling import WAITS, Conversation, Pooled, Shown, request
from said import assistant, user
from websockets.asyncio.server import ServerConnection, serve

from proxy.core.delta import Delta, Full, Mismatch, TurnRequest
from proxy.core.events import ServerEvent
from proxy.core.turn import State
from proxy.errors import ConnectionLost, UpstreamError, UpstreamTimeout
from proxy.exchange import PlainHTTP
from proxy.frontends.base import Readable
from proxy.frontends.chat import Chat
from proxy.ledger import Traffic
from proxy.simulator import Fault, Incomplete, Simulator, says, scripted

Speaking = Callable[..., Awaitable[str]]


@pytest.fixture
async def pooled(simulator: Simulator) -> AsyncIterator[Pooled]:
    """Return a pool towards the simulator."""
    async with Pooled(simulator.base_url) as pooled:
        yield pooled


def chat(text: str, **fields: Any) -> TurnRequest:
    """Return the request of an agent that speaks Chat Completions."""
    messages = [{"role": "user", "content": text}]
    read = Chat().decode(orjson.dumps({"model": "gpt-5.5", "stream": True, "messages": messages, **fields}))
    assert isinstance(read, Readable)
    return read.turn


async def plain_http(pooled: Pooled, asked: Any, shown: Shown | None = None) -> Mismatch:
    """Return why *asked* should go over HTTP."""
    with pytest.raises(PlainHTTP) as caught:
        await pooled.exchange(asked).run(shown or Shown())
    assert str(caught.value) == caught.value.reason
    return caught.value.reason


# What is delivered


async def test_every_event_is_delivered_once_and_in_order(pooled: Pooled, simulator: Simulator) -> None:
    """From response.created to the terminal event, as upstream numbered them."""
    exchange, shown = pooled.exchange(request(user("hello"))), Shown()
    await exchange.run(shown)
    assert exchange.turn.state is State.COMPLETED
    assert (shown.types[0], shown.types[-1]) == ("response.created", "response.completed")
    assert [event.json()["sequence_number"] for event in shown.events] == list(range(len(shown.events)))
    assert len(shown.events) == simulator.turns[0].events_sent


async def test_a_conversation_is_continued_with_deltas(pooled: Pooled, simulator: Simulator) -> None:
    """Each turn sends what is new, and the model reads all of it."""
    conversation, uploads = Conversation(), []
    for text in "abc":
        asked, shown = conversation.says(text), Shown()
        exchange = pooled.exchange(asked)
        await exchange.run(shown)
        uploads.append(exchange.turn.upload)
        assert simulator.turns[-1].context == conversation.history
        assert len(simulator.turns[-1].input) == 1
        conversation.hears(shown.output)
    assert [type(upload) for upload in uploads] == [Full, Delta, Delta]


async def test_an_agent_that_reads_slowly_gets_everything(pooled: Pooled, simulator: Simulator) -> None:
    """The next event is waited for when the last one was taken."""
    shown, go, sizes = Shown(), asyncio.Event(), []

    async def deliver(events: Any) -> None:
        await shown(events)
        sizes.append(len(events))
        if len(sizes) == 2:
            await go.wait()

    task = asyncio.get_running_loop().create_task(pooled.exchange(request(user("hello"))).run(deliver))
    await simulator.until(lambda: simulator.turns != [] and simulator.turns[0].finished)
    assert len(sizes) <= 2
    assert max(sizes) < simulator.turns[0].events_sent
    go.set()
    await task
    assert len(shown.events) == simulator.turns[0].events_sent


async def test_pieces_that_come_alone_are_shown_where_they_arrive(stack: AsyncExitStack) -> None:
    """Only pieces, once the answer has begun, and in their order; what is refused there is delivered."""
    shown, now = Shown(), []
    taken = asyncio.Semaphore(0)
    kinds = ["created", *["output_text.delta"] * 3, "output_item.done", *["output_text.delta"] * 3, "completed"]
    frames = [
        {"type": f"response.{kind}", "number": number, "item": {}, "response": {"id": "resp_1", "output": []}}
        for number, kind in enumerate(kinds)
    ]

    async def speak(socket: ServerConnection) -> None:
        await socket.recv()
        for each in frames:
            await socket.send(orjson.dumps(each).decode())
            await taken.acquire()

    async def deliver(events: Any) -> None:
        await shown(events)
        taken.release()

    def show_now(event: ServerEvent) -> bool:
        if event.json()["number"] == 6:
            return False
        shown.events.append(event)
        now.append(event.json()["number"])
        taken.release()
        return True

    server = await stack.enter_async_context(serve(speak, "127.0.0.1", 0))
    async with Pooled("http://{}:{}/v1".format(*next(iter(server.sockets)).getsockname())) as pooled:
        exchange = pooled.exchange(request(user("a")))
        await exchange.run(deliver, show_now)
    assert [event.json()["number"] for event in shown.events] == list(range(9))
    assert now == [1, 2, 3, 5, 7]


async def test_a_piece_of_an_item_that_is_never_told_is_known_of(stack: AsyncExitStack) -> None:
    """The agent has it and upstream may not: the next turn cannot go on from there."""

    async def speak(socket: ServerConnection) -> None:
        await socket.recv()
        for kind in ("created", "output_text.delta", "completed"):
            event = {"type": f"response.{kind}", "response": {"id": "resp_1", "output": []}}
            await socket.send(orjson.dumps(event).decode())
            await taken.acquire()

    async def deliver(_events: Any) -> None:
        taken.release()

    def show_now(_event: ServerEvent) -> bool:
        taken.release()
        return True

    taken = asyncio.Semaphore(0)
    server = await stack.enter_async_context(serve(speak, "127.0.0.1", 0))
    async with Pooled("http://{}:{}/v1".format(*next(iter(server.sockets)).getsockname())) as pooled:
        exchange = pooled.exchange(request(user("a")))
        await exchange.run(deliver, show_now)
        assert exchange.turn.state is State.COMPLETED
        assert exchange.turn.baseline is None


async def test_a_piece_that_cannot_be_shown_at_once_fails_where_that_is_told(stack: AsyncExitStack) -> None:
    """What goes wrong in showing it is raised by the turn, once, and not in the connection's callback."""

    async def speak(socket: ServerConnection) -> None:
        await socket.recv()
        await socket.send(orjson.dumps(CREATED).decode())
        await begun.wait()
        await socket.send('{"type":"response.output_text.delta"}')
        await socket.wait_closed()

    async def deliver(events: Any) -> None:
        begun.set()
        assert not events[0].is_piece

    def show_now(_event: ServerEvent) -> bool:
        raise ZeroDivisionError

    begun = asyncio.Event()
    server = await stack.enter_async_context(serve(speak, "127.0.0.1", 0))
    async with Pooled("http://{}:{}/v1".format(*next(iter(server.sockets)).getsockname())) as pooled:
        with pytest.raises(ZeroDivisionError):
            await pooled.exchange(request(user("a"))).run(deliver, show_now)


async def test_events_that_arrive_together_are_delivered_together(
    speaking: Speaking, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A burst costs the agent few writes, and of its events only those are parsed that mean something to us."""
    parsed: list[str] = []
    parse = ServerEvent.json

    def noted(event: ServerEvent) -> dict[str, Any]:
        parsed.append(event.type)
        return parse(event)

    monkeypatch.setattr(ServerEvent, "json", noted)
    deltas = [{"type": "response.output_text.delta", "delta": str(number)} for number in range(500)]
    completed = {"type": "response.completed", "response": {"id": "resp_1", "output": []}}
    sizes, shown = [], Shown()

    async def deliver(events: Any) -> None:
        sizes.append(len(events))
        await shown(events)
        await asyncio.sleep(0)

    async with Pooled(await speaking(CREATED, *deltas, completed)) as pooled:
        await pooled.exchange(request(user("a"))).run(deliver)
    assert sum(sizes) == 502
    assert len(sizes) < 250
    assert max(sizes) <= 64
    assert {*parsed} == {"response.created", "response.completed"}
    numbers = [orjson.loads(event.raw)["delta"] for event in shown.events[1:-1]]
    assert numbers == [str(number) for number in range(500)]


async def test_an_agent_that_is_gone_ends_the_connection(pooled: Pooled, simulator: Simulator) -> None:
    """What delivering raises is raised, and the connection isn't used again."""

    async def deliver(events: Any) -> None:
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        await pooled.exchange(request(user("hello"))).run(deliver)
    await simulator.until(lambda: simulator.connections[0].closed)
    assert pooled.partition.slots == {}
    assert len(simulator.turns) == 1


async def test_a_turn_that_is_cancelled_ends_the_connection(pooled: Pooled, simulator: Simulator) -> None:
    """Cancelling is immediate, in the middle of the model's thoughts."""
    simulator.settings.first_event_seconds = 3600
    task = asyncio.get_running_loop().create_task(pooled.exchange(request(user("hello"))).run(Shown()))
    await simulator.until(lambda: len(simulator.turns) == 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await simulator.until(lambda: simulator.connections[0].closed)
    assert pooled.partition.slots == {}


async def test_an_answer_that_is_not_complete_leaves_no_baseline(pooled: Pooled, simulator: Simulator) -> None:
    """The turn has ended, and its connection with it."""
    simulator.script = scripted([says("half", finish=Incomplete())])
    exchange, shown = pooled.exchange(request(user("hello"))), Shown()
    await exchange.run(shown)
    assert exchange.turn.state is State.INCOMPLETE
    assert shown.types[-1] == "response.incomplete"
    assert pooled.partition.slots == {}


# Attempts


async def test_a_miss_is_sent_again_on_the_same_connection(pooled: Pooled, simulator: Simulator) -> None:
    """In full, and nothing of the first attempt is delivered."""
    conversation, shown = Conversation(), Shown()
    await pooled.exchange(conversation.says("a")).run(shown)
    conversation.hears(shown.output)
    simulator.inject(Fault("before_created", "error", status=400, code="previous_response_not_found"))
    exchange, shown = pooled.exchange(conversation.says("b")), Shown()
    await exchange.run(shown)
    assert "error" not in shown.types
    assert exchange.turn.attempts == 2
    assert exchange.turn.upload == Full(Mismatch.UPSTREAM_FORGOT)
    assert [turn.connection_id for turn in simulator.turns] == [0, 0, 0]


async def test_a_loss_is_sent_again_on_a_new_connection(pooled: Pooled, simulator: Simulator) -> None:
    """Also where another connection would be free: it might be as dead."""
    for text in "xy":
        await pooled.exchange(request(user(text))).run(Shown())
    simulator.inject(Fault("before_created", "abort"))
    exchange = pooled.exchange(request(user("a")))
    await exchange.run(Shown())
    assert exchange.turn.attempts == 2
    assert exchange.turn.upload == Full(Mismatch.CONNECTION_LOST)
    assert [turn.connection_id for turn in simulator.turns] == [0, 1, 2, 3]


async def test_two_losses_are_for_http(pooled: Pooled, simulator: Simulator) -> None:
    """The WebSocket had its chance."""
    simulator.inject(Fault("before_created", "abort", times=None))
    exchange = pooled.exchange(request(user("a")))
    with pytest.raises(PlainHTTP) as caught:
        await exchange.run(Shown())
    assert caught.value.reason is Mismatch.CONNECTION_LOST
    assert exchange.turn.attempts == 2


async def test_a_loss_where_no_second_connection_can_be_had_is_for_http(
    pooled: Pooled, simulator: Simulator
) -> None:
    """The new connection that a loss asks for may be refused."""
    await pooled.exchange(request(user("x"))).run(Shown())
    simulator.inject(Fault("before_created", "abort"))
    simulator.inject(Fault("handshake", "error", status=503))
    conversation = Conversation()
    conversation.history = [user("x"), *simulator.turns[0].output]
    assert await plain_http(pooled, conversation.says("a")) is Mismatch.NO_WEBSOCKET


async def test_nothing_is_sent_again_once_something_was_delivered(pooled: Pooled, simulator: Simulator) -> None:
    """A loss in mid-stream is the agent's to deal with."""
    simulator.inject(Fault("after_created", "abort"))
    exchange, shown = pooled.exchange(request(user("a"))), Shown()
    with pytest.raises(ConnectionLost):
        await exchange.run(shown)
    assert exchange.turn.state is State.FAILED
    assert shown.types == ["response.created"]
    assert len(simulator.turns) == 1


@pytest.mark.parametrize(("when", "name"), [("before_created", "first_event"), ("after_created", "event")])
async def test_silence_is_not_sent_again(pooled: Pooled, simulator: Simulator, when: Any, name: str) -> None:
    """The model may be at work: the limit that ran out is named, and there is one attempt."""
    pooled.waits = replace(WAITS, **dict[str, Any]({f"{name}_timeout": 0.05}))
    simulator.inject(Fault(when, "silence"))
    with pytest.raises(UpstreamTimeout, match=rf"\({name}_timeout\)"):
        await pooled.exchange(request(user("a"))).run(Shown())
    assert len(simulator.turns) == 1
    assert pooled.partition.slots == {}


async def test_a_refusal_is_upstreams_own(pooled: Pooled, simulator: Simulator) -> None:
    """Nothing was delivered, and the connection is closed."""
    simulator.inject(Fault("before_created", "error", status=429, retry_after=3))
    exchange, shown = pooled.exchange(request(user("a"))), Shown()
    with pytest.raises(UpstreamError) as caught:
        await exchange.run(shown)
    assert (caught.value.status, caught.value.headers["retry-after"]) == (429, "3")
    assert shown.events == []
    assert exchange.turn.state is State.FAILED
    assert pooled.partition.slots == {}


# What HTTP may fare better with


def refused(status: int, **error: Any) -> Fault:
    """Return a refusal over a WebSocket, time and again."""
    return Fault("before_created", "error", status=status, times=None, **{"code": "bad_request", **error})


async def test_what_a_websocket_refuses_is_asked_over_http(pooled: Pooled, simulator: Simulator) -> None:
    """Without packlight it would have been. Where HTTP takes it, the conversation stays there for a while."""
    simulator.inject(refused(400, match=lambda asked: "odd" in str(asked)))
    odd = request(user("odd"))
    with pytest.raises(PlainHTTP, match="websocket_refused") as caught:
        await pooled.exchange(odd).run(Shown())
    caught.value.accepted()
    assert await plain_http(pooled, request(user("odd"), assistant("yes"), user("more"))) == "websocket_refused"
    assert len(simulator.turns) == 1
    await pooled.exchange(request(user("plain"))).run(Shown())
    pooled.clock.advance(300)
    assert await plain_http(pooled, odd) == "websocket_refused"
    assert len(simulator.turns) == 3


async def test_what_http_refuses_too_is_asked_there_once(pooled: Pooled, simulator: Simulator) -> None:
    """What is wrong with a request costs one upload more, and not each time; another one may be asked."""
    simulator.inject(refused(422))
    assert await plain_http(pooled, request(user("a"))) == "websocket_refused"
    for _ in range(2):
        with pytest.raises(UpstreamError):
            await pooled.exchange(request(user("a"))).run(Shown())
    assert await plain_http(pooled, request(user("b"))) == "websocket_refused"
    pooled.clock.advance(300)
    assert await plain_http(pooled, request(user("a"))) == "websocket_refused"
    assert len(simulator.turns) == 5


@pytest.mark.parametrize("status", [500, 502])
async def test_one_fault_is_no_verdict(pooled: Pooled, simulator: Simulator, status: int) -> None:
    """It may pass; a second one that HTTP does not have leaves the conversation to HTTP."""
    simulator.inject(refused(status, code="server_error"))
    for _ in range(2):
        with pytest.raises(PlainHTTP, match="websocket_refused") as caught:
            await pooled.exchange(request(user("a"))).run(Shown())
        caught.value.accepted()
    assert len(simulator.turns) == 2
    assert await plain_http(pooled, request(user("a"))) == "websocket_refused"
    assert len(simulator.turns) == 2


@pytest.mark.parametrize(
    "fault",
    [
        refused(400, code="context_length_exceeded"),
        refused(400, code=None, message="This model's maximum context length is 8 tokens."),
        refused(400, code="invalid_prompt"),
        refused(400, code="cyber_policy_violation"),
        refused(401),
        refused(403),
        refused(429),
        refused(500, retry_after=3),
        refused(503),
        refused(504),
    ],
    ids=repr,
)
async def test_what_would_be_the_same_over_http_is_not_asked_there(
    pooled: Pooled, simulator: Simulator, fault: Fault
) -> None:
    """What was said is too long or not allowed; upstream is busy, or the key is; the model may be at work."""
    simulator.inject(fault)
    with pytest.raises(UpstreamError) as caught:
        await pooled.exchange(request(user("a"))).run(Shown())
    assert caught.value.status == fault.status


# Events that make no sense


CREATED = {"type": "response.created", "response": {"id": "resp_1"}}


async def test_nonsense_before_the_first_event_is_a_loss(speaking: Speaking) -> None:
    """It is tried once more, and then left to HTTP."""
    async with Pooled(await speaking('{"type":"response.created"')) as pooled:
        exchange, shown = pooled.exchange(request(user("a"))), Shown()
        with pytest.raises(PlainHTTP) as caught:
            await exchange.run(shown)
        assert caught.value.reason is Mismatch.CONNECTION_LOST
        assert (exchange.turn.attempts, shown.events) == (2, [])


async def test_much_without_a_response_is_a_loss(speaking: Speaking) -> None:
    """What comes before a response is kept for the agent, but not without a bound."""
    async with Pooled(await speaking(*[{"type": "keepalive"}] * 1001)) as pooled:
        exchange, shown = pooled.exchange(request(user("a"))), Shown()
        with pytest.raises(PlainHTTP) as caught:
            await exchange.run(shown)
        assert caught.value.reason is Mismatch.CONNECTION_LOST
        assert (exchange.turn.attempts, shown.events) == (2, [])


async def test_what_comes_before_a_response_is_no_answer(stack: AsyncExitStack) -> None:
    """The wait for it is one, however often upstream says that it is still there."""

    async def speak(socket: ServerConnection) -> None:
        while True:
            await socket.send('{"type":"keepalive"}')
            await asyncio.sleep(0.02)

    server = await stack.enter_async_context(serve(speak, "127.0.0.1", 0))
    base_url = "http://{}:{}/v1".format(*next(iter(server.sockets)).getsockname())
    waits = replace(WAITS, first_event_timeout=0.3)
    async with Pooled(base_url, waits=waits, clock=asyncio.get_running_loop().time) as pooled:
        exchange, shown = pooled.exchange(request(user("a"))), Shown()
        with pytest.raises(UpstreamTimeout, match="first_event_timeout"):
            async with asyncio.timeout(10):
                await exchange.run(shown)
        assert (exchange.turn.attempts, shown.events) == (1, [])


@pytest.mark.parametrize(
    "frame",
    ["nonsense", '{"type":"response.completed","resp', '{"type":"error",'],
    ids=["no-event", "cut-off", "cut-off-error"],
)
async def test_nonsense_in_mid_stream_is_a_loss(speaking: Speaking, frame: Any) -> None:
    """What was delivered can't be taken back: the exchange raises, and a baseline is out of the question."""
    async with Pooled(await speaking(CREATED, frame)) as pooled:
        exchange, shown = pooled.exchange(request(user("a"))), Shown()
        if frame == '{"type":"error",':
            await exchange.run(shown)  # an error is passed on as it is
            assert exchange.turn.state is State.FAILED
        else:
            with pytest.raises(ConnectionLost):
                await exchange.run(shown)
            assert shown.types == ["response.created"]
        assert pooled.partition.slots == {}


async def test_a_response_with_another_id_than_it_began_with_is_no_baseline(speaking: Speaking) -> None:
    """The answer is delivered; what upstream holds is uncertain."""
    completed = {"type": "response.completed", "response": {"id": "resp_2", "output": []}}
    async with Pooled(await speaking(CREATED, completed)) as pooled:
        exchange, shown = pooled.exchange(request(user("a"))), Shown()
        await exchange.run(shown)
        assert shown.types == ["response.created", "response.completed"]
        assert exchange.turn.baseline is None
        assert pooled.partition.slots == {}


# Where HTTP is the way


async def test_a_busy_pool_is_for_http(simulator: Simulator) -> None:
    """There is no waiting for somebody else's turn."""
    async with (
        Pooled(simulator.base_url, max_connections=1) as pooled,
        pooled.pool.lease(request(user("a")), pooled.partition),
    ):
        assert await plain_http(pooled, request(user("b"))) is Mismatch.BUSY


async def test_an_upstream_without_websocket_is_for_http(pooled: Pooled, simulator: Simulator) -> None:
    """The reason is in the figures' words."""
    simulator.settings.refuse_upgrade = 426
    assert await plain_http(pooled, request(user("a"))) is Mismatch.NO_WEBSOCKET


async def test_a_full_history_over_the_limit_is_for_http_without_a_connection(
    pooled: Pooled, simulator: Simulator
) -> None:
    """Nobody is evicted, and nothing is opened, for what can't be sent."""
    pooled.waits = replace(WAITS, max_message_bytes=2000)
    assert await plain_http(pooled, request(user("a" * 2000))) is Mismatch.TOO_LARGE
    assert simulator.requests == []


async def test_a_delta_over_the_limit_is_for_http_and_leaves_the_baseline(
    pooled: Pooled, simulator: Simulator
) -> None:
    """The chain waits for a turn that fits; what was not sent was no attempt."""
    pooled.waits = replace(WAITS, max_message_bytes=2000)
    conversation, shown = Conversation(), Shown()
    await pooled.exchange(conversation.says("a")).run(shown)
    conversation.hears(shown.output)
    exchange = pooled.exchange(request(*conversation.history, user("b" * 2000)))
    with pytest.raises(PlainHTTP) as caught:
        await exchange.run(Shown())
    assert caught.value.reason is Mismatch.TOO_LARGE
    assert exchange.turn.attempts == 0
    exchange = pooled.exchange(conversation.says("b"))
    await exchange.run(Shown())
    assert isinstance(exchange.turn.upload, Delta)


@pytest.mark.parametrize("spare", [-1, 0])
async def test_the_limit_is_exact(pooled: Pooled, simulator: Simulator, spare: int) -> None:
    """A delta of max_message_bytes is sent; with one byte more it would not be."""
    conversation = Conversation()
    for text in "ab":
        shown = Shown()
        await pooled.exchange(conversation.says(text)).run(shown)
        conversation.hears(shown.output)
    size = simulator.turns[1].raw_size  # the next delta is as long
    pooled.waits = replace(WAITS, max_message_bytes=size + spare)
    asked = conversation.says("c")
    if spare < 0:
        assert await plain_http(pooled, asked) is Mismatch.TOO_LARGE
        assert len(simulator.turns) == 2
    else:
        await pooled.exchange(asked).run(Shown())
        assert simulator.turns[2].raw_size == size


async def test_nulls_that_a_websocket_refuses_are_for_http_for_a_while(
    pooled: Pooled, simulator: Simulator
) -> None:
    """Some agents write null for what they leave unset: where upstream minds, HTTP gets it as it is."""
    simulator.settings.reject_nulls = True
    asked = request(user("a"), temperature=None)
    with pytest.raises(PlainHTTP, match="unsupported_field") as caught:
        await pooled.exchange(asked).run(Shown())
    assert await plain_http(pooled, asked) is Mismatch.UNSUPPORTED_FIELD
    assert len(simulator.turns) == 2  # it may be the request itself that is wrong
    caught.value.accepted()
    assert await plain_http(pooled, asked) is Mismatch.UNSUPPORTED_FIELD
    assert len(simulator.turns) == 2
    await pooled.exchange(request(user("a"))).run(Shown())
    simulator.settings.reject_nulls = False
    pooled.clock.advance(300)
    await pooled.exchange(asked).run(Shown())
    assert len(simulator.turns) == 4


@pytest.mark.parametrize("status", [400, 404, 409, 422])
async def test_a_translation_that_upstream_refuses_is_for_http_for_a_while(
    pooled: Pooled, simulator: Simulator, status: int
) -> None:
    """It may be the translation that upstream minds: once it takes the agent's own words, its model gets them."""
    for _ in range(2):
        simulator.inject(Fault("before_created", "error", status=status, code="invalid_request_error"))
    with pytest.raises(PlainHTTP, match="translation_refused") as caught:
        await pooled.exchange(chat("a")).run(Shown())
    assert await plain_http(pooled, chat("a")) is Mismatch.TRANSLATION_REFUSED
    assert len(simulator.turns) == 2  # it may be the request itself that is wrong
    caught.value.accepted()
    assert await plain_http(pooled, chat("a")) is Mismatch.TRANSLATION_REFUSED
    assert len(simulator.turns) == 2
    await pooled.exchange(chat("a", model="gpt-5")).run(Shown())
    pooled.clock.advance(300)
    await pooled.exchange(chat("a")).run(Shown())
    assert len(simulator.turns) == 4


async def test_what_is_wrong_with_a_chat_request_itself_is_upstreams_to_say(
    pooled: Pooled, simulator: Simulator
) -> None:
    """Over HTTP it would be the same, and cost a second upload."""
    simulator.inject(Fault("before_created", "error", status=429, code="rate_limit_exceeded"))
    with pytest.raises(UpstreamError) as caught:
        await pooled.exchange(chat("a")).run(Shown())
    assert (caught.value.status, caught.value.code) == (429, "rate_limit_exceeded")


async def test_a_chat_history_that_is_too_long_is_refused_in_chats_words(
    pooled: Pooled, simulator: Simulator
) -> None:
    """Clients go by them; it says nothing about the translation."""
    simulator.inject(Fault("before_created", "error", status=400, code="context_length_exceeded"))
    with pytest.raises(PlainHTTP, match="translation_refused") as caught:
        await pooled.exchange(chat("a")).run(Shown())
    caught.value.accepted()
    await pooled.exchange(chat("a")).run(Shown())
    simulator.inject(Fault("before_created", "error", status=400, code="context_length_exceeded"))
    with pytest.raises(UpstreamError):
        await pooled.exchange(request(user("a"), temperature=None)).run(Shown())


async def test_one_odd_chat_request_does_not_speak_for_its_model(pooled: Pooled, simulator: Simulator) -> None:
    """Where upstream took a translation lately, it refused this request for its own sake."""
    await pooled.exchange(chat("a")).run(Shown())
    simulator.inject(Fault("before_created", "error", status=400))
    with pytest.raises(PlainHTTP, match="translation_refused") as caught:
        await pooled.exchange(chat("a picture")).run(Shown())
    caught.value.accepted()
    await pooled.exchange(chat("b")).run(Shown())
    pooled.clock.advance(300)
    simulator.inject(Fault("before_created", "error", status=400))
    with pytest.raises(PlainHTTP, match="translation_refused"):
        await pooled.exchange(chat("another")).run(Shown())


# Bytes


async def test_the_bytes_of_all_attempts_are_the_turns(pooled: Pooled, simulator: Simulator) -> None:
    """Handshakes, refused deltas, lost connections and answers: what upstream counted is what the turns cost."""
    conversation, traffics = Conversation(), []
    for number, fault in enumerate(
        [None, None, Fault("before_created", "error", status=400), Fault("before_created", "close"), None]
    ):
        if fault is not None:
            simulator.inject(fault)
        shown, traffic = Shown(), Traffic()
        await pooled.exchange(conversation.says(f"turn {number}"), traffic).run(shown)
        conversation.hears(shown.output)
        traffics.append(traffic)
    assert sum(traffic.sent for traffic in traffics) == simulator.bytes_in == pooled.traffic.sent
    assert sum(traffic.received for traffic in traffics) == simulator.bytes_out == pooled.traffic.received
    assert traffics[1].sent < 200 < traffics[0].sent


async def test_the_message_is_json_with_the_agents_fields(pooled: Pooled, simulator: Simulator) -> None:
    """Settings go as the agent wrote them, without what only HTTP has a use for."""
    asked = request(user("a"), temperature=0.5, metadata={"b": "1", "a": "2"})
    await pooled.exchange(asked).run(Shown())
    message = simulator.turns[0].request
    assert message == orjson.loads(orjson.dumps(message))
    assert message == {
        "type": "response.create",
        "model": "gpt-5.5",
        "store": False,
        "temperature": 0.5,
        "metadata": {"b": "1", "a": "2"},
        "input": [user("a")],
    }
