"""keys with the customer's id, and a table of phone numbers"""

from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

_LOCK_TIMEOUT = "SET LOCAL lock_timeout = '3s'"
_OLD_PHONE = "customers_phone_number_key"
_PHONE = "customers_phone_number_idx"
# Servers of the previous release write no phone numbers. Sessions of this release set
# credit_service.keeps_phone_numbers, write them, and skip these triggers. A later release drops
# them.
_WRITE_FOR_OLD_SERVERS = f"""
    CREATE OR REPLACE FUNCTION keep_phone_number() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF TG_OP <> 'INSERT' THEN
            DELETE FROM phone_numbers
            WHERE phone_number = OLD.phone_number AND customer_id = OLD.customer_id;
        END IF;
        IF TG_OP <> 'DELETE' THEN
            INSERT INTO phone_numbers VALUES (NEW.phone_number, NEW.customer_id);
        END IF;
        RETURN NULL;
    EXCEPTION WHEN unique_violation THEN
        RAISE unique_violation USING CONSTRAINT = '{_OLD_PHONE}',
            MESSAGE = 'another customer has this phone number';
    END $$
    """
_BY_OLD_SERVER = "current_setting('credit_service.keeps_phone_numbers', true) IS DISTINCT FROM 'on'"
_BACKFILL = """
    INSERT INTO phone_numbers (phone_number, customer_id)
    SELECT phone_number, customer_id FROM customers ON CONFLICT DO NOTHING
    """
# Numbers that imports changed while the backfill ran.
_REMOVE_STALE = """
    DELETE FROM phone_numbers p USING customers c
    WHERE c.customer_id = p.customer_id AND c.phone_number <> p.phone_number
    """


def upgrade() -> None:
    # Each part commits by itself, and an interrupted run is repeated from the start: steps before the
    # last commit do nothing the second time.
    _keep_phone_numbers()
    _key_requests()
    _key_events()
    op.execute(_LOCK_TIMEOUT)
    # Ingestions are not placed with customers, and are never deleted.
    op.drop_constraint("fact_changes_ingestion_id_fkey", "fact_changes")


def _keep_phone_numbers() -> None:
    # Creating a trigger locks the table for an instant: fail, to be retried, instead of blocking all
    # bookings behind a wait for the lock.
    op.execute(_LOCK_TIMEOUT)
    op.execute(
        "CREATE TABLE IF NOT EXISTS phone_numbers"
        " (phone_number text PRIMARY KEY, customer_id bigint NOT NULL)"
    )
    op.execute(_WRITE_FOR_OLD_SERVERS)
    for name, event in (
        ("added", "INSERT"),
        ("changed", "UPDATE OF phone_number, customer_id"),
        ("removed", "DELETE"),
    ):
        op.execute(
            f"CREATE OR REPLACE TRIGGER phone_number_{name} AFTER {event} ON customers"
            f" FOR EACH ROW WHEN ({_BY_OLD_SERVER}) EXECUTE FUNCTION keep_phone_number()"
        )
    # The triggers commit before the backfill reads; the rest blocks no one.
    with op.get_context().autocommit_block():
        op.execute(_BACKFILL)
        op.execute(_REMOVE_STALE)
        op.drop_index(_PHONE, "customers", postgresql_concurrently=True, if_exists=True)
        op.create_index(
            _PHONE,
            "customers",
            ["phone_number"],
            postgresql_concurrently=True,
            postgresql_ops={"phone_number": "text_pattern_ops"},
        )
        op.drop_index(_OLD_PHONE, "customers", postgresql_concurrently=True, if_exists=True)


def _key_requests() -> None:
    op.execute(_LOCK_TIMEOUT)
    # With a validated check, SET NOT NULL reads no rows.
    op.execute(
        "ALTER TABLE requests DROP CONSTRAINT IF EXISTS requests_customer_id_check,"
        " ADD CONSTRAINT requests_customer_id_check CHECK (customer_id IS NOT NULL) NOT VALID"
    )
    with op.get_context().autocommit_block():
        # Rejections that servers of release 0.1.0 stored: they had no effect.
        op.execute("DELETE FROM requests WHERE customer_id IS NULL")
        op.execute("ALTER TABLE requests VALIDATE CONSTRAINT requests_customer_id_check")
        _create_unique("requests_new_pkey", "requests", "request_id, customer_id")
    op.execute(_LOCK_TIMEOUT)
    op.execute(
        "ALTER TABLE requests ALTER customer_id SET NOT NULL,"
        " DROP CONSTRAINT requests_customer_id_check,"
        " DROP CONSTRAINT IF EXISTS requests_answer_present_check, DROP CONSTRAINT requests_pkey"
    )
    op.execute("ALTER INDEX requests_new_pkey RENAME TO requests_pkey")
    op.execute("ALTER TABLE requests ADD PRIMARY KEY USING INDEX requests_pkey")


def _key_events() -> None:
    name = "events_event_id_customer_id_key"
    with op.get_context().autocommit_block():
        _create_unique(name, "events", "event_id, customer_id")
    op.execute(_LOCK_TIMEOUT)
    op.execute("ALTER TABLE events DROP CONSTRAINT events_event_id_key")
    op.execute(f"ALTER TABLE events ADD CONSTRAINT {name} UNIQUE USING INDEX {name}")


def _create_unique(name: str, table: str, columns: str) -> None:
    # An interrupted run leaves an invalid index.
    op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")
    op.execute(f"CREATE UNIQUE INDEX CONCURRENTLY {name} ON {table} ({columns})")


def downgrade() -> None:
    op.create_foreign_key(
        "fact_changes_ingestion_id_fkey",
        "fact_changes",
        "ingestions",
        ["ingestion_id"],
        ["ingestion_id"],
    )
    op.drop_constraint("events_event_id_customer_id_key", "events")
    op.create_unique_constraint("events_event_id_key", "events", ["event_id"])
    op.drop_constraint("requests_pkey", "requests")
    op.create_primary_key("requests_pkey", "requests", ["request_id"])
    op.alter_column("requests", "customer_id", nullable=True)
    op.execute(
        "ALTER TABLE requests ADD CONSTRAINT requests_answer_present_check"
        " CHECK (customer_id IS NOT NULL OR refusal IS NOT NULL)"
    )
    for name in ("added", "changed", "removed"):
        op.execute(f"DROP TRIGGER phone_number_{name} ON customers")
    op.execute("DROP FUNCTION keep_phone_number()")
    op.drop_index(_PHONE, "customers")
    op.create_index(
        _OLD_PHONE,
        "customers",
        ["phone_number"],
        unique=True,
        postgresql_ops={"phone_number": "text_pattern_ops"},
    )
    op.drop_table("phone_numbers")
