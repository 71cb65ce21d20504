"""Ending: how a streamed answer ended that is passed on as it came, told from its bytes as they pass.

A connection that ends properly says nothing about the answer: something in between may have lost the rest of it.
"""

import re
from dataclasses import dataclass, field

from proxy.ledger import Status

_KEPT = 64
"""Bytes that are looked at again together with what follows them: no sign is longer."""


@dataclass(frozen=True, slots=True)
class _Sign:
    """*words*, which say that an answer has ended where they stand behind what *before* matches.

    The first group of *words* tells its status; one that is not in *statuses* has the status *otherwise*. Words
    that begin with a literal are found ten times faster than others.
    """

    words: re.Pattern[bytes]
    before: re.Pattern[bytes]
    otherwise: Status
    statuses: dict[bytes, Status] = field(default_factory=dict)


# Quotes and line breaks in what the model says are escaped, so that nothing of it can pass for one of these.

_SIGNS: dict[str, tuple[_Sign, ...]] = {
    "responses": (
        _Sign(
            re.compile(rb'response\.(completed|incomplete|failed|cancelled|done|error)"'),
            re.compile(rb'"type"\s*:\s*"\Z'),
            "failed",
            {b"completed": "completed", b"incomplete": "incomplete"},
        ),
    ),
    "chat": (
        _Sign(
            re.compile(rb'"finish_reason"\s*:\s*"(\w+)"'),
            re.compile(rb"\Z"),
            "completed",
            {b"length": "incomplete", b"content_filter": "incomplete", b"error": "failed"},
        ),
        _Sign(re.compile(rb"(\[DONE\])"), re.compile(rb"[\r\n]data:\s*\Z"), "completed"),
        _Sign(re.compile(rb'("error")\s*:\s*[{"]'), re.compile(rb"[\r\n]data:\s*\{\s*\Z"), "failed"),
    ),
}


class Ending:
    """How the stream of events ended that answers a request of *front_end*; *status* is None until it says so."""

    def __init__(self, front_end: str) -> None:
        self.status: Status | None = None
        self._signs = _SIGNS[front_end]
        self._kept = b"\n"

    def add(self, chunk: bytes) -> None:
        """Look at the next piece of the stream."""
        text = self._kept + chunk
        for sign in self._signs:
            for found in sign.words.finditer(text):
                if sign.before.search(text, max(0, found.start() - _KEPT), found.start()):
                    self._note(sign.statuses.get(found[1], sign.otherwise))
        self._kept = text[-_KEPT:]

    def _note(self, status: Status) -> None:
        """Take note of a sign. What follows a fault, such as `[DONE]`, does not mend it."""
        if self.status in {None, "completed"}:
            self.status = status
