"""Echoes: the ways in which agents write down what the model said."""

import json  # noqa: TID251  (as agents do)
from typing import Any, TypeAlias
from collections.abc import Callable

Raw: TypeAlias = dict[str, Any]
Echo: TypeAlias = Callable[[list[Raw]], list[Raw]]


def _verbatim(outputs: list[Raw]) -> list[Raw]:
    return outputs


def _bare(outputs: list[Raw]) -> list[Raw]:
    return [
        {k: v for k, v in raw.items() if k not in {"id", "status", "phase"}}
        if raw["type"] != "reasoning" or "encrypted_content" in raw
        else raw
        for raw in outputs
    ]


def _strings(outputs: list[Raw]) -> list[Raw]:
    return [
        {"role": "assistant", "content": "".join(part["text"] for part in raw["content"])}
        if raw["type"] == "message"
        else raw
        for raw in outputs
    ]


def _reparsed(outputs: list[Raw]) -> list[Raw]:
    return [{**raw, "arguments": _rewritten(raw["arguments"])} if "arguments" in raw else raw for raw in outputs]


def _rewritten(text: str) -> str:
    try:
        return json.dumps(json.loads(text))
    except ValueError:
        return text


def _no_reasoning(outputs: list[Raw]) -> list[Raw]:
    return [raw for raw in outputs if raw["type"] != "reasoning"]


def _no_text(outputs: list[Raw]) -> list[Raw]:
    return [raw for raw in outputs if raw["type"] not in {"reasoning", "message"}]


def _split(outputs: list[Raw]) -> list[Raw]:
    split: list[Raw] = []
    for raw in outputs:
        if raw["type"] == "reasoning" and len(raw["summary"]) > 1:
            split += [{**raw, "summary": [part]} for part in raw["summary"]]
        else:
            split.append(raw)
    return split


def _no_summary(outputs: list[Raw]) -> list[Raw]:
    return [{**raw, "summary": []} if raw["type"] == "reasoning" else raw for raw in outputs]


def _references(outputs: list[Raw]) -> list[Raw]:
    return [{"type": "item_reference", "id": raw["id"]} for raw in outputs]


ECHOES: list[tuple[str, Echo]] = [
    ("verbatim", _verbatim),
    ("bare", _bare),
    ("strings", _strings),
    ("reparsed", _reparsed),
    ("no_reasoning", _no_reasoning),
    ("split", _split),
    ("no_summary", _no_summary),
    ("references", _references),
    ("no_text", _no_text),
]
