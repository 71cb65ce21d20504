"""Items: the parts of an output as the items that a server would send, with ids and ciphertext."""

import base64
import random
from typing import Any

from proxy.simulator.logprobs import logprobs
from proxy.simulator.model import (
    Compaction,
    CustomToolCall,
    Declined,
    FunctionCall,
    Item,
    Output,
    Part,
    Reasoning,
    Text,
    Verbatim,
    WebSearch,
)

PREFIXES = {
    "message": "msg",
    "reasoning": "rs",
    "function_call": "fc",
    "custom_tool_call": "ctc",
    "web_search_call": "ws",
    "compaction": "cmp",
    "response": "resp",
    "call": "call",
}


class Names:
    """Ids, ciphertext and padding of one response: random to look at, the same for the same seed and turn."""

    def __init__(self, seed: int, turn: int) -> None:
        self._random = random.Random(f"{seed}/{turn}")
        self._turn = turn

    def id(self, kind: str) -> str:
        """Return a new id for a *kind* of item."""
        prefix = PREFIXES.get(kind, kind.partition("_")[0])
        length = 24 if kind == "call" else 40
        return f"{prefix}_{self._turn:06x}{self._random.randbytes(length // 2).hex()}"

    def ciphertext(self, size: int) -> str:
        """Return *size* characters, at least, that don't compress: like Fernet tokens."""
        return "gAAAAA" + base64.urlsafe_b64encode(self._random.randbytes(size * 3 // 4)).decode()

    def obfuscation(self, length: int) -> str:
        """Return the padding that hides a delta's *length*."""
        alphabet = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
        return "".join(self._random.choices(alphabet, k=16 - length % 16))


def output_items(output: Output, names: Names, *, top_logprobs: int | None = None) -> list[Item]:
    """Return the finished items of *output*; with logprobs unless *top_logprobs* is None."""
    items = [_item(part, names) for part in output.parts]
    if top_logprobs is None:
        return items
    return [_with_logprobs(item, output.delta_size, top_logprobs) for item in items]


def _with_logprobs(item: Item, delta_size: int, top: int) -> Item:
    if item.get("type") != "message":
        return item
    content = [
        {**part, "logprobs": logprobs(part["text"], delta_size=delta_size, top=top)}
        if part["type"] == "output_text"
        else part
        for part in item["content"]
    ]
    return {**item, "content": content}


def _item(part: Part, names: Names) -> Item:
    match part:
        case Reasoning(summary, size):
            texts = [{"type": "summary_text", "text": text} for text in summary]
            ciphertext = names.ciphertext(size)
            return {
                "id": names.id("reasoning"),
                "type": "reasoning",
                "summary": texts,
                "encrypted_content": ciphertext,
            }
        case Text(text, phase):
            content = {"type": "output_text", "annotations": [], "logprobs": [], "text": text}
            return _message(content, names, phase)
        case Declined(text):
            return _message({"type": "refusal", "refusal": text}, names, None)
        case FunctionCall(name, arguments):
            return _call("function_call", part, names, {"name": name, "arguments": arguments})
        case CustomToolCall(name, text):
            return _call("custom_tool_call", part, names, {"name": name, "input": text})
        case WebSearch(query):
            action = {"type": "search", "query": query, "queries": [query]}
            return {
                "id": names.id("web_search_call"),
                "type": "web_search_call",
                "status": "completed",
                "action": action,
            }
        case Compaction(size):
            return {
                "id": names.id("compaction"),
                "type": "compaction",
                "encrypted_content": names.ciphertext(size),
            }
        case Verbatim(item):
            return {"id": names.id(str(item.get("type", "item"))), **item}


def _call(kind: str, part: FunctionCall | CustomToolCall, names: Names, said: dict[str, Any]) -> Item:
    call: Item = {"call_id": part.call_id or names.id("call"), **said}
    if part.namespace is not None:
        call["namespace"] = part.namespace
    return {"id": names.id(kind), "type": kind, "status": "completed", **call}


def _message(content: dict[str, Any], names: Names, phase: str | None) -> Item:
    message: Item = {
        "id": names.id("message"),
        "type": "message",
        "status": "completed",
        "content": [content],
        "role": "assistant",
    }
    if phase:
        message["phase"] = phase
    return message
