"""loan offers, and the credit that they hold"""

import sqlalchemy as sa
from alembic import op

from credit_service.storage import cluster

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None

_LOCK_TIMEOUT = "SET LOCAL lock_timeout = '3s'"
_KINDS = (
    "'customer_registered', 'loan_created', 'loan_declined', 'payment_recorded', 'loan_closed',"
    " 'score_changed', 'rows_ingested', 'customer_updated', 'loan_updated'"
)
_NEW_KINDS = ", 'loan_offer_created', 'loan_offer_ended'"
_WITHIN_LIMIT = (
    "imported OR (debt_at_booking_paise IS NOT NULL AND limit_at_booking_paise IS NOT NULL AND %s)"
)
# table, constraint that goes (empty for none), constraint that comes, its condition
_CHECKS = (
    (
        "customers",
        "",
        "customers_held_range_check",
        (
            "held_principal_paise >= 0 AND held_installments_paise >= 0"
            " AND (held_principal_paise > 0) = (held_valid_until IS NOT NULL)"
        ),
    ),
    (
        "decisions",
        "decisions_approval_has_loan_check",
        "decisions_approval_has_loan_or_offer_check",
        "approved = (loan_id IS NOT NULL OR offer_id IS NOT NULL)",
    ),
    (
        "loans",
        "loans_booked_within_limit_check",
        "loans_booked_within_limit_check",
        _WITHIN_LIMIT
        % (
            "(offer_id IS NOT NULL OR debt_at_booking_paise"
            " + coalesce(held_at_booking_paise, 0) <= limit_at_booking_paise)"
        ),
    ),
    (
        "events",
        "events_kind_known_check",
        "events_kind_known_check",
        f"kind IN ({_KINDS}{_NEW_KINDS})",
    ),
)
_TERMS = (
    "customer_id, offer_id, decision_id, principal_paise, annual_rate_bps, tenure_months,"
    " installment_paise, created_at, created_on, last_day, principal, used_at_offer_paise,"
    " limit_at_offer_paise"
)
_CHANGES_MORE_THAN_THE_END = (
    "OLD.state <> 'OPEN' OR ("
    + ", ".join(f"OLD.{each.strip()}" for each in _TERMS.split(","))
    + ", OLD.charges::text) IS DISTINCT FROM ("
    + ", ".join(f"NEW.{each.strip()}" for each in _TERMS.split(","))
    + ", NEW.charges::text)"
)
# Servers of the previous release decide without the held credit, and write no held_at_booking_paise.
# The error is that of a lost race: they answer ABORTED, and a retry may reach a server of this
# release. A later release drops the trigger.
_REFUSE_OLD_SERVERS = """
    CREATE OR REPLACE FUNCTION refuse_held_credit() RETURNS trigger LANGUAGE plpgsql AS $$
    DECLARE
        held bigint;
    BEGIN
        SELECT coalesce(sum(principal_paise), 0) INTO held FROM loan_offers
        WHERE customer_id = NEW.customer_id AND state = 'OPEN' AND last_day >= NEW.start_date;
        IF NEW.debt_at_booking_paise + held > NEW.limit_at_booking_paise THEN
            RAISE serialization_failure USING MESSAGE = 'offers hold the credit of this loan';
        END IF;
        RETURN NEW;
    END $$
    """


def upgrade() -> None:
    # Each part commits by itself, and an interrupted run is repeated from the start: steps before the
    # last commit do nothing the second time.
    # New columns are instant but lock their table: fail, to be retried, instead of blocking all
    # bookings behind a wait for the lock.
    op.execute(_LOCK_TIMEOUT)
    op.execute("CREATE SEQUENCE IF NOT EXISTS offer_ids")
    op.execute(
        "ALTER TABLE customers"
        " ADD COLUMN IF NOT EXISTS held_principal_paise bigint NOT NULL DEFAULT 0,"
        " ADD COLUMN IF NOT EXISTS held_installments_paise bigint NOT NULL DEFAULT 0,"
        " ADD COLUMN IF NOT EXISTS held_valid_until date"
    )
    op.execute("ALTER TABLE decisions ADD COLUMN IF NOT EXISTS offer_id bigint")
    op.execute(
        "ALTER TABLE loans ADD COLUMN IF NOT EXISTS held_at_booking_paise bigint,"
        " ADD COLUMN IF NOT EXISTS offer_id bigint"
    )
    for table, old, new, condition in _CHECKS:
        # Each allows what the one before it allowed: stored rows are checked later.
        if old:
            op.execute(f"ALTER TABLE {table} DROP CONSTRAINT IF EXISTS {old}")
        op.execute(f"ALTER TABLE {table} DROP CONSTRAINT IF EXISTS {new}")
        op.execute(f"ALTER TABLE {table} ADD CONSTRAINT {new} CHECK ({condition}) NOT VALID")
    with op.get_context().autocommit_block():
        for table, _, new, _ in _CHECKS:
            op.execute(f"ALTER TABLE {table} VALIDATE CONSTRAINT {new}")
    op.execute(_LOCK_TIMEOUT)
    _create_offers()
    op.execute(
        "CREATE TRIGGER loan_offers_end_once BEFORE UPDATE ON loan_offers"
        f" FOR EACH ROW WHEN ({_CHANGES_MORE_THAN_THE_END}) EXECUTE FUNCTION refuse_change()"
    )
    op.execute(
        "CREATE TRIGGER loan_offers_immutable BEFORE DELETE ON loan_offers"
        " FOR EACH ROW EXECUTE FUNCTION refuse_change()"
    )
    op.execute(
        "CREATE TRIGGER loan_offers_kept BEFORE TRUNCATE ON loan_offers"
        " FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
    )
    op.execute(_REFUSE_OLD_SERVERS)
    # No servers of the previous release run while a cluster is migrated.
    if not cluster.is_distributed(op.get_bind()):
        op.execute(
            "CREATE TRIGGER loans_beside_held_credit BEFORE INSERT ON loans FOR EACH ROW"
            " WHEN (NEW.held_at_booking_paise IS NULL AND NOT NEW.imported)"
            " EXECUTE FUNCTION refuse_held_credit()"
        )


def _create_offers() -> None:
    op.create_table(
        "loan_offers",
        sa.Column("customer_id", sa.BigInteger(), nullable=False),
        sa.Column("offer_id", sa.BigInteger(), nullable=False),
        sa.Column("decision_id", sa.BigInteger(), nullable=False),
        sa.Column("principal_paise", sa.BigInteger(), nullable=False),
        sa.Column("annual_rate_bps", sa.Integer(), nullable=False),
        sa.Column("tenure_months", sa.SmallInteger(), nullable=False),
        sa.Column("installment_paise", sa.BigInteger(), nullable=False),
        sa.Column("charges", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("created_on", sa.Date(), nullable=False),
        sa.Column("last_day", sa.Date(), nullable=False),
        sa.Column("principal", sa.Text(), nullable=False),
        sa.Column("used_at_offer_paise", sa.BigInteger(), nullable=False),
        sa.Column("limit_at_offer_paise", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.Text(), server_default=sa.text("'OPEN'"), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("loan_id", sa.BigInteger(), nullable=True),
        sa.Column("accepted_paise", sa.BigInteger(), nullable=True),
        sa.Column("disbursed_on", sa.Date(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.CheckConstraint(
            "principal_paise > 0 AND principal_paise <= 100000000000",
            name=op.f("loan_offers_principal_range_check"),
        ),
        sa.CheckConstraint(
            "annual_rate_bps BETWEEN 0 AND 10000", name=op.f("loan_offers_rate_range_check")
        ),
        sa.CheckConstraint(
            "tenure_months BETWEEN 1 AND 480", name=op.f("loan_offers_tenure_range_check")
        ),
        sa.CheckConstraint(
            "installment_paise >= 0", name=op.f("loan_offers_installment_not_negative_check")
        ),
        sa.CheckConstraint(
            "last_day BETWEEN created_on AND created_on + 30",
            name=op.f("loan_offers_last_day_range_check"),
        ),
        sa.CheckConstraint(
            "used_at_offer_paise <= limit_at_offer_paise",
            name=op.f("loan_offers_held_within_limit_check"),
        ),
        sa.CheckConstraint(
            "state IN ('OPEN', 'ACCEPTED', 'WITHDRAWN', 'EXPIRED')",
            name=op.f("loan_offers_state_known_check"),
        ),
        sa.CheckConstraint(
            "(state = 'OPEN') = (ended_at IS NULL)", name=op.f("loan_offers_ended_once_check")
        ),
        sa.CheckConstraint(
            "(state = 'ACCEPTED') = (loan_id IS NOT NULL)"
            " AND (loan_id IS NULL) = (accepted_paise IS NULL)"
            " AND (loan_id IS NULL) = (disbursed_on IS NULL)"
            " AND (accepted_paise IS NULL OR accepted_paise BETWEEN 1 AND principal_paise)"
            " AND (disbursed_on IS NULL OR disbursed_on >= created_on)",
            name=op.f("loan_offers_accepted_loan_check"),
        ),
        sa.CheckConstraint(
            "(state = 'WITHDRAWN') = (reason IS NOT NULL)",
            name=op.f("loan_offers_withdrawn_reason_check"),
        ),
        sa.PrimaryKeyConstraint("customer_id", "offer_id", name="loan_offers_pkey"),
        *cluster.keys_of_new_table(
            op.get_bind(),
            sa.ForeignKeyConstraint(
                ["customer_id", "decision_id"],
                ["decisions.customer_id", "decisions.decision_id"],
                name=op.f("loan_offers_customer_id_decision_id_fkey"),
            ),
        ),
    )
    op.create_index("loan_offers_offer_id_idx", "loan_offers", ["offer_id"])
    for name, column in (("open", "customer_id"), ("ending", "last_day")):
        op.create_index(
            f"loan_offers_{name}_idx",
            "loan_offers",
            [column],
            postgresql_where=sa.text("state = 'OPEN'"),
        )


def downgrade() -> None:
    op.execute("DROP TRIGGER IF EXISTS loans_beside_held_credit ON loans")
    op.execute("DROP FUNCTION refuse_held_credit()")
    op.drop_table("loan_offers")
    op.execute("DROP SEQUENCE offer_ids")
    op.execute("ALTER TABLE events DROP CONSTRAINT events_kind_known_check")
    op.execute(
        f"ALTER TABLE events ADD CONSTRAINT events_kind_known_check CHECK (kind IN ({_KINDS}))"
    )
    op.execute("ALTER TABLE loans DROP CONSTRAINT loans_booked_within_limit_check")
    op.execute(
        "ALTER TABLE loans ADD CONSTRAINT loans_booked_within_limit_check"
        f" CHECK ({_WITHIN_LIMIT % 'debt_at_booking_paise <= limit_at_booking_paise'})"
    )
    op.execute("ALTER TABLE decisions DROP CONSTRAINT decisions_approval_has_loan_or_offer_check")
    op.execute(
        "ALTER TABLE decisions ADD CONSTRAINT decisions_approval_has_loan_check"
        " CHECK (approved = (loan_id IS NOT NULL))"
    )
    op.drop_column("loans", "offer_id")
    op.drop_column("loans", "held_at_booking_paise")
    op.drop_column("decisions", "offer_id")
    for name in ("held_valid_until", "held_installments_paise", "held_principal_paise"):
        op.drop_column("customers", name)
