"""A customer's credit as of an earlier day."""

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from credit_service.domain.as_of import (
    CreditAsOf,
    CustomerHistory,
    FactChange,
    HoldHistory,
    LoanHistory,
    UnknownFact,
    credit_as_of,
    require_past_or_today,
)
from credit_service.domain.customers import Customer
from credit_service.domain.delinquency import AssetClass
from credit_service.domain.errors import InvalidFieldsError
from credit_service.domain.installments import installment_paise
from credit_service.domain.loan_replay import PaymentFact, replay
from credit_service.domain.loans import Loan, LoanTerms, book, imported_settled
from credit_service.domain.payments import PaymentPurpose, apply_payment, outstanding_paise
from credit_service.domain.positions import CreditPosition, Hold, position_from_loans

TODAY = date(2026, 9, 10)
CUSTOMER = Customer(
    customer_id=101,
    first_name="Asha",
    last_name="Rao",
    age=34,
    monthly_income_paise=6_250_000,
    phone_number="+919876500001",
    approved_limit_paise=230_000_000,
    version=7,
    created_at=datetime(2025, 1, 1, tzinfo=UTC),
)
EMI = 888_488


def loan(start: date, loan_id: int = 1) -> Loan:
    """₹1,00,000 at 12 % over 12 months."""
    terms = LoanTerms(10_000_000, 1200, 12)
    return book(terms, installment_paise(terms), loan_id, 101, start, 1)


def imported(start: date, on_time: int, day: date, loan_id: int = 1) -> Loan:
    settled, closed_on = imported_settled(on_time, start, 12, day)
    return replace(
        loan(start, loan_id),
        imported=True,
        decision_id=None,
        settled_at_import=settled,
        emis_paid_on_time=on_time,
        installments_settled=settled,
        closed_on=closed_on,
    )


def history(
    *loans: LoanHistory,
    holds: list[HoldHistory] | None = None,
    changes: list[FactChange] | None = None,
) -> CustomerHistory:
    return CustomerHistory(CUSTOMER, date(2025, 1, 1), loans, holds or [], changes or [])


def position_on(loans: list[Loan], day: date, holds: tuple[Hold, ...] = ()) -> CreditPosition:
    limit, income = CUSTOMER.approved_limit_paise, CUSTOMER.monthly_income_paise
    return position_from_loans(101, CUSTOMER.version, income, limit, loans, day, holds)


def test_loans_count_from_their_start_and_payments_from_their_days() -> None:
    paid = (PaymentFact(1, EMI, date(2026, 2, 10)), PaymentFact(2, 5_000, date(2026, 8, 1)))
    of = history(LoanHistory(loan(date(2026, 1, 10)), paid, None))
    before = credit_as_of(of, date(2026, 1, 9))
    assert (before.position.loan_count, before.facts.active_loans) == (0, 0)
    on_start = credit_as_of(of, date(2026, 1, 10)).position
    assert (on_start.loan_count, on_start.current_debt_paise) == (1, 10_000_000)
    due = [credit_as_of(of, day).position for day in (date(2026, 2, 9), date(2026, 2, 10))]
    assert [(each.emis_on_time, each.emis_due) for each in due] == [(0, 0), (1, 1)]
    late = credit_as_of(of, date(2026, 4, 9)).facts
    assert (late.days_past_due, late.asset_class) == (31, AssetClass.SMA_1)


def test_a_foreclosed_loan_was_open_before() -> None:
    start = date(2026, 1, 1)
    closing = PaymentFact(1, 10_016_129, date(2026, 1, 6), PaymentPurpose.FORECLOSURE)
    now = replay(loan(start), [closing]).loan
    assert now.closed_on == date(2026, 1, 6)
    of = history(LoanHistory(now, [closing], None))
    then = credit_as_of(of, date(2026, 1, 5)).position
    assert (then.current_debt_paise, then.current_installments_paise) == (10_000_000, EMI)
    assert credit_as_of(of, date(2026, 1, 6)).position.current_debt_paise == 0


def test_the_emis_of_an_import_count_as_they_fell_due() -> None:
    day = date(2026, 7, 15)
    # Six were due, four of them paid on time.
    of = history(LoanHistory(imported(date(2026, 1, 10), 4, day), (), day))
    found = {each: credit_as_of(of, date(2026, each, 12)) for each in (1, 2, 5, 6, 7)}
    counts = {each: (f.position.emis_on_time, f.position.emis_due) for each, f in found.items()}
    assert counts == {1: (0, 0), 2: (1, 1), 5: (4, 4), 6: (4, 5), 7: (4, 6)}
    assert {f.facts.days_past_due for f in found.values()} == {0}
    assert {f.unknown for f in found.values()} == {(UnknownFact.IMPORTED_PAYMENTS,)}
    assert credit_as_of(of, day).unknown == ()


def test_an_imported_loan_that_was_repaid_was_open_before_its_end() -> None:
    day, start = date(2026, 7, 15), date(2025, 1, 10)
    of = history(LoanHistory(imported(start, 12, day), (), day))
    assert credit_as_of(of, date(2026, 1, 9)).position.current_debt_paise == 10_000_000
    assert credit_as_of(of, date(2026, 1, 10)).position.current_debt_paise == 0


def test_facts_of_the_customer_are_those_of_the_day() -> None:
    changes = [
        FactChange("monthly_income_paise", "5000000", date(2026, 3, 1)),
        FactChange("approved_limit_paise", "180000000", date(2026, 3, 1)),
        FactChange("monthly_income_paise", "6000000", date(2026, 5, 1)),
        FactChange("phone_number", "+919876500009", date(2026, 5, 1)),
        FactChange("of_a_later_release", "1", date(2026, 5, 1)),
    ]
    of = history(changes=changes)

    def facts_on(day: date) -> tuple[int, int, str]:
        then = credit_as_of(of, day)
        assert then.position.monthly_income_paise == then.customer.monthly_income_paise
        return (
            then.customer.monthly_income_paise,
            then.position.approved_limit_paise,
            then.customer.phone_number,
        )

    assert facts_on(date(2026, 2, 28)) == (5_000_000, 180_000_000, "+919876500009")
    assert facts_on(date(2026, 3, 1)) == (6_000_000, 230_000_000, "+919876500009")
    assert facts_on(date(2026, 5, 1)) == (6_250_000, 230_000_000, "+919876500001")
    assert credit_as_of(of, date(2024, 12, 31)).unknown == (UnknownFact.CUSTOMER,)
    assert credit_as_of(of, date(2024, 12, 31)).facts.months_as_customer == 0


@pytest.mark.parametrize(
    ("released_on", "until"),
    [(None, date(2026, 6, 5)), (date(2026, 6, 3), date(2026, 6, 2))],
)
def test_an_offer_holds_credit_until_it_ends(released_on: date | None, until: date) -> None:
    hold = Hold(1, 5_000_000, 400_000, date(2026, 6, 5))
    of = history(holds=[HoldHistory(hold, date(2026, 6, 1), released_on)])
    days = [date(2026, 5, 31) + timedelta(days=each) for each in range(8)]
    held = [day for day in days if credit_as_of(of, day).position.held_principal_paise]
    assert (held[0], held[-1]) == (date(2026, 6, 1), until)


def test_a_day_after_today_is_rejected() -> None:
    require_past_or_today(TODAY, TODAY)
    with pytest.raises(InvalidFieldsError) as raised:
        require_past_or_today(TODAY + timedelta(days=1), TODAY)
    assert (raised.value.reason, raised.value.metadata) == (
        "AS_OF_OUT_OF_RANGE",
        {"fields": "as_of"},
    )


@given(st.data())
def test_every_day_of_the_last_year_is_as_it_was(data: st.DataObject) -> None:
    """Payments recorded day by day give each day's loans; later facts do not change that day."""
    first = TODAY - timedelta(days=366)
    loans: list[Loan] = []
    payments: dict[int, list[PaymentFact]] = {}
    imported_on: dict[int, date] = {}
    for loan_id in range(1, data.draw(st.integers(0, 3)) + 1):
        start = data.draw(st.dates(first - timedelta(days=200), TODAY))
        payments[loan_id] = []
        made = loan(start, loan_id)
        if data.draw(st.booleans()):
            # Imported before the first of the days: nothing is unknown.
            start = min(start, first)
            imported_on[loan_id] = first
            made = imported(start, data.draw(st.integers(0, 12)), first, loan_id)
        loans.append(made)
    asked = sorted(data.draw(st.sets(st.dates(first, TODAY), max_size=6)) | {first, TODAY})
    then: dict[date, list[Loan]] = {}
    day = first
    while day <= TODAY:
        for place, each in enumerate(loans):
            left = outstanding_paise(each)
            is_payable = each.closed_on is None and each.start_date <= day and left > 0
            if is_payable and day.day % 5 == 0 and data.draw(st.integers(0, 5)) == 0:
                amount = data.draw(st.sampled_from([min(EMI, left), min(EMI // 2, left), left]))
                number = len(payments[each.loan_id]) + 1
                payments[each.loan_id].append(PaymentFact(number, amount, day))
                loans[place] = apply_payment(each, amount, day, day, 0).loan_after
        if day in asked:
            then[day] = [each for each in loans if each.start_date <= day]
        day += timedelta(days=1)
    of = history(
        *(
            LoanHistory(
                replace(each, on_time_at_import=_at_import(each, payments[each.loan_id])),
                payments[each.loan_id],
                imported_on.get(each.loan_id),
            )
            for each in loans
        )
    )
    for day in asked:
        found: CreditAsOf = credit_as_of(of, day)
        assert replace(found.position, arrears=None) == position_on(then[day], day)
        assert found.unknown == ()


def _at_import(paid: Loan, payments: list[PaymentFact]) -> int:
    by_payments = replay(replace(paid, on_time_at_import=0), payments).loan.emis_paid_on_time
    return paid.emis_paid_on_time - by_payments
