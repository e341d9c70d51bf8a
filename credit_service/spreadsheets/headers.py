"""How the headers of a file are matched to the columns of customers and loans.

The client, which streams the rows of a file, and the service, which reads uploaded ones, share it.
"""

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from credit_service.spreadsheets.columns import (
    BY_FIELD,
    COLUMNS,
    TABLES,
    Column,
    Kind,
    TableKind,
    Unit,
)

MAX_IGNORED = 50
"""Most ignored columns that an answer names."""
MAX_HEADER_CHARS = 100
"""Longest header in an answer; the rest is cut."""
SUMMARY_TITLE = "Ingestion summary"
"""The first cell of the summary sheet of an annotated workbook. A sheet whose first row holds only
this is ignored, so that the corrected workbook can be sent again."""
REASONS_HEADER = "Rejected because"
"""The header of the column of reasons in an annotated workbook, which is ignored like any other
unknown column."""


class ColumnsError(ValueError):
    """The headers do not identify the columns. The message says what to correct."""


class MissingColumnError(ColumnsError):
    """A required column is missing."""


class AmbiguousColumnError(ColumnsError):
    """Two headers stand for the same column."""


class UnitError(ColumnsError):
    """A header names another unit than its column has, such as lakhs for rupees."""


def normalized(header: object) -> str:
    """The letters and digits of a header, without case: what headers are matched by."""
    return "".join(char for char in str(header).casefold() if char.isalnum())


# --- Units ----------------------------------------------------------------------------------------

_SPELLED = (
    # Signs and abbreviations, before punctuation goes. An apostrophe before zeros means thousands.
    (re.compile(r"\bp\s*\.?\s*a\b\.?"), " perannum "),
    (re.compile(r"\bp\s*\.?\s*m\b\.?"), " permonth "),
    (re.compile(r"['\u2019`]\s*000s?\b|\b000s?\b"), " thousand "),
    (re.compile(r"/-"), " "),
    (re.compile(r"\bper\b|/"), " per "),
    (re.compile(r"₹|\u20a8"), " inr "),
    (re.compile(r"%"), " percent "),
    (re.compile(r"\$"), " dollars "),
    (re.compile("€"), " euros "),
    (re.compile("£"), " pounds "),
)
_CAMEL_CASE = re.compile(r"(?<=[a-z])(?=[A-Z])")
_WORD = re.compile(r"[^\W_]+")
_NEUTRAL = frozenset({"in", "the", "per", "unit", "units", "required", "mandatory", "optional"})
"""Words beside a column's name or unit that change nothing."""
_RUPEES = frozenset({"inr", "rs", "re", "rupee", "rupees", "indian"})
_A_MONTH = frozenset({"per", "a", "month", "monthly", "permonth"})
_A_YEAR = frozenset({"per", "a", "year", "yearly", "annum", "annual", "annually", "perannum"})
_DAY_PATTERN = frozenset({"d", "dd", "m", "mm", "mmm", "mon", "y", "yy", "yyyy", "format", "iso"})
_UNIT_WORDS: Mapping[Unit, frozenset[str]] = {
    "": frozenset(),
    "RUPEES": _RUPEES,
    "RUPEES_A_MONTH": _RUPEES | _A_MONTH,
    "PERCENT_A_YEAR": frozenset({"percent", "percentage", "pct"}) | _A_YEAR,
    "MONTHS": frozenset({"month", "months", "mth", "mths", "mo", "mos", "no", "number", "of"}),
    "YEARS": frozenset({"year", "years", "yr", "yrs", "completed"}),
    "COUNT": frozenset({"count", "number", "no", "nos", "of"}),
    "DAY": _DAY_PATTERN,
}
"""The words that a unit of each kind is made of: "in Rs.", "₹/month", "% p.a."."""
_UNIT_NAMES: Mapping[Unit, str] = {
    "RUPEES": "rupees",
    "RUPEES_A_MONTH": "rupees a month",
    "PERCENT_A_YEAR": "percent a year",
    "MONTHS": "months",
    "YEARS": "years",
    "COUNT": "a plain number",
}
_MULTIPLES = frozenset(
    {
        *("lakh", "lakhs", "lac", "lacs", "crore", "crores", "cr", "thousand", "thousands", "k"),
        *("million", "millions", "mn", "mio", "billion", "billions", "bn", "hundred", "hundreds"),
    }
)
_CURRENCIES = frozenset(
    {
        *("usd", "dollar", "dollars", "eur", "euro", "euros", "gbp", "pound", "pounds", "aed"),
        *("sgd", "jpy", "yen", "npr", "lkr", "bdt", "pkr", "paise", "paisa"),
    }
)
_SPANS = frozenset(
    {
        *("day", "days", "week", "weeks", "fortnight", "fortnights", "month", "months", "quarter"),
        *("quarters", "quarterly", "half", "year", "years", "yr", "yrs", "annum", "annual"),
        *("annually", "yearly", "monthly", "weekly", "daily", "perannum", "permonth", "mths"),
        *("lpa", "ctc"),
    }
)
_FRACTIONS = frozenset({"bps", "bp", "basis", "points", "fraction", "decimal", "flat"})
_OF_NO_UNIT = _DAY_PATTERN | {"a", "per", "of", "no", "nos", "number", "count", "completed", "re"}
_ANY_UNIT = (
    frozenset().union(*_UNIT_WORDS.values(), _MULTIPLES, _CURRENCIES, _SPANS, _FRACTIONS)
    - _OF_NO_UNIT
)
"""Words of units. A word of another unit than the column's is an error, and never ignored."""


def _words(header: object) -> tuple[str, ...]:
    """The words of a header in lower case, with signs and abbreviations spelled out."""
    text = unicodedata.normalize("NFKC", str(header)[:_MAX_WORDS_CHARS])
    text = _CAMEL_CASE.sub(" ", text).casefold()
    for pattern, spelled in _SPELLED:
        text = pattern.sub(spelled, text)
    return tuple(_WORD.findall(text))


_MAX_WORDS_CHARS = 200
_NAMES: Mapping[TableKind, Mapping[str, tuple[Column, bool]]] = {
    kind: {
        name: (column, first_choice)
        for column in columns
        for names, first_choice in (
            (column.second_choice, False),
            ((column.field, *column.headers), True),
        )
        # Both as written and with signs spelled out.
        for header in names
        for name in (normalized(header), "".join(_words(header)))
    }
    for kind, columns in TABLES.items()
}


@dataclass(frozen=True, slots=True)
class _Meaning:
    """The meaning of a header: its column, whether the unit is the column's, and whether it is a
    first choice."""

    column: Column
    unit_fits: bool
    first_choice: bool


@lru_cache(maxsize=4_096)
def _meaning_of_words(kind: TableKind, words: tuple[str, ...]) -> _Meaning | None:
    names = _NAMES[kind]
    for length in range(len(words), 0, -1):
        named = names.get("".join(words[:length]))
        if named is None:
            continue
        column, first_choice = named
        rest = [word for word in words[length:] if word not in _NEUTRAL]
        if all(word in _UNIT_WORDS[column.unit] for word in rest):
            return _Meaning(column, unit_fits=True, first_choice=first_choice)
        # "Loan Amount (in lakhs)" is the column, "Loan Amount Band" another one.
        if column.unit and not _ANY_UNIT.isdisjoint(set(rest) - _UNIT_WORDS[column.unit]):
            return _Meaning(column, unit_fits=False, first_choice=first_choice)
    return None


def _meaning(kind: TableKind, header: object) -> _Meaning | None:
    named = _NAMES[kind].get(normalized(header)) if _has_no_sign(header) else None
    if named is not None:
        return _Meaning(named[0], unit_fits=True, first_choice=named[1])
    return _meaning_of_words(kind, _words(header))


def _has_no_sign(header: object) -> bool:
    """Whether letters and digits alone keep the meaning of the header."""
    return not any(sign in str(header) for sign in "%$€£₹/'\u2019")


@dataclass(frozen=True, slots=True)
class _Reading:
    """The header of each field, and the headers in another unit."""

    columns: Mapping[str, int]
    wrong_units: Mapping[str, int]
    # (field, first index, second index)
    ambiguous: tuple[str, int, int] | None


def _read(kind: TableKind, headers: Sequence[object]) -> _Reading:
    first: dict[str, int] = {}
    second: dict[str, int] = {}
    wrong: dict[str, int] = {}
    ambiguous: tuple[str, int, int] | None = None
    for index, header in enumerate(headers):
        meaning = _meaning(kind, header)
        if meaning is None:
            continue
        field = meaning.column.field
        if not meaning.unit_fits:
            wrong.setdefault(field, index)
            continue
        found = first if meaning.first_choice else second
        if field in found and ambiguous is None and (meaning.first_choice or field not in first):
            ambiguous = (field, found[field], index)
        found.setdefault(field, index)
    if ambiguous is not None and second.get(ambiguous[0]) == ambiguous[1] and ambiguous[0] in first:
        ambiguous = None
    columns = second | first
    wrong = {field: index for field, index in wrong.items() if field not in columns}
    return _Reading(columns, wrong, ambiguous)


# --- Matching -------------------------------------------------------------------------------------


def match(kind: TableKind, headers: Sequence[object]) -> dict[str, int]:
    """Field name → index of its column. Ignores unknown headers.

    Raises:
        MissingColumnError, AmbiguousColumnError, UnitError
    """
    found = _read(kind, headers)
    if found.ambiguous is not None:
        field, first, second = found.ambiguous
        raise AmbiguousColumnError(
            f"The columns {_quoted(headers[first])} and {_quoted(headers[second])} both stand for "
            f"{field}; remove or rename one of them."
        )
    for field, index in found.wrong_units.items():
        raise _unit_error(kind, field, headers[index])
    columns = found.columns
    missing = [each for each in TABLES[kind] if each.required and each.field not in columns]
    if missing:
        named = ", ".join(repr(each.headers[0]) for each in missing)
        raise MissingColumnError(
            f"A file of {kind.lower()} needs the column{'s' if len(missing) > 1 else ''} {named}; "
            f"found {listed(headers)}."
        )
    return dict(columns)


def listed(headers: Sequence[object]) -> str:
    """The headers in a sentence, cut after a number of them."""
    named = [_quoted(each) for each in headers if str(each).strip()]
    more = f" and {len(named) - _MAX_LISTED} more" if len(named) > _MAX_LISTED else ""
    return f"{', '.join(named[:_MAX_LISTED])}{more}" or "none"


_MAX_LISTED = 30


def _quoted(header: object) -> str:
    return repr(shown(header)[:MAX_HEADER_CHARS])


def shown(name: object) -> str:
    """A name from a file on one line, without invisible characters."""
    text = "".join(char if char.isprintable() else " " for char in str(name))
    return " ".join(text.split())


def letters(index: int) -> str:
    """The name of a column in a sheet: A for 0, Z for 25, AA for 26."""
    name = ""
    index += 1
    while index:
        index, rest = divmod(index - 1, 26)
        name = chr(65 + rest) + name
    return name


def _unit_error(kind: TableKind, field: str, header: object) -> UnitError:
    column = BY_FIELD[kind][field]
    usual = column.headers[0]
    if column.unit == "DAY":
        return UnitError(
            f"The column {_quoted(header)} says more than that it holds days; rename it to "
            f"{usual!r} if that is what it holds."
        )
    return UnitError(
        f"The column {_quoted(header)} is in another unit than {usual!r}, which must be in "
        f"{_UNIT_NAMES[column.unit]}; convert its values and rename it to {usual!r}."
    )


def ignored(kind: TableKind, headers: Sequence[object]) -> tuple[str, ...]:
    """The headers of columns that are not read: at most MAX_IGNORED, each cut to
    MAX_HEADER_CHARS characters."""
    used = set(_read(kind, headers).columns.values())
    names = [shown(header) for index, header in enumerate(headers) if index not in used]
    cut = [name[:MAX_HEADER_CHARS] for name in names if name and name != REASONS_HEADER]
    return tuple(cut[:MAX_IGNORED])


def headers_of(headers: Sequence[object], columns: Mapping[str, int]) -> dict[str, str]:
    """Field name → its header, cut to MAX_HEADER_CHARS characters; `match` returns `columns`."""
    return {field: shown(headers[index])[:MAX_HEADER_CHARS] for field, index in columns.items()}


def known_columns(headers: Sequence[object], kind: TableKind | None = None) -> int:
    """The number of columns that these headers name, of the kind or of the best fitting one."""
    return max(len(_named(each, headers)) for each in _kinds(kind))


def is_complete(headers: Sequence[object], kind: TableKind | None = None) -> bool:
    """Whether the headers name every required column of the kind, or of either kind."""
    return any(
        _named(each, headers) >= {column.field for column in TABLES[each] if column.required}
        for each in _kinds(kind)
    )


def _kinds(kind: TableKind | None) -> Iterable[TableKind]:
    return COLUMNS if kind is None else (kind,)


def _named(kind: TableKind, headers: Sequence[object]) -> set[str]:
    """The fields that the headers name, in any unit."""
    # A number is no header, and need not be matched.
    texts = (header for header in headers if isinstance(header, str))
    return {each.column.field for header in texts if (each := _meaning(kind, header)) is not None}


def detect(headers: Sequence[object]) -> Kind | None:
    """The kind of rows under these headers; None if neither kind fits better."""
    shares = {kind: len(_named(kind, headers)) / len(COLUMNS[kind]) for kind in COLUMNS}
    if shares["LOANS"] == shares["CUSTOMERS"] or max(shares.values()) < 0.5:
        return None
    return "LOANS" if shares["LOANS"] > shares["CUSTOMERS"] else "CUSTOMERS"
