"""actions of administrators on parked tasks"""

import sqlalchemy as sa
from alembic import op

revision = "0027"
down_revision = "0026"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "task_actions",
        sa.Column("request_id", sa.Uuid(), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("task_id", sa.BigInteger(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("acted_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("principal", sa.Text(), nullable=False),
        sa.CheckConstraint(
            "action IN ('RETRIED', 'DISCARDED')", name=op.f("task_actions_action_known_check")
        ),
        sa.PrimaryKeyConstraint("request_id", name=op.f("task_actions_pkey")),
    )


def downgrade() -> None:
    op.drop_table("task_actions")
