"""What the tables hold of a person, its export and its erasure.

`HOLDINGS` lists every table of the schema. scripts/configuration.py writes the list into
docs/personal-data.md.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Final, NamedTuple
from uuid import UUID

from sqlalchemy import Connection, Table

from credit_service.clock import Moment
from credit_service.domain.customers import ERASED_NAME, Customer
from credit_service.observability import tracing
from credit_service.storage.database import driver_connection
from credit_service.storage.statements import Statement
from credit_service.storage.tables import metadata


class Holding(NamedTuple):
    """What a table holds of a person, and what the erasure does with it: texts for people. Empty
    `holds`: nothing."""

    holds: str = ""
    erasure: str = ""


_FIGURES = "kept: amounts, days and states without a name"
_NOTHING = Holding()

HOLDINGS: Final[Mapping[str, Holding]] = {
    "customers": Holding(
        "names, age, phone number, income, limit, sums of the loans",
        "names and phone number replaced; age, income, limit and sums kept",
    ),
    "phone_numbers": Holding("the phone number", "replaced"),
    "former_phone_numbers": Holding("earlier phone numbers", "deleted"),
    "fact_changes": Holding(
        "former and new values of changed facts, by whom and when",
        "names and phone numbers replaced; the other facts kept",
    ),
    "loans": Holding("loans", _FIGURES),
    "payments": Holding("payments", _FIGURES),
    "payment_reversals": Holding("reversed payments", _FIGURES),
    "loan_offers": Holding(
        "offers, with the reason of a withdrawal", "kept; the reason is text of a caller"
    ),
    "decisions": Holding(
        "decisions with their inputs: income, limit, loans, facts of policies such as the age",
        "kept: they replay identically",
    ),
    "shadow_decisions": Holding("decisions of a trial scorecard", _FIGURES),
    "referrals": Holding("reviews, with their reason", "kept; the reason is text of a reviewer"),
    "credit_scores": Holding("the score", _FIGURES),
    "score_history": Holding("earlier scores", _FIGURES),
    "events": Holding(
        "events about the customer, without names and phone numbers",
        "kept until their retention ends",
    ),
    "requests": Holding(
        "SHA-256 of each write's content; the responses of UpdateCustomer",
        "of RegisterCustomer and UpdateCustomer: the hash replaced by a random one, the response "
        "deleted; a repeat with such a request id is rejected",
    ),
    "removed_customers": Holding("the id of a customer whose import was reverted", "kept"),
    "contested_customers": Holding("that an import gave the id to another person", "kept"),
    "discrepancies": Holding(
        "figures that the reconciliation corrected", "kept until their retention ends"
    ),
    "ingestions": Holding(
        "name of the uploaded file, which columns it had, counts", "kept; name files without people"
    ),
    "ingestion_keys": Holding(
        "ids and phone numbers of the rows of a running ingestion",
        "deleted by the workers after the end of the ingestion",
    ),
    "ingestion_chunks": Holding(
        "uploaded files, with all their rows",
        "deleted for ingestions that stored or changed the customer or the loans; others end with "
        "their retention",
    ),
    "ingestion_batches": Holding(
        "64 bits of a hash of each streamed row; customers above their limits",
        "as `ingestion_chunks`",
    ),
    "row_errors": Holding(
        "values of rejected and skipped rows",
        "as `ingestion_chunks`; in others, the rows that name the customer or a phone number of the"
        " customer are replaced",
    ),
    "scorecards": _NOTHING,
    "scorecard_schedule": _NOTHING,
    "scorecard_changes": _NOTHING,
    "bookmarks": _NOTHING,
    "tasks": Holding("ids of customers whose score waits", "ends with the task"),
    "task_actions": Holding("ids of customers whose score waited", "kept: an id without a name"),
}
"""By table of the schema."""

# --- Export ---------------------------------------------------------------------------------------

_FETCHED_ROWS = 500


def exported_tables() -> list[Table]:
    """Return the tables whose rows are about one customer, by name."""
    return sorted(
        (each for each in metadata.tables.values() if "customer_id" in each.c),
        key=lambda table: table.name,
    )


def rows_of(connection: Connection, table: Table, customer_id: int) -> Iterator[str]:
    """Yield the customer's rows of that table, each as a JSON object in the order of the key, in a
    transaction. Reads some hundred rows at a time."""
    key = ", ".join(f"t.{column.name}" for column in table.primary_key)
    query = (
        f"SELECT row_to_json(t)::text FROM {table.name} t WHERE t.customer_id = %s ORDER BY {key}"
    )
    with driver_connection(connection).cursor(name="personal_data") as cursor:
        cursor.itersize = _FETCHED_ROWS
        cursor.execute(query.encode(), (customer_id,))
        for (row,) in cursor:
            yield row


_INGESTIONS = Statement(
    """SELECT ingestion_id FROM customers WHERE customer_id = :customer_id
    UNION SELECT ingestion_id FROM loans WHERE customer_id = :customer_id
    UNION SELECT ingestion_id FROM fact_changes WHERE customer_id = :customer_id
    UNION SELECT previous_ingestion_id FROM fact_changes WHERE customer_id = :customer_id"""
)
_WITH_SOURCE = Statement(
    """SELECT ingestion_id, kind, filename, created_at, finished_at, source_state
    FROM ingestions WHERE ingestion_id = ANY(:ingestion_ids) ORDER BY created_at, ingestion_id"""
)


class Source(NamedTuple):
    """An ingestion that stored or changed a customer or the customer's loans. `source_state`: what
    is left of the uploaded file, KEPT, DELETING or DELETED."""

    ingestion_id: UUID
    kind: str
    filename: str
    created_at: datetime
    finished_at: datetime | None
    source_state: str


def sources(connection: Connection, customer_id: int) -> list[Source]:
    """Return the ingestions that stored or changed the customer or the customer's loans."""
    found = _INGESTIONS.rows(connection, {"customer_id": customer_id})
    ids = [row[0] for row in found if row[0] is not None]
    return [Source(*row) for row in _WITH_SOURCE.rows(connection, {"ingestion_ids": ids})]


# --- Erasure --------------------------------------------------------------------------------------

_OBLIGATIONS = Statement(
    """SELECT
        ARRAY(SELECT l.loan_id FROM loans l WHERE l.customer_id = :customer_id
            AND l.closed_on IS NULL ORDER BY l.loan_id),
        ARRAY(SELECT o.offer_id FROM loan_offers o WHERE o.customer_id = :customer_id
            AND o.state = 'OPEN' AND o.last_day >= :today ORDER BY o.offer_id),
        ARRAY(SELECT r.decision_id FROM referrals r WHERE r.customer_id = :customer_id
            AND r.state = 'PENDING' AND r.last_day >= :today ORDER BY r.decision_id),
        coalesce((SELECT c.current_debt_paise FROM customers c
            WHERE c.customer_id = :customer_id), 0)"""
)
_KEPT = Statement(
    """SELECT
        (SELECT count(*) FROM loans l WHERE l.customer_id = :customer_id),
        (SELECT count(*) FROM payments p WHERE p.customer_id = :customer_id),
        (SELECT count(*) FROM decisions d WHERE d.customer_id = :customer_id),
        (SELECT max(l.closed_on) FROM loans l WHERE l.customer_id = :customer_id)"""
)
_IS_REMOVED = Statement("SELECT FROM removed_customers WHERE customer_id = :customer_id")


class Obligations(NamedTuple):
    """What a customer and the lender still owe each other: ids of open loans, of offers that hold
    credit, of decisions that wait for a review; the debt in paise."""

    loan_ids: list[int]
    offer_ids: list[int]
    referral_ids: list[int]
    debt_paise: int


class Kept(NamedTuple):
    """Numbers of a customer's loans, payments and decisions, and the day on which the last loan was
    closed."""

    loans: int
    payments: int
    decisions: int
    last_closed_on: date | None


def obligations(connection: Connection, customer_id: int, today: date) -> Obligations:
    """Return what is open between the customer and the lender on that day."""
    row = _OBLIGATIONS.row(connection, {"customer_id": customer_id, "today": today})
    return Obligations(*row or ([], [], [], 0))


def kept(connection: Connection, customer_id: int) -> Kept:
    """Return how much of the customer an erasure keeps."""
    return Kept(*_KEPT.row(connection, {"customer_id": customer_id}) or (0, 0, 0, None))


def is_removed(connection: Connection, customer_id: int) -> bool:
    """Return whether a revert removed the customer, of whom changed facts may be left."""
    return _IS_REMOVED.row(connection, {"customer_id": customer_id}) is not None


_PERSONAL_FACTS = ("first_name", "last_name", "phone_number")
_REPLACE = Statement(
    """
    WITH c AS (
        UPDATE customers SET version = version + 1, event_seq = event_seq + 1,
            arrears_version = arrears_version + 1, first_name = :name, last_name = :name,
            phone_number = :phone_number
        WHERE customer_id = :customer_id
        RETURNING customer_id, version, event_seq
    ), e AS (
        INSERT INTO events (customer_id, event_seq, kind, customer_version, occurred_at, payload,
            traceparent)
        SELECT customer_id, event_seq, 'customer_updated', version, :now, CAST(:payload AS json),
            CAST(:traceparent AS text)
        FROM c
    ), f AS (
        INSERT INTO fact_changes (customer_id, event_seq, fact, old_value, principal, changed_at)
        SELECT c.customer_id, c.event_seq, n.fact, n.old_value, :principal, :now
        FROM c CROSS JOIN unnest(CAST(:facts AS text[]), CAST(:old_values AS text[]))
            AS n (fact, old_value)
    )
    SELECT count(*) FROM c
    """
)
_RELEASE_PHONE_NUMBER = Statement("DELETE FROM phone_numbers WHERE phone_number = :phone_number")
_TAKE_PHONE_NUMBER = Statement(
    "INSERT INTO phone_numbers (phone_number, customer_id) VALUES (:phone_number, :customer_id)"
)


def replace_names(
    connection: Connection, before: Customer, phone_number: str, moment: Moment, principal: str
) -> None:
    """Replace names and phone number of a locked customer, with the record of the change and one
    event, both without the former values.

    Raises IntegrityError if another erased customer has the phone number.
    """
    _RELEASE_PHONE_NUMBER.run(connection, {"phone_number": before.phone_number})
    values = {"phone_number": phone_number, "customer_id": before.customer_id}
    _TAKE_PHONE_NUMBER.run(connection, values)
    shown = [{"fact": name, "old": None, "new": None} for name in _PERSONAL_FACTS]
    _REPLACE.run(
        connection,
        values
        | {
            "name": ERASED_NAME,
            "payload": json.dumps({"ingestion_id": "", "changes": shown, "principal": principal}),
            "facts": list(_PERSONAL_FACTS),
            "old_values": [ERASED_NAME, ERASED_NAME, phone_number],
            "principal": principal,
            "now": moment.now,
            "traceparent": tracing.traceparent(),
        },
    )


_PHONE_NUMBERS = Statement(
    """SELECT old_value, new_value FROM fact_changes
    WHERE customer_id = :customer_id AND fact = 'phone_number'"""
)
_FORMER_PHONE_NUMBERS = Statement(
    "SELECT phone_number FROM former_phone_numbers WHERE customer_id = :customer_id"
)


def phone_numbers(connection: Connection, customer_id: int) -> set[str]:
    """Return the earlier phone numbers of the customer, in E.164."""
    values = {"customer_id": customer_id}
    found = {each for row in _PHONE_NUMBERS.rows(connection, values) for each in row}
    found |= {row[0] for row in _FORMER_PHONE_NUMBERS.rows(connection, values)}
    return found - {None}


_ERASE_FACTS = Statement(
    """UPDATE fact_changes SET new_value = NULL,
        old_value = CASE WHEN fact = 'phone_number' THEN CAST(:phone_number AS text)
            ELSE CAST(:name AS text) END
    WHERE customer_id = :customer_id AND loan_id IS NULL AND fact = ANY(:facts)
        AND (new_value IS NOT NULL OR fact = 'phone_number' AND old_value <> :phone_number)"""
)
_ERASE_REQUESTS = Statement(
    """UPDATE requests SET fingerprint = :fingerprint, customer_after = NULL
    WHERE customer_id = :customer_id AND method IN ('RegisterCustomer', 'UpdateCustomer')"""
)
_ERASE_FORMER = Statement("DELETE FROM former_phone_numbers WHERE customer_id = :customer_id")


def erase_former_values(
    connection: Connection, customer_id: int, phone_number: str, fingerprint: bytes
) -> None:
    """Erase former names and phone numbers, hashes of requests that contained them, and responses.

    `phone_number` is the customer's after the erasure; `fingerprint` are 32 random bytes.
    """
    of_customer = {"customer_id": customer_id}
    values = {"phone_number": phone_number, "name": ERASED_NAME, "facts": list(_PERSONAL_FACTS)}
    _ERASE_FACTS.run(connection, of_customer | values)
    _ERASE_REQUESTS.run(connection, of_customer | {"fingerprint": fingerprint})
    _ERASE_FORMER.run(connection, of_customer)


@dataclass(frozen=True, slots=True)
class _Part:
    """Rows of ingestions in other tables, and the column that says what is left of them."""

    state: str
    tables: Sequence[str]

    def delete(self, connection: Connection, ingestion_ids: Sequence[UUID]) -> None:
        values = {"ingestion_ids": list(ingestion_ids)}
        of = "ingestion_id = ANY(:ingestion_ids)"
        for table in self.tables:
            Statement(f"DELETE FROM {table} WHERE {of}").run(connection, values)
        Statement(f"UPDATE ingestions SET {self.state} = 'DELETED' WHERE {of}").run(
            connection, values
        )


_PARTS = (
    _Part("source_state", ("ingestion_chunks", "ingestion_batches")),
    _Part("row_errors_state", ("row_errors",)),
)
# How `ingestion.merge` writes them.
_ERASE_ROW_ERRORS = Statement(
    """UPDATE row_errors SET found = :erased, expected = :erased, message = :erased
    WHERE message LIKE ANY(:patterns) OR found LIKE ANY(:patterns)"""
)
_ERASED_TEXT = "(erased)"
_REMAINING = Statement(
    """SELECT count(*), max(finished_at) FROM ingestions
    WHERE source = 'UPLOAD' AND source_state <> 'DELETED'"""
)


def delete_sources(connection: Connection, ingestion_ids: Sequence[UUID]) -> None:
    """Delete what is left of the uploaded files, digests and row errors of ended ingestions."""
    for part in _PARTS:
        part.delete(connection, ingestion_ids)


def erase_row_errors(connection: Connection, customer_id: int, numbers: Sequence[str]) -> int:
    """Erase the values of row errors that quote the stored customer or one of these phone numbers,
    in E.164; return how many."""
    patterns = [f"The customer {customer_id} is stored with %"]
    # The last ten digits, because a rejected row may write the number without its country.
    patterns += [f"%{number[-10:]}%" for number in sorted(numbers)]
    values = {"patterns": patterns, "erased": _ERASED_TEXT}
    return _ERASE_ROW_ERRORS.run(connection, values)


def remaining_uploads(connection: Connection) -> tuple[int, datetime | None]:
    """Return how many uploaded files are still stored, and when their last ingestion ended."""
    count, last = _REMAINING.row(connection, {}) or (0, None)
    return count, last
