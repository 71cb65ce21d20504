"""Newest: what is remembered of many things, as long as there are not too many."""

from typing import TypeVar

MOST = 64
"""Entries that are kept."""

Key = TypeVar("Key")
Value = TypeVar("Value")


class Newest(dict[Key, Value]):
    """A mapping in which the oldest entry makes room for a new one. What is entered again is new."""

    def __setitem__(self, key: Key, value: Value) -> None:
        self.pop(key, None)
        if len(self) >= MOST:
            del self[next(iter(self))]
        super().__setitem__(key, value)
