"""Stored decisions: facts that never change."""

from dataclasses import dataclass, field, replace
from datetime import date, datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, text

from credit_service.domain.charges import Charge
from credit_service.domain.decisions import decode_inputs, decode_outcome
from credit_service.domain.eligibility import Decision, Outcome
from credit_service.domain.loans import Loan, LoanTerms, book
from credit_service.domain.referrals import Referral, ReferralState
from credit_service.domain.scorecard import Scorecard
from credit_service.storage import referrals, scorecards
from credit_service.storage.statements import Row, Statement


@dataclass(frozen=True, slots=True)
class StoredDecision:
    """A decision with its inputs and outcome as canonical JSON."""

    customer_id: int
    decision_id: int
    request_id: UUID | None
    decided_at: datetime
    decided_on: date
    approved: bool
    loan_id: int | None
    customer_version: int
    scorecard_version: str
    inputs_json: str
    outcome_json: str
    principal: str
    offer_id: int | None = None
    # Of a decision that was referred; read by `get`, `find` and `page`.
    referral: Referral | None = None
    # The referred decision that this one decides again; 0 for others. Read likewise.
    reviewed_decision_id: int = 0
    # The parsed outcome_json of a decision that was just made; else None.
    decided: Decision | None = field(default=None, compare=False, repr=False)

    @property
    def outcome(self) -> Decision:
        """The decision."""
        return decode_outcome(self.outcome_json) if self.decided is None else self.decided

    def loan_as_booked(self, charges: tuple[Charge, ...] = ()) -> Loan | None:
        """Return the loan as booked with these charges, before any payment; None for a decline or
        an offer."""
        if self.loan_id is None:
            return None
        ask = decode_inputs(self.inputs_json).ask
        outcome = self.outcome
        terms = LoanTerms(ask.principal_paise, outcome.corrected_rate_bps, ask.tenure_months)
        return book(
            terms,
            outcome.installment_paise,
            loan_id=self.loan_id,
            customer_id=self.customer_id,
            day=self.decided_on,
            decision_id=self.decision_id,
            charges=charges,
        )


COLUMNS = """d.customer_id, d.decision_id, d.request_id, d.decided_at, d.decided_on, d.approved,
    d.loan_id, d.customer_version, d.scorecard_version, d.inputs::text, d.outcome::text,
    d.principal, d.offer_id"""
"""The fields of a StoredDecision, in its order, of a table aliased d."""


def _decision(row: Any) -> StoredDecision:
    return StoredDecision(*row)


_REVIEWS_AT = -(referrals.COLUMN_COUNT + 1)
_REVIEW_COLUMNS = f"{COLUMNS}, {referrals.COLUMNS}, o.decision_id"
_REFERRAL_OF = "referrals f ON f.customer_id = d.customer_id AND f.decision_id = d.decision_id"
_ORIGIN_OF = """LEFT JOIN referrals o
        ON o.customer_id = d.customer_id AND o.result_decision_id = d.decision_id"""
_WITH_REVIEWS = f"""SELECT {_REVIEW_COLUMNS}
    FROM decisions d LEFT JOIN {_REFERRAL_OF} {_ORIGIN_OF}"""


def _with_review(row: Row) -> StoredDecision:
    """Return the decision from a row of _REVIEW_COLUMNS."""
    return replace(
        _decision(row[:_REVIEWS_AT]),
        referral=referrals.referral(row[_REVIEWS_AT:-1]),
        reviewed_decision_id=row[-1] or 0,
    )


_OF_CUSTOMER = Statement(
    f"""{_WITH_REVIEWS}
    WHERE d.customer_id = :customer_id AND d.decision_id = :decision_id"""
)
_BY_ID = Statement(f"{_WITH_REVIEWS} WHERE d.decision_id = :decision_id")
_REFERRED = f"""SELECT {_REVIEW_COLUMNS}
    FROM referrals f JOIN decisions d
        ON d.customer_id = f.customer_id AND d.decision_id = f.decision_id {_ORIGIN_OF}"""
_WITH_OUTCOME = {
    None: "true",
    Outcome.APPROVED: "d.approved",
    Outcome.DECLINED: "NOT d.approved AND NOT d.referred",
    Outcome.REFERRED: "d.referred",
}


def _page(outcome: Outcome | None, state: ReferralState | None, of_customer: str) -> Statement:
    """Return the query of a page; without outcome and state that of all decisions."""
    condition = f"{of_customer} AND {_WITH_OUTCOME[outcome]}"
    if state is None:
        return Statement(
            f"""{_WITH_REVIEWS} WHERE {condition} AND d.decision_id < :before
            ORDER BY d.decision_id DESC LIMIT :limit"""
        )
    # In order of the referrals' own ids, which their index has.
    return Statement(
        f"""{_REFERRED} WHERE {condition} AND {referrals.condition(state)}
            AND f.decision_id < :before ORDER BY f.decision_id DESC LIMIT :limit"""
    )


_FILTERS = [(outcome, state) for outcome in _WITH_OUTCOME for state in (None, *ReferralState)]
_PAGES = {each: _page(*each, "d.customer_id = :customer_id") for each in _FILTERS}
_PAGES_OF_ALL = {each: _page(*each, "true") for each in _FILTERS}


def get(connection: Connection, customer_id: int, decision_id: int) -> StoredDecision:
    """Return the decision with that key, which must exist."""
    row = _OF_CUSTOMER.row(connection, {"customer_id": customer_id, "decision_id": decision_id})
    if row is None:
        raise LookupError(f"there is no decision {decision_id} about customer {customer_id}")
    return _with_review(row)


_SCORECARD = Statement(
    """SELECT scorecard_version FROM decisions
    WHERE customer_id = :customer_id AND decision_id = :decision_id"""
)


def scorecard_version(connection: Connection, customer_id: int, decision_id: int) -> str:
    """Return the version of the scorecard of the decision with that key, which must exist."""
    row = _SCORECARD.row(connection, {"customer_id": customer_id, "decision_id": decision_id})
    if row is None:
        raise LookupError(f"there is no decision {decision_id} about customer {customer_id}")
    version: str = row[0]
    return version


def scorecard_of_loan(connection: Connection, loan: Loan, active: Scorecard) -> Scorecard:
    """Return the scorecard that has the charges of a loan: the one that decided on it, which the
    key facts statement names; `active` for an imported loan."""
    if loan.decision_id is None:
        return active
    version = scorecard_version(connection, loan.customer_id, loan.decision_id)
    return scorecards.get(connection, version)


def find(connection: Connection, decision_id: int) -> StoredDecision | None:
    """Return the decision with that id; ids are unique across customers."""
    row = _BY_ID.row(connection, {"decision_id": decision_id})
    return None if row is None else _with_review(row)


def page(
    connection: Connection,
    customer_id: int | None,
    before: int,
    limit: int,
    outcome: Outcome | None = None,
    *,
    state: ReferralState | None = None,
    day: date,
) -> list[StoredDecision]:
    """Return decisions with ids below `before`, newest first, at most `limit`; without a customer
    those of all customers, without an outcome those with any. With `state`, only those whose
    referral is in that state on `day`."""
    statement = (_PAGES_OF_ALL if customer_id is None else _PAGES)[outcome, state]
    values = {"customer_id": customer_id, "before": before, "limit": limit, "today": day}
    return [_with_review(row) for row in statement.rows(connection, values)]


_EVERY = text(
    f"""SELECT {COLUMNS} FROM decisions d
    WHERE d.decision_id > :after ORDER BY d.decision_id LIMIT :limit"""
)
_SHADOW = text(
    """INSERT INTO shadow_decisions (customer_id, decision_id, scorecard_version, approved, outcome)
    VALUES (:customer_id, :decision_id, :scorecard_version, :approved, CAST(:outcome AS json))
    ON CONFLICT DO NOTHING"""
)


def batch_after(connection: Connection, after: int, limit: int) -> list[StoredDecision]:
    """Return decisions with ids above `after`, in order of id, at most `limit`."""
    rows = connection.execute(_EVERY, {"after": after, "limit": limit})
    return [_decision(row) for row in rows]


def store_shadow(
    connection: Connection,
    decision: StoredDecision,
    scorecard_version: str,
    outcome_json: str,
    *,
    approved: bool,
) -> None:
    """Store what a shadow scorecard would have decided; storing it twice changes nothing."""
    connection.execute(
        _SHADOW,
        {
            "customer_id": decision.customer_id,
            "decision_id": decision.decision_id,
            "scorecard_version": scorecard_version,
            "approved": approved,
            "outcome": outcome_json,
        },
    )


_COUNT = text("SELECT count(*) FROM decisions")
_PAIRS = text(
    """SELECT d.decision_id, d.customer_id, d.outcome::text, s.outcome::text
    FROM shadow_decisions s
        JOIN decisions d ON d.customer_id = s.customer_id AND d.decision_id = s.decision_id
    WHERE s.scorecard_version = :version AND s.decision_id < :before
    ORDER BY s.decision_id DESC LIMIT :limit"""
)


def count(connection: Connection) -> int:
    """Return the number of stored decisions."""
    found: int = connection.execute(_COUNT).scalar_one()
    return found


@dataclass(frozen=True, slots=True)
class ShadowPair:
    """A stored decision and what a shadow scorecard decided, as canonical JSON."""

    decision_id: int
    customer_id: int
    outcome_json: str
    shadow_outcome_json: str


def shadow_pairs(connection: Connection, version: str, before: int, limit: int) -> list[ShadowPair]:
    """Return what a shadow scorecard decided beside the real decisions with ids below `before`,
    newest first, at most `limit`."""
    rows = connection.execute(_PAIRS, {"version": version, "before": before, "limit": limit})
    return [ShadowPair(*row) for row in rows]
