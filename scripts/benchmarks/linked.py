"""Linked: whole agent sessions over an emulated link, on one way to reach upstream."""

import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import Any

import orjson
import trustme
from linkplan import Lived, Plan
from packets import FAR, PacketLink
from side import Side

from proxy.cli.bench.profiles import PROFILES

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
FAR_PORT, PROXY_PORT = 8443, 8484
SETTLED = 10
"""Seconds between packlight's start and the agent's, as for people who start one and then the other."""

WORDS = 500
"""Characters that the model writes in a turn on average, calls included and reasoning not: 100 events."""

PACKLIGHT: Mapping[str, Mapping[str, str]] = {
    "packlight": {"PACKLIGHT_CONGESTION": "system"},
    "quiet": {"PACKLIGHT_CONGESTION": "system", "PACKLIGHT_OBFUSCATION": "off"},
    "hoist": {"PACKLIGHT_CONGESTION": "system", "PACKLIGHT_HOIST": "on", "PACKLIGHT_OBFUSCATION": "off"},
}
"""The settings of packlight, by way; congestion control is that of the plan at both ends."""

OPTIONS = {"new": ("--new-connections",), "zstd": ("--zstd",)}
"""What the agent is told, by way."""


def live(plan: Plan) -> Lived:
    """Run the session of *plan* in namespaces of its own. Raises RuntimeError where it fails."""
    with tempfile.TemporaryDirectory(prefix="packlight-link-") as directory, ExitStack() as stack:
        place = Path(directory)
        _certify(place)
        link = stack.enter_context(PacketLink(PROFILES[plan.link], seed=plan.seed, congestion=plan.congestion))
        _upstream(link, plan, place, stack)
        through = plan.way in PACKLIGHT
        base = _packlight(link, PACKLIGHT[plan.way], place, stack) if through else f"https://{FAR}:{FAR_PORT}/v1"
        lived = _agent(link, plan, place, base)
        figures = link.near.run(_figures) if through else {}
        return Lived(plan, **lived, up=asdict(link.up.counts), down=asdict(link.down.counts), packlight=figures)


def _certify(place: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(place / "authority.pem")
    authority.issue_cert(FAR).private_key_and_cert_chain_pem.write_to_path(place / "upstream.pem")


def _upstream(link: PacketLink, plan: Plan, place: Path, stack: ExitStack) -> None:
    where = ("--host", FAR, "--port", str(FAR_PORT), "--certificate", str(place / "upstream.pem"))
    command = (sys.executable, str(HERE / "far.py"), *where, *_session(plan), "--words", str(WORDS))
    _ready(link.far, command, place, stack)


def _packlight(link: PacketLink, settings: Mapping[str, str], place: Path, stack: ExitStack) -> str:
    upstream = f"https://{FAR}:{FAR_PORT}/v1"
    command = (sys.executable, "-m", "proxy", "serve", "--port", str(PROXY_PORT), "--upstream", upstream)
    _ready(link.near, command, place, stack, settings)
    time.sleep(SETTLED)
    return f"http://127.0.0.1:{PROXY_PORT}/v1"


def _ready(
    side: Side, command: Sequence[str], place: Path, stack: ExitStack, settings: Mapping[str, str] | None = None
) -> None:
    """Start *command*, wait for its first line, and end it with *stack*."""
    with (place / f"{len(list(place.iterdir()))}.log").open("w") as log:
        surroundings = _surroundings(place, settings or {})
        process = side.start(command, stdout=subprocess.PIPE, stderr=log, **surroundings)
    stack.callback(_end, process)
    assert process.stdout is not None  # noqa: S101  a pipe was asked for
    if not process.stdout.readline():
        raise RuntimeError(f"{command} ended: {Path(log.name).read_text()[-2000:]}")


def _end(process: "subprocess.Popen[str]") -> None:
    process.terminate()
    process.communicate()


def _agent(link: PacketLink, plan: Plan, place: Path, base: str) -> dict[str, Any]:
    where = ("--url", base, "--authority", str(place / "authority.pem"))
    command = (sys.executable, str(HERE / "near.py"), *where, *_session(plan), *OPTIONS.get(plan.way, ()))
    process = link.near.start(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **_surroundings(place))
    output, errors = process.communicate()
    if process.returncode:
        raise RuntimeError(f"{plan}: {errors[-2000:]}")
    return dict(orjson.loads(output))


def _session(plan: Plan) -> tuple[str, ...]:
    return ("--turns", str(plan.turns), "--settings", str(plan.settings), "--seed", str(plan.seed))


def _surroundings(place: Path, settings: Mapping[str, str] = MappingProxyType({})) -> dict[str, Any]:
    """Return what runs this tree's code, with nobody's settings or outbound proxies, and trust in upstream."""
    kept = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG")}
    trusted = {"SSL_CERT_FILE": str(place / "authority.pem"), "XDG_CONFIG_HOME": str(place)}
    return {"cwd": ROOT, "env": kept | trusted | dict(settings) | {"PYTHONPATH": str(ROOT)}}


def _figures() -> dict[str, Any]:
    """Return packlight's figures; to be called in its namespace."""
    url = f"http://127.0.0.1:{PROXY_PORT}/_packlight/stats"
    with urllib.request.urlopen(url, timeout=10) as answer:
        return dict(orjson.loads(answer.read()))
