"""Workbooks for tests of readers, written part by part, so that any part can be invalid."""

import io
import zipfile
from collections.abc import Mapping, Sequence
from datetime import date
from xml.sax.saxutils import escape

CUSTOMER_HEADERS = (
    "Customer ID",
    "First Name",
    "Last Name",
    "Age",
    "Phone Number",
    "Monthly Salary",
    "Approved Limit",
)
LOAN_HEADERS = (
    "Customer ID",
    "Loan ID",
    "Loan Amount",
    "Tenure",
    "Interest Rate",
    "Monthly payment",
    "EMIs paid on Time",
    "Date of Approval",
    "End Date",
)
A_LOAN = (7, 1001, 100_000, 12, 12, 8_884.88, 3, date(2024, 1, 31), date(2025, 1, 31))
A_CUSTOMER = (7, "Asha", "Rao", 31, 9_876_598_765, 50_000, 1_800_000)

_MAIN = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
_OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
_PACKAGE = "http://schemas.openxmlformats.org/package/2006/relationships"


class Xml(str):
    """The XML of a cell, inserted unchanged; {r} is its reference."""

    __slots__ = ()


def cell_xml(cell: object, reference: str) -> str:
    """One cell; None gives an empty, formatted one."""
    if isinstance(cell, Xml):
        return cell.replace("{r}", reference)
    if cell is None:
        return f'<c r="{reference}" s="1"/>'
    if isinstance(cell, bool):
        return f'<c r="{reference}" t="b"><v>{int(cell)}</v></c>'
    if isinstance(cell, str):
        return f'<c r="{reference}" t="inlineStr"><is><t>{escape(cell)}</t></is></c>'
    if isinstance(cell, date):
        return f'<c r="{reference}" s="1"><v>{cell.toordinal() - 693_594}</v></c>'
    return f'<c r="{reference}"><v>{cell}</v></c>'


def column_name(index: int) -> str:
    """A for 0, Z for 25, AA for 26."""
    name = ""
    index += 1
    while index:
        index, rest = divmod(index - 1, 26)
        name = chr(65 + rest) + name
    return name


def sheet_xml(rows: Mapping[int, Sequence[object]] | Sequence[Sequence[object]]) -> str:
    """A sheet of rows by number, or numbered from 1."""
    numbered = rows if isinstance(rows, Mapping) else dict(enumerate(rows, 1))
    data = "".join(
        f'<row r="{number}" spans="1:9">'
        + "".join(
            cell_xml(cell, f"{column_name(index)}{number}") for index, cell in enumerate(cells)
        )
        + "</row>"
        for number, cells in numbered.items()
    )
    return f'<worksheet xmlns="{_MAIN}"><sheetData>{data}</sheetData></worksheet>'


def workbook(
    *sheets: str, extra: Mapping[str, bytes | str] | None = None, properties: str = ""
) -> bytes:
    """A workbook of these sheets' XML. `extra` adds or replaces parts."""
    names = [f"worksheets/sheet{n}.xml" for n in range(1, len(sheets) + 1)]
    parts: dict[str, bytes | str] = {
        "[Content_Types].xml": "<Types/>",
        "_rels/.rels": f'<Relationships xmlns="{_PACKAGE}"><Relationship Id="rId1" '
        f'Type="{_OFFICE}/officeDocument" Target="xl/workbook.xml"/></Relationships>',
        "xl/workbook.xml": f'<workbook xmlns="{_MAIN}" xmlns:r="{_OFFICE}">{properties}<sheets>'
        + "".join(
            f'<sheet name="S{n}" sheetId="{n}" r:id="rId{n}"/>' for n in range(1, len(names) + 1)
        )
        + "</sheets></workbook>",
        "xl/_rels/workbook.xml.rels": f'<Relationships xmlns="{_PACKAGE}">'
        + "".join(
            f'<Relationship Id="rId{n}" Type="{_OFFICE}/worksheet" Target="{name}"/>'
            for n, name in enumerate(names, 1)
        )
        + f'<Relationship Id="s" Type="{_OFFICE}/styles" Target="styles.xml"/></Relationships>',
        "xl/styles.xml": f'<styleSheet xmlns="{_MAIN}"><cellXfs count="2"><xf numFmtId="0"/>'
        '<xf numFmtId="14" applyNumberFormat="1"/></cellXfs></styleSheet>',
        **{f"xl/{name}": xml for name, xml in zip(names, sheets, strict=True)},
        **(extra or {}),
    }
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def loans_workbook(*rows: Sequence[object]) -> bytes:
    """A workbook of loans under the usual header."""
    return workbook(sheet_xml([LOAN_HEADERS, *rows]))


def customers_workbook(*rows: Sequence[object]) -> bytes:
    """A workbook of customers under the usual header."""
    return workbook(sheet_xml([CUSTOMER_HEADERS, *rows]))


def csv_of(headers: Sequence[str], *rows: Sequence[object]) -> bytes:
    """CSV as a spreadsheet program writes it."""
    lines = [
        ",".join(str("" if cell is None else cell) for cell in row) for row in (headers, *rows)
    ]
    return "\r\n".join([*lines, ""]).encode()
