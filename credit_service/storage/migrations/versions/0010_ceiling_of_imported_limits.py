"""ceiling of imported limits"""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Adding it is instant but locks the table: fail, to be retried, instead of blocking all
    # ingestions behind a wait for the lock.
    op.execute("SET LOCAL lock_timeout = '3s'")
    op.add_column("ingestions", sa.Column("max_limit_paise", sa.BigInteger(), nullable=True))


def downgrade() -> None:
    op.drop_column("ingestions", "max_limit_paise")
