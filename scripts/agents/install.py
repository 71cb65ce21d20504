"""Installing agents from npm and PyPI into a folder that is kept."""

import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from pathlib import Path

from sources import Checkout, Npm, Program, PyPI

NODES = {22: "22.23.3", 24: "24.21.0"}  # for agents that need another Node.js than there is
OLDEST_PYTHON, NEWEST_PYTHON = 11, 14  # for programs that do not know ours: 3.11 to 3.14
INSTALL_SECONDS = 600


class NotInstalled(Exception):
    """An agent, or something it needs, could not be installed."""


class UnknownPython(NotInstalled):
    """An agent needs an older Python than there is, or a newer one."""


def default_cache() -> Path:
    """Return the folder for agents that the user's environment asks for."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "packlight" / "agents"


def install(agent: Program, cache: Path) -> tuple[str, ...]:
    """Install *agent* below *cache* if it is not there yet; return the beginning of its command line."""
    match agent.source:
        case Npm() as source:
            modules = _npm_install(source, agent.version, cache) / "node_modules"
            if isinstance(source.program, Path):
                return (*(_node(source, cache) or ("node",)), str(modules / source.program))
            return (*_node(source, cache), str(modules / ".bin" / source.program))
        case PyPI() as source:
            programs = _pip_install(source, agent.version, cache)
            if isinstance(source.program, Path):
                return (str(programs / "python"), str(source.program))
            return (str(programs / source.program),)
        case Checkout() as source:
            return (str(_install_anew(source, cache) / source.program),)
        case Path() as script:
            return (sys.executable, str(script))


def _node(source: Npm, cache: Path) -> tuple[str, ...]:
    """Return the Node.js to name on the command line, if the one on the PATH will not do."""
    other = _other_node(source, cache)
    return () if other is None else (str(other / "node"),)


def _other_node(source: Npm, cache: Path) -> Path | None:
    """Return the folder of a Node.js that is installed for *source*; None if the one on the PATH will do."""
    if source.node <= _node_here() <= (source.newest_node or sys.maxsize):
        return None
    version = NODES[source.newest_node or max(NODES)]
    return _npm_install(Npm(package="node", program="node", node=0), version, cache) / "node_modules/.bin"


def _node_here() -> int:
    try:
        answer = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as exc:
        raise NotInstalled("there is no node: install Node.js 20 or newer, with npm") from exc
    return int(answer.stdout.removeprefix("v").split(".")[0])


def _npm_install(source: Npm, version: str, cache: Path) -> Path:
    """Return the folder with the package of *source*, whose own scripts met the Node.js that will run it."""
    wanted = (f"{source.package}@{version}", *source.pins)
    folder = cache / "+".join((f"{source.package}-{version}", *source.pins)).replace("/", "+")
    options = ("--no-audit", "--no-fund", "--no-update-notifier", "--loglevel=error")
    npm = ("npm", "install", *options, "--prefix", str(folder), *wanted)
    _install_once(folder, " ".join(wanted), npm, environ=_npm_environ(_other_node(source, cache)))
    if source.built is not None:
        file, place = (folder / "node_modules" / path for path in source.built)
        place.mkdir(parents=True, exist_ok=True)
        shutil.copy2(file, place)
    return folder


def _npm_environ(node: Path | None) -> dict[str, str]:
    """Return our environment, in which the Node.js in the folder *node* comes first and its headers are known."""
    environ = dict(os.environ)
    if node is not None:
        environ["PATH"] = os.pathsep.join((str(node), environ["PATH"]))
        for header in node.parent.glob("**/include/node/node.h"):
            environ["npm_config_nodedir"] = str(header.parents[2])
    return environ


def _pip_install(source: PyPI, version: str, cache: Path) -> Path:
    """Return the folder of the programs of the virtual environment for *source*."""
    wanted = (f"{source.package}=={version}", *source.pins)
    folder = cache / "+".join(wanted)
    pip = (*_pip(folder), "--no-compile", *wanted)
    _install_once(folder, " ".join(wanted), _venv(_python(source), folder), pip)
    return _programs(folder)


def _install_anew(source: Checkout, cache: Path) -> Path:
    """Return the folder of the programs of the virtual environment for *source*, which is as it is now."""
    name = source.folder.name
    folder = cache / name
    _install_once(folder, name, _venv(sys.executable, folder))
    _run((*_pip(folder), "-c", str(source.folder / "constraints.txt"), str(source.folder)), folder, name)
    return _programs(folder)


def _venv(python: str, folder: Path) -> tuple[str, ...]:
    return (python, "-m", "venv", "--without-pip", str(folder))


def _pip(folder: Path) -> tuple[str, ...]:
    """Return the command that installs into the virtual environment *folder*."""
    pip = (sys.executable, "-m", "pip", "--python", str(folder), "-qq", "--disable-pip-version-check")
    return (*pip, "install")


def _programs(folder: Path) -> Path:
    return Path(sysconfig.get_path("scripts", "venv", {"base": str(folder)}))


def _python(source: PyPI) -> str:
    """Return a Python that *source* knows: our own if it will do."""
    ours = sys.version_info[:2]
    oldest = source.oldest_python or (3, OLDEST_PYTHON)
    newest = source.newest_python or max(ours, (oldest[0], NEWEST_PYTHON))
    if oldest <= ours <= newest:
        return sys.executable
    names = [f"python3.{minor}" for minor in range(newest[1], oldest[1] - 1, -1)]
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        raise UnknownPython(f"{source.package} needs one of {', '.join(names)}")
    return found


def _install_once(
    folder: Path, what: str, *commands: Sequence[str], environ: Mapping[str, str] | None = None
) -> None:
    """Fill *folder* with *commands*, unless that was done before."""
    complete = folder / ".complete"
    if complete.exists():
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    print(f"installing {what}", file=sys.stderr)
    for command in commands:
        _run(command, folder, what, environ)
    complete.touch()


def _run(command: Sequence[str], folder: Path, what: str, environ: Mapping[str, str] | None = None) -> None:
    try:
        subprocess.run(
            command,
            cwd=folder,
            env=environ,
            check=True,
            stdin=subprocess.DEVNULL,
            stdout=sys.stderr,
            timeout=INSTALL_SECONDS,
        )
    except (OSError, subprocess.SubprocessError) as exc:
        raise NotInstalled(f"could not install {what}: {exc}") from exc
