"""Change facts of a customer."""

import time
from dataclasses import asdict, dataclass, fields, replace
from datetime import date, datetime
from typing import Any, get_args
from uuid import UUID

from sqlalchemy import Connection

from credit_service import failpoints
from credit_service.cache.positions import PositionCache
from credit_service.clock import Moment
from credit_service.commands.idempotency import fingerprint, used_before
from credit_service.commands.register_customer import phone_number_taken
from credit_service.domain.customers import Customer, CustomerChange, changed
from credit_service.domain.delinquency import Arrears
from credit_service.domain.documents import from_document
from credit_service.domain.errors import NotFoundError
from credit_service.domain.positions import CreditPosition
from credit_service.storage import customers, requests, scorecards
from credit_service.storage.customers import CustomerView
from credit_service.storage.database import Database, LostRaceError, lost_race_on

_METHOD = "UpdateCustomer"
_RACE_CONSTRAINTS = frozenset(
    {
        "requests_pkey",
        # The next attempt finds the number's customer.
        "phone_numbers_pkey",
    }
)
_DATES = {each.name for each in fields(CreditPosition) if date in (each.type, *get_args(each.type))}


@dataclass(frozen=True, slots=True)
class UpdateCustomer:
    """Facts of a customer to change; the request id makes retries safe."""

    request_id: UUID
    customer_id: int
    change: CustomerChange


@dataclass(frozen=True, slots=True)
class _Updated:
    """The customer after the change; for a new change with the scorecard that decides today, for a
    repeat with the customer's version now."""

    view: CustomerView
    scorecard_version: str | None = None
    repeat_version: int | None = None


def update_customer(
    database: Database,
    command: UpdateCustomer,
    moment: Moment,
    principal: str,
    *,
    cache: PositionCache | None = None,
) -> CustomerView:
    """Store the changed facts, their record and one event atomically; return the customer.

    Raises the customer's version, so that a decision that read the customer before decides again.
    Writes the new position to the cache before it returns. Facts that have their new values already
    change nothing.

    Raises:
        NotFoundError: CUSTOMER_NOT_FOUND.
        AlreadyExistsError: PHONE_NUMBER_TAKEN.
        RequestIdReusedError: the id was used for other content.
        RetryLaterError: other calls kept the customer busy for too long.
    """
    content = fingerprint(command)
    started_at = time.monotonic()

    def attempt(_number: int) -> _Updated:
        with database.transaction() as connection:
            updated = _update(connection, command, content, moment, principal)
            failpoints.reach("update_customer.before_commit")
            return updated

    updated = database.retry(attempt)
    failpoints.reach("update_customer.after_commit")
    if cache is not None:
        if updated.scorecard_version is not None:
            version = updated.scorecard_version
            cache.put([updated.view.position], version, moment, read_at=started_at)
        elif updated.repeat_version is not None:
            cache.outdate([(command.customer_id, updated.repeat_version)])
    return updated.view


def _update(
    connection: Connection,
    command: UpdateCustomer,
    content: bytes,
    moment: Moment,
    principal: str,
) -> _Updated:
    """Change the locked customer, or return the result of the first request with this id."""
    customer_id = command.customer_id
    customers.lock(connection, customer_id)
    before = customers.find(connection, customer_id)
    if before is None:
        raise NotFoundError("CUSTOMER_NOT_FOUND", "customer", str(customer_id))
    record = requests.find(connection, customer_id, command.request_id)
    if used_before(connection, record, command.request_id, _METHOD, content) is not None:
        first = _as_updated(connection, customer_id, command.request_id)
        return _Updated(first, repeat_version=before.customer.version)
    after = changed(before.customer, command.change)
    is_changed = after != before.customer
    with lost_race_on(_RACE_CONSTRAINTS):
        if is_changed:
            _store(connection, before.customer, after, moment, principal)
            after = replace(after, version=after.version + 1)
        (current,) = customers.with_current_figures(connection, [before], moment.today)
        position = replace(
            customers.position_on(connection, before.position, moment.today),
            # The day of the response, which a repeat gets too.
            as_of=moment.today,
            arrears=current.position.arrears,
            version=after.version,
            monthly_income_paise=after.monthly_income_paise,
            approved_limit_paise=after.approved_limit_paise,
        )
        values = {
            "request_id": command.request_id,
            "method": _METHOD,
            "fingerprint": content,
            "customer_id": customer_id,
            "now": moment.now,
            "principal": principal,
        }
        response = {"customer": asdict(after), "position": asdict(position)}
        requests.insert_with_customer(connection, values, response)
    version = scorecards.active_version(connection, moment.today) if is_changed else None
    return _Updated(CustomerView(after, position), version)


def _store(
    connection: Connection, before: Customer, after: Customer, moment: Moment, principal: str
) -> None:
    if after.phone_number != before.phone_number:
        if customers.holder(connection, after.phone_number) is not None:
            raise phone_number_taken(after.phone_number)
        customers.move_phone_number(
            connection, before.customer_id, before.phone_number, after.phone_number
        )
    failpoints.reach("update_customer.before_write")
    if not customers.update(connection, before, after, moment, principal):
        raise LostRaceError("version")


def _as_updated(connection: Connection, customer_id: int, request_id: UUID) -> CustomerView:
    """Return the first response, without later changes."""
    stored: Any = requests.customer_after(connection, customer_id, request_id)
    customer, position = stored["customer"], stored["position"]
    days = {
        name: date.fromisoformat(position[name])
        for name in _DATES
        if position.get(name) is not None
    }
    return CustomerView(
        from_document(
            Customer, customer, created_at=datetime.fromisoformat(customer["created_at"])
        ),
        from_document(CreditPosition, position, **days, arrears=_arrears(position.get("arrears"))),
    )


def _arrears(document: dict[str, str | None] | None) -> Arrears | None:
    if document is None:
        return None
    days = {name: text and date.fromisoformat(text) for name, text in document.items()}
    return from_document(Arrears, days)
