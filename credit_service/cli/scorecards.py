"""`scorecard`, `backtest` and `replay`: commands for operators, which use the database directly.

Their settings name a running database. They never start one.
"""

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.text import Text

from credit_service.cli.common import ExitCode, UsageError
from credit_service.cli.output import Listing, note, out, print_failure, print_json
from credit_service.commands.scorecards import activate_scorecard, try_scorecard
from credit_service.domain.decisions import LaterReleaseError
from credit_service.domain.errors import (
    CreditError,
    InvalidFieldsError,
    OverloadedError,
    RetryLaterError,
    UnavailableError,
)
from credit_service.domain.scorecard import Scorecard, parse_scorecard
from credit_service.queries.backtest import Backtest, Side, backtest, replay_decision
from credit_service.settings import Settings
from credit_service.storage import scorecards
from credit_service.storage.database import Database

_MAX_DOCUMENT_BYTES = 64 * 1024
_BANDS = ((0, 10), (11, 30), (31, 50), (51, 100))
_FLIPS_SHOWN = 20
_LONG_STATEMENT_SECONDS = 120.0


@contextmanager
def _database(settings: Settings) -> Iterator[Database]:
    """The database of the settings."""
    database = Database(
        settings.require_database_url(),
        pool_size=2,
        statement_timeout_seconds=_LONG_STATEMENT_SECONDS,
        application_name="credit-service operator",
        pooler=settings.database_pooler,
    )
    try:
        yield database
    finally:
        database.dispose()


def read_scorecard(path: Path) -> Scorecard:
    """The scorecard of a JSON document. Raises UsageError for another file, and
    InvalidFieldsError for an invalid scorecard."""
    if path.stat().st_size > _MAX_DOCUMENT_BYTES:
        raise UsageError(
            f"{path} is too large for a scorecard: at most {_MAX_DOCUMENT_BYTES // 1024} KiB"
        )
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise UsageError(f"{path} does not contain a JSON object")
    return parse_scorecard(document)


def _rejected(error: CreditError) -> int:
    """Print the reason and return the exit code. Raise errors of the database again."""
    if isinstance(error, UnavailableError | RetryLaterError | OverloadedError):
        raise error
    if isinstance(error, InvalidFieldsError):
        lines = [f"  {each.field}: {each.message}" for each in error.violations]
        print_failure(["the scorecard is not valid:", *lines])
    else:
        print_failure([error.message])
    return ExitCode.REFUSED


def check(path: Path) -> int:
    """Print whether the file is a valid scorecard."""
    try:
        scorecard = read_scorecard(path)
    except CreditError as error:
        return _rejected(error)
    out.print(Text(f"{path} is a valid scorecard, version {scorecard.version}."))
    return ExitCode.GOOD


def activate(settings: Settings, path: Path) -> int:
    """Make the scorecard the active one."""
    try:
        scorecard = read_scorecard(path)
        with _database(settings) as database:
            activate_scorecard(database, scorecard, settings.clock.moment())
    except CreditError as error:
        return _rejected(error)
    out.print(Text(f"Scorecard {scorecard.version} is now active."))
    note("The workers are recomputing every score.")
    return ExitCode.GOOD


def shadow(settings: Settings, path: Path | None) -> int:
    """Put the scorecard into shadow mode beside the active one. None ends shadow mode."""
    try:
        scorecard = None if path is None else read_scorecard(path)
        with _database(settings) as database:
            try_scorecard(database, scorecard, settings.clock.moment())
    except CreditError as error:
        return _rejected(error)
    if scorecard is None:
        out.print(Text("No scorecard is in shadow mode."))
    else:
        out.print(Text(f"Scorecard {scorecard.version} is now in shadow mode."))
    return ExitCode.GOOD


def listing(settings: Settings, *, as_json: bool) -> int:
    """List the stored scorecards."""
    with _database(settings) as database, database.autocommit() as connection:
        lines = scorecards.list_all(connection)
    if as_json:
        fields = [
            {
                "version": each.version,
                "state": each.state,
                "added_time": each.added_at.isoformat(),
                "activated_time": each.activated_at.isoformat() if each.activated_at else None,
            }
            for each in lines
        ]
        print_json({"scorecards": fields})
        return ExitCode.GOOD
    table = Listing("version", "state", "added", "active or shadow since")
    for each in lines:
        since = f"{each.activated_at:%Y-%m-%d %H:%M}" if each.activated_at else ""
        table.add(each.version, each.state, f"{each.added_at:%Y-%m-%d %H:%M}", since)
    table.print()
    return ExitCode.GOOD


def replay(settings: Settings, decision_id: int, *, as_json: bool) -> int:
    """Recompute a stored decision from its stored inputs and compare the bytes."""
    try:
        with _database(settings) as database:
            found = replay_decision(database, decision_id)
    except CreditError as error:
        return _rejected(error)
    except LaterReleaseError as error:
        print_failure([f"decision {decision_id} cannot be replayed here: {error}"])
        return ExitCode.REFUSED
    if as_json:
        print_json(
            {
                "decision_id": found.decision_id,
                "scorecard_version": found.scorecard_version,
                "identical": found.is_identical,
                "stored_outcome": json.loads(found.stored_outcome),
                "computed_outcome": json.loads(found.computed_outcome),
            }
        )
    elif found.is_identical:
        size = len(found.stored_outcome.encode())
        out.print(
            Text(
                f"Decision {decision_id} with scorecard {found.scorecard_version}: identical, "
                f"byte for byte ({size} bytes)."
            )
        )
    else:
        print_failure(
            [
                f"decision {decision_id} with scorecard {found.scorecard_version} differs:",
                f"  stored:   {found.stored_outcome}",
                f"  computed: {found.computed_outcome}",
            ]
        )
    return ExitCode.GOOD if found.is_identical else ExitCode.REFUSED


def run_backtest(settings: Settings, path: Path, *, as_json: bool) -> int:
    """Print the decisions and scores that another scorecard gives."""
    try:
        scorecard = read_scorecard(path)
    except CreditError as error:
        return _rejected(error)
    with _database(settings) as database:
        report = backtest(database, scorecard, settings.clock.moment())
    if as_json:
        print_json(_as_document(report))
    else:
        _print_report(report)
    return ExitCode.GOOD


def _as_document(report: Backtest) -> dict[str, Any]:
    def side(each: Side) -> dict[str, Any]:
        return {
            "scorecard_version": each.scorecard_version,
            "approved": each.approved,
            "reasons": dict(sorted(each.reasons.items())),
            "scores": {str(value): count for value, count in sorted(each.scores.items())},
        }

    return {
        "decisions": report.decisions,
        "decisions_of_later_release": report.later_release,
        "customers": report.customers,
        "scores_changed": report.scores_changed,
        "before": side(report.before),
        "after": side(report.after),
        "flip_count": report.flip_count,
        "flips": [
            {
                "decision_id": each.decision_id,
                "customer_id": each.customer_id,
                "approved_before": each.approved_before,
                "approved_after": each.approved_after,
            }
            for each in report.flips
        ],
    }


def _print_report(report: Backtest) -> None:
    before, after = report.before, report.after
    out.print(
        Text(
            f"{report.decisions} stored decisions and {report.customers} customers: as stored, "
            f"and with scorecard {after.scorecard_version}"
        )
    )
    if report.later_release:
        note(
            f"{report.later_release} decisions are omitted: a later release made them from inputs "
            "that this release does not know."
        )
    table = Listing("", "before", after.scorecard_version)
    table.add(
        "approved",
        _share(before.approved, report.decisions),
        _share(after.approved, report.decisions),
    )
    for code in sorted(before.reasons | after.reasons):
        table.add(f"declined: {code}", str(before.reasons[code]), str(after.reasons[code]))
    for low, high in _BANDS:
        table.add(
            f"score {low} to {high}",
            _share(_within(before.scores, low, high), report.customers),
            _share(_within(after.scores, low, high), report.customers),
        )
    table.print()
    out.print(Text(f"Changed scores: {report.scores_changed} customers."))
    out.print(Text(f"Changed outcomes: {report.flip_count} decisions."))
    if report.flips:
        flips = Listing("decision", "customer", "before", "after")
        for each in report.flips[:_FLIPS_SHOWN]:
            flips.add(
                str(each.decision_id),
                str(each.customer_id),
                _word(approved=each.approved_before),
                _word(approved=each.approved_after),
            )
        flips.print()
    if report.flip_count > _FLIPS_SHOWN:
        note(f"Showing the first {_FLIPS_SHOWN}; --json shows up to {len(report.flips)}.")


def _within(scores: Counter[int], low: int, high: int) -> int:
    return sum(count for value, count in scores.items() if low <= value <= high)


def _share(part: int, whole: int) -> str:
    tenths = (part * 1000 + whole // 2) // whole if whole else 0
    return f"{part} ({tenths // 10}.{tenths % 10} %)"


def _word(*, approved: bool) -> str:
    return "approved" if approved else "declined"
