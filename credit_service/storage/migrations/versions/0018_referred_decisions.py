"""decisions that a person must review"""

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None

_INDEX = "decisions_referred_idx"
_CHECK = "decisions_referral_not_approved_check"


def upgrade() -> None:
    # Each part commits by itself, and an interrupted run is repeated from the start: steps before the
    # last commit do nothing the second time.
    # The column is instant but locks the table: fail, to be retried, instead of blocking all
    # bookings behind a wait for the lock. Servers of the previous release store false.
    op.execute("SET LOCAL lock_timeout = '3s'")
    op.execute(
        "ALTER TABLE decisions ADD COLUMN IF NOT EXISTS referred boolean NOT NULL DEFAULT false"
    )
    op.execute(f"ALTER TABLE decisions DROP CONSTRAINT IF EXISTS {_CHECK}")
    op.execute(
        f"ALTER TABLE decisions ADD CONSTRAINT {_CHECK} CHECK (NOT (approved AND referred)) NOT VALID"
    )
    # Without blocking writers, which requires running outside a transaction.
    with op.get_context().autocommit_block():
        op.execute(f"ALTER TABLE decisions VALIDATE CONSTRAINT {_CHECK}")
        # An interrupted run leaves an invalid index.
        op.drop_index(_INDEX, table_name="decisions", postgresql_concurrently=True, if_exists=True)
        op.create_index(
            _INDEX,
            "decisions",
            ["decision_id"],
            postgresql_concurrently=True,
            postgresql_where=sa.text("referred"),
        )


def downgrade() -> None:
    op.drop_index(_INDEX, table_name="decisions")
    op.drop_constraint(_CHECK, "decisions")
    op.drop_column("decisions", "referred")
