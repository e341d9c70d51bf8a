"""Writes openpyxl workbooks: exact cells, reproducible bytes, and into one open file alone.

openpyxl by itself rounds numbers to 16 digits, rejects control characters, takes text that begins
with "=" for a formula, stamps the time into each file, and writes each sheet through a file of its
own, which a sandboxed process cannot open. This module is the one place that works around it.
"""

# ruff: noqa: SLF001 - openpyxl has no public way to write a cell's stored form or a sheet's part

import copy
import math
import re
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import IO, Any, Self
from xml.sax.saxutils import escape

from openpyxl import Workbook
from openpyxl.cell import Cell as SheetCell
from openpyxl.cell import WriteOnlyCell
from openpyxl.drawing.spreadsheet_drawing import SpreadsheetDrawing
from openpyxl.worksheet._writer import WorksheetWriter
from openpyxl.writer.excel import ExcelWriter

from credit_service.spreadsheets.cell_values import Cell, ErrorValue, Percent

MAX_TEXT_CHARS = 32_767
"""Longest text of a cell. Spreadsheet programs reject a file with a longer one, so it is cut."""

Line = tuple[int, Sequence[Any]]
"""The number of a row, from 1, and its openpyxl cells, with their rows and columns set."""

_FIXED_TIME = datetime(1980, 1, 1)  # noqa: DTZ001 - archives know no time zones
_FAST = 1


def save(workbook: Any, file: IO[bytes]) -> None:
    """Write a workbook to a seekable file. The same workbook always gives the same bytes."""
    workbook.properties.created = workbook.properties.modified = _FIXED_TIME
    with WorkbookSaver(workbook, file) as saver:
        saver.save()


class WorkbookSaver(ExcelWriter):  # type: ignore[misc] # openpyxl has no types
    """Saves a workbook into a seekable file, and rows of large sheets as they come.

    Call `write_rows` for such a sheet, then `save`. When the context ends, nothing writes to the
    file any more, whatever failed.
    """

    def __init__(self, workbook: Any, file: IO[bytes]) -> None:
        self._parts = _Archive(file, "w", zipfile.ZIP_DEFLATED, compresslevel=_FAST)
        super().__init__(workbook, self._parts)
        self._writers: dict[int, Any] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        with suppress(OSError, ValueError):
            self._parts.close()

    def write_rows(self, sheet: Any, lines: Iterable[Line]) -> None:
        """Write a sheet whose rows, in rising order, are these lines. Rows left out are blank."""
        self._write_part(sheet, _LineWriter(sheet, self._part(sheet), lines))

    def write_worksheet(self, sheet: Any) -> None:
        """Write a sheet; openpyxl calls it for each."""
        if id(sheet) not in self._writers:
            self._write_part(sheet, WorksheetWriter(sheet, self._part(sheet)))
        sheet._rels = self._writers[id(sheet)]._rels
        self.manifest.append(sheet)

    def _part(self, sheet: Any) -> IO[bytes]:
        sheet._id = self.workbook.worksheets.index(sheet) + 1
        return self._parts.open_part(sheet.path[1:])

    def _write_part(self, sheet: Any, writer: Any) -> None:
        sheet._drawing = SpreadsheetDrawing()
        sheet._drawing.charts, sheet._drawing.images = sheet._charts, sheet._images
        with writer.out:
            try:
                writer.write()
            finally:
                # Else it writes its last tags when it is collected, into a part that is closed.
                writer.close()
        self._writers[id(sheet)] = writer


class _LineWriter(WorksheetWriter):  # type: ignore[misc] # openpyxl has no types
    """Writes rows that are not kept in the sheet, each as one text. openpyxl writes the same bytes,
    but makes an XML element of each cell, which takes most of the time."""

    def __init__(self, sheet: Any, out: IO[bytes], lines: Iterable[Line]) -> None:
        self._lines = lines
        super().__init__(sheet, out)

    def rows(self) -> Iterable[Line]:
        """The rows to write."""
        return self._lines

    def write_row(self, xf: Any, row: Sequence[Any], row_idx: int) -> None:
        """Write a row."""
        # Where lxml is installed, openpyxl writes by it, and there is no `_file`.
        if not hasattr(xf, "_file") or any(cell._comment or cell._hyperlink for cell in row):
            super().write_row(xf, row, row_idx)
            return
        xf._file(f'<row r="{row_idx}">{"".join(map(_cell_xml, row))}</row>')


def _cell_xml(cell: Any) -> str:
    """What openpyxl writes of a cell with a value that `set_value` gave it."""
    value, has_style = cell._value, cell.has_style
    if value is None and not has_style:
        return ""
    style = f' s="{cell.style_id}"' if has_style else ""
    if cell.data_type != "s":
        return f'<c r="{cell.coordinate}"{style} t="{cell.data_type}"><v>{value}</v></c>'
    if value is None:
        return f'<c r="{cell.coordinate}"{style} t="inlineStr" />'
    space = "" if value.strip() in ("", value) else ' xml:space="preserve"'
    return (
        f'<c r="{cell.coordinate}"{style} t="inlineStr"><is><t{space}>{escape(value)}</t></is></c>'
    )


class _Archive(zipfile.ZipFile):
    """An archive whose parts have a fixed time."""

    def writestr(
        self,
        zinfo_or_arcname: Any,
        data: Any,
        compress_type: int | None = None,  # noqa: ARG002 - all parts are compressed alike
        compresslevel: int | None = None,  # noqa: ARG002 - see above
    ) -> None:
        """Write a part."""
        with self.open_part(str(zinfo_or_arcname)) as part:
            part.write(data.encode() if isinstance(data, str) else data)

    def open_part(self, name: str) -> IO[bytes]:
        """A part to write; one can be open at a time."""
        info = zipfile.ZipInfo(name, _FIXED_TIME.timetuple()[:6])
        info.compress_type = zipfile.ZIP_DEFLATED
        return self.open(info, "w", force_zip64=True)


# --- Cells ----------------------------------------------------------------------------------------


class CellFactory:
    """Makes cells for the rows of one sheet.

    Cells of one `style` and number format share the style, which openpyxl takes long to make.
    """

    def __init__(self, sheet: Any, styles: Sequence[dict[str, Any]]) -> None:
        """`styles` are attributes of cells, such as font and fill, by the number of the style."""
        self._sheet = sheet
        self._attributes = styles
        self._styles: dict[tuple[int, str, bool], Any] = {}

    def cell(self, row: int, column: int, value: Cell | Decimal, style: int = 0) -> Any:
        """A cell at a row from 1 and a column from 0, in one of the styles."""
        cell = SheetCell(self._sheet, row, column + 1)
        number_format, quoted = set_value(cell, value)
        key = style, number_format, quoted
        if key not in self._styles:
            self._styles[key] = self._style(*key)
        if (style, number_format, quoted) != (0, "", False):
            cell._style = self._styles[key]
        return cell

    def _style(self, style: int, number_format: str, quoted: bool) -> Any:
        cell = WriteOnlyCell(self._sheet)
        for name, attribute in self._attributes[style].items():
            setattr(cell, name, attribute)
        if number_format:
            cell.number_format = number_format
        if quoted:
            cell.quotePrefix = True
        return copy.copy(cell._style)


_DATE, _DATE_TIME, _TIME, _ELAPSED = (
    "yyyy\\-mm\\-dd",
    "yyyy\\-mm\\-dd hh:mm:ss",
    "h:mm:ss",
    "[h]:mm:ss",
)
_WHOLE_PERCENT, _PERCENT = "0%", "0.00%"
# Whole numbers below are written without a point, as spreadsheet programs do.
_MOST_SHOWN = 10**15
_SERIAL_OF_ORDINAL_0 = date(1899, 12, 30).toordinal()
_FIRST_USUAL_DAY = date(1900, 3, 1)
_DAY_SECONDS = 86_400
_LOOKS_LIKE_A_FORMULA = ("=", "+", "-", "@", "\t", "\r")
# The error values that the format knows. Programs invented others later.
_ERROR_VALUES = frozenset({"#N/A", "#REF!", "#DIV/0!", "#NAME?", "#NULL!", "#NUM!", "#VALUE!"})


def set_value(cell: Any, value: Cell | Decimal) -> tuple[str, bool]:
    """Give an openpyxl cell a value that our reader reads back equal, never a formula.

    Returns the number format that shows it, empty for the general one, and whether it must be
    marked as text (`quotePrefix`), because a program could take it for a formula. The cell's style
    stays as it is.
    """
    if isinstance(value, str):
        return "", _set_text(cell, value)
    stored: str | int
    number_format = ""
    cell.data_type = "n"
    if isinstance(value, bool):
        cell.data_type, stored = "b", int(value)
    elif isinstance(value, Percent) and math.isfinite(value):
        number_format = _WHOLE_PERCENT if value.is_integer() else _PERCENT
        stored = value.fraction()
    elif isinstance(value, Decimal):
        stored = format(value, "f")
    elif isinstance(value, int | float):
        if not math.isfinite(value):
            return "", _set_text(cell, str(value))
        if isinstance(value, float) and value.is_integer() and abs(value) < _MOST_SHOWN:
            value = int(value)
        stored = repr(value)
    else:
        serial, number_format = _serial(value)
        if serial is None:
            return "", _set_text(cell, str(value))
        stored = repr(serial)
    # A text of type "n" is written as it is; a float would be rounded to 16 digits.
    cell._value = stored
    return number_format, False


def _set_text(cell: Any, value: str) -> bool:
    if isinstance(value, ErrorValue):
        cell.data_type = "e"
        cell._value = str(value) if value in _ERROR_VALUES else "#VALUE!"
        return False
    cell.data_type = "s"
    cell._value = escaped(value[:MAX_TEXT_CHARS]) or None
    return value.startswith(_LOOKS_LIKE_A_FORMULA)


def protect_text(cell: Any) -> None:
    """Mark the text of a loaded cell that a program could take for a formula, and keep all digits
    of its number."""
    if isinstance(cell.value, str) and cell.data_type != "e":
        cell.data_type = "s"
        if cell.value.startswith(_LOOKS_LIKE_A_FORMULA):
            cell.quotePrefix = True
    elif isinstance(cell.value, float) and math.isfinite(cell.value):
        cell._value = repr(cell.value)


def _serial(value: date | datetime | time | timedelta) -> tuple[int | float | None, str]:
    """A moment in days as a sheet counts them, None before its first day; and its format."""
    if isinstance(value, timedelta):
        return value.total_seconds() / _DAY_SECONDS, _ELAPSED
    if isinstance(value, time):
        return _day_part(value), _TIME
    serial = value.toordinal() - _SERIAL_OF_ORDINAL_0
    day = value.date() if isinstance(value, datetime) else value
    if day < _FIRST_USUAL_DAY:
        # Sheets have a 29 February 1900, which is not counted before that day.
        serial -= 1
    if serial < 1:
        return None, ""
    if isinstance(value, datetime):
        return serial + _day_part(value.time()), _DATE_TIME
    return serial, _DATE


def _day_part(value: time) -> float:
    seconds = value.hour * 3600 + value.minute * 60 + value.second + value.microsecond / 1e6
    return seconds / _DAY_SECONDS


# Characters that XML cannot hold or would change, and text that looks like their escape.
_TO_ESCAPE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\r]|_(?=x[0-9A-Fa-f]{4}_)")
# They are no characters, and have no escape.
_NO_CHARACTERS = re.compile("[\ufffe\uffff\ud800-\udfff]")


def escaped(text: str) -> str:
    """The text with the format's escapes for what XML cannot hold: _x0001_."""
    if _TO_ESCAPE.search(text):
        text = _TO_ESCAPE.sub(lambda match: f"_x{ord(match[0]):04X}_", text)
    return _NO_CHARACTERS.sub("\N{REPLACEMENT CHARACTER}", text)


def write_table(
    file: IO[bytes],
    headers: Sequence[Cell | Decimal],
    rows: Iterable[Sequence[Cell | Decimal]],
    title: str = "Sheet1",
) -> None:
    """Write a workbook of one sheet with the header in its first row."""
    workbook = Workbook(write_only=True)
    workbook.properties.created = workbook.properties.modified = _FIXED_TIME
    sheet = workbook.create_sheet(title)
    factory = CellFactory(sheet, [{}])

    def lines() -> Iterator[Line]:
        yield 1, [factory.cell(1, column, cell) for column, cell in enumerate(headers)]
        for number, cells in enumerate(rows, 2):
            yield number, [factory.cell(number, column, cell) for column, cell in enumerate(cells)]

    with WorkbookSaver(workbook, file) as saver:
        saver.write_rows(sheet, lines())
        saver.save()
