"""The tables, each with its placement on a cluster of PostgreSQL servers.

Money is in paise, rates in basis points per year. Constraints forbid invalid states, so that a
defect elsewhere becomes a rejected commit instead of a wrong fact.
"""

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Date,
    DateTime,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    Sequence,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    false,
    literal_column,
    text,
)
from sqlalchemy.dialects.postgresql import JSON

metadata = MetaData(
    naming_convention={
        "ix": "%(table_name)s_%(column_0_N_name)s_idx",
        "uq": "%(table_name)s_%(column_0_N_name)s_key",
        "ck": "%(table_name)s_%(constraint_name)s_check",
        "fk": "%(table_name)s_%(column_0_N_name)s_fkey",
        "pk": "%(table_name)s_pkey",
    }
)

WITH_CUSTOMER = {"placement": "customer_id"}
"""Placement of a table whose rows are on the same node as their customer's other rows."""
BY_PHONE_NUMBER = {"placement": "phone_number"}
EVERYWHERE = {"placement": "everywhere"}
"""Placement of a table of which each node has a copy."""
LOCAL = {"placement": "local"}
"""Placement of a table that only the coordinator has."""

MAX_IMPORTED_ID = 10**15 - 1
"""Largest customer or loan id in an import."""
FIRST_ISSUED_ID = 10**15 + 1
"""First id that the service issues to customers and loans: above all imported ids."""
ISSUED_ID_STEP = 10
"""Issued ids end in 1. A spreadsheet program keeps 15 digits of a number and sets the 16th to 0, so
that an id from a spreadsheet is unknown instead of another customer's."""
MAX_ID = 2**53 - 1
"""Largest id: a number in JSON is exact up to here."""


def _issued_ids(name: str) -> Sequence:
    # The minimum keeps a sequence from being reset below it.
    return Sequence(
        name,
        start=FIRST_ISSUED_ID,
        increment=ISSUED_ID_STEP,
        minvalue=FIRST_ISSUED_ID,
        maxvalue=MAX_ID,
        metadata=metadata,
    )


customer_ids = _issued_ids("customer_ids")
loan_ids = _issued_ids("loan_ids")
decision_ids = Sequence("decision_ids", metadata=metadata)
payment_ids = Sequence("payment_ids", metadata=metadata)
offer_ids = Sequence("offer_ids", metadata=metadata)
event_ids = Sequence("event_ids", metadata=metadata)
ingestion_event_seqs = Sequence("ingestion_event_seqs", metadata=metadata)


def _timestamp(name: str, *, nullable: bool = False) -> Column[object]:
    return Column(name, DateTime(timezone=True), nullable=nullable)


PART_STATES = ("keys_state", "source_state", "row_errors_state")
"""Columns of `ingestions` that name what is left of an ingestion's rows in other tables: KEPT,
DELETING from the first deleted row on, DELETED."""


def _part_state(name: str) -> Column[object]:
    return Column(name, Text, nullable=False, server_default=text("'KEPT'"))


customers = Table(
    "customers",
    metadata,
    Column("customer_id", BigInteger, primary_key=True, autoincrement=False),
    Column("first_name", Text, nullable=False),
    Column("last_name", Text, nullable=False),
    Column("age", SmallInteger, nullable=False),
    Column("monthly_income_paise", BigInteger, nullable=False),
    Column("phone_number", Text, nullable=False),
    Column("approved_limit_paise", BigInteger, nullable=False),
    Column("imported", Boolean, nullable=False),
    _timestamp("created_at"),
    # Raised by every change of a decision's inputs; the writer of such a change names the version
    # that it read.
    Column("version", BigInteger, nullable=False, server_default=text("1")),
    # The number of the customer's newest event.
    Column("event_seq", BigInteger, nullable=False, server_default=text("0")),
    # The credit position. Debt, installments, counts and totals are always valid; the installments
    # due and this year's loans from position_as_of until the day before position_valid_until.
    Column("current_debt_paise", BigInteger, nullable=False, server_default=text("0")),
    Column("current_installments_paise", BigInteger, nullable=False, server_default=text("0")),
    Column("loan_count", Integer, nullable=False, server_default=text("0")),
    Column("total_principal_paise", BigInteger, nullable=False, server_default=text("0")),
    Column("emis_on_time", Integer, nullable=False, server_default=text("0")),
    Column("emis_due", Integer, nullable=False, server_default=text("0")),
    Column("current_year_loans", Integer, nullable=False, server_default=text("0")),
    Column("position_as_of", Date, nullable=False),
    Column("position_valid_until", Date, nullable=False),
    # The sums over the offers that hold credit, valid until the day before held_valid_until, which
    # is null without a hold. A day of its own: servers of the previous release move
    # position_valid_until, and know no holds.
    Column("held_principal_paise", BigInteger, nullable=False, server_default=text("0")),
    Column("held_installments_paise", BigInteger, nullable=False, server_default=text("0")),
    Column("held_valid_until", Date, nullable=True),
    # Whether an import or a caller set the limit. Servers of the previous release set limits
    # without it: a limit that differs from the rule counts as set, see domain.customers.
    Column("limit_set", Boolean, nullable=False, server_default=false()),
    # The ingestion that inserted or last updated the customer, and the row's number in that source;
    # null for a registered customer, and for those stored by servers of an earlier release.
    Column("ingestion_id", Uuid, nullable=True),
    Column("ingestion_row", BigInteger, nullable=True),
    # The arrears: see domain.delinquency.Arrears. Known if arrears_version is version; servers of
    # release 0.1.0 raise version alone. Neither due date nor versions have an index, so that an
    # update of them needs no index writes.
    Column("oldest_unpaid_due", Date, nullable=True),
    Column("npa_since", Date, nullable=True),
    Column("arrears_version", BigInteger, nullable=False, server_default=text("1")),
    # The asset class of the newest asset_class_changed event: 0 STANDARD … 4 NPA.
    Column("announced_class", SmallInteger, nullable=False, server_default=text("0")),
    # What a policy counts in the loans, see domain.policy_facts: as of facts_as_of, stored with the
    # score of a scorecard that needs it. Known if facts_version is version: every other write
    # raises version alone.
    Column("facts_version", BigInteger, nullable=False, server_default=text("0")),
    Column("facts_as_of", Date, nullable=True),
    Column("active_loans", Integer, nullable=False, server_default=text("0")),
    Column("principal_outstanding_paise", BigInteger, nullable=False, server_default=text("0")),
    Column("emis_on_time_when_due", Integer, nullable=False, server_default=text("0")),
    Column("emis_fallen_due", Integer, nullable=False, server_default=text("0")),
    Column("next_due_of_repaid", Date, nullable=True),
    CheckConstraint("customer_id > 0", "customer_id_positive"),
    # Rows older than the separation of ids have imported ids up to 10^15, and issued ones below it.
    CheckConstraint(
        "customer_id <= 9007199254740991 AND (NOT imported OR customer_id <= 1000000000000000)",
        "customer_id_range",
    ),
    CheckConstraint("char_length(first_name) BETWEEN 1 AND 50", "first_name_length"),
    CheckConstraint("char_length(last_name) BETWEEN 1 AND 50", "last_name_length"),
    CheckConstraint("age BETWEEN 18 AND 120", "age_range"),
    CheckConstraint(
        "monthly_income_paise > 0 AND monthly_income_paise <= 10000000000", "monthly_income_range"
    ),
    CheckConstraint(r"phone_number ~ '^\+[1-9][0-9]{6,14}$'", "phone_number_e164"),
    CheckConstraint("approved_limit_paise >= 0", "approved_limit_not_negative"),
    CheckConstraint("version > 0 AND event_seq >= 0", "version_positive"),
    CheckConstraint(
        "current_debt_paise >= 0 AND current_debt_paise <= total_principal_paise", "debt_range"
    ),
    CheckConstraint("current_installments_paise >= 0", "installments_not_negative"),
    CheckConstraint("emis_on_time >= 0 AND emis_on_time <= emis_due", "emis_on_time_range"),
    CheckConstraint(
        "current_year_loans >= 0 AND current_year_loans <= loan_count", "current_year_loans_range"
    ),
    CheckConstraint("position_as_of < position_valid_until", "position_period"),
    CheckConstraint(
        "held_principal_paise >= 0 AND held_installments_paise >= 0"
        " AND (held_principal_paise > 0) = (held_valid_until IS NOT NULL)",
        "held_range",
    ),
    CheckConstraint(
        "npa_since IS NULL"
        " OR (oldest_unpaid_due IS NOT NULL AND npa_since < oldest_unpaid_due + 90)",
        "npa_since_before_due",
    ),
    CheckConstraint("arrears_version <= version", "arrears_version_range"),
    CheckConstraint("announced_class BETWEEN 0 AND 4", "announced_class_known"),
    CheckConstraint(
        "facts_version <= version AND (facts_version = 0 OR facts_as_of IS NOT NULL)",
        "facts_version_range",
    ),
    # Free space in the page lets an update of the position stay on it without index writes.
    postgresql_with={"fillfactor": "80"},
    info=WITH_CUSTOMER,
)
Index(
    "customers_name_idx",
    literal_column("lower((first_name || ' '::text) || last_name)").label("full_name"),
    customers.c.customer_id,
    postgresql_ops={"full_name": "text_pattern_ops"},
)
Index(
    "customers_last_name_idx",
    literal_column("lower(last_name)").label("lower_last_name"),
    customers.c.customer_id,
    postgresql_ops={"lower_last_name": "text_pattern_ops"},
)
Index(
    "customers_phone_number_idx",
    customers.c.phone_number,
    postgresql_ops={"phone_number": "text_pattern_ops"},
)
# Few at any time.
Index(
    "customers_npa_since_idx",
    customers.c.npa_since,
    customers.c.customer_id,
    postgresql_where=customers.c.npa_since.is_not(None),
)

# The customer of each phone number in use: a number is unique across customers, and they are on
# different nodes.
phone_numbers = Table(
    "phone_numbers",
    metadata,
    Column("phone_number", Text, primary_key=True),
    Column("customer_id", BigInteger, nullable=False),
    info=BY_PHONE_NUMBER,
)

# The customers who had a phone number until UpdateCustomer changed it: a repeat of RegisterCustomer
# and a row of an import may still name their customer by it.
former_phone_numbers = Table(
    "former_phone_numbers",
    metadata,
    Column("phone_number", Text, nullable=False),
    Column("customer_id", BigInteger, nullable=False),
    PrimaryKeyConstraint("phone_number", "customer_id"),
    info=BY_PHONE_NUMBER,
)

scorecards = Table(
    "scorecards",
    metadata,
    Column("version", Text, primary_key=True),
    Column("document", JSON, nullable=False),
    Column("state", Text, nullable=False),
    _timestamp("added_at"),
    _timestamp("activated_at", nullable=True),
    CheckConstraint("state IN ('ACTIVE', 'SHADOW', 'INACTIVE', 'RETIRED')", "state_known"),
    info=EVERYWHERE,
)
Index(
    "scorecards_one_active_idx",
    scorecards.c.state,
    unique=True,
    postgresql_where=scorecards.c.state == text("'ACTIVE'"),
)
Index(
    "scorecards_one_shadow_idx",
    scorecards.c.state,
    unique=True,
    postgresql_where=scorecards.c.state == text("'SHADOW'"),
)

# Activations for coming days. From its day on a row decides, whatever the states say; a worker then
# makes the states follow and deletes it. Servers of release 0.1.0 know states only.
scorecard_schedule = Table(
    "scorecard_schedule",
    metadata,
    Column("effective_on", Date, primary_key=True),
    Column("version", Text, ForeignKey("scorecards.version"), nullable=False),
    Column("principal", Text, nullable=False),
    info=EVERYWHERE,
)

# The history of scorecards, and the requests that made it.
scorecard_changes = Table(
    "scorecard_changes",
    metadata,
    Column("change_number", BigInteger, primary_key=True, autoincrement=False),
    # Null if no request made the change: a scheduled day came.
    Column("request_id", Uuid, nullable=True),
    # SHA-256 of the request's content.
    Column("fingerprint", LargeBinary, nullable=True),
    Column("kind", Text, nullable=False),
    Column("version", Text, ForeignKey("scorecards.version"), nullable=False),
    Column("previous_version", Text, nullable=True),
    Column("effective_on", Date, nullable=True),
    _timestamp("changed_at"),
    Column("principal", Text, nullable=False),
    CheckConstraint(
        "kind IN ('CREATED', 'SCHEDULED', 'ACTIVATED', 'TRIAL_STARTED', 'TRIAL_ENDED', 'RETIRED',"
        " 'UNCHANGED')",
        "kind_known",
    ),
    CheckConstraint(
        "(effective_on IS NOT NULL) = (kind IN ('SCHEDULED', 'ACTIVATED'))", "effective_on_given"
    ),
    # One request may make two changes: the first has its id.
    UniqueConstraint("request_id"),
    Index(None, "version", "change_number"),
    info=EVERYWHERE,
)

decisions = Table(
    "decisions",
    metadata,
    Column("customer_id", BigInteger, nullable=False),
    Column("decision_id", BigInteger, nullable=False),
    Column("request_id", Uuid, nullable=True),
    _timestamp("decided_at"),
    Column("decided_on", Date, nullable=False),
    Column("approved", Boolean, nullable=False),
    # Whether a person must review the request: neither approved nor declined.
    Column("referred", Boolean, nullable=False, server_default=text("false")),
    # The loan that an approval booked, or the offer that it made.
    Column("loan_id", BigInteger, nullable=True),
    Column("offer_id", BigInteger, nullable=True),
    # Version of the customer's position that the decision used.
    Column("customer_version", BigInteger, nullable=False),
    Column("scorecard_version", Text, ForeignKey("scorecards.version"), nullable=False),
    # json, not jsonb: it keeps the written bytes, and a replay compares bytes.
    Column("inputs", JSON, nullable=False),
    Column("outcome", JSON, nullable=False),
    Column("principal", Text, nullable=False),
    PrimaryKeyConstraint("customer_id", "decision_id"),
    CheckConstraint(
        "approved = (loan_id IS NOT NULL OR offer_id IS NOT NULL)", "approval_has_loan_or_offer"
    ),
    CheckConstraint("NOT (approved AND referred)", "referral_not_approved"),
    Index(None, "decision_id"),
    # The few that a person must review.
    Index("decisions_referred_idx", "decision_id", postgresql_where=text("referred")),
    info=WITH_CUSTOMER,
)

# What a shadow scorecard would have decided; without effect.
shadow_decisions = Table(
    "shadow_decisions",
    metadata,
    Column("customer_id", BigInteger, nullable=False),
    Column("decision_id", BigInteger, nullable=False),
    Column("scorecard_version", Text, ForeignKey("scorecards.version"), nullable=False),
    Column("approved", Boolean, nullable=False),
    Column("outcome", JSON, nullable=False),
    PrimaryKeyConstraint("customer_id", "decision_id", "scorecard_version"),
    ForeignKeyConstraint(
        ["customer_id", "decision_id"], ["decisions.customer_id", "decisions.decision_id"]
    ),
    Index(None, "scorecard_version", "decision_id"),
    info=WITH_CUSTOMER,
)

# The review of each decision that was referred.
referrals = Table(
    "referrals",
    metadata,
    Column("customer_id", BigInteger, nullable=False),
    Column("decision_id", BigInteger, nullable=False),
    Column("kind", Text, nullable=False),
    # What an offer, or a loan with charges, needs besides its terms. A server of an earlier release
    # that approves such a loan offers it with its charges instead of booking it without them.
    Column("offer", JSON, nullable=True),
    # The principal of the request, who cannot review it.
    Column("requested_by", Text, nullable=False),
    _timestamp("referred_at"),
    # Last day on which it can be reviewed. After it no reader takes the state for PENDING.
    Column("last_day", Date, nullable=False),
    Column("state", Text, nullable=False, server_default=text("'PENDING'")),
    Column("reviewer", Text, nullable=True),
    Column("reason", Text, nullable=True),
    _timestamp("reviewed_at", nullable=True),
    # The decision that an approval made.
    Column("result_decision_id", BigInteger, nullable=True),
    PrimaryKeyConstraint("customer_id", "decision_id"),
    ForeignKeyConstraint(
        ["customer_id", "decision_id"], ["decisions.customer_id", "decisions.decision_id"]
    ),
    ForeignKeyConstraint(
        ["customer_id", "result_decision_id"], ["decisions.customer_id", "decisions.decision_id"]
    ),
    CheckConstraint("kind IN ('LOAN', 'OFFER')", "kind_known"),
    CheckConstraint("kind = 'LOAN' OR offer IS NOT NULL", "offer_given"),
    CheckConstraint("state IN ('PENDING', 'APPROVED', 'DECLINED', 'EXPIRED')", "state_known"),
    CheckConstraint(
        "(state IN ('APPROVED', 'DECLINED')) = (reviewer IS NOT NULL)"
        " AND (reviewer IS NULL) = (reason IS NULL)"
        " AND (reviewer IS NULL) = (reviewed_at IS NULL)",
        "reviewed",
    ),
    CheckConstraint("(state = 'APPROVED') = (result_decision_id IS NOT NULL)", "approval_decided"),
    CheckConstraint("char_length(reason) BETWEEN 1 AND 500", "reason_length"),
    # The queue of reviewers.
    Index(None, "state", "decision_id"),
    info=WITH_CUSTOMER,
)
Index(
    "referrals_result_idx",
    referrals.c.customer_id,
    referrals.c.result_decision_id,
    postgresql_where=referrals.c.result_decision_id.is_not(None),
)

loans = Table(
    "loans",
    metadata,
    Column("customer_id", BigInteger, ForeignKey("customers.customer_id"), nullable=False),
    Column("loan_id", BigInteger, nullable=False),
    Column("principal_paise", BigInteger, nullable=False),
    Column("annual_rate_bps", Integer, nullable=False),
    Column("tenure_months", SmallInteger, nullable=False),
    Column("installment_paise", BigInteger, nullable=False),
    Column("start_date", Date, nullable=False),
    Column("end_date", Date, nullable=False),
    Column("imported", Boolean, nullable=False),
    Column("decision_id", BigInteger, nullable=True),
    # Copied from the customer's row by the statement that booked the loan.
    Column("debt_at_booking_paise", BigInteger, nullable=True),
    Column("limit_at_booking_paise", BigInteger, nullable=True),
    # Held by offers, likewise; null if a server of release 0.1.0 booked the loan.
    Column("held_at_booking_paise", BigInteger, nullable=True),
    # The accepted offer whose hold became the loan.
    Column("offer_id", BigInteger, nullable=True),
    # Installments settled before the import; payments recorded here settle those after them.
    Column("settled_at_import", SmallInteger, nullable=False, server_default=text("0")),
    Column("emis_paid_on_time", SmallInteger, nullable=False, server_default=text("0")),
    Column("installments_settled", SmallInteger, nullable=False, server_default=text("0")),
    # Sum of the payments recorded here.
    Column("paid_paise", BigInteger, nullable=False, server_default=text("0")),
    Column("last_paid_on", Date, nullable=True),
    Column("closed_on", Date, nullable=True),
    # EMIs on time of the import, 0 for a loan booked here. Null until the loan is first computed
    # from its payments again; until then emis_paid_on_time less those of its payments.
    Column("on_time_at_import", SmallInteger, nullable=True),
    # What prepayments changed; null without one. Tenure, installment and end date above are the
    # current ones: these are the agreed ones, and the state from which later installments follow
    # (see domain.loans.ScheduleRevision).
    Column("agreed_tenure_months", SmallInteger, nullable=True),
    Column("agreed_installment_paise", BigInteger, nullable=True),
    Column("revised_after", SmallInteger, nullable=True),
    Column("revised_balance_paise", BigInteger, nullable=True),
    Column("revised_next_interest_paise", BigInteger, nullable=True),
    Column("revised_paid_paise", BigInteger, nullable=True),
    # Charges of the request that booked it; null for none.
    Column("charges", JSON, nullable=True),
    # The ingestion that inserted or last updated it, and the row's number in that source. They
    # identify a second row with the same key in one ingestion.
    Column("ingestion_id", Uuid, nullable=True),
    Column("ingestion_row", BigInteger, nullable=True),
    # Whether the source of an imported loan gave its settled installments, and so its arrears.
    Column("arrears_imported", Boolean, nullable=False, server_default=false()),
    PrimaryKeyConstraint("customer_id", "loan_id"),
    CheckConstraint("loan_id > 0", "loan_id_positive"),
    CheckConstraint(
        "loan_id <= 9007199254740991 AND (NOT imported OR loan_id <= 1000000000000000)",
        "loan_id_range",
    ),
    CheckConstraint("principal_paise > 0 AND principal_paise <= 100000000000", "principal_range"),
    CheckConstraint("annual_rate_bps BETWEEN 0 AND 10000", "rate_range"),
    CheckConstraint("tenure_months BETWEEN 1 AND 480", "tenure_range"),
    CheckConstraint("installment_paise >= 0", "installment_not_negative"),
    CheckConstraint(
        "end_date = (start_date + tenure_months * interval '1 month')::date", "end_date_follows"
    ),
    CheckConstraint(
        "settled_at_import >= 0 AND settled_at_import <= installments_settled"
        " AND installments_settled <= tenure_months",
        "settled_range",
    ),
    CheckConstraint(
        "emis_paid_on_time >= 0 AND emis_paid_on_time <= installments_settled",
        "paid_on_time_range",
    ),
    CheckConstraint(
        "(closed_on IS NOT NULL) = (installments_settled = tenure_months)", "closed_when_settled"
    ),
    CheckConstraint("paid_paise >= 0", "paid_not_negative"),
    CheckConstraint("closed_on IS NULL OR closed_on >= start_date", "closed_after_start"),
    CheckConstraint("on_time_at_import BETWEEN 0 AND settled_at_import", "on_time_at_import_range"),
    CheckConstraint(
        "num_nulls(agreed_tenure_months, agreed_installment_paise, revised_after,"
        " revised_balance_paise, revised_next_interest_paise, revised_paid_paise) IN (0, 6)"
        " AND (agreed_tenure_months IS NULL OR on_time_at_import IS NOT NULL)",
        "revised_entirely",
    ),
    CheckConstraint(
        "agreed_tenure_months BETWEEN 1 AND 480 AND agreed_installment_paise >= 0"
        " AND revised_after BETWEEN 0 AND tenure_months AND revised_balance_paise >= 0"
        " AND revised_next_interest_paise >= 0 AND revised_paid_paise >= 0",
        "revised_range",
    ),
    # The last guard against lending past the limit if all others fail. An accepted offer held its
    # principal within the limit of its day: see loan_offers.
    CheckConstraint(
        "imported OR (debt_at_booking_paise IS NOT NULL AND limit_at_booking_paise IS NOT NULL"
        " AND (offer_id IS NOT NULL OR debt_at_booking_paise"
        " + coalesce(held_at_booking_paise, 0) <= limit_at_booking_paise))",
        "booked_within_limit",
    ),
    CheckConstraint("imported OR decision_id IS NOT NULL", "booked_by_decision"),
    CheckConstraint("imported OR settled_at_import = 0", "booked_starts_unsettled"),
    CheckConstraint(
        "(ingestion_id IS NULL) = (ingestion_row IS NULL) AND (imported OR ingestion_id IS NULL)",
        "ingestion_of_imported",
    ),
    Index(None, "loan_id"),
    postgresql_with={"fillfactor": "90"},
    info=WITH_CUSTOMER,
)
# Due date of the first unpaid installment of more than 0, for the search for overdue loans.
Index(
    "loans_first_unpaid_due_idx",
    literal_column(
        # As PostgreSQL writes it, for the comparison with migrated tables.
        "((start_date + make_interval(months =>\nCASE\n"
        "    WHEN installment_paise > 0 THEN installments_settled + 1\n"
        "    ELSE tenure_months::integer\nEND))::date)"
    ).label("first_unpaid_due"),
    loans.c.customer_id,
    loans.c.loan_id,
    postgresql_where=loans.c.closed_on.is_(None),
)

# An offer holds its principal and installment until it ends. Its terms never change, and it ends
# once: a trigger refuses other changes.
loan_offers = Table(
    "loan_offers",
    metadata,
    Column("customer_id", BigInteger, nullable=False),
    Column("offer_id", BigInteger, nullable=False),
    Column("decision_id", BigInteger, nullable=False),
    Column("principal_paise", BigInteger, nullable=False),
    Column("annual_rate_bps", Integer, nullable=False),
    Column("tenure_months", SmallInteger, nullable=False),
    Column("installment_paise", BigInteger, nullable=False),
    Column("charges", JSON, nullable=False),
    _timestamp("created_at"),
    Column("created_on", Date, nullable=False),
    # The last day on which it can be accepted and holds credit.
    Column("last_day", Date, nullable=False),
    Column("principal", Text, nullable=False),
    # Debt and held credit with this offer, and the limit, copied from the customer's row by the
    # statement that made the offer.
    Column("used_at_offer_paise", BigInteger, nullable=False),
    Column("limit_at_offer_paise", BigInteger, nullable=False),
    # OPEN past its last day counts as EXPIRED.
    Column("state", Text, nullable=False, server_default=text("'OPEN'")),
    _timestamp("ended_at", nullable=True),
    # Of an accepted offer: the loan, its principal and its start date.
    Column("loan_id", BigInteger, nullable=True),
    Column("accepted_paise", BigInteger, nullable=True),
    Column("disbursed_on", Date, nullable=True),
    # Of a withdrawn offer; may be empty.
    Column("reason", Text, nullable=True),
    PrimaryKeyConstraint("customer_id", "offer_id"),
    ForeignKeyConstraint(
        ["customer_id", "decision_id"], ["decisions.customer_id", "decisions.decision_id"]
    ),
    CheckConstraint("principal_paise > 0 AND principal_paise <= 100000000000", "principal_range"),
    CheckConstraint("annual_rate_bps BETWEEN 0 AND 10000", "rate_range"),
    CheckConstraint("tenure_months BETWEEN 1 AND 480", "tenure_range"),
    CheckConstraint("installment_paise >= 0", "installment_not_negative"),
    CheckConstraint("last_day BETWEEN created_on AND created_on + 30", "last_day_range"),
    CheckConstraint("used_at_offer_paise <= limit_at_offer_paise", "held_within_limit"),
    CheckConstraint("state IN ('OPEN', 'ACCEPTED', 'WITHDRAWN', 'EXPIRED')", "state_known"),
    CheckConstraint("(state = 'OPEN') = (ended_at IS NULL)", "ended_once"),
    CheckConstraint(
        "(state = 'ACCEPTED') = (loan_id IS NOT NULL)"
        " AND (loan_id IS NULL) = (accepted_paise IS NULL)"
        " AND (loan_id IS NULL) = (disbursed_on IS NULL)"
        " AND (accepted_paise IS NULL OR accepted_paise BETWEEN 1 AND principal_paise)"
        " AND (disbursed_on IS NULL OR disbursed_on >= created_on)",
        "accepted_loan",
    ),
    CheckConstraint("(state = 'WITHDRAWN') = (reason IS NOT NULL)", "withdrawn_reason"),
    Index(None, "offer_id"),
    info=WITH_CUSTOMER,
)
# Few at any time.
Index(
    "loan_offers_open_idx",
    loan_offers.c.customer_id,
    postgresql_where=loan_offers.c.state == text("'OPEN'"),
)
Index(
    "loan_offers_ending_idx",
    loan_offers.c.last_day,
    postgresql_where=loan_offers.c.state == text("'OPEN'"),
)

payments = Table(
    "payments",
    metadata,
    Column("customer_id", BigInteger, nullable=False),
    Column("loan_id", BigInteger, nullable=False),
    # 1, 2, 3 … in the order in which the payments were recorded.
    Column("payment_number", Integer, nullable=False),
    Column("payment_id", BigInteger, nullable=False),
    Column("request_id", Uuid, nullable=True),
    Column("amount_paise", BigInteger, nullable=False),
    Column("paid_on", Date, nullable=False),
    _timestamp("recorded_at"),
    # The installments that this payment settled when it was recorded: number of the first, and
    # count. An earlier payment that is recorded or reversed later may change them.
    Column("first_settled", SmallInteger, nullable=True),
    Column("settled_count", SmallInteger, nullable=False),
    Column("on_time_count", SmallInteger, nullable=False),
    Column("closed_loan", Boolean, nullable=False),
    Column("principal", Text, nullable=False),
    Column("purpose", Text, nullable=False, server_default=text("'INSTALLMENTS'")),
    Column("effect", Text, nullable=True),
    # Of the scorecard that was active at the recording; null if a server of release 0.1.0 recorded
    # the payment.
    Column("grace_days", SmallInteger, nullable=True),
    # The part of the amount that is the charge for a foreclosure.
    Column("charge_paise", BigInteger, nullable=False, server_default=text("0")),
    PrimaryKeyConstraint("customer_id", "loan_id", "payment_number"),
    ForeignKeyConstraint(["customer_id", "loan_id"], ["loans.customer_id", "loans.loan_id"]),
    CheckConstraint("amount_paise > 0", "amount_positive"),
    CheckConstraint("settled_count >= 0 AND on_time_count BETWEEN 0 AND settled_count", "counts"),
    CheckConstraint(
        "purpose IN ('INSTALLMENTS', 'PART_PREPAYMENT', 'FORECLOSURE')", "purpose_known"
    ),
    CheckConstraint(
        "(effect IS NOT NULL) = (purpose = 'PART_PREPAYMENT')"
        " AND (effect IS NULL OR effect IN ('REDUCE_TENURE', 'REDUCE_INSTALLMENT'))",
        "effect_of_prepayment",
    ),
    CheckConstraint("grace_days >= 0", "grace_days_not_negative"),
    CheckConstraint(
        "charge_paise >= 0 AND charge_paise < amount_paise"
        " AND (charge_paise = 0 OR purpose = 'FORECLOSURE')",
        "charge_range",
    ),
    Index(None, "payment_id"),
    info=WITH_CUSTOMER,
)

# A reversed payment counts no more. Its row in payments stays as it is.
payment_reversals = Table(
    "payment_reversals",
    metadata,
    Column("customer_id", BigInteger, nullable=False),
    Column("loan_id", BigInteger, nullable=False),
    Column("payment_number", Integer, nullable=False),
    # 1, 2, 3 … in the order of the loan's reversals.
    Column("reversal_number", Integer, nullable=False),
    # The number of the loan's last payment at that time.
    Column("last_payment_number", Integer, nullable=False),
    Column("reason", Text, nullable=False),
    Column("request_id", Uuid, nullable=False),
    _timestamp("reversed_at"),
    Column("principal", Text, nullable=False),
    PrimaryKeyConstraint("customer_id", "loan_id", "payment_number"),
    ForeignKeyConstraint(
        ["customer_id", "loan_id", "payment_number"],
        ["payments.customer_id", "payments.loan_id", "payments.payment_number"],
    ),
    UniqueConstraint("customer_id", "loan_id", "reversal_number"),
    CheckConstraint(
        "reversal_number > 0 AND last_payment_number >= payment_number", "numbers_follow"
    ),
    CheckConstraint(
        "reason IN ('BOUNCED', 'DUPLICATE', 'WRONG_LOAN', 'ENTRY_ERROR')", "reason_known"
    ),
    info=WITH_CUSTOMER,
)

requests = Table(
    "requests",
    metadata,
    # One effect per id and customer, for all principals and methods.
    Column("request_id", Uuid, nullable=False),
    Column("method", Text, nullable=False),
    # SHA-256 of the request's content.
    Column("fingerprint", LargeBinary, nullable=False),
    Column("customer_id", BigInteger, nullable=False),
    Column("decision_id", BigInteger, nullable=True),
    Column("loan_id", BigInteger, nullable=True),
    Column("payment_number", Integer, nullable=True),
    # Always null. Servers of release 0.1.0 read it; a later release drops it.
    Column("refusal", JSON, nullable=True),
    _timestamp("created_at"),
    Column("principal", Text, nullable=False),
    # The response of UpdateCustomer: the customer after the change.
    Column("customer_after", JSON, nullable=True),
    # The id first: servers of the previous release search by it alone.
    PrimaryKeyConstraint("request_id", "customer_id"),
    CheckConstraint("octet_length(fingerprint) = 32", "fingerprint_length"),
    # To delete the old ones.
    Index(None, "created_at"),
    info=WITH_CUSTOMER,
)

events = Table(
    "events",
    metadata,
    # 0 for an event without a single customer.
    Column("customer_id", BigInteger, nullable=False),
    Column("event_seq", BigInteger, nullable=False),
    # Position in the stream, assigned by the relay after the commit; until then the row waits in
    # the outbox.
    Column("event_id", BigInteger, nullable=True),
    Column("kind", Text, nullable=False),
    Column("customer_version", BigInteger, nullable=False),
    _timestamp("occurred_at"),
    Column("payload", JSON, nullable=False),
    # W3C trace context of the work that wrote the event; later work continues its trace.
    Column("traceparent", Text, nullable=True),
    PrimaryKeyConstraint("customer_id", "event_seq"),
    # The relay numbers events under a lock, so that no two customers' events share a number.
    UniqueConstraint("event_id", "customer_id"),
    CheckConstraint(
        "kind IN ('customer_registered', 'loan_created', 'loan_declined', 'payment_recorded',"
        " 'loan_closed', 'score_changed', 'rows_ingested', 'customer_updated', 'loan_updated',"
        " 'loan_offer_created', 'loan_offer_ended', 'scorecard_changed', 'decision_referred',"
        " 'decision_reviewed', 'payment_reversed', 'loan_prepaid', 'asset_class_changed')",
        "kind_known",
    ),
    info=WITH_CUSTOMER,
)
Index(
    "events_unpublished_idx",
    events.c.customer_id,
    events.c.event_seq,
    postgresql_where=events.c.event_id.is_(None),
)

tasks = Table(
    "tasks",
    metadata,
    Column("task_id", BigInteger, primary_key=True, autoincrement=True),
    # Name of the actor, and its argument.
    Column("actor", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("state", Text, nullable=False, server_default=text("'PENDING'")),
    Column("attempts", SmallInteger, nullable=False, server_default=text("0")),
    # Not sent, and not resent by the sweeper, before this instant.
    _timestamp("due_at"),
    _timestamp("created_at"),
    Column("last_error", Text, nullable=True),
    # Of the first traced work that enqueued it.
    Column("traceparent", Text, nullable=True),
    CheckConstraint("state IN ('PENDING', 'SENT', 'RUNNING', 'PARKED')", "state_known"),
    CheckConstraint("attempts >= 0", "attempts_not_negative"),
    Index(None, "state", "due_at"),
    info=LOCAL,
)
# A pending task absorbs a second one for the same work.
Index(
    "tasks_one_pending_idx",
    tasks.c.actor,
    tasks.c.subject,
    unique=True,
    postgresql_where=tasks.c.state == text("'PENDING'"),
)

# Parked tasks that a call retried or discarded, and by whom.
task_actions = Table(
    "task_actions",
    metadata,
    Column("request_id", Uuid, primary_key=True),
    Column("action", Text, nullable=False),
    Column("task_id", BigInteger, nullable=False),
    Column("actor", Text, nullable=False),
    Column("subject", Text, nullable=False),
    _timestamp("acted_at"),
    Column("principal", Text, nullable=False),
    CheckConstraint("action IN ('RETRIED', 'DISCARDED')", "action_known"),
    info=LOCAL,
)

credit_scores = Table(
    "credit_scores",
    metadata,
    Column("customer_id", BigInteger, ForeignKey("customers.customer_id"), primary_key=True),
    Column("score", SmallInteger, nullable=False),
    Column("override", Text, nullable=True),
    Column("customer_version", BigInteger, nullable=False),
    Column("scorecard_version", Text, nullable=False),
    _timestamp("computed_at"),
    Column("valid_until", Date, nullable=False),
    CheckConstraint("score BETWEEN 0 AND 100", "score_range"),
    Index(None, "valid_until"),
    info=WITH_CUSTOMER,
)

score_history = Table(
    "score_history",
    metadata,
    # Without a foreign key: it stays when a revert removes the customer.
    Column("customer_id", BigInteger, nullable=False),
    # The number of the customer's score_changed event.
    Column("event_seq", BigInteger, nullable=False),
    Column("score", SmallInteger, nullable=False),
    Column("previous_score", SmallInteger, nullable=True),
    Column("override", Text, nullable=True),
    Column("customer_version", BigInteger, nullable=False),
    Column("scorecard_version", Text, nullable=False),
    _timestamp("computed_at"),
    Column("computed_on", Date, nullable=False),
    # What changed it: an event's number, or a day, an ingestion, a scorecard.
    Column("cause", Text, nullable=False),
    PrimaryKeyConstraint("customer_id", "event_seq"),
    CheckConstraint("score BETWEEN 0 AND 100", "score_range"),
    info=WITH_CUSTOMER,
)

# Every fact of a customer or loan that an import or a caller replaced. Rows that imports add are no
# change: they have the ingestion's id.
fact_changes = Table(
    "fact_changes",
    metadata,
    # Without a foreign key: it stays when a revert removes the customer.
    Column("customer_id", BigInteger, nullable=False),
    # The number of the customer's event about it.
    Column("event_seq", BigInteger, nullable=False),
    # Its column in customers or loans.
    Column("fact", Text, nullable=False),
    # The loan; null for a fact of the customer.
    Column("loan_id", BigInteger, nullable=True),
    # In PostgreSQL's text format; null for none.
    Column("old_value", Text, nullable=True),
    Column("new_value", Text, nullable=True),
    Column("principal", Text, nullable=False),
    # Null if a caller changed it. Without a foreign key: ingestions are not placed with customers.
    # They are never deleted.
    Column("ingestion_id", Uuid, nullable=True),
    _timestamp("changed_at"),
    # The ingestion and the row number that the customer or loan had before the change. The same
    # ingestion twice: a revert of that ingestion.
    Column("previous_ingestion_id", Uuid, nullable=True),
    Column("previous_ingestion_row", BigInteger, nullable=True),
    PrimaryKeyConstraint("customer_id", "event_seq", "fact"),
    CheckConstraint("old_value IS DISTINCT FROM new_value", "value_changed"),
    Index(None, "ingestion_id"),
    info=WITH_CUSTOMER,
)

# The imported customers that a revert removed. A later import of the same id continues the version
# and the numbers of events: older events and cache entries of that id may still exist.
removed_customers = Table(
    "removed_customers",
    metadata,
    Column("customer_id", BigInteger, primary_key=True, autoincrement=False),
    Column("version", BigInteger, nullable=False),
    Column("event_seq", BigInteger, nullable=False),
    # The reverted ingestion.
    Column("ingestion_id", Uuid, nullable=False),
    _timestamp("removed_at"),
    info=WITH_CUSTOMER,
)

# The progress of rolling jobs.
bookmarks = Table(
    "bookmarks",
    metadata,
    Column("name", Text, primary_key=True),
    Column("position", BigInteger, nullable=False),
    info=LOCAL,
)

# Differences that the reconciliation found and corrected; each one is a defect of the service.
discrepancies = Table(
    "discrepancies",
    metadata,
    Column("discrepancy_id", BigInteger, primary_key=True, autoincrement=True),
    Column("customer_id", BigInteger, nullable=False),
    _timestamp("found_at"),
    Column("stored", JSON, nullable=False),
    Column("computed", JSON, nullable=False),
    info=LOCAL,
)

ingestions = Table(
    "ingestions",
    metadata,
    Column("ingestion_id", Uuid, primary_key=True),
    Column("kind", Text, nullable=False),
    Column("source", Text, nullable=False),
    Column("filename", Text, nullable=False, server_default=text("''")),
    Column("on_existing", Text, nullable=False),
    Column("validate_only", Boolean, nullable=False, server_default=false()),
    Column("state", Text, nullable=False),
    # The day as of which rows are validated: the day on which the ingestion started.
    Column("import_day", Date, nullable=False),
    Column("rows_read", BigInteger, nullable=False, server_default=text("0")),
    Column("inserted", BigInteger, nullable=False, server_default=text("0")),
    Column("updated", BigInteger, nullable=False, server_default=text("0")),
    Column("unchanged", BigInteger, nullable=False, server_default=text("0")),
    Column("skipped", BigInteger, nullable=False, server_default=text("0")),
    Column("rejected", BigInteger, nullable=False, server_default=text("0")),
    # Finished rows of the source; the next batch starts here.
    Column("committed_offset", BigInteger, nullable=False, server_default=text("0")),
    Column("total_rows", BigInteger, nullable=True),
    Column("size_bytes", BigInteger, nullable=True),
    Column("sha256", LargeBinary, nullable=True),
    Column("date_order", Text, nullable=True),
    _timestamp("created_at"),
    _timestamp("started_at", nullable=True),
    _timestamp("finished_at", nullable=True),
    Column("error_code", Text, nullable=True),
    Column("error_message", Text, nullable=True),
    Column("principal", Text, nullable=False),
    # The sheet that was read, and the columns and sheets that were ignored.
    Column("sheet", Text, nullable=False, server_default=text("''")),
    Column("ignored_columns", ARRAY(Text), nullable=False, server_default=text("'{}'")),
    Column("unread_sheets", ARRAY(Text), nullable=False, server_default=text("'{}'")),
    # Field → header of its column in the uploaded file.
    Column("column_headers", JSON, nullable=False, server_default=text("'{}'")),
    # Highest approved limit that its rows may set, from the setting at its start.
    Column("max_limit_paise", BigInteger, nullable=True),
    # Customers whose debt exceeds their limit after it; null until it has ended.
    Column("customers_over_limit", BigInteger, nullable=True),
    # When rows were last stored, or a stream started or resumed.
    Column(
        "last_activity_at", DateTime(timezone=True), nullable=False, server_default=text("now()")
    ),
    # Whether its rows in other tables are kept: the keys; the source, which is an upload's chunks
    # and the digests of a stream's batches; the row errors.
    _part_state("keys_state"),
    _part_state("source_state"),
    _part_state("row_errors_state"),
    # Whether it can be reverted: its rows refer to it, and changed facts to what was there before.
    # False for the ingestions of earlier releases.
    Column("is_traced", Boolean, nullable=False, server_default=false()),
    # The requests that cancelled and reverted it.
    Column("cancel_request_id", Uuid, nullable=True),
    Column("revert_request_id", Uuid, nullable=True),
    Column("reverted_by", Text, nullable=True),
    _timestamp("revert_requested_at", nullable=True),
    _timestamp("reverted_at", nullable=True),
    # The revert has finished the customers with ids up to here.
    Column("reverted_until", BigInteger, nullable=False, server_default=text("0")),
    # Rows that the revert removed, restored, and could not take back.
    Column("rows_removed", BigInteger, nullable=False, server_default=text("0")),
    Column("rows_restored", BigInteger, nullable=False, server_default=text("0")),
    Column("rows_kept", BigInteger, nullable=False, server_default=text("0")),
    UniqueConstraint("cancel_request_id"),
    UniqueConstraint("revert_request_id"),
    CheckConstraint("kind IN ('CUSTOMERS', 'LOANS')", "kind_known"),
    CheckConstraint("source IN ('STREAM', 'UPLOAD')", "source_known"),
    CheckConstraint("on_existing IN ('SKIP', 'UPDATE')", "on_existing_known"),
    CheckConstraint("date_order IN ('DMY', 'MDY', 'YMD')", "date_order_known"),
    CheckConstraint(
        "state IN ('QUEUED', 'RUNNING', 'SUCCEEDED', 'FAILED', 'CANCELLED', 'REVERTING',"
        " 'REVERTED')",
        "state_known",
    ),
    CheckConstraint(
        "(state IN ('REVERTING', 'REVERTED')) = (revert_request_id IS NOT NULL)"
        " AND (revert_request_id IS NULL) = (reverted_by IS NULL)"
        " AND (revert_request_id IS NULL) = (revert_requested_at IS NULL)"
        " AND (state = 'REVERTED') = (reverted_at IS NOT NULL)",
        "revert_requested",
    ),
    CheckConstraint(
        "rows_removed <= inserted AND rows_restored <= updated"
        " AND rows_removed + rows_restored + rows_kept <= inserted + updated",
        "reverted_once",
    ),
    CheckConstraint(
        "rows_read = inserted + updated + unchanged + skipped + rejected", "every_row_accounted"
    ),
    CheckConstraint("committed_offset >= 0", "offset_not_negative"),
    *(
        CheckConstraint(f"{each} IN ('KEPT', 'DELETING', 'DELETED')", f"{each}_known")
        for each in PART_STATES
    ),
    Index(None, "created_at", "ingestion_id"),
    info=LOCAL,
)

# Few at any time; the search for silent streams uses it.
Index(
    "ingestions_running_idx",
    ingestions.c.created_at,
    postgresql_where=ingestions.c.state == text("'RUNNING'"),
)
# Those with rows left to delete.
for _state in PART_STATES:
    Index(
        f"ingestions_{_state}_idx",
        ingestions.c.finished_at,
        postgresql_where=ingestions.c[_state] != text("'DELETED'"),
    )

# Customers whose id an import gave to a different person. Until a row names the stored person
# again, loans with the id may belong to the other one and are not attached.
contested_customers = Table(
    "contested_customers",
    metadata,
    Column("customer_id", BigInteger, ForeignKey("customers.customer_id"), primary_key=True),
    Column("ingestion_id", Uuid, nullable=False),
    _timestamp("contested_at"),
    info=WITH_CUSTOMER,
)

ingestion_chunks = Table(
    "ingestion_chunks",
    metadata,
    Column("ingestion_id", Uuid, ForeignKey("ingestions.ingestion_id"), nullable=False),
    Column("chunk_number", Integer, nullable=False),
    Column("content", LargeBinary, nullable=False),
    PrimaryKeyConstraint("ingestion_id", "chunk_number"),
    info=LOCAL,
)

# Keys of earlier batches of a running ingestion, so that later batches find a second row with the
# same key; workers delete them after its end. Loans that it stored have this in their own row.
ingestion_keys = Table(
    "ingestion_keys",
    metadata,
    Column("ingestion_id", Uuid, nullable=False),
    Column("customer_id", BigInteger, nullable=False),
    # 0 if the rows are customers. -1 for a phone number that the ingestion gave to a customer or
    # took from one: then customer_id is its digits, and fingerprint the customer's id.
    Column("loan_id", BigInteger, nullable=False),
    Column("row_number", BigInteger, nullable=False),
    # 64 bits of a hash of the row's facts.
    Column("fingerprint", BigInteger, nullable=False),
    PrimaryKeyConstraint("ingestion_id", "customer_id", "loan_id"),
    info=LOCAL,
)

# What each transaction of a stream committed, to check that rows sent again are the same; for
# streams and uploads also the customers over their limits.
ingestion_batches = Table(
    "ingestion_batches",
    metadata,
    Column("ingestion_id", Uuid, ForeignKey("ingestions.ingestion_id"), nullable=False),
    # Offset of its first row.
    Column("row_offset", BigInteger, nullable=False),
    # 64 bits of a hash of each row's content, little-endian; null for an upload.
    Column("row_digests", LargeBinary, nullable=True),
    # Customers whose position or facts it wrote and whose debt then exceeds their limit.
    Column("over_limit", ARRAY(BigInteger), nullable=True),
    PrimaryKeyConstraint("ingestion_id", "row_offset"),
    CheckConstraint("row_offset >= 0", "offset_not_negative"),
    info=LOCAL,
)

row_errors = Table(
    "row_errors",
    metadata,
    Column("ingestion_id", Uuid, ForeignKey("ingestions.ingestion_id"), nullable=False),
    # Place of the row among the rows of the source, from 0. The client chooses a streamed row's
    # number, which need not be unique. Rows that a revert kept come after those of the source.
    Column("row_offset", BigInteger, nullable=False),
    # 1, 2 … within the row.
    Column("error_number", SmallInteger, nullable=False),
    Column("row_number", BigInteger, nullable=False),
    Column("column_name", Text, nullable=False),
    Column("code", Text, nullable=False),
    Column("found", Text, nullable=False),
    Column("expected", Text, nullable=False),
    Column("message", Text, nullable=False),
    # The outcome of the row.
    Column("outcome", Text, nullable=False, server_default=text("'REJECTED'")),
    PrimaryKeyConstraint("ingestion_id", "row_offset", "error_number"),
    CheckConstraint("outcome IN ('REJECTED', 'SKIPPED', 'KEPT')", "outcome_known"),
    info=LOCAL,
)
