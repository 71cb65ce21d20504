"""Peers: other proxies of the Responses API, from PyPI or npm, and how each is pointed at an upstream."""

import asyncio
import base64
import os
import signal
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import aiohttp
import orjson
from install import install
from sources import Npm, PyPI

ROOT = Path(__file__).parents[2]
READY_SECONDS = 90
STOP_SECONDS = 10

CODEX = {
    "originator": "codex_exec",
    "User-Agent": "codex_exec/0.169.0",
    "session-id": "",
    "thread-id": "",
    "x-client-request-id": "",
}
"""What Codex says of a conversation in headers; those that are empty here are given its name."""


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
    until it answers 200; *enrol* does what a user would do next. Agents are pointed at *path*, and send *headers*
    made of the place. A *lenient* upstream is one that takes an item twice. *told* says what it is.
    """

    name: str
    version: str
    told: str
    source: Npm | PyPI | Path
    configure: Callable[[Place], tuple[tuple[str, ...], Mapping[str, str]]]
    path: str = "/v1"
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
            env={**_environ(home), **environ},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
    try:
        await _until_ready(peer, place, process, log)
        if peer.enrol is not None:
            await peer.enrol(place)
        yield Running(peer, place, process.pid)
    finally:
        await _stop(process)


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
    if os.name == "posix":
        os.killpg(process.pid, signal.SIGTERM)
    else:
        process.terminate()
    try:
        async with asyncio.timeout(STOP_SECONDS):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()


def _environ(home: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.upper().endswith("_PROXY")}
    for name in list(kept):
        if name.startswith(("PACKLIGHT_", "PYTHONPATH")):
            del kept[name]
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


# packlight, as a user runs it


def _packlight(place: Place) -> tuple[tuple[str, ...], Mapping[str, str]]:
    flags = ("--upstream", f"{place.upstream}/v1", "--port", str(place.port), "--log-format", "json")
    return ("serve", *flags), {"PYTHONPATH": str(ROOT), "PYTHONSAFEPATH": "1"}


# codex-lb: its upstream is a base URL; accounts are ChatGPT logins


def _codex_lb(place: Place) -> tuple[tuple[str, ...], Mapping[str, str]]:
    environ = {
        "CODEX_LB_DATA_DIR": str(place.home),
        "CODEX_LB_UPSTREAM_BASE_URL": f"{place.upstream}/backend-api",
        "CODEX_LB_TELEMETRY_ENABLED": "false",
    }
    return ("--host", "127.0.0.1", "--port", str(place.port)), environ


async def _log_in(place: Place) -> None:
    """Give codex-lb an account: a login file of the right form, whose tokens nobody signed."""
    account = {"chatgpt_account_id": "account-benchmark", "chatgpt_plan_type": "pro", "chatgpt_user_id": "user"}
    claims = {"email": "agent@example.org", "exp": 4_000_000_000, "https://api.openai.com/auth": account}
    token = ".".join((_base64({"alg": "none", "typ": "JWT"}), _base64(claims), "c2ln"))
    tokens = {"id_token": token, "access_token": token, "refresh_token": "none", "account_id": "account-benchmark"}
    form = aiohttp.FormData()
    form.add_field("auth_json", orjson.dumps({"tokens": tokens}), filename="auth.json")
    async with (
        aiohttp.ClientSession() as http,
        http.post(f"http://127.0.0.1:{place.port}/api/accounts/import", data=form) as answer,
    ):
        if answer.status != 200:
            raise PeerFailed(f"took no account: {await answer.text()}")


def _base64(value: object) -> str:
    return base64.urlsafe_b64encode(orjson.dumps(value)).rstrip(b"=").decode()


# LiteLLM's proxy


def _litellm(place: Place) -> tuple[tuple[str, ...], Mapping[str, str]]:
    models = [
        {
            "model_name": model,
            "litellm_params": {
                "model": f"openai/{model}",
                "api_base": f"{place.upstream}/v1",
                "api_key": "sk-benchmark",
            },
        }
        for model in ("gpt-5.5", "gpt-5.6-sol")
    ]
    config = place.home / "config.yaml"
    general = {"dangerously_permit_weak_or_unset_master_key": True}  # it listens on this machine only
    config.write_bytes(orjson.dumps({"model_list": models, "general_settings": general}))  # JSON is YAML
    environ = {"LITELLM_TELEMETRY": "False", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    return (
        "--config",
        str(config),
        "--host",
        "127.0.0.1",
        "--port",
        str(place.port),
        "--telemetry",
        "False",
    ), environ


# Portkey's gateway: the upstream is named by each request


def _portkey(place: Place) -> tuple[tuple[str, ...], Mapping[str, str]]:
    return (f"--port={place.port}", "--headless"), {"TRUSTED_CUSTOM_HOSTS": "127.0.0.1,localhost"}


def _portkey_headers(place: Place) -> Mapping[str, str]:
    return {"x-portkey-provider": "openai", "x-portkey-custom-host": f"{place.upstream}/v1"}


OURS = Peer(
    name="packlight",
    version="this tree",
    told="deltas over a WebSocket, found by content",
    source=ROOT / "proxy/__main__.py",
    configure=_packlight,
    ready="/_packlight/health",
)
_CODEX_LB = Peer(
    name="codex-lb",
    version="1.24.0",
    told="account balancer for Codex, bridges HTTP to a WebSocket",
    source=PyPI(package="codex-lb", program="codex-lb", oldest_python=(3, 13)),
    configure=_codex_lb,
    ready="/health",
    enrol=_log_in,
    headers=lambda _place: CODEX,
)
PEERS = (
    _CODEX_LB,
    replace(_CODEX_LB, name="codex-lb (lenient upstream)", lenient=True),
    Peer(
        name="LiteLLM proxy",
        version="1.106.2",
        told="gateway to many providers",
        source=PyPI(package="litellm[proxy]", program="litellm"),
        configure=_litellm,
        ready="/health/liveliness",
    ),
    Peer(
        name="Portkey gateway",
        version="1.15.2",
        told="gateway to many providers",
        source=Npm(package="@portkey-ai/gateway", program="gateway", node=24),
        configure=_portkey,
        ready="/",
        headers=_portkey_headers,
    ),
)
