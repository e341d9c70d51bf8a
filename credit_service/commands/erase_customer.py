"""Erase the personal data of a customer, except what the lender must keep."""

import secrets
from dataclasses import dataclass, replace
from datetime import datetime
from uuid import UUID

from sqlalchemy import Connection

from credit_service.clock import Moment
from credit_service.domain.customers import (
    ERASED_PHONE_NUMBERS,
    Customer,
    erased_phone_number,
    is_erased,
)
from credit_service.domain.errors import NotFoundError
from credit_service.storage import customers, personal_data
from credit_service.storage.database import Database, lost_race_on
from credit_service.storage.personal_data import Kept, Obligations

# The next attempt chooses another number.
_RACE_CONSTRAINTS = frozenset({"phone_numbers_pkey"})
_FINGERPRINT_BYTES = 32


@dataclass(frozen=True, slots=True)
class Erasure:
    """What an erasure found and did.

    `unfinished` are the ingestions of the customer's rows that have not ended. `sources` are those
    whose uploaded files and row errors are deleted. `row_errors` is the number of erased row errors
    of other ingestions. `remaining_uploads` may name the person too; the last of them ended at
    `last_upload_ended_at`.
    """

    obligations: Obligations
    unfinished: list[UUID]
    kept: Kept
    sources: list[UUID]
    was_erased_before: bool
    is_done: bool = False
    row_errors: int = 0
    remaining_uploads: int = 0
    last_upload_ended_at: datetime | None = None

    @property
    def is_allowed(self) -> bool:
        """Whether nothing is open: neither loans, offers and reviews nor ingestions."""
        return not (any(self.obligations) or self.unfinished)


def erase_customer(
    database: Database, customer_id: int, moment: Moment, principal: str, *, dry_run: bool = False
) -> Erasure:
    """Erase the customer's names, phone numbers and what quotes them, in one transaction.

    Figures stay: loans, payments, scores, and decisions, which replay identically. Nothing is
    erased while something is open, and in a dry run. A repeat erases what came in between, and
    writes no second event.

    Raises:
        NotFoundError: CUSTOMER_NOT_FOUND.
        RetryLaterError: other calls kept the customer busy for too long.
    """

    def attempt(_number: int) -> Erasure:
        with database.transaction() as connection:
            return _erase(connection, customer_id, moment, principal, dry_run=dry_run)

    return database.retry(attempt)


def _erase(
    connection: Connection, customer_id: int, moment: Moment, principal: str, *, dry_run: bool
) -> Erasure:
    customers.lock(connection, customer_id)
    view = customers.find(connection, customer_id)
    if view is None and not personal_data.is_removed(connection, customer_id):
        raise NotFoundError("CUSTOMER_NOT_FOUND", "customer", str(customer_id))
    customer = None if view is None else view.customer
    found = personal_data.sources(connection, customer_id)
    plan = Erasure(
        personal_data.obligations(connection, customer_id, moment.today),
        [each.ingestion_id for each in found if each.finished_at is None],
        personal_data.kept(connection, customer_id),
        [each.ingestion_id for each in found if each.finished_at is not None],
        was_erased_before=customer is not None and is_erased(customer),
    )
    if dry_run or not plan.is_allowed:
        return plan
    return _apply(connection, customer_id, customer, plan, moment, principal)


def _apply(
    connection: Connection,
    customer_id: int,
    customer: Customer | None,
    plan: Erasure,
    moment: Moment,
    principal: str,
) -> Erasure:
    numbers = personal_data.phone_numbers(connection, customer_id)
    if customer is not None:
        numbers.add(customer.phone_number)
    if customer is not None and plan.was_erased_before:
        phone_number = customer.phone_number
    else:
        phone_number = erased_phone_number(secrets.randbelow(ERASED_PHONE_NUMBERS))
        if customer is not None:
            with lost_race_on(_RACE_CONSTRAINTS):
                personal_data.replace_names(connection, customer, phone_number, moment, principal)
    fingerprint = secrets.token_bytes(_FINGERPRINT_BYTES)
    personal_data.erase_former_values(connection, customer_id, phone_number, fingerprint)
    personal_data.delete_sources(connection, plan.sources)
    row_errors = personal_data.erase_row_errors(connection, customer_id, sorted(numbers))
    remaining, last_ended_at = personal_data.remaining_uploads(connection)
    return replace(
        plan,
        is_done=True,
        row_errors=row_errors,
        remaining_uploads=remaining,
        last_upload_ended_at=last_ended_at,
    )
