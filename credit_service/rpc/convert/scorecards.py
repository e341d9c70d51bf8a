"""Convert messages of scorecards."""

from datetime import date, datetime
from typing import Any

from credit_service.commands import scorecards as commands
from credit_service.domain.errors import INVALID_FORMAT, REQUIRED, InvalidFieldsError
from credit_service.domain.scorecard import Scorecard, is_version
from credit_service.domain.scorecard_json import Difference, read_scorecard, write_scorecard
from credit_service.rpc.convert import fields
from credit_service.rpc.convert.fields import Violations, quoted
from credit_service.storage.scorecards import ScorecardChange, StoredScorecard
from credit_service.v1 import scorecard_pb2
from credit_service.v1 import scorecard_service_pb2 as pb

_STATES = {
    "INACTIVE": scorecard_pb2.SCORECARD_STATE_INACTIVE,
    "SHADOW": scorecard_pb2.SCORECARD_STATE_TRIAL,
    "ACTIVE": scorecard_pb2.SCORECARD_STATE_ACTIVE,
    "RETIRED": scorecard_pb2.SCORECARD_STATE_RETIRED,
}


def read_create_scorecard(
    request: pb.CreateScorecardRequest,
) -> tuple[commands.CreateScorecard, Scorecard]:
    """The command of a CreateScorecard request, and its scorecard. Raises InvalidFieldsError."""
    violations = Violations()
    request_id = fields.read_request_id(request, violations)
    scorecard = _read_document(request.document, "document", violations)
    violations.raise_if_any()
    assert scorecard is not None  # noqa: S101 - else there is a violation
    return commands.CreateScorecard(request_id, write_scorecard(scorecard)), scorecard


def read_activate_scorecard(request: pb.ActivateScorecardRequest) -> commands.ActivateScorecard:
    """The command of an ActivateScorecard request. Raises InvalidFieldsError."""
    violations = Violations()
    request_id = fields.read_request_id(request, violations)
    version = read_version(request.version, "version", violations)
    effective_on = fields.read_date(request, "effective_on", violations)
    violations.raise_if_any()
    return commands.ActivateScorecard(request_id, version, effective_on)


def read_set_trial_scorecard(request: pb.SetTrialScorecardRequest) -> commands.SetTrialScorecard:
    """The command of a SetTrialScorecard request. Raises InvalidFieldsError."""
    violations = Violations()
    request_id = fields.read_request_id(request, violations)
    version: str | None = None
    match request.WhichOneof("trial"):
        case "version":
            version = read_version(request.version, "version", violations)
        case "end":
            if not request.end:
                violations.add("end", INVALID_FORMAT, "must be true, to end the trial.")
        case _:
            violations.add("trial", REQUIRED, "is required: set version, or end to true.")
    violations.raise_if_any()
    return commands.SetTrialScorecard(request_id, version)


def read_retire_scorecard(request: pb.RetireScorecardRequest) -> commands.RetireScorecard:
    """The command of a RetireScorecard request. Raises InvalidFieldsError."""
    violations = Violations()
    request_id = fields.read_request_id(request, violations)
    version = read_version(request.version, "version", violations)
    violations.raise_if_any()
    return commands.RetireScorecard(request_id, version)


def read_compare_scorecards(
    request: pb.CompareScorecardsRequest,
) -> tuple[str | None, str | Scorecard]:
    """The first version, None for the active one, and the second version or scorecard. Raises
    InvalidFieldsError."""
    violations = Violations()
    before = read_optional_version(request.before_version, "before_version", violations)
    after: str | Scorecard | None = None
    match request.WhichOneof("after"):
        case "after_version":
            after = read_version(request.after_version, "after_version", violations)
        case "after_document":
            after = _read_document(request.after_document, "after_document", violations)
        case _:
            violations.add("after", REQUIRED, "is required: set after_version or after_document.")
    violations.raise_if_any()
    assert after is not None  # noqa: S101 - else there is a violation
    return before, after


def read_version(text: str, field: str, violations: Violations) -> str:
    """The version of a scorecard; an invalid one adds a violation."""
    if not text:
        violations.add(field, REQUIRED, "is required: the version of a scorecard.")
    elif not is_version(text):
        violations.add(
            field,
            INVALID_FORMAT,
            f"must be 1 to 64 letters, digits, '.', '_', '-', found {quoted(text)}.",
        )
    return text


def read_optional_version(text: str, field: str, violations: Violations) -> str | None:
    """As `read_version`; None for an empty text."""
    return read_version(text, field, violations) if text else None


def _read_document(text: str, field: str, violations: Violations) -> Scorecard | None:
    """The scorecard of a document; None, with violations, for an invalid one."""
    try:
        return read_scorecard(text, field)
    except InvalidFieldsError as error:
        violations.merge(error)
        return None


def write_scorecard_message(stored: StoredScorecard) -> scorecard_pb2.Scorecard:
    """A stored scorecard; without a document where it was read without."""
    message = scorecard_pb2.Scorecard(
        version=stored.version,
        state=_STATES[stored.state],
        document=stored.document,
        created_time=fields.write_time(stored.added_at),
        created_by=fields.write_principal(stored.added_by or ""),
        activated_by=fields.write_principal(stored.activated_by or ""),
    )
    if stored.activated_at is not None:
        fields.fill_time(message.activated_time, stored.activated_at)
    if stored.scheduled_on is not None:
        fields.fill_date(message.scheduled_on, stored.scheduled_on)
    return message


def write_change(change: ScorecardChange) -> scorecard_pb2.ScorecardChange:
    """An entry of the history."""
    message = scorecard_pb2.ScorecardChange(
        number=change.number,
        type=_change_type(change.kind),
        version=change.version,
        previous_version=change.previous_version or "",
        time=fields.write_time(change.changed_at),
        principal=fields.write_principal(change.principal),
    )
    if change.effective_on is not None:
        fields.fill_date(message.effective_on, change.effective_on)
    return message


def _change_type(kind: str) -> scorecard_pb2.ScorecardChangeType.ValueType:
    name = f"SCORECARD_CHANGE_TYPE_{kind}"
    if name in scorecard_pb2.ScorecardChangeType.keys():  # noqa: SIM118 - no mapping
        return scorecard_pb2.ScorecardChangeType.Value(name)
    # Of a later release.
    return scorecard_pb2.SCORECARD_CHANGE_TYPE_UNSPECIFIED


def change_from_payload(payload: dict[str, Any]) -> ScorecardChange:
    """The change in the payload of a stored scorecard_changed event."""
    return ScorecardChange(
        payload["kind"],
        payload["version"],
        datetime.fromisoformat(payload["changed_at"]),
        payload["principal"],
        payload["previous_version"],
        None if payload["effective_on"] is None else date.fromisoformat(payload["effective_on"]),
        payload["number"],
    )


def write_difference(difference: Difference) -> scorecard_pb2.ScorecardDifference:
    """A field that differs."""
    return scorecard_pb2.ScorecardDifference(
        path=difference.path, before=difference.before, after=difference.after
    )
