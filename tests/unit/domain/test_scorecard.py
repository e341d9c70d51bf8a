"""Scorecards are validated whole."""

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest

from credit_service.domain.errors import InvalidFieldsError
from credit_service.domain.scorecard import (
    STANDARD,
    STANDARD_DOCUMENT,
    ContingentCharge,
    RateSlab,
    parse_scorecard,
    scorecard_document,
)


def changed(change: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    document = copy.deepcopy(STANDARD_DOCUMENT)
    change(document)
    return document


def faults(document: Any) -> list[str]:
    with pytest.raises(InvalidFieldsError) as caught:
        parse_scorecard(document)
    return [each.field for each in caught.value.violations]


def test_the_standard_scorecard_is_that_of_the_rules() -> None:
    assert STANDARD.repayment_weight == 35
    assert (STANDARD.volume_weight, STANDARD.volume_cap_paise) == (25, 10_00_000 * 100)
    assert (STANDARD.count_weight, STANDARD.count_cap) == (20, 10)
    assert (STANDARD.activity_weight, STANDARD.activity_cap) == (20, 3)
    assert STANDARD.rate_slabs == (
        RateSlab(0, 10, None),
        RateSlab(11, 30, 1600),
        RateSlab(31, 50, 1200),
        RateSlab(51, 100, 0),
    )
    assert (STANDARD.income_share_bps, STANDARD.grace_days) == (5000, 0)
    assert STANDARD.version == "standard-1"


def test_a_scorecard_survives_its_document() -> None:
    assert scorecard_document(STANDARD) == STANDARD_DOCUMENT
    text = json.dumps(scorecard_document(STANDARD))
    assert parse_scorecard(json.loads(text)) == STANDARD


@pytest.mark.parametrize("score", range(101))
def test_every_score_has_its_slab(score: int) -> None:
    slab = STANDARD.slab(score)
    assert slab.min_score <= score <= slab.max_score


def test_there_is_no_slab_below_0() -> None:
    with pytest.raises(ValueError, match="below 0"):
        STANDARD.slab(-1)


def slabs(*lines: tuple[int, int, int | None]) -> dict[str, Any]:
    return changed(
        lambda document: document.update(
            rate_slabs=[
                {"min_score": low, "max_score": high}
                | ({"declined": True} if rate is None else {"min_rate_bps": rate})
                for low, high, rate in lines
            ]
        )
    )


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ([], ["scorecard", "version"]),
        ({}, ["version", "components"]),
        (None, ["scorecard", "version"]),
        (changed(lambda d: d.pop("version")), ["version"]),
        (changed(lambda d: d.update(version="")), ["version"]),
        (changed(lambda d: d.update(version="a b")), ["version"]),
        (changed(lambda d: d.update(version=1)), ["version"]),
        (changed(lambda d: d.update(version="x" * 65)), ["version"]),
        (changed(lambda d: d.update(surprise=1)), ["surprise"]),
        (changed(lambda d: d.pop("income_share_bps")), ["income_share_bps"]),
        (changed(lambda d: d.update(income_share_bps=10_001)), ["income_share_bps"]),
        (changed(lambda d: d.update(income_share_bps="5000")), ["income_share_bps"]),
        (changed(lambda d: d.update(income_share_bps=True)), ["income_share_bps"]),
        (changed(lambda d: d.update(grace_days=-1)), ["grace_days"]),
        (changed(lambda d: d.update(grace_days=32)), ["grace_days"]),
        (changed(lambda d: d.update(components=[])), ["components"]),
        (changed(lambda d: d["components"].pop("LOAN_COUNT")), ["components.LOAN_COUNT"]),
        (changed(lambda d: d["components"].update(AGE={"weight": 0})), ["components.AGE"]),
        (
            changed(lambda d: d["components"]["LOAN_COUNT"].update(weight=21)),
            ["components"],
        ),
        (
            changed(lambda d: d["components"]["LOAN_COUNT"].update(weight=-1)),
            ["components.LOAN_COUNT.weight"],
        ),
        (
            changed(lambda d: d["components"]["LOAN_COUNT"].update(full_at_loans=0)),
            ["components.LOAN_COUNT.full_at_loans"],
        ),
        (
            changed(lambda d: d["components"]["LOAN_VOLUME"].pop("full_at_paise")),
            ["components.LOAN_VOLUME.full_at_paise"],
        ),
        (
            changed(lambda d: d["components"]["REPAYMENT_HISTORY"].update(full_at_loans=1)),
            ["components.REPAYMENT_HISTORY.full_at_loans"],
        ),
        (changed(lambda d: d.update(rate_slabs=[])), ["rate_slabs"]),
        (changed(lambda d: d.update(rate_slabs={})), ["rate_slabs"]),
        (changed(lambda d: d.update(rate_slabs=[1])), None),
        (slabs((0, 10, None), (12, 100, 0)), ["rate_slabs[1].min_score"]),
        (slabs((0, 10, None), (10, 100, 0)), ["rate_slabs[1].min_score"]),
        (slabs((1, 100, 0)), ["rate_slabs[0].min_score"]),
        (slabs((0, 99, 0)), ["rate_slabs"]),
        (slabs((0, 10, 0), (11, 5, 0), (6, 100, 0)), ["rate_slabs[1].max_score"]),
        (slabs((0, 10, 0), (11, 100, None)), ["rate_slabs[1]"]),
        (slabs((0, 10, 1200), (11, 100, 1600)), ["rate_slabs[1]"]),
        (slabs((0, 100, 10_001)), ["rate_slabs[0].min_rate_bps"]),
        (slabs((0, 101, 0)), ["rate_slabs[0].max_score"]),
        (
            changed(lambda d: d["rate_slabs"][0].update(min_rate_bps=1)),
            ["rate_slabs[0].min_rate_bps"],
        ),
        (changed(lambda d: d["rate_slabs"][0].update(declined=1)), None),
        (
            changed(lambda d: d["rate_slabs"][3].pop("min_rate_bps")),
            ["rate_slabs[3].min_rate_bps"],
        ),
        (changed(lambda d: d["rate_slabs"][3].update(note="x")), ["rate_slabs[3].note"]),
    ],
)
def test_violations_are_named_by_path(document: Any, expected: list[str] | None) -> None:
    found = faults(document)
    if expected is not None:
        assert found[: len(expected)] == expected


def test_all_violations_are_named_at_once() -> None:
    document = changed(
        lambda d: d.update(version="", grace_days=99, income_share_bps=-1, rate_slabs=[])
    )
    document["components"]["LOAN_COUNT"]["weight"] = 21
    assert faults(document) == [
        "version",
        "components",
        "rate_slabs",
        "income_share_bps",
        "grace_days",
    ]


def test_other_scorecards_are_possible() -> None:
    document = slabs((0, 0, None), (1, 100, 700))
    assert parse_scorecard(document).slab(0).min_rate_bps is None
    assert parse_scorecard(document).slab(1).min_rate_bps == 700
    assert parse_scorecard(slabs((0, 100, None))).slab(100).min_rate_bps is None
    open_to_all = changed(lambda d: d["components"]["LOAN_COUNT"].update(weight=0))
    open_to_all["components"]["REPAYMENT_HISTORY"]["weight"] = 55
    assert parse_scorecard(open_to_all).count_weight == 0


def test_the_minimum_principal_is_optional() -> None:
    assert STANDARD.min_principal_paise == 0
    assert "min_principal_paise" not in scorecard_document(STANDARD)
    document = {**STANDARD_DOCUMENT, "min_principal_paise": 100_000}
    scorecard = parse_scorecard(document)
    assert scorecard.min_principal_paise == 100_000
    assert scorecard_document(scorecard) == document


@pytest.mark.parametrize("least", [0, -1, 100_000_000_001, "1000", True, 1.5, None])
def test_an_invalid_minimum_principal_is_named(least: object) -> None:
    with pytest.raises(InvalidFieldsError) as caught:
        parse_scorecard({**STANDARD_DOCUMENT, "min_principal_paise": least})
    assert [each.field for each in caught.value.violations] == ["min_principal_paise"]


LATE_FEE = {"type": "late payment", "sentence": "₹500 for each installment paid late."}


def test_charges_of_loans_are_optional() -> None:
    assert STANDARD.prepayment_charge_bps == 0
    assert STANDARD.contingent_charges == ()
    charges = {"prepayment_charge_bps": 1_000, "contingent_charges": [LATE_FEE]}
    scorecard = parse_scorecard({**STANDARD_DOCUMENT, **charges})
    assert scorecard.prepayment_charge_bps == 1_000
    assert scorecard.contingent_charges == (
        ContingentCharge("late payment", "₹500 for each installment paid late."),
    )
    assert not scorecard.needs_facts
    assert scorecard_document(scorecard) == {**STANDARD_DOCUMENT, **charges}
    none = {"prepayment_charge_bps": 0, "contingent_charges": []}
    assert parse_scorecard({**STANDARD_DOCUMENT, **none}) == STANDARD


@pytest.mark.parametrize(
    ("charges", "expected"),
    [
        ({"prepayment_charge_bps": 1_001}, ["prepayment_charge_bps"]),
        ({"prepayment_charge_bps": -1}, ["prepayment_charge_bps"]),
        ({"prepayment_charge_bps": 2.5}, ["prepayment_charge_bps"]),
        ({"contingent_charges": "late fee"}, ["contingent_charges"]),
        ({"contingent_charges": [LATE_FEE] * 21}, ["contingent_charges"]),
        ({"contingent_charges": ["late fee"]}, ["contingent_charges[0]"]),
        (
            {"contingent_charges": [LATE_FEE, {"type": "x" * 51}]},
            ["contingent_charges[1].type", "contingent_charges[1].sentence"],
        ),
        (
            {"contingent_charges": [{**LATE_FEE, "sentence": "x" * 501}]},
            ["contingent_charges[0].sentence"],
        ),
        ({"contingent_charges": [{**LATE_FEE, "amount": 5}]}, ["contingent_charges[0].amount"]),
    ],
)
def test_invalid_charges_are_named_by_path(charges: dict[str, Any], expected: list[str]) -> None:
    found = faults({**STANDARD_DOCUMENT, **charges})
    assert found[: len(expected)] == expected
