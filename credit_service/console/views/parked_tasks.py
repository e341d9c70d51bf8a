"""Tasks whose attempts all failed: the list, and the confirmed retry or discard of one."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import grpc
from starlette.responses import Response

from credit_service.console.lists import PARKED_TASKS
from credit_service.console.page import (
    EXAMPLE_REQUEST_ID,
    Page,
    Problem,
    form_for_retry,
    new_request_id,
)
from credit_service.console.service import Service
from credit_service.console.views import lists
from credit_service.v1 import operations_service_pb2 as pb
from credit_service_client.errors import ServiceError


@dataclass(frozen=True, slots=True)
class _Action:
    """What an administrator can do about a parked task."""

    name: str
    """The last part of its address."""
    request: Callable[..., Any]
    call: Callable[[Service, Any], None]
    notice: str


_RETRY = _Action(
    "retry",
    pb.RetryParkedTaskRequest,
    Service.retry_parked_task,
    "Task {} waits for a worker.",
)
_DISCARD = _Action(
    "discard", pb.DiscardParkedTaskRequest, Service.discard_parked_task, "Task {} is discarded."
)


def index(page: Page) -> Response:
    """The parked tasks, by ascending id."""
    found = lists.shown(page, PARKED_TASKS)
    return page.render("parked_tasks.html", found.status, list=found)


def retrying(page: Page) -> Response:
    """The page that confirms a retry."""
    return _confirmation(page, _RETRY, page.typed_before(), None)


def retry(page: Page) -> Response:
    """Let the workers start the task again."""
    return _done(page, _RETRY)


def discarding(page: Page) -> Response:
    """The page that confirms that a task is discarded."""
    return _confirmation(page, _DISCARD, page.typed_before(), None)


def discard(page: Page) -> Response:
    """Delete the task."""
    return _done(page, _DISCARD)


def _done(page: Page, action: _Action) -> Response:
    task_id = page.path_id("task_id")
    try:
        action.call(page.service, action.request(request_id=page.request_id(), task_id=task_id))
    except ServiceError as error:
        if error.code is grpc.StatusCode.UNAUTHENTICATED:
            raise
        return _confirmation(page, action, form_for_retry(page.form, error), Problem(error))
    return page.redirect(PARKED_TASKS.path, action.notice.format(task_id))


def _confirmation(
    page: Page, action: _Action, values: Mapping[str, str], problem: Problem | None
) -> Response:
    task_id = page.path_id("task_id")
    request = pb.ListParkedTasksRequest(task_id=task_id)
    task = next(iter(page.service.parked_tasks(request).tasks), None)
    status: int = HTTPStatus.OK if task is not None else HTTPStatus.NOT_FOUND
    planned = action.request(request_id=EXAMPLE_REQUEST_ID, task_id=task_id)
    return page.render(
        "parked_task.html",
        status if problem is None else problem.http_status,
        task_id=task_id,
        task=task,
        action=action.name,
        values=values or {"request_id": new_request_id()},
        problem=problem,
        planned=None if task is None else page.planned(planned),
    )
