"""What `create-loan` prints."""

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from google.type.date_pb2 import Date
from google.type.decimal_pb2 import Decimal

from credit_service.cli import booking
from credit_service.cli.asks import Ask
from credit_service.cli.common import Format, Target
from credit_service.v1 import credit_service_pb2 as pb
from credit_service.v1 import loan_pb2


def test_the_loan_of_a_server_that_sends_no_cost_is_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rate = Decimal(value="10")
    response = pb.CreateLoanResponse(
        decision_id=3,
        approved=True,
        interest_rate=rate,
        corrected_interest_rate=rate,
        loan=loan_pb2.Loan(loan_id=7, next_due_date=Date(year=2026, month=1, day=31)),
    )

    @contextmanager
    def service(_target: Target) -> Iterator[Any]:
        yield SimpleNamespace(CreateLoan=lambda _request, timeout: response)  # noqa: ARG005

    monkeypatch.setattr(booking, "service_at", service)
    assert booking.create_loan(Target(), Ask(1, "1,000", "10", 12), None, Format()) == 0
    first, terms, due = capsys.readouterr().out.splitlines()
    assert first == "Decision 3: approved, loan 7"
    assert terms.startswith("  ₹1,000.00 over 12 months at 10 % a year: ")
    assert due == "  first installment due on 2026-01-31"
