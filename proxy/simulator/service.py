"""Service: the model side, where a request becomes a response. It does no I/O.

read() validates a turn and reconstructs its context; answer() asks the script; commit() makes the response one
that can be continued; reject() notes a refusal and evicts what it tried to continue.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from proxy.simulator.apierror import ApiError, invalid, previous_response_not_found, unsupported
from proxy.simulator.chain import ConnectionCache, Memory, Store
from proxy.simulator.effective import effective_settings
from proxy.simulator.faults import Faults
from proxy.simulator.items import Names, output_items
from proxy.simulator.messages import items_of_messages
from proxy.simulator.model import Body, Item, ModelCall, Output, Script
from proxy.simulator.parameters import check_parameters
from proxy.simulator.records import Journal, SimulatedTurn
from proxy.simulator.rendering import PromptCache, tokens
from proxy.simulator.response import begun, usage
from proxy.simulator.settings import SimulatorSettings
from proxy.simulator.validation import REQUIRED, check_context, input_items

DEARER = 8
"""Tokens that an item which gives tools takes more than those tools in a request, where it is dearer."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """A valid turn whose context is complete; *size* and *cached* are in tokens."""

    turn: SimulatedTurn
    request: Body
    size: int
    cached: int


@dataclass(frozen=True, slots=True)
class Plan:
    """What a turn will be answered with; *response* is the object as it begins."""

    turn: SimulatedTurn
    output: Output
    items: list[Item]
    response: Body
    usage: Body
    names: Names


class Service:
    """The state that outlives connections, and the rules."""

    def __init__(
        self, settings: SimulatorSettings, script: Script, journal: Journal, now: Callable[[], float]
    ) -> None:
        self.settings = settings
        self.script = script
        self.journal = journal
        self.faults = Faults()
        self.store = Store()
        self.script_failures: list[Exception] = []
        self._prompts = PromptCache()
        self._now = now
        self._answered = 0

    def timestamp(self) -> int:
        """Return the time as responses tell it."""
        return int(self._now())

    def read(self, turn: SimulatedTurn, cache: ConnectionCache | None) -> Prompt:
        """Reconstruct what *turn* asks; raise ApiError to refuse it. *cache* is its connection's memory."""
        request = self._request(turn)
        kind = "chat" if turn.endpoint == "chat" else turn.transport
        check_parameters(request, kind, self.settings)
        turn.effective = effective_settings(turn.endpoint, request)
        turn.generate = self._generates(turn, request)
        turn.previous_response_id = request.get("previous_response_id")
        if turn.endpoint == "chat":
            inherited: tuple[Item, ...] = ()
            turn.input = items_of_messages(request.get("messages"))
        else:
            parent = self._parent(turn, cache)
            inherited = self._inherited(parent)
            if parent is not None and self.settings.traits.keeps_instructions:
                turn.effective["instructions"] = parent.instructions
            elif self.settings.traits.appends and "instructions" not in request:
                latest = cache.latest if cache is not None else None
                turn.effective["instructions"] = latest.instructions if latest is not None else None
            turn.input = self._resolved(input_items(request.get("input")), inherited, turn)
        turn.context = [*inherited, *turn.input]
        given = self._check_additional_tools(turn)
        check_context(turn.context, generate=turn.generate, refuse_duplicates=self.settings.refuse_duplicates)
        scope = f"{turn.identity}/{turn.connection_id if turn.transport == 'ws' else 'http'}"
        size, cached = self._prompts.read(scope, turn.effective, turn.context)
        size += DEARER * given if self.settings.additional_tools == "dearer" else 0
        self._check_length(size, "messages" if turn.endpoint == "chat" else "input")
        return Prompt(turn, request, size, cached)

    def answer(self, prompt: Prompt) -> Plan:
        """Let the script decide what the model says."""
        turn, output = prompt.turn, Output(())
        if turn.generate:
            context = tuple(turn.context)
            call = ModelCall(prompt.request, context, self._answered, turn.transport, turn.endpoint)
            output = self._asked(call)
        names = Names(self.settings.seed, turn.number)
        turn.response_id = self._response_id(turn, names)
        turn.status = "in_progress"
        turn.output = output_items(output, names, top_logprobs=turn.effective["logprobs"])
        turn.usage = usage(
            read=prompt.size, cached=prompt.cached, output=turn.output, written=_written(turn.output)
        )
        response = begun(prompt.request, turn.response_id, self.timestamp())
        if self.settings.traits.appends:
            del response["previous_response_id"]
        if not self.settings.repeat_settings:
            response |= {"instructions": None, "tools": []}
        return Plan(turn, output, turn.output, response, turn.usage, names)

    def _response_id(self, turn: SimulatedTurn, names: Names) -> str:
        if self.settings.traits.repeats_ids and turn.transport == "ws":
            return Names(self.settings.seed, turn.connection_id).id("response")
        return names.id("response")

    def _asked(self, call: ModelCall) -> Output:
        self._answered += 1
        try:
            return self.script(call)
        except Exception as exc:
            # The asker gets a 500; whoever wrote the script gets the exception when the simulator stops.
            self.script_failures.append(exc)
            raise ApiError(500, f"The script failed: {exc!r}") from exc

    def commit(self, plan: Plan, cache: ConnectionCache | None, finished: Body) -> None:
        """Remember a completed response, as *finished*."""
        turn, traits = plan.turn, self.settings.traits
        if turn.endpoint == "chat" or (not turn.generate and traits.warm_up == "lost"):
            return
        memory = Memory(
            response_id=str(plan.response["id"]),
            lane=turn.stream_id,
            context=tuple(turn.context),
            input=tuple(turn.input),
            output=tuple(plan.items),
            response=finished,
            instructions=turn.effective.get("instructions"),
        )
        stored = plan.response["store"] is not False
        if traits.forgets_unstored and not stored:
            return
        if cache is not None:
            cache.remember(memory)
        if stored or self.settings.cache_policy == "store":
            self.store.remember(turn.identity, memory)

    def reject(self, turn: SimulatedTurn, error: ApiError, cache: ConnectionCache | None) -> None:
        """Note that *turn* failed, which evicts the response that it continued on its own lane."""
        turn.status = "rejected" if turn.response_id is None else "failed"
        turn.error = error
        self.evict(turn, cache)
        self.journal.note()

    def evict(self, turn: SimulatedTurn, cache: ConnectionCache | None) -> None:
        """Forget the response that *turn* continued, if it was its own lane's; not all servers do."""
        parent = turn.request.get("previous_response_id")
        if cache is not None and isinstance(parent, str) and not self.settings.traits.appends:
            cache.evict(parent, lane=turn.stream_id)

    def _request(self, turn: SimulatedTurn) -> Body:
        nested = turn.request.get("response")
        if turn.transport != "ws" or not isinstance(nested, dict):
            return turn.request
        if self.settings.traits.accepts_nested_create:
            return {"type": "response.create", **nested}
        raise invalid("Unknown parameter: 'response'.", param="response", code="unknown_parameter")

    def _check_additional_tools(self, turn: SimulatedTurn) -> int:
        """Return how many items give tools; raise ApiError where they are refused."""
        for index, item in enumerate(turn.input):
            if item["type"] == "additional_tools" and self.settings.additional_tools == "refused":
                supported = (kind for kind in REQUIRED if kind != "additional_tools")
                raise unsupported("additional_tools", supported, f"input[{index}].type")
        return sum(item.get("type") == "additional_tools" for item in turn.context)

    def _generates(self, turn: SimulatedTurn, request: Body) -> bool:
        if turn.transport == "http" or self.settings.traits.warm_up == "ignored":
            return True
        options = request.get("prompt_cache_options")
        prewarms = isinstance(options, dict) and options.get("prewarm") is True
        return request.get("generate") is not False and not prewarms

    def _parent(self, turn: SimulatedTurn, cache: ConnectionCache | None) -> Memory | None:
        """Return the response that *turn* continues; None where it continues none."""
        parent = turn.previous_response_id
        if self.settings.traits.appends and cache is not None and (latest := cache.latest) is not None:
            return latest if parent or not _shows_model(turn.request) else None
        if not parent:
            return None
        memory = cache.recall(parent) if cache is not None else None
        may_hydrate = cache is None or self.settings.hydrate or self.settings.cache_policy == "store"
        if memory is None and may_hydrate:
            memory = self.store.recall(turn.identity, parent)
        if memory is None and not self.settings.traits.ignores_unknown_parent:
            raise previous_response_not_found(parent, curt=self.settings.traits.is_curt)
        return memory

    def _inherited(self, memory: Memory | None) -> tuple[Item, ...]:
        if memory is None:
            return ()
        continued = memory.continued(self.settings.traits)
        if self.settings.additional_tools == "forgotten":
            return tuple(item for item in continued if item.get("type") != "additional_tools")
        return continued

    def _resolved(self, items: list[Item], inherited: tuple[Item, ...], turn: SimulatedTurn) -> list[Item]:
        references = [item["id"] for item in items if item["type"] == "item_reference"]
        if not references:
            return items
        known = {item["id"]: item for item in inherited if item.get("id")}
        found: dict[str, Item] = {}
        for name in references:
            item = known.get(name) or self.store.item(turn.identity, name)
            if item is None:
                raise ApiError(404, f"Item with id '{name}' not found.", param="input")
            found[name] = item
        return [found[item["id"]] if item["type"] == "item_reference" else item for item in items]

    def _check_length(self, size: int, field: str) -> None:
        limit = self.settings.context_limit_tokens
        if limit is None or size <= limit:
            return
        words = "Your input exceeds the context window of this model. Please adjust your input and try again."
        if field == "messages":
            words = f"This model's maximum context length is {limit} tokens. Your messages have {size} tokens."
        raise invalid(words, code="context_length_exceeded", param=field)


def _shows_model(request: Body) -> bool:
    """Whether the history of *request* has a call, or a message of the model that has its type."""
    items = request.get("input")
    return isinstance(items, list) and any(
        item.get("type") in ("function_call", "custom_tool_call")
        or (item.get("type") == "message" and item.get("role") == "assistant")
        for item in items
    )


def _written(items: list[Item]) -> int:
    said: list[Any] = [item for item in items if item.get("type") != "reasoning"]
    return tokens(said) + 64 * (len(items) - len(said))
