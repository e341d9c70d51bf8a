"""Any method as a form of the console, over HTTP without scripts, before a real server."""

import html
import json
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit
from uuid import uuid4

import pytest

from credit_service.console.methods import METHODS
from credit_service.settings import Settings
from credit_service.v1 import credit_service_pb2 as pb
from tests.consoles import Answer, Visitor, console
from tests.integration.conftest import Edge
from tests.integration.lending import import_loans, register
from tests.integration.rpc.test_identity_methods import ISSUER, KEY, token, write_keys

CREATE = "/qa/methods/CreditService/CreateLoan"
GET = "/qa/methods/CreditService/GetCustomer"


@pytest.fixture
def visitor(server: Edge) -> Iterator[Visitor]:
    with console(server.target) as place:
        yield Visitor(place)


def typed(answer: Answer) -> dict[str, str]:
    """The values of the form that a page shows."""
    found = re.findall(r'<input [^>]*?name="([^"]+)"[^>]*? value="([^"]*)"', answer.text)
    return {name: html.unescape(value) for name, value in found if name != "csrf_token"}


def response(answer: Answer) -> dict[str, object]:
    """The shown response."""
    block = re.search(r'aria-label="Response as JSON"><code>(.*?)</code>', answer.text)
    assert block is not None, answer.text
    found: dict[str, object] = json.loads(html.unescape(block[1]))
    return found


def test_every_method_is_reached_from_the_index(visitor: Visitor) -> None:
    index = visitor.ask("/qa/methods").text
    for method in METHODS.values():
        assert f'<a href="{method.href}">{method.name}</a>' in index
        page = visitor.ask(method.href)
        assert page.status == 200, page.text
        assert f"scope <code>{method.scope}</code>" in page.text
    for wrong in ("/qa/methods/CreditService/Nothing", "/qa/methods/x/GetCustomer"):
        assert visitor.ask(wrong).status == 404


def test_a_form_that_is_sent_twice_books_once(server: Edge, visitor: Visitor) -> None:
    customer = register(server.credit, "9876500001")
    import_loans(server, customer, 10)
    form = typed(visitor.ask(CREATE)) | {
        "customer_id": str(customer),
        "loan_amount": "10,000",
        "interest_rate": "12",
        "tenure_months": "12",
    }
    assert form["request_id"]
    # A charge is added, and nothing is sent.
    with_charge = typed(visitor.send(CREATE, **form, act="add charges"))
    assert with_charge["#charges"] == "1"
    form = with_charge | {
        "charges[0].type": "fee",
        "charges[0].payee": "CHARGE_PAYEE_LENDER",
        "charges[0].amount": "100",
    }
    sent = [visitor.send(CREATE, **form, act=act) for act in ("send", "send")]
    sent.append(visitor.send(CREATE, **form))
    assert [each.status for each in sent] == [200] * 3
    assert len({json.dumps(response(each)) for each in sent}) == 1
    loans = pb.ListLoansRequest(customer_id=customer, page_size=100)
    assert len(server.credit.ListLoans(loans).loans) == 10 + 1
    # With a new request id it is a new request.
    renewed = typed(visitor.send(CREATE, **form, act="renew"))
    assert renewed["request_id"] != form["request_id"]
    assert renewed["customer_id"] == form["customer_id"]
    again = visitor.send(CREATE, **{**form, "request_id": renewed["request_id"]})
    assert response(again) != response(sent[0])


def test_problems_stand_beside_their_fields_and_the_typed_values_stay(visitor: Visitor) -> None:
    form = {"request_id": "not-a-uuid", "customer_id": "12", "#charges": "1"}
    wrong = visitor.send(CREATE, **form, tenure_months="many")
    assert wrong.status == 400
    assert '<p class="problem" id="p-tenure_months">Enter a whole number.</p>' in wrong.text
    assert "RPC call of this page" not in wrong.text

    rejected = visitor.send(CREATE, **form, tenure_months="481")
    assert rejected.status == 400
    for name in ("request_id", "loan_amount", "tenure_months", "charges[0].type"):
        assert f'<p class="problem" id="p-{name}">' in rejected.text
    assert "type.googleapis.com/google.rpc.BadRequest" in rejected.text
    kept = typed(rejected)
    assert kept["tenure_months"] == "481"
    assert kept["customer_id"] == "12"
    assert 'name="customer_id" type="text" value="12"' in rejected.text

    missing = visitor.send(GET, customer_id="999999")
    assert missing.status == 404
    assert "CUSTOMER_NOT_FOUND" in missing.text
    assert '<span class="badge declined">NOT_FOUND</span>' in missing.text


def test_a_request_is_edited_as_json_and_as_a_form(server: Edge, visitor: Visitor) -> None:
    customer = register(server.credit, "9876500001")
    as_json = visitor.send(GET, customer_id=str(customer), act="json")
    area = re.search(r'<textarea id="f-json".*?>(.*?)</textarea>', as_json.text)
    assert area is not None
    assert json.loads(html.unescape(area[1])) == {"customer_id": customer}
    again = visitor.send(GET, mode="json", json=html.unescape(area[1]), act="form")
    assert typed(again)["customer_id"] == str(customer)
    text = json.dumps({"customer_id": customer, "as_of": {"month": 2}})
    kept = visitor.send(GET, mode="json", json=text, act="form")
    assert "a value that a form cannot express" in kept.text
    assert 'id="f-json"' in kept.text
    sent = visitor.send(GET, mode="json", json=text)
    assert sent.status == 400
    assert "as_of" in sent.text
    assert visitor.send(GET, mode="json", json="{").status == 400

    planned = visitor.send(GET, customer_id=str(customer), act="plan").text
    assert "Nothing was sent." in planned
    assert "credit_service.v1.CreditService/GetCustomer" in planned
    assert "RPC call of this page" not in planned
    # From the history, a write gets a new request id.
    old = {"request_id": str(uuid4()), "customer_id": customer}
    filled = typed(visitor.send(CREATE, mode="json", json=json.dumps(old), act="again"))
    assert filled["customer_id"] == str(customer)
    assert filled["request_id"] not in ("", old["request_id"])


def test_a_stream_ends_after_the_wanted_messages(server: Edge, visitor: Visitor) -> None:
    watch = "/qa/methods/CreditService/WatchCreditEvents"
    kind = "event_types:CREDIT_EVENT_TYPE_CUSTOMER_REGISTERED"
    answer = visitor.send(watch, **{kind: "true"}, messages="1")
    assert answer.status == 200
    assert "The console ended the stream after 1 message." in answer.text
    assert "heartbeat" in response(answer)
    assert f'name="{kind}" value="true" checked' in answer.text

    rows = "/qa/methods/IngestionService/IngestRows"
    header = {"ingestion_id": str(uuid4()), "kind": "INGESTION_KIND_CUSTOMERS"}
    row = {"first_name": "A", "last_name": "B", "age": 30, "phone_number": "9876500009"}
    batch = {"customers": {"rows": [{**row, "monthly_income": {"units": 1}, "customer_id": 77}]}}
    text = json.dumps({"header": header}) + "\n" + json.dumps({"batch": batch})
    ended = visitor.send(rows, mode="json", json=text)
    assert ended.status == 200, ended.text
    assert server.credit.GetCustomer(pb.GetCustomerRequest(customer_id=77)).customer.age == 30


class TestWithTokens:
    """Before a server that requires tokens."""

    @pytest.fixture
    def settings(self, settings: Settings, tmp_path: Path) -> Settings:
        write_keys(tmp_path / "keys.json", k1=KEY)
        changes = {"token_keys": tmp_path / "keys.json", "token_issuer": ISSUER}
        return settings.model_copy(update=changes)

    def test_a_form_survives_an_expired_token_and_scopes_are_enforced(
        self, visitor: Visitor
    ) -> None:
        form = {"request_id": str(uuid4()), "customer_id": "12", "loan_amount": "10,000"}
        sent = visitor.send(CREATE, **form)
        assert sent.status == 303
        login = sent.headers["location"]
        assert login.startswith("/qa/login?")
        target = dict(parse_qsl(urlsplit(login).query))["next"]
        assert target == CREATE
        visitor.send(login, "/qa/login", next=target, token=token(scope="credit.read"))
        page = visitor.ask(CREATE)
        assert "<dt>Scopes</dt><dd><code>credit.read</code> </dd>" in page.text
        assert "You are signed in again. Nothing was sent yet." in page.text
        assert {name: typed(page)[name] for name in form} == form
        denied = visitor.send(CREATE, **form)
        assert denied.status == 403
        assert '<span class="badge declined">PERMISSION_DENIED</span>' in denied.text
        assert typed(denied)["loan_amount"] == "10,000"
        assert visitor.send(GET, customer_id="12").status == 404
