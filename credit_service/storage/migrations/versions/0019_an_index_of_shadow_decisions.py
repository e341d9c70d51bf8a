"""an index of shadow decisions by scorecard"""

from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None

_INDEX = "shadow_decisions_scorecard_version_decision_id_idx"


def upgrade() -> None:
    # Without blocking writers, which requires running outside a transaction.
    with op.get_context().autocommit_block():
        # An interrupted run leaves an invalid index.
        op.drop_index(
            _INDEX, table_name="shadow_decisions", postgresql_concurrently=True, if_exists=True
        )
        op.create_index(
            _INDEX,
            "shadow_decisions",
            ["scorecard_version", "decision_id"],
            postgresql_concurrently=True,
        )


def downgrade() -> None:
    op.drop_index(_INDEX, table_name="shadow_decisions")
