"""`scorecard`: commands for policy owners, which call the service."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date
from pathlib import Path
from uuid import uuid4

from google.protobuf.timestamp_pb2 import Timestamp
from google.type.date_pb2 import Date
from rich.text import Text

from credit_service.cli.common import ExitCode, Format, Target, UsageError
from credit_service.cli.connection import CALL_TIMEOUT_SECONDS, connected
from credit_service.cli.output import (
    Listing,
    instant,
    note,
    out,
    print_data,
    print_failure,
    print_json,
)
from credit_service.client.display import enum_name
from credit_service.domain.errors import (
    CreditError,
    InvalidFieldsError,
    OverloadedError,
    RetryLaterError,
    UnavailableError,
)
from credit_service.domain.scorecard import Scorecard
from credit_service.domain.scorecard_json import MAX_DOCUMENT_BYTES, read_scorecard
from credit_service.v1 import scorecard_pb2
from credit_service.v1 import scorecard_service_pb2 as pb
from credit_service.v1.scorecard_service_pb2_grpc import ScorecardServiceStub
from credit_service_client.errors import decoded_errors

_DOCUMENT = "scorecard"
_PAGE_SIZE = 1_000
_BANDS = ((0, 10), (11, 30), (31, 50), (51, 100))
_FLIPS_SHOWN = 20
_LONG_STATEMENT_SECONDS = 120.0


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


def rejected(error: CreditError) -> int:
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
def service(target: Target) -> Iterator[ScorecardServiceStub]:
    """The service's methods. Failed calls raise ServiceError."""
    with connected(target) as channel, decoded_errors():
        yield ScorecardServiceStub(channel)


def check(path: Path) -> int:
    """Print whether the file is a valid scorecard."""
    try:
        _, scorecard = read_document(path)
    except CreditError as error:
        return rejected(error)
    out.print(Text(f"{path} is a valid scorecard, version {scorecard.version}."))
    return ExitCode.GOOD


def _stored(calls: ScorecardServiceStub, path: Path | None, version: str | None) -> str:
    """Return the version, after storing the scorecard of a given file. Raises ServiceError, and as
    `read_document`."""
    if path is None:
        return version or ""
    text, scorecard = read_document(path)
    request = pb.CreateScorecardRequest(request_id=str(uuid4()), document=text)
    calls.CreateScorecard(request, timeout=CALL_TIMEOUT_SECONDS)
    return scorecard.version


def activate(
    target: Target, path: Path | None, version: str | None, on: date | None, form: Format
) -> int:
    """Make the scorecard of a file, or a stored one, the active one, now or from a day on."""
    if (path is None) == (version is None):
        raise UsageError("give either a scorecard file or --stored")
    try:
        if path is not None:
            read_document(path)
        with service(target) as calls:
            request = pb.ActivateScorecardRequest(
                request_id=str(uuid4()), version=_stored(calls, path, version)
            )
            if on is not None:
                request.effective_on.CopyFrom(Date(year=on.year, month=on.month, day=on.day))
            response = calls.ActivateScorecard(request, timeout=CALL_TIMEOUT_SECONDS)
    except CreditError as error:
        return rejected(error)
    if print_data(form, response):
        return ExitCode.GOOD
    done = response.scorecard
    if done.state == scorecard_pb2.SCORECARD_STATE_ACTIVE:
        out.print(Text(f"Scorecard {done.version} is now active."))
        note("The workers are recomputing every score.")
    else:
        out.print(Text(f"Scorecard {done.version} is active from {on} on."))
    return ExitCode.GOOD


def shadow(target: Target, path: Path | None, version: str | None, form: Format) -> int:
    """Make the scorecard the trial, which decides beside the active one. None ends the trial."""
    if path is not None and version is not None:
        raise UsageError("give either a scorecard file or --stored")
    request = pb.SetTrialScorecardRequest(request_id=str(uuid4()))
    try:
        if path is not None:
            read_document(path)
        with service(target) as calls:
            if path is None and version is None:
                request.end = True
            else:
                request.version = _stored(calls, path, version)
            done = calls.SetTrialScorecard(request, timeout=CALL_TIMEOUT_SECONDS)
    except CreditError as error:
        return rejected(error)
    if print_data(form, done):
        return ExitCode.GOOD
    if done.HasField("scorecard"):
        out.print(Text(f"Scorecard {done.scorecard.version} is now in shadow mode."))
    else:
        out.print(Text("No scorecard is in shadow mode."))
    return ExitCode.GOOD


def retire(target: Target, version: str, form: Format) -> int:
    """Retire a stored scorecard."""
    request = pb.RetireScorecardRequest(request_id=str(uuid4()), version=version)
    with service(target) as calls:
        response = calls.RetireScorecard(request, timeout=CALL_TIMEOUT_SECONDS)
    if print_data(form, response):
        return ExitCode.GOOD
    out.print(Text(f"Scorecard {version} is retired."))
    return ExitCode.GOOD


def show(target: Target, version: str, form: Format) -> int:
    """Print a scorecard's document and history; of the active one for an empty version."""
    request = pb.GetScorecardRequest(version=version)
    with service(target) as calls:
        response = calls.GetScorecard(request, timeout=CALL_TIMEOUT_SECONDS)
    if print_data(form, response):
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
    target: Target, path: Path | None, version: str | None, before: str, form: Format
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
        return rejected(error)
    with service(target) as calls:
        response = calls.CompareScorecards(request, timeout=CALL_TIMEOUT_SECONDS)
    table = Listing("field", response.before_version, response.after_version)
    for each in response.differences:
        table.add(each.path, each.before, each.after)
    if print_data(form, response, table):
        return ExitCode.GOOD
    if not response.differences:
        out.print(Text(f"{response.after_version} equals {response.before_version}."))
        return ExitCode.GOOD
    table.print()
    return ExitCode.GOOD


def listing(target: Target, form: Format) -> int:
    """List the stored scorecards."""
    found: list[scorecard_pb2.Scorecard] = []
    request = pb.ListScorecardsRequest(page_size=_PAGE_SIZE)
    with service(target) as calls:
        while True:
            page = calls.ListScorecards(request, timeout=CALL_TIMEOUT_SECONDS)
            found += page.scorecards
            if not page.next_page_token:
                break
            request.page_token = page.next_page_token
    if form.json:
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
    if form.csv:
        table.print_csv()
    else:
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
