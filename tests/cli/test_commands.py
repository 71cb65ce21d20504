"""``packlight`` and its commands: what there is, and what each has in memory."""

import errno
import io
import subprocess
import sys
from typing import Any

import pytest

from proxy.cli import main

COMMANDS = ["serve", "demo", "bench", "simulate", "status", "config"]


def test_help_names_every_command(packlight: Any) -> None:
    """In the order in which a newcomer needs them."""
    told = packlight.call("--help").output
    places = [told.index(f"\n  {name} ") for name in COMMANDS]
    assert places == sorted(places)


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_has_its_own_help(packlight: Any, name: str) -> None:
    """Each is found where it is said to be."""
    result = packlight.call(name, "--help")
    assert result.exit_code == 0
    assert f"packlight {name} [OPTIONS]" in result.output


def test_an_unknown_command_is_refused(packlight: Any) -> None:
    """As click refuses it: exit 2, and what was not known."""
    result = packlight.call("srve")
    assert result.exit_code == 2
    assert "'srve'" in result.output


@pytest.mark.parametrize(
    ("name", "unwanted"),
    [
        ("serve", {"proxy.simulator", "proxy.cli.demo", "proxy.cli.bench"}),
        ("status", {"proxy.simulator", "proxy.server", "aiohttp"}),
        ("config", {"proxy.simulator", "proxy.server", "aiohttp"}),
    ],
)
def test_a_command_has_nothing_in_memory_for_others(name: str, unwanted: set[str]) -> None:
    """The proxy runs for weeks, and a command that is short begins at once."""
    program = f"import sys; from proxy.cli import main; main(['{name}', '--help'], standalone_mode=False)"
    told = [sys.executable, "-c", f"{program}; print(*sys.modules)"]
    loaded = subprocess.run(told, capture_output=True, text=True, check=True).stdout.split()  # noqa: S603
    assert "proxy.cli" in loaded
    assert unwanted.isdisjoint(loaded)


class FullDisk(io.StringIO):
    """An output that takes nothing, for *reason*."""

    def __init__(self, reason: int) -> None:
        super().__init__()
        self._reason = reason

    def write(self, _text: str) -> int:
        """Refuse."""
        raise OSError(self._reason, "the reason")


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["config"], ["config", "--example"]])
def test_a_full_disk_is_told_in_a_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    """What was to be redirected into a file is not there, and the exit status says so."""
    monkeypatch.setattr(sys, "stdout", FullDisk(errno.ENOSPC))
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 1
    assert capsys.readouterr().err == "Error: not all of it could be written: the reason\n"


def test_other_faults_are_not_taken_for_a_full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are defects, whose place has to be seen."""
    monkeypatch.setattr(sys, "stdout", FullDisk(errno.EBADF))
    with pytest.raises(OSError, match="the reason"):
        main(["--version"])
