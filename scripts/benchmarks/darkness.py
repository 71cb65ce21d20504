"""Darkness: a link that carries nothing for a while, packet by packet, and how soon after it answers are there."""

import http.client
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import click
import orjson
from packets import FAR, PacketLink
from side import Side

from proxy.cli.bench.profiles import Profile

ROOT = Path(__file__).parents[2]
PORT = 9000
RATE = 1e6
EVENT_SECONDS = 0.5
BEGUN_SECONDS = 2.0
READY = re.compile(r"listening on http://[^ /]+:(\d+)/v1")

When = Literal["idle", "sent", "in flight"]
"""Asked once the link is back; as it goes dark; or answered in part by then."""


@dataclass(frozen=True, slots=True)
class Night:
    """So many *seconds* of darkness on a link with a *round_trip*, and *when* the turn is asked."""

    seconds: float
    round_trip: float
    when: When

    def live(self) -> tuple[float, dict[str, Any]]:
        """Return after how long the answer was whole, from the link's return on, and packlight's record of it."""
        with PacketLink(Profile("dark", RATE, RATE, self.round_trip)) as link, ExitStack() as stack:
            pace = ("--event-seconds", str(EVENT_SECONDS), "--no-pings") if self.when == "in flight" else ()
            host = ("--host", link.far.address)
            stack.enter_context(_running(link.far, "simulate", *host, "--port", str(PORT), "--echo", *pace))
            upstream = f"http://{FAR}:{PORT}/v1"
            port = stack.enter_context(_running(link.near, "serve", "--port", "0", "--upstream", upstream))
            agent = _Agent(link.near, port)
            for _ in range(2):
                agent.ask().result()
            answer = self._pass(link, agent)
            begun = time.monotonic()
            answered = answer.result() if answer is not None else agent.ask().result()
            return answered - begun, agent.record()

    def _pass(self, link: PacketLink, agent: "_Agent") -> "Future[float] | None":
        """Return as soon as the night is over, with what was asked before its end."""
        answer = None
        if self.when == "in flight":
            answer = agent.ask()
            agent.begun.wait()
            time.sleep(BEGUN_SECONDS)
        link.up.dark = link.down.dark = True
        if self.when == "sent":
            answer = agent.ask()
        time.sleep(self.seconds)
        link.up.dark = link.down.dark = False
        return answer


class _Agent:
    """Talks to the proxy on *port* of *side*, with a history that grows."""

    def __init__(self, side: Side, port: int) -> None:
        self.begun = threading.Event()
        self._side = side
        self._port = port
        self._history: list[Any] = []
        self._thread = ThreadPoolExecutor(1)

    def ask(self) -> "Future[float]":
        """Ask; the result is the time of the answer's end. Raises RuntimeError where it is none."""
        self.begun.clear()
        return self._thread.submit(self._side.run, self._ask)

    def record(self) -> dict[str, Any]:
        """Return packlight's record of the last turn."""
        return dict(orjson.loads(self._side.run(self._call, "GET", "/_packlight/turns?limit=1", None))["turns"][0])

    def _ask(self) -> float:
        self._history.append({"role": "user", "content": "well? " + "x" * 2000})
        body = {"model": "m", "store": False, "input": self._history, "stream": True}
        stream = self._call("POST", "/v1/responses", orjson.dumps(body))
        last = orjson.loads(stream.rpartition(b"\ndata: ")[2])
        if last["type"] != "response.completed":
            raise RuntimeError(f"the turn ended with {last['type']}")
        self._history += last["response"]["output"]
        return time.monotonic()

    def _call(self, method: str, path: str, body: bytes | None) -> bytes:
        connection = http.client.HTTPConnection("127.0.0.1", self._port)
        try:
            connection.request(method, path, body, {"Authorization": "Bearer key"})
            answer = connection.getresponse()
            self.begun.set()
            return answer.read()
        finally:
            connection.close()


@contextmanager
def _running(side: Side, *command: str) -> Iterator[int]:
    """Run packlight's *command* on *side*; yield its port."""
    process = side.start((sys.executable, "-m", "proxy", *command), cwd=ROOT, stdout=subprocess.PIPE, stderr=-3)
    try:
        assert process.stdout is not None  # noqa: S101  a pipe was asked for
        ready = READY.search(process.stdout.readline())
        if ready is None:
            raise RuntimeError(f"packlight {command[0]} did not start")
        yield int(ready[1])
    finally:
        process.terminate()
        process.communicate()


@click.command("dark")
@click.option("--seconds", default="15,30,60", show_default=True, help="Of darkness.")
@click.option("--round-trip", default=0.2, show_default=True, help="Of the link, seconds.")
@click.option("--jobs", type=click.IntRange(1), default=9, show_default=True, help="Links at the same time.")
def dark(*, seconds: str, round_trip: float, jobs: int) -> None:
    """Let a link go dark; fail unless idle agents are answered within 3 s and three round trips of its return."""
    nights = [Night(float(each), round_trip, when) for each in seconds.split(",") for when in get_args(When)]
    allowed = 3 + 3 * round_trip
    late = 0
    with ThreadPoolExecutor(jobs) as threads:
        for night, (took, record) in zip(nights, threads.map(Night.live, nights), strict=True):
            late += night.when == "idle" and took > allowed
            how = record["upload"] if record["attempts"] == 1 else f"{record['upload']}, sent again"
            click.echo(f"{night.seconds:5g} s dark, {night.when:10}{took:7.1f} s  {how}")
    if late:
        sys.exit(f"{late} of them took longer than {allowed:g} s")
