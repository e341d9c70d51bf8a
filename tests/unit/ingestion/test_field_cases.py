"""Files from practice are read, or rejected with the finding and the next step."""

import io
import json
import struct
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from credit_service.spreadsheets.cell_values import Percent
from credit_service.spreadsheets.source import kinds, open_source, open_table
from credit_service.spreadsheets.table import SpreadsheetError
from tests.unit.spreadsheets.test_source import read, refusal
from tests.unit.spreadsheets.workbooks import (
    A_CUSTOMER,
    A_LOAN,
    CUSTOMER_HEADERS,
    LOAN_HEADERS,
    column_name,
    csv_of,
    loans_workbook,
    sheet_xml,
    workbook,
)


def loan_ids(content: bytes, name: str) -> tuple[list[int], list[float]]:
    numbers, columns, _ = read(content, name)
    return numbers, [float(str(cell)) for cell in columns["loan_id"]]


@pytest.mark.parametrize(
    ("name", "numbers", "ids"),
    [
        ("headers_with_units.xlsx", [2], [100203]),
        ("header_emis_paid.xlsx", [2], None),
        ("title_rows.xlsx", [5], [101101]),
        ("sep_line.csv", [3], [101601]),
        ("utf16.csv", [2], None),
        ("pipe.csv", [2], [101607]),
        ("zip64.xlsx", [2], None),
        ("filled_to_xfd.xlsx", [2], None),
    ],
)
def test_a_file_of_loans_from_the_field_is_read(
    cases: Path, name: str, numbers: list[int], ids: list[float] | None
) -> None:
    found = loan_ids((cases / name).read_bytes(), name)
    assert found[0] == numbers
    assert found[1] == ids or (ids is None and found[1][0] > 100_000)


def test_a_limit_with_its_unit_in_the_header_is_read(cases: Path) -> None:
    content = (cases / "limit_with_unit.xlsx").read_bytes()
    assert read(content, "l.xlsx", "CUSTOMERS")[1]["approved_limit"] == [5_000_000.0]


def test_a_web_page_named_xls_is_identified(cases: Path) -> None:
    error = refusal((cases / "html_named.xls").read_bytes(), "loans.xls")
    assert error.code == "FORMAT_UNSUPPORTED"
    assert "a web page (HTML)" in error.message
    assert "save it as .xlsx" in error.message


def test_a_workbook_with_both_kinds_names_both(cases: Path) -> None:
    with (cases / "customers_and_loans_sheets.xlsx").open("rb") as file:
        assert kinds(file, "both.xlsx") == ("CUSTOMERS", "LOANS")
        customers = open_source(file, "both.xlsx")
        loans = open_source(file, "both.xlsx", "LOANS")
        assert (customers.kind, loans.kind) == ("CUSTOMERS", "LOANS")
        assert customers.unread_sheets == (loans.sheet,)
        assert loans.unread_sheets == (customers.sheet,)
        assert [len(block.row_numbers) for block in loans.blocks] > [0]


# --- Headers --------------------------------------------------------------------------------------


def titled(rows: int) -> dict[int, Sequence[object]]:
    return {number: (f"Line {number} of a title",) for number in range(1, rows + 1)}


def test_title_rows_above_the_header_are_skipped_and_rows_keep_their_numbers() -> None:
    sheet = titled(3) | {7: LOAN_HEADERS, 8: A_LOAN, 12: A_LOAN}
    content = workbook(sheet_xml(sheet))
    assert read(content)[0] == [8, 12]
    source = open_source(io.BytesIO(content), "x.xlsx")
    assert (source.kind, source.ignored_columns) == ("LOANS", ())
    lines = b"Sunrise Finance\n\nAs of,31-03-2024\n" + csv_of(LOAN_HEADERS, A_LOAN)
    assert read(lines, "loans.csv")[0] == [5]
    assert read(lines.replace(b",", b";"), "loans.csv")[0] == [5]


def test_the_header_is_searched_for_in_the_first_twenty_rows() -> None:
    assert read(workbook(sheet_xml(titled(19) | {30: LOAN_HEADERS, 31: A_LOAN})))[0] == [31]
    error = refusal(workbook(sheet_xml(titled(20) | {30: LOAN_HEADERS, 31: A_LOAN})))
    assert error.code == "COLUMN_MISSING"
    assert "'Line 1 of a title'" in error.message


def test_an_incomplete_header_is_named_with_its_row() -> None:
    headers = [each for each in LOAN_HEADERS if each != "Tenure"]
    content = workbook(sheet_xml({1: ("Loans",), 4: headers, 5: A_LOAN[:8]}))
    error = refusal(content)
    assert "needs the column 'Tenure'" in error.message
    assert "Row 4 of the sheet 'S1'" in error.message
    with pytest.raises(SpreadsheetError, match="Row 1 of the sheet 'S1' was read as the header"):
        open_source(io.BytesIO(workbook(sheet_xml([("Name", "Town"), ("a", "b")]))), "x.xlsx")
    with pytest.raises(SpreadsheetError, match="Line 2 of the file was read as the header"):
        open_source(io.BytesIO(b"\nName,Town\na,b\n"), "x.csv")


def test_a_table_has_the_rows_above_the_header_too() -> None:
    content = workbook(sheet_xml({2: ("Sunrise",), 4: LOAN_HEADERS, 5: A_LOAN}))
    table = open_table(io.BytesIO(content), "x.xlsx", "LOANS")
    assert [number for number, cells in table.above if any(cells)] == [2]
    assert (table.header_row, [number for number, _ in table.rows]) == (4, [5])


def test_columns_that_are_not_read_are_named_with_or_without_a_header() -> None:
    headers = (*LOAN_HEADERS, "Branch", None, "Notes", "Rejected because", None)
    row = (*A_LOAN, "Pune", 12, None, "x", None)
    expected = ("Branch", "Notes", "column K (no header)")
    for content, name in (
        (workbook(sheet_xml([headers, row])), "loans.xlsx"),
        (csv_of([each or "" for each in headers], row), "loans.csv"),
    ):
        assert open_source(io.BytesIO(content), name).ignored_columns == expected


def test_other_sheets_with_rows_and_hidden_sheets_are_listed() -> None:
    loans, customers = sheet_xml([LOAN_HEADERS, A_LOAN]), sheet_xml([CUSTOMER_HEADERS, A_CUSTOMER])
    content = workbook(sheet_xml([("Notes",)]), loans, customers, loans, sheet_xml([]))
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    parts["xl/workbook.xml"] = parts["xl/workbook.xml"].replace(
        b'name="S4"', b'name="S4" state="hidden"'
    )
    content = workbook(extra=parts)
    source = open_source(io.BytesIO(content), "x.xlsx", "LOANS")
    assert (source.sheet, source.unread_sheets) == ("S2", ("S3", "S4"))
    assert kinds(io.BytesIO(content), "x.xlsx") == ("CUSTOMERS", "LOANS")
    single = open_source(io.BytesIO(loans_workbook(A_LOAN)), "x.xlsx")
    assert (single.sheet, single.unread_sheets) == ("S1", ())
    assert kinds(io.BytesIO(csv_of(LOAN_HEADERS, A_LOAN)), "x.csv") == ("LOANS",)


# --- Encodings and separators ---------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("line", ["", "sep={}\r\n"])
def test_csv_is_read_in_every_usual_encoding_and_separator(
    encoding: str, separator: str, line: str
) -> None:
    text = line.format(separator) + csv_of(CUSTOMER_HEADERS, (*A_CUSTOMER[:6], "")).decode()
    text = text.replace(",", separator).replace("Asha", "आशा 😀")
    mark = "\ufeff" if encoding in ("utf-16-le", "utf-16-be") else ""
    content = (mark + text).encode(encoding)
    numbers, columns, _ = read(content, "customers.csv", "CUSTOMERS")
    assert numbers == [3 if line else 2]
    assert columns["first_name"] == ["आशा 😀"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (csv_of(LOAN_HEADERS, A_LOAN).decode().encode("utf-16-le"), "UTF-16"),
        ("Loan ID,Town\n1,Zoë".encode("cp1252"), "save it as CSV UTF-8"),
        (b"\xff\xfe" + csv_of(LOAN_HEADERS).decode().encode("utf-16-le") + b"1", "CSV UTF-8"),
        (csv_of(LOAN_HEADERS, A_LOAN).decode().encode("utf-32"), "CSV"),
    ],
    ids=["utf-16 without its mark", "windows-1252", "half a character", "utf-32"],
)
def test_other_encodings_are_rejected_with_the_next_step(content: bytes, says: str) -> None:
    assert says in refusal(content, "loans.csv").message


# --- Other formats --------------------------------------------------------------------------------


def archive_with(*names: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in names:
            archive.writestr(name, "x")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"\xef\xbb\xbf <!DOCTYPE html><html>", "web page"),
        (b"<table><tr><td>Loan ID</td></tr></table>", "web page"),
        (b'<?xml version="1.0"?><Workbook/>', "XML document"),
        (b"%PDF-1.7 x", "PDF"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600), "old .xls workbook"),
        (archive_with("Index/Document.iwa", "preview.jpg"), "Numbers"),
        (archive_with("mimetype", "META-INF/manifest.xml", "content.xml"), ".ods"),
        (archive_with("word/document.xml"), ".docx"),
        (archive_with("[Content_Types].xml", "_rels/.rels", "xl/workbook.bin"), ".xlsb"),
        (archive_with("[Content_Types].xml", "_rels/.rels", "xl/vbaProject.bin"), ".xlsm"),
    ],
)
def test_another_format_is_named_with_the_next_step(content: bytes, says: str) -> None:
    for name in ("loans.xls", "loans"):
        error = refusal(content, name)
        assert error.code == "FORMAT_UNSUPPORTED"
        assert says in error.message
        assert "save it" in error.message


# --- Width and zip64 archives ---------------------------------------------------------------------


def wide(cell: str) -> bytes:
    """A sheet of loans with this cell in each further column up to XFD."""
    data = sheet_xml([LOAN_HEADERS, A_LOAN])
    for number in (1, 2):
        cells = "".join(
            cell.format(r=f"{column_name(index)}{number}") for index in range(9, 16_384)
        )
        first, second = data.split("</row>", number)[:number], data.split("</row>", number)[number]
        data = "</row>".join([*first[:-1], first[-1] + cells]) + "</row>" + second
    return workbook(data)


@pytest.mark.parametrize(
    "cell",
    ['<c r="{r}" s="1"/>', '<c r="{r}" s="1" />', '<c r="{r}" s="1"></c>', '<c s="1" r="{r}"/>'],
)
def test_formatted_columns_without_cells_are_ignored(cell: str) -> None:
    content = wide(cell)
    numbers, columns, _ = read(content)
    assert (numbers, columns["loan_id"]) == ([2], [1001.0])
    assert open_source(io.BytesIO(content), "x.xlsx").ignored_columns == ()


@pytest.mark.parametrize(
    "cell", ['<c r="{r}"><v>1</v></c>', '<c r="{r}" t="inlineStr"><is><t>x</t></is></c>']
)
def test_values_beyond_the_last_readable_column_are_rejected(cell: str) -> None:
    error = refusal(wide(cell))
    assert error.code == "FILE_UNSAFE"
    assert "delete the columns" in error.message


def with_64_bits(content: bytes, **lies: int) -> bytes:
    """The archive with a zip64 record in which these fields are wrong."""
    end = content.rindex(b"PK\x05\x06")
    entries, size, offset = struct.unpack_from("<HLL", content, end + 10)
    fields = {"length": 44, "entries": entries, "size": size, "offset": offset, "at": end}
    assert lies.keys() <= fields.keys()
    fields |= lies
    record = struct.pack(
        "<4sQHHLLQQQQ",
        *(b"PK\x06\x06", fields["length"], 45, 45, 0, 0),
        *(fields["entries"], fields["entries"], fields["size"], fields["offset"]),
    )
    locator = struct.pack("<4sLQL", b"PK\x06\x07", 0, fields["at"], 1)
    return content[:end] + record + locator + content[end:]


def test_a_zip64_archive_is_read_if_its_records_agree() -> None:
    content = loans_workbook(A_LOAN)
    assert read(with_64_bits(content))[0] == [2]
    end = content.rindex(b"PK\x05\x06")
    open_ended = bytearray(with_64_bits(content))
    place = open_ended.rindex(b"PK\x05\x06")
    open_ended[place + 8 : place + 20] = b"\xff" * 12
    assert read(bytes(open_ended))[0] == [2]
    assert end < place


@pytest.mark.parametrize(
    "lies",
    [
        *({"entries": 3}, {"size": 10}, {"size": 2**40}, {"length": 4_000}, {"at": 4}),
        *({"at": 2**50}, {"entries": 2**40}),
    ],
    ids=json.dumps,
)
def test_a_zip64_archive_with_contradictory_records_is_rejected(
    lies: dict[str, int],
) -> None:
    assert refusal(with_64_bits(loans_workbook(A_LOAN), **lies)).code == "FILE_UNSAFE"


@pytest.mark.parametrize("open_ended", [False, True], ids=["both", "one record"])
@pytest.mark.parametrize("offset", [0, 7, 10**6, 2**40, 2**63 + 5])
def test_a_zip64_archive_with_a_displaced_directory_is_rejected(
    offset: int, open_ended: bool
) -> None:
    content = bytearray(with_64_bits(loans_workbook(A_LOAN), offset=offset))
    if open_ended:
        # The usual record refers to the zip64 record for its numbers.
        place = content.rindex(b"PK\x05\x06")
        content[place + 8 : place + 20] = b"\xff" * 12
    assert refusal(bytes(content)).code == "FILE_UNSAFE"


def test_a_part_with_an_offset_beyond_the_file_is_damaged() -> None:
    """The zip64 offset is larger than any position in a file."""
    content = loans_workbook(A_LOAN)
    end = content.rindex(b"PK\x05\x06")
    entries, size, start = struct.unpack_from("<HLL", content, end + 10)
    name = b"xl/worksheets/sheet1.xml"
    entry = content.rindex(name) - 46 - start
    directory = bytearray(content[start:end])
    extra = struct.pack("<HHQ", 1, 8, 2**63 + 5)
    directory[entry + 30 : entry + 32] = struct.pack("<H", len(extra))
    directory[entry + 42 : entry + 46] = b"\xff" * 4
    behind = entry + 46 + len(name)
    directory[behind:behind] = extra
    fields = (0, 0, entries, entries, size + len(extra), start, 0)
    last = struct.pack("<4sHHHHLLH", b"PK\x05\x06", *fields)
    assert refusal(content[:start] + bytes(directory) + last).code == "FILE_UNREADABLE"


def test_every_flipped_byte_of_a_zip64_record_is_read_or_rejected() -> None:
    content = with_64_bits(loans_workbook(A_LOAN))
    start = content.rindex(b"PK\x06\x06")
    for place in range(start, len(content)):
        for flip in (0x01, 0x55, 0xFF):
            damaged = bytearray(content)
            damaged[place] ^= flip
            try:
                assert read(bytes(damaged))[0] == [2]
            except SpreadsheetError:
                continue


def test_percentages_exist_in_sheets_but_not_in_text_files() -> None:
    cells = read(csv_of(LOAN_HEADERS, (*A_LOAN[:4], "12%", *A_LOAN[5:])), "l.csv")[1]
    assert not isinstance(cells["interest_rate"][0], Percent)
