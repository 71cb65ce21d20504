"""What upstream tells of a response's items, event by event, and what it holds of them in the end."""

from proxy.core.events import ServerEvent
from proxy.core.items import Output, Raw, contradicts
from proxy.core.told import Told

_MOST_TOLD = 64 * 1024 * 1024
"""Bytes of events that begin and end a response's items. Of more none is kept, and the next turn goes in full."""


class Account:
    """Upstream's account of one response. *held* are its items, once `outputs` was asked for."""

    def __init__(self) -> None:
        self.held: list[Raw] = []
        self._told = Told()
        self._told_bytes = 0
        self._has_pieces = self._is_mid_item = False

    @property
    def says_something(self) -> bool:
        """Whether upstream told an item or a part of one."""
        return bool(len(self._told) or self.held or self._has_pieces)

    def note(self, event: ServerEvent) -> None:
        """Take note of what *event* says of the items. Raises GarbledEvent where it cannot be read."""
        if event.type == "response.output_item.done":
            if self._may_keep(event):
                self._told.note(event.json())
            self._is_mid_item = False
        elif event.type.endswith((".added", ".delta")):
            self.note_piece()
            if event.type == "response.output_item.added" and self._may_keep(event):
                self._told.announce(event.json())
        elif event.type.endswith(".done") and not event.terminal:  # a part, whose words may be told nowhere else
            self._has_pieces = True

    def _may_keep(self, event: ServerEvent) -> bool:
        """Whether what *event* says of an item is to be kept; else nothing of the response is any more."""
        self._told_bytes += len(event.raw)
        if self._told_bytes <= _MOST_TOLD:
            return True
        self._told, self._has_pieces = Told(), True
        return False

    def note_piece(self) -> None:
        """Take note of an event that adds a piece to an item."""
        self._has_pieces = self._is_mid_item = True

    def outputs(self, final: object) -> tuple[Output, ...] | None:
        """Return what upstream holds of the response, which its last event says is *final*; None where in doubt.

        The streamed items count. The terminal list may be empty or shorter, and may seal reasoning in another
        ciphertext. It is uncertain what upstream holds

        - where that list has an item that was not streamed, or one in other words or at another place;
        - where it is shorter, and an item was begun and not told whole: the agent was shown pieces of it;
        - where it is shorter, and two items were told at one place, which may be one item twice;
        - where an item cannot be known again, or there were too many to keep.
        """
        if self._told_bytes > _MOST_TOLD:
            return None
        final_items: list[Raw] = (
            [each for each in final if isinstance(each, dict)] if isinstance(final, list) else []
        )
        self.held = self._told.in_order() or final_items
        try:
            return self._as_held(final_items)
        except TypeError:  # nested too deeply, or with half a character
            return None

    def _as_held(self, final_items: list[Raw]) -> tuple[Output, ...] | None:
        outputs = [Output.of(item) for item in self.held]
        if len(final_items) > len(outputs) or (self._has_pieces and not outputs):
            return None
        if len(final_items) < len(outputs) and (self._is_mid_item or self._told.lacks_some):
            return None
        if 0 < len(final_items) < len(outputs) and self._told.has_collided:
            return None
        behind = 0  # the item that the list told before
        for item in final_items:
            same = (n for n in range(behind, len(outputs)) if outputs[n].is_item(item))
            index = next((n for n in same if not contradicts(self.held[n], item)), None)
            if index is None:
                return None
            outputs[index] = outputs[index].sealed(item)
            behind = index + 1
        return tuple(outputs)
