"""Files of asks come back with the answers beside their rows, answered by a real server."""

import csv
import io
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import openpyxl
import pytest
from google.rpc import status_pb2

from credit_service.cli import app
from credit_service.client import asks
from credit_service.clock import Clock
from credit_service.console import answering
from credit_service.domain.errors import FieldViolation, InvalidFieldsError
from credit_service.rpc.errors import to_status
from credit_service.spreadsheets import templates
from credit_service.spreadsheets.columns import usual_headers
from credit_service.spreadsheets.table import SpreadsheetError
from credit_service.storage.database import Database
from credit_service.v1 import credit_service_pb2 as pb
from credit_service_client.errors import ServiceError
from tests.consoles import Answer, Visitor, console
from tests.integration import portfolio
from tests.integration.conftest import Edge

MOMENT = Clock().moment()
HEADER = ("Customer ID", "Note", "Loan Amount (INR)", "Rate", "Tenure in months")


def answered(credit: Any, content: bytes, filename: str) -> tuple[asks.Counts, bytes]:
    output = io.BytesIO()
    counts = asks.answer(credit, io.BytesIO(content), filename, output)
    return counts, output.getvalue()


def as_csv(*rows: tuple[object, ...]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text).writerows(rows)
    return text.getvalue().encode()


def as_workbook(*rows: tuple[object, ...], title: str = "Requests") -> bytes:
    workbook = openpyxl.Workbook()
    workbook.active.title = title
    for row in rows:
        workbook.active.append(row)
    workbook.create_sheet("Other").append(["not read"])
    saved = io.BytesIO()
    workbook.save(saved)
    return saved.getvalue()


def rows_of_csv(content: bytes) -> list[list[str]]:
    return list(csv.reader(io.StringIO(content.decode("utf-8-sig"), newline="")))


def rows_of_workbook(content: bytes) -> list[list[Any]]:
    sheet = openpyxl.load_workbook(io.BytesIO(content)).active
    return [list(row) for row in sheet.iter_rows(values_only=True)]


@pytest.fixture
def customer_id(database: Database) -> int:
    """A customer with an income of 1 lakh, a limit of 36 lakh and a good score."""
    return portfolio.a_good_customer(database, MOMENT)


def test_a_workbook_comes_back_with_the_answers(server: Edge, customer_id: int) -> None:
    content = as_workbook(
        ("Requests of May",),
        HEADER,
        (customer_id, "=1+1", 100_000, 12.5, 24),
        (None, "a note", None, None, None),
        (customer_id, "-", "₹ 90,00,000", "9 %", 12),
        (4_242, "unknown", 100_000, 10, 12),
        (customer_id, "bad cell", "a lot", 10, 12),
        (customer_id, "bad field", 100_000, 10, 481),
        title="Mai",
    )
    counts, output = answered(server.credit, content, "asks.xlsx")
    assert (counts.decisions, counts.errors) == ({"APPROVED": 1, "DECLINED": 1}, 3)
    workbook = openpyxl.load_workbook(io.BytesIO(output))
    assert workbook.sheetnames == ["Mai"]
    sheet = workbook.active
    rows = [list(row) for row in sheet.iter_rows(values_only=True)]
    assert rows[0][0] == "Requests of May"
    assert rows[1] == [*HEADER, *asks.HEADERS]
    approved, blank, declined, unknown, cell, invalid = (row[len(HEADER) :] for row in rows[2:])
    assert approved[:4] == ["APPROVED", 12.5, 4730.73, 4730.76]
    assert approved[5:] == [None] * 6
    assert blank == [None] * len(asks.HEADERS)
    assert declined[0] == "DECLINED"
    assert "EMI_BURDEN_TOO_HIGH: Current installments of" in declined[5]
    assert "APPROVED_LIMIT_EXCEEDED" in declined[5]
    assert declined[6] > 0
    assert unknown[0] == cell[0] == invalid[0] == "ERROR"
    assert unknown[10] == "CUSTOMER_NOT_FOUND: There is no customer 4242."
    assert cell[10].startswith("Loan Amount (NOT_A_NUMBER): found 'a lot', expected rupees")
    assert invalid[10] == "INVALID_FIELD: tenure_months must be 1 to 480, found 481."
    # No cell is a formula.
    assert sheet["B3"].value == "=1+1"
    assert sheet["B3"].data_type == "s"


def test_an_answered_file_can_be_sent_again(server: Edge, customer_id: int) -> None:
    row = (customer_id, "", 100_000, 12, 24)
    first = answered(server.credit, as_csv(HEADER, row), "asks.csv")[1]
    assert answered(server.credit, first, "asks.csv")[1] == first
    workbook = answered(server.credit, as_workbook(HEADER, row), "asks.xlsx")[1]
    again = answered(server.credit, workbook, "asks.xlsx")[1]
    assert rows_of_workbook(again) == rows_of_workbook(workbook)


def test_a_csv_file_comes_back_without_formulas(server: Edge, customer_id: int) -> None:
    content = as_csv(
        HEADER,
        (customer_id, "=HYPERLINK()", "1,00,000", "12.5", 24),
        (customer_id, "-5", "100000", "12.5", 24, "too long"),
        (),
        (customer_id, "@x"),
    )
    counts, output = answered(server.credit, content, "asks.csv")
    assert counts.rows == 3
    assert counts.errors == 2
    header, approved, too_long, blank, short = rows_of_csv(output)
    assert header == [*HEADER, *asks.HEADERS]
    assert approved[1:] == [
        *("'=HYPERLINK()", "1,00,000", "12.5", "24"),
        *("APPROVED", "12.5", "4730.73", "4730.76", approved[9]),
        *[""] * 6,
    ]
    assert too_long[1] == "-5"
    assert too_long[-1].startswith("ROW_TOO_LONG")
    assert blank == []
    assert short[1] == "'@x"
    assert short[-1].startswith("INVALID_FIELD: loan_amount is required.")


def test_a_template_that_was_filled_in_is_answered(server: Edge, customer_id: int) -> None:
    workbook = openpyxl.load_workbook(io.BytesIO(templates.template("ASKS")))
    workbook.worksheets[0].append((customer_id, 100_000, 24, 12.5))
    saved = io.BytesIO()
    workbook.save(saved)
    counts, output = answered(server.credit, saved.getvalue(), "asks-template.xlsx")
    assert counts.decisions == {"APPROVED": 1}
    assert rows_of_workbook(output)[0][:6] == list(usual_headers("ASKS"))


def test_a_file_may_have_charges(server: Edge, customer_id: int) -> None:
    """The figures of the Reserve Bank of India's illustration."""
    header = (
        "Customer ID",
        "Loan Amount",
        "Rate",
        "Tenure",
        "Lender Charges",
        "Third Party Charges",
    )
    terms = (customer_id, 20_000, 15, 24)
    content = as_csv(
        header,
        (*terms, 160, "240.00"),
        (*terms, 0, ""),
        (*terms, "20,000", ""),
        (*terms, "a lot", ""),
    )
    _, output = answered(server.credit, content, "asks.csv")
    costly, free, too_much, unreadable = (row[len(header) :] for row in rows_of_csv(output)[1:])
    assert costly[8:] == ["17.07", "19600.00", ""]
    assert free[8:] == ["", "", ""]
    assert too_much[-1].startswith("INVALID_FIELD: charges must be less than the loan of ₹20,000")
    assert unreadable[-1].startswith("Lender Charges (NOT_A_NUMBER): found 'a lot'")


def test_a_file_without_a_column_is_rejected(server: Edge) -> None:
    with pytest.raises(SpreadsheetError, match="file of asks needs the column 'Tenure'"):
        answered(server.credit, as_csv(HEADER[:4], (1, "", 2, 3)), "asks.csv")


class Batches:
    """Answers every ask with an error, and rejects batches of more than `most`."""

    def __init__(self, most: int = asks.BATCH_ASKS) -> None:
        self.sizes: list[int] = []
        self._most = most

    def BatchCheckEligibility(  # noqa: N802 - the contract's
        self, request: pb.BatchCheckEligibilityRequest, timeout: float
    ) -> pb.BatchCheckEligibilityResponse:
        assert timeout > 0
        self.sizes.append(len(request.asks))
        if len(request.asks) > self._most:
            raise ServiceError(
                grpc.StatusCode.INVALID_ARGUMENT,
                "asks must be fewer",
                violations=[("asks", "asks must be fewer")],
            )
        error = InvalidFieldsError([FieldViolation("x", "REQUIRED", "x is required.")])
        status: status_pb2.Status = to_status(error, "", "")
        return pb.BatchCheckEligibilityResponse(
            results=[pb.EligibilityResult(error=status) for _ in request.asks]
        )


def test_rows_are_sent_in_batches_and_a_batch_too_large_in_halves() -> None:
    rows = [(number, "", 100_000, 12, 24) for number in range(1, 2_501)]
    whole = Batches()
    seen: list[int] = []
    counts = asks.answer(
        whole,  # type: ignore[arg-type]  # it has the method that is called
        io.BytesIO(as_csv(HEADER, *rows)),
        "asks.csv",
        io.BytesIO(),
        lambda counts: seen.append(counts.rows),
    )
    assert whole.sizes == [1_000, 1_000, 500]
    assert seen == [1_000, 2_000, 2_500]
    assert counts.errors == 2_500
    halves = Batches(300)
    answered(halves, as_csv(HEADER, *rows[:1_000]), "asks.csv")
    assert halves.sizes == [1_000, 500, 250, 250, 500, 250, 250]


def test_the_command_saves_the_file_once(
    server: Edge, customer_id: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, output = tmp_path / "asks.csv", tmp_path / "answers.csv"
    source.write_bytes(as_csv(HEADER, (customer_id, "", 100_000, 12, 24)))
    command = ["check-file", str(source), "-o", str(output), "--address", server.target]
    assert app.run(command) == 0
    assert "1 row, 1 approved, 0 errors." in " ".join(capsys.readouterr().out.split())
    assert rows_of_csv(output.read_bytes())[1][5] == "APPROVED"
    assert app.run(command) == 1
    assert "already exists" in capsys.readouterr().err

    output.unlink()
    source.write_bytes(as_csv(HEADER, (customer_id, "", "?", 12, 24)))
    assert app.run([*command, "--json"]) == 1
    assert json.loads(capsys.readouterr().out) == {
        "path": str(output),
        "rows": 1,
        "errors": 1,
    }
    output.unlink()
    source.write_bytes(b"nothing")
    assert app.run(command) == 1
    assert not output.exists()


# The same in the console.


@pytest.fixture
def visitor(server: Edge) -> Iterator[Visitor]:
    with console(server.target) as place:
        # Each file starts a process.
        yield Visitor(place, timeout_seconds=60)


def uploaded(visitor: Visitor, content: bytes, filename: str) -> Answer:
    head = (
        '--x\r\ncontent-disposition: form-data; name="csrf_token"\r\n\r\n'
        f"{visitor.csrf_token('/qa/asks')}\r\n"
        f'--x\r\ncontent-disposition: form-data; name="file"; filename="{filename}"\r\n'
        "content-type: application/octet-stream\r\n\r\n"
    )
    body = head.encode() + content + b"\r\n--x--\r\n"
    return visitor.ask("/qa/asks", body, "multipart/form-data; boundary=x")


def test_the_console_answers_an_uploaded_file(visitor: Visitor, customer_id: int) -> None:
    row = (customer_id, "", 100_000, 12.5, 24)
    answer = uploaded(visitor, as_workbook(HEADER, row), "May.xlsx")
    assert answer.status == 200
    assert answer.headers["content-disposition"] == "attachment; filename*=UTF-8''May-answers.xlsx"
    assert rows_of_workbook(answer.body)[1][len(HEADER)] == "APPROVED"


def test_the_console_says_what_is_wrong_with_a_file(
    visitor: Visitor, server: Edge, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = uploaded(visitor, as_csv(HEADER[:4], (1, "", 2, 3)), "May.csv")
    assert answer.status == 400
    assert "A file of asks needs the column &#39;Tenure&#39;" in answer.text
    assert uploaded(visitor, b"", "").status == 400
    # A process that dies, for instance of a lack of memory.
    monkeypatch.setattr(sys, "executable", "/bin/false")
    answer = uploaded(visitor, as_csv(HEADER, (1, "", 2, 3, 4)), "May.csv")
    assert answer.status == 400
    assert "The file could not be checked." in answer.text


def test_files_of_the_console_are_read_with_limits() -> None:
    """In a process without the console's secrets and with limited memory."""
    environment = answering._environment("a-token")
    assert environment["CREDIT_TOKEN"] == "a-token"
    assert not {"DATABASE_URL", "CREDIT_CONSOLE_SECRET"} & environment.keys()
    program = (
        "import resource, sys\n"
        "from credit_service.console import answering\n"
        "answering._answer = lambda *_: [resource.getrlimit(resource.RLIMIT_AS)[0]]\n"
        "answering.main('x.csv', '127.0.0.1:1', 1)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, check=True, text=True
    )
    assert json.loads(ended.stdout) == [answering.MEMORY_LIMIT_BYTES]
