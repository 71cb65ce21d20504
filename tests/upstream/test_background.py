"""Tasks with an owner."""

import asyncio

import structlog

from proxy.upstream.background import Background


async def test_what_is_started_runs() -> None:
    """Work goes on by itself, and is let go when it is done."""
    background, done = Background(), asyncio.Event()

    async def work() -> None:
        done.set()

    task = background.start(work(), "some work")
    assert task.get_name() == "some work"
    await done.wait()
    await task
    await background.close(0)


async def test_a_death_is_logged_without_its_words() -> None:
    """The log has the name of the work and the kind of error; what the error says may be private."""
    background = Background()

    async def work() -> None:
        raise ValueError("private")

    with structlog.testing.capture_logs() as logs:
        task = background.start(work(), "some work")
        await asyncio.wait([task])
    assert logs == [{"event": "task_died", "task": "some work", "error": "ValueError", "log_level": "error"}]
    await background.close(0)


async def test_closing_lets_work_finish_within_the_grace() -> None:
    """What ends in time ends by itself."""
    background, go, ended = Background(), asyncio.Event(), asyncio.Event()

    async def work() -> None:
        await go.wait()
        ended.set()

    background.start(work(), "some work")
    asyncio.get_running_loop().call_soon(go.set)
    await background.close(10)
    assert ended.is_set()


async def test_closing_ends_what_does_not_finish() -> None:
    """After the grace work is cancelled, its end is awaited, and no death is logged."""
    background, cleaned_up = Background(), asyncio.Event()

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cleaned_up.set()

    with structlog.testing.capture_logs() as logs:
        task = background.start(work(), "some work")
        await asyncio.wait([task], timeout=0)
        await background.close(0.01)
    assert task.cancelled()
    assert cleaned_up.is_set()
    assert logs == []


async def test_closing_that_is_cancelled_ends_the_work_all_the_same() -> None:
    """An agent may hang up in the middle of it; nobody closes a second time."""
    background = Background()

    async def work() -> None:
        await asyncio.Event().wait()

    task = background.start(work(), "some work")
    closing = asyncio.get_running_loop().create_task(background.close(60))
    await asyncio.wait([closing], timeout=0)
    closing.cancel()
    await asyncio.wait([closing])
    assert closing.cancelled()
    await asyncio.wait([task], timeout=1)
    assert task.cancelled()
