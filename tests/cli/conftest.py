"""Fixtures: the command as its users run it, in a process or in ours."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import structlog
from click.testing import CliRunner, Result

from proxy.cli import main

ROOT = Path(__file__).parents[2]
SECONDS = 20


@pytest.fixture(autouse=True)
def _no_settings_of_ours(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Keep the developer's own settings out."""
    for name in [name for name in os.environ if name.startswith("PACKLIGHT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))


@pytest.fixture(autouse=True)
def _no_log_of_its_own() -> Iterator[None]:
    """Take back what a command sets up in our process: other tests look at what is logged."""
    yield
    structlog.reset_defaults()


@pytest.fixture(autouse=True)
def _closed_terminals_count() -> Iterator[None]:
    """Have SIGHUP mean what it does by default, for us and for what we start: `nohup` may run the tests."""
    former = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, former)


class Process:
    """A running ``packlight``; *ready* is the first line of its standard output."""

    def __init__(self, popen: subprocess.Popen[str]) -> None:
        self.popen = popen
        assert popen.stdout is not None
        self.ready = popen.stdout.readline().rstrip()

    @property
    def url(self) -> str:
        """The base of the proxy's own pages, as the ready line gives it."""
        return self.ready.partition("listening on ")[2].partition("/v1")[0]

    @property
    def port(self) -> int:
        """The port of the ready line."""
        return int(self.url.rpartition(":")[2])

    def end(self, number: int) -> tuple[int, str, str]:
        """Send signal *number*; return the exit status and what else was printed on both outputs."""
        self.popen.send_signal(number)
        output, errors = self.popen.communicate(timeout=SECONDS)
        return self.popen.returncode, output, errors


class Packlight:
    """Runs the command."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack

    def start(
        self, *arguments: str, environ: dict[str, str] | None = None, stderr: int = subprocess.PIPE
    ) -> Process:
        """Start a command that goes on until it is stopped, and wait for its first line."""
        popen = subprocess.Popen(  # noqa: S603  our own command
            [sys.executable, "-m", "proxy", *arguments],
            cwd=ROOT,
            env=os.environ | (environ or {}),
            stdout=subprocess.PIPE,
            stderr=stderr,
            encoding="utf-8",
        )
        self._stack.enter_context(popen)
        self._stack.callback(popen.terminate)
        return Process(popen)

    def run(self, *arguments: str, environ: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        """Run a command to its end, with both outputs in pipes."""
        return subprocess.run(  # noqa: S603  our own command
            [sys.executable, "-m", "proxy", *arguments],
            cwd=ROOT,
            env=os.environ | (environ or {}),
            capture_output=True,
            encoding="utf-8",
            timeout=SECONDS,
            check=False,
        )

    def unread(self, *arguments: str, closed: bool) -> subprocess.Popen[str]:
        """Start a command whose standard output is *closed*, or else a pipe that nobody reads from."""
        reading, writing = os.pipe()
        os.close(reading)
        command = [sys.executable, "-m", "proxy", *arguments]
        if closed:
            command = ["/bin/sh", "-c", 'exec "$@" >&-', "sh", *command]
        popen = subprocess.Popen(  # noqa: S603  our own command
            command, cwd=ROOT, stdout=writing, stderr=subprocess.PIPE, encoding="utf-8"
        )
        os.close(writing)
        self._stack.enter_context(popen)
        self._stack.callback(popen.terminate)
        return popen

    def call(self, *arguments: str) -> Result:
        """Run a command to its end, in this process."""
        return CliRunner().invoke(main, arguments, prog_name="packlight")


@pytest.fixture
def packlight() -> Iterator[Packlight]:
    """Return what runs the command; processes that still run are ended."""
    with ExitStack() as stack:
        yield Packlight(stack)
