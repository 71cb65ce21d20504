"""Which requests go upstream otherwise than the agents wrote them, and how we know that they mean the same.

Settings may be told once per chain, as items (`core/hoist.py`), and events asked for without padding. Whether
both forms are one to upstream is a verdict for a partition, a model and the settings in question. It comes from a
probe (three small requests) or from the user. A form that upstream refuses is not used again.
"""

from collections.abc import Callable
from typing import Any, Literal

import structlog

from proxy.core.delta import Delta, Full, Mismatch, TurnRequest
from proxy.core.events import GarbledEvent
from proxy.core.hoist import Form
from proxy.core.items import Item
from proxy.core.turn import Rewrite, State, Turn
from proxy.errors import REJECTIONS, UpstreamError, UpstreamUnavailable
from proxy.ledger import Ledger
from proxy.upstream.background import Background
from proxy.upstream.partition import NoLease, Partition
from proxy.upstream.pool import Lease, Pool

log = structlog.get_logger("rewriting")

_ASKED = "Answer with the word yes and nothing else. Do not use any tool."
_LONG = (
    "stands here so that the tokens of a setting can be counted, once where it is a field of a request and once "
    "where it is an item of the conversation. It is longer than everything that is said afterwards, and so its "
    "absence from the count would show. It has no meaning beyond that."
)
_SETTINGS: dict[str, Any] = {
    "instructions": f"This text {_LONG}",
    "custom": {"type": "custom", "name": "unused_text", "description": f"Does nothing; it {_LONG}"},
    "function": {
        "type": "function",
        "name": "unused",
        "description": f"Does nothing; it {_LONG}",
        "parameters": {"type": "object", "properties": {}, "required": [], "additionalProperties": False},
        "strict": False,
    },
}


class Rewriting:
    """Decides, for each request, how it may be rewritten; *hoist* and *quiet* are what the user permits.

    *keeps_instructions* says that upstream goes on with those that a chain began with, and takes no more of them.
    *timeout* is how long a probe waits for each event, and *retry_seconds* how long until the next one where
    upstream could not be asked. `close` ends it.
    """

    def __init__(
        self,
        pool: Pool,
        ledger: Ledger,
        *,
        hoist: Literal["off", "auto", "on"],
        quiet: bool,
        keeps_instructions: bool,
        timeout: float,
        retry_seconds: float,
        clock: Callable[[], float],
    ) -> None:
        self._pool = pool
        self._ledger = ledger
        self._hoist = hoist
        self._quiet = quiet
        self._keeps_instructions = keeps_instructions
        self._timeout = timeout
        self._retry_seconds = retry_seconds
        self._clock = clock
        self._background = Background()
        self._is_probing = False
        self._next_probe_at = 0.0

    async def close(self) -> None:
        """Give up the probe that is under way."""
        await self._background.close(0)

    def prepared(self, request: TurnRequest) -> TurnRequest:
        """Return *request* with the settings that may be hoisted, if the user permits hoisting."""
        return request if self._hoist == "off" else request.hoistable()

    def allowed(self, request: TurnRequest, partition: Partition) -> frozenset[Rewrite]:
        """Return how *request* may be rewritten."""
        rewrites = set()
        if request.hoisted is not None and partition.verdicts.get(request.hoisted.form, self._hoist == "on"):
            rewrites.add(Rewrite.HOISTED)
        if self._quiet and partition.verdicts.get(Rewrite.QUIET, True):
            rewrites.add(Rewrite.QUIET)
        if self._keeps_instructions:
            rewrites.add(Rewrite.KEPT)
        return frozenset(rewrites)

    def learn(self, turn: Turn, partition: Partition) -> None:
        """Take note of how *turn* went that has ended, and begin a probe where one is due."""
        hoisted = turn.request.hoisted
        if turn.state not in {State.COMPLETED, State.INCOMPLETE}:
            return
        self._ledger.hoists["turns"] += turn.hoisted is not None
        for each in turn.refused:
            form = hoisted.form if each is Rewrite.HOISTED and hoisted is not None else each
            self._judge(partition, form, equal=False, refused=True)
        if self._hoist == "auto" and hoisted is not None and self._may_probe(partition, hoisted.form):
            self._is_probing = True
            self._background.start(self._probe(turn.request, hoisted.form, partition), "probe hoisting")

    def _may_probe(self, partition: Partition, form: Form) -> bool:
        return (
            form not in partition.verdicts
            and not self._is_probing
            and self._clock() >= self._next_probe_at
            and self._pool.has_room(partition)
        )

    async def _probe(self, request: TurnRequest, form: Form, partition: Partition) -> None:
        try:
            self._judge(partition, form, **await self._ask(request, form, partition))
        except UpstreamError as exc:
            if exc.status in REJECTIONS:
                self._judge(partition, form, equal=False, refused=True)
            else:
                self._next_probe_at = self._clock() + self._retry_seconds
        except (NoLease, UpstreamUnavailable, GarbledEvent):
            self._next_probe_at = self._clock() + self._retry_seconds
        finally:
            self._is_probing = False

    def _judge(self, partition: Partition, form: Form | Rewrite, *, equal: bool, **figures: Any) -> None:
        partition.judge(form, equal=equal)
        if isinstance(form, Rewrite):
            log.warning("rewrite_refused", rewrite=form.value)
            return
        self._ledger.hoists["proven" if equal else "disproven"] += 1
        model, settings = form
        log.info("hoist_verdict", equal=equal, model=model, settings=",".join(settings), **figures)

    async def _ask(self, request: TurnRequest, form: Form, partition: Partition) -> dict[str, Any]:
        """Have upstream count a small request in both forms, and what a chain that was hoisted carries on."""
        small = _small(request, form)
        async with self._pool.lease(small, partition) as lease:
            try:
                plain = await self._tokens_read(Turn(small), Full(Mismatch.FIRST_TURN), lease)
                hoisting = Turn(small, rewrites=frozenset({Rewrite.HOISTED}))
                hoisted = await self._tokens_read(hoisting, Full(Mismatch.FIRST_TURN), lease)
                chained = 0
                if (baseline := hoisting.baseline) is not None:
                    answers = [
                        Item.of({"type": f"{each.type}_output", "call_id": each.call_id, "output": "-"})
                        for each in baseline.outputs
                        if each.call_id is not None
                    ]
                    more = Delta(baseline, (*answers, *small.items))
                    chained = await self._tokens_read(Turn(small), more, lease)
            finally:
                lease.connection.baseline = None  # of no use to any agent
        equal = 0 < plain == hoisted < chained
        return {"equal": equal, "plain": plain, "hoisted": hoisted, "chained": chained}

    async def _tokens_read(self, turn: Turn, upload: Delta | Full, lease: Lease) -> int:
        """Run *turn* once; return how many tokens upstream read for it, 0 where it refused or did not say."""
        await lease.send(lease.start(turn, upload))
        while turn.in_flight:
            turn.receive(await lease.connection.receive(self._timeout, "event_timeout"))
        lease.ended(turn)
        return turn.reading.read if turn.finished and turn.reading is not None else 0


def _small(request: TurnRequest, form: Form) -> TurnRequest:
    """Return a request of the same *form* and for the same model as *request*, with as little in it as will do."""
    _, settings = form
    tools = [_SETTINGS[kind] for kind in settings if kind != "instructions"]
    told = {"instructions": _SETTINGS["instructions"]} if "instructions" in settings else {}
    told |= {"tools": tools} if tools else {}
    asked = {"type": "message", "role": "user", "content": _ASKED}
    return request.probe(asked, **told).hoistable()
