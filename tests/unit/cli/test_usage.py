"""Mistakes on the command line, and outputs that their reader closes."""

import os
import subprocess
import sys
from typing import get_args

import grpc
import pytest

from credit_service.cli import app, failures
from credit_service.cli.commands.events import EventType
from credit_service.v1 import event_pb2
from credit_service_client.errors import ServiceError

_MISTAKES = {
    "chek": "there is no command chek. Did you mean check? See `credit-service --help`.",
    "--verson": "there is no option --verson. See `credit-service --help`.",
    "scorecard actvate": "there is no command actvate. Did you mean activate? See "
    "`credit-service scorecard --help`.",
    "customer abc": "'abc' is not accepted for CUSTOMER_ID: write a whole number. See "
    "`credit-service customer --help`.",
    "pay 1 1 1 --on 31-01-2026": "'31-01-2026' is not accepted for --on: write a day such as "
    "2026-01-31. See `credit-service pay --help`.",
    "ingestion 5": "'5' is not accepted for INGESTION_ID: write a UUID such as "
    "0d3c7f52-9d0c-4a0e-8a59-6a4c1a3f1b01. See `credit-service ingestion --help`.",
    "probe --timeout x": "'x' is not accepted for --timeout: write a number. See "
    "`credit-service probe --help`.",
    "check 1 1 1": "TENURE_MONTHS is missing. See `credit-service check --help`.",
    "check 1 1 1 1 5": "unexpected argument: 5. See `credit-service check --help`.",
    "check 1 1 1 1 --jsn": "there is no option --jsn. Did you mean --json? See "
    "`credit-service check --help`.",
    "register-customer --first-name A --last-name B --age 30 --income 1": "--phone is missing. See "
    "`credit-service register-customer --help`.",
    "create-loan 1 1,0x 1 1": "'1,0x' is not an amount in rupees: write for example 100000 or "
    "1,00,000.50, with at most two decimals",
    "create-offer 1 1 high 1": "'high' is not a yearly rate in percent: write for example 10.5",
    "create-offer 1 1 1 1 --valid-until x": "'x' is not accepted for --valid-until: write a day "
    "such as 2026-01-31. See `credit-service create-offer --help`.",
    "accept-offer 1 --amount all": "'all' is not an amount in rupees: write for example 100000 or "
    "1,00,000.50, with at most two decimals",
    "withdraw-offer": "OFFER_ID is missing. See `credit-service withdraw-offer --help`.",
    "review-decision 1 approve": "--reason is missing. See "
    "`credit-service review-decision --help`.",
    "review-decision 1 aprove --reason x": 'Invalid value "aprove" for VERDICT. Choose from: '
    '"approve", "decline". Did you mean "approve"? See `credit-service review-decision --help`.',
    "loan 9223372036854775808": "9223372036854775808 is out of range: write a number closer to 0",
    "check 1 1 1 2147483648": "2147483648 is out of range: write a number closer to 0",
    "update-customer 1 --age -2147483649": "-2147483649 is out of range: write a number closer "
    "to 0",
    "reverse-payment 5": "--reason is missing. See `credit-service reverse-payment --help`.",
    "reverse-payment 5 --reason": "--reason needs a value. See "
    "`credit-service reverse-payment --help`.",
    "reverse-payment 5 --reason bouncd": 'Invalid value "bouncd" for --reason. Choose from: '
    '"bounced", "duplicate", "wrong-loan", "entry-error". Did you mean "bounced"? See '
    "`credit-service reverse-payment --help`.",
}


@pytest.mark.parametrize("line", _MISTAKES)
def test_a_mistake_is_one_line_that_says_what_to_write(
    line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code = app.run(line.split())
    printed = capsys.readouterr()
    assert (code, printed.out, printed.err) == (2, "", f"error: {_MISTAKES[line]}\n")


@pytest.mark.parametrize(
    "command",
    [
        *("call", "call --csv", "call --json", "--help", "pay --help", "doctor"),
        pytest.param("doctor --csv", marks=pytest.mark.slow),
    ],
)
def test_an_output_that_is_closed_ends_a_command_silently(command: str) -> None:
    # With it Python writes nothing at its end, where the error would be reported.
    environment = {name: text for name, text in os.environ.items() if name != "PYTHONUNBUFFERED"}
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing) as closed:
        done = subprocess.run(
            [sys.executable, "-m", "credit_service.cli", *command.split()],
            stdout=closed, stderr=subprocess.PIPE, text=True, check=False, timeout=60,
            env=environment,
        )  # fmt: skip
    assert (done.returncode, done.stderr) == (141, "")


def test_events_of_every_type_can_be_selected() -> None:
    known = event_pb2.CreditEventType.DESCRIPTOR.values_by_name
    names = {each.removeprefix("CREDIT_EVENT_TYPE_") for each in known}
    assert set(get_args(EventType)) == names - {"UNSPECIFIED"}


@pytest.mark.parametrize("problem", ["missing", "expired"])
def test_a_call_without_a_token_says_how_to_give_one(
    problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    metadata = {"problem": problem}
    error = ServiceError(grpc.StatusCode.UNAUTHENTICATED, "No.", metadata=metadata)
    assert failures.report(error) == 1
    assert ("--token-file or CREDIT_TOKEN" in capsys.readouterr().err) == (problem == "missing")
