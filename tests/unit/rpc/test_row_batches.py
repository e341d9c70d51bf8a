"""Batches of a stream that are stored together."""

import threading
import time
from collections.abc import Iterator

import pytest

from credit_service.clock import Clock
from credit_service.ingestion.wire import RowBatch
from credit_service.rpc.calls.streams import Messages, read_ahead
from credit_service.rpc.convert.ingestion import read_stream_message
from credit_service.rpc.ingestion import IngestionServicer
from credit_service.settings import Settings
from credit_service.storage.database import Database
from credit_service.v1 import ingestion_pb2
from credit_service.v1 import ingestion_service_pb2 as pb

MOST_ROWS = 6


@pytest.fixture
def servicer() -> Iterator[IngestionServicer]:
    """Only methods that need no database are called."""
    database = Database("postgresql://unused@127.0.0.1:1/nothing")
    settings = Settings(ingestion_batch_rows=MOST_ROWS)
    yield IngestionServicer(database, Clock(), settings, cache=None, stopping=threading.Event())
    database.dispose()


def batch(offset: int, count: int, kind: str = "loans") -> bytes:
    message = pb.RowBatch(offset=offset)
    if kind == "loans":
        message.loans.rows.extend(ingestion_pb2.LoanRow(loan_id=n) for n in range(count))
    else:
        message.customers.rows.extend(ingestion_pb2.CustomerRow(age=n) for n in range(count))
    return pb.IngestRowsRequest(batch=message).SerializeToString()


def read(data: bytes) -> pb.IngestRowsRequest | RowBatch:
    return read_stream_message(pb.IngestRowsRequest.FromString(data))


@pytest.mark.parametrize(
    ("waiting", "together"),
    [
        ([batch(2, 2), batch(4, 2)], [2, 2, 2]),
        ([batch(2, 2), batch(4, 3)], [2, 2]),
        ([batch(2, 5)], [2]),
        ([batch(3, 1)], [2]),
        ([batch(1, 2)], [2]),
        ([batch(2, 1), batch(3, 1, "customers")], [2, 1]),
        ([pb.IngestRowsRequest(header=pb.IngestRowsHeader()).SerializeToString()], [2]),
    ],
    ids=["all", "too many", "at once", "gap", "overlap", "other kind", "header"],
)
def test_batches_that_continue_the_first_and_fit_are_stored_with_it(
    servicer: IngestionServicer, waiting: list[bytes], together: list[int]
) -> None:
    came = threading.Event()

    def requests() -> Iterator[bytes]:
        yield batch(0, 2)
        yield from waiting
        came.set()

    messages: Messages[pb.IngestRowsRequest | RowBatch]
    with read_ahead(requests(), read, 10, threading.Event()) as messages:
        first = next(messages)
        assert isinstance(first, RowBatch)
        assert came.wait(10)
        time.sleep(0.01)
        found = servicer._with_waiting(first, messages)
        assert [each.row_count for each in found] == together
        # The rest follows.
        assert len(list(messages)) == len(waiting) + 1 - len(together)


def test_the_thread_that_reads_a_batch_decodes_it() -> None:
    found = read(batch(0, 2))
    assert isinstance(found, RowBatch)
    assert "decoded" in vars(found.columns)
