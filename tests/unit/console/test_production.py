"""The guard of a production environment, on every address of the console that receives a form."""

import contextlib
import html
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent import futures
from html.parser import HTMLParser
from types import MappingProxyType
from typing import Any
from urllib.parse import urlencode
from uuid import uuid4

import grpc
import pytest
from google.protobuf.message import Message

from credit_service.console import app
from credit_service.console.confirming import (
    BACK_FIELD,
    FIELD,
    ConfirmationRequiredError,
    Guard,
    writes,
)
from credit_service.console.leaves import message_class
from credit_service.console.methods import METHODS
from credit_service.domain.scorecard import STANDARD
from credit_service.domain.scorecard_json import write_scorecard
from credit_service.v1 import credit_service_pb2 as pb
from credit_service.v1 import decision_pb2, loan_pb2, offer_pb2, referral_pb2, scorecard_pb2
from credit_service.v1 import ingestion_service_pb2 as ingestion_pb
from credit_service.v1 import operations_service_pb2 as operations_pb
from credit_service.v1 import scorecard_service_pb2 as scorecard_pb
from tests.consoles import Answer, Visitor, console

BY_PATH = {each.path: each for each in METHODS.values()}
WRITES = {each.name for each in METHODS.values() if each.is_write}
# Accepted by the forms, so that each gets as far as its write.
VALUES = {
    "first_name": "Asha",
    "last_name": "Rao",
    "age": "30",
    "monthly_income": "50000",
    "was_monthly_income": "1",
    "phone_number": "9876500001",
    "amount": "100",
    "paid_on": "2026-01-31",
    "effect": "tenure",
    "customer_id": "1",
    "loan_amount": "1000",
    "interest_rate": "12",
    "tenure_months": "12",
    "reason": "BOUNCED",
    "verdict": "approve",
    "intent": "store",
    "document": '{"version": "x"}',
    "version": "x",
    "effective_on": "2026-01-31",
    "kind": "loans",
    "on_existing": "skip",
    "validate_only": "no",
}
FILE = (
    '--x\r\ncontent-disposition: form-data; name="file"; filename="l.csv"\r\n'
    "content-type: text/csv\r\n\r\nCustomer ID,Loan ID\r\n1,2\r\n--x--\r\n"
)


class Recorder(grpc.GenericRpcHandler):  # type: ignore[type-arg]  # no types at run time
    """Answers every method with an empty message, and records the names."""

    def __init__(self) -> None:
        self.called: list[str] = []
        self.answers: dict[str, Message] = {}
        """Other than an empty message, by method."""
        self.rejects_tokens = False
        self.written: list[str] = []
        """Methods of single requests that were no reads and no dry runs."""

    def service(self, details: Any) -> Any:
        method = BY_PATH.get(details.method)
        if method is None:
            return None
        self.called.append(method.name)
        descriptor = method.descriptor
        answer = self.answers.get(method.name) or message_class(descriptor.output_type)()

        def answered(request: Message, context: grpc.ServicerContext) -> Message:
            if writes(request):
                self.written.append(method.name)
            if self.rejects_tokens:
                context.abort(grpc.StatusCode.UNAUTHENTICATED, "expired")
            return answer

        kinds = {
            (False, False): (
                grpc.unary_unary_rpc_method_handler,
                answered,
            ),
            (True, False): (
                grpc.stream_unary_rpc_method_handler,
                lambda requests, _context: (list(requests), answer)[1],
            ),
            (False, True): (
                grpc.unary_stream_rpc_method_handler,
                lambda _request, _context: iter([answer]),
            ),
        }
        make, handler = kinds[descriptor.client_streaming, descriptor.server_streaming]
        return make(
            handler,
            message_class(descriptor.input_type).FromString,
            lambda message: message.SerializeToString(),
        )


@contextlib.contextmanager
def recording(environment: str) -> Iterator[tuple[Recorder, Visitor]]:
    recorder = Recorder()
    server = grpc.server(futures.ThreadPoolExecutor(4))
    server.add_generic_rpc_handlers((recorder,))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with console(f"127.0.0.1:{port}", console_environment=environment) as place:
            yield recorder, Visitor(place)
    finally:
        server.stop(None).wait()


def addresses() -> list[str]:
    """Every address that receives a form, the page of any method once for each method."""
    found = [path for method, path, _ in app._PAGES if method == "POST"]
    concrete = []
    for path in found:
        if "{service}" in path:
            concrete += [each.href for each in METHODS.values()]
        elif path not in ("/qa/login", "/qa/logout"):
            known = path.replace("{ingestion_id}", str(uuid4())).replace("{key}", "no-history")
            concrete.append(re.sub(r"\{[a-z_]+\}", "1", known))
    return concrete


def send_everything(visitor: Visitor) -> dict[str, Answer]:
    """Send a form to every address."""
    token = {"csrf_token": visitor.csrf_token("/qa/login")}
    return {address: send(visitor, address, token) for address in addresses()}


def send(
    visitor: Visitor,
    address: str,
    changes: Mapping[str, str] = MappingProxyType({}),
    **headers: str,
) -> Answer:
    """Send a form with a value for every field."""
    values = {
        **VALUES,
        "ingestion_id": str(uuid4()),
        "request_id": str(uuid4()),
        **({"mode": "json", "json": "{}"} if "/methods/" in address else {}),
        **changes,
    }
    if "csrf_token" not in values:
        values["csrf_token"] = visitor.csrf_token("/qa/login")
    parts = [
        f'--x\r\ncontent-disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        for name, value in values.items()
    ]
    body = "".join([*parts, FILE if address == "/qa/ingestions" else "--x--\r\n"]).encode()
    return visitor.ask(address, body, "multipart/form-data; boundary=x", **headers)


def test_no_form_changes_production_without_a_confirmation() -> None:
    with recording("Production") as (recorder, visitor):
        answers = send_everything(visitor)
        with_script = send(visitor, "/qa/ingestions", accept="application/json")
        assert_shown(visitor, '<p class="environment production">', "Production</p>")
    assert set(recorder.called) & WRITES == set()
    asked = {address for address, each in answers.items() if "Confirm a change in" in each.text}
    assert {answers[address].status for address in asked} == {409}
    reads = {each.href for each in METHODS.values() if not each.is_write}
    # These write nothing, but for the file and the checks, which have no page to confirm.
    assert set(answers) - asked == reads | {
        *("/qa/asks", "/qa/backtest", "/qa/ingestions", "/qa/checks/no-history")
    }
    assert answers["/qa/ingestions"].status == 409
    assert "Tick the box that confirms" in with_script.text
    assert "does not run in production" in answers["/qa/checks/no-history"].text


def assert_shown(visitor: Visitor, start: str, end: str) -> None:
    """Every page shows the environment in words."""
    badge = f'{start}<span class="sr">Environment: </span>{end}'
    for path in ("/qa/", "/qa/login", "/qa/methods", "/qa/no-such-page"):
        assert badge in visitor.ask(path).text


def test_elsewhere_the_same_forms_write() -> None:
    """Shows that the forms of the test above get as far as their writes."""
    with recording("Test <2>") as (recorder, visitor):
        answers = send_everything(visitor)
        assert_shown(visitor, '<p class="environment">', "Test &lt;2&gt;</p>")
        assert 'name="production_upload"' not in visitor.ask("/qa/ingestions").text
        assert "Confirm a change" not in "".join(each.text for each in answers.values())
    counts = Counter(name for name in recorder.called if name in WRITES)
    assert set(counts) == WRITES
    forms = [address for address in answers if "/methods/" not in address]
    assert set(recorder.written) == WRITES - {"UploadSpreadsheet", "IngestRows"}
    # All pages with a form but those for files of asks, backtests and checks.
    assert sum(counts.values()) - len(WRITES) == len(forms) - 3


def test_a_confirmation_names_the_change_and_is_for_exactly_this_request() -> None:
    with recording("production") as (recorder, visitor):
        asked = visitor.send("/qa/customers/new", request_id=str(uuid4()), **VALUES)
        for shown in ("RegisterCustomer", "Rao", "₹50,000.00", "Confirm and change production"):
            assert shown in asked.text
        kept = kept_by(asked)
        changed = visitor.send("/qa/customers/new", **{**kept, "age": "31"})
        assert changed.status == 409
        other = Visitor(visitor.place).send("/qa/customers/new", **{**kept, "csrf_token": ""})
        assert other.status == 403
        stranger = Visitor(visitor.place)
        again = {name: text for name, text in kept.items() if name != "csrf_token"}
        assert stranger.send("/qa/customers/new", **again).status == 409
        assert recorder.called == []
        assert visitor.send("/qa/customers/new", **again).status == 303
        assert recorder.called == ["RegisterCustomer"]


SHOWN_FORMS: Mapping[str, Message] = {
    "GetDecision": pb.GetDecisionResponse(
        decision=decision_pb2.Decision(
            referral=referral_pb2.Referral(state=referral_pb2.REFERRAL_STATE_PENDING)
        )
    ),
    "GetLoanOffer": pb.GetLoanOfferResponse(
        offer=offer_pb2.LoanOffer(state=offer_pb2.LOAN_OFFER_STATE_OPEN)
    ),
    "CompareScorecards": scorecard_pb.CompareScorecardsResponse(before_version="1"),
    "GetScorecard": scorecard_pb.GetScorecardResponse(
        scorecard=scorecard_pb2.Scorecard(version="1", document=write_scorecard(STANDARD))
    ),
    "GetLoan": pb.GetLoanResponse(loan=loan_pb2.Loan(state=loan_pb2.LOAN_STATE_ACTIVE)),
    "GetRepaymentSchedule": pb.GetRepaymentScheduleResponse(
        installments=[loan_pb2.Installment(state=loan_pb2.INSTALLMENT_STATE_UPCOMING)]
    ),
    "ListParkedTasks": operations_pb.ListParkedTasksResponse(
        tasks=[operations_pb.ParkedTask(task_id=1)]
    ),
    "ListPayments": pb.ListPaymentsResponse(payments=[loan_pb2.Payment(payment_id=1)]),
}
"""Answers with which the pages show their forms."""


class Controls(HTMLParser):
    """The values of a page's controls by name, without those that every form has."""

    def __init__(self, answer: Answer) -> None:
        super().__init__()
        self.values: dict[str, set[str]] = {}
        self._choice = self._text = ""
        self.feed(answer.body.decode())
        for name in ("csrf_token", "request_id", "query"):
            self.values.pop(name, None)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: text or "" for name, text in attrs}
        name, value = found.get("name", ""), found.get("value", "")
        if tag == "input":
            is_choice = found.get("type") in ("radio", "checkbox")
            if not is_choice or "checked" in found:
                self.values.setdefault(name, set()).add(value)
        elif tag in ("select", "textarea"):
            self.values.setdefault(name, set())
            self._choice, self._text = name, name if tag == "textarea" else ""
        elif tag == "option" and "selected" in found:
            self.values[self._choice].add(value)

    def handle_data(self, data: str) -> None:
        if self._text:
            self.values[self._text].add(data.removeprefix("\n"))

    def handle_endtag(self, tag: str) -> None:
        self._text = "" if tag == "textarea" else self._text


def kept_by(asked: Answer) -> dict[str, str]:
    """The values that the page of a confirmation sends."""
    pattern = r'<input type="hidden" name="([^"]+)" value="([^"]*)"'
    return {
        html.unescape(name): html.unescape(text) for name, text in re.findall(pattern, asked.text)
    }


# Their forms have no values but the request id.
WITHOUT_VALUES = ("cancel", "revert", "trial", "end", "retire", "retry", "discard")


def test_back_without_sending_shows_each_form_with_its_values() -> None:
    with recording("production") as (recorder, visitor):
        recorder.answers.update(SHOWN_FORMS)
        token = {"csrf_token": visitor.csrf_token("/qa/login")}
        pages = [each for each in addresses() if "/methods/" not in each]
        asked = {each: send(visitor, each, {**token, "replaces": "1"}) for each in pages}
        asked = {each: page for each, page in asked.items() if BACK_FIELD in page.text}
        back = {
            each: visitor.ask(
                each,
                urlencode({**kept_by(page), BACK_FIELD: "yes"}).encode(),
                "application/x-www-form-urlencoded",
            )
            for each, page in asked.items()
        }
    assert recorder.written == []
    # All pages with a form but those for files of asks and of rows, backtests and checks.
    assert len(asked) == len(pages) - 4
    without = set()
    for address, page in back.items():
        assert page.status == 200, address
        assert "Nothing was sent. Your values are still here." in page.text
        assert FIELD not in page.text
        sent, controls = kept_by(asked[address]), Controls(page).values
        if address.endswith("/foreclose"):
            del sent["amount"]  # Not typed: what closes the loan now.
        known = {name: text for name, text in sent.items() if name in controls}
        assert {name: text for name, text in known.items() if text not in controls[name]} == {}, (
            address
        )
        if not known:
            without.add(address.rpartition("/")[2])
    assert without == set(WITHOUT_VALUES)


def test_a_form_of_a_method_comes_back_with_its_entries_and_choices() -> None:
    values = {
        "request_id": str(uuid4()),
        "customer_id": "seven",
        "loan_amount": "1,000.50",
        "#charges": "2",
        "charges[1].type": "a & b",
        "charges[1].payee": "CHARGE_PAYEE_LENDER",
    }
    with recording("production") as (_, visitor):
        page = "/qa/methods/CreditService/CreateLoanOffer"
        asked = visitor.send(page, **{**values, "customer_id": "7", "act": "send"})
        assert BACK_FIELD in asked.text
        back = visitor.send(page, **{**kept_by(asked), BACK_FIELD: "yes"})
        assert back.status == 200
        controls = Controls(back).values
        assert controls["charges[1].type"] == {"a & b"}
        assert controls["charges[1].payee"] == {"CHARGE_PAYEE_LENDER"}
        assert controls["charges[0].type"] == {""}
        assert controls["loan_amount"] == {"1,000.50"}
        assert f'name="request_id" type="text" value="{values["request_id"]}"' in back.text


def test_no_address_has_the_code_of_a_confirmation() -> None:
    """A token that expires while the page asks leads to the sign-in, and from there to the form."""
    terms = ("customer_id", "loan_amount", "interest_rate", "tenure_months")
    values = {name: VALUES[name] for name in terms}
    with recording("production") as (recorder, visitor):
        asked = visitor.send("/qa/login", "/qa/apply/review", request_id=str(uuid4()), **values)
        recorder.rejects_tokens = True
        redirected = visitor.send("/qa/login", "/qa/apply/review", **kept_by(asked))
        assert redirected.status == 303
        assert "loan_amount" in redirected.headers["location"]
        assert FIELD not in redirected.headers["location"]


def test_a_file_needs_the_box_and_a_dry_run_does_not() -> None:
    with recording("production") as (recorder, visitor):
        assert 'name="production_upload"' in visitor.ask("/qa/ingestions").text
        recorder.called.clear()
        assert send(visitor, "/qa/ingestions", {"validate_only": "yes"}).status == 303
        assert send(visitor, "/qa/ingestions", {"production_upload": "yes"}).status == 303
        assert recorder.called.count("UploadSpreadsheet") == 2


def test_a_dry_run_is_no_write() -> None:
    assert writes(pb.RecordPaymentRequest())
    assert not writes(pb.RecordPaymentRequest(validate_only=True))
    assert not writes(pb.GetCustomerRequest())
    header = ingestion_pb.IngestRowsHeader(validate_only=True)
    assert not writes(ingestion_pb.IngestRowsRequest(header=header))
    assert writes(ingestion_pb.IngestRowsRequest(batch=ingestion_pb.RowBatch()))


def test_requests_of_a_stream_are_confirmed_together() -> None:
    first, second = (
        ingestion_pb.IngestRowsRequest(header=ingestion_pb.IngestRowsHeader(filename=name))
        for name in "ab"
    )

    def code(*requests: Message) -> str:
        with pytest.raises(ConfirmationRequiredError) as caught:
            Guard({FIELD: "é"}, b"key")(requests)
        return caught.value.code

    assert len({code(first), code(first, second), code(second, first)}) == 3
    Guard({FIELD: f"x {code(first, second)}"}, b"key")([first, second])
