"""Backtests of scorecards, and what a trial decided."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from starlette.exceptions import HTTPException
from starlette.responses import Response

from credit_service.client import display
from credit_service.console import fields
from credit_service.console.backtests import MAX_RUNNING, Backtest, TooManyBacktestsError
from credit_service.console.formats import MAX_INT32, Typed
from credit_service.console.page import Page, Problem
from credit_service.v1 import decision_pb2
from credit_service.v1 import scorecard_service_pb2 as pb
from credit_service.v1.scorecard_pb2 import OutcomeComparison

ASK = ("loan_amount", "interest_rate", "tenure_months")
_MAX_LISTED = 1_000


def form(page: Page) -> Response:
    """The form to start a backtest."""
    values = page.typed_before() or {"version": page.query.get("version", "")}
    return _form(page, values, {}, "")


def start(page: Page) -> Response:
    """Start a backtest, and redirect to its page."""
    request, problems = _read(page.form)
    if problems:
        return _form(page, page.form, fields.beside(ASK, (), problems), "")
    try:
        started = page.console.backtests.start(page.service, page.session.session_id, request)
    except TooManyBacktestsError:
        sentence = f"{MAX_RUNNING} backtests run already. Wait until one has ended."
        return _form(page, page.form, {}, sentence)
    return page.redirect(f"/qa/backtests/{started.backtest_id}")


def _read(values: Mapping[str, str]) -> tuple[pb.BacktestScorecardRequest, dict[str, str]]:
    typed = Typed(values)
    request = pb.BacktestScorecardRequest(version=typed.text("version"))
    if any(typed.text(name) for name in ASK):
        request.portfolio_ask.CopyFrom(
            pb.PortfolioAsk(
                loan_amount=typed.money("loan_amount"),
                interest_rate=typed.rate("interest_rate"),
                tenure_months=typed.whole("tenure_months", MAX_INT32),
            )
        )
    return request, typed.problems


def _form(
    page: Page, values: Mapping[str, str], problems: dict[str, str], refusal: str
) -> Response:
    listed = page.service.scorecards(pb.ListScorecardsRequest(page_size=_MAX_LISTED)).scorecards
    status: int = HTTPStatus.OK
    if problems or refusal:
        status = HTTPStatus.TOO_MANY_REQUESTS if refusal else HTTPStatus.BAD_REQUEST
    return page.render(
        "backtest.html",
        status,
        versions=[each.version for each in listed],
        values=values,
        problems=problems,
        refusal=refusal,
        planned=page.planned(
            pb.BacktestScorecardRequest(version=values.get("version", "") or "prudent-1")
        ),
    )


def show(page: Page) -> Response:
    """A backtest: its progress, then its result."""
    return page.render("backtested.html", **_state(page))


def progress(page: Page) -> Response:
    """Only the progress, requested every half second."""
    return page.render("_backtest.html", **_state(page))


def _state(page: Page) -> dict[str, Any]:
    found = page.console.backtests.find(page.path_uuid("backtest_id"), page.session.session_id)
    if found is None:
        raise HTTPException(
            HTTPStatus.NOT_FOUND,
            "This console has no such backtest of yours. Start it again.",
        )
    return {
        "backtest": found,
        "progress": found.progress,
        "done": _done(found),
        "total": found.progress.decisions_total + found.progress.customers_total,
        "result": found.result,
        "reasons": {
            name: reason_lines(getattr(found.result, name)) for name in ("decisions", "portfolio")
        }
        if found.result is not None
        else {},
        "problem": None if found.error is None else Problem(found.error),
    }


def _done(found: Backtest) -> int:
    done: int = found.progress.decisions_done + found.progress.customers_done
    return done


def reason_lines(comparison: OutcomeComparison) -> list[tuple[str, str, int, int, list[int]]]:
    """Return each reason: its name in words, the code of the rule, its numbers before and after,
    and the ids of examples."""
    return [
        (
            display.words(display.enum_name(each.code, decision_pb2.DeclineReasonCode)),
            each.rule_code,
            each.before,
            each.after,
            list(each.examples),
        )
        for each in comparison.reasons
    ]


def trial(page: Page) -> Response:
    """What the trial decided beside the real decisions."""
    found = page.service.trial_results(page.query.get("version", "").strip())
    return page.render(
        "trial.html",
        version=found.version,
        results=found.results,
        reasons=reason_lines(found.results),
    )
