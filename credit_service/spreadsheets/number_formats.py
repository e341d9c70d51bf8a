"""Percent formats of the cells of a workbook, from its styles (ECMA-376, part 1, 18.8)."""

import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from xml.etree import ElementTree as ET

_BUILT_IN_PERCENT = frozenset({9, 10})

# Literals of a format code: quoted text, an escaped character, `_x` (a gap as wide as x) and `*x`
# (x repeated to fill the cell).
_LITERAL = re.compile(r'"[^"]*"?|\\.|_.|\*.', re.DOTALL)
_BRACKETED = re.compile(r"\[([^\]]*)\]")
_CONDITION = re.compile(r"(<=|>=|<>|<|>|=)\s*(-?[0-9]+(?:\.[0-9]+)?)")
_COMPARISONS: Mapping[str, Callable[[Decimal, Decimal], bool]] = {
    "<": lambda value, limit: value < limit,
    "<=": lambda value, limit: value <= limit,
    ">": lambda value, limit: value > limit,
    ">=": lambda value, limit: value >= limit,
    "=": lambda value, limit: value == limit,
    "<>": lambda value, limit: value != limit,
}


class PercentFormat:
    """A number format that shows some or all values as percentages."""

    def __init__(self, code: str) -> None:
        # (condition or None, whether the section shows a percentage)
        self._sections = [_section(text) for text in _LITERAL.sub("", code).split(";")]
        self._whatever_value = all(
            percent and condition is None for condition, percent in self._sections
        )

    @property
    def shows_percent(self) -> bool:
        """Whether any value is shown as a percentage."""
        return any(percent for _, percent in self._sections)

    def applies_to(self, number: float) -> bool:
        """Whether this finite number is shown as a percentage."""
        if self._whatever_value:
            return True
        value, sections = Decimal(number), self._sections
        if any(condition for condition, _ in sections):
            for condition, percent in sections:
                if condition is None or condition(value):
                    return percent
            return False
        if value > 0 or len(sections) == 1:
            return sections[0][1]
        if value < 0:
            return sections[1][1]
        return sections[2][1] if len(sections) > 2 else sections[0][1]


def _section(text: str) -> tuple[Callable[[Decimal], bool] | None, bool]:
    condition: Callable[[Decimal], bool] | None = None
    for bracketed in _BRACKETED.findall(text):
        if match := _CONDITION.fullmatch(bracketed.strip()):
            compare, limit = _COMPARISONS[match[1]], Decimal(match[2])

            def condition(
                value: Decimal,
                compare: Callable[[Decimal, Decimal], bool] = compare,
                limit: Decimal = limit,
            ) -> bool:
                return compare(value, limit)

    return condition, "%" in _BRACKETED.sub("", text)


_LETTERS_OF_DATES = re.compile(r"[dmyhs]", re.IGNORECASE)


def without_misleading_formats(styles: ET.Element) -> bytes | None:
    """The styles part without formats of numbers that a reader could take for dates: `Rs. #,##0`,
    which should quote its letters, or `Standard`, which is General in other languages.

    None if there is no such format.
    """
    changed = False
    for element in styles.iterfind("{*}numFmts/{*}numFmt"):
        bare = _BRACKETED.sub("", _LITERAL.sub("", element.get("formatCode", "")))
        of_a_number = "#" in bare or bare.strip().lower() == "standard"
        if of_a_number and _LETTERS_OF_DATES.search(bare):
            element.set("formatCode", "0")
            changed = True
    return ET.tostring(styles, encoding="utf-8") if changed else None


def percent_styles(styles: ET.Element) -> dict[int, PercentFormat]:
    """Index → format of the cell styles that show percentages."""
    codes: dict[int, str] = {}
    for element in styles.iterfind("{*}numFmts/{*}numFmt"):
        identity, code = element.get("numFmtId", ""), element.get("formatCode", "")
        if identity.isascii() and identity.isdigit():
            codes[int(identity)] = code
    found = {}
    for index, element in enumerate(styles.iterfind("{*}cellXfs/{*}xf")):
        identity = element.get("numFmtId", "0")
        number = int(identity) if identity.isascii() and identity.isdigit() else 0
        code = codes.get(number, "0%" if number in _BUILT_IN_PERCENT else "")
        if "%" in code and (shown := PercentFormat(code)).shows_percent:
            found[index] = shown
    return found
