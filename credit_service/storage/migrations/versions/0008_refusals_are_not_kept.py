"""refusals are not kept"""

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # They had no effect, and some contain a phone number. Servers of the previous release may write
    # more until they are replaced; a later request with the same id deletes those. A later release
    # drops the column.
    op.execute("DELETE FROM requests WHERE refusal IS NOT NULL")


def downgrade() -> None:
    pass
