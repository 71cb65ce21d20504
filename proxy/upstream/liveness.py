"""Whether a connection is alive, from what it shows: decided here, looked at elsewhere.

That a write succeeds proves nothing. A connection whose link was dark is stuck for most of an outage's length
after its end, and one whose address has changed for good; a machine that slept does not notice how long.
"""

import errno
import socket
from dataclasses import dataclass
from datetime import UTC, datetime
from time import monotonic

_PINGS_MISSED = 1.5
"""Silence, in intervals between pings, after which a connection is suspected: pongs should have come."""

_ROUND_TRIPS = 4
"""How many round trips an acknowledgement may take: one, and room for a loss."""

_NAP = 5.0
"""Seconds by which the time of day has to run ahead for a sleep; less is a clock being set right."""


@dataclass(frozen=True, slots=True)
class Signs:
    """What a connection shows. Times in seconds.

    *silent*: since upstream was last heard. *owing*: whether it has not acknowledged what was sent, and *stuck*
    for how long it has acknowledged nothing. *slept*: for how long this machine did, since upstream was heard.
    *moved*: whether the address that the connection speaks from is not this machine's any more. *round_trip*: the
    shortest time in which upstream was seen to answer. *invested*: how long the turn's upload went on before it
    got stuck, all of which a new connection would have to do again.
    """

    silent: float = 0.0
    owing: bool = False
    stuck: float = 0.0
    slept: float = 0.0
    moved: bool = False
    round_trip: float = 0.0
    invested: float = 0.0


def is_doubtful(signs: Signs, *, ping_interval: float) -> bool:
    """Whether an idle connection should prove a pong before it carries a turn."""
    return signs.moved or signs.owing or signs.slept > _NAP or signs.silent > _PINGS_MISSED * ping_interval


def is_merely_silent(signs: Signs) -> bool:
    """Whether a connection that gave no pong may have been forgotten for its silence: nothing else explains it.

    What is sent on such a connection may be acknowledged all the same, by something nearer than what forgot it.
    """
    return not (signs.moved or signs.owing or signs.slept > _NAP)


def is_stuck(signs: Signs, *, stuck_timeout: float) -> bool:
    """Whether a new connection should be opened beside one that carries a turn."""
    return signs.moved or (
        signs.owing and signs.stuck > max(patience(signs.round_trip, stuck_timeout), signs.invested)
    )


def patience(round_trip: float, least: float) -> float:
    """Return for how many seconds an answer that takes a *round_trip* is waited for, *least* at the least."""
    return max(least, _ROUND_TRIPS * round_trip)


def lag() -> float:
    """Return by how much the time of day is ahead of the clock that stops while the machine sleeps, in seconds."""
    return datetime.now(UTC).timestamp() - monotonic()


def has_moved(sock: socket.socket) -> bool:
    """Whether the address that *sock* speaks from is no longer this machine's."""
    try:
        host, _, *scope = sock.getsockname()
        with socket.socket(sock.family, socket.SOCK_DGRAM) as probe:
            probe.bind((host, 0, *scope))
    except OSError as exc:
        return exc.errno == errno.EADDRNOTAVAIL
    return False
