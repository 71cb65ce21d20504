"""Soak: agents that talk through a proxy while everything around it goes wrong, and what must hold all the time.

    report = await soak(Plan(agents=4, turns=200, faults=60, seed=1))
    assert not report.violations

Every turn ends with the right answer, or with an error that the SDK raises and, asked again, with the right
answer; the model reads no history that its agent did not send; no answer is short; the ledger adds up.
"""

import asyncio
import tempfile
import urllib.request
from collections import Counter
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
from link import Link
from process import Process
from reading import Deceived
from talker import Talker
from weather import Weather

HERE = Path(__file__).parent
SAMPLE_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Plan:
    """How many *agents*, how many *turns* and *faults* altogether, and what they follow from.

    *scale* shortens the times of faults and of the proxy's patience alike. *without* are kinds of faults that do
    not happen.
    """

    agents: int = 4
    turns: int = 200
    faults: int = 60
    seed: int = 1
    scale: float = 1 / 60
    without: tuple[str, ...] = ()
    warm_up: str = "on"

    @property
    def settings(self) -> dict[str, str]:
        """The proxy's settings: its defaults, shortened, but none below what a busy machine needs."""
        usual = {
            "first_event_timeout": 600, "event_timeout": 600, "open_timeout": 60, "send_timeout": 240,
            "connect_timeout": 60, "body_timeout": 180, "probe_timeout": 30, "ping_interval": 60,
            "websocket_retry_seconds": 120, "idle_seconds": 1800, "max_age_seconds": 3300, "drain_seconds": 30,
            "keepalive_after": 75, "keepalive_interval": 15,
        }  # fmt: skip
        times = {f"PACKLIGHT_{name.upper()}": str(value * self.scale) for name, value in usual.items()}
        return {**times, "PACKLIGHT_WARM_UP": self.warm_up}


@dataclass(slots=True)
class Sample:
    """The proxy's memory in bytes and its descriptors, in its *life* and after so many turns of all agents."""

    life: int
    turns: int
    resident: int
    descriptors: int


@dataclass(slots=True)
class Report:
    """What happened, and in *violations* what must not."""

    plan: Plan
    turns: int = 0
    requests: int = 0
    seconds: float = 0.0
    slowest: float = 0.0
    faults: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    ledger: Counter[str] = field(default_factory=Counter)
    answered: Counter[str] = field(default_factory=Counter)
    """Answers that the model began, by transport; `again` are those of a history that was answered before."""
    samples: list[Sample] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)


async def soak(plan: Plan, note: Callable[[str], None] = lambda _: None) -> Report:
    """Carry *plan* out; *note* is told how it goes."""
    run = _Run(plan, note)
    begun = asyncio.get_running_loop().time()
    async with AsyncExitStack() as stack:
        await run.set_up(stack)
        await run.talk()
    run.report.seconds = asyncio.get_running_loop().time() - begun
    return run.report


class _Run:
    """One soak on its way."""

    def __init__(self, plan: Plan, note: Callable[[str], None]) -> None:
        self.plan = plan
        self.report = Report(plan)
        self._note = note
        self._done = asyncio.Event()
        self._turned = asyncio.Event()

    async def set_up(self, stack: AsyncExitStack) -> None:
        """Start the processes and the links between them."""
        plan, enter = self.plan, stack.enter_async_context
        self._journal = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "journal"
        self._upstream = await enter(Process(self._upstream_command))
        self._far = await enter(Link(("127.0.0.1", self._upstream.port)))
        self._proxy = await enter(Process(self._proxy_command, plan.settings))
        self._near = await enter(Link(("127.0.0.1", self._proxy.port)))
        self._talkers = [
            Talker(
                f"agent-{number}",
                self._near.base_url,
                api="chat" if number % 4 == 3 else "responses",
                seed=plan.seed,
                read_seconds=900 * plan.scale,
            )
            for number in range(plan.agents)
        ]
        for talker in self._talkers:
            stack.push_async_callback(talker.close)
        self._weather = Weather(
            self._near,
            self._far,
            self._proxy,
            self._upstream,
            seed=plan.seed,
            scale=plan.scale,
            without=plan.without,
        )
        self._weather.before_kill = self._enter_ledger

    def _upstream_command(self, port: int) -> list[str]:
        seed = self._upstream.lives if port else 1  # ids of one life do not come again in another
        journal = str(self._journal)
        return [str(HERE / "upstream.py"), "--port", str(port), "--seed", str(seed), "--journal", journal]

    def _proxy_command(self, port: int) -> list[str]:
        command = ["-m", "proxy", "serve", "--port", str(port), "--upstream", self._far.base_url]
        return [*command, "--log-level", "error"]

    async def talk(self) -> None:
        """Let all agents talk in all weathers, and look at what is left."""
        try:
            async with asyncio.TaskGroup() as group:
                for talker in self._talkers:
                    group.create_task(self._turns_of(talker))
                group.create_task(self._worsen())
                group.create_task(self._watch())
        except* Deceived as deceived:
            self.report.violations += [str(each) for each in deceived.exceptions]
        except* TimeoutError:
            self.report.violations.append(f"no answer any more: {self._talkers}")
        await self._look_back()

    async def _turns_of(self, talker: Talker) -> None:
        while not self._done.is_set():
            await talker.turn()
            self.report.turns += 1
            self._turned.set()

    async def _worsen(self) -> None:
        """Let faults happen as turns do, so that they are spread over them."""
        plan = self.plan
        for number in range(plan.faults):
            await self._reached(number * plan.turns // plan.faults)
            await self._weather.next()
        await self._reached(plan.turns)
        self._done.set()

    async def _reached(self, turns: int) -> None:
        while self.report.turns < turns:
            self._turned.clear()
            await self._turned.wait()

    async def _watch(self) -> None:
        """Look at the proxy from time to time."""
        while not self._done.is_set():
            self._sample()
            if len(self.report.samples) % 15 == 0:
                self._note(f"{self.report.turns} turns, {self._weather.counts.total()} faults")
            if self._proxy.died:
                self.report.violations.append("the proxy ended by itself")
            with suppress(TimeoutError):
                await asyncio.wait_for(self._done.wait(), SAMPLE_SECONDS)

    def _sample(self) -> None:
        resident, descriptors = self._proxy.resident(), self._proxy.descriptors()
        if resident and descriptors:
            self.report.samples.append(Sample(self._proxy.lives, self.report.turns, resident, descriptors))

    # What is left

    async def _look_back(self) -> None:
        report = self.report
        await self._enter_ledger()
        for talker in self._talkers:
            await talker.close()
        self._near.close()
        self._sample()
        report.faults = self._weather.counts
        report.requests = sum(talker.requests for talker in self._talkers)
        report.slowest = max(talker.slowest for talker in self._talkers)
        for talker in self._talkers:
            report.errors += talker.errors
        self._read_journal()
        self._check_ledger()

    def _read_journal(self) -> None:
        """Compare what the model read with what its agents asked."""
        asked = {talker.name: talker.asked for talker in self._talkers}
        seen: Counter[tuple[str, str]] = Counter()
        for line in self._journal.read_bytes().splitlines():
            read = orjson.loads(line)
            name, digest = read["agent"], read["digest"]
            upload = "http" if read["transport"] == "http" else "delta" if read["delta"] else "full"
            self.report.answered[upload] += 1
            if digest not in asked.get(name, ()):
                self.report.violations.append(f"the model read {digest} for {name}, who never sent that")
            seen[name, digest] += 1
        self.report.answered["again"] = seen.total() - len(seen)

    async def _enter_ledger(self) -> None:
        """Add the totals of the proxy, whose life may be about to end."""
        try:
            figures: dict[str, Any] = await asyncio.to_thread(self._stats)
        except OSError:
            return
        turns = figures["turns"]
        self.report.ledger["lives"] += 1
        self.report.ledger.update(turns)
        self.report.ledger.update({f"reason {name}": count for name, count in figures["full_reasons"].items()})
        self.report.ledger.update({f"warm-up {name}": count for name, count in figures["warm_ups"].items()})
        connections = figures["connections"]
        self.report.ledger.update({f"connections {name}": count for name, count in connections.items()})
        if turns["total"] != turns["delta"] + turns["full"] + turns["http"]:
            self.report.violations.append(f"the ledger does not add up: {turns}")
        if not 0 <= connections["open"] <= connections["opened"] - connections["lost"]:
            self.report.violations.append(f"the ledger's connections do not add up: {connections}")

    def _stats(self) -> Any:
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with direct.open(f"http://127.0.0.1:{self._proxy.port}/_packlight/stats", timeout=10) as answer:
            return orjson.loads(answer.read())

    def _check_ledger(self) -> None:
        """Every answer is in the ledger, and nothing that nobody asked; a killed life may have had a few more."""
        report, total = self.report, self.report.ledger["total"]
        unseen = 2 * self.plan.agents * (self._proxy.lives - 1)
        if not report.turns - unseen <= total <= report.requests:
            report.violations.append(f"{report.turns} answers, {report.requests} requests, {total} in the ledger")
