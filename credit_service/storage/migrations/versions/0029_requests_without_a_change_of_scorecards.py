"""requests without a change of scorecards"""

from alembic import op

revision = "0029"
down_revision = "0028"
branch_labels = None
depends_on = None

_KINDS = "'CREATED', 'SCHEDULED', 'ACTIVATED', 'TRIAL_STARTED', 'TRIAL_ENDED', 'RETIRED'"
# Migration 0017 gave its full name to the naming convention, which repeated the name of the table.
_FORMER_NAME = "scorecard_changes_scorecard_changes_kind_known_check_check"
_NAME = "scorecard_changes_kind_known_check"


def upgrade() -> None:
    # The table has a row for each change of a scorecard: checking them is instant.
    op.execute("SET LOCAL lock_timeout = '3s'")
    op.execute(f"ALTER TABLE scorecard_changes DROP CONSTRAINT {_FORMER_NAME}")
    op.execute(
        f"ALTER TABLE scorecard_changes ADD CONSTRAINT {_NAME}"
        f" CHECK (kind IN ({_KINDS}, 'UNCHANGED'))"
    )


def downgrade() -> None:
    op.execute("ALTER TABLE scorecard_changes DISABLE TRIGGER scorecard_changes_immutable")
    op.execute("DELETE FROM scorecard_changes WHERE kind = 'UNCHANGED'")
    op.execute("ALTER TABLE scorecard_changes ENABLE TRIGGER scorecard_changes_immutable")
    op.execute(f"ALTER TABLE scorecard_changes DROP CONSTRAINT {_NAME}")
    op.execute(
        f"ALTER TABLE scorecard_changes ADD CONSTRAINT {_FORMER_NAME} CHECK (kind IN ({_KINDS}))"
    )
