"""A minimal agent on the openai package: call tools until the model answers. It knows nothing of packlight."""

import argparse
import subprocess
from typing import Any

import orjson
from openai import OpenAI

DESCRIPTION = "Run a shell command in the project's folder."
PARAMETERS = {
    "type": "object",
    "properties": {"command": {"type": "string"}},
    "required": ["command"],
    "additionalProperties": False,
}
BASH = {"name": "bash", "description": DESCRIPTION, "parameters": PARAMETERS, "strict": True}


def responses_loop(client: OpenAI, model: str, prompt: str, *, stream: bool) -> str:
    """Work on *prompt* with the Responses API, and return the answer."""
    history: list[Any] = [{"role": "user", "content": prompt}]
    while True:
        request: dict[str, Any] = {
            "model": model,
            "instructions": "You are a careful assistant.",
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
            {"type": "function_call_output", "call_id": call.call_id, "output": run(call.arguments)}
            for call in calls
        ]


def chat_loop(client: OpenAI, model: str, prompt: str, *, stream: bool) -> str:
    """Work on *prompt* with Chat Completions, and return the answer."""
    history: list[Any] = [
        {"role": "system", "content": "You are a careful assistant."},
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
            {"role": "tool", "tool_call_id": call.id, "content": run(call.function.arguments)}
            for call in message.tool_calls
        ]


def run(arguments: str) -> str:
    """Run the command in *arguments* and return what it printed."""
    command = orjson.loads(arguments)["command"]
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False, timeout=30)  # noqa: S602
    return done.stdout + done.stderr


def main() -> None:
    """Work on the prompt and print the answer."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--api", choices=("responses", "chat"), default="responses")
    parser.add_argument("--stream", action="store_true")
    parser.add_argument("model")
    parser.add_argument("prompt")
    given = parser.parse_args()
    loop = responses_loop if given.api == "responses" else chat_loop
    print(loop(OpenAI(), given.model, given.prompt, stream=given.stream))


if __name__ == "__main__":
    main()
