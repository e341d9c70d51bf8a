"""cancelled and reverted ingestions"""

import sqlalchemy as sa
from alembic import op

revision = "0024"
down_revision = "0023"
branch_labels = None
depends_on = None

_LOCK_TIMEOUT = "SET LOCAL lock_timeout = '3s'"
_STATES = "'QUEUED', 'RUNNING', 'SUCCEEDED', 'FAILED', 'CANCELLED'"
_NEW_STATES = ", 'REVERTING', 'REVERTED'"
_OUTCOMES = "'REJECTED', 'SKIPPED'"
_OF_INGESTIONS = (
    ("is_traced", "boolean NOT NULL DEFAULT false"),
    ("cancel_request_id", "uuid"),
    ("revert_request_id", "uuid"),
    ("reverted_by", "text"),
    ("revert_requested_at", "timestamptz"),
    ("reverted_at", "timestamptz"),
    ("reverted_until", "bigint NOT NULL DEFAULT 0"),
    ("rows_removed", "bigint NOT NULL DEFAULT 0"),
    ("rows_restored", "bigint NOT NULL DEFAULT 0"),
    ("rows_kept", "bigint NOT NULL DEFAULT 0"),
)
_REVERT_REQUESTED = (
    "(state IN ('REVERTING', 'REVERTED')) = (revert_request_id IS NOT NULL)"
    " AND (revert_request_id IS NULL) = (reverted_by IS NULL)"
    " AND (revert_request_id IS NULL) = (revert_requested_at IS NULL)"
    " AND (state = 'REVERTED') = (reverted_at IS NOT NULL)"
)
_REVERTED_ONCE = (
    "rows_removed <= inserted AND rows_restored <= updated"
    " AND rows_removed + rows_restored + rows_kept <= inserted + updated"
)


def upgrade() -> None:
    # Each of these is instant but locks its table: fail, to be retried, instead of blocking all
    # bookings behind a wait for the lock.
    op.execute(_LOCK_TIMEOUT)
    op.create_table(
        "removed_customers",
        sa.Column("customer_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("event_seq", sa.BigInteger(), nullable=False),
        sa.Column("ingestion_id", sa.Uuid(), nullable=False),
        sa.Column("removed_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("customer_id", name="removed_customers_pkey"),
    )
    op.execute("ALTER TABLE customers ADD ingestion_id uuid, ADD ingestion_row bigint")
    # The facts stay when a revert removes their customer.
    op.execute(
        "ALTER TABLE fact_changes ADD previous_ingestion_id uuid, ADD previous_ingestion_row bigint"
    )
    # Separately: together, they end a worker node of Citus 14.0 with a segmentation fault.
    op.drop_constraint("fact_changes_customer_id_fkey", "fact_changes")
    op.drop_constraint("score_history_customer_id_fkey", "score_history")
    added = ", ".join(f"ADD {name} {kind}" for name, kind in _OF_INGESTIONS)
    op.execute(f"ALTER TABLE ingestions {added}")
    # The table has one row for each ingestion: checks and indexes lock it for an instant.
    op.create_unique_constraint(
        "ingestions_cancel_request_id_key", "ingestions", ["cancel_request_id"]
    )
    op.create_unique_constraint(
        "ingestions_revert_request_id_key", "ingestions", ["revert_request_id"]
    )
    op.create_check_constraint(
        op.f("ingestions_revert_requested_check"), "ingestions", _REVERT_REQUESTED
    )
    op.create_check_constraint(op.f("ingestions_reverted_once_check"), "ingestions", _REVERTED_ONCE)
    op.execute("ALTER TABLE ingestions DROP CONSTRAINT ingestions_state_known_check")
    op.create_check_constraint(
        op.f("ingestions_state_known_check"), "ingestions", f"state IN ({_STATES}{_NEW_STATES})"
    )
    # It allows more outcomes than before: stored rows need no check.
    op.execute("ALTER TABLE row_errors DROP CONSTRAINT row_errors_outcome_known_check")
    op.execute(
        "ALTER TABLE row_errors ADD CONSTRAINT row_errors_outcome_known_check"
        f" CHECK (outcome IN ({_OUTCOMES}, 'KEPT')) NOT VALID"
    )
    with op.get_context().autocommit_block():
        op.execute("ALTER TABLE row_errors VALIDATE CONSTRAINT row_errors_outcome_known_check")


def downgrade() -> None:
    op.execute("DELETE FROM row_errors WHERE outcome = 'KEPT'")
    op.execute("ALTER TABLE row_errors DROP CONSTRAINT row_errors_outcome_known_check")
    op.create_check_constraint(
        op.f("row_errors_outcome_known_check"), "row_errors", f"outcome IN ({_OUTCOMES})"
    )
    op.execute("ALTER TABLE ingestions DROP CONSTRAINT ingestions_state_known_check")
    op.execute("ALTER TABLE ingestions DROP CONSTRAINT ingestions_revert_requested_check")
    op.execute("ALTER TABLE ingestions DROP CONSTRAINT ingestions_reverted_once_check")
    op.execute("UPDATE ingestions SET state = 'CANCELLED' WHERE state IN ('REVERTING', 'REVERTED')")
    op.create_check_constraint(
        op.f("ingestions_state_known_check"), "ingestions", f"state IN ({_STATES})"
    )
    for name, _ in reversed(_OF_INGESTIONS):
        op.drop_column("ingestions", name)
    for table in ("score_history", "fact_changes"):
        op.create_foreign_key(
            f"{table}_customer_id_fkey", table, "customers", ["customer_id"], ["customer_id"]
        )
    op.drop_column("fact_changes", "previous_ingestion_row")
    op.drop_column("fact_changes", "previous_ingestion_id")
    op.drop_column("customers", "ingestion_row")
    op.drop_column("customers", "ingestion_id")
    op.drop_table("removed_customers")
