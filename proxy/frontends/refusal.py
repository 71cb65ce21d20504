"""Upstream's refusal of a turn: the error object in it."""

from typing import Any

import orjson

from proxy.errors import UpstreamError


def words(error: UpstreamError) -> dict[str, Any]:
    """Return the error object in the body of *error*; one of our own where there is none to read."""
    try:
        body = orjson.loads(error.body)
    except orjson.JSONDecodeError:
        body = None
    said = body.get("error") if isinstance(body, dict) else None
    if isinstance(said, dict) and said:
        return said
    return {"message": f"upstream answered {error.status}", "type": "server_error", "param": None, "code": None}
