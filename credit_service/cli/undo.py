"""`cancel-ingestion` and `revert-ingestion`."""

from uuid import UUID, uuid4

from rich.text import Text

from credit_service.cli.common import ExitCode, Format, Target
from credit_service.cli.connection import connected
from credit_service.cli.output import Listing, out, print_data
from credit_service.client.display import enum_name
from credit_service.rupees import group_digits
from credit_service.v1 import ingestion_pb2
from credit_service.v1 import ingestion_service_pb2 as pb
from credit_service_client.ingestion import IngestionClient


def cancel(ingestion_id: UUID, request_id: UUID | None, target: Target, form: Format) -> int:
    """Cancel an ingestion, print it, and return the exit code. Raises ServiceError."""
    with connected(target) as channel:
        ingestion = IngestionClient(channel).cancel(ingestion_id, request_id or uuid4())
    if print_data(form, pb.CancelIngestionResponse(ingestion=ingestion)):
        return ExitCode.GOOD
    rows = ingestion.inserted + ingestion.updated
    out.print(Text(f"{_state(ingestion)}  {group_digits(rows)} rows stay stored"), soft_wrap=True)
    if rows and not ingestion.validate_only:
        out.print("To take them back: credit-service revert-ingestion", ingestion.ingestion_id)
    return ExitCode.GOOD


def revert(
    ingestion_id: UUID, request_id: UUID | None, rows_shown: int, target: Target, form: Format
) -> int:
    """Revert an ingestion, wait for the end, print the counts and the rows that stay, and return
    the exit code. Raises ServiceError."""
    with connected(target) as channel:
        client = IngestionClient(channel)
        ingestion = client.revert(ingestion_id, request_id or uuid4())
        if ingestion.state == ingestion_pb2.INGESTION_STATE_REVERTING:
            ingestion = client.follow(ingestion_id)
        kept: list[ingestion_pb2.RowError] = []
        if ingestion.rows_kept and rows_shown:
            kept = client.row_errors(ingestion_id, rows_shown, ingestion_pb2.ROW_OUTCOME_KEPT)
    response = pb.RevertIngestionResponse(ingestion=ingestion, kept_rows=kept)
    if not print_data(form, response, _kept_rows(kept)):
        _show(ingestion, kept)
    return ExitCode.REFUSED if ingestion.rows_kept else ExitCode.GOOD


def _show(ingestion: ingestion_pb2.Ingestion, kept: list[ingestion_pb2.RowError]) -> None:
    counts = (
        f"removed {group_digits(ingestion.rows_removed)}   "
        f"restored {group_digits(ingestion.rows_restored)}   "
        f"kept {group_digits(ingestion.rows_kept)}"
    )
    out.print(Text(_state(ingestion)), soft_wrap=True)
    out.print(f"  {counts}", soft_wrap=True)
    if ingestion.row_errors_expired:
        out.print("  The kept rows are not listed: the list has expired.", soft_wrap=True)
    if not kept:
        return
    out.print()
    _kept_rows(kept).print()
    more = ingestion.rows_kept - len(kept)
    if more > 0:
        out.print(
            f"… and {group_digits(more)} more kept rows: --rows shows up to 1000, the RPC "
            f"ListRowErrors shows all (ingestion {ingestion.ingestion_id}).",
            soft_wrap=True,
        )


def _kept_rows(kept: list[ingestion_pb2.RowError]) -> Listing:
    table = Listing("row", "kept", "code", "why")
    for each in kept:
        code = enum_name(each.code, ingestion_pb2.RowErrorCode)
        table.add(str(each.row_number), each.found, code, each.message)
    return table


def _state(ingestion: ingestion_pb2.Ingestion) -> str:
    return enum_name(ingestion.state, ingestion_pb2.IngestionState)
