"""Writes a workbook of one large sheet with notes and one small sheet, row by row.

Part by part as the format asks (ECMA-376, Part 1): openpyxl takes several times as long, rounds
numbers to 16 digits and refuses control characters. What is written comes back equal from
`spreadsheets`: numbers to the last digit, days as days, text as text.
"""

import math
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta
from enum import IntEnum
from typing import IO, Self
from xml.sax.saxutils import escape

from credit_service.spreadsheets.table import Cell, ErrorValue, Percent

MAX_ROWS = 1_048_576
"""Rows of a sheet."""
MAX_TEXT_CHARS = 32_767
"""Longest text of a cell; spreadsheet programs refuse a file with a longer one, so it is cut."""


class Look(IntEnum):
    """How a cell looks."""

    PLAIN = 0
    WRONG = 1
    """What is wrong with the row is in this cell."""
    WRONG_ROW = 2
    """What is wrong is the row as a whole, or the cell tells why."""
    HEADING = 3
    TITLE = 4
    LINK = 5
    WRAPPED = 6
    SKIPPED = 7
    """The row was skipped, or the cell tells why."""


class _Format(IntEnum):
    GENERAL = 0
    # Text that a program could take for a formula, told not to: Excel's leading apostrophe.
    QUOTED = 1
    DATE = 2
    DATE_TIME = 3
    TIME = 4
    ELAPSED = 5
    PERCENT = 6
    PERCENT_DECIMALS = 7


@dataclass(frozen=True, slots=True)
class Note:
    """A comment at a cell, row from 1 and column from 0."""

    row: int
    column: int
    text: str


@dataclass(frozen=True, slots=True)
class Sheet:
    """How a sheet is shown. `widths` are of its columns, in characters."""

    name: str
    widths: Sequence[float]
    frozen_rows: int = 0


Styled = tuple[int, Cell, Look]
"""Column from 0, content and look of a cell."""


class WorkbookWriter:
    """A workbook on its way into a file that can be sought in, complete when the context ends.

    Write the rows, then `finish`.
    """

    def __init__(self, file: IO[bytes]) -> None:
        # The fastest compression: the file is made once for each download.
        self._archive = zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self._archive.close()

    @contextmanager
    def rows(self, sheet: Sheet) -> Iterator["RowWriter"]:
        """Begin the large sheet, which is the second one; ended, it cannot be added to."""
        with self._archive.open("xl/worksheets/sheet2.xml", "w", force_zip64=True) as part:
            writer = RowWriter(part)
            part.write(_sheet_head(sheet).encode())
            yield writer
            writer.flush()
            part.write(b"</sheetData>")
            if writer.filtered:
                part.write(f'<autoFilter ref="{writer.filtered}"/>'.encode())
            if writer.notes:
                part.write(b'<legacyDrawing r:id="rId1"/>')
            part.write(b"</worksheet>")
        self._sheet = sheet
        self._notes = writer.notes

    def finish(
        self,
        first: Sheet,
        rows: Sequence[Sequence[Styled]],
        links: Mapping[str, str],
    ) -> None:
        """Write the small sheet, which comes first, and what is left.

        `links` lead from cells of it, such as 'C9', to places in the workbook.
        """
        with self._archive.open("xl/worksheets/sheet1.xml", "w") as part:
            part.write(_sheet_head(first).encode())
            writer = RowWriter(part)
            for number, cells in enumerate(rows, 1):
                writer.row(number, cells)
            writer.flush()
            part.write(b"</sheetData>")
            if links:
                elements = "".join(
                    f'<hyperlink ref="{cell}" location="{_attribute(place)}"/>'
                    for cell, place in links.items()
                )
                part.write(f"<hyperlinks>{elements}</hyperlinks>".encode())
            part.write(b"</worksheet>")
        if self._notes:
            self._write_notes()
        for name, content in _parts([first.name, self._sheet.name], bool(self._notes)).items():
            self._archive.writestr(name, _XML + content)

    def _write_notes(self) -> None:
        with self._archive.open("xl/comments1.xml", "w") as part:
            part.write(
                f'{_XML}<comments xmlns="{_MAIN}"><authors><author>credit-service</author>'
                "</authors><commentList>".encode()
            )
            for note in self._notes:
                part.write(
                    f'<comment ref="{column_name(note.column)}{note.row}" authorId="0">'
                    f"<text>{_text_element(note.text)}</text></comment>".encode()
                )
            part.write(b"</commentList></comments>")
        with self._archive.open("xl/drawings/vmlDrawing1.vml", "w") as part:
            # Shapes are numbered from 1025 on, in blocks of 1024.
            blocks = ",".join(str(block) for block in range(1, 2 + (len(self._notes) // 1024)))
            part.write(_DRAWING_HEAD.format(blocks=blocks).encode())
            for number, note in enumerate(self._notes, 1025):
                place = (
                    f"{note.column + 1}, 15, {note.row - 1}, 4, "
                    f"{note.column + 5}, 15, {note.row + 6}, 4"
                )
                part.write(
                    _SHAPE.format(
                        number=number, place=place, row=note.row - 1, column=note.column
                    ).encode()
                )
            part.write(b"</xml>")


@dataclass
class RowWriter:
    """Adds rows to a sheet, in rising order of their numbers; those left out are blank.

    `filtered` is the range, such as 'A1:J9', that the sheet lets its reader filter.
    """

    _part: IO[bytes]
    notes: list[Note] = field(default_factory=list)
    filtered: str = ""
    _pending: list[str] = field(default_factory=list)
    _names: list[str] = field(default_factory=list)

    def row(self, number: int, cells: Sequence[Styled]) -> None:
        """Write a row; its cells in rising order of their columns."""
        names = self._names
        while cells and len(names) <= cells[-1][0]:
            names.append(column_name(len(names)))
        written = "".join(
            [_cell(f"{names[column]}{number}", value, look) for column, value, look in cells]
        )
        if written:
            self._pending.append(f'<row r="{number}">{written}</row>')
            if len(self._pending) >= 500:
                self.flush()

    def flush(self) -> None:
        """Hand on what is held back."""
        self._part.write("".join(self._pending).encode("utf-8", "replace"))
        self._pending.clear()


def column_name(index: int) -> str:
    """The letters of a column: A for 0, Z for 25, AA for 26."""
    name = ""
    index += 1
    while index:
        index, rest = divmod(index - 1, 26)
        name = chr(65 + rest) + name
    return name


_FORMATS = len(_Format)
# Whole numbers below are written without a point, as spreadsheet programs do.
_MOST_SHOWN = 10**15
_SERIAL_OF_ORDINAL_0 = date(1899, 12, 30).toordinal()
_FIRST_USUAL_DAY = date(1900, 3, 1)
_DAY_SECONDS = 86_400
_LOOKS_LIKE_A_FORMULA = ("=", "+", "-", "@", "\t", "\r")
# The error values that the format knows; others were made later, or by nobody.
_ERROR_VALUES = frozenset({"#N/A", "#REF!", "#DIV/0!", "#NAME?", "#NULL!", "#NUM!", "#VALUE!"})


def _cell(reference: str, value: Cell, look: Look) -> str:
    if isinstance(value, str):
        return _text_cell(reference, value, look)
    style = _FORMATS * look
    if isinstance(value, bool):
        return f'<c r="{reference}" s="{style}" t="b"><v>{int(value)}</v></c>'
    if isinstance(value, Percent) and math.isfinite(value):
        style += _Format.PERCENT if value.is_integer() else _Format.PERCENT_DECIMALS
        return f'<c r="{reference}" s="{style}"><v>{value.fraction()}</v></c>'
    if isinstance(value, int | float):
        if isinstance(value, float) and not math.isfinite(value):
            return _text_cell(reference, str(value), look)
        if isinstance(value, float) and value.is_integer() and abs(value) < _MOST_SHOWN:
            value = int(value)
        dressed = f' s="{style}"' if style else ""
        return f'<c r="{reference}"{dressed}><v>{value!r}</v></c>'
    serial, kind = _serial(value)
    if serial is None:
        return _text_cell(reference, str(value), look)
    return f'<c r="{reference}" s="{style + kind}"><v>{serial}</v></c>'


def _text_cell(reference: str, value: str, look: Look) -> str:
    style = _FORMATS * look
    if not value:
        return f'<c r="{reference}" s="{style}"/>' if style else ""
    if isinstance(value, ErrorValue):
        known = value if value in _ERROR_VALUES else "#VALUE!"
        return f'<c r="{reference}" s="{style}" t="e"><v>{known}</v></c>'
    if value.startswith(_LOOKS_LIKE_A_FORMULA):
        style += _Format.QUOTED
    text = _text_element(value[:MAX_TEXT_CHARS])
    return f'<c r="{reference}" s="{style}" t="inlineStr"><is>{text}</is></c>'


def _serial(value: date | datetime | time | timedelta) -> tuple[int | float | None, _Format]:
    """A moment as a sheet counts it, in days; None for one before its first day."""
    if isinstance(value, timedelta):
        return value.total_seconds() / _DAY_SECONDS, _Format.ELAPSED
    if isinstance(value, time):
        return _day_part(value), _Format.TIME
    serial = value.toordinal() - _SERIAL_OF_ORDINAL_0
    day = value.date() if isinstance(value, datetime) else value
    if day < _FIRST_USUAL_DAY:
        # Sheets have a 29 February in 1900, which the days before it are counted without.
        serial -= 1
    if serial < 1:
        return None, _Format.GENERAL
    if isinstance(value, datetime):
        return serial + _day_part(value.time()), _Format.DATE_TIME
    return serial, _Format.DATE


def _day_part(value: time) -> float:
    seconds = value.hour * 3600 + value.minute * 60 + value.second + value.microsecond / 1e6
    return seconds / _DAY_SECONDS


# Characters that XML cannot hold or would change, and what looks like the escape for them.
_TO_ESCAPE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\r]|_(?=x[0-9A-Fa-f]{4}_)")
# No characters at all, and there is no escape for them.
_NO_CHARACTERS = re.compile("[\ufffe\uffff]")


def _text_element(text: str) -> str:
    if _TO_ESCAPE.search(text):
        text = _TO_ESCAPE.sub(lambda match: f"_x{ord(match[0]):04X}_", text)
    text = _NO_CHARACTERS.sub("\N{REPLACEMENT CHARACTER}", text)
    return f'<t xml:space="preserve">{escape(text)}</t>'


def _attribute(text: str) -> str:
    return escape(text, {'"': "&quot;"})


def _sheet_head(sheet: Sheet) -> str:
    pane = ""
    if sheet.frozen_rows:
        pane = (
            f'<pane ySplit="{sheet.frozen_rows}" topLeftCell="A{sheet.frozen_rows + 1}" '
            'activePane="bottomLeft" state="frozen"/>'
        )
    columns = "".join(
        f'<col min="{number}" max="{number}" width="{width}" customWidth="1"/>'
        for number, width in enumerate(sheet.widths, 1)
    )
    return (
        f'{_XML}<worksheet xmlns="{_MAIN}" xmlns:r="{_OFFICE}">'
        f'<sheetViews><sheetView workbookViewId="0">{pane}</sheetView></sheetViews>'
        f'<sheetFormatPr defaultRowHeight="15"/><cols>{columns}</cols><sheetData>'
    )


# --- The parts that are always the same -----------------------------------------------------------

_XML = '<?xml version="1.0" encoding="UTF-8" standalone="yes"?>\n'
_MAIN = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
_OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
_PACKAGE = "http://schemas.openxmlformats.org/package/2006"
_TYPE = "application/vnd.openxmlformats-officedocument.spreadsheetml"

_DRAWING_HEAD = (
    '<xml xmlns:v="urn:schemas-microsoft-com:vml" xmlns:o="urn:schemas-microsoft-com:office:office"'
    ' xmlns:x="urn:schemas-microsoft-com:office:excel">'
    '<o:shapelayout v:ext="edit"><o:idmap v:ext="edit" data="{blocks}"/></o:shapelayout>'
    '<v:shapetype id="_x0000_t202" coordsize="21600,21600" o:spt="202" '
    'path="m,l,21600r21600,l21600,xe"><v:stroke joinstyle="miter"/>'
    '<v:path gradientshapeok="t" o:connecttype="rect"/></v:shapetype>'
)
_SHAPE = (
    '<v:shape id="_x0000_s{number}" type="#_x0000_t202" style="position:absolute;visibility:hidden"'
    ' fillcolor="#ffffe1" o:insetmode="auto"><v:fill color2="#ffffe1"/>'
    '<v:shadow color="black" obscured="t"/><v:path o:connecttype="none"/>'
    '<v:textbox style="mso-direction-alt:auto"/><x:ClientData ObjectType="Note">'
    "<x:MoveWithCells/><x:SizeWithCells/><x:Anchor>{place}</x:Anchor>"
    "<x:AutoFill>False</x:AutoFill><x:Row>{row}</x:Row><x:Column>{column}</x:Column>"
    "</x:ClientData></v:shape>"
)

# By look: font, fill, whether it wraps.
_LOOKS = {
    Look.PLAIN: (0, 0, False),
    Look.WRONG: (0, 2, False),
    Look.WRONG_ROW: (0, 3, False),
    Look.HEADING: (1, 0, False),
    Look.TITLE: (2, 0, False),
    Look.LINK: (3, 0, False),
    Look.WRAPPED: (0, 0, True),
    Look.SKIPPED: (0, 4, False),
}
_NUMBER_FORMATS = {
    _Format.GENERAL: 0,
    _Format.QUOTED: 0,
    _Format.DATE: 164,
    _Format.DATE_TIME: 165,
    _Format.TIME: 21,
    _Format.ELAPSED: 46,
    _Format.PERCENT: 9,
    _Format.PERCENT_DECIMALS: 10,
}


def _cell_formats() -> str:
    return "".join(
        f'<xf numFmtId="{number_format}" fontId="{font}" fillId="{fill}" borderId="0" xfId="0" '
        'applyNumberFormat="1" applyFont="1" applyFill="1"'
        + (' quotePrefix="1"' if kind is _Format.QUOTED else "")
        + (' applyAlignment="1"><alignment vertical="top" wrapText="1"/></xf>' if wraps else "/>")
        for font, fill, wraps in _LOOKS.values()
        for kind, number_format in _NUMBER_FORMATS.items()
    )


_STYLES = (
    f'<styleSheet xmlns="{_MAIN}">'
    '<numFmts count="2"><numFmt numFmtId="164" formatCode="yyyy\\-mm\\-dd"/>'
    '<numFmt numFmtId="165" formatCode="yyyy\\-mm\\-dd hh:mm:ss"/></numFmts>'
    '<fonts count="4"><font><sz val="11"/><name val="Calibri"/></font>'
    '<font><b/><sz val="11"/><name val="Calibri"/></font>'
    '<font><b/><sz val="16"/><name val="Calibri"/></font>'
    '<font><u/><sz val="11"/><color rgb="FF0563C1"/><name val="Calibri"/></font></fonts>'
    '<fills count="5"><fill><patternFill patternType="none"/></fill>'
    '<fill><patternFill patternType="gray125"/></fill>'
    '<fill><patternFill patternType="solid"><fgColor rgb="FFFFB3B3"/></patternFill></fill>'
    '<fill><patternFill patternType="solid"><fgColor rgb="FFFFF2CC"/></patternFill></fill>'
    '<fill><patternFill patternType="solid"><fgColor rgb="FFDDEBF7"/></patternFill></fill></fills>'
    '<borders count="1"><border><left/><right/><top/><bottom/><diagonal/></border></borders>'
    '<cellStyleXfs count="1"><xf numFmtId="0" fontId="0" fillId="0" borderId="0"/></cellStyleXfs>'
    f'<cellXfs count="{len(_LOOKS) * len(_NUMBER_FORMATS)}">{_cell_formats()}</cellXfs>'
    '<cellStyles count="1"><cellStyle name="Normal" xfId="0" builtinId="0"/></cellStyles>'
    "</styleSheet>"
)


def _parts(sheet_names: Sequence[str], noted: bool) -> dict[str, str]:
    """The small parts of the workbook, by name; whether its second sheet has notes."""
    numbers = range(1, len(sheet_names) + 1)
    overrides = {
        "/xl/workbook.xml": "sheet.main",
        **{f"/xl/worksheets/sheet{number}.xml": "worksheet" for number in numbers},
        "/xl/styles.xml": "styles",
        **({"/xl/comments1.xml": "comments"} if noted else {}),
    }
    sheets = "".join(
        f'<sheet name="{_attribute(name)}" sheetId="{number}" r:id="rId{number}"/>'
        for number, name in enumerate(sheet_names, 1)
    )
    parts = {
        "[Content_Types].xml": (
            f'<Types xmlns="{_PACKAGE}/content-types"><Default Extension="rels" '
            'ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
            '<Default Extension="vml" '
            'ContentType="application/vnd.openxmlformats-officedocument.vmlDrawing"/>'
            + "".join(
                f'<Override PartName="{name}" ContentType="{_TYPE}.{kind}+xml"/>'
                for name, kind in overrides.items()
            )
            + "</Types>"
        ),
        "_rels/.rels": _relations([("officeDocument", "xl/workbook.xml")]),
        "xl/workbook.xml": (
            f'<workbook xmlns="{_MAIN}" xmlns:r="{_OFFICE}"><bookViews><workbookView/></bookViews>'
            f"<sheets>{sheets}</sheets></workbook>"
        ),
        "xl/_rels/workbook.xml.rels": _relations(
            [("worksheet", f"worksheets/sheet{number}.xml") for number in numbers]
            + [("styles", "styles.xml")]
        ),
        "xl/styles.xml": _STYLES,
    }
    if noted:
        parts["xl/worksheets/_rels/sheet2.xml.rels"] = _relations(
            [("vmlDrawing", "../drawings/vmlDrawing1.vml"), ("comments", "../comments1.xml")]
        )
    return parts


def _relations(relations: Sequence[tuple[str, str]]) -> str:
    elements = "".join(
        f'<Relationship Id="rId{number}" Type="{_OFFICE}/{relation}" Target="{target}"/>'
        for number, (relation, target) in enumerate(relations, 1)
    )
    return f'<Relationships xmlns="{_PACKAGE}/relationships">{elements}</Relationships>'
