"""A lean upstream for measurements: `POST /v1/responses` as server-sent events, and the same over a WebSocket.

It parses each request, as any upstream does, and sends as many events as `metadata` asks for, at the rate it asks
for. Each carries the monotonic time at which it was written. It keeps nothing and checks nothing: the simulator
judges, this one only talks fast.
"""

import asyncio
import itertools
import time
from collections.abc import Callable
from typing import Any

import orjson
from websockets.extensions.permessage_deflate import ServerPerMessageDeflateFactory
from websockets.frames import Frame, Opcode
from websockets.http11 import Request
from websockets.server import ServerProtocol

_IDS = itertools.count(1)
_WORD = "a word of the answer "


class _Source(asyncio.Protocol):
    """One connection, over HTTP until it asks for a WebSocket."""

    def __init__(self, *, deflate: bool) -> None:
        self._deflate = deflate
        self._received = bytearray()
        self._wanted: int | None = None
        self._websocket: ServerProtocol | None = None
        self._message: list[bytes] = []
        self._answers: set[asyncio.Task[None]] = set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: asyncio.Transport = transport  # type: ignore[assignment]

    def connection_lost(self, _exc: Exception | None) -> None:
        for answer in self._answers:
            answer.cancel()

    def data_received(self, data: bytes) -> None:
        if self._websocket is not None:
            self._over_websocket(data)
            return
        self._received += data
        if self._wanted is None:
            end = self._received.find(b"\r\n\r\n")
            if end < 0:
                return
            head = bytes(self._received[:end]).lower()
            if b"upgrade: websocket" in head:
                self._upgrade()
                return
            _, _, rest = head.partition(b"content-length:")
            self._wanted = end + 4 + int(rest.split(b"\r\n", 1)[0])
            self._body_at = end + 4
        if len(self._received) >= self._wanted:
            request = orjson.loads(memoryview(self._received)[self._body_at : self._wanted])
            del self._received[: self._wanted]
            self._wanted = None
            self._begin(request, self._as_chunk)

    def _upgrade(self) -> None:
        offers = [ServerPerMessageDeflateFactory()] if self._deflate else []
        self._websocket = ServerProtocol(extensions=offers, max_size=None)
        self._over_websocket(bytes(self._received))

    def _over_websocket(self, data: bytes) -> None:
        protocol = self._websocket
        assert protocol is not None  # noqa: S101  (upgraded)
        protocol.receive_data(data)
        for event in protocol.events_received():
            if isinstance(event, Request):
                protocol.send_response(protocol.accept(event))
            elif isinstance(event, Frame) and event.opcode in (Opcode.TEXT, Opcode.CONT):
                self._message.append(bytes(event.data))
                if event.fin:
                    request, self._message = orjson.loads(b"".join(self._message)), []
                    self._begin(request, self._as_frame)
        for each in protocol.data_to_send():
            self._transport.write(each)

    def _begin(self, request: dict[str, Any], written: Callable[[bytes], bytes]) -> None:
        task = asyncio.get_running_loop().create_task(self._answer(request, written))
        self._answers.add(task)
        task.add_done_callback(self._answers.discard)

    async def _answer(self, request: dict[str, Any], written: Callable[[bytes], bytes]) -> None:
        asked = request["metadata"]
        count, rate = int(asked["events"]), float(asked["rate"])
        response = {
            "id": f"resp_{next(_IDS)}",
            "object": "response",
            "model": request["model"],
            "previous_response_id": request.get("previous_response_id"),
        }
        write, loop = self._transport.write, asyncio.get_running_loop()
        if written == self._as_chunk:
            write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        write(written(_event("response.created", response={**response, "status": "in_progress", "output": []})))
        began = loop.time()
        for number in range(count):
            due = began + number / rate
            if (early := due - loop.time()) > 0:
                await asyncio.sleep(early)
            write(written(_delta(number)))
        item = {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "status": "completed",
            "content": [{"type": "output_text", "text": asked["text"], "annotations": []}],
        }
        write(written(_event("response.output_item.done", output_index=0, item=item)))
        done = {**response, "status": "completed", "output": [item], "usage": None}
        write(written(_event("response.completed", response=done)))
        if written == self._as_chunk:
            write(b"0\r\n\r\n")

    def _as_chunk(self, event: bytes) -> bytes:
        kind = event[9 : event.index(b'"', 9)]
        record = b"event: %b\ndata: %b\n\n" % (kind, event)
        return b"%x\r\n%b\r\n" % (len(record), record)

    def _as_frame(self, event: bytes) -> bytes:
        protocol = self._websocket
        assert protocol is not None  # noqa: S101  (upgraded)
        if protocol.extensions:
            return Frame(Opcode.TEXT, event).serialize(mask=False, extensions=protocol.extensions)
        size = len(event)
        if size < 126:
            return b"\x81" + size.to_bytes(1, "big") + event
        if size < 65536:
            return b"\x81\x7e" + size.to_bytes(2, "big") + event
        return b"\x81\x7f" + size.to_bytes(8, "big") + event


def _event(kind: str, **members: Any) -> bytes:
    return orjson.dumps({"type": kind, **members})


def _delta(number: int) -> bytes:
    return (
        b'{"type":"response.output_text.delta","sequence_number":%d,"item_id":"msg_1","output_index":0,'
        b'"content_index":0,"delta":"%b","at":%d}' % (number, _WORD.encode(), time.monotonic_ns())
    )


async def serve(*, deflate: bool) -> int:
    """Listen on a free port of this machine, and return it."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Source(deflate=deflate), "127.0.0.1", 0)
    return int(server.sockets[0].getsockname()[1])
