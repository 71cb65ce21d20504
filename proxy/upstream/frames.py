"""A message that arrives as one frame, and alone: most events do, and each wakes us.

The library's parser takes every frame apart in three generators. A short frame of text that begins where another
ended needs none of them. `Frames` knows where that is, for the library does not say.
"""

import zlib

from websockets.protocol import OPEN, Protocol

from proxy.upstream.deflate import Deflate

_TEXT = 0x81
"""The first byte of a frame that is a message of text (RFC 6455, section 5.2)."""

_COMPRESSED = 0x40
"""What that byte has besides where the message is compressed (RFC 7692, section 6)."""

_FIN, _OPCODE, _CONTROL = 0x80, 0x0F, 8
_LENGTH = 0x7F
_HEADERS = {126: 4, 127: 10}
"""Bytes of a header by what stands in the place of the length, if not 2. What a server sends has no mask."""

_FLUSHED_APART = 2044
"""Bytes of a compressed payload from which on the library flushes by itself, which finds more faults."""

_INFLATES = 1040
"""How many times larger deflate can make anything, and a little more."""

_OPENED = b"\r\n\r\n"
"""What the answer to the upgrade ends with; frames may follow at once."""


class Frames:
    """Where what upstream sends stands, from the answer to the upgrade on.

    *protocol* is the library's reader, which takes messages of at most *most* bytes.
    """

    def __init__(self, protocol: Protocol, most: int) -> None:
        self._protocol = protocol
        self._largest = most // _INFLATES
        self._deflate: Deflate | None = None
        self._is_between = False
        self._opening: bytes | None = b""
        self._head = b""
        self._left = 0
        self._is_amid_message = False

    @property
    def left(self) -> int:
        """How many bytes of a frame are still to come."""
        return self._left

    def alone(self, data: bytes) -> bytes | None:
        """Return the message that *data* is, which was just received; None where it is for the library to read."""
        if not self._is_between or len(data) < 2 or data[0] & ~_COMPRESSED != _TEXT:
            return None
        size, begins = data[1], 2
        if size == 126:
            size, begins = int.from_bytes(data[2:4]), 4
        elif size > 126:
            return None
        if len(data) != begins + size or size > self._largest or self._protocol.state is not OPEN:
            return None
        if data[0] == _TEXT:
            return data[begins:]
        return self._inflated(data[begins:]) if size < _FLUSHED_APART else None

    def _inflated(self, payload: bytes) -> bytes | None:
        if self._deflate is None:
            self._deflate = next((each for each in self._protocol.extensions if isinstance(each, Deflate)), None)
        try:
            return self._deflate.inflate(payload) if self._deflate is not None else None
        except zlib.error:  # what cannot be inflated now cannot be then, and the library tells upstream
            return None

    def follow(self, data: bytes) -> None:
        """Take note of *data*, which the library reads."""
        if self._opening is not None:
            opening, end, data = (self._opening + data).partition(_OPENED)
            self._opening = None if end else opening[1 - len(_OPENED) :]
        at, total = 0, len(data)
        while at < total:
            if self._left:
                step = min(self._left, total - at)
                self._left -= step
                at += step
                continue
            known = len(self._head)
            head = self._head + data[at : at + 10 - known]
            size = head[1] & _LENGTH if len(head) > 1 else 0
            needs = _HEADERS.get(size, 2)
            if len(head) < needs:
                self._head = head
                break
            at += needs - known
            self._head = b""
            self._left = size if needs == 2 else int.from_bytes(head[2:needs])
            if head[0] & _OPCODE < _CONTROL:
                self._is_amid_message = not head[0] & _FIN
        self._is_between = not (self._left or self._head or self._is_amid_message or self._opening is not None)
