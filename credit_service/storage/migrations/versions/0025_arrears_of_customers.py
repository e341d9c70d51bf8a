"""arrears of customers, and their event"""

import sqlalchemy as sa
from alembic import op

revision = "0025"
down_revision = "0024"
branch_labels = None
depends_on = None

_LOCK_TIMEOUT = "SET LOCAL lock_timeout = '3s'"
_KINDS = (
    "'customer_registered', 'loan_created', 'loan_declined', 'payment_recorded', 'loan_closed',"
    " 'score_changed', 'rows_ingested', 'customer_updated', 'loan_updated', 'loan_offer_created',"
    " 'loan_offer_ended', 'scorecard_changed', 'decision_referred', 'decision_reviewed',"
    " 'payment_reversed', 'loan_prepaid'"
)
_NEW_KINDS = ", 'asset_class_changed'"
_CHECKS = (
    (
        "customers",
        "customers_npa_since_before_due_check",
        (
            "npa_since IS NULL"
            " OR (oldest_unpaid_due IS NOT NULL AND npa_since < oldest_unpaid_due + 90)"
        ),
    ),
    ("customers", "customers_arrears_version_range_check", "arrears_version <= version"),
    ("customers", "customers_announced_class_known_check", "announced_class BETWEEN 0 AND 4"),
    # It allows more kinds than before.
    ("events", "events_kind_known_check", f"kind IN ({_KINDS}{_NEW_KINDS})"),
)
_FIRST_UNPAID_DUE = (
    "((start_date + make_interval(months =>"
    " CASE WHEN installment_paise > 0 THEN installments_settled + 1 ELSE tenure_months END"
    "))::date)"
)
_LOAN_INDEX = "loans_first_unpaid_due_idx"
_NPA_INDEX = "customers_npa_since_idx"


def upgrade() -> None:
    # Each part commits by itself, and an interrupted run is repeated from the start: steps before the
    # last commit do nothing the second time.
    # New columns are instant but lock their table: fail, to be retried, instead of blocking all
    # bookings behind a wait for the lock.
    op.execute(_LOCK_TIMEOUT)
    # Version 1 is that of customers without loans, who have no arrears. Those of the other stored
    # customers are unknown until workers compute them, and are computed by each reader until then.
    op.execute(
        "ALTER TABLE customers"
        " ADD COLUMN IF NOT EXISTS oldest_unpaid_due date,"
        " ADD COLUMN IF NOT EXISTS npa_since date,"
        " ADD COLUMN IF NOT EXISTS arrears_version bigint NOT NULL DEFAULT 1,"
        " ADD COLUMN IF NOT EXISTS announced_class smallint NOT NULL DEFAULT 0"
    )
    op.execute(
        "ALTER TABLE loans ADD COLUMN IF NOT EXISTS arrears_imported boolean NOT NULL DEFAULT false"
    )
    for table, name, condition in _CHECKS:
        op.execute(f"ALTER TABLE {table} DROP CONSTRAINT IF EXISTS {name}")
        op.execute(f"ALTER TABLE {table} ADD CONSTRAINT {name} CHECK ({condition}) NOT VALID")
    # Without blocking writers, which requires running outside a transaction.
    with op.get_context().autocommit_block():
        for table, name, _ in _CHECKS:
            op.execute(f"ALTER TABLE {table} VALIDATE CONSTRAINT {name}")
        # An interrupted run leaves an invalid index.
        op.drop_index(_LOAN_INDEX, table_name="loans", postgresql_concurrently=True, if_exists=True)
        op.create_index(
            _LOAN_INDEX,
            "loans",
            [sa.text(_FIRST_UNPAID_DUE), "customer_id", "loan_id"],
            postgresql_concurrently=True,
            postgresql_where=sa.text("closed_on IS NULL"),
        )
        op.drop_index(
            _NPA_INDEX, table_name="customers", postgresql_concurrently=True, if_exists=True
        )
        op.create_index(
            _NPA_INDEX,
            "customers",
            ["npa_since", "customer_id"],
            postgresql_concurrently=True,
            postgresql_where=sa.text("npa_since IS NOT NULL"),
        )


def downgrade() -> None:
    op.drop_index(_NPA_INDEX, table_name="customers")
    op.drop_index(_LOAN_INDEX, table_name="loans")
    op.execute("DELETE FROM events WHERE kind = 'asset_class_changed'")
    op.execute("ALTER TABLE events DROP CONSTRAINT events_kind_known_check")
    op.execute(
        f"ALTER TABLE events ADD CONSTRAINT events_kind_known_check CHECK (kind IN ({_KINDS}))"
    )
    op.drop_column("loans", "arrears_imported")
    for name in ("announced_class", "arrears_version", "npa_since", "oldest_unpaid_due"):
        op.drop_column("customers", name)
