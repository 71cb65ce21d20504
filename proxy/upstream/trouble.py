"""What stands between us and upstream, told from an exception or from an answer that upstream cannot have given.

Exceptions of both client libraries end up as chains with the socket's or OpenSSL's own at their root, which is
what is looked at; so both transports say the same.
"""

import errno
import re
import socket
import ssl
from collections.abc import Iterator

import aiohttp
from websockets.exceptions import InvalidProxyMessage, InvalidProxyStatus, ProxyError

from proxy.errors import Trouble

ADVICE = {
    Trouble.CAPTIVE_PORTAL: (
        "a page or a redirect came in place of upstream's answer: open a browser and sign in to the network "
        "(or check the setting upstream)"
    ),
    Trouble.OFFLINE: (
        "this machine is offline, or upstream's name cannot be looked up: check its network "
        "(or the setting upstream)"
    ),
    Trouble.UNREACHABLE: "upstream does not answer: it is down, or the network lets nothing through to it",
    Trouble.UNTRUSTED: (
        "its certificate is from an authority that is unknown here: if your organisation inspects connections, "
        "name its authority in ca_bundle or SSL_CERT_FILE; on a guest network, open a browser and sign in"
    ),
    Trouble.CLOCK: "its certificate is not valid today: check this machine's clock and date",
    Trouble.OUTBOUND_PROXY: "the outbound proxy did not connect: check HTTPS_PROXY, ALL_PROXY and NO_PROXY",
}

_NO_HTTP = "its answer is not valid HTTP: check whether another program listens at that address"

LOGIN_WANTED = "the outbound proxy wants a password (407): put it into its URL as http://user:password@host"

_DATES = frozenset({9, 10})
_NAMES = frozenset({62, 64})
"""OpenSSL's X509_V_ERR codes: not yet valid and expired; another host's name or address."""

_NO_TLS = frozenset({"HTTP_REQUEST", "RECORD_LAYER_FAILURE", "UNKNOWN_PROTOCOL", "WRONG_VERSION_NUMBER"})

_NO_NETWORK = frozenset({errno.ENETUNREACH, errno.ENETDOWN, errno.EHOSTUNREACH, errno.EADDRNOTAVAIL})

_NUMBERS = re.compile(r"\[(Errno|WinError) (\d+)\]")

_WINDOWS = {121: errno.ETIMEDOUT, 1225: errno.ECONNREFUSED, 1231: errno.ENETUNREACH, 1232: errno.EHOSTUNREACH}
"""What ConnectEx says in Windows' own numbers, such as ERROR_SEM_TIMEOUT; for Python they are EINVAL."""

_REDIRECTS = frozenset({300, 301, 302, 303, 307, 308})
_SIGN_IN = 511
"""Network Authentication Required (RFC 6585, section 6)."""


def trouble_of(error: BaseException) -> Trouble:
    """Say what *error*, raised on connecting, tells about the way to upstream."""
    for each in _chain(error):
        match each:
            case ssl.SSLCertVerificationError(verify_code=code):  # aiohttp's own has none
                return _of_certificate(code)
            case (
                InvalidProxyStatus()
                | InvalidProxyMessage()
                | ProxyError()
                | aiohttp.ClientHttpProxyError()
                | aiohttp.ClientProxyConnectionError()
            ):
                return Trouble.OUTBOUND_PROXY
            case ssl.SSLError() if _is_no_tls(each):
                return Trouble.CAPTIVE_PORTAL
            case socket.gaierror():
                return Trouble.OFFLINE
            case OSError() if errors_of(each) <= _NO_NETWORK:
                return Trouble.OFFLINE
    return Trouble.UNREACHABLE


def errors_of(error: OSError) -> frozenset[int | None]:
    """Return the numbers of *error*: where several addresses failed in several ways, its text alone has them."""
    told = _NUMBERS.findall(str(error))
    of_windows = {_WINDOWS.get(int(number), int(number)) for system, number in told if system == "WinError"}
    if of_windows:
        return frozenset(of_windows)
    if error.errno is None and told:
        return frozenset(int(number) for _, number in told)
    return frozenset({error.errno})


def advice(error: BaseException) -> str:
    """Return what a person can do about *error*, in one sentence without a URL or a credential."""
    for each in _chain(error):
        status = each.response.status_code if isinstance(each, InvalidProxyStatus) else getattr(each, "status", 0)
        if status == 407:
            return LOGIN_WANTED
        if trouble_of(error) is Trouble.OUTBOUND_PROXY and status:
            return f"the outbound proxy answered {status}: check HTTPS_PROXY, ALL_PROXY and NO_PROXY"
        if isinstance(each, aiohttp.ClientResponseError):
            return _NO_HTTP
    return ADVICE[trouble_of(error)]


def is_portal(status: int, *, is_page: bool, is_turn: bool) -> bool:
    """Whether an answer is a network's sign-in page: no API redirects a turn, or answers it with HTML.

    An error page keeps its meaning: gateways write theirs in HTML. What is no turn may be a page, or elsewhere.
    """
    return status == _SIGN_IN or (is_turn and is_page)


def is_page(status: int, content_type: str) -> bool | None:
    """Whether an answer may be anybody's, a web page or a redirect; None where only its body tells."""
    if status in _REDIRECTS:
        return True
    kind = content_type.lower().strip()
    if not 200 <= status < 300 or kind.startswith("text/event-stream"):
        return False
    if kind.startswith(("text/html", "application/xhtml")):
        return True
    return None if not kind or kind.startswith("text/") else False


def _of_certificate(code: int) -> Trouble:
    if code in _DATES:
        return Trouble.CLOCK
    return Trouble.CAPTIVE_PORTAL if code in _NAMES else Trouble.UNTRUSTED


def _is_no_tls(error: ssl.SSLError) -> bool:
    """Whether the other side spoke something else: a page in plain HTTP, most often."""
    return getattr(error, "reason", "") in _NO_TLS


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield *error* and what caused it, to the root; aiohttp keeps the root of some in an attribute."""
    seen: set[int] = set()
    todo: list[BaseException | None] = [error]
    while todo:
        each = todo.pop(0)
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        yield each
        inner = [getattr(each, name, None) for name in ("certificate_error", "os_error")]
        todo += [each.__cause__, each.__context__, *(one for one in inner if isinstance(one, BaseException))]
