"""Reading valid and invalid workbooks and CSV files."""

import io
import random
import struct
import tracemalloc
import zipfile
from collections.abc import Callable, Mapping
from datetime import date, datetime
from itertools import pairwise
from xml.sax.saxutils import escape

import openpyxl
import pytest

from credit_service.spreadsheets import xlsx_package, xlsx_pieces
from credit_service.spreadsheets.cell_values import Cell, ErrorValue, Formula
from credit_service.spreadsheets.columns import Kind
from credit_service.spreadsheets.source import check, open_source
from credit_service.spreadsheets.table import SpreadsheetError
from tests.unit.spreadsheets.workbooks import (
    A_CUSTOMER,
    A_LOAN,
    CUSTOMER_HEADERS,
    LOAN_HEADERS,
    Xml,
    csv_of,
    customers_workbook,
    loans_workbook,
    sheet_xml,
    workbook,
)


def read(
    content: bytes, name: str = "loans.xlsx", kind: Kind | None = "LOANS"
) -> tuple[list[int], dict[str, list[Cell]], list[int]]:
    source = open_source(io.BytesIO(content), name, kind)
    numbers: list[int] = []
    columns: dict[str, list[Cell]] = {field: [] for field in source.headers}
    overlong: list[int] = []
    for block in source.blocks:
        overlong += [len(numbers) + index for index in block.overlong]
        numbers += block.row_numbers
        for field, cells in block.columns.items():
            assert len(cells) == len(block.row_numbers)
            columns[field] += cells
    return numbers, columns, overlong


def refusal(content: bytes, name: str = "loans.xlsx") -> SpreadsheetError:
    with pytest.raises(SpreadsheetError) as caught:
        read(content, name)
    assert caught.value.message.endswith(".")
    return caught.value


def rows(columns: Mapping[str, list[Cell]], *fields: str) -> list[tuple[Cell, ...]]:
    return list(zip(*(columns[field] for field in fields), strict=True))


def test_a_workbook_is_read_by_column_with_the_numbers_of_its_rows() -> None:
    numbers, columns, _ = read(loans_workbook(A_LOAN, A_LOAN))
    assert numbers == [2, 3]
    assert columns["loan_amount"] == [100_000.0, 100_000.0]
    assert columns["start_date"] == [date(2024, 1, 31)] * 2
    assert set(columns) == {
        "customer_id",
        "loan_id",
        "loan_amount",
        "tenure_months",
        "interest_rate",
        "monthly_installment",
        "emis_paid_on_time",
        "start_date",
        "end_date",
    }


def test_csv_is_read_as_text_with_the_numbers_of_its_lines() -> None:
    content = csv_of(LOAN_HEADERS, A_LOAN, (), A_LOAN)
    numbers, columns, _ = read(content, "loans.csv")
    assert numbers == [2, 4]
    assert columns["monthly_installment"] == ["8884.88", "8884.88"]


def test_csv_may_have_702_columns_and_empty_ones_beyond() -> None:
    assert len(LOAN_HEADERS) == 9
    content = csv_of((*LOAN_HEADERS, *["x"] * 693, *[""] * 9), (*A_LOAN, *["y"] * 693, *[""] * 9))
    numbers, _, overlong = read(content, "loans.csv")
    assert (numbers, overlong) == ([2], [])


def test_csv_fields_may_be_quoted_and_hold_line_ends() -> None:
    content = (
        b"\xef\xbb\xbf"
        + csv_of(CUSTOMER_HEADERS)
        + b'1,"An, ""na""","Ra\r\no",31,9876598765,50000,\r\n2,B,C,30,9876598766,1,\r\n'
    )
    numbers, columns, _ = read(content, "customers.csv", "CUSTOMERS")
    assert numbers == [2, 4]
    assert columns["first_name"] == ['An, "na"', "B"]
    assert columns["last_name"] == ["Ra\r\no", "C"]


@pytest.mark.parametrize("separator", [";", "\t"])
def test_csv_separators_of_other_countries_are_read(separator: str) -> None:
    content = csv_of(LOAN_HEADERS, A_LOAN).replace(b",", separator.encode())
    assert read(content, "loans.csv")[1]["loan_id"] == ["1001"]


def test_a_row_with_values_beyond_the_header_is_reported() -> None:
    content = csv_of(LOAN_HEADERS, A_LOAN, (*A_LOAN, "x"), (*A_LOAN, "", " "), A_LOAN[:8])
    _, columns, overlong = read(content, "loans.csv")
    assert overlong == [1]
    assert columns["end_date"] == ["2025-01-31", "2025-01-31", "2025-01-31", ""]


def test_blank_rows_are_ignored_anywhere() -> None:
    blank = (None,) * 9
    content = workbook(
        sheet_xml({1: blank, 3: LOAN_HEADERS, 4: blank, 7: A_LOAN, 9: ("  ",), 10: A_LOAN})
    )
    assert read(content)[0] == [7, 10]


def test_headers_are_matched_by_their_meaning() -> None:
    headers = (
        "customer_id",
        "LOAN ID ",
        "loan amount",
        "Tenure",
        "interest-rate",
        "Monthly Repayment (emi)",
        "EMIs Paid on time",
        "Start Date",
        "Notes",
    )
    _, columns, _ = read(workbook(sheet_xml([headers, A_LOAN])))
    assert columns["monthly_installment"] == [8_884.88]
    assert "end_date" not in columns


def test_the_first_sheet_whose_header_fits_is_read() -> None:
    summary = sheet_xml([("Summary", "12 rows rejected")])
    content = workbook(summary, sheet_xml([LOAN_HEADERS, A_LOAN]))
    assert read(content)[1]["loan_id"] == [1001.0]


def test_a_hidden_sheet_is_not_read() -> None:
    content = workbook(sheet_xml([("Nothing", "here")]), sheet_xml([LOAN_HEADERS, A_LOAN]))
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        part = archive.read("xl/workbook.xml").replace(b'name="S2"', b'name="S2" state="hidden"')
    hidden = workbook(
        sheet_xml([("Nothing", "here")]),
        sheet_xml([LOAN_HEADERS, A_LOAN]),
        extra={"xl/workbook.xml": part},
    )
    assert refusal(hidden).code == "COLUMN_MISSING"


def test_the_kind_is_detected_from_the_header() -> None:
    source = open_source(io.BytesIO(customers_workbook(A_CUSTOMER)), "x.xlsx")
    assert source.kind == "CUSTOMERS"


def test_workbooks_of_openpyxl_are_read_like_by_openpyxl() -> None:
    book = openpyxl.Workbook()
    sheet = book.active
    assert sheet is not None
    sheet.append(LOAN_HEADERS)
    sheet.append([*A_LOAN[:7], datetime(2024, 1, 31, 10, 30), "2025-01-31"])  # noqa: DTZ001 - cells have no zone
    sheet.append(A_LOAN)
    buffer = io.BytesIO()
    book.save(buffer)
    numbers, columns, _ = read(buffer.getvalue())
    assert numbers == [2, 3]
    assert columns["start_date"] == [datetime(2024, 1, 31, 10, 30), date(2024, 1, 31)]  # noqa: DTZ001
    assert columns["end_date"] == ["2025-01-31", date(2025, 1, 31)]


def test_dates_count_from_1904_if_the_workbook_says_so() -> None:
    content = workbook(sheet_xml([LOAN_HEADERS, A_LOAN]), properties='<workbookPr date1904="1"/>')
    assert read(content)[1]["start_date"] == [date(2028, 2, 1)]


def prefixed(xml: str) -> str:
    """The same sheet with the namespace prefix that some writers use."""
    for tag in ("worksheet", "sheetData", "row", "c", "v", "is", "t", "f", "sst", "si", "r"):
        for before in ("<", "</"):
            for after in (" ", ">", "/"):
                xml = xml.replace(f"{before}{tag}{after}", f"{before}x:{tag}{after}")
    return xml.replace("xmlns=", "xmlns:x=")


FORMULA = Xml('<c r="{r}"><f>C2/12</f><v>8333.33</v></c>')
EMPTY_FORMULA = Xml('<c r="{r}"><f t="shared" si="0"/></c>')
ERROR = Xml('<c r="{r}" t="e"><v>#REF!</v></c>')


@pytest.mark.parametrize("dress", [str, prefixed], ids=["plain", "prefixed"])
@pytest.mark.parametrize("numbered", [True, False], ids=["numbered", "counted"])
def test_formulas_and_error_values_are_detected(dress: type, numbered: bool) -> None:
    xml = sheet_xml(
        [
            LOAN_HEADERS,
            A_LOAN,
            (*A_LOAN[:5], FORMULA, *A_LOAN[6:]),
            (*A_LOAN[:8], ERROR),
            (EMPTY_FORMULA,),
            A_LOAN,
        ]
    )
    if not numbered:
        for number in range(1, 7):
            xml = xml.replace(f'<row r="{number}" ', "<row ")
            for letter in "ABCDEFGHI":
                xml = xml.replace(f' r="{letter}{number}"', "")
    numbers, columns, _ = read(workbook(dress(xml)))
    assert numbers == [2, 3, 4, 5, 6]
    assert columns["monthly_installment"] == [8884.88, "=C2/12", 8884.88, "", 8884.88]
    assert isinstance(columns["monthly_installment"][1], Formula)
    assert isinstance(columns["end_date"][2], ErrorValue)
    assert columns["end_date"][2] == "#REF!"
    assert isinstance(columns["customer_id"][3], Formula)


def with_shared_strings(dress: Callable[[str], str], *texts: str) -> bytes:
    """Customers with these first names as shared strings, in the notations of several writers."""
    ways = (
        '<c r="{{r}}" t="s"><v>{}</v></c>',
        '<c t="s" r="{{r}}" s="0"><v>{}</v></c>',
        "<c r='{{r}}' t='s'><v>{}</v></c>",
        '<c r="{{r}}" t="s"> <v>{}</v></c>',
    )
    items = [f"<si><t>{escape(text)}</t></si>" for text in (*CUSTOMER_HEADERS, *texts)]
    items[3] = "<si><r><t>A</t></r><r><t>ge</t></r></si>"
    header = [Xml(ways[0].format(n)) for n in range(7)]
    body = [
        (n, Xml(ways[n % 4].format(n + 6)), "Rao", 30, 9_876_500_000 + n, 50_000)
        for n in range(1, len(texts) + 1)
    ]
    main = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
    strings = f'<sst xmlns="{main}">{"".join(items)}</sst>'
    return workbook(
        dress(sheet_xml([header, *body])),
        extra={
            "xl/sharedStrings.xml": dress(strings),
            "xl/_rels/workbook.xml.rels": _relations("worksheet", "sharedStrings", "styles"),
        },
    )


@pytest.mark.parametrize("piece_bytes", [500, 2_000, 10**6])
@pytest.mark.parametrize("prefix", ["", "x:"])
def test_shared_strings_are_found_in_every_piece(
    monkeypatch: pytest.MonkeyPatch, piece_bytes: int, prefix: str
) -> None:
    monkeypatch.setattr(xlsx_pieces, "_PIECE_BYTES", piece_bytes)
    names = [f"Name {n}" for n in range(300)]
    names[5:8] = ["", " <&> \ue000", "x" * 400]
    content = with_shared_strings(prefixed if prefix else str, *names)
    numbers, columns, _ = read(content, kind="CUSTOMERS")
    assert numbers == list(range(2, 302))
    # No reader keeps spaces around a text without xml:space.
    assert [str(name).strip() for name in columns["first_name"]] == [n.strip() for n in names]
    assert columns["approved_limit"] == [""] * 300


def test_a_reference_to_a_missing_text_is_rejected() -> None:
    content = with_shared_strings(str, "a")
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        sheet = archive.read("xl/worksheets/sheet1.xml").replace(b"<v>7</v>", b"<v>700</v>")
        strings = archive.read("xl/sharedStrings.xml")
    broken = workbook(
        sheet.decode(),
        extra={
            "xl/sharedStrings.xml": strings,
            "xl/_rels/workbook.xml.rels": _relations("worksheet", "sharedStrings", "styles"),
        },
    )
    with pytest.raises(SpreadsheetError) as caught:
        read(broken, kind="CUSTOMERS")
    assert caught.value.code == "FILE_UNREADABLE"


def _relations(*kinds: str) -> str:
    office = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    targets = {"worksheet": "worksheets/sheet1.xml"}
    return (
        '<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">'
        + "".join(
            f'<Relationship Id="rId{n}" Type="{office}/{kind}" '
            f'Target="/xl/{targets.get(kind, kind + ".xml")}"/>'
            for n, kind in enumerate(kinds, 1)
        )
        + "</Relationships>"
    )


@pytest.mark.parametrize("piece_bytes", [300, 1_000, 5_000, 100_000])
@pytest.mark.parametrize("numbered", [True, False])
def test_results_do_not_depend_on_the_pieces(
    monkeypatch: pytest.MonkeyPatch, piece_bytes: int, numbered: bool
) -> None:
    loans = [(n, 1000 + n, *A_LOAN[2:]) for n in range(1, 101)]
    blank = dict.fromkeys((20, 21, 22, 60), (None,) * 9)
    sheet = dict(enumerate([LOAN_HEADERS, *loans], 1)) | blank
    xml = sheet_xml(sheet)
    if not numbered:
        for number in range(1, 102):
            xml = xml.replace(f'<row r="{number}" ', "<row ")
            for letter in "ABCDEFGHI":
                xml = xml.replace(f' r="{letter}{number}"', "")
    monkeypatch.setattr(xlsx_pieces, "_PIECE_BYTES", piece_bytes)
    numbers, columns, _ = read(workbook(xml))
    expected = [n for n in range(2, 102) if n not in blank]
    assert numbers == expected
    assert columns["loan_id"] == [float(999 + number) for number in expected]


def test_a_stray_cell_far_below_costs_no_memory() -> None:
    sheet = {1: LOAN_HEADERS, 2: A_LOAN, 3: A_LOAN, 1_048_576: (7, 2, *A_LOAN[2:])}
    numbers, columns, _ = read(workbook(sheet_xml(sheet)))
    assert numbers == [2, 3, 1_048_576]
    assert columns["loan_id"][2] == 2.0


def test_columns_may_begin_right_of_the_first() -> None:
    shifted = [(None, None, *row) for row in (LOAN_HEADERS, A_LOAN)]
    assert read(workbook(sheet_xml(shifted)))[1]["loan_id"] == [1001.0]


@pytest.mark.parametrize(
    ("content", "name", "code"),
    [
        (b"", "loans.xlsx", "FILE_EMPTY"),
        (b"", "loans.csv", "FILE_EMPTY"),
        (b"\r\n\r\n ,, \r\n", "loans.csv", "FILE_EMPTY"),
        (workbook(sheet_xml([])), "loans.xlsx", "FILE_EMPTY"),
        (workbook("<worksheet><sheetData/></worksheet>"), "loans.xlsx", "FILE_EMPTY"),
        (csv_of(LOAN_HEADERS, A_LOAN), "loans.xlsx", "FILE_UNREADABLE"),
        (loans_workbook(A_LOAN), "loans.csv", "FILE_UNREADABLE"),
        (loans_workbook(A_LOAN)[:-30], "loans.xlsx", "FILE_UNREADABLE"),
        (loans_workbook(A_LOAN)[:200], "loans.xlsx", "FILE_UNREADABLE"),
        (b"PK\x03\x04", "loans.xlsx", "FILE_UNREADABLE"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600), "loans.xlsx", "FORMAT_UNSUPPORTED"),
        (b"%PDF-1.7\n\x00\x01", "loans.pdf", "FORMAT_UNSUPPORTED"),
        (workbook(sheet_xml([CUSTOMER_HEADERS, A_CUSTOMER])), "loans.xlsx", "COLUMN_MISSING"),
        (csv_of(("Customer ID", "CustomerID", *LOAN_HEADERS[1:])), "l.csv", "COLUMN_AMBIGUOUS"),
        (csv_of(LOAN_HEADERS) + b"1,\xff\xfe,3", "loans.csv", "FILE_UNREADABLE"),
        (csv_of(LOAN_HEADERS) + b'1,"never closed,3', "loans.csv", "FILE_UNREADABLE"),
        (csv_of((*LOAN_HEADERS, *["x"] * 694), A_LOAN), "wide.csv", "FILE_UNSAFE"),
        (workbook("<html><body/></html>"), "loans.xlsx", "FILE_UNREADABLE"),
        (workbook(sheet_xml([LOAN_HEADERS, A_LOAN])[:-40]), "loans.xlsx", "FILE_UNREADABLE"),
        (
            workbook(sheet_xml([LOAN_HEADERS]).replace("</sheetData>", "<row><c></sheetData>")),
            "loans.xlsx",
            "FILE_UNREADABLE",
        ),
        (
            workbook(sheet_xml({5: LOAN_HEADERS, 3: A_LOAN})),
            "loans.xlsx",
            "FILE_UNREADABLE",
        ),
        (
            workbook(sheet_xml([LOAN_HEADERS]), extra={"xl/workbook.xml": "<workbook"}),
            "loans.xlsx",
            "FILE_UNREADABLE",
        ),
        (
            workbook(
                sheet_xml([LOAN_HEADERS]),
                extra={"xl/workbook.xml": '<!DOCTYPE a [<!ENTITY b "c">]><workbook>&b;</workbook>'},
            ),
            "loans.xlsx",
            "FILE_UNSAFE",
        ),
    ],
)
def test_an_unreadable_file_has_a_reason(content: bytes, name: str, code: str) -> None:
    assert refusal(content, name).code == code


def test_the_error_of_a_missing_column_lists_the_columns_found() -> None:
    message = refusal(csv_of(("Customer ID", "Amount"), (1, 2)), "loans.csv").message
    assert "'Loan ID'" in message
    assert "'Amount'" in message


def test_other_zip_files_are_not_workbooks() -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("word/document.xml", "<document/>")
    assert refusal(buffer.getvalue()).code == "FORMAT_UNSUPPORTED"


def bomb(name: str, content: bytes) -> bytes:
    return workbook(sheet_xml([LOAN_HEADERS, A_LOAN]), extra={name: content})


@pytest.mark.parametrize(
    "content",
    [
        bomb("xl/media/image.bin", bytes(8 * 1024**2)),
        workbook(
            sheet_xml([LOAN_HEADERS, A_LOAN]),
            extra={f"xl/parts/{n}.xml": "" for n in range(xlsx_package.MAX_ENTRIES)},
        ),
    ],
    ids=["ratio", "entries"],
)
def test_an_unsafe_workbook_is_rejected_by_its_directory(content: bytes) -> None:
    with pytest.raises(SpreadsheetError) as caught:
        check(io.BytesIO(content), "loans.xlsx")
    assert caught.value.code == "FILE_UNSAFE"


def test_a_sheet_with_too_many_columns_is_rejected() -> None:
    wide = sheet_xml([LOAN_HEADERS, A_LOAN]).replace('r="I2"', 'r="XFD2"')
    assert refusal(workbook(wide)).code == "FILE_UNSAFE"


def test_cells_outside_their_row_are_rejected() -> None:
    astray = sheet_xml([LOAN_HEADERS, A_LOAN]).replace('r="I2"', 'r="I900"')
    assert refusal(workbook(astray)).code == "FILE_UNREADABLE"


def test_every_truncation_of_a_workbook_is_rejected() -> None:
    content = loans_workbook(A_LOAN)
    for length in range(1, len(content), 7):
        with pytest.raises(SpreadsheetError):
            read(content[:length])


def test_every_flipped_byte_of_a_workbook_is_read_or_rejected() -> None:
    content = loans_workbook(*[A_LOAN] * 5)
    for place in range(0, len(content), 3):
        damaged = bytearray(content)
        damaged[place] ^= 0x55
        try:
            read(bytes(damaged))
        except SpreadsheetError:
            continue


@pytest.mark.parametrize("dress", [str, prefixed], ids=["plain", "prefixed"])
@pytest.mark.parametrize("value", ["#SPILL!", "#GETTING_DATA", "#NEW?", ""])
def test_an_unknown_error_value_affects_only_its_cell(value: str, dress: type) -> None:
    cell = Xml(f'<c t="e" r="{{r}}"><v>{value}</v></c>')
    text = 'like <c t="e"> in a text'
    content = workbook(
        dress(sheet_xml([(*LOAN_HEADERS, "Notes"), (*A_LOAN[:8], cell, text), A_LOAN]))
    )
    numbers, columns, _ = read(content)
    assert numbers == [2, 3]
    assert columns["end_date"] == [value, date(2025, 1, 31)]
    assert isinstance(columns["end_date"][0], ErrorValue)


# Hostile workbooks: the directory is rejected by what it states, the rest by what it needs.


def refused_by_directory(content: bytes, name: str = "loans.xlsx") -> str:
    """The error's code; checks that nothing is inflated and little memory is used."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(zipfile.ZipFile, "open", _never)
        tracemalloc.start()
        try:
            with pytest.raises(SpreadsheetError) as caught:
                check(io.BytesIO(content), name)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert peak < 32 * 1024**2
    return caught.value.code


def _never(*_arguments: object, **_options: object) -> None:
    raise AssertionError("something of the archive was opened")


def archive_of(entries: int, name_bytes: int = 1) -> bytes:
    """An archive of empty parts, written by hand because zipfile is slow for many."""
    local, directory = bytearray(), bytearray()
    for number in range(entries):
        name = f"{number:x}".encode().rjust(name_bytes, b"x")
        at = len(local)
        local += struct.pack("<4sHHHHHLLLHH", b"PK\x03\x04", 20, 0, 0, 0, 33, 0, 0, 0, len(name), 0)
        local += name
        directory += struct.pack(
            "<4sHHHHHHLLLHHHHHLL",
            b"PK\x01\x02", 20, 20, 0, 0, 0, 33, 0, 0, 0, len(name), 0, 0, 0, 0, 0, at,
        )  # fmt: skip
        directory += name
    end = struct.pack("<4sHHHHLLH", b"PK\x05\x06", 0, 0, 7, 7, len(directory), len(local), 0)
    return bytes(local + directory + end)


def test_a_million_parts_are_rejected_despite_the_count_in_the_archive() -> None:
    """The archive states seven; zipfile would create an object for each before counting them."""
    assert refused_by_directory(archive_of(90_000)) == "FILE_UNSAFE"
    assert refused_by_directory(archive_of(xlsx_package.MAX_ENTRIES + 1)) == "FILE_UNSAFE"


def test_the_second_record_of_large_archives_is_not_trusted() -> None:
    """A zip64 record can contradict the checked numbers."""
    content = archive_of(10)
    end = content.index(b"PK\x05\x06")
    at = content.index(b"PK\x01\x02")
    wide = struct.pack(
        "<4sQHHLLQQQQ", b"PK\x06\x06", 44, 45, 45, 0, 0, 10, 10, end - at, at
    ) + struct.pack("<4sLQL", b"PK\x06\x07", 0, end, 1)
    assert refused_by_directory(content[:end] + wide + content[end:]) == "FILE_UNSAFE"


def with_stated_sizes(content: bytes, part: str, file_size: int, compress_size: int) -> bytes:
    """The workbook with false sizes of a part in its directory."""
    stated = bytearray(content)
    at = content.rindex(part.encode()) - 46
    assert stated[at : at + 4] == b"PK\x01\x02"
    stated[at + 20 : at + 28] = struct.pack("<LL", compress_size, file_size)
    return bytes(stated)


SHEET = "xl/worksheets/sheet1.xml"


def test_false_sizes_do_not_bypass_the_limits() -> None:
    content = loans_workbook(*[A_LOAN] * 2_000)
    two_gib = 2 * 1024**3
    for sizes in ((two_gib, 11 * 1024**2), (two_gib - 1, two_gib // 100), (10**6, 10**6)):
        assert refused_by_directory(with_stated_sizes(content, SHEET, *sizes)) == "FILE_UNSAFE"
    # With a smaller size than the true one, only a part of the sheet is inflated.
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        compressed = archive.getinfo(SHEET).compress_size
    stated = with_stated_sizes(content, SHEET, 5_000, compressed)
    assert refusal(stated).code == "FILE_UNREADABLE"


def test_the_inflated_size_of_all_parts_is_bounded() -> None:
    parts = []
    for number in range(4):
        parts.append(zipfile.ZipInfo(f"{number}.xml"))
        parts[-1].file_size = xlsx_package.MAX_INFLATED_BYTES // 4
        parts[-1].compress_size = parts[-1].file_size // 100
    archive_bytes = sum(part.compress_size for part in parts)
    xlsx_package._check_parts(parts, archive_bytes)
    parts[0].file_size += 1
    with pytest.raises(SpreadsheetError):
        xlsx_package._check_parts(parts, archive_bytes)


def test_overlapping_parts_are_rejected() -> None:
    content = loans_workbook(*[A_LOAN] * 3_000)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        info = archive.getinfo(SHEET)
    at = content.rindex(SHEET.encode()) - 46
    entry = content[at : at + 46 + len(SHEET)]
    end = content.rindex(b"PK\x05\x06")
    copies = b"".join(entry[:-5] + f"{n}.xml".encode() for n in range(2, 10))
    fields = list(struct.unpack("<4sHHHHLLH", content[end:]))
    fields[5] += len(copies)
    stated = content[:end] + copies + struct.pack("<4sHHHHLLH", *fields)
    assert info.file_size < xlsx_package.MAX_RATIO * info.compress_size
    assert refused_by_directory(stated) == "FILE_UNSAFE"


def recompressed(content: bytes, method: int) -> bytes:
    buffer = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(content)) as archive,
        zipfile.ZipFile(buffer, "w", method) as other,
    ):
        for name in archive.namelist():
            other.writestr(name, archive.read(name))
    return buffer.getvalue()


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_unsupported_compressions_are_rejected(method: int) -> None:
    """They can need gigabytes to inflate a kilobyte."""
    content = recompressed(loans_workbook(A_LOAN), method)
    assert refused_by_directory(content) == "FILE_UNREADABLE"
    assert read(recompressed(loans_workbook(A_LOAN), zipfile.ZIP_STORED))[0] == [2]


@pytest.mark.parametrize("part", ["xl/vbaProject.bin", "xl/workbook.bin"])
def test_macro_and_binary_workbooks_are_rejected_by_their_directory(part: str) -> None:
    content = workbook(sheet_xml([LOAN_HEADERS, A_LOAN]), extra={part: b"x"})
    for name in ("loans.xlsm", "loans.xlsx"):
        assert refused_by_directory(content, name) == "FORMAT_UNSUPPORTED"


def test_other_office_documents_are_rejected() -> None:
    opendocument = io.BytesIO()
    with zipfile.ZipFile(opendocument, "w") as archive:
        archive.writestr("mimetype", "application/vnd.oasis.opendocument.spreadsheet")
        archive.writestr("content.xml", "<office:document-content/>")
    assert refused_by_directory(opendocument.getvalue(), "loans.ods") == "FORMAT_UNSUPPORTED"
    main = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
    text = workbook(
        sheet_xml([]),
        extra={"xl/workbook.xml": f'<w:document xmlns:w="{main}"><w:body/></w:document>'},
    )
    assert refusal(text).code == "FORMAT_UNSUPPORTED"


LAUGHS = (
    '<!DOCTYPE lolz [<!ENTITY a "ha">'
    + "".join(f'<!ENTITY {b} "{f"&{a};" * 10}">' for a, b in pairwise("abcdefghij"))
    + "]>"
)
OUTSIDE = '<!DOCTYPE r [<!ENTITY a SYSTEM "file:///etc/hostname">]>'


@pytest.mark.parametrize("tricks", [LAUGHS, OUTSIDE], ids=["laughs", "outside"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
@pytest.mark.parametrize(
    "part",
    ["xl/workbook.xml", "xl/_rels/workbook.xml.rels", "_rels/.rels", SHEET, "xl/sharedStrings.xml"],
)
def test_entities_are_refused_in_every_part_and_encoding(
    tricks: str, encoding: str, part: str
) -> None:
    entity = "&j;" if tricks is LAUGHS else "&a;"
    plain = with_shared_strings(str, "Asha")
    with zipfile.ZipFile(io.BytesIO(plain)) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    xml = parts[part].decode()
    place = xml.index(">") if xml.startswith("<Rel") else xml.index("<", 1) - 1
    spoilt = f"{tricks}{xml[: place + 1]}{entity}{xml[place + 1 :]}"
    parts[part] = f'<?xml version="1.0" encoding="{encoding}"?>{spoilt}'.encode(encoding)
    content = workbook(extra=parts)
    with pytest.raises(SpreadsheetError) as caught:
        read(content, kind="CUSTOMERS")
    assert caught.value.code in ("FILE_UNSAFE", "FILE_UNREADABLE")
    # The bytes are checked before a parser reads them; rows and texts are removed before that.
    if part not in (SHEET, "xl/sharedStrings.xml"):
        expected = "a document type" if encoding == "utf-8" else "not written in UTF-8"
        assert expected in caught.value.message


@pytest.mark.parametrize("part", ["xl/workbook.xml", "_rels/.rels", "xl/styles.xml"])
@pytest.mark.parametrize(
    ("encoding", "is_read"),
    [
        ("UTF-8", True),
        ("utf8", True),
        ("US-ASCII", True),
        ("ISO-8859-1", True),
        ("windows-1251", False),
        ("UTF-16", False),
        ("nonsense", False),
    ],
)
def test_a_part_that_declares_an_encoding_is_rejected(
    part: str, encoding: str, *, is_read: bool
) -> None:
    with zipfile.ZipFile(io.BytesIO(loans_workbook(A_LOAN))) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    parts[part] = f"<?xml version='1.0' encoding = '{encoding}'?>".encode() + parts[part]
    content = workbook(extra=parts)
    if is_read:
        assert read(content)[0] == [2]
    else:
        refused = refusal(content)
        assert refused.code == "FILE_UNREADABLE"
        assert "is not written in UTF-8" in refused.message


def test_external_links_are_removed() -> None:
    relations = _relations("worksheet", "styles").replace(
        'Target="/xl/worksheets/sheet1.xml"',
        'Target="/xl/worksheets/sheet1.xml" TargetMode="External"',
    )
    content = workbook(
        sheet_xml([LOAN_HEADERS, A_LOAN]), extra={"xl/_rels/workbook.xml.rels": relations}
    )
    assert refusal(content).code == "FILE_EMPTY"
    outside = relations.replace('"/xl/worksheets/sheet1.xml"', '"http://127.0.0.1:1/sheet.xml"')
    outside = outside.replace(' TargetMode="External"', "")
    content = workbook(
        sheet_xml([LOAN_HEADERS, A_LOAN]), extra={"xl/_rels/workbook.xml.rels": outside}
    )
    assert refusal(content).code == "FILE_EMPTY"


def test_only_the_first_of_thousands_of_sheets_are_searched() -> None:
    sheets = "".join(f'<sheet name="S{n}" sheetId="{n}" r:id="rId1"/>' for n in range(20_000))
    main = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
    office = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    content = workbook(
        sheet_xml([("nothing", "here")]),
        extra={
            "xl/workbook.xml": f'<workbook xmlns="{main}" xmlns:r="{office}">'
            f"<sheets>{sheets}</sheets></workbook>"
        },
    )
    assert refusal(content).code in ("COLUMN_MISSING", "FILE_UNSAFE")


def test_wide_rows_and_large_cells_are_read_or_rejected_safely(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wide = (*LOAN_HEADERS, *(f"C{number}" for number in range(300)))
    assert read(workbook(sheet_xml([wide, (*A_LOAN, *range(300))])))[1]["loan_id"] == [1001.0]
    noise = random.Random(3)  # noqa: S311 - made up, and not to be compressed
    large = noise.randbytes(1024**2 // 2).hex()
    numbers, columns, _ = read(
        customers_workbook((7, large, "Rao", 30, 9_876_598_765, 1, None)), kind="CUSTOMERS"
    )
    assert (numbers, columns["first_name"]) == ([2], [large])
    monkeypatch.setattr(xlsx_pieces, "_MAX_ROW_BYTES", 1024**2)
    monstrous = noise.randbytes(4 * 1024**2).hex()
    content = customers_workbook((7, monstrous, "Rao", 30, 9_876_598_765, 1, None))
    with pytest.raises(SpreadsheetError) as caught:
        read(content, kind="CUSTOMERS")
    assert caught.value.code == "FILE_UNSAFE"
