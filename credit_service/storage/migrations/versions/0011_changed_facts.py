"""facts that imports changed, and customers whom they left above their limits"""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

_KINDS = (
    "'customer_registered', 'loan_created', 'loan_declined', 'payment_recorded', 'loan_closed',"
    " 'score_changed', 'rows_ingested'"
)
_NEW_KINDS = ", 'customer_updated', 'loan_updated'"


def upgrade() -> None:
    # Each of these is instant but locks its table: fail, to be retried, instead of blocking all
    # bookings behind a wait for the lock.
    op.execute("SET LOCAL lock_timeout = '3s'")
    op.create_table(
        "fact_changes",
        sa.Column("customer_id", sa.BigInteger(), nullable=False),
        sa.Column("event_seq", sa.BigInteger(), nullable=False),
        sa.Column("fact", sa.Text(), nullable=False),
        sa.Column("loan_id", sa.BigInteger(), nullable=True),
        sa.Column("old_value", sa.Text(), nullable=True),
        sa.Column("new_value", sa.Text(), nullable=True),
        sa.Column("principal", sa.Text(), nullable=False),
        sa.Column("ingestion_id", sa.Uuid(), nullable=False),
        sa.Column("changed_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint(
            "old_value IS DISTINCT FROM new_value", name="fact_changes_value_changed_check"
        ),
        sa.ForeignKeyConstraint(
            ["customer_id"], ["customers.customer_id"], name="fact_changes_customer_id_fkey"
        ),
        sa.ForeignKeyConstraint(
            ["ingestion_id"], ["ingestions.ingestion_id"], name="fact_changes_ingestion_id_fkey"
        ),
        sa.PrimaryKeyConstraint("customer_id", "event_seq", "fact", name="fact_changes_pkey"),
    )
    op.create_index("fact_changes_ingestion_id_idx", "fact_changes", ["ingestion_id"])
    op.execute(
        "CREATE TRIGGER fact_changes_immutable BEFORE UPDATE OR DELETE ON fact_changes"
        " FOR EACH ROW EXECUTE FUNCTION refuse_change()"
    )
    op.execute(
        "CREATE TRIGGER fact_changes_kept BEFORE TRUNCATE ON fact_changes"
        " FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
    )
    op.add_column("ingestions", sa.Column("customers_over_limit", sa.BigInteger(), nullable=True))
    op.add_column(
        "ingestion_batches", sa.Column("over_limit", sa.ARRAY(sa.BigInteger()), nullable=True)
    )
    # It allows more kinds than before: stored rows need no check.
    op.execute("ALTER TABLE events DROP CONSTRAINT events_kind_known_check")
    op.execute(
        "ALTER TABLE events ADD CONSTRAINT events_kind_known_check"
        f" CHECK (kind IN ({_KINDS}{_NEW_KINDS})) NOT VALID"
    )
    with op.get_context().autocommit_block():
        op.execute("ALTER TABLE events VALIDATE CONSTRAINT events_kind_known_check")


def downgrade() -> None:
    op.execute("ALTER TABLE events DROP CONSTRAINT events_kind_known_check")
    op.execute(
        f"ALTER TABLE events ADD CONSTRAINT events_kind_known_check CHECK (kind IN ({_KINDS}))"
    )
    op.drop_column("ingestion_batches", "over_limit")
    op.drop_column("ingestions", "customers_over_limit")
    op.drop_table("fact_changes")
