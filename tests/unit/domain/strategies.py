"""Hypothesis strategies for the domain's values."""

from contextlib import suppress
from dataclasses import replace
from datetime import date, timedelta

from hypothesis import strategies as st

from credit_service.domain.calendar import add_months, installments_due_by
from credit_service.domain.delinquency import Settlement
from credit_service.domain.errors import PreconditionFailedError
from credit_service.domain.foreclosure import quote
from credit_service.domain.installments import installment_paise
from credit_service.domain.loan_replay import PaymentFact, replay
from credit_service.domain.loans import (
    MAX_ANNUAL_RATE_BPS,
    MAX_PRINCIPAL_PAISE,
    MAX_TENURE_MONTHS,
    Ask,
    Loan,
    LoanTerms,
    book,
    imported_settled,
)
from credit_service.domain.payment_recording import record_payment
from credit_service.domain.payments import (
    PaymentPurpose,
    PrepaymentEffect,
    apply_payment,
    outstanding_paise,
    paid_in_all_paise,
)
from credit_service.domain.positions import CreditPosition, position_from_loans
from credit_service.domain.schedules import principal_outstanding_paise, repayment_plan

days = st.dates(date(2000, 1, 1), date(2060, 12, 31))
principals = st.one_of(
    st.integers(1, MAX_PRINCIPAL_PAISE), st.integers(1, 10_000), st.integers(1, 50_000_000)
)
rates = st.one_of(
    st.integers(0, MAX_ANNUAL_RATE_BPS),
    st.sampled_from([0, 1, 900, 999, 1200, 1254, 1600, MAX_ANNUAL_RATE_BPS]),
)
tenures = st.one_of(
    st.integers(1, 60), st.integers(1, MAX_TENURE_MONTHS), st.sampled_from([1, 2, 480])
)
terms = st.builds(LoanTerms, principals, rates, tenures)
asks = st.builds(Ask, principals, rates, tenures)


@st.composite
def booked_loans(draw: st.DrawFn, start_dates: st.SearchStrategy[date] = days) -> Loan:
    """A newly booked loan."""
    chosen = draw(terms)
    return book(chosen, installment_paise(chosen), 1, 1, draw(start_dates), 1)


@st.composite
def imported_loans(draw: st.DrawFn, import_day: date) -> Loan:
    """A loan imported on `import_day`, with an installment that differs from the formula's."""
    principal = draw(st.integers(100, 10**9))
    tenure = draw(st.integers(1, 120))
    installment = draw(st.integers(1, max(1, 3 * principal // tenure)))
    start = draw(st.dates(date(2000, 1, 1), import_day))
    on_time = draw(st.integers(0, tenure))
    settled, closed_on = imported_settled(on_time, start, tenure, import_day)
    base = book(LoanTerms(principal, draw(rates), tenure), installment, 1, 1, start, 1)
    return Loan(
        customer_id=1,
        loan_id=1,
        principal_paise=principal,
        annual_rate_bps=base.annual_rate_bps,
        tenure_months=tenure,
        installment_paise=installment,
        start_date=start,
        end_date=base.end_date,
        imported=True,
        decision_id=None,
        settled_at_import=settled,
        emis_paid_on_time=on_time,
        installments_settled=settled,
        paid_paise=0,
        last_paid_on=None,
        closed_on=closed_on,
    )


@st.composite
def loans_with_payments(draw: st.DrawFn, day: date) -> Loan:
    """A loan booked on or before `day`, paid on some days up to `day`, maybe closed."""
    chosen = LoanTerms(
        draw(st.integers(1_000, 10**8)), draw(st.integers(0, 4000)), draw(st.integers(1, 24))
    )
    start = draw(st.dates(date(2000, 1, 1), day))
    loan = book(chosen, installment_paise(chosen), 1, 1, start, 1)
    for _ in range(draw(st.integers(0, 4))):
        outstanding = outstanding_paise(loan)
        if outstanding == 0:
            break
        amount = draw(st.one_of(st.integers(1, outstanding), st.just(outstanding)))
        paid_on = draw(st.dates(loan.last_paid_on or start, day))
        loan = apply_payment(loan, amount, paid_on, day, 0).loan_after
    return loan


History = tuple[Loan, list[PaymentFact]]
"""A loan without payments, and those recorded on it."""


@st.composite
def histories(draw: st.DrawFn, day: date) -> History:
    """A loan and payments of all purposes on it up to `day`, some backdated, maybe closing it."""
    loan = draw(_loans_of_histories(day))
    current = loan
    facts: list[PaymentFact] = []
    for _ in range(draw(st.sampled_from([1, 2, 3, 4, 6, 0]))):
        fact = draw(payment_facts(current, facts, day))
        for each in (*_what_is_due(loan, facts, fact), fact):
            with suppress(PreconditionFailedError):
                recording = record_payment(current, facts, each, day)
                facts.append(replace(recording.applied.fact, payment_number=len(facts) + 1))
                current = recording.account.loan
        if current.closed_on is not None:
            break
    return loan, facts


def _what_is_due(loan: Loan, facts: list[PaymentFact], fact: PaymentFact) -> list[PaymentFact]:
    """The payment of what is due on the day of a prepayment, which would be rejected without."""
    if fact.purpose is not PaymentPurpose.PART_PREPAYMENT:
        return []
    before = replay(loan, facts, until=fact.paid_on).loan
    due = installments_due_by(before.start_date, before.tenure_months, fact.paid_on)
    amount = repayment_plan(before).first_paise(due) - paid_in_all_paise(before)
    if amount <= 0:
        return []
    return [PaymentFact(fact.payment_number - 1, amount, fact.paid_on, grace_days=5)]


@st.composite
def open_histories(draw: st.DrawFn, day: date) -> History:
    """Likewise, without the payments that close the loan."""
    loan, facts = draw(histories(day))
    while facts and replay(loan, facts).loan.closed_on is not None:
        facts.pop()
    return loan, facts


@st.composite
def _loans_of_histories(draw: st.DrawFn, day: date) -> Loan:
    """A loan of the last 800 days before `day`, maybe imported, mostly open."""
    start = day - timedelta(days=draw(st.integers(0, 800)))
    principal = draw(st.one_of(st.integers(100_000, 10**8), st.integers(1, 5_000)))
    rate = draw(st.one_of(st.integers(0, 4000), st.sampled_from([0, 1200, MAX_ANNUAL_RATE_BPS])))
    tenure = draw(st.one_of(st.integers(3, 48), st.sampled_from([1, 2, 12, 120, 480])))
    chosen = LoanTerms(principal, rate, tenure)
    loan = book(chosen, installment_paise(chosen), 1, 1, start, 1)
    if not draw(st.sampled_from([False, False, True])):
        return loan
    # Of another rate, or with so small installments that the last one repays most.
    installment = draw(st.integers(1, max(1, 3 * principal // tenure)))
    import_day = draw(st.dates(start, day))
    on_time = draw(st.one_of(st.just(0), st.integers(0, tenure)))
    settled, closed_on = imported_settled(on_time, start, tenure, import_day)
    return replace(
        loan,
        installment_paise=installment,
        imported=True,
        decision_id=None,
        settled_at_import=settled,
        emis_paid_on_time=on_time,
        installments_settled=settled,
        closed_on=closed_on,
        on_time_at_import=on_time,
    )


@st.composite
def payment_facts(
    draw: st.DrawFn, loan: Loan, recorded: list[PaymentFact], day: date
) -> PaymentFact:
    """The next payment on a loan, of any purpose; not every one can be recorded."""
    prepayment = PaymentPurpose.PART_PREPAYMENT
    purpose = draw(st.sampled_from([PaymentPurpose.INSTALLMENTS, prepayment, *PaymentPurpose]))
    last = loan.last_paid_on or loan.start_date
    earliest = draw(st.sampled_from([last, last, loan.start_date]))
    due_dates = [add_months(loan.start_date, k) for k in range(loan.tenure_months + 1)]
    usual = [each for each in due_dates if earliest <= each <= day]
    soon = min(earliest + timedelta(days=100), day)
    paid_on = draw(st.one_of(st.dates(earliest, soon), st.sampled_from(usual or [day])))
    left = max(outstanding_paise(loan), 1)
    owed = max(principal_outstanding_paise(loan) - 1, 1)
    effect = None
    if purpose is PaymentPurpose.INSTALLMENTS:
        several = min(left, max(loan.installment_paise, 1) * draw(st.integers(1, 5)))
        amount = draw(st.sampled_from([several, several - several // 3, min(left, 1), left]))
    elif purpose is prepayment:
        amount = draw(st.one_of(st.integers(1, owed), st.sampled_from([1, owed // 3 + 1, owed])))
        effect = draw(st.sampled_from(PrepaymentEffect))
    else:
        account = replay(loan, recorded, until=paid_on)
        is_open = account.loan.closed_on is None
        amount = quote(account, paid_on, 0).total_paise if is_open else left
    number = len(recorded) + 2
    return PaymentFact(number, amount, paid_on, purpose, effect, draw(st.integers(0, 5)))


def portfolios(day: date) -> st.SearchStrategy[list[Loan]]:
    """All loans of a customer on `day`."""
    return st.lists(st.one_of(loans_with_payments(day), imported_loans(day)), max_size=5)


@st.composite
def paid_portfolios(draw: st.DrawFn, day: date) -> tuple[list[Loan], dict[int, list[Settlement]]]:
    """Loans of the last 400 days before `day`, some imported, most paid in part, and what
    settled their installments."""
    loans: list[Loan] = []
    settlements: dict[int, list[Settlement]] = {}
    for loan_id in range(1, draw(st.integers(0, 3)) + 1):
        # Few paise over many months are repaid early, or with the last installment alone.
        principal = draw(st.one_of(st.integers(100_000, 10**8), st.integers(1, 200)))
        chosen = LoanTerms(principal, draw(st.integers(0, 4000)), draw(st.integers(1, 24)))
        start = draw(st.dates(day - timedelta(days=400), day))
        loan = book(chosen, installment_paise(chosen), loan_id, 1, start, 1)
        if draw(st.booleans()):
            import_day = draw(st.dates(start, day))
            on_time = draw(st.integers(0, chosen.tenure_months))
            settled, closed_on = imported_settled(on_time, start, chosen.tenure_months, import_day)
            loan = replace(
                loan,
                imported=True,
                decision_id=None,
                settled_at_import=settled,
                emis_paid_on_time=on_time,
                installments_settled=settled,
                closed_on=closed_on,
            )
        for _ in range(draw(st.integers(0, 5))):
            outstanding = outstanding_paise(loan)
            if outstanding == 0 or loan.closed_on is not None:
                break
            most = min(outstanding, 3 * loan.installment_paise or outstanding)
            amount = draw(st.one_of(st.integers(1, most), st.just(most), st.just(outstanding)))
            paid_on = draw(st.dates(loan.last_paid_on or start, day))
            outcome = apply_payment(loan, amount, paid_on, day, 0)
            loan = outcome.loan_after
            if numbers := outcome.settled_numbers:
                paid = Settlement(numbers[0], len(numbers), paid_on)
                settlements.setdefault(loan_id, []).append(paid)
        loans.append(loan)
    return loans, settlements


@st.composite
def positions(draw: st.DrawFn) -> CreditPosition:
    """A position computed from loans."""
    day = draw(st.dates(date(2010, 1, 1), date(2040, 12, 31)))
    income = draw(st.integers(1, 10**9))
    limit = draw(st.one_of(st.integers(0, 10**10), st.integers(0, 10**12)))
    return position_from_loans(1, 1, income, limit, draw(portfolios(day)), day)


@st.composite
def free_positions(draw: st.DrawFn) -> CreditPosition:
    """Any consistent figures, good credit included."""
    count = draw(st.integers(0, 15))
    total = draw(st.integers(count, 3 * 10**8)) if count else 0
    due = draw(st.integers(0, 400)) if count else 0
    return CreditPosition(
        customer_id=1,
        version=draw(st.integers(1, 10**6)),
        monthly_income_paise=draw(st.integers(1, 10**9)),
        approved_limit_paise=draw(st.integers(0, 10**10)),
        current_debt_paise=draw(st.integers(0, total)),
        current_installments_paise=draw(st.integers(0, 10**7)) if count else 0,
        loan_count=count,
        total_principal_paise=total,
        emis_on_time=draw(st.integers(0, due)),
        emis_due=due,
        current_year_loans=draw(st.integers(0, count)),
        as_of=date(2024, 5, 5),
        valid_until=date(2024, 6, 1),
        held_principal_paise=(held := draw(st.one_of(st.just(0), st.integers(0, 10**8)))),
        held_installments_paise=draw(st.integers(0, 10**6)) if held else 0,
    )


def due_count(loan: Loan, day: date) -> int:
    """d of one loan, as docs/rules.md writes it."""
    due = installments_due_by(loan.start_date, loan.tenure_months, day)
    return max(due, loan.emis_paid_on_time)
