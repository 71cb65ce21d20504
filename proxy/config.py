"""Every setting, its default and its meaning: the one place where a limit or a default is written."""

import codecs
import difflib
import os
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from textwrap import wrap
from typing import Any, Literal, TypeAlias, get_args, get_origin, get_type_hints
from urllib.parse import urlsplit

import orjson
import platformdirs
from yarl import URL

from proxy.errors import BadConfiguration

OPENAI = "https://api.openai.com/v1"
SIMULATED = "simulated"
ENVIRONMENT = "PACKLIGHT_"
LARGEST = 1e15  # of any number: it keeps infinity out


def setting(default: Any, doc: str, *, least: float | None = None, most: float = LARGEST) -> Any:
    """Return a dataclass field whose *doc* line is shown by ``packlight config`` and the example file.

    A number lies between *least* and *most*; without *least* it is positive.
    """
    return field(default=default, metadata={"doc": doc, "least": least, "most": most})


@dataclass(frozen=True, slots=True)
class Config:
    """The effective settings of one proxy. Times are in seconds, sizes in bytes."""

    host: str = setting("127.0.0.1", "Address to listen on.")
    port: int = setting(8484, "Port to listen on; 0 takes a free one.", least=0, most=65535)
    upstream: str = setting(
        OPENAI, 'API base of the provider, such as "https://api.openai.com/v1"; "simulated" needs no key.'
    )
    log_format: Literal["console", "json"] = setting("console", "console or json; logs go to standard error.")
    log_level: Literal["debug", "info", "warning", "error"] = setting(
        "info", "debug, info, warning or error: the least severe level to log."
    )
    drain_seconds: float = setting(10.0, "On shutdown, how long turns in flight may take to finish.", least=0)

    ca_bundle: str = setting(
        "",
        "A file of PEM certificates to trust besides the system's, such as your organisation's own authority; ~ "
        "is your home.",
    )
    provider: Literal["auto", "openai", "xai"] = setting(
        "auto",
        "Whose rules upstream follows where they differ. auto: xAI's on a host of x.ai, else OpenAI's, as far as "
        "upstream shows no others. openai, xai: for a gateway in front of it. Behind one that is not named a new "
        "conversation gets a new connection, as some go on with whatever was said on one before.",
    )
    websocket: Literal["auto", "off"] = setting(
        "auto", "auto: deltas over a WebSocket where upstream has one. off: everything over plain HTTP."
    )
    chat_completions: Literal["translate", "pass-through"] = setting(
        "translate",
        "translate: Chat Completions become turns of the Responses API, deltas too. pass-through: they "
        "go over plain HTTP as they are, for an upstream whose two APIs differ in more than form.",
    )
    http_compression: Literal["auto", "off", "gzip", "zstd"] = setting(
        "auto",
        "What goes over plain HTTP. auto: turns of the Responses API in zstd where upstream takes it "
        "(api.openai.com, chatgpt.com), and answers in gzip where the agent asks for no encoding. gzip, zstd: "
        "turns of both APIs so for any upstream, until it refuses one. off: everything as the agent sends it.",
    )
    dropped_output: Literal["none", "reasoning", "any"] = setting(
        "reasoning",
        "Which of the model's output an agent may leave out of its history and still send a delta: none; its "
        "reasoning; or any, its messages too. Tool calls never.",
    )
    hoist: Literal["off", "auto", "on"] = setting(
        "off",
        "Tell upstream instructions and tools once per chain, as items, not with each turn. auto: for a model for "
        "which a probe (three small requests, once) found that both forms count the same. on: without a probe.",
    )
    obfuscation: Literal["agent", "off"] = setting(
        "agent",
        "off: where the agent does not say, ask for events without the random padding that hides their length "
        "from those who watch an encrypted connection.",
    )
    max_connections: int = setting(
        16, "WebSockets kept per upstream and credentials; each holds one conversation."
    )
    max_age_seconds: float = setting(
        3300.0,
        "Retire a WebSocket at this age, between turns, and at xAI at 1400. OpenAI and Azure close at 3600, xAI "
        "at 1500.",
    )
    idle_seconds: float = setting(1800.0, "Close a WebSocket that no turn has used for this long.")
    websocket_retry_seconds: float = setting(
        300.0,
        "For how long what upstream refused or failed at is not tried again: the upgrade, deltas, a translated "
        "request, a large message, a warm-up.",
    )
    ping_interval: float = setting(
        20.0,
        "Ping upstream this often, so that middleboxes keep the connection, and one that is gone is noticed in "
        "the middle of a turn. Over plain HTTP TCP's own probes do the former.",
    )
    probe_timeout: float = setting(
        5.0,
        "Longest wait for the pong that a connection owes after a long silence, where no new one can be had; and "
        "how long a TLS handshake may be silent before another begins beside it.",
    )
    stuck_timeout: float = setting(
        1.0,
        "How long upstream may acknowledge nothing of a turn before a new connection is opened beside its own; on "
        "a long link four round trips.",
    )
    link_timeout: float = setting(
        120.0, "While nothing answers where upstream is, how long a turn waits for the link to come back."
    )
    warm_up: Literal["off", "auto", "on"] = setting(
        "off",
        "Upload a conversation again in the background when its connection was lost, with generate: false, so "
        "that its next turn is a delta. It may be billed as input, and keeps each conversation's last request in "
        "memory. auto: where three small requests, once, show that upstream keeps what it is told. on: without.",
    )
    open_ahead: bool = setting(
        True,  # noqa: FBT003
        "Open a WebSocket before a conversation needs it: shortly before its own retires, after a loss, and where "
        "the agent broke off an answer. And one connection, TLS but no more, when packlight starts.",
    )
    open_timeout: float = setting(
        20.0,
        "Longest wait for the TLS and the upgrade of a WebSocket; through an outbound proxy for TCP too, which "
        "has link_timeout elsewhere.",
    )
    send_timeout: float = setting(120.0, "Longest time in which an upload may make no progress.")
    upload_lead: float = setting(
        2.0,
        "How much of an upload may queue ahead of the link, in seconds of its rate; answers to upstream's pings "
        "wait behind it.",
    )
    congestion: str = setting(
        "auto",
        "TCP congestion control of our end. auto: bbr where the system grants it, with which uploads are several "
        "times faster over links that lose packets. system: its own. Or the name of one (Linux: "
        "net.ipv4.tcp_allowed_congestion_control).",
    )
    ambiguous_retries: int = setting(
        2,
        "How often a turn is sent again that upstream may have got and not answered: first over a new WebSocket, "
        "then over HTTP. Each can cost a second generation; SDKs do the same twice.",
        least=0,
    )
    first_event_timeout: float = setting(
        600.0,
        "Longest wait for upstream's first event of a turn; over plain HTTP for its answer to begin, which one "
        "that is not streamed does at its end. An agent whose SDK says that it waits longer is waited for as "
        "long, up to half an hour, unless this is below the default.",
    )
    event_timeout: float = setting(
        600.0,
        "Longest silence between two events of a turn, or within its answer over plain HTTP; longer where the "
        "agent waits longer, as above.",
    )
    keepalive_after: float = setting(
        75.0,
        "A streaming agent that has had no answer for this long gets a status and a sign of life, so that its own "
        "timeout does not fire. Until then a failure is an HTTP status.",
    )
    keepalive_interval: float = setting(15.0, "Longest silence towards an agent after that.")
    close_timeout: float = setting(2.0, "Longest wait for upstream's half of a closing handshake.")
    connect_timeout: float = setting(20.0, "Longest wait for a plain HTTP connection to upstream.")
    body_timeout: float = setting(60.0, "Longest time in which an agent's request body may make no progress.")
    agent_timeout: float = setting(600.0, "Longest time in which an agent may take nothing of what it is sent.")

    max_message_bytes: int = setting(
        16_000_000, "Larger WebSocket messages go over HTTP instead; OpenAI closes above 16777216."
    )
    max_event_bytes: int = setting(
        64 * 1024 * 1024,
        "Largest single event accepted from upstream; the last one repeats the answer and the settings. A turn "
        "with a larger one goes over HTTP, or is broken off where some of it was shown.",
    )
    max_unread_bytes: int = setting(
        16 * 1024 * 1024,
        "Events kept for an agent that reads more slowly than upstream sends; beyond it the turn is broken off.",
    )
    max_body_bytes: int = setting(
        64 * 1024 * 1024,
        "Larger request bodies, as sent or once decoded, stream through over HTTP, undiffed.",
    )

    allow_remote: bool = setting(False, "Permit listening on an address other machines can reach.")  # noqa: FBT003
    allowed_hosts: tuple[str, ...] = setting(
        (), 'Further Host names to answer to besides loopback ones, such as "host.docker.internal".'
    )
    allowed_origins: tuple[str, ...] = setting(
        (),
        'Web origins whose pages may call and read answers, such as "vscode-webview://abc". None by default: no '
        "web page may.",
    )
    volatile_headers: tuple[str, ...] = setting(
        (), "Further request headers that change from request to request and do not tell credentials apart."
    )
    turns_kept: int = setting(1000, "How many recent turns /_packlight/turns remembers (figures only).", least=0)


DOCS: dict[str, str] = {each.name: each.metadata["doc"] for each in fields(Config)}
DEFAULTS: dict[str, Any] = {each.name: each.default for each in fields(Config)}

TYPES: dict[str, Any] = get_type_hints(Config)


@dataclass(frozen=True, slots=True)
class Loaded:
    """A valid configuration, and where each of its values came from.

    A source reads "default", "file PATH", "environment PACKLIGHT_X" or "flag --x".
    """

    config: Config
    sources: dict[str, str]


def load(*, file: Path | None, environ: Mapping[str, str], flags: Mapping[str, Any]) -> Loaded:
    """Merge defaults < file < environment < flags; BadConfiguration names the key, its place and the fix.

    Without *file* the one in the platform's configuration directory is read, if there is one. A flag that is
    None was not given.
    """
    values: dict[str, Any] = {}
    sources = dict.fromkeys(DOCS, "default")
    for name, value, source in (*_in_file(file), *_in_environment(environ), *_in_flags(flags)):
        if name not in DOCS:
            fix = _AT_THE_TOP if isinstance(value, dict) else _nearest(name)
            raise BadConfiguration(f"{_spelled(name, source)} is not a setting{fix}")
        values[name] = _checked(name, value, source)
        sources[name] = source
    config = Config(**values)
    _check_together(config, sources)
    return Loaded(config, sources)


def default_file() -> Path | None:
    """Return where this platform keeps packlight's configuration file, whether or not it exists.

    None is nowhere: in a container or under a service manager a user may have no home.
    """
    try:
        return platformdirs.user_config_path("packlight", appauthor=False) / "config.toml"
    except RuntimeError:
        return None


def is_loopback(host: str) -> bool:
    """Tell whether only this machine can reach *host*; a name other than localhost counts as remote."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def example() -> str:
    """Return the text of ``config.example.toml``: every setting at its default, commented out."""
    paragraphs = [
        "# packlight's settings, each with its meaning and its default. Remove a # to change one.",
        "# `packlight config` prints what is in effect and where it came from, and where this file goes.",
        "",
    ]
    for name, doc in DOCS.items():
        paragraphs += [f"# {line}" for line in wrap(doc, 106)]
        paragraphs += [f"#{name} = {toml(DEFAULTS[name])}", ""]
    return "\n".join(paragraphs)


def toml(value: Any) -> str:
    """Return *value* as TOML spells it."""
    match value:
        case bool():
            return str(value).lower()
        case int():
            return f"{value:_}" if value >= 100_000 else str(value)
        case tuple():
            return f"[{', '.join(map(toml, value))}]"
        case str():
            return orjson.dumps(value).decode()
        case _:
            return str(value)


# Where values come from: (name, value, source), in the order in which they are applied.

Found = Iterator[tuple[str, Any, str]]


def _in_file(file: Path | None) -> Found:
    path = file or default_file()
    if path is None:
        return
    try:
        values = tomllib.loads(_decoded(path.read_bytes()))
    except (FileNotFoundError, NotADirectoryError):  # the latter where a service's home is /dev/null
        if file is None:
            return
        raise BadConfiguration(f"config: there is no file {path}; create it or drop --config") from None
    except OSError as exc:
        raise BadConfiguration(f"config: cannot read {path}: {exc.strerror}; {_ANOTHER}") from exc
    except UnicodeDecodeError as exc:
        raise BadConfiguration(f"config: {path} is not in UTF-8: save it as UTF-8, or {_ANOTHER}") from exc
    except (ValueError, RecursionError) as exc:
        raise BadConfiguration(f"config: {path} is not valid TOML: {exc}; mend it, or {_ANOTHER}") from exc
    for name, value in values.items():
        yield name, value, f"file {path}"


_ANOTHER = "name another file with --config"


def _decoded(data: bytes) -> str:
    """Return the text of a file: Windows editors write a byte order mark, and Windows PowerShell's `>` UTF-16."""
    is_utf16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return data.decode("utf-16" if is_utf16 else "utf-8-sig")


def _in_environment(environ: Mapping[str, str]) -> Found:
    for variable, text in sorted(environ.items()):
        if variable.startswith(ENVIRONMENT):
            name = variable.removeprefix(ENVIRONMENT).lower()
            yield name, _from_text(TYPES.get(name), text), f"environment {variable}"


def _in_flags(flags: Mapping[str, Any]) -> Found:
    for name, value in flags.items():
        if value is not None:
            yield name, value, f"flag --{name.replace('_', '-')}"


def _from_text(kind: Any, text: str) -> Any:
    """Return the value of type *kind* that *text* spells, or else *text* itself, for the check to refuse."""
    if get_origin(kind) is tuple:
        return [part.strip() for part in text.split(",") if part.strip()]
    if kind is bool:
        return {"true": True, "1": True, "false": False, "0": False}.get(text.strip().lower(), text)
    if kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            return text
    return text


# What values may be.


def _checked(name: str, value: Any, source: str) -> Any:
    """Return *value* as the setting's type has it."""
    where = f"{name} ({source})"
    kind = TYPES[name]
    if get_origin(kind) is Literal:
        return _choice(where, value, get_args(kind))
    value = {int: _number, float: _number, bool: _truth, str: _text}.get(kind, _texts)(where, value, name)
    return _FURTHER_CHECKS[name](where, value) if name in _FURTHER_CHECKS else value


def _choice(where: str, value: Any, choices: tuple[str, ...]) -> str:
    chosen = value.lower() if isinstance(value, str) else value
    if chosen not in choices:
        raise BadConfiguration(f"{where} must be {' or '.join(choices)}, not {_shown(value)}")
    return str(chosen)


def _number(where: str, value: Any, name: str) -> float:
    whole = TYPES[name] is int
    least, most = _LIMITS[name]
    allowed = (int,) if whole else (int, float)
    in_range = (
        type(value) in allowed  # a bool is an int to isinstance
        and (value > 0 if least is None else value >= least)  # false for nan
        and value <= most
    )
    if not in_range:
        kind = "a whole number" if whole else "a number"
        lower = "above 0" if least is None else f"of at least {least:g}"
        upper = f" and at most {most:g}" if most != LARGEST or (type(value) in allowed and value > most) else ""
        raise BadConfiguration(f"{where} must be {kind} {lower}{upper}, not {_shown(value)}")
    return value if whole else float(value)


def _truth(where: str, value: Any, _name: str) -> bool:
    if not isinstance(value, bool):
        raise BadConfiguration(f"{where} must be true or false, not {_shown(value)}")
    return value


def _text(where: str, value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise BadConfiguration(f"{where} must be text in quotes, not {_shown(value)}")
    if name == "ca_bundle" and value.isprintable():
        return value
    if not value or not value.isprintable() or " " in value:
        raise BadConfiguration(f"{where} must not be empty or contain spaces or control characters")
    return value


def _texts(where: str, value: Any, name: str) -> tuple[str, ...]:
    if not isinstance(value, list | tuple):
        raise BadConfiguration(f'{where} must be a list such as ["a", "b"], not {_shown(value)}')
    return tuple(_text(where, each, name) for each in value)


def _host(where: str, value: str) -> str:
    host = value.removeprefix("[").removesuffix("]")
    if "/" in host or (":" in host and not _is_address(host)):
        raise BadConfiguration(f'{where} must be an address alone, such as "127.0.0.1"; the port goes to "port"')
    return host


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _upstream(where: str, value: str) -> str:
    """Return the API base without a trailing slash; messages never repeat it, for it may hold a password."""
    if value == SIMULATED:
        return value
    base = value.rstrip("/")
    must = f'{where} must be "{SIMULATED}" or a URL such as "{OPENAI}"'
    try:
        url = urlsplit(base)
        host = URL(base).host or ""  # the library that connects reads it otherwise than Python's own
        valid = url.scheme in ("http", "https") and bool(host and url.hostname) and url.port != 0
    except ValueError:
        valid = False
    if not valid:
        raise BadConfiguration(f"{must}, with http:// or https://, a host, and a port from 1 to 65535 if any")
    if _NUMBERS.fullmatch(host) and not _is_address(host):
        raise BadConfiguration(f"{must}, with a name, or an address of four numbers")
    if "@" in url.netloc:
        raise BadConfiguration(f"{must}, without a user name or password: the agent's own key is passed on")
    if "?" in base or "#" in base:
        raise BadConfiguration(f"{must}, without a query (?) or fragment (#)")
    for path in ("/responses", "/chat/completions"):
        if base.endswith(path):
            raise BadConfiguration(f"{must}: the API base, without {path}")
    return f"{url.scheme}://{url.netloc.lower()}{base.split('://', 1)[1].removeprefix(url.netloc)}"


def _hosts(where: str, value: tuple[str, ...]) -> tuple[str, ...]:
    names = tuple(each.lower().removeprefix("[").removesuffix("]") for each in value)
    if any("/" in each or "*" in each or (":" in each and not _is_address(each)) for each in names):
        raise BadConfiguration(
            f'{where} must be host names alone, such as "host.docker.internal", without a port or a *'
        )
    return names


def _origins(where: str, value: tuple[str, ...]) -> tuple[str, ...]:
    if any("*" in each or "://" not in each or "/" in each.partition("://")[2] for each in value):
        raise BadConfiguration(f'{where} must be origins such as "https://example.org", without a path or a *')
    return tuple(each.lower() for each in value)


def _header_names(where: str, value: tuple[str, ...]) -> tuple[str, ...]:
    if not all(_HEADER_NAME.fullmatch(each) for each in value):
        raise BadConfiguration(f'{where} must be names of headers alone, such as "x-trace-id"')
    return value


def _path(_where: str, value: str) -> str:
    """Return *value* with its ~ written out, which no shell did in a file."""
    return os.path.expanduser(value)  # noqa: PTH111  (leaves it where there is no home)


_NUMBERS = re.compile(r"[0-9.]+")

_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


_LIMITS: dict[str, tuple[float | None, float]] = {
    each.name: (each.metadata["least"], each.metadata["most"]) for each in fields(Config)
}
"""The least and the most that a number may be, by the setting's name; None for the least is anything above 0."""

_FURTHER_CHECKS: dict[str, Callable[[str, Any], Any]] = {
    "host": _host,
    "upstream": _upstream,
    "ca_bundle": _path,
    "allowed_hosts": _hosts,
    "allowed_origins": _origins,
    "volatile_headers": _header_names,
}
"""What is asked of some settings beyond their type, by name; each returns the value as it is used."""


_PORTS = {"http": 80, "https": 443}


def _check_together(config: Config, sources: Mapping[str, str]) -> None:
    if not config.allow_remote and not is_loopback(config.host):
        raise BadConfiguration(
            f"host ({sources['host']}) is {_shown(config.host)}, which other machines can reach: "
            "use 127.0.0.1, or set allow_remote (--allow-remote) if they shall"
        )
    if config.upstream != SIMULATED:
        url = urlsplit(config.upstream)
        port = url.port or _PORTS[url.scheme]
        if port == config.port and _meet(url.hostname or "", config.host):
            raise BadConfiguration(
                f"upstream ({sources['upstream']}) is packlight's own address: "
                f"give the provider's, such as {OPENAI}"
            )


_Address: TypeAlias = IPv4Address | IPv6Address

_LOOPBACK: dict[int, _Address] = {4: IPv4Address("127.0.0.1"), 6: IPv6Address("::1")}
"""By IP version: what localhost is, and where a connection to no address in particular leads."""


def _meet(upstream: str, host: str) -> bool:
    """Tell whether a connection to *upstream* may lead to *host*, as far as can be told without a lookup."""
    listening = _addresses(host)
    for address in _addresses(upstream):
        there = _LOOPBACK[address.version] if address.is_unspecified else address
        if there in listening or (there.is_loopback and _everywhere(there) in listening):
            return True
    return upstream == host.lower()


def _addresses(host: str) -> frozenset[_Address]:
    """Return the addresses that *host* stands for; none where it is a name that has to be looked up."""
    try:
        address = ip_address(host)
    except ValueError:
        is_local = f".{host.lower().rstrip('.')}".endswith(".localhost")
        return frozenset(_LOOPBACK.values() if is_local else ())
    return frozenset([(isinstance(address, IPv6Address) and address.ipv4_mapped) or address])


def _everywhere(address: _Address) -> _Address:
    """Return what listens on *address* and all others of its version."""
    return type(address)(0)


# How messages put it.


def _shown(value: Any) -> str:
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # of thousands of digits, or as many tables within one another
        return "that"
    return text if len(text) <= 40 else f"{text[:40]}..."


def _spelled(name: str, source: str) -> str:
    return source if source.startswith(("environment", "flag")) else f"{_shown(name)} ({source})"


_AT_THE_TOP = ": settings stand at the top of the file, in no [table]"


def _nearest(name: str) -> str:
    near = difflib.get_close_matches(name, DOCS, n=1)
    return f"; did you mean {near[0]}?" if near else "; `packlight config` lists them all"
