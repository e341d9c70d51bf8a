"""`ingest` sends a file and shows the progress and the result. `annotated` saves the file with its
problems marked."""

import errno
import shlex
import shutil
import tempfile
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Literal
from uuid import UUID, uuid4, uuid5

from rich.progress import (
    BarColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from credit_service.cli.common import DEFAULT_ERRORS_SHOWN, ExitCode, Target
from credit_service.cli.connection import connected
from credit_service.cli.ingestions import row_errors_table
from credit_service.cli.output import (
    Listing,
    as_dict,
    counted,
    err,
    note,
    out,
    paste,
    print_failure,
    print_json,
)
from credit_service.client.display import enum_name
from credit_service.client.rows import SourceFile, kinds, open_source
from credit_service.rupees import group_digits
from credit_service.spreadsheets import templates
from credit_service.spreadsheets.cell_values import DateOrder
from credit_service.spreadsheets.columns import Kind
from credit_service.v1 import ingestion_pb2
from credit_service_client.errors import ServiceError
from credit_service_client.ingestion import IngestionClient, Listener, Request, SourceFailedError

_KINDS: dict[str, Kind] = {"customers": "CUSTOMERS", "loans": "LOANS"}
DATE_ORDERS: dict[str | None, DateOrder | None] = {
    None: None,
    "dmy": "DMY",
    "mdy": "MDY",
    "ymd": "YMD",
}
# Reasons that say that the ingestion id belongs to other rows, or to another caller.
_ID_MISMATCH_REASONS = frozenset(
    {"COMMITTED_ROWS_DIFFER", "INGESTION_NOT_OWNED", "INGESTION_HEADER_MISMATCH"}
)
_COUNTS = ("inserted", "updated", "unchanged", "skipped", "rejected")


@dataclass(frozen=True, slots=True)
class Options:
    """Options of the command line."""

    path: Path
    kind: Literal["customers", "loans"] | None
    upload: bool
    update: bool
    dry_run: bool
    errors_shown: int
    ingestion_id: UUID | None
    date_order: DateOrder | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """Result of an ingestion, and the first of its row errors."""

    ingestion: ingestion_pb2.Ingestion
    row_errors: list[ingestion_pb2.RowError]
    seconds: float
    skipped_rows: Sequence[ingestion_pb2.RowError] = ()

    @property
    def exit_code(self) -> ExitCode:
        succeeded = self.ingestion.state == ingestion_pb2.INGESTION_STATE_SUCCEEDED
        return ExitCode.GOOD if succeeded and not self.ingestion.rejected else ExitCode.REFUSED


def ingest(options: Options, target: Target, *, as_json: bool) -> int:
    """Send the file, print the result, and return the exit code.

    Raises SourceError, ServiceError.
    """
    sources = _sources(options)
    first_id = options.ingestion_id or uuid4()
    resume = _command(options, first_id, target, as_json=as_json)
    documents = []
    exit_code = ExitCode.GOOD
    with connected(target) as channel:
        client = IngestionClient(channel)
        for place, source in enumerate(sources):
            own_id = _id_of(place, first_id)
            request = Request(own_id, options.update, options.dry_run, options.date_order)
            try:
                outcome = send(client, source, request, options.errors_shown, upload=options.upload)
            except KeyboardInterrupt:
                _print_resume_command("Interrupted.", own_id, resume, target)
                return ExitCode.INTERRUPTED
            except ServiceError as error:
                wrong_id = error.reason in _ID_MISMATCH_REASONS and options.ingestion_id is not None
                if not error.unavailable and not wrong_id:
                    raise
                print_failure(error.lines())
                if wrong_id:
                    note("To start a new ingestion, repeat the command without --ingestion-id.")
                    return ExitCode.REFUSED
                _print_resume_command("The ingestion is not finished.", own_id, resume, target)
                return ExitCode.UNAVAILABLE
            exit_code = max(exit_code, outcome.exit_code)
            documents.append(_document(outcome))
            if not as_json:
                _show_one_of(place, sources, outcome, options, target)
                if _source_failed(outcome):
                    out.print(
                        "  The rows before the error stay stored. Correct the file, then resume:"
                    )
                    out.print(Text("  ").append(paste(resume)))
            if outcome.ingestion.state != ingestion_pb2.INGESTION_STATE_SUCCEEDED:
                break
    not_sent = [each.kind.lower() for each in sources[len(documents) :]]
    if as_json:
        # One document for one kind of rows, a list for both kinds.
        print_json(documents[0] if len(sources) == 1 else {"ingestions": documents})
    if options.dry_run and len(documents) > 1:
        note("A dry run stores no customers, so loans of new customers were rejected.")
    for kind in not_sent:
        note(f"The {kind} were not sent, because the previous ingestion did not succeed.")
    return exit_code


def _id_of(place: int, first_id: UUID) -> UUID:
    """Return the id of a file's first or second ingestion. It is always the same, so that the same
    command resumes both."""
    return first_id if place == 0 else uuid5(first_id, str(place))


def _command(options: Options, ingestion_id: UUID, target: Target, *, as_json: bool) -> str:
    """Return the command line, quoted for a shell, that resumes the ingestion in this folder."""
    path = str(options.path)
    words = ["credit-service", "ingest", f"./{path}" if path.startswith("-") else path]
    if options.kind:
        words += ["--kind", options.kind]
    for option, given in (
        ("--upload", options.upload),
        ("--update", options.update),
        ("--dry-run", options.dry_run),
    ):
        words += [option] if given else []
    if options.date_order:
        words += ["--date-order", options.date_order.lower()]
    if options.errors_shown != DEFAULT_ERRORS_SHOWN:
        words += ["--errors", str(options.errors_shown)]
    words += ["--ingestion-id", str(ingestion_id), *target.options]
    return shlex.join([*words, "--json"] if as_json else words)


def _print_resume_command(
    what_happened: str, ingestion_id: UUID, resume: str, target: Target
) -> None:
    note(f"{what_happened} Committed rows stay stored. Resume ingestion {ingestion_id} with:")
    err.print(Text("  ").append(paste(resume)))
    if target.token:
        note("The command omits the token: pass it again in CREDIT_TOKEN or with --token-file.")


def _source_failed(outcome: Outcome) -> bool:
    code = outcome.ingestion.error.code
    return code == ingestion_pb2.INGESTION_ERROR_CODE_SOURCE_FAILED


def _document(outcome: Outcome) -> dict[str, object]:
    return {
        "ingestion": as_dict(outcome.ingestion),
        "row_errors": [as_dict(each) for each in outcome.row_errors],
        "skipped_rows": [as_dict(each) for each in outcome.skipped_rows],
        "seconds": round(outcome.seconds, 3),
    }


def _show_one_of(
    place: int, sources: Sequence[SourceFile], outcome: Outcome, options: Options, target: Target
) -> None:
    if len(sources) > 1:
        if place:
            out.print()
        out.print(Text(f"{sources[place].kind.capitalize()}:"))
    show(outcome, also_sent=len(sources) > 1)
    if options.upload:
        _offer_annotated(outcome, target)


def _offer_annotated(outcome: Outcome, target: Target) -> None:
    """Print the command that saves the file with its problems marked."""
    ingestion = outcome.ingestion
    header_rejected = ingestion.error.code in (
        ingestion_pb2.INGESTION_ERROR_CODE_COLUMN_MISSING,
        ingestion_pb2.INGESTION_ERROR_CODE_COLUMN_AMBIGUOUS,
        ingestion_pb2.INGESTION_ERROR_CODE_COLUMN_UNIT_UNSUPPORTED,
    )
    is_kept = not (ingestion.file_expired or ingestion.row_errors_expired)
    if is_kept and (ingestion.rejected or ingestion.skipped or header_rejected):
        out.print()
        out.print("Save the file with its problems marked, to correct and send again:")
        words = ["credit-service", "annotated", ingestion.ingestion_id, *target.options]
        out.print(Text("  ").append(paste(shlex.join(words))))


def annotated(
    ingestion_id: UUID, output: Path | None, target: Target, *, rejected_only: bool, as_json: bool
) -> int:
    """Save the annotated workbook of an upload, with all rows or only the rejected ones. Never
    overwrite a file.

    Raises ServiceError, FileExistsError.
    """
    if output is not None:
        ensure_free(output)
    with connected(target) as channel, tempfile.TemporaryFile() as file:
        client = IngestionClient(channel)
        header = client.annotated_workbook(ingestion_id, file, rejected_only=rejected_only)
        # The name comes from the server, so its folders are dropped.
        path = output or Path(PurePath(header.filename.replace("\\", "/")).name)
        ensure_free(path)
        file.seek(0)
        with path.open("xb") as saved:
            shutil.copyfileobj(file, saved)
    if as_json:
        print_json({"path": str(path), "size_bytes": header.size_bytes})
    else:
        out.print(Text(f"Saved {path} ({group_digits(header.size_bytes)} bytes)."), soft_wrap=True)
    return ExitCode.GOOD


def save_template(
    kind: Literal["customers", "loans", "asks"], output: Path | None, *, as_csv: bool, as_json: bool
) -> int:
    """Save an empty file to fill in. Never overwrite a file.

    Raises FileExistsError.
    """
    path = output or Path(f"{kind}-template.{'csv' if as_csv else 'xlsx'}")
    ensure_free(path)
    made = templates.csv_template if as_csv else templates.template
    with path.open("xb") as saved:
        saved.write(made("ASKS" if kind == "asks" else _KINDS[kind]))
    if as_json:
        print_json({"path": str(path)})
    else:
        out.print(Text(f"Saved {path}."), soft_wrap=True)
    return ExitCode.GOOD


def ensure_free(path: Path) -> None:
    """Raise FileExistsError if there is a file at the path."""
    if path.exists():
        raise FileExistsError(
            errno.EEXIST, "already exists; choose another file with --output", str(path)
        )


def _sources(options: Options) -> list[SourceFile]:
    """Return the file once for each kind of rows in it, or for the requested kind."""
    if options.kind is None:
        found = kinds(options.path)
        return [open_source(options.path, kind, options.date_order) for kind in found]
    kind = _KINDS[options.kind]
    if options.upload and options.path.is_file():
        # The service validates the content. Here the file must only be readable.
        options.path.open("rb").close()
        return [SourceFile(options.path, kind, options.path.stat().st_size, options.date_order)]
    return [open_source(options.path, kind, options.date_order)]


def send(
    client: IngestionClient,
    source: SourceFile,
    request: Request,
    errors_shown: int,
    *,
    upload: bool,
) -> Outcome:
    """Stream or upload the file, with a progress bar on a terminal. Raises like `ingest`."""
    started = time.monotonic()
    with _progress(source, upload=upload, dry_run=request.validate_only) as listener:
        if upload:
            kind = ingestion_pb2.IngestionKind.Value(f"INGESTION_KIND_{source.kind}")
            client.upload(source.path, kind, request, listener)
            ingestion = client.follow(request.ingestion_id, listener)
            row_errors: list[ingestion_pb2.RowError] = []
        else:
            try:
                response = client.stream(source, request, listener)
            except SourceFailedError as error:
                ingestion, row_errors = error.ingestion, []
            else:
                ingestion, row_errors = response.ingestion, list(response.row_errors)
    seconds = time.monotonic() - started
    if ingestion.rejected and len(row_errors) < errors_shown:
        row_errors = client.row_errors(request.ingestion_id, errors_shown)
    skipped_rows: list[ingestion_pb2.RowError] = []
    if ingestion.skipped and errors_shown:
        skipped = ingestion_pb2.ROW_OUTCOME_SKIPPED
        skipped_rows = client.row_errors(request.ingestion_id, errors_shown, skipped)
    for each in (*row_errors, *skipped_rows):
        # The service does not know the headers of a streamed file.
        each.column_header = each.column_header or source.headers.get(each.column, "")
    return Outcome(ingestion, row_errors[:errors_shown], seconds, skipped_rows)


def show(outcome: Outcome, *, also_sent: bool = False) -> None:
    """Print the counts, the unread parts of the file, and the row errors. `also_sent`: the command
    sends the rows of the other kind too."""
    ingestion = outcome.ingestion
    rows = ingestion.rows_read
    state = enum_name(ingestion.state, ingestion_pb2.IngestionState)
    style = "bold green" if outcome.exit_code == ExitCode.GOOD else "bold red"
    dry_run = " (dry run: nothing was stored)" if ingestion.validate_only else ""
    speed = f", {group_digits(round(rows / outcome.seconds))} rows/s" if rows >= 1000 else ""
    out.print(
        Text.assemble(
            (state, style),
            f"{dry_run}  {counted(rows, 'row')} read in {outcome.seconds:.1f} s{speed}",
        ),
        soft_wrap=True,
    )
    counts = "   ".join(f"{name} {group_digits(getattr(ingestion, name))}" for name in _COUNTS)
    out.print(f"  {counts}", soft_wrap=True)
    if ingestion.HasField("error"):
        out.print(Text(f"  {ingestion.error.message}"), soft_wrap=True)
    if ingestion.customers_over_limit:
        over = ingestion.customers_over_limit
        out.print(
            f"  {counted(over, 'customer')} now over the approved"
            " limit: new loans would be declined.",
            soft_wrap=True,
        )
    for line in _not_read(ingestion, also_sent=also_sent):
        out.print(Text(f"  {line}"), soft_wrap=True)
    if ingestion.row_errors_expired:
        out.print("  The row errors are no longer kept; the counts remain.", soft_wrap=True)
    if outcome.row_errors:
        _show_row_errors(outcome)
    if outcome.skipped_rows:
        _show_skipped_rows(outcome)


def _show_skipped_rows(outcome: Outcome) -> None:
    """Print the differences between skipped rows and the stored values."""
    table = Listing("skipped row", "in the file", "stored")
    for each in outcome.skipped_rows:
        table.add(str(each.row_number), each.found, each.expected)
    out.print()
    table.print()
    more = outcome.ingestion.skipped - len(outcome.skipped_rows)
    if more:
        out.print(
            f"… and {group_digits(more)} more skipped rows: --errors shows up to 1000, the RPC "
            f"ListRowErrors shows all (ingestion {outcome.ingestion.ingestion_id}).",
            soft_wrap=True,
        )


def _not_read(ingestion: ingestion_pb2.Ingestion, *, also_sent: bool) -> Iterator[str]:
    if ingestion.sheet and ingestion.unread_sheets:
        yield f"Sheet read: {ingestion.sheet}"
    if ingestion.unread_sheets:
        names = ", ".join(ingestion.unread_sheets)
        yield f"Sheets not read{' in this ingestion' if also_sent else ''}: {names}"
    if ingestion.ignored_columns:
        yield f"Columns ignored: {', '.join(ingestion.ignored_columns)}"


def _show_row_errors(outcome: Outcome) -> None:
    out.print()
    row_errors_table(outcome.row_errors).print()
    rejected = outcome.ingestion.rejected
    rows_shown = len({each.row_number for each in outcome.row_errors})
    if rows_shown < rejected:
        out.print(
            f"… and {group_digits(rejected - rows_shown)} more rejected rows: "
            "--errors shows up to 1000, the RPC ListRowErrors shows all "
            f"(ingestion {outcome.ingestion.ingestion_id}).",
            soft_wrap=True,
        )


@contextmanager
def _progress(source: SourceFile, *, upload: bool, dry_run: bool) -> Iterator[Listener]:
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[rows]}"),
        TimeRemainingColumn(),
        console=err,
        transient=True,
        # Draw nothing without a terminal: the result is printed at the end.
        disable=not err.is_terminal,
    ) as progress:
        yield _Bar(progress, source, upload=upload, dry_run=dry_run)


class _Bar(Listener):
    """Shows how many rows are committed. The bar counts bytes of the file for a stream, and rows
    for an upload once its bytes are sent. The number of sent rows stands beside the bar."""

    def __init__(
        self, progress: Progress, source: SourceFile, *, upload: bool, dry_run: bool
    ) -> None:
        self._progress = progress
        self._upload = upload
        self._done = "checked" if dry_run else "committed"
        self._committed_rows = 0
        self._sent_rows = 0
        self._size_bytes = source.size_bytes
        # Ends of the batches of a stream, in rows and in bytes of the file.
        self._batch_ends: deque[tuple[int, int]] = deque()
        what = f"{'Uploading' if upload else 'Streaming'} {source.path.name}"
        self._task = progress.add_task(what, total=source.size_bytes, rows="")
        self._following = False

    def sent(self, rows: int, read_bytes: int) -> None:
        self._batch_ends.append((rows, read_bytes))
        self._sent_rows = rows
        self._progress.update(self._task, rows=self._rows())

    def uploaded(self, sent_bytes: int) -> None:
        of = f"{_megabytes(sent_bytes)} of {_megabytes(self._size_bytes)} MB sent"
        self._progress.update(self._task, completed=sent_bytes, rows=of)

    def advanced(self, ingestion: ingestion_pb2.Ingestion) -> None:
        self._committed_rows = ingestion.committed_offset
        if not self._upload:
            read_bytes = None
            while self._batch_ends and self._batch_ends[0][0] <= self._committed_rows:
                _rows, read_bytes = self._batch_ends.popleft()
            # None leaves the bar unchanged.
            self._progress.update(self._task, completed=read_bytes, rows=self._rows())
            return
        if not self._following:
            self._following = True
            self._progress.remove_task(self._task)
            self._task = self._progress.add_task("Ingesting", total=None, rows="")
        total = ingestion.total_rows if ingestion.HasField("total_rows") else None
        self._progress.update(
            self._task, completed=self._committed_rows, total=total, rows=self._rows()
        )

    def _rows(self) -> str:
        text = f"{group_digits(self._committed_rows)} rows {self._done}"
        if self._upload:
            return text
        return f"{text}, {group_digits(max(self._sent_rows, self._committed_rows))} sent"

    def resuming(self, error: ServiceError, offset: int, pause_seconds: float) -> None:
        self._progress.console.print(
            Text(
                f"Connection lost ({error.lines()[0]}). "
                f"Resuming from row {group_digits(offset)} in {pause_seconds:.1f} s …"
            ),
            soft_wrap=True,
        )


def _megabytes(size_bytes: int) -> str:
    return f"{size_bytes / 1_000_000:.1f}"
