"""What a list of the console is: its filters, which are those of its method, and its columns.

A filter is a query parameter, so a link shows the same list. Nothing is filtered here.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import urlencode
from zoneinfo import ZoneInfo

from starlette.datastructures import QueryParams

from credit_service.client import display
from credit_service.console import leaves
from credit_service.console.formats import MAX_INT64
from credit_service.console.page import is_request_id
from credit_service.console.service import Service

PAGE_SIZE = 50
MAX_TEXT_CHARACTERS = 100
_WHOLE = re.compile(r"[0-9]{1,19}")

Kind = Literal["text", "whole", "uuid", "choice", "choices"]


@dataclass(frozen=True, slots=True)
class Filter:
    """A field of the list method's request, as a query parameter."""

    name: str
    label: str
    kind: Kind = "text"
    enum: Any = None
    """The enum of a choice."""
    is_required: bool = False
    default: str = ""
    """What an absent parameter means."""
    least: int = 1
    """The smallest whole number."""
    omits: tuple[str, ...] = ()
    """Values of the enum that the method does not accept."""

    @property
    def choices(self) -> Mapping[str, int]:
        """The enum's numbers by name without prefix; empty unless it is a choice."""
        if self.enum is None:
            return {}
        named = {display.enum_name(each, self.enum): each for each in self.enum.values() if each}
        return {name: number for name, number in named.items() if name not in self.omits}


@dataclass(frozen=True, slots=True)
class Filters:
    """The filters of one request. Nothing is sent to the service while there are problems."""

    values: Mapping[str, list[str]]
    """Typed values by filter; filters without a value are absent."""
    problems: Mapping[str, str]
    is_complete: bool
    """Whether every required filter has a value."""

    @property
    def is_usable(self) -> bool:
        """Whether the list can be requested."""
        return self.is_complete and not self.problems

    def text(self, name: str) -> str:
        """Return the value of a filter, or ''."""
        return next(iter(self.values.get(name, ())), "")

    def whole(self, name: str) -> int:
        """Return a whole number, or 0."""
        return int(self.text(name) or 0)

    def optional_id(self, name: str) -> int | None:
        """Return an id, or None."""
        return self.whole(name) or None

    def query(self, **more: str) -> str:
        """Return the query that shows this list again."""
        given = [(name, value) for name, values in self.values.items() for value in values]
        return urlencode([*given, *((name, value) for name, value in more.items() if value)])


Read = Callable[[Service, Filters, int, str], tuple[Sequence[Any], str]]
"""Requests a page: its items, and the token of the next page or ''."""


@dataclass(frozen=True, slots=True)
class Listing:
    """A list: where it is shown, how it is filtered, and what its files contain."""

    name: str
    """Name of the page and of exported files, ASCII."""
    path: str
    title: str
    message: Any
    """Descriptor of the items."""
    columns: Sequence[str]
    """Fields of the items in exported files, as dotted paths."""
    read: Read
    filters: Sequence[Filter] = ()
    links: Mapping[str, str] = field(default_factory=dict)
    """Pages by column, with the item's fields in braces."""
    shown: Sequence[str] = ()
    """Columns of the list's page, if it has no template of its own."""
    about: str = ""
    computed: Mapping[str, Callable[[Any], str]] = field(default_factory=dict)
    """Columns that are not fields, with what they show of an item."""

    def cell(self, item: Any, column: str) -> leaves.Value:
        """Return a column of an item for a file."""
        made = self.computed.get(column)
        return leaves.cell(item, column) if made is None else made(item)

    def text(self, item: Any, column: str, zone: ZoneInfo) -> str:
        """Return a column of an item for a page."""
        made = self.computed.get(column)
        return leaves.text(item, column, zone) if made is None else made(item) or "—"

    def is_number(self, column: str) -> bool:
        """Return whether a column has amounts, rates or counts."""
        return column not in self.computed and leaves.is_number(
            leaves.field_of(self.message, column)
        )

    def filters_of(self, query: QueryParams) -> Filters:
        """Return the filters in a query, each validated as far as the types of the request go."""
        values: dict[str, list[str]] = {}
        problems: dict[str, str] = {}
        for each in self.filters:
            typed = [text.strip() for text in query.getlist(each.name)]
            typed = [text for text in typed if text] or ([each.default] if each.default else [])
            if not typed:
                continue
            values[each.name] = typed if each.kind == "choices" else typed[:1]
            problem = next((p for text in values[each.name] if (p := _problem(each, text))), "")
            if problem:
                problems[each.name] = problem
        required = [each.name for each in self.filters if each.is_required]
        return Filters(values, problems, all(name in values for name in required))

    def href(self, item: Any, column: str) -> str:
        """Return the page that an item's column links to, or ''."""
        return self.links[column].format(item) if column in self.links else ""


def _problem(each: Filter, text: str) -> str:
    if len(text) > MAX_TEXT_CHARACTERS:
        return f"At most {MAX_TEXT_CHARACTERS} characters."
    if each.enum is not None and text not in each.choices:
        return f"Not one of {', '.join(each.choices)}."
    if each.kind == "whole" and not (
        _WHOLE.fullmatch(text) and each.least <= int(text) <= MAX_INT64
    ):
        return f"Enter a whole number of {each.least} or more."
    if each.kind == "uuid" and not is_request_id(text):
        return "Enter a UUID."
    return ""
