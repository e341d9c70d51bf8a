"""How each table grows and what ends it: every table of the schema is listed here.

scripts/configuration.py writes the list into docs/operations.md.
"""

from collections.abc import Mapping
from typing import Final, NamedTuple


class Growth(NamedTuple):
    """What a table has rows for, and until when: texts for people."""

    rows: str
    bound: str


_KEPT = "kept"
_ONE_ROW = "the row is replaced"

GROWTH: Final[Mapping[str, Growth]] = {
    "customers": Growth("each customer", _KEPT),
    "phone_numbers": Growth("each phone number in use", "a customer gives it up"),
    "former_phone_numbers": Growth("each phone number that UpdateCustomer replaced", _KEPT),
    "loans": Growth("each loan", _KEPT),
    "payments": Growth("each payment", _KEPT),
    "payment_reversals": Growth("each payment that was reversed", _KEPT),
    "decisions": Growth(
        "each decision of CreateLoan and CreateLoanOffer", "kept: each can be replayed"
    ),
    "loan_offers": Growth("each offer", _KEPT),
    "shadow_decisions": Growth("each of these decisions while there is a shadow scorecard", _KEPT),
    "referrals": Growth("each decision that was referred", "kept, as the decision is"),
    "score_history": Growth("each change of a customer's score", _KEPT),
    "fact_changes": Growth("each fact that an import or UpdateCustomer changed", _KEPT),
    "removed_customers": Growth(
        "each customer that a revert removed", "a later import of the customer's id"
    ),
    "ingestions": Growth("each ingestion", "kept, with its counts"),
    "credit_scores": Growth("each customer", _ONE_ROW),
    "contested_customers": Growth("each customer whose id an import gave to another", _ONE_ROW),
    "scorecards": Growth("each scorecard", "only operators add one"),
    "scorecard_changes": Growth(
        "each request to change a scorecard's state", "only operators make one"
    ),
    "scorecard_schedule": Growth("each scheduled activation", "the scheduled day"),
    "bookmarks": Growth("each rolling job", "a fixed number of rows"),
    "requests": Growth("each write", "`CREDIT_REQUEST_RETENTION_DAYS` after the write"),
    "events": Growth(
        "each event",
        "`CREDIT_EVENT_RETENTION_DAYS` after the event, unless it is unpublished or the newest",
    ),
    "tasks": Growth(
        "each task that is not finished",
        "the end of the work; if it is parked, `CREDIT_PARKED_TASK_RETENTION_DAYS` after that",
    ),
    "task_actions": Growth(
        "each parked task that a call retried or discarded", "only operators make one"
    ),
    "discrepancies": Growth(
        "each difference that the reconciliation found",
        "`CREDIT_DISCREPANCY_RETENTION_DAYS` after it was found",
    ),
    "ingestion_keys": Growth(
        "each row of an ingestion that needs several transactions",
        "the end of the ingestion; of a stream that can be resumed, 7 days after its last rows",
    ),
    "ingestion_chunks": Growth(
        "each MiB of an uploaded file",
        "`CREDIT_SOURCE_RETENTION_DAYS` after the end of the ingestion",
    ),
    "ingestion_batches": Growth(
        "each transaction of an ingestion, with 8 bytes for each streamed row",
        "`CREDIT_SOURCE_RETENTION_DAYS` after the end of the ingestion",
    ),
    "row_errors": Growth(
        "each error of a row; of an ingestion, the errors of about 3,00,000 rows at most",
        "`CREDIT_ROW_ERROR_RETENTION_DAYS` after the end of the ingestion, or the request of its"
        " revert",
    ),
}
"""How each table is bounded, by its name."""
