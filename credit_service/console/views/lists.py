"""The pages of lists, and their export as files."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from itertools import chain
from typing import IO, Any

from starlette.exceptions import HTTPException
from starlette.responses import Response, StreamingResponse

from credit_service.console import exports, lists
from credit_service.console.listing import PAGE_SIZE, Filters, Listing
from credit_service.console.page import Page, View
from credit_service.console.service import CHUNK_BYTES
from credit_service.spreadsheets import templates


@dataclass(frozen=True, slots=True)
class Shown:
    """A page of a list, for templates."""

    listing: Listing
    filters: Filters
    items: Sequence[Any]
    next_href: str
    first_href: str
    first_page: bool
    max_rows: int = exports.MAX_ROWS

    def export_href(self, suffix: str) -> str:
        """Return the address of the whole list as a file."""
        return f"/qa/exports/{self.listing.name}.{suffix}?{self.filters.query()}"

    @property
    def is_filtered(self) -> bool:
        """Whether a filter differs from what an address without a query shows."""
        defaults = {each.name: [each.default] for each in self.listing.filters if each.default}
        return self.filters.values != defaults

    @property
    def status(self) -> int:
        """The HTTP status of the page."""
        return HTTPStatus.BAD_REQUEST if self.filters.problems else HTTPStatus.OK


def shown(page: Page, listing: Listing, page_size: int = PAGE_SIZE) -> Shown:
    """Request the page of the list that the address names. Raises ServiceError."""
    filters = listing.filters_of(page.request.query_params)
    token = page.query.get("page_token", "")
    items: Sequence[Any] = ()
    next_token = ""
    if filters.is_usable:
        items, next_token = listing.read(page.service, filters, page_size, token)
    path = listing.path
    return Shown(
        listing,
        filters,
        items,
        f"{path}?{filters.query(page_token=next_token)}" if next_token else "",
        f"{path}?{filters.query()}",
        not token,
    )


def index_of(listing: Listing) -> View:
    """Return the page of a list that has no template of its own."""

    def index(page: Page) -> Response:
        found = shown(page, listing)
        return page.render("list.html", found.status, list=found)

    index.__name__ = index.__qualname__ = f"index_of_{listing.name.replace('-', '_')}"
    return index


def export(page: Page) -> Response:
    """A list as a CSV file or a workbook, with the filters of the address."""
    name, _, suffix = str(page.request.path_params["file"]).rpartition(".")
    listing = lists.BY_NAME.get(name)
    if listing is None or suffix not in ("csv", "xlsx"):
        raise HTTPException(HTTPStatus.NOT_FOUND, "This list does not exist.")
    filters = listing.filters_of(page.request.query_params)
    if not filters.is_usable:
        problems = [f"{name}: {text}" for name, text in filters.problems.items()]
        raise HTTPException(
            HTTPStatus.BAD_REQUEST, " ".join(problems) or "A required filter is missing."
        )
    rows = exports.rows(page.service, listing, filters)
    # The first page of the list is requested here, so that an error gets a page.
    header, first = next(rows), next(rows, None)
    rows = chain([header], [] if first is None else [first], rows)
    if suffix == "csv":
        return _sent(exports.csv_chunks(rows), "text/csv; charset=utf-8", listing.name, suffix)
    file = exports.workbook(rows, listing.title)
    return _sent(_chunks(file), templates.CONTENT_TYPE, listing.name, suffix)


def _sent(chunks: Iterator[bytes], content_type: str, name: str, suffix: str) -> Response:
    headers = {"content-disposition": f'attachment; filename="{name}.{suffix}"'}
    return StreamingResponse(chunks, media_type=content_type, headers=headers)


def _chunks(file: IO[bytes]) -> Iterator[bytes]:
    with file:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk
