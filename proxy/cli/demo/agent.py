"""Agent: a coding agent as they are: it keeps the whole history, and sends all of it with every turn."""

import asyncio
from dataclasses import dataclass
from importlib import resources
from typing import Any

import aiohttp
import click
import orjson

from proxy.cli.demo.story import Step
from proxy.cli.demo.workspace import Workspace

Item = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Sent:
    """What the agent sent in one turn: its whole *history*, and in a few words what was *new* in it."""

    history: list[Item]
    new: str


class Agent:
    """Works in *workspace* and asks the API at *base_url*; *waited* is how many seconds it waited for answers."""

    def __init__(self, base_url: str, workspace: Workspace, http: aiohttp.ClientSession) -> None:
        data = resources.files(__package__)
        self._url = f"{base_url}/responses"
        self._workspace = workspace
        self._http = http
        self._history: list[Item] = []
        self._new = ""
        self.waited = 0.0
        self._settings: dict[str, Any] = {
            "model": "gpt-5.5",
            "instructions": (data / "instructions.md").read_text(encoding="utf-8"),
            "tools": orjson.loads((data / "tools.json").read_bytes()),
            "tool_choice": "auto",
            "parallel_tool_calls": True,
            "reasoning": {"effort": "medium", "summary": "auto"},
            "include": ["reasoning.encrypted_content"],
            "prompt_cache_key": "packlight-demo",
            "store": False,
            "stream": True,
        }

    async def turn(self, step: Step) -> Sent:
        """Ask the model with the whole history, and do what it wants done."""
        if step.prompt is not None:
            self._ask(step.prompt, rewinds=step.rewinds)
        sent = Sent(list(self._history), self._new)
        began = asyncio.get_running_loop().time()
        output = await self._respond()
        self.waited += asyncio.get_running_loop().time() - began
        self._history += output
        calls = [item for item in output if item["type"] == "function_call"]
        for call in calls:
            arguments = orjson.loads(call["arguments"])
            result = await asyncio.to_thread(self._workspace.call, call["name"], arguments)
            self._history.append({"type": "function_call_output", "call_id": call["call_id"], "output": result})
        self._new = ", ".join(dict.fromkeys(call["name"] for call in calls))
        return sent

    def _ask(self, prompt: str, *, rewinds: bool) -> None:
        if rewinds:
            prompts = [index for index, item in enumerate(self._history) if item.get("role") == "user"]
            del self._history[prompts[-1] :]
        content = [{"type": "input_text", "text": prompt}]
        self._history.append({"type": "message", "role": "user", "content": content})
        self._new = "edited prompt" if rewinds else "prompt"

    async def _respond(self) -> list[Item]:
        body = orjson.dumps({**self._settings, "input": self._history})
        headers = {"Content-Type": "application/json", "Authorization": "Bearer no-key-needed"}
        async with self._http.post(self._url, data=body, headers=headers) as response:
            stream = await response.read()
        for line in stream.splitlines():
            if line.startswith(b"data: {"):
                event = orjson.loads(line[len(b"data: ") :])
                if event["type"] == "response.completed":
                    return list(event["response"]["output"])
        raise click.ClickException(f"the demo's agent got no answer (HTTP {response.status}): {stream[-300:]!r}")
