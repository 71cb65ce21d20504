"""Events that the agent is not shown yet: until it is, the turn can be sent again."""

from proxy.core.events import ServerEvent
from proxy.errors import TOO_BIG, ConnectionLost

_MOST_EARLY, _MOST_EARLY_BYTES = 1000, 1024 * 1024
"""Events, and bytes of them, that may come before a response begins. With more, the connection counts as lost."""

_MOST = 64 * 1024 * 1024
"""Bytes of an answer that are held back while nothing of it is shown: twice what 128,000 tokens take as events."""


class HeldBack:
    """What came of one attempt and was not shown, in order."""

    def __init__(self) -> None:
        self._events: list[ServerEvent] = []
        self._bytes = self._early = self._early_bytes = 0

    def keep_early(self, event: ServerEvent) -> None:
        """Keep an *event* that came before the response: it is about the connection or the account.

        It may also be left over from an earlier turn. Raises ConnectionLost where there are too many.
        """
        if not event.is_aside:
            self._events.append(event)
        self._early += 1
        self._early_bytes += len(event.raw)
        if self._early > _MOST_EARLY or self._early_bytes > _MOST_EARLY_BYTES:
            raise ConnectionLost(
                f"upstream sent more than {_MOST_EARLY} events or {_MOST_EARLY_BYTES} bytes before any response"
            )

    def keep(self, event: ServerEvent) -> None:
        """Keep an *event* of the response. Raises ConnectionLost where that gets too large."""
        self._events.append(event)
        self._bytes += len(event.raw)
        if self._bytes > _MOST:
            raise ConnectionLost(f"more than {_MOST} bytes of the answer had to be held back", code=TOO_BIG)

    def followed_by(self, event: ServerEvent) -> tuple[ServerEvent, ...]:
        """Return all that was kept, which is shown now, and *event* behind it."""
        shown = (*self._events, event)
        self._events = []
        return shown
