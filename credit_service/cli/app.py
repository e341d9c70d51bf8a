"""The command line, `credit-service`.

This module declares the commands; other modules implement them. A command imports its module when
it runs, so that `--help` does not wait for grpc, pandas and SQLAlchemy.
"""

# ruff: noqa: PLC0415 - see above

import os
import sys
from collections.abc import Sequence
from datetime import date
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated, Literal
from uuid import UUID

from cyclopts import App, CycloptsError, Group, Parameter

from credit_service.cli.common import (
    DEFAULT_ERRORS_SHOWN,
    AsOf,
    CustomerId,
    DataDir,
    ExitCode,
    Json,
    Limit,
    LoanId,
    RequestId,
    Target,
    flag,
)

_EPILOGUE = """\
Exit codes: 0 success · 1 the service rejected the request or rows, or a check failed · \
2 invalid usage or settings · 3 the service, its database or its Redis is unavailable · \
130 interrupted

Settings come from the environment (CREDIT_…, DATABASE_URL, REDIS_URL). Without DATABASE_URL and \
REDIS_URL, `up` starts its own PostgreSQL and Valkey in the data folder. Set NO_COLOR to \
disable colours.
"""


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("credit-service")
    except PackageNotFoundError:
        return "not installed: running from a source folder"


app = App(
    name="credit-service",
    help="Run, use and operate a gRPC credit decision service.",
    help_format="plaintext",
    help_epilogue=_EPILOGUE,
    version=_version,
)


_RUN = Group("Run the service", sort_key=0)
_USE = Group("Use a running service", sort_key=1)
_TRY = Group("Try it out", sort_key=2)

_HERE = Target()
_REQUEST_ID_HELP = (
    "Request id. Repeat the command with the same id to retry safely. Default: a new one."
)


@app.command(group=_RUN)
def up(
    *,
    listen: Annotated[
        str | None, Parameter(help="Address to listen on. Port 0 selects a free port.")
    ] = None,
    processes: Annotated[
        int | None,
        Parameter(help="Number of server processes on that port. Default: one for each core."),
    ] = None,
    data_dir: DataDir = None,
    ready_file: Annotated[
        Path | None,
        Parameter(help="JSON file to write the addresses to once the service is ready."),
    ] = None,
    console: Annotated[
        bool,
        Parameter(
            help="Also run the QA console on CREDIT_CONSOLE_LISTEN.",
            name="--console",
            negative="--no-console",
        ),
    ] = True,
) -> int:
    """Run everything: databases (embedded if none are configured), migrations, server, worker and
    QA console.

    Ctrl-C or SIGTERM stops everything in order. A process that dies is reported and restarted.
    """
    from credit_service.cli import running

    settings = running.settings_with(listen=listen, processes=processes, data_dir=data_dir)
    return running.up(settings, ready_file=ready_file, console=console)


@app.command(group=_RUN)
def serve(
    *,
    listen: Annotated[
        str | None, Parameter(help="Address to listen on. Port 0 selects a free port.")
    ] = None,
    processes: Annotated[
        int | None,
        Parameter(help="Number of server processes on that port. Default: one for each core."),
    ] = None,
    data_dir: DataDir = None,
) -> int:
    """Run the gRPC server. Migrate the database first."""
    from credit_service.cli import running

    return running.serve(
        running.settings_with(listen=listen, processes=processes, data_dir=data_dir)
    )


@app.command(group=_RUN)
def worker(*, data_dir: DataDir = None) -> int:
    """Run a worker: it ingests uploaded files and does all background work."""
    from credit_service.cli import running

    return running.worker(running.settings_with(data_dir=data_dir))


@app.command(group=_RUN)
def migrate(
    *,
    distributed: Annotated[
        bool, flag("Distribute the tables over the nodes of a Citus cluster.")
    ] = False,
    data_dir: DataDir = None,
    json: Json = False,
) -> int:
    """Migrate the database to the latest schema. Safe to repeat and to run concurrently."""
    from credit_service.cli import running

    settings = running.settings_with(data_dir=data_dir)
    return running.migrate(settings, distributed=distributed, as_json=json)


@app.command(group=_USE)
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
    target: Target = _HERE,
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


@app.command(group=_USE)
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


@app.command(group=_USE)
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
    target: Target = _HERE,
    json: Json = False,
) -> int:
    """Save an uploaded file as a workbook with its rejected rows marked, to correct and resend.

    Never overwrites a file.
    """
    from credit_service.cli import ingest

    return ingest.annotated(ingestion_id, output, target, rejected_only=rejected_only, as_json=json)


@app.command(group=_USE)
def cancel_ingestion(
    ingestion_id: Annotated[UUID, Parameter(help="Id of a queued or running ingestion.")],
    /,
    *,
    request_id: Annotated[UUID | None, Parameter(help=_REQUEST_ID_HELP)] = None,
    target: Target = _HERE,
    json: Json = False,
) -> int:
    """End an ingestion before its last row. Its committed rows stay stored."""
    from credit_service.cli import undo

    return undo.cancel(ingestion_id, request_id, target, as_json=json)


@app.command(group=_USE)
def revert_ingestion(
    ingestion_id: Annotated[UUID, Parameter(help="Id of an ended ingestion.")],
    /,
    *,
    rows: Annotated[
        int, Parameter(help="Maximum number of kept rows to show, 0 to 1000.")
    ] = DEFAULT_ERRORS_SHOWN,
    request_id: Annotated[UUID | None, Parameter(help=_REQUEST_ID_HELP)] = None,
    target: Target = _HERE,
    json: Json = False,
) -> int:
    """Take an ingestion's rows back: remove those it inserted, restore those it updated.

    Waits for the end. Exits with 1 if rows stay because something depends on them.
    """
    from credit_service.cli import undo

    shown = min(max(rows, 0), 1000)
    return undo.revert(ingestion_id, request_id, shown, target, as_json=json)


@app.command(group=_USE)
def call(
    method: Annotated[
        str | None,
        Parameter(
            help="Method name, such as CheckEligibility. If omitted, all methods are listed."
        ),
    ] = None,
    request: Annotated[
        str,
        Parameter(
            help="Request as JSON; - reads standard input. For a client stream: several requests "
            "in a row, or a list.",
            allow_leading_hyphen=True,
        ),
    ] = "{}",
    /,
    *,
    first: Annotated[
        int | None, Parameter(help="Stop after this many responses of a stream. Default: all.")
    ] = None,
    timeout_seconds: Annotated[
        float | None,
        Parameter(name="--timeout", help="Timeout in seconds. Default: 15; none for streams."),
    ] = None,
    target: Target = _HERE,
    json: Json = False,
) -> int:
    """Call any method of the service with JSON, and print each response as JSON.

    credit-service call GetCreditScore '{"customer_id": 101}'

    With --json each response is one line.
    """
    from credit_service.cli import call

    if method is None:
        return call.list_methods(as_json=json)
    return call.call(
        method, request, target, first=first, timeout_seconds=timeout_seconds, as_json=json
    )


@app.command(group=_USE)
def customer(
    customer_id: Annotated[int | None, Parameter(help="Id of the customer.")] = None,
    /,
    *,
    phone: Annotated[
        str | None, Parameter(help="Phone number in any usual format, instead of an id.")
    ] = None,
    as_of: AsOf = None,
    target: Target = _HERE,
    json: Json = False,
) -> int:
    """Show a customer with limit, debt and available credit."""
    from credit_service.cli import show

    return show.customer(target, customer_id, phone, as_of, as_json=json)


@app.command(group=_USE)
def update_customer(
    customer_id: CustomerId,
    /,
    *,
    first_name: Annotated[str | None, Parameter(help="New first name.")] = None,
    last_name: Annotated[str | None, Parameter(help="New last name.")] = None,
    age: Annotated[int | None, Parameter(help="New age in years.")] = None,
    income: Annotated[str | None, Parameter(help="New monthly income in rupees.")] = None,
    phone: Annotated[str | None, Parameter(help="New phone number.")] = None,
    limit: Annotated[
        str | None,
        Parameter(
            help="New approved limit in rupees, which stays when the income changes; or `rule`, "
            "the limit that follows the income."
        ),
    ] = None,
    request_id: RequestId = None,
    target: Target = _HERE,
    json: Json = False,
) -> int:
    """Change facts of a customer: those that are given."""
    from credit_service.cli import show

    change = show.CustomerChange(
        customer_id, first_name, last_name, age, income, phone, limit, request_id
    )
    return show.update_customer(target, change, as_json=json)


@app.command(group=_USE)
def changes(
    customer_id: CustomerId, /, *, limit: Limit = 50, target: Target = _HERE, json: Json = False
) -> int:
    """List the changes of a customer's facts and loans, latest first."""
    from credit_service.cli import show

    return show.customer_changes(target, customer_id, _bounded(limit), as_json=json)


@app.command(group=_USE)
def score(
    customer_id: CustomerId,
    /,
    *,
    as_of: AsOf = None,
    target: Target = _HERE,
    json: Json = False,
) -> int:
    """Show a customer's credit score, component by component."""
    from credit_service.cli import show

    return show.score(target, customer_id, as_of, as_json=json)


@app.command(group=_USE, name="check")
def check_eligibility(
    customer_id: CustomerId,
    amount: Annotated[str, Parameter(help="Amount in rupees, such as 100000 or 1,00,000.50.")],
    rate: Annotated[str, Parameter(help="Interest rate in percent a year, such as 10.5.")],
    tenure_months: Annotated[int, Parameter(help="Number of monthly installments.")],
    /,
    *,
    lender_charges: Annotated[
        str | None, Parameter(help="Charges of the lender in rupees, with tax. Default: none.")
    ] = None,
    third_party_charges: Annotated[
        str | None, Parameter(help="Charges of third parties in rupees, with tax. Default: none.")
    ] = None,
    target: Target = _HERE,
    json: Json = False,
) -> int:
    """Check whether a loan would be approved, with reasons, a counter-offer, and its cost if there
    are charges. Stores nothing."""
    from credit_service.cli import show

    ask = show.Ask(customer_id, amount, rate, tenure_months, lender_charges, third_party_charges)
    return show.check(target, ask, as_json=json)


@app.command(group=_USE)
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
    target: Target = _HERE,
    json: Json = False,
) -> int:
    """Check the eligibility of each row of a file, and save it with the answers beside the rows.

    Books nothing. Never overwrites a file. Exits with 1 if a row has an error.
    """
    from credit_service.cli import check_file

    return check_file.check_file(file, output, target, as_json=json)


@app.command(group=_USE)
def loans(
    customer_id: CustomerId,
    /,
    *,
    limit: Limit = 50,
    target: Target = _HERE,
    json: Json = False,
) -> int:
    """List a customer's loans."""
    from credit_service.cli import show

    return show.loans(target, customer_id, _bounded(limit), as_json=json)


@app.command(group=_USE)
def overdue(
    *,
    asset_class: Annotated[
        Literal["SMA_0", "SMA_1", "SMA_2", "NPA"] | None,
        Parameter(name="--class", help="Only loans of customers of this asset class."),
    ] = None,
    days: Annotated[int, Parameter(help="Only loans with at least so many days past due.")] = 1,
    limit: Limit = 50,
    target: Target = _HERE,
    json: Json = False,
) -> int:
    """List the overdue loans of all customers, most days past due first."""
    from credit_service.cli import show

    return show.overdue(target, asset_class, days, _bounded(limit), as_json=json)


@app.command(group=_USE)
def arrears(
    customer_id: CustomerId,
    /,
    *,
    target: Target = _HERE,
    json: Json = False,
) -> int:
    """Show a customer's days past due, asset class and overdue loans."""
    from credit_service.cli import show

    return show.arrears(target, customer_id, as_json=json)


@app.command(group=_USE)
def offers(
    customer_id: CustomerId,
    /,
    *,
    limit: Limit = 50,
    target: Target = _HERE,
    json: Json = False,
) -> int:
    """List a customer's offers, latest first."""
    from credit_service.cli import show

    return show.offers(target, customer_id, _bounded(limit), as_json=json)


@app.command(group=_USE)
def loan(
    loan_id: LoanId,
    /,
    *,
    customer: Annotated[
        int | None,
        Parameter(help="Customer of the loan, if several customers have a loan with this id."),
    ] = None,
    target: Target = _HERE,
    json: Json = False,
) -> int:
    """Show a loan and its customer."""
    from credit_service.cli import show

    return show.loan(target, loan_id, customer, as_json=json)


@app.command(group=_USE)
def key_facts(
    offer_id: Annotated[int | None, Parameter(help="Id of an offer.")] = None,
    /,
    *,
    customer: Annotated[int | None, Parameter(help="Customer of a loan, with --loan.")] = None,
    loan: Annotated[int | None, Parameter(help="Id of the loan, with --customer.")] = None,
    target: Target = _HERE,
    json: Json = False,
) -> int:
    """Show the key facts statement of an offer or of a booked loan."""
    from credit_service.cli import show

    return show.key_facts(target, offer_id, customer, loan, as_json=json)


@app.command(group=_USE)
def schedule(
    customer_id: CustomerId,
    loan_id: LoanId,
    /,
    *,
    target: Target = _HERE,
    json: Json = False,
) -> int:
    """Show all installments of a loan: principal, interest, balance and state."""
    from credit_service.cli import show

    return show.schedule(target, customer_id, loan_id, as_json=json)


@app.command(group=_USE)
def pay(
    customer_id: CustomerId,
    loan_id: LoanId,
    amount: Annotated[str, Parameter(help="Amount in rupees, such as 4637.60.")],
    /,
    *,
    on: Annotated[date | None, Parameter(help="Date of the payment. Default: today.")] = None,
    request_id: RequestId = None,
    target: Target = _HERE,
    json: Json = False,
) -> int:
    """Record a payment on a loan."""
    from credit_service.cli import show

    payment = show.Payment(customer_id, loan_id, amount, on, request_id)
    return show.pay(target, payment, as_json=json)


@app.command(group=_USE)
def payments(
    customer_id: CustomerId,
    loan_id: LoanId,
    /,
    *,
    limit: Limit = 50,
    target: Target = _HERE,
    json: Json = False,
) -> int:
    """List a loan's payments as they were recorded, with their reversals."""
    from credit_service.cli import payments

    return payments.payments(target, customer_id, loan_id, _bounded(limit), as_json=json)


@app.command(group=_USE)
def reverse_payment(
    payment_id: Annotated[int, Parameter(help="Id of the payment.")],
    /,
    *,
    reason: Annotated[
        Literal["bounced", "duplicate", "wrong-loan", "entry-error"],
        Parameter(help="Why it is reversed."),
    ],
    request_id: RequestId = None,
    target: Target = _HERE,
    json: Json = False,
) -> int:
    """Reverse a payment: the loan becomes what it would be without it."""
    from credit_service.cli import payments

    return payments.reverse(target, payment_id, reason, request_id, as_json=json)


@app.command(group=_USE)
def prepay(
    customer_id: CustomerId,
    loan_id: LoanId,
    amount: Annotated[str, Parameter(help="Amount in rupees, such as 20000.")],
    /,
    *,
    effect: Annotated[
        Literal["tenure", "installment"],
        Parameter(help="What the prepayment reduces."),
    ] = "tenure",
    on: Annotated[date | None, Parameter(help="Date of the payment. Default: today.")] = None,
    dry_run: Annotated[bool, flag("Only show the new schedule; record nothing.")] = False,
    request_id: RequestId = None,
    target: Target = _HERE,
    json: Json = False,
) -> int:
    """Repay a part of the principal ahead of the schedule."""
    from credit_service.cli import payments

    prepayment = payments.Prepayment(customer_id, loan_id, amount, effect, on, dry_run, request_id)
    return payments.prepay(target, prepayment, as_json=json)


@app.command(group=_USE)
def foreclosure(
    customer_id: CustomerId,
    loan_id: LoanId,
    /,
    *,
    on: Annotated[date | None, Parameter(help="Day of the payment. Default: today.")] = None,
    pay: Annotated[bool, flag("Also record the payment, which closes the loan.")] = False,
    target: Target = _HERE,
    json: Json = False,
) -> int:
    """Show what closes a loan on a day; with --pay, also pay it."""
    from credit_service.cli import payments

    return payments.foreclosure(
        target, payments.Foreclosure(customer_id, loan_id, on, pay), as_json=json
    )


@app.command(group=_USE)
def decisions(
    *,
    customer: Annotated[
        int | None, Parameter(help="Only decisions about this customer. Default: all.")
    ] = None,
    limit: Limit = 20,
    target: Target = _HERE,
    json: Json = False,
) -> int:
    """List stored decisions, latest first."""
    from credit_service.cli import show

    return show.decisions(target, customer, _bounded(limit), as_json=json)


@app.command(group=_USE)
def decision(
    decision_id: Annotated[int, Parameter(help="Id of a stored decision.")],
    /,
    *,
    target: Target = _HERE,
    json: Json = False,
) -> int:
    """Show a stored decision with all its inputs."""
    from credit_service.cli import show

    return show.decision(target, decision_id, as_json=json)


EventType = Literal[
    "CUSTOMER_REGISTERED",
    "LOAN_CREATED",
    "LOAN_DECLINED",
    "PAYMENT_RECORDED",
    "LOAN_CLOSED",
    "SCORE_CHANGED",
    "ROWS_INGESTED",
    "SCORECARD_CHANGED",
    "ASSET_CLASS_CHANGED",
]


@app.command(group=_USE)
def events(
    *,
    after: Annotated[
        int, Parameter(help="Print only events after this event id. 0: all events kept.")
    ] = 0,
    customer: Annotated[
        int | None, Parameter(help="Only events about this customer. Default: all.")
    ] = None,
    type: Annotated[  # noqa: A002 - the name of the option
        tuple[EventType, ...],
        Parameter(help="Only events of this type. Can be given several times."),
    ] = (),
    follow: Annotated[
        bool,
        Parameter(help="Wait for new events until Ctrl-C, or end after the last stored event."),
    ] = True,
    target: Target = _HERE,
    json: Json = False,
) -> int:
    """Print events as they happen. Resumes after the last event if the connection is lost.

    With --json each event is one line.
    """
    from credit_service.cli import events

    options = events.EventOptions(after, customer, type, follow)
    return events.follow(target, options, as_json=json)


def _bounded(limit: int) -> int:
    return min(max(limit, 1), 100_000)


_OPERATE = Group("Operate the service", sort_key=3)
scorecard = App(
    name="scorecard",
    group=_OPERATE,
    help="Check, compare, activate, shadow, retire and list scorecards.",
)
app.command(scorecard)

ScorecardFile = Annotated[Path, Parameter(help="Scorecard as a JSON file.")]
OptionalScorecardFile = Annotated[Path | None, Parameter(help="Scorecard as a JSON file.")]
StoredVersion = Annotated[
    str | None, Parameter(help="Version of a stored scorecard, instead of a file.")
]
UnusedDataDir = Annotated[
    Path | None, Parameter(name="--data-dir", help="Not used: the command calls the service.")
]


@scorecard.command
def check(file: ScorecardFile, /) -> int:
    """Check whether a file is a valid scorecard, and list its errors."""
    from credit_service.cli import scorecards

    return scorecards.check(file)


@scorecard.command
def activate(
    file: OptionalScorecardFile = None,
    /,
    *,
    stored: StoredVersion = None,
    on: Annotated[
        date | None, Parameter(help="First day on which it decides. Default: now.")
    ] = None,
    data_dir: UnusedDataDir = None,  # noqa: ARG001 - accepted as by earlier releases
    target: Target = _HERE,
) -> int:
    """Store this scorecard and use it for all decisions from now on, or from a coming day on.

    The workers recompute every score. To roll back, activate the former one: --stored VERSION.
    """
    from credit_service.cli import scorecards

    return scorecards.activate(target, file, stored, on)


@scorecard.command
def shadow(
    file: OptionalScorecardFile = None,
    /,
    *,
    stored: StoredVersion = None,
    data_dir: UnusedDataDir = None,  # noqa: ARG001 - accepted as by earlier releases
    target: Target = _HERE,
) -> int:
    """Also evaluate this scorecard for every decision, without effect on the result.

    Without a file and --stored, shadow mode ends.
    """
    from credit_service.cli import scorecards

    return scorecards.shadow(target, file, stored)


@scorecard.command(name="list")
def list_scorecards(
    *,
    data_dir: UnusedDataDir = None,  # noqa: ARG001 - accepted as by earlier releases
    target: Target = _HERE,
    json: Json = False,
) -> int:
    """List the stored scorecards."""
    from credit_service.cli import scorecards

    return scorecards.listing(target, as_json=json)


@scorecard.command
def show(
    version: Annotated[
        str, Parameter(help="Version of a stored scorecard. Default: the active one.")
    ] = "",
    /,
    *,
    target: Target = _HERE,
    json: Json = False,
) -> int:
    """Show a stored scorecard with its history: who changed its state, and when."""
    from credit_service.cli import scorecards

    return scorecards.show(target, version, as_json=json)


@scorecard.command
def compare(
    file: OptionalScorecardFile = None,
    /,
    *,
    stored: StoredVersion = None,
    to: Annotated[str, Parameter(help="Version to compare it with. Default: the active one.")] = "",
    target: Target = _HERE,
    json: Json = False,
) -> int:
    """Show the fields in which a scorecard differs from a stored one."""
    from credit_service.cli import scorecards

    return scorecards.compare(target, file, stored, to, as_json=json)


@scorecard.command
def retire(
    version: Annotated[str, Parameter(help="Version of a stored scorecard.")],
    /,
    *,
    target: Target = _HERE,
) -> int:
    """Retire a scorecard that is not in use: it cannot be used again."""
    from credit_service.cli import scorecards

    return scorecards.retire(target, version)


@scorecard.command
def trial(
    version: Annotated[
        str, Parameter(help="Version that is or was in shadow mode. Default: the current one.")
    ] = "",
    /,
    *,
    target: Target = _HERE,
    json: Json = False,
) -> int:
    """Show what a scorecard in shadow mode decided beside the real decisions."""
    from credit_service.cli import backtests

    return backtests.trial(target, version, as_json=json)


@app.command(group=_OPERATE)
def backtest(
    file: OptionalScorecardFile = None,
    /,
    *,
    stored: StoredVersion = None,
    amount: Annotated[
        str | None,
        Parameter(help="Amount of a loan, in rupees, to decide on for every customer."),
    ] = None,
    rate: Annotated[str | None, Parameter(help="Rate of that loan, in percent a year.")] = None,
    tenure: Annotated[int | None, Parameter(help="Monthly installments of that loan.")] = None,
    data_dir: UnusedDataDir = None,  # noqa: ARG001 - accepted as by earlier releases
    target: Target = _HERE,
    json: Json = False,
) -> int:
    """Recompute the stored decisions and all scores with another scorecard. Changes nothing."""
    from credit_service.cli import backtests

    return backtests.run_backtest(target, file, stored, (amount, rate, tenure), as_json=json)


@app.command(group=_OPERATE)
def replay(
    decision_id: Annotated[int, Parameter(help="Id of a stored decision.")],
    /,
    *,
    data_dir: DataDir = None,
    json: Json = False,
) -> int:
    """Recompute a stored decision from its stored inputs. Exits with 1 if any byte differs."""
    from credit_service.cli import replay, running

    return replay.replay(running.operator_settings(data_dir), decision_id, as_json=json)


@app.command(group=_OPERATE, name="doctor")
def examine(*, data_dir: DataDir = None, target: Target = _HERE, json: Json = False) -> int:
    """Check the machine, the service and its dependencies, and show how to fix each failure.

    Exits with 1 if a check fails.
    """
    from credit_service.cli import doctor

    return doctor.run(target, data_dir, as_json=json)


app.command(
    "credit_service.cli.tokens:app",
    name="token",
    group=_OPERATE,
    help="Create tokens and signing keys for development.",
)


@app.command(group=_OPERATE)
def completion(
    shell: Annotated[Literal["bash", "zsh"], Parameter(help="Shell to generate the script for.")], /
) -> int:
    """Print a shell script that completes commands and options.

    bash: credit-service completion bash > ~/.local/share/bash-completion/completions/credit-service

    zsh: credit-service completion zsh > "${fpath[1]}/_credit-service"
    """
    sys.stdout.write(app.generate_completion(prog_name="credit-service", shell=shell))
    return ExitCode.GOOD


@app.command(group=_TRY)
def sample_data(
    directory: Annotated[Path, Parameter(help="Folder for the two workbooks.")],
    /,
    *,
    customers: Annotated[int, Parameter(help="Number of rows in customer_data.xlsx.")] = 300,
    loans: Annotated[int, Parameter(help="Number of rows in loan_data.xlsx.")] = 782,
    seed: Annotated[int, Parameter(help="Seed for the random rows.")] = 1,
    json: Json = False,
) -> int:
    """Write customer_data.xlsx and loan_data.xlsx with made-up rows in the public layout.

    Customer 101 has a good history, 102 a poor history, 103 owes more than the limit, 104 and 105
    are in between, 106 has no history.
    """
    from credit_service.cli import sample_data

    return sample_data.write(directory, customers, loans, seed, as_json=json)


@app.command(group=_TRY)
def demo(
    *,
    keep: Annotated[
        bool,
        flag("Keep everything running until Ctrl-C, to try more calls."),
    ] = False,
) -> int:
    """Run a demo on a temporary stack. Prints each call and checks each response."""
    from credit_service.cli import demo

    return demo.run(keep=keep)


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code. Print each expected failure as one line."""
    try:
        result = app(
            list(arguments), result_action="return_value", exit_on_error=False, print_error=True
        )
    except CycloptsError:
        return ExitCode.USAGE
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    except Exception as error:  # noqa: BLE001 - reported, or raised again
        from credit_service.cli import failures

        return failures.report(error)
    return result if isinstance(result, int) else ExitCode.GOOD


_RUNS_SERVERS = frozenset({"up", "serve", "worker", "demo"})


def main() -> None:
    """Entry point of the console script."""
    for stream in (sys.stdout, sys.stderr):
        # A terminal without ₹ shows a question mark instead of failing the command.
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")
    if not _RUNS_SERVERS.intersection(sys.argv[1:2]):
        # gRPC logs a line for each connection attempt, which would hide the command's output.
        os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    sys.exit(run(sys.argv[1:]))
