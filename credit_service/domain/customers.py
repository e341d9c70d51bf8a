"""Customers: validation, phone numbers, approved limits."""

import re
import unicodedata
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TypeVar

import phonenumbers

from credit_service.domain.errors import (
    INVALID_FORMAT,
    OUT_OF_RANGE,
    REQUIRED,
    FieldViolation,
    InvalidFieldsError,
)
from credit_service.domain.money import CRORE_PAISE, LAKH_PAISE, divide_half_up
from credit_service.rupees import format_inr

MAX_NAME_LENGTH = 50
MIN_AGE = 18
MAX_AGE = 120
MAX_MONTHLY_INCOME_PAISE = 10 * CRORE_PAISE
MAX_LIMIT_PAISE = 1_000 * CRORE_PAISE
LIMIT_MONTHS = 36
"""The approved limit is this many months' income."""
DEFAULT_REGION = "IN"

ERASED_NAME = "Erased"
"""First and last name of a customer whose personal data was erased."""
ERASED_PHONE_NUMBERS = 10**12
"""How many phone numbers `erased_phone_number` has."""

T = TypeVar("T")

# No country has this code, and no caller or import can give such a number.
_ERASED_PHONE_PREFIX = "+999"
_MAX_PHONE_TEXT_LENGTH = 40
# Digits of any script and their separators; the fraction of a decimal number must be zero.
_PHONE = re.compile(r"(\(?[+\uff0b]?\s?\(?\d(?:[\d\s()\u2010-\u2015\u2212-]*\d)?\)?)(?:\.0+)?")
# Direction and width marks, which messengers and web pages leave around a copied number.
_AROUND_PHONES = (
    "\u200b\u200e\u200f\u061c\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\ufeff"
)
# Control characters, surrogates, line and paragraph separators.
_FORBIDDEN_CATEGORIES = frozenset({"Cc", "Cs", "Zl", "Zp"})
# They reorder the text around them, so that one name reads as another.
_BIDI_CONTROLS = frozenset(
    "\u200e\u200f\u061c\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
)
_INVISIBLE_CATEGORIES = frozenset({"Cf", "Zs"})


@dataclass(frozen=True, slots=True)
class NewCustomer:
    """A valid customer to register: trimmed names, phone number in E.164."""

    first_name: str
    last_name: str
    age: int
    monthly_income_paise: int
    phone_number: str


@dataclass(frozen=True, slots=True)
class Customer:
    """A stored customer. `version` rises with every change that can affect a decision."""

    customer_id: int
    first_name: str
    last_name: str
    age: int
    monthly_income_paise: int
    phone_number: str
    approved_limit_paise: int
    version: int
    created_at: datetime
    # Whether an import or a caller set the limit. Servers of the previous release set limits
    # without it: `has_set_limit` knows them too.
    limit_set: bool = False

    @property
    def has_set_limit(self) -> bool:
        """Whether the limit was set, and so does not follow the income: see `has_set_limit`."""
        return has_set_limit(self.limit_set, self.approved_limit_paise, self.monthly_income_paise)


@dataclass(frozen=True, slots=True)
class CustomerChange:
    """New facts of a customer, valid ones; None leaves a fact as it is.

    `limit_by_rule` returns a limit that was set to the rule. It excludes `approved_limit_paise`.
    """

    first_name: str | None = None
    last_name: str | None = None
    age: int | None = None
    monthly_income_paise: int | None = None
    phone_number: str | None = None
    approved_limit_paise: int | None = None
    limit_by_rule: bool = False


def clean_name(text: str) -> str:
    """The trimmed name: 1 to 50 characters of any script, without control characters.

    Raises ValueError with a sentence that starts with 'must'.
    """
    # Only letters of ASCII need no check of each character.
    if text.isascii() and text.isalpha() and len(text) <= MAX_NAME_LENGTH:
        return text
    name = text.strip()
    if all(unicodedata.category(char) in _INVISIBLE_CATEGORIES for char in name):
        raise ValueError("must not be blank")
    if len(name) > MAX_NAME_LENGTH:
        raise ValueError(f"must have at most {MAX_NAME_LENGTH} characters, found {len(name)}")
    for char in name:
        if unicodedata.category(char) in _FORBIDDEN_CATEGORIES or char in _BIDI_CONTROLS:
            raise ValueError(f"must not contain control characters, found U+{ord(char):04X}")
    return name


def parse_phone_number(text: str) -> str:
    """The number in E.164, read with default region India.

    '9876598765', '+91 98765 98765' and '098765 98765' all give '+919876598765'. Only spaces,
    hyphens and parentheses may separate digits. A point makes a decimal number; '.0', which
    spreadsheets add, is dropped. Raises ValueError for an invalid number of its region.
    """
    # For the usual spellings of a national number of ten digits, the numbering plan's general
    # pattern and its pattern of mobiles give the parser's own result, 50 times as fast.
    match = _USUAL_MOBILE.fullmatch(text)
    if match is not None:
        national = match[1] + match[2]
        if _INDIAN.fullmatch(national) and _INDIAN_MOBILE.fullmatch(national):
            return f"+91{national}"
    return _parsed_phone_number(text)


def _parsed_phone_number(text: str) -> str:
    if len(text) > _MAX_PHONE_TEXT_LENGTH:
        raise ValueError("not a phone number")
    written = _PHONE.fullmatch(text.strip().strip(_AROUND_PHONES).strip())
    if written is None:
        raise ValueError("not a phone number")
    try:
        number = phonenumbers.parse(written[1], DEFAULT_REGION)
    except phonenumbers.NumberParseException as error:
        raise ValueError("not a phone number") from error
    if number.extension or not phonenumbers.is_valid_number(number):
        raise ValueError("not a valid phone number")
    return phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)


def erased_phone_number(number: int) -> str:
    """Return a phone number of no country, for a customer whose personal data was erased.

    `number` is random, from 0 to ERASED_PHONE_NUMBERS - 1: it says nothing of the former number.
    """
    return f"{_ERASED_PHONE_PREFIX}{number:012d}"


def is_erased(customer: Customer) -> bool:
    """Whether nothing is left of the customer's names and phone number."""
    names = {customer.first_name, customer.last_name}
    return names == {ERASED_NAME} and customer.phone_number.startswith(_ERASED_PHONE_PREFIX)


def load_phone_plans() -> None:
    """Load the numbering plans of all countries, in about 50 ms. Otherwise the first number of
    each country loads its file."""
    phonenumbers.PhoneMetadata.load_all()


def _indian_pattern(kind: str) -> re.Pattern[str]:
    """The numbering plan's pattern of Indian national numbers of a kind."""
    description = getattr(phonenumbers.PhoneMetadata.metadata_for_region(DEFAULT_REGION), kind)
    return re.compile(description.national_number_pattern)


_USUAL_MOBILE = re.compile(r"(?:(?:\+91|0)[ -]?)?([6-9][0-9]{4})[ -]?([0-9]{5})")
_INDIAN = _indian_pattern("general_desc")
_INDIAN_MOBILE = _indian_pattern("mobile")


def approved_limit_paise(monthly_income_paise: int) -> int:
    """36 months' income rounded half up to the nearest lakh (1_00_000 rupees), in paise."""
    return divide_half_up(LIMIT_MONTHS * monthly_income_paise, LAKH_PAISE) * LAKH_PAISE


def has_set_limit(limit_set: bool, limit_paise: int, monthly_income_paise: int) -> bool:
    """Whether an import or a caller set the limit.

    A limit that differs from the rule for the income was set, also without `limit_set`: earlier
    releases, and their servers beside this one, store limits without it. One that they set to
    exactly the rule's amount counts as not set.
    """
    return limit_set or limit_paise != approved_limit_paise(monthly_income_paise)


def changed(customer: Customer, change: CustomerChange) -> Customer:
    """The customer after the change, of the same version.

    A limit that was not set follows the income; one that was set stays until it is set again or
    returned to the rule.
    """
    income = _new(change.monthly_income_paise, customer.monthly_income_paise)
    if change.approved_limit_paise is not None:
        limit, limit_set = change.approved_limit_paise, True
    elif change.limit_by_rule:
        limit, limit_set = approved_limit_paise(income), False
    elif income == customer.monthly_income_paise:
        limit, limit_set = customer.approved_limit_paise, customer.limit_set
    elif customer.has_set_limit:
        limit, limit_set = customer.approved_limit_paise, True
    else:
        limit, limit_set = approved_limit_paise(income), False
    return replace(
        customer,
        first_name=_new(change.first_name, customer.first_name),
        last_name=_new(change.last_name, customer.last_name),
        age=_new(change.age, customer.age),
        monthly_income_paise=income,
        phone_number=_new(change.phone_number, customer.phone_number),
        approved_limit_paise=limit,
        limit_set=limit_set,
    )


def _new(value: T | None, stored: T) -> T:
    return stored if value is None else value


def validate_new_customer(
    *,
    first_name: str,
    last_name: str,
    age: int,
    monthly_income_paise: int,
    phone_number: str,
) -> NewCustomer:
    """The cleaned customer. Raises InvalidFieldsError with every bad field by its contract name."""
    change = validate_customer_change(
        first_name=first_name,
        last_name=last_name,
        age=age,
        monthly_income_paise=monthly_income_paise,
        phone_number=phone_number,
    )
    return NewCustomer(
        change.first_name or "",
        change.last_name or "",
        age,
        monthly_income_paise,
        change.phone_number or "",
    )


def validate_customer_change(
    *,
    first_name: str | None = None,
    last_name: str | None = None,
    age: int | None = None,
    monthly_income_paise: int | None = None,
    phone_number: str | None = None,
    approved_limit_paise: int | None = None,
    limit_by_rule: bool = False,
    prefix: str = "",
) -> CustomerChange:
    """The change with cleaned facts; None leaves a fact as it is. Raises InvalidFieldsError with
    every bad field by its contract name after `prefix`."""
    violations: list[FieldViolation] = []
    if first_name is not None:
        first_name = _checked_name(f"{prefix}first_name", first_name, violations)
    if last_name is not None:
        last_name = _checked_name(f"{prefix}last_name", last_name, violations)
    if age is not None and not MIN_AGE <= age <= MAX_AGE:
        message = f"{prefix}age must be {MIN_AGE} to {MAX_AGE} years, found {age}."
        violations.append(FieldViolation(f"{prefix}age", OUT_OF_RANGE, message))
    if monthly_income_paise is not None:
        _check_amount(
            f"{prefix}monthly_income",
            monthly_income_paise,
            1,
            MAX_MONTHLY_INCOME_PAISE,
            "more than ₹0 and at most ₹10 crore",
            violations,
        )
    if phone_number is not None:
        phone_number = _checked_phone_number(f"{prefix}phone_number", phone_number, violations)
    if approved_limit_paise is not None:
        _check_amount(
            f"{prefix}approved_limit",
            approved_limit_paise,
            0,
            MAX_LIMIT_PAISE,
            "₹0 to ₹1,000 crore",
            violations,
        )
    if violations:
        raise InvalidFieldsError(violations)
    return CustomerChange(
        first_name,
        last_name,
        age,
        monthly_income_paise,
        phone_number,
        approved_limit_paise,
        limit_by_rule,
    )


def _checked_name(field: str, text: str, violations: list[FieldViolation]) -> str:
    try:
        return clean_name(text)
    except ValueError as error:
        reason = REQUIRED if not text.strip() else INVALID_FORMAT
        violations.append(FieldViolation(field, reason, f"{field} {error}."))
        return text


def _check_amount(
    field: str, paise: int, least: int, most: int, bounds: str, violations: list[FieldViolation]
) -> None:
    if not least <= paise <= most:
        message = f"{field} must be {bounds}, found {format_inr(paise)}."
        violations.append(FieldViolation(field, OUT_OF_RANGE, message))


def _checked_phone_number(field: str, text: str, violations: list[FieldViolation]) -> str:
    try:
        return parse_phone_number(text)
    except ValueError:
        reason, found = (INVALID_FORMAT, "") if text.strip() else (REQUIRED, ", found none")
        message = f"{field} must be a valid phone number such as +91 98765 98765{found}."
        violations.append(FieldViolation(field, reason, message))
        return text
