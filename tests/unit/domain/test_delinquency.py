"""Days past due and asset classes, by the published case and by a count day by day."""

from dataclasses import replace
from datetime import date, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from credit_service.domain.calendar import add_months
from credit_service.domain.delinquency import (
    Arrears,
    AssetClass,
    ClassChange,
    Delinquency,
    Settlement,
    Settlements,
    arrears,
    arrears_known_from,
    class_changes,
    class_of,
    days_and_class,
    days_past_due,
    days_past_due_of,
    delinquency,
    first_unpaid_due,
    passed_changes,
    with_loan_due,
    with_payment,
)
from credit_service.domain.installments import installment_paise
from credit_service.domain.loans import Loan, LoanTerms, book, imported_settled
from credit_service.domain.payments import apply_payment, outstanding_paise
from credit_service.domain.schedules import repayment_plan
from tests.unit.domain.strategies import paid_portfolios

STANDARD, SMA_0, SMA_1, SMA_2, NPA = AssetClass
ONE_DAY = timedelta(days=1)


def loan(start: date, tenure: int = 12, loan_id: int = 1) -> Loan:
    terms = LoanTerms(10_000_000, 1200, tenure)
    return book(terms, installment_paise(terms), loan_id, 101, start, 1)


def standing(loans: list[Loan], day: date, settlements: Settlements) -> tuple[int, AssetClass]:
    found = delinquency(loans, settlements, day)
    assert (found.days_past_due, found.asset_class) == days_and_class(loans, settlements, day)
    return found.days_past_due, found.asset_class


@pytest.mark.parametrize(
    ("day", "days", "asset_class"),
    [
        (date(2021, 3, 30), 0, STANDARD),
        (date(2021, 3, 31), 1, SMA_0),
        (date(2021, 4, 29), 30, SMA_0),
        (date(2021, 4, 30), 31, SMA_1),
        (date(2021, 5, 29), 60, SMA_1),
        (date(2021, 5, 30), 61, SMA_2),
        (date(2021, 6, 28), 90, SMA_2),
        (date(2021, 6, 29), 91, NPA),
        (date(2022, 6, 29), 456, NPA),
    ],
)
def test_an_installment_due_on_31_march_2021_by_the_published_case(
    day: date, days: int, asset_class: AssetClass
) -> None:
    unpaid = loan(date(2021, 1, 31), 2)
    # The first installment is paid; the second one falls due on 31 March and is not.
    settlements = {1: [Settlement(1, 1, date(2021, 2, 28))]}
    assert standing([unpaid], day, settlements) == (days, asset_class)


def test_the_days_on_which_the_class_changes() -> None:
    unpaid = loan(date(2021, 1, 31), 2)
    settlements = {1: [Settlement(1, 1, date(2021, 2, 28))]}

    def on(day: date) -> Delinquency:
        return delinquency([unpaid], settlements, day)

    assert on(date(2021, 2, 27)) == Delinquency(0, STANDARD, None, date(2021, 2, 28))
    assert on(date(2021, 3, 1)) == Delinquency(0, STANDARD, None, date(2021, 3, 31))
    assert on(date(2021, 4, 1)) == Delinquency(2, SMA_0, date(2021, 3, 31), date(2021, 4, 30))
    assert on(date(2021, 5, 1)) == Delinquency(32, SMA_1, date(2021, 4, 30), date(2021, 5, 30))
    assert on(date(2021, 6, 1)) == Delinquency(63, SMA_2, date(2021, 5, 30), date(2021, 6, 29))
    assert on(date(2021, 7, 1)) == Delinquency(93, NPA, date(2021, 6, 29), None)


def test_part_payments_and_grace_days_change_nothing() -> None:
    before = loan(date(2026, 1, 10))
    paid = apply_payment(before, 100, date(2026, 2, 12), date(2026, 2, 12), 5)
    assert paid.settled_numbers == ()
    assert days_past_due(paid.loan_after, [], date(2026, 2, 12)) == 3
    # On time by the grace days, and past due until it was paid.
    rest = before.installment_paise - 100
    settled = apply_payment(paid.loan_after, rest, date(2026, 2, 14), date(2026, 2, 14), 5)
    assert settled.on_time_numbers == (1,)
    history = [Settlement(1, 1, date(2026, 2, 14))]
    assert days_past_due(settled.loan_after, history, date(2026, 2, 13)) == 4
    assert days_past_due(settled.loan_after, history, date(2026, 2, 14)) == 0


def test_npa_stays_until_no_loan_has_arrears() -> None:
    first, second = loan(date(2026, 1, 1)), loan(date(2026, 4, 20), 12, 2)
    assert standing([first, second], date(2026, 5, 1), {}) == (90, SMA_2)
    assert standing([first, second], date(2026, 5, 2), {}) == (91, NPA)
    # The worst loan is repaid on 25 May; the other one has been in arrears since 20 May.
    settlements = {1: [Settlement(1, 12, date(2026, 5, 25))]}
    assert standing([first, second], date(2026, 5, 25), settlements) == (6, NPA)
    found = delinquency([first, second], settlements, date(2026, 6, 3))
    assert found == Delinquency(15, NPA, date(2026, 5, 2), None)
    # Once it has no arrears either, the customer is STANDARD, and starts again from there.
    settlements = {**settlements, 2: [Settlement(1, 1, date(2026, 6, 4))]}
    found = delinquency([first, second], settlements, date(2026, 6, 4))
    assert found == Delinquency(0, STANDARD, date(2026, 6, 4), date(2026, 6, 20))
    assert standing([first, second], date(2026, 6, 20), settlements) == (1, SMA_0)


def test_part_of_the_arrears_paid_keeps_npa_and_lowers_the_days() -> None:
    overdue = loan(date(2026, 1, 1))
    settlements = {1: [Settlement(1, 2, date(2026, 5, 10))]}
    # The installment of 1 April is unpaid.
    assert standing([overdue], date(2026, 5, 10), settlements) == (40, NPA)
    # Without an NPA before, the class follows the days.
    settlements = {1: [Settlement(1, 2, date(2026, 4, 30))]}
    assert standing([overdue], date(2026, 4, 29), settlements) == (88, SMA_2)
    assert standing([overdue], date(2026, 4, 30), settlements) == (30, SMA_0)
    assert delinquency([overdue], settlements, date(2026, 4, 30)) == Delinquency(
        30, SMA_0, date(2026, 4, 30), date(2026, 5, 1)
    )


def test_a_settlement_on_the_due_date_ends_the_arrears_before_it() -> None:
    """The 90th day past due is also the day on which the next loan falls due."""
    first, second = loan(date(2026, 1, 1)), loan(date(2026, 4, 10), 12, 2)
    settlements = {1: [Settlement(1, 12, date(2026, 5, 10))]}
    # NPA from 2 May; on 10 May one loan is repaid and the other one falls due unpaid.
    assert standing([first, second], date(2026, 5, 10), settlements) == (1, NPA)
    settlements = {1: [Settlement(1, 12, date(2026, 5, 9))]}
    assert standing([first, second], date(2026, 5, 10), settlements) == (1, SMA_0)


def test_an_imported_loan_counts_from_its_first_due_date_after_the_import() -> None:
    start, import_day = date(2025, 1, 15), date(2025, 7, 1)
    settled, closed_on = imported_settled(2, start, 12, import_day)
    imported = replace(
        loan(start), imported=True, settled_at_import=settled, installments_settled=settled
    )
    assert (settled, closed_on) == (5, None)
    assert days_past_due(imported, [], date(2025, 6, 20)) == 0
    assert days_past_due(imported, [], date(2025, 7, 14)) == 0
    assert days_past_due(imported, [], date(2025, 7, 15)) == 1
    assert standing([imported], date(2025, 10, 13), {}) == (91, NPA)


def test_an_installment_of_0_is_never_past_due() -> None:
    """A loan of 1 paisa over 480 months: 479 installments of 0, then the paisa."""
    tiny = book(LoanTerms(1, 0, 480), 0, 1, 101, date(2026, 1, 1), 1)
    assert days_past_due(tiny, [], date(2066, 1, 1) - ONE_DAY) == 0
    assert days_past_due(tiny, [], date(2066, 1, 1)) == 1


def test_a_customer_without_loans_is_standard() -> None:
    assert delinquency([], {}, date(2026, 1, 1)) == Delinquency(0, STANDARD, None, None)


@pytest.mark.parametrize(
    ("days", "asset_class"),
    [(0, STANDARD), (1, SMA_0), (30, SMA_0), (31, SMA_1), (60, SMA_1), (61, SMA_2), (90, SMA_2)],
)
def test_classes_by_days(days: int, asset_class: AssetClass) -> None:
    assert class_of(days) is asset_class


DAYS = st.dates(date(2012, 1, 1), date(2040, 12, 31))


def due_and_paid(each: Loan, settlements: Settlements) -> list[tuple[date, date]]:
    """The due date of each installment of more than 0, and the day on which it was settled."""
    paid = dict.fromkeys(range(1, each.settled_at_import + 1), date.min)
    for settlement in settlements.get(each.loan_id, ()):
        numbers = range(settlement.first_number, settlement.first_number + settlement.count)
        paid |= dict.fromkeys(numbers, settlement.paid_on)
    plan = repayment_plan(each)
    return [
        (add_months(each.start_date, number), paid.get(number, date.max))
        for number in range(1, each.tenure_months + 1)
        if plan.payment_paise(number) > 0
    ]


def naive_days(installments: list[tuple[date, date]], day: date) -> int:
    return max(((day - due).days + 1 for due, paid in installments if due <= day < paid), default=0)


@given(st.data(), DAYS)
def test_a_count_day_by_day_gives_the_same(data: st.DataObject, day: date) -> None:
    loans, settlements = data.draw(paid_portfolios(day))
    end = day + timedelta(days=data.draw(st.integers(-30, 200)))
    installments = [due_and_paid(each, settlements) for each in loans]
    days, current, since = 0, STANDARD, None
    at = min((each.start_date for each in loans), default=end)
    while at <= end:
        days = max((naive_days(each, at) for each in installments), default=0)
        new = NPA if current is NPA and days > 0 else class_of(days)
        if new is not current:
            current, since = new, at
        at += ONE_DAY
    found = delinquency(loans, settlements, end)
    assert (found.days_past_due, found.asset_class, found.since) == (days, current, since)
    assert days_and_class(loans, settlements, end) == (days, current)
    for each, its in zip(loans, installments, strict=True):
        naive = naive_days(its, end)
        assert days_past_due(each, settlements.get(each.loan_id, ()), end) == naive


@given(st.data(), DAYS)
def test_the_class_stays_until_the_next_change(data: st.DataObject, day: date) -> None:
    loans, settlements = data.draw(paid_portfolios(day))
    found = delinquency(loans, settlements, day)
    if found.next_change is None:
        later = day + timedelta(days=500)
        assert delinquency(loans, settlements, later).asset_class is found.asset_class
        return
    assert found.next_change > day
    before = delinquency(loans, settlements, found.next_change - ONE_DAY)
    assert (before.asset_class, before.since) == (found.asset_class, found.since)
    after = delinquency(loans, settlements, found.next_change)
    assert after.asset_class > found.asset_class
    assert after.since == found.next_change


def test_the_published_case_from_the_two_stored_days() -> None:
    """Due on 31 March 2021 and unpaid: circular of 12 November 2021."""
    unpaid = Arrears(date(2021, 3, 31))
    assert unpaid.npa_from == date(2021, 6, 29)
    assert unpaid.changes() == [
        (date(2021, 3, 31), SMA_0),
        (date(2021, 4, 30), SMA_1),
        (date(2021, 5, 30), SMA_2),
        (date(2021, 6, 29), NPA),
    ]
    for on, asset_class in unpaid.changes():
        assert unpaid.asset_class(on) is asset_class
        assert unpaid.asset_class(on - ONE_DAY) is AssetClass(asset_class - 1)
    assert unpaid.days_past_due(date(2021, 3, 30)) == 0
    assert unpaid.days_past_due(date(2021, 6, 29)) == 91


def test_an_npa_whose_oldest_arrears_are_paid_keeps_its_day() -> None:
    unpaid = Arrears(date(2026, 2, 1))
    assert unpaid.npa_from == date(2026, 5, 2)
    day = date(2026, 5, 10)
    partly = with_payment(unpaid, date(2026, 4, 1), day, day)
    assert partly == Arrears(date(2026, 4, 1), date(2026, 5, 2))
    assert (partly.days_past_due(day), partly.asset_class(day)) == (40, NPA)
    assert partly.changes()[-1] == (date(2026, 5, 2), NPA)
    # On the first day of the NPA, a payment still prevents it.
    assert with_payment(unpaid, date(2026, 4, 1), date(2026, 5, 2), date(2026, 5, 2)) == Arrears(
        date(2026, 4, 1)
    )
    # Without arrears it ends.
    assert with_payment(partly, date(2026, 6, 1), day, day) == Arrears(date(2026, 6, 1))


def test_announced_are_the_classes_of_days_that_have_ended() -> None:
    unpaid, due = Arrears(date(2021, 3, 31)), date(2021, 3, 31)
    # The day is not over.
    assert class_changes(STANDARD, unpaid, unpaid, due) == []
    assert passed_changes(STANDARD, unpaid, due) == [ClassChange(due, STANDARD, SMA_0, 1)]
    assert passed_changes(SMA_0, unpaid, due) == []
    # No worker has run for two months, then everything is paid.
    paid = date(2021, 6, 10)
    assert class_changes(STANDARD, unpaid, Arrears(date(2021, 6, 30)), paid) == [
        ClassChange(due, STANDARD, SMA_0, 1),
        ClassChange(date(2021, 4, 30), SMA_0, SMA_1, 31),
        ClassChange(date(2021, 5, 30), SMA_1, SMA_2, 61),
        ClassChange(paid, SMA_2, STANDARD, 0),
    ]
    # The second payment of the day improves the class further.
    assert class_changes(SMA_0, Arrears(date(2021, 6, 1)), Arrears(), paid) == [
        ClassChange(paid, SMA_0, STANDARD, 0)
    ]
    # Earlier arrears that are not known: the improvement alone.
    assert class_changes(NPA, None, Arrears(date(2021, 6, 1)), paid) == [
        ClassChange(paid, NPA, SMA_0, 10)
    ]


def test_arrears_of_an_imported_loan_are_known_from_its_first_due_date_after_the_import() -> None:
    imported = replace(
        loan(date(2025, 1, 15)), imported=True, settled_at_import=5, installments_settled=5
    )
    assert arrears_known_from(imported) == date(2025, 7, 15)
    assert arrears_known_from(replace(imported, arrears_imported=True)) is None
    assert arrears_known_from(loan(date(2025, 1, 15))) is None
    closed = replace(imported, settled_at_import=12, installments_settled=12)
    assert arrears_known_from(closed) is None


@given(st.data(), st.dates(date(2020, 1, 1), date(2021, 1, 1)))
def test_the_stored_days_follow_every_history_in_order_of_time(
    data: st.DataObject, day: date
) -> None:
    """Bookings, payments and idle days in any order give what the facts give, on every day."""
    loans: dict[int, Loan] = {}
    settlements: dict[int, list[Settlement]] = {}
    stored, announced = Arrears(), STANDARD
    for step in range(data.draw(st.integers(1, 14), "steps")):
        day += timedelta(days=data.draw(st.integers(0, 70), "days"))
        if data.draw(st.integers(0, 3)) == 0 and len(loans) < 3:
            tenure = data.draw(st.integers(1, 12))
            # A loan of few paise has installments of 0.
            principal = data.draw(st.sampled_from([1, 10_000_000]))
            terms = LoanTerms(principal, 1200, tenure)
            new = book(terms, installment_paise(terms), step + 1, 101, day, 1)
            due = first_unpaid_due(new)
            assert due is not None
            moved = with_loan_due(stored, due, day)
            loans[new.loan_id] = new
        else:
            payable = [each for each in loans.values() if outstanding_paise(each) > 0]
            if not payable:
                continue
            before = data.draw(st.sampled_from(payable), "loan")
            left = outstanding_paise(before)
            most = min(left, 4 * before.installment_paise or left)
            amount = data.draw(st.one_of(st.integers(1, most), st.just(most), st.just(left)))
            earliest = max(before.last_paid_on or before.start_date, day - timedelta(days=40))
            paid_on = data.draw(st.one_of(st.just(day), st.dates(earliest, day)), "paid on")
            outcome = apply_payment(before, amount, paid_on, day, 0)
            loans[before.loan_id] = outcome.loan_after
            if numbers := outcome.settled_numbers:
                paid = Settlement(numbers[0], len(numbers), paid_on)
                settlements.setdefault(before.loan_id, []).append(paid)
            oldest = min(filter(None, map(first_unpaid_due, loans.values())), default=None)
            moved = with_payment(stored, oldest, paid_on, day)
        law = arrears([*loans.values()], settlements, day)
        assert moved in (None, law)
        for each in class_changes(announced, stored, law, day):
            assert each.previous is announced
            announced = each.current
        stored = law
        # On any later day, until the next event.
        later = day + timedelta(days=data.draw(st.integers(0, 150), "later"))
        assert (stored.days_past_due(later), stored.asset_class(later)) == days_and_class(
            [*loans.values()], settlements, later
        )
        # A class is announced once its day has ended, an improvement at once.
        assert announced <= stored.asset_class(day)


@given(st.data(), DAYS)
def test_a_payment_of_today_needs_no_earlier_facts(data: st.DataObject, day: date) -> None:
    due = st.dates(day - timedelta(days=400), day + timedelta(days=40))
    before = Arrears(data.draw(due))
    assert with_payment(before, data.draw(st.one_of(st.none(), due)), day, day) is not None


@given(st.data(), DAYS)
def test_days_past_due_of_a_loan_follow_from_its_installments(
    data: st.DataObject, day: date
) -> None:
    loans, settlements = data.draw(paid_portfolios(day))
    for each in loans:
        later = day + timedelta(days=data.draw(st.integers(0, 100)))
        found = days_past_due(each, settlements.get(each.loan_id, ()), later)
        assert days_past_due_of(each, later) == found


def test_a_payment_of_an_earlier_day_needs_the_facts_where_another_loan_may_have_made_an_npa() -> (
    None
):
    """One loan made the NPA of 10 April, and was paid on the 11th. On the 20th a payment of the 9th
    is recorded on the other one, which would have made it on the 12th."""
    first, second = loan(date(2025, 12, 10)), loan(date(2025, 12, 12), 12, 2)
    paid_first = replace(first, installments_settled=1)
    paid_second = replace(second, installments_settled=1)
    day = date(2026, 4, 20)
    before = arrears([paid_first, second], {1: [Settlement(1, 1, date(2026, 4, 11))]}, day)
    assert before == Arrears(date(2026, 1, 12), date(2026, 4, 10))
    assert with_payment(before, date(2026, 2, 10), date(2026, 4, 9), day) is None
    settlements = {
        1: [Settlement(1, 1, date(2026, 4, 11))],
        2: [Settlement(1, 1, date(2026, 4, 9))],
    }
    after = arrears([paid_first, paid_second], settlements, day)
    assert after == Arrears(date(2026, 2, 10), date(2026, 4, 10))
    # A payment that left no arrears on its own day needs them too.
    assert with_payment(before, date(2026, 4, 19), date(2026, 4, 15), day) is None
