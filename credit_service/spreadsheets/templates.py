"""Empty workbooks and CSV files to fill in: the headers of each kind of rows, and what they take.

Imports nothing of ours but the list of columns, so that the command line and the console may both
offer them.
"""

import io
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal
from xml.sax.saxutils import escape

from credit_service.spreadsheets.columns import COLUMNS, Column, Kind, letters

CONTENT_TYPE = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"
EXPLANATIONS = "Columns"
"""The name of the second sheet, which says what each column takes. It is never read."""

_Style = Literal["general", "text", "whole", "amount", "rate", "day"]


@dataclass(frozen=True, slots=True)
class _Guide:
    """What a column takes, for a person who fills it in."""

    style: _Style
    takes: str
    example: str


_RUPEES = "rupees, with at most two decimals"
_GUIDES: Mapping[str, _Guide] = {
    "customer_id": _Guide("whole", "a whole number from 1 to 999,999,999,999,999", "1024"),
    "first_name": _Guide("text", "1 to 50 characters", "Asha"),
    "last_name": _Guide("text", "1 to 50 characters", "Rao"),
    "age": _Guide("whole", "completed years, 18 to 120", "31"),
    "phone_number": _Guide("text", "an Indian number, or one with its country code", "9876598765"),
    "monthly_income": _Guide("amount", f"{_RUPEES}, more than 0, at most 10 crore", "50000"),
    "approved_limit": _Guide(
        "amount", f"{_RUPEES}; empty: 36 times the income, to the nearest lakh", "1800000"
    ),
    "loan_id": _Guide("whole", "a whole number, unique among the customer's loans", "1001"),
    "loan_amount": _Guide("amount", f"{_RUPEES}, more than 0, at most 100 crore", "100000"),
    "tenure_months": _Guide("whole", "a whole number of months, 1 to 480", "12"),
    "interest_rate": _Guide("rate", "percent a year, 0 to 100, at most two decimals", "12.5"),
    "monthly_installment": _Guide("amount", f"{_RUPEES} a month, more than 0", "8908.30"),
    "emis_paid_on_time": _Guide("whole", "a whole number from 0 to the tenure", "3"),
    "start_date": _Guide("day", "a day from 1900 on, not in the future", "2024-03-31"),
    "end_date": _Guide("day", "the start date plus the tenure, or empty", "2025-03-31"),
}


def headers(kind: Kind) -> tuple[str, ...]:
    """The usual header of each column, in order."""
    return tuple(column.headers[0] for column in COLUMNS[kind])


def csv_template(kind: Kind) -> bytes:
    """A CSV file with the header alone, in UTF-8 with its mark, as spreadsheet programs expect."""
    return b"\xef\xbb\xbf" + (",".join(headers(kind)) + "\r\n").encode()


def template(kind: Kind) -> bytes:
    """A workbook with the header, each column formatted for what it takes, and a second sheet that
    says what that is."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in _parts(kind).items():
            # A fixed time, so that a template is the same bytes each time.
            member = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            member.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(member, _XML + content)
    return buffer.getvalue()


_STYLES: Sequence[_Style] = ("general", "text", "whole", "amount", "rate", "day")
_HEADING = len(_STYLES)
_NUMBER_FORMATS: Mapping[_Style, int] = {
    "general": 0,
    "text": 49,
    "whole": 1,
    "amount": 164,
    "rate": 2,
    "day": 165,
}
_GROUPED_BY_LAKHS = "[&gt;=10000000]##\\,##\\,##\\,##0.00;[&gt;=100000]##\\,##\\,##0.00;##,##0.00"


def _parts(kind: Kind) -> dict[str, str]:
    names = (kind.capitalize(), EXPLANATIONS)
    sheets = "".join(
        f'<sheet name="{name}" sheetId="{number}" r:id="rId{number}"/>'
        for number, name in enumerate(names, 1)
    )
    targets = ("worksheets/sheet1.xml", "worksheets/sheet2.xml", "styles.xml")
    relations = "".join(
        f'<Relationship Id="rId{number}" Type="{_OFFICE}/'
        f'{"styles" if target == "styles.xml" else "worksheet"}" Target="{target}"/>'
        for number, target in enumerate(targets, 1)
    )
    return {
        "[Content_Types].xml": (
            f'<Types xmlns="{_PACKAGE}/content-types"><Default Extension="rels" '
            'ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
            f'<Override PartName="/xl/workbook.xml" ContentType="{_TYPE}.sheet.main+xml"/>'
            f'<Override PartName="/xl/worksheets/sheet1.xml" ContentType="{_TYPE}.worksheet+xml"/>'
            f'<Override PartName="/xl/worksheets/sheet2.xml" ContentType="{_TYPE}.worksheet+xml"/>'
            f'<Override PartName="/xl/styles.xml" ContentType="{_TYPE}.styles+xml"/></Types>'
        ),
        "_rels/.rels": (
            f'<Relationships xmlns="{_PACKAGE}/relationships"><Relationship Id="rId1" '
            f'Type="{_OFFICE}/officeDocument" Target="xl/workbook.xml"/></Relationships>'
        ),
        "xl/workbook.xml": (
            f'<workbook xmlns="{_MAIN}" xmlns:r="{_OFFICE}"><sheets>{sheets}</sheets></workbook>'
        ),
        "xl/_rels/workbook.xml.rels": (
            f'<Relationships xmlns="{_PACKAGE}/relationships">{relations}</Relationships>'
        ),
        "xl/styles.xml": _styles(),
        "xl/worksheets/sheet1.xml": _rows_sheet(kind),
        "xl/worksheets/sheet2.xml": _explanations_sheet(kind),
    }


def _rows_sheet(kind: Kind) -> str:
    columns = "".join(
        f'<col min="{number}" max="{number}" width="20" customWidth="1" '
        f'style="{_STYLES.index(_GUIDES[column.field].style)}"/>'
        for number, column in enumerate(COLUMNS[kind], 1)
    )
    pane = '<pane ySplit="1" topLeftCell="A2" activePane="bottomLeft" state="frozen"/>'
    return (
        f'<worksheet xmlns="{_MAIN}"><sheetViews><sheetView workbookViewId="0">{pane}</sheetView>'
        f'</sheetViews><sheetFormatPr defaultRowHeight="15"/><cols>{columns}</cols>'
        f"<sheetData>{_row(1, headers(kind), _HEADING)}</sheetData></worksheet>"
    )


def _explanations_sheet(kind: Kind) -> str:
    rows: list[tuple[Sequence[str], int]] = [
        ((f"Fill in the sheet '{kind.capitalize()}'. This sheet is not read.",), 0),
        (("Column", "Needed", "Takes", "Example", "Other headers that are read"), _HEADING),
        *((_explained(column), 0) for column in COLUMNS[kind]),
        (("A header may name its unit: rupees as (INR), (Rs.) or (₹), months, % p.a.",), 0),
    ]
    data = "".join(_row(number, cells, style) for number, (cells, style) in enumerate(rows, 1))
    widths = (22, 10, 56, 16, 90)
    columns = "".join(
        f'<col min="{number}" max="{number}" width="{width}" customWidth="1"/>'
        for number, width in enumerate(widths, 1)
    )
    return (
        f'<worksheet xmlns="{_MAIN}"><cols>{columns}</cols>'
        f"<sheetData>{data}</sheetData></worksheet>"
    )


def _explained(column: Column) -> tuple[str, ...]:
    guide = _GUIDES[column.field]
    others = (*column.headers[1:], *column.second_choice)
    needed = "yes" if column.required else "no"
    return column.headers[0], needed, guide.takes, guide.example, ", ".join(others)


def _row(number: int, cells: Sequence[str], style: int) -> str:
    written = "".join(
        f'<c r="{letters(index)}{number}" s="{style}" t="inlineStr"><is><t>{escape(cell)}</t></is>'
        "</c>"
        for index, cell in enumerate(cells)
    )
    return f'<row r="{number}">{written}</row>'


def _styles() -> str:
    formats = "".join(
        f'<xf numFmtId="{_NUMBER_FORMATS[style]}" fontId="0" fillId="0" borderId="0" xfId="0" '
        'applyNumberFormat="1"/>'
        for style in _STYLES
    )
    return (
        f'<styleSheet xmlns="{_MAIN}"><numFmts count="2">'
        f'<numFmt numFmtId="164" formatCode="{_GROUPED_BY_LAKHS}"/>'
        '<numFmt numFmtId="165" formatCode="yyyy\\-mm\\-dd"/></numFmts>'
        '<fonts count="2"><font><sz val="11"/><name val="Calibri"/></font>'
        '<font><b/><sz val="11"/><name val="Calibri"/></font></fonts>'
        '<fills count="2"><fill><patternFill patternType="none"/></fill>'
        '<fill><patternFill patternType="gray125"/></fill></fills>'
        '<borders count="1"><border><left/><right/><top/><bottom/><diagonal/></border></borders>'
        '<cellStyleXfs count="1"><xf numFmtId="0" fontId="0" fillId="0" borderId="0"/>'
        f'</cellStyleXfs><cellXfs count="{_HEADING + 1}">{formats}'
        '<xf numFmtId="0" fontId="1" fillId="0" borderId="0" xfId="0" applyFont="1"/></cellXfs>'
        '<cellStyles count="1"><cellStyle name="Normal" xfId="0" builtinId="0"/></cellStyles>'
        "</styleSheet>"
    )


_XML = '<?xml version="1.0" encoding="UTF-8" standalone="yes"?>\n'
_MAIN = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
_OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
_PACKAGE = "http://schemas.openxmlformats.org/package/2006"
_TYPE = "application/vnd.openxmlformats-officedocument.spreadsheetml"
