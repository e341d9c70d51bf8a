"""`scorecard` and `backtest` as commands of a policy owner, who has no access to the database."""

import copy
import json
import re
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from google.type.money_pb2 import Money

from credit_service.cli import app
from credit_service.clock import Clock
from credit_service.commands.scorecards import decide_in_shadow
from credit_service.domain.scorecard import STANDARD_DOCUMENT
from credit_service.storage.database import Database
from credit_service.v1 import credit_service_pb2 as credit
from tests.integration.conftest import Edge
from tests.integration.portfolio import a_good_customer

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(server: Edge, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command against the server, without a database; returns exit code, output, errors."""
    monkeypatch.setenv("CREDIT_ADDRESS", server.target)
    monkeypatch.delenv("DATABASE_URL", raising=False)

    def one(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = app.run(arguments)
        printed = capsys.readouterr()
        # Columns are separated by one space each.
        return code, re.sub(r"[ \t]+", " ", printed.out), printed.err

    return one


def file(folder: Path, version: str, **fields: Any) -> str:
    """The path of a scorecard's file."""
    path = folder / f"{version}.json"
    path.write_text(json.dumps({**STANDARD_DOCUMENT, "version": version, **fields}))
    return str(path)


def test_a_scorecard_is_activated_and_the_former_one_comes_back(run: Run, tmp_path: Path) -> None:
    strict = file(tmp_path, "strict-1", income_share_bps=2_000)
    assert run("scorecard", "check", strict)[:2] == (
        0,
        f"{strict} is a valid scorecard, version strict-1.\n",
    )
    code, output, _ = run("scorecard", "compare", strict)
    assert (code, output.splitlines()[1]) == (0, "income_share_bps 5000 2000")
    code, output, errors = run("scorecard", "activate", strict, "--data-dir", str(tmp_path))
    assert (code, output) == (0, "Scorecard strict-1 is now active.\n")
    assert "The workers are recomputing every score." in errors
    # The file again is the same scorecard.
    assert run("scorecard", "activate", strict)[0] == 0
    listed = json.loads(run("scorecard", "list", "--json")[1])["scorecards"]
    states = {each["version"]: each["state"] for each in listed}
    assert (states["strict-1"], states["standard-1"]) == ("ACTIVE", "INACTIVE")
    assert all(each.keys() >= {"added_time", "activated_time"} for each in listed)
    code, output, _ = run("scorecard", "activate", "--stored", "standard-1")
    assert (code, output) == (0, "Scorecard standard-1 is now active.\n")
    assert run("scorecard", "retire", "strict-1")[:2] == (0, "Scorecard strict-1 is retired.\n")
    code, _, errors = run("scorecard", "activate", strict)
    assert (code, "SCORECARD_RETIRED" in errors) == (1, True)
    code, output, _ = run("scorecard", "show", "strict-1", "--json")
    changes = [each["type"] for each in json.loads(output)["changes"]]
    assert changes == [
        f"SCORECARD_CHANGE_TYPE_{kind}" for kind in ("RETIRED", "ACTIVATED", "CREATED")
    ]


def test_a_coming_day_is_shown(run: Run, tmp_path: Path) -> None:
    strict = file(tmp_path, "strict-1")
    day = Clock().moment().today + timedelta(days=30)
    code, output, _ = run("scorecard", "activate", strict, "--on", day.isoformat())
    assert (code, output) == (0, f"Scorecard strict-1 is active from {day} on.\n")
    listed = run("scorecard", "list")[1]
    assert f"strict-1 INACTIVE, active from {day} " in listed
    assert f"INACTIVE, active from {day}" in run("scorecard", "show", "strict-1")[1]


def test_an_invalid_or_changed_scorecard_is_rejected(run: Run, tmp_path: Path) -> None:
    wrong = file(tmp_path, "wrong-1", grace_days=-1)
    for command in (("scorecard", "activate"), ("scorecard", "shadow"), ("backtest",)):
        code, output, errors = run(*command, wrong)
        assert (code, output) == (1, "")
        assert "the scorecard is not valid:" in errors
        assert "grace_days must be 0 to 31" in errors
    assert run("scorecard", "shadow", file(tmp_path, "a"))[0] == 0
    code, _, errors = run("scorecard", "shadow", file(tmp_path, "a", grace_days=1))
    assert (code, "SCORECARD_VERSION_TAKEN" in errors) == (1, True)
    for arguments in (("activate",), ("activate", wrong, "--stored", "a"), ("compare",)):
        assert run("scorecard", *arguments)[0] == 2


def test_a_trial_and_a_backtest_are_printed(
    run: Run, server: Edge, database: Database, tmp_path: Path
) -> None:
    customer_id = a_good_customer(database, Clock().moment())
    strict = file(tmp_path, "strict-1", income_share_bps=500)
    code, output, _ = run("scorecard", "shadow", strict)
    assert (code, output) == (0, "Scorecard strict-1 is now in shadow mode.\n")
    request = credit.CreateLoanRequest(
        request_id=str(uuid4()),
        customer_id=customer_id,
        loan_amount=Money(units=500_000),
        tenure_months=24,
    )
    request.interest_rate.value = "12"
    decision_id = server.credit.CreateLoan(request).decision_id
    decide_in_shadow(database, decision_id)
    code, output, _ = run("scorecard", "trial")
    assert code == 0
    assert "declined 0 (0.0 %) 1 (100.0 %)" in output
    assert f"{decision_id} {customer_id} approved declined EMI_BURDEN_TOO_HIGH" in output
    assert run("scorecard", "shadow")[1] == "No scorecard is in shadow mode.\n"

    ask = ("--amount=5,00,000", "--rate=12", "--tenure=24")
    code, output, _ = run("backtest", strict, *ask, "--data-dir", str(tmp_path))
    assert code == 0
    assert "1 stored decisions and 1 customers: as stored, and with scorecard strict-1" in output
    assert "Changed outcomes: 1 decisions." in output
    assert "The loan, asked for by 1 customers" in output
    found = json.loads(run("backtest", "--stored", "strict-1", "--json", *ask)[1])
    # The names of earlier releases.
    assert (found["decisions"], found["customers"], found["flip_count"]) == (1, 1, 1)
    assert (found["before"]["approved"], found["after"]["approved"]) == (1, 0)
    assert found["after"]["reasons"] == {"EMI_BURDEN_TOO_HIGH": 1}
    (flip,) = found["flips"]
    assert (flip["approved_before"], flip["approved_after"]) == (True, False)
    assert found["portfolio"]["compared"] == "1"
    assert run("backtest", strict, "--amount=1000")[0] == 2


def test_a_backtest_names_customers_whose_scores_change(
    run: Run, database: Database, tmp_path: Path
) -> None:
    customer_id = a_good_customer(database, Clock().moment())
    components = copy.deepcopy(STANDARD_DOCUMENT["components"])
    components["LOAN_VOLUME"]["full_at_paise"] = 10**15
    path = file(tmp_path, "wide-1", components=components)
    (found,) = json.loads(run("backtest", path, "--json")[1])["score_examples"]
    assert (found["customer_id"], found["before"] > found["after"]) == (customer_id, True)
    output = run("backtest", path)[1]
    assert f"{customer_id} {found['before']} {found['after']}\n" in output
