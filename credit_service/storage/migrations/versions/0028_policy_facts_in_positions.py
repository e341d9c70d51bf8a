"""policy facts in positions"""

from alembic import op

revision = "0028"
down_revision = "0027"
branch_labels = None
depends_on = None

_LOCK_TIMEOUT = "SET LOCAL lock_timeout = '3s'"
_CHECK = "customers_facts_version_range_check"


def upgrade() -> None:
    # New columns are instant but lock their table: fail, to be retried, instead of blocking all
    # bookings behind a wait for the lock. Version 0 is that of no customer: workers store the facts
    # with the next scores, and readers compute them until then.
    op.execute(_LOCK_TIMEOUT)
    op.execute(
        "ALTER TABLE customers"
        " ADD COLUMN IF NOT EXISTS facts_version bigint NOT NULL DEFAULT 0,"
        " ADD COLUMN IF NOT EXISTS facts_as_of date,"
        " ADD COLUMN IF NOT EXISTS active_loans integer NOT NULL DEFAULT 0,"
        " ADD COLUMN IF NOT EXISTS principal_outstanding_paise bigint NOT NULL DEFAULT 0,"
        " ADD COLUMN IF NOT EXISTS emis_on_time_when_due integer NOT NULL DEFAULT 0,"
        " ADD COLUMN IF NOT EXISTS emis_fallen_due integer NOT NULL DEFAULT 0,"
        " ADD COLUMN IF NOT EXISTS next_due_of_repaid date"
    )
    op.execute(f"ALTER TABLE customers DROP CONSTRAINT IF EXISTS {_CHECK}")
    op.execute(
        f"ALTER TABLE customers ADD CONSTRAINT {_CHECK} CHECK"
        " (facts_version <= version AND (facts_version = 0 OR facts_as_of IS NOT NULL)) NOT VALID"
    )
    # Without blocking writers, which requires running outside a transaction.
    with op.get_context().autocommit_block():
        op.execute(f"ALTER TABLE customers VALIDATE CONSTRAINT {_CHECK}")


def downgrade() -> None:
    op.execute(f"ALTER TABLE customers DROP CONSTRAINT {_CHECK}")
    for name in (
        "next_due_of_repaid",
        "emis_fallen_due",
        "emis_on_time_when_due",
        "principal_outstanding_paise",
        "active_loans",
        "facts_as_of",
        "facts_version",
    ):
        op.drop_column("customers", name)
