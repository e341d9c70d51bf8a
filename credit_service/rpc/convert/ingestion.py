"""Convert messages of ingestion: headers and counts one by one, rows column by column.

A batch has thousands of rows, so each field becomes one list. The ingestion validates the values
row by row, for streams and files alike.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from operator import attrgetter
from typing import Any
from uuid import UUID

from credit_service.domain.errors import INVALID_FORMAT, OUT_OF_RANGE, REQUIRED, InvalidRequestError
from credit_service.ingestion.downloads import CONTENT_TYPE, AnnotatedWorkbook
from credit_service.ingestion.wire import (
    Columns,
    DateColumn,
    MoneyColumn,
    RowBatch,
    UnreadableCell,
    WireColumn,
)
from credit_service.rpc.convert import fields
from credit_service.rpc.convert.fields import Violations
from credit_service.spreadsheets.cell_values import DateOrder
from credit_service.spreadsheets.columns import COLUMNS, ColumnType, Kind
from credit_service.storage.ingestions import Contents, Header, Ingestion, OnExisting
from credit_service.storage.row_errors import RowOutcome, StoredRowError
from credit_service.v1 import ingestion_pb2
from credit_service.v1 import ingestion_service_pb2 as pb

MAX_BATCH_ROWS = 10_000
MAX_FILENAME_LENGTH = 255
MAX_NAMES = 50
MAX_COLUMN_LENGTH = 100
MAX_FAILURE_LENGTH = 500
MAX_UNREADABLE_CELLS = 20
"""Unreadable cells read per row: more than a row has fields. One alone rejects the row, and an
empty one takes only two bytes of a message."""

_SHA256 = re.compile(r"[0-9a-fA-F]{64}")
_FORBIDDEN_IN_FILENAME = re.compile(r"[\x00-\x1f\x7f-\x9f/\\]")
_CONTROL_CHARACTER = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_ROW_ERROR_PREFIX = "ROW_ERROR_CODE_"
_RARE = "installments_settled"
"""An optional field that few clients fill."""


def columns_of(
    kind: Kind, rows: Sequence[ingestion_pb2.CustomerRow] | Sequence[ingestion_pb2.LoanRow]
) -> Columns:
    """The columns of a batch."""
    return Columns(
        kind,
        {
            column.field: _READERS[column.type](rows, column.field)
            for column in COLUMNS[kind]
            if column.field != _RARE or _is_given(rows, _RARE)
        },
        _optional(rows, "row_number"),
        _unreadable(rows),
    )


def _is_given(rows: Sequence[Any], field: str) -> bool:
    return any(row.HasField(field) for row in rows)


def _optional(rows: Sequence[Any], field: str) -> list[int | None]:
    """A whole number for each row; None where the field is not set, which differs from 0."""
    values: list[int | None] = _column(rows, field)
    if 0 in values:
        for index, value in enumerate(values):
            if not value and not rows[index].HasField(field):
                values[index] = None
    return values


def _money(rows: Sequence[Any], field: str) -> MoneyColumn:
    amounts = _column(rows, field)
    units, nanos = _column(amounts, "units"), _column(amounts, "nanos")
    missing = []
    if 0 in units:
        missing = [
            index
            for index, (whole, part) in enumerate(zip(units, nanos, strict=True))
            if not whole and not part and not rows[index].HasField(field)
        ]
    return MoneyColumn(units, nanos, _column(amounts, "currency_code"), missing)


def _dates(rows: Sequence[Any], field: str) -> DateColumn:
    days = _column(rows, field)
    return DateColumn(_column(days, "year"), _column(days, "month"), _column(days, "day"))


def _decimals(rows: Sequence[Any], field: str) -> list[str]:
    return _column(rows, f"{field}.value")


def _column(messages: Iterable[Any], field: str) -> list[Any]:
    """The field of each message."""
    return list(map(attrgetter(field), messages))


_READERS: Mapping[ColumnType, Callable[[Sequence[Any], str], WireColumn]] = {
    "ID": _optional,
    "WHOLE": _optional,
    "AMOUNT": _money,
    "RATE": _decimals,
    "DAY": _dates,
    "NAME": _column,
    "PHONE": _column,
}


def _unreadable(rows: Sequence[Any]) -> list[UnreadableCell]:
    found = []
    for index, row in enumerate(rows):
        if not row.unreadable_cells:
            continue
        for cell in row.unreadable_cells[:MAX_UNREADABLE_CELLS]:
            code = ""
            if cell.code and cell.code in _ROW_ERROR_NAMES:
                code = _ROW_ERROR_NAMES[cell.code]
            found.append(UnreadableCell(index, cell.column, code, cell.found))
    return found


_ROW_ERROR_NAMES = {
    number: name.removeprefix(_ROW_ERROR_PREFIX)
    for name, number in ingestion_pb2.RowErrorCode.items()
}
_KINDS: dict[int, Kind] = {
    ingestion_pb2.INGESTION_KIND_CUSTOMERS: "CUSTOMERS",
    ingestion_pb2.INGESTION_KIND_LOANS: "LOANS",
}
_OUTCOMES: dict[int, RowOutcome] = {
    ingestion_pb2.ROW_OUTCOME_REJECTED: "REJECTED",
    ingestion_pb2.ROW_OUTCOME_SKIPPED: "SKIPPED",
    ingestion_pb2.ROW_OUTCOME_KEPT: "KEPT",
}
_ON_EXISTING: dict[int, OnExisting] = {
    ingestion_pb2.ON_EXISTING_UNSPECIFIED: "SKIP",
    ingestion_pb2.ON_EXISTING_SKIP: "SKIP",
    ingestion_pb2.ON_EXISTING_UPDATE: "UPDATE",
}

_DATE_ORDERS: dict[int, DateOrder | None] = {
    ingestion_pb2.DATE_ORDER_UNSPECIFIED: None,
    ingestion_pb2.DATE_ORDER_DMY: "DMY",
    ingestion_pb2.DATE_ORDER_MDY: "MDY",
    ingestion_pb2.DATE_ORDER_YMD: "YMD",
}


def read_stream_header(request: pb.IngestRowsRequest | RowBatch | None) -> Header:
    """The header of a stream of rows, from its first message.

    Raises:
        InvalidRequestError: STREAM_ORDER_INVALID, or InvalidFieldsError.
    """
    message = _required_header(request)
    violations = Violations()
    header = _header(
        message,
        violations,
        filename=_filename(message.filename, violations, required=False),
        contents=_contents(message, violations),
    )
    violations.raise_if_any()
    return header


def _contents(message: pb.IngestRowsHeader, violations: Violations) -> Contents:
    """What the client of a stream reports about its file."""
    _check_names("header.sheet", [message.sheet], MAX_FILENAME_LENGTH, violations)
    for field, names, longest in (
        ("header.ignored_columns", message.ignored_columns, MAX_COLUMN_LENGTH),
        ("header.unread_sheets", message.unread_sheets, MAX_FILENAME_LENGTH),
    ):
        if len(names) > MAX_NAMES:
            text = f"must have at most {MAX_NAMES} names, found {len(names)}."
            violations.add(field, OUT_OF_RANGE, text)
        else:
            _check_names(field, names, longest, violations)
    return Contents(message.sheet, tuple(message.ignored_columns), tuple(message.unread_sheets))


def _check_names(field: str, names: Iterable[str], longest: int, violations: Violations) -> None:
    for name in names:
        if len(name) > longest:
            text = f"must have at most {longest} characters each, found {len(name)}."
            violations.add(field, OUT_OF_RANGE, text)
            return
        if _CONTROL_CHARACTER.search(name):
            violations.add(field, INVALID_FORMAT, "must not contain control characters.")
            return


def read_upload_header(request: pb.UploadSpreadsheetRequest | None) -> Header:
    """The header of an upload, from its first message. Raises as `read_stream_header`."""
    message = _required_header(request)
    violations = Violations()
    header = _header(
        message,
        violations,
        filename=_filename(message.filename, violations),
        sha256=_sha256(message.sha256, violations),
        date_order=_date_order(message.date_order, violations),
    )
    violations.raise_if_any()
    return header


def _required_header(request: Any) -> Any:
    if isinstance(request, RowBatch):
        raise _out_of_order("header", "batch")
    found = "nothing" if request is None else request.WhichOneof("payload") or "nothing"
    if found != "header":
        raise _out_of_order("header", found)
    return request.header


def _header(message: Any, violations: Violations, **of_upload: Any) -> Header:
    ingestion_id = fields.read_required_uuid(
        message.ingestion_id, "header.ingestion_id", violations
    )
    kind = _KINDS.get(message.kind)
    if kind is None:
        violations.add("header.kind", REQUIRED, "is required: CUSTOMERS or LOANS.")
    on_existing = _ON_EXISTING.get(message.on_existing)
    if on_existing is None:
        violations.add("header.on_existing", OUT_OF_RANGE, "must be SKIP or UPDATE.")
    return Header(
        ingestion_id=ingestion_id,
        # Placeholders for what could not be read; the caller raises the violations.
        kind=kind or "CUSTOMERS",
        on_existing=on_existing or "SKIP",
        validate_only=message.validate_only,
        **of_upload,
    )


def _filename(filename: str, violations: Violations, *, required: bool = True) -> str:
    field = "header.filename"
    if not filename and not required:
        return filename
    if not filename.strip():
        violations.add(field, REQUIRED, "is required: the file's name, such as loans.xlsx.")
    elif len(filename) > MAX_FILENAME_LENGTH:
        violations.add(
            field,
            OUT_OF_RANGE,
            f"must have at most {MAX_FILENAME_LENGTH} characters, found {len(filename)}.",
        )
    elif _FORBIDDEN_IN_FILENAME.search(filename):
        violations.add(field, INVALID_FORMAT, "must not contain folders or control characters.")
    return filename


def _date_order(number: int, violations: Violations) -> DateOrder | None:
    if number not in _DATE_ORDERS:
        violations.add("header.date_order", OUT_OF_RANGE, "must be DMY, MDY or YMD.")
    return _DATE_ORDERS.get(number)


def _sha256(text: str, violations: Violations) -> bytes | None:
    if not text:
        return None
    if _SHA256.fullmatch(text) is None:
        violations.add("header.sha256", INVALID_FORMAT, "must be 64 hexadecimal digits.")
        return None
    return bytes.fromhex(text)


def read_stream_message(request: pb.IngestRowsRequest) -> pb.IngestRowsRequest | RowBatch:
    """Read a batch before its turn comes; other messages stay. Raises InvalidFieldsError."""
    return _read_batch(request.batch) if request.HasField("batch") else request


def read_batch(message: pb.IngestRowsRequest | RowBatch) -> RowBatch:
    """The batch in a message. Raises InvalidRequestError: STREAM_ORDER_INVALID."""
    if not isinstance(message, RowBatch):
        raise _out_of_order("batch", message.WhichOneof("payload") or "nothing")
    return message


def read_failure(message: pb.IngestRowsRequest | RowBatch) -> str | None:
    """A client's message about a source that it cannot read further; None for other messages.

    Raises InvalidFieldsError.
    """
    if isinstance(message, RowBatch) or not message.HasField("failure"):
        return None
    field, text = "failure.message", message.failure.message
    violations = Violations()
    if not text.strip():
        violations.add(
            field, REQUIRED, "is required: say what is wrong with the source, and where."
        )
    elif len(text) > MAX_FAILURE_LENGTH:
        violations.add(
            field,
            OUT_OF_RANGE,
            f"must have at most {MAX_FAILURE_LENGTH} characters, found {len(text)}.",
        )
    elif _CONTROL_CHARACTER.search(text):
        violations.add(field, INVALID_FORMAT, "must not contain control characters.")
    violations.raise_if_any()
    return text


def read_outcomes(numbers: Sequence[int], violations: Violations) -> list[RowOutcome]:
    """The outcomes of rows to list; rejected ones by default."""
    found: list[RowOutcome] = []
    for number in dict.fromkeys(numbers):
        outcome = _OUTCOMES.get(number)
        if outcome is None:
            violations.add("outcomes", OUT_OF_RANGE, "must be REJECTED, SKIPPED or KEPT.")
            break
        found.append(outcome)
    return found or ["REJECTED"]


def _read_batch(batch: pb.RowBatch) -> RowBatch:
    violations = Violations()
    if batch.offset < 0:
        violations.add("batch.offset", OUT_OF_RANGE, f"must be 0 or more, found {batch.offset}.")
    name = batch.WhichOneof("rows")
    # Count before making an object of each row: an empty row takes only two bytes of a message.
    found_rows: Any = getattr(batch, name).rows if name else ()
    if not found_rows:
        violations.add("batch.rows", REQUIRED, "is required: at least one row.")
    elif len(found_rows) > MAX_BATCH_ROWS:
        violations.add(
            "batch.rows", OUT_OF_RANGE, f"must have at most 10,000 rows, found {len(found_rows):,}."
        )
    violations.raise_if_any()
    # As a list: the container makes a new object at each access to a row.
    rows: list[Any] = list(found_rows)
    kind: Kind = "LOANS" if name == "loans" else "CUSTOMERS"
    columns = columns_of(kind, rows)
    # Here, while the call stores earlier rows, which wait until it has validated these.
    _ = columns.decoded
    return RowBatch(batch.offset, columns)


def read_chunk(request: pb.UploadSpreadsheetRequest) -> bytes:
    """Bytes of a file. Raises InvalidRequestError: STREAM_ORDER_INVALID."""
    found = request.WhichOneof("payload") or "nothing"
    if found != "chunk":
        raise _out_of_order("chunk", found)
    return request.chunk


def _out_of_order(expected: str, found: str) -> InvalidRequestError:
    return InvalidRequestError(
        "STREAM_ORDER_INVALID",
        f"The next message of the stream must be a {expected}, found {found}.",
        {"expected": expected, "found": found},
    )


def read_ingestion_id(text: str) -> UUID:
    """The id of a request without other fields. Raises InvalidFieldsError."""
    violations = Violations()
    ingestion_id = fields.read_required_uuid(text, "ingestion_id", violations)
    violations.raise_if_any()
    return ingestion_id


def read_undo(
    request: pb.CancelIngestionRequest | pb.RevertIngestionRequest,
) -> tuple[UUID, UUID]:
    """The request's id and the ingestion's. Raises InvalidFieldsError."""
    violations = Violations()
    request_id = fields.read_request_id(request, violations)
    ingestion_id = fields.read_required_uuid(request.ingestion_id, "ingestion_id", violations)
    violations.raise_if_any()
    return request_id, ingestion_id


_STATES: dict[str, Any] = {
    name.removeprefix("INGESTION_STATE_"): number
    for name, number in ingestion_pb2.IngestionState.items()
}
_SOURCES: dict[str, Any] = {
    "STREAM": ingestion_pb2.INGESTION_SOURCE_STREAM,
    "UPLOAD": ingestion_pb2.INGESTION_SOURCE_UPLOAD,
}
_KIND_NUMBERS: dict[str, Any] = {kind: number for number, kind in _KINDS.items()}
_ON_EXISTING_NUMBERS: dict[str, Any] = {
    "SKIP": ingestion_pb2.ON_EXISTING_SKIP,
    "UPDATE": ingestion_pb2.ON_EXISTING_UPDATE,
}
_ERROR_CODES = {
    name.removeprefix("INGESTION_ERROR_CODE_"): number
    for name, number in ingestion_pb2.IngestionErrorCode.items()
}
_OUTCOME_NUMBERS: dict[str, Any] = {outcome: number for number, outcome in _OUTCOMES.items()}
_ROW_ERROR_NUMBERS = {name: number for number, name in _ROW_ERROR_NAMES.items()}


def write_ingestion(ingestion: Ingestion) -> Any:
    """An ingestion in its current state."""
    message = ingestion_pb2.Ingestion(
        ingestion_id=str(ingestion.ingestion_id),
        kind=_KIND_NUMBERS[ingestion.kind],
        source=_SOURCES[ingestion.source],
        filename=ingestion.filename,
        on_existing=_ON_EXISTING_NUMBERS[ingestion.on_existing],
        validate_only=ingestion.validate_only,
        state=_STATES[ingestion.state],
        rows_read=ingestion.rows_read,
        inserted=ingestion.inserted,
        updated=ingestion.updated,
        unchanged=ingestion.unchanged,
        skipped=ingestion.skipped,
        rejected=ingestion.rejected,
        committed_offset=ingestion.committed_offset,
        total_rows=ingestion.total_rows,
        created_time=fields.write_time(ingestion.created_at),
        started_time=_time(ingestion.started_at),
        finished_time=_time(ingestion.finished_at),
        principal=fields.write_principal(ingestion.principal),
        sha256="" if ingestion.sha256 is None else ingestion.sha256.hex(),
        sheet=ingestion.sheet,
        ignored_columns=ingestion.ignored_columns,
        unread_sheets=ingestion.unread_sheets,
        customers_over_limit=ingestion.customers_over_limit,
        file_expired=ingestion.is_file_expired,
        row_errors_expired=ingestion.is_row_errors_expired,
        rows_removed=ingestion.rows_removed,
        rows_restored=ingestion.rows_restored,
        rows_kept=ingestion.rows_kept,
        revert_requested_time=_time(ingestion.revert_requested_at),
        reverted_time=_time(ingestion.reverted_at),
        reverted_by=fields.write_principal(ingestion.reverted_by or ""),
    )
    if ingestion.error_code is not None:
        message.error.code = _ERROR_CODES[ingestion.error_code]
        message.error.message = ingestion.error_message or ""
    return message


def _time(instant: datetime | None) -> Any:
    return None if instant is None else fields.write_time(instant)


def write_row_error(error: StoredRowError) -> Any:
    """Why a row was not stored, or not taken back."""
    return ingestion_pb2.RowError(
        row_number=error.row_number,
        column=error.column,
        code=_ROW_ERROR_NUMBERS[error.code],
        found=error.found,
        expected=error.expected,
        message=error.message,
        outcome=_OUTCOME_NUMBERS[error.outcome],
        column_header=error.column_header,
    )


def write_workbook_header(workbook: AnnotatedWorkbook) -> pb.DownloadAnnotatedWorkbookResponse:
    """The first message of a download."""
    header = pb.AnnotatedWorkbookHeader(
        filename=workbook.filename, content_type=CONTENT_TYPE, size_bytes=workbook.size_bytes
    )
    return pb.DownloadAnnotatedWorkbookResponse(header=header)
