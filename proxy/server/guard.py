"""Who may talk to us: programs on this machine, and no web page.

A page in the user's browser can send requests to loopback addresses, and by rebinding its own name to one it
can read the answers too. Both show in headers that browsers set and pages cannot forge. Everything is decided
before a body is read.
"""

import ipaddress
from dataclasses import dataclass

from aiohttp import web
from yarl import URL

_NO_METHODS = frozenset({"CONNECT", "TRACE"})
_OTHER_SITES = frozenset({"cross-site", "same-site"})
_METHOD, _HEADERS = "Access-Control-Request-Method", "Access-Control-Request-Headers"
_PRIVATE = "Access-Control-Request-Private-Network"


@dataclass(frozen=True, slots=True)
class Guard:
    """The rules: further Host names and web origins to allow, and whether other machines may call."""

    allowed_hosts: tuple[str, ...] = ()
    allowed_origins: tuple[str, ...] = ()
    allow_remote: bool = False

    def refusal(self, request: web.BaseRequest) -> tuple[int, str] | None:
        """Return the status and the reason to refuse *request* with, or None to let it in."""
        if request.method in _NO_METHODS or not request.raw_path.startswith("/"):
            return 400, "requests go to its own upstream only; it is not a general proxy."
        hosts = request.headers.getall("Host", [])
        if len(hosts) != 1 or not self._is_host_allowed(hosts[0]):
            return 403, 'This Host name is not known here. Use http://127.0.0.1, or list it under "allowed_hosts".'
        if request.headers.get("Transfer-Encoding", "chunked").strip().lower() != "chunked":
            return 501, "a body may be sent chunked or with its Content-Length, and in no other transfer coding."
        origins = request.headers.getall("Origin", [])
        if any(origin.lower() not in self.allowed_origins for origin in origins):
            return 403, 'Web pages may not call packlight. To permit one, list its origin under "allowed_origins".'
        if not origins and request.headers.get("Sec-Fetch-Site", "").lower() in _OTHER_SITES:
            return 403, "Web pages of other sites may not call packlight."
        return None

    def consent(self, request: web.BaseRequest) -> dict[str, str]:
        """Return the headers that let the page of an allowed origin read the answer to *request* (CORS)."""
        origin = request.headers.get("Origin", "")
        if origin.lower() not in self.allowed_origins:
            return {}
        return {"Access-Control-Allow-Origin": origin, "Access-Control-Expose-Headers": "*"}

    async def prepare(self, request: web.BaseRequest, response: web.StreamResponse) -> None:
        """Say in a *response* that is about to begin whether a page may read it."""
        if given := self.consent(request):
            response.headers.update(given)
            response.headers.add("Vary", "Origin")

    def preflight(self, request: web.BaseRequest) -> web.Response | None:
        """Return the answer where a browser asks whether the page of an allowed origin may send a request.

        Upstream is not asked: the page calls us.
        """
        asked = request.headers
        if request.method != "OPTIONS" or _METHOD not in asked or not self.consent(request):
            return None
        granted = {"Access-Control-Allow-Methods": asked[_METHOD], "Access-Control-Max-Age": "600"}
        if _HEADERS in asked:
            granted["Access-Control-Allow-Headers"] = asked[_HEADERS]
        if _PRIVATE in asked:
            granted["Access-Control-Allow-Private-Network"] = "true"
        return web.Response(status=204, headers=granted)

    def _is_host_allowed(self, header: str) -> bool:
        """Judge a Host header. A rebound name is never an address, so addresses are as safe as we are."""
        if any(char in header for char in "/@?#\\ "):
            return False
        try:
            host = (URL(f"http://{header}").host or "").lower()
        except ValueError:
            return False
        if host in self.allowed_hosts or host == "localhost" or host.endswith(".localhost"):
            return True
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            return False
        return address.is_loopback or self.allow_remote
