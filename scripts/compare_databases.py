"""Compares two databases of the service row by row, to verify a restored backup.

    python scripts/compare_databases.py URL URL

URLs are postgresql://… . Prints each table and sequence with its row count and whether they are
equal. Exit status: 0 if everything is equal, otherwise 1. Stop all writers before, or restore the
second database from a current dump of the first.
"""

import sys
from dataclasses import dataclass

import psycopg
from psycopg import sql

_TABLES = """
    SELECT table_name FROM information_schema.tables
    WHERE table_schema = 'public' AND table_type = 'BASE TABLE' ORDER BY table_name
"""
_SEQUENCES = """
    SELECT sequencename, last_value FROM pg_sequences
    WHERE schemaname = 'public' ORDER BY sequencename
"""
# Sums of 64-bit hashes do not depend on the order of rows, and need no sorting or fetching.
_CONTENT = "SELECT count(*), coalesce(sum(hashtextextended({table}::text, 0)), 0) FROM {table}"


@dataclass(frozen=True)
class Content:
    """Row count and hash of each table, and the last value of each sequence."""

    tables: dict[str, tuple[int, int]]
    sequences: dict[str, int | None]


def content(url: str) -> Content:
    """Read a database in one transaction with a consistent snapshot."""
    with psycopg.connect(url) as connection:
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        # Dates and fractions are hashed in their text form.
        connection.execute("SET LOCAL timezone = 'UTC'")
        connection.execute("SET LOCAL datestyle = 'ISO'")
        tables = {}
        for (name,) in connection.execute(_TABLES).fetchall():
            query = sql.SQL(_CONTENT).format(table=sql.Identifier(name))
            rows, total = connection.execute(query).fetchone() or (0, 0)
            tables[name] = (int(rows), int(total))
        sequences: dict[str, int | None] = dict(connection.execute(_SEQUENCES).fetchall())
    return Content(tables, sequences)


def differences(first: Content, second: Content) -> list[str]:
    """Names of the tables and sequences that differ."""
    return [
        name
        for one, other in ((first.tables, second.tables), (first.sequences, second.sequences))
        for name in sorted(one.keys() | other.keys())
        if one.get(name) != other.get(name)
    ]


def main(first_url: str, second_url: str) -> int:
    """Compare and print."""
    first, second = content(first_url), content(second_url)
    different = differences(first, second)
    for name, (rows, _) in first.tables.items():
        print(f"{name:24}{rows:>12,} rows   {'DIFFERENT' if name in different else 'equal'}")
    for name, value in first.sequences.items():
        print(f"{name:24}{value or 0:>12,} last   {'DIFFERENT' if name in different else 'equal'}")
    for name in different:
        if name not in first.tables and name not in first.sequences:
            print(f"{name:24}{'':>12} only in the second database")
    print("equal" if not different else f"DIFFERENT: {', '.join(different)}")
    return 1 if different else 0


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    sys.exit(main(sys.argv[1], sys.argv[2]))
