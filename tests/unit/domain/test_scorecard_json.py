"""Scorecards as JSON text: each error is named by its path, and differences by theirs."""

import json
from dataclasses import replace
from typing import Any

import pytest

from credit_service.domain import scorecard_json
from credit_service.domain.errors import InvalidFieldsError
from credit_service.domain.scorecard import (
    PRUDENT_DOCUMENT,
    STANDARD,
    STANDARD_DOCUMENT,
    parse_scorecard,
)
from credit_service.domain.scorecard_json import (
    MAX_DOCUMENT_BYTES,
    Difference,
    differences,
    read_scorecard,
    write_scorecard,
)

TEXT = json.dumps(STANDARD_DOCUMENT)


def rejected(text: str) -> dict[str, str]:
    """The messages by field."""
    with pytest.raises(InvalidFieldsError) as caught:
        read_scorecard(text)
    return {each.field: each.message for each in caught.value.violations}


def test_a_written_scorecard_is_read_back() -> None:
    assert read_scorecard(TEXT) == STANDARD
    assert read_scorecard(write_scorecard(STANDARD)) == STANDARD
    exact = replace(STANDARD, volume_cap_paise=10**15 - 1)
    assert read_scorecard(write_scorecard(exact)) == exact


def test_each_error_has_its_path() -> None:
    document: dict[str, Any] = json.loads(TEXT)
    document["grace_days"] = 1.0
    document["rate_slabs"][1]["min_rate_bps"] = 20_000
    document["other"] = None
    found = rejected(json.dumps(document))
    assert found.keys() == {
        "document.grace_days",
        "document.rate_slabs[1].min_rate_bps",
        "document.other",
    }
    assert found["document.grace_days"] == "document.grace_days must be a whole number."


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is required"),
        (" \n", "is required"),
        ("{", "line 1, column 2"),
        ('{\n"version": }', "line 2, column 12"),
        ("[]", "must be a JSON object"),
        ("null", "must be a JSON object"),
        (TEXT.replace('"standard-1"', r'"\ud800"'), "surrogate"),
        ("[" * 40_000, "nested too deeply"),
        (TEXT.replace("5000", "9" * 5_000), "a number has 5,000 digits."),
        (TEXT + " " * MAX_DOCUMENT_BYTES, "65,536 bytes"),
    ],
)
def test_other_text_is_rejected_with_its_place(text: str, words: str) -> None:
    found = rejected(text)
    assert found.keys() == {"document"}
    assert words in found["document"]


def test_repeated_keys_are_named_by_their_paths() -> None:
    text = TEXT.replace('"weight": 20,', '"weight": 20, "weight": 30,')[:-1] + ', "version": "b"}'
    assert rejected(text) == {
        f"document.{path}": f"document.{path} occurs twice in one object."
        for path in (
            "version",
            "components.LOAN_COUNT.weight",
            "components.CURRENT_YEAR_ACTIVITY.weight",
        )
    }


def test_texts_for_people_have_no_control_characters() -> None:
    document = json.loads(json.dumps(PRUDENT_DOCUMENT))
    document["rules"][0]["message"] = "Two\nlines\tof text"
    document["rules"][1]["message"] = "a\x00b"
    document["contingent_charges"] = [{"type": "late payment", "sentence": "\x1b[31mred"}]
    assert rejected(json.dumps(document)) == {
        f"document.{path}": f"document.{path} must not contain control characters, found U+{code}."
        for path, code in (
            ("rules[1].message", "0000"),
            ("contingent_charges[0].sentence", "001B"),
        )
    }
    # Stored documents of earlier releases may have them, and are read as before.
    assert parse_scorecard(document).rules[1].message == "a\x00b"


def test_differences_are_named_by_their_path() -> None:
    slabs = (*STANDARD.rate_slabs[:2], replace(STANDARD.rate_slabs[2], min_rate_bps=1250))
    other = replace(
        STANDARD, version="other", rate_slabs=(*slabs, STANDARD.rate_slabs[3]), grace_days=3
    )
    assert differences(STANDARD, other) == [
        Difference("rate_slabs[2].min_rate_bps", "1200", "1250"),
        Difference("grace_days", "0", "3"),
    ]
    assert differences(STANDARD, replace(STANDARD, version="copy")) == []
    added = differences(STANDARD, replace(STANDARD, min_principal_paise=5))
    assert added == [Difference("min_principal_paise", "", "5")]


def test_entries_with_codes_are_matched_by_code(monkeypatch: pytest.MonkeyPatch) -> None:
    first = {"code": "A", "condition": "score < 30"}
    second = {"code": "B", "condition": "age > 60"}
    lists = {
        "before": [first, second],
        "after": [{**second, "condition": "age > 70"}, {"code": "C", "condition": "true"}, first],
    }

    def document(name: Any) -> dict[str, Any]:
        return {"version": name, "rules": lists[name]}

    monkeypatch.setattr(scorecard_json, "scorecard_document", document)
    before: Any = "before"
    after: Any = "after"
    assert differences(before, after) == [
        Difference("rules", '["A", "B"]', '["B", "C", "A"]'),
        Difference("rules[B].condition", '"age > 60"', '"age > 70"'),
        Difference("rules[C]", "", '{"code": "C", "condition": "true"}'),
    ]
