"""TLS tickets: what lets a second connection to a host do without the host's certificates.

Those are most of what a handshake brings down, and on a lossy link each of their packets may cost a round trip.
A ticket belongs to one context and one name, so it stands for a host that this context verified. One that
upstream does not take makes for a handshake as without it.
"""

import ssl
from typing import Any, ClassVar


class _Remembering(ssl.SSLObject):
    """A client's TLS that shows the last ticket of its host, and keeps the one it is given.

    A ticket is shown once (RFC 8446, appendix C.4): where the handshake fails, the next one is whole.
    """

    _tickets: ClassVar[dict[str, ssl.SSLSession]]
    _begun = _kept = False

    def do_handshake(self) -> None:
        """Begin or go on with the handshake."""
        if not self._begun:
            self._begun = True
            ticket = self._tickets.pop(self.server_hostname or "", None)
            if ticket is not None:
                self.session = ticket
        super().do_handshake()

    def read(self, len: int = 1024, buffer: Any = None) -> Any:  # noqa: A002  the library's name
        """Read; with the first data the tickets are there, which TLS 1.3 sends behind the handshake."""
        data = super().read(len, buffer)
        if not self._kept:
            self._kept = True
            session = self.session
            if session is not None and session.has_ticket:
                self._tickets[self.server_hostname or ""] = session
        return data


def remember_tickets(context: ssl.SSLContext) -> None:
    """Have the client connections that are made with *context* from now on resume earlier ones to their host."""
    context.sslobject_class = type("Remembering", (_Remembering,), {"_tickets": {}})
