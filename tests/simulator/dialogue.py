"""Dialogue: a test's side of one WebSocket."""

from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Self

import orjson
from openai import AsyncOpenAI
from websockets.asyncio.client import ClientConnection, connect

from proxy.simulator import Simulator

AUTHORIZATION = {"Authorization": "Bearer key"}
TERMINAL = ("response.completed", "response.failed", "response.incomplete", "response.done", "error")
Event = dict[str, Any]


def user(text: str) -> Event:
    """Return a user message."""
    return {"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]}


def tool_output(call_id: str, output: str = "done") -> Event:
    """Return the output of a function call."""
    return {"type": "function_call_output", "call_id": call_id, "output": output}


def texts(events: list[Event]) -> str:
    """Return what the model said."""
    return "".join(event["text"] for event in events if event["type"] == "response.output_text.done")


class Dialogue:
    """Sends creates and collects events."""

    def __init__(
        self, simulator: Simulator, headers: dict[str, str] | None = None, url: str | None = None, **options: Any
    ) -> None:
        url = url or simulator.websocket_url
        self._connect = connect(
            url, additional_headers={**AUTHORIZATION, **(headers or {})}, max_size=None, **options
        )
        self.socket: ClientConnection

    async def __aenter__(self) -> Self:
        self.socket = await self._connect.__aenter__()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._connect.__aexit__(exc_type, exc, traceback)

    async def send(self, message: Any) -> None:
        """Send a message, or text as it is."""
        await self.socket.send(message if isinstance(message, str | bytes) else orjson.dumps(message), text=True)

    async def begin(self, said: Any = "hello", **fields: Any) -> None:
        """Send a create."""
        await self.send({"type": "response.create", "model": "m", "store": False, "input": said, **fields})

    async def receive(self) -> Event:
        """Return the next event."""
        event: Event = orjson.loads(await self.socket.recv())
        return event

    async def finish(self) -> list[Event]:
        """Return the events up to the next terminal one."""
        events = [await self.receive()]
        while events[-1]["type"] not in TERMINAL:
            events.append(await self.receive())
        return events

    async def create(self, said: Any = "hello", **fields: Any) -> list[Event]:
        """Send a create and return its events."""
        await self.begin(said, **fields)
        return await self.finish()

    async def complete(self, said: Any = "hello", **fields: Any) -> Event:
        """Send a create that must complete; return the response."""
        events = await self.create(said, **fields)
        assert events[-1]["type"] == "response.completed", events[-1]
        response: Event = events[-1]["response"]
        return response

    async def fail(self, said: Any = "hello", **fields: Any) -> Event:
        """Send a create that must be refused; return the error."""
        events = await self.create(said, **fields)
        assert [event["type"] for event in events] == ["error"]
        error: Event = events[0]["error"]
        return error


Simulate = Callable[..., Awaitable[Simulator]]
Talk = Callable[..., Awaitable[Dialogue]]
Client = Callable[[Simulator], AsyncOpenAI]
