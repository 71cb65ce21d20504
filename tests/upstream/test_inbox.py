"""Messages that have arrived and wait to be taken."""

import asyncio

import pytest
from websockets.frames import Frame, Opcode

from proxy.upstream.inbox import Inbox


def text(data: bytes, *, fin: bool = True) -> Frame:
    """Return the first frame of a message."""
    return Frame(Opcode.TEXT, data, fin)


def more(data: bytes, *, fin: bool = True) -> Frame:
    """Return another frame of a message."""
    return Frame(Opcode.CONT, data, fin)


async def test_messages_are_taken_in_order_without_waiting() -> None:
    """What arrived together is there together: one wait for all of it."""
    inbox = Inbox(100)
    for data in (b"one", b"two", b""):
        inbox.put(text(data))
    assert await inbox.wait(5)
    assert [inbox.take() for _ in range(len(inbox))] == [b"one", b"two", b""]
    assert not inbox


async def test_a_message_in_fragments_is_one() -> None:
    """It can be taken once its last fragment is here, also an empty one."""
    inbox = Inbox(100)
    inbox.put(text(b"in ", fin=False))
    inbox.put(more(b"three ", fin=False))
    assert not inbox
    inbox.put(more(b""))
    inbox.put(text(b"next"))
    assert [inbox.take(), inbox.take()] == [b"in three ", b"next"]


async def test_who_waits_is_woken() -> None:
    """By a message, or by the end, after which there will be none."""
    inbox = Inbox(100)
    async with asyncio.TaskGroup() as tasks:
        waiting = tasks.create_task(inbox.wait(5))
        await asyncio.sleep(0)
        inbox.put(text(b"one"))
    assert waiting.result()
    assert inbox.take() == b"one"
    async with asyncio.TaskGroup() as tasks:
        waiting = tasks.create_task(inbox.wait(5))
        await asyncio.sleep(0)
        inbox.close()
    assert not waiting.result()


async def test_the_end_leaves_what_has_arrived() -> None:
    """A connection that closed behind its last event has that event."""
    inbox = Inbox(100)
    inbox.put(text(b"last"))
    inbox.close()
    assert await inbox.wait(5)
    assert inbox.take() == b"last"
    assert not await inbox.wait(5)


async def test_a_wait_ends() -> None:
    """Silence is a TimeoutError, after which it can be waited for again."""
    inbox = Inbox(100)
    with pytest.raises(TimeoutError):
        await inbox.wait(0)
    inbox.put(text(b"one"))
    assert await inbox.wait(0)


async def test_what_is_unread_is_bounded() -> None:
    """One message may exceed the bound; the next one is not kept. What was taken or forgotten doesn't count."""
    inbox = Inbox(3)
    for _ in range(3):
        inbox.put(text(b"four"))
        assert inbox.take() == b"four"
    inbox.put(text(b"four"))
    inbox.begin()
    inbox.put(text(b"four"))
    assert not inbox.overrun
    inbox.put(text(b""))
    assert inbox.overrun
    assert len(inbox) == 1


async def test_a_reader_that_waits_is_not_slow() -> None:
    """What comes together before it has its turn is kept; what comes while it is busy counts."""
    inbox = Inbox(3)
    async with asyncio.TaskGroup() as tasks:
        waiting = tasks.create_task(inbox.wait(5))
        await asyncio.sleep(0)
        for _ in range(3):
            inbox.put(text(b"four"))
    assert waiting.result()
    assert not inbox.overrun
    assert [inbox.take(), inbox.take()] == [b"four", b"four"]
    inbox.put(text(b"four"))
    assert inbox.overrun


async def test_without_a_reader_nothing_is_kept() -> None:
    """Neither what is there nor what comes, however much; only a message whose end is still to come."""
    inbox = Inbox(3)
    inbox.put(text(b"before"))
    inbox.rest()
    for _ in range(3):
        inbox.put(text(b"four"))
        assert not inbox.put_alone(b"five")
    inbox.put(text(b"si", fin=False))
    assert not inbox
    inbox.begin()
    inbox.put(more(b"x"))
    assert not inbox.overrun
    assert inbox.take() == b"six"


@pytest.mark.parametrize(("before", "limit"), [(0.01, 0.1), (60, 0.1)])
async def test_each_wait_has_a_limit_of_its_own(before: float, limit: float) -> None:
    """The timer of a wait that ended early neither ends the next one, nor keeps it waiting."""
    inbox, loop = Inbox(100), asyncio.get_running_loop()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(inbox.wait(before))
        await asyncio.sleep(0)
        inbox.put(text(b"one"))
    inbox.take()
    began = loop.time()
    with pytest.raises(TimeoutError):
        await inbox.wait(limit)
    assert limit * 0.9 < loop.time() - began < 30


async def test_the_end_leaves_no_timer() -> None:
    """A connection that is gone is kept by nothing."""
    inbox, loop = Inbox(100), asyncio.get_running_loop()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(inbox.wait(60))
        await asyncio.sleep(0)
        inbox.put(text(b"one"))
    inbox.close()
    waiting = [timer for timer in loop._scheduled if not timer.cancelled()]  # type: ignore[attr-defined]
    assert not [timer for timer in waiting if "Inbox" in repr(timer)]


async def test_a_message_that_comes_alone_is_dealt_with_where_it_arrives() -> None:
    """Whoever waits is not woken for it; the next one that is not dealt with is theirs."""
    inbox, dealt_with = Inbox(100), []

    def at_once(message: bytes) -> bool:
        dealt_with.append(message)
        return message != b"mine"

    async with asyncio.TaskGroup() as tasks:
        waiting = tasks.create_task(inbox.wait(5, at_once))
        await asyncio.sleep(0)
        for data in (b"one", b"two"):
            inbox.put_alone(data)
        await asyncio.sleep(0.01)
        assert not waiting.done()
        assert not inbox
        inbox.put_alone(b"mine")
    assert dealt_with == [b"one", b"two", b"mine"]
    assert inbox.take() == b"mine"


async def test_nothing_overtakes_what_has_not_been_taken() -> None:
    """Between a message and the one that waited for it being awake, another one comes behind it, also alone."""
    inbox, dealt_with = Inbox(100), []

    def at_once(message: bytes) -> bool:
        dealt_with.append(message)
        return True

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(inbox.wait(5, at_once))
        await asyncio.sleep(0)
        inbox.put(text(b"one"))
        inbox.put_alone(b"two")
    inbox.put_alone(b"three")  # nobody waits
    assert not dealt_with
    assert [inbox.take() for _ in range(3)] == [b"one", b"two", b"three"]


async def test_what_is_dealt_with_at_once_begins_the_wait_anew() -> None:
    """The limit is one for each silence, not for the sum of all."""
    inbox, loop = Inbox(100), asyncio.get_running_loop()
    began = loop.time()
    waiting = loop.create_task(inbox.wait(0.3, lambda _: True))
    for _ in range(6):
        await asyncio.sleep(0.1)
        inbox.put_alone(b"one")
    assert not waiting.done()
    with pytest.raises(TimeoutError):
        await waiting
    assert 0.85 < loop.time() - began < 30


async def test_what_fails_at_once_fails_whoever_waits() -> None:
    """It is raised there, and the message is not dealt with again."""
    inbox = Inbox(100)

    def at_once(_message: bytes) -> bool:
        raise ZeroDivisionError

    waiting = asyncio.get_running_loop().create_task(inbox.wait(5, at_once))
    await asyncio.sleep(0)
    assert inbox.put_alone(b"one")
    with pytest.raises(ZeroDivisionError):
        await waiting
    assert not inbox
