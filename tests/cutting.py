"""A session of three turns whose connection is cut at one byte, and what the official SDK makes of it."""

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, Self

import openai
from link import Link, Ways
from openai import AsyncOpenAI, DefaultAsyncHttpxClient
from reading import JSON, Deceived, streamed_message, streamed_response, text_of, text_of_message
from way import Ending

from proxy.config import Config
from proxy.server import Server
from proxy.simulator import FunctionCall, ModelCall, Output, Reasoning, Simulator, digest, says
from proxy.simulator.messages import items_of_messages

Side = Literal["near", "far"]
Direction = Literal["up", "down"]
API = Literal["responses", "chat"]
MOST_ATTEMPTS = 4
MOST_SESSIONS = 4
"""Sessions that may be over before a cut: on a busy machine the SDK gives up a connection it could use again."""


@dataclass(frozen=True, slots=True, order=True)
class Cut:
    """Where a connection is cut: after *offset* bytes in one *direction* between agent and proxy, or behind it.

    *times* is how many connections after each other are cut there.
    """

    side: Side
    direction: Direction
    offset: int
    ending: Ending
    times: int = 1


@dataclass(slots=True)
class Told:
    """What became of a session: for each turn, the errors that the SDK raised before the right answer.

    *generated* is how often the model began an answer.
    """

    errors: list[list[str]] = field(default_factory=list)
    generated: int = 0

    @property
    def noticed(self) -> list[str]:
        """The errors that the agent saw."""
        return [error for errors in self.errors for error in errors]

    def check(self, cuts: int) -> None:
        """Raise Deceived where so many *cuts* did more harm than they may."""
        if len(self.noticed) > cuts:
            raise Deceived(f"{cuts} cut, and {self.errors}")
        if self.generated > len(self.errors) + cuts:
            raise Deceived(
                f"the model answered {self.generated} times for {len(self.errors)} turns: {self.errors}"
            )


def model(call: ModelCall) -> Output:
    """Answer with what was read, so that a wrong context is a wrong answer: a tool call first, then texts."""
    seen = digest(call.context)
    if any(item.get("type") == "function_call_output" for item in call.context):
        return says(f"I saw {seen}.")
    return says(Reasoning(("Hm.",), size=24), FunctionCall("look", f'{{"saw":"{seen}"}}'))


class Lane:
    """A proxy between two links, and agents that come one after the other."""

    def __init__(self, simulator: Simulator, **settings: Any) -> None:
        self.simulator = simulator
        self._settings = settings
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        enter = self._stack.enter_async_context
        self.far = await enter(Link(("127.0.0.1", self.simulator.port)))
        # A connection opened ahead of need would get the way that is planned for the next session's.
        config = Config(port=0, upstream=self.far.base_url, drain_seconds=0.2, open_ahead=False, **self._settings)
        server = await enter(Server(config))
        self.near = await enter(Link(("127.0.0.1", int(server.url.rpartition(":")[2]))))
        self.server = server
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._stack.aclose()

    async def session(self, api: API, key: str, side: Side = "near", *ways: Ways) -> Told:
        """Let an agent with *key* have its three turns; the first connections on *side* go *ways*."""
        link = self.near if side == "near" else self.far
        link.planned.extend(ways)
        http = DefaultAsyncHttpxClient(verify=False)
        async with AsyncOpenAI(
            base_url=self.near.base_url, api_key=key, max_retries=0, http_client=http
        ) as client:
            told = await CONVERSATIONS[api](client)
        link.planned.clear()
        for each in (self.near, self.far):
            each.close()
            await each.ended()
        told.generated = sum(
            turn.identity.authorization.endswith(key) and turn.response_id is not None
            for turn in self.simulator.turns
        )
        return told

    async def cut(self, api: API, cut: Cut, key: str) -> Told:
        """Have a session cut there. Raises Deceived where the agent is deceived, or gets no answer any more."""
        for number in range(MOST_SESSIONS):
            told, passed = await self._cut(api, cut, f"{key}{number}")  # as long as that of the recorded session
            if passed == cut.offset:
                return told
        raise Deceived(f"{cut}: {passed} bytes had passed")

    async def _cut(self, api: API, cut: Cut, key: str) -> tuple[Told, int]:
        ways = [Ways() for _ in range(cut.times)]
        cut_ways = [each.up if cut.direction == "up" else each.down for each in ways]
        for way in cut_ways:
            way.limit, way.ending = cut.offset, cut.ending
        try:
            told = await self.session(api, key, cut.side, *ways)
            told.check(cut.times)
        except Deceived as exc:
            raise Deceived(f"{cut}: {exc}") from exc
        return told, cut_ways[0].passed


async def _responses(client: AsyncOpenAI) -> Told:
    told = Told()
    history: list[Any] = [{"role": "user", "content": "look"}]
    for further in ("call", "and now?", None):
        output = await _answered(told, partial(_response, client, history))
        history += output
        calls = [item for item in output if item["type"] == "function_call"]
        if further == "call":
            history.append({"type": "function_call_output", "call_id": calls[0]["call_id"], "output": "a wall"})
        elif further:
            history.append({"role": "user", "content": further})
    return told


async def _answered(told: Told, ask: Callable[[], Awaitable[Any]]) -> Any:
    """Ask until the answer is there; note the errors on the way."""
    told.errors.append([])
    for _ in range(MOST_ATTEMPTS):
        try:
            return await ask()
        except openai.OpenAIError as exc:
            status = getattr(exc, "status_code", "")
            told.errors[-1].append(f"{type(exc).__name__} {status}".strip())
    raise Deceived(f"no answer, but {told.errors[-1]}")


async def _response(client: AsyncOpenAI, history: list[Any]) -> list[JSON]:
    """Return the output of the turn that *history* asks for, if it is whole and right."""
    fields = {"input": history, "store": False, "stream_options": {"include_obfuscation": False}}
    # Past the SDK's model of a request, which takes as long to walk as everything else together.
    output = await streamed_response(await client.responses.create(model="m", stream=True, extra_body=fields))
    if digest(history) not in text_of(output):
        raise Deceived(f"asked {digest(history)}, answered {text_of(output)!r}")
    return output


async def _chat(client: AsyncOpenAI) -> Told:
    told = Told()
    history: list[Any] = [{"role": "user", "content": "look"}]
    for further in ("call", "and now?", None):
        message = await _answered(told, partial(_completion, client, history))
        history.append(message)
        if further == "call":
            call_id = message["tool_calls"][0]["id"]
            history.append({"role": "tool", "tool_call_id": call_id, "content": "a wall"})
        elif further:
            history.append({"role": "user", "content": further})
    return told


async def _completion(client: AsyncOpenAI, history: list[Any]) -> JSON:
    """Return the message of the turn that *history* asks for, if it is whole and right."""
    create, fields = client.chat.completions.create, {"messages": history}
    message = await streamed_message(await create(model="m", messages=[], stream=True, extra_body=fields))
    asked = digest(items_of_messages(history))
    if asked not in text_of_message(message):
        raise Deceived(f"asked {asked}, answered {message}")
    return message


CONVERSATIONS = {"responses": _responses, "chat": _chat}
