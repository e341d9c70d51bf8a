"""digests of committed rows"""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # The foreign key locks the table of ingestions for an instant: fail, to be retried, instead of
    # blocking all ingestions behind a wait for the lock.
    op.execute("SET LOCAL lock_timeout = '3s'")
    op.create_table(
        "ingestion_batches",
        sa.Column("ingestion_id", sa.Uuid(), nullable=False),
        sa.Column("row_offset", sa.BigInteger(), nullable=False),
        sa.Column("row_digests", sa.LargeBinary(), nullable=True),
        sa.CheckConstraint("row_offset >= 0", name="ingestion_batches_offset_not_negative_check"),
        sa.ForeignKeyConstraint(
            ["ingestion_id"],
            ["ingestions.ingestion_id"],
            name="ingestion_batches_ingestion_id_fkey",
        ),
        sa.PrimaryKeyConstraint("ingestion_id", "row_offset", name="ingestion_batches_pkey"),
    )
    # Hashes do not compress, and queries read parts of long values.
    op.execute("ALTER TABLE ingestion_batches ALTER COLUMN row_digests SET STORAGE EXTERNAL")


def downgrade() -> None:
    op.drop_table("ingestion_batches")
