"""The project's scripts and pins: what can be checked without running the whole suite in itself."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import module_from_spec
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
NAMES = ("setup", "demo", "test", "check", "link", "soak", "bench")
SCRIPTS = [*(ROOT / "scripts" / name for name in NAMES), ROOT / ".ci" / "run"]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PINS = [line for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines() if line[:1] != "#"]


def normal(name: str) -> str:
    """Return a distribution's name in its one spelling."""
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_a_script_is_bash_that_stops_at_the_first_failure(script: Path) -> None:
    """It parses, can be executed, says what it is for, and does not go on after an error."""
    lines = script.read_text(encoding="utf-8").splitlines()
    assert lines[0] == "#!/usr/bin/env bash"
    assert lines[1].startswith("# ")
    assert "set -euo pipefail" in lines
    assert script.stat().st_mode & 0o111
    if bash := shutil.which("bash"):
        subprocess.run([bash, "-n", str(script)], check=True)  # noqa: S603  our own script


@pytest.mark.parametrize(
    ("name", "program"), [("bench", "benchmarks/run.py"), ("link", "links/console.py"), ("soak", "soaking/run.py")]
)
def test_a_script_is_called_what_its_user_calls_it(name: str, program: str) -> None:
    """Its help names the script, and not the program that the script starts."""
    scripts = ROOT / "scripts"
    paths = os.pathsep.join(str(scripts / each) for each in ("links", "agents"))
    shown = subprocess.run(  # noqa: S603  our own script
        [sys.executable, str(scripts / program), "--help"],
        env=os.environ | {"PYTHONPATH": paths},
        capture_output=True,
        encoding="utf-8",
        check=True,
    ).stdout
    assert shown.startswith(f"Usage: scripts/{name} ")


def test_each_mutant_can_be_planted_and_has_its_test(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it takes away is in its file once, and the test that is to notice is there."""
    loader = SourceFileLoader("mutants", str(ROOT / "scripts" / "mutants"))
    script = module_from_spec(ModuleSpec("mutants", loader, origin=loader.path))
    monkeypatch.setitem(sys.modules, "mutants", script)  # where its dataclass looks for itself
    script.__file__ = loader.path
    loader.exec_module(script)
    assert script.MUTANTS
    for mutant in script.MUTANTS:
        assert (ROOT / mutant.file).read_text(encoding="utf-8").count(mutant.original) == 1, mutant
        file, name = mutant.node.partition("[")[0].split("::")
        assert re.search(rf"def {name}\(", (ROOT / file).read_text(encoding="utf-8")), mutant


def test_constraints_are_exact_versions_and_nothing_else() -> None:
    """No address of a registry, no range, no name twice, in order."""
    assert all(re.fullmatch(r"[a-z0-9-]+==[0-9][0-9a-z.]*", pin) for pin in PINS)
    names = [pin.partition("==")[0] for pin in PINS]
    assert sorted(set(names)) == names


def test_everything_the_project_names_is_pinned() -> None:
    """Runtime, test and lint dependencies have a version that was tested."""
    groups = PROJECT["dependency-groups"]
    wanted = [*PROJECT["project"]["dependencies"], *groups["test"], *groups["lint"]]
    names = {normal(re.split(r"[<>=~!\[; ]", each)[0]) for each in wanted}
    assert names <= {pin.partition("==")[0] for pin in PINS}


def test_an_sdist_has_what_its_scripts_read() -> None:
    """The suite and the demo run from it as from the repository."""
    included = PROJECT["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]
    assert {"/.ci", "/config.example.toml", "/constraints.txt", "/proxy", "/scripts", "/tests"} <= set(included)
