"""Parked tasks over the contract: what is listed, who may act, and what a repeat means."""

import threading
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import grpc
import pytest
from sqlalchemy import text

from credit_service.storage.database import Database
from credit_service.v1 import operations_service_pb2 as pb
from tests.integration.conftest import Edge, refusal_of

INSERT = text(
    """INSERT INTO tasks (actor, subject, state, attempts, due_at, created_at, last_error)
    VALUES (:actor, :subject, :state, 5, now(), now(), :error) RETURNING task_id"""
)


def stored(
    database: Database, subject: str, state: str = "PARKED", error: str = "", actor: str = "score"
) -> int:
    """Store a task and return its id."""
    values = {"actor": actor, "subject": subject, "state": state, "error": error or None}
    with database.autocommit() as connection:
        return int(connection.execute(INSERT, values).scalar_one())


def rows(database: Database, query: str) -> list[tuple[Any, ...]]:
    with database.autocommit() as connection:
        return [tuple(row) for row in connection.execute(text(query))]


def retry(server: Edge, task_id: int, request_id: str = "") -> pb.RetryParkedTaskResponse:
    request = pb.RetryParkedTaskRequest(request_id=request_id or str(uuid4()), task_id=task_id)
    return server.operations.RetryParkedTask(request, timeout=20)


def discard(server: Edge, task_id: int, request_id: str = "") -> pb.DiscardParkedTaskResponse:
    request = pb.DiscardParkedTaskRequest(request_id=request_id or str(uuid4()), task_id=task_id)
    return server.operations.DiscardParkedTask(request, timeout=20)


def reason_of(call: Callable[[], object]) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    refusal = refusal_of(caught.value)
    return refusal.code, refusal.reason


NOT_FOUND = (grpc.StatusCode.NOT_FOUND, "TASK_NOT_FOUND")
NOT_PARKED = (grpc.StatusCode.FAILED_PRECONDITION, "TASK_NOT_PARKED")
REUSED = (grpc.StatusCode.FAILED_PRECONDITION, "REQUEST_ID_REUSED")


def test_only_parked_tasks_are_listed_without_personal_data(
    server: Edge, database: Database
) -> None:
    parked = stored(
        database, "7", error="IntegrityError: Key (phone_number)=(+919876543210) already exists."
    )
    other = stored(database, "8", actor="other")
    for state in ("PENDING", "SENT", "RUNNING"):
        stored(database, f"not {state}", state)
    found = server.operations.ListParkedTasks(pb.ListParkedTasksRequest(), timeout=20).tasks
    assert [each.task_id for each in found] == [parked, other]
    assert (found[0].actor, found[0].subject, found[0].attempts) == ("score", "7", 5)
    assert found[0].parked_time.seconds > 0
    assert found[0].last_error.startswith("IntegrityError")
    assert "98765" not in found[0].last_error
    assert found[1].last_error == ""
    for request in (
        pb.ListParkedTasksRequest(actor="other"),
        pb.ListParkedTasksRequest(task_id=other),
        pb.ListParkedTasksRequest(actor="other", task_id=other),
    ):
        (only,) = server.operations.ListParkedTasks(request, timeout=20).tasks
        assert only.task_id == other
    neither = pb.ListParkedTasksRequest(actor="other", task_id=parked)
    assert not server.operations.ListParkedTasks(neither, timeout=20).tasks


def test_a_retried_task_starts_with_new_attempts_and_a_repeat_does_nothing(
    server: Edge, database: Database
) -> None:
    task_id, request_id = stored(database, "7", error="boom"), str(uuid4())
    first = retry(server, task_id, request_id)
    assert (first.task_id, first.actor, first.subject) == (task_id, "score", "7")
    query = "SELECT task_id, state, attempts, last_error FROM tasks"
    assert rows(database, query) == [(task_id, "PENDING", 0, "boom")]
    # Also after the task failed and was parked again.
    with database.autocommit() as connection:
        connection.execute(text("UPDATE tasks SET state = 'PARKED', attempts = 5"))
    assert retry(server, task_id, request_id) == first
    assert rows(database, query) == [(task_id, "PARKED", 5, "boom")]
    assert reason_of(lambda: discard(server, task_id, request_id)) == REUSED
    assert reason_of(lambda: retry(server, stored(database, "8"), request_id)) == REUSED
    audit = "SELECT action, task_id, actor, subject, principal FROM task_actions"
    assert rows(database, audit) == [("RETRIED", task_id, "score", "7", "anonymous")]


def test_a_discarded_task_is_gone_and_a_repeat_gets_the_same_answer(
    server: Edge, database: Database
) -> None:
    task_id, request_id = stored(database, "7"), str(uuid4())
    first = discard(server, task_id, request_id)
    assert rows(database, "SELECT * FROM tasks") == []
    assert discard(server, task_id, request_id) == first
    assert reason_of(lambda: discard(server, task_id)) == NOT_FOUND
    assert reason_of(lambda: retry(server, task_id)) == NOT_FOUND


@pytest.mark.parametrize("state", ["PENDING", "SENT", "RUNNING"])
def test_a_task_that_waits_or_runs_is_left_alone(
    server: Edge, database: Database, state: str
) -> None:
    task_id = stored(database, "7", state)
    before = rows(database, "SELECT * FROM tasks")
    assert reason_of(lambda: retry(server, task_id)) == NOT_PARKED
    assert reason_of(lambda: discard(server, task_id)) == NOT_PARKED
    assert rows(database, "SELECT * FROM tasks") == before
    assert rows(database, "SELECT * FROM task_actions") == []


def test_a_retried_task_joins_the_same_work_that_waits(server: Edge, database: Database) -> None:
    waiting = stored(database, "7", "PENDING")
    retry(server, stored(database, "7"))
    assert rows(database, "SELECT task_id, state FROM tasks") == [(waiting, "PENDING")]


def test_of_two_administrators_one_acts(server: Edge, database: Database) -> None:
    """Both wait for the same row; the second one sees what the first one did."""
    task_id = stored(database, "7")
    outcomes: list[str] = []

    def act(call: Callable[[Edge, int], object]) -> None:
        try:
            call(server, task_id)
            outcomes.append("done")
        except grpc.RpcError as error:
            outcomes.append(refusal_of(error).reason)

    threads = [threading.Thread(target=act, args=(call,)) for call in (retry, discard)]
    with database.transaction() as connection:
        lock = text("SELECT FROM tasks WHERE task_id = :task_id FOR UPDATE")
        connection.execute(lock, {"task_id": task_id})
        for each in threads:
            each.start()
        waiting = text("SELECT count(DISTINCT pid) FROM pg_locks WHERE NOT granted")
        while connection.execute(waiting).scalar_one() < len(threads):
            assert all(each.is_alive() for each in threads)
    for each in threads:
        each.join(20)
    assert sorted(outcomes)[1] == "done"
    assert sorted(outcomes)[0] in {"TASK_NOT_FOUND", "TASK_NOT_PARKED"}
    assert len(rows(database, "SELECT * FROM task_actions")) == 1


def test_one_request_sent_twice_at_once_acts_once(server: Edge, database: Database) -> None:
    """Its retry arrives while the first one still waits for the row."""
    task_id, request_id = stored(database, "7"), str(uuid4())
    found: list[pb.DiscardParkedTaskResponse] = []
    threads = [
        threading.Thread(target=lambda: found.append(discard(server, task_id, request_id)))
        for _ in range(2)
    ]
    with database.transaction() as connection:
        lock = text("SELECT FROM tasks WHERE task_id = :task_id FOR UPDATE")
        connection.execute(lock, {"task_id": task_id})
        for each in threads:
            each.start()
        waiting = text("SELECT count(DISTINCT pid) FROM pg_locks WHERE NOT granted")
        while connection.execute(waiting).scalar_one() < len(threads):
            assert all(each.is_alive() for each in threads)
    for each in threads:
        each.join(20)
    assert len(found) == 2
    assert found[0] == found[1]
    assert len(rows(database, "SELECT * FROM task_actions")) == 1


def test_an_id_that_is_used_meanwhile_for_another_task_has_no_effect(
    server: Edge, database: Database
) -> None:
    task_id, request_id = stored(database, "7"), str(uuid4())
    reasons: list[tuple[grpc.StatusCode, str]] = []
    late = threading.Thread(
        target=lambda: reasons.append(reason_of(lambda: retry(server, task_id, request_id)))
    )
    with database.transaction() as connection:
        other = text(
            """INSERT INTO task_actions
            (request_id, action, task_id, actor, subject, acted_at, principal)
            VALUES (:request_id, 'RETRIED', 99, 'score', '8', now(), 'other')"""
        )
        connection.execute(other, {"request_id": request_id})
        late.start()
        waiting = text("SELECT count(DISTINCT pid) FROM pg_locks WHERE NOT granted")
        while connection.execute(waiting).scalar_one() < 1:
            assert late.is_alive()
    late.join(20)
    assert reasons == [REUSED]
    assert rows(database, "SELECT state FROM tasks") == [("PARKED",)]
