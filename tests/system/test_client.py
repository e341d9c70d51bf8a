"""The ingestion client and a real server that is killed, stopped and suspended."""

import csv
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import grpc
import openpyxl
import pytest

from credit_service.client.channel import open_channel, require_ready
from credit_service.client.rows import open_source
from credit_service.spreadsheets import samples
from credit_service.v1 import ingestion_pb2
from credit_service_client.errors import ServiceError
from credit_service_client.ingestion import IngestionClient, Listener, Request, SourceFailedError
from credit_service_client.retrying import Patience
from tests.system.up import Up, up

CUSTOMERS = 500
LOANS = 16_000
TODAY = datetime.now(UTC).date()
PATIENCE = Patience(
    give_up_seconds=30.0,
    first_pause_seconds=0.05,
    longest_pause_seconds=0.5,
    stall_seconds=2.0,
    call_timeout_seconds=1.0,
)


@pytest.fixture(scope="module")
def service() -> Iterator[Up]:
    with up() as running:
        yield running


@pytest.fixture(scope="module")
def files(service: Up, tmp_path_factory: pytest.TempPathFactory) -> samples.Samples:
    """Sample files; the customers are stored, the loans are not."""
    folder = tmp_path_factory.mktemp("samples")
    made = samples.write_samples(folder, customers=CUSTOMERS, loans=LOANS, seed=1, today=TODAY)
    with _client(service) as client:
        response = client.stream(open_source(made.customer_path), Request(uuid4()))
    assert response.ingestion.inserted == CUSTOMERS
    return made


@contextmanager
def _client(service: Up, patience: Patience = PATIENCE) -> Iterator[IngestionClient]:
    with open_channel(service.address) as channel:
        try:
            require_ready(channel, service.address, 30)
        except ServiceError as error:
            error.add_note(service.log)
            raise
        yield IngestionClient(channel, patience)


class Saboteur(Listener):
    """Causes a failure at each of these row counts, shortly after the rows were sent."""

    def __init__(self, harm: Callable[[], None], at_rows: list[int], delay_seconds: float) -> None:
        self._harm = harm
        self._at_rows = list(at_rows)
        self._delay_seconds = delay_seconds
        self.resumed: list[int] = []

    def sent(self, rows: int, _read_bytes: int) -> None:
        if self._at_rows and rows >= self._at_rows[0]:
            self._at_rows.pop(0)
            threading.Timer(self._delay_seconds, self._harm).start()

    def advanced(self, ingestion: ingestion_pb2.Ingestion) -> None:
        self.sent(ingestion.committed_offset, 0)

    def resuming(self, _error: ServiceError, offset: int, _pause_seconds: float) -> None:
        self.resumed.append(offset)


def _kill_server(service: Up) -> None:
    for server in service.running("credit_service.rpc"):
        server.kill()


def _stored_once(client: IngestionClient, path: Path, rows: int) -> None:
    again = client.stream(open_source(path), Request(uuid4())).ingestion
    assert (again.rows_read, again.unchanged, again.inserted) == (rows, rows, 0)


def test_a_server_killed_during_a_stream_neither_loses_nor_duplicates_rows(
    service: Up, files: samples.Samples
) -> None:
    saboteur = Saboteur(lambda: _kill_server(service), [4_000, LOANS], 0.03)
    with _client(service) as client:
        ingestion = client.stream(
            open_source(files.loan_path), Request(uuid4()), saboteur
        ).ingestion
        assert saboteur.resumed, "no kill hit the stream"
        assert ingestion.state == ingestion_pb2.INGESTION_STATE_SUCCEEDED
        assert (ingestion.rows_read, ingestion.inserted) == (LOANS, LOANS)
        assert ingestion.committed_offset == LOANS
        _stored_once(client, files.loan_path, LOANS)


def test_a_watch_resumes_when_the_server_is_killed(service: Up, files: samples.Samples) -> None:
    request = Request(uuid4(), validate_only=True)
    saboteur = Saboteur(lambda: _kill_server(service), [0, 1], 0.02)
    with _client(service) as client:
        kind = ingestion_pb2.INGESTION_KIND_LOANS
        queued = client.upload(files.loan_path, kind, request)
        assert queued.ingestion_id == str(request.ingestion_id)
        ended = client.follow(request.ingestion_id, saboteur)
        assert ended.state == ingestion_pb2.INGESTION_STATE_SUCCEEDED
        assert (ended.rows_read, ended.unchanged) == (LOANS, LOANS)


def test_a_stalled_transfer_is_reconnected_and_resumed(service: Up, files: samples.Samples) -> None:
    def stall() -> None:
        for server in service.running("credit_service.rpc"):
            server.send_signal(signal.SIGSTOP)
            threading.Timer(4.0, server.send_signal, [signal.SIGCONT]).start()

    saboteur = Saboteur(stall, [4_000], 0.0)
    with _client(service) as client:
        source = open_source(files.loan_path)
        ingestion = client.stream(source, Request(uuid4(), validate_only=True), saboteur).ingestion
        assert saboteur.resumed
        assert (ingestion.rows_read, ingestion.unchanged) == (LOANS, LOANS)


def test_the_client_gives_up_after_its_time_limit(service: Up, files: samples.Samples) -> None:
    short = Patience(give_up_seconds=1.0, stall_seconds=0.5, call_timeout_seconds=0.3)
    stopped = service.running("credit_service.rpc")
    with _client(service, short) as client:
        for server in stopped:
            server.send_signal(signal.SIGSTOP)
        started = time.monotonic()
        try:
            with pytest.raises(ServiceError) as raised:
                client.stream(open_source(files.customer_path), Request(uuid4()))
        finally:
            for server in stopped:
                server.send_signal(signal.SIGCONT)
        assert raised.value.unavailable
        assert time.monotonic() - started < 10


def test_a_rejection_is_not_retried(service: Up, files: samples.Samples) -> None:
    request = Request(uuid4(), validate_only=True)
    with _client(service) as client:
        client.stream(open_source(files.customer_path), request)
        other = Request(request.ingestion_id, validate_only=False)
        saboteur = Saboteur(lambda: None, [], 0)
        with pytest.raises(ServiceError) as raised:
            client.stream(open_source(files.customer_path), other, saboteur)
        assert raised.value.code is grpc.StatusCode.FAILED_PRECONDITION
        assert raised.value.reason == "INGESTION_HEADER_MISMATCH"
        assert "validate_only" in raised.value.metadata["fields"]
        assert not saboteur.resumed
        # The same header gives the same result, and no row is sent again.
        same = client.stream(open_source(files.customer_path), request).ingestion
        assert same.rows_read == CUSTOMERS


def test_a_damaged_file_does_not_succeed(
    service: Up, files: samples.Samples, tmp_path: Path
) -> None:
    path = tmp_path / "loans.csv"
    rows = samples.further_loans(range(1, 101), 15_000, 5, TODAY, first_loan_id=5_000_001)
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([samples.LOAN_HEADERS, *(row.cells() for row in rows)])
    whole = path.read_bytes()
    path.write_bytes(whole + b"1,\xff\n")
    request = Request(uuid4())
    with _client(service) as client:
        with pytest.raises(SourceFailedError, match="UTF-8") as raised:
            client.stream(open_source(path), request)
        failed = client.get(request.ingestion_id)
        assert raised.value.ingestion == failed
        assert failed.state == ingestion_pb2.INGESTION_STATE_FAILED
        assert failed.error.code == ingestion_pb2.INGESTION_ERROR_CODE_SOURCE_FAILED
        assert failed.error.message == str(raised.value)
        assert failed.committed_offset == failed.inserted > 0
        path.write_bytes(whole)
        ended = client.stream(open_source(path), request).ingestion
        assert (ended.rows_read, ended.inserted) == (15_000, 15_000)


LOAN = (1, 0, 100_000, 24, 12.5, 5000.25, 3, date(2024, 1, 31), date(2026, 1, 31))
LOAN_FAULTS: list[tuple[int, Any]] = [
    (0, "one"), (0, 1.5), (0, -1), (0, 10**16), (0, ""), (0, 999_999),
    (2, "a lakh"), (2, 0), (2, 12.345), (2, 1e300), (2, "1,00,00"), (2, 10**12),
    (3, 0), (3, 481), (3, "two years"), (3, 24.5), (3, 4e9),
    (4, -1), (4, 100.5), (4, 12.345), (4, "12%%"), (4, ""),
    (5, ""), (5, -5000), (5, "#N/A"),
    (6, 25), (6, -1), (6, "all"),
    (7, "31/31/2024"), (7, "2024-02-30"), (7, date(2100, 1, 1)), (7, ""), (7, 45_000),
    (8, date(2026, 2, 1)), (8, "soon"),
]  # fmt: skip
CUSTOMER = (0, "Asha", "Verma", 34, 0, 50_000, 1_800_000)
CUSTOMER_FAULTS: list[tuple[int, Any]] = [
    (0, "one"), (0, 0), (1, ""), (1, "A" * 51), (1, "A" * 5000), (1, "#REF!"), (2, "  "),
    (3, 17), (3, "old"), (3, 34.5), (4, "12345"), (4, 5.5), (4, ""), (4, "call me"),
    (5, 0), (5, "much"), (5, 10**9), (6, -1), (6, "none"), (6, 0.001),
]  # fmt: skip


def _faulty_rows(good: tuple[Any, ...], faults: list[tuple[int, Any]]) -> list[list[Any]]:
    rows = []
    for number, (column, cell) in enumerate(faults, 1):
        row = list(good)
        if good is LOAN:
            row[1] = 7_000_000 + number
        else:
            row[0], row[4] = 8_000_000 + number, 9_100_000_000 + number
        row[column] = cell
        rows.append(row)
    return rows


@pytest.mark.parametrize("form", ["xlsx", "csv"])
@pytest.mark.parametrize("kind", ["LOANS", "CUSTOMERS"])
def test_a_stream_and_an_upload_report_the_same(
    service: Up, files: samples.Samples, tmp_path: Path, kind: str, form: str
) -> None:
    """Each kind of fault gives the same row, column, code and found value."""
    headers: Sequence[str] = samples.CUSTOMER_HEADERS
    if kind == "LOANS":
        headers, rows = samples.LOAN_HEADERS, _faulty_rows(LOAN, LOAN_FAULTS)
    else:
        rows = _faulty_rows(CUSTOMER, CUSTOMER_FAULTS)
    path = tmp_path / f"faults.{form}"
    if form == "xlsx":
        samples.write_workbook(path, headers, rows)
    else:
        rows.append([*rows[-1], "one too many"])
        with path.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([headers, *rows])
    with _client(service) as client:
        streamed, uploaded = (Request(uuid4(), validate_only=True) for _ in range(2))
        first = client.stream(open_source(path), streamed).ingestion
        client.upload(path, first.kind, uploaded)
        second = client.follow(uploaded.ingestion_id)
        assert first.rejected == second.rejected == len(rows)
        assert _faults(client, streamed) == _faults(client, uploaded)
        _uncorrected_is_rejected_again(client, path, uploaded, tmp_path)


def _uncorrected_is_rejected_again(
    client: IngestionClient, path: Path, uploaded: Request, folder: Path
) -> None:
    """The uncorrected annotated workbook has the same faults, by stream and by upload."""
    before = _faults(client, uploaded)
    with (folder / "annotated.xlsx").open("w+b") as file:
        name = client.annotated_workbook(uploaded.ingestion_id, file).filename
    assert name == f"{path.stem}-annotated.xlsx"
    kind = client.get(uploaded.ingestion_id).kind
    streamed, again = (Request(uuid4(), validate_only=True) for _ in range(2))
    client.stream(open_source(folder / "annotated.xlsx"), streamed)
    client.upload(folder / "annotated.xlsx", kind, again)
    client.follow(again.ingestion_id)
    assert _faults(client, streamed) == _faults(client, again)
    rejected = {row: found for row, _, _, found in before}
    assert {row: found for row, _, _, found in _faults(client, again)}.keys() == rejected.keys()


def test_formulas_are_reported_by_both(service: Up, files: samples.Samples, tmp_path: Path) -> None:
    path = tmp_path / "formulas.xlsx"
    workbook = openpyxl.Workbook()
    for row in (
        samples.CUSTOMER_HEADERS,
        [8_100_001, *CUSTOMER[1:4], 9_100_100_001, 50_000, "=1+1"],
    ):
        workbook.active.append(row)
    workbook.save(path)
    with _client(service) as client:
        streamed, uploaded = (Request(uuid4(), validate_only=True) for _ in range(2))
        client.stream(open_source(path), streamed)
        client.upload(path, ingestion_pb2.INGESTION_KIND_CUSTOMERS, uploaded)
        client.follow(uploaded.ingestion_id)
        expected = [(2, "approved_limit", "ROW_ERROR_CODE_FORMULA", "=1+1")]
        assert _faults(client, streamed) == _faults(client, uploaded) == expected


def _faults(client: IngestionClient, request: Request) -> list[tuple[int, str, str, str]]:
    return [
        (each.row_number, each.column, ingestion_pb2.RowErrorCode.Name(each.code), each.found)
        for each in client.row_errors(request.ingestion_id, 1000)
    ]
