"""Data stored by earlier releases is read as before: tests/golden/0.1.0 and similar folders.

The files contain invented data, written by the release's own code. Never regenerate them; a release
that stores new data adds a folder.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import make_dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format

from credit_service.commands.idempotency import fingerprint
from credit_service.domain.decisions import decode_inputs, decode_outcome, replay
from credit_service.domain.scorecard import parse_scorecard
from credit_service.rpc.convert import customers, decisions
from credit_service.rpc.convert import events as convert_events
from credit_service.rpc.convert import payments as convert_payments
from credit_service.storage.event_stream import StoredEvent
from credit_service.v1 import credit_service_pb2 as pb

RELEASES = sorted(
    path for path in Path(__file__).parent.iterdir() if (path / "events.json").exists()
)
READERS: Mapping[str, tuple[Any, Callable[[Any], Any]]] = {
    "RegisterCustomer": (pb.RegisterCustomerRequest, customers.read_register_customer),
    "CreateLoan": (pb.CreateLoanRequest, decisions.read_create_loan),
    "RecordPayment": (pb.RecordPaymentRequest, convert_payments.read_record_payment),
}

release = pytest.mark.parametrize("folder", RELEASES, ids=lambda path: path.name)


def stored(folder: Path, name: str) -> Any:
    return json.loads((folder / name).read_text(encoding="utf-8"))


def assert_holds(found: Any, expected: Any, path: str = "") -> None:
    """Check that all expected values are found; a later release may add fields and change texts."""
    if isinstance(expected, dict):
        for name, value in expected.items():
            if name not in {"message", "explanation"}:
                assert name in found, f"{path}.{name}"
                assert_holds(found[name], value, f"{path}.{name}")
    elif isinstance(expected, list):
        assert len(found) == len(expected), path
        for number, (one, other) in enumerate(zip(found, expected, strict=True)):
            assert_holds(one, other, f"{path}[{number}]")
    else:
        assert found == expected, path


def test_files_of_a_release_exist() -> None:
    assert "0.1.0" in {folder.name for folder in RELEASES}


@release
def test_stored_events_are_returned_unchanged(folder: Path) -> None:
    events = stored(folder, "events.json")
    assert len({each["kind"] for each in events}) >= 7
    for each in events:
        fields = {**each, "payload": json.loads(each["payload"])}
        expected = fields.pop("message")
        fields["occurred_at"] = datetime.fromisoformat(fields["occurred_at"])
        message = convert_events.write_event(StoredEvent(**fields))
        assert message is not None
        found = json_format.MessageToDict(message, preserving_proto_field_name=True)
        assert_holds(found, expected, each["kind"])


@release
def test_stored_decisions_replay_to_the_same_bytes(folder: Path) -> None:
    document = stored(folder, "decisions.json")
    scorecards = {
        version: parse_scorecard(json.loads(text))
        for version, text in document["scorecards"].items()
    }
    outcomes = set()
    for each in document["decisions"]:
        assert not decode_inputs(each["inputs"]).unknown
        outcome = decode_outcome(each["outcome"])
        outcomes.add((outcome.approved, outcome.counter_offer is not None))
        assert replay(each["inputs"], scorecards[each["scorecard_version"]]) == each["outcome"]
    assert outcomes == {(True, False), (False, True), (False, False)}


@release
def test_requests_have_the_fingerprints_of_the_earlier_release(folder: Path) -> None:
    requests = stored(folder, "fingerprints.json")
    assert {each["method"] for each in requests} == READERS.keys()
    for each in requests:
        message_class, read = READERS[each["method"]]
        command = read(json_format.ParseDict(each["request"], message_class()))
        assert fingerprint(command).hex() == each["fingerprint"], each["request"]


def test_an_added_optional_field_changes_a_fingerprint_only_if_set() -> None:
    plain = make_dataclass("Ask", ["principal_paise"])
    grown = make_dataclass("Ask", ["principal_paise", ("purpose", Any, None)])
    before = make_dataclass("CreateLoan", ["request_id", "ask"])
    after = make_dataclass("CreateLoan", ["request_id", "ask", ("charges", Any, ())])
    assert fingerprint(after(1, grown(5))) == fingerprint(before(2, plain(5)))
    assert fingerprint(after(1, grown(5, "HOME"))) != fingerprint(before(2, plain(5)))
    assert fingerprint(after(1, grown(5), (3,))) != fingerprint(before(2, plain(5)))
