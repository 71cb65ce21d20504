"""Where a program that was installed is found, and what runs it."""

from dataclasses import dataclass
from pathlib import Path

import pytest
from install import NODE, install
from sources import Npm


@dataclass(frozen=True)
class Installed:
    """A package that is in the cache already."""

    source: Npm
    version: str = "1.2.3"


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """Return a cache that holds a package, and Node.js as a package."""
    for name in ("@maker+thing-1.2.3", f"node-{NODE}"):
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


def test_what_needs_a_newer_node_runs_on_one_that_is_installed(cache: Path) -> None:
    """The one on the path stays as it is."""
    source = Npm(package="@maker/thing", program=Path("@maker/thing/server.js"), node=99)
    node = cache / f"node-{NODE}/node_modules/.bin/node"
    script = cache / "@maker+thing-1.2.3/node_modules/@maker/thing/server.js"
    assert install(Installed(source), cache) == (str(node), str(script))
