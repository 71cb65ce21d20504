"""The model: it has the agent read one source file of its project after another, with the agent's own shell.

An agent without tools gets edits of one file instead, one for each message of its user.
"""

import re
import sysconfig
from dataclasses import replace
from itertools import count
from pathlib import Path

import orjson

from proxy.simulator import CustomToolCall, FunctionCall, ModelCall, Output, Script, agent_script, says

FILES = 40
FILE_CHARACTERS = 4000
LISTING = re.compile(r"echo step \d+ && ls")
"""The shell command that the script of the simulated model has."""
SHELL_ARGUMENTS = frozenset({"cmd", "command", "commands"})
NOTES = "README.md"
LAST_LINE = "It is small."
NOTE = re.compile(r"Step (\d+) is done\.")
REQUEST = re.compile(r"Please note step (\d+)\.")


def reading_script(*, tool_turns: int, answer: str) -> Script:
    """Return a script that reads *tool_turns* files and then says *answer*.

    No two commands are the same, for some agents stop a model that repeats itself.
    """
    talk, steps = agent_script(tool_turns=tool_turns, answer=answer), count(1)

    def script(call: ModelCall) -> Output:
        output = talk(call)
        calls = FunctionCall | CustomToolCall
        parts = (_reading(part, next(steps)) if isinstance(part, calls) else part for part in output.parts)
        return replace(output, parts=tuple(parts))

    return script


def note_request(step: int) -> str:
    """Return what a user types to have *step* noted."""
    return f"Please note step {step}."


def note(step: int) -> str:
    """Return the line that then stands at the end of the notes."""
    return f"Step {step} is done." if step else LAST_LINE


def noting_script(*, answer: str) -> Script:
    """Return a script that edits the notes as the last message asks, in aider's format, or says *answer*."""

    def script(call: ModelCall) -> Output:
        asked = REQUEST.search(str(call.context[-1].get("content")))
        if asked is None:
            return says(answer)
        step = int(asked[1])
        search, replace = note(step - 1), f"{note(step - 1)}\n{note(step)}"
        return says(f"{NOTES}\n```\n<<<<<<< SEARCH\n{search}\n=======\n{replace}\n>>>>>>> REPLACE\n```\n")

    return script


def make_project(work: Path) -> None:
    """Fill the folder *work* with real source code: the beginnings of modules of Python itself."""
    (work / NOTES).write_text(f"# A project\n\n{LAST_LINE}\n")
    library = sorted(Path(sysconfig.get_path("stdlib")).glob("[a-z]*.py"))
    texts = (path.read_text(encoding="utf-8") for path in library)
    long = (text[:FILE_CHARACTERS] for text in texts if len(text) >= FILE_CHARACTERS)
    for number, text in zip(range(FILES), long, strict=False):
        _file(work, number).write_text(text, encoding="utf-8")


def _reading(call: FunctionCall | CustomToolCall, step: int) -> FunctionCall | CustomToolCall:
    """Return *call* with another shell command, if it has one."""
    command = f"echo step {step} && cat {_file(Path(), step % FILES)}"
    if isinstance(call, CustomToolCall):
        return replace(call, input=LISTING.sub(command, call.input))
    arguments = {
        name: value if name not in SHELL_ARGUMENTS else [command] if isinstance(value, list) else command
        for name, value in orjson.loads(call.arguments).items()
    }
    return replace(call, arguments=orjson.dumps(arguments).decode())


def _file(folder: Path, number: int) -> Path:
    return folder / f"module_{number:02}.py"
