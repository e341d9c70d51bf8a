"""Makes a repeated answer as safe as the first one, where PostgreSQL has synchronous standbys.

A commit returns when a standby has it. But other sessions can read it earlier: after the wait was
cancelled, and after a crash of the server, until the standby is back. A repeated request would then
be answered from a commit that a failover may lose.

A transaction that only reads does not wait. One that locks a row does: locking is a write.
"""

from sqlalchemy import Connection

from credit_service.storage.statements import Statement

# Writes a record of a few bytes to the WAL. Its commit waits for the standby, which has everything
# before it by then. A standby itself has only what was replicated, and writes nothing.
_CONFIRM = Statement(
    """
    SELECT CASE
        WHEN current_setting('synchronous_standby_names') <> '' AND NOT pg_is_in_recovery()
        THEN pg_logical_emit_message(true, 'credit-service', '') IS NOT NULL
    END
    """
)


def confirm(connection: Connection) -> None:
    """Wait at the end of this transaction until a synchronous standby has all earlier commits.

    Call before returning an effect of an earlier call. Does nothing without synchronous standbys.
    """
    _CONFIRM.run(connection, {})
