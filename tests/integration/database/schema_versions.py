"""Schemas of other releases, in a database without rows."""

from collections.abc import Callable
from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import create_engine

from credit_service.storage import migrate


def upgrade(url: str, revision: str) -> None:
    """Migrate an empty database up to a revision of the schema."""
    _migrate(command.upgrade, url, revision)


def downgrade(url: str, revision: str) -> None:
    """Migrate a database without rows back to a revision of the schema."""
    _migrate(command.downgrade, url, revision)


def _migrate(migration: Callable[[Config, str], None], url: str, revision: str) -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(migrate.__file__).parent / "migrations"))
    config.set_main_option("path_separator", "os")
    engine = create_engine(url)
    with engine.connect() as connection:
        config.attributes["connection"] = connection
        migration(config, revision)
    engine.dispose()
