"""Story: what the person asks and what the model does about it, turn by turn."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import orjson

from proxy.simulator import FunctionCall, Output, Reasoning, Text
from proxy.simulator.model import Part

CIPHERTEXT_BYTES = 900  # what reasoning items carry; it does not compress


@dataclass(frozen=True, slots=True)
class Step:
    """One turn: the person's *prompt*, if there is one, and the model's *output*.

    With *rewinds*, the person goes back to their latest prompt and asks this instead.
    """

    output: Output
    prompt: str | None = None
    rewinds: bool = False


def acts(say: str, *calls: FunctionCall) -> Output:
    """Return an output in which the model thinks, says what it is about to do, and calls tools."""
    spoken: tuple[Part, ...] = (Text(say, "commentary"),) if say else ()
    return Output((Reasoning(("**Deciding what to do next**",), CIPHERTEXT_BYTES), *spoken, *calls))


def answers(text: str) -> Output:
    """Return an output that ends the model's work on a prompt."""
    return Output((Reasoning((), CIPHERTEXT_BYTES // 2), Text(text, "final_answer")))


def call(tool: str, /, **arguments: Any) -> FunctionCall:
    """Return a call of *tool*."""
    return FunctionCall(tool, orjson.dumps(arguments).decode())


def read(path: str) -> FunctionCall:
    """Return a call that reads the whole of *path*."""
    return call("read_file", path=path, first_line=None, last_line=None)


def run_tests(pattern: str | None = None) -> FunctionCall:
    """Return a call that runs the tests."""
    return call("run_tests", pattern=pattern)


REPAIR = (
    Step(
        acts("I'll look at the project first.", call("list_files", path=".", depth=None)),
        prompt="Some tests of the pricing fail since last week, and a customer complained that a voucher took off "
        "too much. Please find out why, and repair it.",
    ),
    Step(acts("Now the rules, and what fails.", read("README.md"), run_tests())),
    Step(acts("", read("shop/pricing.py"), read("tests/test_pricing.py"))),
    Step(
        acts(
            "Two things look suspicious: the comparison in quantity_discount, and what the voucher is taken from. "
            "Who else depends on them?",
            call("search_text", pattern=r"quantity_discount|voucher\.off", path=".", ignore_case=None),
            read("shop/basket.py"),
        )
    ),
    Step(
        acts(
            'The README says "from 10 pieces on", so 10 pieces have to count.',
            call(
                "edit_file",
                path="shop/pricing.py",
                old="        if line.pieces > pieces:\n",
                new="        if line.pieces >= pieces:\n",
            ),
        )
    ),
    Step(acts("", run_tests("test_pricing"))),
    Step(
        acts(
            "The quantity discounts are right. The voucher is for what is left after them (rule 3).",
            call(
                "edit_file",
                path="shop/pricing.py",
                old="voucher.off(basket.gross) if voucher else 0",
                new="voucher.off(basket.gross - by_quantity) if voucher else 0",
            ),
            run_tests(),
        )
    ),
    Step(
        answers(
            "There were two causes, both in `shop/pricing.py`. `quantity_discount` compared with `>` where the "
            'rules say "from 10 (25) pieces on", so exactly 10 or 25 pieces got too little. And `price` took the '
            "voucher from the basket's gross amount and not from what is left after the quantity discounts, so it "
            "took off too much, and a large one could even make the total negative. All 19 tests pass now."
        )
    ),
)

CSV_TEXT = '''

def csv_text(baskets):
    """Return the report of the day as CSV for a spreadsheet: product, pieces, and what it earned in cents."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["product", "pieces", "earned"])
    writer.writerows([row.name, row.pieces, row.earned] for row in sold(baskets))
    return text.getvalue()
'''

CSV_TEST = '''"""The report of the day, for a spreadsheet."""

import unittest

from shop.report import csv_text
from tests.test_report import day


class CsvTest(unittest.TestCase):
    def test_it_has_a_heading_and_a_line_for_each_product(self):
        self.assertEqual(
            csv_text(day()),
            "product,pieces,earned\\nBlue cup,2,1598\\nTea for two,1,1598\\nGreen tea,4,1396\\n",
        )

    def test_a_day_without_customers_has_only_the_heading(self):
        self.assertEqual(csv_text([]), "product,pieces,earned\\n")
'''

REPORT = (
    Step(
        acts("", read("shop/report.py"), read("tests/test_report.py")),
        prompt="Thanks! Now I want to open the report of the day in a spreadsheet. Please let it come out as CSV "
        "too: product, pieces, and what it earned, in cents.",
    ),
    Step(
        acts(
            "I'll add csv_text next to table, from the same rows, and tests for it.",
            call(
                "edit_file",
                path="shop/report.py",
                old="from collections import Counter\n",
                new="import csv\nimport io\nfrom collections import Counter\n",
            ),
            call(
                "edit_file",
                path="shop/report.py",
                old='{euros(total):>12}")\n    return lines\n',
                new='{euros(total):>12}")\n    return lines\n' + CSV_TEXT,
            ),
            call("write_file", path="tests/test_report_csv.py", content=CSV_TEST),
        )
    ),
    Step(acts("", run_tests())),
    Step(
        acts(
            "The csv module ends lines as on Windows unless it is told not to.",
            call(
                "edit_file",
                path="shop/report.py",
                old="csv.writer(text)",
                new='csv.writer(text, lineterminator="\\n")',
            ),
            run_tests(),
        )
    ),
    Step(
        answers(
            "`shop/report.py` has a new function `csv_text(baskets)` with the columns product, pieces and earned "
            "(in cents), in the order of the table. `tests/test_report_csv.py` covers it; all 21 tests pass."
        )
    ),
)

REWOUND = (
    Step(
        acts("Your files already have a csv_text; I'll look at it again.", read("shop/report.py")),
        prompt="Thanks! Now I want to open the report of the day in a spreadsheet. Please let it come out as CSV "
        "too: product, pieces, and what it earned. Mine expects semicolons, and amounts as in the table.",
        rewinds=True,
    ),
    Step(
        acts(
            "",
            call(
                "edit_file",
                path="shop/report.py",
                old='csv.writer(text, lineterminator="\\n")',
                new='csv.writer(text, delimiter=";", lineterminator="\\n")',
            ),
            call(
                "edit_file",
                path="shop/report.py",
                old="[row.name, row.pieces, row.earned] for row",
                new="[row.name, row.pieces, euros(row.earned)] for row",
            ),
            call(
                "edit_file",
                path="shop/report.py",
                old="product, pieces, and what it earned in cents.",
                new="product; pieces; what it earned.",
            ),
        )
    ),
    Step(
        acts(
            "The tests have to expect it.",
            call(
                "write_file",
                path="tests/test_report_csv.py",
                content=CSV_TEST.replace("product,pieces,earned", "product;pieces;earned")
                .replace(",2,1598", ";2;15,98")
                .replace(",1,1598", ";1;15,98")
                .replace(",4,1396", ";4;13,96"),
            ),
            run_tests(),
        )
    ),
    Step(
        answers(
            "`csv_text(baskets)` in `shop/report.py` now separates with semicolons and writes amounts as the "
            "table does (15,98). `tests/test_report_csv.py` expects that; all 21 tests pass."
        )
    ),
)

STORY = (*REPAIR, *REPORT, *REWOUND)


def story() -> Iterator[Step]:
    """Yield the steps of `STORY`, and then further rounds for as long as somebody wants more."""
    yield from STORY
    files = ("shop/catalog.py", "shop/basket.py", "shop/pricing.py", "shop/report.py")
    for number, path in enumerate(cycle(files), 1):  # pragma: no branch  it never ends
        yield Step(
            acts("", read(path), call("search_text", pattern="raise ", path=path, ignore_case=None)),
            prompt=f"Review round {number}: please read {path} once more. Is every error message clear?",
        )
        yield Step(acts("The messages name what is wrong. Do the tests still pass?", run_tests()))
        yield Step(answers(f"Every error in `{path}` names the thing that is wrong. The tests pass; no change."))
