"""What a backup or a restore is rejected for, without a database."""

from pathlib import Path

import pytest

from credit_service.cli import backups
from credit_service.processes import postgresql_tools
from credit_service.storage.backups import Content

EXPECTED = Content(revision="0026", newest_event_id=5, rows={"customers": 2, "loans": 3})


def test_a_restore_that_lacks_rows_or_has_another_schema_is_reported() -> None:
    found = Content(revision="0025", newest_event_id=5, rows={"customers": 2, "loans": 1})
    assert list(backups._differences(EXPECTED, EXPECTED)) == []
    assert list(backups._differences(found, EXPECTED)) == [
        "  schema 0025 instead of 0026",
        "  loans: 1 rows instead of 3",
    ]


def test_a_database_with_other_tables_is_never_restored_into() -> None:
    tables = ["customers", "loans", "alembic_version"]
    assert backups._problem(tables, [], EXPECTED, replace=True) == ""
    problem = backups._problem([*tables, "payroll"], [], EXPECTED, replace=True)
    assert "does not replace payroll" in problem


def test_a_dump_without_the_data_of_a_table_is_no_backup(monkeypatch: pytest.MonkeyPatch) -> None:
    class Lister:
        """Lists the data of one table, as pg_restore does."""

        def run(self, arguments: list[str]) -> str:
            assert arguments[0] == "--list"
            return "3471; 0 16385 TABLE DATA public customers postgres\n"

    monkeypatch.setattr(postgresql_tools, "find", lambda _name, _major: Lister())
    with pytest.raises(postgresql_tools.ToolError, match="lacks the data of loans"):
        backups._check_listing(Path("dump"), 18, EXPECTED)
