"""Reads documents of people (scorecards) and collects every violation with its path."""

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from typing import Any

from credit_service.domain.errors import (
    INVALID_FORMAT,
    OUT_OF_RANGE,
    REQUIRED,
    FieldViolation,
)


class DocumentReader:
    """Reads values of a document. An invalid value becomes a violation and a placeholder."""

    def __init__(self) -> None:
        self.violations: list[FieldViolation] = []

    def add(self, path: str, reason: str, problem: str) -> None:
        """Add a violation: 'path problem.'"""
        path = path or "scorecard"
        self.violations.append(FieldViolation(path, reason, f"{path} {problem}."))

    def mapping(self, value: object, path: str, keys: AbstractSet[str]) -> Mapping[str, Any]:
        """The value as a mapping. Unknown keys are violations, missing keys are not."""
        if not isinstance(value, Mapping):
            self.add(path, INVALID_FORMAT, "must be an object")
            return {}
        for key in value:
            if key not in keys:
                known = ", ".join(sorted(keys))
                self.add(join(path, str(key)), INVALID_FORMAT, f"is unknown; use one of {known}")
        return value

    def integer(self, parent: Mapping[str, Any], key: str, path: str, low: int, high: int) -> int:
        """parent[key] as an integer of low … high; `low` as a placeholder for an invalid value."""
        where = join(path, key)
        if key not in parent:
            self.add(where, REQUIRED, "is missing")
            return low
        value = parent[key]
        if not isinstance(value, int) or isinstance(value, bool):
            self.add(where, INVALID_FORMAT, "must be a whole number")
            return low
        if not low <= value <= high:
            self.add(where, OUT_OF_RANGE, f"must be {low} to {high}, found {value}")
            return low
        return value

    def text(self, parent: Mapping[str, Any], key: str, path: str, longest: int) -> str:
        """parent[key] as a text of 1 … longest characters; '' for an invalid value."""
        where = join(path, key)
        if key not in parent:
            self.add(where, REQUIRED, "is missing")
            return ""
        value = parent[key]
        if not isinstance(value, str) or not value.strip():
            self.add(where, INVALID_FORMAT, "must be a text")
            return ""
        if len(value) > longest:
            problem = f"must have at most {longest} characters, found {len(value)}"
            self.add(where, OUT_OF_RANGE, problem)
            return ""
        return value


def join(path: str, key: str) -> str:
    """The path of a key below a path."""
    return f"{path}.{key}" if path else key
