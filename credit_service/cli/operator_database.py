"""The database of a command for operators. Its settings name a running database; it starts none."""

from collections.abc import Iterator
from contextlib import contextmanager

from credit_service.settings import Settings
from credit_service.storage.database import Database

_LONG_STATEMENT_SECONDS = 120.0


@contextmanager
def operator_database(settings: Settings) -> Iterator[Database]:
    """The database of the settings."""
    database = Database(
        settings.require_database_url(),
        pool_size=2,
        statement_timeout_seconds=_LONG_STATEMENT_SECONDS,
        application_name="credit-service operator",
        pooler=settings.database_pooler,
    )
    try:
        yield database
    finally:
        database.dispose()
