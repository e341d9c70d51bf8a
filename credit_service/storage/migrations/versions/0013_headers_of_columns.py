"""headers of columns"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Adding it is instant but locks the table: fail, to be retried, instead of blocking all
    # ingestions behind a wait for the lock.
    op.execute("SET LOCAL lock_timeout = '3s'")
    op.add_column(
        "ingestions",
        sa.Column(
            "column_headers", postgresql.JSON(), server_default=sa.text("'{}'"), nullable=False
        ),
    )


def downgrade() -> None:
    op.drop_column("ingestions", "column_headers")
