"""initial schema"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


# Tables of facts, which the database never lets code change or delete.
_IMMUTABLE = ("payments", "decisions", "shadow_decisions", "score_history")
_SEQUENCES = (
    "customer_ids",
    "loan_ids",
    "decision_ids",
    "payment_ids",
    "event_ids",
    "ingestion_event_seqs",
)


def upgrade() -> None:
    for name in _SEQUENCES:
        op.execute(sa.schema.CreateSequence(sa.Sequence(name)))
    _create_tables()
    op.execute(
        """
        CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            RAISE EXCEPTION '% rows are facts and never change', TG_TABLE_NAME
                USING ERRCODE = 'integrity_constraint_violation';
        END $$
        """
    )
    for table in _IMMUTABLE:
        op.execute(
            f"CREATE TRIGGER {table}_immutable BEFORE UPDATE OR DELETE ON {table}"
            " FOR EACH ROW EXECUTE FUNCTION refuse_change()"
        )


def _create_tables() -> None:
    op.create_table(
        "customers",
        sa.Column("customer_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("first_name", sa.Text(), nullable=False),
        sa.Column("last_name", sa.Text(), nullable=False),
        sa.Column("age", sa.SmallInteger(), nullable=False),
        sa.Column("monthly_income_paise", sa.BigInteger(), nullable=False),
        sa.Column("phone_number", sa.Text(), nullable=False),
        sa.Column("approved_limit_paise", sa.BigInteger(), nullable=False),
        sa.Column("imported", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("version", sa.BigInteger(), server_default=sa.text("1"), nullable=False),
        sa.Column("event_seq", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column(
            "current_debt_paise", sa.BigInteger(), server_default=sa.text("0"), nullable=False
        ),
        sa.Column(
            "current_installments_paise",
            sa.BigInteger(),
            server_default=sa.text("0"),
            nullable=False,
        ),
        sa.Column("loan_count", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column(
            "total_principal_paise", sa.BigInteger(), server_default=sa.text("0"), nullable=False
        ),
        sa.Column("emis_on_time", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("emis_due", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("current_year_loans", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("position_as_of", sa.Date(), nullable=False),
        sa.Column("position_valid_until", sa.Date(), nullable=False),
        sa.CheckConstraint(
            "phone_number ~ '^\\+[1-9][0-9]{6,14}$'", name=op.f("customers_phone_number_e164_check")
        ),
        sa.CheckConstraint("age BETWEEN 18 AND 120", name=op.f("customers_age_range_check")),
        sa.CheckConstraint(
            "approved_limit_paise >= 0", name=op.f("customers_approved_limit_not_negative_check")
        ),
        sa.CheckConstraint(
            "char_length(first_name) BETWEEN 1 AND 50",
            name=op.f("customers_first_name_length_check"),
        ),
        sa.CheckConstraint(
            "char_length(last_name) BETWEEN 1 AND 50", name=op.f("customers_last_name_length_check")
        ),
        sa.CheckConstraint(
            "current_debt_paise >= 0 AND current_debt_paise <= total_principal_paise",
            name=op.f("customers_debt_range_check"),
        ),
        sa.CheckConstraint(
            "current_installments_paise >= 0",
            name=op.f("customers_installments_not_negative_check"),
        ),
        sa.CheckConstraint(
            "current_year_loans >= 0 AND current_year_loans <= loan_count",
            name=op.f("customers_current_year_loans_range_check"),
        ),
        sa.CheckConstraint("customer_id > 0", name=op.f("customers_customer_id_positive_check")),
        sa.CheckConstraint(
            "emis_on_time >= 0 AND emis_on_time <= emis_due",
            name=op.f("customers_emis_on_time_range_check"),
        ),
        sa.CheckConstraint(
            "monthly_income_paise > 0 AND monthly_income_paise <= 10000000000",
            name=op.f("customers_monthly_income_range_check"),
        ),
        sa.CheckConstraint(
            "position_as_of < position_valid_until", name=op.f("customers_position_period_check")
        ),
        sa.CheckConstraint(
            "version > 0 AND event_seq >= 0", name=op.f("customers_version_positive_check")
        ),
        sa.PrimaryKeyConstraint("customer_id", name=op.f("customers_pkey")),
        sa.UniqueConstraint("phone_number", name=op.f("customers_phone_number_key")),
        postgresql_with={"fillfactor": "80"},
    )
    op.create_index(
        "customers_name_idx",
        "customers",
        [
            sa.literal_column("lower((first_name || ' '::text) || last_name)").label("full_name"),
            "customer_id",
        ],
        postgresql_ops={"full_name": "text_pattern_ops"},
    )
    op.create_index(
        "customers_phone_prefix_idx",
        "customers",
        ["phone_number"],
        postgresql_ops={"phone_number": "text_pattern_ops"},
    )
    op.create_table(
        "bookmarks",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("bookmarks_pkey")),
    )
    op.create_table(
        "discrepancies",
        sa.Column("discrepancy_id", sa.BigInteger(), autoincrement=True, nullable=False),
        sa.Column("customer_id", sa.BigInteger(), nullable=False),
        sa.Column("found_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("stored", postgresql.JSON(astext_type=sa.Text()), nullable=False),
        sa.Column("computed", postgresql.JSON(astext_type=sa.Text()), nullable=False),
        sa.PrimaryKeyConstraint("discrepancy_id", name=op.f("discrepancies_pkey")),
    )
    op.create_table(
        "events",
        sa.Column("customer_id", sa.BigInteger(), nullable=False),
        sa.Column("event_seq", sa.BigInteger(), nullable=False),
        sa.Column("event_id", sa.BigInteger(), nullable=True),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("customer_version", sa.BigInteger(), nullable=False),
        sa.Column("occurred_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("payload", postgresql.JSON(astext_type=sa.Text()), nullable=False),
        sa.CheckConstraint(
            "kind IN ('customer_registered', 'loan_created', 'loan_declined', 'payment_recorded', 'loan_closed', 'score_changed', 'rows_ingested')",
            name=op.f("events_kind_known_check"),
        ),
        sa.PrimaryKeyConstraint("customer_id", "event_seq", name=op.f("events_pkey")),
        sa.UniqueConstraint("event_id", name=op.f("events_event_id_key")),
    )
    op.create_index(
        "events_unpublished_idx",
        "events",
        ["customer_id", "event_seq"],
        unique=False,
        postgresql_where=sa.text("event_id IS NULL"),
    )
    op.create_table(
        "ingestion_keys",
        sa.Column("ingestion_id", sa.Uuid(), nullable=False),
        sa.Column("customer_id", sa.BigInteger(), nullable=False),
        sa.Column("loan_id", sa.BigInteger(), nullable=False),
        sa.Column("row_number", sa.BigInteger(), nullable=False),
        sa.Column("fingerprint", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint(
            "ingestion_id", "customer_id", "loan_id", name=op.f("ingestion_keys_pkey")
        ),
    )
    op.create_table(
        "ingestions",
        sa.Column("ingestion_id", sa.Uuid(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("filename", sa.Text(), server_default=sa.text("''"), nullable=False),
        sa.Column("on_existing", sa.Text(), nullable=False),
        sa.Column("validate_only", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("import_day", sa.Date(), nullable=False),
        sa.Column("rows_read", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("inserted", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("updated", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("unchanged", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("skipped", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("rejected", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("committed_offset", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("total_rows", sa.BigInteger(), nullable=True),
        sa.Column("size_bytes", sa.BigInteger(), nullable=True),
        sa.Column("sha256", sa.LargeBinary(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("error_code", sa.Text(), nullable=True),
        sa.Column("error_message", sa.Text(), nullable=True),
        sa.Column("principal", sa.Text(), nullable=False),
        sa.CheckConstraint(
            "kind IN ('CUSTOMERS', 'LOANS')", name=op.f("ingestions_kind_known_check")
        ),
        sa.CheckConstraint(
            "on_existing IN ('SKIP', 'UPDATE')", name=op.f("ingestions_on_existing_known_check")
        ),
        sa.CheckConstraint(
            "source IN ('STREAM', 'UPLOAD')", name=op.f("ingestions_source_known_check")
        ),
        sa.CheckConstraint(
            "state IN ('QUEUED', 'RUNNING', 'SUCCEEDED', 'FAILED', 'CANCELLED')",
            name=op.f("ingestions_state_known_check"),
        ),
        sa.CheckConstraint(
            "committed_offset >= 0", name=op.f("ingestions_offset_not_negative_check")
        ),
        sa.CheckConstraint(
            "rows_read = inserted + updated + unchanged + skipped + rejected",
            name=op.f("ingestions_every_row_accounted_check"),
        ),
        sa.PrimaryKeyConstraint("ingestion_id", name=op.f("ingestions_pkey")),
    )
    op.create_index(
        op.f("ingestions_created_at_ingestion_id_idx"),
        "ingestions",
        ["created_at", "ingestion_id"],
        unique=False,
    )
    op.create_table(
        "requests",
        sa.Column("request_id", sa.Uuid(), nullable=False),
        sa.Column("method", sa.Text(), nullable=False),
        sa.Column("fingerprint", sa.LargeBinary(), nullable=False),
        sa.Column("customer_id", sa.BigInteger(), nullable=True),
        sa.Column("decision_id", sa.BigInteger(), nullable=True),
        sa.Column("loan_id", sa.BigInteger(), nullable=True),
        sa.Column("payment_number", sa.Integer(), nullable=True),
        sa.Column("refusal", postgresql.JSON(astext_type=sa.Text()), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("principal", sa.Text(), nullable=False),
        sa.CheckConstraint(
            "customer_id IS NOT NULL OR refusal IS NOT NULL",
            name=op.f("requests_answer_present_check"),
        ),
        sa.CheckConstraint(
            "octet_length(fingerprint) = 32", name=op.f("requests_fingerprint_length_check")
        ),
        sa.PrimaryKeyConstraint("request_id", name=op.f("requests_pkey")),
    )
    op.create_table(
        "scorecards",
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("document", postgresql.JSON(astext_type=sa.Text()), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("added_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("activated_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "state IN ('ACTIVE', 'SHADOW', 'INACTIVE')", name=op.f("scorecards_state_known_check")
        ),
        sa.PrimaryKeyConstraint("version", name=op.f("scorecards_pkey")),
    )
    op.create_index(
        "scorecards_one_active_idx",
        "scorecards",
        ["state"],
        unique=True,
        postgresql_where=sa.text("state = 'ACTIVE'"),
    )
    op.create_index(
        "scorecards_one_shadow_idx",
        "scorecards",
        ["state"],
        unique=True,
        postgresql_where=sa.text("state = 'SHADOW'"),
    )
    op.create_table(
        "tasks",
        sa.Column("task_id", sa.BigInteger(), autoincrement=True, nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), server_default=sa.text("'PENDING'"), nullable=False),
        sa.Column("attempts", sa.SmallInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("due_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("last_error", sa.Text(), nullable=True),
        sa.CheckConstraint(
            "state IN ('PENDING', 'SENT', 'RUNNING', 'PARKED')",
            name=op.f("tasks_state_known_check"),
        ),
        sa.CheckConstraint("attempts >= 0", name=op.f("tasks_attempts_not_negative_check")),
        sa.PrimaryKeyConstraint("task_id", name=op.f("tasks_pkey")),
    )
    op.create_index(
        "tasks_one_pending_idx",
        "tasks",
        ["actor", "subject"],
        unique=True,
        postgresql_where=sa.text("state = 'PENDING'"),
    )
    op.create_index(op.f("tasks_state_due_at_idx"), "tasks", ["state", "due_at"], unique=False)
    op.create_table(
        "credit_scores",
        sa.Column("customer_id", sa.BigInteger(), nullable=False),
        sa.Column("score", sa.SmallInteger(), nullable=False),
        sa.Column("override", sa.Text(), nullable=True),
        sa.Column("customer_version", sa.BigInteger(), nullable=False),
        sa.Column("scorecard_version", sa.Text(), nullable=False),
        sa.Column("computed_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("valid_until", sa.Date(), nullable=False),
        sa.CheckConstraint("score BETWEEN 0 AND 100", name=op.f("credit_scores_score_range_check")),
        sa.ForeignKeyConstraint(
            ["customer_id"], ["customers.customer_id"], name=op.f("credit_scores_customer_id_fkey")
        ),
        sa.PrimaryKeyConstraint("customer_id", name=op.f("credit_scores_pkey")),
    )
    op.create_index(
        op.f("credit_scores_valid_until_idx"), "credit_scores", ["valid_until"], unique=False
    )
    op.create_table(
        "decisions",
        sa.Column("customer_id", sa.BigInteger(), nullable=False),
        sa.Column("decision_id", sa.BigInteger(), nullable=False),
        sa.Column("request_id", sa.Uuid(), nullable=True),
        sa.Column("decided_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("decided_on", sa.Date(), nullable=False),
        sa.Column("approved", sa.Boolean(), nullable=False),
        sa.Column("loan_id", sa.BigInteger(), nullable=True),
        sa.Column("customer_version", sa.BigInteger(), nullable=False),
        sa.Column("scorecard_version", sa.Text(), nullable=False),
        sa.Column("inputs", postgresql.JSON(astext_type=sa.Text()), nullable=False),
        sa.Column("outcome", postgresql.JSON(astext_type=sa.Text()), nullable=False),
        sa.Column("principal", sa.Text(), nullable=False),
        sa.CheckConstraint(
            "approved = (loan_id IS NOT NULL)", name=op.f("decisions_approval_has_loan_check")
        ),
        sa.ForeignKeyConstraint(
            ["scorecard_version"],
            ["scorecards.version"],
            name=op.f("decisions_scorecard_version_fkey"),
        ),
        sa.PrimaryKeyConstraint("customer_id", "decision_id", name=op.f("decisions_pkey")),
    )
    op.create_index(op.f("decisions_decision_id_idx"), "decisions", ["decision_id"], unique=False)
    op.create_table(
        "ingestion_chunks",
        sa.Column("ingestion_id", sa.Uuid(), nullable=False),
        sa.Column("chunk_number", sa.Integer(), nullable=False),
        sa.Column("content", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(
            ["ingestion_id"],
            ["ingestions.ingestion_id"],
            name=op.f("ingestion_chunks_ingestion_id_fkey"),
        ),
        sa.PrimaryKeyConstraint("ingestion_id", "chunk_number", name=op.f("ingestion_chunks_pkey")),
    )
    op.create_table(
        "loans",
        sa.Column("customer_id", sa.BigInteger(), nullable=False),
        sa.Column("loan_id", sa.BigInteger(), nullable=False),
        sa.Column("principal_paise", sa.BigInteger(), nullable=False),
        sa.Column("annual_rate_bps", sa.Integer(), nullable=False),
        sa.Column("tenure_months", sa.SmallInteger(), nullable=False),
        sa.Column("installment_paise", sa.BigInteger(), nullable=False),
        sa.Column("start_date", sa.Date(), nullable=False),
        sa.Column("end_date", sa.Date(), nullable=False),
        sa.Column("imported", sa.Boolean(), nullable=False),
        sa.Column("decision_id", sa.BigInteger(), nullable=True),
        sa.Column("debt_at_booking_paise", sa.BigInteger(), nullable=True),
        sa.Column("limit_at_booking_paise", sa.BigInteger(), nullable=True),
        sa.Column(
            "settled_at_import", sa.SmallInteger(), server_default=sa.text("0"), nullable=False
        ),
        sa.Column(
            "emis_paid_on_time", sa.SmallInteger(), server_default=sa.text("0"), nullable=False
        ),
        sa.Column(
            "installments_settled", sa.SmallInteger(), server_default=sa.text("0"), nullable=False
        ),
        sa.Column("paid_paise", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("last_paid_on", sa.Date(), nullable=True),
        sa.Column("closed_on", sa.Date(), nullable=True),
        sa.Column("ingestion_id", sa.Uuid(), nullable=True),
        sa.Column("ingestion_row", sa.BigInteger(), nullable=True),
        sa.CheckConstraint(
            "(ingestion_id IS NULL) = (ingestion_row IS NULL) AND (imported OR ingestion_id IS NULL)",
            name=op.f("loans_ingestion_of_imported_check"),
        ),
        sa.CheckConstraint(
            "end_date = (start_date + tenure_months * interval '1 month')::date",
            name=op.f("loans_end_date_follows_check"),
        ),
        sa.CheckConstraint(
            "(closed_on IS NOT NULL) = (installments_settled = tenure_months)",
            name=op.f("loans_closed_when_settled_check"),
        ),
        sa.CheckConstraint(
            "annual_rate_bps BETWEEN 0 AND 10000", name=op.f("loans_rate_range_check")
        ),
        sa.CheckConstraint(
            "closed_on IS NULL OR closed_on >= start_date",
            name=op.f("loans_closed_after_start_check"),
        ),
        sa.CheckConstraint(
            "emis_paid_on_time >= 0 AND emis_paid_on_time <= installments_settled",
            name=op.f("loans_paid_on_time_range_check"),
        ),
        sa.CheckConstraint(
            "imported OR (debt_at_booking_paise IS NOT NULL AND limit_at_booking_paise IS NOT NULL AND debt_at_booking_paise <= limit_at_booking_paise)",
            name=op.f("loans_booked_within_limit_check"),
        ),
        sa.CheckConstraint(
            "imported OR decision_id IS NOT NULL", name=op.f("loans_booked_by_decision_check")
        ),
        sa.CheckConstraint(
            "imported OR settled_at_import = 0", name=op.f("loans_booked_starts_unsettled_check")
        ),
        sa.CheckConstraint(
            "installment_paise >= 0", name=op.f("loans_installment_not_negative_check")
        ),
        sa.CheckConstraint("loan_id > 0", name=op.f("loans_loan_id_positive_check")),
        sa.CheckConstraint("paid_paise >= 0", name=op.f("loans_paid_not_negative_check")),
        sa.CheckConstraint(
            "principal_paise > 0 AND principal_paise <= 100000000000",
            name=op.f("loans_principal_range_check"),
        ),
        sa.CheckConstraint(
            "settled_at_import >= 0 AND settled_at_import <= installments_settled AND installments_settled <= tenure_months",
            name=op.f("loans_settled_range_check"),
        ),
        sa.CheckConstraint(
            "tenure_months BETWEEN 1 AND 480", name=op.f("loans_tenure_range_check")
        ),
        sa.ForeignKeyConstraint(
            ["customer_id"], ["customers.customer_id"], name=op.f("loans_customer_id_fkey")
        ),
        sa.PrimaryKeyConstraint("customer_id", "loan_id", name=op.f("loans_pkey")),
        postgresql_with={"fillfactor": "90"},
    )
    op.create_index(op.f("loans_loan_id_idx"), "loans", ["loan_id"], unique=False)
    op.create_table(
        "row_errors",
        sa.Column("ingestion_id", sa.Uuid(), nullable=False),
        sa.Column("row_offset", sa.BigInteger(), nullable=False),
        sa.Column("error_number", sa.SmallInteger(), nullable=False),
        sa.Column("row_number", sa.BigInteger(), nullable=False),
        sa.Column("column_name", sa.Text(), nullable=False),
        sa.Column("code", sa.Text(), nullable=False),
        sa.Column("found", sa.Text(), nullable=False),
        sa.Column("expected", sa.Text(), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["ingestion_id"], ["ingestions.ingestion_id"], name=op.f("row_errors_ingestion_id_fkey")
        ),
        sa.PrimaryKeyConstraint(
            "ingestion_id", "row_offset", "error_number", name=op.f("row_errors_pkey")
        ),
    )
    op.create_table(
        "score_history",
        sa.Column("customer_id", sa.BigInteger(), nullable=False),
        sa.Column("event_seq", sa.BigInteger(), nullable=False),
        sa.Column("score", sa.SmallInteger(), nullable=False),
        sa.Column("previous_score", sa.SmallInteger(), nullable=True),
        sa.Column("override", sa.Text(), nullable=True),
        sa.Column("customer_version", sa.BigInteger(), nullable=False),
        sa.Column("scorecard_version", sa.Text(), nullable=False),
        sa.Column("computed_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("computed_on", sa.Date(), nullable=False),
        sa.Column("cause", sa.Text(), nullable=False),
        sa.CheckConstraint("score BETWEEN 0 AND 100", name=op.f("score_history_score_range_check")),
        sa.ForeignKeyConstraint(
            ["customer_id"], ["customers.customer_id"], name=op.f("score_history_customer_id_fkey")
        ),
        sa.PrimaryKeyConstraint("customer_id", "event_seq", name=op.f("score_history_pkey")),
    )
    op.create_table(
        "payments",
        sa.Column("customer_id", sa.BigInteger(), nullable=False),
        sa.Column("loan_id", sa.BigInteger(), nullable=False),
        sa.Column("payment_number", sa.Integer(), nullable=False),
        sa.Column("payment_id", sa.BigInteger(), nullable=False),
        sa.Column("request_id", sa.Uuid(), nullable=True),
        sa.Column("amount_paise", sa.BigInteger(), nullable=False),
        sa.Column("paid_on", sa.Date(), nullable=False),
        sa.Column("recorded_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("first_settled", sa.SmallInteger(), nullable=True),
        sa.Column("settled_count", sa.SmallInteger(), nullable=False),
        sa.Column("on_time_count", sa.SmallInteger(), nullable=False),
        sa.Column("closed_loan", sa.Boolean(), nullable=False),
        sa.Column("principal", sa.Text(), nullable=False),
        sa.CheckConstraint("amount_paise > 0", name=op.f("payments_amount_positive_check")),
        sa.CheckConstraint(
            "settled_count >= 0 AND on_time_count BETWEEN 0 AND settled_count",
            name=op.f("payments_counts_check"),
        ),
        sa.ForeignKeyConstraint(
            ["customer_id", "loan_id"],
            ["loans.customer_id", "loans.loan_id"],
            name=op.f("payments_customer_id_loan_id_fkey"),
        ),
        sa.PrimaryKeyConstraint(
            "customer_id", "loan_id", "payment_number", name=op.f("payments_pkey")
        ),
    )
    op.create_index(op.f("payments_payment_id_idx"), "payments", ["payment_id"], unique=False)
    op.create_table(
        "shadow_decisions",
        sa.Column("customer_id", sa.BigInteger(), nullable=False),
        sa.Column("decision_id", sa.BigInteger(), nullable=False),
        sa.Column("scorecard_version", sa.Text(), nullable=False),
        sa.Column("approved", sa.Boolean(), nullable=False),
        sa.Column("outcome", postgresql.JSON(astext_type=sa.Text()), nullable=False),
        sa.ForeignKeyConstraint(
            ["customer_id", "decision_id"],
            ["decisions.customer_id", "decisions.decision_id"],
            name=op.f("shadow_decisions_customer_id_decision_id_fkey"),
        ),
        sa.ForeignKeyConstraint(
            ["scorecard_version"],
            ["scorecards.version"],
            name=op.f("shadow_decisions_scorecard_version_fkey"),
        ),
        sa.PrimaryKeyConstraint(
            "customer_id", "decision_id", "scorecard_version", name=op.f("shadow_decisions_pkey")
        ),
    )


def downgrade() -> None:
    _drop_tables()
    op.execute("DROP FUNCTION refuse_change()")
    for name in _SEQUENCES:
        op.execute(sa.schema.DropSequence(sa.Sequence(name)))


def _drop_tables() -> None:
    op.drop_table("shadow_decisions")
    op.drop_index(op.f("payments_payment_id_idx"), table_name="payments")
    op.drop_table("payments")
    op.drop_table("score_history")
    op.drop_table("row_errors")
    op.drop_index(op.f("loans_loan_id_idx"), table_name="loans")
    op.drop_table("loans")
    op.drop_table("ingestion_chunks")
    op.drop_index(op.f("decisions_decision_id_idx"), table_name="decisions")
    op.drop_table("decisions")
    op.drop_index(op.f("credit_scores_valid_until_idx"), table_name="credit_scores")
    op.drop_table("credit_scores")
    op.drop_index(op.f("tasks_state_due_at_idx"), table_name="tasks")
    op.drop_index(
        "tasks_one_pending_idx", table_name="tasks", postgresql_where=sa.text("state = 'PENDING'")
    )
    op.drop_table("tasks")
    op.drop_index(
        "scorecards_one_shadow_idx",
        table_name="scorecards",
        postgresql_where=sa.text("state = 'SHADOW'"),
    )
    op.drop_index(
        "scorecards_one_active_idx",
        table_name="scorecards",
        postgresql_where=sa.text("state = 'ACTIVE'"),
    )
    op.drop_table("scorecards")
    op.drop_table("requests")
    op.drop_index(op.f("ingestions_created_at_ingestion_id_idx"), table_name="ingestions")
    op.drop_table("ingestions")
    op.drop_table("ingestion_keys")
    op.drop_index(
        "events_unpublished_idx", table_name="events", postgresql_where=sa.text("event_id IS NULL")
    )
    op.drop_table("events")
    op.drop_table("discrepancies")
    op.drop_table("bookmarks")
    op.drop_index("customers_phone_prefix_idx", table_name="customers")
    op.drop_index("customers_name_idx", table_name="customers")
    op.drop_table("customers")
