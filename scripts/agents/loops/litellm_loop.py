"""A minimal agent on LiteLLM: call tools until the model answers. It knows nothing of packlight."""

import os
from argparse import Namespace
from typing import Any

import litellm
from pydantic_core import from_json
from shell import BASH, INSTRUCTIONS, main, run


def work(given: Namespace) -> str:
    """Work on the prompt with Chat Completions, and return the answer."""
    history: list[Any] = [
        {"role": "system", "content": INSTRUCTIONS},
        {"role": "user", "content": given.prompt},
    ]
    while True:
        answer = litellm.completion(
            model=f"openai/{given.model}",
            messages=history,
            tools=[{"type": "function", "function": BASH}],
            api_base=os.environ["OPENAI_BASE_URL"],
            stream=given.stream,
        )
        completion: Any = litellm.stream_chunk_builder(list(answer), messages=history) if given.stream else answer
        message = completion.choices[0].message
        history.append(message)
        if not message.tool_calls:
            return message.content or ""
        history += [
            {"role": "tool", "tool_call_id": call.id, "content": run(**from_json(call.function.arguments))}
            for call in message.tool_calls
        ]


if __name__ == "__main__":
    main(__doc__, work)
