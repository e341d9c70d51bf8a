"""referrals of decisions, and their events"""

import sqlalchemy as sa
from alembic import op

from credit_service.storage import cluster

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None

_KINDS = (
    "'customer_registered', 'loan_created', 'loan_declined', 'payment_recorded', 'loan_closed',"
    " 'score_changed', 'rows_ingested', 'customer_updated', 'loan_updated', 'loan_offer_created',"
    " 'loan_offer_ended', 'scorecard_changed'"
)
_NEW_KINDS = ", 'decision_referred', 'decision_reviewed'"
_CHANGES_MORE_THAN_THE_REVIEW = (
    "OLD.state <> 'PENDING' OR (OLD.customer_id, OLD.decision_id, OLD.kind, OLD.offer::text,"
    " OLD.requested_by, OLD.referred_at, OLD.last_day) IS DISTINCT FROM (NEW.customer_id,"
    " NEW.decision_id, NEW.kind, NEW.offer::text, NEW.requested_by, NEW.referred_at, NEW.last_day)"
)


def upgrade() -> None:
    # Each of these is instant but locks its table: fail, to be retried, instead of blocking all
    # bookings behind a wait for the lock.
    op.execute("SET LOCAL lock_timeout = '3s'")
    op.create_table(
        "referrals",
        sa.Column("customer_id", sa.BigInteger(), nullable=False),
        sa.Column("decision_id", sa.BigInteger(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("offer", sa.JSON(), nullable=True),
        sa.Column("requested_by", sa.Text(), nullable=False),
        sa.Column("referred_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("last_day", sa.Date(), nullable=False),
        sa.Column("state", sa.Text(), server_default=sa.text("'PENDING'"), nullable=False),
        sa.Column("reviewer", sa.Text(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("reviewed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("result_decision_id", sa.BigInteger(), nullable=True),
        sa.CheckConstraint("kind IN ('LOAN', 'OFFER')", name="referrals_kind_known_check"),
        sa.CheckConstraint(
            "(kind = 'OFFER') = (offer IS NOT NULL)", name="referrals_offer_given_check"
        ),
        sa.CheckConstraint(
            "state IN ('PENDING', 'APPROVED', 'DECLINED', 'EXPIRED')",
            name="referrals_state_known_check",
        ),
        sa.CheckConstraint(
            "(state IN ('APPROVED', 'DECLINED')) = (reviewer IS NOT NULL)"
            " AND (reviewer IS NULL) = (reason IS NULL)"
            " AND (reviewer IS NULL) = (reviewed_at IS NULL)",
            name="referrals_reviewed_check",
        ),
        sa.CheckConstraint(
            "(state = 'APPROVED') = (result_decision_id IS NOT NULL)",
            name="referrals_approval_decided_check",
        ),
        sa.CheckConstraint(
            "char_length(reason) BETWEEN 1 AND 500", name="referrals_reason_length_check"
        ),
        *cluster.keys_of_new_table(
            op.get_bind(),
            sa.ForeignKeyConstraint(
                ["customer_id", "decision_id"],
                ["decisions.customer_id", "decisions.decision_id"],
                name="referrals_customer_id_decision_id_fkey",
            ),
            sa.ForeignKeyConstraint(
                ["customer_id", "result_decision_id"],
                ["decisions.customer_id", "decisions.decision_id"],
                name="referrals_customer_id_result_decision_id_fkey",
            ),
        ),
        sa.PrimaryKeyConstraint("customer_id", "decision_id", name="referrals_pkey"),
    )
    op.create_index("referrals_state_decision_id_idx", "referrals", ["state", "decision_id"])
    op.create_index(
        "referrals_result_idx",
        "referrals",
        ["customer_id", "result_decision_id"],
        postgresql_where=sa.text("result_decision_id IS NOT NULL"),
    )
    op.execute(
        "CREATE TRIGGER referrals_reviewed_once BEFORE UPDATE ON referrals"
        f" FOR EACH ROW WHEN ({_CHANGES_MORE_THAN_THE_REVIEW}) EXECUTE FUNCTION refuse_change()"
    )
    op.execute(
        "CREATE TRIGGER referrals_immutable BEFORE DELETE ON referrals"
        " FOR EACH ROW EXECUTE FUNCTION refuse_change()"
    )
    op.execute(
        "CREATE TRIGGER referrals_kept BEFORE TRUNCATE ON referrals"
        " FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
    )
    # It allows more kinds than before: stored rows need no check.
    op.execute("ALTER TABLE events DROP CONSTRAINT events_kind_known_check")
    op.execute(
        "ALTER TABLE events ADD CONSTRAINT events_kind_known_check"
        f" CHECK (kind IN ({_KINDS}{_NEW_KINDS})) NOT VALID"
    )
    with op.get_context().autocommit_block():
        op.execute("ALTER TABLE events VALIDATE CONSTRAINT events_kind_known_check")


def downgrade() -> None:
    op.execute("DELETE FROM events WHERE kind IN ('decision_referred', 'decision_reviewed')")
    op.execute("ALTER TABLE events DROP CONSTRAINT events_kind_known_check")
    op.execute(
        f"ALTER TABLE events ADD CONSTRAINT events_kind_known_check CHECK (kind IN ({_KINDS}))"
    )
    op.drop_table("referrals")
