"""Facts of a customer change by UpdateCustomer: recorded, in every later decision, and once."""

from collections.abc import Callable
from dataclasses import replace
from datetime import date
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text

from credit_service import failpoints
from credit_service.commands.create_loan import CreateLoan, create_loan
from credit_service.commands.register_customer import RegisterCustomer, register_customer
from credit_service.commands.update_customer import UpdateCustomer, update_customer
from credit_service.domain.customers import CustomerChange, NewCustomer
from credit_service.domain.decisions import decode_inputs
from credit_service.domain.eligibility import Ask
from credit_service.domain.errors import (
    AlreadyExistsError,
    NotFoundError,
    RequestIdReusedError,
)
from credit_service.queries.customers import get_customer
from credit_service.rpc.convert.events import write_event
from credit_service.storage import customers, event_stream
from credit_service.storage.customers import CustomerView
from credit_service.storage.database import Database
from credit_service.v1 import event_pb2
from tests.integration.credit.test_create_loan import in_parallel
from tests.integration.imported import CustomerRow, LoanRow, counts, errors, ingest
from tests.integration.portfolio import LAKH, a_customer, a_good_customer, on
from workers import actors

TODAY = on(date(2026, 6, 10))


def update(
    database: Database, customer_id: int, key: UUID | None = None, **change: Any
) -> CustomerView:
    command = UpdateCustomer(key or uuid4(), customer_id, CustomerChange(**change))
    return update_customer(database, command, TODAY, "meera")


def limit_of(database: Database, customer_id: int) -> tuple[int, bool]:
    """The approved limit in lakhs, and whether it was set."""
    customer = get_customer(database, customer_id=customer_id).customer
    return customer.approved_limit_paise // LAKH, customer.has_set_limit


def rows(database: Database, query: str) -> list[tuple[Any, ...]]:
    with database.autocommit() as connection:
        return [tuple(row) for row in connection.execute(text(query))]


def changes(database: Database) -> list[tuple[Any, ...]]:
    return rows(
        database,
        """SELECT fact, old_value, new_value, principal, ingestion_id FROM fact_changes
        ORDER BY event_seq, fact""",
    )


def published(database: Database) -> list[event_pb2.CreditEvent]:
    with database.transaction() as connection:
        event_stream.publish(connection, 1_000)
        kinds = frozenset({"customer_updated"})
        found = event_stream.read(connection, after=0, until=10_000, limit=1_000, kinds=kinds)
    return [event for each in found if (event := write_event(each)) is not None]


# --- Facts and their record -----------------------------------------------------------------------


def test_every_fact_can_change_and_is_recorded(database: Database) -> None:
    customer_id = a_customer(database, TODAY)
    before = get_customer(database, customer_id=customer_id).customer
    after = update(
        database,
        customer_id,
        first_name="Usha",
        last_name="Iyer",
        age=41,
        monthly_income_paise=2 * LAKH,
        phone_number="+919812345678",
    )
    stored = get_customer(database, customer_id=customer_id)
    assert stored == after
    assert (stored.customer.version, stored.position.version) == (2, 2)
    assert stored.position.monthly_income_paise == 2 * LAKH
    assert stored.position.approved_limit_paise == stored.customer.approved_limit_paise == 72 * LAKH
    by = ("meera", None)
    assert changes(database) == [
        ("age", "30", "41", *by),
        ("approved_limit_paise", str(36 * LAKH), str(72 * LAKH), *by),
        ("first_name", "Asha", "Usha", *by),
        ("last_name", "Rao", "Iyer", *by),
        ("monthly_income_paise", str(LAKH), str(2 * LAKH), *by),
        ("phone_number", before.phone_number, "+919812345678", *by),
    ]
    (event,) = published(database)
    assert (event.customer_version, event.customer_updated.principal) == (2, "meera")
    assert event.customer_updated.ingestion_id == ""
    # For personal data, events contain only the field name.
    shown = {each.field: (each.previous, each.current) for each in event.customer_updated.changes}
    assert shown.pop("approved_limit") == ("3600000.00", "7200000.00")
    assert set(shown) == {"first_name", "last_name", "age", "monthly_income", "phone_number"}
    assert set(shown.values()) == {("", "")}


def test_equal_facts_change_nothing(database: Database) -> None:
    customer_id, key = a_customer(database, TODAY), uuid4()
    before = get_customer(database, customer_id=customer_id)
    assert update(database, customer_id, key, first_name="Asha", limit_by_rule=True) == before
    assert get_customer(database, customer_id=customer_id) == before
    assert (changes(database), published(database)) == ([], [])
    # The id is used all the same.
    with pytest.raises(RequestIdReusedError):
        update(database, customer_id, key, first_name="Usha")


def test_an_update_of_an_older_version_stores_nothing(database: Database) -> None:
    """The second guard, after the lock on the customer's row."""
    before = get_customer(database, customer_id=a_customer(database, TODAY))
    read = replace(before.customer, version=before.customer.version - 1)
    with database.transaction() as connection:
        assert not customers.update(connection, read, replace(read, age=41), TODAY, "meera")
    assert get_customer(database, customer_id=read.customer_id) == before
    assert (changes(database), published(database)) == ([], [])


def test_an_unknown_customer_is_not_found(database: Database) -> None:
    with pytest.raises(NotFoundError, match="CUSTOMER_NOT_FOUND"):
        update(database, 5, age=30)


# --- The limit ------------------------------------------------------------------------------------


def test_a_limit_by_the_rule_follows_the_income_and_a_set_one_stays(database: Database) -> None:
    customer_id = a_customer(database, TODAY)
    update(database, customer_id, monthly_income_paise=2 * LAKH)
    assert limit_of(database, customer_id) == (72, False)
    update(database, customer_id, approved_limit_paise=5 * LAKH)
    update(database, customer_id, monthly_income_paise=3 * LAKH)
    assert limit_of(database, customer_id) == (5, True)
    update(database, customer_id, limit_by_rule=True)
    assert limit_of(database, customer_id) == (108, False)
    # Set to exactly the amount of the rule, it stays too.
    update(database, customer_id, approved_limit_paise=108 * LAKH)
    update(database, customer_id, monthly_income_paise=LAKH)
    assert limit_of(database, customer_id) == (108, True)
    set_or_not = [row[1:3] for row in changes(database) if row[0] == "limit_set"]
    assert set_or_not == [("false", "true"), ("true", "false"), ("false", "true")]


@pytest.mark.parametrize(
    ("row_limit", "was_set", "after"),
    [(None, False, (36, False)), (18 * LAKH // 100, True, (18, True)), (700_000, True, (7, True))],
)
def test_a_limit_that_an_import_set_stays(
    database: Database, row_limit: int | None, was_set: bool, after: tuple[int, bool]
) -> None:
    ingest(database, [CustomerRow(1, limit_rupees=row_limit)], TODAY)
    assert limit_of(database, 1)[1] is was_set
    update(database, 1, monthly_income_paise=LAKH)
    assert limit_of(database, 1) == after


@pytest.mark.parametrize(("limit", "after"), [(36, (72, False)), (7, (7, True))])
def test_a_limit_of_an_earlier_release_was_set_if_it_differs_from_the_rule(
    database: Database, limit: int, after: tuple[int, bool]
) -> None:
    customer_id = a_customer(database, TODAY)
    with database.transaction() as connection:
        statement = text("UPDATE customers SET approved_limit_paise = :limit")
        connection.execute(statement, {"limit": limit * LAKH})
    assert limit_of(database, customer_id) == (limit, limit != 36)
    update(database, customer_id, monthly_income_paise=2 * LAKH)
    assert limit_of(database, customer_id) == after


# --- Phone numbers --------------------------------------------------------------------------------


def registration(phone: str, key: UUID | None = None) -> RegisterCustomer:
    return RegisterCustomer(key or uuid4(), NewCustomer("Asha", "Rao", 30, LAKH, phone))


def test_a_phone_number_is_unique_and_a_released_one_is_free(database: Database) -> None:
    first, second = (f"+91981234567{digit}" for digit in (1, 2))
    one = register_customer(database, registration(first), TODAY, "tests").customer.customer_id
    two = register_customer(database, registration(second), TODAY, "tests").customer.customer_id
    with pytest.raises(AlreadyExistsError, match="PHONE_NUMBER_TAKEN"):
        update(database, one, phone_number=second, age=40)
    assert get_customer(database, customer_id=one).customer.age == 30
    update(database, one, phone_number="+919812345670")
    assert update(database, two, phone_number=first).customer.phone_number == first
    assert get_customer(database, phone_number=first).customer.customer_id == two
    third = register_customer(database, registration(second), TODAY, "tests").customer
    assert third.customer_id not in (one, two)
    # And back to the first one.
    update(database, two, phone_number="+919812345679")
    update(database, one, phone_number=first)
    assert get_customer(database, phone_number=first).customer.customer_id == one


def test_one_of_concurrent_updates_takes_a_phone_number(database: Database) -> None:
    ids = [a_customer(database, TODAY) for _ in range(6)]
    waiting = iter(ids)

    def take() -> int:
        try:
            customer_id = next(waiting)
            update(database, customer_id, phone_number="+919812345678")
        except AlreadyExistsError:
            return 0
        return customer_id

    winners = [each for each in in_parallel(take, len(ids)) if each]
    assert len(winners) == 1
    holder = get_customer(database, phone_number="+919812345678").customer
    assert holder.customer_id == winners[0]
    # Two statements: a cluster cannot join them, because a number has a node of its own.
    held = rows(database, "SELECT customer_id, phone_number FROM customers ORDER BY 1")
    taken = rows(database, "SELECT customer_id, phone_number FROM phone_numbers ORDER BY 1")
    assert held == taken


def test_a_repeated_registration_finds_its_customer_after_the_number_changed(
    database: Database,
) -> None:
    command = registration("+919812345671")
    registered = register_customer(database, command, TODAY, "tests")
    update(database, registered.customer.customer_id, phone_number="+919812345672")
    assert register_customer(database, command, TODAY, "tests") == registered
    # Also when another customer has the number.
    other = register_customer(database, registration("+919812345671"), TODAY, "tests")
    assert register_customer(database, command, TODAY, "tests") == registered
    assert other.customer.customer_id != registered.customer.customer_id
    changed = replace(command, customer=replace(command.customer, age=50))
    with pytest.raises(RequestIdReusedError):
        register_customer(database, changed, TODAY, "tests")


# --- Repeats, concurrency, deaths -----------------------------------------------------------------


def test_a_repeat_returns_the_first_response(database: Database) -> None:
    customer_id, key = a_good_customer(database, TODAY), uuid4()
    first = update(database, customer_id, key, monthly_income_paise=2 * LAKH, age=31)
    update(database, customer_id, monthly_income_paise=3 * LAKH, first_name="Usha")
    create_loan(database, CreateLoan(uuid4(), customer_id, Ask(LAKH, 1200, 24)), TODAY, "tests")
    state = rows(database, "SELECT c.*, (SELECT count(*) FROM events) FROM customers c")
    assert update(database, customer_id, key, monthly_income_paise=2 * LAKH, age=31) == first
    assert rows(database, "SELECT c.*, (SELECT count(*) FROM events) FROM customers c") == state
    with pytest.raises(RequestIdReusedError):
        update(database, customer_id, key, monthly_income_paise=2 * LAKH, age=32)


def test_concurrent_repeats_change_once(database: Database) -> None:
    customer_id, key = a_customer(database, TODAY), uuid4()
    views = in_parallel(lambda: update(database, customer_id, key, age=50), 8)
    assert all(view == views[0] for view in views)
    assert len(changes(database)) == 1


def between_read_and_write(
    monkeypatch: pytest.MonkeyPatch, point: str, meanwhile: Callable[[], object]
) -> None:
    """Run `meanwhile` once when the failpoint is reached."""
    waiting = [meanwhile]

    def reach(reached: str) -> None:
        if reached == point and waiting:
            waiting.pop()()

    monkeypatch.setattr(failpoints, "reach", reach)


def test_a_booking_decides_again_after_an_update(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    customer_id = a_good_customer(database, TODAY)
    ask = Ask(10 * LAKH, 1200, 24)
    between_read_and_write(
        monkeypatch,
        "create_loan.before_write",
        lambda: update(database, customer_id, approved_limit_paise=9 * LAKH),
    )
    decided = create_loan(database, CreateLoan(uuid4(), customer_id, ask), TODAY, "tests")
    assert not decided.approved
    assert decode_inputs(decided.inputs_json).position.approved_limit_paise == 9 * LAKH
    assert rows(database, "SELECT count(*) FROM loans WHERE NOT imported") == [(0,)]


@pytest.mark.parametrize(
    ("point", "is_stored"),
    [
        ("update_customer.before_write", False),
        ("update_customer.before_commit", False),
        ("update_customer.after_commit", True),
    ],
)
def test_an_update_is_atomic(
    database: Database, point: str, is_stored: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    class DeathError(BaseException):
        pass

    def die() -> None:
        raise DeathError

    customer_id, key = a_customer(database, TODAY), uuid4()
    old = get_customer(database, customer_id=customer_id)
    with monkeypatch.context() as patched:
        between_read_and_write(patched, point, die)
        with pytest.raises(DeathError):
            update(database, customer_id, key, phone_number="+919812345678", age=50)
    assert (get_customer(database, customer_id=customer_id) != old) is is_stored
    assert len(changes(database)) == (2 if is_stored else 0)
    update(database, customer_id, key, phone_number="+919812345678", age=50)
    assert len(changes(database)) == len(published(database)) * 2 == 2


def test_the_score_is_recomputed_after_an_update_but_not_for_each_row_of_an_import(
    database: Database,
) -> None:
    customer_id = a_customer(database, TODAY)
    ingest(database, [CustomerRow(1), CustomerRow(2)], TODAY)
    ingest(database, [CustomerRow(1, age=60)], TODAY, on_existing="UPDATE")
    with database.transaction() as connection:
        actors.follow(connection, event_stream.publish(connection, 100), TODAY)
    tasks = "SELECT subject FROM tasks WHERE actor = 'recompute_score'"
    assert rows(database, tasks) == [(str(customer_id),)]
    with database.transaction() as connection:
        connection.execute(text("DELETE FROM tasks"))
    update(database, 2, approved_limit_paise=0)
    with database.transaction() as connection:
        actors.follow(connection, event_stream.publish(connection, 100), TODAY)
    assert rows(database, tasks) == [("2",)]


# --- Imports of customers who were updated --------------------------------------------------------


def test_an_import_without_a_limit_keeps_a_set_one_and_moves_one_by_the_rule(
    database: Database,
) -> None:
    ingest(database, [CustomerRow(number) for number in (1, 2, 3)], TODAY)
    update(database, 2, approved_limit_paise=5 * LAKH)
    update(database, 3, approved_limit_paise=5 * LAKH)
    richer = [CustomerRow(number, income_rupees=100_000) for number in (1, 2)]
    given = [CustomerRow(3, income_rupees=100_000, limit_rupees=900_000)]
    done = ingest(database, [*richer, *given], TODAY, on_existing="UPDATE")
    assert counts(done) == {"updated": 3}
    assert [limit_of(database, number) for number in (1, 2, 3)] == [
        (36, False),
        (5, True),
        (9, True),
    ]


def test_an_import_with_update_replaces_facts_that_were_changed_by_hand(
    database: Database,
) -> None:
    row = CustomerRow(1)
    ingest(database, [row, CustomerRow(2)], TODAY)
    hand: dict[str, Any] = {
        "first_name": "Usha",
        "last_name": "Iyer",
        "phone_number": "+919812345678",
    }
    update(database, 1, **hand, monthly_income_paise=2 * LAKH)
    before = get_customer(database, customer_id=1).customer
    # Neither the name nor the number of the row is the stored one, but the number was.
    assert counts(ingest(database, [row], TODAY)) == {"skipped": 1}
    assert get_customer(database, customer_id=1).customer == before
    loans = ingest(database, [LoanRow(1, 1)], TODAY)
    assert counts(loans) == {"inserted": 1}
    assert counts(ingest(database, [row], TODAY, on_existing="UPDATE")) == {"updated": 1}
    after = get_customer(database, customer_id=1).customer
    assert (after.first_name, after.phone_number) == ("Asha", row.phone_number)
    assert limit_of(database, 1) == (18, False)
    assert ("first_name", "Asha", "Usha") in [each[:3] for each in changes(database)]
    assert ("first_name", "Usha", "Asha") in [each[:3] for each in changes(database)]
    other = CustomerRow(1, first_name="Bela", last_name="Sen", phone="+919812345671")
    refused = ingest(database, [other], TODAY, on_existing="UPDATE")
    assert errors(database, refused.ingestion_id) == [(1, "customer_id", "CUSTOMER_MISMATCH")]
