"""permessage-deflate that compresses a message whole, before it is cut into frames.

The library compresses frame by frame, and each costs a flush. A message that is compressed as one and cut
afterwards (RFC 7692, section 7.2.1) costs a frame's header per cut and nothing else.

Each message has a compressor of its own, which begins with the window that upstream has: it writes the same as one
that lived on, may work as hard as the message deserves, and leaves 32 KB behind instead of zlib's 150.
"""

import asyncio
import zlib
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from websockets.extensions import Extension
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory, PerMessageDeflate
from websockets.frames import Frame, Opcode
from websockets.typing import ExtensionParameter

from proxy.core.message import Message
from proxy.upstream.layout import Arranged, Layout

_LEVEL = 7
"""Of zlib. Level 6 sends up to 5 % more, for a sixth less time; 8 saves 1 %, for a third more time."""

_THOROUGH = 8
"""Of a message that fits the window: up to 1 % less than level 7. A table of zeros and ones takes 27 ms, and 5 at
level 7; at level 9 it would take 90, which saves another 0.3 % at most."""

_MEMORY = 5
"""zlib's memLevel: codes for 2,048 symbols each. More saves nothing."""

_LARGE = 256 * 1024
"""A message from this size on is compressed on a thread: zlib needs about 40 ms for each MB of JSON."""

_DATA = frozenset({Opcode.TEXT, Opcode.BINARY, Opcode.CONT})
_FLUSHED = b"\x00\x00\xff\xff"
"""What a flush ends with, and a compressed message leaves out (RFC 7692, section 7.2.1)."""


class Deflate(PerMessageDeflate):
    """The extension as negotiated; every data frame that is sent holds a piece of what `compress` returned."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if not self.local_no_context_takeover:
            del self.encoder  # the library's own, 150 KB that live as long as the connection
        self._size = 1 << self.local_max_window_bits
        self._window = b""
        self._layout = Layout(self._size)

    async def compress(self, message: Message) -> bytes:
        """Return *message* as the payload of its frames. Where this is cancelled, the connection is done for."""
        once = self.local_no_context_takeover
        arranged = Arranged(bytes(message), ()) if once else self._layout.arrange(message)
        if len(message) >= _LARGE:
            data = await asyncio.to_thread(self._compress, arranged)
        else:
            data = self._compress(arranged)
        if not once:
            self._window = (self._window + arranged.written[-self._size :])[-self._size :]
        return data

    def _compress(self, arranged: Arranged) -> bytes:
        written, cuts = arranged
        level = _THOROUGH if len(written) <= self._size else _LEVEL
        bits = -self.local_max_window_bits
        encoder = zlib.compressobj(level, wbits=bits, memLevel=_MEMORY, zdict=self._window)
        view = memoryview(written)
        parts: list[bytes] = []
        for begin, end in pairwise((0, *cuts, len(view))):
            parts += (encoder.compress(view[begin:end]), encoder.flush(zlib.Z_BLOCK))
        return b"".join((*parts, encoder.flush(zlib.Z_SYNC_FLUSH))).removesuffix(_FLUSHED)

    def inflate(self, payload: bytes) -> bytes:
        """Return what upstream compressed to *payload*, a whole message. Raises zlib.error where it did not."""
        once = self.remote_no_context_takeover
        decoder = zlib.decompressobj(wbits=-self.remote_max_window_bits) if once else self.decoder
        return decoder.decompress(payload + _FLUSHED)

    @property
    def terms(self) -> str:
        """What was negotiated, in the words of the upgrade; our own window is always the whole one."""
        said = ["permessage-deflate"]
        said += ["server_no_context_takeover"] if self.remote_no_context_takeover else []
        said += ["client_no_context_takeover"] if self.local_no_context_takeover else []
        said += (
            [f"server_max_window_bits={self.remote_max_window_bits}"] if self.remote_max_window_bits < 15 else []
        )
        return "; ".join(said)

    def encode(self, frame: Frame) -> Frame:
        """Mark the first frame of a message as compressed."""
        if frame.opcode not in _DATA:
            return frame
        return Frame(frame.opcode, frame.data, frame.fin, rsv1=frame.opcode is not Opcode.CONT)


class DeflateOffer(ClientPerMessageDeflateFactory):
    """Offers permessage-deflate, and makes a `Deflate` of what upstream grants."""

    def process_response_params(
        self, params: Sequence[ExtensionParameter], accepted_extensions: Sequence[Extension]
    ) -> PerMessageDeflate:
        """Return the extension that upstream's answer describes."""
        granted = super().process_response_params(params, accepted_extensions)
        return Deflate(
            granted.remote_no_context_takeover,
            granted.local_no_context_takeover,
            granted.remote_max_window_bits,
            granted.local_max_window_bits,
            granted.compress_settings,
        )
