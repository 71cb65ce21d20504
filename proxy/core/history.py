"""The history of a request whose beginning came before, to the byte: it is not read again unless someone asks."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import overload

from proxy.core.items import START, Fingerprint, Item, Raw, marks

_MARK = len(START)


@dataclass(frozen=True, slots=True)
class Outline:
    """What is asked of a history as a whole, kept so that its items need not be read again.

    *length* is the number of its items, and *opening* that of the items up to and with the first user message, 0
    where there is none; *asked* is the mark of that message alone. *has_model_output* says that the model has
    spoken, *shows_it* that this can be seen without knowing any item but calls and messages, which have their
    types, *is_compacted* that upstream may have forgotten what stands before a compaction, and *has_tools* that
    it gives tools as items.
    """

    length: int = 0
    opening: int = 0
    asked: Fingerprint = START
    has_model_output: bool = False
    shows_it: bool = False
    is_compacted: bool = False
    has_tools: bool = False

    @classmethod
    def of(cls, items: "Sequence[Item]") -> "Outline":
        """Return that of *items*."""
        if isinstance(items, History):
            return items.outline
        types = {item.type for item in items}
        users = (n for n, each in enumerate(items, 1) if each.raw.get("role") == "user" and each.type == "message")
        opening = next(users, 0)
        return cls(
            length=len(items),
            opening=opening,
            asked=marks(items[opening - 1 : opening])[-1] if opening else START,
            has_model_output=any(item.from_model for item in items),
            shows_it=any(item.is_plainly_from_model for item in items),
            is_compacted=any("compact" in kind for kind in types),
            has_tools="additional_tools" in types,
        )

    def then(self, later: "Outline") -> "Outline":
        """Return that of this history and *later* items behind it."""
        return Outline(
            length=self.length + later.length,
            opening=self.opening or (later.opening and self.length + later.opening),
            asked=self.asked if self.opening else later.asked,
            has_model_output=self.has_model_output or later.has_model_output,
            shows_it=self.shows_it or later.shows_it,
            is_compacted=self.is_compacted or later.is_compacted,
            has_tools=self.has_tools or later.has_tools,
        )


@dataclass(frozen=True, slots=True)
class Marks:
    """One fingerprint for each prefix of a history, the empty one first: *joined*, one behind the other."""

    joined: bytes

    def __len__(self) -> int:
        return len(self.joined) // _MARK

    def __getitem__(self, prefix: int) -> Fingerprint:
        at = (prefix if prefix >= 0 else prefix + len(self)) * _MARK
        return self.joined[at : at + _MARK]


class History(Sequence[Item]):
    """A history whose first items were read with an earlier request, and are not read again unless someone asks.

    Of those only the marks *before* and the *outline* are known; *new* are the items behind them. *read* returns
    the JSON of all items, old and new.
    """

    def __init__(
        self,
        before: Marks,
        new: tuple[Item, ...],
        *,
        outline: Outline,
        read: Callable[[], Sequence[Raw]],
    ) -> None:
        self.marks = Marks(before.joined + b"".join(marks(new, after=before[-1])[1:]))
        self.outline = outline.then(Outline.of(new))
        self._known = len(before) - 1
        self._new = new
        self._read = read

    def __len__(self) -> int:
        return self._known + len(self._new)

    @overload
    def __getitem__(self, index: int) -> Item: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[Item, ...]: ...

    def __getitem__(self, index: int | slice) -> Item | tuple[Item, ...]:
        if isinstance(index, slice) and index.stop is None and index.step is None:
            start = index.start or 0
            if start >= self._known:
                return self._new[start - self._known :]
        return self.whole[index]

    @cached_property
    def whole(self) -> tuple[Item, ...]:
        """All items."""
        return tuple(Item.of(raw) for raw in self.raws)

    @cached_property
    def raws(self) -> Sequence[Raw]:
        """The JSON of all items."""
        return self._read()

    def __repr__(self) -> str:
        return f"<History {self._known} + {len(self._new)}>"
