"""scheduled activations and the history of scorecards"""

import sqlalchemy as sa
from alembic import op

from credit_service.storage import cluster

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None

_STATES = "'ACTIVE', 'SHADOW', 'INACTIVE'"
_KINDS = (
    "'customer_registered', 'loan_created', 'loan_declined', 'payment_recorded', 'loan_closed',"
    " 'score_changed', 'rows_ingested', 'customer_updated', 'loan_updated', 'loan_offer_created',"
    " 'loan_offer_ended'"
)


def upgrade() -> None:
    # Each of these is instant but locks its table: fail, to be retried, instead of blocking all
    # bookings behind a wait for the lock.
    op.execute("SET LOCAL lock_timeout = '3s'")
    op.create_table(
        "scorecard_schedule",
        sa.Column("effective_on", sa.Date(), nullable=False),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("principal", sa.Text(), nullable=False),
        *cluster.keys_of_new_table(
            op.get_bind(),
            sa.ForeignKeyConstraint(
                ["version"], ["scorecards.version"], name="scorecard_schedule_version_fkey"
            ),
        ),
        sa.PrimaryKeyConstraint("effective_on", name="scorecard_schedule_pkey"),
    )
    op.create_table(
        "scorecard_changes",
        sa.Column("change_number", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("request_id", sa.Uuid(), nullable=True),
        sa.Column("fingerprint", sa.LargeBinary(), nullable=True),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("previous_version", sa.Text(), nullable=True),
        sa.Column("effective_on", sa.Date(), nullable=True),
        sa.Column("changed_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("principal", sa.Text(), nullable=False),
        sa.CheckConstraint(
            "kind IN ('CREATED', 'SCHEDULED', 'ACTIVATED', 'TRIAL_STARTED', 'TRIAL_ENDED',"
            " 'RETIRED')",
            name="scorecard_changes_kind_known_check",
        ),
        sa.CheckConstraint(
            "(effective_on IS NOT NULL) = (kind IN ('SCHEDULED', 'ACTIVATED'))",
            name="scorecard_changes_effective_on_given_check",
        ),
        *cluster.keys_of_new_table(
            op.get_bind(),
            sa.ForeignKeyConstraint(
                ["version"], ["scorecards.version"], name="scorecard_changes_version_fkey"
            ),
        ),
        sa.PrimaryKeyConstraint("change_number", name="scorecard_changes_pkey"),
        sa.UniqueConstraint("request_id", name="scorecard_changes_request_id_key"),
    )
    op.create_index(
        "scorecard_changes_version_change_number_idx",
        "scorecard_changes",
        ["version", "change_number"],
    )
    op.execute(
        "CREATE TRIGGER scorecard_changes_immutable BEFORE UPDATE OR DELETE ON scorecard_changes"
        " FOR EACH ROW EXECUTE FUNCTION refuse_change()"
    )
    op.execute(
        "CREATE TRIGGER scorecard_changes_kept BEFORE TRUNCATE ON scorecard_changes"
        " FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
    )
    op.execute("ALTER TABLE scorecards DROP CONSTRAINT scorecards_state_known_check")
    op.execute(
        "ALTER TABLE scorecards ADD CONSTRAINT scorecards_state_known_check"
        f" CHECK (state IN ({_STATES}, 'RETIRED'))"
    )
    # It allows more kinds than before: stored rows need no check.
    op.execute("ALTER TABLE events DROP CONSTRAINT events_kind_known_check")
    op.execute(
        "ALTER TABLE events ADD CONSTRAINT events_kind_known_check"
        f" CHECK (kind IN ({_KINDS}, 'scorecard_changed')) NOT VALID"
    )
    with op.get_context().autocommit_block():
        op.execute("ALTER TABLE events VALIDATE CONSTRAINT events_kind_known_check")


def downgrade() -> None:
    op.execute("DELETE FROM events WHERE kind = 'scorecard_changed'")
    op.execute("ALTER TABLE events DROP CONSTRAINT events_kind_known_check")
    op.execute(
        f"ALTER TABLE events ADD CONSTRAINT events_kind_known_check CHECK (kind IN ({_KINDS}))"
    )
    op.execute("UPDATE scorecards SET state = 'INACTIVE' WHERE state = 'RETIRED'")
    op.execute("ALTER TABLE scorecards DROP CONSTRAINT scorecards_state_known_check")
    op.execute(
        "ALTER TABLE scorecards ADD CONSTRAINT scorecards_state_known_check"
        f" CHECK (state IN ({_STATES}))"
    )
    op.drop_table("scorecard_changes")
    op.drop_table("scorecard_schedule")
