"""date order of ingestions"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # A wait for the table's lock would block all ingestions: fail instead, to be retried.
    op.execute("SET LOCAL lock_timeout = '3s'")
    op.add_column("ingestions", sa.Column("date_order", sa.Text(), nullable=True))
    op.create_check_constraint(
        op.f("ingestions_date_order_known_check"),
        "ingestions",
        "date_order IN ('DMY', 'MDY', 'YMD')",
    )


def downgrade() -> None:
    op.drop_constraint(op.f("ingestions_date_order_known_check"), "ingestions")
    op.drop_column("ingestions", "date_order")
