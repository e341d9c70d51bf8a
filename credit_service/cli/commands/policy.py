"""Commands of policy owners: scorecards and backtests."""

# ruff: noqa: PLC0415 - a command imports its implementation when it runs

from datetime import date
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from credit_service.cli.commands.root import HERE, TEXT
from credit_service.cli.common import Format, Target

scorecard = App(
    name="scorecard",
    help="Check, compare, activate, shadow, retire and list scorecards.",
)

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
    target: Target = HERE,
    form: Format = TEXT,
) -> int:
    """Store this scorecard and use it for all decisions from now on, or from a coming day on.

    The workers recompute every score. To roll back, activate the former one: --stored VERSION.
    """
    from credit_service.cli import scorecards

    return scorecards.activate(target, file, stored, on, form)


@scorecard.command
def shadow(
    file: OptionalScorecardFile = None,
    /,
    *,
    stored: StoredVersion = None,
    data_dir: UnusedDataDir = None,  # noqa: ARG001 - accepted as by earlier releases
    target: Target = HERE,
    form: Format = TEXT,
) -> int:
    """Also evaluate this scorecard for every decision, without effect on the result.

    Without a file and --stored, shadow mode ends.
    """
    from credit_service.cli import scorecards

    return scorecards.shadow(target, file, stored, form)


@scorecard.command(name="list")
def list_scorecards(
    *,
    data_dir: UnusedDataDir = None,  # noqa: ARG001 - accepted as by earlier releases
    target: Target = HERE,
    form: Format = TEXT,
) -> int:
    """List the stored scorecards."""
    from credit_service.cli import scorecards

    return scorecards.listing(target, form)


@scorecard.command
def show(
    version: Annotated[
        str, Parameter(help="Version of a stored scorecard. Default: the active one.")
    ] = "",
    /,
    *,
    target: Target = HERE,
    form: Format = TEXT,
) -> int:
    """Show a stored scorecard with its history: who changed its state, and when."""
    from credit_service.cli import scorecards

    return scorecards.show(target, version, form)


@scorecard.command
def compare(
    file: OptionalScorecardFile = None,
    /,
    *,
    stored: StoredVersion = None,
    to: Annotated[str, Parameter(help="Version to compare it with. Default: the active one.")] = "",
    target: Target = HERE,
    form: Format = TEXT,
) -> int:
    """Show the fields in which a scorecard differs from a stored one."""
    from credit_service.cli import scorecards

    return scorecards.compare(target, file, stored, to, form)


@scorecard.command
def retire(
    version: Annotated[str, Parameter(help="Version of a stored scorecard.")],
    /,
    *,
    target: Target = HERE,
    form: Format = TEXT,
) -> int:
    """Retire a scorecard that is not in use: it cannot be used again."""
    from credit_service.cli import scorecards

    return scorecards.retire(target, version, form)


@scorecard.command
def trial(
    version: Annotated[
        str, Parameter(help="Version that is or was in shadow mode. Default: the current one.")
    ] = "",
    /,
    *,
    target: Target = HERE,
    form: Format = TEXT,
) -> int:
    """Show what a scorecard in shadow mode decided beside the real decisions."""
    from credit_service.cli import backtests

    return backtests.trial(target, version, form)


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
    target: Target = HERE,
    form: Format = TEXT,
) -> int:
    """Recompute the stored decisions and all scores with another scorecard. Changes nothing."""
    from credit_service.cli import backtests

    return backtests.run_backtest(target, file, stored, (amount, rate, tenure), form)
