"""Whose fault it is.

PacklightError
├── BadConfiguration         the user's settings; says which key and how to mend it
└── UpstreamFault            the far side
    ├── UpstreamError        it answered, with an error: status, body and headers are its own words
    ├── UpstreamUnavailable  it could not be reached, or went away
    │   ├── Unreachable      nothing answered at all: the link is dark
    │   ├── NoWebSocket      it speaks HTTP but refused the upgrade
    │   └── ConnectionLost   a WebSocket that was open is gone
    │       └── UpstreamTimeout  it stayed silent for longer than a named limit
"""

from collections.abc import Mapping
from enum import StrEnum

TOO_BIG = 1009
"""The close code for what is larger than can be taken (RFC 6455, section 7.4.1)."""


REJECTIONS = frozenset({400, 404, 409, 422})
"""Statuses of an error that may lie in how a request is written, or in what it continues."""


class PacklightError(Exception):
    """Anything packlight raises on purpose."""


class BadConfiguration(PacklightError):
    """A setting is wrong; the message names the key and the fix."""


class UpstreamFault(PacklightError):
    """The far side's fault."""


class UpstreamError(UpstreamFault):
    """Upstream answered with an error before any output: *status*, *body* and *headers* go to the agent.

    *code* is the error's code in the API's words, where it has one. *is_vague* says that *status* is a guess.
    """

    def __init__(
        self, status: int, body: bytes, headers: Mapping[str, str], *, code: str = "", is_vague: bool = False
    ) -> None:
        super().__init__(f"upstream answered {status}")
        self.status = status
        self.body = body
        self.headers = dict(headers)
        self.code = code
        self.is_vague = is_vague


class Trouble(StrEnum):
    """What stands between us and upstream, as far as it can be told."""

    CAPTIVE_PORTAL = "captive_portal"
    OFFLINE = "offline"
    UNREACHABLE = "unreachable"
    UNTRUSTED = "untrusted_certificate"
    CLOCK = "certificate_dates"
    OUTBOUND_PROXY = "outbound_proxy"


class UpstreamUnavailable(UpstreamFault):
    """Upstream could not be reached, or went away; the message says what was seen, *trouble* what it means."""

    def __init__(self, message: str, *, trouble: Trouble = Trouble.UNREACHABLE) -> None:
        super().__init__(message)
        self.trouble = trouble


class Unreachable(UpstreamUnavailable):
    """Nobody answered where upstream is, for as long as was waited: plain HTTP would fare no better."""


class NoWebSocket(UpstreamUnavailable):
    """Upstream answered the upgrade with *status* and no WebSocket: plain HTTP is the way.

    *definite* is true where the status says that there is no WebSocket endpoint (404, 405, 426, 501), and
    false where that may pass (429), or anything between here and there may have answered instead (a captive
    portal, a gateway).
    """

    def __init__(self, status: int, *, definite: bool) -> None:
        super().__init__(f"upstream answered the WebSocket upgrade with {status}")
        self.status = status
        self.definite = definite


class ConnectionLost(UpstreamUnavailable):
    """A WebSocket closed under a turn; *code* is the close code that was seen (1006: none).

    *said* is upstream's own reason for closing: for the agent and for no log, since it may quote what was said.

    *sent* is false where upstream cannot hold the whole of the turn's message, since its end never left here:
    it may then be sent again without a doubt. Otherwise upstream may be answering it.
    """

    def __init__(self, message: str, *, code: int = 1006, sent: bool = True, said: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.sent = sent
        self.said = said


class UpstreamTimeout(ConnectionLost):
    """Upstream stayed silent for longer than the limit that the message names."""
