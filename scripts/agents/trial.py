"""One trial: a real agent works through packlight on a simulated upstream, in a home of its own."""

import asyncio
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import context
from catalog import KEY, PROMPT, Agent, Api, Place
from figures import DELTAS_WANTED, Figures
from hardship import Hardship, Ordeal
from install import install
from link import Link
from model import NOTES, make_project, note, noting_script, reading_script
from packlight import Packlight

from proxy.simulator import Script, SimulatedTurn, Simulator, SimulatorSettings

ANSWER = "All is well in this folder."
START_SECONDS = 180
TURN_SECONDS = 3
NOWHERE = "http://127.0.0.1:9"  # nobody listens: an agent that calls home gets its answer at once
BYTES_TOLERANCE = 0.02
LOG_TAIL = 40  # lines


@dataclass(frozen=True, slots=True)
class Trial:
    """How one agent fared. *problems* is empty if all went well; *log* has what the agent printed."""

    agent: Agent
    figures: Figures
    problems: tuple[str, ...]
    exit_code: int | None
    seconds: float
    log: Path

    @property
    def log_tail(self) -> str:
        """The last lines of the log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-LOG_TAIL:])


async def attempt(agent: Agent, *, api: Api, turns: int, cache: Path, hardship: Hardship | None = None) -> Trial:
    """Let *agent* make *turns* tool calls and answer, through *hardship*; install it below *cache* first.

    Raises NotInstalled, or DidNotStart if packlight itself does not come up.
    """
    program = await asyncio.to_thread(install, agent, cache)
    log = _empty_log(cache / "logs" / f"{agent.name}-{api}.log")
    script = reading_script(tool_turns=turns, answer=ANSWER) if agent.tools else noting_script(answer=ANSWER)
    with tempfile.TemporaryDirectory(prefix="packlight-agent-", ignore_cleanup_errors=True) as scratch:
        home, work = _make_place(Path(scratch))
        settings = hardship.settings if hardship else {}
        async with (
            _upstream(script, hardship) as (upstream, base_url),
            Packlight(base_url, home=home, log=log.with_suffix(".packlight.log"), settings=settings) as packlight,
        ):
            place = Place(home, work, packlight.base_url, api, turns, hardship.patience if hardship else None)
            started = time.monotonic()
            allowed = START_SECONDS + TURN_SECONDS * turns + (hardship.total if hardship else 0)
            exit_code = await _run(agent, program, place, log, seconds=allowed)
            seconds = time.monotonic() - started
            turns_seen = await packlight.turns(attempts=len(upstream.turns))
            figures = Figures.of(turns_seen)
            faults = [
                *_unsettled(turns_seen),
                *_wrong_work(agent, place, upstream.turns),
                *_miscounted(await packlight.bytes_to_upstream(), upstream.bytes_in),
            ]
    problems = (*_problems(agent, figures, exit_code, log), *faults)
    return Trial(agent, figures, problems, exit_code, seconds, log)


@asynccontextmanager
async def _upstream(script: Script, hardship: Hardship | None) -> AsyncIterator[tuple[Simulator, str]]:
    """Run a simulated upstream; yield it and the API's base URL, behind a link where there is *hardship*."""
    settings = SimulatorSettings(strict_fields=False)
    if hardship is None:
        async with Simulator(settings, script=script) as upstream:
            yield upstream, upstream.base_url
        return
    settings = replace(settings, ping_interval=None)  # one that gave up on us in the dark would be another matter
    ordeal = Ordeal(hardship, script)
    async with (
        Simulator(settings, script=ordeal) as upstream,
        Link(("127.0.0.1", upstream.port)) as ordeal.link,
    ):
        yield upstream, ordeal.link.base_url


def _unsettled(turns: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return what an agent must have noticed."""
    return [f"turn {turn['id']} {turn['status']}" for turn in turns if turn["status"] != "completed"]


def _problems(agent: Agent, figures: Figures, exit_code: int | None, log: Path) -> list[str]:
    problems = []
    if exit_code is None:
        problems.append("took too long")
    elif exit_code:
        problems.append(f"exit code {exit_code}")
    if ANSWER not in log.read_text(errors="replace"):
        problems.append("the answer did not reach the agent's output")
    if figures.share < DELTAS_WANTED and not agent.rewrites_history:
        problems.append(f"only {figures.share:.0%} of the later turns were deltas: {figures.reasons}")
    return problems


def _wrong_work(agent: Agent, place: Place, turns: Sequence[SimulatedTurn]) -> list[str]:
    if agent.tools:
        return context.wrong(turns, prompt=PROMPT, tool_turns=place.turns)
    faults = context.wrong_notes(turns, prompt=PROMPT, steps=place.turns)
    if not (place.work / NOTES).read_text().endswith(f"{note(place.turns)}\n"):
        faults.append("the file does not have the last edit")
    return faults


def _miscounted(bytes_to_upstream: int, bytes_received: int) -> list[str]:
    if abs(bytes_to_upstream - bytes_received) <= BYTES_TOLERANCE * bytes_received:
        return []
    return [f"packlight counted {bytes_to_upstream} bytes to upstream, which received {bytes_received}"]


def _empty_log(log: Path) -> Path:
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_bytes(b"")
    return log


def _make_place(scratch: Path) -> tuple[Path, Path]:
    """Make an empty home, and a small project to work on: a Git repository, if there is Git."""
    home, work = scratch / "home", scratch / "work"
    home.mkdir()
    work.mkdir()
    make_project(work)
    if shutil.which("git"):
        git = ("git", "-C", str(work), "-c", "user.name=a", "-c", "user.email=a@example.org")
        for arguments in (("init", "-q"), ("add", "."), ("commit", "-q", "-m", "Begin")):
            subprocess.run((*git, *arguments), check=True, stdin=subprocess.DEVNULL)
    return home, work


async def _run(agent: Agent, program: Sequence[str], place: Place, log: Path, *, seconds: float) -> int | None:
    """Run *agent*, and return its exit code, or None if it had to be killed after *seconds*."""
    command = agent.prepare(place)
    env = _env(place) | dict(command.env)
    try:
        async with asyncio.timeout(seconds):
            for arguments in command.before:
                if code := await _call((*program, *arguments), place.work, env, log):
                    return code
            return await _call((*program, *command.arguments), place.work, env, log, typed=command.typed)
    except TimeoutError:
        return None


async def _call(
    argv: Sequence[str], work: Path, env: Mapping[str, str], log: Path, *, typed: str = ""
) -> int | None:
    """Run *argv* to its end, or until we are cancelled; nothing that it started in its group survives."""
    with log.open("ab") as output:
        process = await asyncio.create_subprocess_exec(
            *argv,
            cwd=work,
            env=env,
            stdin=asyncio.subprocess.PIPE if typed else asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        await process.communicate(typed.encode() or None)
        return process.returncode
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


def _env(place: Place) -> dict[str, str]:
    """Return an environment that has nothing of the user's: neither keys nor settings."""
    env = {
        "CI": "1",
        "DO_NOT_TRACK": "1",
        "HOME": str(place.home),
        "LANG": "C.UTF-8",
        "NO_COLOR": "1",
        "OPENAI_API_KEY": KEY,
        "PATH": os.environ["PATH"],
        "TERM": "dumb",
    }
    for name, value in (("HTTP_PROXY", NOWHERE), ("HTTPS_PROXY", NOWHERE), ("NO_PROXY", "127.0.0.1,localhost")):
        env |= {name: value, name.lower(): value}
    return env
