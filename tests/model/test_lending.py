"""The published values of the lending rules, computed by the model alone: it judges the service, so
that a mistake in it would hide one there."""

from datetime import date

import pytest

from tests.model.loans import (
    FORECLOSURE,
    INSTALLMENTS,
    PART_PREPAYMENT,
    REDUCE_INSTALLMENT,
    REDUCE_TENURE,
    Facts,
    class_of,
    days_past_due,
    emi,
    replay,
)

LAKH = 1_00_000_00


def loan(start: date, *payments: Facts) -> Facts:
    """₹1,00,000 at 12 % over 12 months."""
    return {
        "principal": LAKH,
        "bps": 1200,
        "tenure": 12,
        "installment": emi(LAKH, 1200, 12),
        "start": start,
        "source_on_time": 0,
        "settled_before": 0,
        "closed_before": None,
        "payments": list(payments),
    }


def payment(
    number: int, amount: int, day: date, purpose: str = INSTALLMENTS, effect: str = ""
) -> Facts:
    return {
        "number": number,
        "amount": amount,
        "day": day,
        "purpose": purpose,
        "effect": effect,
        "charge": 0,
        "grace": 0,
        "reversed": False,
    }


def three_paid() -> Facts:
    return loan(
        date(2026, 1, 15),
        *(payment(month, 8_884_88, date(2026, 1 + month, 15)) for month in (1, 2, 3)),
    )


def test_a_part_prepayment_leaves_seven_installments() -> None:
    facts = three_paid()
    facts["payments"].append(
        payment(4, 20_000_00, date(2026, 4, 25), PART_PREPAYMENT, REDUCE_TENURE)
    )
    left = replay(facts).lines[3:]
    asked = [line["principal"] + line["interest"] for line in left]
    assert asked == [8_884_88] * 6 + [5_019_66]
    assert sum(line["interest"] for line in left) == 2_220_92


def test_a_part_prepayment_can_lower_the_installment() -> None:
    facts = three_paid()
    facts["payments"].append(
        payment(4, 20_000_00, date(2026, 4, 25), PART_PREPAYMENT, REDUCE_INSTALLMENT)
    )
    life = replay(facts)
    assert life.tenure == 12
    assert life.installment < 8_884_88
    assert life.lines[-1]["balance"] == 0


def test_a_foreclosure_five_days_after_the_start() -> None:
    facts, day = loan(date(2026, 1, 1)), date(2026, 1, 6)
    assert replay(facts).quote(day) == 1_00_161_29
    facts["payments"].append(payment(1, 1_00_161_29, day, FORECLOSURE))
    life = replay(facts)
    assert (life.closed_on, life.tenure, life.unpaid(), life.excess) == (day, 1, 0, 0)
    facts["payments"][0]["amount"] -= 1
    assert replay(facts).closed_on is None


@pytest.mark.parametrize(
    ("day", "found"),
    [
        (date(2021, 3, 30), "STANDARD"),
        (date(2021, 3, 31), "SMA_0"),
        (date(2021, 4, 29), "SMA_0"),
        (date(2021, 4, 30), "SMA_1"),
        (date(2021, 5, 30), "SMA_2"),
        (date(2021, 6, 28), "SMA_2"),
        (date(2021, 6, 29), "NPA"),
    ],
)
def test_classes_of_the_circular(day: date, found: str) -> None:
    assert class_of([replay(loan(date(2021, 2, 28)))], date(2021, 3, 27)) == "STANDARD"
    late = replay(
        loan(
            date(2020, 12, 31),
            *(payment(month, 8_884_88, date(2021, month, 28)) for month in (1, 2)),
        )
    )
    assert class_of([late], day) == found


def test_npa_stays_until_nothing_is_in_arrears() -> None:
    facts = loan(date(2021, 1, 31), payment(1, 3 * 8_884_88, date(2021, 6, 30)))
    life = replay(facts)
    assert days_past_due([life], date(2021, 6, 30)) == 31
    assert class_of([life], date(2021, 6, 30)) == "NPA"
    facts["payments"].append(payment(2, 2 * 8_884_88, date(2021, 7, 1)))
    assert class_of([replay(facts)], date(2021, 7, 1)) == "STANDARD"


def test_the_order_of_recording_does_not_matter() -> None:
    facts = three_paid()
    for number, each in enumerate(reversed(facts["payments"])):
        each["number"] = number
    assert [line["settled_on"] for line in replay(facts).lines[:3]] == [
        date(2026, month, 15) for month in (2, 3, 4)
    ]
