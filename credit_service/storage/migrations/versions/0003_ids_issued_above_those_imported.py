"""ids issued above those imported"""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_FIRST = 10**15 + 1
_STEP = 10
_MOST = 2**53 - 1
_SEQUENCES = ("customer_ids", "loan_ids")
_RANGES = (
    (
        "customers",
        "customers_customer_id_range_check",
        f"customer_id <= {_MOST} AND (NOT imported OR customer_id <= {10**15})",
    ),
    (
        "loans",
        "loans_loan_id_range_check",
        f"loan_id <= {_MOST} AND (NOT imported OR loan_id <= {10**15})",
    ),
)


def upgrade() -> None:
    # A wait for a table's lock would block all bookings: fail instead, to be retried.
    op.execute("SET LOCAL lock_timeout = '3s'")
    for name in _SEQUENCES:
        # Any ALTER keeps other transactions from drawing ids until this one ends.
        op.execute(f"ALTER SEQUENCE {name} INCREMENT BY {_STEP}")
        last = op.get_bind().exec_driver_sql(f"SELECT last_value FROM {name}").scalar_one()
        # An import could contain the id 10^15; ids issued after it are above.
        steps = max(0, -(-(last + 1 - _FIRST) // _STEP))
        op.execute(
            f"ALTER SEQUENCE {name} MINVALUE {_FIRST} MAXVALUE {_MOST} START WITH {_FIRST}"
            f" RESTART WITH {_FIRST + steps * _STEP}"
        )
    for table, name, condition in _RANGES:
        # Enforced for new and changed rows at once; a later pass, which blocks no one, validates the
        # stored ones.
        op.execute(f"ALTER TABLE {table} ADD CONSTRAINT {name} CHECK ({condition}) NOT VALID")
    with op.get_context().autocommit_block():
        for table, name, _ in _RANGES:
            op.execute(f"ALTER TABLE {table} VALIDATE CONSTRAINT {name}")


def downgrade() -> None:
    for table, name, _ in _RANGES:
        op.execute(f"ALTER TABLE {table} DROP CONSTRAINT {name}")
    for name in _SEQUENCES:
        op.execute(f"ALTER SEQUENCE {name} INCREMENT BY 1 MINVALUE 1 NO MAXVALUE START WITH 1")
