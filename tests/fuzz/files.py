"""Hostile files: workbooks and CSV files mutated by byte, part and tag."""

import io
import random
import re
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date
from functools import cache

import openpyxl

from credit_service.v1 import ingestion_pb2
from credit_service.v1 import ingestion_service_pb2 as pb
from tests.fuzz.fields import Mutant
from tests.fuzz.values import numbered_uuid
from tests.unit.spreadsheets.workbooks import (
    A_CUSTOMER,
    A_LOAN,
    CUSTOMER_HEADERS,
    LOAN_HEADERS,
    csv_of,
    customers_workbook,
    loans_workbook,
)

Rng = random.Random
Parts = dict[str, bytes]
_CHUNK_BYTES = 1024 * 1024


@cache
def _usual_workbook() -> bytes:
    """A workbook as written by a spreadsheet program: shared strings, styles, theme, properties."""
    book = openpyxl.Workbook()
    sheet = book.worksheets[0]
    sheet.append(LOAN_HEADERS)
    for number in range(30):
        sheet.append([7, 1001 + number, *A_LOAN[2:7], date(2024, 1, 31), date(2025, 1, 31)])
    sheet.append(["seven", "#N/A", "=1+1", None, "12 %", True, "नमस्ते", "2024-01-31", ""])
    buffer = io.BytesIO()
    book.save(buffer)
    return buffer.getvalue()


@cache
def _bases() -> Mapping[str, bytes]:
    loans = [(7, 2001 + number, *A_LOAN[2:]) for number in range(20)]
    customers = [(700 + number, *A_CUSTOMER[1:4], 9_876_598_000 + number) for number in range(20)]
    customers = [(*each, 50_000, 1_800_000) for each in customers]  # type: ignore[misc]  # longer
    return {
        "usual.xlsx": _usual_workbook(),
        "loans.xlsx": loans_workbook(*loans),
        "customers.xlsx": customers_workbook(*customers),
        "loans.csv": csv_of(LOAN_HEADERS, *loans),
        "customers.csv": csv_of(CUSTOMER_HEADERS, *customers),
    }


# --- Bytes ----------------------------------------------------------------------------------------


def _flip(rng: Rng, data: bytes) -> bytes:
    turned = bytearray(data)
    for _ in range(rng.choice([1, 1, 4, 64])):
        turned[rng.randrange(len(turned))] ^= 1 << rng.randrange(8)
    return bytes(turned)


def _flip_near_the_end(rng: Rng, data: bytes) -> bytes:
    """Changes the offset of an archive's directory."""
    turned = bytearray(data)
    for _ in range(rng.choice([1, 2, 8])):
        turned[-rng.randint(1, min(len(turned), 900))] = rng.randrange(256)
    return bytes(turned)


def _cut(rng: Rng, data: bytes) -> bytes:
    return data[: rng.randint(1, len(data) - 1)]


def _insert(rng: Rng, data: bytes) -> bytes:
    place = rng.randint(0, len(data))
    return data[:place] + rng.randbytes(rng.choice([1, 4, 1000])) + data[place:]


def _prepend(rng: Rng, data: bytes) -> bytes:
    return rng.choice([b"\x00", b"\xef\xbb\xbf", b"MZ", b"PK\x03\x04", b"<html>"]) + data


def _append(rng: Rng, data: bytes) -> bytes:
    return data + rng.choice([b"PK\x05\x06" + bytes(18), b"\x00" * 70_000, data])


_BYTES: tuple[Callable[[Rng, bytes], bytes], ...] = (
    *(_flip, _flip_near_the_end, _cut, _insert, _prepend, _append),
)


# --- XML ------------------------------------------------------------------------------------------

_NUMBERS = (
    *(b"1e400", b"-1e400", b"NaN", b"INF", b"-0", b"1E-400", b"1e", b"0x10", b"12.345", b"1,5"),
    *(b"45000.5", b"2958466", b"-1", b"60", b"0", b"9" * 400, b"", b" 5 ", b"\xe0\xa5\xa7", b"1 2"),
)
_REFERENCES = (b"XFD1048576", b"XFD1048577", b"A0", b"", b"1A", b"AAAA1", b"ZZ9", b"A99999999999")
_TYPES = (b"s", b"e", b"b", b"d", b"str", b"inlineStr", b"n", b"x", b"")
_TEXTS = (b"&#0;", b"&#xD800;", b"&bomb;", b"&amp;&lt;", b"\xff\xfe", b"\xed\xa0\x80", b"=cmd|'/C'")


def _tag(rng: Rng, data: bytes) -> re.Match[bytes] | None:
    tags = list(re.finditer(rb"<[^>]*>", data))
    return rng.choice(tags) if tags else None


def _drop_tag(rng: Rng, data: bytes) -> bytes:
    tag = _tag(rng, data)
    return data if tag is None else data[: tag.start()] + data[tag.end() :]


def _repeat_tag(rng: Rng, data: bytes) -> bytes:
    tag = _tag(rng, data)
    if tag is None:
        return data
    return data[: tag.end()] + tag[0] * rng.choice([1, 100, 50_000]) + data[tag.end() :]


def _replaced(rng: Rng, data: bytes, pattern: bytes, made: bytes) -> bytes:
    found = list(re.finditer(pattern, data))
    for match in rng.sample(found, min(len(found), rng.choice([1, 1, 5]))):
        # Offsets shift slightly, which does not matter.
        data = data[: match.start(1)] + made + data[match.end(1) :]
    return data


def _attribute(rng: Rng, data: bytes) -> bytes:
    return _replaced(rng, data, rb'="([^"]*)"', rng.choice([*_NUMBERS, *_REFERENCES, *_TEXTS]))


def _value(rng: Rng, data: bytes) -> bytes:
    return _replaced(rng, data, rb"<v>([^<]*)", rng.choice([*_NUMBERS, *_TEXTS]))


def _text(rng: Rng, data: bytes) -> bytes:
    return _replaced(rng, data, rb"<t>([^<]*)", rng.choice([*_TEXTS, b"A" * 100_000, b""]))


def _reference(rng: Rng, data: bytes) -> bytes:
    return _replaced(rng, data, rb'\br="([^"]*)"', rng.choice(_REFERENCES))


def _type(rng: Rng, data: bytes) -> bytes:
    return _replaced(rng, data, rb"<c( )", b' t="' + rng.choice(_TYPES) + b'" ')


def _style(rng: Rng, data: bytes) -> bytes:
    return _replaced(rng, data, rb'\bs="([^"]*)"', rng.choice([b"99999", b"-1", b"x", b"14"]))


def _document_type(rng: Rng, data: bytes) -> bytes:
    entities = b"".join(
        b'<!ENTITY e%d "%s">' % (n, b"&e%d;" % (n - 1) * 10 if n else b"bomb") for n in range(9)
    )
    kind = rng.choice([entities, b'<!ENTITY e8 SYSTEM "file:///etc/passwd">'])
    declared = b"<!DOCTYPE x [" + kind + b"]>"
    head = data.find(b"?>") + 2 if data.startswith(b"<?xml") else 0
    return data[:head] + declared + data[head:].replace(b"<v>", b"<v>&e8;", 1)


def _interruption(rng: Rng, data: bytes) -> bytes:
    tag = _tag(rng, data)
    place = len(data) if tag is None else tag.end()
    put = rng.choice([b"<!-- <row> -->", b"<?php ?>", b"<![CDATA[</sheetData>]]>", b"<!--", b"]]>"])
    return data[:place] + put + data[place:]


def _nest(rng: Rng, data: bytes) -> bytes:
    tag = _tag(rng, data)
    place = len(data) if tag is None else tag.end()
    return data[:place] + b"<a>" * rng.choice([100, 100_000]) + data[place:]


def _other_encoding(rng: Rng, data: bytes) -> bytes:
    text = data.decode("utf-8", "replace")
    return rng.choice(
        [
            text.encode("utf-16"),
            text.encode("utf-32"),
            data.replace(b"UTF-8", b"UTF-7").replace(b"utf-8", b"no-such"),
            text.encode("utf-16-le"),
        ]
    )


def _prefix(_rng: Rng, data: bytes) -> bytes:
    data = re.sub(rb"<(/?)(\w)", rb"<\1x:\2", data)
    return data.replace(b"xmlns=", b"xmlns:x=")


_XML: tuple[Callable[[Rng, bytes], bytes], ...] = (
    *(_flip, _cut, _drop_tag, _repeat_tag, _attribute, _attribute, _value, _value, _text),
    *(_reference, _type, _type, _style, _document_type, _interruption, _nest, _other_encoding),
    _prefix,
)


def _parts_of(data: bytes) -> Parts:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def _zipped(rng: Rng, parts: Parts) -> bytes:
    """The parts as an archive, which may be malformed itself."""
    buffer = io.BytesIO()
    method = rng.choice([zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED, zipfile.ZIP_BZIP2])
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def _change_parts(rng: Rng, data: bytes) -> tuple[bytes, str]:
    parts = _parts_of(data)
    done = []
    for _ in range(rng.choice([1, 1, 2, 3])):
        # Mostly the sheet, which is the largest part and is mostly read by our own code.
        sheets = [name for name in parts if "sheet" in name.lower() and name.endswith(".xml")]
        name = rng.choice(sheets) if sheets and rng.random() < 0.6 else rng.choice(list(parts))
        what = rng.random()
        if what < 0.04:
            del parts[name]
            done.append(f"no {name}")
        elif what < 0.08:
            odd = rng.choice(["../", "/", "\\", "A" * 300 + "/", "a\x00"]) + name
            parts[odd] = parts.pop(name) if rng.random() < 0.5 else parts[name]
            done.append(f"{name} as {odd[:20]!r}")
        elif what < 0.11:
            parts[name] = b"" if rng.random() < 0.5 else bytes(rng.choice([2, 3_000_000]))
            done.append(f"{name} of zeros")
        else:
            change = rng.choice(_XML)
            parts[name] = change(rng, parts[name] or b" " * 8)
            done.append(f"{change.__name__.strip('_')} of {name}")
        if not parts:
            break
    return _zipped(rng, parts), ", ".join(done)


# --- CSV ------------------------------------------------------------------------------------------


def _in_a_line(rng: Rng, data: bytes) -> bytes:
    lines = data.split(b"\r\n")
    place = rng.randrange(len(lines))
    put = rng.choice(
        [
            *(b"\x00", b'"', b'""', b'"\n', b"'", b"\r", b"\n\n\n", b"," * 2_000, b";" * 30, b"\t"),
            *(b"\xff\xfe", b"\xc3", b"\xed\xa0\x80", b"\xe2\x80\xa8", b"A" * 200_000, b"=1+1,"),
            *(b"\x1a", b"\x0c", b"\x85", b"@SUM(1)", b'"' + b"x" * 140_000 + b'"'),
        ]
    )
    cut = rng.randint(0, len(lines[place]))
    lines[place] = lines[place][:cut] + put + lines[place][cut:]
    return b"\r\n".join(lines)


def _other_text(rng: Rng, data: bytes) -> bytes:
    text = data.decode()
    return rng.choice(
        [
            text.encode("utf-16"),
            text.replace("Rao", "Räo").encode("latin-1"),
            text.replace("\r\n", "\r").encode(),
            text.replace(",", ";").encode(),
            text.replace(",", "\t", 5).encode(),
            (text.splitlines()[0] + "\n" + text).encode(),
            "\n".join(text.splitlines()[1:]).encode(),
            text.splitlines()[0].encode(),
            b"\n" * 100_000 + data,
            b" ",
        ]
    )


_CSV: tuple[Callable[[Rng, bytes], bytes], ...] = (
    *(_in_a_line, _in_a_line, _in_a_line, _other_text, _flip, _cut, _insert),
)


@dataclass(frozen=True, slots=True)
class FileMutants:
    """Mutants by number: uploads."""

    seed: int

    def make(self, number: int) -> Mutant:
        """The mutant with a number."""
        rng = random.Random(f"{self.seed}/files/{number}")  # noqa: S311 - a repeatable choice
        name = rng.choice(sorted(_bases()))
        data, what = _hostile(rng, name, _bases()[name])
        filename = name if rng.random() < 0.95 else rng.choice(["x", "x.csv", "x.xlsx", "x.xlsm"])
        loans = name != "customers.xlsx" and name != "customers.csv"
        header = pb.UploadSpreadsheetHeader(
            ingestion_id=numbered_uuid(self.seed, "files", number),
            kind=(
                ingestion_pb2.INGESTION_KIND_LOANS
                if loans
                else ingestion_pb2.INGESTION_KIND_CUSTOMERS
            ),
            filename=filename,
            validate_only=rng.random() < 0.3,
        )
        messages = [pb.UploadSpreadsheetRequest(header=header)]
        messages += [
            pb.UploadSpreadsheetRequest(chunk=data[place : place + _CHUNK_BYTES])
            for place in range(0, len(data), _CHUNK_BYTES)
        ]
        return Mutant(
            "UploadSpreadsheet",
            tuple(message.SerializeToString() for message in messages),
            f"{name} as {filename}: {what}",
        )


def _hostile(rng: Rng, name: str, data: bytes) -> tuple[bytes, str]:
    if name.endswith(".csv"):
        change = rng.choice(_CSV)
        return change(rng, data), change.__name__.strip("_")
    if rng.random() < 0.2:
        change = rng.choice(_BYTES)
        return change(rng, data), change.__name__.strip("_")
    return _change_parts(rng, data)
