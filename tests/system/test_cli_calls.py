"""The commands that use a running service, and every recipe of docs/recipes.md."""

import csv
import io
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import psutil
import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from credit_service.cli import app
from credit_service.cli.call import METHODS
from credit_service.processes.embedded import EmbeddedStack
from credit_service.settings import Settings
from tests.integration.conftest import Edge
from tests.integration.rpc.test_limits import eventually
from tests.system.up import Up, credit_service, environment, up

RECIPES = Path(__file__).parents[2] / "docs" / "recipes.md"
DEFAULT_ADDRESS = "127.0.0.1:50051"
BUF = Path(sys.executable).with_name("buf")


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """A separate service with the sample workbooks."""
    folder = tmp_path_factory.mktemp("samples")
    with up() as running:
        env = environment(CREDIT_ADDRESS=running.address)
        assert credit_service("sample-data", str(folder)).returncode == 0
        for name in ("customer_data", "loan_data"):
            done = credit_service("ingest", str(folder / f"{name}.xlsx"), env=env)
            assert done.returncode == 0, done.stderr
        yield running


@dataclass(frozen=True, slots=True)
class Done:
    """Result of a command."""

    code: int
    output: str
    errors: str

    @property
    def document(self) -> Any:
        assert self.code == 0, self.errors
        return json.loads(self.output)

    @property
    def words(self) -> str:
        """The whole output as one line."""
        return " ".join((self.output + self.errors).split())


Run = Callable[..., Done]


@pytest.fixture
def run(service: Up, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs one command line in this process, on `service`."""
    monkeypatch.setenv("CREDIT_ADDRESS", service.address)
    return _runner(capsys)


def _runner(capsys: pytest.CaptureFixture[str]) -> Run:
    def run_one(*arguments: str) -> Done:
        capsys.readouterr()
        code = app.run(arguments)
        output, errors = capsys.readouterr()
        return Done(code, output, errors)

    return run_one


# The recipes.


@dataclass(frozen=True, slots=True)
class Recipe:
    """A block of commands; `refusal` is the documented reason of their rejection, or ''."""

    method: str
    lines: tuple[str, ...]
    refusal: str

    def line(self, program: str) -> list[str]:
        """Return the words of the one line that starts with `program`."""
        (found,) = [line for line in self.lines if line.startswith(program)]
        return shlex.split(found)


_BLOCK = re.compile(r"```sh\n(.*?)```(?:\n\n(?:Rejected[^`]*`([A-Z_]+)`))?", re.DOTALL)


def _recipes() -> list[Recipe]:
    found = []
    for block, refusal in _BLOCK.findall(RECIPES.read_text(encoding="utf-8")):
        lines = tuple(block.splitlines())
        calls = [line for line in lines if line.startswith("credit-service call ")]
        found += [Recipe(shlex.split(line)[2], lines, refusal) for line in calls]
    return found


def test_every_method_has_a_recipe_for_three_tools() -> None:
    recipes = [recipe for recipe in _recipes() if len(recipe.lines) == 3]
    own = [m for m in METHODS if m.containing_service.full_name.startswith("credit_service.v1.")]
    assert {each.method for each in recipes} == {method.name for method in own}
    for recipe in recipes:
        method = next(m for m in own if m.name == recipe.method)
        path = f"{method.containing_service.full_name}/{method.name}"
        grpcurl, buf = recipe.line("grpcurl"), recipe.line("buf curl")
        assert grpcurl[-2:] == [DEFAULT_ADDRESS, path]
        assert buf[-1] == f"http://{DEFAULT_ADDRESS}/{path}"
        request = recipe.line("credit-service")[3]
        assert buf[buf.index("-d") + 1] == request
        # grpcurl reads a field mask only as a message; the others only as text.
        words = grpcurl[grpcurl.index("-d") + 1]
        assert re.sub(r"\{\"paths\": [^}]*\}", _mask_as_text, words) == request


def _mask_as_text(match: re.Match[str]) -> str:
    return json.dumps(FieldMask(**json.loads(match[0])).ToJsonString())


def test_every_recipe_of_the_command_line_works(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for recipe in _recipes():
        done = run(*recipe.line("credit-service")[1:])
        assert done.code == (1 if recipe.refusal else 0), (recipe, done)
        if recipe.refusal:
            assert f"({recipe.refusal})" in done.errors, done
        else:
            assert done.output.startswith("{"), done
    text = RECIPES.read_text(encoding="utf-8")
    lines = [each for each in text.splitlines() if each.startswith("credit-service annotated ")]
    monkeypatch.chdir(tmp_path)
    assert [run(*shlex.split(line)[1:]).code for line in lines] == [0, 0]
    for name in ("customers-annotated.xlsx", "customers-rejected.xlsx"):
        assert (tmp_path / name).read_bytes().startswith(b"PK")


def test_every_recipe_of_buf_curl_works(service: Up, run: Run) -> None:
    for recipe in _recipes():
        if len(recipe.lines) < 3:
            continue
        words = [word.replace(DEFAULT_ADDRESS, service.address) for word in recipe.line("buf curl")]
        done = subprocess.run(
            [str(BUF), *words[1:]],
            env=environment(HOME=str(service.folder)),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        if recipe.method == "WatchCreditEvents":
            # The stream ends at the deadline of the recipe.
            assert "deadline_exceeded" in done.stderr, done
        elif recipe.refusal:
            # buf shows the details, including the reason, in base64.
            assert json.loads(done.stderr)["details"], done
        else:
            assert done.returncode == 0, done
        assert recipe.refusal or done.stdout.startswith("{"), done


def test_the_readme_shows_the_response(run: Run) -> None:
    text = (RECIPES.parents[1] / "README.md").read_text(encoding="utf-8")
    (call,) = re.findall(
        r"^\.venv/bin/(credit-service call CheckEligibility .*?\}')$",
        text,
        re.DOTALL | re.MULTILINE,
    )
    (shown,) = re.findall(r"The response starts with\n\n```json\n(.*?),\n```", text, re.DOTALL)
    answer = run(*shlex.split(call)[1:]).document
    begun = json.loads(shown + "}")
    assert list(answer.items())[: len(begun)] == list(begun.items())
    for customer in ("102", "103", "106"):
        assert "would be declined" in run("check", customer, "100000", "10.5", "24").output


def test_the_commands_of_the_readme_run_in_order(tmp_path: Path) -> None:
    text = (RECIPES.parents[1] / "README.md").read_text(encoding="utf-8")
    section = text.partition("## Use it")[2].partition("\n## ")[0]
    # All except `make up`, which runs in a separate terminal, and grpcurl, which can be missing.
    blocks = [
        block.replace(".venv/bin/credit-service", f"{sys.executable} -m credit_service.cli")
        for block in re.findall(r"```sh\n(.*?)```", section, re.DOTALL)
        if not block.startswith(("make up", "grpcurl"))
    ]
    assert len(blocks) == 4
    outputs = []
    with up() as running:
        for block in blocks:
            done = subprocess.run(
                ["/bin/sh", "-ec", block],
                env=environment(CREDIT_ADDRESS=running.address),
                cwd=tmp_path,
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, (block, done)
            outputs.append(done.stdout)
    booked = json.loads(outputs[2])
    assert booked["approved"]
    assert booked["monthly_installment"]["units"] == "4637"
    assert "would be approved" in outputs[3]


# `call`.


@pytest.mark.parametrize(
    "name",
    [
        "GetCustomer",
        "getcustomer",
        "CreditService/GetCustomer",
        "credit_service.v1.CreditService/GetCustomer",
        "/credit_service.v1.CreditService/GetCustomer",
        "credit_service.v1.CreditService.GetCustomer",
    ],
)
def test_a_method_is_found_by_short_and_full_names(run: Run, name: str) -> None:
    done = run("call", name, '{"customerId": 101}')
    assert done.document["customer"]["customer_id"] == "101"


def test_the_methods_are_listed(run: Run) -> None:
    listed = run("call", "--json").document["methods"]
    assert {"name", "request", "response", "client_streaming", "server_streaming"} == set(listed[0])
    assert "credit_service.v1.CreditService/CreateLoan" in {each["name"] for each in listed}
    assert "RecordPayment" in run("call").output


@pytest.mark.parametrize(
    ("method", "request_text", "message"),
    [
        ("GetCustomr", "{}", "There is no method GetCustomr. Did you mean GetCustomer"),
        ("Nonsense", "{}", "The methods are: RegisterCustomer, GetCustomer"),
        (
            "CheckEligibility",
            '{"tenur_months": 3}',
            "tenur_months: unknown field. Did you mean ten",
        ),
        ("CheckEligibility", '{"loan_amount": 5}', 'for example {"units": 100000}'),
        ("CheckEligibility", '{"loan_amount": {"paise": 5}}', "loan_amount.paise: unknown field"),
        ("CheckEligibility", '{"customer_id": 1.5}', "customer_id"),
        ("CheckEligibility", '{"customer_id": 1', "not JSON: Expecting ',' delimiter, line 1"),
        ("CheckEligibility", "[]", "must be a JSON object with: customer_id, loan_amount"),
        ("CheckEligibility", "{} {}", "takes one JSON object, found 2"),
        ("CheckEligibility", "", "takes one JSON object, found 0"),
        ("CheckEligibility", "[" * 100_000, "nested too deep"),
        ("CheckEligibility", "-5", "must be a JSON object with"),
        ("WatchCreditEvents", '{"event_types": 1}', "event_types"),
        (
            "IngestRows",
            '{"batch": {"customers": {"rows": {}}}}',
            "batch.customers.rows: expected a list",
        ),
        ("IngestRows", '[{"batch": {"customers": {"rows": [{"a": 1}]}}}]', "rows[0].a: unknown"),
    ],
)
def test_an_invalid_call_is_reported_before_it_is_made(
    run: Run, method: str, request_text: str, message: str
) -> None:
    done = run("call", method, request_text)
    assert (done.code, message in done.words) == (2, True), done.words[:500]


def test_requests_are_read_from_standard_input(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO('{"customer_id": 101}\n'))
    done = run("call", "GetCreditScore", "-", "--json")
    assert len(done.output.splitlines()) == 1
    assert done.document["credit_score"]["score"] > 50


def test_a_response_stream_ends_after_the_requested_number(run: Run) -> None:
    done = run("call", "WatchCreditEvents", "--first", "3", "--json")
    ids = [int(json.loads(line)["event"]["event_id"]) for line in done.output.splitlines()]
    assert ids == sorted(ids)
    assert len(ids) == 3
    done = run("call", "WatchCreditEvents", '{"after_event_id": 99999999}', "--timeout", "0.5")
    assert (done.code, "DEADLINE_EXCEEDED" in done.errors) == (3, True), done


# The commands with tables.


def test_every_view_has_a_table_and_json(run: Run) -> None:
    views = {
        ("customer", "101"): "approved limit ₹",
        ("score", "101"): "repayment history 35 35 ████",
        ("score", "103"): "DEBT_EXCEEDS_APPROVED_LIMIT",
        ("check", "101", "1,00,000.00", "10.5%", "24"): "₹4,637.60 a month",
        ("check", "102", "100000", "8", "12"): "would be declined",
        ("check", "104", "9000000", "12", "12"): "counter-offer: ₹",
        ("loans", "101"): "1007",
        ("loan", "1003", "--customer=101"): "24 of 24 settled",
        ("schedule", "101", "1007"): "Outstanding: ₹",
    }
    for arguments, expected in views.items():
        done = run(*arguments)
        assert (done.code, expected in done.words) == (0, True), done
        assert run(*arguments, "--json").document


def test_lists_read_several_pages_and_report_more_results(run: Run) -> None:
    done = run("loans", "101", "--limit=2")
    assert "Showing the first 2 loans" in done.errors
    assert run("loans", "101", "--limit=2", "--json").document["more"] is True
    assert run("loans", "101", "--json").document["more"] is False
    assert "There are no loans" in run("loans", "106").errors


def test_offers_are_listed_with_their_rate_and_state(run: Run) -> None:
    request = {
        "customer_id": 101,
        "loan_amount": {"units": 20_000},
        "interest_rate": {"value": "15"},
        "tenure_months": 24,
        "charges": [
            {"type": "fee", "payee": "CHARGE_PAYEE_LENDER", "amount": {"units": 160}},
            {"type": "insurance", "payee": "CHARGE_PAYEE_THIRD_PARTY", "amount": {"units": 240}},
        ],
    }
    made = run("call", "CreateLoanOffer", json.dumps(request)).document
    done = run("offers", "101")
    assert "₹20,000.00 15 % 17.07 % ₹969.73 OPEN" in done.words, done
    (listed,) = run("offers", "101", "--limit=1", "--json").document["offers"]
    assert listed["offer_id"] == made["offer"]["offer_id"]
    assert "held by offers ₹20,000.00, ₹969.73 a month" in run("customer", "101").words
    ended = {"offer_id": made["offer"]["offer_id"]}
    assert run("call", "WithdrawLoanOffer", json.dumps(ended)).code == 0
    assert "There are no offers" in run("offers", "106").errors


def test_a_payment_is_reversed_and_a_loan_prepaid_and_foreclosed(run: Run) -> None:
    request = {
        "customer_id": 101,
        "loan_amount": {"units": 40000},
        "interest_rate": {"value": "12"},
        "tenure_months": 12,
    }
    loan_id = run("call", "CreateLoan", json.dumps(request)).document["loan"]["loan_id"]
    loan = ("101", loan_id)
    assert "There are no payments" in run("payments", *loan).words
    paid = run("pay", *loan, "3554", "--json").document["payment"]["payment_id"]
    again = ("reverse-payment", paid, "--reason=wrong-loan", f"--request-id={uuid.uuid4()}")
    first, second = run(*again, "--json"), run(*again, "--json")
    assert first.document == second.document
    assert run("reverse-payment", paid, "--reason=bounced").code == 1
    (listed,) = run("payments", *loan, "--json").document["payments"]
    assert listed["reversal"]["reason"] == "PAYMENT_REVERSAL_REASON_WRONG_LOAN"
    assert "wrong" in run("payments", *loan).words

    tried = run("prepay", *loan, "10,000", "--effect=installment", "--dry-run")
    assert "12 installments left" in tried.words
    assert "Nothing was recorded" in tried.errors
    assert len(run("payments", *loan, "--json").document["payments"]) == 1
    assert "9 installments left" in run("prepay", *loan, "10,000").words

    assert "principal outstanding" in run("foreclosure", *loan).output
    assert "30,000.00" in run("foreclosure", *loan).words
    assert "The loan is closed" in run("foreclosure", *loan, "--pay").words
    assert "LOAN_CLOSED" in run("foreclosure", *loan, "--pay").errors


def test_a_customer_is_changed_and_the_changes_are_listed(run: Run) -> None:
    changed = run("update-customer", "104", "--income=1,00,000", "--last-name=Iyer")
    assert "Iyer" in changed.words
    again = ("update-customer", "104", "--limit=5,00,000", f"--request-id={uuid.uuid4()}")
    first, second = run(*again, "--json"), run(*again, "--json")
    assert first.document == second.document
    assert first.document["customer"]["approved_limit_set"] is True
    assert "5,00,000.00, set" in run("customer", "104").words
    assert "by the income" in run("update-customer", "104", "--limit=rule").words
    listed = run("changes", "104", "--limit=2", "--json").document
    assert [each["facts"][0]["current"] for each in listed["changes"]][1] == "500000.00"
    assert listed["more"] is True
    # The value may be broken over two lines.
    assert "Iyer" in run("changes", "104").words
    nothing = run("update-customer", "104")
    assert (nothing.code, "--first-name" in nothing.errors) == (2, True)
    assert run("update-customer", "104", "--age=7").code == 1


def test_a_loan_is_checked_booked_and_paid(run: Run) -> None:
    request = {
        "customer_id": 101,
        "loan_amount": {"units": 30000},
        "interest_rate": {"value": "12"},
        "tenure_months": 3,
    }
    booked = run("call", "CreateLoan", json.dumps(request)).document
    loan_id, decision_id = booked["loan"]["loan_id"], booked["decision_id"]
    # A table of 80 columns breaks the id.
    assert f"loan{loan_id}" in run("decisions", "--customer=101").words.replace(" ", "")
    assert f"Decision {decision_id}: approved, loan {loan_id}" in run("decision", decision_id).words
    installment = booked["monthly_installment"]
    amount = f"{installment['units']}.{installment['nanos'] // 10_000_000:02}"
    again = ("pay", "101", loan_id, amount, "--request-id=0d3c7f52-9d0c-4a0e-8a59-6a4c1a3f1c00")
    first, second = run(*again, "--json"), run(*again, "--json")
    assert first.document == second.document
    assert "settled installments: 2" in run("pay", "101", loan_id, amount).words
    refused = run("pay", "101", loan_id, "99,99,999")
    assert (refused.code, "PAYMENT_EXCEEDS_OUTSTANDING" in refused.errors) == (1, True)
    # The relay publishes a payment after its commit; other tests pay loan 1007.
    deadline = time.monotonic() + 30
    paid: list[str] = []
    while len(paid) < 2 and time.monotonic() < deadline:
        printed = run("events", "--no-follow", "--customer=101", "--type=PAYMENT_RECORDED").output
        paid = [line for line in printed.splitlines() if f"loan {loan_id}" in line]
    assert len(paid) == 2
    listed = run("events", "--no-follow", "--customer=101", "--type=PAYMENT_RECORDED", "--csv")
    records = list(csv.DictReader(listed.output.splitlines()))
    assert [each["type"] for each in records] == ["payment_recorded"] * len(records)
    assert sum(f"oan {loan_id}" in f"{each['title']}{each['detail']}" for each in records) == 2
    assert "Traceback" not in run("decision", decision_id, "--json").errors


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("customer",), 2, "either a customer id or --phone"),
        (("customer", "101", "--phone=1"), 2, "either a customer id or --phone"),
        (("customer", "--phone=nonsense"), 1, "phone_number"),
        (("customer", "99999999"), 1, "CUSTOMER_NOT_FOUND"),
        (("loan", "1003"), 1, "LOAN_ID_AMBIGUOUS"),
        (("check", "101", "1e5", "10", "12"), 2, "'1e5' is not an amount in rupees"),
        (("check", "101", "1.005", "10", "12"), 2, "two decimals"),
        (("check", "101", "1000", "ten", "12"), 2, "'ten' is not a yearly rate"),
        (("check", "101", "1000", "10", "0"), 1, "tenure_months must be 1 to 480"),
        (("decision", "1", "--address=127.0.0.1:1"), 3, "No credit service answers"),
        (("events", "--after=-1", "--no-follow"), 1, "after_event_id"),
        (("score", "101", "--token=two words"), 2, "is not a bearer token"),
    ],
)
def test_failures_have_an_exit_code_and_a_message(
    run: Run, arguments: tuple[str, ...], code: int, message: str
) -> None:
    done = run(*arguments)
    assert (done.code, message in done.words) == (code, True), done


def test_events_resume_after_the_server_was_killed(service: Up, run: Run) -> None:
    last = json.loads(run("events", "--no-follow", "--json").output.splitlines()[-1])["event_id"]
    tail = subprocess.Popen(
        [sys.executable, "-m", "credit_service.cli", "events", f"--after={last}", "--json"],
        env=environment(CREDIT_ADDRESS=service.address),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert tail.stdout is not None
        assert tail.stderr is not None
        ids = []
        for number in range(2):
            request = {
                "first_name": "A",
                "last_name": "B",
                "age": 30,
                "monthly_income": {"units": 10000},
                "phone_number": f"+9198765431{number:02}",
                "request_id": str(uuid.uuid4()),
            }
            # The server needs time to restart, so the call may need a retry.
            deadline = time.monotonic() + 60
            while (done := run("call", "RegisterCustomer", json.dumps(request))).code:
                assert time.monotonic() < deadline, done
            event = json.loads(tail.stdout.readline())
            while "customer_registered" not in event:
                event = json.loads(tail.stdout.readline())
            ids.append(int(event["event_id"]))
            if number == 0:
                service.running("credit_service.rpc")[0].kill()
                _line_with("Resuming after event", tail.stderr)
        assert int(last) < ids[0] < ids[1]
        tail.send_signal(signal.SIGINT)
        assert tail.wait(20) == 130
    finally:
        tail.kill()
        tail.communicate()


def _line_with(text: str, lines: IO[str]) -> str:
    """Return the next line with the text. grpc may write other lines before it."""
    seen = []
    for line in lines:
        if text in line:
            return line
        seen.append(line)
    raise AssertionError(f"{text!r} was not written, but: {''.join(seen)}")


# Tokens.


class TestTokens:
    """Calls with a token of `credit-service token`."""

    @pytest.fixture
    def settings(self, settings: Settings, tmp_path: Path) -> Settings:
        assert app.run(["token", "key", str(tmp_path)]) == 0
        return settings.model_copy(
            update={
                "token_keys": tmp_path / "jwks.json",
                "token_issuer": "credit-service-dev",
                "reflection": "off",
            }
        )

    def test_a_token_is_read_from_each_source(
        self,
        server: Edge,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        run = _runner(capsys)
        monkeypatch.setenv("CREDIT_ADDRESS", server.target)
        key = f"--key={tmp_path / 'signing-key.private.jwk'}"
        token = run("token", key, "--scope=credit.read").output.strip()
        call = ("call", "ListCustomers")

        done = run(*call)
        assert (done.code, "UNAUTHENTICATED" in done.errors) == (1, True), done
        assert run(*call, f"--token={token}").code == 0
        assert run("events", "--no-follow", f"--token={token}").code == 0
        done = run("call", "RecordPayment", f"--token={token}")
        assert (done.code, "PERMISSION_DENIED" in done.errors) == (1, True), done

        file = tmp_path / "token"
        file.write_text(f"{token}\n")
        monkeypatch.setenv("CREDIT_TOKEN_FILE", str(file))
        assert run(*call).code == 0
        monkeypatch.setenv("CREDIT_TOKEN", "wrong")
        assert run(*call).code == 1
        monkeypatch.delenv("CREDIT_TOKEN")
        monkeypatch.setenv("CREDIT_TOKEN_FILE", str(tmp_path / "absent"))
        done = run(*call)
        assert (done.code, "CREDIT_TOKEN_FILE) cannot be read" in done.errors) == (2, True), done

    @pytest.mark.parametrize("late", [False, True])
    def test_events_resume_with_a_new_token(
        self,
        server: Edge,
        settings: Settings,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
        late: bool,
    ) -> None:
        """Also if the old token file is removed before the new one is written."""
        run, edge = _runner(capsys), server.server._pipeline
        admitted: list[str] = []
        slot = edge._admission._streams_by_principal.slot

        def counted(principal: str) -> AbstractContextManager[None]:
            admitted.append(principal)
            return slot(principal)

        monkeypatch.setattr(edge._admission._streams_by_principal, "slot", counted)
        rotated = tmp_path / "rotated"
        assert run("token", "key", str(rotated)).code == 0
        old, new = (
            run("token", f"--key={folder / 'signing-key.private.jwk'}", "--scope=credit.read")
            for folder in (tmp_path, rotated)
        )
        file = tmp_path / "token"
        file.write_text(old.output)
        tail = subprocess.Popen(
            [sys.executable, "-m", "credit_service.cli", "events", "--json"],
            env=environment(CREDIT_ADDRESS=server.target, CREDIT_TOKEN_FILE=str(file)),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            assert tail.stderr is not None
            eventually(lambda: len(admitted) == 1, 60)
            if late:
                file.unlink()
            else:
                file.write_text(new.output)
            assert settings.token_keys is not None
            (rotated / "jwks.json").replace(settings.token_keys)
            line = _line_with("Resuming after event", tail.stderr)
            assert "UNAUTHENTICATED" in line
            if late:
                assert "UNAUTHENTICATED" in _line_with("Resuming after event", tail.stderr)
                file.write_text(new.output)
            eventually(lambda: len(admitted) == 2, 60)
            eventually(lambda: edge.open_streams == 1, 60)
            assert tail.poll() is None
        finally:
            tail.kill()
            tail.communicate()


# `doctor` and `completion`.


def test_the_doctor_passes_for_a_healthy_service(
    service: Up, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CREDIT_DATA_DIR", str(service.folder / "data"))
    monkeypatch.setenv("CREDIT_LISTEN", service.address)
    deadline = time.monotonic() + 60
    while (done := run("doctor", "--json")).code:
        # The worker may still process tasks of the previous tests.
        assert time.monotonic() < deadline, done
        time.sleep(0.5)
    names = {check["name"] for check in done.document["checks"]}
    assert names >= {"Python", "wheels", "port", "server", "database", "migrations", "Redis"}
    assert names >= {"worker", "outbox", "clock", "disk, data", "disk, scratch"}
    assert "All checks passed." in run("doctor").output

    clock = tmp_path / "clock"
    clock.write_text("soon")
    monkeypatch.setenv("CREDIT_CLOCK_OFFSET_FILE", str(clock))
    done = run("doctor")
    assert (done.code, "write one whole number of seconds" in done.words) == (1, True), done
    clock.write_text("86400")
    assert "+86400 s from the system clock" in run("doctor").words


def test_the_doctor_fails_for_an_unreachable_service(
    service: Up, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://user@127.0.0.1:1/none")
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1/0")
    monkeypatch.setenv("CREDIT_LISTEN", service.address)
    done = run("doctor", "--json", "--address=127.0.0.1:1")
    assert done.code == 1
    bad = {
        each["name"]: each["fix"] for each in json.loads(done.output)["checks"] if not each["ok"]
    }
    assert set(bad) == {"port", "server", "database", "Redis"}
    assert all(bad.values())


def test_the_doctor_reports_a_database_without_schema(
    service: Up, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    lock = json.loads((service.folder / "data" / "lock").read_text())
    monkeypatch.setenv(
        "DATABASE_URL", lock["urls"]["database_url"].replace("/credit_service?", "/postgres?")
    )
    monkeypatch.setenv("REDIS_URL", lock["urls"]["redis_url"])
    done = run("doctor", "--json")
    bad = {
        each["name"]: each["fix"] for each in json.loads(done.output)["checks"] if not each["ok"]
    }
    assert bad["migrations"] == "credit-service migrate"
    assert {"worker", "outbox"} <= set(bad)
    assert "database" not in bad


def test_completion_completes_commands_and_options(run: Run, tmp_path: Path) -> None:
    script = tmp_path / "completion"
    script.write_text(run("completion", "bash").output)
    asking = (
        f"source {script}; COMP_WORDS=(credit-service dec); COMP_CWORD=1; _credit_service;"
        'echo "${COMPREPLY[@]}"; COMP_WORDS=(credit-service events --a); COMP_CWORD=2;'
        '_credit_service; echo "${COMPREPLY[@]}"'
    )
    answer = subprocess.run(
        ["/bin/bash", "-c", asking], capture_output=True, text=True, timeout=20, check=True
    )
    assert [set(line.split()) for line in answer.stdout.splitlines()] == [
        {"decision", "decisions"},
        {"--after", "--address"},
    ]
    zsh = run("completion", "zsh").output
    assert zsh.startswith("#compdef credit-service")
    assert "decisions" in zsh
    assert run("completion", "csh").code == 2


# The console with the service, and the shutdown of both.


def test_up_runs_the_console_and_stops_all_processes() -> None:
    with up(console=True) as running:
        assert f"Console    {running.console_url}" in running.log
        with urllib.request.urlopen(running.console_url, timeout=20) as page:  # noqa: S310 - http
            assert page.status == 200
        (console,) = running.running("credit_service.console")
        settings = console.environ()
        assert "DATABASE_URL" not in settings
        assert settings["CREDIT_SERVER_ADDRESS"] == running.address

        console.kill()
        deadline = time.monotonic() + 40
        while True:
            assert time.monotonic() < deadline, running.log
            try:
                with urllib.request.urlopen(running.console_url, timeout=20):  # noqa: S310 - http
                    break
            except OSError:
                time.sleep(0.1)

        ours = [
            process
            for module in ("credit_service.console", "credit_service.rpc", "workers")
            for process in running.running(module)
        ]
        assert len(ours) == 3
        os.kill(running.process.pid, signal.SIGKILL)
        _, alive = psutil.wait_procs(ours, timeout=40)
        assert not alive
        running.process.wait()
        EmbeddedStack(running.folder / "data").stop_leftovers()


def test_up_continues_without_a_console_that_cannot_listen(service: Up) -> None:
    with up(console=True, CREDIT_CONSOLE_LISTEN=service.address) as running:
        assert running.console_url == ""
        assert "The console does not run; everything else does." in running.log
        assert running.stop() == 0
