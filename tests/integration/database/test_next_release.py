"""This release reads rows of a later one: side by side, or after a rollback."""

import json
from typing import Any

import pytest
from sqlalchemy import text

from credit_service.cli import app
from credit_service.clock import Clock
from credit_service.commands.scorecards import decide_in_shadow
from credit_service.domain.scorecard import STANDARD_DOCUMENT, parse_scorecard
from credit_service.observability import metrics
from credit_service.storage import event_stream
from credit_service.storage.database import Database
from credit_service.v1 import credit_service_pb2 as pb
from credit_service.v1 import decision_pb2, ingestion_pb2, score_pb2
from tests.consoles import Visitor, console
from tests.integration import lending
from tests.integration.conftest import Edge
from tests.integration.policies import backtested, tried

_COPY_DECISION = text(
    """INSERT INTO decisions SELECT (jsonb_populate_record(d, CAST(:changes AS jsonb))).*
    FROM decisions d WHERE decision_id = :decision_id"""
)


@pytest.fixture
def decision_id(server: Edge, database: Database) -> int:
    """A declined decision of this release, copied as 9001 with additions of a later one."""
    customer_id = lending.register(server.credit, "+919876500091")
    answer = server.credit.CreateLoan(lending.ask(customer_id))
    with database.autocommit() as connection:
        row = connection.execute(text("SELECT inputs::text, outcome::text FROM decisions")).one()
        inputs, outcome = json.loads(row[0]), json.loads(row[1])
        inputs["rules"] = 99
        inputs["bureau"] = {"score": 700}
        inputs["position"]["guarantees_paise"] = 5
        inputs["ask"]["purpose"] = "HOME"
        outcome["reasons"] = [
            {**outcome["reasons"][0], "code": "BUREAU_SCORE_TOO_LOW", "components": ["BUREAU"]}
        ]
        outcome["reasons"][0]["weight"] = 7
        outcome["bureau"] = "X"
        outcome["counter_offer"] = {
            "max_principal_paise": 100_00,
            "max_principal_installment_paise": 9_00,
            "min_tenure_months": None,
            "min_tenure_installment_paise": None,
            "fee_paise": 1,
        }
        score = outcome["score"]
        score["override"] = "BUREAU_DEFAULT"
        score["percentile"] = 4
        score["components"].append({**score["components"][0], "component": "BUREAU", "extra": 1})
        # json, not jsonb, keeps the bytes.
        changes = {
            "decision_id": 9001,
            "request_id": "30000000-0000-4000-8000-000000000001",
            "inputs": inputs,
            "outcome": outcome,
        }
        connection.execute(
            _COPY_DECISION, {"changes": json.dumps(changes), "decision_id": answer.decision_id}
        )
    return 9001


def write_events(database: Database) -> None:
    """Events of a loan and a score with more fields, and between them one of a new kind."""
    with database.transaction() as connection:
        connection.execute(text("ALTER TABLE events DROP CONSTRAINT events_kind_known_check"))
        loan = {
            "customer_id": 1, "loan_id": 5, "principal_paise": 10000_00, "annual_rate_bps": 1000,
            "tenure_months": 12, "installment_paise": 879_16, "start_date": "2026-01-15",
            "end_date": "2027-01-15", "imported": False, "decision_id": 1, "settled_at_import": 0,
            "emis_paid_on_time": 0, "installments_settled": 0, "paid_paise": 0,
            "last_paid_on": None, "closed_on": None,
            "charges_paise": 500, "prepaid_on": "2026-02-01",
        }  # fmt: skip
        declined = {
            "decision_id": 2,
            "ask": {"principal_paise": 1, "annual_rate_bps": 1, "tenure_months": 1, "purpose": "X"},
            "reasons": ["BUREAU_SCORE_TOO_LOW", "NO_CREDIT_HISTORY"],
        }
        component = {
            "component": "BUREAU",
            "points_hundredths": 1,
            "max_points_hundredths": 2,
            "found": 1,
            "full_at": 2,
            "source": "X",
        }
        changed = {
            "score": {
                "score": 5, "components": [component], "override": "BUREAU_DEFAULT",
                "scorecard_version": "standard-9", "customer_version": 1,
                "valid_until": "2027-01-01", "percentile": 3,
            },
            "previous_score": None, "cause_event_id": 0, "cause": "bureau",
        }  # fmt: skip
        rows = {"ingestion_id": "x", "kind": "GUARANTEES", "inserted": 1, "updated": 0, "at": 1}
        for kind, payload in (
            ("loan_created", {"decision_id": 1, "loan": loan, "offer_id": 3}),
            ("customer_merged", {"decision_id": "not a number", "fields": ["age"]}),
            ("loan_declined", declined),
            ("score_changed", changed),
            ("rows_ingested", rows),
        ):
            event_stream.append_for_no_customer(connection, kind, payload, Clock().moment())
    with database.transaction() as connection:
        assert event_stream.publish(connection, 100)


def watched(server: Edge, after: int = 0) -> list[Any]:
    """The events after an id, up to the first heartbeat."""
    stream: Any = server.credit.WatchCreditEvents(
        pb.WatchCreditEventsRequest(after_event_id=after), timeout=20
    )
    events = []
    for response in stream:
        if response.HasField("heartbeat"):
            break
        events.append(response.event)
    stream.cancel()
    return events


@pytest.mark.one_server("numbers events without the relay")
def test_a_watcher_gets_known_events_and_skips_unknown_ones(
    server: Edge, database: Database
) -> None:
    write_events(database)
    before = metrics.events_skipped._value.get()
    events = watched(server)
    assert [each.WhichOneof("payload") for each in events] == [
        "loan_created",
        "loan_declined",
        "score_changed",
        "rows_ingested",
    ]
    created, declined, changed, ingested = events
    assert created.loan_created.loan.loan_id == 5
    assert list(declined.loan_declined.reason_codes) == [
        decision_pb2.DECLINE_REASON_CODE_UNSPECIFIED,
        decision_pb2.DECLINE_REASON_CODE_NO_CREDIT_HISTORY,
    ]
    (component,) = changed.score_changed.credit_score.components
    assert component.component == score_pb2.SCORE_COMPONENT_UNSPECIFIED
    assert ingested.rows_ingested.kind == ingestion_pb2.INGESTION_KIND_UNSPECIFIED
    assert metrics.events_skipped._value.get() == before + 1
    # Resume at the event before the unknown one.
    assert watched(server, created.event_id) == events[1:]


def test_a_later_decision_is_read_but_not_replayed(
    server: Edge,
    database: Database,
    decision_id: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    database_url: str,
) -> None:
    found = server.credit.GetDecision(pb.GetDecisionRequest(decision_id=decision_id)).decision
    (reason,) = found.reasons
    assert reason.code == decision_pb2.DECLINE_REASON_CODE_UNSPECIFIED
    assert reason.message
    assert found.counter_offer.max_loan_amount.units == 100
    assert found.inputs.monthly_income.units == 50_000
    # The added fields are kept.
    assert json.loads(found.inputs.inputs_json)["bureau"] == {"score": 700}
    listed = server.credit.ListDecisions(pb.ListDecisionsRequest()).decisions
    assert [each.decision_id for each in listed] == [decision_id, 1]

    monkeypatch.setenv("DATABASE_URL", database_url)
    monkeypatch.setenv("CREDIT_ADDRESS", server.target)
    capsys.readouterr()
    assert app.run(["replay", str(decision_id)]) == 1
    assert "A later release made the decision" in capsys.readouterr().err
    assert app.run(["decision", str(decision_id)]) == 0
    report = backtested(database, parse_scorecard(STANDARD_DOCUMENT), Clock().moment())
    assert report.decisions is not None
    assert (report.decisions.compared, report.later_release) == (1, 1)
    trial = parse_scorecard({**STANDARD_DOCUMENT, "version": "trial-1"})
    tried(database, trial, Clock().moment())
    decide_in_shadow(database, decision_id)
    with database.autocommit() as connection:
        assert connection.execute(text("SELECT count(*) FROM shadow_decisions")).scalar() == 0


def test_the_console_shows_a_later_decision(server: Edge, decision_id: int) -> None:
    with console(server.target) as place:
        assert Visitor(place).ask(f"/qa/decisions/{decision_id}").status == 200
