"""More rules of the state machine: scorecards that are activated, referrals and their reviews,
batches of checks."""

from datetime import date, timedelta
from typing import Any, ClassVar

import grpc
from grpc_status import rpc_status
from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule
from sqlalchemy import text

from credit_service.storage.database import Database
from credit_service.v1 import (
    credit_service_pb2,
    decision_pb2,
    referral_pb2,
    scorecard_pb2,
    scorecard_service_pb2,
)
from tests.model.bank import LAKH, RUPEE
from tests.model.loans import Facts, first_unpaid_due
from tests.model.machine import START_DAYS, ServiceAndModel
from tests.model.policies import PRUDENT, STANDARD
from tests.model.wire import day_of, money_of, outcome_of, to_day, to_rate

_customer = st.integers(0, 5)
_version = st.sampled_from([STANDARD, PRUDENT])
_verdict = st.sampled_from(["APPROVE", "APPROVE", "DECLINE"])


class PolicyService(ServiceAndModel):
    """The rules about decisions with a policy."""

    database: ClassVar[Database]

    def __init__(self) -> None:
        super().__init__()
        # Of the decisions that approvals of reviewers made.
        self.outcomes: list[str] = []

    @initialize(day=st.sampled_from(START_DAYS))
    def begin(self, day: date) -> None:
        # Other runs were at later days.
        with self.database.transaction() as connection:
            connection.execute(text("DELETE FROM scorecard_schedule"))
            connection.execute(
                text("UPDATE scorecards SET state = 'INACTIVE' WHERE state = 'ACTIVE'")
            )
            connection.execute(
                text("UPDATE scorecards SET state = 'ACTIVE' WHERE version = :version"),
                {"version": STANDARD},
            )
        super().begin(day)

    # Scorecards.

    @rule(version=_version, days=st.sampled_from([0, 1, 1, 28, 31, -1, 367]))
    def activate_a_scorecard(self, version: str, days: int) -> None:
        """Let a scorecard decide from today or a coming day on."""
        day = self.bank.today + timedelta(days=days)
        request = scorecard_service_pb2.ActivateScorecardRequest(
            request_id=self._request_id(), version=version, effective_on=to_day(day)
        )
        answer = outcome_of(self._answer_of, self.edge.scorecards.ActivateScorecard, request)
        if not 0 <= days <= 366:
            assert answer == "ACTIVATION_DAY_OUT_OF_RANGE"
            return
        assert not isinstance(answer, str), answer
        self.bank.activate(version, day)

    @rule(version=_version, days=st.sampled_from([1, 2]), early=st.sampled_from([0, 0, 1]))
    def pass_an_activation(self, version: str, days: int, early: int) -> None:
        """Activate a scorecard on a day ahead, move the clock to that day or the one before, and
        read what it decides on."""
        self.activate_a_scorecard(version, days)
        if early < days:
            self._set_day(self.bank.today + timedelta(days=days - early))
        self.read_a_scorecard(version)
        for place in range(len(self.bank.customers)):
            self.read_a_score(place)
            # Often more than the limit: the counter-offer shows the debt that counts.
            self.check(place, 34 * LAKH, 0, 480)
        self.apply(0, LAKH, 1600, 12)
        request = credit_service_pb2.GetDecisionRequest(decision_id=self.decision_ids[-1])
        decision = self.edge.credit.GetDecision(request, timeout=30).decision
        assert decision.scorecard_version == self.bank.scorecard(self.bank.today)

    @rule(version=_version)
    def read_a_scorecard(self, version: str) -> None:
        """Compare whether it decides today, and the first coming day from which it does."""
        request = scorecard_service_pb2.GetScorecardRequest(version=version)
        found = self.edge.scorecards.GetScorecard(request, timeout=30).scorecard
        is_active = self.bank.scorecard(self.bank.today) == version
        state = scorecard_pb2.ScorecardState.Name(found.state)
        assert (state == "SCORECARD_STATE_ACTIVE") == is_active
        coming = [
            day
            for day, scheduled in self.bank.schedule.items()
            if day > self.bank.today and scheduled == version
        ]
        on = day_of(found.scheduled_on) if found.HasField("scheduled_on") else None
        assert on == min(coming, default=None)

    # Referrals.

    @precondition(lambda self: self.decision_ids)
    @rule(which=st.integers(0, 5), verdict=_verdict)
    def review(self, which: int, verdict: str) -> None:
        """Review one of the latest decisions; most do not wait for it."""
        self._review(self.decision_ids[-6:][which % len(self.decision_ids[-6:])], verdict)

    @rule(
        place=_customer,
        units=st.sampled_from([10_000, 50_000]),
        is_offer=st.booleans(),
        late=st.sampled_from([0, 5, 29, 30]),
        meanwhile=st.sampled_from(["nothing", "nothing", "payment", "loan", "standard"]),
        days=st.sampled_from([0, 0, 7, 8, 8]),
        verdict=_verdict,
    )
    def refer_and_review(
        self,
        place: int,
        units: int,
        late: int,
        meanwhile: str,
        days: int,
        verdict: str,
        *,
        is_offer: bool,
    ) -> None:
        """Let a customer in arrears apply under the prudent scorecard, let something happen, and
        review the request, often twice."""
        place, due = self._a_debtor(place)
        number = self._a_customer(place)
        if due is not None and due + timedelta(days=late) > self.bank.today:
            self._set_day(due + timedelta(days=late))
        self.activate_a_scorecard(PRUDENT, 0)
        before = len(self.decision_ids)
        if is_offer:
            self.offer(place, units * RUPEE, 1600, 12, 3)
        else:
            self.apply(place, units * RUPEE, 1600, 12)
        if len(self.decision_ids) == before:
            return
        decision_id = self.decision_ids[-1]
        if days:
            self._set_day(self.bank.today + timedelta(days=days))
        match meanwhile:
            case "payment":
                overdue = [
                    (key, loan["life"].overdue(self.bank.today))
                    for key, loan in self.bank.loans.items()
                    if key[0] == number and loan["life"].overdue(self.bank.today)
                ]
                for key, amount in overdue[:1]:
                    self._pay(key, amount, self.bank.today)
            case "loan":
                self.apply(place, LAKH, 1600, 12)
            case "standard":
                self.activate_a_scorecard(STANDARD, 0)
        self._review(decision_id, verdict)
        self._review(decision_id, "APPROVE")

    def _a_debtor(self, place: int) -> tuple[int, date | None]:
        """The place of a customer and the due date of the oldest unpaid installment; not one with
        arrears of more than 30 days if there is another."""
        dues = [first_unpaid_due(self.bank.lives(each)) for each in sorted(self.bank.customers)]
        oldest = self.bank.today - timedelta(days=29)
        good = [at for at, due in enumerate(dues) if due is not None and due >= oldest]
        place = good[place % len(good)] if good else place % len(dues)
        return place, dues[place]

    def _review(self, decision_id: int, verdict: str) -> None:
        request = credit_service_pb2.ReviewDecisionRequest(
            request_id=self._request_id(),
            decision_id=decision_id,
            verdict=referral_pb2.ReviewVerdict.Value(f"REVIEW_VERDICT_{verdict}"),
            reason="known to the branch",
        )
        answer = self._ask(self.edge.credit.ReviewDecision, request)
        refusal = outcome_of(self.bank.refuse_review, decision_id)
        if isinstance(refusal, str):
            assert answer == refusal
            return
        assert not isinstance(answer, str), answer
        if verdict == "DECLINE":
            self.bank.review(decision_id, "DECLINED")
            assert answer.decision.decision_id == decision_id
            assert not answer.HasField("loan")
            assert not answer.HasField("offer")
        else:
            self._approved(answer, decision_id)
        self._same_referral(answer.referral, decision_id)

    def _approved(self, answer: Any, decision_id: int) -> None:
        """Compare the decision that an approval made, and what it booked or offers."""
        referral = self.bank.referrals[decision_id]
        number, asked, until = referral["customer"], referral["asked"], referral["offered_until"]
        made = answer.decision
        assert made.reviewed_decision_id == decision_id
        self.outcomes.append(
            decision_pb2.DecisionOutcome.Name(made.outcome).removeprefix("DECISION_OUTCOME_")
        )
        self._same_decision(made, number, asked, is_reviewed=True)
        self.bank.decides(number, is_approved=made.approved)
        self.bank.review(decision_id, "APPROVED", made.decision_id)
        assert answer.HasField("loan") == (made.approved and until is None)
        assert answer.HasField("offer") == (made.approved and until is not None)
        if answer.HasField("loan"):
            self.bank.book(number, answer.loan.loan_id, asked)
            self._same_loan(answer.loan)
        if answer.HasField("offer"):
            # The requested last day, unless it has passed.
            left = (until - self.bank.today).days
            self.bank.offer(number, answer.offer.offer_id, asked, left if left >= 0 else 3)
            self._same_offer_as_made(answer.offer)

    def _same_referral(self, message: Any, decision_id: int) -> None:
        referral = self.bank.referrals[decision_id]
        state = referral_pb2.ReferralState.Name(message.state)
        assert state == f"REFERRAL_STATE_{self.bank.referral_state(referral)}"
        assert day_of(message.last_day) == referral["last_day"]
        assert message.result_decision_id == referral["result"]
        kind = referral_pb2.ReferralKind.Name(message.kind).removeprefix("REFERRAL_KIND_")
        assert kind == ("LOAN" if referral["offered_until"] is None else "OFFER")

    @rule(place=_customer, state=st.sampled_from(["PENDING", "APPROVED", "DECLINED", "EXPIRED"]))
    def list_referrals(self, place: int, state: str) -> None:
        number = self._a_customer(place)
        request = credit_service_pb2.ListDecisionsRequest(
            customer_id=number,
            page_size=1000,
            referral_state=referral_pb2.ReferralState.Value(f"REFERRAL_STATE_{state}"),
        )
        answer = self.edge.credit.ListDecisions(request, timeout=30)
        known = [
            decision_id
            for decision_id, referral in self.bank.referrals.items()
            if referral["customer"] == number and self.bank.referral_state(referral) == state
        ]
        assert [each.decision_id for each in answer.decisions] == sorted(known, reverse=True)
        for each in answer.decisions:
            self._same_referral(each.referral, each.decision_id)

    # Batches.

    @rule(
        asks=st.lists(
            st.fixed_dictionaries(
                {
                    # The last place is of an unknown customer.
                    "place": st.integers(0, 6),
                    "principal": st.sampled_from([1, 100, 33_333, LAKH, 5 * LAKH, 12 * LAKH]),
                    "bps": st.sampled_from([0, 1200, 1600, 10_000]),
                    "tenure": st.sampled_from([0, 1, 12, 480]),
                }
            ),
            min_size=1,
            max_size=5,
        )
    )
    def check_a_batch(self, asks: list[Facts]) -> None:
        """Compare each result with the answer to a single check, byte for byte, and with the
        model."""
        requests = [
            credit_service_pb2.CheckEligibilityRequest(
                customer_id=self.base + 999
                if ask["place"] == 6
                else self._a_customer(ask["place"]),
                loan_amount=money_of(ask["principal"]),
                interest_rate=to_rate(ask["bps"]),
                tenure_months=ask["tenure"],
            )
            for ask in asks
        ]
        batch = credit_service_pb2.BatchCheckEligibilityRequest(asks=requests)
        results = self.edge.credit.BatchCheckEligibility(batch, timeout=30).results
        for ask, request, result in zip(asks, requests, results, strict=True):
            terms = ask["principal"], ask["bps"], ask["tenure"]
            single = self._single(request)
            for each in (result, single):
                if each.HasField("eligibility"):
                    each.eligibility.credit_score.ClearField("computed_time")
            assert result == single
            if single.HasField("eligibility"):
                self._same_decision(single.eligibility, request.customer_id, terms)

    def _single(self, request: Any) -> Any:
        """The result of a batch with only this check, from a single call."""
        try:
            answer = self.edge.credit.CheckEligibility(request, timeout=30)
        except grpc.RpcError as error:
            call: Any = error
            return credit_service_pb2.EligibilityResult(error=rpc_status.from_call(call))
        return credit_service_pb2.EligibilityResult(eligibility=answer)
