"""The package of a workbook: a zip archive that is checked before any part is read.

Workbooks are treated as hostile: entries, inflated bytes, ratios and kinds of parts are limited,
and no document type reaches a parser.
"""

import codecs
import io
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import BinaryIO
from xml.etree import ElementTree as ET

from credit_service.spreadsheets.number_formats import (
    PercentFormat,
    percent_styles,
    without_misleading_formats,
)
from credit_service.spreadsheets.table import SpreadsheetError

MAX_ENTRIES = 2_000
"""Most files inside a workbook."""
MAX_INFLATED_BYTES = 2 * 1024**3
"""Most bytes that a workbook's parts may inflate to, all together."""
MAX_RATIO = 200
"""Most bytes that a byte of a workbook may inflate to, in parts of 1 MiB and more."""
MAX_SHEETS = 50
"""Sheets of a workbook that are searched for a header."""

_MAX_DIRECTORY_BYTES = 1024**2
_MAX_PART_BYTES = 16 * 1024**2
MAX_SHARED_STRINGS_BYTES = 192 * 1024**2


# --- Workbooks ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Package:
    """The parts of a workbook that reading any of its sheets needs."""

    archive: zipfile.ZipFile
    names: Mapping[str, zipfile.ZipInfo]
    # (name, part) of the visible sheets, in order, and of the hidden ones, which are not read.
    sheets: Sequence[tuple[str, str]]
    hidden_sheets: Sequence[tuple[str, str]]
    constant_parts: Mapping[str, bytes]
    shared_strings: str | None
    percent_styles: Mapping[int, PercentFormat]
    # The texts of `shared_strings`, loaded when a sheet needs them.
    strings: list[str] = field(default_factory=list)


def check_directory(file: BinaryIO) -> None:
    """Reject an unsafe archive by its directory, before anything is inflated."""
    size = file.seek(0, io.SEEK_END)
    file.seek(max(0, size - 65_557))
    tail = file.read()
    end = tail.rfind(b"PK\x05\x06")
    if end < 0 or len(tail) < end + 22:
        raise _cut_short()
    entries, directory_bytes = struct.unpack_from("<HL", tail, end + 10)
    if tail[max(end - 20, 0) : end].startswith(b"PK\x06\x07"):
        entries, directory_bytes = _numbers_of_64_bits(tail, end, size)
    # The number may be false, and zipfile ignores it: the bytes limit the entries.
    if directory_bytes > _MAX_DIRECTORY_BYTES:
        raise unsafe(f"has a directory of {directory_bytes:,} bytes")
    if entries > MAX_ENTRIES:
        raise unsafe(f"has {entries} parts; at most {MAX_ENTRIES} are read")
    with _archive(file) as archive:
        infos = archive.infolist()
    _check_parts(infos, size)
    names = {_part_name(info) for info in infos}
    for part, what in _FOREIGN_PARTS.items():
        if part in names:
            raise SpreadsheetError(
                "FORMAT_UNSUPPORTED",
                f"The file is {what}; open it in its program and save it as .xlsx.",
            )
    if "[content_types].xml" not in names or "_rels/.rels" not in names:
        raise SpreadsheetError("FORMAT_UNSUPPORTED", "The file is not an .xlsx workbook.")
    if any(name.endswith(("/vbaproject.bin", "/workbook.bin")) for name in names):
        raise SpreadsheetError(
            "FORMAT_UNSUPPORTED",
            "The file is an .xlsm or .xlsb workbook; save it as .xlsx, without macros.",
        )


MAX_LOADED_BYTES = 64 * 1024**2
"""Most bytes of all parts of a workbook that openpyxl loads whole."""


def can_be_loaded_whole(file: BinaryIO, max_cells: int) -> bool:
    """Whether openpyxl may load a workbook that passed `check_directory`: it is small, and has
    no document type, no unusual encoding, and no range that openpyxl would fill with cells."""
    file.seek(0)
    with _archive(file) as archive, reading():
        infos = archive.infolist()
        if sum(info.file_size for info in infos) > MAX_LOADED_BYTES:
            return False
        cells = 0
        for info in infos:
            if not _part_name(info).endswith((".xml", ".rels", ".vml")):
                continue
            content = archive.read(info)
            declared = _ENCODING.match(content.removeprefix(codecs.BOM_UTF8))
            is_usual = declared is None or declared[1].lower() in _KNOWN_ENCODINGS
            if not is_usual or b"\x00" in content or b"<!" in content.replace(b"<!--", b""):
                return False
            cells += len(_CELL_TAG.findall(content))
            cells += sum(_cells_of_range(*match) for match in _FILLED_RANGE.findall(content))
            if cells > max_cells:
                return False
    return True


_CELL_TAG = re.compile(rb"<(?:[A-Za-z_][\w.-]*:)?c[\s/>]")
_FILLED_RANGE = re.compile(
    rb"""<(?:[A-Za-z_][\w.-]*:)?(?:mergeCell|hyperlink)\s[^>]*?\bref\s*=\s*"""
    rb"""["']\$?([A-Z]*)\$?([0-9]*):\$?([A-Z]*)\$?([0-9]*)["']""",
    re.IGNORECASE,
)


def _cells_of_range(left: bytes, top: bytes, right: bytes, bottom: bytes) -> int:
    width = _index(right, 2**14) - _index(left, 1) + 1
    return max(width, 1) * max(int(bottom or 2**20) - int(top or 1) + 1, 1)


def _index(letters: bytes, otherwise: int) -> int:
    index = 0
    for letter in letters.upper():
        index = index * 26 + letter - 64
    return index or otherwise


_FOREIGN_PARTS = {
    "index/document.iwa": "a Numbers document",
    "word/document.xml": "a text document (.docx)",
    "meta-inf/manifest.xml": "an OpenDocument or Java archive (.ods, .odt, .jar)",
}


def _numbers_of_64_bits(tail: bytes, end: int, size: int) -> tuple[int, int]:
    """Entries and bytes of a directory, from the 64-bit record before the usual one at `end`.

    The record must be directly before its locator, where every reader looks for it, and the usual
    record must not contradict it.
    """
    record = end - 20 - 56
    if record < 0 or not tail[record:].startswith(b"PK\x06\x06"):
        raise unsafe("is an archive of 64 bits with its directory in an unusual place")
    length, _, _, disk, first_disk, on_disk, entries, directory_bytes, directory = (
        struct.unpack_from("<QHHIIQQQQ", tail, record + 4)
    )
    _, locator_disk, stated_record, disks = struct.unpack_from("<4sLQL", tail, end - 20)
    usual_entries, usual_bytes, usual_directory = struct.unpack_from("<HLL", tail, end + 10)
    record += size - len(tail)
    agreed = (
        length == 44
        and (disk, first_disk, locator_disk, disks) == (0, 0, 0, 1)
        and stated_record == record
        and on_disk == entries
        # The directory ends where the record begins.
        and directory + directory_bytes == record
        and usual_entries in (entries, 0xFFFF)
        and usual_bytes in (directory_bytes, 0xFFFFFFFF)
        and usual_directory in (directory, 0xFFFFFFFF)
    )
    if not agreed:
        raise unsafe("is an archive of 64 bits whose records contradict each other")
    return entries, directory_bytes


def _check_parts(infos: Sequence[zipfile.ZipInfo], archive_bytes: int) -> None:
    """Reject an unsafe archive by the directory entries of its parts."""
    if len(infos) > MAX_ENTRIES:
        raise unsafe(f"has {len(infos)} parts; at most {MAX_ENTRIES} are read")
    if sum(info.file_size for info in infos) > MAX_INFLATED_BYTES:
        raise unsafe(f"inflates to more than {MAX_INFLATED_BYTES:,} bytes")
    # Parts that share bytes inflate a small file, each at a harmless ratio.
    if sum(info.compress_size for info in infos) > archive_bytes:
        raise unsafe("has parts that are larger than the file, or that overlap")
    for info in infos:
        if info.flag_bits & 1:
            raise SpreadsheetError(
                "FILE_UNREADABLE", "The workbook has a password; save it without."
            )
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise SpreadsheetError(
                "FILE_UNREADABLE",
                "The workbook uses an unusual compression method; save it again as .xlsx.",
            )
        if info.file_size > 1024**2 and info.file_size > MAX_RATIO * max(info.compress_size, 1):
            raise unsafe(f"inflates more than {MAX_RATIO} times")


def unsafe(what: str) -> SpreadsheetError:
    return SpreadsheetError("FILE_UNSAFE", f"The workbook {what}.")


def _cut_short() -> SpreadsheetError:
    return SpreadsheetError("FILE_UNREADABLE", "The workbook is cut short or damaged.")


def _archive(file: BinaryIO) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(file)
    except (
        zipfile.BadZipFile,
        NotImplementedError,
        OverflowError,
        ValueError,
        struct.error,
    ) as error:
        raise _cut_short() from error


def _part_name(info: zipfile.ZipInfo) -> str:
    return info.filename.replace("\\", "/").lstrip("/").lower()


def _read_part(
    archive: zipfile.ZipFile, info: zipfile.ZipInfo | None, most_bytes: int = _MAX_PART_BYTES
) -> bytes:
    if info is None:
        return b""
    if info.file_size > most_bytes:
        raise unsafe(f"has a part of {info.file_size:,} bytes; at most {most_bytes:,} are read")
    with reading():
        return archive.read(info)


_DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    NotImplementedError,
    RuntimeError,
    struct.error,
    OSError,
    OverflowError,
    ValueError,
)
"""What zipfile raises for damaged archives."""


@contextmanager
def reading() -> Iterator[None]:
    """Turn the exceptions of damaged archives into a message for a person."""
    try:
        yield
    except _DAMAGE as error:
        raise SpreadsheetError("FILE_UNREADABLE", "The workbook is damaged.") from error


MAIN_NAMESPACE = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
_RELATIONS = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
_PACKAGE_RELATIONS = "http://schemas.openxmlformats.org/package/2006/relationships"
_DECLARATION = '<?xml version="1.0" encoding="UTF-8" standalone="yes"?>'
_PIECE_WORKBOOK = (
    f'{_DECLARATION}<workbook xmlns="{MAIN_NAMESPACE}" xmlns:r="{_RELATIONS}">'
    '<workbookPr date1904="{date1904}"/>'
    '<sheets><sheet name="Sheet1" sheetId="1" r:id="rId1"/></sheets></workbook>'
)


def open_package(file: BinaryIO) -> Package:
    archive = _archive(file)
    names = {_part_name(info): info for info in archive.infolist()}

    def part(name: str) -> zipfile.ZipInfo | None:
        return names.get(name.lower())

    workbook = _targets(archive, part("_rels/.rels"), "").get("officedocument", [("", "")])[0][1]
    if part(workbook) is None or not workbook.lower().endswith(".xml"):
        raise SpreadsheetError("FORMAT_UNSUPPORTED", "The file is not an .xlsx workbook.")
    folder, _, name = workbook.rpartition("/")
    targets = _targets(archive, part(f"{folder}/_rels/{name}.rels"), folder)
    by_id = dict(targets.get("worksheet", []))
    root = _xml(_read_part(archive, part(workbook)))
    if root.tag.rpartition("}")[2] != "workbook":
        raise SpreadsheetError("FORMAT_UNSUPPORTED", "The file is not an .xlsx workbook.")
    sheets: list[tuple[str, str]] = []
    hidden: list[tuple[str, str]] = []
    for element in root.iterfind(".//{*}sheets/{*}sheet"):
        identity = next((v for k, v in element.attrib.items() if k.endswith("}id")), "")
        if part(by_id.get(identity, "")):
            visible = element.get("state", "visible") == "visible"
            (sheets if visible else hidden).append(
                (element.get("name") or "Sheet", by_id[identity])
            )
    properties = root.find(".//{*}workbookPr")
    date1904 = properties is not None and properties.get("date1904") in ("1", "true")
    styles, shared = (targets.get(each, [("", "")])[0][1] for each in ("styles", "sharedstrings"))
    relations = [("worksheet", "worksheets/sheet1.xml")]
    constant = {
        "xl/workbook.xml": _PIECE_WORKBOOK.format(date1904=int(date1904)).encode(),
        "_rels/.rels": piece_relations([("officeDocument", "xl/workbook.xml")]),
    }
    content = _read_part(archive, part(styles))
    percents: dict[int, PercentFormat] = {}
    if content:
        root = _xml(content)
        percents = percent_styles(root)
        relations.append(("styles", "styles.xml"))
        constant["xl/styles.xml"] = without_misleading_formats(root) or content
    constant["xl/_rels/workbook.xml.rels"] = piece_relations(relations)
    strings = shared if part(shared) else None
    return Package(
        archive,
        names,
        sheets[:MAX_SHEETS],
        hidden[:MAX_SHEETS],
        constant,
        strings,
        percents,
    )


def piece_relations(relations: Sequence[tuple[str, str]]) -> bytes:
    elements = "".join(
        f'<Relationship Id="rId{number}" Type="{_RELATIONS}/{relation}" Target="{target}"/>'
        for number, (relation, target) in enumerate(relations, 1)
    )
    return (
        f'{_DECLARATION}<Relationships xmlns="{_PACKAGE_RELATIONS}">{elements}</Relationships>'
    ).encode()


def _targets(
    archive: zipfile.ZipFile, info: zipfile.ZipInfo | None, folder: str
) -> dict[str, list[tuple[str, str]]]:
    """(id, part name) of each relation, by the last word of its type in lower case."""
    content = _read_part(archive, info)
    found: dict[str, list[tuple[str, str]]] = {}
    for element in _xml(content).iterfind("{*}Relationship") if content else ():
        if element.get("TargetMode") == "External":
            continue
        target = element.get("Target", "").replace("\\", "/")
        name = target.lstrip("/") if target.startswith("/") or not folder else f"{folder}/{target}"
        word = element.get("Type", "").rpartition("/")[2].lower()
        found.setdefault(word, []).append((element.get("Id", ""), _resolved(name)))
    return found


def _resolved(name: str) -> str:
    parts: list[str] = []
    for part in name.split("/"):
        if part == "..":
            del parts[-1:]
        elif part not in ("", "."):
            parts.append(part)
    return "/".join(parts)


_ENCODING = re.compile(rb"""^\s*<\?xml\s[^>]*?\bencoding\s*=\s*["']([^"'>]*)""")
# The encodings built into the parser. Any other needs a module, which a sandboxed process cannot
# load, and the format allows no other.
_KNOWN_ENCODINGS = frozenset({b"utf-8", b"utf8", b"us-ascii", b"iso-8859-1"})


def _xml(content: bytes) -> ET.Element:
    declared = _ENCODING.match(content.removeprefix(codecs.BOM_UTF8))
    # A zero byte means UTF-16, which would hide a document type from the next check.
    if b"\x00" in content or (declared and declared[1].lower() not in _KNOWN_ENCODINGS):
        raise unusual("is not written in UTF-8")
    if b"<!" in content.replace(b"<!--", b""):
        raise unsafe("has a document type of its own")
    try:
        return ET.fromstring(content)  # noqa: S314 - no document type, so no entities
    except (ET.ParseError, ValueError, LookupError, OSError) as error:
        raise SpreadsheetError("FILE_UNREADABLE", "The workbook is damaged.") from error


def unusual(what: str) -> SpreadsheetError:
    return SpreadsheetError(
        "FILE_UNREADABLE",
        f"The workbook {what}; open it in a spreadsheet program and save it again as .xlsx.",
    )
