"""Documents of scorecards in words, and places in their text."""

import json

import pytest

from credit_service.console import scorecard_text
from credit_service.domain.scorecard import PRUDENT_DOCUMENT, STANDARD_DOCUMENT
from credit_service.v1.scorecard_pb2 import ScorecardDifference

PRUDENT = json.dumps(PRUDENT_DOCUMENT, sort_keys=True)


def test_a_document_is_indented_in_the_order_of_the_documentation() -> None:
    text = scorecard_text.pretty(PRUDENT)
    assert json.loads(text) == PRUDENT_DOCUMENT
    places = [text.index(f'"{name}"') for name in ("version", "rate_slabs", "rules", "condition")]
    assert places == sorted(places)


@pytest.mark.parametrize(
    ("version", "after"), [("prudent-1", "prudent-2"), ("v9", "v10"), ("mine", "mine-2")]
)
def test_a_draft_has_the_next_version(version: str, after: str) -> None:
    draft = scorecard_text.next_draft(json.dumps({"version": version, "rules": []}))
    assert json.loads(draft) == {"version": after, "rules": []}


@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("version", '"version"'),
        ("rate_slabs[1].min_rate_bps", "1600"),
        ("components.LOAN_COUNT.weight", "20"),
        ("rules[1].condition", "days_past_due >= 1"),
        ("rules[1].missing", "{"),
        ("rules[7]", '"rules"'),
    ],
)
def test_a_path_has_a_line(path: str, content: str) -> None:
    text = scorecard_text.pretty(PRUDENT)
    assert content in text.splitlines()[scorecard_text.line_of(text, path) - 1]


def test_text_that_is_not_a_document_has_lines_as_far_as_it_goes() -> None:
    text = '{\n"a": [1,\n{"b": "\\"},{"}],\n"c": 2 ]]] } "d": {'
    assert scorecard_text.line_of(text, "a[1].b") == 3
    assert scorecard_text.line_of(text, "c") == 4
    assert scorecard_text.line_of("", "a") == 0


def test_values_are_readable() -> None:
    for path, value, words in (
        ("new_to_credit.max_principal_paise", "5000000", "₹50,000.00"),
        ("rate_slabs[1].min_rate_bps", "1250", "12.5 %"),
        ("income_share_bps", "5000", "50 %"),
        ("grace_days", "3", "3"),
        ("rate_slabs[0].declined", "true", "yes"),
        ("rules[A].condition", '"age < 21"', "age < 21"),
        ("new_to_credit", '{"max_principal_paise":100,"min_rate_bps":0}', "₹1.00"),
        ("rules", '["A","B"]', "A\nB"),
        (
            "rules",
            json.dumps(
                [
                    {
                        "code": "A",
                        "condition": "age < 21",
                        "outcome": "MAX_AMOUNT",
                        "max_principal_paise": 100,
                        "message": "Young.",
                    }
                ]
            ),
            "A: if age < 21, max amount ₹1.00: Young.",
        ),
        ("on_time_counts", "", "WHEN_PAID (default)"),
        ("debt_basis", "", "ORIGINAL_PRINCIPAL (default)"),
        ("new_to_credit", "", "declined (default)"),
        ("version", "", ""),
        ("version", "not JSON", "not JSON"),
    ):
        assert words in scorecard_text.readable(path, value)
    (line,) = scorecard_text.difference_lines(
        [ScorecardDifference(path="grace_days", before="0", after="")]
    )
    assert (line.before, line.after) == ("0", "")


def test_a_scorecard_is_described_in_words() -> None:
    text = scorecard_text.describe(PRUDENT)
    assert ("Loan volume", "25", "₹10,00,000.00") in text.components
    assert text.slabs[:2] == [("0 to 10", "declined"), ("11 to 30", "at least 16 %")]
    assert ("Customers without loans", "at most ₹50,000.00, at least 16 %") in text.limits
    assert ("Debt in the limit", "principal outstanding") in text.limits
    assert [each.effect for each in text.rules] == ["Decline", "Refer"]
    plain = scorecard_text.describe(json.dumps(STANDARD_DOCUMENT))
    assert ("Customers without loans", "declined") in plain.limits
    assert plain.rules == []
    amount = {"outcome": "MAX_AMOUNT", "max_principal_paise": 100}
    rate = {"outcome": "MIN_RATE", "min_rate_bps": 1_600}
    found = scorecard_text.describe(json.dumps({"rules": [amount, rate]})).rules
    assert [each.effect for each in found] == ["Max amount ₹1.00", "Min rate 16 %"]


def test_two_texts_stand_side_by_side() -> None:
    assert scorecard_text.side_by_side("a\nb\nc", "a\nx\ny\nc") == [
        (False, "a", "a"),
        (True, "b", "x"),
        (True, "", "y"),
        (False, "c", "c"),
    ]
