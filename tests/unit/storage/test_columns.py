"""Rows as parameters of one statement."""

from datetime import UTC, date, datetime
from typing import Any
from uuid import UUID

import pytest

from credit_service.storage.columns import Columns


def test_columns_are_lines_of_text() -> None:
    columns = Columns({"number": "bigint", "day": "date", "content": "bytea", "flag": "boolean"})
    rows: list[dict[str, Any]] = [
        {"number": 7, "day": None, "content": b"\x00\xff", "flag": True, "other": "ignored"},
        {"number": 8, "day": date(2026, 6, 10), "content": b"", "flag": False},
    ]
    assert columns.values(rows) == {
        "number_lines": "7\n8",
        "day_lines": "\n2026-06-10",
        "content_lines": "\\x00ff\n\\x",
        "flag_lines": "True\nFalse",
    }
    assert "CAST(string_to_array(:day_lines, chr(10), '') AS date[])" in columns.source
    assert columns.source.endswith("AS g (number, day, content, flag)")


def test_other_values_have_their_iso_form() -> None:
    columns = Columns({"key": "uuid", "at": "timestamptz"})
    key = UUID("00000000-0000-4000-8000-000000000001")
    at = datetime(2026, 6, 10, 6, 30, 0, 123, tzinfo=UTC)
    assert columns.values([{"key": key, "at": at}]) == {
        "key_lines": "00000000-0000-4000-8000-000000000001",
        "at_lines": "2026-06-10 06:30:00.000123+00:00",
    }


@pytest.mark.parametrize("value", ["a\nb", "\n", "a\n"])
def test_a_line_separator_in_a_value_moves_no_other_value(value: str) -> None:
    columns = Columns({"name": "text"})
    with pytest.raises(ValueError, match="line separator"):
        columns.values([{"name": value}, {"name": "c"}])
