"""facts of customers that callers change, and limits that were set"""

import sqlalchemy as sa
from alembic import op

revision = "0022"
down_revision = "0021"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Each of these is instant but locks its table: fail, to be retried, instead of blocking all
    # bookings behind a wait for the lock.
    op.execute("SET LOCAL lock_timeout = '3s'")
    op.add_column(
        "customers",
        sa.Column("limit_set", sa.Boolean(), server_default=sa.text("false"), nullable=False),
    )
    op.add_column("requests", sa.Column("customer_after", sa.JSON(), nullable=True))
    op.execute("ALTER TABLE fact_changes ALTER COLUMN ingestion_id DROP NOT NULL")
    op.create_table(
        "former_phone_numbers",
        sa.Column("phone_number", sa.Text(), nullable=False),
        sa.Column("customer_id", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("phone_number", "customer_id", name="former_phone_numbers_pkey"),
    )


def downgrade() -> None:
    op.drop_table("former_phone_numbers")
    # fact_changes.ingestion_id stays nullable: changes without an ingestion are never deleted.
    op.drop_column("requests", "customer_after")
    op.drop_column("customers", "limit_set")
