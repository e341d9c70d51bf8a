"""All facts of a customer, for what is computed as of an earlier day."""

from datetime import date, datetime
from itertools import groupby
from typing import Any
from zoneinfo import ZoneInfo

from sqlalchemy import Connection, text

from credit_service.domain.as_of import CustomerHistory, FactChange, HoldHistory, LoanHistory
from credit_service.domain.positions import Hold
from credit_service.storage import customers, loans, payments
from credit_service.storage.database import LostRaceError
from credit_service.storage.statements import Statement

_CUSTOMER = Statement(
    f"""SELECT {customers.COLUMNS},
        (SELECT json_agg(json_build_array(f.fact, f.old_value, f.changed_at) ORDER BY f.event_seq)
        FROM fact_changes f WHERE f.customer_id = :customer_id AND f.loan_id IS NULL),
        (SELECT json_agg(json_build_array(o.offer_id, o.principal_paise, o.installment_paise,
            o.last_day, o.created_on, o.state, o.disbursed_on, o.ended_at) ORDER BY o.offer_id)
        FROM loan_offers o WHERE o.customer_id = :customer_id)
    FROM customers c WHERE c.customer_id = :customer_id"""
)
_LOANS = Statement(
    f"""SELECT c.version, l.ingestion_id, {loans.COLUMNS}, {payments.COLUMNS}
    FROM customers c
    LEFT JOIN loans l ON l.customer_id = c.customer_id
    LEFT JOIN payments p ON p.customer_id = l.customer_id AND p.loan_id = l.loan_id
    {payments.WITH_REVERSALS}
    WHERE c.customer_id = :customer_id
    ORDER BY l.loan_id, p.payment_number"""
)
_IMPORT_DAYS = text(
    "SELECT ingestion_id, import_day FROM ingestions WHERE ingestion_id = ANY(:ingestion_ids)"
)


def read(connection: Connection, customer_id: int, zone: ZoneInfo) -> CustomerHistory | None:
    """Return all facts of the customer; None for an unknown one. Days are those of `zone`.

    Raises:
        LostRaceError: a concurrent request changed the customer.
    """
    row = _CUSTOMER.row(connection, {"customer_id": customer_id})
    if row is None:
        return None
    customer = customers.view(row).customer
    changes, offers = row[customers.COLUMN_COUNT :]
    rows = _LOANS.rows(connection, {"customer_id": customer_id})
    if {each[0] for each in rows} != {customer.version}:
        raise LostRaceError("version")
    return CustomerHistory(
        customer=customer,
        stored_on=customer.created_at.astimezone(zone).date(),
        loans=_loans(connection, [row[1:] for row in rows if row[_LOAN_ID_AT] is not None]),
        holds=[_hold(*each, zone=zone) for each in offers or ()],
        changes=[
            FactChange(fact, old_value, _day(changed_at, zone))
            for fact, old_value, changed_at in changes or ()
        ],
    )


_LOAN_ID_AT = 3


def _loans(connection: Connection, rows: list[Any]) -> list[LoanHistory]:
    """Return the loans with their payments from rows without the version, in order of loans."""
    ingestion_ids = {row[0] for row in rows} - {None}
    imported_on: dict[Any, date] = {}
    if ingestion_ids:
        found = connection.execute(_IMPORT_DAYS, {"ingestion_ids": list(ingestion_ids)})
        imported_on = {row[0]: row[1] for row in found}
    histories = []
    for _, of_loan in groupby(rows, key=lambda row: row[_LOAN_ID_AT - 1]):
        each = list(of_loan)
        history = payments.history_from([row[1:] for row in each])
        facts = tuple(history.facts())
        histories.append(LoanHistory(history.loan, facts, imported_on.get(each[0][0])))
    return histories


def _hold(
    offer_id: int,
    principal: int,
    installment: int,
    last_day: str,
    created_on: str,
    state: str,
    disbursed_on: str | None,
    ended_at: str | None,
    *,
    zone: ZoneInfo,
) -> HoldHistory:
    """Return what an offer held: until it was withdrawn, or until the start of its loan."""
    released_on = None
    if state == "ACCEPTED" and disbursed_on is not None:
        released_on = date.fromisoformat(disbursed_on)
    elif state == "WITHDRAWN" and ended_at is not None:
        released_on = _day(ended_at, zone)
    hold = Hold(offer_id, principal, installment, date.fromisoformat(last_day))
    return HoldHistory(hold, date.fromisoformat(created_on), released_on)


def _day(instant: str, zone: ZoneInfo) -> date:
    return datetime.fromisoformat(instant).astimezone(zone).date()
