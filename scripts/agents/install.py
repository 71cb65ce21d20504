"""Installing agents from npm into a folder that is kept."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from catalog import Agent, Npm

NODE = "24.21.0"  # for agents that need a newer Node.js than there is
INSTALL_SECONDS = 600


class NotInstalled(Exception):
    """An agent, or something it needs, could not be installed."""


def default_cache() -> Path:
    """Return the folder for agents that the user's environment asks for."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "packlight" / "agents"


def install(agent: Agent, cache: Path) -> tuple[str, ...]:
    """Install *agent* below *cache* if it is not there yet; return the beginning of its command line."""
    if isinstance(agent.source, Path):
        return (sys.executable, str(agent.source))
    folder = _npm_install(agent.source.package, agent.version, cache)
    program = folder / "node_modules/.bin" / agent.source.program
    return (*_node(agent.source, cache), str(program))


def _node(source: Npm, cache: Path) -> tuple[str, ...]:
    """Return the Node.js to name on the command line, if the one on the PATH is too old."""
    if source.node <= _node_here():
        return ()
    return (str(_npm_install("node", NODE, cache) / "node_modules/.bin/node"),)


def _node_here() -> int:
    try:
        answer = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as exc:
        raise NotInstalled("there is no node: install Node.js 20 or newer, with npm") from exc
    return int(answer.stdout.removeprefix("v").split(".")[0])


def _npm_install(package: str, version: str, cache: Path) -> Path:
    folder = cache / f"{package.replace('/', '+')}-{version}"
    complete = folder / ".complete"
    if complete.exists():
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    print(f"installing {package}@{version}", file=sys.stderr)
    options = ("--no-audit", "--no-fund", "--no-update-notifier", "--loglevel=error")
    try:
        subprocess.run(
            ["npm", "install", *options, "--prefix", str(folder), f"{package}@{version}"],
            cwd=folder,
            check=True,
            stdin=subprocess.DEVNULL,
            stdout=sys.stderr,
            timeout=INSTALL_SECONDS,
        )
    except (OSError, subprocess.SubprocessError) as exc:
        raise NotInstalled(f"npm could not install {package}@{version}: {exc}") from exc
    complete.touch()
    return folder
