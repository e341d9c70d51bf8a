"""Places where the fault campaign makes a process die, or a disk be full.

CREDIT_FAILPOINTS names a folder. A file in it called like a failpoint arms it, for whichever
process comes there first. What the file holds says what happens then:

- `crash`: the process dies at once, as by kill -9. It takes the file away first, so one arming is
  one death.
- `full`: writing fails as on a full disk, as long as the file is there.

Without the variable, as everywhere but in a campaign, a failpoint is a call of a function that does
nothing. docs/reliability.md has the campaign.
"""

import errno
import os
import signal
from collections.abc import Callable
from pathlib import Path

POINTS = frozenset(
    {
        # Everything is decided, nothing is written.
        "create_loan.before_write",
        "record_payment.before_write",
        # The request's record and all else is written, in a transaction that is still open: that of
        # a booking which lost a race before.
        "create_loan.before_commit",
        "record_payment.before_commit",
        # Committed; neither the cache nor the caller knows.
        "create_loan.after_commit",
        "record_payment.after_commit",
        # A batch of rows is on its way into its table.
        "ingestion.mid_copy",
        "ingestion.before_commit",
        "ingestion.after_commit",
        # Events have their numbers and tasks are wished for, in a transaction that is still open.
        "relay.before_publish_commit",
        # Tasks are marked as sent. No message has left, or one has and the others have not.
        "relay.before_send",
        "relay.after_send",
        # An actor's work is done and its task still there.
        "task.before_finish",
        "cache.before_write",
        # A temporary file of an upload is being written, by a server or by a worker.
        "upload.spool",
        "upload.restore",
    }
)
"""Every failpoint there is."""

VARIABLE = "CREDIT_FAILPOINTS"


def _nothing(_point: str) -> None:
    """Do nothing: no campaign runs."""


def armed_in(folder: Path) -> Callable[[str], None]:
    """What `reach` is while a campaign runs: looks for the point's file in the folder."""

    def reach_armed(point: str) -> None:
        if point not in POINTS:
            raise ValueError(f"{point} is no failpoint")
        order = folder / point
        try:
            action = order.read_text(encoding="ascii").strip()
            if action == "crash":
                # Of several that read it, one takes it away.
                order.unlink()
                os.kill(os.getpid(), signal.SIGKILL)
        except FileNotFoundError:
            return
        if action == "full":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    return reach_armed


_folder = os.environ.get(VARIABLE)

reach: Callable[[str], None] = _nothing if _folder is None else armed_in(Path(_folder))
"""Let what is armed at this failpoint happen: by name, one of POINTS."""
