"""The whole response, gathered from its events."""

from typing import Any

from proxy.core.events import Fault, ServerEvent
from proxy.core.told import Told


class Gathering:
    """The items of a response and its last word."""

    def __init__(self) -> None:
        self._told = Told()
        self._last: ServerEvent | None = None

    def add(self, event: ServerEvent) -> None:
        """Keep what the response needs."""
        if event.type == "response.output_item.done":
            self._told.note(event.json())
        self._last = event

    def response(self) -> dict[str, Any]:
        """Return the response object; the streamed items count more than the terminal event's, unless it has more.

        Raises UpstreamError where the turn ended with an error instead of a response.
        """
        last = self._last.json() if self._last is not None else {}
        response = last.get("response")
        if not isinstance(response, dict):
            raise Fault.of(last).as_error()
        final = len(response.get("output") or ())
        is_revised = self._told.has_collided and 0 < final < len(self._told)
        if len(self._told) and len(self._told) >= final and not is_revised:
            response["output"] = self._told.in_order()
        return response
