"""Checks a file of asks: upload it, and download it with the answers beside each row."""

from collections.abc import Iterator
from typing import IO
from urllib.parse import quote

import grpc
from starlette.responses import Response, StreamingResponse

from credit_service.console.answering import FileRejectedError, answered
from credit_service.console.page import Page, Problem
from credit_service.console.service import CHUNK_BYTES
from credit_service.console.views.lending import EXAMPLE
from credit_service.spreadsheets.columns import TABLES
from credit_service.v1 import credit_service_pb2 as pb
from credit_service_client.errors import ServiceError


def form(page: Page) -> Response:
    """The form."""
    return _form(page, "", None)


def _form(page: Page, rejected: str, problem: Problem | None) -> Response:
    failed = problem.http_status if problem is not None else 400
    return page.render(
        "asks.html",
        failed if rejected or problem is not None else 200,
        rejected=rejected,
        problem=problem,
        columns=TABLES["ASKS"],
        max_bytes=page.console.settings.upload_max_bytes,
        planned=page.planned(pb.BatchCheckEligibilityRequest(asks=[EXAMPLE])),
    )


def answer(page: Page) -> Response:
    """The uploaded file with its answers, or the form with the problem."""
    file = page.files.get("file")
    if file is None or not file.filename:
        return _form(page, "Choose a file.", None)
    if (file.size or 0) > page.console.settings.upload_max_bytes:
        return _form(page, "The file is larger than the service accepts.", None)
    filename = file.filename.replace("\\", "/").rpartition("/")[2]
    try:
        output = answered(
            file.file, filename, page.console.settings.server_address, page.session.token
        )
    except FileRejectedError as error:
        return _form(page, str(error), None)
    except ServiceError as error:
        if error.code is grpc.StatusCode.UNAUTHENTICATED:
            raise
        return _form(page, "", Problem(error))
    stem, _, suffix = filename.rpartition(".")
    name = quote(
        f"{stem or filename}-answers.{'csv' if suffix.lower() == 'csv' else 'xlsx'}", safe=""
    )
    return StreamingResponse(
        _chunks(output),
        media_type="application/octet-stream",
        headers={"content-disposition": f"attachment; filename*=UTF-8''{name}"},
    )


def _chunks(file: IO[bytes]) -> Iterator[bytes]:
    with file:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk
