"""Customers: validation, phone numbers, approved limits."""

import re
import unicodedata
from dataclasses import dataclass
from datetime import datetime

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
LIMIT_MONTHS = 36
"""The approved limit is this many months' income."""
DEFAULT_REGION = "IN"

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


def validate_new_customer(
    *,
    first_name: str,
    last_name: str,
    age: int,
    monthly_income_paise: int,
    phone_number: str,
) -> NewCustomer:
    """The cleaned customer. Raises InvalidFieldsError with every bad field by its contract name."""
    violations: list[FieldViolation] = []
    names = {"first_name": first_name, "last_name": last_name}
    for field, text in names.items():
        try:
            names[field] = clean_name(text)
        except ValueError as error:
            reason = REQUIRED if not text.strip() else INVALID_FORMAT
            violations.append(FieldViolation(field, reason, f"{field} {error}."))
    if not MIN_AGE <= age <= MAX_AGE:
        violations.append(
            FieldViolation(
                "age", OUT_OF_RANGE, f"age must be {MIN_AGE} to {MAX_AGE} years, found {age}."
            )
        )
    if not 0 < monthly_income_paise <= MAX_MONTHLY_INCOME_PAISE:
        violations.append(
            FieldViolation(
                "monthly_income",
                OUT_OF_RANGE,
                "monthly_income must be more than ₹0 and at most ₹10 crore, "
                f"found {format_inr(monthly_income_paise)}.",
            )
        )
    phone = ""
    try:
        phone = parse_phone_number(phone_number)
    except ValueError:
        reason, found = (INVALID_FORMAT, "") if phone_number.strip() else (REQUIRED, ", found none")
        message = f"phone_number must be a valid phone number such as +91 98765 98765{found}."
        violations.append(FieldViolation("phone_number", reason, message))
    if violations:
        raise InvalidFieldsError(violations)
    return NewCustomer(names["first_name"], names["last_name"], age, monthly_income_paise, phone)
