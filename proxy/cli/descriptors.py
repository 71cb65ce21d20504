"""How many connections the system lets this process have at once."""

import sys
from contextlib import suppress

if sys.platform != "win32":  # which has no such limit
    import resource

_ENOUGH = (65_536, 10_240, 4_096)
"""Files and sockets; macOS may call a limit infinite and refuse more than the second of these."""


def allow_many() -> None:
    """Raise this process's own limit as far as it may.

    It is 256 where macOS starts a program, 1024 on most of Linux, and each request has two connections. Node and
    Go raise it as they start, so that agents without us have more than that.
    """
    if sys.platform != "win32":
        least, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        for enough in _ENOUGH:
            wanted = enough if most == resource.RLIM_INFINITY else min(enough, most)
            if least == resource.RLIM_INFINITY or wanted <= least:
                return
            with suppress(OSError, ValueError):
                resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))
                return
