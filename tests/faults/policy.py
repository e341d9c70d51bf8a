"""The scorecard of a campaign that refers requests, and its activation for the next day."""

import json
from datetime import timedelta
from uuid import uuid4

import grpc
from google.type.date_pb2 import Date

from credit_service.clock import Clock
from credit_service.domain.scorecard import STANDARD_DOCUMENT
from credit_service.v1 import scorecard_service_pb2
from credit_service.v1.scorecard_service_pb2_grpc import ScorecardServiceStub

VERSION = "campaign-1"
_DOCUMENT = {
    **STANDARD_DOCUMENT,
    "version": VERSION,
    "rules": [
        {
            "code": "FOR_A_REVIEWER",
            "condition": "loan_amount > 160000 && loan_amount <= 200000",
            "outcome": "REFER",
            "message": "A reviewer decides on loans of ₹1,600 to ₹2,000.",
        },
    ],
}
_CALL_SECONDS = 60.0


def schedule(address: str, clock: Clock) -> None:
    """Store the scorecard, and let it decide from the day after today on. It refers one of five
    requests; the first step of the clock makes it active."""
    day = clock.moment().today + timedelta(days=1)
    with grpc.insecure_channel(address) as opened:
        stub = ScorecardServiceStub(opened)
        document = json.dumps(_DOCUMENT)
        stub.CreateScorecard(
            scorecard_service_pb2.CreateScorecardRequest(
                request_id=str(uuid4()), document=document
            ),
            timeout=_CALL_SECONDS,
        )
        stub.ActivateScorecard(
            scorecard_service_pb2.ActivateScorecardRequest(
                request_id=str(uuid4()),
                version=VERSION,
                effective_on=Date(year=day.year, month=day.month, day=day.day),
            ),
            timeout=_CALL_SECONDS,
        )
