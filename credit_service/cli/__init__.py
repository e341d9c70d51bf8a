"""The command line, `credit-service`.

Commands are declared here and carried out in modules of their own, which are imported when a
command runs: help must not wait for grpc, pandas and SQLAlchemy.
"""

# ruff: noqa: PLC0415 - see above

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date
from enum import IntEnum
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated, Literal
from uuid import UUID

from cyclopts import App, CycloptsError, Group, Parameter


class ExitCode(IntEnum):
    """What a command's end says."""

    GOOD = 0
    REFUSED = 1
    USAGE = 2
    UNAVAILABLE = 3
    INTERRUPTED = 130


class UsageError(Exception):
    """The command was asked for what cannot be. The message says what can."""


_EPILOGUE = """\
Exit codes: 0 done · 1 refused, rows were rejected, or something is bad · 2 wrong usage or \
settings · \
3 the service, or what it stands on, is out of reach · 130 interrupted

Settings come from the environment (CREDIT_…, DATABASE_URL, REDIS_URL). With no DATABASE_URL and \
no REDIS_URL, PostgreSQL and Valkey are started from their wheels. NO_COLOR turns colours off.
"""


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("credit-service")
    except PackageNotFoundError:
        return "not installed: running from a source folder"


app = App(
    name="credit-service",
    help="A gRPC credit decision service: run it, feed it, try it out.",
    help_format="plaintext",
    help_epilogue=_EPILOGUE,
    version=_version,
)


def _flag(explanation: str) -> Parameter:
    """A switch that is off unless named, with no opposite of its own."""
    return Parameter(help=explanation, negative="", show_default=False)


_RUN = Group("Run the service", sort_key=0)
_USE = Group("Use a running service", sort_key=1)
_TRY = Group("Try it out", sort_key=2)

Json = Annotated[bool, _flag("Print the result as JSON, for programs to read.")]
DEFAULT_ADDRESS = "127.0.0.1:50051"
_CONNECTION = Group("Connection", sort_key=9)


@Parameter(name="*")
@dataclass(frozen=True, slots=True)
class Target:
    """Which service to call, and as whom."""

    address: Annotated[
        str,
        Parameter(
            env_var="CREDIT_ADDRESS", help="Where the service is, as host:port.", group=_CONNECTION
        ),
    ] = DEFAULT_ADDRESS
    token: Annotated[
        str | None,
        Parameter(
            env_var="CREDIT_TOKEN",
            help="Bearer token to call with. Other users of the machine see arguments: better set "
            "CREDIT_TOKEN, or CREDIT_TOKEN_FILE to the name of a file that holds it.",
            group=_CONNECTION,
        ),
    ] = field(default=None, repr=False)


_HERE = Target()
CustomerId = Annotated[int, Parameter(help="Id of the customer.")]
LoanId = Annotated[int, Parameter(help="Id of the loan.")]
Limit = Annotated[int, Parameter(help="How many to show at most, 1 to 100000.")]


@app.command(group=_RUN)
def up(
    *,
    listen: Annotated[
        str | None, Parameter(help="Address to serve on; port 0 takes a free one.")
    ] = None,
    processes: Annotated[int | None, Parameter(help="Server processes on that port.")] = None,
    data_dir: Annotated[
        Path | None, Parameter(help="Data folder of the embedded PostgreSQL and Valkey.")
    ] = None,
    ready_file: Annotated[
        Path | None,
        Parameter(help="File to write the address to, once calls are answered."),
    ] = None,
    console: Annotated[
        bool,
        Parameter(
            help="Run the QA console too, at CREDIT_CONSOLE_LISTEN.",
            name="--console",
            negative="--no-console",
        ),
    ] = True,
) -> int:
    """Run everything: embedded servers where none is configured, migrations, server, worker and
    QA console.

    Ctrl-C or SIGTERM stops all of it in order. What dies is started again, and said.
    """
    from credit_service.cli import running

    settings = running.settings_with(listen=listen, processes=processes, data_dir=data_dir)
    return running.up(settings, ready_file=ready_file, console=console)


@app.command(group=_RUN)
def serve(
    *,
    listen: Annotated[
        str | None, Parameter(help="Address to serve on; port 0 takes a free one.")
    ] = None,
    processes: Annotated[int | None, Parameter(help="Server processes on that port.")] = None,
) -> int:
    """Run the gRPC server. The database must be migrated."""
    from credit_service.cli import running

    return running.serve(running.settings_with(listen=listen, processes=processes))


@app.command(group=_RUN)
def worker() -> int:
    """Run a worker, which ingests uploaded workbooks and does what no call waits for."""
    from credit_service.cli import running

    return running.worker(running.settings_with())


@app.command(group=_RUN)
def migrate(*, json: Json = False) -> int:
    """Bring the database to the newest schema. Safe to run twice, and at once."""
    from credit_service.cli import running

    return running.migrate(running.settings_with(), as_json=json)


@app.command(group=_USE)
def ingest(
    file: Annotated[Path, Parameter(help="An .xlsx workbook or a .csv file.")],
    /,
    *,
    kind: Annotated[
        Literal["customers", "loans"] | None,
        Parameter(help="What the rows are. Told from the header where not given."),
    ] = None,
    upload: Annotated[
        bool,
        _flag("Send the file to the workers instead of streaming its rows."),
    ] = False,
    update: Annotated[bool, _flag("Replace rows that are stored already; else keep them.")] = False,
    dry_run: Annotated[bool, _flag("Report what would be done, and store nothing.")] = False,
    date_order: Annotated[
        Literal["dmy", "mdy", "ymd"] | None,
        Parameter(
            help="Order of day, month and year in dates such as 03-04-2024. Default: the one that "
            "all dates of a column allow."
        ),
    ] = None,
    errors: Annotated[int, Parameter(help="Row errors to show, 0 to 1000.")] = 20,
    ingestion_id: Annotated[
        UUID | None,
        Parameter(help="Go on with an ingestion that was broken off. Default: a new one."),
    ] = None,
    target: Target = _HERE,
    json: Json = False,
) -> int:
    """Send the rows of a file to the service. A broken connection is resumed where it broke.

    Exits with 1 when a row was rejected.
    """
    from credit_service.cli import ingesting

    order = ingesting.Order(
        path=file,
        kind=kind,
        upload=upload,
        update=update,
        dry_run=dry_run,
        errors_shown=min(max(errors, 0), 1000),
        ingestion_id=ingestion_id,
        date_order=ingesting.DATE_ORDERS[date_order],
    )
    return ingesting.ingest(order, target, as_json=json)


@app.command(group=_USE)
def annotated(
    ingestion_id: Annotated[UUID, Parameter(help="Id of the ingestion of an uploaded file.")],
    /,
    *,
    output: Annotated[
        Path | None,
        Parameter(
            name=("--output", "-o"),
            help="File to save it as. Default: the service's name for it, in this folder.",
        ),
    ] = None,
    target: Target = _HERE,
    json: Json = False,
) -> int:
    """Save an uploaded file as a workbook with its rejected rows marked, to correct and send again.

    Never writes over a file.
    """
    from credit_service.cli import ingesting

    return ingesting.annotated(ingestion_id, output, target, as_json=json)


@app.command(group=_USE)
def call(
    method: Annotated[
        str | None,
        Parameter(help="CheckEligibility, or in full. None lists the methods there are."),
    ] = None,
    request: Annotated[
        str,
        Parameter(
            help="The request as JSON, - for standard input. Of a client's stream several, in a "
            "row or as a list.",
            allow_leading_hyphen=True,
        ),
    ] = "{}",
    /,
    *,
    first: Annotated[
        int | None, Parameter(help="End a stream of answers after so many. Default: at its end.")
    ] = None,
    timeout_seconds: Annotated[
        float | None,
        Parameter(
            name="--timeout", help="Seconds the call may last. Default: 15, for streams no end."
        ),
    ] = None,
    target: Target = _HERE,
    json: Json = False,
) -> int:
    """Call any method of the service with JSON, and print each answer as JSON.

    credit-service call GetCreditScore '{"customer_id": 101}'

    With --json each answer is one line.
    """
    from credit_service.cli import calling

    if method is None:
        return calling.list_methods(as_json=json)
    return calling.call(
        method, request, target, first=first, timeout_seconds=timeout_seconds, as_json=json
    )


@app.command(group=_USE)
def customer(
    customer_id: Annotated[int | None, Parameter(help="Id of the customer.")] = None,
    /,
    *,
    phone: Annotated[
        str | None, Parameter(help="Phone number in any usual form, instead of an id.")
    ] = None,
    target: Target = _HERE,
    json: Json = False,
) -> int:
    """Show a customer with limit, debt and what is available."""
    from credit_service.cli import viewing

    return viewing.customer(target, customer_id, phone, as_json=json)


@app.command(group=_USE)
def score(customer_id: CustomerId, /, *, target: Target = _HERE, json: Json = False) -> int:
    """Show a customer's credit score, component by component."""
    from credit_service.cli import viewing

    return viewing.score(target, customer_id, as_json=json)


@app.command(group=_USE, name="check")
def check_eligibility(
    customer_id: CustomerId,
    amount: Annotated[str, Parameter(help="Rupees, as 100000 or 1,00,000.50.")],
    rate: Annotated[str, Parameter(help="Percent a year, as 10.5.")],
    tenure_months: Annotated[int, Parameter(help="Number of monthly installments.")],
    /,
    *,
    target: Target = _HERE,
    json: Json = False,
) -> int:
    """Say whether a loan would be approved, why not, and what would be. Books nothing."""
    from credit_service.cli import viewing

    return viewing.check(target, customer_id, amount, rate, tenure_months, as_json=json)


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
    from credit_service.cli import viewing

    return viewing.loans(target, customer_id, _bounded(limit), as_json=json)


@app.command(group=_USE)
def loan(
    loan_id: LoanId,
    /,
    *,
    customer: Annotated[
        int | None, Parameter(help="Customer of the loan, where several have one of that id.")
    ] = None,
    target: Target = _HERE,
    json: Json = False,
) -> int:
    """Show a loan and its customer."""
    from credit_service.cli import viewing

    return viewing.loan(target, loan_id, customer, as_json=json)


@app.command(group=_USE)
def schedule(
    customer_id: CustomerId,
    loan_id: LoanId,
    /,
    *,
    target: Target = _HERE,
    json: Json = False,
) -> int:
    """Show all installments of a loan: principal, interest, balance, and how each stands."""
    from credit_service.cli import viewing

    return viewing.schedule(target, customer_id, loan_id, as_json=json)


@app.command(group=_USE)
def pay(
    customer_id: CustomerId,
    loan_id: LoanId,
    amount: Annotated[str, Parameter(help="Rupees, as 4637.60.")],
    /,
    *,
    on: Annotated[date | None, Parameter(help="Day it was paid. Default: today.")] = None,
    request_id: Annotated[
        UUID | None,
        Parameter(help="Makes the payment safe to repeat. Default: a new one."),
    ] = None,
    target: Target = _HERE,
    json: Json = False,
) -> int:
    """Record a payment towards a loan."""
    from credit_service.cli import viewing

    payment = viewing.Payment(customer_id, loan_id, amount, on, request_id)
    return viewing.pay(target, payment, as_json=json)


@app.command(group=_USE)
def decisions(
    *,
    customer: Annotated[
        int | None, Parameter(help="Only those about this customer. Default: all.")
    ] = None,
    limit: Limit = 20,
    target: Target = _HERE,
    json: Json = False,
) -> int:
    """List stored decisions, the latest first."""
    from credit_service.cli import viewing

    return viewing.decisions(target, customer, _bounded(limit), as_json=json)


@app.command(group=_USE)
def decision(
    decision_id: Annotated[int, Parameter(help="Id of a stored decision.")],
    /,
    *,
    target: Target = _HERE,
    json: Json = False,
) -> int:
    """Show a stored decision with all that led to it."""
    from credit_service.cli import viewing

    return viewing.decision(target, decision_id, as_json=json)


EventType = Literal[
    "CUSTOMER_REGISTERED",
    "LOAN_CREATED",
    "LOAN_DECLINED",
    "PAYMENT_RECORDED",
    "LOAN_CLOSED",
    "SCORE_CHANGED",
    "ROWS_INGESTED",
]


@app.command(group=_USE)
def events(
    *,
    after: Annotated[
        int, Parameter(help="Id of the last event taken in. 0: from the first one.")
    ] = 0,
    customer: Annotated[
        int | None, Parameter(help="Only events about this customer. Default: all.")
    ] = None,
    type: Annotated[  # noqa: A002 - the name of the option
        tuple[EventType, ...], Parameter(help="Only events of this type; may be repeated.")
    ] = (),
    follow: Annotated[
        bool, Parameter(help="Wait for more until Ctrl-C, or end once caught up.")
    ] = True,
    target: Target = _HERE,
    json: Json = False,
) -> int:
    """Print events as they happen. A broken connection is resumed after the last one printed.

    With --json each event is one line.
    """
    from credit_service.cli import viewing

    watching = viewing.Watching(after, customer, type, follow)
    return viewing.events(target, watching, as_json=json)


def _bounded(limit: int) -> int:
    return min(max(limit, 1), 100_000)


_OPERATE = Group("Operate it, on its database", sort_key=3)
scorecard = App(
    name="scorecard",
    group=_OPERATE,
    help="Check scorecards, put one in charge, or on trial beside the one in charge.",
)
app.command(scorecard)

ScorecardFile = Annotated[Path, Parameter(help="A scorecard as a JSON document.")]


@scorecard.command
def check(file: ScorecardFile, /) -> int:
    """Say whether a document is a valid scorecard, and what is wrong with it."""
    from credit_service.cli import scorecards

    return scorecards.check(file)


@scorecard.command
def activate(file: ScorecardFile, /) -> int:
    """Let this scorecard decide from now on; the workers compute every score anew."""
    from credit_service.cli import running, scorecards

    return scorecards.activate(running.settings_with(), file)


@scorecard.command
def shadow(
    file: Annotated[
        Path | None, Parameter(help="A scorecard as a JSON document. None ends the trial.")
    ] = None,
    /,
) -> int:
    """Let this scorecard decide beside the active one, without effect."""
    from credit_service.cli import running, scorecards

    return scorecards.shadow(running.settings_with(), file)


@scorecard.command(name="list")
def list_scorecards(*, json: Json = False) -> int:
    """List the stored scorecards."""
    from credit_service.cli import running, scorecards

    return scorecards.listing(running.settings_with(), as_json=json)


@app.command(group=_OPERATE)
def backtest(file: ScorecardFile, /, *, json: Json = False) -> int:
    """Replay the stored decisions and the portfolio under another scorecard, without effect."""
    from credit_service.cli import running, scorecards

    return scorecards.run_backtest(running.settings_with(), file, as_json=json)


@app.command(group=_OPERATE)
def replay(
    decision_id: Annotated[int, Parameter(help="Id of a stored decision.")],
    /,
    *,
    json: Json = False,
) -> int:
    """Compute a stored decision again from its stored inputs; 1 when a byte differs."""
    from credit_service.cli import running, scorecards

    return scorecards.replay(running.settings_with(), decision_id, as_json=json)


@app.command(group=_OPERATE, name="doctor")
def examine(*, target: Target = _HERE, json: Json = False) -> int:
    """Look at everything the service stands on, and say how to mend what is bad.

    Exits with 1 when something is bad.
    """
    from credit_service.cli import doctor

    return doctor.run(target, as_json=json)


app.command(
    "credit_service.cli.tokens:app",
    name="token",
    group=_OPERATE,
    help="Make tokens to try the service with, and keys to sign them.",
)


@app.command(group=_OPERATE)
def completion(
    shell: Annotated[Literal["bash", "zsh"], Parameter(help="Which shell to write it for.")], /
) -> int:
    """Print a script that completes commands and options in a shell.

    bash: credit-service completion bash > ~/.local/share/bash-completion/completions/credit-service

    zsh: credit-service completion zsh > "${fpath[1]}/_credit-service"
    """
    sys.stdout.write(app.generate_completion(prog_name="credit-service", shell=shell))
    return ExitCode.GOOD


@app.command(group=_TRY)
def sample_data(
    directory: Annotated[Path, Parameter(help="Folder to write the two workbooks into.")],
    /,
    *,
    customers: Annotated[int, Parameter(help="Rows of customer_data.xlsx.")] = 300,
    loans: Annotated[int, Parameter(help="Rows of loan_data.xlsx.")] = 782,
    seed: Annotated[int, Parameter(help="Another seed gives other rows.")] = 1,
    json: Json = False,
) -> int:
    """Write made-up customer_data.xlsx and loan_data.xlsx in the public layout.

    Customer 101 is a good credit, 102 a bad one, 103 owes more than the limit, 104 and 105 are in
    the bands between, 106 has no history.
    """
    from credit_service.cli import trying

    return trying.sample_data(directory, customers, loans, seed, as_json=json)


@app.command(group=_TRY)
def demo(
    *,
    keep: Annotated[
        bool,
        _flag("Leave everything running until Ctrl-C, to try more calls."),
    ] = False,
) -> int:
    """Show it all on a stack of its own: every step with its call, every answer checked."""
    from credit_service.cli import demonstration

    return demonstration.run(keep=keep)


def run(arguments: Sequence[str]) -> int:
    """Run one command line; its exit code. Foreseeable failures are told in a few lines."""
    try:
        result = app(
            list(arguments), result_action="return_value", exit_on_error=False, print_error=True
        )
    except CycloptsError:
        return ExitCode.USAGE
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    except Exception as error:  # noqa: BLE001 - told in words, or raised again
        from credit_service.cli import failures

        return failures.tell(error)
    return result if isinstance(result, int) else ExitCode.GOOD


def main() -> None:
    """Entry of the console script."""
    for stream in (sys.stdout, sys.stderr):
        # A terminal that knows no ₹ shows a question mark instead of failing the command.
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")
    sys.exit(run(sys.argv[1:]))
