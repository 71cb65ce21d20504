"""What was written to a socket and has not arrived yet, as far as the kernel tells.

Linux and macOS count what the other end has not acknowledged. Elsewhere the kernel's buffer is taken to be
full, and is kept as small as the link can do with.
"""

import asyncio
import socket
import struct
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol

_SO_NWRITE = 0x1024
"""macOS: the bytes in a socket's send buffer (sys/socket.h); Python does not name it."""

_SIOCOUTQNSD = 0x894B
"""Linux: the bytes in a socket's send buffer that were never sent (linux/sockios.h); Python does not name it."""

_LAST_ACK_AT = 56
"""Linux: where `tcp_info` has the milliseconds since the last acknowledgement (linux/tcp.h)."""


class SendQueue(Protocol):
    """The bytes between us and upstream."""

    def waiting(self) -> int:
        """Return how many of the bytes that were written may not have arrived."""
        ...

    def room(self, allowance: int) -> int:
        """Return how many bytes may be written now if *allowance* may be under way; less than 1 means none."""
        ...


class CountedQueue:
    """The queue of a socket whose kernel tells what was not acknowledged."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport

    def waiting(self) -> int:
        """Return what is in our own buffers and in the kernel's."""
        return owed(self._transport)

    def room(self, allowance: int) -> int:
        """Return what *allowance* leaves."""
        return allowance - self.waiting()


class AssumedQueue:
    """The queue of a socket whose kernel tells nothing: half of what may be under way is left to its buffer."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._socket: socket.socket = transport.get_extra_info("socket")
        self._buffer = 0

    def waiting(self) -> int:
        """Return what is in our own buffers, and as much as the kernel's may hold."""
        return _unwritten(self._transport) + self._buffer

    def room(self, allowance: int) -> int:
        """Size the kernel's buffer, and return what may be written if it has taken everything so far."""
        if not 0.75 * allowance <= 2 * self._buffer <= 1.5 * allowance:
            self._buffer = allowance // 2
            with suppress(OSError):  # closed meanwhile
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, self._buffer)
        return 0 if _unwritten(self._transport) else allowance // 2


# What the kernels tell, which raises OSError or ValueError where the socket was closed meanwhile.

if sys.platform == "linux":
    from fcntl import ioctl
    from termios import TIOCOUTQ

    def _unacknowledged(sock: socket.socket) -> int:
        count: int = struct.unpack("i", ioctl(sock.fileno(), TIOCOUTQ, bytes(4)))[0]
        return count

    def _unsent(sock: socket.socket) -> int:
        count: int = struct.unpack("i", ioctl(sock.fileno(), _SIOCOUTQNSD, bytes(4)))[0]
        return count

    def _last_acknowledged(sock: socket.socket) -> float | None:
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _LAST_ACK_AT + 4)
        milliseconds: int = struct.unpack_from("I", info, _LAST_ACK_AT)[0]
        return milliseconds / 1000

else:

    def _unacknowledged(sock: socket.socket) -> int:
        return sock.getsockopt(socket.SOL_SOCKET, _SO_NWRITE) if sys.platform == "darwin" else 0

    _unsent = _unacknowledged

    def _last_acknowledged(_sock: socket.socket) -> float | None:
        return None


TELLS = sys.platform in {"linux", "darwin"}
"""Whether this system's kernel counts what was not acknowledged."""


def owed(transport: asyncio.Transport) -> int:
    """Return how many bytes that were written have not arrived, as far as is known."""
    return _unwritten(transport) + _asked(_unacknowledged, transport.get_extra_info("socket"))


def unsent(transport: asyncio.Transport) -> int:
    """Return how many bytes that were written have not left this machine, as far as is known."""
    return _unwritten(transport) + _asked(_unsent, transport.get_extra_info("socket"))


def reset_on_close(sock: socket.socket) -> None:
    """Have the kernel end the connection of *sock* with a reset, and forget what has not arrived by then."""
    with suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def last_acknowledged(sock: socket.socket) -> float | None:
    """Return the seconds since anything came from the other end's TCP; None where the kernel does not tell.

    A reader that is slow goes on answering its window's probes, so this tells it from a link that is dark.
    """
    try:
        return _last_acknowledged(sock)
    except OSError:
        return 0.0


def queue_of(transport: asyncio.Transport) -> SendQueue:
    """Return the queue of *transport* for one upload, in the best way that this system offers."""
    return CountedQueue(transport) if TELLS else AssumedQueue(transport)


def _asked(count: Callable[[socket.socket], int], sock: socket.socket | None) -> int:
    """Return what the kernel answers, which is 0 where it does not tell; 0 where the socket was closed.

    Below TLS there is no socket any more a moment before the protocol is told that the connection is lost.
    """
    try:
        return count(sock) if sock is not None else 0
    except (OSError, ValueError):
        return 0


def _unwritten(transport: asyncio.Transport) -> int:
    """Return what the kernel has not taken, also where asyncio hides it below TLS."""
    below: Any = getattr(getattr(transport, "_ssl_protocol", None), "_transport", None)
    size = transport.get_write_buffer_size()
    return size if below is None else size + int(below.get_write_buffer_size())
