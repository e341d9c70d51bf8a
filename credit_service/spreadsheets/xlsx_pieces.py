"""The rows of a sheet, read in pieces of whole rows, so that a piece bounds the memory.

python-calamine reads each piece as a workbook of its own: a sheet of a million rows takes as much
memory as one of a few thousand, and the first rows are available before the file is read to its
end. What calamine does not report (formulas, error values, percent formats) is read from the XML of
the piece. pandas and openpyxl read a sheet whole, or take several times as long.
"""

import io
import math
import re
import zipfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from decimal import Decimal
from functools import lru_cache
from itertools import islice
from xml.sax.saxutils import unescape

from python_calamine import CalamineError, CalamineSheet, CalamineWorkbook

from credit_service.spreadsheets.cell_values import Cell, ErrorValue, Formula, Percent
from credit_service.spreadsheets.table import (
    MAX_COLUMNS,
    MAX_ROWS,
    TOO_WIDE,
    Piece,
    SpreadsheetError,
)
from credit_service.spreadsheets.xlsx_package import (
    MAIN_NAMESPACE,
    MAX_SHARED_STRINGS_BYTES,
    Package,
    piece_relations,
    reading,
    unsafe,
    unusual,
)

_MAX_HEAD_BYTES = 1024**2
_MAX_ROW_BYTES = 16 * 1024**2
_PIECE_BYTES = 2 * 1024**2

_SHARED_MARK = "\ue000"
"""Stands before the index of a shared string. A workbook that has it elsewhere too names
another of its own strings with it."""

_ROOT = re.compile(rb"<((?:[A-Za-z_][\w.-]*:)?)worksheet[\s>][^>]*")


class _Tags:
    """The tags of a sheet, with its writer's namespace prefix."""

    def __init__(self, prefix: bytes) -> None:
        self.prefix = prefix
        escaped = re.escape(prefix)
        self.row = b"<" + prefix + b"row"
        self.sheet_data = b"<" + prefix + b"sheetData"
        self.end = b"</" + prefix + b"sheetData"
        self.close = b"</%bsheetData></%bworksheet>" % (prefix, prefix)
        self.usual_row = re.compile(b"<" + escaped + rb'row(?: r="([0-9]{1,9})")?')
        self.any_row = re.compile(b"<" + escaped + rb"row((?:\s[^>]*)?)>")
        self.cell = re.compile(
            b"<%bc((?:\\s[^>]*?)?)(?:/>|>(\\s*<%bf(?:\\s[^>]*?)?(?:/>|>([^<]*)))?)"
            % (escaped, escaped)
        )
        self.wide_blank_cell = re.compile(
            rb"""<%bc\s+(?:[^<>]*\s)?r="[A-Z]{3}[0-9]{1,9}"[^<>]*(?:/>|>\s*</%bc>)"""
            % (escaped, escaped)
        )
        self.error_cell = re.compile(rb"""(<%bc\s(?:[^>]*\s)?t\s*=\s*)["']e["']""" % escaped)
        self.value = re.compile(b"<%bv>([^<]*)" % escaped)
        value = b"<" + prefix + b"v>"
        self.usual_shared = b't="s">' + value
        self.marked = b't="str">' + value + _SHARED_MARK.encode()
        self.any_shared = re.compile(
            rb"""\bt\s*=\s*["']s["']([^>]*)>\s*<%bv(?:\s[^>]*)?>""" % escaped
        )
        self.marked_shared = rb't="str"\1>' + value + _SHARED_MARK.encode()
        formula = b"<" + prefix + b"f"
        self.formula = tuple(formula + char for char in (b">", b" ", b"/", b"\n", b"\t", b"\r"))

    def mark_shared(self, chunk: bytes) -> bytes:
        """The chunk with references to shared strings as texts that begin with _SHARED_MARK."""
        chunk = chunk.replace(self.usual_shared, self.marked)
        if b't="s"' in chunk or (b"'" in chunk and b"t='s'" in chunk):
            chunk = self.any_shared.sub(self.marked_shared, chunk)
        return chunk

    def has_special(self, chunk: bytes) -> bool:
        """Whether some cell of the chunk may hold a formula or an error value.

        A single byte is found a hundred times as fast as two, and is rarely there.
        """
        if b"f" in chunk and any(each in chunk for each in self.formula):
            return True
        return (b"e" in chunk and b't="e"' in chunk) or (b"'" in chunk and b"t='e'" in chunk)


_NUMBER_ATTRIBUTE = re.compile(rb"""(?:^|\s)r\s*=\s*["']([0-9]{1,9})["']""")
_REFERENCE = re.compile(rb"""(?:^|\s)r\s*=\s*["']([A-Za-z]{1,3})([0-9]{1,9})["']""")
_STYLE = re.compile(rb"""(?:^|\s)s\s*=\s*["']([0-9]{1,6})["']""")
_ERROR_TYPE = re.compile(rb"""(?:^|\s)t\s*=\s*["']e["']""")
_WIDE_REFERENCE = re.compile(rb'r="[A-Z]{3}')


def pieces_of(package: Package, sheet: str, piece_bytes: int | None = None) -> Iterator[Piece]:
    """The sheet's rows in order, some of them blank, in pieces of about `piece_bytes`."""
    piece_bytes = piece_bytes or _PIECE_BYTES
    with ExitStack() as opened:
        with reading():
            stream = opened.enter_context(package.archive.open(package.names[sheet.lower()]))

        def read(size: int) -> bytes:
            with reading():
                return stream.read(size)

        head = b""
        while (match := _ROOT.search(head)) is None or (b"<" + match[1] + b"sheetData" not in head):
            data = read(65_536)
            if not data or len(head) > _MAX_HEAD_BYTES:
                raise unusual("has a sheet without rows of cells")
            head += data
        tags = _Tags(match[1])
        start = head.index(tags.sheet_data)
        while (open_end := head.find(b">", start)) < 0:
            data = read(65_536)
            if not data:
                raise unusual("ends in the middle of a sheet")
            head += data
        if b"<!" in head[: match.start()] or head[match.end() :][:1] != b">":
            raise unusual("has a document type of its own or an odd root")
        if head[open_end - 1 : open_end] == b"/":
            return
        reader = _SheetReader(package, tags, head[: match.end() + 1])
        for chunk in _row_chunks(read, head[open_end + 1 :], tags, piece_bytes):
            yield from reader.pieces(chunk)


def _row_chunks(
    read: Callable[[int], bytes], buffered: bytes, tags: _Tags, piece_bytes: int
) -> Iterator[bytes]:
    """The content of a sheet's data in chunks of whole rows."""
    searched = 0
    while True:
        end = buffered.find(tags.end, searched)
        if end >= 0:
            yield buffered[:end]
            break
        cut = buffered.rfind(tags.row)
        if cut > 0 and len(buffered) >= piece_bytes:
            yield buffered[:cut]
            buffered = buffered[cut:]
        elif len(buffered) > piece_bytes + _MAX_ROW_BYTES:
            raise unsafe(f"has a row of more than {_MAX_ROW_BYTES:,} bytes")
        searched = max(0, len(buffered) - len(tags.end))
        data = read(piece_bytes)
        if not data:
            raise unusual("ends in the middle of a sheet")
        buffered += data
    # Reads to the end, where zipfile compares the checksum.
    while read(1024**2):
        pass


def _parsed(parts: Mapping[str, bytes], sheet_xml: bytes) -> tuple[CalamineSheet, list[list[Cell]]]:
    """A sheet in a workbook of its own, and its rows."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
        archive.writestr("xl/worksheets/sheet1.xml", sheet_xml)
    buffer.seek(0)
    try:
        with CalamineWorkbook.from_filelike(buffer) as workbook:
            sheet = workbook.get_sheet_by_index(0)
            return sheet, sheet.to_python()
    except BaseException as error:
        # A failed assertion of the parser is a PanicException, which is no Exception.
        if isinstance(error, CalamineError) or type(error).__name__ == "PanicException":
            raise SpreadsheetError("FILE_UNREADABLE", "The workbook is damaged.") from error
        raise


_STRINGS_ROOT = re.compile(rb"<((?:[A-Za-z_][\w.-]*:)?)sst[\s>/]")
_STRINGS_RELATIONS = [
    ("worksheet", "worksheets/sheet1.xml"),
    ("sharedStrings", "sharedStrings.xml"),
]


def _shared_strings(package: Package) -> list[str]:
    """The texts that cells refer to by index, read in pieces like the rows of a sheet."""
    if package.shared_strings is None:
        return []
    strings: list[str] = []
    with ExitStack() as opened:
        with reading():
            info = package.names[package.shared_strings.lower()]
            stream = opened.enter_context(package.archive.open(info))
        if info.file_size > MAX_SHARED_STRINGS_BYTES:
            raise unsafe(f"has texts of {info.file_size:,} bytes")
        buffered = b""
        while True:
            with reading():
                data = stream.read(_PIECE_BYTES)
            buffered += data
            root = _STRINGS_ROOT.search(buffered)
            if root is None:
                raise unusual("has no list of texts where it says")
            if b"<!" in buffered[: root.start()]:
                raise unsafe("has a document type of its own")
            item = b"<" + root[1] + b"si"
            cut = buffered.rfind(item) if data else max(buffered.rfind(b"</" + root[1] + b"sst"), 0)
            first = buffered.find(item)
            if 0 <= first < cut:
                strings += _strings_of(package, root[1], buffered[first:cut])
                buffered = buffered[: root.end()] + buffered[cut:]
            elif len(buffered) > _PIECE_BYTES + _MAX_ROW_BYTES:
                raise unsafe(f"has a text of more than {_MAX_ROW_BYTES:,} bytes")
            if not data:
                return strings


def _strings_of(package: Package, prefix: bytes, items: bytes) -> list[str]:
    if b"<!" in items:
        raise unusual("has comments among its texts")
    count = items.count(b"<" + prefix + b"si>") + items.count(b"<" + prefix + b"si ")
    count += items.count(b"<" + prefix + b"si/")
    namespace = b"xmlns:" + prefix[:-1] if prefix else b"xmlns"
    parts = dict(package.constant_parts)
    parts["xl/_rels/workbook.xml.rels"] = piece_relations(_STRINGS_RELATIONS)
    parts["xl/sharedStrings.xml"] = b'<%bsst %b="%b">%b</%bsst>' % (
        prefix,
        namespace,
        MAIN_NAMESPACE.encode(),
        items,
        prefix,
    )
    # A number beside each text keeps the rows of empty texts.
    cells = "".join(
        f'<row><c><v>0</v></c><c t="s"><v>{index}</v></c></row>' for index in range(count)
    )
    sheet = f'<worksheet xmlns="{MAIN_NAMESPACE}"><sheetData>{cells}</sheetData></worksheet>'
    _, rows = _parsed(parts, sheet.encode())
    return [str(row[1]) if len(row) > 1 else "" for row in rows]


class _SheetReader:
    """Reads chunks of rows of one sheet, in order."""

    def __init__(self, package: Package, tags: _Tags, head: bytes) -> None:
        self._package = package
        self._tags = tags
        self._head = head + tags.sheet_data + b">"
        styles = package.percent_styles
        self._percent_tags = _PercentTags(tags.prefix, styles) if styles else None
        self._rows_before = 0
        self._last_number = 0

    def pieces(self, chunk: bytes) -> Iterator[Piece]:
        """The rows of the chunk."""
        if (b"!" in chunk and b"<!" in chunk) or (b"?" in chunk and b"<?" in chunk):
            raise unusual("has comments or instructions among its rows")
        if _WIDE_REFERENCE.search(chunk):
            # Formats that fill a row to the last column hold no value.
            chunk = self._tags.wide_blank_cell.sub(b"", chunk)
            if _WIDE_REFERENCE.search(chunk):
                raise unsafe(TOO_WIDE)
        numbers = self._numbers(chunk)
        if not numbers:
            return
        if numbers[0] <= self._last_number or numbers[-1] > MAX_ROWS or not _ascending(numbers):
            raise unusual("has rows out of order")
        self._last_number = numbers[-1]
        for part, first, last in self._dense(chunk, numbers):
            piece = self._piece(part, first, last)
            if piece is not None:
                yield piece

    def _numbers(self, chunk: bytes) -> list[int]:
        """The row numbers. Rows without a number are counted."""
        found = self._tags.usual_row.findall(chunk)
        rows = len(found)
        before, self._rows_before = self._rows_before, self._rows_before + rows
        if b"" not in found:
            return list(map(int, found))
        attributes = self._tags.any_row.findall(chunk)
        numbered = [match for text in attributes if (match := _NUMBER_ATTRIBUTE.search(text))]
        if len(attributes) != rows or len(numbered) not in (0, rows):
            raise unusual("numbers some rows and others not")
        if numbered:
            return [int(match[1]) for match in numbered]
        return list(range(before + 1, before + rows + 1))

    def _dense(self, chunk: bytes, numbers: list[int]) -> Iterator[tuple[bytes, int, int]]:
        """The chunk, cut at gaps between rows: calamine fills gaps, and they may be wide."""
        if numbers[-1] - numbers[0] < 2 * len(numbers) + 1_000:
            yield chunk, numbers[0], numbers[-1]
            return
        places = [match.start() for match in re.finditer(re.escape(self._tags.row), chunk)]
        first = 0
        for index in range(1, len(numbers) + 1):
            if index == len(numbers) or numbers[index] - numbers[index - 1] > 100:
                end = places[index] if index < len(numbers) else len(chunk)
                yield chunk[places[first] : end], numbers[first], numbers[index - 1]
                first = index

    def _piece(self, chunk: bytes, first: int, last: int) -> Piece | None:
        marked = self._tags.mark_shared(chunk)
        has_strings = marked is not chunk and marked != chunk
        special: dict[tuple[int, int], Cell] = {}
        if self._tags.has_special(chunk):
            special = self._special_cells(chunk, first)
            # One error value unknown to calamine would fail all rows.
            marked = self._tags.error_cell.sub(rb'\1"str"', marked)
        content = b"".join((self._head, marked, self._tags.close))
        sheet, rows = _parsed(self._package.constant_parts, content)
        if has_strings:
            self._put_strings_in(rows)
        if sheet.start is None or sheet.end is None:
            return _with_special(Piece([], [], 0), special)
        # Rows without a number are counted from the first one of the chunk.
        is_numbered = self._is_numbered(chunk)
        top = sheet.start[0] + (0 if is_numbered else first - 1) + 1
        if top < first or top + len(rows) - 1 > last or sheet.end[1] >= MAX_COLUMNS:
            raise unusual("has cells outside of their rows or of the columns A to ZZ")
        self._show_percentages(chunk, first, rows, (top, sheet.start[1]))
        piece = Piece(range(top, top + len(rows)), rows, sheet.start[1])
        return _with_special(piece, special)

    def _put_strings_in(self, rows: list[list[Cell]]) -> None:
        """Replace references to shared strings by the strings."""
        strings = self._package.strings
        if not strings:
            strings.extend(_shared_strings(self._package))
        try:
            for row in rows:
                for column, cell in enumerate(row):
                    if type(cell) is str and cell[:1] == _SHARED_MARK:
                        row[column] = strings[int(cell[1:])]
        except (ValueError, IndexError) as error:
            raise unusual("refers to texts that it does not have") from error

    def _is_numbered(self, chunk: bytes) -> bool:
        row = self._tags.any_row.search(chunk)
        return row is not None and _NUMBER_ATTRIBUTE.search(row[1]) is not None

    def _special_cells(self, chunk: bytes, first: int) -> dict[tuple[int, int], Cell]:
        """(row number, column from 0) of the cells with a formula or an error value."""
        found: dict[tuple[int, int], Cell] = {}
        for number, column, text, match in self._cells(chunk, first):
            if match[2] is not None:
                found[number, column] = Formula("=" + _text(match[3] or b""))
            elif _ERROR_TYPE.search(match[1]):
                value = self._tags.value.search(text, match.end())
                found[number, column] = ErrorValue(_text(value[1]) if value else "#ERROR")
        return found

    def _cells(self, chunk: bytes, first: int) -> Iterator[tuple[int, int, bytes, re.Match[bytes]]]:
        """Every cell: row number, column from 0, the text of its row, and its tag in it."""
        number = first - 1
        for text in chunk.split(self._tags.row)[1:]:
            numbered = _NUMBER_ATTRIBUTE.search(text[: text.find(b">")])
            number = int(numbered[1]) if numbered else number + 1
            column = -1
            for match in self._tags.cell.finditer(text):
                reference = _REFERENCE.search(match[1])
                column = _column(reference[1]) if reference else column + 1
                yield number, column, text, match

    def _show_percentages(
        self, chunk: bytes, first: int, rows: list[list[Cell]], origin: tuple[int, int]
    ) -> None:
        """Replace numbers by Percent where the sheet shows percentages. `origin` is the row
        number and the column of the first cell of `rows`."""
        if self._percent_tags is None:
            return
        found = self._percent_tags.referenced(chunk)
        if found is None:
            # Cells without a reference are counted.
            cells = [(n, c, _STYLE.search(m[1])) for n, c, _, m in self._cells(chunk, first)]
            found = [(n, c, style[1]) for n, c, style in cells if style]
        top, left = origin
        of_index = self._package.percent_styles
        formats = {style: of_index.get(int(style)) for style in {each[2] for each in found}}
        for number, column, style in found:
            shown = formats[style]
            row, place = number - top, column - left
            if shown is None or not (0 <= row < len(rows) and 0 <= place < len(rows[row])):
                continue
            cell = rows[row][place]
            if type(cell) is float and math.isfinite(cell) and shown.applies_to(cell):
                rows[row][place] = _percent(cell)


_MANY_STYLES = 100


class _PercentTags:
    """Finds the tags of cells in some styles, or in any style if there are many."""

    def __init__(self, prefix: bytes, styles: Collection[int]) -> None:
        few = len(styles) <= _MANY_STYLES
        tag, style = (
            re.escape(prefix),
            ("|".join(map(str, styles)) if few else "[0-9]{1,6}").encode(),
        )
        self._usual = re.compile(rb'<%bc r="([A-Z]{1,3})([0-9]{1,9})" s="(%b)"' % (tag, style))
        self._style = re.compile(rb"""s\s*=\s*["'](?:%b)["']""" % style)
        self._any = re.compile(
            rb"""<%bc(\s(?:[^<>]*?\s)?s\s*=\s*["'](%b)["'][^<>]*)>""" % (tag, style)
        )

    def referenced(self, chunk: bytes) -> list[tuple[int, int, bytes]] | None:
        """(row number, column from 0, style) of each cell; None if one has no reference.

        Nearly every writer begins a cell with its reference and its style, which takes a fraction
        of the time to find of attributes in any order. The result is complete if the chunk has no
        further attribute with one of the styles.
        """
        tags = self._usual.findall(chunk)
        if len(tags) == len(self._style.findall(chunk)):
            columns = {letters: _column(letters) for letters in {tag[0] for tag in tags}}
            return [(int(number), columns[letters], style) for letters, number, style in tags]
        found = []
        for attributes, style in self._any.findall(chunk):
            reference = _REFERENCE.search(attributes)
            if reference is None:
                return None
            found.append((int(reference[2]), _column(reference[1]), style))
        return found


@lru_cache(maxsize=4_096)
def _percent(stored: float) -> Percent:
    """A stored fraction as the percentage shown, to the 15 digits that spreadsheets keep."""
    return Percent(Decimal(format(stored, ".15g")) * 100)


def _with_special(piece: Piece, special: Mapping[tuple[int, int], Cell]) -> Piece | None:
    """The piece with these cells, in new rows and columns where needed."""
    if not special:
        return piece if piece.rows else None
    rows: dict[int, dict[int, Cell]] = {
        number: dict(enumerate(cells, piece.first_column))
        for number, cells in zip(piece.row_numbers, piece.rows, strict=True)
    }
    for (number, column), cell in special.items():
        if column >= MAX_COLUMNS:
            raise unsafe(f"has more than {MAX_COLUMNS} columns")
        rows.setdefault(number, {})[column] = cell
    width = 1 + max(max(cells, default=0) for cells in rows.values())
    numbers = sorted(rows)
    filled = [[rows[number].get(column, "") for column in range(width)] for number in numbers]
    return Piece(numbers, filled, 0)


def _column(letters: bytes) -> int:
    """The index of a column from 0: A is 0, Z 25, AA 26."""
    index = 0
    for letter in letters.upper():
        index = index * 26 + letter - 64
    return index - 1


def _text(escaped: bytes) -> str:
    text = escaped.decode("utf-8", "replace")
    return unescape(text, {"&quot;": '"', "&apos;": "'"})


def _ascending(numbers: Sequence[int]) -> bool:
    return all(map(int.__lt__, numbers, islice(numbers, 1, None)))
