"""Compares the migrations with the tables, on an embedded PostgreSQL of its own.

    python scripts/migrations.py check         fail if the migrations do not make the tables
    python scripts/migrations.py new MESSAGE   write a migration that makes up the difference

Exit status 0: all is well; 1: it is not, and standard error says why.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from credit_service.processes.embedded import EmbeddedStack
from credit_service.storage import migrate


@contextmanager
def migrated_database() -> Iterator[str]:
    """SQLAlchemy's URL of a database that the migrations made, gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="credit-service-migrations-") as folder:
        # As root the server runs as another user, who passes through here.
        Path(folder).chmod(0o711)
        with EmbeddedStack(Path(folder), valkey=False, durable=False) as stack:
            url = stack.database_url.replace("postgresql://", "postgresql+psycopg://", 1)
            migrate.upgrade(url)
            yield url


def main() -> int:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("check", help="fail if the migrations do not make the tables")
    commands.add_parser("new", help="write a migration").add_argument("message")
    arguments = parser.parse_args()
    with migrated_database() as url:
        differences = migrate.drift(url)
        if arguments.command == "check":
            for difference in differences:
                print(f"the migrations lack: {difference}", file=sys.stderr)
            return 1 if differences else 0
        if not arguments.message.strip():
            print('name the migration: make migration MESSAGE="add x"', file=sys.stderr)
            return 1
        if not differences:
            print("the migrations make the tables already", file=sys.stderr)
            return 1
        migrate.new_revision(url, arguments.message)
    return 0


if __name__ == "__main__":
    sys.exit(main())
