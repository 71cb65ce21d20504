"""Resources: the small endpoints of the API, as functions from JSON to JSON."""

import base64
import re
import struct
from collections.abc import Callable
from typing import Any

from proxy.simulator.apierror import ApiError, invalid
from proxy.simulator.chain import Memory
from proxy.simulator.items import Names
from proxy.simulator.model import Body
from proxy.simulator.records import Identity
from proxy.simulator.rendering import digest, tokens
from proxy.simulator.response import usage
from proxy.simulator.service import Service
from proxy.simulator.validation import check_context, input_items

Resource = Callable[..., Body]
VECTOR_SIZE = 8


def find_resource(
    method: str, path: str, resources: dict[tuple[str, str], Resource]
) -> tuple[Resource, tuple[str, ...]]:
    """Return what answers, and the arguments in *path*; raise ApiError 404 if nothing does."""
    for (known_method, pattern), resource in resources.items():
        if known_method == method and (match := re.fullmatch(pattern, path)):
            return resource, match.groups()
    raise ApiError(404, f"Invalid URL ({method} /v1/{path})")


def list_models(service: Service, _identity: Identity, _data: Body) -> Body:
    """``GET /models``."""
    return {"object": "list", "data": [_model(name) for name in service.settings.models]}


def account_usage(_service: Service, _identity: Identity, _data: Body) -> Body:
    """``GET /backend-api/wham/usage``: what is left to a ChatGPT account, as proxies of such accounts ask."""
    window = {"used_percent": 3, "limit_window_seconds": 18_000, "reset_after_seconds": 9_000}
    limits = {"allowed": True, "limit_reached": False, "primary_window": window, "secondary_window": None}
    return {"plan_type": "pro", "rate_limit": limits}


def retrieve_model(_service: Service, _identity: Identity, _data: Body, name: str) -> Body:
    """``GET /models/{model}``."""
    return _model(name)


def retrieve_response(service: Service, identity: Identity, _data: Body, response_id: str) -> Body:
    """``GET /responses/{id}``."""
    return _stored(service, identity, response_id).response


def delete_response(service: Service, identity: Identity, _data: Body, response_id: str) -> Body:
    """``DELETE /responses/{id}``."""
    if not service.store.forget(identity, response_id):
        raise _not_found(response_id)
    return {"id": response_id, "object": "response", "deleted": True}


def cancel_response(service: Service, identity: Identity, _data: Body, response_id: str) -> Body:
    """``POST /responses/{id}/cancel``: only background responses can be."""
    _stored(service, identity, response_id)
    raise invalid("Cannot cancel a synchronous response.")


def list_input_items(service: Service, identity: Identity, _data: Body, response_id: str) -> Body:
    """``GET /responses/{id}/input_items``, newest first."""
    memory = _stored(service, identity, response_id)
    items = [{"id": f"item_{number}", **item} for number, item in enumerate(memory.input)]
    items.reverse()
    ends = (items[0]["id"], items[-1]["id"]) if items else (None, None)
    return {"object": "list", "data": items, "first_id": ends[0], "last_id": ends[1], "has_more": False}


def compact(service: Service, identity: Identity, data: Body) -> Body:
    """``POST /responses/compact``: the history as the user messages and one opaque item."""
    context = _context(service, identity, data)
    names = Names(service.settings.seed, int(digest(context), 16) % 2**24)
    kept = [item for item in context if item.get("role") == "user"]
    compaction = {
        "id": names.id("compaction"),
        "type": "compaction",
        "encrypted_content": names.ciphertext(400),
    }
    return {
        "id": names.id("response"),
        "object": "response.compaction",
        "created_at": service.timestamp(),
        "output": [*kept, compaction],
        "usage": usage(read=tokens(context), cached=0, output=[], written=100),
    }


def count_input_tokens(service: Service, identity: Identity, data: Body) -> Body:
    """``POST /responses/input_tokens``."""
    return {"object": "response.input_tokens", "input_tokens": tokens(_context(service, identity, data))}


def embed(_service: Service, _identity: Identity, data: Body) -> Body:
    """``POST /embeddings``: small vectors that follow from the text."""
    texts = data.get("input", "")
    texts = texts if isinstance(texts, list) else [texts]
    entries = []
    for index, text in enumerate(texts):
        seed = digest([{"type": "text", "text": text}])
        vector = [int(seed[place : place + 2], 16) / 255 for place in range(0, 2 * VECTOR_SIZE, 2)]
        embedding: Any = vector
        if data.get("encoding_format") == "base64":
            embedding = base64.b64encode(struct.pack(f"<{VECTOR_SIZE}f", *vector)).decode()
        entries.append({"object": "embedding", "index": index, "embedding": embedding})
    size = tokens([{"type": "text", "text": text} for text in texts])
    used = {"prompt_tokens": size, "total_tokens": size}
    return {"object": "list", "data": entries, "model": data.get("model"), "usage": used}


RESOURCES: dict[tuple[str, str], Resource] = {
    ("GET", "wham/usage"): account_usage,
    ("GET", "models"): list_models,
    ("GET", "models/([^/]+)"): retrieve_model,
    ("POST", "responses/compact"): compact,
    ("POST", "responses/input_tokens"): count_input_tokens,
    ("GET", "responses/([^/]+)"): retrieve_response,
    ("DELETE", "responses/([^/]+)"): delete_response,
    ("POST", "responses/([^/]+)/cancel"): cancel_response,
    ("GET", "responses/([^/]+)/input_items"): list_input_items,
    ("POST", "embeddings"): embed,
}


def _model(name: str) -> Body:
    return {"id": name, "object": "model", "created": 1750000000, "owned_by": "simulated"}


def _stored(service: Service, identity: Identity, response_id: str) -> Memory:
    memory = service.store.recall(identity, response_id)
    if memory is None:
        raise _not_found(response_id)
    return memory


def _not_found(response_id: str) -> ApiError:
    return ApiError(404, f"Response with id '{response_id}' not found.")


def _context(service: Service, identity: Identity, data: Body) -> list[Any]:
    parent = data.get("previous_response_id")
    inherited = _stored(service, identity, parent).continued(service.settings.traits) if parent else ()
    context = [*inherited, *input_items(data.get("input"))]
    check_context(context, generate=False)
    return context
