"""A loan's life in the console: overdue, paid, reversed, prepaid, foreclosed."""

import re
from collections.abc import Iterator
from uuid import uuid4

import pytest
from google.type.decimal_pb2 import Decimal as DecimalMessage
from google.type.money_pb2 import Money
from playwright.sync_api import expect

from credit_service.console.checklist.bench import Bench, loan_row
from credit_service.console.service import Service
from credit_service.v1 import credit_service_pb2 as pb
from tests.browser.conftest import OpenTab, Place
from tests.browser.test_console_looks import faults

_DAY_SECONDS = 86_400
_BOOKED_DAYS_AGO = 100


@pytest.fixture
def loan(place: Place) -> Iterator[pb.CreateLoanResponse]:
    """A loan of ₹1,00,000 at 12 % over 12 months, booked 100 days ago and never paid."""
    bench = Bench(Service(place.channel, ""))
    try:
        place.clock_file.write_text(str(-_BOOKED_DAYS_AGO * _DAY_SECONDS), encoding="ascii")
        request = pb.RegisterCustomerRequest(
            request_id=str(uuid4()),
            first_name="Meera",
            last_name="Iyer",
            age=41,
            monthly_income=Money(units=100_000),
            phone_number="+917300000099",
        )
        customer_id = place.credit.RegisterCustomer(request, timeout=10).customer.customer_id
        bench.ingest([loan_row(customer_id, number, 60_000, 10) for number in (1, 2, 3)])
        yield place.credit.CreateLoan(
            pb.CreateLoanRequest(
                request_id=str(uuid4()),
                customer_id=customer_id,
                loan_amount=Money(units=100_000),
                interest_rate=DecimalMessage(value="12"),
                tenure_months=12,
            ),
            timeout=10,
        )
    finally:
        place.clock_file.write_text("0", encoding="ascii")


def test_a_customer_falls_overdue_pays_prepays_and_forecloses(
    place: Place, loan: pb.CreateLoanResponse, open_tab: OpenTab, axe: str
) -> None:
    tab = open_tab()
    tab.expected += ["400", "409"]
    page = tab.page
    customer_id, loan_id = loan.loan.customer_id, loan.loan.loan_id
    customer_page = f"/qa/customers/{customer_id}"
    home = f"{customer_page}/loans/{loan_id}"
    profile = page.get_by_role("region", name="Profile")
    status = page.get_by_role("status")

    # The loan falls overdue, and the class changes with the days.
    for days_ago, asset_class in ((60, "SMA_0"), (30, "SMA_1"), (0, "SMA_2")):
        place.clock_file.write_text(str(-days_ago * _DAY_SECONDS), encoding="ascii")
        page.goto(customer_page)
        expect(profile).to_contain_text(re.compile(rf"{asset_class}, \d+ days past due, since "))
    assert faults(page, axe, {}) == []
    page.get_by_role("link", name="Overdue loans").click()
    page.get_by_role("rowheader").get_by_role("link", name=str(loan_id)).click()
    schedule = page.get_by_role("region", name="Schedule as a table")
    expect(schedule.get_by_text("Overdue", exact=True)).to_have_count(3)

    # A prepayment waits for the installments.
    page.get_by_role("link", name="Prepay").click()
    page.get_by_label("Amount").fill("20,000")
    page.get_by_role("button", name="Show the new schedule").click()
    expect(page.get_by_role("alert")).to_contain_text("PREPAYMENT_WHILE_OVERDUE")
    assert faults(page, axe, {}) == []

    # The payment of the three installments bounces, and is made again.
    for bounces in (True, False):
        page.goto(home)
        page.get_by_label("Amount").fill("26,654.64")
        page.get_by_role("button", name="Record the payment").click()
        expect(status).to_contain_text("It settled 3 installments.")
        page.goto(customer_page)
        expect(profile).to_contain_text("STANDARD")
        if not bounces:
            continue
        page.goto(home)
        page.get_by_role("link", name=re.compile("Reverse payment")).click()
        page.get_by_role("button", name="Confirm and reverse").click()
        expect(page.get_by_role("alert")).to_contain_text("Reason")
        assert faults(page, axe, {}) == []
        page.get_by_label("Bounced").check()
        page.get_by_role("button", name="Confirm and reverse").dblclick()
        expect(status).to_contain_text("of ₹26,654.64 is reversed.")
        payments = page.get_by_role("region", name="Payments as a table")
        expect(payments).to_contain_text("Reversed")
        expect(schedule.get_by_text("Overdue", exact=True)).to_have_count(3)
        page.goto(customer_page)
        expect(profile).to_contain_text("SMA_2")

    # The prepayment shows the new schedule before it is recorded.
    page.goto(home)
    page.get_by_role("link", name="Prepay").click()
    page.get_by_label("Amount").fill("20,000")
    page.get_by_role("button", name="Show the new schedule").click()
    left = page.get_by_role("region", name="What is left as a table")
    expect(left.get_by_role("row", name=re.compile("Without it"))).to_contain_text("9")
    chosen = left.get_by_role("row", name=re.compile("Reduce the tenure Chosen"))
    expect(chosen).to_contain_text("₹8,884.88")
    other = left.get_by_role("row", name=re.compile("Reduce the installment"))
    expect(other).not_to_contain_text("₹8,884.88")
    expect(schedule.locator("tbody tr")).to_have_count(7)
    assert faults(page, axe, {}) == []
    page.goto(home)
    expect(schedule.locator("tbody tr")).to_have_count(12)
    page.go_back()
    page.get_by_role("button", name="Confirm and prepay").dblclick()
    expect(status).to_contain_text("₹20,000.00 repaid principal. 7 installments are left.")
    expect(schedule.locator("tbody tr")).to_have_count(10)
    expect(page.get_by_label("Terms and status")).to_contain_text("12 installments of ₹8,884.88")
    assert faults(page, axe, {}) == []

    # The quote of today closes the loan.
    page.get_by_role("link", name="Foreclose").click()
    expect(page.get_by_role("region", name="Quote as a table")).to_contain_text("Prepayment charge")
    assert faults(page, axe, {}) == []
    page.get_by_role("button", name="Record the payment").click()
    expect(status).to_contain_text("The loan is closed.")
    expect(page.get_by_role("heading", level=1)).to_contain_text("Closed")
    expect(page.get_by_role("region", name="Payments as a table")).to_contain_text("Foreclosure")
    page.goto(customer_page)
    expect(profile).to_contain_text("STANDARD")
    expect(page.get_by_role("region", name="Loans as a table")).to_contain_text("Closed")
