"""Booking against the real database: atomic, guarded, idempotent."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import date
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import exc, text

from credit_service.commands.create_loan import CreateLoan, create_loan
from credit_service.commands.record_payment import RecordPayment, record_payment
from credit_service.commands.register_customer import RegisterCustomer, register_customer
from credit_service.domain.customers import NewCustomer
from credit_service.domain.decisions import decode_outcome, replay
from credit_service.domain.delinquency import Arrears
from credit_service.domain.eligibility import Ask
from credit_service.domain.errors import AlreadyExistsError, NotFoundError, RequestIdReusedError
from credit_service.domain.positions import position_from_loans
from credit_service.domain.scorecard import STANDARD
from credit_service.queries.credit import CreditQueries
from credit_service.queries.customers import get_customer
from credit_service.queries.decisions import list_decisions
from credit_service.queries.loans import list_loans
from credit_service.storage import arrears, bookings
from credit_service.storage.database import Database
from credit_service.storage.decisions import StoredDecision
from credit_service.storage.statements import Statement
from tests.integration.portfolio import LAKH, a_customer, a_good_customer, on

TODAY = on(date(2026, 6, 10))


def ask(rupees: int, percent: int = 12, months: int = 24) -> Ask:
    return Ask(rupees * 100, percent * 100, months)


def book(database: Database, customer_id: int, request: Ask, key: UUID | None = None) -> Any:
    return create_loan(database, CreateLoan(key or uuid4(), customer_id, request), TODAY, "tests")


def in_parallel(work: Callable[[], Any], times: int) -> list[Any]:
    """The results or exceptions of `work`, called from several threads concurrently."""
    results: list[Any] = []
    start = threading.Barrier(times)

    def run() -> None:
        start.wait()
        try:
            results.append(work())
        except Exception as error:  # noqa: BLE001 - the test looks at what came
            results.append(error)

    threads = [threading.Thread(target=run) for _ in range(times)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def from_scratch(database: Database, customer_id: int) -> None:
    """Assert that the stored position matches the loans."""
    position = get_customer(database, customer_id=customer_id).position
    loans = list_loans(database, customer_id, None, None, 1000)
    assert position == position_from_loans(
        position.customer_id,
        position.version,
        position.monthly_income_paise,
        position.approved_limit_paise,
        loans,
        position.as_of,
        arrears=computed_arrears(database, customer_id, position.as_of),
    )


def computed_arrears(database: Database, customer_id: int, day: date) -> Arrears:
    """The customer's arrears from loans and payments."""
    with database.autocommit() as connection:
        return arrears.compute(connection, [customer_id], day)[customer_id]


def test_an_approval_books_loan_decision_event_and_position_at_once(database: Database) -> None:
    customer_id = a_good_customer(database, TODAY)
    decision = book(database, customer_id, ask(1_00_000))
    assert decision.approved
    loan = decision.loan_as_booked()
    assert loan in list_loans(database, customer_id, None, None, 50)
    from_scratch(database, customer_id)
    with database.autocommit() as connection:
        events = connection.execute(
            text("SELECT kind, event_seq, event_id FROM events WHERE customer_id = :id ORDER BY 2"),
            {"id": customer_id},
        ).all()
    assert [tuple(event) for event in events] == [
        ("customer_registered", 1, None),
        ("loan_created", 2, None),
    ]


def test_the_stored_inputs_replay_to_the_stored_outcome(database: Database) -> None:
    customer_id = a_good_customer(database, TODAY)
    for request in (ask(1_00_000), ask(90_00_000)):
        decision: StoredDecision = book(database, customer_id, request)
        assert replay(decision.inputs_json, STANDARD) == decision.outcome_json


def test_a_decline_is_stored_and_books_nothing(database: Database) -> None:
    customer_id = a_customer(database, TODAY)
    decision = book(database, customer_id, ask(10_000))
    assert not decision.approved
    assert [r.code for r in decode_outcome(decision.outcome_json).reasons] == ["NO_CREDIT_HISTORY"]
    assert list_loans(database, customer_id, None, None, 50) == []
    from_scratch(database, customer_id)


def test_a_decision_after_the_horizon_is_made_on_the_day_and_refreshes_the_row(
    database: Database,
) -> None:
    customer_id = a_good_customer(database, TODAY)
    book(database, customer_id, ask(1_00_000))
    later = on(date(2027, 2, 3))
    decision = create_loan(database, CreateLoan(uuid4(), customer_id, ask(50_000)), later, "tests")
    assert decision.approved
    position = get_customer(database, customer_id=customer_id).position
    assert (position.as_of, position.valid_until) == (later.today, date(2027, 2, 10))
    assert position.emis_due == 36 + 7
    from_scratch(database, customer_id)


def test_an_unknown_customer_is_not_found(database: Database) -> None:
    with pytest.raises(NotFoundError, match="CUSTOMER_NOT_FOUND"):
        book(database, 4711, ask(10_000))


def test_twenty_concurrent_repeats_of_a_request_book_once(database: Database) -> None:
    customer_id, key = a_good_customer(database, TODAY), uuid4()
    answers = in_parallel(lambda: book(database, customer_id, ask(1_00_000), key), 20)
    assert {repr(answer.loan_as_booked()) for answer in answers} == {
        repr(answers[0].loan_as_booked())
    }
    assert len({(answer.decision_id, answer.outcome_json) for answer in answers}) == 1
    assert len(list_loans(database, customer_id, None, None, 50)) == 4


def test_a_repeat_gets_the_first_answer_after_the_position_has_changed(database: Database) -> None:
    customer_id, approved, declined = a_good_customer(database, TODAY), uuid4(), uuid4()
    first = book(database, customer_id, ask(1_00_000), approved)
    refused = book(database, customer_id, ask(9_00_00_000), declined)
    record_payment(
        database,
        RecordPayment(uuid4(), customer_id, first.loan_id, 10_000_00, None),
        TODAY,
        "tests",
    )
    again = book(database, customer_id, ask(1_00_000), approved)
    assert (again, again.loan_as_booked()) == (first, first.loan_as_booked())
    assert book(database, customer_id, ask(9_00_00_000), declined) == refused


def test_the_same_id_with_different_content_is_rejected(database: Database) -> None:
    customer_id, key = a_good_customer(database, TODAY), uuid4()
    book(database, customer_id, ask(1_00_000), key)
    for changed in (
        CreateLoan(key, customer_id, ask(1_00_001)),
        CreateLoan(key, customer_id, ask(1_00_000, months=25)),
    ):
        with pytest.raises(RequestIdReusedError):
            create_loan(database, changed, TODAY, "tests")


def test_fifty_at_once_never_exceed_the_limit_or_half_the_income(
    database: Database, database_url: str
) -> None:
    customer_id = a_good_customer(database, TODAY, monthly_income_paise=2 * LAKH)
    wide = Database(database_url, pool_size=50)
    try:
        answers = in_parallel(lambda: book(wide, customer_id, ask(5_00_000)), 50)
    finally:
        wide.dispose()
    assert not [answer for answer in answers if isinstance(answer, AssertionError)]
    position = get_customer(database, customer_id=customer_id).position
    booked = [a for a in answers if isinstance(a, StoredDecision) and a.approved]
    assert 0 < len(booked) < 50
    assert position.current_debt_paise == len(booked) * 5 * LAKH
    assert position.current_debt_paise <= position.approved_limit_paise
    assert position.current_installments_paise * 2 <= position.monthly_income_paise
    # The remaining limit is less than one more such loan: no call failed because of a lost race.
    assert not book(database, customer_id, ask(5_00_000)).approved
    from_scratch(database, customer_id)


@contextmanager
def without(
    guard: str, monkeypatch: pytest.MonkeyPatch, statement: str = "WRITE_APPROVED"
) -> Iterator[None]:
    """A booking statement without a guard."""
    with monkeypatch.context() as patch:
        text_with_guard = getattr(bookings, statement).text
        assert guard in text_with_guard
        patch.setattr(bookings, statement, Statement(text_with_guard.replace(guard, "")))
        yield


def book_overtaken(
    database: Database,
    customer_id: int,
    request: Ask,
    by: Callable[[], object],
    key: UUID | None = None,
) -> StoredDecision:
    """Book; `by` happens between this booking's read and its write."""
    read = bookings.read
    overtaken = threading.Event()

    def read_and_be_overtaken(*args: Any, **kwargs: Any) -> Any:
        found = read(*args, **kwargs)
        if not overtaken.is_set():
            overtaken.set()
            by()
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bookings, "read", read_and_be_overtaken)
        decision: StoredDecision = book(database, customer_id, request, key)
    return decision


def book_overtaken_by_itself(database: Database, customer_id: int, request: Ask) -> None:
    """Book; the same request is booked between this booking's read and its write."""
    book_overtaken(database, customer_id, request, lambda: book(database, customer_id, request))


def test_a_booking_decides_again_after_a_concurrent_change(database: Database) -> None:
    customer_id = a_good_customer(database, TODAY)
    book_overtaken_by_itself(database, customer_id, ask(6_00_000))
    position = get_customer(database, customer_id=customer_id).position
    assert position.current_debt_paise == 6 * LAKH
    from_scratch(database, customer_id)


def test_without_the_version_guard_half_the_income_would_be_exceeded(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    customer_id = a_good_customer(database, TODAY)
    with without("AND version = :read_version", monkeypatch):
        book_overtaken_by_itself(database, customer_id, ask(6_00_000))
    position = get_customer(database, customer_id=customer_id).position
    assert position.current_installments_paise * 2 > position.monthly_income_paise


def test_without_the_version_guard_the_database_still_keeps_the_limit(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    customer_id = a_good_customer(database, TODAY)
    with (
        without("AND version = :read_version", monkeypatch),
        pytest.raises(exc.IntegrityError, match="loans_booked_within_limit_check"),
    ):
        book_overtaken_by_itself(database, customer_id, Ask(20 * LAKH, 0, 480))


def a_decline_overtaken_by_a_repayment(
    database: Database, key: UUID
) -> tuple[StoredDecision, list[StoredDecision]]:
    """The answer to an ask that is beyond the limit when it is read and within it when it is
    written, and every decision stored under its request id."""
    customer_id = a_good_customer(database, TODAY)
    loan = book(database, customer_id, Ask(20 * LAKH, 0, 480)).loan_as_booked()
    request = Ask(20 * LAKH, 0, 480)
    assert not CreditQueries(database).check_eligibility(customer_id, request, TODAY)[1].approved
    repaid = RecordPayment(uuid4(), customer_id, loan.loan_id, loan.principal_paise, None)
    answer = book_overtaken(
        database,
        customer_id,
        request,
        lambda: record_payment(database, repaid, TODAY, "tests"),
        key,
    )
    made = list_decisions(database, customer_id, None, 10)
    return answer, [decision for decision in made if decision.request_id == key]


def test_a_decline_decides_again_after_a_concurrent_change(database: Database) -> None:
    answer, stored = a_decline_overtaken_by_a_repayment(database, uuid4())
    assert answer.approved
    assert stored == [answer]


def test_without_the_version_guard_an_outdated_decline_would_be_stored(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    with without("AND version = :read_version", monkeypatch, "WRITE_DECLINED"):
        answer, stored = a_decline_overtaken_by_a_repayment(database, uuid4())
    assert not answer.approved
    assert stored == [answer]


def test_facts_cannot_be_changed(database: Database) -> None:
    customer_id = a_good_customer(database, TODAY)
    decision = book(database, customer_id, ask(1_00_000))
    record_payment(
        database, RecordPayment(uuid4(), customer_id, decision.loan_id, 100, None), TODAY, "tests"
    )
    for statement in (
        "UPDATE decisions SET approved = false, loan_id = NULL",
        "DELETE FROM decisions",
        "UPDATE payments SET amount_paise = 1",
        "DELETE FROM payments",
        "TRUNCATE payments, payment_reversals",
        "TRUNCATE decisions, shadow_decisions, loan_offers, referrals",
        "TRUNCATE loan_offers",
        "TRUNCATE shadow_decisions",
        "TRUNCATE score_history",
        "TRUNCATE customers CASCADE",
    ):
        with (
            pytest.raises(exc.IntegrityError, match="never change"),
            database.transaction() as connection,
        ):
            connection.execute(text(statement))


def test_registering_is_idempotent_and_phone_numbers_are_unique(database: Database) -> None:
    key = uuid4()
    command = RegisterCustomer(key, NewCustomer("A", "B", 30, LAKH, "+919812345678"))
    views = in_parallel(lambda: register_customer(database, command, TODAY, "tests"), 20)
    assert len({view.customer.customer_id for view in views}) == 1
    with database.transaction() as connection:
        # As an import may, and a loan.
        connection.execute(
            text(
                """UPDATE customers SET version = version + 1, first_name = 'Z', loan_count = 1,
                current_debt_paise = 100, total_principal_paise = 100"""
            )
        )
    assert register_customer(database, command, TODAY, "tests") == views[0]
    refused = RegisterCustomer(uuid4(), NewCustomer("C", "D", 40, LAKH, "+919812345678"))
    for _ in range(2):
        with pytest.raises(AlreadyExistsError, match="PHONE_NUMBER_TAKEN"):
            register_customer(database, refused, TODAY, "tests")
    with database.transaction() as connection:
        assert connection.execute(text("SELECT count(*) FROM requests")).scalar() == 1
    with pytest.raises(RequestIdReusedError):
        register_customer(
            database,
            RegisterCustomer(key, NewCustomer("A", "B", 31, LAKH, "+919812345678")),
            TODAY,
            "tests",
        )
    with database.transaction() as connection:
        # As an import may.
        connection.execute(text("UPDATE customers SET phone_number = '+919812345679'"))
        connection.execute(text("DELETE FROM phone_numbers"))
    # The error was not stored, and its cause is gone.
    assert register_customer(database, refused, TODAY, "tests").customer.first_name == "C"


def test_a_request_id_stands_for_one_request_about_one_customer(database: Database) -> None:
    key, customer_id = uuid4(), a_good_customer(database, TODAY)
    other_id = a_good_customer(database, TODAY)
    command = CreateLoan(key, customer_id, ask(1_00_000))
    booked = create_loan(database, command, TODAY, "tests")
    other = create_loan(database, replace(command, customer_id=other_id), TODAY, "tests")
    assert (booked.customer_id, other.customer_id) == (customer_id, other_id)
    assert create_loan(database, command, TODAY, "tests") == booked
    paid = RecordPayment(key, customer_id, booked.loan_id or 0, 100, None)
    with pytest.raises(RequestIdReusedError):
        record_payment(database, paid, TODAY, "tests")
    registered = RegisterCustomer(key, NewCustomer("A", "B", 30, LAKH, "+919812345678"))
    view = register_customer(database, registered, TODAY, "tests")
    assert register_customer(database, registered, TODAY, "tests") == view
    with pytest.raises(RequestIdReusedError):
        create_loan(
            database,
            CreateLoan(key, view.customer.customer_id, ask(1_00_000)),
            TODAY,
            "tests",
        )


def test_a_check_predicts_the_booking(database: Database) -> None:
    customer_id = a_good_customer(database, TODAY)
    for rupees in (1_00_000, 50_00_000, 1_00_000):
        _, checked = CreditQueries(database).check_eligibility(customer_id, ask(rupees), TODAY)
        booked = book(database, customer_id, ask(rupees))
        assert decode_outcome(booked.outcome_json) == checked
