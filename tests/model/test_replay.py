"""Compares the replay of a loan in the domain with that of the model, without a server: many loans
and payments in little time."""

from dataclasses import dataclass, replace
from datetime import date, timedelta

from hypothesis import given
from hypothesis import strategies as st

from credit_service.domain.asks import is_repayable
from credit_service.domain.delinquency import Settlement, days_and_class
from credit_service.domain.foreclosure import quote
from credit_service.domain.installments import installment_paise
from credit_service.domain.loan_replay import PaymentFact
from credit_service.domain.loan_replay import replay as domain_replay
from credit_service.domain.loans import Loan, LoanTerms, book, imported_settled
from credit_service.domain.payments import PaymentPurpose, PrepaymentEffect, outstanding_paise
from credit_service.domain.schedules import principal_outstanding_paise
from tests.model.loans import Facts, Life, class_of, days_past_due, replay

_START = date(2024, 1, 31)
_IMPORT_DAY = date(2024, 8, 10)


@dataclass(frozen=True, slots=True)
class Case:
    """A loan and its payments, for the domain and for the model."""

    loan: Loan
    payments: list[PaymentFact]
    facts: Facts


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """A booked or imported loan, and payments on any days, in any order of recording."""
    principal = draw(st.sampled_from([33_333, 1_00_000_00, 7_77_777_77]) | st.integers(1, 2_000))
    bps = draw(st.sampled_from([0, 1, 1_200, 1_254, 3_600, 10_000]))
    tenure = draw(st.sampled_from([1, 2, 3, 7, 12, 24]))
    terms = LoanTerms(principal, bps, tenure)
    installment = installment_paise(terms)
    on_time = settled = 0
    closed_on = None
    imported = draw(st.booleans())
    if imported:
        low, high = max(1, principal // tenure - 1), installment + installment // 3 + 1
        installment = draw(st.sampled_from([max(1, installment), low, high]))
        on_time = draw(st.integers(0, tenure))
        settled, closed_on = imported_settled(on_time, _START, tenure, _IMPORT_DAY)
    elif not is_repayable(terms):
        terms = LoanTerms(1_00_000_00, bps, tenure)
        installment = installment_paise(terms)
    loan = replace(
        book(terms, installment, 7, 1, _START, 1),
        imported=imported,
        settled_at_import=settled,
        emis_paid_on_time=on_time,
        installments_settled=settled,
        closed_on=closed_on,
        on_time_at_import=on_time,
    )
    facts: Facts = {
        "principal": loan.principal_paise,
        "bps": bps,
        "tenure": tenure,
        "installment": installment,
        "start": _START,
        "source_on_time": on_time,
        "settled_before": settled,
        "closed_before": closed_on,
        "payments": [],
    }
    payments = []
    for number in range(1, draw(st.integers(0, 7)) + 1):
        day = _START + timedelta(
            days=draw(st.sampled_from([0, 1, 29, 60, 61]) | st.integers(0, 800))
        )
        purpose = draw(st.sampled_from(PaymentPurpose))
        effect = draw(st.sampled_from(PrepaymentEffect))
        grace = draw(st.sampled_from([0, 0, 3]))
        # A foreclosure in between is seldom exact without this.
        then = replay({**facts, "payments": list(facts["payments"])}, until=day)
        exact = then.quote(day) if then.closed_on is None else 1
        amount = draw(
            st.sampled_from(
                [exact, exact, max(1, exact - 1), installment or 1, installment // 2 + 1]
            )
            | st.integers(1, 2 * loan.principal_paise)
        )
        is_prepayment = purpose is PaymentPurpose.PART_PREPAYMENT
        payments.append(
            PaymentFact(number, amount, day, purpose, effect if is_prepayment else None, grace)
        )
        facts["payments"].append(
            {
                "number": number,
                "amount": amount,
                "day": day,
                "purpose": purpose.value,
                "effect": effect.value if is_prepayment else "REDUCE_TENURE",
                "charge": 0,
                "grace": grace,
                "reversed": "",
            }
        )
    return Case(loan, payments, facts)


@given(cases(), st.integers(0, 900))
def test_the_domain_and_the_model_agree_on_any_payments(case: Case, days: int) -> None:
    day = _START + timedelta(days=days)
    for until in (None, day):
        account, life = domain_replay(case.loan, case.payments, until), replay(case.facts, until)
        loan = account.loan
        lines = [
            (each.due_date, each.principal_paise, each.interest_paise, each.balance_paise)
            for each in account.installments
        ]
        assert lines == life.schedule()
        assert (loan.tenure_months, loan.installment_paise) == (life.tenure, life.installment)
        assert (loan.installments_settled, loan.closed_on) == (life.settled, life.closed_on)
        assert loan.emis_paid_on_time == life.on_time
        assert outstanding_paise(loan) == life.unpaid()
        assert account.excess_paise == life.excess
        if life.closed_on is None:
            assert principal_outstanding_paise(loan) == life.balance()
        for applied in account.applied:
            did = life.applied[applied.fact.payment_number]
            assert list(applied.settled_numbers) == did["settled"]
            assert applied.prepaid_principal_paise == did["prepaid"]
            assert applied.closed == did["closed"]
        _same_arrears(account.loan, account.settlements, life, day)
    last = account.loan.last_paid_on or _START
    if life.closed_on is None and day >= last:
        assert quote(account, day, 0).total_paise == life.quote(day)


def _same_arrears(loan: Loan, settlements: list[Settlement], life: Life, day: date) -> None:
    days, asset_class = days_and_class([loan], {loan.loan_id: settlements}, day)
    assert days == days_past_due([life], day)
    assert asset_class.name == class_of([life], day)
