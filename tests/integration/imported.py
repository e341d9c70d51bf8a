"""Rows to ingest, and queries of their results."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import date
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import text

from credit_service.clock import Moment
from credit_service.domain.calendar import add_months
from credit_service.domain.positions import position_from_loans
from credit_service.ingestion.streams import begin_stream, finish_stream, ingest_rows
from credit_service.ingestion.wire import Columns, DateColumn, MoneyColumn, RowBatch
from credit_service.queries.ingestions import list_row_errors
from credit_service.storage import arrears, customers, loans
from credit_service.storage.database import Database
from credit_service.storage.ingestions import Header, Ingestion

PRINCIPAL = "tests"


@dataclass(frozen=True)
class LoanRow:
    """A loan of a source; amounts in rupees."""

    customer_id: int
    loan_id: int
    rupees: int = 100_000
    tenure_months: int = 12
    rate: str = "12"
    installment_rupees: int = 8_885
    emis_paid_on_time: int = 0
    start: date = date(2024, 1, 31)
    installments_settled: int | None = None


@dataclass(frozen=True)
class CustomerRow:
    """A customer of a source; amounts in rupees, no limit if None."""

    customer_id: int
    phone: str = ""
    first_name: str = "Asha"
    last_name: str = "Rao"
    age: int = 30
    income_rupees: int = 50_000
    limit_rupees: int | None = None

    @property
    def phone_number(self) -> str:
        """The phone number of a row, unique per customer."""
        return self.phone or f"+91{9_100_000_000 + self.customer_id}"


Row = LoanRow | CustomerRow


def columns_of(rows: Sequence[Any]) -> Columns:
    """The rows as the server passes them on."""
    if isinstance(rows[0], LoanRow):
        ends = [add_months(row.start, row.tenure_months) for row in rows]
        return Columns(
            "LOANS",
            {
                "customer_id": [row.customer_id for row in rows],
                "loan_id": [row.loan_id for row in rows],
                "loan_amount": _money([row.rupees for row in rows]),
                "tenure_months": [row.tenure_months for row in rows],
                "interest_rate": [row.rate for row in rows],
                "monthly_installment": _money([row.installment_rupees for row in rows]),
                "emis_paid_on_time": [row.emis_paid_on_time for row in rows],
                "start_date": _dates([row.start for row in rows]),
                "end_date": _dates(ends),
                "installments_settled": [row.installments_settled for row in rows],
            },
            [None] * len(rows),
        )
    return Columns(
        "CUSTOMERS",
        {
            "customer_id": [row.customer_id for row in rows],
            "first_name": [row.first_name for row in rows],
            "last_name": [row.last_name for row in rows],
            "age": [row.age for row in rows],
            "phone_number": [row.phone_number for row in rows],
            "monthly_income": _money([row.income_rupees for row in rows]),
            "approved_limit": _money([row.limit_rupees for row in rows]),
        },
        [None] * len(rows),
    )


def _money(rupees: Sequence[int | None]) -> MoneyColumn:
    missing = [index for index, amount in enumerate(rupees) if amount is None]
    return MoneyColumn(
        [amount or 0 for amount in rupees], [0] * len(rupees), ["INR"] * len(rupees), missing
    )


def _dates(days: Sequence[date]) -> DateColumn:
    return DateColumn([d.year for d in days], [d.month for d in days], [d.day for d in days])


def header_of(rows: Sequence[Row], **options: Any) -> Header:
    """A header for these rows with a new id."""
    kind = "LOANS" if isinstance(rows[0], LoanRow) else "CUSTOMERS"
    return replace(Header(uuid4(), kind), **options)  # type: ignore[arg-type] # one of the two


def ingest(
    database: Database,
    rows: Sequence[Row],
    moment: Moment,
    *,
    batch_rows: int = 1_000,
    **options: Any,
) -> Ingestion:
    """Stream the rows from the first to the last."""
    header = header_of(rows, **options)
    begin_stream(database, header, moment, PRINCIPAL)
    for offset in range(0, len(rows), batch_rows):
        columns = columns_of(rows[offset : offset + batch_rows])
        ingest_rows(database, header.ingestion_id, [RowBatch(offset, columns)], moment)
    return finish_stream(database, header.ingestion_id, moment)


def counts(ingestion: Ingestion) -> dict[str, int]:
    """The counts above 0; checks that they add up."""
    names = ("inserted", "updated", "unchanged", "skipped", "rejected")
    found = {name: getattr(ingestion, name) for name in names if getattr(ingestion, name)}
    assert sum(found.values()) == ingestion.rows_read
    return found


def errors(database: Database, ingestion_id: UUID) -> list[tuple[int, str, str]]:
    """(row number, column, code) of the row errors."""
    found = list_row_errors(database, ingestion_id, None, 100_000)
    assert all(error.message and error.expected for error in found)
    return [(error.row_number, error.column, error.code) for error in found]


def scalar(database: Database, statement: str) -> Any:
    """The one value of a query."""
    with database.autocommit() as connection:
        return connection.execute(text(statement)).scalar_one()


def execute(database: Database, statement: str) -> None:
    """Run a statement."""
    with database.transaction() as connection:
        connection.execute(text(statement))


def remove_customers(database: Database) -> None:
    """Delete all data. Only the tables' owner can delete the record of changed facts."""
    _switch_triggers(database, "DISABLE")
    for table in ("fact_changes", "events", "loans", "customers", "phone_numbers"):
        execute(database, f"DELETE FROM {table}")  # noqa: S608 - names of ours
    _switch_triggers(database, "ENABLE")


def _switch_triggers(database: Database, switch: str) -> None:
    with database.transaction() as connection:
        # Citus requires it, as for creating them; elsewhere it has no effect.
        connection.execute(text("SET LOCAL citus.enable_unsafe_triggers = on"))
        connection.execute(text(f"ALTER TABLE fact_changes {switch} TRIGGER USER"))


def snapshot(database: Database) -> dict[str, list[tuple[Any, ...]]]:
    """All data that ingestion writes about customers and loans, except writer and versions, and the
    changed facts."""
    with database.autocommit() as connection:
        return {
            table: [tuple(row) for row in connection.execute(text(f"{statement} ORDER BY 1, 2, 3"))]
            for table, statement in {
                "customers": """SELECT customer_id, first_name, last_name, age,
                    monthly_income_paise, phone_number, approved_limit_paise, imported,
                    current_debt_paise, current_installments_paise, loan_count,
                    total_principal_paise, emis_on_time, emis_due, current_year_loans,
                    position_as_of, position_valid_until FROM customers""",
                "loans": """SELECT customer_id, loan_id, principal_paise, annual_rate_bps,
                    tenure_months, installment_paise, start_date, end_date, imported,
                    settled_at_import, emis_paid_on_time, installments_settled, paid_paise,
                    closed_on, ingestion_row FROM loans""",
                "fact_changes": """SELECT customer_id, coalesce(loan_id, 0), fact, old_value,
                    new_value FROM fact_changes""",
            }.items()
        }


def assert_positions_are_right(database: Database, customer_ids: Iterable[int], day: date) -> None:
    """Assert that each stored position equals the domain's computation from the loans."""
    with database.autocommit() as connection:
        for customer_id in customer_ids:
            view = customers.find(connection, customer_id)
            assert view is not None
            stored = view.position
            assert stored == position_from_loans(
                customer_id,
                stored.version,
                stored.monthly_income_paise,
                stored.approved_limit_paise,
                loans.all_of(connection, customer_id),
                day,
                arrears=arrears.compute(connection, [customer_id], day)[customer_id],
            )
