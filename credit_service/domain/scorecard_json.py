"""Scorecards as JSON text, and the fields in which two of them differ."""

import json
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from credit_service.domain.document_reader import join
from credit_service.domain.errors import (
    INVALID_FORMAT,
    OUT_OF_RANGE,
    REQUIRED,
    FieldViolation,
    InvalidFieldsError,
)
from credit_service.domain.scorecard import Scorecard, parse_scorecard, scorecard_document

MAX_DOCUMENT_BYTES: Final = 64 * 1024
"""Largest document, in bytes of UTF-8."""
_MAX_DIGITS = 40
_LINE_BREAKS = frozenset("\n\r\t")


def read_scorecard(text: str, field: str = "document") -> Scorecard:
    """The scorecard of a JSON text.

    Raises InvalidFieldsError with a violation for each error. Its field is the error's path below
    `field`, or `field` itself for text that is not a JSON object.
    """
    document = _read_object(text, field)
    try:
        return parse_scorecard(document)
    except InvalidFieldsError as error:
        raise InvalidFieldsError(
            [_below(field, each) for each in error.violations], error.reason
        ) from None


def _below(field: str, violation: FieldViolation) -> FieldViolation:
    # The parser's message starts with its path.
    return FieldViolation(
        f"{field}.{violation.field}", violation.reason, f"{field}.{violation.message}"
    )


def _read_object(text: str, field: str) -> Mapping[str, Any]:
    if not text.strip():
        raise _invalid(field, REQUIRED, "is required: a scorecard as JSON")
    if len(text.encode("utf-8", "replace")) > MAX_DOCUMENT_BYTES:
        raise _invalid(field, OUT_OF_RANGE, f"must have at most {MAX_DOCUMENT_BYTES:,} bytes")
    try:
        document = json.loads(text, object_pairs_hook=_Object, parse_int=_integer)
        # Text with half a surrogate pair can be neither stored nor sent.
        json.dumps(document, ensure_ascii=False).encode()
        violations = list(_violations(document, field, ""))
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise _invalid(field, INVALID_FORMAT, f"is not JSON: {error.msg}, {place}") from None
    except UnicodeEncodeError:
        raise _invalid(field, INVALID_FORMAT, "contains half of a surrogate pair") from None
    except RecursionError:
        raise _invalid(field, INVALID_FORMAT, "is nested too deeply") from None
    except ValueError as error:
        raise _invalid(field, INVALID_FORMAT, f"is not valid: {error}") from None
    if violations:
        raise InvalidFieldsError(violations)
    if not isinstance(document, dict):
        raise _invalid(field, INVALID_FORMAT, "must be a JSON object")
    return document


class _Object(dict[str, Any]):
    """A JSON object. `repeated` are the keys that occur more than once."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        self.repeated: list[str] = []
        if len(self) < len(pairs):
            counts = Counter(name for name, _ in pairs)
            self.repeated = [name for name, count in counts.items() if count > 1]


def _integer(digits: str) -> int:
    if len(digits) > _MAX_DIGITS:
        raise ValueError(f"a number has {len(digits):,} digits")
    return int(digits)


def _violations(value: Any, path: str, key: str) -> Iterator[FieldViolation]:
    """A violation for each repeated key and each text with control characters. Conditions name
    their own characters, with the place."""
    if isinstance(value, _Object):
        for name in value.repeated:
            below = join(path, name)
            yield FieldViolation(below, INVALID_FORMAT, f"{below} occurs twice in one object.")
        for name, each in value.items():
            yield from _violations(each, join(path, name), name)
    elif isinstance(value, list):
        for index, each in enumerate(value):
            yield from _violations(each, f"{path}[{index}]", key)
    elif isinstance(value, str) and key != "condition":
        for char in value:
            if char not in _LINE_BREAKS and unicodedata.category(char) == "Cc":
                problem = f"must not contain control characters, found U+{ord(char):04X}"
                yield FieldViolation(path, INVALID_FORMAT, f"{path} {problem}.")
                return


def _invalid(field: str, reason: str, problem: str) -> InvalidFieldsError:
    return InvalidFieldsError([FieldViolation(field, reason, f"{field} {problem}.")])


def write_scorecard(scorecard: Scorecard) -> str:
    """The scorecard as JSON text with sorted keys. Equal scorecards have equal texts."""
    return json.dumps(scorecard_document(scorecard), sort_keys=True, ensure_ascii=False)


@dataclass(frozen=True, slots=True)
class Difference:
    """A field that differs: its path, and both values as JSON; empty where it is absent."""

    path: str
    before: str
    after: str


def differences(before: Scorecard, after: Scorecard) -> list[Difference]:
    """The fields in which two scorecards differ, other than the version, in order of the documents.

    Entries of a list of objects with a code are matched by code. If their order differs too, the
    list itself is among the differences, with the codes in order.
    """
    documents = [dict(scorecard_document(each)) for each in (before, after)]
    for each in documents:
        del each["version"]
    return list(_compare("", *documents))


_ABSENT = object()


def _compare(path: str, before: Any, after: Any) -> Iterator[Difference]:
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for name in dict.fromkeys([*before, *after]):
            below = f"{path}.{name}" if path else str(name)
            yield from _compare(below, before.get(name, _ABSENT), after.get(name, _ABSENT))
        return
    codes = _codes(before), _codes(after)
    if codes[0] is not None and codes[1] is not None:
        yield from _compare_coded(path, before, after, codes[0], codes[1])
    elif _is_list(before) and _is_list(after):
        for index in range(max(len(before), len(after))):
            pair = [each[index] if index < len(each) else _ABSENT for each in (before, after)]
            yield from _compare(f"{path}[{index}]", *pair)
    elif before != after:
        yield Difference(path, _json(before), _json(after))


def _compare_coded(
    path: str,
    before: Sequence[Any],
    after: Sequence[Any],
    codes_before: list[str],
    codes_after: list[str],
) -> Iterator[Difference]:
    left = dict(zip(codes_before, before, strict=True))
    right = dict(zip(codes_after, after, strict=True))
    shared = [code for code in codes_before if code in right]
    if shared != [code for code in codes_after if code in left]:
        yield Difference(path, _json(codes_before), _json(codes_after))
    for code in dict.fromkeys([*codes_before, *codes_after]):
        yield from _compare(f"{path}[{code}]", left.get(code, _ABSENT), right.get(code, _ABSENT))


def _codes(value: Any) -> list[str] | None:
    """The codes of a list of objects with distinct codes; None for anything else."""
    if not _is_list(value):
        return None
    codes = [each.get("code") if isinstance(each, Mapping) else None for each in value]
    if not all(isinstance(code, str) for code in codes) or len(set(codes)) < len(codes):
        return None
    return [str(code) for code in codes]


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple)


def _json(value: Any) -> str:
    return "" if value is _ABSENT else json.dumps(value, ensure_ascii=False, sort_keys=True)
