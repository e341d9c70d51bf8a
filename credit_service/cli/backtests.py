"""`backtest` calls BacktestScorecard and prints its result; `scorecard trial` prints a trial's."""

from pathlib import Path
from typing import Any

import grpc
from rich.text import Text

from credit_service.cli.amounts import read_money, read_rate
from credit_service.cli.common import ExitCode, Format, Target, UsageError
from credit_service.cli.connection import CALL_TIMEOUT_SECONDS
from credit_service.cli.output import Listing, as_dict, err, note, out, print_data, print_json
from credit_service.cli.scorecards import read_document, rejected, service
from credit_service.client.display import enum_name
from credit_service.domain.errors import CreditError
from credit_service.rupees import group_digits
from credit_service.v1 import decision_pb2, scorecard_pb2
from credit_service.v1 import scorecard_service_pb2 as pb
from credit_service_client.errors import ServiceError

_BANDS = ((0, 10), (11, 30), (31, 50), (51, 100))
_FLIPS_SHOWN = 20


def run_backtest(
    target: Target,
    path: Path | None,
    version: str | None,
    ask: tuple[str | None, str | None, int | None],
    form: Format,
) -> int:
    """Print what the scorecard of a file, or a stored one, decides on the stored decisions and,
    with an ask (amount, rate, tenure), on a loan to every customer."""
    if (path is None) == (version is None):
        raise UsageError("give either a scorecard file or --stored")
    request = pb.BacktestScorecardRequest()
    amount, rate, tenure = ask
    if amount is not None and rate is not None and tenure is not None:
        request.portfolio_ask.loan_amount.CopyFrom(read_money(amount))
        request.portfolio_ask.interest_rate.CopyFrom(read_rate(rate))
        request.portfolio_ask.tenure_months = tenure
    elif ask != (None, None, None):
        raise UsageError("give --amount, --rate and --tenure together, or none of them")
    try:
        if path is None:
            request.version = version or ""
        else:
            request.document, _ = read_document(path)
    except CreditError as error:
        return rejected(error)
    result = _run(target, request)
    if form.json:
        print_json(_as_document(result))
    elif form.csv:
        _counts(result).print_csv()
    else:
        _print_result(result)
    return ExitCode.GOOD


def _run(target: Target, request: pb.BacktestScorecardRequest) -> scorecard_pb2.BacktestResult:
    """The result of the backtest; shows the progress on a terminal."""
    with service(target) as calls, err.status("Waiting for a backtest to start …") as status:
        for response in calls.BacktestScorecard(request):
            if response.HasField("result"):
                return response.result
            done = response.progress
            status.update(
                f"{group_digits(done.decisions_done)} of {group_digits(done.decisions_total)} "
                f"decisions, {group_digits(done.customers_done)} of "
                f"{group_digits(done.customers_total)} customers"
            )
    raise ServiceError(
        grpc.StatusCode.UNKNOWN, "The stream ended without a result; repeat the command."
    )


def trial(target: Target, version: str, form: Format) -> int:
    """Print what a trial decided beside the real decisions; the current one without a version."""
    with service(target) as calls:
        response = calls.GetTrialResults(
            pb.GetTrialResultsRequest(version=version), timeout=CALL_TIMEOUT_SECONDS
        )
    results = response.results
    counts = Listing("comparison", "figure", "before", "after", "of")
    _add_counts(counts, "decisions", results)
    if print_data(form, response, counts):
        return ExitCode.GOOD
    out.print(Text(f"The latest {results.compared} decisions, and the trial {response.version}"))
    _print_comparison(results, "real", response.version)
    return ExitCode.GOOD


def _as_document(result: scorecard_pb2.BacktestResult) -> dict[str, Any]:
    """The result with the names of earlier releases."""
    decisions = result.decisions

    def side(version: str, name: str) -> dict[str, Any]:
        return {
            "scorecard_version": version,
            "approved": getattr(decisions, name).approved,
            "reasons": {
                _reason(each): getattr(each, name)
                for each in sorted(decisions.reasons, key=_reason)
                if getattr(each, name)
            },
            "scores": {
                str(each.score): getattr(each, name)
                for each in result.scores
                if getattr(each, name)
            },
        }

    document: dict[str, Any] = {
        "decisions": decisions.compared,
        "decisions_of_later_release": result.decisions_of_later_release,
        "decisions_without_facts": result.decisions_without_facts,
        "customers": result.customers,
        "scores_changed": result.scores_changed,
        "score_examples": [
            {"customer_id": each.customer_id, "before": each.before, "after": each.after}
            for each in result.score_examples
        ],
        "before": side(result.active_version, "before"),
        "after": side(result.tested_version, "after"),
        "flip_count": decisions.flips,
        "flips": [
            {
                "decision_id": each.decision_id,
                "customer_id": each.customer_id,
                "approved_before": each.before == decision_pb2.DECISION_OUTCOME_APPROVED,
                "approved_after": each.after == decision_pb2.DECISION_OUTCOME_APPROVED,
                "outcome_before": _outcome(each.before),
                "outcome_after": _outcome(each.after),
            }
            for each in decisions.flip_examples
        ],
    }
    if result.HasField("portfolio"):
        document["portfolio"] = as_dict(result.portfolio)
    return document


def _print_result(result: scorecard_pb2.BacktestResult) -> None:
    decisions, tested = result.decisions, result.tested_version
    out.print(
        Text(
            f"{decisions.compared} stored decisions and {result.customers} customers: as stored, "
            f"and with scorecard {tested}"
        )
    )
    if result.decisions_of_later_release:
        note(
            f"{result.decisions_of_later_release} decisions are omitted: a later release made them "
            "from inputs that this release does not know."
        )
    if result.decisions_without_facts:
        note(
            f"{result.decisions_without_facts} decisions are omitted: they are stored without the "
            f"facts that the policy of {tested} needs."
        )
    scores = Listing("", "before", tested)
    for low, high in _BANDS:
        within = [each for each in result.scores if low <= each.score <= high]
        scores.add(
            f"score {low} to {high}",
            _share(sum(each.before for each in within), result.customers),
            _share(sum(each.after for each in within), result.customers),
        )
    scores.print()
    out.print(Text(f"Changed scores: {result.scores_changed} customers."))
    if result.score_examples:
        largest = Listing("customer", "score before", tested)
        for each in result.score_examples[:_FLIPS_SHOWN]:
            largest.add(str(each.customer_id), str(each.before), str(each.after))
        largest.print()
    if result.scores_changed > _FLIPS_SHOWN:
        note(
            f"Showing the {_FLIPS_SHOWN} largest changes; --json shows up to "
            f"{len(result.score_examples)}."
        )
    _print_comparison(decisions, "before", tested)
    if result.HasField("portfolio"):
        out.print()
        out.print(Text(f"The loan, asked for by {result.portfolio.compared} customers"))
        _print_comparison(result.portfolio, result.active_version, tested)


def _print_comparison(
    found: scorecard_pb2.OutcomeComparison, before_name: str, after_name: str
) -> None:
    table = Listing("", before_name, after_name)
    for name in ("approved", "declined", "referred"):
        before, after = getattr(found.before, name), getattr(found.after, name)
        if name != "referred" or before or after:
            table.add(name, _share(before, found.compared), _share(after, found.compared))
    for each in found.reasons:
        table.add(f"reason: {_reason(each)}", str(each.before), str(each.after))
    table.print()
    out.print(Text(f"Changed outcomes: {found.flips} decisions."))
    out.print(Text(f"Approved at another rate: {found.rates_changed} decisions."))
    if not found.flip_examples:
        return
    flips = Listing("decision", "customer", before_name, after_name, "reasons")
    for flip in found.flip_examples[:_FLIPS_SHOWN]:
        flips.add(
            str(flip.decision_id or ""),
            str(flip.customer_id),
            _outcome(flip.before).lower(),
            _outcome(flip.after).lower(),
            ", ".join(
                enum_name(code, decision_pb2.DeclineReasonCode) for code in flip.reason_codes
            ),
        )
    flips.print()
    if found.flips > _FLIPS_SHOWN:
        note(f"Showing the first {_FLIPS_SHOWN}; --json shows up to {len(found.flip_examples)}.")


def _counts(result: scorecard_pb2.BacktestResult) -> Listing:
    """Return the counts of a backtest before and after, each of how many."""
    table = Listing("comparison", "figure", "before", "after", "of")
    for low, high in _BANDS:
        within = [each for each in result.scores if low <= each.score <= high]
        before, after = sum(each.before for each in within), sum(each.after for each in within)
        table.add("scores", f"{low} to {high}", str(before), str(after), str(result.customers))
    table.add("scores", "changed", "", str(result.scores_changed), str(result.customers))
    _add_counts(table, "decisions", result.decisions)
    if result.HasField("portfolio"):
        _add_counts(table, "portfolio", result.portfolio)
    return table


def _add_counts(table: Listing, name: str, found: scorecard_pb2.OutcomeComparison) -> None:
    of = str(found.compared)
    for outcome in ("approved", "declined", "referred"):
        before, after = getattr(found.before, outcome), getattr(found.after, outcome)
        table.add(name, outcome, str(before), str(after), of)
    for each in found.reasons:
        table.add(name, _reason(each), str(each.before), str(each.after), of)
    table.add(name, "outcome changed", "", str(found.flips), of)
    table.add(name, "approved at another rate", "", str(found.rates_changed), of)


def _reason(counts: scorecard_pb2.ReasonCounts) -> str:
    code = enum_name(counts.code, decision_pb2.DeclineReasonCode)
    return f"{code} {counts.rule_code}" if counts.rule_code else code


def _outcome(number: decision_pb2.DecisionOutcome.ValueType) -> str:
    return enum_name(number, decision_pb2.DecisionOutcome)


def _share(part: int, whole: int) -> str:
    tenths = (part * 1000 + whole // 2) // whole if whole else 0
    return f"{part} ({tenths // 10}.{tenths % 10} %)"
