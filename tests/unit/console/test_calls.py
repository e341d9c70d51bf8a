"""Calls as commands: exact, safe in a shell, and without secrets."""

import json
import shlex
from pathlib import Path

import pytest
from google.protobuf.message import Message

from credit_service.console import formats
from credit_service.console.calls import SERVICES, Call, Snippets, full_method, request_json
from credit_service.v1 import credit_service_pb2 as pb
from credit_service.v1 import ingestion_pb2
from credit_service.v1 import ingestion_service_pb2 as ingestion_pb
from credit_service.v1.customer_pb2 import Customer

SNIPPETS = Snippets("127.0.0.1:50051")


def call_of(request: Message) -> Call:
    return Call(full_method(request), request_json(request))


def test_every_method_is_known_by_its_request() -> None:
    requests = [method.input_type.full_name for each in SERVICES for method in each.methods]
    assert len(requests) == len(set(requests)) >= 20


def test_a_call_is_written_as_in_the_documentation() -> None:
    call = call_of(pb.GetCustomerRequest(customer_id=101))
    assert SNIPPETS.grpcurl(call, with_token=False) == (
        "grpcurl -plaintext -d '{\"customer_id\": 101}' 127.0.0.1:50051 "
        "credit_service.v1.CreditService/GetCustomer"
    )
    assert SNIPPETS.buf_curl(call, with_token=False) == (
        "buf curl --protocol grpc --http2-prior-knowledge -d '{\"customer_id\": 101}' "
        "http://127.0.0.1:50051/credit_service.v1.CreditService/GetCustomer"
    )


def test_the_token_is_named_and_never_shown() -> None:
    call = call_of(pb.GetCustomerRequest(customer_id=1))
    assert '-H "authorization: Bearer $CREDIT_TOKEN"' in SNIPPETS.grpcurl(call, with_token=True)
    assert '-H "authorization: Bearer $CREDIT_TOKEN"' in SNIPPETS.buf_curl(call, with_token=True)


@pytest.mark.parametrize("name", ["O'Brien", "$(reboot)", '"; rm -rf /; "', "`id`", "नाम\n"])
def test_any_typed_text_is_one_shell_word(name: str) -> None:
    request = pb.RegisterCustomerRequest(first_name=name, monthly_income=formats.money_of(100))
    words = shlex.split(SNIPPETS.grpcurl(call_of(request), with_token=False))
    assert json.loads(words[words.index("-d") + 1])["first_name"] == name
    assert len(words) == 6


def test_nested_and_listed_numbers_are_numbers() -> None:
    request = pb.CreateLoanRequest(customer_id=7, loan_amount=formats.money_of(10_000_050))
    assert json.loads(request_json(request)) == {
        "customer_id": 7,
        "loan_amount": {"currency_code": "INR", "units": 100_000, "nanos": 500_000_000},
    }
    batch = ingestion_pb.RowBatch(
        loans=ingestion_pb.LoanRows(rows=[ingestion_pb2.LoanRow(loan_id=5)])
    )
    found = json.loads(request_json(ingestion_pb.IngestRowsRequest(batch=batch)))
    assert found["batch"]["loans"]["rows"] == [{"loan_id": 5}]


def test_grpcurl_gets_a_field_mask_as_a_message_and_buf_curl_as_text() -> None:
    request = pb.UpdateCustomerRequest(customer=Customer(customer_id=7, age=40))
    request.update_mask.paths.extend(["age", "monthly_income"])
    words = shlex.split(SNIPPETS.grpcurl(call_of(request), with_token=False))
    assert json.loads(words[words.index("-d") + 1]) == {
        "customer": {"customer_id": 7, "age": 40},
        "update_mask": {"paths": ["age", "monthly_income"]},
    }
    words = shlex.split(SNIPPETS.buf_curl(call_of(request), with_token=False))
    assert json.loads(words[words.index("-d") + 1])["update_mask"] == "age,monthlyIncome"


def test_grpcurl_gets_all_requests_of_a_stream() -> None:
    request = ingestion_pb.IngestRowsRequest(batch=ingestion_pb.RowBatch())
    text = f"{request_json(request)} {request_json(request)}"
    words = shlex.split(SNIPPETS.grpcurl(Call(full_method(request), text), with_token=False))
    assert words[words.index("-d") + 1] == text


def test_a_number_that_json_readers_would_round_is_text() -> None:
    request = pb.GetCustomerRequest(customer_id=formats.MAX_INT64)
    assert json.loads(request_json(request)) == {"customer_id": str(formats.MAX_INT64)}


def test_an_upload_reads_its_file() -> None:
    header = ingestion_pb.UploadSpreadsheetHeader(filename="my loans.csv", validate_only=True)
    request = ingestion_pb.UploadSpreadsheetRequest(header=header)
    text = SNIPPETS.grpcurl(Call(full_method(request), request_json(request)), with_token=False)
    assert "base64 -w 1398100 './my loans.csv'" in text
    assert text.endswith(
        "-d @ 127.0.0.1:50051 credit_service.v1.IngestionService/UploadSpreadsheet"
    )
    text = SNIPPETS.credit_service(Call(full_method(request), request_json(request)))
    assert text.endswith("| credit-service call UploadSpreadsheet - --address 127.0.0.1:50051")


def test_with_tls_a_call_names_the_authorities_and_not_plaintext() -> None:
    snippets = Snippets("credit.example:443", Path("/etc/my ca.pem"))
    call = call_of(pb.GetCustomerRequest(customer_id=1))
    words = shlex.split(snippets.grpcurl(call, with_token=True))
    assert words[words.index("-cacert") + 1] == "/etc/my ca.pem"
    assert "-plaintext" not in words
    assert "authorization: Bearer $CREDIT_TOKEN" in words
    words = shlex.split(snippets.buf_curl(call, with_token=True))
    assert words[words.index("--cacert") + 1] == "/etc/my ca.pem"
    assert "--http2-prior-knowledge" not in words
    assert words[-1].startswith("https://credit.example:443/")


def test_with_mutual_tls_a_call_presents_the_certificate() -> None:
    snippets = Snippets("h:1", Path("ca.pem"), Path("own.pem"), Path("own.key"))
    call = call_of(pb.GetCustomerRequest(customer_id=1))
    assert " -cacert ca.pem -cert own.pem -key own.key " in snippets.grpcurl(call, with_token=False)
    shown = snippets.buf_curl(call, with_token=False)
    assert " --cacert ca.pem --cert own.pem --key own.key " in shown
    shown = snippets.credit_service(call)
    assert shown == (
        "credit-service call GetCustomer '{\"customer_id\": 1}' --address h:1 --ca ca.pem "
        "--certificate own.pem --private-key own.key"
    )


def test_an_upload_with_its_chunks_reads_no_file() -> None:
    requests = [
        ingestion_pb.UploadSpreadsheetRequest(
            header=ingestion_pb.UploadSpreadsheetHeader(filename="loans.csv")
        ),
        ingestion_pb.UploadSpreadsheetRequest(chunk=b"x"),
    ]
    text = " ".join(request_json(each) for each in requests)
    for given in (text, "{}", '{"chunk": "eA=="}'):
        call = Call(full_method(requests[0]), given)
        words = shlex.split(SNIPPETS.credit_service(call))
        assert words[3:] == [given, "--address", "127.0.0.1:50051"]
