"""reversals of payments, prepayments, and the revised schedules of loans"""

import sqlalchemy as sa
from alembic import op

from credit_service.storage import cluster

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None

_LOCK_TIMEOUT = "SET LOCAL lock_timeout = '3s'"
_KINDS = (
    "'customer_registered', 'loan_created', 'loan_declined', 'payment_recorded', 'loan_closed',"
    " 'score_changed', 'rows_ingested', 'customer_updated', 'loan_updated', 'loan_offer_created',"
    " 'loan_offer_ended', 'scorecard_changed', 'decision_referred', 'decision_reviewed'"
)
_NEW_KINDS = ", 'payment_reversed', 'loan_prepaid'"
_REVISION = (
    ("agreed_tenure_months", "smallint"),
    ("agreed_installment_paise", "bigint"),
    ("revised_after", "smallint"),
    ("revised_balance_paise", "bigint"),
    ("revised_next_interest_paise", "bigint"),
    ("revised_paid_paise", "bigint"),
)
_COLUMNS_OF_LOANS = (("on_time_at_import", "smallint"), *_REVISION)
_COLUMNS_OF_PAYMENTS = (
    ("purpose", "text NOT NULL DEFAULT 'INSTALLMENTS'"),
    ("effect", "text"),
    ("grace_days", "smallint"),
    ("charge_paise", "bigint NOT NULL DEFAULT 0"),
)
# table, constraint, its condition
_CHECKS = (
    (
        "loans",
        "loans_on_time_at_import_range_check",
        "on_time_at_import BETWEEN 0 AND settled_at_import",
    ),
    (
        "loans",
        "loans_revised_entirely_check",
        (
            f"num_nulls({', '.join(name for name, _ in _REVISION)}) IN (0, 6)"
            " AND (agreed_tenure_months IS NULL OR on_time_at_import IS NOT NULL)"
        ),
    ),
    (
        "loans",
        "loans_revised_range_check",
        (
            "agreed_tenure_months BETWEEN 1 AND 480 AND agreed_installment_paise >= 0"
            " AND revised_after BETWEEN 0 AND tenure_months AND revised_balance_paise >= 0"
            " AND revised_next_interest_paise >= 0 AND revised_paid_paise >= 0"
        ),
    ),
    (
        "payments",
        "payments_purpose_known_check",
        "purpose IN ('INSTALLMENTS', 'PART_PREPAYMENT', 'FORECLOSURE')",
    ),
    (
        "payments",
        "payments_effect_of_prepayment_check",
        (
            "(effect IS NOT NULL) = (purpose = 'PART_PREPAYMENT')"
            " AND (effect IS NULL OR effect IN ('REDUCE_TENURE', 'REDUCE_INSTALLMENT'))"
        ),
    ),
    ("payments", "payments_grace_days_not_negative_check", "grace_days >= 0"),
    (
        "payments",
        "payments_charge_range_check",
        (
            "charge_paise >= 0 AND charge_paise < amount_paise"
            " AND (charge_paise = 0 OR purpose = 'FORECLOSURE')"
        ),
    ),
    ("events", "events_kind_known_check", f"kind IN ({_KINDS}{_NEW_KINDS})"),
)
# Servers of the previous release know no prepayments, and write no grace_days: they would compute a
# prepaid loan wrongly. The error is that of a lost race: they answer ABORTED, and a retry may reach
# a server of this release. A later release drops the trigger.
_REFUSE_OLD_SERVERS = """
    CREATE OR REPLACE FUNCTION refuse_revised_loan() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF EXISTS (SELECT FROM loans WHERE customer_id = NEW.customer_id
                AND loan_id = NEW.loan_id AND agreed_tenure_months IS NOT NULL) THEN
            RAISE serialization_failure USING MESSAGE = 'a prepayment changed this loan';
        END IF;
        RETURN NEW;
    END $$
    """


def upgrade() -> None:
    # Each part commits by itself, and an interrupted run is repeated from the start: steps before the
    # last commit do nothing the second time.
    # Each of these is instant but locks its table: fail, to be retried, instead of blocking all
    # bookings behind a wait for the lock.
    op.execute(_LOCK_TIMEOUT)
    for table, columns in (("loans", _COLUMNS_OF_LOANS), ("payments", _COLUMNS_OF_PAYMENTS)):
        added = ", ".join(f"ADD COLUMN IF NOT EXISTS {name} {kind}" for name, kind in columns)
        op.execute(f"ALTER TABLE {table} {added}")
    for table, name, condition in _CHECKS:
        op.execute(f"ALTER TABLE {table} DROP CONSTRAINT IF EXISTS {name}")
        op.execute(f"ALTER TABLE {table} ADD CONSTRAINT {name} CHECK ({condition}) NOT VALID")
    with op.get_context().autocommit_block():
        for table, name, _ in _CHECKS:
            op.execute(f"ALTER TABLE {table} VALIDATE CONSTRAINT {name}")
    op.execute(_LOCK_TIMEOUT)
    _create_reversals()
    op.execute(
        "CREATE TRIGGER payment_reversals_immutable BEFORE UPDATE OR DELETE ON payment_reversals"
        " FOR EACH ROW EXECUTE FUNCTION refuse_change()"
    )
    op.execute(
        "CREATE TRIGGER payment_reversals_kept BEFORE TRUNCATE ON payment_reversals"
        " FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
    )
    op.execute(_REFUSE_OLD_SERVERS)
    # No servers of the previous release run while a cluster is migrated.
    if not cluster.is_distributed(op.get_bind()):
        op.execute(
            "CREATE TRIGGER payments_beside_revisions BEFORE INSERT ON payments FOR EACH ROW"
            " WHEN (NEW.grace_days IS NULL) EXECUTE FUNCTION refuse_revised_loan()"
        )


def _create_reversals() -> None:
    op.create_table(
        "payment_reversals",
        sa.Column("customer_id", sa.BigInteger(), nullable=False),
        sa.Column("loan_id", sa.BigInteger(), nullable=False),
        sa.Column("payment_number", sa.Integer(), nullable=False),
        sa.Column("reversal_number", sa.Integer(), nullable=False),
        sa.Column("last_payment_number", sa.Integer(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("request_id", sa.Uuid(), nullable=False),
        sa.Column("reversed_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("principal", sa.Text(), nullable=False),
        sa.CheckConstraint(
            "reversal_number > 0 AND last_payment_number >= payment_number",
            name=op.f("payment_reversals_numbers_follow_check"),
        ),
        sa.CheckConstraint(
            "reason IN ('BOUNCED', 'DUPLICATE', 'WRONG_LOAN', 'ENTRY_ERROR')",
            name=op.f("payment_reversals_reason_known_check"),
        ),
        *cluster.keys_of_new_table(
            op.get_bind(),
            sa.ForeignKeyConstraint(
                ["customer_id", "loan_id", "payment_number"],
                ["payments.customer_id", "payments.loan_id", "payments.payment_number"],
                name=op.f("payment_reversals_customer_id_loan_id_payment_number_fkey"),
            ),
        ),
        sa.PrimaryKeyConstraint(
            "customer_id", "loan_id", "payment_number", name="payment_reversals_pkey"
        ),
        sa.UniqueConstraint(
            "customer_id",
            "loan_id",
            "reversal_number",
            name=op.f("payment_reversals_customer_id_loan_id_reversal_number_key"),
        ),
    )


def downgrade() -> None:
    op.execute("DROP TRIGGER IF EXISTS payments_beside_revisions ON payments")
    op.execute("DROP FUNCTION refuse_revised_loan()")
    op.drop_table("payment_reversals")
    op.execute("DELETE FROM events WHERE kind IN ('payment_reversed', 'loan_prepaid')")
    op.execute("ALTER TABLE events DROP CONSTRAINT events_kind_known_check")
    op.execute(
        f"ALTER TABLE events ADD CONSTRAINT events_kind_known_check CHECK (kind IN ({_KINDS}))"
    )
    for table, columns in (("loans", _COLUMNS_OF_LOANS), ("payments", _COLUMNS_OF_PAYMENTS)):
        for name, _ in columns:
            op.drop_column(table, name)
