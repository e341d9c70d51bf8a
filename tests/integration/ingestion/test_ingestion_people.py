"""Rows of other people under a stored id are rejected, and skipped rows are listed."""

from datetime import date

import pytest
from sqlalchemy import text

from credit_service.ingestion import batches
from credit_service.queries.ingestions import list_row_errors
from credit_service.storage.database import Database
from credit_service.storage.ingestions import Ingestion
from credit_service.storage.row_errors import RowOutcome, StoredRowError
from tests.integration.imported import CustomerRow, LoanRow, counts, errors, ingest, scalar
from tests.integration.portfolio import a_customer, an_older_customer, on

TODAY = on(date(2025, 6, 15))
STORED = CustomerRow(1, phone="+919100000001", first_name="Asha", last_name="Rao")
STRANGER = CustomerRow(1, phone="+919200000001", first_name="Vikram", last_name="Singh")


def listed(database: Database, ingestion: Ingestion, *outcomes: RowOutcome) -> list[StoredRowError]:
    return list_row_errors(database, ingestion.ingestion_id, None, 1_000, outcomes)


# --- People ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("on_existing", ["SKIP", "UPDATE"])
def test_another_person_under_a_stored_id_is_rejected_and_so_are_their_loans(
    database: Database, on_existing: str
) -> None:
    ingest(database, [STORED], TODAY)
    refused = ingest(
        database, [STRANGER, CustomerRow(2)], TODAY, on_existing=on_existing, batch_rows=1
    )
    assert counts(refused) == {"inserted": 1, "rejected": 1}
    [error] = listed(database, refused, "REJECTED", "SKIPPED")
    assert (error.row_number, error.column, error.code) == (1, "customer_id", "CUSTOMER_MISMATCH")
    texts = f"{error.found} {error.expected} {error.message}"
    assert not any(each in texts for each in ("Asha", "Rao", "9100000001", "Vikram", "9200000001"))

    loans = ingest(
        database, [LoanRow(1, 5), LoanRow(2, 6)], TODAY, on_existing=on_existing, batch_rows=1
    )
    assert counts(loans) == {"inserted": 1, "rejected": 1}
    [error] = listed(database, loans, "REJECTED")
    assert (error.row_number, error.column, error.code) == (1, "customer_id", "CUSTOMER_CONTESTED")
    assert str(refused.ingestion_id) in error.message
    assert scalar(database, "SELECT count(*) FROM loans WHERE customer_id = 1") == 0
    assert scalar(database, "SELECT total_principal_paise FROM customers WHERE customer_id=1") == 0

    # A row with the stored name and a new phone number ends the dispute.
    named = CustomerRow(1, phone="+919300000001", first_name="ASHA ", last_name="rao")
    assert set(counts(ingest(database, [named], TODAY))) == {"skipped"}
    assert counts(ingest(database, [LoanRow(1, 5)], TODAY)) == {"inserted": 1}


@pytest.mark.parametrize("batch_rows", [1, 2, 3])
def test_the_last_row_of_an_id_decides_whether_it_is_contested(
    database: Database, batch_rows: int
) -> None:
    ingest(database, [STORED], TODAY)
    ingest(database, [STRANGER, STORED], TODAY, batch_rows=batch_rows)
    assert scalar(database, "SELECT count(*) FROM contested_customers") == 0
    ingest(database, [STRANGER, STRANGER, CustomerRow(3)], TODAY, batch_rows=batch_rows)
    assert scalar(database, "SELECT customer_id FROM contested_customers") == 1


@pytest.mark.parametrize(
    "same",
    [
        CustomerRow(1, phone="+919200000001", first_name="asha", last_name="RAO"),
        CustomerRow(1, phone="+919200000001", first_name="Asha  ", last_name="Rao"),
        CustomerRow(1, phone="+919100000001", first_name="Asha", last_name="Rao-Singh"),
    ],
)
def test_the_same_name_or_phone_number_means_the_same_person(
    database: Database, same: CustomerRow
) -> None:
    ingest(database, [STORED], TODAY)
    assert counts(ingest(database, [same], TODAY, on_existing="UPDATE")) == {"updated": 1}
    assert scalar(database, "SELECT count(*) FROM contested_customers") == 0


def test_a_dry_run_does_not_change_contested_ids(database: Database) -> None:
    ingest(database, [STORED], TODAY)
    tried = ingest(database, [STRANGER], TODAY, validate_only=True)
    assert errors(database, tried.ingestion_id) == [(1, "customer_id", "CUSTOMER_MISMATCH")]
    assert counts(ingest(database, [LoanRow(1, 5)], TODAY)) == {"inserted": 1}
    ingest(database, [STRANGER], TODAY)
    ingest(database, [STORED], TODAY, validate_only=True)
    tried = ingest(database, [LoanRow(1, 6)], TODAY, validate_only=True)
    assert errors(database, tried.ingestion_id) == [(1, "customer_id", "CUSTOMER_CONTESTED")]


@pytest.mark.parametrize("dry", [False, True])
def test_loans_of_a_registered_customer_with_a_low_id_are_rejected(
    database: Database, dry: bool
) -> None:
    an_older_customer(database, TODAY)
    newer = a_customer(database, TODAY)
    rows = [LoanRow(7, 5), LoanRow(newer, 6)]
    ingestion = ingest(database, rows, TODAY, validate_only=dry)
    assert counts(ingestion) == {"inserted": 1, "rejected": 1}
    assert errors(database, ingestion.ingestion_id) == [
        (1, "customer_id", "LOAN_OF_REGISTERED_CUSTOMER")
    ]


def test_a_registration_before_the_first_import_uses_no_id_of_the_source(
    database: Database,
) -> None:
    mine = a_customer(database, TODAY)
    assert counts(ingest(database, [STORED, CustomerRow(2)], TODAY)) == {"inserted": 2}
    assert counts(ingest(database, [LoanRow(1, 5)], TODAY)) == {"inserted": 1}
    with database.autocommit() as connection:
        owed = connection.execute(
            text("SELECT total_principal_paise FROM customers WHERE customer_id = :id"),
            {"id": mine},
        ).scalar_one()
    assert owed == 0


# --- Skipped rows ---------------------------------------------------------------------------------


@pytest.mark.parametrize("dry", [False, True])
@pytest.mark.parametrize("batch_rows", [1, 2, 100])
def test_each_skipped_loan_is_listed_with_its_stored_values(
    database: Database, batch_rows: int, dry: bool
) -> None:
    ingest(database, [CustomerRow(1)], TODAY)
    ingest(database, [LoanRow(1, 5), LoanRow(1, 6)], TODAY)
    rows = [
        LoanRow(1, 5, rupees=70_000, rate="9.5"),
        LoanRow(1, 6),
        LoanRow(99, 7),
        # A repeat counts as unchanged.
        LoanRow(1, 5, rupees=70_000, rate="9.5"),
        LoanRow(1, 6, start=date(2024, 2, 29)),
        LoanRow(1, 8),
    ]
    ingestion = ingest(database, rows, TODAY, batch_rows=batch_rows, validate_only=dry)
    skipped = listed(database, ingestion, "SKIPPED")
    assert ingestion.skipped == len({each.row_offset for each in skipped}) == len(skipped) == 1
    [one] = skipped
    assert (one.row_number, one.column, one.code) == (1, "", "DIFFERS_FROM_STORED")
    assert one.found == "loan_amount 70000.00; interest_rate 9.50"
    assert one.expected == "loan_amount 100000.00; interest_rate 12.00"
    assert "loan 5 of customer 1" in one.message
    both = listed(database, ingestion, "REJECTED", "SKIPPED")
    assert [(each.row_number, each.outcome) for each in both] == [
        (1, "SKIPPED"),
        (3, "REJECTED"),
        (5, "REJECTED"),
    ]
    assert {
        each.outcome for each in list_row_errors(database, ingestion.ingestion_id, None, 9)
    } == {"REJECTED"}


def test_each_skipped_customer_is_listed_with_the_stored_values(database: Database) -> None:
    ingest(database, [STORED, CustomerRow(2)], TODAY)
    rows = [
        CustomerRow(1, phone=STORED.phone, age=31, limit_rupees=5),
        CustomerRow(2, phone="+919200000002"),
    ]
    ingestion = ingest(database, rows, TODAY)
    assert counts(ingestion) == {"skipped": 2}
    found = listed(database, ingestion, "SKIPPED")
    assert [(each.row_number, each.column, each.found, each.expected) for each in found] == [
        (1, "", "age 31; approved_limit 5.00", "age 30; approved_limit 1800000.00"),
        (2, "phone_number", "phone_number +919200000002", "phone_number +919100000002"),
    ]


def test_stored_skipped_rows_are_bounded_and_all_are_counted(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "MAX_REPORTED_ROWS", 3)
    ingest(database, [CustomerRow(1)], TODAY)
    ingest(database, [LoanRow(1, n) for n in range(1, 10)], TODAY)
    rows = [LoanRow(1, n, rupees=5) for n in range(1, 10)]
    ingestion = ingest(database, rows, TODAY, batch_rows=2)
    assert counts(ingestion) == {"skipped": 9}
    assert len(listed(database, ingestion, "SKIPPED")) == 4
