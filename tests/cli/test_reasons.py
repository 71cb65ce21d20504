"""Reasons: each has a sentence."""

import re
from pathlib import Path

from proxy.cli.reasons import EXPLANATIONS, explain
from proxy.core.delta import Mismatch


def test_every_reason_is_explained_in_a_sentence() -> None:
    """The list is that of the core, no more and no less."""
    assert set(EXPLANATIONS) == set(Mismatch)
    assert all(text[0].isupper() or text.startswith("packlight") for text in EXPLANATIONS.values())
    assert all(text.endswith(".") for text in EXPLANATIONS.values())


def test_the_document_has_the_same_sentences() -> None:
    """docs/reasons.md lists them all, in this order."""
    text = (Path(__file__).parents[2] / "docs/reasons.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `(\w+)` \| (.*) \|$", text, re.MULTILINE) == list(EXPLANATIONS.items())


def test_a_reason_of_a_newer_proxy_is_admitted() -> None:
    """It isn't an error."""
    assert explain("brand_new") == "A reason that this version of packlight does not know."
