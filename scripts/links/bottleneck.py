"""Bottleneck: one direction of a link, packet by packet: a drop-tail queue, a rate, losses, a delay, jitter.

It decides and does no I/O: packets go in with the time, and come out when they are due.
"""

import random
from collections import deque
from dataclasses import dataclass

PACKET = 1500
LEAST_QUEUE = 32 * PACKET
_PAUSE = 0.1
"""After so many seconds without a packet a burst of losses is over: it is the air's, not the sender's."""


@dataclass(slots=True)
class Counts:
    """What entered, what the full queue dropped, what the air lost, and what came out; bytes are of IP."""

    packets: int = 0
    bytes: int = 0
    dropped: int = 0
    lost: int = 0
    delivered: int = 0
    delivered_bytes: int = 0


class Bottleneck:
    """Lets packets pass at *rate* bit/s and delivers them *delay* seconds later.

    The queue in front of it takes *queue* bytes. *loss* is the share of packets that are lost behind it, in
    bursts of *burst* on average (a Gilbert model). A pause ends a burst: else TCP's lone repetitions would meet it
    however late they come. *jitter* is the deviation of a half-normal further delay; the order is kept. The same
    *seed* gives the same losses for the same packets. While it is *dark* all are lost.
    """

    def __init__(
        self,
        *,
        rate: float,
        delay: float,
        queue: int,
        loss: float = 0.0,
        jitter: float = 0.0,
        burst: float = 1.0,
        seed: object = 0,
    ) -> None:
        self.counts = Counts()
        self.dark = False
        self._rate = rate / 8
        self._delay = delay
        self._queue = queue
        self._loss = loss
        self._jitter = jitter
        self._leave = 1 / burst
        self._losing = False
        self._last = 0.0
        self._random = random.Random(str(seed))
        self._waiting: deque[tuple[float, int]] = deque()
        self._waiting_bytes = 0
        self._in_the_air: deque[tuple[float, bytes]] = deque()

    def put(self, packet: bytes, now: float) -> None:
        """Let *packet* in at *now*."""
        size = len(packet)
        self.counts.packets += 1
        self.counts.bytes += size
        while self._waiting and self._waiting[0][0] <= now:
            self._waiting_bytes -= self._waiting.popleft()[1]
        if self._waiting_bytes + size > self._queue:
            self.counts.dropped += 1
            return
        passed_at = (self._waiting[-1][0] if self._waiting else now) + size / self._rate
        self._waiting.append((passed_at, size))
        self._waiting_bytes += size
        if self.dark or self._loses(passed_at):
            self.counts.lost += 1
        else:
            self._in_the_air.append((self._due(passed_at), packet))

    @property
    def due(self) -> float | None:
        """When the next packet comes out, if one is under way."""
        return self._in_the_air[0][0] if self._in_the_air else None

    def take(self, now: float) -> bytes | None:
        """Return the next packet that is due by *now*."""
        if not self._in_the_air or self._in_the_air[0][0] > now:
            return None
        packet = self._in_the_air.popleft()[1]
        self.counts.delivered += 1
        self.counts.delivered_bytes += len(packet)
        return packet

    def _loses(self, now: float) -> bool:
        if not self._loss:
            return False
        self._losing = self._losing and now - self._last <= _PAUSE
        self._last = now
        draw = self._random.random()
        if self._leave == 1:
            return draw < self._loss
        enter = self._leave * self._loss / (1 - self._loss)
        self._losing = draw >= self._leave if self._losing else draw < enter
        return self._losing

    def _due(self, passed_at: float) -> float:
        due = passed_at + self._delay
        if self._jitter:
            due += abs(self._random.gauss(0, self._jitter))
        return max(due, self._in_the_air[-1][0]) if self._in_the_air else due
