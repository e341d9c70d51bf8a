"""Tables of the command line, on terminals of any width and in a pipe."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from credit_service.cli.output import Listing, out

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
