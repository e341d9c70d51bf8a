"""Ingestions: uploading a file, following it, and what was wrong with its rows."""

import hashlib
from collections.abc import Iterator
from typing import Any, BinaryIO
from urllib.parse import quote, urlencode

import grpc
from starlette.responses import JSONResponse, Response, StreamingResponse

from credit_service.client.channel import ServiceError
from credit_service.console import formats
from credit_service.console.formats import Typed
from credit_service.console.page import Page, Problem, new_request_id
from credit_service.console.service import CHUNK_BYTES, ENDED_STATES
from credit_service.console.views.loans import download
from credit_service.v1 import ingestion_pb2
from credit_service.v1 import ingestion_service_pb2 as ingestion_pb

PAGE_SIZE = 20
ERRORS_PAGE_SIZE = 25
MAX_EXPORTED_ERRORS = 10_000
_KINDS = {
    "customers": ingestion_pb2.INGESTION_KIND_CUSTOMERS,
    "loans": ingestion_pb2.INGESTION_KIND_LOANS,
}
_ON_EXISTING = {
    "skip": ingestion_pb2.ON_EXISTING_SKIP,
    "update": ingestion_pb2.ON_EXISTING_UPDATE,
}


def index(page: Page) -> Response:
    """The ingestions, the latest first, and the form for a file."""
    return _index(page, {"ingestion_id": new_request_id()}, {}, None)


def _index(page: Page, values: Any, problems: dict[str, str], problem: Problem | None) -> Response:
    request = ingestion_pb.ListIngestionsRequest(
        page_size=PAGE_SIZE, page_token=page.query.get("page_token", "")
    )
    found, list_problem = page.attempt(lambda: page.service.ingestions(request))
    token = found.next_page_token if found else ""
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
        ingestions=found.ingestions if found else (),
        list_problem=list_problem,
        next_href="/qa/ingestions?" + urlencode({"page_token": token}) if token else "",
        first_page=not request.page_token,
        values=values,
        problems=problems,
        problem=problem,
        max_bytes=page.console.settings.upload_max_bytes,
        planned=page.planned(ingestion_pb.UploadSpreadsheetRequest(header=header)),
    )


def upload(page: Page) -> Response:
    """Hands a file on to the service and goes to its ingestion.

    A script is answered with JSON: where the ingestion is, or the problems by field.
    """
    wants_json = page.request.headers.get("accept") == "application/json"
    problems, problem, ingestion = _upload(page)
    if ingestion is not None:
        path = f"/qa/ingestions/{ingestion.ingestion_id}"
        return JSONResponse({"path": path}) if wants_json else page.redirect(path)
    if not wants_json:
        values = {**page.form, "ingestion_id": new_request_id()}
        return _index(page, values, problems, problem)
    sentences = list(problems.values())
    if problem is not None:
        sentences = problem.error.lines()
    return JSONResponse({"problems": sentences})


def _upload(page: Page) -> tuple[dict[str, str], Problem | None, Any]:
    typed = Typed(page.form)
    problems: dict[str, str] = {}
    kind = _KINDS.get(typed.text("kind"))
    if kind is None:
        problems["kind"] = "Choose what the rows are."
    on_existing = _ON_EXISTING.get(typed.text("on_existing"))
    if on_existing is None:
        problems["on_existing"] = "Choose what to do with rows that are stored already."
    file = page.files.get("file")
    if file is None or not file.filename:
        problems["file"] = "Choose a file."
    elif (file.size or 0) > page.console.settings.upload_max_bytes:
        problems["file"] = "The file is larger than the service takes."
    if file is None or kind is None or on_existing is None or problems:
        return problems, None, None
    header = ingestion_pb.UploadSpreadsheetHeader(
        ingestion_id=typed.text("ingestion_id"),
        kind=kind,
        filename=(file.filename or "").replace("\\", "/").rpartition("/")[2],
        on_existing=on_existing,
        validate_only=typed.flag("validate_only"),
        sha256=_sha256(file.file),
    )
    try:
        return {}, None, page.service.upload(header, _chunks(file.file))
    except ServiceError as error:
        if error.code is grpc.StatusCode.UNAUTHENTICATED:
            raise
        return dict(error.violations), Problem(error), None


def _chunks(file: BinaryIO) -> Iterator[bytes]:
    file.seek(0)
    while chunk := file.read(CHUNK_BYTES):
        yield chunk


def _sha256(file: BinaryIO) -> str:
    digest = hashlib.sha256()
    for chunk in _chunks(file):
        digest.update(chunk)
    return digest.hexdigest()


def show(page: Page) -> Response:
    """One ingestion with its counts and a page of its row errors."""
    ingestion_id = page.path_uuid("ingestion_id")
    ingestion = page.service.ingestion(ingestion_id)
    request = ingestion_pb.ListRowErrorsRequest(
        ingestion_id=ingestion_id,
        page_size=ERRORS_PAGE_SIZE,
        page_token=page.query.get("page_token", ""),
    )
    found, errors_problem = page.attempt(lambda: page.service.row_errors(request))
    token = found.next_page_token if found else ""
    path = page.request.url.path
    return page.render(
        "ingestion.html",
        ingestion=ingestion,
        ended=ingestion.state in ENDED_STATES,
        took=_took(ingestion),
        counts=_counts(ingestion),
        row_errors=found.row_errors if found else (),
        errors_problem=errors_problem,
        next_href=f"{path}?{urlencode({'page_token': token})}#errors" if token else "",
        first_page=not request.page_token,
        comes_back=_comes_back(ingestion),
    )


def progress(page: Page) -> Response:
    """How far an ingestion is, asked for again and again while it runs."""
    ingestion = page.service.ingestion(page.path_uuid("ingestion_id"))
    return page.render(
        "_progress.html",
        ingestion=ingestion,
        ended=ingestion.state in ENDED_STATES,
        took=_took(ingestion),
        counts=_counts(ingestion),
        comes_back=_comes_back(ingestion),
    )


# With these the file was understood so far that the service can mark what is wrong in it.
_MARKED = (
    ingestion_pb2.INGESTION_ERROR_CODE_UNSPECIFIED,
    ingestion_pb2.INGESTION_ERROR_CODE_COLUMN_MISSING,
    ingestion_pb2.INGESTION_ERROR_CODE_COLUMN_AMBIGUOUS,
)


def _comes_back(ingestion: ingestion_pb2.Ingestion) -> bool:
    """Whether the file can be had back with what is wrong marked."""
    uploaded = ingestion.source == ingestion_pb2.INGESTION_SOURCE_UPLOAD
    ended = ingestion.state in ENDED_STATES
    wrong = ingestion.rejected > 0 or ingestion.HasField("error")
    return uploaded and ended and wrong and ingestion.error.code in _MARKED


def _counts(ingestion: ingestion_pb2.Ingestion) -> dict[str, int]:
    return {
        "rows_read": ingestion.rows_read,
        "inserted": ingestion.inserted,
        "updated": ingestion.updated,
        "unchanged": ingestion.unchanged,
        "skipped": ingestion.skipped,
        "rejected": ingestion.rejected,
    }


def _took(ingestion: ingestion_pb2.Ingestion) -> float:
    """Seconds that an ended ingestion took from its first row; 0 before its end."""
    if not ingestion.HasField("finished_time") or not ingestion.HasField("started_time"):
        return 0.0
    begun = formats.as_datetime(ingestion.started_time)
    return (formats.as_datetime(ingestion.finished_time) - begun).total_seconds()


def errors_csv(page: Page) -> Response:
    """The row errors as a CSV file, the first MAX_EXPORTED_ERRORS of them."""
    ingestion_id = page.path_uuid("ingestion_id")
    request = ingestion_pb.ListRowErrorsRequest(ingestion_id=ingestion_id, page_size=1_000)
    rows: list[tuple[object, ...]] = []
    while True:
        found = page.service.row_errors(request)
        rows += [
            (
                each.row_number,
                each.column,
                formats.enum_name(each.code, ingestion_pb2.RowErrorCode),
                each.found,
                each.expected,
                each.message,
            )
            for each in found.row_errors
        ]
        request.page_token = found.next_page_token
        if not request.page_token or len(rows) >= MAX_EXPORTED_ERRORS:
            break
    header = ("row_number", "column", "code", "found", "expected", "message")
    text = formats.csv_text(header, rows[:MAX_EXPORTED_ERRORS])
    return download(text.encode(), f"ingestion-{ingestion_id}-errors.csv", "text/csv")


def annotated(page: Page) -> Response:
    """The uploaded workbook back, annotated, as it comes from the service."""
    header, chunks = page.service.annotated_workbook(page.path_uuid("ingestion_id"))
    name = quote(header.filename, safe="")
    return StreamingResponse(
        chunks,
        media_type="application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
        headers={
            "content-disposition": f"attachment; filename*=UTF-8''{name}",
            "content-length": str(header.size_bytes),
        },
    )
