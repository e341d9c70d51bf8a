"""`check-file` saves a file of asks with the answers beside each row."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.text import Text

from credit_service.cli.common import ExitCode, Target
from credit_service.cli.connection import connected
from credit_service.cli.ingest import ensure_free
from credit_service.cli.output import counted, err, out, print_json
from credit_service.client import asks
from credit_service.rupees import group_digits
from credit_service.spreadsheets.table import SpreadsheetError
from credit_service.v1.credit_service_pb2_grpc import CreditServiceStub
from credit_service_client.sources import SourceError


def check_file(path: Path, output: Path | None, target: Target, *, as_json: bool) -> int:
    """Save the file with its answers, and print the counts. Never overwrite a file.

    Raises SourceError, ServiceError, OSError.
    """
    output = output or Path(f"{path.stem}-answers{path.suffix}")
    ensure_free(output)
    # Complete or not at all: the rows are answered into a temporary file first.
    with (
        path.open("rb") as source,
        tempfile.TemporaryFile() as answered,
        connected(target) as channel,
        _progress(path.name) as listener,
    ):
        try:
            counts = asks.answer(CreditServiceStub(channel), source, path.name, answered, listener)
        except SpreadsheetError as error:
            raise SourceError(f"{path.name}: {error.message}") from error
        answered.seek(0)
        with output.open("xb") as saved:
            shutil.copyfileobj(answered, saved)
    if as_json:
        decisions = {name.lower(): count for name, count in sorted(counts.decisions.items())}
        print_json({"path": str(output), "rows": counts.rows, **decisions, "errors": counts.errors})
    else:
        out.print(Text(f"Saved {output}: {summary(counts)}."), soft_wrap=True)
    return ExitCode.REFUSED if counts.errors else ExitCode.GOOD


def summary(counts: asks.Counts) -> str:
    """The counts in words: '1,000 rows, 700 approved, 290 declined, 10 errors'."""
    parts = [counted(counts.rows, "row")]
    parts += [
        f"{group_digits(count)} {name.lower()}" for name, count in sorted(counts.decisions.items())
    ]
    return ", ".join([*parts, counted(counts.errors, "error")])


@contextmanager
def _progress(name: str) -> Iterator[asks.Listener]:
    with Progress(
        SpinnerColumn(),
        TextColumn(f"Checking {name}".replace("[", "\\[")),
        TextColumn("{task.fields[counts]}"),
        TimeElapsedColumn(),
        console=err,
        transient=True,
        # Draw nothing without a terminal: the result is printed at the end.
        disable=not err.is_terminal,
    ) as progress:
        task = progress.add_task("", total=None, counts="")
        yield lambda counts: progress.update(task, counts=summary(counts))
