"""Which outbound proxy stands between this machine and upstream: one answer for both transports.

The environment's variables count, in lower case before upper case, as in other programs: `https_proxy` or
`http_proxy` by upstream's scheme, else `all_proxy`; `no_proxy` excepts hosts. Without any of them, what the
operating system is set to.
"""

import ipaddress
from collections.abc import Callable, Mapping
from urllib.request import getproxies, proxy_bypass

from yarl import URL

from proxy.errors import BadConfiguration

_VARIABLES = ("http_proxy", "https_proxy", "all_proxy")


def outbound_proxy(
    url: URL,
    environ: Mapping[str, str],
    *,
    of_system: Callable[[], Mapping[str, str]] = getproxies,
    bypasses: Callable[[str], object] = proxy_bypass,
) -> str | None:
    """Return the URL of the proxy to reach *url* through, with its password if it has one; None for none.

    *of_system* and *bypasses* say what the operating system is set to. Raises BadConfiguration for a proxy that
    cannot be used; its message has no password.
    """
    host = url.host or ""
    if any(_variable(environ, name) for name in _VARIABLES):
        for name in (f"{url.scheme}_proxy", "all_proxy"):
            if value := _variable(environ, name):
                excepted = is_excepted(host, url.port or 0, _variable(environ, "no_proxy"))
                return None if excepted else _checked(value, name.upper())
        return None
    value = of_system().get(url.scheme, "")
    return _checked(value, "The system's settings") if value and not bypasses(host) else None


def is_excepted(host: str, port: int, exceptions: str) -> bool:
    """Whether *exceptions*, the text of NO_PROXY, except *host*.

    They are names, which stand for their subdomains too (with or without a leading dot or `*.`), addresses,
    networks such as `10.0.0.0/8`, each with a port or not, or `*` for everything.
    """
    host = host.lower().rstrip(".")
    return any(_excepts(entry, host, port) for entry in exceptions.replace(",", " ").lower().split())


def _excepts(entry: str, host: str, port: int) -> bool:
    if entry == "*":
        return True
    address = _address(host)
    network = _network(entry)
    if network is not None:
        return address is not None and address in network
    name, separator, its_port = entry.rpartition(":")
    if separator and its_port.isdecimal():
        entry = name
        if int(its_port) != port:
            return False
    network = _network(entry.strip("[]"))
    if network is not None:
        return address is not None and address in network
    name = entry.removeprefix("*").lstrip(".").rstrip(".")
    return bool(name) and (host == name or host.endswith(f".{name}"))


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        return None


def _variable(environ: Mapping[str, str], name: str) -> str:
    return (environ.get(name) or environ.get(name.upper()) or "").strip()


def _checked(value: str, source: str) -> str:
    if "://" not in value:
        value = f"http://{value}"
    try:
        url = URL(value)
        is_whole = bool(url.host) and url.port is not None
    except ValueError:
        raise BadConfiguration(f"{source} is not a URL such as http://proxy.example:3128") from None
    if url.scheme.startswith("socks"):
        raise BadConfiguration(
            f"{source} names a {url.scheme} proxy, and packlight speaks to HTTP proxies only: name one of those, "
            "or unset it"
        )
    if url.scheme not in {"http", "https"} or not is_whole:
        raise BadConfiguration(f"{source} is not the URL of an HTTP proxy, such as http://proxy.example:3128")
    if url.user is not None and url.password is None:
        url = url.with_password("")  # one of the libraries refuses a user without
    return str(url.origin().with_user(url.user).with_password(url.password))
