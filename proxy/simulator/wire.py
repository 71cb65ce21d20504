"""Wire: one TCP connection, whose bytes are counted, slowed down, lost or cut.

The protocol that speaks over it, HTTP and then WebSocket, sees an ordinary transport. Bytes are counted
as that protocol reads and writes them: below HTTP and WebSocket framing and compression, above TLS records.
"""

import asyncio
import socket
import struct
from collections.abc import Callable, Iterable
from typing import Any, cast

from proxy.simulator.records import Traffic
from proxy.simulator.settings import SimulatorSettings
from proxy.simulator.shaper import Buffer, Shaper

HIGH_WATER, LOW_WATER = 32 * 1024, 8 * 1024
"""How many held-back bytes stop the speaker, and how few let it go on."""
SMALL_BUFFER = 16 * 1024
"""Socket buffers of slowed-down connections, so that waiting bytes wait where a slow link would keep them."""


class Wire(asyncio.Protocol):
    """The connection. *serve* makes the protocol that speaks first; switch() puts another in its place."""

    def __init__(
        self,
        number: int,
        settings: SimulatorSettings,
        total: Traffic,
        serve: Callable[[], asyncio.Protocol],
        on_made: Callable[["Wire"], None],
        on_lost: Callable[["Wire"], None],
    ) -> None:
        self.number = number
        self.traffic = Traffic()
        self._total = total
        self._settings = settings
        self._serve = serve
        self._on_made = on_made
        self._on_lost = on_lost
        self._speakers: list[asyncio.Protocol] = []
        self._silent = False
        self._up = Shaper(lambda: settings.uplink_bytes_per_second, self._receive)
        self._down = Shaper(lambda: settings.downlink_bytes_per_second, self._transmit)
        self._up.on_progress = self._resume
        self._down.on_progress = self._drained
        self._paused_by_speaker = False
        self._closing = False
        self._congested = False
        self._paused_writing = False
        self.transport: asyncio.Transport
        self.outside: OutsideTransport

    def __repr__(self) -> str:
        return f"<Wire {self.number} in={self.traffic.bytes_in} out={self.traffic.bytes_out}>"

    # What a test or a fault does

    def switch(self, speaker: asyncio.Protocol) -> None:
        """Let *speaker* have the bytes from now on; the one before only hears of the end."""
        self._speakers.insert(0, speaker)
        speaker.connection_made(self.outside)

    def silence(self) -> None:
        """Send nothing and hear nothing any more, with the socket open."""
        self._silent = True
        self._up.clear()
        self._down.clear()
        if not self.transport.is_closing():
            self.transport.resume_reading()  # to notice when the other side gives up

    def reset(self) -> None:
        """End with a TCP reset, unless it has ended."""
        raw: socket.socket | None = self.transport.get_extra_info("socket")
        if raw is not None and raw.fileno() >= 0:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.abort()

    def abort(self) -> None:
        """End at once."""
        self._up.clear()
        self._down.clear()
        self.transport.abort()

    # asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self.transport = cast("asyncio.Transport", transport)  # a TCP server makes no others
        self._on_made(self)
        self.outside = OutsideTransport(self)
        raw: socket.socket | None = transport.get_extra_info("socket")
        if raw is not None and self._settings.uplink_bytes_per_second:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BUFFER)
        speaker = self._serve()
        self._speakers.append(speaker)
        speaker.connection_made(self.outside)

    def data_received(self, data: bytes) -> None:
        """Count, and slow down."""
        self.traffic.bytes_in += len(data)
        self._total.bytes_in += len(data)
        if self._silent:
            return
        self._up.put(data)
        if len(self._up) and self.transport.is_reading():
            self.transport.pause_reading()

    def eof_received(self) -> bool | None:
        """Pass it on; nothing waits before it, since reading is paused while bytes do."""
        return self._speakers[0].eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell everyone."""
        self._closing = True
        self._up.clear()
        self._down.clear()
        for speaker in self._speakers:
            speaker.connection_lost(exc)
        self._on_lost(self)

    def pause_writing(self) -> None:
        """Pass on the pressure."""
        self._congested = True
        self._press()

    def resume_writing(self) -> None:
        """Pass on the relief."""
        self._congested = False
        self._press()

    # The speaker's side

    def send(self, data: Buffer) -> None:
        """Send *data*, slowed down."""
        if self._silent or self._closing:
            return
        self._down.put(data)
        self._press()

    def close(self) -> None:
        """End after what waits."""
        self._closing = True
        if not len(self._down):
            self.transport.close()

    def end(self) -> None:
        """Send no more; half-close after what waits."""
        if len(self._down):
            self.close()
        elif not self._silent:
            self.transport.write_eof()

    @property
    def closing(self) -> bool:
        """Whether the end has begun."""
        return self._closing or self.transport.is_closing()

    def hold(self, *, on: bool) -> None:
        """Stop reading, or go on."""
        self._paused_by_speaker = on
        if on:
            self.transport.pause_reading()
        else:
            self._resume()

    @property
    def backlog(self) -> int:
        """Bytes that wait to be sent."""
        return len(self._down) + self.transport.get_write_buffer_size()

    def _receive(self, data: bytes) -> None:
        self._speakers[0].data_received(data)

    def _transmit(self, data: bytes) -> None:
        self.traffic.bytes_out += len(data)
        self._total.bytes_out += len(data)
        self.transport.write(data)

    def _resume(self) -> None:
        if not self._paused_by_speaker and not len(self._up) and not self.transport.is_closing():
            self.transport.resume_reading()

    def _drained(self) -> None:
        self._press()
        if self._closing and not len(self._down):
            self.transport.close()

    def _press(self) -> None:
        limit = LOW_WATER if self._paused_writing else HIGH_WATER
        on = self._congested or len(self._down) > limit
        if on is self._paused_writing:
            return
        self._paused_writing = on
        speaker = self._speakers[0]
        if on:
            speaker.pause_writing()
        else:
            speaker.resume_writing()


class OutsideTransport(asyncio.Transport):
    """The transport that the speaker sees."""

    def __init__(self, wire: Wire) -> None:
        super().__init__()
        self.wire = wire

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return what the real transport knows."""
        return self.wire.transport.get_extra_info(name, default)

    def is_closing(self) -> bool:
        """Return whether the end has begun."""
        return self.wire.closing

    def close(self) -> None:
        """End after what waits."""
        self.wire.close()

    def abort(self) -> None:
        """End at once."""
        self.wire.abort()

    def is_reading(self) -> bool:
        """Return whether bytes are accepted."""
        return self.wire.transport.is_reading()

    def pause_reading(self) -> None:
        """Accept no bytes for now."""
        self.wire.hold(on=True)

    def resume_reading(self) -> None:
        """Accept bytes again."""
        self.wire.hold(on=False)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Set when writing is paused."""
        self.wire.transport.set_write_buffer_limits(high, low)

    def get_write_buffer_size(self) -> int:
        """Return how many bytes wait."""
        return self.wire.backlog

    def write(self, data: Buffer) -> None:
        """Send *data*."""
        self.wire.send(data)

    def writelines(self, list_of_data: Iterable[Buffer]) -> None:
        """Send the pieces as one."""
        self.wire.send(b"".join(list_of_data))

    def can_write_eof(self) -> bool:
        """Return whether half-closing is possible."""
        return self.wire.transport.can_write_eof()

    def write_eof(self) -> None:
        """Send no more."""
        self.wire.end()
