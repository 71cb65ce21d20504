"""packlight itself, as a user runs it: the real command, in a process of its own."""

import asyncio
import os
import re
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import aiohttp

ROOT = Path(__file__).parents[2]
READY = re.compile(r"listening on (http://\S+)/v1")
READY_SECONDS = 30
STOP_SECONDS = 15
LEDGER_SECONDS = 10


class DidNotStart(Exception):
    """The proxy ended, or said nothing, before it was ready."""


class Packlight:
    """A proxy on a free port, in front of *upstream*. Its log goes to the file *log*.

    *settings* are environment variables.
    """

    def __init__(self, upstream: str, *, home: Path, log: Path, settings: Mapping[str, str]) -> None:
        self._upstream = upstream
        self._home = home
        self._log = log
        self._settings = settings
        self.url = ""

    @property
    def base_url(self) -> str:
        """What agents are pointed at."""
        return f"{self.url}/v1"

    async def __aenter__(self) -> Self:
        flags = ("--upstream", self._upstream, "--port", "0", "--log-format", "json")
        with self._log.open("wb") as log:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "proxy", "serve", *flags),
                cwd=ROOT,
                env=self._env(),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
            )
        try:
            self.url = await self._ready()
        except BaseException:
            await self._stop()
            raise
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._stop()

    async def turns(self, *, attempts: int) -> list[dict[str, Any]]:
        """Return the records of all turns, oldest first, as soon as they tell of *attempts* attempts."""
        async with asyncio.timeout(LEDGER_SECONDS):
            while True:
                turns: list[dict[str, Any]] = (await self._get("turns", limit=10_000))["turns"]
                if sum(turn["attempts"] for turn in turns) >= attempts:
                    return turns[::-1]
                await asyncio.sleep(0.05)

    async def bytes_to_upstream(self) -> int:
        """Return how many bytes went upstream since the start."""
        total: int = (await self._get("stats"))["bytes"]["to_upstream"]
        return total

    async def _get(self, what: str, **query: int) -> dict[str, Any]:
        async with (
            aiohttp.ClientSession(raise_for_status=True) as session,
            session.get(f"{self.url}/_packlight/{what}", params=query) as response,
        ):
            answer: dict[str, Any] = await response.json()
            return answer

    async def _ready(self) -> str:
        said = ""
        assert self._process.stdout is not None  # noqa: S101  we asked for a pipe
        try:
            async with asyncio.timeout(READY_SECONDS):
                async for line in self._process.stdout:
                    said += line.decode()
                    if found := READY.search(said):
                        return found[1]
                await self._process.wait()
        except TimeoutError:
            pass
        raise DidNotStart(f"packlight did not start: {said}{self._log.read_text(errors='replace')}")

    async def _stop(self) -> None:
        if self._process.returncode is None:
            self._process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(STOP_SECONDS):
                await self._process.communicate()
        except TimeoutError:
            self._process.kill()
            await self._process.communicate()

    def _env(self) -> dict[str, str]:
        """Return our environment without the user's settings of packlight, and without any proxy."""
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.upper().startswith("PACKLIGHT_") and not name.upper().endswith("_PROXY")
        }
        home = {"HOME": str(self._home), "XDG_CONFIG_HOME": str(self._home / ".config")}
        return {**kept, **home, **self._settings}
