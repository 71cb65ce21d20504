"""What every front end does: read a request as a turn, and write the turn's events as its API would."""

from dataclasses import dataclass
from typing import Protocol

from proxy.core.delta import Mismatch, TurnRequest
from proxy.core.events import ServerEvent


@dataclass(frozen=True, slots=True)
class Opaque:
    """A request that goes upstream over HTTP in the agent's own bytes, for *reason*."""

    reason: Mismatch
    model: str | None = None


class Answer(Protocol):
    """The answer to one turn in the agent's dialect, built up event by event."""

    @property
    def content_type(self) -> str:
        """The answer's Content-Type."""
        ...

    def add(self, event: ServerEvent) -> bytes:
        """Take an event; return the bytes to send now."""
        ...

    def finish(self) -> bytes:
        """Return the bytes that end the answer. Raises UpstreamError where an error is all there is to show."""
        ...


class FrontEnd(Protocol):
    """One HTTP API that agents speak."""

    @property
    def name(self) -> str:
        """The name in the figures."""
        ...

    def decode(self, body: bytes) -> TurnRequest | Opaque:
        """Read a request body (decoded from its Content-Encoding)."""
        ...

    def answer(self, request: TurnRequest) -> Answer:
        """Return an empty answer to *request*."""
        ...
