"""Echo: how each agent writes the model's output into its next request (recorded from the real programs)."""

import json  # noqa: TID251  (OpenHands writes arguments as Python's json does)
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias
from uuid import NAMESPACE_OID, uuid5

import orjson

Item: TypeAlias = dict[str, Any]
Items: TypeAlias = list[Item]
Rewrite: TypeAlias = Callable[[Item], Iterable[Item]]
Echo: TypeAlias = Callable[[Items], Items]

ABSENT_CALL_FIELDS = {"caller": None, "namespace": None}


def echo(style: str, output_items: Items) -> Items:
    """Return *output_items* as the agent *style* sends them back; they are left as they are."""
    return STYLES[style](output_items)


def agent(*, reasoning: Rewrite, message: Rewrite, call: Rewrite) -> Echo:
    """Return the echo of an agent that rewrites each kind of item in its own way; other kinds are kept."""
    rewrites = {"reasoning": reasoning, "message": message, "function_call": call, "custom_tool_call": call}

    def echoed(output_items: Items) -> Items:
        copies = orjson.loads(orjson.dumps(output_items))
        return [echo for item in copies for echo in rewrites.get(item["type"], same)(item)]

    return echoed


def same(item: Item) -> Items:
    """Keep *item*."""
    return [item]


def dropped(item: Item) -> Items:
    """Leave *item* out."""
    return []


def reordered(item: Item) -> Items:
    """Write the keys of *item* in another order."""
    return [orjson.loads(orjson.dumps(item, option=orjson.OPT_SORT_KEYS))]


def reference(item: Item) -> Items:
    """Refer to *item* where upstream stores it."""
    return [{"type": "item_reference", "id": item["id"]}]


def kept_if_sealed(item: Item) -> Items:
    """Keep reasoning only with its ciphertext."""
    return [item] if item.get("encrypted_content") else []


def only_ciphertext(item: Item) -> Items:
    """Keep nothing of reasoning but the ciphertext."""
    return [{"type": "reasoning", "summary": [], "encrypted_content": item["encrypted_content"]}]


def split(item: Item) -> Items:
    """Write an item for each part of a summary."""
    return [{**item, "summary": [part]} for part in item["summary"]] or [item]


def chain(*rewrites: Rewrite) -> Rewrite:
    """Apply one rewrite after another."""

    def rewritten(item: Item) -> Items:
        items = [item]
        for rewrite in rewrites:
            items = [result for each in items for result in rewrite(each)]
        return items

    return rewritten


def without(*names: str) -> Rewrite:
    """Leave out fields of the item, or of the parts of its content."""

    def rewritten(item: Item) -> Items:
        kept = {name: value for name, value in item.items() if name not in names}
        if isinstance(kept.get("content"), list):
            kept["content"] = [
                {name: value for name, value in part.items() if name not in names or name == "type"}
                for part in kept["content"]
            ]
        return [kept]

    return rewritten


def adding(values: Mapping[str, Any]) -> Rewrite:
    """Add fields that the item does not have."""
    return lambda item: [{**values, **item}]


def renamed(name: Callable[[Item], str]) -> Rewrite:
    """Give the item another id."""
    return lambda item: [{**item, "id": name(item)}]


def as_string(item: Item) -> Items:
    """Write the content of a message as one string."""
    return [{**item, "content": "".join(part.get("text", "") for part in item["content"])}]


def like_javascript(item: Item) -> Items:
    """Write arguments as JSON.stringify does."""
    return _reserialised(item, lambda value: orjson.dumps(_whole(value)).decode())


def like_python(item: Item) -> Items:
    """Write arguments as json.dumps does."""
    return _reserialised(item, json.dumps)


def _reserialised(item: Item, dumps: Callable[[Any], str]) -> Items:
    try:
        return [{**item, "arguments": dumps(orjson.loads(item["arguments"]))}]
    except (KeyError, orjson.JSONDecodeError):  # a custom tool's input, or what the agent cannot read either
        return [item]


def _whole(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list):
        return [_whole(each) for each in value]
    if isinstance(value, dict):
        return {name: _whole(each) for name, each in value.items()}
    return value


def _uuid(item: Item) -> str:
    return str(uuid5(NAMESPACE_OID, item["id"]))


def _copilot_id(item: Item) -> str:
    return f"{'fc' if item['type'] == 'function_call' else 'ctc'}_{item['call_id']}"


BARE = without("id", "status", "annotations", "logprobs", "phase")
ANONYMOUS = without("id", "status")
REWRITTEN_CALL = chain(ANONYMOUS, like_javascript)

IDENTICAL = agent(reasoning=same, message=same, call=same)
REORDERED = agent(reasoning=reordered, message=reordered, call=reordered)
IN_TURN = adding({"internal_chat_message_metadata_passthrough": {"turn_id": "019a"}})
PI = agent(reasoning=same, message=without("logprobs"), call=chain(without("status"), like_javascript))
OPENCODE = agent(
    reasoning=without("id"),
    message=without("id", "type", "status", "annotations", "logprobs"),
    call=REWRITTEN_CALL,
)
LANGCHAIN_MESSAGE = without("id", "status", "logprobs")

STYLES: dict[str, Echo] = {
    "openai_node": IDENTICAL,
    "openai_agents_js": IDENTICAL,
    "openai_python": REORDERED,
    "openai_python_model_dump": agent(
        reasoning=adding({"content": None, "status": None}),
        message=adding({"phase": None}),
        call=adding({"async_": None, **ABSENT_CALL_FIELDS}),
    ),
    "openai_agents_python": REORDERED,
    "litellm_responses": REORDERED,
    "codex": agent(reasoning=chain(adding({"content": None}), reordered), message=reordered, call=reordered),
    "codex_openai": agent(reasoning=chain(adding({"content": None}), IN_TURN), message=IN_TURN, call=IN_TURN),
    "pi": PI,
    "pi_mariozechner": PI,
    "copilot": agent(
        reasoning=same, message=chain(without("logprobs"), renamed(_uuid)), call=renamed(_copilot_id)
    ),
    "copilot_resumed": agent(
        reasoning=dropped,
        message=chain(without("logprobs"), renamed(_uuid)),
        call=chain(renamed(_copilot_id), like_javascript),
    ),
    "langchain": agent(reasoning=reordered, message=LANGCHAIN_MESSAGE, call=same),
    "langchain_streaming": agent(reasoning=reordered, message=LANGCHAIN_MESSAGE, call=without("status")),
    "langchain_v0": agent(reasoning=reordered, message=LANGCHAIN_MESSAGE, call=like_javascript),
    "pydantic_ai": agent(
        reasoning=reordered, message=without("logprobs"), call=chain(without("status"), like_javascript)
    ),
    "opencode": OPENCODE,
    "kilo": OPENCODE,
    "ai_sdk_unstored": agent(
        reasoning=reordered, message=chain(without("id", "type", "status"), as_string), call=REWRITTEN_CALL
    ),
    "ai_sdk_stored": agent(reasoning=reference, message=reference, call=REWRITTEN_CALL),
    "openhands": agent(reasoning=reordered, message=BARE, call=chain(without("status"), like_python)),
    "qwen": agent(reasoning=kept_if_sealed, message=chain(ANONYMOUS, as_string), call=REWRITTEN_CALL),
    "litellm_bridge": agent(reasoning=reordered, message=BARE, call=ANONYMOUS),
    "litellm_bridge_streaming": agent(reasoning=dropped, message=BARE, call=ANONYMOUS),
    "cline": agent(reasoning=dropped, message=chain(BARE, without("type")), call=REWRITTEN_CALL),
    "continue": agent(
        reasoning=dropped,
        message=chain(without("logprobs", "phase"), renamed(lambda item: "msg_0000")),
        call=REWRITTEN_CALL,
    ),
    "gptme": agent(
        reasoning=dropped, message=chain(without("id", "type", "status", "phase"), as_string), call=REWRITTEN_CALL
    ),
    "vibe": agent(reasoning=reordered, message=dropped, call=ANONYMOUS),
    "mini_swe_agent": agent(reasoning=reordered, message=reordered, call=adding(ABSENT_CALL_FIELDS)),
    "clodex_only_ciphertext": agent(reasoning=only_ciphertext, message=same, call=same),
    "clodex_split_summaries": agent(reasoning=split, message=same, call=same),
    "chat_openai_node": agent(reasoning=dropped, message=chain(BARE, as_string), call=ANONYMOUS),
    "chat_ai_sdk": agent(reasoning=dropped, message=BARE, call=REWRITTEN_CALL),
}
"""Every style that goes on with a conversation, by the agent (and its mode) that writes so.

The two named after clodex are what issues report, and the two of chat are what a chat history has to offer.
"""

DROPS_REASONING = frozenset(
    {
        "copilot_resumed",
        "litellm_bridge_streaming",
        "cline",
        "continue",
        "gptme",
        "chat_openai_node",
        "chat_ai_sdk",
    }
)
"""Styles that never send reasoning back; `qwen` drops it only where it came without ciphertext."""

DROPS_TEXT = frozenset({"vibe"})
"""Styles that lose the text next to a call."""
