"""Loan offers: looked up, ended by one statement, and searched for the expired ones.

`bookings` stores new ones. Every change of an offer raises its customer's version in the same
statement, so that the version which a writer read guards the offers too.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any
from uuid import UUID

from sqlalchemy import Connection

from credit_service.clock import Moment
from credit_service.domain.charges import Charge
from credit_service.domain.loans import Loan
from credit_service.domain.offers import LoanOffer, OfferState
from credit_service.domain.positions import CreditPosition
from credit_service.observability import tracing
from credit_service.storage import charges, cluster, customers, requests, scorecards
from credit_service.storage.statements import Statement

COLUMNS = """o.customer_id, o.offer_id, o.decision_id, o.principal_paise, o.annual_rate_bps,
    o.tenure_months, o.installment_paise, o.charges, o.created_at, o.created_on, o.last_day,
    o.principal, o.state, o.ended_at, o.loan_id, o.accepted_paise, o.disbursed_on, o.reason"""
"""The fields of a LoanOffer, in its order, of a table aliased o."""

COLUMN_COUNT = 18
_CHARGES, _STATE = 7, 12


def _offer(row: Any) -> LoanOffer:
    fields = list(row[:COLUMN_COUNT])
    fields[_CHARGES] = charges.read(fields[_CHARGES])
    fields[_STATE] = OfferState(fields[_STATE])
    return LoanOffer(*fields)


def values(offer: LoanOffer) -> dict[str, object]:
    """Return the values of the columns of a new offer."""
    return {
        "offer_id": offer.offer_id,
        "principal_paise": offer.principal_paise,
        "annual_rate_bps": offer.annual_rate_bps,
        "tenure_months": offer.tenure_months,
        "installment_paise": offer.installment_paise,
        "charges": json.dumps(charges.documents(offer.charges)),
        "last_day": offer.last_day,
    }


def event_fields(offer: LoanOffer) -> dict[str, object]:
    """Return a new offer as the event loan_offer_created has it: without the caller."""
    return {
        "offer_id": offer.offer_id,
        "decision_id": offer.decision_id,
        "principal_paise": offer.principal_paise,
        "annual_rate_bps": offer.annual_rate_bps,
        "tenure_months": offer.tenure_months,
        "installment_paise": offer.installment_paise,
        "charges": charges.documents(offer.charges),
        "created_on": offer.created_on,
        "last_day": offer.last_day,
    }


def request_json(requested: Sequence[Charge], last_day: date | None) -> str:
    """Return what a request for an offer, or for a loan with charges, has besides its terms, as
    JSON."""
    document = {
        "charges": charges.documents(requested),
        "last_day": None if last_day is None else last_day.isoformat(),
    }
    return json.dumps(document)


def read_request(text: str | None) -> tuple[tuple[Charge, ...], date | None]:
    """Return the charges and the last day of `request_json`; neither for None, a request for a loan
    without charges."""
    if text is None:
        return (), None
    document = json.loads(text)
    last_day = document["last_day"]
    return (
        charges.read(document["charges"]),
        None if last_day is None else date.fromisoformat(last_day),
    )


def offer_of_event(customer_id: int, document: dict[str, Any], created_at: Any) -> LoanOffer:
    """Return the offer of `event_fields`, as created. Fields of a later release are ignored."""
    return LoanOffer(
        customer_id=customer_id,
        offer_id=document["offer_id"],
        decision_id=document["decision_id"],
        principal_paise=document["principal_paise"],
        annual_rate_bps=document["annual_rate_bps"],
        tenure_months=document["tenure_months"],
        installment_paise=document["installment_paise"],
        charges=charges.read(document["charges"]),
        created_at=created_at,
        created_on=date.fromisoformat(document["created_on"]),
        last_day=date.fromisoformat(document["last_day"]),
        principal="",
    )


_ONE = Statement(
    f"""SELECT {COLUMNS} FROM loan_offers o
    WHERE o.customer_id = :customer_id AND o.offer_id = :offer_id"""
)
_BY_ID = Statement(f"SELECT {COLUMNS} FROM loan_offers o WHERE o.offer_id = :offer_id")


def get(connection: Connection, customer_id: int, offer_id: int) -> LoanOffer:
    """Return the offer with that key, which must exist."""
    return _offer(_ONE.row(connection, {"customer_id": customer_id, "offer_id": offer_id}))


def find(connection: Connection, offer_id: int) -> LoanOffer | None:
    """Return the offer with that id; ids are unique across customers."""
    row = _BY_ID.row(connection, {"offer_id": offer_id})
    return None if row is None else _offer(row)


_PAGE = Statement(
    f"""SELECT {COLUMNS} FROM loan_offers o
    WHERE o.customer_id = :customer_id AND o.offer_id < :before
        AND CASE WHEN o.state = 'OPEN' AND o.last_day < :today THEN 'EXPIRED' ELSE o.state END
            = ANY(CAST(:states AS text[]))
    ORDER BY o.offer_id DESC LIMIT :limit"""
)


def page(
    connection: Connection,
    customer_id: int,
    states: Sequence[OfferState],
    before: int,
    limit: int,
    today: date,
) -> list[LoanOffer]:
    """Return the customer's offers with ids below `before` whose state today is one of `states`,
    latest first, at most `limit`."""
    rows = _PAGE.rows(
        connection,
        {
            "customer_id": customer_id,
            "states": [str(each) for each in states],
            "before": before,
            "limit": limit,
            "today": today,
        },
    )
    return [_offer(row) for row in rows]


# --- Ends -----------------------------------------------------------------------------------------


def _read(columns: str) -> Statement:
    return Statement(
        f"""
    SELECT {COLUMNS}, {requests.COLUMNS}, {scorecards.ACTIVE_VERSION}{columns}
    FROM loan_offers o
    {scorecards.ACTIVE_JOIN}
    LEFT JOIN requests r ON r.customer_id = o.customer_id
        AND r.request_id = CAST(:request_id AS uuid)
    WHERE o.customer_id = :customer_id AND o.offer_id = :offer_id
"""
    )


_NO_REQUEST = UUID(int=0)
"""An id that no request has. With null, Citus refuses the join."""
_NEW_ID = "nextval('loan_ids')"
_READ = _read(f", CASE WHEN :draw THEN {_NEW_ID} ELSE 0 END")
# On a cluster: the coordinator has the sequence, and another node the offer.
_READ_WITHOUT_ID = _read("")
_DRAW_ID = Statement(f"SELECT {_NEW_ID}")
_SCORECARD_AT = COLUMN_COUNT + requests.COLUMN_COUNT


@dataclass(frozen=True, slots=True)
class EndRead:
    """An offer, the request's record, and the id of a loan (0 if none was drawn)."""

    offer: LoanOffer
    request: requests.RequestRecord | None
    scorecard_version: str
    loan_id: int


def read(
    connection: Connection,
    customer_id: int,
    offer_id: int,
    request_id: UUID | None,
    day: date,
    *,
    draws_loan_id: bool,
) -> EndRead:
    """Return an existing offer, the request's record, and the version of the scorecard that decides
    on `day`.

    Read the customer's position before it: if the version has not changed at the write, the offer
    has not either.
    """
    wanted = {
        "customer_id": customer_id,
        "offer_id": offer_id,
        "request_id": request_id or _NO_REQUEST,
        "today": day,
        "draw": draws_loan_id,
    }
    if not cluster.is_distributed(connection):
        row = _READ.row(connection, wanted)
    else:
        row = _READ_WITHOUT_ID.row(connection, wanted)
        ids = _DRAW_ID.row(connection, {}) if draws_loan_id else (0,)
        row = None if row is None or ids is None else row + ids
    if row is None:
        raise LookupError(f"there is no offer {offer_id} of customer {customer_id}")
    record = requests.record(row[COLUMN_COUNT:_SCORECARD_AT])
    return EndRead(_offer(row), record, row[_SCORECARD_AT], row[_SCORECARD_AT + 1])


# The position of the customer is set as computed from all loans and holds.
_END_COMMON = f"""
    WITH c AS (
        UPDATE customers SET
            version = version + 1,
            event_seq = event_seq + :event_count,
            current_debt_paise = :current_debt_paise,
            current_installments_paise = :current_installments_paise,
            loan_count = :loan_count,
            total_principal_paise = :total_principal_paise,
            emis_on_time = :emis_on_time,
            emis_due = :emis_due,
            current_year_loans = :current_year_loans,
            position_as_of = :today,
            position_valid_until = :valid_until,
            held_principal_paise = :held_principal_paise,
            held_installments_paise = :held_installments_paise,
            held_valid_until = :held_valid_until,
            {customers.SET_ARREARS}
        WHERE customer_id = :customer_id AND version = :read_version
            AND EXISTS (SELECT FROM loan_offers o WHERE o.customer_id = :customer_id
                AND o.offer_id = :offer_id AND o.state = 'OPEN')
        RETURNING customer_id, version, event_seq, current_debt_paise, approved_limit_paise,
            held_principal_paise
    ), o AS (
        UPDATE loan_offers SET state = :state, ended_at = :now,
            loan_id = CAST(:loan_id AS bigint), accepted_paise = :accepted_paise,
            disbursed_on = :disbursed_on, reason = :reason
        FROM c
        WHERE loan_offers.customer_id = c.customer_id AND loan_offers.offer_id = :offer_id
    ), r AS (
        INSERT INTO requests (request_id, method, fingerprint, customer_id, decision_id, loan_id,
            created_at, principal)
        SELECT CAST(:request_id AS uuid), :method, :fingerprint, customer_id, :decision_id,
            CAST(:loan_id AS bigint), :now, :principal
        FROM c WHERE CAST(:request_id AS uuid) IS NOT NULL
    ), e AS (
        INSERT INTO events (customer_id, event_seq, kind, customer_version, occurred_at, payload,
            traceparent)
        SELECT customer_id, event_seq, 'loan_offer_ended', version, :now, CAST(:event AS json),
            CAST(:traceparent AS text)
        FROM c
    )"""
_COUNT = " SELECT count(*) FROM c"
_END = Statement(_END_COMMON + _COUNT)
_ACCEPT = Statement(
    _END_COMMON
    + """, l AS (
        INSERT INTO loans (customer_id, loan_id, principal_paise, annual_rate_bps, tenure_months,
            installment_paise, start_date, end_date, imported, decision_id, debt_at_booking_paise,
            limit_at_booking_paise, held_at_booking_paise, offer_id, charges)
        SELECT customer_id, CAST(:loan_id AS bigint), :accepted_paise, :annual_rate_bps,
            :tenure_months, :installment_paise, :disbursed_on, :end_date, false, :decision_id,
            current_debt_paise, approved_limit_paise, held_principal_paise, :offer_id,
            CAST(:charges AS json)
        FROM c
    ), b AS (
        INSERT INTO events (customer_id, event_seq, kind, customer_version, occurred_at, payload,
            traceparent)
        SELECT customer_id, event_seq - 1, 'loan_created', version, :now,
            CAST(:loan_event AS json), CAST(:traceparent AS text)
        FROM c
    )"""
    + _COUNT
)


@dataclass(frozen=True, slots=True)
class EndWrite:
    """An ended offer to store; for an accepted one with the loan."""

    offer: LoanOffer
    read_version: int
    position_after: CreditPosition
    event_json: str
    principal: str
    # None for an expiry, which no request asked for.
    request_id: UUID | None = None
    method: str = ""
    fingerprint: bytes = b""
    loan: Loan | None = None
    loan_event_json: str = ""


def end(connection: Connection, ending: EndWrite, moment: Moment) -> bool:
    """Store the end; return False if the customer's version has changed since the read.

    Raises IntegrityError if a concurrent request used the request id, or an import the loan's.
    """
    offer, after, loan = ending.offer, ending.position_after, ending.loan
    parameters: dict[str, Any] = {
        "customer_id": offer.customer_id,
        "offer_id": offer.offer_id,
        "decision_id": offer.decision_id,
        "read_version": ending.read_version,
        "event_count": 1 if loan is None else 2,
        "current_debt_paise": after.current_debt_paise,
        "current_installments_paise": after.current_installments_paise,
        "loan_count": after.loan_count,
        "total_principal_paise": after.total_principal_paise,
        "emis_on_time": after.emis_on_time,
        "emis_due": after.emis_due,
        "current_year_loans": after.current_year_loans,
        "valid_until": after.valid_until,
        **customers.held_values(after),
        **customers.arrears_values(after),
        "state": str(offer.state),
        "loan_id": offer.loan_id,
        "accepted_paise": offer.accepted_paise,
        "disbursed_on": offer.disbursed_on,
        "reason": offer.reason,
        "request_id": ending.request_id,
        "method": ending.method,
        "fingerprint": ending.fingerprint,
        "event": ending.event_json,
        "principal": ending.principal,
        "traceparent": tracing.traceparent(),
        "now": moment.now,
        "today": moment.today,
    }
    if loan is None:
        return _END.row(connection, parameters) == (1,)
    parameters |= {
        "annual_rate_bps": loan.annual_rate_bps,
        "tenure_months": loan.tenure_months,
        "installment_paise": loan.installment_paise,
        "end_date": loan.end_date,
        "charges": charges.text(loan.charges),
        "loan_event": ending.loan_event_json,
    }
    return _ACCEPT.row(connection, parameters) == (1,)


_EXPIRED = Statement(
    """SELECT customer_id, offer_id FROM loan_offers
    WHERE state = 'OPEN' AND last_day < :today
    ORDER BY last_day, customer_id, offer_id LIMIT :limit"""
)


def expired(connection: Connection, today: date, limit: int) -> list[tuple[int, int]]:
    """Return (customer, offer) of offers past their last day that are stored as OPEN, the longest
    expired first, at most `limit`."""
    rows = _EXPIRED.rows(connection, {"today": today, "limit": limit})
    return [(row[0], row[1]) for row in rows]
