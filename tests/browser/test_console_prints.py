"""The key facts statement on paper: what a borrower must know is on one page of A4."""

import os
import re
from pathlib import Path
from uuid import uuid4

from google.type.decimal_pb2 import Decimal as DecimalMessage
from google.type.money_pb2 import Money
from playwright.sync_api import Page, expect

from credit_service.spreadsheets import samples
from credit_service.v1 import credit_service_pb2 as pb
from credit_service.v1 import offer_pb2
from tests.browser.conftest import Place

_PAGE = re.compile(rb"/Type\s*/Page\b(?!s)")


def an_offer(place: Place, charges: int) -> str:
    """The address of the page of an offer over 24 months with this number of charges."""
    request = pb.CreateLoanOfferRequest(
        request_id=str(uuid4()),
        customer_id=samples.GOOD_CUSTOMER_ID,
        loan_amount=Money(units=20_000),
        interest_rate=DecimalMessage(value="15"),
        tenure_months=24,
        charges=[
            offer_pb2.LoanCharge(
                type=f"processing fee {number}",
                payee=offer_pb2.CHARGE_PAYEE_LENDER,
                amount=Money(units=100),
                tax=Money(units=18),
            )
            for number in range(1, charges + 1)
        ],
    )
    offer = place.credit.CreateLoanOffer(request, timeout=10).offer
    return f"/qa/offers/{offer.offer_id}"


def printed(page: Page) -> bytes:
    """The page as Chromium prints it. With PDF_FOLDER, also saved there."""
    content = page.pdf(prefer_css_page_size=True)
    if folder := os.environ.get("PDF_FOLDER"):
        name = re.sub(r"[^a-z0-9]+", "-", page.url.partition("/qa/")[2])
        (Path(folder) / f"{name}.pdf").write_bytes(content)
    return content


def test_the_key_facts_are_on_one_page_and_the_schedule_on_the_next(
    place: Place, page: Page
) -> None:
    for charges in (2, 10):
        page.goto(an_offer(place, charges))
        page.get_by_role("link", name="Key facts statement").click()
        expect(page.get_by_role("heading", level=1)).to_have_text("Key facts statement")
        expect(page.get_by_role("button", name="Print")).to_be_visible()
        expect(page.locator("main")).to_contain_text("Annual percentage rate")
        assert len(_PAGE.findall(printed(page))) == 2, f"with {charges} charges"


def test_what_is_not_of_the_statement_is_not_printed(place: Place, page: Page) -> None:
    page.emulate_media(media="print", color_scheme="dark")
    page.goto(f"{an_offer(place, 1)}/key-facts")
    for left_out in (".side", ".head .actions", ".terminal"):
        expect(page.locator(left_out).first).to_be_hidden()
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert background == "rgb(255, 255, 255)", "the paper is not printed dark"


def test_the_button_prints(place: Place, page: Page) -> None:
    page.goto(f"{an_offer(place, 1)}/key-facts")
    page.evaluate("window.print = () => { document.title = 'printed'; }")
    page.get_by_role("button", name="Print").click()
    expect(page).to_have_title("printed")
