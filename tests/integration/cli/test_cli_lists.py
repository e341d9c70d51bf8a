"""Lists of the command line as tables, JSON and CSV, and the commands of parked tasks."""

import csv
import json
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import uuid4

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from sqlalchemy import text

from credit_service.domain.scorecard import STANDARD_DOCUMENT
from credit_service.storage.database import Database
from tests.integration.cli.conftest import Run
from tests.integration.conftest import Edge
from tests.integration.lending import ask, import_loans, register


@pytest.mark.slow
def test_lists_as_json_and_csv(
    server: Edge, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CREDIT_ADDRESS", server.target)
    customer_id = register(server.credit, "9876500001")
    (found,) = json.loads(run("customers", "98765", "--json")[1])["customers"]
    assert found["customer_id"] == str(customer_id)
    code, output, _ = run("customers", "98765", "--csv")
    (record,) = csv.DictReader(output.splitlines())
    assert (code, record["customer"]) == (0, str(customer_id))
    assert Decimal(record["income"]) == Decimal(found["monthly_income"]["units"])
    assert run("customers", "Zz")[2] == "There are no customers."
    code, _, errors = run("customers", "--csv", "--json")
    assert (code, errors) == (2, "error: give either --json or --csv")

    rows = tmp_path / "customers.csv"
    rows.write_text(
        "customer_id,first_name,last_name,age,monthly_salary,phone_number\n"
        "901,Asha,=1+1,30,50000,9876500002\n902,,Rao,30,50000,9876500003\n"
    )
    ingestion_id = str(uuid4())
    assert run("ingest", str(rows), "--ingestion-id", ingestion_id)[0] == 1
    listed = json.loads(run("ingestions", "--json")[1])["ingestions"]
    assert [each["ingestion_id"] for each in listed] == [ingestion_id]
    (record,) = csv.DictReader(run("ingestions", "--csv")[1].splitlines())
    shown = (record["state"], record["read"], record["rejected"])
    assert shown == ("SUCCEEDED", "2", record["rejected"])
    assert f"rejected   {record['rejected']}" in run("ingestion", ingestion_id)[1]
    errors_of_rows = json.loads(run("row-errors", ingestion_id, "--json")[1])["row_errors"]
    records = list(csv.DictReader(run("row-errors", ingestion_id, "--csv")[1].splitlines()))
    assert [each["row"] for each in records] == [each["row_number"] for each in errors_of_rows]
    assert len(records) >= 1
    found_cells = [each["found"] for each in records]
    assert not any(each.startswith("=") for each in found_cells)
    assert run("row-errors", ingestion_id, "--outcome", "kept")[2] == "There are no row errors."

    loans = tmp_path / "loans.csv"
    loans.write_text(
        "customer_id,loan_id,loan_amount,tenure,interest_rate,monthly_payment,emis_paid_on_time,"
        "date_of_approval,end_date\n901,1,100000,480,12,1008.56,0,2020-01-31,2060-01-31\n"
    )
    assert run("ingest", str(loans))[0] == 0
    printed = run("arrears", "901")[1]
    known_from = json.loads(run("loan", "1", "--json")[1])["loan"]["arrears_known_from"]
    day = "{year}-{month:02}-{day:02}".format(**known_from)
    assert f"Arrears of imported loans before {day} are unknown." in printed


@pytest.mark.slow
def test_answers_as_json_and_csv(
    server: Edge, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Every command that shows one object, as the contract's JSON and as records."""
    monkeypatch.setenv("CREDIT_ADDRESS", server.target)
    customer = register(server.credit, "9876500004")
    imported = import_loans(server, customer, 4)
    booked = server.credit.CreateLoan(ask(customer))
    one, loan = str(customer), str(booked.loan.loan_id)
    scorecard = tmp_path / "scorecard.json"
    scorecard.write_text(json.dumps(STANDARD_DOCUMENT))

    def answers(*command: str) -> tuple[dict[str, Any], list[dict[str, str]]]:
        code, document, errors = run(*command, "--json")
        assert (code, errors) == (0, ""), command
        code, records, errors = run(*command, "--csv")
        assert (code, errors) == (0, ""), command
        return json.loads(document), list(csv.DictReader(records.splitlines(keepends=True)))

    found, (record,) = answers("check", one, "1000", "10", "12")
    assert (found["outcome"], record["outcome"]) == ("DECISION_OUTCOME_APPROVED", "APPROVED")
    found, (record,) = answers("customer", one)
    assert found["customer"]["customer_id"] == record["customer_id"] == one
    found, (record,) = answers("loan", loan)
    assert found["loan"]["loan_id"] == record["loan.loan_id"] == loan
    assert record["customer.customer_id"] == one
    found, (record,) = answers("decision", str(booked.decision_id))
    assert found["decision"]["loan_id"] == record["loan_id"] == loan
    found, (record,) = answers("arrears", one)
    assert found["delinquency"]["asset_class"] == "ASSET_CLASS_" + record["asset_class"]
    found, (record,) = answers("key-facts", "--customer", one, "--loan", loan)
    assert record["loan_amount"] == found["key_facts"]["loan_amount"]["units"] + ".00"
    assert json.loads(record["installments"]) == found["key_facts"]["installments"]
    found, records = answers("prepay", one, loan, "20000", "--dry-run")
    assert [each["number"] for each in records] == [
        str(each["number"]) for each in found["schedule"]
    ]
    found, (record,) = answers("foreclosure", one, loan)
    assert (found["loan_id"], record["loan_id"], record["total"]) == (loan, loan, "100000.00")
    found, records = answers("call", "ListLoans", json.dumps({"customer_id": customer}))
    assert [each["loan_id"] for each in found["loans"]] == [each["loan_id"] for each in records]
    found, (record,) = answers("ingestion", imported.ingestion_id)
    assert found["ingestion"]["inserted"] == record["inserted"] == "4"
    found, records = answers("backtest", str(scorecard))
    approved = [each for each in records if each["figure"] == "approved"]
    assert [int(each["after"]) for each in approved] == [found["after"]["approved"]]


def test_a_server_is_probed(server: Edge, run: Run) -> None:
    where = ("--address", server.target)
    assert run("probe", *where) == (0, "", "")
    assert run("probe", *where, "--live") == (0, "", "")
    code, _, errors = run("probe", "no.Service", *where)
    assert (code, "NOT_FOUND" in errors) == (1, True)
    code, _, errors = run("probe", "--address", "127.0.0.1:1", "--timeout", "0.2")
    assert (code, "127.0.0.1:1 is not healthy" in errors) == (1, True)
    for outside in ("0", "601"):
        assert run("probe", *where, "--timeout", outside)[0] == 2


def test_a_server_that_is_not_ready_is_alive(run: Run) -> None:
    servicer = health.HealthServicer()
    servicer.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
    with ThreadPoolExecutor(1) as threads:
        unready = grpc.server(threads)
        health_pb2_grpc.add_HealthServicer_to_server(servicer, unready)
        where = ("--address", f"127.0.0.1:{unready.add_insecure_port('127.0.0.1:0')}")
        unready.start()
        try:
            code, _, errors = run("probe", *where)
            assert run("probe", *where, "--live") == (0, "", "")
        finally:
            unready.stop(None).wait()
    assert (code, errors) == (1, f"error: {where[1]} is not ready: NOT_SERVING")


def test_parked_tasks_are_listed_retried_and_discarded(
    database: Database, database_url: str, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", database_url)
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1/0")
    with database.autocommit() as connection:
        first, second = connection.execute(
            text(
                "INSERT INTO tasks (actor, subject, state, attempts, due_at, created_at,"
                " last_error) SELECT 'act', n, 'PARKED', 5, now(), now(), 'no luck'"
                " FROM unnest(ARRAY['1', '2']) n RETURNING task_id"
            )
        ).scalars()
    (listed, other) = json.loads(run("parked", "list", "--json")[1])["tasks"]
    assert (listed["task_id"], listed["last_error"]) == (first, "no luck")
    assert other["task_id"] == second
    assert run("parked", "retry", str(first)) == (0, "1 task will be retried.\n", "")
    code, output, errors = run("parked", "retry", str(first))
    assert (code, output) == (1, "0 tasks will be retried.\n")
    assert errors == f"error: task {first} is not parked"
    assert run("parked", "discard", "all") == (0, "1 task discarded.\n", "")
    assert run("parked", "list")[2] == "There are no parked tasks."
    for no_id in ("x", "\N{SUPERSCRIPT TWO}", "9" * 19):
        assert run("parked", "retry", no_id)[0] == 2
