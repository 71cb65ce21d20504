"""Connecting in short attempts, over real sockets; darkness is a listener whose queue is full."""

import asyncio
import errno
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import islice

import pytest

from proxy.errors import Unreachable
from proxy.upstream.dial import Dialer, attempts, is_dark
from proxy.upstream.endpoint import Endpoint

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


def test_attempts_are_short_and_grow_a_little() -> None:
    """Two seconds, and up to four where a round trip takes longer."""
    assert list(islice(attempts(), 4)) == [2, 3, 4, 4]


@pytest.mark.parametrize(
    ("exc", "known", "dark"),
    [
        (TimeoutError(), False, True),
        (OSError(errno.ENETUNREACH, ""), False, True),
        (OSError(errno.EHOSTUNREACH, ""), False, True),
        (ConnectionRefusedError(errno.ECONNREFUSED, ""), True, False),
        (ConnectionResetError(errno.ECONNRESET, ""), True, False),
        (OSError(errno.EACCES, ""), True, False),
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
