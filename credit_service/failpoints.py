"""Places where the fault campaign kills a process or simulates a full disk.

CREDIT_FAILPOINTS names a folder. A file in it with a failpoint's name arms the failpoint for the
first process that reaches it. The file's content selects the fault:

- `crash`: the process dies at once, as by kill -9. It removes the file first, so that one file
  kills one process.
- `full`: writing fails as on a full disk, as long as the file exists.

Without the variable, so outside a campaign, a failpoint calls a function that does nothing.
docs/reliability.md describes the campaign.
"""

import errno
import os
import signal
from collections.abc import Callable
from pathlib import Path

POINTS = frozenset(
    {
        # The decision is made, and nothing is written.
        "create_loan.before_write",
        "record_payment.before_write",
        "reverse_payment.before_write",
        "end_offer.before_write",
        "update_customer.before_write",
        # Everything is written, including the request's record, in an open transaction: a retry
        # after a lost race.
        "create_loan.before_commit",
        "record_payment.before_commit",
        "reverse_payment.before_commit",
        "end_offer.before_commit",
        "update_customer.before_commit",
        # Committed; cache and caller do not have the result yet.
        "create_loan.after_commit",
        "record_payment.after_commit",
        "reverse_payment.after_commit",
        "end_offer.after_commit",
        "update_customer.after_commit",
        # A COPY of a batch of rows is in progress.
        "ingestion.mid_copy",
        "ingestion.before_commit",
        "ingestion.after_commit",
        # A range of customers of an ingestion is taken back.
        "revert.before_commit",
        "revert.after_commit",
        # Events are numbered and tasks are enqueued, in an open transaction.
        "relay.before_publish_commit",
        # Tasks are marked as sent. No message has been sent, or only one.
        "relay.before_send",
        "relay.after_send",
        # An actor's work is done, and its task still exists.
        "task.before_finish",
        "cache.before_write",
        # A server or worker writes a temporary file of an upload.
        "upload.spool",
        "upload.restore",
    }
)
"""All failpoints."""

VARIABLE = "CREDIT_FAILPOINTS"


def _no_op(_point: str) -> None:
    """Do nothing: no campaign runs."""


def armed_in(folder: Path) -> Callable[[str], None]:
    """Return the campaign's `reach`, which checks for the failpoint's file in the folder."""

    def reach_armed(point: str) -> None:
        if point not in POINTS:
            raise ValueError(f"unknown failpoint: {point}")
        order = folder / point
        try:
            action = order.read_text(encoding="ascii").strip()
            if action == "crash":
                # Of several processes that read it, one removes it and dies.
                order.unlink()
                os.kill(os.getpid(), signal.SIGKILL)
        except FileNotFoundError:
            return
        if action == "full":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    return reach_armed


_folder = os.environ.get(VARIABLE)

reach: Callable[[str], None] = _no_op if _folder is None else armed_in(Path(_folder))
"""Trigger the fault armed at this failpoint: a name in POINTS."""
