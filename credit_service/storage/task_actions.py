"""What administrators did about parked tasks, by request id."""

from dataclasses import dataclass
from typing import Literal
from uuid import UUID

from sqlalchemy import Connection, text

from credit_service.clock import Moment
from credit_service.storage.tasks import Task

Action = Literal["RETRIED", "DISCARDED"]


@dataclass(frozen=True, slots=True)
class TaskAction:
    """A task that was parked, and what was done about it."""

    action: Action
    task: Task


_FIND = text(
    "SELECT action, task_id, actor, subject FROM task_actions WHERE request_id = :request_id"
)
_INSERT = text(
    """INSERT INTO task_actions (request_id, action, task_id, actor, subject, acted_at, principal)
    VALUES (:request_id, :action, :task_id, :actor, :subject, :now, :principal)
    ON CONFLICT DO NOTHING"""
)


def find(connection: Connection, request_id: UUID) -> TaskAction | None:
    """Return what that request did."""
    row = connection.execute(_FIND, {"request_id": request_id}).one_or_none()
    return None if row is None else TaskAction(row[0], Task(*row[1:]))


def add(
    connection: Connection, request_id: UUID, done: TaskAction, moment: Moment, principal: str
) -> bool:
    """Record what the request did. Returns False if a concurrent one has used its id."""
    values = {
        "request_id": request_id,
        "action": done.action,
        "task_id": done.task.task_id,
        "actor": done.task.actor,
        "subject": done.task.subject,
        "now": moment.now,
        "principal": principal,
    }
    return connection.execute(_INSERT, values).rowcount == 1
