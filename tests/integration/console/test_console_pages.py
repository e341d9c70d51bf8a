"""Pages of the console, and commands that show the same, before a server in this process."""

import io
import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import openpyxl
import psycopg
import pytest
from google.type.money_pb2 import Money

from credit_service.cli.app import run
from credit_service.clock import Clock
from credit_service.console import lists
from credit_service.ingestion.reverting import revert_ingestion, run_revert
from credit_service.ingestion.uploads import run_upload
from credit_service.spreadsheets import samples, templates
from credit_service.spreadsheets.columns import COLUMNS
from credit_service.storage.database import Database
from credit_service.v1 import credit_service_pb2 as pb
from credit_service.v1 import decision_pb2, ingestion_pb2, loan_pb2
from credit_service.v1 import ingestion_service_pb2 as ingestion_pb
from tests.consoles import Answer, Visitor, console
from tests.integration.conftest import Edge
from tests.integration.credit.test_referrals import activate_referring
from tests.integration.credit.test_rpc_credit import good_customer, loan_request
from tests.integration.imported import LoanRow, ingest
from tests.integration.lending import ask, import_loans, register

LAST = "a month, the last ₹8,884.85"


@pytest.fixture
def visitor(server: Edge) -> Iterator[Visitor]:
    with console(server.target) as place:
        yield Visitor(place)


def test_the_last_installment_is_shown_where_it_differs(
    server: Edge, visitor: Visitor, capsys: pytest.CaptureFixture[str]
) -> None:
    customer = register(server.credit, "9876500001")
    import_loans(server, customer, 10)
    wanted = ask(customer, str(uuid4()))
    wanted.interest_rate.value = "12"
    loan = server.credit.CreateLoan(wanted).loan
    asked = f"customer_id={customer}&interest_rate=12&loan_amount="
    for path in ("/qa/eligibility/answer?", f"/qa/apply/review?request_id={uuid4()}&"):
        page = visitor.ask(f"{path}{asked}100000&tenure_months=12").text
        assert 'a month, the last <span class="num">₹8,884.85</span>, for' in page
        same = visitor.ask(f"{path}{asked}10000&tenure_months=1").text
        assert "₹10,100.00</strong> a month, for" in same
    declined = visitor.ask(f"/qa/eligibility/answer?{asked}1200000&tenure_months=36").text
    assert declined.count("a month, the last <span") == 3
    page = visitor.ask(f"/qa/decisions/{loan.decision_id}").text
    assert 'a month, the last <span class="num">₹8,884.85</span>.' in page
    page = visitor.ask(f"/qa/customers/{customer}/loans/{loan.loan_id}").text
    assert "<dt>Last installment</dt><dd>₹8,884.85</dd>" in page
    assert "the last ₹8,884.85" in visitor.ask(f"/qa/customers/{customer}").text

    address = f"--address={server.target}"
    for words, expected in (
        (["check", str(customer), "100000", "12", "12"], LAST),
        (["check", str(customer), "1200000", "12", "36"], "counter-offer: "),
        (["loan", str(loan.loan_id)], LAST),
        (["decision", str(loan.decision_id)], LAST),
        (["schedule", str(customer), str(loan.loan_id)], "is ₹8,884.85, the others are ₹8,884.88."),
    ):
        assert run([*words, address]) == 0
        assert expected in capsys.readouterr().out
    assert run(["check", str(customer), "10000", "12", "1", address]) == 0
    assert "the last" not in capsys.readouterr().out


def test_the_date_order_is_sent_to_the_service(visitor: Visitor, database_url: str) -> None:
    page = visitor.ask("/qa/ingestions").text
    assert 'name="date_order" value="column" checked' in page

    def send(order: str) -> str:
        fields = {
            "csrf_token": visitor.csrf_token("/qa/ingestions"),
            "ingestion_id": str(uuid4()),
            "kind": "loans",
            "on_existing": "skip",
            "validate_only": "yes",
            **({"date_order": order} if order else {}),
        }
        parts = [
            f'--x\r\ncontent-disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
            for name, value in fields.items()
        ]
        file = ",".join(samples.LOAN_HEADERS) + "\r\n1,1,1,1,1,1,1,03-04-2024,\r\n"
        parts.append(
            '--x\r\ncontent-disposition: form-data; name="file"; filename="l.csv"\r\n'
            f"content-type: text/csv\r\n\r\n{file}\r\n--x--\r\n"
        )
        body = "".join(parts).encode()
        answer = visitor.ask("/qa/ingestions", body, "multipart/form-data; boundary=x")
        if answer.status != 303:
            return answer.text
        ingestion_id = answer.headers["location"].rpartition("/")[2]
        with psycopg.connect(database_url.replace("+psycopg", "")) as connection:
            row = connection.execute(
                "SELECT date_order FROM ingestions WHERE ingestion_id = %s", [ingestion_id]
            ).fetchone()
        assert row is not None
        return str(row[0])

    assert [send(order) for order in ("dmy", "mdy", "ymd")] == ["DMY", "MDY", "YMD"]
    assert send("column") == send("") == "None"
    assert "Choose the order of numeric dates." in send("ydm")


def test_a_payment_is_reversed_and_a_loan_prepaid_and_foreclosed(
    server: Edge, visitor: Visitor
) -> None:
    customer = register(server.credit, "9876500001")
    import_loans(server, customer, 10)
    loan = server.credit.CreateLoan(ask(customer, str(uuid4()))).loan
    home = f"/qa/customers/{customer}/loans/{loan.loan_id}"

    def send(path: str, **fields: str) -> Answer:
        return visitor.send(home + path, request_id=str(uuid4()), **fields)

    paid = visitor.send(home, f"{home}/pay", request_id=str(uuid4()), amount="8800")
    assert paid.status == 303
    found = re.search(r"payments/([0-9]+)/reverse", visitor.ask(home).text)
    assert found is not None
    reversal = f"/payments/{found[1]}/reverse"
    assert send(reversal).status == 400
    assert send(reversal, reason="BOUNCED").status == 303
    assert '<span class="badge declined">Reversed</span>' in visitor.ask(home).text
    assert "It was reversed" in visitor.ask(home + reversal).text

    terms = {"amount": "20000", "effect": "installment"}
    query = f"/prepay/review?request_id={uuid4()}&amount=20000&effect=installment"
    assert "Reduce the installment <span" in visitor.ask(home + query).text
    assert visitor.ask(home + "/prepay/review?amount=x&request_id=" + str(uuid4())).status == 400
    booked = visitor.send(
        f"{home}{query}", f"{home}/prepay/review", request_id=str(uuid4()), **terms
    )
    assert booked.status == 303
    assert "Part prepayment" in visitor.ask(home).text

    quote = visitor.ask(f"{home}/foreclose").text
    fields = dict(re.findall(r'name="(amount|paid_on)" value="([^"]+)"', quote))
    assert send("/foreclose", **{**fields, "amount": "1"}).status in (400, 409)
    assert send("/foreclose", **fields).status == 303
    assert "The loan is closed." in visitor.ask(home).text


def test_arrears_and_what_was_paid_too_much_are_shown(
    server: Edge, visitor: Visitor, database: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    customer = register(server.credit, "9876500001")
    import_loans(server, customer, 10)
    loan = server.credit.CreateLoan(ask(customer, str(uuid4()))).loan
    home, address = f"/qa/customers/{customer}", f"--address={server.target}"

    def pay(paise: int, **fields: Any) -> pb.RecordPaymentResponse:
        amount = Money(units=paise // 100, nanos=paise % 100 * 10_000_000)
        return server.credit.RecordPayment(
            pb.RecordPaymentRequest(
                request_id=str(uuid4()),
                customer_id=customer,
                loan_id=loan.loan_id,
                amount=amount,
                **fields,
            )
        )

    assert "STANDARD, since" not in visitor.ask(home).text
    # Without the last paisa of the eleventh installment, the foreclosure is for too much.
    emi = loan.monthly_installment.units * 100 + loan.monthly_installment.nanos // 10_000_000
    pay(11 * emi - 1)
    paisa = pay(1)
    quote = server.credit.GetForeclosureQuote(
        pb.GetForeclosureQuoteRequest(customer_id=customer, loan_id=loan.loan_id)
    )
    pay(
        quote.total.units * 100 + quote.total.nanos // 10_000_000,
        purpose=loan_pb2.PAYMENT_PURPOSE_FORECLOSURE,
    )
    assert "Paid too much" not in visitor.ask(f"{home}/loans/{loan.loan_id}").text
    server.credit.ReversePayment(
        pb.ReversePaymentRequest(
            request_id=str(uuid4()),
            payment_id=paisa.payment.payment_id,
            reason=loan_pb2.PAYMENT_REVERSAL_REASON_ENTRY_ERROR,
        )
    )
    assert "<dt>Paid too much</dt><dd>₹" in visitor.ask(f"{home}/loans/{loan.loan_id}").text
    assert run(["loan", str(loan.loan_id), address]) == 0
    assert "paid too much" in capsys.readouterr().out

    # An imported loan of which no installment was paid.
    moment = Clock().moment()
    start = moment.today - timedelta(days=200)
    row = LoanRow(customer, 99, start=start, emis_paid_on_time=0, installments_settled=0)
    ingest(database, [row], moment)
    since = server.credit.GetCustomer(pb.GetCustomerRequest(customer_id=customer)).customer
    assert since.asset_class == decision_pb2.ASSET_CLASS_NPA
    day = since.asset_class_since
    shown = re.compile(rf"NPA, \d+ days past due, since {day.day} \w+ {day.year}")
    assert shown.search(visitor.ask(home).text)
    assert shown.search(visitor.ask(f"{home}/as-of?as_of={moment.today}").text)
    assert run(["customer", str(customer), address]) == 0
    assert f"NPA since {day.year}-{day.month:02}-{day.day:02}" in capsys.readouterr().out


def test_only_the_edited_fields_of_a_customer_change(server: Edge, visitor: Visitor) -> None:
    customer = register(server.credit, "9876500001")
    register(server.credit, "9876500002")
    home, page = f"/qa/customers/{customer}", f"/qa/customers/{customer}/edit"
    assert "No fact of this customer has changed." in visitor.ask(home).text
    shown = visitor.ask(page).text
    fields = dict(re.findall(r'<input [^>]*name="([a-z_]+)"[^>]* value="([^"]*)"', shown))
    assert fields["was_monthly_income"] == fields["monthly_income"] == "50000"
    assert fields.pop("csrf_token")
    # A change of another field after the form was shown stays.
    update = pb.UpdateCustomerRequest(request_id=str(uuid4()))
    update.customer.customer_id, update.customer.last_name = customer, "Sen"
    update.update_mask.paths.append("last_name")
    server.credit.UpdateCustomer(update)

    def send(**edited: str) -> Answer:
        return visitor.send(page, **{**fields, "request_id": str(uuid4()), **edited})

    taken = send(phone_number="9876500002", age="x")
    assert taken.status == 400
    assert "Enter a whole number." in taken.text
    taken = send(phone_number="9876500002")
    assert (taken.status, "already registered" in taken.text) == (409, True)
    assert send(monthly_income="₹ 1,00,000", age="31").status == 303
    assert "2 fields of customer" in visitor.ask(home).text
    stored = server.credit.GetCustomer(pb.GetCustomerRequest(customer_id=customer)).customer
    assert (stored.last_name, stored.age, stored.approved_limit.units) == ("Sen", 31, 36_00_000)
    limit = send(limit_by_rule="", approved_limit="some")
    assert (limit.status, "Enter rupees" in limit.text) == (400, True)
    assert send(limit_by_rule="", approved_limit="700000").status == 303
    assert send().headers["location"] == home
    listed = visitor.ask(home).text
    assert "The limit was set." in listed
    assert "<bdi>₹50,000.00</bdi></td> <td><bdi>₹1,00,000.00" in listed
    assert send(was_limit_by_rule="", limit_by_rule="yes").status == 303
    assert "The limit follows the income." in visitor.ask(home).text


def upload_customers(server: Edge, database: Database, content: str) -> str:
    """Upload a CSV file of customers and import its rows. Return the ingestion id."""
    ingestion_id = str(uuid4())
    upload = ingestion_pb.UploadSpreadsheetHeader(
        ingestion_id=ingestion_id,
        kind=ingestion_pb2.INGESTION_KIND_CUSTOMERS,
        filename="register.csv",
    )
    messages = [
        ingestion_pb.UploadSpreadsheetRequest(header=upload),
        ingestion_pb.UploadSpreadsheetRequest(chunk=content.encode()),
    ]
    server.ingestion.UploadSpreadsheet(iter(messages))
    run_upload(database, UUID(ingestion_id), Clock())
    return ingestion_id


def test_an_ingestion_is_reverted_in_the_console_and_on_the_command_line(
    server: Edge,
    visitor: Visitor,
    database: Database,
    capsys: pytest.CaptureFixture[str],
) -> None:
    header = "Customer ID,First Name,Last Name,Age,Phone Number,Monthly Salary\n"
    first = upload_customers(server, database, header + "1,Asha,Rao,31,9876500001,50000\n")
    second = upload_customers(server, database, header + "2,Dev,Nair,33,9876500002,50000\n")
    path = f"/qa/ingestions/{first}"
    page = visitor.ask(path).text
    assert f'href="{path}/revert">Revert the ingestion</a>' in page
    assert f"{path}/cancel" not in page
    answer = visitor.send(f"{path}/revert", request_id=str(uuid4()))
    assert (answer.status, answer.headers["location"]) == (303, path)
    assert "A worker takes the rows of this ingestion back." in visitor.ask(path).text
    run_revert(database, UUID(first), Clock())
    page = visitor.ask(path).text
    assert "<dt>Removed</dt><dd>1</dd>" in page
    assert f"{path}/revert" not in page
    # The command line waits for the worker.
    revert_ingestion(database, UUID(second), UUID(second), Clock().moment(), "anonymous")
    run_revert(database, UUID(second), Clock())
    words = [second, f"--request-id={second}", f"--address={server.target}"]
    assert run(["revert-ingestion", *words]) == 0
    assert "removed 1   restored 0   kept 0" in capsys.readouterr().out
    assert run(["cancel-ingestion", second, f"--address={server.target}"]) == 1
    assert "INGESTION_ENDED" in capsys.readouterr().err


def test_only_the_rejected_rows_of_a_file_are_saved(
    server: Edge,
    visitor: Visitor,
    database: Database,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    header = "Customer ID,First Name,Last Name,Age,Phone Number,Monthly Salary\n"
    good, bad = "1,Asha,Rao,31,9876500001,50000\n", "2,Dev,Nair,17,9876500002,50000\n"

    def ids(content: bytes) -> list[str]:
        sheet = openpyxl.load_workbook(io.BytesIO(content)).worksheets[1]
        return [str(row[0].value) for row in sheet.iter_rows(min_row=2)]

    ingestion_id = upload_customers(server, database, header + good + bad)
    path = f"/qa/ingestions/{ingestion_id}"
    page = visitor.ask(path).text
    assert "Annotated workbook</a>" in page
    assert f'href="{path}/rejected">' in page
    assert "Rejected rows only</a>" in page
    assert ids(visitor.ask(f"{path}/annotated").body) == ["1", "2"]
    assert ids(visitor.ask(f"{path}/rejected").body) == ["2"]

    monkeypatch.chdir(tmp_path)
    words = ["annotated", ingestion_id, f"--address={server.target}"]
    assert run(words) == 0
    assert run([*words, "--rejected-only"]) == 0
    assert "Saved register-rejected.xlsx (" in capsys.readouterr().out
    assert ids((tmp_path / "register-annotated.xlsx").read_bytes()) == ["1", "2"]
    assert ids((tmp_path / "register-rejected.xlsx").read_bytes()) == ["2"]

    # A file with only a skipped row has problems to mark, and no rejected rows.
    skipped = upload_customers(server, database, header + good.replace("31", "32"))
    page = visitor.ask(f"/qa/ingestions/{skipped}").text
    assert "Annotated workbook</a>" in page
    assert "Rejected rows only" not in page


def test_row_errors_are_shown_under_the_headers_of_the_file(
    server: Edge,
    visitor: Visitor,
    database: Database,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    content = (
        "Customer ID,First Name,Last Name,AGE (years),Mobile No.,Monthly Salary\n"
        "1,Asha,Rao,17,9876500001,50000\n"
    )
    ingestion_id = upload_customers(server, database, content)
    page = visitor.ask(f"/qa/ingestions/{ingestion_id}")
    assert '<td>AGE (years)<span class="hint"><code>OUT_OF_RANGE</code></span></td>' in page.text
    rows = visitor.ask(f"/qa/ingestions/{ingestion_id}/errors.csv").body.decode()
    assert "age,AGE (years),OUT_OF_RANGE,17," in rows

    # The command reads the file, and so knows the headers of a stream too.
    path = tmp_path / "register.csv"
    path.write_text(content, encoding="utf-8")
    assert run(["ingest", str(path), f"--address={server.target}"]) != 0
    assert "AGE (years)" in capsys.readouterr().out


def test_templates_are_offered_as_workbooks_and_csv_files(visitor: Visitor) -> None:
    page = visitor.ask("/qa/ingestions").text
    for kind in COLUMNS:
        name = f"{kind.lower()}-template"
        for ending, content in (
            ("xlsx", templates.template(kind)),
            ("csv", templates.csv_template(kind)),
        ):
            path = f"/qa/templates/{kind.lower()}.{ending}"
            assert f'href="{path}"' in page
            answer = visitor.ask(path)
            assert (answer.status, answer.body) == (200, content)
            assert f"{name}.{ending}" in answer.headers["content-disposition"]
    for path in ("houses.xlsx", "CUSTOMERS.xlsx", "houses.csv"):
        assert visitor.ask(f"/qa/templates/{path}").status == 404


def test_charges_and_the_key_facts_are_shown(
    server: Edge, visitor: Visitor, capsys: pytest.CaptureFixture[str]
) -> None:
    """The figures of the Reserve Bank of India's illustration."""
    customer = register(server.credit, "9876500001")
    import_loans(server, customer, 10)
    asked = f"customer_id={customer}&interest_rate=15&loan_amount=20000&tenure_months=24"
    charged = f"{asked}&lender_charges=160&third_party_charges=240"
    assert (
        '<span class="num">17.07 %</span>' in visitor.ask(f"/qa/eligibility/answer?{charged}").text
    )
    assert "Annual percentage rate" not in visitor.ask(f"/qa/eligibility/answer?{asked}").text
    too_much = visitor.ask(f"/qa/apply/review?request_id={uuid4()}&{asked}&lender_charges=20000")
    assert too_much.status == 400
    assert 'id="p-lender_charges">Must be less than the loan of ₹20,000.00' in too_much.text

    review = f"/qa/apply/review?request_id={uuid4()}&{charged}"
    fields = dict(each.split("=") for each in review.partition("?")[2].split("&"))
    assert visitor.send(review, "/qa/apply/review", **fields).status == 303
    loans = server.credit.ListLoans(pb.ListLoansRequest(customer_id=customer)).loans
    loan_id = loans[-1].loan_id
    assert [each.amount.units for each in loans[-1].charges] == [160, 240]
    here = f"/qa/customers/{customer}/loans/{loan_id}"
    assert f'href="{here}/key-facts"' in visitor.ask(here).text
    page = visitor.ask(f"{here}/key-facts").text
    for expected in ("17.07 %", "₹19,600.00", "charges of third parties", "No charge."):
        assert expected in page
    imported = f"/qa/customers/{customer}/loans/{loans[0].loan_id}"
    assert "key-facts" not in visitor.ask(imported).text

    address = f"--address={server.target}"
    charges = ["--lender-charges", "160", "--third-party-charges", "240"]
    for words in (
        ["check", str(customer), "20000", "15", "24", *charges],
        ["key-facts", "--customer", str(customer), "--loan", str(loan_id)],
        ["loan", str(loan_id)],
    ):
        assert run([*words, address]) == 0
        assert "17.07 %" in capsys.readouterr().out
    assert run(["key-facts", "--loan", str(loan_id), address]) == 2


def test_an_offer_is_made_accepted_in_part_and_withdrawn(server: Edge, visitor: Visitor) -> None:
    customer = register(server.credit, "9876500001")
    import_loans(server, customer, 10)
    asked = f"customer_id={customer}&interest_rate=12&loan_amount=100000&tenure_months=12"

    def offered() -> str:
        review = f"/qa/apply/review?request_id={uuid4()}&{asked}"
        assert "Make an offer instead" in visitor.ask(review).text
        fields = dict(each.split("=") for each in review.partition("?")[2].split("&"))
        answer = visitor.send(review, "/qa/apply/review", intent="offer", **fields)
        assert answer.status == 303
        return answer.headers["location"]

    first = offered()
    page = visitor.ask(first).text
    assert "<dt>Held credit</dt><dd>₹1,00,000</dd>" in page
    assert "<dt>Annual percentage rate</dt>" in page
    page = visitor.ask(f"/qa/customers/{customer}").text
    assert "₹1,00,000 held by open offers" in page
    assert f'href="{first}"' in page
    ids = {"request_id": str(uuid4()), "disbursed_on": ""}
    answer = visitor.send(first, f"{first}/accept", loan_amount="100001", **ids)
    assert answer.status == 409
    assert "OFFER_AMOUNT_EXCEEDED" in answer.text
    answer = visitor.send(first, f"{first}/accept", loan_amount="x", **ids)
    assert (answer.status, "Enter rupees" in answer.text) == (400, True)
    assert visitor.send(first, f"{first}/accept", loan_amount="40,000", **ids).status == 303
    page = visitor.ask(first).text
    assert "<dt>Accepted</dt><dd>₹40,000</dd>" in page
    assert "It holds no credit." in page

    second = offered()
    fields = {"request_id": str(uuid4()), "reason": "changed <b>plans</b>"}
    assert visitor.send(second, f"{second}/withdraw", **fields).status == 303
    assert "changed &lt;b&gt;plans&lt;/b&gt;" in visitor.ask(second).text
    assert "held by open offers" not in visitor.ask(f"/qa/customers/{customer}").text


def test_the_rules_of_a_policy_are_shown(
    server: Edge, visitor: Visitor, database: Database
) -> None:
    customer = register(server.credit, "9876500001")
    import_loans(server, customer, 3)
    activate_referring(database)
    asked = f"customer_id={customer}&interest_rate=12&loan_amount=10000&tenure_months=12"
    page = visitor.ask(f"/qa/eligibility/answer?{asked}").text
    assert 'aria-label="Policy rules as a table"' in page
    assert '<span class="num">tenure_months 12</span>' in page
    assert "Not applied" in page
    decision = server.credit.CreateLoan(ask(customer, str(uuid4())))
    page = visitor.ask(f"/qa/decisions/{decision.decision_id}").text
    assert 'aria-label="Policy rules as a table"' in page


def test_a_referral_is_reviewed_on_one_page(
    server: Edge, visitor: Visitor, database: Database
) -> None:
    activate_referring(database)
    customer = good_customer(database)

    def referred() -> str:
        decision = server.credit.CreateLoan(loan_request(customer, tenure_months=61))
        return f"/qa/decisions/{decision.decision_id}"

    first, second = referred(), referred()
    page = visitor.ask("/qa/referrals").text
    assert f'href="{first}"' in page
    assert f'href="{second}"' in page
    page = visitor.ask(first).text
    for part in ("Referred", "Approve and decide again", "The customer now", "Policy rules"):
        assert part in page, part
    ids = {"request_id": str(uuid4())}
    empty = visitor.send(first, f"{first}/review", verdict="approve", reason="", **ids)
    assert empty.status == 400
    assert 'id="p-reason"' in empty.text
    none = visitor.send(first, f"{first}/review", reason="No verdict", **ids)
    assert none.status == 400
    done = visitor.send(first, f"{first}/review", verdict="approve", reason="By phone", **ids)
    assert done.status == 303
    page = visitor.ask(done.headers["location"]).text
    assert f'This decision was made by the review of <a href="{first}">' in page
    page = visitor.ask(first).text
    assert "<dt>Reason</dt><dd>By phone</dd>" in page
    assert "Approve and decide again" not in page
    ids = {"request_id": str(uuid4())}
    done = visitor.send(second, f"{second}/review", verdict="decline", reason="<i>No</i>", **ids)
    assert done.headers["location"] == second
    page = visitor.ask(second).text
    assert "The request is declined." in page
    assert "<dt>Reason</dt><dd>&lt;i&gt;No&lt;/i&gt;</dd>" in page
    assert "No request waits for a review." in visitor.ask("/qa/referrals").text
    assert f'href="{second}"' in visitor.ask("/qa/referrals?state=DECLINED").text


def test_an_earlier_day_is_shown_with_what_is_not_known(
    server: Edge, visitor: Visitor, capsys: pytest.CaptureFixture[str]
) -> None:
    customer = register(server.credit, "9876500001")
    import_loans(server, customer, 2)
    path = f"/qa/customers/{customer}/as-of"
    assert path in visitor.ask(f"/qa/customers/{customer}").text
    assert "Today or an earlier day." in visitor.ask(path).text
    page = visitor.ask(f"{path}?as_of=2020-06-30").text
    # Two loans from January 2020 to January 2021.
    assert "<dt>Current debt</dt><dd>₹2,00,000</dd>" in page
    for unknown in ("which EMIs of loans", "income and limit, because"):
        assert f"Not known: {unknown}" in page
    assert "Enter a date" in visitor.ask(f"{path}?as_of=soon").text
    assert "Must be today" in visitor.ask(f"{path}?as_of=2999-01-01").text

    for command in ("customer", "score"):
        words = [command, str(customer), "--as-of", "2020-06-30", f"--address={server.target}"]
        assert run(words) == 0
        shown = " ".join(capsys.readouterr().out.split())
        assert "As of 2020-06-30, by what is known today" in shown
        assert "not known: which EMIs of loans" in shown


def test_a_list_is_filtered_by_its_address_and_exported_with_the_same_filters(
    server: Edge, visitor: Visitor
) -> None:
    customer, other = register(server.credit, "9876500001"), register(server.credit, "9876500002")
    import_loans(server, customer, 2)
    declined = server.credit.CreateLoan(
        loan_request(customer, loan_amount=Money(units=90_00_00_000))
    ).decision_id
    page = visitor.ask(f"/qa/decisions?customer_id={customer}&outcome=DECLINED").text
    assert f"/qa/decisions/{declined}" in page
    assert '<option value="DECLINED" selected>' in page
    export = re.search(r'href="(/qa/exports/decisions\.csv[^"]*)"', page)
    assert export is not None
    sent = visitor.ask(export[1].replace("&amp;", "&"))
    assert sent.headers["content-disposition"] == 'attachment; filename="decisions.csv"'
    lines = sent.body.decode().splitlines()
    assert len(lines) == 2
    assert lines[1].startswith(f"{declined},{customer},DECLINED,900000000.00,")
    for query in (f"customer_id={other}", f"customer_id={customer}&outcome=APPROVED"):
        assert "No decisions with these filters." in visitor.ask(f"/qa/decisions?{query}").text
        assert visitor.ask(f"/qa/exports/decisions.csv?{query}").body.count(b"\r\n") == 1

    file = visitor.ask(f"/qa/exports/loans.xlsx?customer_id={customer}").body
    rows = list(openpyxl.load_workbook(io.BytesIO(file)).active.values)[1:]
    assert {row[:2] for row in rows} == {("2000", str(customer)), ("2001", str(customer))}
    assert visitor.ask("/qa/exports/loans.csv").status == 400
    assert visitor.ask(f"/qa/exports/loans.csv?customer_id={10**15 - 1}").status == 404
    for name in ("none.csv", "loans.exe", "customers", "..%2fcustomers.csv"):
        assert visitor.ask(f"/qa/exports/{name}").status == 404
    wrong = visitor.ask("/qa/overdue?days=%22%3E%3Cb%3E")
    assert wrong.status == 400
    assert "<b>" not in wrong.text
    assert "Enter a whole number of 1 or more." in wrong.text


def test_every_list_has_a_page(server: Edge, visitor: Visitor) -> None:
    customer = register(server.credit, "9876500001")
    import_loans(server, customer, 1)
    query = f"customer_id={customer}&loan_id=1000"
    for listing in lists.LISTINGS:
        page = visitor.ask(listing.path)
        assert page.status == 200, listing.path
        assert f"<h1>{listing.title}</h1>" in page.text
        if listing is not lists.ROW_ERRORS:
            assert visitor.ask(f"{listing.path}?{query}").status == 200
            assert visitor.ask(f"/qa/exports/{listing.name}.csv?{query}").status == 200
