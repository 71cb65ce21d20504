"""What upstream has sent and no turn has taken yet: whole messages, in order.

The library's own queue hands over one message at a time, through several awaits; a burst of events costs more
there than anywhere else.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import TypeAlias

from websockets.frames import Frame

AtOnce: TypeAlias = Callable[[bytes], bool]
"""Deals with a message where it arrives, if it can be dealt with without a wait; says whether it was.

What it raises is raised by the wait."""


class Inbox:
    """Whole messages in order, for one reader.

    Once more than *most* bytes wait to be taken by a reader that is busy, the next message is dropped and
    *overrun* is true for good. A reader that waits, or was woken and has yet to run, takes all there is.
    Between `rest` and `begin` there is no reader, and nothing is kept.
    """

    def __init__(self, most: int) -> None:
        self.overrun = False
        self._most = most
        self._messages: deque[bytes] = deque()
        self._unread = 0
        self._begun: bytearray | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._at_once: AtOnce | None = None
        self._limit = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0
        self._closed = self._rests = False

    def __len__(self) -> int:
        return len(self._messages)

    @property
    def unfinished(self) -> int:
        """How many bytes there are of a message that is not over."""
        return len(self._begun or b"")

    @property
    def rests(self) -> bool:
        """Whether there is no reader."""
        return self._rests

    @property
    def is_awaited(self) -> bool:
        """Whether the reader waits, with nothing to read."""
        return self._waiter is not None and not self._waiter.done()

    def put(self, frame: Frame) -> None:
        """Take a data *frame*; with the last one of a message, that message can be taken."""
        if self._begun is None and frame.fin:
            message = bytes(frame.data)
        else:
            self._begun = self._begun if self._begun is not None else bytearray()
            self._begun += frame.data
            if not frame.fin:
                return
            message, self._begun = bytes(self._begun), None
        self._add(message)

    def put_alone(self, message: bytes) -> bool:
        """Offer a whole *message*, which came alone, to the reader if it waits; return whether it was dealt with.

        The reader then goes on waiting. Otherwise the message is queued. None is overtaken by it, since a reader
        waits only while there is no other.
        """
        waiter, at_once = self._waiter, self._at_once
        if waiter is not None and at_once is not None and not waiter.done():
            try:
                if at_once(message):
                    self._due = waiter.get_loop().time() + self._limit
                    return True
            except Exception as exc:  # noqa: BLE001  (it belongs to whoever waits)
                waiter.set_exception(exc)
                return True
        self._add(message)
        return False

    def _add(self, message: bytes) -> None:
        if self._rests:
            return
        is_busy = self._waiter is None
        self.overrun = self.overrun or (is_busy and self._unread > self._most)
        if not self.overrun:
            self._unread += len(message)
            self._messages.append(message)
            self._wake()

    def take(self) -> bytes:
        """Return the next message. Raises IndexError where there is none."""
        message = self._messages.popleft()
        self._unread -= len(message)
        return message

    def rest(self) -> None:
        """Forget all whole messages, and those to come."""
        self.begin()
        self._rests = True

    def begin(self) -> None:
        """Forget all whole messages, and keep those to come."""
        self._messages.clear()
        self._unread = 0
        self._rests = False

    async def wait(self, limit: float, at_once: AtOnce | None = None) -> bool:
        """Wait for a message; return False where there will be none. Raises TimeoutError after *limit* seconds.

        A message that *at_once* deals with does not end the wait, but its time begins anew.
        """
        if not self._messages and not self._closed:
            loop = asyncio.get_running_loop()
            self._at_once, self._limit = at_once, limit
            self._due = loop.time() + limit
            if self._timer is None or self._timer.when() > self._due:
                self._set_timer(loop)
            self._waiter = waiter = loop.create_future()
            try:
                await waiter
            finally:
                self._waiter = self._at_once = None
        return bool(self._messages)

    def _set_timer(self, loop: asyncio.AbstractEventLoop) -> None:
        """Have one timer for many waits: setting one for each event costs more than the wait."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = loop.call_at(self._due, self._look, loop)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        """End the wait if it is due, or look again when it will be."""
        self._timer = None
        if self._waiter is None or self._waiter.done():
            return
        if loop.time() < self._due:
            self._set_timer(loop)
        else:
            self._waiter.set_exception(TimeoutError())

    def close(self) -> None:
        """Take note that nothing more will come. What is here can still be taken."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and self.is_awaited:
            self._waiter.set_result(None)
