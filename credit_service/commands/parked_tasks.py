"""Retry and discard parked tasks, once for each request id."""

from uuid import UUID

from credit_service.clock import Moment
from credit_service.commands.idempotency import request_id_reused
from credit_service.domain.errors import NotFoundError, PreconditionFailedError
from credit_service.storage import replication, task_actions, tasks
from credit_service.storage.database import Database, LostRaceError
from credit_service.storage.task_actions import Action, TaskAction
from credit_service.storage.tasks import Task

_EFFECTS = {"RETRIED": tasks.unpark, "DISCARDED": tasks.discard}


def act_on_parked_task(
    database: Database,
    request_id: UUID,
    action: Action,
    task_id: int,
    moment: Moment,
    principal: str,
) -> Task:
    """Retry or discard a parked task, and return it. A repeated request returns it too.

    Raises:
        NotFoundError: TASK_NOT_FOUND.
        PreconditionFailedError: TASK_NOT_PARKED.
        RequestIdReusedError: the id was used for another action or task.
    """

    def attempt(_number: int) -> Task:
        with database.transaction() as connection:
            # First: a concurrent request with this id has then ended, and is found.
            locked = tasks.locked(connection, task_id)
            used = task_actions.find(connection, request_id)
            if used is not None:
                if (used.action, used.task.task_id) != (action, task_id):
                    raise request_id_reused(request_id)
                replication.confirm(connection)
                return used.task
            task = _parked(task_id, locked)
            _EFFECTS[action](connection, task_id)
            done = TaskAction(action, task)
            if not task_actions.add(connection, request_id, done, moment, principal):
                raise LostRaceError
        return task

    return database.retry(attempt)


def _parked(task_id: int, locked: tuple[Task, str] | None) -> Task:
    if locked is None:
        raise NotFoundError(
            "TASK_NOT_FOUND",
            "task",
            str(task_id),
            f"There is no task {task_id}: it never existed, is done, or was discarded.",
            {"task_id": str(task_id)},
        )
    task, state = locked
    if state != "PARKED":
        raise PreconditionFailedError(
            "TASK_NOT_PARKED",
            f"Task {task_id} is not parked but {state}: another caller may have retried it.",
            subject=f"tasks/{task_id}",
            metadata={"task_id": str(task_id), "state": state},
        )
    return task
