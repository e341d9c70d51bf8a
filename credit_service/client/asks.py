"""Files of asks: each row is an eligibility check, and comes back with its answer beside it.

The rows are sent in batches by BatchCheckEligibility, and written as they are answered: memory does
not grow with the file. The answer to a workbook is a new workbook with the sheet of the asks, every
row at its own number; the answer to a CSV file is a CSV file. Neither has a formula.
"""

import codecs
import csv
import io
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import IO, Any, BinaryIO

from google.rpc import error_details_pb2, status_pb2
from openpyxl import Workbook
from openpyxl.styles import Font

from credit_service.client.display import enum_name, paise
from credit_service.client.rows import CONVERTERS, UnreadableError
from credit_service.spreadsheets import cell_values
from credit_service.spreadsheets.cell_values import Cell, Formula, is_blank
from credit_service.spreadsheets.columns import TABLES
from credit_service.spreadsheets.headers import letters, shown
from credit_service.spreadsheets.source import check, open_table
from credit_service.spreadsheets.table import MAX_COLUMNS, SpreadsheetError, Table, columns_of
from credit_service.spreadsheets.workbook_writer import CellFactory, Line, WorkbookSaver
from credit_service.v1 import credit_service_pb2 as pb
from credit_service.v1 import decision_pb2, offer_pb2
from credit_service.v1.credit_service_pb2_grpc import CreditServiceStub
from credit_service_client.errors import ServiceError
from credit_service_client.retrying import Patience, RetryingMethod

BATCH_ASKS = 1_000
CALL_TIMEOUT_SECONDS = 60.0
PATIENCE_SECONDS = 120.0
"""How long a batch is retried while the service is unavailable or at capacity."""

HEADERS = (
    "Answer",
    "Answer rate",
    "Answer installment",
    "Answer last installment",
    "Answer score",
    "Answer reasons",
    "Answer largest amount",
    "Answer shortest tenure",
    "Answer APR",
    "Answer net disbursed",
    "Answer error",
)
"""The columns of answers. They replace those of an earlier answer to the same file."""
_WIDTHS = (12, 12, 18, 18, 12, 60, 18, 18, 12, 18, 60)
_PAYEES = {
    "lender_charges": offer_pb2.CHARGE_PAYEE_LENDER,
    "third_party_charges": offer_pb2.CHARGE_PAYEE_THIRD_PARTY,
}
"""Who receives the charge of a column. The other columns are fields of the ask."""
_FORMULA_SIGNS = ("=", "+", "-", "@", "\t", "\r")

_Answer = tuple[Cell | Decimal, ...]
"""The cells of HEADERS."""


@dataclass(slots=True)
class Counts:
    """The rows answered so far: by decision, and rows with an error instead."""

    decisions: dict[str, int] = field(default_factory=dict)
    errors: int = 0

    @property
    def rows(self) -> int:
        """All of them."""
        return sum(self.decisions.values()) + self.errors


Listener = Callable[[Counts], object]


def answer(
    service: CreditServiceStub,
    source: BinaryIO,
    filename: str,
    output: IO[bytes],
    listener: Listener = lambda _counts: None,
) -> Counts:
    """Write the file with its answers to `output`, which must be seekable. `listener` gets the
    counts after each batch.

    Raises:
        SpreadsheetError: the file cannot be read, or a column is missing.
        ServiceError: the service rejects a batch, or does not answer in time.
    """
    is_csv = check(source, filename) == "csv"
    table = open_table(source, filename, "ASKS")
    columns = columns_of("ASKS", table.header, table.sheet_name, table.header_row)
    place = _place_of_answers(table.header)
    if place + len(HEADERS) > MAX_COLUMNS:
        raise SpreadsheetError(
            "FILE_UNREADABLE",
            f"The file has {place} columns, which leaves no room for the answers; "
            f"at most {MAX_COLUMNS - len(HEADERS)} are possible.",
        )
    counts = Counts()
    # In a sheet, other columns may lack a header.
    width = len(table.header) if is_csv else MAX_COLUMNS
    rows = _answered(service, table.rows, columns, width, counts, listener)
    (_write_csv if is_csv else _write_workbook)(output, table, place, rows)
    return counts


def _place_of_answers(header: Sequence[Cell]) -> int:
    """The index of the first column of answers: that of an earlier answer, or after the header."""
    for index, cell in enumerate(header):
        if cell == HEADERS[0]:
            return index
    return len(header)


# Answers.

_Row = tuple[int, Sequence[Cell]]


def _answered(
    service: CreditServiceStub,
    rows: Iterator[_Row],
    columns: Mapping[str, int],
    width: int,
    counts: Counts,
    listener: Listener,
) -> Iterator[tuple[int, Sequence[Cell], _Answer]]:
    """The rows with their answers; a row without an ask has an empty one."""
    while chunk := list(itertools.islice(rows, BATCH_ASKS)):
        asked: list[pb.CheckEligibilityRequest] = []
        answers: list[_Answer | None] = []
        for _, cells in chunk:
            found = _read(cells, columns, width)
            if isinstance(found, pb.CheckEligibilityRequest):
                asked.append(found)
                answers.append(None)
            else:
                counts.errors += found != ()
                answers.append(found)
        results = iter(_results(service, asked))
        for (number, cells), known in zip(chunk, answers, strict=True):
            yield number, cells, _written(next(results), counts) if known is None else known
        listener(counts)


def _read(
    cells: Sequence[Cell], columns: Mapping[str, int], width: int
) -> pb.CheckEligibilityRequest | _Answer:
    """The ask of a row; () for a blank row, and the answer where a cell does not fit its column.

    A value after the first `width` cells is an error.
    """
    if not all(map(is_blank, cells[width:])):
        return _error("ROW_TOO_LONG: the row has a value after the last header.")
    values = {name: cells[index] if index < len(cells) else "" for name, index in columns.items()}
    if all(map(is_blank, values.values())):
        return ()
    ask = pb.CheckEligibilityRequest()
    problems = []
    for column in TABLES["ASKS"]:
        convert, cell = CONVERTERS[column.type], values.get(column.field, "")
        try:
            value = convert.cell(cell)
            if value is None:
                continue
            if column.field not in _PAYEES:
                convert.fill(ask, column.field, value)
            elif any(value):
                charge = ask.charges.add(
                    type=column.headers[0].lower(), payee=_PAYEES[column.field]
                )
                convert.fill(charge, "amount", value)
        except UnreadableError as error:
            found = cell_values.shown(cell)[:100]
            problems.append(
                f"{column.headers[0]} ({error.code}): found {found!r}, expected {column.expected}."
            )
    return _error(" ".join(problems)) if problems else ask


def _results(
    service: CreditServiceStub, asked: Sequence[pb.CheckEligibilityRequest]
) -> Sequence[pb.EligibilityResult]:
    """The results of the asks, in their order."""
    if not asked:
        return ()
    try:
        return _call(service, pb.BatchCheckEligibilityRequest(asks=asked)).results
    except ServiceError as error:
        # The answers to a batch may exceed the size of a message.
        if len(asked) == 1 or [name for name, _ in error.violations] != ["asks"]:
            raise
    half = len(asked) // 2
    return [*_results(service, asked[:half]), *_results(service, asked[half:])]


def _call(
    service: CreditServiceStub, request: pb.BatchCheckEligibilityRequest
) -> pb.BatchCheckEligibilityResponse:
    patience = Patience(give_up_seconds=PATIENCE_SECONDS, call_timeout_seconds=CALL_TIMEOUT_SECONDS)
    response: pb.BatchCheckEligibilityResponse = RetryingMethod(
        service.BatchCheckEligibility, patience
    )(request)
    return response


def _written(result: pb.EligibilityResult, counts: Counts) -> _Answer:
    """The cells of a result, which is counted."""
    if result.HasField("error"):
        counts.errors += 1
        return _error(_explained(result.error))
    found = result.eligibility
    decision = "APPROVED" if found.approved else "DECLINED"
    if found.outcome == decision_pb2.DECISION_OUTCOME_REFERRED:
        decision = "REFERRED"
    counts.decisions[decision] = counts.decisions.get(decision, 0) + 1
    return (
        decision,
        Decimal(found.corrected_interest_rate.value),
        _rupees(found.monthly_installment),
        _rupees(found.last_installment),
        found.credit_score.score,
        " ".join(
            f"{enum_name(each.code, decision_pb2.DeclineReasonCode)}: {each.message}"
            for each in found.reasons
        ),
        *_counter_offer(found.counter_offer),
        *_cost(found),
        "",
    )


def _counter_offer(offer: decision_pb2.CounterOffer) -> tuple[Cell | Decimal, Cell | Decimal]:
    """The largest amount and the shortest tenure; "" where there is none."""
    return (
        _rupees(offer.max_loan_amount) if offer.HasField("max_loan_amount") else "",
        offer.min_tenure_months or "",
    )


def _cost(found: pb.CheckEligibilityResponse) -> tuple[Cell | Decimal, Cell | Decimal]:
    """The annual percentage rate and what is disbursed; "" for a decline."""
    if not found.HasField("cost_of_credit"):
        return "", ""
    cost = found.cost_of_credit
    return Decimal(cost.annual_percentage_rate.value), _rupees(cost.net_disbursed)


def _rupees(money: Any) -> Decimal:
    return Decimal(paise(money)).scaleb(-2)


def _error(text: str) -> _Answer:
    return ("ERROR", *[""] * (len(HEADERS) - 2), text)


def _explained(status: status_pb2.Status) -> str:
    """The reason and the message of an error."""
    info = error_details_pb2.ErrorInfo()
    for detail in status.details:
        if detail.Unpack(info):
            return f"{info.reason}: {status.message}"
    return str(status.message)


# Files.

_AnsweredRows = Iterator[tuple[int, Sequence[Cell], _Answer]]


def _write_workbook(output: IO[bytes], table: Table, place: int, rows: _AnsweredRows) -> None:
    """Write a workbook with the sheet of the asks."""
    workbook = Workbook(write_only=True)
    sheet = workbook.create_sheet(_sheet_name(table.sheet_name))
    for index, width in enumerate(_WIDTHS, place):
        sheet.column_dimensions[letters(index)].width = width
    plain, heading = range(2)
    factory = CellFactory(sheet, [{}, {"font": Font(bold=True)}])

    def line(number: int, cells: Sequence[Cell], answers: _Answer, style: int = plain) -> Line:
        given = [
            factory.cell(number, index, _without_formula(cell), style)
            for index, cell in enumerate(cells[:place])
            if cell != ""
        ]
        added = [
            factory.cell(number, index, cell, style)
            for index, cell in enumerate(answers, place)
            if cell != ""
        ]
        return number, [*given, *added]

    def lines() -> Iterator[Line]:
        for number, cells in table.above:
            yield line(number, cells, ())
        yield line(table.header_row, table.header, HEADERS, heading)
        for number, cells, answers in rows:
            yield line(number, cells, answers)

    with WorkbookSaver(workbook, output) as saver:
        saver.write_rows(sheet, lines())
        saver.save()


def _without_formula(cell: Cell) -> Cell:
    """A formula as text."""
    return str(cell) if isinstance(cell, Formula) else cell


_NOT_IN_SHEET_NAMES = str.maketrans(dict.fromkeys("[]:*?/\\", " "))


def _sheet_name(name: str) -> str:
    return shown(name).translate(_NOT_IN_SHEET_NAMES).strip("' ")[:31].strip("' ") or "Asks"


def _write_csv(output: IO[bytes], table: Table, place: int, rows: _AnsweredRows) -> None:
    """Write comma-separated text in UTF-8 with a byte order mark, as spreadsheet programs expect.

    A cell that a program would take for a formula begins with an apostrophe.
    """
    output.write(codecs.BOM_UTF8)
    text = io.TextIOWrapper(output, encoding="utf-8", newline="")
    writer = csv.writer(text)

    def write(cells: Sequence[Cell], answers: Sequence[Cell | Decimal]) -> None:
        given = [_neutral(str(cell)) for cell in cells[:place]]
        given += [""] * (place - len(given)) if answers else []
        writer.writerow([*given, *map(_text, answers)])

    for _, cells in table.above:
        write(cells, ())
    write(table.header, HEADERS)
    for _, cells, answers in rows:
        write(cells, answers)
    text.flush()
    text.detach()


def _text(cell: Cell | Decimal) -> str:
    return format(cell, "f") if isinstance(cell, Decimal) else _neutral(str(cell))


def _neutral(text: str) -> str:
    """The text, which no spreadsheet program takes for a formula."""
    if not text.startswith(_FORMULA_SIGNS) or cell_values.plain_numeral(text, "DECIMAL"):
        return text
    return f"'{text}"
