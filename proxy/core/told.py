"""The items of one response, as upstream tells them whole."""

from dataclasses import replace

from proxy.core.items import Output, Raw


class Told:
    """The items of `response.output_item.done` events, by their place in the output.

    *has_collided* says that two of them were given one place, where it may be that one is the other, revised.
    """

    def __init__(self) -> None:
        self.has_collided = False
        self._items: dict[int, Raw] = {}
        self._announced: set[tuple[int, str]] = set()
        self._behind = 0  # the place behind all others

    def announce(self, event: Raw) -> None:
        """Note from a `response.output_item.added` *event* that an item is to come."""
        item = event.get("item")
        if isinstance(index := event.get("output_index"), int):
            self._announced.add((index, str(item.get("id")) if isinstance(item, dict) else ""))

    def note(self, event: Raw) -> None:
        """Note the item in a `response.output_item.done` *event*.

        An item that comes twice counts once. Some services give all their items one index, so another item at a
        place that is taken goes to the end.
        """
        item, index = event.get("item"), event.get("output_index")
        if not isinstance(item, dict):
            return
        place = index if isinstance(index, int) else self._known_place(item)
        if place in self._items and not _is_again(self._items[place], item):
            self.has_collided, place = True, self._behind
        self._items[place] = item
        self._behind = max(self._behind, place + 1)

    def _known_place(self, item: Raw) -> int:
        """Return the place of *item*, which came without one: that of the item that it repeats, or the end."""
        if item.get("id") is None and item.get("call_id") is None:
            return self._behind  # the same words twice may be two items
        return next((place for place, told in self._items.items() if _is_again(told, item)), self._behind)

    @property
    def lacks_some(self) -> bool:
        """Whether an item was announced that has not come whole; several may be announced for one place."""
        places = {index for index, _ in self._announced}
        return not places <= self._items.keys() or len(self._announced) > len(self._items)

    def in_order(self) -> list[Raw]:
        """Return the items."""
        return [self._items[index] for index in sorted(self._items)]

    def __len__(self) -> int:
        return len(self._items)


def _is_again(one: Raw, other: Raw) -> bool:
    """Whether *other* is *one*, perhaps with another status, ciphertext or further field."""
    try:
        was, now = Output.of(one), Output.of(other)
    except TypeError:  # half a character, or nested deeply
        return one == other
    if was.call_id is not None and was.type == now.type:
        return was.call_id == now.call_id
    return was == (now if was.id is None else replace(now, seals=was.seals, rest=was.rest))
