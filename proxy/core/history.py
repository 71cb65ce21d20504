"""The history of a request whose beginning came before, to the byte: it is not read again unless someone asks."""

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import overload

from proxy.core.items import Fingerprint, Item, marks


class History(Sequence[Item]):
    """The *new* items behind others, of which only the marks *before* are known; *read* reads all of them.

    *opening* is the number of items up to the first user message before them, 0 where there is none.
    """

    def __init__(
        self,
        before: tuple[Fingerprint, ...],
        new: tuple[Item, ...],
        *,
        opening: int,
        read: Callable[[], tuple[Item, ...]],
    ) -> None:
        self.marks = (*before, *marks(new, after=before[-1])[1:])
        self._known = len(before) - 1
        self._new = new
        self._opening = opening
        self._read = read

    @property
    def beginning(self) -> int:
        """The number of items up to the first user message; 0 where there is none."""
        if self._opening:
            return self._opening
        found = beginning(self._new)
        return found and self._known + found

    def __len__(self) -> int:
        return self._known + len(self._new)

    @overload
    def __getitem__(self, index: int) -> Item: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[Item, ...]: ...

    def __getitem__(self, index: int | slice) -> Item | tuple[Item, ...]:
        if isinstance(index, slice) and index == slice(index.start, None) and (index.start or 0) >= self._known:
            return self._new[(index.start or 0) - self._known :]
        return self.whole[index]

    @cached_property
    def whole(self) -> tuple[Item, ...]:
        """All items."""
        return self._read()

    def __repr__(self) -> str:
        return f"<History {self._known} + {len(self._new)}>"


def beginning(items: Sequence[Item]) -> int:
    """Return how many *items* there are up to the first user message; 0 where there is none."""
    users = (n for n, each in enumerate(items) if each.type == "message" and each.raw.get("role") == "user")
    return next(users, -1) + 1
