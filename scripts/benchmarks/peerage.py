"""Peerage: the public proxies that are measured beside packlight, and where they come from."""

from dataclasses import replace

import pointing
from peer import Peer
from sources import Npm, PyPI

OURS = Peer(
    name="packlight",
    version="this tree",
    told="deltas over a WebSocket, found by content",
    source=pointing.ROOT / "proxy/__main__.py",
    configure=pointing.packlight,
    ready="/_packlight/health",
)
_CODEX_LB = Peer(
    name="codex-lb",
    version="1.24.0",
    told="account balancer for Codex, bridges HTTP to a WebSocket",
    source=PyPI(package="codex-lb", program="codex-lb", oldest_python=(3, 13)),
    configure=pointing.codex_lb,
    ready="/health",
    enrol=pointing.log_in,
    headers=lambda _place: pointing.CODEX,
)
PEERS = (
    _CODEX_LB,
    replace(_CODEX_LB, name="codex-lb (lenient upstream)", lenient=True),
    Peer(
        name="LiteLLM proxy",
        version="1.106.2",
        told="gateway to many providers",
        source=PyPI(package="litellm[proxy]", program="litellm"),
        configure=pointing.litellm,
        ready="/health/liveliness",
    ),
    Peer(
        name="Portkey gateway",
        version="1.15.2",
        told="gateway to many providers",
        source=Npm(package="@portkey-ai/gateway", program="gateway", node=24),
        configure=pointing.portkey,
        ready="/",
        headers=pointing.portkey_headers,
    ),
)
