"""Provider: what is known of whoever runs upstream, where that differs from OpenAI's documents."""

from dataclasses import dataclass
from math import inf
from typing import Literal

ProviderName = Literal["azure", "openai", "xai"]


@dataclass(frozen=True, slots=True)
class Provider:
    """The rules of one provider; the defaults are those of one that nobody knows.

    *keeps_instructions*: a chain goes on with the instructions that it began with, and a continuation that has any
    is refused. *repeats_ids*: the responses on one connection share an id, so that an id stands for the latest of
    them, whichever that is by now; None where that has to be seen. *begins_anew*: a request that continues nothing
    is read alone, whatever its connection carried before; some gateways go on with that. *max_age_seconds*: from
    that age on a connection should carry no further turn.
    """

    max_age_seconds: float = inf
    begins_anew: bool = False
    keeps_instructions: bool = False
    repeats_ids: bool | None = None


PROVIDERS: dict[ProviderName, Provider] = {
    "azure": Provider(begins_anew=True),
    "openai": Provider(begins_anew=True, repeats_ids=False),
    "xai": Provider(max_age_seconds=1400, begins_anew=True, keeps_instructions=True, repeats_ids=True),
}
"""Sources: protocol notes, section 5."""

_DOMAINS: dict[str, ProviderName] = {
    "cognitiveservices.azure.com": "azure",
    "openai.azure.com": "azure",
    "services.ai.azure.com": "azure",
    "openai.com": "openai",
    "chatgpt.com": "openai",
    "x.ai": "xai",
}


def provider(name: Literal["auto", "openai", "xai"], host: str) -> Provider:
    """Return the provider of that *name*, or with "auto" the one that *host* belongs to, if it is known."""
    if name != "auto":
        return PROVIDERS[name]
    found = (PROVIDERS[each] for domain, each in _DOMAINS.items() if f".{host}".endswith(f".{domain}"))
    return next(found, Provider())
