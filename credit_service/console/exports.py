"""Lists as files: CSV that is sent page by page, and a workbook.

A file has at most MAX_ROWS rows, and its last line says so if there are more.
"""

import csv
import io
import tempfile
from collections.abc import Iterator
from decimal import Decimal
from typing import IO

from credit_service.client.csv_cells import neutralised
from credit_service.console.leaves import Value
from credit_service.console.listing import Filters, Listing
from credit_service.console.service import Service

MAX_ROWS = 10_000
_PAGE_SIZE = 1_000
_MEMORY_BYTES = 1024 * 1024


def left_out(listing: Listing) -> str:
    """Return the last line of a file that does not contain the whole list."""
    return (
        f"Incomplete: only the first {MAX_ROWS:,} rows of {listing.title.lower()} are in this "
        "file. Use filters to export the others."
    )


def rows(service: Service, listing: Listing, filters: Filters) -> Iterator[list[Value]]:
    """Yield the header and each row of the list, at most MAX_ROWS, page by page.

    Raises ServiceError.
    """
    yield [column.replace(".", "_") for column in listing.columns]
    token, count = "", 0
    while True:
        items, token = listing.read(service, filters, _PAGE_SIZE, token)
        for item in items[: MAX_ROWS - count]:
            yield [listing.cell(item, column) for column in listing.columns]
        count += len(items)
        if count > MAX_ROWS or (count == MAX_ROWS and token):
            yield [left_out(listing)]
            return
        if not token:
            return


def csv_chunks(found: Iterator[list[Value]]) -> Iterator[bytes]:
    """Yield a CSV file in UTF-8 in which a spreadsheet program treats no cell as a formula."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\r\n")
    for number, row in enumerate(found, 1):
        writer.writerow([_text(value) for value in row])
        if number % _PAGE_SIZE == 0:
            yield out.getvalue().encode()
            out.seek(0)
            out.truncate()
    yield out.getvalue().encode()


def _text(value: Value) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Decimal):
        return format(value, "f")
    return neutralised(value) if isinstance(value, str) else str(value)


def workbook(found: Iterator[list[Value]], title: str) -> IO[bytes]:
    """Return the rows as a workbook, open at its start. Text is never a formula in it."""
    # Importing openpyxl takes 0.3 s, which the start of the console saves.
    from credit_service.spreadsheets.workbook_writer import write_table  # noqa: PLC0415

    file = tempfile.SpooledTemporaryFile(_MEMORY_BYTES)  # noqa: SIM115 - returned to the caller
    try:
        header = next(found)
        write_table(file, header, found, title)
    except BaseException:
        file.close()
        raise
    file.seek(0)
    return file
