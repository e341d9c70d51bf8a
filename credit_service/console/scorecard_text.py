"""A scorecard's document for people: its parts in words, places in its text, and differences."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import zip_longest
from typing import Any

from credit_service.client import display
from credit_service.rupees import format_inr, group_digits

_ORDER = (
    "version",
    "components",
    "rate_slabs",
    "income_share_bps",
    "grace_days",
    "min_principal_paise",
    "new_to_credit",
    "on_time_counts",
    "debt_basis",
    "prepayment_charge_bps",
    "contingent_charges",
    "rules",
    "code",
    "condition",
    "outcome",
)
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\],:]|[^\s{}\[\],:"]+')
_LAST_NUMBER = re.compile(r"([0-9]{1,9})$")


def pretty(document: str) -> str:
    """Return a JSON document indented, its keys in the order of the documentation."""
    return json.dumps(_ordered(json.loads(document)), ensure_ascii=False, indent=2)


def _ordered(value: Any) -> Any:
    if isinstance(value, list):
        return [_ordered(each) for each in value]
    if not isinstance(value, dict):
        return value
    known = [name for name in _ORDER if name in value]
    return {
        name: _ordered(value[name]) for name in [*known, *(n for n in value if n not in _ORDER)]
    }


def next_draft(document: str) -> str:
    """Return the document, indented, with the next version: 'prudent-1' gives 'prudent-2'."""
    content = json.loads(document)
    version = str(content["version"])
    match = _LAST_NUMBER.search(version)
    if match is None:
        content["version"] = f"{version}-2"
    else:
        content["version"] = version[: match.start()] + str(int(match[1]) + 1)
    return pretty(json.dumps(content))


# Places.


def line_of(text: str, path: str) -> int:
    """Return the line, from 1, of the value at a path such as 'rate_slabs[1].min_rate_bps' in a
    JSON text; of the nearest object around it if it is missing; 0 in a text without objects."""
    lines = _lines(text)
    while path and path not in lines:
        path = re.sub(r"(\[[^\]]*\]|\.?[^.\[\]]+)$", "", path)
    return lines.get(path, 0)


def _lines(text: str) -> dict[str, int]:
    """The line of each value by its path. Reads an invalid text as far as it goes."""
    found: dict[str, int] = {}
    # Of each open object or list: its path, and the key or index of the value that comes next.
    open_values: list[tuple[str, str | int | None]] = []
    for token in _TOKEN.finditer(text):
        word = token[0]
        if word in ",:":
            if word == "," and open_values:
                path, key = open_values.pop()
                open_values.append((path, key + 1 if isinstance(key, int) else None))
        elif word in "}]":
            if open_values:
                open_values.pop()
        elif open_values and open_values[-1][1] is None:
            open_values[-1] = (open_values[-1][0], word.strip('"'))
        else:
            path = _joined(*open_values[-1]) if open_values else ""
            found.setdefault(path, text.count("\n", 0, token.start()) + 1)
            if word in "{[":
                open_values.append((path, 0 if word == "[" else None))
    return found


def _joined(path: str, key: str | int | None) -> str:
    if isinstance(key, int):
        return f"{path}[{key}]"
    return f"{path}.{key}" if path else str(key)


# Values and parts.


_DEFAULTS = {
    "new_to_credit": "declined (default)",
    "on_time_counts": "WHEN_PAID (default)",
    "debt_basis": "ORIGINAL_PRINCIPAL (default)",
    "prepayment_charge_bps": "none (default)",
}
"""What the absence of an optional field means."""


def readable(path: str, value: str) -> str:
    """Return a JSON value of a document as text: '5000000' of max_principal_paise is ₹50,000.00.
    An absent value is what its absence means; '' where it means nothing."""
    if not value:
        return _DEFAULTS.get(path, "")
    try:
        found = json.loads(value)
    except ValueError:
        return value
    return _in_words(path, found)


def _in_words(path: str, value: Any) -> str:
    name = re.split(r"[.\[]", path)[-1]
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        if name.endswith("_paise"):
            return format_inr(value)
        if name.endswith("_bps"):
            return _percent(value)
        return str(value)
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return "\n".join(_in_words(path, each) for each in value)
    if isinstance(value, dict):
        if "condition" in value:
            effect = _effect(value)
            return (
                f"{value.get('code')}: if {value['condition']}, {effect[:1].lower()}{effect[1:]}: "
                f"{value.get('message', '')}"
            )
        return ", ".join(
            f"{_label(key)} {_in_words(key, each)}" for key, each in _ordered(value).items()
        )
    return str(value)


def _label(key: str) -> str:
    return key.removesuffix("_paise").removesuffix("_bps").replace("_", " ")


def _percent(bps: int) -> str:
    whole, rest = divmod(bps, 100)
    return f"{whole}.{rest:02d}".rstrip("0").removesuffix(".") + " %"


@dataclass(frozen=True, slots=True)
class RuleText:
    """A rule of a policy in words."""

    code: str
    condition: str
    effect: str
    message: str


@dataclass(frozen=True, slots=True)
class DocumentText:
    """The parts of a document in words. `components` have name, weight, and where they are full."""

    components: list[tuple[str, str, str]]
    slabs: list[tuple[str, str]]
    limits: list[tuple[str, str]]
    rules: list[RuleText]


def describe(document: str) -> DocumentText:
    """Return the parts of a valid document. Keys of a later release are only in its text."""
    content: Mapping[str, Any] = json.loads(document)
    return DocumentText(
        [
            (display.words(name), str(each.get("weight", 0)), _full_at(each))
            for name, each in content.get("components", {}).items()
        ],
        [_slab(each) for each in content.get("rate_slabs", ())],
        list(_limits(content)),
        [
            RuleText(
                str(each.get("code", "")),
                str(each.get("condition", "")),
                _effect(each),
                str(each.get("message", "")),
            )
            for each in content.get("rules", ())
        ],
    )


def _full_at(component: Mapping[str, Any]) -> str:
    if "full_at_paise" in component:
        return format_inr(component["full_at_paise"])
    if "full_at_loans" in component:
        return f"{group_digits(component['full_at_loans'])} loans"
    return "all on time"


def _slab(slab: Mapping[str, Any]) -> tuple[str, str]:
    scores = f"{slab.get('min_score')} to {slab.get('max_score')}"
    if slab.get("declined"):
        return scores, "declined"
    rate = slab.get("min_rate_bps", 0)
    return scores, f"at least {_percent(rate)}" if rate else "the requested rate"


def _limits(content: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield (
        "Installments of the monthly income",
        f"at most {_percent(content.get('income_share_bps', 0))}",
    )
    yield "Grace days", str(content.get("grace_days", 0))
    if "min_principal_paise" in content:
        yield "Smallest loan", format_inr(content["min_principal_paise"])
    new = content.get("new_to_credit")
    if new is None:
        yield "Customers without loans", "declined"
    else:
        most = format_inr(new.get("max_principal_paise", 0))
        yield (
            "Customers without loans",
            f"at most {most}, at least {_percent(new.get('min_rate_bps', 0))}",
        )
    counts = content.get("on_time_counts", "WHEN_PAID")
    yield "Installments on time count", display.words(str(counts)).lower()
    basis = content.get("debt_basis", "ORIGINAL_PRINCIPAL")
    yield "Debt in the limit", display.words(str(basis)).lower()
    charge = content.get("prepayment_charge_bps", 0)
    yield "Charge for foreclosure", _percent(charge) if charge else "none"
    for each in content.get("contingent_charges", ()):
        yield display.words(str(each.get("type", ""))), str(each.get("sentence", ""))


def _effect(rule: Mapping[str, Any]) -> str:
    effect = display.words(str(rule.get("outcome", "")))
    if "min_rate_bps" in rule:
        return f"{effect} {_percent(rule['min_rate_bps'])}"
    if "max_principal_paise" in rule:
        return f"{effect} {format_inr(rule['max_principal_paise'])}"
    return effect


# Two documents.


@dataclass(frozen=True, slots=True)
class DifferenceLine:
    """A field in which two documents differ, with both values in words; '' where it is absent."""

    path: str
    before: str
    after: str


def difference_lines(differences: Iterable[Any]) -> list[DifferenceLine]:
    """Return ScorecardDifference messages in words."""
    return [
        DifferenceLine(each.path, readable(each.path, each.before), readable(each.path, each.after))
        for each in differences
    ]


def side_by_side(before: str, after: str) -> list[tuple[bool, str, str]]:
    """Return two texts line by line: whether a line differs, and its text on each side."""
    left, right = before.splitlines(), after.splitlines()
    rows: list[tuple[bool, str, str]] = []
    for kind, a, b, c, d in SequenceMatcher(None, left, right, autojunk=False).get_opcodes():
        rows += (
            (kind != "equal", before_line, after_line)
            for before_line, after_line in zip_longest(left[a:b], right[c:d], fillvalue="")
        )
    return rows
