"""Convert messages of scorecards."""

from collections import Counter
from datetime import date, datetime
from typing import Any

from credit_service.commands import scorecards as commands
from credit_service.domain.eligibility import Ask, Outcome
from credit_service.domain.errors import (
    INVALID_FORMAT,
    REQUIRED,
    FieldViolation,
    InvalidFieldsError,
)
from credit_service.domain.outcome_comparison import Flip, OutcomeComparison, ReasonKey
from credit_service.domain.scorecard import Scorecard, is_version
from credit_service.domain.scorecard_json import Difference, read_scorecard, write_scorecard
from credit_service.queries.backtest import Backtest, Progress
from credit_service.rpc.convert import decisions, fields
from credit_service.rpc.convert.fields import Violations, quoted
from credit_service.storage.scorecards import ScorecardChange, StoredScorecard
from credit_service.v1 import decision_pb2, scorecard_pb2
from credit_service.v1 import scorecard_service_pb2 as pb

_ASK = "portfolio_ask"
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


def read_backtest_scorecard(
    request: pb.BacktestScorecardRequest,
) -> tuple[str | Scorecard, Ask | None]:
    """The version or the scorecard to test, and the ask. Raises InvalidFieldsError."""
    violations = Violations()
    tested: str | Scorecard | None = None
    match request.WhichOneof("scorecard"):
        case "version":
            tested = read_version(request.version, "version", violations)
        case "document":
            tested = _read_document(request.document, "document", violations)
        case _:
            violations.add("scorecard", REQUIRED, "is required: set version or document.")
    ask: Ask | None = None
    if request.HasField("portfolio_ask"):
        of_ask = Violations()
        ask = decisions.read_ask(request.portfolio_ask, of_ask)
        violations.found += [
            FieldViolation(f"{_ASK}.{each.field}", each.reason, f"{_ASK}.{each.message}")
            for each in of_ask.found
        ]
    violations.raise_if_any()
    assert tested is not None  # noqa: S101 - else there is a violation
    return tested, ask


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


def write_comparison(found: OutcomeComparison) -> scorecard_pb2.OutcomeComparison:
    """The outcomes under two scorecards."""
    keys = found.reasons_before | found.reasons_after
    ordered = sorted(
        keys, key=lambda key: (-found.reasons_after[key], -found.reasons_before[key], key)
    )
    return scorecard_pb2.OutcomeComparison(
        compared=found.compared,
        before=_outcome_counts(found.before),
        after=_outcome_counts(found.after),
        flips=found.flip_count,
        rates_changed=found.rates_changed,
        reasons=[_reason_counts(found, key) for key in ordered],
        flip_examples=[_flip(each) for each in found.flips],
    )


def _outcome_counts(counts: Counter[str]) -> scorecard_pb2.OutcomeCounts:
    return scorecard_pb2.OutcomeCounts(
        approved=counts[Outcome.APPROVED],
        declined=counts[Outcome.DECLINED],
        referred=counts[Outcome.REFERRED],
    )


def _reason_counts(found: OutcomeComparison, key: ReasonKey) -> scorecard_pb2.ReasonCounts:
    return scorecard_pb2.ReasonCounts(
        code=decisions.reason_code(key.code),
        rule_code=key.rule_code,
        before=found.reasons_before[key],
        after=found.reasons_after[key],
        examples=found.examples.get(key, ()),
    )


def _flip(flip: Flip) -> scorecard_pb2.OutcomeFlip:
    return scorecard_pb2.OutcomeFlip(
        decision_id=flip.decision_id,
        customer_id=flip.customer_id,
        before=_outcome(flip.before.outcome),
        after=_outcome(flip.after.outcome),
        reason_codes=[
            decisions.reason_code(each.code) for each in flip.after.reasons or flip.before.reasons
        ],
    )


def _outcome(name: str) -> decision_pb2.DecisionOutcome.ValueType:
    key = f"DECISION_OUTCOME_{name}"
    if key in decision_pb2.DecisionOutcome.keys():  # noqa: SIM118 - no mapping
        return decision_pb2.DecisionOutcome.Value(key)
    return decision_pb2.DECISION_OUTCOME_UNSPECIFIED


def write_progress(progress: Progress) -> pb.BacktestScorecardResponse:
    """A message with the progress of a backtest."""
    return pb.BacktestScorecardResponse(
        progress=scorecard_pb2.BacktestProgress(
            decisions_done=progress.decisions_done,
            decisions_total=progress.decisions_total,
            customers_done=progress.customers_done,
            customers_total=progress.customers_total,
        )
    )


def write_backtest(report: Backtest) -> pb.BacktestScorecardResponse:
    """The message with the result of a backtest."""
    scores = report.scores
    message = scorecard_pb2.BacktestResult(
        active_version=report.active_version,
        tested_version=report.tested_version,
        day=fields.write_date(report.day),
        decisions_of_later_release=report.later_release,
        decisions_without_facts=report.without_facts,
        customers=scores.customers,
        scores_changed=scores.changed,
        scores=[
            scorecard_pb2.ScoreCounts(
                score=value,
                before=scores.before[value],
                after=scores.after[value],
            )
            for value in sorted(scores.before | scores.after)
        ],
        score_examples=[
            scorecard_pb2.ScoreDifference(
                customer_id=each.customer_id, before=each.before, after=each.after
            )
            for each in scores.largest
        ],
    )
    if report.decisions is not None:
        message.decisions.CopyFrom(write_comparison(report.decisions))
    if report.portfolio is not None:
        message.portfolio.CopyFrom(write_comparison(report.portfolio))
    return pb.BacktestScorecardResponse(result=message)
