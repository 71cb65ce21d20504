"""Delivery: one planned response on its way out, event by event, with what goes wrong on the way.

QUEUED -> IN_PROGRESS -> COMPLETED | INCOMPLETE | FAILED | CANCELLED
"""

import asyncio
from collections.abc import Iterator
from typing import Literal, Protocol

from proxy.simulator.apierror import ApiError
from proxy.simulator.chain import ConnectionCache
from proxy.simulator.events import ItemEvents
from proxy.simulator.faults import Fault, Moment
from proxy.simulator.model import Completed, Event, Failed, Incomplete, Item
from proxy.simulator.service import Plan, Prompt, Service

Style = Literal["plain", "pretty", "binary"]
UNNUMBERED = ("codex.rate_limits",)
RATE_LIMITS: Event = {
    "type": "codex.rate_limits",
    "plan_type": "plus",
    "rate_limits": {
        "allowed": True,
        "limit_reached": False,
        "primary": {"used_percent": 7, "window_minutes": 300, "reset_at": 1800000000},
        "secondary": {"used_percent": 12.5, "window_minutes": 10080, "reset_at": 1800400000},
    },
    "credits": {"has_credits": True, "unlimited": False, "balance": "12"},
}
"""Over a WebSocket; *LIMIT_HEADERS* tell the same over HTTP."""
LIMIT_HEADERS = {
    "x-codex-plan-type": "plus",
    "x-codex-primary-used-percent": "7",
    "x-codex-primary-window-minutes": "300",
    "x-codex-primary-reset-at": "1800000000",
    "x-codex-secondary-used-percent": "12.5",
    "x-codex-secondary-window-minutes": "10080",
    "x-codex-secondary-reset-at": "1800400000",
    "x-codex-credits-has-credits": "true",
    "x-codex-credits-unlimited": "false",
    "x-codex-credits-balance": "12",
}
UNKNOWN: Event = {"type": "response.novelty.reported", "novelty": {"detail": "not in any document"}}


class LinkGone(Exception):
    """Nothing more can be delivered."""


class Link(Protocol):
    """Where a turn's events go."""

    async def send(self, event: Event, style: Style) -> int:
        """Send *event*; return its size in bytes."""

    async def refuse(self, error: ApiError, sequence_number: int | None) -> None:
        """Answer with an error: a status if nothing was sent yet and the transport has them."""

    async def close(self, code: int, reason: str) -> None:
        """End politely."""

    def abort(self) -> None:
        """End with a TCP reset."""

    def silence(self) -> None:
        """Say and hear nothing more."""

    def garble(self) -> None:
        """Send bytes that mean nothing."""


class Delivery:
    """Answers a prompt over a link; *fault* is what goes wrong, *cache* what will remember the response."""

    def __init__(
        self,
        service: Service,
        prompt: Prompt,
        link: Link,
        cache: ConnectionCache | None = None,
        fault: Fault | None = None,
    ) -> None:
        self._service = service
        self._settings = service.settings
        self._prompt = prompt
        self._plan: Plan
        self._turn = prompt.turn
        self._link = link
        self._cache = cache
        self._fault = fault
        self._slow: float | None = None
        self._style: Style = "plain"
        self._number = 0

    async def run(self) -> None:
        """Send everything; raise ApiError if a fault made the turn an error, LinkGone if it is cut off."""
        await asyncio.sleep(self._settings.first_event_seconds)
        await self._go_wrong("before_created")
        await self._plan_answer()
        await asyncio.sleep(self._plan.output.first_event_seconds)
        due = asyncio.get_running_loop().time()
        for event in self._all_events():
            await self._send(event)
            if event["type"] == "response.created":
                await self._go_wrong("after_created")
            if self._fault and self._turn.events_sent == self._fault.events:
                await self._go_wrong("after_events")
            pace = self._plan.output.event_seconds + self._settings.event_seconds
            now = asyncio.get_running_loop().time()
            due = max(due + (pace if self._slow is None else self._slow), now)  # sleeping too long is made up for
            await asyncio.sleep(due - now)
        await self._go_wrong("after_completed")

    async def _plan_answer(self) -> None:
        try:
            self._plan = self._service.answer(self._prompt)
        except ApiError as error:
            await self._link.refuse(error, None)
            raise

    async def trail(self) -> None:
        """Send what comes when the response is already over."""
        if "trailing" in self._settings.extra_events:
            await asyncio.sleep(self._settings.trailing_seconds)
            await self._send(UNKNOWN)

    async def _send(self, event: Event) -> None:
        if event["type"] in UNNUMBERED:
            numbered = event
        else:
            numbered = {"type": event["type"], "sequence_number": self._number, **event}
            self._number += 1
        if event["type"] in ("response.completed", "response.incomplete", "response.failed"):
            self._finish(event)
            numbered = self._as_told(numbered)
        self._turn.bytes_sent += await self._link.send(numbered, self._style)
        self._turn.events_sent += 1
        self._service.journal.note()

    def _finish(self, event: Event) -> None:
        self._turn.status = event["response"]["status"]
        if self._turn.status == "completed":
            finished = {**event["response"], "output": self._plan.items}
            self._service.commit(self._plan, self._cache, finished)

    def _as_told(self, ending: Event) -> Event:
        """Return *ending*, or in its place the little that some servers say over a WebSocket."""
        is_done = self._turn.transport == "ws" and self._settings.terminal_output == "done"
        if not is_done or ending["type"] != "response.completed":
            return ending
        told = {name: ending["response"][name] for name in ("id", "usage")}
        return {**ending, "type": "response.done", "response": told}

    # The events

    def _all_events(self) -> Iterator[Event]:
        extra = self._settings.extra_events
        if "keepalive_before_created" in extra:
            yield {"type": "keepalive"}
        if "rate_limits_before_created" in extra and self._turn.transport == "ws":
            yield RATE_LIMITS
        if "unknown_before_created" in extra:
            yield UNKNOWN
        started = self._plan.response
        yield {"type": "response.created", "response": started}
        yield {"type": "response.in_progress", "response": started}
        if "keepalive_mid_stream" in extra:
            yield {"type": "keepalive"}
        if "unknown_mid_stream" in extra:
            yield UNKNOWN
        options = self._turn.request.get("stream_options") or {}
        names = None if options.get("include_obfuscation") is False else self._plan.names
        streamer = ItemEvents(self._plan.output.delta_size, names)
        for index, item in enumerate(self._plan.items):
            yield from streamer.stream(index, item)
        yield from self._terminal_events()

    def _terminal_events(self) -> Iterator[Event]:
        finish = self._plan.output.finish
        items = self._terminal_items()
        ended = {**self._plan.response, "output": items, "usage": self._plan.usage}
        match finish:
            case Completed():
                ended |= {"status": "completed", "completed_at": ended["created_at"] + 1}
                if self._turn.transport == "ws" and self._settings.terminal_output == "omitted":
                    del ended["output"]
                yield {"type": "response.completed", "response": ended}
            case Incomplete(reason):
                ended |= {"status": "incomplete", "incomplete_details": {"reason": reason}}
                yield {"type": "response.incomplete", "response": ended}
            case Failed(code, message, error_event):
                error = self._worded(ApiError(500, message, code=code))
                ended |= {"status": "failed", "error": {"code": code, "message": message}, "usage": None}
                if error_event == "behind":
                    error.pop("status", None)
                    ended["error"] = None
                failed: Event = {"type": "response.failed", "response": ended}
                yield from {False: (failed,), True: (error, failed), "behind": (failed, error)}[error_event]

    def _worded(self, error: ApiError) -> Event:
        if self._turn.transport == "http":
            return error.streamed()
        return error.event(with_status=self._settings.traits.gives_error_status)

    def _terminal_items(self) -> list[Item]:
        if self._turn.transport == "http":
            return self._plan.items
        if self._settings.terminal_output != "full":
            return []
        if self._settings.terminal_ciphertext == "same":
            return self._plan.items
        names = self._plan.names
        return [
            {**item, "encrypted_content": names.ciphertext(len(item["encrypted_content"]))}
            if "encrypted_content" in item
            else item
            for item in self._plan.items
        ]

    # What goes wrong

    async def _go_wrong(self, moment: Moment) -> None:
        fault = self._fault
        if fault is None or fault.when != moment:
            return
        self._fault = None
        match fault.what:
            case "slow":
                self._slow = fault.seconds
            case "pretty" | "binary":
                self._style = fault.what
            case _:
                await asyncio.sleep(fault.seconds)
                await self._strike(fault)

    async def _strike(self, fault: Fault) -> None:
        if fault.what == "late_error":
            await self._link.refuse(fault.error(), None)
        elif fault.what == "error":
            begun = self._turn.events_sent > 0
            await self._link.refuse(fault.error(), self._number if begun else None)
            if fault.then_failed and begun:
                await self._send(self._failure(fault))
            raise fault.error()
        else:
            await cut(self._link, fault)
            raise LinkGone

    def _failure(self, fault: Fault) -> Event:
        failure = {"code": fault.code, "message": fault.message}
        response = {**self._plan.response, "status": "failed", "error": failure}
        return {"type": "response.failed", "response": response}


async def cut(link: Link, fault: Fault) -> None:
    """Carry out a fault that ends a link."""
    match fault.what:
        case "close":
            await link.close(fault.close_code, fault.reason)
        case "silence":
            link.silence()
            await asyncio.Event().wait()
        case "garbage":
            link.garble()
        case _:
            link.abort()
