"""Laws of loans with payments of every purpose, some backdated."""

from dataclasses import replace
from datetime import date, timedelta
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from credit_service.domain.calendar import add_months, installments_due_by
from credit_service.domain.delinquency import days_past_due
from credit_service.domain.errors import PreconditionFailedError
from credit_service.domain.foreclosure import quote
from credit_service.domain.installments import installment_paise
from credit_service.domain.loan_replay import LoanAccount, PaymentFact, replay
from credit_service.domain.loans import Loan, LoanState, LoanTerms, book
from credit_service.domain.payment_recording import record_payment
from credit_service.domain.payments import (
    InstallmentState,
    PaymentPurpose,
    PrepaymentEffect,
    apply_payment,
    excess_paise,
    installment_states,
    outstanding_paise,
    paid_and_outstanding_paise,
    paid_in_all_paise,
)
from credit_service.domain.schedules import (
    balance_after_paise,
    principal_outstanding_paise,
    repayment_plan,
    schedule,
)
from tests.unit.domain.strategies import History, histories, open_histories, payment_facts

DAY = date(2024, 5, 5)


def check(account: LoanAccount, agreed: Loan) -> None:
    """The figures of an account agree with each other, line by line."""
    loan, lines = account.loan, account.installments
    assert [each.number for each in lines] == list(range(1, loan.tenure_months + 1))
    assert [each.due_date for each in lines] == [
        add_months(loan.start_date, each.number) for each in lines
    ]
    assert lines[-1].due_date == loan.end_date
    assert lines[-1].balance_paise == 0
    for each in lines:
        assert min(each.principal_paise, each.interest_paise, each.balance_paise) >= 0
        assert each.payment_paise == each.principal_paise + each.interest_paise
    principal = sum(each.principal_paise for each in lines)
    assert principal + account.prepaid_principal_paise == loan.principal_paise
    payments = [each.payment_paise for each in lines]
    plan = repayment_plan(loan)
    assert sum(payments) + account.prepaid_principal_paise == plan.total_paise
    assert loan.tenure_months <= agreed.tenure_months
    assert loan.agreed_tenure_months == agreed.tenure_months
    assert loan.agreed_installment_paise == agreed.installment_paise

    # The figures that need no replay.
    after = plan.after_number
    for each in lines[after:]:
        assert plan.payment_paise(each.number) == each.payment_paise
        assert plan.first_paise(each.number) == plan.before_paise + sum(
            payments[after : each.number]
        )
        if each.number < loan.tenure_months:
            assert balance_after_paise(loan, each.number) == each.balance_paise
    assert schedule(loan).installments == lines[after:]
    if loan.state is LoanState.ACTIVE:
        settled = loan.installments_settled
        owed = sum(each.principal_paise for each in lines[settled:])
        assert principal_outstanding_paise(loan) == owed
    paid, outstanding = paid_and_outstanding_paise(loan)
    assert paid == paid_in_all_paise(loan)
    assert account.excess_paise == excess_paise(loan) == max(paid - plan.total_paise, 0)
    assert outstanding == plan.total_paise + account.excess_paise - paid
    states = installment_states(loan, DAY)
    assert [each.number for each in states] == [each.number for each in lines[after:]]
    assert [each.state is InstallmentState.SETTLED for each in states] == [
        each.number <= loan.installments_settled for each in states
    ]
    assert plan.before_paise + sum(each.paid_paise for each in states) == min(
        paid, plan.total_paise
    )

    if loan.last_paid_on is not None:
        rest, settled = paid - plan.before_paise, after
        while settled < loan.tenure_months and payments[settled] <= rest:
            rest -= payments[settled]
            settled += 1
        assert loan.installments_settled == settled

    # What the payments did.
    assert loan.paid_paise == sum(
        each.fact.amount_paise - each.fact.charge_paise for each in account.applied
    )
    numbers = [number for each in account.applied for number in each.settled_numbers]
    assert numbers == list(range(loan.settled_at_import + 1, loan.installments_settled + 1))
    assert [
        (number, each.paid_on)
        for each in account.settlements
        for number in range(each.first_number, each.first_number + each.count)
    ] == [
        (number, each.fact.paid_on) for each in account.applied for number in each.settled_numbers
    ]
    on_time = sum(each.on_time_count for each in account.applied)
    assert loan.emis_paid_on_time == agreed.emis_paid_on_time + on_time
    assert loan.emis_paid_on_time <= max(loan.installments_settled, agreed.emis_paid_on_time)
    assert (loan.state is LoanState.CLOSED) == (loan.installments_settled == loan.tenure_months)
    assert loan.last_paid_on == max((each.fact.paid_on for each in account.applied), default=None)
    if loan.settled_at_import < agreed.tenure_months:
        closing = [each for each in account.applied if each.closed]
        assert [each.fact.paid_on for each in closing] == ([loan.closed_on] * len(closing))
        assert len(closing) == (loan.state is LoanState.CLOSED)


@given(histories(DAY))
def test_an_account_is_consistent(history: History) -> None:
    loan, facts = history
    account = replay(loan, facts)
    check(account, loan)
    assert account.excess_paise == 0
    assert len(account.applied) == len(facts)


@pytest.mark.parametrize("paid", [0, 1, 73_574, 73_575, 73_576, 74_835, 74_836, 84_911])
def test_figures_of_a_raised_installment_agree(paid: int) -> None:
    """735.75 of interest and seven installments of 12.61, then one of 25.09: see
    `test_a_reduced_installment_pays_at_least_its_interest`."""
    terms = LoanTerms(10_000_000, 1200, 12)
    loan = book(terms, installment_paise(terms), 1, 1, date(2026, 1, 15), 1)
    nearly_all = PaymentFact(
        2,
        7_600_000,
        date(2026, 5, 14),
        PaymentPurpose.PART_PREPAYMENT,
        PrepaymentEffect.REDUCE_INSTALLMENT,
    )
    facts = [PaymentFact(1, 3 * loan.installment_paise, date(2026, 4, 15)), nearly_all]
    account = replay(loan, facts)
    if paid:
        day = date(2026, 5, 14)
        after = apply_payment(account.loan, paid, day, day, 0).loan_after
        account = replay(loan, [*facts, PaymentFact(3, paid, day)])
        assert account.loan == after
    assert account.installments[3].payment_paise == 73_575
    check(account, loan)


@given(histories(DAY), st.data())
def test_reversals_are_always_possible(history: History, data: st.DataObject) -> None:
    """With any payments taken out, whatever the others were recorded for."""
    loan, facts = history
    left = [each for each in facts if data.draw(st.booleans())]
    account = replay(replay(loan, facts).loan, left)
    check(account, loan)


@given(histories(DAY), st.data())
def test_the_order_of_recording_does_not_matter(history: History, data: st.DataObject) -> None:
    """Of payments on several days, and of payments for installments on one day."""
    loan, facts = history
    by_day: dict[date, list[PaymentFact]] = {}
    for each in facts:
        by_day.setdefault(each.paid_on, []).append(replace(each, grace_days=1))
    kept: list[PaymentFact] = []
    for of_day in by_day.values():
        plain = all(each.purpose is PaymentPurpose.INSTALLMENTS for each in of_day)
        kept += of_day if plain else of_day[:1]
    expected = replay(loan, kept)
    numbers = data.draw(st.permutations(range(1, len(kept) + 1)))
    renumbered = [
        replace(each, payment_number=number) for each, number in zip(kept, numbers, strict=True)
    ]
    stored = loan
    recorded: list[PaymentFact] = []
    for each in sorted(renumbered, key=lambda each: each.payment_number):
        recorded.append(each)
        # Each write replays from the loan that the one before stored.
        stored = replay(stored, recorded).loan
    assert stored == expected.loan


@given(open_histories(DAY), st.data())
def test_reversing_the_last_payment_gives_the_loan_from_before(
    history: History, data: st.DataObject
) -> None:
    loan, facts = history
    before = replay(loan, facts)
    fact = data.draw(payment_facts(before.loan, facts, DAY))
    after = replay(before.loan, [*facts, fact])
    assert replay(after.loan, facts) == before


@given(open_histories(DAY), st.data())
def test_a_payment_of_installments_needs_no_replay(history: History, data: st.DataObject) -> None:
    loan, facts = history
    before = replay(loan, facts).loan
    left = outstanding_paise(before)
    if before.closed_on or left == 0:
        return
    amount = data.draw(st.one_of(st.integers(1, left), st.just(left)))
    paid_on = data.draw(st.dates(before.last_paid_on or before.start_date, DAY))
    outcome = apply_payment(before, amount, paid_on, DAY, 3)
    fact = PaymentFact(len(facts) + 1, amount, paid_on, grace_days=3)
    account = replay(loan, [*facts, fact])
    assert account.loan == outcome.loan_after
    assert tuple(account.applied[-1].settled_numbers) == outcome.settled_numbers
    assert account.applied[-1].on_time_count == len(outcome.on_time_numbers)
    assert account.applied[-1].closed == outcome.closed


@given(open_histories(DAY), st.integers(0, 400), st.integers(0, 1000))
def test_a_quote_paid_closes_the_loan_and_less_does_not(
    history: History, days_later: int, charge_bps: int
) -> None:
    loan, facts = history
    before = replay(loan, facts)
    if before.loan.closed_on or outstanding_paise(before.loan) == 0:
        return
    day = (before.loan.last_paid_on or loan.start_date) + timedelta(days=days_later)
    found = quote(before, day, charge_bps)
    assert found.total_paise - found.charge_paise == (
        found.principal_outstanding_paise
        + found.past_interest_paise
        + found.running_interest_paise
        - found.paid_in_part_paise
    )
    assert min(found.past_interest_paise, found.running_interest_paise) >= 0
    assert found.interest_saved_paise >= 0
    assert found.total_paise - found.charge_paise + found.interest_saved_paise == (
        outstanding_paise(before.loan)
    )
    fact = PaymentFact(len(facts) + 1, found.total_paise, day, PaymentPurpose.FORECLOSURE)
    recording = record_payment(loan, facts, fact, day, charge_bps)
    closed = recording.account
    check(closed, loan)
    assert recording.applied.closed
    assert closed.excess_paise == 0
    assert closed.loan.closed_on == day
    assert recording.applied.fact.charge_paise == found.charge_paise
    assert outstanding_paise(closed.loan) == 0
    assert closed.loan.paid_paise == before.loan.paid_paise + (
        found.total_paise - found.charge_paise
    )

    for missing in (1, 100):
        less = replace(fact, amount_paise=found.total_paise - missing)
        if less.amount_paise <= found.charge_paise:
            continue
        with pytest.raises(PreconditionFailedError, match="differs from"):
            record_payment(loan, facts, less, day, charge_bps)
        # Nor does the replay close the loan with it, as after a reversal.
        kept = replay(loan, [*facts, replace(less, charge_paise=found.charge_paise)])
        check(kept, loan)
        assert kept.loan.state is LoanState.ACTIVE


@given(open_histories(DAY), st.data())
def test_a_shortened_loan_pays_no_more_interest(history: History, data: st.DataObject) -> None:
    loan, facts = history
    before = replay(loan, facts)
    owed = principal_outstanding_paise(before.loan)
    if owed <= 1:
        return
    paid_on = data.draw(st.dates(before.loan.last_paid_on or loan.start_date, DAY))
    amount = data.draw(st.integers(1, owed - 1))
    effect = PrepaymentEffect.REDUCE_TENURE
    shorter = PaymentFact(99, amount, paid_on, PaymentPurpose.PART_PREPAYMENT, effect)
    lower = replace(shorter, effect=PrepaymentEffect.REDUCE_INSTALLMENT)
    after = [replay(loan, [*facts, each]) for each in (shorter, lower)]
    for each in after:
        check(each, loan)
    interest = [sum(line.interest_paise for line in each.installments) for each in after]
    assert interest[0] <= interest[1]
    # Also no more than without the prepayment, and in no more months.
    assert interest[0] <= sum(line.interest_paise for line in before.installments)
    months = [each.loan.tenure_months for each in (*after, before)]
    assert months == sorted(months)
    assert after[0].loan.installment_paise == before.loan.installment_paise
    assert after[1].loan.installment_paise <= before.loan.installment_paise


@given(histories(DAY))
def test_days_past_due_fall_only_by_a_payment(history: History) -> None:
    loan, facts = history
    account = replay(loan, facts)
    paid_on = {each.paid_on for each in facts}
    before = 0
    for each in range(min((DAY - loan.start_date).days, 900) + 1):
        day = DAY - timedelta(days=(DAY - loan.start_date).days - each)
        # From the account of all payments, and from one as of the day.
        days = days_past_due(account.loan, account.settlements, day)
        then = replay(loan, facts, until=day)
        if day in paid_on or each % 37 == 0:
            assert days == days_past_due(then.loan, then.settlements, day)
        if before > 0 and day not in paid_on:
            assert days == before + 1
        assert days <= before + 1 or day in paid_on
        before = days


def interest_by_days(account: LoanAccount) -> list[Fraction]:
    """The interest of each installment of a loan at its agreed rate, added up day by day."""
    loan = account.loan
    found = []
    balance = loan.principal_paise
    for line in account.installments:
        begins, ends = (add_months(loan.start_date, line.number - each) for each in (1, 0))
        days = (begins + timedelta(days=each) for each in range((ends - begins).days))
        prepaid = dict.fromkeys(days, 0)
        for each in account.applied:
            if each.fact.paid_on in prepaid:
                prepaid[each.fact.paid_on] += each.prepaid_principal_paise
        total = 0
        for amount in prepaid.values():
            balance -= amount
            total += balance
        found.append(Fraction(total * loan.annual_rate_bps, 120_000 * len(prepaid)))
        balance -= line.principal_paise
    return found


@given(open_histories(DAY))
def test_interest_is_that_of_every_days_balance(history: History) -> None:
    """The interest of each period is rounded once. Of loans without installments paid ahead."""
    loan, facts = history
    account = replay(loan, facts)
    if loan.imported or account.loan.state is LoanState.CLOSED:
        return
    for each in account.applied:
        due = installments_due_by(loan.start_date, loan.tenure_months, each.fact.paid_on)
        if each.settled_numbers and each.settled_numbers[-1] > due:
            return
    expected = interest_by_days(account)
    for line, exact in zip(account.installments, expected, strict=True):
        assert abs(line.interest_paise - exact) <= Fraction(1, 2)
