"""Compares the migrations with the tables, on a separate embedded PostgreSQL.

    python scripts/migrations.py check         fail if the migrations do not create the tables
    python scripts/migrations.py new MESSAGE   write a migration for the differences

Exit status 0: success; 1: failure, with the reason on standard error.
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
    """The SQLAlchemy URL of a temporary database with all migrations applied."""
    with tempfile.TemporaryDirectory(prefix="credit-service-migrations-") as folder:
        # As root the server runs as another user, which needs access to this folder.
        Path(folder).chmod(0o711)
        with EmbeddedStack(Path(folder), valkey=False, durable=False) as stack:
            url = stack.database_url.replace("postgresql://", "postgresql+psycopg://", 1)
            migrate.upgrade(url)
            yield url


def main() -> int:
    """Run the command of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("check", help="fail if the migrations do not create the tables")
    commands.add_parser("new", help="write a migration").add_argument("message")
    arguments = parser.parse_args()
    with migrated_database() as url:
        differences = migrate.drift(url)
        if arguments.command == "check":
            for difference in differences:
                print(f"missing in the migrations: {difference}", file=sys.stderr)
            return 1 if differences else 0
        if not arguments.message.strip():
            print('empty message; set it: make migration MESSAGE="add x"', file=sys.stderr)
            return 1
        if not differences:
            print("the migrations already create the tables; nothing to write", file=sys.stderr)
            return 1
        migrate.new_revision(url, arguments.message)
    return 0


if __name__ == "__main__":
    sys.exit(main())
