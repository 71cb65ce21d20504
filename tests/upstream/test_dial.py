"""Connecting in short attempts, over real sockets; darkness is a listener whose queue is full."""

import asyncio
import errno
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack

import pytest
from aiohappyeyeballs import start_connection

from proxy.errors import Unreachable
from proxy.upstream import dial
from proxy.upstream.dial import Dialer, is_dark
from proxy.upstream.endpoint import Endpoint
from proxy.upstream.lookup import Address

linux = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a full queue refuses")


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """Listen with a queue of one."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        yield listener


def dialer(listener: socket.socket) -> Dialer:
    """Return what dials *listener*."""
    return Dialer(Endpoint("http://{}:{}/v1".format(*listener.getsockname())))


def fill(listener: socket.socket, stack: ExitStack) -> None:
    """Leave no room in the queue of *listener*: from now on it does not answer."""
    stack.enter_context(socket.create_connection(listener.getsockname()))


class ConnectExError(OSError):
    """What Windows' event loop raises where a connection cannot be made: a number of Windows' own, and EINVAL."""

    def __init__(self, number: int) -> None:
        super().__init__(errno.EINVAL, "in the language of the user")
        self.number = number

    def __str__(self) -> str:
        return f"[WinError {self.number}] {self.strerror}"


@pytest.mark.parametrize(
    ("exc", "known", "dark"),
    [
        (TimeoutError(), False, True),
        (OSError(errno.ENETUNREACH, ""), False, True),
        (OSError(errno.EHOSTUNREACH, ""), False, True),
        (OSError(errno.EHOSTDOWN, ""), False, True),
        (ConnectionRefusedError(errno.ECONNREFUSED, ""), True, False),
        (ConnectionResetError(errno.ECONNRESET, ""), True, False),
        (OSError(errno.EACCES, ""), True, False),
        (OSError("Multiple exceptions: [Errno 101] unreachable, [Errno 113] no route"), False, True),
        (OSError("Multiple exceptions: [Errno 101] unreachable, [Errno 111] refused"), False, False),
        (ConnectExError(1231), False, True),
        (ConnectExError(1232), False, True),
        (ConnectExError(121), False, True),
        (ConnectExError(1225), True, False),
        (OSError(errno.EINVAL, "Multiple exceptions: [WinError 1231] x, [WinError 121] y"), False, True),
        (OSError(errno.EINVAL, "Multiple exceptions: [WinError 1231] x, [WinError 1225] y"), False, False),
        (OSError("no number"), False, False),
        (socket.gaierror(socket.EAI_AGAIN, ""), False, True),
        (socket.gaierror(socket.EAI_NONAME, ""), True, True),
        (socket.gaierror(socket.EAI_NONAME, ""), False, False),
    ],
)
def test_dark_is_where_nobody_answers(exc: OSError, *, known: bool, dark: bool) -> None:
    """A refusal is an answer; so is a name that nobody knows, unless it was known before."""
    assert is_dark(exc, known=known) is dark


async def test_it_connects(listener: socket.socket) -> None:
    """The socket is connected to the endpoint."""
    with await dialer(listener).dial(5) as sock:
        assert sock.getpeername() == listener.getsockname()


async def test_a_refusal_is_told_at_once(listener: socket.socket) -> None:
    """Somebody is there, so there is nothing to wait for."""
    listener.close()
    with pytest.raises((ConnectionRefusedError, OSError)):
        await Dialer(Endpoint("http://127.0.0.1:1/v1")).dial(3600)


@linux
async def test_darkness_is_waited_for_within_its_limit(listener: socket.socket) -> None:
    """The message names the setting."""
    with ExitStack() as stack:
        fill(listener, stack)
        with pytest.raises(Unreachable, match=r"0\.2 s \(link_timeout\)"):
            await dialer(listener).dial(0.2)


@linux
async def test_the_end_of_darkness_is_noticed(listener: socket.socket) -> None:
    """Soon, and without anybody's help: the attempts go on."""
    with ExitStack() as stack:
        fill(listener, stack)
        dialing = asyncio.get_running_loop().create_task(dialer(listener).dial(60))
        await asyncio.sleep(0)
        stack.enter_context(listener.accept()[0])
        async with asyncio.timeout(10):
            with await dialing as sock:
                assert sock.getpeername() == listener.getsockname()


async def test_an_answer_may_take_longer_than_the_pauses(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a saturated link each would: all attempts wait for theirs, and the first to be connected wins."""
    monkeypatch.setattr(dial, "_FIRST_PAUSE", 0.02)
    monkeypatch.setattr(dial, "_LONGEST_PAUSE", 0.04)
    listener.listen(100)
    began, made = [], []

    async def slow(addresses: Sequence[Address], *, happy_eyeballs_delay: float) -> socket.socket:
        began.append(addresses)
        await asyncio.sleep(0.3)
        made.append(await start_connection(addresses, happy_eyeballs_delay=happy_eyeballs_delay))
        return made[-1]

    monkeypatch.setattr(dial, "start_connection", slow)
    async with asyncio.timeout(10):
        with await dialer(listener).dial(60) as sock:
            assert sock is made[0]
    await asyncio.sleep(0.01)
    assert len(began) > 3
    assert all(other.fileno() == -1 for other in made)  # those that were late are closed


async def test_an_attempt_ends_in_the_end(listener: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    """However long the link is dark, only the last few are under way."""
    monkeypatch.setattr(dial, "_FIRST_PAUSE", 0.02)
    monkeypatch.setattr(dial, "_LONGEST_PAUSE", 0.02)
    monkeypatch.setattr(dial, "_LONGEST_ATTEMPT", 0.1)
    monkeypatch.setattr(dial, "_PAUSE_AFTER_FAILURE", 0.02)
    running, most = 0, 0

    async def never(_addresses: Sequence[Address], *, happy_eyeballs_delay: float) -> socket.socket:
        nonlocal running, most
        assert happy_eyeballs_delay
        running += 1
        most = max(most, running)
        try:
            await asyncio.sleep(60)
        finally:
            running -= 1
        raise AssertionError

    monkeypatch.setattr(dial, "start_connection", never)
    with pytest.raises(Unreachable):
        await dialer(listener).dial(0.6)
    await asyncio.sleep(0.01)
    assert running == 0
    assert 2 <= most <= 6


async def test_a_refusal_of_any_attempt_is_told(listener: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is an answer, whichever attempt gets it; the others are ended."""
    monkeypatch.setattr(dial, "_FIRST_PAUSE", 0.02)
    running = 0

    async def refused(_addresses: Sequence[Address], *, happy_eyeballs_delay: float) -> socket.socket:
        nonlocal running
        running += 1
        first = running == 1
        try:
            await asyncio.sleep(happy_eyeballs_delay if first else 60)
        finally:
            running -= 1
        raise ConnectionRefusedError(errno.ECONNREFUSED, "")

    monkeypatch.setattr(dial, "start_connection", refused)
    with pytest.raises(ConnectionRefusedError):
        await dialer(listener).dial(3600)
    await asyncio.sleep(0.01)
    assert running == 0


async def test_whoever_is_connected_wins_over_a_refusal(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where both are told in the same moment."""
    monkeypatch.setattr(dial, "_FIRST_PAUSE", 0.02)
    now, running = asyncio.Event(), 0

    async def both(addresses: Sequence[Address], *, happy_eyeballs_delay: float) -> socket.socket:
        nonlocal running
        running += 1
        first = running == 1
        if not first:
            sock = await start_connection(addresses, happy_eyeballs_delay=happy_eyeballs_delay)
            now.set()
            return sock
        await now.wait()
        raise ConnectionRefusedError(errno.ECONNREFUSED, "")

    monkeypatch.setattr(dial, "start_connection", both)
    with await dialer(listener).dial(60) as sock:
        assert sock.getpeername() == listener.getsockname()


@pytest.mark.parametrize("cancelled", [1, 2])
async def test_whoever_leaves_leaves_nothing_open(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch, cancelled: int
) -> None:
    """Not even what is connected in that moment, or for somebody who is in a hurry."""
    made: list[socket.socket] = []
    connected = asyncio.Event()

    async def connect(addresses: Sequence[Address], *, happy_eyeballs_delay: float) -> socket.socket:
        made.append(await start_connection(addresses, happy_eyeballs_delay=happy_eyeballs_delay))
        connected.set()
        return made[0]

    monkeypatch.setattr(dial, "start_connection", connect)
    dialing = asyncio.get_running_loop().create_task(dialer(listener).dial(60))
    await connected.wait()
    for _ in range(cancelled):
        dialing.cancel()
        await asyncio.sleep(0)
    await asyncio.wait([dialing])
    await asyncio.sleep(0.01)
    if not dialing.cancelled():
        dialing.result().close()
    assert made[0].fileno() == -1


@pytest.mark.parametrize(("scheme", "old"), [("https", True), ("http", False)])
async def test_an_address_from_before_is_for_those_who_verify(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch, scheme: str, *, old: bool
) -> None:
    """Without TLS whoever has the address now would get the key: there the lookup is waited for."""
    with socket.create_server(("127.0.0.1", 0)) as elsewhere:
        places, seconds = [listener.getsockname(), elsewhere.getsockname()], [0.0, 0.4]

        def found(_host: str, _port: int) -> "asyncio.Future[Sequence[Address]]":
            loop = asyncio.get_running_loop()
            told: asyncio.Future[Sequence[Address]] = loop.create_future()
            address = (socket.AF_INET, socket.SOCK_STREAM, 6, "", places.pop(0))
            loop.call_later(seconds.pop(0), told.set_result, [address])
            return told

        monkeypatch.setattr(dial, "look_up", found)
        listener.listen(5)
        dialing = Dialer(Endpoint(f"{scheme}://upstream.test/v1"))
        (await dialing.dial(5)).close()
        with await dialing.dial(5) as sock:
            assert sock.getpeername() == (listener if old else elsewhere).getsockname()
        await asyncio.sleep(0.3)  # for the lookup to end
