"""Agents: the real programs, which version of each, and how a user points it at packlight."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import orjson
from model import NOTES, note_request
from sources import Npm, PyPI

Api = Literal["responses", "chat"]

MODEL = "gpt-5.5"
KEY = "sk-simulated"
PROMPT = "Look around in this folder with your tools, then tell me how things are."


@dataclass(frozen=True, slots=True)
class Place:
    """Where an agent runs: a *home* of its own, the project in *work*, and packlight at *base_url*.

    It works for *turns* turns before it answers. Its client gives up after *patience* seconds without a sign of
    life, or when it does by default.
    """

    home: Path
    work: Path
    base_url: str
    api: Api
    turns: int
    patience: float | None = None


@dataclass(frozen=True, slots=True)
class Command:
    """The *arguments* that let an agent work headless, and what it needs in its environment.

    *before* holds the arguments of calls that configure the agent; *typed* is what its user then types.
    """

    arguments: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    before: tuple[tuple[str, ...], ...] = ()
    typed: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Agent:
    """An agent: *prepare* writes its configuration and returns how it is called.

    One without *tools* is told by its user, message by message, to edit a file. *rewrites_history* says why its
    turns cannot be deltas.
    """

    name: str
    version: str
    source: Npm | PyPI | Path
    prepare: Callable[[Place], Command]
    apis: tuple[Api, ...] = ("responses", "chat")
    tools: bool = True
    rewrites_history: str = ""

    def __str__(self) -> str:
        return f"{self.name} {self.version}"


def codex(
    *, provider: str = "packlight", websockets: bool = False, model: str | None = MODEL
) -> Callable[[Place], Command]:
    """Return how Codex gets a provider of its own; with *websockets* it first asks for one, and is refused.

    For a *provider* that is named OpenAI it writes more into its history. Without a *model* it takes its own, to
    which it tells its tools in another way.
    """

    def prepare(place: Place) -> Command:
        named = f'model = "{model}"' if model is not None else ""
        patience = f"stream_idle_timeout_ms = {place.patience * 1000:.0f}" if place.patience else ""
        _write(
            place.home / ".codex/config.toml",
            f"""\
{named}
model_provider = "packlight"
[model_providers.packlight]
name = "{provider}"
base_url = "{place.base_url}"
env_key = "OPENAI_API_KEY"
wire_api = "responses"
supports_websockets = {str(websockets).lower()}
{patience}
[analytics]
enabled = false
""",
        )
        return Command(("exec", "--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox", PROMPT))

    return prepare


def opencode(place: Place) -> Command:
    """Give OpenCode's OpenAI provider another base URL; another provider speaks Chat Completions."""
    _write_json(place.home / ".config/opencode/opencode.json", _opencode_settings(place))
    return Command(("run", "--auto", PROMPT), {f"OPENCODE_{name}": "1" for name in OPENCODE_QUIET})


def kilo(place: Place) -> Command:
    """Do the same for Kilo, a descendant of OpenCode."""
    config = place.home / "kilo.json"
    _write_json(config, _opencode_settings(place))
    quiet = (*OPENCODE_QUIET, "DISABLE_CODEBASE_INDEXING", "DISABLE_PRESENCE", "DISABLE_SESSION_INGEST")
    env = {f"KILO_{name}": "1" for name in quiet} | {"KILO_CONFIG": str(config), "KILO_TELEMETRY_LEVEL": "off"}
    return Command(("run", "--auto", PROMPT), env)


OPENCODE_QUIET = (
    "DISABLE_AUTOUPDATE",
    "DISABLE_DEFAULT_PLUGINS",
    "DISABLE_LSP_DOWNLOAD",
    "DISABLE_MODELS_FETCH",
)


def _opencode_settings(place: Place) -> dict[str, Any]:
    provider: dict[str, Any] = {"options": {"baseURL": place.base_url, "apiKey": KEY}}
    name = "openai"
    if place.api == "chat":
        name = "packlight"
        provider |= {"npm": "@ai-sdk/openai-compatible", "name": name, "models": {MODEL: {"name": MODEL}}}
    return {
        "model": f"{name}/{MODEL}",
        "small_model": f"{name}/{MODEL}",
        "provider": {name: provider},
        "permission": "allow",
        "autoupdate": False,
        "share": "disabled",
    }


def pi(place: Place) -> Command:
    """Give pi a provider of its own."""
    provider = {
        "baseUrl": place.base_url,
        "apiKey": KEY,
        "api": "openai-responses" if place.api == "responses" else "openai-completions",
        "models": [_DESCRIBED],
    }
    _write_json(place.home / ".pi/agent/models.json", {"providers": {"packlight": provider}})
    env = {"PI_OFFLINE": "1", "PI_SKIP_VERSION_CHECK": "1", "PI_TELEMETRY": "0"}
    return Command(("--provider", "packlight", "--model", MODEL, "-p", PROMPT), env)


def copilot(place: Place) -> Command:
    """Tell Copilot CLI to bring its own key."""
    env = {
        "COPILOT_MODEL": MODEL,
        "COPILOT_OFFLINE": "true",
        "COPILOT_PROVIDER_API_KEY": KEY,
        "COPILOT_PROVIDER_BASE_URL": place.base_url,
        "COPILOT_PROVIDER_TRANSPORT": "http",
        "COPILOT_PROVIDER_TYPE": "openai",
        "COPILOT_PROVIDER_WIRE_API": "responses" if place.api == "responses" else "completions",
    }
    return Command(
        ("--allow-all-tools", "--disable-builtin-mcps", "--no-auto-update", "--no-color", "-p", PROMPT), env
    )


def cline(place: Place) -> Command:
    """Tell Cline the base URL with its own `auth` command, and keep it from leaving a daemon behind."""
    _write_json(
        place.home / ".cline/data/settings/global-settings.json",
        {"telemetryOptOut": True, "autoUpdateEnabled": False},
    )
    provider = "openai-native" if place.api == "responses" else "openai"
    auth = ("auth", "-p", provider, "-k", KEY, "-m", MODEL, "-b", place.base_url)
    return Command((PROMPT,), {"CLINE_SESSION_BACKEND_MODE": "local"}, before=(auth,))


def qwen(place: Place) -> Command:
    """Tell Qwen Code the base URL on its command line."""
    _write_json(
        place.home / ".qwen/settings.json",
        {"general": {"enableAutoUpdate": False}, "privacy": {"usageStatisticsEnabled": False}},
    )
    auth_type = "openai-responses" if place.api == "responses" else "openai"
    provider = ("--auth-type", auth_type, "--openai-base-url", place.base_url, "--openai-api-key", KEY)
    return Command(("--yolo", *provider, "-m", MODEL, PROMPT), {"QWEN_CODE_SUPPRESS_YOLO_WARNING": "1"})


def continue_(place: Place) -> Command:
    """Give Continue a model; it asks the Responses API for those of the GPT-5 family."""
    model = {
        "name": "packlight",
        "provider": "openai",
        "model": MODEL if place.api == "responses" else "gpt-4.1",
        "apiBase": place.base_url,
        "apiKey": KEY,
        "roles": ["chat"],
    }
    settings = {"name": "packlight", "version": "0.0.1", "schema": "v1", "models": [model]}
    config = place.home / ".continue/config.yaml"
    _write_json(config, settings)  # JSON is YAML too
    env = {"CONTINUE_CLI_ENABLE_TELEMETRY": "0", "CONTINUE_METRICS_ENABLED": "0"}
    return Command(("--auto", "--config", str(config), "-p", PROMPT), env)


def openclaw(place: Place) -> Command:
    """Give OpenClaw a provider of its own, and let it answer by itself, without its gateway.

    In Chat Completions it moves what it knows of its surroundings to the end of its history with each turn.
    """
    provider = {"baseUrl": place.base_url, "apiKey": KEY, "api": "openai-responses", "models": [_DESCRIBED]}
    defaults = {
        "model": {"primary": f"packlight/{MODEL}"},
        "workspace": str(place.work),
        "skipBootstrap": True,
    }
    providers = {"mode": "merge", "providers": {"packlight": provider}}
    settings = {"agents": {"defaults": defaults}, "models": providers}
    _write_json(place.home / ".openclaw/openclaw.json", settings)
    return Command(("agent", "--local", "--session-id", "one", "-m", PROMPT))


def hermes(place: Place) -> Command:
    """Name a custom provider in Hermes' configuration; it asks that for Chat Completions."""
    model = {"default": MODEL, "provider": "custom", "base_url": place.base_url, "api_key": KEY}
    _write_json(place.home / ".hermes/config.yaml", {"model": model})  # JSON is YAML too
    return Command(("--yolo", "-z", PROMPT))


def aider(place: Place) -> Command:
    """Let aider edit one file, and keep it from asking its user, Git or the network."""
    options = (
        *("--model", f"openai/{MODEL}", "--openai-api-base", place.base_url),
        *("--edit-format", "diff", "--max-chat-history-tokens", "100000"),  # a longer history is summarised
        *("--yes-always", "--no-git", "--no-detect-urls", "--no-suggest-shell-commands", "--disable-playwright"),
        *("--no-check-update", "--no-show-release-notes", "--no-show-model-warnings", "--analytics-disable"),
        *("--no-pretty", "--no-fancy-input"),
    )
    messages = (*(note_request(step) for step in range(1, place.turns + 1)), PROMPT)
    return Command((*options, NOTES), LITELLM_QUIET, typed="".join(f"{message}\n" for message in messages))


def loop(*options: str) -> Callable[[Place], Command]:
    """Return how our own loops on somebody's client library are called."""

    def prepare(place: Place) -> Command:
        env = {"OPENAI_BASE_URL": place.base_url, **LITELLM_QUIET}
        patience = ("--patience", str(place.patience)) if place.patience else ()
        return Command(("--api", place.api, *patience, *options, MODEL, PROMPT), env)

    return prepare


_DESCRIBED = {
    "id": MODEL,
    "name": MODEL,
    "reasoning": True,
    "input": ["text"],
    "contextWindow": 400_000,
    "maxTokens": 16_000,
    "cost": {"input": 0, "output": 0, "cacheRead": 0, "cacheWrite": 0},
}
"""The model as pi, and OpenClaw after it, want it described."""
LITELLM_QUIET = {"LITELLM_LOCAL_MODEL_COST_MAP": "True"}
LOOPS = Path(__file__).with_name("loops")
LANGCHAIN = PyPI(
    package="langchain-openai",
    program=LOOPS / "langchain_loop.py",
    pins=("langchain-core==1.7.2", "openai==3.52.0"),
)
AGENTS_SDK = PyPI(package="openai-agents", program=LOOPS / "agents_sdk_loop.py", pins=("openai==3.54.0",))
PYDANTIC_AI = PyPI(
    package="pydantic-ai-slim[openai]",
    program=LOOPS / "pydantic_ai_loop.py",
    pins=("openai==3.54.0",),
)
LITELLM = PyPI(
    package="litellm",
    program=LOOPS / "litellm_loop.py",
    pins=("mcp==2.3.0", "openai==2.54.0"),  # it imports mcp as soon as there are tools, but does not install it
)

AGENTS: dict[str, Agent] = {
    agent.name: agent
    for agent in (
        Agent(
            name="codex",
            version="0.169.0",
            source=Npm(package="@openai/codex", program="codex"),
            prepare=codex(),
            apis=("responses",),
        ),
        Agent(
            name="codex-websockets",
            version="0.169.0",
            source=Npm(package="@openai/codex", program="codex"),
            prepare=codex(websockets=True),
            apis=("responses",),
        ),
        Agent(
            name="codex-openai",
            version="0.169.0",
            source=Npm(package="@openai/codex", program="codex"),
            prepare=codex(provider="OpenAI"),
            apis=("responses",),
        ),
        Agent(
            name="codex-own-model",
            version="0.169.0",
            source=Npm(package="@openai/codex", program="codex"),
            prepare=codex(model=None),
            apis=("responses",),
        ),
        Agent(
            name="opencode",
            version="1.18.33",
            source=Npm(package="opencode-ai", program="opencode"),
            prepare=opencode,
        ),
        Agent(name="kilo", version="7.7.7", source=Npm(package="@kilocode/cli", program="kilo"), prepare=kilo),
        Agent(
            name="pi",
            version="0.87.1",
            source=Npm(package="@earendil-works/pi-coding-agent", program="pi", node=22),
            prepare=pi,
        ),
        Agent(
            name="copilot",
            version="1.0.102",
            source=Npm(package="@github/copilot", program="copilot"),
            prepare=copilot,
        ),
        Agent(name="cline", version="3.0.65", source=Npm(package="cline", program="cline"), prepare=cline),
        Agent(
            name="qwen",
            version="0.24.4",
            source=Npm(package="@qwen-code/qwen-code", program="qwen", node=22),
            prepare=qwen,
        ),
        Agent(
            name="continue",
            version="1.5.47",
            source=Npm(package="@continuedev/cli", program="cn"),
            prepare=continue_,
        ),
        Agent(
            name="openclaw",
            version="2026.9.6",
            source=Npm(package="openclaw", program="openclaw", node=22),
            prepare=openclaw,
            apis=("responses",),
        ),
        Agent(
            name="hermes",
            version="0.19.0",
            source=PyPI(package="hermes-agent", program="hermes"),
            prepare=hermes,
            apis=("chat",),
        ),
        Agent(
            name="openai-python",
            version=version("openai"),
            source=LOOPS / "openai_loop.py",
            prepare=loop(),
        ),
        Agent(
            name="openai-python-stream",
            version=version("openai"),
            source=LOOPS / "openai_loop.py",
            prepare=loop("--stream"),
        ),
        Agent(name="langchain", version="1.7.3", source=LANGCHAIN, prepare=loop()),
        Agent(name="langchain-stream", version="1.7.3", source=LANGCHAIN, prepare=loop("--stream")),
        Agent(name="agents-sdk", version="0.24.0", source=AGENTS_SDK, prepare=loop()),
        Agent(name="agents-sdk-stream", version="0.24.0", source=AGENTS_SDK, prepare=loop("--stream")),
        Agent(name="pydantic-ai", version="2.68.0", source=PYDANTIC_AI, prepare=loop()),
        Agent(name="pydantic-ai-stream", version="2.68.0", source=PYDANTIC_AI, prepare=loop("--stream")),
        Agent(name="litellm", version="1.106.2", source=LITELLM, prepare=loop(), apis=("chat",)),
        Agent(name="litellm-stream", version="1.106.2", source=LITELLM, prepare=loop("--stream"), apis=("chat",)),
        Agent(
            name="aider",
            version="0.86.2",
            source=PyPI(package="aider-chat", program="aider", newest_python=(3, 12)),
            prepare=aider,
            apis=("chat",),
            tools=False,
            rewrites_history="the files, and with some models a reminder, move to its end with each message",
        ),
    )
}
"""Every agent, with the version that is known to work; the name is what ``--only`` takes."""


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def _write_json(path: Path, value: Any) -> None:
    _write(path, orjson.dumps(value, option=orjson.OPT_INDENT_2).decode())
