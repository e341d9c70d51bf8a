"""contested customers, listed skipped rows and the last activity of ingestions"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Adding them is instant but locks each table: fail, to be retried, instead of blocking all
    # ingestions behind a wait for the lock.
    op.execute("SET LOCAL lock_timeout = '3s'")
    op.create_table(
        "contested_customers",
        sa.Column("customer_id", sa.BigInteger(), nullable=False),
        sa.Column("ingestion_id", sa.Uuid(), nullable=False),
        sa.Column("contested_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["customer_id"],
            ["customers.customer_id"],
            name="contested_customers_customer_id_fkey",
        ),
        sa.PrimaryKeyConstraint("customer_id", name="contested_customers_pkey"),
    )
    op.add_column(
        "ingestions",
        sa.Column(
            "last_activity_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
    )
    op.create_index(
        "ingestions_running_idx",
        "ingestions",
        ["created_at"],
        postgresql_where=sa.text("state = 'RUNNING'"),
    )
    op.add_column(
        "row_errors",
        sa.Column("outcome", sa.Text(), server_default=sa.text("'REJECTED'"), nullable=False),
    )
    op.execute(
        "ALTER TABLE row_errors ADD CONSTRAINT row_errors_outcome_known_check"
        " CHECK (outcome IN ('REJECTED', 'SKIPPED')) NOT VALID"
    )
    with op.get_context().autocommit_block():
        op.execute("ALTER TABLE row_errors VALIDATE CONSTRAINT row_errors_outcome_known_check")


def downgrade() -> None:
    op.drop_constraint("row_errors_outcome_known_check", "row_errors")
    op.drop_column("row_errors", "outcome")
    op.drop_index("ingestions_running_idx", "ingestions")
    op.drop_column("ingestions", "last_activity_at")
    op.drop_table("contested_customers")
