"""Which congestion control our end's TCP has, where the system lets a program choose.

The usual ones take each loss for a full queue; on a link that loses packets by itself an upload then crawls.
"""

import socket

SYSTEM, AUTO = "system", "auto"
"""The system's own, and the best one where it is granted."""

_BEST = "bbr"
"""It goes by rate and round trip."""


def control(sock: socket.socket, name: str) -> bool:
    """Have *sock* use the control *name*, which may be SYSTEM or AUTO; return whether it does."""
    if name == SYSTEM:
        return True
    if not hasattr(socket, "TCP_CONGESTION"):
        return False
    wanted = _BEST if name == AUTO else name
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, wanted.encode())
    except OSError:  # unknown here, or for administrators only
        return False
    return True


def is_granted(name: str) -> bool:
    """Whether this system grants the control *name* to programs like this one."""
    with socket.socket() as probe:
        return control(probe, name)
