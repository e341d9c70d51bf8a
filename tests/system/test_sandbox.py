"""`up --sandbox`: a service that lives through a made-up year, made by calls alone."""

import time
from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path
from typing import Any

from credit_service.clock import Clock
from credit_service.sandbox.agenda import SteppedClock
from credit_service.sandbox.year import Size, Year
from credit_service.v1 import credit_service_pb2 as pb
from credit_service.v1 import decision_pb2, ingestion_pb2, scorecard_pb2
from credit_service.v1 import ingestion_service_pb2 as ingestions
from credit_service.v1 import scorecard_service_pb2 as scorecards
from credit_service_client.client import CreditClient
from credit_service_client.values import as_date
from tests.system.up import credit_service, environment, up

SIZE = Size(days=75, customers=110, loans=160, registrations_a_day=1, asks_a_day=4)


def _all(pages: Iterable[Any], name: str) -> list[Any]:
    return [each for page in pages for each in getattr(page, name)]


def test_a_short_year_has_something_of_everything(tmp_path: Path) -> None:
    clock_file = tmp_path / "clock"
    today = Clock().moment().today
    SteppedClock(clock_file).set(today - timedelta(days=SIZE.days), 0)
    said: list[str] = []
    with (
        up(CREDIT_CLOCK_OFFSET_FILE=str(clock_file)) as running,
        CreditClient(running.address) as client,
    ):
        year = Year(client, SteppedClock(clock_file), today, said.append, SIZE)
        year.live()
        counts = year.world.counts
        for what in ("registrations", "checks", "loans", "offers", "accepted offers", "payments"):
            assert counts[what] > 5, counts
        assert counts["files"] == 7
        assert said
        assert clock_file.read_text() == "0"

        decisions = _all(
            client.pages(client.credit.ListDecisions, pb.ListDecisionsRequest()), "decisions"
        )
        days = {as_date(each.decided_on) for each in decisions}
        assert len(days) > 30
        assert max(days) == today
        outcomes = {each.outcome for each in decisions}
        assert decision_pb2.DECISION_OUTCOME_DECLINED in outcomes
        late = client.credit.ListDelinquentLoans(pb.ListDelinquentLoansRequest())
        assert late.loans
        states = {
            each.state
            for each in _all(
                client.pages(client.ingestions.ListIngestions, ingestions.ListIngestionsRequest()),
                "ingestions",
            )
        }
        assert states == {
            ingestion_pb2.INGESTION_STATE_SUCCEEDED,
            ingestion_pb2.INGESTION_STATE_REVERTED,
        }
        used = client.scorecards.GetScorecard(scorecards.GetScorecardRequest(version="prudent-1"))
        assert used.scorecard.state == scorecard_pb2.SCORECARD_STATE_ACTIVE


def test_an_interrupted_sandbox_says_what_to_remove() -> None:
    with up("--sandbox") as running:
        ends = time.monotonic() + 60
        while "lives through a year" not in running.log and time.monotonic() < ends:
            time.sleep(0.2)
        assert "lives through a year" in running.log
        assert running.stop() == 0
        data = running.folder / "data"
        again = credit_service("up", "--sandbox", env=environment(CREDIT_DATA_DIR=str(data)))
    assert again.returncode == 2
    assert "remove the folder to start again" in again.stderr
