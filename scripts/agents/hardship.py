"""Hardship: the model falls silent and the link goes dark while an agent works, longer than its client waits."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace

from link import Link

from proxy.simulator import ModelCall, Output, Script

BEGIN_SECONDS = 0.3  # into an answer, so that some of it was shown
EVENT_SECONDS = 0.05
KINDS = 4


@dataclass(frozen=True, slots=True)
class Hardship:
    """Silences and darkness of *seconds* each; an agent's client that hears nothing for *patience* s gives up.

    Without *patience* the client waits as long as it does by default.
    """

    seconds: float
    patience: float | None = None

    @property
    def total(self) -> float:
        """How much longer a session takes, in seconds."""
        return KINDS * self.seconds

    @property
    def settings(self) -> dict[str, str]:
        """What packlight has to know of so little patience, as environment variables."""
        if self.patience is None:
            return {}
        calm = str(self.patience / 4)
        return {"PACKLIGHT_KEEPALIVE_AFTER": calm, "PACKLIGHT_KEEPALIVE_INTERVAL": calm}


class Ordeal:
    """A model, *script*, that meets each kind of *hardship* once: after 2, 4, 6 and 8 tool calls.

    *link* is what it is behind; it has to be there before the first call.
    """

    def __init__(self, hardship: Hardship, script: Script) -> None:
        self.link: Link
        self._seconds = hardship.seconds
        self._script = script
        self._met: set[int] = set()

    def __call__(self, call: ModelCall) -> Output:
        """Answer, with hardship."""
        output = self._script(call)
        answered = sum(item["type"].endswith("_call_output") for item in call.context)
        if answered in self._met:
            return output
        self._met.add(answered)
        slow = replace(output, event_seconds=EVENT_SECONDS)
        match answered:
            case 2:  # the model thinks
                return replace(output, first_event_seconds=self._seconds)
            case 4:  # upstream stops in the middle of its answer
                self._later(BEGIN_SECONDS, self.link.down.stop, self.link.down.go)
                return slow
            case 6:  # the link is gone before the answer begins
                self._later(0, self.link.dark, self.link.lit)
            case 8:  # and in the middle of one
                self._later(BEGIN_SECONDS, self.link.dark, self.link.lit)
                return slow
        return output

    def _later(self, seconds: float, begin: Callable[[], None], end: Callable[[], None]) -> None:
        loop = asyncio.get_running_loop()
        loop.call_later(seconds, begin)
        loop.call_later(seconds + self._seconds, end)
