"""Where a program that was installed is found, and what runs it."""

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
from install import NODES, install
from sources import Checkout, Npm


@dataclass(frozen=True)
class Installed:
    """A package that is in the cache already."""

    source: Npm | Checkout
    version: str = "1.2.3"


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """Return a cache that holds a package, and each Node.js as a package."""
    for name in (
        "@maker+thing-1.2.3",
        "@maker+thing-1.2.3+other@4.5.6",
        *(f"node-{each}" for each in NODES.values()),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / ".complete").touch()
    return tmp_path


def test_a_command_of_an_npm_package_runs_by_itself(cache: Path) -> None:
    """Npm links it into one folder."""
    source = Npm(package="@maker/thing", program="thing", node=18)
    assert install(Installed(source), cache) == (str(cache / "@maker+thing-1.2.3/node_modules/.bin/thing"),)


def test_a_script_in_an_npm_package_runs_on_node(cache: Path) -> None:
    """It is no command, so its interpreter is named."""
    source = Npm(package="@maker/thing", program=Path("@maker/thing/server.js"), node=18)
    script = cache / "@maker+thing-1.2.3/node_modules/@maker/thing/server.js"
    assert install(Installed(source), cache) == ("node", str(script))


@pytest.mark.parametrize(("oldest", "newest", "chosen"), [(24, None, 24), (20, 22, 22)])
def test_what_needs_another_node_runs_on_one_that_is_installed(
    cache: Path, monkeypatch: pytest.MonkeyPatch, oldest: int, newest: int | None, chosen: int
) -> None:
    """The one on the path, here a Node.js 23, stays as it is."""
    here = cache / "bin" / "node"
    here.parent.mkdir()
    here.write_text("#!/bin/sh\necho v23.1.0\n")
    here.chmod(0o755)
    monkeypatch.setenv("PATH", str(here.parent), prepend=os.pathsep)
    source = Npm(package="@maker/thing", program=Path("@maker/thing/server.js"), node=oldest, newest_node=newest)
    node = cache / f"node-{NODES[chosen]}/node_modules/.bin/node"
    script = cache / "@maker+thing-1.2.3/node_modules/@maker/thing/server.js"
    assert install(Installed(source), cache) == (str(node), str(script))


def test_a_file_that_another_package_built_is_put_where_it_is_looked_for(cache: Path) -> None:
    """Pinned packages make another installation of it."""
    modules = cache / "@maker+thing-1.2.3+other@4.5.6/node_modules"
    (modules / "other").mkdir(parents=True)
    (modules / "other/driver.node").write_text("built")
    built = (Path("other/driver.node"), Path("@maker/thing/drivers"))
    source = Npm(package="@maker/thing", program="thing", node=18, pins=("other@4.5.6",), built=built)
    assert install(Installed(source), cache) == (str(modules / ".bin/thing"),)
    assert (modules / "@maker/thing/drivers/driver.node").read_text() == "built"


def test_a_checkout_is_installed_as_it_is_now(tmp_path: Path) -> None:
    """What was installed before it changed is replaced."""
    checkout, cache = tmp_path / "thing", tmp_path / "cache"
    checkout.mkdir()
    (checkout / "constraints.txt").touch()
    (checkout / "pyproject.toml").write_text(
        '[project]\nname = "thing"\nversion = "1.2.3"\nscripts = {thing = "thing:main"}\n'
    )
    said = []
    for word in ("before", "after"):
        (checkout / "thing.py").write_text(f"def main():\n    print('{word}')\n")
        command = install(Installed(Checkout(folder=checkout, program="thing")), cache)
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)  # noqa: S603
        said.append(done.stdout)
    assert said == ["before\n", "after\n"]
