"""Values of the contract as text for a person."""

import re
from typing import Any

from google.protobuf.descriptor import EnumDescriptor

from credit_service.rupees import RUPEE_PAISE, format_inr
from credit_service.v1 import as_of_pb2

_NANOS_PER_PAISA = 10_000_000


def paise(money: Any) -> int:
    """Return the paise of a google.type.Money. The service sends nothing finer."""
    # Units and nanos have the same sign, and both parts are cut towards 0.
    nanos = int(money.nanos)
    part = nanos // _NANOS_PER_PAISA if nanos >= 0 else -(-nanos // _NANOS_PER_PAISA)
    return int(money.units) * RUPEE_PAISE + part


def inr(money: Any) -> str:
    """Return a google.type.Money with two decimals: '₹8,884.88'."""
    return format_inr(paise(money))


def inr_short(money: Any) -> str:
    """Return a google.type.Money, without decimals if they are 0: '₹23,00,000', '₹8,884.88'."""
    return inr(money).removesuffix(".00")


def enum_name(value: Any, enum: Any) -> str:
    """Return the name of an enum value without the enum's prefix: 'APPROVED_LIMIT_EXCEEDED'.

    For a value of a later release, which this program does not know: 'UNKNOWN_7'.
    """
    return number_name(value, enum.DESCRIPTOR)


def number_name(value: int, enum: EnumDescriptor) -> str:
    """Return the name of a number of an enum like `enum_name`."""
    found = enum.values_by_number.get(value)
    if found is None:
        return f"UNKNOWN_{value}"
    prefix = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", enum.name).upper() + "_"
    return found.name.removeprefix(prefix)


def words(name: str) -> str:
    """Return an enum name as words: 'APPROVED_LIMIT_EXCEEDED' gives 'Approved limit exceeded'."""
    text = name.replace("_", " ").lower()
    for lower, upper in (("emi ", "EMI "), (" emi", " EMI")):
        text = text.replace(lower, upper)
    return text[:1].upper() + text[1:]


_UNKNOWN_FACTS = {
    as_of_pb2.UNKNOWN_FACT_IMPORTED_PAYMENTS: (
        "which EMIs of loans that were imported after the day were paid on time, and their "
        "arrears; the answer counts the EMIs that fell due first, and no arrears"
    ),
    as_of_pb2.UNKNOWN_FACT_CUSTOMER: (
        "income and limit, because the customer was stored after the day; the answer uses those "
        "that were stored first"
    ),
}


def unknown_fact(value: Any) -> str:
    """Return what is not known about an earlier day, as a part of a sentence."""
    return _UNKNOWN_FACTS.get(value) or words(enum_name(value, as_of_pb2.UnknownFact))
