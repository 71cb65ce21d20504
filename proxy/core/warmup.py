"""An upload of a whole conversation that asks for no answer, so that the next turn can be a delta again.

Fingerprints are no content: whoever wants this keeps a *keepsake* of the last turn, the only content of a
conversation that outlives a turn.
"""

from dataclasses import dataclass, replace
from math import inf

from proxy.core.delta import Baseline, Delta, Full, TurnRequest
from proxy.core.events import ServerEvent, response_create
from proxy.core.hoist import Hoisted
from proxy.core.items import Raw
from proxy.core.message import Message
from proxy.core.turn import State, Turn
from proxy.core.weight import PLAIN


@dataclass(frozen=True, slots=True)
class Keepsake:
    """What upstream holds after a turn, as content: the items of *request*, then *outputs*.

    *baseline* is the same in fingerprints. *hoisted* and *quiet* say how the request was rewritten for upstream;
    *uploads* is how often all this was uploaded again since, *uploaded_at* when that was done last.
    """

    request: TurnRequest
    outputs: tuple[Raw, ...]
    baseline: Baseline
    hoisted: Hoisted | None
    quiet: bool
    uploads: int = 0
    uploaded_at: float = -inf

    @property
    def is_plain(self) -> bool:
        """Whether an upload of the items of the request would give upstream all that it held of them.

        It would not where upstream ran a tool itself, which may have read what no item shows, nor where an item is
        a reference to one that may be gone.
        """
        return all(item.type in _TOLD or item.type.endswith("_output") for item in self.request.items)

    @classmethod
    def of(cls, turn: Turn) -> "Keepsake | None":
        """Return the keepsake of a completed *turn*.

        None where upstream stores the response anyway, or might read an upload of it in another way. Reasoning
        without `encrypted_content` cannot be uploaded: it is left out of the outputs, and of the baseline too.
        """
        request, baseline = turn.request, turn.baseline
        if baseline is None or request.is_stored or not request.keeps_history:
            return None
        told = turn.held
        if any(raw.get("type") not in PLAIN for raw in told):
            return None
        kept = tuple(raw for raw in told if _is_whole(raw))
        if request.echo is None:
            outputs = tuple(each for each, raw in zip(baseline.outputs, told, strict=True) if _is_whole(raw))
            baseline = replace(baseline, outputs=outputs)
        return cls(request, kept, baseline, turn.hoisted, turn.is_quiet)


_TOLD = PLAIN | {"compaction"}


def _is_whole(raw: Raw) -> bool:
    return raw.get("type") != "reasoning" or bool(raw.get("encrypted_content"))


class WarmUp(Turn):
    """The turn that uploads a *keepsake* again, with `generate: false`; nobody is shown its events.

    Where *is_counted*, upstream has to say what it read.
    """

    def __init__(self, keepsake: Keepsake, *, is_counted: bool = False) -> None:
        super().__init__(replace(keepsake.request, stream=True))
        self._keepsake = keepsake
        self._is_counted = is_counted

    def _message(self, _upload: Delta | Full) -> Message:
        kept = self._keepsake
        self.hoisted = kept.hoisted
        return response_create(kept.request, None, kept.hoisted, quiet=kept.quiet, warm_up=kept.outputs)

    def receive(self, event: ServerEvent) -> tuple[ServerEvent, ...]:
        """Take an event. Afterwards *says_something* may tell that upstream generates all the same."""
        super().receive(event)
        return ()

    @property
    def restored(self) -> Baseline | None:
        """The baseline for the next turn; None where it is not certain that upstream holds all of the keepsake.

        It is certain where upstream completed the turn, generated nothing, and read no fewer tokens than the
        keepsake weighs, as far as either says.
        """
        kept = self._keepsake.baseline
        if self.state is not State.COMPLETED or self.baseline is None or self.says_something:
            return None
        reading = self.reading
        if kept.weight is not None and reading is not None and reading.read < kept.weight.expected(reading):
            return None
        if self._is_counted and reading is None:
            return None
        # What the agent's history leaves out, or tells in fewer words, was in the chain and is not in the upload.
        is_lighter = reading is None and (kept.fuller or kept.retold)
        return replace(kept, response_id=self.baseline.response_id, weight=None if is_lighter else kept.weight)
