"""Stored loans."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import date
from typing import Any

from sqlalchemy import Connection

from credit_service.domain.documents import field_names, from_document
from credit_service.domain.loans import Loan, LoanState, ScheduleRevision
from credit_service.storage import charges
from credit_service.storage.statements import Statement

COLUMNS = """l.customer_id, l.loan_id, l.principal_paise, l.annual_rate_bps, l.tenure_months,
    l.installment_paise, l.start_date, l.end_date, l.imported, l.decision_id, l.settled_at_import,
    l.emis_paid_on_time, l.installments_settled, l.paid_paise, l.last_paid_on, l.closed_on,
    l.on_time_at_import, l.agreed_tenure_months, l.agreed_installment_paise, l.revised_after,
    l.revised_balance_paise, l.revised_next_interest_paise, l.revised_paid_paise, l.charges,
    l.arrears_imported"""
"""The columns that `loan` reads, in its order, of a table aliased l."""

COLUMN_COUNT = 25
_REVISION_AT, _CHARGES_AT, _ARREARS_IMPORTED_AT = 17, 23, 24

FIRST_UNPAID_DUE = """(l.start_date + make_interval(months =>
    CASE WHEN l.installment_paise > 0 THEN l.installments_settled + 1 ELSE l.tenure_months END
    ))::date"""
"""Due date of the first unpaid installment of an ACTIVE loan of a table aliased l, as
`domain.delinquency.first_unpaid_due` computes it. An index has it."""


def loan(row: Any) -> Loan:
    """Return the loan from a row that starts with COLUMNS."""
    if row[_REVISION_AT] is None:
        found = Loan(*row[:_REVISION_AT])
    else:
        revision = ScheduleRevision(*row[_REVISION_AT:_CHARGES_AT])
        found = Loan(*(*row[:_REVISION_AT], revision))
    stored, arrears_imported = row[_CHARGES_AT], row[_ARREARS_IMPORTED_AT]
    if not stored and not arrears_imported:
        return found
    return replace(found, charges=charges.read(stored), arrears_imported=arrears_imported)


_LATER_FIELDS = frozenset({"on_time_at_import", "revision", "charges", "arrears_imported"})
"""Fields that release 0.1.0 does not have. Of a loan as booked, only the charges have a value."""
_EVENT_FIELDS = tuple([name for name in field_names(Loan) if name not in _LATER_FIELDS])


def event_fields(booked: Loan) -> dict[str, Any]:
    """Return a loan as booked, as the event loan_created has it. (dataclasses.asdict copies each
    field and takes ten times as long.)"""
    fields = {name: getattr(booked, name) for name in _EVENT_FIELDS}
    if booked.charges:
        fields["charges"] = charges.documents(booked.charges)
    return fields


_EVENT_DATES = ("start_date", "end_date", "last_paid_on", "closed_on")


def loan_of_event(document: Mapping[str, Any]) -> Loan:
    """Return the loan of `event_fields`. Fields of a later release are ignored."""
    dates = {
        name: date.fromisoformat(document[name])
        for name in _EVENT_DATES
        if document[name] is not None
    }
    return from_document(Loan, document, charges=charges.read(document.get("charges")), **dates)


_OF_LOAN = (
    "tenure_months",
    "installment_paise",
    "end_date",
    "emis_paid_on_time",
    "installments_settled",
    "paid_paise",
    "last_paid_on",
    "closed_on",
    "on_time_at_import",
)
_OF_REVISION = {
    "agreed_tenure_months": "agreed_tenure_months",
    "agreed_installment_paise": "agreed_installment_paise",
    "revised_after": "after_number",
    "revised_balance_paise": "balance_paise",
    "revised_next_interest_paise": "next_interest_paise",
    "revised_paid_paise": "paid_paise",
}
DERIVED_COLUMNS = (*_OF_LOAN, *_OF_REVISION)
"""The columns that follow from the agreed terms and the payments."""


def derived_values(loan: Loan) -> dict[str, Any]:
    """Return the values of DERIVED_COLUMNS, by column."""
    revision = loan.revision
    values: dict[str, Any] = {name: getattr(loan, name) for name in _OF_LOAN}
    for column, name in _OF_REVISION.items():
        values[column] = None if revision is None else getattr(revision, name)
    return values


_ONE = Statement(
    f"""SELECT {COLUMNS} FROM loans l
    WHERE l.customer_id = :customer_id AND l.loan_id = :loan_id"""
)
_ALL = Statement(
    f"SELECT {COLUMNS} FROM loans l WHERE l.customer_id = :customer_id ORDER BY l.loan_id"
)


def find(connection: Connection, customer_id: int, loan_id: int) -> Loan | None:
    """Return the loan with that key."""
    row = _ONE.row(connection, {"customer_id": customer_id, "loan_id": loan_id})
    return None if row is None else loan(row)


def all_of(connection: Connection, customer_id: int) -> list[Loan]:
    """Return all loans of the customer, including closed ones, in order of id."""
    return [loan(row) for row in _ALL.rows(connection, {"customer_id": customer_id})]


_STATE_CONDITIONS = {
    None: "",
    LoanState.ACTIVE: "AND l.closed_on IS NULL",
    LoanState.CLOSED: "AND l.closed_on IS NOT NULL",
}
_PAGES = {
    state: Statement(
        f"""SELECT {COLUMNS} FROM loans l
        WHERE l.customer_id = :customer_id AND l.loan_id > :after {condition}
        ORDER BY l.loan_id LIMIT :limit"""
    )
    for state, condition in _STATE_CONDITIONS.items()
}


def page(
    connection: Connection, customer_id: int, state: LoanState | None, after: int, limit: int
) -> list[Loan]:
    """Return the customer's loans with ids above `after`, in order of id, at most `limit`."""
    rows = _PAGES[state].rows(
        connection, {"customer_id": customer_id, "after": after, "limit": limit}
    )
    return [loan(row) for row in rows]


_CORRECT = Statement(
    f"""UPDATE loans SET {", ".join(f"{name} = :{name}" for name in DERIVED_COLUMNS)}
    WHERE customer_id = :customer_id AND loan_id = :loan_id"""
)


def correct(connection: Connection, loan: Loan) -> None:
    """Store what follows from the loan's payments. The customer is locked."""
    key = {"customer_id": loan.customer_id, "loan_id": loan.loan_id}
    _CORRECT.run(connection, derived_values(loan) | key)
