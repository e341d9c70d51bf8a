"""Lines of the access log: content, omitted data, and calls that are only counted."""

import io
import json
import time
from typing import Any

import pytest

from credit_service.rpc.calls import access_log
from credit_service.rpc.calls.access_log import AccessLog, Entry
from credit_service.rpc.calls.record_ids import MAX_IDS, Ids, collect_ids
from credit_service.v1 import credit_service_pb2 as pb

METHOD = "credit_service.v1.CreditService/CreateLoan"
UUID = "0199d5c4-0000-7000-8000-0000000000aa"


def entry(**changes: Any) -> Entry:
    given: dict[str, Any] = {
        "at": 1_780_000_000.25,
        "method": METHOD,
        "principal": "desk",
        "peer": "",
        "code": 0,
        "reason": "",
        "seconds": 0.0123,
        "call_id": "9f3ac0de12ab45cd",
        "trace_id": "",
        "ids": {},
        "received": None,
        "sent": None,
    }
    return Entry(**(given | changes))


def written(*entries: Entry, log_format: Any = "json") -> list[str]:
    stream = io.StringIO()
    log = AccessLog(log_format, stream)
    for each in entries:
        log.add(each)
    log.close()
    return stream.getvalue().splitlines()


# Lines.


LINES = [
    entry(),
    entry(principal=None, peer="ipv4:10.0.0.7:1234", code=16, reason="UNAUTHENTICATED"),
    entry(principal='CN="a", O=Ü', ids={"customer_ids": {1: None}}, trace_id="ab" * 16),
    entry(ids={"customer_ids": {1: None, 2: None}, "ingestion_ids": {UUID: None}}),
    entry(received=3, sent=0, code=1),
    entry(method="grpc.reflection.v1.ServerReflection/ServerReflectionInfo", received=1, sent=2),
    entry(principal="+919876543210", call_id="+91-98765-43210"),
    entry(ids={"customer_ids": dict.fromkeys(range(1, MAX_IDS + 2))}),
]


@pytest.mark.parametrize("line", LINES)
def test_a_line_is_json_with_the_fields_of_the_call(line: Entry) -> None:
    (found,) = written(line)
    assert json.loads(found) == json.loads(json.dumps(access_log.fields_of(line)))


@pytest.mark.parametrize("line", LINES)
def test_a_line_of_text_has_the_fields_of_the_call(line: Entry) -> None:
    (found,) = written(line, log_format="console")
    assert f"{found}\n" == access_log._as_text(access_log.fields_of(line))


def test_a_line_has_the_caller_the_method_and_the_status() -> None:
    (line,) = written(entry(ids={"customer_ids": {7: None}, "loan_ids": {31: None}}))
    assert json.loads(line) == {
        "event": "call",
        "level": "info",
        "logger": "credit_service.access",
        "timestamp": "2026-05-28T20:26:40.250000Z",
        "component": "server",
        "method": METHOD,
        "scope": "credit.write",
        "principal": "desk",
        "status": "OK",
        "duration_ms": 12.3,
        "call_id": "9f3ac0de12ab45cd",
        "customer_ids": [7],
        "loan_ids": [31],
    }


def test_phone_numbers_are_masked_wherever_a_caller_can_write_them() -> None:
    lines = written(entry(principal="desk 98765 43210", call_id="+91-98765-43210"))
    lines += written(entry(principal="+919876543210"), log_format="console")
    assert not any(hidden in line for line in lines for hidden in ("43210", "98765"))


def test_ids_beyond_a_page_are_omitted_and_the_line_states_it() -> None:
    ids: Ids = {}
    for number in range(MAX_IDS + 200):
        collect_ids(pb.GetCustomerRequest(customer_id=number + 1), ids)
    assert len(ids["customer_ids"]) == MAX_IDS + 1
    line = json.loads(written(entry(ids=ids))[0])
    assert line["customer_ids"] == list(range(1, MAX_IDS + 1))
    assert line["ids_left_out"]


def test_a_console_line_is_one_line() -> None:
    (line,) = written(
        entry(principal="two words\n", ids={"customer_ids": {1: None, 2: None}}),
        log_format="console",
    )
    assert line.startswith("2026-05-28T20:26:40.250000Z [info     ] call ")
    assert "principal='two words\\n'" in line
    assert line.endswith("customer_ids=1,2")


# Counting.


def test_rejections_are_counted_by_method_and_reason() -> None:
    stream = io.StringIO()
    log = AccessLog("json", stream)
    for number in range(500):
        log.count(METHOD, 8, "OVERLOADED", f"call-{number}")
        log.count(f"made.up/Method{number}", 12, "METHOD_NOT_IMPLEMENTED", f"other-{number}")
    log.close()
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    totals: dict[str, int] = {}
    for line in lines:
        assert line["event"] == "calls_refused"
        totals[line["reason"]] = totals.get(line["reason"], 0) + line["count"]
    assert totals == {"OVERLOADED": 500, "METHOD_NOT_IMPLEMENTED": 500}
    assert len(lines) <= 4
    assert lines[-1]["method"] == "made.up/Method499"
    assert lines[-1]["call_id"] == "other-499"


def test_an_invented_method_is_cut_and_masked() -> None:
    stream = io.StringIO()
    log = AccessLog("json", stream)
    log.count('x"\n/+919876543210/' + "y" * 5_000, 12, "METHOD_NOT_IMPLEMENTED", "id")
    log.close()
    (line,) = stream.getvalue().splitlines()
    assert len(json.loads(line)["method"]) <= 120
    assert "9876543210" not in line


class _Stuck(io.StringIO):
    """A pipe without a reader until `go` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.go = False

    def write(self, text: str) -> int:
        while not self.go:
            time.sleep(0.01)
        return super().write(text)


def test_a_full_pipe_delays_no_call_and_the_log_reports_omitted_calls(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(access_log, "MAX_WAITING", 100)
    stream = _Stuck()
    log = AccessLog("json", stream)
    log.add(entry())
    time.sleep(0.3)
    for _ in range(1_000):
        log.add(entry())  # a call that waited for the stream would hang
    stream.go = True
    log.close()
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [line["event"] for line in lines[:101]] == ["call"] * 101
    assert lines[-1]["event"] == "access_log_incomplete"
    assert lines[-1]["calls_left_out"] == 900
    assert lines[-1]["level"] == "warning"


def test_a_pipe_without_a_reader_is_not_an_error() -> None:
    stream = io.StringIO()
    stream.close()
    log = AccessLog("json", stream)
    log.add(entry())
    log.close()
