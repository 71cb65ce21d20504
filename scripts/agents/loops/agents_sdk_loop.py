"""A minimal agent on the OpenAI Agents SDK, which loops by itself. It knows nothing of packlight."""

import asyncio
from argparse import Namespace
from typing import Any

from agents import Agent, FunctionTool, OpenAIProvider, RunConfig, Runner
from openai import AsyncOpenAI
from pydantic_core import from_json
from shell import DESCRIPTION, INSTRUCTIONS, PARAMETERS, main, run

MOST_TURNS = 1000


async def bash(_context: Any, arguments: str) -> str:
    """Run the command in *arguments*, JSON, and return what it printed."""
    return await asyncio.to_thread(run, **from_json(arguments))


def work(given: Namespace) -> str:
    """Work on the prompt, and return the answer."""
    return asyncio.run(_work(given))


async def _work(given: Namespace) -> str:
    client = AsyncOpenAI(timeout=given.patience) if given.patience else AsyncOpenAI()
    provider = OpenAIProvider(openai_client=client, use_responses=given.api == "responses")
    settings = RunConfig(model_provider=provider, tracing_disabled=True)
    tool = FunctionTool("bash", DESCRIPTION, PARAMETERS, bash)
    agent = Agent(name="Loop", instructions=INSTRUCTIONS, tools=[tool], model=given.model)
    if not given.stream:
        done = await Runner.run(agent, given.prompt, max_turns=MOST_TURNS, run_config=settings)
        return str(done.final_output)
    streamed = Runner.run_streamed(agent, given.prompt, max_turns=MOST_TURNS, run_config=settings)
    async for _ in streamed.stream_events():
        pass
    return str(streamed.final_output)


if __name__ == "__main__":
    main(__doc__, work)
