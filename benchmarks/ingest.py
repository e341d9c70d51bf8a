"""The results for files: 1 and 10 lakh loans, compared with COPY and a memory limit."""

import csv
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import psutil
import psycopg

from benchmarks import bed
from benchmarks.bed import TODAY, Bed, Server
from benchmarks.measuring import MEBIBYTES, SECONDS, Goal, Plan, Result, Turn, by_turns
from credit_service.client.channel import open_channel
from credit_service.client.rows import open_source
from credit_service.domain.calendar import installments_due_by
from credit_service.spreadsheets import samples
from credit_service.spreadsheets.samples import SampleLoan
from credit_service.storage import scores
from credit_service.storage.database import Database
from credit_service.v1 import ingestion_pb2
from credit_service_client.ingestion import IngestionClient, Request

_CUSTOMERS = 10_000
_LOANS = 100_000
_MANY_LOANS = 1_000_000
_POLL_SECONDS = 0.02
_PATIENCE_SECONDS = 600.0
_SEED = 1

_COPY = """COPY loans (customer_id, loan_id, principal_paise, annual_rate_bps, tenure_months,
    installment_paise, start_date, end_date, imported, settled_at_import, emis_paid_on_time,
    installments_settled, closed_on) FROM STDIN"""


@dataclass(frozen=True, slots=True)
class _Files:
    workbook: Path
    table: Path
    copy_rows: bytes
    loans: int


class Ingestions:
    """Measurements, each round on a separate database with customers and no loans."""

    def __init__(self, test_bed: Bed, plan: Plan) -> None:
        self._bed = test_bed
        # Each takes seconds, regardless of the length of the plan's rounds.
        self._rounds = min(plan.rounds, 5)
        self._quick = plan.quick
        self._template = ""

    def against_copy(self) -> list[Result]:
        """Upload and stream compared with COPY."""
        loans = _LOANS // 5 if self._quick else _LOANS
        files = self._files(loans)
        turns = by_turns(
            self._rounds,
            [
                self._fresh(lambda url: self._upload(url, files)),
                self._fresh(lambda url: self._stream(url, files.table, files.loans)),
                self._fresh(lambda url: self._stream(url, files.workbook, files.loans)),
                self._fresh(lambda url: _copy(url, files)),
            ],
        )
        named = (
            ("upload", f"{loans:,} loans from .xlsx, upload to scores recomputed", Goal("≤", 3.5)),
            ("stream", f"{loans:,} loans from .csv streamed by our client", Goal("≤", 2.8)),
            ("stream-xlsx", f"{loans:,} loans from .xlsx streamed by our client", None),
        )
        against = "COPY straight into the indexed table"
        return [
            Result(name, work, against, SECONDS, goal, own, turns[-1])
            for (name, work, goal), own in zip(named, turns, strict=False)
        ]

    def memory(self) -> list[Result]:
        """Peak memory of a worker and its children while they import a large file."""
        loans = _MANY_LOANS // 10 if self._quick else _MANY_LOANS
        workbook = self._workbook(loans)
        with ExitStack() as running:
            url = self._database()
            server = running.enter_context(
                bed.server(url, self._bed.redis_url, self._bed.all_processors)
            )
            worker = running.enter_context(bed.worker(url, self._bed.redis_url))
            watch = running.enter_context(_memory_watched(worker))
            began = time.monotonic()
            self._import(url, server, workbook, loans)
            seconds = time.monotonic() - began
        return [
            Result(
                "upload-memory",
                f"Memory of the worker, {loans:,} rows from .xlsx",
                "",
                MEBIBYTES,
                Goal("≤", 600),
                [Turn(watch.most_bytes / 2**20)],
                notes=[f"{workbook.stat().st_size / 2**20:.0f} MiB imported in {seconds:.1f} s"],
            )
        ]

    # Helpers.

    def _database(self) -> str:
        if not self._template:
            self._template = "ingest_template"
            bed.fill(self._bed.database(self._template), 1, _CUSTOMERS, 0)
        return self._bed.database("ingest", template=self._template)

    def _fresh(self, work: Callable[[str], float]) -> Callable[[], Turn]:
        def turn() -> Turn:
            url = self._database()
            self._bed.flush_cache()
            bed.settle(url)
            return Turn(work(url))

        return turn

    def _workbook(self, loans: int) -> Path:
        path = self._bed.folder / f"loans-{loans}.xlsx"
        rows = samples.sample_loans(_CUSTOMERS, loans, _SEED, TODAY)
        samples.write_workbook(path, samples.LOAN_HEADERS, (each.cells() for each in rows))
        return path

    def _files(self, loans: int) -> _Files:
        rows = list(samples.sample_loans(_CUSTOMERS, loans, _SEED, TODAY))
        table = self._bed.folder / "loans.csv"
        with table.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(samples.LOAN_HEADERS)
            writer.writerows(each.cells() for each in rows)
        copy_rows = "".join(map(_copy_row, rows)).encode()
        return _Files(self._workbook(loans), table, copy_rows, loans)

    def _upload(self, url: str, files: _Files) -> float:
        """Seconds from the start of the upload until every score is computed."""
        with (
            bed.server(url, self._bed.redis_url, self._bed.all_processors) as server,
            bed.worker(url, self._bed.redis_url),
        ):
            # The start of the worker is not part of the measurement.
            time.sleep(2.0)
            began = time.perf_counter()
            self._import(url, server, files.workbook, files.loans)
            return time.perf_counter() - began

    def _import(self, url: str, server: Server, workbook: Path, loans: int) -> None:
        request = Request(uuid4())
        with open_channel(f"127.0.0.1:{server.port}") as channel:
            client = IngestionClient(channel)
            client.upload(workbook, ingestion_pb2.INGESTION_KIND_LOANS, request)
            ended = client.follow(request.ingestion_id)
        _ensure_stored(ended, loans)
        _await_scores(url)

    def _stream(self, url: str, path: Path, loans: int) -> float:
        """Seconds from opening the file until the service reports all of it as stored."""
        with (
            bed.server(url, self._bed.redis_url, self._bed.all_processors) as server,
            open_channel(f"127.0.0.1:{server.port}") as channel,
        ):
            client = IngestionClient(channel)
            began = time.perf_counter()
            response = client.stream(open_source(path), Request(uuid4()))
            seconds = time.perf_counter() - began
        _ensure_stored(response.ingestion, loans)
        return seconds


def _ensure_stored(ingestion: ingestion_pb2.Ingestion, loans: int) -> None:
    # The database already has the customers.
    if ingestion.state != ingestion_pb2.INGESTION_STATE_SUCCEEDED or ingestion.inserted != loans:
        raise RuntimeError(f"not all of {loans:,} loans were stored: {ingestion}")


def _await_scores(url: str) -> None:
    """Wait until no stored score is outdated."""
    database = Database(bed.sqlalchemy_url(url))
    until = time.monotonic() + _PATIENCE_SECONDS
    # Scores are computed in the order of ids. Searching for the first outdated one from the
    # beginning each time would take a part of the processors that are measured.
    after = 0
    try:
        while time.monotonic() < until:
            with database.autocommit() as connection:
                found = scores.lagging(
                    connection, after=after, today=TODAY, scorecard_version="standard-1", limit=1
                )
            if found:
                after = found[0] - 1
                time.sleep(_POLL_SECONDS)
            elif after:
                after = 0
            else:
                return
    finally:
        database.dispose()
    raise RuntimeError("the scores were not computed")


def _copy(url: str, files: _Files) -> float:
    """Seconds of one COPY of the loans and its commit."""
    with psycopg.connect(url) as connection:
        began = time.perf_counter()
        with connection.cursor().copy(_COPY) as copy:
            copy.write(files.copy_rows)
        connection.commit()
        return time.perf_counter() - began


def _copy_row(loan: SampleLoan) -> str:
    """The loan as the import stores it, as a line for COPY."""
    due = installments_due_by(loan.start_date, loan.tenure_months, TODAY)
    settled = min(max(due, loan.emis_paid_on_time), loan.tenure_months)
    closed = min(loan.end_date, TODAY) if settled == loan.tenure_months else "\\N"
    cells: Sequence[object] = (
        loan.customer_id,
        loan.loan_id,
        loan.principal_rupees * 100,
        loan.annual_rate_bps,
        loan.tenure_months,
        loan.installment_rupees * 100,
        loan.start_date,
        loan.end_date,
        "t",
        settled,
        loan.emis_paid_on_time,
        settled,
        closed,
    )
    return "\t".join(map(str, cells)) + "\n"


class _MemoryWatch:
    """Peak memory of a process and its children, sampled twenty times per second."""

    def __init__(self, process: psutil.Process) -> None:
        self.most_bytes = 0
        self._process = process
        self.done = threading.Event()

    def sample(self) -> None:
        """Sample until `done`."""
        while not self.done.wait(0.05):
            held = 0
            try:
                tree = [self._process, *self._process.children(recursive=True)]
            except psutil.NoSuchProcess:
                return
            for each in tree:
                try:
                    held += each.memory_info().rss
                except psutil.NoSuchProcess:
                    continue
            self.most_bytes = max(self.most_bytes, held)


@contextmanager
def _memory_watched(process: psutil.Process) -> Iterator[_MemoryWatch]:
    watch = _MemoryWatch(process)
    thread = threading.Thread(target=watch.sample, daemon=True)
    thread.start()
    try:
        yield watch
    finally:
        watch.done.set()
        thread.join()
