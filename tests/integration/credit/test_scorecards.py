"""ScorecardService as its callers see it."""

import json
import math
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any
from uuid import uuid4
from zoneinfo import ZoneInfo

import grpc
import pytest
from google.type.date_pb2 import Date
from google.type.money_pb2 import Money
from sqlalchemy import text

from credit_service.cache.positions import PositionCache
from credit_service.clock import Clock, Moment
from credit_service.commands.scorecards import decide_in_shadow, follow_schedule
from credit_service.domain.scorecard import STANDARD_DOCUMENT
from credit_service.queries import backtest as backtests
from credit_service.queries.credit import CreditQueries
from credit_service.rpc import scorecards as rpc_scorecards
from credit_service.rpc.server import CreditServer
from credit_service.settings import Settings
from credit_service.storage.database import Database
from credit_service.v1 import credit_service_pb2 as credit
from credit_service.v1 import decision_pb2, scorecard_pb2
from credit_service.v1 import scorecard_service_pb2 as pb
from tests.integration.conftest import Edge, Refusal, code_of, refusal_of
from tests.integration.portfolio import a_good_customer

INDIA = ZoneInfo("Asia/Kolkata")
TODAY = date(2026, 6, 10)
STATES = scorecard_pb2.ScorecardState
CHANGES = scorecard_pb2.ScorecardChangeType


class SetClock(Clock):
    """A clock that shows noon of a day until it is set."""

    def __init__(self) -> None:
        super().__init__()
        self.day = TODAY

    def moment(self) -> Moment:
        return Moment(datetime(*self.day.timetuple()[:3], 12, tzinfo=INDIA), self.day)


@dataclass(frozen=True, slots=True)
class Place:
    """A server with a set clock."""

    edge: Edge
    clock: SetClock
    database: Database

    def create(self, version: str, **fields: Any) -> scorecard_pb2.Scorecard:
        request = pb.CreateScorecardRequest(
            request_id=str(uuid4()), document=document(version, **fields)
        )
        return self.edge.scorecards.CreateScorecard(request).scorecard

    def activate(self, version: str, on: date | None = None) -> scorecard_pb2.Scorecard:
        request = pb.ActivateScorecardRequest(request_id=str(uuid4()), version=version)
        if on is not None:
            request.effective_on.CopyFrom(day_message(on))
        return self.edge.scorecards.ActivateScorecard(request).scorecard

    def try_out(self, version: str) -> scorecard_pb2.Scorecard:
        request = pb.SetTrialScorecardRequest(request_id=str(uuid4()), version=version)
        return self.edge.scorecards.SetTrialScorecard(request).scorecard

    def get(self, version: str = "") -> pb.GetScorecardResponse:
        return self.edge.scorecards.GetScorecard(pb.GetScorecardRequest(version=version))

    def retire(self, version: str) -> scorecard_pb2.Scorecard:
        request = pb.RetireScorecardRequest(request_id=str(uuid4()), version=version)
        return self.edge.scorecards.RetireScorecard(request).scorecard

    def deciding(self, customer_id: int) -> str:
        """The version by which CheckEligibility decides now."""
        request = credit.CheckEligibilityRequest(
            customer_id=customer_id, loan_amount=Money(units=10_000), tenure_months=12
        )
        request.interest_rate.value = "12"
        answer = self.edge.credit.CheckEligibility(request)
        return answer.credit_score.scorecard_version

    def states(self) -> dict[str, str]:
        """The states that servers of release 0.1.0 read, but that of prudent-1."""
        with self.database.autocommit() as connection:
            rows = connection.execute(
                text("SELECT version, state FROM scorecards WHERE version <> 'prudent-1'")
            )
            return {row[0]: row[1] for row in rows}

    def enqueued(self) -> set[tuple[str, str]]:
        with self.database.autocommit() as connection:
            rows = connection.execute(text("SELECT actor, subject FROM tasks"))
            return {(row[0], row[1]) for row in rows}


def document(version: str, **fields: Any) -> str:
    return json.dumps({**STANDARD_DOCUMENT, "version": version, **fields})


def day_message(day: date) -> Date:
    return Date(year=day.year, month=day.month, day=day.day)


def refused(call: Any, *arguments: Any) -> Refusal:
    with pytest.raises(grpc.RpcError) as caught:
        call(*arguments)
    return refusal_of(caught.value)


@pytest.fixture
def place(settings: Settings, database: Database) -> Iterator[Place]:
    clock = SetClock()
    running = CreditServer(settings, database, clock)
    running.start()
    with grpc.insecure_channel(str(running.address)) as channel:
        grpc.channel_ready_future(channel).result(timeout=20)
        yield Place(Edge.of(running, channel), clock, database)
    running.stop(grace_seconds=5)


def events_of(database: Database) -> list[tuple[str, str]]:
    with database.autocommit() as connection:
        rows = connection.execute(
            text(
                """SELECT payload ->> 'kind', payload ->> 'version' FROM events
                WHERE kind = 'scorecard_changed' ORDER BY event_seq"""
            )
        )
        return [(row[0], row[1]) for row in rows]


def test_a_created_scorecard_is_stored_and_not_used(place: Place) -> None:
    made = place.create("strict-1", income_share_bps=2_000)
    assert (made.version, made.state) == ("strict-1", STATES.SCORECARD_STATE_INACTIVE)
    assert json.loads(made.document)["income_share_bps"] == 2_000
    found = place.get("strict-1")
    assert found.scorecard == made
    (change,) = found.changes
    assert (change.type, change.version) == (CHANGES.SCORECARD_CHANGE_TYPE_CREATED, "strict-1")
    assert place.get().scorecard.version == "standard-1"
    # The same document again is the same scorecard.
    assert place.create("strict-1", income_share_bps=2_000) == made
    assert events_of(place.database) == [("CREATED", "strict-1")]
    taken = refused(place.create, "strict-1")
    assert (taken.code, taken.reason) == (
        grpc.StatusCode.ALREADY_EXISTS,
        "SCORECARD_VERSION_TAKEN",
    )


def test_a_document_is_checked_without_storing_it(place: Place) -> None:
    request = pb.CreateScorecardRequest(
        request_id=str(uuid4()), document=document("strict-1"), validate_only=True
    )
    checked = place.edge.scorecards.CreateScorecard(request).scorecard
    assert (checked.version, checked.state) == ("strict-1", STATES.SCORECARD_STATE_UNSPECIFIED)
    assert refused(place.get, "strict-1").reason == "SCORECARD_NOT_FOUND"
    request.document = document("strict-1", grace_days=-1, extra=1)
    wrong = refused(place.edge.scorecards.CreateScorecard, request)
    assert wrong.code is grpc.StatusCode.INVALID_ARGUMENT
    assert wrong.fields == {"document.grace_days", "document.extra"}


_KEYS = ("version", "components", "rate_slabs", "income_share_bps", "grace_days")


BAD: list[tuple[Any, set[str]]] = [
    (pb.CreateScorecardRequest(), {"request_id", "document"}),
    (pb.GetScorecardRequest(version="a b"), {"version"}),
    (pb.ListScorecardsRequest(page_size=-1), {"page_size"}),
    (pb.ListScorecardsRequest(page_token="x"), {"page_token"}),
    (pb.CompareScorecardsRequest(before_version="/"), {"before_version", "after"}),
    (
        pb.CompareScorecardsRequest(after_document="{}"),
        {f"after_document.{key}" for key in _KEYS},
    ),
    (
        pb.ActivateScorecardRequest(effective_on=Date(year=2026)),
        {"request_id", "version", "effective_on"},
    ),
    (pb.SetTrialScorecardRequest(), {"request_id", "trial"}),
    (pb.SetTrialScorecardRequest(end=False), {"request_id", "end"}),
    (pb.RetireScorecardRequest(version="\u0915"), {"request_id", "version"}),
]


def test_every_bad_field_is_named(place: Place) -> None:
    for message, fields in BAD:
        method = message.DESCRIPTOR.name.removesuffix("Request")
        wrong = refused(getattr(place.edge.scorecards, method), message)
        assert (wrong.code, wrong.fields) == (grpc.StatusCode.INVALID_ARGUMENT, fields), message


def test_unknown_versions_are_not_found(place: Place) -> None:
    calls = place.edge.scorecards
    for call in (place.get, place.activate, place.try_out, place.retire):
        wrong = refused(call, "none-1")
        assert (wrong.code, wrong.reason) == (grpc.StatusCode.NOT_FOUND, "SCORECARD_NOT_FOUND")
        assert wrong.metadata == {"scorecard_version": "none-1"}
    for request in (
        pb.CompareScorecardsRequest(before_version="none-1", after_version="standard-1"),
        pb.CompareScorecardsRequest(after_version="none-1"),
    ):
        assert refused(calls.CompareScorecards, request).reason == "SCORECARD_NOT_FOUND"


def test_scorecards_are_listed_in_pages_from_the_oldest(place: Place) -> None:
    for number in range(3):
        place.clock.day = TODAY + timedelta(days=300 + number)
        place.create(f"v-{number}")
    request, versions = pb.ListScorecardsRequest(page_size=2), []
    while True:
        page = place.edge.scorecards.ListScorecards(request)
        versions += [each.version for each in page.scorecards]
        assert not any(each.document for each in page.scorecards)
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token
    assert sorted(versions) == ["prudent-1", "standard-1", "v-0", "v-1", "v-2"]
    assert len(versions) == 5


def test_two_scorecards_are_compared_field_by_field(place: Place) -> None:
    place.create("strict-1", income_share_bps=2_000)
    calls = place.edge.scorecards
    stored = calls.CompareScorecards(pb.CompareScorecardsRequest(after_version="strict-1"))
    assert (stored.before_version, stored.after_version) == ("standard-1", "strict-1")
    (difference,) = stored.differences
    assert (difference.path, difference.before, difference.after) == (
        "income_share_bps",
        "5000",
        "2000",
    )
    draft = pb.CompareScorecardsRequest(
        before_version="strict-1", after_document=document("draft", income_share_bps=2_000)
    )
    assert not calls.CompareScorecards(draft).differences


def test_an_activated_scorecard_decides_and_the_former_one_comes_back(place: Place) -> None:
    customer_id = a_good_customer(place.database, place.clock.moment())
    place.create("strict-1", income_share_bps=2_000)
    active = place.activate("strict-1")
    assert active.state == STATES.SCORECARD_STATE_ACTIVE
    assert active.HasField("activated_time")
    assert place.get("standard-1").scorecard.state == STATES.SCORECARD_STATE_INACTIVE
    assert place.deciding(customer_id) == "strict-1"
    place.activate("strict-1")  # changes nothing
    place.activate("standard-1", TODAY)
    assert place.deciding(customer_id) == "standard-1"
    change = place.get("standard-1").changes[0]
    assert (change.type, change.previous_version) == (
        CHANGES.SCORECARD_CHANGE_TYPE_ACTIVATED,
        "strict-1",
    )
    assert change.effective_on == day_message(TODAY)
    kinds = [("CREATED", "strict-1"), ("ACTIVATED", "strict-1"), ("ACTIVATED", "standard-1")]
    assert events_of(place.database) == kinds
    assert ("recompute_scores", "all") in place.enqueued()


def test_a_scheduled_scorecard_decides_from_its_day_on_without_a_worker(place: Place) -> None:
    customer_id = a_good_customer(place.database, place.clock.moment())
    place.create("strict-1", income_share_bps=2_000)
    first, second = TODAY + timedelta(days=3), TODAY + timedelta(days=9)
    scheduled = place.activate("strict-1", first)
    assert scheduled.state == STATES.SCORECARD_STATE_INACTIVE
    assert scheduled.scheduled_on == day_message(first)
    place.activate("standard-1", second)
    assert place.deciding(customer_id) == "standard-1"
    place.clock.day = first - timedelta(days=1)
    assert place.deciding(customer_id) == "standard-1"
    last = second - timedelta(days=1)
    for day, version in ((first, "strict-1"), (last, "strict-1"), (second, "standard-1")):
        place.clock.day = day
        assert place.deciding(customer_id) == version
        assert place.get().scorecard.version == version
        assert place.get(version).scorecard.state == STATES.SCORECARD_STATE_ACTIVE
    assert place.states() == {"standard-1": "ACTIVE", "strict-1": "INACTIVE"}


def test_a_worker_makes_the_states_follow_the_schedule(place: Place) -> None:
    place.create("strict-1")
    place.try_out("strict-1")
    day = TODAY + timedelta(days=3)
    place.activate("strict-1", day)
    assert not follow_schedule(place.database, place.clock.moment())
    place.clock.day = day + timedelta(days=1)
    assert follow_schedule(place.database, place.clock.moment())
    assert not follow_schedule(place.database, place.clock.moment())
    assert place.states() == {"standard-1": "INACTIVE", "strict-1": "ACTIVE"}
    found = place.get("strict-1")
    assert not found.scorecard.HasField("scheduled_on")
    change = found.changes[0]
    assert change.type == CHANGES.SCORECARD_CHANGE_TYPE_ACTIVATED
    assert change.effective_on == day_message(day)
    assert [each.number for each in found.changes] == [4, 3, 2, 1]
    assert ("recompute_scores", "all") in place.enqueued()


def test_a_scheduled_activation_is_replaced_or_cancelled(place: Place) -> None:
    for version in ("a", "b"):
        place.create(version)
    day = TODAY + timedelta(days=3)
    place.activate("a", day)
    place.activate("b", day)
    assert not place.get("a").scorecard.HasField("scheduled_on")
    assert place.get("b").scorecard.scheduled_on == day_message(day)
    place.activate("standard-1", day)
    assert not place.get("b").scorecard.HasField("scheduled_on")
    assert not place.get("standard-1").scorecard.HasField("scheduled_on")
    place.clock.day = day
    assert place.get().scorecard.version == "standard-1"


def test_a_day_out_of_range_is_rejected(place: Place) -> None:
    for days in (-1, 367):
        wrong = refused(place.activate, "standard-1", TODAY + timedelta(days=days))
        assert (wrong.code, wrong.reason) == (
            grpc.StatusCode.FAILED_PRECONDITION,
            "ACTIVATION_DAY_OUT_OF_RANGE",
        )


def test_a_trial_starts_changes_and_ends(place: Place) -> None:
    for version in ("a", "b"):
        place.create(version)
    assert place.try_out("a").state == STATES.SCORECARD_STATE_TRIAL
    assert place.try_out("b").state == STATES.SCORECARD_STATE_TRIAL
    assert place.get("a").scorecard.state == STATES.SCORECARD_STATE_INACTIVE
    wrong = refused(place.try_out, "standard-1")
    assert (wrong.reason, wrong.metadata["state"]) == ("SCORECARD_IN_USE", "ACTIVE")
    end = pb.SetTrialScorecardRequest(request_id=str(uuid4()), end=True)
    assert not place.edge.scorecards.SetTrialScorecard(end).HasField("scorecard")
    assert place.get("b").changes[0].type == CHANGES.SCORECARD_CHANGE_TYPE_TRIAL_ENDED
    end.request_id = str(uuid4())
    place.edge.scorecards.SetTrialScorecard(end)  # changes nothing
    assert len(place.get("b").changes) == 3


def test_a_retired_scorecard_is_used_no_more(place: Place) -> None:
    place.create("a")
    assert refused(place.retire, "standard-1").metadata["state"] == "ACTIVE"
    place.try_out("a")
    assert refused(place.retire, "a").metadata["state"] == "TRIAL"
    place.activate("a", TODAY + timedelta(days=1))
    place.create("b")
    place.try_out("b")
    assert refused(place.retire, "a").metadata["state"] == "SCHEDULED"
    place.activate("standard-1", TODAY + timedelta(days=1))
    assert place.retire("a").state == STATES.SCORECARD_STATE_RETIRED
    assert place.retire("a").state == STATES.SCORECARD_STATE_RETIRED
    for call in (place.activate, place.try_out):
        assert refused(call, "a").reason == "SCORECARD_RETIRED"


def test_a_repeated_request_has_one_effect(place: Place) -> None:
    calls = place.edge.scorecards
    place.create("a")
    request = pb.ActivateScorecardRequest(request_id=str(uuid4()), version="a")
    calls.ActivateScorecard(request)
    place.activate("standard-1")
    # The repeat does not activate it again.
    repeated = calls.ActivateScorecard(request).scorecard
    assert repeated.state == STATES.SCORECARD_STATE_INACTIVE
    assert place.get().scorecard.version == "standard-1"
    request.effective_on.CopyFrom(day_message(TODAY + timedelta(days=1)))
    assert refused(calls.ActivateScorecard, request).reason == "REQUEST_ID_REUSED"
    other = pb.RetireScorecardRequest(request_id=request.request_id, version="a")
    assert refused(calls.RetireScorecard, other).reason == "REQUEST_ID_REUSED"


def test_a_repeat_of_a_request_without_an_effect_has_none_either(place: Place) -> None:
    calls = place.edge.scorecards
    place.create("a")
    activate = pb.ActivateScorecardRequest(request_id=str(uuid4()), version="standard-1")
    end = pb.SetTrialScorecardRequest(request_id=str(uuid4()), end=True)
    calls.ActivateScorecard(activate)
    calls.SetTrialScorecard(end)
    history = list(place.get("standard-1").changes)
    place.activate("a")
    place.try_out("standard-1")
    # Others made these changes meanwhile.
    calls.ActivateScorecard(activate)
    calls.SetTrialScorecard(end)
    assert place.states() == {"a": "ACTIVE", "standard-1": "SHADOW"}
    activate.version = "a"
    assert refused(calls.ActivateScorecard, activate).reason == "REQUEST_ID_REUSED"
    assert history == list(place.get("standard-1").changes)[1:]


def test_activations_at_once_leave_one_active_scorecard(place: Place) -> None:
    versions = [f"v-{number}" for number in range(6)]
    for version in versions:
        place.create(version)
    with ThreadPoolExecutor(6) as executor:
        list(executor.map(place.activate, versions))
    assert sorted(place.states().values()) == ["ACTIVE", *["INACTIVE"] * 6]
    with place.database.autocommit() as connection:
        rows = connection.execute(
            text(
                """SELECT version, previous_version FROM scorecard_changes
                WHERE kind = 'ACTIVATED' ORDER BY change_number"""
            )
        ).all()
    # Each one replaced the one before it.
    assert [row[1] for row in rows] == ["standard-1", *[row[0] for row in rows[:-1]]]
    assert place.get().scorecard.version == rows[-1][0]


def test_the_known_version_ends_with_its_day(
    place: Place, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The position is in the cache on both days, and the active version was confirmed just now."""
    monkeypatch.setattr("credit_service.queries.credit._ACTIVE_VERSION_SECONDS", 3_600.0)
    customer_id = a_good_customer(place.database, place.clock.moment())
    place.create("a")
    place.activate("a", TODAY + timedelta(days=1))
    cache = PositionCache(redis_url, timeout_seconds=5.0)
    queries = CreditQueries(place.database, cache)
    assert queries.snapshot(customer_id, place.clock.moment()).scorecard.version == "standard-1"
    deadline = time.monotonic() + 20
    while cache.get(customer_id, TODAY) is None:
        assert time.monotonic() < deadline, "the cache was not filled"
        time.sleep(0.01)
    place.clock.day += timedelta(days=1)
    moment = place.clock.moment()
    assert cache.get(customer_id, moment.today) is not None
    assert queries.snapshot(customer_id, moment).scorecard.version == "a"
    many = queries.snapshots([customer_id], moment)
    assert many.scorecard is not None
    assert many.scorecard.version == "a"
    cache.close()


# Trials and backtests.


ASK = pb.PortfolioAsk(loan_amount=Money(units=500_000), tenure_months=24)
ASK.interest_rate.value = "12"


def apply(place: Place, customer_id: int, units: int) -> credit.CreateLoanResponse:
    request = credit.CreateLoanRequest(
        request_id=str(uuid4()),
        customer_id=customer_id,
        loan_amount=Money(units=units),
        tenure_months=24,
    )
    request.interest_rate.value = "12"
    return place.edge.credit.CreateLoan(request)


def backtested(place: Place, **fields: Any) -> list[pb.BacktestScorecardResponse]:
    request = pb.BacktestScorecardRequest(**fields)
    return list(place.edge.scorecards.BacktestScorecard(request, timeout=60))


def test_a_trial_is_set_beside_the_real_decisions(place: Place) -> None:
    customer_id = a_good_customer(place.database, place.clock.moment())
    place.create("strict-1", income_share_bps=500)
    place.try_out("strict-1")
    made = [apply(place, customer_id, units).decision_id for units in (500_000, 1_000)]
    for decision_id in made:
        decide_in_shadow(place.database, decision_id)
    calls = place.edge.scorecards
    for request in (pb.GetTrialResultsRequest(), pb.GetTrialResultsRequest(version="strict-1")):
        found = calls.GetTrialResults(request)
        assert found.version == "strict-1"
        results = found.results
        assert (results.compared, results.before.approved) == (2, 2)
        assert (results.flips, results.after.declined) == (2, 2)
        assert [each.decision_id for each in results.flip_examples] == made[::-1]
        (reason,) = results.reasons
        assert reason.code == decision_pb2.DECLINE_REASON_CODE_EMI_BURDEN_TOO_HIGH
        assert list(reason.examples) == made[::-1]
    end = pb.SetTrialScorecardRequest(request_id=str(uuid4()), end=True)
    calls.SetTrialScorecard(end)
    missing = refused(calls.GetTrialResults, pb.GetTrialResultsRequest())
    assert missing.reason == "SCORECARD_NOT_FOUND"


def test_a_backtest_decides_on_stored_decisions_and_the_portfolio(place: Place) -> None:
    moment = place.clock.moment()
    good = [a_good_customer(place.database, moment) for _ in range(3)]
    decision_id = apply(place, good[0], 500_000).decision_id
    first, *others = backtested(
        place, document=document("draft", income_share_bps=500), portfolio_ask=ASK
    )
    assert (first.progress.decisions_total, first.progress.customers_total) == (1, 3)
    result = others[-1].result
    assert (result.active_version, result.tested_version) == ("standard-1", "draft")
    assert result.day == day_message(TODAY)
    assert [each.decision_id for each in result.decisions.flip_examples] == [decision_id]
    assert (result.customers, sum(each.before for each in result.scores)) == (3, 3)
    assert (result.scores_changed, list(result.score_examples)) == (0, [])
    portfolio = result.portfolio
    assert (portfolio.compared, portfolio.before.approved) == (3, 3)
    assert (portfolio.after.declined, portfolio.flips) == (3, 3)
    assert [each.customer_id for each in portfolio.flip_examples] == sorted(good)
    assert list(portfolio.reasons[0].examples) == sorted(good)
    # Nothing is stored.
    assert refused(place.get, "draft").reason == "SCORECARD_NOT_FOUND"


def test_a_backtest_leaves_out_what_is_not_wanted(place: Place) -> None:
    customer_id = a_good_customer(place.database, place.clock.moment())
    apply(place, customer_id, 500_000)
    only = backtested(place, version="standard-1", skip_decisions=True)[-1].result
    assert (only.HasField("decisions"), only.HasField("portfolio")) == (False, False)
    assert only.customers == 1
    only = backtested(place, version="standard-1", skip_portfolio=True)[-1].result
    assert (only.decisions.compared, only.customers) == (1, 0)
    assert (only.decisions.flips, only.decisions.rates_changed) == (0, 0)


def test_outdated_positions_are_computed_for_a_backtest(place: Place) -> None:
    """The next year has begun, and no worker has refreshed the positions."""
    a_good_customer(place.database, place.clock.moment())
    place.clock.day += timedelta(days=400)
    result = backtested(place, version="standard-1", portfolio_ask=ASK)[-1].result
    assert (result.customers, result.portfolio.before.approved) == (1, 1)
    assert result.day == day_message(place.clock.day)


def test_decisions_without_facts_are_left_out_of_a_policys_backtest(place: Place) -> None:
    customer_id = a_good_customer(place.database, place.clock.moment())
    decision_id = apply(place, customer_id, 500_000).decision_id
    rule = {
        "code": "YOUNG",
        "condition": "age < 120",
        "outcome": "REFER",
        "message": "The customer is young.",
    }
    draft = document("policy-1", rules=[rule])
    result = backtested(place, document=draft, portfolio_ask=ASK)[-1].result
    assert (result.decisions_without_facts, result.decisions.compared) == (1, 0)
    # A trial that started after the decision leaves it out too.
    place.create("policy-1", rules=[rule])
    place.try_out("policy-1")
    decide_in_shadow(place.database, decision_id)
    trial = place.edge.scorecards.GetTrialResults(pb.GetTrialResultsRequest())
    assert trial.results.compared == 0
    # The portfolio has the facts of today.
    assert result.portfolio.after.referred == 1
    assert result.portfolio.reasons[0].rule_code == "YOUNG"


def test_an_unknown_version_cannot_be_tested(place: Place) -> None:
    missing = refused(backtested, place)
    assert missing.fields == {"scorecard"}
    request = pb.BacktestScorecardRequest(version="none-1")
    found = refused(lambda: list(place.edge.scorecards.BacktestScorecard(request)))
    assert found.reason == "SCORECARD_NOT_FOUND"


def test_a_backtest_ends_when_its_caller_goes(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An endless backtest, one that waits for it, and one after it."""
    # After the first message it sends none, so that grpc does not end it.
    monkeypatch.setattr(rpc_scorecards, "_PROGRESS_SECONDS", math.inf)
    batches = []

    def endless(*_: object, **__: object) -> Iterator[backtests.Progress]:
        while True:
            batches.append(1)
            yield backtests.Progress(0, 0, 0, 0)
            threading.Event().wait(0.01)

    request = pb.BacktestScorecardRequest(version="standard-1")
    with monkeypatch.context() as patched:
        patched.setattr(rpc_scorecards, "backtest", endless)
        call: Any = place.edge.scorecards.BacktestScorecard(request)
        next(call)
        waiting: Any = place.edge.scorecards.BacktestScorecard(request, timeout=0.5)
        with pytest.raises(grpc.RpcError) as caught:
            next(waiting)
        assert code_of(caught.value) is grpc.StatusCode.DEADLINE_EXCEEDED
        call.cancel()
    # Waits until the first one has ended.
    assert backtested(place, version="standard-1")[-1].HasField("result")
    before = len(batches)
    assert before > 1
    backtested(place, version="standard-1")
    assert len(batches) == before


def test_a_server_that_stops_ends_a_backtest(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def endless(*_: object, **__: object) -> Iterator[backtests.Progress]:
        while True:
            yield backtests.Progress(0, 0, 0, 0)
            threading.Event().wait(0.01)

    monkeypatch.setattr(rpc_scorecards, "_PROGRESS_SECONDS", math.inf)
    monkeypatch.setattr(rpc_scorecards, "backtest", endless)
    call: Any = place.edge.scorecards.BacktestScorecard(
        pb.BacktestScorecardRequest(version="standard-1")
    )
    next(call)
    place.edge.server._stopping.set()
    with pytest.raises(grpc.RpcError) as caught:
        list(call)
    assert refusal_of(caught.value).reason == "SHUTTING_DOWN"
