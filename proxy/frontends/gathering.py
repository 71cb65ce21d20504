"""The whole response, gathered from its events, for agents that do not stream."""

from typing import Any

from proxy.core.events import Fault, ServerEvent
from proxy.core.told import Told


class Gathering:
    """An answer that is told at its end: of the events it keeps the items of a response, and the *last* one."""

    content_type = "application/json"

    def __init__(self) -> None:
        self._told = Told()
        self.last: ServerEvent | None = None

    def tells(self, event: ServerEvent) -> bool:
        """Whether *event* is the last one."""
        return event.terminal

    def add(self, event: ServerEvent) -> bytes:
        """Keep what the response needs; there is nothing to send yet."""
        if event.type == "response.output_item.done":
            self._told.note(event.json())
        self.last = event
        return b""

    def response(self) -> dict[str, Any]:
        """Return the response object; the streamed items count more than the terminal event's, unless it has more.

        Raises UpstreamError where the turn ended with an error instead of a response.
        """
        last = self.last.json() if self.last is not None else {}
        response = last.get("response")
        if not isinstance(response, dict):
            raise Fault.of(last).as_error()
        final = len(response.get("output") or ())
        is_revised = self._told.has_collided and 0 < final < len(self._told)
        if len(self._told) and len(self._told) >= final and not is_revised:
            response["output"] = self._told.in_order()
        return response
