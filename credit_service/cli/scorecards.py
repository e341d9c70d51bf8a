"""`scorecard`: commands for policy owners. `backtest` and `replay` use the database directly.

The settings of the last two name a running database. They never start one.
"""

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date
from pathlib import Path
from typing import Any
from uuid import uuid4

from google.protobuf.timestamp_pb2 import Timestamp
from google.type.date_pb2 import Date
from rich.text import Text

from credit_service.cli.common import ExitCode, Target, UsageError
from credit_service.cli.connection import CALL_TIMEOUT_SECONDS, connected
from credit_service.cli.output import (
    Listing,
    as_dict,
    instant,
    note,
    out,
    print_failure,
    print_json,
)
from credit_service.client.channel import decoded_errors
from credit_service.client.display import enum_name
from credit_service.domain.decisions import LaterReleaseError
from credit_service.domain.errors import (
    CreditError,
    InvalidFieldsError,
    OverloadedError,
    RetryLaterError,
    UnavailableError,
)
from credit_service.domain.scorecard import Scorecard
from credit_service.domain.scorecard_json import MAX_DOCUMENT_BYTES, read_scorecard
from credit_service.queries.backtest import Backtest, Side, backtest, replay_decision
from credit_service.settings import Settings
from credit_service.storage.database import Database
from credit_service.v1 import scorecard_pb2
from credit_service.v1 import scorecard_service_pb2 as pb
from credit_service.v1.scorecard_service_pb2_grpc import ScorecardServiceStub

_DOCUMENT = "scorecard"
_PAGE_SIZE = 1_000
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


def read_document(path: Path) -> tuple[str, Scorecard]:
    """Return the text of a JSON file and its scorecard.

    Raises UsageError for another file, and InvalidFieldsError for an invalid scorecard.
    """
    if path.stat().st_size > MAX_DOCUMENT_BYTES:
        raise UsageError(
            f"{path} is too large for a scorecard: at most {MAX_DOCUMENT_BYTES // 1024} KiB"
        )
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not JSON: {error}") from error
    try:
        return text, read_scorecard(text, _DOCUMENT)
    except InvalidFieldsError as error:
        if any(each.field == _DOCUMENT for each in error.violations):
            raise UsageError(f"{path}: {error.message.rstrip('.')}") from error
        raise


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


@contextmanager
def _service(target: Target) -> Iterator[ScorecardServiceStub]:
    """The service's methods. Failed calls raise ServiceError."""
    with connected(target) as channel, decoded_errors():
        yield ScorecardServiceStub(channel)


def check(path: Path) -> int:
    """Print whether the file is a valid scorecard."""
    try:
        _, scorecard = read_document(path)
    except CreditError as error:
        return _rejected(error)
    out.print(Text(f"{path} is a valid scorecard, version {scorecard.version}."))
    return ExitCode.GOOD


def _stored(service: ScorecardServiceStub, path: Path | None, version: str | None) -> str:
    """Return the version, after storing the scorecard of a given file. Raises ServiceError, and as
    `read_document`."""
    if path is None:
        return version or ""
    text, scorecard = read_document(path)
    request = pb.CreateScorecardRequest(request_id=str(uuid4()), document=text)
    service.CreateScorecard(request, timeout=CALL_TIMEOUT_SECONDS)
    return scorecard.version


def activate(target: Target, path: Path | None, version: str | None, on: date | None) -> int:
    """Make the scorecard of a file, or a stored one, the active one, now or from a day on."""
    if (path is None) == (version is None):
        raise UsageError("give either a scorecard file or --stored")
    try:
        if path is not None:
            read_document(path)
        with _service(target) as service:
            request = pb.ActivateScorecardRequest(
                request_id=str(uuid4()), version=_stored(service, path, version)
            )
            if on is not None:
                request.effective_on.CopyFrom(Date(year=on.year, month=on.month, day=on.day))
            done = service.ActivateScorecard(request, timeout=CALL_TIMEOUT_SECONDS).scorecard
    except CreditError as error:
        return _rejected(error)
    if done.state == scorecard_pb2.SCORECARD_STATE_ACTIVE:
        out.print(Text(f"Scorecard {done.version} is now active."))
        note("The workers are recomputing every score.")
    else:
        out.print(Text(f"Scorecard {done.version} is active from {on} on."))
    return ExitCode.GOOD


def shadow(target: Target, path: Path | None, version: str | None) -> int:
    """Make the scorecard the trial, which decides beside the active one. None ends the trial."""
    if path is not None and version is not None:
        raise UsageError("give either a scorecard file or --stored")
    request = pb.SetTrialScorecardRequest(request_id=str(uuid4()))
    try:
        if path is not None:
            read_document(path)
        with _service(target) as service:
            if path is None and version is None:
                request.end = True
            else:
                request.version = _stored(service, path, version)
            done = service.SetTrialScorecard(request, timeout=CALL_TIMEOUT_SECONDS)
    except CreditError as error:
        return _rejected(error)
    if done.HasField("scorecard"):
        out.print(Text(f"Scorecard {done.scorecard.version} is now in shadow mode."))
    else:
        out.print(Text("No scorecard is in shadow mode."))
    return ExitCode.GOOD


def retire(target: Target, version: str) -> int:
    """Retire a stored scorecard."""
    request = pb.RetireScorecardRequest(request_id=str(uuid4()), version=version)
    with _service(target) as service:
        service.RetireScorecard(request, timeout=CALL_TIMEOUT_SECONDS)
    out.print(Text(f"Scorecard {version} is retired."))
    return ExitCode.GOOD


def show(target: Target, version: str, *, as_json: bool) -> int:
    """Print a scorecard's document and history; of the active one for an empty version."""
    request = pb.GetScorecardRequest(version=version)
    with _service(target) as service:
        response = service.GetScorecard(request, timeout=CALL_TIMEOUT_SECONDS)
    if as_json:
        print_json(as_dict(response))
        return ExitCode.GOOD
    found = response.scorecard
    out.print(Text(f"Scorecard {found.version}: {_state(found)}", style="bold"))
    out.print(Text(json.dumps(json.loads(found.document), ensure_ascii=False, indent=2)))
    table = Listing("time", "change", "from", "replaces", "by")
    for each in response.changes:
        kind = enum_name(each.type, scorecard_pb2.ScorecardChangeType).lower().replace("_", " ")
        table.add(
            instant(each.time), kind, _day(each.effective_on), each.previous_version, each.principal
        )
    table.print()
    return ExitCode.GOOD


def compare(
    target: Target, path: Path | None, version: str | None, before: str, *, as_json: bool
) -> int:
    """Print the fields in which the scorecard of a file, or a stored one, differs from another
    stored one; from the active one for an empty `before`."""
    if (path is None) == (version is None):
        raise UsageError("give either a scorecard file or --stored")
    request = pb.CompareScorecardsRequest(before_version=before)
    try:
        if path is None:
            request.after_version = version or ""
        else:
            request.after_document, _ = read_document(path)
    except CreditError as error:
        return _rejected(error)
    with _service(target) as service:
        response = service.CompareScorecards(request, timeout=CALL_TIMEOUT_SECONDS)
    if as_json:
        print_json(as_dict(response))
        return ExitCode.GOOD
    if not response.differences:
        out.print(Text(f"{response.after_version} equals {response.before_version}."))
        return ExitCode.GOOD
    table = Listing("field", response.before_version, response.after_version)
    for each in response.differences:
        table.add(each.path, each.before, each.after)
    table.print()
    return ExitCode.GOOD


def listing(target: Target, *, as_json: bool) -> int:
    """List the stored scorecards."""
    found: list[scorecard_pb2.Scorecard] = []
    request = pb.ListScorecardsRequest(page_size=_PAGE_SIZE)
    with _service(target) as service:
        while True:
            page = service.ListScorecards(request, timeout=CALL_TIMEOUT_SECONDS)
            found += page.scorecards
            if not page.next_page_token:
                break
            request.page_token = page.next_page_token
    if as_json:
        fields = [
            {
                "version": each.version,
                "state": _state_name(each),
                "added_time": each.created_time.ToDatetime(UTC).isoformat(),
                "activated_time": each.activated_time.ToDatetime(UTC).isoformat()
                if each.HasField("activated_time")
                else None,
                "scheduled_on": _day(each.scheduled_on) or None,
            }
            for each in found
        ]
        print_json({"scorecards": fields})
        return ExitCode.GOOD
    table = Listing("version", "state", "added", "active or shadow since")
    for each in found:
        since = _minute(each.activated_time) if each.HasField("activated_time") else ""
        table.add(each.version, _state(each), _minute(each.created_time), since)
    table.print()
    return ExitCode.GOOD


def _minute(time: Timestamp) -> str:
    return f"{time.ToDatetime(UTC):%Y-%m-%d %H:%M}"


def _state_name(found: scorecard_pb2.Scorecard) -> str:
    name = enum_name(found.state, scorecard_pb2.ScorecardState)
    return "SHADOW" if found.state == scorecard_pb2.SCORECARD_STATE_TRIAL else name


def _state(found: scorecard_pb2.Scorecard) -> str:
    day = _day(found.scheduled_on)
    return f"{_state_name(found)}, active from {day}" if day else _state_name(found)


def _day(day: Date) -> str:
    return f"{day.year}-{day.month:02}-{day.day:02}" if day.year else ""


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
        _, scorecard = read_document(path)
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
