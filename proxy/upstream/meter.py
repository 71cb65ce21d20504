"""Counting bytes where they cross a socket, below TLS's record layer.

Both client libraries give their data to an asyncio transport and get it from a protocol; between the two a
`MeteredTransport` counts what is written, and the protocols count what arrives.
"""

import asyncio
from collections.abc import Iterable
from typing import Any

from proxy.ledger import Traffic
from proxy.upstream.sendqueue import reset_on_close, unsent


class Meter:
    """Counts the bytes of one socket: into *total*, and into `turn`, the figures of the turn that uses it now.

    `written` is how many bytes were written to this socket in all.
    """

    def __init__(self, total: Traffic) -> None:
        self.total = total
        self.turn = Traffic()
        self.written = 0

    def sent(self, count: int) -> None:
        """Count bytes towards upstream."""
        self.total.sent += count
        self.turn.sent += count
        self.written += count

    def received(self, count: int) -> None:
        """Count bytes from upstream."""
        self.total.received += count
        self.turn.received += count


class MeteredTransport:
    """A transport that counts what is written, and leaves everything else to the one it wraps."""

    def __init__(self, transport: asyncio.Transport, meter: Meter) -> None:
        self._transport = transport
        self._meter = meter
        self._dropped = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Write *data* and count it."""
        self._meter.sent(len(data))
        self._transport.write(data)

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        """Write all of *list_of_data* and count it."""
        chunks = list(list_of_data)
        self._meter.sent(sum(len(chunk) for chunk in chunks))
        self._transport.writelines(chunks)

    def drop(self) -> None:
        """Close at once. What has not left by now does not leave any more, and is not counted.

        The kernel would else go on to send megabytes of an upload that nobody waits for, beside whatever the agent
        asks for next.
        """
        if not self._dropped and (left := unsent(self._transport)):
            self._dropped = True  # the socket is open for a moment yet, and tells the same again
            self._meter.sent(-left)
            reset_on_close(self._transport.get_extra_info("socket"))
        self._transport.abort()

    def __getattr__(self, name: str) -> Any:
        """Answer for everything else with the wrapped transport."""
        return getattr(self._transport, name)
