"""`personal-data`: export and erase what the database holds of a customer. Uses it directly."""

# ruff: noqa: PLC0415 - `--help` of all commands imports this module without the database

import getpass
import os
import sys
from collections.abc import Iterable
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TextIO

from cyclopts import App, Parameter

from credit_service.cli.common import CustomerId, DataDir, ExitCode, Json, flag
from credit_service.cli.output import note, out, print_failure, print_json

if TYPE_CHECKING:
    from credit_service.commands.erase_customer import Erasure

personal_data = App(name="personal-data", help="Export and erase the personal data of a customer.")


@personal_data.command
def export(
    customer_id: CustomerId,
    /,
    *,
    output: Annotated[
        Path | None,
        Parameter(help="New file, readable by its owner only. Default: standard output."),
    ] = None,
    data_dir: DataDir = None,
) -> int:
    """Write all rows about a customer as one JSON document, table by table."""
    from credit_service.cli import running
    from credit_service.cli.operator_database import operator_database
    from credit_service.queries import personal_data

    settings = running.operator_settings(data_dir)
    with operator_database(settings) as database:
        parts = personal_data.export(database, customer_id, settings.clock.moment())
        with closing(parts):
            first = next(parts)
            if output is None:
                _write(sys.stdout, first, parts)
                return ExitCode.GOOD
            descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                _write(file, first, parts)
    note(f"Wrote {output}.")
    return ExitCode.GOOD


def _write(file: TextIO, first: str, parts: Iterable[str]) -> None:
    file.write(first)
    for part in parts:
        file.write(part)


@personal_data.command
def erase(
    customer_id: CustomerId,
    /,
    *,
    yes: Annotated[
        bool, flag("Erase. Default: only show what would be erased and what is kept.")
    ] = False,
    operator: Annotated[
        str | None,
        Parameter(help="Who erases, for the record of the change. Default: the user's name."),
    ] = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> int:
    """Erase a customer's names and phone numbers, and what quotes them. It cannot be undone.

    Loans, payments and decisions keep their figures. Exits with 1, without an effect, while the
    customer has open loans, debts, offers or reviews.
    """
    from credit_service.cli import running
    from credit_service.cli.operator_database import operator_database
    from credit_service.commands.erase_customer import erase_customer

    settings = running.operator_settings(data_dir)
    principal = f"operator:{operator or getpass.getuser()}"
    with operator_database(settings) as database:
        erasure = erase_customer(
            database, customer_id, settings.clock.moment(), principal, dry_run=not yes
        )
    reasons = list(_reasons(erasure))
    if json:
        print_json(_document(customer_id, erasure))
    elif reasons:
        print_failure([f"nothing of customer {customer_id} was erased:", *reasons])
    else:
        _show(customer_id, erasure, settings.source_retention_days)
    return ExitCode.REFUSED if reasons else ExitCode.GOOD


def _reasons(erasure: "Erasure") -> Iterable[str]:
    """Yield why nothing was erased."""
    from credit_service.rupees import format_inr

    found = erasure.obligations
    for what, ids in (
        ("loans that are not repaid", found.loan_ids),
        ("offers that hold credit", found.offer_ids),
        ("decisions that wait for a review", found.referral_ids),
        ("ingestions that have not ended", erasure.unfinished),
    ):
        if ids:
            yield f"  {what}: {', '.join(map(str, ids))}"
    if found.debt_paise:
        yield f"  debt: {format_inr(found.debt_paise)}"


def _show(customer_id: int, erasure: "Erasure", source_days: float) -> None:
    done = erasure.is_done
    verb = "Erased" if done else "Would erase"
    out.print(f"{verb} the names and phone numbers of customer {customer_id}.", soft_wrap=True)
    if erasure.was_erased_before:
        out.print("They were erased before; what came in since is included.", soft_wrap=True)
    if erasure.sources:
        deleted = "Deleted" if done else "Would delete"
        named = ", ".join(map(str, erasure.sources))
        out.print(f"{deleted} the uploaded files and row errors of {named}.", soft_wrap=True)
    kept = erasure.kept
    last = f", the last of them closed on {kept.last_closed_on}" if kept.last_closed_on else ""
    out.print(
        f"Kept with their figures: {kept.loans} loans{last}, {kept.payments} payments, "
        f"{kept.decisions} decisions. Check that the law lets you erase the name so soon after the "
        "last loan.",
        soft_wrap=True,
    )
    if erasure.remaining_uploads:
        out.print(
            f"{erasure.remaining_uploads} other uploaded files may name the person: they are "
            f"deleted {source_days:g} days after the end of their ingestion.",
            soft_wrap=True,
        )
    if not done:
        out.print("Nothing was changed. To erase, repeat the command with --yes.", soft_wrap=True)


def _document(customer_id: int, erasure: "Erasure") -> dict[str, object]:
    kept = erasure.kept._asdict()
    last_closed = kept.pop("last_closed_on")
    fields = asdict(erasure) | {
        "obligations": erasure.obligations._asdict(),
        "kept": kept | {"last_closed_on": last_closed and last_closed.isoformat()},
        "unfinished": [str(each) for each in erasure.unfinished],
        "sources": [str(each) for each in erasure.sources],
        "last_upload_ended_at": erasure.last_upload_ended_at
        and erasure.last_upload_ended_at.isoformat(),
    }
    return {"customer_id": customer_id, "is_allowed": erasure.is_allowed, **fields}
