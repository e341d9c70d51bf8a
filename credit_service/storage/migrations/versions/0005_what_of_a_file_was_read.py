"""what of a file was read"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Constant defaults rewrite no row, but each table is locked for an instant: fail, to be retried,
    # instead of blocking ingestions behind a wait for the lock.
    op.execute("SET LOCAL lock_timeout = '3s'")
    op.add_column("ingestions", sa.Column("sheet", sa.Text(), nullable=False, server_default=""))
    for name in ("ignored_columns", "unread_sheets"):
        column: sa.Column[list[str]] = sa.Column(
            name, sa.ARRAY(sa.Text()), nullable=False, server_default="{}"
        )
        op.add_column("ingestions", column)


def downgrade() -> None:
    for name in ("unread_sheets", "ignored_columns", "sheet"):
        op.drop_column("ingestions", name)
