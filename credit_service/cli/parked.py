"""`parked`: tasks whose attempts all failed. Uses the database directly, like `replay`.

An unknown command imports this module to list all of them, and must not need the database.
"""

# ruff: noqa: PLC0415 - see above

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter

from credit_service.cli.common import DataDir, ExitCode, Format, UsageError
from credit_service.cli.output import Listing, note, out, print_failure, print_json

if TYPE_CHECKING:
    from credit_service.storage.database import Database
    from credit_service.storage.tasks import ParkedTask

_TEXT = Format()
_ALL = "all"

TaskIds = Annotated[tuple[str, ...], Parameter(help="Ids of parked tasks, or `all`.", negative="")]

parked = App(name="parked", help="List, retry and discard tasks whose attempts all failed.")


@parked.command(name="list")
def listing(*, data_dir: DataDir = None, form: Format = _TEXT) -> int:
    """List the parked tasks with their last errors."""
    from credit_service.queries.parked_tasks import parked_tasks

    with _database(data_dir) as database:
        found = list(parked_tasks(database))
    if form.json:
        print_json({"tasks": [_document(each) for each in found]})
        return ExitCode.GOOD
    table = Listing(
        ("task", "right"), "actor", "subject", "created", ("attempts", "right"), "error"
    )
    for each in found:
        created = f"{each.created_at:%Y-%m-%d %H:%M:%SZ}"
        error = each.last_error or ""
        table.add(str(each.task_id), each.actor, each.subject, created, str(each.attempts), error)
    if form.csv:
        table.print_csv()
    elif found:
        table.print()
    else:
        note("There are no parked tasks.")
    return ExitCode.GOOD


@parked.command
def retry(task_ids: TaskIds, /, *, data_dir: DataDir = None) -> int:
    """Retry parked tasks, with new attempts. Exits with 1 if one is not parked."""
    from credit_service.storage import tasks

    with _database(data_dir) as database:
        return _each(database, task_ids, tasks.unpark, "will be retried")


@parked.command
def discard(task_ids: TaskIds, /, *, data_dir: DataDir = None) -> int:
    """Delete parked tasks: their work is not done. Exits with 1 if one is not parked."""
    from credit_service.storage import tasks

    with _database(data_dir) as database:
        return _each(database, task_ids, tasks.discard, "discarded")


def _database(data_dir: Path | None) -> "AbstractContextManager[Database]":
    from credit_service.cli import running
    from credit_service.cli.operator_database import operator_database

    return operator_database(running.operator_settings(data_dir))


def _each(
    database: "Database", task_ids: tuple[str, ...], act: Callable[..., bool], done: str
) -> int:
    from credit_service.queries.parked_tasks import parked_tasks

    if task_ids == (_ALL,):
        ids = [each.task_id for each in parked_tasks(database)]
    else:
        ids = [_id_of(each) for each in task_ids]
    with database.autocommit() as connection:
        missing = [each for each in ids if not act(connection, each)]
    count = len(ids) - len(missing)
    out.print(f"{count} {'task' if count == 1 else 'tasks'} {done}.")
    for each in missing:
        print_failure([f"task {each} is not parked"])
    return ExitCode.REFUSED if missing else ExitCode.GOOD


def _id_of(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise UsageError(f"{text!r} is not the id of a task: take it from `parked list`")
    return int(text)


def _document(task: "ParkedTask") -> dict[str, object]:
    return {
        "task_id": task.task_id,
        "actor": task.actor,
        "subject": task.subject,
        "created_time": task.created_at.isoformat(),
        "attempts": task.attempts,
        "last_error": task.last_error,
    }
