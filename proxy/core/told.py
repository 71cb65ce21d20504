"""The items of one response, as upstream tells them whole."""

from dataclasses import replace

from proxy.core.items import Output, Raw


class Told:
    """The items of `response.output_item.done` events, by their place in the output."""

    def __init__(self) -> None:
        self._items: dict[int, Raw] = {}
        self._announced: set[int] = set()

    def announce(self, event: Raw) -> None:
        """Take a `response.output_item.added` *event*: this item is to be told."""
        if isinstance(index := event.get("output_index"), int):
            self._announced.add(index)

    def note(self, event: Raw) -> None:
        """Take such an *event*. An item told twice counts once; some services give all their items one index."""
        item, index = event.get("item"), event.get("output_index")
        if not isinstance(item, dict):
            return
        if not isinstance(index, int) or (index in self._items and not _is_again(self._items[index], item)):
            index = max(self._items, default=-1) + 1
        self._items[index] = item

    @property
    def lacks_some(self) -> bool:
        """Whether an item was announced, and not told."""
        return not self._announced <= self._items.keys()

    def in_order(self) -> list[Raw]:
        """Return the items."""
        return [self._items[index] for index in sorted(self._items)]

    def __len__(self) -> int:
        return len(self._items)


def _is_again(one: Raw, other: Raw) -> bool:
    """Whether *other* is *one*, perhaps with another status or ciphertext."""
    was, now = Output.of(one), Output.of(other)
    if was.call_id is not None and was.type == now.type:
        return was.call_id == now.call_id
    return was == (now if was.id is None else replace(now, seals=was.seals))
