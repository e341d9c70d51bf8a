"""Lists: their filters, their columns, and the files that contain them."""

import csv
import io
from collections.abc import Sequence
from datetime import date
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import openpyxl
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from google.type.date_pb2 import Date
from google.type.decimal_pb2 import Decimal as DecimalMessage
from starlette.datastructures import QueryParams

from credit_service.client import display
from credit_service.console import exports, formats, leaves, lists
from credit_service.console.listing import Filters, Listing
from credit_service.v1 import credit_service_pb2 as pb
from credit_service.v1 import customer_pb2, decision_pb2, event_pb2, loan_pb2

NONE: Any = None
HOSTILE = ("=1+1", "+91", "-2", "@SUM(A1)", "\t=1", "\r=1", "  =1")


def named(name: str) -> customer_pb2.Customer:
    return customer_pb2.Customer(
        customer_id=2**53 - 1, first_name=name, monthly_income=formats.money_of(1_000_010)
    )


def pages_of(items: Sequence[Any], size: int) -> Listing:
    """The list of customers with these items."""

    def read(_service: Any, _filters: Filters, _size: int, token: str) -> tuple[Sequence[Any], str]:
        start = int(token or 0)
        following = start + size
        return items[start:following], str(following) if following < len(items) else ""

    columns = ("customer_id", "first_name", "monthly_income")
    return Listing("customers", "/qa/customers", "Customers", NONE, columns, read)


def rows_of(listing: Listing) -> list[list[leaves.Value]]:
    return list(exports.rows(NONE, listing, listing.filters_of(QueryParams(""))))


@pytest.mark.parametrize("listing", lists.LISTINGS, ids=lambda each: each.name)
def test_every_column_is_a_field_of_the_items(listing: Listing) -> None:
    empty = leaves.message_class(listing.message)()
    for column in (*listing.columns, *listing.shown):
        assert listing.cell(empty, column) is not None
        assert isinstance(listing.is_number(column), bool)
    headers = [column.replace(".", "_") for column in listing.columns]
    assert len(headers) == len(set(headers))
    assert set(listing.links) <= set(listing.shown)
    assert listing.name.replace("-", "").isalpha()


def test_a_field_becomes_the_cell_of_its_type() -> None:
    loan = loan_pb2.Loan(
        loan_id=7,
        loan_amount=formats.money_of(888_488),
        interest_rate=DecimalMessage(value="12.50"),
        state=loan_pb2.LOAN_STATE_CLOSED,
        start_date=Date(year=2024, month=2, day=29),
        tenure_months=12,
    )
    found = [leaves.cell(loan, name) for name in ("loan_id", "loan_amount", "interest_rate")]
    assert found == ["7", Decimal("8884.88"), Decimal("12.50")]
    assert leaves.cell(loan, "state") == "CLOSED"
    assert leaves.cell(loan, "start_date") == date(2024, 2, 29)
    assert leaves.cell(loan, "closed_on") == leaves.cell(loan, "next_due_date") == ""
    assert leaves.cell(loan, "tenure_months") == 12
    codes = decision_pb2.DeclineReasonCode.values()[1:3]
    decision = decision_pb2.Decision(
        reasons=[decision_pb2.DeclineReason(code=code) for code in codes],
        decided_time=Timestamp(seconds=0),
    )
    names = [display.enum_name(code, decision_pb2.DeclineReasonCode) for code in codes]
    assert leaves.cell(decision, "reasons.code") == "; ".join(names)
    assert leaves.cell(decision, "decided_time") == "1970-01-01T00:00:00+00:00"
    assert leaves.cell(decision, "referral.reason") == ""


@pytest.mark.parametrize(
    ("listing", "query", "names"),
    [
        (lists.OVERDUE, "class=BEST", {"class"}),
        (lists.OVERDUE, "class=STANDARD", {"class"}),
        (lists.OVERDUE, "days=x", {"days"}),
        (lists.OVERDUE, "days=0", {"days"}),
        (lists.DECISIONS, "customer_id=" + "9" * 19, {"customer_id"}),
        (lists.DECISIONS, "customer_id=%D9%A3", {"customer_id"}),
        (lists.OFFERS, "customer_id=1&states=OPEN&states=ODD", {"states"}),
        (lists.CUSTOMERS, "query=" + "x" * 101, {"query"}),
        (lists.ROW_ERRORS, "ingestion_id=1", {"ingestion_id"}),
        (lists.EVENTS, "after_event_id=-1", {"after_event_id"}),
    ],
)
def test_an_invalid_filter_is_a_problem_and_requests_nothing(
    listing: Listing, query: str, names: set[str]
) -> None:
    found = listing.filters_of(QueryParams(query))
    assert set(found.problems) == names
    assert not found.is_usable


def test_filters_survive_in_the_address_of_the_next_page_and_others_do_not() -> None:
    query = "customer_id=5&states=OPEN&states=EXPIRED&page_token=a&other=b"
    found = lists.OFFERS.filters_of(QueryParams(query))
    assert found.is_usable
    again = "customer_id=5&states=OPEN&states=EXPIRED&page_token=n%26ext"
    assert found.query(page_token="n&ext") == again
    assert not lists.OFFERS.filters_of(QueryParams("states=OPEN")).is_usable
    assert lists.REFERRALS.filters_of(QueryParams("")).text("state") == "PENDING"


def test_a_change_has_a_row_for_each_fact() -> None:
    event = event_pb2.FactChange
    change = pb.CustomerChange(
        principal="ana", facts=[event(field="age", current="3"), event(field="x", current="4")]
    )
    rows = list(lists._one_by_one([change]))
    assert [leaves.cell(each, "facts.current") for each in rows] == ["3", "4"]
    assert [leaves.cell(each, "principal") for each in rows] == ["ana", "ana"]


@pytest.mark.parametrize("text", HOSTILE)
def test_a_text_is_no_formula_in_any_file(text: str) -> None:
    listing = pages_of([named(text)], 10)
    sent = b"".join(exports.csv_chunks(iter(rows_of(listing)))).decode()
    _, row = csv.reader(io.StringIO(sent, newline=""))
    assert row == [str(2**53 - 1), "'" + text, "10000.10"]
    with exports.workbook(iter(rows_of(listing)), "Customers") as file:
        sheet = openpyxl.load_workbook(file).active
        cells = next(iter(sheet.iter_rows(min_row=2)))
    assert [each.data_type for each in cells] == ["s", "s", "n"]
    assert cells[0].value == str(2**53 - 1)
    assert cells[1].quotePrefix or text.startswith(" ")
    assert cells[2].value == 10000.1


def test_a_file_says_what_it_leaves_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exports, "MAX_ROWS", 10)
    items = [named(f"n{number}") for number in range(11)]
    for size in (4, 5, 11):
        rows = rows_of(pages_of(items, size))
        assert [row[1] for row in rows[1:-1]] == [f"n{number}" for number in range(10)]
        assert str(rows[-1][0]).startswith("Incomplete: only the first 10 rows of customers")
    for size in (5, 10):
        rows = rows_of(pages_of(items[:10], size))
        assert len(rows) == 11
        assert rows[-1][1] == "n9"


def test_a_csv_file_is_sent_while_it_is_read() -> None:
    def endless() -> Any:
        while True:
            yield ["x"]

    assert next(exports.csv_chunks(endless())).startswith(b"x\r\n")


def test_an_event_is_listed_in_words() -> None:
    event = event_pb2.CreditEvent(event_id=3, customer_id=7)
    event.customer_registered.approved_limit.units = 100_000
    assert lists.EVENTS.cell(event, "event") == "Customer 7 registered"
    assert lists.EVENTS.text(event, "detail", ZoneInfo("UTC")) == "limit ₹1,00,000"
    assert lists.EVENTS.href(event, "customer_id") == "/qa/customers/7"
