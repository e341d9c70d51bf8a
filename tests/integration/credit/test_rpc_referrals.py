"""Referrals as callers see them: a server that knows its callers."""

import time
from datetime import date, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import grpc
import pytest
from pydantic import SecretStr

from credit_service.settings import Settings
from credit_service.storage import event_stream
from credit_service.storage.database import Database
from credit_service.v1 import credit_service_pb2 as pb
from credit_service.v1 import decision_pb2, event_pb2, referral_pb2
from tests.integration.conftest import Edge, Refusal, refusal_of
from tests.integration.credit.test_referrals import activate_referring
from tests.integration.credit.test_rpc_credit import good_customer, loan_request
from tests.integration.rpc.test_identity_methods import ISSUER, KEY, bearing, token, write_keys

SCOPES = "credit.read credit.write credit.review"
# Longer than the tests of a busy machine take.
_EXPIRY = int(time.time()) + 86_400
MAKER, CHECKER = (
    bearing(token(sub=name, scope=SCOPES, exp=_EXPIRY)) for name in ("maker", "checker")
)
APPROVE = referral_pb2.REVIEW_VERDICT_APPROVE
DECLINE = referral_pb2.REVIEW_VERDICT_DECLINE
PENDING = referral_pb2.REFERRAL_STATE_PENDING


@pytest.fixture
def settings(database_url: str, tmp_path: Path) -> Settings:
    """A server that requires tokens, with a review period of 3 days."""
    write_keys(tmp_path / "keys.json", k1=KEY)
    return Settings(
        database_url=SecretStr(database_url),
        redis_url=None,
        listen="127.0.0.1:0",
        threads=12,
        token_keys=tmp_path / "keys.json",
        token_issuer=ISSUER,
        referral_days=3,
    )


@pytest.fixture
def referred(server: Edge, database: Database) -> pb.CreateLoanResponse:
    """The response to a loan whose tenure of 61 months is referred."""
    activate_referring(database)
    request = loan_request(good_customer(database), tenure_months=61)
    response: pb.CreateLoanResponse = server.credit.CreateLoan(request, metadata=MAKER)
    again = server.credit.CreateLoan(request, metadata=MAKER)
    assert again == response
    return response


def a_review(decision_id: int, **other: Any) -> pb.ReviewDecisionRequest:
    values = {
        "request_id": str(uuid4()),
        "decision_id": decision_id,
        "verdict": APPROVE,
        "reason": "Income checked by phone.",
    }
    return pb.ReviewDecisionRequest(**{**values, **other})


def day_of(message: Any) -> date:
    return date(message.year, message.month, message.day)


def refused(server: Edge, request: Any, metadata: Any = CHECKER) -> Refusal:
    with pytest.raises(grpc.RpcError) as caught:
        server.credit.ReviewDecision(request, metadata=metadata)
    return refusal_of(caught.value)


def test_a_referral_is_reviewed_by_another_caller(
    server: Edge, referred: pb.CreateLoanResponse
) -> None:
    assert referred.outcome == decision_pb2.DECISION_OUTCOME_REFERRED
    assert (referred.approved, referred.HasField("loan")) == (False, False)
    assert referred.referral.state == PENDING
    assert referred.referral.kind == referral_pb2.REFERRAL_KIND_LOAN
    query = pb.GetDecisionRequest(decision_id=referred.decision_id)
    decided_on = server.credit.GetDecision(query, metadata=MAKER).decision.decided_on
    assert day_of(referred.referral.last_day) - day_of(decided_on) == timedelta(days=3)
    own = refused(server, a_review(referred.decision_id), MAKER)
    assert (own.code, own.reason) == (
        grpc.StatusCode.PERMISSION_DENIED,
        "REVIEWER_IS_REQUESTER",
    )
    request = a_review(referred.decision_id)
    response = server.credit.ReviewDecision(request, metadata=CHECKER)
    assert response.decision.approved
    assert response.decision.reviewed_decision_id == referred.decision_id
    assert response.decision.principal == "checker"
    assert response.loan.loan_id == response.decision.loan_id
    assert response.referral.state == referral_pb2.REFERRAL_STATE_APPROVED
    assert response.referral.reviewer == "checker"
    assert response.referral.reason == "Income checked by phone."
    assert response.referral.result_decision_id == response.decision.decision_id
    assert server.credit.ReviewDecision(request, metadata=CHECKER) == response
    late = refused(server, a_review(referred.decision_id, verdict=DECLINE))
    assert (late.code, late.reason) == (
        grpc.StatusCode.FAILED_PRECONDITION,
        "REFERRAL_ALREADY_REVIEWED",
    )


def test_a_decline_has_no_new_decision(server: Edge, referred: pb.CreateLoanResponse) -> None:
    request = a_review(referred.decision_id, verdict=DECLINE)
    response = server.credit.ReviewDecision(request, metadata=CHECKER)
    assert response.decision.decision_id == referred.decision_id
    assert response.decision.outcome == decision_pb2.DECISION_OUTCOME_REFERRED
    assert response.decision.referral == response.referral
    assert response.referral.state == referral_pb2.REFERRAL_STATE_DECLINED
    assert not response.HasField("loan")
    assert server.credit.ReviewDecision(request, metadata=CHECKER) == response


def test_the_queue_is_a_filter_of_decisions(
    server: Edge, database: Database, referred: pb.CreateLoanResponse
) -> None:
    request = loan_request(good_customer(database), tenure_months=72)
    second = server.credit.CreateLoan(request, metadata=MAKER)
    server.credit.CreateLoan(loan_request(good_customer(database)), metadata=MAKER)
    query = pb.ListDecisionsRequest(referral_state=PENDING, page_size=1)
    first = server.credit.ListDecisions(query, metadata=CHECKER)
    query.page_token = first.next_page_token
    rest = server.credit.ListDecisions(query, metadata=CHECKER)
    found = [each.decision_id for page in (first, rest) for each in page.decisions]
    assert found == [second.decision_id, referred.decision_id]
    assert not rest.next_page_token
    # A token belongs to its filter.
    query.referral_state = referral_pb2.REFERRAL_STATE_DECLINED
    with pytest.raises(grpc.RpcError) as caught:
        server.credit.ListDecisions(query, metadata=CHECKER)
    assert refusal_of(caught.value).reason == "PAGE_TOKEN_INVALID"


def test_a_review_needs_its_scope_and_valid_fields(
    server: Edge, referred: pb.CreateLoanResponse
) -> None:
    writer = bearing(token(sub="checker", scope="credit.read credit.write"))
    denied = refused(server, a_review(referred.decision_id), writer)
    assert (denied.reason, denied.metadata) == (
        "PERMISSION_DENIED",
        {"required_scope": "credit.review"},
    )
    invalid = refused(server, a_review(0, request_id="", verdict=0, reason=" "))
    assert invalid.fields == {"request_id", "decision_id", "verdict", "reason"}
    assert refused(server, a_review(referred.decision_id, verdict=9)).fields == {"verdict"}
    unknown = refused(server, a_review(referred.decision_id + 100))
    assert unknown.code is grpc.StatusCode.NOT_FOUND


def test_watchers_see_the_referral_and_the_review(
    server: Edge, database: Database, referred: pb.CreateLoanResponse
) -> None:
    request = a_review(referred.decision_id, verdict=DECLINE)
    server.credit.ReviewDecision(request, metadata=CHECKER)
    # On a cluster watchers receive events after the step that follows.
    for _ in range(2):
        with database.transaction() as connection:
            event_stream.publish(connection, 100)
    types = (
        event_pb2.CREDIT_EVENT_TYPE_DECISION_REFERRED,
        event_pb2.CREDIT_EVENT_TYPE_DECISION_REVIEWED,
    )
    watch: Any = server.credit.WatchCreditEvents(
        pb.WatchCreditEventsRequest(event_types=types), metadata=CHECKER, timeout=30
    )
    first, second = next(watch).event, next(watch).event
    watch.cancel()
    assert first.decision_referred.decision_id == referred.decision_id
    assert first.decision_referred.rule_codes == ["LONG"]
    assert first.decision_referred.last_day == referred.referral.last_day
    assert first.decision_referred.ask.tenure_months == 61
    assert second.decision_reviewed == event_pb2.DecisionReviewed(
        decision_id=referred.decision_id, verdict=DECLINE
    )
