"""`scripts/bench uploads`: a narrow link, and a server that pings, twenty times faster than in life."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def bench(*options: str) -> "subprocess.CompletedProcess[str]":
    """Upload half a megabyte at 64 kbit/s to a server that pings every 20 s, in three seconds."""
    command = [sys.executable, str(ROOT / "scripts/benchmarks/run.py"), "uploads", "--scale", "20"]
    return subprocess.run(  # noqa: S603  our own script
        [*command, "--kbits", "64", "--sizes", "0.5", *options],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={
            "PYTHONPATH": os.pathsep.join(
                [str(ROOT), *(str(ROOT / "scripts" / each) for each in ("links", "agents"))]
            )
        },
    )


@pytest.mark.skipif(sys.platform != "linux", reason="the link is narrow only where SO_RCVBUF is kept to")
def test_an_upload_arrives_where_one_frame_does_not() -> None:
    """Paced it arrives at the link's rate, a modem with a long queue or not; as one frame it dies of a ping."""
    paced = bench("--bloat", "0,8")
    assert paced.returncode == 0, paced.stdout + paced.stderr
    assert "keepalive ping timeout" in bench("--bloat", "0", "--unpaced").stdout
