"""The documents: what they point at is there."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxy.config import DOCS

ROOT = Path(__file__).parents[1]
DOCUMENTS = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
LOGGING = re.compile(r"\blog\b.*\.(debug|info|warning|error)$|^get\(\)\.log$")
"""How events are logged, such as `log.info` or `log.get("serve").warning`."""


def anchors(text: str) -> set[str]:
    """Return the names by which GitHub links to the headings of *text*."""
    headings = re.findall(
        r"^#+ (.*)$", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL), re.MULTILINE
    )
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    """To a file of this project, and where they name a heading, to one that it has."""
    text = document.read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", text):
        name, _, anchor = target.partition("#")
        file = document.parent / name if name else document
        assert file.exists(), target
        assert not anchor or anchor in anchors(file.read_text(encoding="utf-8")), target


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_is_told_to_be_set_is_a_setting(document: Path) -> None:
    """Wherever a document gives one a value in code, as `hoist = "on"` or PACKLIGHT_HOIST=on."""
    text = document.read_text(encoding="utf-8")
    told = re.findall(r'`([a-z_]+) = (?:"|\d|\[|true|false)', text)
    told += [name.lower() for name in re.findall(r"PACKLIGHT_([A-Z_]+)=", text)]
    assert set(told) <= set(DOCS)


@pytest.mark.parametrize("folder", [".", "core", "frontends", "server", "upstream"])
def test_each_module_has_its_noun_in_the_table(folder: str) -> None:
    """The table of docs/architecture.md says of every module what it is."""
    rows = re.findall(
        r"^\| `.*\.py`.*\|$", (ROOT / "docs/architecture.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    told = {Path(name).name for row in rows for name in re.findall(r"`([\w/]+\.py)`", row)}
    modules = {each.name for each in (ROOT / "proxy" / folder).glob("*.py") if not each.name.startswith("__")}
    assert modules
    assert modules <= told


def logged(module: Path) -> Iterator[str]:
    """Yield the names of the events that *module* logs."""
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and LOGGING.search(ast.unparse(node.func)):
            words = [each.value for each in node.args if isinstance(each, ast.Constant)]
            yield from (each for each in words[:1] if isinstance(each, str))


def test_each_event_of_the_log_is_explained() -> None:
    """The log's part of docs/figures.md has them all, and no others; the simulated upstream logs nothing here."""
    modules = [each for each in (ROOT / "proxy").rglob("*.py") if "simulator" not in each.parts]
    _, _, log = (ROOT / "docs/figures.md").read_text(encoding="utf-8").partition("\n## The log\n")
    told = re.findall(r"^\| `(\w+)` \|", log, re.MULTILINE)
    assert sorted(told) == sorted({event for module in modules for event in logged(module)})
