"""The whole response, gathered from its events."""

from typing import Any

from proxy.core.events import Fault, ServerEvent


class Gathering:
    """The items of a response and its last word."""

    def __init__(self) -> None:
        self._items: dict[int, Any] = {}
        self._last: ServerEvent | None = None

    def add(self, event: ServerEvent) -> None:
        """Keep what the response needs."""
        if event.type == "response.output_item.done":
            done = event.json()
            item, index = done.get("item"), done.get("output_index")
            if not isinstance(index, int) or _are_two(self._items.get(index), item):
                index = max(self._items, default=-1) + 1
            self._items[index] = item
        self._last = event

    def response(self) -> dict[str, Any]:
        """Return the response object; the streamed items count more than the terminal event's, unless it has more.

        Raises UpstreamError where the turn ended with an error instead of a response.
        """
        last = self._last.json() if self._last is not None else {}
        response = last.get("response")
        if not isinstance(response, dict):
            raise Fault.of(last).as_error()
        if self._items and len(self._items) >= len(response.get("output") or ()):
            response["output"] = [self._items[index] for index in sorted(self._items)]
        return response


def _are_two(one: Any, other: Any) -> bool:
    """Whether these are two calls, by their ids: some services count all of them as one."""
    ids = [each.get("call_id") if isinstance(each, dict) else None for each in (one, other)]
    return None not in ids and ids[0] != ids[1]
