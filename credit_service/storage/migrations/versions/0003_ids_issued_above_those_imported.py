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
    # A wait for a table would keep all bookings waiting behind it: rather fail, to be run again.
    op.execute("SET LOCAL lock_timeout = '3s'")
    for name in _SEQUENCES:
        # Altering it at all keeps others from drawing from it until the end.
        op.execute(f"ALTER SEQUENCE {name} INCREMENT BY {_STEP}")
        last = op.get_bind().exec_driver_sql(f"SELECT last_value FROM {name}").scalar_one()
        # An import could bring an id of 10^15, and ids issued after it lie above.
        steps = max(0, -(-(last + 1 - _FIRST) // _STEP))
        op.execute(
            f"ALTER SEQUENCE {name} MINVALUE {_FIRST} MAXVALUE {_MOST} START WITH {_FIRST}"
            f" RESTART WITH {_FIRST + steps * _STEP}"
        )
    for table, name, condition in _RANGES:
        # Held for new and changed rows at once, and for those stored without a pass that keeps
        # others waiting.
        op.execute(f"ALTER TABLE {table} ADD CONSTRAINT {name} CHECK ({condition}) NOT VALID")
    with op.get_context().autocommit_block():
        for table, name, _ in _RANGES:
            op.execute(f"ALTER TABLE {table} VALIDATE CONSTRAINT {name}")


def downgrade() -> None:
    for table, name, _ in _RANGES:
        op.execute(f"ALTER TABLE {table} DROP CONSTRAINT {name}")
    for name in _SEQUENCES:
        op.execute(f"ALTER SEQUENCE {name} INCREMENT BY 1 MINVALUE 1 NO MAXVALUE START WITH 1")
