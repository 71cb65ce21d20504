"""A peer: another proxy of the Responses API, run in a process of its own in front of an upstream."""

import asyncio
import os
import signal
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
from install import install
from sources import Checkout, Npm, PyPI

READY_SECONDS = 180
STOP_SECONDS = 10


class PeerFailed(Exception):
    """A peer did not start, or could not be pointed at an upstream."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a peer runs: a *home* of its own, the *port* to listen on, and *upstream*, ``http://HOST:PORT``."""

    home: Path
    port: int
    upstream: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """A proxy: how it is installed, started and asked.

    *configure* writes what it needs into its place and returns its arguments and environment; *ready* is asked
    until it answers 200; *enrol* does what a user would do next. Agents are pointed at *path*, name the model as
    *model* says, and send *headers* made of the place. A *lenient* upstream is one that takes an item twice.
    *told* says what it is.
    """

    name: str
    version: str
    told: str
    source: Npm | PyPI | Checkout | Path
    configure: Callable[[Place], tuple[tuple[str, ...], Mapping[str, str]]]
    path: str = "/v1"
    model: str = "{}"
    ready: str = "/v1/models"
    enrol: Callable[[Place], Awaitable[None]] | None = None
    lenient: bool = False
    headers: Callable[[Place], Mapping[str, str]] = field(default=lambda _place: {})


class Running:
    """A peer in a process of its own, at *base_url*."""

    def __init__(self, peer: Peer, place: Place, pid: int) -> None:
        self.peer = peer
        self.pid = pid
        self.base_url = f"http://127.0.0.1:{place.port}{peer.path}"
        self.headers = dict(peer.headers(place))

    def resident(self) -> int | None:
        """Return the bytes of memory that the process and its children hold; None where that cannot be read."""
        if not Path("/proc/self/statm").exists():
            return None
        return sum(_resident(pid) for pid in _family(self.pid))


@asynccontextmanager
async def running(peer: Peer, upstream: str, *, cache: Path, home: Path) -> AsyncIterator[Running]:
    """Install *peer* below *cache* and run it in front of *upstream*. Raises PeerFailed and NotInstalled."""
    place = Place(home, _free_port(), upstream)
    arguments, environ = peer.configure(place)
    program = await asyncio.to_thread(install, peer, cache)
    log = home / "log"
    with log.open("wb") as file:
        process = await asyncio.create_subprocess_exec(
            *program,
            *arguments,
            cwd=home,
            env={**_environ(home, Path(program[0]).parent), **environ},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
    try:
        await _until_ready(peer, place, process, log)
        await _enrol(peer, place)
        yield Running(peer, place, process.pid)
    finally:
        await _stop(process)


async def _enrol(peer: Peer, place: Place) -> None:
    if peer.enrol is None:
        return
    try:
        await peer.enrol(place)
    except (aiohttp.ClientError, LookupError) as exc:
        raise PeerFailed(f"could not be set up: {exc!r}") from exc


async def _until_ready(peer: Peer, place: Place, process: asyncio.subprocess.Process, log: Path) -> None:
    url = f"http://127.0.0.1:{place.port}{peer.ready}"
    deadline = time.monotonic() + READY_SECONDS
    async with aiohttp.ClientSession(headers={"Authorization": "Bearer sk-benchmark"}) as http:
        while True:
            try:
                async with http.get(url) as answer:
                    if answer.status == 200:
                        return
            except aiohttp.ClientError:
                pass
            if process.returncode is not None or time.monotonic() > deadline:
                raise PeerFailed(f"did not start: {_last_line(log)}")
            await asyncio.sleep(0.2)


def _last_line(log: Path) -> str:
    said = log.read_text(errors="replace").strip().splitlines()
    return said[-1][:200] if said else "it said nothing"


async def _stop(process: asyncio.subprocess.Process) -> None:
    """End *process*, and its children where the system has process groups."""
    if process.returncode is not None:
        return
    _end(process)
    try:
        async with asyncio.timeout(STOP_SECONDS):
            await process.wait()
    except TimeoutError:
        _end(process, at_once=True)
        await process.wait()


def _end(process: asyncio.subprocess.Process, *, at_once: bool = False) -> None:
    if os.name == "posix":
        os.killpg(process.pid, signal.SIGKILL if at_once else signal.SIGTERM)
    elif at_once:
        process.kill()
    else:
        process.terminate()


def _environ(home: Path, programs: Path) -> dict[str, str]:
    """Return our environment without what is ours; what is beside the program, it finds first on its path."""
    kept = {name: value for name, value in os.environ.items() if not name.upper().endswith("_PROXY")}
    for name in list(kept):
        if name.startswith(("PACKLIGHT_", "PYTHONPATH")):
            del kept[name]
    kept["PATH"] = os.pathsep.join((str(programs), kept.get("PATH", os.defpath)))
    return kept | {"HOME": str(home), "XDG_CONFIG_HOME": str(home / ".config"), "NO_PROXY": "127.0.0.1"}


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def _family(pid: int) -> list[int]:
    parents: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
        except (OSError, IndexError):
            continue
    family = [pid]
    for each in family:
        family += [child for child, parent in parents.items() if parent == each]
    return family


def _resident(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0
