"""Chain: what a server remembers of earlier responses, and where.

A connection's own memory lives as long as the connection. The store outlives it, holds what was sent with
``store: true``, and belongs to one identity.
"""

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

from proxy.simulator.citizens import CachePolicy, Citizen
from proxy.simulator.model import Body, Item
from proxy.simulator.records import Identity

STORED_RESPONSES = 10_000


@dataclass(frozen=True, slots=True)
class Memory:
    """One completed response: its whole *context* (its own *input* at the end), and its *output*.

    *instructions* are those that were in force.
    """

    response_id: str
    lane: str | None
    context: tuple[Item, ...]
    input: tuple[Item, ...]
    output: tuple[Item, ...]
    response: Body = field(default_factory=dict)
    instructions: Any = None

    def continued(self, citizen: Citizen) -> tuple[Item, ...]:
        """Return the context that a continuation starts from."""
        output = self.output
        if not citizen.keeps_reasoning:
            output = tuple(item for item in output if item.get("type") in ("message", "function_call"))
        return (self.context if citizen.replays_whole_chain else self.input) + output


class ConnectionCache:
    """What one connection remembers: its latest response, or the latest of each lane."""

    def __init__(self, policy: CachePolicy) -> None:
        self._policy = policy
        self._slots: dict[str | None, Memory] = {}

    def __repr__(self) -> str:
        return f"<ConnectionCache {self._policy} {[memory.response_id for memory in self._slots.values()]}>"

    def recall(self, response_id: str) -> Memory | None:
        """Return the response, if it is still here."""
        return next((memory for memory in self._slots.values() if memory.response_id == response_id), None)

    @property
    def latest(self) -> Memory | None:
        """The response that was remembered last."""
        return next(reversed(self._slots.values()), None)

    def remember(self, memory: Memory) -> None:
        """Take the place of the response before it."""
        slot = {"latest": None, "per_lane": memory.lane, "store": memory.response_id}[self._policy]
        self._slots[slot] = memory

    def evict(self, response_id: str, *, lane: str | None) -> None:
        """Forget the response if it is *lane*'s own: a fork that fails preserves its parent."""
        for slot, memory in list(self._slots.items()):
            if memory.response_id == response_id and memory.lane == lane:
                del self._slots[slot]


class Store:
    """What is kept for later, for each identity."""

    def __init__(self) -> None:
        self._memories: OrderedDict[tuple[Identity, str], Memory] = OrderedDict()
        self._items: dict[tuple[Identity, str], Item] = {}

    def recall(self, identity: Identity, response_id: str) -> Memory | None:
        """Return a stored response."""
        return self._memories.get((identity, response_id))

    def remember(self, identity: Identity, memory: Memory) -> None:
        """Keep a response and its items."""
        self._memories[identity, memory.response_id] = memory
        for item in (*memory.input, *memory.output):
            if item.get("id"):
                self._items[identity, item["id"]] = item
        while len(self._memories) > STORED_RESPONSES:
            (owner, _), forgotten = self._memories.popitem(last=False)
            self._forget_items(owner, forgotten)

    def forget(self, identity: Identity, response_id: str) -> bool:
        """Delete a response; return whether it was there."""
        memory = self._memories.pop((identity, response_id), None)
        if memory is None:
            return False
        self._forget_items(identity, memory)
        return True

    def item(self, identity: Identity, item_id: str) -> Item | None:
        """Return a stored item, for ``item_reference``."""
        return self._items.get((identity, item_id))

    def _forget_items(self, identity: Identity, memory: Memory) -> None:
        for item in (*memory.input, *memory.output):
            self._items.pop((identity, item.get("id", "")), None)
