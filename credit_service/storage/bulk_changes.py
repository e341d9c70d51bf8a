"""Parts of the statements that change facts of many rows and record each change.

Such a statement reads the rows before the change as `b`, updates them as `u`, and writes the facts
that differ to fact_changes and to events.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from credit_service.observability import tracing


@dataclass(frozen=True, slots=True)
class Origin:
    """The source of changed facts: the ingestion, the principal that sent or reverted it, and the
    time."""

    ingestion_id: UUID
    principal: str
    now: datetime


def values_of(origin: Origin) -> dict[str, Any]:
    """Return the values of the statements that change facts."""
    return {
        "ingestion_id": origin.ingestion_id,
        "principal": origin.principal,
        "now": origin.now,
        "traceparent": tracing.traceparent(),
    }


def changed_facts(facts: Sequence[tuple[str, bool]], columns: str, join: str) -> str:
    """Return the CTE `changed`: each of `facts`, (column, whether events show its values), whose
    value differs between `b` and `u`, joined by the columns `join`.

    `b` must be materialized: on a cluster, it is otherwise read after the update.
    """
    compared = ", ".join(
        f"({place}, '{name}', b.{name}::text, u.{name}::text, {str(shown).lower()})"
        for place, (name, shown) in enumerate(facts)
    )
    return f"""
    changed AS (
        SELECT {columns}, v.place, v.fact, v.old_value, v.new_value, v.shown
        FROM b JOIN u USING ({join})
        CROSS JOIN LATERAL (VALUES {compared}) AS v (place, fact, old_value, new_value, shown)
        WHERE v.old_value IS DISTINCT FROM v.new_value
    )"""


CHANGES_JSON = """json_agg(json_build_object('fact', fact,
            'old', CASE WHEN shown THEN old_value END, 'new', CASE WHEN shown THEN new_value END)
            ORDER BY place)"""
"""The changed facts of a group of rows of `changed`, as JSON for an event."""
PREVIOUS_ROW = "b.ingestion_id AS previous_id, b.ingestion_row AS previous_row"
"""The ingestion and the row that had written the facts before."""
