"""OperationsService: parked tasks are listed, retried and discarded."""

# The method names are the contract's, the arguments grpc's.
# ruff: noqa: N802, ARG002

import grpc

from credit_service.clock import Clock
from credit_service.commands.parked_tasks import act_on_parked_task
from credit_service.observability.logs import masked_text
from credit_service.queries.parked_tasks import parked_page
from credit_service.rpc.calls.call import current_call
from credit_service.rpc.convert import fields, pages
from credit_service.rpc.convert.fields import Violations
from credit_service.rpc.convert.pages import PageTokens
from credit_service.storage.database import Database
from credit_service.storage.task_actions import Action
from credit_service.storage.tasks import ParkedTask, Task
from credit_service.v1 import operations_service_pb2 as pb
from credit_service.v1 import operations_service_pb2_grpc

MAX_ACTOR_LENGTH = 100
_PAGES = PageTokens("ListParkedTasks", pages.key_id)


class OperationsServicer(operations_service_pb2_grpc.OperationsServiceServicer):
    """Implements OperationsService. The contract lists the errors of each method."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    def ListParkedTasks(
        self, request: pb.ListParkedTasksRequest, context: grpc.ServicerContext
    ) -> pb.ListParkedTasksResponse:
        """List the parked tasks by ascending id."""
        violations = Violations()
        size = pages.read_page_size(request.page_size, violations)
        actor = fields.read_text(request.actor, "actor", MAX_ACTOR_LENGTH, violations)
        task_id = request.task_id
        if task_id:
            fields.read_id(task_id, "task_id", violations)
        violations.raise_if_any()
        filters = (actor, task_id)
        key = _PAGES.read(request.page_token, *filters)
        found = parked_page(
            self._database,
            actor=actor,
            task_id=task_id,
            after=0 if key is None else key[0],
            limit=size + 1,
        )
        page = found[:size]
        response = pb.ListParkedTasksResponse(tasks=[_written(each) for each in page])
        if len(found) > size:
            response.next_page_token = _PAGES.write([page[-1].task_id], *filters)
        return response

    def RetryParkedTask(
        self, request: pb.RetryParkedTaskRequest, context: grpc.ServicerContext
    ) -> pb.RetryParkedTaskResponse:
        """Let the workers start a parked task again."""
        task = self._act("RETRIED", request)
        return pb.RetryParkedTaskResponse(
            task_id=task.task_id, actor=task.actor, subject=task.subject
        )

    def DiscardParkedTask(
        self, request: pb.DiscardParkedTaskRequest, context: grpc.ServicerContext
    ) -> pb.DiscardParkedTaskResponse:
        """Delete a parked task."""
        task = self._act("DISCARDED", request)
        return pb.DiscardParkedTaskResponse(
            task_id=task.task_id, actor=task.actor, subject=task.subject
        )

    def _act(
        self, action: Action, request: pb.RetryParkedTaskRequest | pb.DiscardParkedTaskRequest
    ) -> Task:
        violations = Violations()
        request_id = fields.read_request_id(request, violations)
        task_id = fields.read_id(request.task_id, "task_id", violations)
        violations.raise_if_any()
        return act_on_parked_task(
            self._database,
            request_id,
            action,
            task_id,
            self._clock.moment(),
            current_call().principal,
        )


def _written(task: ParkedTask) -> pb.ParkedTask:
    return pb.ParkedTask(
        task_id=task.task_id,
        actor=task.actor,
        subject=task.subject,
        attempts=task.attempts,
        created_time=fields.write_time(task.created_at),
        parked_time=fields.write_time(task.parked_at),
        # Also here: the row may be of an earlier release.
        last_error=masked_text(task.last_error or ""),
    )
