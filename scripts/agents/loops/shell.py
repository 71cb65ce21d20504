"""The shell: the one tool of the loops in this folder, which run where packlight is not installed."""

import argparse
import subprocess
from collections.abc import Callable

INSTRUCTIONS = "You are a careful assistant."
DESCRIPTION = "Run a shell command in the project's folder."
PARAMETERS = {
    "type": "object",
    "properties": {"command": {"type": "string"}},
    "required": ["command"],
    "additionalProperties": False,
}
BASH = {"name": "bash", "description": DESCRIPTION, "parameters": PARAMETERS, "strict": True}


def run(command: str) -> str:
    """Run *command* and return what it printed."""
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False, timeout=30)  # noqa: S602
    return done.stdout + done.stderr


def main(description: str | None, work: Callable[[argparse.Namespace], str]) -> None:
    """Print what *work* makes of the command line: *api*, *stream*, *patience*, *model* and *prompt*."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--api", choices=("responses", "chat"), default="responses")
    parser.add_argument("--stream", action="store_true")
    parser.add_argument("--patience", type=float, help="seconds without a sign of life")
    parser.add_argument("model")
    parser.add_argument("prompt")
    print(work(parser.parse_args()))
