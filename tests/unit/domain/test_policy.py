"""Scorecards with a policy: their documents, and what they decide."""

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from credit_service.domain.conditions import NAMES
from credit_service.domain.decisions import (
    MissingFactsError,
    decode_inputs,
    decode_outcome,
    encode_inputs,
    encode_outcome,
    replay,
)
from credit_service.domain.eligibility import Ask, Decision, Outcome, decide
from credit_service.domain.errors import InvalidFieldsError
from credit_service.domain.policy import MAX_RULES, DebtBasis, NewToCredit, OnTimeCounts
from credit_service.domain.policy_facts import AssetClass, PolicyFacts
from credit_service.domain.positions import CreditPosition
from credit_service.domain.reasons import Reason, ReasonCode, Rules
from credit_service.domain.scorecard import (
    PRUDENT_DOCUMENT,
    STANDARD,
    STANDARD_DOCUMENT,
    Scorecard,
    parse_scorecard,
    prudent,
    scorecard_document,
)
from credit_service.domain.scoring import Override, score
from tests.unit.domain.strategies import asks, free_positions

DAY = date(2024, 5, 5)
RUPEE = 100
PRUDENT = prudent()

# Income ₹1,00,000, limit ₹36,00,000, ₹5,00,000 borrowed and ₹3,00,000 of it owed.
GOOD = CreditPosition(
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
    as_of=DAY,
    valid_until=date(2024, 6, 1),
)
FACTS = PolicyFacts(
    active_loans=2,
    principal_outstanding_paise=30_000_000,
    emis_on_time_when_due=48,
    emis_fallen_due=50,
    days_past_due=0,
    asset_class=AssetClass.STANDARD,
    age=35,
    months_as_customer=14,
)
NEW = replace(
    GOOD,
    current_debt_paise=0,
    current_installments_paise=0,
    loan_count=0,
    total_principal_paise=0,
    emis_on_time=0,
    emis_due=0,
    current_year_loans=0,
)
NO_LOANS = replace(
    FACTS,
    active_loans=0,
    principal_outstanding_paise=0,
    emis_on_time_when_due=0,
    emis_fallen_due=0,
)


def rule(code: str, condition: str, outcome: str, **more: object) -> dict[str, Any]:
    return {
        "code": code,
        "condition": condition,
        "outcome": outcome,
        "message": f"{code} applies.",
        **more,
    }


def with_rules(*rules: dict[str, Any], **more: object) -> Scorecard:
    return parse_scorecard({**STANDARD_DOCUMENT, "rules": list(rules), **more})


def ask(rupees: int, bps: int = 1200, tenure: int = 12) -> Ask:
    return Ask(rupees * RUPEE, bps, tenure)


def answer(
    asked: Ask,
    scorecard: Scorecard = PRUDENT,
    position: CreditPosition = GOOD,
    facts: PolicyFacts = FACTS,
    waived: frozenset[str] = frozenset(),
) -> Decision:
    return decide(position, asked, scorecard, DAY, facts=facts, waived=waived)


def codes(decision: Decision) -> list[str]:
    return [reason.code for reason in decision.reasons]


def overdue(days: int, asset_class: AssetClass) -> PolicyFacts:
    return replace(FACTS, days_past_due=days, asset_class=asset_class)


# Documents.


def faults(change: Callable[[dict[str, Any]], object]) -> list[tuple[str, str]]:
    document = copy.deepcopy(PRUDENT_DOCUMENT)
    change(document)
    with pytest.raises(InvalidFieldsError) as caught:
        parse_scorecard(document)
    return [(each.field, each.message) for each in caught.value.violations]


def test_a_policy_survives_its_document() -> None:
    full = {
        **PRUDENT_DOCUMENT,
        "rules": [
            *PRUDENT_DOCUMENT["rules"],
            rule("DEARER", "score < 60", "MIN_RATE", min_rate_bps=1500),
            rule("SMALLER", "months_as_customer < 6", "MAX_AMOUNT", max_principal_paise=10_000_000),
        ],
    }
    for document in (PRUDENT_DOCUMENT, full, STANDARD_DOCUMENT):
        parsed = parse_scorecard(json.loads(json.dumps(document)))
        assert scorecard_document(parsed) == document
        assert parse_scorecard(scorecard_document(parsed)) == parsed


def test_a_document_without_a_policy_keeps_its_bytes() -> None:
    assert not STANDARD.needs_facts
    assert not STANDARD.score_needs_facts
    assert list(scorecard_document(STANDARD)) == list(STANDARD_DOCUMENT)
    explicit = {
        **STANDARD_DOCUMENT,
        "on_time_counts": "WHEN_PAID",
        "debt_basis": "ORIGINAL_PRINCIPAL",
    }
    assert parse_scorecard({**explicit, "rules": []}) == STANDARD


@pytest.mark.parametrize(
    "policy",
    [
        {"new_to_credit": {"max_principal_paise": 1, "min_rate_bps": 0}},
        {"on_time_counts": "WHEN_DUE"},
        {"debt_basis": "PRINCIPAL_OUTSTANDING"},
        {"rules": [rule("A", "true", "REFER")]},
    ],
)
def test_each_part_of_a_policy_needs_facts(policy: dict[str, Any]) -> None:
    scorecard = parse_scorecard({**STANDARD_DOCUMENT, **policy})
    assert scorecard.needs_facts
    with pytest.raises(ValueError, match="standard-1 needs the facts of its policy"):
        decide(GOOD, ask(1), scorecard, DAY)


def test_the_prudent_scorecard_is_that_of_the_rules() -> None:
    assert PRUDENT.version == "prudent-1"
    assert PRUDENT.new_to_credit == NewToCredit(50_000 * RUPEE, 1600)
    assert PRUDENT.on_time_counts is OnTimeCounts.WHEN_DUE
    assert PRUDENT.debt_basis is DebtBasis.PRINCIPAL_OUTSTANDING
    assert (
        replace(
            PRUDENT,
            version="standard-1",
            new_to_credit=None,
            on_time_counts=OnTimeCounts.WHEN_PAID,
            debt_basis=DebtBasis.ORIGINAL_PRINCIPAL,
            rules=(),
        )
        == STANDARD
    )


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            lambda d: d.update(new_to_credit={}),
            [
                ("new_to_credit.max_principal_paise", "is missing"),
                ("new_to_credit.min_rate_bps", "is missing"),
            ],
        ),
        (
            lambda d: d.update(new_to_credit=5),
            [
                ("new_to_credit", "must be an object"),
                ("new_to_credit.max_principal_paise", "is missing"),
                ("new_to_credit.min_rate_bps", "is missing"),
            ],
        ),
        (
            lambda d: d["new_to_credit"].update(max_principal_paise=0, min_rate_bps=10_001),
            [
                ("new_to_credit.max_principal_paise", "must be 1 to"),
                ("new_to_credit.min_rate_bps", "must be 0 to 10000, found 10001"),
            ],
        ),
        (
            lambda d: d.update(on_time_counts="NEVER", debt_basis=[]),
            [
                ("on_time_counts", "must be one of WHEN_PAID, WHEN_DUE, found 'NEVER'"),
                (
                    "debt_basis",
                    "must be one of ORIGINAL_PRINCIPAL, PRINCIPAL_OUTSTANDING, found []",
                ),
            ],
        ),
        (lambda d: d.update(rules={}), [("rules", "must be a list of rules")]),
        (lambda d: d.update(rules=["A"]), [("rules[0]", "must be an object")]),
        (
            lambda d: d.update(rules=[{}]),
            [
                ("rules[0].outcome", "is missing"),
                ("rules[0].code", "is missing"),
                ("rules[0].condition", "is missing"),
                ("rules[0].message", "is missing"),
            ],
        ),
        (
            lambda d: d["rules"][1].update(code="overdue", outcome="ACCEPT", message=" ", x=1),
            [
                ("rules[1].outcome", "must be one of DECLINE, REFER, MIN_RATE, MAX_AMOUNT"),
                ("rules[1].x", "is unknown"),
                ("rules[1].code", "must be capital letters, digits and '_'"),
                ("rules[1].message", "must be a text"),
            ],
        ),
        (
            lambda d: d["rules"][1].update(code="OVERDUE_MORE_THAN_30_DAYS"),
            [
                ("rules[1].code", "must be unique, but rules[0] is also OVERDUE_MORE_THAN_30_DAYS"),
            ],
        ),
        (
            lambda d: d["rules"][0].update(code="A" * 65),
            [
                ("rules[0].code", "must have at most 64 characters, found 65"),
            ],
        ),
        (lambda d: d["rules"][0].update(min_rate_bps=5), [("rules[0].min_rate_bps", "is unknown")]),
        (
            lambda d: d["rules"][0].update(outcome="MIN_RATE"),
            [
                ("rules[0].min_rate_bps", "is missing"),
            ],
        ),
        (
            lambda d: d["rules"][0].update(outcome="MAX_AMOUNT", max_principal_paise=0),
            [
                ("rules[0].max_principal_paise", "must be 1 to"),
            ],
        ),
        (
            lambda d: d["rules"][0].update(condition="days_past_due >\n 30 && late"),
            [
                ("rules[0].condition", "'late' is unknown; use one of score"),
            ],
        ),
        (
            lambda d: d["rules"][0].update(condition="true" + " " * 1000),
            [
                ("rules[0].condition", "must have at most 1000 characters, found 1004"),
            ],
        ),
        (
            lambda d: d["rules"][0].update(condition=True),
            [
                ("rules[0].condition", "must be a text"),
            ],
        ),
        (
            lambda d: d.update(
                rules=[rule(f"R{i}", "true", "REFER") for i in range(MAX_RULES + 1)]
            ),
            [
                ("rules", "must be at most 50, found 51"),
            ],
        ),
    ],
)
def test_every_violation_of_a_policy_is_named_with_its_path(
    change: Callable[[dict[str, Any]], object], expected: list[tuple[str, str]]
) -> None:
    found = faults(change)
    assert [field for field, _ in found] == [field for field, _ in expected]
    for (_, message), (_, problem) in zip(found, expected, strict=True):
        assert problem in message


def test_a_wrong_condition_is_named_with_its_place() -> None:
    def change(document: dict[str, Any]) -> None:
        document["rules"][0]["condition"] = "days_past_due > 30\n  || late"

    ((field, message),) = faults(change)
    assert field == "rules[0].condition"
    assert message.startswith(
        "rules[0].condition has an error at line 2, column 6: 'late' is unknown; use one of score"
    )
    assert message.endswith("months_as_customer.")


# The cases for which policies were introduced.


def test_three_loans_349_days_overdue_are_declined() -> None:
    """The standard scorecard approves it at the requested rate: its score is 65."""
    position = replace(
        GOOD,
        emis_on_time=0,
        emis_due=120,
        loan_count=10,
        total_principal_paise=10_00_000 * RUPEE,
    )
    facts = replace(
        overdue(349, AssetClass.NPA), emis_on_time_when_due=0, emis_fallen_due=120, active_loans=3
    )
    before = decide(position, ask(50_000), STANDARD, DAY)
    assert (before.approved, before.score.score) == (True, 65)
    decision = answer(ask(50_000), position=position, facts=facts)
    assert decision.outcome is Outcome.DECLINED
    assert decision.score.score == 65
    assert decision.reasons == (
        Reason(
            ReasonCode.POLICY_RULE,
            "A loan is more than 30 days past due, or the customer's loans are non-performing.",
            "days_past_due 349, asset_class 4",
            "days_past_due > 30 || asset_class == 4",
            (),
            "OVERDUE_MORE_THAN_30_DAYS",
        ),
    )
    assert decision.counter_offer is None


def test_a_customer_without_loans_borrows_a_little() -> None:
    """The standard scorecard declines every amount."""
    before = decide(NEW, ask(50_000), STANDARD, DAY)
    assert codes(before) == ["NO_CREDIT_HISTORY"]
    decision = answer(ask(50_000), position=NEW, facts=NO_LOANS)
    assert decision.approved
    assert decision.corrected_rate_bps == 1600
    assert decision.score.override is Override.NO_CREDIT_HISTORY
    assert answer(ask(50_000, 2000), position=NEW, facts=NO_LOANS).corrected_rate_bps == 2000


def test_emis_paid_ahead_count_when_they_are_due() -> None:
    """₹1,00,000 repaid five days after booking: eleven EMIs on time, none of them due."""
    position = replace(
        NEW,
        loan_count=1,
        total_principal_paise=1_00_000 * RUPEE,
        emis_on_time=11,
        emis_due=11,
        current_year_loans=1,
    )
    facts = replace(NO_LOANS, emis_on_time_when_due=0, emis_fallen_due=0)
    assert score(position, STANDARD).components[0].points_hundredths == 3500
    assert score(position, PRUDENT, facts).components[0].points_hundredths == 0
    due = replace(facts, emis_on_time_when_due=1, emis_fallen_due=2)
    assert score(position, PRUDENT, due).components[0].points_hundredths == 1750
    with pytest.raises(ValueError, match="prudent-1 needs the facts"):
        score(position, PRUDENT)


# Parts of a policy.


@pytest.mark.parametrize(
    ("days", "asset_class", "outcome"),
    [
        (0, AssetClass.STANDARD, Outcome.APPROVED),
        (1, AssetClass.SMA_0, Outcome.REFERRED),
        (30, AssetClass.SMA_0, Outcome.REFERRED),
        (31, AssetClass.SMA_1, Outcome.DECLINED),
        (91, AssetClass.NPA, Outcome.DECLINED),
        # Paid in part after it became non-performing: NPA until no arrears are left.
        (15, AssetClass.NPA, Outcome.DECLINED),
    ],
)
def test_days_past_due_decline_or_refer(
    days: int, asset_class: AssetClass, outcome: Outcome
) -> None:
    decision = answer(ask(50_000), facts=overdue(days, asset_class))
    assert decision.outcome is outcome
    assert decision.approved == (outcome is Outcome.APPROVED)
    assert len(decision.rules) == 2
    assert [each.applied for each in decision.rules] == [
        outcome is Outcome.DECLINED,
        1 <= days <= 30,
    ]


def test_the_debt_is_what_is_not_repaid() -> None:
    room = ask(33_00_000, tenure=480)
    rich = replace(GOOD, monthly_income_paise=10_00_00_000)
    assert answer(room, position=rich).approved
    decision = answer(ask(33_00_001, tenure=480), position=rich)
    (reason,) = decision.reasons
    assert reason.code == "APPROVED_LIMIT_EXCEEDED"
    assert reason.message.startswith("The principal outstanding of ₹3,00,000.00 and the loan of")
    assert decision.counter_offer is not None
    assert decision.counter_offer.max_principal_paise == room.principal_paise
    # By the original principal the limit is reached earlier.
    assert codes(decide(rich, room, STANDARD, DAY)) == ["APPROVED_LIMIT_EXCEEDED"]


def test_principal_outstanding_above_the_limit_declines() -> None:
    over = replace(FACTS, principal_outstanding_paise=GOOD.approved_limit_paise + 1)
    decision = answer(ask(1_000), facts=over)
    assert codes(decision) == ["DEBT_EXCEEDS_APPROVED_LIMIT", "APPROVED_LIMIT_EXCEEDED"]
    reason = decision.reasons[0]
    assert reason.message.startswith("The principal outstanding of ₹36,00,000.01 is already")
    at = replace(FACTS, principal_outstanding_paise=GOOD.approved_limit_paise)
    assert codes(answer(ask(1_000), facts=at)) == ["APPROVED_LIMIT_EXCEEDED"]
    # Repaid principal frees the limit that the original principal would exceed.
    lent = replace(GOOD, current_debt_paise=GOOD.approved_limit_paise + 1)
    assert codes(decide(lent, ask(1_000), STANDARD, DAY)) == [
        "DEBT_EXCEEDS_APPROVED_LIMIT",
        "APPROVED_LIMIT_EXCEEDED",
    ]
    assert answer(ask(1_000), position=lent).approved


def test_new_to_credit_has_a_largest_principal_and_all_other_limits() -> None:
    decision = answer(ask(50_001), position=NEW, facts=NO_LOANS)
    assert decision.outcome is Outcome.DECLINED
    (reason,) = decision.reasons
    assert (reason.code, reason.found, reason.threshold) == (
        "NEW_TO_CREDIT_AMOUNT_EXCEEDED",
        "50001.00",
        "50000.00",
    )
    assert decision.counter_offer is not None
    assert decision.counter_offer.max_principal_paise == 50_000 * RUPEE
    poor = replace(NEW, monthly_income_paise=100_000, approved_limit_paise=10_000_00)
    assert codes(answer(ask(50_001), position=poor, facts=NO_LOANS)) == [
        "EMI_BURDEN_TOO_HIGH",
        "APPROVED_LIMIT_EXCEEDED",
        "NEW_TO_CREDIT_AMOUNT_EXCEEDED",
    ]


def test_new_to_credit_counts_what_open_offers_hold() -> None:
    holding = replace(NEW, held_principal_paise=30_000 * RUPEE, held_installments_paise=300_000)
    assert answer(ask(20_000), position=holding, facts=NO_LOANS).approved
    decision = answer(ask(20_001), position=holding, facts=NO_LOANS)
    (reason,) = decision.reasons
    assert reason == Reason(
        ReasonCode.NEW_TO_CREDIT_AMOUNT_EXCEEDED,
        "The held credit of ₹30,000.00 and the loan of ₹20,001.00 come to ₹50,001.00, more than "
        "₹50,000.00, the most that is lent to a customer without any loan on record.",
        "50001.00",
        "50000.00",
    )
    assert decision.counter_offer is not None
    assert decision.counter_offer.max_principal_paise == 20_000 * RUPEE
    full = replace(holding, held_principal_paise=50_000 * RUPEE)
    assert answer(ask(1_000), position=full, facts=NO_LOANS).counter_offer is None
    # The second edition counted the loan alone.
    second = Rules.LARGEST_INSTALLMENT
    assert decide(full, ask(1_000), PRUDENT, DAY, second, facts=NO_LOANS).approved


def test_a_rule_raises_the_rate() -> None:
    scorecard = with_rules(
        rule("DEAR", "tenure_months > 6", "MIN_RATE", min_rate_bps=1500),
        rule("DEARER", "loan_amount >= 5000000", "MIN_RATE", min_rate_bps=1800),
        rule("NEVER", "false", "MIN_RATE", min_rate_bps=9000),
    )
    rates = [
        answer(asked, scorecard).corrected_rate_bps
        for asked in (ask(49_999, tenure=6), ask(49_999), ask(50_000), ask(50_000, 1900))
    ]
    assert rates == [1200, 1500, 1800, 1900]
    raised = answer(ask(50_000), scorecard)
    assert raised.installment_paise == answer(ask(50_000, 1800), scorecard).installment_paise


def test_the_installment_share_is_at_the_rate_before_rules_raise_it() -> None:
    """₹16,000 and ₹24,000 are 40 % of ₹1,00,000 at rate 0; a rate of 50 % exceeds the share."""
    scorecard = with_rules(
        rule("DEAR", "true", "MIN_RATE", min_rate_bps=5000),
        rule("SHARE", "installment_share_bps == 4000", "REFER"),
    )
    decision = answer(ask(2_88_000, 0, 12), scorecard)
    assert decision.rules[1].values == (("installment_share_bps", 4000),)
    assert decision.outcome is Outcome.REFERRED
    above = answer(ask(3_60_000, 0, 12), scorecard)
    assert codes(above) == ["EMI_BURDEN_TOO_HIGH"]


def test_the_lowest_maximum_caps_the_principal() -> None:
    scorecard = with_rules(
        rule("CAP", "age < 60", "MAX_AMOUNT", max_principal_paise=200_000_00),
        rule("LOWER", "months_as_customer < 24", "MAX_AMOUNT", max_principal_paise=100_000_00),
        rule("NEVER", "false", "MAX_AMOUNT", max_principal_paise=1),
    )
    assert answer(ask(1_00_000), scorecard).approved
    decision = answer(ask(1_00_001), scorecard)
    (reason,) = decision.reasons
    assert reason.code == "POLICY_AMOUNT_EXCEEDED"
    assert reason.rule_code == "LOWER"
    assert reason.message == ("The loan of ₹1,00,001.00 is more than ₹1,00,000.00. LOWER applies.")
    assert (reason.found, reason.threshold) == ("100001.00", "100000.00")
    assert decision.counter_offer is not None
    assert decision.counter_offer.max_principal_paise == 100_000_00
    assert decision.counter_offer.min_tenure_months is None


def test_reasons_are_ranked_and_at_most_four() -> None:
    scorecard = with_rules(
        rule("FIRST", "days_past_due > 0", "DECLINE"),
        rule("REFERS", "true", "REFER"),
        rule("SECOND", "age > 18", "DECLINE"),
        rule("CAP", "true", "MAX_AMOUNT", max_principal_paise=1),
    )
    bad = replace(GOOD, emis_on_time=0, loan_count=1, total_principal_paise=1, current_year_loans=0)
    facts = overdue(5, AssetClass.SMA_0)
    decision = answer(ask(90_00_000), scorecard, bad, facts)
    assert codes(decision) == [
        "CREDIT_SCORE_TOO_LOW",
        "POLICY_RULE",
        "POLICY_RULE",
        "EMI_BURDEN_TOO_HIGH",
    ]
    assert [reason.rule_code for reason in decision.reasons] == ["", "FIRST", "SECOND", ""]
    assert codes(answer(ask(90_00_000), scorecard, GOOD, replace(FACTS, age=18))) == [
        "EMI_BURDEN_TOO_HIGH",
        "APPROVED_LIMIT_EXCEEDED",
        "POLICY_AMOUNT_EXCEEDED",
    ]


def test_a_decline_outranks_a_referral() -> None:
    facts = overdue(5, AssetClass.SMA_0)
    decision = answer(ask(90_00_000), facts=facts)
    assert decision.outcome is Outcome.DECLINED
    assert "POLICY_RULE" not in codes(decision)
    assert decision.rules[1].applied


def test_a_waived_rule_no_longer_refers_and_all_others_are_in_force() -> None:
    facts = overdue(5, AssetClass.SMA_0)
    referred = answer(ask(50_000), facts=facts)
    assert codes(referred) == ["POLICY_RULE"]
    assert referred.reasons[0].found == "days_past_due 5"
    waived = frozenset({"OVERDUE_UP_TO_30_DAYS", "OVERDUE_MORE_THAN_30_DAYS"})
    approved = answer(ask(50_000), facts=facts, waived=waived)
    assert approved.approved
    assert approved.rules[1].applied
    # A rule that declines is never waived, and neither are the limits.
    worse = overdue(40, AssetClass.SMA_1)
    assert answer(ask(50_000), facts=worse, waived=waived).outcome is Outcome.DECLINED
    assert answer(ask(90_00_000), facts=facts, waived=waived).outcome is Outcome.DECLINED
    other = frozenset({"ANOTHER"})
    assert answer(ask(50_000), facts=facts, waived=other).outcome is Outcome.REFERRED


@pytest.mark.parametrize("outcome", ["DECLINE", "REFER", "MIN_RATE", "MAX_AMOUNT"])
@pytest.mark.parametrize(
    ("condition", "problem"),
    [
        ("100 / days_past_due > 1", "division by 0"),
        ("loan_amount * loan_amount * loan_amount > 1", "the result is outside of 64 bits"),
    ],
)
def test_a_rule_without_a_result_refers(outcome: str, condition: str, problem: str) -> None:
    amounts = {"MIN_RATE": {"min_rate_bps": 1}, "MAX_AMOUNT": {"max_principal_paise": 1}}
    scorecard = with_rules(rule("BROKEN", condition, outcome, **amounts.get(outcome, {})))
    decision = answer(ask(50_000), scorecard)
    assert decision.outcome is Outcome.REFERRED
    (result,) = decision.rules
    assert (result.applied, result.error) == (False, problem)
    (reason,) = decision.reasons
    assert (reason.code, reason.rule_code, reason.threshold) == ("POLICY_RULE", "BROKEN", condition)
    assert reason.message == f"The rule BROKEN has no result ({problem}); a reviewer decides."
    assert answer(ask(50_000), scorecard, waived=frozenset({"BROKEN"})).approved
    assert replayed(ask(50_000), scorecard) == encode_outcome(decision)


def test_counter_offers_pass_every_rule() -> None:
    exact = decide(GOOD, ask(10_00_000), STANDARD, DAY).counter_offer
    assert exact is not None
    assert exact.min_tenure_months == 36
    # The rule declines 36 months, which would fit the income share.
    long = with_rules(rule("LONG", "tenure_months > 24", "DECLINE"))
    decision = answer(ask(10_00_000), long)
    assert codes(decision) == ["EMI_BURDEN_TOO_HIGH"]
    assert decision.counter_offer == replace(
        exact,
        min_tenure_months=None,
        min_tenure_installment_paise=None,
        min_tenure_last_installment_paise=None,
    )
    # A rule that refers every amount leaves nothing that would be approved.
    refers = with_rules(rule("ANY", "loan_amount > 0 && age > 30", "REFER"))
    assert answer(ask(10_00_000), refers).counter_offer is None


def test_counter_offers_are_the_largest_and_shortest_that_rules_approve() -> None:
    share = "installment_share_bps > 3000"
    for policy in (
        [rule("SHARE", share, "DECLINE")],
        [rule("SHARE", share, "REFER")],
        # It applies to large installments only, so it is no limit of all amounts.
        [rule("SHARE", share, "MAX_AMOUNT", max_principal_paise=1_000)],
        [rule("BROKEN", f"1 / (({share}) ? 0 : 1) == 1", "MIN_RATE", min_rate_bps=0)],
    ):
        scorecard = with_rules(*policy)
        offer = answer(ask(10_00_000), scorecard).counter_offer
        assert offer is not None
        assert offer.max_principal_paise is not None
        assert offer.min_tenure_months is not None
        most, fewest = offer.max_principal_paise, offer.min_tenure_months
        assert answer(Ask(most, 1200, 12), scorecard).approved
        assert not answer(Ask(most + RUPEE, 1200, 12), scorecard).approved
        assert answer(ask(10_00_000, tenure=fewest), scorecard).approved
        assert not answer(ask(10_00_000, tenure=fewest - 1), scorecard).approved
        assert most > 1_00_000 * RUPEE


def test_a_rule_that_the_terms_cannot_change_leaves_no_counter_offer() -> None:
    scorecard = with_rules(
        rule("OLD", "age > 30", "DECLINE"), rule("T", "loan_amount > 1", "REFER")
    )
    assert answer(ask(10_00_000), scorecard).counter_offer is None


def test_decisions_of_the_second_edition_keep_their_counter_offers() -> None:
    scorecard = with_rules(rule("SHARE", "installment_share_bps > 3000", "DECLINE"))
    by_second = decide(GOOD, ask(10_00_000), scorecard, DAY, Rules.LARGEST_INSTALLMENT, facts=FACTS)
    assert by_second.counter_offer is None
    inputs = json.loads(encode_inputs(GOOD, ask(10_00_000), DAY, scorecard, facts=FACTS))
    assert inputs["rules"] == Rules.POLICY_WITH_HOLDS
    inputs["rules"] = Rules.LARGEST_INSTALLMENT
    assert replay(json.dumps(inputs), scorecard) == encode_outcome(by_second)
    # Another scorecard decides as it would today.
    other = replace(scorecard, version="other")
    assert decode_outcome(replay(json.dumps(inputs), other)).counter_offer is not None


def test_a_rule_gets_the_value_of_every_name() -> None:
    position = replace(GOOD, held_principal_paise=70, held_installments_paise=400_000)
    scorecard = with_rules(rule("ALL", f"{' + '.join(NAMES)} < 0", "REFER"))
    decision = answer(ask(50_000, 0, 10), scorecard, position)
    assert dict(decision.rules[0].values) == {
        "score": 88,
        "days_past_due": 0,
        "asset_class": 0,
        "active_loans": 2,
        "loan_count": 6,
        "principal_outstanding": 30_000_000,
        "held": 70,
        "age": 35,
        "monthly_income": 10_000_000,
        # 16,000 + 4,000 + 5,000 of 1,00,000.
        "installment_share_bps": 2_500,
        "loan_amount": 5_000_000,
        "tenure_months": 10,
        "months_as_customer": 14,
    }
    rules = (Path(__file__).parents[3] / "docs" / "rules.md").read_text(encoding="utf-8")
    assert all(f"`{name}`" in rules for name in NAMES)


# Laws.

facts_of = st.builds(
    PolicyFacts,
    active_loans=st.integers(0, 15),
    principal_outstanding_paise=st.integers(0, 3 * 10**8),
    emis_on_time_when_due=st.integers(0, 200),
    emis_fallen_due=st.integers(200, 400),
    days_past_due=st.integers(0, 400),
    asset_class=st.sampled_from(AssetClass),
    age=st.integers(18, 120),
    months_as_customer=st.integers(0, 600),
)
conditions = st.sampled_from(
    [
        "true",
        "false",
        "days_past_due > 30",
        "asset_class in [1, 2]",
        "installment_share_bps > 3000",
        "loan_amount > 10000000 && tenure_months < 24",
        "principal_outstanding * 2 > monthly_income",
        "100 / days_past_due > 3",
        "loan_amount * loan_amount > 0",
        "age < 21 || months_as_customer < 6",
    ]
)
rule_documents = st.one_of(
    st.builds(rule, st.just("D"), conditions, st.just("DECLINE")),
    st.builds(rule, st.just("R"), conditions, st.just("REFER")),
    st.builds(
        rule, st.just("M"), conditions, st.just("MIN_RATE"), min_rate_bps=st.integers(0, 10_000)
    ),
    st.builds(
        rule,
        st.just("C"),
        conditions,
        st.just("MAX_AMOUNT"),
        max_principal_paise=st.integers(1, 10**9),
    ),
)
policies = st.fixed_dictionaries(
    {},
    optional={
        "new_to_credit": st.fixed_dictionaries(
            {
                "max_principal_paise": st.integers(1, 10**8),
                "min_rate_bps": st.integers(0, 5_000),
            }
        ),
        "on_time_counts": st.sampled_from(OnTimeCounts),
        "debt_basis": st.sampled_from(DebtBasis),
        "rules": st.lists(rule_documents, max_size=4, unique_by=lambda each: each["code"]),
    },
)


def replayed(
    asked: Ask,
    scorecard: Scorecard,
    position: CreditPosition = GOOD,
    facts: PolicyFacts = FACTS,
    waived: frozenset[str] = frozenset(),
) -> str:
    inputs = encode_inputs(position, asked, DAY, scorecard, facts=facts, waived=waived)
    return replay(inputs, scorecard)


@given(free_positions(), asks, facts_of, policies, st.booleans())
@settings(max_examples=200)
def test_laws_of_decisions_with_a_policy(
    position: CreditPosition, asked: Ask, facts: PolicyFacts, policy: dict[str, Any], waive: bool
) -> None:
    scorecard = parse_scorecard({**STANDARD_DOCUMENT, **policy})
    waived = frozenset({"R"}) if waive else frozenset[str]()
    decision = answer(asked, scorecard, position, facts, waived)
    outcome = encode_outcome(decision)

    # A replay gives the same bytes, and stored decisions are read as they were made.
    assert replayed(asked, scorecard, position, facts, waived) == outcome
    assert decode_outcome(outcome) == decision
    inputs = decode_inputs(
        encode_inputs(position, asked, DAY, scorecard, facts=facts, waived=sorted(waived))
    )
    assert (inputs.facts, inputs.waived, inputs.unknown) == (facts, waived, ())

    # Every rule is evaluated, in order.
    assert [each.code for each in decision.rules] == [each.code for each in scorecard.rules]
    assert decision.approved == (decision.outcome is Outcome.APPROVED) == (not decision.reasons)
    assert len(decision.reasons) <= 4
    applied = {each.code for each in decision.rules if each.applied}
    if decision.approved:
        assert "D" not in applied
        assert waive or "R" not in applied
        for each in scorecard.rules:
            if each.code in applied and each.max_principal_paise is not None:
                assert asked.principal_paise <= each.max_principal_paise
            if each.code in applied and each.min_rate_bps is not None:
                assert decision.corrected_rate_bps >= each.min_rate_bps
    if decision.outcome is Outcome.REFERRED:
        assert decision.counter_offer is None
        assert {reason.code for reason in decision.reasons} == {ReasonCode.POLICY_RULE}
    check_counter_offer(decision, scorecard, position, asked, facts, waived)

    # Without a policy, facts change nothing.
    if not scorecard.needs_facts:
        assert outcome == encode_outcome(decide(position, asked, STANDARD, DAY))


def check_counter_offer(
    decision: Decision,
    scorecard: Scorecard,
    position: CreditPosition,
    asked: Ask,
    facts: PolicyFacts,
    waived: frozenset[str],
) -> None:
    """What is offered is approved, with the installments of the offer; one rupee more and one month
    less are not, at the same rate."""
    offer = decision.counter_offer
    if offer is None:
        return
    halves = [
        (offer.max_principal_paise, asked.tenure_months, offer.max_principal_installment_paise),
        (asked.principal_paise, offer.min_tenure_months, offer.min_tenure_installment_paise),
    ]
    for principal, tenure, installment in halves:
        if principal is None or tenure is None:
            continue
        other = Ask(principal, asked.annual_rate_bps, tenure)
        offered = answer(other, scorecard, position, facts, waived)
        assert offered.approved
        assert offered.installment_paise == installment
        assert offered.corrected_rate_bps == decision.corrected_rate_bps
    beyond = []
    if offer.max_principal_paise is not None:
        beyond.append((offer.max_principal_paise + RUPEE, asked.tenure_months))
    if offer.min_tenure_months is not None and offer.min_tenure_months > 1:
        beyond.append((asked.principal_paise, offer.min_tenure_months - 1))
    for principal, tenure in beyond:
        other = Ask(principal, asked.annual_rate_bps, tenure)
        refused = answer(other, scorecard, position, facts, waived)
        assert not refused.approved or refused.corrected_rate_bps != decision.corrected_rate_bps


# Stored decisions.


def test_a_decision_with_a_policy_is_encoded_to_the_same_bytes() -> None:
    inputs = encode_inputs(
        GOOD, ask(50_000), DAY, PRUDENT, facts=overdue(5, AssetClass.SMA_0), waived={"B", "A"}
    )
    document = json.loads(inputs)
    assert document["facts"] == {
        "active_loans": 2,
        "age": 35,
        "asset_class": 1,
        "days_past_due": 5,
        "emis_fallen_due": 50,
        "emis_on_time_when_due": 48,
        "months_as_customer": 14,
        "principal_outstanding_paise": 30000000,
    }
    assert document["waived"] == ["A", "B"]
    outcome = encode_outcome(answer(ask(50_000), facts=overdue(5, AssetClass.SMA_0)))
    assert '"outcome":"REFERRED"' in outcome
    assert (
        '"rules":[{"applied":false,"code":"OVERDUE_MORE_THAN_30_DAYS",'
        '"condition":"days_past_due > 30 || asset_class == 4","outcome":"DECLINE",'
        '"values":[["days_past_due",5],["asset_class",1]]},'
        '{"applied":true,"code":"OVERDUE_UP_TO_30_DAYS",'
        '"condition":"days_past_due >= 1 && days_past_due <= 30","outcome":"REFER",'
        '"values":[["days_past_due",5]]}]'
    ) in outcome


def test_a_decision_without_facts_is_not_replayed_with_a_policy() -> None:
    inputs = encode_inputs(GOOD, ask(50_000), DAY, STANDARD)
    assert "facts" not in inputs
    assert "waived" not in inputs
    with pytest.raises(MissingFactsError, match="without the facts that scorecard prudent-1 needs"):
        replay(inputs, PRUDENT)


def test_facts_of_a_later_release_are_named() -> None:
    document = json.loads(encode_inputs(GOOD, ask(1), DAY, PRUDENT, facts=FACTS))
    document["facts"]["mood"] = 1
    assert decode_inputs(json.dumps(document)).unknown == ("facts.mood",)
