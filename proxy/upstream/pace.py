"""How much of an upload may be under way: a few seconds' worth of what the link carries.

What is queued beyond that only delays what comes behind it: the answer to upstream's ping, without which it
closes the connection, and the end of a turn that the agent no longer wants.
"""

from collections import deque

FIRST_FLIGHT = 16 * 1024
"""What may be under way before anything is known of the link: about what TCP sends at first (RFC 6928)."""

_LONGEST_ROUND_TRIP = 3.0
_LEAST_WAIT, _LONGEST_WAIT = 0.002, 0.1

_LEAST_FRAGMENT = 2 * 1024
_LARGEST_FRAGMENT = 64 * 1024
_MOST_FRAGMENTS = 1000
"""Of one message. Servers may refuse many: `websockets`, for one, from 4,096 on."""


def least_fragment(size: int) -> int:
    """Return the least bytes in which a message of *size* bytes is worth being cut."""
    return max(_LEAST_FRAGMENT, -(-size // _MOST_FRAGMENTS))


class Pace:
    """The rate at which one upload is delivered, and what follows from it.

    It begins at *now*, with *size* bytes to go. *lead* is how much may be queued, in seconds of the rate;
    *round_trip* is for how many seconds bytes are on their way without any queue. It comes on top: else a long
    link would never be filled. *proven* is a rate that the link is known to have had, in bytes a second.
    """

    def __init__(self, now: float, size: int, *, lead: float, round_trip: float, proven: float = 0.0) -> None:
        self._least = least_fragment(size)
        self._first = max(FIRST_FLIGHT, 2 * self._least, int(lead * proven))
        self._lead = lead
        self._round_trip = min(round_trip, _LONGEST_ROUND_TRIP)
        self._samples = deque([(now, 0)])

    def note(self, now: float, delivered: int) -> None:
        """Take note that by *now* *delivered* bytes of the upload have arrived."""
        samples = self._samples
        samples.append((now, max(delivered, samples[-1][1])))
        window = max(self._lead / 2, self._round_trip)
        while len(samples) > 2 and samples[1][0] <= now - window:
            samples.popleft()

    @property
    def rate(self) -> float:
        """Bytes a second, lately."""
        (began, before), (now, delivered) = self._samples[0], self._samples[-1]
        return (delivered - before) / (now - began) if now > began else 0.0

    @property
    def allowance(self) -> int:
        """How many bytes may be under way.

        It grows with what was delivered in all, however fast that went: what seems to be a fast link at first
        may be a large buffer in front of a slow one.
        """
        proven = self._first + self._samples[-1][1]
        return max(self._first, min(proven, int(self.rate * (self._lead + self._round_trip))))

    def fragment(self, left: int, room: int) -> int:
        """Return how much of the *left* bytes to send now that there is *room*; 0 means to wait."""
        size = min(left, max(room, 0), max(_LARGEST_FRAGMENT, self._least))
        return size if size >= min(left, self._least) else 0

    def wait(self, room: int) -> float:
        """Return after how many seconds to look again where *room* was not enough."""
        missing = self._least - room
        expected = missing / self.rate if self.rate else self._round_trip / 20
        return min(max(expected, _LEAST_WAIT), _LONGEST_WAIT)
