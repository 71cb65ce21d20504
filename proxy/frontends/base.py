"""What every front end does: read a request as a turn, and write the turn's events as its API would."""

from dataclasses import dataclass
from typing import Protocol

from proxy.core.delta import Mismatch, TurnRequest
from proxy.core.events import ServerEvent
from proxy.errors import UpstreamError
from proxy.frontends.known import Found


@dataclass(frozen=True, slots=True)
class Opaque:
    """A request that goes upstream over HTTP in the agent's own bytes, for *reason*.

    *detail* names the parameter that is the reason, where it is one.
    """

    reason: Mismatch
    model: str | None = None
    detail: str | None = None


class Answer(Protocol):
    """The answer to one turn in the agent's dialect, built up event by event."""

    @property
    def content_type(self) -> str:
        """The answer's Content-Type."""
        ...

    def tells(self, event: ServerEvent) -> bool:
        """Whether `add` would return bytes for *event* while it has returned none for those before it.

        A terminal event tells how the turn ended, which may be an error.
        """
        ...

    def add(self, event: ServerEvent) -> bytes:
        """Take an event; return the bytes to send now. Raises UpstreamError for an error before any bytes."""
        ...

    def finish(self) -> bytes:
        """Return the bytes that end the answer. Raises UpstreamError where an error is all there is to show."""
        ...


@dataclass(frozen=True, slots=True)
class Readable:
    """A request that was read as a *turn*, and the *answer* to it, still empty."""

    turn: TurnRequest
    answer: Answer


class FrontEnd(Protocol):
    """One HTTP API that agents speak."""

    @property
    def name(self) -> str:
        """The name in the figures."""
        ...

    def find(self, body: bytes) -> Found | None:
        """Return what is known of *body* from an earlier one: only what is left is then read."""
        ...

    def pulse(self, user_agent: str) -> bytes:
        """Return what keeps the read timeout of such an agent from firing, and means nothing to it."""
        ...

    def refusal(self, error: UpstreamError) -> bytes:
        """Return the body of *error*, which takes the place of an answer."""
        ...

    def failure(self, error: UpstreamError) -> bytes:
        """Return *error* as the last event of a stream that has had no other."""
        ...

    def decode(self, body: bytes, known: Found | None = None) -> Readable | Opaque:
        """Read a request body (decoded from its Content-Encoding), of which *known* was found, or may be."""
        ...
