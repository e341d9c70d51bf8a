"""IngestionService: streams of rows, uploads, and their progress."""

# The method names are the contract's, the arguments grpc's.
# ruff: noqa: N802, ARG002

import threading
from collections.abc import Iterator
from uuid import UUID

import grpc
import structlog

from credit_service.cache.positions import PositionCache
from credit_service.clock import Clock
from credit_service.ingestion.cancelling import cancel_ingestion
from credit_service.ingestion.downloads import Annotator
from credit_service.ingestion.reverting import revert_ingestion
from credit_service.ingestion.streams import (
    begin_stream,
    fail_stream,
    finish_stream,
    ingest_rows,
    leave_stream,
)
from credit_service.ingestion.uploads import store_upload
from credit_service.ingestion.wire import RowBatch
from credit_service.queries.ingestions import get_ingestion, list_ingestions, list_row_errors
from credit_service.rpc.calls.call import current_call
from credit_service.rpc.calls.streams import Messages, prepare_messages, shutting_down
from credit_service.rpc.convert import fields, pages
from credit_service.rpc.convert import ingestion as convert_ingestion
from credit_service.rpc.convert.fields import Violations
from credit_service.rpc.convert.pages import PageTokens
from credit_service.rpc.errors import PermissionDeniedError
from credit_service.rupees import RUPEE_PAISE
from credit_service.settings import Settings
from credit_service.storage.cancellation import shielded
from credit_service.storage.database import Database
from credit_service.storage.ingestions import OnExisting
from credit_service.v1 import ingestion_service_pb2 as pb
from credit_service.v1 import ingestion_service_pb2_grpc

FIRST_ROW_ERRORS = 100
"""Row errors in the responses of IngestRows and RevertIngestion."""

CHUNK_BYTES = 1024**2
"""Largest chunk of a workbook."""

_POLL_SECONDS = 0.2
_READ_SCOPE = "credit.read"
_UPDATE_SCOPE = "ingest.update"
_ADMIN_SCOPE = "admin"
_INGESTION_PAGES = PageTokens("ListIngestions", pages.key_instant, pages.key_uuid)
_ERROR_PAGES = PageTokens("ListRowErrors", pages.key_id, pages.key_id)

_log = structlog.get_logger(__name__)


def _require_update_scope(
    on_existing: OnExisting, advice: str = ", or send without UPDATE to store new rows only"
) -> None:
    """Raise PermissionDeniedError if stored rows are updated and the caller lacks the scope."""
    if on_existing == "UPDATE" and _UPDATE_SCOPE not in current_call().scopes:
        raise PermissionDeniedError(
            "PERMISSION_DENIED",
            f"Missing scope: updating stored rows requires {_UPDATE_SCOPE}. Use credentials that "
            f"grant it{advice}.",
            {"required_scope": _UPDATE_SCOPE},
        )


class IngestionServicer(ingestion_service_pb2_grpc.IngestionServiceServicer):
    """Implements IngestionService. The contract lists the errors of each method."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        settings: Settings,
        *,
        cache: PositionCache | None,
        stopping: threading.Event,
    ) -> None:
        """Streams end when `stopping` is set."""
        self._database = database
        self._clock = clock
        self._upload_max_bytes = settings.upload_max_bytes
        self._max_limit_paise = settings.max_imported_limit_rupees * RUPEE_PAISE
        self._batch_rows = settings.ingestion_batch_rows
        self._stopping = stopping
        self._annotator = Annotator(database)
        self._forget = None if cache is None else cache.drop

    @prepare_messages(convert_ingestion.read_stream_message)
    def IngestRows(  # type: ignore[override]  # `prepare_messages` converts the messages
        self, requests: Messages[pb.IngestRowsRequest | RowBatch], context: grpc.ServicerContext
    ) -> pb.IngestRowsResponse:
        """Store rows, each batch once; batches that wait together share a transaction."""
        call = current_call()
        header = convert_ingestion.read_stream_header(next(requests, None))
        _require_update_scope(header.on_existing)
        begin_stream(
            self._database,
            header,
            self._clock.moment(),
            call.principal,
            max_limit_paise=self._max_limit_paise,
        )
        failure: str | None = None
        sent_until: int | None = None
        try:
            for request in requests:
                call.raise_if_cancelled()
                failure = convert_ingestion.read_failure(request)
                if failure is not None:
                    break
                rows = self._with_waiting(convert_ingestion.read_batch(request), requests)
                ingest_rows(
                    self._database,
                    header.ingestion_id,
                    rows,
                    self._clock.moment(),
                    on_moved=self._forget,
                )
                sent_until = rows[-1].end
        except Exception:
            self._leave(header.ingestion_id)
            raise
        moment = self._clock.moment()
        if failure is None:
            ingestion = finish_stream(
                self._database, header.ingestion_id, moment, sent_until=sent_until
            )
        else:
            ingestion = fail_stream(self._database, header.ingestion_id, failure, moment)
        errors = list_row_errors(self._database, header.ingestion_id, None, FIRST_ROW_ERRORS)
        return pb.IngestRowsResponse(
            ingestion=convert_ingestion.write_ingestion(ingestion),
            row_errors=[convert_ingestion.write_row_error(each) for each in errors],
        )

    def _with_waiting(
        self, first: RowBatch, requests: Messages[pb.IngestRowsRequest | RowBatch]
    ) -> list[RowBatch]:
        """The batch and the waiting batches that continue it, as many as fit one transaction. The
        more rows in it, the fewer writes for a customer with several rows."""
        found = [first]
        room_rows = self._batch_rows - first.row_count

        def fits(request: pb.IngestRowsRequest | RowBatch) -> bool:
            return (
                isinstance(request, RowBatch)
                and request.continues(found[-1])
                and request.row_count <= room_rows
            )

        while (request := requests.next_if(fits)) is not None:
            found.append(convert_ingestion.read_batch(request))
            room_rows -= found[-1].row_count
        return found

    def _leave(self, ingestion_id: UUID) -> None:
        """Announce the rows that a broken stream stored; what broke it may prevent that too."""
        try:
            with shielded():
                leave_stream(self._database, ingestion_id, self._clock.moment())
        except Exception:  # noqa: BLE001 - logged; the caller gets the error that broke the stream
            _log.warning("broken_stream_not_announced", ingestion_id=str(ingestion_id))

    def UploadSpreadsheet(
        self, requests: Iterator[pb.UploadSpreadsheetRequest], context: grpc.ServicerContext
    ) -> pb.UploadSpreadsheetResponse:
        """Store a file for the workers."""
        call = current_call()
        header = convert_ingestion.read_upload_header(next(requests, None))
        _require_update_scope(header.on_existing)

        def chunks() -> Iterator[bytes]:
            for request in requests:
                call.raise_if_cancelled()
                yield convert_ingestion.read_chunk(request)

        ingestion = store_upload(
            self._database,
            header,
            chunks(),
            self._clock.moment(),
            call.principal,
            self._upload_max_bytes,
            max_limit_paise=self._max_limit_paise,
        )
        return pb.UploadSpreadsheetResponse(ingestion=convert_ingestion.write_ingestion(ingestion))

    def GetIngestion(
        self, request: pb.GetIngestionRequest, context: grpc.ServicerContext
    ) -> pb.GetIngestionResponse:
        """Get an ingestion."""
        ingestion_id = convert_ingestion.read_ingestion_id(request.ingestion_id)
        ingestion = get_ingestion(self._database, ingestion_id)
        return pb.GetIngestionResponse(ingestion=convert_ingestion.write_ingestion(ingestion))

    def ListIngestions(
        self, request: pb.ListIngestionsRequest, context: grpc.ServicerContext
    ) -> pb.ListIngestionsResponse:
        """List ingestions, the latest first."""
        violations = Violations()
        size = pages.read_page_size(request.page_size, violations)
        violations.raise_if_any()
        key = _INGESTION_PAGES.read(request.page_token)
        after = None if key is None else (key[0], key[1])
        found = list_ingestions(self._database, after, size + 1)
        page = found[:size]
        response = pb.ListIngestionsResponse(
            ingestions=[convert_ingestion.write_ingestion(each) for each in page]
        )
        if len(found) > size:
            last = page[-1]
            response.next_page_token = _INGESTION_PAGES.write(
                [last.created_at.isoformat(), str(last.ingestion_id)]
            )
        return response

    def WatchIngestion(
        self, request: pb.WatchIngestionRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.WatchIngestionResponse]:
        """Poll an ingestion's row and stream its changes until it, or its revert, ends."""
        ingestion_id = convert_ingestion.read_ingestion_id(request.ingestion_id)
        call = current_call()
        seen = None
        while True:
            ingestion = get_ingestion(self._database, ingestion_id)
            if ingestion != seen:
                yield pb.WatchIngestionResponse(
                    ingestion=convert_ingestion.write_ingestion(ingestion)
                )
                seen = ingestion
            if ingestion.is_at_rest:
                return
            if self._stopping.wait(_POLL_SECONDS):
                raise shutting_down()
            call.raise_if_cancelled()
            call.raise_if_expired()

    def CancelIngestion(
        self, request: pb.CancelIngestionRequest, context: grpc.ServicerContext
    ) -> pb.CancelIngestionResponse:
        """End an ingestion before its last row."""
        call = current_call()
        request_id, ingestion_id = convert_ingestion.read_undo(request)
        ingestion = cancel_ingestion(
            self._database,
            ingestion_id,
            request_id,
            self._clock.moment(),
            call.principal,
            owns_all=_ADMIN_SCOPE in call.scopes,
        )
        return pb.CancelIngestionResponse(ingestion=convert_ingestion.write_ingestion(ingestion))

    def RevertIngestion(
        self, request: pb.RevertIngestionRequest, context: grpc.ServicerContext
    ) -> pb.RevertIngestionResponse:
        """Let the workers take back the rows of an ingestion."""
        call = current_call()
        request_id, ingestion_id = convert_ingestion.read_undo(request)
        _require_update_scope(get_ingestion(self._database, ingestion_id).on_existing, "")
        ingestion = revert_ingestion(
            self._database,
            ingestion_id,
            request_id,
            self._clock.moment(),
            call.principal,
            owns_all=_ADMIN_SCOPE in call.scopes,
        )
        kept = list_row_errors(self._database, ingestion_id, None, FIRST_ROW_ERRORS, ["KEPT"])
        return pb.RevertIngestionResponse(
            ingestion=convert_ingestion.write_ingestion(ingestion),
            kept_rows=[convert_ingestion.write_row_error(each) for each in kept],
        )

    def ListRowErrors(
        self, request: pb.ListRowErrorsRequest, context: grpc.ServicerContext
    ) -> pb.ListRowErrorsResponse:
        """List row errors in the order of their rows."""
        violations = Violations()
        ingestion_id = fields.read_required_uuid(request.ingestion_id, "ingestion_id", violations)
        size = pages.read_page_size(request.page_size, violations)
        outcomes = convert_ingestion.read_outcomes(request.outcomes, violations)
        violations.raise_if_any()
        self._require_access_to_rows(ingestion_id)
        scope = str(ingestion_id)
        if outcomes != ["REJECTED"]:
            scope += f" {sorted(outcomes)}"
        key = _ERROR_PAGES.read(request.page_token, scope)
        after = None if key is None else (key[0], key[1])
        found = list_row_errors(self._database, ingestion_id, after, size + 1, outcomes)
        # Afterwards: they are marked before the first one is deleted.
        if get_ingestion(self._database, ingestion_id).is_row_errors_expired:
            return pb.ListRowErrorsResponse(row_errors_expired=True)
        page = found[:size]
        response = pb.ListRowErrorsResponse(
            row_errors=[convert_ingestion.write_row_error(each) for each in page]
        )
        if len(found) > size:
            last = page[-1]
            response.next_page_token = _ERROR_PAGES.write(
                [last.row_offset, last.error_number], scope
            )
        return response

    def _require_access_to_rows(self, ingestion_id: UUID) -> None:
        """Allow the sender of the rows and callers with the scope to read every customer.

        Raises:
            NotFoundError: INGESTION_NOT_FOUND.
            PermissionDeniedError: another caller sent the rows.
        """
        call = current_call()
        if _READ_SCOPE in call.scopes:
            return
        if get_ingestion(self._database, ingestion_id).principal != call.principal:
            raise PermissionDeniedError(
                "PERMISSION_DENIED",
                f"Missing scope: another caller sent the rows of this ingestion, and reading them "
                f"requires {_READ_SCOPE}.",
                {"required_scope": _READ_SCOPE},
            )

    def DownloadAnnotatedWorkbook(
        self, request: pb.DownloadAnnotatedWorkbookRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.DownloadAnnotatedWorkbookResponse]:
        """Send an uploaded file back with its rejected rows marked."""
        ingestion_id = convert_ingestion.read_ingestion_id(request.ingestion_id)
        call = current_call()

        def raise_if_ended() -> None:
            if self._stopping.is_set():
                raise shutting_down()
            call.raise_if_cancelled()
            call.raise_if_expired()

        self._require_access_to_rows(ingestion_id)
        with self._annotator.workbook(
            ingestion_id, raise_if_ended, rejected_only=request.rejected_only
        ) as workbook:
            yield convert_ingestion.write_workbook_header(workbook)
            while chunk := workbook.file.read(CHUNK_BYTES):
                raise_if_ended()
                yield pb.DownloadAnnotatedWorkbookResponse(chunk=chunk)
