"""Stored decisions and their replay."""

import json
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from credit_service.domain.decisions import (
    decode_inputs,
    decode_outcome,
    encode_inputs,
    encode_outcome,
    replay,
)
from credit_service.domain.eligibility import Ask, decide
from credit_service.domain.positions import CreditPosition
from credit_service.domain.reasons import ReasonCode, Rules
from credit_service.domain.scorecard import STANDARD, STANDARD_DOCUMENT, parse_scorecard
from tests.unit.domain.strategies import asks, free_positions, positions

DAY = date(2024, 5, 5)
POSITION = CreditPosition(
    customer_id=101,
    version=7,
    monthly_income_paise=10_000_000,
    approved_limit_paise=360_000_000,
    current_debt_paise=50_000_000,
    current_installments_paise=1_600_000,
    loan_count=6,
    total_principal_paise=90_000_000,
    emis_on_time=48,
    emis_due=50,
    current_year_loans=3,
    as_of=date(2024, 5, 1),
    valid_until=date(2024, 6, 1),
)
ASK = Ask(100_000_000, 1253, 12)

# As stored. These bytes never change: decisions in the tables depend on them.
INPUTS = (
    '{"ask":{"annual_rate_bps":1253,"principal_paise":100000000,"tenure_months":12},'
    '"day":"2024-05-05","format":1,"position":{"approved_limit_paise":360000000,'
    '"as_of":"2024-05-01","current_debt_paise":50000000,"current_installments_paise":1600000,'
    '"current_year_loans":3,"customer_id":101,"emis_due":50,"emis_on_time":48,"loan_count":6,'
    '"monthly_income_paise":10000000,"total_principal_paise":90000000,'
    '"valid_until":"2024-06-01","version":7},"rules":2,"scorecard_version":"standard-1"}'
)
OUTCOME = (
    '{"approved":false,"corrected_rate_bps":1253,"counter_offer":'
    '{"max_principal_installment_paise":3399992,"max_principal_last_installment_paise":3399989,'
    '"max_principal_paise":38160600,"min_tenure_installment_paise":3346802,'
    '"min_tenure_last_installment_paise":3346788,"min_tenure_months":36},"format":1,'
    '"installment_paise":8909692,"last_installment_paise":8909690,"reasons":[{"code":"EMI_BURDEN_TOO_HIGH","components":[],'
    '"found":"105096.92","message":"Current installments of ₹16,000.00 and the new one of '
    "₹89,096.92 come to ₹1,05,096.92 a month, more than 50 % of the monthly income of "
    '₹1,00,000.00.","threshold":"50000.00"}],"requested_rate_bps":1253,"score":{"components":['
    '{"component":"REPAYMENT_HISTORY","found":48,"full_at":50,"max_points_hundredths":3500,'
    '"points_hundredths":3360},{"component":"LOAN_VOLUME","found":90000000,'
    '"full_at":100000000,"max_points_hundredths":2500,"points_hundredths":2250},'
    '{"component":"LOAN_COUNT","found":6,"full_at":10,"max_points_hundredths":2000,'
    '"points_hundredths":1200},{"component":"CURRENT_YEAR_ACTIVITY","found":3,"full_at":3,'
    '"max_points_hundredths":2000,"points_hundredths":2000}],"customer_version":7,'
    '"override":null,"score":88,"scorecard_version":"standard-1","valid_until":"2024-06-01"}}'
)


def test_a_decision_is_encoded_to_the_same_bytes() -> None:
    decision = decide(POSITION, ASK, STANDARD, DAY)
    assert encode_inputs(POSITION, ASK, DAY, STANDARD) == INPUTS
    assert encode_outcome(decision) == OUTCOME
    assert replay(INPUTS, STANDARD) == OUTCOME


# Written by the code of the first rules, before decisions included their last installment.
FIRST_RULES = json.loads(
    Path(__file__).with_name("decisions_of_first_rules.json").read_text(encoding="utf-8")
)


@pytest.mark.parametrize("stored", FIRST_RULES, ids=[each["name"] for each in FIRST_RULES])
def test_a_decision_by_the_first_rules_is_replayed_to_the_same_bytes(stored: Any) -> None:
    assert replay(stored["inputs"], STANDARD) == stored["outcome"]
    inputs = decode_inputs(stored["inputs"])
    assert inputs.rules is Rules.FIRST
    assert decode_outcome(stored["outcome"]).last_installment_paise is None


@pytest.mark.parametrize(
    ("name", "reasons"),
    [
        ("usual approval", []),
        ("rate corrected", []),
        ("last installment many times the others", ["EMI_BURDEN", "AMOUNT_TOO_SMALL"]),
        ("installment of nothing", ["AMOUNT_TOO_SMALL"]),
        ("debt repaid before the last month", ["AMOUNT_TOO_SMALL"]),
        ("last installment alone above the income share", ["EMI_BURDEN"]),
    ],
)
def test_the_current_rules_decide_the_same_inputs_by_themselves(
    name: str, reasons: list[str]
) -> None:
    """Each approval by the first rules, decided by the current ones."""
    (stored,) = [each for each in FIRST_RULES if each["name"] == name]
    assert decode_outcome(stored["outcome"]).approved
    document = {**json.loads(stored["inputs"]), "rules": Rules.LARGEST_INSTALLMENT}
    decision = decode_outcome(replay(json.dumps(document), STANDARD))
    assert decision.approved == (not reasons)
    for found, expected in zip(decision.reasons, reasons, strict=True):
        assert expected in found.code


any_position = st.one_of(free_positions(), positions())


@given(any_position, asks)
def test_replay_gives_the_same_bytes(position: CreditPosition, asked: Ask) -> None:
    day = position.as_of
    decision = decide(position, asked, STANDARD, day)
    inputs = encode_inputs(position, asked, day, STANDARD)
    outcome = encode_outcome(decision)
    assert replay(inputs, STANDARD) == outcome
    assert decode_inputs(inputs) == (
        position,
        asked,
        day,
        STANDARD.version,
        Rules.LARGEST_INSTALLMENT,
        (),
        None,
        frozenset(),
    )
    assert decode_outcome(outcome) == decision
    for text in (inputs, outcome):
        assert canonical(text) == text


def canonical(text: str) -> str:
    """Encoded by another implementation, which rejects floats."""

    def refuse(found: str) -> Any:
        raise AssertionError(f"a float in a decision: {found}")

    document = json.loads(text, parse_float=refuse, parse_constant=refuse)
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def test_decoded_values_have_their_original_types() -> None:
    decision = decode_outcome(OUTCOME)
    assert decision.reasons[0].code is ReasonCode.EMI_BURDEN_TOO_HIGH
    assert decision.score.components[1].explanation == (
        "₹9,00,000.00 borrowed in total; full points from ₹10,00,000.00."
    )
    assert type(decision.approved) is bool


def test_another_scorecard_decides_the_same_inputs_by_its_rules() -> None:
    generous = parse_scorecard(
        {**STANDARD_DOCUMENT, "version": "generous-1", "income_share_bps": 10_000}
    )
    decision = decode_outcome(replay(INPUTS, generous))
    assert not decision.approved
    assert decision.score.scorecard_version == "generous-1"
    assert decision.reasons[0].threshold == "100000.00"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "null",
        "{}",
        '{"format":2}',
        '{"format":1}',
        INPUTS.replace("2024-05-05", "yesterday"),
        OUTCOME,
    ],
)
def test_other_text_is_no_stored_input(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - json.loads has its own messages
        decode_inputs(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"format":1}',
        INPUTS,
        OUTCOME.replace('"max_principal_paise"', '"max_principal"'),
    ],
)
def test_other_text_is_no_stored_outcome(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - json.loads has its own messages
        decode_outcome(text)
