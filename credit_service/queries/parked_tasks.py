"""Tasks whose attempts all failed."""

from collections.abc import Iterator

from credit_service.storage import tasks
from credit_service.storage.database import Database
from credit_service.storage.tasks import ParkedTask

_PAGE = 500


def parked_tasks(database: Database) -> Iterator[ParkedTask]:
    """Yield all parked tasks, by ascending id."""
    after = 0
    while True:
        with database.autocommit() as connection:
            page = tasks.list_parked(connection, after=after, limit=_PAGE)
        yield from page
        if len(page) < _PAGE:
            return
        after = page[-1].task_id
