"""Fault: something that goes wrong on purpose, once or a few times, at a chosen moment."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from proxy.simulator.apierror import ApiError
from proxy.simulator.model import Body

Moment = Literal["handshake", "before_created", "after_created", "after_events", "after_completed", "idle"]
Trouble = Literal[
    "error",  # an error answer: HTTP status and body, or an error event
    "late_error",  # an error event that belongs to nothing; the turn then goes on
    "close",  # WebSocket: a close frame; HTTP: the body ends as if it were complete
    "abort",  # a TCP reset
    "silence",  # nothing is sent or heard any more, and the socket stays open
    "slow",  # *seconds* between events from here on
    "garbage",  # bytes that are no frame and no HTTP
    "binary",  # the rest of the events in binary frames
    "pretty",  # the rest of the events as JSON over several lines
]


@dataclass(slots=True)
class Fault:
    """*what* happens *when*.

    *events* counts the events that are sent before, for ``after_events``. *seconds* is the wait before the
    trouble (``slow``: between events). *retry_after*, *headers* and *body* dress up an error; *body* replaces
    the JSON on HTTP and handshakes, for captive portals and gateways. *then_failed* sends ``response.failed``
    after an error event. *transport* and *match* (asked with the request; handshakes: with an empty one)
    choose the turn; *times* says how many of them are hit (None: all).
    """

    when: Moment
    what: Trouble
    events: int = 0
    seconds: float = 0
    status: int = 500
    code: str | None = "server_error"
    type: str | None = None
    message: str = "The server had an error while processing your request. Sorry about that!"
    param: str | None = None
    retry_after: float | None = None
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | None = None
    content_type: str = "text/html; charset=utf-8"
    close_code: int = 1011
    reason: str = ""
    then_failed: bool = False
    transport: Literal["ws", "http"] | None = None
    match: Callable[[Body], bool] | None = None
    times: int | None = 1

    def error(self) -> ApiError:
        """Word it as an error."""
        headers = dict(self.headers)
        if self.retry_after is not None:
            headers["retry-after"] = f"{self.retry_after:g}"
        return ApiError(
            self.status, self.message, code=self.code, type=self.type, param=self.param, headers=headers
        )


class Faults:
    """The faults that are still to come, oldest first."""

    def __init__(self) -> None:
        self.pending: list[Fault] = []

    def __len__(self) -> int:
        return len(self.pending)

    def __repr__(self) -> str:
        return f"<Faults {[f'{fault.when}: {fault.what}' for fault in self.pending]}>"

    def inject(self, fault: Fault) -> None:
        """Queue *fault*."""
        self.pending.append(fault)

    def clear(self) -> None:
        """Forget those still to come."""
        self.pending.clear()

    def take_for_handshake(self) -> Fault | None:
        """Return the fault that hits this upgrade, and count it."""
        return self._take("ws", {}, of_handshakes=True)

    def take_for_turn(self, transport: Literal["ws", "http"], request: Body) -> Fault | None:
        """Return the fault that hits this turn, and count it."""
        return self._take(transport, request, of_handshakes=False)

    def _take(self, transport: str, request: Body, *, of_handshakes: bool) -> Fault | None:
        for fault in self.pending:
            if (fault.when == "handshake") is not of_handshakes:
                continue
            if fault.transport not in (None, transport) or (fault.match and not fault.match(request)):
                continue
            if fault.times is not None:
                fault.times -= 1
                if fault.times < 1:
                    self.pending.remove(fault)
            return fault
        return None
