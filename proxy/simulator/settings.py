"""Settings: how the simulated upstream behaves; any of them may be changed while it runs."""

from dataclasses import dataclass, field
from typing import Literal

from proxy.simulator.citizens import CITIZENS, CachePolicy, Citizen, CitizenName

Deflate = Literal["off", "15", "12", "no_takeover"]
ErrorShape = Literal["nested", "flat", "response_failed", "codeless", "pretty", "detail"]
AdditionalTools = Literal["read", "refused", "dearer", "forgotten"]
ExtraEvent = Literal[
    "keepalive_before_created",
    "rate_limits_before_created",
    "unknown_before_created",
    "keepalive_mid_stream",
    "unknown_mid_stream",
    "trailing",
]
MEBIBYTE = 1024 * 1024


@dataclass(slots=True, kw_only=True)
class SimulatorSettings:
    """Every knob, with the default that the documents (or, where they are silent, the reports) describe."""

    seed: int = 0
    """Ids, ciphertext and padding follow from it."""
    citizen: CitizenName = "openai"
    """Which server to imitate."""

    keep_records: int | None = None
    """How many turns, connections and requests are kept to be looked at, the latest; None: all, for tests."""

    # Who may ask, and what for
    require_key: bool = True
    """Answer 401 to requests without ``Authorization: Bearer``."""
    api_keys: tuple[str, ...] = ()
    """The keys that are accepted; empty: any."""
    strict_fields: bool = True
    """Answer 400 to top-level parameters that the documents don't list."""
    reject_nulls: bool = False
    """Answer 400 to top-level parameters that are explicitly null."""
    refuse_duplicates: bool = True
    """Answer 400 where an item's id occurs twice in a context."""
    refused_fields: tuple[str, ...] = ()
    """Top-level parameters that are answered with 400 over a WebSocket, though the documents list them."""
    additional_tools: AdditionalTools = "read"
    """What becomes of such items: read like the tools of a request, refused, read as more tokens than those, or
    forgotten by the next turn of their chain."""
    context_limit_tokens: int | None = None
    """Above it, ``context_length_exceeded``."""
    max_body_bytes: int | None = None
    """HTTP bodies over it get 413."""
    accepted_encodings: tuple[str, ...] = ("gzip", "deflate", "br", "zstd")
    """Request Content-Encodings that are understood; others get *encoding_status*."""
    encoding_status: int = 415
    compressed_answers: bool = False
    """Turns over HTTP are answered in gzip where the request allows that."""
    models: tuple[str, ...] = ("gpt-5.5", "gpt-5.6-sol", "gpt-5-mini")
    """What ``GET /v1/models`` lists; any model is accepted."""

    # What it remembers
    cache: CachePolicy | None = None
    """What a connection remembers; None: what the citizen does."""
    hydrate: bool = True
    """Stored responses are found from any connection, as the documents say."""

    # The WebSocket
    refuse_upgrade: int | None = None
    """Answer every upgrade with this status, for servers without WebSocket (426, 404, 405, 501)."""
    required_beta: str | None = None
    """A value that ``OpenAI-Beta`` must contain on the upgrade."""
    handshake_seconds: float = 0
    """How long the upgrade takes to be answered."""
    handshake_headers: dict[str, str] = field(default_factory=dict)
    """Further headers on the 101."""
    deflate: Deflate = "15"
    """permessage-deflate: refused, 15-bit or 12-bit windows, or without context takeover."""
    ping_interval: float | None = 20
    ping_timeout: float | None = 20
    """Close 1011 when a pong is later than this."""
    close_timeout: float = 10
    """How long the other side's close frame is waited for."""
    max_message_bytes: int | None = 16 * MEBIBYTE
    """Close 1009 above it."""
    age_limit_seconds: float | None = None
    """How old a connection may get; None: what the citizen does."""
    close_at_age_limit: bool = False
    """Also close the connection, right after the error event."""
    silent_after_idle_seconds: float | None = None
    """Idle connections die without a word after this long."""
    max_lanes: int = 32
    max_in_flight: int = 16

    # What events look like
    error_shape: ErrorShape = "nested"
    """How an error reads on the WebSocket."""
    terminal_output: Literal["full", "empty", "omitted", "done"] = "full"
    """The ``output`` of ``response.completed``.

    ``done``: over a WebSocket ``response.done`` stands for that, with an id and the usage alone, as ChatGPT's
    servers were seen to end (digitallyinduced/haskell-agent#316).
    """
    terminal_ciphertext: Literal["same", "different"] = "same"
    """Whether ``encrypted_content`` in the terminal event equals the one in ``output_item.done``."""
    repeat_settings: bool = True
    """Responses repeat the request's instructions and tools."""
    extra_events: tuple[ExtraEvent, ...] = ()
    trailing_seconds: float = 0.1
    """When the ``trailing`` extra event follows ``response.completed``."""
    first_event_seconds: float = 0
    """Added to each output's own delay before ``response.created``."""
    event_seconds: float = 0
    """Added to each output's own delay before each later event."""

    # The link
    uplink_bytes_per_second: float | None = None
    downlink_bytes_per_second: float | None = None

    @property
    def traits(self) -> Citizen:
        """The citizen being imitated."""
        return CITIZENS[self.citizen]

    @property
    def cache_policy(self) -> CachePolicy:
        """What a connection remembers."""
        return self.cache or self.traits.cache

    @property
    def age_limit(self) -> float:
        """Seconds after which a connection takes no more creates."""
        return self.traits.age_limit_seconds if self.age_limit_seconds is None else self.age_limit_seconds
