"""Tables of the command line, on terminals of any width and in a pipe."""

import csv

import pytest
from google.type.decimal_pb2 import Decimal
from google.type.money_pb2 import Money
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from credit_service.cli.common import ExitCode, Format
from credit_service.cli.output import Listing, counted, money, out, percent
from credit_service.cli.service import print_list

ROWS = [
    ("1001", "₹1,00,000.00", "closed 2026-01-31", "approved: loan 1000000000000001"),
    ("1002", "₹9,00,000.00", "open", "declined: CREDIT_SCORE_TOO_LOW, DEBT_EXCEEDS_APPROVED_LIMIT"),
]


def _listing() -> Listing:
    listing = Listing("loan", ("amount", "right"), "state", "outcome")
    for row in ROWS:
        listing.add(*row)
    return listing


@pytest.mark.parametrize("width", [20, 40, 60, 80, 100, 200])
def test_lines_are_wrapped_between_words(width: int) -> None:
    lines = [line for line, _ in _listing().lines(width)]
    text = " ".join(lines).split()
    for row in ROWS:
        for word in " ".join(row).split():
            assert word in text, (width, lines)
    assert all(cell_len(line) <= width for line in lines) or "loan" in lines[0].split()[0]
    assert width < 200 or len(lines) == 3


def test_a_wide_terminal_has_aligned_columns() -> None:
    header, first, second = (line for line, _ in _listing().lines(120))
    assert header.index("outcome") == first.index("approved") == second.index("declined")
    assert first.index("₹") + len("₹1,00,000.00") == header.index("amount") + len("amount")


def test_a_narrow_terminal_has_a_block_for_each_record() -> None:
    lines = [line for line, _ in _listing().lines(40)]
    assert lines[:4] == [
        "loan     1001",
        "amount   ₹1,00,000.00",
        "state    closed 2026-01-31",
        "outcome  approved: loan 1000000000000001",
    ]


@given(st.lists(st.tuples(st.text(), st.text(), st.text()), max_size=5))
def test_a_pipe_gets_one_record_per_line(rows: list[tuple[str, str, str]]) -> None:
    listing = Listing("one", ("two", "right"), "three")
    for row in rows:
        listing.add(*row)
    lines = [line for line, _ in listing.lines(None)]
    assert len(lines) == len(rows) + 1
    assert all(line.count("\t") == 2 and len(line.splitlines()) == 1 for line in lines)


@given(st.lists(st.tuples(st.text(), st.text(), st.text()), max_size=5), st.integers(1, 120))
def test_any_text_fits_any_width(rows: list[tuple[str, str, str]], width: int) -> None:
    listing = Listing("one", ("two", "right"), "three")
    for row in rows:
        listing.add(*row)
    shown = " ".join(line for line, _ in listing.lines(width)).split()
    assert all(word in shown for row in rows for cell in row for word in cell.split())


def test_printed_lines_are_not_wrapped(capsys: pytest.CaptureFixture[str]) -> None:
    out.print("credit-service ingest " + "x" * 500)
    _listing().print()
    assert len(capsys.readouterr().out.splitlines()) == 1 + 3


def test_csv_has_decimal_amounts_and_no_formulas(capsys: pytest.CaptureFixture[str]) -> None:
    listing = Listing("no.", ("paid on", "right"), "", ("amount", "right"), ("rate", "right"), "by")
    amount = Money(currency_code="INR", units=123_456, nanos=70_000_000)
    owed = Money(currency_code="INR", units=-5, nanos=-500_000_000)
    listing.add("1", "2026-01-31", "███", money(amount), percent(Decimal(value="10.5")), "=1+1")
    listing.add("2", "", "", money(owed), percent(Decimal(value="9")), 'a, "b"\nc')
    listing.print_csv()
    text = capsys.readouterr().out
    assert list(csv.reader(text.splitlines(keepends=True))) == [
        ["number", "paid_on", "amount", "rate", "by"],
        ["1", "2026-01-31", "123456.07", "10.5", "'=1+1"],
        ["2", "", "-5.50", "9", 'a, "b"\nc'],
    ]
    assert "₹1,23,456.07" in "\n".join(line for line, _ in listing.lines(None))


def test_one_thing_is_no_plural(capsys: pytest.CaptureFixture[str]) -> None:
    assert [counted(each, "row") for each in (0, 1, 100_000)] == [
        "0 rows",
        "1 row",
        "1,00,000 rows",
    ]
    for count, words in ((1, "the first one"), (2, "the first 2 overdue loans")):
        listing = Listing("loan")
        found = [Money()] * count
        assert print_list(listing, "loans", found, Format(), more=True, nouns="overdue loans") == (
            ExitCode.GOOD
        )
        assert capsys.readouterr().err == f"Showing {words}; use --limit to show more.\n"
    print_list(Listing("loan"), "row_errors", [], Format(), more=False)
    assert capsys.readouterr().err == "There are no row errors.\n"
