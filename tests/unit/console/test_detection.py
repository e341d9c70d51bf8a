"""Detection of the kinds of rows in a file, in a separate process."""

import io
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

import openpyxl
import pytest

from credit_service.console import detection
from credit_service.console.detection import UndetectedError, detected
from credit_service.spreadsheets.columns import COLUMNS, Kind


@contextmanager
def stored(content: bytes) -> Iterator[IO[bytes]]:
    with tempfile.TemporaryFile() as file:
        file.write(content)
        yield file


@pytest.mark.parametrize("kind", ["CUSTOMERS", "LOANS"])
def test_a_csv_file_is_detected_by_its_headers(kind: Kind) -> None:
    header = ",".join(each.headers[0] for each in COLUMNS[kind])
    with stored(f"{header}\r\n".encode()) as file:
        assert detected(file, "x.csv") == (kind,)


def test_a_workbook_of_both_kinds_has_customers_first() -> None:
    book, content = openpyxl.Workbook(), io.BytesIO()
    book.remove(book.worksheets[0])
    kinds: tuple[Kind, ...] = ("LOANS", "CUSTOMERS")
    for kind in kinds:
        book.create_sheet(kind).append([each.headers[0] for each in COLUMNS[kind]])
    book.save(content)
    with stored(content.getvalue()) as file:
        assert detected(file, "both.xlsx") == ("CUSTOMERS", "LOANS")


def test_a_file_without_a_kind_is_reported_with_the_reason() -> None:
    with stored(b"a,b\r\n") as file, pytest.raises(UndetectedError, match="neither"):
        detected(file, "x.csv")


@pytest.mark.slow
def test_a_hostile_workbook_affects_only_its_reading_process() -> None:
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("xl/workbook.xml", b"0" * 300_000_000)
    with stored(bomb.getvalue()) as file, pytest.raises(UndetectedError):
        detected(file, "x.xlsx")


def test_a_process_that_takes_too_long_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detection, "WAIT_SECONDS", 0.01)
    with stored(b"a,b\r\n") as file, pytest.raises(UndetectedError, match="Choose customers"):
        detected(file, "x.csv")
