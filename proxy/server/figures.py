"""What `/_packlight` and `/metrics` show: figures, and never a word of a conversation."""

from collections.abc import Mapping
from typing import Any

import orjson
from aiohttp import web

from proxy import __version__
from proxy.ledger import Ledger
from proxy.upstream.link import Link

_MOST_TURNS = 10_000
"""Turns that are shown at once, however many were asked for: some megabytes."""

_MOST_DIGITS = 9
"""Digits of a number that is surely not small; Python reads no more than some thousands."""


class Figures:
    """The handlers for people and programs that watch."""

    def __init__(self, ledger: Ledger, upstream: str, link: Link) -> None:
        self._link = link
        self._ledger = ledger
        self._upstream = upstream
        self._most_sent = 0

    def routes(self) -> list[web.RouteDef]:
        """Return the routes to serve."""
        return [
            web.get("/_packlight/health", self.health),
            web.get("/_packlight/stats", self.stats),
            web.get("/_packlight/turns", self.turns),
            web.get("/metrics", self.metrics),
        ]

    async def health(self, _request: web.Request) -> web.Response:
        """Say that we run, which version, and towards which upstream."""
        return _json({"status": "ok", "version": __version__, "upstream": self._upstream})

    async def stats(self, _request: web.Request) -> web.Response:
        """Show the totals since the start."""
        return _json(self._ledger.stats() | {"link": self._link.as_json()})

    async def turns(self, request: web.Request) -> web.Response:
        """Show the last turns, newest first; `limit` says how many at most."""
        limit = request.query.get("limit", "100")
        if not limit.isdecimal():
            return _json({"error": "limit must be a whole number, such as 100"}, status=400)
        most = min(int(limit), _MOST_TURNS) if len(limit) <= _MOST_DIGITS else _MOST_TURNS
        return _json({"turns": [record.as_json() for record in self._ledger.turns(most)]})

    async def metrics(self, _request: web.Request) -> web.Response:
        """Show the totals in the Prometheus text format, where a counter that falls has begun anew.

        What is sent upstream falls where an upload is given up of which a part was counted and has not left.
        """
        stats = self._ledger.stats()
        self._most_sent = max(self._most_sent, stats["bytes"]["to_upstream"])
        stats["bytes"]["to_upstream"] = self._most_sent
        return web.Response(
            text="\n".join([*_lines(stats, self._ledger.statuses), ""]),
            headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"},
        )


def _json(value: object, *, status: int = 200) -> web.Response:
    return web.Response(body=orjson.dumps(value), status=status, content_type="application/json")


def _lines(stats: dict[str, Any], statuses: Mapping[str, int]) -> list[str]:
    connections = stats["connections"]
    return [
        *_family("packlight_turns_total", "counter", "Turns by how they were sent upstream.", "upload", {
            upload: stats["turns"][upload] for upload in ("delta", "full", "http")
        }),
        *_family("packlight_turns_ended_total", "counter", "Turns by how they ended.", "status", {
            status: statuses[status] for status in ("completed", "incomplete", "failed", "aborted")
        }),
        *_family(
            "packlight_full_reasons_total",
            "counter",
            "Turns that were no delta, by reason.",
            "reason",
            stats["full_reasons"],
        ),
        *_family("packlight_bytes_total", "counter", "Bytes by boundary.", "boundary", stats["bytes"]),
        *_family("packlight_connections_open", "gauge", "WebSockets open now.", None, {"": connections["open"]}),
        *_family("packlight_connections_total", "counter", "WebSockets by what became of them.", "event", {
            event: connections[event] for event in ("opened", "lost")
        }),
        *_family(
            "packlight_compression_total",
            "counter",
            "WebSockets opened, by the compression that was negotiated.",
            "extension",
            stats["compression"],
        ),
        *_family(
            "packlight_chains_collapsed_total",
            "counter",
            "Chains that upstream confirmed and had lost.",
            None,
            {"": stats["chains"]["collapsed"]},
        ),
        *_family(
            "packlight_hoisted_turns_total",
            "counter",
            "Turns whose settings upstream was told as items.",
            None,
            {"": stats["hoists"]["turns"]},
        ),
        *_family(
            "packlight_replays_total",
            "counter",
            "Turns sent again after a loss: upstream cannot have had them (safe), or may have.",
            "kind",
            stats["replays"],
        ),
        *_family(
            "packlight_warm_ups_total",
            "counter",
            "Conversations uploaded again after a loss, ahead of the next turn, by what became of it.",
            "outcome",
            stats["warm_ups"],
        ),
    ]  # fmt: skip


def _family(name: str, kind: str, text: str, label: str | None, values: dict[str, int]) -> list[str]:
    samples = [
        f'{name}{{{label}="{key}"}} {value}' if label is not None else f"{name} {value}"
        for key, value in values.items()
    ]
    return [f"# HELP {name} {text}", f"# TYPE {name} {kind}", *samples]
