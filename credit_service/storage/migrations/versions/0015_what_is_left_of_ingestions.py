"""what is left of ingestions, and an index of old requests"""

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

_REQUESTS = "requests_created_at_idx"
_STATES = ("keys_state", "source_state", "row_errors_state")


def upgrade() -> None:
    # Without blocking writers, which requires running outside a transaction.
    with op.get_context().autocommit_block():
        # An interrupted run leaves an invalid index.
        op.drop_index(
            _REQUESTS, table_name="requests", postgresql_concurrently=True, if_exists=True
        )
        op.create_index(_REQUESTS, "requests", ["created_at"], postgresql_concurrently=True)
    # The table has one row for each ingestion: checks and indexes lock it for an instant. Fail, to
    # be retried, instead of blocking all ingestions behind a wait for the lock.
    op.execute("SET LOCAL lock_timeout = '3s'")
    for state in _STATES:
        op.add_column(
            "ingestions",
            sa.Column(state, sa.Text(), server_default=sa.text("'KEPT'"), nullable=False),
        )
        op.create_check_constraint(
            op.f(f"ingestions_{state}_known_check"),
            "ingestions",
            f"{state} IN ('KEPT', 'DELETING', 'DELETED')",
        )
        op.create_index(
            f"ingestions_{state}_idx",
            "ingestions",
            ["finished_at"],
            postgresql_where=sa.text(f"{state} <> 'DELETED'"),
        )


def downgrade() -> None:
    op.drop_index(_REQUESTS, table_name="requests")
    for state in _STATES:
        op.drop_column("ingestions", state)
