"""Validation of customers."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from credit_service.domain import customers
from credit_service.domain.customers import (
    MAX_MONTHLY_INCOME_PAISE,
    Customer,
    CustomerChange,
    NewCustomer,
    approved_limit_paise,
    changed,
    clean_name,
    parse_phone_number,
    validate_new_customer,
)
from credit_service.domain.errors import InvalidFieldsError
from credit_service.domain.money import LAKH_PAISE


@pytest.mark.parametrize(
    ("income_rupees", "limit_rupees"),
    [
        (12_500, 500_000),
        (62_500, 2_300_000),
        (1_388, 0),
        (1_389, 100_000),
        (50_000, 1_800_000),
        (100_000_000, 3_600_000_000),
    ],
)
def test_approved_limits_are_half_up(income_rupees: int, limit_rupees: int) -> None:
    assert approved_limit_paise(income_rupees * 100) == limit_rupees * 100


@given(st.integers(1, MAX_MONTHLY_INCOME_PAISE))
def test_a_limit_is_the_nearest_lakh(income: int) -> None:
    limit = approved_limit_paise(income)
    assert limit % LAKH_PAISE == 0
    assert -LAKH_PAISE < 2 * (limit - 36 * income) <= LAKH_PAISE


@pytest.mark.parametrize(
    "text",
    [
        "9876598765",
        "+91 98765 98765",
        "098765 98765",
        "+91-98765-98765",
        "(098765) 98765",
        "९८७६५९८७६५",
        "(+91) 98765-98765",
        "+91\u00a098765\u201198765",
        "\u202a+91 98765 98765\u202c",
        "9876598765.0",
        "+91 98765 98765.00",
    ],
)
def test_all_forms_of_a_phone_number_are_equal(text: str) -> None:
    assert parse_phone_number(text) == "+919876598765"


def test_foreign_numbers_are_numbers_too() -> None:
    assert parse_phone_number("+44 20 7946 0958") == "+442079460958"


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "12345",
        "call me 9876598765",
        "9876598765 ext 5",
        "9876598765x5",
        "9876598765#5",
        "9876598765;ext=5",
        "tel:+919876598765",
        "98765987659876598765",
        "+",
        "+91",
        "9" * 5000,
        "98765\x0098765\x00\x00abc",
        "+999 98765 98765",
        # A point makes a decimal number; it is no separator.
        "987659876.5",
        "987659876.0",
        "9.876598765",
        "98765.98765",
        "+91 987659876.5",
        "9876598765.05",
        "9876598765.",
        "9.876598765E+09",
        "-9876598765",
        "'9876598765",
        "98765/98765",
        "98765,98765",
        "*9876598765",
        "++919876598765",
        "98765\n98765",
    ],
)
def test_invalid_phone_numbers_are_rejected(text: str) -> None:
    with pytest.raises(ValueError, match="phone number"):
        parse_phone_number(text)


separators = st.sampled_from(["", " ", "-", ".", "  ", "("])


@given(
    st.sampled_from(["", "+91", "0", "91", "+", "00", "+1", "0091"]),
    separators,
    st.text("0123456789", min_size=4, max_size=6),
    separators,
    st.text("0123456789", min_size=4, max_size=6),
)
@example("", "-", "60000", "", "00000")
def test_the_usual_spellings_give_what_the_parser_gives(
    prefix: str, first: str, head: str, second: str, tail: str
) -> None:
    text = prefix + first + head + second + tail
    try:
        expected = customers._parsed_phone_number(text)
    except ValueError:
        with pytest.raises(ValueError, match="phone number"):
            parse_phone_number(text)
    else:
        assert parse_phone_number(text) == expected


@given(st.integers(6_000_000_000, 9_999_999_999))
def test_indian_mobiles_give_what_the_parser_gives(number: int) -> None:
    test_the_usual_spellings_give_what_the_parser_gives.hypothesis.inner_test(  # type: ignore[attr-defined] # of hypothesis
        "", "", str(number)[:5], "", str(number)[5:]
    )


@given(st.text(max_size=60))
def test_any_text_is_a_number_or_rejected(text: str) -> None:
    try:
        number = parse_phone_number(text)
    except ValueError:
        return
    assert number.startswith("+")
    assert number[1:].isdigit()
    assert parse_phone_number(number) == number


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("  Asha ", "Asha"),
        ("ஆஷா", "ஆஷா"),
        ("क्‍ष", "क्‍ष"),
        ("O'Neil-Smith Jr.", "O'Neil-Smith Jr."),
        ("x" * 50, "x" * 50),
        ("李", "李"),
        (" " + "x" * 50 + "\u00a0", "x" * 50),
    ],
)
def test_names_of_any_script_are_accepted(text: str, name: str) -> None:
    assert clean_name(text) == name


@pytest.mark.parametrize(
    "text",
    [
        "",
        "   ",
        "\u200b",
        "\u200d \u200d",
        "x" * 51,
        "a\nb",
        "a\x00b",
        "a\x7fb",
        "a\u2028b",
        "a\u202eb",
        "a\ud800b",
        "a\x85b",
    ],
)
def test_invalid_names_are_rejected(text: str) -> None:
    with pytest.raises(ValueError, match="must"):
        clean_name(text)


def valid(**changes: object) -> NewCustomer:
    values: dict[str, object] = {
        "first_name": " Asha ",
        "last_name": "Rao",
        "age": 30,
        "monthly_income_paise": 5_000_000,
        "phone_number": "098765 98765",
        **changes,
    }
    return validate_new_customer(**values)  # type: ignore[arg-type]  # values by name, of any type


def test_a_customer_is_cleaned() -> None:
    assert valid() == NewCustomer("Asha", "Rao", 30, 5_000_000, "+919876598765")


def test_all_invalid_fields_are_named_at_once() -> None:
    with pytest.raises(InvalidFieldsError) as caught:
        valid(
            first_name=" ",
            last_name="a\tb",
            age=17,
            monthly_income_paise=0,
            phone_number="123",
        )
    assert [(each.field, each.reason) for each in caught.value.violations] == [
        ("first_name", "REQUIRED"),
        ("last_name", "INVALID_FORMAT"),
        ("age", "OUT_OF_RANGE"),
        ("monthly_income", "OUT_OF_RANGE"),
        ("phone_number", "INVALID_FORMAT"),
    ]
    assert caught.value.metadata["fields"] == (
        "first_name,last_name,age,monthly_income,phone_number"
    )


@pytest.mark.parametrize(
    ("field", "value", "fits"),
    [
        ("age", 18, True),
        ("age", 120, True),
        ("age", 121, False),
        ("age", -1, False),
        ("monthly_income_paise", 1, True),
        ("monthly_income_paise", 10_000_000_000, True),
        ("monthly_income_paise", 10_000_000_001, False),
        ("monthly_income_paise", -5, False),
        ("phone_number", "", False),
    ],
)
def test_bounds(field: str, value: object, fits: bool) -> None:
    if fits:
        valid(**{field: value})
    else:
        with pytest.raises(InvalidFieldsError):
            valid(**{field: value})


CUSTOMER = Customer(
    1,
    "Asha",
    "Rao",
    30,
    5_000_000,
    "+919876598765",
    180_000_000,
    3,
    datetime(2026, 1, 1, tzinfo=UTC),
)


@given(
    st.integers(1, MAX_MONTHLY_INCOME_PAISE),
    st.none() | st.integers(0, customers.MAX_LIMIT_PAISE),
    st.none() | st.integers(1, MAX_MONTHLY_INCOME_PAISE),
    st.none() | st.integers(0, customers.MAX_LIMIT_PAISE),
    st.booleans(),
)
def test_a_limit_follows_the_income_unless_it_was_set(
    income: int, set_limit: int | None, new_income: int | None, new_limit: int | None, rule: bool
) -> None:
    limit = approved_limit_paise(income) if set_limit is None else set_limit
    before = replace(
        CUSTOMER,
        monthly_income_paise=income,
        approved_limit_paise=limit,
        limit_set=set_limit is not None,
    )
    change = CustomerChange(
        monthly_income_paise=new_income,
        approved_limit_paise=new_limit,
        limit_by_rule=rule and new_limit is None,
    )
    after = changed(before, change)
    by_rule = approved_limit_paise(after.monthly_income_paise)
    if new_limit is not None:
        assert (after.approved_limit_paise, after.has_set_limit) == (new_limit, True)
    elif rule or set_limit is None:
        assert (after.approved_limit_paise, after.has_set_limit) == (by_rule, False)
    else:
        assert (after.approved_limit_paise, after.has_set_limit) == (limit, True)
    assert after.monthly_income_paise == (new_income or income)
    assert changed(after, change) == after
    assert (after.version, after.first_name) == (before.version, before.first_name)


def test_a_change_names_every_bad_fact_with_its_path() -> None:
    with pytest.raises(InvalidFieldsError) as caught:
        customers.validate_customer_change(
            first_name=" ",
            last_name="A" * 51,
            age=17,
            monthly_income_paise=0,
            phone_number="12",
            approved_limit_paise=-1,
            prefix="customer.",
        )
    assert [each.field for each in caught.value.violations] == [
        "customer.first_name",
        "customer.last_name",
        "customer.age",
        "customer.monthly_income",
        "customer.phone_number",
        "customer.approved_limit",
    ]
    assert all(each.message.startswith(each.field) for each in caught.value.violations)
    assert customers.validate_customer_change(first_name=" Asha ") == CustomerChange("Asha")
