"""What every group of calls does around its statements: the connection, and its failures."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import structlog
from sqlalchemy import Connection, exc

from credit_service.commands.grouping import LOST_RACE, GoAloneError, Grouping
from credit_service.domain.errors import OverloadedError, RetryLaterError, UnavailableError
from credit_service.storage import cluster
from credit_service.storage.cancellation import ScopeCancelledError
from credit_service.storage.database import Database, LostRaceError

Member = TypeVar("Member")
Result = TypeVar("Result")

LANES = 2
LARGEST = 16
PAUSE_SECONDS = 1.0
"""For how long no group forms after one that all calls had to leave."""

# Of the whole group, as of a call alone: the connection, or the server.
_FAILURES = (UnavailableError, OverloadedError, RetryLaterError, ScopeCancelledError)

_log = structlog.get_logger(__name__)


def run_together(
    database: Database,
    groups: Grouping[Member, Result],
    calls: Sequence[Member],
    work: Callable[[Connection, Sequence[Member]], list[Result | BaseException]],
) -> list[Result | BaseException]:
    """Return the outcome of each call: those of `work`, which has one read and one write.

    All calls go alone on a cluster, after a lost race, and after another failure of a statement,
    which stored nothing.

    Raises:
        UnavailableError, OverloadedError, RetryLaterError, ScopeCancelledError: of the whole group.
    """
    try:
        with database.autocommit() as connection:
            if cluster.is_distributed(connection):
                return go_alone(groups, calls, "distributed")
            return work(connection, calls)
    except LostRaceError:
        return [GoAloneError(LOST_RACE)] * len(calls)
    except _FAILURES:
        raise
    except Exception as error:  # noqa: BLE001 - logged; one call must not fail the others
        # The statement failed and stored nothing. Alone, each call gets its own error.
        _log.warning("group_failed", calls=len(calls), error=type(error).__name__)
        if not isinstance(error, exc.IntegrityError):
            return go_alone(groups, calls, "failed")
        return [GoAloneError("failed")] * len(calls)


def go_alone(
    groups: Grouping[Member, Result], calls: Sequence[Member], reason: str
) -> list[Result | BaseException]:
    """Let all calls go alone, and those of the next PAUSE_SECONDS too."""
    groups.pause(reason, PAUSE_SECONDS)
    return [GoAloneError(reason)] * len(calls)
