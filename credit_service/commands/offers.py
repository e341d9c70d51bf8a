"""End an offer: accept or withdraw it, or mark it as expired.

An offer ends once: each end is one statement guarded by the customer's version, which every change
of an offer raises.
"""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import date
from uuid import UUID

from sqlalchemy import Connection

from credit_service import failpoints
from credit_service.cache.positions import PositionCache
from credit_service.clock import Moment
from credit_service.commands.idempotency import fingerprint, used_before
from credit_service.domain.delinquency import first_unpaid_due, with_loan_due
from credit_service.domain.loans import Loan
from credit_service.domain.offers import (
    LoanOffer,
    OfferState,
    accepted,
    expired,
    unknown_offer,
    withdrawn,
)
from credit_service.domain.positions import CreditPosition
from credit_service.observability import metrics
from credit_service.storage import customers, decisions, loans, offers, scorecards
from credit_service.storage.customers import PositionFacts
from credit_service.storage.database import Database, LostRaceError, lost_race_on
from credit_service.storage.offers import EndRead, EndWrite

_RACE_CONSTRAINTS = frozenset(
    {
        "requests_pkey",
        # An import inserted a loan with the id drawn for this one.
        "loans_pkey",
    }
)
_SYSTEM = "system"
"""The caller of an end that no caller asked for."""


@dataclass(frozen=True, slots=True)
class AcceptLoanOffer:
    """Accept an offer: None for the amount means all of it, for the day today."""

    request_id: UUID
    offer_id: int
    amount_paise: int | None = None
    disbursed_on: date | None = None


@dataclass(frozen=True, slots=True)
class WithdrawLoanOffer:
    """Withdraw an offer."""

    request_id: UUID
    offer_id: int
    reason: str = ""


@dataclass(frozen=True, slots=True)
class _Ended:
    """The offer after its end; for a new end with the position after it, for a repeat with the
    customer's version now."""

    offer: LoanOffer
    scorecard_version: str = ""
    position_after: CreditPosition | None = None
    repeat_version: int | None = None


_End = Callable[[EndRead, date], LoanOffer]
"""Ends the offer that was read. The day is the latest one of a decision about the customer."""


def accept_loan_offer(
    database: Database,
    command: AcceptLoanOffer,
    moment: Moment,
    principal: str,
    *,
    cache: PositionCache | None = None,
) -> LoanOffer:
    """Book the loan of an offer without a new decision, release the rest of the hold, and return
    the accepted offer; its loan is `LoanOffer.loan()`.

    Writes the new position to the cache before it returns.

    Raises:
        NotFoundError: OFFER_NOT_FOUND.
        PreconditionFailedError: the rules of `domain.offers.accepted`.
        RequestIdReusedError: the id was used for other content.
        RetryLaterError: other calls kept the customer busy for too long.
    """

    with database.autocommit() as connection:
        offer = _existing(connection, command.offer_id)
        least = 0 if command.amount_paise is None else _least_lent_paise(connection, offer)

    def end(read: EndRead, known_day: date) -> LoanOffer:
        return accepted(
            read.offer,
            command.amount_paise,
            command.disbursed_on,
            today=moment.today,
            known_day=known_day,
            loan_id=read.loan_id,
            now=moment.now,
            least_paise=least,
        )

    return _end_by_request(database, command, offer.customer_id, end, moment, principal, cache)


def withdraw_loan_offer(
    database: Database,
    command: WithdrawLoanOffer,
    moment: Moment,
    principal: str,
    *,
    cache: PositionCache | None = None,
) -> LoanOffer:
    """Release an offer's hold and return the withdrawn offer.

    Writes the new position to the cache before it returns. Raises like `accept_loan_offer`:
    PreconditionFailedError by `domain.offers.withdrawn`.
    """

    def end(read: EndRead, _known_day: date) -> LoanOffer:
        return withdrawn(read.offer, command.reason, today=moment.today, now=moment.now)

    with database.autocommit() as connection:
        offer = _existing(connection, command.offer_id)
    return _end_by_request(database, command, offer.customer_id, end, moment, principal, cache)


def expire_offers(database: Database, moment: Moment, limit: int) -> list[CreditPosition]:
    """Mark offers past their last day as EXPIRED, at most `limit`, each with its event; return the
    customers' new positions, for the cache. Empty if there are none.

    Decisions do not wait for it: from the day after its last day on, an offer counts in none.
    """
    with database.autocommit() as connection:
        found = offers.expired(connection, moment.today, limit)
    positions = []
    for customer_id, offer_id in found:
        ended = _end(
            database,
            customer_id,
            offer_id,
            lambda read, _known_day: expired(read.offer, now=moment.now),
            moment,
            _SYSTEM,
        )
        if ended.position_after is not None:
            positions.append(ended.position_after)
    return positions


def _existing(connection: Connection, offer_id: int) -> LoanOffer:
    found = offers.find(connection, offer_id)
    if found is None:
        raise unknown_offer(offer_id)
    return found


def _least_lent_paise(connection: Connection, offer: LoanOffer) -> int:
    """Return the minimum principal of the scorecard that approved the offer."""
    decision = decisions.get(connection, offer.customer_id, offer.decision_id)
    return scorecards.get(connection, decision.scorecard_version).min_principal_paise


def _end_by_request(
    database: Database,
    command: AcceptLoanOffer | WithdrawLoanOffer,
    customer_id: int,
    end: _End,
    moment: Moment,
    principal: str,
    cache: PositionCache | None,
) -> LoanOffer:
    started_at = time.monotonic()
    ended = _end(database, customer_id, command.offer_id, end, moment, principal, command=command)
    if cache is not None:
        if ended.position_after is not None:
            version = ended.scorecard_version
            cache.put([ended.position_after], version, moment, read_at=started_at)
        elif ended.repeat_version is not None:
            cache.outdate([(customer_id, ended.repeat_version)])
    return ended.offer


def _end(
    database: Database,
    customer_id: int,
    offer_id: int,
    end: _End,
    moment: Moment,
    principal: str,
    *,
    command: AcceptLoanOffer | WithdrawLoanOffer | None = None,
) -> _Ended:
    content = b"" if command is None else fingerprint(command)

    def attempt(number: int) -> _Ended:
        session = database.transaction() if number else database.autocommit()
        with session as connection:
            if number:
                customers.lock(connection, customer_id)
            # In this order: see `offers.read`.
            facts = customers.position_facts(connection, customer_id)
            read = offers.read(
                connection,
                customer_id,
                offer_id,
                None if command is None else command.request_id,
                moment.today,
                draws_loan_id=isinstance(command, AcceptLoanOffer),
            )
            if command is not None:
                method = type(command).__name__
                if used_before(connection, read.request, command.request_id, method, content):
                    return _Ended(read.offer, repeat_version=facts.stored.version)
            elif read.offer.state is not OfferState.OPEN:
                # It ended since the search.
                return _Ended(read.offer)
            failpoints.reach("end_offer.before_write")
            ended = _write(connection, command, content, facts, read, end, moment, principal)
            if number:
                failpoints.reach("end_offer.before_commit")
            return ended

    ended = database.retry(attempt)
    failpoints.reach("end_offer.after_commit")
    if ended.position_after is not None:
        metrics.loan_offers.labels(ended.offer.state.lower()).inc()
    return ended


def _write(
    connection: Connection,
    command: AcceptLoanOffer | WithdrawLoanOffer | None,
    content: bytes,
    facts: PositionFacts,
    read: EndRead,
    end: _End,
    moment: Moment,
    principal: str,
) -> _Ended:
    """Store the end. Raises LostRaceError if the customer has changed since the read."""
    offer = end(read, facts.stored.as_of)
    loan = offer.loan() if offer.state is OfferState.ACCEPTED else None
    remaining = PositionFacts(
        replace(facts.stored, version=facts.stored.version + 1),
        [*facts.loans, *([] if loan is None else [loan])],
        [each for each in facts.holds if each.offer_id != offer.offer_id],
    )
    position_after = remaining.on(moment.today)
    if loan is not None and position_after.arrears is not None:
        first_due = first_unpaid_due(loan)
        assert first_due is not None  # noqa: S101 - a new loan is ACTIVE
        after = with_loan_due(position_after.arrears, first_due, moment.today)
        position_after = replace(position_after, arrears=after)
    ending = EndWrite(
        offer=offer,
        read_version=facts.stored.version,
        position_after=position_after,
        event_json=_ended_event(offer),
        principal=principal,
        request_id=None if command is None else command.request_id,
        method="" if command is None else type(command).__name__,
        fingerprint=content,
        loan=loan,
        loan_event_json="" if loan is None else _loan_event(offer, loan),
    )
    with lost_race_on(_RACE_CONSTRAINTS):
        if not offers.end(connection, ending, moment):
            raise LostRaceError("version")
    return _Ended(offer, read.scorecard_version, position_after)


def _loan_event(offer: LoanOffer, loan: Loan) -> str:
    """Return the payload of loan_created."""
    payload = {
        "decision_id": offer.decision_id,
        "offer_id": offer.offer_id,
        "loan": loans.event_fields(loan),
    }
    return json.dumps(payload, default=str)


def _ended_event(offer: LoanOffer) -> str:
    """Return the payload of loan_offer_ended."""
    released = offer.principal_paise - (offer.accepted_paise or 0)
    return json.dumps(
        {
            "offer_id": offer.offer_id,
            "state": offer.state,
            "loan_id": offer.loan_id,
            "accepted_paise": offer.accepted_paise or 0,
            "released_paise": released,
        }
    )
