"""refusals are not kept"""

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # They had no effect, and some name a phone number. Servers of the release before may write more
    # until they are replaced: those are deleted when their ids come again. The column goes in a
    # later release.
    op.execute("DELETE FROM requests WHERE refusal IS NOT NULL")


def downgrade() -> None:
    pass
