"""Near: the agent at the near end of a link, as a process of its own; it prints what it lived through."""

import asyncio
import ssl
import sys
from pathlib import Path
from typing import Any

import aiohttp
import click
import orjson
import zstandard
from session import Session

TOOL_SECONDS = 1.0
LONGEST_TURN = 600


@click.command()
@click.option("--url", required=True, help="The API's base.")
@click.option("--authority", type=click.Path(path_type=Path), required=True)
@click.option("--turns", type=int, required=True)
@click.option("--settings", type=int, required=True)
@click.option("--seed", type=int, required=True)
@click.option("--new-connections", is_flag=True, help="One for each turn.")
@click.option("--zstd", is_flag=True, help="Compress request bodies.")
def main(  # noqa: D103  see the module
    *, url: str, authority: Path, turns: int, settings: int, seed: int, new_connections: bool, zstd: bool
) -> None:
    session = Session(turns=turns, settings=settings, seed=seed)
    tls = ssl.create_default_context(cafile=str(authority))
    lived = asyncio.run(_live(session, url, tls, new_connections=new_connections, zstd=zstd))
    click.echo(orjson.dumps(lived))


async def _live(
    session: Session, url: str, tls: ssl.SSLContext, *, new_connections: bool, zstd: bool
) -> dict[str, Any]:
    clock = asyncio.get_running_loop().time
    headers = {"Authorization": "Bearer sk-benchmark", "Content-Type": "application/json"}
    if zstd:
        headers["Content-Encoding"] = "zstd"
    connector = aiohttp.TCPConnector(ssl=tls, force_close=new_connections)
    timeout = aiohttp.ClientTimeout(total=LONGEST_TURN)
    history: list[dict[str, Any]] = [session.prompt]
    first_events, ends = [], []
    async with aiohttp.ClientSession(connector=connector, headers=headers, timeout=timeout) as http:
        began = clock()
        for number in range(session.turns):
            body = orjson.dumps({**session.fields, "input": history})
            data = zstandard.compress(body) if zstd else body
            asked = clock()
            async with http.post(f"{url}/responses", data=data) as response:
                response.raise_for_status()
                first = await response.content.readany()
                first_events.append(clock() - asked)
                stream = first + await response.content.read()
            ends.append(clock() - asked)
            history += _output(stream)
            if number < session.turns - 1:
                history.append(_result(history, session.outputs[number]))
                await asyncio.sleep(TOOL_SECONDS)
        seconds = clock() - began
    return {"seconds": seconds, "first_events": first_events, "turns": ends}


def _output(stream: bytes) -> list[dict[str, Any]]:
    lines = [line.removeprefix(b"data: ") for line in stream.splitlines() if line.startswith(b"data: {")]
    events = [orjson.loads(line) for line in lines]
    if not events or events[-1]["type"] != "response.completed":
        sys.exit(f"the turn ended with {stream[-300:]!r}")
    return [event["item"] for event in events if event["type"] == "response.output_item.done"]


def _result(history: list[dict[str, Any]], output: str) -> dict[str, Any]:
    call = next(item for item in reversed(history) if item["type"] == "function_call")
    return {"type": "function_call_output", "call_id": call["call_id"], "output": output}


if __name__ == "__main__":
    main()
