"""Stop: signals ask for the end, once politely."""

import asyncio
import signal
from pathlib import Path
from typing import Any

import pytest

from proxy.cli.stop import SIGNALS, Stop, stoppable


class LoopWithoutSignals(asyncio.SelectorEventLoop):
    """A loop as on Windows, where it can't listen for signals itself."""

    def add_signal_handler(self, *_what: Any) -> None:  # type: ignore[override]
        """Refuse."""
        raise NotImplementedError


async def never() -> None:
    """Wait for ever."""
    await asyncio.Event().wait()


@pytest.mark.parametrize("number", SIGNALS)
async def test_a_signal_asks_for_the_end(number: signal.Signals) -> None:
    """Whoever waits goes on."""
    with Stop() as stop:
        signal.raise_signal(number)
        await stop.wait()


async def test_what_is_cancelled_by_others_was_not_stopped() -> None:
    """Only who is asked says that it was."""
    task = asyncio.get_running_loop().create_task(stoppable(never()))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_terminal_that_is_closed_asks_for_it_once() -> None:
    """The system and the shell both say so, and turns are to be finished all the same."""
    with Stop() as stop:
        signal.raise_signal(signal.SIGHUP)
        await stop.wait()
        done = asyncio.Event()

        async def drain() -> None:
            signal.raise_signal(signal.SIGHUP)
            await asyncio.sleep(0.05)
            done.set()

        await stop.patiently(drain())
        assert done.is_set()


async def test_who_was_told_to_ignore_a_closed_terminal_does() -> None:
    """As `nohup` asks for."""
    former = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Stop() as stop:
            signal.raise_signal(signal.SIGHUP)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await stop.wait()
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, former)


def test_it_works_where_the_loop_cannot_listen() -> None:
    """Plain handlers are used, and the former ones come back."""
    former = [signal.getsignal(number) for number in SIGNALS]

    async def wait() -> None:
        with Stop() as stop:
            signal.raise_signal(signal.SIGTERM)
            await stop.wait()

    with asyncio.Runner(loop_factory=LoopWithoutSignals) as runner:
        runner.run(wait())
    assert [signal.getsignal(number) for number in SIGNALS] == former


async def test_draining_ends_when_it_is_done() -> None:
    """Without a second signal it takes as long as it takes."""
    done = asyncio.Event()

    async def drain() -> None:
        await asyncio.sleep(0)
        done.set()

    with Stop() as stop:
        stop.request()
        await stop.patiently(drain())
    assert done.is_set()


async def test_asking_again_cuts_the_drain_short() -> None:
    """The second signal is for those who can't wait; more of them change nothing."""
    with Stop() as stop:
        stop.request()
        stop.request()
        asyncio.get_running_loop().call_soon(stop.request)
        asyncio.get_running_loop().call_soon(stop.request)
        await stop.patiently(never())
        stop.request()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
@pytest.mark.parametrize("arguments", [("demo", "--turns", "500"), ("bench",)])
def test_a_session_that_is_stopped_leaves_nothing_behind(
    packlight: Any, tmp_path: Path, arguments: tuple[str, ...], number: signal.Signals
) -> None:
    """Its project, which is in a directory of its own, goes with it."""
    session = packlight.start(*arguments, environ={"TMPDIR": str(tmp_path)})
    while not list(tmp_path.iterdir()):
        assert session.popen.poll() is None
    status, _, errors = session.end(number)
    assert (status, errors.strip()) == (1, "Aborted!")
    assert list(tmp_path.iterdir()) == []
