"""PacketLink: two network namespaces joined packet by packet, with real TCP at both ends.

    with PacketLink(PROFILES["geo"], seed=1) as link:
        server = link.far.start(["python", "-m", "http.server", "--bind", link.far.address])
        client = link.near.start(["curl", f"http://{link.far.address}:8000/"])
        client.wait()
    print(link.up.counts, link.down.counts)

Each IP packet is read from one side's TUN device, goes through a `Bottleneck`, and is written to the other's.
The namespaces have no other way out.
"""

import ctypes
import os
import select
import threading
import time
from contextlib import suppress
from typing import Self

from bottleneck import LEAST_QUEUE, Bottleneck
from side import NoPacketLink, Side, why_not

from proxy.cli.bench.profiles import Profile

NEAR, FAR = "198.18.0.1", "198.18.0.2"  # RFC 2544: for measurements
_LARGEST = 65_536
_AT_ONCE = 64
_IDLE_SECONDS = 1.0
_PR_SET_TIMERSLACK = 29


class PacketLink:
    """A link of *profile* between *near* and *far*; use it as a context manager. It runs in a thread.

    *up* carries from near to far, and *down* back. *congestion* is the TCP congestion control of both sides:
    by default the one that every kernel has and grants. Raises NoPacketLink where there can be none.
    """

    def __init__(self, profile: Profile, *, seed: int = 1, congestion: str = "reno") -> None:
        self.up = _bottleneck(profile, profile.up, f"{seed}/up")
        self.down = _bottleneck(profile, profile.down, f"{seed}/down")
        self._congestion = congestion
        self.near: Side
        self.far: Side

    def __enter__(self) -> Self:
        if (reason := why_not()) is not None:
            raise NoPacketLink(reason)
        self.near, self.far = Side(NEAR, self._congestion), Side(FAR, self._congestion)
        self._wake, self._woken = os.pipe()
        self._thread = threading.Thread(target=self._carry, name="link")
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        os.close(self._woken)
        self._thread.join()
        os.close(self._wake)
        self.near.close()
        self.far.close()

    def _carry(self) -> None:
        """Carry packets both ways until the other end of the pipe is closed."""
        _be_punctual()
        near, far = self.near.descriptor, self.far.descriptor
        ways = ((near, far, self.up), (far, near, self.down))
        while True:
            for _, target, bottleneck in ways:
                _deliver(target, bottleneck)
            ready, _, _ = select.select((near, far, self._wake), (), (), self._pause())
            if self._wake in ready:
                return
            for source, _, bottleneck in ways:
                if source in ready:
                    _accept(source, bottleneck)

    def _pause(self) -> float:
        due = min((each for each in (self.up.due, self.down.due) if each is not None), default=None)
        return _IDLE_SECONDS if due is None else min(max(due - time.monotonic(), 0), _IDLE_SECONDS)


def _bottleneck(profile: Profile, rate: float, seed: str) -> Bottleneck:
    return Bottleneck(
        rate=rate,
        delay=profile.round_trip / 2,
        queue=max(int(2 * rate / 8 * profile.round_trip), LEAST_QUEUE),
        loss=profile.loss,
        jitter=profile.jitter,
        burst=profile.burst,
        seed=seed,
    )


def _deliver(target: int, bottleneck: Bottleneck) -> None:
    now = time.monotonic()
    while (packet := bottleneck.take(now)) is not None:
        with suppress(OSError):  # the device is full or gone, and so is the packet: IP promises no more
            os.write(target, packet)


def _accept(source: int, bottleneck: Bottleneck) -> None:
    now = time.monotonic()
    with suppress(BlockingIOError):
        for _ in range(_AT_ONCE):
            bottleneck.put(os.read(source, _LARGEST), now)


def _be_punctual() -> None:
    """Wake this thread when it asks to be, not 50 microseconds later, and before other programs."""
    ctypes.CDLL(None).prctl(_PR_SET_TIMERSLACK, 1, 0, 0, 0)
    with suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(10))
