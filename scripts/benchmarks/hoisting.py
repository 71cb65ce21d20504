"""What it saves to tell settings once per chain, and to ask for events without padding."""

import asyncio
import sys
from typing import Any

import aiohttp
import click
import orjson
from session import Session

from proxy.config import Config
from proxy.server import Server
from proxy.simulator import ModelCall, Output, Simulator, SimulatorSettings, Text

_WAYS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("settings with each turn", {}),
    ("settings once", {"hoist": "on"}),
    ("settings once, proven first", {"hoist": "auto"}),
    ("settings once, no padding", {"hoist": "on", "obfuscation": "off"}),
)


@click.command("hoist")
@click.option("--turns", default=20, show_default=True, help="Requests in the session.")
@click.option("--settings", default=70_000, show_default=True, help="Bytes of instructions and tools.")
@click.option("--seed", default=1, show_default=True, help="Of the generated session.")
def measure(*, turns: int, settings: int, seed: int) -> None:
    """Count bytes at the upstream's socket: settings with each turn, or once per chain."""
    up, down = asyncio.run(_plain(Session(turns=turns, settings=settings, seed=seed)))
    click.echo(f"{turns} turns, {settings:,} bytes of settings with each, seed {seed}; plain HTTP: {up:,} up")
    click.echo(f"{'':30}{'up':>12}{'of HTTP':>9}{'down':>12}{'of HTTP':>9}{'hoisted':>9}")
    for name, config in _WAYS:
        session = Session(turns=turns, settings=settings, seed=seed)
        sent, received, hoisted = asyncio.run(_through_packlight(session, config))
        click.echo(f"{name:30}{sent:>12,}{sent / up:>9.2%}{received:>12,}{received / down:>9.2%}{hoisted:>9}")


async def _plain(session: Session) -> tuple[int, int]:
    async with Simulator(SimulatorSettings(), script=session.script()) as simulator:
        await _converse(session, simulator.base_url)
        return simulator.bytes_in, simulator.bytes_out


async def _through_packlight(session: Session, config: dict[str, Any]) -> tuple[int, int, int]:
    """Hold the session; where the verdict comes from a probe, after a first request and its probe."""
    script = session.script()

    def answer(call: ModelCall) -> Output:
        return script(call) if session.prompt in call.context else Output((Text("Hello."),))

    async with (
        Simulator(SimulatorSettings(), script=answer) as simulator,
        Server(Config(port=0, upstream=simulator.base_url, **config)) as server,
    ):
        url = f"{server.url}/v1"
        if config.get("hoist") == "auto":
            await _prove(session, url, server)
        before = simulator.bytes_in, simulator.bytes_out
        await _converse(session, url)
        hoisted = server.ledger.hoists["turns"]
        return simulator.bytes_in - before[0], simulator.bytes_out - before[1], hoisted


async def _prove(session: Session, url: str, server: Server) -> None:
    async with _agent() as agent:
        await _ask(agent, url, {**session.fields, "input": "Hello"})
        while not server.ledger.hoists["proven"]:
            await _ask(agent, f"{server.url}/_packlight/stats", None)


def _agent() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(headers={"Authorization": "Bearer sk-benchmark"})


async def _converse(session: Session, url: str) -> None:
    """Send the whole history each turn, as agents do."""
    history: list[dict[str, Any]] = [session.prompt]
    async with _agent() as agent:
        for number in range(session.turns):
            output = await _ask(agent, url, {**session.fields, "input": history})
            calls = [item["call_id"] for item in output if item["type"] == "function_call"]
            history += output
            history += [
                {"type": "function_call_output", "call_id": each, "output": session.outputs[number]}
                for each in calls
            ]


async def _ask(agent: aiohttp.ClientSession, url: str, body: Any) -> list[dict[str, Any]]:
    if body is None:
        async with agent.get(url) as response:
            await response.read()
        return []
    async with agent.post(f"{url}/responses", data=orjson.dumps(body)) as response:
        response.raise_for_status()
        records = [record.partition("\ndata: ")[2] for record in (await response.text()).split("\n\n") if record]
    events = [orjson.loads(record) for record in records]
    if events[-1]["type"] != "response.completed":
        sys.exit(f"the turn ended with {events[-1]['type']}")
    for name in ("instructions", "tools"):
        if events[-1]["response"][name] != body[name]:
            sys.exit(f"the agent was shown other {name} than its own")
    return [event["item"] for event in events if event["type"] == "response.output_item.done"]
