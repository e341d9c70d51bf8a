"""Sends files to the service: as a stream of rows, or as a whole file for a worker to read.

Both survive a lost connection and the restart of a server: they resume under the same ingestion id
after the committed rows, with bounded retries, so that no row is lost or stored twice.
"""

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal, TypeVar
from uuid import UUID

import grpc

from credit_service.v1 import ingestion_pb2, ingestion_service_pb2
from credit_service.v1.ingestion_service_pb2_grpc import IngestionServiceStub
from credit_service_client.errors import ServiceError, decoded, decoded_errors
from credit_service_client.retrying import WORTH_REPEATING, Patience
from credit_service_client.sources import RowSource, SourceError

T = TypeVar("T")
DateOrder = Literal["DMY", "MDY", "YMD"]
"""The order of day, month and year in dates written in digits with the year last, or first."""

CHUNK_BYTES = 1024 * 1024
PAGE_SIZE = 1_000
MAX_FAILURE_CHARS = 500
ENDED = frozenset(
    {
        ingestion_pb2.INGESTION_STATE_SUCCEEDED,
        ingestion_pb2.INGESTION_STATE_FAILED,
        ingestion_pb2.INGESTION_STATE_CANCELLED,
        ingestion_pb2.INGESTION_STATE_REVERTED,
    }
)
"""States of an ended ingestion. Only a resumed stream and a revert leave one of them."""

# The offset of a stream that was resumed too early differs from the committed one.
_TRANSIENT = WORTH_REPEATING | {grpc.StatusCode.OUT_OF_RANGE}
# The transport also produces these; with an ErrorInfo they come from the service.
_TRANSPORT = frozenset({grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN})


_MAX_FILENAME_CHARS = 255
_POLL_SECONDS = 0.5
_POLL_TIMEOUT_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Request:
    """Options of an ingestion: its id, which the caller chooses, and its rules.

    `date_order` applies to an uploaded file. For a stream, the source has it.
    """

    ingestion_id: UUID
    update_existing: bool = False
    validate_only: bool = False
    date_order: DateOrder | None = None

    @property
    def on_existing(self) -> ingestion_pb2.OnExisting.ValueType:
        """The rule for rows that are already stored."""
        if self.update_existing:
            return ingestion_pb2.ON_EXISTING_UPDATE
        return ingestion_pb2.ON_EXISTING_SKIP


_DATE_ORDERS: Mapping[DateOrder | None, ingestion_pb2.DateOrder.ValueType] = {
    None: ingestion_pb2.DATE_ORDER_UNSPECIFIED,
    "DMY": ingestion_pb2.DATE_ORDER_DMY,
    "MDY": ingestion_pb2.DATE_ORDER_MDY,
    "YMD": ingestion_pb2.DATE_ORDER_YMD,
}


class SourceFailedError(SourceError):
    """The rest of the file is unreadable, and the service was notified. The rows up to
    `committed_offset` stay stored. The corrected file resumes the ingestion under the same id.
    """

    def __init__(self, message: str, ingestion: ingestion_pb2.Ingestion) -> None:
        super().__init__(message)
        self.ingestion = ingestion


class Listener:
    """Callbacks for the progress of a transfer. They do nothing by default."""

    def sent(self, rows: int, read_bytes: int) -> None:
        """`rows` rows were passed to the connection so far, from `read_bytes` bytes of the file.

        They are not committed yet. Another thread calls this than the other methods.
        """

    def uploaded(self, sent_bytes: int) -> None:
        """`sent_bytes` bytes of the file were passed to the connection so far."""

    def advanced(self, ingestion: ingestion_pb2.Ingestion) -> None:
        """The service committed the first `committed_offset` rows of the ingestion.

        A running stream is polled twice a second.
        """

    def resuming(self, error: ServiceError, offset: int, pause_seconds: float) -> None:
        """The connection was lost. The transfer resumes at row (or byte) `offset` after a pause."""


class IngestionClient:
    """Sends files over one channel. Not thread-safe."""

    def __init__(self, channel: grpc.Channel, patience: Patience | None = None) -> None:
        self._stub = IngestionServiceStub(channel)
        self._patience = patience or Patience()

    def stream(
        self, source: RowSource, request: Request, listener: Listener | None = None
    ) -> ingestion_service_pb2.IngestRowsResponse:
        """Send rows by IngestRows. Return the ended ingestion with its first errors.

        Resumes from the committed offset after a lost connection. Raises ServiceError for a
        rejection and when patience ends; SourceFailedError if the source is damaged and the
        ingestion ended for it; SourceError if the service could not be notified.
        """
        listener = listener or Listener()
        transfer = _Transfer(self._patience, listener)
        offset = 0
        while True:
            sender = _RowSender(source, request, offset, listener)
            try:
                response = self._run(sender, listener)
            except ServiceError as error:
                try:
                    transfer.failed(error)
                except ServiceError:
                    if sender.failure is not None:
                        raise sender.failure from error
                    raise
            else:
                if sender.failure is not None:
                    raise SourceFailedError(str(sender.failure), response.ingestion)
                return response
            offset = transfer.persist(lambda: self._committed(request.ingestion_id))
            transfer.wait(offset)

    def upload(
        self,
        path: Path,
        kind: ingestion_pb2.IngestionKind.ValueType,
        request: Request,
        listener: Listener | None = None,
    ) -> ingestion_pb2.Ingestion:
        """Send a whole file by UploadSpreadsheet. Return the ingestion, queued for the workers.

        After a lost connection, sends it again under the same id, so the service ingests it once.
        Raises like `stream`.
        """
        listener = listener or Listener()
        transfer = _Transfer(self._patience, listener)
        try:
            content = path.read_bytes()
        except OSError as error:
            raise SourceError(f"{path} cannot be read: {error.strerror}.") from error
        header = ingestion_service_pb2.UploadSpreadsheetHeader(
            ingestion_id=str(request.ingestion_id),
            kind=kind,
            filename=path.name,
            on_existing=request.on_existing,
            validate_only=request.validate_only,
            sha256=hashlib.sha256(content).hexdigest(),
            date_order=_DATE_ORDERS[request.date_order],
        )
        timeout = self._patience.stall_seconds + len(content) / CHUNK_BYTES
        while True:
            try:
                with decoded_errors():
                    requests = _upload_requests(header, content, listener)
                    return self._stub.UploadSpreadsheet(requests, timeout=timeout).ingestion
            except ServiceError as error:
                transfer.failed(error)
            transfer.wait(0)

    def follow(
        self, ingestion_id: UUID, listener: Listener | None = None
    ) -> ingestion_pb2.Ingestion:
        """Watch an ingestion until it ends, and return it. Raises ServiceError."""
        listener = listener or Listener()
        transfer = _Transfer(self._patience, listener)
        request = ingestion_service_pb2.WatchIngestionRequest(ingestion_id=str(ingestion_id))
        while True:
            try:
                with decoded_errors():
                    for response in self._stub.WatchIngestion(request):
                        transfer.reached(response.ingestion.committed_offset)
                        listener.advanced(response.ingestion)
                        if response.ingestion.state in ENDED:
                            return response.ingestion
                transfer.failed(
                    ServiceError(grpc.StatusCode.UNAVAILABLE, "The progress stream ended early.")
                )
            except ServiceError as error:
                transfer.failed(error)
            transfer.wait(transfer.offset)

    def cancel(self, ingestion_id: UUID, request_id: UUID) -> ingestion_pb2.Ingestion:
        """Cancel an ingestion and return it. Retries while a batch is being committed, and after a
        lost connection. Raises ServiceError."""
        request = ingestion_service_pb2.CancelIngestionRequest(
            request_id=str(request_id), ingestion_id=str(ingestion_id)
        )
        response = self._persist(
            lambda: self._stub.CancelIngestion(request, timeout=self._patience.call_timeout_seconds)
        )
        return response.ingestion

    def revert(self, ingestion_id: UUID, request_id: UUID) -> ingestion_pb2.Ingestion:
        """Let the workers revert an ingestion and return it, without waiting for them. Retries
        after a lost connection. Raises ServiceError."""
        request = ingestion_service_pb2.RevertIngestionRequest(
            request_id=str(request_id), ingestion_id=str(ingestion_id)
        )
        response = self._persist(
            lambda: self._stub.RevertIngestion(request, timeout=self._patience.call_timeout_seconds)
        )
        return response.ingestion

    def _persist(self, call: Callable[[], T]) -> T:
        def decoded() -> T:
            with decoded_errors():
                return call()

        return _Transfer(self._patience, Listener()).persist(decoded)

    def get(self, ingestion_id: UUID) -> ingestion_pb2.Ingestion:
        """Return an ingestion in its current state. Raises ServiceError."""
        request = ingestion_service_pb2.GetIngestionRequest(ingestion_id=str(ingestion_id))
        with decoded_errors():
            response = self._stub.GetIngestion(request, timeout=self._patience.call_timeout_seconds)
        return response.ingestion

    def row_errors(
        self,
        ingestion_id: UUID,
        limit: int,
        outcome: ingestion_pb2.RowOutcome.ValueType = ingestion_pb2.ROW_OUTCOME_REJECTED,
    ) -> list[ingestion_pb2.RowError]:
        """Return the first `limit` row errors of rows with that outcome, in row order.

        Raises ServiceError.
        """
        found: list[ingestion_pb2.RowError] = []
        token = ""
        while len(found) < limit:
            request = ingestion_service_pb2.ListRowErrorsRequest(
                ingestion_id=str(ingestion_id),
                page_size=min(limit - len(found), PAGE_SIZE),
                page_token=token,
                # A service of an earlier version knows only rejected rows, and no outcomes.
                outcomes=[] if outcome == ingestion_pb2.ROW_OUTCOME_REJECTED else [outcome],
            )
            with decoded_errors():
                page = self._stub.ListRowErrors(
                    request, timeout=self._patience.call_timeout_seconds
                )
            found += page.row_errors
            token = page.next_page_token
            if not token:
                break
        return found

    def annotated_workbook(
        self, ingestion_id: UUID, file: IO[bytes], *, rejected_only: bool = False
    ) -> ingestion_service_pb2.AnnotatedWorkbookHeader:
        """Write the annotated workbook of an upload into an empty file, with all rows or only the
        rejected ones. Return its header.

        Starts again after a lost connection. Raises ServiceError.
        """
        request = ingestion_service_pb2.DownloadAnnotatedWorkbookRequest(
            ingestion_id=str(ingestion_id), rejected_only=rejected_only
        )
        transfer = _Transfer(self._patience, Listener())
        while True:
            file.seek(0)
            file.truncate()
            try:
                with decoded_errors():
                    return self._download(request, file)
            except ServiceError as error:
                transfer.failed(error)
            transfer.wait(0)

    def _download(
        self, request: ingestion_service_pb2.DownloadAnnotatedWorkbookRequest, file: IO[bytes]
    ) -> ingestion_service_pb2.AnnotatedWorkbookHeader:
        stream: Any = self._stub.DownloadAnnotatedWorkbook(
            request, timeout=self._patience.download_timeout_seconds
        )
        try:
            header: ingestion_service_pb2.AnnotatedWorkbookHeader = next(stream).header
            for message in stream:
                file.write(message.chunk)
        except StopIteration:
            header = ingestion_service_pb2.AnnotatedWorkbookHeader()
        finally:
            stream.cancel()
        if not header.filename or file.tell() != header.size_bytes:
            raise ServiceError(grpc.StatusCode.UNAVAILABLE, "The download ended early.")
        return header

    def _committed(self, ingestion_id: UUID) -> int:
        try:
            return self.get(ingestion_id).committed_offset
        except ServiceError as error:
            if error.code is grpc.StatusCode.NOT_FOUND:
                # The connection was lost before the service stored the header.
                return 0
            raise

    def _run(
        self, sender: "_RowSender", listener: Listener
    ) -> ingestion_service_pb2.IngestRowsResponse:
        call: Any = self._stub.IngestRows.future(sender.requests())
        try:
            while True:
                try:
                    response: ingestion_service_pb2.IngestRowsResponse = call.result(
                        timeout=_POLL_SECONDS
                    )
                except grpc.FutureTimeoutError:
                    if sender.idle_seconds() > self._patience.stall_seconds:
                        text = "The stream made no progress."
                        raise ServiceError(grpc.StatusCode.DEADLINE_EXCEEDED, text) from None
                    self._poll(sender.ingestion_id, listener)
                except (grpc.FutureCancelledError, grpc.RpcError) as error:
                    raise decoded(error) from None
                else:
                    return response
        finally:
            call.cancel()

    def _poll(self, ingestion_id: UUID, listener: Listener) -> None:
        """Report the committed rows of a running stream, which itself responds only at its end.

        A failed poll reports nothing: the stream itself shows whether the connection is lost.
        """
        request = ingestion_service_pb2.GetIngestionRequest(ingestion_id=str(ingestion_id))
        try:
            ingestion = self._stub.GetIngestion(request, timeout=_POLL_TIMEOUT_SECONDS).ingestion
        except grpc.RpcError:
            return
        listener.advanced(ingestion)


class _Transfer:
    """Decides after a failure whether to retry. Progress resets the retry deadline."""

    def __init__(self, patience: Patience, listener: Listener) -> None:
        self._patience = patience
        self._listener = listener
        self._failures = 0
        self._failing_since = 0.0
        self._error: ServiceError | None = None
        self.offset = 0

    def reached(self, offset: int) -> None:
        """Record that `offset` rows are committed."""
        if offset > self.offset:
            self.offset = offset
            self._failures = 0

    def failed(self, error: ServiceError) -> None:
        """Record a failure. Raise it if it is a rejection, or if patience ends."""
        from_service = error.code in _TRANSPORT and error.reason
        transient = error.code in _TRANSIENT or error.code in _TRANSPORT
        now = time.monotonic()
        if not self._failures:
            self._failing_since = now
        gives_up = now - self._failing_since > self._patience.give_up_seconds
        if from_service or not transient or gives_up:
            raise error
        self._error = error
        self._failures += 1

    def wait(self, offset: int) -> None:
        """Pause before resuming from `offset`."""
        self.reached(offset)
        if self._error is None:
            return
        pause_seconds = self._patience.pause(max(self._failures - 1, 0), self._error)
        self._listener.resuming(self._error, offset, pause_seconds)
        time.sleep(pause_seconds)

    def persist(self, call: Callable[[], T]) -> T:
        """Return the call's result. Retry while the service is unavailable."""
        while True:
            try:
                return call()
            except ServiceError as error:
                self.failed(error)
            self.wait(self.offset)


def _filename(name: str) -> str:
    """Return the name as the contract allows it. Replace invalid and unprintable characters."""
    sendable = name.encode("utf-8", "replace").decode()
    return "".join(char if char.isprintable() else "_" for char in sendable)[:_MAX_FILENAME_CHARS]


class _RowSender:
    """The messages of one attempt to stream a file. gRPC pulls them on a thread of its own."""

    def __init__(
        self, source: RowSource, request: Request, offset: int, listener: Listener
    ) -> None:
        self._source = source
        self._request = request
        self._offset = offset
        self._listener = listener
        self._moved = time.monotonic()
        self.failure: SourceError | None = None

    @property
    def ingestion_id(self) -> UUID:
        """The ingestion of the rows."""
        return self._request.ingestion_id

    def idle_seconds(self) -> float:
        """Return the seconds since the connection last accepted a message."""
        return time.monotonic() - self._moved

    def requests(self) -> Iterator[ingestion_service_pb2.IngestRowsRequest]:
        kind = ingestion_pb2.IngestionKind.Value(f"INGESTION_KIND_{self._source.kind}")
        header = ingestion_service_pb2.IngestRowsHeader(
            ingestion_id=str(self._request.ingestion_id),
            kind=kind,
            on_existing=self._request.on_existing,
            validate_only=self._request.validate_only,
            filename=_filename(self._source.filename),
            sheet=self._source.sheet,
            ignored_columns=self._source.ignored_columns,
            unread_sheets=self._source.unread_sheets,
        )
        yield ingestion_service_pb2.IngestRowsRequest(header=header)
        try:
            for each in self._source.batches(self._offset):
                batch = each.batch
                self._moved = time.monotonic()
                yield each.request
                rows = len(batch.loans.rows) or len(batch.customers.rows)
                self._listener.sent(batch.offset + rows, each.read_bytes)
        except SourceError as error:
            # Without this message, the end of the stream would mean that these are all rows.
            self.failure = error
            text = "".join(each if each.isprintable() else " " for each in str(error))
            failure = ingestion_service_pb2.SourceFailure(message=text[:MAX_FAILURE_CHARS])
            yield ingestion_service_pb2.IngestRowsRequest(failure=failure)
        self._moved = time.monotonic()


def _upload_requests(
    header: ingestion_service_pb2.UploadSpreadsheetHeader, content: bytes, listener: Listener
) -> Iterator[ingestion_service_pb2.UploadSpreadsheetRequest]:
    yield ingestion_service_pb2.UploadSpreadsheetRequest(header=header)
    for begin in range(0, len(content), CHUNK_BYTES):
        chunk = content[begin : begin + CHUNK_BYTES]
        yield ingestion_service_pb2.UploadSpreadsheetRequest(chunk=chunk)
        listener.uploaded(begin + len(chunk))
