"""Pointing: how each peer is told where upstream is, as a user would."""

import base64
from collections.abc import Mapping
from pathlib import Path

import aiohttp
import orjson
from peer import PeerFailed, Place

ROOT = Path(__file__).parents[2]

Told = tuple[tuple[str, ...], Mapping[str, str]]
"""Arguments and environment."""

CODEX = {
    "originator": "codex_exec",
    "User-Agent": "codex_exec/0.169.0",
    "session-id": "",
    "thread-id": "",
    "x-client-request-id": "",
}
"""What Codex says of a conversation in headers; those that are empty here are given its name."""


def packlight(place: Place) -> Told:
    """Run it as a user does."""
    flags = ("--upstream", f"{place.upstream}/v1", "--port", str(place.port), "--log-format", "json")
    return ("serve", *flags), {"PYTHONPATH": str(ROOT), "PYTHONSAFEPATH": "1"}


def codex_lb(place: Place) -> Told:
    """Name the base URL; accounts are ChatGPT logins."""
    environ = {
        "CODEX_LB_DATA_DIR": str(place.home),
        "CODEX_LB_UPSTREAM_BASE_URL": f"{place.upstream}/backend-api",
        "CODEX_LB_TELEMETRY_ENABLED": "false",
    }
    return ("--host", "127.0.0.1", "--port", str(place.port)), environ


async def log_in(place: Place) -> None:
    """Give codex-lb an account: a login file of the right form, whose tokens nobody signed."""
    account = {"chatgpt_account_id": "account-benchmark", "chatgpt_plan_type": "pro", "chatgpt_user_id": "user"}
    claims = {"email": "agent@example.org", "exp": 4_000_000_000, "https://api.openai.com/auth": account}
    token = ".".join((_base64({"alg": "none", "typ": "JWT"}), _base64(claims), "c2ln"))
    tokens = {"id_token": token, "access_token": token, "refresh_token": "none", "account_id": "account-benchmark"}
    form = aiohttp.FormData()
    form.add_field("auth_json", orjson.dumps({"tokens": tokens}), filename="auth.json")
    async with (
        aiohttp.ClientSession() as http,
        http.post(f"http://127.0.0.1:{place.port}/api/accounts/import", data=form) as answer,
    ):
        if answer.status != 200:
            raise PeerFailed(f"took no account: {await answer.text()}")


def _base64(value: object) -> str:
    return base64.urlsafe_b64encode(orjson.dumps(value)).rstrip(b"=").decode()


def litellm(place: Place) -> Told:
    """List the models, each with its base URL."""
    models = [
        {
            "model_name": model,
            "litellm_params": {
                "model": f"openai/{model}",
                "api_base": f"{place.upstream}/v1",
                "api_key": "sk-benchmark",
            },
        }
        for model in ("gpt-5.5", "gpt-5.6-sol")
    ]
    config = place.home / "config.yaml"
    general = {"dangerously_permit_weak_or_unset_master_key": True}  # it listens on this machine only
    config.write_bytes(orjson.dumps({"model_list": models, "general_settings": general}))  # JSON is YAML
    environ = {"LITELLM_TELEMETRY": "False", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    return (
        "--config",
        str(config),
        "--host",
        "127.0.0.1",
        "--port",
        str(place.port),
        "--telemetry",
        "False",
    ), environ


def portkey(place: Place) -> Told:
    """Let it reach this machine; each request names the upstream."""
    return (f"--port={place.port}", "--headless"), {"TRUSTED_CUSTOM_HOSTS": "127.0.0.1,localhost"}


def portkey_headers(place: Place) -> Mapping[str, str]:
    """Name the upstream in a request."""
    return {"x-portkey-provider": "openai", "x-portkey-custom-host": f"{place.upstream}/v1"}
