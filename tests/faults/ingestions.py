"""The callers' ingestions: streams and uploads of loans, some cancelled or reverted."""

import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from credit_service.client import channel, rows
from credit_service.client.rows import SourceFile
from credit_service.v1 import ingestion_pb2, ingestion_service_pb2
from credit_service.v1.ingestion_service_pb2_grpc import IngestionServiceStub
from credit_service_client import ingestion
from credit_service_client.errors import ServiceError, decoded_errors
from credit_service_client.ingestion import IngestionClient
from credit_service_client.retrying import Patience
from credit_service_client.sources import BatchProgress
from tests.faults import portfolio
from tests.faults.history import CALL_SECONDS, TRY_AGAIN, History, Sent, Undo

_STREAM_ROWS = 120
_BATCH_ROWS = 20
MOST_INGESTIONS = 8
"""Concurrent ingestions: more would exceed the limit of streams."""
PATIENCE = Patience(
    give_up_seconds=60.0, longest_pause_seconds=1.0, stall_seconds=15.0, call_timeout_seconds=5.0
)
"""How long the client tries."""
_LOANS = ingestion_pb2.INGESTION_KIND_LOANS


class _InSmallBatches(SourceFile):
    """A file sent a few rows at a time, so that its stream can break in between."""

    def batches(self, offset: int = 0) -> Iterator[BatchProgress]:
        for each in super().batches(offset):
            for begin in range(0, len(each.batch.loans.rows), _BATCH_ROWS):
                part = ingestion_service_pb2.RowBatch(offset=each.batch.offset + begin)
                part.loans.rows.extend(each.batch.loans.rows[begin : begin + _BATCH_ROWS])
                request = ingestion_service_pb2.IngestRowsRequest(batch=part)
                yield BatchProgress(request, each.read_bytes)


class Ingestions:
    """Sends the ingestions of one campaign."""

    def __init__(self, address: str, folder: Path, past: History) -> None:
        self._address = address
        self._folder = folder
        self._history = past
        self._streams = threading.Semaphore(MOST_INGESTIONS)

    def ingest(self, pick: random.Random, number: int) -> None:
        """Send a new file, unless as many are being sent as the limit of streams allows."""
        if not self._streams.acquire(blocking=False):
            return
        try:
            self._ingest(pick, number)
        finally:
            self._streams.release()

    def _ingest(self, pick: random.Random, number: int) -> None:
        path = self._folder / f"rows-{number}.csv"
        sent_rows = portfolio.write_rows(path, number, _STREAM_ROWS, pick)
        lot = pick.random()
        sent = Sent(
            portfolio.request_id(pick), path, sent_rows, uploaded=lot < 0.25, twice=lot > 0.7
        )
        self._history.sends(sent)
        self.transfer(sent)

    def transfer(self, sent: Sent) -> None:
        """Send it until the client gives up; the final repetition continues it."""
        if sent.uploaded:
            self._upload(sent)
        elif sent.twice:
            both = [threading.Thread(target=self._stream, args=(sent,)) for _ in range(2)]
            for thread in both:
                thread.start()
            for thread in both:
                thread.join()
        else:
            self._stream(sent)

    def _stream(self, sent: Sent) -> None:
        self._history.count(self._history.calls, "IngestRows")
        found = rows.open_source(sent.path, "LOANS")
        source = _InSmallBatches(found.path, found.kind, found.size_bytes)
        request = ingestion.Request(sent.ingestion_id)
        with channel.open_channel(self._address) as opened:
            try:
                counts = IngestionClient(opened, PATIENCE).stream(source, request).ingestion
            except ServiceError as error:
                if sent.undos and error.reason == "INGESTION_ENDED":
                    # It was cancelled.
                    sent.acknowledged_at = time.monotonic()
                else:
                    self._broken("IngestRows", error)
                return
        sent.acknowledged_at = time.monotonic()
        if counts.rows_read != len(sent.rows) and sent.cancel is None:
            self._history.find(
                "rows",
                f"{sent.ingestion_id} reported {counts.rows_read} rows but {len(sent.rows)} were"
                " sent",
            )

    def _upload(self, sent: Sent) -> None:
        self._history.count(self._history.calls, "UploadSpreadsheet")
        request = ingestion.Request(sent.ingestion_id)
        with channel.open_channel(self._address) as opened:
            try:
                IngestionClient(opened, PATIENCE).upload(sent.path, _LOANS, request)
            except ServiceError as error:
                self._broken("UploadSpreadsheet", error)
                return
        sent.acknowledged_at = time.monotonic()

    def undo(self, pick: random.Random) -> None:
        """Cancel or revert an ingestion; sometimes again."""
        found = self._history.undo(pick, portfolio.request_id(pick))
        if found is not None:
            self.ask_undo(*found)

    def ask_undo(self, sent: Sent, undo: Undo) -> None:
        """Send the request once. One that comes before the ingestion has begun, or for a revert
        before it has ended, stays open."""
        self._history.count(self._history.calls, undo.method)
        message = getattr(ingestion_service_pb2, f"{undo.method}Request")(
            request_id=str(undo.request_id), ingestion_id=str(sent.ingestion_id)
        )
        with channel.open_channel(self._address) as opened:
            stub = IngestionServiceStub(opened)
            try:
                with decoded_errors():
                    getattr(stub, undo.method)(message, timeout=CALL_SECONDS)
            except ServiceError as error:
                if error.reason in ("INGESTION_NOT_FOUND", "INGESTION_NOT_ENDED"):
                    self._history.count(self._history.statuses, error.code.name)
                elif error.reason == "INGESTION_ENDED" and undo is sent.cancel:
                    self._history.count(self._history.statuses, error.code.name)
                    undo.is_refused = True
                else:
                    self._broken(undo.method, error)
                return
        self._history.count(self._history.statuses, "OK")
        undo.is_done = True

    def _broken(self, method: str, error: ServiceError) -> None:
        """Handle a client that gave up, or a rejection, which is a finding."""
        self._history.count(self._history.statuses, error.code.name)
        if error.code not in TRY_AGAIN:
            self._history.find("status", f"{method}: {error.code.name} {error}")
