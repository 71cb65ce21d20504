"""Talker: an agent on the official SDK, that keeps its history itself and asks until it is answered rightly."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any, Literal

import httpx2
import openai
from answers import TOOL, expected
from openai import AsyncOpenAI, DefaultAsyncHttpxClient, Timeout
from reading import (
    JSON,
    Deceived,
    Failed,
    streamed_message,
    streamed_response,
    text_of,
    text_of_message,
    whole_message,
    whole_response,
)

from proxy.simulator import digest
from proxy.simulator.messages import items_of_messages

API = Literal["responses", "chat"]
MOST_TURNS = 30
"""How long a conversation gets."""
PATIENCE_SECONDS = 180.0
"""A turn that is not answered in so long is lost."""
REWINDS, HANGS_UP = 0.04, 0.03
"""How often a talker goes back in its history, and how often it leaves in the middle of an answer."""
FUNCTION = {"name": TOOL, "parameters": {"type": "object", "properties": {}}}


class HungUp(Exception):
    """The agent left in the middle of its answer."""


class Talker:
    """One agent, *name*, at *base_url*; *asked* are the digests of all histories that it ever asked about."""

    def __init__(self, name: str, base_url: str, *, api: API, seed: int, read_seconds: float) -> None:
        self.name = name
        self.api = api
        self.turns = 0
        self.requests = 0
        self.asked: set[str] = set()
        self.errors: Counter[str] = Counter()
        self.slowest = 0.0
        self._random = random.Random(f"{seed}/{name}")
        self._history: list[JSON] = []
        self._left = 0
        http = DefaultAsyncHttpxClient(verify=False, event_hooks={"request": [self._count]})
        timeout = Timeout(read_seconds, connect=read_seconds / 4)
        self._client = AsyncOpenAI(
            base_url=base_url, api_key=f"key-{name}", max_retries=2, timeout=timeout, http_client=http
        )

    def __repr__(self) -> str:
        return f"<Talker {self.name} {self.api} turns={self.turns} history={len(self._history)}>"

    async def close(self) -> None:
        """Hang up."""
        await self._client.close()

    async def turn(self) -> None:
        """Have one turn. Raises Deceived on a wrong answer, and TimeoutError where none came in all the time."""
        self._say()
        loop = asyncio.get_running_loop()
        begun = loop.time()
        async with asyncio.timeout(PATIENCE_SECONDS):
            while True:
                try:
                    await self._ask()
                    break
                except openai.APIStatusError as exc:
                    self.errors[f"{type(exc).__name__} {exc.status_code} {exc.code}"] += 1
                except (openai.OpenAIError, httpx2.TransportError, Failed, HungUp) as exc:
                    # The SDK does not translate what happens to it while it reads the body of an error.
                    self.errors[type(exc).__name__] += 1
        self.slowest = max(self.slowest, loop.time() - begun)
        self.turns += 1

    async def _count(self, _request: object) -> None:
        self.requests += 1

    def _say(self) -> None:
        """Put into the history what the next turn is about."""
        dice, history = self._random, self._history
        if self._left == 0:
            self._left = dice.randrange(5, MOST_TURNS)
            history.clear()
        elif dice.random() < REWINDS:
            users = [place for place, item in enumerate(history) if item.get("role") == "user"]
            del history[dice.choice(users) :]
        self._left -= 1
        words = f"{self.name} says {dice.randbytes(dice.randrange(8, 400)).hex()}"
        call = self._open_call()
        if call is None:
            history.append({"role": "user", "content": words})
        elif self.api == "chat":
            history.append({"role": "tool", "tool_call_id": call, "content": words})
        else:
            history.append({"type": "function_call_output", "call_id": call, "output": words})

    def _open_call(self) -> str | None:
        last = self._history[-1] if self._history else {}
        if last.get("tool_calls"):
            return str(last["tool_calls"][0]["id"])
        return str(last["call_id"]) if last.get("type") == "function_call" else None

    async def _ask(self) -> None:
        stream = self._random.random() < 0.7
        context = items_of_messages(self._history) if self.api == "chat" else self._history
        self.asked.add(digest(context))
        output, text = await (self._chat(stream=stream) if self.api == "chat" else self._respond(stream=stream))
        if text != expected(context):
            raise Deceived(f"{self} asked about {digest(context)}, and was answered {text[:80]!r}")
        self._history += output

    async def _respond(self, *, stream: bool) -> tuple[list[JSON], str]:
        tools = [{"type": "function", "strict": False, **FUNCTION}]
        fields = {"input": self._history, "store": False, "user": self.name, "tools": tools}
        # Past the SDK's model of a request, which takes it longer to walk than all the rest.
        answer: Any = await self._client.responses.create(model="m", stream=stream, extra_body=fields)
        if not stream:
            output = whole_response(answer)
        else:
            async with answer:
                output = await streamed_response(self._heard(answer))
        return output, text_of(output)

    async def _chat(self, *, stream: bool) -> tuple[list[JSON], str]:
        tools = [{"type": "function", "function": FUNCTION}]
        fields = {"messages": self._history, "user": self.name, "tools": tools}
        create = self._client.chat.completions.create
        answer: Any = await create(model="m", messages=[], stream=stream, extra_body=fields)
        if not stream:
            message = whole_message(answer)
        else:
            async with answer:
                message = await streamed_message(self._heard(answer))
        return [message], text_of_message(message)

    async def _heard(self, events: Any) -> AsyncIterator[Any]:
        """Yield *events*, or leave after some."""
        leaves = self._random.randrange(20) if self._random.random() < HANGS_UP else -1
        number = 0
        async for event in events:
            if number == leaves:
                raise HungUp
            number += 1
            yield event
