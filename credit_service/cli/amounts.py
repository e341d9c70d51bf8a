"""Parse amounts and rates that people write into the types of the contract."""

import re

from google.type.decimal_pb2 import Decimal as DecimalMessage
from google.type.money_pb2 import Money

from credit_service.cli.common import UsageError

_AMOUNT = re.compile(r"₹?\s*([0-9][0-9,]{0,17})(?:\.([0-9]{1,2}))?")
_RATE = re.compile(r"([0-9]{1,6}(?:\.[0-9]{1,6})?)\s*%?")


def read_money(text: str) -> Money:
    """Return rupees from text such as '100000', '1,00,000.50' or '₹500'. Raises UsageError."""
    match = _AMOUNT.fullmatch(text.strip())
    if match is None:
        raise UsageError(
            f"{text!r} is not an amount in rupees: write for example 100000 or 1,00,000.50, with "
            "at most two decimals"
        )
    rupees, hundredths = int(match[1].replace(",", "")), int((match[2] or "").ljust(2, "0"))
    return Money(currency_code="INR", units=rupees, nanos=hundredths * 10_000_000)


def read_rate(text: str) -> DecimalMessage:
    """Return a yearly rate in percent from text such as '10.5' or '10.5 %'. Raises UsageError."""
    match = _RATE.fullmatch(text.strip())
    if match is None:
        raise UsageError(f"{text!r} is not a yearly rate in percent: write for example 10.5")
    return DecimalMessage(value=match[1])
