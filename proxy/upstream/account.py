"""What upstream tells of an account beside its answers: headers over HTTP, other things over a WebSocket.

Agents that speak HTTP read it in the headers of an answer: Codex learns how much of a plan is used, and what
upstream has counted (openai/codex#10324, and its source for the names).
"""

import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from proxy.core.events import GarbledEvent, ServerEvent
from proxy.upstream.headers import Headers
from proxy.upstream.newest import Newest

_STANDING = frozenset(
    {"openai-organization", "openai-project", "openai-version", "x-models-etag", "x-reasoning-included"}
)
"""Headers of a handshake that hold for every answer on the connection."""

_LIMITS = "codex.rate_limits"
_LEFT = "reset_after_seconds"
_FIGURES = ("used_percent", "window_minutes", _LEFT, "reset_at")
_PLAN = "codex"
"""The limit that is meant where none is named."""

_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,62}[a-z0-9])?")
_LONGEST = 256
"""Characters of a value: what is longer is none of these."""

_MOST, _LARGEST = 64, 4096
"""Headers, and characters of them, that limits may have in an answer: some clients take 100, and 16 KB, of all."""


def standing(headers: Iterable[tuple[str, str]]) -> Headers:
    """Return those *headers* of a handshake that each answer over the connection would have, each once."""
    told: dict[str, tuple[str, str]] = {}
    for name, value in headers:
        if name.lower() in _STANDING and _is_writable(value):
            told.setdefault(name.lower(), (name, value))
    return tuple(told.values())


class Account:
    """What was told last of each limit that upstream sets an account."""

    def __init__(self) -> None:
        self._limits: Newest[str, tuple[float, Mapping[str, str]]] = Newest()

    def headers(self, now: float) -> Headers:
        """Return what an answer over HTTP would tell of it; of too much the latest."""
        told: dict[str, str] = {}
        for told_at, limit in reversed(self._limits.values()):
            with_it = {**{name: _left(name, value, now - told_at) for name, value in limit.items()}, **told}
            if len(with_it) > _MOST or sum(len(name) + len(value) for name, value in with_it.items()) > _LARGEST:
                break
            told = with_it
        return tuple(told.items())

    def note(self, event: ServerEvent, clock: Callable[[], float]) -> None:
        """Take note of what an *event* that is no part of an answer tells of the account."""
        if event.type != _LIMITS:
            return
        try:
            told = event.json()
        except GarbledEvent:
            return
        metered, name = told.get("metered_limit_name"), told.get("limit_name")
        limit = _limit(metered or name or _PLAN)
        if limit is None:
            return
        found = {**_of_windows(limit, told.get("rate_limits")), **_of_credits(told.get("credits"))}
        found["x-codex-plan-type"] = _text(told.get("plan_type"))
        if metered:
            found[f"x-{limit}-limit-name"] = _text(name)
        self._limits[limit] = clock(), {name: value for name, value in found.items() if value is not None}


def _limit(name: Any) -> str | None:
    """Return the *name* of a limit as headers have it."""
    name = name.strip().lower().replace("_", "-") if isinstance(name, str) else ""
    return name if _NAME.fullmatch(name) else None


def _of_windows(limit: str, windows: Any) -> dict[str, str | None]:
    windows = windows if isinstance(windows, dict) else {}
    return {
        f"x-{limit}-{which}-{_dashed(figure)}": _text(window.get(figure))
        for which in ("primary", "secondary")
        if isinstance(window := windows.get(which), dict)
        for figure in _FIGURES
    }


def _of_credits(told: Any) -> dict[str, str | None]:
    told = told if isinstance(told, dict) else {}
    return {
        f"x-codex-credits-{_dashed(each)}": _text(told.get(each))
        for each in ("has_credits", "unlimited", "balance")
    }


def _dashed(name: str) -> str:
    return name.replace("_", "-")


def _left(name: str, value: str, gone: float) -> str:
    """Return the *value* of a header *gone* seconds after it was told: of some less is left."""
    counts_down = name.endswith(_dashed(_LEFT)) and value.isdecimal()
    return str(max(0, int(value) - int(gone))) if counts_down else value


def _text(value: Any) -> str | None:
    """Return *value* as a header has it, or None where it can have none."""
    if isinstance(value, bool):
        value = "true" if value else "false"
    elif isinstance(value, float) and math.isfinite(value):
        value = str(int(value) if value.is_integer() else value)
    elif isinstance(value, int):
        value = str(value)
    return value if isinstance(value, str) and _is_writable(value) else None


def _is_writable(value: str) -> bool:
    return value.isascii() and value.isprintable() and len(value) <= _LONGEST
