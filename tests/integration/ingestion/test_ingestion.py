"""Ingestion of rows: outcomes, and exactly-once storage after any failure."""

import random
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import date, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import exc, text

from credit_service.commands.create_loan import CreateLoan, create_loan
from credit_service.commands.register_customer import RegisterCustomer, register_customer
from credit_service.domain.calendar import add_months, installments_due_by
from credit_service.domain.customers import NewCustomer
from credit_service.domain.eligibility import Ask
from credit_service.domain.errors import (
    InvalidRequestError,
    NotFoundError,
    NotOwnerError,
    OutOfRangeError,
    PreconditionFailedError,
    RetryLaterError,
)
from credit_service.ingestion import batches, merge_loans
from credit_service.ingestion.frames import arrays_of
from credit_service.ingestion.streams import (
    abandon_streams,
    begin_stream,
    finish_stream,
    ingest_rows,
    leave_stream,
)
from credit_service.ingestion.wire import RowBatch, UnreadableCell
from credit_service.queries.ingestions import get_ingestion, list_ingestions, list_row_errors
from credit_service.storage import (
    bookings,
    committed_rows,
    imported_customers,
    imported_loans,
    ingestions,
    positions,
    row_errors,
)
from credit_service.storage.database import Database
from credit_service.storage.tables import FIRST_ISSUED_ID, ISSUED_ID_STEP, MAX_IMPORTED_ID
from tests import citus
from tests.integration.imported import (
    PRINCIPAL,
    CustomerRow,
    LoanRow,
    Row,
    assert_positions_are_right,
    columns_of,
    counts,
    errors,
    execute,
    header_of,
    ingest,
    remove_customers,
    scalar,
    snapshot,
)
from tests.integration.portfolio import LAKH, a_customer, a_good_customer, an_older_customer, on

TODAY = on(date(2025, 6, 15))
C1, C2, C3 = (CustomerRow(n) for n in (1, 2, 3))


@pytest.fixture
def three_customers(database: Database) -> Database:
    """Customers 1, 2 and 3, imported."""
    assert counts(ingest(database, [C1, C2, C3], TODAY)) == {"inserted": 3}
    return database


def test_customers_and_their_loans_are_stored(three_customers: Database) -> None:
    loan = LoanRow(1, 1003, emis_paid_on_time=3)
    assert counts(ingest(three_customers, [loan, LoanRow(2, 1003)], TODAY)) == {"inserted": 2}
    stored = snapshot(three_customers)
    assert stored["customers"][0][:8] == (
        1,
        "Asha",
        "Rao",
        30,
        5_000_000,
        "+919100000001",
        18 * LAKH,
        True,
    )
    assert stored["loans"][0] == (
        1,
        1003,
        LAKH,
        1200,
        12,
        888_500,
        date(2024, 1, 31),
        date(2025, 1, 31),
        True,
        12,
        3,
        12,
        0,
        date(2025, 1, 31),
        1,
    )
    assert_positions_are_right(three_customers, (1, 2, 3), TODAY.today)


def test_the_limit_of_the_source_is_stored(database: Database) -> None:
    rows = [CustomerRow(1, limit_rupees=0), CustomerRow(2, limit_rupees=1_234_567)]
    ingest(database, rows, TODAY)
    assert [row[6] for row in snapshot(database)["customers"]] == [0, 123_456_700]


def test_ingesting_the_same_rows_again_changes_nothing(three_customers: Database) -> None:
    rows = [LoanRow(1, n) for n in range(1, 30)]
    ingest(three_customers, rows, TODAY)
    before = snapshot(three_customers)
    versions = scalar(three_customers, "SELECT sum(version) FROM customers")
    for mode in ("SKIP", "UPDATE"):
        for day in (TODAY, on(date(2026, 3, 1))):
            assert counts(ingest(three_customers, rows, day, on_existing=mode, batch_rows=10)) == {
                "unchanged": 29
            }
            assert counts(ingest(three_customers, [C1, C2, C3], day, on_existing=mode)) == {
                "unchanged": 3
            }
    assert snapshot(three_customers) == before
    assert scalar(three_customers, "SELECT sum(version) FROM customers") == versions


def test_a_loan_of_an_unknown_customer_is_rejected_and_others_are_stored(
    three_customers: Database,
) -> None:
    rows = [LoanRow(1, 1), LoanRow(99, 1), LoanRow(2, 1), LoanRow(99, 2)]
    ingestion = ingest(three_customers, rows, TODAY)
    assert counts(ingestion) == {"inserted": 2, "rejected": 2}
    assert errors(three_customers, ingestion.ingestion_id) == [
        (2, "customer_id", "CUSTOMER_UNKNOWN"),
        (4, "customer_id", "CUSTOMER_UNKNOWN"),
    ]


@pytest.mark.parametrize("batch_rows", [1, 2, 3, 100])
@pytest.mark.parametrize("mode", ["SKIP", "UPDATE"])
def test_existing_loans_are_kept_or_updated(
    three_customers: Database, mode: str, batch_rows: int
) -> None:
    ingest(three_customers, [LoanRow(1, 1), LoanRow(1, 2), LoanRow(2, 1)], TODAY)
    changed = LoanRow(1, 1, rupees=200_000, tenure_months=48, start=date(2025, 3, 31))
    rows = [changed, LoanRow(1, 2), LoanRow(1, 3)]
    later = on(date(2025, 7, 1))
    ingestion = ingest(three_customers, rows, later, on_existing=mode, batch_rows=batch_rows)
    if mode == "SKIP":
        assert counts(ingestion) == {"inserted": 1, "unchanged": 1, "skipped": 1}
        assert snapshot(three_customers)["loans"][0][2] == LAKH
    else:
        assert counts(ingestion) == {"inserted": 1, "unchanged": 1, "updated": 1}
        assert snapshot(three_customers)["loans"][0] == (
            1,
            1,
            2 * LAKH,
            1200,
            48,
            888_500,
            date(2025, 3, 31),
            date(2029, 3, 31),
            True,
            3,
            0,
            3,
            0,
            None,
            1,
        )
    # Only customer 1 was changed and has the later day.
    assert_positions_are_right(three_customers, [1], later.today)
    assert_positions_are_right(three_customers, [2, 3], TODAY.today)


def test_loans_booked_here_are_never_replaced(three_customers: Database) -> None:
    customer_id = a_good_customer(three_customers, TODAY)
    decision = create_loan(
        three_customers, CreateLoan(uuid4(), customer_id, Ask(LAKH, 1200, 12)), TODAY, PRINCIPAL
    )
    assert decision.loan_id is not None
    ingest(three_customers, [LoanRow(1, 1, emis_paid_on_time=2, tenure_months=60)], TODAY)
    _record_payment(three_customers, 1, 1)
    # Early releases issued ids in the range of imports.
    execute(three_customers, "UPDATE loans SET loan_id = 2000 WHERE NOT imported")
    rows = [
        LoanRow(customer_id, 2_000, rupees=1),
        LoanRow(1, 1, rupees=7, tenure_months=60),
        # Unchanged facts: EMIs paid on time here are not facts of the source.
        LoanRow(1, 1, emis_paid_on_time=2, tenure_months=60),
    ]
    before = snapshot(three_customers)
    kept = ingest(three_customers, rows, TODAY)
    assert counts(kept) == {"skipped": 2, "rejected": 1}
    refused = ingest(three_customers, rows, TODAY, on_existing="UPDATE")
    assert counts(refused) == {"rejected": 2, "unchanged": 1}
    assert errors(three_customers, refused.ingestion_id) == [
        (1, "loan_id", "LOAN_BOOKED_HERE"),
        (2, "loan_id", "LOAN_HAS_PAYMENTS"),
    ]
    assert snapshot(three_customers) == before


def _record_payment(database: Database, customer_id: int, loan_id: int) -> None:
    """One installment paid on time, as stored by RecordPayment."""
    key = {"customer_id": customer_id, "loan_id": loan_id}
    with database.transaction() as connection:
        for statement in (
            """INSERT INTO payments (customer_id, loan_id, payment_number, payment_id,
                amount_paise, paid_on, recorded_at, first_settled, settled_count, on_time_count,
                closed_loan, principal)
            SELECT customer_id, loan_id, 1, 1, installment_paise, '2025-06-15', now(),
                installments_settled + 1, 1, 1, false, 'tests'
            FROM loans WHERE customer_id = :customer_id AND loan_id = :loan_id""",
            """UPDATE loans SET installments_settled = installments_settled + 1,
                emis_paid_on_time = emis_paid_on_time + 1, paid_paise = installment_paise,
                last_paid_on = '2025-06-15'
            WHERE customer_id = :customer_id AND loan_id = :loan_id""",
        ):
            connection.execute(text(statement), key)


def test_a_registered_customer_is_never_replaced(database: Database) -> None:
    customer_id = an_older_customer(database, TODAY)
    row = CustomerRow(customer_id, phone="9123456781")
    assert counts(ingest(database, [row], TODAY)) == {"skipped": 1}
    refused = ingest(database, [row], TODAY, on_existing="UPDATE")
    assert errors(database, refused.ingestion_id) == [
        (1, "customer_id", "CUSTOMER_REGISTERED_HERE")
    ]


def test_an_updated_customer_keeps_the_limit_if_the_row_has_none(database: Database) -> None:
    ingest(database, [CustomerRow(1, limit_rupees=700_000), C2], TODAY)
    rows = [CustomerRow(1, income_rupees=90_000), CustomerRow(2, limit_rupees=5)]
    ingestion = ingest(database, rows, TODAY, on_existing="UPDATE")
    assert counts(ingestion) == {"updated": 2}
    found = [(row[4], row[6]) for row in snapshot(database)["customers"]]
    assert found == [(9_000_000, 70_000_000), (5_000_000, 500)]
    assert scalar(database, "SELECT min(version) FROM customers") == 2


@pytest.mark.parametrize("batch_rows", [1, 2, 100])
@pytest.mark.parametrize("dry", [False, True])
def test_a_row_that_repeats_a_key_must_be_equal(
    three_customers: Database, batch_rows: int, dry: bool
) -> None:
    first, other = LoanRow(1, 1), LoanRow(1, 1, rupees=5)
    rows: list[Row] = [LoanRow(2, 2), first, first, other, first, LoanRow(2, 3), other]
    ingestion = ingest(three_customers, rows, TODAY, batch_rows=batch_rows, validate_only=dry)
    assert counts(ingestion) == {"inserted": 3, "unchanged": 2, "rejected": 2}
    found = list_row_errors(three_customers, ingestion.ingestion_id, None, 10)
    assert [(e.row_number, e.code) for e in found] == [
        (4, "DUPLICATE_DIFFERS"),
        (7, "DUPLICATE_DIFFERS"),
    ]
    assert all("row 2" in error.expected for error in found)


@pytest.mark.parametrize("batch_rows", [1, 2, 100])
@pytest.mark.parametrize("dry", [False, True])
def test_a_repeated_customer_or_phone_number_is_rejected(
    database: Database, batch_rows: int, dry: bool
) -> None:
    rows = [
        C1,
        CustomerRow(2, phone=C1.phone_number),
        C1,
        CustomerRow(1, age=31),
        CustomerRow(2),
        CustomerRow(3, phone="09100000002"),
    ]
    ingestion = ingest(database, rows, TODAY, batch_rows=batch_rows, validate_only=dry)
    assert counts(ingestion) == {"inserted": 2, "unchanged": 1, "rejected": 3}
    assert errors(database, ingestion.ingestion_id) == [
        (2, "phone_number", "PHONE_TAKEN"),
        (4, "", "DUPLICATE_DIFFERS"),
        (6, "phone_number", "PHONE_TAKEN"),
    ]


@pytest.mark.parametrize("batch_rows", [1, 2, 100])
@pytest.mark.parametrize("dry", [False, True])
def test_a_released_phone_number_is_free_in_the_next_ingestion(
    three_customers: Database, batch_rows: int, dry: bool
) -> None:
    rows = [CustomerRow(1, phone="9123456789"), CustomerRow(2, phone=C1.phone_number)]
    options: dict[str, Any] = {"on_existing": "UPDATE", "batch_rows": batch_rows}
    ingestion = ingest(three_customers, rows, TODAY, validate_only=dry, **options)
    assert counts(ingestion) == {"updated": 1, "rejected": 1}
    if not dry:
        again = ingest(three_customers, rows, TODAY, **options)
        assert counts(again) == {"unchanged": 1, "updated": 1}


def _random_rows(chance: random.Random, count: int) -> list[Row]:
    """Loans, or customers, with repeated keys, unknown customers, taken numbers and bad values."""
    if chance.random() < 0.5:
        return [
            LoanRow(
                chance.randint(1, 9),
                chance.randint(1, 6),
                rupees=chance.choice([100_000, 100_000, 200_000, -1]),
                emis_paid_on_time=chance.choice([0, 0, 1, 13]),
                start=chance.choice([date(2024, 1, 31), date(2024, 2, 29), date(2030, 1, 1)]),
            )
            for _ in range(count)
        ]
    return [
        CustomerRow(
            chance.randint(1, 9),
            phone=chance.choice(["", f"91000000{chance.randint(1, 12):02d}", "12"]),
            age=chance.choice([30, 30, 30, 31, 17]),
            limit_rupees=chance.choice([None, None, 100_000]),
        )
        for _ in range(count)
    ]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
def test_a_dry_run_reports_what_a_real_run_does_for_any_batch_size(
    database: Database, seed: int
) -> None:
    chance = random.Random(seed)  # noqa: S311 - made-up rows, no secret
    # Some rows use the ids of registered customers.
    a_customer(database, TODAY)
    ingest(database, [CustomerRow(n) for n in range(2, 7)], TODAY)
    for _ in range(4):
        rows = _random_rows(chance, 25)
        mode = chance.choice(["SKIP", "UPDATE"])
        before = snapshot(database)
        reports = []
        for batch_rows in (1, 4, 100):
            dry = ingest(
                database,
                rows,
                TODAY,
                batch_rows=batch_rows,
                on_existing=mode,
                validate_only=True,
            )
            reports.append((counts(dry), errors(database, dry.ingestion_id)))
        assert snapshot(database) == before
        real = ingest(
            database, rows, TODAY, batch_rows=chance.choice([1, 3, 100]), on_existing=mode
        )
        reports.append((counts(real), errors(database, real.ingestion_id)))
        assert all(report == reports[0] for report in reports)
        ids = [row[0] for row in snapshot(database)["customers"]]
        assert_positions_are_right(database, ids, TODAY.today)


@pytest.mark.parametrize("seed", range(6))
def test_the_batch_size_does_not_change_the_result(database: Database, seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311 - made-up rows, no secret
    ingest(database, [CustomerRow(n) for n in range(2, 7)], TODAY)
    rows = _random_rows(chance, 40)
    found = []
    for batch_rows in (1, 7, 100):
        remove_customers(database)
        ingest(database, [CustomerRow(n) for n in range(2, 7)], TODAY)
        ingestion = ingest(database, rows, TODAY, batch_rows=batch_rows, on_existing="UPDATE")
        found.append(
            (counts(ingestion), errors(database, ingestion.ingestion_id), snapshot(database))
        )
    assert found[0] == found[1] == found[2]


# --- Offsets --------------------------------------------------------------------------------------


def test_a_batch_is_stored_once_even_if_it_is_sent_again(three_customers: Database) -> None:
    rows = [LoanRow(1, n) for n in range(1, 21)]
    header = header_of(rows)
    begin_stream(three_customers, header, TODAY, PRINCIPAL)

    def send(first: int, last: int) -> int:
        columns = columns_of(rows[first:last])
        return ingest_rows(
            three_customers, header.ingestion_id, [RowBatch(first, columns)], TODAY
        ).committed_offset

    assert send(0, 5) == 5
    assert send(0, 5) == 5
    assert send(2, 4) == 5
    with pytest.raises(OutOfRangeError) as refused:
        send(6, 10)
    assert refused.value.reason == "OFFSET_MISMATCH"
    assert refused.value.metadata["expected_offset"] == "5"
    # With different batch boundaries: rows above the offset are stored.
    assert send(3, 9) == 9
    resumed = begin_stream(three_customers, header, TODAY, PRINCIPAL)
    assert resumed.committed_offset == 9
    assert send(0, 20) == 20
    ended = finish_stream(three_customers, header.ingestion_id, TODAY)
    assert counts(ended) == {"inserted": 20}
    assert ended.total_rows == 20
    assert [row[14] for row in snapshot(three_customers)["loans"]] == list(range(1, 21))
    # The client repeats everything, as after a lost response.
    assert send(0, 20) == 20
    assert finish_stream(three_customers, header.ingestion_id, TODAY) == ended
    with pytest.raises(PreconditionFailedError, match="INGESTION_ENDED"):
        ingest_rows(
            three_customers,
            header.ingestion_id,
            [RowBatch(20, columns_of([LoanRow(1, 99)]))],
            TODAY,
        )


def _begun(database: Database, rows: Sequence[Row], **options: Any) -> Callable[..., int]:
    """Begin a stream; return a function that sends rows at an offset and returns the committed
    offset."""
    header = header_of(rows, **options)
    begin_stream(database, header, TODAY, PRINCIPAL)

    def send(offset: int, *sent: Row, **columns: Any) -> int:
        batch = RowBatch(offset, replace(columns_of(sent), **columns))
        return ingest_rows(database, header.ingestion_id, [batch], TODAY).committed_offset

    return send


@pytest.mark.parametrize("validate_only", [False, True])
@pytest.mark.parametrize(
    ("rows", "other"),
    [
        ([LoanRow(1, n) for n in range(1, 6)], LoanRow(1, 3, rupees=100_001)),
        ([LoanRow(1, n) for n in range(1, 6)], LoanRow(1, 3, rate="12.01")),
        ([LoanRow(1, n, rupees=-5) for n in range(1, 6)], LoanRow(1, 3, rupees=-6)),
        ([LoanRow(1, n, rate="x") for n in range(1, 6)], LoanRow(1, 3, rate="y")),
        ([CustomerRow(n) for n in range(4, 9)], CustomerRow(6, first_name="Mallory")),
        ([CustomerRow(n, "12") for n in range(4, 9)], CustomerRow(6, "13")),
        ([CustomerRow(n, limit_rupees=0) for n in range(4, 9)], CustomerRow(6)),
    ],
    ids=["amount", "rate", "bad amount", "bad rate", "name", "bad phone", "no limit"],
)
def test_rows_that_differ_from_committed_ones_are_rejected(
    three_customers: Database, rows: list[Row], other: Row, validate_only: bool
) -> None:
    send = _begun(three_customers, rows, validate_only=validate_only)
    assert send(0, *rows[:2]) == 2
    assert send(2, *rows[2:4]) == 4
    before = snapshot(three_customers)
    # With any batch boundaries, alone or with new rows.
    for first, last in ((0, 4), (1, 3), (2, 3), (0, 5)):
        changed = [*rows[:2], other, *rows[3:]][first:last]
        with pytest.raises(PreconditionFailedError) as refused:
            send(first, *changed)
        assert refused.value.reason == "COMMITTED_ROWS_DIFFER"
        assert refused.value.metadata["offset"] == "2"
        assert refused.value.metadata["committed_offset"] == "4"
    assert snapshot(three_customers) == before
    for first, last in ((0, 4), (1, 3), (2, 3)):
        assert send(first, *rows[first:last]) == 4
    assert send(1, *rows[1:]) == 5


def test_unreadable_cells_are_compared_too(three_customers: Database) -> None:
    rows = [LoanRow(1, n) for n in range(1, 4)]
    send = _begun(three_customers, rows)

    def ten(found: str) -> list[UnreadableCell]:
        return [UnreadableCell(1, "tenure_months", "", found)]

    assert send(0, *rows, unreadable=ten("ten")) == 3
    assert send(0, *rows, unreadable=ten("ten")) == 3
    # The other rows are equal, and the client may number them differently.
    assert send(0, rows[0], row_numbers=[77]) == 3
    for differing in ([], ten("eleven")):
        with pytest.raises(PreconditionFailedError, match="COMMITTED_ROWS_DIFFER") as refused:
            send(0, *rows, unreadable=differing)
        assert refused.value.metadata["offset"] == "1"


def test_committed_rows_without_a_digest_are_not_compared(three_customers: Database) -> None:
    """Ingestions that an earlier release began have no digests."""
    rows = [LoanRow(1, n) for n in range(1, 6)]
    send = _begun(three_customers, rows)
    send(0, *rows[:2])
    execute(three_customers, "DELETE FROM ingestion_batches")
    send(2, *rows[2:4])
    assert send(0, LoanRow(1, 9), LoanRow(1, 8), *rows[2:]) == 5
    with pytest.raises(PreconditionFailedError, match="COMMITTED_ROWS_DIFFER"):
        send(0, *rows[:3], LoanRow(1, 9))


def test_a_stream_that_ends_before_the_committed_offset_is_rejected(
    three_customers: Database,
) -> None:
    rows = [LoanRow(1, n) for n in range(1, 6)]
    header = header_of(rows)
    begin_stream(three_customers, header, TODAY, PRINCIPAL)
    ingest_rows(three_customers, header.ingestion_id, [RowBatch(0, columns_of(rows))], TODAY)
    with pytest.raises(PreconditionFailedError, match="COMMITTED_ROWS_DIFFER") as refused:
        finish_stream(three_customers, header.ingestion_id, TODAY, sent_until=3)
    assert refused.value.metadata["offset"] == "3"
    assert get_ingestion(three_customers, header.ingestion_id).state == "RUNNING"
    # A client that resumes after the last committed row sends no row.
    assert finish_stream(three_customers, header.ingestion_id, TODAY).state == "SUCCEEDED"


@pytest.mark.parametrize(
    ("owner", "caller", "allowed"),
    [
        ("team-a", "team-a", True),
        ("team-a", "team-b", False),
        # A server without authentication.
        ("anonymous", "team-a", True),
        ("team-a", "anonymous", True),
    ],
)
def test_only_its_owner_continues_an_ingestion(
    three_customers: Database, owner: str, caller: str, allowed: bool
) -> None:
    header = header_of([C1])
    begin_stream(three_customers, header, TODAY, owner)
    if allowed:
        begin_stream(three_customers, header, TODAY, caller)
        return
    with pytest.raises(NotOwnerError, match="INGESTION_NOT_OWNED"):
        begin_stream(three_customers, header, TODAY, caller)


LOANS_WITH_FAULTS = [
    *(LoanRow(1 + n % 3, n) for n in range(1, 30)),
    LoanRow(99, 30),
    LoanRow(2, 4, tenure_months=13),
    LoanRow(1, 31, rupees=-5),
]
# Every row after the seventh has the phone number of an earlier one.
CUSTOMERS_WITH_FAULTS = [CustomerRow(n, f"+91{9_200_000_000 + n % 7}") for n in range(4, 16)]


@pytest.mark.parametrize(
    "rows", [LOANS_WITH_FAULTS, CUSTOMERS_WITH_FAULTS], ids=["loans", "people"]
)
def test_batches_stored_together_and_one_by_one_give_the_same_result(
    three_customers: Database, rows: Sequence[Row]
) -> None:
    parts = [RowBatch(n, columns_of(rows[n : n + 3])) for n in range(0, len(rows), 3)]
    found = []
    for validate_only, at_a_time in ((True, 1), (True, 4), (False, 4)):
        header = header_of(rows, validate_only=validate_only)
        begin_stream(three_customers, header, TODAY, PRINCIPAL)
        # The stream broke after two batches.
        ingest_rows(three_customers, header.ingestion_id, parts[:2], TODAY)
        for n in range(0, len(parts), at_a_time):
            ingest_rows(three_customers, header.ingestion_id, parts[n : n + at_a_time], TODAY)
        ended = finish_stream(three_customers, header.ingestion_id, TODAY)
        found.append((counts(ended), errors(three_customers, header.ingestion_id)))
    assert found[0] == found[1] == found[2]
    assert found[0][0]["rejected"] > 2
    assert found[0][0]["inserted"] > 5
    assert_positions_are_right(three_customers, (1, 2, 3), TODAY.today)


def test_an_ingestion_id_has_one_header(three_customers: Database) -> None:
    header = header_of([LoanRow(1, 1)])
    begin_stream(three_customers, header, TODAY, PRINCIPAL)
    for change in ({"kind": "CUSTOMERS"}, {"on_existing": "UPDATE"}, {"validate_only": True}):
        other = header_of([LoanRow(1, 1)], ingestion_id=header.ingestion_id, **change)
        with pytest.raises(PreconditionFailedError) as refused:
            begin_stream(three_customers, other, TODAY, PRINCIPAL)
        assert refused.value.reason == "INGESTION_HEADER_MISMATCH"
        assert refused.value.metadata["fields"] == next(iter(change))


def test_rows_of_the_other_kind_are_rejected(three_customers: Database) -> None:
    header = header_of([LoanRow(1, 1)])
    begin_stream(three_customers, header, TODAY, PRINCIPAL)
    with pytest.raises(InvalidRequestError, match="STREAM_ORDER_INVALID"):
        ingest_rows(three_customers, header.ingestion_id, [RowBatch(0, columns_of([C1]))], TODAY)


def test_an_unknown_ingestion_is_not_found(database: Database) -> None:
    header = header_of([C1])
    with pytest.raises(NotFoundError):
        ingest_rows(database, header.ingestion_id, [RowBatch(0, columns_of([C1]))], TODAY)
    with pytest.raises(NotFoundError):
        get_ingestion(database, header.ingestion_id)
    with pytest.raises(NotFoundError):
        list_row_errors(database, header.ingestion_id, None, 10)


def test_an_ingestion_locked_by_another_call_is_in_progress(database_url: str) -> None:
    database = Database(database_url, lock_timeout_seconds=0.1)
    header = header_of([C1])
    begin_stream(database, header, TODAY, PRINCIPAL)
    with database.transaction() as connection:
        ingestions.lock(connection, header.ingestion_id)
        with pytest.raises(RetryLaterError, match="INGESTION_IN_PROGRESS"):
            ingest_rows(database, header.ingestion_id, [RowBatch(0, columns_of([C1]))], TODAY)
    database.dispose()


def test_ingestions_and_row_errors_are_listed_in_pages(three_customers: Database) -> None:
    rows = [LoanRow(99, n, rupees=-1, rate="x") for n in range(7)]
    first = ingest(three_customers, rows, TODAY)
    second = ingest(three_customers, [C1], on(date(2025, 6, 16)))
    listed = list_ingestions(three_customers, None, 2)
    assert listed[0].ingestion_id == second.ingestion_id
    after = (listed[-1].created_at, listed[-1].ingestion_id)
    rest = list_ingestions(three_customers, after, 10)
    assert len(listed) + len(rest) == 3
    found, page = [], list_row_errors(three_customers, first.ingestion_id, None, 4)
    while page:
        found += page
        key = (page[-1].row_offset, page[-1].error_number)
        page = list_row_errors(three_customers, first.ingestion_id, key, 4)
    # The first row also has a loan id of 0.
    assert len(found) == 15
    assert [e.error_number for e in found[:5]] == [1, 2, 3, 1, 2]


def test_stored_row_errors_are_bounded_and_all_rejected_rows_are_counted(
    three_customers: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "MAX_REPORTED_ROWS", 3)
    rows = [LoanRow(99, n) for n in range(1, 10)]
    ingestion = ingest(three_customers, rows, TODAY, batch_rows=2)
    assert counts(ingestion) == {"rejected": 9}
    assert len(errors(three_customers, ingestion.ingestion_id)) == 4


# --- Crashes --------------------------------------------------------------------------------------

_STEPS: list[tuple[Any, str]] = [
    (ingestions, "lock"),
    (imported_customers, "known_customers"),
    (imported_customers, "contested"),
    (imported_customers, "mark_contested"),
    (imported_customers, "clear_contested"),
    (imported_loans, "stored_loans"),
    (committed_rows, "seen"),
    (imported_loans, "insert_loans"),
    (imported_loans, "update_loans"),
    (positions, "refresh_locked"),
    (positions, "add_loans"),
    (committed_rows, "remember"),
    (row_errors, "add"),
    (ingestions, "advance"),
    (imported_customers, "stored_customers"),
    (imported_customers, "phone_holders"),
    (imported_customers, "update_customers"),
    (imported_customers, "insert_customers"),
    (committed_rows, "add_batch"),
    (ingestions, "end"),
]


class _Crashed(BaseException):
    """The process crashed."""


@pytest.mark.parametrize("seed", range(3))
def test_crashes_between_statements_neither_lose_nor_duplicate_rows(
    database: Database, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Compares an undisturbed run with one in a process that crashes repeatedly."""
    customers: list[Row] = [CustomerRow(n, age=30 + n % 2) for n in range(1, 9)]
    customers += [CustomerRow(3, age=99), CustomerRow(9, phone=C1.phone_number)]
    loans: list[Row] = [LoanRow(n % 9 + 1, n // 4, rupees=1000 * (n % 5)) for n in range(4, 40)]
    found = []
    for dies in (False, True):
        remove_customers(database)
        ingest(database, [CustomerRow(n) for n in (1, 2, 4)], TODAY)
        ingest(database, [LoanRow(1, 1), LoanRow(2, 2), LoanRow(2, 3)], TODAY)
        crashes = 0
        with monkeypatch.context() as patch:
            if dies:
                _crash_at_random(patch, seed)
            ingestions_of = [_ingest_despite_crashes(database, rows) for rows in (customers, loans)]
        crashes = sum(times for _, times in ingestions_of)
        assert (crashes > 5) == dies
        found.append(
            (
                [counts(ingestion) for ingestion, _ in ingestions_of],
                [errors(database, ingestion.ingestion_id) for ingestion, _ in ingestions_of],
                [ingestion.customers_over_limit for ingestion, _ in ingestions_of],
                snapshot(database),
            )
        )
    assert found[0] == found[1]
    assert_positions_are_right(database, range(1, 9), TODAY.today)


def _crash_at_random(patch: pytest.MonkeyPatch, seed: int) -> None:
    """Crash at one step in twelve; a step is before or after a statement."""
    chance = random.Random(seed)  # noqa: S311 - moments of a test, no secret

    def step() -> None:
        if chance.randrange(12) == 0:
            raise _Crashed

    for module, name in _STEPS:
        patch.setattr(module, name, _crashing(getattr(module, name), step))


def _crashing(function: Callable[..., Any], step: Callable[[], None]) -> Callable[..., Any]:
    def wrapped(*arguments: Any, **named: Any) -> Any:
        step()
        result = function(*arguments, **named)
        step()
        return result

    return wrapped


def _ingest_despite_crashes(database: Database, rows: Sequence[Row]) -> tuple[Any, int]:
    header = header_of(rows, on_existing="UPDATE")
    crashes = 0
    for _ in range(500):
        try:
            offset = begin_stream(database, header, TODAY, PRINCIPAL).committed_offset
            while offset < len(rows):
                columns = columns_of(rows[offset : offset + 9])
                offset = ingest_rows(
                    database, header.ingestion_id, [RowBatch(offset, columns)], TODAY
                ).committed_offset
            return finish_stream(database, header.ingestion_id, TODAY), crashes
        except _Crashed:
            crashes += 1
    raise AssertionError("the ingestion did not end in 500 attempts")


def test_without_the_offset_in_the_transaction_rows_would_be_duplicated(
    three_customers: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The crash test guards this: an offset that lags behind its rows counts them twice."""
    rows = [LoanRow(1, 1), LoanRow(1, 2)]
    header = header_of(rows)
    begin_stream(three_customers, header, TODAY, PRINCIPAL)
    ingest_rows(three_customers, header.ingestion_id, [RowBatch(0, columns_of(rows))], TODAY)
    execute(three_customers, "UPDATE ingestions SET committed_offset = 0")
    execute(three_customers, "DELETE FROM ingestion_batches")
    ingest_rows(three_customers, header.ingestion_id, [RowBatch(0, columns_of(rows))], TODAY)
    assert finish_stream(three_customers, header.ingestion_id, TODAY).rows_read == 4


# --- Concurrent calls -----------------------------------------------------------------------------


def test_an_import_changes_the_version_that_a_booking_has_read(database: Database) -> None:
    customer_id = a_good_customer(database, TODAY)
    with database.autocommit() as connection:
        read = bookings.read(connection, customer_id, uuid4(), TODAY.today, lock=False)
    assert read is not None
    ingest(database, [LoanRow(customer_id, 1, rupees=1_000_000, tenure_months=60)], TODAY)
    with database.autocommit() as connection:
        now = bookings.read(connection, customer_id, uuid4(), TODAY.today, lock=False)
    assert now is not None
    assert now.position.version > read.position.version
    assert now.position.current_debt_paise == 10 * LAKH


def test_concurrent_bookings_and_imports_leave_a_correct_position(database: Database) -> None:
    customer_id = a_good_customer(database, TODAY, monthly_income_paise=100 * LAKH)
    failures: list[BaseException] = []

    def guarded(work: Callable[[], object]) -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - the main thread reports it
            failures.append(error)

    def book() -> None:
        for _ in range(15):
            create_loan(
                database, CreateLoan(uuid4(), customer_id, Ask(LAKH, 1200, 12)), TODAY, PRINCIPAL
            )

    def import_loans(first: int) -> None:
        for n in range(first, first - 15, -1):  # never an id issued meanwhile
            ingest(database, [LoanRow(customer_id, n, tenure_months=60)], TODAY)

    works: list[Callable[[], None]] = [
        book,
        book,
        lambda: import_loans(3_000_000),
        lambda: import_loans(2_000_000),
    ]
    threads = [threading.Thread(target=guarded, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert scalar(database, "SELECT count(*) FROM loans WHERE imported") == 3 + 30
    assert scalar(database, "SELECT count(*) FROM loans WHERE NOT imported") == 30
    assert_positions_are_right(database, [customer_id], TODAY.today)


def test_without_the_lock_a_booking_would_be_lost_from_the_position(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sum must include a booking that commits between the sum and the update: with the lock,
    one waits for the other."""
    customer_id = a_good_customer(database, TODAY)
    booked = threading.Event()
    reached = threading.Event()
    real = imported_loans.stored_loans

    def slow(*arguments: Any) -> Any:
        reached.set()
        # With the lock, the booking cannot end before the import.
        assert not booked.wait(0.4)
        return real(*arguments)

    monkeypatch.setattr(imported_loans, "stored_loans", slow)
    importing = threading.Thread(
        target=ingest, args=(database, [LoanRow(customer_id, 1, tenure_months=60)], TODAY)
    )
    importing.start()
    reached.wait(5)
    create_loan(database, CreateLoan(uuid4(), customer_id, Ask(LAKH, 1200, 12)), TODAY, PRINCIPAL)
    booked.set()
    importing.join()
    assert_positions_are_right(database, [customer_id], TODAY.today)


def test_a_phone_number_registered_meanwhile_rejects_the_row(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = imported_customers.phone_holders
    taken: list[object] = []

    def late(*arguments: Any) -> Any:
        found = real(*arguments)
        if not taken:
            taken.append(
                register_customer(
                    database,
                    RegisterCustomer(uuid4(), NewCustomer("A", "B", 30, LAKH, C1.phone_number)),
                    TODAY,
                    PRINCIPAL,
                )
            )
        return found

    monkeypatch.setattr(imported_customers, "phone_holders", late)
    ingestion = ingest(database, [CustomerRow(77, phone=C1.phone_number), C2], TODAY)
    assert counts(ingestion) == {"inserted": 1, "rejected": 1}
    assert errors(database, ingestion.ingestion_id) == [(1, "phone_number", "PHONE_TAKEN")]


def test_ids_issued_after_an_import_are_new(database: Database) -> None:
    """Imported ids are below 10^15 and issued ids above, so they need no comparison."""
    assert a_customer(database, TODAY) == FIRST_ISSUED_ID
    largest = CustomerRow(MAX_IMPORTED_ID, phone="+919100000099")
    assert counts(ingest(database, [C1, largest], TODAY)) == {"inserted": 2}
    second = a_customer(database, TODAY)
    assert second == FIRST_ISSUED_ID + ISSUED_ID_STEP
    customer_id = a_good_customer(database, TODAY)
    ingest(database, [LoanRow(1, MAX_IMPORTED_ID)], TODAY)
    decision = create_loan(
        database, CreateLoan(uuid4(), customer_id, Ask(LAKH, 1200, 12)), TODAY, PRINCIPAL
    )
    assert decision.loan_id == FIRST_ISSUED_ID


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        pytest.param(
            "UPDATE customers SET customer_id = 1000000000000011, imported = true",
            "customers_customer_id_range_check",
            marks=pytest.mark.one_server("changes the column that places a row"),
        ),
        pytest.param(
            "UPDATE customers SET customer_id = 9007199254740993",
            "customers_customer_id_range_check",
            marks=pytest.mark.one_server("changes the column that places a row"),
        ),
        (
            "UPDATE loans SET loan_id = 1000000000000011",
            "loans_loan_id_range_check",
        ),
        ("ALTER SEQUENCE customer_ids RESTART WITH 7", "cannot be less than MINVALUE"),
        ("SELECT setval('loan_ids', 7)", "out of bounds"),
    ],
)
def test_the_database_keeps_imported_and_issued_ids_apart(
    database: Database, statement: str, said: str
) -> None:
    a_customer(database, TODAY)
    ingest(database, [C1], TODAY)
    ingest(database, [LoanRow(1, 5)], TODAY)
    with pytest.raises(exc.DBAPIError, match=said):
        execute(database, statement)


def test_an_id_that_a_spreadsheet_rounded_is_unknown(database: Database) -> None:
    """A spreadsheet program keeps 15 of 16 digits and replaces the last by 0."""
    customer_id = a_good_customer(database, TODAY)
    shown = int(float(format(float(customer_id), ".15g")))
    assert shown != customer_id
    ingestion = ingest(database, [LoanRow(shown, 5), LoanRow(customer_id, 6)], TODAY)
    assert counts(ingestion) == {"inserted": 1, "rejected": 1}
    assert errors(database, ingestion.ingestion_id) == [(1, "customer_id", "CUSTOMER_UNKNOWN")]


# --- The end of an ingestion ----------------------------------------------------------------------


def test_an_ended_ingestion_has_one_event(three_customers: Database) -> None:
    query = "SELECT count(*) FROM events WHERE kind = 'rows_ingested'"
    assert scalar(three_customers, query) == 1
    header = header_of([LoanRow(1, 1)])
    begin_stream(three_customers, header, TODAY, PRINCIPAL)
    ingest_rows(
        three_customers, header.ingestion_id, [RowBatch(0, columns_of([LoanRow(1, 1)]))], TODAY
    )
    finish_stream(three_customers, header.ingestion_id, TODAY)
    finish_stream(three_customers, header.ingestion_id, TODAY)
    leave_stream(three_customers, header.ingestion_id, TODAY)
    assert scalar(three_customers, query) == 2
    payload = "SELECT payload FROM events WHERE kind = 'rows_ingested' ORDER BY event_seq DESC"
    assert scalar(three_customers, f"{payload} LIMIT 1") == {
        "ingestion_id": str(header.ingestion_id),
        "kind": "LOANS",
        "inserted": 1,
        "updated": 0,
    }
    # An ingestion that stores nothing has no event.
    ingest(three_customers, [LoanRow(1, 1)], TODAY)
    ingest(three_customers, [LoanRow(1, 2)], TODAY, validate_only=True)
    assert scalar(three_customers, query) == 2


def test_a_stream_that_breaks_has_an_event(three_customers: Database) -> None:
    header = header_of([LoanRow(1, 1)])
    begin_stream(three_customers, header, TODAY, PRINCIPAL)
    ingest_rows(
        three_customers, header.ingestion_id, [RowBatch(0, columns_of([LoanRow(1, 1)]))], TODAY
    )
    leave_stream(three_customers, header.ingestion_id, TODAY)
    assert scalar(three_customers, "SELECT count(*) FROM events WHERE kind = 'rows_ingested'") == 2
    assert get_ingestion(three_customers, header.ingestion_id).state == "RUNNING"


def _make_idle(database: Database, ingestion_id: UUID, seconds: int) -> None:
    with database.transaction() as connection:
        statement = """UPDATE ingestions SET last_activity_at = now() - make_interval(secs => :s)
            WHERE ingestion_id = :id"""
        connection.execute(text(statement), {"s": seconds, "id": ingestion_id})


def test_an_abandoned_stream_ends_and_can_be_resumed(three_customers: Database) -> None:
    rows = [LoanRow(1, 1), LoanRow(1, 2)]
    header = header_of(rows)
    begin_stream(three_customers, header, TODAY, PRINCIPAL)
    first = [RowBatch(0, columns_of(rows[:1]))]
    ingest_rows(three_customers, header.ingestion_id, first, TODAY)
    _make_idle(three_customers, header.ingestion_id, 59)
    assert abandon_streams(three_customers, TODAY, 60.0) == 0
    _make_idle(three_customers, header.ingestion_id, 61)
    # Several workers poll at once.
    with ThreadPoolExecutor(4) as workers:
        ended = list(workers.map(lambda _: abandon_streams(three_customers, TODAY, 60.0), range(8)))
    assert sum(ended) == 1
    found = get_ingestion(three_customers, header.ingestion_id)
    assert (found.state, found.error_code) == ("FAILED", "ABANDONED")
    assert (found.committed_offset, found.inserted) == (1, 1)
    resumed = begin_stream(three_customers, header, TODAY, PRINCIPAL)
    assert (resumed.state, resumed.error_code, resumed.finished_at) == ("RUNNING", None, None)
    assert abandon_streams(three_customers, TODAY, 60.0) == 0
    rest = [RowBatch(0, columns_of(rows))]
    ingest_rows(three_customers, header.ingestion_id, rest, TODAY)
    done = finish_stream(three_customers, header.ingestion_id, TODAY)
    assert (done.state, counts(done)) == ("SUCCEEDED", {"inserted": 2})


def test_an_abandoned_stream_continues_with_its_next_batch(three_customers: Database) -> None:
    rows = [LoanRow(1, 1), LoanRow(1, 2)]
    header = header_of(rows)
    begin_stream(three_customers, header, TODAY, PRINCIPAL)
    _make_idle(three_customers, header.ingestion_id, 61)
    assert abandon_streams(three_customers, TODAY, 60.0) == 1
    ingest_rows(three_customers, header.ingestion_id, [RowBatch(0, columns_of(rows))], TODAY)
    assert get_ingestion(three_customers, header.ingestion_id).state == "RUNNING"


def test_a_stream_that_is_storing_rows_is_not_abandoned(three_customers: Database) -> None:
    header = header_of([LoanRow(1, 1)])
    begin_stream(three_customers, header, TODAY, PRINCIPAL)
    _make_idle(three_customers, header.ingestion_id, 61)
    with three_customers.transaction() as connection:
        ingestions.lock(connection, header.ingestion_id)
        assert abandon_streams(three_customers, TODAY, 60.0) == 0


def test_an_upload_is_not_abandoned(three_customers: Database) -> None:
    statement = """UPDATE ingestions SET state = 'RUNNING', source = 'UPLOAD',
        last_activity_at = '1970-01-01'"""
    execute(three_customers, statement)
    assert abandon_streams(three_customers, TODAY, 60.0) == 0


# --- Positions ------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_positions_equal_those_of_the_domain(database: Database, seed: int) -> None:
    """Random loans in any state, at the ends of months, years and February."""
    chance = random.Random(seed)  # noqa: S311 - made-up rows, no secret
    ingest(database, [CustomerRow(n) for n in range(1, 41)], TODAY)
    values = []
    for customer_id in range(1, 39):
        for loan_id in range(1, chance.randint(1, 8)):
            start = date(2018, 1, 1) + timedelta(days=chance.randint(0, 3000))
            tenure = chance.choice([1, 2, 12, 36, 480])
            on_day = start + timedelta(days=chance.randint(0, 900))
            due = installments_due_by(start, tenure, on_day)
            settled = chance.choice([0, due, tenure, chance.randint(0, tenure)])
            values.append(
                {
                    "customer_id": customer_id,
                    "loan_id": loan_id,
                    "principal": chance.randint(1, 10**11),
                    "tenure": tenure,
                    "installment": chance.randint(1, 10**9),
                    "start": start,
                    "end": add_months(start, tenure),
                    "settled": settled,
                    "on_time": chance.randint(0, settled),
                    "closed_on": on_day if settled == tenure else None,
                }
            )
    with database.transaction() as connection:
        connection.execute(
            text(
                """INSERT INTO loans (customer_id, loan_id, principal_paise, annual_rate_bps,
                    tenure_months, installment_paise, start_date, end_date, imported,
                    settled_at_import, emis_paid_on_time, installments_settled, closed_on)
                VALUES (:customer_id, :loan_id, :principal, 1000, :tenure, :installment, :start,
                    :end, true, :settled, :on_time, :settled, :closed_on)"""
            ),
            values,
        )
    days = [
        date(2024, 2, 28),
        date(2024, 2, 29),
        date(2025, 2, 28),
        date(2025, 1, 1),
        date(2025, 4, 30),
        date(2025, 12, 31),
        date(2019, 6, 15),
        *(date(2018, 1, 1) + timedelta(days=chance.randint(0, 4000)) for _ in range(5)),
    ]
    for day in days:
        with database.transaction() as connection:
            positions.refresh(connection, range(1, 45), day)
        assert_positions_are_right(database, range(1, 41), day)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_positions_with_added_loans_equal_those_of_the_domain(
    database: Database, seed: int
) -> None:
    """Repeated imports, on days on which positions are valid or expired."""
    chance = random.Random(seed)  # noqa: S311 - made-up rows, no secret
    day = date(2024, 1, 28)
    ingest(database, [CustomerRow(n) for n in range(1, 21)], on(day))
    for round_number in range(8):
        rows: list[Row] = []
        for loan_id in range(25):
            tenure = chance.choice([1, 2, 12, 36, 480])
            start = day - timedelta(days=chance.choice([0, 1, 30, chance.randint(0, 3000)]))
            rows.append(
                LoanRow(
                    chance.randint(1, 20),
                    100 * round_number + loan_id + 1,
                    rupees=chance.randint(1, 1_000_000_000),
                    tenure_months=tenure,
                    emis_paid_on_time=chance.choice([0, tenure, chance.randint(0, tenure)]),
                    start=start,
                )
            )
        ingestion = ingest(database, rows, on(day), batch_rows=chance.choice([3, 25]))
        assert counts(ingestion) == {"inserted": 25}
        touched = {row.customer_id for row in rows}
        assert_positions_are_right(database, touched, day)
        day += timedelta(days=chance.choice([0, 0, 1, 2, 15, 31, 400]))


def test_a_refresh_raises_the_version_of_these_customers_only(three_customers: Database) -> None:
    with three_customers.transaction() as connection:
        positions.refresh(connection, [1, 3], TODAY.today)
    with three_customers.autocommit() as connection:
        versions = connection.execute(
            text("SELECT version FROM customers ORDER BY customer_id")
        ).scalars()
        assert list(versions) == [2, 1, 2]


def test_fingerprints_distinguish_each_fact() -> None:
    from credit_service.ingestion.validation import validate_columns

    rows = [
        LoanRow(1, 1),
        LoanRow(1, 1, rupees=100_001),
        LoanRow(1, 1, tenure_months=13),
        LoanRow(1, 1, rate="12.01"),
        LoanRow(1, 1, installment_rupees=8_886),
        LoanRow(1, 1, emis_paid_on_time=1),
        LoanRow(1, 1, start=date(2024, 1, 30)),
        LoanRow(2, 9),
    ]
    facts = validate_columns(columns_of(rows), 0, TODAY.today).frame
    prints = merge_loans._fingerprints(arrays_of(facts)).tolist()
    assert len(set(prints[:7])) == 7
    # The key is not part of it.
    assert prints[7] == prints[0]


@pytest.mark.parametrize("mode", ["SKIP", "UPDATE"])
def test_no_import_uses_an_issued_id_or_moves_a_sequence(database: Database, mode: str) -> None:
    """The attack imports ids at the bound and above, to occupy or reset the next issued ids."""
    customer_id = a_good_customer(database, TODAY)
    ask = CreateLoan(uuid4(), customer_id, Ask(LAKH, 1200, 12))
    booked = create_loan(database, ask, TODAY, PRINCIPAL).loan_id
    assert booked is not None
    ingest(database, [CustomerRow(1), CustomerRow(2)], TODAY)
    sequences = """SELECT array[c.last_value::text, c.is_called::text, l.last_value::text,
        l.is_called::text] FROM customer_ids c, loan_ids l"""
    before = scalar(database, sequences)
    beyond = [10**15, FIRST_ISSUED_ID, booked, customer_id, customer_id + ISSUED_ID_STEP, 2**53 - 1]
    people: list[Row] = [CustomerRow(n, f"+9191000005{i:02}") for i, n in enumerate(beyond)]
    loans: list[Row] = [*(LoanRow(1, n) for n in beyond), LoanRow(customer_id, booked, rupees=7)]
    for rows in (people, loans):
        done = ingest(database, rows, TODAY, on_existing=mode)
        assert counts(done) == {"rejected": len(rows)}
    # The largest importable ids move no sequence either.
    largest: list[Row] = [CustomerRow(MAX_IMPORTED_ID, "+919100000099")]
    assert counts(ingest(database, largest, TODAY, on_existing=mode)) == {"inserted": 1}
    assert counts(ingest(database, [LoanRow(1, MAX_IMPORTED_ID)], TODAY)) == {"inserted": 1}
    assert scalar(database, sequences) == before
    for sequence in ("customer_ids", "loan_ids"):
        with pytest.raises(exc.DBAPIError, match="out of bounds"):
            execute(database, f"SELECT setval('{sequence}', {MAX_IMPORTED_ID})")


def test_an_import_of_customers_waits_for_concurrent_writers(database: Database) -> None:
    """Without the lock it would compare with facts that another transaction is replacing."""
    ingest(database, [C1], TODAY)
    # On a cluster the wait is on a customer's node.
    waits = (
        "SELECT count(*) FROM citus_lock_waits"
        if citus.url()
        else """SELECT count(*) FROM pg_stat_activity
            WHERE wait_event_type = 'Lock' AND datname = current_database()"""
    )
    with ThreadPoolExecutor(1) as pool:
        with database.transaction() as connection:
            connection.execute(text("UPDATE customers SET age = 31, version = version + 1"))
            imported = pool.submit(ingest, database, [C1], TODAY, on_existing="UPDATE")
            until = time.monotonic() + 10
            while not imported.done() and time.monotonic() < until:
                with database.autocommit() as other:
                    if other.execute(text(waits)).scalar_one():
                        break
                time.sleep(0.01)
        assert counts(imported.result()) == {"updated": 1}
    assert scalar(database, "SELECT age FROM customers") == 30
    assert scalar(database, "SELECT old_value || '-' || new_value FROM fact_changes") == "31-30"
