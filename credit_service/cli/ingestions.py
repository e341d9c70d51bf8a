"""`ingestions`, `ingestion` and `row-errors` show what became of files and rows."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from uuid import UUID

from credit_service.cli.common import ExitCode, Format, Target
from credit_service.cli.connection import CALL_TIMEOUT_SECONDS, connected
from credit_service.cli.output import Figure, Listing, instant, note, print_data
from credit_service.cli.service import list_pages, print_facts, print_list
from credit_service.client.csv_cells import neutralised
from credit_service.client.display import enum_name, words
from credit_service.rupees import group_digits
from credit_service.v1 import ingestion_pb2
from credit_service.v1 import ingestion_service_pb2 as pb
from credit_service.v1.ingestion_service_pb2_grpc import IngestionServiceStub
from credit_service_client.errors import decoded_errors

_COUNTS = ("rows_read", "inserted", "updated", "unchanged", "skipped", "rejected")
_REVERT_COUNTS = ("rows_removed", "rows_restored", "rows_kept")


@contextmanager
def _service(target: Target) -> Iterator[IngestionServiceStub]:
    """The service's methods. Failed calls raise ServiceError."""
    with connected(target) as channel, decoded_errors():
        yield IngestionServiceStub(channel)


def ingestions(target: Target, limit: int, form: Format) -> int:
    """List ingestions, latest first."""
    with _service(target) as service:
        found, more = list_pages(
            service.ListIngestions, pb.ListIngestionsRequest(), "ingestions", limit
        )
    table = Listing(
        "ingestion", "kind", "file", "state", ("read", "right"), ("inserted", "right"),
        ("updated", "right"), ("skipped", "right"), ("rejected", "right"), "created", "by",
    )  # fmt: skip
    for each in found:
        table.add(
            each.ingestion_id,
            enum_name(each.kind, ingestion_pb2.IngestionKind),
            each.filename,
            enum_name(each.state, ingestion_pb2.IngestionState),
            str(each.rows_read),
            str(each.inserted),
            str(each.updated),
            str(each.skipped),
            str(each.rejected),
            instant(each.created_time),
            each.principal,
        )
    return print_list(table, "ingestions", found, form, more=more)


def ingestion(target: Target, ingestion_id: UUID, form: Format) -> int:
    """Show one ingestion."""
    request = pb.GetIngestionRequest(ingestion_id=str(ingestion_id))
    with _service(target) as service:
        response = service.GetIngestion(request, timeout=CALL_TIMEOUT_SECONDS)
    if not print_data(form, response):
        print_facts(*_facts(response.ingestion))
    return ExitCode.GOOD


def _facts(found: ingestion_pb2.Ingestion) -> Iterator[tuple[str, str]]:
    yield "ingestion", found.ingestion_id
    yield "kind", enum_name(found.kind, ingestion_pb2.IngestionKind)
    if found.filename:
        yield "file", found.filename
    dry_run = " (dry run: nothing was stored)" if found.validate_only else ""
    yield "state", enum_name(found.state, ingestion_pb2.IngestionState) + dry_run
    if found.HasField("error"):
        yield "error", found.error.message
    for name in _COUNTS:
        yield words(name).lower(), group_digits(getattr(found, name))
    yield "created", f"{instant(found.created_time)} by {found.principal or 'anonymous'}"
    if found.HasField("finished_time"):
        yield "finished", instant(found.finished_time)
    if found.unread_sheets:
        yield "sheets not read", ", ".join(found.unread_sheets)
    if found.ignored_columns:
        yield "columns ignored", ", ".join(found.ignored_columns)
    if found.HasField("revert_requested_time"):
        for name in _REVERT_COUNTS:
            yield words(name).lower(), group_digits(getattr(found, name))
    if found.row_errors_expired:
        yield "row errors", "no longer kept"


def row_errors(target: Target, ingestion_id: UUID, outcome: str, limit: int, form: Format) -> int:
    """List the rows with an outcome: 'rejected', 'skipped' or 'kept', in row order."""
    value = ingestion_pb2.RowOutcome.Value(f"ROW_OUTCOME_{outcome.upper()}")
    request = pb.ListRowErrorsRequest(ingestion_id=str(ingestion_id), outcomes=[value])
    with _service(target) as service:
        found, more = list_pages(service.ListRowErrors, request, "row_errors", limit)
        if not found:
            known = pb.GetIngestionRequest(ingestion_id=str(ingestion_id))
            response = service.GetIngestion(known, timeout=CALL_TIMEOUT_SECONDS)
            if response.ingestion.row_errors_expired:
                note("The rows are no longer listed: the list has expired.")
    return print_list(row_errors_table(found), "row_errors", found, form, more=more)


def row_errors_table(errors: Iterable[ingestion_pb2.RowError]) -> Listing:
    """Return row errors as a table. A person sees a message only if it does not repeat what is
    expected; CSV has each."""
    table = Listing(("row", "right"), "column", "code", "found", "expected", "message")
    for each in errors:
        is_repeated = each.expected and each.expected in each.message
        table.add(
            str(each.row_number),
            each.column_header or each.column,
            enum_name(each.code, ingestion_pb2.RowErrorCode),
            each.found,
            each.expected,
            Figure("" if is_repeated else each.message, neutralised(each.message)),
        )
    return table
