"""The yardsticks of the benchmarks on a real database."""

from pathlib import Path

from benchmarks import bed, pgbench


def test_pgbench_books_loans_by_the_statements_of_the_service(
    database_url: str, tmp_path: Path
) -> None:
    url = database_url.replace("postgresql+psycopg://", "postgresql://", 1)
    bed.fill(url, 1, 3, loans_each=3)
    script = tmp_path / "create_loan.sql"
    script.write_text(pgbench.script(3))
    pgbench.run(url, script, seconds=1, clients=1)
    assert pgbench.loans_booked(url) > 0
