"""Every setting, its default and its meaning: the one place where a limit or a default is written."""

from dataclasses import dataclass, field, fields
from typing import Any, Literal

OPENAI = "https://api.openai.com/v1"
SIMULATED = "simulated"


def setting(default: Any, doc: str) -> Any:
    """Return a dataclass field whose *doc* line is shown by ``packlight config`` and the example file."""
    return field(default=default, metadata={"doc": doc})


@dataclass(frozen=True, slots=True)
class Config:
    """The effective settings of one proxy. Times are in seconds, sizes in bytes."""

    host: str = setting("127.0.0.1", "Address to listen on.")
    port: int = setting(8484, "Port to listen on; 0 takes a free one.")
    upstream: str = setting(
        OPENAI, 'API base of the provider, such as "https://api.openai.com/v1"; "simulated" needs no key.'
    )
    log_format: Literal["console", "json"] = setting("console", "console or json; logs go to standard error.")
    log_level: Literal["debug", "info", "warning", "error"] = setting("info", "Least severe level to log.")
    drain_seconds: float = setting(10.0, "On shutdown, how long turns in flight may take to finish.")

    websocket: Literal["auto", "off"] = setting(
        "auto", "auto: deltas over a WebSocket where upstream has one. off: everything over plain HTTP."
    )
    dropped_output: Literal["none", "reasoning", "any"] = setting(
        "reasoning",
        "Which of the model's output an agent may leave out of its history and still send a delta: none; its "
        "reasoning; or any, its messages too. Tool calls never.",
    )
    max_connections: int = setting(16, "WebSockets kept per upstream and credentials; each holds one conversation.")
    max_age_seconds: float = setting(
        3300.0, "Retire a WebSocket at this age, between turns. OpenAI and Azure close at 3600, xAI at 1500."
    )
    idle_seconds: float = setting(1800.0, "Close a WebSocket that no turn has used for this long.")
    websocket_retry_seconds: float = setting(
        300.0, "After upstream refused the upgrade, use plain HTTP for this long before asking again."
    )
    ping_interval: float = setting(20.0, "Ping upstream this often, so that middleboxes keep the connection.")
    open_timeout: float = setting(20.0, "Longest wait for a WebSocket to open (TCP, TLS and upgrade).")
    send_timeout: float = setting(120.0, "Longest time in which an upload may make no progress.")
    first_event_timeout: float = setting(600.0, "Longest wait for upstream's first event of a turn.")
    event_timeout: float = setting(600.0, "Longest silence between two events of a turn.")
    close_timeout: float = setting(2.0, "Longest wait for upstream's half of a closing handshake.")
    connect_timeout: float = setting(20.0, "Longest wait for a plain HTTP connection to upstream.")
    body_timeout: float = setting(60.0, "Longest time in which an agent's request body may make no progress.")

    max_message_bytes: int = setting(
        16_000_000, "Larger WebSocket messages go over HTTP instead; OpenAI closes above 16777216."
    )
    max_event_bytes: int = setting(64 * 1024 * 1024, "Largest single event accepted from upstream.")
    max_body_bytes: int = setting(
        64 * 1024 * 1024, "Larger request bodies, as sent or once decoded, stream through over HTTP, undiffed."
    )

    allow_remote: bool = setting(False, "Permit listening on an address other machines can reach.")  # noqa: FBT003
    allowed_hosts: tuple[str, ...] = setting(
        (), 'Further Host names to answer to besides loopback ones, such as "host.docker.internal".'
    )
    allowed_origins: tuple[str, ...] = setting(
        (), 'Web origins that may call, such as "vscode-webview://abc". None by default: no web page may.'
    )
    volatile_headers: tuple[str, ...] = setting(
        (), "Further request headers that change from request to request and do not tell credentials apart."
    )
    turns_kept: int = setting(1000, "How many recent turns /_packlight/turns remembers (figures only).")


DOCS: dict[str, str] = {each.name: each.metadata["doc"] for each in fields(Config)}
