"""The yardsticks of the benchmarks on a real database."""

from pathlib import Path

import psycopg
import pytest

from benchmarks import bed, pgbench, scale
from credit_service.rpc.convert.events import write_event
from credit_service.storage import event_stream
from credit_service.storage.database import Database


@pytest.mark.one_server("pgbench compares with one server")
def test_pgbench_books_loans_by_the_statements_of_the_service(
    database_url: str, tmp_path: Path
) -> None:
    url = database_url.replace("postgresql+psycopg://", "postgresql://", 1)
    bed.fill(url, 1, 3, loans_each=3)
    script = tmp_path / "create_loan.sql"
    script.write_text(pgbench.script(3))
    pgbench.run(url, script, seconds=1, clients=1)
    assert pgbench.loans_booked(url) > 0


def test_generated_events_are_published_and_sent(database_url: str, database: Database) -> None:
    url = database_url.replace("postgresql+psycopg://", "postgresql://", 1)
    with psycopg.connect(url, autocommit=True) as connection:
        scale._insert(connection, customers=3, first=0, count=4)
        scale._insert(connection, customers=3, first=4, count=4)
        assert scale._waiting(connection)[0] == 8
        with database.transaction() as transaction:
            assert len(event_stream.publish(transaction, 100)) == 8
        assert scale._waiting(connection) == (0, 0.0)
    with database.autocommit() as transaction:
        events = event_stream.read(transaction, after=0, until=8, limit=100)
    assert [each.event_seq for each in events] == [1, 2, 3, 1, 2, 3, 1, 2]
    assert [each.customer_version for each in events] == [each.event_seq for each in events]
    message = write_event(events[0])
    assert message is not None
    assert message.loan_created.loan.loan_id
