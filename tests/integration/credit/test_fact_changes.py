"""Changes by imports are recorded: each fact with its old and new value, and an event."""

from datetime import date
from typing import Any

import pytest
from sqlalchemy import exc, text

from credit_service.ingestion.streams import begin_stream, fail_stream, finish_stream, ingest_rows
from credit_service.ingestion.wire import RowBatch
from credit_service.observability import metrics
from credit_service.rpc.convert.events import write_event
from credit_service.storage import event_stream
from credit_service.storage.database import Database
from credit_service.v1 import event_pb2
from tests.integration.imported import (
    PRINCIPAL,
    CustomerRow,
    LoanRow,
    columns_of,
    counts,
    execute,
    header_of,
    ingest,
    scalar,
    snapshot,
)
from tests.integration.portfolio import LAKH, a_good_customer, on

TODAY = on(date(2025, 6, 15))
ACTIVE = LoanRow(1, 7, rupees=200_000, tenure_months=60)


@pytest.fixture
def stored(database: Database) -> Database:
    """Customers 1 and 2 with a limit of ₹3 lakh each, and a loan of the first."""
    ingest(database, [CustomerRow(n, limit_rupees=300_000) for n in (1, 2)], TODAY)
    ingest(database, [ACTIVE, LoanRow(1, 8), LoanRow(2, 7)], TODAY)
    return database


def changes(database: Database) -> list[tuple[Any, ...]]:
    with database.autocommit() as connection:
        rows = connection.execute(
            text(
                """SELECT customer_id, event_seq, loan_id, fact, old_value, new_value
                FROM fact_changes ORDER BY customer_id, event_seq, fact"""
            )
        )
        return [tuple(row) for row in rows]


def published(database: Database) -> list[event_pb2.CreditEvent]:
    """The events of updates, as sent to watchers."""
    with database.transaction() as connection:
        event_stream.publish(connection, 1_000)
        kinds = frozenset({"customer_updated", "loan_updated"})
        found = event_stream.read(connection, after=0, until=10_000, limit=1_000, kinds=kinds)
    return [event for each in found if (event := write_event(each)) is not None]


def changes_of(event: event_pb2.CreditEvent) -> dict[str, tuple[str, str]]:
    payload = getattr(event, event.WhichOneof("payload") or "")
    return {each.field: (each.previous, each.current) for each in payload.changes}


def test_additions_by_imports_are_not_changes(stored: Database) -> None:
    before = scalar(stored, "SELECT sum(event_seq) FROM customers")
    ingest(stored, [ACTIVE, LoanRow(2, 9)], TODAY, on_existing="UPDATE")
    ingest(stored, [CustomerRow(1, limit_rupees=300_000)], TODAY, on_existing="UPDATE")
    ingest(stored, [CustomerRow(1, limit_rupees=900_000)], TODAY)
    dry: dict[str, Any] = {"on_existing": "UPDATE", "validate_only": True}
    ingest(stored, [CustomerRow(1, limit_rupees=900_000)], TODAY, **dry)
    assert changes(stored) == []
    assert published(stored) == []
    assert scalar(stored, "SELECT sum(event_seq) FROM customers") == before


def test_changed_facts_of_customers_are_stored_and_published(stored: Database) -> None:
    rows = [
        CustomerRow(1, limit_rupees=400_000, age=31),
        CustomerRow(2, phone="9123456780", income_rupees=60_000),
    ]
    done = ingest(stored, rows, TODAY, on_existing="UPDATE")
    assert counts(done) == {"updated": 2}
    assert changes(stored) == [
        (1, 1, None, "age", "30", "31"),
        (1, 1, None, "approved_limit_paise", "30000000", "40000000"),
        (2, 1, None, "monthly_income_paise", "5000000", "6000000"),
        (2, 1, None, "phone_number", "+919100000002", "+919123456780"),
    ]
    origins = (
        "SELECT array_agg(DISTINCT (ingestion_id, principal, changed_at)::text) FROM fact_changes"
    )
    (origin,) = scalar(stored, origins)
    assert str(done.ingestion_id) in origin
    assert PRINCIPAL in origin
    assert str(TODAY.now.date()) in origin
    first, second = published(stored)
    assert first.customer_updated.ingestion_id == str(done.ingestion_id)
    # For personal data, events contain only the field name.
    assert changes_of(first) == {"age": ("", ""), "approved_limit": ("300000.00", "400000.00")}
    assert changes_of(second) == {"monthly_income": ("", ""), "phone_number": ("", "")}
    assert (first.customer_id, second.customer_id) == (1, 2)
    versions = scalar(stored, "SELECT array_agg(version ORDER BY customer_id) FROM customers")
    assert [first.customer_version, second.customer_version] == versions
    payloads = scalar(stored, "SELECT string_agg(payload::text, ' ') FROM events")
    assert "9123456780" not in payloads


@pytest.mark.parametrize("batch_rows", [1, 100])
def test_changed_facts_of_loans_are_stored_and_published(stored: Database, batch_rows: int) -> None:
    rows = [
        LoanRow(1, 8, rate="12.5"),
        # Set to paid, which removes it from the debt.
        LoanRow(1, 7, rupees=200_000, tenure_months=60, emis_paid_on_time=60),
        LoanRow(2, 7, start=date(2024, 2, 29), installment_rupees=9_000),
    ]
    done = ingest(stored, rows, TODAY, on_existing="UPDATE", batch_rows=batch_rows)
    assert counts(done) == {"updated": 3}
    paid: list[tuple[Any, ...]] = [
        (7, "closed_on", None, "2025-06-15"),
        (7, "emis_paid_on_time", "0", "60"),
        (7, "installments_settled", "16", "60"),
    ]
    rate: list[tuple[Any, ...]] = [(8, "annual_rate_bps", "1200", "1250")]
    order = [rate, paid] if batch_rows == 1 else [paid, rate]
    assert changes(stored) == [
        *((1, 1, *each) for each in order[0]),
        *((1, 2, *each) for each in order[1]),
        (2, 1, 7, "closed_on", "2025-01-31", "2025-02-28"),
        (2, 1, 7, "end_date", "2025-01-31", "2025-02-28"),
        (2, 1, 7, "installment_paise", "888500", "900000"),
        (2, 1, 7, "start_date", "2024-01-31", "2024-02-29"),
    ]
    events = {(event.customer_id, event.loan_updated.loan_id): event for event in published(stored)}
    assert changes_of(events[1, 7])["closed_on"] == ("", "2025-06-15")
    assert changes_of(events[1, 8]) == {"interest_rate": ("12", "12.5")}
    assert changes_of(events[2, 7])["monthly_installment"] == ("8885.00", "9000.00")
    assert {each.loan_updated.ingestion_id for each in events.values()} == {str(done.ingestion_id)}
    # The version is that of the position after the change.
    version = scalar(stored, "SELECT version FROM customers WHERE customer_id = 1")
    assert max(e.customer_version for e in events.values() if e.customer_id == 1) == version
    assert scalar(stored, "SELECT event_seq FROM customers WHERE customer_id = 1") == 2


def test_removing_and_restoring_debt_is_recorded(stored: Database) -> None:
    """The attack: a loan is set to paid to free the limit, and reset after that is used."""
    paid = LoanRow(1, 7, rupees=200_000, tenure_months=60, emis_paid_on_time=60)
    hidden = ingest(stored, [paid], TODAY, on_existing="UPDATE")
    assert hidden.customers_over_limit == 0
    ingest(stored, [LoanRow(1, 9, rupees=290_000, tenure_months=60)], TODAY)
    back = ingest(stored, [ACTIVE], TODAY, on_existing="UPDATE")
    assert back.customers_over_limit == 1
    assert scalar(stored, "SELECT current_debt_paise FROM customers WHERE customer_id = 1") == (
        490_000_00
    )
    seen = [(fact, old, new) for *_, fact, old, new in changes(stored) if fact == "closed_on"]
    assert seen == [("closed_on", None, "2025-06-15"), ("closed_on", "2025-06-15", None)]


@pytest.mark.parametrize("statement", ["UPDATE {} SET fact = 'x'", "DELETE FROM {}", "TRUNCATE {}"])
def test_changes_are_facts_themselves(stored: Database, statement: str) -> None:
    ingest(stored, [CustomerRow(1, limit_rupees=0)], TODAY, on_existing="UPDATE")
    with pytest.raises(exc.IntegrityError, match="never change"):
        execute(stored, statement.format("fact_changes"))
    assert len(changes(stored)) == 1


# --- Above the limit ------------------------------------------------------------------------------


def over_limit(kind: str) -> float:
    value = metrics.REGISTRY.get_sample_value(
        "credit_ingestion_customers_over_limit_total", {"kind": kind, "source": "stream"}
    )
    assert value is not None
    return value


def test_customers_above_their_limits_after_an_import_are_counted(stored: Database) -> None:
    before = over_limit("loans")
    rows = [
        LoanRow(customer_id, 20 + number, rupees=200_000, tenure_months=60)
        for number in range(3)
        for customer_id in (1, 2)
    ]
    # Each once, regardless of the number of batches; an outdated position is summed again.
    later = on(date(2025, 8, 1))
    for batch_rows, day, ids in ((1, TODAY, 0), (100, later, 100)):
        more = [LoanRow(r.customer_id, r.loan_id + ids, r.rupees, 60) for r in rows]
        assert ingest(stored, more, day, batch_rows=batch_rows).customers_over_limit == 2
    assert over_limit("loans") == before + 4
    # Also if the limit is lowered.
    lowered = [CustomerRow(1, limit_rupees=1), CustomerRow(2, limit_rupees=9_000_000)]
    assert ingest(stored, lowered, TODAY, on_existing="UPDATE").customers_over_limit == 1
    assert over_limit("customers") >= 1


def test_customers_below_their_limits_at_the_end_do_not_count(stored: Database) -> None:
    rows = [
        LoanRow(1, 20, rupees=200_000, tenure_months=60),
        LoanRow(2, 20, rupees=200_000, tenure_months=60),
        LoanRow(1, 7, rupees=200_000, tenure_months=60, emis_paid_on_time=60),
    ]
    header = header_of(rows, on_existing="UPDATE")
    begun = begin_stream(stored, header, TODAY, PRINCIPAL)
    for offset, row in enumerate(rows[:2]):
        batch = RowBatch(offset, columns_of([row]))
        begun = ingest_rows(stored, header.ingestion_id, [batch], TODAY)
    assert begun.customers_over_limit is None
    failed = fail_stream(stored, header.ingestion_id, "Line 4 is damaged.", TODAY)
    assert failed.customers_over_limit == 1
    assert begin_stream(stored, header, TODAY, PRINCIPAL).customers_over_limit is None
    ingest_rows(stored, header.ingestion_id, [RowBatch(2, columns_of(rows[2:]))], TODAY)
    assert finish_stream(stored, header.ingestion_id, TODAY).customers_over_limit == 0


def test_a_dry_run_does_not_count_them(stored: Database) -> None:
    rows = [LoanRow(1, 20, rupees=200_000, tenure_months=60)]
    dry = ingest(stored, rows, TODAY, validate_only=True)
    assert (dry.inserted, dry.customers_over_limit) == (1, None)
    untouched = snapshot(stored)
    assert ingest(stored, [ACTIVE], TODAY).customers_over_limit == 0
    assert snapshot(stored) == untouched


def test_loans_booked_here_count_too(database: Database) -> None:
    customer_id = a_good_customer(database, TODAY)
    debt = scalar(database, "SELECT max(current_debt_paise) FROM customers")
    limit = scalar(database, "SELECT max(approved_limit_paise) FROM customers")
    rows = [LoanRow(customer_id, 5, rupees=(limit - debt) // 100 + 1, tenure_months=60)]
    assert limit > LAKH
    assert ingest(database, rows, TODAY).customers_over_limit == 1
