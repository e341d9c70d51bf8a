"""Every page of the console, and the whole checklist, in the steps of a user."""

import csv
import io
import json
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from urllib.parse import urlencode
from uuid import uuid4

import openpyxl
import pytest
from google.type.decimal_pb2 import Decimal as DecimalMessage
from google.type.money_pb2 import Money
from playwright.sync_api import Browser, Page, expect

from credit_service.console.checklist.bench import Bench, loan_row
from credit_service.console.service import Service
from credit_service.spreadsheets import samples
from credit_service.v1 import credit_service_pb2 as pb
from tests.browser.conftest import OpenTab, Place


def soon(holds: Callable[[], bool], seconds: float = 10.0) -> None:
    """Poll until it holds."""
    give_up = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < give_up, "timeout"
        time.sleep(0.1)


def loans_of(place: Place, customer_id: int) -> list[int]:
    request = pb.ListLoansRequest(customer_id=customer_id, page_size=1000)
    return [each.loan_id for each in place.credit.ListLoans(request, timeout=10).loans]


def registered(place: Place, phone_number: str, income: int = 100_000) -> int:
    request = pb.RegisterCustomerRequest(
        request_id=str(uuid4()),
        first_name="Meera",
        last_name="Iyer",
        age=41,
        monthly_income=Money(units=income),
        phone_number=phone_number,
    )
    return place.credit.RegisterCustomer(request, timeout=10).customer.customer_id


def fill_ask(page: Page, customer_id: int, amount: str, rate: str, months: str) -> None:
    page.get_by_label("Customer id").fill(str(customer_id))
    page.get_by_label("Loan amount").fill(amount)
    page.get_by_label("Yearly rate").fill(rate)
    page.get_by_label("Months").fill(months)


def test_the_root_redirects_to_the_live_dashboard(place: Place, page: Page) -> None:
    page.goto("/")
    expect(page).to_have_url(f"{place.url}/qa/")
    expect(page.get_by_role("heading", level=1)).to_have_text("Dashboard")
    health = page.get_by_label("Health")
    expect(health.get_by_text("Serving", exact=True)).to_have_count(5)
    expect(page.get_by_label("Recent ingestions")).to_contain_text("customer_data.xlsx")
    feed = page.get_by_label("Live events")
    expect(feed.get_by_text("live", exact=True)).to_be_visible()
    customer_id = registered(place, "+917300000001")
    expect(feed.get_by_text(f"Customer {customer_id} registered")).to_be_visible()
    request = pb.CreateLoanRequest(
        request_id=str(uuid4()),
        customer_id=customer_id,
        loan_amount=Money(units=77_777),
        interest_rate=DecimalMessage(value="12"),
        tenure_months=12,
    )
    decision_id = place.credit.CreateLoan(request, timeout=10).decision_id
    expect(feed.get_by_text("₹77,777: No credit history")).to_be_visible()
    # The figures beside the feed follow the events.
    recent = page.get_by_label("Recent decisions")
    expect(recent.get_by_role("link", name=str(decision_id), exact=True)).to_be_visible()
    expect(page.get_by_label("Decline reasons")).to_contain_text("No credit history")


def test_two_tabs_share_one_stream_and_show_the_same_events(
    place: Place, open_tab: OpenTab
) -> None:
    first, second = open_tab().page, open_tab().page
    for page in (first, second):
        page.goto("/qa/")
        expect(page.get_by_text("live", exact=True)).to_be_visible()
    customer_id = registered(place, "+917300000002")
    for page in (first, second):
        expect(page.get_by_text(f"Customer {customer_id} registered")).to_be_visible()


def test_registering_reports_all_invalid_fields_and_then_registers_once(open_tab: OpenTab) -> None:
    tab = open_tab()
    tab.expected.append("400")
    page = tab.page
    page.goto("/qa/customers/new")
    page.get_by_label("Age").fill("17")
    page.get_by_label("Monthly income").fill("0")
    page.get_by_label("Phone number").fill("12")
    page.get_by_role("button", name="Register").click()
    expect(page.locator("[aria-invalid=true]")).to_have_count(5)
    expect(page.get_by_role("alert")).to_contain_text(
        "5 fields are invalid: First name, Last name, Age, Monthly income, Phone number."
    )
    page.get_by_label("First name").fill("  Asha ")
    page.get_by_label("Last name").fill("<b>Rao</b>")
    page.get_by_label("Age").fill("34")
    page.get_by_label("Monthly income").fill("₹62,500")
    page.get_by_label("Phone number").fill("073000 00003")
    page.get_by_role("button", name="Register").dblclick()
    expect(page.get_by_role("status")).to_contain_text("is registered.")
    expect(page.get_by_role("heading", level=1)).to_have_text("Asha <b>Rao</b>")
    expect(page.locator("main")).to_contain_text("+917300000003")
    expect(page.locator("main")).to_contain_text("₹23,00,000")
    page.get_by_text(re.compile(r"calls? of this page")).click()
    expect(page.locator(".call").first).to_contain_text("RegisterCustomer")
    page.goto("/qa/customers?query=Asha")
    expect(page.get_by_role("link", name="Asha <b>Rao</b>")).to_have_count(1)


def test_a_used_phone_number_is_reported_beside_its_field(place: Place, open_tab: OpenTab) -> None:
    tab = open_tab()
    tab.expected.append("409")
    registered(place, "+917300000004")
    page = tab.page
    page.goto("/qa/customers/new")
    for label, value in (
        ("First name", "A"),
        ("Last name", "B"),
        ("Age", "30"),
        ("Monthly income", "10000"),
        ("Phone number", "+91 73000 00004"),
    ):
        page.get_by_label(label).fill(value)
    page.get_by_role("button", name="Register").click()
    field = page.get_by_label("Phone number")
    expect(field).to_have_attribute("aria-invalid", "true")
    expect(field).to_have_accessible_description(re.compile("phone number", re.IGNORECASE))


def test_customers_are_found_by_id_name_and_phone_and_paged(place: Place, page: Page) -> None:
    page.goto("/qa/")
    search = page.get_by_role("search").get_by_role("searchbox")
    search.fill(str(samples.GOOD_CUSTOMER_ID))
    search.press("Enter")
    expect(page).to_have_url(f"{place.url}/qa/customers/{samples.GOOD_CUSTOMER_ID}")
    name = page.get_by_role("heading", level=1).inner_text()
    page.goto(f"/qa/customers?query={name.split()[0]}")
    expect(page.get_by_role("link", name=name).first).to_be_visible()
    for number in range(12):
        registered(place, f"+9173111000{number:02d}")
    page.goto("/qa/customers?query=zzz")
    expect(page.locator("main")).to_contain_text("No name or phone number starts with this text.")
    page.goto("/qa/customers")
    rows = page.locator("tbody tr")
    expect(rows).to_have_count(50)
    page.get_by_role("link", name="Next page").click()
    assert rows.count() >= 1
    page.get_by_role("link", name="First page").click()
    expect(rows).to_have_count(50)


@pytest.mark.parametrize(
    ("customer_id", "asked", "outcome", "rule"),
    [
        (samples.GOOD_CUSTOMER_ID, "8", "Would be approved", "The requested rate applies."),
        (samples.MIDDLE_BAND_CUSTOMER_ID, "8", "Would be approved", "corrected from 8 % to 12 %"),
        (samples.LOW_BAND_CUSTOMER_ID, "8", "Would be approved", "corrected from 8 % to 16 %"),
        (samples.BAD_CUSTOMER_ID, "8", "Would be declined", "CREDIT_SCORE_TOO_LOW"),
        (samples.OVER_LIMIT_CUSTOMER_ID, "8", "Would be declined", "DEBT_EXCEEDS_APPROVED_LIMIT"),
        (samples.NO_HISTORY_CUSTOMER_ID, "8", "Would be declined", "NO_CREDIT_HISTORY"),
    ],
)
def test_the_simulator_shows_the_deciding_rule(
    page: Page, customer_id: int, asked: str, outcome: str, rule: str
) -> None:
    page.goto("/qa/eligibility")
    fill_ask(page, customer_id, "5,000", asked, "12")
    expect(page.get_by_role("heading", name=outcome)).to_be_visible()
    expect(page.get_by_role("table")).to_contain_text(rule)
    expect(page.locator(".bars .bar")).to_have_count(4)


def test_the_simulator_updates_while_typing_and_applies_the_counter_offer(
    place: Place, page: Page
) -> None:
    page.goto("/qa/eligibility")
    expect(page.locator("#answer")).to_contain_text("Enter a customer")
    page.get_by_label("Customer id").press_sequentially(str(samples.GOOD_CUSTOMER_ID))
    expect(page.locator("#answer")).to_contain_text("Missing or invalid fields")
    fill_ask(page, samples.GOOD_CUSTOMER_ID, "50,00,000", "12", "6")
    expect(page.get_by_role("heading", name="Would be declined")).to_be_visible()
    expect(page.locator("tr.decided")).to_contain_text("EMI_BURDEN_TOO_HIGH")
    page.get_by_role("button", name="Use this amount").click()
    expect(page.get_by_role("heading", name="Would be approved")).to_be_visible()
    amount = page.get_by_label("Loan amount").input_value()
    page.get_by_label("Loan amount").fill(str(int(amount) + 1))
    expect(page.get_by_role("heading", name="Would be declined")).to_be_visible()
    # The address contains the terms, and the page also works without the script. Chromium reloads
    # the address that its own process knows, which the page updates a moment later.
    expect(page).to_have_url(re.compile(f"loan_amount={int(amount) + 1}&"))
    page.reload()
    expect(page.get_by_role("heading", name="Would be declined")).to_be_visible()
    page.get_by_label("Months").fill("nonsense")
    expect(page.locator("#answer")).to_contain_text("Enter a whole number.")
    page.get_by_label("Months").fill("481")
    expect(page.locator("#answer")).to_contain_text("480")
    page.get_by_label("Customer id").fill("999999999")
    page.get_by_label("Months").fill("12")
    expect(page.locator("#answer")).to_contain_text("CUSTOMER_NOT_FOUND")


def test_applying_has_two_steps_and_books_once_even_if_repeated(place: Place, page: Page) -> None:
    customer_id = samples.GOOD_CUSTOMER_ID
    before = loans_of(place, customer_id)
    page.goto(f"/qa/apply?customer_id={customer_id}")
    fill_ask(page, customer_id, "25,000", "11.5", "18")
    page.get_by_role("button", name="Check").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Confirm the application")
    request_id = page.locator("input[name=request_id]").input_value()
    page.reload()
    assert page.locator("input[name=request_id]").input_value() == request_id
    assert loans_of(place, customer_id) == before
    review = page.url
    page.get_by_role("button", name="Confirm and book").dblclick()
    expect(page.get_by_role("status")).to_contain_text("Approved: ₹25,000.00 over 18 months")
    decision = page.url
    page.reload()
    assert len(loans_of(place, customer_id)) == len(before) + 1
    # Back to the form, and a repeat: the same decision, no second loan.
    page.goto(review)
    page.get_by_role("button", name="Confirm and book").click()
    expect(page).to_have_url(decision)
    assert len(loans_of(place, customer_id)) == len(before) + 1


def test_a_form_sent_twice_concurrently_books_once(place: Place, page: Page) -> None:
    customer_id = samples.GOOD_CUSTOMER_ID
    before = len(loans_of(place, customer_id))
    page.goto(
        f"/qa/apply/review?customer_id={customer_id}&loan_amount=10000&interest_rate=12"
        "&tenure_months=12"
    )
    sent = page.evaluate(
        """async () => {
            const form = document.querySelector("form.confirm");
            const once = () => fetch(form.action, {method: "POST", body: new FormData(form)});
            const answers = await Promise.all([once(), once(), once()]);
            return answers.map((answer) => answer.url);
        }"""
    )
    assert len(set(sent)) == 1
    assert len(loans_of(place, customer_id)) == before + 1


def test_the_decision_page_shows_inputs_score_and_rules(place: Place, page: Page) -> None:
    page.goto(
        f"/qa/apply/review?customer_id={samples.BAD_CUSTOMER_ID}&loan_amount=50000"
        "&interest_rate=9&tenure_months=24"
    )
    page.get_by_role("button", name="Apply anyway").click()
    expect(page.get_by_role("heading", name="Declined", exact=True)).to_be_visible()
    expect(page.locator("tr.decided")).to_contain_text("CREDIT_SCORE_TOO_LOW")
    waterfall = page.locator("table.waterfall")
    expect(waterfall.locator("tbody tr")).to_have_count(4)
    expect(waterfall.locator("tfoot")).to_contain_text("Score")
    expect(page.get_by_label("Inputs of the decision")).to_contain_text("Monthly income")
    page.get_by_text("Stored inputs as JSON", exact=True).click()
    stored = json.loads(page.get_by_label("Stored inputs").inner_text())
    assert stored["ask"]["principal_paise"] == 5_000_000
    page.goto("/qa/decisions")
    expect(page.locator("tbody tr").first).to_contain_text("₹50,000")


def test_a_loan_is_paid_and_its_schedule_downloaded(place: Place, open_tab: OpenTab) -> None:
    tab = open_tab()
    tab.expected += ["409", "400"]
    page = tab.page
    customer_id = samples.GOOD_CUSTOMER_ID
    request = pb.CreateLoanRequest(
        request_id=str(uuid4()),
        customer_id=customer_id,
        loan_amount=Money(units=12_000),
        interest_rate=DecimalMessage(value="12"),
        tenure_months=3,
    )
    loan = place.credit.CreateLoan(request, timeout=10).loan
    page.goto(f"/qa/loans/{loan.loan_id}")
    expect(page).to_have_url(f"{place.url}/qa/customers/{customer_id}/loans/{loan.loan_id}")
    expect(page.get_by_role("img", name=re.compile("Balance falls"))).to_be_visible()
    expect(page.get_by_label("Schedule").locator("tbody tr")).to_have_count(3)

    page.get_by_label("Amount").fill("99,999")
    page.get_by_role("button", name="Record the payment").click()
    expect(page.get_by_role("alert")).to_contain_text("PAYMENT_EXCEEDS_OUTSTANDING")
    page.get_by_label("Amount").fill("many")
    page.get_by_role("button", name="Record the payment").click()
    expect(page.get_by_label("Amount")).to_have_attribute("aria-invalid", "true")

    page.goto(page.url.removesuffix("/pay"))
    page.get_by_role("button", name="Record the payment").dblclick()
    expect(page.get_by_role("status")).to_contain_text("It settled one installment.")
    expect(page.get_by_label("Terms and status")).to_contain_text("1 of 3")
    page.reload()
    expect(page.get_by_label("Terms and status")).to_contain_text("1 of 3")

    with page.expect_download() as taken:
        page.get_by_role("link", name="Schedule as CSV").click()
    assert taken.value.suggested_filename == f"loan-{customer_id}-{loan.loan_id}-schedule.csv"
    text = Path(taken.value.path()).read_text(encoding="utf-8")
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [row["state"] for row in rows] == ["SETTLED", "UPCOMING", "UPCOMING"]
    assert rows[-1]["balance"] == "0.00"

    outstanding = page.locator("dt:text-is('Outstanding') + dd").inner_text()
    page.get_by_label("Amount").fill(outstanding)
    page.get_by_role("button", name="Record the payment").click()
    expect(page.get_by_role("status")).to_contain_text("The loan is closed.")
    expect(page.locator("main")).to_contain_text("accepts no further payments")

    # The events of the payments arrive shortly after.
    def shown() -> bool:
        page.goto(f"/qa/customers/{customer_id}")
        return page.get_by_label("Payments", exact=True).locator("tbody tr").count() >= 2

    soon(shown)
    expect(page.get_by_role("img", name=re.compile("Score history"))).to_be_visible()
    expect(page.get_by_role("img", name=re.compile("^Debt "))).to_be_visible()


def test_a_loan_id_of_several_customers_offers_a_choice(place: Place, page: Page) -> None:
    response = page.goto(f"/qa/loans/{samples.SHARED_LOAN_ID}")
    assert response is not None
    assert response.status == 300
    page.get_by_role("link", name=f"customer {samples.MIDDLE_BAND_CUSTOMER_ID}").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text(str(samples.SHARED_LOAN_ID))
    expect(page.locator(".sub")).to_contain_text(f"customer {samples.MIDDLE_BAND_CUSTOMER_ID}")


def rows_file(folder: Path, bad_rows: int) -> Path:
    """Write loans of a customer. The tenure of `bad_rows` of them is the text of a formula."""
    header = (
        "Customer ID,Loan ID,Loan Amount,Tenure,Interest Rate,Monthly payment,"
        "EMIs paid on Time,Date of Approval,End Date"
    )
    lines = [header]
    for number in range(1, 41):
        tenure = f"=cmd|'{number}'!A1" if number <= bad_rows else "12"
        lines.append(f"1,{7_000_000 + number},50000,{tenure},12,4500,12,2015-01-05,2016-01-05")
    path = folder / "loans with faults.csv"
    path.write_text("\r\n".join(lines) + "\r\n", encoding="utf-8")
    return path


def test_a_file_is_loaded_after_a_dry_run_and_its_invalid_rows_are_listed(
    place: Place, page: Page, tmp_path: Path
) -> None:
    page.goto("/qa/ingestions")
    real = page.get_by_role("button", name="Load for real")
    expect(real).to_be_disabled()
    page.get_by_label("Drop a .xlsx").set_input_files(rows_file(tmp_path, bad_rows=30))
    page.get_by_label("loans", exact=True).check()
    page.get_by_role("button", name="Dry run").click()
    progress = page.locator(".progress")
    expect(progress).to_have_attribute("data-ended", "yes")
    expect(progress).to_contain_text("Dry run")
    counts = progress.locator(".counts")
    expect(counts).to_have_text(re.compile(r"Read\s*40\s*Inserted\s*10.*Rejected\s*30", re.DOTALL))

    expect(real).to_be_enabled()
    real.click()
    expect(page.get_by_text("The file is loaded.").last).to_be_visible()
    expect(counts).to_have_text(re.compile(r"Read\s*40\s*Inserted\s*10.*Rejected\s*30", re.DOTALL))
    expect(page.get_by_label("Ingestions so far")).to_contain_text("loans with faults.csv")
    # Another file needs a dry run first.
    expect(real).to_be_disabled()

    progress.get_by_role("link", name="Show the errors").click()
    errors = page.get_by_label("Rows rejected or skipped", exact=True).locator("tbody tr")
    expect(errors).to_have_count(25)
    expect(errors.first).to_contain_text("NOT_A")
    # The column's header, each expectation once, and no field name of the contract.
    expect(errors.first.locator("td").nth(1)).to_contain_text("Tenure")
    text = errors.first.inner_text()
    assert text.count("a whole number from 1 to 480") == 1
    assert "tenure_months" not in text
    expect(errors.first).to_contain_text("=cmd|'1'!A1")
    page.get_by_role("link", name="Next page").click()
    expect(errors).to_have_count(5)
    with page.expect_download() as taken:
        page.get_by_role("link", name="Row errors as CSV").click()
    rows = list(csv.DictReader(Path(taken.value.path()).read_text(encoding="utf-8").splitlines()))
    assert len(rows) == 30
    assert rows[0]["found"] == "'=cmd|'1'!A1"


def test_a_file_is_downloaded_marked_and_imported_after_correction(
    page: Page, tmp_path: Path
) -> None:
    def load(path: Path) -> None:
        page.goto("/qa/ingestions")
        page.get_by_label("Drop a .xlsx").set_input_files(path)
        page.get_by_label("loans", exact=True).check()
        page.get_by_role("button", name="Dry run").click()
        page.get_by_role("button", name="Load for real").click()
        expect(page.get_by_text("The file is loaded.").last).to_be_visible()

    header = "Customer ID,Loan ID,Loan Amount,Tenure,Interest Rate,Monthly payment,"
    header += "EMIs paid on Time,Date of Approval,End Date"
    good = "1,7100001,50000,12,12,4500,12,2015-01-05,2016-01-05"
    bad = "1,7100002,50000,twelve,12,4500,12,2015-01-05,2016-01-05"
    file = tmp_path / "to correct.csv"
    file.write_text(f"{header}\r\n{good}\r\n{bad}\r\n", encoding="utf-8")
    load(file)
    counts = page.locator(".progress .counts")
    expect(counts).to_have_text(re.compile(r"Read\s*2\s*Inserted\s*1.*Rejected\s*1", re.DOTALL))
    page.locator(".progress").get_by_role("link", name="to correct.csv").click()
    with page.expect_download() as taken:
        page.get_by_role("link", name="Annotated workbook").click()
    assert taken.value.suggested_filename == "to correct-annotated.xlsx"
    marked = tmp_path / taken.value.suggested_filename
    taken.value.save_as(marked)

    book = openpyxl.load_workbook(marked)
    sheet = book.worksheets[1]
    assert sheet["D3"].value == "twelve"
    assert sheet["D3"].comment.text.startswith("NOT_A_NUMBER")
    sheet["D3"] = 12
    book.save(marked)
    load(marked)
    expect(counts).to_have_text(
        re.compile(r"Read\s*2\s*Inserted\s*1.*Unchanged\s*1.*Rejected\s*0", re.DOTALL)
    )
    expect(page.locator(".progress").get_by_role("link", name="Download")).to_have_count(0)


def test_a_file_is_dropped_onto_the_form(page: Page) -> None:
    page.goto("/qa/ingestions")
    dropped = page.evaluate_handle(
        """() => {
            const data = new DataTransfer();
            data.items.add(new File(["x"], "dropped.csv", {type: "text/csv"}));
            return data;
        }"""
    )
    page.dispatch_event("[data-drop]", "drop", {"dataTransfer": dropped})
    assert page.get_by_label("Drop a .xlsx").input_value().endswith("dropped.csv")
    page.get_by_role("button", name="Dry run").click()
    expect(page.locator(".progress, [data-upload-problem]:not(:empty)").first).to_be_visible()
    expect(page.locator(".progress .box, [data-upload-problem]:not(:empty)").first).to_be_visible()


def test_the_whole_checklist_passes(page: Page) -> None:
    page.goto("/qa/checks")
    items = page.locator(".check").count()
    page.get_by_role("button", name="Run all").click()
    expect(page.get_by_role("status")).to_contain_text("Tick the box above first")
    page.get_by_label("Allow the checks").check()
    page.get_by_role("button", name="Run all").click()
    page.locator("[data-run-all][disabled]").wait_for(state="detached", timeout=60_000)
    failed = page.locator(".check[data-result=fail]").all_inner_texts()
    assert not failed, "\n\n".join(failed)
    expect(page.locator(".check[data-result=pass]")).to_have_count(items)
    expect(page.get_by_role("status")).to_have_text(f"{items} of {items} passed")


def test_a_failed_check_shows_expected_and_found(place: Place, open_tab: OpenTab) -> None:
    """A check must be able to fail: this one does not exist."""
    tab = open_tab()
    page = tab.page
    page.goto("/qa/checks")
    page.route(
        "**/qa/checks/no-history",
        lambda route: route.continue_(url=f"{place.url}/qa/checks/unknown-item"),
    )
    tab.expected.append("404")
    item = page.locator("#check-no-history")
    page.get_by_label("Allow the checks").check()
    item.get_by_role("button").click()
    expect(page.get_by_role("status")).to_contain_text("This check does not exist.")
    expect(item).to_have_attribute("data-result", "none")


def test_a_displayed_buf_command_makes_the_same_call(place: Place, page: Page) -> None:
    page.goto(f"/qa/customers/{samples.GOOD_CUSTOMER_ID}")
    page.get_by_text(re.compile(r"calls? of this page")).click()
    command = page.locator(".call").first.locator("code", has_text="buf curl").inner_text()
    words = shlex.split(command)
    words[0] = str(Path(sys.executable).parent / "buf")
    answered = subprocess.run(words, capture_output=True, text=True, timeout=30, check=True)
    customer = json.loads(answered.stdout)["customer"]
    assert customer["customerId"] == str(samples.GOOD_CUSTOMER_ID)


def test_the_console_is_usable_with_the_keyboard_only(page: Page) -> None:
    page.goto("/qa/eligibility")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    expect(page.get_by_label("Customer id")).to_be_focused()
    page.keyboard.type(str(samples.GOOD_CUSTOMER_ID))
    for value in ("5000", "12", "12"):
        page.keyboard.press("Tab")
        page.keyboard.type(value)
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Would be approved")).to_be_visible()
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline != "none"


def test_a_button_opens_the_menu_on_a_phone(open_tab: OpenTab) -> None:
    page = open_tab(narrow=True).page
    page.goto("/qa/")
    link = page.get_by_role("link", name="Simulator")
    expect(link).to_be_hidden()
    menu = page.get_by_role("button", name="Menu")
    expect(menu).to_have_attribute("aria-expanded", "false")
    menu.click()
    expect(menu).to_have_attribute("aria-expanded", "true")
    link.click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Eligibility simulator")


def test_pages_work_without_scripts(place: Place, browser: object) -> None:
    context = browser.new_context(base_url=place.url, java_script_enabled=False)  # type: ignore[attr-defined]
    page = context.new_page()
    page.goto("/qa/eligibility")
    fill_ask(page, samples.GOOD_CUSTOMER_ID, "5000", "12", "12")
    page.get_by_role("button", name="Check").click()
    expect(page.get_by_role("heading", name="Would be approved")).to_be_visible()
    page.goto("/qa/checks")
    page.locator("#check-no-history").get_by_role("button").click()
    page.get_by_role("button", name="Run it").click()
    expect(page.locator("#check-no-history")).to_have_attribute("data-result", "pass")
    context.close()


def test_a_number_finds_all_its_matches(place: Place, page: Page) -> None:
    """A customer, a loan and a decision with one id, an id of ten digits, and a phone number."""
    customer_id = samples.GOOD_CUSTOMER_ID
    loan_id = 7_312_345_678
    taken = registered(place, "+917312345678")
    row = loan_row(customer_id, loan_id, 50_000, 12)
    Bench(Service(place.channel, "")).ingest([row])
    search = page.get_by_role("search").get_by_role("searchbox")
    page.goto("/qa/")
    search.fill(f"{loan_id}")
    search.press("Enter")
    matches = page.get_by_label("Matches")
    expect(matches.get_by_role("link")).to_have_count(2)
    expect(matches).to_contain_text(f"Phone number of customer {taken}")
    matches.get_by_role("link", name=f"Loan {loan_id}").click()
    expect(page).to_have_url(f"{place.url}/qa/customers/{customer_id}/loans/{loan_id}")

    request = pb.CreateLoanRequest(
        request_id=str(uuid4()),
        customer_id=customer_id,
        loan_amount=Money(units=5_000),
        interest_rate=DecimalMessage(value="12"),
        tenure_months=12,
    )
    decision_id = place.credit.CreateLoan(request, timeout=10).decision_id
    page.goto(f"/qa/search?query={decision_id}")
    if "/search" in page.url:  # a customer may have the same id
        page.get_by_role("link", name=f"Decision {decision_id}", exact=True).click()
    expect(page).to_have_url(f"{place.url}/qa/decisions/{decision_id}")

    for typed in ("+91 73123 45678", "073123 45678", "917312345678"):
        page.goto(f"/qa/search?{urlencode({'query': typed})}")
        expect(page.locator("main")).to_contain_text("+917312345678")
    page.goto("/qa/search?query=9999999999999999")
    expect(page.get_by_label("Matches")).to_contain_text(
        "No customer, loan or decision has this id"
    )
    page.goto("/qa/search?query=99999999999999999999999")
    expect(page.get_by_label("Matches")).to_contain_text(
        "No customer, loan or decision has this id"
    )


CUSTOMER_HEADER = (
    "Customer ID",
    "First Name",
    "Last Name",
    "Age",
    "Phone Number",
    "Monthly Salary",
)
LOAN_HEADER = (
    "Customer ID",
    "Loan ID",
    "Loan Amount",
    "Tenure",
    "Interest Rate",
    "Monthly payment",
    "EMIs paid on Time",
    "Date of Approval",
)


def both_sheets(path: Path, customer_id: int, loans_first: bool = True) -> Path:
    """Write a workbook of a customer and their loan, each on one sheet."""
    book = openpyxl.Workbook()
    sheets = {
        "Customers": (
            CUSTOMER_HEADER,
            (customer_id, "Lata", "Das", 44, 7300800000 + customer_id, 60000),
        ),
        "Loans": (LOAN_HEADER, (customer_id, 1, 50000, 12, 12, 4500, 12, date(2015, 1, 5))),
    }
    book.remove(book.worksheets[0])
    for name in sorted(sheets, reverse=loans_first):
        sheet = book.create_sheet(name)
        for row in sheets[name]:
            sheet.append(row)
    book.save(path)
    return path


def test_a_file_of_asks_is_downloaded_with_the_answers(
    place: Place, open_tab: OpenTab, tmp_path: Path
) -> None:
    tab = open_tab()
    tab.expected.append("400")
    page = tab.page
    customer_id = registered(place, "+917300000081")
    file = tmp_path / "May.csv"
    file.write_text(
        f"Customer ID,Loan Amount,Rate,Tenure\n{customer_id},100000,12,12\n999999,100000,12,12\n",
        encoding="utf-8",
    )
    page.goto("/qa/eligibility")
    page.get_by_role("link", name="Check a file").click()
    page.get_by_role("button", name="Check and download").click()
    expect(page.get_by_role("alert")).to_have_text("Choose a file.")
    page.get_by_label("A .xlsx or .csv file").set_input_files(file)
    with page.expect_download(timeout=60_000) as started:
        page.get_by_role("button", name="Check and download").click()
    assert started.value.suggested_filename == "May-answers.csv"
    started.value.save_as(tmp_path / "answers.csv")
    text = (tmp_path / "answers.csv").read_text(encoding="utf-8-sig")
    declined, unknown = list(csv.DictReader(io.StringIO(text)))
    assert declined["Answer"] == "DECLINED"
    assert declined["Answer reasons"].startswith("NO_CREDIT_HISTORY")
    assert unknown["Answer error"] == "CUSTOMER_NOT_FOUND: There is no customer 999999."


def test_a_workbook_of_both_kinds_becomes_two_ingestions(
    place: Place, page: Page, tmp_path: Path
) -> None:
    page.goto("/qa/ingestions")
    expect(page.get_by_label("detected from the headers")).to_be_checked()
    page.get_by_label("Drop a .xlsx").set_input_files(both_sheets(tmp_path / "both.xlsx", 8_801))
    page.get_by_role("button", name="Dry run").click()
    real = page.get_by_role("button", name="Load for real")
    # The worker imports two files, possibly on a busy machine.
    expect(real).to_be_enabled(timeout=60_000)
    expect(page.get_by_role("alert")).to_contain_text("The dry run stores no customers.")
    real.click()
    expect(page.get_by_text("The file is loaded.").last).to_be_visible(timeout=60_000)
    progress = page.locator(".progress")
    expect(progress).to_have_count(2)
    for number in (0, 1):
        expect(progress.nth(number).locator(".counts")).to_have_text(
            re.compile(r"Read\s*1\s*Inserted\s*1.*Rejected\s*0", re.DOTALL)
        )
    assert loans_of(place, 8_801) == [1]
    progress.nth(1).get_by_role("link", name="both.xlsx").click()
    expect(page.get_by_label("Progress")).to_contain_text("Rows from the sheet Loans.")
    expect(page.get_by_label("Progress")).to_contain_text("did not read these sheets")
    page.goto("/qa/ingestions")
    rows = page.get_by_label("Ingestions so far").locator("tbody tr")
    expect(rows.nth(0)).to_contain_text("Loans")
    expect(rows.nth(1)).to_contain_text("Customers")


def test_a_workbook_of_both_kinds_is_loaded_without_scripts(
    place: Place, browser: Browser, tmp_path: Path
) -> None:
    context = browser.new_context(base_url=place.url, java_script_enabled=False)
    page = context.new_page()
    page.goto("/qa/ingestions")
    page.get_by_label("Drop a .xlsx").set_input_files(both_sheets(tmp_path / "both.xlsx", 8_802))
    page.get_by_role("button", name="Load for real").click()
    expect(page.get_by_role("status").first).to_contain_text("the customers were sent first")
    soon(lambda: loans_of(place, 8_802) == [1])
    context.close()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.csv", b"a,b\r\n1,2\r\n", "header"),
        ("x.xlsx", b"PK\x03\x04 nothing of a workbook", ""),
        ("x.csv", b"", "empty"),
    ],
)
def test_an_unreadable_file_is_reported_beside_the_field(
    page: Page, tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    page.goto("/qa/ingestions")
    page.get_by_label("Drop a .xlsx").set_input_files(tmp_path / name)
    page.get_by_role("button", name="Dry run").click()
    expect(page.locator("[data-upload-problem]")).to_contain_text(message)
    expect(page.locator("[data-upload-problem]")).not_to_be_empty()
    expect(page.get_by_role("button", name="Dry run")).to_be_enabled()


def test_templates_have_the_usual_headers(page: Page) -> None:
    page.goto("/qa/ingestions")
    page.get_by_text("Templates and accepted headers").click()
    expect(page.get_by_label("Loans headers as a table")).to_contain_text("Monthly Repayment (emi)")
    for kind, first in (("customers", "Customer ID,First Name"), ("loans", "Customer ID,Loan ID")):
        with page.expect_download() as taken:
            page.get_by_role("link", name=f"Template for {kind} (.csv)").click()
        assert Path(taken.value.path()).read_text(encoding="utf-8-sig").startswith(first)


def test_skipped_and_rejected_rows_are_not_shown_as_success(
    place: Place, page: Page, tmp_path: Path
) -> None:
    file = tmp_path / "again.csv"
    file.write_text(
        ",".join(CUSTOMER_HEADER) + "\r\n"
        "101,Other,Person,30,+917300890001,50000\r\n"
        "8803,New,Person,30,+917300890002,50000\r\n"
        "8804,Young,Person,3,+917300890003,50000\r\n",
        encoding="utf-8",
    )
    page.goto("/qa/ingestions")
    page.get_by_label("Drop a .xlsx").set_input_files(file)
    page.get_by_role("button", name="Dry run").click()
    page.get_by_role("button", name="Load for real").click()
    expect(page.get_by_text("The file is loaded.").last).to_be_visible()
    badge = page.locator(".progress .badge").first
    expect(badge).to_contain_text(re.compile("Succeeded, (1 row|2 rows) rejected"))
    expect(badge).to_have_class(re.compile("warn"))
    row = page.get_by_label("Ingestions so far").locator("tbody tr").first
    expect(row).to_contain_text("Succeeded, ")
    counts = [int(each) for each in row.locator("td.n").all_inner_texts()]
    assert counts[0] == sum(counts[1:]) == 3
    # The same person with another age is skipped, and listed with the differences.
    again = tmp_path / "older.csv"
    again.write_text(
        ",".join(CUSTOMER_HEADER) + "\r\n8803,New,Person,31,+917300890002,50000\r\n",
        encoding="utf-8",
    )
    page.goto("/qa/ingestions")
    page.get_by_label("Drop a .xlsx").set_input_files(again)
    page.get_by_role("button", name="Dry run").click()
    page.get_by_role("button", name="Load for real").click()
    expect(page.get_by_text("The file is loaded.").last).to_be_visible()
    page.locator(".progress").get_by_role("link", name="older.csv").click()
    listed = page.get_by_label("Rows rejected or skipped", exact=True).locator("tbody tr")
    expect(listed).to_have_count(1)
    expect(listed).to_contain_text("Skipped")
    expect(listed).to_contain_text("31")
