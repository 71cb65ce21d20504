"""Where upstream is: one API base, as URLs for HTTP and for the WebSocket."""

import ipaddress
import ssl
from dataclasses import dataclass
from functools import cached_property

from yarl import URL


@dataclass(frozen=True)
class Endpoint:
    """The API base *base*, such as `https://api.openai.com/v1`, without a trailing slash.

    *tls* verifies upstream's certificate; None takes the system's certificate authorities.
    """

    base: str
    tls: ssl.SSLContext | None = None

    def http(self, path: str) -> URL:
        """Return the URL of *path*, which is kept to the byte: it begins with `/` and may carry a query."""
        return URL(self.base + path, encoded=True)

    def websocket(self, query: str = "") -> str:
        """Return the WebSocket URL of the Responses API, with the agent's *query* if it has one."""
        scheme, rest = self.base.split("://", 1)
        return f"{'wss' if scheme == 'https' else 'ws'}://{rest}/responses{'?' if query else ''}{query}"

    @cached_property
    def secure(self) -> bool:
        """Whether it is spoken to over TLS."""
        return not self.base.startswith("http://")

    @cached_property
    def ssl_context(self) -> ssl.SSLContext:
        """The context for both transports, so that both trust the same authorities."""
        return self.tls or ssl.create_default_context()

    @cached_property
    def is_loopback(self) -> bool:
        """Whether it is on this machine, where no outbound proxy stands in between."""
        host = URL(self.base).host or ""
        try:
            return ipaddress.ip_address(host).is_loopback
        except ValueError:
            return host == "localhost" or host.endswith(".localhost")
