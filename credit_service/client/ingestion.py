"""Sends files to the service: as a stream of rows, or whole for the workers to read.

Both survive a broken connection and a server that is replaced: they go on under the same ingestion
id from what the service says is committed, with bounded retries, so that no row is lost or doubled.
"""

import hashlib
import random
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeVar
from uuid import UUID

import grpc

from credit_service.client.channel import ServiceError, decoded, decoded_errors
from credit_service.client.rows import SourceError, SourceFile
from credit_service.spreadsheets.cell_values import DateOrder
from credit_service.v1 import ingestion_pb2, ingestion_service_pb2
from credit_service.v1.ingestion_service_pb2_grpc import IngestionServiceStub

T = TypeVar("T")

CHUNK_BYTES = 1024 * 1024
PAGE_SIZE = 1_000
MAX_FAILURE_CHARS = 500
ENDED = frozenset(
    {
        ingestion_pb2.INGESTION_STATE_SUCCEEDED,
        ingestion_pb2.INGESTION_STATE_FAILED,
        ingestion_pb2.INGESTION_STATE_CANCELLED,
    }
)
"""States of an ingestion that has ended. Only a stream that is resumed leaves one."""

# What a broken connection, a server that stops and one that is busy look like. INTERNAL and UNKNOWN
# come from the transport too; with an ErrorInfo they are the service's own word.
_WORTH_ANOTHER_TRY = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.OUT_OF_RANGE,
        grpc.StatusCode.CANCELLED,
    }
)
_TRANSPORT = frozenset({grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN})


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a transfer goes on without progress.

    It gives up `give_up_seconds` after the first failure that no committed row followed, and pauses
    between tries, from `first_pause_seconds` doubling to `longest_pause_seconds`. A stream that
    takes nothing for `stall_seconds` counts as broken; a unary call has `call_timeout_seconds`, a
    download `download_timeout_seconds`.
    """

    give_up_seconds: float = 60.0
    first_pause_seconds: float = 0.2
    longest_pause_seconds: float = 5.0
    stall_seconds: float = 60.0
    call_timeout_seconds: float = 10.0
    download_timeout_seconds: float = 600.0

    def pause(self, attempt: int, error: ServiceError) -> float:
        """Seconds to wait after the attempt-th failure in a row, from 0."""
        backoff = min(self.first_pause_seconds * 2.0**attempt, self.longest_pause_seconds)
        spread: float = backoff * random.uniform(0.5, 1.0)  # noqa: S311 - a pause, no secret
        return max(spread, min(error.retry_after_seconds or 0.0, self.longest_pause_seconds))


_MAX_FILENAME_CHARS = 255
_POLL_SECONDS = 0.5
_POLL_TIMEOUT_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Request:
    """What to do with a file: its ingestion id (made by the caller) and its rules.

    `date_order` is that of an uploaded file; the rows of a stream have it from their source.
    """

    ingestion_id: UUID
    update_existing: bool = False
    validate_only: bool = False
    date_order: DateOrder | None = None

    @property
    def on_existing(self) -> ingestion_pb2.OnExisting.ValueType:
        """The rule for rows that are stored already."""
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
    """The file cannot be read on, and the service was notified: the ingestion as it ended, whose
    rows up to `committed_offset` stay stored. It goes on with the corrected file under the same id.
    """

    def __init__(self, message: str, ingestion: ingestion_pb2.Ingestion) -> None:
        super().__init__(message)
        self.ingestion = ingestion


class Listener:
    """Hears how a transfer goes. The methods do nothing here; override those of interest."""

    def sent(self, rows: int, read_bytes: int) -> None:
        """`rows` rows were handed to the connection so far, of `read_bytes` bytes of the file.

        They are not committed yet. Called on another thread than the other methods.
        """

    def uploaded(self, sent_bytes: int) -> None:
        """`sent_bytes` bytes of the file were handed to the connection so far."""

    def advanced(self, ingestion: ingestion_pb2.Ingestion) -> None:
        """The ingestion as the service has it: its first `committed_offset` rows are committed.

        Of a stream that is under way it is polled twice a second.
        """

    def resuming(self, error: ServiceError, offset: int, pause_seconds: float) -> None:
        """The connection broke; the transfer goes on from row (or byte) `offset` after a pause."""


class IngestionClient:
    """Sends files over one channel. Use one at a time from one thread."""

    def __init__(self, channel: grpc.Channel, patience: Patience | None = None) -> None:
        self._stub = IngestionServiceStub(channel)
        self._patience = patience or Patience()

    def stream(
        self, source: SourceFile, request: Request, listener: Listener | None = None
    ) -> ingestion_service_pb2.IngestRowsResponse:
        """Send the rows of a file by IngestRows; the ingestion as it ended, with the first errors.

        After a break goes on from the committed offset. Raises ServiceError for a refusal and when
        patience ends; SourceFailedError where the file is damaged and the ingestion ended with it,
        SourceError where the service could not be notified.
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
        """Send a whole file by UploadSpreadsheet; the ingestion, queued for the workers.

        After a break sends it again under the same id, which the service takes once. Raises as
        `stream` does.
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
        """Watch an ingestion until it ends; the ingestion as it ended. Raises ServiceError."""
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

    def get(self, ingestion_id: UUID) -> ingestion_pb2.Ingestion:
        """One ingestion as it stands. Raises ServiceError."""
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
        """The first `limit` row errors of rows of that outcome, in the order of the rows.

        Raises ServiceError.
        """
        found: list[ingestion_pb2.RowError] = []
        token = ""
        while len(found) < limit:
            request = ingestion_service_pb2.ListRowErrorsRequest(
                ingestion_id=str(ingestion_id),
                page_size=min(limit - len(found), PAGE_SIZE),
                page_token=token,
                # A service of an earlier version knows rejected rows alone, and no outcomes.
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
        self, ingestion_id: UUID, file: IO[bytes]
    ) -> ingestion_service_pb2.AnnotatedWorkbookHeader:
        """Write the annotated workbook of an upload into an empty file; the name it should have.

        After a break begins again. Raises ServiceError.
        """
        transfer = _Transfer(self._patience, Listener())
        while True:
            file.seek(0)
            file.truncate()
            try:
                with decoded_errors():
                    return self._download(ingestion_id, file)
            except ServiceError as error:
                transfer.failed(error)
            transfer.wait(0)

    def _download(
        self, ingestion_id: UUID, file: IO[bytes]
    ) -> ingestion_service_pb2.AnnotatedWorkbookHeader:
        request = ingestion_service_pb2.DownloadAnnotatedWorkbookRequest(
            ingestion_id=str(ingestion_id)
        )
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
                # It broke before the header was taken in.
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
        """Report what is committed of a stream that is under way, which answers only at its end.

        A poll that fails reports nothing: the stream itself decides whether the connection broke.
        """
        request = ingestion_service_pb2.GetIngestionRequest(ingestion_id=str(ingestion_id))
        try:
            ingestion = self._stub.GetIngestion(request, timeout=_POLL_TIMEOUT_SECONDS).ingestion
        except grpc.RpcError:
            return
        listener.advanced(ingestion)


class _Transfer:
    """Decides after a failure whether to go on. Progress starts its patience anew."""

    def __init__(self, patience: Patience, listener: Listener) -> None:
        self._patience = patience
        self._listener = listener
        self._failures = 0
        self._failing_since = 0.0
        self._error: ServiceError | None = None
        self.offset = 0

    def reached(self, offset: int) -> None:
        """So many rows are committed."""
        if offset > self.offset:
            self.offset = offset
            self._failures = 0

    def failed(self, error: ServiceError) -> None:
        """A failure; raises it when it is a refusal, or when patience ends."""
        own_word = error.code in _TRANSPORT and error.reason
        transient = error.code in _WORTH_ANOTHER_TRY or error.code in _TRANSPORT
        now = time.monotonic()
        if not self._failures:
            self._failing_since = now
        if own_word or not transient or now - self._failing_since > self._patience.give_up_seconds:
            raise error
        self._error = error
        self._failures += 1

    def wait(self, offset: int) -> None:
        """Pause before going on from `offset`."""
        self.reached(offset)
        if self._error is None:
            return
        pause_seconds = self._patience.pause(max(self._failures - 1, 0), self._error)
        self._listener.resuming(self._error, offset, pause_seconds)
        time.sleep(pause_seconds)

    def persist(self, call: Callable[[], T]) -> T:
        """The call's result, tried again while the service is out of reach."""
        while True:
            try:
                return call()
            except ServiceError as error:
                self.failed(error)
            self.wait(self.offset)


def _filename(name: str) -> str:
    """The name as the contract allows it; what cannot be sent or shown is replaced."""
    sendable = name.encode("utf-8", "replace").decode()
    return "".join(char if char.isprintable() else "_" for char in sendable)[:_MAX_FILENAME_CHARS]


class _RowSender:
    """The messages of one attempt to stream a file. gRPC pulls them on a thread of its own."""

    def __init__(
        self, source: SourceFile, request: Request, offset: int, listener: Listener
    ) -> None:
        self._source = source
        self._request = request
        self._offset = offset
        self._listener = listener
        self._moved = time.monotonic()
        self.failure: SourceError | None = None

    @property
    def ingestion_id(self) -> UUID:
        """The ingestion that the rows are sent to."""
        return self._request.ingestion_id

    def idle_seconds(self) -> float:
        """How long ago the connection last took a message."""
        return time.monotonic() - self._moved

    def requests(self) -> Iterator[ingestion_service_pb2.IngestRowsRequest]:
        kind = ingestion_pb2.IngestionKind.Value(f"INGESTION_KIND_{self._source.kind}")
        header = ingestion_service_pb2.IngestRowsHeader(
            ingestion_id=str(self._request.ingestion_id),
            kind=kind,
            on_existing=self._request.on_existing,
            validate_only=self._request.validate_only,
            filename=_filename(self._source.path.name),
            sheet=self._source.sheet,
            ignored_columns=self._source.ignored_columns,
            unread_sheets=self._source.unread_sheets,
        )
        yield ingestion_service_pb2.IngestRowsRequest(header=header)
        try:
            for each in self._source.batches(self._offset):
                batch = each.batch
                self._moved = time.monotonic()
                yield ingestion_service_pb2.IngestRowsRequest(batch=batch)
                rows = len(batch.loans.rows) or len(batch.customers.rows)
                self._listener.sent(batch.offset + rows, each.read_bytes)
        except SourceError as error:
            # Ending here without a word would say that these were all the rows.
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
