"""Tasks whose attempts all failed."""

from collections.abc import Iterator

from credit_service.storage import tasks
from credit_service.storage.database import Database
from credit_service.storage.tasks import ParkedTask

_PAGE = 500


def parked_page(
    database: Database, *, actor: str = "", task_id: int = 0, after: int = 0, limit: int
) -> list[ParkedTask]:
    """Return parked tasks with ids above `after`, in order; of the actor and with the id, if they
    are given."""
    with database.autocommit() as connection:
        return tasks.list_parked(connection, actor=actor, task_id=task_id, after=after, limit=limit)


def parked_tasks(database: Database) -> Iterator[ParkedTask]:
    """Yield all parked tasks, by ascending id."""
    after = 0
    while True:
        page = parked_page(database, after=after, limit=_PAGE)
        yield from page
        if len(page) < _PAGE:
            return
        after = page[-1].task_id
