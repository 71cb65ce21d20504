"""Peerage: the public proxies that are measured beside packlight, and where they come from."""

from dataclasses import replace
from pathlib import Path

import pointing
from peer import Peer
from sources import Checkout, Npm, PyPI

OURS = Peer(
    name="packlight",
    version="this tree",
    told="deltas over a WebSocket, found by content",
    source=Checkout(folder=pointing.ROOT, program="packlight"),
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
    Peer(
        name="headroom",
        version="0.42.0",
        told="compresses what agents send",
        source=PyPI(package="headroom-ai[proxy]", program="headroom"),
        configure=pointing.headroom,
        ready="/health",
    ),
    Peer(
        name="Foveance",
        version="0.5.2",
        told="shortens what agents send",
        source=PyPI(package="foveance", program="foveance"),
        configure=pointing.foveance,
        ready="/health",
    ),
    Peer(
        name="codexcomp",
        version="0.3.8",
        told="lets Codex think on where its reasoning was cut",
        source=PyPI(package="codexcomp", program="codexcomp", oldest_python=(3, 12)),
        configure=pointing.codexcomp,
        ready="/healthz",
    ),
    Peer(
        name="CCProxy",
        version="0.2.10",
        told="several providers behind subscriptions",
        source=PyPI(package="ccproxy-api[plugins-codex]", program="ccproxy"),
        configure=pointing.ccproxy,
        path="/codex/v1",
        ready="/health/live",
    ),
    Peer(
        name="vLLM Agentic API",
        version="0.9.0",
        told="Responses API in front of an inference server, in Rust",
        source=PyPI(package="agentic-api", program="agentic"),
        configure=pointing.agentic,
        ready="/health",
    ),
    Peer(
        name="Shepherd Model Gateway",
        version="1.13.0",
        told="router in front of inference servers, in Rust",
        source=PyPI(package="smg", program="smg"),
        configure=pointing.shepherd,
        ready="/health",
    ),
    Peer(
        name="Ferro Labs AI Gateway",
        version="1.5.10",
        told="gateway to many providers, in Go",
        source=PyPI(package="ferrogw", program="ferrogw"),
        configure=pointing.ferro,
        ready="/readyz",
    ),
    Peer(
        name="SuperBased Observer",
        version="1.36.0",
        told="counts what agents use, in Go",
        source=PyPI(package="superbased-observer", program="observer"),
        configure=pointing.observer,
    ),
    Peer(
        name="MLflow AI Gateway",
        version="3.17.2",
        told="gateway to many providers in a tracking server",
        source=PyPI(package="mlflow", program="mlflow"),
        configure=pointing.mlflow,
        path="/gateway/openai/v1",
        enrol=pointing.add_endpoint,
        ready="/health",
    ),
    Peer(
        name="OmniRoute",
        version="3.7.9",
        told="gateway to many providers",
        source=Npm(
            package="omniroute",
            program="omniroute",
            newest_node=22,
            node=22,
            pins=("next-intl@4.14.8", "use-intl@4.14.8", "better-sqlite3@12.9.0"),
            built=(
                Path("better-sqlite3/build/Release/better_sqlite3.node"),
                Path("omniroute/app/node_modules/better-sqlite3/build/Release"),
            ),
        ),
        configure=pointing.omniroute,
        model="benchmark/{}",
        enrol=pointing.add_provider,
        ready="/login",
    ),
    Peer(
        name="9Router",
        version="0.5.69",
        told="gateway to many providers",
        source=Npm(package="9router", program=Path("9router/app/custom-server.js"), node=24),
        configure=pointing.router9,
        model="benchmark/{}",
        enrol=pointing.add_provider,
        ready="/api/health",
    ),
)
