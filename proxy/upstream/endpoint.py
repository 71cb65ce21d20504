"""Where upstream is: one API base, as URLs for HTTP and for the WebSocket."""

import ipaddress
import os
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from yarl import URL

from proxy.errors import BadConfiguration
from proxy.upstream.outbound import outbound_proxy
from proxy.upstream.tickets import remember_tickets

_PLACES = ("/etc/ssl/cert.pem", "/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt")
"""Where systems keep their certificate authorities in one file; the first is macOS's."""


def system_authorities(known: ssl.DefaultVerifyPaths, places: Sequence[str] = _PLACES) -> str | None:
    """Return which of *places* has the system's authorities, where *known*, what Python was built with, has none.

    That of python.org for macOS has none until a command was run. A file that the user names is the user's word.
    """
    if known.cafile or known.capath or {known.openssl_cafile_env, known.openssl_capath_env} & os.environ.keys():
        return None
    return next((each for each in places if Path(each).is_file()), None)


@dataclass(frozen=True)
class Endpoint:
    """The API base *base*, such as `https://api.openai.com/v1`, without a trailing slash.

    *tls* verifies upstream's certificate; None takes the system's certificate authorities, or those of
    SSL_CERT_FILE and SSL_CERT_DIR, and adds those in the file *ca_bundle*.
    """

    base: str
    tls: ssl.SSLContext | None = None
    ca_bundle: str = ""

    def http(self, path: str) -> URL:
        """Return the URL of *path*, which is kept to the byte: it begins with `/` and may carry a query."""
        return URL(self.base + path, encoded=True)

    def websocket(self, query: str = "") -> str:
        """Return the WebSocket URL of the Responses API, with the agent's *query* if it has one."""
        scheme, rest = self.base.split("://", 1)
        return f"{'wss' if scheme == 'https' else 'ws'}://{rest}/responses{'?' if query else ''}{query}"

    @property
    def host(self) -> str:
        """Upstream's name, in lower case."""
        return (URL(self.base).host or "").lower()

    @cached_property
    def secure(self) -> bool:
        """Whether it is spoken to over TLS."""
        return not self.base.startswith("http://")

    @cached_property
    def ssl_context(self) -> ssl.SSLContext:
        """The context for both transports, so that both trust the same authorities and resume each other's TLS.

        Raises BadConfiguration where ca_bundle cannot be read.
        """
        context = self.tls or self._trusting()
        remember_tickets(context)
        return context

    def _trusting(self) -> ssl.SSLContext:
        context = ssl.create_default_context()
        # From Python 3.13 on it is strict about RFC 5280, to which authorities of organisations often do not keep.
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        place = system_authorities(ssl.get_default_verify_paths())
        if place is not None and not context.cert_store_stats()["x509_ca"]:  # Windows has a store, and no places
            context.load_verify_locations(place)
        if self.ca_bundle:
            try:
                context.load_verify_locations(self.ca_bundle)
            except OSError as exc:  # ssl.SSLError is one
                raise BadConfiguration(
                    f"ca_bundle: {self.ca_bundle} is not a file of PEM certificates: name one, or leave it empty"
                ) from exc
        return context

    @cached_property
    def outbound_proxy(self) -> str | None:
        """The URL of the proxy that both transports go through. Raises BadConfiguration for an unusable one."""
        return None if self.is_loopback else outbound_proxy(URL(self.base), os.environ)

    @cached_property
    def is_loopback(self) -> bool:
        """Whether it is on this machine, where no outbound proxy stands in between."""
        host = URL(self.base).host or ""
        try:
            return ipaddress.ip_address(host).is_loopback
        except ValueError:
            return host == "localhost" or host.endswith(".localhost")
