"""an index for each search"""

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

_LAST_NAME = "customers_last_name_idx"
_PHONE_PREFIX = "customers_phone_prefix_idx"
_PHONE = "customers_phone_number_key"
_NEW_PHONE = "customers_phone_number_new_key"


def upgrade() -> None:
    # Without blocking writers, which requires running outside a transaction.
    with op.get_context().autocommit_block():
        _create(
            _LAST_NAME,
            [sa.literal_column("lower(last_name)").label("lower_last_name"), "customer_id"],
            {"lower_last_name": "text_pattern_ops"},
        )
        # One index enforces unique phone numbers and finds them by prefix: imports maintain no more
        # indexes than before.
        _create(_NEW_PHONE, ["phone_number"], {"phone_number": "text_pattern_ops"}, unique=True)
        _drop(_PHONE_PREFIX)
    # A wait for the table's lock would block all writers: fail instead, to be retried.
    op.execute("SET LOCAL lock_timeout = '3s'")
    op.execute(f"ALTER TABLE customers DROP CONSTRAINT {_PHONE}")
    op.execute(f"ALTER INDEX {_NEW_PHONE} RENAME TO {_PHONE}")


def _create(
    name: str, columns: Sequence[Any], operators: dict[str, str], *, unique: bool = False
) -> None:
    # An interrupted run leaves an invalid index.
    _drop(name)
    op.create_index(
        name,
        "customers",
        columns,
        unique=unique,
        postgresql_concurrently=True,
        postgresql_ops=operators,
    )


def _drop(name: str) -> None:
    op.drop_index(name, table_name="customers", postgresql_concurrently=True, if_exists=True)


def downgrade() -> None:
    op.drop_index(_PHONE, table_name="customers")
    op.create_unique_constraint(_PHONE, "customers", ["phone_number"])
    op.create_index(
        _PHONE_PREFIX,
        "customers",
        ["phone_number"],
        postgresql_ops={"phone_number": "text_pattern_ops"},
    )
    op.drop_index(_LAST_NAME, table_name="customers")
