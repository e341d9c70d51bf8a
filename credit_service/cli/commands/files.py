"""Commands that send files and save them."""

# ruff: noqa: PLC0415 - a command imports its implementation when it runs

from pathlib import Path
from typing import Annotated, Literal
from uuid import UUID

from cyclopts import Parameter

from credit_service.cli.commands.root import HERE, REQUEST_ID_HELP, TEXT, bounded
from credit_service.cli.common import DEFAULT_ERRORS_SHOWN, Format, Json, Limit, Target, flag


def ingest(
    file: Annotated[Path, Parameter(help="An .xlsx workbook or a .csv file.")],
    /,
    *,
    kind: Annotated[
        Literal["customers", "loans"] | None,
        Parameter(help="Kind of rows. Default: detected from the header."),
    ] = None,
    upload: Annotated[
        bool,
        flag("Upload the file for a worker to read, instead of streaming its rows."),
    ] = False,
    update: Annotated[
        bool, flag("Replace rows that are already stored. Default: keep them.")
    ] = False,
    dry_run: Annotated[bool, flag("Validate and report only; store nothing.")] = False,
    date_order: Annotated[
        Literal["dmy", "mdy", "ymd"] | None,
        Parameter(
            help="Order of day, month and year in dates such as 03-04-2024. Default: the only "
            "order that fits all dates of the column."
        ),
    ] = None,
    errors: Annotated[
        int, Parameter(help="Maximum number of row errors to show, 0 to 1000.")
    ] = DEFAULT_ERRORS_SHOWN,
    ingestion_id: Annotated[
        UUID | None,
        Parameter(help="Id of an interrupted ingestion to resume. Default: a new ingestion."),
    ] = None,
    target: Target = HERE,
    json: Json = False,
) -> int:
    """Send the rows of a file to the service. Resumes automatically after a lost connection.

    Exits with 1 if a row is rejected. After Ctrl-C, or if the connection stays lost, prints the
    command that resumes the ingestion.
    """
    from credit_service.cli import ingest

    options = ingest.Options(
        path=file,
        kind=kind,
        upload=upload,
        update=update,
        dry_run=dry_run,
        errors_shown=min(max(errors, 0), 1000),
        ingestion_id=ingestion_id,
        date_order=ingest.DATE_ORDERS[date_order],
    )
    return ingest.ingest(options, target, as_json=json)


def template(
    kind: Annotated[Literal["customers", "loans", "asks"], Parameter(help="Kind of rows.")],
    /,
    *,
    csv: Annotated[bool, flag("Save a .csv file with the header instead of a workbook.")] = False,
    output: Annotated[
        Path | None,
        Parameter(
            name=("--output", "-o"),
            help="File to save. Default: KIND-template.xlsx or .csv in the current folder.",
        ),
    ] = None,
    json: Json = False,
) -> int:
    """Save an empty file with the headers of customers, loans or asks, to fill in.

    A second sheet describes each column. Never overwrites a file. Needs no running service.
    """
    from credit_service.cli import ingest

    return ingest.save_template(kind, output, as_csv=csv, as_json=json)


def annotated(
    ingestion_id: Annotated[UUID, Parameter(help="Ingestion id of an uploaded file.")],
    /,
    *,
    output: Annotated[
        Path | None,
        Parameter(
            name=("--output", "-o"),
            help="File to save. Default: the file name from the service, in the current folder.",
        ),
    ] = None,
    rejected_only: Annotated[
        bool, flag("Save only the rejected rows, with their header and reasons.")
    ] = False,
    target: Target = HERE,
    json: Json = False,
) -> int:
    """Save an uploaded file as a workbook with its rejected rows marked, to correct and resend.

    Never overwrites a file.
    """
    from credit_service.cli import ingest

    return ingest.annotated(ingestion_id, output, target, rejected_only=rejected_only, as_json=json)


def ingestions(*, limit: Limit = 20, target: Target = HERE, form: Format = TEXT) -> int:
    """List ingestions, latest first."""
    from credit_service.cli import ingestions

    return ingestions.ingestions(target, bounded(limit), form)


def ingestion(
    ingestion_id: Annotated[UUID, Parameter(help="Id of the ingestion.")],
    /,
    *,
    target: Target = HERE,
    form: Format = TEXT,
) -> int:
    """Show an ingestion: its state, its counts and the parts of the file that were not read."""
    from credit_service.cli import ingestions

    return ingestions.ingestion(target, ingestion_id, form)


def row_errors(
    ingestion_id: Annotated[UUID, Parameter(help="Id of the ingestion.")],
    /,
    *,
    outcome: Annotated[
        Literal["rejected", "skipped", "kept"],
        Parameter(
            help="Rows to list: rejected; skipped, because a row is already stored; or kept, "
            "when the ingestion was reverted."
        ),
    ] = "rejected",
    limit: Limit = 50,
    target: Target = HERE,
    form: Format = TEXT,
) -> int:
    """List the rows of an ingestion that were rejected, skipped or kept, with the reasons."""
    from credit_service.cli import ingestions

    return ingestions.row_errors(target, ingestion_id, outcome, bounded(limit), form)


def cancel_ingestion(
    ingestion_id: Annotated[UUID, Parameter(help="Id of a queued or running ingestion.")],
    /,
    *,
    request_id: Annotated[UUID | None, Parameter(help=REQUEST_ID_HELP)] = None,
    target: Target = HERE,
    form: Format = TEXT,
) -> int:
    """End an ingestion before its last row. Its committed rows stay stored."""
    from credit_service.cli import undo

    return undo.cancel(ingestion_id, request_id, target, form)


def revert_ingestion(
    ingestion_id: Annotated[UUID, Parameter(help="Id of an ended ingestion.")],
    /,
    *,
    rows: Annotated[
        int, Parameter(help="Maximum number of kept rows to show, 0 to 1000.")
    ] = DEFAULT_ERRORS_SHOWN,
    request_id: Annotated[UUID | None, Parameter(help=REQUEST_ID_HELP)] = None,
    target: Target = HERE,
    form: Format = TEXT,
) -> int:
    """Take an ingestion's rows back: remove those it inserted, restore those it updated.

    Waits for the end. Exits with 1 if rows stay because something depends on them.
    """
    from credit_service.cli import undo

    shown = min(max(rows, 0), 1000)
    return undo.revert(ingestion_id, request_id, shown, target, form)


def check_file(
    file: Annotated[
        Path,
        Parameter(
            help="An .xlsx workbook or a .csv file with the columns Customer ID, Loan Amount, "
            "Interest Rate and Tenure; optional: Lender Charges, Third Party Charges."
        ),
    ],
    /,
    *,
    output: Annotated[
        Path | None,
        Parameter(
            name=("--output", "-o"),
            help="File to save. Default: NAME-answers.xlsx or .csv in the current folder.",
        ),
    ] = None,
    target: Target = HERE,
    json: Json = False,
) -> int:
    """Check the eligibility of each row of a file, and save it with the answers beside the rows.

    Books nothing. Never overwrites a file. Exits with 1 if a row has an error.
    """
    from credit_service.cli import check_file

    return check_file.check_file(file, output, target, as_json=json)
