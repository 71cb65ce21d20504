"""Citizen: what one kind of server does differently from OpenAI's documents.

The figures come from the owners' documents and, for CLIProxyAPI, LocalAI and LiteLLM, from their published source;
what xAI really does is as reported of its live service (anomalyco/opencode#48318).
"""

from dataclasses import dataclass
from typing import Literal

CachePolicy = Literal["latest", "per_lane", "store"]
CitizenName = Literal["openai", "cliproxyapi", "localai", "litellm", "xai", "azure"]
WarmUp = Literal["honoured", "lost", "ignored"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Citizen:
    """The traits of a server; the defaults are OpenAI's.

    *cache* says what a connection remembers: its latest response, the latest of each lane, or (``store``)
    everything, for everybody with the same credentials. *warm_up* says what becomes of ``generate: false``:
    it is honoured, acknowledged while its input is lost, or ignored so that the model answers anyway.
    *keeps_instructions*: a chain goes on with those of its first response, and a continuation may give none.
    *appends*: what comes on a connection goes on with the response before it there, whatever parent it names, and
    also behind a failure, unless the history shows a call or a message of the model, with its type; in any case it
    inherits the instructions if it gives none. No response names a parent.
    *repeats_ids*: all responses on a connection have one id. *is_curt*: some errors are a message and no more.
    """

    age_limit_seconds: float = 3600
    cache: CachePolicy = "per_lane"
    warm_up: WarmUp = "honoured"
    has_lanes: bool = True
    is_strict: bool = True
    refuses_second_create: bool = False
    keeps_instructions: bool = False
    appends: bool = False
    repeats_ids: bool = False
    is_curt: bool = False
    accepts_nested_create: bool = False
    ignores_unknown_frames: bool = False
    ignores_unknown_parent: bool = False
    replays_whole_chain: bool = True
    forgets_unstored: bool = False
    keeps_reasoning: bool = True
    gives_error_status: bool = True


CITIZENS: dict[CitizenName, Citizen] = {
    "openai": Citizen(),
    "azure": Citizen(cache="latest", has_lanes=False),
    "cliproxyapi": Citizen(cache="latest", has_lanes=False, appends=True),
    "xai": Citizen(
        age_limit_seconds=1500,
        cache="latest",
        has_lanes=False,
        keeps_instructions=True,
        repeats_ids=True,
        is_curt=True,
        forgets_unstored=True,
    ),
    "localai": Citizen(
        cache="store",
        warm_up="ignored",
        has_lanes=False,
        is_strict=False,
        refuses_second_create=True,
        replays_whole_chain=False,
        forgets_unstored=True,
        gives_error_status=False,
    ),
    "litellm": Citizen(
        cache="store",
        warm_up="lost",
        has_lanes=False,
        is_strict=False,
        accepts_nested_create=True,
        ignores_unknown_frames=True,
        ignores_unknown_parent=True,
        keeps_reasoning=False,
    ),
}
