"""Lending by the command line: from a registration to a paid loan, offers, and reviews."""

import csv
import json
from datetime import date, timedelta
from typing import Any
from uuid import uuid4

import pytest

from credit_service.storage.database import Database
from tests.integration.cli.conftest import Run
from tests.integration.conftest import Edge
from tests.integration.credit.test_referrals import activate_referring
from tests.integration.lending import import_loans, register

_PERSON = (
    *("register-customer", "--first-name=Meera", "--last-name=Iyer", "--age=34"),
    *("--income=50,000", "--phone=98765 00009"),
)


@pytest.fixture(autouse=True)
def _address(server: Edge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CREDIT_ADDRESS", server.target)


def _repeated(run: Run, *command: str) -> dict[str, Any]:
    """The JSON of a write that is run twice with one request id, and takes effect once."""
    again = (*command, "--request-id", str(uuid4()), "--json")
    first, second = run(*again), run(*again)
    assert first == second
    assert (first[0], first[2]) == (0, "")
    document: dict[str, Any] = json.loads(first[1])
    return document


def _output(run: Run, *command: str) -> str:
    code, output, errors = run(*command)
    assert (code, errors) == (0, "")
    return output


def test_a_customer_is_registered_and_a_loan_booked_and_paid(server: Edge, run: Run) -> None:
    found = _repeated(run, *_PERSON)["customer"]
    one = found["customer_id"]
    assert (found["phone_number"], found["age"]) == ("+919876500009", 34)
    code, output, errors = run(*_PERSON)
    assert (code, output) == (1, "")
    assert errors.startswith("error: ALREADY_EXISTS (PHONE_NUMBER_TAKEN)")

    loan = (one, "1,00,000", "10", "12")
    declined = _output(run, "create-loan", *loan)
    assert "declined" in declined.splitlines()[0]
    assert "NO_CREDIT_HISTORY: " in declined
    import_loans(server, int(one), 4)
    assert "would be approved" in _output(run, "check", *loan)
    too_much = _output(run, "create-loan", one, "99,00,000", "10", "12")
    assert "APPROVED_LIMIT_EXCEEDED: " in too_much
    assert "  counter-offer: ₹" in too_much

    charged = (*loan, "--lender-charges=590", "--third-party-charges=1000.50")
    booked = _repeated(run, "create-loan", *charged)
    assert [each["payee"] for each in booked["loan"]["charges"]] == [
        "CHARGE_PAYEE_LENDER", "CHARGE_PAYEE_THIRD_PARTY",
    ]  # fmt: skip
    loan_id = booked["loan"]["loan_id"]
    assert len(json.loads(run("loans", one, "--json")[1])["loans"]) == 5
    (record,) = csv.DictReader(_output(run, "create-loan", *loan, "--csv").splitlines())
    assert (record["approved"], record["loan.customer_id"]) == ("true", one)
    shown = _output(run, "create-loan", one, "20000", "10", "12", "--lender-charges=200")
    assert ": approved, loan " in shown.splitlines()[0]
    assert "  ₹20,000.00 over 12 months at 10 % a year: ₹1,758.32 a month" in shown
    assert "₹19,800.00 disbursed" in shown
    assert "  first installment due on " in shown
    paid = _output(run, "pay", one, loan_id, "8791.59")
    assert "settled installments: 1" in paid


def test_an_offer_is_accepted_in_part_or_withdrawn(server: Edge, run: Run) -> None:
    customer = register(server.credit, "9876500010")
    one = str(customer)
    wanted = (one, "1,00,000", "10", "12")
    assert "NO_CREDIT_HISTORY: " in _output(run, "create-offer", *wanted)
    import_loans(server, customer, 4)
    made = _repeated(run, "create-offer", *wanted, "--lender-charges=590")["offer"]
    offer_id = made["offer_id"]
    held = _output(run, "offer", offer_id)
    assert "OPEN" not in held
    assert "open" in held
    assert "₹1,00,000.00, ₹8,791.59 a month" in held
    (record,) = csv.DictReader(_output(run, "offer", offer_id, "--csv").splitlines())
    assert (record["state"], record["cost_of_credit.net_disbursed"]) == ("OPEN", "99410.00")

    code, _, errors = run("accept-offer", offer_id, "--amount=1,00,001")
    assert (code, "OFFER_AMOUNT_EXCEEDED" in errors) == (1, True)
    accepted = _repeated(run, "accept-offer", offer_id, "--amount=30,000")
    assert accepted["offer"]["state"] == "LOAN_OFFER_STATE_ACCEPTED"
    assert accepted["loan"]["loan_amount"]["units"] == "30000"
    loan_id = accepted["loan"]["loan_id"]
    assert "accepted " in _output(run, "offer", offer_id)
    assert f": ₹30,000.00, loan {loan_id}" in _output(run, "offer", offer_id)
    code, _, errors = run("withdraw-offer", offer_id)
    assert (code, "OFFER_ENDED" in errors) == (1, True)

    shown = _output(run, "create-offer", *wanted)
    assert ": approved, offer " in shown.splitlines()[0]
    assert "  valid until " in shown
    (second, _) = json.loads(run("offers", one, "--json")[1])["offers"]
    ended = _repeated(run, "withdraw-offer", second["offer_id"], "--reason=Changed plans.")
    assert ended["offer"]["state"] == "LOAN_OFFER_STATE_WITHDRAWN"
    assert ": Changed plans." in _output(run, "offer", second["offer_id"])

    in_five_days = (date(**made["created_on"]) + timedelta(days=5)).isoformat()
    whole = _output(run, "create-offer", *wanted, "--valid-until", in_five_days, "--json")
    third = json.loads(whole)["offer"]
    assert date(**third["valid_until"]).isoformat() == in_five_days
    code, _, errors = run("accept-offer", third["offer_id"], "--on=2020-01-31")
    assert (code, "DISBURSEMENT_BEFORE_OFFER" in errors) == (1, True)
    booked = _output(run, "accept-offer", third["offer_id"])
    assert f"Offer {third['offer_id']} is accepted" in booked.splitlines()
    assert "₹1,00,000.00 at 10 % a year" in booked
    last = json.loads(_output(run, "create-offer", *wanted, "--json"))["offer"]["offer_id"]
    assert "withdrawn " in _output(run, "withdraw-offer", last)


def test_a_referred_decision_is_reviewed(server: Edge, database: Database, run: Run) -> None:
    activate_referring(database)
    customer = register(server.credit, "9876500011")
    import_loans(server, customer, 4)
    one = str(customer)
    referred = []
    for command in ("create-loan", "create-loan", "create-offer"):
        shown = _output(run, command, one, "1,00,000", "10", "72")
        first, *_ = shown.splitlines()
        assert first.endswith(": referred")
        decision_id = first.split()[1].rstrip(":")
        assert "POLICY_RULE: The tenure is long." in shown
        assert f": credit-service review-decision {decision_id}" in shown
        referred.append(decision_id)
    kept, booked, offered = referred
    pending = json.loads(_output(run, "decisions", "--referral=pending", "--json"))["decisions"]
    assert [each["decision_id"] for each in pending] == [offered, booked, kept]
    declined = _output(run, "review-decision", kept, "decline", "--reason=No proof of income.")
    assert f"Decision {kept}: referred" in declined
    assert "No proof of income." in declined
    (found,) = json.loads(_output(run, "decisions", "--referral=declined", "--json"))["decisions"]
    assert found["decision_id"] == kept
    approved = _repeated(run, "review-decision", booked, "approve", "--reason=Income checked.")
    assert approved["decision"]["loan_id"] == approved["loan"]["loan_id"]
    shown = _output(run, "review-decision", offered, "approve", "--reason=Income checked.")
    assert ": approved, offer " in shown.splitlines()[0]
    code, _, errors = run("review-decision", offered, "decline", "--reason=No.")
    assert (code, "REFERRAL_ALREADY_REVIEWED" in errors) == (1, True)
