"""charges of loans, and of referred requests for loans"""

from alembic import op

revision = "0023"
down_revision = "0022"
branch_labels = None
depends_on = None

_CHECK = "referrals_offer_given_check"
# Migration 0020 gave it a prefix and a suffix once more.
_OLD_CHECK = f"referrals_{_CHECK}_check"


def upgrade() -> None:
    # Each part commits by itself, and an interrupted run is repeated from the start: steps before the
    # last commit do nothing the second time.
    # Each of these is instant but locks its table: fail, to be retried, instead of blocking all
    # bookings behind a wait for the lock.
    op.execute("SET LOCAL lock_timeout = '3s'")
    op.execute("ALTER TABLE loans ADD COLUMN IF NOT EXISTS charges json")
    # It allows what the one before it allowed, and a loan with charges.
    op.execute(f"ALTER TABLE referrals DROP CONSTRAINT IF EXISTS {_OLD_CHECK}")
    op.execute(f"ALTER TABLE referrals DROP CONSTRAINT IF EXISTS {_CHECK}")
    op.execute(
        f"ALTER TABLE referrals ADD CONSTRAINT {_CHECK}"
        " CHECK (kind = 'LOAN' OR offer IS NOT NULL) NOT VALID"
    )
    with op.get_context().autocommit_block():
        op.execute(f"ALTER TABLE referrals VALIDATE CONSTRAINT {_CHECK}")


def downgrade() -> None:
    # The trigger would refuse to change a stored referral.
    op.execute("ALTER TABLE referrals DISABLE TRIGGER referrals_reviewed_once")
    op.execute("UPDATE referrals SET offer = NULL WHERE kind = 'LOAN'")
    op.execute("ALTER TABLE referrals ENABLE TRIGGER referrals_reviewed_once")
    op.execute(f"ALTER TABLE referrals DROP CONSTRAINT {_CHECK}")
    op.execute(
        f"ALTER TABLE referrals ADD CONSTRAINT {_OLD_CHECK}"
        " CHECK ((kind = 'OFFER') = (offer IS NOT NULL))"
    )
    op.drop_column("loans", "charges")
