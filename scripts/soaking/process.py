"""Process: a server in a process of its own, that can be killed, stopped, and started again on its port."""

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Self

import orjson

ROOT = Path(__file__).parents[2]
READY_SECONDS = 30.0


class Process:
    """*command* (given a port) as a child of ours; it says where it listens on its first line.

    RUNNING <-> STOPPED; killed and started again it has the same port.
    """

    def __init__(self, command: Callable[[int], list[str]], environ: Mapping[str, str] | None = None) -> None:
        self.port = 0
        self.lives = 0
        self._command = command
        self._environ = {name: value for name, value in os.environ.items() if not name.startswith("PACKLIGHT_")}
        self._environ |= {"PYTHONPATH": str(ROOT), **(environ or {})}

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        if self._child.returncode is None:
            self._child.send_signal(signal.SIGCONT)
            self._child.kill()
        await self._child.communicate()

    @property
    def pid(self) -> int:
        """The process id."""
        return self._child.pid

    @property
    def died(self) -> bool:
        """Whether it ended without being told to."""
        return self._child.returncode is not None and not self._killed

    async def start(self) -> None:
        """Start it, and wait until it listens."""
        self.lives += 1
        self._child = await asyncio.create_subprocess_exec(
            sys.executable,
            *self._command(self.port),
            cwd=ROOT,
            env=self._environ,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        self._killed = False  # only now: until then there is the one that was killed
        assert self._child.stdout is not None  # noqa: S101  (piped)
        try:
            async with asyncio.timeout(READY_SECONDS):
                ready = (await self._child.stdout.readline()).decode()
        except TimeoutError as exc:
            raise RuntimeError(f"it did not listen within {READY_SECONDS} s") from exc
        self.port = int(ready.partition("listening on ")[2].partition("/v1")[0].rpartition(":")[2])

    async def kill(self) -> None:
        """End it with SIGKILL."""
        self._killed = True
        self._child.kill()
        await self._child.communicate()

    def freeze(self) -> None:
        """Stop it where it stands."""
        self._child.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        self._child.send_signal(signal.SIGCONT)

    def order(self, order: object) -> None:
        """Write *order* to its standard input."""
        assert self._child.stdin is not None  # noqa: S101  (piped)
        self._child.stdin.write(orjson.dumps(order) + b"\n")

    def resident(self) -> int | None:
        """Return its memory in bytes, where the system tells."""
        try:
            pages = Path(f"/proc/{self.pid}/statm").read_text(encoding="ascii").split()[1]
        except OSError:
            return None
        return int(pages) * os.sysconf("SC_PAGE_SIZE")

    def descriptors(self) -> int | None:
        """Return how many descriptors it has open, where the system tells."""
        try:
            return sum(1 for _ in Path(f"/proc/{self.pid}/fd").iterdir())
        except OSError:
            return None
