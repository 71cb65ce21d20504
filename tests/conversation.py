"""An agent that keeps its history itself and posts all of it with each turn, and a clock that stands still."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

import aiohttp
import orjson
from multidict import CIMultiDictProxy
from said import JSON, user

ENDINGS = ("response.completed", "response.incomplete", "response.failed", "error")


class Clock:
    """A clock that moves when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        """Return the time in seconds."""
        return self.now

    def advance(self, seconds: float) -> None:
        """Let *seconds* go by."""
        self.now += seconds


@dataclass(frozen=True, slots=True)
class Answer:
    """What the agent got for one turn: *events* where it streams, else *body*."""

    status: int
    headers: CIMultiDictProxy[str]
    body: Any = None
    events: list[JSON] = field(default_factory=list)

    @property
    def types(self) -> list[str]:
        """The types of the events."""
        return [event["type"] for event in self.events]

    @property
    def response(self) -> JSON:
        """The response object at the end."""
        response: JSON = self.events[-1]["response"] if self.events else self.body
        return response

    @property
    def completed(self) -> bool:
        """Whether the answer is a whole one."""
        return self.status == 200 and self.response.get("status") == "completed"

    @property
    def text(self) -> str:
        """What the model said."""
        return "".join(
            part["text"] for item in self.response["output"] for part in item.get("content", ()) if "text" in part
        )


class Stream:
    """The events of one answer, as they arrive."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response

    async def event(self) -> JSON | None:
        """Return the next event; None at the proper end. Raises aiohttp.ClientError where it breaks off."""
        name = await self._response.content.readline()
        while name.startswith(b":"):  # a sign of life, which comes where a test has set its time short
            await self._response.content.readline()
            name = await self._response.content.readline()
        if not name:
            return None
        data = await self._response.content.readline()
        assert name.startswith(b"event: ")
        assert data.startswith(b"data: ")
        assert await self._response.content.readline() == b"\n"
        event: JSON = orjson.loads(data.removeprefix(b"data: "))
        assert event["type"] == name.removeprefix(b"event: ").strip().decode()
        return event

    async def rest(self) -> list[JSON]:
        """Return all further events."""
        events = []
        while (event := await self.event()) is not None:
            events.append(event)
        return events


class Agent:
    """One conversation; *answered* has the history of every turn that got a whole answer."""

    def __init__(
        self, session: aiohttp.ClientSession, url: str, *, stream: bool = True, key: str = "key", **fields: Any
    ) -> None:
        self.history: list[JSON] = []
        self.answered: list[list[JSON]] = []
        self._session = session
        self._url = url
        self._stream = stream
        self._key = key
        self._fields = {"model": "gpt-5.5", "store": False, **fields}

    def leave_out(self, name: str) -> None:
        """Send the field *name* no more."""
        del self._fields[name]

    def fork(self) -> "Agent":
        """Return another agent with the same history."""
        agent = Agent(self._session, self._url, stream=self._stream, key=self._key, **self._fields)
        agent.history = list(self.history)
        return agent

    async def turn(self, *said: str | JSON, **fields: Any) -> Answer:
        """Post the history with what is *said* now, and keep both if the answer is whole.

        Raises aiohttp.ClientError where the answer breaks off; *said* then stays in the history.
        """
        async with self.posting(*said, **fields) as response:
            if response.content_type == "text/event-stream":
                events = await Stream(response).rest()
                answer = Answer(response.status, response.headers, events=events)
            else:
                raw = await response.read()
                body = orjson.loads(raw) if response.content_type == "application/json" else raw
                answer = Answer(response.status, response.headers, body)
        if answer.completed:
            self.answered.append(list(self.history))
            self.history += _output(answer)
        return answer

    @asynccontextmanager
    async def posting(self, *said: str | JSON, **fields: Any) -> AsyncIterator[aiohttp.ClientResponse]:
        """Post the history with what is *said* now; the answer is still to be read."""
        self.history += [user(each) if isinstance(each, str) else each for each in said]
        body = {**self._fields, "input": self.history, "stream": self._stream, **fields}
        headers = {"Authorization": f"Bearer {self._key}", "Content-Type": "application/json"}
        async with self._session.post(
            f"{self._url}/v1/responses", data=BytesIO(orjson.dumps(body)), headers=headers, allow_redirects=False
        ) as response:
            yield response

    @asynccontextmanager
    async def streaming(self, *said: str | JSON, **fields: Any) -> AsyncIterator[Stream]:
        """Post like `turn`; yield the events as they come. Leaving early hangs up."""
        async with self.posting(*said, **fields) as response:
            assert response.status == 200, await response.read()
            yield Stream(response)


def _output(answer: Answer) -> list[JSON]:
    """Return the items of *answer*; the streamed ones count, for the last event may have none."""
    streamed = [event["item"] for event in answer.events if event["type"] == "response.output_item.done"]
    return streamed or list(answer.response["output"])
