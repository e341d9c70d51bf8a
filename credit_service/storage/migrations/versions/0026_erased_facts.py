"""changed facts of a person can be erased"""

from alembic import op

revision = "0026"
down_revision = "0025"
branch_labels = None
depends_on = None

# Replaces the function of the triggers, not the triggers: that locks no table, and works on a
# cluster, where the name of a table has the number of the shard.
_REFUSE = """
    CREATE OR REPLACE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        {exception}RAISE EXCEPTION '% rows are facts and never change', TG_TABLE_NAME
            USING ERRCODE = 'integrity_constraint_violation';
    END $$
    """
# A former name or phone number may be replaced by the one of every erased customer, once and for
# all: storage.personal_data.
_ERASURE = """IF TG_OP = 'UPDATE' AND TG_TABLE_NAME ~ '^fact_changes(_[0-9]+)?$' THEN
            IF OLD.fact IN ('first_name', 'last_name', 'phone_number') AND OLD.loan_id IS NULL
                AND NEW.new_value IS NULL
                AND (NEW.old_value = 'Erased' AND OLD.fact <> 'phone_number'
                    OR NEW.old_value ~ '^[+]999[0-9]{12}$' AND OLD.fact = 'phone_number')
                AND to_jsonb(NEW) - '{old_value,new_value}'::text[]
                    = to_jsonb(OLD) - '{old_value,new_value}'::text[]
            THEN
                RETURN NEW;
            END IF;
        END IF;
        """


def upgrade() -> None:
    op.execute(_REFUSE.replace("{exception}", _ERASURE))


def downgrade() -> None:
    op.execute(_REFUSE.replace("{exception}", ""))
