"""Number formats: exactly the cells that a sheet shows as percentages are percentages."""

import contextlib
import io
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from xml.sax.saxutils import quoteattr

import pytest

from credit_service.spreadsheets.cell_values import Cell, Formula, Percent
from credit_service.spreadsheets.source import open_source
from credit_service.spreadsheets.table import SpreadsheetError
from credit_service.spreadsheets.workbook_writer import write_table
from tests.unit.spreadsheets.workbooks import A_LOAN, LOAN_HEADERS, Xml, sheet_xml, workbook

MAIN = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"


def rates(cells: Sequence[str], formats: Sequence[str | int]) -> list[Cell]:
    """The rates read from these cells; style 1 has the first format, style 2 the second."""
    codes = "".join(
        f'<numFmt numFmtId="{170 + index}" formatCode={quoteattr(code)}/>'
        for index, code in enumerate(formats)
        if isinstance(code, str)
    )
    styles = "".join(
        f'<xf numFmtId="{code if isinstance(code, int) else 170 + index}"/>'
        for index, code in enumerate(formats)
    )
    part = (
        f'<styleSheet xmlns="{MAIN}"><numFmts>{codes}</numFmts>'
        f'<cellStyleXfs><xf numFmtId="9"/></cellStyleXfs>'
        f'<cellXfs><xf numFmtId="0"/>{styles}</cellXfs></styleSheet>'
    )
    rows = [(*A_LOAN[:4], Xml(cell), *A_LOAN[5:7], 45_382, 45_747) for cell in cells]
    content = workbook(sheet_xml([LOAN_HEADERS, *rows]), extra={"xl/styles.xml": part})
    source = open_source(io.BytesIO(content), "loans.xlsx")
    return [cell for block in source.blocks for cell in block.columns["interest_rate"]]


def cell(value: str, attributes: str = 's="1"') -> str:
    return f'<c r="{{r}}" {attributes}><v>{value}</v></c>'


PERCENT_FORMATS: list[str | int] = [
    9,
    10,
    "0%",
    "0.0%",
    "[Red]0%;-0%",
    "[$-409]0.00%",
    "0.00 %",
    "#,##0.0%",
    '0% "a year"',
    "0.00%;[Red]\\-0.00%;0.00%",
    "0.00E+00%",
    "_-0.0%_-",
    "??0.0%",
    '* 0%;"no" 0%',
]


@pytest.mark.parametrize("code", PERCENT_FORMATS)
def test_every_percent_format_is_read_as_it_is_shown(code: str | int) -> None:
    found = rates([cell("0.12"), cell("0.105"), cell("1"), cell("-0.02"), cell("0")], [code])
    assert found == [12.0, 10.5, 100.0, -2.0, 0.0]
    assert [type(each) for each in found] == [Percent] * 5
    assert [str(each) for each in found] == ["12%", "10.5%", "100%", "-2%", "0%"]


OTHER_FORMATS: list[str | int] = [
    0,
    1,
    2,
    3,
    4,
    11,
    12,
    37,
    40,
    44,
    48,
    49,
    "0",
    "#,##0.00",
    '0"%"',
    "0\\%",
    '"% of" 0',
    "0_%",
    "0*%",
    "[$%]0",
    "[$₹-4009]\\ #,##0.00",
    '"₹" #,##,##0.00',
    '_("Rs."* #,##0_)',
    "Rs. #,##0",
    "[>=10000000]##\\,##\\,##\\,##0.00;[>=100000]##\\,##\\,##0.00;##,##0.00",
    "0.00E+00",
    "@",
    '0.0,,"M"',
    "# ?/?",
    'General" months"',
    "0 \\d\\a\\y\\s",
    "Standard",
    "[Magenta]0",
    "",
]


@pytest.mark.parametrize("code", OTHER_FORMATS)
def test_every_other_format_leaves_the_number_as_it_is(code: str | int) -> None:
    found = rates([cell("0.12"), cell("45382"), cell("1234567.89")], [code])
    assert found == [0.12, 45_382.0, 1_234_567.89]
    assert [type(each) for each in found] == [float] * 3


def test_a_day_stays_a_day() -> None:
    for code in (14, "dd/mm/yyyy", "[$-4009]dd\\-mm\\-yyyy;@", "d-mmm-yy"):
        assert rates([cell("45382")], [code]) == [date(2024, 3, 31)]


def test_the_section_that_a_number_falls_into_decides() -> None:
    values = [cell(value) for value in ("0.5", "-0.5", "0", "2")]
    assert rates(values, ["0%;0.00"]) == [Percent(50), -0.5, Percent(0), Percent(200)]
    assert rates(values, ['0%;-0%;"none"']) == [Percent(50), Percent(-50), 0.0, Percent(200)]
    assert rates(values, ["[<=1]0%;0.00"]) == [Percent(50), Percent(-50), Percent(0), 2.0]
    assert rates(values, ["[<0]0;[>1]0;0%"]) == [Percent(50), -0.5, Percent(0), 2.0]


def test_the_cell_style_decides_in_every_notation() -> None:
    cells = [
        cell("0.12", 's="2" t="n"'),
        cell("0.12", "s='2'"),
        cell("0.12", 't="n" s="2"'),
        '<c s="2" r="{r}"><v>0.12</v></c>',
        '<c r="{r}"  s = "2" >\n<v xml:space="preserve">0.12</v></c>',
        '<c s="2"><v>1.2E-1</v></c>',
        cell("0.12", 's="1"'),
        cell("0.12", ""),
        cell("0.12", 's="22"'),
    ]
    assert rates(cells, [2, 10]) == [Percent(12)] * 6 + [0.12] * 3
    # The usual notation is read alone, and next to any other one, with or without a reference.
    for place, each in enumerate(cells):
        expected = [Percent(12), Percent(12) if place < 6 else 0.12]
        assert rates([cells[0], each], [2, 10]) == expected
    with_references = [*cells[:5], *cells[6:]]
    assert rates(with_references, [2, 10]) == [Percent(12)] * 5 + [0.12] * 3


def test_an_attribute_in_a_text_is_not_a_style() -> None:
    text = '<c r="{r}" t="inlineStr"><is><t>a s="2" b</t></is></c>'
    assert rates([text, cell("0.12", 's="2"')], [2, 10]) == ['a s="2" b', Percent(12)]


def test_a_value_that_is_no_number_is_no_percentage() -> None:
    found = rates(
        [
            cell("0.12", 's="1" t="str"'),
            cell("0.12", 't="str" s="1"'),
            '<c r="{r}" s="1" t="inlineStr"><is><t>12</t></is></c>',
            cell("1", 's="1" t="b"'),
            cell("1", 't="b" s="1"'),
            cell("#N/A", 's="1" t="e"'),
            '<c r="{r}" s="1"/>',
            '<c r="{r}" s="1"><v></v></c>',
            '<c r="{r}" s="1"><f>1/8</f><v>0.125</v></c>',
        ],
        [9],
    )
    assert found == ["0.12", "0.12", "12", True, True, "#N/A", "", "", "=1/8"]
    assert isinstance(found[-1], Formula)


def test_a_percentage_keeps_its_digits() -> None:
    texts = ["0.10500000000000001", "0.105", "1.4999999999999999E-2", "0.081250000000000003"]
    assert rates([cell(text) for text in texts], [10]) == [10.5, 10.5, 1.5, 8.125]


def test_a_percentage_is_written_as_a_percentage_and_read_equal() -> None:
    values = [Percent(text) for text in ("12", "10.5", "100", "8.125", "-2", "0", "0.01")]
    buffer = io.BytesIO()
    write_table(buffer, LOAN_HEADERS, [[1, "", "", "", value] for value in values])
    source = open_source(buffer, "again.xlsx", "LOANS")
    assert [cell for block in source.blocks for cell in block.columns["interest_rate"]] == values


def test_values_that_are_not_finite_in_a_percent_format_are_rejected_or_kept() -> None:
    for value in ("NaN", "inf", "1E999", "many"):
        with contextlib.suppress(SpreadsheetError):
            assert not isinstance(rates([cell(value)], [9])[0], Percent)


def test_the_case_from_the_field_is_read_as_its_sheet_shows_it(cases: Path) -> None:
    with (cases / "percent_rates.xlsx").open("rb") as file:
        found = [c for b in open_source(file, "l.xlsx").blocks for c in b.columns["interest_rate"]]
    assert found == [12.0, 10.5, 10.0, 100.0, 8.5]
