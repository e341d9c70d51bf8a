"""facts refuse truncate"""

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_IMMUTABLE = ("payments", "decisions", "shadow_decisions", "score_history")


def upgrade() -> None:
    # Row triggers do not fire for TRUNCATE. Creating one locks the table for an instant: fail, to be
    # retried, instead of blocking all bookings behind a wait for the lock.
    op.execute("SET LOCAL lock_timeout = '3s'")
    for table in _IMMUTABLE:
        op.execute(
            f"CREATE TRIGGER {table}_kept BEFORE TRUNCATE ON {table}"
            " FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
        )


def downgrade() -> None:
    for table in _IMMUTABLE:
        op.execute(f"DROP TRIGGER {table}_kept ON {table}")
