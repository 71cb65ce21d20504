"""A minimal agent on Pydantic AI, which loops by itself. It knows nothing of packlight."""

from argparse import Namespace
from collections.abc import AsyncIterable
from typing import Any

from openai import AsyncOpenAI
from pydantic_ai import Agent, Tool, UsageLimits
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider
from shell import DESCRIPTION, INSTRUCTIONS, main, run


async def read(_context: Any, events: AsyncIterable[Any]) -> None:
    """Read the *events* of an answer; whoever wants them has it streamed."""
    async for _ in events:
        pass


def work(given: Namespace) -> str:
    """Work on the prompt, and return the answer."""
    client = AsyncOpenAI(timeout=given.patience) if given.patience else AsyncOpenAI()
    dialect = OpenAIResponsesModel if given.api == "responses" else OpenAIChatModel
    model = dialect(given.model, provider=OpenAIProvider(openai_client=client))
    agent = Agent(model, instructions=INSTRUCTIONS, tools=[Tool(run, name="bash", description=DESCRIPTION)])
    handler = read if given.stream else None
    limits = UsageLimits(request_limit=None)
    return str(agent.run_sync(given.prompt, event_stream_handler=handler, usage_limits=limits).output)


if __name__ == "__main__":
    main(__doc__, work)
