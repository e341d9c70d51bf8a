"""trace context of events and tasks"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Adding them is instant but locks each table: fail, to be retried, instead of blocking all
    # bookings behind a wait for the lock.
    op.execute("SET LOCAL lock_timeout = '3s'")
    op.add_column("events", sa.Column("traceparent", sa.Text(), nullable=True))
    op.add_column("tasks", sa.Column("traceparent", sa.Text(), nullable=True))


def downgrade() -> None:
    op.drop_column("tasks", "traceparent")
    op.drop_column("events", "traceparent")
