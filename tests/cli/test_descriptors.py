"""The limit of open files and sockets: asked for as a kernel of each kind has it, and had by the real command."""

import sys
from typing import Any

import pytest

from proxy.cli import descriptors
from proxy.cli.descriptors import allow_many

resource = pytest.importorskip("resource", reason="Windows has no such limit")

INFINITE = resource.RLIM_INFINITY


class Kernel:
    """Stands for `resource`: two limits, of which the first may be raised to *granted* at most."""

    RLIMIT_NOFILE = resource.RLIMIT_NOFILE
    RLIM_INFINITY = INFINITE

    def __init__(self, limits: tuple[int, int], granted: int) -> None:
        self.limits = limits
        self._granted = granted

    def getrlimit(self, _which: int) -> tuple[int, int]:
        """Return both limits."""
        return self.limits

    def setrlimit(self, _which: int, limits: tuple[int, int]) -> None:
        """Raise the first, or refuse as macOS does."""
        if limits[0] > self._granted:
            raise ValueError
        self.limits = limits


@pytest.mark.parametrize(
    ("limits", "granted", "then"),
    [
        ((1024, 524_288), 524_288, 65_536),
        ((1024, 4096), 4096, 4096),
        ((4096, 4096), 4096, 4096),
        ((100_000, 524_288), 524_288, 100_000),
        ((INFINITE, INFINITE), 0, INFINITE),
        ((256, INFINITE), 10_240, 10_240),
        ((256, INFINITE), 0, 256),
    ],
    ids=["linux", "low", "lowest", "high", "none", "macos", "refused"],
)
def test_the_limit_is_raised_as_far_as_it_may(
    monkeypatch: pytest.MonkeyPatch, limits: tuple[int, int], granted: int, then: int
) -> None:
    """Up to the hard limit, or to what is enough for any agent; never down, and without an error."""
    kernel = Kernel(limits, granted)
    monkeypatch.setattr(descriptors, "resource", kernel)
    allow_many()
    assert kernel.limits == (then, limits[1])


@pytest.mark.skipif(sys.platform != "linux", reason="others do not tell of other processes")
def test_serve_raises_it(packlight: Any) -> None:
    """More agents at once than a shell's own limit allows are no trouble."""
    former = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (512, former[1]))
    try:
        process = packlight.start("serve", "--port", "0", "--upstream", "simulated")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, former)
    assert resource.prlimit(process.popen.pid, resource.RLIMIT_NOFILE)[0] > 512
