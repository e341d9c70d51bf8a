"""Parked tasks: those whose five attempts failed. Lists them with their errors, or retries them.

    python -m workers.parked list
    python -m workers.parked retry TASK_ID [TASK_ID ...]
    python -m workers.parked retry all

Configured by the environment, like the worker. Exit status: 0; 1 if a given task is not parked;
2 if the settings do not allow access to the database.
"""

import argparse
import sys
from collections.abc import Sequence

from credit_service.processes import embedded
from credit_service.processes.stack_errors import StackError
from credit_service.queries.parked_tasks import parked_tasks
from credit_service.settings import Settings
from credit_service.storage import tasks
from credit_service.storage.database import Database


def retry(database: Database, task_ids: Sequence[int]) -> list[int]:
    """Reset these tasks for new attempts and return the ids of those that are not parked."""
    with database.autocommit() as connection:
        return [each for each in task_ids if not tasks.unpark(connection, each)]


def _list(database: Database) -> int:
    for task in parked_tasks(database):
        _say(
            f"{task.task_id}\t{task.actor}\t{task.subject}\tsince {task.created_at:%Y-%m-%d %H:%M}"
            f"\t{task.last_error or 'no error'}"
        )
    return 0


def _retry(database: Database, wanted: Sequence[str]) -> int:
    ids = (
        [task.task_id for task in parked_tasks(database)]
        if list(wanted) == ["all"]
        else [int(each) for each in wanted]
    )
    missing = retry(database, ids)
    _say(f"{len(ids) - len(missing)} tasks will be retried.")
    for each in missing:
        _say(f"{each} is not parked.")
    return 1 if missing else 0


def _say(line: str) -> None:
    print(line)  # noqa: T201 - the command's output


def main() -> int:
    """Run the command of the command line and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m workers.parked", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="show the parked tasks and their last errors")
    retrying = commands.add_parser("retry", help="retry parked tasks, with five new attempts")
    retrying.add_argument("task_id", nargs="+", help="an id from `list`, or: all")
    arguments = parser.parse_args()
    try:
        with embedded.provided(Settings(), join=True) as settings:
            database = Database(
                settings.require_database_url(), pool_size=1, pooler=settings.database_pooler
            )
            try:
                if arguments.command == "list":
                    return _list(database)
                return _retry(database, arguments.task_id)
            finally:
                database.dispose()
    except (ValueError, StackError) as error:
        print(f"python -m workers.parked: {error}", file=sys.stderr)  # noqa: T201 - the command's output
        return 2


if __name__ == "__main__":
    sys.exit(main())
