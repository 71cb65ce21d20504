"""What may be sent again after a connection was lost: the one place that decides.

| phase | upstream may have the turn | after a loss |
|---|---|---|
| P0 no connection yet, P1 message not wholly sent | no | again, on a new connection |
| P2 sent, no event | perhaps | again, `ambiguous_retries` times |
| P3 an error before anything was said | it refused it | no loss: `core/turn.py` says what may mend it |
| P4 response begun, nothing of it shown | yes | as P2 |
| P5 shown | yes | never: two answers would be spliced |

A WebSocket that keeps getting lost is left for plain HTTP, which is an attempt like any other.
"""

from dataclasses import dataclass
from enum import Enum

LOSSES_ON_WEBSOCKETS = 2
"""Losses of one turn's sent message after which its next attempt is over plain HTTP."""

UNSENT_ON_WEBSOCKETS = 4
"""Losses of one turn of either kind, on a link that comes and goes, after which the same is done."""


class Remedy(Enum):
    """What is done for a turn after a loss."""

    AGAIN = "a new WebSocket"
    OVER_HTTP = "plain HTTP"
    NONE = "the agent is told"


@dataclass(slots=True)
class Replays:
    """How often one turn was lost.

    *unsent* counts losses before the whole message had left, which upstream cannot answer; *ambiguous* those after
    that. Of the latter at most *allowed* are made good.
    """

    allowed: int
    unsent: int = 0
    ambiguous: int = 0

    def after_loss(self, *, sent: bool, shown: bool) -> Remedy:
        """Count a loss and say what may be done; *sent* if upstream may hold the message, *shown* the answer."""
        if shown:
            return Remedy.NONE
        if not sent:
            self.unsent += 1
        elif self.ambiguous == self.allowed:
            return Remedy.NONE
        else:
            self.ambiguous += 1
        if self.ambiguous >= LOSSES_ON_WEBSOCKETS or self.ambiguous + self.unsent >= UNSENT_ON_WEBSOCKETS:
            return Remedy.OVER_HTTP
        return Remedy.AGAIN
