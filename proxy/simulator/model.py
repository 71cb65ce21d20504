"""Output: what the simulated model says in one response, as a list of parts.

A script is asked with a `ModelCall` and answers with an `Output`; everything else (ids, items, events, the
Chat dialect) follows from that.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

Item = dict[str, Any]
"""One element of ``input`` or ``output``."""
Event = dict[str, Any]
"""One server event."""
Body = dict[str, Any]
"""A request, or a response object."""


@dataclass(frozen=True, slots=True)
class Reasoning:
    """A reasoning item: its *summary* parts and *size* bytes of ciphertext."""

    summary: tuple[str, ...] = ()
    size: int = 400


@dataclass(frozen=True, slots=True)
class Text:
    """An assistant message."""

    text: str
    phase: Literal["commentary", "final_answer"] | None = None


@dataclass(frozen=True, slots=True)
class Declined:
    """An assistant message that is a refusal."""

    text: str


@dataclass(frozen=True, slots=True)
class FunctionCall:
    """A call of a function tool; *arguments* is JSON text, byte for byte as the model wrote it."""

    name: str
    arguments: str = "{}"
    call_id: str | None = None
    namespace: str | None = None


@dataclass(frozen=True, slots=True)
class CustomToolCall:
    """A call of a custom (free text) tool."""

    name: str
    input: str
    call_id: str | None = None
    namespace: str | None = None


@dataclass(frozen=True, slots=True)
class WebSearch:
    """A search that upstream itself ran."""

    query: str


@dataclass(frozen=True, slots=True)
class Compaction:
    """A compaction item with *size* bytes of ciphertext."""

    size: int = 400


@dataclass(frozen=True, slots=True)
class Verbatim:
    """Any item at all, as it should be emitted; an id is added if it has none."""

    item: Item


Part = Reasoning | Text | Declined | FunctionCall | CustomToolCall | WebSearch | Compaction | Verbatim


@dataclass(frozen=True, slots=True)
class Completed:
    """The response ends well."""


@dataclass(frozen=True, slots=True)
class Incomplete:
    """The response is cut short."""

    reason: str = "max_output_tokens"


@dataclass(frozen=True, slots=True)
class Failed:
    """The response fails after it began; *error_event* sends an ``error`` event right before, or ``behind`` it.

    Then ``response.failed`` does not say why, as Azure's servers were seen to do (earendil-works/pi#7983).
    """

    code: str = "server_error"
    message: str = "The server had an error while processing your request. Sorry about that!"
    error_event: bool | Literal["behind"] = False


Finish = Completed | Incomplete | Failed


@dataclass(frozen=True, slots=True)
class Output:
    """One response: its parts, how it ends, and its pace."""

    parts: tuple[Part, ...]
    finish: Finish = field(default_factory=Completed)
    first_event_seconds: float = 0
    event_seconds: float = 0
    delta_size: int = 24


@dataclass(frozen=True, slots=True)
class ModelCall:
    """What the model is asked: the *request* as received and the whole *context*, in Responses items."""

    request: Body
    context: tuple[Item, ...]
    number: int
    transport: Literal["ws", "http"] = "ws"
    endpoint: Literal["responses", "chat"] = "responses"


Script = Callable[[ModelCall], Output]


def says(*parts: Part | str, finish: Finish | None = None) -> Output:
    """Build an `Output`; a plain string stands for a `Text`."""
    whole = tuple(Text(part) if isinstance(part, str) else part for part in parts)
    return Output(whole, finish or Completed())
