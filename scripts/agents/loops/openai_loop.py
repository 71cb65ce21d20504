"""A minimal agent on the openai package: call tools until the model answers. It knows nothing of packlight."""

from argparse import Namespace
from typing import Any

from openai import OpenAI
from pydantic_core import from_json
from shell import BASH, INSTRUCTIONS, main, run


def work(given: Namespace) -> str:
    """Work on the prompt, and return the answer."""
    loop = responses_loop if given.api == "responses" else chat_loop
    client = OpenAI(timeout=given.patience) if given.patience else OpenAI()
    return loop(client, given.model, given.prompt, stream=given.stream)


def responses_loop(client: OpenAI, model: str, prompt: str, *, stream: bool) -> str:
    """Work on *prompt* with the Responses API, and return the answer."""
    history: list[Any] = [{"role": "user", "content": prompt}]
    while True:
        request: dict[str, Any] = {
            "model": model,
            "instructions": INSTRUCTIONS,
            "input": history,
            "tools": [{"type": "function", **BASH}],
            "include": ["reasoning.encrypted_content"],
            "store": False,
        }
        if stream:
            with client.responses.stream(**request) as events:
                response = events.get_final_response()
        else:
            response = client.responses.create(**request)
        history += response.output
        calls = [item for item in response.output if item.type == "function_call"]
        if not calls:
            return response.output_text
        history += [
            {"type": "function_call_output", "call_id": call.call_id, "output": run(**from_json(call.arguments))}
            for call in calls
        ]


def chat_loop(client: OpenAI, model: str, prompt: str, *, stream: bool) -> str:
    """Work on *prompt* with Chat Completions, and return the answer."""
    history: list[Any] = [
        {"role": "system", "content": INSTRUCTIONS},
        {"role": "user", "content": prompt},
    ]
    while True:
        request: dict[str, Any] = {
            "model": model,
            "messages": history,
            "tools": [{"type": "function", "function": BASH}],
        }
        if stream:
            with client.chat.completions.stream(**request) as events:
                completion: Any = events.get_final_completion()
        else:
            completion = client.chat.completions.create(**request)
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
