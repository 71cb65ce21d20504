"""Sizes: how large a message upstream takes over a WebSocket, as far as was seen. In bytes."""


class Sizes:
    """What was seen with one set of credentials. Times in seconds, by a monotonic clock."""

    def __init__(self) -> None:
        self._largest_taken = 0
        self._too_large = 0
        self._too_large_until = 0.0

    def taken(self, size: int) -> None:
        """Take note that upstream answered a message of *size* bytes."""
        self._largest_taken = max(self._largest_taken, size)

    def too_large(self, size: int, *, now: float, off_seconds: float) -> None:
        """Take note that upstream found a message of *size* bytes too large: the next one would be sent in vain.

        Where it has taken as large a one, that is not believed until it says so again: all but the smallest
        messages would else go over HTTP for whatever it meant.
        """
        if size <= self._largest_taken:
            self._largest_taken = 0
            return
        self._too_large = min(size, self._too_large) if now < self._too_large_until else size
        self._too_large_until = now + off_seconds

    def may_be_taken(self, size: int, now: float) -> bool:
        """Whether upstream did not lately find a message of *size* bytes, or a smaller one, too large."""
        return size < self._too_large or now >= self._too_large_until
