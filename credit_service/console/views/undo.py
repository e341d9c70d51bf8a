"""The confirmed cancellation and the confirmed revert of an ingestion."""

from collections.abc import Mapping
from http import HTTPStatus

import grpc
from starlette.responses import Response

from credit_service.console.page import (
    EXAMPLE_REQUEST_ID,
    Page,
    Problem,
    form_for_retry,
    new_request_id,
)
from credit_service.v1 import ingestion_service_pb2 as pb
from credit_service_client.errors import ServiceError


def cancellation(page: Page) -> Response:
    """The page that confirms a cancellation."""
    return _cancellation(page, page.typed_before() or {"request_id": new_request_id()}, None)


def cancel(page: Page) -> Response:
    """Cancel the ingestion."""
    ingestion_id = page.path_uuid("ingestion_id")
    request = pb.CancelIngestionRequest(request_id=page.request_id(), ingestion_id=ingestion_id)
    try:
        page.service.cancel_ingestion(request)
    except ServiceError as error:
        if error.code is grpc.StatusCode.UNAUTHENTICATED:
            raise
        return _cancellation(page, form_for_retry(page.form, error), Problem(error))
    return page.redirect(f"/qa/ingestions/{ingestion_id}", "The ingestion is cancelled.")


def reversal(page: Page) -> Response:
    """The page that confirms a revert."""
    return _reversal(page, page.typed_before() or {"request_id": new_request_id()}, None)


def revert(page: Page) -> Response:
    """Revert the ingestion."""
    ingestion_id = page.path_uuid("ingestion_id")
    request = pb.RevertIngestionRequest(request_id=page.request_id(), ingestion_id=ingestion_id)
    try:
        page.service.revert_ingestion(request)
    except ServiceError as error:
        if error.code is grpc.StatusCode.UNAUTHENTICATED:
            raise
        return _reversal(page, form_for_retry(page.form, error), Problem(error))
    return page.redirect(f"/qa/ingestions/{ingestion_id}", "A worker takes the rows back.")


def _cancellation(page: Page, values: Mapping[str, str], problem: Problem | None) -> Response:
    request = pb.CancelIngestionRequest(request_id=EXAMPLE_REQUEST_ID)
    return _confirmation(page, "cancellation.html", request, values, problem)


def _reversal(page: Page, values: Mapping[str, str], problem: Problem | None) -> Response:
    request = pb.RevertIngestionRequest(request_id=EXAMPLE_REQUEST_ID)
    return _confirmation(page, "reversal.html", request, values, problem)


def _confirmation(
    page: Page,
    template: str,
    request: pb.CancelIngestionRequest | pb.RevertIngestionRequest,
    values: Mapping[str, str],
    problem: Problem | None,
) -> Response:
    ingestion_id = request.ingestion_id = page.path_uuid("ingestion_id")
    return page.render(
        template,
        HTTPStatus.OK if problem is None else problem.http_status,
        ingestion=page.service.ingestion(ingestion_id),
        values=values,
        problem=problem,
        planned=page.planned(request),
    )
