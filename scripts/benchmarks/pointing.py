"""Pointing: how each peer is told where upstream is, as a user would."""

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

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
    return ("serve", *flags), {}


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
    form = aiohttp.FormData()
    form.add_field("auth_json", orjson.dumps(_login()), filename="auth.json")
    async with (
        aiohttp.ClientSession() as http,
        http.post(f"http://127.0.0.1:{place.port}/api/accounts/import", data=form) as answer,
    ):
        if answer.status != 200:
            raise PeerFailed(f"took no account: {await answer.text()}")


def _login() -> dict[str, object]:
    """Return what Codex keeps of a login, with tokens that nobody signed."""
    account = {"chatgpt_account_id": "account-benchmark", "chatgpt_plan_type": "pro", "chatgpt_user_id": "user"}
    claims = {"email": "agent@example.org", "exp": 4_000_000_000, "https://api.openai.com/auth": account}
    token = ".".join((_base64({"alg": "none", "typ": "JWT"}), _base64(claims), "c2ln"))
    tokens = {"id_token": token, "access_token": token, "refresh_token": "none", "account_id": "account-benchmark"}
    return {"tokens": tokens}


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


def headroom(place: Place) -> Told:
    """Name the API's host."""
    return ("proxy", "--port", str(place.port), "--openai-api-url", place.upstream), {"HEADROOM_BEACON": "off"}


def foveance(place: Place) -> Told:
    """Name the base URL; with its codec, as its guide has it for agents."""
    flags = ("--host", "127.0.0.1", "--port", str(place.port), "--upstream", f"{place.upstream}/v1")
    return ("proxy", *flags, "--codec", "--agentic-codec"), {}


def codexcomp(place: Place) -> Told:
    """Name the base URL."""
    return ("--port", str(place.port), "--upstream", f"{place.upstream}/v1"), {}


def agentic(place: Place) -> Told:
    """Name the API's host, which is not asked whether it is vLLM and ready."""
    flags = ("--upstream", place.upstream, "--gateway-port", str(place.port), "--skip-llm-ready-check")
    return ("serve", *flags), {"OPENAI_API_KEY": "sk-benchmark"}


def shepherd(place: Place) -> Told:
    """Name the API's host as a worker of OpenAI's kind."""
    flags = ("--host", "127.0.0.1", "--port", str(place.port), "--worker-urls", place.upstream)
    return ("launch", *flags, "--backend", "openai"), {}


def ferro(place: Place) -> Told:
    """Name the host for the one provider."""
    config = place.home / "config.yaml"
    config.write_bytes(orjson.dumps({"strategy": {"mode": "fallback"}, "targets": [{"virtual_key": "openai"}]}))
    return ("serve",), {
        "GATEWAY_CONFIG": str(config),
        "MASTER_KEY": "sk-benchmark",
        "OPENAI_API_KEY": "sk-benchmark",
        "OPENAI_BASE_URL": place.upstream,
        "PORT": str(place.port),
    }


def observer(place: Place) -> Told:
    """Name the API's host in its settings."""
    config = place.home / "config.toml"
    config.write_text(f'[proxy]\nopenai_upstream = "{place.upstream}"\n', encoding="utf-8")
    return ("proxy", "start", "--config", str(config), "--port", str(place.port)), {}


def ccproxy(place: Place) -> Told:
    """Name the base URL of its Codex plugin, which has a login of Codex; do not run Codex to learn from it."""
    (place.home / ".codex").mkdir(exist_ok=True)
    login = {"OPENAI_API_KEY": None, **_login(), "last_refresh": "2026-10-01T00:00:00Z"}
    (place.home / ".codex" / "auth.json").write_bytes(orjson.dumps(login))
    config = place.home / "ccproxy.toml"
    told = (
        'enabled_plugins = ["codex", "oauth_codex"]',
        f'[server]\nhost = "127.0.0.1"\nport = {place.port}',
        "[binary]\npackage_manager_only = false\nfallback_enabled = false",
        f'[plugins.codex]\nbase_url = "{place.upstream}/v1"\n',
    )
    config.write_text("\n".join(told), encoding="utf-8")
    return ("serve", "--config", str(config)), {}


def router9(place: Place) -> Told:
    """Start 9Router's server; its upstream is named by `add_provider`."""
    return (), {"DATA_DIR": str(place.home), "PORT": str(place.port), "HOSTNAME": "127.0.0.1"}


def omniroute(place: Place) -> Told:
    """Start OmniRoute with a password and a key; its upstream is named by `add_provider`."""
    environ = {"DATA_DIR": str(place.home), "INITIAL_PASSWORD": "123456", "OMNIROUTE_API_KEY": "sk-benchmark"}
    return ("--port", str(place.port), "--no-open"), environ


async def add_provider(place: Place) -> None:
    """Add a provider as the dashboards of 9Router and OmniRoute do; 9Router's first password is a fixed one."""
    api = f"http://127.0.0.1:{place.port}/api"
    node = {"name": "benchmark", "prefix": "benchmark", "type": "openai-compatible", "apiType": "responses"}
    async with aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as http:
        await _ask(http, "POST", f"{api}/auth/login", {"password": "123456"})
        await _ask(http, "PATCH", f"{api}/settings", {"requireApiKey": False})
        made = await _ask(http, "POST", f"{api}/provider-nodes", {**node, "baseUrl": f"{place.upstream}/v1"})
        key = {"provider": made["node"]["id"], "name": "benchmark", "apiKey": "sk-benchmark"}
        await _ask(http, "POST", f"{api}/providers", key)


def mlflow(place: Place) -> Told:
    """Start MLflow's server, which may go to this machine; its upstream is named by `add_endpoint`."""
    store = f"sqlite:///{place.home / 'mlflow.db'}"
    flags = ("--host", "127.0.0.1", "--port", str(place.port), "--backend-store-uri", store)
    return ("server", *flags), {
        "MLFLOW_GATEWAY_API_BASE_ALLOWED_SCHEMES": "http,https",
        "MLFLOW_GATEWAY_API_BASE_ALLOW_PRIVATE_IPS": "true",
    }


async def add_endpoint(place: Place) -> None:
    """Add a key with its base URL, a model of it, and an endpoint named like the model."""
    api = f"http://127.0.0.1:{place.port}/api/3.0/mlflow/gateway"
    secret: dict[str, Any] = {
        "secret_name": "benchmark",
        "provider": "openai",
        "secret_value": {"api_key": "sk-benchmark"},
    }
    async with aiohttp.ClientSession() as http:
        secret |= {"auth_config": {"api_base": f"{place.upstream}/v1"}}
        key = (await _ask(http, "POST", f"{api}/secrets/create", secret))["secret"]["secret_id"]
        model = {"name": "benchmark", "provider": "openai", "secret_id": key, "model_name": "gpt-5.5"}
        made = await _ask(http, "POST", f"{api}/model-definitions/create", model)
        which = made["model_definition"]["model_definition_id"]
        only = {"model_definition_id": which, "linkage_type": "PRIMARY", "weight": 1.0}
        await _ask(http, "POST", f"{api}/endpoints/create", {"name": "gpt-5.5", "model_configs": [only]})


async def _ask(http: aiohttp.ClientSession, method: str, url: str, body: dict[str, Any]) -> dict[str, Any]:
    """Return the answer of a peer's own API."""
    async with http.request(method, url, json=body) as answer:
        if not answer.ok:
            raise PeerFailed(f"took no upstream: {await answer.text()}")
        told: dict[str, Any] = await answer.json()
        return told
