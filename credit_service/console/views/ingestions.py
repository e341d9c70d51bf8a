"""Ingestions: upload of a file, its progress, and its row errors."""

import hashlib
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, BinaryIO
from urllib.parse import quote, urlencode

import grpc
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response, StreamingResponse

from credit_service.client import display
from credit_service.console import fields, formats
from credit_service.console.detection import UndetectedError, detected
from credit_service.console.formats import Typed
from credit_service.console.lists import INGESTIONS
from credit_service.console.page import Page, Problem, is_request_id, new_request_id
from credit_service.console.service import CHUNK_BYTES, ENDED_STATES
from credit_service.console.views import lists
from credit_service.console.views.loans import download
from credit_service.rupees import group_digits
from credit_service.spreadsheets import templates
from credit_service.spreadsheets.columns import COLUMNS, Kind
from credit_service.v1 import ingestion_pb2
from credit_service.v1 import ingestion_service_pb2 as ingestion_pb
from credit_service_client.errors import ServiceError

PAGE_SIZE = 20
ERRORS_PAGE_SIZE = 25
MAX_EXPORTED_ERRORS = 10_000
_FIRST_KIND_SECONDS = 30.0
_FIELDS = ("file", "kind", "on_existing", "date_order")
_KINDS: Mapping[Kind, ingestion_pb2.IngestionKind.ValueType] = {
    "CUSTOMERS": ingestion_pb2.INGESTION_KIND_CUSTOMERS,
    "LOANS": ingestion_pb2.INGESTION_KIND_LOANS,
}
_ON_EXISTING = {
    "skip": ingestion_pb2.ON_EXISTING_SKIP,
    "update": ingestion_pb2.ON_EXISTING_UPDATE,
}
_DATE_ORDERS = {
    "column": ("detected from the dates of the column", ingestion_pb2.DATE_ORDER_UNSPECIFIED),
    "dmy": ("day, month, year", ingestion_pb2.DATE_ORDER_DMY),
    "mdy": ("month, day, year", ingestion_pb2.DATE_ORDER_MDY),
    "ymd": ("rejected: the year must come first", ingestion_pb2.DATE_ORDER_YMD),
}
"""The choices for the order of numeric dates: the label and the contract's value."""


def index(page: Page) -> Response:
    """The ingestions, latest first, and the upload form."""
    values = {**page.typed_before(), "ingestion_id": new_request_id()}
    return _index(page, values, {}, None)


def _index(page: Page, values: Any, problems: dict[str, str], problem: Problem | None) -> Response:
    found, list_problem = page.attempt(lambda: lists.shown(page, INGESTIONS, PAGE_SIZE))
    failed = bool(problems) or problem is not None
    header = ingestion_pb.UploadSpreadsheetHeader(
        ingestion_id="5f0c5d6e-4f1c-4a52-9a3f-0c5b7a1e2d3f",
        kind=ingestion_pb2.INGESTION_KIND_CUSTOMERS,
        filename="customers.xlsx",
        validate_only=True,
    )
    return page.render(
        "ingestions.html",
        (problem.http_status if problem is not None else 400) if failed else 200,
        list=found,
        list_problem=list_problem,
        values=values,
        problems=problems,
        problem=problem,
        max_bytes=page.console.settings.upload_max_bytes,
        layouts=COLUMNS,
        date_orders={value: label for value, (label, _) in _DATE_ORDERS.items()},
        planned=page.planned(ingestion_pb.UploadSpreadsheetRequest(header=header)),
    )


def template(page: Page) -> Response:
    """An empty workbook with the headers of one kind, to fill in."""
    kind = _kind_of_template(page)
    content = templates.template(kind)
    return download(content, f"{kind.lower()}-template.xlsx", templates.CONTENT_TYPE)


def template_csv(page: Page) -> Response:
    """The same as a CSV file."""
    kind = _kind_of_template(page)
    return download(templates.csv_template(kind), f"{kind.lower()}-template.csv", "text/csv")


def _kind_of_template(page: Page) -> Kind:
    requested = str(page.request.path_params["kind"])
    for kind in COLUMNS:
        if requested == kind.lower():
            return kind
    raise HTTPException(HTTPStatus.NOT_FOUND, "This template does not exist.")


def upload(page: Page) -> Response:
    """Upload a file to the service and redirect to its ingestion.

    A workbook with a sheet of each kind becomes two ingestions, customers first. A script gets
    JSON: the ingestion's path and the remaining kinds to send, or the problems.
    """
    form, problems = _read_form(page)
    problem: Problem | None = None
    if form is not None and not problems:
        try:
            return _sent(page, form)
        except ServiceError as error:
            if error.code is grpc.StatusCode.UNAUTHENTICATED:
                raise
            problem = Problem(error)
            problems = fields.beside(_FIELDS, error.violations, {})
    if page.wants_json:
        sentences = problem.sentences if problem is not None else list(problems.values())
        return JSONResponse({"problems": sentences})
    return _index(page, {**page.form, "ingestion_id": new_request_id()}, problems, problem)


@dataclass(frozen=True, slots=True)
class _Upload:
    """A parsed form with a file."""

    file: BinaryIO
    filename: str
    kinds: Sequence[Kind]
    ingestion_id: str
    on_existing: ingestion_pb2.OnExisting.ValueType
    validate_only: bool
    date_order: ingestion_pb2.DateOrder.ValueType


def _sent(page: Page, form: _Upload) -> Response:
    """Send the file as rows of its first kind, and also as its second kind for a page without
    script."""
    first, *rest = form.kinds
    ingestion = _send(page, form, first, form.ingestion_id)
    path = f"/qa/ingestions/{ingestion.ingestion_id}"
    if page.wants_json:
        return JSONResponse(
            {"path": path, "kind": first.lower(), "rest": [k.lower() for k in rest]}
        )
    notice = ""
    for kind in rest:
        if not _ended_in_time(page, ingestion.ingestion_id):
            notice = (
                f"This workbook also has a sheet of {kind.lower()}. When this ingestion has ended, "
                f"upload the file again and choose “{kind.lower()}”."
            )
            break
        ingestion = _send(page, form, kind, new_request_id())
        notice = (
            f"The workbook has sheets of customers and of loans: the {first.lower()} were sent "
            f"first, then the {kind.lower()}, which this page shows."
        )
        path = f"/qa/ingestions/{ingestion.ingestion_id}"
    return page.redirect(path, notice)


def _send(page: Page, form: _Upload, kind: Kind, ingestion_id: str) -> ingestion_pb2.Ingestion:
    header = ingestion_pb.UploadSpreadsheetHeader(
        ingestion_id=ingestion_id,
        kind=_KINDS[kind],
        filename=form.filename,
        on_existing=form.on_existing,
        validate_only=form.validate_only,
        sha256=_sha256(form.file),
        date_order=form.date_order,
    )
    return page.service.upload(header, _chunks(form.file))


def _ended_in_time(page: Page, ingestion_id: str) -> bool:
    """Wait for an ingestion that the next one depends on. Return False on timeout."""
    give_up = time.monotonic() + _FIRST_KIND_SECONDS
    while page.service.ingestion(ingestion_id).state not in ENDED_STATES:
        if time.monotonic() > give_up:
            return False
        time.sleep(0.25)
    return True


def _read_form(page: Page) -> tuple[_Upload | None, dict[str, str]]:
    typed = Typed(page.form)
    problems: dict[str, str] = {}
    file = page.files.get("file")
    if file is None or not file.filename:
        problems["file"] = "Choose a file."
    elif (file.size or 0) > page.console.settings.upload_max_bytes:
        problems["file"] = "The file is larger than the service accepts."
    kind = typed.text("kind") or "detect"
    if kind not in ("detect", "customers", "loans"):
        problems["kind"] = "Choose the kind of rows."
    on_existing = _ON_EXISTING.get(typed.text("on_existing"))
    if on_existing is None:
        problems["on_existing"] = "Choose what to do with rows that are already stored."
    # A page of an earlier version does not have this field.
    _, date_order = _DATE_ORDERS.get(typed.text("date_order") or "column", ("", None))
    if date_order is None:
        problems["date_order"] = "Choose the order of numeric dates."
    if file is None or on_existing is None or date_order is None or problems:
        return None, problems
    filename = (file.filename or "").replace("\\", "/").rpartition("/")[2]
    kinds: Sequence[Kind] = [name for name in _KINDS if name.lower() == kind]
    if not kinds:
        try:
            kinds = detected(file.file, filename)
        except UndetectedError as error:
            return None, {"file": str(error)}
    ingestion_id = typed.text("ingestion_id")
    form = _Upload(
        file.file,
        filename,
        kinds,
        ingestion_id if is_request_id(ingestion_id) else new_request_id(),
        on_existing,
        typed.flag("validate_only"),
        date_order,
    )
    return form, {}


def _chunks(file: BinaryIO) -> Iterator[bytes]:
    file.seek(0)
    while chunk := file.read(CHUNK_BYTES):
        yield chunk


def _sha256(file: BinaryIO) -> str:
    digest = hashlib.sha256()
    for chunk in _chunks(file):
        digest.update(chunk)
    return digest.hexdigest()


_LISTED = (
    ingestion_pb2.ROW_OUTCOME_REJECTED,
    ingestion_pb2.ROW_OUTCOME_SKIPPED,
    ingestion_pb2.ROW_OUTCOME_KEPT,
)
_ACTIVE = (ingestion_pb2.INGESTION_STATE_QUEUED, ingestion_pb2.INGESTION_STATE_RUNNING)


def show(page: Page) -> Response:
    """One ingestion with its counts and a page of its row errors."""
    ingestion_id = page.path_uuid("ingestion_id")
    ingestion = page.service.ingestion(ingestion_id)
    request = ingestion_pb.ListRowErrorsRequest(
        ingestion_id=ingestion_id,
        page_size=ERRORS_PAGE_SIZE,
        page_token=page.query.get("page_token", ""),
        outcomes=_LISTED,
    )
    found, errors_problem = page.attempt(lambda: page.service.row_errors(request))
    token = found.next_page_token if found else ""
    path = page.request.url.path
    return page.render(
        "ingestion.html",
        ingestion=ingestion,
        ended=ingestion.state in ENDED_STATES,
        duration_seconds=_duration_seconds(ingestion),
        counts=_counts(ingestion),
        row_errors=[row_line(ingestion.kind, each) for each in found.row_errors] if found else [],
        errors_problem=errors_problem,
        next_href=f"{path}?{urlencode({'page_token': token})}#errors" if token else "",
        first_page=not request.page_token,
        is_annotated=_is_annotated(ingestion),
        can_cancel=ingestion.state in _ACTIVE,
        can_revert=_can_revert(ingestion),
    )


def _can_revert(ingestion: ingestion_pb2.Ingestion) -> bool:
    """Return whether the ingestion has ended, wrote rows, and is not reverted."""
    wrote_rows = not ingestion.validate_only and bool(ingestion.inserted or ingestion.updated)
    is_reverted = ingestion.state == ingestion_pb2.INGESTION_STATE_REVERTED
    return wrote_rows and ingestion.state in ENDED_STATES and not is_reverted


@dataclass(frozen=True, slots=True)
class RowLine:
    """A row error with the headers of its sheet."""

    row_number: int
    header: str
    found: str
    expected: str
    note: str
    code: str
    outcome: str


def row_line(kind: int, error: Any) -> RowLine:
    """Return a row error with headers in place of field names, and no repeated text."""
    headers = _headers(kind)
    if error.column_header:
        headers[error.column] = error.column_header

    def in_headers(text: str) -> str:
        return re.sub(r"[a-z]+(?:_[a-z]+)+", lambda match: headers.get(match[0], match[0]), text)

    is_repeated = error.expected and error.expected in error.message
    return RowLine(
        error.row_number,
        headers.get(error.column, error.column),
        error.found,
        in_headers(error.expected),
        "" if is_repeated else in_headers(error.message),
        display.enum_name(error.code, ingestion_pb2.RowErrorCode),
        display.enum_name(error.outcome, ingestion_pb2.RowOutcome).capitalize(),
    )


def _headers(kind: int) -> dict[str, str]:
    """Return the default header of each column, by field."""
    name: Kind = "LOANS" if kind == ingestion_pb2.INGESTION_KIND_LOANS else "CUSTOMERS"
    return {each.field: each.headers[0] for each in COLUMNS[name]}


def left_out(ingestion: Any) -> str:
    """Return how many rows were not stored: '2 rows rejected, 29 skipped', or '' for none."""
    parts = [
        (count, word)
        for count, word in ((ingestion.rejected, "rejected"), (ingestion.skipped, "skipped"))
        if count
    ]
    if not parts:
        return ""
    (count, word), *rest = parts
    text = f"{group_digits(count)} row{'' if count == 1 else 's'} {word}"
    return ", ".join([text, *(f"{group_digits(n)} {w}" for n, w in rest)])


def progress(page: Page) -> Response:
    """The progress of an ingestion, polled while it runs."""
    ingestion = page.service.ingestion(page.path_uuid("ingestion_id"))
    return page.render(
        "_progress.html",
        ingestion=ingestion,
        ended=ingestion.state in ENDED_STATES,
        duration_seconds=_duration_seconds(ingestion),
        counts=_counts(ingestion),
        is_annotated=_is_annotated(ingestion),
    )


# With these error codes, the service can still mark the problems in the file.
_ANNOTATABLE = (
    ingestion_pb2.INGESTION_ERROR_CODE_UNSPECIFIED,
    ingestion_pb2.INGESTION_ERROR_CODE_COLUMN_MISSING,
    ingestion_pb2.INGESTION_ERROR_CODE_COLUMN_AMBIGUOUS,
    ingestion_pb2.INGESTION_ERROR_CODE_COLUMN_UNIT_UNSUPPORTED,
)


def _is_annotated(ingestion: ingestion_pb2.Ingestion) -> bool:
    """Return whether the file can be downloaded with its problems marked."""
    uploaded = ingestion.source == ingestion_pb2.INGESTION_SOURCE_UPLOAD
    ended = ingestion.state in ENDED_STATES
    has_problems = ingestion.rejected or ingestion.skipped or ingestion.HasField("error")
    is_kept = not (ingestion.file_expired or ingestion.row_errors_expired)
    can_be_marked = uploaded and ended and is_kept and ingestion.error.code in _ANNOTATABLE
    return can_be_marked and bool(has_problems)


def _counts(ingestion: ingestion_pb2.Ingestion) -> dict[str, int]:
    return {
        "rows_read": ingestion.rows_read,
        "inserted": ingestion.inserted,
        "updated": ingestion.updated,
        "unchanged": ingestion.unchanged,
        "skipped": ingestion.skipped,
        "rejected": ingestion.rejected,
    } | _revert_counts(ingestion)


def _revert_counts(ingestion: ingestion_pb2.Ingestion) -> dict[str, int]:
    """Return the counts of a revert; empty without one."""
    if not ingestion.HasField("revert_requested_time"):
        return {}
    return {
        "removed": ingestion.rows_removed,
        "restored": ingestion.rows_restored,
        "kept": ingestion.rows_kept,
    }


def _duration_seconds(ingestion: ingestion_pb2.Ingestion) -> float:
    """Return the duration of an ended ingestion from its first row; 0 before its end."""
    if not ingestion.HasField("finished_time") or not ingestion.HasField("started_time"):
        return 0.0
    started = formats.as_datetime(ingestion.started_time)
    return (formats.as_datetime(ingestion.finished_time) - started).total_seconds()


def errors_csv(page: Page) -> Response:
    """The row errors as a CSV file, the first MAX_EXPORTED_ERRORS of them."""
    ingestion_id = page.path_uuid("ingestion_id")
    request = ingestion_pb.ListRowErrorsRequest(
        ingestion_id=ingestion_id, page_size=1_000, outcomes=_LISTED
    )
    headers = _headers(page.service.ingestion(ingestion_id).kind)
    rows: list[tuple[object, ...]] = []
    while True:
        found = page.service.row_errors(request)
        rows += [
            (
                each.row_number,
                each.column,
                each.column_header or headers.get(each.column, ""),
                display.enum_name(each.code, ingestion_pb2.RowErrorCode),
                each.found,
                each.expected,
                each.message,
                display.enum_name(each.outcome, ingestion_pb2.RowOutcome),
            )
            for each in found.row_errors
        ]
        request.page_token = found.next_page_token
        if not request.page_token or len(rows) >= MAX_EXPORTED_ERRORS:
            break
    header = ("row_number", "column", "header", "code", "found", "expected", "message", "outcome")
    text = formats.csv_text(header, rows[:MAX_EXPORTED_ERRORS])
    return download(text.encode(), f"ingestion-{ingestion_id}-errors.csv", "text/csv")


def annotated(page: Page) -> Response:
    """The annotated workbook with all rows, streamed from the service."""
    return _workbook(page, rejected_only=False)


def rejected(page: Page) -> Response:
    """The annotated workbook with only the rejected rows, streamed from the service."""
    return _workbook(page, rejected_only=True)


def _workbook(page: Page, *, rejected_only: bool) -> Response:
    ingestion_id = page.path_uuid("ingestion_id")
    header, chunks = page.service.annotated_workbook(ingestion_id, rejected_only=rejected_only)
    name = quote(header.filename, safe="")
    return StreamingResponse(
        chunks,
        media_type="application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
        headers={
            "content-disposition": f"attachment; filename*=UTF-8''{name}",
            "content-length": str(header.size_bytes),
        },
    )
