"""Alembic's entry point: runs the migrations on the connection from `storage.migrate`."""

from alembic import context

from credit_service.storage.tables import metadata

with_connection = context.config.attributes["connection"]
context.configure(
    connection=with_connection, target_metadata=metadata, transaction_per_migration=True
)
with context.begin_transaction():
    context.run_migrations()
